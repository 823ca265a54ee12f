//! Tests of a server that is ill, and those that an operator orders.
//!
//! One test at a time for each server: liveness, then the inventory, then one token of a model in memory
//! ([`crate::policy::recovery`] says when, and what it adds up to).
//!
//! # What a test may do
//!
//! - **Nothing is loaded.** Just before a token is asked for, `/api/ps` must list the model, not about to expire, and
//!   the context is the one that it was loaded with: another one makes Ollama load it anew.
//! - **Nobody is disturbed.** A token is asked for only after a time without requests, and takes a slot like one.
//! - **A good answer proves what it proves.** Liveness is one good check for the server's health and never changes a
//!   circuit. A token makes an open circuit half open before its time, so that a real request tries; it does not close
//!   it, and not at all where an operator holds it open.
//! - **A server that an operator took out is left alone.** Orders still look at liveness and inventory there.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::client::{self, Fault, Way};
use super::{Target, inventory, random};
use crate::clock;
use crate::config::types::Kind;
use crate::fleet::snapshot::Upstream;
use crate::ollama::wire::Loaded;
use crate::policy::circuit::State;
use crate::policy::recovery::{Class, Failure, Step, Test, Turn};

/// How long liveness may take where no checks are configured.
const LIVENESS_TIMEOUT: Duration = Duration::from_secs(5);
/// Seconds that a model must still be going to stay in memory.
const STAYS: i64 = 15;
/// The longest time between two looks at whether the server is ill; changes wake the tests before.
const LOOK: Duration = Duration::from_secs(10);

/// Why no token is asked for where an operator said that no request may begin.
const TAKEN_OUT: &str = "the server is draining or in maintenance";

/// What came of the step that asks for a token.
enum Token {
    /// The model of this name gave one.
    Given(String),
    /// None was asked for.
    LeftOut(&'static str),
}

/// What failed, and the model that it is about.
struct Failed {
    failure: Failure,
    model: Option<String>,
}

impl Failed {
    fn at(step: Step, fault: Fault) -> Self {
        Self { failure: Failure { step, class: fault.class, detail: fault.text }, model: None }
    }
}

impl Target {
    /// Tests the server whenever it is ill and a test is due, and whenever somebody orders it.
    pub(super) async fn recovering(&self) {
        loop {
            self.end_of_maintenance();
            if let Some(order) = self.state.recovery.next_order() {
                let test = self.test(true, order.model.as_deref()).await;
                // Whoever asked may have left.
                drop(order.answer.send(test));
                continue;
            }
            match self.wait() {
                Some(wait) => {
                    tokio::select! {
                        () = tokio::time::sleep(wait) => {}
                        () = self.state.recovery.stirred() => {}
                    }
                }
                None => drop(self.test(false, None).await),
            }
        }
    }

    /// Ends a maintenance whose time is over.
    fn end_of_maintenance(&self) {
        if let Some(over) = self.state.end_of_maintenance(clock::now()) {
            let (server, upstream) = (self.state.name(), &self.state.identity.upstream);
            let from = over.standing().as_str();
            tracing::info!(server, upstream, from, to = "active", reason = "its time is over", "operation changed");
        }
    }

    /// How long there is nothing to do; `None` when a test is due.
    fn wait(&self) -> Option<Duration> {
        let now = clock::now();
        // A circuit that an operator holds open is no illness.
        let circuit = self.state.circuit_state(now);
        let circuit = if self.state.circuit_is_held(now) { State::Closed } else { circuit };
        let up = self.state.is_up();
        let elsewhere = self.state.recovery.with_elsewhere(|until| until.is_some_and(|until| until > now));
        let ill = !up || circuit != State::Closed || elsewhere;
        let (turn, due, flapping) = self.state.recovery.with(|recovery| {
            let turn = recovery.observe(ill, &self.plan.recovery, now, random());
            (turn, recovery.due(), recovery.is_flapping(now))
        });
        if let Some(turn) = turn {
            self.tell(turn, flapping);
        }
        // A circuit that is half open waits for a real request.
        let testable = self.plan.kind != Kind::Http && (!up || elsewhere || matches!(circuit, State::Open { .. }));
        let works = self.state.standing(now).takes_work();
        // In a cluster one instance tests for all, so that a sick server is not tested by each of them.
        let leads = self.store.load().lasting.cluster.leads(now);
        let next = due.filter(|_| testable && works && leads).map(|due| due.saturating_duration_since(now));
        if next == Some(Duration::ZERO) {
            return None;
        }
        let end = self.state.operation(now).until().map(|until| until.saturating_duration_since(now));
        Some([next, end].into_iter().flatten().fold(LOOK, Duration::min))
    }

    fn tell(&self, turn: Turn, flapping: bool) {
        let (server, upstream) = (self.state.name(), &self.state.identity.upstream);
        match turn {
            Turn::Ill if flapping => tracing::warn!(server, upstream, "the server flaps; it is tested less often"),
            Turn::Ill => tracing::info!(server, upstream, "the server is ill; it is tested until it is well"),
            Turn::Well => tracing::info!(server, upstream, "the server is well"),
        }
    }

    /// One test, with everything that follows from it.
    async fn test(&self, ordered: bool, wanted: Option<&str>) -> Test {
        let at = clock::now();
        let result = self.steps(ordered, wanted).await;
        let now = clock::now();
        let (model, left_out, failure) = match result {
            Ok(Token::Given(model)) => (Some(model), None, None),
            Ok(Token::LeftOut(why)) => (None, Some(why), None),
            Err(Failed { failure, model }) => (model, None, Some(failure)),
        };
        let test = Test { at, took: now - at, ordered, model, left_out, failure };
        self.state.recovery.with(|recovery| recovery.record(test.clone(), &self.plan.recovery, now, random()));
        let result = test.failure.as_ref().map_or("ok", |failure| failure.class.as_str());
        let (server, upstream) = (self.state.name(), &self.state.identity.upstream);
        self.metrics.tested(upstream, server, result);
        let step = test.failure.as_ref().map(|failure| failure.step.as_str());
        let detail = test.failure.as_ref().map(|failure| failure.detail.as_str());
        tracing::debug!(server, upstream, ordered, result, step, detail, model = test.model, left_out, "tested");
        if test.failure.is_none()
            && test.model.is_some()
            && let Some(change) = self.state.half_open_early(now)
        {
            let (from, to) = (change.from.as_str(), change.to.as_str());
            tracing::info!(server, upstream, from, to, reason = "a model gave a token", "circuit changed");
        }
        test
    }

    async fn steps(&self, ordered: bool, wanted: Option<&str>) -> Result<Token, Failed> {
        let upstream = self.upstream();
        let way = self.way(upstream.as_deref());
        self.liveness(way).await.map_err(|fault| Failed::at(Step::Liveness, fault))?;
        self.learn().await.map_err(|fault| Failed::at(Step::Inventory, fault))?;
        let Some(upstream) = &upstream else { return Ok(Token::LeftOut("the server is being changed")) };
        if let Some(why) = self.objection(ordered) {
            return Ok(Token::LeftOut(why));
        }
        // What is known of the memory may be seconds old; a model that has left it would be loaded.
        let loaded = inventory::loaded(way).await.map_err(|fault| Failed::at(Step::Inventory, fault))?;
        match choose(&loaded, wanted) {
            Ok(model) => self.token(way, upstream, model).await,
            Err(why) => Ok(Token::LeftOut(why)),
        }
    }

    /// The server answers at all. That it does counts as one good check.
    async fn liveness(&self, way: Way<'_>) -> Result<(), Fault> {
        let default = match self.plan.kind {
            Kind::Ollama => "/api/version",
            Kind::Openai => "/v1/models",
            Kind::Http => "/",
        };
        let check = self.plan.check.as_ref();
        let path = check.map_or(default, |check| &check.path);
        let answer = client::get(way, path, check.map_or(LIVENESS_TIMEOUT, |check| check.timeout)).await?;
        if !(200..400).contains(&answer.status) {
            return Err(Fault::new(Class::Status, format!("{path}: status {}", answer.status)));
        }
        if check.is_some() {
            self.judge(true, || "a test".to_owned());
        }
        Ok(())
    }

    /// Why no token may be asked for now.
    fn objection(&self, ordered: bool) -> Option<&'static str> {
        let now = clock::now();
        let quiet = self.state.requests.quiet_for(now).is_none_or(|quiet| quiet >= self.plan.recovery.quiet);
        if self.plan.kind != Kind::Ollama {
            Some("only Ollama tells which models are in memory")
        } else if !self.state.standing(now).takes_work() {
            Some(TAKEN_OUT)
        } else if ordered {
            None
        } else if !self.plan.recovery.probe {
            Some("`recovery.probe` is off")
        } else if self.state.in_flight() > 0 || !quiet {
            Some("requests have run within `recovery.quiet`")
        } else {
            None
        }
    }

    /// Asks a model in memory for one token.
    async fn token(&self, way: Way<'_>, upstream: &Upstream, model: &Loaded) -> Result<Token, Failed> {
        let member = upstream.servers.iter().find(|member| Arc::ptr_eq(&member.state, &self.state));
        let Some(_slot) = member.and_then(|member| self.state.take_slot(member.max_in_flight)) else {
            return Ok(Token::LeftOut("the server is full"));
        };
        // An operator's decision may have come in between.
        if !self.state.standing(clock::now()).takes_work() {
            return Ok(Token::LeftOut(TAKEN_OUT));
        }
        let name = model.name.to_string();
        let mut body = json!({ "model": name, "prompt": "1", "stream": false, "options": { "num_predict": 1 } });
        if let Some(context) = model.context_length {
            body["options"]["num_ctx"] = json!(context);
        }
        let failed = |class: Class, detail: String| Failed {
            failure: Failure { step: Step::Model, class, detail },
            model: Some(name.clone()),
        };
        let answer = client::post(way, "/api/generate", body.to_string().into(), self.plan.recovery.timeout).await;
        let answer = answer.map_err(|fault| {
            let class = if fault.class == Class::Timeout { Class::Stalled } else { fault.class };
            failed(class, fault.text)
        })?;
        let said: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
        let error = said.get("error").and_then(Value::as_str);
        match (answer.status, error) {
            (200, None) if said["done"] == true => Ok(Token::Given(name)),
            (200, None) => Err(failed(Class::Protocol, "the answer is not what it should be".to_owned())),
            (503, _) => Ok(Token::LeftOut("the server is busy")),
            // A model for embeddings gives no tokens, one that was deleted meanwhile is not there.
            (400..=499, _) => Ok(Token::LeftOut("the model does not take such a request")),
            (status, error) => Err(failed(Class::Model, format!("status {status}: {}", error.unwrap_or_default()))),
        }
    }
}

/// The model that is to give a token: the wanted one, else the smallest.
fn choose<'l>(loaded: &'l [Loaded], wanted: Option<&str>) -> Result<&'l Loaded, &'static str> {
    let fits = |row: &&Loaded| wanted.is_none_or(|wanted| row.name.as_str() == wanted);
    let row = loaded.iter().filter(fits).min_by_key(|row| row.size);
    let row = row.ok_or(if wanted.is_some() { "the model is not in memory" } else { "no model is in memory" })?;
    let ends = row.expires_at.as_deref().and_then(|text| OffsetDateTime::parse(text, &Rfc3339).ok());
    let stays = ends.is_some_and(|end| end.unix_timestamp() > clock::unix_seconds() + STAYS);
    if stays { Ok(row) } else { Err("the model is about to leave the memory") }
}
