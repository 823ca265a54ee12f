//! What stands in front of a request: proxies that tell whose it is, and web pages that send it.

mod support;

use std::net::SocketAddr;
use std::sync::Arc;

use support::authority::Authority;
use support::edge::{H2C, both, inference, plain, upstream};
use support::fleet::{Small, fleet, generate, request, send_with};
use support::keys::{KeysFile, bearer};
use support::tls;
use support::wire::{H1, get, proxy};
use support::{PATIENCE, Proxy};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

#[tokio::test(flavor = "multi_thread")]
async fn a_trusted_proxy_is_believed_about_the_client_and_nobody_else_is() {
    let (server, proxy) = plain(", trusted_proxies: [127.0.0.1, 10.0.0.0/24]", "").await;
    for (fields, client, way, scheme) in [
        ("X-Forwarded-For: 192.0.2.7\r\n", "192.0.2.7", "192.0.2.7, 127.0.0.1", "http"),
        ("X-Forwarded-For: 6.6.6.6, 192.0.2.7, 10.0.0.9\r\n", "192.0.2.7", "192.0.2.7, 10.0.0.9, 127.0.0.1", "http"),
        ("X-Forwarded-For: 6.6.6.6\r\nX-Forwarded-For: 192.0.2.7\r\n", "192.0.2.7", "192.0.2.7, 127.0.0.1", "http"),
        ("X-Forwarded-For: 192.0.2.7:4711\r\n", "192.0.2.7", "192.0.2.7, 127.0.0.1", "http"),
        ("X-Forwarded-For: 2001:db8::7\r\n", "2001:db8::7", "2001:db8::7, 127.0.0.1", "http"),
        ("X-Forwarded-For: 6.6.6.6, unknown\r\n", "127.0.0.1", "127.0.0.1", "http"),
        ("X-Forwarded-For: 10.0.0.9\r\n", "10.0.0.9", "10.0.0.9, 127.0.0.1", "http"),
        ("Forwarded: for=6.6.6.6, for=192.0.2.7;proto=https\r\n", "192.0.2.7", "192.0.2.7, 127.0.0.1", "https"),
        ("Forwarded: for=\"[2001:db8::7]:47\"\r\n", "2001:db8::7", "2001:db8::7, 127.0.0.1", "http"),
        ("X-Real-IP: 192.0.2.7\r\n", "192.0.2.7", "192.0.2.7, 127.0.0.1", "http"),
        ("X-Real-IP: 6.6.6.6\r\nX-Forwarded-For: 192.0.2.7\r\n", "192.0.2.7", "192.0.2.7, 127.0.0.1", "http"),
        ("X-Forwarded-For: 192.0.2.7\r\nX-Forwarded-Proto: https\r\n", "192.0.2.7", "192.0.2.7, 127.0.0.1", "https"),
    ] {
        for answer in both(&proxy, "GET", "/", fields, "").await {
            assert_eq!(answer.head.status, 200, "{fields}");
            let got = server.got().pop().expect("the request");
            let field = |name: &str| got.fields.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
            assert_eq!((field("x-real-ip"), field("x-forwarded-for")), (client, way), "{fields}");
            assert_eq!(field("x-forwarded-proto"), scheme, "{fields}");
            assert_eq!(got.fields.get_all("x-forwarded-for").iter().count(), 1, "{fields}");
            assert!(!format!("{:?}", got.fields).contains("6.6.6.6"), "{fields}: {:?}", got.fields);
        }
    }
    let before = server.got().len();
    let answer = send_with(proxy.address(), "GET", "/", "Forwarded: for=\"1.2.3.4\r\n", "").await;
    assert_eq!((answer.head.status, server.got().len()), (400, before), "a quote that is never closed");
    let (server, proxy) = plain(", trusted_proxies: [10.0.0.0/8]", "").await;
    let lies = "X-Forwarded-For: 10.0.0.1\r\nForwarded: for=10.0.0.1;proto=https\r\nX-Real-IP: 10.0.0.1\r\n\
                True-Client-IP: 10.0.0.1\r\nCF-Connecting-IP: 10.0.0.1\r\nX-Forwarded-Proto: https\r\n";
    for answer in both(&proxy, "GET", "/", lies, "").await {
        assert_eq!(answer.head.status, 200);
        let got = server.got().pop().expect("the request");
        let all = format!("{:?}", got.fields);
        assert!(!all.contains("10.0.0.1") && !all.contains("https"), "{all}");
        assert_eq!(got.fields["x-forwarded-for"], "127.0.0.1");
    }
}

/// A version 2 header: `command` is 0x20 (local) or 0x21 (proxied), `family` 0x11 (TCP over IPv4) or 0x21 (IPv6).
fn version2(command: u8, family: u8, addresses: &[u8], extensions: &[u8]) -> Vec<u8> {
    let length = u16::try_from(addresses.len() + extensions.len()).expect("short").to_be_bytes();
    [b"\r\n\r\n\0\r\nQUIT\n", &[command, family][..], &length, addresses, extensions].concat()
}

/// What comes back for these bytes, sent in one piece or byte by byte; nothing when the connection is only closed.
async fn answered(address: SocketAddr, bytes: &[u8], split: bool) -> String {
    let mut tcp = TcpStream::connect(address).await.expect("connected");
    tcp.set_nodelay(true).expect("set");
    let pieces = if split { bytes.chunks(1) } else { bytes.chunks(bytes.len()) };
    for piece in pieces {
        // It may be closed before everything was sent.
        if tcp.write_all(piece).await.is_err() {
            break;
        }
    }
    let mut answer = Vec::new();
    let read = timeout(PATIENCE, tcp.read_to_end(&mut answer)).await.expect("the connection ends");
    assert!(read.is_ok() || answer.is_empty(), "reset inside of an answer");
    String::from_utf8(answer).expect("text")
}

const LAST: &str = "GET / HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\n\r\n";

/// The client that a server was told of last.
fn told(server: &Small) -> String {
    let got = server.got().pop().expect("a request");
    got.fields["x-real-ip"].to_str().expect("text").to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_load_balancer_tells_whose_connection_it_passes_on() {
    let (server, proxy) = plain(", proxy_protocol: accept, trusted_proxies: [127.0.0.1]", "").await;
    let v6: Vec<u8> =
        [[0x20, 1, 0xd, 0xb8].as_slice(), &[0; 11], &[7], &[0x20, 1], &[0; 13], &[1, 0x12, 0x34, 0, 80]].concat();
    let extension = [4, 0, 3, 1, 2, 3];
    let good = [
        (b"PROXY TCP4 192.0.2.7 10.0.0.1 4711 80\r\n".to_vec(), "192.0.2.7"),
        (b"PROXY TCP6 2001:db8::7 ::1 4711 80\r\n".to_vec(), "2001:db8::7"),
        (b"PROXY UNKNOWN\r\n".to_vec(), "127.0.0.1"),
        (version2(0x21, 0x11, &[192, 0, 2, 8, 10, 0, 0, 1, 0x12, 0x34, 0, 80], &extension), "192.0.2.8"),
        (version2(0x21, 0x21, &v6, &[]), "2001:db8::7"),
        (version2(0x20, 0, &[], &[]), "127.0.0.1"),
    ];
    for (header, client) in good {
        for split in [false, true] {
            let bytes = [&header[..], LAST.as_bytes()].concat();
            let answer = answered(proxy.address(), &bytes, split).await;
            assert!(answer.starts_with("HTTP/1.1 200 "), "{client}: {answer}");
            assert_eq!(told(&server), client);
        }
    }
    // HTTP/2 after a header, and the address holds for all requests of the connection.
    let got = server.got().len();
    let bad = [
        Vec::new(),
        b"PROXY TCP4 192.0.2.7 10.0.0.1 4711\r\n".to_vec(),
        b"PROXY TCP4 192.0.2.7 10.0.0.1 4711 80\n".to_vec(),
        b"PROXY TCP4 192.0.2.777 10.0.0.1 4711 80\r\n".to_vec(),
        b"proxy TCP4 192.0.2.7 10.0.0.1 4711 80\r\n".to_vec(),
        format!("PROXY UNKNOWN {}\r\n", "x".repeat(200)).into_bytes(),
        version2(0x31, 0x11, &[0; 12], &[]),
        version2(0x21, 0x11, &[0; 4], &[]),
        version2(0x21, 0x11, &[0; 12], &[0; 4000]),
    ];
    for header in bad {
        let bytes = [&header[..], LAST.as_bytes()].concat();
        let answer = answered(proxy.address(), &bytes, false).await;
        assert_eq!((answer.as_str(), server.got().len()), ("", got), "{}", String::from_utf8_lossy(&header));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_header_of_a_stranger_is_refused() {
    let (server, proxy) = plain(", proxy_protocol: accept, trusted_proxies: [10.0.0.0/8]", "").await;
    for header in ["", "PROXY TCP4 10.0.0.7 10.0.0.1 4711 80\r\n"] {
        assert_eq!(answered(proxy.address(), format!("{header}{LAST}").as_bytes(), false).await, "");
    }
    // Where none is spoken, one is no HTTP.
    let (plain_server, plain) = plain(", trusted_proxies: [127.0.0.1]", "").await;
    let answer = answered(plain.address(), format!("PROXY UNKNOWN\r\n{LAST}").as_bytes(), false).await;
    assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
    assert_eq!((server.got().len(), plain_server.got().len()), (0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_header_of_a_load_balancer_stands_before_tls_and_the_limits_count_by_it() {
    let authority = Authority::new("ca");
    let folder = tempfile::tempdir().expect("a folder");
    authority.issue(&["a.test"]).write(folder.path(), "a");
    let file = |name: &str| folder.path().join(name).display().to_string();
    let certificates = format!("[{{ cert: \"{}\", key: \"{}\" }}]", file("a.pem"), file("a.key"));
    let listener = format!(
        ", proxy_protocol: accept, trusted_proxies: [127.0.0.1], tls: {{ certificates: {certificates} }}, \
         limits: {{ connections_per_ip: 1 }}"
    );
    let server = Small::named("web").await;
    let yaml = format!(
        "version: 1\nlisteners: [{{ address: \"127.0.0.1:0\"{listener} }}]\n\
         routes: [{{ name: all, upstream: fleet, access: {{ allow: [192.0.2.0/24] }} }}]\n{}",
        upstream(&server.url(), "http")
    );
    let proxy = proxy(yaml).await;
    let config = tls::client(&authority, &["http/1.1"], None);
    let open = async |client: &str| {
        let mut tcp = TcpStream::connect(proxy.address()).await.expect("connected");
        tcp.write_all(format!("PROXY TCP4 {client} 10.0.0.1 4711 443\r\n").as_bytes()).await.expect("sent");
        tls::handshake(tcp, &config, "a.test").await
    };
    let status = async |client: &str| {
        let mut stream = open(client).await.ok()?;
        stream.write_all(LAST.as_bytes()).await.ok()?;
        let mut answer = String::new();
        // The end may come without the closing alert.
        let _ = timeout(PATIENCE, stream.read_to_string(&mut answer)).await.expect("it ends");
        answer.get(9..12)?.parse::<u16>().ok()
    };
    assert_eq!(status("192.0.2.7").await, Some(200));
    let got = server.got().pop().expect("the request");
    assert_eq!(
        (&got.fields["x-real-ip"], &got.fields["x-forwarded-proto"]),
        (&"192.0.2.7".parse().expect("a value"), &"https".parse().expect("a value"))
    );
    assert_eq!(status("198.51.100.7").await, Some(403));
    // One connection for each client, whatever comes from the load balancer.
    let kept = open("192.0.2.8").await.expect("the first");
    assert!(open("192.0.2.8").await.is_err(), "a second one of the same client does not even get a handshake");
    assert_eq!(status("192.0.2.9").await, Some(200));
    drop(kept);
    support::eventually("the client may come back", async || status("192.0.2.8").await == Some(200)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_foreign_web_page_may_not_use_a_model() {
    let fleet = fleet(1, &["llava"]).await;
    let listed = ", cors: { origins: [\"https://app.test\"], headers: [authorization], max_age: 60s }";
    for (cors, app) in [("", 403), (listed, 200)] {
        let route = format!("routes: [{{ name: all, upstream: fleet{cors} }}]\n");
        let proxy = proxy(format!("version: 1\n{H2C}{route}{}", upstream(&fleet.hosts[0].url(), "ollama"))).await;
        let before = inference(&fleet.hosts[0]);
        for (origin, wanted) in [
            ("null", 403),
            ("http://evil.test", 403),
            ("http://localhost.evil.test", 403),
            ("file://", 403),
            ("https://app.test.evil.test", 403),
            ("http://app.test", 403),
            ("https://app.test", app),
        ] {
            let fields = format!("Content-Type: text/plain\r\nOrigin: {origin}\r\n");
            for answer in both(&proxy, "POST", "/api/generate", &fields, &generate("llava")).await {
                assert_eq!(answer.head.status, wanted, "{origin} {cors}: {}", answer.text());
                let allowed = answer.head.field("access-control-allow-origin");
                assert_eq!(allowed, (wanted == 200).then_some(origin), "{}", answer.head.text);
                assert_eq!(answer.reason() == Some("origin_denied"), wanted == 403);
            }
        }
        // Two origins are none, and a plain read passes without the fields that would let the page see it.
        let two = "Origin: https://app.test\r\nOrigin: https://app.test\r\n";
        assert_eq!(send_with(proxy.address(), "POST", "/api/generate", two, generate("llava")).await.head.status, 403);
        for answer in both(&proxy, "GET", "/api/tags", "Origin: http://evil.test\r\n", "").await {
            assert_eq!((answer.head.status, answer.head.field("access-control-allow-origin")), (200, None));
        }
        // Our own page.
        let own = "Host: ai.test:8080\r\nOrigin: https://ai.test:8080\r\n";
        assert_eq!(send_with(proxy.address(), "POST", "/api/generate", own, generate("llava")).await.head.status, 200);
        assert_eq!(inference(&fleet.hosts[0]) - before, if app == 200 { 3 } else { 1 });
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_browser_is_told_what_a_page_may_before_any_key_and_can_read_errors() {
    let keys = KeysFile::new(&[("0000000a", "")]);
    let fleet = fleet(1, &["llava"]).await;
    let cors = "cors: { origins: [\"https://app.test\"], methods: [GET, POST], headers: [authorization, x-team], \
                expose: [x-request-id], max_age: 90s, credentials: true }";
    let yaml = format!(
        "version: 1\n{H2C}routes: [{{ name: all, upstream: fleet, {cors} }}]\n{}{}",
        upstream(&fleet.hosts[0].url(), "ollama"),
        keys.yaml()
    );
    let proxy = proxy(yaml).await;
    let count = || fleet.hosts[0].ledger().find(|entry| entry.method == "OPTIONS").len();
    let preflight = "Origin: https://app.test\r\nAccess-Control-Request-Method: POST\r\nAccess-Control-Request-Headers: authorization\r\n";
    for answer in both(&proxy, "OPTIONS", "/api/chat", preflight, "").await {
        let field = |name: &str| answer.head.field(name).unwrap_or_default().to_owned();
        assert_eq!((answer.head.status, answer.body.len()), (204, 0), "{}", answer.head.text);
        assert_eq!(field("access-control-allow-origin"), "https://app.test");
        assert_eq!(field("access-control-allow-methods"), "GET, POST");
        assert_eq!(field("access-control-allow-headers"), "authorization, x-team");
        assert_eq!(
            (field("access-control-max-age"), field("access-control-allow-credentials")),
            ("90".to_owned(), "true".to_owned())
        );
        assert!(field("vary").contains("Origin"), "{}", answer.head.text);
    }
    for answer in both(&proxy, "OPTIONS", "/api/chat", &preflight.replace("app", "evil"), "").await {
        assert_eq!((answer.head.status, answer.head.field("access-control-allow-origin")), (403, None));
    }
    assert_eq!(count(), 0, "no server is asked");
    let actual = |more: &str| format!("Origin: https://app.test\r\n{more}");
    for (fields, body, status) in [
        (actual(&bearer("0000000a")), generate("llava"), 200),
        (actual(""), generate("llava"), 401),
        (actual(&bearer("0000000a")), generate("nowhere"), 404),
        (actual(&bearer("0000000a")), "{".to_owned(), 400),
    ] {
        for answer in both(&proxy, "POST", "/api/generate", &fields, &body).await {
            assert_eq!(answer.head.status, status, "{}", answer.text());
            let [origin] = answer.head.all("access-control-allow-origin")[..] else { panic!("{}", answer.head.text) };
            assert_eq!(
                (origin, answer.head.field("access-control-expose-headers")),
                ("https://app.test", Some("x-request-id"))
            );
            assert!(answer.head.all("vary").join(",").contains("Origin"), "{}", answer.head.text);
        }
    }
    assert!(fleet.hosts[0].ledger().inference().iter().all(|entry| entry.header("origin").is_none()), "judged already");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_web_application_without_rules_keeps_its_own_and_a_socket_of_a_foreign_page_is_refused() {
    let (server, proxy) = plain("", "").await;
    for answer in both(&proxy, "POST", "/", "Origin: http://evil.test\r\n", "x").await {
        assert_eq!(answer.head.status, 200);
    }
    assert!(server.got().iter().all(|got| got.fields.contains_key("origin")), "its own to judge");
    let (server, proxy) = plain("", ", cors: { origins: [\"https://app.test\"] }").await;
    let socket = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
    for (origin, status) in [("http://evil.test", 403), ("https://app.test", 200)] {
        let mut client = H1::connect(proxy.address()).await;
        let fields = format!("{socket}Origin: {origin}\r\n");
        assert_eq!(client.ask(request("GET", "/ws", &fields, "")).await.head.status, status, "{origin}");
    }
    assert_eq!(server.got().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_route_is_chosen_by_the_scheme_that_the_client_spoke() {
    let authority = Authority::new("ca");
    let folder = tempfile::tempdir().expect("a folder");
    authority.issue(&["a.test"]).write(folder.path(), "a");
    let file = |name: &str| folder.path().join(name).display().to_string();
    let server = Small::named("web").await;
    let yaml = format!(
        "version: 1\nlisteners:\n  - {{ address: \"127.0.0.1:0\", h2c: true }}\n  \
         - {{ address: \"127.0.0.1:0\", tls: {{ certificates: [{{ cert: \"{}\", key: \"{}\" }}] }} }}\n  \
         - {{ address: \"127.0.0.1:0\", trusted_proxies: [127.0.0.1] }}\nroutes:\n  \
         - {{ name: to-https, match: {{ scheme: http }}, redirect: {{ to: \"https://{{host}}{{uri}}\", status: 308 }} }}\n  \
         - {{ name: rest, upstream: fleet, headers: {{ response: {{ set: {{ Strict-Transport-Security: max-age=60 }} }} }} }}\n{}",
        file("a.pem"),
        file("a.key"),
        upstream(&server.url(), "http")
    );
    let proxy: Proxy = proxy(yaml).await;
    let addresses = proxy.running().addresses.clone();
    for answer in both(&proxy, "POST", "/x?y=1", "", "body").await {
        assert_eq!(answer.head.status, 308);
        let wanted = ["https://localhost/x?y=1", "https://arriero.test/x?y=1"];
        assert!(answer.head.field("location").is_some_and(|to| wanted.contains(&to)), "{}", answer.head.text);
        assert_eq!(answer.head.field("strict-transport-security"), None);
    }
    // What a stranger says about its scheme does not count, what a trusted proxy says does.
    let says = "X-Forwarded-Proto: https\r\n";
    assert_eq!(send_with(addresses[0], "GET", "/", says, "").await.head.status, 308);
    let for_client = format!("{says}X-Forwarded-For: 192.0.2.7\r\n");
    assert_eq!(send_with(addresses[2], "GET", "/", &for_client, "").await.head.status, 200);
    assert_eq!(send_with(addresses[2], "GET", "/", "", "").await.head.status, 308);
    for protocol in ["http/1.1", "h2"] {
        let config = tls::client(&authority, &[protocol], None);
        let tunnel = tls::Tunnel::to(addresses[1], &Arc::clone(&config), "a.test").await;
        let answer = match protocol {
            "h2" => {
                let request = support::wire::H2::request("GET", "/x", support::wire::Upload::empty());
                tunnel.h2().await.ask(request, "".into()).await
            }
            _ => tunnel.h1().await.ask(get("/x")).await,
        };
        assert_eq!((answer.head.status, answer.head.field("strict-transport-security")), (200, Some("max-age=60")));
    }
}
