//! Doing what may make a server well again, and seeing whether it did.
//!
//! Each server has its own task for it, beside its checks: an action that hangs holds up nothing, neither the checks of its
//! server nor those of another one. When it is due is decided by [`crate::policy::recovery_action`].
//!
//! # When it is not run although it is due
//!
//! - An operator took the server out: whoever works on a host does not want it restarted under their hands.
//! - The process stops: nobody would see what comes of it.
//! - Another server of the upstream has its turn. One action at a time in an upstream, from its begin until it is
//!   verified or has failed: an upstream never loses several servers at once to its own medicine.
//! - The network is suspected: all servers of all upstreams that are checked, two or more, fell silent within 30 seconds of
//!   each other, and not longer than two minutes ago.
//!
//! # Invariants
//! - What is under way when the settings of the server change, or the server is removed, is ended and has failed.

mod docker;
mod exec;

use std::time::{Duration, Instant};

use bytes::Bytes;
use serde::Serialize;
use tokio::sync::watch;

use super::notifications::{instance, rfc3339};
use super::webhook::{self, Message};
use super::{Target, random};
use crate::clock;
use crate::fleet::events::new_id;
use crate::fleet::recovery_action::{Action, ActionPlan, Attempt, Held, Turn, network_is_suspected};
use crate::fleet::snapshot::Check;
use crate::policy::notification::Kind;
use crate::policy::recovery_action::{Ended, How, Next, State};

/// Time between two looks at what may be held, and the longest between two checks while an action is verified.
const LOOK: Duration = Duration::from_secs(1);

/// What a webhook that is a recovery action is told.
#[derive(Debug, Serialize)]
struct Order<'o> {
    event: &'static str,
    id: &'o str,
    at: String,
    instance: &'static str,
    upstream: &'o str,
    server: &'o str,
    url: &'o str,
    attempt: u32,
    failed_checks: u32,
}

impl Target {
    /// Does what the configuration says whenever it is due, as long as the server is there.
    pub(super) async fn acting(&self, stopping: watch::Receiver<bool>) {
        // Without checks, which validation asks for, it would never be due.
        let (Some(plan), Some(check)) = (&self.plan.action, &self.plan.check) else {
            self.state.acting.with(|known| known.action.forget());
            return std::future::pending().await;
        };
        let ended = self.state.acting.with(|known| known.action.interrupted(&plan.policy, clock::now(), random()));
        self.ended(plan, ended, "failed");
        loop {
            let now = clock::now();
            let next = self.state.acting.with(|known| known.action.next(!self.state.is_up(), &plan.policy, now));
            let wait = match next {
                Next::Nothing => None,
                Next::At(at) => Some(at.saturating_duration_since(now)),
                Next::Run => match self.turn(&stopping) {
                    Ok(turn) => {
                        self.attempt(plan).await;
                        self.verify(plan, check).await;
                        drop(turn);
                        continue;
                    }
                    Err(held) => {
                        self.hold(held);
                        Some(LOOK)
                    }
                },
            };
            let time_is_over = async {
                match wait {
                    Some(wait) => tokio::time::sleep(wait).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = time_is_over => {}
                () = self.state.acting.stirred() => {}
            }
        }
    }

    /// Leave to run the action now.
    fn turn(&self, stopping: &watch::Receiver<bool>) -> Result<Turn, Held> {
        let now = clock::now();
        if *stopping.borrow() {
            return Err(Held::Stopping);
        }
        if !self.state.standing(now).takes_work() {
            return Err(Held::TakenOut);
        }
        if !self.store.load().lasting.cluster.leads(now) {
            return Err(Held::Elsewhere);
        }
        if network_is_suspected(&self.store.load(), now).is_some() {
            return Err(Held::Network);
        }
        let upstream = self.upstream().ok_or(Held::Another)?;
        Turn::take(&upstream.state).ok_or(Held::Another)
    }

    /// Notes why the action is held; one message for each reason.
    fn hold(&self, held: Held) {
        let before = self.state.acting.with(|known| known.held.replace(held));
        if before != Some(held) {
            let (server, upstream) = (self.state.name(), &self.state.identity.upstream);
            tracing::info!(server, upstream, why = held.as_str(), "the recovery action is held");
        }
    }

    /// Runs the action once.
    async fn attempt(&self, plan: &ActionPlan) {
        let (attempt, failed_checks) = self.state.acting.with(|known| {
            known.held = None;
            (known.action.begin(), known.action.failed_checks())
        });
        let (server, upstream, action) = (self.state.name(), &self.state.identity.upstream, plan.action.as_str());
        tracing::warn!(server, upstream, action, attempt, failed_checks, "recovery action begins");
        let began = clock::now();
        let outcome = self.act(plan, attempt, failed_checks).await;
        let now = clock::now();
        let (good, detail) = match outcome {
            Ok(detail) => (true, detail),
            Err(detail) => (false, detail),
        };
        tracing::warn!(server, upstream, action, attempt, good, detail, "recovery action ended");
        let ended = self.state.acting.with(|known| {
            known.last = Some(Attempt { at: began, took: now - began, good, detail });
            known.action.ran(good, &plan.policy, now, random())
        });
        self.ended(plan, ended, "failed");
    }

    async fn act(&self, plan: &ActionPlan, attempt: u32, failed_checks: u32) -> Result<String, String> {
        let identity = &self.state.identity;
        match &plan.action {
            Action::Exec(arguments) => {
                let variables = [
                    ("ARRIERO_UPSTREAM", identity.upstream.clone()),
                    ("ARRIERO_SERVER", identity.name.clone()),
                    ("ARRIERO_SERVER_URL", identity.url.clone()),
                    ("ARRIERO_ATTEMPT", attempt.to_string()),
                    ("ARRIERO_FAILED_CHECKS", failed_checks.to_string()),
                ];
                exec::run(arguments, &variables, plan.timeout).await
            }
            Action::Webhook(url, secret_file) => {
                let id = new_id();
                let order = Order {
                    event: "recovery_action",
                    id: &id,
                    at: rfc3339(clock::unix_time()),
                    instance: instance(),
                    upstream: &identity.upstream,
                    server: &identity.name,
                    url: &identity.url,
                    attempt,
                    failed_checks,
                };
                let body = serde_json::to_vec(&order).map(Bytes::from).map_err(|error| error.to_string())?;
                let secret_file = secret_file.as_deref();
                let reply =
                    webhook::post(Message { url, secret_file, id: &id, body: &body, timeout: plan.timeout }).await;
                let reply = reply.map_err(|fault| fault.text)?;
                let said = format!("status {} {}", reply.status, reply.text).trim_end().to_owned();
                if reply.is_good() { Ok(said) } else { Err(said) }
            }
            Action::DockerRestart { container, socket } => docker::restart(socket, container, plan.timeout).await,
        }
    }

    /// Checks the server until a check passes or the time for it is over. Its ordinary checks count as well.
    async fn verify(&self, plan: &ActionPlan, check: &Check) {
        loop {
            let State::Verifying { until } = self.state.acting.with(|known| known.action.state()) else { return };
            if clock::now() >= until {
                let now = clock::now();
                let ended = self.state.acting.with(|known| known.action.not_verified(&plan.policy, now, random()));
                self.ended(plan, ended, "not_verified");
                return;
            }
            // A check that hangs must not take longer than there is time.
            let left = |until: Instant| until.saturating_duration_since(clock::now());
            drop(tokio::time::timeout(left(until), self.check(check)).await);
            tokio::time::sleep(LOOK.min(check.interval).min(left(until))).await;
        }
    }

    /// Counts a check for the action, whoever made it.
    pub(super) fn checked_for_action(&self, good: bool, now: Instant) {
        let ended = self.state.acting.with(|known| {
            if good {
                known.held = None;
            }
            known.action.checked(good, now)
        });
        if let Some(plan) = &self.plan.action {
            self.ended(plan, ended, "recovered");
        }
        self.state.acting.stir();
    }

    /// Logs, counts and tells how an attempt ended.
    fn ended(&self, plan: &ActionPlan, ended: Option<Ended>, result: &'static str) {
        let Some(ended) = ended else { return };
        let (server, upstream, action) = (self.state.name(), &self.state.identity.upstream, plan.action.as_str());
        let events = &self.state.events;
        let url = &self.state.identity.url;
        // An attempt that had failed before is counted already.
        if !matches!(ended, Ended::Well { how: How::Late | How::ByItself, .. }) {
            self.metrics.acted(upstream, server, action, result);
        }
        match ended {
            Ended::Well { attempts, how } => {
                let how = match how {
                    How::Verified => "after its recovery action",
                    How::Late => "some time after its recovery action",
                    How::ByItself => "by itself, after its recovery was given up",
                };
                tracing::warn!(server, upstream, action, attempts, how, "recovered");
                let message = format!(
                    "server `{server}` ({url}) is well again {how} ({action}, {attempts} of {})",
                    plan.policy.max_attempts
                );
                events.tell(Kind::RecoverySucceeded, self.state.subject(), &message);
            }
            Ended::Again { at } => {
                let next = at.saturating_duration_since(clock::now());
                tracing::warn!(server, upstream, action, ?next, "the recovery action did not help");
            }
            Ended::GaveUp { attempts, until } => {
                self.metrics.acted(upstream, server, action, "gave_up");
                let rest = until.saturating_duration_since(clock::now()).as_secs_f64().round();
                tracing::error!(server, upstream, action, attempts, rest, "recovery given up for now");
                let last = self.state.acting.with(|known| known.last.as_ref().map(|last| last.detail.clone()));
                let message = format!(
                    "server `{server}` ({url}) is still down after {attempts} attempts of its recovery action ({action}); \
                     it begins anew in {rest} s. The last attempt: {}",
                    last.unwrap_or_default()
                );
                events.tell(Kind::RecoveryGaveUp, self.state.subject(), &message);
            }
        }
    }
}
