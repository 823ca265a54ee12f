//! Orders: what they change, in both forms of their answer.

use serde_json::json;

use super::{Setup, rows};
use crate::support::eventually;

#[tokio::test(flavor = "multi_thread")]
async fn a_server_is_drained_called_back_and_put_in_maintenance() {
    let setup = Setup::start(false).await;
    assert_eq!(setup.told(&["drain", "s0", "--reason", "new disk"]).await, "s0: draining, 0 requests in flight\n");
    let one = setup.told(&["servers", "s0"]).await;
    for wanted in ["operation  draining", "  reason   new disk", "in flight  0"] {
        assert!(one.contains(wanted), "no `{wanted}` in\n{one}");
    }
    assert!(setup.told(&["status"]).await.contains("2 of 2 up, 1 draining"));
    let back = setup.json(&["undrain", "s0"]).await;
    assert_eq!((&back["serverId"], &back["operation"]["state"]), (&"s0".into(), &"active".into()), "{back}");
    let rests = setup.json(&["maintenance", "s1", "--for", "1h"]).await;
    assert_eq!((&rests["operation"]["state"], &rests["empty"]), (&"maintenance".into(), &true.into()), "{rests}");
    assert!(setup.told(&["servers", "s1"]).await.contains("  until    in 59m 5"), "it ends in an hour");
    assert_eq!(setup.told(&["maintenance", "s1", "--off"]).await, "s1: active, 0 requests in flight\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_that_waits_in_vain_ends_with_one_in_both_forms() {
    let setup = Setup::start(false).await;
    setup.gates(false);
    let _client = setup.begin("one").await;
    eventually("it runs", || async { setup.show("in-flight").await["total"] == 1 }).await;
    let servers = setup.show("servers").await;
    let busy = servers["servers"].as_array().expect("a list").iter().find(|server| server["inFlight"] == 1);
    let busy = busy.expect("one is busy")["id"].as_str().expect("a name");
    let ended = setup.run(&["drain", busy, "--wait", "1ms"]).await;
    assert_eq!(ended.code, Some(1));
    assert_eq!(
        (ended.out, ended.err.as_str()),
        (format!("{busy}: draining, 1 request in flight\n"), "error: it is not empty yet\n")
    );
    let ended = setup.run(&["drain", busy, "--wait", "1ms", "--json"]).await;
    let told: serde_json::Value = serde_json::from_str(&ended.out).expect("JSON");
    assert_eq!((ended.code, &told["inFlightRequests"]), (Some(1), &1.into()), "{told}");
    setup.gates(true);
    assert_eq!(setup.run(&["drain", busy, "--wait", "20s"]).await.code, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn circuits_are_opened_tried_closed_and_reset() {
    let setup = Setup::start(false).await;
    assert_eq!(setup.told(&["circuit", "open", "s0", "--for", "1h"]).await, "s0: open, was closed\n");
    assert_eq!(setup.told(&["circuit", "open", "s0", "m"]).await, "s0 m:latest: open, was closed\n");
    let table = rows(&setup.told(&["circuit", "list", "s0"]).await);
    assert_eq!(table[0], ["SERVER", "MODEL", "STATE", "FAILURES", "HALF OPEN", "HELD"]);
    assert_eq!(table[1][..4], ["s0", "-", "open", "0"]);
    assert_eq!(
        (table[1][5].as_str(), &table[2][..3]),
        ("by an operator", &["s0", "m:latest", "open"].map(str::to_owned)[..])
    );
    assert!(setup.told(&["status"]).await.contains("2 are not closed"));
    let told = setup.json(&["circuit", "half-open", "s0"]).await;
    assert_eq!((&told["previousState"], &told["currentState"]), (&"open".into(), &"half_open".into()));
    assert_eq!(setup.told(&["circuit", "close", "s0"]).await, "s0: closed, was half_open\n");
    assert_eq!(setup.told(&["circuit", "reset", "s0", "m"]).await, "s0 m:latest: closed, was open\n");
    assert!(setup.told(&["status"]).await.contains("all closed"));
}

#[tokio::test(flavor = "multi_thread")]
async fn bans_are_added_listed_and_lifted() {
    let setup = Setup::start(false).await;
    setup.told(&["ban", "add", "--model", "n", "--for", "1h", "--reason", "it crashes"]).await;
    setup.told(&["ban", "add", "--server", "s0", "--model", "m"]).await;
    let table = rows(&setup.told(&["ban"]).await);
    assert_eq!(table[0], ["UPSTREAM", "SERVER", "MODEL", "SINCE", "UNTIL", "BY", "REASON"]);
    let bans: Vec<_> = table[1..].iter().map(|row| (row[1].as_str(), row[2].as_str(), row[6].as_str())).collect();
    assert!(bans.contains(&("all", "n:latest", "it crashes")) && bans.contains(&("s0", "m:latest", "-")), "{bans:?}");
    let lifted = setup.json(&["ban", "lift", "--server", "s0", "--model", "m"]).await;
    assert_eq!((&lifted["removed"], &lifted["bans"][0]["serverId"]), (&1.into(), &"s0".into()), "{lifted}");
    let none = setup.run(&["ban", "lift", "--server", "s0", "--model", "m"]).await;
    assert!(none.code == Some(1) && none.err.contains("is not banned"), "{none:?}");
    assert!(setup.told(&["ban", "lift", "--all"]).await.ends_with("1 ban lifted\n"));
    assert_eq!(setup.told(&["ban", "lift", "--model", "n"]).await, "nothing of that was banned\n");
    assert_eq!(setup.json(&["ban"]).await["bans"], json!([]));
}

#[tokio::test(flavor = "multi_thread")]
async fn queues_are_paused_and_resumed() {
    let setup = Setup::start(false).await;
    let table = rows(&setup.told(&["queue", "pause", "--upstream", "fleet", "--reason", "a test"]).await);
    assert_eq!(table[0], ["UPSTREAM", "STATE", "WAITING", "MOST PER MODEL", "TIMEOUT", "MODELS"]);
    assert_eq!(table[1][..3], ["fleet", "paused", "0"]);
    let _client = setup.begin("one").await;
    eventually("it waits", || async { setup.json(&["queue"]).await["queue"] == 1 }).await;
    let told = setup.told(&["queue"]).await;
    assert!(told.contains("m:latest 1") && told.ends_with("1 request waits\n"), "{told}");
    assert!(setup.told(&["status"]).await.contains("queues of fleet"));
    let none = setup.run(&["queue", "pause", "--upstream", "nothing"]).await;
    assert!(none.code == Some(1) && none.err.contains("there is no upstream `nothing`"), "{none:?}");
    assert_eq!(setup.json(&["queue", "resume"]).await["paused"], false);
    eventually("it has run", || async { setup.json(&["queue"]).await["queue"] == 0 }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reload_says_in_json_too_what_became_of_it() {
    let setup = Setup::start(false).await;
    let told = setup.json(&["reload"]).await;
    assert_eq!(told["result"], "unchanged");
    let file = setup.folder.path().join("arriero.yaml");
    let good = std::fs::read_to_string(&file).expect("a text");
    crate::support::replace(&file, &good.replace("kind: ollama", "kind: olama"));
    let ended = setup.run(&["reload", "--json"]).await;
    let told: serde_json::Value = serde_json::from_str(&ended.out).expect("JSON");
    assert!(ended.code == Some(1) && told["detail"].as_str().is_some_and(|why| why.contains("olama")), "{ended:?}");
    assert!(ended.err.contains("arriero.yaml:") && ended.err.contains("olama"), "{ended:?}");
    let status = setup.run(&["status"]).await;
    assert!(status.out.contains("the file on disk is refused") && status.out.contains("olama"), "{status:?}");
    crate::support::replace(&file, &good);
    assert_eq!(setup.run(&["reload"]).await.code, Some(0));
    let ready = setup.json(&["health"]).await;
    assert_eq!(ready["ready"], true);
}
