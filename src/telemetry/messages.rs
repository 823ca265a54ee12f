//! The last messages of the process, in memory, for whoever asks the admin listener; and as they come, for whoever listens.
//!
//! One ring for the process, as there is one logger. What is in it was on standard error: the same level holds for both.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::sync::{Arc, LazyLock};

use parking_lot::Mutex;
use schemars::JsonSchema;
use serde::Serialize;
use tokio::sync::broadcast;
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;

use super::access_log::moment;
use crate::clock;

/// Messages that are remembered.
const KEPT: usize = 1000;
/// Messages that a live reader may be behind before it misses some.
const LIVE: usize = 256;
/// Longest text of a message or a field, in bytes.
const LONGEST: usize = 4096;

/// How severe a message is, the most severe first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// Something failed.
    Error,
    /// Something is odd.
    Warn,
    /// What happens.
    Info,
    /// Why it happens.
    Debug,
}

impl Severity {
    /// All of them with their words.
    pub const WORDS: [(&'static str, Self); 4] =
        [("error", Self::Error), ("warn", Self::Warn), ("info", Self::Info), ("debug", Self::Debug)];
}

/// Something that the process said.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Message {
    /// Its number since the process started; later ones have higher numbers.
    pub seq: u64,
    /// When, RFC 3339.
    pub at: String,
    /// How severe it is.
    pub level: Severity,
    /// The part of the program that said it.
    pub target: String,
    /// What it said.
    pub message: String,
    /// What it said beside that.
    pub fields: BTreeMap<String, String>,
}

/// The last messages.
pub struct Messages {
    ring: Mutex<Ring>,
    live: broadcast::Sender<Arc<Message>>,
}

#[derive(Default)]
struct Ring {
    last: u64,
    messages: VecDeque<Arc<Message>>,
}

/// Those of this process.
#[must_use]
pub fn messages() -> &'static Messages {
    static MESSAGES: LazyLock<Messages> = LazyLock::new(Messages::new);
    &MESSAGES
}

impl Messages {
    fn new() -> Self {
        Self { ring: Mutex::default(), live: broadcast::Sender::new(LIVE) }
    }

    /// The latest messages that are at least this severe, the latest first.
    #[must_use]
    pub fn last(&self, limit: usize, least: Severity) -> Vec<Arc<Message>> {
        let ring = self.ring.lock();
        ring.messages.iter().rev().filter(|message| message.level <= least).take(limit).cloned().collect()
    }

    /// Messages from now on. A reader that is too slow is told how many it missed.
    #[must_use]
    pub fn live(&self) -> broadcast::Receiver<Arc<Message>> {
        self.live.subscribe()
    }

    fn add(&self, level: Severity, target: &str, words: Words) {
        let at = moment(clock::unix_time().as_secs_f64());
        let mut ring = self.ring.lock();
        ring.last += 1;
        let message = Message {
            seq: ring.last,
            at,
            level,
            target: target.to_owned(),
            message: words.message,
            fields: words.fields,
        };
        let message = Arc::new(message);
        if ring.messages.len() == KEPT {
            ring.messages.pop_front();
        }
        ring.messages.push_back(Arc::clone(&message));
        // Under the lock, so that live readers get them in order. Nobody listens: no matter.
        drop(self.live.send(message));
    }
}

/// Puts messages into the ring.
pub(super) struct Remember;

impl<S: Subscriber> Layer<S> for Remember {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let meta = event.metadata();
        let level = match *meta.level() {
            Level::ERROR => Severity::Error,
            Level::WARN => Severity::Warn,
            Level::INFO => Severity::Info,
            Level::DEBUG | Level::TRACE => Severity::Debug,
        };
        let mut words = Words::default();
        event.record(&mut words);
        messages().add(level, meta.target(), words);
    }
}

/// What an event says.
#[derive(Default)]
struct Words {
    message: String,
    fields: BTreeMap<String, String>,
}

impl Words {
    fn put(&mut self, field: &Field, mut text: String) {
        if text.len() > LONGEST {
            text.truncate(text.floor_char_boundary(LONGEST));
            text.push('…');
        }
        match field.name() {
            "message" => self.message = text,
            name => drop(self.fields.insert(name.to_owned(), text)),
        }
    }
}

impl Visit for Words {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.put(field, value.to_owned());
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.put(field, format!("{value:?}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(message: &str) -> Words {
        Words { message: message.to_owned(), fields: BTreeMap::new() }
    }

    #[test]
    fn the_last_are_remembered_by_their_severity() {
        let all = Messages::new();
        let mut live = all.live();
        for number in 0..KEPT + 5 {
            all.add(if number % 2 == 0 { Severity::Warn } else { Severity::Info }, "here", words(&number.to_string()));
        }
        let seen = all.last(usize::MAX, Severity::Debug);
        assert_eq!((seen.len(), seen[0].seq, seen[0].message.as_str()), (KEPT, 1005, "1004"));
        let severe = all.last(2, Severity::Warn);
        assert_eq!(severe.iter().map(|one| one.message.as_str()).collect::<Vec<_>>(), ["1004", "1002"]);
        assert_eq!(all.last(1, Severity::Error), []);
        // Who does not listen in time is told how much it missed.
        let missed = live.try_recv().unwrap_err();
        assert_eq!(missed, broadcast::error::TryRecvError::Lagged((KEPT + 5 - LIVE) as u64));
    }

    #[test]
    fn events_become_messages_with_their_fields_cut_to_a_length() {
        use tracing_subscriber::layer::SubscriberExt;
        let long = "é".repeat(LONGEST);
        tracing::subscriber::with_default(tracing_subscriber::registry().with(Remember), || {
            tracing::warn!(server = "s0", number = 7, long, odd = ?"a\nb", "a test of messages");
        });
        let all = messages().last(usize::MAX, Severity::Warn);
        let seen = all.iter().find(|one| one.message == "a test of messages").unwrap();
        assert_eq!((seen.fields["server"].as_str(), seen.fields["number"].as_str()), ("s0", "7"));
        assert_eq!(seen.fields["odd"], "\"a\\nb\"");
        assert!(seen.fields["long"].len() < LONGEST + 8 && seen.fields["long"].ends_with('…'));
        assert!(seen.target.ends_with("messages::tests") && seen.at.ends_with('Z'), "{seen:?}");
    }
}
