//! What is kept belongs to the bytes of a model, and to no others.

use arriero::demo::DemoModel;

use super::support::admin::order;
use super::support::eventually;
use super::*;

/// The model `m` with other bytes than at first.
fn changed() -> DemoModel {
    let mut model = DemoModel::new("m", 1_000_000_000);
    model.digest = "0".repeat(64);
    model
}

fn first() -> DemoModel {
    DemoModel::new("m", 1_000_000_000)
}

async fn direct(host: &Host) -> Vec<String> {
    vectors(&send(host.address(), "POST", "/api/embed", body(&["a"])).await)
}

#[tokio::test(flavor = "multi_thread")]
async fn another_model_of_the_same_name_is_another_model() {
    let fleet = fleet(1, &["m"]).await;
    let host = &fleet.hosts[0];
    let text = upstream_yaml("ollama", &fleet.urls(), CACHE, "health: { active: off }\ninventory: { interval: 50ms }");
    let proxy = proxy(text).await;
    embed(&proxy, &["a"]).await;
    assert_eq!(told(&embed(&proxy, &["a"]).await), "arriero; hit");
    let old = direct(host).await;
    // Somebody changes it past us; the next look sees it.
    host.add_model(changed());
    let new = direct(host).await;
    assert_ne!(old, new);
    eventually("it is seen", || async { vectors(&embed(&proxy, &["a"]).await) == new }).await;
    eventually("it is kept", || async { told(&embed(&proxy, &["a"]).await) == "arriero; hit" }).await;
    // What was kept of the first one is not believed when it comes back: who knows what was computed in between.
    host.add_model(first());
    eventually("it is seen", || async { vectors(&embed(&proxy, &["a"]).await) == old }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_through_us_holds_from_its_last_byte_on() {
    let mut config = arriero::demo::HostConfig::new("h").small_model("m").small_model("n");
    config.registry = Some(vec![changed(), DemoModel::new("n", 1_000_000_000)]);
    let fleet = Fleet::start(vec![config]).await.expect("a host");
    let host = &fleet.hosts[0];
    let text = upstream_yaml(
        "ollama",
        &fleet.urls(),
        &format!("{CACHE}\nmanagement: allow\nauth: none"),
        "health: { active: off }\ninventory: { interval: 1h }",
    );
    let keys = KeysFile::new(&[("00000007", "scopes: [inference, management]")]);
    let proxy = proxy(text.replace("auth: none", "auth: optional") + &keys.yaml()).await;
    let manage = async |method: &str, path: &str, body: &str| {
        send_with(proxy.address(), method, path, &bearer("00000007"), body).await.head.status
    };
    let other = r#"{"model":"n","input":"a"}"#;
    send(proxy.address(), "POST", "/api/embed", other).await;
    embed(&proxy, &["a"]).await;
    let old = direct(host).await;
    // While it runs nothing is kept or answered from what is.
    host.pull_gate().close();
    let pull = async {
        assert_eq!(manage("POST", "/api/pull", r#"{"model":"m"}"#).await, 200);
        // Not a moment later: the inventory is looked at once an hour.
        let answer = embed(&proxy, &["a"]).await;
        assert!(told(&answer).starts_with("arriero; fwd="), "{}", told(&answer));
        assert_ne!(vectors(&answer), old);
    };
    let meanwhile = async {
        host.ledger()
            .wait_until(super::support::PATIENCE, |ledger| !ledger.by_path("/api/pull").is_empty())
            .await
            .expect("it begins");
        for _ in 0..2 {
            assert_eq!(told(&embed(&proxy, &["a"]).await), "arriero; fwd=bypass; detail=digest");
        }
        let answer = send(proxy.address(), "POST", "/api/embed", other).await;
        assert_eq!(told(&answer), "arriero; hit", "another model");
        host.pull_gate().open();
    };
    tokio::join!(pull, meanwhile);
    // Once the inventory has been looked at, which the pull asks for, it is kept again.
    eventually("it is kept", || async { told(&embed(&proxy, &["a"]).await) == "arriero; hit" }).await;
    assert_eq!(vectors(&embed(&proxy, &["a"]).await), direct(host).await);
    // A copy puts other bytes under the name.
    assert_eq!(manage("POST", "/api/copy", r#"{"source":"n","destination":"m"}"#).await, 200);
    let copied = embed(&proxy, &["a"]).await;
    assert_eq!((told(&copied).contains("fwd="), vectors(&copied)), (true, direct(host).await));
    assert_eq!(manage("DELETE", "/api/delete", r#"{"model":"m"}"#).await, 200);
    assert_eq!(embed(&proxy, &["a"]).await.head.status, 404, "a hit would be a lie");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pull_that_an_operator_orders_is_such_a_change() {
    let mut config = arriero::demo::HostConfig::new("h").small_model("m");
    config.registry = Some(vec![changed()]);
    let fleet = Fleet::start(vec![config]).await.expect("a host");
    let host = &fleet.hosts[0];
    let text = format!(
        "routes: [{{ name: all, upstream: fleet, {CACHE} }}]\nupstreams: {{ fleet: {{ kind: ollama, inventory: {{ interval: 1h }}, servers: [{{ name: s0, url: \"{}\" }}] }} }}\n",
        host.url()
    );
    let proxy = proxy(text).await;
    embed(&proxy, &["a"]).await;
    assert_eq!(told(&embed(&proxy, &["a"]).await), "arriero; hit");
    let pulled = order(&proxy, "/servers/s0/models/pull", r#"{"model":"m","wait":"20s"}"#).await;
    assert_eq!(pulled["success"], true, "{pulled}");
    let answer = embed(&proxy, &["a"]).await;
    assert_eq!((told(&answer), vectors(&answer)), ("arriero; fwd=miss; stored", direct(host).await));
}

#[tokio::test(flavor = "multi_thread")]
async fn servers_that_differ_are_asked() {
    let mut configs = vec![arriero::demo::HostConfig::new("a").small_model("m"), arriero::demo::HostConfig::new("b")];
    configs[1].models.push(changed());
    let fleet = Fleet::start(configs).await.expect("a fleet");
    let text = upstream_yaml("ollama", &fleet.urls(), CACHE, "health: { active: off }\ninventory: { interval: 50ms }");
    let proxy = proxy(text).await;
    for _ in 0..3 {
        assert_eq!(told(&embed(&proxy, &["a"]).await), "arriero; fwd=bypass; detail=digest");
    }
    assert_eq!(total(&fleet), 3);
    fleet.hosts[1].add_model(first());
    eventually("they agree", || async { told(&embed(&proxy, &["a"]).await) == "arriero; hit" }).await;
    assert_eq!(proxy.metric("arriero_embeddings_cache_bypassed_total{route=\"all\",why=\"client\"}").await, 0.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hit_loads_no_model() {
    let fleet = fleet(1, &["m"]).await;
    let host = &fleet.hosts[0];
    let proxy = proxy(yaml(&fleet, CACHE)).await;
    embed(&proxy, &["a"]).await;
    send(host.address(), "POST", "/api/generate", r#"{"model":"m","keep_alive":0}"#).await;
    eventually("it is unloaded", || async { host.loaded().is_empty() }).await;
    let zero = r#"{"model":"m","input":"a","keep_alive":0}"#;
    for body in [zero, r#"{"model":"m","input":["a"],"keep_alive":-1}"#] {
        assert_eq!(told(&send(proxy.address(), "POST", "/api/embed", body).await), "arriero; hit");
    }
    assert!(host.loaded().is_empty());
}
