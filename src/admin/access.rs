//! Who may do what on the admin listener, and the record of what they did.
//!
//! Every request passes here first: the host name it came by (DNS rebinding), the page it came from (CSRF), its token and
//! the scope that its call needs. Whatever is not a read leaves a line in the log and in the audit, done or refused.
//!
//! A change may come from a web page only if it is ours, the dashboard: its origin is the very host that the request was sent
//! to, and it says by a field of its own that it is meant. No page of another origin can send that field without asking
//! first, and such a question is refused.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::{HeaderMap, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use super::AdminAddress;
use super::problem::Problem;
use crate::clock;
use crate::fleet::admin_access::{AdminAccess, Caller};
use crate::fleet::store::Store;
use crate::history::{Audit, History};
use crate::policy::admin_access::needed;

/// The field by which the dashboard says that a change is meant, and what it says.
const REQUESTED_BY: (&str, &str) = ("x-arriero-request", "dashboard");
/// Where the page is from that made a request, as browsers say it.
const FETCH_SITE: &str = "sec-fetch-site";

/// What requests are checked against.
pub struct Guard {
    /// What runs; its configuration names the tokens.
    pub store: Arc<Store>,
    /// Keeps the audit.
    pub history: Arc<History>,
    /// Where we listen.
    pub own: AdminAddress,
}

/// What a change was about, for the audit; handlers add it to their answers.
#[derive(Clone, Debug)]
pub struct Detail(pub String);

/// Refuses what a web page could do behind its reader's back, and what the caller may not do; notes what was done.
pub async fn check(State(guard): State<Arc<Guard>>, mut request: Request, next: Next) -> Response {
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let access = Arc::clone(&guard.store.load().admin);
    let entry = Entry { own: &guard.own, access: &access };
    let (caller, response) = match entry.judge(&method, &path, request.headers()) {
        Ok(caller) => {
            request.extensions_mut().insert(caller.clone());
            (Some(caller), next.run(request).await)
        }
        Err((caller, problem)) => (caller, problem.into_response()),
    };
    if !is_read(&method) {
        let status = response.status();
        let detail = response.extensions().get::<Detail>().map(|detail| detail.0.clone()).unwrap_or_default();
        let (who, scope) = caller.map_or_else(Default::default, |one| (one.name, one.scope.as_str().to_owned()));
        let (method_name, code) = (method.as_str(), status.as_u16());
        tracing::info!(who, scope, method = method_name, path, status = code, detail, "audit");
        guard.history.audit(Audit {
            at: clock::unix_time().as_secs_f64(),
            who,
            scope,
            method: method.as_str().to_owned(),
            path,
            status: status.as_u16(),
            detail,
        });
    }
    response
}

fn is_read(method: &Method) -> bool {
    matches!(*method, Method::GET | Method::HEAD)
}

/// The way in.
struct Entry<'a> {
    own: &'a AdminAddress,
    access: &'a AdminAccess,
}

type Refusal = (Option<Caller>, Problem);

impl Entry<'_> {
    fn judge(&self, method: &Method, path: &str, headers: &HeaderMap) -> Result<Caller, Refusal> {
        let refuse = |status, message: String| Err((None, Problem::new(status, message)));
        if !self.knows_host(headers) {
            // A page that points its own name at 127.0.0.1 (DNS rebinding) sends that name here.
            return refuse(StatusCode::MISDIRECTED_REQUEST, "this host name is not served here".to_owned());
        }
        if !is_read(method) && is_by_page(headers) && !is_ours(headers) {
            return refuse(StatusCode::FORBIDDEN, "changes are not taken from web pages of others".to_owned());
        }
        let Some(caller) = self.access.caller(token(headers), self.is_local()) else {
            return refuse(StatusCode::UNAUTHORIZED, "a valid token is needed".to_owned());
        };
        let needed = needed(is_read(method), path);
        if caller.scope >= needed {
            return Ok(caller);
        }
        let has_token = headers.contains_key(header::AUTHORIZATION);
        let (status, message) = match (has_token, self.access.has_tokens()) {
            (true, _) => {
                let (scope, needed) = (caller.scope.as_str(), needed.as_str());
                let message = format!("this needs the scope `{needed}`; the token `{}` has `{scope}`", caller.name);
                (StatusCode::FORBIDDEN, message)
            }
            (false, true) => {
                (StatusCode::UNAUTHORIZED, format!("a token with the scope `{}` is needed", needed.as_str()))
            }
            (false, false) => {
                let message =
                    "this needs `admin.token_file` or `admin.tokens` where the admin listener is not on loopback";
                (StatusCode::FORBIDDEN, message.to_owned())
            }
        };
        Err((Some(caller), Problem::new(status, message)))
    }

    fn is_local(&self) -> bool {
        match self.own {
            AdminAddress::Tcp(own) => own.ip().is_loopback(),
            AdminAddress::Unix(_) => true,
        }
    }

    fn knows_host(&self, headers: &HeaderMap) -> bool {
        let AdminAddress::Tcp(own) = self.own else { return true };
        if !own.ip().is_loopback() {
            return true;
        }
        let host = text(headers, header::HOST);
        let name = host.rsplit_once(':').map_or(host, |(name, port)| if port.contains(']') { host } else { name });
        matches!(name, "localhost" | "127.0.0.1" | "[::1]") || name == own.ip().to_string()
    }
}

fn text(headers: &HeaderMap, name: header::HeaderName) -> &str {
    headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
}

fn token(headers: &HeaderMap) -> Option<&[u8]> {
    let value = headers.get(header::AUTHORIZATION)?.as_bytes();
    Some(value.strip_prefix(b"Bearer ").unwrap_or_default())
}

/// Whether a web page of another origin made the request.
pub fn is_foreign(headers: &HeaderMap) -> bool {
    headers.get(FETCH_SITE).is_some_and(|site| site != "same-origin" && site != "none")
}

/// Whether a web page made the request.
fn is_by_page(headers: &HeaderMap) -> bool {
    headers.contains_key(header::ORIGIN) || headers.contains_key(FETCH_SITE)
}

/// Whether a request that a web page made comes from the page that is served here, and is meant.
fn is_ours(headers: &HeaderMap) -> bool {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let Some(origin) = text("origin") else { return false };
    // Something in front of us may speak TLS.
    let origin = origin.strip_prefix("http://").or_else(|| origin.strip_prefix("https://"));
    let same = origin.is_some() && origin == text("host");
    same && !is_foreign(headers) && text(REQUESTED_BY.0) == Some(REQUESTED_BY.1)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;
    use crate::config::types::{Admin, AdminScope, AdminToken};

    /// Files with the tokens `t` (everything), `r` (read) and `o` (operate), as far as there are to be tokens.
    fn access(tokens: bool) -> AdminAccess {
        let file = |text: &str| {
            let mut file = tempfile::NamedTempFile::new().unwrap();
            writeln!(file, "{text}").unwrap();
            file
        };
        let files = [file("t"), file("r"), file("o")];
        let path = |number: usize| files[number].path().display().to_string();
        let admin = if tokens {
            let named = [("reader", 1, AdminScope::Read), ("operator", 2, AdminScope::Operate)];
            let named =
                named.map(|(name, file, scope)| AdminToken { name: name.to_owned(), token_file: path(file), scope });
            Admin { token_file: Some(path(0)), tokens: named.into(), ..Admin::default() }
        } else {
            Admin::default()
        };
        AdminAccess::open(&admin).unwrap()
    }

    fn outcome(own: &str, tokens: bool, method: Method, path: &str, fields: &[(&'static str, &'static str)]) -> u16 {
        let own = AdminAddress::Tcp(own.parse().unwrap());
        let headers: HeaderMap = fields
            .iter()
            .map(|(name, value)| (header::HeaderName::from_static(name), header::HeaderValue::from_static(value)))
            .collect();
        match (Entry { own: &own, access: &access(tokens) }).judge(&method, path, &headers) {
            Ok(_) => 200,
            Err((_, problem)) => problem.into_response().status().as_u16(),
        }
    }

    const LOOPBACK: &str = "127.0.0.1:5100";
    const HOST: (&str, &str) = ("host", "127.0.0.1:5100");
    const OWN: (&str, &str) = ("origin", "http://127.0.0.1:5100");
    const MEANT: (&str, &str) = ("x-arriero-request", "dashboard");
    const DRAIN: &str = "/api/orchestrator/servers/a/drain";
    const CONFIG: &str = "/api/orchestrator/config";

    #[test]
    fn reads_need_only_a_host_of_ours() {
        for (host, status) in [("localhost:5100", 200), ("[::1]:5100", 200), ("evil.test", 421)] {
            assert_eq!(outcome(LOOPBACK, true, Method::GET, CONFIG, &[("host", host)]), status, "{host}");
        }
        assert_eq!(outcome(LOOPBACK, true, Method::GET, CONFIG, &[]), 421);
    }

    #[test]
    fn from_outside_nothing_but_health_is_there_without_a_token() {
        let outside = "192.0.2.1:5100";
        for method in [Method::POST, Method::PATCH, Method::DELETE, Method::PUT] {
            assert_eq!(outcome(outside, false, method.clone(), DRAIN, &[]), 403);
            assert_eq!(outcome(outside, true, method, DRAIN, &[]), 401);
        }
        assert_eq!(outcome(outside, true, Method::GET, CONFIG, &[]), 401);
        assert_eq!(outcome(outside, true, Method::GET, "/health", &[]), 200);
        assert_eq!(outcome(outside, true, Method::GET, CONFIG, &[("authorization", "Bearer r")]), 200);
    }

    #[test]
    fn changes_need_a_token_of_their_scope() {
        let with = |token| ("authorization", token);
        for (token, drain, config) in [
            ("Bearer x", 401, 401),
            ("Basic t", 401, 401),
            ("Bearer r", 403, 403),
            ("Bearer o", 200, 403),
            ("Bearer t", 200, 200),
        ] {
            assert_eq!(outcome(LOOPBACK, true, Method::POST, DRAIN, &[HOST, with(token)]), drain, "{token}");
            assert_eq!(outcome(LOOPBACK, true, Method::POST, CONFIG, &[HOST, with(token)]), config, "{token}");
        }
        assert_eq!(outcome(LOOPBACK, false, Method::POST, CONFIG, &[HOST]), 200);
        assert_eq!(outcome(LOOPBACK, true, Method::POST, CONFIG, &[HOST]), 401);
    }

    #[test]
    fn the_dashboard_may_change_what_its_reader_may_change() {
        let page = [HOST, OWN, ("sec-fetch-site", "same-origin"), MEANT];
        assert_eq!(outcome(LOOPBACK, false, Method::POST, DRAIN, &page), 200);
        // Browsers leave Sec-Fetch-Site out where the connection is not trusted.
        assert_eq!(outcome(LOOPBACK, false, Method::DELETE, DRAIN, &[HOST, OWN, MEANT]), 200);
        let over_tls = [HOST, ("origin", "https://127.0.0.1:5100"), MEANT];
        assert_eq!(outcome(LOOPBACK, false, Method::POST, DRAIN, &over_tls), 200);
        assert_eq!(outcome(LOOPBACK, true, Method::POST, DRAIN, &page), 401);
        let with_token = [&page[..], &[("authorization", "Bearer o")]].concat();
        assert_eq!(outcome(LOOPBACK, true, Method::POST, DRAIN, &with_token), 200);
    }

    #[test]
    fn what_is_not_quite_the_dashboard_changes_nothing() {
        let post = |fields: &[(&'static str, &'static str)]| {
            outcome(LOOPBACK, false, Method::POST, DRAIN, &[&[HOST], fields].concat())
        };
        let same = ("sec-fetch-site", "same-origin");
        for origin in
            ["http://127.0.0.1:3000", "http://127.0.0.1", "null", "", "http://evil.test", "ftp://127.0.0.1:5100"]
        {
            assert_eq!(post(&[("origin", origin), same, MEANT]), 403, "{origin}");
        }
        assert_eq!(post(&[OWN, same]), 403, "without the field");
        assert_eq!(post(&[OWN, same, ("x-arriero-request", "yes")]), 403);
        for site in ["same-site", "cross-site"] {
            assert_eq!(post(&[OWN, ("sec-fetch-site", site), MEANT]), 403, "{site}");
        }
        assert_eq!(post(&[same, MEANT]), 403, "without an origin");
        // What asks whether it might: a preflight.
        assert_eq!(outcome(LOOPBACK, false, Method::OPTIONS, DRAIN, &[HOST, ("origin", "http://evil.test")]), 403);
    }
}
