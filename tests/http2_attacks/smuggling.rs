//! Requests that would mean another one in HTTP/1: none of them reaches a server.

use crate::Scene;
use crate::support::eventually;
use crate::support::frames::{self, *};

// H14, H15

#[tokio::test]
async fn trailers_and_lengths_that_lie() {
    let scene = Scene::new("").await;
    let witness = scene.witness();
    let post = |more: &[(&str, &str)]| headers(1, false, &request("POST", "/", more));
    let data = |end: bool, text: &str| frame(DATA, u8::from(end), 1, text);
    let trailers = |fields: &[(&str, &str)]| headers(1, true, &block(fields));
    let bomb = [block(&[("x", "y")]), [0x40, 1, b'x', 1, b'y'].to_vec(), vec![0xbe; 10_000]].concat();
    let refused: [(&str, Vec<u8>); 10] = [
        ("trailers without an end", [post(&[]), headers(1, false, &block(&[("x", "y")]))].concat()),
        ("10,000 trailers", [post(&[]), headers(1, true, &bomb)].concat()),
        ("trailers with a name in capitals", [post(&[]), trailers(&[("X", "y")])].concat()),
        ("trailers with a line end", [post(&[]), trailers(&[("x", "y\r\nz: a")])].concat()),
        ("less than the length", [post(&[("content-length", "5")]), data(true, "{}")].concat()),
        ("more than the length", [post(&[("content-length", "1")]), data(true, "{}")].concat()),
        (
            "more than the length, later",
            [post(&[("content-length", "2")]), data(false, "{}"), data(true, "x")].concat(),
        ),
        ("a length and an end at once", headers(1, true, &request("POST", "/", &[("content-length", "5")]))),
        ("two lengths", [post(&[("content-length", "2"), ("content-length", "3")]), data(true, "{}")].concat()),
        ("a length of no digits", [post(&[("content-length", "+2")]), data(true, "{}")].concat()),
    ];
    for (what, bytes) in refused {
        let before = scene.target.connections().len();
        let mut raw = scene.raw().await;
        raw.send(bytes).await;
        let ended = raw.verdict(1).await;
        assert!(
            ended.answers.iter().all(|(_, status)| *status >= 400) && ended != Ended::default(),
            "{what}: {ended:?}"
        );
        eventually("the server is rid of it", async || scene.in_flight().await == 0.0).await;
        // The server may have heard of the beginning; it never gets a request that is complete.
        for sent in &scene.target.connections()[before..] {
            let text = String::from_utf8_lossy(sent).to_ascii_lowercase();
            let body = text.split_once("\r\n\r\n").map_or("", |(_, body)| body);
            let complete = match text.contains("transfer-encoding: chunked") {
                true => body.ends_with("0\r\n\r\n"),
                false => text.contains(&format!("content-length: {}\r\n", body.len())),
            };
            assert!(!complete, "{what}: complete at the server: {text}");
        }
    }
    // Trailers stop here, whatever they say: the request ends where its DATA ends.
    for lies in [("content-length", "7"), ("transfer-encoding", "chunked"), (":path", "/x"), (":status", "200")] {
        let mut raw = scene.raw().await;
        raw.send([post(&[]), data(false, "{}"), trailers(&[lies])].concat()).await;
        let ended = raw.verdict(1).await;
        assert!(
            ended.answers == [(1, 200)] || !ended.resets.is_empty() || ended.answers == [(1, 400)],
            "{lies:?}: {ended:?}"
        );
        let all = String::from_utf8_lossy(&scene.target.connections().concat()).to_ascii_lowercase();
        assert!(!all.contains("content-length: 7") && !all.contains("0\r\ntransfer") && !all.contains("/x"), "{all}");
    }
    witness.was_served().await;
    scene.over().await;
}

// H16

#[tokio::test]
async fn nothing_is_smuggled_into_http_1() {
    let scene = Scene::new("").await;
    let witness = scene.witness();
    let pseudo = |method: &str, path: &str, authority: &str| -> Vec<(Vec<u8>, Vec<u8>)> {
        let fields = [(":method", method), (":scheme", "http"), (":authority", authority), (":path", path)];
        fields.iter().map(|(name, value)| (name.as_bytes().to_vec(), value.as_bytes().to_vec())).collect()
    };
    let with =
        |name: &[u8], value: &[u8]| [pseudo("GET", "/", "a.test"), vec![(name.to_vec(), value.to_vec())]].concat();
    let path = |path: &str| pseudo("GET", path, "a.test");
    let method = |method: &str| pseudo(method, "/", "a.test");
    let authority = |authority: &str| pseudo("GET", "/", authority);
    let without = |name: &str| pseudo("GET", "/", "a.test").into_iter().filter(|(n, _)| n != name.as_bytes()).collect();
    let smuggled = "/ HTTP/1.1\r\nHost: a.test\r\n\r\nGET /smuggled";
    type Fields = Vec<(Vec<u8>, Vec<u8>)>;
    let cases: Vec<(&str, Fields)> = vec![
        ("CR LF in a name", with(b"x\r\ny", b"z")),
        ("LF in a name", with(b"x\ny", b"z")),
        ("NUL in a name", with(b"x\0", b"z")),
        ("a space in a name", with(b"x y", b"z")),
        ("a colon in a name", with(b"x: y", b"z")),
        ("an empty name", with(b"", b"z")),
        ("a name in capitals", with(b"X-Upper", b"z")),
        ("a name outside ASCII", with(b"x\xc3\xa9", b"z")),
        ("CR LF in a value", with(b"x", b"y\r\ntransfer-encoding: chunked")),
        ("LF in a value", with(b"x", b"y\nz: a")),
        ("CR in a value", with(b"x", b"y\rz: a")),
        ("NUL in a value", with(b"x", b"y\0z")),
        ("DEL in a value", with(b"x", b"y\x7fz")),
        ("transfer-encoding: chunked", with(b"transfer-encoding", b"chunked")),
        ("transfer-encoding: identity", with(b"transfer-encoding", b"identity")),
        ("connection: close", with(b"connection", b"close")),
        ("connection that names a field", with(b"connection", b"authorization")),
        ("keep-alive", with(b"keep-alive", b"timeout=5")),
        ("proxy-connection", with(b"proxy-connection", b"keep-alive")),
        ("upgrade", with(b"upgrade", b"websocket")),
        ("te: gzip", with(b"te", b"gzip")),
        ("te: trailers, gzip", with(b"te", b"trailers, gzip")),
        ("an imitated length", with(b"content_length", b"5")),
        ("an imitated address", with(b"x_forwarded_for", b"1.1.1.1")),
        ("an unknown expectation", with(b"expect", b"200-ok")),
        ("a length that is a list", with(b"content-length", b"0, 0")),
        ("a space in the path", path("/a b")),
        ("a request in the path", path(smuggled)),
        ("LF in the path", path("/a\nb")),
        ("NUL in the path", path("/a\0b")),
        ("a URL for a path", path("http://evil.test/")),
        ("no slash in the path", path("api/tags")),
        ("another host in the path", path("//evil.test/../..")),
        ("an empty path", path("")),
        ("a star for a path", path("*")),
        ("bytes outside ASCII in the path", path("/\u{e9}")),
        ("a space in the method", method("GET /x")),
        ("a request in the method", method("GET / HTTP/1.1\r\nHost: a.test\r\n\r\nGET")),
        ("a method in small letters", method("get")),
        ("an empty method", method("")),
        ("TRACE", method("TRACE")),
        ("CR LF in the authority", authority("a.test\r\nx: y")),
        ("a space in the authority", authority("a.test b")),
        ("a path in the authority", authority("a.test/x")),
        ("a user in the authority", authority("user@a.test")),
        ("an empty authority", authority("")),
        ("two authorities", [authority("a.test"), vec![(b":authority".to_vec(), b"b.test".to_vec())]].concat()),
        ("authority and another host", with(b"host", b"b.test")),
        ("two hosts", [with(b"host", b"a.test"), vec![(b"host".to_vec(), b"a.test".to_vec())]].concat()),
        ("neither authority nor host", without(":authority")),
        ("no method", without(":method")),
        ("no scheme", without(":scheme")),
        ("no path", without(":path")),
        ("two paths", [path("/a"), vec![(b":path".to_vec(), b"/b".to_vec())]].concat()),
        ("a status", with(b":status", b"200")),
        ("an unknown pseudo field", with(b":evil", b"1")),
        ("a pseudo field behind others", [vec![(b"x".to_vec(), b"y".to_vec())], path("/")].concat()),
    ];
    let mut wrong = Vec::new();
    for (what, fields) in &cases {
        let mut raw = scene.raw().await;
        raw.send(headers(1, true, &block(fields))).await;
        let ended = raw.verdict(1).await;
        let answered = ended.answers.iter().any(|(_, status)| *status >= 400);
        let refused = answered || !ended.resets.is_empty() || ended.goaway.is_some();
        if !refused || ended.answers.iter().any(|(_, status)| *status < 400) {
            wrong.push(format!("{what}: {ended:?}"));
        }
        let reached = scene.target.connections().concat();
        if !reached.is_empty() {
            wrong.push(format!("{what}: at the server: {:?}", String::from_utf8_lossy(&reached)));
            break;
        }
    }
    assert!(wrong.is_empty(), "{} of {}: {wrong:#?}", wrong.len(), cases.len());
    witness.was_served().await;
    scene.over().await;
}

#[tokio::test]
async fn a_fragment_is_not_part_of_a_path() {
    // The library takes it away before anybody can see it; what is left is a request like any other.
    let scene = Scene::new("").await;
    let mut raw = scene.raw().await;
    raw.send(frames::get(1, "/a#/../b HTTP/1.1")).await;
    let ended = raw.verdict(1).await;
    let reached = String::from_utf8_lossy(&scene.target.connections().concat()).into_owned();
    assert!(reached.is_empty() || reached.starts_with("GET /a HTTP/1.1\r\n") && !reached.contains('#'), "{reached}");
    assert_eq!(ended.answers.first().map(|(_, status)| *status), Some(if reached.is_empty() { 400 } else { 200 }));
}
