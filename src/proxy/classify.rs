//! From Pingora's errors to the one list of reasons.

use std::io;

use pingora_error::{Error, ErrorSource, ErrorType, RetryType};

use super::context::RequestContext;
use crate::policy::failure::Reason;
use crate::policy::retry::Failure;

/// Why an attempt or a request failed.
pub fn reason(error: &Error, ctx: &RequestContext) -> Reason {
    if ctx.connection.as_ref().is_some_and(|connection| connection.watch.client_left()) {
        return Reason::ClientClosed;
    }
    if ctx.deadline.is_expired() {
        return timed_out(ctx);
    }
    if let Some(reason) = ctx.reason {
        return reason;
    }
    match error.esource() {
        ErrorSource::Downstream => of_client(error, ctx),
        ErrorSource::Upstream => of_server(error, ctx),
        ErrorSource::Internal | ErrorSource::Unset => match error.etype() {
            ErrorType::ConnectTimedout | ErrorType::ConnectRefused | ErrorType::ConnectNoRoute => of_server(error, ctx),
            _ => Reason::Internal,
        },
    }
}

/// Which of the request's time limits ran out.
fn timed_out(ctx: &RequestContext) -> Reason {
    if ctx.deadline.is_total() {
        Reason::RequestTimeout
    } else if response_began(ctx) {
        Reason::ReadTimeout
    } else if !ctx.sent {
        Reason::WriteTimeout
    } else {
        Reason::FirstByteTimeout
    }
}

fn response_began(ctx: &RequestContext) -> bool {
    ctx.attempt.as_ref().is_some_and(|attempt| attempt.first_byte.is_some())
}

/// A failure on the client's side.
pub fn of_client(error: &Error, ctx: &RequestContext) -> Reason {
    if ctx.deadline.is_expired() {
        return timed_out(ctx);
    }
    match error.etype() {
        ErrorType::WriteTimedout => return Reason::ClientStalled,
        ErrorType::ReadTimedout => return Reason::BodyTimeout,
        ErrorType::H2Error if left_over_http2(error) => return Reason::ClientClosed,
        ErrorType::InvalidHTTPHeader | ErrorType::InvalidH2 | ErrorType::H2Error => return Reason::BadRequest,
        ErrorType::Custom("InvalidChunk" | "InvalidTrailerEnd") => return Reason::BadRequest,
        _ => {}
    }
    match error.root_cause().downcast_ref::<io::Error>().map(io::Error::kind) {
        Some(io::ErrorKind::TimedOut) => Reason::BodyTimeout,
        Some(io::ErrorKind::InvalidData) => Reason::BadRequest,
        _ => Reason::ClientClosed,
    }
}

/// Whether a client ended its stream or its connection, rather than broke the protocol.
fn left_over_http2(error: &Error) -> bool {
    match error.root_cause().downcast_ref::<h2::Error>() {
        Some(cause) => cause.is_io() || cause.is_remote() && cause.reason() != Some(h2::Reason::PROTOCOL_ERROR),
        None => true,
    }
}

fn of_server(error: &Error, ctx: &RequestContext) -> Reason {
    let broken = if response_began(ctx) { Reason::UpstreamTruncated } else { Reason::UpstreamReset };
    match error.etype() {
        ErrorType::ConnectTimedout => Reason::ConnectTimeout,
        ErrorType::TLSHandshakeFailure | ErrorType::TLSHandshakeTimedout | ErrorType::InvalidCert => Reason::TlsFailed,
        ErrorType::ConnectRefused
        | ErrorType::ConnectNoRoute
        | ErrorType::ConnectError
        | ErrorType::SocketError
        | ErrorType::BindError
        | ErrorType::HandshakeError
        | ErrorType::ConnectProxyFailure => Reason::ConnectFailed,
        ErrorType::ReadTimedout if response_began(ctx) => Reason::ReadTimeout,
        ErrorType::ReadTimedout => Reason::FirstByteTimeout,
        ErrorType::WriteTimedout => Reason::WriteTimeout,
        ErrorType::HTTPStatus(_) => Reason::UpstreamError,
        ErrorType::InvalidHTTPHeader | ErrorType::InvalidH2 | ErrorType::H1Error | ErrorType::H2Downgrade => {
            Reason::UpstreamProtocol
        }
        ErrorType::Custom(_) => Reason::UpstreamProtocol,
        _ => broken,
    }
}

/// What kind of failure a reason is for the rule of retries.
pub fn failure(reason: Reason, error: &Error, ctx: &RequestContext, reused: bool) -> Failure {
    match reason {
        Reason::ConnectFailed | Reason::ConnectTimeout | Reason::TlsFailed => Failure::Connect,
        Reason::UpstreamReset if reused && stale(error, ctx) => Failure::StaleConnection,
        Reason::UpstreamReset => Failure::Reset,
        Reason::FirstByteTimeout => Failure::FirstByteTimeout,
        Reason::UpstreamError => match error.etype() {
            ErrorType::HTTPStatus(status) => Failure::Status(*status),
            _ => Failure::Other,
        },
        _ => Failure::Other,
    }
}

/// Whether a connection from the pool had ended before the server read the request. When even writing
/// failed, it had. When everything was written, only the answer is missing and a server may have begun to
/// work: then a request is sent again only if doing it twice is as good as once (RFC 9110 9.2.2).
fn stale(error: &Error, ctx: &RequestContext) -> bool {
    match error.etype() {
        ErrorType::WriteError => true,
        _ => error.retry == RetryType::ReusedOnly && ctx.idempotent,
    }
}
