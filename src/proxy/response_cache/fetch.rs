//! Asks a server for what is not kept, or is not good enough.

use std::sync::Arc;

use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};

use super::keeping::{Begin, End, Keeping};
use super::serve::{self, Told};
use super::{Way, land, unix_millis};
use crate::clock;
use crate::fleet::response_cache::{Flight, Landed, Look, Stored};
use crate::policy::failure::Reason;
use crate::policy::http_cache::form::Kept;
use crate::policy::http_cache::key::tags;
use crate::policy::http_cache::storing::{self, Answer};
use crate::policy::http_cache::validation::{self, CONDITIONS};
use crate::policy::http_cache::{Life, using};
use crate::proxy::context::{Exchange, Stop};
use crate::proxy::{attempt, finish, response};
use crate::telemetry::response_cache_metrics::Outcome;

/// What is known when a server has been asked.
pub(super) enum Fetched {
    /// The client has got its answer.
    Passed,
    /// What is kept still holds; the cookies that the server sets with that are its client's alone.
    Confirmed(Box<Kept>, Vec<HeaderValue>),
    /// A server failed, with this status if it answered, and what is kept is given instead.
    Failed(Box<Kept>, Option<StatusCode>),
}

/// An answer that is there, and not good enough.
pub(super) struct Old {
    /// It, as it stands under its key.
    pub stored: Arc<Stored>,
    /// It.
    pub kept: Kept,
}

impl Way<'_> {
    /// Answers a request that a server has to be asked for.
    ///
    /// # Errors
    /// When the client has not got a whole answer.
    pub(super) async fn fetch(
        &self,
        exchange: &mut Exchange<'_>,
        look: &Look,
        found: Option<Arc<Stored>>,
        flight: Option<Flight>,
    ) -> Result<(), Stop> {
        // While it waited for other instances, a purge may have come.
        let found = found.filter(|stored| !self.cache.store.is_purged(&look.key, stored, look.begun));
        let why = match &found {
            Some(stored) if stored.life.stale_for(unix_millis()).is_some() => "stale",
            Some(_) => "request",
            None if look.varies => "vary-miss",
            None => "uri-miss",
        };
        let old = found.and_then(|stored| {
            let kept = self.cache.store.open(&look.key, &stored)?;
            Some(Old { stored, kept })
        });
        let conditions = take(&mut exchange.head.headers);
        if old.is_none() || !self.asked.is_get {
            put_back(&mut exchange.head.headers, &conditions);
        }
        exchange.ctx.cache.word = "miss";
        exchange.ctx.cache.status = HeaderValue::try_from(format!("arriero; fwd={why}")).ok();
        let fetched = self.ask(exchange, &look.key, look.begun, old, flight, why).await;
        put_back(&mut exchange.head.headers, &conditions);
        match fetched? {
            Fetched::Passed => {
                self.cache.store.count(Outcome::Miss);
                Ok(())
            }
            Fetched::Confirmed(kept, cookies) => {
                finish::attempt_is_over(exchange);
                serve::send(exchange, self, *kept, Told::of_confirmed(why, cookies)).await
            }
            Fetched::Failed(kept, status) => {
                finish::attempt_is_over(exchange);
                // Its client has got an answer that is good.
                exchange.ctx.reason = Some(Reason::Ok);
                serve::send(exchange, self, *kept, Told::in_place_of_error(why, status)).await
            }
        }
    }

    /// Asks a server, and settles with those who wait. What was thrown away after `begun` is not kept.
    ///
    /// # Errors
    /// When the client has not got a whole answer.
    pub(super) async fn ask(
        &self,
        exchange: &mut Exchange<'_>,
        key: &str,
        begun: u64,
        old: Option<Old>,
        flight: Option<Flight>,
        why: &'static str,
    ) -> Result<Fetched, Stop> {
        let asks = self.asked.is_get
            && old.as_ref().is_some_and(|old| validation::ask(&mut exchange.head.headers, &old.kept.headers));
        exchange.ctx.keeping = Some(Box::new(Keeping::new(Begin {
            asked: self.asked,
            cache: self.cache,
            begun,
            request: exchange.head.headers.clone(),
            flight,
            confirms: old.as_ref().filter(|_| asks).map(|old| old.kept.headers.clone()),
            old: old.as_ref().map(|old| (key.to_owned(), Arc::clone(&old.stored))),
            why,
        })));
        let sent = attempt::run(exchange, self.route, self.upstream).await;
        let Some(mut keeping) = exchange.ctx.keeping.take() else { return sent.map(|()| Fetched::Passed) };
        let flight = keeping.flight();
        match (sent, keeping.end(), old) {
            (Ok(()), End::Confirmed(head), Some(old)) => {
                let mut told = head.headers;
                response::strip_hop_by_hop(&mut told);
                let kept = self.confirm(exchange, key, &keeping, &old, &told, flight);
                let cookies = told.get_all(header::SET_COOKIE).iter().cloned().collect();
                Ok(Fetched::Confirmed(Box::new(kept), cookies))
            }
            (Ok(()), End::Failed(status), Some(old)) => {
                land(flight, Landed::NotKept);
                Ok(Fetched::Failed(Box::new(old.kept), Some(status)))
            }
            (Ok(()), End::Contradicted, Some(old)) => {
                // Asked again, for all of it.
                self.cache.store.forget(key, &old.stored);
                finish::attempt_is_over(exchange);
                for name in CONDITIONS {
                    exchange.head.headers.remove(name);
                }
                let before = finish::forget_attempts(exchange);
                let again = Box::pin(self.ask(exchange, key, begun, None, flight, why)).await;
                exchange.ctx.attempts += before;
                again
            }
            (Err(Stop::Answer(answer)), _, Some(old))
                if answer.reason.is_failure()
                    && using::in_place_of_error(&old.kept.life, &self.asked.wish, unix_millis())
                    && !self.cache.store.is_purged(key, &old.stored, begun) =>
            {
                land(flight, Landed::NotKept);
                Ok(Fetched::Failed(Box::new(old.kept), None))
            }
            (sent, _, _) => {
                // Where its client is gone, one of those who wait asks; where a server failed, all of them.
                let is_gone =
                    matches!(sent, Err(Stop::Broken(Reason::ClientClosed | Reason::ClientStalled | Reason::Shutdown)));
                if !is_gone {
                    land(flight, Landed::NotKept);
                }
                // What is held until its client has got it is held until here.
                drop(keeping);
                sent.map(|()| Fetched::Passed)
            }
        }
    }

    /// What is kept still holds, with the fields that a server told (RFC 9111, 4.3.4).
    fn confirm(
        &self,
        exchange: &Exchange<'_>,
        key: &str,
        keeping: &Keeping,
        old: &Old,
        told: &HeaderMap,
        flight: Option<Flight>,
    ) -> Kept {
        let store = &self.cache.store;
        let received = unix_millis();
        let all = validation::freshened(&old.kept.headers, told, received);
        let started = exchange.ctx.attempt.as_ref().map(|attempt| attempt.started);
        let waited = started.map_or(0, |at| u64::try_from((clock::now() - at).as_millis()).unwrap_or(u64::MAX));
        let judged = self.cache.rules.judge(&Answer {
            credentials: self.asked.credentials,
            no_store: self.asked.wish.no_store,
            status: old.kept.status,
            headers: &all,
            received,
            waited,
        });
        let headers = storing::fields(&all, received);
        let mut kept = Kept { tags: tags(&headers, &self.cache.tag_header), headers, ..old.kept.clone() };
        let vary = storing::vary(&all, self.cache.rules.knows_cookies);
        match (judged, vary) {
            (Ok(life), Ok(names)) if kept.fits() && names.iter().all(|name| kept.vary.contains(name)) => {
                kept.life = life;
                let stored = keeping.stored(&kept);
                // What a purge has thrown away meanwhile does not come back.
                let is_purged = store.is_purged(key, &old.stored, keeping.begun());
                let is_kept = !is_purged && store.keep(&self.asked.base, key, &stored);
                let landed = if is_kept { Landed::Kept(key.into(), stored) } else { Landed::NotKept };
                land(flight, landed);
            }
            // It was good for this request, and may not be kept any longer; or it varies by more now, or has too many tags.
            _ => {
                kept.life = Life { received, fresh: 0, ..kept.life };
                store.forget(key, &old.stored);
                land(flight, Landed::NotKept);
            }
        }
        kept
    }
}

/// Takes the conditions out of a request.
fn take(headers: &mut HeaderMap) -> Vec<(HeaderName, HeaderValue)> {
    let mut taken = Vec::new();
    for name in CONDITIONS {
        if let header::Entry::Occupied(entry) = headers.entry(&name) {
            taken.extend(entry.remove_entry_mult().1.map(|value| (name.clone(), value)));
        }
    }
    taken
}

/// Puts them back.
fn put_back(headers: &mut HeaderMap, conditions: &[(HeaderName, HeaderValue)]) {
    for name in CONDITIONS {
        headers.remove(name);
    }
    for (name, value) in conditions {
        headers.append(name, value.clone());
    }
}
