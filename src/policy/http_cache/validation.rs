//! With what a server is asked whether an answer still holds, and what a 304 changes of it (RFC 9111, 4.3).

use http::{HeaderMap, HeaderName, header};

use super::storing;

/// Fields of a request that ask for a part, or for an answer only if something is so.
pub const CONDITIONS: [HeaderName; 4] =
    [header::IF_NONE_MATCH, header::IF_MODIFIED_SINCE, header::IF_RANGE, header::RANGE];

/// Fields that describe the bytes that are kept, which a 304 does not bring (RFC 9111, 3.2).
const OF_THE_BODY: [HeaderName; 5] = [
    header::CONTENT_LENGTH,
    header::CONTENT_ENCODING,
    header::CONTENT_TYPE,
    header::CONTENT_RANGE,
    header::TRANSFER_ENCODING,
];

/// Makes a request ask whether an answer still holds (RFC 9111, 4.3.1), and nothing else; whether it can be asked.
pub fn ask(request: &mut HeaderMap, kept: &HeaderMap) -> bool {
    for name in CONDITIONS {
        request.remove(name);
    }
    let mut asks = false;
    for (of_answer, of_request) in
        [(header::ETAG, header::IF_NONE_MATCH), (header::LAST_MODIFIED, header::IF_MODIFIED_SINCE)]
    {
        if let Some(value) = kept.get(of_answer) {
            request.insert(of_request, value.clone());
            asks = true;
        }
    }
    asks
}

/// Whether a 304 is about the answer that is kept (RFC 9111, 4.3.4): by a strong tag where it has one, else by a weak one, else by
/// the date. One without any of them answers the question that was asked, and there was only one.
#[must_use]
pub fn is_about(kept: &HeaderMap, told: &HeaderMap) -> bool {
    let strip = |tag: &[u8]| tag.strip_prefix(b"W/").unwrap_or(tag).to_vec();
    match told.get(header::ETAG) {
        Some(tag) if tag.as_bytes().starts_with(b"W/") => {
            kept.get(header::ETAG).is_some_and(|known| strip(known.as_bytes()) == strip(tag.as_bytes()))
        }
        Some(tag) => kept.get(header::ETAG).is_some_and(|known| strip(known.as_bytes()) == tag.as_bytes()),
        None => told.get(header::LAST_MODIFIED).is_none_or(|date| kept.get(header::LAST_MODIFIED) == Some(date)),
    }
}

/// The fields of an answer after a 304 confirmed it (RFC 9111, 3.2): those that came replace those of their names. One that came
/// without a date is of when it was received: with the date of what it confirms it would be as old as that.
#[must_use]
pub fn freshened(kept: &HeaderMap, told: &HeaderMap, received: u64) -> HeaderMap {
    let mut fields = kept.clone();
    let changes = |name: &HeaderName| !OF_THE_BODY.contains(name);
    for name in told.keys().filter(|name| changes(name)) {
        fields.remove(name);
    }
    for (name, value) in told.iter().filter(|(name, _)| changes(name)) {
        fields.append(name, value.clone());
    }
    if !told.contains_key(header::DATE)
        && let Some(date) = storing::date(received)
    {
        fields.insert(header::DATE, date);
    }
    fields
}

/// Fields that a 304 has, besides those that each answer has (RFC 9110, 15.4.5).
pub const OF_NOT_MODIFIED: [HeaderName; 8] = [
    header::AGE,
    header::CACHE_CONTROL,
    header::CONTENT_LOCATION,
    header::DATE,
    header::ETAG,
    header::EXPIRES,
    header::LAST_MODIFIED,
    header::VARY,
];

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn head(fields: &[(HeaderName, &'static str)]) -> HeaderMap {
        fields.iter().map(|(name, value)| (name.clone(), HeaderValue::from_static(value))).collect()
    }

    #[test]
    fn a_server_is_asked_with_what_is_kept_and_not_with_what_the_client_has() {
        let mut request =
            head(&[(header::IF_NONE_MATCH, "\"mine\""), (header::RANGE, "bytes=0-1"), (header::ACCEPT, "x")]);
        assert!(ask(&mut request, &head(&[(header::ETAG, "\"a\""), (header::LAST_MODIFIED, "then")])));
        let wanted =
            head(&[(header::ACCEPT, "x"), (header::IF_NONE_MATCH, "\"a\""), (header::IF_MODIFIED_SINCE, "then")]);
        assert_eq!(request, wanted);
        assert!(!ask(&mut request, &head(&[])));
        assert_eq!(request, head(&[(header::ACCEPT, "x")]));
    }

    #[test]
    fn a_304_is_about_what_is_kept_or_it_is_not() {
        let kept = head(&[(header::ETAG, "\"a\""), (header::LAST_MODIFIED, "then")]);
        let about = |told: &[(HeaderName, &'static str)]| is_about(&kept, &head(told));
        assert!(about(&[]) && about(&[(header::ETAG, "\"a\"")]) && about(&[(header::ETAG, "W/\"a\"")]));
        assert!(about(&[(header::LAST_MODIFIED, "then")]));
        assert!(!about(&[(header::ETAG, "\"b\"")]) && !about(&[(header::LAST_MODIFIED, "now")]));
        assert!(!is_about(&head(&[]), &head(&[(header::ETAG, "\"a\"")])));
    }

    #[test]
    fn what_a_304_brings_replaces_what_is_kept_but_the_body_stays_what_it_is() {
        let kept = head(&[
            (header::LINK, "a"),
            (header::LINK, "b"),
            (header::CONTENT_TYPE, "text/plain"),
            (header::ETAG, "\"a\""),
        ]);
        let told = head(&[
            (header::LINK, "c"),
            (header::CONTENT_TYPE, "text/html"),
            (header::CONTENT_LENGTH, "0"),
            (header::EXPIRES, "x"),
        ]);
        let wanted = head(&[
            (header::LINK, "c"),
            (header::CONTENT_TYPE, "text/plain"),
            (header::ETAG, "\"a\""),
            (header::EXPIRES, "x"),
            (header::DATE, "Sun, 06 Nov 1994 08:49:37 GMT"),
        ]);
        assert_eq!(freshened(&kept, &told, 784_111_777_000), wanted);
        // It is of when it came, whatever the date of what it confirms; its own date goes before both.
        let old = head(&[(header::DATE, "Sat, 05 Nov 1994 08:49:37 GMT")]);
        assert_eq!(freshened(&old, &told, 784_111_777_000)[header::DATE], "Sun, 06 Nov 1994 08:49:37 GMT");
        let dated = head(&[(header::DATE, "Sun, 06 Nov 1994 08:49:36 GMT")]);
        assert_eq!(freshened(&old, &dated, 784_111_777_000)[header::DATE], "Sun, 06 Nov 1994 08:49:36 GMT");
    }
}
