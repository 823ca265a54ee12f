//! Lists of models and versions: read from each server, merged for the client.
//!
//! A row is kept as the bytes its server sent ([`RawValue`]); only the fields that the proxy decides by are read.
//! So a one-server fleet answers `/api/tags` and `/api/ps` to the byte as that server does, and a field that
//! Ollama adds tomorrow is passed on today. Types: `api/types.go` of Ollama (`ListModelResponse`,
//! `ProcessModelResponse`), `openai/openai.go` (`Model`, `ListCompletion`).
//!
//! Reading is forgiving: an absent or null list is empty, and a row without a usable name is left out.

use std::borrow::Cow;
use std::collections::HashSet;

use serde::Deserialize;
use serde_json::value::RawValue;

use super::name::ModelName;

/// A row of `/api/tags`: a model on disk.
#[derive(Clone, Debug)]
pub struct Available {
    /// The canonical name.
    pub name: ModelName,
    /// Which bytes the name stands for; two servers may differ.
    pub digest: Option<String>,
    /// Bytes on disk.
    pub size: u64,
    /// Set for a model that this server forwards to another (a cloud model): it uses no memory here.
    pub remote_host: Option<String>,
    /// The row as the server wrote it.
    pub raw: Box<RawValue>,
}

/// A row of `/api/ps`: a model in memory, or on its way there (Ollama lists a model while it loads).
#[derive(Clone, Debug)]
pub struct Loaded {
    /// The canonical name.
    pub name: ModelName,
    /// Which bytes are in memory.
    pub digest: Option<String>,
    /// Bytes in memory, main and video.
    pub size: u64,
    /// Bytes in video memory.
    pub size_vram: u64,
    /// RFC 3339, as written. An estimate while the model loads, and it does not move while it is busy.
    pub expires_at: Option<String>,
    /// The context the model was loaded with; absent before Ollama 0.10.
    pub context_length: Option<u64>,
    /// The row as the server wrote it.
    pub raw: Box<RawValue>,
}

/// A row of `/v1/models`.
#[derive(Clone, Debug)]
pub struct OpenaiListed {
    /// The canonical name.
    pub name: ModelName,
    /// The id as the server wrote it: llama.cpp's and vLLM's are case-sensitive, and go on the wire like this.
    pub id: String,
    /// The row as the server wrote it.
    pub raw: Box<RawValue>,
}

#[derive(Deserialize)]
struct ModelList {
    /// `null` is Go's empty list; without the key it is another kind of answer.
    #[serde(deserialize_with = "Option::deserialize")]
    models: Option<Vec<Box<RawValue>>>,
}

#[derive(Deserialize)]
struct OpenaiList {
    #[serde(default)]
    data: Option<Vec<Box<RawValue>>>,
}

/// The fields we read of a row, whichever list it is from.
#[derive(Deserialize)]
struct Row<'row> {
    #[serde(borrow, default)]
    model: Option<Cow<'row, str>>,
    #[serde(borrow, default)]
    name: Option<Cow<'row, str>>,
    #[serde(borrow, default)]
    id: Option<Cow<'row, str>>,
    #[serde(default)]
    digest: Option<String>,
    #[serde(default)]
    size: Option<i64>,
    #[serde(default)]
    size_vram: Option<i64>,
    #[serde(default)]
    expires_at: Option<String>,
    #[serde(default)]
    context_length: Option<i64>,
    #[serde(default)]
    remote_host: Option<String>,
}

impl Row<'_> {
    fn read(raw: &RawValue) -> Option<Row<'_>> {
        serde_json::from_str(raw.get()).ok()
    }

    /// `model`, or `name` where servers older than 0.1.30 or so write only that.
    fn model_name(&self) -> Option<ModelName> {
        let written = self.model.as_deref().filter(|model| !model.is_empty()).or(self.name.as_deref())?;
        ModelName::parse(written)
    }
}

fn bytes_of(size: Option<i64>) -> u64 {
    size.and_then(|size| u64::try_from(size).ok()).unwrap_or(0)
}

/// Reads an answer to `GET /api/tags`.
pub fn parse_tags(body: &[u8]) -> Result<Vec<Available>, serde_json::Error> {
    let list: ModelList = serde_json::from_slice(body)?;
    let rows = list.models.unwrap_or_default().into_iter();
    Ok(rows
        .filter_map(|raw| {
            let row = Row::read(&raw)?;
            let name = row.model_name()?;
            let (digest, size, remote_host) = (row.digest, bytes_of(row.size), row.remote_host);
            let remote_host = remote_host.filter(|host| !host.is_empty());
            Some(Available { name, digest, size, remote_host, raw })
        })
        .collect())
}

/// Reads an answer to `GET /api/ps`.
pub fn parse_ps(body: &[u8]) -> Result<Vec<Loaded>, serde_json::Error> {
    let list: ModelList = serde_json::from_slice(body)?;
    let rows = list.models.unwrap_or_default().into_iter();
    Ok(rows
        .filter_map(|raw| {
            let row = Row::read(&raw)?;
            let name = row.model_name()?;
            let (digest, expires_at) = (row.digest, row.expires_at);
            let (size, size_vram) = (bytes_of(row.size), bytes_of(row.size_vram));
            let context_length = row.context_length.and_then(|length| u64::try_from(length).ok());
            Some(Loaded { name, digest, size, size_vram, expires_at, context_length, raw })
        })
        .collect())
}

/// Reads an answer to `GET /v1/models`.
pub fn parse_openai_models(body: &[u8]) -> Result<Vec<OpenaiListed>, serde_json::Error> {
    let list: OpenaiList = serde_json::from_slice(body)?;
    let rows = list.data.unwrap_or_default().into_iter();
    Ok(rows
        .filter_map(|raw| {
            let row = Row::read(&raw)?;
            let id = row.id?.into_owned();
            let name = ModelName::parse(&id)?;
            Some(OpenaiListed { name, id, raw })
        })
        .collect())
}

/// Reads an answer to `GET /api/version`.
pub fn parse_version(body: &[u8]) -> Option<String> {
    #[derive(Deserialize)]
    struct Version {
        version: String,
    }
    serde_json::from_slice(body).ok().map(|Version { version }| version)
}

/// `/api/tags` of the fleet: one row a model, the first server's that has it. The first server's order (newest
/// first, as Ollama sorts it) is kept, and what only the others have is put behind.
pub fn merge_tags<'list>(servers: impl IntoIterator<Item = &'list [Available]>) -> Vec<u8> {
    let mut seen = HashSet::new();
    let rows = servers.into_iter().flatten().filter(|row| seen.insert(&row.name)).map(|row| &*row.raw);
    join(r#"{"models":["#, rows, "]}")
}

/// `/api/ps` of the fleet: one row a model, as one Ollama would list it, however many servers hold a copy.
pub fn merge_ps<'list>(servers: impl IntoIterator<Item = &'list [Loaded]>) -> Vec<u8> {
    let mut seen = HashSet::new();
    let rows = servers.into_iter().flatten().filter(|row| seen.insert(&row.name)).map(|row| &*row.raw);
    join(r#"{"models":["#, rows, "]}")
}

/// `/v1/models` of the fleet, one row a model. The newline at the end is Ollama's. (Ollama writes `"data":null` for
/// no models at all; clients' libraries want the empty list that this writes.)
pub fn merge_openai_models<'list>(servers: impl IntoIterator<Item = &'list [OpenaiListed]>) -> Vec<u8> {
    let mut seen = HashSet::new();
    let rows = servers.into_iter().flatten().filter(|row| seen.insert(&row.name)).map(|row| &*row.raw);
    join(r#"{"object":"list","data":["#, rows, "]}\n")
}

fn join<'row>(open: &str, rows: impl Iterator<Item = &'row RawValue>, close: &str) -> Vec<u8> {
    let mut out = Vec::from(open);
    for (index, row) in rows.enumerate() {
        if index > 0 {
            out.push(b',');
        }
        out.extend_from_slice(row.get().as_bytes());
    }
    out.extend_from_slice(close.as_bytes());
    out
}

/// The lowest of the servers' versions: what a client may rely on wherever its request goes.
///
/// Numbers compare as numbers, and a pre-release is lower than its release (semver.org, 11); what is no version
/// at all is lower than any.
pub fn lowest_version<'text>(versions: impl IntoIterator<Item = &'text str>) -> Option<&'text str> {
    versions.into_iter().min_by(|left, right| version_key(left).cmp(&version_key(right)))
}

/// `(numbers, is a release, pre-release)`.
fn version_key(version: &str) -> (Vec<u64>, bool, Vec<PreRelease<'_>>) {
    let version = version.trim().trim_start_matches('v');
    let version = version.split('+').next().unwrap_or(version);
    let (numbers, pre) = match version.split_once('-') {
        Some((numbers, pre)) => (numbers, Some(pre)),
        None => (version, None),
    };
    let numbers = numbers.split('.').map_while(|part| part.parse().ok()).collect();
    let pre_release = pre.into_iter().flat_map(|pre| pre.split('.')).map(PreRelease::read).collect();
    (numbers, pre.is_none(), pre_release)
}

/// A part of a pre-release: `rc10` is above `rc9`, which plain text would not say.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct PreRelease<'text> {
    word: &'text str,
    number: u64,
}

impl PreRelease<'_> {
    fn read(part: &str) -> PreRelease<'_> {
        let word = part.trim_end_matches(|letter: char| letter.is_ascii_digit());
        PreRelease { word, number: part[word.len()..].parse().unwrap_or(0) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TAGS: &str = r#"{"models":[{"name":"LLaVA:13b","model":"LLaVA:13b","modified_at":"2026-11-01T10:00:00.5+02:00","size":8011256494,"digest":"0d0eb4d7f485","details":{"parent_model":"","format":"gguf","families":["llama","clip"]},"new_field":[1, 2]},{"name":"gpt-oss:120b-cloud","model":"gpt-oss:120b-cloud","remote_model":"gpt-oss:120b","remote_host":"https://ollama.com:443","size":384,"digest":"569662207105"}]}"#;

    #[test]
    fn the_fields_we_decide_by_are_read() {
        let rows = parse_tags(TAGS.as_bytes()).expect("tags");
        assert_eq!(rows[0].name.as_str(), "llava:13b");
        assert_eq!((rows[0].size, rows[0].digest.as_deref()), (8_011_256_494, Some("0d0eb4d7f485")));
        assert_eq!(rows[0].remote_host, None);
        assert_eq!(rows[1].remote_host.as_deref(), Some("https://ollama.com:443"));

        let ps = r#"{"models":[{"name":"m","model":"m:1","size":10,"size_vram":7,"digest":"d","expires_at":"2318-05-01T00:00:00Z","context_length":4096},{"name":"old:1","size":3}]}"#;
        let rows = parse_ps(ps.as_bytes()).expect("ps");
        assert_eq!(rows[0].name.as_str(), "m:1");
        assert_eq!((rows[0].size_vram, rows[0].context_length), (7, Some(4096)));
        assert_eq!(rows[0].expires_at.as_deref(), Some("2318-05-01T00:00:00Z"));
        assert_eq!((rows[1].name.as_str(), rows[1].size_vram, rows[1].context_length), ("old:1", 0, None));
    }

    #[test]
    fn one_servers_answer_comes_out_as_it_came_in() {
        let rows = parse_tags(TAGS.as_bytes()).expect("tags");
        assert_eq!(merge_tags([rows.as_slice()]), TAGS.as_bytes());
        let ps = r#"{"models":[]}"#;
        let rows = parse_ps(ps.as_bytes()).expect("ps");
        assert_eq!(merge_ps([rows.as_slice()]), ps.as_bytes());
        let models = "{\"object\":\"list\",\"data\":[{\"id\":\"m:1\",\"object\":\"model\",\"created\":1,\"owned_by\":\"library\"}]}\n";
        let rows = parse_openai_models(models.as_bytes()).expect("models");
        assert_eq!(merge_openai_models([rows.as_slice()]), models.as_bytes());
    }

    #[test]
    fn a_model_on_two_servers_is_listed_once() {
        let first = parse_tags(br#"{"models":[{"model":"b","size":1},{"model":"a:latest","size":1}]}"#).expect("tags");
        let second =
            parse_tags(br#"{"models":[{"model":"library/A","size":2},{"model":"c","size":2}]}"#).expect("tags");
        let merged = merge_tags([first.as_slice(), second.as_slice()]);
        assert_eq!(
            String::from_utf8_lossy(&merged),
            r#"{"models":[{"model":"b","size":1},{"model":"a:latest","size":1},{"model":"c","size":2}]}"#
        );
        let loaded = parse_ps(br#"{"models":[{"model":"a"}]}"#).expect("ps");
        let merged = merge_ps([loaded.as_slice(), loaded.as_slice()]);
        assert_eq!(String::from_utf8_lossy(&merged), r#"{"models":[{"model":"a"}]}"#);
    }

    #[test]
    fn an_openai_id_keeps_its_letter_case_beside_the_key() {
        let rows = parse_openai_models(br#"{"data":[{"id":"Qwen/Qwen2.5-VL"}],"models":[]}"#).expect("models");
        assert_eq!((rows[0].id.as_str(), rows[0].name.as_str()), ("Qwen/Qwen2.5-VL", "qwen/qwen2.5-vl:latest"));
    }

    #[test]
    fn odd_lists_are_forgiven_and_other_bodies_are_not() {
        for empty in [r#"{"models":null}"#, r#"{"models":[{},{"model":""},{"model":7},"x",null]}"#] {
            assert!(parse_tags(empty.as_bytes()).expect(empty).is_empty(), "{empty}");
            assert!(parse_ps(empty.as_bytes()).expect(empty).is_empty(), "{empty}");
        }
        assert!(parse_openai_models(br#"{"object":"list","data":null}"#).expect("models").is_empty());
        for bad in [
            "",
            "{}",
            r#"{"error":"no"}"#,
            "Ollama is running",
            "<html>",
            "[1]",
            r#"{"models":[{"model":"a"}"#,
            r#"{"models":"x"}"#,
        ] {
            assert!(parse_tags(bad.as_bytes()).is_err(), "{bad}");
        }
        let escaped = parse_tags(br#"{"models":[{"model":"a\u003ab"}]}"#).expect("tags");
        assert_eq!(escaped[0].name.as_str(), "a:b");
    }

    #[test]
    fn the_lowest_version_is_found_by_number() {
        assert_eq!(parse_version(br#"{"version":"0.33.1"}"#).as_deref(), Some("0.33.1"));
        assert_eq!(parse_version(b"Ollama is running"), None);
        assert_eq!(lowest_version(["0.33.1", "0.9.3", "0.10.0"]), Some("0.9.3"));
        assert_eq!(lowest_version(["0.5.0", "0.5.0-rc10", "0.5.0-rc9"]), Some("0.5.0-rc9"));
        assert_eq!(lowest_version(["0.5.0", "v0.5.1", "0.5.0+build"]), Some("0.5.0"));
        assert_eq!(lowest_version(["0.5.0", "nonsense"]), Some("nonsense"));
        assert_eq!(lowest_version([]), None);
    }
}
