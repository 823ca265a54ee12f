//! Sends the spans of requests to an OpenTelemetry collector, by OTLP.
//!
//! # States
//! Spans gather for `interval`, or until there are those of 512 requests; then they are sent, and sent again for as long as
//! the collector says that this may help (OTLP specification, Failures), up to six times. What gathers meanwhile is bounded
//! by the channel; the rest is dropped and counted.
//!
//! # Invariants
//! - The collector of the configuration in force is told, whatever was in force when a request began.
//! - A collector that is gone is said once in the log, and its return once.
//! - When the process stops, what is there is sent once more, and not waited for longer than other last work.

mod collector;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};

use crate::clock;
use crate::fleet::store::Store;
use crate::fleet::tracing::Tracing;
use crate::telemetry::metrics::Metrics;
use crate::telemetry::traces::{Story, spans};

use collector::{Link, Refusal};

/// Stories that are sent at once.
const TOGETHER: usize = 512;
/// Times that the same spans are sent.
const ATTEMPTS: u32 = 6;
/// Longest pause that a collector is granted.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// How often it is looked whether the process stops, in a pause.
const LOOK: Duration = Duration::from_millis(200);
/// How often it is looked whether the collector is another one while nothing is to be sent.
const IDLE: Duration = Duration::from_secs(60);

/// Sends what requests tell, until nobody tells any more and the last is sent.
pub async fn run(store: Arc<Store>, metrics: Arc<Metrics>, mut stories: mpsc::Receiver<Box<Story>>) {
    let mut teller = Teller { store, metrics, link: None, fails: false };
    while let Some(first) = stories.recv().await {
        let batch = gather(first, &mut stories, teller.interval()).await;
        teller.deliver(&batch, &stories).await;
    }
}

/// The first story and what comes after it in time.
async fn gather(first: Box<Story>, stories: &mut mpsc::Receiver<Box<Story>>, interval: Duration) -> Vec<Box<Story>> {
    let (mut batch, end) = (vec![first], clock::now() + interval);
    while batch.len() < TOGETHER {
        let room = TOGETHER - batch.len();
        match timeout(end.saturating_duration_since(clock::now()), stories.recv_many(&mut batch, room)).await {
            Ok(1..) => {}
            // Time is up, or nobody is left who could tell more.
            Ok(0) | Err(_) => break,
        }
    }
    batch
}

struct Teller {
    store: Arc<Store>,
    metrics: Arc<Metrics>,
    /// The way to the collector, for as long as it is the same one.
    link: Option<Link>,
    /// Whether the last spans could not be delivered.
    fails: bool,
}

impl Teller {
    fn tracing(&self) -> Option<Arc<Tracing>> {
        self.store.load().tracing.clone()
    }

    fn interval(&self) -> Duration {
        self.tracing().map_or(IDLE, |tracing| tracing.collector.interval)
    }

    async fn deliver(&mut self, batch: &[Box<Story>], stories: &mpsc::Receiver<Box<Story>>) {
        let count = batch.iter().map(|story| story.spans()).sum();
        for attempt in 1.. {
            // Nobody wants them any more.
            let Some(tracing) = self.tracing() else {
                self.metrics.traces.dropped.inc_by(count);
                return;
            };
            let request = spans::request(batch, &tracing.collector.attributes);
            let refusal = match self.link(&tracing).send(request).await {
                Ok(refused) => {
                    let refused = refused.min(count);
                    self.metrics.traces.delivered.inc_by(count - refused);
                    self.metrics.traces.refused.inc_by(refused);
                    if std::mem::take(&mut self.fails) {
                        tracing::info!("the collector takes traces again");
                    }
                    return;
                }
                Err(refusal) => refusal,
            };
            self.say(&tracing, &refusal);
            // A connection that hangs is not used again.
            self.link = None;
            if !refusal.again || attempt >= ATTEMPTS || stories.is_closed() {
                self.metrics.traces.failed.inc_by(count);
                return;
            }
            rest(pause(attempt, refusal.after), stories).await;
        }
    }

    /// The way to the collector that is in force.
    fn link(&mut self, tracing: &Arc<Tracing>) -> &mut Link {
        if self.link.as_ref().is_some_and(|link| !link.leads_to(tracing)) {
            self.link = None;
        }
        self.link.get_or_insert_with(|| Link::new(Arc::clone(tracing)))
    }

    fn say(&mut self, tracing: &Tracing, refusal: &Refusal) {
        if !std::mem::replace(&mut self.fails, true) {
            let (collector, error) = (tracing.collector.url.shown(), &refusal.text);
            tracing::warn!(collector, error, "the collector does not take traces");
        }
    }
}

/// Waits so long, or until nobody is left who could tell more.
async fn rest(pause: Duration, stories: &mpsc::Receiver<Box<Story>>) {
    let end = clock::now() + pause;
    while clock::now() < end && !stories.is_closed() {
        sleep(LOOK.min(end.saturating_duration_since(clock::now()))).await;
    }
}

/// From a failed attempt to the next one: 1 s, 2 s, 4 s and so on, or what the collector asks for, up to a minute.
fn pause(attempt: u32, asked: Option<Duration>) -> Duration {
    let own = Duration::from_secs(1 << attempt.saturating_sub(1).min(6));
    own.max(asked.unwrap_or_default()).min(LONGEST_PAUSE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_and_heed_what_the_collector_asks_for() {
        let seconds = [1, 2, 3, 7, 99].map(|attempt| pause(attempt, None).as_secs());
        assert_eq!(seconds, [1, 2, 4, 60, 60]);
        assert_eq!(pause(1, Some(Duration::from_secs(9))), Duration::from_secs(9));
        assert_eq!(pause(1, Some(Duration::from_hours(1))), LONGEST_PAUSE);
    }
}
