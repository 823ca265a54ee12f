//! Reads as much of a request body as is needed before a server can be chosen.
//!
//! Nearly always that is the first few hundred bytes, which came with the head.

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

/// The scanner that fits the body.
enum Scan {
    Json(ModelScan),
    Form(MultipartScan),
    Nothing,
}

impl Scan {
    fn of(headers: &http::HeaderMap, source: ModelSource) -> Self {
        if let Some(want) = source.want() {
            return Self::Json(ModelScan::new(want));
        }
        let content_type = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
        match (source, content_type.and_then(MultipartScan::of_content_type)) {
            (ModelSource::Multipart, Some(form)) => Self::Form(form),
            _ => Self::Nothing,
        }
    }

    /// Whether more bytes may still bring the model.
    fn push(&mut self, bytes: &[u8]) -> bool {
        match self {
            Self::Json(scan) => scan.push(bytes) == Progress::NeedMore,
            Self::Form(scan) => scan.push(bytes) == Progress::NeedMore,
            Self::Nothing => false,
        }
    }

    fn model(self) -> Option<String> {
        match self {
            Self::Json(scan) => scan.finish().model,
            Self::Form(scan) => scan.finish(),
            Self::Nothing => None,
        }
    }
}

/// Reads until the model is known, or to the end; the model as the client wrote it.
///
/// # Errors
/// When the body is too large, too slow, cannot be held, or the client left.
pub async fn find_model(exchange: &mut Exchange<'_>, need: BodyNeed) -> Result<Option<String>, Stop> {
    let nothing_came = exchange.body.length() == 0 && exchange.client.body_is_done();
    if exchange.ctx.wants_upgrade || nothing_came || (exchange.body.is_held() && !need.whole) {
        return Ok(None);
    }
    let mut scan = Scan::of(&exchange.head.headers, need.source);
    if matches!(scan, Scan::Nothing) && !need.whole {
        return Ok(None);
    }
    answer_expectation(exchange).await?;
    let mut wanted = true;
    // A look before this one may have read the beginning.
    for piece in exchange.body.short() {
        wanted = scan.push(piece) || need.whole;
    }
    while wanted && let Some(bytes) = read(exchange).await? {
        if exchange.body.length() + bytes.len() as u64 > need.limit {
            return Err(too_large(&exchange.ctx).into());
        }
        wanted = scan.push(&bytes) || need.whole;
        let (service, snapshot) = (exchange.service, &exchange.ctx.snapshot);
        let held = exchange.body.hold(bytes, || service.hold_rules(snapshot)).await;
        held.map_err(|error| cannot_hold(&exchange.ctx, &error))?;
    }
    exchange.body.settle().await.map_err(|error| cannot_hold(&exchange.ctx, &error))?;
    Ok(scan.model())
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
        Some(Err(BodyFault::Coded(Reason::BodyTooLarge))) => Err(too_large(ctx).into()),
        Some(Err(BodyFault::Coded(_) | BodyFault::Held(_) | BodyFault::Client(ClientFault::Malformed))) => {
            Err(reply::problem(ctx, Reason::BadRequest, "malformed request body").into())
        }
        Some(Err(BodyFault::Client(ClientFault::Gone))) => Err(Stop::Broken(Reason::ClientClosed)),
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
