//! Listeners: what may change about one while it runs. What it counts goes on in the next snapshot.

use std::collections::HashMap;
use std::sync::Arc;

use super::to_usize;
use crate::config::types;
use crate::fleet::connections::{ConnectionLimits, Connections};
use crate::fleet::snapshot::{Lasting, ListenerSettings};
use crate::policy::upload_rate::UploadRate;

/// The listeners of a snapshot that follows one with the listeners `before`.
pub(super) fn compile(
    listeners: &[types::Listener],
    before: &[Arc<ListenerSettings>],
    lasting: &Lasting,
) -> Vec<Arc<ListenerSettings>> {
    // Port 0 may stand in several addresses: the first is then the first of before.
    let mut known: HashMap<&str, Vec<&Arc<Connections>>> = HashMap::new();
    for listener in before.iter().rev() {
        known.entry(&listener.address).or_default().push(&listener.connections);
    }
    let mut one = |listener: &types::Listener| {
        let limits = connection_limits(&listener.limits);
        let kept = known.get_mut(listener.address.as_str()).and_then(Vec::pop).cloned();
        let new = || Arc::new(Connections::new(Arc::clone(&lasting.connections), limits));
        Arc::new(settings(listener, kept.unwrap_or_else(new), limits))
    };
    listeners.iter().map(&mut one).collect()
}

fn settings(
    listener: &types::Listener,
    connections: Arc<Connections>,
    connection_limits: ConnectionLimits,
) -> ListenerSettings {
    ListenerSettings {
        address: listener.address.clone(),
        connections,
        connection_limits,
        h2c: listener.h2c,
        header_timeout: listener.timeouts.request_header.0,
        body_timeout: listener.timeouts.request_body.0,
        body_rate: UploadRate { bytes_per_second: listener.limits.body_rate.0 },
        keepalive: listener.timeouts.keepalive.0,
        write_timeout: listener.timeouts.write.0,
        header_bytes: to_usize(listener.limits.header_bytes.0),
        header_fields: listener.limits.header_fields as usize,
        target_bytes: to_usize(listener.limits.target_bytes.0),
    }
}

fn connection_limits(limits: &types::ListenerLimits) -> ConnectionLimits {
    let or_none = |most: u32| if most == 0 { u32::MAX } else { most };
    ConnectionLimits {
        connections: or_none(limits.connections),
        connections_per_ip: or_none(limits.connections_per_ip),
        requests: limits.requests.unwrap_or(u32::MAX),
    }
}
