//! A gate that tests close to hold loads or tokens back, and open again: waiting without time.

use std::sync::Arc;

use tokio::sync::watch;

/// Open at first. While it is closed, whoever comes to it waits; opening it lets all through.
#[derive(Clone, Debug)]
pub struct Gate {
    open: Arc<watch::Sender<bool>>,
}

impl Default for Gate {
    fn default() -> Self {
        Self { open: Arc::new(watch::Sender::new(true)) }
    }
}

impl Gate {
    /// Makes everyone wait who comes from now on.
    pub fn close(&self) {
        self.open.send_replace(false);
    }

    /// Lets everyone through.
    pub fn open(&self) {
        self.open.send_replace(true);
    }

    /// Returns once the gate is open.
    pub async fn pass(&self) {
        if *self.open.borrow() {
            return;
        }
        // The sender lives in self, so the wait can only end because the gate opened.
        let _ = self.open.subscribe().wait_for(|open| *open).await;
    }
}
