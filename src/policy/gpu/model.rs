//! How well one model is on one server, by what Ollama lists and how its answers went.
//!
//! A model that never was on the card is judged by its share of the card only where another model was: a server without
//! a card computes everything on its processor, and that is no illness.

use std::time::{Duration, Instant};

use super::decode::{Lately, SHORT, Usual};
use super::hysteresis::{Enter, Held, Latch, Leave, Moment, Rule, Sample};
use super::judge::{Answer, Resident};
use super::verdict::{ModelVerdict, Reason, Signal, State};

/// Share of a model on the card that is as good as all of it.
const WHOLE: f64 = 0.99;
/// Share below which the server is the last resort for the model.
const HALF: f64 = 0.5;
/// The weight of a last resort.
pub(super) const LAST_RESORT: f64 = 0.01;
/// The weight of a model that is degraded for another reason than its share of the card.
const DEGRADED: f64 = 0.25;
/// How long a model that was computed by the processor is not listed before it may be tried again: without that a server
/// that gets no requests could never show that its card is back.
pub(super) const TRY_AGAIN: Duration = Duration::from_mins(30);
/// The same for one that writes too slowly for new requests: it gets a few as a degraded one.
const TRY_SPEED: Duration = Duration::from_mins(10);

pub(super) const POLLS: Rule = Rule { enter: Enter::Of(2, 2), leave: Leave::Samples(2) };
const ANSWERS: Rule = Rule { enter: Enter::Of(5, 10), leave: Leave::Samples(10) };

/// One model's signals.
#[derive(Clone, Debug)]
pub(super) struct ModelHealth {
    pub(super) name: String,
    /// When something was heard of it last.
    pub(super) touched: Instant,
    /// Since when it is in memory; `None` when it is not.
    pub(super) loaded: Option<Instant>,
    /// When it was listed last.
    listed: Option<Instant>,
    /// Polls in a row that did not list it.
    missed: u32,
    /// Bytes on the card.
    pub(super) on_card: u64,
    /// The same as a share.
    ratio: f64,
    /// The share when it last was not all of it, and what follows from it.
    spilled: f64,
    weight: f64,
    /// Whether it ever was on the card.
    pub(super) was_on_card: bool,
    spill: Latch,
    deep: Latch,
    on_processor: Latch,
    speed: Usual,
    lately: Lately,
    slow: Latch,
    very_slow: Latch,
    first: Usual,
    late: Latch,
    pub(super) held: Held<Reason>,
}

impl ModelHealth {
    pub(super) fn new(name: &str, now: Instant) -> Self {
        Self {
            name: name.to_owned(),
            touched: now,
            loaded: None,
            listed: None,
            missed: 0,
            on_card: 0,
            ratio: 1.0,
            spilled: 1.0,
            weight: 1.0,
            was_on_card: false,
            spill: Latch::default(),
            deep: Latch::default(),
            on_processor: Latch::default(),
            speed: Usual::default(),
            lately: Lately::default(),
            slow: Latch::default(),
            very_slow: Latch::default(),
            first: Usual::default(),
            late: Latch::default(),
            held: Held::default(),
        }
    }

    /// It is in memory. `has_card` says whether any model of the server ever was on a card.
    pub(super) fn listed(&mut self, resident: &Resident<'_>, has_card: bool, at: &Moment) {
        (self.touched, self.listed, self.missed) = (at.now, Some(at.now), 0);
        self.loaded.get_or_insert(at.now);
        self.on_card = resident.size_vram;
        // What has no size is not here at all: it is answered elsewhere.
        if resident.size == 0 {
            self.ratio = 1.0;
            return;
        }
        self.ratio = share(resident.size_vram, resident.size);
        self.was_on_card |= resident.size_vram > 0;
        if self.was_on_card {
            self.on_processor.sample(&POLLS, Sample::bad(resident.size_vram == 0), at);
        }
        if has_card {
            self.spill.sample(&POLLS, Sample::bad(self.ratio < WHOLE), at);
            self.deep.sample(&POLLS, Sample::bad(self.ratio < HALF), at);
            // A share that swings does not make the weight swing: that of a good poll is not taken.
            if self.ratio < WHOLE && self.spill.is_on() {
                self.spilled = self.ratio;
                self.weight = if self.deep.is_on() { LAST_RESORT } else { self.ratio * self.ratio };
            }
        } else {
            self.ratio = 1.0;
        }
    }

    /// It is not in memory any more: how it will be there the next time nobody knows.
    pub(super) fn not_listed(&mut self, at: &Moment) {
        (self.loaded, self.on_card) = (None, 0);
        self.missed = self.missed.saturating_add(1);
        if self.missed >= 2 {
            self.spill.clear();
            self.deep.clear();
        }
        if self.listed.is_some_and(|listed| at.age(listed) >= TRY_AGAIN) {
            self.on_processor.clear();
        }
    }

    /// It answered. Says whether that changed a signal.
    pub(super) fn answered(&mut self, answer: &Answer, at: &Moment) -> bool {
        self.touched = at.now;
        if answer.tokens < SHORT {
            return false;
        }
        let mut changed = false;
        let seconds = answer.decode.as_secs_f64();
        if seconds > 0.0 {
            let speed = f64::from(answer.tokens) / seconds;
            if let Some(usual) = self.speed.median(at.now) {
                let share = speed / usual;
                self.lately.record(share, at.now);
                changed |= self.slow.sample(&ANSWERS, graded(share, 0.5, 0.8), at);
                changed |= self.very_slow.sample(&ANSWERS, graded(share, 0.25, 0.8), at);
            } else {
                changed |= self.slow.is_on() || self.very_slow.is_on();
                self.slow.clear();
                self.very_slow.clear();
            }
            if !self.slow.is_on() {
                self.speed.record(speed, at.now);
            }
        }
        if let Some(first) = answer.first_token.map(|time| time.as_secs_f64()).filter(|seconds| *seconds > 0.0) {
            if let Some(usual) = self.first.median(at.now) {
                changed |= self.late.sample(&ANSWERS, Sample::bad(first > 5.0 * usual), at);
            } else {
                changed |= self.late.is_on();
                self.late.clear();
            }
            if !self.late.is_on() {
                self.first.record(first, at.now);
            }
        }
        changed
    }

    /// How fast it answered lately, as a share of what is usual.
    pub(super) fn lately(&self, within: Duration, now: Instant) -> Option<f64> {
        self.lately.middle(within, now)
    }

    /// Forgets how fast it was when nothing was heard for so long that nothing is usual any more.
    pub(super) fn settle(&mut self, at: &Moment) {
        let day = Moment { gap: Duration::from_hours(24), ..*at };
        for latch in [&mut self.slow, &mut self.very_slow, &mut self.late] {
            latch.expire(&day);
        }
    }

    /// What speaks against it on this server.
    pub(super) fn signals(&self, now: Instant, tell: &mut dyn FnMut(Signal, State, String)) {
        let percent = self.spilled * 100.0;
        if self.on_processor.is_on() {
            tell(Signal::OnCpu, State::Draining, "it was on the card and is computed by the processor".to_owned());
        }
        if self.deep.is_on() {
            let text = format!("{percent:.0} % of it is on the card, so the server is its last resort");
            tell(Signal::CpuSpill, State::Degraded, text);
        } else if self.spill.is_on() {
            tell(Signal::CpuSpill, State::Degraded, format!("{percent:.0} % of it is on the card"));
        }
        let silent = self.lately.last().is_none_or(|last| now.saturating_duration_since(last) >= TRY_SPEED);
        if self.very_slow.is_on() && !silent {
            tell(Signal::SlowDecode, State::Draining, "it writes at less than 25 % of its usual speed".to_owned());
        } else if self.slow.is_on() || self.very_slow.is_on() {
            tell(Signal::SlowDecode, State::Degraded, "it writes at less than 50 % of its usual speed".to_owned());
        }
        if self.late.is_on() {
            let text = "its answers begin after more than five times the usual time".to_owned();
            tell(Signal::SlowFirstToken, State::Degraded, text);
        }
    }

    /// What follows for it, where it is worse off than `server`. `spilled` and `other` say whether its reasons are its share of
    /// the card, and others.
    pub(super) fn verdict(&self, server: State, spilled: bool, other: bool) -> Option<ModelVerdict> {
        let state = self.held.state();
        let mut weight = 1.0;
        if state > State::Healthy {
            if spilled {
                weight *= self.weight;
            }
            if other {
                weight *= DEGRADED;
            }
        }
        (state > server || weight < 1.0).then(|| ModelVerdict {
            model: self.name.clone(),
            state,
            on_card: self.ratio,
            weight: f64::max(weight, LAST_RESORT),
        })
    }
}

/// Bad below `low`, good from `high` on.
fn graded(share: f64, low: f64, high: f64) -> Sample {
    if share < low {
        Sample::Bad
    } else if share < high {
        Sample::Between
    } else {
        Sample::Good
    }
}

fn share(part: u64, whole: u64) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "a share")]
    let share = part as f64 / whole.max(1) as f64;
    share.clamp(0.0, 1.0)
}
