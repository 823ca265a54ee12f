//! The table: all routes, found by host and path, then by the rest.
//!
//! # How
//!
//! A route with two hosts and three paths stands in six buckets, one for each pair. A request walks the few
//! pairs that cover it (see [`super::index`]) and keeps the first route of the file among what it finds there.
//! A kind of condition that no route has costs nothing: there is then only "any" to walk.

use fnv::FnvHashMap;
use http::{HeaderMap, HeaderName, Method};

use super::bucket::{Bucket, Guard, GuardNumber, OPEN};
use super::host::HostPattern;
use super::index::{ANY, HostIndex, Number, PathIndex};
use super::pattern::{HeaderPattern, PathPattern, Scheme};

/// The conditions of one route. A list that is empty is no condition; of one that is not, one entry must hold,
/// of `headers` all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RouteMatch {
    /// The scheme.
    pub scheme: Option<Scheme>,
    /// Hosts; see [`HostPattern`]. One that is no pattern covers nothing.
    pub hosts: Vec<String>,
    /// Paths; see [`PathPattern`].
    pub paths: Vec<String>,
    /// Methods.
    pub methods: Vec<Method>,
    /// Header fields and their values, in which `*` stands for any characters.
    pub headers: Vec<(HeaderName, String)>,
    /// Models.
    pub models: Vec<ModelMatch>,
}

/// A condition on the model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ModelMatch {
    /// This canonical name.
    Literal(String),
    /// Canonical names that look like this; `*` stands for any characters.
    Glob(String),
}

/// The head of a request, as far as routes look at it.
#[derive(Clone, Copy, Debug)]
pub struct Head<'a> {
    /// Whether the client spoke TLS.
    pub scheme: Scheme,
    /// The method.
    pub method: &'a Method,
    /// The canonical name of the host; empty where there is none.
    pub host: &'a str,
    /// The canonical path, without the query.
    pub path: &'a str,
    /// The header fields.
    pub headers: &'a HeaderMap,
}

/// What the head of a request says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeadMatch {
    /// This route takes the request, whatever its model.
    Route(usize),
    /// A route with a condition on the model may come first.
    NeedsModel {
        /// The route that takes the request if it names no model, or none that such a route wants.
        fallback: Option<usize>,
    },
    /// No route takes the request, whatever its model.
    None,
}

/// The numbers of a host pattern and a path pattern.
type Place = (Number, Number);

/// All routes, for quick lookup. A route is named by its place in the list that the table was built from.
#[derive(Clone, Debug, Default)]
pub struct RouteTable {
    hosts: HostIndex,
    paths: PathIndex,
    buckets: FnvHashMap<Place, Bucket>,
    /// The guard of number `n`, [`OPEN`] not among them, stands at `n - 1`.
    guards: Vec<Guard>,
}

impl RouteTable {
    /// Builds the table from the routes in the order of the file.
    #[must_use]
    pub fn build(routes: Vec<RouteMatch>) -> Self {
        let mut table = Self::default();
        let mut guard_numbers = FnvHashMap::default();
        for (place, route) in routes.into_iter().enumerate() {
            table.add(place, route, &mut guard_numbers);
        }
        table.hosts.finish();
        table.paths.finish();
        table
    }

    /// What the head of a request says before its model is known.
    #[must_use]
    pub fn lookup_head(&self, head: &Head<'_>) -> HeadMatch {
        let place = self.place(head);
        let admits = |guard| self.admits(guard, head);
        let plain = self.first(place, |bucket, limit| bucket.first_plain(limit, admits));
        let limit = plain.unwrap_or(usize::MAX);
        let needs_model = self.buckets_at(place).any(|bucket| bucket.may_need_model(limit, admits));
        match plain {
            fallback if needs_model => HeadMatch::NeedsModel { fallback },
            Some(route) => HeadMatch::Route(route),
            None => HeadMatch::None,
        }
    }

    /// The route that takes a request with this canonical model, or with none.
    #[must_use]
    pub fn lookup(&self, head: &Head<'_>, model: Option<&str>) -> Option<usize> {
        let admits = |guard| self.admits(guard, head);
        self.first(self.place(head), |bucket, limit| {
            let plain = bucket.first_plain(limit, admits);
            let limit = plain.unwrap_or(limit);
            model.and_then(|model| bucket.first_for_model(model, limit, admits)).or(plain)
        })
    }

    /// The first route of the file among those that `find` finds in the buckets; it gets the best one so far.
    fn first(&self, place: Place, find: impl Fn(&Bucket, usize) -> Option<usize>) -> Option<usize> {
        self.buckets_at(place).fold(None, |best, bucket| find(bucket, best.unwrap_or(usize::MAX)).or(best))
    }

    fn place(&self, head: &Head<'_>) -> Place {
        (self.hosts.narrowest(head.host), self.paths.narrowest(head.path))
    }

    /// The buckets whose host and path cover these.
    fn buckets_at(&self, (host, path): Place) -> impl Iterator<Item = &Bucket> {
        self.hosts
            .and_wider(host)
            .flat_map(move |host| self.paths.and_wider(path).filter_map(move |path| self.buckets.get(&(host, path))))
    }

    fn admits(&self, guard: GuardNumber, head: &Head<'_>) -> bool {
        match (guard as usize).checked_sub(1) {
            None => true,
            Some(place) => {
                self.guards.get(place).is_some_and(|guard| guard.admits(head.scheme, head.method, head.headers))
            }
        }
    }

    fn add(&mut self, place: usize, route: RouteMatch, guard_numbers: &mut GuardNumbers) {
        let hosts: Vec<Number> = if route.hosts.is_empty() {
            vec![ANY]
        } else {
            let patterns = route.hosts.iter().filter_map(|text| HostPattern::parse(text));
            patterns.map(|pattern| self.hosts.number(&pattern)).collect()
        };
        let paths: Vec<Number> = if route.paths.is_empty() {
            vec![ANY]
        } else {
            route.paths.iter().map(|text| self.paths.number(&PathPattern::new(text))).collect()
        };
        let guard = self.guard((route.scheme, route.methods, route.headers), guard_numbers);
        for host in hosts {
            for path in &paths {
                self.buckets.entry((host, *path)).or_default().add(place, guard, &route.models);
            }
        }
    }

    fn guard(&mut self, conditions: GuardConditions, guard_numbers: &mut GuardNumbers) -> GuardNumber {
        if conditions == GuardConditions::default() {
            return OPEN;
        }
        let next = GuardNumber::try_from(self.guards.len() + 1).unwrap_or(GuardNumber::MAX);
        *guard_numbers.entry(conditions).or_insert_with_key(|(scheme, methods, headers)| {
            let headers = headers.iter().map(|(name, value)| HeaderPattern::new(name.clone(), value)).collect();
            self.guards.push(Guard::new(*scheme, methods.as_slice().into(), headers));
            next
        })
    }
}

/// The conditions of a guard, as the user wrote them.
type GuardConditions = (Option<Scheme>, Vec<Method>, Vec<(HeaderName, String)>);

/// The numbers of the guards while the table is built.
type GuardNumbers = FnvHashMap<GuardConditions, GuardNumber>;

#[cfg(test)]
#[path = "table_tests.rs"]
mod tests;
