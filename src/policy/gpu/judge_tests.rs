//! What the tests of the judge share: a host whose time is moved by hand.

use std::time::{Duration, Instant};

use super::judge::{Answer, Judge, Resident};
use super::reading::{Card, Reading, Throttle, Unread};
use super::verdict::{ModelVerdict, Signal, State};
use crate::clock;

/// From one reading to the next.
pub(super) const POLL: u64 = 10;
const GIB: u64 = 1 << 30;

/// A server and the time there.
pub(super) struct Rig {
    pub(super) judge: Judge,
    start: Instant,
    /// Seconds since the start.
    pub(super) seconds: u64,
    /// The state of the server, and how often it changed.
    state: State,
    pub(super) changes: Vec<u64>,
    pub(super) boot: Option<String>,
}

impl Rig {
    pub(super) fn new() -> Self {
        let start = clock::now();
        let mut judge = Judge::new(start);
        judge.set_interval(Duration::from_secs(POLL));
        Self { judge, start, seconds: 0, state: State::Healthy, changes: Vec::new(), boot: Some("one".into()) }
    }

    pub(super) fn now(&self) -> Instant {
        self.start + Duration::from_secs(self.seconds)
    }

    /// Milliseconds since 1970.
    pub(super) fn unix_ms(&self) -> u64 {
        1_800_000_000_000 + self.seconds * 1000
    }

    pub(super) fn wait(&mut self, seconds: u64) {
        self.seconds += seconds;
    }

    /// A reading, now.
    pub(super) fn see(&mut self, cards: &[Card]) -> State {
        let reading = Reading { cards: cards.to_vec(), boot_id: self.boot.clone(), driver: Some("570".into()) };
        let (now, unix_ms) = (self.now(), self.unix_ms());
        self.judge.read(&reading, now, unix_ms);
        self.state()
    }

    /// A reading after an interval.
    pub(super) fn poll(&mut self, cards: &[Card]) -> State {
        self.wait(POLL);
        self.see(cards)
    }

    /// Readings for so many seconds.
    pub(super) fn polls(&mut self, cards: &[Card], seconds: u64) -> State {
        for _ in 0..seconds / POLL {
            self.poll(cards);
        }
        self.state()
    }

    pub(super) fn unread(&mut self, why: Unread) -> State {
        self.wait(POLL);
        let now = self.now();
        self.judge.not_read(why, now);
        self.state()
    }

    /// A poll of `/api/ps`, five seconds after the last: models with MiB of all, and on the card.
    pub(super) fn list(&mut self, models: &[(&str, u64, u64)]) -> State {
        self.wait(5);
        self.list_now(models)
    }

    pub(super) fn list_now(&mut self, models: &[(&str, u64, u64)]) -> State {
        let models: Vec<Resident<'_>> = models
            .iter()
            .map(|(name, size, size_vram)| Resident { name, size: size << 20, size_vram: size_vram << 20 })
            .collect();
        let now = self.now();
        self.judge.residents(&models, now);
        self.state()
    }

    pub(super) fn answer(&mut self, model: &str, tokens_per_second: f64, first_token: f64) -> State {
        self.wait(1);
        let answer = Answer {
            tokens: 100,
            decode: Duration::from_secs_f64(100.0 / tokens_per_second),
            first_token: Some(Duration::from_secs_f64(first_token)),
        };
        let now = self.now();
        self.judge.answered(model, answer, now);
        self.state()
    }

    /// Two health checks that go well.
    pub(super) fn probe_twice(&mut self) -> State {
        for _ in 0..2 {
            let now = self.now();
            self.judge.probed(true, now);
        }
        self.state()
    }

    /// The state of the server. What it is due to is always said.
    pub(super) fn state(&mut self) -> State {
        let now = self.now();
        let verdict = self.judge.verdict(now);
        if verdict.state != self.state {
            self.changes.push(self.seconds);
            self.state = verdict.state;
        }
        let named = verdict.reasons.iter().any(|reason| reason.model.is_none() && reason.state == verdict.state);
        let worse = verdict.reasons.iter().any(|reason| reason.model.is_none() && reason.state > verdict.state);
        assert!(verdict.state == State::Healthy || named || worse, "{verdict:?}");
        verdict.state
    }

    pub(super) fn signals(&mut self) -> Vec<Signal> {
        let now = self.now();
        self.judge.verdict(now).reasons.iter().map(|reason| reason.signal).collect()
    }

    pub(super) fn notes(&mut self) -> Vec<String> {
        let now = self.now();
        self.judge.verdict(now).notes
    }

    pub(super) fn model(&mut self, name: &str) -> Option<ModelVerdict> {
        let now = self.now();
        self.judge.verdict(now).models.into_iter().find(|model| model.model == name)
    }

    pub(super) fn model_state(&mut self, name: &str) -> State {
        self.model(name).map_or(State::Healthy, |model| model.state)
    }

    /// At most two changes of the server within any ten minutes.
    pub(super) fn assert_calm(&self) {
        assert_calm(&self.changes);
    }
}

pub(super) fn assert_calm(changes: &[u64]) {
    for at in changes {
        let within = changes.iter().filter(|other| (*at..at + 600).contains(other)).count();
        assert!(within <= 2, "{changes:?}");
    }
}

/// A card that is well and tells everything.
pub(super) fn card(index: u32) -> Card {
    Card {
        uuid: Some(format!("GPU-{index:04}")),
        index: Some(index),
        name: Some("NVIDIA A100-SXM4-80GB".into()),
        memory_total: Some(80 * GIB),
        memory_used: Some(GIB),
        memory_free: Some(79 * GIB),
        temperature: Some(75.0),
        margin: Some(15.0),
        memory_temperature: Some(80.0),
        memory_margin: Some(25.0),
        throttle: Some(Throttle(0)),
        ecc_uncorrected: Some(0),
        remapped_rows: Some(0),
        remap_pending: Some(false),
        remap_failed: Some(false),
        retired_pages: Some(0),
        recovery_action: Some(super::reading::RecoveryAction::None),
        pcie_replays: Some(5),
        pcie_generation: Some(4),
        pcie_width: Some(16),
        nvlink_crc: Some(0),
        nvlink_errors: Some(0),
        ..Card::default()
    }
}
