//! References to variables: any value stays one value, and none is ever printed.

use super::super::{Diagnostics, Loaded, parse};
use super::GOOD;

const SECRET: &str = "s3cr3t-Value";

fn with(text: &str, value: &str) -> Result<Loaded, Diagnostics> {
    parse("test.yaml", text, &|name| (name == "V").then(|| value.to_owned()))
}

#[test]
fn a_value_can_never_change_the_structure() {
    let text =
        GOOD.replace("    upstream: fleet\n", "    upstream: fleet\n    match: { header: { x-key: \"${V}\" } }\n");
    let plain =
        GOOD.replace("    upstream: fleet\n", "    upstream: fleet\n    match:\n      header:\n        x-key: ${V}\n");
    for value in
        ["\"", "'", "a # b", "a: b", "{a: b}", "- x", "*a", "&a", "!t", "null", "~", "true", "7", "}", "${V}", "$$"]
    {
        for text in [&text, &plain] {
            let loaded = with(text, value).unwrap_or_else(|found| panic!("{}", found.render(false)));
            assert_eq!(loaded.config.routes[0].matches.header["x-key"], value);
            assert_eq!(loaded.config.routes.len(), 1);
        }
    }
    let lines = with(&text, "a\nroutes: []\n").err().unwrap_or_default();
    assert_eq!(lines.0[0].code, "E030", "a line break stays in the value: {lines}");
}

#[test]
fn typed_values_may_come_from_variables() {
    let text = GOOD.replace(
        "http://127.0.0.1:11434\n",
        "${V}\n        max_in_flight: ${N:-4}\n        weight: \"${W:-7}\"\n    circuit: { open_for: \"${O:-20s}\" }\n",
    ) + "server:\n  threads: ${T:-3}\ntelemetry:\n  access_log: ${L:-off}\nadmin:\n  address: 127.0.0.1:${P:-5101}\n";
    let config = with(&text, "http://a:1").unwrap_or_else(|found| panic!("{}", found.render(false))).config;
    let upstream = &config.upstreams["fleet"];
    assert_eq!(upstream.servers[0].url, "http://a:1");
    assert_eq!((upstream.servers[0].max_in_flight, upstream.servers[0].weight), (Some(4), 7));
    assert_eq!(upstream.circuit.open_for.to_string(), "20s");
    assert_eq!(config.server.threads, Some(3));
    assert_eq!(config.admin.address, "127.0.0.1:5101");
}

#[test]
fn a_missing_variable_is_named_with_its_position() {
    let text = GOOD.replace("name: all", "name: ${NOPE}").replace("11434", "${ALSO}");
    let found = super::found(&text);
    assert_eq!(found, ["E014 5:11 routes[0].name", "E014 11:14 upstreams.fleet.servers[0].url"]);
    let bad = GOOD.replace("name: all", "name: ${A:?x}");
    assert_eq!(super::found(&bad), ["E015 5:11 routes[0].name"]);
    let bare = GOOD.replace("127.0.0.1:0", "127.0.0.1:0\n    h2c: false") + "server: { temp_dir: $HOME/x }\n";
    assert_eq!(super::found(&bare), ["W005 13:21 server.temp_dir"]);
}

/// Every scalar of the reference in turn becomes a secret: whatever goes wrong, it is not printed.
#[test]
fn the_value_of_a_variable_is_never_printed() {
    let text = crate::config::reference_yaml();
    let lines: Vec<&str> = text.lines().collect();
    let mut refused = 0;
    for (index, line) in lines.iter().enumerate() {
        let Some((key, value)) = line.split_once(": ").filter(|(key, _)| !key.trim_start().starts_with('#')) else {
            continue;
        };
        let variants =
            [format!("{key}: \"${{V}}\""), format!("{key}: [\"${{V}}\"]"), format!("{key}: x-${{V}}-y # {value}")];
        for changed in variants {
            let mut copy: Vec<&str> = lines.clone();
            copy[index] = &changed;
            for secret in
                [SECRET.to_owned(), format!("http://u:{SECRET}@h"), format!("{SECRET}\n\"'"), format!("30{SECRET}")]
            {
                if let Err(found) = with(&copy.join("\n"), &secret) {
                    refused += 1;
                    let printed = format!("{}{found}{found:?}{}", found.render(true), found.to_json());
                    assert!(!printed.contains(SECRET), "{changed}: {printed}");
                    assert!(!printed.to_lowercase().contains("s3cr3t"), "{changed}: {printed}");
                }
            }
        }
    }
    assert!(refused > 300, "{refused}");
}

#[test]
fn a_wrong_value_names_the_reference_and_what_was_expected() {
    let text = format!("{GOOD}server:\n  threads: ${{V}}\n  drain: ${{V}}\ntelemetry:\n  log_level: ${{V}}\n");
    let found = with(&text, SECRET).err().unwrap_or_default();
    let messages: Vec<&str> = found.0.iter().map(|one| one.message.as_str()).collect();
    let expected = [
        "the value of `${V}` is not a whole number",
        "the value of `${V}` is not a duration with a unit, such as `30s`",
        "the value of `${V}` is not `error`, `warn`, `info` or `debug`",
    ];
    assert_eq!(messages, expected);
}
