//! Writes an answer, piece by piece: ten thousand embeddings are a hundred megabytes of text.

use bytes::Bytes;
use http::{HeaderValue, StatusCode, header};

use super::asked::Asked;
use super::fetch::Fetched;
use super::{Batch, take_turns};
use crate::clock;
use crate::ollama::embeddings::{Frame, write_item};
use crate::policy::failure::Reason;
use crate::proxy::context::{Exchange, Stop};
use crate::proxy::framing::Length;
use crate::proxy::message::AnswerHead;
use crate::proxy::{content, reply, response};

/// Bytes that are written at a time.
const PIECE: usize = 64 << 10;

/// Sends all embeddings of a request to its client, or the server's answer as it came where that is all.
pub(super) async fn send(
    exchange: &mut Exchange<'_>,
    asked: &Asked,
    batch: Batch,
    source: Option<Fetched>,
) -> Result<(), Stop> {
    let took = (clock::now() - exchange.ctx.started).as_nanos();
    let written = exchange.ctx.written.clone().unwrap_or_default();
    let mut writer = Writer { head: None, exchange };
    let frame = match source {
        None => {
            let content_type = writer.exchange.ctx.dialect.error_content_type();
            let mut head = AnswerHead::new(StatusCode::OK);
            head.headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
            writer.head = Some(head);
            Frame::of_nothing(asked.call, &written, took)
        }
        Some(Fetched { mut head, frame, body, .. }) => {
            response::strip_hop_by_hop(&mut head.headers);
            head.headers.remove(header::CONTENT_LENGTH);
            writer.head = Some(head);
            if let Some(mut body) = body {
                writer.begin(Length::Known(body.len() as u64));
                // In pieces, so that compressing it keeps no thread from others.
                while body.len() > PIECE {
                    writer.piece(body.split_to(PIECE)).await.map_err(Stop::Broken)?;
                }
                return writer.end(body).await.map_err(Stop::Broken);
            }
            // Who has no body of its own has understood it.
            frame.unwrap_or_else(|| Frame::of_nothing(asked.call, &written, took))
        }
    };
    let mut text = frame.head;
    for (number, place) in batch.places.iter().enumerate() {
        if let Some(vector) = &batch.found[*place] {
            write_item(asked.call, number, vector, &mut text);
        }
        if text.len() >= PIECE {
            writer
                .piece(std::mem::replace(&mut text, String::with_capacity(2 * PIECE)).into())
                .await
                .map_err(Stop::Broken)?;
        }
        take_turns(number).await;
    }
    text.push_str(&frame.tail);
    writer.end(text.into()).await.map_err(Stop::Broken)
}

/// Writes a body whose head may not have gone out yet.
struct Writer<'w, 'c> {
    /// The head, while it has not.
    head: Option<AnswerHead>,
    exchange: &'w mut Exchange<'c>,
}

impl Writer<'_, '_> {
    fn begin(&mut self, length: Length) {
        let Some(mut head) = self.head.take() else { return };
        let exchange = &mut *self.exchange;
        if let Length::Known(bytes) = length {
            head.headers.insert(header::CONTENT_LENGTH, HeaderValue::from(bytes));
        }
        let length = content::compress(exchange, &mut head, length);
        response::complete(exchange, &mut head);
        exchange.client.head(head, length, exchange.ctx.connection.is_ending());
    }

    fn push(&mut self, piece: Bytes) -> Result<(), Reason> {
        let exchange = &mut *self.exchange;
        exchange.ctx.body_out += piece.len() as u64;
        let piece = content::encode(&mut exchange.ctx, piece).map_err(|_| Reason::Internal)?;
        exchange.client.push(piece).map_err(|_| Reason::Internal)
    }

    /// A piece that others follow.
    async fn piece(&mut self, piece: Bytes) -> Result<(), Reason> {
        self.begin(Length::Unknown);
        self.push(piece)?;
        reply::flush(self.exchange).await
    }

    /// The last piece.
    async fn end(mut self, piece: Bytes) -> Result<(), Reason> {
        self.begin(Length::Known(piece.len() as u64));
        self.push(piece)?;
        let exchange = self.exchange;
        let rest = content::end(&mut exchange.ctx).map_err(|_| Reason::Internal)?;
        let ended = exchange.client.push(rest).and_then(|()| exchange.client.finish(None));
        ended.map_err(|_| Reason::Internal)?;
        // Whoever has the last byte may ask again at once.
        exchange.ctx.admitted.leave();
        reply::flush(exchange).await
    }
}
