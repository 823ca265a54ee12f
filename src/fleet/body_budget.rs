//! How many bytes of request bodies the process may hold at a time.
//!
//! A body is held when its model comes last, or for a retry. Without a common limit, a hundred such
//! uploads would take all memory or all of the disk; with it, the next one is answered 503.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// The budget of the process.
#[derive(Debug, Default)]
pub struct BodyBudget {
    used: AtomicUsize,
    limit: AtomicUsize,
}

impl BodyBudget {
    /// Changes the limit; what is held already stays.
    pub fn set_limit(&self, limit: usize) {
        self.limit.store(limit, Ordering::Relaxed);
    }

    /// Bytes held now.
    pub fn used(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }

    fn take(&self, bytes: usize) -> bool {
        let limit = self.limit.load(Ordering::Relaxed);
        self.used
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |used| {
                used.checked_add(bytes).filter(|sum| *sum <= limit)
            })
            .is_ok()
    }
}

/// The part of the budget that one body holds; given back when dropped.
#[derive(Debug)]
pub struct Held {
    budget: Arc<BodyBudget>,
    bytes: usize,
}

impl Held {
    /// Nothing yet.
    pub fn new(budget: Arc<BodyBudget>) -> Self {
        Self { budget, bytes: 0 }
    }

    /// Takes more; false when the budget does not allow it.
    #[must_use]
    pub fn grow(&mut self, bytes: usize) -> bool {
        let granted = self.budget.take(bytes);
        if granted {
            self.bytes += bytes;
        }
        granted
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.budget.used.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_dropped_is_free_again() {
        let budget = Arc::new(BodyBudget::default());
        budget.set_limit(10);
        let mut first = Held::new(Arc::clone(&budget));
        assert!(first.grow(6) && first.grow(4));
        let mut second = Held::new(Arc::clone(&budget));
        assert!(!second.grow(1));
        drop(first);
        assert!(second.grow(1));
        assert_eq!(budget.used(), 1);
    }
}
