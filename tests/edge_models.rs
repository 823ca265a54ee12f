//! What may be asked of Ollama's servers, through the proxy: verbs, paths in disguise, models that run elsewhere, caps,
//! and bodies that two readers would read in two ways. The ledger of the host is the witness.

mod support;

use arriero::demo::{Entry, Host, Outcome};
use bytes::Bytes;
use support::edge::{both, ollama, posts};
use support::fleet::{generate, request, send, send_with};
use support::keys::{KeysFile, bearer};
use support::wire::{H1, H2, Upload};
use support::{PATIENCE, raw};
use tokio::sync::mpsc::Sender;

/// What the host was asked for beside checks and lists.
fn asked(host: &Host) -> Vec<String> {
    let own = ["/api/version", "/api/tags", "/api/ps", "/v1/models"];
    let entries = host.ledger().find(|entry| !own.contains(&entry.path.as_str()));
    entries.iter().map(|entry| format!("{} {}", entry.method, entry.path)).collect()
}

/// Requests of which the host got all, so that it acted on them.
fn acted_on(host: &Host) -> Vec<Entry> {
    host.ledger().find(|entry| entry.method == "POST" && entry.body_sha256.is_some())
}

const VERBS: [(&str, &str, &str); 14] = [
    ("POST", "/api/pull", r#"{"model":"llava"}"#),
    ("POST", "/api/push", r#"{"model":"llava"}"#),
    ("POST", "/api/create", r#"{"model":"new","from":"llava"}"#),
    ("POST", "/api/copy", r#"{"source":"llava","destination":"new"}"#),
    ("DELETE", "/api/delete", r#"{"model":"mistral"}"#),
    ("POST", "/api/blobs/sha256:00", "blob"),
    ("HEAD", "/api/blobs/sha256:00", ""),
    ("POST", "/api/me", ""),
    ("POST", "/api/signout", ""),
    ("DELETE", "/api/user/keys/abc", ""),
    ("POST", "/api/experimental/web_search", r#"{"query":"x"}"#),
    ("POST", "/api/experimental/web_fetch", r#"{"url":"http://169.254.169.254/"}"#),
    ("GET", "/debug/pprof/heap", ""),
    ("GET", "/debug/vars", ""),
];

#[tokio::test(flavor = "multi_thread")]
async fn management_needs_the_route_and_the_key() {
    let keys = KeysFile::new(&[("0000000a", ""), ("0000000b", "scopes: [inference, management]")]);
    let (plain, without) = ollama("", "").await;
    let (keyed, denied) = ollama("", &keys.yaml()).await;
    let (open, nobody) = ollama(", management: allow", "").await;
    let (optional, anonymous) = ollama(", management: allow, auth: optional", &keys.yaml()).await;
    let (allowed, scoped) = ollama(", management: allow", &keys.yaml()).await;
    for (method, path, body) in VERBS {
        let mut refused = vec![
            (&without, "", 403, "endpoint_denied"),
            (&denied, "0000000b", 403, "endpoint_denied"),
            (&nobody, "", 403, "forbidden"),
            (&anonymous, "", 403, "forbidden"),
            (&scoped, "0000000a", 403, "forbidden"),
        ];
        refused.push((&scoped, "", 401, "unauthorized"));
        for (proxy, id, status, reason) in refused {
            let fields = if id.is_empty() { String::new() } else { bearer(id) };
            let answers = if method == "HEAD" {
                vec![send_with(proxy.address(), method, path, &fields, body).await]
            } else {
                both(proxy, method, path, &fields, body).await.into()
            };
            for answer in answers {
                assert_eq!((answer.head.status, answer.reason()), (status, Some(reason)), "{method} {path} {id}");
            }
        }
        send_with(scoped.address(), method, path, &bearer("0000000b"), body).await;
        let reached = asked(&allowed);
        assert_eq!(reached.last(), Some(&format!("{method} {path}")), "{reached:?}");
    }
    assert_eq!(asked(&allowed).len(), VERBS.len());
    for host in [plain, keyed, open, optional] {
        assert_eq!(asked(&host), [""; 0], "refused before any server");
    }
}

/// The targets of `reliability.md`, section 1d: the decision of `POST /api/pull`, or a refusal, and never a server.
const DISGUISES: [&str; 33] = [
    "/api/pull",
    "/api/pull/",
    "/api/pull?",
    "/api/pull?x=/api/chat",
    "/api/pull#",
    "//api/pull",
    "/api//pull",
    "/./api/pull",
    "/api/./pull",
    "/api/chat/../pull",
    "/api/%2e%2e/api/pull",
    "/api/chat/..%2fpull",
    "/api%2Fpull",
    "/api%2fpull",
    "/%61pi/pull",
    "/%2561pi/pull",
    "/api%5Cpull",
    "/api\\pull",
    "/api/pull%00",
    "/api/pull%20",
    "/api/pull%0a",
    "/api/pull;a=b",
    "/api;x/pull",
    "/API/pull",
    "/Api/Pull",
    "/api/pull.",
    "/api/pull%ef%bc%8f",
    "/api/%c0%afpull",
    "/\u{ff41}pi/pull",
    "http://a.test/api/pull",
    "http://evil.test/api/pull",
    "*",
    "/api/generate/../../api/pull",
];

#[tokio::test(flavor = "multi_thread")]
async fn a_pull_in_disguise_reaches_no_server() {
    let (host, proxy) = ollama("", "").await;
    let keys = KeysFile::new(&[("0000000b", "")]);
    let (behind, rewriting) = ollama(", management: allow, rewrite: { strip_prefix: /ollama }", &keys.yaml()).await;
    let body = r#"{"model":"llava"}"#;
    for target in DISGUISES {
        // Bare bytes: what clients' libraries would tidy up stays as it is.
        let bytes = |prefix: &str, fields: &str| {
            format!(
                "POST {prefix}{target} HTTP/1.1\r\nHost: a.test\r\n{fields}Connection: close\r\nContent-Length: {}\r\n\r\n{body}",
                body.len()
            )
        };
        let status = |answer: Vec<u8>| String::from_utf8_lossy(&answer)[9..12].parse::<u16>().expect("a status");
        let plain = status(raw(proxy.address(), bytes("", "").as_bytes()).await);
        let sound = matches!(target, "/api/pull" | "/api/pull?" | "/api/pull?x=/api/chat" | "/%61pi/pull");
        let other = matches!(target, "/api/pull/" | "/API/pull" | "/Api/Pull" | "/api/pull.");
        // A form that means the plain path gets the plain path's decision; what is another path there is none.
        let wanted = if sound || target == "http://a.test/api/pull" {
            403
        } else if other {
            404
        } else {
            400
        };
        assert!(plain == wanted || plain == 400 && target.starts_with("http"), "{target}: {plain}, not {wanted}");
        if target.starts_with('/') {
            let fields = bearer("0000000b");
            let below = status(raw(rewriting.address(), bytes("/ollama", &fields).as_bytes()).await);
            assert!([400, 403, 404].contains(&below), "/ollama{target}: {below}");
        }
        let mut request = H2::request("POST", "/", Upload::new(None).1);
        if let Some(uri) =
            target.starts_with('/').then(|| format!("http://arriero.test{target}").parse().ok()).flatten()
        {
            *request.uri_mut() = uri;
            let answer = H2::connect(proxy.address()).await.ask(request, body.into()).await;
            // This client leaves out a fragment.
            let wanted = if target == "/api/pull#" { 403 } else { wanted };
            assert_eq!(answer.head.status, wanted, "{target} over HTTP/2");
        }
    }
    assert_eq!((asked(&host), asked(&behind)), (vec![], vec![]));
}

#[tokio::test(flavor = "multi_thread")]
async fn other_disguises_are_seen_through_as_well() {
    let (host, proxy) = ollama("", "").await;
    for (method, path, fields, allowed) in [
        ("HEAD", "/api/blobs/sha256:..%2f..%2fetc", "", &[400][..]),
        ("delete", "/api/delete", "", &[400, 405]),
        ("Delete", "/api/delete", "", &[400, 405]),
        ("POST", "/api/delete", "X-HTTP-Method-Override: DELETE\r\n", &[405]),
        ("GET", "/api/generate", "X-HTTP-Method-Override: POST\r\n", &[405]),
        ("HEAD", "/api/ps", "", &[405]),
        ("GET", "/api/pull", "", &[403, 405]),
        ("OPTIONS", "/api/pull", "", &[403, 405]),
        ("GET", "/v1/models/..%2F..%2Fapi%2Fpull", "", &[400]),
        ("GET", "/v1/models/a/../../../api/pull", "", &[400]),
        ("GET", "/api/unknown", "", &[404]),
        ("GET", "/metrics", "", &[404]),
    ] {
        let answer = send_with(proxy.address(), method, path, fields, "").await;
        assert!(allowed.contains(&answer.head.status), "{method} {path}: {}", answer.head.status);
    }
    for field in ["X-Original-URL", "X-Rewrite-URL", "X-Forwarded-Prefix", "X-HTTP-Method-Override"] {
        let fields = format!("{field}: /api/pull\r\n");
        let answer = send_with(proxy.address(), "POST", "/api/generate", &fields, generate("llava")).await;
        assert_eq!(answer.head.status, 200, "it means what its own line says");
    }
    assert_eq!(asked(&host), ["POST /api/generate"; 4]);
}

#[tokio::test(flavor = "multi_thread")]
async fn models_that_run_elsewhere_need_the_routes_word() {
    let (host, proxy) = ollama("", "").await;
    let (other, open) = ollama(", cloud_models: allow", "").await;
    for name in [
        "gpt-oss:120b-cloud",
        "gpt-oss:cloud",
        "GPT-OSS:Cloud",
        "llava:cloud",
        "evil.test/ns/model",
        "http://169.254.169.254/x/y",
        "https://evil.test/ns/model:latest",
    ] {
        for path in ["/api/generate", "/api/chat", "/api/show", "/v1/chat/completions", "/v1/messages"] {
            let body = format!(r#"{{"model":"{name}","messages":[],"prompt":"x","stream":false}}"#);
            for answer in both(&proxy, "POST", path, "", &body).await {
                assert_eq!((answer.head.status, answer.reason()), (403, Some("forbidden")), "{path} {name}");
            }
            let allowed = send(open.address(), "POST", path, &body).await;
            assert_eq!(allowed.head.status, 404, "no server has it, and that is all: {name} {}", allowed.text());
        }
    }
    assert_eq!((asked(&host), asked(&other)), (vec![], vec![]));
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_asks_for_more_than_the_caps_is_told_so_before_a_server_acts() {
    let caps = ", caps: { keep_alive: 1h, num_ctx: 8192, num_predict: 100, num_gpu: 40 }";
    let (host, proxy) = ollama(caps, "").await;
    let native = |more: &str| format!(r#"{{"model":"llava","prompt":"x","stream":false,{more}}}"#);
    for (path, body, key) in [
        ("/api/generate", native(r#""keep_alive":-1"#), "keep_alive"),
        ("/api/generate", native(r#""keep_alive":"-1s""#), "keep_alive"),
        ("/api/generate", native(r#""keep_alive":"61m""#), "keep_alive"),
        ("/api/generate", native(r#""keep_alive":3601"#), "keep_alive"),
        ("/api/generate", native(r#""Keep_Alive":"2h""#), "keep_alive"),
        ("/api/generate", native(r#""\u006beep_alive":"2h""#), "keep_alive"),
        ("/api/generate", native(r#""keep_alive":"soon""#), "keep_alive"),
        ("/api/generate", native(r#""options":{"num_ctx":10000000}"#), "num_ctx"),
        ("/api/generate", native(r#""options":{"num_ctx":1e9}"#), "num_ctx"),
        ("/api/generate", native(r#""options":{"num_predict":-1}"#), "num_predict"),
        ("/api/generate", native(r#""options":{"num_predict":101}"#), "num_predict"),
        ("/api/generate", native(r#""options":{"num_gpu":0}"#), "num_gpu"),
        ("/api/generate", native(r#""options":{"num_gpu":41}"#), "num_gpu"),
        ("/api/chat", r#"{"options":{"num_ctx":8193},"messages":[],"model":"llava"}"#.to_owned(), "num_ctx"),
        ("/api/embed", r#"{"model":"llava","input":"x","keep_alive":-1}"#.to_owned(), "keep_alive"),
        ("/v1/chat/completions", r#"{"model":"llava","messages":[],"max_tokens":101}"#.to_owned(), "max_tokens"),
        (
            "/v1/chat/completions",
            r#"{"model":"llava","messages":[],"max_completion_tokens":101}"#.to_owned(),
            "max_completion_tokens",
        ),
        ("/v1/responses", r#"{"model":"llava","input":"x","max_output_tokens":101}"#.to_owned(), "max_output_tokens"),
        ("/v1/messages", r#"{"model":"llava","messages":[],"max_tokens":101}"#.to_owned(), "max_tokens"),
    ] {
        for answer in posts(&proxy, path, "", body.as_bytes()).await {
            assert_eq!((answer.head.status, answer.reason()), (400, Some("bad_request")), "{path} {body}");
            assert!(answer.text().contains(key), "{body}: {}", answer.text());
        }
    }
    assert!(acted_on(&host).is_empty(), "{:?}", asked(&host));
    for more in [
        r#""keep_alive":"60m","options":{"num_ctx":8192,"num_predict":100,"num_gpu":40}"#,
        r#""keep_alive":0,"options":{"num_gpu":-1}"#,
        r#""options":{"temperature":1}"#,
    ] {
        for answer in posts(&proxy, "/api/generate", "", native(more).as_bytes()).await {
            assert_eq!(answer.head.status, 200, "{more}: {}", answer.text());
        }
    }
    assert_eq!(acted_on(&host).len(), 9);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_can_be_read_in_two_ways_is_refused() {
    let (host, proxy) = ollama("", "").await;
    let deep = |depth: usize| {
        format!(r#"{{"model":"llava","prompt":"x","stream":false,"a":{}{}}}"#, "[".repeat(depth), "]".repeat(depth))
    };
    let escaped_nul = r#"{"model":"lla\u0000va"}"#;
    let bad: Vec<Vec<u8>> = vec![
        br#"{"model":"llava","model":"mistral","prompt":"x"}"#.to_vec(),
        br#"{"model":"llava","model":"llava","prompt":"x"}"#.to_vec(),
        br#"{"model":"llava","MODEL":"mistral","prompt":"x"}"#.to_vec(),
        br#"{"Model":"mistral","prompt":"x","model":"llava"}"#.to_vec(),
        br#"{"model":"llava","mod\u0065l":"mistral","prompt":"x"}"#.to_vec(),
        "{\"model\":\"llava\",\"\u{212a}eep_alive\":1,\"keep_alive\":2}".into(),
        b"{\"model\":\"llava\",\"prompt\":\"\xff\"}".to_vec(),
        b"{\"model\":\"llava\",\"\xc3\":\"x\"}".to_vec(),
        b"{\"model\":\"lla\xffva\"}".to_vec(),
        br#"{"model":"lla\ud800va"}"#.to_vec(),
        escaped_nul.into(),
        b"\xef\xbb\xbf{\"model\":\"llava\"}".to_vec(),
        br#"{"model":"llava","prompt":"x"}{"model":"mistral"}"#.to_vec(),
        br#"{"model":"llava","prompt":"x"} trailing"#.to_vec(),
        br#"[{"model":"llava"}]"#.to_vec(),
        br#"{'model':'llava'}"#.to_vec(),
        br#"{"model":"llava",}"#.to_vec(),
        br#"{"model":"llava","a":01}"#.to_vec(),
        br#"{"model":"llava","a":NaN}"#.to_vec(),
        br#"{"model":"llava" /* x */}"#.to_vec(),
        br#"{"model":"llava""#.to_vec(),
        br#"{"model":null}"#.to_vec(),
        br#"{"model":7}"#.to_vec(),
        br#"{"model":["llava"]}"#.to_vec(),
        br#"{"model":""}"#.to_vec(),
        format!(r#"{{"model":"{}"}}"#, "a".repeat(10 << 10)).into(),
        deep(65).into(),
        deep(10_001).into(),
        Vec::new(),
    ];
    for body in &bad {
        let shown = String::from_utf8_lossy(&body[..body.len().min(100)]).into_owned();
        for (number, answer) in posts(&proxy, "/api/generate", "", body).await.into_iter().enumerate() {
            assert_eq!(answer.head.status, 400, "{shown} (way {number}): {}", answer.text());
            assert!(answer.whole && answer.text().starts_with(r#"{"error":""#), "{shown}: {}", answer.text());
        }
        assert!(acted_on(&host).is_empty(), "{shown}");
    }
    for body in [
        deep(60),
        r#" {"messages":[{"model":"other"}],"mod\u0065l":"llava","prompt":"x","stream":false} "#.to_owned(),
        r#"{"model":" llava ","prompt":"x","stream":false}"#.to_owned(),
    ] {
        for answer in posts(&proxy, "/api/generate", "", body.as_bytes()).await {
            assert_eq!(answer.head.status, 200, "{body}: {}", answer.text());
        }
    }
}

/// What is wrong comes megabytes after the model, when the host has most of the body already.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_found_late_cuts_the_request_off_before_its_end() {
    let (host, proxy) = ollama(", caps: { num_ctx: 8192, keep_alive: 1h }", "").await;
    let before = format!(r#"{{"model":"llava","stream":false,"prompt":"{}""#, "x".repeat(3 << 20));
    let ends: [&[u8]; 10] = [
        br#","model":"mistral"}"#,
        br#","MODEL":"mistral"}"#,
        br#","Stream":true}"#,
        b",\"a\":\"\xff\"}",
        br#","options":{"num_ctx":9000}}"#,
        br#","keep_alive":-1}"#,
        br#"} {"model":"mistral"}"#,
        br#",}"#,
        &[b",\"a\":".as_slice(), &[b'['; 80]].concat(),
        b"",
    ];
    for (number, end) in ends.iter().enumerate() {
        for way in ["length", "chunked", "http2"] {
            let case = format!("{way} {}", String::from_utf8_lossy(end));
            let begun = host.ledger().inference().len();
            let most = async {
                let most = |entry: &Entry| entry.body_bytes > 2 << 20;
                let ledger = host.ledger();
                let wait = ledger.wait_until(PATIENCE, |ledger| ledger.inference().get(begun).is_some_and(most));
                wait.await.unwrap_or_else(|error| panic!("it does not stream: {case}: {error}"));
            };
            let answer = match way {
                "http2" => {
                    let (feeder, upload): (Sender<Bytes>, Upload) = Upload::new(None);
                    let mut client = H2::connect(proxy.address()).await;
                    let feed = async {
                        feeder.send(before.clone().into()).await.expect("taken");
                        most.await;
                        // It may have been refused already.
                        let _ = feeder.send(Bytes::copy_from_slice(end)).await;
                        drop(feeder);
                    };
                    let (response, ()) = tokio::join!(client.send(H2::request("POST", "/api/generate", upload)), feed);
                    support::wire::read(response).await
                }
                _ => {
                    let mut client = H1::connect(proxy.address()).await;
                    let chunked = way == "chunked";
                    // With a length, one byte more is promised than comes: so much for the end.
                    let length = before.len() + end.len();
                    let framing = if chunked {
                        "Transfer-Encoding: chunked".to_owned()
                    } else {
                        format!("Content-Length: {length}")
                    };
                    client.send(format!("POST /api/generate HTTP/1.1\r\nHost: a.test\r\n{framing}\r\n\r\n")).await;
                    let piece = |bytes: &[u8]| match chunked {
                        true => [format!("{:x}\r\n", bytes.len()).as_bytes(), bytes, b"\r\n"].concat(),
                        false => bytes.to_vec(),
                    };
                    client.send(piece(before.as_bytes())).await;
                    if end.is_empty() && !chunked {
                        // All of it has been sent by now: there is nothing to wait for.
                        client.reader.answer().await
                    } else {
                        most.await;
                        let rest = if end.is_empty() { Vec::new() } else { piece(end) };
                        client.send(if chunked { [&rest[..], b"0\r\n\r\n"].concat() } else { rest }).await;
                        client.reader.answer().await
                    }
                }
            };
            assert_eq!((answer.head.status, answer.reason()), (400, Some("bad_request")), "{case}: {}", answer.text());
            let ledger = host.ledger();
            let cut = |entry: &Entry| entry.outcome() == Some(Outcome::ClientGone);
            let gone = ledger.wait_until(PATIENCE, |ledger| ledger.inference().get(begun).is_none_or(cut));
            gone.await.unwrap_or_else(|error| panic!("{case}: {error}"));
            let entries = ledger.inference();
            assert!(entries.len() <= begun + 1, "{case}: sent once at most");
            assert!(entries.iter().all(|entry| entry.body_sha256.is_none() && entry.tokens == 0), "{case} {number}");
        }
    }
    // The same body with a good end runs.
    let body = format!("{before}}}");
    for answer in posts(&proxy, "/api/generate", "", body.as_bytes()).await {
        assert_eq!(answer.head.status, 200, "{}", answer.text());
    }
    let mut kept = H1::connect(proxy.address()).await;
    for _ in 0..2 {
        assert_eq!(kept.ask(request("POST", "/api/generate", "", &body)).await.head.status, 200);
    }
}
