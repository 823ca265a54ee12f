//! `arriero run`: serve.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use super::DEFAULT_LISTEN;
use super::unfiled::{self, Said};
use crate::fleet::reload::Source;
use crate::lifecycle::{self, Running};
use crate::routing::Scheme;

/// What is read when nothing is said.
pub const DEFAULT_FILE: &str = "arriero.yaml";

/// What is read without a file, for `--help`.
fn variables() -> String {
    format!(
        "Environment, where no file is used; an option comes before a variable:\n  \
         OLLAMA_HOSTS          servers, separated by commas: HOST, HOST:PORT or http://HOST:PORT\n  \
         OLLAMA_HOST           the same, where OLLAMA_HOSTS is not set\n  \
         OLLAMA_LOAD_BALANCER  round-robin, least-conn or ip-hash; without it each request goes where its\n                        \
         first token comes soonest\n  \
         PORT                  listen on 0.0.0.0:PORT instead of {DEFAULT_LISTEN}\n\n\
         What these variables say can be written down as a file: see `arriero init`."
    )
}

/// What to serve.
#[derive(clap::Args)]
#[command(after_help = variables())]
pub struct Arguments {
    /// Configuration file. Without it: `arriero.yaml` here, else the servers of OLLAMA_HOSTS or OLLAMA_HOST.
    #[arg(short, long)]
    config: Option<PathBuf>,
    /// An Ollama server, instead of a configuration file; may be given several times.
    #[arg(long, value_name = "URL", conflicts_with = "config")]
    upstream: Vec<String>,
    /// Address to listen on, with `--upstream` or OLLAMA_HOSTS; 0.0.0.0 and PORT where that is set, else 127.0.0.1:8080.
    #[arg(long, value_name = "HOST:PORT", conflicts_with = "config")]
    listen: Option<String>,
    /// Address of the admin listener, with `--upstream` or OLLAMA_HOSTS: `HOST:PORT` or `unix:/path`; 127.0.0.1:5100 by default.
    #[arg(long, value_name = "ADDRESS", conflicts_with = "config")]
    admin: Option<String>,
}

/// Serves until a signal ends it.
pub fn run(arguments: Arguments) -> ExitCode {
    let env = |name: &str| std::env::var(name).ok();
    match source(arguments, &env) {
        Ok(source) => {
            tell_of_unread(&source, &env);
            lifecycle::run(source, announce)
        }
        Err(problem) => {
            eprintln!("error: {problem}");
            ExitCode::from(1)
        }
    }
}

fn source(arguments: Arguments, env: &dyn Fn(&str) -> Option<String>) -> Result<Source, String> {
    if let Some(file) = arguments.config {
        return Ok(Source::File(file));
    }
    if arguments.upstream.is_empty() && Path::new(DEFAULT_FILE).exists() {
        if let Some(option) = arguments.listen.map(|_| "--listen").or(arguments.admin.map(|_| "--admin")) {
            return Err(format!(
                "`{option}` cannot be used with a file, and there is `{DEFAULT_FILE}` here\n\
                 hint: write the address into the file"
            ));
        }
        return Ok(Source::File(PathBuf::from(DEFAULT_FILE)));
    }
    let said =
        Said { listen: arguments.listen.as_deref(), admin: arguments.admin.as_deref(), upstream: &arguments.upstream };
    unfiled::text(said, env)?.map(Source::Text).ok_or_else(|| {
        format!(
            "nothing to serve: there is no `{DEFAULT_FILE}` here and OLLAMA_HOSTS is not set\n\
             hint: `arriero init` writes a configuration, `arriero run --upstream http://127.0.0.1:11434` needs none, \
             `arriero demo` needs no servers"
        )
    })
}

/// Somebody who sets such a variable expects that it counts.
fn tell_of_unread(source: &Source, env: &dyn Fn(&str) -> Option<String>) {
    let Source::File(file) = source else { return };
    let text = std::fs::read_to_string(file).unwrap_or_default();
    let is_unread =
        |name: &&str| env(name).is_some_and(|value| !value.trim().is_empty()) && !text.contains(&format!("${{{name}"));
    for name in unfiled::MEANT_FOR_US.into_iter().filter(is_unread) {
        eprintln!("note: {name} is not read, since `{}` is the configuration", file.display());
    }
}

/// Tells where to find us, on standard error: standard output is the access log's.
pub fn announce(running: &Running) {
    let snapshot = running.store.load();
    for (address, listener) in running.addresses.iter().zip(&snapshot.listeners) {
        let scheme = Scheme::of(listener.tls.is_some()).as_str();
        eprintln!("listening on {scheme}://{address}");
    }
    eprintln!("admin at {}", running.admin);
    let (Source::Text(_), Some(address)) = (running.reloader.source(), running.addresses.first()) else { return };
    // Nobody wrote a configuration, so somebody is trying things out.
    let models = snapshot.upstreams.first().map(|upstream| upstream.models.load());
    let model = models.as_ref().and_then(|index| index.first()).unwrap_or("llama3.2:3b");
    let address = from_here(*address);
    let message = r#""messages":[{"role":"user","content":"hello"}]"#;
    eprintln!("\ntry:\n  curl http://{address}/api/tags");
    eprintln!("  curl -N http://{address}/api/chat -d '{{\"model\":\"{model}\",{message}}}'");
    eprintln!("  curl http://{address}/v1/models");
}

/// Where somebody on this machine finds a listener: what stands for all interfaces can be connected to on some systems only.
fn from_here(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, address.port())
}

#[cfg(test)]
mod tests {
    use super::from_here;

    #[test]
    fn what_stands_for_all_interfaces_is_found_on_loopback() {
        for (listens, found) in [
            ("0.0.0.0:80", "127.0.0.1:80"),
            ("[::]:80", "[::1]:80"),
            ("10.0.0.1:80", "10.0.0.1:80"),
            ("[fe80::1]:80", "[fe80::1]:80"),
        ] {
            assert_eq!(from_here(listens.parse().unwrap()), found.parse().unwrap());
        }
    }
}
