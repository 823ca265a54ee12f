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
        elapsed: Duration::ZERO,
        stale_retried: false,
        sent_on: false,
        only_once: false,
        method_idempotent: false,
        only_reads: false,
        body_held: true,
        response_started: false,
        another_server: true,
        warm_server: true,
        budget: true,
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
    assert_eq!(policy(&[RetryOn::Connect]).decide(Failure::Connect, context), Decision::GiveUp(GiveUp::AttemptsUsed));
}

#[test]
fn a_stale_connection_is_replaced_once_whatever_the_configuration() {
    let none = RetryPolicy { attempts: 1, on: Vec::new(), replay_post: false };
    let alone = Context { another_server: false, ..post() };
    assert_eq!(none.decide(Failure::StaleConnection, alone), Decision::RetryFresh);
    let again = Context { stale_retried: true, ..alone };
    assert_eq!(none.decide(Failure::StaleConnection, again), Decision::GiveUp(GiveUp::NotConfigured));
    let gone = Context { body_held: false, ..post() };
    assert_eq!(none.decide(Failure::StaleConnection, gone), Decision::GiveUp(GiveUp::BodyNotHeld));
    let once = Context { only_once: true, ..alone };
    assert_eq!(none.decide(Failure::Refused, once), Decision::RetryFresh, "nobody has looked at it");
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
    assert_eq!(policy(&[RetryOn::Connect]).decide(Failure::Connect, context), Decision::GiveUp(GiveUp::NoOtherServer));
}

#[test]
fn nobody_who_wants_one_attempt_gets_another() {
    let everything = RetryPolicy { attempts: 9, on: EVERYTHING.to_vec(), replay_post: true };
    for failure in [Failure::Connect, Failure::Busy, Failure::NoModel, Failure::Reset, Failure::Status(502)] {
        let once = Context { only_once: true, ..post() };
        assert_eq!(everything.decide(failure, once), Decision::GiveUp(GiveUp::OnlyOnce), "{failure:?}");
        assert_ne!(everything.decide(failure, post()), Decision::GiveUp(GiveUp::OnlyOnce), "{failure:?}");
    }
}

#[test]
fn what_crashed_a_runner_is_never_tried_again() {
    let everything = RetryPolicy { attempts: 9, on: EVERYTHING.to_vec(), replay_post: true };
    assert_eq!(everything.decide(Failure::Crash, post()), Decision::GiveUp(GiveUp::Crashed));
}

#[test]
fn servers_that_cannot_be_reached_are_tried_for_five_seconds() {
    let policy = policy(&[RetryOn::Connect]);
    let at = |millis| Context { elapsed: Duration::from_millis(millis), budget: false, ..post() };
    assert_eq!(policy.decide(Failure::Connect, at(5000)), Decision::Retry, "nothing was sent, so no budget is needed");
    assert_eq!(policy.decide(Failure::Connect, at(5001)), Decision::GiveUp(GiveUp::AttemptsUsed));
}

#[test]
fn a_busy_server_sends_a_request_on_once_to_a_warm_one() {
    let policy = policy(&[RetryOn::Connect]);
    assert_eq!(policy.decide(Failure::Busy, post()), Decision::RetryWarm);
    let cases = [
        (Context { warm_server: false, ..post() }, GiveUp::NotConfigured),
        (Context { sent_on: true, ..post() }, GiveUp::SentOn),
        (Context { budget: false, ..post() }, GiveUp::Budget),
        (Context { body_held: false, ..post() }, GiveUp::BodyNotHeld),
        (Context { attempts_made: 3, ..post() }, GiveUp::AttemptsUsed),
    ];
    for (context, why) in cases {
        assert_eq!(policy.decide(Failure::Busy, context), Decision::GiveUp(why));
    }
    let any = RetryPolicy { on: vec![RetryOn::Status(503)], replay_post: true, ..policy };
    let cold = Context { warm_server: false, sent_on: true, ..post() };
    assert_eq!(any.decide(Failure::Busy, cold), Decision::Retry, "a route may want more");
}

#[test]
fn a_server_without_the_model_sends_a_request_on_once() {
    let policy = policy(&[RetryOn::Connect]);
    assert_eq!(policy.decide(Failure::NoModel, Context { budget: false, ..post() }), Decision::Retry);
    let again = Context { sent_on: true, ..post() };
    assert_eq!(policy.decide(Failure::NoModel, again), Decision::GiveUp(GiveUp::SentOn));
}

#[test]
fn what_only_reads_is_sent_again_after_a_reset() {
    let policy = policy(&[RetryOn::Connect]);
    let show = Context { only_reads: true, ..post() };
    assert_eq!(policy.decide(Failure::Reset, show), Decision::Retry);
    assert_eq!(policy.decide(Failure::FirstByteTimeout, show), Decision::GiveUp(GiveUp::NotConfigured));
    assert_eq!(policy.decide(Failure::Reset, Context { budget: false, ..show }), Decision::GiveUp(GiveUp::Budget));
}

fn failure() -> impl Strategy<Value = Failure> {
    prop_oneof![
        Just(Failure::Connect),
        Just(Failure::StaleConnection),
        Just(Failure::Reset),
        Just(Failure::FirstByteTimeout),
        Just(Failure::Refused),
        Just(Failure::Busy),
        Just(Failure::NoModel),
        Just(Failure::Crash),
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
        (replay_post, stale_retried, sent_on, only_once) in any::<(bool, bool, bool, bool)>(),
        (method_idempotent, only_reads, body_held, response_started) in any::<(bool, bool, bool, bool)>(),
        (another_server, warm_server, budget) in any::<(bool, bool, bool)>(),
        attempts_made in 1..6_u32,
        elapsed in 0..10_u64,
    ) {
        let policy = RetryPolicy { attempts, on, replay_post };
        let context = Context {
            attempts_made, elapsed: Duration::from_secs(elapsed), stale_retried, sent_on, only_once, method_idempotent,
            only_reads, body_held, response_started, another_server, warm_server, budget,
        };
        let decision = policy.decide(failure, context);
        match decision {
            Decision::RetryFresh => {
                prop_assert!(matches!(failure, Failure::StaleConnection | Failure::Refused) && !stale_retried);
                prop_assert!(body_held && !response_started);
            }
            Decision::Retry | Decision::RetryWarm => {
                prop_assert!(!response_started && another_server && attempts_made < attempts && !only_once);
                prop_assert!(!policy.on.is_empty());
                prop_assert!(failure != Failure::Other && failure != Failure::Crash);
                if failure != Failure::Connect {
                    prop_assert!(body_held && (budget || failure == Failure::NoModel));
                }
                if decision == Decision::RetryWarm {
                    prop_assert!(failure == Failure::Busy && warm_server && !sent_on);
                } else if !policy.names(failure) {
                    let untouched = failure == Failure::NoModel && !sent_on;
                    prop_assert!(untouched || failure == Failure::Reset && only_reads);
                }
                if !matches!(failure, Failure::Connect | Failure::Busy | Failure::NoModel) && !only_reads {
                    prop_assert!(method_idempotent || replay_post);
                }
            }
            Decision::GiveUp(_) => {}
        }
    }
}
