//! Hosts with a card: true usage, remembered conversations, eviction by blob path, counts.

use super::*;
use crate::demo::{Card, Counts, DemoModel, Plan, Planned};

const GB: u64 = 1_000_000_000;

/// A card on which a second passes in a millisecond.
fn card() -> Card {
    Card::t4().faster(1000.0)
}

async fn ask(host: &Host, model: &str, number: usize) -> serde_json::Value {
    let text = format!("{} {}", Plan::mark(number), "x".repeat(9000));
    let body = format!(r#"{{"model":"{model}","stream":false,"messages":[{{"role":"user","content":"{text}"}}]}}"#);
    post(host, "/api/chat", &body).await.json()
}

#[tokio::test]
async fn usage_is_true_and_a_conversation_is_not_read_twice() {
    let planned = |prompt| Planned { prompt, answer: 30, conversation: 5 };
    let mut config = HostConfig::new("card").card(card()).parallel(2).model(DemoModel::new("a", 5 * GB));
    config.plan = Some(Plan::new(vec![planned(1000), planned(2000)]));
    let host = Host::start(config.clone()).await.unwrap();
    let (first, second) = (ask(&host, "a", 0).await, ask(&host, "a", 1).await);
    let number = |answer: &serde_json::Value, key: &str| answer[key].as_f64().unwrap_or(0.0);
    assert_eq!((number(&first, "prompt_eval_count"), number(&first, "eval_count")), (1000.0, 30.0));
    assert_eq!(number(&second, "prompt_eval_count"), 2000.0 - 1030.0);
    // Alone on the card, to the nanosecond that the field has.
    let expected = |seconds: f64| seconds * 1e9;
    for (answer, prompt) in [(&first, 1000), (&second, 970)] {
        let prefill = expected(card().prefill_seconds(5 * GB, prompt));
        assert!((number(answer, "prompt_eval_duration") - prefill).abs() < 100.0, "{answer}");
        let decode = expected(card().decode_seconds(5 * GB, 30));
        assert!((number(answer, "eval_duration") - decode).abs() < 100.0, "{answer}");
    }
    assert!(number(&first, "load_duration") >= expected(card().load_time(5 * GB).as_secs_f64()));
    assert!(number(&second, "load_duration") < number(&first, "load_duration"));
    let observed = config.plan.unwrap().observed();
    assert!(observed.iter().all(|seen| seen.begun == 1 && seen.abandoned == 0 && seen.slot.is_some()));
}

#[tokio::test]
async fn the_first_blob_path_is_evicted_whoever_was_idle_longest() {
    let mut names = ["a", "b", "c"].map(|name| DemoModel::new(name, 7 * GB));
    names.sort_by(|one, other| other.digest.cmp(&one.digest));
    let config = HostConfig::new("card").card(card()).tokens(1);
    let config = names.iter().fold(config, |config, model| config.model(model.clone()));
    let host = Host::start(config).await.unwrap();
    // The second loaded has the lower digest, so it goes, though the first was idle longer.
    for model in &names {
        post(&host, "/api/generate", &format!(r#"{{"model":"{}"}}"#, model.name)).await;
    }
    assert_eq!(host.loaded(), [names[0].name.clone(), names[2].name.clone()]);
    let unload = format!(r#"{{"model":"{}","keep_alive":0}}"#, names[0].name);
    post(&host, "/api/generate", &unload).await;
    // It waits for the unload, as for a load.
    let ps = get(&host, "/api/ps").await.json();
    assert_eq!(ps["models"].as_array().map(Vec::len), Some(1));
    assert_eq!(host.ledger().counts(), Counts { loads: 3, evictions: 1, unloads: 1, cancelled_loads: 0 });
}

#[tokio::test]
async fn a_load_that_its_client_leaves_is_counted_and_goes_on() {
    let host = Host::start(HostConfig::new("card").card(card()).model(DemoModel::new("a", GB))).await.unwrap();
    host.load_gate().close();
    let client = send(&host, "POST", "/api/generate", "", r#"{"model":"a","prompt":"x"}"#).await;
    host.ledger().wait_until(LIMIT, |ledger| ledger.counts().loads == 1).await.unwrap();
    let waits = send(&host, "POST", "/api/generate", "", r#"{"model":"a","prompt":"x","stream":false}"#).await;
    drop(client);
    host.ledger().wait_until(LIMIT, |ledger| ledger.counts().cancelled_loads == 1).await.unwrap();
    host.load_gate().open();
    assert_eq!(receive(waits, false).await.status, 200);
    assert_eq!(host.ledger().counts().loads, 1);
}

#[tokio::test]
async fn vision_models_have_one_slot() {
    let mut config = HostConfig::new("card").card(card()).parallel(4).model(DemoModel::llava_13b());
    config.plan = Some(Plan::new(vec![Planned { prompt: 10, answer: 1_000_000, conversation: 1 }]));
    let host = Host::start(config).await.unwrap();
    let body = format!(r#"{{"model":"llava:13b","prompt":"{}"}}"#, Plan::mark(0));
    let first = send(&host, "POST", "/api/generate", "", &body).await;
    let slots =
        |count: usize| move |ledger: &crate::demo::Ledger| ledger.find(|entry| entry.slot_at.is_some()).len() == count;
    host.ledger().wait_until(LIMIT, slots(1)).await.unwrap();
    let second = send(&host, "POST", "/api/generate", "", r#"{"model":"llava:13b","prompt":"x"}"#).await;
    host.ledger()
        .wait_until(LIMIT, |ledger| ledger.find(|entry| entry.body_sha256.is_some()).len() == 2)
        .await
        .unwrap();
    assert_eq!(host.ledger().find(|entry| entry.slot_at.is_some()).len(), 1);
    drop(first);
    host.ledger().wait_until(LIMIT, slots(2)).await.unwrap();
    assert!(receive(second, false).await.whole);
}
