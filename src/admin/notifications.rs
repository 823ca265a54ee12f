//! Who is told what happens, what became of the last messages, and a test message to everybody.

use std::sync::Arc;
use std::time::Duration;

use aide::axum::ApiRouter;
use aide::axum::routing::{get_with, post_with};
use axum::Json;
use axum::extract::State as Extract;
use axum::http::StatusCode;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::State;
use super::openapi::about;
use super::problem::Problem;
use super::request::Asked;
use super::time::{milliseconds, wall};
use crate::fleet::notifications::{Delivery, Hook, Tested};

type Shared = Extract<Arc<State>>;

/// How long a test may take beyond the time of the slowest webhook.
const MARGIN: Duration = Duration::from_secs(5);

/// The paths of this topic.
pub fn routes() -> ApiRouter<Arc<State>> {
    ApiRouter::new()
        .api_route("/notifications", get_with(list, about("listNotifications", "The last deliveries")))
        .api_route("/notifications/test", post_with(test, about("testNotifications", "Send a test to each webhook")))
}

/// A webhook.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct HookView {
    /// Scheme, host and port. Path and query may hold a secret.
    url: String,
    /// Whether messages to it are signed.
    signed: bool,
    /// What it is told.
    events: Vec<&'static str>,
    /// Least milliseconds between two messages of one event about one subject.
    window_ms: u64,
    /// Milliseconds that one attempt may take.
    timeout_ms: u64,
    /// Attempts before a message is given up.
    max_attempts: u32,
}

/// A message to one webhook.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct DeliveryView {
    /// Id of the message.
    id: String,
    /// What it tells.
    event: &'static str,
    /// About what.
    subject: String,
    /// In words.
    message: String,
    /// When it happened (RFC 3339).
    at: String,
    /// The webhook, without path and query.
    hook: String,
    /// `queued`, `retrying`, `delivered`, `failed` or `dropped`.
    state: &'static str,
    /// Attempts so far.
    attempts: u32,
    /// Status of the last answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<u16>,
    /// Why the last attempt failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    /// When the next attempt is made (RFC 3339).
    #[serde(skip_serializing_if = "Option::is_none")]
    next_attempt_at: Option<String>,
}

/// Webhooks and the last messages to them.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct NotificationsView {
    /// Always true.
    success: bool,
    /// How many messages are listed.
    count: usize,
    /// The webhooks of the configuration in force.
    hooks: Vec<HookView>,
    /// The last messages, the youngest first.
    deliveries: Vec<DeliveryView>,
}

/// How a test message to one webhook went.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct NotificationTestedView {
    /// The webhook, without path and query.
    hook: String,
    /// Whether it took the message.
    delivered: bool,
    /// Status of its answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<u16>,
    /// Why it did not take it.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    /// How long that took.
    duration_ms: f64,
}

/// How a test went.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct NotificationTestView {
    /// Whether all webhooks took the message.
    success: bool,
    /// How many webhooks there are.
    count: usize,
    /// One for each webhook.
    results: Vec<NotificationTestedView>,
}

/// How many messages are wanted.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
struct Wanted {
    /// Most messages, 100 by default.
    limit: usize,
}

impl Default for Wanted {
    fn default() -> Self {
        Self { limit: 100 }
    }
}

fn hook_view(hook: &Hook) -> HookView {
    let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    HookView {
        url: hook.url.shown(),
        signed: hook.secret_file.is_some(),
        events: hook.events.iter().map(|event| event.as_str()).collect(),
        window_ms: millis(hook.window),
        timeout_ms: millis(hook.timeout),
        max_attempts: hook.attempts,
    }
}

fn delivery_view(delivery: Delivery) -> DeliveryView {
    DeliveryView {
        id: delivery.id,
        event: delivery.event,
        subject: delivery.subject,
        message: delivery.message,
        at: wall(delivery.at),
        hook: delivery.hook,
        state: delivery.progress.as_str(),
        attempts: delivery.attempts,
        status: delivery.status,
        error: delivery.error,
        next_attempt_at: delivery.next_attempt.map(wall),
    }
}

/// Webhooks and the last messages to them.
async fn list(Extract(state): Shared, Asked(wanted): Asked<Wanted>) -> Json<NotificationsView> {
    let snapshot = state.store.load();
    let recent = snapshot.lasting.telling.notifications.recent();
    let deliveries: Vec<_> = recent.into_iter().take(wanted.limit).map(delivery_view).collect();
    let hooks = snapshot.hooks.iter().map(hook_view).collect();
    Json(NotificationsView { success: true, count: deliveries.len(), hooks, deliveries })
}

/// Sends a test message to each webhook, once, and tells what they answered.
async fn test(Extract(state): Shared) -> Result<Json<NotificationTestView>, Problem> {
    let (outcome, slowest) = {
        let snapshot = state.store.load();
        let Some(slowest) = snapshot.hooks.iter().map(|hook| hook.timeout).max() else {
            return Err(Problem::conflict("no webhook is configured: add `notifications: [{ url: … }]`"));
        };
        (snapshot.lasting.telling.notifications.order_test(), slowest)
    };
    let limit = slowest.saturating_add(MARGIN);
    let Ok(Ok(tested)) = tokio::time::timeout(limit, outcome).await else {
        return Err(Problem::new(StatusCode::GATEWAY_TIMEOUT, "the test messages could not be sent in time"));
    };
    let results: Vec<_> = tested
        .into_iter()
        .map(|Tested { hook, status, error, took }| NotificationTestedView {
            hook,
            delivered: error.is_none(),
            status,
            error,
            duration_ms: milliseconds(took),
        })
        .collect();
    let success = results.iter().all(|result| result.delivered);
    Ok(Json(NotificationTestView { success, count: results.len(), results }))
}
