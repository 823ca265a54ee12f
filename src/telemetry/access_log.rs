//! One line for each request, in JSON or in nginx's `combined` format, written by a thread of its own.
//!
//! A request hands over its facts and goes on; when the writer cannot keep up (a full disk, a pipe
//! that nobody reads) lines are dropped and counted. Never bodies, never credentials, no query.

use std::io::{self, BufWriter, Write};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, channel, sync_channel};
use std::time::Duration;

use serde::Serialize;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::combined;
use super::metrics::Metrics;
use crate::threads;

/// Lines that may wait.
const BACKLOG: usize = 8192;
/// How long lines are let gather before they are written: at 25,000 a second some 250, far fewer than may wait.
const TOGETHER: Duration = Duration::from_millis(10);
/// Longest text that is written of a field that a client chose, in bytes.
const MAX_FIELD: usize = 256;

/// How a line is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// One JSON object.
    #[default]
    Json,
    /// As nginx's `combined`.
    Combined,
}

/// The facts of one request.
#[derive(Debug, Default, Serialize)]
pub struct Entry {
    /// How its line is written: that of the configuration that it began with.
    #[serde(skip)]
    pub format: Format,
    /// When it began, seconds since 1970; written as RFC 3339.
    #[serde(serialize_with = "rfc3339")]
    pub ts: f64,
    /// Its id, also sent to the server and back to the client.
    pub request_id: String,
    /// Address of the client.
    pub client_ip: String,
    /// Id of the API key that it came with, never the key itself.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub key: String,
    /// Method.
    pub method: String,
    /// Host that was asked for.
    pub host: String,
    /// Path without the query.
    pub path: String,
    /// `HTTP/1.1` or `HTTP/2`.
    pub protocol: &'static str,
    /// Status sent to the client; 499 when it left before.
    pub status: u16,
    /// Why it ended as it did.
    pub reason: &'static str,
    /// Whole duration.
    pub duration_ms: f64,
    /// Time spent waiting for a slot.
    #[serde(skip_serializing_if = "is_zero")]
    pub queue_ms: f64,
    /// From the start to the first byte of the answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ttfb_ms: Option<f64>,
    /// From the start to the first token of a stream.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ttft_ms: Option<f64>,
    /// Bytes of the request body.
    pub bytes_in: u64,
    /// Bytes of the response body.
    pub bytes_out: u64,
    /// Route.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub route: String,
    /// Upstream.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub upstream: String,
    /// Server of the last attempt.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub server: String,
    /// Model.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub model: String,
    /// Attempts made.
    pub attempts: u32,
    /// Tokens of the prompt, as the server counted them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prompt_tokens: Option<u64>,
    /// Tokens of the answer, as the server counted them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub output_tokens: Option<u64>,
    /// Identity of its trace, where the configuration asks for traces.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub trace_id: String,
    /// What the cache of its route did: `hit`, `stale`, `revalidated`, `partial`, `miss` or `bypass`; empty where there is none.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub cache: &'static str,
    /// What the client calls itself.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub user_agent: String,
    /// The page that the client came from, without its query; in the combined format only.
    #[serde(skip)]
    pub referer: String,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
fn is_zero(milliseconds: &f64) -> bool {
    *milliseconds <= 0.0
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
fn rfc3339<S: serde::Serializer>(seconds: &f64, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&moment(*seconds))
}

/// A time in seconds since 1970 as people write it: RFC 3339, in UTC, to the millisecond.
#[must_use]
pub fn moment(seconds: f64) -> String {
    #[expect(clippy::cast_possible_truncation, reason = "whole milliseconds of this century")]
    let nanos = (seconds * 1000.0).round() as i128 * 1_000_000;
    let text = OffsetDateTime::from_unix_timestamp_nanos(nanos).ok().and_then(|at| at.format(&Rfc3339).ok());
    text.unwrap_or_else(|| "1970-01-01T00:00:00Z".to_owned())
}

/// Text that a client chose, cut to a length that a log can bear; bytes that are not text are replaced.
pub fn field(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(&bytes[..bytes.len().min(MAX_FIELD)]);
    text.into_owned()
}

/// Where requests hand over their facts.
#[derive(Clone)]
pub struct AccessLog {
    lines: SyncSender<Arc<Entry>>,
    metrics: Arc<Metrics>,
}

/// Tells when the last line has been written.
pub struct LastLine(Receiver<()>);

impl LastLine {
    /// Waits until nobody can write any more and everything is written, at most this long.
    pub fn wait(self, limit: Duration) {
        // Nothing is ever sent: the channel closes when the writer ends.
        let _ = self.0.recv_timeout(limit);
    }
}

impl AccessLog {
    /// Starts the writer.
    ///
    /// # Errors
    /// When no thread can be started.
    pub fn start(output: impl Write + Send + 'static, metrics: Arc<Metrics>) -> io::Result<(Self, LastLine)> {
        let (lines, receiver) = sync_channel(BACKLOG);
        let (open, last_line) = channel();
        let counted = Arc::clone(&metrics);
        std::thread::Builder::new().name("access-log".to_owned()).spawn(move || {
            threads::come_behind_requests();
            write_lines(&receiver, BufWriter::with_capacity(64 << 10, output), &counted);
            drop(open);
        })?;
        Ok((Self { lines, metrics }, LastLine(last_line)))
    }

    /// Hands over one line; never waits.
    pub fn write(&self, entry: Arc<Entry>) {
        if self.lines.try_send(entry).is_err() {
            self.metrics.log_dropped.inc();
        }
    }
}

fn write_lines(receiver: &Receiver<Arc<Entry>>, mut output: impl Write, metrics: &Metrics) {
    while let Ok(first) = receiver.recv() {
        // Whoever hands over to a thread that waits pays for waking it: so this one sleeps, and takes all that came
        // meanwhile.
        std::thread::sleep(TOGETHER);
        let mut next = Some(first);
        while let Some(entry) = next {
            let line = match entry.format {
                Format::Json => serde_json::to_vec(&*entry).map_err(io::Error::from),
                Format::Combined => Ok(combined::line(&entry)),
            };
            let written = line.and_then(|mut line| {
                line.push(b'\n');
                output.write_all(&line)
            });
            if written.is_err() {
                metrics.log_dropped.inc();
            }
            next = receiver.try_recv().ok();
        }
        if output.flush().is_err() {
            metrics.log_dropped.inc();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_one_json_object_whatever_the_client_sent() {
        let entry = Entry { ts: 1.5, path: field(b"/a\r\nb\x1b[0m\xff\xe2\x80\xa8"), status: 200, ..Entry::default() };
        let line = serde_json::to_string(&entry).unwrap();
        assert!(!line.contains('\n') && !line.contains('\x1b'), "{line}");
        let value: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!(value["ts"], "1970-01-01T00:00:01.5Z");
        assert_eq!(value["status"], 200);
    }

    #[test]
    fn long_fields_are_cut() {
        assert_eq!(field(&[b'a'; 1000]).len(), MAX_FIELD);
    }

    #[test]
    fn lines_that_cannot_be_written_are_counted() {
        struct Full;
        impl Write for Full {
            fn write(&mut self, _: &[u8]) -> io::Result<usize> {
                Err(io::ErrorKind::StorageFull.into())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let metrics = Arc::new(Metrics::default());
        let (log, last_line) = AccessLog::start(Full, Arc::clone(&metrics)).unwrap();
        log.write(Arc::default());
        drop(log);
        last_line.wait(Duration::from_secs(10));
        assert!(metrics.log_dropped.get() >= 1);
    }
}
