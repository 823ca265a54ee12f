//! A Docker engine for tests: the Engine API (1.47) over a unix socket, with the answers of a real one for containers that
//! a test describes. Whatever it is asked is recorded.

use std::convert::Infallible;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::UnixListener;
use tokio::task::{JoinHandle, JoinSet};

/// A container.
#[derive(Clone)]
pub struct Container {
    inspect: Value,
    memory: u64,
    log: Vec<String>,
}

impl Container {
    /// One that runs well and is declared as it should be.
    pub fn new(number: u8, name: &str, image: &str) -> Self {
        let id: String = format!("{number:02x}").repeat(32);
        let inspect = json!({
            "Id": id,
            "Created": "2026-11-01T09:00:00.000000000Z",
            "Path": "/bin/true",
            "Args": [],
            "State": {
                "Status": "running", "Running": true, "Paused": false, "Restarting": false, "OOMKilled": false,
                "Dead": false, "Pid": 4711, "ExitCode": 0, "Error": "", "StartedAt": now(),
                "FinishedAt": "0001-01-01T00:00:00Z",
                "Health": { "Status": "healthy", "FailingStreak": 0, "Log": [
                    { "Start": "2026-11-01T09:00:11Z", "End": "2026-11-01T09:00:11Z", "ExitCode": 0, "Output": "" },
                ] },
            },
            "Image": "sha256:0000000000000000000000000000000000000000000000000000000000000000",
            "Name": format!("/{name}"),
            "RestartCount": 0,
            "Driver": "overlay2",
            "Platform": "linux",
            "HostConfig": {
                "NetworkMode": "stack_default", "PortBindings": {}, "Memory": 2_147_483_648_u64, "NanoCpus": 0,
                "RestartPolicy": { "Name": "always", "MaximumRetryCount": 0 },
                "LogConfig": { "Type": "json-file", "Config": { "max-size": "10m", "max-file": "3" } },
            },
            "Mounts": [{ "Type": "bind", "Source": "/srv/arriero", "Destination": "/etc/arriero", "Mode": "ro",
                "RW": false, "Propagation": "rprivate" }],
            "Config": {
                "Hostname": id[..12], "Image": image, "Tty": false, "Env": ["PATH=/usr/bin"], "Cmd": null,
                "Entrypoint": null, "StopSignal": "SIGTERM", "StopTimeout": 310,
                "Healthcheck": { "Test": ["CMD", "arriero", "health"], "Interval": 10_000_000_000_u64 },
                "Labels": { "com.docker.compose.project": "stack", "com.docker.compose.service": name },
            },
            "NetworkSettings": {
                "Ports": {},
                "Networks": { "stack_default": { "Aliases": [name], "IPAddress": format!("172.18.0.{number}") } },
            },
        });
        Self { inspect, memory: 100 << 20, log: Vec::new() }
    }

    /// The same with another value at a place of what `docker inspect` shows, such as `/State/Status`.
    pub fn with(mut self, pointer: &str, value: Value) -> Self {
        let (parent, key) = pointer.rsplit_once('/').expect("a pointer");
        self.inspect.pointer_mut(parent).unwrap_or_else(|| panic!("nothing at {parent}"))[key] = value;
        self
    }

    /// The same, using so much memory.
    pub fn memory(mut self, bytes: u64) -> Self {
        self.memory = bytes;
        self
    }

    /// The same with these lines of output.
    pub fn log(mut self, lines: &[&str]) -> Self {
        self.log = lines.iter().map(|line| (*line).to_owned()).collect();
        self
    }

    /// The same with a port of `address` that leads to one inside.
    pub fn publish(self, private: u16, address: &str, public: u16) -> Self {
        let binding = json!([{ "HostIp": address, "HostPort": public.to_string() }]);
        self.with(&format!("/NetworkSettings/Ports/{private}~1tcp"), binding).named(private)
    }

    /// JSON pointers write `/` as `~1`; keys do not.
    fn named(mut self, private: u16) -> Self {
        let ports = self.inspect["NetworkSettings"]["Ports"].as_object_mut().expect("an object");
        if let Some(binding) = ports.remove(&format!("{private}~1tcp")) {
            ports.insert(format!("{private}/tcp"), binding);
        }
        self
    }

    fn row(&self) -> Value {
        json!({
            "Id": self.inspect["Id"], "Names": [self.inspect["Name"]], "Image": self.inspect["Config"]["Image"],
            "State": self.inspect["State"]["Status"], "Status": "Up 3 hours", "Created": 1_761_987_600,
            "Labels": self.inspect["Config"]["Labels"], "Ports": [],
        })
    }

    fn stats(&self) -> Value {
        json!({
            "read": "2026-11-28T04:00:00Z", "num_procs": 0, "cpu_stats": { "online_cpus": 2 },
            "memory_stats": { "usage": self.memory + (50 << 20), "limit": 2_147_483_648_u64,
                "stats": { "anon": self.memory, "inactive_file": 50 << 20 } },
        })
    }

    /// Its output in the frames of a container without a terminal.
    fn frames(&self) -> Vec<u8> {
        let frame = |line: &String| {
            let text = format!("{line}\n");
            let length = u32::try_from(text.len()).expect("short").to_be_bytes();
            [&[2, 0, 0, 0], &length[..], text.as_bytes()].concat()
        };
        self.log.iter().flat_map(frame).collect()
    }
}

/// The engine. Dropping it ends it.
pub struct Engine {
    path: PathBuf,
    asked: Arc<Mutex<Vec<String>>>,
    task: JoinHandle<()>,
    _folder: tempfile::TempDir,
}

impl Engine {
    /// With these containers.
    pub fn start(containers: Vec<Container>) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("docker.sock");
        let listener = UnixListener::bind(&path).expect("a socket");
        let asked = Arc::new(Mutex::new(Vec::new()));
        let (containers, list) = (Arc::new(containers), Arc::clone(&asked));
        let task = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let (containers, list) = (Arc::clone(&containers), Arc::clone(&list));
                let service = service_fn(move |request: Request<Incoming>| {
                    let path = request.uri().path_and_query().map(ToString::to_string).unwrap_or_default();
                    list.lock().expect("no panic").push(format!("{} {path}", request.method()));
                    let answer = answer(&containers, request.method() == http::Method::GET, &path);
                    async move { Ok::<_, Infallible>(answer) }
                });
                connections.spawn(async move {
                    drop(http1::Builder::new().serve_connection(TokioIo::new(stream), service).await);
                });
            }
        });
        Self { path, asked, task, _folder: folder }
    }

    /// Its socket.
    pub fn socket(&self) -> &Path {
        &self.path
    }

    /// Every request so far: method and path.
    pub fn asked(&self) -> Vec<String> {
        self.asked.lock().expect("no panic").clone()
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// This moment as Docker writes it.
fn now() -> String {
    let now = time::OffsetDateTime::from_unix_timestamp(arriero::clock::unix_seconds()).expect("a time");
    now.format(&time::format_description::well_known::Rfc3339).expect("a text")
}

fn answer(containers: &[Container], is_get: bool, path: &str) -> Response<Full<Bytes>> {
    let (path, query) = path.split_once('?').unwrap_or((path, ""));
    let json = |value: Value| ("application/json", Bytes::from(value.to_string()));
    let found = match path.split('/').skip(1).collect::<Vec<_>>().as_slice() {
        _ if !is_get => None,
        ["containers", "json"] => {
            let shown =
                containers.iter().filter(|one| query.contains("all=1") || one.inspect["State"]["Running"] == true);
            Some(json(shown.map(Container::row).collect()))
        }
        ["containers", id, what] => {
            containers.iter().find(|one| one.inspect["Id"] == *id).and_then(|one| match *what {
                "json" => Some(json(one.inspect.clone())),
                "stats" if query.contains("stream=false") => Some(json(one.stats())),
                "logs" if query.contains("stderr=1") => {
                    Some(("application/vnd.docker.multiplexed-stream", Bytes::from(one.frames())))
                }
                _ => None,
            })
        }
        _ => None,
    };
    let (status, (kind, body)) = match found {
        Some(found) => (200, found),
        None => (404, json(json!({ "message": "page not found" }))),
    };
    let response = Response::builder().status(status).header("Api-Version", "1.47").header("Content-Type", kind);
    response.body(Full::new(body)).expect("an answer")
}
