//! The files of `conf/` and pages of `docs/reference/` are what the types say. `ARRIERO_WRITE_GENERATED=1` writes them anew.

use std::path::PathBuf;

use super::code_examples::{EXAMPLES, Example, found};
use super::reference_pages;
use crate::config::{Diagnostic, Severity, codes};

fn place(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(name)
}

fn conf(name: &str) -> PathBuf {
    place("conf").join(name)
}

fn same(name: &str, expected: &str) {
    if std::env::var_os("ARRIERO_WRITE_GENERATED").is_some() {
        std::fs::write(place(name), expected).unwrap_or_else(|error| panic!("{name}: {error}"));
    }
    let written = std::fs::read_to_string(place(name)).unwrap_or_default();
    assert!(written == expected, "{name} is old: run the tests once with ARRIERO_WRITE_GENERATED=1");
}

#[test]
fn schema_json_is_what_the_types_say() {
    same("conf/schema.json", &format!("{:#}\n", crate::config::schema()));
}

#[test]
fn reference_yaml_is_what_the_types_say() {
    same("conf/reference.yaml", &crate::config::reference_yaml());
}

#[test]
fn the_page_of_the_keys_is_what_the_types_say() {
    let page = reference_pages::configuration();
    for row in ["| `first_byte` | duration | `600s` |", "| `priority` | `high`, `normal`, `low` | `normal` |"] {
        assert!(page.contains(row), "{row}");
    }
    same("docs/reference/configuration.md", &page);
}

#[test]
fn the_page_of_the_codes_is_what_the_codes_say() {
    same("docs/reference/errors.md", &reference_pages::errors());
}

#[test]
fn each_code_has_an_example_that_has_it_and_no_other_error() {
    assert_eq!(EXAMPLES.len(), codes::ALL.len());
    let mut wrong = Vec::new();
    for code in codes::ALL {
        let example = reference_pages::example(code.id);
        // A warning may follow from an error.
        let is_about = |one: &Diagnostic| one.severity == Severity::Error || code.severity() == Severity::Warning;
        let found: Vec<&str> = found(example).iter().filter(|one| is_about(one)).map(|one| one.code).collect();
        let expected = if matches!(example, Example::Not(_)) { vec![] } else { vec![code.id] };
        if found != expected {
            wrong.push(format!("{}: {found:?}", code.id));
        }
    }
    assert_eq!(wrong, Vec::<String>::new());
}

#[test]
fn the_small_example_loads_without_warnings() {
    let loaded = crate::config::load(&conf("arriero.yaml"), &crate::config::Overlay::default(), &|_| None);
    let loaded = loaded.unwrap_or_else(|found| panic!("{}", found.render(false)));
    assert_eq!(loaded.warnings, []);
    assert_eq!(loaded.config.upstreams["fleet"].servers[0].url, "http://127.0.0.1:11434");
}

#[test]
fn yaml_files_name_their_schema_in_the_first_line() {
    for name in ["arriero.yaml", "reference.yaml"] {
        let text = std::fs::read_to_string(conf(name)).unwrap_or_default();
        assert!(text.starts_with("# yaml-language-server: $schema=./schema.json\n"), "{name}");
    }
}

#[test]
fn the_schema_is_closed_and_describes_every_key() {
    let schema = crate::config::schema();
    assert_eq!(schema["additionalProperties"], false);
    assert_eq!(schema["title"], "Arriero configuration");
    assert!(schema["$schema"].is_string());
    assert_eq!(schema["$defs"]["Circuit"]["properties"]["open_for"]["default"], "30s");
    let text = schema.to_string();
    assert!(!text.contains("uint"), "widths of integers are no use to people");
}
