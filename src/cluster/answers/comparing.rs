//! Compares with Redis when it is there, or there again: what was thrown away meanwhile here is told, and what was elsewhere is
//! thrown away here.

use redis::{FromRedisValue, Value as Answer};

use super::super::fault::Fault;
use super::super::purges::{Said, Told, Turn};
use super::{Answers, stores};
use crate::policy::http_cache::key::Purge;

impl Answers {
    /// Until it went well nobody asks for anything. Where it did not, it is tried again.
    pub(super) async fn compare(&self) {
        let comparing = self.comparing.lock().await;
        let turn = self.known.lock().turn();
        self.throw_all().await;
        let mut spaces = Vec::new();
        stores(&self.around.store, |_, space| spaces.push(space.to_owned()));
        let mut call = self.scripts.compare.prepare_invoke();
        call.key(self.key("purges")).key(self.key("purges-lost"));
        for space in &spaces {
            call.key(self.changes(space));
        }
        let told = self.around.link.run(&call).await.and_then(told);
        let (told, changed) = match told {
            Ok(told) => told,
            Err(fault) => {
                tracing::debug!(%fault, "what was purged could not be read: answers are not shared yet");
                return;
            }
        };
        let Some(missed) = self.known.lock().compare(turn, told) else { return };
        for said in missed.purges.iter().filter(|said| said.i != self.own) {
            self.scans.add(&said.s, &said.p);
        }
        for (number, space) in spaces.iter().enumerate() {
            // Which of the URIs is not remembered, nor what nobody knows of.
            if missed.more || changed.get(number).is_some_and(|last| *last > missed.since) {
                self.scans.add(space, &Purge::All);
            }
        }
        self.believe(turn);
        drop(comparing);
        self.give_back_owed().await;
    }

    /// Answers are asked for again, unless something may have been missed since then.
    fn believe(&self, turn: Turn) {
        let known = self.known.lock();
        if known.is_current(turn) {
            self.tier.set_linked(true);
        }
    }
}

/// What Redis knows of purges, and the moment of the last change in each space. What cannot be read counts as none.
fn told(answer: Answer) -> Result<(Told, Vec<u64>), Fault> {
    type Texts = Vec<Vec<u8>>;
    let unreadable = |_| Fault::Refused("an unknown form".to_owned());
    let (now, lost, purges, changed) = <(u64, Vec<u8>, Texts, Texts)>::from_redis_value(answer).map_err(unreadable)?;
    let purges = purges.chunks_exact(2).filter_map(|pair| {
        let said = serde_json::from_slice::<Said>(&pair[0]).ok()?;
        Some((moment(&pair[1]), said))
    });
    let told = Told { now, lost: moment(&lost), purges: purges.collect() };
    Ok((told, changed.iter().map(|text| moment(text)).collect()))
}

/// A moment as Redis writes it.
fn moment(text: &[u8]) -> u64 {
    std::str::from_utf8(text).ok().and_then(|text| text.parse::<f64>().ok()).map_or(0, |number| number as u64)
}
