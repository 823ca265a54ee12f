//! From what was typed to what runs. Every default is resolved here, once.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::{HeaderName, Method};

use super::admin_access::AdminAccess;
use super::cluster::ClusterState;
use super::content::Target;
use super::dispatch::Dispatchers;
use super::events::Events;
use super::limiter::Limiter;
use super::notifications::Telling;
use super::server::{Identity, ServerState};
use super::snapshot::{Lasting, Route, Snapshot, Timeouts, Upstream};
use crate::config::types::{self, Config};
use crate::ollama::ModelPattern;
use crate::policy::caps::Caps;
use crate::policy::reach::Reach;
use crate::policy::resources::Thresholds;
use crate::policy::retry::{RetryOn, RetryPolicy};
use crate::routing::Scheme;
use crate::routing::table::{ModelMatch, RouteMatch, RouteTable};
use crate::telemetry::access_log::Format;
use crate::telemetry::metrics::Metrics;

mod access;
mod cache;
mod cluster;
mod content;
mod fleet;
mod limits;
mod listeners;
mod notifications;
mod quotas;
mod tracing;
mod upstreams;

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
        dispatchers: Arc::new(Dispatchers::new(around.now)),
        telling: Telling {
            events: Arc::new(Events::new(around.metrics.events_lost.clone())),
            notifications: Arc::default(),
        },
        jobs: Arc::default(),
        cluster: Arc::new(ClusterState::new(around.now)),
        answers: Arc::default(),
    };
    // Until it is known who leads, nothing is loaded that nobody asked for.
    lasting.dispatchers.lead(config.cluster.is_none());
    lasting.cluster.begin(config.cluster.as_ref().map(|cluster| cluster.name.as_str()), around.now);
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
    let admin = AdminAccess::open(&config.admin).map_err(|(place, why)| error(place, why))?;
    let reach = Arc::new(Reach(access::networks("admin.server_networks", &config.admin.server_networks)?));
    let upstreams = config
        .upstreams
        .iter()
        .map(|(name, upstream)| {
            let known = before.and_then(|before| before.upstreams.iter().find(|known| known.name == *name));
            let known = known.map(|known| &known.state);
            upstreams::compile(name, upstream, known, &reach, around, &lasting).map(Arc::new)
        })
        .collect::<Result<Vec<_>, _>>()?;
    let by_name: HashMap<&str, &Arc<Upstream>> =
        upstreams.iter().map(|upstream| (upstream.name.as_str(), upstream)).collect();
    let quotas = quotas::compile(&config.quotas)?;
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
            quotas: quotas::of_route(
                &route.name,
                kind.is_some_and(|kind| kind != types::Kind::Http),
                &quotas,
                around.metrics,
            ),
            retry,
            auth: access::mode(route.auth, keys.is_some()),
            access: access::access(&path, &route.access)?,
            cors: access::cors(&path, route.cors.as_ref())?,
            management: route.management == types::Permission::Allow,
            cloud: route.cloud_models == types::Permission::Allow,
            priority: fleet::class(route.priority),
            priority_header: route.priority_header == types::Permission::Allow,
            explain: route.explain == types::Permission::Allow,
            caps: compile_caps(&route.caps),
            embeddings: cache::embeddings(route, around, before),
            cache: cache::answers(&path, route, around, before, config.cluster.as_ref().map(|_| &lasting.answers))?,
            metrics,
        }));
    }
    let listeners = before.map_or(&[][..], |before| &before.listeners);
    let snapshot = Snapshot {
        largest_body: routes.iter().map(|route| route.body_limit).max().unwrap_or(0),
        any_holds: routes.iter().any(|route| route.holds),
        any_replays_post: routes.iter().any(|route| route.holds && route.retry.replay_post),
        hash,
        common_hash: cluster::common_hash(config),
        loaded_at: around.unix_time,
        table: RouteTable::build(matches),
        routes,
        upstreams,
        keys,
        admin: Arc::new(admin),
        reach,
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
        quotas,
        hooks: notifications::hooks(&config.notifications)?,
        thresholds: compile_thresholds(&config.server.thresholds),
        tracing: tracing::compile(config.telemetry.tracing.as_ref())?,
        cluster: cluster::compile(config.cluster.as_ref(), before.and_then(|before| before.cluster.as_ref()))?,
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

fn compile_thresholds(thresholds: &types::Thresholds) -> Thresholds {
    let types::Thresholds { memory, disk, cpu, files } = thresholds;
    Thresholds {
        memory: memory.hundredths(),
        disk: disk.hundredths(),
        cpu: cpu.hundredths(),
        files: files.hundredths(),
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
}
