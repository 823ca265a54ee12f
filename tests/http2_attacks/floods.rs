//! Frames that carry nothing, windows that let nothing through, frames that break the rules.

use std::time::Duration;

use arriero::demo::Script;
use tokio::io::AsyncWriteExt;
use tokio::time::timeout;

use crate::support::eventually;
use crate::support::frames::{self, *};
use crate::{Scene, flood, repeated};

// H06 to H09, H12, H13

#[tokio::test]
async fn floods_of_frames_that_carry_nothing() {
    let scene = Scene::new("").await;
    let witness = scene.witness();
    let priority = |stream: u32| frame(PRIORITY, 0, stream, [0, 0, 0, 0, 16]);
    let floods: [(&str, Vec<u8>); 8] = [
        ("PING", repeated(20_000, |_| frame(PING, 0, 0, [1; 8]))),
        ("PING answers", repeated(20_000, |_| frame(PING, ACK, 0, [1; 8]))),
        ("SETTINGS", repeated(20_000, |_| settings(&[(4, 65_535)]))),
        ("empty SETTINGS", repeated(20_000, |_| settings(&[]))),
        ("WINDOW_UPDATE", repeated(50_000, |_| window_update(0, 1))),
        ("PRIORITY", repeated(50_000, priority)),
        ("unknown frames", repeated(50_000, |_| frame(0x2a, 0, 0, "?"))),
        ("unknown frames of a stream", repeated(50_000, |stream| frame(0xfe, 0xff, stream, []))),
    ];
    for (count, (what, bytes)) in floods.into_iter().enumerate() {
        let ended = flood(scene.raw().await, bytes).await;
        assert_eq!(ended.goaway, Some(ENHANCE_YOUR_CALM), "{what}: {ended:?}");
        assert_eq!(scene.floods().await, count as f64 + 1.0, "{what}");
    }
    witness.was_served().await;
    scene.over().await;
}

#[tokio::test]
async fn a_flood_whose_answers_are_never_read() {
    // Without reading, the answers fill the buffers and the client's own writes stall; the connection must end anyway.
    let scene = Scene::new("timeouts: { keepalive: 1s }").await;
    let mut silent = Raw::narrow(scene.proxy.address()).await;
    silent.greet(65_535).await;
    let bytes = repeated(20_000, |_| frame(PING, 0, 0, [1; 8]));
    drop(timeout(Duration::from_secs(5), silent.writer.write_all(&bytes)).await);
    eventually("it is a flood", async || scene.floods().await == 1.0).await;
    eventually("it is closed", async || scene.proxy.metric("arriero_connections").await == 0.0).await;
}

#[tokio::test]
async fn empty_data_frames() {
    let scene = Scene::new("").await;
    let witness = scene.witness();
    let start = headers(1, false, &request("POST", "/", &[]));
    let padded = [[3, 0, 0, 0].as_slice(), &[]].concat();
    for (what, piece) in [
        ("empty", frame(DATA, 0, 1, [])),
        ("of padding only", frame(DATA, 8, 1, padded)),
        ("of one byte", frame(DATA, 0, 1, "x")),
    ] {
        let bytes = [start.clone(), piece.repeat(50_000)].concat();
        let mut raw = scene.raw().await;
        if what == "of one byte" {
            // What is small but not empty is paid for by the window: it passes, as slowly as the server takes it.
            raw.send([&bytes[..start.len() + 10 * 2000], &frame(DATA, END_STREAM, 1, "")].concat()).await;
            assert_eq!(raw.verdict(1).await.answers, [(1, 200)], "{what}");
            continue;
        }
        let ended = flood(raw, bytes).await;
        assert_eq!(ended.goaway, Some(ENHANCE_YOUR_CALM), "DATA frames {what}: {ended:?}");
    }
    witness.was_served().await;
    scene.over().await;
}

#[tokio::test]
async fn windows_that_break_the_rules() {
    let scene = Scene::new("").await;
    scene.target.gate().close();
    let open = headers(1, false, &request("POST", "/", &[]));
    for (what, bytes, code) in [
        ("nothing more for the connection", window_update(0, 0), PROTOCOL_ERROR),
        ("nothing more for a stream", [open.clone(), window_update(1, 0)].concat(), PROTOCOL_ERROR),
        ("a stream that is idle", window_update(9, 1), PROTOCOL_ERROR),
        ("the connection beyond 2^31-1", window_update(0, 0x7fff_ffff), FLOW_CONTROL_ERROR),
        ("an initial window beyond 2^31-1", settings(&[(4, 0x8000_0000)]), FLOW_CONTROL_ERROR),
        ("five bytes", frame(WINDOW_UPDATE, 0, 0, [0; 5]), FRAME_SIZE_ERROR),
    ] {
        let mut raw = scene.raw().await;
        raw.send(bytes).await;
        let ended = raw.ended().await;
        // FRAME_SIZE_ERROR and the like may be told as PROTOCOL_ERROR.
        assert!([Some(code), Some(PROTOCOL_ERROR)].contains(&ended.goaway), "{what}: {ended:?}");
    }
    let mut raw = scene.raw().await;
    raw.send([open, window_update(1, 0x7fff_ffff)].concat()).await;
    let ended = raw.verdict(1).await;
    assert_eq!(ended.resets, [(1, FLOW_CONTROL_ERROR)], "a stream beyond 2^31-1: {ended:?}");
    drop(raw);
    scene.over().await;
}

// H10, H11

#[tokio::test]
async fn an_answer_that_is_not_let_through_is_cut_and_its_server_freed() {
    let body = "x".repeat(4 << 20);
    let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    let scene = Scene::before(Script::answer(answer), "timeouts: { write: 700ms }").await;
    let witness = scene.witness();
    // No window at all, for an answer of the server.
    let mut raw = Raw::with_window(scene.proxy.address(), 0).await;
    raw.send(frames::get(1, "/")).await;
    assert_eq!(raw.answer(1).await, Some(200));
    let reset = raw.next(RST_STREAM).await.expect("the stream is reset");
    assert_eq!(reset.stream, 1);
    eventually("the server is free", async || scene.in_flight().await == 0.0).await;
    // The same for an answer of our own.
    raw.send(frames::get(3, "/a/../b")).await;
    assert_eq!(raw.answer(3).await, Some(400));
    assert_eq!(raw.next(RST_STREAM).await.expect("the stream is reset").stream, 3);
    // One byte at a time: something moves, but never enough.
    let mut raw = Raw::with_window(scene.proxy.address(), 1).await;
    raw.send(frames::get(1, "/")).await;
    let mut taken = 0;
    loop {
        let frame = raw.frame().await.expect("the connection stays");
        match frame.kind {
            DATA => {
                taken += frame.payload.len();
                assert!(taken < 2000, "a byte at a time goes on for ever");
                tokio::time::sleep(Duration::from_millis(10)).await;
                raw.send(window_update(1, 1)).await;
            }
            RST_STREAM => break,
            _ => {}
        }
    }
    assert!(taken > 0);
    eventually("the server is free", async || scene.in_flight().await == 0.0).await;
    let stalled = scene.proxy.metric("arriero_requests_ended_total{reason=\"client_stalled\"}").await;
    assert_eq!(stalled, 3.0);
    witness.was_served().await;
}

// H12, H13

#[tokio::test]
async fn priorities_and_unknown_frames_are_ignored_and_broken_ones_refused() {
    let scene = Scene::new("").await;
    let mut raw = scene.raw().await;
    for number in 0..50 {
        raw.send(frame(PRIORITY, 0, number * 2 + 1, [0, 0, 0, 0, 200])).await;
        raw.send(frame(0x77, 0xff, number, [0; 100])).await;
    }
    raw.send(frames::get(101, "/")).await;
    assert_eq!(raw.answer(101).await, Some(200), "they change nothing");
    drop(raw);
    for (what, bytes, codes) in [
        ("a frame of 17 kB", frame(DATA, 0, 0, [0; 17_000]), &[FRAME_SIZE_ERROR][..]),
        ("a PING of seven bytes", frame(PING, 0, 0, [0; 7]), &[FRAME_SIZE_ERROR, PROTOCOL_ERROR]),
        ("an even stream", frames::get(2, "/"), &[PROTOCOL_ERROR]),
        ("stream 0", frames::get(0, "/"), &[PROTOCOL_ERROR]),
        ("DATA of a stream that is idle", frame(DATA, 0, 7, "x"), &[PROTOCOL_ERROR]),
        ("DATA of stream 0", frame(DATA, 0, 0, "x"), &[PROTOCOL_ERROR]),
        ("a stream below one before", [frames::get(9, "/"), frames::get(3, "/")].concat(), &[PROTOCOL_ERROR]),
        ("RST_STREAM of a stream that is idle", cancel(5), &[PROTOCOL_ERROR]),
        ("a push", frame(5, END_HEADERS, 1, [0, 0, 0, 2]), &[PROTOCOL_ERROR]),
        (
            "PING inside a header block",
            [frame(HEADERS, 0, 1, []), frame(PING, 0, 0, [0; 8])].concat(),
            &[PROTOCOL_ERROR],
        ),
        ("CONTINUATION of nothing", frame(CONTINUATION, END_HEADERS, 1, []), &[PROTOCOL_ERROR]),
        ("an answer to no SETTINGS", frame(SETTINGS, ACK, 0, []).repeat(3), &[PROTOCOL_ERROR]),
        ("SETTINGS of a stream", frame(SETTINGS, 0, 1, []), &[PROTOCOL_ERROR]),
        ("a table index of 0", headers(1, true, &[0x80]), &[COMPRESSION_ERROR, PROTOCOL_ERROR]),
        ("a table index beyond its end", headers(1, true, &[0xff, 0xff, 0x7f]), &[COMPRESSION_ERROR, PROTOCOL_ERROR]),
    ] {
        let mut raw = scene.raw().await;
        raw.send(bytes).await;
        let ended = raw.ended().await;
        assert!(ended.goaway.is_some_and(|code| codes.contains(&code)), "{what}: {ended:?}");
    }
    let mut raw = scene.raw().await;
    raw.send([frame(PRIORITY, 0, 1, [0, 0, 0, 1, 0]), frames::get(3, "/")].concat()).await;
    let ended = raw.verdict(3).await;
    assert_eq!((ended.goaway, ended.answers.as_slice()), (None, &[(3, 200)][..]), "1 depends on itself: {ended:?}");
    drop(raw);
    scene.over().await;
}
