//! The configuration: what is in force, what was changed at run time, changes to it, and writing them into the file.
//!
//! The file is the truth. A change made here is laid over it (see `config::overlay`), passes the same checks, holds at once
//! and after a restart, and is shown as such until it is saved to the file or taken back.
//!
//! Answers carry the hash of what is in force as an `ETag`; a change with `If-Match` is made only if that is still in force.

use std::path::Path;
use std::sync::Arc;

use aide::axum::ApiRouter;
use aide::axum::routing::{get_with, patch_with, post_with};
use axum::Json;
use axum::extract::{Extension, State as Extract};
use axum::http::{HeaderMap, header};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::openapi::{Tagged, about};
use super::problem::Problem;
use super::request::{Asked, Named, Wanted};
use super::time::Present;
use super::{AdminAddress, State};
use crate::config::overlay::{Edit, difference, has_mask, masked};
use crate::fleet::admin_access::Caller;
use crate::fleet::reload::{Changed, InForce, Refused, Reloaded, Saved, Source};

mod section;
mod trust;

type Shared = Extract<Arc<State>>;
type Changing = Result<Tagged<ChangedView>, Problem>;

/// The paths of this topic.
pub fn routes() -> ApiRouter<Arc<State>> {
    let whole = get_with(show, about("getConfig", "The configuration in force"))
        .post_with(replace, about("replaceConfig", "Put another configuration in force, at run time"));
    ApiRouter::new()
        .api_route("/config", whole)
        .api_route("/config/schema", get_with(schema, about("getConfigSchema", "The JSON schema of the configuration")))
        .api_route("/config/diff", get_with(diff, about("getConfigChanges", "What was changed at run time")))
        .api_route("/config/reload", post_with(reload, about("reloadConfig", "Put the file on disk in force")))
        .api_route("/config/save", post_with(save, about("saveConfig", "Write what was changed into the file")))
        .api_route("/config/revert", post_with(revert, about("revertConfig", "Take changes back")))
        .api_route("/config/{section}", patch_with(change, about("changeConfig", "Change a section at run time")))
}

/// What is wanted of the configuration.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(rename = "ConfigWish")]
pub struct Wish {
    /// With every default filled in, and variables replaced.
    effective: bool,
}

/// The configuration.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ConfigView {
    /// Hash of what is in force, also the `ETag`.
    hash: String,
    /// The file; none where the command line made it.
    source: Option<String>,
    /// Whether the file on disk is in force.
    in_force: bool,
    /// Why not.
    error: Option<String>,
    /// Values that were changed at run time.
    changes: usize,
    /// The configuration as it is typed, secrets masked.
    config: Value,
}

/// A value that was changed at run time.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ChangeView {
    /// Where, as in `upstreams.fleet.servers[a100-1].weight`.
    path: String,
    /// What the file says there; absent when nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    file: Option<Value>,
    /// What holds; absent when the value was taken away.
    #[serde(skip_serializing_if = "Option::is_none")]
    now: Option<Value>,
    who: String,
    since: String,
    /// The file has no such place any more, so it has no effect.
    lost: bool,
}

/// What differs from the file.
#[derive(Serialize, JsonSchema)]
pub struct DiffView {
    hash: String,
    count: usize,
    changes: Vec<ChangeView>,
}

/// What became of a change.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ChangedView {
    message: String,
    /// Hash of what is in force now.
    hash: String,
    /// Where something was changed; nothing when all was so already.
    changed: Vec<String>,
    /// Whether it outlives the process.
    kept: bool,
    /// Why it does not.
    #[serde(skip_serializing_if = "Option::is_none")]
    warning: Option<String>,
}

/// What was written into the file.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SavedView {
    message: String,
    /// The file.
    path: String,
    /// The copy of what it was.
    backup: Option<String>,
    /// Changes that stand in it now.
    changes: usize,
    hash: String,
}

fn look<T>(state: &State, look: impl FnOnce(&InForce) -> T) -> Result<T, Problem> {
    state.reloader.in_force(look).ok_or_else(|| Refused::Stopping.into())
}

async fn show(Extract(state): Shared, Asked(wish): Asked<Wish>) -> Result<Tagged<ConfigView>, Problem> {
    let status = state.reloader.status();
    let hash = state.store.load().hash.clone();
    let view = look(&state, |in_force| {
        let config = if wish.effective {
            serde_json::to_value(&in_force.config).map(|config| masked(&config))
        } else {
            Ok(masked(&in_force.written))
        };
        config.map(|config| ConfigView {
            hash: hash.clone(),
            source: state.reloader.source().path().map(|path| path.display().to_string()),
            in_force: status.in_force,
            error: status.error,
            changes: in_force.changes.len(),
            config,
        })
    })?;
    Ok(Tagged::new(hash, view.map_err(Problem::internal)?))
}

async fn schema() -> Json<Value> {
    Json(crate::config::schema())
}

async fn diff(Extract(state): Shared) -> Result<Tagged<DiffView>, Problem> {
    let present = Present::read();
    let hash = state.store.load().hash.clone();
    let changes = look(&state, |in_force| {
        let one = |change: &crate::fleet::reload::Change| {
            let Edit { place, value } = &change.edit;
            let path = place.to_string();
            ChangeView {
                file: place.find(&in_force.file).map(masked),
                now: value.as_ref().map(masked),
                who: change.who.clone(),
                since: present.unix_text(change.at),
                lost: in_force.lost.contains(&path),
                path,
            }
        };
        in_force.changes.iter().map(one).collect::<Vec<_>>()
    })?;
    let view = DiffView { hash: hash.clone(), count: changes.len(), changes };
    Ok(Tagged::new(hash, view))
}

/// Another configuration: what differs from the one in force is changed. Takes what `GET config` answers.
async fn replace(
    Extract(state): Shared,
    Extension(caller): Extension<Caller>,
    headers: HeaderMap,
    Wanted(mut wanted): Wanted<Value>,
) -> Changing {
    if let Some(config) = wanted.get_mut("config").map(Value::take) {
        wanted = config;
    }
    if !wanted.is_object() {
        return Err(Problem::bad_request("the body is no configuration: send a JSON object, as GET config answers it"));
    }
    make(state, caller, &headers, "configuration", move |in_force| {
        let edits = difference(&in_force.written, &wanted);
        if edits.iter().any(|edit| edit.value.as_ref().is_some_and(has_mask)) {
            let why =
                "a masked value stands where none was before: write the value itself, or a reference such as `${NAME}`";
            return Err(Refused::NotPossible(why.to_owned()));
        }
        Ok(edits)
    })
    .await
}

/// Which upstream is meant by a section of upstreams.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(rename = "ConfigWhich")]
pub struct Which {
    /// Its name; all with models by default.
    upstream: Option<String>,
}

/// A section: a JSON merge patch (RFC 7396) of that block of the file, or of the same block of upstreams.
async fn change(
    Extract(state): Shared,
    Extension(caller): Extension<Caller>,
    headers: HeaderMap,
    Named(section): Named<String>,
    Asked(which): Asked<Which>,
    Wanted(wanted): Wanted<Value>,
) -> Changing {
    let name = section.clone();
    make(state, caller, &headers, &name, move |in_force| {
        section::plan(&section, which.upstream.as_deref(), &wanted, in_force)
    })
    .await
}

/// Makes the edits of a plan and tells what came of it.
pub(super) async fn make(
    state: Arc<State>,
    caller: Caller,
    headers: &HeaderMap,
    what: &str,
    plan: impl FnOnce(&InForce) -> Result<Vec<Edit>, Refused> + Send + 'static,
) -> Changing {
    let expected = expected(headers)?;
    // Whoever reaches a port of loopback must not choose what this user runs, reads or opens.
    let anybody = !state.store.load().admin.has_tokens() && matches!(state.own, AdminAddress::Tcp(_));
    let plan = move |in_force: &InForce| {
        let edits = plan(in_force)?;
        match trust::guarded(&edits).filter(|_| anybody) {
            Some(place) => Err(Refused::NeedsToken(place)),
            None => Ok(edits),
        }
    };
    let done =
        tokio::task::spawn_blocking(move || state.reloader.change(&caller.name, expected.as_deref(), plan)).await;
    let changed = done.map_err(Problem::internal)??;
    let places: Vec<String> = changed.edits.iter().map(|edit| edit.place.to_string()).collect();
    let message = match places.len() {
        0 => format!("{what}: nothing to change"),
        _ => format!("{what} changed"),
    };
    let detail = places.join(", ");
    let view = ChangedView {
        message,
        hash: changed.hash.clone(),
        changed: places,
        kept: changed.not_kept.is_none(),
        warning: changed.not_kept,
    };
    Ok(Tagged::new(changed.hash, view).about(detail))
}

/// The hash that must be in force (RFC 9110, 13.1.1); any without the field, or with `*`.
fn expected(headers: &HeaderMap) -> Result<Option<String>, Problem> {
    let Some(value) = headers.get(header::IF_MATCH) else { return Ok(None) };
    let text = value.to_str().unwrap_or_default().trim();
    if text == "*" {
        return Ok(None);
    }
    let hash = text.strip_prefix('"').and_then(|text| text.strip_suffix('"')).filter(|hash| !hash.contains('"'));
    hash.map(|hash| Some(hash.to_owned()))
        .ok_or_else(|| Problem::bad_request("`If-Match` takes the one `ETag` that GET config answered, in quotes"))
}

/// A file to reload; only the one that runs may be named.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default, rename_all = "camelCase")]
pub struct ReloadWish {
    /// Path of the configuration file in force.
    config_path: Option<String>,
}

/// What became of a reload.
#[derive(Serialize, JsonSchema)]
pub struct ReloadView {
    /// `applied`, or `unchanged` when the file was in force already.
    result: &'static str,
    hash: String,
}

/// Puts the file on disk in force; answers when that is done or refused.
async fn reload(Extract(state): Shared, Wanted(wish): Wanted<ReloadWish>) -> Result<Tagged<ReloadView>, Problem> {
    if let Some(path) = &wish.config_path {
        is_ours(state.reloader.source(), Path::new(path))?;
    }
    let reloader = Arc::clone(&state.reloader);
    let done = tokio::task::spawn_blocking(move || reloader.reload("admin")).await.map_err(Problem::internal)?;
    let result = match done.map_err(Problem::of_reload)? {
        Reloaded::Applied => "applied",
        Reloaded::Unchanged => "unchanged",
    };
    let hash = state.store.load().hash.clone();
    Ok(Tagged::new(hash.clone(), ReloadView { result, hash }))
}

fn is_ours(source: &Source, path: &Path) -> Result<(), Problem> {
    let Some(ours) = source.path() else {
        return Err(Problem::conflict("this configuration comes from the command line: there is no file to reload"));
    };
    let whole = |path: &Path| path.canonicalize().unwrap_or_else(|_| path.to_path_buf());
    if whole(ours) == whole(path) {
        return Ok(());
    }
    let ours = ours.display();
    Err(Problem::conflict(format!(
        "this process runs `{ours}`: change that file, or start another process with the other one"
    )))
}

/// Writes what was changed at run time into the file, which keeps its comments.
async fn save(Extract(state): Shared, Extension(caller): Extension<Caller>) -> Result<Tagged<SavedView>, Problem> {
    let done = tokio::task::spawn_blocking(move || state.reloader.save(&caller.name)).await;
    let Saved { path, backup, changes, hash } = done.map_err(Problem::internal)??;
    let path = path.display().to_string();
    let message = match changes {
        0 => "the file says everything that is in force already".to_owned(),
        1 => format!("1 change was written to {path}"),
        several => format!("{several} changes were written to {path}"),
    };
    let backup = backup.map(|path| path.display().to_string());
    let detail = message.clone();
    let view = SavedView { message, path, backup, changes, hash: hash.clone() };
    Ok(Tagged::new(hash, view).about(detail))
}

/// Which changes are taken back.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RevertWish {
    /// The path of one, as `GET config/diff` tells it; all by default.
    path: Option<String>,
}

/// Takes changes back, so that the file holds again.
async fn revert(
    Extract(state): Shared,
    Extension(caller): Extension<Caller>,
    Wanted(wish): Wanted<RevertWish>,
) -> Changing {
    let hash = state.store.load().hash.clone();
    let done = tokio::task::spawn_blocking(move || state.reloader.revert(&caller.name, wish.path.as_deref())).await;
    let Changed { edits, hash: now, not_kept } = done.map_err(Problem::internal)??;
    let places: Vec<String> = edits.iter().map(|edit| edit.place.to_string()).collect();
    let message = if places.is_empty() { "nothing was changed at run time" } else { "the file holds again" };
    let detail = format!("from {hash}: {}", places.join(", "));
    let view = ChangedView {
        message: message.to_owned(),
        hash: now.clone(),
        changed: places,
        kept: not_kept.is_none(),
        warning: not_kept,
    };
    Ok(Tagged::new(now, view).about(detail))
}
