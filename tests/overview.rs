//! What a live view reads: the overview, its numbers of the last minute, and the same as events.

mod support;

use arriero::demo::{Fault, Fleet};
use serde_json::{Value, json};
use support::admin::{PREFIX, address, call, order, problem, show};
use support::fleet::{fleet, generate, request, send};
use support::wire::{Chunk, H1, proxy};
use support::{PATIENCE, Proxy, eventually};

/// Servers called `s0`, `s1`, ...
fn yaml(fleet: &Fleet) -> String {
    let line = |(number, url): (usize, &String)| {
        format!("      - {{ name: s{number}, url: \"{url}\", gpu: {{ memory: 24GB }}, max_in_flight: 1 }}\n")
    };
    let servers: String = fleet.urls().iter().enumerate().map(line).collect();
    format!(
        "routes: [{{ name: all, upstream: fleet }}]\nupstreams:\n  fleet:\n    kind: ollama\n    \
         inventory: {{ interval: 50ms }}\n    servers:\n{servers}"
    )
}

/// A stream of events.
struct Events {
    client: H1,
    text: String,
}

impl Events {
    async fn open(proxy: &Proxy) -> Self {
        let mut client = H1::connect(address(proxy)).await;
        client.send(request("GET", &format!("{PREFIX}/events"), "", "")).await;
        let head = client.reader.head().await;
        assert_eq!((head.status, head.field("content-type")), (200, Some("text/event-stream")), "{}", head.text);
        assert_eq!(head.field("cache-control"), Some("no-cache"), "{}", head.text);
        Self { client, text: String::new() }
    }

    /// The next overview; `None` at the end of the stream, which must be one in due form.
    async fn next(&mut self) -> Option<Value> {
        let end = loop {
            if let Some(end) = self.text.find("\n\n") {
                break end;
            }
            match self.client.reader.chunk().await {
                Chunk::Data(data) => self.text += std::str::from_utf8(&data).expect("UTF-8"),
                Chunk::End => return None,
                Chunk::Cut => panic!("the stream broke after {:?}", self.text),
            }
        };
        let event: String = self.text.drain(..end + 2).collect();
        let data = event.strip_prefix("event: overview\ndata: ").unwrap_or_else(|| panic!("another event: {event}"));
        Some(serde_json::from_str(data.trim_end()).expect("an overview in JSON"))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_overview_shows_servers_models_and_what_goes_on_without_what_is_said() {
    let fleet = fleet(2, &["m", "n"]).await;
    let proxy = proxy(yaml(&fleet)).await;
    let now = || async { show(&proxy, "/overview").await };
    let empty = now().await;
    assert_eq!(empty["status"], "healthy", "{empty}");
    assert_eq!(empty["latency"], json!({ "ttfbMs": null, "durationMs": null }));
    assert_eq!((&empty["config"]["inForce"], &empty["config"]["error"]), (&true.into(), &Value::Null));
    let server = &empty["servers"][1];
    assert_eq!(
        (&server["id"], &server["upstream"], &server["kind"]),
        (&"s1".into(), &"fleet".into(), &"ollama".into())
    );
    assert_eq!((&server["url"], &server["models"]), (&fleet.urls()[1].clone().into(), &2.into()));
    assert_eq!((&server["maxInFlight"], &server["vramTotal"]), (&1.into(), &24_000_000_000_u64.into()));

    fleet.hosts.iter().for_each(|host| host.token_gate().close());
    let mut clients = Vec::new();
    for _ in 0..3 {
        let mut client = H1::connect(proxy.address()).await;
        client.send(request("POST", "/api/generate", "", r#"{"model":"m","prompt":"a secret","stream":false}"#)).await;
        clients.push(client);
    }
    eventually("two run and one waits", || async {
        let seen = now().await;
        seen["requests"]["inFlight"] == 2 && seen["requests"]["queued"] == 1
    })
    .await;
    let seen = now().await;
    assert_eq!(seen["inFlight"].as_array().expect("a list").len(), 2, "{seen}");
    assert_eq!((&seen["inFlight"][0]["model"], &seen["inFlight"][0]["phase"]), (&"m:latest".into(), &"waiting".into()));
    let queue = &seen["queues"][0];
    assert_eq!((&queue["upstream"], &queue["paused"], &queue["waiting"]), (&"fleet".into(), &false.into(), &1.into()));
    assert_eq!((&queue["models"][0]["model"], &queue["models"][0]["waiting"]), (&"m:latest".into(), &1.into()));
    assert!(queue["models"][0]["oldestMs"].as_f64().expect("a time") >= 0.0, "{queue}");
    let model = &seen["models"][0];
    assert_eq!((&model["name"], &model["servers"], &model["available"]), (&"m:latest".into(), &2.into(), &2.into()));
    assert_eq!((&model["inFlight"], &model["waiting"]), (&2.into(), &1.into()), "{model}");
    let decision = seen["decisions"].as_array().expect("a list").last().expect("a choice");
    assert_eq!((&decision["model"], &decision["upstream"]), (&"m:latest".into(), &"fleet".into()), "{decision}");
    assert!(decision["server"].is_string(), "{decision}");
    assert!(decision["reason"].as_str().expect("words").contains("expected cost"), "{decision}");
    assert!(!seen.to_string().contains("secret"), "{seen}");

    fleet.hosts.iter().for_each(|host| host.token_gate().open());
    for client in &mut clients {
        assert!(client.reader.answer().await.whole);
    }
    eventually("the numbers of the last minute", || async {
        let seen = now().await;
        let (first, whole) = (&seen["latency"]["ttfbMs"]["p95"], &seen["latency"]["durationMs"]["p95"]);
        seen["requests"]["perSecond"].as_f64() > Some(0.0)
            && first.as_f64() > Some(0.0)
            && first.as_f64() <= whole.as_f64()
    })
    .await;
    eventually("in memory", || async { now().await["models"][0]["loaded"] == 2 }).await;
    let seen = now().await;
    assert_eq!(seen["requests"]["errorsPerSecond"], 0.0, "{seen}");
    let loaded = &seen["servers"][0]["loaded"][0];
    assert_eq!(loaded["name"], "m:latest", "{seen}");
    assert_eq!(seen["servers"][0]["vramUsed"], loaded["sizeVram"], "{seen}");
    let trend = show(&proxy, "/overview/trend").await;
    let last = trend["points"].as_array().expect("a list").last().expect("a point");
    assert!(last["latency"]["durationMs"]["p50"].is_number() && last["queued"] == 0, "{trend}");
}

#[tokio::test(flavor = "multi_thread")]
async fn failures_of_servers_count_as_errors_and_those_of_clients_do_not() {
    let fleet = fleet(1, &["m"]).await;
    let proxy = proxy(yaml(&fleet)).await;
    let errors = || async { show(&proxy, "/overview").await["requests"]["errorsPerSecond"].as_f64() };
    eventually("a client's error ended", || async {
        assert_eq!(send(proxy.address(), "POST", "/api/generate", generate("unheard-of")).await.head.status, 404);
        show(&proxy, "/overview").await["requests"]["perSecond"].as_f64() > Some(0.0)
    })
    .await;
    assert_eq!(errors().await, Some(0.0));
    fleet.hosts[0].faults().always(Fault::ResetBeforeHeaders);
    assert_eq!(send(proxy.address(), "POST", "/api/generate", generate("m")).await.head.status, 502);
    eventually("the server's error counts", || async { errors().await > Some(0.0) }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn circuits_and_bans_that_keep_requests_away_are_listed() {
    let fleet = fleet(2, &["m"]).await;
    let proxy = proxy(yaml(&fleet)).await;
    order(&proxy, "/circuit-breakers/s0/open", r#"{"for":"1h"}"#).await;
    order(&proxy, "/bans", r#"{"server":"s1","model":"m","reason":"a test","who":"ana","for":"1h"}"#).await;
    order(&proxy, "/servers/s1/maintenance", r#"{"reason":"new card","for":"1h"}"#).await;
    order(&proxy, "/queue/pause", "").await;
    let seen = show(&proxy, "/overview").await;
    let circuit = &seen["circuits"][0];
    assert_eq!(
        (&circuit["serverId"], &circuit["model"], &circuit["state"]),
        (&"s0".into(), &Value::Null, &"open".into())
    );
    assert_eq!((&circuit["forced"], circuit["nextRetryAt"].is_string()), (&true.into(), true), "{circuit}");
    let ban = &seen["bans"][0];
    assert_eq!((&ban["serverId"], &ban["model"], &ban["reason"]), (&"s1".into(), &"m:latest".into(), &"a test".into()));
    assert!(ban["until"].is_string(), "{ban}");
    let server = &seen["servers"][1];
    assert_eq!((&server["operation"], &server["reason"]), (&"maintenance".into(), &"new card".into()), "{server}");
    assert!(server["until"].is_string(), "{server}");
    assert_eq!(seen["servers"][0]["circuit"], "open");
    assert_eq!(seen["queues"][0]["paused"], true);
    // An open circuit and maintenance: no server would take it.
    assert_eq!(seen["models"][0]["available"], 0, "{seen}");
    order(&proxy, "/circuit-breakers/s0/close", "").await;
    assert_eq!(show(&proxy, "/overview").await["circuits"], json!([]));
}

#[tokio::test(flavor = "multi_thread")]
async fn events_bring_the_overview_each_second_until_the_process_ends() {
    let fleet = fleet(1, &["m"]).await;
    let mut proxy = proxy(yaml(&fleet)).await;
    let mut events = Events::open(&proxy).await;
    let first = events.next().await.expect("one at once");
    assert_eq!(first["servers"][0]["operation"], "active");
    order(&proxy, "/servers/s0/drain", "").await;
    let mut seen = events.next().await.expect("another one");
    for _ in 0..3 {
        if seen["servers"][0]["operation"] == "draining" {
            break;
        }
        seen = events.next().await.expect("and another one");
    }
    assert_eq!(seen["servers"][0]["operation"], "draining", "{seen}");
    // All who listen get the same.
    let mut other = Events::open(&proxy).await;
    other.next().await.expect("one at once");
    let (here, there) = (events.next().await.expect("an event"), other.next().await.expect("an event"));
    let (here, there) =
        if here["at"] == there["at"] { (here, there) } else { (events.next().await.expect("one"), there) };
    assert_eq!(here, there);
    let running = proxy.running.take().expect("running");
    let stopped = tokio::task::spawn_blocking(move || running.stop());
    while let Some(seen) = events.next().await {
        assert!(seen["status"] == "stopping" || seen["status"] == "healthy", "{}", seen["status"]);
    }
    while other.next().await.is_some() {}
    tokio::time::timeout(PATIENCE, stopped).await.expect("nobody who listens is waited for").expect("no panic");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_listener_that_does_not_read_holds_up_neither_others_nor_the_end() {
    let fleet = fleet(1, &["m"]).await;
    let mut proxy = proxy(yaml(&fleet)).await;
    let mut client = H1::narrow(address(&proxy)).await;
    client.send(request("GET", &format!("{PREFIX}/events"), "", "")).await;
    client.reader.head().await;
    let mut events = Events::open(&proxy).await;
    for _ in 0..3 {
        events.next().await.expect("others are served");
    }
    let running = proxy.running.take().expect("running");
    let stopped = tokio::task::spawn_blocking(move || running.stop());
    tokio::time::timeout(PATIENCE, stopped).await.expect("it ends").expect("no panic");
}

#[tokio::test(flavor = "multi_thread")]
async fn as_many_may_listen_as_there_are_seats_and_a_seat_is_free_again_when_one_leaves() {
    let fleet = fleet(1, &["m"]).await;
    let proxy = proxy(yaml(&fleet)).await;
    let mut all = Vec::new();
    for _ in 0..64 {
        all.push(Events::open(&proxy).await);
    }
    let (status, detail) = problem(&call(&proxy, "GET", "/events", "").await);
    assert!(status == 503 && detail.contains("64"), "{status} {detail}");
    drop(all.pop());
    eventually("a seat is free", || async {
        let mut client = H1::connect(address(&proxy)).await;
        client.send(request("GET", &format!("{PREFIX}/events"), "", "")).await;
        client.reader.head().await.status == 200
    })
    .await;
}
