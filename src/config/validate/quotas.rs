//! Rules about token quotas, and about the amounts that a keys file gives to single keys.

use std::collections::HashSet;

use super::Rules;
use super::limits;
use crate::config::codes;
use crate::config::keys;
use crate::config::suggest;
use crate::config::tree::Path;
use crate::config::types::{Config, Kind, OneOrMany, Quota, QuotaWindow};
use crate::ollama::ModelPattern;
use crate::units::Count;

/// Most quotas: each costs every request a look.
const MOST_QUOTAS: usize = 32;

/// The word that counts everything together.
const ALL: &str = "all";

/// Fields whose values are secrets: what is counted by is kept and shown.
const SECRET: [&str; 4] = ["authorization", "proxy-authorization", "cookie", "x-api-key"];

pub(super) fn check(config: &Config, rules: &mut Rules<'_, '_, '_>) {
    let root = Path::Root.key("quotas");
    if config.quotas.len() > MOST_QUOTAS {
        let message = format!("{} quotas are more than there may be: at most {MOST_QUOTAS}", config.quotas.len());
        rules.key(codes::RANGE, &root, message, "leave out those that others cover");
    }
    let mut names = HashSet::new();
    for (index, quota) in config.quotas.iter().enumerate() {
        let path = root.index(index);
        let name = path.key("name");
        rules.name(&name, &quota.name, "a quota", false);
        if !names.insert(quota.name.as_str()) {
            let shown = rules.shown(&name, &quota.name);
            let message = format!("another quota already has the name {shown}");
            rules.value(codes::NAME_TWICE, &name, message, "names are unique: what was used is kept by them");
        }
        of_quota(config, &path, quota, rules);
    }
    if config.server.data_dir.is_none() && config.quotas.iter().any(|quota| quota.every != QuotaWindow::Minute) {
        let message = "what is used of quotas is kept in memory only, and forgotten when the process ends";
        rules.key(codes::NOT_KEPT, &root, message, "add `server: { data_dir: /var/lib/arriero }`");
    }
    of_keys(config, rules);
}

fn of_quota(config: &Config, path: &Path<'_>, quota: &Quota, rules: &mut Rules<'_, '_, '_>) {
    key(&path.key("key"), &quota.key, rules);
    match quota.limit {
        Some(Count(0)) => {
            let hint = "write a number such as `1M`; `auth: required` keeps out who has no key";
            rules.value(codes::ZERO, &path.key("limit"), "a limit of zero tokens would refuse every request", hint);
        }
        None if rules.is_whole(path) && !counts_by_key(quota) => {
            let hint = "add `limit: 1M`, or count by `api_key` and give amounts to keys";
            rules.key(codes::MISSING_KEY, path, "a quota that does not count by `api_key` needs a `limit`", hint);
        }
        None if rules.is_whole(path) && config.auth.keys_file.is_none() => {
            let hint = "add `limit: 1M`, or `auth: { keys_file: ./keys.yaml }`";
            let message =
                "a quota without `limit` holds for API keys that have an amount of their own, and there are no keys";
            rules.key(codes::MISSING_KEY, path, message, hint);
        }
        _ => {}
    }
    each(&path.key("models"), &quota.models, rules, |path, model, rules| {
        if ModelPattern::parse(model).is_none() {
            let shown = rules.shown(path, model);
            let hint = "write a name such as `llava`, `llava:13b` or `llava*`";
            rules.value(codes::MODEL, path, format!("{shown} is not a model pattern"), hint);
        }
    });
    each(&path.key("routes"), &quota.routes, rules, |path, name, rules| {
        let shown = rules.shown(path, name);
        let Some(route) = config.routes.iter().find(|route| route.name == name) else {
            let hint = suggest::hint(name, config.routes.iter().map(|route| route.name.as_str()), "routes");
            rules.value(codes::UNKNOWN_ROUTE, path, format!("there is no route {shown}"), hint);
            return;
        };
        let upstream = route.upstream.as_ref().map(|name| config.upstreams.get(name));
        // An upstream that is not there is told elsewhere.
        if upstream.is_none_or(|upstream| upstream.is_some_and(|upstream| upstream.kind == Kind::Http)) {
            let message = format!("requests of the route {shown} use no tokens: no servers with models answer them");
            rules.value(codes::NOT_HERE, path, message, "remove it from the list");
        }
    });
}

/// Whether keys may have amounts of their own.
fn counts_by_key(quota: &Quota) -> bool {
    quota.key.as_slice().iter().any(|part| part == "api_key")
}

fn key(path: &Path<'_>, parts: &OneOrMany<String>, rules: &mut Rules<'_, '_, '_>) {
    let all = parts.as_slice();
    if all == [ALL] {
        return;
    }
    limits::key(path, parts, true, &[ALL], rules);
    for (index, part) in all.iter().enumerate() {
        let path = if matches!(parts, OneOrMany::One(_)) { *path } else { path.index(index) };
        if part == ALL {
            let hint = "write `key: all` alone, or leave it out";
            rules.value(codes::LIMIT_KEY, &path, "`all` counts everything together, and nothing beside it", hint);
        }
        let field = part.strip_prefix("header:").map(str::to_ascii_lowercase);
        if field.is_some_and(|field| SECRET.contains(&field.as_str())) {
            let message = "this field holds a secret, and what a quota counts by is kept and shown";
            rules.value(codes::LIMIT_KEY, &path, message, "count by `api_key`, which is kept by its id");
        }
    }
}

/// Runs `rule` for each value, and refuses a list that was given and is empty.
fn each(
    path: &Path<'_>,
    values: &OneOrMany<String>,
    rules: &mut Rules<'_, '_, '_>,
    rule: impl Fn(&Path<'_>, &str, &mut Rules<'_, '_, '_>),
) {
    match values {
        OneOrMany::One(value) => rule(path, value, rules),
        OneOrMany::Many(values) if values.is_empty() && rules.given(path) => {
            rules.key(codes::EMPTY_LIST, path, "the list is empty", "leave it out for all of them");
        }
        OneOrMany::Many(values) => {
            values.iter().enumerate().for_each(|(index, value)| rule(&path.index(index), value, rules));
        }
    }
}

/// Amounts in the keys file that have no effect. The file may not be there yet, and is checked by itself.
fn of_keys(config: &Config, rules: &mut Rules<'_, '_, '_>) {
    let Some(file) = config.auth.keys_file.as_deref().filter(|file| !file.is_empty()) else { return };
    let Ok(loaded) = keys::load(std::path::Path::new(file)) else { return };
    let by_key = config.quotas.iter().filter(|quota| counts_by_key(quota)).map(|quota| quota.name.as_str());
    let unknown = loaded.keys.iter().flat_map(|key| key.quotas.keys().map(move |name| (key, name)));
    let auth = Path::Root.key("auth");
    let path = auth.key("keys_file");
    for (key, name) in unknown.filter(|(_, name)| by_key.clone().all(|known| known != name.as_str())) {
        let message =
            format!("the key {} has an amount for `{name}`, which is no quota that counts by `api_key`", key.id);
        let hint = suggest::hint(name, by_key.clone(), "quotas that count by `api_key`");
        rules.value(codes::NO_SUCH_QUOTA, &path, message, hint);
    }
}
