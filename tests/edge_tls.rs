//! TLS through the proxy: both versions of HTTP, names, client certificates, renewal under load, sockets, deadlines.

mod support;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use arriero::clock;
use arriero::config::credentials;
use arriero::demo::{Host, HostConfig, RawUpstream, Script, Step};
use support::authority::{Authority, Issued};
use support::edge::upstream;
use support::fleet::{Small, ended, request};
use support::tls::{self, Tunnel};
use support::wire::{Answer, H2, Upload, get, post, proxy};
use support::{PATIENCE, Proxy, eventually, replace};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::rustls::{ClientConfig, ServerConfig};

/// Certificates on disk and whoever issued them.
struct Files {
    authority: Authority,
    folder: tempfile::TempDir,
}

impl Files {
    fn new(names: &[&[&str]]) -> Self {
        let files = Self { authority: Authority::new("ca"), folder: tempfile::tempdir().expect("a folder") };
        for names in names {
            files.authority.issue(names).write(files.folder.path(), &names[0].replace('*', "any"));
        }
        files
    }

    fn path(&self, name: &str) -> String {
        self.folder.path().join(name).display().to_string()
    }

    /// A listener with these certificates and more keys of `tls` and of the listener.
    fn listener(&self, names: &[&str], tls: &str, more: &str) -> String {
        let pair = |name: &&str| {
            let name = name.replace('*', "any");
            format!(
                "{{ cert: \"{}\", key: \"{}\" }}",
                self.path(&format!("{name}.pem")),
                self.path(&format!("{name}.key"))
            )
        };
        let list: Vec<String> = names.iter().map(pair).collect();
        format!(
            "listeners: [{{ address: \"127.0.0.1:0\"{more}, tls: {{ certificates: [{}]{tls} }} }}]\n",
            list.join(", ")
        )
    }

    fn client(&self, protocol: &str) -> Arc<ClientConfig> {
        tls::client(&self.authority, &[protocol], None)
    }

    /// Asks over HTTP/1.1 or HTTP/2 on a connection of its own.
    async fn ask(&self, address: SocketAddr, protocol: &str, request: &[u8]) -> Answer {
        let tunnel = Tunnel::to(address, &self.client(protocol), "a.test").await;
        if protocol == "http/1.1" {
            return tunnel.h1().await.ask(request).await;
        }
        let text = String::from_utf8(request.to_vec()).expect("text");
        let (head, body) = text.split_once("\r\n\r\n").expect("a head");
        let mut words = head.split(' ');
        let (method, path) = (words.next().expect("a method"), words.next().expect("a path"));
        let request = H2::request(method, path, Upload::new(Some(body.len() as u64)).1);
        tunnel.h2().await.ask(request, body.to_owned().into()).await
    }
}

fn routed(listener: &str, url: &str, kind: &str) -> String {
    format!("version: 1\n{listener}routes: [{{ name: all, upstream: fleet }}]\n{}", upstream(url, kind))
}

#[tokio::test(flavor = "multi_thread")]
async fn both_versions_of_http_stream_over_tls_and_servers_learn_of_it() {
    let files = Files::new(&[&["a.test"]]);
    let host = Host::start(HostConfig::new("gpu").small_model("llava").tokens(200)).await.expect("a host");
    let proxy = proxy(routed(&files.listener(&["a.test"], "", ""), &host.url(), "ollama")).await;
    for protocol in ["http/1.1", "h2"] {
        let stream =
            files.ask(proxy.address(), protocol, &post("/api/generate", r#"{"model":"llava","prompt":"x"}"#)).await;
        assert_eq!((stream.head.status, stream.whole, stream.text().lines().count()), (200, true, 201), "{protocol}");
        let large = support::fleet::sized("llava", 5 << 20, false);
        let answer = files.ask(proxy.address(), protocol, &post("/api/generate", &large)).await;
        assert_eq!(answer.head.status, 200, "{protocol}: {}", answer.text());
        let entry = host.ledger().inference().pop().expect("the request");
        assert_eq!(entry.body_sha256, Some(support::fleet::sha256(&large)));
        assert_eq!(entry.header("x-forwarded-proto"), Some("https"));
        assert!(entry.header("forwarded").is_some_and(|text| text.contains("proto=https")), "{:?}", entry.headers);
        let version = if protocol == "h2" { "2 " } else { "1.1 " };
        assert!(entry.header("via").is_some_and(|via| via.starts_with(version)), "{:?}", entry.headers);
    }
    // Without ALPN it is HTTP/1.1; plain HTTP is not answered here.
    let bare = tls::client(&files.authority, &[], None);
    let tunnel = Tunnel::to(proxy.address(), &bare, "a.test").await;
    assert_eq!(tunnel.h1().await.ask(get("/api/version")).await.head.status, 200);
    let plain = support::raw(proxy.address(), &get("/api/version")).await;
    assert!(!plain.starts_with(b"HTTP/"), "{}", String::from_utf8_lossy(&plain));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_end_of_an_answer_is_told_from_a_connection_that_was_cut() {
    let files = Files::new(&[&["a.test"]]);
    let server = Small::named("web").await;
    let proxy = proxy(routed(&files.listener(&["a.test"], "", ""), &server.url(), "http")).await;
    for head in ["GET / HTTP/1.1\r\nHost: a.test\r\nConnection: close", "GET / HTTP/1.0\r\nHost: a.test"] {
        let mut stream = tls::connect(proxy.address(), &files.client("http/1.1"), "a.test").await.expect("connected");
        stream.write_all(format!("{head}\r\n\r\n").as_bytes()).await.expect("sent");
        let mut answer = String::new();
        // An end without the alert would be an error here.
        timeout(PATIENCE, stream.read_to_string(&mut answer)).await.expect("it ends").expect("in due form");
        assert!(answer.contains(" 200 OK\r\n") && answer.contains("web "), "{answer}");
    }
    // Where the end of the connection is the end of the answer, one that breaks off has none.
    let half = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n";
    let script = Script::new(vec![Step::ReadRequest, Step::Write(half.into()), Step::Gate, Step::Reset]);
    let server = RawUpstream::start(script).await.expect("a server");
    server.gate().close();
    let proxy = support::wire::proxy(routed(&files.listener(&["a.test"], "", ""), &server.url(), "http")).await;
    let mut stream = tls::connect(proxy.address(), &files.client("http/1.1"), "a.test").await.expect("connected");
    stream.write_all(b"GET / HTTP/1.0\r\nHost: a.test\r\n\r\n").await.expect("sent");
    let mut answer = Vec::new();
    while !answer.ends_with(b"hello") {
        assert!(stream.read_buf(&mut answer).await.expect("more") > 0, "{}", String::from_utf8_lossy(&answer));
    }
    server.gate().open();
    let end = timeout(PATIENCE, stream.read_to_end(&mut answer)).await.expect("it ends");
    assert_eq!(end.map_err(|error| error.kind()), Err(std::io::ErrorKind::UnexpectedEof));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_name_picks_the_certificate_and_the_host_picks_the_route() {
    let files = Files::new(&[&["a.test"], &["*.b.test"]]);
    let yaml = format!(
        "version: 1\n{}routes:\n  - {{ name: a, match: {{ host: a.test }}, respond: {{ body: a }} }}\n  \
         - {{ name: b, match: {{ host: \"*.b.test\" }}, respond: {{ body: b }} }}\n",
        files.listener(&["a.test", "*.b.test"], "", "")
    );
    let proxy = proxy(yaml).await;
    for (name, subject) in [("a.test", "a.test"), ("x.b.test", "*.b.test"), ("A.TEST", "a.test")] {
        let mut stream = tls::connect(proxy.address(), &files.client("http/1.1"), name).await.expect("trusted by name");
        let chain = stream.get_ref().1.peer_certificates().expect("a certificate").to_vec();
        assert!(credentials::subject(&chain[0]).is_some_and(|found| found.contains(subject)), "{name}");
        stream
            .write_all(format!("GET / HTTP/1.1\r\nHost: {name}\r\nConnection: close\r\n\r\n").as_bytes())
            .await
            .expect("sent");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.expect("an answer");
        assert!(answer.ends_with(if subject == "a.test" { "\r\n\r\na" } else { "\r\n\r\nb" }), "{answer}");
    }
    tls::connect(proxy.address(), &files.client("h2"), "c.test").await.expect_err("nobody has this name");
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_without_the_right_certificate_ask_nothing() {
    let files = Files::new(&[&["a.test"]]);
    let (staff, foreign) = (Authority::new("staff"), Authority::new("foreign"));
    replace(&files.folder.path().join("staff.pem"), staff.pem());
    let server = Small::named("web").await;
    let tls_keys = format!(", client_ca: \"{}\", client_auth: required", files.path("staff.pem"));
    let proxy = proxy(routed(&files.listener(&["a.test"], &tls_keys, ""), &server.url(), "http")).await;
    let status = async |own: Option<&Issued>, protocol: &str| {
        let config = tls::client(&files.authority, &[protocol], own);
        let mut stream = tls::connect(proxy.address(), &config, "a.test").await.ok()?;
        if protocol == "h2" {
            // TLS 1.3 tells a client of its refusal with the first read.
            stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await.ok()?;
            return stream.read_u8().await.ok().map(u16::from);
        }
        stream.write_all(&get("/")).await.ok()?;
        let mut answer = [0; 12];
        stream.read_exact(&mut answer).await.ok()?;
        std::str::from_utf8(&answer[9..]).ok()?.parse::<u16>().ok()
    };
    let (alice, mallory) = (staff.issue(&["alice"]), foreign.issue(&["alice"]));
    assert_eq!(status(Some(&alice), "http/1.1").await, Some(200));
    assert!(status(Some(&alice), "h2").await.is_some());
    for protocol in ["http/1.1", "h2"] {
        assert_eq!((status(None, protocol).await, status(Some(&mallory), protocol).await), (None, None), "{protocol}");
    }
    assert_eq!(server.got().len(), 1);
}

/// New connections, and requests on open ones, while the files change again and again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn renewed_certificates_disturb_nobody() {
    const RENEWALS: usize = 5;
    let files = Arc::new(Files::new(&[&["a.test"]]));
    let server = Small::named("web").await;
    let proxy: Proxy = proxy(routed(&files.listener(&["a.test"], "", ""), &server.url(), "http")).await;
    let (stop, asked) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let address = proxy.address();
    let mut clients = tokio::task::JoinSet::new();
    for protocol in ["http/1.1", "h2"] {
        let (files, stop, asked) = (Arc::clone(&files), Arc::clone(&stop), Arc::clone(&asked));
        clients.spawn(async move {
            while !stop.load(Ordering::Relaxed) {
                assert_eq!(files.ask(address, protocol, &get("/")).await.head.status, 200);
                asked.fetch_add(1, Ordering::Relaxed);
            }
        });
    }
    let tunnel = Tunnel::to(address, &files.client("http/1.1"), "a.test").await;
    let mut kept = tunnel.h1().await;
    let applied = "arriero_certificate_reloads_total{result=\"applied\"}";
    let serial = async || {
        let stream = tls::connect(address, &files.client("http/1.1"), "a.test").await.expect("a handshake");
        stream.get_ref().1.peer_certificates().expect("a certificate")[0].clone()
    };
    for _ in 0..RENEWALS {
        let before = asked.load(Ordering::Relaxed);
        let next = files.authority.issue(&["a.test"]);
        next.write(files.folder.path(), "a.test");
        proxy.running().reloader.reload("test").expect("unchanged");
        assert!(serial().await == next.der, "the new one is in force");
        assert_eq!(kept.ask(get("/")).await.head.status, 200);
        eventually("requests go on", async || asked.load(Ordering::Relaxed) > before + 10).await;
    }
    assert!(proxy.metric(applied).await >= RENEWALS as f64);
    // What cannot be used is not.
    let last = serial().await;
    replace(&files.folder.path().join("a.test.pem"), "nonsense");
    proxy.running().reloader.reload("test").expect("the file itself is unchanged");
    assert!(serial().await == last);
    stop.store(true, Ordering::Relaxed);
    while let Some(ended) = clients.join_next().await {
        ended.expect("no failure");
    }
}

/// A server with TLS that wants a certificate; answers every connection once, with the subject that it was shown.
async fn secure_server(authority: &Authority, clients: &Authority, name: &str) -> SocketAddr {
    let own = authority.issue(&[name]);
    let provider = Arc::new(tokio_rustls::rustls::crypto::ring::default_provider());
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(clients.roots()), Arc::clone(&provider));
    let key = PrivateKeyDer::from_pem_slice(own.key.as_bytes()).expect("a key");
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_client_cert_verifier(verifier.build().expect("a verifier"))
        .with_single_cert(vec![CertificateDer::from_pem_slice(own.cert.as_bytes()).expect("a certificate")], key)
        .expect("a pair");
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
    let address = listener.local_addr().expect("an address");
    let acceptor = TlsAcceptor::from(Arc::new(config));
    tokio::spawn(async move {
        while let Ok((tcp, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let mut stream = acceptor.accept(tcp).await?;
                let shown =
                    stream.get_ref().1.peer_certificates().and_then(|chain| credentials::subject(chain.first()?));
                let (shown, name) =
                    (shown.unwrap_or_default(), stream.get_ref().1.server_name().unwrap_or("-").to_owned());
                stream.read_buf(&mut Vec::with_capacity(4096)).await?;
                let body = format!("{shown} asked {name}");
                let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len());
                stream.write_all(format!("{head}{body}").as_bytes()).await?;
                stream.shutdown().await
            });
        }
    });
    address
}

#[tokio::test(flavor = "multi_thread")]
async fn servers_are_trusted_by_their_authority_and_name_and_shown_a_certificate() {
    let (servers, clients) = (Authority::new("servers"), Authority::new("clients"));
    let address = secure_server(&servers, &clients, "ollama.internal").await;
    let files = Files::new(&[&["a.test"]]);
    replace(&files.folder.path().join("ca.pem"), servers.pem());
    clients.issue(&["arriero"]).write(files.folder.path(), "own");
    let trust =
        |ca: bool, name: &str, shown: bool, more: &str| {
            let mut keys = Vec::new();
            keys.extend(ca.then(|| format!("ca: \"{}\"", files.path("ca.pem"))));
            keys.extend((!name.is_empty()).then(|| format!("server_name: {name}")));
            keys.extend(shown.then(|| {
                format!("client_cert: \"{}\", client_key: \"{}\"", files.path("own.pem"), files.path("own.key"))
            }));
            keys.extend((!more.is_empty()).then(|| more.to_owned()));
            format!(
                "version: 1\nroutes: [{{ name: all, upstream: fleet }}]\nupstreams:\n  fleet:\n    kind: http\n    \
             servers: [{{ url: \"https://{address}\" }}]\n    tls: {{ {} }}\n",
                keys.join(", ")
            )
        };
    let good = trust(true, "ollama.internal", true, "");
    let proxy = proxy(good.clone()).await;
    let asked = async || support::wire::ask(proxy.address(), get("/")).await;
    let reload = |yaml: &str| {
        proxy.rewrite(yaml);
        proxy.running().reloader.reload("test").expect("it loads");
    };
    let answer = asked().await;
    assert_eq!((answer.head.status, answer.text().as_str()), (200, "CN=arriero asked ollama.internal"));
    for (yaml, what) in [
        (trust(true, "", true, ""), "an address that the certificate has not"),
        (trust(true, "other.internal", true, ""), "another name"),
        (trust(false, "ollama.internal", true, ""), "no authority of the system"),
    ] {
        reload(&yaml);
        let before = ended(&proxy, "tls_failed").await;
        let answer = asked().await;
        assert_eq!((answer.head.status, answer.reason()), (502, Some("tls_failed")), "{what}");
        eventually("it is counted", async || ended(&proxy, "tls_failed").await > before).await;
    }
    reload(&trust(true, "ollama.internal", false, ""));
    assert_eq!(asked().await.head.status, 502, "the server wants a certificate");
    reload(&trust(false, "", true, "verify: false"));
    assert_eq!(asked().await.head.status, 200, "nothing is checked");
    reload(&good);
    assert_eq!(asked().await.head.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_websocket_passes_through_tls_on_both_sides_of_a_reload() {
    let accept = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n";
    let large: Vec<u8> = (0..400_000_u32).map(|number| number.to_le_bytes()[0]).collect();
    let server = RawUpstream::start(Script::new(vec![
        Step::ReadUntil("\r\n\r\n".into()),
        Step::Write(accept.into()),
        Step::Write("\x01from the server".into()),
        Step::ReadUntil("\x02from the client".into()),
        Step::Write(large.clone().into()),
        Step::ReadBytes(large.len()),
        Step::Write("\x03the end".into()),
        Step::Close,
    ]))
    .await
    .expect("a server");
    let files = Files::new(&[&["a.test"]]);
    let yaml = routed(&files.listener(&["a.test"], "", ""), &server.url(), "http");
    let proxy = proxy(yaml.clone()).await;
    let mut stream = tls::connect(proxy.address(), &files.client("http/1.1"), "a.test").await.expect("connected");
    let socket = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
    stream.write_all(&request("GET", "/ws", socket, "")).await.expect("sent");
    let mut seen = Vec::new();
    while !seen.ends_with(b"\x01from the server") {
        assert!(stream.read_buf(&mut seen).await.expect("more") > 0, "{}", String::from_utf8_lossy(&seen));
    }
    assert!(seen.starts_with(b"HTTP/1.1 101 "), "{}", String::from_utf8_lossy(&seen));
    // Another configuration, another certificate: what is open goes on.
    files.authority.issue(&["a.test"]).write(files.folder.path(), "a.test");
    proxy.rewrite(&yaml.replace("name: all", "name: other"));
    proxy.running().reloader.reload("test").expect("it loads");
    stream.write_all(b"\x02from the client").await.expect("sent");
    let (mut reader, mut writer) = tokio::io::split(stream);
    let mut rest = Vec::new();
    let send = async {
        writer.write_all(&large).await.expect("sent");
        writer.flush().await.expect("sent");
    };
    let (read, ()) = tokio::join!(timeout(PATIENCE, reader.read_to_end(&mut rest)), send);
    read.expect("it ends").expect("in due form");
    assert!(rest == [&large[..], b"\x03the end"].concat(), "{} bytes", rest.len());
    assert!(server.connections().concat().ends_with(&large));
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_does_not_finish_a_handshake_is_cut_off() {
    let files = Files::new(&[&["a.test"]]);
    let server = Small::named("web").await;
    let listener = files.listener(&["a.test"], "", ", timeouts: { tls: 500ms }");
    let proxy = proxy(routed(&listener, &server.url(), "http")).await;
    let start = clock::now();
    // Nothing, a part of a hello, and one that trickles.
    let hello: &[u8] = &[22, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3];
    let mut silent = TcpStream::connect(proxy.address()).await.expect("connected");
    let mut begun = TcpStream::connect(proxy.address()).await.expect("connected");
    begun.write_all(hello).await.expect("sent");
    let trickling = TcpStream::connect(proxy.address()).await.expect("connected");
    let closed = async |tcp: &mut TcpStream| {
        let mut rest = Vec::new();
        // A reset is as good as an end.
        let _ = timeout(PATIENCE, tcp.read_to_end(&mut rest)).await.expect("it is closed");
        clock::now() - start
    };
    let trickle = async {
        let (mut reader, mut writer) = trickling.into_split();
        writer.write_all(hello).await.expect("sent");
        let feed = async {
            while writer.write_all(&[0]).await.is_ok() {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        let mut rest = Vec::new();
        tokio::select! {
            _ = reader.read_to_end(&mut rest) => {}
            () = feed => {}
        }
        clock::now() - start
    };
    let (one, two, three) = tokio::join!(closed(&mut silent), closed(&mut begun), timeout(PATIENCE, trickle));
    for after in [one, two, three.expect("it is closed")] {
        assert!(after >= Duration::from_millis(400), "{after:?}");
    }
    assert_eq!(files.ask(proxy.address(), "h2", &get("/")).await.head.status, 200);
    eventually("nothing is left open", async || proxy.metric("arriero_connections").await == 0.0).await;
    // A handshake in time is a connection like any other, also when it stays silent afterwards.
    let idle = tls::connect(proxy.address(), &files.client("http/1.1"), "a.test").await.expect("connected");
    eventually("it is open", async || proxy.metric("arriero_connections").await == 1.0).await;
    drop(idle);
}
