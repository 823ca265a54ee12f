//! Looks at a deployment: the configuration, the running process, the servers, Docker, the machine. Nothing is judged
//! here, and nothing is changed.

use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use http::Method;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::facts::{ConfigFacts, Facts, Good, OpenAdmin, Running};
use crate::cli::AdminArguments;
use crate::cli::admin_client::{self, Problem, Question};
use crate::clock;
use crate::config::types::{Admin, Config};
use crate::config::{AdminAddress, HostPort, Loaded, keys};
use crate::fleet::compile::{Surroundings, compile};
use crate::fleet::reload::Source;
use crate::probe::{Folders, look_at_process};
use crate::telemetry::metrics::Metrics;

pub mod docker;
mod exchange;
mod servers;

/// How to look.
pub struct How<'a> {
    /// Where the running process and the configuration are.
    pub admin: &'a AdminArguments,
    /// Docker's socket, where somebody named it.
    pub docker_socket: Option<&'a Path>,
    /// Whether servers are asked.
    pub servers: bool,
    /// How long each step of each question may take.
    pub limit: Duration,
}

/// Looks at everything.
///
/// # Errors
/// When the system gives no thread for it.
pub fn gather(how: &How<'_>) -> std::io::Result<Facts> {
    let file = how.admin.config.clone();
    let config = configuration(&file);
    let (admin, running) = ask_process(how.admin, config.good().map(|good| &good.config));
    let targets = match (config.good(), &running) {
        _ if !how.servers => Vec::new(),
        (Some(good), _) => servers::of_config(&good.config),
        (None, Ok(running)) => servers::of_running(running),
        (None, Err(_)) => Vec::new(),
    };
    let docker_host = std::env::var("DOCKER_HOST").ok();
    let (socket, is_named) = docker::socket(how.docker_socket, docker_host.as_deref());
    let addresses = match (&running, config.good()) {
        (Ok(_), Some(good)) => good.config.listeners.iter().map(|listener| listener.address.clone()).collect(),
        _ => Vec::new(),
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (servers, engine, closed_listeners, open_admin) = runtime.block_on(async {
        tokio::join!(
            servers::ask(targets, how.limit),
            docker::look(&socket, is_named, how.limit),
            closed(addresses, how.limit),
            open_admin(config.good().map(|good| &good.config.admin)),
        )
    });
    let folders = folders(config.good().map(|good| &good.config));
    let bad_folders = bad_folders(&folders);
    let machine = look_at_process(&folders);
    let now = clock::unix_seconds();
    Ok(Facts { file, config, running, admin, closed_listeners, open_admin, servers, engine, machine, bad_folders, now })
}

fn configuration(file: &Path) -> ConfigFacts {
    if !file.exists() {
        return ConfigFacts::Missing;
    }
    let loaded = match Source::File(file.to_path_buf()).load() {
        Ok(loaded) => loaded,
        Err(diagnostics) => return ConfigFacts::Invalid(diagnostics),
    };
    compiled(loaded)
}

/// A configuration that was read, with all its defaults resolved.
pub fn compiled(loaded: Loaded) -> ConfigFacts {
    let mut warnings = loaded.warnings;
    match loaded.config.auth.keys_file.as_deref().map(|file| keys::check(Path::new(file))) {
        Some(Ok(more)) => warnings.extend(more),
        Some(Err(diagnostics)) => return ConfigFacts::Invalid(diagnostics),
        None => {}
    }
    let metrics = Arc::new(Metrics::default());
    let around = Surroundings {
        servers: std::collections::HashMap::new(),
        metrics: &metrics,
        now: clock::now(),
        unix_time: clock::unix_time().as_secs_f64(),
    };
    match compile(&loaded.config, loaded.hash, &around) {
        Ok(snapshot) => ConfigFacts::Good(Box::new(Good { config: loaded.config, snapshot, warnings })),
        Err(error) => ConfigFacts::Invalid(crate::config::Diagnostics(vec![crate::config::Diagnostic {
            code: crate::config::codes::INVALID_VALUE.id,
            severity: crate::config::Severity::Error,
            message: error.problem,
            file: String::new(),
            line: 0,
            column: 0,
            length: 0,
            hint: None,
            path: error.path,
            excerpt: None,
        }])),
    }
}

/// What the running process says; where it is looked for stands first.
fn ask_process(arguments: &AdminArguments, config: Option<&Config>) -> (String, Result<Running, String>) {
    // A file that is refused does not say where the process is that refused it: it may still be where it is by default.
    let default = || config.map_or_else(|| Admin::default().address, |config| config.admin.address.clone());
    let address = arguments.admin.clone().unwrap_or_else(default);
    let known = AdminArguments { config: arguments.config.clone(), admin: Some(address.clone()) };
    let health = match ask::<super::facts::Health>(&known, "/health") {
        Ok(Some(health)) => health,
        Ok(None) => return (address, Err("whoever answers there is not Arriero, or another version of it".to_owned())),
        Err(error) => return (address, Err(error)),
    };
    let list = |path: &str, name: &str| {
        let mut value: Value = ask(&known, path).ok().flatten().unwrap_or_default();
        value[name].take()
    };
    let flapping = list("/recovery-failures", "servers");
    let flapping = flapping.as_array().into_iter().flatten().filter(|one| one["pattern"] == "flapping");
    let running = Running {
        health,
        not_ready: not_ready(&known),
        servers: typed(list("/servers", "servers")),
        circuits: typed(list("/circuit-breakers", "circuitBreakers")),
        bans: typed(list("/bans", "bans")),
        queues: typed(list("/queue", "upstreams")),
        gpus: typed(list("/gpus", "servers")),
        flapping: flapping.filter_map(|one| one["serverId"].as_str().map(str::to_owned)).collect(),
        messages: typed(list("/logs?level=warn&limit=200", "logs")),
    };
    (address, Ok(running))
}

fn typed<T: DeserializeOwned>(list: Value) -> Vec<T> {
    serde_json::from_value(list).unwrap_or_default()
}

/// Asks a path below the prefix; `None` where the answer is not of that kind.
fn ask<T: DeserializeOwned>(arguments: &AdminArguments, path: &str) -> Result<Option<T>, String> {
    let question = Question::new(Method::GET, &format!("/api/orchestrator{path}"));
    match admin_client::ask(arguments, question) {
        Ok(answer) if answer.status == 200 => Ok(serde_json::from_slice(&answer.body).ok()),
        Ok(_) => Ok(None),
        Err(Problem::Unreachable { error, .. }) => Err(error),
        Err(Problem::Config(diagnostics)) => Err(diagnostics.to_string()),
        Err(other) => Err(other.text()),
    }
}

fn not_ready(arguments: &AdminArguments) -> Option<String> {
    let answer = admin_client::ask(arguments, Question::new(Method::GET, "/health/ready")).ok()?;
    if answer.status == 200 {
        return None;
    }
    let body: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
    Some(body["reason"].as_str().unwrap_or("it does not say why").to_owned())
}

/// Listeners that take no connection. Port 0 cannot be looked up.
async fn closed(addresses: Vec<String>, limit: Duration) -> Vec<(String, String)> {
    let mut found = Vec::new();
    for address in addresses {
        let Ok(at) = HostPort::parse(&address) else { continue };
        if at.port == 0 {
            continue;
        }
        let host = match at.host.as_str() {
            "0.0.0.0" => "127.0.0.1",
            "::" => "::1",
            host => host,
        };
        let error = match tokio::net::lookup_host((host, at.port)).await {
            Ok(mut all) => match all.next() {
                Some(at) => servers::connect(at, limit).await.err(),
                None => Some("the name has no address".to_owned()),
            },
            Err(error) => Some(error.to_string()),
        };
        found.extend(error.map(|error| (address, error)));
    }
    found
}

/// How the admin listener is open to others, where it is.
async fn open_admin(admin: Option<&Admin>) -> Option<OpenAdmin> {
    let admin = admin?;
    match AdminAddress::parse(&admin.address).ok()? {
        AdminAddress::Unix(path) => {
            let path = PathBuf::from(path);
            let mode = std::fs::metadata(&path).ok()?.permissions().mode();
            (mode & 0o002 != 0).then_some(OpenAdmin::Socket(path))
        }
        AdminAddress::Tcp(at) => {
            // A name may stand for another address than it seems.
            let found: Vec<SocketAddr> = tokio::net::lookup_host((at.host.as_str(), at.port)).await.ok()?.collect();
            let is_open = found.iter().any(|address| !address.ip().is_loopback());
            let how = if admin.token_file.is_some() { OpenAdmin::WithToken } else { OpenAdmin::NoToken };
            is_open.then(|| how(admin.address.clone()))
        }
    }
}

fn folders(config: Option<&Config>) -> Folders {
    let server = config.map(|config| &config.server);
    Folders {
        data: server.and_then(|server| server.data_dir.clone()).map(PathBuf::from),
        temp: server.and_then(|server| server.temp_dir.clone()).map_or_else(std::env::temp_dir, PathBuf::from),
    }
}

/// Folders that cannot be written to, and why.
fn bad_folders(folders: &Folders) -> Vec<(&'static str, PathBuf, String)> {
    let data = folders.data.as_ref().map(|path| ("server.data_dir", path));
    let all = data.into_iter().chain([("server.temp_dir", &folders.temp)]);
    let fault = |(key, path): (&'static str, &PathBuf)| {
        let why = match std::fs::metadata(path) {
            Err(error) => error.to_string(),
            Ok(found) if !found.is_dir() => "it is no folder".to_owned(),
            Ok(_) => {
                let may = rustix::fs::access(path, rustix::fs::Access::WRITE_OK | rustix::fs::Access::EXEC_OK);
                format!("this user may not write there: {}", may.err()?)
            }
        };
        Some((key, path.clone(), why))
    };
    all.filter_map(fault).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::facts::{SeenMessage, SeenShare};
    use super::*;

    #[test]
    fn lists_of_the_process_are_read_and_others_are_empty() {
        let told: Vec<SeenMessage> = typed(json!([
            { "seq": 7, "at": "2026-11-28T04:00:00Z", "level": "WARN", "target": "arriero", "message": "refused",
              "fields": { "error": "no" } },
            { "message": "bare" },
        ]));
        assert_eq!((told.len(), told[0].fields["error"].as_str(), told[1].level.as_str()), (2, Some("no"), ""));
        assert!(typed::<SeenMessage>(Value::Null).is_empty());
        assert!(typed::<SeenShare>(json!({ "not": "a list" })).is_empty());
    }

    #[test]
    fn folders_that_cannot_be_used_are_told() {
        let folder = tempfile::tempdir().unwrap();
        let (missing, file) = (folder.path().join("missing"), folder.path().join("file"));
        std::fs::write(&file, "").unwrap();
        let bad = bad_folders(&Folders { data: Some(missing), temp: file });
        assert_eq!(bad.iter().map(|(key, ..)| *key).collect::<Vec<_>>(), ["server.data_dir", "server.temp_dir"]);
        assert!(bad[1].2.contains("no folder"), "{bad:?}");
        assert_eq!(bad_folders(&Folders { data: None, temp: folder.path().to_owned() }), []);
    }

    #[tokio::test]
    async fn listeners_that_take_no_connections_are_told() {
        let open = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let taken = open.local_addr().unwrap().to_string();
        let gone = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let free = gone.local_addr().unwrap().to_string();
        drop(gone);
        let all = vec![taken, free.clone(), "127.0.0.1:0".to_owned()];
        let found = closed(all, Duration::from_secs(5)).await;
        assert_eq!(found.iter().map(|(address, _)| address.clone()).collect::<Vec<_>>(), [free]);
    }

    #[tokio::test]
    async fn an_admin_listener_on_other_addresses_is_told() {
        let admin = |address: &str, token: bool| Admin {
            address: address.to_owned(),
            token_file: token.then(|| "token".to_owned()),
            ..Admin::default()
        };
        assert_eq!(open_admin(None).await, None);
        assert_eq!(open_admin(Some(&admin("127.0.0.1:5100", false))).await, None);
        let open = open_admin(Some(&admin("192.0.2.1:5100", false))).await;
        assert_eq!(open, Some(OpenAdmin::NoToken("192.0.2.1:5100".to_owned())));
        let guarded = open_admin(Some(&admin("[::]:5100", true))).await;
        assert_eq!(guarded, Some(OpenAdmin::WithToken("[::]:5100".to_owned())));
    }
}
