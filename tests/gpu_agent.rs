//! `arriero gpu-agent` as a process: what it answers, to whom, and what it costs.

mod support;

use std::fs;
use std::net::SocketAddr;
use std::process::Command;
use std::time::Duration;

use arriero::clock;
use arriero::policy::gpu::reading::{CardFault, Unread};
use arriero::policy::gpu::report::Report;
use rustix::process::Signal;
use support::admin::{json, problem};
use support::nvml::{FakeNvml, card, host, uuid};
use support::process::{Program, arriero, finish};
use support::wire::{Answer, H1, ask};
use support::{PATIENCE, eventually};

const TOKEN: &str = "a-token-of-the-test";

fn command(fake: &FakeNvml, more: &[&str]) -> Command {
    let library = fake.library();
    let library = library.to_str().expect("text");
    let mut command = arriero(&[&["gpu-agent", "--nvml-library", library], more].concat(), fake.folder());
    command.env_remove("ARRIERO_GPU_AGENT_TOKEN");
    command
}

fn get(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n")
}

/// An agent that listens.
struct Agent {
    program: Program,
    address: SocketAddr,
}

impl Agent {
    async fn start(fake: &FakeNvml, more: &[&str]) -> Self {
        Self::of(command(fake, &[&["--listen", "127.0.0.1:0"], more].concat())).await
    }

    async fn of(command: Command) -> Self {
        let program = Program::spawn(command);
        let told =
            || program.err.text().lines().find_map(|line| line.strip_prefix("listening on http://")?.parse().ok());
        eventually("it listens", || std::future::ready(told().is_some())).await;
        let address = told().expect("an address");
        Self { program, address }
    }

    async fn get(&self, path: &str) -> Answer {
        ask(self.address, get(path)).await
    }

    async fn report(&self) -> Report {
        let answer = self.get("/v1/gpus").await;
        assert_eq!(answer.head.status, 200, "{}", answer.text());
        assert_eq!(answer.head.field("content-type"), Some("application/json"));
        serde_json::from_slice(&answer.body).unwrap_or_else(|error| panic!("{error}: {}", answer.text()))
    }

    /// Waits until the report is as wanted.
    async fn until(&self, what: &str, wanted: impl Fn(&Report) -> bool) -> Report {
        eventually(what, async || wanted(&self.report().await)).await;
        self.report().await
    }
}

#[tokio::test]
async fn the_cards_are_told_as_json_and_as_metrics() {
    let fake = FakeNvml::new(&host(8));
    let agent = Agent::start(&fake, &["--interval", "100ms"]).await;
    let report = agent.until("eight cards", |report| report.reading.cards.len() == 8).await;
    assert_eq!(report.version, env!("CARGO_PKG_VERSION"));
    assert_eq!(report.hostname, rustix::system::uname().nodename().to_string_lossy());
    assert_eq!((report.unread, report.reading.driver.as_deref()), (None, Some("580.95.05")));
    assert!(clock::unix_time().as_millis().abs_diff(report.at.into()) < 5000, "{}", report.at);
    assert_eq!(report.reading.cards[7].uuid, Some(uuid(7)));
    let raw = json(&agent.get("/v1/gpus").await);
    assert_eq!(
        (&raw["cards"][0]["memoryTotal"], &raw["cards"][0]["recoveryAction"]),
        (&85_899_345_920_u64.into(), &"none".into())
    );

    let page = agent.get("/metrics").await;
    assert_eq!(page.head.field("content-type"), Some("application/openmetrics-text; version=1.0.0; charset=utf-8"));
    let page = page.text();
    for number in 0..8 {
        let of = format!("uuid=\"{}\",index=\"{number}\",name=\"NVIDIA A100-SXM4-80GB\"", uuid(number));
        for line in [
            format!("arriero_gpu_memory_total_bytes{{{of}}} 85899345920.0"),
            format!("arriero_gpu_temperature_celsius{{{of}}} 61.0"),
            format!("arriero_gpu_power_watts{{{of}}} 250.5"),
            format!("arriero_gpu_utilisation_ratio{{{of}}} 0.37"),
            format!("arriero_gpu_pcie_replays_total{{{of}}} 2"),
        ] {
            assert!(page.lines().any(|there| there == line), "no `{line}` in\n{page}");
        }
    }
    assert!(page.ends_with("# EOF\n"), "{page}");
    let health = agent.get("/health").await;
    assert_eq!((health.head.status, &json(&health)["status"], &json(&health)["cards"]), (200, &"ok".into(), &8.into()));
}

#[tokio::test]
async fn a_change_on_the_host_is_seen() {
    let fake = FakeNvml::new(&host(2));
    let agent = Agent::start(&fake, &["--interval", "100ms"]).await;
    agent.until("two cards", |report| report.reading.cards.len() == 2).await;
    fake.set(&(host(2).replace(&card(1), &card(1).replace(" temp=61", " all=!15")) + "xid card=1 code=79\n"));
    let report = agent.until("the error", |report| !report.reading.cards[1].xids.is_empty()).await;
    assert_eq!((report.reading.cards[1].fault, report.reading.cards[0].fault), (Some(CardFault::Lost), None));
    let page = agent.get("/metrics").await.text();
    for (name, label) in [("fault", "fault=\"lost\"} 1.0"), ("xid_errors", "xid=\"79\"} 1.0")] {
        let start = format!("arriero_gpu_{name}{{uuid=\"{}\"", uuid(1));
        assert!(page.lines().any(|line| line.starts_with(&start) && line.ends_with(label)), "{name}:\n{page}");
    }
    assert!(!page.contains(&format!("arriero_gpu_temperature_celsius{{uuid=\"{}\"", uuid(1))), "{page}");
    assert!(agent.program.err.has("xid=79"), "{}", agent.program.err.text());
}

#[tokio::test]
async fn without_the_library_it_serves_and_says_what_to_do() {
    let fake = FakeNvml::new(&host(1));
    fs::remove_file(fake.library()).expect("it was there");
    let agent = Agent::start(&fake, &[]).await;
    let report =
        agent.until("it was looked for", |report| !report.detail.iter().any(|text| text.contains("first"))).await;
    assert_eq!((report.unread, report.reading.cards.len()), (Some(Unread::Silent), 0));
    assert!(report.detail.expect("why").contains("install the driver"));
    let health = agent.get("/health").await;
    assert_eq!((health.head.status, &json(&health)["unread"]), (503, &"silent".into()));
    assert!(agent.get("/metrics").await.text().contains("arriero_gpu_readable{reason=\"silent\"} 0.0"));
}

#[tokio::test]
async fn a_driver_that_hangs_makes_no_answer_wait() {
    let fake = FakeNvml::new(&host(1));
    let agent = Agent::start(&fake, &["--interval", "100ms"]).await;
    agent.until("a card", |report| report.reading.cards.len() == 1).await;
    fake.set(&host(1).replace("host ", "host hang=nvmlDeviceGetFieldValues:10000 "));
    let begun = clock::now();
    let mut slowest = Duration::ZERO;
    loop {
        let asked = clock::now();
        let report = agent.report().await;
        slowest = slowest.max(asked.elapsed());
        if report.unread == Some(Unread::Hangs) {
            break;
        }
        assert!(begun.elapsed() < Duration::from_secs(8), "it is not seen");
    }
    assert!(slowest < Duration::from_secs(1), "an answer took {slowest:?}");
    assert_eq!(agent.get("/health").await.head.status, 503);
    fake.set(&host(1));
    agent.until("it goes on", |report| report.reading.cards.len() == 1).await;
}

#[tokio::test]
async fn where_there_is_a_token_only_its_holder_sees_cards() {
    let fake = FakeNvml::new(&host(1));
    let file = fake.folder().join("token");
    fs::write(&file, format!("{TOKEN}\n")).expect("written");
    let by_file = Agent::start(&fake, &["--token-file", file.to_str().expect("text")]).await;
    let mut command = command(&fake, &["--listen", "127.0.0.1:0"]);
    command.env("ARRIERO_GPU_AGENT_TOKEN", TOKEN);
    let by_variable = Agent::of(command).await;
    for agent in [by_file, by_variable] {
        for path in ["/v1/gpus", "/metrics", "/nothing"] {
            let answer = agent.get(path).await;
            assert_eq!(answer.head.field("www-authenticate"), Some("Bearer"), "{path}");
            let (status, detail) = problem(&answer);
            assert_eq!(status, 401, "{path}");
            assert!(detail.contains("Authorization: Bearer"), "{detail}");
        }
        let with =
            |token: &str| format!("GET /v1/gpus HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {token}\r\n\r\n");
        assert_eq!(ask(agent.address, with("another")).await.head.status, 401);
        let answer = ask(agent.address, with(TOKEN)).await;
        assert_eq!(answer.head.status, 200);
        assert!(answer.text().contains("\"hostname\""), "{}", answer.text());
        let health = agent.get("/health").await.head.status;
        assert!(matches!(health, 200 | 503), "{health}");
        assert!(!agent.program.err.has(TOKEN));
    }
}

#[tokio::test]
async fn nothing_but_get_is_answered() {
    let fake = FakeNvml::new(&host(1));
    let agent = Agent::start(&fake, &[]).await;
    for method in ["POST", "PUT", "PATCH", "DELETE", "OPTIONS"] {
        for path in ["/v1/gpus", "/health", "/nothing"] {
            let request = format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n\r\n{{}}");
            let answer = ask(agent.address, request).await;
            assert_eq!(answer.head.field("allow"), Some("GET"), "{method} {path}");
            assert_eq!(problem(&answer).0, 405, "{method} {path}");
        }
    }
    assert_eq!(problem(&agent.get("/nothing").await).0, 404);
}

#[tokio::test]
async fn nobody_gets_more_than_a_little_of_it() {
    let fake = FakeNvml::new(&host(1));
    let agent = Agent::start(&fake, &[]).await;
    let long = format!("GET /health HTTP/1.1\r\nHost: localhost\r\nX: {}\r\n\r\n", "x".repeat(64 << 10));
    let mut refused = H1::connect(agent.address).await;
    // It may be refused before all of it was sent.
    drop(refused.try_send(&long).await);
    if let Some(head) = refused.reader.try_head().await {
        assert_eq!(head.status, 431, "{}", head.text);
    }
    let fields = format!("GET /health HTTP/1.1\r\n{}\r\n", "A: b\r\n".repeat(100));
    assert_eq!(ask(agent.address, fields).await.head.status, 431);

    let mut slow = H1::connect(agent.address).await;
    slow.send("GET /health HT").await;
    let begun = clock::now();
    let rest = slow.reader.rest().await;
    assert!((5.0..15.0).contains(&begun.elapsed().as_secs_f64()), "{:?} {rest:?}", begun.elapsed());

    // Each of them has been served once, so it holds a place.
    let mut held = Vec::new();
    for _ in 0..32 {
        let mut one = H1::connect(agent.address).await;
        one.ask(get("/health")).await;
        held.push(one);
    }
    let mut more = H1::connect(agent.address).await;
    drop(more.try_send(get("/health")).await);
    assert!(more.reader.try_head().await.is_none(), "there are places without end");
    drop(held);
    eventually("places are free again", async || {
        let mut one = H1::connect(agent.address).await;
        drop(one.try_send(get("/health")).await);
        one.reader.try_head().await.is_some()
    })
    .await;
}

#[tokio::test]
async fn what_cannot_be_served_safely_is_not_served() {
    let fake = FakeNvml::new(&host(1));
    for address in ["0.0.0.0:0", "[::]:0"] {
        let ended = finish(command(&fake, &["--listen", address])).await;
        assert_eq!(ended.code, Some(1), "{ended:?}");
        assert!(ended.err.contains("a token is needed") && ended.err.contains("--token-file"), "{ended:?}");
    }
    let short = fake.folder().join("short");
    fs::write(&short, "secret\n").expect("written");
    let missing = fake.folder().join("missing");
    for (file, word) in [(short, "random characters"), (missing, "cannot be read")] {
        let file = file.to_str().expect("text");
        let ended = finish(command(&fake, &["--listen", "127.0.0.1:0", "--token-file", file])).await;
        assert_eq!(ended.code, Some(1), "{ended:?}");
        assert!(ended.err.contains(word) && !ended.err.contains("secret"), "{ended:?}");
    }
    let ended = finish(command(&fake, &["--listen", "nowhere"])).await;
    assert_eq!((ended.code, ended.err.contains("no address to listen on")), (Some(1), true), "{ended:?}");
    let ended = finish(command(&fake, &["--interval", "1ms"])).await;
    assert_eq!((ended.code, ended.err.contains("100ms")), (Some(2), true), "{ended:?}");
}

#[tokio::test]
async fn once_prints_the_report_and_ends() {
    let fake = FakeNvml::new(&host(2));
    let ended = finish(command(&fake, &["--once"])).await;
    assert_eq!((ended.code, ended.err.as_str()), (Some(0), ""), "{ended:?}");
    let report: Report = serde_json::from_str(&ended.out).expect("a report");
    assert_eq!((report.unread, report.reading.cards.len()), (None, 2));
    fake.set("host init=!9\n");
    let ended = finish(command(&fake, &["--once"])).await;
    assert_eq!((ended.code, ended.out.as_str()), (Some(1), ""), "{ended:?}");
    assert!(ended.err.contains("modprobe nvidia"), "{ended:?}");
}

#[tokio::test]
async fn a_signal_ends_it_in_order_also_when_the_driver_hangs() {
    let fake = FakeNvml::new(&host(1).replace("host ", "host hang=nvmlDeviceGetUUID:60000 "));
    let mut agent = Agent::start(&fake, &[]).await;
    let mut idle = H1::connect(agent.address).await;
    idle.ask(get("/health")).await;
    let begun = clock::now();
    agent.program.signal(Signal::TERM);
    assert_eq!(agent.program.ended().await.code, Some(0));
    assert!(begun.elapsed() < PATIENCE / 4, "{:?}", begun.elapsed());
}

#[tokio::test]
async fn a_web_page_that_gives_this_host_another_name_sees_nothing() {
    let fake = FakeNvml::new(&host(1));
    let agent = Agent::start(&fake, &[]).await;
    let by = async |host: &str| ask(agent.address, format!("GET /metrics HTTP/1.1\r\nHost: {host}\r\n\r\n")).await;
    for name in ["localhost", "127.0.0.1:9845", "[::1]:9845"] {
        assert_eq!(by(name).await.head.status, 200, "{name}");
    }
    for name in ["evil.test", "evil.test:9845", "127.0.0.1.evil.test", ""] {
        assert_eq!(problem(&by(name).await).0, 421, "{name}");
    }
}

/// What a process takes of its host.
struct Usage {
    /// Seconds of processor time.
    time: f64,
    /// Bytes in memory.
    resident: f64,
    /// Those of them that are not pages of files.
    own: f64,
}

fn usage(process: u32) -> Usage {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).expect("it runs");
    let after = stat.rsplit_once(')').expect("a name").1;
    let ticks: f64 = after.split_whitespace().skip(11).take(2).map(|text| text.parse::<f64>().expect("ticks")).sum();
    let status = fs::read_to_string(format!("/proc/{process}/status")).expect("it runs");
    let bytes = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)).expect("a line");
        line.trim().trim_end_matches(" kB").parse::<f64>().expect("a number") * 1024.0
    };
    let second = rustix::param::clock_ticks_per_second() as f64;
    Usage { time: ticks / second, resident: bytes("VmRSS:"), own: bytes("RssAnon:") }
}

#[tokio::test]
async fn it_costs_next_to_nothing() {
    let fake = FakeNvml::new(&host(8));
    let agent = Agent::start(&fake, &["--interval", "1s"]).await;
    agent.until("eight cards", |report| report.reading.cards.len() == 8).await;
    let (before, begun) = (usage(agent.program.id()), clock::now());
    let mut turn = tokio::time::interval(Duration::from_secs(1));
    for _ in 0..20 {
        turn.tick().await;
        agent.report().await;
    }
    let now = usage(agent.program.id());
    let share = (now.time - before.time) / begun.elapsed().as_secs_f64();
    let told =
        format!("{:.2} % of a core, {:.1} MB, {:.1} MB its own", share * 100.0, now.resident / 1e6, now.own / 1e6);
    println!("{told}");
    // The stand-in reads a file at each of its 200 calls. Without optimisation our code takes three times as long, and what is
    // in memory of the program's file is larger than all that it may have.
    let (most, largest) = if cfg!(debug_assertions) { (0.03, f64::INFINITY) } else { (0.01, 20e6) };
    assert!(share < most && now.resident < largest && now.own < 8e6, "{told}");
}
