use http::{HeaderValue, StatusCode, header};

use super::*;
use crate::policy::http_cache::Marks;
use crate::policy::http_cache::key::base;

const NOW: u64 = 1_000_000;

fn store(bytes: u64) -> Arc<ResponseCache> {
    ResponseCache::new(bytes, 64 << 10, ResponseCacheCounters::default())
}

fn uri(number: u32) -> String {
    format!("http://a.test/{number}")
}

fn kept(number: u32, tags: &[&str], vary: &[HeaderName]) -> Kept {
    Kept {
        uri: uri(number),
        life: Life { received: NOW, fresh: 60_000, marks: Marks::OPEN, ..Life::default() },
        tags: tags.iter().map(|tag| (*tag).to_owned()).collect(),
        vary: vary.to_vec(),
        status: StatusCode::OK,
        phrase: None,
        headers: HeaderMap::new(),
        length: 2000,
        is_compressed: false,
        body: vec![u8::try_from(number % 251).unwrap_or(0); 2000].into(),
    }
}

fn key(number: u32) -> String {
    base(&uri(number), &[])
}

fn keep_as(store: &ResponseCache, key: &str, kept: &Kept, begun: u64) -> bool {
    store.keep(key, key, &Arc::new(Stored::new(kept, begun)))
}

fn keep(store: &ResponseCache, number: u32, tags: &[&str]) {
    assert!(keep_as(store, &key(number), &kept(number, tags, &[]), store.begun()));
}

fn look(store: &ResponseCache, number: u32) -> Option<Arc<Stored>> {
    store.look(&key(number), &HeaderMap::new(), NOW).found
}

#[test]
fn it_never_takes_more_than_it_may_and_keeps_what_is_used() {
    let store = store(1 << 20);
    let used: Vec<u32> = (0..100).collect();
    used.iter().for_each(|number| keep(&store, *number, &[]));
    // A scan of many times what fits, while a hundred answers are asked for now and then.
    for number in 100..20_000 {
        let stored = Arc::new(Stored::new(&kept(number, &[], &[]), store.begun()));
        store.keep(&key(number), &key(number), &stored);
        if number % 50 == 0 {
            used.iter().for_each(|number| drop(look(&store, *number)));
        }
        assert!(store.figures().bytes <= 1 << 20);
    }
    let left = used.iter().filter(|number| look(&store, **number).is_some()).count();
    assert!(left >= 90, "{left} of those in use are left");
    assert!(store.counters.evictions.get() > 19_000);
    store.set_max(1 << 19, 64 << 10);
    let figures = store.figures();
    assert!(figures.bytes <= 1 << 19 && figures.max_bytes == 1 << 19, "{figures:?}");
}

#[test]
fn what_is_too_large_for_its_place_is_not_said_to_be_kept() {
    let store = store(64 << 10);
    let long = |length: usize| Kept { body: vec![1; length].into(), ..kept(1, &[], &[]) };
    let is_passed = || store.look(&key(1), &HeaderMap::new(), NOW).is_passed;
    let longest = usize::try_from(ResponseCache::longest(64 << 10)).unwrap();
    assert!(keep_as(&store, &key(1), &long(longest), store.begun()) && look(&store, 1).is_some() && !is_passed());
    // Nor does the one before stay, which is not true any more.
    assert!(!keep_as(&store, &key(1), &long(64 << 10), store.begun()));
    assert!(look(&store, 1).is_none() && is_passed(), "nobody waits for the next one");
    // One that a purge means says nothing of the next one.
    let begun = store.begun();
    store.purge(&Purge::All);
    assert!(!keep_as(&store, &key(1), &kept(1, &[], &[]), begun) && !is_passed());
}

#[test]
fn other_limits_move_what_is_kept_and_bring_nothing_back() {
    let store = store(1 << 20);
    (0..60).for_each(|number| keep(&store, number, &["tag"]));
    let long = Kept { body: vec![1; 600 << 10].into(), ..kept(200, &[], &[]) };
    assert!(!keep_as(&store, &key(200), &long, store.begun()), "it is longer than a part");
    let there = || (0..60).filter(|number| look(&store, *number).is_some()).count();
    for (bytes, object) in [(1 << 20, 900 << 10), (8 << 20, 64 << 10), (1 << 20, 900 << 10)] {
        store.set_max(bytes, object);
        assert_eq!((there(), store.figures().max_bytes), (60, bytes), "{bytes} {object}");
    }
    assert!(keep_as(&store, &key(200), &long, store.begun()) && look(&store, 200).is_some());
    // Purges that come while it moves.
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for number in 0..1000 {
                store.set_max(8 << 20, if number % 2 == 0 { 900 << 10 } else { 64 << 10 });
            }
        });
        for _ in 0..200 {
            (0..20).for_each(|number| keep(&store, number, &["tag"]));
            store.purge(&Purge::Tag("tag".to_owned()));
            assert_eq!(there(), 0);
        }
    });
}

#[test]
fn what_varies_stands_apart() {
    let store = store(1 << 20);
    let names = [header::ACCEPT_LANGUAGE];
    let request = |language| HeaderMap::from_iter([(header::ACCEPT_LANGUAGE, HeaderValue::from_static(language))]);
    let base = key(1);
    for (language, number) in [("de", 1), ("en", 2)] {
        let (key, vary) = store.place(&base, &names, &request(language)).unwrap();
        let stored = Arc::new(Stored::new(&Kept { vary, ..kept(number, &[], &[]) }, store.begun()));
        assert!(store.keep(&base, &key, &stored));
    }
    let body = |language| {
        let look = store.look(&base, &request(language), NOW);
        (look.varies, look.found.and_then(|stored| Some(store.open(&look.key, &stored)?.body[0])))
    };
    assert_eq!([body("de"), body("en"), body("fr")], [(true, Some(1)), (true, Some(2)), (true, None)]);
    // An answer that varies by more makes all of them vary by that.
    let (other, vary) = store.place(&base, &[header::ACCEPT], &request("de")).unwrap();
    assert_eq!(vary, [header::ACCEPT, header::ACCEPT_LANGUAGE]);
    let stored = Arc::new(Stored::new(&Kept { vary, ..kept(3, &[], &[]) }, store.begun()));
    assert!(store.keep(&base, &other, &stored));
    assert_eq!(body("de"), (true, Some(3)));
    let many: Vec<HeaderName> = (0..16).map(|number| format!("x-{number}").parse().unwrap()).collect();
    assert!(store.place(&base, &many, &request("de")).is_none());
    assert_eq!(store.purge(&Purge::Key(uri(1))), 3);
    assert_eq!(body("de"), (true, None));
}

#[test]
fn a_purge_throws_away_what_it_means() {
    let store = store(1 << 20);
    for number in 0..20 {
        keep(&store, number, if number % 2 == 0 { &["even", "all"] } else { &["odd"] });
    }
    assert_eq!(store.purge(&Purge::Tag("even".to_owned())), 10);
    assert_eq!(store.purge(&Purge::Tag("even".to_owned())), 0);
    assert_eq!(store.purge(&Purge::Key(uri(1))), 1);
    // 11, 13, 15, 17 and 19.
    assert_eq!(store.purge(&Purge::Prefix("/1".to_owned())), 5);
    assert!(look(&store, 3).is_some() && look(&store, 1).is_none() && look(&store, 13).is_none());
    assert_eq!(store.answers(&Purge::All).len(), 4);
    assert_eq!(store.purge(&Purge::All), 4);
    assert_eq!((store.figures().entries, store.figures().bytes), (0, 0));
}

#[test]
fn what_was_fetched_before_a_purge_is_not_there_after_it() {
    let store = store(1 << 20);
    let late = |purge: Option<Purge>, number: u32| {
        let begun = store.begun();
        match purge {
            Some(purge) => drop(store.purge(&purge)),
            None => store.invalidate(&uri(number)),
        }
        keep_as(&store, &key(number), &kept(number, &["tag"], &[]), begun)
    };
    for (number, purge) in
        [Purge::All, Purge::Key(uri(1)), Purge::Prefix("/2".to_owned()), Purge::Tag("tag".to_owned())]
            .into_iter()
            .enumerate()
    {
        let number = u32::try_from(number).unwrap();
        assert!(!late(Some(purge.clone()), number), "{purge:?}");
        assert!(look(&store, number).is_none());
    }
    assert!(!late(None, 5) && look(&store, 5).is_none());
    for purge in [Purge::Key(uri(1)), Purge::Prefix("/2".to_owned()), Purge::Tag("other".to_owned())] {
        assert!(late(Some(purge.clone()), 7), "{purge:?}");
    }
    // More purges than are remembered.
    let begun = store.begun();
    for number in 100..200 {
        store.purge(&Purge::Key(uri(number)));
    }
    assert!(!keep_as(&store, &key(8), &kept(8, &[], &[]), begun));
    keep(&store, 8, &[]);
    assert!(look(&store, 8).is_some());
}

#[test]
fn a_change_forgets_a_uri_whoever_s_it_is() {
    let store = store(1 << 20);
    let mine = base(&uri(1), &[b"key 1".to_vec()]);
    keep(&store, 1, &[]);
    keep(&store, 2, &[]);
    assert!(keep_as(&store, &mine, &kept(1, &[], &[]), store.begun()));
    store.invalidate(&uri(1));
    assert!(look(&store, 1).is_none() && look(&store, 2).is_some());
    assert!(store.look(&mine, &HeaderMap::new(), NOW).found.is_none());
    keep(&store, 1, &[]);
    assert!(look(&store, 1).is_some());
}

#[test]
fn what_was_found_before_a_purge_is_not_used_after_it() {
    let store = store(1 << 20);
    let found = |number| {
        keep(&store, number, &["tag"]);
        let found = store.look(&key(number), &HeaderMap::new(), NOW);
        (found.found.unwrap(), found.begun)
    };
    let (one, seen) = found(1);
    assert!(!store.is_purged(&key(1), &one, seen));
    store.invalidate_here(&uri(2));
    store.purge(&Purge::Tag("other".to_owned()));
    assert!(!store.is_purged(&key(1), &one, seen), "they mean others");
    store.invalidate_here(&uri(1));
    assert!(store.is_purged(&key(1), &one, seen));
    let (three, seen) = found(3);
    store.purge(&Purge::Tag("tag".to_owned()));
    assert!(store.is_purged(&key(3), &three, seen));
    // More purges than are remembered mean only what was found before them.
    let (four, before) = found(4);
    for number in 100..200 {
        store.purge(&Purge::Key(uri(number)));
    }
    assert!(store.is_purged(&key(4), &four, before));
    let after = store.look(&key(4), &HeaderMap::new(), NOW);
    assert!(!store.is_purged(&key(4), &after.found.unwrap(), after.begun));
}

#[test]
fn a_damaged_answer_is_thrown_away() {
    let store = store(1 << 20);
    keep(&store, 1, &[]);
    let stored = look(&store, 1).unwrap();
    let place = stored.bytes.len() - 1;
    let mut bytes = stored.bytes.to_vec();
    bytes[place] ^= 1;
    let damaged = Stored { bytes: bytes.into(), ..Stored::new(&kept(1, &[], &[]), store.begun()) };
    assert!(store.keep(&key(1), &key(1), &Arc::new(damaged)));
    let found = look(&store, 1).unwrap();
    assert_eq!(store.open(&key(1), &found), None);
    assert!(look(&store, 1).is_none());
    assert_eq!((store.counters.damaged.get(), stored.uses(), store.open(&key(1), &stored).is_some()), (1, 0, true));
}

#[test]
fn a_smaller_form_replaces_only_what_it_is_of() {
    let store = store(1 << 20);
    keep(&store, 1, &[]);
    let first = look(&store, 1).unwrap();
    let smaller = Kept { body: Bytes::from_static(b"zz"), is_compressed: true, ..kept(1, &[], &[]) };
    store.replace(&key(1), &first, &smaller);
    assert!(store.open(&key(1), &look(&store, 1).unwrap()).unwrap().is_compressed);
    keep(&store, 1, &[]);
    store.replace(&key(1), &first, &smaller);
    assert!(!store.open(&key(1), &look(&store, 1).unwrap()).unwrap().is_compressed);
}

#[test]
fn what_was_not_kept_is_remembered_for_a_while() {
    let store = store(1 << 20);
    store.pass(&key(1), NOW);
    let is_passed = |after| store.look(&key(1), &HeaderMap::new(), NOW + after).is_passed;
    assert!(is_passed(0) && is_passed(NOT_KEPT_FOR - 1) && !is_passed(NOT_KEPT_FOR));
    keep(&store, 1, &[]);
    assert!(!is_passed(0));
    store.pass(&key(1), NOW);
    assert!(look(&store, 1).is_some(), "what is kept stays");
}

#[tokio::test]
async fn one_fetches_and_the_others_get_its_answer() {
    let store = store(1 << 20);
    let Departure::Ours(flight) = store.depart(&key(1), None) else { panic!("nobody else fetches") };
    let Departure::Theirs(mut waiting) = store.depart(&key(1), None) else { panic!("it is in flight") };
    assert!(matches!(store.depart(&key(2), None), Departure::Ours(_)));
    keep(&store, 1, &[]);
    let stored = look(&store, 1).unwrap();
    flight.land(Landed::Kept(key(1).into(), Arc::clone(&stored)));
    assert!(matches!(waiting.landed().await, Some(Landed::Kept(_, found)) if Arc::ptr_eq(&found, &stored)));
    assert!(matches!(store.depart(&key(1), None), Departure::Landed));
    // Who has seen that one wants another.
    let Departure::Ours(flight) = store.depart(&key(1), Some(&stored)) else { panic!("it has landed") };
    let Departure::Theirs(mut waiting) = store.depart(&key(1), Some(&stored)) else { panic!("it is in flight") };
    drop(flight);
    assert!(waiting.landed().await.is_none(), "whoever fetched is gone");
    assert!(matches!(store.depart(&key(1), Some(&stored)), Departure::Ours(_)));
}
