//! What operators change over the admin API: it holds at once, outlives the process, is shown as a change, and finds its way
//! into the file.

mod support;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arriero::demo::Fleet;
use rustix::process::Signal;
use serde_json::{Value, json};
use support::admin::{PREFIX, json as json_of, problem};
use support::eventually;
use support::fleet::{fleet, generate, send, send_with};
use support::process::Program;
use support::wire::Answer;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// A program with a file of its own and a folder for what is kept.
struct Scene {
    fleet: Fleet,
    folder: TempDir,
    program: Program,
}

/// Comments are part of the file: they must survive.
fn yaml(fleet: &Fleet) -> String {
    let urls = fleet.urls();
    format!(
        "# The fleet of the tests.
routes:
  - {{ name: all, upstream: fleet }} # everything
upstreams:
  fleet:
    kind: ollama
    servers:
      # The old one.
      - {{ name: s0, url: \"{}\", max_in_flight: 2 }}
      - name: s1 # the new one
        url: \"{}\"
    balance: {{ policy: round_robin, model_affinity: off }}
    inventory: {{ interval: 50ms }}
    health: {{ active: off }}
    queue:
      timeout: 20s
server: {{ data_dir: ./data }}
",
        urls[0], urls[1]
    )
}

impl Scene {
    /// Three hosts, two of them in the file; servers may be added on loopback.
    async fn new() -> Self {
        let fleet = fleet(3, &["m"]).await;
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("arriero.yaml");
        let text = yaml(&fleet) + "admin: { address: \"127.0.0.1:0\", server_networks: [127.0.0.0/8] }\n";
        std::fs::write(&file, support::process::complete(&text)).expect("written");
        let program = Program::run(&file).await;
        Self { fleet, folder, program }
    }

    fn file(&self) -> PathBuf {
        self.folder.path().join("arriero.yaml")
    }

    fn text(&self) -> String {
        std::fs::read_to_string(self.file()).expect("the file")
    }

    async fn call_with(&self, method: &str, path: &str, fields: &str, body: &str) -> Answer {
        send_with(self.program.admin(), method, &format!("{PREFIX}{path}"), fields, body).await
    }

    async fn call(&self, method: &str, path: &str, body: &Value) -> Answer {
        self.call_with(method, path, "", &body.to_string()).await
    }

    /// What is answered to an order that must be taken.
    async fn done(&self, method: &str, path: &str, body: &Value) -> Value {
        let answer = self.call(method, path, body).await;
        assert_eq!(answer.head.status, 200, "{method} {path}: {}", answer.text());
        json_of(&answer)
    }

    async fn show(&self, path: &str) -> Value {
        let answer = self.call_with("GET", path, "", "").await;
        assert_eq!(answer.head.status, 200, "{path}: {}", answer.text());
        json_of(&answer)
    }

    async fn server(&self, name: &str) -> Value {
        self.show(&format!("/servers/{name}")).await["server"].clone()
    }

    async fn changes(&self) -> Vec<String> {
        let diff = self.show("/config/diff").await;
        diff["changes"]
            .as_array()
            .expect("a list")
            .iter()
            .map(|one| one["path"].as_str().expect("text").to_owned())
            .collect()
    }

    /// The same after the process was killed and started again.
    async fn killed_and_started(mut self) -> Self {
        self.program.signal(Signal::KILL);
        self.program.ended().await;
        self.start().await
    }

    async fn start(mut self) -> Self {
        self.program = Program::run(&self.file()).await;
        self
    }
}

const S0: &str = "upstreams.fleet.servers[s0].max_in_flight";
const S2: &str = "upstreams.fleet.servers[s2]";

#[tokio::test(flavor = "multi_thread")]
async fn a_server_comes_takes_requests_and_goes_and_nothing_of_it_is_lost_with_the_process() {
    let scene = Scene::new().await;
    let url = scene.fleet.urls()[2].clone();
    let new = json!({ "id": "s2", "url": url, "maxConcurrency": 4 });
    let told = scene.done("POST", "/servers/add", &new).await;
    assert_eq!((&told["changed"], &told["kept"]), (&json!([S2]), &json!(true)), "{told}");
    assert_eq!(scene.server("s2").await["maxConcurrency"], 4);
    eventually("it takes its share", || async {
        assert_eq!(send(scene.program.address(), "POST", "/api/generate", generate("m")).await.head.status, 200);
        !scene.fleet.hosts[2].ledger().inference().is_empty()
    })
    .await;
    for (body, says) in [
        (json!({ "id": "s2", "url": "http://127.0.0.9:1" }), "there is a server `s2` already"),
        (json!({ "id": "s3", "url": url }), "has this URL already"),
        (json!({ "id": "s3", "url": "http://127.0.0.9:1", "upstream": "x" }), "there is no upstream `x`"),
    ] {
        let (status, detail) = problem(&scene.call("POST", "/servers/add", &body).await);
        assert!(status == 409 && detail.contains(says), "{status} {detail}");
    }
    let scene = scene.killed_and_started().await;
    assert_eq!(scene.changes().await, [S2]);
    assert_eq!(scene.server("s2").await["url"], url);
    scene.done("DELETE", "/servers/s2", &json!({})).await;
    assert_eq!(problem(&scene.call("GET", "/servers/s2", &json!({})).await).0, 404);
    assert_eq!(scene.changes().await, [] as [String; 0], "the file never had it");
    scene.done("DELETE", "/servers/s1", &json!({})).await;
    let (status, detail) = problem(&scene.call("DELETE", "/servers/s0", &json!({})).await);
    assert!(status == 409 && detail.contains("the only server"), "{status} {detail}");
    let scene = scene.killed_and_started().await;
    assert_eq!(scene.show("/servers").await["count"], 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn numbers_change_at_once_are_shown_as_changes_and_are_taken_back() {
    let scene = Scene::new().await;
    let told = scene.done("PATCH", "/servers/s0", &json!({ "maxConcurrency": 7 })).await;
    assert_eq!(told["changed"], json!([S0]));
    assert_eq!(scene.server("s0").await["maxConcurrency"], 7);
    let diff = scene.show("/config/diff").await;
    let change = &diff["changes"][0];
    assert_eq!((&change["file"], &change["now"], &change["who"]), (&json!(2), &json!(7), &json!("local")), "{diff}");
    assert!(change["since"].is_string() && change["lost"] == false, "{diff}");
    // What is so already is no change.
    let told = scene.done("PATCH", "/servers/s0", &json!({ "maxConcurrency": 7 })).await;
    assert_eq!(told["changed"], json!([]));
    scene.done("PATCH", "/servers/s0", &json!({ "maxConcurrency": null })).await;
    assert_eq!(scene.server("s0").await["maxConcurrency"], Value::Null);
    scene.done("PATCH", "/config/queue", &json!({ "maxSize": 2000, "timeout": 1500 })).await;
    let queue = scene.show("/queue").await;
    let queue = &queue["upstreams"][0];
    assert_eq!((&queue["maxPendingPerModel"], &queue["timeoutSeconds"]), (&json!(2000), &json!(1.5)), "{queue}");
    let told = scene.done("POST", "/config/revert", &json!({ "path": S0 })).await;
    assert_eq!(told["changed"], json!([S0]));
    assert_eq!(scene.server("s0").await["maxConcurrency"], 2);
    assert_eq!(scene.changes().await.len(), 2);
    scene.done("POST", "/config/revert", &json!({})).await;
    assert_eq!(scene.show("/queue").await["upstreams"][0]["timeoutSeconds"], 20.0);
    let scene = scene.killed_and_started().await;
    assert_eq!(scene.changes().await, [] as [String; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_valid_is_refused_whole_with_every_error_and_its_place() {
    let scene = Scene::new().await;
    let before = scene.show("/config").await;
    let body =
        json!({ "fleet": { "queue": { "timeout": "banana" }, "circuit": { "open_for": "0s" }, "kind": "ollama" } });
    let answer = scene.call("PATCH", "/config/upstreams", &body).await;
    let (status, detail) = problem(&answer);
    assert!(status == 422 && detail.contains("nothing was changed"), "{detail}");
    let errors = json_of(&answer)["errors"].clone();
    let paths: Vec<&str> =
        errors.as_array().expect("a list").iter().filter_map(|error| error["path"].as_str()).collect();
    assert_eq!(paths, ["upstreams.fleet.queue.timeout", "upstreams.fleet.circuit.open_for"], "{errors}");
    assert_eq!(errors[0]["file"], "set at run time");
    for (path, body, status) in [
        ("/config/nothing", json!({}), 409),
        ("/config/queue", json!([1]), 409),
        ("/config/queue", json!({ "maxsize": 1 }), 422),
        ("/config/queue?upstream=x", json!({ "timeout": "1s" }), 409),
        ("/config/server", json!({ "threads": 7 }), 409),
        ("/config/notifications", json!([]), 409),
        ("/config/admin", json!({ "token_file": "/etc/passwd" }), 403),
        (
            "/config/upstreams",
            json!({ "fleet": { "servers": [{ "url": "http://a", "recovery": { "exec": ["sh"] } }] } }),
            403,
        ),
        ("/servers/s0", json!({ "maxConcurrency": 0 }), 422),
        ("/servers/s0", json!({ "colour": "red" }), 400),
        ("/servers/s9", json!({}), 404),
    ] {
        let answer = scene.call("PATCH", path, &body).await;
        assert_eq!(problem(&answer).0, status, "{path} {body}: {}", answer.text());
    }
    assert_eq!(scene.show("/config").await, before);
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_are_saved_into_the_file_which_keeps_its_comments() {
    let scene = Scene::new().await;
    let before = scene.text();
    let told = scene.done("POST", "/config/save", &json!({})).await;
    assert_eq!((&told["changes"], &told["backup"]), (&json!(0), &Value::Null), "{told}");
    let new = json!({ "id": "s2", "url": scene.fleet.urls()[2] });
    scene.done("POST", "/servers/add", &new).await;
    scene.done("PATCH", "/servers/s0", &json!({ "maxConcurrency": 7 })).await;
    scene.done("PATCH", "/config/queue", &json!({ "timeout": "5s", "max_pending": 3 })).await;
    assert_eq!(scene.text(), before, "the file is as it was until it is saved");
    let shown = scene.show("/config").await["config"].clone();
    let told = scene.done("POST", "/config/save", &json!({})).await;
    assert_eq!(told["changes"], 4, "{told}");
    let after = scene.text();
    for kept in ["# The fleet of the tests.", "# everything", "# The old one.", "- name: s1 # the new one"] {
        assert!(after.contains(kept), "{kept}\n{after}");
    }
    assert!(
        after.contains("max_in_flight: 7 }") && after.contains("      timeout: 5s\n      max_pending: 3\n"),
        "{after}"
    );
    let backup = told["backup"].as_str().expect("a path");
    assert_eq!(std::fs::read_to_string(backup).expect("a copy"), before);
    assert_eq!(scene.changes().await, [] as [String; 0]);
    assert_eq!(scene.show("/config").await["config"], shown);
    let scene = scene.killed_and_started().await;
    assert_eq!(scene.show("/config").await["config"], shown);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_configuration_that_was_read_can_be_put_back() {
    let scene = Scene::new().await;
    let backup = scene.show("/config").await;
    scene.done("PATCH", "/servers/s0", &json!({ "maxConcurrency": 7 })).await;
    scene.done("DELETE", "/servers/s1", &json!({})).await;
    scene.done("PATCH", "/config/telemetry", &json!({ "log_level": "debug" })).await;
    scene.done("POST", "/config", &backup).await;
    assert_eq!(scene.show("/config").await["config"], backup["config"]);
    assert_eq!(scene.changes().await, [] as [String; 0]);
    let effective = scene.show("/config?effective=true").await;
    assert_eq!(effective["config"]["upstreams"]["fleet"]["queue"]["max_pending"], 100, "{effective}");
    let schema = scene.show("/config/schema").await;
    assert!(schema["properties"]["upstreams"].is_object());
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_knows_an_older_configuration_changes_nothing() {
    let scene = Scene::new().await;
    let answer = scene.call_with("GET", "/config", "", "").await;
    let tag = answer.head.field("etag").expect("a tag").to_owned();
    let body = r#"{"maxConcurrency":7}"#;
    let field = format!("If-Match: {tag}\r\n");
    let first = scene.call_with("PATCH", "/servers/s0", &field, body).await;
    assert_eq!(first.head.status, 200, "{}", first.text());
    assert_ne!(first.head.field("etag"), Some(tag.as_str()));
    let second = scene.call_with("PATCH", "/servers/s0", &field, r#"{"maxConcurrency":8}"#).await;
    assert_eq!(problem(&second).0, 412);
    assert_eq!(scene.server("s0").await["maxConcurrency"], 7);
    let odd = scene.call_with("PATCH", "/servers/s0", "If-Match: abc\r\n", body).await;
    assert_eq!(problem(&odd).0, 400);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_file_and_the_changes_are_edited_side_by_side() {
    let scene = Scene::new().await;
    scene.done("PATCH", "/servers/s0", &json!({ "maxConcurrency": 7 })).await;
    scene.done("PATCH", "/servers/s1", &json!({ "weight": 3 })).await;
    // Somebody edits the file: their edit holds, and so do the changes that still have a place.
    let text = scene.text().replace("timeout: 20s", "timeout: 21s");
    std::fs::write(scene.file(), &text).expect("written");
    scene.done("POST", "/config/reload", &json!({ "configPath": scene.file() })).await;
    assert_eq!(scene.show("/queue").await["upstreams"][0]["timeoutSeconds"], 21.0);
    assert_eq!(scene.server("s0").await["maxConcurrency"], 7);
    let at = text.find("      - name: s1").expect("s1");
    let end = text[at..].find("    balance").expect("behind it") + at;
    std::fs::write(scene.file(), format!("{}{}", &text[..at], &text[end..])).expect("written");
    scene.done("POST", "/config/reload", &json!({})).await;
    assert_eq!(scene.show("/servers").await["count"], 1);
    let diff = scene.show("/config/diff").await;
    let lost: Vec<bool> =
        diff["changes"].as_array().expect("two").iter().filter_map(|one| one["lost"].as_bool()).collect();
    assert_eq!(lost, [false, true], "{diff}");
    let other = problem(&scene.call("POST", "/config/reload", &json!({ "configPath": "/etc/passwd" })).await);
    assert_eq!(other.0, 409, "{other:?}");
    // A file that is broken is not in force, and what is not in force is not saved.
    std::fs::write(scene.file(), "version: 1\nnonsense: 1\n").expect("written");
    assert_eq!(problem(&scene.call("POST", "/config/reload", &json!({})).await).0, 422);
    assert_eq!(problem(&scene.call("POST", "/config/save", &json!({})).await).0, 409);
    assert_eq!(scene.text(), "version: 1\nnonsense: 1\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_that_do_not_fit_a_new_file_do_not_keep_it_from_starting() {
    let mut scene = Scene::new().await;
    let new = json!({ "id": "s2", "url": scene.fleet.urls()[2] });
    scene.done("POST", "/servers/add", &new).await;
    scene.program.signal(Signal::KILL);
    scene.program.ended().await;
    let text = scene.text().replace("server_networks: [127.0.0.0/8]", "server_networks: [10.0.0.0/8]");
    std::fs::write(scene.file(), text).expect("written");
    let scene = scene.start().await;
    assert_eq!(scene.show("/servers").await["count"], 2);
    assert!(scene.program.err.has("does not fit the file any more"), "{}", scene.program.err.text());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_operators_decided_holds_after_a_restart() {
    let scene = Scene::new().await;
    scene.done("POST", "/servers/s0/drain", &json!({ "reason": "a new card", "who": "ana" })).await;
    scene.done("POST", "/servers/s1/maintenance", &json!({ "enabled": true, "for": "1h" })).await;
    scene.done("POST", "/bans", &json!({ "server": "s1", "model": "m", "for": "1h", "who": "ana" })).await;
    scene.done("POST", "/circuit-breakers/s0/open", &json!({ "for": "1h" })).await;
    scene.done("POST", "/circuit-breakers/s1/m/open", &json!({ "for": "1h" })).await;
    scene.done("POST", "/queue/pause", &json!({})).await;
    let before = scene.server("s0").await["operation"].clone();
    let scene = scene.killed_and_started().await;
    let after = scene.server("s0").await["operation"].clone();
    assert_eq!(
        (&after["state"], &after["reason"], &after["who"]),
        (&"draining".into(), &"a new card".into(), &"ana".into())
    );
    assert_eq!(after["since"].as_str().map(|text| &text[..16]), before["since"].as_str().map(|text| &text[..16]));
    assert_eq!(scene.server("s1").await["operation"]["state"], "maintenance");
    assert_eq!(scene.show("/bans").await["bans"][0]["who"], "ana");
    assert_eq!(scene.show("/circuit-breakers/s0").await["stats"]["forced"], true);
    assert_eq!(scene.show("/circuit-breakers/s1/m").await["stats"]["state"], "open");
    assert_eq!(scene.show("/queue").await["paused"], true);
    scene.done("POST", "/servers/s0/undrain", &json!({})).await;
    scene.done("DELETE", "/bans", &json!({})).await;
    scene.done("POST", "/queue/resume", &json!({})).await;
    let scene = scene.killed_and_started().await;
    assert_eq!(scene.server("s0").await["operation"]["state"], "active");
    assert_eq!(scene.show("/bans").await["count"], 0);
    assert_eq!(scene.show("/queue").await["paused"], false);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_kept_holds_all_the_same_and_is_told() {
    let fleet = fleet(3, &["m"]).await;
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("arriero.yaml");
    let text = yaml(&fleet).replace("server: { data_dir: ./data }\n", "") + "admin: { address: \"127.0.0.1:0\" }\n";
    std::fs::write(&file, support::process::complete(&text)).expect("written");
    let program = Program::run(&file).await;
    let scene = Scene { fleet, folder, program };
    let told = scene.done("PATCH", "/servers/s0", &json!({ "maxConcurrency": 7 })).await;
    assert!(told["kept"] == false && told["warning"].as_str().expect("why").contains("data_dir"), "{told}");
    let told = scene.done("POST", "/servers/s0/drain", &json!({})).await;
    assert_eq!((&told["kept"], &told["operation"]["state"]), (&json!(false), &json!("draining")), "{told}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_added_cannot_be_anywhere() {
    let fleet = fleet(2, &["m"]).await;
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("arriero.yaml");
    let text = yaml(&fleet) + "admin: { address: \"127.0.0.1:0\" }\n";
    std::fs::write(&file, support::process::complete(&text)).expect("written");
    let program = Program::run(&file).await;
    let scene = Scene { fleet, folder, program };
    for (url, status) in [
        ("http://169.254.169.254", 422),
        ("http://[fd00:ec2::254]", 422),
        ("http://0.0.0.0:80", 422),
        ("http://127.0.0.1:6379", 422),
        ("http://[::ffff:127.0.0.1]:6379", 422),
        ("http://localhost:6379", 422),
        ("http://2130706433", 400),
        ("http://0x7f000001", 422),
        ("http://0177.0.0.1", 400),
        ("file:///etc/passwd", 400),
        ("gopher://10.0.0.1", 400),
        ("http://user:pw@10.0.0.1", 400),
        ("http://10.0.0.1/path", 400),
        ("unix:/run/x.sock", 400),
    ] {
        let answer = scene.call("POST", "/servers/add", &json!({ "id": "x", "url": url })).await;
        assert!(matches!(problem(&answer).0, 400 | 422), "{url} {status}: {}", answer.text());
    }
    assert_eq!(scene.show("/servers").await["count"], 2);
    // A name that has no address yet is taken; where it leads is judged when it has one.
    scene.done("POST", "/servers/add", &json!({ "id": "x", "url": "http://new-server.invalid:11434" })).await;
    assert_eq!(scene.server("x").await["id"], "x");
}

#[tokio::test(flavor = "multi_thread")]
async fn each_change_is_in_the_audit_with_who_made_it() {
    let fleet = fleet(2, &["m"]).await;
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("arriero.yaml");
    let path = folder.path().to_owned();
    let write = |name: &str, text: &str| {
        std::fs::write(path.join(name), text).expect("written");
        path.join(name).display().to_string()
    };
    let (reader, operator) = (write("reader", "r\n"), write("operator", "o\n"));
    let admin = format!(
        "admin:\n  address: 127.0.0.1:0\n  tokens:\n    - {{ name: grafana, token_file: {reader}, scope: read }}\n    \
         - {{ name: ana, token_file: {operator}, scope: operate }}\n  without_token: health\n\
         telemetry: {{ access_log: off, log_level: info }}\n"
    );
    std::fs::write(&file, support::process::complete(&(yaml(&fleet) + &admin))).expect("written");
    let program = Program::run(&file).await;
    let scene = Scene { fleet, folder, program };
    let give = async |token: &str, method: &str, path: &str| {
        let field = if token.is_empty() { String::new() } else { format!("Authorization: Bearer {token}\r\n") };
        scene.call_with(method, path, &field, "{}").await.head.status
    };
    assert_eq!(give("", "GET", "/servers").await, 401);
    assert_eq!(give("r", "GET", "/servers").await, 200);
    assert_eq!(give("r", "POST", "/servers/s0/drain").await, 403);
    assert_eq!(give("o", "POST", "/servers/s0/drain").await, 200);
    assert_eq!(give("o", "DELETE", "/servers/s1").await, 403);
    // A token changes with its file.
    write("operator", "new\n");
    assert_eq!(give("o", "POST", "/config/reload").await, 200);
    assert_eq!(give("o", "POST", "/servers/s0/undrain").await, 401);
    assert_eq!(give("new", "POST", "/servers/s0/undrain").await, 200);
    let wanted = json!([
        ["ana", "POST", "/api/orchestrator/servers/s0/undrain", 200],
        ["", "POST", "/api/orchestrator/servers/s0/undrain", 401],
        ["ana", "POST", "/api/orchestrator/config/reload", 200],
        ["ana", "DELETE", "/api/orchestrator/servers/s1", 403],
        ["ana", "POST", "/api/orchestrator/servers/s0/drain", 200],
        ["grafana", "POST", "/api/orchestrator/servers/s0/drain", 403],
    ]);
    let seen = async || {
        let answer = scene.call_with("GET", "/audit", "Authorization: Bearer r\r\n", "").await;
        let all = json_of(&answer)["audit"].as_array().expect("a list").clone();
        all.iter().map(|one| json!([one["who"], one["method"], one["path"], one["status"]])).collect::<Value>()
    };
    eventually("all is there", || async { seen().await == wanted }).await;
    assert!(scene.program.err.has("audit"), "{}", scene.program.err.text());
}

/// Changes a number again and again, the first time to 1; counts the changes that were answered.
async fn write_until_it_is_gone(address: SocketAddr, answered: Arc<AtomicU64>) {
    for number in 0_u64.. {
        let Ok(mut client) = TcpStream::connect(address).await else { return };
        let body = json!({ "maxConcurrency": number % 50 + 1 }).to_string();
        let head = format!("PATCH {PREFIX}/servers/s0 HTTP/1.1\r\nHost: localhost\r\nConnection: close");
        let request = format!("{head}\r\nContent-Length: {}\r\n\r\n{body}", body.len());
        let mut answer = Vec::new();
        let done = async {
            client.write_all(request.as_bytes()).await?;
            client.read_to_end(&mut answer).await
        };
        if done.await.is_err() || !answer.starts_with(b"HTTP/1.1 200") {
            return;
        }
        answered.store(number + 1, Ordering::Release);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_is_killed_when_changes_parse_at_the_next_start() {
    let mut scene = Scene::new().await;
    let rounds = std::env::var("KILL_ROUNDS").ok().and_then(|text| text.parse().ok()).unwrap_or(12_u64);
    for round in 0..rounds {
        let address = scene.program.admin();
        let answered = Arc::new(AtomicU64::new(0));
        let writes = tokio::spawn(write_until_it_is_gone(address, Arc::clone(&answered)));
        eventually("some writes", || async { answered.load(Ordering::Acquire) > round % 12 * 3 }).await;
        scene = scene.killed_and_started().await;
        writes.await.expect("no panic");
        let count = answered.load(Ordering::Acquire);
        let max = scene.server("s0").await["maxConcurrency"].as_u64();
        // The last one that was answered, or the one after it.
        let last = (count - 1) % 50 + 1;
        assert!(max == Some(last) || max == Some(last % 50 + 1), "{max:?} after {count}, last {last}");
    }
    let files: Vec<_> = files(scene.folder.path());
    assert!(!files.iter().any(|name| name.contains("damaged")), "{files:?}");
}

fn files(folder: &Path) -> Vec<String> {
    let all = std::fs::read_dir(folder.join("data")).expect("a folder");
    all.map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned()).collect()
}
