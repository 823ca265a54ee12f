//! Embeddings that are kept: what a server is asked for, what clients get, and when nothing is kept.

#[path = "embeddings_cache/bounds.rs"]
mod bounds;
#[path = "embeddings_cache/flights.rs"]
mod flights;
#[path = "embeddings_cache/models.rs"]
mod models;
mod support;
#[path = "embeddings_cache/way_back.rs"]
mod way_back;

use std::collections::HashSet;

use arriero::demo::{Fault, Fleet, Host};
use serde_json::Value;
use serde_json::value::RawValue;
use support::fleet::{Small, fleet, reply, send, send_with};
use support::keys::{KeysFile, bearer};
use support::wire::{Answer, H2, Upload, proxy};
use support::{Proxy, upstream_yaml};

const CACHE: &str = "embeddings_cache: { scope: shared }";

fn yaml(fleet: &Fleet, route: &str) -> String {
    upstream_yaml("ollama", &fleet.urls(), route, "health: { active: off }")
}

/// A list of texts as a request has it.
fn body(texts: &[impl AsRef<str>]) -> String {
    let texts: Vec<&str> = texts.iter().map(AsRef::as_ref).collect();
    serde_json::json!({ "model": "m", "input": texts }).to_string()
}

async fn embed(proxy: &Proxy, texts: &[impl AsRef<str>]) -> Answer {
    send(proxy.address(), "POST", "/api/embed", body(texts)).await
}

/// The embeddings of an answer as they are written.
fn vectors(answer: &Answer) -> Vec<String> {
    #[derive(serde::Deserialize)]
    struct Embeddings {
        embeddings: Vec<Box<RawValue>>,
    }
    let body: Embeddings =
        serde_json::from_slice(&answer.body).unwrap_or_else(|error| panic!("{error}: {}", answer.text()));
    body.embeddings.iter().map(|vector| vector.get().to_owned()).collect()
}

/// What the answer says of the cache.
fn told(answer: &Answer) -> &str {
    assert_eq!(answer.head.all("cache-status").len(), 1, "{}", answer.head.text);
    answer.head.field("cache-status").expect("told")
}

/// Texts that a host has embedded.
fn embedded(host: &Host) -> usize {
    host.ledger().inference().iter().map(|entry| entry.inputs).sum()
}

fn total(fleet: &Fleet) -> usize {
    fleet.hosts.iter().map(embedded).sum()
}

/// An answer without the times in it, which differ from one to the next.
fn timeless(answer: &Answer) -> String {
    let text = answer.text();
    match text.find("],\"total_duration\"") {
        Some(at) => text[..at].to_owned(),
        None => text,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_known_is_answered_to_the_byte_as_a_server_would() {
    let fleet = fleet(1, &["m"]).await;
    let host = &fleet.hosts[0];
    let proxy = proxy(yaml(&fleet, CACHE)).await;
    for (path, body) in [
        ("/api/embed", r#"{"model":"M:latest","input":["one","twö"]}"#),
        ("/api/embed", r#"{"model":"m","input":"a < b","truncate":true,"options":{"num_ctx":64}}"#),
        ("/api/embed", r#"{"dimensions":16,"input":["one"],"model":"m"}"#),
        ("/api/embeddings", r#"{"model":"m","prompt":"one"}"#),
        ("/v1/embeddings", r#"{"model":"m","input":["three","four"],"user":"u"}"#),
        ("/v1/embeddings", r#"{"input":["one","five"],"model":"m","encoding_format":"base64"}"#),
    ] {
        let direct = send(host.address(), "POST", path, body).await;
        let before = embedded(host);
        let missed = send(proxy.address(), "POST", path, body).await;
        let asked = embedded(host) - before;
        assert!(asked > 0 && told(&missed) == "arriero; fwd=miss; stored", "{}", told(&missed));
        assert_eq!(timeless(&missed), timeless(&direct), "{path}");
        let hit = send(proxy.address(), "POST", path, body).await;
        assert_eq!((embedded(host) - before, told(&hit), hit.head.status), (asked, "arriero; hit", 200));
        assert_eq!(hit.head.field("content-type"), direct.head.field("content-type"));
        let plain = |answer: &Answer| {
            // Nothing was computed for a hit.
            let text = timeless(answer);
            text.split(",\"usage\":").next().map(str::to_owned)
        };
        assert_eq!(plain(&hit), plain(&direct), "{path}");
        let hit: Value = serde_json::from_slice(&hit.body).expect("JSON");
        match path {
            "/api/embed" => assert!(hit["total_duration"].as_u64() > Some(0) && hit["prompt_eval_count"].is_null()),
            "/v1/embeddings" => assert_eq!(hit["usage"].to_string(), r#"{"prompt_tokens":0,"total_tokens":0}"#),
            _ => {}
        }
    }
    // The two new calls give the same vectors; the old one does not.
    let before = embedded(host);
    let openai = send(proxy.address(), "POST", "/v1/embeddings", r#"{"model":"m","input":["one","twö"]}"#).await;
    assert_eq!((embedded(host), told(&openai)), (before, "arriero; hit"));
    let hits = r#"arriero_embeddings_cache_inputs_total{route="all",result="hit"}"#;
    assert_eq!(proxy.metric(hits).await, 11.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_is_asked_for_what_is_new_once_and_in_order() {
    let fleet = fleet(1, &["m"]).await;
    let host = &fleet.hosts[0];
    let proxy = proxy(yaml(&fleet, CACHE)).await;
    embed(&proxy, &["b", "d"]).await;
    let texts = ["a", "b", "a", "c", "d", "c", "a"];
    let partial = embed(&proxy, &texts).await;
    assert_eq!(told(&partial), "arriero; fwd=partial; stored; detail=\"2 of 7 known\"");
    let direct = send(host.address(), "POST", "/api/embed", body(&texts)).await;
    assert_eq!((timeless(&partial), embedded(host)), (timeless(&direct), 2 + 2 + 7));
    let sent = host.ledger().by_path("/api/embed");
    let wanted = support::fleet::sha256(br#"{"input":["a","c"],"model":"m"}"#);
    let other = support::fleet::sha256(br#"{"model":"m","input":["a","c"]}"#);
    let got = sent[1].body_sha256.clone().expect("read");
    assert!(got == wanted || got == other, "only what is new, as it was written");
    // What the answer says of tokens is what was computed.
    let counted: Value = serde_json::from_slice(&partial.body).expect("JSON");
    assert_eq!(counted["prompt_eval_count"], 2);
    let inputs = |result: &str| format!("arriero_embeddings_cache_inputs_total{{route=\"all\",result=\"{result}\"}}");
    assert_eq!(proxy.metric(&inputs("hit")).await, 2.0);
    assert_eq!(proxy.metric(&inputs("miss")).await, 4.0);
    assert_eq!(proxy.metric(&inputs("collapsed")).await, 3.0);
    assert_eq!(proxy.metric("arriero_tokens_total{upstream=\"fleet\",kind=\"prompt\"}").await, 4.0);
}

/// A number that is as good as random and always the same.
fn scramble(number: u64) -> u64 {
    let mut word = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    word = (word ^ word >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    word = (word ^ word >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ word >> 31
}

/// Ten thousand texts of which seven in ten stood among those before, some of them very often.
fn texts() -> Vec<String> {
    let mut texts: Vec<String> = Vec::new();
    let mut different: Vec<String> = Vec::new();
    for number in 0..10_000_u64 {
        if scramble(number) % 10 < 7 && !different.is_empty() {
            // The share of the k-th falls with 1/k, about.
            let share = (scramble(number ^ 0xabcd) >> 11) as f64 / (1_u64 << 53) as f64;
            let place = (different.len() as f64).powf(share) as usize - 1;
            texts.push(different[place.min(different.len() - 1)].clone());
        } else {
            let text = format!("text {number}: {}", "ä b ".repeat(1 + number as usize % 20));
            different.push(text.clone());
            texts.push(text);
        }
    }
    texts
}

#[tokio::test(flavor = "multi_thread")]
async fn of_ten_thousand_inputs_servers_see_exactly_those_that_are_new() {
    let mut configs: Vec<_> = (0..2).map(|number| arriero::demo::HostConfig::new(&format!("h{number}"))).collect();
    for config in &mut configs {
        *config = config.clone().small_model("m").parallel(4);
        config.embedding_length = 32;
    }
    let fleet = Fleet::start(configs).await.expect("a fleet");
    let proxy = proxy(yaml(&fleet, CACHE)).await;
    let texts = texts();
    let different: HashSet<&String> = texts.iter().collect();
    let repeated = 10_000 - different.len();
    assert!((6_500..7_500).contains(&repeated), "{repeated} repeat");
    // In one request, in requests of a hundred, and some of those at the same time.
    let reference = send(fleet.hosts[0].address(), "POST", "/api/embed", body(&texts)).await;
    let before = total(&fleet);
    let asks = texts[..5_000].chunks(100).map(|part| embed(&proxy, part));
    let answers: Vec<Answer> =
        futures_util::StreamExt::collect(futures_util::StreamExt::buffered(futures_util::stream::iter(asks), 8)).await;
    let mut got: Vec<String> = answers.iter().flat_map(vectors).collect();
    got.extend(vectors(&embed(&proxy, &texts[5_000..]).await));
    assert_eq!(total(&fleet) - before, different.len(), "exactly what is new");
    assert!(got == vectors(&reference), "the same as without a cache");
    let again = embed(&proxy, &texts).await;
    assert_eq!((total(&fleet) - before, told(&again)), (different.len(), "arriero; hit"));
    assert!(timeless(&again) == timeless(&reference), "to the byte");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_makes_another_vector_is_another_entry() {
    let fleet = fleet(1, &["m", "n"]).await;
    let proxy = proxy(yaml(&fleet, CACHE)).await;
    for (path, body) in [
        ("/api/embed", r#"{"model":"m","input":"a"}"#),
        ("/api/embed", r#"{"model":"n","input":"a"}"#),
        ("/api/embed", r#"{"model":"m","input":"A"}"#),
        ("/api/embed", r#"{"model":"m","input":"a "}"#),
        ("/api/embed", r#"{"model":"m","input":"a","dimensions":8}"#),
        ("/api/embed", r#"{"model":"m","input":"a","truncate":false}"#),
        ("/api/embed", r#"{"model":"m","input":"a","options":{"num_ctx":8}}"#),
        ("/api/embed", r#"{"model":"m","input":"a","new_option":1}"#),
        ("/api/embeddings", r#"{"model":"m","prompt":"a"}"#),
        ("/v1/embeddings", r#"{"model":"m","input":"a","encoding_format":"base64"}"#),
        // This call does not know these, so its server does not look at them.
        ("/v1/embeddings", r#"{"model":"m","input":"a","truncate":false}"#),
        ("/v1/embeddings", r#"{"model":"m","input":"a","options":{"num_ctx":8}}"#),
    ] {
        let first = send(proxy.address(), "POST", path, body).await;
        assert_eq!(told(&first), "arriero; fwd=miss; stored", "{body}");
        assert_eq!(told(&send(proxy.address(), "POST", path, body).await), "arriero; hit", "{body}");
    }
    // The same in other words.
    for body in [
        r#"{"input":["\u0061"],"model":"M:latest","keep_alive":"5m","dimensions":0,"options":{}}"#,
        r#"{ "options": null, "model": "library/m", "input": "a", "truncate": true }"#,
    ] {
        assert_eq!(told(&send(proxy.address(), "POST", "/api/embed", body).await), "arriero; hit", "{body}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_clear_goes_to_a_server_as_it_came() {
    let fleet = fleet(1, &["m"]).await;
    let host = &fleet.hosts[0];
    let proxy = proxy(yaml(&fleet, "embeddings_cache: { scope: shared, max_body: 4KiB }")).await;
    let long = format!(r#"{{"model":"m","input":["{}"]}}"#, "x".repeat(5000));
    for (path, body, why) in [
        ("/api/embed", r#"{"model":"m","input":[[1,2,3]]}"#, "unfit"),
        ("/v1/embeddings", r#"{"model":"m","input":[1,2,3]}"#, "unfit"),
        ("/v1/embeddings", r#"{"model":"m","input":"a","encoding_format":"hex"}"#, "unfit"),
        ("/api/embed", r#"{"model":"m"}"#, "unfit"),
        ("/api/embed", r#"{"model":"m","input":""}"#, "unfit"),
        ("/api/embed", r#"{"model":"m","input":"a","Input":"b"}"#, "unfit"),
        ("/api/embed", long.as_str(), "too_long"),
    ] {
        let direct = send(host.address(), "POST", path, body).await;
        for _ in 0..2 {
            let answer = send(proxy.address(), "POST", path, body).await;
            assert_eq!(told(&answer), format!("arriero; fwd=bypass; detail={why}"), "{body}");
            assert_eq!((answer.head.status, timeless(&answer)), (direct.head.status, timeless(&direct)), "{body}");
        }
        let (of_client, of_proxy) = {
            let entries = host.ledger().by_path(path);
            (entries[entries.len() - 3].body_sha256.clone(), entries[entries.len() - 1].body_sha256.clone())
        };
        assert_eq!(of_client, of_proxy, "{body}");
    }
    // In chunks nobody knows how long it is.
    let mut client = support::wire::H1::connect(proxy.address()).await;
    let head = "POST /api/embed HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n";
    client.send(format!("{head}{:x}\r\n{long}\r\n0\r\n\r\n", long.len())).await;
    let answer = client.reader.answer().await;
    assert_eq!((answer.head.status, told(&answer)), (200, "arriero; fwd=bypass; detail=too_long"));
    let short = r#"{"model":"m","input":"in chunks"}"#;
    for expected in ["arriero; fwd=miss; stored", "arriero; hit"] {
        let mut client = support::wire::H1::connect(proxy.address()).await;
        let (one, two) = short.split_at(20);
        client.send(format!("{head}{:x}\r\n{one}\r\n{:x}\r\n{two}\r\n0\r\n\r\n", one.len(), two.len())).await;
        assert_eq!(told(&client.reader.answer().await), expected);
    }
    // Other calls are none of its business.
    let chat = send(proxy.address(), "POST", "/api/generate", support::fleet::generate("m")).await;
    assert_eq!((chat.head.status, chat.head.field("cache-status")), (200, None));
    let bypassed = |why: &str| format!("arriero_embeddings_cache_bypassed_total{{route=\"all\",why=\"{why}\"}}");
    assert_eq!((proxy.metric(&bypassed("unfit")).await, proxy.metric(&bypassed("too_long")).await), (12.0, 3.0));
}

#[tokio::test(flavor = "multi_thread")]
async fn errors_pass_as_they_are_and_are_not_kept() {
    let fleet = fleet(1, &["m"]).await;
    let host = &fleet.hosts[0];
    let proxy = proxy(yaml(&fleet, CACHE)).await;
    embed(&proxy, &["known"]).await;
    for texts in [&["known", "new"][..], &["new"][..]] {
        host.faults().next(2, Fault::Status(500, "no <luck>".to_owned()));
        let direct = send(host.address(), "POST", "/api/embed", body(texts)).await;
        let answer = embed(&proxy, texts).await;
        assert_eq!((answer.head.status, answer.text()), (500, direct.text()));
        assert!(told(&answer).starts_with("arriero; fwd="), "{}", told(&answer));
    }
    let asked = embedded(host);
    assert_eq!(told(&embed(&proxy, &["known", "new"]).await), "arriero; fwd=partial; stored; detail=\"1 of 2 known\"");
    assert_eq!(embedded(host), asked + 1);
    let unknown = send(proxy.address(), "POST", "/api/embed", r#"{"model":"nobody","input":"a"}"#).await;
    assert_eq!(unknown.head.status, 404);
}

/// A server that has the model `m` and answers requests for so many inputs like this.
async fn odd_as(
    answer: impl Fn(usize) -> http::Response<http_body_util::Full<bytes::Bytes>> + Send + Sync + 'static,
) -> Small {
    Small::start(move |got| match got.path.as_str() {
        "/api/tags" => reply(
            200,
            "application/json",
            r#"{"models":[{"name":"m:latest","model":"m:latest","digest":"d","size":1}]}"#,
        ),
        "/api/ps" => reply(200, "application/json", r#"{"models":[]}"#),
        "/v1/models" => reply(200, "application/json", r#"{"object":"list","data":[]}"#),
        "/api/version" => reply(200, "application/json", r#"{"version":"0.33.0"}"#),
        _ => {
            let body: Value = serde_json::from_slice(&got.body).unwrap_or_default();
            answer(body["input"].as_array().map_or(1, Vec::len))
        }
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_is_not_understood_is_passed_on_and_never_put_together() {
    let good = |inputs: usize| format!(r#"{{"model":"m","embeddings":[{}]}}"#, vec!["[1]"; inputs].join(","));
    for (content_type, text) in [
        ("application/json", r#"{"model":"m","embeddings":[[1],[2],[3],[4]]}"#.to_owned()),
        ("application/json", r#"{"model":"m","vectors":[[1],[2]]}"#.to_owned()),
        ("application/json", "{".to_owned()),
        ("text/plain", good(2)),
    ] {
        let of_two = text.clone();
        // One input is answered well, more are not.
        let server = odd_as(move |inputs| match inputs {
            1 => reply(200, "application/json", good(1)),
            _ => reply(200, content_type, of_two.clone()),
        })
        .await;
        let yaml = upstream_yaml("ollama", &[server.url()], CACHE, "health: { active: off }");
        let proxy = proxy(yaml).await;
        assert_eq!(told(&embed(&proxy, &["a"]).await), "arriero; fwd=miss; stored");
        // For the last one a part is asked for, and then the whole.
        for texts in [&["x", "y"][..], &["x", "y"][..], &["a", "x", "y"][..]] {
            let answer = embed(&proxy, texts).await;
            assert_eq!((answer.head.status, answer.text()), (200, text.clone()));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_say_what_they_want_of_it() {
    let fleet = fleet(1, &["m"]).await;
    let proxy = proxy(yaml(&fleet, CACHE)).await;
    let ask = async |control: &str, text: &str| {
        let field = if control.is_empty() { String::new() } else { format!("Cache-Control: {control}\r\n") };
        send_with(proxy.address(), "POST", "/api/embed", &field, body(&[text])).await
    };
    assert_eq!(told(&ask("no-store", "a").await), "arriero; fwd=request");
    assert_eq!(told(&ask("", "a").await), "arriero; fwd=miss; stored", "nothing was kept of it");
    assert_eq!(told(&ask("", "a").await), "arriero; hit");
    assert_eq!(told(&ask("no-store", "a").await), "arriero; fwd=request");
    assert_eq!(told(&ask("no-cache", "a").await), "arriero; fwd=miss; stored");
    assert_eq!(told(&ask("max-age=0", "a").await), "arriero; fwd=miss; stored");
    assert_eq!(told(&ask("max-age=3600", "a").await), "arriero; hit");
    assert_eq!(told(&ask("no-cache", "b").await), "arriero; fwd=miss; stored");
    assert_eq!(told(&ask("", "b").await), "arriero; hit");
    assert_eq!(embedded(&fleet.hosts[0]), 6);
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_gets_by_the_cache_what_is_not_theirs() {
    let fleet = fleet(1, &["m", "n"]).await;
    let keys =
        KeysFile::new(&[("aaaaaaaa", "models: [m, n]"), ("bbbbbbbb", "models: [m]"), ("cccccccc", "models: [n]")]);
    let both = |scope: &str, auth: &str| {
        let route = format!("embeddings_cache: {{ scope: {scope} }}\nauth: {auth}");
        yaml(&fleet, &route) + &keys.yaml()
    };
    let proxy = proxy(both("key", "optional")).await;
    let ask = async |fields: &str| send_with(proxy.address(), "POST", "/api/embed", fields, body(&["secret"])).await;
    assert_eq!(told(&ask(&bearer("aaaaaaaa")).await), "arriero; fwd=miss; stored");
    assert_eq!(told(&ask(&bearer("aaaaaaaa")).await), "arriero; hit");
    assert_eq!(told(&ask(&bearer("bbbbbbbb")).await), "arriero; fwd=miss; stored", "another key");
    assert_eq!(told(&ask("").await), "arriero; fwd=miss; stored", "no key");
    assert_eq!(told(&ask("").await), "arriero; hit");
    assert_eq!(ask(&bearer("cccccccc")).await.head.status, 403, "not its model");
    let before = embedded(&fleet.hosts[0]);
    proxy.rewrite(&both("shared", "required"));
    support::eventually("the scope is another one", || async {
        told(&ask(&bearer("aaaaaaaa")).await).contains("fwd=miss")
    })
    .await;
    assert_eq!(told(&ask(&bearer("bbbbbbbb")).await), "arriero; hit");
    assert_eq!(ask(&bearer("cccccccc")).await.head.status, 403);
    assert_eq!(ask("").await.head.status, 401);
    assert_eq!(embedded(&fleet.hosts[0]), before + 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_known_counts_against_limits_too() {
    let fleet = fleet(1, &["m"]).await;
    let proxy = proxy(yaml(&fleet, &format!("{CACHE}\nrate_limits: [{{ rate: 1/d, burst: 1 }}]"))).await;
    assert_eq!(told(&embed(&proxy, &["a"]).await), "arriero; fwd=miss; stored");
    assert_eq!(told(&embed(&proxy, &["a"]).await), "arriero; hit");
    assert_eq!(embed(&proxy, &["a"]).await.head.status, 429);
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_come_over_http2_and_compressed_as_any() {
    let fleet = fleet(1, &["m"]).await;
    let text = format!(
        "{}listeners: [{{ address: \"127.0.0.1:0\", h2c: true }}]\n",
        yaml(&fleet, &format!("{CACHE}\ncompress: [gzip]"))
    );
    let proxy = proxy(text).await;
    let texts: Vec<String> = (0..50).map(|number| format!("text {number}")).collect();
    let direct = send(fleet.hosts[0].address(), "POST", "/api/embed", body(&texts)).await;
    embed(&proxy, &texts[..20]).await;
    for expected in ["fwd=partial", "hit"] {
        let answer = send_with(proxy.address(), "POST", "/api/embed", "Accept-Encoding: gzip\r\n", body(&texts)).await;
        assert!(told(&answer).contains(expected) && answer.head.field("content-encoding") == Some("gzip"));
        let mut plain = Vec::new();
        std::io::Read::read_to_end(&mut flate2::read::GzDecoder::new(&answer.body[..]), &mut plain).expect("gzip");
        assert_eq!(timeless(&Answer { body: plain, ..answer }), timeless(&direct));
    }
    let mut client = H2::connect(proxy.address()).await;
    let text = body(&texts);
    let upload = Upload::new(Some(text.len() as u64)).1;
    let answer = client.ask(H2::request("POST", "/api/embed", upload), text.into()).await;
    assert_eq!((told(&answer), timeless(&answer)), ("arriero; hit", timeless(&direct)));
}
