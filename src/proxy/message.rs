//! Heads of HTTP/1 messages: from checked bytes to typed fields, and back to bytes.
//!
//! Field names leave in the form of Go's `CanonicalMIMEHeaderKey` (`Content-Type`), which is how Ollama writes
//! them; names mean the same in any case (RFC 9110 5.1).

use bytes::{BufMut, Bytes, BytesMut};
use http::header::{self, HeaderMap};
use http::{HeaderName, HeaderValue, Method, StatusCode, Uri, Version, request};

use super::framing::Decoder;

/// Bytes of a server's head.
const MAX_ANSWER_HEAD: usize = 64 << 10;
/// Fields of a server's head.
const MAX_ANSWER_FIELDS: usize = 256;
/// What a head takes beside its fields.
const LINE: usize = 128;

/// The head of an answer.
#[derive(Clone, Debug)]
pub struct AnswerHead {
    /// Status.
    pub status: StatusCode,
    /// Fields.
    pub headers: HeaderMap,
    /// The phrase behind the status, where it is not the usual one.
    pub phrase: Option<Bytes>,
}

impl AnswerHead {
    /// A head without fields.
    pub fn new(status: StatusCode) -> Self {
        Self { status, headers: HeaderMap::with_capacity(12), phrase: None }
    }
}

/// What a server sent is not HTTP as it should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed(pub &'static str);

/// Takes the head of a request apart that [`super::head::check`] let pass; `None` where a part of it has no meaning
/// as a URI.
pub fn request(head: &Bytes) -> Option<request::Parts> {
    let mut lines = head.strip_suffix(b"\r\n\r\n")?.split_inclusive(|&byte| byte == b'\n').map(trim_line);
    let mut words = lines.next()?.split(|&byte| byte == b' ');
    let (mut parts, ()) = http::Request::new(()).into_parts();
    parts.method = Method::from_bytes(words.next()?).ok()?;
    parts.uri = Uri::from_maybe_shared(head.slice_ref(words.next()?)).ok()?;
    parts.version = if words.next()? == b"HTTP/1.0" { Version::HTTP_10 } else { Version::HTTP_11 };
    parts.headers.reserve(16);
    for line in lines {
        let colon = memchr::memchr(b':', line)?;
        let name = HeaderName::from_bytes(&line[..colon]).ok()?;
        let value = HeaderValue::from_maybe_shared(head.slice_ref(line[colon + 1..].trim_ascii())).ok()?;
        parts.headers.append(name, value);
    }
    Some(parts)
}

fn trim_line(line: &[u8]) -> &[u8] {
    line.strip_suffix(b"\r\n").unwrap_or(line)
}

/// Writes the head of a request. `target` is in origin form.
pub fn write_request(buffer: &mut BytesMut, method: &Method, target: &str, headers: &HeaderMap) {
    buffer.reserve(LINE + target.len() + size(headers));
    buffer.put_slice(method.as_str().as_bytes());
    buffer.put_u8(b' ');
    buffer.put_slice(target.as_bytes());
    buffer.put_slice(b" HTTP/1.1\r\n");
    write_fields(buffer, headers);
}

/// Writes the head of an answer.
pub fn write_answer(buffer: &mut BytesMut, version: Version, head: &AnswerHead) {
    buffer.reserve(LINE + size(&head.headers));
    buffer.put_slice(if version == Version::HTTP_10 { b"HTTP/1.0 " } else { b"HTTP/1.1 " });
    buffer.put_slice(head.status.as_str().as_bytes());
    buffer.put_u8(b' ');
    match &head.phrase {
        Some(phrase) => buffer.put_slice(phrase),
        None => buffer.put_slice(head.status.canonical_reason().unwrap_or_default().as_bytes()),
    }
    buffer.put_slice(b"\r\n");
    write_fields(buffer, &head.headers);
}

fn size(headers: &HeaderMap) -> usize {
    headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 4).sum()
}

fn write_fields(buffer: &mut BytesMut, headers: &HeaderMap) {
    for (name, value) in headers {
        let begin = buffer.len();
        buffer.extend_from_slice(name.as_str().as_bytes());
        let written = &mut buffer[begin..];
        if let Some(first) = written.first_mut() {
            first.make_ascii_uppercase();
        }
        let mut at = 0;
        while let Some(dash) = memchr::memchr(b'-', &written[at..]) {
            at += dash + 1;
            if let Some(first) = written.get_mut(at) {
                first.make_ascii_uppercase();
            }
        }
        buffer.extend_from_slice(b": ");
        buffer.extend_from_slice(value.as_bytes());
        buffer.extend_from_slice(b"\r\n");
    }
    buffer.extend_from_slice(b"\r\n");
}

/// Takes the head of an answer out of what arrived; `None` when more must arrive first.
///
/// # Errors
/// When it is not the head of an answer, or too large.
pub fn take_answer(arrived: &mut BytesMut) -> Result<Option<(AnswerHead, Version)>, Malformed> {
    let mut fields = [const { std::mem::MaybeUninit::uninit() }; MAX_ANSWER_FIELDS];
    let mut answer = httparse::Response::new(&mut []);
    let parsed =
        httparse::ParserConfig::default().parse_response_with_uninit_headers(&mut answer, arrived, &mut fields);
    let length = match parsed {
        Ok(httparse::Status::Complete(length)) if length <= MAX_ANSWER_HEAD => length,
        Ok(httparse::Status::Partial) if arrived.len() <= MAX_ANSWER_HEAD => return Ok(None),
        Ok(_) => return Err(Malformed("the head is too large")),
        Err(httparse::Error::TooManyHeaders) => return Err(Malformed("the head has too many fields")),
        Err(_) => return Err(Malformed("the head is malformed")),
    };
    let version = if answer.version == Some(0) { Version::HTTP_10 } else { Version::HTTP_11 };
    let status = answer.code.and_then(|code| StatusCode::from_u16(code).ok()).ok_or(Malformed("no status"))?;
    // Positions, because the bytes are about to be shared.
    let start = arrived.as_ptr() as usize;
    let place = |text: &[u8]| text.as_ptr() as usize - start..text.as_ptr() as usize - start + text.len();
    let phrase = answer
        .reason
        .filter(|phrase| Some(*phrase) != status.canonical_reason() && !phrase.is_empty())
        .map(|phrase| place(phrase.as_bytes()));
    let mut headers = HeaderMap::with_capacity(answer.headers.len() + 4);
    let mut places = Vec::with_capacity(answer.headers.len());
    for field in answer.headers.iter() {
        let name = HeaderName::from_bytes(field.name.as_bytes()).map_err(|_| Malformed("a field name is malformed"))?;
        places.push((name, place(field.value)));
    }
    let head = take(arrived, length).freeze();
    for (name, place) in places {
        // An empty value may be a slice of nothing in particular.
        let value = if place.is_empty() { Bytes::new() } else { head.slice(place) };
        let value = HeaderValue::from_maybe_shared(value).map_err(|_| Malformed("a field value is malformed"))?;
        headers.append(name, value);
    }
    let phrase = phrase.map(|place| head.slice(place));
    Ok(Some((AnswerHead { status, headers, phrase }, version)))
}

/// Takes so many bytes from the beginning. All of them are moved: only a part makes the buffer one that is shared.
pub fn take(arrived: &mut BytesMut, length: usize) -> BytesMut {
    if length == arrived.len() { std::mem::take(arrived) } else { arrived.split_to(length) }
}

/// How the body of an answer ends (RFC 9112 6.3). What the fields say twice is said once afterwards.
///
/// # Errors
/// When the fields contradict each other.
pub fn answer_framing(head: &mut AnswerHead, version: Version, method: &Method) -> Result<Decoder, Malformed> {
    let length = content_length(&mut head.headers)?;
    let codings = head.headers.get_all(header::TRANSFER_ENCODING).iter().count();
    let without = *method == Method::HEAD
        || head.status.is_informational()
        || matches!(head.status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
    if codings > 0 {
        let chunked = head.headers.get(header::TRANSFER_ENCODING).map(HeaderValue::as_bytes).unwrap_or_default();
        if codings > 1 || !chunked.eq_ignore_ascii_case(b"chunked") || version == Version::HTTP_10 {
            return Err(Malformed("its Transfer-Encoding is not `chunked`"));
        }
        if length.is_some() {
            return Err(Malformed("it has both Content-Length and Transfer-Encoding"));
        }
    }
    Ok(match length {
        _ if without => Decoder::Done,
        Some(length) => Decoder::length(length),
        None if codings > 0 => Decoder::chunked(),
        None => Decoder::Close,
    })
}

/// One length, written once.
fn content_length(headers: &mut HeaderMap) -> Result<Option<u64>, Malformed> {
    const BAD: Malformed = Malformed("its Content-Length is malformed");
    let mut length = None;
    let mut count = 0;
    for value in headers.get_all(header::CONTENT_LENGTH) {
        for number in value.to_str().map_err(|_| BAD)?.split(',') {
            let number = number.trim();
            if number.is_empty() || number.len() > 19 || !number.bytes().all(|byte| byte.is_ascii_digit()) {
                return Err(BAD);
            }
            let number: u64 = number.parse().map_err(|_| BAD)?;
            if length.is_some_and(|before| before != number) {
                return Err(BAD);
            }
            length = Some(number);
            count += 1;
        }
    }
    if let Some(length) = length.filter(|_| count > 1) {
        headers.insert(header::CONTENT_LENGTH, HeaderValue::from(length));
    }
    Ok(length)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_the_same_after_a_round() {
        let text = "POST /api/chat?x=1 HTTP/1.1\r\nHost: a.test\r\nX-Empty:\r\nX-Two: a\r\nX-Two:  b \r\n\r\n";
        let parts = request(&Bytes::from_static(text.as_bytes())).unwrap();
        assert_eq!((&parts.method, parts.version), (&Method::POST, Version::HTTP_11));
        let mut out = BytesMut::new();
        write_request(&mut out, &parts.method, parts.uri.path_and_query().unwrap().as_str(), &parts.headers);
        assert_eq!(out, "POST /api/chat?x=1 HTTP/1.1\r\nHost: a.test\r\nX-Empty: \r\nX-Two: a\r\nX-Two: b\r\n\r\n");
    }

    #[test]
    fn an_answer_is_taken_at_every_split() {
        let text = b"HTTP/1.1 299 Odd\r\ncontent-type: a\r\nX-Empty:\r\nContent-Length: 2\r\n\r\nok";
        for cut in 0..text.len() - 3 {
            let mut arrived = BytesMut::from(&text[..cut]);
            assert!(take_answer(&mut arrived).unwrap().is_none(), "{cut}");
            arrived.extend_from_slice(&text[cut..]);
            let (mut head, version) = take_answer(&mut arrived).unwrap().unwrap();
            assert_eq!((head.status.as_u16(), &arrived[..]), (299, &b"ok"[..]));
            assert!(matches!(answer_framing(&mut head, version, &Method::GET), Ok(Decoder::Length(2))));
            let mut out = BytesMut::new();
            write_answer(&mut out, version, &head);
            assert_eq!(out, "HTTP/1.1 299 Odd\r\nContent-Type: a\r\nX-Empty: \r\nContent-Length: 2\r\n\r\n");
        }
    }

    fn framing(fields: &str, method: &Method) -> Result<(Decoder, HeaderMap), Malformed> {
        let mut arrived = BytesMut::from(format!("HTTP/1.1 200 OK\r\n{fields}\r\n").as_bytes());
        let (mut head, version) = take_answer(&mut arrived)?.ok_or(Malformed("incomplete"))?;
        answer_framing(&mut head, version, method).map(|decoder| (decoder, head.headers))
    }

    #[test]
    fn contradictions_are_refused() {
        for fields in [
            "Content-Length: 1\r\nContent-Length: 2\r\n",
            "Content-Length: 1, 2\r\n",
            "Content-Length: -1\r\n",
            "Content-Length: \r\n",
            "Content-Length: 1\r\nTransfer-Encoding: chunked\r\n",
            "Transfer-Encoding: gzip\r\n",
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
        ] {
            assert!(framing(fields, &Method::GET).is_err(), "{fields:?}");
        }
        let (decoder, headers) = framing("Content-Length: 7, 7\r\nContent-Length: 7\r\n", &Method::GET).unwrap();
        assert!(matches!(decoder, Decoder::Length(7)));
        assert_eq!(headers.get_all("content-length").iter().collect::<Vec<_>>(), ["7"]);
    }

    #[test]
    fn answers_to_head_have_no_body() {
        assert!(matches!(framing("Content-Length: 7\r\n", &Method::HEAD), Ok((Decoder::Done, _))));
        assert!(matches!(framing("", &Method::GET), Ok((Decoder::Close, _))));
        assert!(matches!(framing("Content-Length: 0\r\n", &Method::GET), Ok((Decoder::Done, _))));
    }

    #[test]
    fn what_is_too_large_or_not_http_is_refused() {
        let huge = format!("HTTP/1.1 200 OK\r\nX: {}", "a".repeat(70_000));
        let many = format!("HTTP/1.1 200 OK\r\n{}\r\n", "X: a\r\n".repeat(300));
        for text in [
            huge.as_str(),
            &many,
            "\u{16}\u{3}\u{1} no HTTP\r\n\r\n",
            "HTTP/1.1 OK\r\n\r\n",
            "HTTP/1.1 200 OK\r\nno colon\r\n\r\n",
        ] {
            assert!(take_answer(&mut BytesMut::from(text)).is_err(), "{}", &text[..20]);
        }
    }
}
