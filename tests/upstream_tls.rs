//! TLS towards servers: whom a configuration trusts, what it shows, and that the running program's probes do both.

mod support;

use std::collections::HashMap;
use std::fs;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use arriero::config::types::{CertificateFiles, ListenerTls as Settings, MinVersion, UpstreamTls as Trusted};
use arriero::fleet::body_budget::BodyBudget;
use arriero::fleet::compile::{Surroundings, compile};
use arriero::fleet::listener_tls::ListenerTls;
use arriero::fleet::snapshot::Snapshot;
use arriero::fleet::store::Store;
use arriero::fleet::upstream_tls::UpstreamTls;
use arriero::telemetry::metrics::Metrics;
use arriero::{clock, config, probe};
use support::authority::{Authority, Issued};
use support::wire::proxy;
use support::{eventually, replace};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_rustls::{TlsAcceptor, TlsConnector};

struct Files(tempfile::TempDir);

impl Files {
    fn new() -> Self {
        Self(tempfile::tempdir().expect("a folder"))
    }

    fn path(&self, name: &str) -> String {
        self.0.path().join(name).display().to_string()
    }

    /// A server with this certificate, which asks for one of `clients` if there is any. Every connection is
    /// answered with one answer and closed.
    async fn server(&self, issued: &Issued, clients: Option<&Authority>) -> SocketAddr {
        issued.write(self.0.path(), "server");
        let client_ca = clients.map(|authority| {
            replace(&self.0.path().join("clients.pem"), authority.pem());
            self.path("clients.pem")
        });
        let files = CertificateFiles { cert: self.path("server.pem"), key: self.path("server.key"), ocsp: None };
        let settings =
            Settings { certificates: vec![files], min_version: MinVersion::Tls12, client_ca, client_auth: None };
        let tls = ListenerTls::load(&settings, clock::unix_seconds()).expect("it loads");
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
        let address = listener.local_addr().expect("an address");
        tokio::spawn(async move {
            while let Ok((tcp, _)) = listener.accept().await {
                let acceptor = TlsAcceptor::from(tls.server_config());
                tokio::spawn(async move {
                    let mut stream = acceptor.accept(tcp).await?;
                    stream.read_exact(&mut [0]).await?;
                    stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok").await?;
                    stream.shutdown().await
                });
            }
        });
        address
    }

    fn trusting(&self, authority: &Authority) -> Trusted {
        replace(&self.0.path().join("ca.pem"), authority.pem());
        Trusted { ca: Some(self.path("ca.pem")), ..Trusted::default() }
    }
}

/// One exchange, as an engine makes it with what an upstream has.
async fn ask(address: SocketAddr, tls: &UpstreamTls, host: &str) -> io::Result<String> {
    let name = ServerName::try_from(tls.name(host).to_owned()).expect("a name");
    let connector = TlsConnector::from(Arc::clone(&tls.trust().config));
    let mut stream = connector.connect(name, TcpStream::connect(address).await?).await?;
    stream.write_all(b"?").await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    Ok(answer)
}

fn load(settings: &Trusted) -> UpstreamTls {
    UpstreamTls::load(settings.clone(), false).expect("it loads")
}

#[tokio::test]
async fn a_server_must_have_the_name_and_the_authority() {
    let (files, authority) = (Files::new(), Authority::new("ca"));
    let address = files.server(&authority.issue(&["server.test", "127.0.0.1"]), None).await;
    let own = load(&files.trusting(&authority));
    ask(address, &own, "server.test").await.expect("name and authority");
    ask(address, &own, "127.0.0.1").await.expect("an address that the certificate has");
    let error = ask(address, &own, "127.0.0.2").await.expect_err("an address that it has not");
    assert!(error.to_string().contains("127.0.0.2"), "{error}");
    ask(address, &own, "other.test").await.expect_err("another name");
    let named = load(&Trusted { server_name: Some("server.test".to_owned()), ..files.trusting(&authority) });
    ask(address, &named, "10.0.0.1").await.expect("the name that the settings have");
    ask(address, &load(&Trusted::default()), "server.test").await.expect_err("no authority of the system");
    let foreign = load(&files.trusting(&Authority::new("foreign")));
    ask(address, &foreign, "server.test").await.expect_err("another authority");
    let unchecked = load(&Trusted { verify: false, ..Trusted::default() });
    ask(address, &unchecked, "other.test").await.expect("nothing is checked");
    assert!(own.verify() && !unchecked.verify());
}

#[tokio::test]
async fn a_server_that_signed_itself_is_trusted_by_its_own_certificate() {
    let files = Files::new();
    let key = rcgen::KeyPair::generate().expect("a key");
    let params = rcgen::CertificateParams::new(vec!["server.test".to_owned()]).expect("names");
    let own = params.self_signed(&key).expect("a certificate");
    let issued = Issued { der: own.der().clone(), cert: own.pem(), key: key.serialize_pem(), serial: Vec::new() };
    let address = files.server(&issued, None).await;
    let trusting = Trusted { ca: Some(files.path("server.pem")), ..Trusted::default() };
    ask(address, &load(&trusting), "server.test").await.expect("it is its own authority");
    ask(address, &load(&trusting), "other.test").await.expect_err("another name");
}

#[tokio::test]
async fn a_certificate_is_shown_to_servers_that_ask() {
    let (files, authority, clients) = (Files::new(), Authority::new("ca"), Authority::new("clients"));
    let address = files.server(&authority.issue(&["server.test"]), Some(&clients)).await;
    let trusting = files.trusting(&authority);
    ask(address, &load(&trusting), "server.test").await.expect_err("no certificate");
    clients.issue(&["proxy"]).write(files.0.path(), "own");
    let settings =
        Trusted { client_cert: Some(files.path("own.pem")), client_key: Some(files.path("own.key")), ..trusting };
    let tls = load(&settings);
    ask(address, &tls, "server.test").await.expect("the right certificate");
    assert_eq!(tls.expiry().map(|(name, _)| name).as_deref(), Some("proxy"));
    let trust = tls.trust();
    let shown = trust.client.as_ref().expect("a certificate");
    assert_eq!((shown.chain.len(), trust.ca.as_ref().map(Vec::len)), (1, Some(1)));
    assert!(!shown.key.secret_der().is_empty());
}

#[tokio::test]
async fn renewed_files_are_taken_and_connections_with_other_trust_are_kept_apart() {
    let (files, authority) = (Files::new(), Authority::new("ca"));
    let address = files.server(&authority.issue(&["server.test"]), None).await;
    let settings = files.trusting(&Authority::new("before"));
    let (tls, metrics) = (load(&settings), Metrics::default());
    ask(address, &tls, "server.test").await.expect_err("not yet");
    let before = tls.trust().group;
    tls.refresh(&metrics);
    assert_eq!(tls.trust().group, before);
    replace(&files.0.path().join("ca.pem"), authority.pem());
    tls.refresh(&metrics);
    ask(address, &tls, "server.test").await.expect("trusted now");
    let group = |settings: Trusted| load(&settings).trust().group;
    let named = |name: &str| Trusted { server_name: Some(name.to_owned()), ..settings.clone() };
    let groups = [
        before,
        group(settings.clone()),
        group(Trusted::default()),
        group(Trusted { verify: false, ..settings.clone() }),
        group(named("a.test")),
        group(named("b.test")),
    ];
    assert_eq!(std::collections::HashSet::from(groups).len(), groups.len(), "{groups:?}");
    assert_eq!(tls.trust().group, group(settings.clone()), "the same trust is the same group");
    replace(&files.0.path().join("ca.pem"), "nothing");
    tls.refresh(&metrics);
    ask(address, &tls, "server.test").await.expect("the file before stays in force");
}

fn yaml(url: &str, tls: &str, more: &str) -> String {
    format!(
        "version: 1\n{more}routes: [{{ name: all, upstream: fleet }}]\nupstreams:\n  fleet:\n    kind: http\n    {tls}\n    \
         servers: [{{ url: \"{url}\" }}]\n    health: {{ active: {{ interval: 100ms, timeout: 90ms, unhealthy: 1 }} }}\n"
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn probes_trust_what_the_upstream_trusts() {
    let (files, authority) = (Files::new(), Authority::new("ca"));
    let address = files.server(&authority.issue(&["127.0.0.1"]), None).await;
    files.trusting(&authority);
    let url = format!("https://{address}");
    let proxy = proxy(&yaml(&url, "", "")).await;
    let up = format!("arriero_server_up{{upstream=\"fleet\",server=\"{address}\"}}");
    let is = async |value: f64| eventually("health", || async { (proxy.metric(&up).await - value).abs() < 0.1 }).await;
    is(0.0).await;
    proxy.rewrite(&yaml(&url, &format!("tls: {{ ca: {} }}", files.path("ca.pem")), ""));
    is(1.0).await;
}

fn snapshot(text: &str, metrics: &Arc<Metrics>) -> Snapshot {
    let loaded = config::parse("tls", text, &|_| None).unwrap_or_else(|found| panic!("{}", found.render(false)));
    let around = Surroundings { servers: HashMap::new(), metrics, now: clock::now(), unix_time: 0.0 };
    compile(&loaded.config, loaded.hash, &around).expect("it compiles")
}

fn listener(files: &Files, more: &str) -> String {
    let (cert, key) = (files.path("server.pem"), files.path("server.key"));
    format!(
        "listeners: [{{ address: \"127.0.0.1:0\", tls: {{ certificates: [{{ cert: {cert}, key: {key} }}]{more} }} }}]\n"
    )
}

#[test]
fn a_reload_keeps_the_sessions_of_a_listener_that_did_not_change() {
    let (files, metrics) = (Files::new(), Arc::new(Metrics::default()));
    Authority::new("ca").issue(&["a.test"]).write(files.0.path(), "server");
    let next = |url: &str, more: &str| snapshot(&yaml(url, "", &listener(&files, more)), &metrics);
    let store = Store::new(next("http://127.0.0.1:1", ""), Arc::new(BodyBudget::default()));
    let in_force = || store.load().listeners[0].tls.as_ref().expect("TLS").server_config();
    let before = in_force();
    store.publish(next("http://127.0.0.1:2", ""));
    assert!(Arc::ptr_eq(&before, &in_force()));
    store.publish(next("http://127.0.0.1:2", ", min_version: \"1.3\""));
    assert!(!Arc::ptr_eq(&before, &in_force()));
}

#[tokio::test]
async fn the_watch_takes_renewed_certificates_by_itself() {
    let (files, metrics, authority) = (Files::new(), Arc::new(Metrics::default()), Authority::new("ca"));
    authority.issue(&["before.test"]).write(files.0.path(), "server");
    let first = snapshot(&yaml("http://127.0.0.1:1", "", &listener(&files, "")), &metrics);
    let store = Arc::new(Store::new(first, Arc::new(BodyBudget::default())));
    tokio::spawn(probe::watch_certificates(Arc::clone(&store), metrics));
    authority.issue(&["after.test"]).write(files.0.path(), "server");
    let renewed = || store.load().certificate_expiries().contains_key("after.test");
    eventually("it is renewed", || async { renewed() }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reload_takes_renewed_certificates_at_once_and_is_not_disturbed_by_broken_ones() {
    let (files, authority) = (Files::new(), Authority::new("ca"));
    authority.issue(&["before.test"]).write(files.0.path(), "server");
    let proxy = proxy(&yaml("http://127.0.0.1:1", "", &listener(&files, ""))).await;
    let ends = async |name: &str| proxy.metric(&format!("arriero_certificate_expiry_seconds{{name=\"{name}\"}}")).await;
    assert!(ends("before.test").await > 60e9);
    authority.issue(&["after.test"]).write(files.0.path(), "server");
    proxy.running().reloader.reload("test").expect("unchanged");
    assert!(ends("after.test").await > 60e9 && ends("before.test").await == 0.0);
    fs::remove_file(files.path("server.key")).expect("removed");
    proxy.running().reloader.reload("test").expect("the configuration itself did not change");
    assert!(ends("after.test").await > 60e9);
}
