//! What other instances have fetched, or are fetching.

use std::sync::Arc;
use std::time::Instant;

use super::unix_millis;
use crate::fleet::response_cache::{ResponseCache, Stored};
use crate::fleet::shared_answers::{Found, Search, Share, Stamp, Ticket};
use crate::policy::http_cache::key::variant;
use crate::policy::http_cache::using::{self, Use};
use crate::proxy::context::{Exchange, Stop};
use crate::proxy::{queue, reply};

use super::asked::Asked;

/// What came of a search among what instances share.
pub(super) enum Obtained {
    /// An answer that is good, which stands in memory by now.
    Kept(String, Arc<Stored>),
    /// This request fetches it for all.
    Ticket(Ticket),
    /// Nothing: this request fetches it, and others may too.
    Nothing,
}

/// Looks for an answer that is not in memory, or not good enough there.
///
/// # Errors
/// When the client has left, or time is up.
pub(super) async fn obtain(
    exchange: &mut Exchange<'_>,
    end: Instant,
    share: &Share,
    store: &ResponseCache,
    asked: &Asked,
) -> Result<Obtained, Stop> {
    let begun = store.begun();
    let mut key = asked.base.clone();
    let mut seen = Stamp::new();
    // The mark that it varies, the answer, and whoever fetches it anew.
    for _ in 0..4 {
        let Some(mut search) = share.find(&asked.base, &key, seen.clone()) else { return Ok(Obtained::Nothing) };
        match wait(exchange, end, &mut search).await? {
            Some(Found::Answer(kept, stamp)) => {
                if using::decide(&kept.life, &asked.wish, unix_millis()) != Use::Fresh {
                    // What has just been fetched will not get any fresher.
                    if !seen.is_empty() {
                        return Ok(Obtained::Nothing);
                    }
                    seen = stamp;
                    continue;
                }
                let stored = Arc::new(Stored::new(&kept, begun));
                let is_kept = asked.credentials.allow(stored.life.marks) && store.keep(&asked.base, &key, &stored);
                return Ok(if is_kept { Obtained::Kept(key, stored) } else { Obtained::Nothing });
            }
            Some(Found::Varies(names)) if key == asked.base => {
                key = variant(&asked.base, &names, &exchange.head.headers);
                seen = Stamp::new();
            }
            Some(Found::Fetch(ticket)) => return Ok(Obtained::Ticket(ticket)),
            Some(Found::Varies(_) | Found::Nothing) | None => return Ok(Obtained::Nothing),
        }
    }
    Ok(Obtained::Nothing)
}

async fn wait(exchange: &mut Exchange<'_>, end: Instant, search: &mut Search) -> Result<Option<Found>, Stop> {
    let mut found = Box::pin(search.found());
    match queue::wait(exchange, Some(end), |cx| found.as_mut().poll(cx)).await {
        Ok(found) => Ok(found),
        Err(reason) => Err(reply::give_up(&mut exchange.ctx, reason)),
    }
}
