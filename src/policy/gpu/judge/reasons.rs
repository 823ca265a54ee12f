//! From signals to states: who is asked to be how, and why.

use std::time::Instant;

use super::super::hysteresis::Held;
use super::super::reading::{CardFault, Unread};
use super::super::verdict::{ModelVerdict, Reason, Signal, State, Verdict};
use super::super::xid::Surroundings;
use super::{GIB, Judge, total_of};

/// Notes that are told at a time.
const MOST_NOTES: usize = 32;

impl Judge {
    /// How the server is now, with everything that speaks against it or a model on it.
    pub fn verdict(&mut self, now: Instant) -> Verdict {
        let mut reasons = self.settle(now);
        add_held(&mut reasons, &self.held);
        for model in self.models.values() {
            add_held(&mut reasons, &model.held);
        }
        reasons.sort_by(|one, other| other.state.cmp(&one.state).then(one.signal.cmp(&other.signal)));
        let state = self.held.state();
        let models = self.models.values().filter_map(|model| {
            let mut own = reasons.iter().filter(|reason| reason.model.as_ref() == Some(&model.name));
            let is_spill = |reason: &Reason| matches!(reason.signal, Signal::CpuSpill | Signal::OnCpu);
            let spilled = own.clone().any(is_spill);
            let other = own.any(|reason| !is_spill(reason) && reason.state == State::Degraded);
            model.verdict(state, spilled, other)
        });
        let models: Vec<ModelVerdict> = models.collect();
        Verdict { state, models, notes: self.notes(now), reasons }
    }

    pub(super) fn surroundings(&self) -> Surroundings {
        let oldest_load = self.models.values().filter_map(|model| model.loaded).min();
        Surroundings { knows_boots: self.boot_id.is_some(), oldest_load }
    }

    /// Brings the states up to date, and gives what speaks against them at this moment.
    pub(super) fn settle(&mut self, now: Instant) -> Vec<Reason> {
        self.forget(now);
        let reasons = self.reasons(now);
        ask(&mut self.held, &reasons, None, now);
        for (name, model) in &mut self.models {
            ask(&mut model.held, &reasons, Some(name), now);
        }
        reasons
    }

    fn reasons(&self, now: Instant) -> Vec<Reason> {
        let mut found = Vec::new();
        let mut tell = |signal, state, card: Option<&str>, model: Option<&str>, detail| {
            let (card, model) = (card.map(str::to_owned), model.map(str::to_owned));
            found.push(Reason { signal, state, card, model, detail });
        };
        if self.read_at.is_some_and(|at| now.saturating_duration_since(at) <= self.gap()) {
            let spanning = self.spanning();
            for health in &self.cards {
                let name = health.key.text();
                health.signals(&spanning, &mut |signal, state, model, detail| {
                    tell(signal, state, Some(&name), model, detail);
                });
            }
        }
        if self.lost.is_on() {
            let mut missing = self
                .cards
                .iter()
                .filter(|health| Some(health.seen) != self.read_at || health.card.fault == Some(CardFault::Lost));
            let sole = missing.next().filter(|_| missing.next().is_none()).map(|health| health.key.text());
            let text = format!("{} of {} cards are there", self.present, self.most);
            tell(Signal::CardLost, State::Failed, sole.as_deref(), None, text);
        }
        if self.driver_down.is_on() {
            tell(Signal::DriverDown, State::Draining, None, None, "the driver cannot be used".to_owned());
        }
        if self.hangs.is_on() {
            tell(Signal::Hangs, State::Draining, None, None, "the driver does not answer within 5 s".to_owned());
        }
        if self.leak.is_on() {
            let text = format!("{} of memory more than usual belong to no model", gibibytes(self.above_usual));
            tell(Signal::MemoryLeak, State::Degraded, None, None, text);
        }
        if self.dark.is_on() {
            let text = "everything in memory is computed by the processor, though it was on the card".to_owned();
            tell(Signal::OnCpu, State::Draining, None, None, text);
        }
        for model in self.models.values() {
            model.signals(now, &mut |signal, state, detail| tell(signal, state, None, Some(&model.name), detail));
        }
        found
    }

    /// Models that are on more than one card: none of the cards has room for one of them alone.
    fn spanning(&self) -> Vec<&str> {
        let largest = self.used.iter().map(total_of).try_fold(0, |most, total| Some(total?.max(most)));
        let Some(largest) = largest.filter(|_| self.used.len() > 1) else { return Vec::new() };
        self.models.values().filter(|model| model.on_card > largest).map(|model| model.name.as_str()).collect()
    }

    fn notes(&self, now: Instant) -> Vec<String> {
        let mut notes = Vec::new();
        match self.unread {
            Some(Unread::Silent) if self.is_silent(now) => notes.push("nothing is heard of its cards".to_owned()),
            Some(Unread::DriverDown) if self.most == 0 => notes.push("the driver cannot be used".to_owned()),
            Some(Unread::Hangs) if self.most == 0 => notes.push("the driver does not answer within 5 s".to_owned()),
            _ => {}
        }
        if self.used.is_empty() && self.read_at.is_some() {
            notes.push("none of the cards that are told is one that the server uses".to_owned());
        }
        for health in &self.cards {
            health.notes(&mut |note| notes.push(note));
        }
        notes.truncate(MOST_NOTES);
        notes
    }
}

/// Asks for the worst state that is due to reasons about this model, or about no model.
fn ask(held: &mut Held<Reason>, reasons: &[Reason], model: Option<&String>, now: Instant) {
    let mut own = reasons.iter().filter(|reason| reason.model.as_ref() == model);
    let worst = own.clone().map(|reason| reason.state).max().unwrap_or_default();
    let at_once = own.any(|reason| reason.state == worst && at_once(reason));
    held.ask(worst, at_once, now, || reasons.iter().filter(|reason| reason.model.as_ref() == model).cloned().collect());
}

/// Whether a single sample is enough for it, or it leaves no room for waiting.
fn at_once(reason: &Reason) -> bool {
    reason.state == State::Failed
        || matches!(
            reason.signal,
            Signal::RecoveryAction | Signal::Xid | Signal::Ecc | Signal::RowRemap | Signal::RetiredPages
        )
}

/// Adds what a state is due to that is held though it is over.
fn add_held(reasons: &mut Vec<Reason>, held: &Held<Reason>) {
    let state = held.state();
    for old in held.due_to().iter().filter(|old| old.state >= state) {
        let is_same = |other: &Reason| {
            (other.signal, &other.card, &other.model) == (old.signal, &old.card, &old.model) && other.state >= state
        };
        if !reasons.iter().any(is_same) {
            let detail = format!("until a moment ago: {}", old.detail);
            reasons.push(Reason { state, detail, ..old.clone() });
        }
    }
}

fn gibibytes(bytes: u64) -> String {
    let tenths = bytes / (GIB / 10);
    format!("{}.{} GiB", tenths / 10, tenths % 10)
}
