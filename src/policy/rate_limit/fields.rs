//! The header fields that tell a client about its limit.
//!
//! `RateLimit-Limit`, `RateLimit-Remaining` and `RateLimit-Reset` as draft-ietf-httpapi-ratelimit-headers has
//! them in its first versions, which clients and libraries read; `Retry-After` is RFC 9110, 10.2.3. All are
//! whole numbers; times are seconds, rounded up, so that nobody comes back too early.

use std::time::Duration;

use http::header::RETRY_AFTER;
use http::{HeaderName, HeaderValue};

use super::Quota;

const LIMIT: HeaderName = HeaderName::from_static("ratelimit-limit");
const REMAINING: HeaderName = HeaderName::from_static("ratelimit-remaining");
const RESET: HeaderName = HeaderName::from_static("ratelimit-reset");

/// What an answer says about a limit. The fields replace those of the same name that a server set.
#[must_use]
pub fn quota_fields(quota: Quota) -> [(HeaderName, HeaderValue); 3] {
    [
        (LIMIT, HeaderValue::from(quota.limit)),
        (REMAINING, HeaderValue::from(quota.remaining)),
        (RESET, HeaderValue::from(whole_seconds(quota.reset))),
    ]
}

/// What the answer to a refused request says: when to come again (at least one second from now) and, where
/// it was a rate that refused it, its limit.
pub fn refusal_fields(
    retry_after: Duration,
    quota: Option<Quota>,
) -> impl Iterator<Item = (HeaderName, HeaderValue)> + use<> {
    let retry = (RETRY_AFTER, HeaderValue::from(whole_seconds(retry_after).max(1)));
    std::iter::once(retry).chain(quota.into_iter().flat_map(quota_fields))
}

/// Seconds, rounded up.
#[must_use]
pub fn whole_seconds(time: Duration) -> u64 {
    time.as_secs().saturating_add(u64::from(time.subsec_nanos() > 0))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(fields: impl IntoIterator<Item = (HeaderName, HeaderValue)>) -> Vec<String> {
        let text = |(name, value): (HeaderName, HeaderValue)| format!("{name}: {}", value.to_str().unwrap());
        fields.into_iter().map(text).collect()
    }

    fn quota(remaining: u32, millis: u64) -> Quota {
        Quota { limit: 21, remaining, reset: Duration::from_millis(millis) }
    }

    #[test]
    fn seconds_are_rounded_up() {
        let fields = |millis| shown(quota_fields(quota(20, millis)));
        assert_eq!(fields(600), ["ratelimit-limit: 21", "ratelimit-remaining: 20", "ratelimit-reset: 1"]);
        assert_eq!(fields(12_000)[2], "ratelimit-reset: 12");
        assert_eq!(fields(12_001)[2], "ratelimit-reset: 13");
        assert_eq!(fields(0)[2], "ratelimit-reset: 0");
    }

    #[test]
    fn a_refusal_says_when_to_come_again_and_never_at_once() {
        let fields = |millis, quota| shown(refusal_fields(Duration::from_millis(millis), quota));
        assert_eq!(fields(0, None), ["retry-after: 1"]);
        assert_eq!(fields(1, None), ["retry-after: 1"]);
        assert_eq!(fields(1000, None), ["retry-after: 1"]);
        let all = ["retry-after: 2", "ratelimit-limit: 21", "ratelimit-remaining: 0", "ratelimit-reset: 13"];
        assert_eq!(fields(1001, Some(quota(0, 12_600))), all);
        let longest = shown(refusal_fields(Duration::MAX, None));
        assert_eq!(longest, [format!("retry-after: {}", u64::MAX)]);
    }
}
