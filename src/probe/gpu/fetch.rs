//! One GET whose answer is given on piece by piece.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, StatusCode, header};
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http1;
use hyper::rt::{Read, Write};
use hyper_util::rt::TokioIo;
use tokio::task::JoinSet;

use super::super::client::Fault;
use super::super::webhook;
use crate::config::WebhookUrl;
use crate::policy::recovery::Class;

/// What is asked for.
#[derive(Clone, Copy)]
pub struct Question<'q> {
    /// Where.
    pub url: &'q WebhookUrl,
    /// The token that is shown.
    pub token: Option<&'q str>,
    /// The media type that is wanted.
    pub accept: &'static str,
    /// Largest answer that is read.
    pub most: u64,
    /// How long everything may take, from the look-up of the name to the last byte.
    pub deadline: Duration,
}

/// Asks, and gives the body of an answer with status 200 to `each` as it comes.
///
/// # Errors
/// Everything else, in words that stay the same as long as the cause does. What was given to `each` before is worth nothing then.
pub async fn get(question: Question<'_>, each: impl FnMut(&[u8])) -> Result<(), Fault> {
    match tokio::time::timeout(question.deadline, exchange(question, each)).await {
        Ok(outcome) => outcome,
        Err(_) => Err(Fault::new(Class::Timeout, format!("no answer within {:?}", question.deadline))),
    }
}

async fn exchange(question: Question<'_>, each: impl FnMut(&[u8])) -> Result<(), Fault> {
    let request = request(question)?;
    let tcp = webhook::connect(question.url).await?;
    if question.url.tls {
        read(TokioIo::new(webhook::secure(question.url, tcp).await?), request, question.most, each).await
    } else {
        read(TokioIo::new(tcp), request, question.most, each).await
    }
}

fn request(question: Question<'_>) -> Result<Request<Empty<Bytes>>, Fault> {
    let broken = |error| Fault::new(Class::Protocol, error);
    let mut request = Request::get(&question.url.target)
        .header(header::HOST, question.url.address.to_string())
        .header(header::USER_AGENT, concat!("arriero/", env!("CARGO_PKG_VERSION")))
        .header(header::ACCEPT, question.accept)
        .header(header::CONNECTION, "close")
        .body(Empty::new())
        .map_err(|error| broken(error.to_string()))?;
    if let Some(token) = question.token {
        let mut value = HeaderValue::from_str(&format!("Bearer {token}"))
            .map_err(|_| broken("the token has characters that no token has".to_owned()))?;
        value.set_sensitive(true);
        request.headers_mut().insert(header::AUTHORIZATION, value);
    }
    Ok(request)
}

async fn read<I>(io: I, request: Request<Empty<Bytes>>, most: u64, mut each: impl FnMut(&[u8])) -> Result<(), Fault>
where
    I: Read + Write + Unpin + Send + 'static,
{
    let broken = |error: hyper::Error| Fault::new(Class::Protocol, error);
    let has_token = request.headers().contains_key(header::AUTHORIZATION);
    // Ends the connection's own task when this function returns or is dropped.
    let mut connection = JoinSet::new();
    let (mut sender, driver) = http1::handshake(io).await.map_err(broken)?;
    connection.spawn(driver);
    let response = sender.send_request(request).await.map_err(broken)?;
    judge(response.status(), response.headers(), has_token)?;
    let mut body = response.into_body();
    let mut length = 0_u64;
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|_| Fault::new(Class::Protocol, "the answer broke off"))?;
        let Some(data) = frame.data_ref() else { continue };
        length = length.saturating_add(u64::try_from(data.len()).unwrap_or(u64::MAX));
        if length > most {
            return Err(Fault::new(Class::Protocol, format!("the answer is longer than {} MiB", most >> 20)));
        }
        each(data);
    }
    Ok(())
}

/// Whether the body is worth reading.
fn judge(status: StatusCode, fields: &HeaderMap, has_token: bool) -> Result<(), Fault> {
    let code = status.as_u16();
    let text = match code {
        200 => {
            let encoding = fields.get(header::CONTENT_ENCODING).filter(|encoding| *encoding != "identity");
            let compressed = |_| Fault::new(Class::Protocol, "the answer is compressed, which was not asked for");
            return encoding.map_or(Ok(()), |encoding| Err(compressed(encoding)));
        }
        401 | 403 if has_token => format!("status {code}: the token is not the right one"),
        401 | 403 => format!("status {code}: a token is needed"),
        300..=399 => format!("status {code}: redirects are not followed, write the URL that it leads to"),
        _ => format!("status {code}"),
    };
    Err(Fault::new(Class::Status, text))
}
