//! Stopping: who is still accepted, who is waited for, who is told.

use rustix::process::Signal;

use crate::support::fleet::send;
use crate::support::wire::{Chunk, H1, H2, Upload, get};
use crate::support::{PATIENCE, eventually};
use crate::{Scene, Steady, end_well, refuses, streams};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_streams_and_all_requests_outlive_the_term_signal() {
    for _ in 0..3 {
        let scene = Scene::new("").await;
        let mut program = scene.run().await;
        let open = streams(program.address(), 100).await;
        let load = Steady::start(program.address(), 4);
        load.more(50).await;
        program.signal(Signal::TERM);
        load.refused().await;
        assert!(program.runs());
        scene.streaming.gate().open();
        end_well(open).await;
        let ended = program.ended().await;
        assert_eq!(ended.code, Some(0), "{ended:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_a_delay_clients_are_served_while_readiness_says_no_already() {
    let scene = Scene::new("server: { drain_delay: 1h }").await;
    let mut program = scene.run().await;
    let (address, admin) = (program.address(), program.admin());
    let mut kept = H1::connect(address).await;
    assert_eq!(kept.ask(get("/")).await.head.field("connection"), None);
    assert_eq!(send(admin, "GET", "/health/ready", "").await.head.status, 200);
    program.signal(Signal::TERM);
    eventually("not ready", || async { send(admin, "GET", "/health/ready", "").await.head.status == 503 }).await;
    assert_eq!(send(admin, "GET", "/health/live", "").await.head.status, 200);
    // Whoever asks is answered, and told to come back on another connection, where somebody else may be.
    let answer = kept.ask(get("/")).await;
    assert_eq!((answer.head.status, answer.head.field("connection")), (200, Some("close")));
    assert_eq!(kept.reader.rest().await, b"");
    let load = Steady::start(address, 4);
    load.more(100).await;
    load.stop().await;
    let open = streams(address, 1).await;
    // A second signal ends the delay with all the rest.
    program.signal(Signal::TERM);
    let ended = program.ended().await;
    assert_eq!(ended.code, Some(3), "{ended:?}");
    for mut client in open {
        assert_eq!(client.reader.chunk().await, Chunk::Cut);
    }
}

#[tokio::test]
async fn the_delay_ends_by_itself_and_then_nobody_is_accepted() {
    let scene = Scene::new("server: { drain_delay: 300ms }").await;
    let mut program = scene.run().await;
    let open = streams(program.address(), 1).await;
    program.signal(Signal::INT);
    eventually("nobody listens", || refuses(program.address())).await;
    assert!(program.runs());
    scene.streaming.gate().open();
    end_well(open).await;
    assert_eq!(program.ended().await.code, Some(0));
}

#[tokio::test]
async fn a_request_that_is_on_its_way_when_the_listener_closes_is_answered() {
    let scene = Scene::new("").await;
    let mut program = scene.run().await;
    let mut kept = H1::connect(program.address()).await;
    assert_eq!(kept.ask(get("/")).await.head.status, 200);
    let mut fresh = H1::connect(program.address()).await;
    program.signal(Signal::TERM);
    eventually("nobody listens", || refuses(program.address())).await;
    for client in [&mut kept, &mut fresh] {
        let answer = client.ask(get("/")).await;
        assert_eq!((answer.head.status, answer.head.field("connection")), (200, Some("close")));
    }
    assert_eq!(program.ended().await.code, Some(0));
}

#[tokio::test]
async fn whoever_never_asks_does_not_hold_the_process() {
    let scene = Scene::new("").await;
    let mut program = scene.run().await;
    let mut half = H1::connect(program.address()).await;
    half.send("GET / HTTP/1.1\r\nHost: ").await;
    let mut silent = H1::connect(program.address()).await;
    program.signal(Signal::TERM);
    // Their limits are 10 s and 75 s.
    let ended = tokio::time::timeout(std::time::Duration::from_secs(8), program.ended()).await.expect("in time");
    assert_eq!(ended.code, Some(0));
    assert_eq!(half.reader.rest().await, b"");
    assert_eq!(silent.reader.rest().await, b"");
}

#[tokio::test]
async fn a_websocket_has_the_time_of_everybody_else() {
    let accepted = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n";
    let server = arriero::demo::RawUpstream::start(arriero::demo::Script::new(vec![
        arriero::demo::Step::ReadRequest,
        arriero::demo::Step::Write(accepted.into()),
    ]));
    let server = server.await.expect("a server");
    for (drain, finishes, code) in [("1h", true, 0), ("100ms", false, 3)] {
        let scene = Scene::new(&format!("server: {{ drain: {drain} }}")).await;
        let text = std::fs::read_to_string(&scene.file).expect("a text").replace(&scene.quick.url(), &server.url());
        std::fs::write(&scene.file, text).expect("written");
        let mut program = scene.run().await;
        let mut client = H1::connect(program.address()).await;
        client.send("GET /ws HTTP/1.1\r\nHost: a.test\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n").await;
        assert_eq!(client.reader.head().await.status, 101);
        program.signal(Signal::TERM);
        eventually("nobody listens", || refuses(program.address())).await;
        if finishes {
            assert!(program.runs());
            drop(client);
        } else {
            assert_eq!(client.reader.rest().await, b"");
        }
        assert_eq!(program.ended().await.code, Some(code));
    }
}

#[tokio::test]
async fn whoever_is_cut_off_is_told_why() {
    let scene = Scene::new("server: { drain: 100ms }\nlisteners: [{ address: \"127.0.0.1:0\", h2c: true }]").await;
    // A server that takes requests and never answers.
    let silent = arriero::demo::RawUpstream::start(arriero::demo::Script::new(vec![])).await.expect("a server");
    let text = std::fs::read_to_string(&scene.file).expect("a text").replace(&scene.quick.url(), &silent.url());
    std::fs::write(&scene.file, text).expect("written");
    let mut program = scene.run().await;
    let mut waiting = H1::connect(program.address()).await;
    waiting.send(get("/")).await;
    let mut multiplexed = H2::connect(program.address()).await;
    let request = multiplexed.send(H2::request("GET", "/", Upload::empty()));
    let told = async {
        silent.wait_until(PATIENCE, |connections| connections.len() == 2).await.expect("both have come");
        program.signal(Signal::TERM);
        let answer = waiting.reader.answer().await;
        assert_eq!((answer.head.status, answer.reason()), (503, Some("shutdown")), "{}", answer.text());
    };
    let (response, ()) = tokio::join!(request, told);
    assert_eq!(response.status(), 503);
    assert_eq!(response.headers()["x-arriero-reason"], "shutdown");
    let ended = program.ended().await;
    assert_eq!(ended.code, Some(3), "{ended:?}");
}

#[tokio::test]
async fn streams_over_http2_are_finished_and_their_connection_takes_no_new_ones() {
    let scene = Scene::new("listeners: [{ address: \"127.0.0.1:0\", h2c: true }]").await;
    let mut program = scene.run().await;
    let mut client = H2::connect(program.address()).await;
    let response = client.send(H2::request("GET", "/stream", Upload::empty())).await;
    assert_eq!(response.status(), 200);
    program.signal(Signal::TERM);
    eventually("nobody listens", || refuses(program.address())).await;
    scene.streaming.gate().open();
    let answer = crate::support::wire::read(response).await;
    assert_eq!((answer.text().as_str(), answer.whole), ("onetwo", true));
    assert_eq!(program.ended().await.code, Some(0));
}
