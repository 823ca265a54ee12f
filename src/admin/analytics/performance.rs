//! All requests of a time, and the same by server and by model.

use std::collections::{BTreeMap, BTreeSet};

use axum::Json;
use axum::extract::State as Extract;
use schemars::JsonSchema;
use serde::Serialize;

use super::words::{Numbers, Time, rounded, share};
use super::{Shared, Wish, sums};
use crate::admin::find;
use crate::admin::problem::Problem;
use crate::admin::request::{Asked, limit};

/// Models of an answer, unless another number is wanted, and the most that can be.
const MODELS: (usize, usize) = (10, 1000);

/// All requests of a time.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Summary {
    /// Always true.
    success: bool,
    #[serde(flatten)]
    time: Time,
    #[serde(flatten)]
    numbers: Numbers,
    /// Servers that had requests.
    servers: usize,
    /// Models that were asked for.
    models: usize,
    /// Requests by the reason why they ended as they did.
    by_reason: BTreeMap<String, u64>,
}

pub(super) async fn summary(Extract(state): Shared, Asked(wish): Asked<Wish>) -> Result<Json<Summary>, Problem> {
    let asked = sums(&state, &wish, "1h").await?;
    let names = |of: fn(&crate::history::sums::Line) -> &str| {
        asked.lines.iter().map(of).filter(|name| !name.is_empty()).collect::<BTreeSet<_>>().len()
    };
    let servers: BTreeSet<_> =
        asked.lines.iter().filter(|line| !line.server.is_empty()).map(|line| (&line.upstream, &line.server)).collect();
    let by_reason = asked.group(|line| Some(line.reason.clone()));
    Ok(Json(Summary {
        success: true,
        numbers: Numbers::of(&asked.total(), asked.seconds()),
        servers: servers.len(),
        models: names(|line| &line.model),
        by_reason: by_reason.into_iter().map(|(reason, totals)| (reason, totals.requests)).collect(),
        time: asked.time,
    }))
}

/// Each server in a time.
#[derive(Serialize, JsonSchema)]
pub struct Servers {
    /// Always true.
    success: bool,
    #[serde(flatten)]
    time: Time,
    /// The servers: those of the configuration in its order, then those that had requests and are there no more.
    servers: Vec<Server>,
}

/// A server in a time. A request counts for the server of its last attempt.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct Server {
    /// How operators call it.
    id: String,
    /// Its upstream.
    upstream: String,
    /// Whether the configuration in force has it.
    configured: bool,
    /// Whether it is up now; null when it is not in the configuration.
    healthy: Option<bool>,
    /// Requests that run there now; null when it is not in the configuration.
    in_flight: Option<u32>,
    /// Requests that may run there at a time; null where that is not laid down.
    max_in_flight: Option<u32>,
    #[serde(flatten)]
    numbers: Numbers,
    /// How much of `maxInFlight` was used on average, from 0 to 1; null where that is not laid down.
    utilization: Option<f64>,
}

pub(super) async fn servers(Extract(state): Shared, Asked(wish): Asked<Wish>) -> Result<Json<Servers>, Problem> {
    let asked = sums(&state, &wish, "1h").await?;
    let seconds = asked.seconds();
    let mut found = asked.group(|line| (!line.server.is_empty()).then(|| (line.upstream.clone(), line.server.clone())));
    let mut servers = Vec::new();
    for place in find::all(&state.store.load()) {
        let (upstream, member) = (place.upstream.name.clone(), place.member());
        let name = member.state.name().to_owned();
        let wanted = |wanted: &Option<String>, name: &str| wanted.as_ref().is_none_or(|wanted| wanted == name);
        if !wanted(&asked.among.upstream, &upstream) || !wanted(&asked.among.server, &name) {
            continue;
        }
        let totals = found.remove(&(upstream.clone(), name)).unwrap_or_default();
        let max_in_flight = (member.max_in_flight != u32::MAX).then_some(member.max_in_flight);
        servers.push(Server {
            id: place.id.clone(),
            upstream,
            configured: true,
            healthy: Some(member.state.is_up()),
            in_flight: Some(member.state.in_flight()),
            max_in_flight,
            utilization: max_in_flight
                .map(|most| rounded(totals.duration_ms / 1000.0 / seconds / f64::from(most.max(1)))),
            numbers: Numbers::of(&totals, seconds),
        });
    }
    let gone: BTreeMap<_, _> = found.into_iter().collect();
    servers.extend(gone.into_iter().map(|((upstream, id), totals)| Server {
        id,
        upstream,
        configured: false,
        healthy: None,
        in_flight: None,
        max_in_flight: None,
        numbers: Numbers::of(&totals, seconds),
        utilization: None,
    }));
    Ok(Json(Servers { success: true, time: asked.time, servers }))
}

/// The models that were asked for most in a time.
#[derive(Serialize, JsonSchema)]
pub struct Models {
    /// Always true.
    success: bool,
    #[serde(flatten)]
    time: Time,
    /// The models, the one with the most requests first.
    models: Vec<Model>,
}

/// A model in a time.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct Model {
    /// Its canonical name; `(others)` stands for those beyond 256 in an hour.
    model: String,
    /// Its requests as a share of all that name a model, in hundredths.
    percentage: f64,
    #[serde(flatten)]
    numbers: Numbers,
}

pub(super) async fn models(Extract(state): Shared, Asked(wish): Asked<Wish>) -> Result<Json<Models>, Problem> {
    let most = limit(wish.limit, MODELS)?;
    let asked = sums(&state, &wish, "24h").await?;
    let groups = asked.group(|line| (!line.model.is_empty()).then(|| line.model.clone()));
    let mut found: Vec<_> = groups.into_iter().collect();
    found.sort_by(|one, other| (other.1.requests, &one.0).cmp(&(one.1.requests, &other.0)));
    let all: u64 = found.iter().map(|(_, totals)| totals.requests).sum();
    let shown = found.into_iter().take(most).map(|(model, totals)| Model {
        model,
        percentage: rounded(share(totals.requests, all).unwrap_or(0.0) * 100.0),
        numbers: Numbers::of(&totals, asked.seconds()),
    });
    Ok(Json(Models { success: true, models: shown.collect(), time: asked.time }))
}
