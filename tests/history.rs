//! What is kept of what happened: every number against what was sent, and a file that outlives whatever happens to it.

#[path = "history/files.rs"]
mod files;
#[path = "history/logs.rs"]
mod logs;
#[path = "history/numbers.rs"]
mod numbers;
mod support;
