//! Reads as much of a request body as is needed before a server can be chosen.
//!
//! Nearly always that is the first few hundred bytes, which came with the head.

use std::task::Poll;
use std::time::Duration;

use http::header;

use super::client::ClientFault;
use super::context::{Exchange, RequestContext, Stop};
use super::held_body::HoldError;
use super::reply;
use super::request::too_large;
use super::request_body::BodyFault;
use crate::clock;
use crate::ollama::endpoint::ModelSource;
use crate::ollama::multipart::MultipartScan;
use crate::ollama::scan::{ModelScan, Progress};
use crate::policy::failure::Reason;

/// How long the first chunk of a body is waited for before a server is asked.
const FIRST_CHUNK: Duration = Duration::from_millis(250);
/// Bytes of a first chunk that is waited for to its end; of a longer one its beginning is enough.
const SHORT_CHUNK: u64 = 4 << 10;

/// What is wanted of a body.
#[derive(Clone, Copy, Debug)]
pub struct BodyNeed {
    /// Where the model stands.
    pub source: ModelSource,
    /// Whether everything must be held, for another attempt.
    pub whole: bool,
    /// Largest body in bytes.
    pub limit: u64,
}

/// Reads until the model is known, or to the end; the model as the client wrote it.
///
/// # Errors
/// When the body is too large, too slow, ambiguous, cannot be held, or the client left.
pub async fn find_model(exchange: &mut Exchange<'_>, need: BodyNeed) -> Result<Option<String>, Stop> {
    let nothing_came = exchange.body.length() == 0 && exchange.client.body_is_done();
    if exchange.ctx.wants_upgrade || nothing_came || (exchange.body.is_held() && !need.whole) {
        return Ok(None);
    }
    let mut form = multipart(&exchange.head.headers, need.source);
    let json = need.source.want();
    if json.is_none() && form.is_none() && !need.whole {
        return Ok(None);
    }
    answer_expectation(exchange).await?;
    if let Some(want) = json {
        exchange.body.watch(ModelScan::new(want)).map_err(|fault| faulty(&exchange.ctx, fault))?;
    }
    // A look before this one may have read the beginning.
    for piece in exchange.body.short() {
        form.as_mut().map(|form| form.push(piece));
    }
    while need.whole || wants_more(exchange, form.as_ref()) {
        let Some(bytes) = read(exchange).await? else {
            exchange.body.end().map_err(|fault| faulty(&exchange.ctx, fault))?;
            break;
        };
        form.as_mut().map(|form| form.push(&bytes));
        keep(exchange, bytes, need.limit).await?;
    }
    exchange.body.settle().await.map_err(|error| cannot_hold(&exchange.ctx, &error))?;
    Ok(match form {
        Some(form) => form.finish(),
        None => json.and_then(|_| Some(exchange.body.scan()?.model()?.to_owned())),
    })
}

/// Reads on until so many bytes are there, or all.
///
/// # Errors
/// When the body is too large, too slow, cannot be held, or the client left.
pub async fn read_beginning(exchange: &mut Exchange<'_>, bytes: u64, limit: u64) -> Result<(), Stop> {
    if exchange.body.length() > bytes || exchange.client.body_is_done() {
        return Ok(());
    }
    answer_expectation(exchange).await?;
    while exchange.body.length() <= bytes {
        let Some(piece) = read(exchange).await? else {
            exchange.body.end().map_err(|fault| faulty(&exchange.ctx, fault))?;
            break;
        };
        keep(exchange, piece, limit).await?;
    }
    exchange.body.settle().await.map_err(|error| cannot_hold(&exchange.ctx, &error))
}

/// Reads on to the end, or until more than so many bytes are there, or as many as may be held; whether it came to the end.
///
/// # Errors
/// When the body is too large, too slow, cannot be brought to disk, or the client left.
pub async fn read_whole(exchange: &mut Exchange<'_>, most: u64, limit: u64) -> Result<bool, Stop> {
    answer_expectation(exchange).await?;
    let mut ended = false;
    while !ended && exchange.body.length() <= most {
        match read(exchange).await? {
            None => {
                exchange.body.end().map_err(|fault| faulty(&exchange.ctx, fault))?;
                ended = true;
            }
            Some(piece) => match hold(exchange, piece, limit).await? {
                Ok(()) => {}
                // It may pass, though it may not stay.
                Err(HoldError::Budget) => break,
                Err(error) => return Err(cannot_hold(&exchange.ctx, &error)),
            },
        }
    }
    exchange.body.settle().await.map_err(|error| cannot_hold(&exchange.ctx, &error))?;
    Ok(ended && exchange.body.length() <= most)
}

async fn keep(exchange: &mut Exchange<'_>, piece: bytes::Bytes, limit: u64) -> Result<(), Stop> {
    hold(exchange, piece, limit).await?.map_err(|error| cannot_hold(&exchange.ctx, &error))
}

async fn hold(exchange: &mut Exchange<'_>, piece: bytes::Bytes, limit: u64) -> Result<Result<(), HoldError>, Stop> {
    if exchange.body.length() + piece.len() as u64 > limit {
        return Err(too_large(&exchange.ctx).into());
    }
    let (service, snapshot) = (exchange.service, &exchange.ctx.snapshot);
    Ok(exchange.body.hold(piece, || service.hold_rules(snapshot)).await)
}

/// Reads the first chunk of a body in chunks, where it is short and comes soon: framing that is broken there is refused
/// before a server hears of the request. What comes later is not waited for, since it may be long in coming.
///
/// # Errors
/// When the framing is broken, or the client left.
pub async fn first_chunk(exchange: &mut Exchange<'_>) -> Result<(), Stop> {
    let waits = exchange.head.headers.contains_key(header::EXPECT);
    if waits || exchange.body.length() > 0 || !exchange.client.is_chunked() {
        return Ok(());
    }
    let until = clock::now() + FIRST_CHUNK;
    while exchange.body.length() < SHORT_CHUNK {
        let Exchange { client, timer, body, ctx, .. } = exchange;
        let came = timer.limit(Some(until), |cx| match body.poll_client(client, cx) {
            Poll::Pending if body.length() > 0 && client.is_between_chunks() => Poll::Ready(Ok(None)),
            polled => polled,
        });
        match came.await {
            Some(Ok(Some(piece))) => body.keep(piece),
            Some(Ok(None)) | None => break,
            Some(Err(fault)) => return Err(faulty(ctx, fault)),
        }
    }
    Ok(())
}

/// The reader of a form, where the model stands in one.
fn multipart(headers: &http::HeaderMap, source: ModelSource) -> Option<MultipartScan> {
    let content_type = headers.get(header::CONTENT_TYPE)?.to_str().ok()?;
    if source == ModelSource::Multipart { MultipartScan::of_content_type(content_type) } else { None }
}

/// Whether more bytes may still bring the model.
fn wants_more(exchange: &Exchange<'_>, form: Option<&MultipartScan>) -> bool {
    let progress = match form {
        Some(form) => form.progress(),
        None => exchange.body.scan().map_or(Progress::End, ModelScan::progress),
    };
    progress == Progress::NeedMore
}

/// What a client is told whose body goes no further.
pub fn faulty(ctx: &RequestContext, fault: BodyFault) -> Stop {
    let (reason, message) = match fault {
        BodyFault::Client(ClientFault::Gone) => return Stop::Broken(Reason::ClientClosed),
        BodyFault::Coded(Reason::BodyTooLarge) => return too_large(ctx).into(),
        BodyFault::Refused(message) => (Reason::BadRequest, message),
        BodyFault::Forbidden(message) => (Reason::Forbidden, message),
        BodyFault::Coded(_) | BodyFault::Client(ClientFault::Malformed) => {
            (Reason::BadRequest, "malformed request body".to_owned())
        }
        BodyFault::Held(error) => {
            tracing::error!(%error, "a held request body cannot be read");
            (Reason::Internal, "the request body cannot be read again".to_owned())
        }
    };
    reply::problem(ctx, reason, &message).into()
}

fn cannot_hold(ctx: &RequestContext, error: &HoldError) -> Stop {
    match error {
        HoldError::Budget => {
            reply::problem(ctx, Reason::BodyBudget, "too many request bodies are held, please try again").into()
        }
        HoldError::File(error) => {
            tracing::error!(%error, "a request body cannot be held on disk");
            reply::problem(ctx, Reason::BodyBudget, "the request body cannot be held, please try again").into()
        }
    }
}

async fn read(exchange: &mut Exchange<'_>) -> Result<Option<bytes::Bytes>, Stop> {
    let pause = clock::now() + exchange.listener.body_timeout;
    let slow = exchange.listener.body_rate.deadline(exchange.ctx.started, exchange.body.length());
    let silence = slow.map_or(pause, |slow| slow.min(pause));
    let end = exchange.ctx.end();
    let at = end.map_or(silence, |end| end.min(silence));
    let Exchange { client, timer, body, ctx, .. } = exchange;
    match timer.limit(Some(at), |cx| body.poll_client(client, cx)).await {
        Some(Ok(piece)) => Ok(piece),
        Some(Err(fault)) => Err(faulty(ctx, fault)),
        None if end.is_some_and(|end| end <= at) => {
            Err(reply::problem(ctx, Reason::RequestTimeout, "the request took too long").into())
        }
        None => Err(reply::problem(ctx, Reason::BodyTimeout, "the request body paused for too long").into()),
    }
}

/// A client that waits for permission gets it from us, since we want the body before a server is known.
pub async fn answer_expectation(exchange: &mut Exchange<'_>) -> Result<(), Stop> {
    if exchange.head.headers.remove(header::EXPECT).is_some() {
        let allowed = exchange.client.allow_body().await;
        allowed.map_err(|_| Stop::Broken(Reason::ClientClosed))?;
    }
    Ok(())
}
