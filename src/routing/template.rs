//! Values with variables, such as `https://{host}{uri}`, for header fields and redirects.
//!
//! # Problem
//!
//! What a client sends ends up in a line of somebody else's header block. A value that can be made to hold a line
//! break is a way to write a second field, or a second answer.
//!
//! # How
//!
//! A text is taken apart once, when the configuration is compiled; a request only joins the parts. `{NAME}` is a
//! variable, `{{` a literal brace, and a `}` that closes nothing is itself. What comes out is either a value that may
//! stand in a header field or nothing at all: there is no way to get the bytes unchecked.
//!
//! # Invariants
//!
//! - A rendered value has no CR, LF, NUL or other control character but the tab.
//! - A variable that a request has no value for is empty, never a word of its own.

use std::net::IpAddr;

use bytes::{BufMut, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue};

/// Longest rendered value in bytes; a longer one is left out.
const MAX_RENDERED: usize = 16 << 10;

/// Names of the variables, for hints.
pub const VARIABLES: &[&str] = &[
    "host",
    "uri",
    "path",
    "query",
    "method",
    "scheme",
    "client_ip",
    "request_id",
    "route",
    "upstream",
    "server",
    "model",
    "status",
    "header:NAME",
];

/// What a request has for the variables.
#[derive(Clone, Copy, Debug)]
pub struct Facts<'a> {
    /// The host that was asked for, without its port.
    pub host: &'a str,
    /// The canonical path.
    pub path: &'a str,
    /// The query without its `?`.
    pub query: Option<&'a str>,
    /// The method.
    pub method: &'a str,
    /// `http` or `https`, as the client came.
    pub scheme: &'a str,
    /// The client's address.
    pub client_ip: Option<IpAddr>,
    /// The id of the request.
    pub request_id: &'a str,
    /// Name of the route.
    pub route: &'a str,
    /// Name of the upstream; empty where there is none.
    pub upstream: &'a str,
    /// Name of the server; empty before one is chosen.
    pub server: &'a str,
    /// Canonical name of the model; empty where there is none.
    pub model: &'a str,
    /// Status of the answer, once it is known.
    pub status: Option<u16>,
    /// The fields of the request as the client sent them.
    pub headers: &'a HeaderMap,
}

/// A text with its variables found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template {
    parts: Box<[Part]>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Text(Box<str>),
    Variable(Variable),
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Variable {
    Host,
    Uri,
    Path,
    Query,
    Method,
    Scheme,
    ClientIp,
    RequestId,
    Route,
    Upstream,
    Server,
    Model,
    Status,
    Header(HeaderName),
}

/// Why a text is no template.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TemplateError {
    /// A `{` that nothing closes.
    #[error("a `{{` is not closed")]
    Unclosed,
    /// There is no such variable.
    #[error("there is no variable `{0}`")]
    Unknown(String),
    /// `{header:…}` with something that no field can be called.
    #[error("`{0}` is not the name of a header field")]
    Field(String),
    /// A line break or another control character in the text itself.
    #[error("the value has a line break or another control character")]
    Control,
}

impl Template {
    /// Takes a text apart.
    ///
    /// # Errors
    /// The first thing that is wrong with it.
    pub fn parse(text: &str) -> Result<Self, TemplateError> {
        if text.chars().any(|letter| letter.is_control() && letter != '\t') {
            return Err(TemplateError::Control);
        }
        let mut parts = Vec::new();
        let mut literal = String::new();
        let mut rest = text;
        while let Some(at) = rest.find('{') {
            literal.push_str(&rest[..at]);
            rest = &rest[at + 1..];
            if let Some(after) = rest.strip_prefix('{') {
                literal.push('{');
                rest = after;
                continue;
            }
            let (name, after) = rest.split_once('}').ok_or(TemplateError::Unclosed)?;
            if !literal.is_empty() {
                parts.push(Part::Text(std::mem::take(&mut literal).into()));
            }
            parts.push(Part::Variable(Variable::named(name)?));
            rest = after;
        }
        literal.push_str(rest);
        if !literal.is_empty() {
            parts.push(Part::Text(literal.into()));
        }
        Ok(Self { parts: parts.into() })
    }

    /// The text that it begins with, before the first variable.
    #[must_use]
    pub fn prefix(&self) -> &str {
        match self.parts.first() {
            Some(Part::Text(text)) => text,
            _ => "",
        }
    }

    /// Whether it begins with the path of the request: `{uri}` or `{path}`.
    #[must_use]
    pub fn begins_with_path(&self) -> bool {
        matches!(self.parts.first(), Some(Part::Variable(Variable::Uri | Variable::Path)))
    }

    /// Whether it begins with `{scheme}`.
    #[must_use]
    pub fn begins_with_scheme(&self) -> bool {
        matches!(self.parts.first(), Some(Part::Variable(Variable::Scheme)))
    }

    /// The value for a header field, spaces around it removed. `None` when it is empty, too long, or would hold a
    /// line break or another control character: the field is then left out.
    #[must_use]
    pub fn render(&self, facts: &Facts<'_>) -> Option<HeaderValue> {
        let bytes = self.join(facts);
        let value = bytes.trim_ascii();
        if value.is_empty() || value.len() > MAX_RENDERED {
            return None;
        }
        // The one check that matters: no byte below 0x20 but the tab, no DEL.
        HeaderValue::from_bytes(value).ok()
    }

    /// The value for `Location`: like [`Template::render`], with everything percent-encoded that a URI may not hold.
    ///
    /// A value that begins with the path of a request cannot be made to name another host by a path such as `//host`.
    #[must_use]
    pub fn render_uri(&self, facts: &Facts<'_>) -> Option<HeaderValue> {
        let joined = self.join(facts);
        let mut text = joined.trim_ascii();
        if self.begins_with_path() {
            while matches!(text, [b'/', b'/' | b'\\', ..]) {
                text = &text[1..];
                if let [b'\\', rest @ ..] = text {
                    text = rest;
                }
            }
        }
        let mut encoded = Vec::with_capacity(text.len() + 16);
        for byte in text {
            if byte.is_ascii_graphic() && !b"\"<>\\^`{|}".contains(byte) {
                encoded.push(*byte);
            } else {
                encoded.extend_from_slice(&[b'%', HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]]);
            }
        }
        if self.begins_with_path() && encoded.first() != Some(&b'/') {
            encoded.insert(0, b'/');
        }
        if encoded.is_empty() || encoded.len() > MAX_RENDERED {
            return None;
        }
        HeaderValue::from_bytes(&encoded).ok()
    }

    fn join(&self, facts: &Facts<'_>) -> BytesMut {
        let mut out = BytesMut::with_capacity(64);
        for part in &self.parts {
            match part {
                Part::Text(text) => out.put_slice(text.as_bytes()),
                Part::Variable(variable) => variable.write(facts, &mut out),
            }
        }
        out
    }
}

const HEX: &[u8; 16] = b"0123456789ABCDEF";

impl Variable {
    fn named(name: &str) -> Result<Self, TemplateError> {
        if let Some(field) = name.strip_prefix("header:") {
            let field = HeaderName::from_bytes(field.as_bytes());
            return field.map(Self::Header).map_err(|_| TemplateError::Field(name["header:".len()..].to_owned()));
        }
        Ok(match name {
            "host" => Self::Host,
            "uri" => Self::Uri,
            "path" => Self::Path,
            "query" => Self::Query,
            "method" => Self::Method,
            "scheme" => Self::Scheme,
            "client_ip" => Self::ClientIp,
            "request_id" => Self::RequestId,
            "route" => Self::Route,
            "upstream" => Self::Upstream,
            "server" => Self::Server,
            "model" => Self::Model,
            "status" => Self::Status,
            _ => return Err(TemplateError::Unknown(name.to_owned())),
        })
    }

    fn write(&self, facts: &Facts<'_>, out: &mut BytesMut) {
        let text = match self {
            Self::Host => facts.host,
            Self::Path => facts.path,
            Self::Query => facts.query.unwrap_or_default(),
            Self::Method => facts.method,
            Self::Scheme => facts.scheme,
            Self::RequestId => facts.request_id,
            Self::Route => facts.route,
            Self::Upstream => facts.upstream,
            Self::Server => facts.server,
            Self::Model => facts.model,
            Self::Uri => {
                out.put_slice(facts.path.as_bytes());
                if let Some(query) = facts.query {
                    out.put_u8(b'?');
                    out.put_slice(query.as_bytes());
                }
                return;
            }
            Self::ClientIp => return facts.client_ip.iter().for_each(|ip| out.put_slice(ip.to_string().as_bytes())),
            Self::Status => {
                return facts.status.iter().for_each(|status| out.put_slice(status.to_string().as_bytes()));
            }
            Self::Header(name) => {
                // Several fields of one name are one value with commas (RFC 9110 5.3).
                for (index, value) in facts.headers.get_all(name).iter().enumerate() {
                    out.put_slice(if index == 0 { b"" } else { b", " });
                    out.put_slice(value.as_bytes());
                }
                return;
            }
        };
        out.put_slice(text.as_bytes());
    }
}

#[cfg(test)]
#[path = "template_tests.rs"]
mod tests;
