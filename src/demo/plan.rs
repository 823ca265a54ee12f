//! What a bench knows of its requests and the proxy must not: how long each answer will be.
//!
//! A request names its place in the plan by `replay-id:N;` anywhere in its prompt. The plan says how
//! many tokens the prompt and the answer have and to which conversation it belongs, and takes down when
//! any host of the fleet began it, gave it a slot and sent its first token. A request that is begun
//! twice is counted twice, whatever headers a proxy took away.

use std::sync::Arc;
use std::time::Instant;

use parking_lot::Mutex;
use serde_json::Value;

use super::fields::Fields;
use super::gpu::Load;
use crate::clock;

const MARK: &str = "replay-id:";

/// One request as it is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Planned {
    /// Tokens of the prompt.
    pub prompt: usize,
    /// Tokens of the answer.
    pub answer: usize,
    /// Requests of one conversation share the beginning of their prompt.
    pub conversation: u64,
}

/// One request as it went.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Observed {
    /// How often any host began it.
    pub begun: usize,
    /// When it last got a slot on a loaded model.
    pub slot: Option<Instant>,
    /// How often its client, the proxy, went away before its end.
    pub abandoned: usize,
}

/// The plan of a whole run, shared by all hosts of a fleet.
#[derive(Debug, Default)]
pub struct Plan {
    planned: Vec<Planned>,
    observed: Mutex<Vec<Observed>>,
}

impl Plan {
    /// A plan; a request's number is its place here.
    #[must_use]
    pub fn new(planned: Vec<Planned>) -> Arc<Self> {
        let observed = Mutex::new(vec![Observed::default(); planned.len()]);
        Arc::new(Self { planned, observed })
    }

    /// The text by which a prompt names its place.
    #[must_use]
    pub fn mark(number: usize) -> String {
        format!("{MARK}{number};")
    }

    /// How each request went so far, by number.
    #[must_use]
    pub fn observed(&self) -> Vec<Observed> {
        self.observed.lock().clone()
    }

    /// Begins the request that these fields are of, if it is one of the plan.
    pub(super) fn begin(self: &Arc<Self>, fields: &Fields) -> Option<Ticket> {
        let number = ["prompt", "messages", "input"].iter().filter_map(|name| fields.get(name)).find_map(number_in)?;
        let planned = *self.planned.get(number)?;
        let ticket = Ticket { plan: Arc::clone(self), number, planned, completed: false };
        ticket.update(|observed| observed.begun += 1);
        Some(ticket)
    }
}

/// One begun request's line in the plan. Dropped before it is completed, it counts as abandoned.
#[derive(Debug)]
pub(super) struct Ticket {
    plan: Arc<Plan>,
    number: usize,
    planned: Planned,
    completed: bool,
}

impl Ticket {
    pub(super) fn load(&self) -> Load {
        let Planned { prompt, answer, conversation } = self.planned;
        Load { prompt, answer: answer.max(1), conversation }
    }

    pub(super) fn slot(&self) {
        let now = clock::now();
        self.update(|observed| observed.slot = Some(now));
    }

    pub(super) fn completed(&mut self) {
        self.completed = true;
    }

    fn update(&self, change: impl FnOnce(&mut Observed)) {
        if let Some(observed) = self.plan.observed.lock().get_mut(self.number) {
            change(observed);
        }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if !self.completed {
            self.update(|observed| observed.abandoned += 1);
        }
    }
}

fn number_in(value: &Value) -> Option<usize> {
    match value {
        Value::String(text) => {
            let (_, rest) = text.split_once(MARK)?;
            rest.split_once(';')?.0.parse().ok()
        }
        Value::Array(items) => items.iter().find_map(number_in),
        Value::Object(map) => map.values().find_map(number_in),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_find_their_line_and_leave_a_trace() {
        let plan = Plan::new(vec![Planned { prompt: 9, answer: 0, conversation: 1 }; 3]);
        let body = format!(r#"{{"messages":[{{"content":"be kind"}},{{"content":"{} x"}}]}}"#, Plan::mark(2));
        let fields = Fields::decode(body.as_bytes()).unwrap();
        let mut ticket = plan.begin(&fields).unwrap();
        assert_eq!(ticket.load(), Load { prompt: 9, answer: 1, conversation: 1 });
        ticket.slot();
        ticket.completed();
        drop(ticket);
        drop(plan.begin(&fields));
        let observed = plan.observed();
        assert_eq!((observed[2].begun, observed[2].abandoned, observed[2].slot.is_some()), (2, 1, true));
        assert_eq!(observed[0], Observed::default());
        for stranger in [r#"{"prompt":"replay-id:7;"}"#, r#"{"prompt":"replay-id:1"}"#, r#"{"model":"replay-id:1;"}"#] {
            assert!(plan.begin(&Fields::decode(stranger.as_bytes()).unwrap()).is_none(), "{stranger}");
        }
    }
}
