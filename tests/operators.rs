//! What operators see and order on the admin listener: the paths of their runbooks, and who may use them.

mod support;

use arriero::demo::{DemoModel, Fault, Fleet, Host, HostConfig};
use serde_json::{Value, json};
use support::admin::{PREFIX, address, call, json as json_of, order, problem, show};
use support::fleet::{fleet, generate, request, send, send_with};
use support::wire::{H1, proxy};
use support::{PATIENCE, Proxy, eventually};

/// Servers called `s0`, `s1`, ...; `more` is put into the upstream, indented by four.
fn yaml(fleet: &Fleet, more: &str) -> String {
    let line = |(number, url): (usize, &String)| format!("      - {{ name: s{number}, url: \"{url}\" }}\n");
    let servers: String = fleet.urls().iter().enumerate().map(line).collect();
    let more: String = more.lines().map(|line| format!("    {line}\n")).collect();
    format!(
        "routes: [{{ name: all, upstream: fleet }}]\nupstreams:\n  fleet:\n    kind: ollama\n    servers:\n{servers}{more}"
    )
}

const TURNS: &str = "balance: { policy: round_robin, model_affinity: off }
health: { active: off }
inventory: { interval: 50ms }";

fn count(host: &Host) -> usize {
    host.ledger().inference().len()
}

async fn ask(proxy: &Proxy) -> u16 {
    send(proxy.address(), "POST", "/api/generate", generate("m")).await.head.status
}

async fn circuit(proxy: &Proxy, server: &str) -> Value {
    show(proxy, &format!("/circuit-breakers/{server}")).await["stats"].clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_circuit_that_was_forced_open_keeps_requests_away_until_it_is_closed() {
    let fleet = fleet(2, &["m"]).await;
    let proxy = proxy(yaml(&fleet, TURNS)).await;
    let told = order(&proxy, "/circuit-breakers/s0/open", r#"{"for":"1h","reason":"a test","who":"ana"}"#).await;
    assert_eq!((&told["previousState"], &told["currentState"]), (&"closed".into(), &"open".into()), "{told}");
    let seen = circuit(&proxy, "s0").await;
    assert_eq!((&seen["state"], &seen["forced"]), (&"open".into(), &true.into()), "{seen}");
    assert!(seen["nextRetryAt"].is_string(), "{seen}");
    for _ in 0..6 {
        assert_eq!(ask(&proxy).await, 200);
    }
    assert_eq!((count(&fleet.hosts[0]), count(&fleet.hosts[1])), (0, 6));
    // Also where nobody else is left: the order of an operator is no guess.
    order(&proxy, "/servers/s1/drain", "").await;
    assert_eq!((ask(&proxy).await, count(&fleet.hosts[0])), (503, 0));
    order(&proxy, "/servers/s1/undrain", "").await;
    order(&proxy, "/circuit-breakers/s0/close", "").await;
    let seen = circuit(&proxy, "s0").await;
    assert_eq!(
        (&seen["state"], &seen["forced"], &seen["nextRetryAt"]),
        (&"closed".into(), &false.into(), &Value::Null)
    );
    for _ in 0..6 {
        assert_eq!(ask(&proxy).await, 200);
    }
    assert_eq!((count(&fleet.hosts[0]), count(&fleet.hosts[1])), (3, 9));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_circuit_that_was_forced_half_open_lets_one_request_through() {
    let fleet = fleet(2, &["m"]).await;
    let proxy = proxy(yaml(&fleet, TURNS)).await;
    order(&proxy, "/circuit-breakers/s0/half-open", "").await;
    fleet.hosts[0].token_gate().close();
    let mut waiting = tokio::task::JoinSet::new();
    for _ in 0..8 {
        let address = proxy.address();
        waiting.spawn(async move { send(address, "POST", "/api/generate", generate("m")).await.head.status });
    }
    for _ in 0..7 {
        let done = tokio::time::timeout(PATIENCE, waiting.join_next()).await.expect("the others are not held back");
        assert_eq!(done.expect("eight").expect("no panic"), 200);
    }
    assert_eq!(count(&fleet.hosts[0]), 1);
    assert_eq!(circuit(&proxy, "s0").await["state"], "half_open");
    fleet.hosts[0].token_gate().open();
    assert_eq!(waiting.join_next().await.expect("the trial").expect("no panic"), 200);
    eventually("its success closes it", || async { circuit(&proxy, "s0").await["state"] == "closed" }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reset_forgets_the_failures_that_were_counted() {
    let fleet = fleet(1, &["m"]).await;
    let proxy = proxy(yaml(
        &fleet,
        &format!("{TURNS}\ncircuit: {{ consecutive_failures: 3, open_for: 1h, max_open_for: 2h }}"),
    ))
    .await;
    fleet.hosts[0].faults().always(Fault::ResetBeforeHeaders);
    for _ in 0..2 {
        for _ in 0..2 {
            assert_eq!(ask(&proxy).await, 502);
        }
        assert_eq!(circuit(&proxy, "s0").await["failureCount"], 2);
        order(&proxy, "/circuit-breakers/s0/reset", "").await;
        let seen = circuit(&proxy, "s0").await;
        assert_eq!((&seen["failureCount"], &seen["state"]), (&0.into(), &"closed".into()));
    }
    for _ in 0..3 {
        assert_eq!(ask(&proxy).await, 502);
    }
    assert_eq!(circuit(&proxy, "s0").await["state"], "open");
    // The runbook's form with `server` in the place of a model.
    order(&proxy, "/circuit-breakers/s0/server/reset", "").await;
    assert_eq!(circuit(&proxy, "s0").await["state"], "closed");
    // A model that never failed has no circuit that could be open.
    let told = order(&proxy, "/circuit-breakers/s0/m/reset", "").await;
    assert_eq!((&told["model"], &told["currentState"]), (&"m:latest".into(), &"closed".into()), "{told}");
    let list = show(&proxy, "/circuit-breakers").await;
    assert_eq!((&list["count"], &list["circuitBreakers"][0]["serverId"]), (&1.into(), &"s0".into()), "{list}");
    assert_eq!(list["circuitBreakers"][0]["state"], "closed");
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_that_run_are_listed_by_server_and_model_without_what_they_say() {
    let config = HostConfig::new("a").small_model("m").small_model("n").parallel(4);
    let fleet = Fleet::start(vec![config]).await.expect("a fleet");
    let proxy = proxy(yaml(&fleet, TURNS)).await;
    let host = &fleet.hosts[0];
    host.token_gate().close();
    let begin = |id: &'static str, model: &'static str| {
        let address = proxy.address();
        async move {
            let mut client = H1::connect(address).await;
            let body = format!(r#"{{"model":"{model}","prompt":"a secret"}}"#);
            client.send(request("POST", "/api/generate", &format!("X-Request-Id: {id}\r\n"), body)).await;
            client
        }
    };
    let mut clients = vec![begin("one", "m").await, begin("two", "M:latest").await, begin("three", "n").await];
    let listed = || async { show(&proxy, "/in-flight").await };
    eventually("three run", || async { listed().await["total"] == 3 }).await;
    let seen = listed().await;
    let server = &seen["inFlight"][0];
    assert_eq!((&server["serverId"], &server["total"]), (&"s0".into(), &3.into()), "{seen}");
    assert_eq!(server["byModel"]["m:latest"]["regular"], 2, "{seen}");
    assert_eq!(server["byModel"]["n:latest"]["regular"], 1, "{seen}");
    let mut ids: Vec<&str> =
        server["requests"].as_array().expect("a list").iter().filter_map(|one| one["id"].as_str()).collect();
    ids.sort_unstable();
    assert_eq!(ids, ["one", "three", "two"]);
    assert!(server["requests"].as_array().expect("a list").iter().all(|one| one["startTime"].is_string()), "{seen}");
    assert!(!seen.to_string().contains("secret"), "{seen}");
    eventually("the servers work on them", || async {
        let seen = listed().await;
        seen["inFlight"][0]["requests"].as_array().expect("a list").iter().all(|one| one["phase"] == "waiting")
    })
    .await;
    // One token of each, then silence: they answer.
    host.faults().clear();
    drop(clients.pop());
    eventually("who left is listed no more", || async { listed().await["total"] == 2 }).await;
    host.token_gate().open();
    for client in &mut clients {
        assert!(client.reader.answer().await.whole);
    }
    eventually("none runs", || async { listed().await["total"] == 0 }).await;
    assert_eq!(listed().await["inFlight"][0]["requests"], json!([]));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_has_begun_is_listed_as_such() {
    let fleet = fleet(1, &["m"]).await;
    let proxy = proxy(yaml(&fleet, TURNS)).await;
    fleet.hosts[0].faults().always(Fault::StallAfterTokens(2));
    let mut client = H1::connect(proxy.address()).await;
    client.send(request("POST", "/api/generate", "", r#"{"model":"m","prompt":"x"}"#)).await;
    client.reader.head().await;
    let seen = show(&proxy, "/in-flight").await;
    assert_eq!(seen["answering"], 1, "{seen}");
    assert_eq!(seen["inFlight"][0]["requests"][0]["phase"], "answering", "{seen}");
}

#[tokio::test(flavor = "multi_thread")]
async fn models_are_shown_with_where_they_are() {
    let fleet = fleet(2, &["m"]).await;
    fleet.hosts[1].add_model(DemoModel::new("n:7b", 1_000_000_000));
    let proxy = proxy(yaml(&fleet, TURNS)).await;
    send(fleet.hosts[0].address(), "POST", "/api/generate", generate("m")).await;
    let status = |model: &'static str| {
        let proxy = &proxy;
        async move { show(proxy, &format!("/models/{model}/status")).await["status"].clone() }
    };
    eventually("loaded on one", || async { status("m").await["loadedOn"] == 1 }).await;
    let seen = status("m").await;
    assert_eq!((&seen["totalServers"], &seen["notLoadedOn"], &seen["failedOn"]), (&2.into(), &1.into(), &0.into()));
    let one = show(&proxy, "/models/library%2Fm/status").await;
    assert_eq!((&one["model"], &one["servers"]["s0"]["state"]), (&"m:latest".into(), &"loaded".into()), "{one}");
    assert_eq!(one["servers"]["s1"]["state"], "available", "{one}");
    let models = show(&proxy, "/models").await;
    assert_eq!((&models["models"], &models["count"]), (&json!(["m:latest", "n:7b"]), &2.into()));
    let map = show(&proxy, "/model-map").await;
    assert_eq!(map["modelToServers"], json!({ "m:latest": ["s0", "s1"], "n:7b": ["s1"] }));
    assert_eq!(map["serverToModels"]["s1"], json!(["m:latest", "n:7b"]));
    // While a model loads, whoever waits for it is seen.
    fleet.hosts[1].load_gate().close();
    let mut client = H1::connect(proxy.address()).await;
    client.send(request("POST", "/api/generate", "", generate("n:7b"))).await;
    eventually("loading", || async { status("n:7b").await["loadingOn"] == 1 }).await;
    fleet.hosts[1].load_gate().open();
    assert_eq!(client.reader.answer().await.head.status, 200);
    eventually("loaded", || async { status("n:7b").await["loadedOn"] == 1 }).await;
    order(&proxy, "/circuit-breakers/s1/open", "").await;
    let all = show(&proxy, "/models/status").await;
    assert_eq!(all["models"]["n:7b"]["failedOn"], 1, "{all}");
    assert_eq!(all["summary"], json!({ "totalModels": 2, "loadedModels": 1, "totalServers": 2 }));
}

#[tokio::test(flavor = "multi_thread")]
async fn servers_are_shown_with_what_is_known_of_them() {
    let fleet = fleet(2, &["m"]).await;
    let proxy = proxy(yaml(&fleet, "health: { active: { interval: 50ms, timeout: 2s } }")).await;
    let one = || async { show(&proxy, "/servers/s1").await["server"].clone() };
    eventually("checked", || async { one().await["lastResponseTime"].is_number() }).await;
    let seen = one().await;
    assert_eq!(seen["url"], fleet.urls()[1]);
    assert_eq!((&seen["healthy"], &seen["health"]), (&true.into(), &"up".into()), "{seen}");
    assert_eq!((&seen["models"], &seen["version"]), (&json!(["m:latest"]), &"0.33.0".into()), "{seen}");
    assert_eq!((&seen["inFlight"], &seen["empty"], &seen["maxConcurrency"]), (&0.into(), &true.into(), &Value::Null));
    let list = show(&proxy, "/servers").await;
    assert_eq!((&list["success"], &list["count"], &list["servers"][1]["id"]), (&true.into(), &2.into(), &"s1".into()));
    fleet.hosts[1].kill().await;
    eventually("down", || async { one().await["health"] == "down" }).await;
    assert_eq!(one().await["healthy"], false);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_done_is_a_problem_document() {
    let fleet = fleet(1, &["m"]).await;
    let proxy = proxy(yaml(&fleet, TURNS)).await;
    for (method, path, body, status, words) in [
        ("GET", "/servers/nobody", "", 404, "no server `nobody`"),
        ("POST", "/servers/nobody/drain", "", 404, "no server `nobody`"),
        ("POST", "/servers/s0/drain", "{", 400, "the body"),
        ("POST", "/servers/s0/drain", r#"{"raison":"x"}"#, 400, "raison"),
        ("POST", "/servers/s0/drain?wait=30", "", 400, "30s"),
        ("POST", "/servers/s0/maintenance", r#"{"enabled":"yes"}"#, 400, "a boolean"),
        ("POST", "/servers/s0/maintenance", r#"{"for":"900000000000d"}"#, 400, "too long"),
        ("GET", "/servers/s0/drain", "", 405, "method"),
        ("DELETE", "/in-flight", "", 405, "method"),
        ("GET", "/nothing", "", 404, "no such path"),
        ("GET", "/models/x/status", "", 404, "no server has the model `x:latest`"),
        ("POST", "/circuit-breakers/s0/explode", "", 404, "open, close, half-open or reset"),
        ("POST", "/circuit-breakers/s0/close", r#"{"for":"1m"}"#, 400, "`open`"),
        ("GET", "/circuit-breakers/s0/unheard-of", "", 404, "no circuit"),
    ] {
        let answer = call(&proxy, method, path, body).await;
        let (given, detail) = problem(&answer);
        assert!(given == status && detail.contains(words), "{method} {path} {body}: {given} {detail}");
    }
    assert_eq!(show(&proxy, "/servers/s0").await["server"]["operation"]["state"], "active");
    assert_eq!(circuit(&proxy, "s0").await["state"], "closed");
}

/// Orders that change something, one of each topic.
const ORDERS: [&str; 6] = [
    "/servers/s0/drain",
    "/servers/s0/undrain",
    "/servers/s0/maintenance",
    "/circuit-breakers/s0/open",
    "/circuit-breakers/s0/server/open",
    "/config/reload",
];

#[tokio::test(flavor = "multi_thread")]
async fn orders_need_the_token_and_come_from_no_web_page() {
    let fleet = fleet(1, &["m"]).await;
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("token");
    std::fs::write(&file, "let me in\n").expect("written");
    let admin = format!("\nadmin: {{ address: \"127.0.0.1:0\", token_file: \"{}\" }}\n", file.display());
    let proxy = proxy(yaml(&fleet, TURNS) + &admin).await;
    let give = |path: &str, fields: &str| {
        let (address, path, fields) = (address(&proxy), format!("{PREFIX}{path}"), fields.to_owned());
        async move { send_with(address, "POST", &path, &fields, "").await }
    };
    let token = "Authorization: Bearer let me in\r\n";
    for path in ORDERS {
        for (fields, status) in [
            (String::new(), 401),
            ("Authorization: Bearer let me\r\n".to_owned(), 401),
            (format!("{token}Origin: http://evil.test\r\n"), 403),
            (format!("{token}Sec-Fetch-Site: cross-site\r\n"), 403),
            (format!("{token}Host: evil.test\r\n"), 421),
        ] {
            let answer = give(path, &fields).await;
            assert_eq!(problem(&answer).0, status, "{path} {fields}");
        }
    }
    assert_eq!(show(&proxy, "/servers/s0").await["server"]["operation"]["state"], "active", "reads are open");
    assert_eq!(circuit(&proxy, "s0").await["state"], "closed");
    assert_eq!(give("/servers/s0/drain", token).await.head.status, 200);
    assert_eq!(show(&proxy, "/servers/s0").await["server"]["operation"]["state"], "draining");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_admin_listener_that_others_reach_needs_a_token() {
    let fleet = fleet(1, &["m"]).await;
    let text = yaml(&fleet, TURNS) + "\nadmin: { address: \"0.0.0.0:0\" }\n";
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("arriero.yaml");
    std::fs::write(&file, support::process::complete(&text)).expect("written");
    let ended =
        support::process::finish(support::process::arriero(&["run", "-c", "arriero.yaml"], folder.path())).await;
    assert_eq!(ended.code, Some(1));
    assert!(ended.err.contains("E039"), "{ended:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_paused_queue_lets_nobody_begin_whatever_the_rule() {
    let fleet = fleet(1, &["m"]).await;
    for rule in ["", "balance: { policy: least_requests }"] {
        let proxy = proxy(yaml(&fleet, rule)).await;
        assert_eq!(ask(&proxy).await, 200);
        let before = count(&fleet.hosts[0]);
        assert_eq!(order(&proxy, "/queue/pause", r#"{"reason":"a test"}"#).await["paused"], true);
        let waiting = tokio::spawn({
            let address = proxy.address();
            async move { send(address, "POST", "/api/generate", generate("m")).await.head.status }
        });
        eventually("it waits", || async { show(&proxy, "/queue").await["queue"] == 1 }).await;
        let queue = show(&proxy, "/queue").await;
        assert_eq!(queue["upstreams"][0]["byModel"]["m:latest"], 1, "{queue}");
        assert_eq!(count(&fleet.hosts[0]), before);
        // What needs no slot is not held back.
        assert_eq!(send(proxy.address(), "POST", "/api/show", r#"{"model":"m"}"#).await.head.status, 200);
        assert_eq!(order(&proxy, "/queue/resume", "").await["paused"], false);
        assert_eq!(waiting.await.unwrap(), 200);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn bans_are_laid_down_heeded_listed_and_lifted() {
    let fleet = fleet(2, &["m", "n"]).await;
    for rule in ["", TURNS] {
        let proxy = proxy(yaml(&fleet, rule)).await;
        let (one, two) = (count(&fleet.hosts[0]), count(&fleet.hosts[1]));
        let told = order(&proxy, "/bans", r#"{"server":"s0","model":"M","for":"1h","reason":"crashes"}"#).await;
        assert_eq!((&told["bans"][0]["model"], &told["bans"][0]["reason"]), (&"m:latest".into(), &"crashes".into()));
        for _ in 0..4 {
            assert_eq!(ask(&proxy).await, 200);
        }
        assert_eq!((count(&fleet.hosts[0]) - one, count(&fleet.hosts[1]) - two), (0, 4), "{rule}");
        assert_eq!(problem(&call(&proxy, "DELETE", "/bans/s0/n", "").await).0, 404);
        let gone = call(&proxy, "DELETE", "/bans/s0/m", "").await;
        assert_eq!((gone.head.status, &json_of(&gone)["removed"]), (200, &1.into()));
        order(&proxy, "/bans", r#"{"model":"m"}"#).await;
        assert_eq!(ask(&proxy).await, 503, "banned everywhere");
        assert_eq!(json_of(&call(&proxy, "DELETE", "/bans", "").await)["removed"], 1);
        assert_eq!(ask(&proxy).await, 200);
        assert_eq!(problem(&call(&proxy, "POST", "/bans", "{}").await).0, 400);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn choices_are_explained_afterwards() {
    let fleet = fleet(2, &["m"]).await;
    let proxy = proxy(yaml(&fleet, "")).await;
    assert_eq!(ask(&proxy).await, 200);
    let told = show(&proxy, "/analytics/decisions?limit=5&model=m").await;
    let last = &told["decisions"][0];
    assert_eq!((&last["model"], &last["upstream"]), (&"m:latest".into(), &"fleet".into()), "{told}");
    assert_eq!(last["candidates"].as_array().expect("candidates").len(), 2);
    assert_eq!(show(&proxy, "/analytics/decisions?model=other").await["count"], 0);
    // The same from the history, where it outlives the process.
    let kept = || async { show(&proxy, "/analytics/decisions?timeRange=1h&model=m&limit=1").await };
    eventually("it is kept", || async { kept().await["count"] == 1 }).await;
    let kept = kept().await["decisions"][0].clone();
    assert_eq!((&kept["chosen"], &kept["candidates"]), (&last["chosen"], &last["candidates"]), "{kept}");
}
