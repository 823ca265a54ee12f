//! Rules about what may make a server well again.

use super::Rules;
use super::notifications::{secret, webhook};
use crate::config::codes;
use crate::config::tree::Path;
use crate::config::types::{Active, Kind, RecoveryAction, Upstream};

pub(super) fn check(path: &Path<'_>, upstream: &Upstream, rules: &mut Rules<'_, '_, '_>) {
    let checked = match &upstream.health.active {
        Some(Active::Off(_)) => false,
        Some(Active::Check(_)) => true,
        None => upstream.kind != Kind::Http,
    };
    for (index, server) in upstream.servers.iter().enumerate() {
        let servers = path.key("servers");
        let server_path = servers.index(index);
        let Some(action) = &server.recovery else { continue };
        let path = server_path.key("recovery");
        if !checked {
            let hint = "add `health: { active: { path: / } }` to the upstream";
            rules.key(codes::NOT_HERE, &path, "without checks nobody learns that the server is down", hint);
        }
        one(&path, action, rules);
    }
}

fn one(path: &Path<'_>, action: &RecoveryAction, rules: &mut Rules<'_, '_, '_>) {
    let kinds = [action.exec.is_some(), action.webhook.is_some(), action.docker_restart.is_some()];
    let count = kinds.into_iter().filter(|given| *given).count();
    if count != 1 && (count > 1 || rules.is_whole(path)) {
        let message = if count == 0 { "it does not say what is to be done" } else { "only one thing can be done" };
        let hint = "write one of `exec`, `webhook` and `docker_restart`";
        rules.key(codes::RECOVERY_ACTION, path, message, hint);
    }
    if let Some(arguments) = &action.exec {
        let path = path.key("exec");
        if arguments.first().is_none_or(String::is_empty) {
            let hint = "write a list: the program, then its arguments";
            rules.value(codes::RECOVERY_ACTION, &path, "the program is missing", hint);
        } else if arguments.iter().any(|argument| argument.contains('\0')) {
            rules.value(codes::RECOVERY_ACTION, &path, "an argument has a zero byte", ());
        }
    }
    if let Some(url) = &action.webhook {
        webhook(&path.key("webhook"), url, rules);
    }
    if let Some(name) = &action.docker_restart {
        let path = path.key("docker_restart");
        let first = name.starts_with(|c: char| c.is_ascii_alphanumeric());
        if !first || !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte)) {
            let shown = rules.shown(&path, name);
            let hint = "write the container's name or id, as `docker ps` has it";
            rules.value(codes::RECOVERY_ACTION, &path, format!("{shown} cannot be the name of a container"), hint);
        }
    }
    for (key, given, with) in [
        ("secret_file", action.secret_file.is_some() && action.webhook.is_none(), "webhook"),
        ("docker_socket", action.docker_socket.is_some() && action.docker_restart.is_none(), "docker_restart"),
    ] {
        if given {
            let message = format!("`{key}` has no meaning without `{with}`");
            rules.key(codes::NOT_HERE, &path.key(key), message, "remove it");
        }
    }
    if let Some(file) = action.secret_file.as_ref().filter(|_| action.webhook.is_some()) {
        secret(&path.key("secret_file"), file, rules);
    }
    rules.range(&path.key("after"), action.after, 1, u32::MAX);
    rules.range(&path.key("max_attempts"), action.max_attempts, 1, u32::MAX);
    let hint = "leave it out for the default";
    for (key, time) in [
        ("backoff", action.backoff),
        ("timeout", action.timeout),
        ("verify", action.verify),
        ("retry_after", action.retry_after),
    ] {
        rules.not_zero(&path.key(key), time, hint);
    }
    if action.backoff > action.max_backoff {
        let (backoff_path, longest_path) = (path.key("backoff"), path.key("max_backoff"));
        let at = if rules.given(&backoff_path) { backoff_path } else { longest_path };
        let default = RecoveryAction::default().max_backoff;
        let hint = format!("raise `max_backoff` ({default} by default) or lower `backoff`");
        rules.value(codes::CONTRADICTION, &at, "`backoff` is longer than `max_backoff`", hint);
    }
}
