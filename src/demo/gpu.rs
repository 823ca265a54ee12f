//! A host's card at work: [`Sharing`] driven by the real clock, for requests that wait on it.
//!
//! Every waiting request sleeps until the next event on the card as things are, and looks again when
//! another one comes or goes. Sleeps end up to a millisecond late; the arithmetic does not.

use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::watch;

use super::card::Card;
use super::prefix_cache::PrefixCache;
use super::runner::Lease;
use super::sharing::Sharing;
use crate::clock;

/// Tokens that come within this time are sent in one chunk.
const CHUNK: Duration = Duration::from_millis(50);

/// One card.
pub(super) struct Gpu {
    card: Card,
    made: Instant,
    sharing: Mutex<Sharing>,
    /// Somebody came or went.
    changed: watch::Sender<u64>,
}

/// What a request asks of a card.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Load {
    /// Tokens of the prompt.
    pub(super) prompt: usize,
    /// Tokens of the answer.
    pub(super) answer: usize,
    /// Tells which slot may remember the beginning of the prompt.
    pub(super) conversation: u64,
}

impl Gpu {
    pub(super) fn new(card: Card) -> Arc<Self> {
        let (sharing, changed) = (Mutex::new(Sharing::default()), watch::Sender::new(0));
        Arc::new(Self { card, made: clock::now(), sharing, changed })
    }

    /// Seconds on the card's clock.
    fn now(&self) -> f64 {
        clock::now().saturating_duration_since(self.made).as_secs_f64()
    }

    fn bump(&self) {
        self.changed.send_modify(|version| *version = version.wrapping_add(1));
    }
}

/// A request's work on a card, and the memory of its slot. Dropping it ends the work.
pub(super) struct Work {
    gpu: Arc<Gpu>,
    id: u64,
    load: Load,
    cached: usize,
    cache: Arc<Mutex<PrefixCache>>,
    slot: Option<usize>,
}

impl Lease {
    /// Begins to compute on the host's card; None if the host has none.
    pub(super) fn work(&self, size: u64, load: Load) -> Option<Work> {
        let gpu = Arc::clone(self.user.scheduler.gpu()?);
        let cache = Arc::clone(&self.user.cache);
        let taken = cache.lock().take(load.conversation, load.prompt);
        let (slot, cached) = taken.map_or((None, 0), |(slot, cached)| (Some(slot), cached));
        let prefill = gpu.card.prefill_seconds(size, load.prompt.saturating_sub(cached).max(1));
        let decode = gpu.card.decode_seconds(size, load.answer);
        let id = gpu.sharing.lock().enter(gpu.now(), self.user.instance, prefill, decode);
        gpu.bump();
        Some(Work { gpu, id, load, cached, cache, slot })
    }
}

impl Work {
    /// Returns once the prompt has been read.
    pub(super) async fn first_token(&self) {
        self.until(0.0).await;
    }

    /// Waits for more tokens than `sent`, or for the end, and returns how many there are now.
    pub(super) async fn tokens_after(&self, sent: usize) -> usize {
        if sent > 0 {
            tokio::select! {
                () = tokio::time::sleep(CHUNK) => {}
                () = self.until(1.0) => {}
            }
        }
        // The first token comes with the end of the prompt, the end with the last.
        self.until(self.share_of(sent)).await;
        let share = self.gpu.sharing.lock().share(self.id).unwrap_or(0.0);
        let written = (share * self.load.answer as f64) as usize;
        written.max(sent).saturating_add(1).min(self.load.answer)
    }

    /// Tokens that had to be read, without those that the slot remembered.
    pub(super) fn prompt_tokens(&self) -> usize {
        self.load.prompt.saturating_sub(self.cached).max(1)
    }

    /// How long reading the prompt and writing the answer took, as far as they have come.
    pub(super) fn durations(&self) -> (Duration, Duration) {
        let now = self.gpu.now();
        let Some(times) = self.gpu.sharing.lock().times(self.id) else {
            return (Duration::ZERO, Duration::ZERO);
        };
        let first = times.first.unwrap_or(now);
        let length = |seconds: f64| Duration::from_secs_f64(seconds.max(0.0));
        (length(first - times.entered), length(times.done.unwrap_or(now) - first))
    }

    /// The share of the answer that is written when so many tokens are.
    fn share_of(&self, tokens: usize) -> f64 {
        if tokens >= self.load.answer { 1.0 } else { tokens as f64 / self.load.answer as f64 }
    }

    async fn until(&self, share: f64) {
        let mut changed = self.gpu.changed.subscribe();
        while let Some(wait) = {
            changed.borrow_and_update();
            self.wait(share)
        } {
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                // The sender lives in self.
                _ = changed.changed() => {}
            }
        }
    }

    /// How long nothing can have happened; None once the share is written.
    fn wait(&self, share: f64) -> Option<Duration> {
        let mut sharing = self.gpu.sharing.lock();
        sharing.advance(self.gpu.now());
        if sharing.share(self.id).is_some_and(|reached| reached >= share) {
            return None;
        }
        let event = sharing.next_event()?;
        let wait = sharing.until_share(self.id, share).map_or(event, |wait| wait.min(event));
        Some(Duration::try_from_secs_f64(wait).unwrap_or(Duration::MAX))
    }
}

impl Drop for Work {
    fn drop(&mut self) {
        let mut sharing = self.gpu.sharing.lock();
        sharing.advance(self.gpu.now());
        let finished = sharing.times(self.id).is_some_and(|times| times.done.is_some());
        sharing.leave(self.gpu.now(), self.id);
        drop(sharing);
        if let Some(slot) = self.slot {
            let kept = finished.then(|| (self.load.conversation, self.load.prompt + self.load.answer));
            self.cache.lock().give_back(slot, kept);
        }
        self.gpu.bump();
    }
}
