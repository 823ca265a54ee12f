//! Where the tests of a server that is ill meet those who want to know about them.
//!
//! Probes make the tests, one at a time for each server; whatever may concern them (a change of health, of the
//! circuit, of the operation, an operator's order) wakes them. The admin listener reads what came of them.

use std::collections::VecDeque;
use std::time::Instant;

use parking_lot::Mutex;
use tokio::sync::{Notify, oneshot};

use crate::policy::recovery::{Recovery, Test};

/// An operator's order to test a server now.
pub struct Order {
    /// The model that is to give a token, by its canonical name; the smallest in memory by default.
    pub model: Option<String>,
    /// Is told the outcome.
    pub answer: oneshot::Sender<Test>,
}

/// The tests of one server.
#[derive(Default)]
pub struct Recovering {
    recovery: Mutex<Recovery>,
    orders: Mutex<VecDeque<Order>>,
    /// Until when the server counts as ill because another instance of the cluster said so.
    elsewhere: Mutex<Option<Instant>>,
    stirred: Notify,
}

impl Recovering {
    /// Looks at what is known, or changes it; keep it short.
    pub fn with<T>(&self, look: impl FnOnce(&mut Recovery) -> T) -> T {
        look(&mut self.recovery.lock())
    }

    /// Looks at until when the server is ill for another instance, or changes it.
    pub fn with_elsewhere<T>(&self, look: impl FnOnce(&mut Option<Instant>) -> T) -> T {
        look(&mut self.elsewhere.lock())
    }

    /// Orders a test; the outcome comes when it is done. No outcome ever comes from a server that is gone.
    pub fn order(&self, model: Option<String>) -> oneshot::Receiver<Test> {
        let (answer, outcome) = oneshot::channel();
        self.orders.lock().push_back(Order { model, answer });
        self.stir();
        outcome
    }

    /// The next order that somebody still waits for.
    pub fn next_order(&self) -> Option<Order> {
        let mut orders = self.orders.lock();
        orders.retain(|order| !order.answer.is_closed());
        orders.pop_front()
    }

    /// Something about the server changed.
    pub fn stir(&self) {
        self.stirred.notify_one();
    }

    /// Returns once something about the server has changed since the last time.
    pub async fn stirred(&self) {
        self.stirred.notified().await;
    }
}
