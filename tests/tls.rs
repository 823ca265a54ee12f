//! Real handshakes with what a listener's `tls` block makes: who gets which certificate, what is refused, and
//! that renewing files disturbs nobody.

mod support;

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use arriero::clock;
use arriero::config::credentials;
use arriero::config::types::{CertificateFiles, ClientAuth, ListenerTls as Settings, MinVersion};
use arriero::fleet::listener_tls::ListenerTls;
use arriero::telemetry::metrics::Metrics;
use support::authority::{Authority, Issued};
use support::tls::{ANY, Witness};
use support::{eventually, replace};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::pki_types::CertificateDer;
use tokio_rustls::rustls::version::{TLS12, TLS13};
use tokio_rustls::rustls::{ClientConfig, HandshakeKind, ProtocolVersion, SupportedProtocolVersion};

const BOTH: &[&SupportedProtocolVersion] = &[&TLS12, &TLS13];

/// A folder with certificates, and what is to be made of them.
struct Setup {
    folder: tempfile::TempDir,
    settings: Settings,
}

impl Setup {
    fn new() -> Self {
        let settings =
            Settings { certificates: Vec::new(), min_version: MinVersion::Tls12, client_ca: None, client_auth: None };
        Self { folder: tempfile::tempdir().expect("a folder"), settings }
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }

    fn file(&self, name: &str) -> String {
        self.path().join(name).display().to_string()
    }

    /// Adds a certificate in files of this name.
    fn with(mut self, name: &str, issued: &Issued) -> Self {
        issued.write(self.path(), name);
        let (cert, key) = (self.file(&format!("{name}.pem")), self.file(&format!("{name}.key")));
        self.settings.certificates.push(CertificateFiles { cert, key, ocsp: None });
        self
    }

    fn clients(mut self, authority: &Authority, auth: Option<ClientAuth>) -> Self {
        replace(&self.path().join("clients.pem"), authority.pem());
        self.settings.client_ca = Some(self.file("clients.pem"));
        self.settings.client_auth = auth;
        self
    }

    fn load(&self) -> Arc<ListenerTls> {
        Arc::new(ListenerTls::load(&self.settings, clock::unix_seconds()).expect("it loads"))
    }
}

/// Accepts connections; each is told the subject of its certificate and closed.
async fn serve(tls: &Arc<ListenerTls>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
    let address = listener.local_addr().expect("an address");
    let tls = Arc::clone(tls);
    tokio::spawn(async move {
        while let Ok((tcp, _)) = listener.accept().await {
            let acceptor = TlsAcceptor::from(tls.server_config());
            tokio::spawn(async move {
                let mut stream = acceptor.accept(tcp).await?;
                let shown =
                    stream.get_ref().1.peer_certificates().and_then(|chain| credentials::subject(chain.first()?));
                stream.write_all(shown.unwrap_or_else(|| "nobody".to_owned()).as_bytes()).await?;
                stream.shutdown().await
            });
        }
    });
    address
}

/// What a client saw.
#[derive(Debug)]
struct Seen {
    certificate: CertificateDer<'static>,
    alpn: Option<Vec<u8>>,
    kind: HandshakeKind,
    version: ProtocolVersion,
    /// The subject that the server read in the client's certificate.
    subject: String,
}

async fn connect(address: SocketAddr, config: &Arc<ClientConfig>, name: &str) -> io::Result<Seen> {
    let mut stream = support::tls::connect(address, config, name).await?;
    let mut subject = String::new();
    stream.read_to_string(&mut subject).await?;
    let connection = stream.get_ref().1;
    Ok(Seen {
        certificate: connection.peer_certificates().expect("a certificate")[0].clone(),
        alpn: connection.alpn_protocol().map(<[u8]>::to_vec),
        kind: connection.handshake_kind().expect("a handshake"),
        version: connection.protocol_version().expect("a version"),
        subject,
    })
}

#[tokio::test]
async fn the_clients_name_picks_the_certificate() {
    let authority = Authority::new("ca");
    let first = authority.issue(&["first.test"]);
    let exact = authority.issue(&["a.wild.test", "other.test"]);
    let wild = authority.issue(&["*.wild.test"]);
    let setup = Setup::new().with("first", &first).with("exact", &exact).with("wild", &wild);
    let address = serve(&setup.load()).await;
    let (_, client) = Witness::client(ANY);
    for (name, expected) in [
        ("first.test", &first),
        ("other.test", &exact),
        ("OTHER.test", &exact),
        ("a.wild.test", &exact),
        ("b.wild.test", &wild),
        ("a.b.wild.test", &first),
        ("wild.test", &first),
        ("unknown.test", &first),
        // An address is no name: it is not sent.
        ("127.0.0.1", &first),
    ] {
        let seen = connect(address, &client, name).await.expect("connected");
        assert!(seen.certificate == expected.der, "{name}");
    }
}

#[tokio::test]
async fn of_two_kinds_of_certificate_a_client_gets_the_one_that_it_can_use() {
    let authority = Authority::new("ca");
    let (ecdsa, ed25519) = (authority.issue(&["a.test"]), authority.issue_for(&["a.test"], &rcgen::PKCS_ED25519));
    let address = serve(&Setup::new().with("one", &ecdsa).with("two", &ed25519).load()).await;
    for (schemes, expected) in [(ANY, &ecdsa), (&ANY[1..], &ed25519)] {
        for name in ["a.test", "unknown.test"] {
            let seen = connect(address, &Witness::client(schemes).1, name).await.expect("connected");
            assert!(seen.certificate == expected.der, "{name} {schemes:?}");
        }
    }
}

/// The first record of a client that speaks at most this version: ECDHE, ECDSA, AES-GCM.
fn hello_of(version: [u8; 2]) -> Vec<u8> {
    let algorithms: &[u8] = &[0, 13, 0, 4, 0, 2, 4, 3];
    let groups: &[u8] = &[0, 10, 0, 4, 0, 2, 0, 0x1d];
    let points: &[u8] = &[0, 11, 0, 2, 1, 0];
    let extensions = [algorithms, groups, points].concat();
    let rest: &[u8] = &[0, 0, 2, 0xc0, 0x2b, 1, 0, 0, 22];
    let body = [&version, [7; 32].as_slice(), rest, &extensions].concat();
    let length = u8::try_from(body.len()).expect("short");
    [&[22, 3, 1, 0, length + 4, 1, 0, 0, length], body.as_slice()].concat()
}

#[tokio::test]
async fn old_versions_are_refused() {
    let authority = Authority::new("ca");
    let mut setup = Setup::new().with("a", &authority.issue(&["a.test"]));
    let both = serve(&setup.load()).await;
    setup.settings.min_version = MinVersion::Tls13;
    let new = serve(&setup.load()).await;
    let client = |version| Arc::new(authority.client(&[version], None));
    let version = async |address, version| connect(address, &client(version), "a.test").await.map(|seen| seen.version);
    assert_eq!(version(both, &TLS12).await.expect("1.2"), ProtocolVersion::TLSv1_2);
    assert_eq!(version(both, &TLS13).await.expect("1.3"), ProtocolVersion::TLSv1_3);
    assert_eq!(version(new, &TLS13).await.expect("1.3"), ProtocolVersion::TLSv1_3);
    version(new, &TLS12).await.expect_err("1.2 is too old");
    // Two answers to one head that differs only in its version: a hello, and the alert `protocol_version`.
    let answer = async |address, version| {
        let mut tcp = TcpStream::connect(address).await.expect("connected");
        tcp.write_all(&hello_of(version)).await.expect("sent");
        let mut bytes = [0; 7];
        tcp.read_exact(&mut bytes).await.expect("an answer");
        bytes
    };
    assert_eq!(answer(both, [3, 3]).await[0], 22);
    for address in [both, new] {
        assert_eq!(answer(address, [3, 2]).await, [21, 3, 3, 0, 2, 2, 70]);
    }
}

#[tokio::test]
async fn sessions_resume_also_after_the_certificate_was_renewed() {
    let authority = Authority::new("ca");
    let setup = Setup::new().with("a", &authority.issue(&["a.test"]));
    let tls = setup.load();
    let address = serve(&tls).await;
    for version in [&TLS12, &TLS13] {
        let client = Arc::new(authority.client(&[version], None));
        let kind = async || connect(address, &client, "a.test").await.expect("connected").kind;
        assert_ne!(kind().await, HandshakeKind::Resumed);
        assert_eq!(kind().await, HandshakeKind::Resumed, "{version:?}");
        authority.issue(&["a.test"]).write(setup.path(), "a");
        tls.refresh(clock::unix_seconds(), &Metrics::default());
        assert_eq!(kind().await, HandshakeKind::Resumed, "{version:?}");
        let other = Arc::new(authority.client(&[version], None));
        assert_ne!(connect(address, &other, "a.test").await.expect("connected").kind, HandshakeKind::Resumed);
    }
    assert_eq!(tls.server_config().max_early_data_size, 0);
}

#[tokio::test]
async fn clients_must_show_a_certificate_of_the_right_authority() {
    let (authority, staff, foreign) = (Authority::new("ca"), Authority::new("staff"), Authority::new("foreign"));
    let (alice, mallory) = (staff.issue(&["alice"]), foreign.issue(&["alice"]));
    let server = || Setup::new().with("a", &authority.issue(&["a.test"]));
    let open = serve(&server().load()).await;
    let optional = serve(&server().clients(&staff, Some(ClientAuth::Optional)).load()).await;
    // With an authority and nothing else said, certificates are required.
    let required = serve(&server().clients(&staff, None).load()).await;
    for versions in [&[&TLS12][..], &[&TLS13][..]] {
        let ask = async |address, own| {
            connect(address, &Arc::new(authority.client(versions, own)), "a.test").await.map(|seen| seen.subject)
        };
        for address in [optional, required] {
            assert!(ask(address, Some(&alice)).await.expect("alice").contains("CN=alice"));
            ask(address, Some(&mallory)).await.expect_err("another authority");
        }
        assert_eq!(ask(optional, None).await.expect("no certificate"), "nobody");
        ask(required, None).await.expect_err("no certificate");
        assert_eq!(ask(open, Some(&alice)).await.expect("nobody asks"), "nobody");
    }
}

#[tokio::test]
async fn a_session_ends_with_the_trust_in_the_authority_that_vouched_for_it() {
    let (authority, old, new) = (Authority::new("ca"), Authority::new("old"), Authority::new("new"));
    let setup = Setup::new().with("a", &authority.issue(&["a.test"])).clients(&old, None);
    let tls = setup.load();
    let address = serve(&tls).await;
    let (alice, bob) = (old.issue(&["alice"]), new.issue(&["bob"]));
    let client = |own: &Issued| Arc::new(authority.client(BOTH, Some(own)));
    let (alice, bob) = (client(&alice), client(&bob));
    for resumed in [false, true] {
        let seen = connect(address, &alice, "a.test").await.expect("trusted");
        assert_eq!(seen.kind == HandshakeKind::Resumed, resumed);
        // A resumed session still tells whose it is.
        assert!(seen.subject.contains("CN=alice"), "{seen:?}");
    }
    connect(address, &bob, "a.test").await.expect_err("not trusted yet");
    replace(&setup.path().join("clients.pem"), new.pem());
    tls.refresh(clock::unix_seconds(), &Metrics::default());
    connect(address, &alice, "a.test").await.expect_err("not trusted any more");
    assert!(connect(address, &bob, "a.test").await.expect("trusted").subject.contains("CN=bob"));
}

#[tokio::test]
async fn what_is_spoken_on_top_is_agreed_on() {
    let authority = Authority::new("ca");
    let address = serve(&Setup::new().with("a", &authority.issue(&["a.test"])).load()).await;
    let cases: [(&[&str], Option<&str>); 4] = [
        (&["http/1.1", "h2"], Some("h2")),
        (&["http/1.1"], Some("http/1.1")),
        (&["h3", "http/1.1"], Some("http/1.1")),
        (&[], None),
    ];
    for (offered, agreed) in cases {
        let mut client = authority.client(BOTH, None);
        client.alpn_protocols = offered.iter().map(|name| name.as_bytes().to_vec()).collect();
        let seen = connect(address, &Arc::new(client), "a.test").await.expect("connected");
        assert_eq!(seen.alpn.as_deref(), agreed.map(str::as_bytes), "{offered:?}");
    }
    let mut foreign = authority.client(BOTH, None);
    foreign.alpn_protocols = vec![b"smtp".to_vec()];
    connect(address, &Arc::new(foreign), "a.test").await.expect_err("nothing in common");
}

#[tokio::test]
async fn a_staple_is_sent_while_it_fits() {
    let authority = Authority::new("ca");
    let issued = authority.issue(&["a.test"]);
    let mut setup = Setup::new().with("a", &issued);
    let file = setup.path().join("a.ocsp");
    let staple = issued.staple("20990101000000Z");
    fs::write(&file, &staple).expect("written");
    setup.settings.certificates[0].ocsp = Some(file.display().to_string());
    let (tls, now, metrics) = (setup.load(), clock::unix_seconds(), Metrics::default());
    let address = serve(&tls).await;
    let sent = async || {
        let (witness, client) = Witness::client(ANY);
        connect(address, &client, "a.test").await.expect("connected");
        witness.staple.lock().expect("not poisoned").clone()
    };
    assert_eq!(sent().await, staple);
    // In 2100 it is too old.
    tls.refresh(4_102_444_800, &metrics);
    assert_eq!(sent().await, Vec::<u8>::new());
    tls.refresh(now, &metrics);
    assert_eq!(sent().await, staple);
    // A renewed certificate has another number, until its own staple is there.
    let next = authority.issue(&["a.test"]);
    next.write(setup.path(), "a");
    tls.refresh(now, &metrics);
    assert_eq!(sent().await, Vec::<u8>::new());
    fs::write(&file, next.staple("20990101000000Z")).expect("written");
    tls.refresh(now, &metrics);
    assert_eq!(sent().await, next.staple("20990101000000Z"));
    fs::write(&file, "no staple").expect("written");
    tls.refresh(now, &metrics);
    assert_eq!(sent().await, next.staple("20990101000000Z"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_hundred_clients_do_not_notice_that_certificates_are_renewed() {
    let authority = Authority::new("ca");
    let first = authority.issue(&["a.test"]);
    let setup = Setup::new().with("a", &first);
    let tls = setup.load();
    let address = serve(&tls).await;
    let (done, handshakes) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let mut clients = tokio::task::JoinSet::new();
    for _ in 0..200 {
        let (done, handshakes) = (Arc::clone(&done), Arc::clone(&handshakes));
        let mut config = authority.client(BOTH, None);
        config.resumption = tokio_rustls::rustls::client::Resumption::disabled();
        let config = Arc::new(config);
        clients.spawn(async move {
            while !done.load(Ordering::Relaxed) {
                connect(address, &config, "a.test").await?;
                handshakes.fetch_add(1, Ordering::Relaxed);
            }
            Ok::<_, io::Error>(())
        });
    }
    let (metrics, mut last) = (Metrics::default(), first);
    for _ in 0..8 {
        let before = handshakes.load(Ordering::Relaxed);
        eventually("handshakes go on", || async { handshakes.load(Ordering::Relaxed) > before + 100 }).await;
        last = authority.issue(&["a.test"]);
        // The worst moment for a look is between the two files.
        replace(&setup.path().join("a.pem"), &last.cert);
        tls.refresh(clock::unix_seconds(), &metrics);
        replace(&setup.path().join("a.key"), &last.key);
        tls.refresh(clock::unix_seconds(), &metrics);
    }
    assert!(
        connect(address, &Arc::new(authority.client(BOTH, None)), "a.test").await.expect("connected").certificate
            == last.der
    );
    done.store(true, Ordering::Relaxed);
    while let Some(ended) = clients.join_next().await {
        ended.expect("no panic").expect("no handshake failed");
    }
    let text = metrics.encode();
    assert!(text.contains("arriero_certificate_reloads_total{result=\"applied\"} 8"), "{text}");
    let refused = "arriero_certificate_reloads_total{result=\"refused\"}";
    assert!(!text.contains(refused), "a look between two files is no mistake: {text}");
}

#[tokio::test]
async fn files_that_cannot_be_used_change_nothing_and_are_counted_once() {
    let authority = Authority::new("ca");
    let (good, next) = (authority.issue(&["a.test"]), authority.issue(&["a.test"]));
    let setup = Setup::new().with("a", &good).with("b", &authority.issue(&["b.test"]));
    let (tls, metrics) = (setup.load(), Metrics::default());
    let address = serve(&tls).await;
    let served =
        async |name: &str| connect(address, &Witness::client(ANY).1, name).await.expect("connected").certificate;
    let look = || (0..3).for_each(|_| tls.refresh(clock::unix_seconds(), &metrics));
    let counted = |result: &str| {
        let series = format!("arriero_certificate_reloads_total{{result=\"{result}\"}} ");
        metrics.encode().lines().find_map(|line| line.strip_prefix(&series)?.parse::<u32>().ok()).unwrap_or(0)
    };
    let (cert, key) = (setup.path().join("a.pem"), setup.path().join("a.key"));
    for (broken, number) in [("", 1), ("no certificate", 2), (&next.cert, 3)] {
        replace(&cert, broken);
        look();
        assert!(served("a.test").await == good.der, "{broken}");
        assert_eq!((counted("refused"), counted("applied")), (number, 0));
    }
    fs::remove_file(&cert).expect("removed");
    look();
    assert!(served("a.test").await == good.der);
    assert_eq!(counted("refused"), 4);
    // Another certificate's renewal does not wait for it.
    let other = authority.issue(&["b.test"]);
    other.write(setup.path(), "b");
    look();
    assert!(served("b.test").await == other.der);
    assert_eq!((counted("refused"), counted("applied")), (4, 1));
    replace(&cert, &next.cert);
    replace(&key, &next.key);
    look();
    assert!(served("a.test").await == next.der);
    assert_eq!((counted("refused"), counted("applied")), (4, 2));
}

#[test]
fn what_cannot_be_loaded_is_said_with_its_file() {
    let authority = Authority::new("ca");
    let setup = Setup::new().with("a", &authority.issue(&["a.test"]));
    let now = clock::unix_seconds();
    fs::write(setup.path().join("a.key"), authority.issue(&["a.test"]).key).expect("written");
    let error = ListenerTls::load(&setup.settings, now).expect_err("another key");
    assert!(error.starts_with(&format!("`{}` is the key of another certificate", setup.file("a.key"))), "{error}");
    fs::remove_file(setup.path().join("a.pem")).expect("removed");
    let error = ListenerTls::load(&setup.settings, now).expect_err("no certificate");
    assert!(error.starts_with(&format!("`{}` does not exist", setup.file("a.pem"))), "{error}");
}

#[test]
fn each_certificate_tells_when_it_ends() {
    let authority = Authority::new("ca");
    let setup = Setup::new().with("a", &authority.issue(&["a.test", "b.test"])).with("b", &authority.issue(&[]));
    // 4096-01-01, as the authority of the tests has it.
    let end = 67_090_118_400_i64;
    assert_eq!(setup.load().expiries(), [("a.test".to_owned(), end), (setup.file("b.pem"), end)]);
}
