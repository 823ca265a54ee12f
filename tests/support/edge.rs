//! What the tests of the edge share: small configurations, and one request over both versions of HTTP.

use arriero::demo::Host;
use bytes::Bytes;

use super::Proxy;
use super::fleet::{Small, send_with};
use super::wire::{Answer, H2, Upload, proxy};

/// A listener that also speaks HTTP/2 without TLS.
pub const H2C: &str = "listeners: [{ address: \"127.0.0.1:0\", h2c: true }]\n";

/// An upstream `fleet` of one server.
pub fn upstream(url: &str, kind: &str) -> String {
    format!("upstreams:\n  fleet:\n    kind: {kind}\n    servers: [{{ url: \"{url}\" }}]\n")
}

/// A plain server with keys of the listener and of the route.
pub async fn plain(listener: &str, route: &str) -> (Small, Proxy) {
    let server = Small::named("web").await;
    let text = format!(
        "version: 1\nlisteners: [{{ address: \"127.0.0.1:0\", h2c: true{listener} }}]\n\
         routes: [{{ name: all, upstream: fleet{route} }}]\n{}",
        upstream(&server.url(), "http")
    );
    (server, proxy(text).await)
}

/// Requests for inference that a host began.
pub fn inference(host: &Host) -> usize {
    host.ledger().inference().len()
}

/// The same request over HTTP/1 and HTTP/2.
pub async fn both(proxy: &Proxy, method: &str, path: &str, fields: &str, body: &str) -> [Answer; 2] {
    let first = send_with(proxy.address(), method, path, fields, body).await;
    let mut request = H2::request(method, path, Upload::new(Some(body.len() as u64)).1);
    for line in fields.lines() {
        let (name, value) = line.split_once(": ").expect("a field");
        let name = http::HeaderName::try_from(name).expect("a name");
        request.headers_mut().append(name, value.parse().expect("a value"));
    }
    [first, H2::connect(proxy.address()).await.ask(request, Bytes::from(body.to_owned())).await]
}
