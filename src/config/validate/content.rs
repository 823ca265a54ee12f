//! Rules about targets and about what a route changes: exactly one target, templates, fields, prefixes, pages.

use std::collections::BTreeMap;

use super::Rules;
use super::routes::{is_token, plain_path};
use crate::config::codes;
use crate::config::suggest;
use crate::config::tree::Path;
use crate::config::types::{Config, Files, HeaderChanges, Redirect, Respond, Retry, Rewrite, Route};
use crate::routing::Template;
use crate::routing::header_rules::refusal;
use crate::routing::template::{TemplateError, VARIABLES};

pub(super) fn check(config: &Config, path: &Path<'_>, route: &Route, rules: &mut Rules<'_, '_, '_>) {
    targets(path, route, rules);
    if let Some(name) = &route.upstream {
        upstream(config, &path.key("upstream"), name, rules);
    }
    if let Some(one) = &route.respond {
        respond(&path.key("respond"), one, rules);
    }
    if let Some(one) = &route.redirect {
        redirect(&path.key("redirect"), one, rules);
    }
    if let Some(one) = &route.files {
        files(&path.key("files"), one, rules);
    }
    rewrite(&path.key("rewrite"), &route.rewrite, rules);
    let headers = path.key("headers");
    changes(&headers.key("request"), &route.headers.request, false, rules);
    changes(&headers.key("response"), &route.headers.response, true, rules);
    for (status, file) in &route.error_pages {
        error_page(&path.key("error_pages").key(status), status, file, rules);
    }
    without_upstream(path, route, rules);
}

const TARGETS: &str = "`upstream`, `respond`, `redirect` or `files`";

fn targets(path: &Path<'_>, route: &Route, rules: &mut Rules<'_, '_, '_>) {
    let given = [
        ("upstream", route.upstream.is_some()),
        ("respond", route.respond.is_some()),
        ("redirect", route.redirect.is_some()),
        ("files", route.files.is_some()),
    ];
    let mut given = given.into_iter().filter(|(_, given)| *given).map(|(key, _)| key);
    let Some(first) = given.next() else {
        if rules.is_whole(path) {
            let message = "the route has no target";
            rules.key(codes::MISSING_KEY, path, message, format!("add one of {TARGETS}, such as `upstream: NAME`"));
        }
        return;
    };
    for second in given {
        let message = format!("the route has two targets: `{first}` and `{second}`");
        rules.key(codes::TARGET, &path.key(second), message, "keep one of them; a second route can have the other");
    }
}

fn upstream(config: &Config, path: &Path<'_>, name: &str, rules: &mut Rules<'_, '_, '_>) {
    if config.upstreams.contains_key(name) {
        return;
    }
    let shown = rules.shown(path, name);
    let hint = suggest::hint(name, config.upstreams.keys().map(String::as_str), "upstreams");
    rules.value(codes::UNKNOWN_UPSTREAM, path, format!("there is no upstream {shown}"), hint);
}

fn respond(path: &Path<'_>, respond: &Respond, rules: &mut Rules<'_, '_, '_>) {
    rules.range(&path.key("status"), u32::from(respond.status), 200, 599);
    if matches!(respond.status, 204 | 304) && !respond.body.is_empty() {
        let message = format!("an answer with status {} has no body", respond.status);
        rules.value(codes::CONTRADICTION, &path.key("body"), message, "leave `body` out, or take another status");
    }
    field_value(&path.key("content_type"), &respond.content_type, rules);
    fields(&path.key("headers"), &respond.headers, true, rules);
}

/// A fixed value of a header field.
fn field_value(path: &Path<'_>, text: &str, rules: &mut Rules<'_, '_, '_>) {
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_graphic() || byte == b' ') {
        let hint = "write letters, digits and punctuation of ASCII";
        rules.value(codes::FIELD, path, "this cannot be the value of a header field", hint);
    }
}

fn redirect(path: &Path<'_>, redirect: &Redirect, rules: &mut Rules<'_, '_, '_>) {
    if !matches!(redirect.status, 301 | 302 | 303 | 307 | 308) {
        let path = path.key("status");
        let shown = rules.shown(&path, &redirect.status.to_string());
        let message = format!("{shown} is not the status of a redirect");
        rules.value(codes::RANGE, &path, message, "write 301, 302, 303, 307 or 308");
    }
    let path = path.key("to");
    let Some(to) = template(&path, &redirect.to, rules) else {
        return;
    };
    let begins = to.prefix();
    let absolute = begins.starts_with("http://") || begins.starts_with("https://") || begins.starts_with('/');
    if !absolute && !to.begins_with_path() && !to.begins_with_scheme() {
        let shown = rules.shown(&path, &redirect.to);
        let hint = "write a path or a URL, such as `/new{uri}` or `https://{host}{uri}`";
        rules.value(codes::TEMPLATE, &path, format!("{shown} is not where a client can be sent"), hint);
    }
}

fn files(path: &Path<'_>, files: &Files, rules: &mut Rules<'_, '_, '_>) {
    if files.root.is_empty() {
        rules.value(codes::INVALID_VALUE, &path.key("root"), "the name of a folder is empty", "name a folder");
    }
    let index = path.key("index");
    if files.index.is_empty() || files.index.contains(['/', '\\', '\0']) || matches!(&*files.index, "." | "..") {
        let shown = rules.shown(&index, &files.index);
        let message = format!("{shown} is not the name of a file");
        rules.value(codes::INVALID_VALUE, &index, message, "write a name without `/`, such as `index.html`");
    }
    if let Some(fallback) = &files.fallback {
        let path = path.key("fallback");
        let problem = if fallback.ends_with('/') { Err("name a file below `root`") } else { plain_path(fallback) };
        if let Err(why) = problem {
            let shown = rules.shown(&path, fallback);
            rules.value(codes::PATH, &path, format!("{shown} is not the path of a file"), why);
        }
    }
    if let Some(text) = &files.cache_control {
        field_value(&path.key("cache_control"), text, rules);
    }
}

fn rewrite(path: &Path<'_>, rewrite: &Rewrite, rules: &mut Rules<'_, '_, '_>) {
    for (key, prefix) in [("strip_prefix", &rewrite.strip_prefix), ("add_prefix", &rewrite.add_prefix)] {
        let Some(prefix) = prefix else { continue };
        if let Err(why) = plain_path(prefix) {
            let path = path.key(key);
            let shown = rules.shown(&path, prefix);
            rules.value(codes::PATH, &path, format!("{shown} is not a prefix of paths"), why);
        }
    }
}

fn changes(path: &Path<'_>, changes: &HeaderChanges, response: bool, rules: &mut Rules<'_, '_, '_>) {
    fields(&path.key("set"), &changes.set, response, rules);
    let add = path.key("add");
    fields(&add, &changes.add, response, rules);
    if let Some(host) = changes.add.keys().find(|name| name.eq_ignore_ascii_case("host") && !response) {
        let message = "a request has one `Host`";
        rules.key(codes::UNTOUCHABLE, &add.key(host), message, "write it under `set`");
    }
    for (index, name) in changes.remove.as_slice().iter().enumerate() {
        let list = path.key("remove");
        let path = if matches!(changes.remove, crate::config::OneOrMany::One(_)) { list } else { list.index(index) };
        if field_name(&path, name, response, false, rules) && name.eq_ignore_ascii_case("host") && !response {
            let message = "a request needs its `Host`";
            rules.value(codes::UNTOUCHABLE, &path, message, "write another one under `set`");
        }
    }
}

fn fields(path: &Path<'_>, fields: &BTreeMap<String, String>, response: bool, rules: &mut Rules<'_, '_, '_>) {
    for (name, text) in fields {
        let path = path.key(name);
        field_name(&path, name, response, true, rules);
        template(&path, text, rules);
    }
}

fn field_name(path: &Path<'_>, name: &str, response: bool, at_key: bool, rules: &mut Rules<'_, '_, '_>) -> bool {
    let shown = if at_key { format!("`{name}`") } else { rules.shown(path, name) };
    if !is_token(name) {
        let hint = "names of header fields are letters, digits and `-`";
        rules.push(codes::FIELD, path, at_key, format!("{shown} is not the name of a header field"), hint);
        return false;
    }
    if let Some(why) = refusal(name, response) {
        rules.push(codes::UNTOUCHABLE, path, at_key, format!("no rule may change {shown}"), why);
        return false;
    }
    true
}

fn template(path: &Path<'_>, text: &str, rules: &mut Rules<'_, '_, '_>) -> Option<Template> {
    let problem = match Template::parse(text) {
        Ok(template) => return Some(template),
        Err(problem) => problem,
    };
    let hint = match &problem {
        TemplateError::Unclosed => "write `{{` for a brace that is meant as such".to_owned(),
        TemplateError::Unknown(name) => suggest::hint(name, VARIABLES.iter().copied(), "variables"),
        TemplateError::Field(_) => "write it like `{header:x-team}`".to_owned(),
        TemplateError::Control => "write the value on one line".to_owned(),
    };
    // A value out of the environment is not repeated.
    let shown = rules.shown(path, text);
    let message = match problem {
        TemplateError::Unknown(name) if shown.contains(&name) => format!("there is no variable `{{{name}}}`"),
        TemplateError::Field(name) if shown.contains(&name) => format!("`{name}` is not the name of a header field"),
        TemplateError::Unknown(_) => format!("{shown} names a variable that does not exist"),
        TemplateError::Field(_) => format!("{shown} names a header field that cannot be"),
        other => format!("{shown}: {other}"),
    };
    rules.value(codes::TEMPLATE, path, message, hint);
    None
}

fn error_page(path: &Path<'_>, status: &str, file: &str, rules: &mut Rules<'_, '_, '_>) {
    let exact = status.parse::<u16>().is_ok_and(|number| (400..=599).contains(&number)) && status.len() == 3;
    if !exact && !matches!(status, "4xx" | "5xx") {
        let hint = "write a status from \"400\" to \"599\", `4xx` or `5xx`";
        rules.key(codes::ERROR_PAGE, path, format!("`{status}` is not the status of an error"), hint);
    }
    if file.is_empty() {
        rules.value(codes::ERROR_PAGE, path, "the name of a file is empty", "name a file, or leave the key out");
    }
}

/// Keys that have no meaning where no server answers.
fn without_upstream(path: &Path<'_>, route: &Route, rules: &mut Rules<'_, '_, '_>) {
    if route.intercept_errors && route.error_pages.is_empty() {
        let hint = "add `error_pages`, or remove it";
        rules.key(codes::NOT_HERE, &path.key("intercept_errors"), "there are no `error_pages` to use", hint);
    }
    let files = route.files.is_some();
    if route.upstream.is_some() || !(files || route.respond.is_some() || route.redirect.is_some()) {
        return;
    }
    let keys = [
        ("retry", "there is no server to try again", route.retry != Retry::default()),
        ("intercept_errors", "there is no server whose errors could be replaced", route.intercept_errors),
        ("cache", "there is no server whose answers could be kept", route.cache.is_some()),
        ("request_encoding", "no request body is read", route.request_encoding.is_some()),
        ("rewrite", "no path is looked at", !files && route.rewrite != Rewrite::default()),
    ];
    for (key, why, wrong) in keys {
        if wrong {
            let path = path.key(key);
            rules.key(codes::NOT_HERE, &path, format!("`{key}` has no meaning here: {why}"), "remove it");
        }
    }
}
