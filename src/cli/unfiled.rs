//! The configuration of a start without a file: servers from the command line or from the variables that other front doors
//! of Ollama servers read.
//!
//! The problem: somebody who comes from such a program has `OLLAMA_HOSTS`, `OLLAMA_LOAD_BALANCER` and `PORT` already, and
//! wants to see it work, then to have it in a file. So there is one text, with comments: `arriero run` runs with it and
//! `arriero init --from-env` writes it down.
//!
//! Invariants: what is said on the command line comes before a variable; a variable that is empty is not there; one that
//! cannot be understood is an error that names it, never a default.

use super::DEFAULT_LISTEN;
use crate::config::ServerUrl;

/// Where Ollama listens by default (envconfig.Host).
const OLLAMA_PORT: u16 = 11434;
/// Lists of servers, the first one that is there counts.
const SERVERS: [&str; 2] = ["OLLAMA_HOSTS", "OLLAMA_HOST"];
/// How a server is chosen.
const LOAD_BALANCER: &str = "OLLAMA_LOAD_BALANCER";
/// Where clients connect, on every interface.
const PORT: &str = "PORT";
/// What nobody sets who does not mean this program or one that it replaces.
pub const MEANT_FOR_US: [&str; 2] = [SERVERS[0], LOAD_BALANCER];

/// Where variables come from.
type Env<'e> = &'e dyn Fn(&str) -> Option<String>;

/// What the command line says.
#[derive(Clone, Copy, Default)]
pub struct Said<'s> {
    /// Address to listen on.
    pub listen: Option<&'s str>,
    /// Address of the admin listener.
    pub admin: Option<&'s str>,
    /// Ollama servers.
    pub upstream: &'s [String],
}

/// A word of `OLLAMA_LOAD_BALANCER`. Whoever writes one means all servers that have the model, not those first that have it
/// in memory.
struct Rule {
    word: &'static str,
    /// What `balance` says.
    balance: &'static str,
    meaning: &'static str,
}

const RULES: [Rule; 3] = [
    Rule {
        word: "round-robin",
        balance: "{ policy: round_robin, model_affinity: off }",
        meaning: "In turn among the servers that have the model",
    },
    Rule {
        word: "least-conn",
        balance: "{ policy: least_requests, model_affinity: off }",
        meaning: "The server that has the model and the fewest requests in flight",
    },
    Rule {
        word: "ip-hash",
        balance: "{ policy: consistent_hash, hash_on: client_ip, model_affinity: off }",
        meaning: "The same client is sent to the same server; behind another proxy, name that in `trusted_proxies` of the listener",
    },
];

/// The configuration as text, from the command line and the environment; `None` when neither names a server.
///
/// # Errors
/// What cannot be understood, in one sentence that names the option or the variable.
pub fn text(said: Said<'_>, env: Env<'_>) -> Result<Option<String>, String> {
    let variable = |name| env(name).map(|value| value.trim().to_owned()).filter(|value| !value.is_empty());
    let rule = variable(LOAD_BALANCER).map(|word| rule(&word)).transpose()?;
    let (servers, from) = match SERVERS.into_iter().find_map(|name| Some((variable(name)?, name))) {
        _ if !said.upstream.is_empty() => (urls("--upstream", said.upstream.iter().map(String::as_str))?, "--upstream"),
        Some((hosts, name)) => (urls(name, hosts.split(','))?, name),
        None => return Ok(None),
    };
    let (listen, why) = match (said.listen, variable(PORT)) {
        (Some(address), _) => (address.to_owned(), "--listen"),
        (None, Some(port)) => (of_port(&port)?, PORT),
        (None, None) => (DEFAULT_LISTEN.to_owned(), "only from this machine; `0.0.0.0:8080` is for everybody"),
    };
    Ok(Some(write(&Form {
        listen: &listen,
        listen_from: why,
        admin: said.admin,
        servers: servers.iter().map(|url| (None, url.as_str())).collect(),
        servers_from: from,
        rule,
    })))
}

/// The configuration of the demo: servers with names.
pub fn for_demo(listen: &str, admin: &str, servers: &[(String, String)]) -> String {
    let servers = servers.iter().map(|(name, url)| (Some(name.as_str()), url.as_str())).collect();
    let (listen_from, servers_from) = ("--listen", "the demo's");
    write(&Form { listen, listen_from, admin: Some(admin), servers, servers_from, rule: None })
}

fn rule(word: &str) -> Result<&'static Rule, String> {
    RULES.iter().find(|rule| rule.word == word).ok_or_else(|| {
        let words = RULES.each_ref().map(|rule| format!("`{}`", rule.word)).join(", ");
        format!(
            "`{LOAD_BALANCER}` is `{}`, which is none of {words}\n\
             hint: without it each request goes where its first token comes soonest; there are more rules in a file, under `balance`",
            super::words::plain(word)
        )
    })
}

fn of_port(port: &str) -> Result<String, String> {
    let digits = port.bytes().all(|byte| byte.is_ascii_digit());
    match port.parse::<u16>() {
        Ok(port) if digits => Ok(format!("0.0.0.0:{port}")),
        _ => Err(format!("`{PORT}` is `{}`, which is no number from 0 to 65535", super::words::plain(port))),
    }
}

/// The servers that `from` names; one that is there twice is one.
fn urls<'h>(from: &str, hosts: impl Iterator<Item = &'h str>) -> Result<Vec<String>, String> {
    let (mut known, mut urls) = (Vec::new(), Vec::new());
    for (index, host) in hosts.map(str::trim).filter(|host| !host.is_empty()).enumerate() {
        let url = to_url(host);
        let server = ServerUrl::parse(&url).map_err(|why| {
            // The text may hold a password.
            let number = index + 1;
            format!(
                "`{from}`: server {number} cannot be used: {why}\nhint: write `HOST`, `HOST:PORT` or `http://HOST:PORT`"
            )
        })?;
        if !known.contains(&server) {
            known.push(server);
            urls.push(url);
        }
    }
    if urls.is_empty() {
        return Err(format!("`{from}` names no server\nhint: write `HOST`, `HOST:PORT` or `http://HOST:PORT`"));
    }
    Ok(urls)
}

/// Ollama's own spellings of OLLAMA_HOST (envconfig.Host): with or without scheme, port and host. What its server takes
/// as all interfaces is this machine for a client.
fn to_url(host: &str) -> String {
    let (scheme, rest) = host.split_once("://").unwrap_or(("http", host));
    let preset = match scheme {
        _ if !host.contains("://") => OLLAMA_PORT.to_string(),
        "https" => "443".to_owned(),
        _ => "80".to_owned(),
    };
    let rest = rest.trim_end_matches('/');
    let v6 = rest.trim_start_matches('[').trim_end_matches(']').parse::<std::net::Ipv6Addr>();
    let (name, port) = match (v6, rest.rsplit_once(':')) {
        (Ok(address), _) => (format!("[{address}]"), preset),
        (Err(_), Some((name, port))) => (name.to_owned(), port.to_owned()),
        (Err(_), None) => (rest.to_owned(), preset),
    };
    let name = match name.as_str() {
        "" | "0.0.0.0" => "127.0.0.1",
        "[::]" => "[::1]",
        name => name,
    };
    format!("{scheme}://{name}:{port}")
}

/// What differs.
struct Form<'f> {
    listen: &'f str,
    listen_from: &'f str,
    admin: Option<&'f str>,
    /// Name, if it has one, and URL.
    servers: Vec<(Option<&'f str>, &'f str)>,
    servers_from: &'f str,
    rule: Option<&'f Rule>,
}

fn write(form: &Form<'_>) -> String {
    let quoted = |text: &str| serde_json::Value::from(text).to_string();
    let server = |(name, url): &(Option<&str>, &str)| {
        let name = name.map(|name| format!("        name: {}\n", quoted(name))).unwrap_or_default();
        format!("      - url: {}\n{name}", quoted(url))
    };
    let servers: String = form.servers.iter().map(server).collect();
    let balance = form.rule.map(|rule| {
        let Rule { word, balance, meaning } = rule;
        format!("    # {meaning} ({LOAD_BALANCER}={word}).\n    balance: {balance}\n")
    });
    let admin =
        |address| format!("\n# Operators look and act here (--admin).\nadmin:\n  address: {}\n", quoted(address));
    format!(
        "# Every key is explained by `arriero schema` and in docs/configuration.md. Check a change with `arriero check`.\n\
         version: 1\n\n\
         # Clients connect here, as they would to Ollama ({}).\n\
         listeners:\n  - address: {}\n\n\
         # The first route that matches wins. This one takes every request.\n\
         routes:\n  - name: ollama\n    upstream: fleet\n\n\
         # Add more servers to share the work ({}).\n\
         upstreams:\n  fleet:\n    kind: ollama\n    servers:\n{servers}{}{}",
        form.listen_from,
        quoted(form.listen),
        form.servers_from,
        balance.unwrap_or_default(),
        form.admin.map(admin).unwrap_or_default(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{BalancePolicy, Config, ModelAffinity, parse};

    fn config(text: &str) -> Config {
        parse("test", text, &|_| None).unwrap_or_else(|problems| panic!("{}\n{text}", problems.render(false))).config
    }

    /// The configuration of these variables.
    fn of(variables: &[(&str, &str)], said: Said<'_>) -> Result<Option<Config>, String> {
        let env = |name: &str| variables.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned());
        text(said, &env).map(|text| text.map(|text| config(&text)))
    }

    fn some(variables: &[(&str, &str)]) -> Config {
        of(variables, Said::default()).expect("understood").expect("servers")
    }

    fn refused(variables: &[(&str, &str)]) -> String {
        of(variables, Said::default()).expect_err("refused")
    }

    fn servers(config: &Config) -> Vec<&str> {
        config.upstreams["fleet"].servers.iter().map(|server| server.url.as_str()).collect()
    }

    #[test]
    fn hosts_are_read_as_ollama_reads_them() {
        for (host, url) in [
            ("10.0.0.1", "http://10.0.0.1:11434"),
            ("10.0.0.1:80", "http://10.0.0.1:80"),
            ("gpu.test", "http://gpu.test:11434"),
            ("http://gpu.test/", "http://gpu.test:80"),
            ("https://gpu.test", "https://gpu.test:443"),
            ("http://[::1]:11434", "http://[::1]:11434"),
            ("::1", "http://[::1]:11434"),
            ("[2001:db8::1]", "http://[2001:db8::1]:11434"),
            ("0.0.0.0", "http://127.0.0.1:11434"),
            ("0.0.0.0:11435", "http://127.0.0.1:11435"),
            ("[::]:11435", "http://[::1]:11435"),
            (":11435", "http://127.0.0.1:11435"),
        ] {
            assert_eq!(servers(&some(&[("OLLAMA_HOST", host)])), [url], "{host}");
        }
    }

    #[test]
    fn the_list_comes_before_the_single_host_and_the_command_line_before_both() {
        let both = [("OLLAMA_HOST", "one"), ("OLLAMA_HOSTS", " two , three:1,,two:11434 ")];
        assert_eq!(servers(&some(&both)), ["http://two:11434", "http://three:1"]);
        assert_eq!(servers(&some(&[("OLLAMA_HOST", "one"), ("OLLAMA_HOSTS", "")])), ["http://one:11434"]);
        let said = ["four".to_owned()];
        let said = Said { upstream: &said, ..Said::default() };
        assert_eq!(servers(&of(&both, said).expect("understood").expect("servers")), ["http://four:11434"]);
        assert_eq!(of(&[("PORT", "80"), ("OLLAMA_LOAD_BALANCER", "ip-hash")], Said::default()), Ok(None));
    }

    #[test]
    fn a_port_is_open_on_every_interface_unless_the_command_line_says_where() {
        let address = |variables: &[(&str, &str)], listen| {
            let said = Said { listen, ..Said::default() };
            of(variables, said).expect("understood").expect("servers").listeners[0].address.clone()
        };
        let host = ("OLLAMA_HOST", "one");
        assert_eq!(address(&[host], None), "127.0.0.1:8080");
        assert_eq!(address(&[host, ("PORT", "")], None), "127.0.0.1:8080");
        assert_eq!(address(&[host, ("PORT", " 3000 ")], None), "0.0.0.0:3000");
        assert_eq!(address(&[host, ("PORT", "3000")], Some("127.0.0.1:4000")), "127.0.0.1:4000");
        for bad in ["http", "65536", "-1", "+80", "8080/tcp", "0x50", "80\u{1b}[2J"] {
            let why = refused(&[host, ("PORT", bad)]);
            assert!(why.contains("`PORT`") && why.contains("65535") && !why.contains('\u{1b}'), "{why}");
        }
    }

    #[test]
    fn each_word_for_a_balancer_has_its_rule_and_any_other_is_told_the_three() {
        let host = ("OLLAMA_HOST", "one");
        let balance = |word| some(&[host, (LOAD_BALANCER, word)]).upstreams["fleet"].balance.clone();
        for (word, policy, hash_on) in [
            ("round-robin", BalancePolicy::RoundRobin, None),
            ("least-conn", BalancePolicy::LeastRequests, None),
            ("ip-hash", BalancePolicy::ConsistentHash, Some("client_ip")),
        ] {
            let balance = balance(word);
            assert_eq!((balance.policy, balance.hash_on.as_deref()), (Some(policy), hash_on), "{word}");
            assert_eq!(balance.model_affinity, ModelAffinity::Off, "{word}");
        }
        assert_eq!(balance(""), some(&[host]).upstreams["fleet"].balance);
        assert_eq!(some(&[host]).upstreams["fleet"].policy(), BalancePolicy::ExpectedWait);
        for other in ["random", "Round-Robin", "round_robin", "ip-hash,least-conn"] {
            let why = refused(&[host, (LOAD_BALANCER, other)]);
            for word in ["OLLAMA_LOAD_BALANCER", other, "round-robin", "least-conn", "ip-hash"] {
                assert!(why.contains(word), "{why}");
            }
        }
    }

    #[test]
    fn a_host_that_cannot_be_one_is_an_error_that_names_the_variable_and_no_password() {
        for bad in ["ftp://one", "http://user:secret@one", "http://one/ollama", "one:0", "one:http", "a b", ","] {
            let why = refused(&[("OLLAMA_HOSTS", bad)]);
            assert!(why.contains("`OLLAMA_HOSTS`") && !why.contains("secret"), "{bad}: {why}");
        }
        assert!(refused(&[("OLLAMA_HOSTS", "one,ftp://two")]).contains("server 2"));
    }

    #[test]
    fn the_demo_has_names_and_an_admin_address() {
        let servers = [("a100-1".to_owned(), "http://127.0.0.1:1".to_owned())];
        let config = config(&for_demo("127.0.0.1:0", "127.0.0.1:7", &servers));
        assert_eq!(config.upstreams["fleet"].servers[0].name.as_deref(), Some("a100-1"));
        assert_eq!(config.admin.address, "127.0.0.1:7");
    }
}
