//! Many who ask for the same at the same time.

use std::time::Duration;

use super::*;

const FIELDS: &str = "Cache-Control: max-age=60\r\n";

/// Waits until so many requests are being served.
async fn in_flight(proxy: &Proxy, count: usize) {
    support::eventually("they are all there", || async {
        proxy.metric("arriero_requests_in_flight{route=\"all\"}").await == count as f64
    })
    .await;
}

/// An answer of which the second half waits.
fn halves(gate: &Gate, fields: &str) -> Vec<Step> {
    vec![
        Step::Write(format!("HTTP/1.1 200 OK\r\n{fields}Content-Length: 8\r\n\r\nhalf").into_bytes()),
        Step::Wait(gate.clone()),
        Step::Write(b"half".to_vec()),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn of_a_thousand_who_ask_at_the_same_time_one_asks_the_server() {
    let gate = Gate::new();
    let waits = gate.clone();
    let origin = Origin::start(move |_| {
        let mut steps = vec![Step::Wait(waits.clone())];
        steps.extend(good(FIELDS, "the answer"));
        steps
    })
    .await;
    let proxy = before(&origin, CACHE).await;
    let address = proxy.address();
    let asks: Vec<_> = (0..1000)
        .map(|_| tokio::spawn(async move { send_with(address, "GET", "/", "Host: a.test\r\n", "").await }))
        .collect();
    in_flight(&proxy, 1000).await;
    gate.open();
    let (mut stored, mut others) = (0, 0);
    for ask in asks {
        let answer = ask.await.expect("answered");
        assert_eq!((answer.head.status, answer.text().as_str()), (200, "the answer"));
        match told(&answer).as_str() {
            "arriero; fwd=uri-miss; stored" => stored += 1,
            "arriero; fwd=uri-miss; collapsed" | "arriero; hit" => others += 1,
            other => panic!("{other}"),
        }
    }
    assert_eq!((stored, others, origin.count()), (1, 999, 1));
    let collapsed = proxy.metric(&requests("collapsed")).await;
    assert_eq!((proxy.metric(&requests("miss")).await, collapsed + proxy.metric(&requests("hit")).await), (1.0, 999.0));
}

#[tokio::test(flavor = "multi_thread")]
async fn those_who_want_a_newer_one_than_they_waited_for_get_one_for_all() {
    for wish in ["max-age=0", "min-fresh=3600"] {
        let gate = Gate::new();
        let waits = gate.clone();
        let origin = Origin::start(move |seen| {
            let mut steps = if seen.number == 0 { vec![Step::Wait(waits.clone())] } else { Vec::new() };
            steps.extend(good(FIELDS, format!("{}", seen.number)));
            steps
        })
        .await;
        let proxy = before(&origin, CACHE).await;
        let address = proxy.address();
        let ask = move |fields: String| {
            tokio::spawn(async move { send_with(address, "GET", "/", &format!("Host: a.test\r\n{fields}"), "").await })
        };
        let first = ask(String::new());
        support::eventually("it is asked for", || async { origin.count() == 1 }).await;
        let others: Vec<_> = (0..20).map(|_| ask(format!("Cache-Control: {wish}\r\n"))).collect();
        in_flight(&proxy, 21).await;
        gate.open();
        assert_eq!(first.await.expect("answered").text(), "0");
        for other in others {
            let answer = other.await.expect("answered");
            // What came in the same millisecond is no older than 0 s.
            assert!(answer.text() == "1" || wish == "max-age=0" && answer.text() == "0", "{}", answer.text());
        }
        assert!(origin.count() <= 2, "{wish}: {}", origin.count());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_gets_each_byte_as_it_comes() {
    let gate = Gate::new();
    let waits = gate.clone();
    let origin = Origin::start(move |_| halves(&waits, FIELDS)).await;
    let proxy = before(&origin, CACHE).await;
    let mut first = H1::connect(proxy.address()).await;
    first.send("GET / HTTP/1.1\r\nHost: a.test\r\n\r\n").await;
    assert_eq!(first.reader.head().await.status, 200);
    let mut half = Vec::new();
    for _ in 0..4 {
        half.push(first.reader.byte().await);
    }
    assert_eq!(half, b"half", "while the server is still at it");
    gate.open();
    let second = get(&proxy, "/").await;
    assert!(second.text() == "halfhalf" && !told(&second).contains("stored"), "{}", told(&second));
    assert_eq!(origin.count(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_waits_for_what_is_not_kept() {
    let gate = Gate::new();
    let waits = gate.clone();
    let origin = Origin::start(move |seen| match seen.number {
        // The head says at once that it is not to be kept, and the body takes its time.
        0 => halves(&waits, "Cache-Control: no-store\r\n"),
        _ => good("Cache-Control: no-store\r\n", "own"),
    })
    .await;
    let proxy = before(&origin, CACHE).await;
    let mut first = H1::connect(proxy.address()).await;
    first.send("GET / HTTP/1.1\r\nHost: a.test\r\n\r\n").await;
    support::eventually("it is the first", || async { origin.count() == 1 }).await;
    let asks = (0..20).map(|_| get(&proxy, "/"));
    for answer in futures_util::future::join_all(asks).await {
        assert_eq!((answer.text().as_str(), told(&answer).as_str()), ("own", "arriero; fwd=uri-miss; detail=no_store"));
    }
    assert_eq!(origin.count(), 21);
    gate.open();
    assert_eq!(first.reader.answer().await.text(), "halfhalf");
}

#[tokio::test(flavor = "multi_thread")]
async fn where_the_first_leaves_one_of_those_who_wait_asks() {
    let gate = Gate::new();
    let waits = gate.clone();
    let origin = Origin::start(move |seen| match seen.number {
        0 => halves(&waits, FIELDS),
        _ => good(FIELDS, "whole"),
    })
    .await;
    let proxy = before(&origin, CACHE).await;
    let mut first = H1::connect(proxy.address()).await;
    first.send("GET / HTTP/1.1\r\nHost: a.test\r\n\r\n").await;
    assert_eq!(first.reader.head().await.status, 200);
    let address = proxy.address();
    let asks: Vec<_> = (0..50)
        .map(|_| tokio::spawn(async move { send_with(address, "GET", "/", "Host: a.test\r\n", "").await }))
        .collect();
    in_flight(&proxy, 51).await;
    first.reset();
    for ask in asks {
        let answer = ask.await.expect("answered");
        assert_eq!((answer.text().as_str(), answer.whole), ("whole", true));
    }
    assert_eq!(origin.count(), 2, "one after the other that left");
    assert_eq!(get(&proxy, "/").await.text(), "whole");
    gate.open();
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_slow_to_take_an_answer_keeps_nobody_waiting() {
    // Longer than all buffers on its way.
    let body = vec![b'x'; 6 << 20];
    let text = body.clone();
    let origin = Origin::start(move |_| good(FIELDS, &text)).await;
    let proxy = before(&origin, CACHE).await;
    let mut slow = H1::narrow(proxy.address()).await;
    slow.send("GET / HTTP/1.1\r\nHost: a.test\r\n\r\n").await;
    assert_eq!(slow.reader.head().await.status, 200);
    let answer = get(&proxy, "/").await;
    assert!(answer.body == body && told(&answer) != "arriero; fwd=uri-miss; stored", "{}", told(&answer));
    assert_eq!(origin.count(), 1);
    assert_eq!(proxy.metric("arriero_requests_in_flight{route=\"all\"}").await, 1.0, "it is still at it");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_fails_is_not_waited_for_by_one_after_the_other() {
    let gate = Gate::new();
    let waits = gate.clone();
    let origin = Origin::start(move |_| vec![Step::Wait(waits.clone()), Step::Close]).await;
    let proxy = before(&origin, CACHE).await;
    let address = proxy.address();
    let asks: Vec<_> = (0..20)
        .map(|_| tokio::spawn(async move { send_with(address, "GET", "/", "Host: a.test\r\n", "").await }))
        .collect();
    in_flight(&proxy, 20).await;
    assert_eq!(origin.count(), 1);
    gate.open();
    for ask in asks {
        assert_eq!(ask.await.expect("answered").head.status, 502);
    }
    assert!(origin.count() <= 20);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_waits_too_long_asks_a_server() {
    let gate = Gate::new();
    let waits = gate.clone();
    let origin = Origin::start(move |seen| match seen.number {
        0 => halves(&waits, FIELDS),
        _ => good(FIELDS, "own"),
    })
    .await;
    let route = "cache: {}\ntimeouts: { first_byte: 100ms }";
    let proxy = proxy(http_yaml(&[origin.url()], route, &format!("{QUIET}\nqueue: {{ timeout: 100ms }}"))).await;
    let mut first = H1::connect(proxy.address()).await;
    first.send("GET / HTTP/1.1\r\nHost: a.test\r\n\r\n").await;
    assert_eq!(first.reader.head().await.status, 200);
    let second = tokio::time::timeout(Duration::from_secs(20), get(&proxy, "/")).await.expect("in time");
    assert_eq!(second.text(), "own");
    gate.open();
    assert_eq!(
        first.reader.body(&support::wire::Head::parse("HTTP/1.1 200 OK\r\nContent-Length: 8")).await.0,
        b"halfhalf"
    );
}
