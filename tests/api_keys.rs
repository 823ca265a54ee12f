//! `arriero key` as a user and a script meet it, and the keys file as a running program does.

mod support;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use serde_json::Value;
use support::http_yaml;
use support::process::{Ended, Program, arriero, complete, finish};

fn folder() -> tempfile::TempDir {
    tempfile::tempdir().expect("a folder")
}

/// Runs `arriero key` in a folder to its end.
async fn key(arguments: &[&str], folder: &Path) -> Ended {
    finish(arriero(&[&["key"], arguments].concat(), folder)).await
}

/// The same with `--file keys.yaml`.
async fn in_file(arguments: &[&str], folder: &Path) -> Ended {
    key(&[arguments, &["--file", "keys.yaml"]].concat(), folder).await
}

async fn list(folder: &Path) -> Vec<Value> {
    let ended = in_file(&["list", "--format", "json"], folder).await;
    assert_eq!(ended.code, Some(0), "{ended:?}");
    serde_json::from_str(&ended.out).expect("a JSON array")
}

fn config(auth: &str) -> String {
    format!("{}{auth}\n", complete(&http_yaml(&["http://127.0.0.1:9".to_owned()], "", "")))
}

#[tokio::test]
async fn a_new_key_is_shown_once_and_only_its_hash_is_kept() {
    let folder = folder();
    let ended = in_file(&["new", "alice"], folder.path()).await;
    assert_eq!(ended.code, Some(0), "{ended:?}");
    let text = ended.out.strip_suffix('\n').expect("one line");
    let (id, secret) = text.strip_prefix("ak_").and_then(|rest| rest.split_once('_')).expect("ak_ID_SECRET");
    assert!(
        id.len() == 8 && secret.len() == 64 && format!("{id}{secret}").bytes().all(|b| b.is_ascii_hexdigit()),
        "{text}"
    );
    assert!(ended.err.contains("alice") && ended.err.contains("once") && !ended.err.contains(secret), "{}", ended.err);
    let path = folder.path().join("keys.yaml");
    assert_eq!(fs::metadata(&path).expect("a file").permissions().mode() & 0o777, 0o600);
    let written = fs::read_to_string(&path).expect("a text");
    assert!(written.contains(id) && !written.contains(secret) && written.contains("sha256:"), "{written}");
    assert_ne!(in_file(&["new", "alice"], folder.path()).await.out, ended.out, "no two keys are the same");
    assert_eq!(list(folder.path()).await.len(), 2, "a name may have several");
}

#[tokio::test]
async fn scopes_models_and_lifetime_are_kept_and_listed() {
    let folder = folder();
    let plain = in_file(&["new", "plain"], folder.path()).await;
    assert_eq!(plain.code, Some(0), "{plain:?}");
    let words = [
        "new",
        "ops",
        "--scope",
        "management",
        "--scope",
        "inference",
        "--model",
        "llava*",
        "--model",
        "mistral",
        "--expires",
        "90d",
    ];
    assert_eq!(in_file(&words, folder.path()).await.code, Some(0));
    let rows = list(folder.path()).await;
    assert_eq!((&rows[0]["scopes"], &rows[0]["models"]), (&serde_json::json!(["inference"]), &serde_json::json!([])));
    assert_eq!((&rows[0]["expires"], &rows[0]["expired"]), (&Value::Null, &Value::Bool(false)));
    assert_eq!(rows[1]["scopes"], serde_json::json!(["management", "inference"]));
    assert_eq!(rows[1]["models"], serde_json::json!(["llava*", "mistral"]));
    let [created, expires] = ["created", "expires"].map(|name| {
        let text = rows[1][name].as_str().expect("a time");
        humantime::parse_rfc3339(text).unwrap_or_else(|error| panic!("{text}: {error}"))
    });
    assert_eq!(expires.duration_since(created).expect("later").as_secs(), 90 * 86_400);
    let shown = in_file(&["list"], folder.path()).await.out;
    assert_eq!(shown.lines().count(), 3, "{shown}");
    assert!(shown.starts_with("ID ") && shown.contains("management,inference") && shown.contains("never"), "{shown}");
    for text in [&shown, &fs::read_to_string(folder.path().join("keys.yaml")).expect("a text")] {
        assert!(!text.contains(&plain.out.trim_end()[12..]), "no secret: {text}");
    }
}

#[tokio::test]
async fn a_key_that_is_over_is_listed_as_such() {
    let folder = folder();
    assert_eq!(in_file(&["new", "a"], folder.path()).await.code, Some(0));
    let path = folder.path().join("keys.yaml");
    let text = fs::read_to_string(&path).expect("a text");
    fs::write(&path, format!("{text}    expires: 2020-01-01T00:00:00+02:00\n")).expect("written");
    let rows = list(folder.path()).await;
    assert_eq!((&rows[0]["expired"], &rows[0]["expires"]), (&Value::Bool(true), &Value::from("2019-12-31T22:00:00Z")));
    assert!(in_file(&["list"], folder.path()).await.out.contains("(over)"));
}

#[tokio::test]
async fn a_key_is_revoked_by_its_id_or_by_itself() {
    let folder = folder();
    let [first, second] =
        [in_file(&["new", "a"], folder.path()).await.out, in_file(&["new", "b"], folder.path()).await.out];
    let ended = in_file(&["revoke", &first[3..11]], folder.path()).await;
    assert!(ended.code == Some(0) && ended.err.contains("`a`"), "{ended:?}");
    assert_eq!(list(folder.path()).await.len(), 1);
    let ended = in_file(&["revoke", second.trim_end()], folder.path()).await;
    assert!(ended.code == Some(0) && !ended.err.contains(&second[12..75]), "{ended:?}");
    assert!(list(folder.path()).await.is_empty());
}

#[tokio::test]
async fn what_cannot_be_done_says_why_and_changes_nothing() {
    let folder = folder();
    let made = in_file(&["new", "alice"], folder.path()).await.out;
    let before = fs::read(folder.path().join("keys.yaml")).expect("a file");
    let secret = format!("ak_ffffffff_{}", "0".repeat(64));
    for (words, code, told) in [
        (&["new", "a b"][..], 1, "letters, digits"),
        (&["new", ""], 1, "letters, digits"),
        (&["new", "a", "--scope", "root"], 2, "management"),
        (&["new", "a", "--model", ""], 2, "llava*"),
        (&["new", "a", "--expires", "90"], 2, "write `90s`"),
        (&["new", "a", "--expires", "0s"], 2, "at least a second"),
        (&["revoke", "ffffffff"], 1, "arriero key list"),
        (&["revoke", "alice"], 1, &made[3..11]),
        (&["revoke", &secret], 1, "`ffffffff`"),
        (&[], 2, "revoke"),
    ] {
        let ended = in_file(words, folder.path()).await;
        let ended = if words.is_empty() { key(&[], folder.path()).await } else { ended };
        assert!(ended.code == Some(code) && ended.err.contains(told) && ended.out.is_empty(), "{words:?}: {ended:?}");
        assert!(!ended.err.contains(&secret[12..]), "{ended:?}");
    }
    assert_eq!(fs::read(folder.path().join("keys.yaml")).expect("a file"), before);
    fs::write(folder.path().join("keys.yaml"), "keys: [{ name: a }]").expect("written");
    for words in [&["new", "a"][..], &["list"], &["revoke", "ffffffff"]] {
        let ended = in_file(words, folder.path()).await;
        assert!(ended.code == Some(1) && ended.err.contains("keys.yaml:1:8") && ended.out.is_empty(), "{ended:?}");
    }
    for words in [&["list"][..], &["revoke", "ffffffff"]] {
        let ended = key(&[words, &["--file", "nowhere.yaml"]].concat(), folder.path()).await;
        assert!(
            ended.code == Some(1) && ended.err.contains("nowhere.yaml") && ended.err.contains("key new"),
            "{ended:?}"
        );
    }
    assert!(!folder.path().join("nowhere.yaml").exists());
}

#[tokio::test]
async fn without_a_file_that_of_the_configuration_is_meant() {
    let folder = folder();
    let none = key(&["new", "a"], folder.path()).await;
    assert!(none.code == Some(1) && none.err.contains("arriero.yaml") && none.err.contains("--file"), "{none:?}");
    fs::write(folder.path().join("arriero.yaml"), config("")).expect("written");
    let none = key(&["list"], folder.path()).await;
    assert!(none.code == Some(1) && none.err.contains("keys_file") && none.err.contains("--file"), "{none:?}");
    fs::write(folder.path().join("arriero.yaml"), config("auth: { keys_file: mine.yaml }")).expect("written");
    assert_eq!(key(&["new", "a"], folder.path()).await.code, Some(0));
    assert!(folder.path().join("mine.yaml").exists());
    fs::write(folder.path().join("arriero.yaml"), config("auth: { keysfile: mine.yaml }")).expect("written");
    let broken = key(&["list"], folder.path()).await;
    assert!(broken.code == Some(1) && broken.err.contains("did you mean `keys_file`?"), "{broken:?}");
}

#[tokio::test]
async fn comments_that_are_lost_are_told() {
    let folder = folder();
    fs::write(folder.path().join("keys.yaml"), "# our keys\nkeys: []\n").expect("written");
    let first = in_file(&["new", "a"], folder.path()).await;
    assert!(first.code == Some(0) && first.err.contains("comments"), "{first:?}");
    let second = in_file(&["new", "a"], folder.path()).await;
    assert!(second.code == Some(0) && !second.err.contains("comments"), "{second:?}");
}

#[tokio::test]
async fn the_check_reads_the_keys_file_too() {
    let folder = folder();
    fs::write(folder.path().join("arriero.yaml"), config("auth: { keys_file: keys.yaml }")).expect("written");
    let check = async |more: &[&str]| finish(arriero(&[&["check"], more].concat(), folder.path())).await;
    let missing = check(&[]).await;
    assert!(missing.code == Some(0) && missing.err.contains("warning[W061]"), "{missing:?}");
    assert_eq!(check(&["--strict"]).await.code, Some(1));
    assert_eq!(in_file(&["new", "a"], folder.path()).await.code, Some(0));
    assert_eq!(check(&["--strict"]).await.code, Some(0));
    fs::write(folder.path().join("keys.yaml"), "keys: [{ name: a }]").expect("written");
    let broken = check(&["--format", "json"]).await;
    assert!(broken.code == Some(1) && broken.out.contains("keys.yaml"), "{broken:?}");
}

#[tokio::test]
async fn a_run_needs_its_keys() {
    let folder = folder();
    fs::write(folder.path().join("arriero.yaml"), config("auth: { keys_file: keys.yaml }")).expect("written");
    let ended = finish(arriero(&["run"], folder.path())).await;
    assert!(
        ended.code == Some(1) && ended.err.contains("auth.keys_file") && ended.err.contains("keys.yaml"),
        "{ended:?}"
    );
    fs::write(folder.path().join("keys.yaml"), "keys: {").expect("written");
    let ended = finish(arriero(&["run"], folder.path())).await;
    assert!(ended.code == Some(1) && ended.err.contains("keys.yaml"), "{ended:?}");
}

#[tokio::test]
async fn another_keys_file_takes_effect_with_a_reload_unless_it_is_not_good() {
    let folder = folder();
    let file = folder.path().join("arriero.yaml");
    assert_eq!(in_file(&["new", "a"], folder.path()).await.code, Some(0));
    fs::write(&file, config("auth: { keys_file: keys.yaml }")).expect("written");
    let program = Program::run(&file).await;
    let reload = async |keys: &str| {
        fs::write(&file, config(&format!("auth:\n  keys_file: {keys}"))).expect("written");
        finish(arriero(&["reload", "--admin", &program.admin().to_string()], folder.path())).await
    };
    let missing = reload("other.yaml").await;
    assert!(missing.code == Some(1) && missing.err.contains("other.yaml"), "{missing:?}");
    assert_eq!(key(&["new", "b", "--file", "other.yaml"], folder.path()).await.code, Some(0));
    let there = reload("other.yaml").await;
    assert_eq!(there.code, Some(0), "{there:?}");
    // The same file again keeps the keys that it had when it was good.
    fs::write(folder.path().join("other.yaml"), "keys: {").expect("written");
    let same = reload("other.yaml # again").await;
    assert_eq!(same.code, Some(0), "{same:?}");
}
