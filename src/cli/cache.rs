//! `arriero cache`: what routes keep of answers.

use std::process::ExitCode;

use clap::{ArgGroup, Subcommand};
use http::Method;
use serde::Deserialize;
use serde_json::json;

use super::admin_client::Question;
use super::asking::{Asking, who};
use super::output::{Look, Page};
use super::table::{Cell, Table};
use super::words;

/// What to do; shows the caches by default.
#[derive(clap::Args)]
pub struct Arguments {
    #[command(subcommand)]
    verb: Option<Verb>,
    #[command(flatten)]
    asking: Asking,
}

#[derive(Subcommand)]
enum Verb {
    /// Show how full the caches are and how often they help.
    Show,
    /// Show answers that are kept, those that were given most often first.
    Entries(Entries),
    /// Throw away what is kept.
    Purge(Purge),
}

#[derive(clap::Args)]
#[command(group(ArgGroup::new("what").args(["key", "prefix", "tag"])))]
struct Entries {
    /// By this route.
    #[arg(long, value_name = "NAME")]
    route: Option<String>,
    /// Answers to this URI; one that begins with `/` means each host.
    #[arg(long, value_name = "URI")]
    key: Option<String>,
    /// Answers to URIs that begin like this.
    #[arg(long, value_name = "TEXT")]
    prefix: Option<String>,
    /// Answers that their server gave this tag.
    #[arg(long, value_name = "TAG")]
    tag: Option<String>,
    /// At most so many.
    #[arg(long, value_name = "NUMBER", default_value_t = 100)]
    limit: usize,
}

#[derive(clap::Args)]
#[command(group(ArgGroup::new("which").args(["route", "model", "key", "prefix", "tag", "all"]).required(true).multiple(true)))]
#[command(group(ArgGroup::new("what").args(["model", "key", "prefix", "tag"])))]
struct Purge {
    /// By this route.
    #[arg(long, value_name = "NAME")]
    route: Option<String>,
    /// Embeddings of this model.
    #[arg(long, value_name = "MODEL")]
    model: Option<String>,
    /// Answers to this URI; one that begins with `/` means each host.
    #[arg(long, value_name = "URI")]
    key: Option<String>,
    /// Answers to URIs that begin like this.
    #[arg(long, value_name = "TEXT")]
    prefix: Option<String>,
    /// Answers that their server gave this tag.
    #[arg(long, value_name = "TAG")]
    tag: Option<String>,
    /// Everything.
    #[arg(long, conflicts_with_all = ["route", "model", "key", "prefix", "tag"])]
    all: bool,
}

#[derive(Debug, Deserialize)]
struct Caches {
    caches: Vec<Cache>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Cache {
    route: String,
    kind: String,
    entries: u64,
    bytes: u64,
    max_bytes: u64,
    scope: String,
    hits: u64,
    misses: u64,
    hit_rate: Option<f64>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct EntryList {
    count: u64,
    entries: Vec<Entry>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Entry {
    route: String,
    uri: String,
    status: u16,
    bytes: u64,
    length: u64,
    age_seconds: f64,
    ttl_seconds: f64,
    tags: Vec<String>,
    vary: Vec<String>,
    hits: u64,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Purged {
    caches: Vec<PurgedCache>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct PurgedCache {
    kind: String,
    purged: u64,
}

/// Does it.
pub fn run(arguments: &Arguments) -> ExitCode {
    let asking = &arguments.asking;
    match &arguments.verb {
        None | Some(Verb::Show) => asking.tell(Question::get("caches"), list),
        Some(Verb::Entries(entries)) => {
            let Entries { route, key, prefix, tag, limit } = entries;
            let pairs = [("route", route), ("key", key), ("prefix", prefix), ("tag", tag)];
            let mut pairs = pairs.map(|(name, value)| (name, value.clone())).to_vec();
            pairs.push(("limit", Some(limit.to_string())));
            asking.tell(Question::get("caches/entries").asking(&pairs), told)
        }
        Some(Verb::Purge(purge)) => {
            let Purge { route, model, key, prefix, tag, .. } = purge;
            let body =
                json!({ "route": route, "model": model, "key": key, "prefix": prefix, "tag": tag, "who": who() });
            asking.tell(Question::order(Method::POST, "caches/purge", &body), purged)
        }
    }
}

fn list(answer: &Caches, look: &Look) -> Page {
    let mut table = Table::new(["ROUTE", "KEEPS", "ENTRIES", "SIZE", "AT MOST", "SCOPE", "HITS", "MISSES", "HIT RATE"]);
    for cache in &answer.caches {
        table.row([
            Cell::text(&cache.route),
            Cell::text(&cache.kind),
            Cell::count(cache.entries),
            Cell::size(cache.bytes),
            Cell::size(cache.max_bytes),
            Cell::text(&cache.scope),
            Cell::count(cache.hits),
            Cell::count(cache.misses),
            Cell::maybe(cache.hit_rate.map(|share| format!("{:.1} %", share * 100.0))),
        ]);
    }
    Page::of(table.render(look, "no caches: no route has `cache` or `embeddings_cache`"))
}

fn told(answer: &EntryList, look: &Look) -> Page {
    let mut table =
        Table::new(["URI", "ROUTE", "STATUS", "LENGTH", "TAKES", "AGE", "FRESH FOR", "HITS", "VARIES BY", "TAGS"]);
    for entry in &answer.entries {
        let seconds = |seconds: f64| Cell::milliseconds(Some(seconds * 1000.0));
        table.row([
            Cell::text(&entry.uri),
            Cell::text(&entry.route),
            Cell::count(entry.status.into()),
            Cell::size(entry.length),
            Cell::size(entry.bytes),
            seconds(entry.age_seconds),
            if entry.ttl_seconds > 0.0 { seconds(entry.ttl_seconds) } else { Cell::text("stale") },
            Cell::count(entry.hits),
            Cell::maybe(Some(entry.vary.join(" "))),
            Cell::maybe(Some(entry.tags.join(" "))),
        ]);
    }
    let mut text = table.render(look, "no answer is kept that was asked for");
    let shown = answer.entries.len() as u64;
    if answer.count > shown {
        text.push_str(&format!("{} more; `--limit` shows more of them\n", answer.count - shown));
    }
    Page::of(text)
}

fn purged(answer: &Purged, _: &Look) -> Page {
    let count = |kind: &str| answer.caches.iter().filter(|cache| cache.kind == kind).map(|cache| cache.purged).sum();
    let mut text = String::new();
    for (kind, one, many) in [
        ("embeddings", "embedding thrown away", "embeddings thrown away"),
        ("answers", "answer thrown away", "answers thrown away"),
    ] {
        if answer.caches.iter().any(|cache| cache.kind == kind) {
            text.push_str(&format!("{}\n", words::count(count(kind), one, many)));
        }
    }
    if text.is_empty() {
        text.push_str("nothing thrown away: no route keeps any\n");
    }
    Page::of(text)
}
