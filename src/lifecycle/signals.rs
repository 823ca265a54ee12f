//! What the program does until it is told to end.

use std::process::ExitCode;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

use super::{Drained, Running, start};
use crate::fleet::reload::Source;

/// Runs until a signal ends it: TERM and INT drain, a second one ends at once, HUP reloads.
pub fn run(source: Source, announce: impl FnOnce(&Running)) -> ExitCode {
    let running = match start(source) {
        Ok(running) => running,
        Err(error) => {
            eprintln!("{error}");
            return ExitCode::from(1);
        }
    };
    let (told, mut stops) = mpsc::unbounded_channel();
    let reloader = std::sync::Arc::clone(&running.reloader);
    running.control.spawn(async move {
        let (Ok(mut term), Ok(mut interrupt), Ok(mut hangup)) =
            (signal(SignalKind::terminate()), signal(SignalKind::interrupt()), signal(SignalKind::hangup()))
        else {
            return;
        };
        loop {
            tokio::select! {
                _ = hangup.recv() => {
                    let reloader = std::sync::Arc::clone(&reloader);
                    // The outcome is logged, counted and kept by the reloader.
                    drop(tokio::task::spawn_blocking(move || reloader.reload("SIGHUP")).await);
                }
                // Nobody listens any more only when the process ends.
                _ = term.recv() => drop(told.send(())),
                _ = interrupt.recv() => drop(told.send(())),
            }
        }
    });
    announce(&running);
    if stops.blocking_recv().is_none() {
        eprintln!("cannot listen to signals");
        return ExitCode::from(1);
    }
    tracing::info!("stopping: no new requests, those in flight finish");
    let delay = running.store.load().drain_delay;
    let now = async move {
        stops.recv().await;
    };
    match running.stop_within(delay, now) {
        Drained::All => ExitCode::SUCCESS,
        Drained::CutOff(left) => {
            tracing::warn!(requests = left, "stopped before all requests were finished");
            ExitCode::from(3)
        }
    }
}
