//! The routes of one host and path, by their further conditions.
//!
//! # How
//!
//! The conditions on the scheme, methods and headers that a route has are its guard; equal guards of different routes are
//! one, so that each is judged for all of them. Routes without a model condition stand in the order of the
//! file; those with literal models are found by the model; those with globs stand in the order of the file.
//!
//! A route that an earlier one with the same guard, or without any, always precedes is left out.

use fnv::FnvHashMap;
use http::{HeaderMap, Method};

use super::glob::Glob;
use super::pattern::{HeaderPattern, Scheme};
use super::table::ModelMatch;

/// The number of a guard; [`OPEN`] is the one that lets everything pass.
pub type GuardNumber = u32;

/// The guard without conditions.
pub const OPEN: GuardNumber = 0;

/// Conditions on the scheme, methods and headers.
#[derive(Clone, Debug)]
pub struct Guard {
    scheme: Option<Scheme>,
    methods: Box<[Method]>,
    headers: Box<[HeaderPattern]>,
}

impl Guard {
    /// The scheme that the request must have, methods of which it must have one, unless there is none, and headers
    /// that it must all have.
    #[must_use]
    pub const fn new(scheme: Option<Scheme>, methods: Box<[Method]>, headers: Box<[HeaderPattern]>) -> Self {
        Self { scheme, methods, headers }
    }

    /// Whether a request satisfies the conditions.
    #[must_use]
    pub fn admits(&self, scheme: Scheme, method: &Method, headers: &HeaderMap) -> bool {
        self.scheme.is_none_or(|wanted| wanted == scheme)
            && (self.methods.is_empty() || self.methods.contains(method))
            && self.headers.iter().all(|header| header.matches(headers))
    }
}

/// A route in a bucket.
#[derive(Clone, Copy, Debug)]
struct Entry {
    route: usize,
    guard: GuardNumber,
}

/// The routes of one host and path.
#[derive(Clone, Debug, Default)]
pub struct Bucket {
    plain: Vec<Entry>,
    literal: FnvHashMap<Box<str>, Vec<Entry>>,
    globs: Vec<(Glob, Entry)>,
    /// For each guard of a route with a model condition, the first such route.
    with_model: Vec<Entry>,
}

impl Bucket {
    /// Adds a route; they come in the order of the file.
    pub fn add(&mut self, route: usize, guard: GuardNumber, models: &[ModelMatch]) {
        let entry = Entry { route, guard };
        if precedes(&self.plain, guard) {
            return;
        }
        if models.is_empty() {
            self.plain.push(entry);
            return;
        }
        for model in models {
            match model {
                ModelMatch::Literal(name) => match self.literal.get_mut(&**name) {
                    Some(entries) if precedes(entries, guard) => {}
                    Some(entries) => entries.push(entry),
                    None => {
                        self.literal.insert(name.as_str().into(), vec![entry]);
                    }
                },
                ModelMatch::Glob(pattern) => self.globs.push((Glob::new(pattern), entry)),
            }
        }
        if !precedes(&self.with_model, guard) {
            self.with_model.push(entry);
        }
    }

    /// The first route without a model condition that comes before `limit`.
    pub fn first_plain(&self, limit: usize, admits: impl Fn(GuardNumber) -> bool) -> Option<usize> {
        first(&self.plain, limit, admits)
    }

    /// Whether a route with a model condition, which the model may satisfy, comes before `limit`.
    pub fn may_need_model(&self, limit: usize, admits: impl Fn(GuardNumber) -> bool) -> bool {
        first(&self.with_model, limit, admits).is_some()
    }

    /// The first route whose model condition this model satisfies and that comes before `limit`.
    pub fn first_for_model(&self, model: &str, limit: usize, admits: impl Fn(GuardNumber) -> bool) -> Option<usize> {
        let literal = self.literal.get(model).and_then(|entries| first(entries, limit, &admits));
        let limit = literal.unwrap_or(limit);
        let glob = self
            .globs
            .iter()
            .take_while(|(_, entry)| entry.route < limit)
            .find(|(glob, entry)| glob.matches(model.as_bytes()) && admits(entry.guard));
        glob.map(|(_, entry)| entry.route).or(literal)
    }
}

fn precedes(entries: &[Entry], guard: GuardNumber) -> bool {
    entries.iter().any(|earlier| earlier.guard == guard || earlier.guard == OPEN)
}

fn first(entries: &[Entry], limit: usize, admits: impl Fn(GuardNumber) -> bool) -> Option<usize> {
    let mut entries = entries.iter().take_while(|entry| entry.route < limit);
    entries.find(|entry| admits(entry.guard)).map(|entry| entry.route)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NO_LIMIT: usize = usize::MAX;

    fn literal(name: &str) -> ModelMatch {
        ModelMatch::Literal(name.to_owned())
    }

    fn glob(pattern: &str) -> ModelMatch {
        ModelMatch::Glob(pattern.to_owned())
    }

    #[test]
    fn the_first_of_literal_and_glob_wins() {
        let mut bucket = Bucket::default();
        bucket.add(0, OPEN, &[literal("b:latest")]);
        bucket.add(1, OPEN, &[glob("a*"), literal("c:latest")]);
        bucket.add(2, OPEN, &[literal("a:latest")]);
        assert_eq!(bucket.first_for_model("a:latest", NO_LIMIT, |_| true), Some(1));
        assert_eq!(bucket.first_for_model("b:latest", NO_LIMIT, |_| true), Some(0));
        assert_eq!(bucket.first_for_model("c:latest", NO_LIMIT, |_| true), Some(1));
        assert_eq!(bucket.first_for_model("c:latest", 1, |_| true), None);
        assert_eq!(bucket.first_for_model("d:latest", NO_LIMIT, |_| true), None);
    }

    #[test]
    fn what_comes_after_a_route_without_conditions_is_left_out() {
        let mut bucket = Bucket::default();
        bucket.add(0, 7, &[]);
        bucket.add(1, 7, &[]);
        bucket.add(2, OPEN, &[]);
        bucket.add(3, 8, &[]);
        bucket.add(4, OPEN, &[literal("a:latest")]);
        assert_eq!(bucket.plain.len(), 2);
        assert!(bucket.literal.is_empty());
        assert!(!bucket.may_need_model(NO_LIMIT, |_| true));
    }

    #[test]
    fn a_thousand_models_with_one_guard_are_judged_once() {
        let mut bucket = Bucket::default();
        for route in 0..1000 {
            bucket.add(route, 1, &[literal(&format!("m{route}:latest"))]);
        }
        let judged = std::cell::Cell::new(0);
        let admits = |_| {
            judged.set(judged.get() + 1);
            false
        };
        assert!(!bucket.may_need_model(NO_LIMIT, admits));
        assert_eq!(bucket.first_for_model("m999:latest", NO_LIMIT, admits), None);
        assert_eq!(judged.get(), 2);
    }
}
