//! What is thrown away: by operators, and by requests that change something.

use super::support::admin::{call, order, problem, show};
use super::*;

/// A server whose answers have the tags that their query names.
async fn tagged() -> Origin {
    Origin::start(|seen| {
        let tags = seen.target.split('?').nth(1).unwrap_or_default().replace('&', " ");
        good(&format!("Cache-Control: max-age=60\r\nCache-Tag: {tags}\r\n"), format!("{}", seen.number))
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn operators_throw_away_what_they_name() {
    let origin = tagged().await;
    let proxy = before(&origin, CACHE).await;
    let paths = ["/a?red&blue", "/a/b?red", "/c?blue", "/d"];
    let fill = async || {
        for path in paths {
            get(&proxy, path).await;
        }
    };
    let left = async || {
        let list = show(&proxy, "/caches/entries").await;
        let mut uris: Vec<String> = list["entries"]
            .as_array()
            .expect("a list")
            .iter()
            .map(|entry| entry["uri"].as_str().expect("a URI").replace("http://a.test", ""))
            .collect();
        uris.sort();
        assert_eq!(list["count"], uris.len());
        uris
    };
    for (purge, wanted) in [
        (r#"{"tag":"red"}"#, &["/c?blue", "/d"][..]),
        (r#"{"key":"http://a.test/c?blue"}"#, &["/a/b?red", "/a?red&blue", "/d"]),
        (r#"{"key":"/d","who":"me"}"#, &["/a/b?red", "/a?red&blue", "/c?blue"]),
        (r#"{"prefix":"/a"}"#, &["/c?blue", "/d"]),
        (r#"{"prefix":"http://a.test/a/","route":"all"}"#, &["/a?red&blue", "/c?blue", "/d"]),
        (r#"{"kind":"embeddings"}"#, &["/a/b?red", "/a?red&blue", "/c?blue", "/d"]),
        (r#"{"kind":"answers","prefix":"/a"}"#, &["/c?blue", "/d"]),
        (r#"{"kind":"answers","route":"all"}"#, &[]),
        (r#"{"route":"all"}"#, &[]),
        ("{}", &[]),
    ] {
        fill().await;
        let purged = order(&proxy, "/caches/purge", purge).await;
        assert_eq!(
            (left().await, &purged["purged"]),
            (wanted.iter().map(|uri| (*uri).to_owned()).collect(), &serde_json::json!(4 - wanted.len())),
            "{purge}"
        );
        let count = origin.count();
        for path in wanted {
            assert_eq!(told(&get(&proxy, path).await), "arriero; hit", "{purge}: {path}");
        }
        assert_eq!(origin.count(), count);
    }
    for (wrong, status) in [
        (r#"{"key":"/a","tag":"b"}"#, 400),
        (r#"{"model":"m","tag":"b"}"#, 400),
        (r#"{"kind":"embeddings","tag":"b"}"#, 400),
        (r#"{"kind":"answers","model":"m"}"#, 400),
        (r#"{"kind":"files"}"#, 400),
        (r#"{"route":"none","tag":"b"}"#, 404),
        (r#"{"route":"all","kind":"embeddings"}"#, 404),
        (r#"{"url":"/a"}"#, 400),
    ] {
        assert_eq!(problem(&call(&proxy, "POST", "/caches/purge", wrong).await).0, status, "{wrong}");
    }
    // What is kept can be looked at.
    fill().await;
    get(&proxy, "/a?red&blue").await;
    let one = show(&proxy, "/caches/entries?key=/a%3Fred%26blue").await;
    let entry = &one["entries"][0];
    assert_eq!(
        (&one["count"], &entry["tags"], &entry["status"], &entry["hits"]),
        (&1.into(), &serde_json::json!(["red", "blue"]), &200.into(), &1.into()),
        "{one}"
    );
    let most = show(&proxy, "/caches/entries?limit=1").await;
    assert_eq!(
        (&most["count"], &most["entries"][0]["uri"]),
        (&4.into(), &"http://a.test/a?red&blue".into()),
        "those that are used most"
    );
    let caches = show(&proxy, "/caches").await;
    let cache = &caches["caches"][0];
    assert_eq!(
        (&cache["kind"], &cache["route"], &cache["scope"]),
        (&"answers".into(), &"all".into(), &"key".into()),
        "{caches}"
    );
    assert!(cache["bytes"].as_u64() > Some(0) && cache["hitRate"].as_f64() > Some(0.0), "{caches}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_on_its_way_is_thrown_away_too() {
    let gate = Gate::new();
    let waits = gate.clone();
    let origin = Origin::start(move |seen| match seen.number {
        0 => vec![
            Step::Write(
                b"HTTP/1.1 200 OK\r\nCache-Control: max-age=60\r\nCache-Tag: red\r\nContent-Length: 3\r\n\r\no"
                    .to_vec(),
            ),
            Step::Wait(waits.clone()),
            Step::Write(b"ld".to_vec()),
        ],
        _ => good("Cache-Control: max-age=60\r\n", "new"),
    })
    .await;
    let proxy = before(&origin, CACHE).await;
    let mut first = H1::connect(proxy.address()).await;
    first.send("GET / HTTP/1.1\r\nHost: a.test\r\n\r\n").await;
    let head = first.reader.head().await;
    order(&proxy, "/caches/purge", r#"{"tag":"red"}"#).await;
    gate.open();
    assert_eq!(first.reader.body(&head).await.0, b"old");
    assert_eq!(get(&proxy, "/").await.text(), "new");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_changes_something_makes_what_is_kept_untrue() {
    let origin = Origin::start(|seen| match (seen.method.as_str(), seen.target.as_str()) {
        ("GET", _) => good("Cache-Control: max-age=60\r\n", format!("{}", seen.number)),
        (_, "/fails") => answer("500 Internal Server Error", "", ""),
        (_, "/refused") => answer("409 Conflict", "", ""),
        (_, "/list") => answer("201 Created", "Location: /list/1\r\nContent-Location: http://a.test/list/all\r\n", ""),
        (_, "/elsewhere") => answer("201 Created", "Location: http://b.test/item\r\n", ""),
        _ => answer("204 No Content", "", ""),
    })
    .await;
    let keys = support::keys::KeysFile::new(&[("00000007", "")]);
    let proxy = proxy(http_yaml(&[origin.url()], "cache: {}\nauth: optional", QUIET) + &keys.yaml()).await;
    let change = async |method: &str, path: &str| {
        send_with(proxy.address(), method, path, "Host: a.test\r\n", "").await.head.status
    };
    let is_kept = async |path: &str| told(&get(&proxy, path).await) == "arriero; hit";
    for method in ["POST", "PUT", "DELETE", "PATCH"] {
        let own = support::keys::bearer("00000007");
        get(&proxy, "/item?x").await;
        get(&proxy, "/item").await;
        get_with(&proxy, "/item", &own).await;
        assert!(is_kept("/item").await && is_kept("/item?x").await);
        assert_eq!(change(method, "/item").await, 204);
        assert!(!is_kept("/item").await && is_kept("/item?x").await, "{method}");
        // That of a key too, whoever changed it.
        assert_ne!(told(&get_with(&proxy, "/item", &own).await), "arriero; hit", "{method}");
        assert!(is_kept("/item").await);
    }
    for (path, status) in [("/fails", 500), ("/refused", 409)] {
        get(&proxy, path).await;
        assert_eq!(change("POST", path).await, status);
        assert!(is_kept(path).await, "nothing was changed: {path}");
    }
    for path in ["/list", "/list/1", "/list/all", "/list/2"] {
        get(&proxy, path).await;
    }
    assert_eq!(change("POST", "/list").await, 201);
    assert_eq!(
        [is_kept("/list").await, is_kept("/list/1").await, is_kept("/list/all").await, is_kept("/list/2").await],
        [false, false, false, true]
    );
    // Nobody can throw away what is on another host.
    send_with(proxy.address(), "GET", "/item", "Host: b.test\r\n", "").await;
    assert_eq!(change("POST", "/elsewhere").await, 201);
    let other = send_with(proxy.address(), "GET", "/item", "Host: b.test\r\n", "").await;
    assert_eq!(told(&other), "arriero; hit");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_line_shows_and_throws_away() {
    let origin = tagged().await;
    let proxy = before(&origin, CACHE).await;
    for path in ["/a?red", "/a?red", "/b?blue", "/b/c"] {
        get(&proxy, path).await;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let admin = support::admin::address(&proxy).to_string();
    let run = async |words: &[&str]| {
        let words = [&["cache"], words, &["--admin", &admin]].concat();
        support::process::finish(support::process::arriero(&words, folder.path())).await
    };
    let shown = run(&[]).await;
    assert!(shown.out.contains("answers") && shown.out.contains("25.0 %"), "{shown:?}");
    let entries = run(&["entries", "--prefix", "/b"]).await;
    let lines: Vec<&str> = entries.out.lines().collect();
    assert!(lines.len() == 3 && lines[0].starts_with("URI"), "{entries:?}");
    assert!(lines[1].starts_with("http://a.test/b/c") && lines[2].contains("blue"), "{entries:?}");
    let first = run(&["entries", "--limit", "1"]).await;
    assert!(first.out.contains("/a?red") && first.out.contains("2 more"), "{first:?}");
    for (words, wanted) in [
        (&["purge", "--tag", "red"][..], "1 answer thrown away\n"),
        (&["purge", "--key", "http://a.test/b?blue"], "1 answer thrown away\n"),
        (&["purge", "--prefix", "/", "--route", "all"], "1 answer thrown away\n"),
        (&["purge", "--all"], "0 answers thrown away\n"),
        (&["purge", "--model", "m"], "nothing thrown away: no route keeps any\n"),
    ] {
        let ended = run(words).await;
        assert_eq!((ended.code, ended.out.as_str()), (Some(0), wanted), "{ended:?}");
    }
    for words in [&["purge"][..], &["purge", "--tag", "a", "--key", "b"], &["purge", "--all", "--tag", "a"]] {
        assert_eq!(run(words).await.code, Some(2), "{words:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_with_too_many_tags_is_not_kept() {
    let origin = Origin::start(|seen| {
        let count: usize = seen.target[1..].parse().expect("a number");
        good(&format!("Cache-Control: max-age=60\r\nCache-Tag: {}\r\n", "a ".repeat(count)), "text")
    })
    .await;
    let proxy = before(&origin, CACHE).await;
    for (path, first, second) in [
        ("/4096", KEPT, "arriero; hit"),
        ("/4097", "arriero; fwd=uri-miss; detail=too_long", "arriero; fwd=uri-miss; detail=too_long"),
    ] {
        assert_eq!((told(&get(&proxy, path).await).as_str(), told(&get(&proxy, path).await).as_str()), (first, second));
    }
    assert_eq!(proxy.metric("arriero_cache_damaged_total{route=\"all\"}").await, 0.0);
}
