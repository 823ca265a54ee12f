//! The models of a simulated host, and how Ollama compares their names.

use std::fmt::Write as _;

use sha2::{Digest, Sha256};

/// One gigabyte as model sizes are advertised.
pub(super) const GB: u64 = 1_000_000_000;

/// A model on a simulated host's disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DemoModel {
    /// The name as `/api/tags` shows it, with its tag: `llava:13b`.
    pub name: String,
    /// Bytes on disk, and in video memory once loaded.
    pub size: u64,
    /// Hex SHA-256, derived from the canonical name: the same model has the same digest everywhere.
    pub digest: String,
    /// Ollama's `details.family`.
    pub family: String,
    /// Ollama's `details.parameter_size`.
    pub parameter_size: String,
    /// Ollama's `details.quantization_level`.
    pub quantization_level: String,
    /// Ollama's `capabilities`, as `/api/show` lists them.
    pub capabilities: Vec<String>,
}

impl DemoModel {
    /// A model of the given name and size; the rest is plausible and follows from the name.
    #[must_use]
    pub fn new(name: &str, size: u64) -> Self {
        let name = if has_tag(name) { name.to_owned() } else { format!("{name}:latest") };
        let (base, tag) = name.rsplit_once(':').unwrap_or((name.as_str(), "latest"));
        let parameter_size = if tag == "latest" { "7B".to_owned() } else { tag.to_uppercase() };
        let capabilities: &[&str] = if base.contains("embed") {
            &["embedding"]
        } else if base.contains("llava") || base.contains("vl") {
            &["completion", "vision"]
        } else {
            &["completion", "tools"]
        };
        Self {
            digest: hex(&Sha256::digest(canonical_name(&name))),
            family: family(base).to_owned(),
            parameter_size,
            quantization_level: "Q4_0".to_owned(),
            capabilities: capabilities.iter().map(|&word| word.to_owned()).collect(),
            size,
            name,
        }
    }

    /// `llama3.2:3b`, 2.0 GB.
    #[must_use]
    pub fn llama3_2_3b() -> Self {
        Self::new("llama3.2:3b", 2 * GB)
    }

    /// `nomic-embed-text:latest`, 0.3 GB, embeddings only.
    #[must_use]
    pub fn nomic_embed_text() -> Self {
        Self::new("nomic-embed-text:latest", 274_302_450)
    }

    /// `llava:13b`, 8 GB, vision.
    #[must_use]
    pub fn llava_13b() -> Self {
        Self::new("llava:13b", 8 * GB)
    }

    /// `qwen2.5-coder:7b`, 4.7 GB.
    #[must_use]
    pub fn qwen_coder_7b() -> Self {
        Self::new("qwen2.5-coder:7b", 4_700_000_000)
    }

    /// `llama3.3:70b`, 43 GB.
    #[must_use]
    pub fn llama3_3_70b() -> Self {
        Self::new("llama3.3:70b", 43 * GB)
    }

    /// `mistral:7b`, 4.1 GB.
    #[must_use]
    pub fn mistral_7b() -> Self {
        Self::new("mistral:7b", 4_100_000_000)
    }

    /// Whether a client's spelling of a name means this model.
    #[must_use]
    pub fn is_called(&self, name: &str) -> bool {
        canonical_name(&self.name) == canonical_name(name)
    }
}

/// The one spelling behind all that mean the same model: `LLaVA` = `library/llava:latest`.
#[must_use]
pub fn canonical_name(name: &str) -> String {
    let lower = name.trim().to_lowercase();
    let short = lower.strip_prefix("registry.ollama.ai/").unwrap_or(&lower);
    let short = short.strip_prefix("library/").unwrap_or(short);
    if has_tag(short) { short.to_owned() } else { format!("{short}:latest") }
}

fn has_tag(name: &str) -> bool {
    name.rsplit('/').next().unwrap_or(name).contains(':')
}

fn family(base: &str) -> &'static str {
    match base {
        _ if base.contains("embed") => "nomic-bert",
        _ if base.starts_with("qwen") => "qwen2",
        _ => "llama",
    }
}

/// Lower-case hexadecimal.
pub(super) fn hex(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spellings_of_one_model_are_equal() {
        for name in ["llava", "LLaVA:latest", "library/llava", "registry.ollama.ai/library/llava:Latest"] {
            assert_eq!(canonical_name(name), "llava:latest", "{name}");
        }
        assert_eq!(canonical_name("localhost:5000/me/llava"), "localhost:5000/me/llava:latest");
        assert!(DemoModel::llava_13b().is_called("LLAVA:13B"));
        assert!(!DemoModel::llava_13b().is_called("llava"));
    }

    #[test]
    fn a_digest_is_sixty_four_hex_digits_and_stable() {
        let model = DemoModel::new("mistral", 1);
        assert_eq!(model.name, "mistral:latest");
        assert_eq!(model.digest.len(), 64);
        assert_eq!(model.digest, DemoModel::new("Mistral:latest", 2).digest);
    }
}
