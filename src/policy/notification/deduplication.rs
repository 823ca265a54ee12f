//! Whether an event is told to one receiver: now, later, or not at all.
//!
//! # Rules
//!
//! - Of one kind and one subject at most one event is told within the window.
//! - The end of a problem is told only when the problem was. So nobody hears that a server is up which they did not know
//!   to be down.
//! - What changes back and forth within the window is held, and told at the end of the window if it is still so: the last
//!   thing that a receiver hears of a subject is true, at most one window late.
//! - What was left out is counted, and the next message on the subject says how many.
//!
//! # Invariants
//!
//! - The number of subjects that are remembered is bounded; those whose problem is over go first.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use super::Kind;

/// Subjects that are remembered for one receiver.
const MOST: usize = 4096;

/// An event that is to be told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Told<T> {
    /// What is told.
    pub event: T,
    /// How many events of the subject were left out since the last one that was told.
    pub left_out: u32,
}

/// What becomes of an event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict<T> {
    /// It is told now.
    Now(Told<T>),
    /// It is told later, unless it changes back.
    Later,
    /// So many events are not told: this one, and one that was held and is no longer so.
    LeftOut(u32),
    /// It ends a problem that nobody was told.
    NothingToEnd,
}

/// What one receiver knows.
#[derive(Clone, Debug)]
pub struct Deduplication<T> {
    window: Duration,
    subjects: HashMap<(Kind, String), Subject<T>>,
}

/// What it knows of one subject.
#[derive(Clone, Debug)]
struct Subject<T> {
    /// What it was told last.
    knows: Option<Kind>,
    problem_told: Option<Instant>,
    end_told: Option<Instant>,
    left_out: u32,
    /// What it is told later unless it changes back.
    held: Option<(Kind, T, Instant)>,
    seen: Instant,
}

impl<T> Subject<T> {
    fn told_at(&self, kind: Kind) -> Option<Instant> {
        if kind.resolves().is_some() { self.end_told } else { self.problem_told }
    }

    fn tell(&mut self, kind: Kind, event: T, now: Instant) -> Told<T> {
        self.knows = Some(kind);
        if kind.resolves().is_some() {
            self.end_told = Some(now);
        } else {
            self.problem_told = Some(now);
        }
        Told { event, left_out: std::mem::take(&mut self.left_out) }
    }

    fn leave_out(&mut self, count: u32) -> Verdict<T> {
        self.left_out = self.left_out.saturating_add(count);
        Verdict::LeftOut(count)
    }

    /// Whether nothing would be lost by forgetting it.
    fn is_over(&self, window: Duration, now: Instant) -> bool {
        let problem_stands = self.knows.is_some_and(|kind| kind.resolves().is_none());
        self.held.is_none() && !problem_stands && now.saturating_duration_since(self.seen) >= window
    }
}

impl<T> Deduplication<T> {
    /// Nothing is known. `window` is the least time between two messages of one kind about one subject.
    #[must_use]
    pub fn new(window: Duration) -> Self {
        Self { window, subjects: HashMap::new() }
    }

    /// Takes another window and keeps what is known.
    pub fn set_window(&mut self, window: Duration) {
        self.window = window;
    }

    /// An event happened.
    pub fn take(&mut self, kind: Kind, subject: &str, event: T, now: Instant) -> Verdict<T> {
        let key = (kind.resolves().unwrap_or(kind), subject.to_owned());
        if !self.subjects.contains_key(&key) {
            if !kind.stands_alone() {
                return Verdict::NothingToEnd;
            }
            self.make_room(now);
        }
        let window = self.window;
        let known = self.subjects.entry(key).or_insert_with(|| Subject {
            knows: None,
            problem_told: None,
            end_told: None,
            left_out: 0,
            held: None,
            seen: now,
        });
        known.seen = now;
        if let Some((held, ..)) = &known.held {
            if *held == kind {
                return known.leave_out(1);
            }
            // It is again as the receiver knows it.
            known.held = None;
            return known.leave_out(2);
        }
        let told_at = known.told_at(kind);
        let end = told_at.and_then(|at| at.checked_add(window)).filter(|end| *end > now);
        let is_known = known.knows == Some(kind);
        match end {
            // An end that is told already is no news however long ago, unless it may stand alone.
            _ if is_known && !kind.stands_alone() => known.leave_out(1),
            None => Verdict::Now(known.tell(kind, event, now)),
            Some(_) if is_known => known.leave_out(1),
            Some(end) => {
                known.held = Some((kind, event, end));
                Verdict::Later
            }
        }
    }

    /// What was held and is to be told now.
    pub fn due(&mut self, now: Instant) -> Vec<Told<T>> {
        let is_due = |known: &Subject<T>| known.held.as_ref().is_some_and(|(.., end)| *end <= now);
        let due = self.subjects.values_mut().filter(|known| is_due(known));
        due.filter_map(|known| known.held.take().map(|(kind, event, _)| known.tell(kind, event, now))).collect()
    }

    /// When something is due next.
    #[must_use]
    pub fn next_due(&self) -> Option<Instant> {
        self.subjects.values().filter_map(|known| known.held.as_ref().map(|(.., end)| *end)).min()
    }

    fn make_room(&mut self, now: Instant) {
        if self.subjects.len() < MOST {
            return;
        }
        let window = self.window;
        self.subjects.retain(|_, known| !known.is_over(window, now));
        if self.subjects.len() >= MOST
            && let Some(oldest) = self.subjects.iter().min_by_key(|(_, known)| known.seen).map(|(key, _)| key.clone())
        {
            self.subjects.remove(&oldest);
        }
    }
}

#[cfg(test)]
#[path = "deduplication_tests.rs"]
mod tests;
