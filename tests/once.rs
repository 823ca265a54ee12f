//! No request is carried out twice: connections are reset at every stage of thousands of POSTs, and the servers' ledgers
//! hold each of them once at most.
//!
//! `ARRIERO_POSTS` sets how many; by default it is few enough for every run.

mod support;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use arriero::clock;
use arriero::demo::{Fault, FaultRule, Fleet, HostConfig};
use arriero::policy::balance::scramble;
use bytes::Bytes;
use h2::Reason;
use support::fleet::sized;
use support::frames::{self, PREFACE};
use support::wire::{Answer, H1, H2, Upload, proxy};
use support::{Proxy, upstream_yaml};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

/// What may be tried again by default; circuits would only keep faults away.
const CALM: &str = "balance: { policy: round_robin, model_affinity: off }\nhealth: { active: off }
circuit: { consecutive_failures: 1000000 }\nquarantine: 0s";
const H2C: &str = "\nlisteners: [{ address: \"127.0.0.1:0\", h2c: true }]\n";

/// Before the head, after it, after the body, and at every place of the answer.
const STAGES: [Fault; 9] = [
    Fault::ResetBeforeBody,
    Fault::ResetBeforeHeaders,
    Fault::CloseBeforeHeaders,
    Fault::ResetAfterTokens(0),
    Fault::ResetAfterTokens(1),
    Fault::CloseAfterTokens(2),
    Fault::StreamErrorAfterTokens(2),
    Fault::Busy,
    Fault::Garbage,
];

fn posts() -> usize {
    std::env::var("ARRIERO_POSTS").ok().and_then(|text| text.parse().ok()).unwrap_or(3000)
}

/// One request with an id of its own over a connection that is kept as long as it lives.
async fn ask(client: &mut Option<H1>, proxy: &Proxy, number: usize, large: &[u8]) -> Answer {
    let small = format!(r#"{{"model":"m","prompt":"{number}","options":{{"num_predict":4}}}}"#).into_bytes();
    let body = if number.is_multiple_of(7) { large } else { &small };
    let mut request = format!(
        "POST /api/generate HTTP/1.1\r\nHost: a\r\nX-Request-Id: r-{number}\r\nContent-Length: {}\r\n\r\n",
        body.len()
    )
    .into_bytes();
    request.extend_from_slice(body);
    let mut connection = match client.take() {
        Some(kept) => kept,
        None => H1::connect(proxy.address()).await,
    };
    // An answer may come before everything was sent.
    drop(connection.try_send(&request).await);
    let answer = connection.reader.answer().await;
    if answer.whole && answer.head.field("connection") != Some("close") {
        *client = Some(connection);
    }
    answer
}

/// Whether an answer is what it says it is: a stream that has its end, or a refusal.
fn is_honest(answer: &Answer) -> bool {
    let text = answer.text();
    match answer.head.status {
        200 if answer.whole => text.contains("\"done\":true") != text.contains("{\"error\""),
        200 => !text.contains("\"done\":true"),
        500..=504 => answer.whole,
        _ => false,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn resets_at_every_stage_make_no_server_work_twice() {
    let config = |number| HostConfig::new(&format!("host-{number}")).small_model("m").parallel(8);
    let fleet = Fleet::start((0..4).map(config).collect()).await.expect("a fleet");
    let proxy = proxy(upstream_yaml("ollama", &fleet.urls(), "", CALM)).await;
    let (clients, total) = (8, posts());
    let large = sized("m", 200_000, true);
    let began = clock::now();
    let run = |client: usize| {
        let (fleet, proxy, large) = (&fleet, &proxy, &large);
        async move {
            let (mut kept, mut outcomes) = (None, BTreeMap::<String, usize>::new());
            for number in (client..total).step_by(clients) {
                let lot = scramble(number as u64);
                if !lot.is_multiple_of(3) {
                    // Whichever request comes next there: this one, or that of another client.
                    let host = &fleet.hosts[(lot >> 8) as usize % fleet.hosts.len()];
                    let fault = STAGES[(lot >> 16) as usize % STAGES.len()].clone();
                    host.faults().add(FaultRule::inference(fault).times(1));
                }
                let answer = ask(&mut kept, proxy, number, large).await;
                assert!(is_honest(&answer), "{number}: {} {}", answer.head.text, answer.text());
                *outcomes.entry(format!("{} whole {}", answer.head.status, answer.whole)).or_default() += 1;
            }
            outcomes
        }
    };
    let all = futures_util::future::join_all((0..clients).map(run)).await;
    let mut outcomes = BTreeMap::<String, usize>::new();
    all.into_iter().flatten().for_each(|(what, count)| *outcomes.entry(what).or_default() += count);
    let began_there: usize = fleet.hosts.iter().map(|host| host.ledger().inference().len()).sum();
    println!("{total} POSTs in {:?}: {outcomes:?}, {began_there} begun by servers", clock::now() - began);
    assert_eq!(outcomes.values().sum::<usize>(), total);
    assert!(outcomes.len() >= 3, "hardly anything was struck: {outcomes:?}");
    let twice: Vec<_> = fleet
        .duplicates()
        .into_iter()
        .filter(|(id, _)| {
            // A server that said it was busy did nothing: such a request may go on to one other.
            let began = fleet.entries().into_iter().filter(|entry| entry.request_id.as_deref() == Some(id));
            began.filter(|entry| entry.status != Some(503)).count() > 1
        })
        .collect();
    assert_eq!(twice, [], "carried out twice");
}

/// A server that does the same on each connection, until its task ends.
async fn server<F: Future<Output = ()> + Send + 'static>(
    each: impl Fn(TcpStream) -> F + Send + 'static,
) -> (String, JoinSet<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a socket");
    let url = format!("http://{}", listener.local_addr().expect("an address"));
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        let mut connections = JoinSet::new();
        while let Ok((stream, _)) = listener.accept().await {
            connections.spawn(each(stream));
        }
    });
    (url, tasks)
}

/// Refuses the first stream of all, and answers the others.
async fn refuse_one(stream: TcpStream, refused: Arc<AtomicBool>) {
    let Ok(mut connection) = h2::server::handshake(stream).await else { return };
    while let Some(Ok((_, mut respond))) = connection.accept().await {
        if refused.swap(true, Ordering::SeqCst) {
            let mut stream = respond.send_response(http::Response::new(()), false).expect("a stream");
            stream.send_data(Bytes::from_static(b"taken"), true).expect("sent");
        } else {
            respond.send_reset(Reason::REFUSED_STREAM);
        }
    }
}

/// Takes a request and then says that it took none.
async fn leave(mut stream: TcpStream) {
    let mut preface = vec![0; PREFACE.len()];
    drop(stream.read_exact(&mut preface).await);
    drop(stream.write_all(&frames::settings(&[])).await);
    let mut head = [0; 9];
    while stream.read_exact(&mut head).await.is_ok() {
        let length = usize::from(head[1]) << 8 | usize::from(head[2]);
        drop(stream.read_exact(&mut vec![0; length]).await);
        if head[3] == frames::HEADERS {
            drop(stream.write_all(&frames::frame(frames::GOAWAY, 0, 0, [0; 8])).await);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_a_server_refused_is_sent_once_more() {
    let (first, again) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(true)));
    let (refusing, _one) = server(move |stream| refuse_one(stream, Arc::clone(&first))).await;
    let (taking, _two) = server(move |stream| refuse_one(stream, Arc::clone(&again))).await;
    let (leaving, _three) = server(leave).await;
    for urls in [vec![refusing], vec![leaving, taking]] {
        let upstream = "http2: true\nbalance: { policy: round_robin }";
        let proxy = proxy(upstream_yaml("http", &urls, "retry: { attempts: 1 }", upstream) + H2C).await;
        let body = Bytes::from_static(b"a body");
        let request = H2::request("POST", "/x", Upload::new(Some(body.len() as u64)).1);
        let answer = H2::connect(proxy.address()).await.ask(request, body).await;
        assert_eq!((answer.head.status, answer.text().as_str()), (200, "taken"), "{urls:?}");
        let counted = proxy.metric("arriero_retries_total{upstream=\"fleet\",reason=\"upstream_reset\"}").await;
        assert!((counted - 1.0).abs() < f64::EPSILON, "{counted}");
    }
}
