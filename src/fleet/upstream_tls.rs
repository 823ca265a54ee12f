//! TLS towards the servers of an upstream.
//!
//! What is trusted and what is shown is there in two forms: as plain certificates and keys, for an
//! engine with a TLS client of its own, and as a configuration of rustls. A connection that was opened
//! with other trust must not be used again: [`Trust::group`] changes whenever anything of it does.

use std::fmt;
use std::sync::{Arc, OnceLock};

use tokio_rustls::rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use tokio_rustls::rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use tokio_rustls::rustls::{ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};

use super::certificates::label;
use super::files::{FromFiles, Recipe, hash};
use super::listener_tls::provider;
use crate::config::codes;
use crate::config::credentials::{Identity, Leaf, Part, Problem, authorities};
use crate::config::types;
use crate::telemetry::metrics::Metrics;

/// TLS towards the servers of an upstream.
#[derive(Debug)]
pub struct UpstreamTls(FromFiles<TrustFiles>);

/// What is trusted, and what is shown to servers that ask.
pub struct Trust {
    /// Authorities; `None` stands for the system's.
    pub ca: Option<Vec<CertificateDer<'static>>>,
    /// The certificate that is shown to servers, and its key.
    pub client: Option<ClientCertificate>,
    /// A number that is another one when anything here, the rules or the name is another.
    pub group: u64,
    /// All of this for rustls, with the ALPN of the upstream's version of HTTP.
    pub config: Arc<ClientConfig>,
}

/// A certificate that is shown to servers.
pub struct ClientCertificate {
    /// The certificate first, then those that lead to its authority.
    pub chain: Vec<CertificateDer<'static>>,
    /// Its key.
    pub key: PrivateKeyDer<'static>,
    leaf: Leaf,
}

impl UpstreamTls {
    /// Reads all files. `http2` is the upstream's version of HTTP.
    ///
    /// # Errors
    /// Which file cannot be used, why, and how to mend it.
    pub fn load(settings: types::UpstreamTls, http2: bool) -> Result<Self, String> {
        FromFiles::load(TrustFiles { settings, http2 }).map(Self)
    }

    /// Whether the servers' certificates are checked.
    pub fn verify(&self) -> bool {
        self.0.recipe().settings.verify
    }

    /// The name that is sent to a server and that its certificate must have; `host` is the URL's.
    pub fn name<'a>(&'a self, host: &'a str) -> &'a str {
        self.0.recipe().settings.server_name.as_deref().unwrap_or(host)
    }

    /// What is trusted and shown at present.
    pub fn trust(&self) -> Arc<Trust> {
        self.0.get()
    }

    /// Looks at the files and takes what changed.
    pub fn refresh(&self, metrics: &Metrics) {
        self.0.refresh(metrics);
    }

    /// What the certificate that is shown is called, and the last second of its validity since 1970.
    pub fn expiry(&self) -> Option<(String, i64)> {
        let file = self.0.recipe().settings.client_cert.as_deref()?;
        self.trust().client.as_ref().map(|client| (label(&client.leaf, file), client.leaf.not_after))
    }
}

struct TrustFiles {
    settings: types::UpstreamTls,
    http2: bool,
}

impl Recipe for TrustFiles {
    type Made = Trust;

    fn files(&self) -> Vec<(Part, &str)> {
        let types::UpstreamTls { ca, client_cert, client_key, .. } = &self.settings;
        let files = [(Part::Authority, ca), (Part::Certificate, client_cert), (Part::Key, client_key)];
        files.into_iter().filter_map(|(part, path)| Some((part, path.as_deref()?))).collect()
    }

    fn make(&self, contents: &[Vec<u8>]) -> Result<Trust, Problem> {
        let types::UpstreamTls { ca, server_name, verify, client_cert, .. } = &self.settings;
        let mut files = contents.iter();
        let mut next = |given: &Option<String>| given.as_ref().and_then(|_| files.next());
        let ca = next(ca).map(|pem| authorities(pem)).transpose()?;
        let client = match (next(client_cert), files.next()) {
            (Some(cert), Some(key)) => {
                let Identity { certified, key, leaf } = Identity::parse(cert, key)?;
                Some(ClientCertificate { chain: certified.cert, key, leaf })
            }
            _ => None,
        };
        let roots = match &ca {
            None => system_authorities(),
            Some(ca) => {
                let mut roots = RootCertStore::empty();
                roots.add_parsable_certificates(ca.iter().cloned());
                Arc::new(roots)
            }
        };
        let mut config = client_config(roots, client.as_ref(), *verify).map_err(|error| Problem {
            part: Part::Key,
            code: codes::PRIVATE_KEY,
            what: format!("cannot be used ({error})"),
            hint: "issue the certificate and its key again".to_owned(),
        })?;
        config.alpn_protocols = vec![if self.http2 { b"h2".to_vec() } else { b"http/1.1".to_vec() }];
        let rules = format!("{verify} {ca} {server_name:?}", ca = ca.is_some());
        let group = hash(&[rules.into_bytes(), hash(contents).to_vec()]);
        let group = group.iter().take(8).fold(0, |number, byte| number << 8 | u64::from(*byte));
        Ok(Trust { ca, client, group, config: Arc::new(config) })
    }
}

fn client_config(
    roots: Arc<RootCertStore>,
    client: Option<&ClientCertificate>,
    verify: bool,
) -> Result<ClientConfig, Error> {
    let provider = provider();
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider)).with_safe_default_protocol_versions()?;
    let builder = if verify {
        builder.with_root_certificates(roots)
    } else {
        builder.dangerous().with_custom_certificate_verifier(Arc::new(Unchecked(provider)))
    };
    match client {
        None => Ok(builder.with_no_client_auth()),
        Some(client) => builder.with_client_auth_cert(client.chain.clone(), client.key.clone_key()),
    }
}

/// The authorities that the system trusts, read once.
fn system_authorities() -> Arc<RootCertStore> {
    static ROOTS: OnceLock<Arc<RootCertStore>> = OnceLock::new();
    Arc::clone(ROOTS.get_or_init(|| {
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        if roots.is_empty() {
            tracing::warn!("this system has no certificate authorities: servers with `https://` need `tls.ca`");
        }
        Arc::new(roots)
    }))
}

/// Takes any certificate; that its key signed the handshake is still checked.
struct Unchecked(Arc<CryptoProvider>);

impl fmt::Debug for Unchecked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Unchecked")
    }
}

impl ServerCertVerifier for Unchecked {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, signature, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, signature, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
