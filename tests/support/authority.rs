//! A certificate authority for tests, and clients that trust it.

use std::path::Path;
use std::sync::Arc;

use rcgen::{
    BasicConstraints, CertificateParams, DnType, Issuer, KeyPair, PKCS_ECDSA_P256_SHA256, SerialNumber,
    SignatureAlgorithm,
};
use tokio_rustls::rustls::crypto::ring::default_provider;
use tokio_rustls::rustls::pki_types::CertificateDer;
use tokio_rustls::rustls::{ClientConfig, RootCertStore, SupportedProtocolVersion};

/// A certificate authority.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
    der: CertificateDer<'static>,
}

/// A certificate that it issued.
pub struct Issued {
    /// The certificate.
    pub der: CertificateDer<'static>,
    /// The certificate in PEM.
    pub cert: String,
    /// Its key in PEM.
    pub key: String,
    /// Its number.
    pub serial: Vec<u8>,
}

impl Authority {
    /// A new one.
    pub fn new(name: &str) -> Self {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::new(Vec::new()).expect("no names");
        params.is_ca = rcgen::IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, name);
        let own = params.self_signed(&key).expect("a certificate");
        Self { pem: own.pem(), der: own.der().clone(), issuer: Issuer::new(params, key) }
    }

    /// Its own certificate in PEM.
    pub fn pem(&self) -> &str {
        &self.pem
    }

    /// A certificate for these names and addresses.
    pub fn issue(&self, names: &[&str]) -> Issued {
        self.issue_for(names, &PKCS_ECDSA_P256_SHA256)
    }

    /// The same with an end: so many days from now, or before now.
    pub fn issue_until(&self, names: &[&str], days: i64) -> Issued {
        self.make(names, &PKCS_ECDSA_P256_SHA256, Some(days))
    }

    /// The same with another kind of key. The first name is also the subject's.
    pub fn issue_for(&self, names: &[&str], kind: &'static SignatureAlgorithm) -> Issued {
        self.make(names, kind, None)
    }

    fn make(&self, names: &[&str], kind: &'static SignatureAlgorithm, days: Option<i64>) -> Issued {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = CertificateParams::new(names.clone()).expect("names");
        if let Some(days) = days {
            let end = arriero::clock::unix_seconds() + days * 86_400;
            params.not_after = time::OffsetDateTime::from_unix_timestamp(end).expect("a time");
        }
        params.distinguished_name.push(DnType::CommonName, names.first().map_or("nobody", String::as_str));
        let key = KeyPair::generate_for(kind).expect("a key");
        // A number of its own, positive and without a zero in front.
        let serial: Vec<u8> = [&[0x55], &key.public_key_raw()[8..16]].concat();
        params.serial_number = Some(SerialNumber::from_slice(&serial));
        let cert = params.signed_by(&key, &self.issuer).expect("a certificate");
        Issued { der: cert.der().clone(), cert: cert.pem(), key: key.serialize_pem(), serial }
    }

    /// What trusts it.
    pub fn roots(&self) -> RootCertStore {
        let mut roots = RootCertStore::empty();
        roots.add(self.der.clone()).expect("an authority");
        roots
    }

    /// A client that trusts it, speaks these versions and shows a certificate.
    pub fn client(&self, versions: &[&'static SupportedProtocolVersion], own: Option<&Issued>) -> ClientConfig {
        let builder = ClientConfig::builder_with_provider(Arc::new(default_provider()))
            .with_protocol_versions(versions)
            .expect("versions")
            .with_root_certificates(self.roots());
        match own {
            None => builder.with_no_client_auth(),
            Some(own) => {
                let key = tokio_rustls::rustls::pki_types::pem::PemObject::from_pem_slice(own.key.as_bytes());
                builder.with_client_auth_cert(vec![own.der.clone()], key.expect("a key")).expect("a pair")
            }
        }
    }
}

impl Issued {
    /// Writes `NAME.pem` and `NAME.key`, as renewing programs do: one after the other.
    pub fn write(&self, folder: &Path, name: &str) {
        super::replace(&folder.join(format!("{name}.pem")), &self.cert);
        super::replace(&folder.join(format!("{name}.key")), &self.key);
    }

    /// An OCSP response that calls it good, until a time such as `21000101000000Z`. Its signature is empty.
    pub fn staple(&self, until: &str) -> Vec<u8> {
        let sha1 = tlv(0x30, &[tlv(0x06, &[&[0x2b, 14, 3, 2, 26]])]);
        let id = tlv(0x30, &[sha1.clone(), tlv(4, &[&[1; 20]]), tlv(4, &[&[2; 20]]), tlv(2, &[&self.serial])]);
        let next = tlv(0xa0, &[tlv(0x18, &[until])]);
        let single = tlv(0x30, &[id, vec![0x80, 0], tlv(0x18, &["20200101000000Z"]), next]);
        let responder = tlv(0xa1, &[tlv(0x30, &[&[]])]);
        let signed = tlv(0x30, &[responder, tlv(0x18, &["20200101000000Z"]), tlv(0x30, &[single])]);
        let basic = tlv(0x30, &[signed, sha1, vec![3, 1, 0]]);
        let kind = tlv(0x06, &[&[0x2b, 6, 1, 5, 5, 7, 48, 1, 1]]);
        let bytes = tlv(0xa0, &[tlv(0x30, &[kind, tlv(4, &[basic])])]);
        tlv(0x30, &[vec![0x0a, 1, 0], bytes])
    }
}

/// One value in DER.
fn tlv<T: AsRef<[u8]>>(tag: u8, parts: &[T]) -> Vec<u8> {
    let content: Vec<u8> = parts.iter().flat_map(|part| part.as_ref()).copied().collect();
    let length = u16::try_from(content.len()).expect("short").to_be_bytes();
    [&[tag, 0x82], length.as_slice(), &content].concat()
}
