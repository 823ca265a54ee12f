//! A start without a file, as a user meets it: servers, the rule and the port come from the command line or the environment.

mod support;

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};

use arriero::config::{Config, parse};
use arriero::demo::{Fleet, Host};
use serde_json::Value;
use support::edge::inference;
use support::eventually;
use support::fleet::{fleet, generate, request, send};
use support::process::{Program, arriero, finish};
use support::wire::{Answer, H1};
use tokio::net::TcpSocket;

const MODEL: &str = "llama3.2:3b";
/// Ports of their own, so that tests can run beside each other.
const FREE: [&str; 5] = ["run", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"];

fn folder() -> tempfile::TempDir {
    tempfile::tempdir().expect("a folder")
}

fn addresses(fleet: &Fleet) -> String {
    fleet.hosts.iter().map(|host| host.address().to_string()).collect::<Vec<_>>().join(",")
}

/// The program before a fleet, by these variables, once it knows where the model is.
async fn before(fleet: &Fleet, variables: &[(&str, &str)], arguments: &[&str]) -> (Program, tempfile::TempDir) {
    let folder = folder();
    let mut command = arriero(arguments, folder.path());
    command.env("OLLAMA_HOSTS", addresses(fleet)).envs(variables.iter().copied());
    let program = Program::serving(command).await;
    eventually("every server has told its models", || async {
        let text = send(program.admin(), "GET", "/metrics", "").await.text();
        text.lines()
            .filter(|line| line.starts_with("arriero_server_models{") && line.ends_with("in=\"disk\"} 1"))
            .count()
            == fleet.hosts.len()
    })
    .await;
    (program, folder)
}

/// A request for text of a client that has this address.
async fn asked_by(client: Ipv4Addr, address: SocketAddr) -> Answer {
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.bind((client, 0).into()).expect("an address of this machine");
    let mut connection = H1::over(socket.connect(address).await.expect("connected"));
    connection.send(request("POST", "/api/generate", "", generate(MODEL))).await;
    let answer = connection.reader.answer().await;
    assert_eq!(answer.head.status, 200, "{}", answer.text());
    answer
}

/// How many requests for text each host began.
fn counts(fleet: &Fleet) -> Vec<usize> {
    fleet.hosts.iter().map(inference).collect()
}

#[tokio::test]
async fn round_robin_gives_each_server_its_turn() {
    let fleet = fleet(3, &[MODEL]).await;
    let (program, _folder) = before(&fleet, &[("OLLAMA_LOAD_BALANCER", "round-robin")], &FREE).await;
    for _ in 0..12 {
        asked_by(Ipv4Addr::LOCALHOST, program.address()).await;
    }
    assert_eq!(counts(&fleet), [4, 4, 4]);
}

#[tokio::test]
async fn ip_hash_keeps_a_client_on_its_server_and_spreads_the_clients() {
    let fleet = fleet(3, &[MODEL]).await;
    let (program, _folder) = before(&fleet, &[("OLLAMA_LOAD_BALANCER", "ip-hash")], &FREE).await;
    let mut used = vec![0; fleet.hosts.len()];
    for client in 1..=24 {
        let before = counts(&fleet);
        for _ in 0..3 {
            asked_by(Ipv4Addr::new(127, 0, 0, client), program.address()).await;
        }
        let grown: Vec<usize> = counts(&fleet).iter().zip(&before).map(|(now, before)| now - before).collect();
        let server = grown.iter().position(|count| *count == 3).unwrap_or_else(|| panic!("client {client}: {grown:?}"));
        used[server] += 1;
    }
    assert!(used.iter().all(|clients| *clients > 0), "{used:?}");
}

#[tokio::test]
async fn least_conn_takes_the_server_with_the_fewest_requests() {
    let fleet = fleet(2, &[MODEL]).await;
    let (program, _folder) = before(&fleet, &[("OLLAMA_LOAD_BALANCER", "least-conn")], &FREE).await;
    fleet.hosts.iter().for_each(|host| host.token_gate().close());
    let total = || counts(&fleet).iter().sum::<usize>();
    let mut held = Vec::new();
    for count in 1..=2 {
        let mut client = H1::connect(program.address()).await;
        client.send(request("POST", "/api/generate", "", generate(MODEL))).await;
        held.push(client);
        eventually("the request has reached a server", || async { total() == count }).await;
    }
    assert_eq!(counts(&fleet), [1, 1]);
    // One of them has nothing to do: every turn is its own.
    let (busy, idle): (&Host, &Host) = (&fleet.hosts[0], &fleet.hosts[1]);
    idle.token_gate().open();
    eventually("one request is left", || async {
        let answer = send(program.admin(), "GET", "/api/orchestrator/in-flight", "").await;
        let list: Value = serde_json::from_slice(&answer.body).expect("JSON");
        list["total"] == 1
    })
    .await;
    for _ in 0..5 {
        asked_by(Ipv4Addr::LOCALHOST, program.address()).await;
    }
    assert_eq!((inference(busy), inference(idle)), (1, 6));
    busy.token_gate().open();
    for mut client in held {
        assert_eq!(client.reader.answer().await.head.status, 200);
    }
}

#[tokio::test]
async fn a_port_is_listened_on_for_everybody() {
    let fleet = fleet(1, &[MODEL]).await;
    let (program, _folder) = before(&fleet, &[("PORT", "0")], &["run", "--admin", "127.0.0.1:0"]).await;
    let address = program.address();
    assert!(address.ip().is_unspecified() && address.port() != 0, "{address}");
    // Every address of the loopback network is one of "all interfaces".
    let other = SocketAddr::from((Ipv4Addr::new(127, 0, 0, 9), address.port()));
    assert_eq!(send(other, "GET", "/api/tags", "").await.head.status, 200);
    // With servers from the command line as well.
    let url = fleet.hosts[0].url();
    let folder = folder();
    let mut command = arriero(&["run", "--admin", "127.0.0.1:0", "--upstream", &url], folder.path());
    command.env("PORT", "0");
    let program = Program::serving(command).await;
    assert!(program.address().ip().is_unspecified(), "{}", program.address());
}

#[tokio::test]
async fn what_cannot_be_understood_ends_the_start_with_the_name_of_the_variable() {
    let folder = folder();
    for (variable, value, words) in [
        ("OLLAMA_LOAD_BALANCER", "fastest", &["fastest", "round-robin", "least-conn", "ip-hash"][..]),
        ("PORT", "eighty", &["eighty", "65535"]),
        ("OLLAMA_HOSTS", "gpu-1,ftp://gpu-2", &["server 2"]),
    ] {
        for arguments in [&FREE[..1], &["init", "--from-env", "-o", "-"]] {
            let mut command = arriero(arguments, folder.path());
            command.env("OLLAMA_HOST", "127.0.0.1").env(variable, value);
            let ended = finish(command).await;
            assert_eq!((ended.code, ended.out.as_str()), (Some(1), ""), "{ended:?}");
            for word in words.iter().chain(&[variable]) {
                assert!(ended.err.contains(word), "`{word}`: {}", ended.err);
            }
        }
    }
    let ended = finish(arriero(&["init", "--from-env"], folder.path())).await;
    assert!(ended.code == Some(1) && ended.err.contains("OLLAMA_HOSTS"), "{ended:?}");
    assert!(!folder.path().join("arriero.yaml").exists());
}

fn config(text: &str) -> Config {
    parse("test", text, &|_| None).unwrap_or_else(|problems| panic!("{}\n{text}", problems.render(false))).config
}

#[tokio::test]
async fn what_is_written_down_is_what_runs_without_a_file() {
    let fleet = fleet(2, &[MODEL]).await;
    let variables = [("OLLAMA_LOAD_BALANCER", "ip-hash"), ("PORT", "0")];
    let (program, here) = before(&fleet, &variables, &["run", "--admin", "127.0.0.1:0"]).await;
    let answer = send(program.admin(), "GET", "/api/orchestrator/config?effective=true", "").await;
    let running: Value = serde_json::from_slice(&answer.body).expect("JSON");

    let mut command = arriero(&["init", "--from-env"], here.path());
    command.env("OLLAMA_HOSTS", addresses(&fleet)).envs(variables);
    let ended = finish(command).await;
    assert_eq!(ended.code, Some(0), "{ended:?}");
    let text = fs::read_to_string(here.path().join("arriero.yaml")).expect("a file");
    assert!(text.contains("# ") && text.contains("OLLAMA_LOAD_BALANCER=ip-hash"), "{text}");
    let checked = finish(arriero(&["check", "--strict"], here.path())).await;
    assert_eq!(checked.code, Some(0), "{checked:?}");
    // The admin listener is where the test put it; all else is equal.
    let mut written = serde_json::to_value(config(&text)).expect("JSON");
    written["admin"]["address"] = Value::from("127.0.0.1:0");
    assert_eq!(running["config"], written);

    // Now the file is read, and what is not is told.
    let file = here.path().join("arriero.yaml");
    fs::write(&file, format!("{text}\nadmin: {{ address: \"127.0.0.1:0\" }}\n")).expect("written");
    let mut command = arriero(&["run"], here.path());
    command.env("OLLAMA_HOSTS", "127.0.0.1:9");
    let program = Program::serving(command).await;
    assert!(
        program.err.has("note: OLLAMA_HOSTS is not read") && program.err.has("arriero.yaml"),
        "{}",
        program.err.text()
    );
    let listed = send(program.address(), "GET", "/api/tags", "").await;
    assert!(listed.text().contains(MODEL), "{}", listed.text());
    // An address on the command line would be lost.
    let ended = finish(arriero(&FREE, here.path())).await;
    assert!(ended.code == Some(1) && ended.err.contains("`--listen`"), "{ended:?}");
}

#[tokio::test]
async fn a_taken_port_is_told_with_the_option_that_helps() {
    let holder = TcpListener::bind("127.0.0.1:0").expect("a socket");
    let taken = holder.local_addr().expect("an address").to_string();
    let folder = folder();
    for verb in [&["demo"][..], &["run", "--upstream", "http://127.0.0.1:9"]] {
        for (option, other) in [("--admin", "--listen"), ("--listen", "--admin")] {
            let arguments = [verb, &[option, &taken, other, "127.0.0.1:0"]].concat();
            let ended = finish(arriero(&arguments, folder.path())).await;
            assert_eq!(ended.code, Some(1), "{ended:?}");
            let hint = format!("`{option} 127.0.0.1:0`");
            assert!(ended.err.contains(&taken) && ended.err.contains(&hint), "{arguments:?}: {}", ended.err);
        }
    }
}
