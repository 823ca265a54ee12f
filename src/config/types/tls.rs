//! The blocks `tls`: of a listener towards clients, of an upstream towards its servers.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// TLS towards clients. Files are read again when they change.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ListenerTls {
    /// Certificates with their keys. The client's name (SNI) picks one; the first is for all other names.
    pub certificates: Vec<CertificateFiles>,
    /// The oldest version that is spoken.
    #[serde(default)]
    pub min_version: MinVersion,
    /// PEM file with the authorities that client certificates must come from.
    pub client_ca: Option<String>,
    /// Whether clients must show a certificate. `required` when `client_ca` is given, else `off`.
    pub client_auth: Option<ClientAuth>,
}

impl ListenerTls {
    /// Whether clients must show a certificate, the default resolved.
    #[must_use]
    pub fn client_auth(&self) -> ClientAuth {
        let default = if self.client_ca.is_some() { ClientAuth::Required } else { ClientAuth::Off };
        self.client_auth.unwrap_or(default)
    }
}

/// A certificate with its key.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CertificateFiles {
    /// PEM file with the certificate and, after it, those that lead to its authority (`fullchain.pem`).
    pub cert: String,
    /// PEM file with its private key, not encrypted.
    pub key: String,
    /// DER file with an OCSP response for it, sent to clients as long as it is good.
    pub ocsp: Option<String>,
}

/// The oldest version of TLS that is spoken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
pub enum MinVersion {
    /// TLS 1.2 (with AEAD ciphers and forward secrecy only) and 1.3.
    #[default]
    #[serde(rename = "1.2")]
    Tls12,
    /// TLS 1.3 only.
    #[serde(rename = "1.3")]
    Tls13,
}

/// Whether clients must show a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ClientAuth {
    /// They are not asked.
    Off,
    /// They are asked; without one they may go on, with a foreign one they may not.
    Optional,
    /// Without a good one there is no connection.
    Required,
}

/// TLS towards servers. Files are read again when they change.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct UpstreamTls {
    /// PEM file with the authorities to trust instead of the system's.
    pub ca: Option<String>,
    /// Name that is sent to the servers (SNI) and that their certificates must have, instead of the URL's host.
    pub server_name: Option<String>,
    /// Check the servers' certificates. `false` lets anybody in between read and change everything.
    pub verify: bool,
    /// PEM file with the certificate that is shown to the servers, if they ask.
    pub client_cert: Option<String>,
    /// PEM file with its private key, not encrypted.
    pub client_key: Option<String>,
}

impl Default for UpstreamTls {
    fn default() -> Self {
        Self { ca: None, server_name: None, verify: true, client_cert: None, client_key: None }
    }
}
