//! Who asks: where a key stands in a request, and what follows from it.
//!
//! # Problem
//!
//! Clients send keys in three ways, servers behind us have credentials of their own in the same fields, and
//! whoever wants to get past a key sends two of them, half of one, or one where another reader will not see it.
//!
//! # Rules
//!
//! - `Authorization: Bearer KEY`, `X-API-Key: KEY`, or `Authorization: Basic` with the key as password.
//! - What can be read in two ways is answered 400: two fields of a kind, two keys that differ, a key with
//!   characters that no key has, more than [`MAX_BYTES`], a field that `Connection` would have removed, a key in
//!   the query (where logs and histories keep it).
//! - A key that is given must be a good one, also where none is needed: a slip should not make somebody
//!   anonymous without a word. With any other scheme, `Authorization` is not ours and goes on to the server.
//! - The fields that the key stood in are ours and must not reach the server; with [`Mode::None`] nothing is.

use std::borrow::Cow;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::{HeaderMap, HeaderName, HeaderValue, header};

use super::api_key;
use super::failure::Reason;

/// Longest value of a field that is read as a key.
pub const MAX_BYTES: usize = 1024;

const X_API_KEY: HeaderName = HeaderName::from_static("x-api-key");

/// Value of `WWW-Authenticate` in an answer 401.
pub const CHALLENGE: HeaderValue = HeaderValue::from_static("Bearer realm=\"arriero\"");

/// Whether a route asks for a key.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// No; fields with credentials belong to the servers.
    #[default]
    None,
    /// Only to know who asks: requests without one are served.
    Optional,
    /// Yes.
    Required,
}

/// What a key may be used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// Asking models, and lists of them.
    Inference,
    /// Changing what a server has: pull, push, create, copy, delete.
    Management,
}

impl Scope {
    /// The word in the keys file.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Inference => "inference",
            Self::Management => "management",
        }
    }
}

/// The fields that a key was read from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Consumed {
    authorization: bool,
    api_key: bool,
}

impl Consumed {
    /// The names of the fields, which must not reach the server.
    pub fn names(self) -> impl Iterator<Item = HeaderName> {
        let authorization = self.authorization.then_some(header::AUTHORIZATION);
        authorization.into_iter().chain(self.api_key.then_some(X_API_KEY))
    }
}

/// What follows for a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict<K> {
    /// It is served and nobody knows who asks.
    Anonymous,
    /// It is served for the owner of this key.
    Known(K, Consumed),
    /// It is not served.
    Refused(Refusal),
}

/// Why a request is not served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// There is no key where one is needed.
    Missing,
    /// The key is not known, not any more, or is empty.
    Unknown,
    /// It cannot be told what the key is.
    Malformed(&'static str),
}

impl Refusal {
    /// The reason; with `Unauthorized` the answer has [`CHALLENGE`] in `WWW-Authenticate`.
    #[must_use]
    pub const fn reason(self) -> Reason {
        match self {
            Self::Missing | Self::Unknown => Reason::Unauthorized,
            Self::Malformed(_) => Reason::BadRequest,
        }
    }

    /// What the client is told. Never says which part of a key is wrong.
    #[must_use]
    pub const fn message(self) -> &'static str {
        match self {
            Self::Missing => "an API key is needed: send it as `Authorization: Bearer KEY`",
            Self::Unknown => "this API key is not valid",
            Self::Malformed(why) => why,
        }
    }
}

/// Decides about a request with these fields and this query; `find` looks a key up and takes the same time
/// whether it is there or not.
pub fn decide<K>(
    mode: Mode,
    fields: &HeaderMap,
    query: Option<&str>,
    find: impl FnOnce(&[u8]) -> Option<K>,
) -> Verdict<K> {
    if mode == Mode::None {
        return Verdict::Anonymous;
    }
    match read(fields, query) {
        Err(why) => Verdict::Refused(Refusal::Malformed(why)),
        Ok(None) if mode == Mode::Required => Verdict::Refused(Refusal::Missing),
        Ok(None) => Verdict::Anonymous,
        Ok(Some((key, consumed))) => match find(&key) {
            Some(known) => Verdict::Known(known, consumed),
            None => Verdict::Refused(Refusal::Unknown),
        },
    }
}

type Given<'f> = (Cow<'f, [u8]>, Consumed);

/// The key of a request, if there is one.
fn read<'f>(fields: &'f HeaderMap, query: Option<&str>) -> Result<Option<Given<'f>>, &'static str> {
    if query.is_some_and(api_key::in_query) {
        return Err(
            "an API key stood in the query, where it is kept by logs: replace it, and send it in a header field",
        );
    }
    let authorization = one(fields, &header::AUTHORIZATION, "there are two `Authorization` fields")?;
    let api_key = one(fields, &X_API_KEY, "there are two `X-API-Key` fields")?;
    if (authorization.is_some() || api_key.is_some()) && nominated(fields) {
        return Err("`Connection` names the field with the credential");
    }
    let bearer = authorization.map(of_authorization).transpose()?.flatten();
    let api_key = api_key.map(|value| plain(value).map(Cow::Borrowed)).transpose()?;
    let consumed = Consumed { authorization: bearer.is_some(), api_key: api_key.is_some() };
    match (bearer, api_key) {
        (Some(one), Some(other)) if one != other => Err("there are two different API keys"),
        (one, other) => Ok(one.or(other).map(|key| (key, consumed))),
    }
}

/// The one value of a field.
fn one<'f>(fields: &'f HeaderMap, name: &HeaderName, twice: &'static str) -> Result<Option<&'f [u8]>, &'static str> {
    let mut values = fields.get_all(name).iter().map(HeaderValue::as_bytes);
    let value = values.next();
    if values.next().is_some() { Err(twice) } else { Ok(value) }
}

/// The key in a value of `Authorization`; `None` where the scheme is not one of ours.
fn of_authorization(value: &[u8]) -> Result<Option<Cow<'_, [u8]>>, &'static str> {
    let value = value.trim_ascii();
    let end = value.iter().position(|byte| matches!(byte, b' ' | b'\t')).unwrap_or(value.len());
    let (scheme, rest) = value.split_at(end);
    if scheme.is_empty() || scheme.eq_ignore_ascii_case(b"bearer") {
        return plain(rest).map(|key| Some(Cow::Borrowed(key)));
    }
    if !scheme.eq_ignore_ascii_case(b"basic") {
        return Ok(None);
    }
    let broken = "the `Authorization` field is not valid `Basic`";
    let pair = STANDARD.decode(plain(rest)?).map_err(|_| broken)?;
    let colon = pair.iter().position(|byte| *byte == b':').ok_or(broken)?;
    plain(&pair[colon + 1..]).map(|key| Some(Cow::Owned(key.to_vec())))
}

/// A key without spaces around it, made of visible characters only.
fn plain(value: &[u8]) -> Result<&[u8], &'static str> {
    if value.len() > MAX_BYTES {
        return Err("the API key is too long");
    }
    let key = value.trim_ascii();
    if key.iter().all(u8::is_ascii_graphic) { Ok(key) } else { Err("the API key has characters that no key has") }
}

/// Whether `Connection` would have a proxy remove the credential.
fn nominated(fields: &HeaderMap) -> bool {
    let names =
        fields.get_all(header::CONNECTION).iter().flat_map(|value| value.as_bytes().split(|byte| *byte == b','));
    names.map(<[u8]>::trim_ascii).any(|name| {
        name.eq_ignore_ascii_case(header::AUTHORIZATION.as_str().as_bytes())
            || name.eq_ignore_ascii_case(X_API_KEY.as_str().as_bytes())
    })
}

#[cfg(test)]
mod tests;
