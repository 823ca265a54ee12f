//! Which threads come first when there are fewer cores than work.

/// How much nicer background threads are: with 5, a thread that serves requests gets three times the processor time of
/// one that does not (sched(7): each step is a factor of 1.25), and does not wait for it when it wakes up.
#[cfg(target_os = "linux")]
const NICER: i32 = 5;

/// Has this thread come behind those that serve requests: a scrape, a probe or a write of the history costs no request its
/// time. On Linux alone, where niceness is a thread's; elsewhere it would be that of the whole process.
pub fn come_behind_requests() {
    #[cfg(target_os = "linux")]
    {
        use rustix::process::{getpid, getpriority_process, setpriority_process};
        // Counted from the first thread: one that was started by such a thread has its niceness already.
        let first = getpriority_process(Some(getpid()));
        let set = first.and_then(|first| setpriority_process(None, (first + NICER).min(19)));
        if let Err(error) = set {
            tracing::debug!(%error, "a background thread keeps its priority");
        }
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    #[test]
    fn only_the_thread_that_asks_comes_behind() {
        let niceness = || rustix::process::getpriority_process(None).expect("its niceness");
        let before = niceness();
        let behind = move || {
            super::come_behind_requests();
            niceness()
        };
        let both = std::thread::spawn(move || (behind(), std::thread::spawn(behind).join().expect("it ran")));
        let expected = (before + super::NICER).min(19);
        assert_eq!(
            both.join().expect("it ran"),
            (expected, expected),
            "and no further when it is started by one that does"
        );
        assert_eq!(niceness(), before);
    }
}
