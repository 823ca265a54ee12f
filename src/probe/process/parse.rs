//! Takes texts of the system apart.

use crate::policy::resources::Share;

/// Memory of the machine from `/proc/meminfo`: what cannot be had counts as used.
pub fn machine_memory(text: &str) -> Option<Share> {
    let bytes = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
        line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
    };
    let (all, free) = (bytes("MemTotal")?, bytes("MemAvailable")?);
    Some(Share { used: all.saturating_sub(free), of: all })
}

/// Resident bytes from `/proc/self/statm`.
pub fn resident(text: &str, page: u64) -> Option<u64> {
    text.split_whitespace().nth(1)?.parse::<u64>().ok()?.checked_mul(page)
}

/// Hundredths of the last minute from a file of `/proc/pressure`; `whom` is `some` or `full`.
pub fn pressure(text: &str, whom: &str) -> Option<f64> {
    let line = text.lines().find(|line| line.split_whitespace().next() == Some(whom))?;
    line.split_whitespace().find_map(|word| word.strip_prefix("avg60=")?.parse().ok())
}

/// A number of bytes in a file of a control group; `None` for `max` and for the number that version 1 has in its place.
pub fn limit(text: &str) -> Option<u64> {
    text.trim().parse().ok().filter(|bytes| *bytes < 1 << 60)
}

/// A line `NAME NUMBER` of `memory.stat`.
pub fn stat(text: &str, name: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.trim().parse().ok())
}

/// The way to the control group from `/proc/self/cgroup`: of version 2 where `controller` is empty.
pub fn group<'a>(text: &'a str, controller: &str) -> Option<&'a str> {
    text.lines().find_map(|line| {
        let mut parts = line.splitn(3, ':').skip(1);
        let (controllers, path) = (parts.next()?, parts.next()?);
        controllers.split(',').any(|one| one == controller).then_some(path)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_of_the_system_are_read() {
        let text = "MemTotal:       24683912 kB\nMemFree:  1 kB\nMemAvailable:   24000000 kB\n";
        assert_eq!(machine_memory(text), Some(Share { used: 683_912 * 1024, of: 24_683_912 * 1024 }));
        assert_eq!(machine_memory("MemTotal: 7 kB\n"), None);
        assert_eq!(resident("100 42 7 1 0 9 0\n", 4096), Some(42 * 4096));
        let text =
            "some avg10=98.57 avg60=72.75 avg300=30.10 total=1\nfull avg10=0.00 avg60=0.50 avg300=0.00 total=0\n";
        assert_eq!((pressure(text, "some"), pressure(text, "full")), (Some(72.75), Some(0.5)));
        assert_eq!(pressure("", "some"), None);
    }

    #[test]
    fn control_groups_of_both_versions_are_read() {
        let text = "9:name=systemd:/\n4:memory:/box/1\n3:cpuset,cpu:/\n0::/v2\n";
        assert_eq!((group(text, "memory"), group(text, "")), (Some("/box/1"), Some("/v2")));
        assert_eq!((group(text, "cpu"), group("0::/\n", "memory")), (Some("/"), None));
        assert_eq!(
            (limit("1073741824\n"), limit("max\n"), limit("9223372036854771712\n")),
            (Some(1 << 30), None, None)
        );
        let text = "anon 5\ninactive_file 70\ntotal_inactive_file 80\n";
        assert_eq!((stat(text, "inactive_file"), stat(text, "total_inactive_file")), (Some(70), Some(80)));
        assert_eq!(stat(text, "inactive"), None);
    }
}
