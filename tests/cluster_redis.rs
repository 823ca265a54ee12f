//! What may stand at the addresses of `cluster.redis`: behind TLS, a password, sentinels, or several nodes.

mod support;

use std::sync::Arc;
use std::time::Duration;

use arriero::fleet::cluster::{ClusterState, View};
use support::authority::Authority;
use support::fleet::{Small, send};
use support::redis::{Redis, free_port};
use support::wire::proxy;
use support::{Proxy, eventually, http_yaml};

async fn instance(server: &Small, cluster: &str) -> Proxy {
    proxy(http_yaml(&[server.url()], "", "") + &format!("\ncluster: {{ {cluster} }}\n")).await
}

fn state(proxy: &Proxy) -> Arc<ClusterState> {
    Arc::clone(&proxy.running().store.load().lasting.cluster)
}

fn view(proxy: &Proxy) -> Arc<View> {
    state(proxy).view()
}

async fn linked(proxy: &Proxy, at: u16) {
    let at = format!("127.0.0.1:{at}");
    eventually(&format!("linked at {at}"), || async {
        state(proxy).is_linked() && view(proxy).redis.as_deref() == Some(at.as_str())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_password_of_a_file_is_used_and_a_wrong_one_is_told() {
    let mut redis = Redis::with(&["--requirepass", "open sesame"]).await;
    redis.password = Some("open%20sesame".to_owned());
    let server = Small::named("one").await;
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("password");
    std::fs::write(&file, "wrong\n").expect("written");
    let (url, path) = (redis.url(), file.display().to_string());
    let proxy = instance(&server, &format!("redis: \"{url}\", password_file: {path}")).await;
    eventually("a wrong password is told", || async {
        view(&proxy).fault.as_ref().is_some_and(|fault| fault.contains("WRONGPASS") || fault.contains("password"))
    })
    .await;
    assert!(!view(&proxy).fault.as_ref().is_some_and(|fault| fault.contains("wrong\n")));
    assert_eq!(send(proxy.address(), "GET", "/", "").await.head.status, 200);
    // The file is read for each connection: nothing need be restarted.
    std::fs::write(&file, "open sesame\n").expect("written");
    linked(&proxy, redis.port).await;
    let _: String = redis.call(&["ACL", "SETUSER", "front", "on", ">other", "~arriero:*", "&arriero:*", "+@all"]).await;
    std::fs::write(&file, "other").expect("written");
    let second = instance(&server, &format!("redis: \"{url}\", username: front, password_file: {path}")).await;
    linked(&second, redis.port).await;
    eventually("both", || async { view(&second).members.len() == 2 }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn redis_behind_tls_is_checked_by_the_authority() {
    let folder = tempfile::tempdir().expect("a folder");
    let authority = Authority::new("cluster");
    authority.issue(&["redis.test"]).write(folder.path(), "server");
    let path = |name: &str| folder.path().join(name).display().to_string();
    std::fs::write(path("ca.pem"), authority.pem()).expect("written");
    std::fs::write(path("other.pem"), Authority::new("other").pem()).expect("written");
    let port = free_port();
    let tls_port = port.to_string();
    let (cert, key, ca) = (path("server.pem"), path("server.key"), path("ca.pem"));
    let arguments = ["--tls-port", &tls_port, "--tls-cert-file", &cert, "--tls-key-file", &key];
    let _redis =
        Redis::with(&[&arguments[..], &["--tls-ca-cert-file", &ca, "--tls-auth-clients", "no"]].concat()).await;
    let server = Small::named("one").await;
    let cluster =
        |ca: &str| format!("redis: \"rediss://127.0.0.1:{port}\", tls: {{ ca: {ca}, server_name: redis.test }}");
    let good = instance(&server, &cluster(&ca)).await;
    linked(&good, port).await;
    let bad = instance(&server, &cluster(&path("other.pem"))).await;
    eventually("an unknown authority is told", || async {
        view(&bad).fault.as_ref().is_some_and(|fault| fault.contains("certificate"))
    })
    .await;
    assert!(!state(&bad).is_linked());
}

#[tokio::test(flavor = "multi_thread")]
async fn sentinels_lead_to_the_primary_and_after_a_failover_to_the_next() {
    let mut primary = Redis::start().await;
    let replica = Redis::with(&["--replicaof", "127.0.0.1", &primary.port.to_string()]).await;
    let sentinel = primary.sentinel().await;
    eventually("the replica is in step", || async {
        replica.call::<String>(&["INFO", "replication"]).await.contains("master_link_status:up")
            && sentinel.call::<String>(&["INFO", "sentinel"]).await.contains("slaves=1")
    })
    .await;
    let server = Small::named("one").await;
    let proxy = instance(&server, &format!("mode: sentinel, master: primary, redis: \"{}\"", sentinel.url())).await;
    linked(&proxy, primary.port).await;
    let token = view(&proxy).leader.as_ref().map(|leader| leader.token);
    primary.kill();
    eventually("noticed", || async { !state(&proxy).is_linked() }).await;
    assert_eq!(send(proxy.address(), "GET", "/", "").await.head.status, 200);
    eventually("the replica is primary", || async {
        // It closes connections as it becomes one.
        replica.try_call::<String>(&["INFO", "replication"]).await.is_ok_and(|info| info.contains("role:master"))
    })
    .await;
    let since = arriero::clock::now();
    linked(&proxy, replica.port).await;
    assert!(since.elapsed() < Duration::from_secs(5), "{:?}", since.elapsed());
    eventually("it leads", || async { state(&proxy).leads(arriero::clock::now()) }).await;
    assert!(view(&proxy).leader.as_ref().map(|leader| leader.token) >= token);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sentinel_that_knows_no_such_primary_says_so() {
    let primary = Redis::start().await;
    let sentinel = primary.sentinel().await;
    let server = Small::named("one").await;
    let proxy = instance(&server, &format!("mode: sentinel, master: other, redis: \"{}\"", sentinel.url())).await;
    eventually("told", || async {
        view(&proxy).fault.as_ref().is_some_and(|fault| fault.contains("no primary of the name `other`"))
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_a_redis_cluster_the_node_with_our_keys_is_found() {
    let mut nodes = Vec::new();
    for _ in 0..3 {
        nodes.push(Redis::with(&["--cluster-enabled", "yes"]).await);
    }
    for (node, range) in nodes.iter().zip([["0", "5460"], ["5461", "10922"], ["10923", "16383"]]) {
        let _: String = node.call(&["CLUSTER", "ADDSLOTSRANGE", range[0], range[1]]).await;
    }
    for node in &nodes[1..] {
        let _: String = nodes[0].call(&["CLUSTER", "MEET", "127.0.0.1", &node.port.to_string()]).await;
    }
    for node in &nodes {
        eventually("the cluster is whole", || async {
            let info: String = node.call(&["CLUSTER", "INFO"]).await;
            info.contains("cluster_state:ok") && info.contains("cluster_known_nodes:3")
        })
        .await;
    }
    let slot: u32 = nodes[0].call(&["CLUSTER", "KEYSLOT", "arriero:1:{arriero}:members"]).await;
    let holder = nodes[(slot / 5461) as usize % 3].port;
    let server = Small::named("one").await;
    let mut proxies = Vec::new();
    for node in &nodes {
        let cluster = format!("mode: cluster, instance: n{}, redis: [\"{}\"]", node.port, node.url());
        proxies.push(instance(&server, &cluster).await);
    }
    for proxy in &proxies {
        linked(proxy, holder).await;
        eventually("three", || async { view(proxy).members.len() == 3 }).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn of_several_the_first_that_answers_is_taken_and_a_reload_may_name_others() {
    let (one, two) = (Redis::start().await, Redis::start().await);
    let server = Small::named("one").await;
    let nobody = free_port();
    let proxy = instance(&server, &format!("redis: [\"redis://127.0.0.1:{nobody}\", \"{}\"]", one.url())).await;
    linked(&proxy, one.port).await;
    let other = http_yaml(&[server.url()], "", "") + &format!("\ncluster: {{ redis: \"{}\" }}\n", two.url());
    proxy.rewrite(&other);
    linked(&proxy, two.port).await;
    let members = async || one.call::<u32>(&["ZCARD", "arriero:1:{arriero}:members"]).await;
    eventually("it left where it was", || async { members().await == 0 }).await;
    proxy.rewrite(&http_yaml(&[server.url()], "", ""));
    eventually("alone", || async { !state(&proxy).is_linked() && state(&proxy).leads(arriero::clock::now()) }).await;
    let members = async || two.call::<u32>(&["ZCARD", "arriero:1:{arriero}:members"]).await;
    eventually("it left there too", || async { members().await == 0 }).await;
    assert_eq!(proxy.metric("arriero_cluster_linked{cluster=\"arriero\"}").await, 0.0);
    assert!(!proxy.admin("/metrics").await.contains("arriero_cluster_linked{"), "no series without a cluster");
}
