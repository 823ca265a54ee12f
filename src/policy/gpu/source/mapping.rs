//! Any exporter, by a list of its metrics.

use super::field::Field;
use super::table::Key;
use super::text::Sample;

/// Which metrics of an exporter say what.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Mapping {
    /// The label that names the card, by an identity or by its number. Empty: there is one card, and all rows are about it.
    pub card_label: String,
    /// What a metric says, its name, and how many of our units one of its is (such as 1048576 for MiB, 100 for a share).
    /// Several metrics of one field are merged: counts and bits add up, of the others the worse one counts.
    pub fields: Vec<(Field, String, f64)>,
}

impl Mapping {
    /// Which card a row is about. A short number is the card's; everything else is its identity.
    pub(super) fn key<'r>(&self, sample: &'r Sample<'_>) -> Key<'r> {
        if self.card_label.is_empty() {
            return Key { index: Some(0), ..Key::default() };
        }
        let Some(card) = sample.label(&self.card_label) else { return Key::default() };
        match card.parse() {
            Ok(index) => Key { index: Some(index), ..Key::default() },
            Err(_) => Key { uuid: Some(card), ..Key::default() },
        }
    }
}
