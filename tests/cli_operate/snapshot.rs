//! `arriero top --snapshot`: what the screen shows is what the overview says, field by field.

use serde_json::Value;

use super::{Setup, rows};
use crate::support::eventually;

/// One screen of a pane, and the overview of the same state.
async fn screen(setup: &Setup, pane: &str) -> (Vec<String>, Value) {
    let text = setup.told(&["top", "--snapshot", "--pane", pane, "--width", "160", "--height", "20"]).await;
    let lines: Vec<String> = text.lines().map(str::to_owned).collect();
    assert_eq!(lines.len(), 20, "{text}");
    assert!(lines.iter().all(|line| line.chars().count() <= 160), "{text}");
    (lines, setup.show("overview").await)
}

/// The table of a pane: below the heading, above the last line.
fn table(lines: &[String]) -> Vec<Vec<String>> {
    rows(&lines[5..lines.len() - 1].join("\n")).into_iter().filter(|row| !row.is_empty()).collect()
}

fn text(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// The same fields of a list, as text.
fn fields(list: &Value, keys: &[&str]) -> Vec<Vec<String>> {
    list.as_array().expect("a list").iter().map(|one| keys.iter().map(|key| text(&one[key])).collect()).collect()
}

/// So many first cells of each row below the headings.
fn begins(table: &[Vec<String>], cells: usize) -> Vec<Vec<String>> {
    table[1..].iter().map(|row| row[..cells].to_vec()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_pane_shows_what_the_overview_says() {
    let setup = Setup::start(false).await;
    setup.gates(false);
    let _client = setup.begin("one-request").await;
    eventually("it runs", || async { setup.show("in-flight").await["total"] == 1 }).await;
    eventually("the model is in memory", || async {
        let seen = setup.show("overview").await;
        seen["models"][0]["loaded"] == 1
    })
    .await;
    setup.told(&["circuit", "open", "s1", "--for", "1h"]).await;
    setup.told(&["ban", "add", "--model", "n", "--reason", "it crashes"]).await;

    let (lines, seen) = screen(&setup, "servers").await;
    let line =
        |number: usize, wanted: String| assert!(lines[number].starts_with(&wanted), "{wanted}\n{}", lines[number]);
    line(0, format!("arriero     {}, version {}, up ", text(&seen["status"]), text(&seen["version"])));
    let hash = &seen["config"]["hash"].as_str().expect("a hash")[..12];
    assert!(lines[0].ends_with(&format!("config {hash} in force")), "{}", lines[0]);
    line(1, "servers     2 of 2 up   requests 1 in flight, ".to_owned());
    line(2, "rates       ".to_owned());
    line(3, "first byte  nothing ended in the last minute   duration nothing".to_owned());
    assert_eq!(lines[4], "[1 servers]  2 models   3 requests   4 queues   5 circuits (1)   6 bans (1)   7 decisions");
    assert_eq!(lines[19], "q leave  Tab pane  ←→ sort  / filter  ? help");
    let shown = table(&lines);
    assert_eq!(shown[0], ["SERVER", "UPSTREAM", "HEALTH", "OPERATION", "CIRCUIT", "RUN", "RESPONSE", "VRAM", "LOADED"]);
    let keys = ["id", "upstream", "health", "operation", "circuit"];
    assert_eq!(begins(&shown, 5), fields(&seen["servers"], &keys));
    let running: u32 = shown[1..].iter().map(|row| row[5].parse::<u32>().expect("a number")).sum();
    assert_eq!(running, 1, "{shown:?}");
    assert_eq!(shown[1..].iter().filter(|row| row[8] == "m:latest").count(), 1, "{shown:?}");

    let (lines, seen) = screen(&setup, "models").await;
    let keys = ["name", "servers", "available", "loaded", "inFlight", "waiting"];
    assert_eq!(begins(&table(&lines), 6), fields(&seen["models"], &keys));

    let (lines, seen) = screen(&setup, "requests").await;
    assert_eq!(begins(&table(&lines), 3), fields(&seen["inFlight"], &["serverId", "model", "phase"]));
    assert_eq!(table(&lines)[1][4], "one-request");

    let (lines, seen) = screen(&setup, "circuits").await;
    assert_eq!(begins(&table(&lines), 4), fields(&seen["circuits"], &["serverId", "model", "state", "failures"]));
    assert!(table(&lines)[1][4].starts_with("in 59m"), "{lines:?}");

    let (lines, _) = screen(&setup, "bans").await;
    assert_eq!(table(&lines)[0], ["SERVER", "MODEL", "UNTIL", "BY", "REASON"]);
    let ban = &table(&lines)[1];
    assert_eq!((&ban[..3], ban[4].as_str()), (&["all", "n:latest", "lifted"].map(str::to_owned)[..], "it crashes"));

    let (lines, seen) = screen(&setup, "decisions").await;
    let shown: Vec<Vec<String>> = table(&lines)[1..].iter().map(|row| row[1..4].to_vec()).collect();
    assert_eq!(shown, fields(&seen["decisions"], &["upstream", "model", "server"]));

    let (lines, _) = screen(&setup, "queues").await;
    assert_eq!(table(&lines), [["nobody waits"]]);
    setup.told(&["queue", "pause"]).await;
    let _waiting = setup.begin("two").await;
    eventually("it waits", || async { setup.show("queue").await["queue"] == 1 }).await;
    let (lines, _) = screen(&setup, "queues").await;
    assert_eq!(table(&lines)[1][..4], ["fleet", "paused", "m:latest", "1"]);
    setup.gates(true);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_screen_of_any_size_is_drawn() {
    let setup = Setup::start(false).await;
    for (width, height) in [("1", "1"), ("20", "7"), ("40", "10"), ("300", "60")] {
        let text = setup.told(&["top", "--snapshot", "--width", width, "--height", height]).await;
        let [most, lines] = [width, height].map(|side| side.parse::<usize>().expect("a number"));
        assert_eq!(text.lines().count(), lines, "{width}x{height}:\n{text}");
        assert!(text.lines().all(|line| line.chars().count() <= most), "{width}x{height}:\n{text}");
    }
}
