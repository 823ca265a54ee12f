//! Which program this is.
//!
//! The version says what to expect of it, the revision from which sources it was made. `build.rs` finds that out; it is not
//! known in builds for development, and from sources without a repository.

/// Of the package.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The first digits of the commit's hash, or what `ARRIERO_REVISION` said when it was built.
pub const REVISION: Option<&str> = {
    let known = env!("ARRIERO_REVISION");
    if known.is_empty() { None } else { Some(known) }
};

/// All that is known: `0.1.0 (1a2b3c4d5 2026-11-28)`, or the version alone.
pub const FULL: &str = env!("ARRIERO_VERSION");
