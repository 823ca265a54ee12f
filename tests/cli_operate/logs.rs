//! `arriero logs` and `arriero usage`: what ended, as it ends, and what it came to.

use std::process::Command;

use rustix::process::Signal;
use serde_json::Value;

use super::{Setup, form, rows};
use crate::support::eventually;
use crate::support::fleet::{generate, send, send_with};
use crate::support::process::{Program, arriero};

impl Setup {
    /// A request that has ended, and that the history has taken.
    async fn ended(&self, id: &str, model: &str) {
        let fields = format!("X-Request-Id: {id}\r\n");
        send_with(self.program.address(), "POST", "/api/generate", &fields, generate(model)).await;
        eventually("it is in the history", || async {
            let seen = self.show("requests").await;
            seen["requests"].as_array().is_some_and(|all| all.iter().any(|one| one["id"] == id))
        })
        .await;
    }

    /// `arriero logs -f` while it runs.
    fn follow(&self, words: &[&str]) -> Program {
        let words = [&["logs", "-f", "--admin", &self.admin], words].concat();
        Program::spawn(arriero(&words, self.folder.path()))
    }
}

/// The documents that were printed, one a line.
fn documents(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"))).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_that_ended_are_told_in_their_order() {
    let setup = Setup::start(false).await;
    assert_eq!(setup.told(&["logs"]).await, "no requests\n");
    assert_eq!(setup.told(&["usage"]).await, "no requests in that time\n");
    setup.ended("one", "m").await;
    setup.ended("two", "n").await;
    let lines: Vec<String> = setup.told(&["logs"]).await.lines().map(str::to_owned).collect();
    assert_eq!(lines.len(), 2, "{lines:?}");
    assert!(lines[0].contains("  200  ") && lines[0].contains("  POST /api/generate  m:latest  s"), "{lines:?}");
    assert!(lines[1].contains("  404  ") && lines[1].ends_with("  model_not_found"), "{lines:?}");
    let json = setup.json(&["logs"]).await;
    assert_eq!(form(&json), form(&setup.show("requests?limit=20").await));
    for (words, wanted) in [
        (&["--model", "M"][..], "one"),
        (&["--status", "404"], "two"),
        (&["--reason", "ok"], "one"),
        (&["--limit", "1"], "two"),
        (&["--since", "1h", "--model", "n"], "two"),
    ] {
        let json = setup.json(&[&["logs"], words].concat()).await;
        assert_eq!((&json["count"], &json["requests"][0]["id"]), (&1.into(), &wanted.into()), "{words:?}");
    }
    let wrong = setup.run(&["logs", "--reason", "nonsense"]).await;
    assert!(wrong.code == Some(1) && wrong.err.starts_with("error: "), "{wrong:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_follows_sees_requests_as_they_end_until_interrupted() {
    let setup = Setup::start(false).await;
    setup.ended("before", "m").await;
    let (mut json, mut text) = (setup.follow(&["--json"]), setup.follow(&[]));
    eventually("those of late", || async { json.out.has("\"before\"") && text.out.has("/api/generate") }).await;
    for id in ["two", "three"] {
        send_with(setup.program.address(), "POST", "/api/generate", &format!("X-Request-Id: {id}\r\n"), generate("m"))
            .await;
    }
    eventually("those to come", || async { json.out.has("\"three\"") && text.out.text().lines().count() == 3 }).await;
    for (program, signal) in [(&mut json, Signal::INT), (&mut text, Signal::TERM)] {
        program.signal(signal);
        let ended = program.ended().await;
        assert_eq!((ended.code, ended.err.as_str()), (Some(0), ""), "{ended:?}");
    }
    let ids: Vec<Value> = documents(&json.out.text()).iter().map(|one| one["id"].clone()).collect();
    assert_eq!(ids, ["before", "two", "three"], "each once, in their order");
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_follows_sees_only_what_was_asked_for() {
    let setup = Setup::start(false).await;
    setup.ended("one", "m").await;
    let mut follower = setup.follow(&["--json", "--model", "n"]);
    let mut all = setup.follow(&["--json"]);
    eventually("it follows", || async { all.out.has("\"one\"") }).await;
    // The last one shows that the stream has passed the others.
    for (id, model) in [("two", "m"), ("three", "n"), ("four", "m"), ("five", "n")] {
        setup.ended(id, model).await;
    }
    eventually("the last one", || async { follower.out.has("\"five\"") }).await;
    let ids: Vec<Value> = documents(&follower.out.text()).iter().map(|one| one["id"].clone()).collect();
    assert_eq!(ids, ["three", "five"]);
    for program in [&mut follower, &mut all] {
        program.signal(Signal::INT);
        assert_eq!(program.ended().await.code, Some(0));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_leaves_ends_it_without_a_word() {
    let setup = Setup::start(false).await;
    setup.ended("one", "m").await;
    let line =
        format!("set -o pipefail; {} logs -f --admin {} | head -n 1", env!("CARGO_BIN_EXE_arriero"), setup.admin);
    let mut command = Command::new("bash");
    command.args(["-c", &line]).current_dir(setup.folder.path());
    let ended = crate::support::process::finish(command).await;
    assert_eq!((ended.code, ended.err.as_str(), ended.out.lines().count()), (Some(0), "", 1), "{ended:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_ends_is_an_error() {
    let mut setup = Setup::start(false).await;
    setup.ended("one", "m").await;
    let mut follower = setup.follow(&[]);
    eventually("it follows", || async { follower.out.has("/api/generate") }).await;
    setup.program.signal(Signal::KILL);
    setup.program.ended().await;
    let ended = follower.ended().await;
    assert!(ended.code == Some(4) && ended.err.starts_with("error: "), "{ended:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_of_the_process_are_told_and_followed() {
    let setup = Setup::start(false).await;
    let file = setup.folder.path().join("arriero.yaml");
    let good = std::fs::read_to_string(&file).expect("a text");
    let refuse = async |kind: &str| {
        crate::support::replace(&file, &good.replace("kind: ollama", &format!("kind: {kind}")));
        assert_eq!(setup.run(&["reload"]).await.code, Some(1));
    };
    refuse("first").await;
    let messages = ["--kind", "messages"];
    eventually("it is told", || async { setup.told(&[&["logs"], &messages[..]].concat()).await.contains("first") })
        .await;
    let told = setup.told(&["logs", "--kind", "messages", "--level", "warn"]).await;
    let line = told.lines().find(|line| line.contains("first")).expect("a line");
    assert!(line.contains("  WARN   ") || line.contains("  ERROR  "), "{told}");
    let json = setup.json(&["logs", "--kind", "messages"]).await;
    assert_eq!(form(&json)["logs"], form(&setup.show("logs?limit=20").await)["logs"]);
    let mut follower = setup.follow(&messages);
    eventually("those of late", || async { follower.out.has("first") }).await;
    refuse("second").await;
    eventually("those to come", || async { follower.out.has("second") }).await;
    follower.signal(Signal::INT);
    assert_eq!(follower.ended().await.code, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn usage_is_summed_up_as_asked() {
    let setup = Setup::start(false).await;
    setup.ended("one", "m").await;
    setup.ended("two", "m").await;
    send(setup.program.address(), "GET", "/api/tags", "").await;
    eventually("two are counted", || async {
        let table = rows(&setup.told(&["usage", "--by", "model", "--per", "total"]).await);
        table.iter().any(|row| row.starts_with(&["-", "-", "m:latest", "2"].map(str::to_owned)))
    })
    .await;
    let table = rows(&setup.told(&["usage"]).await);
    let heads = ["PERIOD", "KEY", "MODEL", "REQUESTS", "ERRORS", "PROMPT TOKENS", "OUTPUT TOKENS", "IN", "OUT"];
    assert_eq!(table[0], heads);
    let row = table.iter().find(|row| row[2] == "m:latest").expect("a row");
    assert_eq!((row[0].len(), row[3].as_str(), row[4].as_str()), ("2026-02-03".len(), "2", "0"));
    let json = setup.json(&["usage", "--by", "model,key", "--per", "month", "--from", "7d"]).await;
    assert_eq!(form(&json), form(&setup.show("usage?by=key,model&per=month&from=7d").await));
    let wrong = setup.run(&["usage", "--from", "yesterday"]).await;
    assert!(wrong.code == Some(1) && wrong.err.starts_with("error: `from`"), "{wrong:?}");
}
