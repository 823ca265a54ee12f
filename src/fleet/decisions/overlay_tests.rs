use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::super::Present;
use super::super::facts::{About, Held};
use super::*;

const T: f64 = 1_800_000_000.0;

fn drain(server: &str) -> About {
    let (upstream, url) = ("fleet".to_owned(), format!("http://{server}:11434"));
    About::Operation { upstream, server: server.to_owned(), url }
}

fn held(who: &str) -> Held<f64> {
    Held { who: who.to_owned(), since: Some(T), ..Held::default() }
}

fn entry(version: u64, at: f64, by: &str, value: Option<Held<f64>>) -> Entry {
    Entry { version, at, by: by.to_owned(), value, order: None }
}

/// An instance without a process: what it makes is what it has.
struct Bench {
    overlay: Overlay,
    facts: BTreeMap<About, Held<Instant>>,
    present: Present,
    here: bool,
    name: &'static str,
}

impl Bench {
    fn new(name: &'static str) -> Self {
        let present = Present { now: crate::clock::now(), unix: T + 100.0 };
        Self { overlay: Overlay::default(), facts: BTreeMap::new(), present, here: true, name }
    }

    fn decide(&mut self, about: &About, value: Option<&Held<f64>>) {
        match value {
            Some(value) => drop(self.facts.insert(about.clone(), value.map(|unix| self.present.at(*unix)))),
            None => drop(self.facts.remove(about)),
        }
    }

    fn look(&mut self) -> bool {
        let (present, here) = (self.present, self.here);
        let facts = self.facts.clone();
        self.overlay.look(facts, self.name, (present.now, present.unix), |at| present.unix_of(*at), |_| here)
    }

    fn follow(&mut self, steps: Vec<Step>) {
        for step in steps {
            let Step::Make(about, value) = step else { continue };
            self.decide(&about, value.as_ref());
            let made = self.facts.get(&about).cloned();
            self.overlay.made(&about, made);
        }
    }

    fn take(&mut self, about: &About, entry: Entry) {
        let steps = self.overlay.take(about.clone(), entry, self.name, self.present.unix, self.here);
        self.follow(steps);
    }

    fn settle(&mut self, version: u64) {
        let told = self.overlay.pending().pop().expect("something to tell");
        self.overlay.settled(told, version);
    }

    fn who(&self, about: &About) -> Option<&str> {
        self.facts.get(about).map(|held| held.who.as_str())
    }
}

#[test]
fn what_is_decided_here_is_told_once_and_what_others_decided_is_not_told_again() {
    let (mut bench, about) = (Bench::new("a"), drain("s"));
    assert!(!bench.look());
    bench.decide(&about, Some(&held("ana")));
    assert!(bench.look() && !bench.look());
    assert_eq!(bench.overlay.pending()[0].entry.at, bench.present.unix);
    bench.settle(1);
    assert_eq!((bench.overlay.untold(), bench.overlay.highest()), (0, 1));
    bench.take(&about, entry(2, T + 200.0, "b", None));
    assert_eq!(bench.who(&about), None);
    bench.take(&about, entry(3, T + 300.0, "b", Some(held("bob"))));
    assert_eq!(bench.who(&about), Some("bob via b"));
    bench.take(&about, entry(2, T + 200.0, "b", None));
    assert_eq!(bench.who(&about), Some("bob via b"), "an old message changes nothing");
    assert!(!bench.look());
}

#[test]
fn the_later_of_two_decisions_wins_wherever_it_was_made() {
    for (theirs, wins) in [(T + 200.0, Some("bob via b")), (T + 50.0, Some("ana"))] {
        let (mut bench, about) = (Bench::new("a"), drain("s"));
        bench.look();
        bench.decide(&about, Some(&held("ana")));
        bench.look();
        bench.take(&about, entry(7, theirs, "b", Some(held("bob"))));
        assert_eq!(bench.who(&about), wins);
        let after: Vec<u64> = bench.overlay.pending().iter().map(|told| told.after).collect();
        assert_eq!(after, if wins == Some("ana") { vec![7] } else { vec![] });
    }
}

#[test]
fn what_is_over_or_gone_with_the_configuration_was_not_decided() {
    let (mut bench, about) = (Bench::new("a"), drain("s"));
    bench.look();
    let ends = Held { maintenance: true, until: Some(T + 101.0), ..held("ana") };
    bench.decide(&about, Some(&ends));
    bench.look();
    bench.settle(1);
    bench.decide(&about, None);
    bench.present.now += Duration::from_secs(2);
    assert!(!bench.look(), "its time is over");

    bench.decide(&about, Some(&held("ana")));
    bench.look();
    bench.settle(2);
    bench.decide(&about, None);
    bench.here = false;
    assert!(!bench.look(), "the server is in the configuration no more");
    bench.here = true;
    let steps = bench.overlay.appeared("a", |_| true);
    bench.follow(steps);
    assert_eq!(bench.who(&about), Some("ana"), "it is there again");
    assert!(!bench.look());
}

#[test]
fn after_a_start_the_cluster_wins_but_over_what_is_later() {
    for (lifted, after) in [(T + 1.0, None), (T - 1.0, Some("ana"))] {
        let (mut bench, about) = (Bench::new("a"), drain("s"));
        bench.decide(&about, Some(&held("ana")));
        assert!(bench.look(), "made again from the store");
        bench.take(&about, entry(5, lifted, "b", None));
        assert_eq!(bench.who(&about), after, "lifted at {lifted}");
    }
    // What it knew already is no news.
    let (mut bench, about) = (Bench::new("a"), drain("s"));
    bench.overlay.take(about.clone(), entry(5, T, "b", Some(held("bob"))), "a", T, true);
    let kept = serde_json::to_string(&bench.overlay).expect("written");
    bench.overlay = serde_json::from_str(&kept).expect("read");
    bench.decide(&about, Some(&held("bob via b")));
    assert!(!bench.look());
    assert_eq!(bench.overlay.untold(), 0);
}

#[test]
fn a_decision_that_was_not_written_down_before_the_end_is_made_after_the_start() {
    let (mut bench, about) = (Bench::new("a"), drain("s"));
    bench.overlay.take(about.clone(), entry(5, T, "b", Some(held("bob"))), "a", T, true);
    bench.overlay = serde_json::from_str(&serde_json::to_string(&bench.overlay).expect("written")).expect("read");
    assert!(!bench.look());
    let steps = bench.overlay.appeared("a", |_| true);
    bench.follow(steps);
    assert_eq!(bench.who(&about), Some("bob via b"));
}

#[test]
fn the_cluster_gets_back_what_it_lost_but_nothing_that_is_long_over() {
    let mut bench = Bench::new("a");
    bench.take(&drain("s"), entry(3, T, "b", Some(held("bob"))));
    bench.take(&drain("lifted"), entry(4, T, "b", None));
    bench.take(&drain("old"), entry(5, T - TOMBSTONE.as_secs_f64(), "b", None));
    let missing = |there: &BTreeMap<About, Entry>| {
        let all = bench.overlay.missing(there, T + 100.0);
        all.into_iter().map(|(about, entry)| (about.subject(), entry.version)).collect::<Vec<_>>()
    };
    let all = [("fleet/lifted".to_owned(), 4), ("fleet/s".to_owned(), 3)];
    assert_eq!(missing(&BTreeMap::new()), all);
    assert_eq!(missing(&[(drain("s"), entry(3, T, "b", Some(held("bob"))))].into()), all[..1]);
    bench.overlay.forget(T + 100.0);
    assert_eq!((bench.overlay.entries().count(), bench.overlay.highest()), (2, 5));
}

#[test]
fn of_two_decisions_of_one_version_all_take_the_same_one() {
    // The later one, or that of the later name; and where neither says anything, what the cluster has.
    let about = drain("s");
    for (ours, theirs, wins) in [
        (entry(5, T + 1.0, "a", Some(held("ana"))), entry(5, T + 2.0, "b", Some(held("bob"))), "bob"),
        (entry(5, T + 2.0, "a", Some(held("ana"))), entry(5, T + 1.0, "b", Some(held("bob"))), "ana"),
        (entry(5, T + 1.0, "B", Some(held("bea"))), entry(5, T + 1.0, "a", Some(held("ana"))), "ana"),
        (entry(6, T, "a", Some(held("ana"))), entry(5, T + 1.0, "b", Some(held("bob"))), "ana"),
    ] {
        let (mut one, mut other) = (Bench::new("x"), Bench::new("y"));
        one.take(&about, ours.clone());
        other.take(&about, theirs.clone());
        let (missing, none) = ([(about.clone(), theirs.clone())].into(), [(about.clone(), ours.clone())].into());
        let lacks = one.overlay.missing(&missing, T).len() + other.overlay.missing(&none, T).len();
        assert_eq!(lacks, 1, "one of the two gives way: {ours:?} {theirs:?}");
        one.take(&about, theirs.clone());
        other.take(&about, ours.clone());
        let who = |bench: &Bench| bench.who(&about).map(|who| who.split(' ').next().unwrap_or_default().to_owned());
        assert_eq!((who(&one).as_deref(), who(&other).as_deref()), (Some(wins), Some(wins)), "{ours:?} {theirs:?}");
    }
    let (ours, theirs) = (entry(5, T, "a", Some(held("ana"))), entry(5, T, "a", None));
    assert!(ours.differs(&theirs) && !ours.differs(&ours));
    let mut bench = Bench::new("a");
    bench.take(&about, ours);
    assert!(bench.overlay.missing(&[(about.clone(), theirs.clone())].into(), T).is_empty());
    bench.take(&about, theirs);
    assert_eq!(bench.who(&about), None);
}

#[test]
fn the_moment_of_a_decision_is_the_same_wherever_it_is_read() {
    let (mut bench, about) = (Bench::new("a"), drain("s"));
    for fraction in 0..1000 {
        let at = T + 12_345.0 + f64::from(fraction) * 0.000_123_456;
        bench.overlay.decided(about.clone(), entry(0, at, "a", None));
        let told = bench.overlay.pending().pop().expect("something to tell").entry;
        let text = serde_json::to_string(&told).expect("written");
        assert_eq!(serde_json::from_str::<Entry>(&text).expect("read"), told);
        assert!((told.at - at).abs() < 0.001);
    }
}

#[test]
fn a_version_that_there_cannot_be_is_none() {
    let (mut bench, about) = (Bench::new("a"), drain("s"));
    bench.take(&about, entry(3, T, "b", Some(held("bob"))));
    for version in [0, 2, MOST_VERSION + 1, u64::MAX] {
        bench.take(&about, entry(version, T + 1.0, "b", None));
        assert_eq!((bench.who(&about), bench.overlay.highest()), (Some("bob via b"), 3), "{version}");
    }
    bench.take(&about, entry(MOST_VERSION, T + 1.0, "b", None));
    assert_eq!((bench.who(&about), bench.overlay.highest()), (None, MOST_VERSION));
}

#[test]
fn an_order_about_a_circuit_is_followed_while_it_is_fresh() {
    let about = About::Circuit {
        upstream: "fleet".to_owned(),
        server: "s".to_owned(),
        url: "http://s".to_owned(),
        model: None,
    };
    for (at, followed) in [(T, true), (T - ORDER_HOLDS, false)] {
        let mut overlay = Overlay::default();
        let ordered = Entry { order: Some(Order::Reset), ..entry(1, at, "b", None) };
        let steps = overlay.take(about.clone(), ordered, "a", T, true);
        assert_eq!(steps.contains(&Step::Order(about.clone(), Order::Reset)), followed);
        assert_eq!(steps[0], Step::Make(about.clone(), None), "what held it open is over");
    }
}
