//! The limit of memory that control groups lay down, and what they count against it.

use std::path::Path;

use super::{parse, text};
use crate::policy::resources::Share;

/// How a version of control groups calls things.
struct Version {
    root: &'static str,
    controller: &'static str,
    limit: &'static str,
    used: &'static str,
    /// The page cache that is given back when memory gets scarce: nobody misses it (as `docker stats` has it).
    cache: &'static str,
}

const VERSIONS: [Version; 2] = [
    Version {
        root: "/sys/fs/cgroup",
        controller: "",
        limit: "memory.max",
        used: "memory.current",
        cache: "inactive_file",
    },
    Version {
        root: "/sys/fs/cgroup/memory",
        controller: "memory",
        limit: "memory.limit_in_bytes",
        used: "memory.usage_in_bytes",
        cache: "total_inactive_file",
    },
];

/// What is used of the tightest limit, where there is one.
pub fn memory() -> Option<Share> {
    let groups = text("/proc/self/cgroup")?;
    VERSIONS.iter().find_map(|version| version.memory(Path::new(version.root), &groups))
}

impl Version {
    fn memory(&self, root: &Path, groups: &str) -> Option<Share> {
        let own = parse::group(groups, self.controller)?.trim_start_matches('/');
        // Inside a container the way may be the one outside of it, and only the root is there.
        let below = root.join(own);
        let folders = below.ancestors().take_while(|folder| folder.starts_with(root));
        folders.filter_map(|folder| self.share(folder)).min_by_key(|share| share.free())
    }

    fn share(&self, folder: &Path) -> Option<Share> {
        let read = |name: &str| text(folder.join(name));
        let limit = parse::limit(&read(self.limit)?)?;
        let used = parse::limit(&read(self.used)?)?;
        let cache = read("memory.stat").and_then(|text| parse::stat(&text, self.cache)).unwrap_or(0);
        Some(Share { used: used.saturating_sub(cache), of: limit })
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn group(folder: &Path, limit: &str, used: &str) {
        fs::create_dir_all(folder).unwrap();
        fs::write(folder.join("memory.max"), limit).unwrap();
        fs::write(folder.join("memory.current"), used).unwrap();
        fs::write(folder.join("memory.stat"), "anon 1\ninactive_file 100\n").unwrap();
    }

    #[test]
    fn the_tightest_group_counts_without_its_cache() {
        let root = tempfile::tempdir().unwrap();
        group(&root.path().join("a"), "10000\n", "9000\n");
        group(&root.path().join("a/b"), "max\n", "700\n");
        group(&root.path().join("a/b/c"), "5000\n", "600\n");
        let [version, _] = &VERSIONS;
        assert_eq!(version.memory(root.path(), "0::/a/b/c\n"), Some(Share { used: 8900, of: 10_000 }));
        fs::write(root.path().join("a/memory.current"), "200\n").unwrap();
        assert_eq!(version.memory(root.path(), "0::/a/b/c\n"), Some(Share { used: 500, of: 5000 }));
        assert_eq!(version.memory(root.path(), "0::/a/b\n"), Some(Share { used: 100, of: 10_000 }));
    }

    #[test]
    fn without_a_limit_there_is_none() {
        let root = tempfile::tempdir().unwrap();
        group(&root.path().join("a"), "max\n", "9000\n");
        let [version, _] = &VERSIONS;
        assert_eq!(version.memory(root.path(), "0::/a\n"), None);
        assert_eq!(version.memory(root.path(), "0::/elsewhere\n"), None);
        assert_eq!(version.memory(root.path(), "4:memory:/a\n"), None);
    }
}
