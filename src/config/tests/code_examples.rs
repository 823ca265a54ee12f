//! For each code a text that has it, for the documentation; a test holds that it does.
//!
//! A text of a configuration is some of its blocks; the others are those of the good file. `/etc/arriero/tls/` stands for
//! the files that the tests of credentials use.

use super::GOOD;
use crate::config::{Diagnostic, keys};

/// What has a code.
pub(super) enum Example {
    /// Some blocks of a configuration.
    Config(&'static str),
    /// The same, in what is not valid YAML for everybody.
    Broken(&'static str),
    /// A whole configuration.
    Whole(&'static str),
    /// A keys file.
    Keys(&'static str),
    /// Not a text, but the file or the moment: said in a sentence.
    Not(&'static str),
}

use Example::{Broken, Config, Keys, Not, Whole};

/// The texts, by their code.
pub(super) const EXAMPLES: &[(&str, Example)] = &[
    ("E001", Not("`arriero check -c nowhere.yaml`, where there is no such file.")),
    ("E002", Not("`arriero check -c /etc/arriero`, which is a folder.")),
    ("E003", Not("`arriero check -c /var/log/arriero.log`, after some weeks.")),
    ("E004", Not("a file that was saved as UTF-16.")),
    ("E005", Broken("telemetry:\n  log_level: \"info\n")),
    ("E006", Whole("# Nothing but a comment.\n")),
    ("E007", Broken("telemetry: { log_level: !level info }\n")),
    ("E008", Config("telemetry: { log_level: info, log_level: warn }\n")),
    ("E009", Not("aliases of aliases of aliases, which would expand to millions of values.")),
    ("E010", Config("routes:\n  - { name: all, upstream: fleet, timeouts: { first_bite: 3s } }\n")),
    ("E011", Config("routes:\n  - name: all\n")),
    ("E012", Config("routes:\n  - { name: all, upstream: fleet, retry: { attempts: \"3\" } }\n")),
    ("E013", Config("routes:\n  - { name: all, upstream: fleet, timeouts: { connect: 30 } }\n")),
    ("E014", Config("telemetry: { log_level: \"${LEVEL}\" }\n")),
    ("E015", Config("telemetry: { log_level: \"${LEVEL:?none}\" }\n")),
    ("E020", Config("version: 2\n")),
    ("E021", Config("routes:\n  - { name: all, match: { path: [] }, upstream: fleet }\n")),
    ("E022", Config("listeners:\n  - address: 8080\n")),
    ("E023", Config("listeners:\n  - address: 0.0.0.0:8080\n  - address: 0.0.0.0:8080\n")),
    ("E024", Config("routes:\n  - { name: all of it, upstream: fleet }\n")),
    (
        "E025",
        Config(
            "routes:\n  - { name: api, match: { path: /api/ }, upstream: fleet }\n  - { name: api, upstream: fleet }\n",
        ),
    ),
    ("E026", Config("routes:\n  - { name: all, upstream: fleat }\n")),
    ("E027", Config("routes:\n  - { name: all, match: { path: /api/* }, upstream: fleet }\n")),
    ("E028", Config("routes:\n  - { name: all, match: { method: post }, upstream: fleet }\n")),
    ("E029", Config("routes:\n  - { name: all, match: { host: \"example.com:443\" }, upstream: fleet }\n")),
    ("E030", Config("routes:\n  - { name: all, match: { header: { \"x team\": a } }, upstream: fleet }\n")),
    ("E031", Config("routes:\n  - { name: all, match: { model: \"\" }, upstream: fleet }\n")),
    ("E032", Config("upstreams:\n  fleet: { kind: ollama, servers: [{ url: \"http://10.0.0.11:11434/v1\" }] }\n")),
    (
        "E033",
        Config(
            "upstreams:\n  fleet:\n    kind: ollama\n    servers:\n      - { name: a, url: \"http://10.0.0.11:11434\" }\n      - { name: b, url: \"http://10.0.0.11:11434\" }\n",
        ),
    ),
    ("E034", Config("routes:\n  - { name: all, upstream: fleet, retry: { attempts: 11 } }\n")),
    ("E035", Config("routes:\n  - { name: all, upstream: fleet, timeouts: { request: 0s } }\n")),
    ("E036", Config("routes:\n  - { name: all, respond: { body: hello }, retry: { attempts: 2 } }\nupstreams: {}\n")),
    (
        "E037",
        Config(
            "upstreams:\n  fleet:\n    kind: ollama\n    servers: [{ url: \"http://10.0.0.11:11434\" }]\n    balance: { policy: consistent_hash, hash_on: ip }\n",
        ),
    ),
    (
        "E038",
        Config(
            "upstreams:\n  fleet:\n    kind: ollama\n    servers: [{ url: \"http://10.0.0.11:11434\" }]\n    circuit: { open_for: 10m, max_open_for: 5m }\n",
        ),
    ),
    ("E039", Config("admin: { address: \"0.0.0.0:5100\" }\n")),
    (
        "E040",
        Config(
            "upstreams:\n  fleet:\n    kind: ollama\n    servers: [{ name: a100-1, url: \"http://10.0.0.11:11434\" }]\n    models: [{ match: \"llava*\", pin: [a100-2] }]\n",
        ),
    ),
    ("E041", Not("`POST /api/orchestrator/servers/add` with the URL `http://127.0.0.1:11434`.")),
    (
        "E042",
        Config(
            "server: { data_dir: /var/lib/arriero }\nquotas:\n  - { name: daily, limit: 1M, every: day, routes: [chatt] }\n",
        ),
    ),
    (
        "E043",
        Config(
            "listeners:\n  - address: 0.0.0.0:11434\nupstreams:\n  fleet: { kind: ollama, servers: [{ url: \"http://localhost:11434\" }] }\n",
        ),
    ),
    (
        "E050",
        Config(
            "listeners:\n  - address: 0.0.0.0:443\n    tls: { certificates: [{ cert: /etc/arriero/tls/none.pem, key: /etc/arriero/tls/ec-sec1.pem }] }\n",
        ),
    ),
    (
        "E051",
        Config(
            "listeners:\n  - address: 0.0.0.0:443\n    tls: { certificates: [{ cert: /etc/arriero/tls/ec-sec1.pem, key: /etc/arriero/tls/ec-cert.pem }] }\n",
        ),
    ),
    (
        "E052",
        Config(
            "listeners:\n  - address: 0.0.0.0:443\n    tls: { certificates: [{ cert: /etc/arriero/tls/ec-cert.pem, key: /etc/arriero/tls/ec-encrypted-pkcs8.pem }] }\n",
        ),
    ),
    (
        "E053",
        Config(
            "listeners:\n  - address: 0.0.0.0:443\n    tls: { certificates: [{ cert: /etc/arriero/tls/ec-cert.pem, key: /etc/arriero/tls/rsa-pkcs1.pem }] }\n",
        ),
    ),
    (
        "E054",
        Config(
            "listeners:\n  - address: 0.0.0.0:443\n    tls:\n      certificates:\n        - { cert: /etc/arriero/tls/ec-cert.pem, key: /etc/arriero/tls/ec-sec1.pem, ocsp: /etc/arriero/tls/ec-cert.pem }\n",
        ),
    ),
    ("E060", Config("listeners:\n  - { address: \"0.0.0.0:8080\", trusted_proxies: [10.0.0.1/8] }\n")),
    (
        "E061",
        Config("routes:\n  - { name: all, upstream: fleet, cors: { origins: [\"https://app.example.com/\"] } }\n"),
    ),
    ("E062", Config("routes:\n  - { name: all, upstream: fleet, auth: required }\n")),
    (
        "E063",
        Keys(
            "keys:\n  - { name: alice, id: 12, hash: \"sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad\" }\n",
        ),
    ),
    ("E070", Config("routes:\n  - { name: all, upstream: fleet, rate_limits: [{ key: clientip, rate: 10/s }] }\n")),
    ("E080", Config("routes:\n  - { name: all, upstream: fleet, respond: { body: hello } }\n")),
    (
        "E081",
        Config(
            "routes:\n  - { name: all, upstream: fleet, headers: { request: { set: { x-client: \"{client_ap}\" } } } }\n",
        ),
    ),
    (
        "E082",
        Config("routes:\n  - { name: all, upstream: fleet, headers: { request: { set: { connection: close } } } }\n"),
    ),
    (
        "E083",
        Config("routes:\n  - { name: all, upstream: fleet, headers: { response: { remove: [\"x powered by\"] } } }\n"),
    ),
    ("E084", Config("routes:\n  - { name: all, upstream: fleet, error_pages: { 3xx: /srv/errors/moved.html } }\n")),
    (
        "E085",
        Config(
            "upstreams:\n  fleet:\n    kind: ollama\n    servers: [{ url: \"http://10.0.0.11:11434\" }]\n    balance: { policy: consistent_hash, sticky_cookie: { name: \"a;b\" } }\n",
        ),
    ),
    ("E095", Config("notifications:\n  - url: alerts.example.com\n")),
    ("E096", Config("notifications:\n  - { url: \"https://alerts.example.com/\", secret_file: /no/such/file }\n")),
    (
        "E097",
        Config(
            "upstreams:\n  fleet:\n    kind: ollama\n    servers:\n      - { url: \"http://10.0.0.11:11434\", recovery: { after: 3 } }\n",
        ),
    ),
    (
        "E098",
        Config(
            "upstreams:\n  fleet:\n    kind: ollama\n    servers:\n      - { url: \"http://10.0.0.11:11434\", gpu: { agent: \"10.0.0.11:9845\" } }\n",
        ),
    ),
    ("E099", Config("telemetry: { tracing: { url: \"http://127.0.0.1:4317/v1/traces\" } }\n")),
    ("E100", Config("cluster: { redis: \"valkey:6379\" }\n")),
    (
        "W001",
        Config(
            "routes:\n  - { name: all, upstream: fleet }\n  - { name: vision, match: { model: \"llava*\" }, upstream: fleet }\n",
        ),
    ),
    (
        "W002",
        Config(
            "upstreams:\n  fleet: { kind: ollama, servers: [{ url: \"http://10.0.0.11:11434\" }] }\n  spare: { kind: ollama, servers: [{ url: \"http://10.0.0.12:11434\" }] }\n",
        ),
    ),
    (
        "W003",
        Config(
            "upstreams:\n  fleet:\n    kind: ollama\n    servers: [{ url: \"http://10.0.0.11:11434\" }]\n    health: { active: { interval: 5s, timeout: 6s } }\n",
        ),
    ),
    ("W004", Config("routes:\n  - { name: all, upstream: fleet, retry: { replay_post: true } }\n")),
    ("W005", Config("server: { temp_dir: $HOME/bodies }\n")),
    ("W006", Config("routes: []\nupstreams: {}\n")),
    ("W020", Not("a certificate that ended yesterday.")),
    (
        "W021",
        Config(
            "upstreams:\n  fleet:\n    kind: ollama\n    servers: [{ url: \"https://10.0.0.11:11434\" }]\n    tls: { verify: false }\n",
        ),
    ),
    (
        "W022",
        Config(
            "listeners:\n  - address: 0.0.0.0:443\n    tls:\n      certificates:\n        - { cert: /etc/arriero/tls/ec-cert.pem, key: /etc/arriero/tls/ec-sec1.pem, ocsp: /etc/arriero/tls/staple.der }\n",
        ),
    ),
    ("W023", Not("a second certificate for a listener, without a name in `subjectAltName`.")),
    ("W060", Config("listeners:\n  - { address: \"0.0.0.0:8080\", trusted_proxies: [0.0.0.0/0] }\n")),
    ("W061", Config("auth: { keys_file: /etc/arriero/none.yaml }\n")),
    ("W062", Not("a key with `quotas: { dayly: 5M }`, where the quota is called `daily`.")),
    ("W063", Config("quotas:\n  - { name: daily, limit: 1M, every: day }\n")),
];

/// Where the examples have their certificates, and where these are.
const PLACE: (&str, &str) =
    ("/etc/arriero/tls/", concat!(env!("CARGO_MANIFEST_DIR"), "/src/config/credentials/testdata/"));

/// What is found in an example; nothing where there is no text.
pub(super) fn found(example: &Example) -> Vec<Diagnostic> {
    let found = match example {
        Config(blocks) | Broken(blocks) => text(&complete(blocks)),
        Whole(whole) => text(whole),
        Keys(keys) => {
            let folder = tempfile::tempdir().expect("a folder");
            let path = folder.path().join("keys.yaml");
            std::fs::write(&path, keys).expect("written");
            keys::load(&path).err().unwrap_or_default().0
        }
        Not(_) => Vec::new(),
    };
    let here = |text: String| text.replace(PLACE.1, PLACE.0);
    found.into_iter().map(|one| Diagnostic { message: here(one.message), hint: one.hint.map(here), ..one }).collect()
}

/// As `arriero check` finds it: a keys file that is named is read too.
fn text(text: &str) -> Vec<Diagnostic> {
    match super::load(&text.replace(PLACE.0, PLACE.1)) {
        Ok(loaded) => {
            let keys = loaded.config.auth.keys_file;
            let told = keys.map_or_else(Vec::new, |path| keys::check(path.as_ref()).unwrap_or_else(|found| found.0));
            loaded.warnings.into_iter().chain(told).collect()
        }
        Err(found) => found.0,
    }
}

/// The good file with these blocks in the place of its own.
fn complete(blocks: &str) -> String {
    let is_block = |line: &str| line.starts_with(|first: char| first.is_ascii_lowercase());
    let name = |line: &str| line.split(':').next().unwrap_or_default().to_owned();
    let given: Vec<String> = blocks.lines().filter(|line| is_block(line)).map(name).collect();
    let mut keep = true;
    let mut whole = String::new();
    for line in GOOD.lines() {
        if is_block(line) {
            keep = !given.contains(&name(line));
        }
        if keep {
            whole = whole + line + "\n";
        }
    }
    whole + blocks
}
