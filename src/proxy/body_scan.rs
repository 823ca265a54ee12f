//! Reads as much of a request body as is needed before a server can be chosen.
//!
//! Up to 64 KiB Pingora keeps what was read and sends it again by itself; that is the common case, a
//! model near the front. What is longer is held here and given back by [`super::replay`].

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Version, header};
use pingora_error::{Error, ErrorType};
use pingora_proxy::Session;

use super::classify;
use super::context::RequestContext;
use super::held_body::{HeldBody, HoldError};
use super::replay::{self, Limits};
use super::reply;
use super::request::{Stop, too_large};
use super::service::Service;
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
    fn of(session: &Session, source: ModelSource) -> Self {
        if let Some(want) = source.want() {
            return Self::Json(ModelScan::new(want));
        }
        let content_type = session.get_header(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
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
pub async fn find_model(
    service: &Service,
    session: &mut Session,
    ctx: &mut RequestContext,
    need: BodyNeed,
) -> Result<Option<String>, Stop> {
    if ctx.home.is_some() || session.is_upgrade_req() || session.is_body_empty() {
        return Ok(None);
    }
    let mut scan = Scan::of(session, need.source);
    if matches!(scan, Scan::Nothing) && !need.whole {
        return Ok(None);
    }
    answer_expectation(session).await?;
    session.enable_retry_buffering();
    let http2_limits = http2_limits(session, ctx);
    let mut pieces = Pieces::default();
    if let Some(already) = session.get_retry_buffer() {
        // A look before this one read the beginning: it stands in Pingora's buffer.
        scan.push(&already);
        pieces.push(service, ctx, already).await?;
    }
    let mut wanted = true;
    while wanted && !session.is_body_done() {
        let Some(bytes) = read(session, ctx, http2_limits.as_ref()).await? else { break };
        if pieces.length + bytes.len() as u64 > need.limit {
            return Err(too_large(ctx).into());
        }
        let more = scan.push(&bytes);
        pieces.push(service, ctx, bytes).await?;
        wanted = more || need.whole;
    }
    if session.retry_buffer_truncated() {
        let body = pieces.into_held(service, ctx).await?;
        ctx.home = Some(replay::install(session, Some(body), http2_limits));
    }
    Ok(scan.model())
}

/// What was read so far. As long as Pingora's own buffer may do, nothing is counted as held.
#[derive(Default)]
struct Pieces {
    small: Vec<Bytes>,
    held: Option<HeldBody>,
    length: u64,
}

/// What Pingora keeps itself.
const PINGORA_BUFFER: u64 = 64 << 10;

impl Pieces {
    async fn push(&mut self, service: &Service, ctx: &RequestContext, bytes: Bytes) -> Result<(), Stop> {
        self.length += bytes.len() as u64;
        if self.held.is_none() && self.length <= PINGORA_BUFFER {
            self.small.push(bytes);
            return Ok(());
        }
        let result = async {
            let held = self.held.get_or_insert_with(|| HeldBody::new(service.hold_rules(ctx)));
            for piece in self.small.drain(..) {
                held.push(piece).await?;
            }
            held.push(bytes).await
        };
        result.await.map_err(|error| cannot_hold(ctx, &error))
    }

    async fn into_held(self, service: &Service, ctx: &RequestContext) -> Result<HeldBody, Stop> {
        let Self { small, held, .. } = self;
        let mut held = held.unwrap_or_else(|| HeldBody::new(service.hold_rules(ctx)));
        let result = async {
            for piece in small {
                held.push(piece).await?;
            }
            held.complete().await
        };
        result.await.map_err(|error| cannot_hold(ctx, &error))?;
        Ok(held)
    }
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

async fn read(session: &mut Session, ctx: &RequestContext, limits: Option<&Limits>) -> Result<Option<Bytes>, Stop> {
    let reading = session.downstream_session.read_request_body();
    let read = match limits {
        None => reading.await,
        Some(limits) => match tokio::time::timeout(limits.body, reading).await {
            Ok(read) => read,
            Err(_) => Error::e_explain(ErrorType::ReadTimedout, "silence inside the request body"),
        },
    };
    read.map_err(|error| {
        let error = error.into_down();
        match classify::of_client(&error, ctx) {
            Reason::BodyTimeout => {
                reply::problem(ctx, Reason::BodyTimeout, "the request body paused for too long").into()
            }
            Reason::BadRequest => reply::problem(ctx, Reason::BadRequest, "malformed request body").into(),
            Reason::RequestTimeout => reply::problem(ctx, Reason::RequestTimeout, "the request took too long").into(),
            _ => Stop::Broken(error),
        }
    })
}

/// A client that waits for permission gets it from us, since we want the body before a server is known.
async fn answer_expectation(session: &mut Session) -> Result<(), Stop> {
    if session.get_header(header::EXPECT).is_some() {
        session.downstream_session.write_continue_response().await.map_err(|error| Stop::Broken(error.into_down()))?;
        session.req_header_mut().remove_header(&header::EXPECT);
    }
    Ok(())
}

/// Over HTTP/2 nobody underneath keeps the time limits.
pub fn http2_limits(session: &Session, ctx: &RequestContext) -> Option<Limits> {
    if session.req_header().version != Version::HTTP_2 {
        return None;
    }
    let listener = ctx.connection.as_ref().and_then(|connection| ctx.snapshot.listeners.get(connection.listener));
    let body = listener.map_or(Duration::from_secs(30), |listener| listener.body_timeout);
    Some(Limits { deadline: Arc::clone(&ctx.deadline), body })
}
