//! What the process said lately, and what happens now: messages and requests, as they come.
//!
//! A stream is Server-Sent Events: `message` and `request`, each with one JSON object, and `missed` with a number for a
//! reader that was too slow. Nothing waits for a reader.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use aide::axum::ApiRouter;
use aide::axum::routing::get_with;
use axum::Json;
use axum::extract::State as Extract;
use axum::response::Sse;
use axum::response::sse::{Event, KeepAlive};
use futures_util::stream::{self, Stream};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::watch;

use super::State;
use super::openapi::{Events, about};
use super::problem::Problem;
use super::request::{Asked, limit, one_of};
use crate::history::Recorded;
use crate::history::requests::RequestRow;
use crate::telemetry::messages::{Message, Severity, messages};

/// Messages of an answer, unless another number is wanted, and the most that can be.
const MESSAGES: (usize, usize) = (100, 1000);
/// Time between two signs of life on a stream.
const SIGN_OF_LIFE: Duration = Duration::from_secs(15);

/// The paths of this topic.
pub fn routes() -> ApiRouter<Arc<State>> {
    ApiRouter::new()
        .api_route("/logs", get_with(list, about("listLogs", "What the process said")))
        .api_route("/logs/stream", get_with(follow, about("followLogs", "The same, and requests, as they come")))
}

/// Which messages are wanted.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
struct Wish {
    /// Most messages, 100 by default, 1,000 at most.
    limit: Option<usize>,
    /// The least severity: `debug`, the default, `info`, `warn` or `error`.
    level: Option<String>,
}

/// What the process said.
#[derive(Serialize, JsonSchema)]
struct Logs {
    /// Always true.
    success: bool,
    /// How many these are.
    count: usize,
    /// The messages, the latest first.
    logs: Vec<Message>,
}

fn severity(level: Option<&str>) -> Result<Severity, Problem> {
    one_of("level", level.unwrap_or("debug"), &Severity::WORDS)
}

async fn list(Asked(wish): Asked<Wish>) -> Result<Json<Logs>, Problem> {
    let last = messages().last(limit(wish.limit, MESSAGES)?, severity(wish.level.as_deref())?);
    let logs: Vec<Message> = last.iter().map(|message| Message::clone(message)).collect();
    Ok(Json(Logs { success: true, count: logs.len(), logs }))
}

/// What is followed.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
struct Following {
    /// `requests`, `messages` or `requests,messages`, the default.
    kind: Option<String>,
    /// The least severity of messages: `debug`, the default, `info`, `warn` or `error`.
    level: Option<String>,
}

/// How many things a reader missed.
#[derive(Serialize, JsonSchema)]
struct Missed {
    /// `requests` or `messages`.
    kind: &'static str,
    /// How many.
    missed: u64,
}

const KINDS: [(&str, (bool, bool)); 3] =
    [("requests", (true, false)), ("messages", (false, true)), ("requests,messages", (true, true))];

/// What a stream is made of.
struct Follower {
    requests: Option<Receiver<Recorded>>,
    messages: Option<Receiver<Arc<Message>>>,
    least: Severity,
    closing: watch::Receiver<bool>,
}

async fn follow(
    Extract(state): Extract<Arc<State>>,
    Asked(following): Asked<Following>,
) -> Result<Events<Sse<impl Stream<Item = Result<Event, Infallible>>>>, Problem> {
    let (requests, lines) = one_of("kind", following.kind.as_deref().unwrap_or("requests,messages"), &KINDS)?;
    let follower = Follower {
        requests: requests.then(|| state.history.live()),
        messages: lines.then(|| messages().live()),
        least: severity(following.level.as_deref())?,
        closing: state.closing.clone(),
    };
    let events = stream::unfold(follower, async |mut follower| {
        let event = follower.next().await?;
        Some((Ok(event), follower))
    });
    Ok(Events(Sse::new(events).keep_alive(KeepAlive::new().interval(SIGN_OF_LIFE))))
}

impl Follower {
    /// The next event; none when the process ends or another one answers here.
    async fn next(&mut self) -> Option<Event> {
        loop {
            let event = tokio::select! {
                biased;
                _ = self.closing.wait_for(|closing| *closing) => return None,
                request = receive(&mut self.requests) => match request {
                    Ok(recorded) => Event::default().event("request").json_data(RequestRow::of(&recorded)),
                    Err(RecvError::Lagged(missed)) => told("requests", missed),
                    Err(RecvError::Closed) => return None,
                },
                message = receive(&mut self.messages) => match message {
                    Ok(message) if message.level > self.least => continue,
                    Ok(message) => Event::default().event("message").json_data(&*message),
                    Err(RecvError::Lagged(missed)) => told("messages", missed),
                    Err(RecvError::Closed) => return None,
                },
            };
            // What can be written as JSON always is; what cannot is left out.
            if let Ok(event) = event {
                return Some(event);
            }
        }
    }
}

fn told(kind: &'static str, missed: u64) -> Result<Event, axum::Error> {
    Event::default().event("missed").json_data(Missed { kind, missed })
}

async fn receive<T: Clone>(from: &mut Option<Receiver<T>>) -> Result<T, RecvError> {
    match from {
        Some(from) => from.recv().await,
        None => std::future::pending().await,
    }
}
