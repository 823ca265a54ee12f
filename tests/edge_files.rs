//! Files of a folder, sticky cookies, and what the access log says and does not say, over real sockets.

mod support;

use std::collections::BTreeSet;
use std::fs;
use std::io::Read;
use std::os::unix::fs::symlink;
use std::path::Path;

use flate2::read::GzDecoder;
use serde_json::Value;
use support::edge::{H2C, both, upstream};
use support::eventually;
use support::fleet::{Small, fleet, generate, request, send, send_with};
use support::keys::{KeysFile, bearer, key, secret};
use support::process::{Program, complete};
use support::wire::{H1, proxy};
use support::{Proxy, raw};

/// A web application on disk, and something beside it that nobody may see.
fn site() -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    let write = |name: &str, text: &str| {
        let file = folder.path().join(name);
        fs::create_dir_all(file.parent().expect("a folder")).expect("made");
        fs::write(file, text).expect("written");
    };
    write("secret.txt", "SECRET");
    write("www/index.html", "<h1>app</h1>");
    write("www/assets/app.js", &"console.log(1);\n".repeat(1000));
    write("www/docs/index.html", "<h1>docs</h1>");
    write("www/ten.txt", "0123456789");
    write("www/a b.txt", "spaced");
    write("www/.env", "SECRET");
    write("www/.git/config", "SECRET");
    write("www/.well-known/acme", "token");
    write("www/style.css", "body{}");
    write("www/style.css.gz", "pretend to be gzip");
    symlink(folder.path().join("secret.txt"), folder.path().join("www/link.txt")).expect("linked");
    symlink(folder.path(), folder.path().join("www/up")).expect("linked");
    symlink("ten.txt", folder.path().join("www/inside.txt")).expect("linked");
    folder
}

async fn serving(folder: &Path, routes: &str) -> Proxy {
    let routes = routes.replace("ROOT", &folder.display().to_string());
    proxy(format!("version: 1\n{H2C}routes:\n{routes}\n")).await
}

#[tokio::test(flavor = "multi_thread")]
async fn files_have_a_type_a_version_and_a_life() {
    let folder = site();
    let files = "files: { root: \"ROOT/www\", cache_control: no-cache, immutable: [\"/assets/*\"] }";
    let proxy = serving(
        folder.path(),
        &format!("  - {{ name: all, {files}, headers: {{ response: {{ set: {{ x-frame-options: DENY }} }} }} }}"),
    )
    .await;
    for (path, kind, body, life) in [
        ("/", "text/html", "<h1>app</h1>", "no-cache"),
        ("/index.html?v=1", "text/html", "<h1>app</h1>", "no-cache"),
        ("/docs/", "text/html", "<h1>docs</h1>", "no-cache"),
        ("/ten.txt", "text/plain", "0123456789", "no-cache"),
        ("/inside.txt", "text/plain", "0123456789", "no-cache"),
        ("/a%20b.txt", "text/plain", "spaced", "no-cache"),
        ("/.well-known/acme", "application/octet-stream", "token", "no-cache"),
        ("/assets/app.js", "text/javascript", &"console.log(1);\n".repeat(1000), "public, max-age=31536000, immutable"),
    ] {
        for answer in both(&proxy, "GET", path, "", "").await {
            assert_eq!((answer.head.status, answer.text().as_str(), answer.whole), (200, body, true), "{path}");
            assert!(
                answer.head.field("content-type").is_some_and(|found| found.starts_with(kind)),
                "{path}: {}",
                answer.head.text
            );
            assert_eq!(
                (answer.head.field("cache-control"), answer.head.field("x-frame-options")),
                (Some(life), Some("DENY"))
            );
            let tag = answer.head.field("etag").expect("a version").to_owned();
            let date = answer.head.field("last-modified").expect("a date").to_owned();
            for fields in [format!("If-None-Match: \"x\", W/{tag}\r\n"), format!("If-Modified-Since: {date}\r\n")] {
                for same in both(&proxy, "GET", path, &fields, "").await {
                    assert_eq!((same.head.status, same.body.len()), (304, 0), "{path} {fields}");
                    assert_eq!(
                        (same.head.field("etag"), same.head.field("content-length")),
                        (Some(&*tag), None),
                        "{}",
                        same.head.text
                    );
                }
            }
            let other = send_with(
                proxy.address(),
                "GET",
                path,
                &format!("If-None-Match: \"x\"\r\nIf-Modified-Since: {date}\r\n"),
                "",
            )
            .await;
            assert_eq!(other.head.status, 200, "another version");
        }
        let head = send(proxy.address(), "HEAD", path, "").await.head;
        assert_eq!((head.status, head.field("content-length")), (200, Some(&*body.len().to_string())), "{path}");
    }
    for answer in both(&proxy, "GET", "/docs?x=1", "", "").await {
        assert_eq!((answer.head.status, answer.head.field("location")), (301, Some("/docs/?x=1")));
    }
    for answer in both(&proxy, "POST", "/ten.txt", "", "x").await {
        assert_eq!((answer.head.status, answer.head.field("allow")), (405, Some("GET, HEAD")));
    }
    // A change is seen at once, also by whoever has the version before.
    let tag = send(proxy.address(), "GET", "/ten.txt", "").await.head.field("etag").expect("a version").to_owned();
    fs::write(folder.path().join("www/ten.txt"), "changed").expect("written");
    let changed = send_with(proxy.address(), "GET", "/ten.txt", &format!("If-None-Match: {tag}\r\n"), "").await;
    assert_eq!((changed.head.status, changed.text().as_str()), (200, "changed"));
    // 304 and 404 leave the connection as it was.
    let mut client = H1::connect(proxy.address()).await;
    for (path, status) in [("/nowhere", 404), ("/", 200), ("/docs", 301), ("/", 200)] {
        assert_eq!(client.ask(request("GET", path, "", "")).await.head.status, status);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn parts_of_a_file_are_sent_when_asked_for() {
    let folder = site();
    let proxy = serving(folder.path(), "  - { name: all, files: { root: \"ROOT/www\" }, compress: true }").await;
    let tag = send(proxy.address(), "GET", "/ten.txt", "").await.head.field("etag").expect("a version").to_owned();
    for (range, status, body, content_range) in [
        ("bytes=0-3", 206, "0123", Some("bytes 0-3/10")),
        ("bytes=7-", 206, "789", Some("bytes 7-9/10")),
        ("bytes=-2", 206, "89", Some("bytes 8-9/10")),
        ("bytes=8-100", 206, "89", Some("bytes 8-9/10")),
        ("bytes=10-", 416, "", Some("bytes */10")),
        ("bytes=5-2", 200, "0123456789", None),
        ("pages=1-2", 200, "0123456789", None),
    ] {
        for answer in both(&proxy, "GET", "/ten.txt", &format!("Range: {range}\r\nAccept-Encoding: gzip\r\n"), "").await
        {
            assert_eq!((answer.head.status, answer.text().as_str()), (status, body), "{range}");
            assert_eq!(answer.head.field("content-range"), content_range, "{range}");
            assert_eq!(answer.head.field("content-encoding"), None);
        }
    }
    for (condition, status) in [(tag.as_str(), 206), ("\"other\"", 200)] {
        let fields = format!("Range: bytes=0-0\r\nIf-Range: {condition}\r\n");
        assert_eq!(send_with(proxy.address(), "GET", "/ten.txt", &fields, "").await.head.status, status, "{condition}");
    }
    // Compressed on its way, or as it lies beside the plain one.
    for answer in both(&proxy, "GET", "/assets/app.js", "Accept-Encoding: gzip\r\n", "").await {
        let mut plain = String::new();
        GzDecoder::new(&answer.body[..]).read_to_string(&mut plain).expect("gzip");
        assert_eq!(plain, "console.log(1);\n".repeat(1000));
        assert!(answer.head.field("etag").is_some_and(|tag| tag.starts_with("W/")), "{}", answer.head.text);
    }
    for (accept, body, coding) in [("gzip", "pretend to be gzip", Some("gzip")), ("br", "body{}", None)] {
        let answer =
            send_with(proxy.address(), "GET", "/style.css", &format!("Accept-Encoding: {accept}\r\n"), "").await;
        assert_eq!((answer.text().as_str(), answer.head.field("content-encoding")), (body, coding));
        assert!(answer.head.all("vary").join(",").contains("Accept-Encoding"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_beside_the_folder_is_served() {
    let folder = site();
    let routes = "  - { name: app, match: { path: /app/ }, files: { root: \"ROOT/www\", fallback: /index.html }, rewrite: { strip_prefix: /app } }\n  \
                  - { name: all, files: { root: \"ROOT/www\" } }";
    let proxy = serving(folder.path(), routes).await;
    for path in [
        "/../secret.txt",
        "/%2e%2e/secret.txt",
        "/..%2fsecret.txt",
        "/..%5csecret.txt",
        "/docs/../../secret.txt",
        "/docs/%2e%2e/%2e%2e/secret.txt",
        "/docs/..;/..;/secret.txt",
        "//secret.txt",
        "/%2fetc/passwd",
        "//etc/passwd",
        "/link.txt",
        "/up/secret.txt",
        "/.env",
        "/%2eenv",
        "/.git/config",
        "/docs/.well-known/x",
        "/ten.txt/",
        "/ten.txt%00.html",
        "/ten.txt%00",
        "/TEN.TXT",
        "/up",
    ] {
        for prefix in ["", "/app"] {
            let target = format!("{prefix}{path}");
            let answer = send(proxy.address(), "GET", &target, "").await;
            let text = answer.text();
            assert!(!text.contains("SECRET") && !text.contains("root:") && !text.contains("0123"), "{target}: {text}");
            let status = answer.head.status;
            let fallback = status == 200 && prefix == "/app" && text == "<h1>app</h1>";
            assert!(fallback || (400..405).contains(&status), "{target}: {status} {text}");
        }
    }
    // A path of the application's own router.
    for path in ["/app/", "/app/settings/users", "/app/no.js"] {
        for answer in both(&proxy, "GET", path, "", "").await {
            assert_eq!((answer.head.status, answer.text().as_str()), (200, "<h1>app</h1>"), "{path}");
        }
    }
    assert_eq!(send(proxy.address(), "GET", "/app/ten.txt", "").await.text(), "0123456789");
    assert_eq!(send(proxy.address(), "GET", "/settings", "").await.reason(), Some("file_not_found"));
}

#[tokio::test(flavor = "multi_thread")]
async fn hosts_have_folders_of_their_own() {
    let folder = site();
    let routes = "  - { name: docs, match: { host: docs.test }, files: { root: \"ROOT/www/docs\" } }\n  \
                  - { name: app, match: { host: \"*.app.test\" }, files: { root: \"ROOT/www\" } }";
    let proxy = serving(folder.path(), routes).await;
    for (host, status, body) in [
        ("docs.test", 200, "<h1>docs</h1>"),
        ("DOCS.test:80", 200, "<h1>docs</h1>"),
        ("a.app.test", 200, "<h1>app</h1>"),
        ("app.test", 404, ""),
    ] {
        let answer = send_with(proxy.address(), "GET", "/", &format!("Host: {host}\r\n"), "").await;
        assert_eq!(answer.head.status, status, "{host}");
        assert!(status == 404 || answer.text() == body, "{host}: {}", answer.text());
    }
    let foreign = send_with(proxy.address(), "GET", "/assets/app.js", "Host: docs.test\r\n", "").await;
    assert_eq!(foreign.head.status, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_keeps_its_server_by_its_cookie() {
    let servers = [Small::named("a").await, Small::named("b").await, Small::named("c").await];
    let list: Vec<String> = servers.iter().map(|server| format!("{{ url: \"{}\" }}", server.url())).collect();
    let sticky = "balance: { policy: consistent_hash, sticky_cookie: { name: lane, ttl: 1h, path: /x } }";
    let yaml = format!(
        "version: 1\n{H2C}routes: [{{ name: all, upstream: fleet }}]\nupstreams:\n  fleet:\n    kind: http\n    {sticky}\n    servers: [{}]\n",
        list.join(", ")
    );
    let proxy = proxy(yaml).await;
    let who = |text: String| text.split(' ').next().unwrap_or_default().to_owned();
    let mut found = BTreeSet::new();
    for _ in 0..24 {
        for first in both(&proxy, "GET", "/", "", "").await {
            let [cookie] = first.head.all("set-cookie")[..] else { panic!("{}", first.head.text) };
            let (pair, rest) = cookie.split_once(';').expect("attributes");
            assert_eq!(rest, " Path=/x; Max-Age=3600; HttpOnly; SameSite=Lax");
            let server = who(first.text());
            assert!(found.insert(pair.to_owned()), "each client has its own");
            for _ in 0..2 {
                for again in both(&proxy, "GET", "/", &format!("Cookie: a=1; {pair}\r\n"), "").await {
                    assert_eq!((who(again.text()), again.head.field("set-cookie")), (server.clone(), None));
                }
            }
        }
    }
    let loads: Vec<usize> = servers.iter().map(|server| server.got().len()).collect();
    assert!(loads.iter().all(|load| *load > 0), "all servers are used: {loads:?}");
    assert!(
        servers.iter().flat_map(Small::got).any(|got| got.fields.contains_key("cookie")),
        "the cookie is passed on"
    );
}

/// The program with this configuration, in a folder of its own.
async fn program(yaml: &str) -> (tempfile::TempDir, Program) {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("arriero.yaml");
    fs::write(&file, complete(yaml)).expect("written");
    let program = Program::run(&file).await;
    (folder, program)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_log_names_keys_by_their_ids_and_holds_no_secret_and_no_prompt() {
    let fleet = fleet(1, &["llava"]).await;
    let keys = KeysFile::new(&[("0000000a", ""), ("0000000b", "models: [other]")]);
    let yaml = format!(
        "version: 1\nroutes: [{{ name: all, upstream: fleet, management: allow, caps: {{ num_ctx: 4096 }} }}]\n{}{}\
         telemetry: {{ access_log: json, log_level: debug }}\n",
        upstream(&fleet.hosts[0].url(), "ollama"),
        keys.yaml()
    );
    let (_folder, program) = program(&yaml).await;
    let address = program.address();
    let canary = "CANARY-PROMPT";
    let image = "Q0FOQVJZLUlNQUdF";
    let body =
        |more: &str| format!(r#"{{"model":"llava","stream":false,"prompt":"{canary}","images":["{image}"]{more}}}"#);
    let wrong = format!("ak_0000000a_{}", secret("0000000b"));
    let good = bearer("0000000a");
    let query = format!("/api/generate?key={}&q=CANARY-QUERY", key("0000000a"));
    let cases = [
        ("/api/generate", good.clone(), body(""), 200),
        ("/api/generate?q=CANARY-QUERY", good.clone(), body(""), 200),
        ("/api/generate", format!("X-API-Key: {}\r\n", key("0000000a")), body(r#","options":{"num_ctx":5000}"#), 400),
        ("/api/generate", good.clone(), body(r#","model":"CANARY-PROMPT"#), 400),
        ("/api/generate", good.clone(), body(r#","prompt":"CANARY-PROMPT","#), 400),
        ("/api/generate", bearer("0000000b"), body(""), 403),
        ("/api/generate", format!("Authorization: Bearer {wrong}\r\n"), body(""), 401),
        (
            "/api/generate",
            "Cookie: CANARY-COOKIE\r\nReferer: http://a.test/?CANARY-QUERY\r\n".to_owned(),
            body(""),
            401,
        ),
        (query.as_str(), good.clone(), body(""), 400),
        ("/api/pull", good.clone(), r#"{"model":"m","insecure":"CANARY-PROMPT"}"#.to_owned(), 403),
        ("/CANARY-PATH%0d%0a%1b[31m", good.clone(), String::new(), 400),
    ];
    for (number, (path, fields, body, status)) in cases.iter().enumerate() {
        let fields = format!("X-Request-Id: case-{number:02}\r\n{fields}");
        let answer = send_with(address, "POST", path, &fields, body).await;
        assert_eq!(answer.head.status, *status, "{path} {fields}: {}", answer.text());
    }
    let lines = || program.out.text().lines().map(str::to_owned).collect::<Vec<_>>();
    eventually("all are logged", async || lines().len() == cases.len()).await;
    let entry = |line: &String| serde_json::from_str(line).unwrap_or_else(|_| panic!("no JSON: {line}"));
    let mut entries: Vec<Value> = lines().iter().map(entry).collect();
    // A line is written when its request is over, which may be after the next one began.
    entries.sort_by_key(|entry| entry["request_id"].to_string());
    for (entry, (path, fields, _, status)) in entries.iter().zip(&cases) {
        assert_eq!(entry["status"], *status, "{path}: {entry}");
        let known = fields == &good && !path.contains("key=") && !path.contains("PATH");
        assert!(!known || entry["key"] == "0000000a", "{entry}");
        assert_eq!(entry["path"], path.split('?').next().unwrap_or_default(), "{entry}");
    }
    assert_eq!(entries[5]["key"], "0000000b");
    assert_eq!(entries[6].get("key"), None, "who failed is nobody");
    let metrics = String::from_utf8(
        raw(program.admin(), b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").await,
    )
    .expect("text");
    for (what, text) in [("log", program.out.text()), ("messages", program.err.text()), ("metrics", metrics)] {
        for hidden in
            [canary, image, "CANARY-QUERY", "CANARY-COOKIE", &secret("0000000a")[..12], &secret("0000000b")[..12]]
        {
            let shown = text.lines().find(|line| line.contains(hidden));
            assert_eq!(shown, None, "{hidden} in the {what}");
        }
        assert!(!text.contains('\u{1b}') && (what == "log" || !text.contains("CANARY-PATH")), "{what}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_combined_log_is_nginxs() {
    let fleet = fleet(1, &["llava"]).await;
    let yaml = format!(
        "version: 1\nroutes: [{{ name: all, upstream: fleet }}]\n{}telemetry: {{ access_log: combined, log_level: warn }}\n",
        upstream(&fleet.hosts[0].url(), "ollama")
    );
    let (_folder, program) = program(&yaml).await;
    let fields = "Referer: http://a.test/page?secret=1\r\nUser-Agent: curl/8 \"quoted\"\r\n";
    let answer = send_with(program.address(), "POST", "/api/generate?q=1", fields, generate("llava")).await;
    eventually("it is logged", async || program.out.has("\n")).await;
    let text = program.out.text();
    let line = text.strip_suffix('\n').expect("a line");
    let (before, after) =
        line.split_once('[').and_then(|(before, rest)| Some((before, rest.split_once(']')?.1))).expect("a time");
    assert_eq!(before, "127.0.0.1 - - ", "{line}");
    let wanted = format!(
        " \"POST /api/generate HTTP/1.1\" 200 {} \"http://a.test/page\" \"curl/8 \\x22quoted\\x22\"",
        answer.body.len()
    );
    assert_eq!(after, wanted, "{line}");
}
