//! How much memory a card has, by its name.
//!
//! # Problem
//!
//! Some sources name a card and do not say how much memory it has, or how much only without what the driver keeps for
//! itself. Whether a model fits can be told all the same where the name tells the memory.
//!
//! # Rule
//!
//! A size in the name decides (`NVIDIA A100-SXM4-80GB`, `Tesla V100-PCIE-16GB`); else the words of the name do. Of two
//! models that share their words the longer one is looked for first (`RTX A6000` before `A600`, `L40S` before `L4`). Sizes are
//! those of the makers' data sheets (NVIDIA's and AMD's product pages); names are those that NVML, `nvidia-smi`, DCGM and
//! AMD's exporter give, without regard to case and to the words of the maker. A card that came in two sizes and says
//! neither is not known.

/// GiB by the model, as its words are in [`words`].
const KNOWN: &[(&str, u64)] = &[
    // NVIDIA for data centres.
    ("b300", 288),
    ("b200", 180),
    ("gb200", 186),
    ("h200", 141),
    ("h100 nvl", 94),
    ("h100", 80),
    ("h800", 80),
    ("h20", 96),
    ("a800", 80),
    ("a40", 48),
    ("a30", 24),
    ("a16", 16),
    ("a10g", 24),
    ("a10", 24),
    ("a2", 16),
    ("l40s", 48),
    ("l40", 48),
    ("l20", 48),
    ("l4", 24),
    ("l2", 24),
    ("t4", 16),
    ("t4g", 16),
    ("p100", 16),
    ("p40", 24),
    ("p4", 8),
    ("m40", 12),
    ("m60", 8),
    // NVIDIA for workstations.
    ("rtx pro 6000", 96),
    ("rtx pro 5000", 48),
    ("rtx pro 4500", 32),
    ("rtx pro 4000", 24),
    ("rtx 6000", 48),
    ("quadro rtx 8000", 48),
    ("quadro rtx 6000", 24),
    ("quadro rtx 5000", 16),
    ("quadro rtx 4000", 8),
    ("rtx 5000", 32),
    ("rtx 4500", 24),
    ("rtx 4000", 20),
    ("rtx 2000", 16),
    ("rtx a6000", 48),
    ("rtx a5500", 24),
    ("rtx a5000", 24),
    ("rtx a4500", 20),
    ("rtx a4000", 16),
    ("titan rtx", 24),
    ("titan v", 12),
    // NVIDIA for everybody.
    ("rtx 5090", 32),
    ("rtx 5080", 16),
    ("rtx 5070 ti", 16),
    ("rtx 5070", 12),
    ("rtx 4090", 24),
    ("rtx 4080", 16),
    ("rtx 4070", 12),
    ("rtx 4070 ti super", 16),
    ("rtx 4060", 8),
    ("rtx 3090", 24),
    ("rtx 3080 ti", 12),
    ("rtx 3070", 8),
    ("rtx 3060 ti", 8),
    ("rtx 2080 ti", 11),
    ("rtx 2080", 8),
    ("rtx 2070", 8),
    ("gtx 1080 ti", 11),
    ("gtx 1080", 8),
    ("gtx 1070", 8),
    // AMD.
    ("mi355x", 288),
    ("mi350x", 288),
    ("mi325x", 256),
    ("mi300x", 192),
    ("mi300a", 128),
    ("mi250x", 128),
    ("mi250", 128),
    ("mi210", 64),
    ("mi100", 32),
    ("rx 7900 xtx", 24),
    ("rx 7900 xt", 20),
    ("rx 9070", 16),
    ("pro w7900", 48),
    ("pro w7800", 32),
    ("pro w6800", 32),
];

/// Cards that came in several sizes: not known without one in the name.
const SEVERAL: &[&str] = &["a100", "v100", "rtx 4060 ti", "rtx 3080", "rtx 3060", "gh200"];

/// Cards of one model but for a word behind: a laptop's has less memory, under the same name.
const OTHERWISE: &[&str] = &["laptop", "mobile", "max q", "mig"];

/// Bytes of a card's memory by its name, as the maker or the driver spells it; `None` when that does not tell.
#[must_use]
pub fn memory_of(name: &str) -> Option<u64> {
    let words = words(name);
    let has = |model: &str| format!(" {words} ").contains(&format!(" {model} "));
    if OTHERWISE.iter().any(|word| has(word)) {
        return None;
    }
    // The size in the name of a superchip is that of the processor's memory.
    if let Some(gigabytes) = words.split(' ').find_map(size).filter(|_| !has("gh200")) {
        return Some(gigabytes << 30);
    }
    let several = SEVERAL.iter().filter(|model| has(model)).map(|model| (model.len(), None));
    let known = KNOWN.iter().filter(|(model, _)| has(model)).map(|(model, size)| (model.len(), Some(size << 30)));
    several.chain(known).max_by_key(|(length, _)| *length).and_then(|(_, size)| size)
}

/// Lower case, with one space between words.
fn words(name: &str) -> String {
    let plain: String =
        name.chars().map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { ' ' }).collect();
    plain.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// `80gb` is 80, up to a TB.
fn size(word: &str) -> Option<u64> {
    word.strip_suffix("gb").and_then(|digits| digits.parse().ok()).filter(|size| (1..=1024).contains(size))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_drivers_tell_the_memory() {
        for (name, gigabytes) in [
            ("Tesla T4", 16),
            ("NVIDIA RTX A6000", 48),
            ("NVIDIA RTX 6000 Ada Generation", 48),
            ("Quadro RTX 6000", 24),
            ("NVIDIA GeForce RTX 4090", 24),
            ("NVIDIA GeForce RTX 3090 Ti", 24),
            ("NVIDIA GeForce RTX 3080 Ti", 12),
            ("NVIDIA GeForce RTX 4070 Ti SUPER", 16),
            ("NVIDIA A100-SXM4-40GB", 40),
            ("NVIDIA A100 80GB PCIe", 80),
            ("NVIDIA H100 80GB HBM3", 80),
            ("NVIDIA H100 PCIe", 80),
            ("NVIDIA H100 NVL", 94),
            ("NVIDIA H200", 141),
            ("NVIDIA L4", 24),
            ("NVIDIA L40S", 48),
            ("NVIDIA A10", 24),
            ("NVIDIA A10G", 24),
            ("Tesla V100-SXM2-32GB", 32),
            ("Tesla V100-PCIE-16GB", 16),
            ("AMD Instinct MI210", 64),
            ("AMD Instinct MI250X / MI250", 128),
            ("amd_instinct_mi300x", 192),
            ("AMD Radeon RX 7900 XTX", 24),
        ] {
            assert_eq!(memory_of(name), Some(gigabytes << 30), "{name}");
        }
    }

    #[test]
    fn a_name_that_does_not_tell_is_not_known() {
        for name in [
            "",
            "NVIDIA A100-SXM4",
            "Tesla V100",
            "NVIDIA GeForce RTX 3080",
            "NVIDIA GeForce RTX 4090 Laptop GPU",
            "NVIDIA A100-SXM4-80GB MIG 1g.10gb",
            "NVIDIA GH200 480GB",
            "Apple M4 Max",
            "card 99999999999999999999gb",
            "RTX 40900",
            "é",
        ] {
            assert_eq!(memory_of(name), None, "{name}");
        }
    }

    #[test]
    fn each_model_is_written_as_it_is_looked_for_and_stands_once() {
        let mut all: Vec<&str> = KNOWN.iter().map(|(model, _)| *model).chain(SEVERAL.iter().copied()).collect();
        assert!(all.iter().all(|model| *model == words(model)));
        let count = all.len();
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), count);
    }
}
