//! What other instances have fetched, or are fetching.

use std::sync::Arc;
use std::time::Instant;

use super::unix_millis;
use crate::fleet::response_cache::{ResponseCache, Stored};
use crate::fleet::shared_answers::{Outcome, Search, Share, Ticket};
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
    let mut anew = false;
    // The mark that it varies, the answer, and whoever fetches it anew.
    for _ in 0..4 {
        let Some(mut search) = share.find(&asked.base, &key, anew) else { return Ok(Obtained::Nothing) };
        match wait(exchange, end, &mut search).await? {
            Some(Outcome::Answer(kept)) => {
                if using::decide(&kept.life, &asked.wish, unix_millis()) != Use::Fresh || anew {
                    // It is stale, or says no more than what is known.
                    if anew {
                        return Ok(Obtained::Nothing);
                    }
                    anew = true;
                    continue;
                }
                let stored = Arc::new(Stored::new(&kept, begun));
                let is_kept = asked.credentials.allow(stored.life.marks) && store.keep(&asked.base, &key, &stored);
                return Ok(if is_kept { Obtained::Kept(key, stored) } else { Obtained::Nothing });
            }
            Some(Outcome::Varies(names)) if key == asked.base => {
                key = variant(&asked.base, &names, &exchange.head.headers);
            }
            Some(Outcome::Fetch(ticket)) => return Ok(Obtained::Ticket(ticket)),
            Some(Outcome::Varies(_) | Outcome::Nothing) | None => return Ok(Obtained::Nothing),
        }
    }
    Ok(Obtained::Nothing)
}

async fn wait(exchange: &mut Exchange<'_>, end: Instant, search: &mut Search) -> Result<Option<Outcome>, Stop> {
    let mut outcome = Box::pin(search.outcome());
    match queue::wait(exchange, Some(end), |cx| outcome.as_mut().poll(cx)).await {
        Ok(outcome) => Ok(outcome),
        Err(reason) => Err(reply::give_up(&mut exchange.ctx, reason)),
    }
}
