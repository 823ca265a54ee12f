//! Quarantine: a request that made a runner crash is not tried a second time, at any server.
//!
//! # Problem
//!
//! A prompt that kills the process that runs the model will kill the next one as well. Clients repeat what failed, so
//! without memory one bad request takes the model from every server of the fleet, one after the other.
//!
//! # How
//!
//! A request is known by a fingerprint: a hash over model, path, the first [`PREFIX`] bytes of the body, and how long the body
//! is. The hash is keyed with a secret of the process, so nobody can make a harmless-looking request that has the
//! fingerprint of another one. After a crash the fingerprint is remembered for a while.
//!
//! # Invariants
//!
//! - At most [`MOST`] fingerprints; the one that would be forgotten first makes room.
//! - Nothing of a body is kept.

use std::collections::VecDeque;
use std::hash::{BuildHasher, Hasher};
use std::time::{Duration, Instant};

/// Bytes of a body that are part of its fingerprint.
pub const PREFIX: usize = 64 << 10;
/// Most requests that are remembered.
pub const MOST: usize = 1024;

/// What a request is known by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fingerprint(u64);

/// Hashes the beginning of a body, piece by piece.
pub struct Beginning<H: Hasher> {
    hasher: H,
    left: usize,
}

impl<H: Hasher> Beginning<H> {
    /// Nothing yet; `key` is the process's secret.
    pub fn new(key: &impl BuildHasher<Hasher = H>) -> Self {
        Self { hasher: key.build_hasher(), left: PREFIX }
    }

    /// The next bytes; what is beyond the prefix is not looked at.
    pub fn push(&mut self, bytes: &[u8]) {
        let take = bytes.len().min(self.left);
        self.left -= take;
        self.hasher.write(&bytes[..take]);
    }

    /// The hash of what came.
    #[must_use]
    pub fn finish(self) -> u64 {
        self.hasher.finish()
    }
}

impl Fingerprint {
    /// Of a request for `model` at `path`, whose body begins as `beginning` says and is `length` bytes long, where that
    /// is known.
    #[must_use]
    pub fn new(key: &impl BuildHasher, model: &str, path: &str, beginning: u64, length: Option<u64>) -> Self {
        Self(key.hash_one((model, path, beginning, length)))
    }
}

/// The requests that made a runner crash.
#[derive(Clone, Debug, Default)]
pub struct Quarantine {
    /// In the order in which they are forgotten.
    known: VecDeque<(Fingerprint, Instant)>,
}

impl Quarantine {
    /// How many are remembered, some of them perhaps too long already.
    #[must_use]
    pub fn len(&self) -> usize {
        self.known.len()
    }

    /// Whether none is remembered.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.known.is_empty()
    }

    /// Remembers a request for `lasts`; anew, if it is known.
    pub fn add(&mut self, fingerprint: Fingerprint, lasts: Duration, now: Instant) {
        self.forget(now);
        self.known.retain(|(known, _)| *known != fingerprint);
        let Some(until) = now.checked_add(lasts).filter(|_| !lasts.is_zero()) else { return };
        if self.known.len() >= MOST {
            self.known.pop_front();
        }
        // The time is nearly always the same, so the place is nearly always the last.
        let place = self.known.iter().rposition(|(_, other)| *other <= until).map_or(0, |place| place + 1);
        self.known.insert(place, (fingerprint, until));
    }

    /// Whether a request may not be tried.
    #[must_use]
    pub fn holds(&self, fingerprint: Fingerprint, now: Instant) -> bool {
        self.known.iter().any(|(known, until)| *known == fingerprint && now < *until)
    }

    /// Forgets those whose time is over.
    pub fn forget(&mut self, now: Instant) {
        while self.known.front().is_some_and(|(_, until)| *until <= now) {
            self.known.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::hash::RandomState;

    use super::*;
    use crate::clock;

    const LASTS: Duration = Duration::from_mins(10);

    fn print(key: &RandomState, model: &str, path: &str, body: &[u8]) -> Fingerprint {
        let mut beginning = Beginning::new(key);
        body.chunks(7).for_each(|piece| beginning.push(piece));
        Fingerprint::new(key, model, path, beginning.finish(), Some(body.len() as u64))
    }

    #[test]
    fn a_request_is_known_by_model_path_beginning_and_length() {
        let key = RandomState::new();
        let long = vec![b'x'; PREFIX + 10];
        let one = print(&key, "m", "/api/chat", &long);
        assert_eq!(one, print(&key, "m", "/api/chat", &long));
        let mut other_end = long.clone();
        *other_end.last_mut().expect("bytes") = b'y';
        assert_eq!(one, print(&key, "m", "/api/chat", &other_end), "beyond the prefix only the length counts");
        let mut other_begin = long.clone();
        other_begin[0] = b'y';
        for (model, path, body) in [
            ("n", "/api/chat", &long),
            ("m", "/api/generate", &long),
            ("m", "/api/chat", &other_begin),
            ("m", "/api/chat", &long[..PREFIX + 9].to_vec()),
        ] {
            assert_ne!(one, print(&key, model, path, body));
        }
        assert_ne!(one, print(&RandomState::new(), "m", "/api/chat", &long), "the key is the process's own");
    }

    #[test]
    fn how_a_body_is_cut_into_pieces_does_not_matter() {
        let key = RandomState::new();
        let body = vec![b'z'; 1000];
        let (mut whole, mut pieces) = (Beginning::new(&key), Beginning::new(&key));
        whole.push(&body);
        body.chunks(13).for_each(|piece| pieces.push(piece));
        assert_eq!(whole.finish(), pieces.finish());
    }

    #[test]
    fn it_is_remembered_for_its_time() {
        let (now, mut quarantine) = (clock::now(), Quarantine::default());
        quarantine.add(Fingerprint(1), LASTS, now);
        assert!(quarantine.holds(Fingerprint(1), now) && !quarantine.holds(Fingerprint(2), now));
        quarantine.add(Fingerprint(1), LASTS, now + LASTS / 2);
        assert!(quarantine.holds(Fingerprint(1), now + LASTS), "anew from the second crash on");
        assert_eq!(quarantine.len(), 1);
        assert!(!quarantine.holds(Fingerprint(1), now + LASTS * 2));
        quarantine.forget(now + LASTS * 2);
        assert!(quarantine.is_empty());
        quarantine.add(Fingerprint(1), Duration::ZERO, now);
        assert!(quarantine.is_empty(), "no time at all is switched off");
    }

    #[test]
    fn it_is_bounded_and_the_oldest_goes_first() {
        let (now, mut quarantine) = (clock::now(), Quarantine::default());
        for number in 0..=MOST as u64 {
            quarantine.add(Fingerprint(number), LASTS, now + Duration::from_millis(number));
        }
        let later = now + Duration::from_secs(5);
        assert_eq!(quarantine.len(), MOST);
        assert!(!quarantine.holds(Fingerprint(0), later) && quarantine.holds(Fingerprint(1), later));
        quarantine.add(Fingerprint(9999), Duration::from_secs(1), later);
        assert_eq!(
            quarantine.known.front().map(|(known, _)| *known),
            Some(Fingerprint(9999)),
            "in order of their ends"
        );
    }
}
