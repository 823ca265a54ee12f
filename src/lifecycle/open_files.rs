//! Open files: as many as the system allows, and a table that has room for them from the start.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Open files that the table has room for from the start, 2¹⁶ at 8 bytes each; with more it grows as it would without this.
const ROOM: u64 = 1 << 16;

/// Raises the limit as far as it may be, since a proxy needs two files for each request, and makes room for them.
///
/// A table that is full grows to twice its size, and in a process with several threads Linux then waits until no processor
/// uses the old one (`expand_files`, `synchronize_rcu`): 10 to 25 ms, in which the thread that accepts connections
/// does nothing, at the 64th open file, the 128th and so on, each time for all requests of that thread.
pub(super) fn prepare() {
    let limit = getrlimit(Resource::Nofile);
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum }) {
        tracing::debug!(%error, "the limit of open files stays as it is");
    }
    let most = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX).min(ROOM);
    let Some(highest) = i32::try_from(most).ok().and_then(|most| most.checked_sub(1)) else { return };
    // The table never becomes smaller, so what made it grow need not stay.
    if let Err(error) = rustix::io::fcntl_dupfd_cloexec(std::io::stderr(), highest) {
        tracing::debug!(%error, "the table of open files grows when it is full");
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    // It changes what holds for the whole process: each test has one of its own (nextest).
    #[test]
    fn the_table_has_room_before_the_first_connection() {
        let size = || {
            let status = std::fs::read_to_string("/proc/self/status").expect("what the system knows of this process");
            let line = status.lines().find_map(|line| line.strip_prefix("FDSize:")).expect("the size of its table");
            line.trim().parse::<u64>().expect("a number")
        };
        let limit = getrlimit(Resource::Nofile);
        setrlimit(Resource::Nofile, Rlimit { current: Some(256), maximum: limit.maximum }).expect("less is allowed");
        let before = size();
        prepare();
        assert!(before <= 256, "{before}");
        assert_eq!(getrlimit(Resource::Nofile).current, limit.maximum);
        assert!(size() >= limit.maximum.unwrap_or(u64::MAX).min(ROOM), "{}", size());
    }
}
