//! Whether a request may be answered from what is kept (RFC 9111, 4.2 and 5.2.1; RFC 5861).

use std::time::Duration;

use super::directives::Wish;
use super::{Life, Marks};

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Use {
    /// It is fresh: nobody is asked.
    Fresh,
    /// It is stale, and its client takes that.
    Stale,
    /// It is stale, and given while it is asked for anew.
    Refresh,
    /// A server has to be asked.
    Ask,
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// Whether an answer is good enough for what its client wants of freshness, if it is stale or not.
fn suits(life: &Life, wish: &Wish, now: u64) -> bool {
    let is_young = wish.max_age.is_none_or(|most| life.age(now) <= millis(most));
    let left = (life.received.saturating_add(life.fresh)).saturating_sub(now);
    is_young && !wish.no_cache && wish.min_fresh.is_none_or(|least| left >= millis(least))
}

/// What is to be done with a request for an answer that is kept, at a moment in milliseconds since 1970.
#[must_use]
pub fn decide(life: &Life, wish: &Wish, now: u64) -> Use {
    if !suits(life, wish, now) {
        return Use::Ask;
    }
    let Some(stale) = life.stale_for(now) else { return Use::Fresh };
    if stale < life.while_revalidate {
        return Use::Refresh;
    }
    let by_client = !life.marks.has(Marks::NEVER_STALE) && !life.marks.has(Marks::NOT_BY_CLIENT);
    match wish.max_stale {
        Some(most) if by_client && stale <= millis(most) => Use::Stale,
        _ => Use::Ask,
    }
}

/// The same for an answer for which a server was asked after the request had come. How old it was then and how long it is fresh is
/// what that server would have told this request too, so `max-age` and `min-fresh` ask for nothing more (RFC 9111, 4: requests
/// that are collapsed). What has to be confirmed each time has to be for this one.
#[must_use]
pub fn decide_of_new(life: &Life, wish: &Wish, now: u64) -> Use {
    if life.stale_for(now).is_none() && !wish.no_cache { Use::Fresh } else { decide(life, wish, now) }
}

/// Whether what is kept is given in the place of an error, or of no answer.
#[must_use]
pub fn in_place_of_error(life: &Life, wish: &Wish, now: u64) -> bool {
    let stale = life.stale_for(now).unwrap_or(0);
    stale < life.if_error && suits(life, wish, now)
}

/// The seconds of the field `Age` (RFC 9111, 5.1).
#[must_use]
pub fn age_seconds(life: &Life, now: u64) -> u64 {
    life.age(now) / 1000
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, header};
    use http_cache_semantics::{BeforeRequest, CachePolicy};
    use proptest::prelude::*;

    use super::*;
    use crate::policy::http_cache::storing::{Answer, Credentials, Rules};

    const NOW: u64 = 1_000_000_000;

    fn life(fresh: u64, while_revalidate: u64, if_error: u64) -> Life {
        Life { received: NOW, age: 0, fresh, while_revalidate, if_error, marks: Marks::default() }
    }

    #[test]
    fn an_answer_is_used_while_it_may_be() {
        let life = life(10_000, 5_000, 20_000);
        let after = |seconds: u64| decide(&life, &Wish::default(), NOW + seconds * 1000);
        assert_eq!([after(0), after(9)], [Use::Fresh; 2]);
        assert_eq!([after(10), after(14)], [Use::Refresh; 2]);
        assert_eq!(after(15), Use::Ask);
        let errors = |seconds: u64| in_place_of_error(&life, &Wish::default(), NOW + seconds * 1000);
        assert_eq!([errors(5), errors(29), errors(30)], [true, true, false]);
        assert_eq!((life.ttl(NOW), life.ttl(NOW + 10_500), age_seconds(&life, NOW + 1999)), (10, -1, 1));
        // A clock that was set back.
        assert_eq!((decide(&life, &Wish::default(), NOW - 50_000), life.ttl(NOW - 5)), (Use::Fresh, 10));
    }

    #[test]
    fn what_was_asked_for_since_is_new_enough() {
        let of = |text: &'static str, fresh: u64| {
            let headers = HeaderMap::from_iter([(header::CACHE_CONTROL, HeaderValue::from_static(text))]);
            let (life, wish) = (Life { age: 30_000, ..life(fresh, 60_000, 0) }, Wish::of(&headers));
            (decide(&life, &wish, NOW), decide_of_new(&life, &wish, NOW))
        };
        for text in ["max-age=0", "max-age=20", "min-fresh=60", "max-age=0, min-fresh=60"] {
            assert_eq!(of(text, 10_000), (Use::Ask, Use::Fresh), "{text}");
            assert_eq!(of(text, 0), (Use::Ask, Use::Ask), "{text}");
        }
        assert_eq!((of("no-cache", 10_000), of("max-stale", 0)), ((Use::Ask, Use::Ask), (Use::Refresh, Use::Refresh)));
    }

    #[test]
    fn a_client_says_what_it_wants() {
        let of = |text: &'static str, after: u64, marks| {
            let headers = HeaderMap::from_iter([(header::CACHE_CONTROL, HeaderValue::from_static(text))]);
            decide(&Life { marks, ..life(10_000, 0, 60_000) }, &Wish::of(&headers), NOW + after * 1000)
        };
        let plain = Marks::default();
        assert_eq!(of("no-cache", 0, plain), Use::Ask);
        assert_eq!((of("max-age=5", 5, plain), of("max-age=5", 6, plain)), (Use::Fresh, Use::Ask));
        assert_eq!((of("min-fresh=5", 5, plain), of("min-fresh=5", 6, plain)), (Use::Fresh, Use::Ask));
        assert_eq!(
            (of("max-stale", 99, plain), of("max-stale=5", 15, plain), of("max-stale=5", 16, plain)),
            (Use::Stale, Use::Stale, Use::Ask)
        );
        assert_eq!(of("max-stale", 99, Marks::NEVER_STALE), Use::Ask);
        assert_eq!(of("max-stale", 99, Marks::NOT_BY_CLIENT), Use::Ask);
        let wish = Wish { no_cache: true, ..Wish::default() };
        assert!(!in_place_of_error(&life(10_000, 0, 60_000), &wish, NOW));
    }

    proptest! {
        /// What is used without asking, the crate would use too.
        #[test]
        fn nothing_is_used_that_the_crate_would_not(
            answer in prop::sample::select(vec![
                "max-age=100", "max-age=100, must-revalidate", "public, max-age=0", "no-cache", "s-maxage=50, max-age=200", "max-age=100, immutable",
            ]),
            wish in prop::sample::select(vec![
                "", "no-cache", "max-age=20", "min-fresh=30", "max-stale", "max-stale=10", "max-age=70, max-stale=10",
            ]),
            passed in 0_u64..260,
        ) {
            let headers = |text: &str| -> HeaderMap {
                (!text.is_empty()).then(|| (header::CACHE_CONTROL, HeaderValue::try_from(text).unwrap())).into_iter().collect()
            };
            let mut response = Response::new(());
            *response.headers_mut() = headers(answer);
            response.headers_mut().insert(header::ETAG, HeaderValue::from_static("\"a\""));
            let judged = Rules::default().judge(&Answer {
                credentials: Credentials::default(), no_store: false, status: StatusCode::OK,
                headers: response.headers(), received: NOW, waited: 0,
            });
            let life = judged.expect("it may be kept");
            let at = |millis| UNIX_EPOCH + Duration::from_millis(millis);
            let policy = CachePolicy::new_options(&Request::new(()), &response, at(NOW), Default::default());
            let mut request = Request::new(());
            *request.headers_mut() = headers(wish);
            let now = NOW + passed * 1000;
            let theirs = matches!(policy.before_request(&request, at(now)), BeforeRequest::Fresh(_));
            let ours = matches!(decide(&life, &Wish::of(request.headers()), now), Use::Fresh | Use::Stale);
            prop_assert!(!ours || theirs || wish.contains("max-stale=10"), "{answer} / {wish} after {passed}");
            // They part only where the crate lets a client ask for what `s-maxage` forbids, and at the last second.
            prop_assert!(!theirs || ours || answer.contains("s-maxage") || wish.contains("max-stale"), "{answer} / {wish} after {passed}");
        }
    }
}
