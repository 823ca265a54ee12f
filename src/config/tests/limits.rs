//! Rules about limits: rates, concurrency, connections, descriptors.

use super::rules::{ADDRESS, ROUTE, add, edit, hint};
use super::{GOOD, load};
use crate::config::types::{Delay, Preset};

/// Adds a rate limit to the good route and holds what is found at it, as `CODE COLUMN KEY`.
#[track_caller]
fn rate(limit: &str, expected: &[&str]) {
    let at = |found: &&str| {
        let (code, rest) = found.split_once(' ').expect("a code");
        let (column, key) = rest.split_once(' ').expect("a column");
        format!("{code} 7:{column} routes[0].rate_limits{key}")
    };
    let expected: Vec<String> = expected.iter().map(at).collect();
    let expected: Vec<&str> = expected.iter().map(String::as_str).collect();
    add(ROUTE, &format!("    rate_limits: [{limit}]"), &expected);
}

#[test]
fn every_key_that_can_be_counted_by_is_good() {
    for key in [
        "client_ip",
        "api_key",
        "route",
        "model",
        "host",
        "\"header:X-Team\"",
        "[client_ip, model]",
        "[api_key, host, \"header:a\"]",
    ] {
        rate(&format!("{{ key: {key}, rate: 10/s }}"), &[]);
        add(ROUTE, &format!("    concurrency: [{{ key: {key}, max: 1 }}]"), &[]);
    }
    rate("{ rate: 100/m, burst: 20, delay: all }", &[]);
    rate("{ rate: 100/m, burst: 20, delay: 20 }, { preset: strict, delay: 12 }", &[]);
    let text = GOOD.replace(ROUTE, &format!("{ROUTE}\n    rate_limits: [{{ preset: api, delay: all }}]"));
    let limits = load(&text).map(|loaded| loaded.config.routes[0].rate_limits.clone()).unwrap_or_default();
    assert_eq!((limits[0].preset, limits[0].delay), (Some(Preset::Api), Delay::All));
    assert_eq!(limits[0].key.as_slice(), ["client_ip"]);
}

#[test]
fn what_cannot_be_counted_by_is_found() {
    rate("{ key: clientip, rate: 10/s }", &["E070 26 [0].key"]);
    rate("{ key: [client_ip, mdoel], rate: 10/s }", &["E070 38 [0].key[1]"]);
    rate("{ key: [client_ip, client_ip], rate: 10/s }", &["E070 38 [0].key[1]"]);
    rate("{ key: \"header:\", rate: 10/s }", &["E030 26 [0].key"]);
    rate("{ key: \"header:a b\", rate: 10/s }", &["E030 26 [0].key"]);
    rate("{ key: [], rate: 10/s }", &["E021 21 [0].key"]);
    let with = |key: &str| GOOD.replace(ROUTE, &format!("{ROUTE}\n    rate_limits: [{{ key: {key}, rate: 10/s }}]"));
    hint(&with("clientip"), "help: did you mean `client_ip`?");
    hint(&with("apikey"), "help: did you mean `api_key`?");
    hint(&with("user"), "known words: `client_ip`, `api_key`, `route`, `model`, `host`, `header:NAME`");
    add(ROUTE, "    concurrency: [{ key: ip, max: 1 }]", &["E070 7:26 routes[0].concurrency[0].key"]);
}

#[test]
fn a_rate_has_its_numbers_once_and_in_range() {
    rate("{ key: client_ip }", &["E011 19 [0]"]);
    rate("{ preset: general, rate: 10/s }", &["E038 38 [0].rate"]);
    rate("{ preset: general, burst: 10 }", &["E038 38 [0].burst"]);
    rate("{ preset: genral }", &["E013 29 [0].preset"]);
    rate("{ raet: 1/s }", &["E010 21 [0].raet"]);
    rate("{ rate: 1/s, burst: x, delay: 5 }", &["E012 39 [0].burst"]);
    rate("{ rate: 100 }", &["E013 27 [0].rate"]);
    rate("{ rate: 0/s }", &["E013 27 [0].rate"]);
    rate("{ rate: 100r/m }", &["E013 27 [0].rate"]);
    rate("{ rate: 1/s, burst: 100001 }", &["E034 39 [0].burst"]);
    rate("{ rate: 1/s, burst: 5, delay: 6 }", &["E038 49 [0].delay"]);
    rate("{ rate: 1/s, delay: 1 }", &["E038 39 [0].delay"]);
    rate("{ rate: 1/s, delay: none }", &["E013 39 [0].delay"]);
    let nine = ["{ rate: 1/s }"; 9].join(", ");
    add(ROUTE, &format!("    rate_limits: [{nine}]"), &["E034 7:5 routes[0].rate_limits"]);
    hint(&GOOD.replace(ROUTE, &format!("{ROUTE}\n    rate_limits: [{{ rate: 100r/m }}]")), "write `100/m`");
}

#[test]
fn a_concurrency_is_at_least_one() {
    add(ROUTE, "    concurrency: [{ max: 0 }]", &["E034 7:26 routes[0].concurrency[0].max"]);
    add(ROUTE, "    concurrency: [{ key: route }]", &["E011 7:19 routes[0].concurrency[0]"]);
}

#[test]
fn nothing_is_counted_by_model_where_there_is_none() {
    let http = GOOD.replace("kind: ollama", "kind: http");
    let text = http.replace(ROUTE, &format!("{ROUTE}\n    rate_limits: [{{ key: [client_ip, model], rate: 1/s }}]"));
    assert_eq!(super::found(&text), ["E036 7:38 routes[0].rate_limits[0].key[1]"]);
}

#[test]
fn limits_of_a_listener_fit_together() {
    add(ADDRESS, "    limits: { connections: 0, connections_per_ip: 0, body_rate: 0, requests: 1 }", &[]);
    add(ADDRESS, "    limits: { connections: 0, connections_per_ip: 5 }", &[]);
    add(ADDRESS, "    limits: { connections: 10 }", &[]);
    let path = "listeners[0].limits";
    add(
        ADDRESS,
        "    limits: { connections: 10, connections_per_ip: 11 }",
        &[&format!("E038 4:52 {path}.connections_per_ip")],
    );
    add(ADDRESS, "    limits: { requests: 0 }", &[&format!("E034 4:25 {path}.requests")]);
    add(ADDRESS, "    limits: { body_rate: 100 }", &[&format!("E013 4:26 {path}.body_rate")]);
    edit("version: 1", "version: 1\nserver: { reserved_files: 0 }", &["E034 2:27 server.reserved_files"]);
    edit("version: 1", "version: 1\nserver: { reserved_files: 70000 }", &["E034 2:27 server.reserved_files"]);
}
