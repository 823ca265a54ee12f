//! Several hosts together.

use std::io;
use std::time::Duration;

use super::host::Host;
use super::ledger::{self, Entry};
use super::model::{DemoModel, GB};
use super::settings::HostConfig;

/// Several simulated hosts.
pub struct Fleet {
    /// The hosts, in the order of their configs.
    pub hosts: Vec<Host>,
}

impl Fleet {
    /// Starts a host for each config, each on its own free port.
    ///
    /// # Errors
    /// When a socket cannot be bound.
    pub async fn start(configs: Vec<HostConfig>) -> io::Result<Self> {
        let mut hosts = Vec::with_capacity(configs.len());
        for config in configs {
            hosts.push(Host::start(config).await?);
        }
        Ok(Self { hosts })
    }

    /// The fleet of `arriero demo`: three hosts of different size, speed and models.
    ///
    /// # Errors
    /// When a socket cannot be bound.
    pub async fn demo() -> io::Result<Self> {
        Self::start(Self::demo_configs()).await
    }

    /// The configs of [`Fleet::demo`].
    #[must_use]
    pub fn demo_configs() -> Vec<HostConfig> {
        let host = |name: &str, gigabytes: u64, parallel: usize, load: u64, token: u64| {
            let mut config = HostConfig::new(name).vram(gigabytes * GB).parallel(parallel).tokens(48);
            config.load_time_per_gb = Duration::from_millis(load);
            config.prompt_delay = Duration::from_millis(token * 4);
            config.token_interval = Duration::from_millis(token);
            config.pull_rate = Some(GB / 4);
            config
        };
        vec![
            host("t4-1", 16, 1, 400, 50).model(DemoModel::llama3_2_3b()).model(DemoModel::nomic_embed_text()),
            host("rtx4090-1", 24, 2, 150, 20)
                .model(DemoModel::llama3_2_3b())
                .model(DemoModel::llava_13b())
                .model(DemoModel::qwen_coder_7b()),
            host("a100-1", 80, 4, 100, 15)
                .model(DemoModel::llava_13b())
                .model(DemoModel::llama3_3_70b())
                .model(DemoModel::mistral_7b()),
        ]
    }

    /// The host of a name.
    #[must_use]
    pub fn host(&self, name: &str) -> Option<&Host> {
        self.hosts.iter().find(|host| host.name() == name)
    }

    /// The URL of each host.
    #[must_use]
    pub fn urls(&self) -> Vec<String> {
        self.hosts.iter().map(Host::url).collect()
    }

    /// Every request any host began.
    #[must_use]
    pub fn entries(&self) -> Vec<Entry> {
        self.hosts.iter().flat_map(|host| host.ledger().entries()).collect()
    }

    /// Each `X-Request-Id` that began more than once anywhere in the fleet, and how often.
    #[must_use]
    pub fn duplicates(&self) -> Vec<(String, usize)> {
        ledger::duplicates(&self.entries())
    }

    /// Stops every host in good order.
    pub async fn stop(self) {
        for host in self.hosts {
            host.stop().await;
        }
    }
}
