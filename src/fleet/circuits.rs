//! The circuits of a server: its own, and one for each model that failed on it.
//!
//! # Problem
//! A model that crashes on a server must not take the server's other models away, and a server that is gone must not be
//! found out anew for each model.
//!
//! # Shape
//! The server's own circuit is always there. That of a model is made when a request for it fails for the first time,
//! [`MOST_MODELS`] at most; the one whose last failure is longest ago makes room. A request passes when both let it, and
//! holds a [`Permit`](super::permit::Permit) of both until its end.
//!
//! # Cost
//! While nothing has failed: two atomic loads to ask, one lock of the server's own to pass.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use fnv::FnvBuildHasher;
use parking_lot::Mutex;

use super::exclusion::Exclusion;
use crate::policy::circuit::{self, Admission, Cause, Circuit, CircuitPolicy, Outcome, Pass, State, Transition};
use crate::policy::ejection::Badness;

/// Most models of a server that have a circuit.
pub const MOST_MODELS: usize = 256;

type Models = HashMap<String, Arc<Guarded>, FnvBuildHasher>;
type Names = HashSet<String, FnvBuildHasher>;

/// A circuit with what is read of it without its lock.
#[derive(Debug)]
pub struct Guarded {
    circuit: Mutex<Circuit>,
    closed: AtomicBool,
    /// Counted failures since the last success.
    failures: AtomicU32,
    /// Milliseconds from the server's beginning to the last failure.
    failed_at: AtomicU64,
}

impl Guarded {
    fn new(policy: CircuitPolicy) -> Self {
        Self {
            circuit: Mutex::new(Circuit::new(policy)),
            closed: AtomicBool::new(true),
            failures: AtomicU32::new(0),
            failed_at: AtomicU64::new(0),
        }
    }

    /// Works on the circuit and keeps the copy true.
    fn with<T>(&self, now: Instant, work: impl FnOnce(&mut Circuit) -> T) -> T {
        let mut circuit = self.circuit.lock();
        let result = work(&mut circuit);
        self.closed.store(circuit.state(now) == State::Closed, Ordering::Relaxed);
        result
    }

    fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Relaxed)
    }

    fn would_admit(&self, now: Instant) -> bool {
        self.is_closed() || self.circuit.lock().would_admit(now)
    }

    fn badness(&self, now: Instant, index: usize) -> Option<Badness> {
        let circuit = self.circuit.lock();
        let until = match circuit.state(now) {
            _ if circuit.would_admit(now) => return None,
            State::Open { until } => Some(until),
            State::Closed | State::HalfOpen => None,
        };
        Some(Badness { cause: circuit.cause(now), openings: circuit.openings(now), until, index })
    }

    pub(super) fn admit(&self, now: Instant) -> Option<Pass> {
        // A trial is not a change that the copy shows: it is not closed before and after.
        match self.circuit.lock().admit(now) {
            Admission::Yes(pass) | Admission::Trial(pass) => Some(pass),
            Admission::No { .. } => None,
        }
    }

    pub(super) fn release(&self, pass: Pass) {
        self.circuit.lock().release(pass);
    }

    pub(super) fn record(&self, pass: Pass, outcome: Outcome, now: Instant, random: u64) -> Option<Transition> {
        self.with(now, |circuit| circuit.record(pass, outcome, now, random))
    }

    /// Counts a verdict towards the ban rule; how many failures there were without a success between them.
    pub(super) fn count(&self, outcome: Outcome, since_birth: Duration) -> u32 {
        if outcome == Outcome::Success {
            self.failures.store(0, Ordering::Relaxed);
            return 0;
        }
        self.failed_at.store(millis(since_birth), Ordering::Relaxed);
        self.failures.fetch_add(1, Ordering::Relaxed).saturating_add(1)
    }
}

/// What an operator wants of a circuit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CircuitOrder {
    /// Let nothing pass until then.
    Open {
        /// When it becomes half open.
        until: Instant,
    },
    /// Let everything pass.
    Close,
    /// Let one request pass, as a trial.
    HalfOpen,
    /// Let everything pass, and forget all that was before.
    Reset,
}

impl CircuitOrder {
    fn apply(self, circuit: &mut Circuit, now: Instant) -> Option<Transition> {
        match self {
            Self::Open { until } => circuit.force_open(until, now),
            Self::Close => circuit.force_close(now),
            Self::HalfOpen => circuit.force_half_open(now),
            Self::Reset => circuit.reset(now),
        }
    }
}

/// A circuit as it is shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CircuitView {
    /// The model; `None` for the server's own.
    pub model: Option<String>,
    /// Its state.
    pub state: State,
    /// Why it is open.
    pub cause: Option<Cause>,
    /// Failures in a row while closed.
    pub failures: u32,
    /// How often it opened lately.
    pub openings: u32,
}

impl CircuitView {
    /// That of a model that never failed.
    #[must_use]
    pub const fn closed(model: Option<String>) -> Self {
        Self { model, state: State::Closed, cause: None, failures: 0, openings: 0 }
    }
}

/// The circuits of one server.
pub struct Circuits {
    born: Instant,
    own: Arc<Guarded>,
    /// Milliseconds from `born` to the end of the slow start; 0 without one.
    slow_until: AtomicU64,
    /// Milliseconds that a slow start lasts.
    slow_start: AtomicU64,
    /// How many models have a circuit: what the hot path reads.
    known: AtomicUsize,
    models: ArcSwap<Models>,
    /// Models that went well here, as far as a ban rule wants to know.
    proven: ArcSwap<Names>,
    /// The numbers for circuits to come; held while `models` or `proven` is changed.
    policy: Mutex<CircuitPolicy>,
}

impl Circuits {
    /// All closed.
    pub fn new(policy: CircuitPolicy, born: Instant) -> Self {
        Self {
            born,
            own: Arc::new(Guarded::new(policy.clone())),
            slow_until: AtomicU64::new(0),
            slow_start: AtomicU64::new(millis(policy.slow_start)),
            known: AtomicUsize::new(0),
            models: ArcSwap::default(),
            proven: ArcSwap::default(),
            policy: Mutex::new(policy),
        }
    }

    /// Takes new numbers and keeps every state.
    pub fn set_policy(&self, policy: &CircuitPolicy) {
        let mut current = self.policy.lock();
        *current = policy.clone();
        self.slow_start.store(millis(policy.slow_start), Ordering::Relaxed);
        self.own.circuit.lock().set_policy(policy.clone());
        for guarded in self.models.load().values() {
            guarded.circuit.lock().set_policy(policy.clone());
        }
    }

    /// Why no request passes; `None` when one would.
    pub fn exclusion(&self, model: Option<&str>, now: Instant) -> Option<Exclusion> {
        if !self.own.would_admit(now) {
            return Some(Exclusion::CircuitOpen);
        }
        let guarded = self.of_model(model?)?;
        (!guarded.would_admit(now)).then_some(Exclusion::ModelCircuitOpen)
    }

    /// How bad the server is with this `index`, in the worse of the two circuits; `None` when a request would pass.
    pub fn badness(&self, model: Option<&str>, now: Instant, index: usize) -> Option<Badness> {
        let of_model = model.and_then(|model| self.of_model(model)).and_then(|one| one.badness(now, index));
        self.own.badness(now, index).max(of_model)
    }

    /// Whether an operator holds the server's own circuit open.
    pub fn is_held(&self, now: Instant) -> bool {
        !self.own.is_closed() && {
            let circuit = self.own.circuit.lock();
            matches!(circuit.state(now), State::Open { .. }) && circuit.cause(now) == Some(Cause::Order)
        }
    }

    /// The share of the requests that the server should have, from 0.1 to 1.
    pub fn share(&self, now: Instant) -> f32 {
        let until = self.slow_until.load(Ordering::Relaxed);
        if until == 0 {
            return 1.0;
        }
        let left = until.saturating_sub(millis(now.saturating_duration_since(self.born)));
        let whole = self.slow_start.load(Ordering::Relaxed);
        circuit::share(Duration::from_millis(left), Duration::from_millis(whole))
    }

    /// The server's own circuit.
    pub(super) fn own(&self) -> &Arc<Guarded> {
        &self.own
    }

    /// The circuit of a model, if it ever failed here.
    pub(super) fn of_model(&self, model: &str) -> Option<Arc<Guarded>> {
        if self.known.load(Ordering::Relaxed) == 0 {
            return None;
        }
        self.models.load().get(model).cloned()
    }

    /// The circuit of a model that failed; `None` when there is no room for it.
    pub(super) fn of_failed_model(&self, model: &str) -> Option<Arc<Guarded>> {
        if let Some(known) = self.of_model(model) {
            return Some(known);
        }
        let policy = self.policy.lock();
        let mut models = Models::clone(&self.models.load());
        // Somebody else may have been quicker.
        if let Some(known) = models.get(model) {
            return Some(Arc::clone(known));
        }
        if models.len() >= MOST_MODELS {
            let closed = models.iter().filter(|(_, guarded)| guarded.is_closed());
            let oldest = closed.min_by_key(|(_, guarded)| guarded.failed_at.load(Ordering::Relaxed));
            let oldest = oldest.map(|(name, _)| name.clone())?;
            models.remove(&oldest);
        }
        let guarded = Arc::new(Guarded::new(policy.clone()));
        models.insert(model.to_owned(), Arc::clone(&guarded));
        self.known.store(models.len(), Ordering::Relaxed);
        self.models.store(Arc::new(models));
        Some(guarded)
    }

    /// Keeps the slow start of the server's own circuit where it can be read without a lock.
    pub(super) fn note_slow_start(&self) {
        let until = self.own.circuit.lock().slow_until();
        let until = until.map_or(0, |until| millis(until.saturating_duration_since(self.born)).max(1));
        self.slow_until.store(until, Ordering::Relaxed);
    }

    /// Time since the server appeared.
    pub(super) fn age(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.born)
    }

    /// Notes that a model went well here.
    pub(super) fn prove(&self, model: &str) {
        if self.is_proven(model) {
            return;
        }
        let _changing = self.policy.lock();
        let mut proven = Names::clone(&self.proven.load());
        proven.insert(model.to_owned());
        self.proven.store(Arc::new(proven));
    }

    /// Whether a model ever went well here, or so many did that nobody counts any more.
    pub(super) fn is_proven(&self, model: &str) -> bool {
        let proven = self.proven.load();
        proven.len() >= MOST_MODELS * 4 || proven.contains(model)
    }

    /// Does what an operator wants.
    pub(super) fn force(&self, order: CircuitOrder, model: Option<&str>, now: Instant) -> Option<Transition> {
        let guarded = match model {
            None => Arc::clone(&self.own),
            Some(model) if matches!(order, CircuitOrder::Open { .. } | CircuitOrder::HalfOpen) => {
                self.of_failed_model(model)?
            }
            Some(model) => self.of_model(model)?,
        };
        let transition = guarded.with(now, |circuit| order.apply(circuit, now));
        if order == CircuitOrder::Reset {
            guarded.failures.store(0, Ordering::Relaxed);
        }
        if model.is_none() {
            self.note_slow_start();
        }
        transition
    }

    /// The state of the server's own circuit.
    pub fn state(&self, now: Instant) -> State {
        self.own.circuit.lock().state(now)
    }

    /// How many models have a circuit in each state, in the order of [`State::WORDS`].
    pub fn models_in_states(&self, now: Instant) -> [usize; 3] {
        let models = self.models.load();
        let states: Vec<&str> = models.values().map(|one| one.circuit.lock().state(now).as_str()).collect();
        State::WORDS.map(|word| states.iter().filter(|state| **state == word).count())
    }

    /// The server's own circuit, then those of models in order of their names.
    pub fn views(&self, now: Instant) -> Vec<CircuitView> {
        let view = |model: Option<&String>, guarded: &Guarded| {
            let circuit = guarded.circuit.lock();
            CircuitView {
                model: model.cloned(),
                state: circuit.state(now),
                cause: circuit.cause(now),
                failures: circuit.failures(),
                openings: circuit.openings(now),
            }
        };
        let models = self.models.load();
        let mut of_models: Vec<_> = models.iter().map(|(name, guarded)| view(Some(name), guarded)).collect();
        of_models.sort_unstable_by(|one, other| one.model.cmp(&other.model));
        std::iter::once(view(None, &self.own)).chain(of_models).collect()
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;

    fn failed(circuits: &Circuits, model: &str, now: Instant) {
        let guarded = circuits.of_failed_model(model).expect("room");
        guarded.count(Outcome::Failure, circuits.age(now));
        guarded.record(Pass::before_the_first_failure(now), Outcome::Failure, now, 0);
    }

    #[test]
    fn a_model_that_fails_takes_no_other_model_away() {
        let now = clock::now();
        let circuits = Circuits::new(CircuitPolicy { consecutive_failures: 2, ..CircuitPolicy::default() }, now);
        failed(&circuits, "m", now);
        assert_eq!(circuits.exclusion(Some("m"), now), None);
        failed(&circuits, "m", now);
        assert_eq!(circuits.exclusion(Some("m"), now), Some(Exclusion::ModelCircuitOpen));
        assert_eq!((circuits.exclusion(Some("n"), now), circuits.exclusion(None, now)), (None, None));
        circuits.force(CircuitOrder::Open { until: now + Duration::from_secs(9) }, None, now);
        assert_eq!(circuits.exclusion(Some("n"), now), Some(Exclusion::CircuitOpen));
        assert_eq!(circuits.badness(Some("m"), now, 0).and_then(|bad| bad.cause), Some(Cause::Order));
    }

    #[test]
    fn new_numbers_reach_every_circuit_and_change_no_state() {
        let now = clock::now();
        let circuits = Circuits::new(CircuitPolicy { consecutive_failures: 2, ..CircuitPolicy::default() }, now);
        failed(&circuits, "m", now);
        failed(&circuits, "m", now);
        failed(&circuits, "n", now);
        let before = circuits.views(now);
        circuits.set_policy(&CircuitPolicy { consecutive_failures: 3, ..CircuitPolicy::default() });
        assert_eq!(circuits.views(now), before);
        failed(&circuits, "n", now);
        assert_eq!(circuits.exclusion(Some("n"), now), None);
        failed(&circuits, "n", now);
        assert!(circuits.exclusion(Some("n"), now).is_some());
    }

    #[test]
    fn the_number_of_models_is_bounded_and_open_ones_stay() {
        let now = clock::now();
        let circuits = Circuits::new(CircuitPolicy { consecutive_failures: 1, ..CircuitPolicy::default() }, now);
        failed(&circuits, "open", now);
        for number in 0..MOST_MODELS {
            let guarded = circuits.of_failed_model(&number.to_string()).expect("room");
            guarded.count(Outcome::Failure, Duration::from_millis(number as u64));
        }
        let models: HashSet<_> = circuits.views(now).into_iter().filter_map(|view| view.model).collect();
        assert_eq!(models.len(), MOST_MODELS);
        assert!(models.contains("open") && !models.contains("0"), "the one that failed longest ago made room");
        circuits.force(CircuitOrder::Reset, Some("open"), now);
        assert_eq!(circuits.exclusion(Some("open"), now), None);
    }

    #[test]
    fn orders_for_models_that_never_failed() {
        let (now, circuits) = (clock::now(), Circuits::new(CircuitPolicy::default(), clock::now()));
        assert_eq!(circuits.force(CircuitOrder::Close, Some("m"), now), None);
        assert!(circuits.force(CircuitOrder::HalfOpen, Some("m"), now).is_some());
        assert_eq!(circuits.exclusion(Some("m"), now), None);
        let trial = circuits.of_model("m").and_then(|guarded| guarded.admit(now)).expect("a trial");
        assert!(trial.is_trial());
        assert_eq!(circuits.exclusion(Some("m"), now), Some(Exclusion::ModelCircuitOpen), "one at a time");
    }
}
