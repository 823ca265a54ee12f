//! Memory, processors, disks, file descriptors.

use std::collections::BTreeMap;

use super::super::codes;
use super::super::facts::{Facts, SeenDisk, SeenProcess, SeenShare};
use super::super::finding::{Code, Finding};
use super::{Lines, bytes};
use crate::config::types::{ListenerLimits, Thresholds};
use crate::policy::descriptors::BUSY;
use crate::policy::resources::{Resource, Share};

/// Hundredths of the last minute from which on waiting is told.
const PRESSURE: f64 = 40.0;
/// The same for memory, where every wait of all tasks is one too many.
const MEMORY_PRESSURE: f64 = 10.0;
/// File descriptors below which a proxy is certainly short of them.
const FEW_FILES: u64 = 4096;

/// Judges them.
pub fn judge(facts: &Facts) -> (Lines, Vec<Finding>) {
    let seen = match &facts.running {
        Ok(running) => running.health.process.clone(),
        // The machine is the same, whoever looks at it; what belongs to a process is not known.
        Err(_) => of_machine(facts),
    };
    let mut lines = Vec::new();
    let mut found = Vec::new();
    memory(&seen, &mut lines, &mut found);
    if let Some(percent) = seen.cpu_percent {
        lines.push(format!("processor time: {percent:.0} % of what this process may use"));
        if is_over(&seen, Resource::Cpu, percent) {
            found.push(Finding::new(
                codes::CPU_HIGH,
                format!("Arriero uses {percent:.0} % of the processor time that it may use"),
                "give it more processors (`cpus` in Compose, `CPUQuota` of systemd) or more instances",
            ));
        }
    }
    seen.disks.iter().for_each(|one| disk(&seen, one, facts, &mut lines, &mut found));
    for (key, path, why) in &facts.bad_folders {
        found.push(Finding::new(
            codes::FOLDER_MISSING,
            format!("`{key}` `{}` cannot be used: {why}", path.display()),
            format!("make the folder and give it to Arriero's user, or set `{key}` to another one"),
        ));
    }
    if let Some(share) = seen.files {
        lines.push(format!("file descriptors: {} of {}", share.used, share.limit));
        files(&seen, share, facts, &mut found);
    }
    pressure(facts, &mut found);
    (lines, found)
}

fn of_machine(facts: &Facts) -> SeenProcess {
    let seen = |share: Share| SeenShare { used: share.used, limit: share.of, percent: share.percent() };
    let config = facts.config.good().map(|good| good.config.server.thresholds.clone());
    let Thresholds { memory, disk, cpu, files } = config.unwrap_or_default();
    let thresholds =
        [(Resource::Memory, memory), (Resource::Disk, disk), (Resource::Cpu, cpu), (Resource::Files, files)];
    let disk = |disk: &crate::fleet::process::Disk| SeenDisk {
        folder: disk.what.to_owned(),
        path: disk.path.display().to_string(),
        share: seen(disk.share),
    };
    SeenProcess {
        memory: facts.machine.memory.map(seen),
        limited: facts.machine.limited,
        disks: facts.machine.disks.iter().map(disk).collect(),
        thresholds: thresholds.into_iter().map(|(of, share)| (of.as_str().to_owned(), share.hundredths())).collect(),
        ..SeenProcess::default()
    }
}

fn threshold(thresholds: &BTreeMap<String, u8>, of: Resource) -> u8 {
    thresholds.get(of.as_str()).copied().unwrap_or(100)
}

fn is_over(seen: &SeenProcess, of: Resource, percent: f64) -> bool {
    percent > f64::from(threshold(&seen.thresholds, of))
}

fn memory(seen: &SeenProcess, lines: &mut Lines, found: &mut Vec<Finding>) {
    let Some(share) = seen.memory else { return };
    let whose = if seen.limited { "the container" } else { "the machine" };
    lines.push(format!("memory of {whose}: {} of {} ({:.0} %)", bytes(share.used), bytes(share.limit), share.percent));
    if is_over(seen, Resource::Memory, share.percent) {
        let threshold = threshold(&seen.thresholds, Resource::Memory);
        found.push(Finding::new(
            codes::MEMORY_HIGH,
            format!(
                "{:.0} % of the memory of {whose} is used, more than `server.thresholds.memory` ({threshold} %)",
                share.percent
            ),
            "give it more memory, lower `server.body_budget`, or see what else runs there",
        ));
    }
}

fn disk(seen: &SeenProcess, one: &SeenDisk, facts: &Facts, lines: &mut Lines, found: &mut Vec<Finding>) {
    let SeenDisk { folder, path, share } = one;
    let free = share.limit.saturating_sub(share.used);
    lines.push(format!("disk of {folder} ({path}): {:.0} % used, {} free", share.percent, bytes(free)));
    if is_over(seen, Resource::Disk, share.percent) {
        let threshold = threshold(&seen.thresholds, Resource::Disk);
        found.push(Finding::new(
            codes::DISK_FULL,
            format!(
                "the disk of `server.{folder}` ({path}) is filled to {:.0} %, more than `server.thresholds.disk` ({threshold} %)",
                share.percent
            ),
            format!("free some space (`du -xsh {path}/*`), or move `server.{folder}` to another disk"),
        ));
    }
    let budget = facts.config.good().map_or(0, |good| good.config.server.body_budget.0);
    if folder == "temp_dir" && free < budget {
        found.push(Finding::new(
            codes::TEMP_DIR_SMALL,
            format!(
                "`{path}` has {} free, but bodies up to `server.body_budget` ({}) may be held there",
                bytes(free),
                bytes(budget)
            ),
            "lower `server.body_budget`, or set `server.temp_dir` to a larger disk",
        ));
    }
}

fn files(seen: &SeenProcess, share: SeenShare, facts: &Facts, found: &mut Vec<Finding>) {
    if is_over(seen, Resource::Files, share.percent) {
        found.push(Finding::new(
            codes::FILES_HIGH,
            format!("{} of {} file descriptors are used", share.used, share.limit),
            "raise the limit: `LimitNOFILE=1048576` in systemd, `ulimits: { nofile: 1048576 }` in Compose",
        ));
    }
    let Some(good) = facts.config.good() else { return };
    let wanted: Vec<u64> = good.config.listeners.iter().map(|one| u64::from(one.limits.connections)).collect();
    let all: u64 = wanted.iter().sum();
    let needed = all.saturating_mul(BUSY).saturating_add(u64::from(good.config.server.reserved_files));
    if share.limit >= needed {
        return;
    }
    let room = share.limit.saturating_sub(u64::from(good.config.server.reserved_files)) / BUSY;
    let finding = Finding::new(
        codes::FILE_LIMIT_LOW,
        format!(
            "with {} file descriptors about {room} connections are served at a time, fewer than the {all} of \
             `listeners[].limits.connections`",
            share.limit
        ),
        format!(
            "`LimitNOFILE={needed}` in systemd or `ulimits: {{ nofile: {needed} }}` in Compose, or lower `limits.connections`"
        ),
    );
    // Who never thought about the number of connections is told, and not alarmed.
    let usual = u64::from(ListenerLimits::default().connections);
    let is_meant = wanted.iter().any(|one| *one != usual);
    found.push(if is_meant || share.limit < FEW_FILES { finding } else { finding.noted() });
}

fn pressure(facts: &Facts, found: &mut Vec<Finding>) {
    let pressure = &facts.machine.pressure;
    let told: [(Code, Option<f64>, f64, &str, &str); 3] = [
        (
            codes::MEMORY_PRESSURE,
            pressure.memory,
            MEMORY_PRESSURE,
            "all processes of this machine waited for memory",
            "add memory, or move something to another machine",
        ),
        (
            codes::CPU_PRESSURE,
            pressure.cpu,
            PRESSURE,
            "processes of this machine waited for a processor",
            "see `top`: what else runs here takes time from Arriero",
        ),
        (
            codes::DISK_PRESSURE,
            pressure.io,
            PRESSURE,
            "all processes of this machine waited for a disk",
            "see `iotop`: models that are loaded or pulled keep disks busy",
        ),
    ];
    for (code, share, most, what, fix) in told {
        if let Some(share) = share.filter(|share| *share > most) {
            found.push(Finding::new(code, format!("{what} for {share:.0} % of the last minute"), fix));
        }
    }
}
