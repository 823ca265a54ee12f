//! The task of one webhook: sends one message after the other, and each again until it is taken or given up.

use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::mpsc;

use super::pause;
use super::payload::Payload;
use crate::clock;
use crate::fleet::events::new_id;
use crate::fleet::notifications::{Hook, Notifications, Progress, Tested};
use crate::probe::client::Fault;
use crate::probe::webhook::{self, Reply};
use crate::telemetry::metrics::Metrics;

/// A message that waits for its turn.
#[derive(Debug)]
pub struct Message {
    /// Its number among the deliveries.
    pub number: u64,
    /// Its id.
    pub id: String,
    /// What it tells.
    pub event: &'static str,
    /// JSON.
    pub body: Bytes,
}

/// The sender of one webhook.
pub struct Courier {
    /// Where to, and how.
    pub hook: Arc<Hook>,
    /// Where the outcome is noted.
    pub notifications: Arc<Notifications>,
    /// Where it is counted.
    pub metrics: Arc<Metrics>,
}

impl Courier {
    /// Sends what comes, until nobody sends any more.
    pub async fn run(self, mut messages: mpsc::Receiver<Message>) {
        while let Some(message) = messages.recv().await {
            self.deliver(&message).await;
        }
    }

    async fn deliver(&self, message: &Message) {
        let hook = self.hook.url.shown();
        for attempt in 1_u32.. {
            let reply = send(&self.hook, &message.id, &message.body).await;
            let (status, error) = judge(&reply);
            let last = attempt >= self.hook.attempts || !is_worth_another(&reply);
            let pause = pause(attempt, reply.as_ref().ok().and_then(|reply| reply.retry_after));
            let progress = match (&error, last) {
                (None, _) => Progress::Delivered,
                (Some(_), true) => Progress::Failed,
                (Some(_), false) => Progress::Retrying,
            };
            self.notifications.change(message.number, |delivery| {
                delivery.progress = progress;
                delivery.attempts = attempt;
                (delivery.status, delivery.error) = (status, error.clone());
                delivery.next_attempt = (progress == Progress::Retrying).then(|| clock::unix_time() + pause);
            });
            match progress {
                Progress::Retrying => tokio::time::sleep(pause).await,
                _ => {
                    self.metrics.notified(message.event, progress.as_str(), 1);
                    if let Some(error) = error {
                        tracing::warn!(hook, event = message.event, attempts = attempt, error, "nobody could be told");
                    }
                    return;
                }
            }
        }
    }
}

/// Sends a test message once.
pub async fn test(hook: &Hook) -> Tested {
    let (id, began) = (new_id(), clock::now());
    let body = Payload::test(&id, clock::unix_time()).body();
    let (status, error) = judge(&send(hook, &id, &body).await);
    Tested { hook: hook.url.shown(), status, error, took: clock::now() - began }
}

async fn send(hook: &Hook, id: &str, body: &Bytes) -> Result<Reply, Fault> {
    let secret_file = hook.secret_file.as_deref();
    webhook::post(webhook::Message { url: &hook.url, secret_file, id, body, timeout: hook.timeout }).await
}

/// The status, and why the message was not taken, if it was not.
fn judge(reply: &Result<Reply, Fault>) -> (Option<u16>, Option<String>) {
    match reply {
        Ok(reply) if reply.is_good() => (Some(reply.status), None),
        Ok(reply) if (300..400).contains(&reply.status) => {
            (Some(reply.status), Some(format!("status {}: redirects are not followed", reply.status)))
        }
        Ok(reply) => (Some(reply.status), Some(format!("status {}: {}", reply.status, reply.text))),
        Err(fault) => (None, Some(fault.text.clone())),
    }
}

/// Whether the same message may be taken another time: what the receiver refuses for good is not sent again.
fn is_worth_another(reply: &Result<Reply, Fault>) -> bool {
    reply.as_ref().map_or(true, |reply| matches!(reply.status, 408 | 425 | 429 | 500..=599))
}
