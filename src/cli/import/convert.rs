//! From nginx's directives to a configuration, and a note about each of them.
//!
//! nginx looks for a server block by address and name and then for a location by its kind and length; here the first
//! route of the file wins. So routes come in the order in which nginx would look: servers with names before the
//! default one, exact paths before `^~`, then regexes, then prefixes from the longest to the shortest.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

use super::listeners::{self, Listen};
use super::patterns::{self, Pattern};
use super::policies::{self, Zones};
use super::report::{Outcome, Report};
use super::routes::{Made, Place};
use super::scope::Scope;
use super::sites::{self, Site, is_status_only};
use super::tree::Directive;
use super::{leftovers, values};

/// What is known while the parts are made.
pub(super) struct Converter<'t> {
    pub(super) report: Report,
    pub(super) http: Scope<'t>,
    pub(super) zones: Zones,
    pub(super) groups: Vec<&'t Directive>,
    pub(super) upstreams: Map<String, Value>,
    /// Files of error pages by the paths that `error_page` names.
    pub(super) pages: Vec<(String, String)>,
    names: BTreeSet<String>,
}

/// Converts a configuration.
pub(super) fn convert(tree: &[Directive]) -> (Value, Report) {
    // A file of conf.d has server blocks at its top.
    let http = tree.iter().find(|directive| directive.name == "http").map_or(tree, Directive::children);
    let scope = Scope::default().inside(http);
    let mut converter = Converter {
        report: Report::default(),
        zones: Zones::default(),
        groups: http.iter().filter(|directive| directive.name == "upstream").collect(),
        http: scope,
        upstreams: Map::new(),
        pages: Vec::new(),
        names: BTreeSet::new(),
    };
    let config = converter.config(tree, http);
    leftovers::note(tree, &mut converter.report);
    (config, converter.report)
}

/// A route before it has its place.
struct Draft {
    class: u8,
    length: usize,
    number: usize,
    body: Map<String, Value>,
}

impl<'t> Converter<'t> {
    /// The folder that nginx serves when it is told none.
    #[expect(clippy::unused_self, reason = "a fact about the configuration")]
    pub(super) fn default_root(&self) -> &'static str {
        "/usr/share/nginx/html"
    }

    fn config(&mut self, tree: &'t [Directive], http: &'t [Directive]) -> Value {
        let scope = self.http.clone();
        self.zones = policies::zones(&scope, &mut self.report);
        let mut sites = Vec::new();
        let (mut listeners, mut admin) = (Vec::new(), None);
        for directive in http.iter().filter(|directive| directive.name == "server") {
            let listens = listeners::listens(directive, &mut self.report);
            if is_status_only(directive) {
                admin = Some(self.admin(directive, &listens));
                continue;
            }
            let inner = scope.inside(directive.children());
            sites.push(Site::new(directive, inner, listens));
        }
        sites::tell_apart(&mut sites, &mut self.report);
        for site in &sites {
            listeners::add(&site.listens, &site.scope, &mut listeners, &mut self.report);
        }
        let routes = self.routes(&sites);
        for group in self.groups.clone() {
            if group.children().iter().any(|inner| inner.name == "server" && !self.report.knows(inner)) {
                self.report.note(group, Outcome::Ignored, "no location uses it");
                group.walk(&mut |inner| {
                    if !self.report.knows(inner) {
                        self.report.note(inner, Outcome::Ignored, "no location uses its group");
                    }
                });
            }
        }
        let mut out = Map::from_iter([
            ("version".to_owned(), json!(1)),
            ("listeners".to_owned(), Value::Array(listeners)),
            ("routes".to_owned(), Value::Array(routes)),
            ("upstreams".to_owned(), Value::Object(std::mem::take(&mut self.upstreams))),
        ]);
        self.process(tree, &mut out);
        if let Some(admin) = admin {
            out.insert("admin".to_owned(), admin);
        }
        Value::Object(out)
    }

    /// Defaults, threads and logs.
    fn process(&mut self, tree: &'t [Directive], out: &mut Map<String, Value>) {
        let http = self.http.clone();
        if let Some(directive) = http.last("client_max_body_size")
            && let Some(size) = values::size(directive.arg(0))
        {
            out.insert("defaults".to_owned(), json!({ "limits": { "request_body": size } }));
            self.report.note(directive, Outcome::Converted, "defaults.limits.request_body");
        }
        let main = Scope::default().inside(tree);
        if let Some(directive) = main.last("worker_processes") {
            if let Ok(threads @ 1..=256) = directive.arg(0).parse::<u32>() {
                out.insert("server".to_owned(), json!({ "threads": threads }));
            }
            self.report.note(directive, Outcome::Converted, "server.threads: one process, by default a thread a core");
        }
        let mut telemetry = Map::new();
        if let Some(directive) = http.last("access_log") {
            let form = match (directive.arg(0), directive.arg(1)) {
                ("off", _) => "off",
                (_, "" | "combined") => "combined",
                _ => "json",
            };
            telemetry.insert("access_log".to_owned(), json!(form));
            let outcome = if form == "off" { Outcome::Converted } else { Outcome::Approximated };
            let reason = format!("telemetry.access_log: {form}; on standard output, for the service manager to keep");
            self.report.note(directive, outcome, reason);
        }
        let logs = [main.last("error_log"), http.last("error_log")];
        for directive in logs.into_iter().flatten() {
            let level = match directive.arg(1) {
                "debug" => "debug",
                "info" | "notice" => "info",
                "warn" => "warn",
                _ => "error",
            };
            telemetry.insert("log_level".to_owned(), json!(level));
            let reason = format!("telemetry.log_level: {level}; on standard error");
            self.report.note(directive, Outcome::Converted, reason);
        }
        if !telemetry.is_empty() {
            out.insert("telemetry".to_owned(), Value::Object(telemetry));
        }
    }

    /// The admin listener, out of a server block that only shows nginx's own state.
    fn admin(&mut self, server: &'t Directive, listens: &[Listen<'t>]) -> Value {
        let port = listens.first().map_or(5100, |listen| listen.port);
        for directive in server.children() {
            let (outcome, reason) = match directive.name.as_str() {
                "listen" => {
                    (Outcome::Approximated, "admin.address: for this machine alone; for others it needs a token")
                }
                "location" => {
                    (Outcome::Approximated, "the admin listener has /metrics, /health, /health/live and /health/ready")
                }
                _ => (Outcome::Ignored, "the admin listener takes its place"),
            };
            self.report.note(directive, outcome, reason);
            for inner in directive.children() {
                let reason =
                    "on the admin listener: /metrics for Prometheus, /health with texts of its own, no other addresses";
                self.report.note(inner, Outcome::Approximated, reason);
            }
        }
        json!({ "address": format!("127.0.0.1:{port}") })
    }

    fn routes(&mut self, sites: &[Site<'t>]) -> Vec<Value> {
        let mut order: Vec<&Site<'t>> = sites.iter().collect();
        order.sort_by_key(|site| site.rank());
        let mut routes = Vec::new();
        for site in order {
            let conditions = site.conditions();
            routes.extend(self.site(site).into_iter().map(|draft| finish(draft, &conditions)));
        }
        routes
    }

    fn site(&mut self, site: &Site<'t>) -> Vec<Draft> {
        self.pages = pages(site.directive, &site.scope, self.default_root());
        let mut places = Vec::new();
        self.places(site.directive.children(), &site.scope, &mut places);
        let covered = places.iter().any(|(place, _)| {
            matches!(&place.pattern, Pattern::Paths { paths, exact: false, .. } if paths.iter().any(|path| path == "/"))
        });
        let answers = ["return", "rewrite", "root", "proxy_pass"].iter().any(|name| site.scope.own(name).is_some());
        if !covered && answers {
            let pattern = Pattern::Paths { paths: vec!["/".to_owned()], prefix: "/".to_owned(), exact: false };
            places.push((Place { directive: site.directive, scope: site.scope.clone(), pattern }, 4));
        }
        let mut drafts = Vec::new();
        let mut endings = Vec::new();
        for (number, (place, class)) in places.iter().enumerate() {
            match self.place(place) {
                Made::Nothing => {}
                Made::Endings { endings: found, cache_control } => {
                    endings.push((place.directive, found, cache_control))
                }
                Made::Route(mut body) => {
                    let Pattern::Paths { paths, .. } = &place.pattern else {
                        self.report.note(
                            place.directive,
                            Outcome::Unsupported,
                            "paths are not matched by their endings",
                        );
                        continue;
                    };
                    let name = self.name(&paths[0]);
                    body.insert("name".to_owned(), json!(name));
                    body.insert("match".to_owned(), json!({ "path": paths }));
                    // Regexes in their order, all others by length.
                    let length = if *class == 2 { 0 } else { paths[0].len() };
                    drafts.push(Draft { class: *class, length, number, body });
                }
            }
        }
        drafts.sort_by(|a, b| (a.class, b.length, a.number).cmp(&(b.class, a.length, b.number)));
        self.by_ending(endings, &mut drafts);
        drafts
    }

    fn places(&mut self, block: &'t [Directive], scope: &Scope<'t>, places: &mut Vec<(Place<'t>, u8)>) {
        for directive in block.iter().filter(|directive| directive.name == "location") {
            let inner = scope.inside(directive.children());
            let page = self.pages.iter().any(|(path, _)| Some(path) == directive.args.last());
            if page && inner.own("proxy_pass").is_none() && inner.own("return").is_none() {
                self.report.note(directive, Outcome::Converted, "the file of error_pages");
                self.quiet(&inner);
                continue;
            }
            match patterns::read(&directive.args) {
                Some(read) => {
                    if !read.differs.is_empty() && !matches!(read.pattern, Pattern::Hidden) {
                        self.report.note(
                            directive,
                            Outcome::Approximated,
                            format!("match.path, {}", read.differs.join(", ")),
                        );
                    }
                    places.push((Place { directive, scope: inner.clone(), pattern: read.pattern }, read.class));
                }
                None => {
                    let reason = "match.path has paths and prefixes, no regexes and no named locations";
                    self.report.note(directive, Outcome::Unsupported, reason);
                    self.quiet(&inner);
                }
            }
            self.places(directive.children(), &inner, places);
        }
    }

    /// Files by their endings belong to the route that serves the files around them.
    fn by_ending(&mut self, found: Vec<(&'t Directive, Vec<String>, Option<String>)>, drafts: &mut [Draft]) {
        let Some(files) = drafts.iter_mut().rev().find_map(|draft| draft.body.get_mut("files")?.as_object_mut()) else {
            for (directive, ..) in found {
                self.report.note(directive, Outcome::Unsupported, "no location around it serves files");
            }
            return;
        };
        for (directive, endings, cache_control) in found {
            let Some(cache_control) = cache_control else { continue };
            let age = cache_control.split("max-age=").nth(1).and_then(|age| age.split(',').next()?.parse::<u64>().ok());
            if cache_control.contains("immutable") || age.is_some_and(|age| age >= 30 * 86_400) {
                let list = files.entry("immutable").or_insert_with(|| json!([]));
                if let Some(list) = list.as_array_mut() {
                    list.extend(endings.iter().map(|ending| json!(format!("*.{ending}"))));
                }
                self.report.note(directive, Outcome::Approximated, "files.immutable: for a year");
            } else {
                files.insert("cache_control".to_owned(), json!(cache_control));
                self.report.note(directive, Outcome::Approximated, "files.cache_control: of all that is not immutable");
            }
        }
    }

    fn name(&mut self, path: &str) -> String {
        let word: String = path.chars().map(|c| if c.is_ascii_alphanumeric() || c == '.' { c } else { '-' }).collect();
        let word = word.trim_matches(['-', '.']);
        let base = if word.is_empty() { "root" } else { word };
        let numbered = (2..).map(|number| format!("{base}-{number}"));
        let free = std::iter::once(base.to_owned()).chain(numbered).find(|name| !self.names.contains(name));
        let name = free.unwrap_or_default();
        self.names.insert(name.clone());
        name
    }
}

/// Keys of a route in their usual order.
const KEYS: &[&str] = &[
    "upstream",
    "respond",
    "redirect",
    "files",
    "rewrite",
    "timeouts",
    "limits",
    "retry",
    "rate_limits",
    "concurrency",
    "auth",
    "access",
    "headers",
    "compress",
    "error_pages",
];

/// The route with its keys in the usual order.
fn finish(draft: Draft, conditions: &Map<String, Value>) -> Value {
    let mut body = draft.body;
    let mut matches = conditions.clone();
    if let Some(path) = body.remove("match").and_then(|mut matches| Some(matches.get_mut("path")?.take())) {
        let single = path.as_array().filter(|paths| paths.len() == 1).and_then(|paths| paths.first().cloned());
        matches.insert("path".to_owned(), single.unwrap_or(path));
    }
    let mut out = Map::new();
    out.insert("name".to_owned(), body.remove("name").unwrap_or_default());
    out.insert("match".to_owned(), Value::Object(matches));
    for key in KEYS {
        out.extend(body.remove(*key).map(|value| ((*key).to_owned(), value)));
    }
    out.extend(body);
    Value::Object(out)
}

/// The files of `error_page` of a server block, where a location says in which folder they are.
fn pages(server: &Directive, scope: &Scope<'_>, default: &str) -> Vec<(String, String)> {
    let mut named = BTreeSet::new();
    server.walk(&mut |directive| {
        if directive.name == "error_page" {
            named.extend(directive.args.last().filter(|path| path.starts_with('/')).cloned());
        }
    });
    for directive in scope.every("error_page") {
        named.extend(directive.args.last().filter(|path| path.starts_with('/')).cloned());
    }
    let locations = server.children().iter().filter(|inner| inner.name == "location");
    let of = |path: &str| locations.clone().find(|location| location.args.last().is_some_and(|last| last == path));
    named
        .into_iter()
        .map(|path| {
            let inner = of(&path).map_or_else(|| scope.clone(), |location| scope.inside(location.children()));
            let root = inner.last("root").map_or(default, |root| root.arg(0)).trim_end_matches('/').to_owned();
            (path.clone(), format!("{root}{path}"))
        })
        .collect()
}
