//! Conditional requests and ranges of what is answered here, a file or what is kept (RFC 9110, sections 13 and 14).

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use http::{HeaderMap, HeaderValue, header};

/// What tells one version of an answer from another.
pub struct Version {
    /// The tag without `W/`.
    tag: Option<String>,
    /// Whether the tag tells versions apart that differ in a byte.
    is_strong: bool,
    /// When it was changed, in whole seconds, as HTTP has dates.
    modified: Option<SystemTime>,
}

/// Which part of a body is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Range {
    /// All of it.
    Whole,
    /// Both ends belong to it.
    Part {
        /// The first byte.
        first: u64,
        /// The last byte.
        last: u64,
    },
    /// Nothing of it is there.
    Outside,
}

impl Version {
    /// That of a file by its time of change, to the nanosecond, and its length; of a coded one also by its coding.
    pub fn of(modified: Option<SystemTime>, length: u64, coding: Option<&str>) -> Self {
        let since = modified.and_then(|at| at.duration_since(UNIX_EPOCH).ok()).unwrap_or_default();
        let coding = coding.map(|coding| format!("-{coding}")).unwrap_or_default();
        let tag = format!("\"{:x}-{length:x}{coding}\"", since.as_nanos());
        let modified = modified.map(|_| UNIX_EPOCH + Duration::from_secs(since.as_secs()));
        Self { tag: Some(tag), is_strong: true, modified }
    }

    /// The version that an answer says it is.
    pub fn of_answer(headers: &HeaderMap) -> Self {
        let field = |name| headers.get(name).and_then(|value: &HeaderValue| value.to_str().ok());
        let tag = field(header::ETAG);
        let modified = field(header::LAST_MODIFIED).and_then(|text| httpdate::parse_http_date(text).ok());
        let is_strong = tag.is_some_and(|tag| !tag.starts_with("W/"));
        let tag = tag.map(|tag| tag.strip_prefix("W/").unwrap_or(tag).to_owned());
        Self { tag, is_strong, modified }
    }

    /// Writes ETag and Last-Modified.
    pub fn write(&self, headers: &mut HeaderMap) {
        if let Some(tag) = self.tag.as_ref().and_then(|tag| HeaderValue::from_str(tag).ok()) {
            headers.insert(header::ETAG, tag);
        }
        if let Some(date) = self.modified.and_then(|at| HeaderValue::try_from(httpdate::fmt_http_date(at)).ok()) {
            headers.insert(header::LAST_MODIFIED, date);
        }
    }

    /// Whether the client has this version already. If-None-Match decides alone where it is there.
    pub fn unchanged(&self, request: &HeaderMap) -> bool {
        if request.contains_key(header::IF_NONE_MATCH) {
            let tags = request.get_all(header::IF_NONE_MATCH).into_iter().filter_map(|value| value.to_str().ok());
            // A weak tag is good enough here.
            return tags
                .flat_map(|tags| tags.split(','))
                .map(str::trim)
                .any(|tag| tag == "*" || self.tag.as_deref() == Some(tag.strip_prefix("W/").unwrap_or(tag)));
        }
        let since = request.get(header::IF_MODIFIED_SINCE).and_then(|value| value.to_str().ok());
        let since = since.and_then(|text| httpdate::parse_http_date(text).ok());
        matches!((since, self.modified), (Some(since), Some(modified)) if modified <= since)
    }

    /// The part that is asked for. Several parts, another unit, and what is not written correctly mean the whole.
    pub fn range(&self, request: &HeaderMap, length: u64) -> Range {
        let mut fields = request.get_all(header::RANGE).into_iter();
        let (Some(field), None) = (fields.next(), fields.next()) else { return Range::Whole };
        if !self.is_same(request) {
            return Range::Whole;
        }
        let text = field.to_str().unwrap_or_default();
        let Some(text) = text.get(..6).filter(|unit| unit.eq_ignore_ascii_case("bytes=")).map(|_| text[6..].trim())
        else {
            return Range::Whole;
        };
        let Some((first, last)) = text.split_once('-').filter(|_| !text.contains(',')) else { return Range::Whole };
        match (number(first), number(last)) {
            (Some(first), Some(last)) if first > last => Range::Whole,
            (Some(first), _) if first >= length && (last.is_empty() || number(last).is_some()) => Range::Outside,
            (Some(first), Some(last)) => Range::Part { first, last: last.min(length - 1) },
            (Some(first), None) if last.is_empty() => Range::Part { first, last: length - 1 },
            (None, Some(0)) if first.is_empty() => Range::Outside,
            (None, Some(_)) if first.is_empty() && length == 0 => Range::Outside,
            (None, Some(count)) if first.is_empty() => {
                Range::Part { first: length.saturating_sub(count), last: length - 1 }
            }
            _ => Range::Whole,
        }
    }

    /// Whether a part fits what the client has: If-Range with the same strong tag, or the same date.
    fn is_same(&self, request: &HeaderMap) -> bool {
        let Some(condition) = request.get(header::IF_RANGE) else { return true };
        let text = condition.to_str().unwrap_or_default();
        if text.starts_with('"') {
            return self.is_strong && self.tag.as_deref() == Some(text);
        }
        httpdate::parse_http_date(text).is_ok_and(|date| self.modified == Some(date))
    }
}

/// A number that is made of digits alone; one that is too large is the largest.
fn number(text: &str) -> Option<u64> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    digits.then(|| text.parse().unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(text: &'static str, length: u64) -> Range {
        let request = HeaderMap::from_iter([(header::RANGE, HeaderValue::from_static(text))]);
        Version::of(None, length, None).range(&request, length)
    }

    #[test]
    fn ranges_are_read() {
        let part = |first, last| Range::Part { first, last };
        assert_eq!(range("bytes=0-0", 10), part(0, 0));
        assert_eq!(range("bytes=2-5", 10), part(2, 5));
        assert_eq!(range("bytes=5-", 10), part(5, 9));
        assert_eq!(range("bytes=5-99999999999999999999999", 10), part(5, 9));
        assert_eq!(range("bytes=-3", 10), part(7, 9));
        assert_eq!(range("bytes=-30", 10), part(0, 9));
        assert_eq!(range("Bytes=1-2", 10), part(1, 2));
        for outside in ["bytes=10-", "bytes=10-20", "bytes=99999999999999999999999-", "bytes=-0"] {
            assert_eq!(range(outside, 10), Range::Outside, "{outside}");
        }
        for whole in [
            "bytes=5-2",
            "bytes=0-1,3-4",
            "lines=0-1",
            "bytes=a-b",
            "bytes=-",
            "bytes=1-x",
            "bytes=",
            "x",
            "bytes=+1-2",
        ] {
            assert_eq!(range(whole, 10), Range::Whole, "{whole}");
        }
        assert_eq!(range("bytes=0-", 0), Range::Outside);
        assert_eq!(range("bytes=-1", 0), Range::Outside);
    }
}
