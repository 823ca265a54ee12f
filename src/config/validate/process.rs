//! Rules about the process and about the defaults of routes.

use super::Rules;
use crate::config::codes;
use crate::config::tree::Path;
use crate::config::types::Config;

pub(super) fn check(config: &Config, rules: &mut Rules<'_, '_, '_>) {
    let defaults = Path::Root.key("defaults");
    rules.timeouts(&defaults.key("timeouts"), &config.defaults.timeouts);
    let root = Path::Root.key("server");
    let server = &config.server;
    if let Some(threads) = server.threads {
        rules.range(&root.key("threads"), threads, 1, 256);
    }
    rules.range(&root.key("reserved_files"), server.reserved_files, 1, 65_536);
    let budget_path = root.key("body_budget");
    rules.not_empty(&budget_path, server.body_budget, "leave it out for the default");
    if server.body_memory > server.body_budget && server.body_budget.0 > 0 {
        let memory_path = root.key("body_memory");
        let at = if rules.given(&memory_path) { memory_path } else { budget_path };
        let message = "`body_memory` of one body is larger than `body_budget` of all bodies";
        rules.value(codes::CONTRADICTION, &at, message, "lower `body_memory` or raise `body_budget`");
    }
    let history = Path::Root.key("history");
    rules.range(&history.key("max_requests"), config.history.max_requests, 1, 10_000_000);
    for (key, folder) in [("temp_dir", &server.temp_dir), ("data_dir", &server.data_dir)] {
        if folder.as_ref().is_some_and(String::is_empty) {
            let hint = "name a folder, or leave the key out";
            rules.value(codes::INVALID_VALUE, &root.key(key), "the name of a folder is empty", hint);
        }
    }
}
