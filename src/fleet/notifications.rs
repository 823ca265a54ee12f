//! Who is told what happens, and what became of the last messages: what the task that sends them writes, and
//! the admin listener reads.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{Notify, oneshot};

use crate::config::WebhookUrl;
use crate::policy::notification::Kind;

/// Messages that are remembered.
const REMEMBERED: usize = 200;

/// A webhook of the configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hook {
    /// Where to.
    pub url: WebhookUrl,
    /// File with the secret.
    pub secret_file: Option<String>,
    /// What it is told.
    pub events: Vec<Kind>,
    /// Least time between two messages of one kind about one subject.
    pub window: Duration,
    /// How long one attempt may take.
    pub timeout: Duration,
    /// Attempts before a message is given up.
    pub attempts: u32,
}

/// How far a message is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// It is on its way, or waits for those before it.
    Queued,
    /// An attempt failed; there will be another.
    Retrying,
    /// The receiver has it.
    Delivered,
    /// It was given up.
    Failed,
    /// Too many waited already.
    Dropped,
}

impl Progress {
    /// The word for metrics and the admin API.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Retrying => "retrying",
            Self::Delivered => "delivered",
            Self::Failed => "failed",
            Self::Dropped => "dropped",
        }
    }
}

/// A message to one webhook.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delivery {
    /// Its number.
    pub number: u64,
    /// The receiver, without path and query.
    pub hook: String,
    /// Id of the message.
    pub id: String,
    /// What it tells.
    pub event: &'static str,
    /// About what.
    pub subject: String,
    /// In words.
    pub message: String,
    /// When it happened, since 1970.
    pub at: Duration,
    /// How far it is.
    pub progress: Progress,
    /// Attempts so far.
    pub attempts: u32,
    /// Status of the last answer.
    pub status: Option<u16>,
    /// Why the last attempt failed.
    pub error: Option<String>,
    /// When the next attempt is made, since 1970.
    pub next_attempt: Option<Duration>,
}

/// How a test message to one webhook went.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tested {
    /// The receiver, without path and query.
    pub hook: String,
    /// Status of its answer.
    pub status: Option<u16>,
    /// Why it did not take the message; `None` when it did.
    pub error: Option<String>,
    /// How long that took.
    pub took: Duration,
}

/// What is known of messages.
#[derive(Debug, Default)]
pub struct Notifications {
    recent: Mutex<Recent>,
    orders: Mutex<Vec<oneshot::Sender<Vec<Tested>>>>,
    ordered: Notify,
}

#[derive(Debug, Default)]
struct Recent {
    next: u64,
    deliveries: VecDeque<Delivery>,
}

impl Notifications {
    /// Remembers a message; returns its number.
    pub fn add(&self, mut delivery: Delivery) -> u64 {
        let mut recent = self.recent.lock();
        let number = recent.next;
        delivery.number = number;
        recent.next += 1;
        if recent.deliveries.len() == REMEMBERED {
            recent.deliveries.pop_front();
        }
        recent.deliveries.push_back(delivery);
        number
    }

    /// Changes what is known of a message, if it is still remembered.
    pub fn change(&self, number: u64, change: impl FnOnce(&mut Delivery)) {
        let mut recent = self.recent.lock();
        if let Some(delivery) = recent.deliveries.iter_mut().find(|delivery| delivery.number == number) {
            change(delivery);
        }
    }

    /// The last messages, the youngest first.
    pub fn recent(&self) -> Vec<Delivery> {
        self.recent.lock().deliveries.iter().rev().cloned().collect()
    }

    /// Orders a test message to all webhooks; the outcome comes when each has answered or was given up.
    pub fn order_test(&self) -> oneshot::Receiver<Vec<Tested>> {
        let (answer, outcome) = oneshot::channel();
        self.orders.lock().push(answer);
        self.ordered.notify_one();
        outcome
    }

    /// The orders that were not taken yet, once there are any.
    pub async fn orders(&self) -> Vec<oneshot::Sender<Vec<Tested>>> {
        loop {
            let orders = std::mem::take(&mut *self.orders.lock());
            if !orders.is_empty() {
                return orders;
            }
            self.ordered.notified().await;
        }
    }
}

/// What all snapshots of the process share about what happens.
#[derive(Clone, Debug)]
pub struct Telling {
    /// What happens.
    pub events: Arc<super::events::Events>,
    /// Who is told.
    pub notifications: Arc<Notifications>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn delivery(event: &'static str) -> Delivery {
        Delivery {
            number: 0,
            hook: "http://a:80".to_owned(),
            id: String::new(),
            event,
            subject: String::new(),
            message: String::new(),
            at: Duration::ZERO,
            progress: Progress::Queued,
            attempts: 0,
            status: None,
            error: None,
            next_attempt: None,
        }
    }

    #[test]
    fn the_last_messages_are_remembered_and_change() {
        let known = Notifications::default();
        let numbers: Vec<u64> = (0..=REMEMBERED).map(|_| known.add(delivery("a"))).collect();
        known.change(numbers[0], |_| panic!("it is forgotten"));
        known.change(numbers[1], |delivery| delivery.progress = Progress::Delivered);
        let recent = known.recent();
        assert_eq!((recent.len(), recent[0].number), (REMEMBERED, numbers[REMEMBERED]));
        assert_eq!(recent[REMEMBERED - 1].progress, Progress::Delivered);
    }
}
