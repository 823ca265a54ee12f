//! Asks for something stale anew, when its client has it already (RFC 5861, 3). Among instances, one does so for all.

use std::sync::Arc;

use http::HeaderName;

use super::Way;
use super::asked::Asked;
use super::fetch::Old;
use super::shared::{self, Obtained};
use crate::clock;
use crate::fleet::response_cache::{Departure, Flight, Landed, Look, Stored};
use crate::policy::http_cache::form::Kept;
use crate::policy::http_cache::validation::CONDITIONS;
use crate::proxy::client::Client;
use crate::proxy::context::{Exchange, RequestContext, Stop};
use crate::proxy::request_body::RequestBody;
use crate::proxy::timer::LazyTimer;
use crate::proxy::{attempt, finish};

const CACHE_CONTROL: HeaderName = http::header::CACHE_CONTROL;

/// Begins, unless somebody does it already.
pub(super) fn begin(exchange: &Exchange<'_>, way: &Way<'_>, look: &Look, stored: &Arc<Stored>, kept: &Kept) {
    let Departure::Ours(flight) = way.cache.store.depart(&look.key, Some(stored)) else { return };
    let Some(service) = exchange.service.myself.upgrade() else { return };
    let before = &exchange.ctx;
    let mut ctx = RequestContext::new(Arc::clone(&before.snapshot), Arc::clone(&before.connection));
    ctx.client = before.client;
    ctx.client_ip = before.client_ip.clone();
    ctx.client_tls = before.client_tls;
    ctx.forwarded_for = before.forwarded_for.clone();
    ctx.key = before.key.clone();
    ctx.request_id = before.request_id.clone();
    ctx.host = before.host.clone();
    ctx.route = before.route.clone();
    ctx.upstream = before.upstream.clone();
    ctx.target = before.target.clone();
    ctx.dialect = before.dialect;
    ctx.idempotent = before.idempotent;
    ctx.takes_slot = before.takes_slot;
    let mut head = exchange.head.clone();
    // What this client has or wants a part of is no matter here.
    for name in CONDITIONS.iter().chain([&CACHE_CONTROL]) {
        head.headers.remove(name);
    }
    head.method = http::Method::GET;
    let asked = Asked { is_get: true, is_plain: true, wish: Default::default(), ..way.asked.clone() };
    let (route, upstream) = (Arc::clone(way.route), Arc::clone(way.upstream));
    let (key, begun) = (look.key.clone(), look.begun);
    let old = Old { stored: Arc::clone(stored), kept: kept.clone() };
    let listener = Arc::clone(&exchange.listener);
    // The process does not wait for this when it stops.
    tokio::spawn(async move {
        let mut timer = LazyTimer::default();
        let mut exchange = Exchange {
            service: &service,
            client: Client::Nobody,
            head,
            body: RequestBody::default(),
            timer: &mut timer,
            listener,
            ctx,
        };
        let Some(cache) = &route.cache else { return };
        let way = Way { route: &route, upstream: &upstream, cache, asked: &asked };
        tokio::select! {
            () = run(&mut exchange, &way, &key, begun, old, flight) => {}
            () = service.is_cut_off() => {}
        }
    });
}

async fn run(exchange: &mut Exchange<'_>, way: &Way<'_>, key: &str, begun: u64, old: Old, mut flight: Flight) {
    // Of all instances, one asks a server; those who wait for it give what is stale meanwhile.
    // What is never fresh is of no use to them.
    let is_for_all = !way.asked.is_own && !way.asked.credentials.any() && old.stored.life.fresh > 0;
    let share = way.cache.store.share().filter(|share| is_for_all && share.is_linked());
    if let Some(share) = share {
        let end = clock::now() + way.upstream.queue_timeout + way.route.timeouts.first_byte;
        match shared::obtain(exchange, end, &share, &way.cache.store, way.asked).await {
            Ok(Obtained::Kept(key, stored)) => return flight.land(Landed::Kept(key.into(), stored)),
            Ok(Obtained::Ticket(ticket)) => flight.is_for_all(ticket),
            Ok(Obtained::Nothing) => {}
            Err(_) => return,
        }
    }
    match way.ask(exchange, key, begun, Some(old), Some(flight), "stale").await {
        Ok(_) => finish::attempt_is_over(exchange),
        Err(Stop::Answer(answer)) => {
            attempt::judge(&mut exchange.ctx, answer.reason);
            tracing::debug!(key, reason = answer.reason.as_str(), "a stale answer could not be fetched anew");
        }
        Err(Stop::Broken(reason)) => attempt::judge(&mut exchange.ctx, reason),
    }
    exchange.ctx.attempt = None;
}
