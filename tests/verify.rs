//! `arriero verify`: a deployment that is as declared, and each way in which its container may not be.

mod support;

use std::fs;
use std::path::Path;

use arriero::demo::{Host, HostConfig};
use serde_json::{Value, json};
use support::docker::{Container, Engine};
use support::process::{Ended, arriero, complete, finish};
use support::wire::proxy;

fn yaml(url: &str, more: &str) -> String {
    format!(
        "routes: [{{ name: all, upstream: fleet }}]\nupstreams:\n  fleet:\n    kind: ollama\n    servers: [{{ name: s0, url: \"{url}\" }}]\n\
         {more}"
    )
}

/// `arriero verify` on a file, a process and an engine with these containers.
async fn verify(file: &Path, admin: &str, containers: Vec<Container>, more: &[&str]) -> Ended {
    let engine = Engine::start(containers);
    let (file, socket) = (file.to_str().expect("text"), engine.socket().to_str().expect("text"));
    let arguments = [&["verify", "-c", file, "--admin", admin, "--docker-socket", socket], more].concat();
    let ended = finish(arriero(&arguments, Path::new("/"))).await;
    assert!(engine.asked().iter().all(|asked| asked.starts_with("GET ")), "{:?}", engine.asked());
    ended
}

fn own() -> Container {
    Container::new(2, "arriero", "arriero:latest")
}

fn checks(ended: &Ended) -> Vec<(String, String, Value)> {
    let document: Value = serde_json::from_str(&ended.out).unwrap_or_else(|error| panic!("{error}: {ended:?}"));
    assert_eq!(document["verified"], ended.code == Some(0), "{document:#}");
    let text = |value: &Value| value.as_str().expect("text").to_owned();
    let list = document["checks"].as_array().expect("a list");
    list.iter().map(|one| (text(&one["check"]), text(&one["outcome"]), one["findings"].clone())).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deployment_as_it_was_declared_passes() {
    let host = Host::start(HostConfig::new("a").small_model("m")).await.expect("a host");
    let proxy = proxy(yaml(&host.url(), "")).await;
    let admin = proxy.running().admin.to_string().trim_start_matches("http://").to_owned();
    let ended = verify(&proxy.file, &admin, vec![own()], &["--json"]).await;
    let asked = checks(&ended);
    assert!(asked.iter().all(|(_, outcome, _)| outcome == "passed"), "{asked:#?}");
    let names: Vec<&str> = asked.iter().map(|(name, ..)| name.as_str()).collect();
    for name in ["configuration valid", "process running", "ready for requests", "restart policy", "admin port closed"]
    {
        assert!(names.contains(&name), "no `{name}`: {names:?}");
    }
    let text = verify(&proxy.file, &admin, vec![own()], &[]).await;
    assert!(
        text.out.contains("restart policy: yes") && text.out.contains("the deployment is as declared"),
        "{}",
        text.out
    );
    // Without a container of Arriero that part is left out.
    let without = verify(&proxy.file, &admin, Vec::new(), &["--json"]).await;
    let asked = checks(&without);
    assert_eq!(without.code, Some(0), "{asked:#?}");
    assert!(
        asked.iter().any(|(name, outcome, _)| name == "container of Arriero" && outcome == "skipped"),
        "{asked:#?}"
    );
    let named =
        verify(&proxy.file, &admin, vec![Container::new(3, "other", "x")], &["--json", "--container", "other"]).await;
    assert_eq!(named.code, Some(0), "{named:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn each_way_in_which_a_container_is_not_as_declared_is_told() {
    let host = Host::start(HostConfig::new("a").small_model("m")).await.expect("a host");
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("arriero.yaml");
    let more = format!(
        "listeners: [{{ address: \"0.0.0.0:8080\" }}]\nadmin: {{ address: \"127.0.0.1:5100\" }}\nserver: {{ data_dir: \"{}\" }}\n",
        folder.path().display()
    );
    fs::write(&file, complete(&yaml(&host.url(), &more))).expect("written");
    // Nobody runs: the declaration can be asked all the same.
    let nobody = format!("unix:{}", folder.path().join("nobody.sock").display());
    let good = || {
        let mounts = json!([
            { "Type": "bind", "Source": "/srv", "Destination": "/etc/arriero" },
            { "Type": "volume", "Source": "/var/lib/docker/volumes/d/_data", "Destination": folder.path() },
        ]);
        own().publish(8080, "0.0.0.0", 80).publish(5100, "127.0.0.1", 5100).with("/Mounts", mounts)
    };
    let cases = [
        ("restart policy", "restart_policy", good().with("/HostConfig/RestartPolicy/Name", json!("no"))),
        ("health check", "healthcheck_missing", good().with("/Config/Healthcheck", Value::Null)),
        ("health check", "healthcheck_missing", good().with("/Config/Healthcheck/Test", json!(["NONE"]))),
        ("log rotation", "logs_unbounded", good().with("/HostConfig/LogConfig/Config", json!({}))),
        ("admin port closed", "admin_published", good().publish(5100, "0.0.0.0", 5100)),
        ("admin port closed", "admin_published", good().publish(5100, "", 5100)),
        ("ports published", "port_not_published", good().with("/NetworkSettings/Ports", json!({ "8080/tcp": null }))),
        ("time to stop", "stop_grace_short", good().with("/Config/StopTimeout", Value::Null)),
        ("data on a volume", "data_not_kept", good().with("/Mounts", json!([]))),
        (
            "configuration mounted as a folder",
            "config_mounted_as_file",
            good().with("/Mounts/0/Destination", json!("/etc/arriero/arriero.yaml")),
        ),
        (
            "container running and healthy",
            "container_unhealthy",
            good().with("/State/Health/Status", json!("unhealthy")),
        ),
    ];
    let wrong = |asked: &[(String, String, Value)]| {
        let failed = asked.iter().filter(|(_, outcome, _)| outcome == "failed");
        failed
            .map(|(name, _, found)| (name.clone(), found[0]["code"].as_str().unwrap_or_default().to_owned()))
            .collect::<Vec<_>>()
    };
    let running = ("process running".to_owned(), "not_running".to_owned());
    let asked = checks(&verify(&file, &nobody, vec![good()], &["--json"]).await);
    assert_eq!(wrong(&asked), std::slice::from_ref(&running), "{asked:#?}");
    for (check, code, container) in cases {
        let ended = verify(&file, &nobody, vec![container], &["--json"]).await;
        assert_eq!(ended.code, Some(1));
        let asked = checks(&ended);
        assert_eq!(wrong(&asked), [running.clone(), (check.to_owned(), code.to_owned())], "{asked:#?}");
    }
    let unlimited = verify(&file, &nobody, vec![good().with("/HostConfig/Memory", json!(0))], &["--json"]).await;
    let note = checks(&unlimited).into_iter().find(|(name, ..)| name == "memory limit").expect("asked");
    assert_eq!((note.1.as_str(), &note.2[0]["severity"]), ("passed", &json!("note")));
    let text = verify(&file, &nobody, vec![good().with("/Config/StopTimeout", json!(10))], &[]).await;
    assert!(text.out.contains("time to stop: NO") && text.out.contains("stop_grace_period: 310s"), "{}", text.out);
}
