//! Each kind of finding from facts made by hand; what needs a running fleet is in `tests/diagnose.rs`.
