//! Telling webhooks what happens.
//!
//! # Shape
//! One task hears all events. For each webhook of the configuration it asks
//! [`deduplication`](crate::policy::notification::deduplication) whether the event is told, and hands the message to the
//! webhook's own task ([`courier`]), which sends one after the other and tries again. So a receiver that hangs holds up
//! neither the others nor what goes on in the fleet.
//!
//! # Invariants
//! - At most [`WAITING`] messages wait for one webhook; more are dropped, counted and logged.
//! - A webhook that a reload keeps goes on as if nothing had happened; what it was told is remembered by its URL even when
//!   its other settings change.
//! - No secret, and neither path nor query of a URL, is in a message, a log line or an answer of the admin listener.

mod courier;
mod payload;

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use tokio::task::{AbortHandle, JoinSet};

use crate::clock;
use crate::fleet::events::{Event, Listener};
use crate::fleet::notifications::{Delivery, Hook, Notifications, Progress, Tested};
use crate::fleet::snapshot::Snapshot;
use crate::fleet::store::Store;
use crate::policy::notification::deduplication::{Deduplication, Told, Verdict};
use crate::telemetry::metrics::Metrics;
use courier::{Courier, Message};
use payload::Payload;
pub(super) use payload::{instance, rfc3339};

/// Messages that may wait for one webhook.
const WAITING: usize = 256;

/// A webhook with its task.
struct Receiver {
    hook: Arc<Hook>,
    known: Deduplication<Arc<Event>>,
    messages: mpsc::Sender<Message>,
    task: AbortHandle,
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Tells webhooks what happens, until the process ends.
pub async fn run(store: Arc<Store>, metrics: Arc<Metrics>, mut events: Listener) {
    let mut changes = store.subscribe();
    let notifications = Arc::clone(&store.load().lasting.telling.notifications);
    let mut teller = Teller { notifications: Arc::clone(&notifications), metrics, receivers: Vec::new() };
    teller.configure(&store.load());
    let mut tests = JoinSet::new();
    loop {
        let due = teller.next_due();
        let something_is_due = async {
            match due {
                Some(due) => tokio::time::sleep(due.saturating_duration_since(clock::now())).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            event = events.next() => match event {
                Some(event) => teller.happened(&event, clock::now()),
                None => return,
            },
            changed = changes.changed() => match changed {
                Ok(()) => teller.configure(&store.load()),
                Err(_) => return,
            },
            () = something_is_due => teller.due(clock::now()),
            orders = notifications.orders() => {
                let hooks: Vec<_> = teller.receivers.iter().map(|receiver| Arc::clone(&receiver.hook)).collect();
                tests.spawn(async move {
                    let outcome = test(hooks).await;
                    // Whoever asked may have left.
                    orders.into_iter().for_each(|order| drop(order.send(outcome.clone())));
                });
            }
            Some(_) = tests.join_next() => {}
        }
    }
}

/// Sends a test message to each webhook once, to all at the same time.
async fn test(hooks: Vec<Arc<Hook>>) -> Vec<Tested> {
    let mut running = JoinSet::new();
    for (number, hook) in hooks.into_iter().enumerate() {
        running.spawn(async move { (number, courier::test(&hook).await) });
    }
    let mut all = running.join_all().await;
    all.sort_by_key(|(number, _)| *number);
    all.into_iter().map(|(_, tested)| tested).collect()
}

/// Whoever tells.
struct Teller {
    notifications: Arc<Notifications>,
    metrics: Arc<Metrics>,
    receivers: Vec<Receiver>,
}

impl Teller {
    /// Takes the webhooks of a configuration.
    fn configure(&mut self, snapshot: &Snapshot) {
        let mut before = std::mem::take(&mut self.receivers);
        for hook in &snapshot.hooks {
            if let Some(same) = before.iter().position(|receiver| *receiver.hook == *hook) {
                self.receivers.push(before.swap_remove(same));
                continue;
            }
            let known = before.iter_mut().find(|receiver| receiver.hook.url == hook.url);
            let mut known = known.map_or_else(
                || Deduplication::new(hook.window),
                |receiver| std::mem::replace(&mut receiver.known, Deduplication::new(hook.window)),
            );
            known.set_window(hook.window);
            let hook = Arc::new(hook.clone());
            let (messages, orders) = mpsc::channel(WAITING);
            let courier = Courier {
                hook: Arc::clone(&hook),
                notifications: Arc::clone(&self.notifications),
                metrics: Arc::clone(&self.metrics),
            };
            let task = tokio::spawn(courier.run(orders)).abort_handle();
            self.receivers.push(Receiver { hook, known, messages, task });
        }
    }

    fn next_due(&self) -> Option<Instant> {
        self.receivers.iter().filter_map(|receiver| receiver.known.next_due()).min()
    }

    fn happened(&mut self, event: &Arc<Event>, now: Instant) {
        let kind = event.kind;
        let pair = |hook: &Hook| {
            hook.events
                .iter()
                .any(|wanted| *wanted == kind || Some(*wanted) == kind.resolves() || wanted.resolves() == Some(kind))
        };
        for number in 0..self.receivers.len() {
            let receiver = &mut self.receivers[number];
            if !pair(&receiver.hook) {
                continue;
            }
            match receiver.known.take(kind, &event.subject, Arc::clone(event), now) {
                Verdict::Now(told) => self.send(number, told),
                Verdict::LeftOut(count) => self.metrics.notified(kind.as_str(), "deduplicated", count),
                Verdict::Later | Verdict::NothingToEnd => {}
            }
        }
    }

    fn due(&mut self, now: Instant) {
        for number in 0..self.receivers.len() {
            for told in self.receivers[number].known.due(now) {
                self.send(number, told);
            }
        }
    }

    /// Hands a message to the webhook's task.
    fn send(&self, number: usize, told: Told<Arc<Event>>) {
        let receiver = &self.receivers[number];
        let Told { event, left_out } = told;
        let kind = event.kind;
        // It was weighed because its counterpart is wanted.
        if !receiver.hook.events.contains(&kind) {
            return;
        }
        let hook = receiver.hook.url.shown();
        let number = self.notifications.add(Delivery {
            number: 0,
            hook: hook.clone(),
            id: event.id.clone(),
            event: kind.as_str(),
            subject: event.subject.clone(),
            message: event.message.clone(),
            at: event.at,
            progress: Progress::Queued,
            attempts: 0,
            status: None,
            error: None,
            next_attempt: None,
        });
        let body = Payload::of(&event, left_out).body();
        if receiver.messages.try_send(Message { number, id: event.id.clone(), event: kind.as_str(), body }).is_err() {
            tracing::warn!(hook, event = kind.as_str(), "more messages than the webhook takes; one is dropped");
            self.metrics.notified(kind.as_str(), Progress::Dropped.as_str(), 1);
            self.notifications.change(number, |delivery| delivery.progress = Progress::Dropped);
        }
    }
}

/// From a failed attempt to the next one: 1 s, 2 s, 4 s and so on up to 60 s, or what the receiver asks for up to an hour.
fn pause(attempts: u32, retry_after: Option<Duration>) -> Duration {
    let doublings = attempts.saturating_sub(1).min(6);
    let own = Duration::from_secs(1 << doublings).min(Duration::from_mins(1));
    own.max(retry_after.unwrap_or_default()).min(Duration::from_hours(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_and_heed_what_the_receiver_asks_for() {
        let seconds: Vec<u64> = [1, 2, 3, 7, 99].map(|attempts| pause(attempts, None).as_secs()).to_vec();
        assert_eq!(seconds, [1, 2, 4, 60, 60]);
        assert_eq!(pause(1, Some(Duration::from_secs(30))), Duration::from_secs(30));
        assert_eq!(pause(7, Some(Duration::from_secs(30))), Duration::from_mins(1));
        assert_eq!(pause(1, Some(Duration::from_hours(24))), Duration::from_hours(1));
    }
}
