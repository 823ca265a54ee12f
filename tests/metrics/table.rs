//! Every metric that is told stands in the table, with its words, its type and its labels; every one of the table is told by
//! an instance that had the traffic for it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use arriero::policy::failure::Reason;
use arriero::policy::gpu::reading::Card;
use arriero::policy::gpu::verdict::Verdict;
use arriero::policy::schedule::Eviction;
use arriero::telemetry::metrics::{ClusterFigures, ClusterShare, Metrics, ServerSample, UpstreamSample};
use arriero::telemetry::names::{GROUPS, Metric};

use crate::support::eventually;
use crate::support::fleet::{fleet, generate, knows, send};
use crate::support::wire::proxy;

/// What a text for Prometheus tells of each metric.
#[derive(Debug, Default)]
struct Told {
    help: String,
    kind: String,
    labels: BTreeSet<String>,
}

/// Reads OpenMetrics as the encoder writes it: values of labels hold no braces and no `="` here.
fn read(text: &str) -> BTreeMap<String, Told> {
    let mut told = BTreeMap::<String, Told>::new();
    let mut family = String::new();
    for line in text.lines() {
        let words = |prefix| line.strip_prefix(prefix).and_then(|rest: &str| rest.split_once(' '));
        if let Some((name, help)) = words("# HELP ") {
            name.clone_into(&mut family);
            // The encoder ends it as a sentence.
            help.trim_end_matches('.').clone_into(&mut told.entry(name.to_owned()).or_default().help);
        } else if let Some((name, kind)) = words("# TYPE ") {
            kind.clone_into(&mut told.entry(name.to_owned()).or_default().kind);
        } else if !line.starts_with('#') {
            let name = line.split(['{', ' ']).next().unwrap_or_default();
            let end = name.strip_prefix(&family).unwrap_or_else(|| panic!("a sample of nothing: {line}"));
            assert!(["", "_total", "_bucket", "_sum", "_count"].contains(&end), "{line}");
            let labels = labels_of(line).into_iter().filter(|label| label != "le");
            told.entry(family.clone()).or_default().labels.extend(labels);
        }
    }
    told
}

fn labels_of(line: &str) -> Vec<String> {
    let Some((inside, _)) = line.split_once('{').and_then(|(_, rest)| rest.split_once('}')) else { return Vec::new() };
    let parts: Vec<&str> = inside.split("=\"").collect();
    let before = &parts[..parts.len() - 1];
    before.iter().filter_map(|part| part.rsplit([',', '"']).next().map(str::to_owned)).collect()
}

/// Holds what is told against the table; returns those of the table that are not told.
fn compare(text: &str) -> BTreeSet<&'static str> {
    let told = read(text);
    let all = GROUPS.iter().flat_map(|(_, metrics)| *metrics);
    let known: BTreeMap<&str, &Metric> = all.map(|metric| (metric.name, metric)).collect();
    for (name, Told { help, kind, labels }) in &told {
        let metric = known.get(name.as_str()).unwrap_or_else(|| panic!("{name} is not in the table"));
        assert_eq!((help.as_str(), kind.as_str()), (metric.help, metric.kind.as_str()), "{name}");
        let wanted: BTreeSet<String> = metric.labels.iter().map(|label| (*label).to_owned()).collect();
        assert_eq!(labels, &wanted, "the labels of {name}");
    }
    known.keys().copied().filter(|name| !told.contains_key(*name)).collect()
}

/// Metrics that the table says are not always there.
fn sometimes() -> BTreeSet<&'static str> {
    let all = GROUPS.iter().flat_map(|(_, metrics)| *metrics);
    all.filter(|metric| metric.only.is_some()).map(|metric| metric.name).collect()
}

#[test]
fn whatever_is_counted_has_the_labels_that_the_table_says() {
    let metrics = Arc::new(Metrics::default());
    let (route, server) = (metrics.route("chat", "fleet"), metrics.server("fleet", "one"));
    route.status(200);
    route.first_token(Duration::from_millis(30));
    server.attempt(Reason::Ok);
    server.circuit("server", "open");
    server.gpu_changed("failed");
    server.token_gap(Duration::from_millis(20));
    server.decoded(40.0);
    server.loaded(Duration::from_secs(3));
    server.evicted(Eviction::Room);
    metrics.ended(Reason::Ok);
    metrics.refused(Reason::BadRequest);
    metrics.connection_refused("client");
    metrics.retried("fleet", Reason::ConnectFailed);
    metrics.retry_refused("fleet");
    metrics.probed("liveness", "ok");
    metrics.tested("fleet", "one", "ok");
    metrics.acted("fleet", "one", "exec", "recovered");
    metrics.notified("server_down", "delivered", 1);
    metrics.model_changed("fleet", "load", true);
    metrics.reloaded("applied");
    metrics.certificates_reloaded("applied");
    metrics.quotas.refused("chat", "daily").inc();
    metrics.quotas.untold("chat").inc();
    metrics.quotas.tokens("daily").inc();
    metrics.quotas.keys([("daily", [1, 0, 0])].into_iter());
    let figures = ClusterFigures { linked: true, instances: 3, configurations: 1, leads: false };
    metrics.cluster.show(Some(("arriero", figures)));
    metrics.cluster.call("ok");
    metrics.cluster.settled(ClusterShare::Rates, 2);
    metrics.cluster.behind(ClusterShare::Quotas, Duration::ZERO);
    let _counts = metrics.caches.of("chat");
    metrics.caches.holds("chat", 1 << 20, 1 << 28, 300);
    let _counts = metrics.response_caches.of("chat");
    metrics.response_caches.holds("chat", 1 << 20, 1 << 28, 300);
    metrics.fleet.upstream(&UpstreamSample {
        upstream: "fleet",
        bans: 1,
        quarantined: 0,
        waiting: 3,
        longest: 2,
        waiting_for_loads: 1,
        limit: 100,
    });
    metrics.fleet.server(&ServerSample {
        upstream: "fleet",
        server: "one",
        up: true,
        in_flight: 1,
        connections: 1,
        circuit: "closed",
        operation: "active",
        flapping: false,
        model_circuits: [0, 1, 0],
        models: Some((2, 1)),
        loading: 1,
        slots: Some(4),
    });
    metrics.fleet.certificate("localhost", 1);
    metrics.fleet.process(0, "abc", true, 1.0);
    let card = Card {
        uuid: Some("GPU-1".to_owned()),
        memory_total: Some(2),
        memory_used: Some(1),
        utilisation: Some(50.0),
        temperature: Some(60.0),
        power: Some(200.0),
        ..Card::default()
    };
    metrics.gpu.server("fleet", "one", &Verdict::default(), &[card], Some(true));
    let figures = ClusterFigures { linked: true, instances: 2, configurations: 1, leads: true };
    metrics.cluster.show(Some(("front", figures)));
    metrics.cluster.call("ok");
    metrics.resources.memory(1, 2);
    metrics.resources.cpu(0.5);
    metrics.resources.files(1, 2);
    metrics.resources.disk("data_dir", 1, 2);
    metrics.resources.exceeded("memory", false);
    metrics.resources.score(100);
    assert_eq!(compare(&metrics.encode()), BTreeSet::new(), "metrics that nothing counts");
}

#[test]
fn histograms_reach_from_a_cached_answer_to_a_cold_giant() {
    let metrics = Arc::new(Metrics::default());
    let (route, server) = (metrics.route("chat", "fleet"), metrics.server("fleet", "one"));
    route.first_token(Duration::from_millis(1));
    server.token_gap(Duration::from_micros(900));
    let text = metrics.encode();
    for (name, labels, least, most) in [
        ("arriero_time_to_first_token_seconds", "route=\"chat\",upstream=\"fleet\"", "0.005", "600.0"),
        ("arriero_inter_token_gap_seconds", "upstream=\"fleet\",server=\"one\"", "0.001", "60.0"),
    ] {
        for bound in [least, most, "+Inf"] {
            let line = format!("{name}_bucket{{le=\"{bound}\",{labels}}} 1\n");
            assert!(text.contains(&line), "no {line}in\n{text}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_tells_what_the_table_says_and_nothing_else() {
    let fleet = fleet(2, &["m"]).await;
    let proxy = proxy(crate::support::scheduled_yaml(&fleet.urls(), "", "")).await;
    for host in &fleet.hosts {
        knows(&proxy, host, "disk", 1).await;
    }
    // Without a request only what is there sometimes is missing.
    let missing = compare(&text_of(&proxy.admin("/metrics").await));
    assert_eq!(missing.difference(&sometimes()).collect::<Vec<_>>(), Vec::<&&str>::new());

    assert_eq!(send(proxy.address(), "POST", "/api/generate", generate("m")).await.head.status, 200);
    let stream = r#"{"model":"m","prompt":"x"}"#;
    assert_eq!(send(proxy.address(), "POST", "/api/generate", stream).await.head.status, 200);
    assert_eq!(send(proxy.address(), "POST", "/api/generate", generate("nobody-has")).await.head.status, 404);
    // What that brings; the rest needs faults, cards, certificates or operators, and other tests look at it.
    let brought = [
        "arriero_requests",
        "arriero_attempts",
        "arriero_probes",
        "arriero_server_models",
        "arriero_model_changes",
        "arriero_model_load_duration_seconds",
        "arriero_time_to_first_token_seconds",
    ];
    eventually("all that the traffic brings", || async {
        let missing = compare(&text_of(&proxy.admin("/metrics").await));
        brought.iter().all(|name| !missing.contains(name))
    })
    .await;
}

/// The body of an answer.
fn text_of(answer: &str) -> String {
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
    assert!(head.to_ascii_lowercase().contains("content-type: application/openmetrics-text"), "{head}");
    assert!(!head.to_ascii_lowercase().contains("chunked"), "{head}");
    body.to_owned()
}
