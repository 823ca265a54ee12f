//! Whose an answer is: keys, `Authorization`, cookies.

use super::*;
use crate::support::keys::{KeysFile, bearer};

/// A server that tells each client who it is.
async fn personal(fields: &'static str) -> Origin {
    Origin::start(move |seen| {
        let who = [seen.field("authorization"), seen.field("cookie"), seen.field("x-key")];
        good(fields, format!("{} {who:?}", seen.number))
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_answers_of_two_keys_are_never_mixed() {
    let origin = personal("Cache-Control: max-age=60, public\r\n").await;
    let keys = KeysFile::new(&[("00000007", ""), ("00000008", "")]);
    let route = "cache: {}\nauth: optional";
    let text = http_yaml(&[origin.url()], route, QUIET) + &keys.yaml();
    let proxy = proxy(text).await;
    let mut bodies = Vec::new();
    for fields in [bearer("00000007"), bearer("00000008"), String::new()] {
        let first = get_with(&proxy, "/", &fields).await;
        assert_eq!(told(&first), "arriero; fwd=uri-miss; stored", "{fields}");
        let hit = get_with(&proxy, "/", &fields).await;
        assert_eq!((told(&hit).as_str(), hit.text()), ("arriero; hit", first.text()));
        bodies.push(first.text());
    }
    assert_eq!(origin.count(), 3);
    // At the same time too.
    let asks = (0..60).map(|number| {
        let fields = [bearer("00000007"), bearer("00000008"), String::new()][number % 3].clone();
        let proxy = &proxy;
        async move { (number % 3, get_with(proxy, "/other", &fields).await.text()) }
    });
    let all = futures_util::future::join_all(asks).await;
    for whose in 0..3 {
        let mut own: Vec<&String> = all.iter().filter(|(of, _)| *of == whose).map(|(_, text)| text).collect();
        own.dedup();
        assert_eq!(own.len(), 1, "{own:?}");
    }
    assert_eq!(origin.count(), 6);
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_share_only_what_is_for_all_or_what_the_file_lets_them() {
    let keys = KeysFile::new(&[("00000007", ""), ("00000008", "")]);
    for (cache, fields, is_shared) in [
        ("scope: shared", "Cache-Control: max-age=60\r\n", false),
        ("scope: shared", "Cache-Control: max-age=60, private\r\n", false),
        ("scope: shared", "Cache-Control: max-age=60, public\r\n", true),
        ("scope: shared", "Cache-Control: s-maxage=60\r\n", true),
        ("scope: shared", "Cache-Control: max-age=60, must-revalidate\r\n", true),
        ("scope: shared, authorized: true", "Cache-Control: max-age=60\r\n", true),
        ("scope: shared, authorized: true", "Cache-Control: max-age=60, private\r\n", false),
    ] {
        let origin = personal(fields).await;
        let route = format!("cache: {{ {cache} }}\nauth: optional");
        let proxy = proxy(http_yaml(&[origin.url()], &route, QUIET) + &keys.yaml()).await;
        let first = get_with(&proxy, "/", &bearer("00000007")).await;
        let second = get_with(&proxy, "/", &bearer("00000008")).await;
        assert_eq!((first.text() == second.text(), origin.count() == 1), (is_shared, is_shared), "{cache} {fields}");
        // What is another's is not for somebody without a key either, nor theirs for those with one.
        let nobody = get(&proxy, "/").await;
        assert_eq!(nobody.text() == first.text(), is_shared, "{cache} {fields}");
        if !is_shared {
            assert_ne!(get_with(&proxy, "/", &bearer("00000007")).await.text(), nobody.text());
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_server_gives_to_authorized_requests_is_theirs() {
    // Without a keys file `Authorization` is the server's own matter.
    let fields = |name: &str| format!("Authorization: Basic {name}\r\n");
    for (cache, is_kept) in [("{}", true), ("{ scope: shared }", false)] {
        let origin = personal("Cache-Control: max-age=60\r\n").await;
        let proxy = before(&origin, &format!("cache: {cache}")).await;
        for name in ["alice", "bob"] {
            let first = get_with(&proxy, "/", &fields(name)).await;
            assert!(first.text().contains(name), "{}", first.text());
            let second = get_with(&proxy, "/", &fields(name)).await;
            assert!(second.text().contains(name), "{}", second.text());
            assert_eq!(first.text() == second.text(), is_kept, "{cache}");
        }
        let nobody = get(&proxy, "/").await;
        assert!(!nobody.text().contains("alice") && !nobody.text().contains("bob"), "{}", nobody.text());
        assert!(get_with(&proxy, "/", &fields("alice")).await.text().contains("alice"));
        let list = support::admin::show(&proxy, "/caches/entries").await;
        assert!(!list.to_string().contains("alice"), "no secret is told: {list}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn other_fields_with_keys_are_like_authorization() {
    let names = ["x-api-key", "api-key", "x-goog-api-key"];
    for (cache, is_kept) in [("{}", true), ("{ scope: shared }", false)] {
        for name in names {
            // Without a keys file they are the server's own matter, and reach it.
            let origin = Origin::start(move |seen| {
                good("Cache-Control: max-age=60\r\n", format!("{} {:?}", seen.number, seen.field(name)))
            })
            .await;
            let proxy = before(&origin, &format!("cache: {cache}")).await;
            for whose in ["alice", "bob"] {
                let fields = format!("{name}: {whose}\r\n");
                let first = get_with(&proxy, "/account", &fields).await;
                assert!(first.text().contains(whose), "{name}: {}", first.text());
                let second = get_with(&proxy, "/account", &fields).await;
                assert!(second.text().contains(whose), "{name}: {}", second.text());
                assert_eq!(first.text() == second.text(), is_kept, "{name}, {cache}");
            }
            let nobody = get(&proxy, "/account").await;
            assert!(nobody.text().contains("None"), "{name}: {}", nobody.text());
            let list = support::admin::show(&proxy, "/caches/entries").await;
            assert!(!list.to_string().contains("alice"), "no secret is told: {list}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn cookies_keep_answers_apart_unless_the_file_says_what_they_mean() {
    let with = |text: &str| format!("Cookie: {text}\r\n");
    // By default, only what is for everybody.
    for (fields, is_shared) in
        [("Cache-Control: max-age=60\r\n", false), ("Cache-Control: max-age=60, public\r\n", true)]
    {
        let origin = personal(fields).await;
        let proxy = before(&origin, CACHE).await;
        let texts = [
            get_with(&proxy, "/", &with("a=1")).await.text(),
            get(&proxy, "/").await.text(),
            get_with(&proxy, "/", &with("a=2")).await.text(),
        ];
        assert_eq!(texts[0] == texts[1] && texts[1] == texts[2], is_shared, "{texts:?}");
        assert_eq!(origin.count(), if is_shared { 1 } else { 3 });
        if !is_shared {
            let hit = get(&proxy, "/").await;
            assert_eq!((told(&hit).as_str(), hit.text() == texts[1]), ("arriero; hit", true));
        }
    }
    // They mean nothing: and what an answer sets reaches its own client alone.
    let origin = personal("Cache-Control: max-age=60\r\nVary: Cookie\r\nSet-Cookie: id=1\r\n").await;
    let proxy = before(&origin, "cache: { cookies: ignore }").await;
    let first = get_with(&proxy, "/", &with("a=1")).await;
    let second = get_with(&proxy, "/", &with("a=2")).await;
    assert_eq!((first.head.field("set-cookie"), second.head.field("set-cookie")), (Some("id=1"), None));
    assert_eq!((first.text(), told(&second).as_str(), origin.count()), (second.text(), "arriero; hit", 1));
    // One of them does.
    let origin = personal("Cache-Control: max-age=60\r\n").await;
    let proxy = before(&origin, "cache: { cookies: [session] }").await;
    let ask = async |text: &str| get_with(&proxy, "/", &with(text)).await.text();
    let (one, other) = (ask("session=1; theme=dark").await, ask("session=2").await);
    assert_ne!(one, other);
    assert_eq!((ask("theme=light; session=1").await, ask("session=2; x").await, origin.count()), (one, other, 2));
    assert_ne!(get(&proxy, "/").await.text(), ask("session=").await);
    // Its server says that it varies by cookies: which of them that means is known. What it sets is not kept all the same.
    let origin = Origin::start(|seen| match seen.target.as_str() {
        "/sets" => good("Cache-Control: max-age=60\r\nVary: Cookie\r\nSet-Cookie: session=3\r\n", "text"),
        _ => good("Cache-Control: max-age=60\r\nVary: Cookie, Accept\r\n", format!("{}", seen.number)),
    })
    .await;
    let proxy = before(&origin, "cache: { cookies: [session] }").await;
    let ask = async |text: &str| get_with(&proxy, "/", &with(text)).await.text();
    let (one, other) = (ask("session=1; theme=dark").await, ask("session=2; theme=dark").await);
    assert_eq!((ask("theme=light; session=1").await, ask("session=2").await, origin.count()), (one, other, 2));
    for _ in 0..2 {
        let sets = get_with(&proxy, "/sets", &with("session=1")).await;
        assert_eq!(told(&sets), "arriero; fwd=uri-miss; detail=set_cookie");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_cookie_by_which_a_client_keeps_its_server_is_none_of_its_own() {
    let origin = personal("Cache-Control: max-age=60\r\n").await;
    let balance = "balance: { policy: consistent_hash, hash_on: \"cookie:ours\", sticky_cookie: { name: ours } }";
    let proxy = proxy(http_yaml(&[origin.url()], CACHE, &format!("{QUIET}\n{balance}"))).await;
    let first = get(&proxy, "/").await;
    assert!(first.head.field("set-cookie").is_some_and(|cookie| cookie.starts_with("ours=")), "{}", first.head.text);
    let hit = get_with(&proxy, "/", "Cookie: ours=x\r\n").await;
    assert_eq!((told(&hit).as_str(), hit.head.field("set-cookie")), ("arriero; hit", None));
    assert_ne!(told(&get_with(&proxy, "/", "Cookie: ours=x; other=y\r\n").await), "arriero; hit");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_answered_to_credentials_leaves_the_process_only_where_the_file_says_that_it_is_for_all() {
    let redis = support::redis::Redis::start().await;
    let origin = personal("Cache-Control: max-age=60, public\r\n").await;
    let key = "Authorization: Basic alice\r\n";
    for (number, (cache, fields, leaves)) in [
        ("{}", "", true),
        ("{}", key, false),
        ("{}", "X-API-Key: alice\r\n", false),
        ("{}", "Cookie: a=1\r\n", false),
        ("{ scope: shared }", key, false),
        ("{ scope: shared, authorized: true }", key, true),
        ("{ scope: shared, authorized: true }", "Cookie: a=1\r\n", false),
        ("{ cookies: ignore }", "Cookie: a=1\r\n", true),
        ("{ cookies: ignore }", "Authorization: Basic alice\r\nCookie: a=1\r\n", false),
        ("{ cookies: [session] }", "Cookie: session=1; theme=dark\r\n", false),
        ("{ cookies: [session] }", "Cookie: theme=dark\r\n", true),
    ]
    .into_iter()
    .enumerate()
    {
        let cluster = format!("\ncluster: {{ redis: \"{}\", name: c{number}, instance: a }}\n", redis.url());
        let proxy = proxy(http_yaml(&[origin.url()], &format!("cache: {cache}"), QUIET) + &cluster).await;
        support::eventually("answers are shared", || async {
            let snapshot = proxy.running().store.load();
            let cache = snapshot.routes[0].cache.as_ref().expect("a cache");
            cache.store.share().expect("a share").is_linked()
        })
        .await;
        let shared = async |path: &str| {
            let keys: Vec<String> = redis.call(&["KEYS", &format!("arriero:1:{{c{number}}}:answer:*")]).await;
            keys.iter().any(|key| key.contains(path))
        };
        assert_eq!(get_with(&proxy, "/asked", fields).await.head.status, 200);
        assert_eq!(get(&proxy, "/open").await.head.status, 200);
        support::eventually("what came later is there", || async { shared("/open").await }).await;
        if leaves {
            support::eventually("it is there", || async { shared("/asked").await }).await;
        }
        assert_eq!(shared("/asked").await, leaves, "{cache} {fields}");
    }
}
