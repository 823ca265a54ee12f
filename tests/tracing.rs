//! Requests are told to a collector as traces, over real sockets: what the spans say, whose trace they belong to, and what
//! happens when the collector does not take them.

mod support;

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use arriero::clock;
use arriero::config::types::{CertificateFiles, ListenerTls, MinVersion};
use arriero::demo::HostConfig;
use arriero::fleet::listener_tls::ListenerTls as Front;
use bytes::{BufMut, Bytes, BytesMut};
use futures_util::stream;
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTracePartialSuccess, ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_proto::tonic::common::v1::KeyValue;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::trace::v1::Span;
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use prost::Message;
use support::fleet::{Small, fleet, generate, reply, send, send_with};
use support::wire::{H1, proxy};
use support::{Proxy, eventually, http_yaml, ollama_yaml, upstream_yaml};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

/// A configuration with a collector that spans are sent to at once.
fn traced(yaml: &str, url: &str, more: &str) -> String {
    format!(
        "{yaml}telemetry:\n  access_log: off\n  tracing: {{ url: \"{url}\", protocol: http, interval: 10ms{more} }}\n"
    )
}

/// A collector over HTTP that takes everything.
async fn collector() -> Small {
    Small::start(|_| reply(200, "application/x-protobuf", "")).await
}

fn requests(collector: &Small) -> Vec<ExportTraceServiceRequest> {
    let decoded = |body: &Bytes| ExportTraceServiceRequest::decode(body.clone()).expect("OTLP");
    collector.got().iter().map(|got| decoded(&got.body)).collect()
}

fn spans_of(requests: Vec<ExportTraceServiceRequest>) -> Vec<Span> {
    let scopes = requests.into_iter().flat_map(|request| request.resource_spans).flat_map(|of| of.scope_spans);
    scopes.flat_map(|scope| scope.spans).collect()
}

/// What was told, once there are so many spans.
async fn told(collector: &Small, count: usize) -> Vec<Span> {
    eventually(&format!("{count} spans"), || async { spans_of(requests(collector)).len() >= count }).await;
    let spans = spans_of(requests(collector));
    assert_eq!(spans.len(), count, "{spans:#?}");
    spans
}

fn attributes(of: &[KeyValue]) -> BTreeMap<&str, String> {
    let text = |attribute: &KeyValue| match attribute.value.as_ref().and_then(|value| value.value.as_ref()) {
        Some(Value::StringValue(text)) => text.clone(),
        Some(Value::IntValue(number)) => number.to_string(),
        Some(Value::DoubleValue(_)) => "seconds".to_owned(),
        other => panic!("{other:?}"),
    };
    of.iter().map(|attribute| (attribute.key.as_str(), text(attribute))).collect()
}

fn hex(id: &[u8]) -> String {
    id.iter().map(|byte| format!("{byte:02x}")).collect()
}

async fn spans_counted(proxy: &Proxy, result: &str) -> f64 {
    proxy.metric(&format!("arriero_trace_spans_total{{result=\"{result}\"}}")).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_to_a_model_is_told_with_what_it_used_and_without_what_it_said() {
    let (fleet, collector) = (fleet(1, &["llava"]).await, collector().await);
    let proxy = proxy(traced(
        &ollama_yaml(&fleet.urls(), ""),
        &collector.url(),
        ", service_name: edge, attributes: { deployment.environment.name: test }",
    ))
    .await;
    let body =
        r#"{"model":"llava","messages":[{"role":"user","content":"a secret of mine"}],"options":{"num_predict":3}}"#;
    let answer = send_with(proxy.address(), "POST", "/api/chat?token=hidden", "User-Agent: me/1\r\n", body).await;
    assert_eq!(answer.head.status, 200);
    let spans = told(&collector, 2).await;
    let (whole, attempt) = (&spans[0], &spans[1]);
    assert_eq!((whole.name.as_str(), whole.kind), ("POST all", SpanKind::Server as i32));
    assert_eq!((attempt.name.as_str(), attempt.kind), ("chat llava:latest", SpanKind::Client as i32));
    assert!(whole.parent_span_id.is_empty());
    assert_eq!((&attempt.parent_span_id, &attempt.trace_id), (&whole.span_id, &whole.trace_id));
    assert_eq!((whole.trace_id.len(), whole.span_id.len(), attempt.span_id.len()), (16, 8, 8));
    assert!(whole.start_time_unix_nano <= attempt.start_time_unix_nano);
    assert!(attempt.start_time_unix_nano < attempt.end_time_unix_nano);
    assert!(attempt.end_time_unix_nano <= whole.end_time_unix_nano + 1_000_000);
    let known = attributes(&whole.attributes);
    for (name, value) in [
        ("http.request.method", "POST"),
        ("url.path", "/api/chat"),
        ("url.scheme", "http"),
        ("http.response.status_code", "200"),
        ("network.protocol.version", "1.1"),
        ("client.address", "127.0.0.1"),
        ("user_agent.original", "me/1"),
        ("arriero.route", "all"),
        ("arriero.upstream", "fleet"),
        ("arriero.model", "llava:latest"),
        ("arriero.reason", "ok"),
        ("http.request.body.size", &body.len().to_string()),
        ("http.response.body.size", &answer.body.len().to_string()),
        ("arriero.request_id", answer.head.field("x-request-id").expect("an id")),
    ] {
        assert_eq!(known.get(name).map(String::as_str), Some(value), "{name}");
    }
    let used = attributes(&attempt.attributes);
    let last: serde_json::Value = answer.text().lines().last().map(|line| serde_json::from_str(line).unwrap()).unwrap();
    for (name, value) in [
        ("gen_ai.operation.name", "chat"),
        ("gen_ai.provider.name", "ollama"),
        ("gen_ai.request.model", "llava:latest"),
        ("gen_ai.usage.input_tokens", &last["prompt_eval_count"].to_string()),
        ("gen_ai.usage.output_tokens", &last["eval_count"].to_string()),
        ("gen_ai.response.time_to_first_chunk", "seconds"),
        ("arriero.load_duration", "seconds"),
        ("server.address", "127.0.0.1"),
        ("server.port", &fleet.hosts[0].address().port().to_string()),
    ] {
        assert_eq!(used.get(name).map(String::as_str), Some(value), "{name}");
    }
    assert!(!used.contains_key("error.type") && attempt.status.is_none());
    let resource = requests(&collector).remove(0).resource_spans.remove(0).resource.expect("a resource");
    let resource = attributes(&resource.attributes);
    assert_eq!((resource["service.name"].as_str(), resource["deployment.environment.name"].as_str()), ("edge", "test"));
    assert_eq!(resource["service.version"], env!("CARGO_PKG_VERSION"));
    let everything = format!("{spans:?}");
    assert!(!everything.contains("secret") && !everything.contains("hidden"), "{everything}");
    assert_eq!(spans_counted(&proxy, "delivered").await, 2.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_that_come_at_once_and_embeddings_have_their_own_words() {
    let (fleet, collector) = (fleet(1, &["m"]).await, collector().await);
    let proxy = proxy(traced(&ollama_yaml(&fleet.urls(), ""), &collector.url(), "")).await;
    assert_eq!(send(proxy.address(), "POST", "/api/generate", generate("m")).await.head.status, 200);
    let spans = told(&collector, 2).await;
    assert_eq!(spans[1].name, "text_completion m:latest");
    assert!(!attributes(&spans[1].attributes).contains_key("gen_ai.response.time_to_first_chunk"), "no chunks");
    let embed = send(proxy.address(), "POST", "/v1/embeddings", r#"{"model":"m","input":"x"}"#).await;
    assert_eq!(embed.head.status, 200, "{}", embed.text());
    assert_eq!(told(&collector, 4).await[3].name, "embeddings m:latest");
    // A list of models is no question to a model.
    assert_eq!(send(proxy.address(), "GET", "/api/tags", "").await.head.status, 200);
    assert_eq!(told(&collector, 5).await[4].name, "GET all");
}

/// A plain server behind a proxy with traces.
async fn plain(more: &str) -> (Small, Small, Proxy) {
    let (server, collector) = (Small::named("a").await, collector().await);
    let proxy = proxy(traced(&http_yaml(&[server.url()], "", ""), &collector.url(), more)).await;
    (server, collector, proxy)
}

/// What the last request to a server had in a field.
fn field(server: &Small, name: &str) -> Option<String> {
    server.got().last()?.fields.get(name).map(|value| value.to_str().expect("text").to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_trace_of_a_client_goes_on() {
    let (server, collector, proxy) = plain("").await;
    let fields = format!("traceparent: {PARENT}\r\ntracestate: a=1\r\ntracestate: b=2\r\n");
    assert_eq!(send_with(proxy.address(), "GET", "/", &fields, "").await.head.status, 200);
    let spans = told(&collector, 2).await;
    assert!(spans.iter().all(|span| hex(&span.trace_id) == "4bf92f3577b34da6a3ce929d0e0e4736"));
    assert_eq!(
        (hex(&spans[0].parent_span_id).as_str(), spans[0].trace_state.as_str()),
        ("00f067aa0ba902b7", "a=1,b=2")
    );
    let passed_on = format!("00-4bf92f3577b34da6a3ce929d0e0e4736-{}-01", hex(&spans[1].span_id));
    assert_eq!(field(&server, "traceparent"), Some(passed_on), "the server is a child of the attempt");
    let states = server.got().last().expect("a request").fields.get_all("tracestate").iter().count();
    assert_eq!(states, 2, "what others wrote is not changed");
    let long = format!("traceparent: {PARENT}\r\ntracestate: a={}\r\n", "1".repeat(600));
    assert_eq!(send_with(proxy.address(), "GET", "/", &long, "").await.head.status, 200);
    assert_eq!(told(&collector, 4).await[2].trace_state, "", "too long to be kept");
    assert_eq!(field(&server, "tracestate").map(|state| state.len()), Some(602));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_is_not_told_is_not_told_and_its_place_is_passed_on() {
    let (server, collector, proxy) = plain("").await;
    let quiet = format!("{}00", &PARENT[..53]);
    let fields = format!("traceparent: {quiet}\r\n");
    assert_eq!(send_with(proxy.address(), "GET", "/quiet", &fields, "").await.head.status, 200);
    let passed = field(&server, "traceparent").expect("passed on");
    assert!(passed.starts_with(&quiet[..36]) && passed.ends_with("-00") && passed != quiet, "{passed}");
    assert_eq!(send(proxy.address(), "GET", "/loud", "").await.head.status, 200);
    let spans = told(&collector, 2).await;
    assert_eq!(attributes(&spans[0].attributes)["url.path"], "/loud");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_parent_that_is_ignored_or_is_none_begins_nothing() {
    let twice = format!("{PARENT}\r\ntraceparent: {PARENT}");
    for (more, parent) in [(", parent: ignore", PARENT), ("", "00-zz"), ("", ""), ("", &*twice)] {
        let (server, collector, proxy) = plain(more).await;
        let fields = format!("traceparent: {parent}\r\ntracestate: a=1\r\n");
        assert_eq!(send_with(proxy.address(), "GET", "/", &fields, "").await.head.status, 200);
        let spans = told(&collector, 2).await;
        assert!(spans[0].parent_span_id.is_empty() && spans[0].trace_state.is_empty());
        assert_ne!(hex(&spans[0].trace_id), "4bf92f3577b34da6a3ce929d0e0e4736");
        assert!(field(&server, "traceparent").expect("one of ours").contains(&hex(&spans[0].trace_id)));
        assert_eq!(field(&server, "tracestate"), None, "it belongs to a trace that is not gone on with");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_traces_nothing_is_changed_and_with_a_share_of_none_nothing_is_told() {
    let server = Small::named("a").await;
    let off = proxy(http_yaml(&[server.url()], "", "")).await;
    let fields = format!("traceparent: {PARENT}\r\ntracestate: a=1\r\n");
    assert_eq!(send_with(off.address(), "GET", "/", &fields, "").await.head.status, 200);
    assert_eq!(
        (field(&server, "traceparent").as_deref(), field(&server, "tracestate").as_deref()),
        (Some(PARENT), Some("a=1"))
    );
    assert_eq!(send(off.address(), "GET", "/", "").await.head.status, 200);
    assert_eq!(field(&server, "traceparent"), None);

    let (server, collector, proxy) = plain(", sample: 0%").await;
    assert_eq!(send(proxy.address(), "GET", "/not", "").await.head.status, 200);
    assert!(field(&server, "traceparent").expect("one of ours").ends_with("-00"));
    // Whoever is told elsewhere is told here too.
    let fields = format!("traceparent: {PARENT}\r\n");
    assert_eq!(send_with(proxy.address(), "GET", "/told", &fields, "").await.head.status, 200);
    assert_eq!(attributes(&told(&collector, 2).await[0].attributes)["url.path"], "/told");
}

#[tokio::test(flavor = "multi_thread")]
async fn each_attempt_and_each_wait_has_a_span() {
    let (bad, good, collector) =
        (Small::start(|_| reply(503, "text/plain", "busy")).await, Small::named("good").await, collector().await);
    let urls = [bad.url(), good.url()];
    let retried =
        upstream_yaml("http", &urls, "retry: { attempts: 2, on: [\"503\"] }", "balance: { policy: round_robin }");
    let proxy = proxy(traced(&retried, &collector.url(), "")).await;
    let attempts = |spans: Vec<Span>| -> Vec<Span> {
        spans.into_iter().filter(|span| span.kind == SpanKind::Client as i32).collect()
    };
    let again = |span: &Span| attributes(&span.attributes).contains_key("http.request.resend_count");
    eventually("one began at the server that fails", || async {
        assert_eq!(send(proxy.address(), "GET", "/", "").await.head.status, 200);
        attempts(spans_of(requests(&collector))).iter().any(again)
    })
    .await;
    let attempts = attempts(spans_of(requests(&collector)));
    let second = attempts.iter().find(|span| again(span)).expect("one");
    let first = attempts.iter().find(|span| span.parent_span_id == second.parent_span_id).expect("the one before");
    assert_ne!(first.span_id, second.span_id);
    let of = attributes(&first.attributes);
    assert_eq!((of["http.response.status_code"].as_str(), of["error.type"].as_str()), ("503", "503"));
    assert!(first.status.is_some() && second.status.is_none());
    assert_eq!(attributes(&second.attributes)["http.request.resend_count"], "1");
    assert!(first.end_time_unix_nano <= second.start_time_unix_nano + 1_000_000);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_waits_for_a_slot_has_a_span_for_it() {
    let host = HostConfig::new("one").small_model("m").token_interval(std::time::Duration::from_millis(20));
    let (fleet, collector) = (arriero::demo::Fleet::start(vec![host]).await.expect("a fleet"), collector().await);
    let yaml = upstream_yaml("ollama", &fleet.urls(), "", "").replace("url:", "max_in_flight: 1, url:");
    let proxy = proxy(traced(&yaml, &collector.url(), "")).await;
    let body = r#"{"model":"m","prompt":"x","options":{"num_predict":10}}"#;
    let ask = || send(proxy.address(), "POST", "/api/generate", body);
    let (one, other) = tokio::join!(ask(), ask());
    assert_eq!((one.head.status, other.head.status), (200, 200));
    eventually("a wait is told", || async { spans_of(requests(&collector)).iter().any(|span| span.name == "queue") })
        .await;
    eventually("both are told", || async {
        spans_of(requests(&collector)).iter().filter(|span| span.kind == SpanKind::Server as i32).count() == 2
    })
    .await;
    let spans = spans_of(requests(&collector));
    let wait = spans.iter().find(|span| span.name == "queue").expect("a wait");
    let siblings = spans.iter().filter(|span| span.parent_span_id == wait.parent_span_id).count();
    assert_eq!((wait.kind, siblings), (SpanKind::Internal as i32, 2), "beside it its attempt");
    assert!(wait.end_time_unix_nano - wait.start_time_unix_nano > 50_000_000, "ten tokens of 20 ms are before it");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_waits_in_vain_has_a_span_for_it_too() {
    let (fleet, collector) = (fleet(1, &["m"]).await, collector().await);
    let yaml = upstream_yaml("ollama", &fleet.urls(), "", "queue: { timeout: 100ms }")
        .replace("url:", "max_in_flight: 1, url:");
    let proxy = proxy(traced(&yaml, &collector.url(), "")).await;
    fleet.hosts[0].token_gate().close();
    let address = proxy.address();
    let ask = || send(address, "POST", "/api/generate", r#"{"model":"m","prompt":"x"}"#);
    let first = tokio::spawn(ask());
    eventually("the slot is taken", || async {
        proxy.metric("arriero_requests_in_flight{route=\"all\"}").await == 1.0
    })
    .await;
    assert_eq!(ask().await.reason(), Some("queue_timeout"));
    let spans = told(&collector, 2).await;
    assert_eq!((spans[0].kind, spans[1].name.as_str()), (SpanKind::Server as i32, "queue"));
    assert_eq!(attributes(&spans[0].attributes)["error.type"], "queue_timeout");
    assert!(spans[0].status.is_some(), "503 is a failure");
    assert!(spans[1].end_time_unix_nano - spans[1].start_time_unix_nano >= 100_000_000);
    fleet.hosts[0].token_gate().open();
    assert_eq!(first.await.expect("an answer").head.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_collector_cannot_take_now_is_sent_again_and_what_it_refuses_is_not() {
    let server = Small::named("a").await;
    let asked = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&asked);
    let moody = Small::start(move |_| {
        let status = if counted.fetch_add(1, Ordering::Relaxed) == 0 { 503 } else { 200 };
        reply(status, "application/x-protobuf", "")
    })
    .await;
    let proxy = proxy(traced(&http_yaml(&[server.url()], "", ""), &moody.url(), "")).await;
    assert_eq!(send(proxy.address(), "GET", "/", "").await.head.status, 200);
    eventually("the same spans came again", || async { spans_counted(&proxy, "delivered").await == 2.0 }).await;
    let sent = requests(&moody);
    assert_eq!((sent.len(), &sent[0]), (2, &sent[1]));
    assert_eq!(spans_counted(&proxy, "failed").await, 0.0);

    let strict = Small::start(|_| reply(400, "text/plain", "no")).await;
    proxy.rewrite(&traced(&http_yaml(&[server.url()], "", ""), &strict.url(), ""));
    eventually("the other collector is asked", || async {
        assert_eq!(send(proxy.address(), "GET", "/", "").await.head.status, 200);
        spans_counted(&proxy, "failed").await >= 2.0
    })
    .await;
    let seen = strict.got().len();
    assert!(spans_of(requests(&strict)).len() <= 2 * server.got().len(), "{seen} requests: nothing came twice");

    let picky = ExportTraceServiceResponse {
        partial_success: Some(ExportTracePartialSuccess { rejected_spans: 1, error_message: "odd".into() }),
    };
    let picky = Bytes::from(picky.encode_to_vec());
    let picky = Small::start(move |_| reply(200, "application/x-protobuf", picky.clone())).await;
    proxy.rewrite(&traced(&http_yaml(&[server.url()], "", ""), &picky.url(), ""));
    eventually("one span was refused", || async {
        assert_eq!(send(proxy.address(), "GET", "/", "").await.head.status, 200);
        spans_counted(&proxy, "refused").await >= 1.0
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reload_begins_and_ends_it_and_a_stop_sends_what_is_left() {
    let (server, collector) = (Small::named("a").await, collector().await);
    let plain = http_yaml(&[server.url()], "", "");
    let mut proxy = proxy(plain.clone()).await;
    proxy.rewrite(&traced(&plain, &collector.url(), ", token_file: \"@\"").replace(", token_file: \"@\"", ""));
    eventually("it has begun", || async {
        assert_eq!(send(proxy.address(), "GET", "/", "").await.head.status, 200);
        !requests(&collector).is_empty()
    })
    .await;
    proxy.rewrite(&plain);
    eventually("it has ended", || async {
        assert_eq!(send(proxy.address(), "GET", "/", "").await.head.status, 200);
        field(&server, "traceparent").is_none()
    })
    .await;
    // So long an interval that nothing is sent before the stop.
    let slow = traced(&plain, &collector.url(), "").replace("10ms", "1m");
    proxy.rewrite(&slow);
    let known = spans_of(requests(&collector)).len();
    eventually("it has begun again", || async {
        assert_eq!(send(proxy.address(), "GET", "/last", "").await.head.status, 200);
        field(&server, "traceparent").is_some()
    })
    .await;
    let running = proxy.running.take().expect("running");
    tokio::task::spawn_blocking(move || running.stop()).await.expect("it stops");
    let spans = spans_of(requests(&collector)).split_off(known);
    assert!(spans.iter().any(|span| attributes(&span.attributes).get("url.path").is_some_and(|path| path == "/last")));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_with_tls_is_checked_and_shown_the_token() {
    let (server, folder) = (Small::named("a").await, tempfile::tempdir().expect("a folder"));
    let authority = support::authority::Authority::new("ca");
    authority.issue(&["localhost"]).write(folder.path(), "collector");
    std::fs::write(folder.path().join("ca.pem"), authority.pem()).expect("written");
    std::fs::write(folder.path().join("token"), "for the collector\n").expect("written");
    let (calls, address) = grpc(Some(folder.path().to_owned())).await;
    let at = |name: &str| folder.path().join(name).display().to_string();
    let more = format!(
        ", headers: {{ x-tenant: \"7\" }}, token_file: \"{}\", tls: {{ ca: \"{}\" }}",
        at("token"),
        at("ca.pem")
    );
    let yaml = traced(&http_yaml(&[server.url()], "", ""), &format!("https://localhost:{}", address.port()), &more)
        .replace("protocol: http", "protocol: grpc");
    let proxy = proxy(yaml).await;
    assert_eq!(send(proxy.address(), "GET", "/", "").await.head.status, 200);
    eventually("the spans came", || async { spans_counted(&proxy, "delivered").await == 2.0 }).await;
    let calls = calls.lock().unwrap();
    let (path, fields, message) = calls.last().expect("a call");
    assert_eq!(path, "/opentelemetry.proto.collector.trace.v1.TraceService/Export");
    assert_eq!(fields["authorization"], "Bearer for the collector");
    assert_eq!(
        (&fields["x-tenant"], &fields["content-type"]),
        (&HeaderValue::from_static("7"), &HeaderValue::from_static("application/grpc"))
    );
    assert_eq!(spans_of(vec![message.clone()]).len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_that_is_not_trusted_is_told_nothing() {
    let (server, folder) = (Small::named("a").await, tempfile::tempdir().expect("a folder"));
    let (authority, other) = (support::authority::Authority::new("ca"), support::authority::Authority::new("other"));
    authority.issue(&["localhost"]).write(folder.path(), "collector");
    std::fs::write(folder.path().join("ca.pem"), other.pem()).expect("written");
    let (calls, address) = grpc(Some(folder.path().to_owned())).await;
    let more = format!(", tls: {{ ca: \"{}\" }}, timeout: 1s", folder.path().join("ca.pem").display());
    let yaml = traced(&http_yaml(&[server.url()], "", ""), &format!("https://localhost:{}", address.port()), &more)
        .replace("protocol: http", "protocol: grpc");
    let mut proxy = proxy(yaml).await;
    assert_eq!(send(proxy.address(), "GET", "/", "").await.head.status, 200);
    // A stop sends once more, and that is the end of it.
    let running = proxy.running.take().expect("running");
    tokio::task::spawn_blocking(move || running.stop()).await.expect("it stops");
    assert!(calls.lock().unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_over_grpc_that_is_away_is_told_when_it_is_back() {
    let server = Small::named("a").await;
    // Taken and given back: nobody listens there for the moment.
    let address =
        TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a socket").local_addr().expect("its address");
    let yaml = traced(&http_yaml(&[server.url()], "", ""), &format!("http://{address}"), "")
        .replace("protocol: http", "protocol: grpc");
    let proxy = proxy(yaml).await;
    assert_eq!(send(proxy.address(), "GET", "/", "").await.head.status, 200);
    let (calls, _) = grpc_at(address, None).await;
    eventually("the spans came", || async { spans_counted(&proxy, "delivered").await == 2.0 }).await;
    assert_eq!(calls.lock().unwrap().len(), 1);
}

type Calls = Arc<Mutex<Vec<(String, HeaderMap, ExportTraceServiceRequest)>>>;

/// A collector over gRPC, written against the protocol alone: `grpc-status` 14 for the first `failures`, then 0.
async fn grpc(tls: Option<std::path::PathBuf>) -> (Calls, SocketAddr) {
    grpc_at((Ipv4Addr::LOCALHOST, 0).into(), tls).await
}

async fn grpc_at(address: SocketAddr, tls: Option<std::path::PathBuf>) -> (Calls, SocketAddr) {
    let listener = TcpListener::bind(address).await.expect("a socket");
    let (address, calls) = (listener.local_addr().expect("its address"), Calls::default());
    let acceptor = tls.map(|folder| {
        let settings = ListenerTls {
            certificates: vec![CertificateFiles {
                cert: folder.join("collector.pem").display().to_string(),
                key: folder.join("collector.key").display().to_string(),
                ocsp: None,
            }],
            min_version: MinVersion::Tls12,
            client_ca: None,
            client_auth: None,
        };
        let front = Front::load(&settings, clock::unix_seconds());
        TlsAcceptor::from(front.expect("TLS").server_config())
    });
    let kept = Arc::clone(&calls);
    tokio::spawn(async move {
        while let Ok((tcp, _)) = listener.accept().await {
            let (calls, acceptor) = (Arc::clone(&kept), acceptor.clone());
            tokio::spawn(async move {
                let service = service_fn(move |request| answer(Arc::clone(&calls), request));
                let builder = http2::Builder::new(TokioExecutor::new());
                match acceptor {
                    None => drop(builder.serve_connection(TokioIo::new(tcp), service).await),
                    Some(acceptor) => {
                        let Ok(tls) = acceptor.accept(tcp).await else { return };
                        drop(builder.serve_connection(TokioIo::new(tls), service).await);
                    }
                }
            });
        }
    });
    (calls, address)
}

async fn answer(
    calls: Calls,
    request: Request<Incoming>,
) -> Result<Response<StreamBody<stream::Iter<std::vec::IntoIter<Result<Frame<Bytes>, Infallible>>>>>, Infallible> {
    let (head, body) = request.into_parts();
    let body = body.collect().await.expect("a body").to_bytes();
    assert_eq!(body[0], 0, "not compressed");
    let message = ExportTraceServiceRequest::decode(&body[5..]).expect("OTLP");
    calls.lock().unwrap().push((head.uri.path().to_owned(), head.headers, message));
    let mut empty = BytesMut::new();
    empty.put_slice(&[0; 5]);
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from_static("0"));
    let frames = vec![Ok(Frame::data(empty.freeze())), Ok(Frame::trailers(trailers))];
    Ok(Response::builder()
        .header("content-type", "application/grpc")
        .body(StreamBody::new(stream::iter(frames)))
        .expect("an answer"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_leaves_is_told_as_it_ended() {
    let host = HostConfig::new("one").small_model("m").token_interval(std::time::Duration::from_millis(20));
    let (fleet, collector) = (arriero::demo::Fleet::start(vec![host]).await.expect("a fleet"), collector().await);
    let proxy = proxy(traced(&ollama_yaml(&fleet.urls(), ""), &collector.url(), "")).await;
    let mut client = H1::connect(proxy.address()).await;
    let body = r#"{"model":"m","prompt":"x","options":{"num_predict":500}}"#;
    client.send(support::fleet::request("POST", "/api/generate", "", body)).await;
    assert_eq!(client.reader.head().await.status, 200);
    drop(client);
    let spans = told(&collector, 2).await;
    let whole = attributes(&spans[0].attributes);
    assert_eq!((whole["arriero.reason"].as_str(), whole["error.type"].as_str()), ("client_closed", "client_closed"));
    assert!(spans[0].status.is_none(), "that is no failure of the proxy");
}
