//! For which bytes a model's name stands, and since when without a break.
//!
//! # Problem
//! What a server computed belongs to the bytes of the model that it has at that moment. Of these the inventory knows, and it
//! comes to know of a change a while after it. So an answer that was computed with the new bytes could be noted as one of the
//! old ones, and be taken for such if the old ones come back.
//!
//! # Rules
//! - A digest that was seen without a break has an [`Epoch`]; what is kept belongs to an epoch, and to no other one.
//! - An epoch ends when another digest is seen, when the servers differ, and when a call of ours that may change the model
//!   begins. While such a call runs there is none, and a new one begins behind it, whatever the inventory says by then.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

/// A time in which a model's name stood for the same bytes. No two of a process are equal.
pub type Epoch = u64;

/// The digests of an upstream's models, as far as somebody asked.
#[derive(Default)]
pub struct Digests {
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    known: HashMap<String, (String, Epoch)>,
    /// Models that are being changed; `None` is any.
    changing: Vec<Option<String>>,
}

/// A call that may change a model, until it is dropped.
pub struct Changing {
    digests: Arc<Digests>,
    model: Option<String>,
}

impl Digests {
    /// The epoch of a model whose digest is now this one; `None` while it is being changed. Models by their canonical names.
    pub fn epoch(&self, model: &str, digest: &str) -> Option<Epoch> {
        let mut inner = self.inner.lock();
        if inner.changing.iter().any(|changing| changing.as_deref().is_none_or(|changing| changing == model)) {
            return None;
        }
        if let Some((known, epoch)) = inner.known.get(model)
            && known == digest
        {
            return Some(*epoch);
        }
        let epoch = next();
        inner.known.insert(model.to_owned(), (digest.to_owned(), epoch));
        Some(epoch)
    }

    /// Whether an epoch of a model goes on.
    pub fn is_current(&self, model: &str, epoch: Epoch) -> bool {
        self.inner.lock().known.get(model).is_some_and(|(_, known)| *known == epoch)
    }

    /// The servers have told their models: whose digest is another one has no epoch any more.
    pub fn observe<'d>(&self, digest: impl Fn(&str) -> Option<&'d str>) {
        self.inner.lock().known.retain(|model, (known, _)| digest(model) == Some(known));
    }

    /// A call begins that may change a model, or any where none is named.
    #[must_use]
    pub fn change(self: &Arc<Self>, model: Option<&str>) -> Changing {
        let mut inner = self.inner.lock();
        match model {
            Some(model) => drop(inner.known.remove(model)),
            None => inner.known.clear(),
        }
        inner.changing.push(model.map(str::to_owned));
        Changing { digests: Arc::clone(self), model: model.map(str::to_owned) }
    }
}

impl Drop for Changing {
    fn drop(&mut self) {
        let mut inner = self.digests.inner.lock();
        if let Some(place) = inner.changing.iter().position(|changing| *changing == self.model) {
            inner.changing.swap_remove(place);
        }
    }
}

fn next() -> Epoch {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_epoch_lasts_as_long_as_the_digest_is_seen() {
        let digests = Digests::default();
        let first = digests.epoch("m", "d1").unwrap();
        digests.observe(|_| Some("d1"));
        assert_eq!(digests.epoch("m", "d1"), Some(first));
        assert_ne!(digests.epoch("n", "d1"), Some(first), "another model has another one");
        for other in [None, Some("d2")] {
            let before = digests.epoch("m", "d1").unwrap();
            digests.observe(|_| other);
            assert_ne!(digests.epoch("m", "d1").unwrap(), before, "d1 came back");
        }
        let before = digests.epoch("m", "d1").unwrap();
        assert_ne!(digests.epoch("m", "d2").unwrap(), before);
        assert_ne!(digests.epoch("m", "d1").unwrap(), before);
    }

    #[test]
    fn while_a_model_is_changed_it_has_none() {
        let digests = Arc::new(Digests::default());
        let (m, n) = (digests.epoch("m", "d").unwrap(), digests.epoch("n", "d").unwrap());
        let changing = digests.change(Some("m"));
        let again = digests.change(Some("m"));
        assert_eq!((digests.epoch("m", "d"), digests.epoch("n", "d")), (None, Some(n)));
        drop(changing);
        assert_eq!(digests.epoch("m", "d"), None);
        drop(again);
        assert!(digests.epoch("m", "d").is_some_and(|epoch| epoch != m));
        let any = digests.change(None);
        assert_eq!((digests.epoch("m", "d"), digests.epoch("n", "d")), (None, None));
        drop(any);
        assert!(digests.epoch("n", "d").is_some_and(|epoch| epoch != n));
    }
}
