//! TLS of a listener: from its settings to what a handshake needs.
//!
//! The configuration of handshakes holds the keys of session tickets and the sessions of clients that
//! have no tickets, so it is kept over reloads as long as the settings are the same: clients go on with
//! shorter handshakes. Certificates are swapped inside of it. Only other authorities for client
//! certificates make a new one: a session that an authority vouched for ends with the trust in it.

use std::fmt;
use std::sync::Arc;

use arc_swap::ArcSwap;
use tokio_rustls::rustls::crypto::{CryptoProvider, ring};
use tokio_rustls::rustls::pki_types::CertificateDer;
use tokio_rustls::rustls::server::danger::ClientCertVerifier;
use tokio_rustls::rustls::server::{ServerSessionMemoryCache, WebPkiClientVerifier};
use tokio_rustls::rustls::version::{TLS12, TLS13};
use tokio_rustls::rustls::{RootCertStore, ServerConfig, SupportedProtocolVersion};

use super::certificates::Certificates;
use super::files::{FromFiles, Look, Recipe};
use crate::config::credentials::{Part, Problem, authorities};
use crate::config::types::{self, ClientAuth, MinVersion};
use crate::telemetry::metrics::Metrics;

/// Sessions that are kept for clients without tickets.
const SESSIONS: usize = 1024;

/// TLS of a listener.
pub struct ListenerTls {
    settings: types::ListenerTls,
    certificates: Arc<Certificates>,
    client_ca: Option<FromFiles<AuthorityFile>>,
    config: ArcSwap<ServerConfig>,
}

impl ListenerTls {
    /// Reads all files; `now` is in seconds since 1970.
    ///
    /// # Errors
    /// Which file cannot be used, why, and how to mend it.
    pub fn load(settings: &types::ListenerTls, now: i64) -> Result<Self, String> {
        let certificates = Arc::new(Certificates::load(&settings.certificates, now)?);
        let file = settings.client_ca.as_ref().filter(|_| settings.client_auth() != ClientAuth::Off);
        let client_ca = file.map(|file| FromFiles::load(AuthorityFile(file.clone()))).transpose()?;
        let config = build(settings, &certificates, client_ca.as_ref())?;
        Ok(Self { settings: settings.clone(), certificates, client_ca, config: ArcSwap::from_pointee(config) })
    }

    /// What the next handshake needs, for `TlsAcceptor::from`.
    pub fn server_config(&self) -> Arc<ServerConfig> {
        self.config.load_full()
    }

    /// Whether the files and rules are the same.
    pub fn same_settings(&self, other: &Self) -> bool {
        self.settings == other.settings
    }

    /// Looks at the files and takes what changed; `now` is in seconds since 1970.
    pub fn refresh(&self, now: i64, metrics: &Metrics) {
        self.certificates.refresh(now, metrics);
        let Some(client_ca) = self.client_ca.as_ref() else { return };
        if client_ca.refresh(metrics) == Look::Taken {
            match build(&self.settings, &self.certificates, Some(client_ca)) {
                Ok(config) => self.config.store(Arc::new(config)),
                Err(error) => tracing::error!(error, "the authorities before stay in force"),
            }
        }
    }

    /// What each certificate is called, and the last second of its validity since 1970.
    pub fn expiries(&self) -> Vec<(String, i64)> {
        self.certificates.expiries()
    }
}

impl fmt::Debug for ListenerTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.settings.fmt(f)
    }
}

/// A bundle of authorities.
struct AuthorityFile(String);

impl Recipe for AuthorityFile {
    type Made = Vec<CertificateDer<'static>>;

    fn files(&self) -> Vec<(Part, &str)> {
        vec![(Part::Authority, &self.0)]
    }

    fn make(&self, contents: &[Vec<u8>]) -> Result<Self::Made, Problem> {
        authorities(contents.first().map_or(&[], Vec::as_slice))
    }
}

/// The cryptography of all handshakes: TLS 1.3, and of 1.2 only AEAD ciphers with forward secrecy.
pub fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}

fn build(
    settings: &types::ListenerTls,
    certificates: &Arc<Certificates>,
    client_ca: Option<&FromFiles<AuthorityFile>>,
) -> Result<ServerConfig, String> {
    let versions: &[&SupportedProtocolVersion] = match settings.min_version {
        MinVersion::Tls12 => &[&TLS13, &TLS12],
        MinVersion::Tls13 => &[&TLS13],
    };
    let verifier = match client_ca {
        None => WebPkiClientVerifier::no_client_auth(),
        Some(file) => client_verifier(file, settings.client_auth())?,
    };
    let builder = ServerConfig::builder_with_provider(provider()).with_protocol_versions(versions);
    let builder = builder.map_err(|error| error.to_string())?.with_client_cert_verifier(verifier);
    let mut config = builder.with_cert_resolver(Arc::clone(certificates) as _);
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    // The keys of tickets change by themselves.
    config.ticketer = ring::Ticketer::new().map_err(|error| error.to_string())?;
    config.session_storage = ServerSessionMemoryCache::new(SESSIONS);
    // Early data can be sent again by anybody who saw it.
    config.max_early_data_size = 0;
    Ok(config)
}

fn client_verifier(file: &FromFiles<AuthorityFile>, auth: ClientAuth) -> Result<Arc<dyn ClientCertVerifier>, String> {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(file.get().iter().cloned());
    let mut builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider());
    if auth == ClientAuth::Optional {
        builder = builder.allow_unauthenticated();
    }
    builder.build().map_err(|error| format!("`{}`: {error}", file.name()))
}
