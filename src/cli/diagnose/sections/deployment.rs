//! Whether Arriero runs, with which configuration, and who reaches it.

use super::super::codes;
use super::super::facts::{Facts, OpenAdmin, Running};
use super::super::finding::Finding;
use super::{Lines, count};
use crate::version;

/// Judges it.
pub fn judge(facts: &Facts) -> (Lines, Vec<Finding>) {
    let mut found = Vec::new();
    let mut lines = vec![format!("configuration: {}", facts.file.display())];
    match &facts.running {
        Err(error) => found.push(Finding::new(
            codes::NOT_RUNNING,
            format!("nobody answers at the admin listener `{}`: {error}", facts.admin),
            "start it with `arriero run` (systemd: `systemctl start arriero`, Docker: `docker compose up -d`), or say \
             where it is: `-c FILE` or `--admin HOST:PORT`",
        )),
        Ok(running) => {
            let health = &running.health;
            lines.push(format!(
                "running: version {}, up for {}, health score {} ({})",
                health.version,
                count(health.uptime, "second"),
                health.score,
                health.band
            ));
            process(facts, running, &mut found);
        }
    }
    for (address, error) in &facts.closed_listeners {
        found.push(Finding::new(
            codes::LISTENER_UNREACHABLE,
            format!("the listener `{address}` takes no connections: {error}"),
            "see whether the running process has this file in force, and whether a firewall is in between",
        ));
    }
    found.extend(facts.open_admin.as_ref().map(open));
    (lines, found)
}

fn process(facts: &Facts, running: &Running, found: &mut Vec<Finding>) {
    let health = &running.health;
    if let Some(why) = &running.not_ready {
        found.push(Finding::new(
            codes::NOT_READY,
            format!("the running process is not ready: {why}"),
            "bring a server back: the section `servers` says what is wrong with each; `arriero undrain NAME` ends a drain",
        ));
    }
    let ours = facts.config.good().map(|good| good.snapshot.hash.as_str());
    if !health.config.in_force {
        let error = health.config.error.as_deref().unwrap_or("it did not say why");
        let first = error.lines().next().unwrap_or_default();
        found.push(Finding::new(
            codes::CONFIG_REFUSED,
            format!("the file on disk was refused, the configuration before it is in force: {first}"),
            format!("mend the file (`arriero check -c {}` shows where), then `arriero reload`", facts.file.display()),
        ));
    } else if ours.is_some_and(|ours| ours != health.config.hash) {
        found.push(Finding::new(
            codes::CONFIG_NOT_IN_FORCE,
            format!("the running process does not have `{}` in force, but another text", facts.file.display()),
            "put it in force with `arriero reload`, or name the file that the process runs with: `-c FILE`",
        ));
    }
    // What one of the two does not know says nothing.
    let other_commit = health.revision.as_deref().zip(version::REVISION).is_some_and(|(theirs, ours)| theirs != ours);
    if health.version != version::VERSION || other_commit {
        let theirs = health.revision.as_ref().map(|revision| format!(" ({revision})")).unwrap_or_default();
        found.push(Finding::new(
            codes::VERSION_DIFFERS,
            format!("the running process is version {}{theirs}, this program {}", health.version, version::FULL),
            "`arriero upgrade` puts a new binary in the place of the running one",
        ));
    }
}

fn open(how: &OpenAdmin) -> Finding {
    match how {
        OpenAdmin::NoToken(address) => Finding::new(
            codes::ADMIN_OPEN,
            format!("the admin listener `{address}` can be reached from outside and has no token"),
            "set `admin.address: 127.0.0.1:5100`, or add `admin.token_file`",
        ),
        OpenAdmin::WithToken(address) => Finding::new(
            codes::ADMIN_EXPOSED,
            format!(
                "the admin listener `{address}` can be reached from outside; its token guards changes, reads are open"
            ),
            "let only your own networks reach it, by a firewall or `127.0.0.1:5100`",
        ),
        OpenAdmin::Socket(path) => Finding::new(
            codes::ADMIN_OPEN,
            format!("everybody on this machine may use the admin socket `{}`", path.display()),
            format!("`chmod o-rw {}`, and see who changed it: Arriero makes it for its own user alone", path.display()),
        ),
    }
}
