//! Messages of the process, and what happens now as it comes.

use rustix::process::Signal;
use serde_json::Value;

use crate::numbers::scene;
use crate::support::admin::{PREFIX, address, show};
use crate::support::fleet::{Small, generate, send};
use crate::support::process::{Program, complete};
use crate::support::wire::{Chunk, H1};
use crate::support::{PATIENCE, eventually};

/// Server-Sent Events of an answer that does not end.
struct Events {
    client: H1,
    text: String,
}

impl Events {
    async fn open(admin: std::net::SocketAddr, query: &str) -> Self {
        let mut client = H1::connect(admin).await;
        client.send(format!("GET {PREFIX}/logs/stream{query} HTTP/1.1\r\nHost: localhost\r\n\r\n")).await;
        let head = client.reader.head().await;
        assert_eq!((head.status, head.field("content-type")), (200, Some("text/event-stream")), "{}", head.text);
        Self { client, text: String::new() }
    }

    /// The kind and the object of the next event; none when the stream ends.
    async fn next(&mut self) -> Option<(String, Value)> {
        loop {
            if let Some((event, rest)) = self.text.split_once("\n\n") {
                let field = |name: &str| event.lines().find_map(|line| line.strip_prefix(name)).map(str::to_owned);
                let found = field("event: ").zip(field("data: "));
                self.text = rest.to_owned();
                if let Some((kind, data)) = found {
                    return Some((kind, serde_json::from_str(&data).expect("JSON")));
                }
                continue;
            }
            match self.client.reader.chunk().await {
                Chunk::Data(data) => self.text.push_str(&String::from_utf8(data).expect("text")),
                Chunk::End | Chunk::Cut => return None,
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_are_told_to_who_follows_as_they_end() {
    let scene = scene("").await;
    let mut events = Events::open(address(&scene.proxy), "?kind=requests").await;
    let sent = send(scene.proxy.address(), "POST", "/api/generate", generate("m")).await;
    let (kind, told) = tokio::time::timeout(PATIENCE, events.next()).await.expect("in time").expect("an event");
    assert_eq!((kind.as_str(), &told["model"], &told["status"]), ("request", &"m:latest".into(), &200.into()));
    assert_eq!(told["id"].as_str(), sent.head.field("x-request-id"));
    scene.written(1).await;
    assert_eq!(show(&scene.proxy, "/requests").await["requests"][0], told, "the same as is kept");
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_of_the_process_are_kept_and_told() {
    let (server, folder) = (Small::named("web").await, tempfile::tempdir().expect("a folder"));
    let file = folder.path().join("arriero.yaml");
    let text = |more: &str| {
        complete(&format!(
            "routes: [{{ name: all, upstream: web{more} }}]\ntelemetry: {{ access_log: off, log_level: info }}\n\
             upstreams:\n  web: {{ kind: http, servers: [{{ url: \"{}\" }}] }}\n",
            server.url()
        ))
    };
    std::fs::write(&file, text("")).expect("written");
    let mut program = Program::run(&file).await;
    let admin = program.admin();
    let logs = async |query: &str| -> Value {
        let answer = send(admin, "GET", &format!("{PREFIX}/logs{query}"), "").await;
        assert_eq!(answer.head.status, 200, "{}", answer.text());
        serde_json::from_slice(&answer.body).expect("JSON")
    };
    let mut events = Events::open(admin, "?kind=messages&level=error").await;
    std::fs::write(&file, "version: 1\nnonsense: 1\n").expect("written");
    let (kind, told) = tokio::time::timeout(PATIENCE, events.next()).await.expect("in time").expect("an event");
    assert_eq!((kind.as_str(), &told["level"]), ("message", &"error".into()), "{told}");
    assert!(told["message"].as_str().is_some_and(|text| text.contains("configuration refused")), "{told}");
    assert!(program.err.has("configuration refused"), "{}", program.err.text());
    std::fs::write(&file, text(", priority: low")).expect("written");
    let applied = || async {
        let seen = logs("?level=info").await;
        let found = seen["logs"].as_array().expect("a list").clone();
        found.iter().any(|one| one["message"] == "configuration applied" && one["fields"]["trigger"].is_string())
    };
    eventually("applied", applied).await;
    let severe = logs("?level=error&limit=1").await;
    assert_eq!((&severe["count"], &severe["logs"][0]), (&1.into(), &told), "{severe}");
    let all = logs("").await["logs"].as_array().expect("a list").clone();
    assert!(all.windows(2).all(|pair| pair[0]["seq"].as_u64() > pair[1]["seq"].as_u64()), "{all:?}");
    // Who follows does not hold the process when it stops.
    program.signal(Signal::TERM);
    let ended = program.ended().await;
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert!(tokio::time::timeout(PATIENCE, events.next()).await.expect("it ends").is_none());
}
