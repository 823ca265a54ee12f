//! Rules about the collector of traces.

use super::{GOOD, found};

fn of(keys: &str) -> Vec<String> {
    let text = format!(
        "{}telemetry: {{ tracing: {{ url: {keys} }} }}\n",
        GOOD.replace("telemetry: { access_log: off }\n", "")
    );
    // Where a value stands is told by other tests.
    let what = |line: String| line.split(' ').step_by(2).collect::<Vec<_>>().join(" ");
    found(&text).into_iter().map(what).collect()
}

#[test]
fn a_collector_is_told_by_either_protocol() {
    for good in [
        "http://127.0.0.1:4317",
        "http://collector",
        "https://otel.test:4318/v1/traces, protocol: http, token_file: conf/arriero.yaml, sample: 5%, parent: ignore",
        "https://otel.test, tls: { verify: true }, headers: { x-tenant: \"7\", authorization: Bearer }, interval: 1m",
        "http://a, service_name: edge, attributes: { deployment.environment.name: test, service.version: \"9\" }",
    ] {
        assert_eq!(of(good), Vec::<String>::new(), "{good}");
    }
}

#[test]
fn what_a_collector_cannot_be_told_by_is_refused_where_it_stands() {
    for (bad, expected) in [
        ("127.0.0.1:4317", "E099 telemetry.tracing.url"),
        ("ftp://a", "E099 telemetry.tracing.url"),
        ("http://a/v1/traces", "E099 telemetry.tracing.url"),
        ("http://a, tls: {}", "E036 telemetry.tracing.tls"),
        ("https://a, tls: { verify: false }", "W021 telemetry.tracing.tls.verify"),
        ("https://a, tls: { client_key: /dev/null }", "E038 telemetry.tracing.tls.client_key"),
        ("http://a, protocol: thrift", "E013 telemetry.tracing.protocol"),
        ("http://a, sample: 101%", "E013 telemetry.tracing.sample"),
        ("http://a, sampel: 1%", "E010 telemetry.tracing.sampel"),
        ("http://a, service_name: \"\"", "E013 telemetry.tracing.service_name"),
        ("http://a, attributes: { service.name: x }", "E013 telemetry.tracing.attributes[\"service.name\"]"),
        ("http://a, headers: { \"x y\": \"1\" }", "E083 telemetry.tracing.headers[\"x"),
        ("http://a, headers: { grpc-timeout: 1S }", "E082 telemetry.tracing.headers.grpc-timeout"),
        ("http://a, headers: { Host: b }", "E082 telemetry.tracing.headers.Host"),
        ("http://a, token_file: /no/such/file", "E096 telemetry.tracing.token_file"),
        ("http://a, interval: 0s", "E035 telemetry.tracing.interval"),
        ("http://a, interval: 2m", "E034 telemetry.tracing.interval"),
        ("http://a, timeout: 0s", "E035 telemetry.tracing.timeout"),
    ] {
        assert_eq!(of(bad), [expected], "{bad}");
    }
    let both = "http://a, token_file: conf/arriero.yaml, headers: { Authorization: x }";
    assert_eq!(of(both), ["E038 telemetry.tracing.headers.Authorization"]);
}
