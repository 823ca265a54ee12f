//! What operators order about models, on one server and on all: into memory, out of it, onto disks, off them.

mod support;

use arriero::demo::{DemoModel, Fault, FaultRule, Fleet, Host, HostConfig, Outcome};
use serde_json::{Value, json};
use support::admin::{PREFIX, address, call, json as json_of, order, problem, show};
use support::fleet::{fleet, generate, request, send};
use support::process::{arriero, finish};
use support::wire::{H1, proxy};
use support::{Proxy, eventually};

const GB: u64 = 1_000_000_000;

/// Servers called `s0`, `s1`, ...; `more` is put into the upstream, indented by four.
fn yaml(fleet: &Fleet, more: &str) -> String {
    let line = |(number, url): (usize, &String)| format!("      - {{ name: s{number}, url: \"{url}\" }}\n");
    let servers: String = fleet.urls().iter().enumerate().map(line).collect();
    let more: String = more.lines().map(|line| format!("    {line}\n")).collect();
    format!(
        "routes: [{{ name: all, upstream: fleet }}]\nupstreams:\n  fleet:\n    kind: ollama\n    inventory: {{ interval: 1h }}\n    servers:\n{servers}{more}"
    )
}

/// Gives an order; its status and its answer.
async fn give(proxy: &Proxy, method: &str, path: &str, body: &Value) -> (u16, Value) {
    let text = if body.is_null() { String::new() } else { body.to_string() };
    let answer = call(proxy, method, path, &text).await;
    (answer.head.status, json_of(&answer))
}

async fn job(proxy: &Proxy, id: &Value) -> Value {
    show(proxy, &format!("/jobs/{id}")).await["job"].clone()
}

/// The job once it is over.
async fn over(proxy: &Proxy, id: &Value) -> Value {
    let job = show(proxy, &format!("/jobs/{id}?wait=20s")).await["job"].clone();
    assert!(job["endedAt"].is_string(), "{job}");
    job
}

fn states(job: &Value) -> Vec<&str> {
    job["servers"].as_array().expect("servers").iter().map(|row| row["state"].as_str().expect("a state")).collect()
}

/// Loads and unloads that the proxy ordered.
fn loads(host: &Host) -> usize {
    host.ledger().own_account().len()
}

fn pulls(host: &Host) -> usize {
    host.ledger().by_path("/api/pull").len()
}

async fn ask(proxy: &Proxy, model: &str) -> u16 {
    send(proxy.address(), "POST", "/api/generate", generate(model)).await.head.status
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pulled_model_is_routed_to_at_once() {
    let fleet = fleet(2, &["m"]).await;
    let proxy = proxy(yaml(&fleet, "")).await;
    assert_eq!(ask(&proxy, "Mine/New:7B").await, 404);
    let (status, answer) =
        give(&proxy, "POST", "/servers/s1/models/pull", &json!({ "model": "Mine/New:7B", "wait": "20s", "who": "me" }))
            .await;
    assert_eq!((status, &answer["success"]), (200, &true.into()), "{answer}");
    let job = &answer["job"];
    assert_eq!(
        (&job["kind"], &job["model"], &job["written"]),
        (&"pull".into(), &"mine/new:7b".into(), &"Mine/New:7B".into())
    );
    assert_eq!((&job["state"], &job["who"]), (&"done".into(), &"me".into()));
    let row = &job["servers"][0];
    assert_eq!((&row["serverId"], &row["status"]), (&"s1".into(), &"success".into()), "{job}");
    assert!(row["completed"].as_u64() >= Some(GB) && row["completed"] == row["total"], "{row}");
    assert_eq!(ask(&proxy, "mine/new:7b").await, 200);
    let entry = &fleet.hosts[1].ledger().by_path("/api/pull")[0];
    assert_eq!(entry.model.as_deref(), Some("Mine/New:7B"), "a registry tells letter case apart");
    assert_eq!(pulls(&fleet.hosts[0]), 0);
    let held = show(&proxy, "/servers/s1/models").await;
    assert_eq!((&held["count"], &held["models"][1]["name"]), (&2.into(), &"mine/new:7b".into()), "{held}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pull_everywhere_takes_a_few_servers_at_a_time_and_tells_how_far_each_is() {
    let fleet = fleet(5, &["m"]).await;
    let proxy = proxy(yaml(&fleet, "")).await;
    fleet.hosts.iter().for_each(|host| host.pull_gate().close());
    order(&proxy, "/servers/s4/drain", "").await;
    let (status, answer) = give(&proxy, "POST", "/models/new/pull", &Value::Null).await;
    assert_eq!(status, 202, "{answer}");
    let id = &answer["job"]["id"];
    let all = ["running", "running", "waiting", "waiting", "skipped"];
    eventually("two pull", || async {
        let job = job(&proxy, id).await;
        states(&job) == all && job["servers"][0]["total"] == GB
    })
    .await;
    assert_eq!(fleet.hosts.iter().map(pulls).collect::<Vec<_>>(), [1, 1, 0, 0, 0]);
    let seen = job(&proxy, id).await;
    assert_eq!((&seen["servers"][4]["error"], &seen["parallel"]), (&"draining".into(), &2.into()), "{seen}");
    assert!(seen["servers"][0]["status"].as_str().expect("a status").starts_with("pulling "), "{seen}");
    fleet.hosts[0].pull_gate().open();
    eventually("the third has its turn", || async {
        states(&job(&proxy, id).await) == ["done", "running", "running", "waiting", "skipped"]
    })
    .await;
    fleet.hosts.iter().for_each(|host| host.pull_gate().open());
    let seen = over(&proxy, id).await;
    assert_eq!((states(&seen), &seen["state"]), (vec!["done", "done", "done", "done", "skipped"], &"done".into()));
    assert_eq!(pulls(&fleet.hosts[4]), 0);
    // Somebody who names a server that is drained means it: this is what such a time is for.
    let (status, answer) = give(&proxy, "POST", "/models/new/pull?wait=20s", &json!({ "servers": ["s4"] })).await;
    assert_eq!((status, states(&answer["job"])), (200, vec!["done"]), "{answer}");
    let list = show(&proxy, "/jobs?kind=pull&limit=1").await;
    assert_eq!((&list["count"], &list["jobs"][0]["id"]), (&1.into(), &answer["job"]["id"]), "the latest first: {list}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_pull_ends_at_the_server_and_another_one_goes_on_from_there() {
    let fleet = fleet(1, &["m"]).await;
    let host = &fleet.hosts[0];
    let proxy = proxy(yaml(&fleet, "")).await;
    host.pull_gate().close();
    let (_, answer) = give(&proxy, "POST", "/models/new/pull", &Value::Null).await;
    let id = answer["job"]["id"].clone();
    eventually("it pulls", || async { job(&proxy, &id).await["total"] == GB }).await;
    let (status, told) = give(&proxy, "DELETE", &format!("/jobs/{id}"), &Value::Null).await;
    assert_eq!((status, states(&told["job"]), &told["job"]["state"]), (200, vec!["cancelled"], &"cancelled".into()));
    eventually("the server sees it", || async {
        host.ledger().by_path("/api/pull")[0].outcome() == Some(Outcome::ClientGone)
    })
    .await;
    assert_eq!(ask(&proxy, "new").await, 404);
    let (_, told) = give(&proxy, "DELETE", &format!("/jobs/{id}"), &Value::Null).await;
    assert!(told["message"].as_str().expect("words").contains("over already"), "{told}");
    host.pull_gate().open();
    host.faults().add(FaultRule::everywhere(Fault::StallAfterTokens(6)).on_path("/api/pull").times(1));
    let (_, answer) = give(&proxy, "POST", "/models/new/pull", &Value::Null).await;
    let id = answer["job"]["id"].clone();
    eventually("some of it is there", || async { job(&proxy, &id).await["completed"].as_u64() >= Some(GB / 5) }).await;
    let (_, told) = give(&proxy, "POST", "/models/library%2Fnew:latest/cancel", &Value::Null).await;
    assert_eq!(told["cancelled"], 1, "{told}");
    host.pull_gate().close();
    let (_, answer) = give(&proxy, "POST", "/models/new/pull", &Value::Null).await;
    let id = answer["job"]["id"].clone();
    eventually("what came stays", || async { job(&proxy, &id).await["completed"].as_u64() >= Some(GB / 5) }).await;
    host.pull_gate().open();
    assert_eq!(over(&proxy, &id).await["state"], "done");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_error_in_the_stream_is_a_failure_in_the_servers_own_words() {
    let mut config = HostConfig::new("a").small_model("m");
    config.registry = Some(vec![DemoModel::new("known", GB)]);
    let fleet = Fleet::start(vec![config]).await.expect("a fleet");
    let proxy = proxy(yaml(&fleet, "")).await;
    let (status, answer) = give(&proxy, "POST", "/models/unknown/pull?wait=20s", &Value::Null).await;
    assert_eq!(
        (status, &answer["success"], &answer["job"]["state"]),
        (200, &false.into(), &"failed".into()),
        "{answer}"
    );
    assert_eq!(answer["job"]["servers"][0]["error"], "pull model manifest: file does not exist");
    let faults = fleet.hosts[0].faults();
    for (fault, words) in [
        (Fault::StreamErrorAfterTokens(3), "max retries exceeded"),
        (Fault::CloseAfterTokens(3), "broke off"),
        (Fault::ResetAfterTokens(3), "broke off"),
        (Fault::Status(500, "no space left on device".to_owned()), "status 500: no space left on device"),
        (Fault::Garbage, ""),
    ] {
        faults.clear();
        faults.add(FaultRule::everywhere(fault.clone()).on_path("/api/pull"));
        let (_, answer) = give(&proxy, "POST", "/models/known/pull?wait=20s", &Value::Null).await;
        let error = answer["job"]["servers"][0]["error"].as_str().unwrap_or_else(|| panic!("{fault:?}: {answer}"));
        assert!(error.contains(words), "{fault:?}: {error}");
        assert_eq!(ask(&proxy, "known").await, 404);
    }
    faults.clear();
    let (_, answer) = give(&proxy, "POST", "/models/known/pull?wait=20s", &Value::Null).await;
    assert_eq!(answer["success"], true, "{answer}");
    let failed = proxy.metric("arriero_model_changes_total{upstream=\"fleet\",kind=\"pull\",result=\"failed\"}").await;
    assert_eq!(failed as u32, 6);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_dies_fails_and_the_others_go_on() {
    let fleet = fleet(3, &["m"]).await;
    let proxy = proxy(yaml(&fleet, "health: { active: { interval: 50ms, timeout: 2s, unhealthy: 1 } }")).await;
    fleet.hosts.iter().for_each(|host| host.pull_gate().close());
    let (_, answer) = give(&proxy, "POST", "/models/new/pull", &json!({ "parallel": 1 })).await;
    let id = answer["job"]["id"].clone();
    eventually("the first pulls", || async { job(&proxy, &id).await["total"] == GB }).await;
    fleet.hosts[0].kill().await;
    fleet.hosts.iter().for_each(|host| host.pull_gate().open());
    let seen = over(&proxy, &id).await;
    assert_eq!((states(&seen), &seen["state"]), (vec!["failed", "done", "done"], &"failed".into()), "{seen}");
    eventually("it is known to be down", || async { show(&proxy, "/servers/s0").await["server"]["healthy"] == false })
        .await;
    let (_, answer) = give(&proxy, "POST", "/models/other/pull?wait=20s", &Value::Null).await;
    assert_eq!(states(&answer["job"]), ["skipped", "done", "done"], "{answer}");
    assert_eq!(answer["job"]["servers"][0]["error"], "down");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_pull_twice_is_one() {
    let fleet = fleet(2, &["m"]).await;
    let proxy = proxy(yaml(&fleet, "")).await;
    fleet.hosts[0].pull_gate().close();
    let (_, one) = give(&proxy, "POST", "/servers/s0/models/pull", &json!({ "model": "new" })).await;
    eventually("it pulls", || async { job(&proxy, &one["job"]["id"]).await["total"] == GB }).await;
    let (_, two) = give(&proxy, "POST", "/models/new/pull", &Value::Null).await;
    eventually("the other server is done", || async {
        states(&job(&proxy, &two["job"]["id"]).await) == ["waiting", "done"]
    })
    .await;
    fleet.hosts[0].pull_gate().open();
    for answer in [&one, &two] {
        assert_eq!(over(&proxy, &answer["job"]["id"]).await["state"], "done");
    }
    assert_eq!(pulls(&fleet.hosts[0]), 1);
    assert_eq!(
        job(&proxy, &two["job"]["id"]).await["servers"][0]["total"],
        job(&proxy, &one["job"]["id"]).await["total"]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_follows_a_job_is_told_of_its_changes_to_its_end() {
    let fleet = fleet(1, &["m"]).await;
    let proxy = proxy(yaml(&fleet, "")).await;
    fleet.hosts[0].pull_gate().close();
    let (_, answer) = give(&proxy, "POST", "/models/new/pull", &Value::Null).await;
    let id = answer["job"]["id"].clone();
    let mut client = H1::connect(address(&proxy)).await;
    client.send(request("GET", &format!("{PREFIX}/jobs/{id}/events"), "", "")).await;
    fleet.hosts[0].pull_gate().open();
    let answer = client.reader.answer().await;
    assert_eq!((answer.head.status, answer.head.field("content-type")), (200, Some("text/event-stream")));
    let text = answer.text();
    let jobs: Vec<Value> = text
        .lines()
        .filter_map(|line| line.strip_prefix("data: "))
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect();
    assert!(text.starts_with("event: job\n") && jobs.len() >= 2, "{text}");
    assert_ne!(jobs[0]["state"], "done", "{text}");
    assert_eq!(jobs.last().expect("an event")["state"], "done", "{text}");
    assert_eq!(problem(&call(&proxy, "GET", "/jobs/77/events", "").await).0, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_ordered_is_refused_before_anything_is_done() {
    let fleet = fleet(2, &["m"]).await;
    let proxy = proxy(yaml(&fleet, "models: [{ match: m, pin: [s1] }]")).await;
    for (method, path, body, status, words) in [
        ("POST", "/models/hf.co%2Fns%2Fm/pull", "", 403, "registry that is not Ollama's own"),
        ("POST", "/models/gpt-oss:120b-cloud/pull", "", 403, "runs elsewhere"),
        ("POST", "/models/http:%2F%2F10.0.0.1%2Fns%2Fm/pull", r#"{"allowRemote":true}"#, 403, "scheme"),
        ("POST", "/models/:7b/pull", "", 400, "no name of a model"),
        ("POST", "/models/new/pull", r#"{"servers":["nobody"]}"#, 404, "no server `nobody`"),
        ("POST", "/models/new/pull", r#"{"servers":[]}"#, 400, "names none"),
        ("POST", "/models/new/pull", r#"{"insecure":true}"#, 400, "insecure"),
        ("POST", "/servers/s0/models/pull", "", 400, "missing field `model`"),
        ("POST", "/models/unknown/warmup", "", 404, "no server has the model"),
        ("POST", "/models/m/warmup", r#"{"priority":"urgent"}"#, 400, "urgent"),
        ("POST", "/models/unknown/unload", "", 404, "in memory nowhere"),
        ("POST", "/models/m/copy", "", 400, "missing field `destination`"),
        ("POST", "/models/m/copy", r#"{"destination":"library/M:latest"}"#, 400, "the same model"),
        ("POST", "/models/m/copy", r#"{"destination":"x-cloud:7b-cloud"}"#, 403, "runs elsewhere"),
        ("POST", "/models/unknown/copy", r#"{"destination":"n"}"#, 404, "no server has the model"),
        ("DELETE", "/models/m", "", 400, "`confirm`"),
        ("DELETE", "/models/m?confirm=n", "", 400, "`confirm`"),
        ("DELETE", "/models/m?confirm=m", "", 409, "pinned there"),
        ("DELETE", "/servers/s1/models/m", "", 409, "pinned there"),
        ("DELETE", "/models/unknown?confirm=unknown", "", 404, "no server has the model"),
        ("GET", "/jobs/1", "", 404, "no job 1"),
        ("DELETE", "/jobs/1", "", 404, "no job 1"),
        ("GET", "/servers/nobody/models", "", 404, "no server `nobody`"),
    ] {
        let (given, detail) = problem(&call(&proxy, method, path, body).await);
        assert!(given == status && detail.contains(words), "{method} {path} {body}: {given} {detail}");
    }
    assert_eq!(show(&proxy, "/jobs").await["count"], 0);
    assert_eq!(fleet.hosts.iter().map(|host| host.ledger().by_path("/api/delete").len()).sum::<usize>(), 0);
    let (status, answer) =
        give(&proxy, "POST", "/models/hf.co%2Fns%2Fm/pull?wait=20s", &json!({ "allow_remote": true })).await;
    assert_eq!((status, &answer["job"]["state"]), (200, &"done".into()), "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn copies_and_deletes_are_seen_at_once_and_spare_what_is_used() {
    let config = |name| HostConfig::new(name).small_model("m").small_model("n");
    let fleet = Fleet::start(vec![config("a"), config("b")]).await.expect("a fleet");
    let proxy = proxy(yaml(&fleet, "")).await;
    let (status, answer) = give(&proxy, "POST", "/models/m/copy", &json!({ "destination": "Mine/c:1" })).await;
    assert_eq!((status, states(&answer["job"])), (200, vec!["done", "done"]), "{answer}");
    assert_eq!(answer["job"]["destination"], "Mine/c:1");
    assert_eq!(ask(&proxy, "mine/c:1").await, 200);
    let (status, answer) =
        give(&proxy, "POST", "/servers/s1/models/copy", &json!({ "source": "m", "destination": "d" })).await;
    assert_eq!((status, states(&answer["job"])), (200, vec!["done"]), "{answer}");
    assert_eq!(show(&proxy, "/model-map").await["modelToServers"]["d:latest"], json!(["s1"]));
    // While a request runs for it a model stays, and so does its name.
    let mut client = H1::connect(proxy.address()).await;
    fleet.hosts.iter().for_each(|host| host.token_gate().close());
    client.send(request("POST", "/api/generate", "", generate("n"))).await;
    eventually("it runs", || async { show(&proxy, "/in-flight").await["total"] == 1 }).await;
    for (method, path, body) in
        [("DELETE", "/models/n?confirm=N:latest", ""), ("POST", "/models/m/copy", r#"{"destination":"n"}"#)]
    {
        let (status, detail) = problem(&call(&proxy, method, path, body).await);
        assert!(status == 409 && detail.contains("requests for the model run"), "{status} {detail}");
    }
    fleet.hosts.iter().for_each(|host| host.token_gate().open());
    assert_eq!(client.reader.answer().await.head.status, 200);
    eventually("it has ended", || async { show(&proxy, "/in-flight").await["total"] == 0 }).await;
    let (status, answer) = give(&proxy, "DELETE", "/models/n", &json!({ "confirm": "n" })).await;
    assert_eq!((status, states(&answer["job"])), (200, vec!["done", "done"]), "{answer}");
    assert_eq!(ask(&proxy, "n").await, 404);
    assert!(fleet.hosts.iter().all(|host| !host.loaded().contains(&"n:latest".to_owned())), "out of memory first");
    let (status, answer) = give(&proxy, "DELETE", "/servers/s1/models/d", &Value::Null).await;
    assert_eq!((status, states(&answer["job"])), (200, vec!["done"]), "{answer}");
    assert_eq!(show(&proxy, "/models").await["models"], json!(["m:latest", "mine/c:1"]));
}

#[tokio::test(flavor = "multi_thread")]
async fn warmups_and_requests_together_cost_one_load() {
    let fleet = fleet(1, &["m"]).await;
    let host = &fleet.hosts[0];
    let proxy = proxy(yaml(&fleet, "")).await;
    host.load_gate().close();
    let (status, one) = give(&proxy, "POST", "/models/M/warmup", &json!({ "priority": "high" })).await;
    assert_eq!((status, &one["model"], &one["success"]), (202, &"m:latest".into(), &true.into()), "{one}");
    assert_eq!((&one["jobs"][0]["serverId"], &one["jobs"][0]["status"]), (&"s0".into(), &"loading".into()), "{one}");
    assert!(one["jobs"][0]["estimatedTime"].as_f64() > Some(1000.0), "a prior: {one}");
    assert_eq!((&one["summary"]["totalServers"], &one["summary"]["loadingOn"]), (&1.into(), &1.into()), "{one}");
    let (_, two) = give(&proxy, "POST", "/models/m/warmup", &json!({ "servers": ["s0"] })).await;
    let asked = tokio::spawn({
        let address = proxy.address();
        async move { send(address, "POST", "/api/generate", generate("m")).await.head.status }
    });
    eventually("the request waits", || async { show(&proxy, "/queue").await["queue"] == 1 }).await;
    host.load_gate().open();
    for answer in [&one, &two] {
        let job = over(&proxy, &answer["job"]["id"]).await;
        assert_eq!(job["state"], "done", "{job}");
        assert!(job["servers"][0]["loadTime"].as_f64() > Some(0.0), "{job}");
    }
    assert_eq!(asked.await.expect("no panic"), 200);
    assert_eq!(loads(host), 1);
    let (status, again) = give(&proxy, "POST", "/models/m/warmup?wait=20s", &Value::Null).await;
    assert_eq!((status, &again["summary"]["loadedOn"], &again["jobs"][0]["loadTime"]), (200, &1.into(), &Value::Null));
    assert_eq!(loads(host), 1, "it is there already");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_warmup_leaves_alone_who_takes_no_work() {
    let fleet = fleet(4, &["m"]).await;
    let proxy = proxy(yaml(&fleet, "models: [{ match: m, never: [s2] }]")).await;
    order(&proxy, "/servers/s0/drain", "").await;
    order(&proxy, "/bans", r#"{"server":"s1","model":"m"}"#).await;
    let (_, answer) = give(&proxy, "POST", "/models/m/warmup?wait=20s", &Value::Null).await;
    let status = |answer: &Value| {
        let rows = answer["jobs"].as_array().expect("rows").clone();
        rows.iter().map(|row| row["status"].as_str().expect("a word").to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(status(&answer), ["skipped", "skipped", "failed", "loaded"], "{answer}");
    let errors = |answer: &Value| {
        let rows = answer["job"]["servers"].as_array().expect("rows").clone();
        rows.iter().filter_map(|row| row["error"].as_str().map(str::to_owned)).collect::<Vec<_>>()
    };
    assert_eq!(errors(&answer), ["draining", "banned", "`only` or `never` keeps the model from this server"]);
    // Also those that are named.
    let (_, answer) = give(&proxy, "POST", "/models/m/warmup?wait=20s", &json!({ "servers": ["s0", "s1"] })).await;
    assert_eq!(
        (status(&answer), errors(&answer)),
        (vec!["failed".to_owned(); 2], vec!["draining".to_owned(), "banned".to_owned()])
    );
    assert_eq!(fleet.hosts.iter().map(loads).collect::<Vec<_>>(), [0, 0, 0, 1]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_warmup_that_waits_for_another_load_is_called_off_or_has_its_turn() {
    let config = HostConfig::new("a").small_model("m").small_model("n").small_model("o");
    let fleet = Fleet::start(vec![config]).await.expect("a fleet");
    let host = &fleet.hosts[0];
    let proxy = proxy(yaml(&fleet, "")).await;
    host.load_gate().close();
    give(&proxy, "POST", "/models/m/warmup", &Value::Null).await;
    eventually("it loads", || async { host.loaded() == ["m:latest"] }).await;
    let (_, called_off) = give(&proxy, "POST", "/models/n/warmup", &Value::Null).await;
    let (_, waits) = give(&proxy, "POST", "/models/o/warmup", &json!({ "priority": "low" })).await;
    let (_, told) = give(&proxy, "POST", "/models/n/cancel", &json!({ "jobId": called_off["job"]["id"] })).await;
    assert_eq!(told["cancelled"], 1, "{told}");
    assert_eq!(job(&proxy, &called_off["job"]["id"]).await["state"], "cancelled");
    assert_eq!(loads(host), 1, "one load at a time");
    host.load_gate().open();
    assert_eq!(over(&proxy, &waits["job"]["id"]).await["state"], "done");
    assert_eq!(host.loaded(), ["m:latest", "o:latest"]);
    // What a load says goes to whoever ordered it.
    host.faults().always(Fault::Status(500, "model requires more system memory".to_owned()));
    let (_, failed) = give(&proxy, "POST", "/models/n/warmup?wait=20s", &Value::Null).await;
    let error = &failed["job"]["servers"][0]["error"];
    assert!(error.as_str().expect("why").contains("more system memory"), "{failed}");
    assert_eq!((&failed["success"], &failed["summary"]["failedOn"]), (&false.into(), &1.into()));
}

#[tokio::test(flavor = "multi_thread")]
async fn unloads_spare_what_is_pinned_or_used_unless_forced() {
    let config = HostConfig::new("a").small_model("m").small_model("n");
    let fleet = Fleet::start(vec![config]).await.expect("a fleet");
    let host = &fleet.hosts[0];
    let proxy = proxy(yaml(&fleet, "models: [{ match: m, pin: [s0] }]")).await;
    eventually("the pin is heeded", || async { host.loaded() == ["m:latest"] }).await;
    let unload = |body: Value| {
        let proxy = &proxy;
        async move { give(proxy, "POST", "/models/m/unload", &body).await }
    };
    // Before that it is the load that keeps it; a refusal changes nothing.
    eventually("the load is over", || async {
        unload(json!({ "serverId": "s0" })).await.1["job"]["servers"][0]["error"] == "the model is pinned there"
    })
    .await;
    let (status, answer) = unload(json!({ "serverId": "s0" })).await;
    assert_eq!((status, &answer["success"], &answer["summary"]["failed"]), (200, &false.into(), &1.into()), "{answer}");
    assert_eq!(answer["job"]["servers"][0]["error"], "the model is pinned there");
    assert_eq!(host.loaded(), ["m:latest"]);
    let (_, answer) = unload(json!({ "serverId": "s0", "force": true })).await;
    assert_eq!((&answer["success"], &answer["results"][0]["success"]), (&true.into(), &true.into()), "{answer}");
    assert!(host.loaded().is_empty(), "gone when the answer comes");
    // The rule sleeps until somebody asks for the model.
    let (_, answer) = give(&proxy, "POST", "/models/n/warmup?wait=20s", &Value::Null).await;
    assert_eq!(answer["success"], true, "{answer}");
    assert_eq!(host.loaded(), ["n:latest"]);
    assert_eq!(ask(&proxy, "m").await, 200);
    // One that requests run for.
    let mut client = H1::connect(proxy.address()).await;
    host.token_gate().close();
    client.send(request("POST", "/api/generate", "", generate("n"))).await;
    eventually("it runs", || async { show(&proxy, "/in-flight").await["total"] == 1 }).await;
    let (_, answer) = give(&proxy, "POST", "/models/n/unload", &json!({ "servers": ["s0"] })).await;
    assert_eq!(answer["job"]["servers"][0]["error"], "requests for the model run or wait there");
    host.token_gate().open();
    assert_eq!(client.reader.answer().await.head.status, 200);
    let idle = show(&proxy, "/models/idle?threshold=0").await;
    let names: Vec<&str> =
        idle["models"].as_array().expect("rows").iter().filter_map(|row| row["model"].as_str()).collect();
    assert!(names.contains(&"n:latest") && idle["models"][0]["idleTime"].is_u64(), "{idle}");
    assert_eq!(show(&proxy, "/models/idle").await["count"], 0, "half an hour by default");
    let (_, answer) = give(&proxy, "POST", "/models/n/unload", &Value::Null).await;
    assert_eq!(answer["success"], true, "{answer}");
    assert_eq!(host.loaded(), ["m:latest"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn where_nothing_is_scheduled_a_warmup_takes_a_slot_like_a_request() {
    let fleet = fleet(1, &["m"]).await;
    let host = &fleet.hosts[0];
    let url = &fleet.urls()[0];
    let proxy = proxy(format!(
        "routes: [{{ name: all, upstream: fleet }}]\nupstreams:\n  fleet:\n    kind: ollama\n    balance: {{ policy: least_requests }}\n    servers: [{{ name: s0, url: \"{url}\", max_in_flight: 1 }}]\n"
    ))
    .await;
    host.load_gate().close();
    let (status, first) = give(&proxy, "POST", "/models/m/warmup", &Value::Null).await;
    assert_eq!(status, 202, "{first}");
    eventually("it takes the slot", || async { show(&proxy, "/servers/s0").await["server"]["inFlight"] == 1 }).await;
    let asked = tokio::spawn({
        let address = proxy.address();
        async move { send(address, "POST", "/api/generate", generate("m")).await.head.status }
    });
    eventually("a request waits for it", || async { show(&proxy, "/queue").await["queue"] == 1 }).await;
    host.load_gate().open();
    assert_eq!(over(&proxy, &first["job"]["id"]).await["state"], "done");
    assert_eq!(asked.await.expect("no panic"), 200);
    assert_eq!(loads(host), 1);
    let (_, answer) = give(&proxy, "POST", "/models/m/unload", &Value::Null).await;
    assert_eq!((&answer["success"], host.loaded().len()), (&true.into(), 0), "{answer}");
    order(&proxy, "/servers/s0/drain", "").await;
    let (_, answer) = give(&proxy, "POST", "/models/m/warmup?wait=20s", &json!({ "servers": ["s0"] })).await;
    assert_eq!(answer["job"]["servers"][0]["error"], "draining", "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_outlives_a_reload_and_ends_for_a_server_that_is_gone() {
    let fleet = fleet(2, &["m"]).await;
    let text = yaml(&fleet, "");
    let proxy = proxy(text.clone()).await;
    fleet.hosts.iter().for_each(|host| host.pull_gate().close());
    let (_, answer) = give(&proxy, "POST", "/models/new/pull", &json!({ "parallel": 1 })).await;
    let id = answer["job"]["id"].clone();
    eventually("the first pulls", || async { job(&proxy, &id).await["total"] == GB }).await;
    let without: String = text.lines().filter(|line| !line.contains("s1")).map(|line| format!("{line}\n")).collect();
    proxy.rewrite(&without);
    order(&proxy, "/config/reload", "").await;
    assert_eq!(show(&proxy, "/servers").await["count"], 1);
    fleet.hosts.iter().for_each(|host| host.pull_gate().open());
    let seen = over(&proxy, &id).await;
    assert_eq!(states(&seen), ["done", "failed"], "{seen}");
    assert_eq!(seen["servers"][1]["error"], "the server was removed from the configuration");
}

#[tokio::test(flavor = "multi_thread")]
async fn orders_about_models_need_the_token() {
    let fleet = fleet(1, &["m"]).await;
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("token");
    std::fs::write(&file, "let me in\n").expect("written");
    let admin = format!("\nadmin: {{ address: \"127.0.0.1:0\", token_file: \"{}\" }}\n", file.display());
    let proxy = proxy(yaml(&fleet, "") + &admin).await;
    for (method, path) in [
        ("POST", "/models/m/warmup"),
        ("POST", "/models/m/unload"),
        ("POST", "/models/m/pull"),
        ("POST", "/models/m/copy"),
        ("POST", "/models/m/cancel"),
        ("DELETE", "/models/m?confirm=m"),
        ("POST", "/servers/s0/models/pull"),
        ("POST", "/servers/s0/models/copy"),
        ("DELETE", "/servers/s0/models/m"),
        ("DELETE", "/jobs/1"),
    ] {
        assert_eq!(problem(&call(&proxy, method, path, "{}").await).0, 401, "{method} {path}");
    }
    assert_eq!(show(&proxy, "/jobs").await["count"], 0);
    assert_eq!(show(&proxy, "/models").await["models"], json!(["m:latest"]));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_line_orders_and_watches() {
    let mut config = HostConfig::new("a").small_model("m");
    config.registry = Some(vec![DemoModel::new("new", GB)]);
    let fleet = Fleet::start(vec![config]).await.expect("a fleet");
    let proxy = proxy(yaml(&fleet, "models: [{ match: m, pin: [s0] }]")).await;
    let folder = tempfile::tempdir().expect("a folder");
    let admin = address(&proxy).to_string();
    let run = async |arguments: &[&str]| {
        let mut all = arguments.to_vec();
        all.extend(["--admin", &admin]);
        finish(arriero(&all, folder.path())).await
    };
    let ended = run(&["pull", "new"]).await;
    assert_eq!((ended.code, ended.out.ends_with("s0: done\n")), (Some(0), true), "{ended:?}");
    let ended = run(&["pull", "nothing", "--server", "s0"]).await;
    assert!(ended.code == Some(1) && ended.out.contains("s0: failed pull model manifest"), "{ended:?}");
    let ended = run(&["pull", "hf.co/ns/m"]).await;
    assert!(ended.code == Some(1) && ended.err.contains("allowRemote"), "{ended:?}");
    let ended = run(&["warm", "new", "--wait", "--priority", "high", "--json"]).await;
    let job: Value = serde_json::from_str(&ended.out).unwrap_or_else(|error| panic!("{error}: {ended:?}"));
    assert_eq!((ended.code, &job["kind"], &job["state"]), (Some(0), &"warmup".into(), &"done".into()));
    assert!(fleet.hosts[0].loaded().contains(&"new:latest".to_owned()));
    let ended = run(&["unload", "new"]).await;
    assert_eq!((ended.code, ended.out.as_str()), (Some(0), "s0: done\n"), "{ended:?}");
    let ended = run(&["unload", "m", "--server", "s0"]).await;
    assert!(ended.code == Some(1) && ended.out.contains("pinned"), "{ended:?}");
    let ended = run(&["unload", "m", "--server", "s0", "--force"]).await;
    assert_eq!(ended.code, Some(0), "{ended:?}");
    fleet.hosts[0].load_gate().close();
    let ended = run(&["warm", "m"]).await;
    assert!(ended.code == Some(0) && ended.out.contains("goes on"), "{ended:?}");
    fleet.hosts[0].load_gate().open();
}
