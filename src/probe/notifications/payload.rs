//! What a message says.

use std::sync::OnceLock;
use std::time::Duration;

use bytes::Bytes;
use serde::Serialize;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::fleet::events::Event;

/// A message in JSON. Keys may be added; those that are here keep their meaning.
#[derive(Clone, Debug, Serialize)]
pub struct Payload<'p> {
    /// What happened, in one word; `test` for a test message.
    event: &'p str,
    /// Id of the message: the same for all attempts and all webhooks, so that a receiver can tell a repetition.
    id: &'p str,
    /// When it happened (RFC 3339, UTC).
    at: String,
    /// The instance that tells it: the name of its host.
    instance: &'static str,
    /// What it is about.
    subject: &'p str,
    /// What happened, in words.
    message: &'p str,
    /// What to do about it.
    #[serde(skip_serializing_if = "str::is_empty")]
    fix: &'p str,
    /// The event that it is the end of, about the same subject.
    #[serde(skip_serializing_if = "Option::is_none")]
    resolves: Option<&'static str>,
    /// Events about the subject that were left out since the last message about it.
    #[serde(skip_serializing_if = "is_zero")]
    left_out: u32,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks for it")]
fn is_zero(number: &u32) -> bool {
    *number == 0
}

impl<'p> Payload<'p> {
    /// A message about an event.
    pub fn of(event: &'p Event, left_out: u32) -> Self {
        let Event { kind, id, at, subject, message } = event;
        Self {
            event: kind.as_str(),
            id,
            at: rfc3339(*at),
            instance: instance(),
            subject,
            message,
            fix: kind.fix(),
            resolves: kind.resolves().map(crate::policy::notification::Kind::as_str),
            left_out,
        }
    }

    /// A test message.
    pub fn test(id: &'p str, at: Duration) -> Self {
        Self {
            event: "test",
            id,
            at: rfc3339(at),
            instance: instance(),
            subject: "test",
            message: "an operator asked for a test message",
            fix: "",
            resolves: None,
            left_out: 0,
        }
    }

    /// As bytes.
    pub fn body(&self) -> Bytes {
        // Texts and numbers always serialize.
        serde_json::to_vec(self).map_or_else(|_| Bytes::new(), Bytes::from)
    }
}

/// The name of this host.
pub fn instance() -> &'static str {
    static NAME: OnceLock<String> = OnceLock::new();
    NAME.get_or_init(|| rustix::system::uname().nodename().to_string_lossy().into_owned())
}

/// A moment since 1970, to the millisecond.
pub fn rfc3339(at: Duration) -> String {
    let nanoseconds = i128::try_from(at.as_millis()).unwrap_or_default().saturating_mul(1_000_000);
    let moment = OffsetDateTime::from_unix_timestamp_nanos(nanoseconds);
    // Beyond the year 9999 nobody reads it.
    moment.ok().and_then(|moment| moment.format(&Rfc3339).ok()).unwrap_or_default()
}
