//! The commands of an operations guide that operators have from the orchestrator before us, run as they stand there: by a
//! shell, with curl, one after the other. Only names in braces and addresses are filled in.

mod support;

use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};
use support::admin::{PREFIX, json as json_of};
use support::eventually;
use support::fleet::{fleet, generate, send, send_with};
use support::process::Program;
use support::wire::proxy;

const GUIDE: &str = include_str!("fixtures/runbook/commands.sh");
/// How many commands the guide has: none is passed over.
const COMMANDS: usize = 57;

/// The commands, each with the lines that continue it.
fn commands() -> Vec<String> {
    let mut commands = Vec::new();
    let mut open = String::new();
    for line in GUIDE.lines().filter(|line| !line.starts_with('#')) {
        open.push_str(line);
        if line.ends_with('\\') {
            open.push('\n');
        } else {
            commands.push(std::mem::take(&mut open));
        }
    }
    commands
}

/// What an answer must have, by the end of the command's path (longest first) and its method.
const FIELDS: &[(&str, &str, &[&str])] = &[
    ("GET", "/health", &["/status", "/uptime", "/version", "/servers/healthy", "/servers/total", "/queue"]),
    ("GET", "/api/orchestrator/health", &["/status", "/uptime", "/version", "/servers/healthy", "/queue"]),
    ("GET", "/queue", &["/success", "/queue", "/paused"]),
    ("GET", "/servers", &["/servers/0/id", "/servers/0/url", "/servers/0/healthy", "/servers/0/maxConcurrency"]),
    ("GET", "/in-flight", &["/total", "/inFlight/0/serverId", "/inFlight/0/byModel"]),
    ("GET", "/circuit-breakers", &["/circuitBreakers/0/serverId", "/circuitBreakers/0/state"]),
    ("GET", "/models/status", &["/success", "/models"]),
    ("GET", "/analytics/summary", &["/success"]),
    ("GET", "/analytics/server-performance", &["/success"]),
    ("GET", "/analytics/errors", &["/success"]),
    ("POST", "/reset", &["/success"]),
    ("PATCH", "/config/queue", &["/success", "/hash"]),
    ("POST", "/queue/pause", &["/paused"]),
    ("DELETE", "/servers/{server-id}", &["/success", "/message"]),
    ("POST", "/servers/add", &["/success", "/message"]),
    ("POST", "/drain", &["/success", "/operation/state", "/inFlightRequests"]),
    ("POST", "/undrain", &["/success", "/operation/state"]),
    ("POST", "/maintenance", &["/success", "/operation/state"]),
    ("GET", "/circuit-breakers/{serverId}/{model}", &["/key", "/stats/state", "/stats/failureCount"]),
    ("POST", "/open", &["/previousState", "/currentState"]),
    ("POST", "/close", &["/previousState", "/currentState"]),
    ("POST", "/half-open", &["/previousState", "/currentState"]),
    ("GET", "/recovery-failures", &["/success"]),
    ("GET", "/recovery-failures/{serverId}", &["/success"]),
    ("GET", "/history", &["/success"]),
    ("GET", "/analysis", &["/success"]),
    ("GET", "/circuit-breaker-impact", &["/success"]),
    ("POST", "/recovery-test", &["/success"]),
    ("GET", "/bans", &["/success", "/bans"]),
    ("DELETE", "/bans", &["/success", "/removed"]),
    ("DELETE", "/bans/server/{serverId}", &["/success", "/removed"]),
    ("DELETE", "/bans/model/{model}", &["/success", "/removed"]),
    ("DELETE", "/bans/{serverId}/{model}", &["/success", "/removed"]),
    ("GET", "/config", &["/config/upstreams", "/hash"]),
    ("GET", "/config/schema", &["/properties/upstreams"]),
    ("POST", "/config/reload", &["/success", "/result"]),
    ("POST", "/config/save", &["/success", "/path"]),
    ("PATCH", "/config/metrics", &["/success", "/hash"]),
    ("POST", "/config", &["/success", "/hash"]),
];

fn method(command: &str) -> &str {
    command.split_once("-X ").map_or("GET", |(_, rest)| rest.split_whitespace().next().unwrap_or_default())
}

fn path(command: &str) -> &str {
    let (_, url) = command.split_once("http://localhost:5100").expect("a URL of the guide");
    url.split_whitespace().next().expect("a path")
}

/// The fields of an answer; `None` for those that are no JSON.
fn fields(command: &str) -> Option<&'static [&'static str]> {
    let (method, path) = (method(command), path(command));
    if path.ends_with("/metrics") && method == "GET" {
        return None;
    }
    let fits = |row: &&(&str, &str, &'static [&'static str])| row.0 == method && path.ends_with(row.1);
    let row = FIELDS.iter().filter(fits).max_by_key(|row| row.1.len());
    Some(row.unwrap_or_else(|| panic!("no fields are known of `{command}`")).2)
}

struct Scene {
    program: Program,
    folder: tempfile::TempDir,
}

impl Scene {
    async fn give(&self, method: &str, path: &str, body: &Value) {
        let path = format!("{PREFIX}{path}");
        let answer = send_with(self.program.admin(), method, &path, "", body.to_string()).await;
        assert_eq!(answer.head.status, 200, "{path}: {}", answer.text());
        assert_eq!(json_of(&answer)["success"], true);
    }

    /// What must be there for a command to have something to do.
    async fn prepare(&self, command: &str) {
        if method(command) == "DELETE" && path(command).contains("/bans") {
            self.give("POST", "/bans", &json!({ "server": "s0", "model": "m" })).await;
        }
        if command.contains("@config-backup.json") {
            let backup = std::fs::read_dir(self.folder.path()).expect("the folder");
            let name = |entry: &std::fs::DirEntry| entry.file_name().to_string_lossy().starts_with("config-");
            let backup =
                backup.map(|entry| entry.expect("an entry")).find(name).expect("the backup of the command before");
            std::fs::copy(backup.path(), self.folder.path().join("config-backup.json")).expect("copied");
        }
    }

    /// Runs a command; answers its status and body.
    fn run(&self, command: &str) -> (u16, String) {
        let file = self.folder.path().join("arriero.yaml");
        let filled = command
            .replace("http://localhost:5100", &format!("http://{}", self.program.admin()))
            .replace("{server-id}", "s2")
            .replace("{serverId}", "s0")
            .replace("{model}", "m")
            .replace("/path/to/config.yaml", file.to_str().expect("text"))
            .replace("watch curl", "curl");
        // The shell does what is behind a `|` or `>`; the status goes a way of its own.
        let status = self.folder.path().join("status");
        let noted = format!("-sS --max-time 60 -w '%{{stderr}}%{{http_code}}' 2> {}", status.display());
        let filled = filled.replacen("curl ", &format!("curl {noted} "), 1);
        let output =
            Command::new("bash").args(["-o", "pipefail", "-c", &filled]).current_dir(self.folder.path()).output();
        let output = output.expect("a shell");
        let said = std::fs::read_to_string(status).expect("the status");
        assert!(output.status.success(), "`{command}`: {said} {}", String::from_utf8_lossy(&output.stderr));
        (
            said.trim().parse().unwrap_or_else(|_| panic!("`{command}`: {said}")),
            String::from_utf8_lossy(&output.stdout).into_owned(),
        )
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_command_of_the_guide_does_what_it_says() {
    let fleet = fleet(3, &["m"]).await;
    let folder = tempfile::tempdir().expect("a folder");
    let servers: String = fleet
        .urls()
        .iter()
        .enumerate()
        .map(|(number, url)| format!("      - {{ name: s{number}, url: \"{url}\", max_in_flight: 4 }}\n"))
        .collect();
    let text = format!(
        "routes: [{{ name: all, upstream: fleet }}]\nupstreams:\n  fleet:\n    kind: ollama\n    servers:\n{servers}    \
         inventory: {{ interval: 50ms }}\n    recovery: {{ quiet: 0s }}\nserver: {{ data_dir: ./data }}\n"
    );
    let file = folder.path().join("arriero.yaml");
    std::fs::write(&file, support::process::complete(&text)).expect("written");
    let program = Program::run(&file).await;
    assert_eq!(send(program.address(), "POST", "/api/generate", generate("m")).await.head.status, 200);
    let scene = Scene { program, folder };
    eventually("the model is known to be in memory", || async {
        let answer = send(scene.program.admin(), "GET", &format!("{PREFIX}/servers"), "").await;
        json_of(&answer)["servers"]
            .as_array()
            .expect("a list")
            .iter()
            .any(|one| one["loaded"].as_array().is_some_and(|loaded| !loaded.is_empty()))
    })
    .await;
    let commands = commands();
    assert_eq!(commands.len(), COMMANDS);
    for command in &commands {
        scene.prepare(command).await;
        let (status, body) = scene.run(command);
        assert!((200..300).contains(&status), "`{command}`: {status} {body}");
        if command.contains("| grep") {
            assert!(!body.trim().is_empty(), "`{command}` finds nothing");
            continue;
        }
        if command.contains("> config-") {
            continue;
        }
        let Some(fields) = fields(command) else { continue };
        let answer: Value = serde_json::from_str(&body).unwrap_or_else(|error| panic!("`{command}`: {error}: {body}"));
        for field in fields {
            assert!(answer.pointer(field).is_some_and(|value| !value.is_null()), "`{command}`: no {field} in {answer}");
        }
    }
    // What the commands changed is there: the guide adds a server, and puts a saved configuration back at the end.
    let servers = json_of(&send(scene.program.admin(), "GET", &format!("{PREFIX}/servers"), "").await);
    let names: Vec<&str> =
        servers["servers"].as_array().expect("a list").iter().filter_map(|one| one["id"].as_str()).collect();
    assert_eq!(names, ["s0", "s1", "new-server"]);
    assert!(
        std::fs::read_to_string(Path::new(&file)).expect("the file").contains("new-server"),
        "config/save wrote it"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_guide_works_on_a_unix_socket_too() {
    let fleet = fleet(1, &["m"]).await;
    let folder = tempfile::tempdir().expect("a folder");
    let socket = folder.path().join("admin.sock");
    let text =
        format!("{}admin: {{ address: \"unix:{}\" }}\n", support::ollama_yaml(&fleet.urls(), ""), socket.display());
    let proxy = proxy(text).await;
    let ask = |path: &str| {
        let socket = socket.clone();
        let url = format!("http://localhost{path}");
        let output = Command::new("curl").args(["-sf", "--unix-socket"]).arg(socket).arg(url).output().expect("curl");
        assert!(output.status.success(), "{output:?}");
        serde_json::from_slice::<Value>(&output.stdout).expect("JSON")
    };
    assert_eq!(ask("/health")["servers"]["total"], 1);
    assert_eq!(ask("/api/orchestrator/queue")["paused"], false);
    drop(proxy);
}
