//! Who fetches what, and who waits for it.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::watch;

use super::{ResponseCache, Stored};
use crate::fleet::shared_answers::Ticket;

/// Tables, each with a lock of its own.
const TABLES: usize = 16;

/// What became of a fetch.
#[derive(Clone, Debug)]
pub enum Landed {
    /// An answer, and the key under which it is kept.
    Kept(Arc<str>, Arc<Stored>),
    /// None that others could have.
    NotKept,
}

type Table = HashMap<Box<str>, Waiting>;

#[derive(Default)]
pub(super) struct Flights {
    tables: [Mutex<Table>; TABLES],
    hasher: RandomState,
}

/// Who fetches.
pub enum Departure {
    /// We do.
    Ours(Flight),
    /// Somebody else does.
    Theirs(Waiting),
    /// Somebody else just has.
    Landed,
}

impl Flights {
    fn table(&self, key: &str) -> &Mutex<Table> {
        let place = usize::try_from(self.hasher.hash_one(key) % TABLES as u64).unwrap_or(0);
        &self.tables[place]
    }

    pub(super) fn depart(&self, store: &Arc<ResponseCache>, key: &str, has_landed: impl Fn() -> bool) -> Departure {
        let mut table = self.table(key).lock();
        if let Some(waiting) = table.get(key) {
            return Departure::Theirs(waiting.clone());
        }
        // It may have, since it was looked for.
        if has_landed() {
            return Departure::Landed;
        }
        let answer = watch::Sender::new(None);
        table.insert(key.into(), Waiting(answer.subscribe()));
        Departure::Ours(Flight { store: Arc::clone(store), key: key.into(), answer, ticket: None })
    }
}

/// A fetch. Dropped before it lands, nobody waits for it any longer.
pub struct Flight {
    store: Arc<ResponseCache>,
    key: Box<str>,
    answer: watch::Sender<Option<Landed>>,
    /// Where other instances wait for it too.
    ticket: Option<Ticket>,
}

impl Flight {
    /// What is fetched.
    #[must_use]
    pub fn key(&self) -> &str {
        &self.key
    }

    /// It is for other instances too, which wait for it.
    pub fn is_for_all(&mut self, ticket: Ticket) {
        self.ticket = Some(ticket);
    }

    /// It has ended; what is kept is in the store by now.
    pub fn land(mut self, landed: Landed) {
        if let (Landed::Kept(key, stored), Some(ticket)) = (&landed, self.ticket.take()) {
            ticket.keep(key, stored);
        }
        self.answer.send_replace(Some(landed));
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        self.store.flights.table(&self.key).lock().remove(&self.key);
    }
}

/// Somebody else's fetch.
#[derive(Clone)]
pub struct Waiting(watch::Receiver<Option<Landed>>);

impl Waiting {
    /// Waits until it has ended; `None` where whoever fetched is gone.
    pub async fn landed(&mut self) -> Option<Landed> {
        self.0.wait_for(Option::is_some).await.ok()?.clone()
    }
}
