//! Token quotas: how much each key has used in the window that runs, and the order to begin it anew.

use std::cmp::Reverse;
use std::sync::Arc;

use aide::axum::ApiRouter;
use aide::axum::routing::{get_with, post_with};
use axum::extract::State as Extract;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::State;
use super::openapi::{Done, Noted, about};
use super::problem::Problem;
use super::request::{Asked, Wanted, limit, one_of};
use super::store::ask;
use crate::clock;
use crate::fleet::keys::KeySet;
use crate::fleet::quotas::Quota;
use crate::fleet::snapshot::Snapshot;
use crate::history::quotas::Account;
use crate::policy::quota::{Counted, Level};
use crate::telemetry::access_log::moment;

type Shared = Extract<Arc<State>>;

/// Keys of an answer, unless another number is wanted, and the most that can be.
const KEYS: (usize, usize) = (100, 10_000);

/// The paths of this topic.
pub fn routes() -> ApiRouter<Arc<State>> {
    ApiRouter::new()
        .api_route("/quotas", get_with(list, about("listQuotas", "What each key has used of token quotas")))
        .api_route("/quotas/reset", post_with(reset, about("resetQuota", "Begin the window of a key anew")))
}

/// Which are wanted.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(rename = "QuotaWish")]
struct Wish {
    /// Only those of this quota.
    quota: Option<String>,
    /// Only those of this key: as it is told, or the id or the name of an API key.
    key: Option<String>,
    /// `within`, `warned` or `exceeded`.
    state: Option<String>,
    /// Lines, 100 by default, 10,000 at most.
    limit: Option<usize>,
}

/// What a key has used of a quota.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct QuotaView {
    quota: String,
    /// What is counted by: `api_key=0a1b2c3d`, `client_ip=192.0.2.1 model=llava:latest`.
    key: String,
    /// Whose API key it is, where it is one that is known.
    key_name: Option<String>,
    /// `minute`, `hour`, `day` or `month`, in UTC.
    every: &'static str,
    /// Which tokens count: `total`, `prompt` or `output`.
    tokens: &'static str,
    /// Tokens used of those that count; in a cluster by way of all instances, as far as this one knows.
    used: u64,
    /// Those of them that were used by way of this instance.
    used_here: u64,
    /// How many it may use; null for any number.
    limit: Option<u64>,
    /// How many are left; null for any number.
    left: Option<u64>,
    /// `within`, `warned` or `exceeded`.
    state: &'static str,
    /// What the limit does: `refuse` requests beyond it, or `warn` only.
    beyond: &'static str,
    prompt_tokens: u64,
    output_tokens: u64,
    /// When the window began, RFC 3339.
    since: String,
    /// When it begins anew, RFC 3339.
    resets_at: String,
}

/// What keys have used.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "QuotaList")]
struct Quotas {
    /// How many these are.
    count: usize,
    /// How many there are that are wanted.
    total: usize,
    /// Whether what is used is kept over a restart.
    durable: bool,
    /// Names of all quotas, in the order of the file.
    configured: Vec<String>,
    /// Keys that used something in the window that runs, those that used the largest share first.
    quotas: Vec<QuotaView>,
}

/// One account with the quota that it is of.
struct Row<'q> {
    quota: &'q Quota,
    account: Arc<Account>,
}

fn rows<'q>(state: &State, snapshot: &'q Snapshot) -> Vec<Row<'q>> {
    let find = |account: Arc<Account>| {
        let known = |quota: &&Arc<Quota>| {
            quota.name == account.quota && quota.window == account.window && quota.counts(&account.subject)
        };
        let quota = snapshot.quotas.iter().find(known)?;
        Some(Row { quota, account })
    };
    if snapshot.quotas.is_empty() {
        return Vec::new();
    }
    state.history.quotas().all().into_iter().filter_map(find).collect()
}

/// The id of the API key that a subject is about.
fn id_of(subject: &str) -> Option<&str> {
    subject.split(' ').find_map(|part| part.strip_prefix("api_key=")).filter(|id| !id.is_empty())
}

/// Whether somebody who says `wanted` means this subject.
fn is_meant(subject: &str, wanted: &str, keys: Option<&KeySet>) -> bool {
    let id = id_of(subject);
    let name = id.and_then(|id| Some(&*keys?.by_id(id)?.name));
    subject == wanted || id == Some(wanted) || name == Some(wanted)
}

fn view(row: &Row<'_>, keys: Option<&KeySet>, now: i64) -> Option<QuotaView> {
    let Row { quota, account } = row;
    let (period, tokens) = account.look(now);
    if tokens.is_none() {
        return None;
    }
    let allowance = quota.allowance_of(&account.subject, keys);
    let used = quota.counted.of(tokens);
    let limit = allowance.map(|allowance| allowance.limit);
    let name = id_of(&account.subject).and_then(|id| Some(keys?.by_id(id)?.name.clone()));
    #[expect(clippy::cast_precision_loss, reason = "seconds of this century")]
    let text = |seconds: i64| moment(seconds as f64);
    Some(QuotaView {
        quota: quota.name.clone(),
        key: account.subject.clone(),
        key_name: name,
        every: quota.window.as_str(),
        tokens: quota.counted.as_str(),
        used,
        used_here: quota.counted.of(account.own(now)),
        limit,
        left: limit.map(|limit| limit.saturating_sub(used)),
        state: quota.level(tokens, allowance).as_str(),
        beyond: if quota.only_warns { "warn" } else { "refuse" },
        prompt_tokens: Counted::Prompt.of(tokens),
        output_tokens: Counted::Output.of(tokens),
        since: text(period.starts),
        resets_at: text(period.ends),
    })
}

/// The quotas that are wanted by their name.
fn named(snapshot: &Snapshot, name: Option<&str>) -> Result<(), Problem> {
    match name {
        Some(name) if snapshot.quotas.iter().all(|quota| quota.name != name) => {
            Err(Problem::not_found(format!("there is no quota `{name}`")))
        }
        _ => Ok(()),
    }
}

async fn list(Extract(state): Shared, Asked(wish): Asked<Wish>) -> Result<Done<Quotas>, Problem> {
    let snapshot = state.store.pin();
    let most = limit(wish.limit, KEYS)?;
    named(&snapshot, wish.quota.as_deref())?;
    let level = wish.state.as_deref();
    let level =
        level.map(|word| one_of("state", word, &Level::ALL.map(|level| (level.as_str(), level)))).transpose()?;
    let keys = snapshot.keys.as_ref().map(|keys| keys.current());
    let now = clock::unix_seconds();
    let mut quotas: Vec<QuotaView> = rows(&state, &snapshot)
        .iter()
        .filter(|row| wish.quota.as_ref().is_none_or(|name| row.quota.name == *name))
        .filter(|row| wish.key.as_ref().is_none_or(|key| is_meant(&row.account.subject, key, keys.as_deref())))
        .filter_map(|row| view(row, keys.as_deref(), now))
        .filter(|view| level.is_none_or(|level| view.state == level.as_str()))
        .collect();
    // In hundredths of hundredths; whoever has no limit comes last.
    let share = |view: &QuotaView| view.limit.map(|limit| u128::from(view.used) * 10_000 / u128::from(limit.max(1)));
    quotas.sort_by_cached_key(|view| (Reverse((share(view), view.used)), view.quota.clone(), view.key.clone()));
    let total = quotas.len();
    quotas.truncate(most);
    let configured = snapshot.quotas.iter().map(|quota| quota.name.clone()).collect();
    Ok(Done(Quotas { count: quotas.len(), total, durable: state.history.is_durable(), configured, quotas }))
}

/// Whose window begins anew.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(rename = "QuotaReset")]
struct Words {
    /// Of which quota.
    quota: String,
    /// Of which key: as it is told, or the id or the name of an API key.
    key: Option<String>,
    /// Of all keys.
    all: bool,
    /// Why; stands in the log.
    reason: Option<String>,
    /// Who orders it; stands in the log.
    who: Option<String>,
}

/// What began anew.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "QuotaResetDone")]
struct ResetView {
    /// How many windows.
    reset: usize,
    /// How they were before.
    quotas: Vec<QuotaView>,
}

async fn reset(Extract(state): Shared, Wanted(words): Wanted<Words>) -> Result<Noted<ResetView>, Problem> {
    let snapshot = state.store.pin();
    if words.quota.is_empty() || words.key.is_some() == words.all {
        return Err(Problem::bad_request("name a `quota`, and either a `key` or `all: true`"));
    }
    named(&snapshot, Some(&words.quota))?;
    let keys = snapshot.keys.as_ref().map(|keys| keys.current());
    let now = clock::unix_seconds();
    let meant = |row: &Row<'_>| {
        let of_key = |key: &String| is_meant(&row.account.subject, key, keys.as_deref());
        row.quota.name == words.quota && words.key.as_ref().is_none_or(of_key)
    };
    let (mut accounts, mut quotas) = (Vec::new(), Vec::new());
    for row in rows(&state, &snapshot).into_iter().filter(meant) {
        if let Some(view) = view(&row, keys.as_deref(), now) {
            accounts.push(row.account);
            quotas.push(view);
        }
    }
    if let (true, Some(key)) = (quotas.is_empty(), &words.key) {
        return Err(Problem::not_found(format!("`{key}` has used nothing of the quota `{}`", words.quota)));
    }
    ask(&state, move |history| history.reset_quotas(accounts)).await?;
    let (quota, key) = (&words.quota, words.key.as_deref().unwrap_or("all"));
    let (reason, who) = (words.reason.as_deref(), words.who.as_deref());
    tracing::info!(quota, key, reason, who, "quota begun anew");
    let detail = format!("quota {quota} of {key}: {} windows begun anew", quotas.len());
    Ok(Noted(ResetView { reset: quotas.len(), quotas }, detail))
}

/// Sets the metrics of quotas.
pub fn measure(state: &State) {
    let snapshot = state.store.pin();
    let keys = snapshot.keys.as_ref().map(|keys| keys.current());
    let now = clock::unix_seconds();
    let rows = rows(state, &snapshot);
    let count = |quota: &Arc<Quota>| {
        let mut numbers = [0; Level::ALL.len()];
        for row in rows.iter().filter(|row| std::ptr::eq(row.quota, &**quota)) {
            let (_, tokens) = row.account.look(now);
            let level = quota.level(tokens, quota.allowance_of(&row.account.subject, keys.as_deref()));
            if !tokens.is_none() {
                numbers[level as usize] += 1;
            }
        }
        numbers
    };
    state.metrics.quotas.keys(snapshot.quotas.iter().map(|quota| (quota.name.as_str(), count(quota))));
}
