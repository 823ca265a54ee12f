//! How fast one simulated GPU computes and loads, as a few constants.
//!
//! A transformer's work grows with its size, so one constant each says for any model how fast a card
//! reads a prompt (tokens/s × GB), writes an answer (GB/s, for each token reads all weights once) and
//! loads (GB/s and a fixed time). The figures are assumptions in the right order of magnitude, not
//! measurements; what is compared on them is policies, not cards.

use std::time::Duration;

use super::model::GB;

/// What the driver and the runner keep for themselves of a card's memory.
const RESERVED: u64 = GB;

/// The constants of a card.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Card {
    /// Bytes of video memory.
    pub memory: u64,
    /// Prompt tokens a second times 10^9 bytes of the model.
    pub prefill: f64,
    /// 10^9 bytes a second that are read while writing tokens.
    pub decode: f64,
    /// 10^9 bytes a second from disk into memory.
    pub load: f64,
    /// What a load takes beside that.
    pub load_fixed: Duration,
    /// What an unload takes.
    pub unload: Duration,
}

impl Card {
    const fn new(gigabytes: u64, prefill: f64, decode: f64, load: f64) -> Self {
        Self {
            memory: gigabytes * GB,
            prefill,
            decode,
            load,
            load_fixed: Duration::from_millis(1500),
            unload: Duration::from_millis(500),
        }
    }

    /// 16 GB, slow.
    #[must_use]
    pub const fn t4() -> Self {
        Self::new(16, 5_000.0, 190.0, 1.5)
    }

    /// 24 GB, the quickest with prompts.
    #[must_use]
    pub const fn rtx4090() -> Self {
        Self::new(24, 40_000.0, 600.0, 2.5)
    }

    /// 48 GB.
    #[must_use]
    pub const fn a6000() -> Self {
        Self::new(48, 22_000.0, 460.0, 2.0)
    }

    /// 80 GB, the quickest with answers.
    #[must_use]
    pub const fn a100() -> Self {
        Self::new(80, 34_000.0, 800.0, 3.0)
    }

    /// The same card with everything that many times faster, so that an hour passes in minutes.
    #[must_use]
    pub fn faster(mut self, times: f64) -> Self {
        self.prefill *= times;
        self.decode *= times;
        self.load *= times;
        self.load_fixed = self.load_fixed.div_f64(times);
        self.unload = self.unload.div_f64(times);
        self
    }

    /// Bytes that models may fill.
    #[must_use]
    pub const fn usable(&self) -> u64 {
        self.memory.saturating_sub(RESERVED)
    }

    /// Seconds to read a prompt of so many tokens, if the card does nothing else.
    #[must_use]
    pub fn prefill_seconds(&self, size: u64, tokens: usize) -> f64 {
        tokens as f64 * gigabytes(size) / self.prefill
    }

    /// Seconds to write so many tokens, if the card does nothing else.
    #[must_use]
    pub fn decode_seconds(&self, size: u64, tokens: usize) -> f64 {
        tokens as f64 * gigabytes(size) / self.decode
    }

    /// How long a model of this size loads.
    #[must_use]
    pub fn load_time(&self, size: u64) -> Duration {
        self.load_fixed + Duration::from_secs_f64(gigabytes(size) / self.load)
    }
}

fn gigabytes(size: u64) -> f64 {
    size as f64 / GB as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_follow_from_the_size_of_the_model() {
        let card = Card::t4();
        assert_eq!(card.usable(), 15 * GB);
        assert!((card.prefill_seconds(5 * GB, 2000) - 2.0).abs() < 1e-9);
        assert!((card.decode_seconds(19 * GB, 10) - 1.0).abs() < 1e-9);
        assert_eq!(card.load_time(3 * GB), Duration::from_millis(3500));
    }

    #[test]
    fn a_faster_card_is_faster_in_everything() {
        let (card, fast) = (Card::a100(), Card::a100().faster(20.0));
        assert_eq!(fast.memory, card.memory);
        assert!((fast.prefill_seconds(GB, 100) * 20.0 - card.prefill_seconds(GB, 100)).abs() < 1e-9);
        assert!((fast.decode_seconds(GB, 100) * 20.0 - card.decode_seconds(GB, 100)).abs() < 1e-9);
        assert_eq!(fast.load_time(6 * GB) * 20, card.load_time(6 * GB));
        assert_eq!(fast.unload, Duration::from_millis(25));
    }
}
