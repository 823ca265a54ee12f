//! The choice of a server for a request.

use super::decision::{Candidate, Decision};
use super::residency::Residency;
use super::score::LEAST_OF_LOADS;
use super::state::Scheduler;
use super::words::{Moment, Request, ServerId};

/// Why a server is not asked where only those with the model in memory are.
pub(super) const NOT_LOADED: &str = "not_loaded";
/// Why a server is not asked that would have to load the model first.
const TAKES_LONGER: &str = "load_takes_longer";
/// Scores this close to the best are equal to it.
const NEAR: f64 = 1.05;
/// And this many typical loads besides.
const NEAR_LOADS: f64 = 0.002;

/// Whom a choice is between.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Among {
    /// All that have the model.
    All,
    /// Those of them that can begin at once.
    Free,
}

impl Scheduler {
    /// The server that a request should wait for.
    pub(super) fn choose(&mut self, request: &Request, among: Among, moment: &Moment<'_>) -> Option<ServerId> {
        let mut decisions = std::mem::take(&mut self.decisions);
        let chosen = self.weigh(request, among, moment, decisions.begin(moment.now, request.model));
        self.decisions = decisions;
        chosen
    }

    pub(super) fn weigh(
        &mut self,
        request: &Request,
        among: Among,
        moment: &Moment<'_>,
        decision: &mut Decision,
    ) -> Option<ServerId> {
        let quickest_load = self.quickest_load(request.model);
        for soft_too in [false, true] {
            decision.candidates.clear();
            self.candidates(request, among, moment, soft_too, quickest_load, decision);
            decision.chosen = self.best(&decision.candidates, moment.random);
            if decision.chosen.is_some() {
                break;
            }
        }
        decision.chosen
    }

    /// Servers that have the model in memory are scored first. A server that must load it is out of the question where
    /// the load alone costs more than the best of them: then nobody need be found who makes room, and where that holds
    /// for all, none of them is looked at.
    fn candidates(
        &self,
        request: &Request,
        among: Among,
        moment: &Moment<'_>,
        soft_too: bool,
        quickest_load: f64,
        decision: &mut Decision,
    ) {
        let model = request.model;
        let excluded = |server: ServerId| {
            if request.tried.contains(&server) {
                return Some("tried");
            }
            if among == Among::Free && !self.can_begin(server, request, moment) {
                return Some("no_slot");
            }
            let excluded = (moment.excluded)(server, model).filter(|excluded| !(excluded.soft && soft_too));
            excluded.map(|excluded| excluded.why)
        };
        let asked = self.asked(request);
        let into = &mut decision.candidates;
        let mut least = f64::INFINITY;
        for server in self.warm_holders(model) {
            let residency = self.pairs[(server, model)].residency;
            let excluded = excluded(server);
            if excluded.is_some() {
                into.push(Candidate { server, residency, terms: None, excluded });
                continue;
            }
            let terms = self.score(server, &asked, moment.now, false);
            least = least.min(terms.total());
            into.push(Candidate { server, residency, terms: Some(terms), excluded: None });
        }
        if !self.takes_a_card(model) {
            return;
        }
        let barred = if self.has_enough_copies(model) {
            Some("max_warm")
        } else if self.settings.only_loaded || request.warm {
            Some(NOT_LOADED)
        } else {
            None
        };
        let limit = self.near(least);
        if least < f64::INFINITY && (barred.is_some() || LEAST_OF_LOADS * quickest_load > limit) {
            decision.passed_over = barred.or(Some(TAKES_LONGER));
            return;
        }
        for server in self.holders(model) {
            let residency = self.pairs[(server, model)].residency;
            if residency != Residency::Cold {
                continue;
            }
            let slow = || (LEAST_OF_LOADS * self.load(server, model) > limit).then_some(TAKES_LONGER);
            let excluded = barred.or_else(|| excluded(server)).or_else(slow);
            let terms = excluded.is_none().then(|| self.score(server, &asked, moment.now, false));
            into.push(Candidate { server, residency, terms, excluded });
        }
    }

    /// Scores up to this are as good as the best.
    fn near(&self, least: f64) -> f64 {
        least * NEAR + NEAR_LOADS * self.typical_load()
    }

    fn best(&self, candidates: &[Candidate], random: u64) -> Option<ServerId> {
        let scored = candidates.iter().filter_map(|one| Some((one.server, one.terms?.total())));
        let least = scored.clone().map(|(_, total)| total).min_by(f64::total_cmp)?;
        let limit = self.near(least);
        let near = scored.filter(|(_, total)| *total <= limit);
        let count = near.clone().count() as u64;
        let chosen = usize::try_from(random % count.max(1)).unwrap_or(0);
        near.map(|(server, _)| server).nth(chosen)
    }
}
