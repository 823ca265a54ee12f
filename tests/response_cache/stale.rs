//! What is not fresh any more: confirmed, given while it is asked for anew, given in the place of an error.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn a_server_confirms_what_is_kept() {
    let origin = Origin::start(|seen| match seen.field("if-none-match") {
        Some("\"v1\"") => vec![Step::Write(
            b"HTTP/1.1 304 Not Modified\r\nETag: \"v1\"\r\nCache-Control: max-age=60\r\nX-New: yes\r\n\r\n".to_vec(),
        )],
        _ => good("Cache-Control: max-age=60\r\nAge: 60\r\nETag: \"v1\"\r\nX-Old: yes\r\n", "text"),
    })
    .await;
    let proxy = before(&origin, CACHE).await;
    assert_eq!(told(&get(&proxy, "/").await), "arriero; fwd=uri-miss; stored");
    let confirmed = get(&proxy, "/").await;
    assert_eq!((confirmed.head.status, told(&confirmed).as_str()), (200, "arriero; fwd=stale; fwd-status=304"));
    assert_eq!((confirmed.text().as_str(), confirmed.head.field("age")), ("text", Some("0")));
    assert_eq!((confirmed.head.field("x-new"), confirmed.head.field("x-old")), (Some("yes"), Some("yes")));
    let hit = get(&proxy, "/").await;
    assert_eq!(
        (told(&hit).as_str(), hit.text().as_str(), hit.head.field("x-new")),
        ("arriero; hit", "text", Some("yes"))
    );
    assert_eq!(origin.count(), 2);
    assert_eq!(proxy.metric(&requests("revalidated")).await, 1.0);
    // Its own condition is answered by what is kept, whatever the server was asked.
    let again = get_with(&proxy, "/", "Cache-Control: no-cache\r\nIf-None-Match: \"v1\"\r\n").await;
    assert_eq!((again.head.status, told(&again).as_str()), (304, "arriero; fwd=request; fwd-status=304"));
    let other = get_with(&proxy, "/", "Cache-Control: no-cache\r\nIf-None-Match: \"v0\"\r\n").await;
    assert_eq!((other.head.status, other.text().as_str()), (200, "text"));
    let part = get_with(&proxy, "/", "Cache-Control: no-cache\r\nRange: bytes=1-2\r\n").await;
    assert_eq!((part.head.status, part.text().as_str()), (206, "ex"));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_confirmed_without_a_date_is_fresh_from_then_on() {
    let origin = Origin::start(|seen| match seen.field("if-none-match") {
        Some(_) => vec![Step::Write(b"HTTP/1.1 304 Not Modified\r\nCache-Control: max-age=60\r\n\r\n".to_vec())],
        // As old as a server's clock that is wrong, or as what it has from elsewhere.
        None => good("Cache-Control: max-age=60\r\nDate: Sun, 06 Nov 1994 08:49:37 GMT\r\nETag: \"v1\"\r\n", "text"),
    })
    .await;
    let proxy = before(&origin, CACHE).await;
    assert_eq!(told(&get(&proxy, "/").await), "arriero; fwd=uri-miss; stored");
    assert_eq!(told(&get(&proxy, "/").await), "arriero; fwd=stale; fwd-status=304");
    let hit = get(&proxy, "/").await;
    assert_eq!((told(&hit).as_str(), hit.text().as_str(), origin.count()), ("arriero; hit", "text", 2));
    assert!(hit.head.field("date").is_some_and(|date| !date.contains("1994")), "{}", hit.head.text);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cookie_that_a_server_sets_as_it_confirms_is_its_client_s_alone() {
    for (cache, is_kept) in [(CACHE, false), ("cache: { cookies: ignore }", true)] {
        let origin = Origin::start(|seen| match seen.field("if-none-match") {
            Some(_) => vec![Step::Write(
                b"HTTP/1.1 304 Not Modified\r\nCache-Control: max-age=60\r\nSet-Cookie: a=1\r\nSet-Cookie: b=2\r\n\r\n"
                    .to_vec(),
            )],
            None => good("Cache-Control: max-age=60\r\nAge: 60\r\nETag: \"v1\"\r\n", "text"),
        })
        .await;
        let proxy = before(&origin, cache).await;
        get(&proxy, "/").await;
        let confirmed = get(&proxy, "/").await;
        assert_eq!((confirmed.head.status, told(&confirmed).as_str()), (200, "arriero; fwd=stale; fwd-status=304"));
        assert_eq!((confirmed.text().as_str(), confirmed.head.all("set-cookie")), ("text", vec!["a=1", "b=2"]));
        let next = get(&proxy, "/").await;
        assert_eq!((next.text().as_str(), next.head.all("set-cookie").len()), ("text", 0));
        // An answer with a cookie is kept only where cookies mean nothing.
        assert_eq!(told(&next) == "arriero; hit", is_kept, "{}", told(&next));
        // Its client has it already, and gets the cookie all the same.
        let fields = "Cache-Control: no-cache\r\nIf-None-Match: \"v1\"\r\n";
        let unchanged = get_with(&proxy, "/", fields).await;
        assert_eq!((unchanged.head.status, unchanged.head.all("set-cookie")), (304, vec!["a=1", "b=2"]));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_has_to_be_confirmed_each_time_is() {
    let origin = Origin::start(|seen| match seen.field("if-none-match") {
        Some(_) => vec![Step::Write(b"HTTP/1.1 304 Not Modified\r\nCache-Control: no-cache\r\n\r\n".to_vec())],
        None => good("Cache-Control: no-cache\r\nETag: \"v1\"\r\n", "text"),
    })
    .await;
    let proxy = before(&origin, CACHE).await;
    get(&proxy, "/").await;
    for count in 2..5 {
        let answer = get(&proxy, "/").await;
        assert_eq!((told(&answer).as_str(), answer.text().as_str()), ("arriero; fwd=stale; fwd-status=304", "text"));
        assert_eq!(origin.count(), count);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_answer_takes_the_place_of_the_old_one() {
    let origin = Origin::start(|seen| match seen.number {
        0 => good("Cache-Control: max-age=60\r\nAge: 60\r\nETag: \"v1\"\r\n", "old"),
        _ => good("Cache-Control: max-age=60\r\nETag: \"v2\"\r\n", "new"),
    })
    .await;
    let proxy = before(&origin, CACHE).await;
    get(&proxy, "/").await;
    let new = get_with(&proxy, "/", "If-None-Match: \"v0\"\r\n").await;
    assert_eq!((told(&new).as_str(), new.text().as_str()), ("arriero; fwd=stale; fwd-status=200; stored", "new"));
    assert_eq!(origin.seen()[1].field("if-none-match"), Some("\"v1\""));
    assert_eq!((get(&proxy, "/").await.text().as_str(), origin.count()), ("new", 2));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_304_about_something_else_is_asked_again() {
    let origin = Origin::start(|seen| match (seen.number, seen.field("if-none-match")) {
        (0, _) => good("Cache-Control: max-age=60\r\nAge: 60\r\nETag: \"v1\"\r\n", "old"),
        (_, Some(_)) => vec![Step::Write(b"HTTP/1.1 304 Not Modified\r\nETag: \"v2\"\r\n\r\n".to_vec())],
        (_, None) => good("Cache-Control: max-age=60\r\nETag: \"v2\"\r\n", "new"),
    })
    .await;
    let proxy = before(&origin, CACHE).await;
    get(&proxy, "/").await;
    let new = get(&proxy, "/").await;
    assert_eq!((new.head.status, new.text().as_str(), origin.count()), (200, "new", 3));
    assert_eq!(told(&get(&proxy, "/").await), "arriero; hit");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_stale_is_given_while_it_is_asked_for_anew() {
    let gate = Gate::new();
    let waits = gate.clone();
    let origin = Origin::start(move |seen| match seen.number {
        0 => good("Cache-Control: max-age=60, stale-while-revalidate=60\r\nAge: 60\r\nETag: \"v1\"\r\n", "old"),
        _ => {
            let mut steps = vec![Step::Wait(waits.clone())];
            steps.extend(good("Cache-Control: max-age=60\r\n", "new"));
            steps
        }
    })
    .await;
    let proxy = before(&origin, CACHE).await;
    get(&proxy, "/").await;
    for _ in 0..10 {
        let stale = get_with(&proxy, "/", "If-None-Match: \"v0\"\r\nRange: bytes=0-1\r\n").await;
        assert_eq!((told(&stale).as_str(), stale.text().as_str()), ("arriero; hit", "ol"));
        assert!(stale.head.field("age").and_then(|text| text.parse::<u64>().ok()).is_some_and(|age| age >= 60));
        assert!(stale.head.field("cache-status").is_some_and(|text| !text.contains("ttl=6")), "{}", stale.head.text);
    }
    support::eventually("it is asked for", || async { origin.count() == 2 }).await;
    let asked = &origin.seen()[1];
    assert_eq!((asked.field("if-none-match"), asked.field("range")), (Some("\"v1\""), None));
    gate.open();
    support::eventually("it is there", || async { get(&proxy, "/").await.text() == "new" }).await;
    assert_eq!(origin.count(), 2, "once for all of them");
    assert!(proxy.metric(&requests("stale")).await >= 10.0);
    support::eventually("its place is free", || async {
        proxy.metric(&format!("arriero_server_in_flight{{upstream=\"fleet\",server=\"{}\"}}", origin.address)).await
            == 0.0
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_stale_is_given_in_the_place_of_an_error() {
    let origin = Origin::start(|seen| match seen.number {
        0 => good("Cache-Control: max-age=60, stale-if-error=60\r\nAge: 60\r\n", "old"),
        1 => answer("503 Service Unavailable", "", "down"),
        2 => vec![Step::Close],
        _ => answer("500 Internal Server Error", "", "broken"),
    })
    .await;
    let proxy = before(&origin, CACHE).await;
    get(&proxy, "/").await;
    let stale = get(&proxy, "/").await;
    assert_eq!((stale.head.status, stale.text().as_str()), (200, "old"));
    assert_eq!(told(&stale), "arriero; fwd=stale; fwd-status=503; detail=stale_if_error");
    let closed = get(&proxy, "/").await;
    assert_eq!((closed.head.status, closed.text().as_str()), (200, "old"));
    assert_eq!(told(&closed), "arriero; fwd=stale; detail=stale_if_error");
    assert_eq!(get_with(&proxy, "/", "Cache-Control: no-cache\r\n").await.head.status, 500, "it wanted no old one");
    assert_eq!(get(&proxy, "/never").await.head.status, 500);
    let errors = format!(
        "arriero_attempts_total{{upstream=\"fleet\",server=\"{}\",outcome=\"upstream_reset\"}}",
        origin.address
    );
    assert_eq!(proxy.metric(&errors).await, 1.0, "the server is judged all the same");
    drop(origin);
    let refused = get(&proxy, "/").await;
    assert_eq!((refused.head.status, refused.text().as_str(), refused.reason()), (200, "old", None));
    assert_eq!(support::fleet::ended(&proxy, "connect_failed").await, 0.0, "no client got an error");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_must_be_confirmed_is_never_given_stale() {
    for fields in ["Cache-Control: max-age=60, must-revalidate\r\n", "Cache-Control: s-maxage=60\r\n"] {
        let origin = Origin::start(move |seen| match seen.number {
            0 => good(&format!("{fields}Age: 60\r\nETag: \"a\"\r\n"), "old"),
            _ => answer("503 Service Unavailable", "", "down"),
        })
        .await;
        let proxy = before(&origin, "cache: { stale_while_revalidate: 1h, stale_if_error: 1h }").await;
        get(&proxy, "/").await;
        for client in ["", "Cache-Control: max-stale\r\n"] {
            assert_eq!(get_with(&proxy, "/", client).await.head.status, 503, "{fields}");
        }
    }
    // The file says so for what does not say otherwise, and so may a client.
    let origin = Origin::start(|seen| match seen.number {
        0 => good("Cache-Control: max-age=60\r\nAge: 60\r\n", "old"),
        _ => answer("503 Service Unavailable", "", "down"),
    })
    .await;
    let proxy = before(&origin, "cache: { stale_if_error: 1h }").await;
    get(&proxy, "/").await;
    assert_eq!(told(&get_with(&proxy, "/", "Cache-Control: max-stale=30\r\n").await), "arriero; hit");
    assert_eq!(get(&proxy, "/").await.text(), "old");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_there_any_more_is_not_given_for_it() {
    for (status, is_given) in [
        ("404 Not Found", false),
        ("200 OK", false),
        ("302 Found", false),
        ("403 Forbidden", true),
        ("429 Too Many Requests", true),
    ] {
        let origin = Origin::start(move |seen| match seen.number {
            0 => good("Cache-Control: max-age=60, stale-if-error=60\r\nAge: 60\r\n", "old"),
            1 => answer(status, "Cache-Control: no-store\r\n", "now"),
            _ => answer("503 Service Unavailable", "", "down"),
        })
        .await;
        let proxy = before(&origin, CACHE).await;
        get(&proxy, "/").await;
        assert_eq!(get(&proxy, "/").await.text(), "now", "{status}");
        assert_eq!(get(&proxy, "/").await.text() == "old", is_given, "{status}");
    }
}
