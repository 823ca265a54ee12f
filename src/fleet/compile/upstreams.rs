//! Upstreams and their servers: those that were there before keep their state.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use arc_swap::ArcSwap;
use http::{HeaderName, HeaderValue};

use super::{CompileError, Surroundings, error, fleet, notifications};
use crate::config::ServerUrl;
use crate::config::types::{self, Active, Kind, ModelAffinity};
use crate::fleet::inventory::ModelIndex;
use crate::fleet::server::{Identity, Location, ServerState, Shared};
use crate::fleet::snapshot::{Balance, Check, HashOn, Lasting, Member, Upstream};
use crate::fleet::upstream_state::UpstreamState;
use crate::fleet::upstream_tls::UpstreamTls;
use crate::policy::balance::affinity::Affinity;
use crate::policy::balance::consistent_hash::ConsistentHash;
use crate::policy::balance::round_robin::RoundRobin;
use crate::policy::balance::sticky::StickyCookie;
use crate::policy::ban::BanRule;
use crate::policy::circuit::CircuitPolicy;
use crate::policy::health::HealthPolicy;
use crate::policy::reach::Reach;
use crate::policy::recovery::RecoveryPolicy;

pub(super) fn compile(
    name: &str,
    upstream: &types::Upstream,
    known: Option<&Arc<UpstreamState>>,
    reach: &Arc<Reach>,
    around: &Surroundings<'_>,
    lasting: &Lasting,
) -> Result<Upstream, CompileError> {
    let dispatcher = lasting.dispatchers.of(name);
    let state = known.map_or_else(Arc::default, Arc::clone);
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
    let circuit = compile_circuit(&upstream.circuit);
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
                    let shared = Shared {
                        bans: Arc::clone(&state.bans),
                        room: Arc::clone(&dispatcher.room),
                        events: Arc::clone(&lasting.telling.events),
                    };
                    let (health, circuit) = (health.clone(), circuit.clone());
                    Arc::new(ServerState::new(identity, location, metrics, health, circuit, shared, around.now))
                }
            };
            Ok(Member {
                state,
                weight: entry.weight,
                max_in_flight: entry.max_in_flight.unwrap_or(u32::MAX),
                max_in_flight_per_model: entry.max_in_flight_per_model,
                max_loaded: entry.max_loaded.unwrap_or(fleet::MAX_LOADED),
                action: (entry.recovery.as_ref())
                    .map(|written| {
                        notifications::action(&format!("upstreams.{name}.servers[{number}].recovery"), written)
                    })
                    .transpose()?,
                memory: entry.gpu.as_ref().and_then(|gpu| gpu.memory).map(|memory| memory.0),
                gpu: entry
                    .gpu
                    .as_ref()
                    .map(|gpu| {
                        fleet::gpu(gpu).map_err(|(key, problem)| {
                            error(format!("upstreams.{name}.servers[{number}].gpu.{key}"), problem)
                        })
                    })
                    .transpose()?,
                reach: entry.at_run_time.then(|| Arc::clone(reach)),
            })
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
        recovery: RecoveryPolicy {
            interval: upstream.recovery.interval.0,
            max_interval: upstream.recovery.max_interval.0,
            probe: upstream.kind == Kind::Ollama && upstream.recovery.probe == types::Switch::On,
            quiet: upstream.recovery.quiet.0,
            timeout: upstream.recovery.timeout.0,
        },
        models: ArcSwap::from_pointee(ModelIndex::default()),
        dispatcher,
        schedule: fleet::schedule(upstream),
        placements: fleet::placements(name, upstream, &servers)?,
        queue_timeout: upstream.queue.timeout.0,
        queue_keepalive: upstream.queue.keepalive.every().map(|every| every.0),
        servers,
        health,
        circuit,
        max_ejected: upstream.circuit.max_ejected.hundredths(),
        ban_rule: upstream.bans.as_ref().map(|bans| BanRule { after: bans.after, lasts: bans.lasts.0 }),
        quarantine: upstream.quarantine.map_or(default_quarantine(upstream.kind), |lasts| lasts.0),
        state,
    };
    compiled.index_models();
    Ok(compiled)
}

fn compile_circuit(circuit: &types::Circuit) -> CircuitPolicy {
    let failures = circuit.consecutive_failures;
    CircuitPolicy {
        consecutive_failures: failures,
        connect_failures: circuit.connect_failures.unwrap_or(failures.min(3).max(failures / 5 * 3)),
        failure_rate: circuit.failure_rate.hundredths(),
        window: circuit.window.0,
        min_requests: circuit.min_requests,
        open_for: circuit.open_for.0,
        max_open_for: circuit.max_open_for.0,
        slow_start: circuit.slow_start.0,
    }
}

const fn default_quarantine(kind: Kind) -> Duration {
    match kind {
        Kind::Ollama | Kind::Openai => Duration::from_mins(10),
        Kind::Http => Duration::ZERO,
    }
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
        policy: upstream.policy(),
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
