//! Servers that are ill are tested until they are well: less and less often, without loading anything, without
//! disturbing anybody, and without believing more than a test shows.

mod support;

use arriero::demo::{Fault, FaultRule, Fleet, Host};
use serde_json::{Value, json};
use support::admin::{order, problem, show};
use support::fleet::{Got, Small, circuit_is, fleet, generate, of_server, reply, request, send};
use support::wire::{H1, proxy};
use support::{PATIENCE, Proxy, eventually, upstream_yaml};

/// Tests in quick succession; circuits that do not open themselves again while a test runs.
const QUICK: &str = "balance: { policy: round_robin, model_affinity: off }
inventory: { interval: 1h }
circuit: { consecutive_failures: 1, open_for: 1h, max_open_for: 2h }
health: { active: off }
recovery: { interval: 20ms, max_interval: 40ms, quiet: 0s }";

async fn before(fleet: &Fleet, upstream: &str) -> Proxy {
    proxy(upstream_yaml("ollama", &fleet.urls(), "", upstream)).await
}

async fn ask(proxy: &Proxy) -> u16 {
    send(proxy.address(), "POST", "/api/generate", generate("m")).await.head.status
}

/// Waits until the circuit is open: its request is answered a moment before.
async fn opens(proxy: &Proxy, host: &Host) {
    eventually("open", || circuit_is(proxy, host, "open")).await;
}

/// What is known of the tests of a server.
async fn tests(proxy: &Proxy, host: &Host) -> Value {
    show(proxy, &format!("/recovery-failures/{}", host.address())).await["server"].clone()
}

async fn count(proxy: &Proxy, host: &Host) -> u64 {
    tests(proxy, host).await["totalTests"].as_u64().expect("a number")
}

/// The newest test of a server.
async fn newest(proxy: &Proxy, host: &Host) -> Value {
    show(proxy, &format!("/recovery-failures/{}/history?limit=1", host.address())).await["history"][0].clone()
}

/// Waits for a test that begins from now on.
async fn another(proxy: &Proxy, host: &Host) -> Value {
    let before = count(proxy, host).await;
    // The first may have begun already.
    eventually("two more tests", || async { count(proxy, host).await >= before + 2 }).await;
    newest(proxy, host).await
}

/// Orders a test.
async fn tested(proxy: &Proxy, host: &Host, model: &str) -> Value {
    let model = if model.is_empty() { String::new() } else { format!("/models/{model}") };
    order(proxy, &format!("/servers/{}{model}/recovery-test", host.address()), "").await["test"].clone()
}

fn inference(host: &Host) -> usize {
    host.ledger().inference().len()
}

/// Requests for inference that tests made.
fn tokens(host: &Host) -> usize {
    let own = |agent: &str| agent.starts_with("arriero/");
    host.ledger().own_account().iter().filter(|entry| entry.header("user-agent").is_some_and(own)).count()
}

/// Puts the model into the memory of a host, past the proxy.
async fn load(host: &Host) {
    assert_eq!(send(host.address(), "POST", "/api/generate", generate("m")).await.head.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_with_an_open_circuit_is_tested_and_half_open_once_its_model_gives_a_token() {
    let fleet = fleet(1, &["m"]).await;
    let host = &fleet.hosts[0];
    let proxy = before(&fleet, QUICK).await;
    host.kill().await;
    assert_eq!(ask(&proxy).await, 502);
    opens(&proxy, host).await;
    let test = another(&proxy, host).await;
    assert_eq!(
        (&test["success"], &test["failure"]["step"], &test["failure"]["class"]),
        (&false.into(), &"liveness".into(), &"connect".into()),
        "{test}"
    );
    assert!(
        proxy
            .metric(&format!(
                "arriero_recovery_tests_total{{upstream=\"fleet\",server=\"{}\",result=\"connect\"}}",
                host.address()
            ))
            .await
            >= 2.0
    );

    host.restart().await.expect("the port is ours");
    // It answers, it tells its models, and none is in memory: that proves nothing about inference, and loads nothing.
    eventually("a test goes well", || async { newest(&proxy, host).await["success"] == true }).await;
    let test = another(&proxy, host).await;
    assert_eq!((&test["success"], &test["leftOut"]), (&true.into(), &"no model is in memory".into()), "{test}");
    assert!(circuit_is(&proxy, host, "open").await);
    assert_eq!((inference(host), host.loaded()), (0, vec![]));

    load(host).await;
    eventually("half open", || circuit_is(&proxy, host, "half_open")).await;
    let test = newest(&proxy, host).await;
    assert_eq!(
        (&test["success"], &test["model"], &test["trigger"]),
        (&true.into(), &"m:latest".into(), &"schedule".into())
    );
    assert_eq!(tokens(host), 1);
    assert_eq!(host.ledger().own_account().last().map(|entry| entry.tokens), Some(1));
    // A half-open circuit waits for a real request.
    assert_eq!(tests(&proxy, host).await["ill"], true);
    assert_eq!(ask(&proxy).await, 200);
    eventually("closed", || circuit_is(&proxy, host, "closed")).await;
    eventually("well", || async { tests(&proxy, host).await["ill"] == false }).await;
    assert_eq!((tests(&proxy, host).await["nextTestAt"].clone(), tokens(host)), (Value::Null, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_down_is_found_by_its_tests_when_checks_are_rare() {
    let fleet = fleet(1, &["m"]).await;
    let host = &fleet.hosts[0];
    let upstream = |interval: &str| {
        let check = format!("{{ interval: {interval}, timeout: 2s, healthy: 2, unhealthy: 1 }}");
        let text = QUICK.replace("active: off", &format!("active: {check}"));
        upstream_yaml("ollama", &fleet.urls(), "", &text)
    };
    let proxy = proxy(upstream("50ms")).await;
    let is_up = || async { of_server(&proxy, "arriero_server_up", host.address(), "").await == 1.0 };
    host.kill().await;
    eventually("down", || async { !is_up().await }).await;
    proxy.rewrite(&upstream("1h"));
    let applied = "arriero_config_reloads_total{result=\"applied\"}";
    eventually("applied", || async { proxy.metric(applied).await == 1.0 }).await;
    another(&proxy, host).await;
    assert!(!is_up().await);
    host.restart().await.expect("the port is ours");
    eventually("up", is_up).await;
    assert_eq!(ask(&proxy).await, 200);
    eventually("well", || async { tests(&proxy, host).await["ill"] == false }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_test_says_where_and_how() {
    let fleet = fleet(1, &["m"]).await;
    let host = &fleet.hosts[0];
    let check = "health: { active: { interval: 1h, timeout: 500ms, unhealthy: 1000 } }";
    let text = format!("{check}\ninventory: {{ interval: 1h }}\nrecovery: {{ timeout: 500ms }}");
    let proxy = before(&fleet, &text).await;
    load(host).await;
    for (path, fault, step, class) in [
        ("/api/version", Fault::Hang, "liveness", "timeout"),
        ("/api/version", Fault::Garbage, "liveness", "protocol"),
        ("/api/version", Fault::ResetBeforeHeaders, "liveness", "protocol"),
        ("/api/version", Fault::Status(500, "sick".to_owned()), "liveness", "status"),
        ("/api/tags", Fault::Status(500, "sick".to_owned()), "inventory", "status"),
        ("/api/generate", Fault::RunnerCrash, "model", "model"),
        ("/api/generate", Fault::Hang, "model", "stalled"),
        ("/api/generate", Fault::CloseBeforeHeaders, "model", "protocol"),
    ] {
        host.faults().add(FaultRule::everywhere(fault.clone()).on_path(path));
        let test = tested(&proxy, host, "").await;
        let failure = &test["failure"];
        assert_eq!((&failure["step"], &failure["class"]), (&step.into(), &class.into()), "{path} {fault:?}: {test}");
        assert_eq!(test["model"].is_string(), step == "model", "{test}");
        host.faults().clear();
    }
    let test = tested(&proxy, host, "").await;
    assert_eq!((&test["success"], &test["trigger"]), (&true.into(), &"operator".into()), "{test}");
    let seen = tests(&proxy, host).await;
    let expected = json!({ "timeout": 1, "protocol": 3, "status": 2, "model": 1, "stalled": 1 });
    assert_eq!(seen["failuresByClass"], expected, "{seen}");
    assert_eq!((&seen["totalTests"], &seen["totalFailures"]), (&9.into(), &8.into()), "{seen}");
    let history = show(&proxy, &format!("/recovery-failures/{}/history?limit=3&offset=1", host.address())).await;
    assert_eq!(history["count"], 3, "{history}");
    assert_eq!(history["history"][0]["failure"]["class"], "protocol", "the youngest but one comes first: {history}");
    let recent = show(&proxy, "/recovery-failures/recent?limit=2").await;
    assert_eq!((&recent["count"], &recent["records"][0]["failure"]["step"]), (&2.into(), &"model".into()), "{recent}");
    let summary = show(&proxy, "/recovery-failures").await;
    assert_eq!((&summary["totalFailures"], &summary["count"]), (&8.into(), &1.into()), "{summary}");
    order(&proxy, &format!("/recovery-failures/{}/reset", host.address()), "").await;
    assert_eq!(tests(&proxy, host).await["totalTests"], 0);
    assert_eq!(show(&proxy, "/recovery-failures").await["servers"], json!([]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_without_tls_where_tls_is_spoken_fails_by_tls() {
    let fleet = fleet(1, &["m"]).await;
    let host = &fleet.hosts[0];
    let text = upstream_yaml("ollama", &[host.url().replace("http:", "https:")], "", "health: { active: off }");
    let proxy = proxy(text).await;
    assert_eq!(tested(&proxy, host, "").await["failure"]["class"], "tls");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_ordered_test_loads_nothing_and_leaves_servers_alone_that_were_taken_out() {
    let fleet = fleet(1, &["m", "n"]).await;
    let host = &fleet.hosts[0];
    let proxy = before(&fleet, "health: { active: off }").await;
    for model in ["", "m", "nobody-has-it"] {
        let test = tested(&proxy, host, model).await;
        assert_eq!(test["success"], true, "{test}");
        let why = if model.is_empty() { "no model is in memory" } else { "the model is not in memory" };
        assert_eq!(test["leftOut"], why, "{test}");
    }
    load(host).await;
    assert_eq!(tested(&proxy, host, "n").await["leftOut"], "the model is not in memory");
    assert_eq!(host.loaded().len(), 1);
    assert_eq!(tested(&proxy, host, "library%2FM").await["model"], "m:latest", "a name is a name in any spelling");
    assert_eq!(tokens(host), 1);
    order(&proxy, &format!("/servers/{}/maintenance", host.address()), "").await;
    let test = tested(&proxy, host, "m").await;
    assert_eq!(
        (&test["success"], &test["leftOut"]),
        (&true.into(), &"the server is draining or in maintenance".into())
    );
    assert_eq!(tokens(host), 1);
    let answer = support::admin::call(&proxy, "POST", "/servers/nobody/recovery-test", "").await;
    assert_eq!(problem(&answer).0, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn no_token_is_asked_for_while_requests_run_or_have_run_lately() {
    let fleet = fleet(1, &["m"]).await;
    let host = &fleet.hosts[0];
    let proxy = before(&fleet, &QUICK.replace("quiet: 0s", "quiet: 1h")).await;
    assert_eq!(ask(&proxy).await, 200);
    host.faults().next(1, Fault::ResetBeforeHeaders);
    assert_eq!(ask(&proxy).await, 502);
    opens(&proxy, host).await;
    let test = another(&proxy, host).await;
    assert_eq!(test["leftOut"], "requests have run within `recovery.quiet`", "{test}");
    assert_eq!((test["success"].clone(), tokens(host)), (true.into(), 0));
    assert!(circuit_is(&proxy, host, "open").await, "a server that is alive need not be able to work");
}

#[tokio::test(flavor = "multi_thread")]
async fn with_the_probe_off_no_token_is_asked_for() {
    let fleet = fleet(1, &["m"]).await;
    let host = &fleet.hosts[0];
    let proxy = before(&fleet, &QUICK.replace("quiet: 0s", "probe: off")).await;
    load(host).await;
    host.faults().next(1, Fault::ResetBeforeHeaders);
    assert_eq!(ask(&proxy).await, 502);
    opens(&proxy, host).await;
    let test = another(&proxy, host).await;
    assert_eq!((&test["success"], &test["leftOut"]), (&true.into(), &"`recovery.probe` is off".into()), "{test}");
    assert_eq!(tokens(host), 0);
    assert!(circuit_is(&proxy, host, "open").await);
}

#[tokio::test(flavor = "multi_thread")]
async fn tests_do_not_undo_what_an_operator_ordered() {
    let fleet = fleet(3, &["m"]).await;
    let (held, drained, ill) = (&fleet.hosts[0], &fleet.hosts[1], &fleet.hosts[2]);
    let proxy = before(&fleet, QUICK).await;
    for host in [held, drained] {
        load(host).await;
    }
    order(&proxy, &format!("/servers/{}/drain", drained.address()), "").await;
    order(&proxy, &format!("/circuit-breakers/{}/open", held.address()), "").await;
    // Of three, one works; it fails, and is tested from then on.
    ill.kill().await;
    assert_eq!(ask(&proxy).await, 502);
    opens(&proxy, ill).await;
    for _ in 0..3 {
        another(&proxy, ill).await;
    }
    assert_eq!((count(&proxy, held).await, count(&proxy, drained).await), (0, 0), "nobody is ill there");
    // A test that an operator orders shows that the model works; the circuit stays open all the same.
    assert_eq!(tested(&proxy, held, "m").await["model"], "m:latest");
    assert!(circuit_is(&proxy, held, "open").await);
    // A drained server that falls ill is left alone until it is back.
    order(&proxy, &format!("/servers/{}/undrain", ill.address()), "").await;
    order(&proxy, &format!("/servers/{}/drain", ill.address()), "").await;
    let before = count(&proxy, ill).await;
    ill.restart().await.expect("the port is ours");
    load(ill).await;
    assert!(count(&proxy, ill).await <= before + 1, "one may have been under way");
    assert!(circuit_is(&proxy, ill, "open").await);
    order(&proxy, &format!("/servers/{}/undrain", ill.address()), "").await;
    eventually("half open", || circuit_is(&proxy, ill, "half_open")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_test_holds_a_slot_and_waits_for_none() {
    let fleet = fleet(1, &["m"]).await;
    let host = &fleet.hosts[0];
    let text = upstream_yaml("ollama", &fleet.urls(), "", "health: { active: off }");
    let proxy = proxy(text.replace("- { url", "- { max_in_flight: 1, url")).await;
    host.token_gate().close();
    let mut client = H1::connect(proxy.address()).await;
    client.send(request("POST", "/api/generate", "", generate("m"))).await;
    host.ledger()
        .wait_until(PATIENCE, |ledger| ledger.inference().iter().any(|one| one.slot_at.is_some()))
        .await
        .expect("it runs");
    assert_eq!(tested(&proxy, host, "").await["leftOut"], "the server is full");
    host.token_gate().open();
    assert_eq!(client.reader.answer().await.head.status, 200);
    host.token_gate().close();
    let path = format!("/servers/{}", host.address());
    let look = async {
        host.ledger().wait_until(PATIENCE, |ledger| ledger.own_account().len() == 1).await.expect("the test is there");
        assert_eq!(show(&proxy, &path).await["server"]["inFlight"], 1);
        host.token_gate().open();
    };
    let (test, ()) = tokio::join!(tested(&proxy, host, ""), look);
    assert_eq!(test["success"], true, "{test}");
    assert_eq!(show(&proxy, &path).await["server"]["empty"], true);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_pattern_of_an_illness_is_told_with_its_basis() {
    let fleet = fleet(2, &["m"]).await;
    let (flapping, dead) = (&fleet.hosts[0], &fleet.hosts[1]);
    let text = "health: { active: { interval: 20ms, timeout: 2s, healthy: 1, unhealthy: 1 } }
recovery: { interval: 20ms, max_interval: 40ms }";
    let proxy = before(&fleet, text).await;
    let is_ill = |host: &Host| {
        let (proxy, path) = (&proxy, format!("/recovery-failures/{}", host.address()));
        async move { show(proxy, &path).await["server"]["ill"] == true }
    };
    let pattern = |host: &Host| {
        let (proxy, path) = (&proxy, format!("/recovery-failures/{}/analysis", host.address()));
        async move { show(proxy, &path).await }
    };
    assert_eq!(pattern(flapping).await["pattern"], "stable");
    dead.kill().await;
    for _ in 0..2 {
        assert_eq!(of_server(&proxy, "arriero_server_flapping", flapping.address(), "").await, 0.0);
        let rule =
            flapping.faults().add(FaultRule::everywhere(Fault::Status(500, "sick".to_owned())).on_path("/api/version"));
        eventually("ill", || is_ill(flapping)).await;
        flapping.faults().remove(rule);
        eventually("well", || async { !is_ill(flapping).await }).await;
    }
    let seen = pattern(flapping).await;
    assert_eq!((&seen["pattern"], &seen["changes"]), (&"flapping".into(), &4.into()), "{seen}");
    assert_eq!(of_server(&proxy, "arriero_server_flapping", flapping.address(), "").await, 1.0);
    eventually("persistent", || async { pattern(dead).await["pattern"] == "persistent" }).await;
    let seen = pattern(dead).await;
    assert!(seen["basis"].as_str().is_some_and(|basis| basis.contains("connect")), "{seen}");
    let impact = show(&proxy, &format!("/recovery-failures/{}/circuit-breaker-impact", dead.address())).await;
    assert_eq!((&impact["circuitBreaker"], &impact["takesRequests"]), (&"closed".into(), &false.into()), "{impact}");
}

/// A server with one model in memory until `expires`, that notes what it is asked.
async fn with_memory(expires: &'static str) -> Small {
    Small::start(move |got: &Got| {
        let json = |body: String| reply(200, "application/json", body);
        match got.path.as_str() {
            "/api/version" => json(r#"{"version":"0.33.0"}"#.to_owned()),
            "/api/tags" => json(r#"{"models":[{"name":"m:latest","model":"m:latest"}]}"#.to_owned()),
            "/api/ps" => json(format!(
                r#"{{"models":[{{"name":"m:latest","model":"m:latest","size":9,"expires_at":"{expires}","context_length":8192}}]}}"#
            )),
            "/api/generate" => json(r#"{"model":"m:latest","response":"1","done":true}"#.to_owned()),
            _ => reply(404, "text/plain", ""),
        }
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_is_asked_for_in_a_way_that_changes_nothing_about_the_model() {
    let lasting = with_memory("2318-11-05T12:00:00.123456789+01:00").await;
    let leaving = with_memory("2024-01-01T00:00:00Z").await;
    let proxy = proxy(upstream_yaml("ollama", &[lasting.url(), leaving.url()], "", "health: { active: off }")).await;
    let test = |server: &Small| {
        let (proxy, path) = (&proxy, format!("/servers/{}/recovery-test", server.address));
        async move { order(proxy, &path, "").await["test"].clone() }
    };
    assert_eq!(test(&lasting).await["model"], "m:latest");
    let asked: Vec<Got> = lasting.got().into_iter().filter(|got| got.path == "/api/generate").collect();
    assert_eq!(asked.len(), 1);
    let body: Value = serde_json::from_slice(&asked[0].body).expect("JSON");
    // Another context would load it anew; `keep_alive` would change how long it stays.
    let options = json!({ "num_predict": 1, "num_ctx": 8192 });
    assert_eq!(body, json!({ "model": "m:latest", "prompt": "1", "stream": false, "options": options }));
    assert_eq!(test(&leaving).await["leftOut"], "the model is about to leave the memory");
    assert!(leaving.got().iter().all(|got| got.path != "/api/generate"));
}
