//! Bans of models and servers over real sockets: by rule, by hand, and beyond a reload.

mod support;

use std::time::Duration;

use arriero::clock;
use arriero::demo::{Fault, FaultRule, Fleet, Host};
use arriero::policy::ban::Ban;
use support::fleet::{fleet, generate, send};
use support::wire::proxy;
use support::{Proxy, eventually, upstream_yaml};

/// Every server in turn, and none ever left out by a circuit.
const TURNS: &str = "balance: { policy: round_robin, model_affinity: off }\nhealth: { active: off }
circuit: { consecutive_failures: 1000000 }";

fn yaml(fleet: &Fleet, more: &str) -> String {
    upstream_yaml("ollama", &fleet.urls(), "", &format!("{TURNS}\n{more}"))
}

async fn ask(proxy: &Proxy, model: &str) -> u16 {
    send(proxy.address(), "POST", "/api/generate", generate(model)).await.head.status
}

fn count(host: &Host) -> usize {
    host.ledger().inference().len()
}

async fn bans(proxy: &Proxy) -> f64 {
    proxy.metric("arriero_bans{upstream=\"fleet\"}").await
}

fn boom() -> Fault {
    Fault::Status(500, "boom".to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_that_never_went_well_on_a_server_is_banned_from_it() {
    let fleet = fleet(2, &["m", "n"]).await;
    let proxy = proxy(yaml(&fleet, "bans: { after: 3, for: 1h }")).await;
    let bad = &fleet.hosts[0];
    // It does not fit: a failure each time, until somebody changes that.
    bad.faults().add(FaultRule::inference(boom()).on_model("m"));
    while count(bad) < 3 {
        assert_eq!(bans(&proxy).await, 0.0, "after {}", count(bad));
        ask(&proxy, "m").await;
    }
    eventually("it is banned", || async { bans(&proxy).await == 1.0 }).await;
    for _ in 0..6 {
        assert_eq!(ask(&proxy, "m").await, 200);
    }
    assert_eq!(count(bad), 3);
    while count(bad) < 5 {
        assert_eq!(ask(&proxy, "n").await, 200, "another model is welcome there");
    }
    let state = proxy.running().store.upstream("fleet").expect("an upstream");
    let list = state.state.bans.list(clock::now());
    assert_eq!((list[0].who.as_str(), list[0].model.as_deref()), ("rule", Some("m:latest")), "{list:?}");
    assert_eq!(list[0].reason, "3 failures and not one success");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_success_keeps_the_rule_away_for_good() {
    let fleet = fleet(1, &["m"]).await;
    let proxy = proxy(yaml(&fleet, "bans: { after: 2 }")).await;
    assert_eq!(ask(&proxy, "m").await, 200);
    let done = "arriero_requests_ended_total{reason=\"ok\"}";
    eventually("the success is known", || async { proxy.metric(done).await == 1.0 }).await;
    fleet.hosts[0].faults().always(boom());
    for _ in 0..10 {
        assert_eq!(ask(&proxy, "m").await, 500);
    }
    assert_eq!(bans(&proxy).await, 0.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_rule_nothing_is_banned() {
    let fleet = fleet(1, &["m"]).await;
    let proxy = proxy(yaml(&fleet, "")).await;
    fleet.hosts[0].faults().always(boom());
    for _ in 0..30 {
        assert_eq!(ask(&proxy, "m").await, 500);
    }
    assert_eq!(bans(&proxy).await, 0.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn bans_by_hand_hold_beyond_a_reload_until_they_are_lifted() {
    let fleet = fleet(2, &["m", "n"]).await;
    let proxy = proxy(yaml(&fleet, "")).await;
    let name = fleet.hosts[0].address().to_string();
    let cases = [
        (Some(name.as_str()), Some("m:latest"), [200, 200], [0, 1]),
        (Some(name.as_str()), None, [200, 200], [0, 0]),
        (None, Some("m:latest"), [503, 200], [0, 1]),
    ];
    for (round, (server, model, statuses, reached)) in cases.into_iter().enumerate() {
        let now = clock::now();
        let ban = Ban {
            server: server.map(str::to_owned),
            model: model.map(str::to_owned),
            reason: "a test".to_owned(),
            who: "ana".to_owned(),
            since: now,
            until: Some(now + Duration::from_hours(1)),
        };
        let bans = || proxy.running().store.upstream("fleet").expect("an upstream").state.clone();
        assert!(bans().bans.ban(ban, now));
        proxy.rewrite(&yaml(&fleet, &format!("keepalive: {{ max_idle: {} }}", round + 1)));
        let want = f64::from(u32::try_from(round + 1).expect("few"));
        let series = "arriero_config_reloads_total{result=\"applied\"}";
        eventually("the new file is in force", || async { proxy.metric(series).await == want }).await;
        for (model, (status, reached)) in ["m", "n"].into_iter().zip(statuses.into_iter().zip(reached)) {
            let before = count(&fleet.hosts[0]);
            for _ in 0..4 {
                assert_eq!(ask(&proxy, model).await, status, "{server:?} {model}");
            }
            assert_eq!(count(&fleet.hosts[0]) > before, reached == 1, "{server:?} {model}");
        }
        assert!(bans().bans.lift(server, model, clock::now()).is_some());
        let before = count(&fleet.hosts[0]);
        for _ in 0..4 {
            assert_eq!(ask(&proxy, "m").await, 200);
        }
        assert_eq!(count(&fleet.hosts[0]), before + 2, "lifted");
    }
}
