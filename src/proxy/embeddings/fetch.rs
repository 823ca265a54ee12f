//! Asks a server for the inputs that are not known.

use bytes::Bytes;
use http::{HeaderValue, header};

use super::{Asks, Batch, Way, pass_by};
use crate::clock;
use crate::fleet::body_budget::Held;
use crate::ollama::embeddings::{Answer, Frame};
use crate::proxy::context::{Exchange, Stop, Whole};
use crate::proxy::message::AnswerHead;
use crate::proxy::{attempt, finish};
use crate::telemetry::cache_metrics::Bypass;

/// Bytes of an answer that is put together with what is known; also what is read of one before it is passed on.
pub(super) const MOST: usize = 128 << 20;
/// Bytes of an embedding as text where none is known: 4096 numbers, and hardly a model computes more.
const LONGEST: usize = 4096 * 12;
/// An answer that is longer is read by another thread.
const LONG: usize = 256 << 10;

/// What a server answered.
pub(super) struct Fetched {
    /// The head of its answer.
    pub head: AnswerHead,
    /// What stood around the embeddings; `None` where the answer was not understood.
    pub frame: Option<Frame>,
    /// The body as it came, where it is the answer to the whole request.
    pub body: Option<Bytes>,
    /// Whether it was kept.
    pub kept: bool,
    /// What it holds of the budget of the process.
    _held: Held,
}

impl Way<'_> {
    /// Asks for what nobody knows. `None` when the client has got a server's answer as it came. `others` says that something
    /// is on the way from others too.
    ///
    /// # Errors
    /// When the client has not got a whole answer.
    pub(super) async fn fetch(
        &self,
        exchange: &mut Exchange<'_>,
        batch: &mut Batch,
        asks: Asks,
        others: bool,
    ) -> Result<Option<Fetched>, Stop> {
        let Asks { flight, ours, alone } = asks;
        let wanted: Vec<usize> = ours.iter().chain(&alone).copied().collect();
        let inputs: Vec<usize> = wanted.iter().map(|place| batch.inputs[*place]).collect();
        // All inputs in their order: the body as the client wrote it.
        let is_all = inputs.iter().copied().eq(0..self.request.len());
        if !is_all && batch.usual_length().unwrap_or(LONGEST).saturating_mul(batch.places.len()) > MOST {
            drop(flight);
            self.send_whole(exchange, Bypass::TooLong).await?;
            return Ok(None);
        }
        let body = if is_all { self.asked.body.clone() } else { self.request.body_for(&inputs).into() };
        let wish = Whole { most: MOST, is_part: !is_all, flight, unfit: None, answer: None };
        let Some(whole) = self.send(exchange, body, Some(wish)).await? else { return Ok(None) };
        let Whole { flight, unfit, answer, .. } = *whole;
        if let Some(why) = unfit {
            drop(flight);
            return self.without_part(exchange, why).await;
        }
        let Some((head, body, held)) = answer else { return Ok(None) };
        let answer = self.read(&body).await.filter(|answer| answer.vectors.len() == wanted.len());
        let Some(answer) = answer else {
            drop(flight);
            if !is_all {
                drop((body, held));
                return self.without_part(exchange, Bypass::Unfit).await;
            }
            return Ok(Some(Fetched { head, frame: None, body: Some(body), kept: false, _held: held }));
        };
        let kept = self.is_still_so(exchange);
        if kept {
            let (now, model, begun) = (clock::now(), &self.asked.model, flight.begun());
            let (of_ours, of_alone) = answer.vectors.split_at(ours.len());
            flight.land(of_ours, Some(model), now);
            let keys = alone.iter().map(|place| batch.keys[*place]);
            self.cache.store.keep(model, keys.zip(of_alone.iter().cloned()), begun, now);
        } else {
            // They may be those of another model: who waits for them has some of the old one, perhaps, and so have we.
            drop(flight);
            if others || batch.found.iter().any(Option::is_some) {
                drop((body, held));
                return self.without_part(exchange, Bypass::Digest).await;
            }
        }
        for (place, vector) in wanted.into_iter().zip(answer.vectors) {
            batch.found[place] = Some(vector);
        }
        finish::attempt_is_over(exchange);
        Ok(Some(Fetched { head, frame: Some(answer.frame), body: is_all.then_some(body), kept, _held: held }))
    }

    /// The answer to a part is of no use, though its server did what it should: the request goes to one as it came.
    async fn without_part(&self, exchange: &mut Exchange<'_>, why: Bypass) -> Result<Option<Fetched>, Stop> {
        finish::attempt_is_over(exchange);
        self.send_whole(exchange, why).await?;
        Ok(None)
    }

    /// Sends the request as it came, past what is kept.
    ///
    /// # Errors
    /// When the client has not got a whole answer.
    pub(super) async fn send_whole(&self, exchange: &mut Exchange<'_>, why: Bypass) -> Result<(), Stop> {
        pass_by(exchange, self.cache, why);
        self.send(exchange, self.asked.body.clone(), None).await?;
        Ok(())
    }

    /// Whether the model stands for the same bytes as when the request came.
    pub(super) fn is_current(&self) -> bool {
        self.upstream.state.digests.is_current(&self.asked.model, self.asked.epoch)
    }

    /// Sends a body to a server. `None` when the client has got the answer.
    async fn send(
        &self,
        exchange: &mut Exchange<'_>,
        body: Bytes,
        wish: Option<Whole>,
    ) -> Result<Option<Box<Whole>>, Stop> {
        let headers = &mut exchange.head.headers;
        headers.insert(header::CONTENT_LENGTH, HeaderValue::from(body.len()));
        // What is compressed could not be read.
        let codings = wish.as_ref().and_then(|_| headers.remove(header::ACCEPT_ENCODING));
        exchange.body.replace(body);
        exchange.ctx.whole = wish.map(Box::new);
        let before = finish::forget_attempts(exchange);
        let sent = attempt::run(exchange, self.route, self.upstream).await;
        exchange.ctx.attempts += before;
        let whole = exchange.ctx.whole.take();
        if let Some(codings) = codings {
            exchange.head.headers.insert(header::ACCEPT_ENCODING, codings);
        }
        sent?;
        Ok(whole)
    }

    async fn read(&self, body: &Bytes) -> Option<Answer> {
        let call = self.asked.call;
        if body.len() <= LONG {
            return Answer::read(call, body);
        }
        let body = body.clone();
        tokio::task::spawn_blocking(move || Answer::read(call, &body)).await.ok()?
    }

    /// Whether the model stood for the same bytes all the while, there too where it was computed.
    fn is_still_so(&self, exchange: &Exchange<'_>) -> bool {
        let asked = self.asked;
        let of_server = exchange.ctx.attempt.as_ref().map(|attempt| attempt.server.inventory());
        let of_server = of_server.as_ref().and_then(|inventory| inventory.digest(&asked.model));
        of_server == Some(asked.digest.as_str()) && self.is_current()
    }
}
