//! What a request asks for, as far as the cache is concerned.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, header};

use super::pass_by;
use crate::clock;
use crate::fleet::body_budget::Held;
use crate::fleet::digests::Epoch;
use crate::fleet::embeddings_cache::{Age, Keys};
use crate::fleet::snapshot::{Embeddings, Route, Upstream};
use crate::ollama::embeddings::{Call, Request};
use crate::ollama::endpoint::{Endpoint, classify};
use crate::proxy::body_scan;
use crate::proxy::context::{Exchange, Stop};
use crate::telemetry::cache_metrics::Bypass;

/// Bytes of a body that are not counted as held, as with any request.
const UNCOUNTED: usize = 64 << 10;

/// A request for embeddings that the cache may have something to do with.
pub(super) struct Asked {
    /// The call.
    pub call: Call,
    /// Its whole body.
    pub body: Bytes,
    /// The model by its canonical name.
    pub model: Arc<str>,
    /// For which bytes it stands.
    pub digest: String,
    /// Since when without a break.
    pub epoch: Epoch,
    /// What the client wants of caches.
    pub control: Control,
    /// For whom it is kept.
    scope: String,
    /// What the body holds of the budget of the process.
    _held: Held,
}

/// What a request says about caches (RFC 9111, 5.2.1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Control {
    /// Nothing of it is to be kept, or to be answered from what is.
    pub no_store: bool,
    /// What is kept is not good enough.
    pub no_cache: bool,
    /// What is older is not.
    pub max_age: Option<Duration>,
}

impl Control {
    fn of(headers: &HeaderMap) -> Self {
        let mut control = Self::default();
        let fields = headers.get_all(header::CACHE_CONTROL).iter().filter_map(|value| value.to_str().ok());
        for directive in fields.flat_map(|value| value.split(',')).map(str::trim) {
            let (name, value) = directive.split_once('=').unwrap_or((directive, ""));
            if name.eq_ignore_ascii_case("no-store") {
                control.no_store = true;
            } else if name.eq_ignore_ascii_case("no-cache") {
                control.no_cache = true;
            } else if name.eq_ignore_ascii_case("max-age") {
                // What cannot be read is taken for the least (RFC 9111, 4.2.1).
                let seconds = value.trim_matches('"').parse().unwrap_or(0);
                control.max_age = Some(Duration::from_secs(seconds));
            }
        }
        control
    }
}

impl Asked {
    /// The keys of its inputs.
    pub fn keys(&self, request: &Request<'_>) -> Keys {
        let epoch = self.epoch.to_le_bytes();
        let parts: [&[u8]; 5] = [
            self.scope.as_bytes(),
            self.model.as_bytes(),
            self.digest.as_bytes(),
            &epoch,
            request.settings().as_bytes(),
        ];
        Keys::new(&parts)
    }

    /// How old what is kept may be.
    pub fn age(&self, cache: &Embeddings) -> Age {
        let most = self.control.max_age.map_or(cache.ttl, |most| most.min(cache.ttl));
        Age { now: clock::now(), most }
    }
}

/// Reads a request, if the cache may have something to do with it.
///
/// # Errors
/// When the request goes no further.
pub(super) async fn read(
    exchange: &mut Exchange<'_>,
    route: &Route,
    upstream: &Upstream,
    cache: &Embeddings,
) -> Result<Option<Asked>, Stop> {
    let Endpoint::Inference(inference) = classify(&exchange.head.method, exchange.path()) else { return Ok(None) };
    let Some(call) = Call::of(inference) else { return Ok(None) };
    let control = Control::of(&exchange.head.headers);
    if control.no_store {
        pass_by(exchange, cache, Bypass::Client);
        return Ok(None);
    }
    if known(exchange, upstream).is_none() {
        pass_by(exchange, cache, Bypass::Digest);
        return Ok(None);
    }
    let scope = match &exchange.ctx.key {
        _ if cache.shared => "shared".to_owned(),
        Some(key) => format!("key {}", key.id),
        None => "nobody".to_owned(),
    };
    let length = exchange.head.headers.get(header::CONTENT_LENGTH);
    let length = length.and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
    let is_long = length.is_some_and(|length| length > cache.max_body);
    if is_long || !body_scan::read_whole(exchange, cache.max_body, route.body_limit).await? {
        pass_by(exchange, cache, Bypass::TooLong);
        return Ok(None);
    }
    let mut held = Held::new(Arc::clone(&exchange.service.store.body_budget));
    let length = usize::try_from(exchange.body.length()).unwrap_or(usize::MAX);
    if length > UNCOUNTED && !held.grow(length) {
        pass_by(exchange, cache, Bypass::TooLong);
        return Ok(None);
    }
    let body = body(exchange).await?;
    // Only now: the model may have been changed while the body came.
    let Some((model, digest, epoch)) = known(exchange, upstream) else {
        pass_by(exchange, cache, Bypass::Digest);
        return Ok(None);
    };
    Ok(Some(Asked { call, body, model, digest, epoch, control, scope, _held: held }))
}

/// The model, its digest and since when it has it; `None` where that is not clear.
fn known(exchange: &Exchange<'_>, upstream: &Upstream) -> Option<(Arc<str>, String, Epoch)> {
    let model = exchange.ctx.model.as_deref()?;
    let index = upstream.models.load_full();
    let digest = index.digest(model)?;
    Some((Arc::from(model), digest.to_owned(), upstream.state.digests.epoch(model, digest)?))
}

/// A body that has been read to its end, in one piece.
async fn body(exchange: &mut Exchange<'_>) -> Result<Bytes, Stop> {
    let mut whole = BytesMut::new();
    loop {
        let Exchange { body, client, .. } = exchange;
        match std::future::poll_fn(|cx| body.poll_next(client, cx)).await {
            Ok(Some(piece)) => whole.extend_from_slice(&piece),
            Ok(None) => break,
            Err(fault) => return Err(body_scan::faulty(&exchange.ctx, fault)),
        }
    }
    exchange.body.rewind();
    Ok(whole.freeze())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directives_are_read_whatever_stands_beside_them() {
        let of = |values: &[&'static str]| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(header::CACHE_CONTROL, http::HeaderValue::from_static(value));
            }
            Control::of(&headers)
        };
        assert_eq!(of(&[]), Control::default());
        assert_eq!(of(&["max-stale, no-transform"]), Control::default());
        assert!(of(&["private, No-Store"]).no_store);
        assert!(of(&["max-stale", "no-cache"]).no_cache);
        let age = |seconds| Some(Duration::from_secs(seconds));
        assert_eq!(of(&["max-age=60"]).max_age, age(60));
        assert_eq!(of(&["MAX-AGE=\"5\""]).max_age, age(5));
        assert_eq!(of(&["max-age=soon"]).max_age, age(0));
    }
}
