//! What the scenes share: a fleet of equal servers that take a fixed time for each request.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use arriero::demo::{DemoModel, Fleet, HostConfig, Plan, Planned};

use crate::client::Call;
use crate::proxies::Behind;

/// A gigabyte.
const GB: u64 = 1_000_000_000;

/// A fleet of equal servers.
pub struct Simple {
    /// How many.
    pub servers: usize,
    /// Requests that each answers at once.
    pub parallel: usize,
    /// Wall time from a slot to the first token.
    pub service: Duration,
    /// Tokens of an answer, and the wall time between them.
    pub tokens: (usize, Duration),
    /// Models that every server has; loads take no time.
    pub models: &'static [&'static str],
}

impl Simple {
    /// Starts it. Requests are known by the plan, which has room for so many.
    pub async fn start(&self, plan: &Arc<Plan>) -> Result<Fleet, String> {
        let host = |number: usize| {
            let mut config = HostConfig::new(&format!("server-{number}")).parallel(self.parallel).tokens(self.tokens.0);
            config.prompt_delay = self.service;
            config.token_interval = self.tokens.1;
            config.models = self.models.iter().map(|name| DemoModel::new(name, GB)).collect();
            config.max_queue = 100_000;
            config.plan = Some(Arc::clone(plan));
            config
        };
        let hosts = (1..=self.servers).map(host).collect();
        Fleet::start(hosts).await.map_err(|error| format!("cannot start the fleet: {error}"))
    }

    /// The servers as Arriero is told of them.
    pub fn behind(&self, fleet: &Fleet) -> Vec<Behind> {
        let server = |host: &arriero::demo::Host| Behind {
            name: host.name().to_owned(),
            address: host.address(),
            models: self.models.iter().map(|name| (*name).to_owned()).collect(),
            weight: 1,
            slots: self.parallel,
            memory: 24,
        };
        fleet.hosts.iter().map(server).collect()
    }
}

/// A plan for so many requests with answers of so many tokens.
pub fn plan(requests: usize, answer: usize) -> Arc<Plan> {
    let planned = (0..requests as u64).map(|conversation| Planned { prompt: 100, answer, conversation });
    Plan::new(planned.collect())
}

/// A chat that names its place in the plan.
pub fn chat(model: &str, number: usize, headers: String) -> Call<'static> {
    let mark = Plan::mark(number);
    let body = format!(r#"{{"model":"{model}","stream":true,"messages":[{{"role":"user","content":"{mark}"}}]}}"#);
    Call { target: "POST /api/chat", headers, body: body.into_bytes() }
}

/// The most requests for inference that a host of the fleet had at a time.
pub fn most_in_flight(fleet: &Fleet) -> usize {
    let most = |host: &arriero::demo::Host| {
        let mut events: Vec<(std::time::Instant, i64)> = Vec::new();
        for entry in host.ledger().inference() {
            events.push((entry.started, 1));
            events.extend(entry.finished.map(|finished| (finished.at, -1)));
        }
        // Ends first: what ends as another begins was not beside it.
        events.sort();
        let (mut now, mut most) = (0, 0);
        for (_, change) in events {
            now += change;
            most = most.max(now);
        }
        usize::try_from(most).unwrap_or(0)
    };
    fleet.hosts.iter().map(most).max().unwrap_or(0)
}

/// The admin listener of a proxy that must be Arriero.
pub fn admin(proxy: &crate::proxies::Proxy) -> Result<SocketAddr, String> {
    proxy.admin.ok_or_else(|| "this scene reads Arriero's metrics".to_owned())
}
