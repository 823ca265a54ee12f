//! GPUs of servers: what sources and servers say about them, and what follows for requests, operators and placement.

mod support;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use arriero::demo::{DemoModel, Fleet, Host, HostConfig};
use parking_lot::Mutex;
use serde_json::Value;
use support::admin::show;
use support::fleet::{Small, generate, reply, send};
use support::process::{arriero, finish};
use support::wire::proxy;
use support::{Proxy, eventually};

const GB: u64 = 1_000_000_000;
const MIB: u64 = 1 << 20;

/// An exporter like NVIDIA's, of one card whose values the test sets.
struct Exporter {
    server: Small,
    text: Arc<Mutex<Option<String>>>,
}

impl Exporter {
    async fn new(used_mib: u64) -> Self {
        let text = Arc::new(Mutex::new(Some(card(used_mib, 0))));
        let shown = Arc::clone(&text);
        let server = Small::start(move |_| match &*shown.lock() {
            Some(text) => reply(200, "text/plain; version=0.0.4", text.clone()),
            None => reply(500, "text/plain", "the driver is upset"),
        })
        .await;
        Self { server, text }
    }

    fn say(&self, text: Option<String>) {
        *self.text.lock() = text;
    }

    fn gpu(&self) -> String {
        format!("gpu: {{ exporter: \"{}/metrics\", interval: 1s }}", self.server.url())
    }
}

/// What dcgm-exporter says of an A100 with 80 GiB.
fn card(used_mib: u64, xid: u32) -> String {
    let of = "gpu=\"0\", UUID=\"GPU-604ac76c-d9cf-fef3-62e9-d92044ab6e52\",modelName=\"NVIDIA A100-SXM4-80GB\"";
    let free = 81_920 - used_mib;
    format!(
        "# HELP DCGM_FI_DEV_FB_USED Framebuffer memory used (in MiB).\nDCGM_FI_DEV_FB_USED{{{of}}} {used_mib}\n\
         DCGM_FI_DEV_FB_FREE{{{of}}} {free}\nDCGM_FI_DEV_GPU_TEMP{{{of}}} 41\nDCGM_FI_DEV_GPU_UTIL{{{of}}} 7\n\
         DCGM_FI_DEV_MEMORY_TEMP{{{of}}} 9223372036854775794\nDCGM_FI_DEV_XID_ERRORS{{{of}}} {xid}\n"
    )
}

/// Hosts that have these models, and a proxy before them; `gpus` go to the servers `s0`, `s1`, ... as they stand.
async fn before(hosts: Vec<HostConfig>, gpus: &[String], upstream: &str) -> (Fleet, Proxy) {
    let fleet = Fleet::start(hosts).await.expect("hosts");
    let line = |(number, url): (usize, &String)| {
        let gpu = gpus.get(number).filter(|gpu| !gpu.is_empty()).map(|gpu| format!(", {gpu}")).unwrap_or_default();
        format!("      - {{ name: s{number}, url: \"{url}\"{gpu} }}\n")
    };
    let servers: String = fleet.urls().iter().enumerate().map(line).collect();
    let yaml = format!(
        "routes: [{{ name: all, upstream: fleet }}]\nupstreams:\n  fleet:\n    kind: ollama\n    \
         inventory: {{ interval: 50ms }}\n{upstream}    servers:\n{servers}"
    );
    (fleet, proxy(yaml).await)
}

fn host(name: &str, models: &[(&str, u64)]) -> HostConfig {
    let mut config = HostConfig::new(name).vram(80 * GB).tokens(1);
    config.load_time_per_gb = Duration::from_millis(1);
    models.iter().fold(config, |config, (model, size)| config.model(DemoModel::new(model, size * GB)))
}

async fn ask(proxy: &Proxy, model: &str) -> u16 {
    send(proxy.address(), "POST", "/api/generate", generate(model)).await.head.status
}

fn count(host: &Host) -> usize {
    host.ledger().inference().len()
}

async fn gpu(proxy: &Proxy, server: &str) -> Value {
    show(proxy, &format!("/gpus/{server}")).await["server"].clone()
}

async fn state_is(proxy: &Proxy, server: &str, state: &str) {
    eventually(&format!("{server} is {state}"), || async { gpu(proxy, server).await["state"] == state }).await;
}

const TURNS: &str = "    balance: { policy: round_robin, model_affinity: off }\n";

#[tokio::test(flavor = "multi_thread")]
async fn a_card_that_fell_off_the_bus_takes_its_server_out_and_everybody_is_told_why() {
    let (well, ill) = (Exporter::new(1000).await, Exporter::new(1000).await);
    let hosts = ["a", "b"].map(|name| host(name, &[("m", 4)])).into();
    let (fleet, proxy) = before(hosts, &[well.gpu(), ill.gpu()], TURNS).await;
    for server in ["s0", "s1"] {
        eventually("both are read", || async { gpu(&proxy, server).await["sourceUp"] == true }).await;
        assert_eq!(gpu(&proxy, server).await["state"], "healthy");
    }
    ill.say(Some(card(1000, 79)));
    state_is(&proxy, "s1", "failed").await;
    let seen = gpu(&proxy, "s1").await;
    assert_eq!(seen["reasons"][0]["signal"], "xid", "{seen}");
    assert!(seen["reasons"][0]["detail"].as_str().is_some_and(|detail| detail.contains("79")), "{seen}");
    assert_eq!(seen["cards"][0]["name"], "NVIDIA A100-SXM4-80GB");
    assert_eq!((&seen["memoryTotal"], &seen["memoryUsed"]), (&(81_920 * MIB).into(), &(1000 * MIB).into()));
    let before = count(&fleet.hosts[1]);
    for _ in 0..8 {
        assert_eq!(ask(&proxy, "m").await, 200);
    }
    assert_eq!(count(&fleet.hosts[1]), before, "nothing is sent to a card that is gone");
    let series = "arriero_gpu_state{upstream=\"fleet\",server=\"s1\",state=\"failed\"}";
    assert_eq!(proxy.metric(series).await, 1.0);
    assert_eq!(proxy.metric(&series.replace("failed", "healthy")).await, 0.0);
    assert_eq!(proxy.metric("arriero_gpu_signals{upstream=\"fleet\",server=\"s1\",signal=\"xid\"}").await, 1.0);
    assert_eq!(
        proxy.metric("arriero_gpu_state_changes_total{upstream=\"fleet\",server=\"s1\",to=\"failed\"}").await,
        1.0
    );
    let overview = show(&proxy, "/overview").await;
    assert_eq!(overview["servers"][1]["gpu"], "failed", "{overview}");
    assert!(overview["servers"][1]["gpuReason"].as_str().is_some_and(|why| why.starts_with("xid: ")), "{overview}");

    // Both are gone: nobody is left.
    well.say(Some(card(1000, 79)));
    state_is(&proxy, "s0", "failed").await;
    assert_eq!(ask(&proxy, "m").await, 503);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_old_error_a_silent_exporter_and_no_exporter_at_all_take_nobody_out() {
    let (old, silent) = (Exporter::new(1000).await, Exporter::new(1000).await);
    old.say(Some(card(1000, 79)));
    silent.say(None);
    let hosts = ["a", "b", "c", "d"].map(|name| host(name, &[("m", 4)])).into();
    let nobody = "gpu: { exporter: \"http://127.0.0.1:9/metrics\", interval: 1s }".to_owned();
    let (fleet, proxy) = before(hosts, &[old.gpu(), silent.gpu(), nobody], TURNS).await;
    eventually("it is read", || async { gpu(&proxy, "s0").await["sourceUp"] == true }).await;
    for server in ["s1", "s2"] {
        eventually("it is silent", || async { gpu(&proxy, server).await["sourceUp"] == false }).await;
    }
    let fault = gpu(&proxy, "s1").await["sourceFault"].clone();
    assert!(fault.as_str().is_some_and(|fault| fault.contains("500")), "{fault}");
    assert_eq!(proxy.metric("arriero_gpu_source_up{upstream=\"fleet\",server=\"s1\"}").await, 0.0);
    // Three intervals later, too.
    eventually("it was asked often", || async { silent.server.got().len() >= 5 }).await;
    for _ in 0..8 {
        assert_eq!(ask(&proxy, "m").await, 200);
    }
    for (number, host) in fleet.hosts.iter().enumerate() {
        assert_eq!(gpu(&proxy, &format!("s{number}")).await["state"], "healthy");
        assert_eq!(count(host), 2, "s{number}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn of_a_models_servers_half_at_most_are_left_alone_on_soft_signals() {
    let exporters = [Exporter::new(1000).await, Exporter::new(1000).await, Exporter::new(1000).await];
    let hosts = ["a", "b", "c"].map(|name| host(name, &[("m", 4)])).into();
    let (fleet, proxy) = before(hosts, &exporters.each_ref().map(Exporter::gpu), TURNS).await;
    for (number, exporter) in exporters.iter().enumerate() {
        let server = format!("s{number}");
        eventually("it is read", || async { gpu(&proxy, &server).await["sourceUp"] == true }).await;
        exporter.say(Some(card(1000, 62)));
    }
    for server in ["s0", "s1", "s2"] {
        state_is(&proxy, server, "draining").await;
    }
    for _ in 0..12 {
        assert_eq!(ask(&proxy, "m").await, 200);
    }
    let used = fleet.hosts.iter().filter(|host| count(host) > 0).count();
    assert_eq!(used, 2, "one of three may be left alone, not two");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_goes_where_the_memory_is_free_and_not_where_others_use_it() {
    // Another program has 70 GiB of the first card.
    let (full, free) = (Exporter::new(70 << 10).await, Exporter::new(500).await);
    let hosts = ["a", "b"].map(|name| host(name, &[("big", 40)])).into();
    let (fleet, proxy) = before(hosts, &[full.gpu(), free.gpu()], "").await;
    for server in ["s0", "s1"] {
        eventually("it is read", || async { gpu(&proxy, server).await["memoryUsed"].is_u64() }).await;
    }
    for _ in 0..4 {
        assert_eq!(ask(&proxy, "big").await, 200);
    }
    assert_eq!((count(&fleet.hosts[0]), count(&fleet.hosts[1])), (0, 4));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_that_spilled_into_the_hosts_memory_is_seen_and_asked_for_elsewhere() {
    // A card of 20 GB holds half of the model.
    let hosts = vec![host("a", &[("big", 40)]).vram(20 * GB), host("b", &[("big", 40)])];
    let (fleet, proxy) = before(hosts, &[], "").await;
    for host in &fleet.hosts {
        let url = host.address();
        assert_eq!(send(url, "POST", "/api/generate", generate("big")).await.head.status, 200);
    }
    eventually("it is seen", || async { gpu(&proxy, "s0").await["models"][0]["model"] == "big:latest" }).await;
    let seen = gpu(&proxy, "s0").await;
    assert_eq!(seen["models"][0]["onCard"], 0.5, "{seen}");
    assert_eq!(seen["models"][0]["weight"], 0.25, "{seen}");
    assert_eq!(seen["source"], "ollama");
    let before = (count(&fleet.hosts[0]), count(&fleet.hosts[1]));
    for _ in 0..4 {
        assert_eq!(ask(&proxy, "big").await, 200);
    }
    assert_eq!((count(&fleet.hosts[0]), count(&fleet.hosts[1])), (before.0, before.1 + 4));
}

#[tokio::test(flavor = "multi_thread")]
async fn operators_see_it_on_their_terminal() {
    let exporter = Exporter::new(8192).await;
    let (_fleet, proxy) = before(vec![host("a", &[("m", 4)])], &[exporter.gpu()], "").await;
    eventually("it is read", || async { gpu(&proxy, "s0").await["sourceUp"] == true }).await;
    let admin = support::admin::address(&proxy).to_string();
    let run = async |arguments: &[&str]| {
        let arguments: Vec<&str> = arguments.iter().copied().chain(["--admin", &admin]).collect();
        finish(arriero(&arguments, Path::new("."))).await
    };
    let table = run(&["gpu"]).await.out;
    for wanted in ["s0", "healthy", "exporter", "8.0 GiB / 80.0 GiB", "41 °C"] {
        assert!(table.contains(wanted), "{wanted}: {table}");
    }
    let one = run(&["gpu", "s0"]).await.out;
    for wanted in ["NVIDIA A100-SXM4-80GB", "604ac76c-d9cf-fef3-62e9-d92044ab6e52", "7 %"] {
        assert!(one.contains(wanted), "{wanted}: {one}");
    }
    let json: Value = serde_json::from_str(&run(&["gpu", "--json"]).await.out).expect("JSON");
    assert_eq!(json["servers"][0]["serverId"], "s0");
    let unknown = run(&["gpu", "nobody"]).await;
    assert!(unknown.code != Some(0) && unknown.err.contains("nobody"), "{}", unknown.err);
}
