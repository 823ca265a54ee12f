//! `balance.policy: expected_wait` through real sockets: where requests go, wait, and get models loaded.

mod support;

use std::time::Duration;

use arriero::demo::{DemoModel, Entry, Fault, FaultRule, Fleet, Host, HostConfig, Outcome};
use serde_json::Value;
use support::fleet::{Small, ended, generate, knows, request, send, send_with};
use support::wire::{Answer, H1, post, proxy};
use support::{Proxy, eventually, scheduled_yaml};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::task::JoinSet;

const GB: u64 = 1_000_000_000;

fn host(name: &str) -> HostConfig {
    HostConfig::new(name).small_model("a").small_model("b")
}

/// A proxy that schedules before these hosts, once it knows their models.
async fn before(hosts: &[&Host], upstream: &str) -> Proxy {
    let urls: Vec<String> = hosts.iter().map(|host| host.url()).collect();
    let proxy = proxy(scheduled_yaml(&urls, "explain: allow\npriority_header: allow", upstream)).await;
    for host in hosts {
        knows(&proxy, host, "disk", 2).await;
    }
    proxy
}

async fn two() -> (Host, Host) {
    let start = |name| Host::start(host(name));
    (start("one").await.unwrap(), start("two").await.unwrap())
}

/// Loads and unloads that the proxy ordered, as path and body of the model.
fn orders(host: &Host) -> Vec<Entry> {
    host.ledger().own_account()
}

#[tokio::test(flavor = "multi_thread")]
async fn many_requests_for_a_cold_model_cost_one_load_on_a_server() {
    let (one, two) = two().await;
    one.load_gate().close();
    two.load_gate().close();
    let proxy = before(&[&one, &two], "").await;
    let mut clients = JoinSet::new();
    for _ in 0..20 {
        let address = proxy.address();
        clients.spawn(async move { send(address, "POST", "/api/generate", generate("a")).await });
    }
    eventually("all of them wait", || async {
        proxy.metric("arriero_queue_requests{upstream=\"fleet\"}").await as u32 == 20
    })
    .await;
    one.load_gate().open();
    two.load_gate().open();
    while let Some(answer) = clients.join_next().await {
        assert_eq!(answer.unwrap().head.status, 200);
    }
    let loads = |host: &Host| orders(host).len();
    assert!(loads(&one) <= 1 && loads(&two) <= 1, "{} and {} loads", loads(&one), loads(&two));
    let served = one.ledger().inference().len() + two.ledger().inference().len();
    assert_eq!(served, 20);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_leaves_the_queue_ends_no_load_and_never_reaches_a_server() {
    let one = Host::start(host("one")).await.unwrap();
    one.load_gate().close();
    let proxy = before(&[&one], "").await;
    let mut client = H1::connect(proxy.address()).await;
    client.send(post("/api/generate", generate("a"))).await;
    eventually("it waits", || async { proxy.metric("arriero_queue_requests{upstream=\"fleet\"}").await > 0.0 }).await;
    client.reset();
    eventually("it is out", || async { proxy.metric("arriero_queue_requests{upstream=\"fleet\"}").await < 1.0 }).await;
    one.load_gate().open();
    eventually("the load is done", || async { one.loaded().len() == 1 }).await;
    assert_eq!(one.ledger().inference().len(), 0);
    eventually("so is its answer", || async { orders(&one)[0].outcome() == Some(Outcome::Completed) }).await;
    assert_eq!(ended(&proxy, "client_closed").await as u32, 1);
    assert_eq!(send(proxy.address(), "POST", "/api/generate", generate("a")).await.head.status, 200);
    assert_eq!(orders(&one).len(), 1, "and it is of use to the next one");
}

#[tokio::test(flavor = "multi_thread")]
async fn slots_are_never_exceeded_and_whoever_waits_is_served() {
    let config = |name| host(name).parallel(2).tokens(4).token_interval(Duration::from_millis(1));
    let (one, two) = (Host::start(config("one")).await.unwrap(), Host::start(config("two")).await.unwrap());
    let servers = format!(
        "version: 1\nroutes: [{{ name: all, upstream: fleet }}]\nupstreams:\n  fleet:\n    kind: ollama\n    servers: [{{ url: \"{}\", max_in_flight: 2 }}, {{ url: \"{}\", max_in_flight: 2 }}]\n",
        one.url(),
        two.url()
    );
    let proxy = proxy(servers).await;
    knows(&proxy, &two, "disk", 2).await;
    knows(&proxy, &one, "disk", 2).await;
    let mut clients = JoinSet::new();
    for number in 0..80 {
        let (address, model) = (proxy.address(), if number % 3 == 0 { "b" } else { "a" });
        clients.spawn(async move { send(address, "POST", "/api/generate", generate(model)).await.head.status });
    }
    while let Some(status) = clients.join_next().await {
        assert_eq!(status.unwrap(), 200);
    }
    for host in [&one, &two] {
        assert!(most_at_once(&host.ledger().inference()) <= 2, "{}", host.name());
    }
    assert_eq!(one.ledger().inference().len() + two.ledger().inference().len(), 80);
}

/// The most requests that were on a host at a time.
fn most_at_once(entries: &[Entry]) -> usize {
    let mut moments: Vec<(std::time::Instant, i32)> = Vec::new();
    for entry in entries {
        moments.push((entry.started, 1));
        moments.extend(entry.finished.map(|finished| (finished.at, -1)));
    }
    moments.sort_by_key(|(at, change)| (*at, *change));
    let mut now = 0;
    let counts = moments.iter().map(|(_, change)| {
        now += change;
        now
    });
    usize::try_from(counts.max().unwrap_or(0)).unwrap_or(0)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_queue_and_a_long_wait_are_told_with_a_time_to_come_back() {
    let one = Host::start(host("one")).await.unwrap();
    one.token_gate().close();
    let more = "queue: { max_pending: 1, timeout: 300ms }\n";
    let yaml = scheduled_yaml(&[one.url()], "", more).replace("url: ", "max_in_flight: 1, url: ");
    let proxy = proxy(yaml).await;
    knows(&proxy, &one, "disk", 2).await;
    let mut first = H1::connect(proxy.address()).await;
    first.send(post("/api/generate", generate("a"))).await;
    one.ledger().wait_until(Duration::from_secs(20), |ledger| ledger.inference().len() == 1).await.unwrap();
    let second = tokio::spawn({
        let address = proxy.address();
        async move { send(address, "POST", "/api/generate", generate("a")).await }
    });
    eventually("it waits", || async { proxy.metric("arriero_queue_requests{upstream=\"fleet\"}").await > 0.0 }).await;
    let third = send(proxy.address(), "POST", "/api/generate", generate("a")).await;
    let told = |answer: &Answer, reason: &str| {
        assert_eq!((answer.head.status, answer.reason()), (503, Some(reason)), "{}", answer.text());
        let seconds: u64 = answer.head.field("retry-after").expect("a time").parse().expect("seconds");
        assert!(seconds >= 1, "{seconds}");
        assert!(answer.text().starts_with("{\"error\":\"server busy"), "{}", answer.text());
    };
    told(&third, "queue_full");
    told(&second.await.unwrap(), "queue_timeout");
    one.token_gate().open();
    assert_eq!(first.reader.answer().await.head.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_who_asks_often_does_not_keep_out_one_who_asks_seldom() {
    let one = Host::start(host("one")).await.unwrap();
    one.token_gate().close();
    let yaml = scheduled_yaml(&[one.url()], "", "").replace("url: ", "max_in_flight: 1, url: ");
    let yaml = format!("listeners: [{{ address: \"127.0.0.1:0\", trusted_proxies: [127.0.0.1] }}]\n{yaml}");
    let proxy = proxy(yaml).await;
    knows(&proxy, &one, "disk", 2).await;
    let ask = |client: &'static str, number: u32| {
        let address = proxy.address();
        let fields = format!("X-Forwarded-For: {client}\r\nX-Request-Id: {client}-{number}\r\n");
        tokio::spawn(
            async move { send_with(address, "POST", "/api/generate", &fields, generate("a")).await.head.status },
        )
    };
    let mut asked = Vec::new();
    for number in 0..20 {
        asked.push(ask("192.0.2.1", number));
    }
    let waiting = async |count: u32| {
        eventually("they wait", || async {
            proxy.metric("arriero_queue_requests{upstream=\"fleet\"}").await as u32 == count
        })
        .await;
    };
    waiting(19).await;
    asked.push(ask("192.0.2.2", 0));
    waiting(20).await;
    one.token_gate().open();
    for asked in asked {
        assert_eq!(asked.await.unwrap(), 200);
    }
    let order: Vec<String> = one.ledger().inference().into_iter().filter_map(|entry| entry.request_id).collect();
    let place = order.iter().position(|id| id.starts_with("192.0.2.2")).expect("it was served");
    assert!(place <= 2, "{order:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_may_say_who_goes_first_where_its_route_allows_that() {
    let one = Host::start(host("one")).await.unwrap();
    one.token_gate().close();
    let yaml = scheduled_yaml(&[one.url()], "priority_header: allow", "").replace("url: ", "max_in_flight: 1, url: ");
    let proxy = proxy(yaml).await;
    knows(&proxy, &one, "disk", 2).await;
    let ask = |priority: &'static str| {
        let address = proxy.address();
        let fields = format!("X-Priority: {priority}\r\nX-Request-Id: {priority}\r\n");
        tokio::spawn(
            async move { send_with(address, "POST", "/api/generate", &fields, generate("a")).await.head.status },
        )
    };
    let mut asked = vec![ask("normal")];
    one.ledger().wait_until(Duration::from_secs(20), |ledger| ledger.inference().len() == 1).await.unwrap();
    for (number, priority) in ["low", "normal", "high"].into_iter().enumerate() {
        asked.push(ask(priority));
        eventually("it waits", || async {
            proxy.metric("arriero_queue_requests{upstream=\"fleet\"}").await as usize == number + 1
        })
        .await;
    }
    one.token_gate().open();
    for asked in asked {
        assert_eq!(asked.await.unwrap(), 200);
    }
    let order: Vec<String> = one.ledger().inference().into_iter().filter_map(|entry| entry.request_id).collect();
    assert_eq!(order, ["normal", "high", "normal", "low"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pinned_model_is_loaded_at_the_start_and_makes_no_room() {
    let small = |name: &str| {
        let mut config = HostConfig::new(name).vram(10 * GB);
        for model in ["a", "b"] {
            config = config.model(DemoModel::new(model, 8 * GB));
        }
        config
    };
    let one = Host::start(small("one")).await.unwrap();
    let two = Host::start(small("two")).await.unwrap();
    let name = |host: &Host| host.url().trim_start_matches("http://").to_owned();
    let rules = format!("models: [{{ match: a, pin: [\"{}\"] }}]\nwarm: [\"b@{}\"]\n", name(&one), name(&two));
    let yaml = scheduled_yaml(&[one.url(), two.url()], "", &rules).replace("url: ", "gpu: { memory: 10GB }, url: ");
    let proxy = proxy(yaml).await;
    eventually("both are loaded", || async { one.loaded() == ["a:latest"] && two.loaded() == ["b:latest"] }).await;
    knows(&proxy, &one, "memory", 1).await;
    knows(&proxy, &two, "memory", 1).await;
    for _ in 0..6 {
        assert_eq!(send(proxy.address(), "POST", "/api/generate", generate("b")).await.head.status, 200);
        assert_eq!(send(proxy.address(), "POST", "/api/generate", generate("a")).await.head.status, 200);
    }
    assert_eq!(one.loaded(), ["a:latest"]);
    assert_eq!(one.ledger().by_model("b").len(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_load_begins_when_room_was_made_for_it() {
    let mut config = HostConfig::new("one").vram(10 * GB);
    for model in ["a", "b"] {
        config = config.model(DemoModel::new(model, 8 * GB));
    }
    let host = Host::start(config).await.unwrap();
    let yaml = scheduled_yaml(&[host.url()], "", "").replace("url: ", "gpu: { memory: 10GB }, url: ");
    let proxy = proxy(yaml).await;
    knows(&proxy, &host, "disk", 2).await;
    assert_eq!(send(proxy.address(), "POST", "/api/generate", generate("b")).await.head.status, 200);
    // The server takes its time to let it go.
    host.faults().add(FaultRule::everywhere(Fault::Delay(Duration::from_millis(300))).on_model("b").times(1));
    assert_eq!(send(proxy.address(), "POST", "/api/generate", generate("a")).await.head.status, 200);
    let orders = orders(&host);
    let models: Vec<_> = orders.iter().map(|order| order.model.as_deref().unwrap_or_default()).collect();
    assert_eq!(models, ["b:latest", "b:latest", "a:latest"]);
    let unloaded = orders[1].finished.expect("its end").at;
    assert!(orders[2].started >= unloaded, "the load did not wait for the unload");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_load_that_fails_gives_the_client_the_servers_own_words() {
    let server = Small::start(|got| {
        let (status, body) = match got.path.as_str() {
            "/api/version" => (200, r#"{"version":"0.33.0"}"#),
            "/api/tags" => (200, r#"{"models":[{"name":"a:latest","model":"a:latest","size":1}]}"#),
            "/api/ps" => (200, r#"{"models":[]}"#),
            "/v1/models" => (200, r#"{"data":[]}"#),
            _ => (500, r#"{"error":"model requires more system memory (8.0 GiB) than is available"}"#),
        };
        support::fleet::reply(status, "application/json", body)
    })
    .await;
    let proxy = proxy(scheduled_yaml(&[server.url()], "", "")).await;
    eventually("the model is known", || async { proxy.admin("/metrics").await.contains("in=\"disk\"} 1") }).await;
    let answer = send(proxy.address(), "POST", "/api/generate", generate("a")).await;
    assert_eq!(answer.head.status, 500);
    assert!(answer.text().contains("requires more system memory"), "{}", answer.text());
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_asks_is_told_why() {
    let config = |name| {
        let mut config = host(name);
        // Where loads cost nothing, two copies are better than one.
        config.load_time_per_gb = Duration::from_millis(500);
        config
    };
    let (one, two) = (Host::start(config("one")).await.unwrap(), Host::start(config("two")).await.unwrap());
    let proxy = before(&[&one, &two], "").await;
    let address = proxy.address();
    assert_eq!(send(address, "POST", "/api/generate", generate("a")).await.head.status, 200);
    let answer = send_with(address, "POST", "/api/generate", "X-Arriero-Explain: 1\r\n", generate("a")).await;
    let told: Value = serde_json::from_str(answer.head.field("x-arriero-decision").expect("a reason")).expect("JSON");
    let chosen = told["chosen"].as_str().expect("a server");
    assert_eq!(told["candidates"][0]["server"], chosen);
    assert_eq!(told["candidates"][0]["model_is"], "ready");
    assert_eq!(told["candidates"][1]["model_is"], "cold");
    assert_eq!(told["candidates"][1]["excluded"], "load_takes_longer", "{told}");
    assert!(told["candidates"][0]["score"].as_f64().is_some_and(|score| score > 0.0), "{told}");
    let unasked = send(address, "POST", "/api/generate", generate("a")).await;
    assert_eq!(unasked.head.field("x-arriero-decision"), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_that_no_server_in_use_has_in_memory_is_not_loaded_where_that_is_ruled_out() {
    let (one, two) = two().await;
    let proxy = before(&[&one, &two], "balance: { model_affinity: require_loaded }").await;
    let answer = send(proxy.address(), "POST", "/api/generate", generate("a")).await;
    assert_eq!((answer.head.status, answer.reason()), (503, Some("not_loaded")), "{}", answer.text());
    assert_eq!(orders(&one).len() + orders(&two).len(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_learned_is_known_after_a_restart() {
    let config = |name| {
        let mut config = host(name).tokens(20).token_interval(Duration::from_millis(2));
        config.load_time_per_gb = Duration::from_millis(300);
        config
    };
    let one = Host::start(config("one")).await.unwrap();
    let data = tempfile::tempdir().unwrap();
    let yaml =
        format!("{}server: {{ data_dir: \"{}\" }}\n", scheduled_yaml(&[one.url()], "", ""), data.path().display());
    let first = proxy(yaml.clone()).await;
    knows(&first, &one, "disk", 2).await;
    assert_eq!(send(first.address(), "POST", "/api/generate", generate("a")).await.head.status, 200);
    let mut first = first;
    let running = first.running.take().unwrap();
    tokio::task::spawn_blocking(move || running.stop()).await.unwrap();
    let store = rusqlite::Connection::open(data.path().join("arriero.db")).expect("a file");
    let kept = store.query_row("SELECT value FROM learned WHERE upstream = 'fleet'", [], |row| row.get::<_, String>(0));
    let kept: Value = serde_json::from_str(&kept.expect("what was learned")).expect("JSON");
    let (_, server) = kept["servers"].as_object().expect("servers").iter().next().expect("one");
    let load = server["models"]["a:latest"]["load"].as_f64().expect("a load");
    assert!((0.3..5.0).contains(&load), "{kept}");
    let second = proxy(yaml).await;
    let memory = second.running().store.load().upstreams[0].dispatcher.memory();
    assert_eq!(memory.servers.values().next().expect("one").models["a:latest"].load, Some(load));
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_wait_for_a_slot_by_every_other_rule_too() {
    let one = Host::start(host("one")).await.unwrap();
    for policy in ["least_requests", "round_robin", "consistent_hash"] {
        one.token_gate().close();
        let rule = format!("balance: {{ policy: {policy} }}\n");
        let yaml = scheduled_yaml(&[one.url()], "", &rule).replace("url: ", "max_in_flight: 1, url: ");
        let proxy = proxy(yaml).await;
        knows(&proxy, &one, "disk", 2).await;
        let ask = || {
            let address = proxy.address();
            tokio::spawn(async move { send(address, "POST", "/api/generate", generate("a")).await.head.status })
        };
        let before = one.ledger().inference().len();
        let asked: Vec<_> = (0..5).map(|_| ask()).collect();
        eventually("four wait", || async {
            proxy.metric("arriero_queue_requests{upstream=\"fleet\"}").await as u32 == 4
        })
        .await;
        eventually("one is there", || async { one.ledger().inference().len() > before }).await;
        assert_eq!(one.ledger().inference().len(), before + 1, "{policy}");
        // What a server has is read without a slot.
        assert_eq!(send(proxy.address(), "POST", "/api/show", r#"{"model":"a"}"#).await.head.status, 200, "{policy}");
        one.token_gate().open();
        for asked in asked {
            assert_eq!(asked.await.unwrap(), 200, "{policy}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_slots_of_clients_that_leave_are_free_again() {
    let fleet = Fleet::start(vec![host("one")]).await.unwrap();
    let one = &fleet.hosts[0];
    let yaml = scheduled_yaml(&[one.url()], "", "").replace("url: ", "max_in_flight: 1, url: ");
    let proxy = proxy(yaml).await;
    knows(&proxy, one, "disk", 2).await;
    for _ in 0..50 {
        one.token_gate().close();
        let before = one.ledger().inference().len();
        let mut client = H1::connect(proxy.address()).await;
        client.send(request("POST", "/api/generate", "", generate("a"))).await;
        one.ledger().wait_until(Duration::from_secs(20), |ledger| ledger.inference().len() > before).await.unwrap();
        client.reset();
        one.token_gate().open();
        assert_eq!(send(proxy.address(), "POST", "/api/generate", generate("a")).await.head.status, 200);
    }
    eventually("no slot is taken", || async {
        proxy.running().store.load().upstreams[0].servers[0].state.in_flight() == 0
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_slot_of_a_client_that_leaves_is_busy_until_its_server_has_noticed() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let (asked, mut asking) = tokio::sync::mpsc::unbounded_channel();
    let (notice, noticed) = tokio::sync::watch::channel(false);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(slow_to_notice(stream, asked.clone(), noticed.clone()));
        }
    });
    let proxy = proxy(scheduled_yaml(&[url], "", "").replace("url: ", "max_in_flight: 1, url: ")).await;
    eventually("the model is known", || async { proxy.admin("/metrics").await.contains("in=\"memory\"} 1") }).await;
    let mut first = H1::connect(proxy.address()).await;
    first.send(post("/api/generate", generate("a"))).await;
    asking.recv().await.expect("the first request");
    first.reset();
    let second = tokio::spawn({
        let address = proxy.address();
        async move { send(address, "POST", "/api/generate", generate("a")).await.head.status }
    });
    eventually("it waits", || async { proxy.metric("arriero_queue_requests{upstream=\"fleet\"}").await > 0.0 }).await;
    assert!(asking.try_recv().is_err(), "the server still works on the first one");
    notice.send(true).unwrap();
    asking.recv().await.expect("the second request");
    assert_eq!(second.await.unwrap(), 200);
}

/// Answers what a probe asks; holds the first request for text, and closes its connection only when it is told to.
async fn slow_to_notice(
    stream: tokio::net::TcpStream,
    asked: tokio::sync::mpsc::UnboundedSender<()>,
    mut noticed: tokio::sync::watch::Receiver<bool>,
) {
    const MODELS: &str = r#"{"models":[{"name":"a:latest","model":"a:latest","size":1}]}"#;
    let mut stream = BufReader::new(stream);
    loop {
        let (mut line, mut length) = (String::new(), 0);
        if stream.read_line(&mut line).await.is_ok_and(|count| count == 0) {
            return;
        }
        loop {
            let mut field = String::new();
            stream.read_line(&mut field).await.expect("a field");
            if field.trim().is_empty() {
                break;
            }
            if let Some(value) = field.to_ascii_lowercase().strip_prefix("content-length:") {
                length = value.trim().parse().expect("a length");
            }
        }
        stream.read_exact(&mut vec![0; length]).await.expect("a body");
        let body = match line.split(' ').nth(1).unwrap_or_default() {
            "/api/tags" | "/api/ps" => MODELS,
            "/api/generate" => {
                asked.send(()).ok();
                if !*noticed.borrow() {
                    drop(noticed.wait_for(|noticed| *noticed).await);
                    return;
                }
                r#"{"done":true}"#
            }
            _ => r#"{"version":"0.33.0","data":[]}"#,
        };
        let length = body.len();
        let answer =
            format!("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}");
        if stream.write_all(answer.as_bytes()).await.is_err() {
            return;
        }
    }
}
