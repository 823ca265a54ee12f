//! Answers that are kept: what servers are asked for, what clients get, and when nothing is kept.

#[path = "response_cache/bodies.rs"]
mod bodies;
#[path = "response_cache/flights.rs"]
mod flights;
#[path = "response_cache/origin.rs"]
mod origin;
#[path = "response_cache/purges.rs"]
mod purges;
#[path = "response_cache/secrets.rs"]
mod secrets;
#[path = "response_cache/stale.rs"]
mod stale;
mod support;

use origin::{Gate, Origin, Step, answer, good};
use support::fleet::send_with;
use support::wire::{Answer, H1, H2, proxy};
use support::{Proxy, http_yaml};

/// Nothing asks the server but what is tested.
const QUIET: &str = "health: { active: off }";
const CACHE: &str = "cache: {}";

async fn before(origin: &Origin, route: &str) -> Proxy {
    proxy(http_yaml(&[origin.url()], route, QUIET)).await
}

async fn get(proxy: &Proxy, path: &str) -> Answer {
    get_with(proxy, path, "").await
}

async fn get_with(proxy: &Proxy, path: &str, fields: &str) -> Answer {
    send_with(proxy.address(), "GET", path, &format!("Host: a.test\r\n{fields}"), "").await
}

/// What the answer says of the cache, without how long it is fresh.
fn told(answer: &Answer) -> String {
    assert_eq!(answer.head.all("cache-status").len(), 1, "{}", answer.head.text);
    let text = answer.head.field("cache-status").expect("told");
    text.split("; ").filter(|part| !part.starts_with("ttl=")).collect::<Vec<_>>().join("; ")
}

fn requests(result: &str) -> String {
    format!("arriero_cache_requests_total{{route=\"all\",result=\"{result}\"}}")
}

const KEPT: &str = "arriero; fwd=uri-miss; stored";

/// What a server answers, and what is said of it.
const ROWS: &[(&str, &str, &str)] = &[
    ("200 OK", "Cache-Control: max-age=60\r\n", KEPT),
    ("200 OK", "CACHE-CONTROL: Public, Max-Age=\"60\"\r\n", KEPT),
    ("200 OK", "Cache-Control: s-maxage=60, max-age=0\r\n", KEPT),
    ("200 OK", "Expires: Fri, 01 Jan 2100 00:00:00 GMT\r\n", KEPT),
    ("404 Not Found", "Cache-Control: max-age=60\r\n", KEPT),
    ("301 Moved Permanently", "Cache-Control: max-age=60\r\nLocation: /x\r\n", KEPT),
    ("302 Found", "Cache-Control: max-age=60\r\nLocation: /x\r\n", KEPT),
    ("200 OK", "", "arriero; fwd=uri-miss; detail=lifetime"),
    ("200 OK", "Last-Modified: Fri, 01 Jan 2010 00:00:00 GMT\r\n", "arriero; fwd=uri-miss; detail=lifetime"),
    ("200 OK", "Cache-Control: max-age=60, no-store\r\n", "arriero; fwd=uri-miss; detail=no_store"),
    ("200 OK", "Cache-Control: max-age=60, Private\r\n", "arriero; fwd=uri-miss; detail=private"),
    ("200 OK", "Cache-Control: max-age=60\r\nSet-Cookie: a=b\r\n", "arriero; fwd=uri-miss; detail=set_cookie"),
    ("200 OK", "Cache-Control: max-age=60\r\nVary: *\r\n", "arriero; fwd=uri-miss; detail=vary"),
    (
        "200 OK",
        "Cache-Control: max-age=60\r\nContent-Type: text/event-stream\r\n",
        "arriero; fwd=uri-miss; detail=endless",
    ),
    (
        "206 Partial Content",
        "Cache-Control: max-age=60\r\nContent-Range: bytes 0-3/9\r\n",
        "arriero; fwd=uri-miss; detail=status",
    ),
    ("503 Service Unavailable", "Cache-Control: max-age=60\r\n", "arriero; fwd=uri-miss; detail=status"),
    ("201 Created", "Cache-Control: max-age=60\r\n", "arriero; fwd=uri-miss; detail=status"),
];

#[tokio::test(flavor = "multi_thread")]
async fn what_a_server_allows_is_kept_and_nothing_else() {
    let origin = Origin::start(|seen| {
        let number: usize = seen.target[1..].parse().expect("a number");
        let (status, fields, _) = ROWS[number];
        answer(status, fields, "text")
    })
    .await;
    let proxy = before(&origin, CACHE).await;
    for (number, (status, fields, wanted)) in ROWS.iter().enumerate() {
        let path = format!("/{number}");
        let first = get(&proxy, &path).await;
        assert_eq!((told(&first).as_str(), first.text().as_str()), (*wanted, "text"), "{status} {fields}");
        let count = origin.count();
        let second = get(&proxy, &path).await;
        let is_hit = origin.count() == count;
        assert_eq!(is_hit, *wanted == KEPT, "{status} {fields}");
        assert_eq!((first.head.status, first.text()), (second.head.status, second.text()));
        if is_hit {
            assert_eq!(told(&second), "arriero; hit");
            let mut fields = second.head.fields.clone();
            fields.retain(|(name, _)| !matches!(name.as_str(), "age" | "cache-status" | "x-request-id" | "date"));
            let mut before = first.head.fields.clone();
            before.retain(|(name, _)| !matches!(name.as_str(), "cache-status" | "x-request-id" | "date"));
            fields.sort();
            before.sort();
            assert_eq!(fields, before);
            let age: u64 = second.head.field("age").and_then(|text| text.parse().ok()).expect("an age");
            assert!(age < 30 && second.head.field("date").is_some(), "{}", second.head.text);
        }
    }
    let hits = ROWS.iter().filter(|row| row.2 == KEPT).count();
    assert_eq!(proxy.metric(&requests("hit")).await, hits as f64);
    assert_eq!(proxy.metric(&requests("miss")).await, (2 * ROWS.len() - hits) as f64);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_file_says_how_long_what_says_nothing_is_kept() {
    let origin = Origin::start(|_| good("", "text")).await;
    let proxy = before(&origin, "cache: { default_ttl: 1h }").await;
    assert_eq!(told(&get(&proxy, "/").await), "arriero; fwd=uri-miss; stored");
    let hit = get(&proxy, "/").await;
    assert_eq!(told(&hit), "arriero; hit");
    let ttl = hit.head.field("cache-status").and_then(|text| text.split("ttl=").nth(1)?.parse::<i64>().ok());
    assert!(ttl.is_some_and(|ttl| (3500..=3600).contains(&ttl)), "{}", hit.head.text);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_says_what_it_wants() {
    let origin = Origin::start(|seen| {
        good("Cache-Control: max-age=60\r\nAge: 30\r\nETag: \"a\"\r\n", format!("{}", seen.number))
    })
    .await;
    let proxy = before(&origin, CACHE).await;
    let ask = async |fields: &str| {
        let answer = get_with(&proxy, "/", fields).await;
        (answer.head.status, told(&answer), answer.text())
    };
    let is = |told: &str, body: &str| (200, told.to_owned(), body.to_owned());
    let nothing = get_with(&proxy, "/", "Cache-Control: only-if-cached\r\n").await;
    assert_eq!((nothing.head.status, nothing.reason(), origin.count()), (504, Some("not_kept"), 0));
    assert_eq!(ask("Cache-Control: no-store\r\n").await, is("arriero; fwd=request", "0"));
    assert_eq!(ask("").await, is("arriero; fwd=uri-miss; stored", "1"), "that was not kept");
    assert_eq!(ask("").await, is("arriero; hit", "1"));
    assert_eq!(ask("Cache-Control: max-age=50, min-fresh=20\r\n").await, is("arriero; hit", "1"));
    assert_eq!(ask("Cache-Control: only-if-cached\r\n").await, is("arriero; hit", "1"));
    assert_eq!(ask("Cache-Control: max-age=20\r\n").await, is("arriero; fwd=request; stored", "2"));
    assert_eq!(ask("Cache-Control: min-fresh=40\r\n").await, is("arriero; fwd=request; stored", "3"));
    assert_eq!(ask("Pragma: no-cache\r\n").await, is("arriero; fwd=request; stored", "4"));
    assert_eq!(ask("Cache-Control: no-cache\r\n").await, is("arriero; fwd=request; stored", "5"));
    assert_eq!(ask("").await, is("arriero; hit", "5"));
    assert_eq!(ask("If-Match: \"x\"\r\n").await, is("arriero; fwd=bypass; detail=unfit", "6"));
    assert_eq!(origin.seen()[2].field("if-none-match"), Some("\"a\""), "it is asked whether what is kept still holds");
    // Where the file says so, that counts for nothing.
    let proxy = before(&origin, "cache: { respect_client: false }").await;
    get(&proxy, "/").await;
    for fields in ["Cache-Control: no-cache\r\n", "Cache-Control: no-store\r\n", "Pragma: no-cache\r\n"] {
        assert_eq!(told(&get_with(&proxy, "/", fields).await), "arriero; hit", "{fields}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_tells_answers_apart_is_another_entry() {
    let origin = Origin::start(|seen| {
        good("Cache-Control: max-age=60\r\n", format!("{} {:?}", seen.target, seen.field("x-tenant")))
    })
    .await;
    let proxy = before(&origin, "cache: { key: { query: [page, q], headers: x-tenant } }").await;
    let ask = async |path: &str, fields: &str| {
        let answer = get_with(&proxy, path, fields).await;
        (told(&answer) == "arriero; hit", answer.text())
    };
    assert_eq!(ask("/a?page=1&utm=x", "").await, (false, "/a?page=1&utm=x None".to_owned()));
    assert_eq!(ask("/a?utm=y&page=1", "").await, (true, "/a?page=1&utm=x None".to_owned()));
    for (path, fields) in [
        ("/a?page=2", ""),
        ("/a", ""),
        ("/A", ""),
        ("/a?q=1&page=1", ""),
        ("/a?page=1", "X-Tenant: b\r\n"),
        ("/a?page=1", "X-Tenant: c\r\n"),
        ("/a?page=1", "X-Tenant:\r\n"),
    ] {
        assert!(!ask(path, fields).await.0, "{path} {fields}");
        assert!(ask(path, fields).await.0, "{path} {fields}");
    }
    let other = send_with(proxy.address(), "GET", "/a?page=1", "Host: b.test\r\n", "").await;
    assert_eq!(told(&other), "arriero; fwd=uri-miss; stored");
    let same = send_with(proxy.address(), "GET", "/a?page=1", "Host: A.test:80\r\n", "").await;
    assert_eq!(told(&same), "arriero; hit");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_varies_is_given_to_whom_it_fits() {
    let origin = Origin::start(|seen| {
        let language = seen.field("accept-language").unwrap_or("none").to_owned();
        good("Cache-Control: max-age=60\r\nVary: Accept-Language\r\n", language)
    })
    .await;
    let proxy = before(&origin, CACHE).await;
    for (language, wanted) in [
        ("de", "arriero; fwd=uri-miss; stored"),
        ("en", "arriero; fwd=vary-miss; stored"),
        ("de", "arriero; hit"),
        ("en", "arriero; hit"),
        ("de, en", "arriero; fwd=vary-miss; stored"),
    ] {
        let answer = get_with(&proxy, "/", &format!("Accept-Language: {language}\r\n")).await;
        assert_eq!((told(&answer).as_str(), answer.text().as_str()), (wanted, language));
    }
    assert_eq!(get(&proxy, "/").await.text(), "none");
    assert_eq!(origin.count(), 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_decides_about_a_request_comes_before_what_is_kept() {
    let origin = Origin::start(|_| good("Cache-Control: max-age=60\r\n", "text")).await;
    let keys = support::keys::KeysFile::new(&[("00000007", "")]);
    let route = "cache: { scope: shared, authorized: true }\nrate_limits: [{ key: api_key, rate: 1/d, burst: 1 }]";
    let proxy = proxy(http_yaml(&[origin.url()], route, QUIET) + &keys.yaml()).await;
    let key = support::keys::bearer("00000007");
    assert_eq!(told(&get_with(&proxy, "/", &key).await), "arriero; fwd=uri-miss; stored");
    assert_eq!(get(&proxy, "/").await.head.status, 401);
    // It comes also while nobody is there.
    drop(origin);
    assert_eq!(told(&get_with(&proxy, "/", &key).await), "arriero; hit");
    let limited = get_with(&proxy, "/", &key).await;
    assert_eq!((limited.head.status, limited.reason()), (429, Some("rate_limited")));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_no_cache_has_to_do_with_passes() {
    let origin = Origin::start(|_| good("Cache-Control: max-age=60\r\n", "text")).await;
    let proxy = before(&origin, CACHE).await;
    let mut client = H1::connect(proxy.address()).await;
    for _ in 0..2 {
        let answer = client.ask("GET / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 2\r\n\r\nhi").await;
        assert_eq!(told(&answer), "arriero; fwd=bypass; detail=unfit");
    }
    for _ in 0..2 {
        let answer = client.ask("OPTIONS / HTTP/1.1\r\nHost: a.test\r\n\r\n").await;
        assert_eq!(answer.head.field("cache-status"), None);
    }
    assert_eq!(origin.count(), 4);
    assert_eq!(proxy.metric("arriero_cache_bypassed_total{route=\"all\",why=\"unfit\"}").await, 2.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reload_keeps_what_is_kept_unless_others_would_get_it() {
    let origin = Origin::start(|_| good("Cache-Control: max-age=60\r\n", "text")).await;
    let proxy = before(&origin, CACHE).await;
    get(&proxy, "/").await;
    let reload = async |route: &str| {
        proxy.rewrite(&http_yaml(&[origin.url()], route, QUIET));
        support::admin::order(&proxy, "/config/reload", "").await;
        told(&get(&proxy, "/").await)
    };
    assert_eq!(reload("cache: { max_size: 2MiB, default_ttl: 5s, stale_if_error: 1h }").await, "arriero; hit");
    let caches = support::admin::show(&proxy, "/caches").await;
    assert_eq!(caches["caches"][0]["maxBytes"], 2 << 20, "{caches}");
    assert_eq!(reload("cache: { scope: shared }").await, "arriero; fwd=uri-miss; stored");
    assert_eq!(reload("cache: { scope: shared, cookies: ignore }").await, "arriero; fwd=uri-miss; stored");
    assert_eq!(
        reload("cache: { scope: shared, cookies: ignore }\nrewrite: { add_prefix: /x }").await,
        "arriero; fwd=uri-miss; stored"
    );
}
