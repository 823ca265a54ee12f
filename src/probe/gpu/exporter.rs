//! An exporter's metrics, read as they come: an answer of a million lines takes no more memory than one of forty.

use std::time::Duration;

use super::Why;
use super::fetch::{Question, get};
use crate::config::WebhookUrl;
use crate::policy::gpu::reading::Reading;
use crate::policy::gpu::source::{Mapping, Reader};

/// Largest answer that is read.
const MOST: u64 = 64 << 20;

/// Asks an exporter.
///
/// # Errors
/// Why there is no reading.
pub(super) async fn read(url: &WebhookUrl, mapping: Option<Mapping>, deadline: Duration) -> Result<Reading, Why> {
    let mut reader = Reader::new(mapping);
    let question = Question { url, token: None, accept: "text/plain;version=0.0.4", most: MOST, deadline };
    get(question, |piece| reader.feed(piece)).await.map_err(|fault| Why::silent(fault.text))?;
    reader.finish()
}
