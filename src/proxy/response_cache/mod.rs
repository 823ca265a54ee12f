//! Answers requests from what their route keeps, and keeps what servers answer (RFC 9111).
//!
//! # Problem
//! What a server said once need not be asked again as long as it says so. The client must not be able to tell, beyond `Age` and
//! `Cache-Status`, and must not get what is not its own. So all that decides about a request (addresses, keys, limits)
//! comes before this, a hit leaves the way any answer does (fields, compression), and what is not kept goes the way of any
//! request, while its bytes are collected in passing.
//!
//! # The way of a request
//! 1. [`asked`] says under which key its answer would stand, and whose it is. What has a body, asks for another protocol, or for
//!    nothing to be kept, goes to a server as it came. A method that changes something goes on too, and if it went well, what is
//!    kept of its URI is forgotten (RFC 9111, 4.4).
//! 2. What is kept and good enough is given ([`serve`]); where it is stale and may be given so, it is asked for anew behind
//!    that ([`refresh`]).
//! 3. If another request is asking for the same, its answer is waited for, as long as an own one would be. If that client
//!    leaves, one of those who wait asks. If the answer is not to be kept, all of them ask, as soon as its head says so. An answer
//!    for which a server was asked after a request had come is as new as its own would be, whatever its client wants of
//!    freshness: of those who want a newer one than the one that they waited for, one asks, and the others get that.
//! 4. A server is asked; what is stale is named by its tag. [`keeping`] looks at the head of the answer in passing: it collects
//!    what may be kept, holds back a 304, and an error in whose place something stale is given.
//!
//! # Choices
//! - `Cache-Status` is always told: a route that hides it has `headers.response.remove` for any field, and needs no key of its own.
//! - What is fetched behind a stale answer is no request of a client: it has no line in the access log and is in no
//!   count of requests; the server's own counts and its circuit have it.
//! - A request with a condition or a range goes to a server as it came where nothing is kept. To ask for the whole instead would fill
//!   the cache sooner, and make a server send what nobody wants.
//! - A body that ends where the connection does is not kept, although HTTP takes it for whole (RFC 9112, 8): of a server that died
//!   in the middle nothing else can be told.
//!
//! # Invariants
//! - The first client never waits for more than its own answer: each byte is passed on as it comes. While an answer is collected,
//!   it is read as fast as the server sends it, up to `max_object`, so that a slow client holds up nobody who waits.
//! - Only what came to its end is kept, and only where a missing end would have been noticed (RFC 9111, 3.3).
//! - Only a plain GET fetches for others: what asks for a part, or has a condition, is its client's own question.
//! - A request with credentials that do not keep answers apart waits for nobody, and nobody for it.
//! - What is kept apart for one client never goes to other instances, nor an answer to a request with credentials, unless the
//!   configuration says that it is for all: `authorized: true`, and cookies that mean nothing.
//! - Nobody waits longer than a server of its own would be waited for, and nobody waits for the answer of a server that failed for
//!   another one.

mod asked;
mod fetch;
pub mod keeping;
mod refresh;
mod serve;
mod shared;

use std::sync::Arc;
use std::time::Instant;

use http::{HeaderValue, Method};

use asked::Asked;
use serve::Told;
use shared::Obtained;

use super::context::{Exchange, Stop};
use super::{attempt, queue, reply, service};
use crate::clock;
use crate::fleet::response_cache::{Departure, Flight, Landed, Look, Stored, Waiting};
use crate::fleet::snapshot::{Cache, Route, Upstream};
use crate::policy::failure::Reason;
use crate::policy::http_cache::using::{self, Use};
use crate::telemetry::response_cache_metrics::{Outcome, Passed};

pub use keeping::{Fate, Keeping};

/// How often a request looks again, at most, before it asks a server whoever else may do so.
const MOST_LOOKS: usize = 4;

/// The present in milliseconds since 1970.
fn unix_millis() -> u64 {
    u64::try_from(clock::unix_time().as_millis()).unwrap_or(u64::MAX)
}

/// Answers a request of a route that keeps answers.
///
/// # Errors
/// When the client has not got a whole answer.
pub async fn run(
    exchange: &mut Exchange<'_>,
    route: &Arc<Route>,
    upstream: &Arc<Upstream>,
    cache: &Cache,
) -> Result<(), Stop> {
    if !matches!(exchange.head.method, Method::GET | Method::HEAD) {
        if !exchange.head.method.is_safe() {
            let uri = asked::uri(exchange, cache);
            exchange.ctx.keeping = Some(Box::new(Keeping::of_change(cache, uri)));
        }
        return service::past_cache(exchange, route, upstream).await;
    }
    let asked = match Asked::of(exchange, upstream, cache) {
        Ok(asked) => asked,
        Err(why) => {
            pass_by(exchange, cache, why);
            return attempt::run(exchange, route, upstream).await;
        }
    };
    let way = Way { route, upstream, cache, asked: &asked };
    let mut is_collapsed = false;
    let end = clock::now() + upstream.queue_timeout + route.timeouts.first_byte;
    for round in 1..=MOST_LOOKS {
        let now = unix_millis();
        let look = cache.store.look(&asked.base, &exchange.head.headers, now);
        let found = look.found.as_ref().filter(|stored| asked.credentials.allow(stored.life.marks));
        if let Some(stored) = found {
            let is_new = stored.is_asked_since(exchange.ctx.started);
            let decide = if is_new { using::decide_of_new } else { using::decide };
            let used = decide(&stored.life, &asked.wish, now);
            if used != Use::Ask {
                let Some(kept) = cache.store.open(&look.key, stored) else { continue };
                if used == Use::Refresh {
                    refresh::begin(exchange, &way, &look, stored, &kept);
                }
                let outcome = match used {
                    _ if is_collapsed => Outcome::Collapsed,
                    Use::Fresh => Outcome::Hit,
                    _ => Outcome::Stale,
                };
                return serve::send(exchange, &way, kept, Told::of_hit(outcome)).await;
            }
        }
        if asked.wish.only_if_cached {
            // RFC 9111, 5.2.1.7.
            let message = "nothing is kept that answers this, and no server was to be asked";
            return Err(reply::problem(&exchange.ctx, Reason::NotKept, message).into());
        }
        let mut flight = None;
        if round < MOST_LOOKS && way.may_share(&look, found) {
            match cache.store.depart(&look.key, found) {
                Departure::Ours(mut ours) => {
                    // What is one client's own does not leave this process.
                    if let Some(share) = cache.store.share().filter(|share| !asked.is_own && share.is_linked()) {
                        match shared::obtain(exchange, end, &share, &cache.store, &asked).await? {
                            Obtained::Kept(key, stored) => {
                                ours.land(Landed::Kept(key.as_str().into(), stored));
                                continue;
                            }
                            Obtained::Ticket(ticket) => ours.is_for_all(ticket),
                            Obtained::Nothing => {}
                        }
                    }
                    flight = Some(ours);
                }
                Departure::Landed => continue,
                Departure::Theirs(theirs) => match wait(exchange, end, theirs).await? {
                    // Looked at again: it may be of another variant, or gone already.
                    Some(Landed::Kept(..)) => {
                        is_collapsed = true;
                        continue;
                    }
                    Some(Landed::NotKept) => {}
                    // One of those who wait asks.
                    None if clock::now() < end => continue,
                    None => {}
                },
            }
        }
        let found = found.cloned();
        return way.fetch(exchange, &look, found, flight).await;
    }
    let look = cache.store.look(&asked.base, &exchange.head.headers, unix_millis());
    way.fetch(exchange, &look, None, None).await
}

/// What a request is served with.
struct Way<'w> {
    route: &'w Arc<Route>,
    upstream: &'w Arc<Upstream>,
    cache: &'w Cache,
    asked: &'w Asked,
}

impl Way<'_> {
    /// Whether others may wait for this request's answer, and it for theirs.
    fn may_share(&self, look: &Look, found: Option<&Arc<Stored>>) -> bool {
        let asked = self.asked;
        asked.is_plain
            && !asked.credentials.any()
            && !asked.wish.no_cache
            && !look.is_passed
            // What has to be confirmed each time is of no use to others.
            && found.is_none_or(|stored| stored.life.fresh > 0)
    }
}

/// A request goes past the cache.
fn pass_by(exchange: &mut Exchange<'_>, cache: &Cache, why: Passed) {
    cache.store.counters.bypassed[why as usize].inc();
    exchange.ctx.cache.word = "bypass";
    exchange.ctx.cache.status = Some(match why {
        Passed::Client => HeaderValue::from_static("arriero; fwd=request"),
        Passed::Unfit => HeaderValue::from_static("arriero; fwd=bypass; detail=unfit"),
    });
}

/// Waits for somebody else's answer; `None` where that one is gone, or it took too long.
async fn wait(exchange: &mut Exchange<'_>, end: Instant, mut waiting: Waiting) -> Result<Option<Landed>, Stop> {
    let mut landed = Box::pin(waiting.landed());
    match queue::wait(exchange, Some(end), |cx| landed.as_mut().poll(cx)).await {
        Ok(landed) => Ok(landed.flatten()),
        Err(reason) => Err(reply::give_up(&mut exchange.ctx, reason)),
    }
}

/// Tells those who wait that this one did not bring anything they could have.
fn land(flight: Option<Flight>, landed: Landed) {
    if let Some(flight) = flight {
        flight.land(landed);
    }
}
