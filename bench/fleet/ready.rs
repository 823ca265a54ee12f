//! Waiting until a proxy knows its fleet.

use std::time::Duration;

use arriero::clock;

use crate::client;
use crate::proxies::Proxy;

/// How long that may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// Returns once Arriero lists so many models, or at once for a proxy that knows nothing of models.
pub async fn wait(proxy: &Proxy, models: usize) -> Result<(), String> {
    let began = clock::now();
    while clock::now().saturating_duration_since(began) < PATIENCE {
        let page = client::get(proxy.address, "/v1/models").await;
        let seen = page.as_ref().map_or(0, |page| page.matches("\"id\":").count());
        if page.is_some() && (proxy.admin.is_none() || seen >= models) {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Err(format!("nothing that knows {models} models answers at {}", proxy.address))
}
