//! From what was typed to what runs. Every default is resolved here, once.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use http::{HeaderName, HeaderValue, Method};

use super::inventory::ModelIndex;
use super::server::{Identity, Location, ServerState};
use super::snapshot::{
    Balance, Check, HashOn, ListenerSettings, Member, RequestEncoding, Route, Snapshot, Timeouts, Upstream,
};
use crate::config::ServerUrl;
use crate::config::types::{self, Active, BalancePolicy, Config, Kind, ModelAffinity};
use crate::ollama::ModelPattern;
use crate::policy::balance::affinity::Affinity;
use crate::policy::balance::consistent_hash::ConsistentHash;
use crate::policy::balance::round_robin::RoundRobin;
use crate::policy::caps::Caps;
use crate::policy::circuit::CircuitPolicy;
use crate::policy::health::HealthPolicy;
use crate::policy::retry::{RetryOn, RetryPolicy};
use crate::routing::table::{ModelMatch, RouteMatch, RouteTable};
use crate::telemetry::metrics::Metrics;

/// A part of the configuration that validation let through and that still cannot run. Validation
/// catches these first, with a position in the file; this is the second line.
#[derive(Debug, thiserror::Error)]
#[error("`{path}`: {problem}")]
pub struct CompileError {
    /// Where in the file.
    pub path: String,
    /// What is wrong.
    pub problem: String,
}

fn error(path: impl Into<String>, problem: impl ToString) -> CompileError {
    CompileError { path: path.into(), problem: problem.to_string() }
}

/// Beside the configuration, what compiling needs.
pub struct Surroundings<'a> {
    /// Servers of the snapshot before, to be kept where they are the same.
    pub servers: HashMap<Identity, Arc<ServerState>>,
    /// Metrics of the process.
    pub metrics: &'a Arc<Metrics>,
    /// The present.
    pub now: Instant,
    /// The present in seconds since 1970.
    pub unix_time: f64,
}

/// Compiles a validated configuration. Nothing that runs is touched until the result is published.
///
/// # Errors
/// The first part that cannot run.
pub fn compile(config: &Config, hash: String, around: &Surroundings<'_>) -> Result<Snapshot, CompileError> {
    let upstreams = config
        .upstreams
        .iter()
        .map(|(name, upstream)| compile_upstream(name, upstream, around).map(Arc::new))
        .collect::<Result<Vec<_>, _>>()?;
    let by_name: HashMap<&str, &Arc<Upstream>> =
        upstreams.iter().map(|upstream| (upstream.name.as_str(), upstream)).collect();
    let mut routes = Vec::with_capacity(config.routes.len());
    let mut matches = Vec::with_capacity(config.routes.len());
    for (number, route) in config.routes.iter().enumerate() {
        let path = format!("routes[{number}]");
        matches.push(compile_match(&path, &route.matches)?);
        let upstream = by_name
            .get(route.upstream.as_str())
            .ok_or_else(|| error(format!("{path}.upstream"), "no such upstream"))?;
        let retry = compile_retry(&route.retry);
        routes.push(Arc::new(Route {
            name: route.name.clone(),
            upstream: Arc::clone(upstream),
            timeouts: compile_timeouts(&route.timeouts, &config.defaults.timeouts),
            body_limit: route
                .limits
                .request_body
                .or(config.defaults.limits.request_body)
                .map_or(100 << 20, |size| size.0),
            holds: retry.attempts > 1 && retry.on.iter().any(|on| *on != RetryOn::Connect),
            retry,
            management: route.management == types::Permission::Allow,
            cloud: route.cloud_models == types::Permission::Allow,
            caps: compile_caps(&route.caps),
            request_encoding: compile_encoding(route.request_encoding, upstream.kind),
            metrics: around.metrics.route(&route.name, &route.upstream),
        }));
    }
    let snapshot = Snapshot {
        largest_body: routes.iter().map(|route| route.body_limit).max().unwrap_or(0),
        any_holds: routes.iter().any(|route| route.holds),
        any_replays_post: routes.iter().any(|route| route.holds && route.retry.replay_post),
        hash,
        loaded_at: around.unix_time,
        table: RouteTable::build(matches),
        routes,
        upstreams,
        listeners: config.listeners.iter().map(|listener| Arc::new(compile_listener(listener))).collect(),
        body_memory: to_usize(config.server.body_memory.0),
        access_log: config.telemetry.access_log == types::AccessLog::Json,
        drain: config.server.drain.0,
    };
    Ok(snapshot)
}

fn to_usize(bytes: u64) -> usize {
    usize::try_from(bytes).unwrap_or(usize::MAX)
}

fn compile_listener(listener: &types::Listener) -> ListenerSettings {
    ListenerSettings {
        h2c: listener.h2c,
        header_timeout: listener.timeouts.request_header.0,
        body_timeout: listener.timeouts.request_body.0,
        keepalive: listener.timeouts.keepalive.0,
        write_timeout: listener.timeouts.write.0,
        header_bytes: to_usize(listener.limits.header_bytes.0),
        header_fields: listener.limits.header_fields as usize,
        target_bytes: to_usize(listener.limits.target_bytes.0),
    }
}

fn compile_match(path: &str, matches: &types::Match) -> Result<RouteMatch, CompileError> {
    let methods = matches.method.as_slice().iter().map(|method| Method::from_bytes(method.as_bytes()));
    let headers = matches
        .header
        .iter()
        .map(|(name, value)| HeaderName::try_from(name.as_str()).map(|name| (name, value.clone())));
    let models = matches.model.as_slice().iter().map(|pattern| {
        let parsed =
            ModelPattern::parse(pattern).ok_or_else(|| error(format!("{path}.match.model"), "not a model name"))?;
        Ok(match parsed.is_literal() {
            Some(literal) => ModelMatch::Literal(literal.to_owned()),
            None => ModelMatch::Glob(parsed.to_string()),
        })
    });
    Ok(RouteMatch {
        hosts: matches.host.as_slice().to_vec(),
        paths: matches.path.as_slice().to_vec(),
        methods: methods.collect::<Result<_, _>>().map_err(|bad| error(format!("{path}.match.method"), bad))?,
        headers: headers.collect::<Result<_, _>>().map_err(|bad| error(format!("{path}.match.header"), bad))?,
        models: models.collect::<Result<_, CompileError>>()?,
    })
}

fn compile_timeouts(own: &types::Timeouts, defaults: &types::Timeouts) -> Timeouts {
    let or = |own: Option<crate::units::Duration>, default: Option<crate::units::Duration>, seconds: u64| {
        own.or(default).map_or(Duration::from_secs(seconds), |duration| duration.0)
    };
    Timeouts {
        connect: or(own.connect, defaults.connect, 2),
        tls: or(own.tls, defaults.tls, 5),
        first_byte: or(own.first_byte, defaults.first_byte, 600),
        read: or(own.read, defaults.read, 300),
        write: or(own.write, defaults.write, 60),
        request: own.request.or(defaults.request).map(|duration| duration.0),
    }
}

fn compile_retry(retry: &types::Retry) -> RetryPolicy {
    let on = retry.on.iter().map(|on| match on {
        types::RetryOn::Connect => RetryOn::Connect,
        types::RetryOn::Reset => RetryOn::Reset,
        types::RetryOn::FirstByteTimeout => RetryOn::FirstByteTimeout,
        types::RetryOn::ServerError => RetryOn::ServerError,
        types::RetryOn::Status(status) => RetryOn::Status(*status),
    });
    RetryPolicy { attempts: retry.attempts, on: on.collect(), replay_post: retry.replay_post }
}

fn compile_caps(caps: &types::Caps) -> Caps {
    Caps {
        keep_alive: caps.keep_alive.map(|longest| longest.0),
        num_ctx: caps.num_ctx,
        num_predict: caps.num_predict,
        num_gpu: caps.num_gpu,
    }
}

fn compile_encoding(encoding: Option<types::RequestEncoding>, kind: Kind) -> RequestEncoding {
    match (encoding, kind) {
        (Some(types::RequestEncoding::Deny), _) | (None, Kind::Ollama | Kind::Openai) => RequestEncoding::Deny,
        (Some(types::RequestEncoding::Decode), _) => RequestEncoding::Decode,
        (None, Kind::Http) => RequestEncoding::Pass,
    }
}

fn compile_upstream(
    name: &str,
    upstream: &types::Upstream,
    around: &Surroundings<'_>,
) -> Result<Upstream, CompileError> {
    let check = compile_check(upstream);
    let health = match (&check, &upstream.health.active) {
        (Some(_), Some(Active::Check(check))) => {
            HealthPolicy { healthy: check.healthy, unhealthy: check.unhealthy, start_period: check.start_period.0 }
        }
        _ => {
            let default = types::Check::default();
            HealthPolicy {
                healthy: default.healthy,
                unhealthy: default.unhealthy,
                start_period: default.start_period.0,
            }
        }
    };
    let circuit = CircuitPolicy {
        consecutive_failures: upstream.circuit.consecutive_failures,
        open_for: upstream.circuit.open_for.0,
        max_open_for: upstream.circuit.max_open_for.0,
    };
    let servers = upstream
        .servers
        .iter()
        .enumerate()
        .map(|(number, entry)| {
            let location = locate(&entry.url)
                .map_err(|problem| error(format!("upstreams.{name}.servers[{number}].url"), problem))?;
            let identity = Identity {
                upstream: name.to_owned(),
                name: entry.name.clone().unwrap_or_else(|| default_name(&location)),
                url: entry.url.clone(),
            };
            let state = match around.servers.get(&identity) {
                Some(known) => Arc::clone(known),
                None => {
                    let metrics = around.metrics.server(name, &identity.name);
                    Arc::new(ServerState::new(identity, location, metrics, health.clone(), circuit.clone(), around.now))
                }
            };
            Ok(Member { state, weight: entry.weight, max_in_flight: entry.max_in_flight.unwrap_or(u32::MAX) })
        })
        .collect::<Result<Vec<_>, CompileError>>()?;
    let compiled = Upstream {
        name: name.to_owned(),
        kind: upstream.kind,
        http2: upstream.http2,
        balance: compile_balance(name, upstream, &servers)?,
        max_idle: upstream.keepalive.max_idle,
        idle_timeout: upstream.keepalive.idle_timeout.0,
        check,
        inventory_interval: upstream.inventory.interval.0,
        models: ArcSwap::from_pointee(ModelIndex::default()),
        servers,
        health,
        circuit,
    };
    compiled.index_models();
    Ok(compiled)
}

fn default_name(location: &Location) -> String {
    format!("{}:{}", location.host, location.port)
}

fn compile_check(upstream: &types::Upstream) -> Option<Check> {
    let check = match (&upstream.health.active, upstream.kind) {
        (Some(Active::Off(_)), _) | (None, Kind::Http) => return None,
        (Some(Active::Check(check)), _) => check.clone(),
        (None, Kind::Ollama | Kind::Openai) => types::Check::default(),
    };
    let default_path = match upstream.kind {
        Kind::Ollama => "/api/version",
        Kind::Openai => "/v1/models",
        Kind::Http => "/",
    };
    Some(Check {
        path: check.path.unwrap_or_else(|| default_path.to_owned()),
        interval: check.interval.0,
        timeout: check.timeout.0,
    })
}

fn compile_balance(name: &str, upstream: &types::Upstream, servers: &[Member]) -> Result<Balance, CompileError> {
    let balance = &upstream.balance;
    let hash_on = match balance.hash_on.as_deref() {
        None | Some("client_ip") => HashOn::ClientIp,
        Some("model") => HashOn::Model,
        Some(other) => {
            let header = other.strip_prefix("header:").unwrap_or(other);
            HashOn::Header(
                HeaderName::try_from(header).map_err(|bad| error(format!("upstreams.{name}.balance.hash_on"), bad))?,
            )
        }
    };
    let weights: Vec<u32> = servers.iter().map(|member| member.weight).collect();
    Ok(Balance {
        policy: balance.policy.unwrap_or(match upstream.kind {
            Kind::Http => BalancePolicy::RoundRobin,
            Kind::Ollama | Kind::Openai => BalancePolicy::LeastRequests,
        }),
        affinity: match balance.model_affinity {
            ModelAffinity::PreferLoaded => Affinity::PreferLoaded,
            ModelAffinity::RequireLoaded => Affinity::RequireLoaded,
            ModelAffinity::Off => Affinity::Off,
        },
        hash_on,
        schedule: RoundRobin::new(&weights),
        ring: ConsistentHash::new(servers.iter().map(|member| (member.state.name(), member.weight))),
        turn: AtomicU64::new(0),
    })
}

fn locate(url: &str) -> Result<Location, String> {
    let ServerUrl { tls, address } = ServerUrl::parse(url)?;
    // As the Host field has it, without the scheme's own port.
    let host = if address.host.contains(':') { format!("[{}]", address.host) } else { address.host.clone() };
    let default_port = if tls { 443 } else { 80 };
    let authority = if address.port == default_port { host } else { format!("{host}:{}", address.port) };
    let authority = HeaderValue::from_str(&authority).map_err(|bad| bad.to_string())?;
    Ok(Location { tls, host: address.host, port: address.port, authority })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_taken_apart() {
        let plain = locate("http://10.0.0.1:11434").unwrap();
        assert_eq!((plain.tls, plain.host.as_str(), plain.port), (false, "10.0.0.1", 11434));
        let tls = locate("https://[::1]").unwrap();
        assert_eq!((tls.tls, tls.host.as_str(), tls.port), (true, "::1", 443));
        assert_eq!(tls.authority, "[::1]");
        assert!(locate("ftp://a").is_err());
    }
}
