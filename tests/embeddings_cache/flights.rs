//! Several clients that want the same at the same time.

use arriero::demo::{Fault, FaultRule};
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;

use super::support::PATIENCE;
use super::support::fleet::request;
use super::support::wire::H1;
use super::*;

/// Waits until a host has so many requests for embeddings.
async fn has_begun(host: &Host, requests: usize) {
    host.ledger()
        .wait_until(PATIENCE, |ledger| ledger.by_path("/api/embed").len() >= requests)
        .await
        .expect("they come");
}

/// Waits until so many requests are being served.
async fn are_served(proxy: &Proxy, requests: usize) {
    let series = "arriero_requests_in_flight{route=\"all\"}";
    super::support::eventually("they are served", || async { proxy.metric(series).await == requests as f64 }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_a_thousand_that_ask_for_the_same_one_asks_a_server() {
    let fleet = fleet(1, &["m"]).await;
    let host = &fleet.hosts[0];
    let proxy = proxy(yaml(&fleet, CACHE)).await;
    host.token_gate().close();
    let asks: FuturesUnordered<_> = (0..1000).map(|_| embed(&proxy, &["the same", "and more"])).collect();
    let opened = async {
        are_served(&proxy, 1000).await;
        has_begun(host, 1).await;
        host.token_gate().open();
    };
    let (answers, ()) = tokio::join!(asks.collect::<Vec<_>>(), opened);
    assert_eq!((host.ledger().by_path("/api/embed").len(), embedded(host)), (1, 2));
    let first = vectors(&answers[0]);
    assert!(answers.iter().all(|answer| vectors(answer) == first));
    let stored = answers.iter().filter(|answer| told(answer) == "arriero; fwd=miss; stored").count();
    let collapsed = answers.iter().filter(|answer| told(answer) == "arriero; fwd=miss; collapsed").count();
    let hits = answers.iter().filter(|answer| told(answer) == "arriero; hit").count();
    assert_eq!((stored, collapsed + hits), (1, 999));
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_that_overlap_share_what_they_share_and_never_wait_in_a_circle() {
    let fleet = fleet(1, &["m"]).await;
    let host = &fleet.hosts[0];
    let proxy = proxy(yaml(&fleet, CACHE)).await;
    host.token_gate().close();
    let lists: Vec<Vec<String>> = (0..20_u64)
        .map(|list| (0..40).map(|place| format!("text {}", scramble(list * 40 + place) % 60)).collect())
        .collect();
    let front = &proxy;
    let asks: FuturesUnordered<_> = lists.iter().map(|list| async move { (list, embed(front, list).await) }).collect();
    let opened = async {
        are_served(&proxy, 20).await;
        has_begun(host, 1).await;
        host.token_gate().open();
    };
    let (answers, ()) = tokio::join!(asks.collect::<Vec<_>>(), opened);
    let different: HashSet<&String> = lists.iter().flatten().collect();
    assert_eq!(embedded(host), different.len());
    for (list, answer) in answers {
        let direct = send(host.address(), "POST", "/api/embed", body(list)).await;
        assert_eq!(timeless(&answer), timeless(&direct));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_waits_for_one_that_leaves_asks_by_itself() {
    let fleet = fleet(1, &["m"]).await;
    let host = &fleet.hosts[0];
    let proxy = proxy(yaml(&fleet, CACHE)).await;
    host.token_gate().close();
    let mut leaver = H1::connect(proxy.address()).await;
    leaver.send(request("POST", "/api/embed", "", body(&["a"]))).await;
    has_begun(host, 1).await;
    let waiting = async {
        let answer = embed(&proxy, &["a"]).await;
        assert_eq!(told(&answer), "arriero; fwd=miss; stored");
    };
    let leaving = async {
        are_served(&proxy, 2).await;
        drop(leaver);
        has_begun(host, 2).await;
        host.token_gate().open();
    };
    tokio::join!(waiting, leaving);
    assert_eq!(told(&embed(&proxy, &["a"]).await), "arriero; hit");
    are_served(&proxy, 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_leaves_while_waiting_is_gone_and_nobody_else() {
    let fleet = fleet(1, &["m"]).await;
    let host = &fleet.hosts[0];
    let proxy = proxy(yaml(&fleet, CACHE)).await;
    host.token_gate().close();
    let first = async { told(&embed(&proxy, &["a"]).await).to_owned() };
    let second = async {
        has_begun(host, 1).await;
        let mut waiter = H1::connect(proxy.address()).await;
        waiter.send(request("POST", "/api/embed", "", body(&["a"]))).await;
        are_served(&proxy, 2).await;
        drop(waiter);
        are_served(&proxy, 1).await;
        host.token_gate().open();
    };
    let (first, ()) = tokio::join!(first, second);
    assert_eq!((first.as_str(), embedded(host)), ("arriero; fwd=miss; stored", 1));
    assert_eq!(super::support::fleet::ended(&proxy, "client_closed").await, 1.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn when_the_first_fails_the_others_ask_by_themselves() {
    let fleet = fleet(1, &["m"]).await;
    let host = &fleet.hosts[0];
    let proxy = proxy(yaml(&fleet, &format!("{CACHE}\ntimeouts: {{ first_byte: 3s }}"))).await;
    // The first request gets no answer in time, and the others wait for it until then.
    host.faults().add(FaultRule::inference(Fault::Hang).times(1));
    let first = async { embed(&proxy, &["a"]).await };
    let others = async {
        has_begun(host, 1).await;
        let asks: FuturesUnordered<_> = (0..10).map(|_| embed(&proxy, &["b", "a"])).collect();
        tokio::join!(asks.collect::<Vec<_>>(), are_served(&proxy, 11)).0
    };
    let (first, others) = tokio::join!(first, others);
    assert_eq!(first.head.status, 504);
    assert!(others.iter().all(|answer| answer.head.status == 200 && vectors(answer) == vectors(&others[0])));
    assert_eq!(told(&embed(&proxy, &["a", "b"]).await), "arriero; hit");
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_of_what_is_asked_for_in_two_steps_are_counted_together() {
    for (path, count) in [("/api/embed", "/prompt_eval_count"), ("/v1/embeddings", "/usage/prompt_tokens")] {
        let fleet = Fleet::start(vec![arriero::demo::HostConfig::new("h").small_model("m").parallel(4)]).await;
        let fleet = fleet.expect("a host");
        let host = &fleet.hosts[0];
        let proxy = proxy(yaml(&fleet, CACHE)).await;
        // The first one never gets its answer, and the second waits for that, with something of its own besides.
        host.faults().add(FaultRule::inference(Fault::Hang).times(1));
        let mut leaver = H1::connect(proxy.address()).await;
        leaver.send(request("POST", "/api/embed", "", body(&["one two three"]))).await;
        has_begun(host, 1).await;
        let begun = |ledger: &arriero::demo::Ledger| {
            ledger.by_path("/api/embed").len() + ledger.by_path("/v1/embeddings").len() > 1
        };
        let second = async { send(proxy.address(), "POST", path, body(&["four five", "one two three"])).await };
        let leaving = async {
            host.ledger().wait_until(PATIENCE, begun).await.expect("it comes");
            drop(leaver);
        };
        let (answer, ()) = tokio::join!(second, leaving);
        assert_eq!(told(&answer), "arriero; fwd=miss; stored");
        let body: Value = serde_json::from_slice(&answer.body).expect("JSON");
        assert_eq!(body.pointer(count).and_then(Value::as_u64), Some(3 + 4), "{path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_being_computed_when_it_is_purged_is_not_kept() {
    let fleet = fleet(1, &["m"]).await;
    let host = &fleet.hosts[0];
    let proxy = proxy(yaml(&fleet, CACHE)).await;
    host.token_gate().close();
    let first = async { embed(&proxy, &["a", "b"]).await };
    let purged = async {
        has_begun(host, 1).await;
        let purged = super::support::admin::order(&proxy, "/caches/purge", r#"{"model":"m"}"#).await;
        assert_eq!(purged["purged"], 0, "{purged}");
        host.token_gate().open();
    };
    let (first, ()) = tokio::join!(first, purged);
    assert_eq!(first.head.status, 200);
    assert_eq!(told(&embed(&proxy, &["a", "b"]).await), "arriero; fwd=miss; stored");
    assert_eq!(told(&embed(&proxy, &["a", "b"]).await), "arriero; hit");
}
