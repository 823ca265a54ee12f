//! What a route does itself or changes in passing, compiled: answers, redirects, files, fields, error pages.
//!
//! Everything here is ready to serve: templates are taken apart, error pages are read. An answer is a plain value; the
//! proxy writes it.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, header};

use super::snapshot::Upstream;
use crate::config::types::{Coding, RequestEncoding};
use crate::routing::glob::Glob;
use crate::routing::{Facts, HeaderRules, Rewrite, Template};

/// Who answers.
pub enum Target {
    /// The servers of an upstream.
    Upstream(Arc<Upstream>),
    /// A fixed text.
    Respond(Respond),
    /// Whoever the client is sent to.
    Redirect(Redirect),
    /// Files from a folder.
    Files(Files),
}

/// What a route changes on the way, whoever answers.
pub struct Content {
    /// Another path.
    pub rewrite: Option<Rewrite>,
    /// Fields of the request, before a server gets it.
    pub request: HeaderRules,
    /// Fields of the answer, errors and own answers included.
    pub response: HeaderRules,
    /// Bodies of errors.
    pub error_pages: ErrorPages,
    /// Codings to choose from for the answer; empty for none.
    pub compress: Vec<Coding>,
    /// What becomes of a compressed request body; `None` passes it on.
    pub request_encoding: Option<RequestEncoding>,
}

/// An answer that arises here, without the fields that every answer gets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// Status.
    pub status: u16,
    /// Its own fields, Content-Type among them.
    pub headers: HeaderMap,
    /// Body; not sent for HEAD.
    pub body: Bytes,
}

/// A fixed answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Respond {
    /// Status.
    pub status: u16,
    /// Content-Type.
    pub content_type: HeaderValue,
    /// More fields.
    pub headers: Vec<(HeaderName, Template)>,
    /// Body.
    pub body: Bytes,
}

impl Respond {
    /// The answer to one request.
    #[must_use]
    pub fn answer(&self, facts: &Facts<'_>) -> Answer {
        let mut headers = HeaderMap::with_capacity(self.headers.len() + 1);
        if !self.body.is_empty() {
            headers.insert(header::CONTENT_TYPE, self.content_type.clone());
        }
        for (name, template) in &self.headers {
            if let Some(value) = template.render(facts) {
                headers.insert(name.clone(), value);
            }
        }
        Answer { status: self.status, headers, body: self.body.clone() }
    }
}

/// A redirect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Redirect {
    /// Status.
    pub status: u16,
    /// Where to.
    pub to: Template,
}

impl Redirect {
    /// The answer to one request; `None` when what it asks for makes no URI, which is a bad request.
    #[must_use]
    pub fn answer(&self, facts: &Facts<'_>) -> Option<Answer> {
        let headers = HeaderMap::from_iter([(header::LOCATION, self.to.render_uri(facts)?)]);
        Some(Answer { status: self.status, headers, body: Bytes::new() })
    }
}

/// Static files.
#[derive(Clone, Debug)]
pub struct Files {
    /// Folder.
    pub root: PathBuf,
    /// File that answers for a folder.
    pub index: String,
    /// Path below `root` of the file that answers for what is not there.
    pub fallback: Option<String>,
    /// Cache-Control of what is not immutable.
    pub cache_control: Option<HeaderValue>,
    /// Globs of paths whose content never changes.
    pub immutable: Vec<Glob>,
}

/// The Content-Type of a file, by the ending of its name.
#[must_use]
pub fn content_type(file: &Path) -> HeaderValue {
    let guess = mime_guess::from_path(file).first_raw().unwrap_or("application/octet-stream");
    if guess.starts_with("text/") {
        return HeaderValue::try_from(format!("{guess}; charset=utf-8"))
            .unwrap_or(HeaderValue::from_static("text/plain"));
    }
    HeaderValue::from_static(guess)
}

/// The body of an error.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page {
    /// Content-Type, by the ending of the file's name.
    pub content_type: HeaderValue,
    /// The file's bytes.
    pub body: Bytes,
}

/// Bodies of errors by status.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ErrorPages {
    /// By the status itself.
    pub exact: Vec<(u16, Page)>,
    /// For what is left of 400 to 499.
    pub client: Option<Page>,
    /// For what is left of 500 to 599.
    pub server: Option<Page>,
    /// Whether errors of the servers get them too.
    pub intercept: bool,
}

impl ErrorPages {
    /// The body for an error that arose here, or that a server sent (`of_server`). `None` leaves the answer as it is.
    #[must_use]
    pub fn page(&self, status: u16, of_server: bool) -> Option<&Page> {
        if of_server && !self.intercept {
            return None;
        }
        let class = match status {
            400..=499 => &self.client,
            500..=599 => &self.server,
            _ => return None,
        };
        self.exact.iter().find(|(exact, _)| *exact == status).map(|(_, page)| page).or(class.as_ref())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(text: &'static str) -> Page {
        Page { content_type: HeaderValue::from_static("text/html"), body: Bytes::from_static(text.as_bytes()) }
    }

    #[test]
    fn the_exact_status_comes_before_its_class() {
        let pages =
            ErrorPages { exact: vec![(404, page("404"))], client: Some(page("4xx")), server: None, intercept: false };
        let body = |status, of_server| pages.page(status, of_server).map(|page| page.body.clone());
        assert_eq!(body(404, false).as_deref(), Some(b"404".as_slice()));
        assert_eq!(body(403, false).as_deref(), Some(b"4xx".as_slice()));
        assert_eq!(body(500, false), None);
        assert_eq!(body(404, true), None);
        assert_eq!(body(200, false), None);
        let pages = ErrorPages { intercept: true, ..pages };
        assert!(pages.page(404, true).is_some());
    }
}
