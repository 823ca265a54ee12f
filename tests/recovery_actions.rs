//! What makes servers well again: run after enough failed checks, verified, given up and begun anew, and never in the way
//! of anything else.

mod support;

use std::path::Path;
use std::sync::Arc;

use arriero::demo::{Fleet, Host};
use hmac::{Hmac, Mac};
use http_body_util::Full;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use serde_json::Value;
use sha2::Sha256;
use support::admin::{address, call, json, order, problem, show};
use support::fleet::{Small, fleet, generate, reply, request, send, weighted_yaml};
use support::wire::{H1, proxy};
use support::{PATIENCE, Proxy, eventually};
use tokio::net::UnixListener;
use tokio::sync::mpsc;

const CHECKED: &str =
    "health: { active: { interval: 20ms, timeout: 2s, healthy: 1, unhealthy: 1 } }\ninventory: { interval: 50ms }";

/// A configuration of one upstream whose servers `s0`, `s1` and so on have these recovery actions.
fn yaml(fleet: &Fleet, actions: &[&str]) -> String {
    let keys: Vec<String> = actions
        .iter()
        .enumerate()
        .map(|(number, action)| {
            let recovery = if action.is_empty() { String::new() } else { format!(", recovery: {{ {action} }}") };
            format!("name: s{number}{recovery}")
        })
        .collect();
    let servers: Vec<(String, &str)> = fleet.urls().into_iter().zip(keys.iter().map(String::as_str)).collect();
    weighted_yaml("ollama", &servers, "", CHECKED)
}

async fn action(proxy: &Proxy, server: &str) -> Value {
    show(proxy, &format!("/recovery-actions/{server}")).await["action"].clone()
}

async fn is_in(proxy: &Proxy, server: &str, state: &str) -> bool {
    action(proxy, server).await["state"] == state
}

async fn is_up(proxy: &Proxy, server: &str) -> bool {
    proxy.metric(&format!("arriero_server_up{{upstream=\"fleet\",server=\"{server}\"}}")).await == 1.0
}

async fn count(proxy: &Proxy, server: &str, kind: &str, result: &str) -> f64 {
    let labels = format!("upstream=\"fleet\",server=\"{server}\",action=\"{kind}\",result=\"{result}\"");
    proxy.metric(&format!("arriero_recovery_actions_total{{{labels}}}")).await
}

/// Lines of a file; none when it is not there.
fn lines(file: &Path) -> Vec<String> {
    std::fs::read_to_string(file).unwrap_or_default().lines().map(str::to_owned).collect()
}

/// Starts a host again as soon as somebody asks for it.
fn on_demand(host: Arc<Host>) -> mpsc::UnboundedSender<()> {
    let (ask, mut asked) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        while asked.recv().await.is_some() {
            host.restart().await.expect("the port is ours");
        }
    });
    ask
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_that_restarts_a_server_is_run_and_verified() {
    let (fleet, folder) = (fleet(2, &["m"]).await, tempfile::tempdir().expect("a folder"));
    let file = folder.path().join("runs");
    let script = format!(
        "echo $ARRIERO_UPSTREAM $ARRIERO_SERVER $ARRIERO_SERVER_URL $ARRIERO_ATTEMPT >> {}; echo done",
        file.display()
    );
    let exec = format!("exec: [/bin/sh, -c, \"{script}\"], after: 2, backoff: 10ms");
    let proxy = proxy(yaml(&fleet, &[&exec, ""])).await;
    assert!(is_in(&proxy, "s0", "watching").await);
    let host = &fleet.hosts[0];
    host.kill().await;
    eventually("the program ran", || async { !lines(&file).is_empty() }).await;
    eventually("it is verified", || is_in(&proxy, "s0", "verifying")).await;
    host.restart().await.expect("the port is ours");
    eventually("well", || is_in(&proxy, "s0", "watching")).await;
    assert_eq!(lines(&file), [format!("fleet s0 {} 1", host.url())]);
    eventually("up", || is_up(&proxy, "s0")).await;
    let known = action(&proxy, "s0").await;
    assert_eq!((&known["attempts"], &known["failedChecks"]), (&0.into(), &0.into()), "{known}");
    assert_eq!((&known["lastAttempt"]["success"], &known["lastAttempt"]["detail"]), (&true.into(), &"done".into()));
    assert_eq!(count(&proxy, "s0", "exec", "recovered").await, 1.0);
    let all = show(&proxy, "/recovery-actions").await;
    assert_eq!((&all["count"], &all["actions"][0]["serverId"]), (&1.into(), &"s0".into()), "{all}");
    let (status, detail) = problem(&call(&proxy, "GET", "/recovery-actions/s1", "").await);
    assert!(status == 404 && detail.contains("`s1`"), "{detail}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_webhook_is_told_which_server_it_is_about_signed() {
    let mut fleet = fleet(2, &["m"]).await;
    let host = Arc::new(fleet.hosts.remove(0));
    let (folder, ask) = (tempfile::tempdir().expect("a folder"), on_demand(Arc::clone(&host)));
    let secret = folder.path().join("secret");
    std::fs::write(&secret, "shared\n").expect("written");
    let receiver = Small::start(move |_| {
        ask.send(()).expect("somebody listens");
        reply(202, "text/plain", "restarting")
    })
    .await;
    let webhook = format!("webhook: \"{}/restart\", secret_file: \"{}\", after: 1", receiver.url(), secret.display());
    let servers =
        [(host.url(), format!("name: s0, recovery: {{ {webhook} }}")), (fleet.hosts[0].url(), "name: s1".to_owned())];
    let servers: Vec<(String, &str)> = servers.iter().map(|(url, keys)| (url.clone(), keys.as_str())).collect();
    let proxy = proxy(weighted_yaml("ollama", &servers, "", CHECKED)).await;
    host.kill().await;
    eventually("recovered", || async { count(&proxy, "s0", "webhook", "recovered").await == 1.0 }).await;
    let got = receiver.got().remove(0);
    let told: Value = serde_json::from_slice(&got.body).expect("JSON");
    assert_eq!(got.path, "/restart");
    assert_eq!(
        (&told["event"], &told["upstream"], &told["server"]),
        (&"recovery_action".into(), &"fleet".into(), &"s0".into())
    );
    assert_eq!((&told["url"], &told["attempt"]), (&host.url().into(), &1.into()), "{told}");
    let timestamp = got.fields["x-arriero-timestamp"].to_str().expect("digits");
    let mut mac = Hmac::<Sha256>::new_from_slice(b"shared").expect("any key");
    mac.update(&[timestamp.as_bytes(), b".", &got.body].concat());
    let hex: String = mac.finalize().into_bytes().iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(got.fields["x-arriero-signature"], format!("sha256={hex}").as_str());
    assert_eq!(action(&proxy, "s0").await["lastAttempt"]["detail"], "status 202 restarting");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_is_restarted_through_the_engines_socket() {
    let mut fleet = fleet(2, &["m"]).await;
    let host = Arc::new(fleet.hosts.remove(0));
    let (folder, ask) = (tempfile::tempdir().expect("a folder"), on_demand(Arc::clone(&host)));
    let socket = folder.path().join("docker.sock");
    let listener = UnixListener::bind(&socket).expect("a socket");
    let requests = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&requests);
    // The part of the Engine that is asked: it does not know the container the first time.
    let engine = tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (seen, ask) = (Arc::clone(&seen), ask.clone());
            let service = service_fn(move |request: http::Request<hyper::body::Incoming>| {
                let line = format!("{} {}", request.method(), request.uri());
                let first = {
                    let mut seen = seen.lock();
                    seen.push(line);
                    seen.len() == 1
                };
                let answer = if first {
                    reply(404, "application/json", r#"{"message":"No such container: ollama-1"}"#)
                } else {
                    ask.send(()).expect("somebody listens");
                    http::Response::builder().status(204).body(Full::default()).expect("an answer")
                };
                async move { Ok::<_, std::convert::Infallible>(answer) }
            });
            tokio::spawn(
                async move { drop(http1::Builder::new().serve_connection(TokioIo::new(stream), service).await) },
            );
        }
    });
    let restart = format!("docker_restart: ollama-1, docker_socket: \"{}\", after: 1, backoff: 50ms", socket.display());
    let servers =
        [(host.url(), format!("name: s0, recovery: {{ {restart} }}")), (fleet.hosts[0].url(), "name: s1".to_owned())];
    let servers: Vec<(String, &str)> = servers.iter().map(|(url, keys)| (url.clone(), keys.as_str())).collect();
    let proxy = proxy(weighted_yaml("ollama", &servers, "", CHECKED)).await;
    host.kill().await;
    eventually("recovered", || async { count(&proxy, "s0", "docker_restart", "recovered").await == 1.0 }).await;
    assert_eq!(count(&proxy, "s0", "docker_restart", "failed").await, 1.0);
    assert_eq!(*requests.lock(), ["POST /containers/ollama-1/restart"; 2]);
    assert_eq!(action(&proxy, "s0").await["lastAttempt"]["detail"], "container `ollama-1` restarted");
    engine.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_does_not_help_is_given_up_with_an_alert_and_begun_anew_later() {
    let (fleet, folder) = (fleet(2, &["m"]).await, tempfile::tempdir().expect("a folder"));
    let file = folder.path().join("runs");
    let receiver = Small::start(|_| reply(200, "text/plain", "")).await;
    let told = |event: &str| {
        let messages = receiver.got().into_iter().map(|got| serde_json::from_slice::<Value>(&got.body).expect("JSON"));
        messages.into_iter().find(|message| message["event"] == event)
    };
    let script = format!("echo $ARRIERO_ATTEMPT >> {}; echo no such unit >&2; exit 5", file.display());
    let keys = "after: 1, max_attempts: 2, backoff: 10ms, max_backoff: 20ms, retry_after: 300ms";
    let exec = format!("exec: [/bin/sh, -c, \"{script}\"], {keys}");
    let hook =
        format!("notifications: [{{ url: \"{}\", events: [recovery_gave_up, recovery_succeeded] }}]\n", receiver.url());
    let proxy = proxy(yaml(&fleet, &[&exec, ""]) + &hook).await;
    fleet.hosts[0].kill().await;
    eventually("given up", || async { count(&proxy, "s0", "exec", "gave_up").await >= 1.0 }).await;
    eventually("an alert", || async { told("recovery_gave_up").is_some() }).await;
    let alert = told("recovery_gave_up").expect("it is there");
    assert_eq!(alert["subject"], "fleet/s0");
    let message = alert["message"].as_str().expect("a text");
    assert!(message.contains("after 2 attempts") && message.contains("no such unit"), "{message}");
    eventually("begun anew", || async { lines(&file).len() >= 3 }).await;
    assert_eq!(lines(&file)[..3], ["1", "2", "1"]);
    assert!(count(&proxy, "s0", "exec", "failed").await >= 2.0);
    fleet.hosts[0].restart().await.expect("the port is ours");
    eventually("well", || async { told("recovery_succeeded").is_some() }).await;
    assert_eq!(told("recovery_succeeded").map(|message| message["resolves"].clone()), Some("recovery_gave_up".into()));
    assert!(is_in(&proxy, "s0", "watching").await);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_ends_well_and_does_not_help_has_failed_and_can_be_forgotten() {
    let fleet = fleet(2, &["m"]).await;
    let exec = "exec: [/bin/true], after: 1, max_attempts: 1, verify: 100ms, retry_after: 1h";
    let proxy = proxy(yaml(&fleet, &[exec, ""])).await;
    fleet.hosts[0].kill().await;
    eventually("given up", || is_in(&proxy, "s0", "given_up")).await;
    assert_eq!(count(&proxy, "s0", "exec", "not_verified").await, 1.0);
    assert!(action(&proxy, "s0").await["until"].is_string());
    // An operator who has mended the cause does not wait for an hour.
    order(&proxy, "/recovery-actions/s0/reset", "").await;
    eventually("again", || async { count(&proxy, "s0", "exec", "not_verified").await == 2.0 }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_hangs_holds_up_no_check_and_is_ended_in_time() {
    let fleet = fleet(3, &["m"]).await;
    let hangs = "exec: [/bin/sh, -c, \"sleep 600\"], after: 1, timeout: 1h";
    let proxy = proxy(yaml(&fleet, &[hangs, "exec: [/bin/true], after: 1", ""])).await;
    fleet.hosts[0].kill().await;
    eventually("it hangs", || is_in(&proxy, "s0", "running")).await;
    let failed = action(&proxy, "s0").await["failedChecks"].as_u64().expect("a number");
    eventually("its own checks go on", || async {
        action(&proxy, "s0").await["failedChecks"].as_u64() > Some(failed + 3)
    })
    .await;
    // Another server is found to be down, and up again; its own action waits for its turn.
    fleet.hosts[1].kill().await;
    eventually("down", || async { !is_up(&proxy, "s1").await }).await;
    eventually("it waits", || async {
        action(&proxy, "s1").await["held"] == "another server of the upstream is being recovered"
    })
    .await;
    fleet.hosts[1].restart().await.expect("the port is ours");
    eventually("up", || is_up(&proxy, "s1")).await;
    assert!(is_in(&proxy, "s0", "running").await);
    assert_eq!(count(&proxy, "s1", "exec", "recovered").await, 0.0);
    // A shorter time ends what runs: it was begun with other settings.
    let short = hangs.replace("timeout: 1h", "timeout: 50ms, max_attempts: 2, backoff: 10ms");
    proxy.rewrite(&yaml(&fleet, &[&short, "exec: [/bin/true], after: 1", ""]));
    eventually("given up", || is_in(&proxy, "s0", "given_up")).await;
    let detail = action(&proxy, "s0").await["lastAttempt"]["detail"].clone();
    assert_eq!(detail, "it did not end within 50ms and was ended");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_an_operator_took_out_is_left_alone() {
    let (fleet, folder) = (fleet(2, &["m"]).await, tempfile::tempdir().expect("a folder"));
    let file = folder.path().join("runs");
    let exec = format!("exec: [/bin/sh, -c, \"echo run >> {}\"], after: 1", file.display());
    let proxy = proxy(yaml(&fleet, &[&exec, ""])).await;
    for (path, body) in [("maintenance", r#"{"enabled": true}"#), ("drain", "")] {
        order(&proxy, "/servers/s0/undrain", "").await;
        order(&proxy, &format!("/servers/s0/{path}"), body).await;
        fleet.hosts[0].kill().await;
        eventually("held", || async {
            action(&proxy, "s0").await["held"].as_str().is_some_and(|why| why.contains("maintenance"))
        })
        .await;
        eventually("many checks have failed", || async {
            action(&proxy, "s0").await["failedChecks"].as_u64() > Some(5)
        })
        .await;
        assert_eq!(lines(&file), Vec::<String>::new(), "{path}");
        fleet.hosts[0].restart().await.expect("the port is ours");
        eventually("up", || is_up(&proxy, "s0")).await;
    }
    fleet.hosts[0].kill().await;
    order(&proxy, "/servers/s0/undrain", "").await;
    eventually("it works again, so it is recovered", || async { !lines(&file).is_empty() }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_restarted_when_all_servers_fall_silent_together() {
    let (fleet, folder) = (fleet(2, &["m"]).await, tempfile::tempdir().expect("a folder"));
    let file = folder.path().join("runs");
    let exec = format!("exec: [/bin/sh, -c, \"echo $ARRIERO_SERVER >> {}\"], after: 2", file.display());
    let proxy = proxy(yaml(&fleet, &["exec: [/bin/true], after: 1000000", &exec])).await;
    // The one that is to be recovered last, so that it is never the only one that is silent.
    fleet.hosts[0].kill().await;
    eventually("down", || async { !is_up(&proxy, "s0").await }).await;
    fleet.hosts[1].kill().await;
    eventually("held", || async {
        action(&proxy, "s1").await["held"].as_str().is_some_and(|why| why.contains("network"))
    })
    .await;
    eventually("many checks have failed", || async { action(&proxy, "s1").await["failedChecks"].as_u64() > Some(10) })
        .await;
    assert_eq!(lines(&file), Vec::<String>::new());
    // One server answers again: then it is not the network.
    fleet.hosts[0].restart().await.expect("the port is ours");
    eventually("run", || async { lines(&file) == ["s1"] }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_begun_when_the_process_stops() {
    let (fleet, folder) = (fleet(2, &["m"]).await, tempfile::tempdir().expect("a folder"));
    let file = folder.path().join("runs");
    let exec = format!("exec: [/bin/sh, -c, \"echo run >> {}\"], after: 1", file.display());
    let mut proxy = proxy(yaml(&fleet, &[&exec, ""])).await;
    let admin = address(&proxy);
    // A request that is not done holds the end up.
    fleet.hosts[1].token_gate().close();
    fleet.hosts[0].remove_model("m");
    eventually("one server has the model", || async {
        show(&proxy, "/servers/s0").await["server"]["models"] == serde_json::json!([])
    })
    .await;
    let mut client = H1::connect(proxy.address()).await;
    client.send(request("POST", "/api/generate", "", generate("m"))).await;
    fleet.hosts[1].ledger().wait_until(PATIENCE, |ledger| ledger.inference().len() == 1).await.expect("it began");
    let running = proxy.running.take().expect("it runs");
    let stopped = tokio::task::spawn_blocking(move || running.stop());
    eventually("stopping", || async { send(admin, "GET", "/health/ready", "").await.head.status == 503 }).await;
    fleet.hosts[0].kill().await;
    eventually("held", || async {
        let answer = send(admin, "GET", "/api/orchestrator/recovery-actions/s0", "").await;
        json(&answer)["action"]["held"] == "the process is stopping"
    })
    .await;
    fleet.hosts[1].token_gate().open();
    stopped.await.expect("it stops");
    assert_eq!(lines(&file), Vec::<String>::new());
}
