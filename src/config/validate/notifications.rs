//! Rules about webhooks, and the two things that others have in common with them: their URL and their secret.

use super::Rules;
use crate::config::address::WebhookUrl;
use crate::config::codes;
use crate::config::tree::Path;
use crate::config::types::Config;

const URL_HINT: &str = "write `https://HOST/PATH`, or `http://HOST:PORT/PATH`";

pub(super) fn check(config: &Config, rules: &mut Rules<'_, '_, '_>) {
    let root = Path::Root.key("notifications");
    for (index, hook) in config.notifications.iter().enumerate() {
        let path = root.index(index);
        webhook(&path.key("url"), &hook.url, rules);
        if let Some(file) = &hook.secret_file {
            secret(&path.key("secret_file"), file, rules);
        }
        if hook.events.is_empty() {
            let hint = "leave `events` out for all of them";
            rules.value(codes::EMPTY_LIST, &path.key("events"), "this webhook would be told nothing", hint);
        }
        rules.not_zero(&path.key("timeout"), hook.timeout, "leave it out for the default");
        rules.range(&path.key("attempts"), hook.attempts, 1, 100);
    }
}

/// The URL of a webhook. Its text may be a secret, so it is not repeated.
pub(super) fn webhook(path: &Path<'_>, url: &str, rules: &mut Rules<'_, '_, '_>) {
    if let Err(why) = WebhookUrl::parse(url) {
        rules.value(codes::WEBHOOK, path, format!("this is not the URL of a webhook: {why}"), URL_HINT);
    }
}

/// A file with a secret: it must be there, and hold one.
pub(super) fn secret(path: &Path<'_>, file: &str, rules: &mut Rules<'_, '_, '_>) {
    let shown = rules.shown(path, file);
    match std::fs::read(file) {
        Err(error) => {
            let hint = "write a long random text into it: `openssl rand -hex 32`";
            rules.value(codes::SECRET_FILE, path, format!("{shown} cannot be read: {error}"), hint);
        }
        Ok(bytes) if bytes.trim_ascii().is_empty() => {
            let hint = "write a long random text into it: `openssl rand -hex 32`";
            rules.value(codes::SECRET_FILE, path, format!("{shown} is empty"), hint);
        }
        Ok(_) => {}
    }
}
