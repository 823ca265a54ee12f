//! What a route does to requests and answers beside passing them on, over real sockets.

mod support;

use std::io::{Read, Write};

use arriero::demo::{RawUpstream, Script, Step};
use flate2::Compression;
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;
use http::Response;
use http_body_util::Full;
use support::edge::{H2C, both, inference, ollama, posts, upstream};
use support::fleet::{Small, generate, reply, request, send, send_with, sha256, sized};
use support::wire::{Answer, Chunk, H1, proxy};
use support::{PATIENCE, Proxy};

/// Routes before one plain server; `other` is an upstream that nobody answers for.
async fn before(url: &str, routes: &str) -> Proxy {
    let dead = "  other:\n    kind: http\n    servers: [{ url: \"http://127.0.0.1:9\", name: dead }]\n";
    proxy(format!("version: 1\n{H2C}routes:\n{routes}\n{}{dead}", upstream(url, "http"))).await
}

fn text_of(got: &support::fleet::Got, name: &str) -> Vec<String> {
    got.fields.get_all(name).iter().map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_without_a_server() {
    let server = Small::named("web").await;
    let routes = r#"
  - { name: health, match: { path: /health }, respond: { body: "ok\n", headers: { cache-control: no-store, x-who: "{client_ip} {path} {header:x-user}" } } }
  - { name: closed, match: { path: /closed }, respond: { status: 503, body: "<p>later</p>", content_type: text/html } }
  - { name: nothing, match: { path: /nothing }, respond: { status: 204 } }
  - { name: moved, match: { path: /old/ }, redirect: { to: "https://{host}/new{uri}", status: 301 } }
  - { name: same, match: { path: / }, redirect: { to: "{uri}?again" } }"#;
    let proxy = before(&server.url(), routes).await;
    for answer in both(&proxy, "GET", "/health?x=1", "X-User: ann\r\n", "").await {
        assert_eq!((answer.head.status, answer.text().as_str(), answer.whole), (200, "ok\n", true));
        assert_eq!(answer.head.field("content-type"), Some("text/plain; charset=utf-8"));
        assert_eq!(
            (answer.head.field("content-length"), answer.head.field("cache-control")),
            (Some("3"), Some("no-store"))
        );
        assert_eq!(answer.head.field("x-who"), Some("127.0.0.1 /health ann"));
        assert_eq!(answer.reason(), None, "it is what was asked for");
    }
    for answer in both(&proxy, "POST", "/closed", "", "a body").await {
        assert_eq!((answer.head.status, answer.text().as_str()), (503, "<p>later</p>"));
        assert_eq!(answer.head.field("content-type"), Some("text/html"));
    }
    for answer in both(&proxy, "GET", "/nothing", "", "").await {
        assert_eq!((answer.head.status, answer.body.len(), answer.head.field("content-length")), (204, 0, None));
    }
    let head = send(proxy.address(), "HEAD", "/health", "").await.head;
    assert_eq!((head.status, head.field("content-length")), (200, Some("3")));
    // Answers without a body do not end the connection.
    let mut client = H1::connect(proxy.address()).await;
    for path in ["/nothing", "/health", "/nothing", "/old/a"] {
        client.ask(request("GET", path, "", "")).await;
    }
    for (path, wanted) in [
        ("/old/a?b=c", "https://a.test/new/old/a?b=c"),
        ("/old/%0d%0aX-Evil:%201", "https://a.test/new/old/%0d%0aX-Evil:%201"),
    ] {
        let answer = send_with(proxy.address(), "GET", path, "Host: a.test:8080\r\n", "").await;
        assert_eq!((answer.head.status, answer.head.field("location")), (301, Some(wanted)), "{}", answer.head.text);
        assert_eq!(answer.head.field("x-evil"), None);
    }
    // Where the client says where to, it stays on this host.
    for path in ["//evil.test/x", "/\\evil.test", "///evil.test", "/%2f%2fevil.test"] {
        let answer = send(proxy.address(), "GET", path, "").await;
        let to = answer.head.field("location").unwrap_or_default();
        let away = to.starts_with("//") || to.contains("://") || to.contains('\\');
        assert!(!away, "{path}: {} {to}", answer.head.status);
    }
    assert!(server.got().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn paths_are_rewritten_by_whole_segments() {
    let server = Small::named("web").await;
    let routes = r"
  - { name: app, match: { path: [/app, /app/] }, upstream: fleet, rewrite: { strip_prefix: /app } }
  - { name: old, match: { path: /v1/ }, upstream: fleet, rewrite: { strip_prefix: /v1, add_prefix: /v2/x } }
  - { name: rest, upstream: fleet, rewrite: { add_prefix: /all } }";
    let proxy = before(&server.url(), routes).await;
    for (path, wanted) in [
        ("/app/a%20b?q=%2F", "/a%20b?q=%2F"),
        ("/app", "/"),
        ("/app/", "/"),
        ("/v1/models?x", "/v2/x/models?x"),
        ("/apple", "/all/apple"),
        ("/", "/all/"),
    ] {
        for answer in both(&proxy, "GET", path, "", "").await {
            assert_eq!(answer.head.status, 200, "{path}");
            assert_eq!(server.got().pop().expect("a request").path, wanted, "{path}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn fields_are_changed_in_both_directions_and_on_errors_too() {
    let server = Small::start(|got| {
        let mut answer = reply(if got.path == "/all/bad" { 500 } else { 200 }, "text/plain", "ok");
        answer.headers_mut().insert("x-powered-by", "php".parse().expect("a value"));
        answer.headers_mut().insert("x-frame-options", "ALLOWALL".parse().expect("a value"));
        answer.headers_mut().append("set-cookie", "a=1".parse().expect("a value"));
        answer
    })
    .await;
    let rules = "headers: { request: { set: { x-client: \"{client_ip}\", x-all: \"{method} {scheme} {host} {uri} {route} {upstream}\", \
                 x-user: \"<{header:x-user}>\", accept-encoding: \"\", x-none: \"{header:x-absent}\" }, add: { x-list: two }, remove: [cookie, x-secret] }, \
                 response: { set: { x-frame-options: DENY, x-seen: \"{status} {route} {server} {path}\" }, add: { set-cookie: b=2 }, remove: x-powered-by } }";
    let routes = format!(
        "  - {{ name: limited, match: {{ path: /limited }}, upstream: fleet, rate_limits: [{{ rate: 1/h }}], {rules} }}\n  \
         - {{ name: dead, match: {{ path: /dead }}, upstream: other, {rules} }}\n  \
         - {{ name: own, match: {{ path: /own }}, respond: {{ body: ok }}, {rules} }}\n  \
         - {{ name: all, upstream: fleet, rewrite: {{ add_prefix: /all }}, {rules} }}"
    );
    let proxy = before(&server.url(), &routes).await;
    let fields =
        "X-User: ann\r\nX-Secret: 1\r\nCookie: c=1\r\nAccept-Encoding: gzip\r\nX-List: one\r\nX-Client: 6.6.6.6\r\n";
    for answer in both(&proxy, "GET", "/x/y?z=1", fields, "").await {
        let got = server.got().pop().expect("a request");
        assert_eq!(text_of(&got, "x-client"), ["127.0.0.1"]);
        let all = text_of(&got, "x-all").join("");
        assert!(all.starts_with("GET http ") && all.ends_with(" /x/y?z=1 all fleet"), "{all}");
        assert_eq!(
            (text_of(&got, "x-user"), text_of(&got, "x-list")),
            (vec!["<ann>".to_owned()], vec!["one".into(), "two".into()])
        );
        for gone in ["cookie", "x-secret", "accept-encoding", "x-none"] {
            assert!(text_of(&got, gone).is_empty(), "{gone}: {got:?}");
        }
        assert_eq!(answer.head.all("x-frame-options"), ["DENY"]);
        assert_eq!((answer.head.field("x-powered-by"), answer.head.all("set-cookie")), (None, vec!["a=1", "b=2"]));
        let wanted = format!("200 all {} /x/y", server.address);
        assert_eq!(answer.head.all("x-seen"), [wanted], "{}", answer.head.text);
    }
    send(proxy.address(), "GET", "/limited", "").await;
    for (path, status, seen) in [
        ("/bad", 500, format!("500 all {} /bad", server.address)),
        ("/dead", 502, "502 dead dead /dead".to_owned()),
        ("/limited", 429, "429 limited  /limited".to_owned()),
        ("/own", 200, "200 own  /own".to_owned()),
    ] {
        for answer in both(&proxy, "GET", path, "", "").await {
            assert_eq!((answer.head.status, answer.head.all("x-frame-options")), (status, vec!["DENY"]), "{path}");
            assert_eq!(answer.head.all("x-seen"), [seen.as_str()], "{path}: {}", answer.head.text);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn errors_have_the_pages_of_their_route() {
    let folder = tempfile::tempdir().expect("a folder");
    let page = |name: &str, text: &str| {
        let file = folder.path().join(name);
        std::fs::write(&file, text).expect("written");
        file.display().to_string()
    };
    let (not_found, broken) = (page("404.html", "<h1>not here</h1>"), page("50x.json", "{\"later\":true}"));
    let pages = format!("error_pages: {{ \"404\": \"{not_found}\", 5xx: \"{broken}\" }}");
    let server = Small::start(|got| match &*got.path {
        "/missing" => reply(404, "text/plain", "its own"),
        "/broken" => reply(503, "text/plain", "its own"),
        "/teapot" => reply(418, "text/plain", "its own"),
        _ => reply(200, "text/plain", "its own"),
    })
    .await;
    let route = |name: &str, host: &str, more: &str| {
        format!("  - {{ name: {name}, match: {{ host: {host}.test }}, {more}, {pages} }}\n")
    };
    let routes = [
        route("theirs", "theirs", "upstream: fleet"),
        route("ours", "ours", "upstream: fleet, intercept_errors: true"),
        route("dead", "dead", "upstream: other"),
        route("files", "files", &format!("files: {{ root: \"{}\" }}", folder.path().display())),
    ];
    let proxy = before(&server.url(), &routes.concat()).await;
    let (html, json) = ("<h1>not here</h1>", "{\"later\":true}");
    for (host, path, status, body) in [
        ("theirs", "/missing", 404, "its own"),
        ("theirs", "/broken", 503, "its own"),
        ("ours", "/missing", 404, html),
        ("ours", "/broken", 503, json),
        ("ours", "/teapot", 418, "its own"),
        ("ours", "/", 200, "its own"),
        ("dead", "/", 502, json),
        ("files", "/nowhere", 404, html),
    ] {
        let mut client = H1::connect(proxy.address()).await;
        for _ in 0..2 {
            let answer = client.ask(request("GET", path, &format!("Host: {host}.test\r\n"), "")).await;
            assert_eq!(
                (answer.head.status, answer.text().as_str(), answer.whole),
                (status, body, true),
                "{host} {path}"
            );
            let wanted = if body == html {
                "text/html"
            } else if body == json {
                "application/json"
            } else {
                "text/plain"
            };
            assert!(
                answer.head.field("content-type").is_some_and(|kind| kind.starts_with(wanted)),
                "{}",
                answer.head.text
            );
        }
        let fields = format!("Host: {host}.test\r\n");
        assert_eq!(send_with(proxy.address(), "HEAD", path, &fields, "").await.head.status, status);
    }
}

fn decoded(answer: &Answer) -> Vec<u8> {
    let mut plain = Vec::new();
    match answer.head.field("content-encoding") {
        Some("gzip") => drop(GzDecoder::new(&answer.body[..]).read_to_end(&mut plain).expect("gzip")),
        Some("br") => drop(brotli::Decompressor::new(&answer.body[..], 4096).read_to_end(&mut plain).expect("brotli")),
        Some("zstd") => plain = zstd::decode_all(&answer.body[..]).expect("zstd"),
        other => panic!("{other:?}"),
    }
    plain
}

/// Text of this size that shrinks.
fn words(size: usize) -> String {
    (0..).map(|number| format!("llama {number} ")).take(size / 8).collect::<String>()[..size].to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn ordinary_answers_are_compressed_and_nothing_else_is() {
    let server = Small::start(|got| {
        let kind = got.path.trim_start_matches('/').replace('.', "/");
        let (kind, size) = kind.split_once('?').unwrap_or((&kind, "300000"));
        let mut answer = reply(200, kind, words(size.parse().expect("a size")));
        match got.fields.get("x-want").and_then(|want| want.to_str().ok()) {
            Some("range") => {
                *answer.status_mut() = http::StatusCode::PARTIAL_CONTENT;
                answer.headers_mut().insert("content-range", "bytes 0-9/10".parse().expect("a value"));
            }
            Some("encoded") => drop(answer.headers_mut().insert("content-encoding", "x-own".parse().expect("a value"))),
            Some("no-transform") => {
                drop(answer.headers_mut().insert("cache-control", "public, no-transform".parse().expect("a value")));
            }
            _ => drop(answer.headers_mut().insert("etag", "\"abc\"".parse().expect("a value"))),
        }
        answer
    })
    .await;
    let routes = "  - { name: gzip, match: { host: gzip.test }, upstream: fleet, compress: [gzip] }\n  \
                  - { name: all, upstream: fleet, compress: true }";
    let proxy = before(&server.url(), routes).await;
    for (accept, coding) in [
        ("gzip", "gzip"),
        ("br", "br"),
        ("zstd", "zstd"),
        ("gzip, deflate, br, zstd", "zstd"),
        ("zstd;q=0, br;q=0.5, gzip;q=0.9", "gzip"),
        ("*", "zstd"),
    ] {
        for path in ["/text.html", "/application.json", "/text.plain?2000", "/image.svg+xml"] {
            for answer in both(&proxy, "GET", path, &format!("Accept-Encoding: {accept}\r\n"), "").await {
                assert_eq!((answer.head.status, answer.head.all("content-encoding")), (200, vec![coding]), "{path}");
                let size = if path.ends_with("2000") { 2000 } else { 300_000 };
                assert!(decoded(&answer) == words(size).as_bytes() && answer.body.len() < size / 2, "{path} {accept}");
                assert!(answer.whole && answer.head.all("vary").join(",").contains("Accept-Encoding"));
                assert_eq!(answer.head.field("etag"), Some("W/\"abc\""), "its bytes are others");
                assert!(
                    answer.head.field("content-length").is_none_or(|length| length == answer.body.len().to_string())
                );
            }
        }
    }
    let gzip =
        send_with(proxy.address(), "GET", "/text.html", "Host: gzip.test\r\nAccept-Encoding: br, gzip;q=0.1\r\n", "")
            .await;
    assert_eq!(gzip.head.field("content-encoding"), Some("gzip"));
    for (path, fields) in [
        ("/application.x-ndjson", ""),
        ("/text.event-stream", ""),
        ("/application.octet-stream", ""),
        ("/image.png", ""),
        ("/text.html?1000", ""),
        ("/text.html", "X-Want: range\r\n"),
        ("/text.html", "X-Want: encoded\r\n"),
        ("/text.html", "X-Want: no-transform\r\n"),
    ] {
        for answer in both(&proxy, "GET", path, &format!("Accept-Encoding: gzip, br, zstd\r\n{fields}"), "").await {
            let size = if path.ends_with("1000") { 1000 } else { 300_000 };
            assert!(answer.body == words(size).as_bytes(), "{path} {fields}: {}", answer.head.text);
        }
    }
    for accept in ["", "Accept-Encoding: identity\r\n", "Accept-Encoding: gzip;q=0\r\n", "Accept-Encoding: deflate\r\n"]
    {
        for answer in both(&proxy, "GET", "/text.html", accept, "").await {
            assert_eq!((answer.head.field("content-encoding"), answer.body.len()), (None, 300_000), "{accept}");
            assert!(answer.head.all("vary").join(",").contains("Accept-Encoding"), "another would get another");
        }
    }
}

/// What a client could show of a compressed answer before the server has sent all of it.
#[tokio::test(flavor = "multi_thread")]
async fn a_compressed_answer_is_not_held_back() {
    for (coding, kind, compressed) in [
        ("gzip", "text/plain", true),
        ("br", "text/plain", true),
        ("zstd", "text/plain", true),
        ("gzip", "application/x-ndjson", false),
        ("gzip", "text/event-stream", false),
    ] {
        let head = format!("HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nTransfer-Encoding: chunked\r\n\r\n");
        let script = Script::new(vec![
            Step::ReadRequest,
            Step::Write(format!("{head}5\r\nfirst\r\n").into()),
            Step::Gate,
            Step::Write("4\r\nlast\r\n0\r\n\r\n".into()),
        ]);
        let server = RawUpstream::start(script).await.expect("a server");
        server.gate().close();
        let proxy = before(&server.url(), "  - { name: all, upstream: fleet, compress: true }").await;
        let mut client = H1::connect(proxy.address()).await;
        client.send(request("GET", "/", &format!("Accept-Encoding: {coding}\r\n"), "")).await;
        let head = client.reader.head().await;
        assert_eq!(head.field("content-encoding"), compressed.then_some(coding), "{kind}");
        let mut body = Vec::new();
        let shown = |body: &[u8]| -> Vec<u8> {
            let mut plain = Vec::new();
            // What has not come yet is an error to these readers; what has come is there.
            match (compressed, coding) {
                (false, _) => plain = body.to_vec(),
                (_, "gzip") => drop(GzDecoder::new(body).read_to_end(&mut plain)),
                (_, "br") => drop(brotli::Decompressor::new(body, 4096).read_to_end(&mut plain)),
                _ => drop(zstd::Decoder::new(body).expect("zstd").read_to_end(&mut plain)),
            }
            plain
        };
        while shown(&body) != b"first" {
            match client.reader.chunk().await {
                Chunk::Data(piece) => body.extend_from_slice(&piece),
                other => panic!("{coding} {kind}: {other:?} after {body:?}"),
            }
        }
        server.gate().open();
        while let Chunk::Data(piece) = client.reader.chunk().await {
            body.extend_from_slice(&piece);
        }
        assert_eq!(shown(&body), b"firstlast", "{coding}");
    }
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(bytes).expect("encoded");
    encoder.finish().expect("encoded")
}

fn zstd(bytes: &[u8]) -> Vec<u8> {
    zstd::encode_all(bytes, 3).expect("encoded")
}

/// The field that says how a body is compressed.
fn coded(coding: &str) -> String {
    format!("Content-Encoding: {coding}\r\n")
}

#[tokio::test(flavor = "multi_thread")]
async fn compressed_requests_are_refused_or_decoded() {
    let (host, proxy) = ollama("", "").await;
    for coding in ["gzip", "zstd", "br", "gzip, gzip"] {
        for answer in posts(&proxy, "/api/generate", &coded(coding), &gzip(generate("llava").as_bytes())).await {
            assert_eq!((answer.head.status, answer.reason()), (415, Some("unsupported_encoding")), "{coding}");
        }
    }
    assert_eq!(inference(&host), 0);
    let (host, proxy) = ollama(", request_encoding: decode", "").await;
    for size in [200, 300_000] {
        for first in [true, false] {
            let body = sized("llava", size, first);
            for (coding, encoded) in
                [("gzip", gzip(&body)), ("x-gzip", gzip(&body)), ("zstd", zstd(&body)), ("identity", body.clone())]
            {
                for answer in posts(&proxy, "/api/generate", &coded(coding), &encoded).await {
                    assert_eq!(answer.head.status, 200, "{coding} {size}: {}", answer.text());
                    let entry = host.ledger().inference().pop().expect("the request");
                    assert_eq!(entry.body_sha256, Some(sha256(&body)), "{coding} {size}");
                    assert_eq!(entry.header("content-encoding").filter(|coding| *coding != "identity"), None);
                }
            }
        }
    }
    let ran = inference(&host);
    let good = gzip(generate("llava").as_bytes());
    let mut broken = good.clone();
    broken[20] ^= 0xff;
    for (coding, body, status) in [
        ("br", good.clone(), 415),
        ("gzip, gzip", gzip(&good), 415),
        ("gzip", broken, 400),
        ("gzip", good[..good.len() - 4].to_vec(), 400),
        ("gzip", generate("llava").into_bytes(), 400),
        ("zstd", good.clone(), 400),
        ("zstd", zstd(generate("llava").as_bytes())[..20].to_vec(), 400),
        ("gzip", gzip(br#"{"model":"llava","model":"other","prompt":""}"#), 400),
    ] {
        for answer in posts(&proxy, "/api/generate", &coded(coding), &body).await {
            assert_eq!(answer.head.status, status, "{coding}: {}", answer.text());
        }
    }
    let executed = host.ledger().inference().into_iter().filter(|entry| entry.body_sha256.is_some()).count();
    assert_eq!(executed, ran, "nothing of that was run");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_decodes_to_far_more_than_it_is_goes_nowhere() {
    let (host, proxy) = ollama(", request_encoding: decode, limits: { request_body: 32MiB }", "").await;
    // Far above the ratio, and slowly above the size.
    let bomb = [br#"{"model":"llava","prompt":""#.as_slice(), &vec![b' '; 30 << 20]].concat();
    let large = sized("llava", 33 << 20, true);
    for (coding, body) in [("gzip", gzip(&bomb)), ("zstd", zstd(&bomb)), ("gzip", gzip(&large)), ("zstd", zstd(&large))]
    {
        for answer in posts(&proxy, "/api/generate", &coded(coding), &body).await {
            assert_eq!((answer.head.status, answer.reason()), (413, Some("body_too_large")), "{coding} {}", body.len());
        }
    }
    assert!(host.ledger().inference().iter().all(|entry| entry.body_sha256.is_none() && entry.tokens == 0));
    host.ledger().wait_until(PATIENCE, |ledger| ledger.in_flight() == 0).await.expect("all are over");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plain_server_gets_compressed_bodies_as_they_are_unless_the_route_says_otherwise() {
    let server = Small::start(|got| Response::new(Full::new(sha256(&got.body).into()))).await;
    let routes = "  - { name: decode, match: { path: /decode }, upstream: fleet, request_encoding: decode }\n  \
                  - { name: deny, match: { path: /deny }, upstream: fleet, request_encoding: deny }\n  \
                  - { name: all, upstream: fleet }";
    let proxy = before(&server.url(), routes).await;
    let (plain, coded) = (words(5000), gzip(words(5000).as_bytes()));
    for (path, status, wanted) in
        [("/", 200, sha256(&coded)), ("/decode", 200, sha256(plain.as_bytes())), ("/deny", 415, String::new())]
    {
        let answer = send_with(proxy.address(), "POST", path, "Content-Encoding: gzip\r\n", &coded).await;
        assert_eq!(answer.head.status, status, "{path}");
        assert!(status != 200 || answer.text() == wanted, "{path}");
    }
}
