//! `arriero run`: serve.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use crate::fleet::reload::Source;
use crate::lifecycle::{self, Running};
use crate::routing::Scheme;

/// What is read when nothing is said.
pub const DEFAULT_FILE: &str = "arriero.yaml";
/// Where Ollama listens by default (envconfig.Host).
const OLLAMA_PORT: u16 = 11434;

/// What to serve.
#[derive(clap::Args)]
pub struct Arguments {
    /// Configuration file. Without it: `arriero.yaml` here, else the servers of OLLAMA_HOSTS or OLLAMA_HOST.
    #[arg(short, long)]
    config: Option<PathBuf>,
    /// An Ollama server, instead of a configuration file; may be given several times.
    #[arg(long, value_name = "URL", conflicts_with = "config")]
    upstream: Vec<String>,
    /// Address to listen on, with `--upstream` or OLLAMA_HOSTS.
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:8080", conflicts_with = "config")]
    listen: String,
}

/// Serves until a signal ends it.
pub fn run(arguments: Arguments) -> ExitCode {
    match source(arguments, &|name| std::env::var(name).ok()) {
        Ok(source) => lifecycle::run(source, announce),
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
    if !arguments.upstream.is_empty() {
        return Ok(Source::Text(for_servers(
            &arguments.listen,
            arguments.upstream.iter().map(|url| (None, url.as_str())),
        )));
    }
    if Path::new(DEFAULT_FILE).exists() {
        return Ok(Source::File(PathBuf::from(DEFAULT_FILE)));
    }
    let hosts = env("OLLAMA_HOSTS").or_else(|| env("OLLAMA_HOST")).unwrap_or_default();
    let servers: Vec<String> = hosts.split(',').map(str::trim).filter(|host| !host.is_empty()).map(to_url).collect();
    if servers.is_empty() {
        return Err(format!(
            "nothing to serve: there is no `{DEFAULT_FILE}` here and OLLAMA_HOSTS is not set\n\
             hint: `arriero init` writes a configuration, `arriero run --upstream http://127.0.0.1:11434` needs none, \
             `arriero demo` needs no servers"
        ));
    }
    Ok(Source::Text(for_servers(&arguments.listen, servers.iter().map(|url| (None, url.as_str())))))
}

/// Ollama's own spellings of OLLAMA_HOST: with or without scheme, with or without port.
fn to_url(host: &str) -> String {
    let (scheme, rest) = host.split_once("://").unwrap_or(("http", host));
    let rest = rest.trim_end_matches('/');
    let has_port =
        rest.rsplit_once(':').is_some_and(|(_, port)| !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit()));
    match (has_port, scheme) {
        (true, _) => format!("{scheme}://{rest}"),
        (false, "https") => format!("{scheme}://{rest}:443"),
        (false, _) if host.contains("://") => format!("{scheme}://{rest}:80"),
        (false, _) => format!("{scheme}://{rest}:{OLLAMA_PORT}"),
    }
}

/// The configuration for Ollama servers by URL, some of them with a name.
pub fn for_servers<'s>(listen: &str, servers: impl Iterator<Item = (Option<&'s str>, &'s str)>) -> String {
    let quoted = |text: &str| serde_json::Value::from(text).to_string();
    let server = |(name, url): (Option<&str>, &str)| {
        let name = name.map(|name| format!("name: {}, ", quoted(name))).unwrap_or_default();
        format!("      - {{ {name}url: {} }}\n", quoted(url))
    };
    let servers: Vec<String> = servers.map(server).collect();
    format!(
        "version: 1\nlisteners: [{{ address: {} }}]\nroutes: [{{ name: ollama, upstream: fleet }}]\nupstreams:\n  \
         fleet:\n    kind: ollama\n    servers:\n{}",
        quoted(listen),
        servers.concat(),
    )
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
    let message = r#""messages":[{"role":"user","content":"hello"}]"#;
    eprintln!("\ntry:\n  curl http://{address}/api/tags");
    eprintln!("  curl -N http://{address}/api/chat -d '{{\"model\":\"{model}\",{message}}}'");
    eprintln!("  curl http://{address}/v1/models");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ollama_hosts_are_read_as_ollama_reads_them() {
        assert_eq!(to_url("10.0.0.1"), "http://10.0.0.1:11434");
        assert_eq!(to_url("10.0.0.1:80"), "http://10.0.0.1:80");
        assert_eq!(to_url("http://gpu.test/"), "http://gpu.test:80");
        assert_eq!(to_url("https://gpu.test"), "https://gpu.test:443");
        assert_eq!(to_url("http://[::1]:11434"), "http://[::1]:11434");
    }

    #[test]
    fn a_list_of_servers_is_a_valid_configuration() {
        let servers = [(None, "http://10.0.0.1:11434"), (Some("t4-1"), "http://10.0.0.2:11434")];
        let text = for_servers("127.0.0.1:0", servers.into_iter());
        assert!(crate::config::parse("test", &text, &|_| None).is_ok(), "{text}");
    }
}
