//! Docker containers, out of the answers of the Engine API (v1.24 and later).

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// What is known of Docker.
#[derive(Clone, Debug)]
pub enum Engine {
    /// There is no socket, so nothing is known.
    Absent,
    /// There is a socket, and it does not answer.
    Failed(String),
    /// The containers.
    There(Vec<Container>),
}

impl Engine {
    /// All containers; none where nothing is known.
    pub fn containers(&self) -> &[Container] {
        match self {
            Self::There(containers) => containers,
            Self::Absent | Self::Failed(_) => &[],
        }
    }

    /// Arriero's own container: that of this name, or the one that says so by itself.
    pub fn own(&self, name: Option<&str>) -> Option<&Container> {
        let all = self.containers();
        match name {
            Some(name) => all.iter().find(|one| one.name == name || one.id.starts_with(name)),
            None => all.iter().find(|one| one.is_arriero()),
        }
    }

    /// The container behind a host and port that a server's URL has.
    pub fn behind(&self, host: &str, port: u16) -> Option<&Container> {
        let is_local = host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback());
        let published = |one: &&Container| one.ports.iter().any(|bound| bound.public == Some(port));
        self.containers().iter().find(|one| if is_local { published(one) } else { one.hosts.contains(host) })
    }
}

/// A port of a container.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Port {
    /// Inside.
    pub private: u16,
    /// Outside, where it is published.
    pub public: Option<u16>,
    /// On which address.
    pub address: String,
}

/// A folder or file that a container gets from outside.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Mount {
    /// `bind`, `volume` or `tmpfs`.
    pub kind: String,
    /// Where it comes from.
    pub source: String,
    /// Where it is inside.
    pub destination: String,
}

/// A container.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Container {
    /// Its id.
    pub id: String,
    /// Its name, without the slash.
    pub name: String,
    /// Its image.
    pub image: String,
    /// Its service in Compose.
    pub service: Option<String>,
    /// Its project in Compose.
    pub project: Option<String>,
    /// What it runs.
    pub command: Vec<String>,
    /// `running`, `restarting`, `exited`, `paused`, `created`, `dead`.
    pub state: String,
    /// `healthy`, `unhealthy`, `starting`; none without a health check.
    pub health: Option<String>,
    /// What the last health check said.
    pub health_output: String,
    /// There is a health check.
    pub has_health_check: bool,
    /// The kernel ended it for want of memory.
    pub oom_killed: bool,
    /// How it ended last.
    pub exit_code: i64,
    /// How often it was started again.
    pub restarts: u64,
    /// When it was started last, in seconds since 1970.
    pub started: Option<i64>,
    /// `no`, `always`, `unless-stopped`, `on-failure`.
    pub restart_policy: String,
    /// Seconds from SIGTERM to SIGKILL.
    pub stop_timeout: u64,
    /// Most memory in bytes; none where there is no limit.
    pub memory_limit: Option<u64>,
    /// Memory in use, in bytes.
    pub memory_used: Option<u64>,
    /// How its output is kept.
    pub log_driver: String,
    /// What that output may take at most.
    pub log_limit: Option<String>,
    /// Its output is that of a terminal.
    pub terminal: bool,
    /// Its mounts.
    pub mounts: Vec<Mount>,
    /// Its ports.
    pub ports: Vec<Port>,
    /// Its environment.
    pub environment: BTreeMap<String, String>,
    /// Names and addresses by which others reach it.
    pub hosts: BTreeSet<String>,
    /// Lines of its output within the last hour that tell of errors.
    pub errors: Vec<String>,
}

/// How long Docker waits when nothing is said.
const DEFAULT_STOP: u64 = 10;

impl Container {
    /// Out of the answer to `GET /containers/{id}/json`.
    pub fn parse(value: &Value) -> Option<Self> {
        let text = |pointer: &str| value.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned();
        let number = |pointer: &str| value.pointer(pointer).and_then(Value::as_u64);
        let label = |name: &str| value["Config"]["Labels"][name].as_str().map(str::to_owned);
        let list = |pointer: &str| value.pointer(pointer).and_then(Value::as_array).cloned().unwrap_or_default();
        let words = |pointer: &str| list(pointer).iter().filter_map(|one| one.as_str().map(str::to_owned)).collect();
        let id = value["Id"].as_str()?.to_owned();
        let name = text("/Name").trim_start_matches('/').to_owned();
        let command: Vec<String> = words("/Config/Entrypoint");
        let more: Vec<String> = words("/Config/Cmd");
        let environment: Vec<String> = words("/Config/Env");
        let health = value.pointer("/State/Health");
        let health_output = health.and_then(|health| health["Log"].as_array()?.last()?["Output"].as_str());
        let test = list("/Config/Healthcheck/Test");
        let has_health_check = test.first().and_then(Value::as_str).is_some_and(|first| first != "NONE");
        let log_driver = text("/HostConfig/LogConfig/Type");
        let mut container = Self {
            name,
            image: text("/Config/Image"),
            service: label("com.docker.compose.service"),
            project: label("com.docker.compose.project"),
            command: [command, more].concat(),
            state: text("/State/Status"),
            health: health
                .and_then(|health| health["Status"].as_str())
                .filter(|word| *word != "none")
                .map(str::to_owned),
            health_output: health_output.unwrap_or_default().trim().to_owned(),
            has_health_check,
            oom_killed: value["State"]["OOMKilled"].as_bool().unwrap_or_default(),
            exit_code: value["State"]["ExitCode"].as_i64().unwrap_or_default(),
            restarts: number("/RestartCount").unwrap_or_default(),
            started: OffsetDateTime::parse(&text("/State/StartedAt"), &Rfc3339)
                .ok()
                .map(OffsetDateTime::unix_timestamp),
            restart_policy: text("/HostConfig/RestartPolicy/Name"),
            stop_timeout: number("/Config/StopTimeout").unwrap_or(DEFAULT_STOP),
            memory_limit: number("/HostConfig/Memory").filter(|bytes| *bytes > 0),
            memory_used: None,
            log_limit: value["HostConfig"]["LogConfig"]["Config"]["max-size"].as_str().map(str::to_owned),
            log_driver,
            terminal: value["Config"]["Tty"].as_bool().unwrap_or_default(),
            mounts: list("/Mounts").iter().map(mount).collect(),
            ports: ports(&value["NetworkSettings"]["Ports"]),
            environment: environment
                .iter()
                .filter_map(|one| one.split_once('='))
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .collect(),
            hosts: BTreeSet::new(),
            errors: Vec::new(),
            id,
        };
        container.hosts = hosts(value, &container);
        Some(container)
    }

    /// Takes what `GET /containers/{id}/stats` tells. The page cache is no use of memory.
    pub fn measured(&mut self, stats: &Value) {
        let memory = &stats["memory_stats"];
        let cache = ["inactive_file", "total_inactive_file"];
        let cache = cache.iter().find_map(|name| memory["stats"][*name].as_u64()).unwrap_or_default();
        self.memory_used = memory["usage"].as_u64().map(|used| used.saturating_sub(cache));
    }

    /// Whether Arriero runs in it, by its command, service or image.
    fn is_arriero(&self) -> bool {
        let named =
            |text: &str| text.rsplit('/').next().is_some_and(|last| last.split([':', '@']).next() == Some("arriero"));
        self.command.first().is_some_and(|program| named(program))
            || self.service.as_deref() == Some("arriero")
            || named(&self.image)
    }

    /// A number in its environment.
    pub fn number(&self, name: &str) -> Option<u64> {
        self.environment.get(name)?.trim().parse().ok()
    }
}

fn mount(value: &Value) -> Mount {
    let text = |name: &str| value[name].as_str().unwrap_or_default().to_owned();
    Mount { kind: text("Type"), source: text("Source"), destination: text("Destination") }
}

/// Out of `NetworkSettings.Ports`: `{"8080/tcp": [{"HostIp": "0.0.0.0", "HostPort": "80"}], "5100/tcp": null}`.
fn ports(value: &Value) -> Vec<Port> {
    let mut found = Vec::new();
    for (name, bindings) in value.as_object().into_iter().flatten() {
        let Some(private) = name.split('/').next().and_then(|port| port.parse().ok()) else { continue };
        let bindings = bindings.as_array().map(Vec::as_slice).unwrap_or_default();
        if bindings.is_empty() {
            found.push(Port { private, ..Port::default() });
        }
        for binding in bindings {
            let text = |name: &str| binding[name].as_str().unwrap_or_default();
            found.push(Port { private, public: text("HostPort").parse().ok(), address: text("HostIp").to_owned() });
        }
    }
    found
}

fn hosts(value: &Value, container: &Container) -> BTreeSet<String> {
    let mut found: BTreeSet<String> = [container.name.clone(), container.id.chars().take(12).collect()].into();
    found.extend(container.service.clone());
    found.extend(value["Config"]["Hostname"].as_str().map(str::to_owned));
    for network in value["NetworkSettings"]["Networks"].as_object().into_iter().flat_map(|all| all.values()) {
        let aliases = network["Aliases"].as_array().into_iter().flatten();
        found.extend(aliases.filter_map(|alias| alias.as_str().map(str::to_owned)));
        found.extend(network["IPAddress"].as_str().map(str::to_owned));
    }
    found.retain(|host| !host.is_empty());
    found
}

/// The text of a container's output: plain where it is a terminal's, else in frames with a head of 8 bytes.
pub fn output(bytes: &[u8], terminal: bool) -> String {
    if terminal {
        return String::from_utf8_lossy(bytes).into_owned();
    }
    let (mut rest, mut text) = (bytes, Vec::new());
    while let Some((head, behind)) = rest.split_first_chunk::<8>() {
        let length = usize::try_from(u32::from_be_bytes([head[4], head[5], head[6], head[7]])).unwrap_or(usize::MAX);
        let length = length.min(behind.len());
        text.extend_from_slice(&behind[..length]);
        rest = &behind[length..];
    }
    String::from_utf8_lossy(&text).into_owned()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_container_is_read_from_the_answer_of_the_engine() {
        let value = json!({
            "Id": "0123456789abcdef", "Name": "/stack-ollama-1", "RestartCount": 3,
            "State": { "Status": "running", "StartedAt": "1970-01-01T00:01:00.5Z", "OOMKilled": true, "ExitCode": 137,
                "Health": { "Status": "unhealthy", "Log": [{ "Output": "old" }, { "Output": "refused\n" }] } },
            "Config": { "Image": "ollama/ollama:latest", "Hostname": "0123456789ab", "Tty": false, "StopTimeout": 310,
                "Entrypoint": ["/bin/ollama"], "Cmd": ["serve"], "Env": ["OLLAMA_NUM_PARALLEL=2", "A=b=c"],
                "Healthcheck": { "Test": ["CMD", "ollama", "list"] },
                "Labels": { "com.docker.compose.service": "ollama", "com.docker.compose.project": "stack" } },
            "HostConfig": { "RestartPolicy": { "Name": "always" }, "Memory": 1_073_741_824_u64,
                "LogConfig": { "Type": "json-file", "Config": { "max-size": "10m" } } },
            "Mounts": [{ "Type": "volume", "Source": "/var/lib/docker/x", "Destination": "/root/.ollama" }],
            "NetworkSettings": { "Ports": { "11434/tcp": [{ "HostIp": "0.0.0.0", "HostPort": "21434" }], "9/tcp": null },
                "Networks": { "n": { "Aliases": ["gpu"], "IPAddress": "172.18.0.2" } } },
        });
        let one = Container::parse(&value).expect("a container");
        assert_eq!((one.name.as_str(), one.restarts, one.exit_code, one.oom_killed), ("stack-ollama-1", 3, 137, true));
        assert_eq!(one.started, Some(60));
        assert_eq!((one.health.as_deref(), one.health_output.as_str()), (Some("unhealthy"), "refused"));
        assert_eq!((one.stop_timeout, one.memory_limit, one.log_limit.as_deref()), (310, Some(1 << 30), Some("10m")));
        assert_eq!((one.number("OLLAMA_NUM_PARALLEL"), one.environment["A"].as_str()), (Some(2), "b=c"));
        assert!(one.has_health_check && !one.is_arriero());
        let engine = Engine::There(vec![one]);
        for (host, port) in [("ollama", 1), ("gpu", 1), ("172.18.0.2", 1), ("stack-ollama-1", 1), ("127.0.0.1", 21434)]
        {
            assert!(engine.behind(host, port).is_some(), "{host}");
        }
        assert!(engine.behind("127.0.0.1", 11434).is_none() && engine.behind("other", 1).is_none());
        assert!(Container::parse(&json!({})).is_none());
    }

    #[test]
    fn arrieros_own_container_is_known_by_what_it_runs() {
        let container = |command: &str, image: &str, service: Option<&str>| Container {
            name: "x".to_owned(),
            id: "abc".to_owned(),
            command: vec![command.to_owned()],
            image: image.to_owned(),
            service: service.map(str::to_owned),
            ..Container::default()
        };
        assert!(container("arriero", "private:1", None).is_arriero());
        assert!(container("/bin/x", "ghcr.io/someone/arriero:1.2", None).is_arriero());
        assert!(container("/bin/x", "arriero@sha256:00", None).is_arriero());
        assert!(container("/bin/x", "y", Some("arriero")).is_arriero());
        assert!(!container("/bin/x", "someone/arriero-dashboard", Some("web")).is_arriero());
        let engine = Engine::There(vec![container("/bin/x", "y", None)]);
        assert!(engine.own(None).is_none() && engine.own(Some("x")).is_some() && engine.own(Some("ab")).is_some());
        assert!(engine.own(Some("z")).is_none() && Engine::Absent.own(Some("x")).is_none());
    }

    #[test]
    fn output_comes_in_frames_unless_it_is_a_terminals() {
        let frames = [
            &[1, 0, 0, 0, 0, 0, 0, 3][..],
            b"one",
            &[2, 0, 0, 0, 0, 0, 0, 4],
            b" two",
            &[1, 0, 0, 0, 0, 0, 0, 9],
            b"x",
        ];
        assert_eq!(output(&frames.concat(), false), "one twox");
        assert_eq!(output(b"plain", true), "plain");
        assert_eq!(output(&[1, 0], false), "");
    }
}
