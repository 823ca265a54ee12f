//! What stands in front of the fleet: Arriero, nginx or haproxy, each as a process with a configuration made for
//! this run, ended by its process id; or something at a URL that the caller has started.
//!
//! nginx and haproxy cannot choose by the model in a body, so they get it in a header (`X-Model`) and a group of
//! servers for each model: they never ask a server for a model that it does not have, which helps them. Each
//! proxy has one worker thread.

use std::fmt::Write as _;
use std::fs;
use std::io::{BufRead, BufReader};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use arriero::clock;
use rustix::process::{Pid, Signal, kill_process};

/// How long a proxy may take to start, and to end before it is killed.
const PATIENCE: Duration = Duration::from_secs(10);

/// One server as a proxy's configuration needs it.
#[derive(Clone, Debug)]
pub struct Behind {
    /// Its name.
    pub name: String,
    /// Where it is.
    pub address: SocketAddr,
    /// Names of the models that requests for may go to it.
    pub models: Vec<String>,
    /// Its speed, relative to the slowest.
    pub weight: usize,
    /// Requests that it answers at once.
    pub slots: usize,
    /// Its video memory, in GiB.
    pub memory: u64,
}

/// A running proxy. Dropping it ends it.
pub struct Proxy {
    /// Where clients ask.
    pub address: SocketAddr,
    /// Arriero's admin listener.
    pub admin: Option<SocketAddr>,
    child: Option<Child>,
    _folder: tempfile::TempDir,
}

impl Proxy {
    /// Something that runs already.
    pub fn running(address: SocketAddr) -> Result<Self, String> {
        Ok(Self { address, admin: None, child: None, _folder: folder()? })
    }

    /// Whether the caller started it.
    pub fn is_foreign(&self) -> bool {
        self.child.is_none()
    }

    /// Starts Arriero with this configuration.
    pub fn arriero(binary: &Path, yaml: &str, files: &[(&str, String)]) -> Result<Self, String> {
        let folder = folder()?;
        for (name, text) in files.iter().map(|(name, text)| (*name, text.as_str())).chain([("arriero.yaml", yaml)]) {
            fs::write(folder.path().join(name), text).map_err(|error| format!("cannot write {name}: {error}"))?;
        }
        let mut command = Command::new(binary);
        command.args(["run", "-c", "arriero.yaml"]).current_dir(folder.path());
        command.stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().map_err(|error| format!("cannot start {}: {error}", binary.display()))?;
        let mut lines = BufReader::new(child.stderr.take().ok_or("no standard error")?).lines();
        let (mut data, mut admin, mut said) = (None, None, String::new());
        while let Some(Ok(line)) = lines.next() {
            let address = line.rsplit_once("http://").and_then(|(_, address)| address.trim().parse().ok());
            if line.starts_with("listening on") {
                data = data.or(address);
            } else if line.starts_with("admin at") {
                admin = address;
                break;
            }
            said.push_str(&line);
            said.push('\n');
        }
        // What it says from now on must not fill the pipe.
        std::thread::spawn(move || lines.for_each(drop));
        let (Some(data), Some(_)) = (data, admin) else {
            end(&mut child);
            return Err(format!("{} does not start:\n{said}", binary.display()));
        };
        Ok(Self { address: data, admin, child: Some(child), _folder: folder })
    }

    /// Starts nginx, with `least_conn` or round robin.
    pub fn nginx(servers: &[Behind], least_conn: bool) -> Result<Self, String> {
        let (folder, address) = (folder()?, free_address()?);
        let text = nginx_text(folder.path(), address, servers, least_conn);
        let file = folder.path().join("nginx.conf");
        fs::write(&file, text).map_err(|error| error.to_string())?;
        let mut command = Command::new("nginx");
        command.arg("-p").arg(folder.path()).arg("-c").arg(file).arg("-e").arg(folder.path().join("error.log"));
        Self::spawn("nginx", command, address, folder)
    }

    /// Starts haproxy, with `leastconn`.
    pub fn haproxy(servers: &[Behind]) -> Result<Self, String> {
        let (folder, address) = (folder()?, free_address()?);
        let file = folder.path().join("haproxy.cfg");
        fs::write(&file, haproxy_text(address, servers)).map_err(|error| error.to_string())?;
        let mut command = Command::new("haproxy");
        command.arg("-db").arg("-f").arg(file);
        Self::spawn("haproxy", command, address, folder)
    }

    /// Starts a Redis that keeps nothing, for a cluster.
    pub fn redis() -> Result<Self, String> {
        let (folder, address) = (folder()?, free_address()?);
        let mut command = Command::new("redis-server");
        command.args([
            "--port",
            &address.port().to_string(),
            "--bind",
            "127.0.0.1",
            "--save",
            "",
            "--appendonly",
            "no",
        ]);
        command.arg("--dir").arg(folder.path());
        Self::spawn("redis-server", command, address, folder)
    }

    fn spawn(name: &str, mut command: Command, address: SocketAddr, folder: tempfile::TempDir) -> Result<Self, String> {
        let said = folder.path().join("said");
        let file = fs::File::create(&said).map_err(|error| error.to_string())?;
        command.stdout(Stdio::null()).stderr(file);
        let child = command.spawn().map_err(|error| format!("cannot start {name}: {error}"))?;
        let mut proxy = Self { address, admin: None, child: Some(child), _folder: folder };
        let began = clock::now();
        while std::net::TcpStream::connect(address).is_err() {
            let ended = proxy.child.as_mut().is_none_or(|child| !matches!(child.try_wait(), Ok(None)));
            if ended || clock::now().saturating_duration_since(began) > PATIENCE {
                let said = fs::read_to_string(&said).unwrap_or_default();
                return Err(format!("{name} does not start\n{said}"));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(proxy)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.child.iter_mut().for_each(end);
    }
}

/// Asks a process to end; after a while, makes it.
fn end(child: &mut Child) {
    if let Some(pid) = i32::try_from(child.id()).ok().and_then(Pid::from_raw) {
        // It may have ended by itself.
        let _ = kill_process(pid, Signal::TERM);
    }
    let began = clock::now();
    while matches!(child.try_wait(), Ok(None)) {
        if clock::now().saturating_duration_since(began) > PATIENCE {
            let _ = child.kill();
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn folder() -> Result<tempfile::TempDir, String> {
    tempfile::tempdir().map_err(|error| format!("no temporary folder: {error}"))
}

/// An address that was free a moment ago.
fn free_address() -> Result<SocketAddr, String> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).map_err(|error| error.to_string())?;
    listener.local_addr().map_err(|error| error.to_string())
}

/// Each model with the name of its group and its servers.
fn groups(servers: &[Behind]) -> Vec<(String, String, Vec<&Behind>)> {
    let mut models: Vec<&String> = servers.iter().flat_map(|server| &server.models).collect();
    models.sort();
    models.dedup();
    let group = |model: &String| {
        let name: String = model.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect();
        let holders = servers.iter().filter(|server| server.models.contains(model)).collect();
        (model.clone(), format!("model_{name}"), holders)
    };
    models.into_iter().map(group).collect()
}

fn nginx_text(folder: &Path, address: SocketAddr, servers: &[Behind], least_conn: bool) -> String {
    let folder = folder.display();
    let (mut map, mut upstreams) = (String::new(), String::new());
    for (model, group, holders) in groups(servers) {
        // Writing to a String cannot fail.
        let _ = writeln!(map, "    \"{model}\" {group};");
        let _ = writeln!(upstreams, "  upstream {group} {{\n    zone {group} 64k;");
        upstreams.push_str(if least_conn { "    least_conn;\n" } else { "" });
        for server in holders {
            let _ = writeln!(upstreams, "    server {} max_fails=0 weight={};", server.address, server.weight);
        }
        upstreams.push_str("    keepalive 64;\n  }\n");
    }
    let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .iter()
        .map(|kind| format!("  {kind}_temp_path {folder}/{kind};\n"))
        .collect();
    format!(
        "daemon off;\nworker_processes 1;\npid {folder}/nginx.pid;\nerror_log {folder}/error.log warn;\n\
         events {{ worker_connections 8192; }}\nhttp {{\n  access_log off;\n{temporary}  client_max_body_size 100m;\n  \
         client_body_buffer_size 1m;\n  map $http_x_model $group {{\n{map}  }}\n{upstreams}  server {{\n    \
         listen {address} backlog=4096;\n    location / {{\n      proxy_pass http://$group;\n      \
         proxy_http_version 1.1;\n      proxy_set_header Connection \"\";\n      proxy_buffering off;\n      \
         proxy_read_timeout 1h;\n      proxy_send_timeout 1h;\n    }}\n  }}\n}}\n"
    )
}

fn haproxy_text(address: SocketAddr, servers: &[Behind]) -> String {
    let (mut choices, mut groups_text) = (String::new(), String::new());
    for (model, group, holders) in groups(servers) {
        let _ = writeln!(choices, "  use_backend {group} if {{ req.hdr(X-Model) -m str {model} }}");
        let _ = writeln!(groups_text, "backend {group}\n  balance leastconn");
        for server in holders {
            let _ = writeln!(groups_text, "  server {} {} weight {}", server.name, server.address, server.weight);
        }
    }
    format!(
        "global\n  maxconn 8000\n  nbthread 1\ndefaults\n  mode http\n  timeout connect 5s\n  timeout client 1h\n  \
         timeout server 1h\n  timeout queue 1h\n  option http-no-delay\nfrontend clients\n  bind {address}\n\
         {choices}{groups_text}"
    )
}
