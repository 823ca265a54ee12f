//! Answers requests for embeddings from what their route keeps; a server is asked for the rest.
//!
//! # Problem
//! The same texts are embedded again and again, in lists of which a part is new. A server should compute that part alone,
//! and its client should not be able to tell: not by the answer, and not by what it may ask for. So all that decides about a
//! request (addresses, keys, limits, models) comes before this; the part that is new goes the way of any request; and
//! the answer is put together as Ollama writes it.
//!
//! # The way of a request
//! 1. [`asked`] reads the whole body and takes it apart. What is too long, not clear, or for a model whose bytes are not known
//!    goes to a server as it came.
//! 2. Each input is kept, or becomes part of our [`Flight`], or is on somebody else's
//!    ([`crate::fleet::embeddings_cache`]).
//! 3. A server is asked for what is on ours ([`fetch`]). If that fails, the client gets the server's error as it is. If it
//!    goes well, but the answer cannot be put together with the rest, the whole request goes to a server as it came.
//! 4. Then those of others are waited for. What did not arrive is asked for, now by ourselves, whoever else may do so.
//! 5. [`answer`] writes it all.
//!
//! # Invariants
//! - Nothing is kept of a model whose digest changed while the server computed, and nobody who waits gets it.
//! - The embeddings of an answer are all of one model: either all belong to the epoch of the request, or one server computed
//!   them for one request.
//! - A flight ends before an answer is passed on: nobody waits for a client that is slow to take its own.
//! - An answer is the server's own, to the byte, unless something of it was known.

mod answer;
mod asked;
mod fetch;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use asked::Asked;
use fetch::Fetched;
use fnv::FnvBuildHasher;
use http::HeaderValue;

use super::context::{Exchange, Stop};
use super::{attempt, queue, reply};
use crate::clock;
use crate::fleet::embeddings_cache::{Flight, Key, Keys, Look, Waiting};
use crate::fleet::snapshot::{Embeddings, Route, Upstream};
use crate::ollama::embeddings::{Request, Unfit, Vector};
use crate::telemetry::cache_metrics::Bypass;

/// Inputs that are looked at before others have their turn.
const AT_A_TIME: usize = 512;

/// Answers a request of a route that keeps embeddings.
///
/// # Errors
/// When the client has not got a whole answer.
pub async fn run(
    exchange: &mut Exchange<'_>,
    route: &Arc<Route>,
    upstream: &Arc<Upstream>,
    cache: &Embeddings,
) -> Result<(), Stop> {
    let Some(asked) = asked::read(exchange, route, upstream, cache).await? else {
        return attempt::run(exchange, route, upstream).await;
    };
    let request = match Request::read(asked.call, &asked.body) {
        Ok(request) => request,
        Err(unfit) => {
            pass_by(exchange, cache, if unfit == Unfit::TooMany { Bypass::TooLong } else { Bypass::Unfit });
            return attempt::run(exchange, route, upstream).await;
        }
    };
    let Some(mut batch) = Batch::new(&request, &asked.keys(&request)).await else {
        pass_by(exchange, cache, Bypass::Unfit);
        return attempt::run(exchange, route, upstream).await;
    };
    let way = Way { route, upstream, cache, asked: &asked, request: &request };
    let mut source = None;
    for is_first in [true, false] {
        if !is_first && !way.is_current() {
            return way.send_whole(exchange, Bypass::Digest).await;
        }
        let step = batch.look(cache, &asked, is_first).await;
        if batch.usual_length().is_some_and(|bytes| bytes.saturating_mul(batch.places.len()) > fetch::MOST) {
            drop(step);
            return way.send_whole(exchange, Bypass::TooLong).await;
        }
        tell(exchange, &batch, false);
        if !step.is_empty() {
            let others = !step.waits.is_empty();
            let Some(mut fetched) = way.fetch(exchange, &mut batch, step.asks, others).await? else { return Ok(()) };
            let is_understood = fetched.frame.is_some();
            // What the answer says of tokens is about all that was computed for it.
            if let Some(frame) = &mut fetched.frame
                && let Some(earlier) = source.as_ref().and_then(|source: &Fetched| source.frame.as_ref())
            {
                frame.add_tokens_of(earlier);
            }
            source = Some(fetched);
            if !is_understood {
                break;
            }
        }
        // As long as our own server would have been waited for.
        let end = clock::now() + upstream.queue_timeout + route.timeouts.first_byte;
        for (place, waiting) in step.waits {
            batch.found[place] = wait(exchange, end, waiting).await?;
        }
        if batch.is_complete() {
            break;
        }
    }
    if source.is_none() && !way.is_current() {
        return way.send_whole(exchange, Bypass::Digest).await;
    }
    cache.store.count(batch.hits, batch.asked, request.len() - batch.hits - batch.asked);
    exchange.ctx.body_in = asked.body.len() as u64;
    tell(exchange, &batch, source.as_ref().is_some_and(|source| source.kept));
    answer::send(exchange, &asked, batch, source).await
}

/// A request goes past the cache.
fn pass_by(exchange: &mut Exchange<'_>, cache: &Embeddings, why: Bypass) {
    cache.store.counters.bypassed(why);
    exchange.ctx.cache.word = "bypass";
    let text = match why {
        Bypass::Client => "arriero; fwd=request".to_owned(),
        why => format!("arriero; fwd=bypass; detail={}", why.as_str()),
    };
    exchange.ctx.cache.status = HeaderValue::from_str(&text).ok();
}

/// Says in the answer and in the log what was known (RFC 9211).
fn tell(exchange: &mut Exchange<'_>, batch: &Batch, kept: bool) {
    let inputs = batch.places.len();
    let word = match batch.hits {
        hits if hits == inputs => "hit",
        0 => "miss",
        _ => "partial",
    };
    exchange.ctx.cache.word = word;
    let text = if word == "hit" {
        "arriero; hit".to_owned()
    } else {
        let collapsed = if batch.asked == 0 && batch.is_complete() { "; collapsed" } else { "" };
        let kept = if kept { "; stored" } else { "" };
        let detail =
            if word == "partial" { format!("; detail=\"{} of {inputs} known\"", batch.hits) } else { String::new() };
        format!("arriero; fwd={word}{kept}{collapsed}{detail}")
    };
    exchange.ctx.cache.status = HeaderValue::from_str(&text).ok();
}

/// Waits for somebody else's answer.
async fn wait(exchange: &mut Exchange<'_>, end: Instant, mut waiting: Waiting) -> Result<Option<Vector>, Stop> {
    let mut landed = Box::pin(waiting.landed());
    match queue::wait(exchange, Some(end), |cx| landed.as_mut().poll(cx)).await {
        Ok(Some(vector)) => Ok(vector),
        Ok(None) => Ok(None),
        Err(reason) => Err(reply::give_up(&mut exchange.ctx, reason)),
    }
}

/// What a request is served with.
struct Way<'w> {
    route: &'w Arc<Route>,
    upstream: &'w Arc<Upstream>,
    cache: &'w Embeddings,
    asked: &'w Asked,
    request: &'w Request<'w>,
}

/// The inputs of a request, each different one once.
struct Batch {
    keys: Vec<Key>,
    /// For each key its first input.
    inputs: Vec<usize>,
    /// For each input its key.
    places: Vec<usize>,
    /// For each key its embedding, once it is known.
    found: Vec<Option<Vector>>,
    /// Inputs that were known.
    hits: usize,
    /// Keys that a server was asked for.
    asked: usize,
}

/// What has to be done for the keys that are not known.
struct Step {
    asks: Asks,
    /// Keys that others ask for.
    waits: Vec<(usize, Waiting)>,
}

/// Keys that a server is asked for.
struct Asks {
    flight: Flight,
    /// Those on the flight, in its order.
    ours: Vec<usize>,
    /// Those that are not, because others ask for them too.
    alone: Vec<usize>,
}

impl Step {
    fn is_empty(&self) -> bool {
        self.asks.ours.is_empty() && self.asks.alone.is_empty()
    }
}

impl Batch {
    /// `None` where an input is no text.
    async fn new(request: &Request<'_>, keys: &Keys) -> Option<Self> {
        let mut known: HashMap<Key, usize, FnvBuildHasher> = HashMap::default();
        let mut batch = Self {
            keys: Vec::new(),
            inputs: Vec::new(),
            places: Vec::with_capacity(request.len()),
            found: Vec::new(),
            hits: 0,
            asked: 0,
        };
        for input in 0..request.len() {
            let key = keys.of(request.text(input)?.as_bytes());
            let place = *known.entry(key).or_insert(batch.keys.len());
            if place == batch.keys.len() {
                batch.keys.push(key);
                batch.inputs.push(input);
            }
            batch.places.push(place);
            take_turns(input).await;
        }
        batch.found = vec![None; batch.keys.len()];
        Some(batch)
    }

    /// Bytes of an embedding as text, by one that is known, with something to spare.
    fn usual_length(&self) -> Option<usize> {
        let vector = self.found.iter().flatten().next()?;
        let mut text = String::new();
        vector.write(&mut text);
        Some(text.len() + text.len() / 4)
    }

    fn is_complete(&self) -> bool {
        self.found.iter().all(Option::is_some)
    }

    /// Looks for what is not known yet. Others are waited for the first time only.
    async fn look(&mut self, cache: &Embeddings, asked: &Asked, is_first: bool) -> Step {
        let mut flight = cache.store.depart();
        let (mut ours, mut alone, mut waits) = (Vec::new(), Vec::new(), Vec::new());
        let mut known = vec![false; self.keys.len()];
        let keys = std::mem::take(&mut self.keys);
        for (place, key) in keys.iter().enumerate() {
            if self.found[place].is_some() {
                continue;
            }
            if asked.control.no_cache {
                alone.push(place);
                continue;
            }
            match flight.look(*key, asked.age(cache)) {
                Look::Kept(vector) => {
                    self.found[place] = Some(vector);
                    known[place] = is_first;
                }
                Look::Ours(_) => ours.push(place),
                Look::Theirs(waiting) if is_first => waits.push((place, waiting)),
                Look::Theirs(_) | Look::Alone => alone.push(place),
            }
            take_turns(place).await;
        }
        self.keys = keys;
        if is_first {
            self.hits = self.places.iter().filter(|place| known[**place]).count();
        }
        self.asked += ours.len() + alone.len();
        Step { asks: Asks { flight, ours, alone }, waits }
    }
}

/// A long list must not keep a thread from everybody else.
async fn take_turns(number: usize) {
    if number % AT_A_TIME == AT_A_TIME - 1 {
        tokio::task::yield_now().await;
    }
}
