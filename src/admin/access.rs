//! Who may do what on the admin listener, and the record of what they did.
//!
//! Every request passes here first: the host name it came by (DNS rebinding), the page it came from (CSRF), its token and
//! the scope that its call needs. Whatever is not a read leaves a line in the log and in the audit, done or refused.

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

/// The field that a page of ours sends with a change: no form and no foreign page can set it.
const OURS: &str = "x-arriero-request";

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
        if !is_read(method) && is_foreign(headers) {
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

/// Whether a web page sends this that is none of ours. Ours has the same origin and says so.
pub fn is_foreign(headers: &HeaderMap) -> bool {
    let site = headers.get("sec-fetch-site").map(|site| site.as_bytes());
    let ours = headers.contains_key(OURS);
    if site.is_some_and(|site| !matches!(site, b"none") && !(ours && site == b"same-origin")) {
        return true;
    }
    if !headers.contains_key(header::ORIGIN) {
        return false;
    }
    let origin = text(headers, header::ORIGIN);
    let authority = origin.split_once("://").map_or("", |(_, authority)| authority);
    !ours || authority.is_empty() || authority != text(headers, header::HOST)
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
    fn changes_come_from_no_page_but_ours() {
        let post = |fields: &[(&'static str, &'static str)]| {
            let fields: Vec<_> = std::iter::once(HOST).chain(fields.iter().copied()).collect();
            outcome(LOOPBACK, false, Method::POST, DRAIN, &fields)
        };
        let (own, ours) = (("origin", "http://127.0.0.1:5100"), (OURS, "dashboard"));
        assert_eq!(post(&[("origin", "http://evil.test"), ours]), 403);
        assert_eq!(post(&[("origin", "http://127.0.0.1:8080"), ours]), 403);
        assert_eq!(post(&[("origin", "null"), ours]), 403);
        assert_eq!(post(&[("sec-fetch-site", "cross-site"), ours]), 403);
        assert_eq!(post(&[("sec-fetch-site", "same-site"), own, ours]), 403);
        assert_eq!(post(&[("sec-fetch-site", "same-origin"), own]), 403, "a form of a page of ours, which has none");
        assert_eq!(post(&[("sec-fetch-site", "same-origin"), own, ours]), 200);
        assert_eq!(post(&[("sec-fetch-site", "none")]), 200);
    }
}
