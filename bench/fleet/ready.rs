//! Waiting until a proxy knows its fleet.

use std::time::Duration;

use arriero::clock;

use crate::client;
use crate::proxies::Proxy;

/// How long that may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// How long something that the caller started may take to list the models, if it can.
const COURTESY: Duration = Duration::from_secs(3);

/// Returns once Arriero lists so many models, or once nginx or haproxy answers, which know nothing of models.
pub async fn wait(proxy: &Proxy, models: usize) -> Result<(), String> {
    let began = clock::now();
    while clock::now().saturating_duration_since(began) < PATIENCE {
        let page = client::get(proxy.address, "/v1/models").await;
        let seen = page.as_ref().map_or(0, |page| page.matches("\"id\":").count());
        let waited = clock::now().saturating_duration_since(began);
        let enough = seen >= models || (proxy.admin.is_none() && (!proxy.is_foreign() || waited > COURTESY));
        if page.is_some() && enough {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Err(format!("nothing that knows {models} models answers at {}", proxy.address))
}
