//! What each slot of a loaded model remembers: the tokens of the conversation it last worked on.
//!
//! A request that goes on with that conversation need not have them read again. A free slot with the
//! conversation is taken first, else an empty one, else the one that was idle longest, whose memory is
//! lost. A slot whose request broke off remembers nothing.

/// Of a prompt, at most this share is taken from memory: the last turn is always new.
const CACHED_PERCENT: usize = 95;

#[derive(Clone, Debug, Default)]
struct Slot {
    busy: bool,
    kept: Option<Kept>,
}

#[derive(Clone, Copy, Debug)]
struct Kept {
    conversation: u64,
    tokens: usize,
    /// A count that grows with each end of a request.
    at: u64,
}

/// The slots of one loaded model.
#[derive(Debug)]
pub(super) struct PrefixCache {
    slots: Vec<Slot>,
    ends: u64,
}

impl PrefixCache {
    pub(super) fn new(slots: usize) -> Self {
        Self { slots: vec![Slot::default(); slots], ends: 0 }
    }

    /// Takes a slot for a prompt. Returns it with the tokens of the prompt that need not be read; None
    /// when all are busy.
    pub(super) fn take(&mut self, conversation: u64, prompt: usize) -> Option<(usize, usize)> {
        let rank = |kept: Option<Kept>| match kept {
            Some(kept) if kept.conversation == conversation => (0, 0),
            None => (1, 0),
            Some(kept) => (2, kept.at),
        };
        let (index, slot) =
            self.slots.iter_mut().enumerate().filter(|(_, slot)| !slot.busy).min_by_key(|(_, slot)| rank(slot.kept))?;
        slot.busy = true;
        let kept = slot.kept.take().filter(|kept| kept.conversation == conversation);
        let cached = kept.map_or(0, |kept| kept.tokens.min(prompt * CACHED_PERCENT / 100));
        Some((index, cached))
    }

    /// Gives a slot back, with its conversation and the tokens it now holds, if the request went to its end.
    pub(super) fn give_back(&mut self, index: usize, kept: Option<(u64, usize)>) {
        self.ends += 1;
        if let Some(slot) = self.slots.get_mut(index) {
            slot.busy = false;
            slot.kept = kept.map(|(conversation, tokens)| Kept { conversation, tokens, at: self.ends });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_conversation_finds_its_slot_and_reads_only_what_is_new() {
        let mut cache = PrefixCache::new(2);
        let (slot, cached) = cache.take(7, 1000).unwrap();
        assert_eq!(cached, 0);
        cache.give_back(slot, Some((7, 1100)));
        assert_eq!(cache.take(8, 500), Some((1 - slot, 0)));
        assert_eq!(cache.take(7, 2000), Some((slot, 1100)));
        cache.give_back(slot, Some((7, 2100)));
        assert_eq!(cache.take(7, 1000), Some((slot, 950)));
        assert_eq!(cache.take(7, 1000), None);
    }

    #[test]
    fn the_slot_that_was_idle_longest_is_forgotten_first() {
        let mut cache = PrefixCache::new(2);
        for conversation in [1, 2] {
            let (slot, _) = cache.take(conversation, 100).unwrap();
            cache.give_back(slot, Some((conversation, 100)));
        }
        let (first, _) = cache.take(1, 100).unwrap();
        cache.give_back(first, Some((1, 100)));
        // 2 is now the older one; a stranger takes its place.
        let (strange, cached) = cache.take(3, 100).unwrap();
        assert_eq!((strange, cached), (1 - first, 0));
        cache.give_back(strange, Some((3, 100)));
        assert_eq!(cache.take(1, 100), Some((first, 95)));
    }

    #[test]
    fn a_broken_request_leaves_nothing_behind() {
        let mut cache = PrefixCache::new(1);
        let (slot, _) = cache.take(1, 100).unwrap();
        cache.give_back(slot, None);
        assert_eq!(cache.take(1, 100), Some((0, 0)));
    }
}
