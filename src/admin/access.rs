//! Who may do what on the admin listener.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::{HeaderMap, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use super::AdminAddress;
use super::problem::Problem;

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
        let foreign = headers.get("sec-fetch-site").is_some_and(|site| site != "same-origin" && site != "none");
        if foreign || headers.contains_key(header::ORIGIN) {
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
}
