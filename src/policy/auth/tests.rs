use proptest::prelude::*;

use super::*;

const KEY: &str = "ak_abababab_0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
const OTHER: &str = "ak_cdcdcdcd_0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

fn fields(list: &[(&'static str, &str)]) -> HeaderMap {
    let mut fields = HeaderMap::new();
    for (name, value) in list {
        fields.append(*name, HeaderValue::from_bytes(value.as_bytes()).unwrap());
    }
    fields
}

fn basic(text: &str) -> String {
    format!("Basic {}", STANDARD.encode(text))
}

/// `KEY` is the one key that is known.
fn ask(mode: Mode, list: &[(&'static str, &str)], query: Option<&str>) -> Verdict<&'static str> {
    decide(mode, &fields(list), query, |key| (key == KEY.as_bytes()).then_some("owner"))
}

fn required(list: &[(&'static str, &str)]) -> Verdict<&'static str> {
    ask(Mode::Required, list, None)
}

fn status(verdict: &Verdict<&'static str>) -> u16 {
    match verdict {
        Verdict::Refused(refusal) => refusal.reason().status().unwrap_or(0),
        _ => 200,
    }
}

#[track_caller]
fn known(list: &[(&'static str, &str)], consumed: &[&str]) {
    for mode in [Mode::Required, Mode::Optional] {
        match ask(mode, list, None) {
            Verdict::Known("owner", fields) => {
                let names: Vec<_> = fields.names().collect();
                assert_eq!(names, consumed, "{list:?}");
            }
            other => panic!("{list:?}: {other:?}"),
        }
    }
}

#[track_caller]
fn refused(list: &[(&'static str, &str)], wanted: u16) {
    assert_eq!(status(&required(list)), wanted, "{list:?}");
}

#[test]
fn a_key_is_read_from_three_places_which_are_then_ours() {
    known(&[("authorization", &format!("Bearer {KEY}"))], &["authorization"]);
    known(&[("authorization", &format!("bearer {KEY}"))], &["authorization"]);
    known(&[("authorization", &format!("BEARER   {KEY}  "))], &["authorization"]);
    known(&[("x-api-key", KEY)], &["x-api-key"]);
    known(&[("x-api-key", &format!("{KEY} "))], &["x-api-key"]);
    known(&[("authorization", &basic(&format!("anyone:{KEY}")))], &["authorization"]);
    known(&[("authorization", &basic(&format!(":{KEY}")).replace("Basic", "basic"))], &["authorization"]);
    let both = [("authorization", &*format!("Bearer {KEY}")), ("x-api-key", KEY)];
    known(&both, &["authorization", "x-api-key"]);
    known(&[("authorization", "Negotiate abc="), ("x-api-key", KEY)], &["x-api-key"]);
}

#[test]
fn without_a_good_key_the_answer_is_401() {
    refused(&[], 401);
    refused(&[("authorization", "")], 401);
    refused(&[("authorization", "Bearer")], 401);
    refused(&[("authorization", "Bearer   ")], 401);
    refused(&[("authorization", "bearer")], 401);
    refused(&[("authorization", KEY)], 401);
    refused(&[("x-api-key", "")], 401);
    refused(&[("authorization", &basic("user:"))], 401);
    refused(&[("authorization", &basic(&format!("{KEY}:")))], 401);
    refused(&[("authorization", "Digest username=\"a\"")], 401);
    refused(&[("authorization", &format!("Bearer {OTHER}"))], 401);
    refused(&[("authorization", &format!("Bearer {}", &KEY[..KEY.len() - 1]))], 401);
    refused(&[("authorization", &format!("Bearer {KEY}0"))], 401);
    refused(&[("x-api-key", &KEY.to_uppercase())], 401);
    refused(&[("cookie", &format!("key={KEY}"))], 401);
    assert_eq!(CHALLENGE, "Bearer realm=\"arriero\"");
}

#[test]
fn what_can_be_read_in_two_ways_is_answered_400() {
    let bearer = format!("Bearer {KEY}");
    refused(&[("authorization", &bearer), ("authorization", &bearer)], 400);
    refused(&[("authorization", &bearer), ("authorization", "Digest a")], 400);
    refused(&[("x-api-key", KEY), ("x-api-key", KEY)], 400);
    refused(&[("authorization", &bearer), ("x-api-key", OTHER)], 400);
    refused(&[("authorization", &bearer), ("x-api-key", "")], 400);
    refused(&[("authorization", &basic(&format!("u:{OTHER}"))), ("x-api-key", KEY)], 400);
    refused(&[("authorization", &format!("Bearer {KEY} {KEY}"))], 400);
    refused(&[("authorization", &format!("Bearer {KEY}\t{OTHER}"))], 400);
    refused(&[("authorization", &format!("Bearer {KEY},{KEY} x"))], 400);
    refused(&[("x-api-key", &format!("{KEY}\u{e9}"))], 400);
    refused(&[("authorization", &basic(&format!("u:{KEY}\0")))], 400);
    refused(&[("authorization", "Basic ====")], 400);
    refused(&[("authorization", &basic("without a colon"))], 400);
    refused(&[("authorization", &format!("Bearer {}", "a".repeat(8 << 10)))], 400);
    refused(&[("x-api-key", &"a".repeat(MAX_BYTES + 1))], 400);
    refused(&[("connection", "close, Authorization"), ("authorization", &bearer)], 400);
    refused(&[("connection", "x-api-key"), ("x-api-key", KEY)], 400);
}

#[test]
fn a_key_in_the_query_is_never_taken() {
    for (list, query, wanted) in [
        (&[][..], format!("key={KEY}"), 400),
        (&[("x-api-key", KEY)], format!("key={KEY}"), 400),
        (&[], "api_key=secret".to_owned(), 401),
        (&[], format!("key={}", KEY.replace('_', "%5F")), 401),
        (&[("x-api-key", KEY)], "page=2".to_owned(), 200),
    ] {
        assert_eq!(status(&ask(Mode::Required, list, Some(&query))), wanted, "{query}");
    }
}

#[test]
fn where_a_key_is_optional_one_that_is_given_must_be_good() {
    assert_eq!(ask(Mode::Optional, &[], None), Verdict::Anonymous);
    assert_eq!(ask(Mode::Optional, &[("authorization", "Negotiate abc=")], None), Verdict::Anonymous);
    for (list, wanted) in [
        ([("authorization", "Bearer wrong")], 401),
        ([("authorization", "Bearer")], 401),
        ([("x-api-key", "wrong")], 401),
        ([("authorization", "Basic ====")], 400),
    ] {
        assert_eq!(status(&ask(Mode::Optional, &list, None)), wanted, "{list:?}");
    }
}

#[test]
fn where_no_key_is_asked_for_nothing_is_looked_at() {
    let list = [("authorization", "Bearer a"), ("authorization", "Bearer b"), ("x-api-key", "c\u{e9}")];
    let query = format!("key={KEY}");
    let verdict = decide(Mode::None, &fields(&list), Some(&query), |_| -> Option<()> { panic!("nothing to find") });
    assert_eq!(verdict, Verdict::Anonymous);
}

#[test]
fn messages_tell_nothing_of_a_key() {
    for refusal in [Refusal::Missing, Refusal::Unknown, Refusal::Malformed("x")] {
        assert!(!refusal.message().contains("ak_"));
    }
    assert_eq!(Refusal::Missing.reason(), Reason::Unauthorized);
}

proptest! {
    #[test]
    fn no_value_makes_it_fail_or_lets_anybody_in(value in prop::collection::vec(any::<u8>(), 0..64), name in "authorization|x-api-key") {
        let mut fields = HeaderMap::new();
        if let Ok(value) = HeaderValue::from_bytes(&value) {
            fields.insert(HeaderName::try_from(name).unwrap(), value);
        }
        let verdict = decide(Mode::Required, &fields, None, |key| (key == KEY.as_bytes()).then_some(()));
        prop_assert!(matches!(verdict, Verdict::Refused(_)));
    }

    #[test]
    fn the_same_key_is_read_from_each_place(key in "[!-9;-~]{1,80}") {
        let mut read = Vec::new();
        for (name, value) in [("authorization", format!("Bearer {key}")), ("x-api-key", key.clone()), ("authorization", basic(&format!("u:{key}")))] {
            let _ = decide(Mode::Optional, &fields(&[(name, &value)]), None, |key| {
                read.push(key.to_vec());
                None::<()>
            });
        }
        prop_assert_eq!(read, vec![key.as_bytes().to_vec(); 3]);
    }
}
