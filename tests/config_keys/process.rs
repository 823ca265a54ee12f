//! Keys of the process: the running program shows that it reads them.

use std::fs;
use std::path::Path;

use arriero::config;
use arriero::demo::{Host, HostConfig};
use futures_util::FutureExt;
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::looks::text;
use crate::support::eventually;
use crate::support::fleet::{Small, generate, send, send_with, sized};
use crate::support::process::{Program, arriero, finish};
use crate::support::wire::{H1, ask, get};
use crate::{Proof, base, compiled, folder, set};

/// The proof of each.
pub const PROCESS: &[(&str, Proof)] = &[
    ("version", || version().boxed()),
    ("routes[].auth", || route_auth().boxed()),
    ("auth.keys_file", || keys_file().boxed()),
    ("routes[].intercept_errors", || async { intercept_errors() }.boxed()),
    ("listeners[].address", || listener_address().boxed()),
    ("admin.address", || admin_address().boxed()),
    ("admin.token_file", || admin_token().boxed()),
    ("admin.tokens[].name", || admin_tokens().boxed()),
    ("admin.tokens[].token_file", || admin_tokens().boxed()),
    ("admin.tokens[].scope", || admin_tokens().boxed()),
    ("admin.without_token", || admin_tokens().boxed()),
    ("admin.debug", || debug_calls().boxed()),
    ("admin.server_networks", || server_networks().boxed()),
    ("server.threads", || threads().boxed()),
    ("server.temp_dir", || temp_dir().boxed()),
    ("server.data_dir", || data_dir().boxed()),
    ("server.body_budget", || body_budget().boxed()),
    ("history.requests", || kept("history.requests", "/requests").boxed()),
    ("history.max_requests", || max_requests().boxed()),
    ("history.aggregates", || kept("history.aggregates", "/analytics/summary").boxed()),
    ("history.usage", || kept("history.usage", "/usage").boxed()),
    ("telemetry.access_log", || access_log().boxed()),
    ("telemetry.log_level", || log_level().boxed()),
];

fn intercept_errors() {
    let mut config = base("http://127.0.0.1:9");
    config["routes"][0]["error_pages"] = json!({ "4xx": "conf/arriero.yaml" });
    for intercept in [false, true] {
        config["routes"][0]["intercept_errors"] = json!(intercept);
        let snapshot = compiled(&config);
        assert_eq!(snapshot.routes[0].content.error_pages.page(404, true).is_some(), intercept);
        assert!(snapshot.routes[0].content.error_pages.page(404, false).is_some());
    }
}

/// Starts the program with these keys set.
async fn with(folder: &Path, url: &str, keys: &[(&str, Value)]) -> Program {
    let mut config = base(url);
    keys.iter().for_each(|(key, value)| set(&mut config, key, value.clone()));
    fs::write(folder.join("arriero.yaml"), config.to_string()).expect("written");
    Program::run(&folder.join("arriero.yaml")).await
}

async fn version() {
    let mut config = base("http://127.0.0.1:9");
    config["version"] = json!(2);
    let found = config::parse("keys", &config.to_string(), &|_| None).expect_err("a version that is not known");
    assert!(found.render(false).contains("version"), "{}", found.render(false));
}

async fn route_auth() {
    let folder = folder();
    fs::write(folder.path().join("keys.yaml"), "keys: []").expect("written");
    let mut config = base("http://127.0.0.1:9");
    let look = |config: &Value| text(compiled(config).routes[0].auth);
    assert_eq!(look(&config), "None");
    set(&mut config, "auth.keys_file", json!(folder.path().join("keys.yaml")));
    assert_eq!(look(&config), "Required");
    for (word, mode) in [("required", "Required"), ("optional", "Optional"), ("none", "None")] {
        set(&mut config, "routes[].auth", json!(word));
        assert_eq!(look(&config), mode);
    }
}

async fn keys_file() {
    let folder = folder();
    let mut config = base("http://127.0.0.1:9");
    set(&mut config, "auth.keys_file", json!(folder.path().join("nowhere.yaml")));
    fs::write(folder.path().join("arriero.yaml"), config.to_string()).expect("written");
    let ended = finish(arriero(&["run"], folder.path())).await;
    assert!(ended.code == Some(1) && ended.err.contains("nowhere.yaml"), "{ended:?}");
}

async fn listener_address() {
    let folder = folder();
    let program = with(folder.path(), "http://127.0.0.1:9", &[("listeners[].address", json!("127.0.0.2:0"))]).await;
    assert_eq!(program.address().ip().to_string(), "127.0.0.2");
    assert!(ask(program.address(), get("/")).await.head.status > 0);
}

async fn admin_address() {
    let folder = folder();
    let program = with(folder.path(), "http://127.0.0.1:9", &[("admin.address", json!("127.0.0.2:0"))]).await;
    assert_eq!(program.admin().ip().to_string(), "127.0.0.2");
    assert_eq!(send(program.admin(), "GET", "/health/live", "").await.head.status, 200);
}

async fn admin_token() {
    let folder = folder();
    fs::write(folder.path().join("token"), "secret\n").expect("written");
    let token = json!(folder.path().join("token"));
    let program = with(folder.path(), "http://127.0.0.1:9", &[("admin.token_file", token)]).await;
    let reload = async |field: &str| {
        send_with(program.admin(), "POST", "/api/orchestrator/config/reload", field, "").await.head.status
    };
    assert_eq!(reload("").await, 401);
    assert_eq!(reload("Authorization: Bearer secrets\r\n").await, 401);
    assert_eq!(reload("Authorization: Bearer secret\r\n").await, 200);
}

/// The name of a token, its file, its scope, and what is left without one.
async fn admin_tokens() {
    let folder = folder();
    fs::write(folder.path().join("token"), "secret\n").expect("written");
    let tokens =
        |scope: &str| json!([{ "name": "grafana", "token_file": folder.path().join("token"), "scope": scope }]);
    for (scope, without, drained, read) in [("read", "read", 403, 200), ("operate", "health", 404, 401)] {
        let keys = [("admin.tokens", tokens(scope)), ("admin.without_token", json!(without))];
        let program = with(folder.path(), "http://127.0.0.1:9", &keys).await;
        let field = "Authorization: Bearer secret\r\n";
        let answer = send_with(program.admin(), "POST", "/api/orchestrator/servers/x/drain", field, "").await;
        assert_eq!(answer.head.status, drained, "{}", answer.text());
        assert!(scope == "operate" || answer.text().contains("grafana"), "{}", answer.text());
        assert_eq!(send(program.admin(), "GET", "/api/orchestrator/servers", "").await.head.status, read);
        assert_eq!(send(program.admin(), "GET", "/health/live", "").await.head.status, 200);
    }
}

/// Where servers may be that are added at run time.
async fn server_networks() {
    let folder = folder();
    for (networks, status) in [(json!(["10.0.0.0/8"]), 422), (json!(["127.0.0.0/8"]), 200)] {
        let program = with(folder.path(), "http://127.0.0.1:9", &[("admin.server_networks", networks)]).await;
        let body = r#"{"id":"new","url":"http://127.0.0.1:8"}"#;
        let answer = send(program.admin(), "POST", "/api/orchestrator/servers/add", body).await;
        assert_eq!(answer.head.status, status, "{}", answer.text());
    }
}

/// Whether calls for developers are there.
async fn debug_calls() {
    let folder = folder();
    for (debug, status) in [("deny", 404), ("allow", 200)] {
        let program = with(folder.path(), "http://127.0.0.1:9", &[("admin.debug", json!(debug))]).await;
        let answer = send(program.admin(), "GET", "/api/multihost/debug/instance-info", "").await;
        assert_eq!(answer.head.status, status, "{}", answer.text());
    }
}

async fn threads() {
    let (one, other, url) = (folder(), folder(), "http://127.0.0.1:9");
    let few = with(one.path(), url, &[("server.threads", json!(4))]).await;
    let many = with(other.path(), url, &[("server.threads", json!(9))]).await;
    // Those that requests run on have a name, which each takes soon after it has begun.
    let count = |program: &Program| {
        let tasks = fs::read_dir(format!("/proc/{}/task", program.id())).expect("its threads").flatten();
        tasks.filter(|task| fs::read_to_string(task.path().join("comm")).is_ok_and(|name| name == "data\n")).count()
    };
    eventually("five more threads", || async { count(&few) > 0 && count(&many) == count(&few) + 5 }).await;
}

/// A host with a model, and a body for it that must be held: the model comes last.
async fn host() -> Host {
    Host::start(HostConfig::new("a").small_model("llava")).await.expect("a host")
}

async fn temp_dir() {
    let (host, folder, temporary) = (host().await, folder(), folder());
    let keys = [("server.temp_dir", json!(temporary.path())), ("server.body_memory", json!("64KiB"))];
    let program = with(folder.path(), &host.url(), &keys).await;
    let body = sized("llava", 1 << 20, false);
    let mut client = H1::connect(program.address()).await;
    client.send(format!("POST /api/generate HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n", body.len())).await;
    client.send(&body[..body.len() - 100]).await;
    let there = || {
        let open = fs::read_dir(format!("/proc/{}/fd", program.id())).expect("its files");
        open.flatten().filter_map(|file| fs::read_link(file.path()).ok()).any(|file| file.starts_with(temporary.path()))
    };
    eventually("a body is held in the folder", || async { there() }).await;
    assert_eq!(fs::read_dir(temporary.path()).expect("a folder").count(), 0, "the file has no name");
    client.send(&body[body.len() - 100..]).await;
    assert_eq!(client.reader.answer().await.head.status, 200);
}

async fn data_dir() {
    let (host, folder, data) = (host().await, folder(), folder());
    let mut program = with(folder.path(), &host.url(), &[("server.data_dir", json!(data.path()))]).await;
    assert_eq!(send(program.address(), "POST", "/api/generate", generate("llava")).await.head.status, 200);
    program.signal(Signal::TERM);
    program.ended().await;
    assert!(data.path().join("arriero.db").is_file());
}

/// The status of a question about the history, with a key that keeps nothing of what it asks for and without it.
async fn kept(key: &str, path: &str) {
    let (server, folder) = (Small::named("a").await, folder());
    let kind = ("upstreams.*.kind", json!("http"));
    let asked = async |program: &Program| {
        send(program.admin(), "GET", &format!("/api/orchestrator{path}"), "").await.head.status
    };
    let all = with(folder.path(), &server.url(), std::slice::from_ref(&kind)).await;
    assert_eq!(asked(&all).await, 200);
    let none = with(folder.path(), &server.url(), &[kind, (key, json!("0s"))]).await;
    assert_eq!(asked(&none).await, 409);
}

async fn max_requests() {
    let (server, folder) = (Small::named("a").await, folder());
    let keys = [("upstreams.*.kind", json!("http")), ("history.max_requests", json!(2))];
    let program = with(folder.path(), &server.url(), &keys).await;
    for _ in 0..5 {
        assert_eq!(ask(program.address(), get("/")).await.head.status, 200);
    }
    eventually("two of five are kept", || async {
        let show = async |path: &str| {
            let answer = send(program.admin(), "GET", &format!("/api/orchestrator{path}"), "").await;
            serde_json::from_slice::<Value>(&answer.body).expect("JSON")
        };
        show("/analytics/summary").await["requests"] == 5 && show("/requests").await["count"] == 2
    })
    .await;
}

async fn body_budget() {
    let (host, folder) = (host().await, folder());
    let keys = [("server.body_budget", json!("64KiB")), ("server.body_memory", json!("32KiB"))];
    let program = with(folder.path(), &host.url(), &keys).await;
    let ask = async |size| send(program.address(), "POST", "/api/generate", sized("llava", size, false)).await;
    let refused = ask(1 << 20).await;
    assert_eq!(refused.head.status, 503, "{}", refused.text());
    assert!(refused.head.field("retry-after").is_some(), "{}", refused.head.text);
    let small = send(program.address(), "POST", "/api/generate", generate("llava")).await;
    assert_eq!(small.head.status, 200, "{}", small.text());
}

async fn access_log() {
    let (server, folder) = (Small::named("a").await, folder());
    for (value, begin) in [("json", "{"), ("combined", "127.0.0.1 - - ["), ("off", "")] {
        let keys = [("upstreams.*.kind", json!("http")), ("telemetry.access_log", json!(value))];
        let mut program = with(folder.path(), &server.url(), &keys).await;
        assert_eq!(ask(program.address(), get("/")).await.head.status, 200);
        program.signal(Signal::TERM);
        let ended = program.ended().await;
        let lines: Vec<&str> = ended.out.lines().collect();
        assert_eq!(lines.len(), usize::from(value != "off"), "{value}: {ended:?}");
        assert!(lines.iter().all(|line| line.starts_with(begin)), "{value}: {ended:?}");
    }
}

async fn log_level() {
    let reloaded = async |level: &str| {
        let folder = folder();
        let mut program = with(folder.path(), "http://127.0.0.1:9", &[("telemetry.log_level", json!(level))]).await;
        let file = folder.path().join("arriero.yaml");
        let text = fs::read_to_string(&file).expect("a text");
        fs::write(&file, format!("# again\n{text}")).expect("written");
        // The second one changes nothing, which is worth a word only at `debug`.
        for _ in 0..2 {
            assert_eq!(send(program.admin(), "POST", "/api/orchestrator/config/reload", "").await.head.status, 200);
        }
        program.signal(Signal::TERM);
        program.ended().await.err
    };
    let (info, error, debug) = (reloaded("info").await, reloaded("error").await, reloaded("debug").await);
    assert!(info.contains("INFO") && !info.contains("DEBUG"), "{info}");
    assert!(!error.contains("INFO") && !error.contains("WARN"), "{error}");
    assert!(debug.contains("DEBUG"), "{debug}");
}
