//! What must not be changed by just anybody who reaches a port of loopback.
//!
//! Without a token every user of the machine may call the admin API. Most of the configuration is no more to them than
//! what they could do anyway; but some of it makes this process run programs, read files or open sockets as its own user.

use serde_json::Value;

use crate::config::overlay::{Edit, Step};

/// Keys under which the configuration names programs, files and addresses of this machine.
const GUARDED: [&str; 17] = [
    "admin",
    "auth",
    "listeners",
    "notifications",
    "exec",
    "webhook",
    "docker_restart",
    "docker_socket",
    "secret_file",
    "token_file",
    "agent",
    "exporter",
    "files",
    "error_pages",
    "tls",
    "tracing",
    "data_dir",
];

/// The first place of these edits that needs a token.
pub fn guarded(edits: &[Edit]) -> Option<String> {
    edits.iter().find(|edit| is_guarded(edit)).map(|edit| edit.place.to_string())
}

fn is_guarded(edit: &Edit) -> bool {
    let on_the_way = edit.place.0.iter().any(|step| matches!(step, Step::Key(key) if GUARDED.contains(&key.as_str())));
    on_the_way || edit.value.as_ref().is_some_and(names_guarded)
}

fn names_guarded(value: &Value) -> bool {
    match value {
        Value::Object(entries) => {
            entries.iter().any(|(key, value)| GUARDED.contains(&key.as_str()) || names_guarded(value))
        }
        Value::Array(items) => items.iter().any(names_guarded),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::config::overlay::Place;

    #[test]
    fn programs_files_and_addresses_are_guarded_wherever_they_stand() {
        let at = |keys: &[&str], value: Value| Edit { place: Place::of_keys(keys.iter().copied()), value: Some(value) };
        for edit in [
            at(&["notifications"], json!([])),
            at(&["admin", "token_file"], json!("/etc/shadow")),
            at(&["upstreams", "fleet", "servers"], json!([{ "url": "http://a", "recovery": { "exec": ["sh"] } }])),
            at(&["routes"], json!([{ "name": "all", "files": { "root": "/" } }])),
            at(&["telemetry"], json!({ "tracing": { "url": "http://a" } })),
            at(&["telemetry", "tracing", "url"], json!("http://a")),
            at(&["upstreams", "fleet", "servers", "a", "gpu"], json!({ "exporter": "http://169.254.169.254/" })),
        ] {
            assert!(guarded(std::slice::from_ref(&edit)).is_some(), "{edit:?}");
        }
        for edit in [
            at(&["upstreams", "fleet", "queue", "timeout"], json!("5s")),
            at(&["upstreams", "fleet", "servers"], json!([{ "url": "http://a", "weight": 2 }])),
            at(&["history", "requests"], json!("30m")),
        ] {
            assert_eq!(guarded(&[edit]), None);
        }
    }
}
