//! Listeners: what may change about one while it runs. What it counts goes on in the next snapshot.

use std::collections::HashMap;
use std::sync::Arc;

use super::{CompileError, access, error, to_usize};
use crate::clock;
use crate::config::types;
use crate::fleet::connections::{ConnectionLimits, Connections};
use crate::fleet::listener_tls::ListenerTls;
use crate::fleet::snapshot::{Lasting, ListenerSettings};
use crate::policy::upload_rate::UploadRate;
use crate::routing::host::HostList;

/// The listeners of a snapshot that follows one with the listeners `before`.
pub(super) fn compile(
    listeners: &[types::Listener],
    before: &[Arc<ListenerSettings>],
    lasting: &Lasting,
) -> Result<Vec<Arc<ListenerSettings>>, CompileError> {
    // Port 0 may stand in several addresses: the first is then the first of before.
    let mut known: HashMap<&str, Vec<&Arc<Connections>>> = HashMap::new();
    for listener in before.iter().rev() {
        known.entry(&listener.address).or_default().push(&listener.connections);
    }
    let mut one = |(number, listener): (usize, &types::Listener)| {
        let limits = connection_limits(&listener.limits);
        let kept = known.get_mut(listener.address.as_str()).and_then(Vec::pop).cloned();
        let new = || Arc::new(Connections::new(Arc::clone(&lasting.connections), limits));
        settings(number, listener, kept.unwrap_or_else(new), limits).map(Arc::new)
    };
    listeners.iter().enumerate().map(&mut one).collect()
}

fn settings(
    number: usize,
    listener: &types::Listener,
    connections: Arc<Connections>,
    connection_limits: ConnectionLimits,
) -> Result<ListenerSettings, CompileError> {
    let tls = listener.tls.as_ref().map(|tls| ListenerTls::load(tls, clock::unix_seconds()).map(Arc::new)).transpose();
    Ok(ListenerSettings {
        address: listener.address.clone(),
        connections,
        connection_limits,
        h2c: listener.h2c,
        proxy_protocol: listener.proxy_protocol == types::ProxyProtocol::Accept,
        trusted_proxies: access::networks(&format!("listeners[{number}].trusted_proxies"), &listener.trusted_proxies)?,
        hosts: HostList::new(listener.hosts.iter().map(String::as_str))
            .ok_or_else(|| error(format!("listeners[{number}].hosts"), "not a host name"))?,
        tls: tls.map_err(|problem| error(format!("listeners[{number}].tls"), problem))?,
        tls_timeout: listener.timeouts.tls.0,
        header_timeout: listener.timeouts.request_header.0,
        body_timeout: listener.timeouts.request_body.0,
        body_rate: UploadRate { bytes_per_second: listener.limits.body_rate.0 },
        keepalive: listener.timeouts.keepalive.0,
        write_timeout: listener.timeouts.write.0,
        header_bytes: to_usize(listener.limits.header_bytes.0),
        header_fields: listener.limits.header_fields as usize,
        target_bytes: to_usize(listener.limits.target_bytes.0),
    })
}

fn connection_limits(limits: &types::ListenerLimits) -> ConnectionLimits {
    let or_none = |most: u32| if most == 0 { u32::MAX } else { most };
    ConnectionLimits {
        connections: or_none(limits.connections),
        connections_per_ip: or_none(limits.connections_per_ip),
        requests: limits.requests.unwrap_or(u32::MAX),
    }
}
