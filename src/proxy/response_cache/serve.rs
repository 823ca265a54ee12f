//! Gives an answer that is kept: all of it, a part, its head, or the word that the client has it already.

use std::io::Read;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};

use super::{Way, unix_millis};
use crate::policy::failure::Reason;
use crate::policy::http_cache::form::Kept;
use crate::policy::http_cache::using::age_seconds;
use crate::policy::http_cache::validation::OF_NOT_MODIFIED;
use crate::proxy::conditions::{Range, Version};
use crate::proxy::context::{Exchange, Stop};
use crate::proxy::framing::Length;
use crate::proxy::message::AnswerHead;
use crate::proxy::{content, reply, response};
use crate::telemetry::response_cache_metrics::Outcome;

/// Bytes that are written at a time.
const PIECE: usize = 64 << 10;
/// Bytes that are unpacked at a time where they are not wanted, before others have their turn.
const SKIPPED: u64 = 256 << 10;

/// What is said of an answer.
pub(super) struct Told {
    outcome: Outcome,
    /// Why a server was asked, and what it answered, if one was.
    forwarded: Option<(&'static str, Option<StatusCode>)>,
    in_place_of_error: bool,
    /// What a server that was asked sets for this client, and no other.
    cookies: Vec<HeaderValue>,
}

impl Told {
    pub fn of_hit(outcome: Outcome) -> Self {
        Self { outcome, forwarded: None, in_place_of_error: false, cookies: Vec::new() }
    }

    pub fn of_confirmed(why: &'static str, cookies: Vec<HeaderValue>) -> Self {
        let forwarded = Some((why, Some(StatusCode::NOT_MODIFIED)));
        Self { outcome: Outcome::Revalidated, forwarded, in_place_of_error: false, cookies }
    }

    pub fn in_place_of_error(why: &'static str, status: Option<StatusCode>) -> Self {
        Self { outcome: Outcome::Stale, forwarded: Some((why, status)), in_place_of_error: true, cookies: Vec::new() }
    }

    /// As `Cache-Status` (RFC 9211).
    fn text(&self, ttl: i64) -> String {
        match self.forwarded {
            None if self.outcome == Outcome::Collapsed => format!("arriero; fwd=uri-miss; collapsed; ttl={ttl}"),
            None => format!("arriero; hit; ttl={ttl}"),
            Some((why, status)) => {
                let status = status.map(|status| format!("; fwd-status={}", status.as_u16())).unwrap_or_default();
                let detail = if self.in_place_of_error { "; detail=stale_if_error" } else { "" };
                format!("arriero; fwd={why}{status}; ttl={ttl}{detail}")
            }
        }
    }
}

/// Sends an answer that is kept.
///
/// # Errors
/// When the client has not got a whole answer.
pub(super) async fn send(exchange: &mut Exchange<'_>, way: &Way<'_>, kept: Kept, told: Told) -> Result<(), Stop> {
    way.cache.store.count(told.outcome);
    let now = unix_millis();
    exchange.ctx.cache.word = match told.outcome {
        Outcome::Collapsed => "miss",
        outcome => outcome.as_str(),
    };
    exchange.ctx.cache.status = HeaderValue::try_from(told.text(kept.life.ttl(now))).ok();
    let mut headers = kept.headers.clone();
    headers.insert(header::AGE, HeaderValue::from(age_seconds(&kept.life, now)));
    let (method, request) = (&exchange.head.method, &exchange.head.headers);
    let (status, range) = choose(&kept, method, request);
    let (first, length) = match range {
        Range::Whole => (0, kept.length),
        Range::Part { first, last } => {
            set(&mut headers, header::CONTENT_RANGE, format!("bytes {first}-{last}/{}", kept.length));
            (first, last - first + 1)
        }
        Range::Outside => {
            set(&mut headers, header::CONTENT_RANGE, format!("bytes */{}", kept.length));
            (0, 0)
        }
    };
    let has_body = match status {
        StatusCode::NOT_MODIFIED => {
            headers = headers.into_iter().fold((HeaderMap::new(), None), only_of_not_modified).0;
            false
        }
        StatusCode::NO_CONTENT => false,
        StatusCode::RANGE_NOT_SATISFIABLE => {
            for name in [header::CONTENT_TYPE, header::CONTENT_ENCODING] {
                headers.remove(name);
            }
            headers.insert(header::CONTENT_LENGTH, HeaderValue::from(0));
            false
        }
        _ => {
            headers.insert(header::CONTENT_LENGTH, HeaderValue::from(length));
            *method == Method::GET && length > 0
        }
    };
    for cookie in told.cookies {
        headers.append(header::SET_COOKIE, cookie);
    }
    let phrase = kept.phrase.clone().filter(|_| status == kept.status);
    let mut head = AnswerHead { status, headers, phrase };
    let framing = if has_body { Length::Known(length) } else { Length::None };
    let is_whole = status == kept.status && status != StatusCode::NO_CONTENT;
    let framing = if is_whole && (has_body || *method == Method::HEAD) {
        // A HEAD tells what a GET would get.
        let told = content::compress(exchange, &mut head, Length::Known(length));
        if has_body { told } else { Length::None }
    } else {
        framing
    };
    response::complete(exchange, &mut head);
    let last = exchange.ctx.connection.is_ending() || !exchange.client.body_is_done();
    exchange.client.head(head, framing, last);
    if has_body { body(exchange, kept, first, length).await } else { end(exchange).await }
}

fn set(headers: &mut HeaderMap, name: HeaderName, text: String) {
    if let Ok(value) = HeaderValue::try_from(text) {
        headers.insert(name, value);
    }
}

/// Keeps those fields of an answer that a 304 has (RFC 9110, 15.4.5).
fn only_of_not_modified(
    (mut fields, last): (HeaderMap, Option<HeaderName>),
    (name, value): (Option<HeaderName>, HeaderValue),
) -> (HeaderMap, Option<HeaderName>) {
    // Of several values of a name only the first is told with it.
    let name = name.or(last);
    if let Some(name) = name.as_ref().filter(|name| OF_NOT_MODIFIED.contains(name)) {
        fields.append(name, value);
    }
    (fields, name)
}

/// With which status it is given, and how much of it. Conditions are about good answers only (RFC 9110, 13.2.1), and ranges are
/// those of all of them (14.2).
fn choose(kept: &Kept, method: &Method, request: &HeaderMap) -> (StatusCode, Range) {
    if !kept.status.is_success() {
        return (kept.status, Range::Whole);
    }
    let version = Version::of_answer(&kept.headers);
    if version.unchanged(request) {
        return (StatusCode::NOT_MODIFIED, Range::Whole);
    }
    if kept.status != StatusCode::OK || *method != Method::GET {
        return (kept.status, Range::Whole);
    }
    match version.range(request, kept.length) {
        Range::Whole => (kept.status, Range::Whole),
        part @ Range::Part { .. } => (StatusCode::PARTIAL_CONTENT, part),
        Range::Outside => (StatusCode::RANGE_NOT_SATISFIABLE, Range::Outside),
    }
}

/// Sends a part of a body, piece by piece, each when the client has taken the one before.
async fn body(exchange: &mut Exchange<'_>, kept: Kept, first: u64, length: u64) -> Result<(), Stop> {
    let mut pieces = Pieces::of(kept, first, length).await.map_err(broken)?;
    while let Some(piece) = pieces.next().map_err(broken)? {
        exchange.ctx.body_out += piece.len() as u64;
        let piece = content::encode(&mut exchange.ctx, piece).map_err(broken)?;
        exchange.client.push(piece).map_err(|_| Stop::Broken(Reason::Internal))?;
        if pieces.left == 0 {
            break;
        }
        reply::flush(exchange).await.map_err(Stop::Broken)?;
    }
    let rest = content::end(&mut exchange.ctx).map_err(broken)?;
    exchange.client.push(rest).map_err(|_| Stop::Broken(Reason::Internal))?;
    end(exchange).await
}

async fn end(exchange: &mut Exchange<'_>) -> Result<(), Stop> {
    exchange.client.finish(None).map_err(|_| Stop::Broken(Reason::Internal))?;
    // Whoever has the last byte may ask again at once.
    exchange.ctx.admitted.leave();
    reply::flush(exchange).await.map_err(Stop::Broken)
}

fn broken(error: std::io::Error) -> Stop {
    tracing::error!(%error, "an answer that is kept cannot be given");
    Stop::Broken(Reason::Internal)
}

/// A part of a body, piece by piece.
struct Pieces {
    source: Source,
    left: u64,
}

enum Source {
    /// It lies there as it is sent.
    Plain(Bytes),
    /// It is compressed.
    Compressed(Box<zstd::stream::read::Decoder<'static, std::io::Cursor<Bytes>>>),
}

impl Pieces {
    async fn of(kept: Kept, first: u64, length: u64) -> std::io::Result<Self> {
        let source = if kept.is_compressed {
            let mut decoder = zstd::stream::read::Decoder::with_buffer(std::io::Cursor::new(kept.body))?;
            let mut before = first;
            while before > 0 {
                let skipped = std::io::copy(&mut decoder.by_ref().take(before.min(SKIPPED)), &mut std::io::sink())?;
                if skipped == 0 {
                    return Err(std::io::ErrorKind::UnexpectedEof.into());
                }
                before -= skipped;
                tokio::task::yield_now().await;
            }
            Source::Compressed(Box::new(decoder))
        } else {
            let range = usize::try_from(first).ok().zip(usize::try_from(length).ok());
            let range = range.filter(|(first, length)| first.saturating_add(*length) <= kept.body.len());
            let (first, length) = range.ok_or(std::io::ErrorKind::UnexpectedEof)?;
            Source::Plain(kept.body.slice(first..first + length))
        };
        Ok(Self { source, left: length })
    }

    fn next(&mut self) -> std::io::Result<Option<Bytes>> {
        if self.left == 0 {
            return Ok(None);
        }
        let size = usize::try_from(self.left).unwrap_or(PIECE).min(PIECE);
        let piece = match &mut self.source {
            Source::Plain(rest) => rest.split_to(size),
            Source::Compressed(decoder) => {
                let mut piece = vec![0; size];
                decoder.read_exact(&mut piece)?;
                piece.into()
            }
        };
        self.left -= piece.len() as u64;
        Ok(Some(piece))
    }
}
