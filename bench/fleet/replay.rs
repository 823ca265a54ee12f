//! The replay: one trace, one fleet, one proxy after the other, several seeds.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use arriero::clock;
use arriero::demo::{Counts, Fleet, Host, Plan};
use serde::Serialize;
use tokio::task::JoinSet;

use crate::arriero_yaml::Wanted;
use crate::capacity::{self, Placement, Traffic};
use crate::client::{self, Answer, Call};
use crate::figures::{jain, mean, percentile};
use crate::proxies::{Behind, Proxy};
use crate::random;
use crate::setup::Setup;
use crate::trace::{self, Arrival};
use crate::workload::{self, Request};
use crate::{Options, ready};

/// The first tenth warms up: it runs and counts for loads and errors, its times are not scored.
const WARM_UP: f64 = 0.1;
/// Users with fewer scored requests do not count for fairness.
const FEW: usize = 5;

/// One run, in figures. Seconds are the fleet's.
#[derive(Clone, Debug, Serialize)]
pub struct Figures {
    pub policy: String,
    pub seed: u64,
    pub requests: usize,
    /// Requests a second.
    pub rate: f64,
    /// Seconds from when a request was due to its first line.
    pub p50: f64,
    pub p95: f64,
    pub p99: f64,
    pub mean: f64,
    /// Seconds until a request had a slot on a loaded model, on average and at the 99th percentile.
    pub wait: f64,
    pub wait_p99: f64,
    /// Answers in full, a second.
    pub throughput: f64,
    pub errors: BTreeMap<String, usize>,
    pub loads: usize,
    /// Unloads to make room, by the servers or on request of the proxy.
    pub evictions: usize,
    /// Executions beyond the first of each request.
    pub duplicates: usize,
    /// Loads whose request went away before they were done.
    pub cancelled_loads: usize,
    /// Executions that the proxy broke off.
    pub abandoned: usize,
    /// Jain's index over the users' mean times to the first line.
    pub jain: f64,
    /// How late requests were sent, 99th percentile, in milliseconds of the wall.
    pub late_ms: f64,
}

/// What all runs share.
pub struct Replay {
    setup: Setup,
    trace: Option<Vec<Arrival>>,
    shares: Vec<f64>,
}

impl Replay {
    /// Reads the trace and sets the fleet up.
    pub fn new(options: &Options) -> Result<Self, String> {
        let setup = Setup::new(options.fleet, options.models, options.parallel);
        let trace = options.trace.as_deref().map(trace::read).transpose()?;
        let weights = random::zipf(setup.models.len(), options.zipf);
        let all: f64 = weights.iter().sum();
        Ok(Self { setup, trace, shares: weights.into_iter().map(|weight| weight / all).collect() })
    }

    /// The fleet.
    pub fn setup(&self) -> &Setup {
        &self.setup
    }

    /// The requests of a seed, the best fixed placement for them, and the rate at which they come.
    fn requests(&self, options: &Options, seed: u64) -> (Vec<Request>, Placement, f64) {
        let made_up;
        let trace = if let Some(trace) = &self.trace {
            trace
        } else {
            made_up = trace::made_up(seed);
            &made_up
        };
        let traffic = Traffic { shares: self.shares.clone(), means: trace::means(trace) };
        let placement = capacity::best(&self.setup, &traffic);
        let rate = options.util * placement.rate;
        (workload::requests(trace, options.n, rate, &self.shares, seed), placement, rate)
    }

    /// Runs one policy with one seed, on a fleet that has nothing loaded.
    pub async fn run(&self, options: &Options, policy: &str, seed: u64) -> Result<Figures, String> {
        let (requests, placement, rate) = self.requests(options, seed);
        let plan = Plan::new(requests.iter().map(|request| request.planned).collect());
        let fixed = (policy == "static").then_some(&placement);
        let fleet = self.start(options, &plan, fixed.is_some()).await?;
        let behind = behind(&self.setup, &fleet, fixed);
        if fixed.is_some() {
            preload(&behind).await?;
        }
        let before = counts(&fleet);
        let (proxies, _redis) = start_proxies(options, policy, &behind)?;
        for proxy in &proxies {
            ready::wait(proxy, self.setup.models.len()).await?;
        }
        let addresses: Vec<_> = proxies.iter().map(|proxy| proxy.address).collect();
        let (answers, began) = self.play(options, &requests, &addresses).await;
        let now = counts(&fleet);
        let mut figures = score(options, &requests, &answers);
        (figures.policy, figures.seed, figures.rate) = (policy.to_owned(), seed, rate);
        let observed = plan.observed();
        let slots = requests.iter().zip(&observed).skip(warm_up(requests.len())).filter_map(|(request, seen)| {
            let wall = seen.slot?.saturating_duration_since(began).as_secs_f64();
            Some((wall * options.scale - request.due).max(0.0))
        });
        let waits: Vec<f64> = slots.collect();
        (figures.wait, figures.wait_p99) = (mean(&waits), percentile(&waits, 0.99));
        figures.loads = now.loads - before.loads;
        figures.evictions = now.evictions + now.unloads - before.evictions - before.unloads;
        figures.cancelled_loads = now.cancelled_loads - before.cancelled_loads;
        figures.duplicates = observed.iter().map(|seen| seen.begun.saturating_sub(1)).sum();
        figures.abandoned = observed.iter().map(|seen| seen.abandoned).sum();
        Ok(figures)
    }

    /// Starts the hosts: on ports from `--port` on, else on free ones.
    pub async fn start(&self, options: &Options, plan: &Arc<Plan>, forever: bool) -> Result<Fleet, String> {
        let mut hosts = Vec::new();
        for (place, mut config) in self.setup.hosts(options.scale, plan).into_iter().enumerate() {
            if forever {
                config.keep_alive = Duration::from_hours(24);
            }
            let port = options.port.map_or(0, |port| port + u16::try_from(place).unwrap_or(0));
            let started = Host::start_on(SocketAddr::from(([127, 0, 0, 1], port)), config).await;
            hosts.push(started.map_err(|error| format!("cannot listen on port {port}: {error}"))?);
        }
        Ok(Fleet { hosts })
    }

    async fn play(
        &self,
        options: &Options,
        requests: &[Request],
        addresses: &[SocketAddr],
    ) -> (Vec<Answer>, std::time::Instant) {
        let began = clock::now() + Duration::from_millis(300);
        let timeout = Duration::from_secs_f64(options.timeout);
        let mut running = JoinSet::new();
        for request in requests {
            let name = self.setup.models[request.model].name.clone();
            let due = began + Duration::from_secs_f64(request.due / options.scale);
            let (number, body) = (request.number, request.body(&name));
            let headers = format!("X-Model: {name}\r\nX-User: u{}\r\n", request.user);
            let call = Call { target: "POST /api/chat", headers, body };
            let address = addresses[number % addresses.len()];
            running.spawn(async move { (number, client::ask(address, call, due, timeout).await) });
        }
        let mut answers = vec![Answer::default(); requests.len()];
        while let Some(done) = running.join_next().await {
            let (number, answer) = done.expect("a client does not panic");
            answers[number] = answer;
        }
        (answers, began)
    }
}

/// The servers as proxies are told of them: all that have a model, or those of a fixed placement, weighted.
pub fn behind(setup: &Setup, fleet: &Fleet, fixed: Option<&Placement>) -> Vec<Behind> {
    let slowest = setup.servers.iter().map(|server| server.card.prefill).fold(f64::MAX, f64::min);
    let server = |(place, host): (usize, &Host)| {
        let server = &setup.servers[place];
        let models = fixed.map_or(&server.models, |placement| &placement.kept[place]);
        Behind {
            name: server.name.clone(),
            address: host.address(),
            models: models.iter().map(|model| setup.models[*model].name.clone()).collect(),
            weight: if fixed.is_some() { (server.card.prefill / slowest).round() as usize } else { 1 },
            slots: setup.parallel,
            memory: server.card.memory / 1_000_000_000,
        }
    };
    fleet.hosts.iter().enumerate().map(server).collect()
}

/// What stands in front, and the Redis of a cluster.
fn start_proxies(options: &Options, policy: &str, behind: &[Behind]) -> Result<(Vec<Proxy>, Option<Proxy>), String> {
    let foreign = matches!(policy, "nginx_rr" | "nginx_lc" | "static" | "haproxy_lc" | "proxy");
    if foreign || options.instances <= 1 {
        return Ok((vec![start_proxy(options, policy, behind)?], None));
    }
    let redis = Proxy::redis()?;
    let mut proxies = Vec::new();
    for number in 0..options.instances {
        let mut wanted = Wanted::new(policy, options.scale);
        wanted.top = format!("cluster: {{ redis: \"redis://{}\", instance: i{number} }}\n", redis.address);
        proxies.push(Proxy::arriero(&options.arriero(), &wanted.yaml(behind), &[])?);
    }
    Ok((proxies, Some(redis)))
}

fn start_proxy(options: &Options, policy: &str, behind: &[Behind]) -> Result<Proxy, String> {
    match policy {
        "nginx_rr" => Proxy::nginx(behind, false),
        "nginx_lc" | "static" => Proxy::nginx(behind, true),
        "haproxy_lc" => Proxy::haproxy(behind),
        "proxy" => Proxy::running(options.proxy.ok_or("the policy `proxy` needs `--proxy HOST:PORT`")?),
        other => Proxy::arriero(&options.arriero(), &Wanted::new(other, options.scale).yaml(behind), &[]),
    }
}

/// Loads what a fixed placement keeps, before the run.
async fn preload(behind: &[Behind]) -> Result<(), String> {
    for server in behind {
        for model in &server.models {
            let body = format!(r#"{{"model":"{model}"}}"#).into_bytes();
            let call = Call { target: "POST /api/generate", headers: String::new(), body };
            let answer = client::ask(server.address, call, clock::now(), Duration::from_mins(1)).await;
            if let Some(error) = answer.error {
                return Err(format!("cannot preload {model} on {}: {error}", server.name));
            }
        }
    }
    Ok(())
}

/// What happened to the memory of all hosts.
pub fn counts(fleet: &Fleet) -> Counts {
    let each = fleet.hosts.iter().map(|host| host.ledger().counts());
    each.fold(Counts::default(), |sum, one| Counts {
        loads: sum.loads + one.loads,
        evictions: sum.evictions + one.evictions,
        unloads: sum.unloads + one.unloads,
        cancelled_loads: sum.cancelled_loads + one.cancelled_loads,
    })
}

fn warm_up(requests: usize) -> usize {
    (requests as f64 * WARM_UP) as usize
}

/// What the clients saw.
fn score(options: &Options, requests: &[Request], answers: &[Answer]) -> Figures {
    let scored = || requests.iter().zip(answers).skip(warm_up(requests.len())).filter(|(_, answer)| answer.good());
    let first = |answer: &Answer| answer.first.map(|first| first * options.scale);
    let times: Vec<f64> = scored().filter_map(|(_, answer)| first(answer)).collect();
    let mut users: BTreeMap<usize, Vec<f64>> = BTreeMap::new();
    for (request, answer) in scored() {
        users.entry(request.user).or_default().extend(first(answer));
    }
    let users: Vec<f64> = users.values().filter(|times| times.len() >= FEW).map(|times| mean(times)).collect();
    let mut errors = BTreeMap::new();
    for error in answers.iter().filter_map(|answer| answer.error.clone()) {
        *errors.entry(error).or_default() += 1;
    }
    let end = requests.iter().zip(answers).map(|(request, answer)| request.due + answer.end * options.scale);
    let late: Vec<f64> = answers.iter().map(|answer| answer.sent * 1000.0).collect();
    Figures {
        policy: String::new(),
        seed: 0,
        requests: requests.len(),
        rate: 0.0,
        p50: percentile(&times, 0.5),
        p95: percentile(&times, 0.95),
        p99: percentile(&times, 0.99),
        mean: mean(&times),
        wait: 0.0,
        wait_p99: 0.0,
        throughput: answers.iter().filter(|answer| answer.good()).count() as f64 / end.fold(1e-9, f64::max),
        errors,
        loads: 0,
        evictions: 0,
        duplicates: 0,
        cancelled_loads: 0,
        abandoned: 0,
        jain: jain(&users),
        late_ms: percentile(&late, 0.99),
    }
}
