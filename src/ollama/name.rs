//! One model, one name.
//!
//! Ollama reads `m`, `m:latest`, `library/m`, `registry.ollama.ai/library/m:latest`, any letter case and
//! surrounding spaces as the same model (`types/model/name.go`: `ParseNameBare`, `Merge`, `DisplayShortest`;
//! `server/routes.go`: `getExistingName` compares with `strings.EqualFold`; `internal/modelref/modelref.go`
//! trims, and cuts the source suffixes `:local` and `:cloud`). The canonical form is the shortest one, in lower
//! case, always with its tag: `llama3:latest`, `ns/m:7b`, `host/ns/m:tag`.
//!
//! - `m:local` names the model on disk: it is `m:latest`, and `m:7b:local` is `m:7b`.
//! - `m:20b:cloud` is what Ollama itself stores as `m:20b-cloud`; `m:cloud` stays. Both are [`ModelName::is_cloud`].
//! - `http://host/ns/m` loses its scheme; what is left shows its host ([`ModelName::host`]), for policy to refuse:
//!   [`is_cloud`].
//!
//! llama.cpp and vLLM have ids (`org/Model-Name`) that are case-sensitive and have no tag on the wire. They go
//! through the same function on both sides (their list and the request), so they still meet under one key; what
//! goes on the wire is never this form but what the client wrote.
//!
//! Nothing here decides that a name is *valid* for Ollama: an odd name stays odd, and the server refuses it.
//! `canonical` is idempotent for every input.

use std::borrow::{Borrow, Cow};
use std::fmt;
use std::sync::Arc;

/// Ollama's default registry host (`types/model/name.go`, `defaultHost`).
const DEFAULT_HOST: &str = "registry.ollama.ai";
/// Ollama's default namespace.
const DEFAULT_NAMESPACE: &str = "library";
/// Ollama's default tag.
const DEFAULT_TAG: &str = "latest";

/// The longest name taken, in bytes. Ollama's own limit is 350 for the host and 80 for each other part.
pub const MAX_NAME_BYTES: usize = 512;

/// A model's canonical name. Cheap to clone; hashes and compares as its text, so that a map keyed by it can be
/// asked with a `&str` from [`canonical`].
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ModelName(Arc<str>);

impl ModelName {
    /// The canonical form of what a client, a server or the config wrote.
    ///
    /// `None` for an empty name, one without a model part (`:7b`), one with a control character (CR and LF too,
    /// even at the ends, where Ollama would trim them) or one longer than [`MAX_NAME_BYTES`].
    pub fn parse(written: &str) -> Option<ModelName> {
        let name = parse_canonical(written)?;
        Some(ModelName(Arc::from(name.as_ref())))
    }

    /// The canonical text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The tag: `latest` of `llama3:latest`.
    pub fn tag(&self) -> &str {
        self.0.rsplit_once(':').map_or(DEFAULT_TAG, |(_, tag)| tag)
    }

    /// The registry host, where it is not Ollama's own: `hf.co` of `hf.co/ns/m:latest`.
    pub fn host(&self) -> Option<&str> {
        let (rest, _) = self.0.rsplit_once('/')?;
        let (host, _) = rest.rsplit_once('/')?;
        Some(host)
    }

    /// Whether a server would send this model's prompts to ollama.com: the tag is `cloud` or ends in `-cloud`
    /// (`internal/modelref/modelref.go`, `parseSourceSuffix`).
    pub fn is_cloud(&self) -> bool {
        has_cloud_tag(&self.0)
    }
}

/// Whether a request for this model may leave the building: its tag says cloud, or it names a registry's host
/// (`host/ns/m`, `http://…`), to which a server could be made to connect. To be denied unless the route says
/// `cloud_models: allow`; for any text, also one that is no name.
///
/// A model that was pulled from a host (`hf.co/ns/m`) runs on the server that has it, and only there; whoever knows
/// the inventory can tell it apart by [`names_host`] and let it pass.
pub fn is_cloud(written: &str) -> bool {
    has_cloud_tag(&canonical(written)) || names_host(written)
}

/// Whether a model's name holds the host of a registry that is not Ollama's own.
pub fn names_host(written: &str) -> bool {
    let name = canonical(written);
    let path = name.rsplit_once('/').map_or("", |(path, _)| path);
    let host = path.rsplit_once('/').map_or("", |(host, _)| host);
    // `/models/m.gguf` is a file of llama.cpp's, not a host.
    !host.is_empty() || name.contains("://")
}

/// Whether the tag of a canonical name is `cloud` or ends in `-cloud`.
pub fn has_cloud_tag(canonical: &str) -> bool {
    let tag = canonical.rsplit_once(':').map_or(DEFAULT_TAG, |(_, tag)| tag);
    tag == "cloud" || tag.ends_with("-cloud")
}

impl Borrow<str> for ModelName {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl AsRef<str> for ModelName {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ModelName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl fmt::Debug for ModelName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, formatter)
    }
}

impl serde::Serialize for ModelName {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

/// The canonical form, with the checks of [`ModelName::parse`], without allocating where the name already is
/// canonical: for a look-up in a map keyed by [`ModelName`].
pub fn parse_canonical(written: &str) -> Option<Cow<'_, str>> {
    let trimmed = written.trim();
    if trimmed.is_empty() || trimmed.len() > MAX_NAME_BYTES {
        return None;
    }
    let name = if is_canonical(written) {
        Cow::Borrowed(written)
    } else if written.chars().any(char::is_control) {
        return None;
    } else {
        canonical(trimmed)
    };
    let last_segment = name.rfind('/').map_or(0, |slash| slash + 1);
    match name.as_bytes().get(last_segment) {
        None | Some(b':') => None,
        Some(_) => Some(name),
    }
}

/// The canonical form of any text; borrowed where it is canonical already, which is the usual case.
pub fn canonical(written: &str) -> Cow<'_, str> {
    if is_canonical(written) {
        return Cow::Borrowed(written);
    }
    let mut name = String::with_capacity(written.len() + 1 + DEFAULT_TAG.len());
    write_canonical(written, &mut name);
    Cow::Owned(name)
}

/// Appends the canonical form of `written` to `out`.
pub fn write_canonical(written: &str, out: &mut String) {
    let start = out.len();
    let (mut path, tag) = split_tag(written.trim());
    loop {
        let shorter = shorten_path(path).trim();
        if shorter.len() == path.len() {
            break;
        }
        path = shorter;
    }
    out.push_str(path);
    match tag {
        Tag::Absent => {
            out.push(':');
            out.push_str(DEFAULT_TAG);
        }
        Tag::Plain(tag) => {
            out.push(':');
            out.push_str(tag);
        }
        Tag::Cloud(tag) => {
            out.push(':');
            out.push_str(tag);
            out.push_str("-cloud");
        }
    }
    out[start..].make_ascii_lowercase();
}

/// A cheap, conservative test: a `false` only means that the long way must be taken.
fn is_canonical(name: &str) -> bool {
    let mut slashes = 0u32;
    let mut colons_in_last_segment = 0u32;
    let mut tag_start = 0usize;
    for (index, byte) in name.bytes().enumerate() {
        match byte {
            b'/' => {
                slashes += 1;
                colons_in_last_segment = 0;
            }
            b':' => {
                colons_in_last_segment += 1;
                tag_start = index + 1;
            }
            b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' => {}
            _ => return false,
        }
    }
    if colons_in_last_segment != 1 || slashes > 1 || tag_start >= name.len() {
        return false;
    }
    &name[tag_start..] != "local" && !(slashes == 1 && name.starts_with("library/"))
}

/// What stands behind the last colon of the last segment.
enum Tag<'a> {
    Absent,
    Plain(&'a str),
    /// The text in front of a separate `:cloud`, to be written as `TEXT-cloud`.
    Cloud(&'a str),
}

/// Cuts the tag off. A slash is illegal in a tag, so a colon left of the last slash is a host's port.
fn split_tag(name: &str) -> (&str, Tag<'_>) {
    let mut rest = name;
    loop {
        let Some((before, tag)) = cut_tag(rest) else {
            return (rest, Tag::Absent);
        };
        if tag.is_empty() {
            return (before, Tag::Absent);
        }
        if tag.eq_ignore_ascii_case("local") {
            rest = before;
            continue;
        }
        if tag.eq_ignore_ascii_case("cloud") {
            let mut model = before;
            while let Some((front, inner)) = cut_tag(model) {
                if !inner.is_empty() && !inner.eq_ignore_ascii_case("local") {
                    return (front, Tag::Cloud(inner));
                }
                model = front;
            }
            return (model, Tag::Plain(tag));
        }
        return (before, Tag::Plain(tag));
    }
}

/// The text before and after the last colon, if it stands right of the last slash; the tag is trimmed, because
/// Ollama trims it before it looks for `cloud`.
fn cut_tag(name: &str) -> Option<(&str, &str)> {
    let colon = name.rfind(':')?;
    let tag = &name[colon + 1..];
    (!tag.contains('/')).then(|| (&name[..colon], tag.trim()))
}

/// Takes the default host and namespace, and a scheme, off `host/namespace/model`.
fn shorten_path(path: &str) -> &str {
    let Some((front, model)) = path.rsplit_once('/') else {
        return path;
    };
    let (host, namespace) = match front.rsplit_once('/') {
        None => (None, front),
        Some((host, namespace)) => (Some(host), namespace),
    };
    if namespace.is_empty() || model.is_empty() {
        return path;
    }
    let host = match host {
        None => "",
        Some(host) => match host.rfind("://") {
            None if host.is_empty() => return path,
            None => host,
            Some(scheme_end) => &host[scheme_end + 3..],
        },
    };
    if host.is_empty() || host.eq_ignore_ascii_case(DEFAULT_HOST) {
        if namespace.eq_ignore_ascii_case(DEFAULT_NAMESPACE) {
            model
        } else {
            &path[path.len() - model.len() - 1 - namespace.len()..]
        }
    } else {
        &path[path.len() - model.len() - 1 - namespace.len() - 1 - host.len()..]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashMap;

    fn name(written: &str) -> String {
        ModelName::parse(written).map_or_else(|| "(refused)".to_owned(), |name| name.to_string())
    }

    #[test]
    fn every_alias_of_a_library_model_is_one_name() {
        for alias in [
            "llama3",
            "llama3:latest",
            "LLaMA3",
            "llama3:LATEST",
            "  llama3 ",
            "library/llama3",
            "Library/llama3:latest",
            "registry.ollama.ai/library/llama3",
            "REGISTRY.ollama.ai/library/llama3:latest",
            "https://registry.ollama.ai/library/llama3",
            "http:///library/llama3",
            "llama3:local",
            "llama3:latest:local",
            "llama3: local",
            "llama3:",
        ] {
            assert_eq!(name(alias), "llama3:latest", "{alias:?}");
        }
    }

    #[test]
    fn namespaces_hosts_ports_and_tags_are_kept() {
        for (written, expected) in [
            ("ns/M:7B", "ns/m:7b"),
            ("registry.ollama.ai/ns/m", "ns/m:latest"),
            ("hf.co/bartowski/Llama-3.2-3B-GGUF:Q4_K_M", "hf.co/bartowski/llama-3.2-3b-gguf:q4_k_m"),
            ("localhost:5000/ns/m", "localhost:5000/ns/m:latest"),
            ("http://169.254.169.254/x/y", "169.254.169.254/x/y:latest"),
            ("host/library/m", "host/library/m:latest"),
            ("registry.ollama.ai/m", "registry.ollama.ai/m:latest"),
            ("Qwen/Qwen2.5-7B-Instruct", "qwen/qwen2.5-7b-instruct:latest"),
            ("/models/tiny.gguf", "/models/tiny.gguf:latest"),
        ] {
            assert_eq!(name(written), expected, "{written:?}");
        }
    }

    #[test]
    fn names_that_cannot_be_a_key_are_refused() {
        let long = "m".repeat(MAX_NAME_BYTES + 1);
        for bad in ["", "   ", ":7b", "ns/", "ns/:7b", ":local", "m\r\n", "m\nX-Header: 1", "m\0", "\u{7f}", &long] {
            assert_eq!(name(bad), "(refused)", "{bad:?}");
        }
    }

    #[test]
    fn cloud_models_are_recognised_however_they_are_written() {
        for (written, canonical, cloud) in [
            ("gpt-oss:cloud", "gpt-oss:cloud", true),
            ("gpt-oss:120b-cloud", "gpt-oss:120b-cloud", true),
            ("gpt-oss:120b:cloud", "gpt-oss:120b-cloud", true),
            ("gpt-oss:120b: CLOUD", "gpt-oss:120b-cloud", true),
            ("gpt-oss::cloud", "gpt-oss:cloud", true),
            ("gpt-oss:::cloud", "gpt-oss:cloud", true),
            ("gpt-oss:local:cloud", "gpt-oss:cloud", true),
            ("my-cloud", "my-cloud:latest", false),
            ("cloud", "cloud:latest", false),
        ] {
            let parsed = ModelName::parse(written).expect(written);
            assert_eq!((parsed.as_str(), parsed.is_cloud()), (canonical, cloud), "{written:?}");
        }
    }

    #[test]
    fn what_may_leave_the_building_is_told_from_what_does_not() {
        for away in [
            "x:cloud",
            "X:CLOUD",
            " x:cloud ",
            "x: cloud",
            "x:120b-cloud",
            "x:120B-Cloud",
            "x:120b:cloud",
            "x:latest-cloud",
            "library/x:cloud",
            "registry.ollama.ai/library/x:120b-cloud",
            "https://registry.ollama.ai/library/x:cloud",
            "ns/x:cloud",
            "x:cloud:local",
            "x:local:cloud",
            "host/ns/a",
            "HOST/ns/a:7b",
            "host:5000/ns/a",
            "hf.co/ns/a:q4",
            "http://169.254.169.254/x/y",
            "https://host/ns/a",
            "http://host",
            "http://host/a",
            "a/b/c/d",
        ] {
            assert!(is_cloud(away), "{away}");
        }
        for here in [
            "a",
            "a:latest",
            "library/a",
            "registry.ollama.ai/library/a:latest",
            "A",
            "a:local",
            "ns/a:7b",
            "cloud",
            "my-cloud",
            "cloud/a",
            "a:cloudy",
            "a:nocloud",
            "registry.ollama.ai/ns/a",
            "https://registry.ollama.ai/ns/a",
            "/models/a.gguf",
            "",
        ] {
            assert!(!is_cloud(here), "{here}");
        }
        assert!(names_host("hf.co/ns/a") && !names_host("x:cloud") && names_host("hf.co/ns/a:cloud"));
    }

    #[test]
    fn a_foreign_host_is_shown() {
        let host = |written| ModelName::parse(written).and_then(|name| name.host().map(str::to_owned));
        assert_eq!(host("hf.co/ns/m:7b").as_deref(), Some("hf.co"));
        assert_eq!(host("http://169.254.169.254/x/y").as_deref(), Some("169.254.169.254"));
        assert_eq!(host("ns/m"), None);
        assert_eq!(host("m"), None);
    }

    #[test]
    fn a_canonical_name_is_borrowed_and_finds_its_key() {
        let mut map = HashMap::new();
        map.extend(ModelName::parse("LLaVA:13B").map(|key| (key, 1)));
        let wanted = parse_canonical("llava:13b").expect("a name");
        assert!(matches!(wanted, Cow::Borrowed(_)));
        assert_eq!(map.get(wanted.as_ref()), Some(&1));
        assert!(matches!(canonical("ns/m:7b"), Cow::Borrowed(_)));
        assert!(matches!(canonical("library/m:7b"), Cow::Owned(_)));
    }

    proptest! {
        #[test]
        fn canonical_is_idempotent(written in "([a-cA-C:/. ]|library|registry\\.ollama\\.ai|://|cloud|local|latest){0,9}") {
            let once = canonical(&written).into_owned();
            let twice = canonical(&once).into_owned();
            prop_assert_eq!(twice, once);
        }

        #[test]
        fn no_text_makes_it_panic(written in "\\PC{0,40}") {
            if let Some(name) = ModelName::parse(&written) {
                prop_assert_eq!(ModelName::parse(name.as_str()), Some(name.clone()));
                prop_assert!(!name.tag().is_empty());
            }
        }

        #[test]
        fn the_quick_test_agrees_with_the_long_way(written in "([a-c0-9._-]|library|local|latest|:|/){0,7}") {
            if is_canonical(&written) {
                let mut long = String::new();
                write_canonical(&written, &mut long);
                prop_assert_eq!(long, written);
            }
        }
    }
}
