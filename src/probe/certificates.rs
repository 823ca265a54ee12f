//! Looks at the files of certificates, so that renewed ones are in force without anybody asking.

use std::sync::Arc;
use std::time::Duration;

use crate::clock;
use crate::fleet::store::Store;
use crate::telemetry::metrics::Metrics;

/// Time between two looks. A renewed certificate is in force within this time.
const INTERVAL: Duration = Duration::from_secs(2);

/// Looks at the files of the snapshot in force, again and again, until the process ends.
pub async fn watch(store: Arc<Store>, metrics: Arc<Metrics>) {
    loop {
        tokio::time::sleep(INTERVAL).await;
        let (snapshot, metrics) = (store.pin(), Arc::clone(&metrics));
        let look = tokio::task::spawn_blocking(move || {
            snapshot.refresh_certificates(clock::unix_seconds(), &metrics);
        });
        if let Err(error) = look.await {
            tracing::error!(%error, "the files of certificates could not be looked at");
        }
    }
}
