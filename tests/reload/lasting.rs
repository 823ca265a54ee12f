//! What a reload must not touch: streams in flight, what is known about servers, connections to them.

use std::collections::BTreeSet;

use arriero::demo::{Host, HostConfig, RawUpstream, Script, Step};

use crate::support::fleet::{Small, circuit_is, of_server, request, send};
use crate::support::wire::{Chunk, H1, get, proxy};
use crate::support::{PATIENCE, Proxy, eventually, http_yaml, ollama_yaml};
use crate::{Load, admin_of, config_health, goes_to, reloads};

/// Puts a text in force and waits for it.
async fn apply(proxy: &Proxy, yaml: &str) {
    let before = reloads(proxy, "applied").await;
    proxy.rewrite(yaml);
    eventually("applied", || async { reloads(proxy, "applied").await > before }).await;
    assert_eq!(config_health(admin_of(proxy)).await["in_force"], true);
}

/// Another route and other numbers, none of which are about the servers of `fleet`.
fn unrelated(yaml: &str, number: usize) -> String {
    yaml.replace(
        "upstreams:\n",
        &format!("  - {{ name: other-{number}, upstream: fleet, match: {{ path: /other/ }} }}\nupstreams:\n"),
    ) + &format!("\ndefaults: {{ timeouts: {{ read: {}s }} }}\n", 200 + number)
}

#[tokio::test]
async fn streams_in_flight_finish_on_the_configuration_that_they_began_with() {
    let head = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\none\r\n";
    let steps =
        vec![Step::ReadRequest, Step::Write(head.into()), Step::Gate, Step::Write("3\r\ntwo\r\n0\r\n\r\n".into())];
    let old = RawUpstream::start(Script::new(steps)).await.expect("a server");
    let new = Small::named("new").await;
    let proxy = proxy(http_yaml(&[old.url()], "timeouts: { read: 1h }", "")).await;
    old.gate().close();
    let mut streams = Vec::new();
    for _ in 0..8 {
        let mut client = H1::connect(proxy.address()).await;
        client.send(get("/stream")).await;
        assert_eq!(client.reader.head().await.status, 200);
        assert_eq!(client.reader.chunk().await, Chunk::Data(b"one".to_vec()));
        streams.push(client);
    }
    // Their route, their upstream and their server are gone.
    let other = http_yaml(&[new.url()], "", "").replace("fleet", "web").replace("name: all", "name: others");
    apply(&proxy, &other).await;
    goes_to(proxy.address(), "new").await;
    apply(&proxy, &format!("{other}\n# once more\n")).await;
    old.gate().open();
    for mut client in streams {
        assert_eq!(client.reader.chunk().await, Chunk::Data(b"two".to_vec()));
        assert_eq!(client.reader.chunk().await, Chunk::End);
    }
}

#[tokio::test]
async fn a_request_that_waits_for_its_first_token_finishes_although_its_model_server_was_removed() {
    let host = Host::start(HostConfig::new("old").small_model("llava").tokens(5)).await.expect("a host");
    let new = Small::named("new").await;
    let proxy = proxy(ollama_yaml(&[host.url()], "")).await;
    host.token_gate().close();
    let mut client = H1::connect(proxy.address()).await;
    client.send(request("POST", "/api/generate", "", r#"{"model":"llava","prompt":"x"}"#)).await;
    let begun = host.ledger();
    begun.wait_until(PATIENCE, |ledger| ledger.inference().iter().any(|entry| entry.slot_at.is_some())).await.unwrap();
    apply(&proxy, &http_yaml(&[new.url()], "", "")).await;
    goes_to(proxy.address(), "new").await;
    host.token_gate().open();
    let answer = client.reader.answer().await;
    assert!(answer.head.status == 200 && answer.whole, "{}", answer.text());
    assert!(answer.text().contains("\"done\":true"), "{}", answer.text());
    assert_eq!(begun.inference().len(), 1, "it was not sent again");
}

#[tokio::test]
async fn requests_in_flight_are_still_counted_after_a_reload() {
    let host = Host::start(HostConfig::new("a").small_model("llava").parallel(4)).await.expect("a host");
    let yaml = ollama_yaml(&[host.url()], "");
    let proxy = proxy(yaml.as_str()).await;
    host.token_gate().close();
    let mut clients = Vec::new();
    for _ in 0..3 {
        let mut client = H1::connect(proxy.address()).await;
        client.send(request("POST", "/api/generate", "", r#"{"model":"llava","prompt":"x"}"#)).await;
        clients.push(client);
    }
    let counted = || of_server(&proxy, "arriero_server_in_flight", host.address(), "");
    eventually("three are counted", || async { counted().await == 3.0 }).await;
    for number in 0..3 {
        apply(&proxy, &unrelated(&yaml, number)).await;
        assert_eq!(counted().await, 3.0);
    }
    host.token_gate().open();
    for mut client in clients {
        assert_eq!(client.reader.answer().await.head.status, 200);
    }
    eventually("none is counted", || async { counted().await == 0.0 }).await;
}

#[tokio::test]
async fn an_open_circuit_stays_open_through_reloads_and_other_numbers_hold_at_once() {
    let (dead, alive) =
        (Host::start(HostConfig::new("dead")).await.unwrap(), Host::start(HostConfig::new("alive")).await.unwrap());
    dead.stop_listening().await;
    let circuit = "circuit: { consecutive_failures: 2, open_for: 1h, max_open_for: 2h }";
    let yaml = http_yaml(&[dead.url(), alive.url()], "", circuit);
    let proxy = proxy(yaml.as_str()).await;
    eventually("the circuit opens", || async {
        assert_eq!(send(proxy.address(), "GET", "/api/version", "").await.head.status, 200);
        circuit_is(&proxy, &dead, "open").await
    })
    .await;
    for number in 0..3 {
        apply(&proxy, &unrelated(&yaml, number)).await;
        assert!(circuit_is(&proxy, &dead, "open").await);
        assert!(circuit_is(&proxy, &alive, "closed").await);
    }
    // A server that stays takes the new numbers, and what was learned about it with them.
    alive.kill().await;
    apply(&proxy, &yaml.replace("consecutive_failures: 2", "consecutive_failures: 1")).await;
    assert!(circuit_is(&proxy, &dead, "open").await);
    assert!(send(proxy.address(), "GET", "/api/version", "").await.head.status >= 500);
    eventually("one failure is enough now", || async { circuit_is(&proxy, &alive, "open").await }).await;
}

#[tokio::test]
async fn idle_connections_to_a_server_outlive_a_reload() {
    let host = Host::start(HostConfig::new("a")).await.expect("a host");
    let yaml = http_yaml(&[host.url()], "", "");
    let proxy = proxy(yaml.as_str()).await;
    let used = || host.ledger().entries().iter().map(|entry| entry.connection).collect::<BTreeSet<_>>();
    let asked = || async {
        let answer = send(proxy.address(), "GET", "/api/version", "").await;
        assert_eq!(answer.head.status, 200);
    };
    asked().await;
    let before = used();
    for number in 0..5 {
        apply(&proxy, &unrelated(&yaml, number)).await;
        asked().await;
        assert_eq!(used(), before, "after reload {number}");
    }
}

#[tokio::test]
async fn a_hundred_edits_under_load_fail_no_request_and_the_last_one_is_in_force() {
    let (a, b, last) = (Small::named("a").await, Small::named("b").await, Small::named("last").await);
    let proxy = proxy(http_yaml(&[a.url()], "", "")).await;
    let load = Load::start(proxy.address(), 6, &["a", "b", "last"]);
    for number in 0..100 {
        let server = [&b, &a][number % 2];
        let text = format!("# edit {number}\n{}", http_yaml(&[server.url()], "", ""));
        // Some edits come into force one by one, some follow each other too fast for that.
        if number % 4 == 0 {
            apply(&proxy, &text).await;
        } else {
            proxy.rewrite(&text);
            load.more(4).await;
        }
    }
    proxy.rewrite(&http_yaml(&[last.url()], "", ""));
    goes_to(proxy.address(), "last").await;
    load.more(20).await;
    load.stop().await;
    let health = config_health(admin_of(&proxy)).await;
    assert!(health["in_force"] == true && health["error"].is_null(), "{health}");
    assert_eq!(reloads(&proxy, "refused").await, 0.0);
    assert!(reloads(&proxy, "applied").await >= 25.0, "many edits came into force meanwhile");
}
