//! How well all of it is: one number with its parts, and what is behind it.

use std::collections::BTreeMap;
use std::sync::Arc;

use aide::axum::ApiRouter;
use aide::axum::routing::get_with;
use axum::Json;
use axum::extract::State as Extract;
use schemars::JsonSchema;
use serde::Serialize;

use super::State;
use super::handlers::{Servers, count, status_of};
use super::openapi::about;
use crate::clock;
use crate::fleet::process::Sample;
use crate::fleet::snapshot::Snapshot;
use crate::policy::circuit;
use crate::policy::failure::Reason;
use crate::policy::health_score::{Certificate, Facts, Score, score};
use crate::policy::resources::{Resource, Share};
use crate::version;

type Shared = Extract<Arc<State>>;

/// The paths of this topic.
pub fn routes() -> ApiRouter<Arc<State>> {
    ApiRouter::new()
        .api_route("/health", get_with(detailed, about("getHealth", "The whole picture of health")))
        .api_route("/health-score", get_with(scored, about("getHealthScore", "The score and its parts")))
}

/// A part of the health score.
#[derive(Clone, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PartView {
    /// Its name.
    pub name: &'static str,
    /// Its points.
    pub points: u8,
    /// The most that it can have.
    pub of: u8,
    /// Why it has not all of them; empty when it has.
    pub why: String,
}

/// The health score.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct ScoreView {
    /// Always true.
    success: bool,
    /// From 0 to 100.
    score: u8,
    /// `excellent` from 90, `good` from 70, `warning` from 50, else `critical`.
    band: &'static str,
    /// What it is made of.
    parts: Vec<PartView>,
}

/// The queues, all together.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct QueueView {
    /// Requests that wait for a slot.
    waiting: usize,
    /// A queue is paused.
    paused: bool,
    /// How full the fullest queue of a model is, from 0 to 1.
    fullest: f64,
}

/// The requests of the last 5 minutes, or since the start if that is later.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct RequestsView {
    /// Requests that run.
    in_flight: u64,
    /// Over how many seconds the following is counted.
    window_seconds: u64,
    /// Requests that ended.
    ended: u64,
    /// Requests a second.
    per_second: f64,
    /// Those that failed though they were right.
    failed: u64,
    /// How many ended for each reason but `ok`; reasons that did not occur are left out.
    by_reason: BTreeMap<&'static str, u64>,
}

/// So much of so much.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct ShareView {
    /// What is used.
    used: u64,
    /// What there is.
    limit: u64,
    /// The used part in hundredths.
    percent: f64,
}

impl From<Share> for ShareView {
    fn from(share: Share) -> Self {
        Self { used: share.used, limit: share.of, percent: tenths(share.percent()) }
    }
}

/// A folder that is written to, and its disk.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct DiskView {
    /// `data_dir` or `temp_dir`.
    folder: &'static str,
    /// Where it is.
    path: String,
    /// Its disk, in bytes.
    #[serde(flatten)]
    share: ShareView,
}

/// Hundredths of the last minute in which tasks of the machine had to wait.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct PressureView {
    /// Some waited for a processor.
    cpu: Option<f64>,
    /// All waited for memory.
    memory: Option<f64>,
    /// All waited for disks.
    io: Option<f64>,
}

/// Our own process. What could not be measured is null.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct ProcessView {
    /// Memory in bytes: of the container where `limited`, else of the machine.
    memory: Option<ShareView>,
    /// A control group limits the memory.
    limited: bool,
    /// Bytes of memory that the process has for itself.
    resident: Option<u64>,
    /// Processor time of the last seconds, in hundredths of all that it may use.
    cpu_percent: Option<f64>,
    /// Processors that it may use.
    cpus: usize,
    /// File descriptors.
    files: Option<ShareView>,
    /// Where it writes to.
    disks: Vec<DiskView>,
    /// Waiting on the machine.
    pressure: PressureView,
    /// The thresholds, in hundredths.
    thresholds: BTreeMap<&'static str, u8>,
    /// Resources above their threshold.
    exceeded: Vec<&'static str>,
}

/// The configuration.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct ConfigView {
    /// Hash of the configuration in force.
    hash: String,
    /// Whether the file on disk is in force.
    in_force: bool,
    /// Why not.
    error: Option<String>,
}

/// A certificate of a listener or of an upstream.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct CertificateView {
    /// Its first name.
    name: String,
    /// The last second of its validity, since 1970.
    not_after: i64,
    /// Whole days until then; negative when it has ended.
    days_left: i64,
}

/// Everything at once.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct Detailed {
    /// Always true.
    success: bool,
    /// `healthy`, `degraded` or `unhealthy`, by the servers alone.
    status: &'static str,
    /// From 0 to 100.
    score: u8,
    /// What the score means.
    band: &'static str,
    /// What it is made of.
    parts: Vec<PartView>,
    /// Seconds since the start.
    uptime: u64,
    /// Version of this program.
    version: &'static str,
    /// The commit that it was built from; null where that is not known.
    revision: Option<&'static str>,
    /// Number of the process.
    pid: u32,
    /// The servers.
    servers: Servers,
    /// The queues.
    queue: QueueView,
    /// What Arriero is made of, each `up`, `degraded` or `down`.
    services: BTreeMap<&'static str, &'static str>,
    /// The requests.
    requests: RequestsView,
    /// Our own process.
    process: ProcessView,
    /// The configuration.
    config: ConfigView,
    /// The certificates.
    certificates: Vec<CertificateView>,
}

/// What health is told from, read once for an answer.
pub struct Picture {
    snapshot: Arc<Snapshot>,
    /// The servers.
    pub servers: Servers,
    facts: Facts,
    /// Requests that wait.
    pub waiting: usize,
    ended: [u64; Reason::ALL.len()],
    over: std::time::Duration,
    sample: Arc<Sample>,
    exceeded: Vec<Resource>,
    config: crate::fleet::reload::Status,
    stopping: bool,
    /// The score.
    pub score: Score,
}

impl Picture {
    /// Reads it.
    pub fn of(state: &State) -> Self {
        let snapshot = state.store.pin();
        let now = clock::now();
        let servers = count(state);
        let lately = state.store.process.lately(state.metrics.ended_so_far(), now);
        let sample = state.store.process.sample();
        let exceeded = snapshot.thresholds.exceeded(&sample.usage());
        let config = state.reloader.status();
        let failed = Reason::ALL.iter().zip(lately.by).filter(|(reason, _)| reason.is_failure()).map(|(_, n)| n).sum();
        let mut facts = Facts {
            working: servers.working,
            missing: servers.total.saturating_sub(servers.working + servers.draining + servers.maintenance),
            requests: lately.by.iter().sum(),
            failed,
            exceeded: exceeded.len(),
            refused: !config.in_force,
            certificate: worst(&snapshot),
            ..Facts::default()
        };
        let mut waiting = 0;
        for upstream in &snapshot.upstreams {
            let takes_work = |member: &crate::fleet::snapshot::Member| {
                member.state.is_up() && member.state.standing(now).takes_work()
            };
            facts.empty_upstreams += usize::from(!upstream.servers.iter().any(takes_work));
            facts.paused |= upstream.dispatcher.is_paused();
            for here in upstream.queues().into_values() {
                waiting += here;
                facts.queue =
                    facts.queue.max(Share { used: here as u64, of: upstream.schedule.max_pending as u64 }.ratio());
            }
            for member in &upstream.servers {
                let [closed, open, half_open] = member.state.circuits.models_in_states(now);
                let own = member.state.circuit_state(now) == circuit::State::Closed;
                facts.closed += closed + usize::from(own);
                facts.circuits += closed + open + half_open + 1;
            }
        }
        let score = score(&facts);
        let stopping = *state.stopping.borrow();
        let (ended, over) = (lately.by, lately.over);
        Self { snapshot, servers, facts, waiting, ended, over, sample, exceeded, config, stopping, score }
    }

    /// The parts of the score.
    pub fn parts(&self) -> Vec<PartView> {
        let view = |part: &crate::policy::health_score::Part| PartView {
            name: part.name,
            points: part.points,
            of: part.of,
            why: part.why.clone(),
        };
        self.score.parts.iter().map(view).collect()
    }

    /// What Arriero is made of, each `up`, `degraded` or `down`.
    pub fn services(&self) -> BTreeMap<&'static str, &'static str> {
        let word = |up: bool, works: bool| match (up, works) {
            (true, _) => "up",
            (false, true) => "degraded",
            (false, false) => "down",
        };
        let facts = &self.facts;
        let full = facts.queue >= 1.0;
        BTreeMap::from([
            ("proxy", word(!self.stopping, true)),
            (
                "fleet",
                word(facts.missing == 0 && facts.empty_upstreams == 0, facts.working > 0 || self.servers.total == 0),
            ),
            ("queue", word(!facts.paused && !full, !facts.paused)),
            ("config", word(!facts.refused, true)),
            ("certificates", word(facts.certificate == Certificate::Good, facts.certificate != Certificate::Ended)),
            ("resources", word(self.exceeded.is_empty(), true)),
        ])
    }

    /// Sets the gauges of the process.
    pub fn measure(&self, gauges: &crate::telemetry::resource_metrics::ResourceGauges) {
        let sample = &self.sample;
        sample.memory.iter().for_each(|share| gauges.memory(share.used, share.of));
        sample.cpu.iter().for_each(|share| gauges.cpu(*share));
        sample.files.iter().for_each(|share| gauges.files(share.used, share.of));
        sample.disks.iter().for_each(|disk| gauges.disk(disk.what, disk.share.used, disk.share.free()));
        for resource in Resource::ALL {
            gauges.exceeded(resource.as_str(), self.exceeded.contains(&resource));
        }
        gauges.score(self.score.value);
    }

    fn requests(&self) -> RequestsView {
        let ended: u64 = self.ended.iter().sum();
        let seconds = self.over.as_secs_f64().max(1.0);
        let lately = Reason::ALL.iter().zip(self.ended).filter(|(reason, count)| **reason != Reason::Ok && *count > 0);
        RequestsView {
            in_flight: self.snapshot.upstreams.iter().map(|upstream| upstream.in_flight()).sum(),
            window_seconds: self.over.as_secs(),
            ended,
            #[expect(clippy::cast_precision_loss, reason = "a rate")]
            per_second: (ended as f64 / seconds * 1e3).round() / 1e3,
            failed: self.facts.failed,
            by_reason: lately.map(|(reason, count)| (reason.as_str(), count)).collect(),
        }
    }

    fn process(&self) -> ProcessView {
        let sample = &self.sample;
        let thresholds = &self.snapshot.thresholds;
        let disk = |disk: &crate::fleet::process::Disk| DiskView {
            folder: disk.what,
            path: disk.path.display().to_string(),
            share: disk.share.into(),
        };
        ProcessView {
            memory: sample.memory.map(ShareView::from),
            limited: sample.limited,
            resident: sample.resident,
            cpu_percent: sample.cpu.map(|share| tenths(share * 100.0)),
            cpus: sample.cpus,
            files: sample.files.map(ShareView::from),
            disks: sample.disks.iter().map(disk).collect(),
            pressure: PressureView { cpu: sample.pressure.cpu, memory: sample.pressure.memory, io: sample.pressure.io },
            thresholds: Resource::ALL.into_iter().map(|one| (one.as_str(), thresholds.of(one))).collect(),
            exceeded: self.exceeded.iter().map(|one| one.as_str()).collect(),
        }
    }
}

fn tenths(number: f64) -> f64 {
    (number * 10.0).round() / 10.0
}

fn worst(snapshot: &Snapshot) -> Certificate {
    let now = clock::unix_seconds();
    snapshot.certificate_expiries().into_values().map(|end| Certificate::of(end, now)).max().unwrap_or_default()
}

/// The score and its parts.
async fn scored(Extract(state): Shared) -> Json<ScoreView> {
    let picture = Picture::of(&state);
    let parts = picture.parts();
    Json(ScoreView { success: true, score: picture.score.value, band: picture.score.band.as_str(), parts })
}

/// Everything at once; always 200, since it tells and does not judge.
async fn detailed(Extract(state): Shared) -> Json<Detailed> {
    let picture = Picture::of(&state);
    let now = clock::unix_seconds();
    let certificate = |(name, end): (String, i64)| CertificateView {
        name,
        not_after: end,
        days_left: (end - now).div_euclid(86_400),
    };
    Json(Detailed {
        success: true,
        status: status_of(&picture.servers),
        score: picture.score.value,
        band: picture.score.band.as_str(),
        parts: picture.parts(),
        uptime: (clock::now() - state.started).as_secs(),
        version: version::VERSION,
        revision: version::REVISION,
        pid: std::process::id(),
        servers: picture.servers,
        queue: QueueView {
            waiting: picture.waiting,
            paused: picture.facts.paused,
            fullest: (picture.facts.queue * 1e3).round() / 1e3,
        },
        services: picture.services(),
        requests: picture.requests(),
        process: picture.process(),
        config: ConfigView {
            hash: picture.snapshot.hash.clone(),
            in_force: picture.config.in_force,
            error: picture.config.error.clone(),
        },
        certificates: picture.snapshot.certificate_expiries().into_iter().map(certificate).collect(),
    })
}
