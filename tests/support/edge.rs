//! What the tests of the edge share: small configurations, and one request over both versions of HTTP.

use arriero::demo::{Host, HostConfig};
use bytes::Bytes;

use super::Proxy;
use super::fleet::{Small, send_with};
use super::wire::{Answer, H1, H2, Upload, proxy};

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

/// A host with two models, whose answers are short, with keys of the route and of the file.
pub async fn ollama(route: &str, more: &str) -> (Host, Proxy) {
    let config = HostConfig::new("gpu").small_model("llava").small_model("mistral").tokens(1);
    let host = Host::start(config).await.expect("a host");
    let route = format!("routes: [{{ name: all, upstream: fleet{route} }}]\n");
    let proxy = proxy(format!("version: 1\n{H2C}{route}{}{more}", upstream(&host.url(), "ollama"))).await;
    (host, proxy)
}

/// Requests for inference that a host began.
pub fn inference(host: &Host) -> usize {
    host.ledger().inference().len()
}

/// The same request over HTTP/1 and HTTP/2.
pub async fn both(proxy: &Proxy, method: &str, path: &str, fields: &str, body: &str) -> [Answer; 2] {
    let first = send_with(proxy.address(), method, path, fields, body).await;
    let length = Some(body.len() as u64);
    [first, over_http2(proxy, method, path, fields, length, Bytes::from(body.to_owned())).await]
}

/// The same POST over HTTP/1 with a length, over HTTP/1 in chunks, and over HTTP/2 without a length.
pub async fn posts(proxy: &Proxy, path: &str, fields: &str, body: &[u8]) -> [Answer; 3] {
    let first = send_with(proxy.address(), "POST", path, fields, body).await;
    let mut chunked =
        format!("POST {path} HTTP/1.1\r\nHost: a.test\r\n{fields}Transfer-Encoding: chunked\r\n\r\n").into_bytes();
    for piece in body.chunks(1 + body.len() / 5) {
        chunked.extend_from_slice(format!("{:x}\r\n", piece.len()).as_bytes());
        chunked.extend_from_slice(&[piece, b"\r\n"].concat());
    }
    chunked.extend_from_slice(b"0\r\n\r\n");
    let mut client = H1::connect(proxy.address()).await;
    // An answer may come before everything was sent.
    let _ = client.try_send(chunked).await;
    let second = client.reader.answer().await;
    [first, second, over_http2(proxy, "POST", path, fields, None, Bytes::copy_from_slice(body)).await]
}

async fn over_http2(proxy: &Proxy, method: &str, path: &str, fields: &str, length: Option<u64>, body: Bytes) -> Answer {
    let mut request = H2::request(method, path, Upload::new(length).1);
    for line in fields.lines() {
        let (name, value) = line.split_once(": ").expect("a field");
        let name = http::HeaderName::try_from(name).expect("a name");
        request.headers_mut().append(name, value.parse().expect("a value"));
    }
    H2::connect(proxy.address()).await.ask(request, body).await
}
