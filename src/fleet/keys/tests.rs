use std::fs;

use super::*;
use crate::config::keys::{KeyScope, edit};
use crate::policy::api_key::{RANDOM_BYTES, write};

/// The text of a key made of one byte.
fn text_of(byte: u8) -> String {
    write(&[byte; RANDOM_BYTES]).1
}

fn entry(byte: u8) -> KeyEntry {
    let (id, text) = write(&[byte; RANDOM_BYTES]);
    KeyEntry {
        name: "team".to_owned(),
        id,
        hash: Digest::of(split(text.as_bytes()).1),
        scopes: vec![KeyScope::Inference],
        models: Vec::new(),
        quotas: std::collections::BTreeMap::new(),
        expires: None,
        created: None,
    }
}

fn set() -> KeySet {
    let limited = KeyEntry { models: vec!["llava*".to_owned(), "mistral".to_owned()], ..entry(2) };
    let over = KeyEntry { expires: Some(Timestamp(1000)), scopes: vec![KeyScope::Management], ..entry(3) };
    KeySet::new(vec![entry(1), limited, over])
}

#[test]
fn a_key_is_found_by_its_whole_text_only() {
    let set = set();
    assert_eq!(set.find(text_of(1).as_bytes(), 0).map(|key| key.id.clone()).as_deref(), Some("01010101"));
    let good = text_of(1);
    let mut wrong: Vec<String> = (3..good.len()).map(|at| format!("{}x{}", &good[..at], &good[at + 1..])).collect();
    wrong.extend(["", "ak_", "ak_01010101_", "x"].map(str::to_owned));
    wrong.extend([good.to_uppercase(), format!("{good} "), format!(" {good}"), good[..good.len() - 1].to_owned()]);
    wrong.push(format!("ak_02020202_{}", &good[12..]));
    wrong.push(text_of(9));
    wrong.push(format!("ak_00000000_{}", "0".repeat(64)));
    for text in wrong {
        assert!(set.find(text.as_bytes(), 0).is_none(), "{text}");
    }
}

#[test]
fn every_look_up_compares_digests_exactly_once() {
    let set = set();
    let good = text_of(1);
    let presented = [
        good.clone(),
        good.replace("_0", "_1"),
        format!("{}0", &good[..good.len() - 1]),
        good[..20].to_owned(),
        format!("{good}{good}"),
        text_of(9),
        text_of(3),
        "nonsense".to_owned(),
        String::new(),
    ];
    for text in presented {
        let mut compared = 0;
        let _ = set.find_with(text.as_bytes(), 2000, |one, other| {
            compared += 1;
            one.matches(other)
        });
        assert_eq!(compared, 1, "{text}");
    }
}

#[test]
fn even_the_digest_of_nothing_lets_nobody_in() {
    assert!(set().find_with(b"anything", 0, |_, _| Choice::from(1)).is_none());
}

#[test]
fn a_key_ends_at_its_time() {
    let set = set();
    let text = text_of(3);
    assert!(set.find(text.as_bytes(), 999).is_some());
    assert!(set.find(text.as_bytes(), 1000).is_none());
    assert!(set.find(text.as_bytes(), u64::MAX).is_none());
}

#[test]
fn scopes_and_models_are_those_of_the_entry() {
    let set = set();
    let [all, limited, over] = [1, 2, 3].map(|byte| set.find(text_of(byte).as_bytes(), 0).unwrap());
    assert!(all.has_scope(Scope::Inference) && !all.has_scope(Scope::Management) && over.has_scope(Scope::Management));
    assert!(all.allows_model("anything:7b") && !all.is_limited());
    assert!(limited.is_limited() && limited.allows_model("llava:13b") && limited.allows_model("mistral:latest"));
    assert!(!limited.allows_model("mistral:7b") && !limited.allows_model("bakllava:7b"));
}

fn file() -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("keys.yaml");
    put(&path, &[1]);
    (folder, path)
}

fn put(path: &Path, bytes: &[u8]) {
    let written = edit(path, true, |keys| {
        *keys = bytes.iter().map(|byte| entry(*byte)).collect();
        Ok(())
    });
    written.unwrap();
}

fn knows(keys: &Keys, byte: u8) -> bool {
    keys.find(text_of(byte).as_bytes(), 0).is_some()
}

#[test]
fn a_change_of_the_file_is_in_force_after_the_next_look() {
    let (_folder, path) = file();
    let keys = Keys::open(&path).unwrap();
    assert!(knows(&keys, 1));
    assert_eq!((keys.refresh(), keys.refresh(), keys.refresh()), (Ok(false), Ok(false), Ok(false)));
    put(&path, &[1, 2]);
    assert_eq!((keys.refresh(), knows(&keys, 2)), (Ok(true), true));
    put(&path, &[2]);
    assert_eq!((keys.refresh(), knows(&keys, 1)), (Ok(true), false));
    fs::write(&path, "keys: []").unwrap();
    assert_eq!((keys.refresh(), knows(&keys, 2), keys.current().is_empty()), (Ok(true), false, true));
}

#[test]
fn a_change_that_leaves_no_sign_is_found_if_it_came_right_behind_another() {
    let (_folder, path) = file();
    let keys = Keys::open(&path).unwrap();
    let text = fs::read_to_string(&path).unwrap();
    // As if the file had been written again between the look and the next tick of its clock.
    keys.seen.lock().hash = "other".to_owned();
    assert_eq!((keys.refresh(), keys.refresh()), (Ok(true), Ok(false)));
    fs::write(&path, text.replace("team", "meat")).unwrap();
    assert_eq!(keys.refresh(), Ok(true));
}

#[test]
fn a_file_that_is_broken_or_half_written_or_gone_leaves_the_keys_as_they_are() {
    let (_folder, path) = file();
    put(&path, &[1, 2]);
    let whole = fs::read_to_string(&path).unwrap();
    let keys = Keys::open(&path).unwrap();
    let inside = whole.rfind("hash").unwrap() + 30;
    for broken in
        ["", "keys:\n", "# nothing\n", "keys: {", "kyes: []", "\u{0}", &whole[..inside], &whole.replace("team", "a b")]
    {
        fs::write(&path, broken).unwrap();
        assert!(keys.refresh().is_err() && keys.refresh().is_err(), "{broken}");
        assert!(knows(&keys, 1) && knows(&keys, 2), "{broken}");
    }
    fs::remove_file(&path).unwrap();
    assert!(keys.refresh().is_err() && knows(&keys, 1));
    fs::write(&path, &whole).unwrap();
    assert_eq!(keys.refresh(), Ok(false), "the same as before");
    put(&path, &[2]);
    assert_eq!((keys.refresh(), knows(&keys, 1), knows(&keys, 2)), (Ok(true), false, true));
}

#[test]
fn the_metric_shows_whether_the_file_is_in_force() {
    let (_folder, path) = file();
    let (keys, metrics, mut told) = (Keys::open(&path).unwrap(), Metrics::default(), None);
    let shown = |metrics: &Metrics| {
        let text = metrics.encode();
        let line =
            text.lines().find(|line| line.starts_with("arriero_keys_last_reload_successful ")).map(str::to_owned);
        line.unwrap_or_else(|| panic!("{text}"))
    };
    assert!(shown(&metrics).ends_with(" 1"), "without a file nothing is wrong");
    fs::write(&path, "keys: {").unwrap();
    look(&keys, &mut told, &metrics);
    assert!(shown(&metrics).ends_with(" 0") && told.is_some());
    fs::remove_file(&path).unwrap();
    put(&path, &[2]);
    look(&keys, &mut told, &metrics);
    assert!(shown(&metrics).ends_with(" 1") && told.is_none() && knows(&keys, 2));
}
