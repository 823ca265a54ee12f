//! What a certificate says: names, validity, number, whose key it is.

use std::fmt::Write;

use tokio_rustls::rustls::pki_types::CertificateDer;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer;

/// Longest subject that is told, in bytes.
const MAX_SUBJECT: usize = 512;

/// What the certificate of a server or client says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leaf {
    /// DNS names that it is for, in small letters; `*.example.com` stands for one label in front.
    pub names: Vec<String>,
    /// First second of its validity, since 1970.
    pub not_before: i64,
    /// Last second of its validity, since 1970.
    pub not_after: i64,
    /// Its number at its authority.
    pub serial: Vec<u8>,
    /// Its public key as the certificate has it (SubjectPublicKeyInfo, DER).
    pub public_key: Vec<u8>,
}

impl Leaf {
    /// Takes a certificate apart; `None` when it is not one.
    #[must_use]
    pub fn parse(der: &CertificateDer<'_>) -> Option<Self> {
        let (rest, certificate) = X509Certificate::from_der(der).ok()?;
        if !rest.is_empty() {
            return None;
        }
        let names = certificate.subject_alternative_name().ok()?;
        let names = names.iter().flat_map(|extension| &extension.value.general_names);
        let names = names.filter_map(|name| match name {
            GeneralName::DNSName(name) => Some(name.to_ascii_lowercase()),
            _ => None,
        });
        Some(Self {
            names: names.collect(),
            not_before: certificate.validity().not_before.timestamp(),
            not_after: certificate.validity().not_after.timestamp(),
            serial: certificate.raw_serial().to_vec(),
            public_key: certificate.public_key().raw.to_vec(),
        })
    }

    /// Why it is not valid at `now`, in seconds since 1970; `None` when it is.
    #[must_use]
    pub fn invalid_at(&self, now: i64) -> Option<String> {
        if now > self.not_after {
            Some(format!("expired on {}", day(self.not_after)))
        } else if now < self.not_before {
            Some(format!("is not valid before {}", day(self.not_before)))
        } else {
            None
        }
    }
}

/// A point in time as people read it.
fn day(seconds: i64) -> String {
    time::OffsetDateTime::from_unix_timestamp(seconds).map_or_else(|_| seconds.to_string(), |time| time.to_string())
}

/// The subject of a certificate for logs and header fields, such as `C=DE, CN=alice`: visible ASCII
/// only, other bytes as `%XX`, at most 512 bytes. `None` when it is not a certificate.
#[must_use]
pub fn subject(der: &CertificateDer<'_>) -> Option<String> {
    let (_, certificate) = X509Certificate::from_der(der).ok()?;
    let mut safe = String::new();
    for byte in certificate.subject().to_string().bytes() {
        if safe.len() + 3 > MAX_SUBJECT {
            break;
        }
        if (b' '..=b'~').contains(&byte) && byte != b'%' {
            safe.push(char::from(byte));
        } else {
            // Writing to a String cannot fail.
            let _ = write!(safe, "%{byte:02X}");
        }
    }
    Some(safe)
}
