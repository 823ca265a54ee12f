//! The store by itself: what is handed over comes back, old rows go, and no file stops it.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use serde_json::json;

use super::batch::slot;
use super::decisions::{Decided, Which};
use super::requests::Wanted;
use super::settings::Settings;
use super::sums::{Among, Line, RANGES, Totals};
use super::usage::{By, Per, UsageRow};
use super::{Audit, History, HistoryError};
use crate::clock;
use crate::telemetry::access_log::Entry;
use crate::telemetry::metrics::Metrics;

const PATIENCE: Duration = Duration::from_secs(20);

fn open(folder: Option<&Path>, settings: Settings) -> (History, Arc<Metrics>) {
    let metrics = Arc::new(Metrics::default());
    (History::open(folder, settings, Arc::clone(&metrics)).expect("a store"), metrics)
}

/// Writes what was handed over and opens the store anew.
fn again(history: History, folder: &Path) -> History {
    history.close(PATIENCE);
    drop(history);
    open(Some(folder), Settings::default()).0
}

fn now() -> f64 {
    clock::unix_time().as_secs_f64()
}

fn entry(at: f64, model: &str, status: u16) -> Entry {
    Entry {
        ts: at,
        request_id: format!("{model}-{at}"),
        method: "POST".to_owned(),
        path: "/api/chat".to_owned(),
        status,
        reason: if status < 400 { "ok" } else { "upstream_error" },
        duration_ms: 100.0,
        ttfb_ms: Some(20.0),
        upstream: "fleet".to_owned(),
        server: "s0".to_owned(),
        model: model.to_owned(),
        key: "team".to_owned(),
        attempts: 1,
        prompt_tokens: Some(10),
        output_tokens: Some(5),
        bytes_in: 3,
        bytes_out: 7,
        ..Entry::default()
    }
}

fn eventually<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let deadline = clock::now() + PATIENCE;
    loop {
        if let Some(found) = ask() {
            return found;
        }
        assert!(clock::now() < deadline, "never came true: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn all(history: &History) -> Vec<super::requests::RequestRow> {
    history.requests(&Wanted { limit: 1_000_000, ..Wanted::default() }).expect("rows")
}

fn total(lines: &[Line]) -> Totals {
    let mut total = Totals::default();
    lines.iter().for_each(|line| total.add(&line.totals));
    total
}

#[test]
fn requests_come_back_after_a_restart_the_latest_first() {
    let folder = tempfile::tempdir().unwrap();
    let (history, _) = open(Some(folder.path()), Settings::default());
    let begin = now();
    (0..10).for_each(|step| history.request(Arc::new(entry(begin, &format!("m{step}"), 200 + 100 * (step % 4)))));
    let history = again(history, folder.path());
    let rows = all(&history);
    assert_eq!(rows.len(), 10);
    assert!(rows.windows(2).all(|pair| pair[0].seq > pair[1].seq));
    assert_eq!((rows[0].model.as_deref(), rows[9].model.as_deref()), (Some("m9"), Some("m0")));
    assert_eq!((rows[9].prompt_tokens, rows[9].bytes_out, rows[9].route.as_deref()), (Some(10), 7, None));
    let ask = |wanted: Wanted| history.requests(&Wanted { limit: 100, ..wanted }).unwrap();
    let before = ask(Wanted { before: Some(rows[3].seq), ..Wanted::default() });
    assert_eq!(
        before.iter().map(|row| row.seq).collect::<Vec<_>>(),
        rows[4..].iter().map(|r| r.seq).collect::<Vec<_>>()
    );
    assert_eq!(ask(Wanted { model: Some("m3".to_owned()), ..Wanted::default() }).len(), 1);
    assert_eq!(ask(Wanted { status: Some(400), ..Wanted::default() }).len(), 2);
    assert_eq!(ask(Wanted { errors: true, ..Wanted::default() }).len(), 4);
    assert_eq!(ask(Wanted { key: Some("team".to_owned()), route: Some("x".to_owned()), ..Wanted::default() }), []);
    assert_eq!(ask(Wanted { since: Some(begin + 3600.0), ..Wanted::default() }), []);
    assert_eq!(ask(Wanted { since: Some(begin), ..Wanted::default() }).len(), 10);
    // Numbers go on growing.
    history.request(Arc::new(entry(now(), "last", 200)));
    let last = again(history, folder.path());
    assert!(all(&last)[0].seq > rows[0].seq);
}

#[test]
fn sums_are_made_of_all_requests_in_each_width() {
    let (history, _) = open(None, Settings::default());
    let now = now();
    // Two hours, a minute and a few seconds ago; ninety seconds ago; now.
    for (ago, count, status) in [(7270.0, 3, 200), (90.0, 5, 500), (1.0, 7, 200)] {
        (0..count).for_each(|_| history.request(Arc::new(entry(now - ago, "m", status))));
    }
    let sums = |word: &str, among: &Among| {
        let range = RANGES.iter().find(|range| range.word == word).unwrap();
        // What was just handed over ends within this moment.
        history.sums(&range.window(now, &history.settings()), among).unwrap()
    };
    eventually("written", || (total(&sums("24h", &Among::default())).requests == 15).then_some(()));
    for (word, requests, errors) in [("1m", 7, 0), ("5m", 12, 5), ("15m", 12, 5), ("1h", 12, 5), ("6h", 15, 5)] {
        let found = total(&sums(word, &Among::default()));
        assert_eq!((found.requests, found.errors), (requests, errors), "{word}");
        assert_eq!((found.prompt_tokens, found.output_tokens), (requests * 10, requests * 5), "{word}");
        assert_eq!((found.durations.total(), found.ttfbs.total()), (requests, requests), "{word}");
        assert!((95.0..105.0).contains(&found.durations.percentile(99.0).unwrap()), "{word}");
    }
    let other = Among { model: Some("n".to_owned()), ..Among::default() };
    assert_eq!(total(&sums("6h", &other)).requests, 0);
    let here = Among { server: Some("s0".to_owned()), upstream: Some("fleet".to_owned()), model: Some("m".to_owned()) };
    assert_eq!(total(&sums("6h", &here)).requests, 15);
}

#[test]
fn a_window_never_begins_before_its_range_nor_before_what_is_kept() {
    let settings = Settings { aggregates: Duration::from_mins(30), ..Settings::default() };
    for range in RANGES {
        for now in [1_000_000.0, 1_003_599.5, 1_003_600.0] {
            let window = range.window(now, &Settings::default());
            #[expect(clippy::cast_precision_loss, reason = "small")]
            let from = window.from as f64;
            assert!(from >= now - f64::from(range.seconds), "{range:?}");
            assert!(from < now - f64::from(range.seconds) + 3600.0, "{range:?}");
            assert!(range.window(now, &settings).seconds() <= 1800.0, "{range:?}");
            assert!(window.seconds() > 0.0 && window.step(60) > 0);
        }
    }
}

#[test]
fn usage_is_told_by_key_and_model_for_each_time() {
    let settings = Settings { usage: Duration::from_hours(24 * 36_500), ..Settings::default() };
    let (history, _) = open(None, settings);
    let day = 86_400.0;
    // The first of May 2023 and the last day of April, at noon.
    let (may, april) = (1_682_942_400.0, 1_682_942_400.0 - day);
    for (at, model, status) in [(may, "a", 200), (may, "b", 500), (may + 3600.0, "a", 200), (april, "a", 200)] {
        history.request(Arc::new(entry(at, model, status)));
    }
    let both = By { key: true, model: true };
    let ask = |by, per| history.usage(by, per, 0.0, now()).unwrap();
    eventually("written", || (ask(both, Per::Hour).len() == 4).then_some(()));
    let periods =
        |rows: &[UsageRow]| rows.iter().map(|row| (row.period.clone().unwrap(), row.requests)).collect::<Vec<_>>();
    let key = By { key: true, model: false };
    assert_eq!(
        periods(&ask(key, Per::Day)),
        [("2023-04-30T00:00:00Z".to_owned(), 1), ("2023-05-01T00:00:00Z".to_owned(), 3)]
    );
    assert_eq!(
        periods(&ask(key, Per::Month)),
        [("2023-04-01T00:00:00Z".to_owned(), 1), ("2023-05-01T00:00:00Z".to_owned(), 3)]
    );
    let wanted = |model: &str, requests: u64, errors: u64| UsageRow {
        key: Some("team".to_owned()),
        model: Some(model.to_owned()),
        period: None,
        requests,
        errors,
        prompt_tokens: 10 * requests,
        output_tokens: 5 * requests,
        bytes_in: 3 * requests,
        bytes_out: 7 * requests,
    };
    assert_eq!(ask(both, Per::Total), [wanted("a", 3, 0), wanted("b", 1, 1)]);
    assert_eq!(history.usage(both, Per::Total, may, may + 1.0).unwrap().len(), 2);
    assert_eq!(history.usage(both, Per::Total, may + 1.0, may + 3601.0).unwrap(), [wanted("a", 1, 0)]);
}

#[test]
fn old_rows_and_those_beyond_the_number_go() {
    let folder = tempfile::tempdir().unwrap();
    let (history, _) = open(Some(folder.path()), Settings::default());
    let present = now();
    for ago in [0.0, 3.0, 7200.0, 3.0 * 86_400.0, 500.0 * 86_400.0] {
        history.request(Arc::new(entry(present - ago, "m", 200)));
    }
    let count = |table: &str| -> i64 {
        let connection = rusqlite::Connection::open(folder.path().join("arriero.db")).unwrap();
        connection.query_row(&format!("SELECT count(*) FROM {table}"), [], |row| row.get(0)).unwrap()
    };
    history.close(PATIENCE);
    // Requests of before a day are judged by when they ended, which for these is long before they were handed over; their
    // numbers are young, and so they go by their number only.
    assert_eq!(count("requests"), 5);
    assert!((12..=15).contains(&count("sums")) && (4..=5).contains(&count("usage")));
    let connection = rusqlite::Connection::open(folder.path().join("arriero.db")).unwrap();
    connection.execute("UPDATE requests SET seq = CAST((at + duration_ms / 1000.0) * 1000000 AS INTEGER)", []).unwrap();
    let settings = Settings { max_requests: 2, ..Settings::default() };
    super::prune::prune(&connection, &Settings::default(), present).unwrap();
    assert_eq!(count("requests"), 3);
    super::prune::prune(&connection, &settings, present).unwrap();
    assert_eq!(count("requests"), 2);
    // Of the sums all three of now, the middle and the long ones of two hours ago, the long one of three days ago.
    let widths = |width: i64| -> i64 {
        connection.query_row("SELECT count(*) FROM sums WHERE width = ?1", [width], |row| row.get(0)).unwrap()
    };
    let young: std::collections::BTreeSet<_> = [0.0, 3.0].map(|ago| slot(present - ago + 0.1, 10)).into();
    assert_eq!(widths(10), i64::try_from(young.len()).unwrap());
    assert!((2..=3).contains(&widths(60)), "{}", widths(60));
    assert!((3..=4).contains(&widths(3600)), "{}", widths(3600));
    assert!((3..=4).contains(&count("usage")), "{}", count("usage"));
    let none = Settings { requests: Duration::ZERO, aggregates: Duration::ZERO, usage: Duration::ZERO, ..settings };
    super::prune::prune(&connection, &none, present + 8000.0).unwrap();
    assert_eq!((count("requests"), count("sums"), count("usage")), (0, 0, 0));
}

#[test]
fn what_the_settings_do_not_want_is_not_written() {
    let nothing =
        Settings { requests: Duration::ZERO, aggregates: Duration::ZERO, usage: Duration::ZERO, max_requests: 1 };
    let (history, _) = open(None, nothing);
    assert!(!history.wants_requests());
    history.set(Settings { usage: Duration::from_hours(1), ..nothing });
    assert!(history.wants_requests());
    history.request(Arc::new(entry(now(), "m", 200)));
    let by = By { key: false, model: false };
    eventually("usage alone", || (history.usage(by, Per::Total, 0.0, now() + 1.0).unwrap().len() == 1).then_some(()));
    assert_eq!(all(&history), []);
    assert!(history.sums(&RANGES[7].window(now(), &Settings::default()), &Among::default()).unwrap().is_empty());
}

#[test]
fn what_is_kept_is_there_at_once_and_after_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let (history, _) = open(Some(folder.path()), Settings::default());
    history.keep("server", "b", &json!({ "url": "http://b" }), "ana", 1.5).unwrap();
    history.keep("server", "a", &json!(1), "ana", 2.5).unwrap();
    history.keep("server", "a", &json!(2), "ben", 3.5).unwrap();
    history.keep("other", "a", &json!(null), "ben", 3.5).unwrap();
    let kept = history.kept("server").unwrap();
    assert_eq!(
        kept.iter().map(|one| (one.key.as_str(), one.who.as_str())).collect::<Vec<_>>(),
        [("a", "ben"), ("b", "ana")]
    );
    assert_eq!((&kept[0].value, kept[0].at), (&json!(2), 3.5));
    assert!(history.forget("server", "a").unwrap());
    assert!(!history.forget("server", "a").unwrap());
    // No close: it is on disk already.
    let (second, _) = open(Some(folder.path()), Settings::default());
    assert_eq!(second.kept("server").unwrap().len(), 1);
    assert_eq!(second.kept("nothing").unwrap(), []);
    let audit =
        |status| Audit { at: 1.0, who: "ana".to_owned(), method: "POST".to_owned(), status, ..Audit::default() };
    (200..205).for_each(|status| history.audit(audit(status)));
    let history = again(history, folder.path());
    let last = history.audits(3).unwrap();
    assert_eq!(last.iter().map(|one| one.audit.status).collect::<Vec<_>>(), [204, 203, 202]);
    assert_eq!(last[0].audit, audit(204));
    assert!(last[0].seq > last[1].seq);
}

#[test]
fn what_was_learned_is_taken_over_once_from_the_file_of_before() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("learned.json"), r#"{"fleet":{"typical_load":7.5}}"#).unwrap();
    let (history, _) = open(Some(folder.path()), Settings::default());
    assert_eq!(history.learned().unwrap()["fleet"]["typical_load"], 7.5);
    history.learn("fleet", &json!({ "typical_load": 9.5 })).unwrap();
    let history = again(history, folder.path());
    assert_eq!(history.learned().unwrap()["fleet"]["typical_load"], 9.5);
    let (memory, _) = open(None, Settings::default());
    memory.learn("fleet", &json!(1)).unwrap();
    assert_eq!(memory.learned().unwrap()["fleet"], 1);
}

#[test]
fn a_damaged_file_is_set_aside_whenever_that_is_seen() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("arriero.db");
    fs::write(&path, "this is no database, however long one reads").unwrap();
    let (history, metrics) = open(Some(folder.path()), Settings::default());
    assert_eq!(metrics.history.damaged.get(), 1);
    history.request(Arc::new(entry(now(), "m", 200)));
    let history = again(history, folder.path());
    assert_eq!(all(&history).len(), 1);
    let aside = || {
        let names = fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names
            .filter(|name| {
                name.starts_with("arriero.db.damaged-") && !name.ends_with("-wal") && !name.ends_with("-shm")
            })
            .count()
    };
    assert_eq!(aside(), 1);
    // Many rows, so that pages in the middle exist.
    (0..450).for_each(|_| history.request(Arc::new(entry(now(), "m", 200))));
    history.close(PATIENCE);
    drop(history);
    let length = fs::metadata(&path).unwrap().len();
    assert!(length > 40_000, "{length}");
    let mut bytes = fs::read(&path).unwrap();
    bytes[8192..].fill(0x5a);
    fs::write(&path, bytes).unwrap();
    let (history, metrics) = open(Some(folder.path()), Settings::default());
    assert_eq!((metrics.history.damaged.get(), aside()), (1, 2));
    // Damaged while it is open.
    history.request(Arc::new(entry(now(), "m", 200)));
    eventually("written", || (all(&history).len() == 1).then_some(()));
    let other = rusqlite::Connection::open(&path).unwrap();
    other.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).unwrap();
    drop(other);
    fs::write(&path, vec![0x5a; 100_000]).unwrap();
    eventually("begun anew", || {
        history.request(Arc::new(entry(now(), "m", 200)));
        let rows = history.requests(&Wanted { limit: 1, ..Wanted::default() });
        (metrics.history.damaged.get() == 2 && rows.is_ok_and(|rows| rows.len() == 1)).then_some(())
    });
    assert_eq!(aside(), 3);
}

#[test]
fn what_must_not_be_lost_is_taken_out_of_a_damaged_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("arriero.db");
    let (history, _) = open(Some(folder.path()), Settings::default());
    history.keep("server", "a", &json!({ "url": "http://a" }), "ana", 1.5).unwrap();
    history.learn("fleet", &json!(7)).unwrap();
    history.close(PATIENCE);
    drop(history);
    // The table of single requests is gone, the others are whole.
    let connection = rusqlite::Connection::open(&path).unwrap();
    let root: i64 = connection
        .query_row("SELECT rootpage FROM sqlite_schema WHERE name = 'requests'", [], |row| row.get(0))
        .unwrap();
    let size: i64 = connection.query_row("PRAGMA page_size", [], |row| row.get(0)).unwrap();
    drop(connection);
    let mut bytes = fs::read(&path).unwrap();
    let at = usize::try_from((root - 1) * size).unwrap();
    bytes[at..at + 4096].fill(0x5a);
    fs::write(&path, bytes).unwrap();
    let (history, metrics) = open(Some(folder.path()), Settings::default());
    assert_eq!(metrics.history.damaged.get(), 1);
    let kept = history.kept("server").unwrap();
    assert_eq!((kept.len(), kept[0].who.as_str(), &kept[0].value["url"]), (1, "ana", &json!("http://a")));
    assert_eq!(history.learned().unwrap()["fleet"], 7);
    assert_eq!(all(&history), []);
}

#[test]
fn choices_are_kept_and_found_by_what_they_were_for() {
    let (history, _) = open(None, Settings::default());
    let at = now();
    let decided = |step: f64, model: &str, server: &str| Decided {
        at: at + step,
        upstream: "fleet".to_owned(),
        model: model.to_owned(),
        server: server.to_owned(),
        candidates: json!([{ "server": server, "model_is": "ready" }]),
    };
    let told = vec![decided(-90.0, "m", "a"), decided(0.0, "m", "b"), decided(1.0, "n", "")];
    history.decided(told.clone());
    let ask = |which: Which| history.decisions(&Which { limit: 10, ..which }).unwrap();
    eventually("written", || (ask(Which::default()).len() == 3).then_some(()));
    assert_eq!(ask(Which::default()), told.iter().rev().cloned().collect::<Vec<_>>());
    assert_eq!(ask(Which { since: at - 1.0, model: Some("m".to_owned()), ..Which::default() }), told[1..2]);
    assert_eq!(ask(Which { server: Some("a".to_owned()), ..Which::default() }), told[..1]);
}

#[test]
fn a_file_that_is_deleted_is_begun_anew() {
    let folder = tempfile::tempdir().unwrap();
    let (history, metrics) = open(Some(folder.path()), Settings::default());
    fs::remove_file(folder.path().join("arriero.db")).unwrap();
    eventually("rows again", || {
        history.request(Arc::new(entry(now(), "m", 200)));
        history.requests(&Wanted { limit: 1, ..Wanted::default() }).is_ok_and(|rows| rows.len() == 1).then_some(())
    });
    assert_eq!(metrics.history.damaged.get(), 0);
}

#[test]
fn a_file_that_cannot_be_written_costs_rows_and_no_sums_and_is_written_again_when_it_can_be() {
    let folder = tempfile::tempdir().unwrap();
    let (history, metrics) = open(Some(folder.path()), Settings::default());
    // Somebody else holds the lock, longer than the writer waits.
    let other = rusqlite::Connection::open(folder.path().join("arriero.db")).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    (0..9).for_each(|_| history.request(Arc::new(entry(now(), "m", 200))));
    eventually("given up", || (metrics.history.failed.get() == 9).then_some(()));
    assert_eq!(all(&history), [], "reading waits for nobody");
    other.execute_batch("ROLLBACK").unwrap();
    history.request(Arc::new(entry(now(), "m", 200)));
    eventually("written again", || (all(&history).len() == 1).then_some(()));
    let found = history.sums(&RANGES[4].window(now() + 60.0, &Settings::default()), &Among::default()).unwrap();
    assert_eq!(total(&found).requests, 10);
}

#[test]
fn a_flood_is_bounded_in_rows_and_names_and_whole_in_sums() {
    let (history, metrics) = open(None, Settings::default());
    let at = now();
    let mut handed = 0;
    for number in 0..6000 {
        history.request(Arc::new(entry(at, &format!("made-up-{number}"), 200)));
        handed += 1;
    }
    let busy = metrics.history.busy.get();
    let by = By { key: false, model: true };
    let rows = eventually("all summed up", || {
        let rows = history.usage(by, Per::Total, 0.0, now() + 1.0).unwrap();
        (rows.iter().map(|row| row.requests).sum::<u64>() == handed - busy).then_some(rows)
    });
    assert_eq!(rows.len(), 257);
    let left = rows.iter().find(|row| row.model.as_deref() == Some("(others)")).unwrap();
    assert_eq!(left.requests, handed - busy - 256);
    let kept = all(&history).len() as u64;
    assert_eq!(kept + metrics.history.left_out.get(), handed - busy);
}

#[test]
fn a_folder_that_cannot_be_one_is_an_error_that_names_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("file");
    fs::write(&path, "").unwrap();
    let refused = History::open(Some(&path), Settings::default(), Arc::new(Metrics::default())).unwrap_err();
    assert!(matches!(refused, HistoryError::Folder { .. }), "{refused}");
    assert!(refused.to_string().contains("server.data_dir") && refused.to_string().contains("file"), "{refused}");
}

#[test]
fn live_readers_see_requests_as_they_end() {
    let (history, _) = open(None, Settings::default());
    let mut live = history.live();
    history.request(Arc::new(entry(now(), "m", 200)));
    let seen = live.blocking_recv().unwrap();
    assert_eq!(seen.entry.model, "m");
    let row = super::requests::RequestRow::of(&seen);
    assert_eq!(eventually("written", || all(&history).pop()), row);
}

#[test]
fn two_stores_of_one_file_write_side_by_side() {
    let folder = tempfile::tempdir().unwrap();
    let ((one, ours), (other, theirs)) =
        (open(Some(folder.path()), Settings::default()), open(Some(folder.path()), Settings::default()));
    for _ in 0..100 {
        one.request(Arc::new(entry(now(), "m", 200)));
        other.request(Arc::new(entry(now(), "m", 200)));
    }
    one.close(PATIENCE);
    other.close(PATIENCE);
    assert_eq!((all(&one).len(), ours.history.failed.get() + theirs.history.failed.get()), (200, 0));
    let lines = one.sums(&RANGES[4].window(now() + 60.0, &Settings::default()), &Among::default()).unwrap();
    assert_eq!(total(&lines).requests, 200);
    assert_eq!(lines.iter().map(|line| line.totals.durations.total()).sum::<u64>(), 200);
}

#[test]
fn sums_that_can_grow_no_more_stop_nobody() {
    let folder = tempfile::tempdir().unwrap();
    let (history, _) = open(Some(folder.path()), Settings::default());
    let at = now();
    history.request(Arc::new(entry(at, "a", 200)));
    let history = again(history, folder.path());
    let file = rusqlite::Connection::open(folder.path().join("arriero.db")).unwrap();
    for table in ["sums", "usage"] {
        file.execute(&format!("UPDATE {table} SET prompt_tokens = ?1, bytes_in = ?1"), [i64::MAX - 1]).unwrap();
    }
    drop(file);
    history.request(Arc::new(entry(at, "a", 200)));
    history.request(Arc::new(entry(at, "b", 200)));
    let history = again(history, folder.path());
    let by = By { key: false, model: true };
    let rows = history.usage(by, Per::Total, 0.0, at + 1.0).unwrap();
    let told: Vec<_> = rows.iter().map(|row| (row.model.as_deref(), row.requests, row.prompt_tokens)).collect();
    assert_eq!(told, [(Some("a"), 2, i64::MAX.unsigned_abs()), (Some("b"), 1, 10)]);
    let by = By { key: false, model: false };
    let rows = history.usage(by, Per::Total, 0.0, at + 1.0).unwrap();
    assert_eq!((rows[0].requests, rows[0].prompt_tokens), (3, i64::MAX.unsigned_abs()));
}
