//! Makes the overview from what runs.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::Moment;
use super::view::{
    BanView, CandidateView, CircuitView, ClusterView, ConfigView, DecisionView, Latency, LoadedView, ModelView,
    Omitted, Overview, PercentilesView, Point, QueueView, Rates, RequestView, ServerView, WaitingView,
};
use crate::admin::find::{self, Place};
use crate::admin::multihost::views::{coordination, instances};
use crate::admin::time::{Present, milliseconds, wall};
use crate::admin::{State, handlers};
use crate::fleet::explain::{Considered, Explanation};
use crate::fleet::inventory::Inventory;
use crate::fleet::running::Phase;
use crate::fleet::snapshot::{Snapshot, Upstream};
use crate::policy::ban::Ban;
use crate::policy::circuit;
use crate::telemetry::recent::{Percentiles, Recent};
use crate::version;

/// Requests that are listed.
const REQUESTS: usize = 200;
/// Circuits that are listed.
const CIRCUITS: usize = 500;
/// Bans that are listed.
const BANS: usize = 200;
/// Choices that are listed.
const DECISIONS: usize = 20;
/// Candidates of each.
const CANDIDATES: usize = 6;

/// The overview of now.
pub fn of(state: &State, recent: &Recent, present: Present) -> Overview {
    let snapshot = state.store.pin();
    let places = find::all(&snapshot);
    let inventories: Vec<Arc<Inventory>> = places.iter().map(|place| place.state().inventory()).collect();
    let queues: Vec<QueueView> = snapshot.upstreams.iter().map(|upstream| queue(upstream)).collect();
    let running = requests(&places, present);
    let answering = running.iter().filter(|request| request.phase == Phase::Answering.as_str()).count();
    let models = models(&places, &inventories, &running, &queues, present);
    let mut omitted = Omitted::default();
    let requests = Rates {
        in_flight: running.len(),
        answering,
        queued: queues.iter().map(|queue| queue.waiting).sum(),
        per_second: thousandths(recent.requests_per_second),
        errors_per_second: thousandths(recent.errors_per_second),
        tokens_per_second: thousandths(recent.output_tokens_per_second),
        prompt_tokens_per_second: thousandths(recent.prompt_tokens_per_second),
    };
    Overview {
        at: present.text(present.now),
        version: version::VERSION,
        revision: version::REVISION,
        uptime_seconds: (present.now - state.started).as_secs(),
        status: if *state.stopping.borrow() { "stopping" } else { handlers::status(state) },
        config: config(state, &snapshot),
        cluster: cluster(state),
        requests,
        latency: latency(recent),
        servers: places.iter().zip(&inventories).map(|(place, inventory)| server(place, inventory, present)).collect(),
        models,
        in_flight: first(running, REQUESTS, &mut omitted.in_flight),
        queues,
        circuits: first(circuits(&places, present), CIRCUITS, &mut omitted.circuits),
        bans: first(bans(&snapshot, present), BANS, &mut omitted.bans),
        decisions: decisions(&snapshot, present),
        omitted,
    }
}

/// The numbers of a second that is past.
pub fn point(moment: &Moment, present: Present) -> Point {
    Point {
        at: present.text(moment.at),
        in_flight: moment.in_flight,
        queued: moment.queued,
        per_second: thousandths(moment.recent.requests_per_second),
        errors_per_second: thousandths(moment.recent.errors_per_second),
        tokens_per_second: thousandths(moment.recent.output_tokens_per_second),
        latency: latency(&moment.recent),
    }
}

fn first<T>(mut all: Vec<T>, most: usize, omitted: &mut usize) -> Vec<T> {
    *omitted = all.len().saturating_sub(most);
    all.truncate(most);
    all
}

fn thousandths(number: f64) -> f64 {
    (number * 1000.0).round() / 1000.0
}

fn latency(recent: &Recent) -> Latency {
    let view = |times: Percentiles| PercentilesView {
        p50: thousandths(times.p50),
        p95: thousandths(times.p95),
        p99: thousandths(times.p99),
    };
    Latency { ttfb_ms: recent.first_byte.map(view), duration_ms: recent.duration.map(view) }
}

fn config(state: &State, snapshot: &Snapshot) -> ConfigView {
    let reload = state.reloader.status();
    ConfigView {
        hash: snapshot.hash.clone(),
        loaded_at: wall(Duration::from_secs_f64(snapshot.loaded_at.max(0.0))),
        in_force: reload.in_force,
        error: reload.error,
    }
}

fn cluster(state: &State) -> Option<ClusterView> {
    let known = coordination(state);
    Some(ClusterView {
        name: known.cluster?,
        instances: instances(state).into_iter().map(|one| one.id).collect(),
        configurations: known.configurations,
        linked: known.linked,
        fault: known.fault,
        leads: known.leads,
    })
}

fn server(place: &Place, inventory: &Inventory, present: Present) -> ServerView {
    let (member, state) = (place.member(), place.state());
    let (operation, gpu) = (state.operation(present.now), state.gpu.view());
    let loaded = inventory.loaded.iter().map(|row| LoadedView {
        name: row.name.to_string(),
        size_vram: row.size_vram,
        expires_at: row.expires_at.clone(),
    });
    ServerView {
        id: place.id.clone(),
        upstream: place.upstream.name.clone(),
        kind: place.upstream.kind,
        url: state.identity.url.clone(),
        version: inventory.version.clone(),
        healthy: state.is_up(),
        health: state.health().as_str(),
        operation: operation.standing().as_str(),
        reason: operation.decision().map(|decision| decision.reason.clone()).filter(|reason| !reason.is_empty()),
        until: operation.until().map(|until| present.text(until)),
        circuit: state.circuit_state(present.now).as_str(),
        in_flight: state.in_flight(),
        max_in_flight: Some(member.max_in_flight).filter(|limit| *limit != u32::MAX),
        last_response_ms: state.response_time().map(milliseconds),
        models: names(inventory).count(),
        loaded: loaded.collect(),
        vram_used: inventory.loaded.iter().fold(0, |sum: u64, row| sum.saturating_add(row.size_vram)),
        vram_total: gpu.memory.map(|memory| memory.total).or(member.memory.filter(|bytes| *bytes > 0)),
        gpu: gpu.verdict.state.as_str(),
        gpu_reason: gpu.verdict.reasons.first().map(|first| format!("{}: {}", first.signal.as_str(), first.detail)),
        gpu_temperature: gpu.cards.iter().filter_map(|card| card.temperature).max_by(f64::total_cmp),
        gpu_utilisation: mean(gpu.cards.iter().filter_map(|card| card.utilisation)),
    }
}

fn mean(values: impl Iterator<Item = f64>) -> Option<f64> {
    let (sum, count) = values.fold((0.0, 0.0), |(sum, count), value| (sum + value, count + 1.0));
    (count > 0.0).then(|| sum / count)
}

/// The models of a server by their canonical names. One with a list of Ollama's own lists the same ones in OpenAI's form.
fn names(inventory: &Inventory) -> impl Iterator<Item = &str> {
    let listed = inventory.openai.iter().filter(|_| inventory.available.is_none()).map(|row| row.name.as_str());
    inventory.available.iter().flatten().map(|row| row.name.as_str()).chain(listed)
}

fn models(
    places: &[Place],
    inventories: &[Arc<Inventory>],
    running: &[RequestView],
    queues: &[QueueView],
    present: Present,
) -> Vec<ModelView> {
    let mut found: BTreeMap<&str, ModelView> = BTreeMap::new();
    for (place, inventory) in places.iter().zip(inventories) {
        let state = place.state();
        let open = matches!(state.circuit_state(present.now), circuit::State::Open { .. });
        let works = state.is_up() && state.standing(present.now).takes_work() && !open;
        for name in names(inventory) {
            let model = found.entry(name).or_default();
            model.servers += 1;
            model.available += usize::from(works);
            // What serves OpenAI's API alone serves what it has in memory.
            model.loaded += usize::from(inventory.available.is_none());
        }
        for row in &inventory.loaded {
            let model = found.entry(row.name.as_str()).or_default();
            model.loaded += 1;
            model.vram = model.vram.saturating_add(row.size_vram);
        }
    }
    for name in running.iter().filter_map(|request| request.model.as_deref()) {
        if let Some(model) = found.get_mut(name) {
            model.in_flight += 1;
        }
    }
    for queue in queues.iter().flat_map(|queue| &queue.models) {
        if let Some(model) = found.get_mut(queue.model.as_str()) {
            model.waiting += queue.waiting;
        }
    }
    found.into_iter().map(|(name, model)| ModelView { name: name.to_owned(), ..model }).collect()
}

fn requests(places: &[Place], present: Present) -> Vec<RequestView> {
    let of = |place: &Place| {
        let id = place.id.clone();
        place.state().requests.requests().into_iter().map(move |request| (request, id.clone()))
    };
    let mut all: Vec<_> = places.iter().flat_map(of).collect();
    all.sort_by_key(|(request, _)| request.since);
    all.into_iter()
        .map(|(request, server_id)| RequestView {
            id: request.id.as_ref().map(|id| String::from_utf8_lossy(id.as_bytes()).into_owned()),
            server_id,
            model: request.model.clone(),
            phase: request.phase().as_str(),
            age_ms: milliseconds(present.now.saturating_duration_since(request.since)),
        })
        .collect()
}

fn queue(upstream: &Upstream) -> QueueView {
    let queues = upstream.queues();
    let waits = upstream.dispatcher.longest_waits();
    QueueView {
        upstream: upstream.name.clone(),
        paused: upstream.dispatcher.is_paused(),
        waiting: queues.values().sum(),
        max: upstream.schedule.max_pending,
        timeout_ms: milliseconds(upstream.queue_timeout),
        models: queues
            .into_iter()
            .map(|(model, waiting)| WaitingView {
                oldest_ms: waits.get(&model).copied().map(milliseconds),
                waiting,
                model,
            })
            .collect(),
    }
}

fn circuits(places: &[Place], present: Present) -> Vec<CircuitView> {
    let view = |place: &Place, circuit: crate::fleet::circuits::CircuitView| CircuitView {
        server_id: place.id.clone(),
        state: circuit.state.as_str(),
        failures: circuit.failures,
        next_retry_at: match circuit.state {
            circuit::State::Open { until } => Some(present.text(until)),
            _ => None,
        },
        forced: circuit.model.is_none() && place.state().circuit_is_held(present.now),
        model: circuit.model,
    };
    let of = |place| Place::state(place).circuit_views(present.now).into_iter().map(move |one| view(place, one));
    places.iter().flat_map(of).filter(|circuit| circuit.state != circuit::State::Closed.as_str()).collect()
}

fn bans(snapshot: &Snapshot, present: Present) -> Vec<BanView> {
    let view = |upstream: &Upstream, ban: Ban| BanView {
        upstream: upstream.name.clone(),
        server_id: ban.server,
        model: ban.model,
        reason: ban.reason,
        who: ban.who,
        since: present.text(ban.since),
        until: ban.until.map(|until| present.text(until)),
    };
    let of = |upstream: &Arc<Upstream>| {
        let bans = upstream.state.bans.list(present.now);
        bans.into_iter().map(|ban| view(upstream, ban)).collect::<Vec<_>>()
    };
    snapshot.upstreams.iter().flat_map(of).collect()
}

fn decisions(snapshot: &Snapshot, present: Present) -> Vec<DecisionView> {
    let mut all = Vec::new();
    for upstream in &snapshot.upstreams {
        all.extend(upstream.dispatcher.last_decisions(DECISIONS).into_iter().map(|one| (&upstream.name, one)));
    }
    all.sort_by(|one, other| one.1.age.total_cmp(&other.1.age));
    all.truncate(DECISIONS);
    all.into_iter().map(|(upstream, one)| decision(upstream, one, present)).collect()
}

fn decision(upstream: &str, explanation: Explanation, present: Present) -> DecisionView {
    let age = Duration::from_secs_f64(explanation.age.max(0.0));
    DecisionView {
        at: present.text(present.now.checked_sub(age).unwrap_or(present.now)),
        upstream: upstream.to_owned(),
        reason: why(&explanation),
        considered: explanation.candidates.len(),
        candidates: explanation.candidates.into_iter().take(CANDIDATES).map(candidate).collect(),
        model: explanation.model,
        server: explanation.chosen,
    }
}

fn candidate(one: Considered) -> CandidateView {
    CandidateView {
        server: one.server,
        model_is: one.model_is,
        score: one.score,
        wait: one.wait,
        load: one.load,
        prefill: one.prefill,
        eviction: one.eviction,
        crowding: one.crowding,
        penalty: one.penalty,
        excluded: one.excluded,
    }
}

/// A choice in a sentence.
fn why(explanation: &Explanation) -> String {
    let Some(chosen) = &explanation.chosen else {
        return match explanation.candidates.len() {
            0 => "no server has the model".to_owned(),
            1 => "the one server that has the model was excluded".to_owned(),
            all => format!("all {all} servers that have the model were excluded"),
        };
    };
    let Some(best) = explanation.candidates.iter().find(|one| one.server == *chosen) else {
        return "chosen by the scheduler".to_owned();
    };
    let memory = match best.model_is {
        "ready" => "the model is in memory",
        "loading" => "the model is being loaded",
        _ => "the model has to be loaded",
    };
    let cost = best.score.map(|score| format!(", expected cost {}", seconds(score))).unwrap_or_default();
    let next = explanation.candidates.iter().filter(|one| one.server != *chosen).find_map(|one| {
        let score = one.score?;
        // Among those within a twentieth of the best, chance chooses.
        let is = if best.score.is_some_and(|best| score <= best * 1.05) { "about as good as" } else { "next best" };
        Some(format!("; {is} {} with {}", one.server, seconds(score)))
    });
    let next = next.unwrap_or_else(|| "; no other server could take it".to_owned());
    format!("{memory}{cost}{next}")
}

fn seconds(time: f64) -> String {
    if time < 1.0 { format!("{:.0} ms", time * 1000.0) } else { format!("{time:.2} s") }
}
