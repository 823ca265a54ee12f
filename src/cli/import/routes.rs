//! A location and what answers in it: servers, a text, a redirect, files.

use serde_json::{Map, Value, json};

use super::convert::Converter;
use super::fields;
use super::patterns::Pattern;
use super::policies;
use super::report::Outcome;
use super::scope::Scope;
use super::tree::Directive;
use super::upstreams::{self, Pass};
use super::values;

/// A location that is about to become a route.
pub(super) struct Place<'t> {
    /// The location, or the server block itself.
    pub(super) directive: &'t Directive,
    pub(super) scope: Scope<'t>,
    pub(super) pattern: Pattern,
}

/// What a location comes to.
pub(super) enum Made {
    /// The keys of a route, without name and match.
    Route(Map<String, Value>),
    /// What holds for files with these endings.
    Endings { endings: Vec<String>, cache_control: Option<String> },
    /// Nothing: something else answers.
    Nothing,
}

impl<'t> Converter<'t> {
    /// Converts one location.
    pub(super) fn place(&mut self, place: &Place<'t>) -> Made {
        let scope = &place.scope;
        if let Some(status) = scope.own("stub_status") {
            self.report.note(status, Outcome::Approximated, "`/metrics` of the admin listener, for Prometheus");
            self.admin_only(scope);
            return Made::Nothing;
        }
        if let Some(internal) = scope.own("internal") {
            self.report.note(internal, Outcome::Converted, "no route: only Arriero itself reads these files");
            self.quiet(scope);
            return Made::Nothing;
        }
        if place.pattern == Pattern::Hidden {
            return self.hidden(place);
        }
        let response = fields::response(scope, &mut self.report);
        if let Pattern::Endings(endings) = &place.pattern
            && scope.own("proxy_pass").is_none()
            && scope.own("return").is_none()
        {
            for name in ["root", "access_log", "try_files", "log_not_found"] {
                if let Some(directive) = scope.own(name) {
                    self.report.note(directive, Outcome::Ignored, "the same files as around it, by their endings");
                }
            }
            self.report.note(
                place.directive,
                Outcome::Approximated,
                "files.immutable or files.cache_control, by ending",
            );
            return Made::Endings { endings: endings.clone(), cache_control: response.cache_control };
        }
        let mut route = Map::new();
        let mut rules = Map::new();
        let mut set = response.rules;
        let files = if self.answered(place, &response.content_type, &mut route) {
            false
        } else if let Some(pass) = scope.own("proxy_pass") {
            if !self.proxied(place, pass, &mut route) {
                return Made::Nothing;
            }
            let request = fields::request(scope, &mut self.report);
            if !request.is_empty() {
                rules.insert("request".to_owned(), Value::Object(request));
            }
            false
        } else {
            self.files(place, &response.cache_control, &mut route);
            true
        };
        if let Some(cache_control) = response.cache_control.filter(|_| !files) {
            let fields = set.entry("set").or_insert_with(|| json!({}));
            fields["cache-control"] = json!(cache_control);
        }
        if !set.is_empty() {
            rules.insert("response".to_owned(), Value::Object(set));
        }
        self.common(place, &mut route);
        if !rules.is_empty() {
            route.insert("headers".to_owned(), Value::Object(rules));
        }
        Made::Route(route)
    }

    fn common(&mut self, place: &Place<'t>, route: &mut Map<String, Value>) {
        let scope = &place.scope;
        let proxied = route.contains_key("upstream");
        let served = proxied || route.contains_key("files");
        if proxied {
            let upgrade = fields::upgrades(scope);
            policies::timeouts(scope, upgrade, route, &mut self.report);
            policies::body_limit(scope, &self.http, route, &mut self.report);
            policies::retry(scope, route, &mut self.report);
        }
        policies::rates(scope, &self.zones, route, &mut self.report);
        policies::access(scope, route, &mut self.report);
        policies::auth(scope, route);
        if served && !(proxied && fields::upgrades(scope)) {
            policies::compress(scope, route, &mut self.report);
        }
        let (pages, defaulted) = (&self.pages, self.default_root());
        let mut file = |path: &str| {
            let found = pages.iter().find(|(known, _)| known == path).map(|(_, file)| file.clone());
            found.or_else(|| {
                let root = scope.last("root").map_or(defaulted, |root| root.arg(0));
                Some(format!("{}{path}", root.trim_end_matches('/')))
            })
        };
        policies::errors(scope, proxied, &mut file, route, &mut self.report);
    }

    /// `return`, and `rewrite` with a redirect.
    fn answered(&mut self, place: &Place<'t>, content_type: &Option<String>, route: &mut Map<String, Value>) -> bool {
        let scope = &place.scope;
        if let Some(directive) = scope.own("return") {
            let (status, text) = match directive.arg(0).parse::<u16>() {
                Ok(status) => (status, directive.args.get(1)),
                Err(_) => (302, directive.args.first()),
            };
            match (status, text) {
                (301 | 302 | 303 | 307 | 308, Some(to)) => self.redirect(directive, status, to, route),
                (444, _) => {
                    route.insert("respond".to_owned(), json!({ "status": 403 }));
                    self.report.note(directive, Outcome::Approximated, "respond: 403; every request is answered");
                }
                _ => {
                    let mut respond = json!({ "status": status });
                    if let Some(text) = text {
                        respond["body"] = json!(text);
                        respond["content_type"] = json!(content_type.as_deref().unwrap_or("text/plain"));
                    }
                    route.insert("respond".to_owned(), respond);
                    let variables = text.is_some_and(|text| text.contains('$'));
                    let (outcome, reason) = if variables {
                        (Outcome::Approximated, "respond: variables in the body stay as they are written")
                    } else {
                        (Outcome::Converted, "respond")
                    };
                    self.report.note(directive, outcome, reason);
                }
            }
            return true;
        }
        let rewrite = scope.own("rewrite").filter(|rewrite| matches!(rewrite.arg(2), "permanent" | "redirect"));
        if let Some(directive) = rewrite {
            let status = if directive.arg(2) == "permanent" { 301 } else { 302 };
            let to = match (directive.arg(0), directive.arg(1).trim_end_matches('?')) {
                ("^" | ".*" | "^.*$", to) => Some(to.to_owned()),
                ("^(.*)$" | "^(.*)" | "^/(.*)$" | "(.*)", to) => {
                    to.strip_suffix("/$1").or_else(|| to.strip_suffix("$1")).map(|to| format!("{to}$request_uri"))
                }
                _ => None,
            };
            if let Some(to) = to {
                self.redirect(directive, status, &to, route);
                return true;
            }
        }
        if scope.own("proxy_pass").is_none() && scope.own("deny").is_some_and(|deny| deny.arg(0) == "all") {
            let denied = scope.list(&["allow", "deny"]);
            if denied.len() == 1 {
                route.insert("respond".to_owned(), json!({ "status": 403 }));
                denied.iter().for_each(|d| self.report.note(d, Outcome::Converted, "respond: 403"));
                return true;
            }
        }
        false
    }

    fn redirect(&mut self, directive: &Directive, status: u16, to: &str, route: &mut Map<String, Value>) {
        match values::template(to) {
            Ok(to) => {
                route.insert("redirect".to_owned(), json!({ "to": to, "status": status }));
                self.report.note(directive, Outcome::Converted, "redirect");
            }
            Err(variable) => {
                route.insert("respond".to_owned(), json!({ "status": 404 }));
                let reason = format!("there is no counterpart of the variable {variable}");
                self.report.note(directive, Outcome::Unsupported, reason);
            }
        }
    }

    fn proxied(&mut self, place: &Place<'t>, directive: &'t Directive, route: &mut Map<String, Value>) -> bool {
        let Some(pass) = Pass::parse(directive.arg(0)) else {
            self.report.note(directive, Outcome::Unsupported, "servers have a URL without variables, reached by TCP");
            return false;
        };
        let block = self.groups.iter().find(|group| group.arg(0) == pass.host).copied();
        let (name, upstream) = upstreams::upstream(&pass, block, &place.scope, &mut self.report);
        let known = self.upstreams.get(&name).is_some_and(|known| *known != upstream);
        let name = if known { format!("{name}-tls") } else { name };
        self.upstreams.insert(name.clone(), upstream);
        route.insert("upstream".to_owned(), json!(name));
        self.report.note(directive, Outcome::Converted, format!("upstream: {name}"));
        if let (Some(path), Pattern::Paths { prefix, .. }) = (pass.path, &place.pattern) {
            self.rewrite(prefix, path, route);
        }
        for rewrite in place.scope.innermost().iter().filter(|inner| inner.name == "rewrite") {
            match rewritten(rewrite) {
                Some((strip, add)) => {
                    self.rewrite(&strip, &add, route);
                    self.report.note(rewrite, Outcome::Converted, "rewrite");
                }
                None => self.report.note(rewrite, Outcome::Unsupported, "a rewrite takes off and puts on a prefix"),
            }
        }
        true
    }

    fn rewrite(&mut self, strip: &str, add: &str, route: &mut Map<String, Value>) {
        let (strip, add) = (strip.trim_end_matches('/'), add.trim_end_matches('/'));
        if strip == add {
            return;
        }
        let mut rewrite = Map::new();
        for (key, prefix) in [("strip_prefix", strip), ("add_prefix", add)] {
            if !prefix.is_empty() {
                rewrite.insert(key.to_owned(), json!(prefix));
            }
        }
        route.insert("rewrite".to_owned(), Value::Object(rewrite));
    }

    fn files(&mut self, place: &Place<'t>, cache_control: &Option<String>, route: &mut Map<String, Value>) {
        let scope = &place.scope;
        let (root, alias) = (scope.last("root"), scope.own("alias"));
        let mut files = Map::new();
        match (alias, root) {
            (Some(alias), _) => {
                files.insert("root".to_owned(), json!(alias.arg(0)));
                self.report.note(alias, Outcome::Converted, "files.root, and rewrite.strip_prefix");
                if let Pattern::Paths { prefix, .. } = &place.pattern {
                    self.rewrite(prefix, "", route);
                }
            }
            (None, Some(root)) => {
                files.insert("root".to_owned(), json!(root.arg(0)));
                self.report.note(root, Outcome::Converted, "files.root");
            }
            (None, None) => {
                files.insert("root".to_owned(), json!(self.default_root()));
                let reason = "files: no root is named, so nginx's own is taken; write the folder under files.root";
                self.report.note(place.directive, Outcome::Approximated, reason);
            }
        }
        if let Some(index) = scope.last("index") {
            let first = index.arg(0);
            if first != "index.html" && !first.contains('/') {
                files.insert("index".to_owned(), json!(first));
            }
            let (outcome, reason) = if index.args.len() > 1 {
                (Outcome::Approximated, "files.index: the first one")
            } else {
                (Outcome::Converted, "files.index")
            };
            self.report.note(index, outcome, reason);
        }
        if let Some(tries) = scope.last("try_files") {
            self.fallback(tries, &mut files);
        }
        if let Some(cache_control) = cache_control {
            // What every file gets must not say that it never changes: index.html does.
            let parts: Vec<&str> = cache_control.split(", ").filter(|part| *part != "immutable").collect();
            files.insert("cache_control".to_owned(), json!(parts.join(", ")));
            if parts.len() < cache_control.split(", ").count() {
                let reason = "files.cache_control without `immutable`, which would keep index.html; name what never \
                              changes under files.immutable";
                for directive in scope.list(&["add_header"]).into_iter().filter(|d| d.arg(1).contains("immutable")) {
                    self.report.note(directive, Outcome::Approximated, reason);
                }
            }
        }
        route.insert("files".to_owned(), Value::Object(files));
    }

    fn fallback(&mut self, tries: &Directive, files: &mut Map<String, Value>) {
        let last = tries.args.last().map_or("", String::as_str);
        let usual = tries.args.iter().rev().skip(1).all(|arg| matches!(arg.as_str(), "$uri" | "$uri/"));
        let (outcome, reason) = match last {
            "=404" if usual => (Outcome::Converted, "files: what is not there is 404"),
            _ if usual && last.starts_with('/') => {
                let path = last.split('?').next().unwrap_or_default();
                files.insert("fallback".to_owned(), json!(path));
                (Outcome::Converted, "files.fallback")
            }
            _ => (Outcome::Unsupported, "files have one fallback, and it is a file"),
        };
        self.report.note(tries, outcome, reason);
    }

    fn hidden(&mut self, place: &Place<'t>) -> Made {
        let denies = place.scope.own("deny").is_some_and(|deny| deny.arg(0) == "all")
            || place.scope.own("return").is_some_and(|answer| answer.arg(0).starts_with('4'));
        if denies {
            let reason = "files whose name begins with a dot are never served, `/.well-known` excepted";
            self.report.note(place.directive, Outcome::Converted, reason);
            self.quiet(&place.scope);
        } else {
            self.report.note(place.directive, Outcome::Unsupported, "hidden files are never served");
        }
        Made::Nothing
    }

    /// What stands beside `stub_status`.
    fn admin_only(&mut self, scope: &Scope<'t>) {
        for directive in scope.list(&["allow", "deny"]) {
            let reason =
                "the admin listener is for this machine alone; for others set admin.address and admin.token_file";
            self.report.note(directive, Outcome::Approximated, reason);
        }
        self.quiet(scope);
    }

    /// Directives of a block that becomes no route.
    pub(super) fn quiet(&mut self, scope: &Scope<'t>) {
        for directive in scope.innermost() {
            if !self.report.knows(directive) {
                self.report.note(directive, Outcome::Ignored, "the location becomes no route");
            }
        }
    }
}

/// `rewrite ^/old/(.*)$ /new/$1 break;` as the prefixes that go and come.
fn rewritten(directive: &Directive) -> Option<(String, String)> {
    let from = directive.arg(0).strip_prefix('^')?;
    let from =
        from.strip_suffix("(.*)$").or_else(|| from.strip_suffix("(.*)")).or_else(|| from.strip_suffix("(.+)$"))?;
    let to = directive.arg(1).strip_suffix("$1")?;
    let fine = |text: &str| text.starts_with('/') && !text.contains(['$', '(', '\\', '*', '+', '?', '[', '.']);
    (matches!(directive.arg(2), "break" | "last" | "") && fine(from) && fine(to))
        .then(|| (from.to_owned(), to.to_owned()))
}
