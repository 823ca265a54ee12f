//! Bodies: whole, in part, none at all, compressed, too long, without an end.

use std::io::Write;

use super::*;

/// Text that shrinks.
fn long(bytes: usize) -> Vec<u8> {
    let line = b"a line of text that is repeated with a number: ";
    (0..).flat_map(|number: u32| line.iter().copied().chain(format!("{number}\n").into_bytes())).take(bytes).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_is_the_server_s_to_the_byte() {
    let origin = Origin::start(|seen| {
        let size: usize = seen.target.split('/').nth(2).and_then(|text| text.parse().ok()).expect("a size");
        let fields = "Cache-Control: max-age=60\r\nContent-Type: text/plain\r\nLink: <a>\r\nLink: <b>\r\n";
        match seen.target.split('/').nth(1) {
            Some("chunks") => {
                let mut bytes = format!("HTTP/1.1 200 Fine\r\n{fields}Transfer-Encoding: chunked\r\n\r\n").into_bytes();
                for piece in long(size).chunks(5000) {
                    bytes.extend_from_slice(format!("{:x}\r\n", piece.len()).as_bytes());
                    bytes.extend_from_slice(&[piece, b"\r\n"].concat());
                }
                bytes.extend_from_slice(b"0\r\n\r\n");
                vec![Step::Write(bytes)]
            }
            Some("noise") => {
                // What does not shrink.
                let mut word = 1_u64;
                let noise: Vec<u8> = (0..size)
                    .map(|_| {
                        word = word.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                        (word >> 56) as u8
                    })
                    .collect();
                good(fields, noise)
            }
            _ => good(fields, long(size)),
        }
    })
    .await;
    let proxy = before(&origin, CACHE).await;
    for path in [
        "/plain/0",
        "/plain/1",
        "/plain/5000",
        "/plain/900000",
        "/chunks/0",
        "/chunks/70000",
        "/noise/5000",
        "/noise/300000",
    ] {
        let direct = send_with(origin.address, "GET", path, "", "").await;
        let first = get(&proxy, path).await;
        assert_eq!(told(&first), "arriero; fwd=uri-miss; stored", "{path}");
        for turn in 0..2 {
            let hit = get(&proxy, path).await;
            assert_eq!(told(&hit), "arriero; hit", "{path}");
            assert!(hit.whole && hit.body == direct.body && first.body == direct.body, "{path} {turn}");
            assert_eq!(hit.head.all("link"), ["<a>", "<b>"]);
            assert_eq!(hit.head.text.lines().next(), direct.head.text.lines().next(), "{path}");
            if path == "/plain/900000" && turn == 0 {
                // Text takes less room than it has letters, as soon as somebody had the time.
                support::eventually("it is compressed", || async {
                    let list = support::admin::show(&proxy, "/caches/entries?key=/plain/900000").await;
                    assert_eq!(list["entries"][0]["length"], 900_000);
                    list["entries"][0]["bytes"].as_u64().is_some_and(|bytes| bytes < 200_000)
                })
                .await;
            }
        }
    }
}

/// The same with a listener that speaks HTTP/2.
async fn h2c(origin: &Origin) -> Proxy {
    let yaml = http_yaml(&[origin.url()], CACHE, QUIET);
    proxy(yaml + "listeners: [{ address: \"127.0.0.1:0\", h2c: true }]\n").await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hit_is_the_same_over_http2() {
    let origin =
        Origin::start(|_| good("Cache-Control: max-age=60\r\nContent-Type: text/plain\r\n", long(300_000))).await;
    let proxy = h2c(&origin).await;
    let first = send_with(proxy.address(), "GET", "/", "Host: localhost\r\n", "").await;
    let mut client = H2::connect(proxy.address()).await;
    let request = || {
        let mut request = H2::request("GET", "/", support::wire::Upload::empty());
        *request.uri_mut() = "http://localhost/".parse().expect("a URI");
        request
    };
    let hit = client.ask(request(), bytes::Bytes::new()).await;
    assert_eq!((told(&hit).as_str(), hit.body == first.body), ("arriero; hit", true));
    assert_eq!(origin.count(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn parts_conditions_and_heads_are_answered_from_the_whole() {
    let body = long(5000);
    let (text, date) = (body.clone(), "Sun, 06 Nov 1994 08:49:37 GMT");
    let origin = Origin::start(move |_| {
        let fields = format!(
            "Cache-Control: max-age=60\r\nContent-Type: text/plain\r\nETag: \"v1\"\r\nLast-Modified: {date}\r\nX-Other: y\r\n"
        );
        good(&fields, &text)
    })
    .await;
    let proxy = before(&origin, CACHE).await;
    get(&proxy, "/").await;
    let ask = async |fields: &str| get_with(&proxy, "/", fields).await;
    // Parts.
    for (range, first, last) in
        [("bytes=0-0", 0, 0), ("bytes=1000-1999", 1000, 1999), ("bytes=4990-", 4990, 4999), ("bytes=-10", 4990, 4999)]
    {
        let part = ask(&format!("Range: {range}\r\n")).await;
        assert_eq!((part.head.status, told(&part).as_str()), (206, "arriero; hit"), "{range}");
        assert_eq!(part.head.field("content-range"), Some(&*format!("bytes {first}-{last}/5000")));
        assert_eq!(part.body, body[first..=last], "{range}");
    }
    let outside = ask("Range: bytes=5000-\r\n").await;
    assert_eq!((outside.head.status, outside.head.field("content-range")), (416, Some("bytes */5000")));
    for whole in [
        "Range: bytes=0-1,3-4\r\n",
        "Range: bytes=0-1\r\nIf-Range: \"v2\"\r\n",
        "Range: bytes=0-1\r\nIf-Range: W/\"v1\"\r\n",
    ] {
        let answer = ask(whole).await;
        assert_eq!((answer.head.status, answer.body.len()), (200, 5000), "{whole}");
    }
    let part = ask("Range: bytes=0-1\r\nIf-Range: \"v1\"\r\n").await;
    assert_eq!((part.head.status, part.body.len()), (206, 2));
    // Conditions.
    for fields in [
        "If-None-Match: \"v1\"\r\n",
        "If-None-Match: \"x\", W/\"v1\"\r\n",
        "If-None-Match: *\r\n",
        "If-Modified-Since: Sun, 06 Nov 1994 08:49:37 GMT\r\n",
        "If-None-Match: \"v1\"\r\nRange: bytes=0-1\r\n",
    ] {
        let answer = ask(fields).await;
        assert_eq!(
            (answer.head.status, answer.body.len(), told(&answer).as_str()),
            (304, 0, "arriero; hit"),
            "{fields}"
        );
        assert_eq!(
            (answer.head.field("etag"), answer.head.field("x-other"), answer.head.field("content-type")),
            (Some("\"v1\""), None, None)
        );
        assert!(answer.head.field("age").is_some() && answer.head.field("cache-control").is_some());
    }
    for fields in [
        "If-None-Match: \"v2\"\r\n",
        "If-Modified-Since: Sun, 06 Nov 1994 08:49:36 GMT\r\n",
        "If-None-Match: \"v2\"\r\nIf-Modified-Since: Sun, 06 Nov 1994 08:49:37 GMT\r\n",
    ] {
        assert_eq!(ask(fields).await.head.status, 200, "{fields}");
    }
    // The head alone, on a connection that goes on.
    let head = send_with(proxy.address(), "HEAD", "/", "Host: a.test\r\n", "").await;
    assert_eq!(
        (head.head.status, head.head.field("content-length"), told(&head).as_str()),
        (200, Some("5000"), "arriero; hit")
    );
    assert_eq!(origin.count(), 1, "all of that was answered from one answer");
    // A HEAD, a part and a condition fetch for themselves alone, and are not kept as the whole.
    let head = send_with(proxy.address(), "HEAD", "/other", "Host: a.test\r\n", "").await;
    assert_eq!(told(&head), "arriero; fwd=uri-miss");
    assert_eq!((told(&get(&proxy, "/other").await).as_str(), origin.count()), ("arriero; fwd=uri-miss; stored", 3));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_server_compressed_is_given_to_those_who_take_that() {
    let plain = long(20_000);
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(&plain).expect("compressed");
    let gzip = encoder.finish().expect("compressed");
    let (text, coded) = (plain.clone(), gzip.clone());
    // It says nothing of `Vary`: what it gives is chosen by `Accept-Encoding` all the same.
    let origin = Origin::start(move |seen| match seen.field("accept-encoding") {
        Some(coding) if coding.contains("gzip") => {
            good("Cache-Control: max-age=60\r\nContent-Type: text/plain\r\nContent-Encoding: gzip\r\n", &coded)
        }
        _ => good("Cache-Control: max-age=60\r\nContent-Type: text/plain\r\n", &text),
    })
    .await;
    let proxy = before(&origin, CACHE).await;
    for turn in 0..2 {
        let coded = get_with(&proxy, "/", "Accept-Encoding: gzip\r\n").await;
        assert_eq!((coded.head.field("content-encoding"), coded.body == gzip), (Some("gzip"), true), "{turn}");
        let other = get(&proxy, "/").await;
        assert_eq!((other.head.field("content-encoding"), other.body == plain), (None, true), "{turn}");
    }
    assert_eq!(origin.count(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_route_that_compresses_does_so_with_what_is_kept() {
    let plain = long(20_000);
    let text = plain.clone();
    let origin =
        Origin::start(move |_| good("Cache-Control: max-age=60\r\nContent-Type: text/plain\r\nETag: \"a\"\r\n", &text))
            .await;
    let proxy = before(&origin, "cache: {}\ncompress: true").await;
    for wanted in ["arriero; fwd=uri-miss; stored", "arriero; hit"] {
        let answer = get_with(&proxy, "/", "Accept-Encoding: zstd\r\n").await;
        assert_eq!((told(&answer).as_str(), answer.head.field("content-encoding")), (wanted, Some("zstd")));
        assert_eq!(zstd::decode_all(&answer.body[..]).expect("zstd"), plain);
        assert_eq!(answer.head.field("etag"), Some("W/\"a\""));
    }
    assert_eq!(get(&proxy, "/").await.body, plain);
    let unchanged = get_with(&proxy, "/", "Accept-Encoding: zstd\r\nIf-None-Match: W/\"a\"\r\n").await;
    assert_eq!((unchanged.head.status, origin.count()), (304, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_too_long_passes_and_is_not_kept() {
    let body = long(300_000);
    let text = body.clone();
    let origin = Origin::start(move |seen| {
        let fields = "Cache-Control: max-age=60\r\n";
        if seen.target == "/known" {
            return good(fields, &text);
        }
        let mut bytes =
            format!("HTTP/1.1 200 OK\r\n{fields}Transfer-Encoding: chunked\r\n\r\n{:x}\r\n", text.len()).into_bytes();
        bytes.extend_from_slice(&text);
        bytes.extend_from_slice(b"\r\n0\r\n\r\n");
        vec![Step::Write(bytes)]
    })
    .await;
    let proxy = before(&origin, "cache: { max_object: 200KiB }").await;
    for (path, wanted) in
        [("/known", "arriero; fwd=uri-miss; detail=too_long"), ("/unknown", "arriero; fwd=uri-miss; stored")]
    {
        for turn in 1..=2 {
            let answer = get(&proxy, path).await;
            assert!(answer.whole && answer.body == body, "{path}");
            assert_eq!(told(&answer), wanted);
            assert_eq!(origin.seen().iter().filter(|seen| seen.target == path).count(), turn);
        }
    }
    let caches = support::admin::show(&proxy, "/caches/entries").await;
    assert_eq!(caches["count"], 0, "{caches}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_nearly_as_long_as_all_that_may_be_kept_is_kept_or_said_not_to_be() {
    let origin = Origin::start(|seen| {
        let size: usize = seen.target[1..].parse().expect("a size");
        good("Cache-Control: max-age=60\r\n", vec![b'x'; size])
    })
    .await;
    let ask = async |proxy: &Proxy, path: &str| told(&get(proxy, path).await);
    let proxy = before(&origin, "cache: { max_size: 1MiB }").await;
    for (path, first, second) in [
        ("/900000", "arriero; fwd=uri-miss; stored", "arriero; hit"),
        ("/1020000", "arriero; fwd=uri-miss; detail=too_long", "arriero; fwd=uri-miss; detail=too_long"),
    ] {
        assert_eq!((ask(&proxy, path).await.as_str(), ask(&proxy, path).await.as_str()), (first, second), "{path}");
    }
    // What a reload lets be longer finds its place too, and what is there stays.
    let yaml =
        |object: &str| http_yaml(&[origin.url()], &format!("cache: {{ max_size: 8MiB, max_object: {object} }}"), QUIET);
    let proxy = super::proxy(yaml("100KiB")).await;
    assert_eq!(ask(&proxy, "/1000").await, KEPT);
    proxy.rewrite(&yaml("7MiB"));
    support::admin::order(&proxy, "/config/reload", "").await;
    assert_eq!(ask(&proxy, "/1000").await, "arriero; hit");
    for wanted in [KEPT, "arriero; hit"] {
        assert_eq!(ask(&proxy, "/3000000").await, wanted);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_has_no_proper_end_is_not_kept() {
    let origin = Origin::start(|seen| {
        let fields = "HTTP/1.1 200 OK\r\nCache-Control: max-age=60\r\n";
        let text = match seen.target.as_str() {
            "/length" => format!("{fields}Content-Length: 100\r\n\r\nhalf"),
            "/chunks" => format!("{fields}Transfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n"),
            _ => format!("{fields}Connection: close\r\n\r\nhalf"),
        };
        vec![Step::Write(text.into_bytes()), Step::Close]
    })
    .await;
    let proxy = before(&origin, CACHE).await;
    for (number, path) in ["/length", "/chunks", "/close"].into_iter().enumerate() {
        for turn in 1..=2 {
            let answer = get(&proxy, path).await;
            assert_eq!((answer.text().as_str(), origin.count()), ("half", 2 * number + turn), "{path}");
        }
    }
    assert_eq!(support::admin::show(&proxy, "/caches/entries").await["count"], 0);
}
