//! The dashboard: one page, complete in itself, that shows the fleet and takes an operator's orders.
//!
//! # Shape
//! Its sources are plain HTML, CSS and JavaScript beside this file. They are put together once, when the first reader comes:
//! there is no build step, and nothing is fetched from anywhere else. The page reads [`super::overview`] and gives orders
//! through the same paths as everybody; it can do nothing that `curl` could not.
//!
//! # Invariants
//! - Names of models and servers come from strangers. The page sets text as text, and the policy below forbids any script and
//!   style but these very ones, and any way for a text to become one.

use std::fmt::Write;
use std::sync::{Arc, LazyLock};

use axum::Router;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use sha2::{Digest, Sha256};

use super::State;

const PAGE: &str = include_str!("page.html");
const STYLES: [&str; 2] = [include_str!("style/base.css"), include_str!("style/parts.css")];

/// In this order they are one script: later files use what earlier ones define.
const SCRIPTS: [&str; 15] = [
    include_str!("script/dom.js"),
    include_str!("script/format.js"),
    include_str!("script/api.js"),
    include_str!("script/dialogs.js"),
    include_str!("script/actions.js"),
    include_str!("script/tables.js"),
    include_str!("script/charts.js"),
    include_str!("script/fleet.js"),
    include_str!("script/work.js"),
    include_str!("script/protection.js"),
    include_str!("script/quotas.js"),
    include_str!("script/caches.js"),
    include_str!("script/cluster.js"),
    include_str!("script/config.js"),
    include_str!("script/main.js"),
];

/// The page as it is sent.
static WHOLE: LazyLock<Page> = LazyLock::new(Page::build);

struct Page {
    html: Bytes,
    tag: String,
    policy: String,
}

impl Page {
    fn build() -> Self {
        let (style, script) = (STYLES.concat(), SCRIPTS.concat());
        let html = PAGE.replacen("/*STYLE*/", &style, 1).replacen("/*SCRIPT*/", &script, 1);
        let hash = |text: &str| STANDARD.encode(Sha256::digest(text.as_bytes()));
        let policy = format!(
            "default-src 'none'; script-src 'sha256-{}'; style-src 'sha256-{}'; connect-src 'self'; img-src data:; \
             base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; \
             trusted-types 'none'",
            hash(&script),
            hash(&style),
        );
        let mut tag = String::from("\"");
        for byte in &Sha256::digest(html.as_bytes())[..12] {
            // Writing to a String cannot fail.
            let _ = write!(tag, "{byte:02x}");
        }
        tag.push('"');
        Self { html: Bytes::from(html), tag, policy }
    }
}

/// The path of the page.
pub fn routes() -> Router<Arc<State>> {
    Router::new().route("/", get(page))
}

async fn page(headers: HeaderMap) -> Response {
    let page = &*WHOLE;
    let known = headers.get_all(header::IF_NONE_MATCH).iter().any(|tags| {
        let mut tags = tags.to_str().unwrap_or_default().split(',').map(|tag| tag.trim().trim_start_matches("W/"));
        tags.any(|tag| tag == page.tag)
    });
    let mut answer = if known { StatusCode::NOT_MODIFIED.into_response() } else { page.html.clone().into_response() };
    for (name, value) in [
        (header::CONTENT_TYPE, "text/html; charset=utf-8"),
        (header::CACHE_CONTROL, "no-cache"),
        (header::ETAG, &page.tag),
        (header::CONTENT_SECURITY_POLICY, &page.policy),
        (header::X_FRAME_OPTIONS, "DENY"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
        (header::HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
        (header::HeaderName::from_static("permissions-policy"), "camera=(), geolocation=(), microphone=()"),
    ] {
        // Tag and policy are hexadecimal, base64 and constants.
        if let Ok(value) = HeaderValue::from_str(value) {
            answer.headers_mut().insert(name, value);
        }
    }
    answer
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_is_complete_in_itself() {
        let html = std::str::from_utf8(&WHOLE.html).expect("UTF-8");
        for left in
            ["/*STYLE*/", "/*SCRIPT*/", " src=", "@import", "url(", "http://", "https://", " style=\"", " onclick="]
        {
            let found = html.find(left).map(|at| &html[at.saturating_sub(60)..at]);
            // The namespace of SVG is a name, not an address that is fetched.
            let left_over = html.replace("http://www.w3.org/2000/svg", "");
            assert!(!left_over.contains(left), "`{left}` after {found:?}");
        }
    }

    #[test]
    fn text_is_never_set_as_markup() {
        for script in SCRIPTS {
            for word in ["innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "new Function"] {
                assert!(!script.contains(word), "{word}");
            }
        }
    }

    #[test]
    fn sources_stay_readable() {
        for source in SCRIPTS.iter().chain(&STYLES) {
            assert!(source.lines().count() <= 500 && source.lines().all(|line| line.chars().count() <= 140));
        }
    }
}
