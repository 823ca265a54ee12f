//! Looks for answers while a request waits, and keeps there what one has fetched.
//!
//! Whoever asks waits a moment for a look, however slow Redis is, and longer only for somebody who fetches. A look that comes too
//! late is enough to do without for a while, so that not each request waits that moment. What it says then is of use to
//! nobody, but a right to fetch is given back; where the connection broke meanwhile, as soon as there is another one.

use std::collections::HashMap;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::HeaderName;
use parking_lot::Mutex;
use redis::{FromRedisValue, Value as Answer};
use tokio::sync::oneshot;

use super::super::fault::Fault;
use super::super::purges::place;
use super::{Answers, LONGEST_LIFE};
use crate::clock;
use crate::fleet::response_cache::uri_of;
use crate::fleet::shared_answers::{Found, Stamp, Value, Wanted};
use crate::policy::http_cache::form::Kept;

/// How long whoever fetches is waited for, in milliseconds: if it died, that long.
const LEASE: u64 = 10_000;
/// Time between two looks whether it has come, should the message that it has be lost.
const LOOK: Duration = Duration::from_millis(500);
/// How long nobody looks after one look that took too long.
const REST: Duration = Duration::from_secs(1);
/// Longest time that what was fetched waits for room on the connection.
const ROOM_WAIT: Duration = Duration::from_secs(1);
/// Rights to fetch that are remembered until they can be given back.
const MOST_OWED: usize = 1000;
/// Longest value that is told without room for it.
const SHORT: usize = 32 << 10;
/// Where the birth of a value begins, and what follows it.
const BORN: usize = 20;
const KIND: usize = 40;

/// Those who wait for a key.
pub(super) type Waiting = Mutex<HashMap<String, Vec<oneshot::Sender<()>>>>;

/// What a look says.
enum Looked {
    /// What is there: the present, it, and the last change of its URI.
    Value(u64, Bytes, u64),
    /// So many bytes, which were not told.
    Long(usize),
    /// Whoever looked may fetch it: number and present.
    Fetch(u64, u64),
    /// Somebody else fetches it.
    Wait,
    /// Nothing that anybody can wait for.
    Nothing,
}

impl Looked {
    fn of(answer: &mut [Answer]) -> Self {
        let number = |number: i64| u64::try_from(number).unwrap_or(0);
        match answer {
            [_, Answer::Int(now), Answer::BulkString(value), changed] => {
                let changed = String::from_redis_value_ref(changed).ok().and_then(|text| text.parse().ok());
                Self::Value(number(*now), std::mem::take(value).into(), changed.unwrap_or(0))
            }
            [_, Answer::Int(now), Answer::Int(token)] => Self::Fetch(number(*token), number(*now)),
            [_, Answer::Int(bytes)] => usize::try_from(*bytes).map_or(Self::Nothing, Self::Long),
            [_] => Self::Wait,
            _ => Self::Nothing,
        }
    }
}

/// A right to fetch that could not be given back.
pub(super) struct Owed {
    key: String,
    /// Its number, or the name of the look that may have got it.
    which: String,
    /// Until when anybody may wait for it.
    until: Instant,
}

impl Owed {
    fn new(key: &str, which: String) -> Self {
        Self { key: key.to_owned(), which, until: clock::now() + Duration::from_millis(LEASE) }
    }
}

/// The place of one who waits for a key.
struct Waits<'w> {
    all: &'w Waiting,
    key: &'w str,
    ready: oneshot::Receiver<()>,
}

impl<'w> Waits<'w> {
    fn begin(all: &'w Waiting, key: &'w str) -> Self {
        let (sender, ready) = oneshot::channel();
        all.lock().entry(key.to_owned()).or_default().push(sender);
        Self { all, key, ready }
    }

    /// Until it has come, or nobody would tell that it has.
    async fn ready(&mut self) {
        drop(tokio::time::timeout(LOOK, &mut self.ready).await);
    }
}

impl Drop for Waits<'_> {
    fn drop(&mut self) {
        self.ready.close();
        let mut all = self.all.lock();
        if let Some(senders) = all.get_mut(self.key) {
            senders.retain(|sender| !sender.is_closed());
            if senders.is_empty() {
                all.remove(self.key);
            }
        }
    }
}

/// By what a value is known again; not a part of it, which would hold all of it.
fn stamp(value: &[u8]) -> Stamp {
    Stamp::copy_from_slice(&value[..value.len().min(KIND)])
}

fn kibibytes(bytes: usize) -> u32 {
    u32::try_from(bytes.div_ceil(1 << 10)).unwrap_or(u32::MAX)
}

impl Answers {
    /// Finds an answer, or whoever fetches it, or says that there is none.
    pub(super) async fn find(&self, wanted: &Wanted, mut seen: Stamp, reply: oneshot::Sender<Found>) {
        let end = clock::now() + Duration::from_millis(LEASE);
        let mut reply = Some(reply);
        // Whoever asked may leave.
        while reply.as_ref().is_some_and(|reply| !reply.is_closed()) {
            let mut waits = Waits::begin(&self.waiting, wanted.key());
            let found = match self.look_in_time(wanted, &seen, &mut reply).await {
                Looked::Value(now, value, changed) => {
                    match self.read(wanted, &value, now, changed) {
                        // What is there is of no use: whoever asks may fetch it.
                        Found::Nothing => {
                            seen = stamp(&value);
                            continue;
                        }
                        found => found,
                    }
                }
                Looked::Fetch(token, born) => Found::Fetch(wanted.ticket(token, born)),
                Looked::Wait if clock::now() < end => {
                    waits.ready().await;
                    continue;
                }
                Looked::Wait | Looked::Long(_) | Looked::Nothing => Found::Nothing,
            };
            // A ticket that nobody takes gives itself back.
            if let Some(reply) = reply.take() {
                drop(reply.send(found));
            }
        }
    }

    /// Looks once. Where that takes too long, nobody waits for it any more; where not even a short answer came, nobody looks for a
    /// while.
    async fn look_in_time(&self, wanted: &Wanted, seen: &Stamp, reply: &mut Option<oneshot::Sender<Found>>) -> Looked {
        let rests = self.resting.lock().is_some_and(|until| clock::now() < until);
        let Some(permit) = self.few.try_acquire().ok().filter(|_| !rests) else { return Looked::Nothing };
        let is_found = AtomicBool::new(false);
        let mut look = pin!(self.look(wanted, seen, &is_found));
        let looked = match tokio::time::timeout(self.patience, &mut look).await {
            Ok(looked) => looked,
            Err(_) => {
                // A long answer that takes its time says nothing of Redis.
                if !is_found.load(Ordering::Relaxed) {
                    *self.resting.lock() = Some(clock::now() + REST);
                }
                drop(reply.take());
                look.await
            }
        };
        drop(permit);
        looked
    }

    /// Looks; says on its way whether the first answer has come.
    async fn look(&self, wanted: &Wanted, seen: &Stamp, is_found: &AtomicBool) -> Looked {
        let looked = self.ask(wanted, seen, SHORT).await;
        is_found.store(true, Ordering::Relaxed);
        match looked {
            Looked::Long(bytes) => match self.room.try_acquire_many(kibibytes(bytes)) {
                Ok(_room) => self.ask(wanted, seen, bytes).await,
                Err(_) => Looked::Nothing,
            },
            looked => looked,
        }
    }

    async fn ask(&self, wanted: &Wanted, seen: &Stamp, longest: usize) -> Looked {
        let key = wanted.key();
        let rest = key.split_once(':').unwrap_or_default().1;
        let mut call = self.scripts.find.prepare_invoke();
        call.key(self.key(&format!("answer:{key}"))).key(self.key(&format!("fetch:{key}")));
        call.key(self.key("fetches")).key(self.changes(wanted.space()));
        let look = format!("{}.{}", self.own, self.looks.fetch_add(1, Ordering::Relaxed));
        call.arg(LEASE).arg(&seen[..]).arg(place(uri_of(rest))).arg(longest).arg(&look);
        let looked = match self.around.link.run(&call).await {
            Ok(Answer::Array(mut answer)) => Looked::of(&mut answer),
            Ok(_) => Looked::Nothing,
            Err(fault) => {
                tracing::debug!(%fault, "an answer could not be looked for");
                // It may have got a right that nobody knows of.
                if fault.is_lasting() {
                    self.owe(Owed::new(key, look));
                }
                Looked::Nothing
            }
        };
        if let Looked::Value(now, ..) | Looked::Fetch(_, now) = looked {
            self.known.lock().hear(now);
        }
        looked
    }

    /// What a value says, unless it is damaged, or a purge means it.
    fn read(&self, wanted: &Wanted, value: &Bytes, now: u64, changed: u64) -> Found {
        let born = value.get(BORN..KIND).and_then(|digits| std::str::from_utf8(digits).ok()?.parse::<u64>().ok());
        let (Some(born), Some((kind, rest))) = (born, value.get(KIND..).and_then(<[u8]>::split_first)) else {
            return Found::Nothing;
        };
        match kind {
            b'V' => {
                let names = std::str::from_utf8(rest).unwrap_or_default().split(',');
                names
                    .map(|name| HeaderName::try_from(name).ok())
                    .collect::<Option<_>>()
                    .map_or(Found::Nothing, Found::Varies)
            }
            b'A' => match Kept::decode(&value.slice(KIND + 1..)) {
                Ok(mut kept) if born > changed && self.is_good(wanted.space(), born, now, &kept) => {
                    // By this host's clock, whatever that of the one is that fetched it.
                    let unix = u64::try_from(clock::unix_time().as_millis()).unwrap_or(0);
                    kept.life.received = unix.saturating_sub(now.saturating_sub(born));
                    Found::Answer(Box::new(kept), stamp(value))
                }
                Ok(_) => Found::Nothing,
                Err(error) => {
                    tracing::error!(key = wanted.key(), %error, "an answer that instances share is left alone");
                    Found::Nothing
                }
            },
            _ => Found::Nothing,
        }
    }

    fn is_good(&self, space: &str, born: u64, now: u64, kept: &Kept) -> bool {
        let tags = || kept.tags.iter().map(String::as_str);
        let known = self.known.lock();
        known.allow(space, (born, now), &kept.uri, tags) && !self.tier.is_pending(space, &kept.uri, tags)
    }

    pub(super) async fn keep(&self, key: &str, token: u64, born: u64, values: Vec<(String, Value, u64)>) {
        let mut call = self.scripts.keep.prepare_invoke();
        call.key(self.key(&format!("fetch:{key}")));
        call.arg(token).arg(self.channel()).arg(serde_json::json!({ "ready": key }).to_string());
        let mut length = 0;
        for (place, value, life) in values {
            let mut bytes = format!("{token:020}{born:020}").into_bytes();
            match value {
                Value::Answer(answer) => {
                    bytes.push(b'A');
                    bytes.extend_from_slice(&answer);
                }
                Value::Varies(names) => {
                    bytes.push(b'V');
                    let names: Vec<&str> = names.iter().map(HeaderName::as_str).collect();
                    bytes.extend_from_slice(names.join(",").as_bytes());
                }
            }
            length += bytes.len();
            call.key(self.key(&format!("answer:{place}"))).arg(bytes).arg(life.clamp(1, LONGEST_LIFE));
        }
        let kept = match tokio::time::timeout(ROOM_WAIT, self.room.acquire_many(kibibytes(length))).await {
            Ok(Ok(_room)) => self.around.link.run(&call).await.map(|_| ()),
            Ok(Err(_)) | Err(_) => Err(Fault::Refused("too many answers are on their way".to_owned())),
        };
        if let Err(fault) = kept {
            tracing::debug!(%fault, "an answer could not be shared");
            // Whoever waits for it would wait for nothing.
            self.give_back(key, token).await;
        }
    }

    pub(super) async fn give_back(&self, key: &str, token: u64) {
        self.release(vec![Owed::new(key, token.to_string())]).await;
    }

    /// Gives back what could not be given back before.
    pub(super) async fn give_back_owed(&self) {
        let mut owed = std::mem::take(&mut *self.owed.lock());
        let now = clock::now();
        owed.retain(|one| now < one.until);
        if !owed.is_empty() {
            self.release(owed).await;
        }
    }

    async fn release(&self, all: Vec<Owed>) {
        let mut call = self.scripts.give_back.prepare_invoke();
        call.arg(self.channel());
        for Owed { key, which, .. } in &all {
            call.key(self.key(&format!("fetch:{key}")));
            call.arg(which).arg(serde_json::json!({ "ready": key }).to_string());
        }
        if let Err(fault) = self.around.link.run(&call).await {
            tracing::debug!(%fault, "a fetch that is over could not be told yet");
            all.into_iter().for_each(|one| self.owe(one));
        }
    }

    fn owe(&self, one: Owed) {
        let mut owed = self.owed.lock();
        // Whoever waits for what is forgotten here waits to the end.
        if owed.len() < MOST_OWED {
            owed.push(one);
        }
    }
}
