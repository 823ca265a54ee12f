//! The pages of `docs/reference` that come from here: every key, and every code.

use std::fmt::Write;

use serde_json::Value;

use super::code_examples::{EXAMPLES, Example, found};
use crate::config::codes::{self, Code};
use crate::config::reference::default_of;
use crate::config::{Severity, schema};

/// A cell of a table.
fn cell(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ").replace('|', "\\|")
}

/// Every key, by the blocks that they stand in.
pub(super) fn configuration() -> String {
    let schema = schema();
    let mut page = Keys { schema: &schema, sections: Vec::new(), known: Vec::new() };
    page.section("", &schema);
    let mut text = String::from(
        "# Configuration keys\n\n<!-- generated from src/config: do not edit -->\n\n\
         Every key, with what it takes and its default. [Configuration](../configuration.md) explains how they work together, \
         [`conf/reference.yaml`](../../conf/reference.yaml) has them as one file, and `arriero schema` prints the JSON schema for \
         editors. Unknown keys are errors.\n\n\
         | a value | is |\n|---|---|\n\
         | duration | a length of time with its unit: `250ms`, `30s`, `5m`, `1h30m`, `7d` |\n\
         | size | bytes with their unit: `512KiB`, `100MiB`, `1GiB` (powers of 1024), `50MB` (powers of 1000) |\n\
         | rate | requests per second, minute, hour or day: `10/s`, `100/m`, `5/h`, `1000/d` |\n\
         | share | `50%` |\n\
         | count | a whole number; `K` is a thousand, `M` a million, `G` a billion: `500K`, `1M` |\n\
         | one or more | a single value or a list of them |\n\n\
         In place of a value that is no list and no mapping `${NAME}` may stand, see \
         [values from the environment](../configuration.md#values-from-the-environment). `[]` stands for each member of a list, `NAME` for a \
         name that you choose. A key without a default and without `required` is off, or empty, unless its text says otherwise.\n",
    );
    for (path, about, rows) in &page.sections {
        let title = if path.is_empty() { "The file".to_owned() } else { format!("`{path}`") };
        let _ = write!(text, "\n## {title}\n\n{about}\n\n| key | takes | default | |\n|---|---|---|---|\n{rows}");
    }
    text
}

/// A block: its path, what it is, its rows.
type Section = (String, String, String);

struct Keys<'s> {
    schema: &'s Value,
    sections: Vec<Section>,
    /// The types that have a block, and where.
    known: Vec<(&'s str, String)>,
}

impl<'s> Keys<'s> {
    /// Adds the block at `path`, then those below it. A type that stands at several places has its block once.
    fn section(&mut self, path: &str, node: &'s Value) {
        let at = self.sections.len();
        let about = cell(node["description"].as_str().unwrap_or_default());
        self.sections.push((path.to_owned(), about, String::new()));
        let required: Vec<&str> = node["required"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        let mut rows = String::new();
        for (key, value) in node["properties"].as_object().into_iter().flatten() {
            let here = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
            let (takes, meanings) = self.takes(&here, value);
            let default =
                if required.contains(&key.as_str()) { "required".to_owned() } else { default(&here, value, &takes) };
            let about = cell(value["description"].as_str().unwrap_or_default());
            let _ = writeln!(rows, "| `{key}` | {takes} | {default} | {about}{meanings} |");
        }
        self.sections[at].2 = rows;
    }

    /// What a key takes, and what its words mean.
    fn takes(&mut self, path: &str, node: &'s Value) -> (String, String) {
        if let Some(name) = node["$ref"].as_str().and_then(|target| target.strip_prefix("#/$defs/")) {
            let known = match name {
                "Duration" => Some("duration"),
                "ByteSize" => Some("size"),
                "Rate" => Some("rate"),
                "Percent" => Some("share"),
                "Count" => Some("count"),
                _ => None,
            };
            if let Some(known) = known {
                return (known.to_owned(), String::new());
            }
            let target = &self.schema["$defs"][name];
            return if target["properties"].is_object() {
                (self.block(path, name, target), String::new())
            } else {
                self.takes(path, target)
            };
        }
        if let Some(choices) = node["anyOf"].as_array() {
            return self.choice(path, choices);
        }
        let items = &node["items"];
        let free = &node["additionalProperties"];
        let kind = node["type"].as_str().or_else(|| node["type"][0].as_str()).unwrap_or_default();
        let takes = match kind {
            _ if node["const"].is_string() => format!("`{}`", node["const"].as_str().unwrap_or_default()),
            _ if node["enum"].is_array() => {
                let words = node["enum"].as_array().into_iter().flatten().filter_map(Value::as_str);
                words.map(|word| format!("`{word}`")).collect::<Vec<_>>().join(", ")
            }
            "array" => {
                let (one, meanings) = self.takes(&format!("{path}[]"), items);
                return (format!("list of {one}"), meanings);
            }
            "object" if free.is_object() => {
                let (one, meanings) = self.takes(&format!("{path}.NAME"), free);
                return (format!("names, each with {one}"), meanings);
            }
            "boolean" => "`true`, `false`".to_owned(),
            "integer" => "number".to_owned(),
            "string" if node["pattern"].as_str().is_some_and(|pattern| pattern.starts_with("^[45]")) => {
                "status".to_owned()
            }
            _ => "text".to_owned(),
        };
        (takes, String::new())
    }

    /// A choice: words with their meanings, or one of several forms.
    fn choice(&mut self, path: &str, choices: &'s [Value]) -> (String, String) {
        let mut forms: Vec<String> = Vec::new();
        let (mut words, mut inside) = (Vec::new(), String::new());
        for choice in choices {
            if choice["type"] == "null" || choice["$ref"] == "#/$defs/Reference" {
                continue;
            }
            let (form, inner) = self.takes(path, choice);
            if let Some(about) =
                choice["description"].as_str().filter(|_| form.starts_with('`') && !form.contains(", "))
            {
                words.push((form.clone(), cell(about)));
            }
            inside.push_str(&inner);
            if !forms.contains(&form) {
                forms.push(form);
            }
        }
        // Words that mean what they say are not explained.
        let is_told = words.iter().any(|(_, about)| about.split(' ').count() > 3);
        let told = words.iter().filter(|_| is_told).map(|(word, about)| format!(" {word}: {about}"));
        let meanings = told.collect::<String>() + &inside;
        // `One value or a list of them` is one form.
        if let [one, many] = forms.as_slice()
            && *many == format!("list of {one}")
        {
            return (format!("one or more: {one}"), meanings);
        }
        let is_words = forms.iter().all(|form| form.starts_with('`'));
        (forms.join(if is_words { ", " } else { " or " }), meanings)
    }

    /// A link to a block.
    fn block(&mut self, path: &str, name: &'s str, target: &'s Value) -> String {
        let known = self.known.iter().find(|(known, _)| *known == name).map(|(_, path)| path.clone());
        let path = known.unwrap_or_else(|| {
            self.known.push((name, path.to_owned()));
            self.section(path, target);
            path.to_owned()
        });
        let anchor: String = path.to_lowercase().chars().filter(|c| c.is_ascii_alphanumeric() || *c == '_').collect();
        format!("[`{path}`](#{anchor})")
    }
}

/// The default of a key, where it is a value.
fn default(path: &str, node: &Value, takes: &str) -> String {
    // Of `routes[].timeouts` and `limits` it is that of the same block under `defaults`.
    let own = path.replacen("routes[].timeouts.", "defaults.timeouts.", 1).replacen(
        "routes[].limits.",
        "defaults.limits.",
        1,
    );
    let or_null = |node: &Value| node["type"] == "null" || node["type"][1] == "null";
    let nullable = or_null(node) || node["anyOf"].as_array().is_some_and(|forms| forms.iter().any(or_null));
    let value = match &node["default"] {
        Value::Null if own.starts_with("defaults.") => default_of(&own),
        // One of its words, which is not told because it is never written back.
        Value::Null => default_of(&own).filter(|word| !nullable && takes.contains(&format!("`{word}`"))),
        Value::Object(_) => None,
        Value::Array(list) => {
            Some(format!("[{}]", list.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(", ")))
        }
        Value::String(text) => Some(text.clone()),
        other => Some(other.to_string()),
    };
    value.map_or_else(String::new, |value| format!("`{value}`"))
}

/// Every code, with an example and what is said about it.
pub(super) fn errors() -> String {
    let mut text = String::from(
        "# Errors and warnings\n\n<!-- generated from src/config: do not edit -->\n\n\
         What `arriero check`, a start, a reload and the admin API say about a configuration or a keys file. All errors are told at once, \
         each with file, line, column and a code that keeps its meaning; `--format json` prints them for programs. A file with an error is \
         not used: the process does not start, or goes on with the last good file. Warnings (`W…`) let a file pass; `arriero check \
         --strict` does not.\n\n\
         The examples show some blocks of a file; what is missing in them is right. What `arriero diagnose` finds about a deployment has \
         words instead of codes, see [diagnose](../diagnose.md).\n",
    );
    let mut codes: Vec<&Code> = codes::ALL.iter().collect();
    codes.sort_by_key(|code| code.id);
    let mut severity = None;
    for code in codes {
        if severity != Some(code.severity()) {
            severity = Some(code.severity());
            text.push_str(if code.severity() == Severity::Error { "\n## Errors\n" } else { "\n## Warnings\n" });
        }
        let _ = write!(text, "\n### {}\n\n{}\n", code.id, code.meaning);
        match example(code.id) {
            Example::Not(when) => {
                let _ = write!(text, "\nFor example: {when}\n");
            }
            shown
            @ (Example::Config(typed) | Example::Broken(typed) | Example::Whole(typed) | Example::Keys(typed)) => {
                let language = if matches!(shown, Example::Broken(_)) { "text" } else { "yaml not-config" };
                let _ = write!(text, "\n```{language}\n{typed}```\n\n```text\n");
                for one in found(shown).iter().filter(|one| one.code == code.id) {
                    let level = if one.severity == Severity::Error { "error" } else { "warning" };
                    let _ = writeln!(text, "{level}[{}]: {}", one.code, one.message);
                    if let Some(hint) = &one.hint {
                        let _ = writeln!(text, "help: {hint}");
                    }
                }
                text.push_str("```\n");
            }
        }
        let _ = write!(text, "\n{}\n", code.mend);
    }
    text
}

/// The example of a code.
pub(super) fn example(id: &str) -> &'static Example {
    let known = EXAMPLES.iter().find(|(code, _)| *code == id);
    &known.unwrap_or_else(|| panic!("{id} has no example")).1
}
