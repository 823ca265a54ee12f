//! Looks at a server's answer in passing: what may be kept is collected, and what is only about what is kept is held back.

use std::sync::Arc;
use std::time::Instant;

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderValue, StatusCode, header};
use tokio::sync::Semaphore;

use super::asked::Asked;
use super::{land, unix_millis};
use crate::clock;
use crate::fleet::body_budget::Held;
use crate::fleet::response_cache::{Flight, Landed, ResponseCache, Stored};
use crate::fleet::snapshot::Cache;
use crate::policy::http_cache::form::Kept;
use crate::policy::http_cache::key::{Query, same_origin, tags};
use crate::policy::http_cache::storing::{self, Answer, Unfit};
use crate::policy::http_cache::{using, validation};
use crate::proxy::compress;
use crate::proxy::context::{Exchange, RequestContext};
use crate::proxy::framing::Length;
use crate::proxy::message::AnswerHead;
use crate::proxy::{content, response};

/// Bodies from which on it is worth while to compress them.
const WORTH: usize = 1 << 10;
/// Bodies that are compressed at once; longer ones by another thread, when they have been passed on.
const AT_ONCE: usize = 64 << 10;
/// Bodies that are compressed at all: for longer ones it takes too much time and memory.
const LONGEST: usize = 1 << 20;
const LEVEL: i32 = 3;

/// Who may compress by another thread, so that a burst of answers does not take all processors.
static COMPRESSING: Semaphore = Semaphore::const_new(4);

/// What becomes of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// Its client gets it as it comes.
    Passed,
    /// Its client gets what is kept.
    Withheld,
}

/// How a fetch stands.
enum Stage {
    /// No answer has begun.
    Waiting,
    /// It passes, and is collected.
    Collecting(Box<Collected>),
    /// It passes, and is not kept; or it has come, and is.
    NotKept,
    /// It is a 304: what is kept still holds.
    Confirmed(AnswerHead),
    /// It is a 304 about something else than what is kept.
    Contradicted,
    /// It is an error, with this status, in whose place something is given that is kept.
    Failed(StatusCode),
    /// It is to a request that may change something.
    Change,
}

/// How a fetch ended, for whoever began it.
pub(super) enum End {
    /// Its client has got the answer, or has not.
    Passed,
    /// What is kept still holds.
    Confirmed(AnswerHead),
    /// A server says 304, but about something else.
    Contradicted,
    /// A server failed with this status.
    Failed(StatusCode),
}

/// What has come of an answer.
struct Collected {
    kept: Kept,
    key: String,
    bytes: BytesMut,
}

/// What a request that a server is asked for has to do with the cache.
pub struct Keeping {
    store: Arc<ResponseCache>,
    /// Which parameters of a query tell answers apart.
    query: Query,
    asked: Asked,
    max_object: u64,
    rules: storing::Rules,
    tag_header: http::HeaderName,
    /// The head of the request as it was sent.
    request: HeaderMap,
    /// Since when a purge counts for it.
    begun: u64,
    /// When a server was asked.
    asked_at: Instant,
    /// Those who wait.
    flight: Option<Flight>,
    /// The fields of what is kept and has to be confirmed.
    confirms: Option<HeaderMap>,
    /// What is kept, and under which key.
    old: Option<(String, Arc<Stored>)>,
    /// Why a server was asked, in the words of `Cache-Status`.
    why: &'static str,
    stage: Stage,
    /// What it holds of the budget of the process, until its client has got it.
    held: Option<Held>,
}

/// What a fetch begins with.
pub(super) struct Begin<'b> {
    pub asked: &'b Asked,
    pub cache: &'b Cache,
    /// Since when a purge counts, as [`ResponseCache::begun`] tells it.
    pub begun: u64,
    pub request: HeaderMap,
    pub flight: Option<Flight>,
    pub confirms: Option<HeaderMap>,
    pub old: Option<(String, Arc<Stored>)>,
    pub why: &'static str,
}

impl Keeping {
    pub(super) fn new(begin: Begin<'_>) -> Self {
        let Begin { asked, cache, begun, request, flight, confirms, old, why } = begin;
        Self {
            store: Arc::clone(&cache.store),
            query: cache.query.clone(),
            asked: asked.clone(),
            max_object: cache.max_object,
            rules: cache.rules,
            tag_header: cache.tag_header.clone(),
            request,
            begun,
            asked_at: clock::now(),
            flight,
            confirms,
            old,
            why,
            stage: Stage::Waiting,
            held: None,
        }
    }

    /// Of a request that may change what is kept of its URI.
    pub(super) fn of_change(cache: &Cache, uri: String) -> Self {
        let asked = Asked {
            base: String::new(),
            uri,
            credentials: storing::Credentials::default(),
            is_own: false,
            wish: Default::default(),
            is_get: false,
            is_plain: false,
        };
        Self {
            begun: 0,
            asked_at: clock::now(),
            store: Arc::clone(&cache.store),
            query: cache.query.clone(),
            asked,
            max_object: 0,
            rules: storing::Rules::default(),
            tag_header: header::VARY,
            request: HeaderMap::new(),
            flight: None,
            confirms: None,
            old: None,
            why: "",
            stage: Stage::Change,
            held: None,
        }
    }

    /// Since when a purge counts for it.
    pub(super) fn begun(&self) -> u64 {
        self.begun
    }

    /// What is to be kept of it.
    pub(super) fn stored(&self, kept: &Kept) -> Arc<Stored> {
        Arc::new(Stored::new(kept, self.begun).asked_at(self.asked_at))
    }

    /// Who waits, for whoever knows the end.
    pub(super) fn flight(&mut self) -> Option<Flight> {
        self.flight.take()
    }

    /// How it ended.
    pub(super) fn end(&mut self) -> End {
        match std::mem::replace(&mut self.stage, Stage::NotKept) {
            Stage::Confirmed(head) => End::Confirmed(head),
            Stage::Contradicted => End::Contradicted,
            Stage::Failed(status) => End::Failed(status),
            _ => End::Passed,
        }
    }

    /// Takes a piece of the answer.
    pub fn take(&mut self, piece: &Bytes) {
        let Stage::Collecting(collected) = &mut self.stage else { return };
        let length = collected.bytes.len() + piece.len();
        let fits = length as u64 <= self.max_object && self.held.as_mut().is_none_or(|held| held.grow(piece.len()));
        if fits {
            collected.bytes.extend_from_slice(piece);
        } else {
            self.give_up();
        }
    }

    /// It is not kept: nobody has to wait for it any longer, nor for the next one.
    fn give_up(&mut self) {
        self.stage = Stage::NotKept;
        if let Some(flight) = self.flight.take() {
            self.store.pass(flight.key(), unix_millis());
            flight.land(Landed::NotKept);
        }
    }

    /// What is to be collected of an answer.
    fn collect(&self, head: &AnswerHead, length: Length, tells_end: bool, waited: u64) -> Result<Collected, Unfit> {
        if let Length::Known(bytes) = length
            && bytes > self.max_object
        {
            return Err(Unfit::TooLong);
        }
        if !tells_end {
            return Err(Unfit::Endless);
        }
        let mut headers = head.headers.clone();
        response::strip_hop_by_hop(&mut headers);
        let received = unix_millis();
        let life = self.rules.judge(&Answer {
            credentials: self.asked.credentials,
            no_store: self.asked.wish.no_store,
            status: head.status,
            headers: &headers,
            received,
            waited,
        })?;
        let names = storing::vary(&headers, self.rules.knows_cookies)?;
        let (key, vary) = self.store.place(&self.asked.base, &names, &self.request).ok_or(Unfit::Vary)?;
        let kept = Kept {
            uri: self.asked.uri.clone(),
            life,
            tags: tags(&headers, &self.tag_header),
            vary,
            status: head.status,
            phrase: head.phrase.clone(),
            headers: storing::fields(&headers, received),
            length: 0,
            is_compressed: false,
            body: Bytes::new(),
        };
        if kept.fits() { Ok(Collected { kept, key, bytes: BytesMut::new() }) } else { Err(Unfit::TooLong) }
    }

    /// The answer came to its end.
    fn complete(&mut self) {
        let collected = match std::mem::replace(&mut self.stage, Stage::NotKept) {
            Stage::Collecting(collected) => collected,
            other => {
                self.stage = other;
                return;
            }
        };
        let Collected { mut kept, key, bytes } = *collected;
        kept.body = bytes.freeze();
        kept.length = kept.body.len() as u64;
        let is_long = kept.body.len() > AT_ONCE;
        if !is_long {
            squeeze(&mut kept);
        }
        let stored = self.stored(&kept);
        let is_kept = self.store.keep(&self.asked.base, &key, &stored);
        let landed = if is_kept { Landed::Kept(key.as_str().into(), Arc::clone(&stored)) } else { Landed::NotKept };
        land(self.flight.take(), landed);
        // Where others compress already, it stays as it is.
        if is_kept
            && is_long
            && is_worth_while(&kept)
            && let Ok(permit) = COMPRESSING.try_acquire()
        {
            let store = Arc::clone(&self.store);
            // Nobody waits for it, and if the process ends before, nothing is lost.
            drop(tokio::task::spawn_blocking(move || {
                let _permit = permit;
                squeeze(&mut kept);
                if kept.is_compressed {
                    store.replace(&key, &stored, &kept);
                }
            }));
        }
    }
}

/// Whether a body may become shorter.
fn is_worth_while(kept: &Kept) -> bool {
    let kind = kept.headers.get(header::CONTENT_TYPE);
    (WORTH..=LONGEST).contains(&kept.body.len())
        && !kept.headers.contains_key(header::CONTENT_ENCODING)
        && kind.is_some_and(|kind| compress::is_text(kind.as_bytes()))
}

/// Compresses a body where that makes it shorter.
fn squeeze(kept: &mut Kept) {
    if !is_worth_while(kept) {
        return;
    }
    if let Ok(shorter) = zstd::bulk::compress(&kept.body, LEVEL)
        && shorter.len() < kept.body.len()
    {
        kept.body = shorter.into();
        kept.is_compressed = true;
    }
}

/// The head of an answer has come, and no other attempt is made instead of it.
pub fn begin(exchange: &mut Exchange<'_>, head: &AnswerHead, length: Length, tells_end: bool) -> Fate {
    let is_replaced = content::page(&exchange.ctx, head.status.as_u16(), true).is_some();
    let started = exchange.ctx.attempt.as_ref().map(|attempt| attempt.started);
    let budget = &exchange.service.store.body_budget;
    let ctx = &mut exchange.ctx;
    let Some(keeping) = &mut ctx.keeping else { return Fate::Passed };
    if matches!(keeping.stage, Stage::Change) {
        if head.status.is_success() || head.status.is_redirection() {
            forget(keeping, head);
        }
        return Fate::Passed;
    }
    if head.status == StatusCode::NOT_MODIFIED
        && let Some(confirms) = &keeping.confirms
    {
        let is_about = validation::is_about(confirms, &head.headers);
        keeping.stage = if is_about { Stage::Confirmed(head.clone()) } else { Stage::Contradicted };
        return Fate::Withheld;
    }
    let is_failure = matches!(head.status.as_u16(), 500 | 502 | 503 | 504);
    if is_failure
        && let Some((key, old)) = &keeping.old
        && using::in_place_of_error(&old.life, &keeping.asked.wish, unix_millis())
        && !keeping.store.is_purged(key, old, keeping.begun)
    {
        keeping.stage = Stage::Failed(head.status);
        return Fate::Withheld;
    }
    let waited = started.map_or(0, |at| u64::try_from((clock::now() - at).as_millis()).unwrap_or(u64::MAX));
    let collected = match keeping.collect(head, length, tells_end, waited) {
        _ if !keeping.asked.is_get || is_replaced => Err(None),
        collected => collected.map_err(Some),
    };
    let status = head.status.as_u16();
    let after_stale = if keeping.why == "stale" { format!("; fwd-status={status}") } else { String::new() };
    let text = match collected {
        Ok(collected) => {
            keeping.stage = Stage::Collecting(Box::new(collected));
            keeping.held = Some(Held::new(Arc::clone(budget)));
            format!("arriero; fwd={}{after_stale}; stored", keeping.why)
        }
        Err(why) => {
            let detail = why.map(|why| format!("; detail={}", why.as_str())).unwrap_or_default();
            let text = format!("arriero; fwd={}{after_stale}{detail}", keeping.why);
            // What is kept is not what there is now, whatever becomes of that.
            if let Some((key, old)) = keeping.old.take().filter(|_| is_about_all(head.status)) {
                keeping.store.forget(&key, &old);
            }
            // An error says nothing about the next answer.
            if is_failure || keeping.flight.is_none() {
                keeping.stage = Stage::NotKept;
                land(keeping.flight.take(), Landed::NotKept);
            } else {
                keeping.give_up();
            }
            text
        }
    };
    ctx.cache.status = HeaderValue::try_from(text).ok();
    Fate::Passed
}

/// Whether a status tells what is there, and not only what this client may have or did wrong.
fn is_about_all(status: StatusCode) -> bool {
    matches!(status.as_u16(), 200 | 203 | 204 | 300..=303 | 307 | 308 | 404 | 410)
}

/// What a request changed that went well is not kept any more: its own URI, and those that its answer names (RFC 9111, 4.4).
fn forget(keeping: &Keeping, head: &AnswerHead) {
    let uri = &keeping.asked.uri;
    keeping.store.invalidate(uri);
    for name in [header::LOCATION, header::CONTENT_LOCATION] {
        let place = head.headers.get(name).and_then(|value| value.to_str().ok());
        if let Some(other) = place.and_then(|place| same_origin(uri, place)) {
            keeping.store.invalidate(&keeping.query.of_uri(&other));
        }
    }
}

/// Whether an answer is read as fast as it comes, however slow its client is.
pub fn is_eager(ctx: &RequestContext) -> bool {
    ctx.keeping.as_ref().is_some_and(|keeping| matches!(keeping.stage, Stage::Collecting(_)))
}

/// The answer came to its end, and the client will get all of it.
pub fn end(ctx: &mut RequestContext) {
    if let Some(keeping) = &mut ctx.keeping {
        keeping.complete();
    }
}
