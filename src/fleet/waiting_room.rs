//! Where requests wait for a slot when the rule of their upstream does not schedule them.
//!
//! # Problem
//! Rules such as `least_requests` choose among servers that have a free slot. When none has, a request waits: in a fair
//! queue of its model, up to a limit, for a while.
//!
//! # Shape
//! Whoever frees a slot wakes the first of each model; the woken ones try to choose, and those that find nothing stay
//! where they are. Who has a place leaves the queue and wakes the next, because more than one slot may have been freed.
//! A request that comes while others wait for the same model waits behind them.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::policy::queue::{FairQueue, Place, Rank};

/// A waiter's bell.
#[derive(Debug, Default)]
pub struct Bell {
    /// Rings when it may be this one's turn.
    pub turn: Notify,
    /// Rings, with the other, when this one has to make room.
    pushed_out: AtomicBool,
}

impl Bell {
    /// Whether it had to make room for another one.
    pub fn was_pushed_out(&self) -> bool {
        self.pushed_out.load(Ordering::Acquire)
    }

    fn push_out(&self) {
        self.pushed_out.store(true, Ordering::Release);
        self.turn.notify_one();
    }
}

/// The queues of an upstream, by model.
#[derive(Default)]
pub struct WaitingRoom {
    queues: Mutex<HashMap<String, FairQueue<Arc<Bell>>>>,
    waiting: AtomicUsize,
    paused: AtomicBool,
}

/// A request that waits; it leaves when this is dropped.
pub struct Seat {
    room: Arc<WaitingRoom>,
    model: String,
    place: Place,
    /// Rings when it may be this one's turn.
    pub bell: Arc<Bell>,
}

impl WaitingRoom {
    /// Whether anybody waits for this model; costs one read when nobody waits at all.
    pub fn has_waiters(&self, model: &str) -> bool {
        self.waiting.load(Ordering::Acquire) > 0 && self.queues.lock().get(model).is_some_and(|queue| !queue.is_empty())
    }

    /// Lets nobody begin until [`resume`](Self::resume).
    pub fn pause(&self) {
        self.paused.store(true, Ordering::Release);
    }

    /// Lets requests begin again.
    pub fn resume(&self) {
        self.paused.store(false, Ordering::Release);
        self.freed();
    }

    /// Whether nobody may begin.
    pub fn is_paused(&self) -> bool {
        self.paused.load(Ordering::Acquire)
    }

    /// How many wait, by model; one that has no name is called `-`.
    pub fn queues(&self) -> BTreeMap<String, usize> {
        let name = |model: &String| if model.is_empty() { "-".to_owned() } else { model.clone() };
        self.queues.lock().iter().map(|(model, queue)| (name(model), queue.len())).collect()
    }

    /// How many wait.
    pub fn len(&self) -> usize {
        self.waiting.load(Ordering::Relaxed)
    }

    /// Whether nobody waits.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Takes a request in, unless as many as `most` wait already and none of them has to make room; `now` is in seconds.
    pub fn enter(self: &Arc<Self>, model: &str, rank: Rank, most: usize, now: f64) -> Option<Seat> {
        let mut queues = self.queues.lock();
        let queue = queues.entry(model.to_owned()).or_default();
        if queue.len() >= most {
            let last = queue.makes_room_for(rank).filter(|_| most > 0)?;
            queue.remove(last)?.push_out();
            self.waiting.fetch_sub(1, Ordering::Release);
        }
        let bell = Arc::new(Bell::default());
        let place = queue.push(Arc::clone(&bell), rank, now);
        self.waiting.fetch_add(1, Ordering::Release);
        Some(Seat { room: Arc::clone(self), model: model.to_owned(), place, bell })
    }

    /// A slot is free: whose turn it may be is woken.
    pub fn freed(&self) {
        if self.waiting.load(Ordering::Acquire) == 0 {
            return;
        }
        for queue in self.queues.lock().values() {
            if let Some((_, bell)) = queue.first(0.0, 0.0, |_| true) {
                bell.turn.notify_one();
            }
        }
    }

    fn leave(&self, model: &str, place: Place) {
        let mut queues = self.queues.lock();
        let Some(queue) = queues.get_mut(model) else { return };
        if queue.pop(place).is_some() {
            self.waiting.fetch_sub(1, Ordering::Release);
        }
        if queue.is_empty() {
            queues.remove(model);
        } else if let Some((_, bell)) = queue.first(0.0, 0.0, |_| true) {
            bell.turn.notify_one();
        }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.room.leave(&self.model, self.place);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rank(flow: u64) -> Rank {
        Rank { flow, ..Rank::default() }
    }

    #[tokio::test]
    async fn whoever_waited_first_is_woken_and_wakes_the_next() {
        let room = Arc::new(WaitingRoom::default());
        let one = room.enter("m", rank(1), 10, 0.0).unwrap();
        let two = room.enter("m", rank(2), 10, 1.0).unwrap();
        room.freed();
        one.bell.turn.notified().await;
        drop(one);
        two.bell.turn.notified().await;
        assert!(room.has_waiters("m") && !room.has_waiters("n"));
        drop(two);
        assert!(room.is_empty());
    }

    #[tokio::test]
    async fn a_full_room_takes_nobody_but_for_whom_a_flood_makes_room() {
        let room = Arc::new(WaitingRoom::default());
        assert!(room.enter("m", rank(1), 0, 0.0).is_none());
        let seats: Vec<_> = (0..3).map(|_| room.enter("m", rank(1), 3, 0.0).unwrap()).collect();
        assert!(room.enter("m", rank(1), 3, 0.0).is_none());
        let other = room.enter("m", rank(2), 3, 0.0).unwrap();
        seats[2].bell.turn.notified().await;
        assert!(seats[2].bell.was_pushed_out() && !other.bell.was_pushed_out());
        assert_eq!(room.len(), 3);
        drop(seats);
        assert_eq!(room.len(), 1);
    }
}
