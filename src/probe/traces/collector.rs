//! The way to one collector: OTLP over gRPC or over HTTP.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Uri, header};
use http_body_util::Full;
use hyper_util::rt::TokioIo;
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_client::TraceServiceClient;
use opentelemetry_proto::tonic::collector::trace::v1::{ExportTraceServiceRequest, ExportTraceServiceResponse};
use prost::Message;
use tonic::Code;
use tonic::metadata::MetadataMap;
use tonic::transport::{Channel, Endpoint};
use tower::service_fn;

use crate::config::types::OtlpProtocol;
use crate::fleet::tracing::{Collector, Tracing};
use crate::probe::client::Fault;
use crate::probe::webhook::{self, Stream};

/// Why a collector did not take spans.
#[derive(Debug)]
pub struct Refusal {
    /// Whether the same spans may be taken another time.
    pub again: bool,
    /// How long it wants to be left alone.
    pub after: Option<Duration>,
    /// For the log.
    pub text: String,
}

impl Refusal {
    /// It may go better another time.
    fn passing(text: impl ToString) -> Self {
        Self { again: true, after: None, text: text.to_string() }
    }
}

impl From<Fault> for Refusal {
    fn from(fault: Fault) -> Self {
        Self::passing(fault.text)
    }
}

/// The way to a collector.
pub struct Link {
    tracing: Arc<Tracing>,
    /// Where gRPC is spoken.
    channel: Option<Channel>,
}

impl Link {
    /// The way to the collector of a configuration. Nothing is connected yet.
    pub fn new(tracing: Arc<Tracing>) -> Self {
        let channel = (tracing.collector.protocol == OtlpProtocol::Grpc).then(|| channel(&tracing)).flatten();
        Self { tracing, channel }
    }

    /// Whether it is that of this configuration.
    pub fn leads_to(&self, tracing: &Arc<Tracing>) -> bool {
        Arc::ptr_eq(&self.tracing, tracing)
    }

    /// Sends spans; returns how many of them the collector did not want.
    pub async fn send(&self, request: ExportTraceServiceRequest) -> Result<u64, Refusal> {
        let collector = &self.tracing.collector;
        let sent = async {
            match collector.protocol {
                OtlpProtocol::Grpc => self.call(request).await,
                OtlpProtocol::Http => post(collector, &request).await,
            }
        };
        let answer = tokio::time::timeout(collector.timeout, sent).await;
        let answer = answer.map_err(|_| Refusal::passing(format!("no answer within {:?}", collector.timeout)))??;
        let refused = answer.partial_success.filter(|partial| partial.rejected_spans > 0);
        if let Some(partial) = &refused {
            tracing::debug!(spans = partial.rejected_spans, why = partial.error_message, "the collector refused spans");
        }
        Ok(refused.and_then(|partial| u64::try_from(partial.rejected_spans).ok()).unwrap_or(0))
    }

    async fn call(&self, message: ExportTraceServiceRequest) -> Result<ExportTraceServiceResponse, Refusal> {
        let channel = self.channel.clone().ok_or_else(|| Refusal::passing("its URL is not one for gRPC"))?;
        let mut request = tonic::Request::new(message);
        *request.metadata_mut() = MetadataMap::from_headers(fields(&self.tracing.collector).await?);
        let answer = TraceServiceClient::new(channel).export(request).await;
        answer.map(tonic::Response::into_inner).map_err(|status| Refusal {
            again: is_passing(status.code()),
            after: None,
            text: match status.message() {
                "" => status.code().description().to_owned(),
                message => message.to_owned(),
            },
        })
    }
}

/// Connects when it is used, and again when that broke.
fn channel(tracing: &Arc<Tracing>) -> Option<Channel> {
    let url = &tracing.collector.url;
    let (scheme, address) = (if url.tls { "https" } else { "http" }, url.address.to_string());
    // What is connected is ours to say; the endpoint is there for the fields of requests alone.
    let origin: Uri = format!("{scheme}://{address}").parse().ok()?;
    let endpoint = Endpoint::from_shared(format!("http://{address}")).ok()?.origin(origin);
    let endpoint = endpoint.user_agent(concat!("arriero/", env!("CARGO_PKG_VERSION"))).ok()?;
    let tracing = Arc::clone(tracing);
    Some(
        endpoint.connect_with_connector_lazy(service_fn(move |_: Uri| {
            let tracing = Arc::clone(&tracing);
            async move {
                open(&tracing.collector).await.map(TokioIo::new).map_err(|fault| std::io::Error::other(fault.text))
            }
        })),
    )
}

async fn open(collector: &Collector) -> Result<Stream, Fault> {
    webhook::open(&collector.url, collector.tls.as_ref()).await
}

/// OTLP specification, Failures: which codes say that it may go better another time. `RESOURCE_EXHAUSTED` does with a `RetryInfo` only,
/// without one the message may be too long, and stays so.
fn is_passing(code: Code) -> bool {
    matches!(
        code,
        Code::Cancelled
            | Code::DeadlineExceeded
            | Code::Aborted
            | Code::OutOfRange
            | Code::Unavailable
            | Code::DataLoss
            // So does tonic call a connection that could not be opened, or broke.
            | Code::Unknown
    )
}

async fn post(
    collector: &Collector,
    message: &ExportTraceServiceRequest,
) -> Result<ExportTraceServiceResponse, Refusal> {
    let mut request = Request::post(&collector.url.target)
        .header(header::USER_AGENT, concat!("arriero/", env!("CARGO_PKG_VERSION")))
        .header(header::CONTENT_TYPE, "application/x-protobuf")
        .header(header::CONNECTION, "close")
        .body(Full::new(Bytes::from(message.encode_to_vec())))
        .map_err(Refusal::passing)?;
    request.headers_mut().extend(fields(collector).await?);
    let host = HeaderValue::try_from(collector.url.address.to_string()).map_err(Refusal::passing)?;
    request.headers_mut().insert(header::HOST, host);
    let answer = webhook::ask(TokioIo::new(open(collector).await?), request).await?;
    match answer.status {
        // What cannot be read says nothing about spans that were refused.
        200..=299 => Ok(ExportTraceServiceResponse::decode(answer.body).unwrap_or_default()),
        status => Err(Refusal {
            again: matches!(status, 429 | 502 | 503 | 504),
            after: answer.retry_after,
            text: format!("status {status}"),
        }),
    }
}

/// The fields that the configuration adds.
async fn fields(collector: &Collector) -> Result<HeaderMap, Refusal> {
    let mut fields: HeaderMap = collector.headers.iter().cloned().collect();
    if let Some(file) = &collector.token_file {
        let token = tokio::fs::read_to_string(file).await;
        let token = token.map_err(|error| Refusal::passing(format!("the token cannot be read: {error}")))?;
        let value = HeaderValue::try_from(format!("Bearer {}", token.trim()));
        let mut value = value.map_err(|_| Refusal::passing("the token cannot be sent in a header field"))?;
        value.set_sensitive(true);
        fields.insert(header::AUTHORIZATION, value);
    }
    Ok(fields)
}
