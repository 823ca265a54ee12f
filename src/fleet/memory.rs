//! What the schedulers learned, to be kept over restarts. Whoever keeps it does not look into it.

use std::collections::BTreeMap;

use serde_json::Value;

use super::snapshot::Snapshot;

/// What is known now of each upstream whose requests are scheduled.
#[must_use]
pub fn told(snapshot: &Snapshot) -> BTreeMap<String, Value> {
    let scheduled = snapshot.upstreams.iter().filter(|upstream| upstream.is_scheduled());
    let memories =
        scheduled.map(|upstream| (upstream.name.clone(), serde_json::to_value(upstream.dispatcher.memory())));
    memories.filter_map(|(name, memory)| Some((name, memory.ok()?))).collect()
}

/// Tells the schedulers what a process before this one knew. What cannot be read is as good as nothing: then it is learned
/// anew.
pub fn remember(snapshot: &Snapshot, known: &BTreeMap<String, Value>) {
    for upstream in &snapshot.upstreams {
        let Some(memory) = known.get(&upstream.name) else { continue };
        match serde_json::from_value(memory.clone()) {
            Ok(memory) => upstream.dispatcher.remember(&memory),
            Err(error) => {
                let upstream = upstream.name.as_str();
                tracing::warn!(upstream, %error, "what was learned is damaged and begins anew");
            }
        }
    }
}
