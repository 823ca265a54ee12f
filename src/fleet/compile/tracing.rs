//! Traces.

use std::sync::Arc;

use http::{HeaderName, HeaderValue};

use super::{CompileError, error};
use crate::config::WebhookUrl;
use crate::config::types::{self, OtlpProtocol};
use crate::fleet::tracing::{Collector, Tracing};
use crate::fleet::upstream_tls::UpstreamTls;
use crate::policy::trace::{Parent, Sampler};

/// Where a collector takes spans over HTTP, unless its URL says otherwise (OTLP specification, OTLP/HTTP Request).
const PATH: &str = "/v1/traces";

pub(super) fn compile(tracing: Option<&types::Tracing>) -> Result<Option<Arc<Tracing>>, CompileError> {
    let Some(tracing) = tracing else { return Ok(None) };
    let path = |key: &str| format!("telemetry.tracing.{key}");
    let mut url = WebhookUrl::parse(&tracing.url).map_err(|problem| error(path("url"), problem))?;
    if tracing.protocol == OtlpProtocol::Http && url.target == "/" {
        PATH.clone_into(&mut url.target);
    }
    let field = |(name, value): (&String, &String)| {
        let name = HeaderName::try_from(name).map_err(|bad| error(path("headers"), bad))?;
        Ok((name, HeaderValue::try_from(value).map_err(|bad| error(path("headers"), bad))?))
    };
    let http2 = tracing.protocol == OtlpProtocol::Grpc;
    let tls = url.tls.then(|| UpstreamTls::load(tracing.tls.clone().unwrap_or_default(), http2)).transpose();
    let mut attributes = tracing.attributes.clone();
    attributes.insert("service.name".to_owned(), tracing.service_name.clone());
    attributes.entry("service.version".to_owned()).or_insert_with(|| env!("CARGO_PKG_VERSION").to_owned());
    Ok(Some(Arc::new(Tracing {
        sampler: Sampler {
            share: tracing.sample,
            parent: match tracing.parent {
                types::TraceParent::Follow => Parent::Follow,
                types::TraceParent::Ignore => Parent::Ignore,
            },
        },
        collector: Collector {
            url,
            protocol: tracing.protocol,
            headers: tracing.headers.iter().map(field).collect::<Result<_, CompileError>>()?,
            token_file: tracing.token_file.clone(),
            tls: tls.map_err(|problem| error(path("tls"), problem))?,
            interval: tracing.interval.0,
            timeout: tracing.timeout.0,
            attributes: attributes.into_iter().collect(),
        },
    })))
}
