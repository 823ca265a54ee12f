//! Retry: whether a failed attempt is made again at another server.
//!
//! # Problem
//!
//! A request to a model costs seconds or minutes of a GPU. Made twice it does no harm to data, but it doubles
//! the load at the moment when load is the trouble, and a prompt that killed one server will kill the next.
//! A connection that was never opened, on the other hand, has cost nothing.
//!
//! # Rules, in this order
//!
//! 1. Once the client has the first byte of an answer, never.
//! 2. A request that certainly was not worked on is sent once more on a fresh connection, whatever the configuration
//!    says, if all that was sent is still held: an idle connection had been closed when we took it from the pool, or a
//!    server refused a stream of HTTP/2 before it looked at it. Neither says anything about the server.
//! 3. A client that said `x-arriero-no-retry`, or a call that changes a server, gets no other attempt.
//! 4. After a crash of a runner never, whatever the configuration says: the request would kill the next one.
//! 5. `attempts` counts all attempts, the first included.
//! 6. After a connect failure nothing was sent, so any method may try again, for five seconds in all.
//! 7. A server that was busy began nothing. The request goes to another one, once, if that has the model in memory and a
//!    free slot, and if few servers are busy.
//! 8. A server that does not have the model after all began nothing. The request goes to another one, once.
//! 9. A request that only reads is sent again after a reset, to any server.
//! 10. Otherwise the failure must be named in `on`, the bytes sent so far must still be held, and the method
//!     must be idempotent or `replay_post` set.
//! 11. There must be another server, and, where a server had the request, room in the budget of the upstream.
//!
//! # Invariants
//!
//! - With `attempts: 1` or an empty `on`, the only repetition is that of rule 2, once for each request.
//! - The number of attempts never exceeds `attempts`, that of rule 2 not counted.

use std::time::Duration;

/// How long after the first attempt began another server is still tried when one could not be reached.
const CONNECT_WITHIN: Duration = Duration::from_secs(5);

/// When failed attempts are made again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RetryPolicy {
    /// Attempts in all, the first included.
    pub attempts: u32,
    /// The failures after which there is another attempt.
    pub on: Vec<RetryOn>,
    /// Whether a request that is not idempotent may be sent again after a server may have begun to work on it.
    pub replay_post: bool,
}

/// A failure after which there may be another attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RetryOn {
    /// No connection: nothing was sent.
    Connect,
    /// The connection broke before the first byte of an answer.
    Reset,
    /// No byte of an answer in time.
    FirstByteTimeout,
    /// Any status from 500 to 599.
    ServerError,
    /// This status.
    Status(u16),
}

/// How an attempt failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// No connection, or no TLS on it: nothing was sent.
    Connect,
    /// A connection from the idle pool broke before the first byte of an answer.
    StaleConnection,
    /// A stream of HTTP/2 was refused before it was looked at (RFC 9113 8.7).
    Refused,
    /// A fresh connection broke before the first byte of an answer.
    Reset,
    /// No byte of an answer in time.
    FirstByteTimeout,
    /// The server had too much to do and began nothing.
    Busy,
    /// The server does not have the model.
    NoModel,
    /// The process that ran the model died.
    Crash,
    /// An answer with this status, of which nothing was passed on yet.
    Status(u16),
    /// Anything else.
    Other,
}

/// What else the decision depends on.
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own, in any combination")]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Context {
    /// Attempts so far, the failed one included, those after a stale connection not.
    pub attempts_made: u32,
    /// How long ago the first attempt began.
    pub elapsed: Duration,
    /// Whether the request was already sent once more because of a stale connection.
    pub stale_retried: bool,
    /// Whether the request was already sent on by a server that was busy or did not have the model.
    pub sent_on: bool,
    /// Whether nobody wants another attempt: the client said so, or the call changes a server.
    pub only_once: bool,
    /// Whether the method is idempotent.
    pub method_idempotent: bool,
    /// Whether the request only reads.
    pub only_reads: bool,
    /// Whether all bytes of the body that were sent so far can be sent again.
    pub body_held: bool,
    /// Whether the client has the first byte of an answer.
    pub response_started: bool,
    /// Whether there is a server that was not tried yet and may be chosen.
    pub another_server: bool,
    /// Whether one of those has the model in memory and a free slot, while few servers are busy.
    pub warm_server: bool,
    /// Whether the budget of the upstream has room.
    pub budget: bool,
}

/// Whether there is another attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// At another server.
    Retry,
    /// At another server, that has the model in memory.
    RetryWarm,
    /// At any server, the same included, on a fresh connection; set [`Context::stale_retried`] from now on.
    RetryFresh,
    /// No more: the failure is the answer.
    GiveUp(GiveUp),
}

/// Why there is no other attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GiveUp {
    /// The client already has a part of an answer.
    ResponseStarted,
    /// The client, or the kind of call, forbids it.
    OnlyOnce,
    /// The request made a runner crash.
    Crashed,
    /// The failure is not named in `on`.
    NotConfigured,
    /// All `attempts` were made, or it took too long.
    AttemptsUsed,
    /// It was sent on before.
    SentOn,
    /// Too many requests of the upstream are on a second attempt, or too many are shed.
    Budget,
    /// The body has gone by and cannot be sent again.
    BodyNotHeld,
    /// A server may have begun to work on it, and the method is not idempotent.
    NotIdempotent,
    /// No other server may be chosen.
    NoOtherServer,
}

impl GiveUp {
    /// The word for logs.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::ResponseStarted => "response_started",
            Self::OnlyOnce => "only_once",
            Self::Crashed => "crashed",
            Self::NotConfigured => "not_configured",
            Self::AttemptsUsed => "attempts_used",
            Self::SentOn => "sent_on",
            Self::Budget => "budget",
            Self::BodyNotHeld => "body_not_held",
            Self::NotIdempotent => "not_idempotent",
            Self::NoOtherServer => "no_other_server",
        }
    }
}

impl RetryPolicy {
    /// Whether the attempt that failed like this is made again.
    #[must_use]
    pub fn decide(&self, failure: Failure, context: Context) -> Decision {
        if context.response_started {
            return Decision::GiveUp(GiveUp::ResponseStarted);
        }
        let untouched = matches!(failure, Failure::StaleConnection | Failure::Refused);
        if untouched && !context.stale_retried && context.body_held {
            return Decision::RetryFresh;
        }
        match self.objection(failure, context) {
            Some(objection) => Decision::GiveUp(objection),
            None if failure == Failure::Busy && context.warm_server && !context.sent_on => Decision::RetryWarm,
            None => Decision::Retry,
        }
    }

    fn objection(&self, failure: Failure, context: Context) -> Option<GiveUp> {
        let nothing_was_sent = failure == Failure::Connect;
        if context.only_once {
            return Some(GiveUp::OnlyOnce);
        }
        if failure == Failure::Crash {
            return Some(GiveUp::Crashed);
        }
        if !nothing_was_sent && !context.body_held {
            return Some(GiveUp::BodyNotHeld);
        }
        if let Some(objection) = self.reason_against(failure, context) {
            return Some(objection);
        }
        if context.attempts_made >= self.attempts || nothing_was_sent && context.elapsed > CONNECT_WITHIN {
            Some(GiveUp::AttemptsUsed)
        } else if !context.another_server {
            Some(GiveUp::NoOtherServer)
        } else if !nothing_was_sent && failure != Failure::NoModel && !context.budget {
            Some(GiveUp::Budget)
        } else {
            None
        }
    }

    /// Why this kind of failure is no reason for another attempt.
    fn reason_against(&self, failure: Failure, context: Context) -> Option<GiveUp> {
        let enabled = !self.on.is_empty();
        match failure {
            Failure::NoModel if enabled => return context.sent_on.then_some(GiveUp::SentOn),
            Failure::Busy if enabled && context.warm_server && !context.sent_on => return None,
            Failure::Reset if enabled && context.only_reads => return None,
            _ => {}
        }
        if !self.names(failure) {
            let used = failure == Failure::Busy && context.sent_on;
            Some(if used { GiveUp::SentOn } else { GiveUp::NotConfigured })
        } else if failure != Failure::Connect && !context.method_idempotent && !self.replay_post {
            Some(GiveUp::NotIdempotent)
        } else {
            None
        }
    }

    fn names(&self, failure: Failure) -> bool {
        self.on.iter().any(|on| match (*on, failure) {
            (RetryOn::Connect, Failure::Connect)
            | (RetryOn::Reset, Failure::Reset | Failure::StaleConnection | Failure::Refused)
            | (RetryOn::FirstByteTimeout, Failure::FirstByteTimeout) => true,
            (RetryOn::ServerError, Failure::Status(status)) => (500..600).contains(&status),
            (RetryOn::ServerError, Failure::Busy) | (RetryOn::Status(503), Failure::Busy) => true,
            (RetryOn::Status(404), Failure::NoModel) => true,
            (RetryOn::Status(named), Failure::Status(status)) => named == status,
            _ => false,
        })
    }
}

#[cfg(test)]
#[path = "retry_tests.rs"]
mod tests;
