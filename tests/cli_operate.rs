//! The verbs that operate a running Arriero, as people and scripts meet them: through the program itself, its admin listener and a
//! simulated fleet.

mod support;

#[path = "cli_operate/live.rs"]
mod live;
#[path = "cli_operate/logs.rs"]
mod logs;
#[path = "cli_operate/orders.rs"]
mod orders;
#[path = "cli_operate/pages.rs"]
mod pages;
#[path = "cli_operate/reference.rs"]
mod reference;
#[path = "cli_operate/snapshot.rs"]
mod snapshot;

use std::fs;
use std::path::Path;

use arriero::demo::{Fleet, HostConfig};
use serde_json::Value;
use support::eventually;
use support::fleet::{Small, generate, reply, request, send};
use support::process::{Ended, Program, arriero, complete, finish};
use support::wire::H1;

const PREFIX: &str = "/api/orchestrator/";

/// A program with a fleet of two servers `s0` and `s1` that have the model `m`.
struct Setup {
    fleet: Fleet,
    program: Program,
    /// Where its admin listener is, as `--admin` takes it.
    admin: String,
    folder: tempfile::TempDir,
}

impl Setup {
    async fn start(unix: bool) -> Self {
        let config = |name| HostConfig::new(name).small_model("m").parallel(4);
        let fleet = Fleet::start(vec![config("a"), config("b")]).await.expect("a fleet");
        let folder = tempfile::tempdir().expect("a folder");
        let line = |(number, url): (usize, &String)| format!("      - {{ name: s{number}, url: \"{url}\" }}\n");
        let servers: String = fleet.urls().iter().enumerate().map(line).collect();
        let socket = format!("unix:{}", folder.path().join("admin.sock").display());
        let admin = if unix { format!("admin: {{ address: \"{socket}\" }}\n") } else { String::new() };
        let yaml = format!(
            "routes: [{{ name: all, upstream: fleet }}]\nupstreams:\n  fleet:\n    kind: ollama\n    servers:\n{servers}    \
             health: {{ active: {{ interval: 100ms, timeout: 10s, unhealthy: 1, healthy: 1 }} }}\n    \
             inventory: {{ interval: 50ms }}\n{admin}"
        );
        let file = folder.path().join("arriero.yaml");
        fs::write(&file, complete(&yaml)).expect("written");
        let program = Program::run(&file).await;
        let admin = if unix { socket } else { program.admin().to_string() };
        let setup = Self { fleet, program, admin, folder };
        eventually("both servers are up and have told their models", || async {
            let ended = setup.run(&["status", "--json"]).await;
            let seen: Value = serde_json::from_str(&ended.out).unwrap_or_else(|error| panic!("{error}: {ended:?}"));
            let told = |server: &Value| server["health"] == "up" && server["models"] == 1;
            seen["servers"].as_array().is_some_and(|servers| servers.iter().all(told))
        })
        .await;
        setup
    }

    /// Runs a verb to its end.
    async fn run(&self, words: &[&str]) -> Ended {
        finish(arriero(&[words, &["--admin", &self.admin]].concat(), self.folder.path())).await
    }

    /// What a verb says that must succeed.
    async fn told(&self, words: &[&str]) -> String {
        let ended = self.run(words).await;
        assert_eq!((ended.code, ended.err.as_str()), (Some(0), ""), "{words:?}: {ended:?}");
        ended.out
    }

    /// What it says with `--json`: one line, one document.
    async fn json(&self, words: &[&str]) -> Value {
        let text = self.told(&[words, &["--json"]].concat()).await;
        assert_eq!(text.lines().count(), 1, "{text}");
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
    }

    /// What the admin listener itself answers.
    async fn show(&self, path: &str) -> Value {
        let answer = send(self.program.admin(), "GET", &format!("{PREFIX}{path}"), "").await;
        assert_eq!(answer.head.status, 200, "{path}: {}", answer.text());
        serde_json::from_slice(&answer.body).expect("JSON")
    }

    /// A request that runs until the gate of the servers is open again.
    async fn begin(&self, id: &str) -> H1 {
        let mut client = H1::connect(self.program.address()).await;
        client.send(request("POST", "/api/generate", &format!("X-Request-Id: {id}\r\n"), generate("m"))).await;
        client
    }

    fn gates(&self, open: bool) {
        for host in &self.fleet.hosts {
            if open { host.token_gate().open() } else { host.token_gate().close() }
        }
    }
}

/// The form of a document: its keys and the kinds of lists and maps, without what is in them.
fn form(value: &Value) -> Value {
    match value {
        Value::Object(map) => map.iter().map(|(key, value)| (key.clone(), form(value))).collect(),
        Value::Array(list) => list.first().map(form).into_iter().collect(),
        _ => Value::Null,
    }
}

/// The rows of a table: cells are two spaces or more apart.
fn rows(text: &str) -> Vec<Vec<String>> {
    let cells =
        |line: &str| line.split("  ").map(str::trim).filter(|cell| !cell.is_empty()).map(str::to_owned).collect();
    text.lines().map(cells).collect()
}

/// What a verb shows, in a table and in JSON.
const LISTS: [(&[&str], &str, &str); 14] = [
    (&["status"], "overview", "2 of 2 up"),
    (&["servers"], "servers", "s1"),
    (&["servers", "s0"], "servers/s0", "active"),
    (&["models"], "models/status", "m:latest"),
    (&["models", "M"], "models/m/status", "s1"),
    (&["in-flight"], "in-flight", "one-request"),
    (&["queue"], "queue", "running"),
    (&["circuit"], "circuit-breakers", "closed"),
    (&["circuit", "list", "s0"], "circuit-breakers/s0", "closed"),
    (&["ban"], "bans", "no bans"),
    (&["ban", "list"], "bans", "no bans"),
    (&["quota"], "quotas", "nothing is used of any quota"),
    (&["decisions"], "analytics/decisions?limit=20", "m:latest"),
    (&["top", "--snapshot"], "overview", "[1 servers]"),
];

#[tokio::test(flavor = "multi_thread")]
async fn each_list_is_a_table_and_with_json_what_the_admin_listener_answers() {
    let setup = Setup::start(false).await;
    setup.gates(false);
    let _client = setup.begin("one-request").await;
    eventually("it runs", || async { setup.show("in-flight").await["total"] == 1 }).await;
    eventually("its model is known to be in memory", || async {
        setup.show("models/m/status").await["status"]["loadedOn"] == 1
    })
    .await;
    for (words, path, wanted) in LISTS {
        let told = setup.told(words).await;
        assert!(told.contains(wanted), "{words:?}: no `{wanted}` in\n{told}");
        assert!(!told.contains('\u{1b}'), "{words:?}: colours in a pipe\n{told}");
        let json = setup.json(words).await;
        assert_eq!(form(&json), form(&setup.show(path).await), "{words:?}");
    }
    let heads = ["SERVER", "UPSTREAM", "HEALTH", "OPERATION", "CIRCUIT", "IN-FLIGHT", "RESPONSE", "LOADED", "URL"];
    let table = rows(&setup.told(&["servers"]).await);
    assert_eq!(table[0], heads);
    let (first, second) = (&table[1], &table[2]);
    assert_eq!(
        (&first[..5], second[0].as_str()),
        (&["s0", "fleet", "up", "active", "closed"].map(str::to_owned)[..], "s1")
    );
    let running: u32 = [first, second].iter().map(|row| row[5].parse::<u32>().expect("a number")).sum();
    assert_eq!(running, 1, "{table:?}");
    setup.gates(true);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_unix_socket_is_found_by_address_and_by_the_configuration() {
    let setup = Setup::start(true).await;
    assert!(setup.told(&["servers"]).await.contains("s1"));
    let by_file = finish(arriero(&["servers", "--json"], setup.folder.path())).await;
    let seen: Value = serde_json::from_str(&by_file.out).expect("JSON");
    assert_eq!((by_file.code, &seen["count"]), (Some(0), &2.into()), "{by_file:?}");
    // The address may stand before the last verb as well as behind it.
    let before = finish(arriero(&["circuit", "--admin", &setup.admin, "list", "s0"], setup.folder.path())).await;
    assert!(before.code == Some(0) && before.out.contains("s0"), "{before:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_status_tells_by_its_exit_code_whether_all_is_well() {
    let mut setup = Setup::start(false).await;
    setup.told(&["status"]).await;
    drop(setup.fleet.hosts.pop());
    eventually("a server is missing", || async { setup.run(&["status"]).await.code == Some(1) }).await;
    let (told, json) = (setup.run(&["status"]).await, setup.run(&["status", "--json"]).await);
    assert!(
        told.out.contains("degraded") && told.out.contains("1 of 2 up") && told.out.contains("  s1: down"),
        "{told:?}"
    );
    let seen: Value = serde_json::from_str(&json.out).expect("JSON");
    assert_eq!((json.code, &seen["status"]), (Some(1), &"degraded".into()), "{json:?}");
    setup.program.signal(rustix::process::Signal::KILL);
    setup.program.ended().await;
    for words in [&["status"][..], &["top", "--snapshot"], &["servers"], &["ban", "list"], &["logs", "-f"], &["logs"]] {
        let gone = setup.run(words).await;
        assert!(gone.code == Some(4) && gone.err.contains("hint: is Arriero running?"), "{words:?}: {gone:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_is_an_error_with_its_reason_and_ends_with_one() {
    let setup = Setup::start(false).await;
    let ended = setup.run(&["servers", "nobody"]).await;
    assert!(ended.code == Some(1) && ended.err.starts_with("error: there is no server `nobody`"), "{ended:?}");
    assert_eq!(ended.out, "");
    // A script that asked for JSON gets the problem document too.
    let ended = setup.run(&["drain", "nobody", "--json"]).await;
    let problem: Value = serde_json::from_str(&ended.out).expect("JSON");
    assert_eq!((ended.code, &problem["status"]), (Some(1), &404.into()), "{ended:?}");
    let wrong: [&[&str]; 7] = [
        &["ban", "add"],
        &["ban", "lift"],
        &["ban", "lift", "--all", "--model", "m"],
        &["circuit", "open"],
        &["circuit", "close", "s0", "--for", "1m"],
        &["top", "--width", "80"],
        &["top", "--interval", "1ms"],
    ];
    for words in wrong {
        assert_eq!(setup.run(words).await.code, Some(2), "{words:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_older_arriero_is_said_to_be_older_and_another_program_to_be_unreadable() {
    let document = r#"{"title":"Not Found","status":404,"detail":"there is no such path here"}"#;
    let older = Small::start(move |_| reply(404, "application/problem+json", document)).await;
    let other = Small::start(|_| reply(200, "text/html", "<html>")).await;
    let here = tempfile::tempdir().expect("a folder");
    for words in [&["status"][..], &["usage"], &["logs"], &["logs", "-f"], &["config", "diff"], &["top", "--snapshot"]]
    {
        let ask = |server: &Small| arriero(&[words, &["--admin", &server.address.to_string()]].concat(), here.path());
        let ended = finish(ask(&older)).await;
        let wanted = "error: the running Arriero is older than this command\nhint: ";
        assert!(ended.code == Some(1) && ended.err.starts_with(wanted), "{words:?}: {ended:?}");
        if !words.contains(&"-f") {
            let ended = finish(ask(&other)).await;
            assert!(ended.code == Some(1) && ended.err.contains("cannot read"), "{words:?}: {ended:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn names_that_others_chose_cannot_speak_to_the_terminal() {
    let setup = Setup::start(false).await;
    let nasty = "\u{1b}[2Jx\u{9b}31m\u{7}\ny\u{202e}";
    let shown = "\\u{1b}[2Jx\\u{9b}31m\\u{7}\\ny\\u{202e}";
    let added = setup.told(&["ban", "add", "--model", "n", "--reason", nasty]).await;
    for (told, what) in [
        (added, "ban add"),
        (setup.told(&["ban"]).await, "ban"),
        (setup.told(&["top", "--snapshot", "--pane", "bans"]).await, "top"),
    ] {
        assert!(told.contains(shown), "{what}: {told:?}");
        assert!(told.chars().all(|c| c == '\n' || !c.is_control() && c != '\u{202e}'), "{what}: {told:?}");
    }
    assert_eq!(setup.json(&["ban"]).await["bans"][0]["reason"], nasty);
    // What the admin listener repeats in a refusal is no better.
    let refused = setup.run(&["servers", nasty]).await;
    assert!(refused.code == Some(1) && refused.err.contains("\\u{1b}[2Jx"), "{refused:?}");
    assert!(!refused.err.contains('\u{1b}'), "{refused:?}");
}

/// A configuration with a token, and a program that runs with it.
async fn with_a_token(folder: &Path) -> Program {
    let token = folder.join("token");
    fs::write(&token, "a-token-of-more-than-thirty-two-characters\n").expect("written");
    fs::set_permissions(&token, std::os::unix::fs::PermissionsExt::from_mode(0o600)).expect("private");
    let text = format!(
        "routes: [{{ name: hello, match: {{ path: / }}, respond: {{ status: 200, body: hello }} }}]\n\
         admin: {{ address: \"127.0.0.1:0\", token_file: \"{}\" }}\n",
        token.display()
    );
    let file = folder.join("arriero.yaml");
    fs::write(&file, complete(&text)).expect("written");
    Program::run(&file).await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_order_without_the_token_says_where_it_is_taken_from() {
    let (folder, elsewhere) = (tempfile::tempdir().expect("a folder"), tempfile::tempdir().expect("a folder"));
    let program = with_a_token(folder.path()).await;
    let words = ["queue", "pause", "--admin", &program.admin().to_string()];
    let without = finish(arriero(&words, elsewhere.path())).await;
    assert!(without.code == Some(1) && without.err.contains("token_file"), "{without:?}");
    let with = finish(arriero(&words, folder.path())).await;
    assert_eq!(with.code, Some(0), "{with:?}");
}
