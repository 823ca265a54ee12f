//! How the GPUs of a server are, as far as requests, operators and the scheduler want to know.
//!
//! # Shape
//! The [`Judge`] decides; sources, lists of models and the ends of requests tell it. After each look its verdict is written
//! down twice: as a few atomics for whoever chooses a server, and as a [`View`] for whoever wants to see.
//!
//! # Cost
//! A choice reads one atomic, and the view only where a model is worse off than its server. What the end of a request
//! says is kept for the next look.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use parking_lot::Mutex;

use super::server::ServerState;
use crate::config::{ServerUrl, WebhookUrl};
use crate::ollama::wire::Loaded;
use crate::policy::circuit::Cause;
use crate::policy::ejection::Badness;
use crate::policy::gpu::judge::{self, Answer, Judge, Resident};
use crate::policy::gpu::reading::{Card, CardChoice, Reading, Unread};
use crate::policy::gpu::source::Mapping;
use crate::policy::gpu::verdict::{State, Verdict};
use crate::policy::notification::Kind;
use crate::policy::schedule::card::CardMemory;

/// The share of its requests that a server gets whose GPU is degraded.
const DEGRADED: f32 = 0.25;
/// Ends of requests that are kept until the next look; more say nothing new.
const MOST_ANSWERS: usize = 256;

/// What the configuration says about the cards of a server.
#[derive(Clone, Debug, PartialEq)]
pub struct GpuPlan {
    /// Who tells how they are.
    pub source: Option<GpuSource>,
    /// Which of the host's cards the server uses.
    pub cards: CardChoice,
    /// Time between two looks.
    pub interval: Duration,
    /// Bytes that stay free beside the models.
    pub margin: u64,
}

/// Who tells how the cards of a server are.
#[derive(Clone, Debug, PartialEq)]
pub enum GpuSource {
    /// The driver on this machine.
    Nvml,
    /// An agent on the server's host.
    Agent {
        /// Where.
        url: ServerUrl,
        /// File with its token.
        token_file: Option<String>,
    },
    /// An exporter on the server's host.
    Exporter {
        /// Where.
        url: WebhookUrl,
        /// Where its metrics have which value; by their own names otherwise.
        mapping: Option<Mapping>,
    },
}

impl GpuSource {
    /// The word in the admin API.
    #[must_use]
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Nvml => "nvml",
            Self::Agent { .. } => "agent",
            Self::Exporter { .. } => "exporter",
        }
    }
}

/// How the GPUs of a server are, at its last look.
#[derive(Clone, Debug, Default)]
pub struct View {
    /// The state, and what speaks against it.
    pub verdict: Verdict,
    /// Since when it is in that state.
    pub since: Option<Instant>,
    /// Its cards.
    pub cards: Vec<Card>,
    /// Memory of all of them, where it is known.
    pub memory: Option<judge::CardMemory>,
    /// Whether its source answers; `None` where it has none.
    pub source_up: Option<bool>,
    /// Why its source does not.
    pub source_fault: Option<String>,
    /// Whether its models are computed by the processor alone, as far as it listed any.
    pub without_card: bool,
}

/// What the server is told that changed.
#[derive(Clone, Debug)]
pub struct Change {
    /// Before.
    pub from: State,
    /// Now.
    pub to: State,
    /// What speaks against it.
    pub why: String,
}

/// What is known of the GPUs of one server.
pub struct Gpu {
    inner: Mutex<Inner>,
    /// Of the end of requests since the last look.
    answers: Mutex<Vec<(Arc<str>, Answer)>>,
    state: AtomicU8,
    some_model_is_worse: AtomicBool,
    view: ArcSwap<View>,
}

struct Inner {
    judge: Judge,
    source: Option<bool>,
    fault: Option<String>,
    ever_on_card: bool,
    ever_without: bool,
    since: Instant,
}

impl Gpu {
    /// Nothing is known yet.
    #[must_use]
    pub fn new(born: Instant) -> Self {
        let inner = Inner {
            judge: Judge::new(born),
            source: None,
            fault: None,
            ever_on_card: false,
            ever_without: false,
            since: born,
        };
        Self {
            inner: Mutex::new(inner),
            answers: Mutex::default(),
            state: AtomicU8::new(0),
            some_model_is_worse: AtomicBool::new(false),
            view: ArcSwap::default(),
        }
    }

    /// Takes the numbers of a new configuration; what was learned stays.
    pub fn set_plan(&self, plan: Option<&GpuPlan>, now: Instant) {
        let mut inner = self.inner.lock();
        let has_source = plan.is_some_and(|plan| plan.source.is_some());
        if inner.source.is_some() && !has_source {
            // What the source said is nobody's word any more.
            (inner.source, inner.fault) = (None, None);
            inner.judge = Judge::new(now);
            self.note(&mut inner, now);
        }
        if let Some(plan) = plan {
            inner.judge.set_interval(plan.interval);
            inner.judge.set_cards(plan.cards.clone());
        }
    }

    /// Its state.
    pub fn state(&self) -> State {
        State::ALL.get(usize::from(self.state.load(Ordering::Relaxed))).copied().unwrap_or_default()
    }

    /// What of its share of the requests it gets, from 0.25 to 1.
    pub fn share(&self) -> f32 {
        if self.state() == State::Degraded { DEGRADED } else { 1.0 }
    }

    /// The same for a model, which may be worse off there than the server.
    pub fn share_of(&self, model: &str) -> f32 {
        if !self.some_model_is_worse.load(Ordering::Relaxed) {
            return self.share();
        }
        let view = self.view.load();
        let of_model = view.verdict.models.iter().find(|one| one.model == model);
        self.share() * of_model.map_or(1.0, |one| one.weight.clamp(0.01, 1.0) as f32)
    }

    /// All of it.
    pub fn view(&self) -> Arc<View> {
        self.view.load_full()
    }

    /// A source told how the cards are.
    pub fn read(&self, reading: &Reading, now: Instant, unix_ms: u64) -> Option<Change> {
        let mut inner = self.inner.lock();
        (inner.source, inner.fault) = (Some(true), None);
        inner.judge.read(reading, now, unix_ms);
        self.note(&mut inner, now)
    }

    /// A source did not tell.
    pub fn not_read(&self, why: Unread, detail: String, now: Instant) -> Option<Change> {
        let mut inner = self.inner.lock();
        (inner.source, inner.fault) = (Some(false), Some(detail));
        inner.judge.not_read(why, now);
        self.note(&mut inner, now)
    }

    /// The server told what it has in memory.
    pub fn residents(&self, loaded: &[Loaded], now: Instant) -> Option<Change> {
        let rows: Vec<Resident<'_>> = loaded
            .iter()
            .map(|row| Resident { name: row.name.as_str(), size: row.size, size_vram: row.size_vram })
            .collect();
        let mut inner = self.inner.lock();
        inner.ever_on_card |= rows.iter().any(|row| row.size_vram > 0);
        inner.ever_without |= rows.iter().any(|row| row.size > 0 && row.size_vram == 0);
        inner.judge.residents(&rows, now);
        self.note(&mut inner, now)
    }

    /// A request was answered; looked at with the next list of models.
    pub fn answered(&self, model: &str, answer: Answer) {
        let mut answers = self.answers.lock();
        if answers.len() < MOST_ANSWERS {
            answers.push((model.into(), answer));
        }
    }

    /// A check of the server went well, or not.
    pub fn probed(&self, good: bool, now: Instant) {
        self.inner.lock().judge.probed(good, now);
    }

    /// Memory for the scheduler, `margin` bytes of which are to stay free; `None` while nobody tells.
    pub fn card_memory(&self, margin: u64) -> Option<CardMemory> {
        let memory = self.view.load().memory?;
        Some(CardMemory { total: memory.total, used: memory.used, margin })
    }

    /// How bad the server is because of its GPU, where that is a judgement that need not be followed.
    pub fn badness(&self, index: usize) -> Option<Badness> {
        let bad = Badness { cause: Some(Cause::Failures), openings: 0, until: None, index };
        (self.state() == State::Draining).then_some(bad)
    }

    fn note(&self, inner: &mut Inner, now: Instant) -> Option<Change> {
        for (model, answer) in std::mem::take(&mut *self.answers.lock()) {
            inner.judge.answered(&model, answer, now);
        }
        let verdict = inner.judge.verdict(now);
        let (from, to) = (self.state(), verdict.state);
        if from != to {
            inner.since = now;
        }
        let silent = inner.judge.is_silent(now);
        let view = View {
            since: Some(inner.since),
            cards: if silent { Vec::new() } else { inner.judge.cards().to_vec() },
            memory: inner.judge.memory().filter(|_| !silent),
            source_up: inner.source,
            source_fault: inner.fault.clone(),
            without_card: inner.ever_without && !inner.ever_on_card,
            verdict,
        };
        let worse = view.verdict.models.iter().any(|model| model.weight < 1.0);
        let why = view.verdict.reasons.first().map_or_else(
            || "nothing speaks against it".to_owned(),
            |first| format!("{}: {}", first.signal.as_str(), first.detail),
        );
        self.view.store(Arc::new(view));
        self.some_model_is_worse.store(worse, Ordering::Relaxed);
        self.state.store(State::ALL.iter().position(|state| *state == to).unwrap_or(0) as u8, Ordering::Relaxed);
        (from != to).then_some(Change { from, to, why })
    }
}

impl ServerState {
    /// How bad it is for a request for `model`, where that is a judgement that need not be followed; `None` when a request
    /// would pass.
    pub fn badness(&self, model: Option<&str>, now: Instant, index: usize) -> Option<Badness> {
        self.circuits.badness(model, now, index).or_else(|| self.gpu.badness(index))
    }

    /// Logs, counts and tells a change of its GPU's state.
    pub fn gpu_changed(&self, change: &Change) {
        let Change { from, to, why } = change;
        self.metrics.gpu_changed(to.as_str());
        let (server, upstream) = (self.name(), &self.identity.upstream);
        tracing::warn!(server, upstream, from = from.as_str(), to = to.as_str(), why, "GPU state changed");
        let kind = if *to == State::Healthy { Kind::GpuRecovered } else { Kind::GpuUnhealthy };
        let message = format!("server `{server}` ({}): its GPU is {}: {why}", self.identity.url, to.as_str());
        self.events.tell(kind, self.subject(), &message);
    }
}
