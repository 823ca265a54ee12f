//! What the program does until it is told to end.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, oneshot};

use super::handover::{Predecessor, receive};
use super::{ADMIN_ADDRESS, Drained, Running, StartError, activation, start_with};
use crate::admin::{LIMIT, Order};
use crate::fleet::reload::{Reloader, Source};
use crate::telemetry::service_manager::ServiceManager;

/// Why the program ends.
enum End {
    /// A signal says so.
    Stopped,
    /// Another process has taken over.
    Replaced,
}

/// Runs until a signal or another process ends it: TERM and INT drain, a second one ends at once, HUP reloads, USR2
/// lets a new process of the program take over.
pub fn run(source: Source, announce: impl FnOnce(&Running)) -> ExitCode {
    let is_file = matches!(source, Source::File(_));
    let started = receive().map_err(|error| format!("cannot take over from the process before: {error}"));
    let started = started.and_then(|mut inherited| {
        let predecessor = inherited.predecessor.take();
        let added = activation::add(&mut inherited, &|name| std::env::var(name).ok());
        added.map_err(|error| format!("cannot take the sockets of the service manager: {error}"))?;
        start_with(source, inherited).map(|running| (running, predecessor)).map_err(|error| match &error {
            // There is no key to change.
            StartError::Bind(bind) if !is_file => {
                let option = if bind.what == ADMIN_ADDRESS { "--admin" } else { "--listen" };
                format!("{error}\nhint: `{option} 127.0.0.1:0` takes a free port")
            }
            _ => error.to_string(),
        })
    });
    let (mut running, predecessor) = match started {
        Ok(started) => started,
        Err(error) => {
            eprintln!("{error}");
            return ExitCode::from(1);
        }
    };
    let (told, mut ends) = mpsc::unbounded_channel();
    if let Err(error) = listen(&mut running, &told) {
        eprintln!("cannot listen to signals: {error}");
        return ExitCode::from(1);
    }
    if let Some(error) = predecessor.as_ref().and_then(|before| before.take_standard_error().err()) {
        tracing::warn!(%error, "messages of this process are lost");
    }
    announce(&running);
    running.manager.ready();
    release(predecessor);
    let end = ends.blocking_recv().unwrap_or(End::Stopped);
    let now = async move {
        // The end that is not the first one: there is nothing more to wait for.
        ends.recv().await;
    };
    match finish(running, end, now) {
        Drained::All => ExitCode::SUCCESS,
        Drained::CutOff(left) => {
            tracing::warn!(requests = left, "stopped before all requests were finished");
            ExitCode::from(3)
        }
    }
}

fn release(predecessor: Option<Predecessor>) {
    if let Some(error) = predecessor.and_then(|before| before.release().err()) {
        // It has ended by itself, so we are needed all the more.
        tracing::warn!(%error, "the process before could not be told that this one serves");
    }
}

fn finish(running: Running, end: End, now: impl Future<Output = ()>) -> Drained {
    let delay = match end {
        End::Stopped => {
            running.manager.stopping();
            tracing::info!("stopping: no new requests, those in flight finish");
            running.store.load().drain_delay
        }
        End::Replaced => {
            tracing::info!("another process takes new requests, those in flight finish");
            running.admin_closing.send_replace(true);
            Duration::ZERO
        }
    };
    running.stop_within(delay, now)
}

/// Begins to listen to signals and to orders for an upgrade.
fn listen(running: &mut Running, told: &mpsc::UnboundedSender<End>) -> std::io::Result<()> {
    let _runtime = running.control.enter();
    let kinds = [SignalKind::terminate(), SignalKind::interrupt(), SignalKind::hangup(), SignalKind::user_defined2()];
    let [term, interrupt, hangup, user] = kinds.map(signal);
    for mut stop in [term?, interrupt?] {
        let told = told.clone();
        running.control.spawn(async move { while stop.recv().await.is_some() && told.send(End::Stopped).is_ok() {} });
    }
    running.control.spawn(reload_when_told(hangup?, Arc::clone(&running.reloader), Arc::clone(&running.manager)));
    running.control.spawn(upgrade_when_told(user?, running.order.clone()));
    if let Some((upgrades, orders)) = running.upgrades.take() {
        let (told, control) = (told.clone(), running.control.handle().clone());
        // A process has the niceness of the thread that starts it, so that is not one of those that come behind requests.
        std::thread::Builder::new().name("upgrade".to_owned()).spawn(move || {
            if control.block_on(upgrades.serve(orders)) {
                // Nobody listens any more only when the process ends.
                drop(told.send(End::Replaced));
            }
        })?;
    }
    Ok(())
}

async fn reload_when_told(mut hangup: Signal, reloader: Arc<Reloader>, manager: Arc<ServiceManager>) {
    while hangup.recv().await.is_some() {
        let reloader = Arc::clone(&reloader);
        // Who sends the signal for systemd waits for both messages, also when nothing has changed.
        manager.reloading();
        // The outcome is logged, counted and kept by the reloader.
        drop(tokio::task::spawn_blocking(move || reloader.reload("SIGHUP")).await);
        manager.ready();
    }
}

async fn upgrade_when_told(mut user: Signal, order: mpsc::Sender<Order>) {
    while user.recv().await.is_some() {
        // Nobody waits for the answer; the outcome is logged.
        let (answer, _) = oneshot::channel();
        if order.try_send(Order { binary: None, limit: LIMIT, answer }).is_err() {
            tracing::warn!("another upgrade is under way");
        }
    }
}
