//! What is told at `/metrics`: against the table of metrics, and number by number against what happened.

#[path = "metrics/fleet.rs"]
mod fleet;
mod support;
#[path = "metrics/table.rs"]
mod table;
#[path = "metrics/tokens.rs"]
mod tokens;
