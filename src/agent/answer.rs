//! What each path of the agent says.

use std::net::IpAddr;

use bytes::Bytes;
use http::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, HOST, WWW_AUTHENTICATE};
use http::uri::Authority;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Response, StatusCode};
use http_body_util::Full;
use serde::Serialize;

use super::{Token, page, report_of};
use crate::clock;
use crate::nvml::{Look, Watcher};
use crate::policy::gpu::reading::Unread;

/// An answer, in memory as a whole.
pub type Answer = Response<Full<Bytes>>;

/// What the answers are made of.
pub struct Answers {
    token: Option<Token>,
    watcher: Watcher,
}

/// An error as RFC 9457 has it.
#[derive(Serialize)]
struct Problem<'a> {
    title: &'a str,
    status: u16,
    detail: &'a str,
}

/// How the agent is.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Health<'a> {
    /// `ok`, or `unread`.
    status: &'static str,
    /// Why there is no reading.
    #[serde(skip_serializing_if = "Option::is_none")]
    unread: Option<Unread>,
    /// The same for people.
    #[serde(skip_serializing_if = "Option::is_none")]
    detail: Option<&'a str>,
    /// Cards that were read.
    cards: usize,
}

impl Answers {
    /// Answers out of what the watcher knows, to those that have the token where there is one.
    pub fn new(token: Option<Token>, watcher: Watcher) -> Self {
        Self { token, watcher }
    }

    /// The answer to a request.
    pub fn answer(&self, method: &Method, path: &str, headers: &HeaderMap) -> Answer {
        answer(self.token.as_ref(), &|| self.watcher.look(clock::now()), method, path, headers)
    }
}

fn answer(token: Option<&Token>, look: &dyn Fn() -> Look, method: &Method, path: &str, headers: &HeaderMap) -> Answer {
    if method != Method::GET {
        let answer = problem(StatusCode::METHOD_NOT_ALLOWED, "nothing can be changed here: only GET is answered");
        return with(answer, ALLOW, "GET");
    }
    // It says nothing about the cards, so that a health check needs no secret.
    if path == "/health" {
        return health(&look());
    }
    if token.is_none() && !is_local(headers) {
        let detail = "this host name is not served here: without a token only the host itself may ask, as `localhost`";
        return problem(StatusCode::MISDIRECTED_REQUEST, detail);
    }
    if token.is_some_and(|token| !token.is_in(headers)) {
        let detail = "a token is needed: send `Authorization: Bearer TOKEN` with the one of the agent's `--token-file`";
        return with(problem(StatusCode::UNAUTHORIZED, detail), WWW_AUTHENTICATE, "Bearer");
    }
    match path {
        "/v1/gpus" => json(StatusCode::OK, "application/json", &report_of(&look())),
        "/metrics" => {
            let content_type = "application/openmetrics-text; version=1.0.0; charset=utf-8";
            whole(StatusCode::OK, content_type, page::of(&look()))
        }
        _ => problem(StatusCode::NOT_FOUND, "there are /v1/gpus, /metrics and /health"),
    }
}

/// Whether the request was sent to this host by a name of its own. A web page may have a name of its own point here (DNS
/// rebinding), and would read what the browser's host may read.
fn is_local(headers: &HeaderMap) -> bool {
    let host = headers.get(HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
    let Ok(authority) = host.parse::<Authority>() else { return false };
    let name = authority.host().trim_matches(['[', ']']);
    name.eq_ignore_ascii_case("localhost") || name.parse::<IpAddr>().is_ok_and(|ip| ip.to_canonical().is_loopback())
}

fn health(look: &Look) -> Answer {
    let unread = look.reading.as_ref().err().copied();
    let (code, status) = match unread {
        None => (StatusCode::OK, "ok"),
        Some(_) => (StatusCode::SERVICE_UNAVAILABLE, "unread"),
    };
    let cards = look.reading.as_ref().map_or(0, |reading| reading.cards.len());
    json(code, "application/json", &Health { status, unread, detail: look.detail.as_deref(), cards })
}

fn problem(status: StatusCode, detail: &str) -> Answer {
    let title = status.canonical_reason().unwrap_or_default();
    json(status, "application/problem+json", &Problem { title, status: status.as_u16(), detail })
}

fn json(status: StatusCode, content_type: &'static str, value: &impl Serialize) -> Answer {
    match serde_json::to_string(value) {
        Ok(text) => whole(status, content_type, text),
        Err(error) => whole(StatusCode::INTERNAL_SERVER_ERROR, "text/plain; charset=utf-8", error.to_string()),
    }
}

fn whole(status: StatusCode, content_type: &'static str, text: String) -> Answer {
    let mut answer = Response::new(Full::new(Bytes::from(text)));
    *answer.status_mut() = status;
    with(with(answer, CONTENT_TYPE, content_type), CACHE_CONTROL, "no-store")
}

fn with(mut answer: Answer, name: HeaderName, value: &'static str) -> Answer {
    answer.headers_mut().insert(name, HeaderValue::from_static(value));
    answer
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use super::*;
    use crate::policy::gpu::reading::Reading;

    fn look(reading: Result<Reading, Unread>) -> Look {
        Look { reading: reading.map(Arc::new), age: Duration::ZERO, at: 7, detail: None }
    }

    fn status(token: Option<&Token>, method: &Method, path: &str, known: &Look) -> u16 {
        let headers = HeaderMap::from_iter([(HOST, HeaderValue::from_static("localhost:9845"))]);
        answer(token, &|| known.clone(), method, path, &headers).status().as_u16()
    }

    #[test]
    fn each_path_has_its_answer_and_only_health_needs_no_token() {
        let token = Token::find(None, &|_| Some("0123456789abcdef".to_owned())).expect("good").expect("a token");
        let good = look(Ok(Reading::default()));
        for (path, open, closed) in
            [("/v1/gpus", 200, 401), ("/metrics", 200, 401), ("/health", 200, 200), ("/", 404, 401)]
        {
            assert_eq!(status(None, &Method::GET, path, &good), open, "{path}");
            assert_eq!(status(Some(&token), &Method::GET, path, &good), closed, "{path}");
            for method in [Method::POST, Method::HEAD, Method::DELETE, Method::OPTIONS] {
                assert_eq!(status(None, &method, path, &good), 405, "{method} {path}");
            }
        }
    }

    #[test]
    fn without_a_reading_health_fails_and_the_report_says_why() {
        let bad = look(Err(Unread::DriverDown));
        assert_eq!(status(None, &Method::GET, "/health", &bad), 503);
        assert_eq!(status(None, &Method::GET, "/v1/gpus", &bad), 200);
        assert_eq!(report_of(&bad).outcome(), Err(Unread::DriverDown));
    }
}
