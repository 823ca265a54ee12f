//! Token quotas: a request is let in by what was used before it, and charged at its end by what it used.
//!
//! Whatever is decided is decided before a server is chosen: a stream that has begun is never cut. Requests that run when the
//! limit is reached are finished and charged, so a quota may be exceeded by what they use.
//!
//! What was used is what the server told. Where its answer ended before it told, or tells nothing at all, each piece of a
//! stream is taken for a token of the answer, for Ollama sends one a piece, and the prompt costs nothing.
//!
//! In a cluster the sums are those of all instances, as far as they are known here; nothing waits for them.

use std::sync::Arc;

use http::{HeaderMap, HeaderName, HeaderValue, header};

use super::context::{Exchange, RequestContext, Stop};
use super::service::Service;
use super::{admission, reply};
use crate::clock;
use crate::fleet::keys::Key;
use crate::fleet::quotas::RouteQuota;
use crate::fleet::snapshot::Route;
use crate::history::quotas::Account;
use crate::ollama::usage::Usage;
use crate::policy::failure::Reason;
use crate::policy::notification::Kind;
use crate::policy::quota::{Allowance, Decision, Level, Period, Tokens};
use crate::policy::rate_limit::whole_seconds;
use crate::telemetry::access_log::moment;
use crate::units::Duration as Span;

/// Warns that much of a quota is used.
const WARNING: HeaderName = HeaderName::from_static("x-arriero-quota-warning");
/// What OpenAI's libraries and gateways read.
const LIMIT: HeaderName = HeaderName::from_static("x-ratelimit-limit-tokens");
const REMAINING: HeaderName = HeaderName::from_static("x-ratelimit-remaining-tokens");
const RESET: HeaderName = HeaderName::from_static("x-ratelimit-reset-tokens");
/// The same for whoever reads the fields of rate limits.
const PLAIN: [HeaderName; 3] = [
    HeaderName::from_static("ratelimit-limit"),
    HeaderName::from_static("ratelimit-remaining"),
    HeaderName::from_static("ratelimit-reset"),
];

/// The quotas of a request.
pub struct Quotas {
    charged: Vec<Charged>,
    fields: Vec<(HeaderName, HeaderValue)>,
    /// What the client said about compression: the server is not told, for what it compresses cannot be read.
    accept_encoding: Vec<HeaderValue>,
}

/// One of them.
struct Charged {
    /// Its place among the quotas of the route.
    number: usize,
    account: Arc<Account>,
    allowance: Allowance,
}

/// How a quota stands when a request asks.
struct Standing<'q> {
    of_route: &'q RouteQuota,
    allowance: Allowance,
    period: Period,
    left: u64,
}

impl Quotas {
    /// Says in an answer how they stand, in the place of what a server says.
    pub fn tell(&self, headers: &mut HeaderMap) {
        for (name, _) in &self.fields {
            headers.remove(name);
        }
        for (name, value) in &self.fields {
            headers.append(name, value.clone());
        }
    }

    /// The request as its client sent it, now that the server has answered.
    pub fn restore(&mut self, headers: &mut HeaderMap) {
        for value in self.accept_encoding.drain(..) {
            headers.append(header::ACCEPT_ENCODING, value);
        }
    }
}

/// Asks all quotas of the route that are about a request.
///
/// # Errors
/// When one of them is used up; then the request counts at no limit either.
pub fn ask(exchange: &mut Exchange<'_>, route: &Route) -> Result<(), Stop> {
    let ctx = &exchange.ctx;
    let Some(model) = ctx.model.as_deref().filter(|_| ctx.inference && !route.quotas.is_empty()) else {
        return Ok(());
    };
    let (facts, now) = (admission::facts(exchange, Some(model)), clock::unix_seconds());
    let unheard = ctx.snapshot.lasting.cluster.unheard();
    let mut charged = Vec::with_capacity(route.quotas.len());
    let mut fields = Vec::new();
    let mut strictest: Option<Standing<'_>> = None;
    let mut refused: Option<Standing<'_>> = None;
    for (number, of_route) in route.quotas.iter().enumerate() {
        let quota = &of_route.quota;
        let Some(allowance) = quota.allowance(ctx.key.as_deref()).filter(|_| quota.is_about(model)) else { continue };
        let subject = quota.subject(&route.name, &facts);
        let ledger = exchange.service.history.quotas();
        let account = ledger.account(&quota.name, quota.window, &subject, now);
        ledger.wonder(&account, now);
        let (period, used) = account.judge(now, unheard);
        let used = quota.counted.of(used);
        tell(ctx, of_route, &account, allowance, (period, used));
        let standing = |left| Standing { of_route, allowance, period, left };
        match allowance.decide(used, period, now) {
            Decision::Refused { .. } => {
                // The one that lasts longest says when it is worth asking again.
                if refused.as_ref().is_none_or(|other| other.period.ends < period.ends) {
                    refused = Some(standing(0));
                }
            }
            Decision::Allowed { left, warn } => {
                if warn {
                    let text = format!("{}; used={}%", quota.name, share(used, allowance.limit));
                    fields.extend(HeaderValue::try_from(text).ok().map(|text| (WARNING, text)));
                }
                // One that only warns is no reason to hold back.
                if !allowance.only_warns && strictest.as_ref().is_none_or(|other| left < other.left) {
                    strictest = Some(standing(left));
                }
            }
        }
        charged.push(Charged { number, account, allowance });
    }
    if let Some(standing) = refused {
        let stop = refuse(ctx, &standing, now);
        route.limits.give_back(&mut exchange.ctx.admitted);
        return Err(stop);
    }
    if !charged.is_empty() {
        fields.extend(strictest.iter().flat_map(|standing| token_fields(standing, now)));
        let headers = &mut exchange.head.headers;
        let accept_encoding = headers.get_all(header::ACCEPT_ENCODING).iter().cloned().collect();
        headers.remove(header::ACCEPT_ENCODING);
        exchange.ctx.quotas = Some(Box::new(Quotas { charged, fields, accept_encoding }));
    }
    Ok(())
}

fn refuse(ctx: &RequestContext, standing: &Standing<'_>, now: i64) -> Stop {
    let Standing { of_route, allowance, period, .. } = standing;
    of_route.refused.inc();
    let quota = &of_route.quota;
    let message = format!(
        "the token quota `{}` is used up: {} tokens a {}; it begins anew at {}",
        quota.name,
        allowance.limit,
        quota.window.as_str(),
        moment_of(period.ends),
    );
    let mut answer = reply::problem(ctx, Reason::QuotaExceeded, &message);
    let seconds = HeaderValue::from(whole_seconds(period.left(now)));
    answer.fields.push((header::RETRY_AFTER, seconds.clone()));
    let [limit, remaining, reset] = PLAIN;
    answer.fields.extend([
        (limit, HeaderValue::from(allowance.limit)),
        (remaining, HeaderValue::from(0)),
        (reset, seconds),
    ]);
    answer.fields.extend(token_fields(standing, now));
    answer.into()
}

fn token_fields(standing: &Standing<'_>, now: i64) -> [(HeaderName, HeaderValue); 3] {
    let reset = Span(standing.period.left(now)).to_string();
    [
        (LIMIT, HeaderValue::from(standing.allowance.limit)),
        (REMAINING, HeaderValue::from(standing.left)),
        (RESET, HeaderValue::try_from(reset).unwrap_or_else(|_| HeaderValue::from_static("0s"))),
    ]
}

/// A request has ended: charges it.
pub fn charge(service: &Service, ctx: &mut RequestContext, usage: &Usage) {
    let Some(quotas) = ctx.quotas.take() else { return };
    let Some(route) = ctx.route.clone() else { return };
    let is_good = |status: u16| (200..300).contains(&status);
    let went_well = ctx.attempt.as_ref().and_then(|attempt| attempt.status).is_some_and(is_good);
    if !went_well && ctx.cache.tokens == 0 {
        // Nobody worked for it.
        return;
    }
    if !usage.tells_tokens()
        && let Some(of_route) = route.quotas.first()
    {
        of_route.untold.inc();
    }
    let (prompt, output) = usage.tokens();
    let tokens = Tokens { prompt, output };
    let unheard = ctx.snapshot.lasting.cluster.unheard();
    let now = clock::unix_seconds();
    for Charged { number, account, allowance } in &quotas.charged {
        let Some(of_route) = route.quotas.get(*number) else { continue };
        service.history.charge(account, tokens, now);
        let counted = of_route.quota.counted;
        of_route.charged.inc_by(counted.of(tokens));
        let (period, used) = account.judge(now, unheard);
        let used = counted.of(used);
        if allowance.level(used) != Level::Within {
            // Others should know soon.
            service.history.quotas().hurry();
        }
        tell(ctx, of_route, account, *allowance, (period, used));
    }
}

/// Tells people, once a window, that much of a quota or all of it is used.
fn tell(
    ctx: &RequestContext,
    of_route: &RouteQuota,
    account: &Account,
    allowance: Allowance,
    (period, used): (Period, u64),
) {
    let level = allowance.level(used);
    if !account.is_news(level) {
        return;
    }
    let (quota, subject) = (&of_route.quota.name, &account.subject);
    let (kind, said) = match level {
        Level::Within => return,
        Level::Warned => (Kind::QuotaWarning, "nearly used up"),
        Level::Exceeded if allowance.only_warns => (Kind::QuotaExceeded, "used up, and only warns"),
        Level::Exceeded => (Kind::QuotaExceeded, "used up"),
    };
    let named = |key: &Key| if subject.contains("api_key=") { format!(" ({})", key.name) } else { String::new() };
    let name = ctx.key.as_deref().map(named).unwrap_or_default();
    let message = format!(
        "the token quota `{quota}` of {subject}{name} is {said}: {used} of {} tokens, {}%; it begins anew at {}",
        allowance.limit,
        share(used, allowance.limit),
        moment_of(period.ends),
    );
    tracing::info!(quota, subject, used, limit = allowance.limit, "{}", kind.as_str());
    ctx.snapshot.lasting.telling.events.tell(kind, format!("{quota} {subject}"), &message);
}

/// Whole hundredths.
fn share(used: u64, limit: u64) -> u128 {
    u128::from(used) * 100 / u128::from(limit.max(1))
}

/// A second of a window as people read it.
fn moment_of(seconds: i64) -> String {
    #[expect(clippy::cast_precision_loss, reason = "seconds of this century")]
    moment(seconds as f64)
}
