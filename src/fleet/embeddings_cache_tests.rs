use super::*;
use crate::clock;

const DAY: Duration = Duration::from_secs(86_400);

fn store(bytes: u64) -> Arc<EmbeddingsCache> {
    EmbeddingsCache::new(bytes, CacheCounters::default(), clock::now())
}

fn age() -> Age {
    Age { now: clock::now(), most: DAY }
}

fn key(number: u32) -> Key {
    Keys::new(&[b"test"]).of(&number.to_le_bytes())
}

/// 768 numbers.
fn vector(number: u32) -> Vector {
    Vector::read(&serde_json::to_string(&vec![number; 768]).unwrap())
}

#[test]
fn keys_differ_where_a_part_ends_elsewhere() {
    let of = |parts: &[&[u8]], input: &[u8]| Keys::new(parts).of(input);
    assert_eq!(of(&[b"a", b"b"], b"c"), of(&[b"a", b"b"], b"c"));
    for other in [of(&[b"ab", b""], b"c"), of(&[b"a", b"bc"], b""), of(&[b"a"], b"bc"), of(&[b"a", b"b"], b"C")] {
        assert_ne!(of(&[b"a", b"b"], b"c"), other);
    }
}

#[test]
fn it_never_takes_more_than_it_may_and_keeps_what_is_used() {
    let (store, model) = (store(1 << 20), Arc::from("m"));
    let now = clock::now();
    let used: Vec<u32> = (0..100).collect();
    store.keep(&model, used.iter().map(|number| (key(*number), vector(*number))), store.begun(), now);
    // A scan of a hundred times what fits, while a hundred inputs are asked for now and then.
    for number in 100..30_000 {
        store.keep(&model, [(key(number), vector(1))], store.begun(), now);
        if number % 50 == 0 {
            for number in &used {
                store.get(&key(*number), age());
            }
        }
        assert!(store.figures().bytes <= 1 << 20);
    }
    let left = used.iter().filter(|number| store.get(&key(**number), age()) == Some(vector(**number))).count();
    assert!(left >= 95, "{left} of those in use are left");
    assert!(store.counters.evictions.get() > 29_000);
    store.set_max(1 << 19);
    let figures = store.figures();
    assert!(figures.bytes <= 1 << 19 && figures.max_bytes == 1 << 19, "{figures:?}");
}

#[test]
fn what_is_too_old_is_not_there() {
    let (store, now) = (store(1 << 20), clock::now());
    store.keep(&Arc::from("m"), [(key(1), vector(1))], store.begun(), now);
    let after = |seconds| store.get(&key(1), Age { now: now + Duration::from_secs(seconds), most: DAY }).is_some();
    assert_eq!([after(0), after(86_399), after(86_401)], [true, true, false]);
    assert!(store.get(&key(1), Age { now, most: Duration::ZERO }).is_none());
}

#[test]
fn a_model_is_forgotten_and_no_other() {
    let (store, now) = (store(1 << 20), clock::now());
    store.keep(&Arc::from("a"), (0..10).map(|number| (key(number), vector(number))), store.begun(), now);
    store.keep(&Arc::from("b"), (10..15).map(|number| (key(number), vector(number))), store.begun(), now);
    assert_eq!((store.purge(Some("a")), store.purge(Some("a")), store.figures().entries), (10, 0, 5));
    assert_eq!((store.purge(None), store.figures().entries, store.figures().bytes), (5, 0, 0));
}

#[tokio::test]
async fn one_asks_and_the_others_get_its_answer() {
    let store = store(1 << 20);
    let (mut first, mut second) = (store.depart(), store.depart());
    assert!(matches!(first.look(key(1), age()), Look::Ours(0)));
    assert!(matches!(first.look(key(2), age()), Look::Ours(1)));
    let Look::Theirs(mut waiting) = second.look(key(2), age()) else { panic!("it is in flight") };
    assert!(matches!(second.look(key(3), age()), Look::Ours(0)));
    first.land(&[vector(1), vector(2)], Some(&Arc::from("m")), clock::now());
    assert_eq!(waiting.landed().await, Some(vector(2)));
    assert!(matches!(second.look(key(1), age()), Look::Kept(found) if found == vector(1)));
    drop(second);
    assert!(matches!(store.depart().look(key(3), age()), Look::Ours(0)), "nobody asks for it any more");
}

#[tokio::test]
async fn who_waits_for_a_flight_that_fails_is_told() {
    let store = store(1 << 20);
    let (mut first, mut second) = (store.depart(), store.depart());
    first.look(key(1), age());
    let Look::Theirs(mut waiting) = second.look(key(1), age()) else { panic!("it is in flight") };
    drop(first);
    assert_eq!(waiting.landed().await, None);
    assert!(matches!(second.look(key(1), age()), Look::Ours(0)));
    // An answer to another question is none.
    second.land(&[], Some(&Arc::from("m")), clock::now());
    assert_eq!(store.figures().entries, 0);
}

#[tokio::test]
async fn what_is_not_to_be_kept_still_reaches_who_waits() {
    let store = store(1 << 20);
    let (mut first, mut second) = (store.depart(), store.depart());
    first.look(key(1), age());
    let Look::Theirs(mut waiting) = second.look(key(1), age()) else { panic!("it is in flight") };
    first.land(&[vector(1)], None, clock::now());
    assert_eq!((waiting.landed().await, store.figures().entries), (Some(vector(1)), 0));
}

#[tokio::test]
async fn what_was_being_computed_at_a_purge_is_not_kept_nor_given_to_whoever_comes_after_it() {
    let (store, model, now) = (store(1 << 20), Arc::from("m"), clock::now());
    for purged in [None, Some("m")] {
        let (mut first, mut second) = (store.depart(), store.depart());
        let begun = first.begun();
        assert!(matches!(first.look(key(1), age()), Look::Ours(0)));
        let Look::Theirs(mut waiting) = second.look(key(1), age()) else { panic!("it is in flight") };
        assert_eq!(store.purge(purged), 0, "nothing is kept yet");
        // Whoever came before it gets what it waited for, whoever comes now asks.
        let mut third = store.depart();
        assert!(matches!(third.look(key(1), age()), Look::Alone));
        first.land(&[vector(1)], Some(&model), now);
        assert_eq!(waiting.landed().await, Some(vector(1)));
        store.keep(&model, [(key(2), vector(2))], begun, now);
        assert_eq!(store.figures().entries, 0);
        assert!(matches!(third.look(key(1), age()), Look::Ours(0)));
        third.land(&[vector(1)], Some(&model), now);
        assert!(store.get(&key(1), age()).is_some() && store.purge(None) == 1);
    }
}
