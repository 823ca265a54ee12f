//! Who may do what on the admin listener.
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

/// The field by which the dashboard says that a change is meant, and what it says.
const REQUESTED_BY: (&str, &str) = ("x-arriero-request", "dashboard");

/// What a request is checked against.
pub struct Guard {
    /// The token, where there is one.
    pub token: Option<String>,
    /// Where we listen.
    pub own: AdminAddress,
}

/// Refuses what a web page could do behind its reader's back, and changes without the token.
pub async fn check(State(guard): State<Arc<Guard>>, request: Request, next: Next) -> Response {
    match guard.objection(request.method(), request.headers()) {
        None => next.run(request).await,
        Some((status, message)) => Problem::new(status, message).into_response(),
    }
}

impl Guard {
    fn objection(&self, method: &Method, headers: &HeaderMap) -> Option<(StatusCode, &'static str)> {
        if !self.knows_host(headers) {
            // A page that points its own name at 127.0.0.1 (DNS rebinding) sends that name here.
            return Some((StatusCode::MISDIRECTED_REQUEST, "this host name is not served here"));
        }
        if matches!(*method, Method::GET | Method::HEAD) {
            return None;
        }
        let by_page = headers.contains_key(header::ORIGIN) || headers.contains_key(FETCH_SITE);
        if by_page && !is_ours(headers) {
            return Some((StatusCode::FORBIDDEN, "changes are not taken from web pages"));
        }
        let Some(token) = self.token.as_deref() else {
            // Such a configuration is refused; a name that resolves to another address later is not seen there.
            let open = matches!(&self.own, AdminAddress::Tcp(own) if !own.ip().is_loopback());
            let message = "changes need `admin.token_file` where the admin listener is not on loopback";
            return open.then_some((StatusCode::FORBIDDEN, message));
        };
        let given = headers
            .get(header::AUTHORIZATION)
            .and_then(|value| value.as_bytes().strip_prefix(b"Bearer "))
            .unwrap_or_default();
        if same(given, token.as_bytes()) { None } else { Some((StatusCode::UNAUTHORIZED, "a valid token is needed")) }
    }

    fn knows_host(&self, headers: &HeaderMap) -> bool {
        let AdminAddress::Tcp(own) = &self.own else { return true };
        if !own.ip().is_loopback() {
            return true;
        }
        let host = headers.get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
        let name = host.rsplit_once(':').map_or(host, |(name, port)| if port.contains(']') { host } else { name });
        matches!(name, "localhost" | "127.0.0.1" | "[::1]") || name == own.ip().to_string()
    }
}

/// Where the page is from that made a request, as browsers say it.
const FETCH_SITE: &str = "sec-fetch-site";

/// Whether a web page of another origin made the request.
pub fn is_foreign(headers: &HeaderMap) -> bool {
    headers.get(FETCH_SITE).is_some_and(|site| site != "same-origin" && site != "none")
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

/// Compares without telling by the time where the difference is.
fn same(one: &[u8], other: &[u8]) -> bool {
    one.len() == other.len() && one.iter().zip(other).fold(0, |difference, (a, b)| difference | (a ^ b)) == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn objection(token: Option<&str>, method: Method, fields: &[(&'static str, &'static str)]) -> Option<u16> {
        let own = AdminAddress::Tcp("127.0.0.1:5100".parse().unwrap());
        let guard = Guard { token: token.map(str::to_owned), own };
        let headers = fields
            .iter()
            .map(|(name, value)| (header::HeaderName::from_static(name), header::HeaderValue::from_static(value)))
            .collect();
        guard.objection(&method, &headers).map(|(status, _)| status.as_u16())
    }

    #[test]
    fn reads_need_only_a_host_of_ours() {
        assert_eq!(objection(Some("t"), Method::GET, &[("host", "localhost:5100")]), None);
        assert_eq!(objection(None, Method::GET, &[("host", "[::1]:5100")]), None);
        assert_eq!(objection(None, Method::GET, &[("host", "evil.test")]), Some(421));
        assert_eq!(objection(None, Method::GET, &[]), Some(421));
    }

    #[test]
    fn without_a_token_nobody_changes_anything_from_outside() {
        let own = AdminAddress::Tcp("192.0.2.1:5100".parse().unwrap());
        let guard = Guard { token: None, own };
        for method in [Method::POST, Method::PATCH, Method::DELETE, Method::PUT] {
            assert_eq!(guard.objection(&method, &HeaderMap::new()).unwrap().0, StatusCode::FORBIDDEN);
        }
        assert_eq!(guard.objection(&Method::GET, &HeaderMap::new()), None);
    }

    #[test]
    fn changes_need_the_token_and_no_web_page() {
        let host = ("host", "127.0.0.1:5100");
        assert_eq!(objection(None, Method::POST, &[host]), None);
        assert_eq!(objection(Some("t"), Method::POST, &[host]), Some(401));
        assert_eq!(objection(Some("t"), Method::POST, &[host, ("authorization", "Bearer x")]), Some(401));
        assert_eq!(objection(Some("t"), Method::POST, &[host, ("authorization", "Bearer t")]), None);
        assert_eq!(objection(None, Method::POST, &[host, ("origin", "http://evil.test")]), Some(403));
        assert_eq!(objection(None, Method::POST, &[host, ("sec-fetch-site", "cross-site")]), Some(403));
    }

    #[test]
    fn the_dashboard_may_change_what_its_reader_may_change() {
        let page = [
            ("host", "localhost:5100"),
            ("origin", "http://localhost:5100"),
            ("sec-fetch-site", "same-origin"),
            ("x-arriero-request", "dashboard"),
        ];
        assert_eq!(objection(None, Method::POST, &page), None);
        // Browsers leave Sec-Fetch-Site out where the connection is not trusted.
        assert_eq!(objection(None, Method::DELETE, &[page[0], page[1], page[3]]), None);
        assert_eq!(objection(None, Method::POST, &[page[0], ("origin", "https://localhost:5100"), page[3]]), None);
        assert_eq!(objection(Some("t"), Method::POST, &page), Some(401));
        let with_token = [&page[..], &[("authorization", "Bearer t")]].concat();
        assert_eq!(objection(Some("t"), Method::POST, &with_token), None);
    }

    #[test]
    fn what_is_not_quite_the_dashboard_changes_nothing() {
        let host = ("host", "localhost:5100");
        let (meant, same) = (("x-arriero-request", "dashboard"), ("sec-fetch-site", "same-origin"));
        for origin in
            ["http://localhost:3000", "http://localhost", "null", "", "http://evil.test", "ftp://localhost:5100"]
        {
            assert_eq!(objection(None, Method::POST, &[host, ("origin", origin), same, meant]), Some(403), "{origin}");
        }
        let own = ("origin", "http://localhost:5100");
        assert_eq!(objection(None, Method::POST, &[host, own, same]), Some(403), "without the field");
        assert_eq!(objection(None, Method::POST, &[host, own, same, ("x-arriero-request", "yes")]), Some(403));
        for site in ["same-site", "cross-site"] {
            assert_eq!(
                objection(None, Method::POST, &[host, own, ("sec-fetch-site", site), meant]),
                Some(403),
                "{site}"
            );
        }
        assert_eq!(objection(None, Method::POST, &[host, same, meant]), Some(403), "without an origin");
        // What asks whether it might: a preflight.
        assert_eq!(objection(None, Method::OPTIONS, &[host, ("origin", "http://evil.test")]), Some(403));
    }
}
