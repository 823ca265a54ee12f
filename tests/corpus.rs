//! The corpus of raw requests (`tests/corpus/http1.txt`): what is ambiguous is refused before a server hears of it, what
//! is merely odd arrives as exactly the requests it means; at once, byte by byte, and with others behind it.

mod support;

use std::net::SocketAddr;
use std::sync::Arc;

use arriero::proxy::head::find_end;
use parking_lot::Mutex;
use support::wire::{H1, Head, proxy};
use support::{PATIENCE, Proxy, http_yaml};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

/// A request of the corpus.
struct Case {
    id: String,
    bytes: Vec<u8>,
    /// `METHOD TARGET` of what reaches the server; None when all is refused.
    wanted: Option<Vec<String>>,
}

impl Case {
    /// Whether the head alone is good, so that only the body decides.
    fn is_about_the_body(&self) -> bool {
        self.wanted.is_none()
            && self.bytes.windows(26).any(|window| window == b"Transfer-Encoding: chunked")
            && (self.id.starts_with('C')
                || self.id.contains(" chunk ")
                || self.id.contains(" trailer")
                || self.id.contains(" last chunk"))
    }
}

fn corpus() -> Vec<Case> {
    let text = include_str!("corpus/http1.txt");
    let mut lines = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    let mut cases = Vec::new();
    while let (Some(title), Some(bytes)) = (lines.next(), lines.next()) {
        let (id, verdict) = title.split_once(" => ").expect("a verdict");
        let wanted = match verdict.split_once(' ') {
            None if verdict == "R400" => None,
            Some(("FWD", paths)) => {
                Some(paths.split(" | ").map(|path| String::from_utf8(unescape(path)).expect("text")).collect())
            }
            _ => panic!("no verdict: {title}"),
        };
        cases.push(Case { id: id.to_owned(), bytes: unescape(bytes), wanted });
    }
    assert!(cases.len() > 200, "the corpus is there");
    cases
}

fn unescape(text: &str) -> Vec<u8> {
    let mut out = Vec::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('\\') {
        out.extend(before.bytes());
        let kind = after.chars().next().expect("an escape");
        rest = &after[kind.len_utf8()..];
        match kind {
            'r' => out.push(b'\r'),
            'n' => out.push(b'\n'),
            't' => out.push(b'\t'),
            '\\' => out.push(b'\\'),
            'x' => {
                out.push(u8::from_str_radix(&rest[..2], 16).expect("two digits"));
                rest = &rest[2..];
            }
            '{' => {
                let (times, after) = rest[..].split_once('*').expect("a number");
                let letter = after.as_bytes()[0];
                out.extend(std::iter::repeat_n(letter, times.parse().expect("a number")));
                rest = after[1..].strip_prefix('}').expect("an end");
            }
            other => panic!("no escape: {other}"),
        }
    }
    out.extend(rest.bytes());
    out
}

/// A server that answers each request with its own request line, and keeps every byte.
struct Echo {
    address: SocketAddr,
    got: Arc<Mutex<Vec<u8>>>,
}

impl Echo {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
        let address = listener.local_addr().expect("an address");
        let got = Arc::new(Mutex::new(Vec::new()));
        let list = Arc::clone(&got);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(Self::serve(stream, Arc::clone(&list)));
            }
        });
        Self { address, got }
    }

    async fn serve(mut stream: TcpStream, got: Arc<Mutex<Vec<u8>>>) {
        let mut bytes = Vec::new();
        let mut known = 0;
        loop {
            while let Some((line, length)) = whole(&bytes) {
                bytes.drain(..length);
                known = bytes.len();
                let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{line}", line.len());
                if stream.write_all(answer.as_bytes()).await.is_err() {
                    return;
                }
            }
            if !stream.read_buf(&mut bytes).await.is_ok_and(|count| count > 0) {
                return;
            }
            got.lock().extend_from_slice(&bytes[known..]);
            known = bytes.len();
        }
    }

    fn take(&self) -> Vec<u8> {
        std::mem::take(&mut self.got.lock())
    }
}

/// The request line without its version, and the length of a request that is complete.
fn whole(bytes: &[u8]) -> Option<(String, usize)> {
    let end = find_end(bytes, 0)?;
    let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
    let line = head.lines().next()?.strip_suffix(" HTTP/1.1")?.to_owned();
    let fields = Head::parse(&format!("HTTP/1.1 200 OK\r\n{head}"));
    let length = match fields.field("content-length") {
        Some(length) => length.parse().expect("a length"),
        None if fields.field("transfer-encoding").is_some() => {
            bytes[end..].windows(5).position(|window| window == b"0\r\n\r\n")? + 5
        }
        None => 0,
    };
    (bytes.len() >= end + length).then_some((line, end + length))
}

/// What is not normal about the bytes that a server got; they are whole requests.
fn oddities(mut bytes: &[u8]) -> Vec<String> {
    let mut odd = Vec::new();
    while !bytes.is_empty() {
        let Some((line, length)) = whole(bytes) else {
            odd.push(format!("incomplete: {:?}", String::from_utf8_lossy(bytes)));
            break;
        };
        let end = find_end(bytes, 0).expect("a head");
        let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
        let body = String::from_utf8_lossy(&bytes[end..length]).into_owned();
        let fields = Head::parse(&format!("HTTP/1.1 200 OK\r\n{head}"));
        let mut complain = |what: &str| odd.push(format!("{line}: {what} in {head:?} {body:?}"));
        if fields.all("host").len() != 1 {
            complain("not one host");
        }
        if fields.all("content-length").len() + fields.all("transfer-encoding").len() > 1 {
            complain("two framings");
        }
        for name in
            ["connection", "upgrade", "keep-alive", "proxy-connection", "te", "http2-settings", "x-hop", "x-hip"]
        {
            if fields.field(name).is_some() {
                complain(name);
            }
        }
        if body.contains(';') || body.contains("X:") || body.to_ascii_lowercase().contains("ho") {
            complain("chunk extensions or trailers");
        }
        bytes = &bytes[length..];
    }
    odd
}

/// Everything that came back: bodies of good answers, the status of the first other one, and whether it closed.
#[derive(Debug, Default)]
struct Back {
    bodies: Vec<String>,
    refusal: Option<u16>,
    closed: bool,
    more: usize,
}

/// Sends bytes, in pieces of a size, and reads `expected` answers or, where there is a refusal, to the end.
async fn exchange(proxy: &Proxy, bytes: &[u8], piece: usize, expected: usize) -> Back {
    let H1 { mut reader, mut writer } = H1::connect(proxy.address()).await;
    let send = async {
        for piece in bytes.chunks(piece) {
            // A refusal may come before the end.
            if writer.write_all(piece).await.is_err() {
                break;
            }
            tokio::task::yield_now().await;
        }
        writer
    };
    let read = async {
        let mut back = Back::default();
        while back.bodies.len() < expected {
            let Some(head) = reader.try_head().await else {
                back.closed = true;
                return back;
            };
            if head.status < 200 {
                continue;
            }
            let (body, whole) = reader.body(&head).await;
            if head.status >= 400 || !whole {
                back.refusal = Some(head.status);
                back.more = reader.rest().await.len();
                back.closed = true;
                return back;
            }
            back.bodies.push(String::from_utf8_lossy(&body).into_owned());
        }
        back
    };
    let (back, _writer) = timeout(PATIENCE, async { tokio::join!(read, send) })
        .await
        .unwrap_or_else(|_| panic!("left open after {:?}", String::from_utf8_lossy(&bytes[..bytes.len().min(200)])));
    back
}

async fn scene(route: &str) -> (Echo, Proxy) {
    let echo = Echo::start().await;
    let proxy = proxy(http_yaml(&[format!("http://{}", echo.address)], route, "health: { active: off }")).await;
    (echo, proxy)
}

/// Where a body is held because it may have to be sent again, nothing reaches a server before its end was judged.
const HELD: &str = "retry: { attempts: 2, on: [reset], replay_post: true }";

/// Judges every request of the corpus, in pieces of this size.
async fn judge(route: &str, piece: usize) {
    let (echo, proxy) = scene(route).await;
    let mut wrong = Vec::new();
    for case in corpus() {
        if case.bytes.len() > 4096 && piece == 1 {
            continue;
        }
        let expected = case.wanted.as_ref().map_or(1, Vec::len);
        let back = exchange(&proxy, &case.bytes, piece, expected).await;
        let got = echo.take();
        let held = match &case.wanted {
            Some(wanted) => back.bodies == *wanted && back.refusal.is_none() && oddities(&got).is_empty(),
            // Byte by byte a body that is not held is on its way before its end can be judged: then it never ends.
            None if case.is_about_the_body() && piece == 1 && route.is_empty() => {
                back.refusal.is_some() && back.more == 0 && whole(&got).is_none()
            }
            None => back.refusal.is_some() && back.more == 0 && got.is_empty(),
        };
        if !held {
            let got = String::from_utf8_lossy(&got).into_owned();
            wrong.push(format!(
                "{} wants {:?}: {back:?}, the server got {got:?} {:?}",
                case.id,
                case.wanted,
                oddities(got.as_bytes())
            ));
        }
    }
    assert!(wrong.is_empty(), "{}: {wrong:#?}", wrong.len());
}

#[tokio::test]
async fn at_once() {
    judge("", usize::MAX).await;
}

#[tokio::test]
async fn byte_by_byte() {
    judge("", 1).await;
}

#[tokio::test]
async fn byte_by_byte_where_bodies_are_held() {
    judge(HELD, 1).await;
}

#[tokio::test]
async fn twice_and_a_canary_behind() {
    let (echo, proxy) = scene("").await;
    let mut wrong = Vec::new();
    for case in corpus() {
        let canary = format!("/canary-{}", case.id.split(' ').next().expect("an id"));
        let last = format!("GET {canary} HTTP/1.1\r\nHost: a.test\r\n\r\n");
        let bytes = [&case.bytes[..], &case.bytes, last.as_bytes()].concat();
        let once = case.wanted.clone().unwrap_or_default();
        let all = [&once[..], &once, &[format!("GET {canary}")]].concat();
        let back = exchange(&proxy, &bytes, usize::MAX, all.len()).await;
        let got = echo.take();
        let held = if case.wanted.is_some() {
            // A connection may end after any answer; then what follows is not answered at all.
            let own = all.starts_with(&back.bodies) && (back.bodies.len() == all.len() || back.closed);
            own && back.refusal.is_none() && !back.bodies.is_empty() && oddities(&got).is_empty()
        } else {
            back.refusal.is_some() && back.bodies.is_empty() && back.more == 0 && got.is_empty()
        };
        if !held {
            wrong.push(format!("{}: {back:?}, the server got {:?}", case.id, String::from_utf8_lossy(&got)));
        }
    }
    assert!(wrong.is_empty(), "{}: {wrong:#?}", wrong.len());
}
