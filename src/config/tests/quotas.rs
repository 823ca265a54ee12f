//! Rules about token quotas.

use std::fs;

use super::rules::hint;
use super::{GOOD, found, load};
use crate::config::types::{QuotaBeyond, QuotaTokens, QuotaWindow};
use crate::units::{Count, Percent};

fn with(quota: &str) -> String {
    format!("{GOOD}server: {{ data_dir: /tmp }}\nquotas:\n  - {{ {quota} }}\n")
}

/// Holds what is found at a quota, as `CODE COLUMN KEY`.
#[track_caller]
fn quota(keys: &str, expected: &[&str]) {
    let at = |found: &&str| {
        let (code, rest) = found.split_once(' ').expect("a code");
        let (column, key) = rest.split_once(' ').expect("a column");
        format!("{code} 14:{column} quotas[0]{key}")
    };
    let expected: Vec<String> = expected.iter().map(at).collect();
    assert_eq!(found(&with(keys)), expected, "{keys}");
}

#[test]
fn a_quota_says_how_many_tokens_in_which_time() {
    quota("name: daily, limit: 1M, every: day", &[]);
    quota("name: a, key: [api_key, model, \"header:x-team\"], tokens: output, limit: 250000, every: month", &[]);
    quota("name: a, key: all, limit: 1G, every: hour, warn_at: 100%, beyond: warn, models: \"llava*\"", &[]);
    let loaded =
        load(&with("name: daily, limit: 1M, every: day")).map(|loaded| loaded.config.quotas).unwrap_or_default();
    let daily = &loaded[0];
    assert_eq!((daily.key.as_slice(), daily.limit), (&["api_key".to_owned()][..], Some(Count(1_000_000))));
    assert_eq!((daily.tokens, daily.every), (QuotaTokens::Total, QuotaWindow::Day));
    assert_eq!((daily.warn_at, daily.beyond), (Percent::new(80), QuotaBeyond::Refuse));
}

#[test]
fn what_makes_no_sense_is_found() {
    quota("name: a, limit: 1M", &["E011 5 "]);
    quota("limit: 1M, every: day", &["E011 5 "]);
    quota("name: \"a b\", limit: 1M, every: day", &["E024 13 .name"]);
    quota("name: a, limit: 0, every: day", &["E035 23 .limit"]);
    quota("name: a, limit: 1m, every: day", &["E013 23 .limit"]);
    quota("name: a, limit: 1M, every: week", &["E013 34 .every"]);
    quota("name: a, limit: 1M, every: day, warn_at: 80", &["E013 48 .warn_at"]);
    quota("name: a, limit: 1M, every: day, key: apikey", &["E070 44 .key"]);
    quota("name: a, limit: 1M, every: day, key: [all, model]", &["E070 45 .key[0]"]);
    quota("name: a, limit: 1M, every: day, key: \"header:Authorization\"", &["E070 44 .key"]);
    quota("name: a, limit: 1M, every: day, key: []", &["E021 39 .key"]);
    quota("name: a, limit: 1M, every: day, models: [\"a b\", \"\"]", &["E031 55 .models[1]"]);
    quota("name: a, limit: 1M, every: day, routes: [al]", &["E042 48 .routes[0]"]);
    quota("name: a, limit: 1M, every: day, routes: []", &["E021 39 .routes"]);
    quota("name: a, every: day, key: client_ip", &["E011 5 "]);
    quota("name: a, every: day", &["E011 5 "]);
    quota("name: a, limit: 1M, every: day, limt: 2", &["E010 39 .limt"]);
    hint(&with("name: a, limit: 1m, every: day"), "write `1M`");
    hint(&with("name: a, limit: 1M, every: day, key: al"), "did you mean `all`?");
    hint(&with("name: a, limit: 1M, every: dya"), "did you mean `day`?");
    let two = with("name: a, limit: 1M, every: day }\n  - { name: a, limit: 1M, every: month");
    assert_eq!(found(&two), ["E025 15:13 quotas[1].name"]);
}

#[test]
fn a_quota_needs_routes_whose_servers_have_models() {
    let http = with("name: a, limit: 1M, every: day, routes: [all]").replace("kind: ollama", "kind: http");
    assert_eq!(found(&http), ["E036 14:48 quotas[0].routes[0]"]);
}

#[test]
fn sums_that_end_with_the_process_are_warned_of() {
    let text = |every: &str| format!("{GOOD}quotas:\n  - {{ name: a, limit: 1M, every: {every} }}\n");
    assert_eq!(found(&text("day")), ["W063 12:1 quotas"]);
    assert_eq!(found(&text("minute")), Vec::<String>::new());
}

#[test]
fn keys_have_amounts_of_quotas_that_there_are() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("keys.yaml");
    let keys = |more: &str| {
        let hash = "0".repeat(64);
        let line = format!("keys:\n  - {{ name: a, id: \"0000000a\", hash: \"sha256:{hash}\", {more} }}\n");
        fs::write(&path, line).unwrap();
    };
    let text = |quota: &str| format!("{}auth: {{ keys_file: \"{}\" }}\n", with(quota), path.display());
    keys("quotas: { daily: 5M }");
    assert_eq!(found(&text("name: daily, every: day")), Vec::<String>::new(), "no limit is needed");
    assert_eq!(found(&text("name: dayly, limit: 1M, every: day")), ["W062 15:20 auth.keys_file"]);
    hint(&text("name: dayly, limit: 1M, every: day, key: nothing"), "cannot be counted by");
    assert_eq!(found(&text("name: daily, limit: 1M, every: day, key: client_ip")), ["W062 15:20 auth.keys_file"]);
    let at = |more: &str| {
        keys(more);
        crate::config::keys::load(&path).map_err(|found| found.render(false)).err().unwrap_or_default()
    };
    assert!(at("quotas: { daily: 0 }").contains("a limit of zero tokens"));
    assert!(at("quotas: { daily: much }").contains("write a whole number"));
}
