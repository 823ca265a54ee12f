//! Looks at our own process: memory, processor time, file descriptors, disks.
//!
//! All of it comes from files of the system (`/proc`, `/sys/fs/cgroup`); what is not there is not known, which is no
//! fault. A container's limit of memory is that of its control group, the tightest one on the way to the root; without
//! one the whole machine is what may run out.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::clock;
use crate::fleet::process::{Disk, Pressure, Sample};
use crate::fleet::store::Store;
use crate::policy::resources::{Resource, Share};
use crate::telemetry::metrics::Metrics;

mod cgroup;
mod parse;

/// Time between two looks.
const INTERVAL: Duration = Duration::from_secs(5);

/// The folders that the process writes to.
#[derive(Clone, Debug, Default)]
pub struct Folders {
    /// `server.data_dir`, where there is one.
    pub data: Option<PathBuf>,
    /// `server.temp_dir`, or the system's.
    pub temp: PathBuf,
}

/// Processor time that was used until a moment.
#[derive(Clone, Copy, Debug)]
struct Work {
    at: Instant,
    used: Duration,
}

/// Looks again and again, until the process ends.
pub async fn watch(store: Arc<Store>, metrics: Arc<Metrics>, folders: Folders) {
    let mut over: Vec<Resource> = Vec::new();
    let mut before = None;
    loop {
        let folders = folders.clone();
        let seen = tokio::task::spawn_blocking(move || look(&folders, before)).await;
        if let Ok((sample, work)) = seen {
            before = work;
            let thresholds = store.load().thresholds;
            let usage = sample.usage();
            let now_over = thresholds.exceeded(&usage);
            for resource in &now_over {
                if !over.contains(resource) {
                    let percent = usage.percent(*resource).unwrap_or_default().round();
                    let threshold = thresholds.of(*resource);
                    tracing::warn!(resource = resource.as_str(), percent, threshold, "above its threshold");
                }
            }
            for resource in over.iter().filter(|resource| !now_over.contains(resource)) {
                tracing::info!(resource = resource.as_str(), "below its threshold again");
            }
            over = now_over;
            store.process.note(sample, metrics.ended_so_far(), clock::now());
        }
        tokio::time::sleep(INTERVAL).await;
    }
}

/// One look at this process, without its processor time.
#[must_use]
pub fn look_once(folders: &Folders) -> Sample {
    look(folders, None).0
}

fn look(folders: &Folders, before: Option<Work>) -> (Sample, Option<Work>) {
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    let work = processor_time().map(|used| Work { at: clock::now(), used });
    let group = cgroup::memory();
    let memory = group.or_else(|| parse::machine_memory(&text("/proc/meminfo")?));
    let sample = Sample {
        memory,
        limited: group.is_some(),
        resident: text("/proc/self/statm").and_then(|text| parse::resident(&text, rustix::param::page_size() as u64)),
        cpu: before.zip(work).and_then(|(before, after)| share_of_processors(before, after, cpus)),
        cpus,
        files: files(),
        disks: disks(folders),
        pressure: Pressure {
            cpu: pressure("cpu", "some"),
            memory: pressure("memory", "full"),
            io: pressure("io", "full"),
        },
    };
    (sample, work)
}

/// The text of a small file of the system.
fn text(path: impl AsRef<Path>) -> Option<String> {
    std::fs::read_to_string(path).ok()
}

fn processor_time() -> Option<Duration> {
    let used = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Some(Duration::new(used.tv_sec.try_into().ok()?, used.tv_nsec.try_into().ok()?))
}

#[expect(clippy::cast_precision_loss, reason = "fewer processors than that")]
fn share_of_processors(before: Work, after: Work, cpus: usize) -> Option<f64> {
    let over = after.at.saturating_duration_since(before.at).as_secs_f64() * cpus as f64;
    (over > 0.0).then(|| (after.used.saturating_sub(before.used).as_secs_f64() / over).min(1.0))
}

fn files() -> Option<Share> {
    // The folder that is read is one of them.
    let open = std::fs::read_dir("/proc/self/fd").ok()?.count().saturating_sub(1) as u64;
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current?;
    Some(Share { used: open, of: limit })
}

fn disks(folders: &Folders) -> Vec<Disk> {
    let data = folders.data.as_ref().map(|path| ("data_dir", path));
    let all = data.into_iter().chain([("temp_dir", &folders.temp)]);
    all.filter_map(|(what, path)| Some(Disk { what, path: path.clone(), share: disk(path)? })).collect()
}

/// Bytes of the disk that a folder is on.
fn disk(path: &Path) -> Option<Share> {
    let disk = rustix::fs::statvfs(path).ok()?;
    let used = disk.f_blocks.saturating_sub(disk.f_bfree);
    let bytes = |blocks: u64| blocks.saturating_mul(disk.f_frsize);
    Some(Share { used: bytes(used), of: bytes(used.saturating_add(disk.f_bavail)) })
}

fn pressure(of: &str, whom: &str) -> Option<f64> {
    parse::pressure(&text(format!("/proc/pressure/{of}"))?, whom)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_is_seen() {
        let folder = tempfile::tempdir().unwrap();
        let folders = Folders { data: Some(folder.path().to_owned()), temp: std::env::temp_dir() };
        let sample = look_once(&folders);
        let memory = sample.memory.expect("memory");
        assert!(memory.used > 0 && memory.used < memory.of, "{memory:?}");
        assert!(sample.resident.is_some_and(|bytes| bytes > 1 << 20), "{sample:?}");
        let files = sample.files.expect("files");
        assert!(files.used >= 3 && files.used < files.of, "{files:?}");
        let names: Vec<_> = sample.disks.iter().map(|disk| disk.what).collect();
        assert_eq!(names, ["data_dir", "temp_dir"]);
        assert!(sample.disks.iter().all(|disk| disk.share.of > 0), "{:?}", sample.disks);
        let open = std::fs::File::open("/dev/null").unwrap();
        assert!(look_once(&folders).files.is_some_and(|now| now.of == files.of));
        drop(open);
    }

    #[test]
    fn processor_time_is_a_share_of_all_processors() {
        let at = clock::now();
        let before = Work { at, used: Duration::from_secs(10) };
        let after = Work { at: at + Duration::from_secs(5), used: Duration::from_secs(15) };
        assert_eq!(share_of_processors(before, after, 2), Some(0.5));
        assert_eq!(share_of_processors(before, after, 1), Some(1.0));
        assert_eq!(share_of_processors(before, before, 1), None);
    }
}
