use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use super::*;

const HASH: &str = "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

fn folder() -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("keys.yaml");
    (folder, path)
}

fn entry(name: &str, id: &str) -> KeyEntry {
    KeyEntry {
        name: name.to_owned(),
        id: id.to_owned(),
        hash: HASH.parse().unwrap(),
        scopes: vec![KeyScope::Inference, KeyScope::Management],
        models: vec!["llava*".to_owned(), "a \"b\": # c".to_owned()],
        quotas: [("daily".to_owned(), Count(5_000_000))].into(),
        expires: Some(Timestamp(1_800_000_000)),
        created: None,
    }
}

/// What is found, as `CODE LINE:COLUMN PATH`.
fn found(text: &str) -> Vec<String> {
    let found = parse("keys.yaml", text.as_bytes()).err().unwrap_or_default();
    found.0.iter().map(|one| format!("{} {}:{} {}", one.code, one.line, one.column, one.path)).collect()
}

#[test]
fn a_file_is_read_with_its_defaults() {
    let text = format!("keys:\n  - {{ name: alice, id: 0a1b2c3d, hash: \"{HASH}\" }}\n");
    let loaded = parse("keys.yaml", text.as_bytes()).unwrap();
    let key = &loaded.keys[0];
    assert_eq!(
        (key.name.as_str(), key.id.as_str(), &key.scopes[..]),
        ("alice", "0a1b2c3d", &[KeyScope::Inference][..])
    );
    assert!(key.models.is_empty() && key.expires.is_none() && key.created.is_none());
    assert!(parse("keys.yaml", b"keys: []").unwrap().keys.is_empty());
    // These ids look like numbers.
    for id in ["12345678", "12345e78", "00000000"] {
        assert_eq!(found(&text.replace("0a1b2c3d", id)), Vec::<String>::new());
    }
}

#[test]
fn everything_that_is_wrong_is_told_with_its_place() {
    let good = format!("  - name: a\n    id: 0a1b2c3d\n    hash: {HASH}\n");
    let with = |more: &str| found(&format!("keys:\n{good}    {more}\n"));
    assert_eq!(with("expires: 2027-01-31T00:00:00+01:00"), Vec::<String>::new());
    assert_eq!(with("expires: 2027-01-31"), ["E013 5:14 keys[0].expires"]);
    assert_eq!(with("created: soon"), ["E013 5:14 keys[0].created"]);
    assert_eq!(with("scopes: [inferense]"), ["E013 5:14 keys[0].scopes[0]"]);
    assert_eq!(with("scopes: []"), ["E021 5:5 keys[0].scopes"]);
    assert_eq!(with("models: [\"\"]"), ["E031 5:14 keys[0].models[0]"]);
    assert_eq!(with("secret: x"), ["E010 5:5 keys[0].secret"]);
    let edit = |from: &str, to: &str| found(&format!("keys:\n{}", good.replace(from, to)));
    assert_eq!(edit("name: a", "name: a b"), ["E024 2:11 keys[0].name"]);
    assert_eq!(edit("0a1b2c3d", "0A1B2C3D"), ["E063 3:9 keys[0].id"]);
    assert_eq!(edit("15ad", "15a"), ["E013 4:11 keys[0].hash"]);
    assert_eq!(edit("    id: 0a1b2c3d\n", ""), ["E011 2:5 keys[0]"]);
    assert_eq!(found(&format!("keys:\n{good}{good}")), ["E025 6:9 keys[1].id"]);
    assert_eq!(found("kyes: []"), ["E010 1:1 kyes"]);
    assert_eq!(found("keys:"), ["E012 1:1 keys"]);
    assert_eq!(found("[]"), ["E012 1:1 "]);
}

#[test]
fn a_file_that_is_not_there_tells_how_to_make_one() {
    let (_folder, path) = folder();
    let printed = load(&path).err().unwrap_or_default().render(false);
    assert!(printed.contains("does not exist") && printed.contains("arriero key new NAME --file"), "{printed}");
    assert!(!printed.contains("arriero init"), "{printed}");
    fs::write(&path, "# nothing\n").unwrap();
    let printed = load(&path).err().unwrap_or_default().render(false);
    assert!(printed.contains("`keys: []`") && !printed.contains("arriero init"), "{printed}");
}

#[test]
fn what_is_written_is_read_back() {
    let (_folder, path) = folder();
    let keys = vec![entry("a", "00000001"), KeyEntry { models: Vec::new(), expires: None, ..entry("b", "12345e78") }];
    let put = keys.clone();
    edit(&path, true, |all| {
        *all = put;
        Ok(())
    })
    .unwrap();
    let read = load(&path).unwrap();
    assert_eq!(format!("{:?}", read.keys), format!("{keys:?}"));
    let text = fs::read_to_string(&path).unwrap();
    assert!(text.contains("expires: \"2027-01-15T08:00:00Z\""), "{text}");
    edit(&path, false, |all| {
        all.clear();
        Ok(())
    })
    .unwrap();
    assert!(load(&path).unwrap().keys.is_empty());
}

#[test]
fn a_change_keeps_links_and_the_right_to_read_and_leaves_nothing_behind() {
    let (folder, path) = folder();
    let mode = |path: &PathBuf| fs::metadata(path).unwrap().permissions().mode() & 0o7777;
    let add = |path: &PathBuf| {
        edit(path, true, |keys| {
            keys.push(entry("a", "00000001"));
            Ok(())
        })
        .unwrap()
    };
    assert!(!add(&path).lost_comments);
    assert_eq!(mode(&path), 0o600);
    fs::write(&path, "# mine\nkeys: []\n").unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o664)).unwrap();
    let link = folder.path().join("link.yaml");
    std::os::unix::fs::symlink("keys.yaml", &link).unwrap();
    assert!(add(&link).lost_comments, "comments are gone and that is told");
    assert!(link.symlink_metadata().unwrap().is_symlink());
    assert_eq!((mode(&path), load(&path).unwrap().keys.len()), (0o640, 1));
    let names: Vec<_> = fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names.len(), 2, "{names:?}");
}

#[test]
fn a_change_that_fails_leaves_the_file_as_it_was() {
    let (_folder, path) = folder();
    let nothing = |keys: &mut Vec<KeyEntry>| {
        keys.clear();
        Ok(())
    };
    assert!(matches!(edit(&path, false, nothing), Err(EditError::Invalid(_))));
    assert!(!path.exists());
    for broken in ["keys: {", "", "keys: [a]"] {
        fs::write(&path, broken).unwrap();
        assert!(matches!(edit(&path, true, nothing), Err(EditError::Invalid(_))), "{broken}");
        assert_eq!(fs::read_to_string(&path).unwrap(), broken);
    }
    fs::write(&path, "keys: [] # none").unwrap();
    let refused = edit(&path, true, |_| Err::<(), _>("no".to_owned()));
    assert!(matches!(refused, Err(EditError::Refused(_))));
    assert_eq!(fs::read_to_string(&path).unwrap(), "keys: [] # none");
}

#[test]
fn many_changes_at_a_time_lose_nothing() {
    let (_folder, path) = folder();
    std::thread::scope(|scope| {
        for number in 0..16 {
            let path = &path;
            scope.spawn(move || {
                edit(path, true, |keys| {
                    keys.push(entry("a", &format!("{number:08x}")));
                    Ok(())
                })
            });
        }
    });
    assert_eq!(load(&path).unwrap().keys.len(), 16);
}
