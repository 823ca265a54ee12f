//! What is seen of a compiled configuration, as text.

use std::fmt::Debug;

use arriero::fleet::cluster::ClusterPlan;
use arriero::fleet::content::{Answer, Files, Target};
use arriero::fleet::recovery_action::{Action, ActionPlan};
use arriero::fleet::snapshot::{Check, Snapshot, Upstream};
use arriero::fleet::tracing::Tracing;
use arriero::policy::balance::sticky::StickyCookie;
use arriero::policy::cors;
use arriero::routing::table::Head;
use arriero::routing::{Facts, HeaderRules, Scheme};
use http::{HeaderMap, HeaderValue, Method};

pub fn text(value: impl Debug) -> String {
    format!("{value:?}")
}

pub fn fleet(snapshot: &Snapshot) -> &Upstream {
    &snapshot.upstreams[0]
}

/// What may make the first server well again.
pub fn plan(snapshot: &Snapshot) -> Option<&ActionPlan> {
    fleet(snapshot).servers[0].action.as_ref()
}

/// What is done for it.
pub fn done(snapshot: &Snapshot) -> String {
    text(plan(snapshot).map(|plan| &plan.action))
}

/// The webhook that is called for it, and its secret.
pub fn hooked(snapshot: &Snapshot) -> String {
    match plan(snapshot).map(|plan| &plan.action) {
        Some(Action::Webhook(url, secret_file)) => text((url.shown(), secret_file.as_ref())),
        other => text(other),
    }
}

/// How requests are told as traces.
pub fn traced(snapshot: &Snapshot) -> Option<&Tracing> {
    snapshot.tracing.as_deref()
}

/// The cluster that the instance belongs to.
pub fn joined(snapshot: &Snapshot) -> Option<&ClusterPlan> {
    snapshot.cluster.as_deref()
}

/// An attribute that the process has in traces.
pub fn attribute<'s>(snapshot: &'s Snapshot, name: &str) -> Option<&'s String> {
    traced(snapshot)?.collector.attributes.iter().find(|(own, _)| own == name).map(|(_, value)| value)
}

/// Which routes take two requests that differ in everything that a match can ask for.
pub fn taken(snapshot: &Snapshot) -> String {
    let look = |scheme, method, host, path, team: &'static str, model| {
        let headers = HeaderMap::from_iter([(http::HeaderName::from_static("x-team"), HeaderValue::from_static(team))]);
        snapshot.table.lookup(&Head { scheme, method: &method, host, path, headers: &headers }, Some(model))
    };
    let one = look(Scheme::Http, Method::GET, "a.test", "/in/x", "red", "llava:latest");
    let other = look(Scheme::Https, Method::POST, "b.test", "/out", "blue", "mistral:latest");
    text((one.map(|route| &snapshot.routes[route].name), other.map(|route| &snapshot.routes[route].name)))
}

/// Whether two clients may use the first route.
pub fn reached(snapshot: &Snapshot) -> String {
    let may = |ip: [u8; 4]| snapshot.routes[0].access.permits(ip.into());
    text((may([10, 0, 0, 1]), may([127, 0, 0, 1])))
}

pub fn from_a(more: &[(&'static str, &'static str)]) -> HeaderMap {
    let fields = [("origin", "https://a.test")].into_iter().chain(more.iter().copied());
    fields.map(|(name, value)| (http::HeaderName::from_static(name), HeaderValue::from_static(value))).collect()
}

/// The answer to a preflight for the first route.
pub fn preflight(snapshot: &Snapshot) -> String {
    let fields = from_a(&[("access-control-request-method", "PUT")]);
    let asked = cors::Asked { method: &Method::OPTIONS, host: Some("c.test"), fields: &fields };
    text(cors::judge(snapshot.routes[0].cors.as_ref(), true, &asked))
}

/// The fields of an answer to a page of another origin.
pub fn exposed(snapshot: &Snapshot) -> String {
    text(snapshot.routes[0].cors.as_ref().map(|cors| cors.fields(&from_a(&[]))))
}

/// The facts of a request.
pub fn facts(headers: &HeaderMap) -> Facts<'_> {
    Facts {
        host: "h",
        path: "/a/b",
        query: None,
        method: "GET",
        scheme: "http",
        client_ip: None,
        request_id: "1",
        route: "first",
        upstream: "",
        server: "",
        model: "m",
        status: None,
        headers,
    }
}

/// What rules make of one field.
pub fn changed(rules: &HeaderRules) -> String {
    let mut headers =
        HeaderMap::from_iter([(http::HeaderName::from_static("x-team"), HeaderValue::from_static("red"))]);
    let before = headers.clone();
    rules.changes(&facts(&before)).apply(&mut headers);
    text(headers)
}

pub fn rewritten(snapshot: &Snapshot) -> String {
    text(snapshot.routes[0].content.rewrite.as_ref().map(|rewrite| rewrite.path("/a/b")))
}

pub fn sticky(snapshot: &Snapshot) -> Option<&StickyCookie> {
    fleet(snapshot).balance.sticky.as_ref()
}

pub fn answer(snapshot: &Snapshot) -> Answer {
    let headers = HeaderMap::new();
    match &snapshot.routes[1].target {
        Target::Respond(respond) => respond.answer(&facts(&headers)),
        Target::Redirect(redirect) => redirect.answer(&facts(&headers)).expect("a location"),
        _ => panic!("another target"),
    }
}

pub fn files(snapshot: &Snapshot) -> &Files {
    match &snapshot.routes[1].target {
        Target::Files(files) => files,
        _ => panic!("another target"),
    }
}

pub fn checked(snapshot: &Snapshot) -> &Check {
    fleet(snapshot).check.as_ref().expect("servers of this kind are checked")
}

/// The numbers of the first rate limit: requests, their time, burst, how many of it are delayed.
pub fn rate(snapshot: &Snapshot) -> String {
    let limit = &snapshot.routes[0].limits.rates[0].limit;
    text(format_args!("({}, {:?}, {}, {})", limit.count(), limit.period(), limit.burst(), limit.delayed()))
}
