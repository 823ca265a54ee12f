//! `arriero key`: makes, lists and revokes API keys. A running Arriero notices by itself.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Subcommand, ValueEnum};

use crate::clock;
use crate::config::keys::{EditError, KeyEntry, KeyScope, Timestamp, edit, load};
use crate::fleet::reload::Source;
use crate::ollama::ModelPattern;
use crate::policy::api_key::{self, Digest};
use crate::units::{Count, Duration};

/// What to do.
#[derive(clap::Args)]
pub struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Make a key and print it; it is shown this once, only its hash is kept.
    New(New),
    /// Show the keys, never their secrets.
    List(List),
    /// Take a key back; a running Arriero refuses it within 5 seconds.
    Revoke(Revoke),
}

/// Which file.
#[derive(clap::Args)]
struct Place {
    /// Keys file; that of `auth.keys_file` in the configuration by default.
    #[arg(short, long)]
    file: Option<PathBuf>,
    /// Configuration file that names the keys file.
    #[arg(short, long, default_value = super::run::DEFAULT_FILE)]
    config: PathBuf,
}

#[derive(clap::Args)]
struct New {
    /// Whose it is; a name may have several keys.
    name: String,
    /// What it may be used for; may be given several times.
    #[arg(long = "scope", value_enum, default_value = "inference")]
    scopes: Vec<ScopeWord>,
    /// A model that it may be used for, `*` stands for any characters; may be given several times. All by default.
    #[arg(long = "model", value_name = "PATTERN", value_parser = pattern)]
    models: Vec<String>,
    /// Tokens that it may use of a quota, in the place of the quota's `limit`, such as `daily=1M`; may be given several times.
    #[arg(long = "quota", value_name = "NAME=TOKENS", value_parser = amount)]
    quotas: Vec<(String, Count)>,
    /// How long it is valid, such as `90d`; for ever by default.
    #[arg(long, value_name = "DURATION", value_parser = lifetime)]
    expires: Option<Duration>,
    #[command(flatten)]
    place: Place,
}

#[derive(clap::Args)]
struct List {
    /// How they are written.
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
    #[command(flatten)]
    place: Place,
}

#[derive(clap::Args)]
struct Revoke {
    /// Its id, as `arriero key list` shows it, or the whole key.
    id: String,
    #[command(flatten)]
    place: Place,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    /// For people.
    Text,
    /// A JSON array, for scripts.
    Json,
}

#[derive(Clone, Copy, ValueEnum)]
enum ScopeWord {
    /// Ask models, and for lists of them.
    Inference,
    /// Change what a server has, on routes with `management: allow`.
    Management,
}

fn pattern(text: &str) -> Result<String, String> {
    match ModelPattern::parse(text) {
        Some(_) => Ok(text.to_owned()),
        None => Err("write a name such as `llava`, `llava:13b` or `llava*`".to_owned()),
    }
}

fn amount(text: &str) -> Result<(String, Count), String> {
    let (name, tokens) = text.split_once('=').ok_or("write the name of a quota and a number, such as `daily=1M`")?;
    let tokens: Count = tokens.parse().map_err(|error: crate::units::UnitError| error.to_string())?;
    match (is_name(name), tokens) {
        (false, _) => Err("the name of a quota is made of letters, digits, `_`, `.` and `-`".to_owned()),
        (_, Count(0)) => Err("a limit of zero tokens would refuse every request".to_owned()),
        (true, tokens) => Ok((name.to_owned(), tokens)),
    }
}

fn is_name(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte))
}

fn lifetime(text: &str) -> Result<Duration, String> {
    let lifetime: Duration = text.parse().map_err(|error: crate::units::UnitError| error.to_string())?;
    if lifetime.0.as_secs() == 0 { Err("a key is valid for at least a second".to_owned()) } else { Ok(lifetime) }
}

/// Does it.
pub fn run(arguments: &Arguments) -> ExitCode {
    let done = match &arguments.verb {
        Verb::New(new) => new.run(),
        Verb::List(list) => list.run(),
        Verb::Revoke(revoke) => revoke.run(),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => {
            // What is wrong with a file begins with `error` itself.
            eprintln!("{}{}", if problem.starts_with("error") { "" } else { "error: " }, problem.trim_end());
            ExitCode::from(1)
        }
    }
}

impl Place {
    fn find(&self) -> Result<PathBuf, String> {
        if let Some(file) = &self.file {
            return Ok(file.clone());
        }
        let config = self.config.display();
        let hint = "hint: name the keys file with `--file keys.yaml`";
        if !self.config.exists() {
            return Err(format!("there is no `{config}` that would name a keys file\n{hint}"));
        }
        let loaded = Source::File(self.config.clone()).load();
        let loaded = loaded.map_err(|found| format!("{}\n{hint}", found.render(false).trim_end()))?;
        let file = loaded.config.auth.keys_file.map(PathBuf::from);
        file.ok_or_else(|| format!("`{config}` names no keys file: it has no `auth: {{ keys_file: ... }}`\n{hint}"))
    }
}

fn edited<T>(
    path: &Path,
    create: bool,
    change: impl FnOnce(&mut Vec<KeyEntry>) -> Result<T, String>,
) -> Result<T, String> {
    let done = edit(path, create, change).map_err(|error: EditError| error.to_string())?;
    if done.lost_comments {
        eprintln!("note: the comments in `{}` were not kept", path.display());
    }
    Ok(done.value)
}

impl New {
    fn run(&self) -> Result<(), String> {
        let path = self.place.find()?;
        if !is_name(&self.name) {
            return Err("a name is made of letters, digits, `_`, `.` and `-`".to_owned());
        }
        let now = i64::try_from(clock::unix_time().as_secs()).unwrap_or(i64::MAX);
        let lifetime = self.expires.map(|lifetime| i64::try_from(lifetime.0.as_secs()).unwrap_or(i64::MAX));
        let mut scopes = Vec::new();
        for word in &self.scopes {
            let scope = match word {
                ScopeWord::Inference => KeyScope::Inference,
                ScopeWord::Management => KeyScope::Management,
            };
            if !scopes.contains(&scope) {
                scopes.push(scope);
            }
        }
        let key = edited(&path, true, |keys| {
            let (id, text) = loop {
                let mut random = [0; api_key::RANDOM_BYTES];
                getrandom::fill(&mut random).map_err(|error| format!("the system has no randomness: {error}"))?;
                let (id, text) = api_key::write(&random);
                if keys.iter().all(|key| key.id != id) {
                    break (id, text);
                }
            };
            keys.push(KeyEntry {
                name: self.name.clone(),
                id,
                hash: Digest::of(api_key::split(text.as_bytes()).1),
                scopes,
                models: self.models.clone(),
                quotas: self.quotas.iter().cloned().collect(),
                expires: lifetime.map(|lifetime| Timestamp(now.saturating_add(lifetime))),
                created: Some(Timestamp(now)),
            });
            Ok(text)
        })?;
        eprintln!("new key of `{}` in {}; it is shown this once:", self.name, path.display());
        print(&format!("{key}\n"))
    }
}

impl Revoke {
    fn run(&self) -> Result<(), String> {
        let path = self.place.find()?;
        let (of_key, _) = api_key::split(self.id.as_bytes());
        let id = if of_key.is_empty() { self.id.as_str() } else { of_key };
        let name = edited(&path, false, |keys| {
            let found = keys.iter().position(|key| key.id == id);
            let Some(found) = found else {
                let shown = if api_key::is_id(id) { format!(" `{id}`") } else { String::new() };
                let named: Vec<&str> = keys.iter().filter(|key| key.name == id).map(|key| &*key.id).collect();
                let hint = match named.as_slice() {
                    [] => "`arriero key list` shows the ids".to_owned(),
                    ids => format!("the ids of `{id}` are {}", ids.join(", ")),
                };
                return Err(format!("there is no key{shown} in `{}`\nhint: {hint}", path.display()));
            };
            Ok(keys.remove(found).name)
        })?;
        eprintln!("revoked the key {id} of `{name}`; a running Arriero refuses it within 5 seconds");
        Ok(())
    }
}

impl List {
    fn run(&self) -> Result<(), String> {
        let path = self.place.find()?;
        let keys = load(&path).map_err(|found| found.render(false))?.keys;
        if self.format == Format::Json {
            let rows: Vec<serde_json::Value> = keys.iter().map(to_json).collect();
            return print(&format!("{:#}\n", serde_json::Value::Array(rows)));
        }
        let heads = ["ID", "NAME", "SCOPES", "MODELS", "QUOTAS", "CREATED", "EXPIRES"].map(str::to_owned);
        let rows: Vec<[String; 7]> = std::iter::once(heads).chain(keys.iter().map(to_row)).collect();
        let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
        let widths: [usize; 7] = std::array::from_fn(width);
        let mut text = String::new();
        for row in &rows {
            let cells: Vec<String> = row.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}")).collect();
            text.push_str(cells.join("  ").trim_end());
            text.push('\n');
        }
        print(&text)
    }
}

fn is_over(key: &KeyEntry) -> bool {
    key.expires.is_some_and(|expires| u64::try_from(expires.0).unwrap_or(0) <= clock::unix_time().as_secs())
}

fn to_row(key: &KeyEntry) -> [String; 7] {
    let scopes: Vec<&str> = key.scopes.iter().map(|scope| crate::policy::auth::Scope::from(*scope).as_str()).collect();
    let models = if key.models.is_empty() { "all".to_owned() } else { key.models.join(",") };
    let quotas: Vec<String> = key.quotas.iter().map(|(name, tokens)| format!("{name}={tokens}")).collect();
    let quotas = if quotas.is_empty() { "-".to_owned() } else { quotas.join(",") };
    let expires = key.expires.map_or_else(|| "never".to_owned(), |expires| expires.to_string());
    let over = if is_over(key) { " (over)" } else { "" };
    let created = key.created.map_or_else(|| "-".to_owned(), |created| created.to_string());
    [key.id.clone(), key.name.clone(), scopes.join(","), models, quotas, created, format!("{expires}{over}")]
}

fn to_json(key: &KeyEntry) -> serde_json::Value {
    serde_json::json!({
        "id": key.id,
        "name": key.name,
        "scopes": key.scopes,
        "models": key.models,
        "quotas": key.quotas,
        "created": key.created,
        "expires": key.expires,
        "expired": is_over(key),
    })
}

/// Writes to standard output; a key that could not be shown is lost, so that is an error.
fn print(text: &str) -> Result<(), String> {
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes())
        .and_then(|()| out.flush())
        .map_err(|error| format!("cannot write to standard output: {error}"))
}
