use prometheus_client::metrics::gauge::Gauge;

use super::*;
use crate::clock;

const MINUTE: Duration = Duration::from_secs(60);

/// A process, in which routes come and go.
struct Process {
    limiter: Arc<Limiter>,
    running: Arc<Concurrency>,
    refused: Counter,
    now: Instant,
}

impl Process {
    fn new() -> Self {
        let now = clock::now();
        let limiter = Arc::new(Limiter::new(Gauge::default(), now));
        Self { limiter, running: Arc::default(), refused: Counter::default(), now }
    }

    fn route(&self, name: &str, rates: &[(&[KeyPart], u32)], at_a_time: &[(&[KeyPart], u32)]) -> RouteLimits {
        let key = |parts: &[KeyPart]| LimitKey(parts.to_vec());
        let rates = rates.iter().map(|(parts, burst)| (key(parts), RateLimit::new(1, MINUTE, *burst, 0))).collect();
        let at_a_time = at_a_time.iter().map(|(parts, most)| (key(parts), *most)).collect();
        let shared = (Arc::clone(&self.limiter), Arc::clone(&self.running));
        RouteLimits::new(name, rates, at_a_time, shared, self.refused.clone())
    }
}

/// A request from `client`, changed by `change`, and what becomes of it before its body and after its model is known.
struct Request {
    headers: HeaderMap,
    now: Instant,
}

impl Request {
    fn new(process: &Process) -> Self {
        Self { headers: HeaderMap::new(), now: process.now }
    }

    fn facts(&self, client: &str) -> Facts<'_> {
        let client_ip = client.parse().unwrap();
        Facts { client_ip, key_id: None, model: None, host: "", headers: &self.headers, now: self.now }
    }
}

fn all(limits: &RouteLimits, facts: &Facts<'_>) -> Result<Admitted, Reason> {
    let early = Facts { model: None, ..*facts };
    let mut admitted = limits.before_body(&early).map_err(|refused| refused.reason)?;
    limits.after_model(facts, &mut admitted).map_err(|refused| refused.reason)?;
    Ok(admitted)
}

/// How many of `tries` requests pass, each ended at once.
fn passes(limits: &RouteLimits, tries: u32, facts: &Facts<'_>) -> u32 {
    (0..tries).map(|_| u32::from(all(limits, facts).is_ok())).sum()
}

#[test]
fn clients_are_told_apart_by_address_and_a_64_is_one() {
    let process = Process::new();
    let limits = process.route("a", &[(&[KeyPart::ClientIp], 4)], &[]);
    let request = Request::new(&process);
    assert_eq!(passes(&limits, 9, &request.facts("192.0.2.1")), 5);
    assert_eq!(passes(&limits, 9, &request.facts("192.0.2.2")), 5);
    assert_eq!(passes(&limits, 9, &request.facts("::ffff:192.0.2.2")), 0);
    let spread = (0..9).filter(|n| all(&limits, &request.facts(&format!("2001:db8::{n}"))).is_ok()).count();
    assert_eq!(spread, 5);
}

#[test]
fn an_api_key_has_its_own_limit_from_every_address_and_none_is_the_address() {
    let process = Process::new();
    let limits = process.route("a", &[(&[KeyPart::ApiKey], 4)], &[]);
    let request = Request::new(&process);
    let with = |client, key_id| Facts { key_id, ..request.facts(client) };
    assert_eq!(passes(&limits, 9, &with("192.0.2.1", Some("alice"))), 5);
    assert_eq!(passes(&limits, 9, &with("192.0.2.2", Some("alice"))), 0);
    assert_eq!(passes(&limits, 9, &with("192.0.2.1", Some("bob"))), 5);
    assert_eq!(passes(&limits, 9, &with("192.0.2.1", None)), 5);
    assert_eq!(passes(&limits, 9, &with("192.0.2.2", None)), 5);
    assert_eq!(passes(&limits, 9, &with("192.0.2.3", Some("192.0.2.1"))), 5, "a name is no address");
}

#[test]
fn hosts_count_each_by_itself() {
    let process = Process::new();
    let limits = process.route("a", &[(&[KeyPart::Host], 4)], &[]);
    let request = Request::new(&process);
    let with = |host| Facts { host, ..request.facts("192.0.2.1") };
    assert_eq!(passes(&limits, 9, &with("a.test")), 5);
    assert_eq!(passes(&limits, 9, &with("a.test")), 0);
    assert_eq!(passes(&limits, 9, &with("b.test")), 5);
}

#[test]
fn header_fields_count_by_their_value_and_missing_ones_as_empty() {
    let process = Process::new();
    let team = HeaderName::from_static("x-team");
    let limits = process.route("a", &[(&[KeyPart::Header(team.clone())], 4)], &[]);
    let with = |values: &[&'static str]| {
        let mut request = Request::new(&process);
        values.iter().for_each(|value| _ = request.headers.append(&team, HeaderValue::from_static(value)));
        passes(&limits, 9, &request.facts("192.0.2.1"))
    };
    assert_eq!((with(&["red"]), with(&["red"]), with(&["blue"])), (5, 0, 5));
    assert_eq!((with(&[]), with(&[])), (5, 0));
    assert_eq!((with(&["red", "blue"]), with(&["redblue"])), (5, 5));
}

#[test]
fn a_combination_counts_by_all_its_parts() {
    let process = Process::new();
    let limits = process.route("a", &[(&[KeyPart::ClientIp, KeyPart::Model], 1)], &[]);
    let request = Request::new(&process);
    let with = |client, model| passes(&limits, 9, &Facts { model: Some(model), ..request.facts(client) });
    assert_eq!(with("192.0.2.1", "llava:latest"), 2);
    assert_eq!(with("192.0.2.1", "mistral:latest"), 2);
    assert_eq!(with("192.0.2.2", "llava:latest"), 2);
    assert_eq!(with("192.0.2.1", "llava:latest"), 0);
}

#[test]
fn requests_without_a_model_do_not_count_by_model() {
    let process = Process::new();
    let limits = process.route("a", &[(&[KeyPart::Model], 1)], &[]);
    assert!(limits.need_model() && !process.route("b", &[(&[KeyPart::Route], 1)], &[]).need_model());
    assert_eq!(passes(&limits, 9, &Request::new(&process).facts("192.0.2.1")), 9);
}

#[test]
fn a_limit_by_route_counts_all_requests_of_that_route_only() {
    let process = Process::new();
    let [one, other] = ["a", "b"].map(|name| process.route(name, &[(&[KeyPart::Route], 4)], &[]));
    let request = Request::new(&process);
    let clients = |limits| (1..9).filter(|n| all(limits, &request.facts(&format!("192.0.2.{n}"))).is_ok()).count();
    assert_eq!((clients(&one), clients(&other)), (5, 5));
}

#[test]
fn what_a_limit_by_model_refuses_did_not_count_before() {
    let process = Process::new();
    let limits = process.route("a", &[(&[KeyPart::ClientIp], 9), (&[KeyPart::Model], 1)], &[(&[KeyPart::Route], 1)]);
    let request = Request::new(&process);
    let with = |model| Facts { model: Some(model), ..request.facts("192.0.2.1") };
    assert_eq!(passes(&limits, 50, &with("llava:latest")), 2);
    assert_eq!(process.refused.get(), 48);
    assert!(process.running.is_empty());
    // Two of ten are taken.
    assert_eq!(passes(&limits, 50, &with("a:latest")) + passes(&limits, 50, &with("b:latest")), 4);
    assert_eq!(passes(&limits, 50, &request.facts("192.0.2.1")), 4);
}

#[test]
fn only_so_many_run_at_a_time_until_they_end() {
    let process = Process::new();
    let limits =
        process.route("a", &[(&[KeyPart::ClientIp], 99)], &[(&[KeyPart::ClientIp], 2), (&[KeyPart::Model], 1)]);
    let request = Request::new(&process);
    let with = |model| all(&limits, &Facts { model: Some(model), ..request.facts("192.0.2.1") });
    let first = with("a:latest").unwrap();
    assert_eq!(with("a:latest").unwrap_err(), Reason::ConcurrencyLimited);
    let second = with("b:latest").unwrap();
    assert_eq!(with("c:latest").unwrap_err(), Reason::ConcurrencyLimited);
    let told: Vec<_> = second.fields().map(|(name, value)| format!("{name}: {}", value.to_str().unwrap())).collect();
    // The two refused ones were given back.
    assert_eq!(told[1], "ratelimit-remaining: 98");
    drop(first);
    assert!(with("a:latest").is_ok());
    drop(second);
    assert!(process.running.is_empty());
}

#[test]
fn a_refusal_tells_when_to_come_again() {
    let process = Process::new();
    let limits = process.route("a", &[(&[KeyPart::Route], 1)], &[]);
    let request = Request::new(&process);
    assert_eq!(passes(&limits, 2, &request.facts("192.0.2.1")), 2);
    let refused = limits.before_body(&request.facts("192.0.2.1")).unwrap_err();
    let told: Vec<_> = refused.fields().map(|(name, value)| format!("{name}: {}", value.to_str().unwrap())).collect();
    assert_eq!(refused.reason, Reason::RateLimited);
    assert_eq!(told, ["retry-after: 60", "ratelimit-limit: 2", "ratelimit-remaining: 0", "ratelimit-reset: 120"]);
}

#[test]
fn a_delayed_request_is_told_until_when() {
    let process = Process::new();
    let rate = (LimitKey(vec![KeyPart::Route]), RateLimit::new(1, MINUTE, 2, 2));
    let shared = (Arc::clone(&process.limiter), Arc::clone(&process.running));
    let limits = RouteLimits::new("a", vec![rate], Vec::new(), shared, process.refused.clone());
    let request = Request::new(&process);
    let not_before = || limits.before_body(&request.facts("192.0.2.1")).unwrap().not_before();
    assert_eq!(not_before(), None);
    assert_eq!(not_before(), Some(process.now + MINUTE));
    assert_eq!(not_before(), Some(process.now + 2 * MINUTE));
}

#[test]
fn limits_that_a_reload_does_not_change_go_on() {
    let process = Process::new();
    let request = Request::new(&process);
    let counted = |name, burst| {
        let limits = process.route(name, &[(&[KeyPart::ClientIp], burst)], &[]);
        passes(&limits, 9, &request.facts("192.0.2.1"))
    };
    assert_eq!((counted("a", 4), counted("a", 4)), (5, 0));
    assert_eq!(counted("a", 3), 4, "other numbers are another limit");
    assert_eq!(counted("b", 4), 5, "another route");
}

#[test]
fn a_smaller_concurrency_counts_those_that_run_already() {
    let process = Process::new();
    let request = Request::new(&process);
    let route = |most| process.route("a", &[], &[(&[KeyPart::Route], most)]);
    let _running = all(&route(3), &request.facts("192.0.2.1")).unwrap();
    assert_eq!(all(&route(1), &request.facts("192.0.2.1")).unwrap_err(), Reason::ConcurrencyLimited);
}

#[test]
fn a_route_without_limits_passes_everything_and_says_nothing() {
    let process = Process::new();
    let limits = process.route("a", &[], &[]);
    let admitted = all(&limits, &Request::new(&process).facts("192.0.2.1")).unwrap();
    assert_eq!((admitted.fields().count(), admitted.not_before()), (0, None));
    assert!(process.limiter.is_empty());
}
