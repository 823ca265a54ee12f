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
//! 2. An idle connection that the server had closed when we took it from the pool says nothing about the
//!    server. The request is sent once more on a fresh one, whatever the configuration says, if all that was
//!    sent is still held.
//! 3. The failure must be named in `on`, and `attempts` counts all attempts, the first included.
//! 4. After a connect failure nothing was sent, so any method may try again.
//! 5. Otherwise the server may have begun to work: the bytes sent so far must still be held, and the method
//!    must be idempotent or `replay_post` set.
//! 6. There must be another server.
//!
//! # Invariants
//!
//! - With `attempts: 1` or an empty `on`, the only repetition is that of rule 2, once for each request.
//! - The number of attempts never exceeds `attempts`, that of rule 2 not counted.

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
    /// A fresh connection broke before the first byte of an answer.
    Reset,
    /// No byte of an answer in time.
    FirstByteTimeout,
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
    /// Whether the request was already sent once more because of a stale connection.
    pub stale_retried: bool,
    /// Whether the method is idempotent.
    pub method_idempotent: bool,
    /// Whether all bytes of the body that were sent so far can be sent again.
    pub body_held: bool,
    /// Whether the client has the first byte of an answer.
    pub response_started: bool,
    /// Whether there is a server that was not tried yet and may be chosen.
    pub another_server: bool,
}

/// Whether there is another attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// At another server.
    Retry,
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
    /// The failure is not named in `on`.
    NotConfigured,
    /// All `attempts` were made.
    AttemptsUsed,
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
            Self::NotConfigured => "not_configured",
            Self::AttemptsUsed => "attempts_used",
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
        if failure == Failure::StaleConnection && !context.stale_retried && context.body_held {
            return Decision::RetryFresh;
        }
        match self.objection(failure, context) {
            Some(objection) => Decision::GiveUp(objection),
            None => Decision::Retry,
        }
    }

    fn objection(&self, failure: Failure, context: Context) -> Option<GiveUp> {
        let nothing_was_sent = failure == Failure::Connect;
        if !self.names(failure) {
            Some(GiveUp::NotConfigured)
        } else if context.attempts_made >= self.attempts {
            Some(GiveUp::AttemptsUsed)
        } else if !nothing_was_sent && !context.body_held {
            Some(GiveUp::BodyNotHeld)
        } else if !nothing_was_sent && !context.method_idempotent && !self.replay_post {
            Some(GiveUp::NotIdempotent)
        } else if !context.another_server {
            Some(GiveUp::NoOtherServer)
        } else {
            None
        }
    }

    fn names(&self, failure: Failure) -> bool {
        self.on.iter().any(|on| match (*on, failure) {
            (RetryOn::Connect, Failure::Connect)
            | (RetryOn::Reset, Failure::Reset | Failure::StaleConnection)
            | (RetryOn::FirstByteTimeout, Failure::FirstByteTimeout) => true,
            (RetryOn::ServerError, Failure::Status(status)) => (500..600).contains(&status),
            (RetryOn::Status(named), Failure::Status(status)) => named == status,
            _ => false,
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const EVERYTHING: [RetryOn; 5] =
        [RetryOn::Connect, RetryOn::Reset, RetryOn::FirstByteTimeout, RetryOn::ServerError, RetryOn::Status(429)];

    fn policy(on: &[RetryOn]) -> RetryPolicy {
        RetryPolicy { attempts: 3, on: on.to_vec(), replay_post: false }
    }

    /// The first attempt of a POST, with everything in favour of another.
    fn post() -> Context {
        Context {
            attempts_made: 1,
            stale_retried: false,
            method_idempotent: false,
            body_held: true,
            response_started: false,
            another_server: true,
        }
    }

    #[test]
    fn a_connect_failure_is_tried_again_for_any_method_even_if_the_body_is_not_held() {
        let context = Context { body_held: false, ..post() };
        assert_eq!(policy(&[RetryOn::Connect]).decide(Failure::Connect, context), Decision::Retry);
    }

    #[test]
    fn a_connect_failure_is_not_tried_again_if_the_user_left_it_out() {
        assert_eq!(policy(&[]).decide(Failure::Connect, post()), Decision::GiveUp(GiveUp::NotConfigured));
    }

    #[test]
    fn the_attempts_are_capped() {
        let context = Context { attempts_made: 3, ..post() };
        assert_eq!(
            policy(&[RetryOn::Connect]).decide(Failure::Connect, context),
            Decision::GiveUp(GiveUp::AttemptsUsed)
        );
    }

    #[test]
    fn a_stale_connection_is_replaced_once_whatever_the_configuration() {
        let none = RetryPolicy { attempts: 1, on: Vec::new(), replay_post: false };
        let alone = Context { another_server: false, ..post() };
        assert_eq!(none.decide(Failure::StaleConnection, alone), Decision::RetryFresh);
        let again = Context { stale_retried: true, ..alone };
        assert_eq!(none.decide(Failure::StaleConnection, again), Decision::GiveUp(GiveUp::NotConfigured));
        let gone = Context { body_held: false, ..post() };
        assert_eq!(none.decide(Failure::StaleConnection, gone), Decision::GiveUp(GiveUp::NotConfigured));
    }

    #[test]
    fn a_post_is_sent_again_only_with_replay_post() {
        let mut policy = policy(&[RetryOn::Reset]);
        assert_eq!(policy.decide(Failure::Reset, post()), Decision::GiveUp(GiveUp::NotIdempotent));
        let get = Context { method_idempotent: true, ..post() };
        assert_eq!(policy.decide(Failure::Reset, get), Decision::Retry);
        policy.replay_post = true;
        assert_eq!(policy.decide(Failure::Reset, post()), Decision::Retry);
        let gone = Context { body_held: false, ..post() };
        assert_eq!(policy.decide(Failure::Reset, gone), Decision::GiveUp(GiveUp::BodyNotHeld));
    }

    #[test]
    fn statuses_match_by_class_or_by_number() {
        let get = Context { method_idempotent: true, ..post() };
        let class = policy(&[RetryOn::ServerError]);
        assert_eq!(class.decide(Failure::Status(503), get), Decision::Retry);
        assert_eq!(class.decide(Failure::Status(429), get), Decision::GiveUp(GiveUp::NotConfigured));
        let number = policy(&[RetryOn::Status(429)]);
        assert_eq!(number.decide(Failure::Status(429), get), Decision::Retry);
        assert_eq!(number.decide(Failure::Status(503), get), Decision::GiveUp(GiveUp::NotConfigured));
    }

    #[test]
    fn without_another_server_the_failure_is_the_answer() {
        let context = Context { another_server: false, ..post() };
        assert_eq!(
            policy(&[RetryOn::Connect]).decide(Failure::Connect, context),
            Decision::GiveUp(GiveUp::NoOtherServer)
        );
    }

    fn failure() -> impl Strategy<Value = Failure> {
        prop_oneof![
            Just(Failure::Connect),
            Just(Failure::StaleConnection),
            Just(Failure::Reset),
            Just(Failure::FirstByteTimeout),
            (400..600_u16).prop_map(Failure::Status),
            Just(Failure::Other),
        ]
    }

    proptest! {
        #[test]
        fn nothing_is_repeated_after_the_first_byte_or_beyond_the_attempts_or_without_its_body(
            failure in failure(),
            attempts in 0..5_u32,
            on in prop::sample::subsequence(EVERYTHING.to_vec(), 0..=EVERYTHING.len()),
            (replay_post, stale_retried, method_idempotent) in any::<(bool, bool, bool)>(),
            (body_held, response_started, another_server) in any::<(bool, bool, bool)>(),
            attempts_made in 1..6_u32,
        ) {
            let policy = RetryPolicy { attempts, on, replay_post };
            let context = Context {
                attempts_made, stale_retried, method_idempotent, body_held, response_started, another_server,
            };
            match policy.decide(failure, context) {
                Decision::RetryFresh => {
                    prop_assert!(failure == Failure::StaleConnection && !stale_retried);
                    prop_assert!(body_held && !response_started);
                }
                Decision::Retry => {
                    prop_assert!(!response_started && another_server && attempts_made < attempts);
                    if failure != Failure::Connect {
                        prop_assert!(body_held && (method_idempotent || replay_post));
                    }
                    prop_assert!(failure != Failure::Other && policy.names(failure));
                }
                Decision::GiveUp(_) => {}
            }
        }
    }
}
