//! From what was typed to what runs. Every default is resolved here, once.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use http::{HeaderName, HeaderValue, Method};

use super::content::Target;
use super::inventory::ModelIndex;
use super::limiter::Limiter;
use super::server::{Identity, Location, ServerState};
use super::snapshot::{Balance, Check, HashOn, Lasting, Member, Route, Snapshot, Timeouts, Upstream};
use super::upstream_tls::UpstreamTls;
use crate::config::ServerUrl;
use crate::config::types::{self, Active, BalancePolicy, Config, Kind, ModelAffinity};
use crate::ollama::ModelPattern;
use crate::policy::balance::affinity::Affinity;
use crate::policy::balance::consistent_hash::ConsistentHash;
use crate::policy::balance::round_robin::RoundRobin;
use crate::policy::balance::sticky::StickyCookie;
use crate::policy::caps::Caps;
use crate::policy::circuit::CircuitPolicy;
use crate::policy::health::HealthPolicy;
use crate::policy::retry::{RetryOn, RetryPolicy};
use crate::routing::Scheme;
use crate::routing::table::{ModelMatch, RouteMatch, RouteTable};
use crate::telemetry::access_log::Format;
use crate::telemetry::metrics::Metrics;

mod access;
mod content;
mod limits;
mod listeners;

pub use content::pages_stamp;

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

/// Compiles the first configuration of a process, once validated.
///
/// # Errors
/// The first part that cannot run.
pub fn compile(config: &Config, hash: String, around: &Surroundings<'_>) -> Result<Snapshot, CompileError> {
    let lasting = Lasting {
        limiter: Arc::new(Limiter::new(around.metrics.limiter_keys.clone(), around.now)),
        running: Arc::default(),
        connections: Arc::default(),
    };
    compile_with(config, hash, around, lasting, None)
}

/// Compiles a validated configuration that follows `before`: what limits count goes on, and keys are kept if their file
/// is the same. Nothing that runs is touched until the result is published.
///
/// # Errors
/// The first part that cannot run.
pub fn compile_next(
    config: &Config,
    hash: String,
    around: &Surroundings<'_>,
    before: &Snapshot,
) -> Result<Snapshot, CompileError> {
    compile_with(config, hash, around, before.lasting.clone(), Some(before))
}

fn compile_with(
    config: &Config,
    hash: String,
    around: &Surroundings<'_>,
    lasting: Lasting,
    before: Option<&Snapshot>,
) -> Result<Snapshot, CompileError> {
    let keys = access::keys(&config.auth, before.and_then(|before| before.keys.as_ref()))?;
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
        let target = compile_target(&path, route, &by_name)?;
        let kind = if let Target::Upstream(upstream) = &target { Some(upstream.kind) } else { None };
        let retry = compile_retry(&route.retry);
        let metrics = around.metrics.route(&route.name, route.upstream.as_deref().unwrap_or(NO_UPSTREAM));
        routes.push(Arc::new(Route {
            name: route.name.clone(),
            content: content::compile_content(&path, route, kind)?,
            target,
            timeouts: compile_timeouts(&route.timeouts, &config.defaults.timeouts),
            body_limit: route
                .limits
                .request_body
                .or(config.defaults.limits.request_body)
                .map_or(100 << 20, |size| size.0),
            holds: retry.attempts > 1 && retry.on.iter().any(|on| *on != RetryOn::Connect),
            limits: limits::compile(&path, route, &lasting, metrics.rate_limited.clone())?,
            retry,
            auth: access::mode(route.auth, keys.is_some()),
            access: access::access(&path, &route.access)?,
            cors: access::cors(&path, route.cors.as_ref())?,
            management: route.management == types::Permission::Allow,
            cloud: route.cloud_models == types::Permission::Allow,
            caps: compile_caps(&route.caps),
            metrics,
        }));
    }
    let listeners = before.map_or(&[][..], |before| &before.listeners);
    let snapshot = Snapshot {
        largest_body: routes.iter().map(|route| route.body_limit).max().unwrap_or(0),
        any_holds: routes.iter().any(|route| route.holds),
        any_replays_post: routes.iter().any(|route| route.holds && route.retry.replay_post),
        hash,
        loaded_at: around.unix_time,
        table: RouteTable::build(matches),
        routes,
        upstreams,
        keys,
        listeners: listeners::compile(&config.listeners, listeners, &lasting)?,
        body_memory: to_usize(config.server.body_memory.0),
        access_log: match config.telemetry.access_log {
            types::AccessLog::Json => Some(Format::Json),
            types::AccessLog::Combined => Some(Format::Combined),
            types::AccessLog::Off => None,
        },
        pages: pages_stamp(config),
        drain: config.server.drain.0,
        drain_delay: config.server.drain_delay.0,
        reserved_files: config.server.reserved_files,
        lasting,
    };
    Ok(snapshot)
}

/// The label `upstream` of a route that has none.
const NO_UPSTREAM: &str = "-";

fn compile_target(
    path: &str,
    route: &types::Route,
    upstreams: &HashMap<&str, &Arc<Upstream>>,
) -> Result<Target, CompileError> {
    match (&route.upstream, &route.respond, &route.redirect, &route.files) {
        (Some(name), None, None, None) => {
            let upstream = upstreams.get(name.as_str());
            upstream
                .map(|upstream| Target::Upstream(Arc::clone(upstream)))
                .ok_or_else(|| error(format!("{path}.upstream"), "no such upstream"))
        }
        (None, Some(respond), None, None) => {
            content::compile_respond(&format!("{path}.respond"), respond).map(Target::Respond)
        }
        (None, None, Some(redirect), None) => {
            content::compile_redirect(&format!("{path}.redirect"), redirect).map(Target::Redirect)
        }
        (None, None, None, Some(files)) => content::compile_files(&format!("{path}.files"), files).map(Target::Files),
        _ => Err(error(path, "a route has exactly one target")),
    }
}

fn to_usize(bytes: u64) -> usize {
    usize::try_from(bytes).unwrap_or(usize::MAX)
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
        scheme: matches.scheme.map(|scheme| match scheme {
            types::Scheme::Http => Scheme::Http,
            types::Scheme::Https => Scheme::Https,
        }),
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
        upgrade: or(own.upgrade, defaults.upgrade, 7 * 24 * 3600),
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
    let encrypted = upstream.tls.is_some() || servers.iter().any(|member| member.state.location.tls);
    let tls =
        encrypted.then(|| UpstreamTls::load(upstream.tls.clone().unwrap_or_default(), upstream.http2)).transpose();
    let compiled = Upstream {
        name: name.to_owned(),
        kind: upstream.kind,
        http2: upstream.http2,
        tls: tls.map_err(|problem| error(format!("upstreams.{name}.tls"), problem))?,
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
    let sticky = balance.sticky_cookie.as_ref().map(|cookie| StickyCookie {
        name: cookie.name.clone(),
        ttl: cookie.ttl.0,
        secure: cookie.secure,
        path: cookie.path.clone(),
    });
    let hash_on = match balance.hash_on.as_deref() {
        None => sticky.as_ref().map_or(HashOn::ClientIp, |cookie| HashOn::Cookie(cookie.name.clone())),
        Some("client_ip") => HashOn::ClientIp,
        Some("model") => HashOn::Model,
        Some(other) if other.starts_with("cookie:") => HashOn::Cookie(other["cookie:".len()..].to_owned()),
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
        sticky,
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
    use std::net::IpAddr;

    use super::*;
    use crate::clock;
    use crate::fleet::connections::TooMany;
    use crate::fleet::limits::Facts;
    use crate::fleet::store::Store;

    /// A configuration with a limit on how often, and one on the connections of a client.
    fn snapshot(rate: &str, per_client: u32, metrics: &Arc<Metrics>, before: Option<&Snapshot>) -> Snapshot {
        let text = format!(
            "version: 1\nlisteners:\n  - {{ address: \"127.0.0.1:0\", limits: {{ connections_per_ip: {per_client} }} }}\n\
             routes: [{{ name: all, upstream: web, rate_limits: [{{ {rate} }}] }}]\n\
             upstreams: {{ web: {{ kind: http, servers: [{{ url: \"http://127.0.0.1:1\" }}] }} }}\n"
        );
        let loaded = crate::config::parse("test", &text, &|_| None).unwrap();
        let around = Surroundings { servers: HashMap::new(), metrics, now: clock::now(), unix_time: 0.0 };
        match before {
            None => compile(&loaded.config, loaded.hash, &around).unwrap(),
            Some(before) => compile_next(&loaded.config, loaded.hash, &around, before).unwrap(),
        }
    }

    #[test]
    fn what_limits_count_goes_on_in_the_next_snapshot() {
        let metrics = Arc::new(Metrics::default());
        let (headers, client_ip) = (http::HeaderMap::new(), IpAddr::from([192, 0, 2, 1]));
        let facts = Facts { client_ip, key_id: None, model: None, host: "", headers: &headers, now: clock::now() };
        let passed =
            |snapshot: &Snapshot| (0..9).filter(|_| snapshot.routes[0].limits.before_body(&facts).is_ok()).count();
        let store = Store::new(snapshot("rate: 1/d, burst: 4", 2, &metrics, None), Arc::default());
        assert_eq!(passed(&store.load()), 5);
        let listener = Arc::clone(&store.load().listeners[0].connections);
        let open = [(); 2].map(|()| listener.try_open(Some(client_ip)).unwrap());

        store.publish(snapshot("rate: 1/d, burst: 4", 1, &metrics, Some(&store.load())));
        assert_eq!(passed(&store.load()), 0, "the limit is the same");
        assert!(Arc::ptr_eq(&listener, &store.load().listeners[0].connections));
        assert_eq!(listener.try_open(Some(client_ip)).unwrap_err(), TooMany::OfClient);
        drop(open);
        let _open = listener.try_open(Some(client_ip)).unwrap();
        assert_eq!(listener.try_open(Some(client_ip)).unwrap_err(), TooMany::OfClient, "one at a time now");

        store.publish(snapshot("rate: 2/d, burst: 1", 1, &metrics, Some(&store.load())));
        assert_eq!(passed(&store.load()), 2, "another limit begins anew");
        let text = metrics.encode();
        assert!(text.contains("arriero_rate_limited_total{route=\"all\"} 20"), "{text}");
        assert!(text.contains("arriero_rate_limiter_keys 2"), "{text}");
    }

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
