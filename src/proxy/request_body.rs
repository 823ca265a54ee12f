//! The body of a request: what was read before a server was chosen, then what still comes from the client.
//!
//! What was read early is kept so that it can be sent later, and sent again after an attempt that failed. The
//! first bytes of any body are kept a while for the same reason. As soon as bytes have passed that are not kept,
//! there is no way back, and the body says so.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use tokio::task::JoinHandle;

use super::client::{Client, ClientFault};
use super::decode_body::{DecodeError, Decoder};
use super::held_body::{At, Cursor, HeldBody, HoldError, HoldRules};
use super::poison;
use crate::fleet::allowed::{check_caps, check_names, check_places};
use crate::fleet::keys::Key;
use crate::ollama::scan::ModelScan;
use crate::policy::caps::Caps;
use crate::policy::failure::Reason;

/// Bytes that are kept without being counted as held: a body of this size is there for another attempt anyway.
const KEPT: usize = 64 << 10;

/// Why the body goes no further.
#[derive(Debug)]
pub enum BodyFault {
    /// The client's doing.
    Client(ClientFault),
    /// It cannot be decoded, or is too large when it is.
    Coded(Reason),
    /// What it says is refused; the sentence is for the client.
    Refused(String),
    /// It names a model that is not for its sender; the sentence is for the client.
    Forbidden(String),
    /// What was held on disk cannot be read.
    Held(io::Error),
}

/// A request's body.
#[derive(Default)]
pub struct RequestBody {
    /// The beginning, while it is short.
    short: Vec<Bytes>,
    /// The beginning, once it is not.
    held: Option<HeldBody>,
    /// What follows it and could not be held: no more than is kept of any body, and one piece.
    in_hand: Vec<Bytes>,
    next_in_hand: usize,
    /// Bytes of the beginning.
    length: u64,
    next_short: usize,
    next_held: Cursor,
    reading: Option<(JoinHandle<io::Result<Bytes>>, Cursor)>,
    /// Whether bytes have passed that are not kept.
    passed: bool,
    /// Hash of the first bytes, once they are not in `short` any more.
    beginning: Option<u64>,
    /// Whether that hash is wanted when they are let go.
    keep_beginning: bool,
    decoder: Option<Decoder>,
    scan: Option<Box<ModelScan>>,
    /// Set once it is known to be for a server with models.
    strict: Option<Strict>,
}

/// What a body may ask for.
struct Strict {
    caps: Caps,
    /// The key that it came with.
    key: Option<Arc<Key>>,
    /// Whether it may name models that run elsewhere.
    elsewhere: bool,
}

impl RequestBody {
    /// Bytes that were read early.
    pub fn length(&self) -> u64 {
        self.length
    }

    /// Whether the beginning became too long to be looked at again.
    pub fn is_held(&self) -> bool {
        self.held.is_some()
    }

    /// The beginning, while it is short.
    pub fn short(&self) -> &[Bytes] {
        &self.short
    }

    /// Keeps a piece that was read early and is short, as the beginning of any body is kept a while.
    pub fn keep(&mut self, piece: Bytes) {
        self.length += piece.len() as u64;
        self.short.push(piece);
    }

    /// Keeps a piece that was read early.
    ///
    /// # Errors
    /// When the budget of the process or the disk is full. In the first case it can still be sent.
    pub async fn hold(&mut self, piece: Bytes, rules: impl FnOnce() -> HoldRules) -> Result<(), HoldError> {
        self.length += piece.len() as u64;
        if self.held.is_none() && self.length <= KEPT as u64 {
            self.short.push(piece);
            return Ok(());
        }
        if self.held.is_none() {
            self.beginning = Some(poison::beginning(self.short.iter().chain([&piece])));
        }
        let held = self.held.get_or_insert_with(|| HeldBody::new(rules()));
        let mut pieces = std::mem::take(&mut self.short).into_iter().chain([piece]);
        while let Some(piece) = pieces.next() {
            if let Err(error) = held.push(piece.clone()).await {
                self.in_hand.push(piece);
                self.in_hand.extend(pieces);
                return Err(error);
            }
        }
        Ok(())
    }

    /// Brings what was held to its place, so that it can be read.
    ///
    /// # Errors
    /// When the disk is full.
    pub async fn settle(&mut self) -> Result<(), HoldError> {
        match &mut self.held {
            Some(held) => held.complete().await,
            None => Ok(()),
        }
    }

    /// Puts another body in the place of one that has been read, and judged, to its end.
    pub fn replace(&mut self, bytes: Bytes) {
        self.length = bytes.len() as u64;
        self.short = vec![bytes];
        self.held = None;
        self.in_hand = Vec::new();
        self.passed = false;
        self.rewind();
    }

    /// Whether all that was sent can be sent again.
    pub fn is_kept(&self) -> bool {
        !self.passed
    }

    /// Begins again at the first byte.
    pub fn rewind(&mut self) {
        self.next_short = 0;
        self.next_held = Cursor::default();
        self.next_in_hand = 0;
        self.reading = None;
    }

    /// Nothing will be sent again: what has been sent need not be kept. `all` says that it has been sent to its end.
    pub fn release(&mut self, all: bool) {
        self.passed = true;
        if all {
            self.let_go(&[]);
            self.short = Vec::new();
            self.next_short = 0;
            self.held = None;
            self.in_hand = Vec::new();
        }
    }

    /// The hash of its first bytes is wanted to the end.
    pub fn keep_beginning(&mut self) {
        self.keep_beginning = true;
    }

    /// The hash of its first bytes.
    pub fn beginning(&self) -> u64 {
        self.beginning.unwrap_or_else(|| poison::beginning(&self.short))
    }

    /// The first bytes are let go, before `next`.
    fn let_go(&mut self, next: &[Bytes]) {
        if self.keep_beginning && self.beginning.is_none() {
            self.beginning = Some(poison::beginning(self.short.iter().chain(next)));
        }
    }

    /// The next piece; `None` at the end.
    pub fn poll_next(
        &mut self,
        client: &mut Client<'_>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Option<Bytes>, BodyFault>> {
        if let Some(piece) = self.short.get(self.next_short) {
            self.next_short += 1;
            return Poll::Ready(Ok(Some(piece.clone())));
        }
        if let Some(piece) = ready!(self.poll_held(cx)).map_err(BodyFault::Held)? {
            return Poll::Ready(Ok(Some(piece)));
        }
        if let Some(piece) = self.in_hand.get(self.next_in_hand) {
            self.next_in_hand += 1;
            return Poll::Ready(Ok(Some(piece.clone())));
        }
        let piece = ready!(self.poll_client(client, cx))?;
        if let Some(piece) = &piece {
            self.pass(piece);
        }
        Poll::Ready(Ok(piece))
    }

    /// The next piece from the client, decoded where it comes compressed; `None` at the end.
    pub fn poll_client(
        &mut self,
        client: &mut Client<'_>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Option<Bytes>, BodyFault>> {
        let piece = ready!(self.poll_plain(client, cx))?;
        if let (Some(piece), Some(scan)) = (&piece, &mut self.scan) {
            scan.push(piece);
            self.judge()?;
        }
        Poll::Ready(Ok(piece))
    }

    fn poll_plain(&mut self, client: &mut Client<'_>, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>, BodyFault>> {
        let coded = |error: DecodeError| BodyFault::Coded(error.reason());
        loop {
            if let Some(piece) = self.decoder.as_mut().map_or(Ok(None), Decoder::next).map_err(coded)? {
                return Poll::Ready(Ok(Some(piece)));
            }
            let piece = ready!(client.poll_body(cx)).map_err(BodyFault::Client)?;
            match (piece, &mut self.decoder) {
                (Some(piece), Some(decoder)) => decoder.push(piece),
                (Some(piece), None) => return Poll::Ready(Ok(Some(piece))),
                (None, _) => {
                    let rest = self.decoder.take().map_or(Ok(Bytes::new()), Decoder::finish).map_err(coded)?;
                    return Poll::Ready(Ok((!rest.is_empty()).then_some(rest)));
                }
            }
        }
    }

    /// Reads along from now on, what was read early included.
    ///
    /// # Errors
    /// When that is so already.
    pub fn watch(&mut self, mut scan: ModelScan) -> Result<(), BodyFault> {
        for piece in &self.short {
            scan.push(piece);
        }
        self.scan = Some(Box::new(scan));
        self.judge()
    }

    /// What reads along.
    pub fn scan(&self) -> Option<&ModelScan> {
        self.scan.as_deref()
    }

    /// It is for a server with models: what another reader could take for another request, what asks for more than
    /// `caps`, and what names a model that is not for `key`, or one that runs `elsewhere` where that is not allowed, goes no
    /// further.
    ///
    /// # Errors
    /// When that is so already.
    pub fn be_strict(&mut self, caps: &Caps, key: Option<Arc<Key>>, elsewhere: bool) -> Result<(), BodyFault> {
        self.strict = Some(Strict { caps: *caps, key, elsewhere });
        self.judge()
    }

    /// It is for another server, whose business its content is.
    pub fn be_lenient(&mut self) {
        self.scan = None;
    }

    /// The body has come to its end.
    ///
    /// # Errors
    /// When it is no complete document.
    pub fn end(&mut self) -> Result<(), BodyFault> {
        match &mut self.scan {
            Some(scan) if self.strict.is_some() => {
                scan.at_end().map_err(|violation| BodyFault::Refused(violation.to_string()))
            }
            _ => Ok(()),
        }
    }

    fn judge(&self) -> Result<(), BodyFault> {
        let (Some(scan), Some(Strict { caps, key, elsewhere })) = (&self.scan, &self.strict) else { return Ok(()) };
        if let Some(violation) = scan.violation() {
            return Err(BodyFault::Refused(violation.to_string()));
        }
        check_caps(caps, scan).map_err(BodyFault::Refused)?;
        if !elsewhere {
            check_places(scan).map_err(BodyFault::Forbidden)?;
        }
        key.as_ref().map_or(Ok(()), |key| check_names(key, scan)).map_err(BodyFault::Forbidden)
    }

    /// Decodes what the client sends from now on.
    pub fn decode(&mut self, decoder: Decoder) {
        self.decoder = Some(decoder);
    }

    fn poll_held(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Option<Bytes>>> {
        let Some(held) = &self.held else { return Poll::Ready(Ok(None)) };
        loop {
            if let Some((reading, next)) = &mut self.reading {
                let bytes = ready!(Pin::new(reading).poll(cx)).map_err(io::Error::other)?;
                self.next_held = *next;
                self.reading = None;
                return Poll::Ready(bytes.map(Some));
            }
            match held.at(self.next_held) {
                At::Piece(piece, next) => {
                    self.next_held = next;
                    return Poll::Ready(Ok(Some(piece)));
                }
                At::File(reading, next) => self.reading = Some((reading, next)),
                At::End if self.passed => {
                    // All of it has been sent, and will not be again: memory, disk and budget are free.
                    self.held = None;
                    return Poll::Ready(Ok(None));
                }
                At::End => return Poll::Ready(Ok(None)),
            }
        }
    }

    /// A piece passes that was not read early.
    fn pass(&mut self, piece: &Bytes) {
        self.length += piece.len() as u64;
        if !self.passed && self.held.is_none() && self.length <= KEPT as u64 {
            self.short.push(piece.clone());
            self.next_short = self.short.len();
        } else {
            self.let_go(std::slice::from_ref(piece));
            self.passed = true;
            self.short = Vec::new();
            self.next_short = 0;
            self.in_hand = Vec::new();
        }
    }
}
