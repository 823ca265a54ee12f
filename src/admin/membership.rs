//! Servers that come and go at run time, and their numbers. Changes of the configuration like all others (see
//! [`super::config`]): they outlive the process, are shown as such, and can be saved to the file.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use aide::axum::ApiRouter;
use aide::axum::routing::{delete_with, post_with};
use axum::extract::{Extension, State as Extract};
use axum::http::{HeaderMap, StatusCode};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::State;
use super::config::{ChangedView, make};
use super::find;
use super::openapi::{Tagged, about};
use super::problem::Problem;
use super::request::{Named, Wanted};
use crate::config::ServerUrl;
use crate::config::overlay::{Edit, Place, name_of};
use crate::config::types::{Kind, ServerEntry};
use crate::fleet::admin_access::Caller;
use crate::fleet::reload::{InForce, Refused};
use crate::policy::reach::Reach;

type Shared = Extract<Arc<State>>;

/// How long a look-up of a new server's name may take.
const LOOK_UP: Duration = Duration::from_secs(2);

/// The paths of this topic.
pub fn routes() -> ApiRouter<Arc<State>> {
    let one = delete_with(remove, about("removeServer", "Take a server away; requests that run there finish"))
        .patch_with(change, about("changeServer", "Change the numbers of a server"));
    ApiRouter::new()
        .api_route("/servers/add", post_with(add, about("addServer", "Add a server")))
        .api_route("/servers/{server}", one)
}

/// A server to add.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct NewServer {
    /// Its name; host and port by default.
    #[serde(alias = "name")]
    id: Option<String>,
    /// `http://HOST:PORT` or `https://HOST:PORT`.
    url: String,
    /// Its upstream; not needed where only one has models.
    upstream: Option<String>,
    /// Most requests at a time.
    #[serde(alias = "maxInFlight", alias = "max_in_flight")]
    max_concurrency: Option<u32>,
    /// Share of the requests relative to the others.
    weight: Option<u32>,
}

/// Numbers of a server; `null` takes one away.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default, rename_all = "camelCase")]
pub struct ServerChange {
    /// Most requests at a time.
    #[serde(alias = "maxInFlight", alias = "max_in_flight", deserialize_with = "given")]
    max_concurrency: Option<Option<u32>>,
    /// Most requests at a time for one model.
    #[serde(alias = "max_in_flight_per_model", deserialize_with = "given")]
    max_in_flight_per_model: Option<Option<u32>>,
    /// Most models in memory.
    #[serde(alias = "max_loaded", deserialize_with = "given")]
    max_loaded: Option<Option<u32>>,
    /// Share of the requests relative to the others.
    #[serde(deserialize_with = "given")]
    weight: Option<Option<u32>>,
    /// Where it is. To Arriero, another URL is another server.
    url: Option<String>,
}

/// Tells `null` from what is not there.
fn given<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<Option<u32>>, D::Error> {
    Option::deserialize(deserializer).map(Some)
}

async fn add(
    Extract(state): Shared,
    Extension(caller): Extension<Caller>,
    headers: HeaderMap,
    Wanted(new): Wanted<NewServer>,
) -> Result<Tagged<ChangedView>, Problem> {
    let url = ServerUrl::parse(&new.url).map_err(|why| Problem::bad_request(format!("`url`: {why}")))?;
    let reach = Arc::clone(&state.store.load().reach);
    may_be_at(&url, &reach).await?;
    let what = format!("server {}", new.id.as_deref().unwrap_or(&new.url));
    make(state, caller, &headers, &what, move |in_force| plan_new(new, &url, in_force)).await
}

/// Refuses a name whose addresses are out of reach. It is judged again at each connection; a name that has no address
/// yet may have one then.
async fn may_be_at(url: &ServerUrl, reach: &Reach) -> Result<(), Problem> {
    let host = url.address.host.as_str();
    if host.parse::<IpAddr>().is_ok() {
        // The rules of the configuration judge it, with its place.
        return Ok(());
    }
    let found = tokio::time::timeout(LOOK_UP, tokio::net::lookup_host((host, url.address.port))).await;
    let Ok(Ok(addresses)) = found else { return Ok(()) };
    for address in addresses {
        if let Some(why) = reach.objection(address.ip()) {
            let ip = address.ip();
            let message = format!(
                "a server that is added at run time may not be at `{host}` ({ip}): {why}; add its network to `admin.server_networks`, or write the server into the file"
            );
            return Err(Problem::new(StatusCode::UNPROCESSABLE_ENTITY, message));
        }
    }
    Ok(())
}

fn plan_new(new: NewServer, url: &ServerUrl, in_force: &InForce) -> Result<Vec<Edit>, Refused> {
    let upstreams = &in_force.config.upstreams;
    let with_models: Vec<&String> =
        upstreams.iter().filter(|(_, one)| one.kind != Kind::Http).map(|(name, _)| name).collect();
    let upstream = match (new.upstream, with_models.as_slice()) {
        (Some(name), _) if upstreams.contains_key(&name) => name,
        (Some(name), _) => return Err(Refused::NotPossible(format!("there is no upstream `{name}`"))),
        (None, [only]) => (*only).clone(),
        (None, several) => {
            let names: Vec<String> = several.iter().map(|name| format!("`{name}`")).collect();
            let why = if names.is_empty() {
                "no upstream has models".to_owned()
            } else {
                format!("there are {}", names.join(", "))
            };
            return Err(Refused::NotPossible(format!("name the `upstream` of the server: {why}")));
        }
    };
    for entry in &upstreams[&upstream].servers {
        if new.id.is_some() && new.id == entry.name {
            let name = entry.name.as_deref().unwrap_or_default();
            return Err(Refused::NotPossible(format!("there is a server `{name}` already, at {}", entry.url)));
        }
        if ServerUrl::parse(&entry.url).is_ok_and(|known| known == *url) {
            let name = called(entry);
            return Err(Refused::NotPossible(format!("the server `{name}` has this URL already")));
        }
    }
    let mut entry = Map::new();
    if let Some(id) = &new.id {
        entry.insert("name".to_owned(), json!(id));
    }
    entry.insert("url".to_owned(), json!(new.url));
    let numbers = [("max_in_flight", new.max_concurrency), ("weight", new.weight)];
    entry.extend(numbers.into_iter().filter_map(|(key, value)| Some((key.to_owned(), json!(value?)))));
    let name = new.id.unwrap_or(new.url);
    let place = Place::of_keys(["upstreams", &upstream, "servers"]).item(&name);
    Ok(vec![Edit { place, value: Some(Value::Object(entry)) }])
}

/// How operators call a server of the configuration.
fn called(entry: &ServerEntry) -> String {
    entry.name.clone().unwrap_or_else(|| {
        let url = ServerUrl::parse(&entry.url).ok();
        url.map_or_else(|| entry.url.clone(), |url| format!("{}:{}", url.address.host, url.address.port))
    })
}

/// The place of a server in the configuration.
fn place_of(upstream: &str, server: &str, in_force: &InForce) -> Result<Place, Refused> {
    let gone = || Refused::NotPossible(format!("the server `{server}` is not in the configuration any more"));
    let entries = &in_force.config.upstreams.get(upstream).ok_or_else(gone)?.servers;
    let index = entries.iter().position(|entry| called(entry) == server).ok_or_else(gone)?;
    let list = Place::of_keys(["upstreams", upstream, "servers"]);
    let name = list.find(&in_force.written).and_then(|written| name_of(written.get(index)?)).ok_or_else(gone)?;
    Ok(list.item(name))
}

async fn remove(
    Extract(state): Shared,
    Extension(caller): Extension<Caller>,
    headers: HeaderMap,
    Named(id): Named<String>,
) -> Result<Tagged<ChangedView>, Problem> {
    let (upstream, server) = names(&state, &id)?;
    let what = format!("server {id}");
    make(state, caller, &headers, &what, move |in_force| {
        let place = place_of(&upstream, &server, in_force)?;
        let only = in_force.config.upstreams.get(&upstream).is_some_and(|one| one.servers.len() == 1);
        if only {
            let why = format!(
                "`{server}` is the only server of the upstream `{upstream}`, which needs one: add another first"
            );
            return Err(Refused::NotPossible(why));
        }
        Ok(vec![Edit { place, value: None }])
    })
    .await
}

async fn change(
    Extract(state): Shared,
    Extension(caller): Extension<Caller>,
    headers: HeaderMap,
    Named(id): Named<String>,
    Wanted(change): Wanted<ServerChange>,
) -> Result<Tagged<ChangedView>, Problem> {
    let (upstream, server) = names(&state, &id)?;
    if let Some(url) = &change.url {
        let url = ServerUrl::parse(url).map_err(|why| Problem::bad_request(format!("`url`: {why}")))?;
        let reach = Arc::clone(&state.store.load().reach);
        may_be_at(&url, &reach).await?;
    }
    let what = format!("server {id}");
    make(state, caller, &headers, &what, move |in_force| {
        let place = place_of(&upstream, &server, in_force)?;
        let numbers = [
            ("max_in_flight", change.max_concurrency),
            ("max_in_flight_per_model", change.max_in_flight_per_model),
            ("max_loaded", change.max_loaded),
            ("weight", change.weight),
        ];
        let numbers = numbers.into_iter().filter_map(|(key, value)| Some((key, value?.map(|number| json!(number)))));
        let url = change.url.map(|url| ("url", Some(json!(url))));
        Ok(numbers.chain(url).map(|(key, value)| Edit { place: place.key(key), value }).collect())
    })
    .await
}

/// The upstream and the name of a server that an operator calls `id`.
fn names(state: &State, id: &str) -> Result<(String, String), Problem> {
    let place = find::one(&state.store.load(), id)?;
    Ok((place.upstream.name.clone(), place.state().name().to_owned()))
}
