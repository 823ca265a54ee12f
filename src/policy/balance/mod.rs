//! Balance: which of the candidates gets the request.
//!
//! # Problem
//!
//! The servers of an upstream are known when the configuration is compiled; which of them may be chosen is
//! known only when a request comes: health, circuits, bans, slots and the model it asks for. The choice is
//! made for each request, so it must not allocate, lock, or cost more than a glance at each server.
//!
//! # Shape
//!
//! A rule is built once from what does not change (names, weights) and asked with closures over server
//! indexes for what does. The same index means the same server in all of them. There is no trait: the caller
//! matches on an enum.
//!
//! - [`round_robin`]: in turn, by weight.
//! - [`least_requests`]: the fewest requests in flight for its weight.
//! - [`peak_ewma`]: the one whose answers begin soonest, for what it has to do.
//! - [`random`]: by lot, or the better of two by lot.
//! - [`consistent_hash`]: the same key goes to the same server as long as it is there.
//! - [`sticky`]: where the key of a client comes from when it is a cookie.
//! - [`affinity`]: before any of them, whether only servers with the model in memory are asked.
//!
//! # Turns
//!
//! Rules that take turns get the number of the turn as an argument, from a counter that the caller keeps.
//! A counter gives exact shares if only requests with the same candidates draw from it: one for each
//! (upstream, model), say. If requests for several models share a counter, they may fall into step and one
//! server get all requests for one of them; then pass the number through [`scramble`], and the shares are
//! exact on average only.
//!
//! # Invariants
//!
//! - No rule picks a server that the caller excluded, or one with weight 0.
//! - If any server may be chosen, one is chosen.

pub mod affinity;
pub mod consistent_hash;
pub mod least_requests;
pub mod peak_ewma;
pub mod random;
pub mod round_robin;
pub mod sticky;

/// Turns any number, such as that of a counter, into one that looks random; each into another (the finalizer of
/// splitmix64).
#[must_use]
pub const fn scramble(number: u64) -> u64 {
    let number = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let number = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let number = (number ^ (number >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    number ^ (number >> 31)
}

const fn greatest_common_divisor(mut a: u64, mut b: u64) -> u64 {
    while b != 0 {
        (a, b) = (b, a % b);
    }
    a
}
