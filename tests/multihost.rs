//! The calls below `/api/multihost`: with a cluster over a real Redis, and without one.

mod support;

use std::process::Command;

use serde_json::Value;
use support::admin::{address, json as json_of, order, problem};
use support::fleet::{Small, send, send_with};
use support::process::{arriero, finish};
use support::redis::{Redis, Relay, Way};
use support::wire::{Answer, proxy};
use support::{Proxy, eventually, http_yaml};

/// The commands of the guide for several hosts that operators have.
const GUIDE: &str = include_str!("fixtures/runbook/multihost.sh");

fn yaml(redis: &str, name: &str, server: &str, more: &str) -> String {
    http_yaml(&[server.to_owned()], "", "") + &format!("\ncluster: {{ redis: \"{redis}\", instance: {name} }}\n{more}")
}

async fn call(proxy: &Proxy, method: &str, path: &str) -> Answer {
    send(address(proxy), method, &format!("/api/multihost{path}"), "").await
}

async fn get(proxy: &Proxy, path: &str) -> Value {
    let answer = call(proxy, "GET", path).await;
    assert_eq!(answer.head.status, 200, "{path}: {}", answer.text());
    json_of(&answer)
}

async fn sees(proxy: &Proxy, count: usize) {
    eventually("it sees the instances", || async { get(proxy, "/instances").await["count"] == count }).await;
}

fn linked(proxy: &Proxy) -> bool {
    proxy.running().store.load().lasting.cluster.is_linked()
}

#[tokio::test(flavor = "multi_thread")]
async fn two_instances_are_seen_and_one_of_them_leads() {
    let (redis, server) = (Redis::start().await, Small::named("one").await);
    let a = proxy(yaml(&redis.url(), "a", &server.url(), "")).await;
    let b = proxy(yaml(&redis.url(), "b", &server.url(), "")).await;
    for proxy in [&a, &b] {
        sees(proxy, 2).await;
    }
    let leads =
        |seen: &Value| seen["data"].as_array().expect("a list").iter().filter(|one| one["leader"] == true).count();
    eventually("one leads", || async { leads(&get(&a, "/instances").await) == 1 }).await;
    let seen = get(&a, "/instances").await;
    assert_eq!((&seen["enabled"], &seen["data"][0]["current"]), (&true.into(), &true.into()), "{seen}");
    assert_eq!(seen["currentInstance"], seen["data"][0]["id"]);
    for one in seen["data"].as_array().expect("a list") {
        assert_eq!((&one["status"], &one["sameConfig"]), (&"active".into(), &true.into()), "{one}");
        assert!(one["version"] == arriero::version::VERSION && one["startedAt"].is_string(), "{one}");
    }
    let link = get(&b, "/coordination/health").await["data"].clone();
    assert_eq!(
        (&link["status"], &link["instances"], &link["configurations"]),
        (&"healthy".into(), &2.into(), &1.into())
    );
    assert!(link["redis"].as_str().is_some_and(|at| at.contains(&redis.port.to_string())), "{link}");
    let health = get(&a, "/health").await;
    assert_eq!(
        (&health["data"]["status"], &health["data"]["services"]["coordination"]),
        (&"healthy".into(), &"up".into())
    );
    let board = get(&a, "/monitoring/dashboard").await["data"].clone();
    assert_eq!(board["instances"].as_array().map(Vec::len), Some(2));
    assert_eq!((&board["coordination"]["linked"], &board["servers"]["total"]), (&true.into(), &1.into()), "{board}");
    let speed = get(&a, "/performance/metrics").await["data"]["redis"].clone();
    assert!(speed["calls"]["ok"].as_u64() > Some(0) && speed["comparisonMs"].as_f64() > Some(0.0), "{speed}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_differs_is_found_and_mended() {
    let (redis, server) = (Redis::start().await, Small::named("one").await);
    let relay = Relay::before(redis.address()).await;
    let a = proxy(yaml(&relay.url(), "a", &server.url(), "")).await;
    eventually("linked", || async { linked(&a) }).await;
    let found = |found: &Value| {
        let issues = found["data"]["issues"].as_array().expect("a list");
        issues.iter().map(|one| one["kind"].as_str().expect("a word").to_owned()).collect::<Vec<_>>()
    };
    eventually("all is well", || async { get(&a, "/monitoring/consistency").await["data"]["consistent"] == true })
        .await;
    order(&a, "/queue/pause", "{}").await;
    eventually("told", || async { get(&a, "/coordination/health").await["data"]["decisions"]["inForce"] == 1 }).await;
    // Redis forgets everything, and whoever looks sees what it lacked; or it was mended before.
    let _: String = redis.call(&["FLUSHALL"]).await;
    let first = get(&a, "/monitoring/consistency").await;
    let kinds = found(&first);
    assert!(kinds.iter().any(|kind| kind == "members" || kind == "leader"), "{first}");
    eventually("all is well again", || async {
        get(&a, "/monitoring/consistency").await["data"]["consistent"] == true
    })
    .await;
    let compared = get(&a, "/monitoring/consistency").await["data"]["compared"].clone();
    assert_eq!(compared["decisionsHere"], compared["decisionsInRedis"]);
    assert_eq!(compared["versionHere"], compared["versionInRedis"]);

    // An instance of another configuration.
    let other = Small::named("two").await;
    let b = proxy(yaml(&redis.url(), "b", &other.url(), "")).await;
    sees(&a, 2).await;
    sees(&b, 2).await;
    let differs = get(&a, "/monitoring/consistency").await;
    assert!(found(&differs).contains(&"config".to_owned()), "{differs}");
    assert_eq!((&differs["data"]["consistent"], &differs["data"]["bySeverity"]["high"]), (&false.into(), &1.into()));

    // Without Redis it says so, and recovery brings it back.
    relay.set(Way::Closed);
    eventually("it is alone", || async { !linked(&a) }).await;
    assert!(found(&get(&a, "/monitoring/consistency").await).contains(&"redis".to_owned()));
    let health = get(&a, "/health").await;
    assert_eq!((&health["data"]["status"], &health["data"]["healthy"]), (&"degraded".into(), &true.into()), "{health}");
    let link = get(&a, "/coordination/health").await["data"].clone();
    assert!(link["status"] == "degraded" && link["fault"].is_string(), "{link}");
    let failed = json_of(&call(&a, "POST", "/monitoring/restart/coordination").await);
    assert_eq!(failed["linked"], false, "{failed}");
    relay.set(Way::Open);
    let mended = json_of(&call(&a, "POST", "/monitoring/recovery").await);
    assert!(mended["success"] == true && mended["data"]["enabled"] == true, "{mended}");
    eventually("linked", || async { linked(&a) }).await;
    let before = a.running().store.load().lasting.cluster.links();
    let again = json_of(&call(&a, "POST", "/monitoring/restart/coordination").await);
    assert_eq!(again["linked"], true, "{again}");
    assert!(a.running().store.load().lasting.cluster.links() > before, "another connection");
    let unknown = problem(&call(&a, "POST", "/monitoring/restart/database").await);
    assert!(unknown.0 == 404 && unknown.1.contains("`coordination`"), "{unknown:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_cluster_there_is_one_instance() {
    let server = Small::named("one").await;
    let proxy = proxy(http_yaml(&[server.url()], "", "")).await;
    let seen = get(&proxy, "/instances").await;
    assert_eq!((&seen["enabled"], &seen["count"]), (&false.into(), &1.into()));
    assert_eq!((&seen["data"][0]["current"], &seen["data"][0]["leader"]), (&true.into(), &true.into()));
    let link = get(&proxy, "/coordination/health").await["data"].clone();
    assert_eq!((&link["enabled"], &link["status"], &link["leads"]), (&false.into(), &"disabled".into(), &true.into()));
    let same = get(&proxy, "/monitoring/consistency").await["data"].clone();
    assert_eq!((&same["enabled"], &same["consistent"]), (&false.into(), &true.into()));
    assert!(get(&proxy, "/performance/metrics").await["data"]["redis"].is_null());
    let refused = problem(&call(&proxy, "POST", "/monitoring/restart/coordination").await);
    assert!(refused.0 == 409 && refused.1.contains("`cluster`"), "{refused:?}");
    for path in ["/debug/instance-info", "/debug/refresh-cache"] {
        let method = if path.ends_with("info") { "GET" } else { "POST" };
        let hidden = problem(&call(&proxy, method, path).await);
        assert!(hidden.0 == 404 && hidden.1.contains("debug: allow"), "{hidden:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn health_is_for_everybody_and_changes_need_a_token() {
    let (server, folder) = (Small::named("one").await, tempfile::tempdir().expect("a folder"));
    let file = folder.path().join("token");
    for (name, text) in [("token", "whole"), ("reader", "reads"), ("operator", "acts")] {
        std::fs::write(folder.path().join(name), text).expect("written");
    }
    let named = |name: &str, scope: &str| {
        format!("{{ name: {name}, token_file: \"{}\", scope: {scope} }}", folder.path().join(name).display())
    };
    let admin = format!(
        "\nadmin: {{ address: \"127.0.0.1:0\", without_token: health, token_file: \"{}\", tokens: [{}, {}] }}\n",
        file.display(),
        named("reader", "read"),
        named("operator", "operate")
    );
    let proxy = proxy(http_yaml(&[server.url()], "", "") + &admin).await;
    let ask = async |method: &str, path: &str, token: &str| {
        let fields = if token.is_empty() { String::new() } else { format!("Authorization: Bearer {token}\r\n") };
        send_with(address(&proxy), method, &format!("/api/multihost{path}"), &fields, "").await.head.status
    };
    for path in ["/health/simple", "/health/ping"] {
        assert_eq!(ask("GET", path, "").await, 200, "{path}");
    }
    assert_eq!(ask("GET", "/instances", "").await, 401);
    assert_eq!(ask("GET", "/instances", "reads").await, 200);
    assert_eq!(ask("POST", "/monitoring/recovery", "reads").await, 403);
    assert_eq!(ask("POST", "/monitoring/recovery", "acts").await, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_whose_servers_are_gone_is_not_healthy() {
    let server = Small::named("one").await;
    let more = "health: { active: { interval: 100ms, timeout: 10s, healthy: 1, unhealthy: 1 } }";
    let proxy = proxy(http_yaml(&[server.url()], "", more)).await;
    assert_eq!(call(&proxy, "GET", "/health/simple").await.head.status, 200);
    drop(server);
    eventually("it says so", || async { call(&proxy, "GET", "/health/simple").await.head.status == 503 }).await;
    let health = call(&proxy, "GET", "/health").await;
    assert_eq!((health.head.status, &json_of(&health)["data"]["status"]), (503, &"unhealthy".into()));
    assert_eq!(call(&proxy, "GET", "/health/ping").await.head.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn each_command_of_the_guide_for_several_hosts_works() {
    let (redis, server) = (Redis::start().await, Small::named("one").await);
    let admin = "admin: { address: \"127.0.0.1:0\", debug: allow }\n";
    let proxy = proxy(yaml(&redis.url(), "a", &server.url(), admin)).await;
    eventually("linked", || async { linked(&proxy) }).await;
    let commands: Vec<&str> = GUIDE.lines().filter(|line| line.starts_with("curl ")).collect();
    assert_eq!(commands.len(), 13, "none is passed over");
    for command in commands {
        let filled = command.replace("http://localhost", &format!("http://{}", address(&proxy)));
        let filled = filled.replacen("curl ", "curl -sS -f --max-time 60 ", 1);
        let output = tokio::task::spawn_blocking(move || Command::new("bash").args(["-c", &filled]).output());
        let output = output.await.expect("no panic").expect("a shell");
        assert!(output.status.success(), "`{command}`: {}", String::from_utf8_lossy(&output.stderr));
        let answer: Value =
            serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("`{command}`: {error}"));
        assert!(answer["success"] == true || answer["status"] == "healthy", "`{command}`: {answer}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_line_shows_the_cluster() {
    let (redis, server) = (Redis::start().await, Small::named("one").await);
    let relay = Relay::before(redis.address()).await;
    let a = proxy(yaml(&relay.url(), "a", &server.url(), "")).await;
    eventually("linked", || async { linked(&a) }).await;
    let folder = tempfile::tempdir().expect("a folder");
    let run = async |words: &[&str]| {
        let admin = address(&a).to_string();
        finish(arriero(&[&["cluster"], words, &["--admin", &admin]].concat(), folder.path())).await
    };
    eventually("it leads", || async { run(&["leader"]).await.out.starts_with("a.") }).await;
    let told = run(&[]).await;
    assert!(told.code == Some(0) && told.out.contains("(this one)") && told.out.contains("active"), "{told:?}");
    let told = run(&["link"]).await;
    assert!(told.code == Some(0) && told.out.contains("redis           127.0.0.1:"), "{told:?}");
    assert_eq!(run(&["drift"]).await.out, "everything is the same everywhere\n");
    assert_eq!(run(&["reconnect"]).await.out, "There is another connection to Redis\n");
    let json: Value = serde_json::from_str(&run(&["instances", "--json"]).await.out).expect("JSON");
    assert_eq!(json["count"], 1);
    relay.set(Way::Closed);
    eventually("it is alone", || async { !linked(&a) }).await;
    let told = run(&["link"]).await;
    assert!(told.code == Some(1) && told.err.contains("Redis cannot be used"), "{told:?}");
    assert_eq!(run(&["drift"]).await.code, Some(1));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_kept_of_artifacts_is_seen_and_thrown_away() {
    let origin = Small::start(|got| {
        let mut answer = support::fleet::reply(200, "text/plain", format!("{} {}", got.method, got.path));
        answer.headers_mut().insert("cache-control", "max-age=60".parse().expect("a value"));
        answer
    })
    .await;
    let proxy = proxy(http_yaml(&[origin.url()], "cache: {}", "health: { active: off }")).await;
    let ask = async |path: &str| send_with(proxy.address(), "GET", path, "Host: a.test\r\n", "").await;
    for (path, kept) in [
        ("/artifacts/a1/cache", "/api/artifacts/a1"),
        ("/conversations/c1/artifacts/cache", "/api/conversations/c1/artifacts"),
    ] {
        assert_eq!(call(&proxy, "GET", path).await.head.status, 404, "{path}");
        assert_eq!(ask(kept).await.head.status, 200);
        assert_eq!(ask("/api/artifacts/other").await.head.status, 200);
        for all in ["/monitoring/dashboard", "/performance/metrics"] {
            let figures = get(&proxy, all).await["data"]["caches"][0].clone();
            assert_eq!((&figures["route"], &figures["kind"]), (&"all".into(), &"answers".into()), "{all}: {figures}");
            assert!(figures["entries"].as_u64() > Some(0) && figures["misses"].as_u64() > Some(0), "{all}: {figures}");
        }
        let seen = get(&proxy, path).await;
        assert_eq!(seen["count"], 1, "{seen}");
        assert!(seen["data"][0]["uri"].as_str().is_some_and(|uri| uri.ends_with(kept)), "{seen}");
        let forgotten = json_of(&call(&proxy, "DELETE", path).await);
        assert_eq!(forgotten["purged"], 1, "{forgotten}");
        assert_eq!(call(&proxy, "GET", path).await.head.status, 404, "{path}");
        assert_eq!(
            ask("/api/artifacts/other").await.head.field("cache-status").map(|text| &text[..12]),
            Some("arriero; hit")
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_kept_of_artifacts_is_thrown_away_at_all_instances() {
    let redis = Redis::start().await;
    let origin = Small::start(|_| {
        let mut answer = support::fleet::reply(200, "text/plain", "text");
        answer.headers_mut().insert("cache-control", "max-age=60".parse().expect("a value"));
        answer
    })
    .await;
    let mut proxies = Vec::new();
    for name in ["a", "b"] {
        let cluster = format!("\ncluster: {{ redis: \"{}\", instance: {name} }}\n", redis.url());
        let yaml = http_yaml(&[origin.url()], "cache: {}", "health: { active: off }") + &cluster;
        proxies.push(proxy(yaml).await);
    }
    for proxy in &proxies {
        eventually("answers are shared", || async {
            let snapshot = proxy.running().store.load();
            let cache = snapshot.routes[0].cache.as_ref().expect("a cache");
            cache.store.share().expect("a share").is_linked()
        })
        .await;
    }
    let is_hit = async |proxy: &Proxy, path: &str| {
        let answer = send_with(proxy.address(), "GET", path, "Host: a.test\r\n", "").await;
        answer.head.field("cache-status").is_some_and(|text| text.starts_with("arriero; hit"))
    };
    let other = "/api/artifacts/other";
    for (path, kept) in [
        ("/artifacts/a1/cache", "/api/artifacts/a1"),
        ("/conversations/c1/artifacts/cache", "/api/conversations/c1/artifacts/a2"),
    ] {
        for kept in [kept, other] {
            is_hit(&proxies[0], kept).await;
            assert!(is_hit(&proxies[0], kept).await, "{kept}");
        }
        // Nothing of it is in the memory of the one that is told to throw it away.
        let forgotten = json_of(&call(&proxies[1], "DELETE", path).await);
        assert_eq!(forgotten["purged"], 0, "{forgotten}");
        eventually("the other one hears of it", || async { call(&proxies[0], "GET", path).await.head.status == 404 })
            .await;
        // Nor does it come back from Redis.
        let asked = || origin.got().iter().filter(|got| got.path == kept).count();
        let before = asked();
        assert!(!is_hit(&proxies[1], kept).await && asked() == before + 1, "{kept}");
        assert!(is_hit(&proxies[0], other).await, "another one stays");
    }
}
