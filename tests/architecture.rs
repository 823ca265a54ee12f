//! The house rules of `docs/architecture.md`, read off the sources themselves: who may import whom, which
//! crate stays where, and what is never written.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// Layers, lowest first. A module imports only from layers below its own.
const LAYERS: [&[&str]; 8] = [
    &["clock", "threads", "units", "version"],
    &["policy", "routing", "ollama", "telemetry"],
    &["config"],
    &["history", "nvml"],
    &["fleet"],
    &["cluster", "probe", "proxy", "admin", "agent", "demo"],
    &["lifecycle"],
    &["cli"],
];

/// The one import within a layer: the list of reasons is the same in metric, log and answer, so `telemetry`
/// reads it from `policy` instead of keeping a copy.
const NEIGHBOURS: [(&str, &str); 1] = [("telemetry", "policy")];

/// Modules that may see less than their layer would let them.
const WITNESSES: [(&str, &[&str]); 1] = [("demo", &["clock", "ollama"])];

/// Where a crate may be named: places that begin like this, below `src/`.
const HOMES: [(&str, &[&str]); 15] = [
    ("redis", &["cluster/"]),
    ("pingora*", &["proxy/", "lifecycle.rs"]),
    ("axum", &["admin/"]),
    ("aide", &["admin/"]),
    ("serde_saphyr", &["config/"]),
    ("granit_parser", &["config/"]),
    ("saphyr_parser", &["config/"]),
    ("serde_yaml*", &["config/"]),
    ("notify", &["fleet/watch.rs"]),
    ("clap", &["cli/"]),
    ("ratatui", &["cli/top/"]),
    ("rusqlite", &["history/"]),
    ("nvml_wrapper*", &["nvml/"]),
    ("opentelemetry*", &["telemetry/traces/", "probe/traces/"]),
    ("tonic", &["probe/traces/", "telemetry/traces/"]),
];

const LONGEST_FILE: usize = 500;

/// A source file with its comments and the insides of its texts blanked out, line by line as it was.
struct File {
    path: String,
    lines: usize,
    code: String,
}

impl File {
    /// The names of its modules: `config/tree/build.rs` is `config`, `tree`, `build`.
    fn module(&self) -> Vec<&str> {
        let path = self.path.trim_end_matches(".rs").trim_end_matches("/mod");
        path.split('/').filter(|name| !matches!(*name, "lib" | "main")).collect()
    }

    fn line_of(&self, offset: usize) -> usize {
        self.code[..offset].matches('\n').count() + 1
    }

    /// Words of the code with the place where each begins.
    fn words(&self) -> impl Iterator<Item = (usize, &str)> {
        let is_word = |c: char| c.is_alphanumeric() || c == '_';
        let mut rest = 0;
        std::iter::from_fn(move || {
            let begin = rest + self.code[rest..].find(is_word)?;
            let length = self.code[begin..].find(|c| !is_word(c)).unwrap_or(self.code.len() - begin);
            rest = begin + length;
            Some((begin, &self.code[begin..rest]))
        })
    }

    /// Where modules that are written out inside this file begin and end.
    fn inner_modules(&self) -> Vec<std::ops::Range<usize>> {
        let words: Vec<_> = self.words().collect();
        let mut found = Vec::new();
        for pair in words.windows(2).filter(|pair| pair[0].1 == "mod") {
            let open = pair[1].0 + pair[1].1.len();
            let mut depth = 0;
            let end = self.code[open..].find(|c: char| {
                depth += i32::from(c == '{') - i32::from(c == '}');
                depth == 0 && !c.is_whitespace()
            });
            found.push(open..end.map_or(self.code.len(), |end| open + end));
        }
        found
    }

    /// Modules of this crate that it names by `crate::` or by enough `super::`, each with its line.
    fn imports(&self) -> Vec<(usize, String)> {
        let inner = self.inner_modules();
        let mut found = Vec::new();
        let mut supers = 0;
        for (begin, word) in self.words() {
            let behind = self.code[begin + word.len()..].trim_start();
            let Some(behind) = behind.strip_prefix("::") else {
                supers = 0;
                continue;
            };
            let continued = self.code[..begin].trim_end().ends_with("::");
            supers = match word {
                "super" if continued => supers + 1,
                "super" => 1,
                _ => 0,
            };
            let depth = self.module().len() + inner.iter().filter(|range| range.contains(&begin)).count();
            let at_root = (word == "crate" && !continued) || (supers > 0 && supers >= depth);
            if at_root {
                let line = self.line_of(begin);
                found.extend(heads(behind.trim_start()).into_iter().map(|name| (line, name)));
            }
        }
        found.retain(|(_, name)| name != "super" && name != "self");
        found
    }
}

/// The first name of a path, or of each path in a group in braces.
fn heads(text: &str) -> Vec<String> {
    let name = |text: &str| text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect::<String>();
    let Some(group) = text.strip_prefix('{') else {
        return vec![if text.starts_with('*') { "*".to_owned() } else { name(text) }];
    };
    let (mut depth, mut names, mut fresh) = (0, Vec::new(), true);
    for (at, c) in group.char_indices() {
        match c {
            '}' if depth == 0 => break,
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => fresh = true,
            _ if fresh && !c.is_whitespace() => {
                names.extend(heads(&group[at..]));
                fresh = false;
            }
            _ => {}
        }
    }
    names
}

/// Blanks out comments, texts and characters.
fn code_of(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let blank =
        |out: &mut Vec<u8>, part: &[u8]| out.extend(part.iter().map(|b| if *b == b'\n' { b'\n' } else { b' ' }));
    let mut at = 0;
    while at < bytes.len() {
        let rest = &bytes[at..];
        let in_word = at > 0 && (bytes[at - 1].is_ascii_alphanumeric() || bytes[at - 1] == b'_');
        let hashes = rest.iter().skip(1).take_while(|b| **b == b'#').count();
        let length = match rest {
            [b'/', b'/', ..] => text[at..].find('\n').unwrap_or(rest.len()),
            [b'/', b'*', ..] => block_comment(rest),
            [b'r', ..] if !in_word && rest.get(1 + hashes) == Some(&b'"') => {
                let end = format!("\"{}", "#".repeat(hashes));
                text[at + 2 + hashes..].find(&end).map_or(rest.len(), |found| 2 + hashes + found + end.len())
            }
            [b'"', ..] => quoted(rest, b'"'),
            // A lifetime has no closing quote two characters on.
            [b'\'', b'\\', ..] => quoted(rest, b'\''),
            [b'\'', ..] => match text[at + 1..].chars().next() {
                Some(c) if rest.get(1 + c.len_utf8()) == Some(&b'\'') => 2 + c.len_utf8(),
                _ => 0,
            },
            _ => 0,
        };
        if length == 0 {
            out.push(bytes[at]);
            at += 1;
        } else {
            blank(&mut out, &rest[..length]);
            at += length;
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

fn quoted(rest: &[u8], quote: u8) -> usize {
    let mut at = 1;
    while at < rest.len() && rest[at] != quote {
        at += if rest[at] == b'\\' { 2 } else { 1 };
    }
    (at + 1).min(rest.len())
}

fn block_comment(rest: &[u8]) -> usize {
    let (mut depth, mut at) = (0, 0);
    while at + 1 < rest.len() {
        match &rest[at..at + 2] {
            b"/*" => (depth, at) = (depth + 1, at + 2),
            b"*/" => (depth, at) = (depth - 1, at + 2),
            _ => at += 1,
        }
        if depth == 0 {
            return at;
        }
    }
    rest.len()
}

fn files_below(folder: &str) -> Vec<File> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
    let (mut folders, mut files) = (vec![root.clone()], Vec::new());
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("a folder").map(|entry| entry.expect("an entry").path()) {
            if entry.is_dir() {
                folders.push(entry);
            } else if entry.extension().is_some_and(|extension| extension == "rs") {
                let text = fs::read_to_string(&entry).expect("a text");
                let path = entry.strip_prefix(&root).map(PathBuf::from).expect("below the root");
                let path = path.to_string_lossy().into_owned();
                files.push(File { path, lines: text.lines().count(), code: code_of(&text) });
            }
        }
    }
    files.sort_by(|one, other| one.path.cmp(&other.path));
    assert!(!files.is_empty(), "no sources below {folder}");
    files
}

fn none(what: &str, found: Vec<String>) {
    assert!(found.is_empty(), "{what}:\n  {}", found.join("\n  "));
}

#[test]
fn a_module_imports_only_from_layers_below_its_own() {
    let layer_of: BTreeMap<&str, usize> =
        LAYERS.iter().enumerate().flat_map(|(layer, names)| names.iter().map(move |name| (*name, layer))).collect();
    let mut wrong = Vec::new();
    for file in files_below("src") {
        let Some(own) = file.module().first().map(|name| (*name).to_owned()) else { continue };
        let Some(layer) = layer_of.get(own.as_str()) else {
            wrong.push(format!("src/{}: the module `{own}` is in no layer", file.path));
            continue;
        };
        let allowed = WITNESSES.iter().find(|(name, _)| *name == own).map(|(_, allowed)| *allowed);
        for (line, name) in file.imports().into_iter().filter(|(_, name)| *name != own) {
            let below = layer_of.get(name.as_str()).is_some_and(|other| other < layer)
                || NEIGHBOURS.contains(&(own.as_str(), name.as_str()));
            if !below || allowed.is_some_and(|allowed| !allowed.contains(&name.as_str())) {
                wrong.push(format!("src/{}:{line}: `{own}` may not import `{name}`", file.path));
            }
        }
    }
    none("imports against the layers", wrong);
}

#[test]
fn the_program_itself_calls_only_the_command_line() {
    let files = files_below("src");
    let main = files.iter().find(|file| file.path == "main.rs").expect("main.rs");
    let named: Vec<_> = main.words().filter(|(begin, _)| main.code[..*begin].ends_with("arriero::")).collect();
    assert!(named.iter().all(|(_, word)| *word == "cli"), "{named:?}");
}

#[test]
fn every_module_of_the_crate_has_a_layer_and_every_layer_its_modules() {
    let mut there: Vec<String> =
        files_below("src").iter().filter_map(|f| f.module().first().map(|m| (*m).to_owned())).collect();
    there.sort();
    there.dedup();
    let mut listed: Vec<&str> = LAYERS.iter().flat_map(|names| names.iter().copied()).collect();
    listed.sort_unstable();
    assert_eq!(there, listed);
}

#[test]
fn a_foreign_crate_is_named_only_where_it_lives() {
    let mut wrong = Vec::new();
    for file in files_below("src") {
        for (begin, word) in file.words() {
            let is_path = file.code[begin + word.len()..].trim_start().starts_with("::")
                || file.code[..begin].trim_end().ends_with("use");
            let home = HOMES.iter().find(|(name, _)| match name.strip_suffix('*') {
                Some(prefix) => word.starts_with(prefix),
                None => *name == word && is_path,
            });
            if home.is_some_and(|(_, places)| !places.iter().any(|place| file.path.starts_with(place))) {
                wrong.push(format!("src/{}:{}: `{word}`", file.path, file.line_of(begin)));
            }
        }
    }
    none("foreign crates away from home", wrong);
}

#[test]
fn time_is_read_only_by_the_clock() {
    let mut wrong = Vec::new();
    for file in files_below("src").iter().filter(|file| file.path != "clock.rs") {
        let dense: String = file.code.split_whitespace().collect();
        for call in ["Instant::now", "SystemTime::now", "UtcDateTime::now", "OffsetDateTime::now_"] {
            wrong.extend(dense.contains(call).then(|| format!("src/{}: {call}", file.path)));
        }
    }
    none("clocks of their own", wrong);
}

#[test]
fn nothing_is_unsafe_unfinished_or_skipped() {
    let mut wrong = Vec::new();
    for folder in ["src", "tests"] {
        for file in files_below(folder) {
            for (begin, word) in file.words() {
                let (before, after) = (file.code[..begin].trim_end(), file.code[begin + word.len()..].trim_start());
                let bad = match word {
                    "unsafe" => true,
                    "todo" | "unimplemented" | "dbg" => after.starts_with('!'),
                    "ignore" => before.ends_with("#[") && after.starts_with([']', '=']),
                    _ => false,
                };
                if bad {
                    wrong.push(format!("{folder}/{}:{}: `{word}`", file.path, file.line_of(begin)));
                }
            }
        }
    }
    let library = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("src/lib.rs")).expect("lib.rs");
    wrong
        .extend((!library.contains("#![forbid(unsafe_code)]")).then(|| "src/lib.rs does not forbid unsafe".to_owned()));
    none("never written here", wrong);
}

#[test]
fn no_file_is_longer_than_five_hundred_lines() {
    let long = |file: &File| format!("src/{}: {} lines", file.path, file.lines);
    none("to be split", files_below("src").iter().filter(|file| file.lines > LONGEST_FILE).map(long).collect());
}

#[test]
fn servers_are_called_servers() {
    let mut wrong = Vec::new();
    for file in files_below("src") {
        for (begin, word) in file.words() {
            let lower = word.to_lowercase();
            if lower.split('_').any(|part| matches!(part, "backend" | "backends")) || word.contains("Backend") {
                wrong.push(format!("src/{}:{}: `{word}`", file.path, file.line_of(begin)));
            }
        }
    }
    none("words that the lexicon does not have", wrong);
}

#[test]
fn the_reader_of_sources_sees_what_it_should() {
    let text = "use crate::{a, b::{c, d}, e};\n// crate::no\nlet x = \"crate::no\"; let q = '\"'; let l: &'a str;\n\
                fn f() { crate::g::h(); super::super::i::j(); r#\"crate::no\"#; super::k(); }\n\
                mod tests { use super::super::o; use super::super::super::p; }\nmod q;\nuse super::super::r;";
    let file = File { path: "config/tree.rs".to_owned(), lines: 0, code: code_of(text) };
    let names: Vec<_> = file.imports().into_iter().map(|(line, name)| format!("{line} {name}")).collect();
    assert_eq!(names, ["1 a", "1 b", "1 e", "4 g", "4 i", "5 p", "7 r"]);
    assert!(code_of("/* a /* b */ unsafe */ x").trim() == "x");
}
