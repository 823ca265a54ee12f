//! Keys that name certificates, which the proofs make first.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use arriero::config;
use arriero::fleet::snapshot::Snapshot;
use arriero::fleet::upstream_tls::UpstreamTls;
use futures_util::FutureExt;
use serde_json::Value;
use tokio_rustls::rustls::ClientConfig;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::version::{TLS12, TLS13};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use crate::looks::{fleet, text};
use crate::support::authority::Authority;
use crate::{Proof, base, compiled, folder, set};

/// The proof of each.
pub const TLS: &[(&str, Proof)] = &[
    ("listeners[].tls.certificates[].cert", || listener_certificates().boxed()),
    ("listeners[].tls.certificates[].key", || listener_certificates().boxed()),
    ("listeners[].tls.certificates[].ocsp", || listener_staple().boxed()),
    ("listeners[].tls.min_version", || listener_versions().boxed()),
    ("listeners[].tls.client_ca", || listener_clients().boxed()),
    ("listeners[].tls.client_auth", || listener_clients().boxed()),
    ("upstreams.*.tls.ca", || upstream_trust().boxed()),
    ("upstreams.*.tls.server_name", || upstream_trust().boxed()),
    ("upstreams.*.tls.verify", || upstream_trust().boxed()),
    ("upstreams.*.tls.client_cert", || upstream_client().boxed()),
    ("upstreams.*.tls.client_key", || upstream_client().boxed()),
    ("cluster.tls.ca", || redis().boxed()),
    ("cluster.tls.server_name", || redis().boxed()),
    ("cluster.tls.verify", || redis().boxed()),
    ("cluster.tls.client_cert", || redis().boxed()),
    ("cluster.tls.client_key", || redis().boxed()),
    ("telemetry.tracing.tls.ca", || collector().boxed()),
    ("telemetry.tracing.tls.server_name", || collector().boxed()),
    ("telemetry.tracing.tls.verify", || collector().boxed()),
    ("telemetry.tracing.tls.client_cert", || collector().boxed()),
    ("telemetry.tracing.tls.client_key", || collector().boxed()),
];

/// A folder with the files of a certificate for `a.test`, whose authority's is `ca.pem`.
fn certificate() -> (tempfile::TempDir, Authority) {
    let (folder, authority) = (folder(), Authority::new("ca"));
    authority.issue(&["a.test"]).write(folder.path(), "a");
    fs::write(folder.path().join("ca.pem"), authority.pem()).expect("written");
    (folder, authority)
}

/// The good configuration with settings of TLS; `@` stands for the folder.
fn with_tls(folder: &Path, key: &str, tls: &str) -> Value {
    let mut config = base("https://127.0.0.1:9");
    let tls = tls.replace('@', &folder.display().to_string());
    set(&mut config, key, serde_json::from_str(&tls).expect("JSON"));
    config
}

/// What a collector is shown and whom it is believed.
async fn collector() {
    of_a_client("telemetry.tracing.tls", |snapshot| {
        snapshot.tracing.as_ref().and_then(|tracing| tracing.collector.tls.as_ref())
    });
}

/// What Redis is shown and whom it is believed.
async fn redis() {
    of_a_client("cluster.tls", |snapshot| snapshot.cluster.as_ref().and_then(|cluster| cluster.tls.as_ref()));
}

/// The settings of a connection of ours, without each key and with it.
fn of_a_client(key: &str, tls_of: impl Fn(&Snapshot) -> Option<&UpstreamTls>) {
    let (folder, _authority) = certificate();
    let seen = |tls: &str| {
        let snapshot = compiled(&with_tls(folder.path(), key, tls));
        let tls = tls_of(&snapshot).expect("TLS");
        let trust = tls.trust();
        (trust.ca.is_some(), tls.name("url").to_owned(), tls.verify(), trust.client.is_some())
    };
    let shown = r#"{ "client_cert": "@/a.pem", "client_key": "@/a.key" }"#;
    assert_eq!(seen("{}"), (false, "url".to_owned(), true, false));
    assert_eq!(seen(r#"{ "ca": "@/ca.pem" }"#), (true, "url".to_owned(), true, false));
    assert_eq!(seen(r#"{ "server_name": "b.test" }"#), (false, "b.test".to_owned(), true, false));
    assert_eq!(seen(r#"{ "verify": false }"#), (false, "url".to_owned(), false, false));
    assert_eq!(seen(shown), (false, "url".to_owned(), true, true));
}

/// A handshake of a client with a listener of these settings, both ends of it.
async fn handshake(folder: &Path, more: &str, client: ClientConfig) -> std::io::Result<Vec<u8>> {
    let tls = format!("{{ \"certificates\": [{{ \"cert\": \"@/a.pem\", \"key\": \"@/a.key\" }}]{more} }}");
    let snapshot = compiled(&with_tls(folder, "listeners[].tls", &tls));
    let server = snapshot.listeners[0].tls.as_ref().expect("TLS").server_config();
    let (near, far) = tokio::io::duplex(1 << 16);
    let name = "a.test".try_into().expect("a name");
    let connecting = TlsConnector::from(Arc::new(client)).connect(name, near);
    let (connected, accepted) = tokio::join!(connecting, TlsAcceptor::from(server).accept(far));
    accepted?;
    Ok(connected?.get_ref().1.peer_certificates().expect("a certificate")[0].to_vec())
}

async fn listener_certificates() {
    let (folder, authority) = certificate();
    let shown = handshake(folder.path(), "", authority.client(&[&TLS13], None)).await.expect("a handshake");
    let written = fs::read_to_string(folder.path().join("a.pem")).expect("a file");
    let der: CertificateDer<'_> = PemObject::from_pem_slice(written.as_bytes()).expect("PEM");
    assert_eq!(shown, der.to_vec());
    let other = authority.issue(&["a.test"]);
    fs::write(folder.path().join("a.key"), &other.key).expect("written");
    let tls = "{ \"certificates\": [{ \"cert\": \"@/a.pem\", \"key\": \"@/a.key\" }] }";
    let config = with_tls(folder.path(), "listeners[].tls", tls);
    config::parse("keys", &config.to_string(), &|_| None).expect_err("another certificate's key");
}

async fn listener_staple() {
    let (folder, authority) = certificate();
    let issued = authority.issue(&["a.test"]);
    issued.write(folder.path(), "a");
    let tls = "{ \"certificates\": [{ \"cert\": \"@/a.pem\", \"key\": \"@/a.key\", \"ocsp\": \"@/a.ocsp\" }] }";
    let config = with_tls(folder.path(), "listeners[].tls", tls).to_string();
    for (until, held_back) in [("20990101000000Z", false), ("20250101000000Z", true)] {
        fs::write(folder.path().join("a.ocsp"), issued.staple(until)).expect("written");
        let loaded = config::parse("keys", &config, &|_| None).expect("it loads");
        assert_eq!(loaded.warnings.iter().any(|warning| warning.code == "W022"), held_back, "{until}");
    }
}

async fn listener_versions() {
    let (folder, authority) = certificate();
    let old = || authority.client(&[&TLS12], None);
    handshake(folder.path(), "", old()).await.expect("1.2");
    handshake(folder.path(), ", \"min_version\": \"1.3\"", old()).await.expect_err("1.2");
}

async fn listener_clients() {
    let (folder, authority) = certificate();
    let nobody = || authority.client(&[&TLS13], None);
    handshake(folder.path(), ", \"client_ca\": \"@/ca.pem\"", nobody()).await.expect_err("no certificate");
    let optional = ", \"client_ca\": \"@/ca.pem\", \"client_auth\": \"optional\"";
    handshake(folder.path(), optional, nobody()).await.expect("none is needed");
}

async fn upstream_trust() {
    let (folder, _) = certificate();
    let look = |tls: &str| {
        let snapshot = compiled(&with_tls(folder.path(), "upstreams.*.tls", tls));
        let tls = fleet(&snapshot).tls.as_ref().expect("TLS");
        text((tls.trust().ca.as_ref().map(Vec::len), tls.name("url.test"), tls.verify()))
    };
    assert_eq!(look("{}"), "(None, \"url.test\", true)");
    let all = "{ \"ca\": \"@/ca.pem\", \"server_name\": \"a.test\", \"verify\": false }";
    assert_eq!(look(all), "(Some(1), \"a.test\", false)");
}

async fn upstream_client() {
    let (folder, _) = certificate();
    let tls = "{ \"client_cert\": \"@/a.pem\", \"client_key\": \"@/a.key\" }";
    let snapshot = compiled(&with_tls(folder.path(), "upstreams.*.tls", tls));
    let trust = fleet(&snapshot).tls.as_ref().expect("TLS").trust();
    let client = trust.client.as_ref().expect("a certificate");
    let written = fs::read(folder.path().join("a.key")).expect("a file");
    let key: PrivateKeyDer<'_> = PemObject::from_pem_slice(&written).expect("PEM");
    assert_eq!((client.chain.len(), client.key.secret_der()), (1, key.secret_der()));
}
