//! The limits of a route: how often, and how many at a time.
//!
//! # Problem
//! Some limits can be decided from a request's head. Those that count by model must wait until the model is
//! known, which may be deep in the body. And a request that a later limit refuses must not have used up the
//! earlier ones.
//!
//! # Shape
//! [`RouteLimits::before_body`] decides what the head decides and gives an [`Admitted`], which the request
//! keeps to its end. [`RouteLimits::after_model`] decides the rest, once it is known which model the body
//! names or that it names none. What a refused request took is given back.
//!
//! # Invariants
//! - Keys that clients send are hashed under a secret and never kept or shown. Instances that share limits know each other's keys by
//!   a SHA-256 of what they count by, which is made when a key is first taken from.
//! - A limit by model does not count requests without a model. All other limits count every request: one
//!   without the header field of a key counts under the empty value, one without an API key under its address.
//! - An IPv6 client is its /64.

use std::hash::{Hash, Hasher};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::{HeaderMap, HeaderName, HeaderValue};
use prometheus_client::metrics::counter::Counter;
use sha2::{Digest, Sha256};

use super::concurrency::{Concurrency, Hold};
use super::limiter::{Answer, Ask, Limiter, SharedId, Taken};
use crate::policy::failure::Reason;
use crate::policy::network::network_of;
use crate::policy::rate_limit::{Quota, RateLimit, quota_fields, refusal_fields};

#[cfg(test)]
mod tests;

/// When a request that found too many of its kind running may try again: nobody knows, so soon.
const RETRY_SOON: Duration = Duration::from_secs(1);

/// What limits look at.
#[derive(Clone, Copy)]
pub struct Facts<'a> {
    /// The client's address, behind trusted proxies the one that these name.
    pub client_ip: IpAddr,
    /// Name of the API key that the request was authenticated with.
    pub key_id: Option<&'a str>,
    /// Canonical name of the model; `None` while it is not known, and when there is none.
    pub model: Option<&'a str>,
    /// The canonical name of the host that is asked; empty where there is none.
    pub host: &'a str,
    /// The request's header fields.
    pub headers: &'a HeaderMap,
    /// The present.
    pub now: Instant,
}

/// A part of what a limit counts by.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum KeyPart {
    /// The client's address.
    ClientIp,
    /// The API key, or the client's address without one.
    ApiKey,
    /// Nothing: all requests of the route together.
    Route,
    /// The model.
    Model,
    /// The host that is asked.
    Host,
    /// A header field, as it was sent.
    Header(HeaderName),
}

/// What a limit counts by: all of these together.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct LimitKey(pub Vec<KeyPart>);

impl LimitKey {
    /// Whether a request has this key before its model is known.
    fn is_early(&self) -> bool {
        !self.0.contains(&KeyPart::Model)
    }
}

/// A limit on how often.
#[derive(Clone, Debug)]
pub struct Rate {
    /// What it counts by.
    pub key: LimitKey,
    /// Its numbers.
    pub limit: RateLimit,
    /// Says which limit it is, also in the next snapshot.
    identity: u64,
    /// The same for all instances of a cluster: what says which limit it is.
    shared: Sha256,
}

/// A limit on how many at a time.
#[derive(Clone, Debug)]
pub struct AtATime {
    /// What it counts by.
    pub key: LimitKey,
    /// Most requests that run.
    pub most: u32,
    identity: u64,
}

/// All limits of a route.
pub struct RouteLimits {
    /// How often, in the order of the file.
    pub rates: Vec<Rate>,
    /// How many at a time, in the order of the file.
    pub at_a_time: Vec<AtATime>,
    limiter: Arc<Limiter>,
    running: Arc<Concurrency>,
    refused: Counter,
}

/// A request that the limits let pass. It is kept until the request ends: its places in limits on how many
/// run at a time are free when it leaves or is dropped.
#[derive(Debug, Default)]
pub struct Admitted {
    holds: Vec<Hold>,
    taken: Vec<Taken>,
    quota: Option<Quota>,
    not_before: Option<Instant>,
}

impl Admitted {
    /// When the request may go on to a server, if a limit delays it.
    #[must_use]
    pub fn not_before(&self) -> Option<Instant> {
        self.not_before
    }

    /// What the answer says about the strictest limit. They replace fields of the same name.
    pub fn fields(&self) -> impl Iterator<Item = (HeaderName, HeaderValue)> + use<> {
        self.quota.into_iter().flat_map(quota_fields)
    }

    /// Gives back its places in limits on how many run at a time.
    pub fn leave(&mut self) {
        self.holds.clear();
    }

    fn told(&mut self, wait: Duration, quota: Option<Quota>, now: Instant) {
        if !wait.is_zero() {
            let until = now.checked_add(wait);
            self.not_before = self.not_before.max(until);
        }
        self.quota = match (self.quota, quota) {
            (Some(one), Some(other)) => Some(one.stricter(other)),
            (one, other) => one.or(other),
        };
    }
}

/// Why a request was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refused {
    /// [`Reason::RateLimited`] or [`Reason::ConcurrencyLimited`].
    pub reason: Reason,
    retry_after: Duration,
    quota: Option<Quota>,
}

impl Refused {
    /// `Retry-After`, and what the limit says.
    pub fn fields(&self) -> impl Iterator<Item = (HeaderName, HeaderValue)> + use<> {
        refusal_fields(self.retry_after, self.quota)
    }
}

impl RouteLimits {
    /// Limits of the route `name`, which share their keys with all of the process.
    pub fn new(
        name: &str,
        rates: Vec<(LimitKey, RateLimit)>,
        at_a_time: Vec<(LimitKey, u32)>,
        (limiter, running): (Arc<Limiter>, Arc<Concurrency>),
        refused: Counter,
    ) -> Self {
        let rates = rates.into_iter().enumerate().map(|(number, (key, limit))| {
            let identity = limiter.hash(&("rate", name, number, &key, limit));
            let shared =
                Named::default().with(name.as_bytes()).with(&(number as u64).to_le_bytes()).limit(&key, &limit);
            Rate { key, limit, identity, shared }
        });
        // A limit that changes its number still counts those that run.
        let at_a_time = at_a_time.into_iter().enumerate().map(|(number, (key, most))| {
            let identity = limiter.hash(&("at a time", name, number, &key));
            AtATime { key, most, identity }
        });
        Self { rates: rates.collect(), at_a_time: at_a_time.collect(), limiter, running, refused }
    }

    /// Decides all limits that do not count by model.
    ///
    /// # Errors
    /// Why the request is refused; it has been counted in the metric of refused requests and nowhere else.
    pub fn before_body(&self, facts: &Facts<'_>) -> Result<Admitted, Refused> {
        let mut admitted = Admitted::default();
        self.decide(facts, true, &mut admitted)?;
        Ok(admitted)
    }

    /// Decides the limits that count by model, when the model is known or known not to be there. For a route
    /// without such limits this does nothing.
    ///
    /// # Errors
    /// Why the request is refused. What `admitted` had taken is given back.
    pub fn after_model(&self, facts: &Facts<'_>, admitted: &mut Admitted) -> Result<(), Refused> {
        if facts.model.is_none() {
            return Ok(());
        }
        self.decide(facts, false, admitted)
    }

    /// Gives back all that a request took that is refused for whatever reason.
    pub fn give_back(&self, admitted: &mut Admitted) {
        self.limiter.give_back(&admitted.taken);
        *admitted = Admitted::default();
    }

    /// Whether any limit counts by model.
    #[must_use]
    pub fn need_model(&self) -> bool {
        let keys = self.rates.iter().map(|rate| &rate.key).chain(self.at_a_time.iter().map(|limit| &limit.key));
        keys.into_iter().any(|key| !key.is_early())
    }

    fn decide(&self, facts: &Facts<'_>, early: bool, admitted: &mut Admitted) -> Result<(), Refused> {
        let decided = self.try_decide(facts, early, admitted);
        if decided.is_err() {
            self.refused.inc();
            self.give_back(admitted);
        }
        decided
    }

    fn try_decide(&self, facts: &Facts<'_>, early: bool, admitted: &mut Admitted) -> Result<(), Refused> {
        for limit in self.at_a_time.iter().filter(|limit| limit.key.is_early() == early) {
            let Some(hold) = self.running.enter(self.key(limit.identity, &limit.key, facts), limit.most) else {
                return Err(Refused { reason: Reason::ConcurrencyLimited, retry_after: RETRY_SOON, quota: None });
            };
            admitted.holds.push(hold);
        }
        let rates = self.rates.iter().filter(|rate| rate.key.is_early() == early);
        let asks: Vec<Ask<'_>> = rates
            .clone()
            .map(|Rate { key, limit, identity, .. }| Ask {
                limit,
                identity: *identity,
                key: self.key(*identity, key, facts),
            })
            .collect();
        if asks.is_empty() {
            return Ok(());
        }
        let name = |place| rates.clone().nth(place).map(|rate| rate.name(facts)).unwrap_or_default();
        match self.limiter.ask(&asks, facts.now, &mut admitted.taken, name) {
            Answer::Granted { wait, quota } => {
                admitted.told(wait, quota, facts.now);
                Ok(())
            }
            Answer::Refused { retry_after, quota } => {
                Err(Refused { reason: Reason::RateLimited, retry_after, quota: Some(quota) })
            }
        }
    }

    fn key(&self, identity: u64, key: &LimitKey, facts: &Facts<'_>) -> u64 {
        self.limiter.hash(&Keyed { identity, key, facts })
    }
}

impl Rate {
    /// The key of a request as all instances of a cluster name it.
    fn name(&self, facts: &Facts<'_>) -> SharedId {
        let mut named = Named(self.shared.clone());
        for part in &self.key.0 {
            named = match part {
                KeyPart::ClientIp => named.ip(facts.client_ip),
                KeyPart::ApiKey => match facts.key_id {
                    Some(id) => named.with(b"id").with(id.as_bytes()),
                    None => named.with(b"ip").ip(facts.client_ip),
                },
                KeyPart::Route => named,
                KeyPart::Model => named.with(facts.model.unwrap_or_default().as_bytes()),
                KeyPart::Host => named.with(facts.host.as_bytes()),
                KeyPart::Header(name) => {
                    let values = facts.headers.get_all(name);
                    let count = (values.iter().count() as u64).to_le_bytes();
                    values.iter().fold(named.with(&count), |named, value| named.with(value.as_bytes()))
                }
            };
        }
        let digest: [u8; 32] = named.0.finalize().into();
        digest.first_chunk().copied().unwrap_or_default()
    }
}

/// What a name is made of: parts, each with its length, so that no two lists are written the same.
#[derive(Default)]
struct Named(Sha256);

impl Named {
    fn with(mut self, part: &[u8]) -> Self {
        self.0.update((part.len() as u64).to_le_bytes());
        self.0.update(part);
        self
    }

    fn ip(self, ip: IpAddr) -> Self {
        self.with(network_of(ip).to_string().as_bytes())
    }

    fn limit(self, key: &LimitKey, limit: &RateLimit) -> Sha256 {
        let numbers = [limit.count(), limit.burst(), limit.delayed()].map(u32::to_le_bytes).concat();
        let named = self.with(&numbers).with(&limit.period().as_nanos().to_le_bytes());
        let word = |part: &KeyPart| match part {
            KeyPart::ClientIp => "client_ip".to_owned(),
            KeyPart::ApiKey => "api_key".to_owned(),
            KeyPart::Route => "route".to_owned(),
            KeyPart::Model => "model".to_owned(),
            KeyPart::Host => "host".to_owned(),
            KeyPart::Header(name) => format!("header:{name}"),
        };
        key.0.iter().fold(named, |named, part| named.with(word(part).as_bytes())).0
    }
}

/// A request as one limit sees it.
struct Keyed<'a> {
    identity: u64,
    key: &'a LimitKey,
    facts: &'a Facts<'a>,
}

impl Hash for Keyed<'_> {
    fn hash<H: Hasher>(&self, hasher: &mut H) {
        let facts = self.facts;
        self.identity.hash(hasher);
        for part in &self.key.0 {
            match part {
                KeyPart::ClientIp => network_of(facts.client_ip).hash(hasher),
                // The two must not meet: a key may be named as an address is written.
                KeyPart::ApiKey => facts.key_id.ok_or_else(|| network_of(facts.client_ip)).hash(hasher),
                KeyPart::Route => {}
                KeyPart::Model => facts.model.hash(hasher),
                KeyPart::Host => facts.host.hash(hasher),
                KeyPart::Header(name) => {
                    let values = facts.headers.get_all(name);
                    values.iter().for_each(|value| value.as_bytes().hash(hasher));
                    values.iter().count().hash(hasher);
                }
            }
        }
    }
}
