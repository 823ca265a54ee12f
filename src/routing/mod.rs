//! Routing: which route takes a request.
//!
//! # Problem
//!
//! The first route of the file whose conditions all hold takes the request. That rule is easy to explain and
//! slow to follow: with a thousand routes, a thousand comparisons. And one of the conditions, the model, stands
//! in the body, so the answer may have to be given in two steps.
//!
//! # Shape
//!
//! - [`path`]: the canonical path of a request, or a refusal: before anything is matched.
//! - [`host`]: the canonical host of a request, patterns of hosts, and which hosts a listener answers for.
//! - [`glob`]: text with `*`.
//! - [`pattern`]: schemes, paths and header values, as the user writes them.
//! - [`index`]: which of the hosts and paths that the file names cover those of a request.
//! - [`bucket`]: the routes of one (host, path), by their further conditions.
//! - [`table`]: all of them together; [`RouteTable`] is what the others use.
//! - [`template`], [`header_rules`], [`rewrite`]: what a route makes of a head: values with variables, fields, paths.
//!
//! The table answers from the head of the request ([`RouteTable::lookup_head`]): with a route, with "no route",
//! or with "it depends on the model". Only then the body is read, and [`RouteTable::lookup`] decides.
//!
//! # Invariants
//!
//! - The answer is that of going through the file from its beginning; a property test compares the two.
//! - The cost depends on the request (its length, the depth of its path) and on how many routes share one host
//!   and path and differ only in scheme, methods, headers or model globs; not on how many routes there are.
//! - A lookup allocates nothing.

pub mod bucket;
pub mod glob;
pub mod header_rules;
pub mod host;
pub mod index;
pub mod path;
pub mod pattern;
pub mod rewrite;
pub mod table;
pub mod template;

pub use header_rules::HeaderRules;
pub use pattern::Scheme;
pub use rewrite::Rewrite;
pub use table::{Head, HeadMatch, ModelMatch, RouteMatch, RouteTable};
pub use template::{Facts, Template};
