use std::path::Path;
use std::time::Duration;

use rusqlite::Connection;

use super::ledger::Ledger;
use super::*;
use crate::clock;
use crate::history::settings::Settings;
use crate::telemetry::metrics::Metrics;

const PATIENCE: Duration = Duration::from_secs(20);

fn tokens(prompt: u64, output: u64) -> Tokens {
    Tokens { prompt, output }
}

fn open(folder: Option<&Path>) -> History {
    History::open(folder, Settings::default(), Arc::new(Metrics::default())).expect("a store")
}

/// What is used of the quota `daily` in the month that runs.
fn used(history: &History, subject: &str) -> Tokens {
    let now = clock::unix_seconds();
    history.quotas().account("daily", Window::Month, subject, now).look(now).1
}

fn charge(history: &History, subject: &str, amount: Tokens) {
    let now = clock::unix_seconds();
    history.charge(&history.quotas().account("daily", Window::Month, subject, now), amount, now);
}

fn eventually(what: &str, holds: impl Fn() -> bool) {
    let end = clock::now() + PATIENCE;
    while !holds() {
        assert!(clock::now() < end, "not in time: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn what_was_used_is_there_after_a_restart_and_only_in_its_window() {
    let folder = tempfile::tempdir().unwrap();
    let history = open(Some(folder.path()));
    charge(&history, "a", tokens(3, 4));
    charge(&history, "a", tokens(10, 20));
    charge(&history, "b", tokens(1, 0));
    assert_eq!(used(&history, "a"), tokens(13, 24), "at once");
    history.close(PATIENCE);
    drop(history);
    // A window that is over, and one of a word that is not known.
    let file = Connection::open(folder.path().join("arriero.db")).unwrap();
    file.execute("INSERT INTO quotas VALUES ('daily', 'month', 'c', 0, 100, 5, 5)", []).unwrap();
    file.execute("INSERT INTO quotas VALUES ('daily', 'week', 'd', 0, 9999999999, 5, 5)", []).unwrap();
    drop(file);

    let history = open(Some(folder.path()));
    assert_eq!((used(&history, "a"), used(&history, "b")), (tokens(13, 24), tokens(1, 0)));
    assert!(used(&history, "c").is_none() && used(&history, "d").is_none());
    charge(&history, "a", tokens(1, 1));
    assert_eq!(used(&history, "a"), tokens(14, 25));
    history.close(PATIENCE);
    assert_eq!(used(&open(Some(folder.path())), "a"), tokens(14, 25));
}

#[test]
fn a_row_that_can_grow_no_more_stops_nobody() {
    let folder = tempfile::tempdir().unwrap();
    let history = open(Some(folder.path()));
    charge(&history, "a", tokens(3, 4));
    history.close(PATIENCE);
    drop(history);
    let file = Connection::open(folder.path().join("arriero.db")).unwrap();
    file.execute("UPDATE quotas SET prompt = ?1", [i64::MAX - 5]).unwrap();
    drop(file);
    let history = open(Some(folder.path()));
    charge(&history, "a", tokens(100, 1));
    charge(&history, "b", tokens(7, 7));
    history.close(PATIENCE);
    drop(history);
    let history = open(Some(folder.path()));
    assert_eq!(used(&history, "a"), tokens(i64::MAX.unsigned_abs(), 5));
    assert_eq!(used(&history, "b"), tokens(7, 7));
}

#[test]
fn charges_that_wait_for_the_file_are_bounded_and_go_with_the_next_one() {
    let (ledger, now) = (Ledger::default(), clock::unix_seconds());
    let mut charges = rows::Charges::default();
    let mut taken = 0;
    let mut last = None;
    for number in 0..30_000 {
        let account = ledger.account("daily", Window::Month, &format!("made up {number}"), now);
        let charge = account.charge(tokens(1, 0), now);
        taken += usize::from(charges.add(Arc::clone(&account), charge));
        last = Some(account);
    }
    assert_eq!(taken, 20_000);
    assert_eq!(last.unwrap().charge(tokens(1, 0), now).tokens, tokens(2, 0));
}

#[test]
fn without_a_folder_sums_are_in_memory() {
    let history = open(None);
    charge(&history, "a", tokens(3, 4));
    assert_eq!(used(&history, "a"), tokens(3, 4));
    let account = history.quotas().account("daily", Window::Month, "a", clock::unix_seconds());
    history.reset_quotas(vec![account]).unwrap();
    assert!(used(&history, "a").is_none());
    charge(&history, "a", tokens(1, 0));
    assert_eq!(used(&history, "a"), tokens(1, 0));
}

#[test]
fn two_processes_learn_what_the_other_one_charged() {
    let folder = tempfile::tempdir().unwrap();
    let before = open(Some(folder.path()));
    charge(&before, "a", tokens(100, 0));
    eventually("it is in the file", || used(&open(Some(folder.path())), "a") == tokens(100, 0));
    let after = open(Some(folder.path()));
    // The old one finishes its requests.
    charge(&before, "a", tokens(0, 10));
    charge(&after, "a", tokens(1, 1));
    eventually("both know", || [&before, &after].iter().all(|one| used(one, "a") == tokens(101, 11)));
    // One that the new one has charged nothing.
    charge(&before, "b", tokens(7, 0));
    eventually("it learns of it", || used(&after, "b") == tokens(7, 0));
    let account = after.quotas().account("daily", Window::Month, "a", clock::unix_seconds());
    after.reset_quotas(vec![account]).unwrap();
    assert!(used(&after, "a").is_none());
    eventually("the other one learns of it", || used(&before, "a").is_none());
}

#[test]
fn a_reset_counts_what_is_charged_after_it() {
    let folder = tempfile::tempdir().unwrap();
    let history = open(Some(folder.path()));
    for number in 1..=20 {
        charge(&history, "a", tokens(number, 0));
        if number == 10 {
            let account = history.quotas().account("daily", Window::Month, "a", clock::unix_seconds());
            history.reset_quotas(vec![account]).unwrap();
        }
    }
    assert_eq!(used(&history, "a"), tokens((11..=20).sum(), 0));
    history.close(PATIENCE);
    assert_eq!(used(&open(Some(folder.path())), "a"), tokens((11..=20).sum(), 0));
}

#[test]
fn a_file_that_begins_anew_gets_what_was_used() {
    let folder = tempfile::tempdir().unwrap();
    let history = open(Some(folder.path()));
    charge(&history, "a", tokens(100, 50));
    eventually("it is in the file", || used(&open(Some(folder.path())), "a") == tokens(100, 50));
    for end in ["", "-wal", "-shm"] {
        let _ = std::fs::remove_file(folder.path().join(format!("arriero.db{end}")));
    }
    charge(&history, "a", tokens(1, 1));
    eventually("the new file has all", || used(&open(Some(folder.path())), "a") == tokens(101, 51));
    assert_eq!(used(&history, "a"), tokens(101, 51));
}

#[test]
fn news_are_told_once_a_window_and_not_again_after_a_restart() {
    let ledger = Ledger::default();
    let (day, now) = (Window::Day, 1_800_000_000);
    let account = ledger.account("daily", day, "a", now);
    account.look(now);
    assert!(!account.is_news(Level::Within));
    assert!(account.is_news(Level::Warned) && !account.is_news(Level::Warned));
    assert!(account.is_news(Level::Exceeded) && !account.is_news(Level::Exceeded));
    // A raised limit is no news, and reaching that one is.
    assert!(!account.is_news(Level::Within) && account.is_news(Level::Warned));
    account.look(now + 86_400);
    assert!(account.is_news(Level::Exceeded), "another day");
    let period = day.period(now);
    let known = ledger.account("daily", day, "b", now);
    known.adopt(period, tokens(900, 0), now);
    assert!(!known.is_news(Level::Warned), "the process before this one told it");
    assert!(known.is_news(Level::Exceeded));
}

#[test]
fn a_table_that_shrank_fills_up_again() {
    let ledger = Ledger::with_most(128);
    let now = 1_800_000_000;
    let fill = |count: usize| -> Vec<_> {
        (0..count).map(|number| ledger.account("daily", Window::Day, &format!("account {number}"), now)).collect()
    };
    // Requests hold all of them, so that there are more than should be.
    let held = fill(2000);
    assert_eq!(ledger.all().len(), 2000);
    drop(held);
    ledger.forget_unused(now);
    assert!(ledger.is_empty());
    for number in 0..2000 {
        drop(ledger.account("daily", Window::Day, &format!("another {number}"), now));
    }
    assert_eq!(ledger.all().len(), 128);
}

#[test]
fn a_full_table_gives_up_who_used_least_and_nobody_who_is_being_served() {
    let ledger = Ledger::with_most(64);
    let now = 1_800_000_000;
    let heavy: Vec<_> = (0..8)
        .map(|number| {
            let account = ledger.account("daily", Window::Day, &format!("heavy {number}"), now);
            account.charge(tokens(1_000_000, 0), now);
            account
        })
        .collect();
    for number in 0..5000 {
        ledger.account("daily", Window::Day, &format!("flood {number}"), now).charge(tokens(1, 0), now);
    }
    assert!(ledger.all().len() <= 64 + heavy.len(), "{}", ledger.all().len());
    for (number, account) in heavy.iter().enumerate() {
        let again = ledger.account("daily", Window::Day, &format!("heavy {number}"), now);
        assert!(Arc::ptr_eq(account, &again), "a request holds it");
    }
    drop(heavy);
    ledger.forget_unused(now + 86_400);
    assert!(ledger.is_empty(), "their day is over");
}

#[test]
fn what_others_used_counts_and_what_they_cannot_hear_counts_for_all() {
    let (ledger, now) = (Ledger::default(), 1_800_000_000);
    ledger.share(true);
    let account = ledger.account("daily", Window::Day, "a", now);
    account.charge(tokens(10, 5), now);
    ledger.tell_of(&account);
    ledger.tell_of(&account);
    assert_eq!(ledger.untold().len(), 1, "once");
    let telling = account.telling(now);
    assert_eq!((telling.own, telling.resets), (tokens(10, 5), None));
    account.charge(tokens(1, 0), now);
    let told = shared::Told { others: tokens(100, 50), own: tokens(10, 5), resets: 0, forget: false };
    assert!(!account.told(&telling, &told, now));
    assert_eq!(account.look(now).1, tokens(111, 55));
    assert_eq!(account.own(now), tokens(11, 5));
    assert_eq!(account.judge(now, 0).1, tokens(111, 55));
    assert_eq!(account.judge(now, 2).1, tokens(113, 55), "the others may have used as much");
    // Another day, and an answer about the one before.
    assert_eq!(account.look(now + 86_400).1, tokens(0, 0));
    assert!(!account.told(&telling, &told, now + 86_400));
    assert_eq!(account.look(now + 86_400).1, tokens(0, 0));
    ledger.share(false);
    ledger.tell_of(&account);
    assert!(ledger.untold().is_empty());
}

#[test]
fn what_is_known_elsewhere_of_this_instance_counts_once() {
    let (ledger, now) = (Ledger::default(), 1_800_000_000);
    ledger.share(true);
    // It was given up here, and comes again.
    let account = ledger.account("daily", Window::Day, "a", now);
    let first = shared::Told { others: tokens(100, 0), own: tokens(50, 0), resets: 0, forget: false };
    account.told(&account.telling(now), &first, now);
    assert_eq!(account.look(now).1, tokens(150, 0));
    assert!(!account.telling(now).news);
    // The next charge brings what the file has.
    account.charge(tokens(55, 0), now);
    assert_eq!((account.look(now).1, account.judge(now, 2).1), (tokens(155, 0), tokens(165, 0)));
    assert!(account.telling(now).news);
    // Redis lost what one of the others used.
    let second = shared::Told { others: tokens(90, 0), own: tokens(55, 0), ..first };
    account.told(&account.telling(now), &second, now);
    assert_eq!(account.look(now).1, tokens(155, 0));
    ledger.share(false);
    assert_eq!(account.look(now).1, tokens(155, 0), "another connection changes nothing");
    ledger.forget_others();
    assert_eq!(account.look(now).1, tokens(55, 0));
}

#[test]
fn a_reset_is_told_once_and_one_of_others_is_taken_over() {
    let history = open(None);
    let now = clock::unix_seconds();
    history.quotas().share(true);
    charge(&history, "a", tokens(3, 4));
    let account = history.quotas().account("daily", Window::Month, "a", now);
    let first = account.telling(now);
    let answer = |others, own, resets, forget| shared::Told { others, own, resets, forget };
    account.told(&first, &answer(tokens(27, 36), tokens(3, 4), 0, false), now);
    history.reset_quotas(vec![Arc::clone(&account)]).unwrap();
    assert_eq!(account.look(now).1, tokens(0, 0), "others too");
    let second = account.telling(now);
    assert!(second.reset && second.news && second.own.is_none());
    assert!(!account.told(&first, &answer(tokens(27, 36), tokens(3, 4), 0, false), now));
    assert_eq!(account.look(now).1, tokens(0, 0), "an answer from before it");
    account.told(&second, &answer(tokens(0, 0), tokens(0, 0), 1, false), now);
    assert!(!account.telling(now).reset && !account.telling(now).news);
    charge(&history, "a", tokens(5, 0));
    let third = account.telling(now);
    assert_eq!((third.own, third.resets), (tokens(5, 0), Some(1)));
    assert!(account.told(&third, &answer(tokens(7, 0), tokens(0, 0), 2, true), now));
    history.forget_quotas(vec![Arc::clone(&account)]).unwrap();
    assert_eq!(account.own(now), tokens(0, 0));
    assert!(!account.telling(now).reset, "it is no reset of this instance");
}

#[test]
fn a_file_keeps_its_name_and_one_that_is_another_gets_another() {
    let (folder, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let name = open(Some(folder.path())).name_of_sums(None).unwrap();
    assert_eq!(open(Some(folder.path())).name_of_sums(None).unwrap(), name);
    assert_ne!(open(Some(other.path())).name_of_sums(None).unwrap(), name);
    let third = tempfile::tempdir().unwrap();
    assert_eq!(open(Some(third.path())).name_of_sums(Some(name.clone())).unwrap(), name, "it began anew");
}
