//! Pages of `docs/reference` that are what the program itself says: the admin API, by its OpenAPI document, and the reasons.
//! `ARRIERO_WRITE_GENERATED=1` writes them anew.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::fs;
use std::path::Path;

use arriero::policy::circuit::Outcome;
use arriero::policy::failure::{Blame, Reason};
use serde_json::Value;

use crate::support::admin::show;
use crate::support::fleet::fleet;
use crate::support::wire::proxy;

fn same(name: &str, expected: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(name);
    if std::env::var_os("ARRIERO_WRITE_GENERATED").is_some() {
        fs::write(&path, expected).unwrap_or_else(|error| panic!("{name}: {error}"));
    }
    let written = fs::read_to_string(&path).unwrap_or_default();
    assert!(written == expected, "{name} is old: run the tests once with ARRIERO_WRITE_GENERATED=1");
}

/// A cell of a table.
fn cell(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ").replace('|', "\\|")
}

// Reasons

/// What a verdict does to circuits.
fn verdict(reason: Reason, status: Option<u16>) -> String {
    let word = match reason.verdict(status) {
        None => return "nothing".to_owned(),
        Some(Outcome::Success) => "success",
        Some(Outcome::NotReached) => "not reached",
        Some(Outcome::Failure) => "failure",
        Some(Outcome::Crash) => "crash",
    };
    let whose = match reason.blames(status) {
        Blame::Server => "server",
        Blame::Model => "model",
        Blame::Both => "server and model",
    };
    format!("{word}: {whose}")
}

/// How a reason counts for circuits, in one cell.
fn counts(reason: Reason) -> String {
    match reason {
        Reason::Ok => verdict(reason, Some(200)),
        Reason::UpstreamError => {
            let mut said: Vec<(String, Vec<&str>)> = Vec::new();
            for (status, word) in [(500, "500"), (502, "502"), (503, "503"), (504, "504")] {
                let told = verdict(reason, Some(status));
                match said.iter_mut().find(|(known, _)| *known == told) {
                    Some((_, words)) => words.push(word),
                    None => said.push((told, vec![word])),
                }
            }
            said.into_iter().map(|(told, words)| format!("{} {told}", words.join(", "))).collect::<Vec<_>>().join("; ")
        }
        _ => verdict(reason, None),
    }
}

#[test]
fn the_page_of_the_reasons_is_what_the_reasons_say() {
    let mut text = String::from(
        "# Reasons\n\n<!-- generated from src/policy/failure.rs: do not edit -->\n\n\
         Each request ends with one word that says why: `ok`, or what went wrong. It is the same in the access log (`reason`), in the metric \
         `arriero_requests_ended_total`, in the history and in what the admin API shows. An answer that Arriero gives in the server's \
         place also has it in the field `X-Arriero-Reason`. The words do not change their meaning.\n\n\
         The status is that of Arriero's answer; where an answer had already begun it stays as it was, and a stream is broken off. The \
         bodies are those of the client's API, see [Ollama](../ollama.md#errors). How it counts for the \
         [circuits](../reliability.md#circuits) of the server and of the model on it: `nothing` says that neither hears of it; in \
         upstreams of `kind: http` all of it counts for the server.\n",
    );
    let mut seen = BTreeSet::new();
    for (group, reasons) in Reason::GROUPS {
        let _ = write!(
            text,
            "\n## {group}\n\n| reason | status | means | circuits | what to do |\n|---|---|---|---|---|\n"
        );
        for reason in *reasons {
            assert!(seen.insert(reason.as_str()), "{reason} twice");
            let status = reason.status().map_or_else(String::new, |status| status.to_string());
            let (means, circuits, advice) = (cell(reason.describe()), counts(*reason), cell(reason.advice()));
            let _ = writeln!(text, "| `{reason}` | {status} | {means} | {circuits} | {advice} |");
        }
    }
    assert_eq!(seen.len(), Reason::ALL.len());
    same("docs/reference/reasons.md", &text);
}

// The admin API

struct Api<'d> {
    document: &'d Value,
    /// Types that are linked to, by their names.
    wanted: BTreeSet<String>,
}

impl<'d> Api<'d> {
    /// What a schema refers to.
    fn resolve(&self, schema: &'d Value) -> &'d Value {
        match schema["$ref"].as_str() {
            Some(target) => self.document.pointer(target.trim_start_matches('#')).expect("it is there"),
            None => schema,
        }
    }

    /// The type of a value, in a few words. What has keys of its own is linked to.
    fn kind(&mut self, schema: &'d Value) -> String {
        if let Some(name) = schema["$ref"].as_str().and_then(|target| target.rsplit('/').next()) {
            let target = self.resolve(schema);
            if target["properties"].is_object() {
                self.wanted.insert(name.to_owned());
                return format!("[{name}](#{})", name.to_lowercase());
            }
            return self.kind(target);
        }
        if let Some([one]) = schema["allOf"].as_array().map(Vec::as_slice) {
            return self.kind(one);
        }
        for key in ["anyOf", "oneOf"] {
            if let Some(choices) = schema[key].as_array() {
                let kinds: Vec<String> =
                    choices.iter().filter(|choice| choice["type"] != "null").map(|choice| self.kind(choice)).collect();
                let mut kinds: Vec<String> = kinds.into_iter().fold(Vec::new(), |mut all, kind| {
                    if !all.contains(&kind) {
                        all.push(kind);
                    }
                    all
                });
                kinds.truncate(12);
                return kinds.join(", ");
            }
        }
        let quoted = |value: &Value| format!("`{}`", value.as_str().map_or_else(|| value.to_string(), str::to_owned));
        if let Some(words) = schema["enum"].as_array() {
            return words.iter().filter(|word| !word.is_null()).map(quoted).collect::<Vec<_>>().join(", ");
        }
        if !schema["const"].is_null() {
            return quoted(&schema["const"]);
        }
        match schema["type"].as_str().or_else(|| schema["type"][0].as_str()) {
            Some("array") => format!("list of {}", self.kind(&schema["items"])),
            Some("object") if schema["additionalProperties"].is_object() => {
                format!("names, each with {}", self.kind(&schema["additionalProperties"]))
            }
            Some("object") => "object".to_owned(),
            Some("integer" | "number") => "number".to_owned(),
            Some("boolean") => "`true`, `false`".to_owned(),
            Some("string") => "text".to_owned(),
            _ => "any".to_owned(),
        }
    }

    /// The keys of an object as rows, those of what it is made of included.
    fn keys(&mut self, schema: &'d Value) -> Vec<String> {
        let schema = self.resolve(schema);
        let mut rows = Vec::new();
        for (key, value) in schema["properties"].as_object().into_iter().flatten() {
            let about = value["description"].as_str().or_else(|| self.resolve(value)["description"].as_str());
            let about = cell(about.unwrap_or_default());
            rows.push(format!("| `{key}` | {} | {about} |", self.kind(value)));
        }
        for part in ["allOf", "anyOf", "oneOf"].iter().flat_map(|part| schema[*part].as_array().into_iter().flatten()) {
            for row in self.keys(part) {
                if !rows.contains(&row) {
                    rows.push(row);
                }
            }
        }
        rows
    }

    fn operation(&mut self, method: &str, path: &str, operation: &'d Value) -> String {
        let mut text = format!("\n### {} {path}\n\n", method.to_uppercase());
        let summary = operation["summary"].as_str().unwrap_or_else(|| panic!("{method} {path} has no summary"));
        let scope = operation["description"].as_str().expect("its scope");
        let _ = writeln!(text, "{}. {scope}", summary.trim_end_matches('.'));
        let parameters: Vec<&Value> = operation["parameters"].as_array().into_iter().flatten().collect();
        if !parameters.is_empty() {
            text.push_str("\n| in | name | takes | |\n|---|---|---|---|\n");
            for parameter in parameters {
                let (name, place) = (&parameter["name"], &parameter["in"]);
                let schema = &parameter["schema"];
                let about = parameter["description"].as_str().or_else(|| schema["description"].as_str());
                let kind = self.kind(schema);
                let about = cell(about.unwrap_or_default());
                let (place, name) = (place.as_str().unwrap_or_default(), name.as_str().unwrap_or_default());
                let _ = writeln!(text, "| {place} | `{name}` | {kind} | {about} |");
            }
        }
        if let Some(schema) = operation.pointer("/requestBody/content/application~1json/schema") {
            let rows = self.keys(schema);
            if rows.is_empty() {
                text.push_str("\nThe body is JSON.\n");
            } else {
                let _ = write!(text, "\n| body | takes | |\n|---|---|---|\n{}\n", rows.join("\n"));
            }
        }
        let answers: BTreeMap<&String, &Value> = operation["responses"].as_object().into_iter().flatten().collect();
        for (status, answer) in answers.into_iter().filter(|(status, _)| !status.ends_with("XX")) {
            let (kind, schema) = answer["content"]
                .as_object()
                .and_then(|content| content.iter().next())
                .map_or(("", &Value::Null), |(kind, content)| (kind.as_str(), &content["schema"]));
            let rows = if kind == "application/json" { self.keys(schema) } else { Vec::new() };
            match (kind, rows.is_empty()) {
                ("application/json", false) => {
                    let _ = write!(text, "\n| {status} | is | |\n|---|---|---|\n{}\n", rows.join("\n"));
                }
                ("", _) => {
                    let _ = write!(text, "\n{status}, without a body.\n");
                }
                (kind, _) => {
                    let _ = write!(text, "\n{status}, `{kind}`.\n");
                }
            }
        }
        text
    }
}

const HEAD: &str = "# Admin API\n\n<!-- generated from the OpenAPI document: do not edit -->\n\n\
    What the admin listener (`admin.address`, `127.0.0.1:5100` by default) answers. Everything below is made from its own document, which a \
    running Arriero has at `GET /api/orchestrator/openapi.json`. [Operations](../operations.md#the-admin-listener-for-operators) tells how the \
    calls work together, and [who may do what](../operations.md#who-may-do-what).\n\n\
    Bodies are JSON and may be left out. A slash within a name in a path is `%2F`. What goes wrong is a problem document (RFC 9457, \
    `application/problem+json`) with `title`, `status`, `detail` and, for a configuration that is refused, `errors` with the \
    [codes](errors.md). A call needs a token with its scope: `health`, `read`, `operate` or `admin`, each of which includes those before it.\n\n\
    Beside these there are `/health`, `/health/live`, `/health/ready` and `/metrics`, with the scope `health`, and `/`, the \
    [dashboard](../dashboard.md).\n";

#[tokio::test(flavor = "multi_thread")]
async fn the_page_of_the_admin_api_is_what_its_document_says() {
    let fleet = fleet(1, &["m"]).await;
    let proxy = proxy(format!(
        "routes: [{{ name: all, upstream: fleet }}]\nupstreams:\n  fleet:\n    kind: ollama\n    servers: [{{ url: \"{}\" }}]\n",
        fleet.urls()[0]
    ))
    .await;
    let document = show(&proxy, "/openapi.json").await;
    let mut topics: BTreeMap<&str, Vec<(&str, &str, &Value)>> = BTreeMap::new();
    for (path, item) in document["paths"].as_object().expect("paths") {
        for (method, operation) in item.as_object().expect("methods") {
            topics.entry(operation["tags"][0].as_str().expect("a topic")).or_default().push((path, method, operation));
        }
    }
    let mut api = Api { document: &document, wanted: BTreeSet::new() };
    let mut text = HEAD.to_owned();
    let mut count = 0;
    for (topic, calls) in &topics {
        let _ = write!(text, "\n## {topic}\n");
        for (path, method, operation) in calls {
            text.push_str(&api.operation(method, path, operation));
            count += 1;
        }
    }
    assert!(count > 70, "{count}");
    // What types are made of is wanted too.
    let mut told = BTreeMap::new();
    while let Some(name) = api.wanted.iter().find(|name| !told.contains_key(*name)).cloned() {
        let schema = &document["components"]["schemas"][&name];
        let about = cell(schema["description"].as_str().unwrap_or_default());
        let rows = api.keys(schema).join("\n");
        let about = if about.is_empty() { about } else { format!("{about}\n\n") };
        told.insert(name.clone(), format!("\n### {name}\n\n{about}| key | is | |\n|---|---|---|\n{rows}\n"));
    }
    text.push_str("\n## Types\n");
    text.extend(told.into_values());
    same("docs/reference/admin-api.md", &text);
}
