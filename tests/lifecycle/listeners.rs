//! Listeners that come, go and move with a reload.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::atomic::{AtomicU16, Ordering};

use crate::support::eventually;
use crate::support::wire::{H1, ask, get};
use crate::{Scene, Steady, end_well, refuses, streams};

/// A port that was free a moment ago. Not of those that the system hands out by itself, which another test may get.
fn free() -> SocketAddr {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    // Each test is a process of its own.
    let first = u16::try_from(20_000 + std::process::id() % 400 * 25).expect("small");
    loop {
        let port = first + NEXT.fetch_add(1, Ordering::Relaxed);
        if let Ok(socket) = TcpListener::bind((Ipv4Addr::LOCALHOST, port)) {
            return socket.local_addr().expect("an address");
        }
    }
}

fn listening(addresses: &[&str]) -> String {
    let all: Vec<String> = addresses.iter().map(|address| format!("{{ address: \"{address}\" }}")).collect();
    format!("listeners: [{}]", all.join(", "))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_listener_comes_and_goes_under_load_and_the_others_notice_nothing() {
    let scene = Scene::new(&listening(&["127.0.0.1:0"])).await;
    let program = scene.run().await;
    let (first, second) = (program.address(), free());
    let load = Steady::start(first, 4);
    load.more(20).await;
    for _ in 0..3 {
        assert!(refuses(second).await);
        // In front of the other: nothing goes by the place in the list.
        scene.write(&listening(&[&second.to_string(), "127.0.0.1:0"]));
        let added = scene.reload(&program).await;
        assert_eq!(added.code, Some(0), "{added:?}");
        assert_eq!(ask(second, get("/")).await.head.status, 200);
        let mut idle = H1::connect(second).await;
        assert_eq!(idle.ask(get("/")).await.head.status, 200);
        let there = Steady::start(second, 2);
        there.more(20).await;
        load.more(20).await;
        scene.write(&listening(&["127.0.0.1:0"]));
        let removed = scene.reload(&program).await;
        assert_eq!(removed.code, Some(0), "{removed:?}");
        there.refused().await;
        assert_eq!(idle.reader.rest().await, b"", "idle connections are closed");
        load.more(20).await;
    }
    load.stop().await;
    assert_eq!(program.address(), first);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_of_a_listener_that_moves_are_finished() {
    let (one, other) = (free(), free());
    let scene = Scene::new(&listening(&[&one.to_string()])).await;
    let program = scene.run().await;
    let open = streams(one, 20).await;
    let load = Steady::start(one, 4);
    load.more(20).await;
    scene.write(&listening(&[&other.to_string()]));
    let moved = scene.reload(&program).await;
    assert_eq!(moved.code, Some(0), "{moved:?}");
    load.refused().await;
    assert_eq!(ask(other, get("/")).await.head.status, 200);
    scene.streaming.gate().open();
    end_well(open).await;
}

#[tokio::test]
async fn a_listener_may_move_to_another_address_of_its_port() {
    let port = free().port();
    let (one, all) = (format!("127.0.0.1:{port}"), format!("0.0.0.0:{port}"));
    let scene = Scene::new(&listening(&[&one])).await;
    let program = scene.run().await;
    let elsewhere = SocketAddr::from(([127, 0, 0, 2], port));
    for (address, reachable) in [(&all, true), (&one, false), (&format!("localhost:{port}"), false)] {
        scene.write(&listening(&[address]));
        let moved = scene.reload(&program).await;
        assert_eq!(moved.code, Some(0), "{moved:?}");
        eventually("it has moved", || async { refuses(elsewhere).await != reachable }).await;
        assert_eq!(ask(SocketAddr::from(([127, 0, 0, 1], port)), get("/")).await.head.status, 200);
    }
    // The port is not shared with another program.
    let taken = TcpListener::bind(("127.0.0.1", port));
    assert!(taken.is_err_and(|error| error.kind() == std::io::ErrorKind::AddrInUse));
}

#[tokio::test]
async fn an_address_that_cannot_be_had_refuses_the_whole_file() {
    let scene = Scene::new(&listening(&["127.0.0.1:0"])).await;
    let program = scene.run().await;
    let (taken, free) = (TcpListener::bind("127.0.0.1:0").expect("a socket"), free());
    let address = taken.local_addr().expect("an address");
    scene.write(&listening(&[&free.to_string(), &address.to_string()]));
    let refused = scene.reload(&program).await;
    assert_eq!(refused.code, Some(1), "{refused:?}");
    for part in ["listeners[1].address", &address.to_string(), "in use"] {
        assert!(refused.err.contains(part), "{part}: {refused:?}");
    }
    assert_eq!(ask(program.address(), get("/")).await.head.status, 200);
    assert!(refuses(free).await, "nothing of the file is in force");
    drop(taken);
    let applied = scene.reload(&program).await;
    assert_eq!(applied.code, Some(0), "{applied:?}");
    assert_eq!(ask(address, get("/")).await.head.status, 200);
    assert_eq!(ask(free, get("/")).await.head.status, 200);
}

#[tokio::test]
async fn settings_follow_their_listener_and_not_its_place() {
    let port = free();
    let strict = format!("{{ address: \"{port}\", hosts: [a.test] }}");
    let scene = Scene::new(&format!("listeners: [{{ address: \"127.0.0.1:0\" }}, {strict}]")).await;
    let program = scene.run().await;
    let mut kept = H1::connect(port).await;
    assert_eq!(kept.ask(get("/")).await.head.status, 421);
    scene.write(&format!("listeners: [{strict}, {{ address: \"127.0.0.1:0\" }}]"));
    assert_eq!(scene.reload(&program).await.code, Some(0));
    assert_eq!(kept.ask(get("/")).await.head.status, 421);
    assert_eq!(ask(port, get("/")).await.head.status, 421);
    assert_eq!(ask(program.address(), get("/")).await.head.status, 200);
}
