//! Where what happens is told, and where whoever cares listens.
//!
//! Whoever notices a fact tells it here and goes on at once: nothing waits, whatever becomes of it. Listeners come and go;
//! each has room for [`ROOM`] events that it has not looked at, and the oldest are lost, and counted, when it falls behind.
//! What is told often (a queue that is full, at every request) is thinned out by the one who tells it.

use std::sync::Arc;
use std::time::Duration;

use prometheus_client::metrics::counter::Counter;
use tokio::sync::broadcast;
use tokio::sync::broadcast::error::RecvError;

use crate::clock;
use crate::policy::notification::Kind;

/// Events that a listener may leave waiting.
const ROOM: usize = 1024;
/// Longest text of a message, in characters: it may repeat what a server said.
const LONGEST: usize = 2000;

/// Something that happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// What.
    pub kind: Kind,
    /// Its id: 32 hexadecimal digits.
    pub id: String,
    /// When, since 1970.
    pub at: Duration,
    /// What it is about: `UPSTREAM/SERVER`, `UPSTREAM/SERVER MODEL`, an upstream, a certificate or a file.
    pub subject: String,
    /// What happened, in words.
    pub message: String,
}

impl Event {
    /// An event of this moment.
    #[must_use]
    pub fn new(kind: Kind, subject: impl Into<String>, message: &str) -> Self {
        let message = message.chars().take(LONGEST).collect();
        Self { kind, id: new_id(), at: clock::unix_time(), subject: subject.into(), message }
    }
}

/// An id that no other message has. Without randomness of the system it is the time.
#[must_use]
pub fn new_id() -> String {
    let mut bytes = [0; 16];
    let number =
        getrandom::fill(&mut bytes).map_or_else(|_| clock::unix_time().as_nanos(), |()| u128::from_le_bytes(bytes));
    format!("{number:032x}")
}

/// The events of the process.
#[derive(Debug)]
pub struct Events {
    sender: broadcast::Sender<Arc<Event>>,
    lost: Counter,
}

impl Events {
    /// Nobody listens yet. `lost` counts what a listener missed.
    #[must_use]
    pub fn new(lost: Counter) -> Self {
        Self { sender: broadcast::Sender::new(ROOM), lost }
    }

    /// Tells what happened; never waits.
    pub fn tell(&self, kind: Kind, subject: impl Into<String>, message: &str) {
        // That nobody listens is no fault.
        drop(self.sender.send(Arc::new(Event::new(kind, subject, message))));
    }

    /// Listens from now on.
    #[must_use]
    pub fn listen(&self) -> Listener {
        Listener { receiver: self.sender.subscribe(), lost: self.lost.clone() }
    }
}

/// Who listens.
#[derive(Debug)]
pub struct Listener {
    receiver: broadcast::Receiver<Arc<Event>>,
    lost: Counter,
}

impl Listener {
    /// The next event; `None` when there will be none.
    pub async fn next(&mut self) -> Option<Arc<Event>> {
        loop {
            match self.receiver.recv().await {
                Ok(event) => return Some(event),
                Err(RecvError::Lagged(count)) => {
                    self.lost.inc_by(count);
                    tracing::warn!(count, "more happened than could be told; the oldest events are lost");
                }
                Err(RecvError::Closed) => return None,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_listener_hears_what_happens_and_misses_the_oldest_when_it_falls_behind() {
        let lost = Counter::default();
        let events = Events::new(lost.clone());
        events.tell(Kind::QueueFull, "before", "nobody listens");
        let mut listener = events.listen();
        for number in 0..ROOM + 3 {
            events.tell(Kind::QueueFull, number.to_string(), &"long".repeat(LONGEST));
        }
        let first = listener.next().await.expect("an event");
        assert_eq!((first.subject.as_str(), first.message.len(), lost.get()), ("3", LONGEST, 3));
        let second = listener.next().await.expect("another");
        assert!(first.id.len() == 32 && first.id != second.id, "{first:?} {second:?}");
        drop(events);
        for _ in 2..ROOM {
            assert!(listener.next().await.is_some());
        }
        assert_eq!(listener.next().await, None);
    }
}
