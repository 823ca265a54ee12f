//! Findings from facts made by hand; what needs a running fleet, a certificate or Docker is in `tests/diagnose.rs`.

use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::time::Duration;

use super::super::docker::Engine;
use super::super::facts::{
    Answered, ConfigFacts, Facts, OpenAdmin, Running, SeenBan, SeenGpu, SeenMessage, SeenQueue, SeenReason, SeenServer,
    SeenShare, ServerFacts,
};
use super::super::finding::{Finding, Section, Severity};
use super::super::gather::compiled;
use super::judge;
use crate::config::types::Kind;
use crate::fleet::process::Sample;

const YAML: &str = "version: 1
listeners: [{ address: \"127.0.0.1:8080\", limits: { connections: 100, connections_per_ip: 100 } }]
routes: [{ name: all, upstream: fleet }]
upstreams: { fleet: { kind: ollama, servers: [{ name: a, url: \"http://10.0.0.1:11434\" }] } }
";

fn config(yaml: &str) -> ConfigFacts {
    compiled(crate::config::parse("test", yaml, &|_| None).unwrap_or_else(|found| panic!("{}", found.render(false))))
}

fn server() -> ServerFacts {
    let answer =
        Answered { status: 200, took: Duration::from_millis(3), clock: Some(0), version: Some("0.33.0".to_owned()) };
    ServerFacts {
        id: "fleet/a".to_owned(),
        upstream: "fleet".to_owned(),
        kind: Kind::Ollama,
        name: "a".to_owned(),
        url: "http://10.0.0.1:11434".to_owned(),
        host: "10.0.0.1".to_owned(),
        port: 11434,
        addresses: Ok((vec![IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1))], Duration::ZERO)),
        answer: Ok(answer),
        certificate: None,
        models: Some(vec!["m:latest".to_owned()]),
    }
}

/// A deployment that is well.
fn facts() -> Facts {
    let config = config(YAML);
    let mut running = Running::default();
    running.health.version = env!("CARGO_PKG_VERSION").to_owned();
    running.health.config.in_force = true;
    running.health.config.hash = config.good().expect("good").snapshot.hash.clone();
    running.health.process.thresholds =
        ["memory", "disk", "cpu", "files"].map(|name| (name.to_owned(), 90)).into_iter().collect();
    running.health.process.files = Some(SeenShare { used: 10, limit: 1000, percent: 1.0 });
    running.servers = vec![SeenServer {
        id: "a".to_owned(),
        upstream: "fleet".to_owned(),
        name: "a".to_owned(),
        health: "up".to_owned(),
        operation: super::super::facts::SeenOperation { state: "active".to_owned(), ..Default::default() },
        ..SeenServer::default()
    }];
    Facts {
        file: PathBuf::from("arriero.yaml"),
        config,
        running: Ok(running),
        admin: "127.0.0.1:5100".to_owned(),
        closed_listeners: Vec::new(),
        open_admin: None,
        servers: vec![server()],
        engine: Engine::Absent,
        machine: Sample::default(),
        bad_folders: Vec::new(),
        now: 1_800_000_000,
    }
}

fn findings(facts: &Facts) -> Vec<Finding> {
    Section::ALL.into_iter().flat_map(|section| judge(section, facts, None).findings).collect()
}

fn gpu(facts: &mut Facts, state: &str, source_up: Option<bool>) {
    let reason = SeenReason { detail: "Xid 79: fell off the bus".to_owned() };
    running(facts).gpus = vec![SeenGpu {
        server_id: "a".to_owned(),
        state: state.to_owned(),
        source_up,
        source_fault: (source_up == Some(false)).then(|| "status 500".to_owned()),
        reasons: if state == "healthy" { Vec::new() } else { vec![reason] },
    }];
}

fn running(facts: &mut Facts) -> &mut Running {
    facts.running.as_mut().expect("it runs")
}

#[test]
fn a_deployment_that_is_well_has_no_findings() {
    assert_eq!(findings(&facts()), []);
}

/// A code, how bad it is, words of the sentence, and what has to be so.
type Case = (&'static str, Severity, &'static str, fn(&mut Facts));

const CASES: &[Case] = &[
    ("version_differs", Severity::Note, "version 0.0.1", |facts| running(facts).health.version = "0.0.1".to_owned()),
    ("listener_unreachable", Severity::Error, "`127.0.0.1:8080`", |facts| {
        facts.closed_listeners = vec![("127.0.0.1:8080".to_owned(), "refused".to_owned())];
    }),
    ("admin_open", Severity::Error, "no token", |facts| {
        facts.open_admin = Some(OpenAdmin::NoToken("0.0.0.0:1".to_owned()))
    }),
    ("admin_exposed", Severity::Note, "0.0.0.0:1", |facts| {
        facts.open_admin = Some(OpenAdmin::WithToken("0.0.0.0:1".to_owned()));
    }),
    ("cpu_high", Severity::Warning, "97 %", |facts| running(facts).health.process.cpu_percent = Some(97.0)),
    ("files_high", Severity::Warning, "950 of 1000", |facts| {
        running(facts).health.process.files = Some(SeenShare { used: 950, limit: 1000, percent: 95.0 });
    }),
    ("memory_pressure", Severity::Warning, "11 %", |facts| facts.machine.pressure.memory = Some(11.0)),
    ("cpu_pressure", Severity::Note, "60 %", |facts| facts.machine.pressure.cpu = Some(60.0)),
    ("disk_pressure", Severity::Note, "60 %", |facts| facts.machine.pressure.io = Some(60.0)),
    ("temp_dir_small", Severity::Warning, "1.0 MiB free", |facts| {
        let share = SeenShare { used: 0, limit: 1 << 20, percent: 0.0 };
        let disk = super::super::facts::SeenDisk { folder: "temp_dir".to_owned(), path: "/tmp".to_owned(), share };
        running(facts).health.process.disks = vec![disk];
    }),
    ("folder_missing", Severity::Error, "`server.data_dir` `/nowhere`", |facts| {
        facts.bad_folders = vec![("server.data_dir", PathBuf::from("/nowhere"), "not there".to_owned())];
    }),
    ("dns_slow", Severity::Warning, "2.0 s", |facts| {
        facts.servers[0].addresses = Ok((Vec::new(), Duration::from_secs(2)));
    }),
    ("server_down", Severity::Error, "`a` fail, though it answers", |facts| {
        let mut other = running(facts).servers[0].clone();
        other.id = "b".to_owned();
        other.name = "b".to_owned();
        running(facts).servers.push(other);
        running(facts).servers[0].health = "down".to_owned();
    }),
    ("no_server", Severity::Error, "`fleet`", |facts| running(facts).servers[0].health = "down".to_owned()),
    ("server_flapping", Severity::Warning, "`a`", |facts| running(facts).flapping = vec!["a".to_owned()]),
    ("gpu_out", Severity::Error, "Xid 79", |facts| gpu(facts, "failed", Some(true))),
    ("gpu_degraded", Severity::Warning, "a quarter", |facts| gpu(facts, "degraded", Some(true))),
    ("gpu_source_silent", Severity::Warning, "status 500", |facts| gpu(facts, "healthy", Some(false))),
    ("no_models", Severity::Warning, "`fleet/a`", |facts| facts.servers[0].models = Some(Vec::new())),
    ("versions_differ", Severity::Note, "0.32.1, 0.33.0", |facts| {
        let mut other = server();
        if let Ok(answer) = &mut other.answer {
            answer.version = Some("0.32.1".to_owned());
        }
        facts.servers.push(other);
    }),
    ("banned", Severity::Note, "the server `a` with the model `m`", |facts| {
        let words = |word: &str| Some(word.to_owned());
        running(facts).bans = vec![SeenBan { server_id: words("a"), model: words("m"), ..SeenBan::default() }];
    }),
    ("queue_full", Severity::Error, "95 of at most 100", |facts| {
        running(facts).queues = vec![SeenQueue {
            upstream: "fleet".to_owned(),
            max_pending_per_model: 100,
            by_model: [("m".to_owned(), 95), ("n".to_owned(), 5)].into(),
            ..SeenQueue::default()
        }];
    }),
    ("clock_skew", Severity::Warning, "7 s ahead", |facts| {
        if let Ok(answer) = &mut facts.servers[0].answer {
            answer.clock = Some(7);
        }
    }),
    ("clock_wrong", Severity::Error, "years behind", |facts| facts.now = 0),
    ("messages_logged", Severity::Note, "2 times: warn: refused: no", |facts| {
        let fields = serde_json::json!({ "error": "no" });
        let message =
            SeenMessage { level: "WARN".to_owned(), message: "refused".to_owned(), fields, ..SeenMessage::default() };
        running(facts).messages = vec![message.clone(), message];
    }),
    ("certificates_unchecked", Severity::Warning, "`fleet`", |facts| {
        with(facts, &YAML.replace("kind: ollama,", "kind: ollama, tls: { verify: false },").replace("http:", "https:"));
    }),
    ("config_warning", Severity::Note, "spare", |facts| {
        let spare = "spare: { kind: http, servers: [{ url: \"http://10.0.0.9\" }] }, fleet:";
        with(facts, &YAML.replace("fleet: { kind", &format!("{spare} {{ kind")));
    }),
    ("management_open", Severity::Warning, "`all`", |facts| {
        let open = YAML
            .replace("127.0.0.1:8080", "0.0.0.0:8080")
            .replace("upstream: fleet }", "upstream: fleet, management: allow }");
        with(facts, &open);
    }),
];

/// The same deployment with another file in force.
fn with(facts: &mut Facts, yaml: &str) {
    facts.config = config(yaml);
    running(facts).health.config.hash = facts.config.good().expect("good").snapshot.hash.clone();
}

#[test]
fn each_fault_is_told_once_with_a_fix() {
    for (code, severity, words, fault) in CASES {
        let mut facts = facts();
        fault(&mut facts);
        let all = findings(&facts);
        let found: Vec<&Finding> = all.iter().filter(|one| one.code.word == *code).collect();
        let [one] = found.as_slice() else { panic!("{code}: {all:#?}") };
        assert!(one.what.contains(words) && one.severity == *severity && !one.fix.is_empty(), "{one:#?}");
        // Nothing else is wrong, but for what follows from it.
        let follows = |one: &&Finding| one.is_problem() && one.code.word != *code;
        let others: Vec<&str> = all.iter().filter(follows).map(|one| one.code.word).collect();
        let expected: &[&str] = match *code {
            "no_server" => &["server_down"],
            _ => &[],
        };
        assert_eq!(others, expected, "{code}");
    }
}
