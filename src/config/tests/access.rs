//! Rules about who may: codes E060 to E062, W060.

use super::{GOOD, found, load};

const ADDRESS: &str = "  - address: 127.0.0.1:0";
const ROUTE: &str = "    upstream: fleet";

/// Adds `more` below a line of the good file, and holds that exactly `expected` is found.
#[track_caller]
fn add(below: &str, more: &str, expected: &[&str]) {
    let text = GOOD.replacen(below, &format!("{below}\n{more}"), 1);
    assert_eq!(found(&text), expected, "\n{text}");
}

#[track_caller]
fn hint(below: &str, more: &str, expected: &str) {
    let printed = match load(&GOOD.replacen(below, &format!("{below}\n{more}"), 1)) {
        Ok(loaded) => super::Diagnostics(loaded.warnings).render(false),
        Err(found) => found.render(false),
    };
    assert!(printed.contains(expected), "{printed}");
}

#[test]
fn trusted_proxies_are_networks_and_not_everybody() {
    add(ADDRESS, "    trusted_proxies: [10.0.0.0/8, 192.0.2.1, \"2001:db8::/32\"]", &[]);
    add(ADDRESS, "    trusted_proxies: [10.0.0.1/8]", &["E060 4:23 listeners[0].trusted_proxies[0]"]);
    hint(ADDRESS, "    trusted_proxies: [10.0.0.1/8]", "write `10.0.0.0/8`, or `10.0.0.1` for it alone");
    add(ADDRESS, "    trusted_proxies: []", &["E021 4:5 listeners[0].trusted_proxies"]);
    for all in ["0.0.0.0/0", "\"::/0\""] {
        add(ADDRESS, &format!("    trusted_proxies: [{all}]"), &["W060 4:23 listeners[0].trusted_proxies[0]"]);
    }
    add(ADDRESS, "    proxy_protocol: accept", &["E038 4:21 listeners[0].proxy_protocol"]);
    add(ADDRESS, "    proxy_protocol: accept\n    trusted_proxies: [10.0.0.0/8]", &[]);
    add(ADDRESS, "    proxy_protocol: off", &[]);
    add(ADDRESS, "    proxy_protocol: on", &["E013 4:21 listeners[0].proxy_protocol"]);
}

#[test]
fn hosts_are_names_as_in_a_match() {
    add(ADDRESS, "    hosts: [a.test, \"*.example.com\", \"[::1]\", 10.0.0.1]", &[]);
    for wrong in ["\"*\"", "a.test:80", "\"a.*.b\"", "\"http://a\""] {
        add(ADDRESS, &format!("    hosts: [{wrong}]"), &["E029 4:13 listeners[0].hosts[0]"]);
    }
    hint(ADDRESS, "    hosts: [\"*\"]", "leave `hosts` out");
}

#[test]
fn keys_that_are_asked_for_come_from_a_file() {
    for auth in ["required", "optional"] {
        add(ROUTE, &format!("    auth: {auth}"), &["E062 7:11 routes[0].auth"]);
        add("version: 1", "auth: { keys_file: keys.yaml }", &[]);
        let with = GOOD.replace("version: 1", "version: 1\nauth: { keys_file: keys.yaml }");
        assert_eq!(found(&with.replace(ROUTE, &format!("{ROUTE}\n    auth: {auth}"))), Vec::<String>::new());
    }
    hint(ROUTE, "    auth: required", "`arriero key new NAME` makes keys");
    add(ROUTE, "    auth: none", &[]);
    add(ROUTE, "    auth: yes", &["E013 7:11 routes[0].auth"]);
    add("version: 1", "auth: { keys_file: \"\" }", &["E013 2:20 auth.keys_file"]);
}

#[test]
fn access_lists_are_networks() {
    add(ROUTE, "    access: { allow: [10.0.0.0/8, \"::1\"], deny: [10.6.6.6] }", &[]);
    add(
        ROUTE,
        "    access: { allow: [10.0.0.0/40], deny: [evil.test] }",
        &["E060 7:23 routes[0].access.allow[0]", "E060 7:44 routes[0].access.deny[0]"],
    );
    // An empty list that somebody wrote may have been meant to let nobody in.
    add(ROUTE, "    access: { allow: [] }", &["E021 7:15 routes[0].access.allow"]);
}

#[test]
fn origins_are_as_browsers_write_them_and_never_all_with_credentials() {
    add(ROUTE, "    cors: { origins: [\"https://app.example\", \"http://localhost:3000\"], credentials: true }", &[]);
    add(ROUTE, "    cors: { origins: [\"*\"] }", &[]);
    add(ROUTE, "    cors: {}", &["E011 7:11 routes[0].cors"]);
    add(ROUTE, "    cors: { origins: [] }", &["E021 7:13 routes[0].cors.origins"]);
    add(ROUTE, "    cors: { origins: [\"https://app.example/\"] }", &["E061 7:23 routes[0].cors.origins[0]"]);
    hint(ROUTE, "    cors: { origins: [\"https://app.example/\"] }", "`https://app.example`");
    add(ROUTE, "    cors: { origins: [\"*\"], credentials: true }", &["E038 7:42 routes[0].cors.credentials"]);
    let with = |more: &str| format!("    cors: {{ origins: [\"https://a\"], {more} }}");
    add(ROUTE, &with("methods: []"), &["E021 7:37 routes[0].cors.methods"]);
    add(ROUTE, &with("methods: [get]"), &["E028 7:47 routes[0].cors.methods[0]"]);
    add(ROUTE, &with("headers: [\"*\"]"), &["E013 7:47 routes[0].cors.headers[0]"]);
    hint(ROUTE, &with("headers: [\"*\"]"), "leave `headers` out");
    add(ROUTE, &with("expose: [\"a b\"]"), &["E013 7:46 routes[0].cors.expose[0]"]);
    add(ROUTE, &with("max_age: 60"), &["E013 7:46 routes[0].cors.max_age"]);
}
