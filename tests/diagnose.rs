//! `arriero diagnose` finds nothing wrong with a fleet that is well, and names each of many faults with its fix.

mod support;

use std::fs;
use std::path::{Path, PathBuf};

use arriero::demo::{Fault, FaultRule, Fleet, Host, HostConfig};
use serde_json::{Value, json};
use support::authority::Authority;
use support::docker::{Container, Engine};
use support::fleet::{Small, generate, reply, request, send};
use support::process::{Ended, Program, arriero, complete, finish};
use support::wire::{H1, proxy};
use support::{Proxy, admin, eventually, replace};

/// Nothing of the machine that runs the tests is a finding.
const CALM: &str = "server: { thresholds: { memory: 100%, disk: 100%, cpu: 100%, files: 100% } }\n";

/// A running deployment and what is looked at beside it.
struct Scene {
    admin: String,
    file: PathBuf,
    engine: Engine,
}

impl Scene {
    fn of(proxy: &Proxy) -> Self {
        Self::with(proxy, Vec::new())
    }

    fn with(proxy: &Proxy, containers: Vec<Container>) -> Self {
        let admin = proxy.running().admin.to_string().trim_start_matches("http://").to_owned();
        Self { admin, file: proxy.file.clone(), engine: Engine::start(containers) }
    }

    async fn run(&self, verb: &str, more: &[&str]) -> Ended {
        let (file, socket) = (self.file.to_str().expect("text"), self.engine.socket().to_str().expect("text"));
        let arguments = [&[verb, "-c", file, "--admin", &self.admin, "--docker-socket", socket], more].concat();
        finish(arriero(&arguments, self.file.parent().expect("a folder"))).await
    }

    async fn diagnose(&self) -> (Option<i32>, Value) {
        let ended = self.run("diagnose", &["--json"]).await;
        let report = serde_json::from_str(&ended.out).unwrap_or_else(|error| panic!("{error}: {ended:?}"));
        (ended.code, report)
    }

    /// The fault is named, with words about what and about how to mend it, and it is a problem.
    async fn names(&self, code: &str, what: &str, fix: &str) -> Value {
        let (exit, report) = self.diagnose().await;
        let found = finding(&report, code);
        let says = |key: &str, words: &str| found[key].as_str().is_some_and(|text| text.contains(words));
        assert!(says("what", what) && says("fix", fix), "{found:#}");
        assert_eq!((exit, &report["healthy"]), (Some(1), &json!(false)), "{report:#}");
        assert_ne!(found["severity"], "note", "{found:#}");
        report
    }
}

#[track_caller]
fn finding(report: &Value, code: &str) -> Value {
    let all = report["findings"].as_array().expect("a list");
    all.iter().find(|one| one["code"] == code).unwrap_or_else(|| panic!("no `{code}`: {report:#}")).clone()
}

fn codes(report: &Value) -> Vec<&str> {
    report["findings"].as_array().expect("a list").iter().filter_map(|one| one["code"].as_str()).collect()
}

/// An upstream of these servers; `server` are keys of each, `upstream` of the upstream, `route` of the route.
fn yaml(urls: &[String], server: &str, upstream: &str, route: &str) -> String {
    let line = |(number, url): (usize, &String)| format!("      - {{ name: s{number}, url: \"{url}\"{server} }}\n");
    let servers: String = urls.iter().enumerate().map(line).collect();
    let upstream: String = upstream.lines().map(|line| format!("    {line}\n")).collect();
    format!(
        "{CALM}routes: [{{ name: all, upstream: fleet{route} }}]\nupstreams:\n  fleet:\n    kind: ollama\n    servers:\n\
         {servers}{upstream}"
    )
}

/// A fleet of one host with the model `m`, and Arriero in front.
async fn one(server: &str, upstream: &str, route: &str) -> (Host, Proxy) {
    let host = Host::start(HostConfig::new("a").small_model("m")).await.expect("a host");
    let proxy = proxy(yaml(&[host.url()], server, upstream, route)).await;
    (host, proxy)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_healthy_fleet_has_no_problems() {
    let fleet = Fleet::demo().await.expect("a fleet");
    let proxy = proxy(yaml(&fleet.urls(), "", "", "")).await;
    let scene = Scene::of(&proxy);
    let (exit, report) = scene.diagnose().await;
    assert_eq!((exit, &report["healthy"]), (Some(0), &json!(true)), "{report:#}");
    let sections: Vec<&str> =
        report["sections"].as_array().expect("a list").iter().filter_map(|one| one["section"].as_str()).collect();
    let wanted =
        ["deployment", "containers", "resources", "servers", "tls", "clock", "logs", "configuration", "limits"];
    assert_eq!(sections, wanted);
    let stats = &report["stats"];
    assert_eq!((&stats["running"], &stats["healthScore"]), (&json!(true), &json!(100)), "{stats}");
    assert_eq!((&stats["servers"], &stats["serversAnswering"]), (&json!(fleet.hosts.len()), &json!(fleet.hosts.len())));
    assert!(stats["models"].as_u64().is_some_and(|models| models > 3), "{stats}");
    // It changes nothing, and no model was asked for anything.
    assert!(fleet.hosts.iter().all(|host| host.ledger().inference().is_empty()));
    let text = scene.run("diagnose", &[]).await;
    assert_eq!(text.code, Some(0));
    for words in ["Servers [ok]", "Ollama 0.33.0", "no problems found", "Quick stats", "health score 100"] {
        assert!(text.out.contains(words), "no `{words}`:\n{}", text.out);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_file_the_running_process_is_asked() {
    let fleet = Fleet::demo().await.expect("a fleet");
    let proxy = proxy(yaml(&fleet.urls(), "", "", "")).await;
    let scene = Scene { file: proxy.file.with_file_name("nowhere.yaml"), ..Scene::of(&proxy) };
    let (exit, report) = scene.diagnose().await;
    assert_eq!((exit, &report["stats"]["serversAnswering"]), (Some(0), &json!(fleet.hosts.len())), "{report:#}");
    assert_eq!(finding(&report, "config_missing")["severity"], "note");
    fleet.hosts[0].faults().add(FaultRule::everywhere(Fault::Status(500, "broken".to_owned())));
    scene.names("server_error", "status 500", "log").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_process_what_can_be_seen_is_told() {
    let host = Host::start(HostConfig::new("a").small_model("m")).await.expect("a host");
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("arriero.yaml");
    fs::write(&file, complete(&yaml(&[host.url()], "", "", ""))).expect("written");
    let nobody = format!("unix:{}", folder.path().join("nobody.sock").display());
    let scene = Scene { admin: nobody, file, engine: Engine::start(Vec::new()) };
    let report = scene.names("not_running", "nobody answers", "arriero run").await;
    assert_eq!(
        (&report["stats"]["serversAnswering"], &report["summary"]["errors"]),
        (&json!(1), &json!(1)),
        "{report:#}"
    );
    fs::remove_file(&scene.file).expect("removed");
    scene.names("config_missing", "no configuration file", "arriero init").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_down_is_named() {
    let fleet = support::fleet::fleet(2, &["m"]).await;
    let proxy = proxy(yaml(&fleet.urls(), "", "health: { active: { interval: 50ms, timeout: 2s } }", "")).await;
    let url = fleet.urls()[1].clone();
    fleet.hosts[1].kill().await;
    let report = Scene::of(&proxy).names("server_unreachable", &url, "systemctl start ollama").await;
    assert!(finding(&report, "server_unreachable")["what"].as_str().expect("text").contains("fleet/s1"));
    assert_eq!(report["stats"]["serversAnswering"], 1);
    fleet.hosts[0].kill().await;
    eventually("nobody is left", || async { proxy.admin("/health").await.contains("unhealthy") }).await;
    let report = Scene::of(&proxy).names("no_server", "`fleet`", "bring one back").await;
    assert!(codes(&report).contains(&"not_ready"), "{report:#}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_and_a_silent_server_are_named() {
    let (host, proxy) = one("", "health: { active: off }", "").await;
    let scene = Scene::of(&proxy);
    host.faults()
        .add(FaultRule::everywhere(Fault::Delay(std::time::Duration::from_millis(1100))).on_path("/api/version"));
    scene.names("server_slow", "1.1 s", "health.active.timeout").await;
    host.faults().clear();
    host.faults().add(FaultRule::everywhere(Fault::Hang).on_path("/api/version"));
    let ended = scene.run("diagnose", &["--json", "--timeout", "300ms"]).await;
    let report: Value = serde_json::from_str(&ended.out).expect("JSON");
    assert_eq!(ended.code, Some(1));
    assert!(finding(&report, "server_silent")["fix"].as_str().expect("text").contains("restart"), "{report:#}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_nobody_knows_is_named() {
    let urls = ["http://no-such-host.invalid:11434".to_owned()];
    let proxy = proxy(yaml(&urls, "", "", "")).await;
    Scene::of(&proxy).names("dns_unresolved", "no-such-host.invalid", "/etc/hosts").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn certificates_that_end_are_named() {
    let authority = Authority::new("ca");
    let folder = tempfile::tempdir().expect("a folder");
    let path = |name: &str| folder.path().join(name).display().to_string();
    authority.issue_until(&["old.test", "127.0.0.1"], -3).write(folder.path(), "old");
    authority.issue_until(&["soon.test", "127.0.0.1"], 5).write(folder.path(), "soon");
    replace(&folder.path().join("ca.pem"), authority.pem());
    let listener = |name: &str| {
        let (cert, key) = (path(&format!("{name}.pem")), path(&format!("{name}.key")));
        format!("{{ address: \"127.0.0.1:0\", tls: {{ certificates: [{{ cert: {cert}, key: {key} }}] }} }}")
    };
    // What serves with these certificates is a server to the second one.
    let front = proxy(format!(
        "{CALM}listeners: [{}, {}]\nroutes: [{{ name: all, respond: {{ body: hi }} }}]\n",
        listener("old"),
        listener("soon")
    ))
    .await;
    let scene = Scene::of(&front);
    let report = scene.names("certificate_expired", "`old.test` ended 3 days ago", "certbot renew").await;
    let soon = finding(&report, "certificate_expiring");
    assert!(soon["what"].as_str().expect("text").contains("`soon.test` ends in"), "{soon}");
    assert_eq!(soon["severity"], "warning");
    let [old, soon] = front.running().addresses.as_slice() else { panic!("two listeners") };
    let behind = proxy(format!(
        "{CALM}routes: [{{ name: all, upstream: web }}]\nupstreams:\n  web:\n    kind: http\n    tls: {{ ca: {} }}\n    \
         servers: [{{ name: old, url: \"https://{old}\" }}, {{ name: soon, url: \"https://{soon}\" }}]\n",
        path("ca.pem")
    ))
    .await;
    let scene = Scene::of(&behind);
    let report =
        scene.names("server_certificate_expired", "`web/old` ended 3 days ago", "renew it on the server").await;
    let soon = finding(&report, "server_certificate_expiring");
    assert!(soon["what"].as_str().expect("text").contains("`web/soon`"), "{soon}");
    let foreign = fs::read_to_string(&behind.file).expect("a text").replace(&path("ca.pem"), &path("other.pem"));
    replace(&folder.path().join("other.pem"), Authority::new("other").pem());
    replace(&behind.file, &foreign);
    let report = scene.names("server_certificate_untrusted", "`web/soon` is refused", "tls.ca").await;
    assert!(codes(&report).contains(&"server_certificate_expired"), "{report:#}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_that_a_route_needs_and_nobody_has_is_named() {
    let (_host, proxy) = one("", "warm: [\"n:7b@s0\"]", ", match: { model: [m, \"Other:13b\", \"llava*\"] }").await;
    let report = Scene::of(&proxy).names("model_missing", "`Other:13b`", "/api/pull").await;
    let all: Vec<&Value> =
        report["findings"].as_array().expect("a list").iter().filter(|one| one["code"] == "model_missing").collect();
    assert_eq!(all.len(), 2, "{all:#?}");
    assert!(all.iter().any(|one| one["what"].as_str().is_some_and(|what| what.contains("`n:7b`"))), "{all:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_open_circuit_a_paused_queue_and_a_forgotten_drain_are_named() {
    let (_host, proxy) = one("", "", "").await;
    let scene = Scene::of(&proxy);
    admin::order(&proxy, "/circuit-breakers/s0/open", r#"{"for":"1h"}"#).await;
    scene
        .names("circuit_open", "the server `s0` is open: an operator holds it open", "circuit-breakers/s0/server/reset")
        .await;
    admin::order(&proxy, "/circuit-breakers/s0/close", "").await;
    admin::order(&proxy, "/queue/pause", "").await;
    scene.names("queue_paused", "`fleet` is paused", "queue/resume").await;
    admin::order(&proxy, "/queue/resume", "").await;
    admin::order(&proxy, "/servers/s0/drain", r#"{"who":"ana","reason":"new disk"}"#).await;
    scene.names("server_draining", "`s0` is drained by ana", "arriero undrain s0").await;
    admin::order(&proxy, "/servers/s0/undrain", "").await;
    let (exit, report) = scene.diagnose().await;
    assert_eq!(exit, Some(0), "{report:#}");
    // A maintenance that ends by itself is no problem.
    admin::order(&proxy, "/servers/s0/maintenance", r#"{"for":"1h"}"#).await;
    let (_, report) = scene.diagnose().await;
    assert_eq!(finding(&report, "server_draining")["severity"], "note");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_queue_is_named() {
    let (host, proxy) = one(", max_in_flight: 1", "queue: { max_pending: 2, timeout: 60s }", "").await;
    host.token_gate().close();
    let mut clients = Vec::new();
    for _ in 0..3 {
        let mut client = H1::connect(proxy.address()).await;
        client.send(request("POST", "/api/generate", "", generate("m"))).await;
        clients.push(client);
        eventually("one runs", || async { admin::show(&proxy, "/in-flight").await["total"] == 1 }).await;
    }
    eventually("two wait", || async { admin::show(&proxy, "/queue").await["queue"] == 2 }).await;
    let health = admin::show(&proxy, "/health").await;
    assert_eq!(
        (&health["queue"]["waiting"], &health["services"]["queue"]),
        (&json!(2), &json!("degraded")),
        "{health:#}"
    );
    Scene::of(&proxy).names("queue_full", "2 of at most 2 requests wait for the model `m:latest`", "max_pending").await;
    host.token_gate().open();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_is_refused_or_not_in_force_is_named() {
    let (host, proxy) = one("", "", "").await;
    let scene = Scene::of(&proxy);
    proxy.rewrite(&yaml(&[host.url()], "", "", ", typo: 1"));
    let answer = admin::call(&proxy, "POST", "/config/reload", "").await;
    assert_eq!(answer.head.status, 422);
    let report = scene.names("config_refused", "was refused", "arriero check").await;
    let invalid = finding(&report, "config_invalid");
    assert!(invalid["what"].as_str().expect("text").contains("typo"), "{invalid}");
    // Another file than that of the process.
    let other = scene.file.with_file_name("other.yaml");
    fs::write(&other, complete(&yaml(&[host.url()], "", "", ", priority: high"))).expect("written");
    proxy.rewrite(&yaml(&[host.url()], "", "", ""));
    assert_eq!(admin::call(&proxy, "POST", "/config/reload", "").await.head.status, 200);
    let scene = Scene { file: other, ..Scene::of(&proxy) };
    scene.names("config_not_in_force", "other.yaml", "arriero reload").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn few_file_descriptors_are_named() {
    let host = Host::start(HostConfig::new("a").small_model("m")).await.expect("a host");
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("arriero.yaml");
    fs::write(&file, complete(&yaml(&[host.url()], "", "", ""))).expect("written");
    let mut command = std::process::Command::new("sh");
    let run = "ulimit -n 512; exec \"$0\" run --config \"$1\"";
    command.arg("-c").arg(run).arg(env!("CARGO_BIN_EXE_arriero")).arg(&file).current_dir(folder.path());
    let program = Program::serving(command).await;
    let scene = Scene { admin: program.admin().to_string(), file, engine: Engine::start(Vec::new()) };
    let measured = || async {
        let health = send(program.admin(), "GET", "/api/orchestrator/health", "").await;
        admin::json(&health)["process"]["files"]["limit"] == 512
    };
    eventually("it looked at itself", measured).await;
    scene.names("file_limit_low", "512 file descriptors", "LimitNOFILE=").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn memory_and_disks_above_their_thresholds_are_named() {
    let host = Host::start(HostConfig::new("a").small_model("m")).await.expect("a host");
    let text = yaml(&[host.url()], "", "", "").replace("memory: 100%, disk: 100%", "memory: 0%, disk: 0%");
    let proxy = proxy(text).await;
    let health = || async { admin::show(&proxy, "/health").await };
    eventually("it looked at itself", || async { health().await["process"]["exceeded"] == json!(["memory", "disk"]) })
        .await;
    let report = Scene::of(&proxy).names("memory_high", "server.thresholds.memory", "body_budget").await;
    let disk = finding(&report, "disk_full");
    assert!(disk["what"].as_str().expect("text").contains("temp_dir") && disk["severity"] == "error", "{disk}");
    let seen = health().await;
    assert_eq!((&seen["score"], &seen["services"]["resources"]), (&json!(90), &json!("degraded")), "{seen:#}");
    assert_eq!(proxy.metric("arriero_threshold_exceeded{resource=\"disk\"}").await, 1.0);
    assert_eq!(proxy.metric("arriero_threshold_exceeded{resource=\"cpu\"}").await, 0.0);
    assert_eq!(proxy.metric("arriero_health_score").await, 90.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_that_contradict_each_other_are_named() {
    let route =
        ", match: { model: [\"*\"] }, timeouts: { first_byte: 60s, request: 45s }, limits: { request_body: 10MiB }";
    let (host, proxy) = one("", "queue: { timeout: 5m }", route).await;
    let scene = Scene::of(&proxy);
    let report = scene.names("first_byte_short", "`first_byte: 1m`", "first_byte: 5m").await;
    for (code, what) in [
        ("request_timeout_short", "`timeouts.request: 45s` is over before `timeouts.first_byte: 1m`"),
        ("queue_timeout_long", "5m in the queue"),
        ("body_limit_small", "10.0 MiB"),
    ] {
        let found = finding(&report, code);
        assert!(found["what"].as_str().is_some_and(|text| text.contains(what)), "{found:#}");
    }
    // Told to Ollama, a shorter limit is no contradiction; a longer one is.
    let port = host.address().port();
    let ollama = |limit: &str| {
        let environment = json!([format!("OLLAMA_LOAD_TIMEOUT={limit}")]);
        Container::new(7, "ollama", "ollama/ollama").publish(11434, "127.0.0.1", port).with("/Config/Env", environment)
    };
    let (_, report) = Scene::with(&proxy, vec![ollama("30s")]).diagnose().await;
    assert!(!codes(&report).contains(&"first_byte_short"), "{report:#}");
    Scene::with(&proxy, vec![ollama("20m")]).names("first_byte_short", "of `fleet/s0`", "first_byte: 20m").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_that_do_not_fit_the_budget_are_named() {
    let host = Host::start(HostConfig::new("a").small_model("m")).await.expect("a host");
    let text = yaml(&[host.url()], "", "", "").replace("server: { ", "server: { body_budget: 50MiB, ");
    let proxy = proxy(text).await;
    Scene::of(&proxy).names("body_budget_small", "100.0 MiB", "server.body_budget").await;
    let own = Container::new(2, "arriero", "arriero").with("/HostConfig/Memory", json!(40 << 20));
    Scene::with(&proxy, vec![own]).names("memory_limit_small", "40.0 MiB", "limit of memory").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn more_requests_than_ollama_runs_are_named() {
    let (host, proxy) = one(", max_in_flight: 8, max_in_flight_per_model: 4", "", "").await;
    let ollama = |environment: Value| {
        let ollama = Container::new(7, "ollama", "ollama/ollama").publish(11434, "0.0.0.0", host.address().port());
        vec![ollama.with("/Config/Env", environment)]
    };
    let two = json!(["OLLAMA_NUM_PARALLEL=2", "OLLAMA_MAX_LOADED_MODELS=2", "OLLAMA_MAX_QUEUE=6", "SECRET=hidden"]);
    let report = Scene::with(&proxy, ollama(two))
        .names("parallel_below_in_flight", "OLLAMA_NUM_PARALLEL=2", "`max_in_flight_per_model: 2`")
        .await;
    let all: Vec<&str> = codes(&report);
    assert_eq!(all.iter().filter(|code| **code == "parallel_below_in_flight").count(), 2, "{report:#}");
    assert!(all.contains(&"ollama_queue_small") && all.contains(&"max_loaded_differs"), "{report:#}");
    assert!(!report.to_string().contains("hidden"), "{report:#}");
    let enough = json!(["OLLAMA_NUM_PARALLEL=4", "OLLAMA_MAX_LOADED_MODELS=3"]);
    let (exit, report) = Scene::with(&proxy, ollama(enough)).diagnose().await;
    assert_eq!(exit, Some(0), "{report:#}");
}

#[tokio::test(flavor = "multi_thread")]
async fn containers_that_are_not_well_are_named() {
    let (_host, proxy) = one("", "", "").await;
    let own = || Container::new(2, "arriero", "ghcr.io/someone/arriero:1");
    let broken = |number, name: &str| Container::new(number, name, "ollama/ollama:latest");
    let containers = vec![
        own().log(&["error: request 1 failed", "all is well", "error: request 2 failed"]),
        broken(3, "again")
            .with("/State/Status", json!("restarting"))
            .with("/RestartCount", json!(9))
            .with("/State/ExitCode", json!(1)),
        broken(4, "ill")
            .with("/State/Health/Status", json!("unhealthy"))
            .with("/State/Health/Log", json!([{ "Output": "connection refused\n" }])),
        broken(5, "killed")
            .with("/State/Status", json!("exited"))
            .with("/State/OOMKilled", json!(true))
            .with("/State/ExitCode", json!(137)),
        broken(6, "large").memory(2_100_000_000).with("/RestartCount", json!(2)),
        // Not of this project, and nobody's server.
        broken(9, "foreign").with("/State/Status", json!("dead")).with("/Config/Labels", json!({})),
    ];
    let scene = Scene::with(&proxy, containers);
    let report =
        scene.names("container_restarting", "`again` ends again and again", "docker logs --tail 50 again").await;
    for (code, what, fix) in [
        ("container_unhealthy", "connection refused", "docker restart ill"),
        ("container_oom_killed", "`killed` was ended by the kernel", "mem_limit"),
        ("container_not_running", "exit code 137 (it was killed)", "docker start killed"),
        ("container_memory_high", "`large` uses 2.0 GiB of its 2.0 GiB", "mem_limit"),
        ("container_restarted", "`large` was started again 2 times", "docker logs"),
        ("container_errors", "`arriero` logged 2 lines about errors", "docker logs --since 1h arriero"),
    ] {
        let found = finding(&report, code);
        let says = |key: &str, words: &str| found[key].as_str().is_some_and(|text| text.contains(words));
        assert!(says("what", what) && says("fix", fix), "{found:#}");
    }
    assert!(!report.to_string().contains("foreign"), "{report:#}");
    assert!(
        scene.engine.asked().iter().all(|asked| asked.starts_with("GET /containers/")),
        "{:?}",
        scene.engine.asked()
    );
    let (exit, report) = Scene::with(&proxy, vec![own()]).diagnose().await;
    assert_eq!(exit, Some(0), "{report:#}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_engine_that_does_not_answer_is_named() {
    let (_host, proxy) = one("", "", "").await;
    let scene = Scene::of(&proxy);
    let nowhere = proxy.file.with_file_name("nowhere.sock");
    let ended = scene.run("diagnose", &["--json"]).await;
    assert_eq!(ended.code, Some(0), "{ended:?}");
    let file = scene.file.to_str().expect("text");
    let mut command = arriero(&["diagnose", "-c", file, "--admin", &scene.admin, "--json"], Path::new("/"));
    command.env("DOCKER_HOST", format!("unix://{}", nowhere.display()));
    let ended = finish(command).await;
    let report: Value = serde_json::from_str(&ended.out).expect("JSON");
    assert!(
        finding(&report, "engine_unreachable")["what"].as_str().expect("text").contains("nowhere.sock"),
        "{report:#}"
    );
    assert_eq!(ended.code, Some(1));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_admin_listener_that_others_reach_is_named() {
    use std::os::unix::fs::PermissionsExt;
    let host = Host::start(HostConfig::new("a").small_model("m")).await.expect("a host");
    let folder = tempfile::tempdir().expect("a folder");
    let socket = folder.path().join("admin.sock");
    let text = format!("{}\nadmin: {{ address: \"unix:{}\" }}\n", yaml(&[host.url()], "", "", ""), socket.display());
    let proxy = proxy(text).await;
    let scene = Scene::of(&proxy);
    assert_eq!(scene.diagnose().await.0, Some(0));
    fs::set_permissions(&socket, fs::Permissions::from_mode(0o666)).expect("set");
    scene.names("admin_open", "admin.sock", "chmod o-rw").await;
    // Without a token such a configuration is not even valid.
    let open = format!("{}\nadmin: {{ address: \"0.0.0.0:5100\" }}\n", yaml(&[host.url()], "", "", ""));
    let file = folder.path().join("open.yaml");
    fs::write(&file, complete(&open)).expect("written");
    let scene = Scene { file, ..scene };
    scene.names("config_invalid", "can be reached from outside and has no token", "token_file").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clock_that_differs_is_named() {
    let late = httpdate::fmt_http_date(
        std::time::UNIX_EPOCH + arriero::clock::unix_time() - std::time::Duration::from_secs(3600),
    );
    let server = Small::start(move |_| {
        let mut response = reply(200, "text/plain", "hi");
        response.headers_mut().insert("date", late.parse().expect("a value"));
        response
    })
    .await;
    let text = format!(
        "{CALM}routes: [{{ name: all, upstream: web }}]\nupstreams:\n  web: {{ kind: http, servers: [{{ name: w, url: \"{}\" }}] }}\n",
        server.url()
    );
    let proxy = proxy(text).await;
    // And the seconds that passed since that date was written.
    Scene::of(&proxy).names("clock_skew", "`web/w` is 360", "timedatectl").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_that_failed_lately_are_grouped_by_their_reason() {
    let (host, proxy) = one("", "", "").await;
    host.faults().always(Fault::RunnerCrash);
    for _ in 0..3 {
        // Different requests: the same one would be tried at no server after it made a runner crash.
        let body =
            format!(r#"{{"model":"m","prompt":"{}","stream":false}}"#, "x".repeat(host.ledger().inference().len() + 1));
        assert_eq!(send(proxy.address(), "POST", "/api/generate", body).await.head.status, 500);
    }
    assert_eq!(send(proxy.address(), "POST", "/api/generate", generate("unheard-of")).await.head.status, 404);
    let report =
        Scene::of(&proxy).names("requests_failed", "3 requests ended with `upstream_error`", "journalctl").await;
    let refused = finding(&report, "requests_refused");
    assert!(refused["what"].as_str().expect("text").contains("1 request ended with `model_not_found`"), "{refused}");
    assert_eq!(refused["severity"], "note");
}

#[tokio::test(flavor = "multi_thread")]
async fn sections_can_be_chosen_and_wrong_usage_is_told() {
    let (host, proxy) = one("", "", "").await;
    let scene = Scene::of(&proxy);
    host.kill().await;
    let ended = scene.run("diagnose", &["--json", "--section", "clock", "--section", "limits"]).await;
    let report: Value = serde_json::from_str(&ended.out).expect("JSON");
    assert_eq!((ended.code, report["sections"].as_array().map(Vec::len)), (Some(0), Some(2)), "{report:#}");
    let ended = scene.run("diagnose", &["--section", "servers"]).await;
    assert!(ended.out.contains("error[server_unreachable]") && ended.out.contains("fix: start it"), "{}", ended.out);
    assert_eq!(ended.code, Some(1));
    assert_eq!(scene.run("diagnose", &["--section", "weather"]).await.code, Some(2));
}
