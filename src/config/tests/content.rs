//! Rules about targets, header rules, error pages and cookies. Codes E080 to E085.

use super::{GOOD, found, load};

const ROUTE: &str = "    upstream: fleet";
const KIND: &str = "    kind: ollama";

#[track_caller]
fn edit(from: &str, to: &str, expected: &[&str]) {
    assert!(GOOD.contains(from), "{from}");
    let text = GOOD.replacen(from, to, 1);
    assert_eq!(found(&text), expected, "\n{text}");
}

/// Adds keys to the route that has an upstream.
#[track_caller]
fn add(more: &str, expected: &[&str]) {
    edit(ROUTE, &format!("{ROUTE}\n    {more}"), expected);
}

/// A second route with a target of its own.
#[track_caller]
fn other(target: &str, expected: &[&str]) {
    edit(ROUTE, &format!("    match: {{ path: /api/ }}\n{ROUTE}\n  - name: other\n    {target}"), expected);
}

#[track_caller]
fn says(more: &str, words: &str) {
    let text = GOOD.replacen(ROUTE, &format!("{ROUTE}\n    {more}"), 1);
    let printed = load(&text).err().unwrap_or_default().render(false);
    assert!(printed.contains(words), "{printed}");
}

#[test]
fn a_route_has_exactly_one_target() {
    other("respond: {}", &[]);
    other("redirect: { to: \"https://{host}{uri}\" }", &[]);
    other("files: { root: ./www }", &[]);
    other("match: { path: /x }", &["E011 8:5 routes[1]"]);
    add("respond: {}", &["E080 7:5 routes[0].respond"]);
    add("respond: {}\n    files: { root: a }", &["E080 7:5 routes[0].respond", "E080 8:5 routes[0].files"]);
    says("redirect: { to: / }", "two targets: `upstream` and `redirect`");
}

#[test]
fn answers_and_redirects_are_checked() {
    other("respond: { status: 99 }", &["E034 9:24 routes[1].respond.status"]);
    other("respond: { status: 204, body: x }", &["E038 9:35 routes[1].respond.body"]);
    other("respond: { content_type: \"a\\nb\" }", &["E083 9:30 routes[1].respond.content_type"]);
    other("respond: { headers: { x: \"{nope}\" } }", &["E081 9:30 routes[1].respond.headers.x"]);
    other("redirect: { to: /new, status: 300 }", &["E034 9:35 routes[1].redirect.status"]);
    for to in ["\"{path}\"", "\"{scheme}://b{uri}\"", "/b", "\"http://b\""] {
        other(&format!("redirect: {{ to: {to} }}"), &[]);
    }
    for to in ["b.example", "\"javascript:x\"", "\"{host}/x\"", "\"\""] {
        other(&format!("redirect: {{ to: {to} }}"), &["E081 9:21 routes[1].redirect.to"]);
    }
}

#[test]
fn files_are_checked() {
    other("files: { root: \"\" }", &["E013 9:20 routes[1].files.root"]);
    other("files: { root: a, index: b/c }", &["E013 9:30 routes[1].files.index"]);
    other("files: { root: a, index: .. }", &["E013 9:30 routes[1].files.index"]);
    for fallback in ["index.html", "/", "/../x"] {
        other(&format!("files: {{ root: a, fallback: {fallback} }}"), &["E027 9:33 routes[1].files.fallback"]);
    }
    other("files: { root: a, cache_control: \"a\\r\\nb\" }", &["E083 9:38 routes[1].files.cache_control"]);
}

#[test]
fn header_rules_are_checked() {
    add("headers: { response: { set: { x-a: \"{client_ip} {{x}\", vary: a }, remove: server } }", &[]);
    add("headers: { request: { set: { host: \"{upstream}\" } } }", &[]);
    let at = "routes[0].headers";
    for name in ["content-length", "Transfer-Encoding", "connection", "upgrade"] {
        let request = format!("headers: {{ request: {{ set: {{ {name}: a }} }} }}");
        add(&request, &[&format!("E082 7:34 {at}.request.set.{name}")]);
    }
    add("headers: { response: { set: { host: a } } }", &[&format!("E082 7:35 {at}.response.set.host")]);
    add("headers: { request: { add: { host: a } } }", &[&format!("E082 7:34 {at}.request.add.host")]);
    add("headers: { request: { remove: host } }", &[&format!("E082 7:35 {at}.request.remove")]);
    add("headers: { response: { remove: [a, te] } }", &[&format!("E082 7:40 {at}.response.remove[1]")]);
    add("headers: { response: { remove: [\"a b\"] } }", &[&format!("E083 7:37 {at}.response.remove[0]")]);
    add("headers: { response: { add: { x: \"{hots}\" } } }", &[&format!("E081 7:38 {at}.response.add.x")]);
    says("headers: { response: { add: { x: \"{hots}\" } } }", "did you mean `host`?");
    says("headers: { response: { add: { x: \"{host\" } } }", "write `{{` for a brace");
    says("headers: { response: { add: { x: \"a\\nb\" } } }", "on one line");
    says("headers: { request: { set: { connection: a } } }", "also for WebSockets");
}

#[test]
fn a_wrong_template_out_of_a_variable_is_not_repeated() {
    let text = GOOD.replacen(ROUTE, &format!("{ROUTE}\n    headers: {{ request: {{ set: {{ x: \"${{V}}\" }} }} }}"), 1);
    let env = |_: &str| Some("s3cr3t {s3cr3t}".to_owned());
    let printed = crate::config::parse("t", &text, &env).err().unwrap_or_default().render(false);
    assert!(printed.contains("E081") && printed.contains("`${V}`") && !printed.contains("s3cr3t"), "{printed}");
}

#[test]
fn prefixes_pages_and_codings_are_checked() {
    add("rewrite: { strip_prefix: /app, add_prefix: /v2/ }", &[]);
    add("rewrite: { strip_prefix: app }", &["E027 7:30 routes[0].rewrite.strip_prefix"]);
    add("rewrite: { add_prefix: /a//b }", &["E027 7:28 routes[0].rewrite.add_prefix"]);
    add("error_pages: { \"404\": a.html, 5xx: b.html, 4xx: c.html, 503: d.html }", &[]);
    for status in ["200", "3xx", "\"0404\"", "600"] {
        let expected = format!("E084 7:20 routes[0].error_pages.{}", status.trim_matches('"'));
        let found = found(&GOOD.replacen(ROUTE, &format!("{ROUTE}\n    error_pages: {{ {status}: a }}"), 1));
        assert!(found.len() == 1 && found[0].starts_with(&expected[..9]), "{found:?}");
    }
    add("error_pages: { 404: \"\" }", &["E084 7:25 routes[0].error_pages.404"]);
    add("intercept_errors: true", &["E036 7:5 routes[0].intercept_errors"]);
    add("compress: [br, gzip]", &[]);
    add("compress: true", &[]);
    add("compress: off", &[]);
    add("compress: [lzma]", &["E013 7:16 routes[0].compress[0]"]);
    add("compress: yes", &["E013 7:15 routes[0].compress"]);
    add("request_encoding: decode", &[]);
    add("request_encoding: pass", &["E013 7:23 routes[0].request_encoding"]);
}

#[test]
fn keys_that_need_a_server_are_refused_without_one() {
    other("respond: {}\n    retry: { attempts: 2 }", &["E036 10:5 routes[1].retry"]);
    other("respond: {}\n    rewrite: { strip_prefix: /a }", &["E036 10:5 routes[1].rewrite"]);
    other("files: { root: a }\n    rewrite: { strip_prefix: /a }", &[]);
    other("files: { root: a }\n    request_encoding: deny", &["E036 10:5 routes[1].request_encoding"]);
    other("files: { root: a }\n    cache: {}", &["E036 10:5 routes[1].cache"]);
}

#[test]
fn sticky_cookies_are_checked() {
    let balance = |keys: &str, expected: &[&str]| {
        edit(KIND, &format!("{KIND}\n    balance: {{ {keys} }}"), expected);
    };
    balance("policy: consistent_hash, hash_on: \"cookie:id\"", &[]);
    balance("policy: consistent_hash, sticky_cookie: {}", &[]);
    balance("policy: consistent_hash, hash_on: \"cookie:a\", sticky_cookie: { name: a, ttl: 0s }", &[]);
    let at = "upstreams.fleet.balance";
    balance("sticky_cookie: {}", &[&format!("E036 10:16 {at}.sticky_cookie")]);
    balance("policy: consistent_hash, hash_on: \"cookie:a b\"", &[&format!("E037 10:50 {at}.hash_on")]);
    let other = "policy: consistent_hash, hash_on: client_ip, sticky_cookie: {}";
    balance(other, &[&format!("E038 10:61 {at}.sticky_cookie")]);
    let name = "policy: consistent_hash, sticky_cookie: { name: \"a;b\" }";
    balance(name, &[&format!("E085 10:64 {at}.sticky_cookie.name")]);
    let path = "policy: consistent_hash, sticky_cookie: { path: \"/a;b\" }";
    balance(path, &[&format!("E027 10:64 {at}.sticky_cookie.path")]);
}
