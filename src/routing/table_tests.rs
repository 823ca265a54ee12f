use http::HeaderValue;
use proptest::prelude::*;

use super::*;
use crate::routing::host::parse;

fn strings(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|text| (*text).to_owned()).collect()
}

fn on_path(path: &str) -> RouteMatch {
    RouteMatch { paths: strings(&[path]), ..RouteMatch::default() }
}

fn with_models(path: &str, models: &[&str]) -> RouteMatch {
    RouteMatch { models: models.iter().map(|model| model_match(model)).collect(), ..on_path(path) }
}

fn model_match(text: &str) -> ModelMatch {
    if text.contains('*') { ModelMatch::Glob(text.to_owned()) } else { ModelMatch::Literal(text.to_owned()) }
}

fn head<'a>(headers: &'a HeaderMap, host: &'a str, path: &'a str) -> Head<'a> {
    Head { scheme: Scheme::Http, method: &Method::POST, host, path, headers }
}

#[test]
fn the_first_route_of_the_file_wins_not_the_narrowest() {
    let headers = HeaderMap::new();
    let table = RouteTable::build(vec![on_path("/v1/"), on_path("/"), on_path("/api/chat")]);
    assert_eq!(table.lookup_head(&head(&headers, "a", "/v1/chat")), HeadMatch::Route(0));
    assert_eq!(table.lookup_head(&head(&headers, "a", "/api/chat")), HeadMatch::Route(1));
    assert_eq!(table.lookup(&head(&headers, "a", "/api/chat"), Some("m:latest")), Some(1));
}

#[test]
fn without_a_route_nothing_matches_and_an_empty_match_takes_everything() {
    let headers = HeaderMap::new();
    let request = Head { scheme: Scheme::Https, method: &Method::OPTIONS, host: "", path: "*", headers: &headers };
    assert_eq!(RouteTable::build(Vec::new()).lookup_head(&request), HeadMatch::None);
    assert_eq!(RouteTable::build(vec![on_path("/")]).lookup_head(&request), HeadMatch::None);
    assert_eq!(RouteTable::build(vec![RouteMatch::default()]).lookup_head(&request), HeadMatch::Route(0));
}

#[test]
fn the_model_is_needed_only_if_it_can_change_the_answer() {
    let headers = HeaderMap::new();
    let table = RouteTable::build(vec![
        on_path("/api/show"),
        with_models("/api/", &["llava*", "*-vl*"]),
        on_path("/"),
        with_models("/v1/", &["llava:latest"]),
    ]);
    assert_eq!(table.lookup_head(&head(&headers, "a", "/api/show")), HeadMatch::Route(0));
    let chat = head(&headers, "a", "/api/chat");
    assert_eq!(table.lookup_head(&chat), HeadMatch::NeedsModel { fallback: Some(2) });
    assert_eq!(table.lookup(&chat, Some("llava:latest")), Some(1));
    assert_eq!(table.lookup(&chat, Some("llama3:latest")), Some(2));
    assert_eq!(table.lookup(&chat, None), Some(2));
    assert_eq!(table.lookup_head(&head(&headers, "a", "/v1/chat")), HeadMatch::Route(2));
}

#[test]
fn a_model_is_not_asked_for_if_method_or_header_speak_against_the_route() {
    let headers = HeaderMap::new();
    let route = RouteMatch { methods: vec![Method::PUT], ..with_models("/", &["a:latest"]) };
    let table = RouteTable::build(vec![route, on_path("/")]);
    assert_eq!(table.lookup_head(&head(&headers, "a", "/")), HeadMatch::Route(1));
    let request = Head { method: &Method::PUT, ..head(&headers, "a", "/") };
    assert_eq!(table.lookup_head(&request), HeadMatch::NeedsModel { fallback: Some(1) });
}

#[test]
fn a_host_that_is_no_pattern_covers_nothing() {
    let headers = HeaderMap::new();
    let table = RouteTable::build(vec![RouteMatch { hosts: strings(&["a.*.test"]), ..RouteMatch::default() }]);
    assert_eq!(table.lookup_head(&head(&headers, "a.b.test", "/")), HeadMatch::None);
}

/// Goes through the file from its beginning, with nothing but the words of the documentation.
mod naive {
    use super::*;

    fn host(pattern: &str, host: &str) -> bool {
        match pattern.to_lowercase().strip_prefix('*') {
            Some("") => true,
            Some(end) => host.len() > end.len() && host.ends_with(end),
            None => host == pattern.to_lowercase(),
        }
    }

    fn path(pattern: &str, path: &str) -> bool {
        path == pattern || pattern.ends_with('/') && path.starts_with(pattern)
    }

    fn glob(pattern: &str, text: &str) -> bool {
        match pattern.split_once('*') {
            None => pattern == text,
            Some((start, rest)) => {
                let ends = |after: &str| (0..=after.len()).any(|skipped| glob(rest, &after[skipped..]));
                text.strip_prefix(start).is_some_and(ends)
            }
        }
    }

    fn head_matches(route: &RouteMatch, head: &Head<'_>) -> bool {
        (route.hosts.is_empty() || route.hosts.iter().any(|pattern| host(pattern, head.host)))
            && (route.paths.is_empty() || route.paths.iter().any(|pattern| path(pattern, head.path)))
            && (route.scheme.is_none() || route.scheme == Some(head.scheme))
            && (route.methods.is_empty() || route.methods.contains(head.method))
            && route.headers.iter().all(|(name, value)| {
                let mut values = head.headers.get_all(name).iter();
                values.any(|field| glob(value, field.to_str().expect("text")))
            })
    }

    pub fn lookup(routes: &[RouteMatch], head: &Head<'_>, model: Option<&str>) -> Option<usize> {
        let model_matches = |route: &RouteMatch| {
            route.models.is_empty()
                || model.is_some_and(|model| {
                    route.models.iter().any(|condition| match condition {
                        ModelMatch::Literal(name) => name == model,
                        ModelMatch::Glob(pattern) => glob(pattern, model),
                    })
                })
        };
        routes.iter().position(|route| head_matches(route, head) && model_matches(route))
    }

    pub fn lookup_head(routes: &[RouteMatch], head: &Head<'_>) -> HeadMatch {
        let fallback = lookup(routes, head, None);
        let before = &routes[..fallback.unwrap_or(routes.len())];
        match fallback {
            fallback if before.iter().any(|route| head_matches(route, head)) => HeadMatch::NeedsModel { fallback },
            Some(route) => HeadMatch::Route(route),
            None => HeadMatch::None,
        }
    }
}

const HOSTS: [&str; 9] = ["a.test", "b.a.test", "c.b.a.test", "*.test", "*.a.test", "*.B.a.test", "test", "*", "x"];
const PATHS: [&str; 10] = ["/", "/a", "/a/", "/a/b", "/a/b/", "/b/", "/b/a/b/", "//", "/a/b/c", ""];
const MODELS: [&str; 9] = ["a:x", "b:x", "a:y", "*", "a*", "*:x", "a*x", "b*", "*a*y*"];
const METHODS: [Method; 3] = [Method::GET, Method::POST, Method::PUT];
const TIERS: [&str; 5] = ["*", "gold", "g*", "*d", "free"];

fn some_of<T: Clone + std::fmt::Debug + 'static>(values: &[T]) -> impl Strategy<Value = Vec<T>> + use<T> {
    let values = values.to_vec();
    prop_oneof![1 => Just(Vec::new()), 1 => prop::sample::subsequence(values, 0..=3)]
}

fn route() -> impl Strategy<Value = RouteMatch> {
    let tier = prop_oneof![3 => Just(None), 1 => prop::sample::select(&TIERS[..]).prop_map(Some)];
    let scheme = prop_oneof![3 => Just(None), 1 => any::<bool>().prop_map(|tls| Some(Scheme::of(tls)))];
    (scheme, some_of(&HOSTS), some_of(&PATHS), some_of(&METHODS), tier, some_of(&MODELS)).prop_map(
        |(scheme, hosts, paths, methods, tier, models)| RouteMatch {
            scheme,
            hosts: strings(&hosts),
            paths: strings(&paths),
            methods,
            headers: tier.iter().map(|value| (HeaderName::from_static("x-tier"), (*value).to_owned())).collect(),
            models: models.iter().map(|model| model_match(model)).collect(),
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn the_answer_is_that_of_going_through_the_file(
        routes in prop::collection::vec(route(), 0..14),
        host in "(([abcABC]\\.){0,3}(test|TEST|x)\\.?(:80)?)?",
        path in "(/[ab]?){0,5}",
        tls: bool,
        method in prop::sample::select(&METHODS[..]),
        tiers in prop::collection::vec(prop::sample::select(&TIERS[1..]), 0..2),
        models in prop::collection::vec("[ab]{1,2}:[xy]", 4),
    ) {
        let mut headers = HeaderMap::new();
        for tier in tiers {
            headers.append("x-tier", HeaderValue::from_static(tier));
        }
        let name = parse(&host, 80).map(|host| host.name).unwrap_or_default();
        let head = Head { scheme: Scheme::of(tls), method: &method, host: &name, path: &path, headers: &headers };
        let table = RouteTable::build(routes.clone());
        let head_match = table.lookup_head(&head);
        prop_assert_eq!(head_match, naive::lookup_head(&routes, &head));
        for model in models.iter().map(|model| Some(model.as_str())).chain([None, Some("a:x"), Some("b:x")]) {
            let answer = table.lookup(&head, model);
            prop_assert_eq!(answer, naive::lookup(&routes, &head, model));
            if let HeadMatch::Route(route) = head_match {
                prop_assert_eq!(answer, Some(route));
            }
        }
    }
}
