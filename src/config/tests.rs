//! Tests of the whole way from bytes to diagnostics.

use super::{Diagnostics, Loaded};

mod access;
mod caches;
mod code_examples;
mod content;
mod files;
mod generated;
mod good;
mod hostile;
mod limits;
mod notifications;
mod quotas;
mod reference_pages;
mod rules;
mod tls;
mod tracing;
mod variables;

/// A small file that is right in every respect.
const GOOD: &str = "\
version: 1
listeners:
  - address: 127.0.0.1:0
routes:
  - name: all
    upstream: fleet
upstreams:
  fleet:
    kind: ollama
    servers:
      - url: http://127.0.0.1:11434
";

/// Loads `text` with no variables set.
fn load(text: &str) -> Result<Loaded, Diagnostics> {
    super::parse("test.yaml", text, &|_| None)
}

/// What is found in `text`, errors and warnings, as `CODE LINE:COLUMN PATH`.
fn found(text: &str) -> Vec<String> {
    let found = match load(text) {
        Ok(loaded) => loaded.warnings,
        Err(found) => found.0,
    };
    found.iter().map(|one| format!("{} {}:{} {}", one.code, one.line, one.column, one.path)).collect()
}
