//! Token quotas through the proxy: who is let in, what is charged, what is kept, and what operators see and do.

mod support;

use arriero::demo::{Fault, Host, HostConfig};
use rustix::process::Signal;
use serde_json::{Value, json};
use support::admin::{call, json as parsed, order, problem, show};
use support::edge::{H2C, inference, upstream};
use support::fleet::{Small, ended, fleet, generate, mixed_fleet, reply, request, send, send_with};
use support::keys::{KeysFile, bearer};
use support::process::{Program, arriero, complete, finish};
use support::wire::{Answer, Chunk, H1, post, proxy};
use support::{Proxy, eventually};

/// Quotas, one a line.
fn quotas(list: &[&str]) -> String {
    format!("quotas:\n{}", list.iter().map(|quota| format!("  - {{ {quota} }}\n")).collect::<String>())
}

/// A host before which quotas stand.
async fn limited(list: &[&str], more: &str) -> (Host, Proxy) {
    let config = HostConfig::new("gpu").small_model("llava").small_model("mistral").tokens(5).parallel(16);
    let host = Host::start(config).await.expect("a host");
    let proxy = proxy(yaml(&host, list, more)).await;
    (host, proxy)
}

fn yaml(host: &Host, list: &[&str], more: &str) -> String {
    let route = "routes: [{ name: all, upstream: fleet }]\n";
    format!("version: 1\n{H2C}{route}{}{}{more}", upstream(&host.url(), "ollama"), quotas(list))
}

fn reload(proxy: &Proxy, text: &str) {
    proxy.rewrite(text);
    proxy.running().reloader.reload("test").expect("it loads");
}

/// What is told of the only key of a quota; null where it used nothing.
async fn row(proxy: &Proxy, quota: &str) -> Value {
    show(proxy, &format!("/quotas?quota={quota}")).await["quotas"][0].clone()
}

/// Waits until a key has used something, and no request runs; what it has used.
async fn used(proxy: &Proxy, query: &str) -> u64 {
    let look = async || show(proxy, &format!("/quotas?{query}")).await["quotas"][0]["used"].as_u64();
    eventually(&format!("charged: {query}"), || async { look().await.is_some() }).await;
    look().await.expect("it is there")
}

async fn ask(proxy: &Proxy) -> Answer {
    send(proxy.address(), "POST", "/api/generate", generate("llava")).await
}

/// Tokens that an answer to [`generate`] tells.
fn told(answer: &Answer) -> u64 {
    let body = parsed(answer);
    assert_eq!(answer.head.status, 200, "{body}");
    body["prompt_eval_count"].as_u64().unwrap_or(0) + body["eval_count"].as_u64().unwrap_or(0)
}

fn number(answer: &Answer, field: &str) -> u64 {
    let text = answer.head.field(field).unwrap_or_else(|| panic!("no {field}: {}", answer.head.text));
    text.parse().expect("a number")
}

/// A call of each dialect: path, body, what an error looks like, and whether the server tells the usage.
fn calls() -> Vec<(&'static str, Value, &'static str, bool)> {
    let messages = json!([{ "role": "user", "content": "two words" }]);
    let chat = |more: Value| {
        let mut body = json!({ "model": "llava", "messages": messages });
        body.as_object_mut().expect("a mapping").extend(more.as_object().expect("a mapping").clone());
        body
    };
    vec![
        ("/api/generate", json!({ "model": "llava", "prompt": "two words" }), "/error", true),
        ("/api/generate", json!({ "model": "llava", "prompt": "two words", "stream": false }), "/error", true),
        ("/api/chat", chat(json!({})), "/error", true),
        ("/api/chat", chat(json!({ "stream": false })), "/error", true),
        ("/api/embed", json!({ "model": "llava", "input": "two words" }), "/error", true),
        ("/v1/chat/completions", chat(json!({})), "/error/message", true),
        ("/v1/chat/completions", chat(json!({ "stream": true })), "/error/message", false),
        (
            "/v1/chat/completions",
            chat(json!({ "stream": true, "stream_options": { "include_usage": true } })),
            "/error/message",
            true,
        ),
        ("/v1/completions", json!({ "model": "llava", "prompt": "two words" }), "/error/message", true),
        (
            "/v1/completions",
            json!({ "model": "llava", "prompt": "two words", "stream": true }),
            "/error/message",
            false,
        ),
        ("/v1/embeddings", json!({ "model": "llava", "input": "two words" }), "/error/message", true),
        ("/v1/responses", json!({ "model": "llava", "input": "two words" }), "/error/message", true),
        ("/v1/responses", json!({ "model": "llava", "input": "two words", "stream": true }), "/error/message", true),
        ("/v1/messages", chat(json!({ "max_tokens": 9 })), "/error/message", true),
        ("/v1/messages", chat(json!({ "max_tokens": 9, "stream": true })), "/error/message", true),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn each_dialect_is_charged_what_the_server_told_and_refused_in_its_own_words() {
    let (host, proxy) =
        limited(&["name: case, key: \"header:x-case\", limit: 1, every: month, warn_at: 100%"], "").await;
    let mut without = 0;
    for (number_of_case, (path, body, message, tells)) in calls().into_iter().enumerate() {
        let field = format!("X-Case: {number_of_case}\r\nAccept-Encoding: gzip\r\n");
        let body = body.to_string();
        let answer = send_with(proxy.address(), "POST", path, &field, &body).await;
        assert_eq!((answer.head.status, answer.whole), (200, true), "{path} {body}: {}", answer.text());
        assert_eq!(
            (number(&answer, "x-ratelimit-limit-tokens"), number(&answer, "x-ratelimit-remaining-tokens")),
            (1, 1)
        );
        assert_eq!(answer.head.field("x-arriero-quota-warning"), None);
        let entries = host.ledger().inference();
        let entry = entries.last().expect("it came");
        assert_eq!(entry.header("accept-encoding"), None, "what a server compresses cannot be read");

        let key = format!("key=header:x-case={number_of_case}");
        let total = used(&proxy, &key).await;
        let row = show(&proxy, &format!("/quotas?{key}")).await["quotas"][0].clone();
        let (prompt, output) = (row["promptTokens"].as_u64(), row["outputTokens"].as_u64());
        assert_eq!(Some(total), prompt.zip(output).map(|(prompt, output)| prompt + output), "{row}");
        let embeds = path.contains("embed");
        assert_eq!(output, Some(if embeds { 0 } else { 5 }), "{path} {body}: {row}");
        assert_eq!(prompt.is_some_and(|prompt| prompt > 0), tells, "{path} {body}: {row}");
        without += u32::from(!tells);
        let series = "arriero_quota_untold_total{route=\"all\"}";
        assert_eq!(proxy.metric(series).await, f64::from(without), "{path} {body}");

        let before = inference(&host);
        let refused = send_with(proxy.address(), "POST", path, &field, &body).await;
        assert_eq!((refused.head.status, refused.reason()), (429, Some("quota_exceeded")), "{path}");
        let said = parsed(&refused);
        let said = said.pointer(message).and_then(Value::as_str).unwrap_or_else(|| panic!("{path}: {said}"));
        assert!(said.contains("the token quota `case` is used up: 1 tokens a month"), "{said}");
        let wait = number(&refused, "retry-after");
        assert!((1..=31 * 86_400).contains(&wait), "{wait}");
        assert_eq!((number(&refused, "ratelimit-limit"), number(&refused, "ratelimit-remaining")), (1, 0));
        assert_eq!(number(&refused, "x-ratelimit-remaining-tokens"), 0);
        assert!(number(&refused, "ratelimit-reset") >= wait.saturating_sub(1));
        assert_eq!(inference(&host), before, "no server heard of it");
    }
    let cases = calls().len();
    assert_eq!(ended(&proxy, "quota_exceeded").await, cases as f64);
    assert_eq!(proxy.metric("arriero_quota_refused_total{route=\"all\",quota=\"case\"}").await, cases as f64);
    assert_eq!(proxy.metric("arriero_quota_keys{quota=\"case\",state=\"exceeded\"}").await, cases as f64);
    assert!(proxy.metric("arriero_quota_tokens_total{quota=\"case\"}").await >= cases as f64);
    // What uses no tokens is neither refused nor charged.
    for path in ["/api/tags", "/v1/models", "/api/version"] {
        let answer = send_with(proxy.address(), "GET", path, "X-Case: 1\r\n", "").await;
        assert_eq!(answer.head.status, 200, "{path}");
    }
    let unknown =
        send_with(proxy.address(), "POST", "/api/generate", "X-Case: new\r\n", generate("nobody-has-it")).await;
    assert_eq!(unknown.head.status, 404);
    assert_eq!(show(&proxy, "/quotas?key=header:x-case=new").await["count"], 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_limit_refuses_the_next_request_and_never_one_that_runs() {
    let fleet = mixed_fleet(&[&["slow"], &["llava"]]).await;
    let urls: Vec<String> = fleet.hosts.iter().map(Host::url).collect();
    let text = support::ollama_yaml(&urls, "") + &quotas(&["name: all, key: all, limit: 1, every: month"]);
    let proxy = proxy(text).await;
    fleet.hosts[0].faults().always(Fault::SlowTokens(std::time::Duration::from_millis(1)));
    let mut running = H1::connect(proxy.address()).await;
    let body = r#"{"model":"slow","prompt":"x","options":{"num_predict":40}}"#;
    running.send(post("/api/generate", body)).await;
    let head = running.reader.head().await;
    assert_eq!(head.status, 200);
    fleet.hosts[0].token_gate().close();
    // Another one that was let in uses all of it.
    let other = ask(&proxy).await;
    let first = told(&other);
    assert_eq!(used(&proxy, "quota=all").await, first);
    let refused = ask(&proxy).await;
    assert_eq!((refused.head.status, refused.reason()), (429, Some("quota_exceeded")));
    fleet.hosts[0].token_gate().open();
    let (body, whole) = running.reader.body(&head).await;
    let text = String::from_utf8(body).expect("text");
    assert!(whole, "{text}");
    let last: Value = serde_json::from_str(text.lines().last().expect("a line")).expect("JSON");
    assert_eq!(last["done"], true, "the stream is whole: {last}");
    let more = last["prompt_eval_count"].as_u64().expect("a number") + last["eval_count"].as_u64().expect("a number");
    eventually("both are charged", || async { row(&proxy, "all").await["used"] == first + more }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_is_given_up_is_charged_by_its_pieces() {
    let (host, proxy) = limited(&["name: all, key: all, tokens: output, limit: 100, every: month"], "").await;
    host.faults().always(Fault::StallAfterTokens(3));
    let mut client = H1::connect(proxy.address()).await;
    client.send(post("/api/generate", r#"{"model":"llava","prompt":"x"}"#)).await;
    assert_eq!(client.reader.head().await.status, 200);
    let mut text = String::new();
    while text.lines().count() < 3 {
        match client.reader.chunk().await {
            Chunk::Data(data) => text.push_str(std::str::from_utf8(&data).expect("text")),
            end => panic!("{end:?} after {text}"),
        }
    }
    drop(client);
    assert_eq!(used(&proxy, "quota=all").await, 3);
    assert_eq!(row(&proxy, "all").await["promptTokens"], 0);
    assert_eq!(proxy.metric("arriero_quota_untold_total{route=\"all\"}").await, 1.0);
    // One that a server answers with an error costs nothing.
    host.faults().clear();
    host.faults().next(1, Fault::Status(500, "{\"error\":\"x\"}".to_owned()));
    assert_eq!(ask(&proxy).await.head.status, 500);
    eventually("it has ended", || async { ended(&proxy, "upstream_error").await == 1.0 }).await;
    assert_eq!(row(&proxy, "all").await["used"], 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn people_are_warned_once_and_a_reload_keeps_what_was_used() {
    let receiver = Small::start(|_| reply(200, "text/plain", "")).await;
    let hook = format!("notifications: [{{ url: \"{}/hook\", window: 0s }}]\n", receiver.url());
    let daily = |limit: u64, more: &str| format!("name: daily, key: all, limit: {limit}, every: month{more}");
    let (host, proxy) = limited(&[&daily(1_000_000, "")], &hook).await;
    let first = ask(&proxy).await;
    let each = told(&first);
    assert_eq!(number(&first, "x-ratelimit-remaining-tokens"), 1_000_000);
    assert_eq!(used(&proxy, "quota=daily").await, each);
    assert_eq!(row(&proxy, "daily").await["state"], "within");

    reload(&proxy, &yaml(&host, &[&daily(2 * each, ", warn_at: 50%")], &hook));
    let now = row(&proxy, "daily").await;
    assert_eq!((now["used"].as_u64(), &now["state"], now["left"].as_u64()), (Some(each), &json!("warned"), Some(each)));
    let warned = ask(&proxy).await;
    assert_eq!((warned.head.status, warned.head.field("x-arriero-quota-warning")), (200, Some("daily; used=50%")));
    eventually("all is used", || async { row(&proxy, "daily").await["state"] == "exceeded" }).await;
    for _ in 0..3 {
        assert_eq!(ask(&proxy).await.head.status, 429);
    }
    let events = || -> Vec<Value> {
        receiver.got().iter().map(|got| serde_json::from_slice(&got.body).expect("JSON")).collect()
    };
    let of = |kind: &str| events().into_iter().filter(|event| event["event"] == kind).collect::<Vec<Value>>();
    eventually("both are told", || async { !of("quota_exceeded").is_empty() && !of("quota_warning").is_empty() }).await;
    let (warnings, exceeded) = (of("quota_warning"), of("quota_exceeded"));
    assert_eq!((warnings.len(), exceeded.len()), (1, 1), "once: {:?}", events());
    assert_eq!(exceeded[0]["subject"], "daily all");
    let said = exceeded[0]["message"].as_str().expect("a text");
    assert!(said.contains(&format!("is used up: {} of {} tokens, 100%", 2 * each, 2 * each)), "{said}");

    // A higher limit lets in at once, and one that only warns lets in all.
    reload(&proxy, &yaml(&host, &[&daily(3 * each, "")], &hook));
    assert_eq!(ask(&proxy).await.head.status, 200);
    eventually("all is used again", || async { row(&proxy, "daily").await["state"] == "exceeded" }).await;
    assert_eq!(ask(&proxy).await.head.status, 429);
    reload(&proxy, &yaml(&host, &[&daily(3 * each, ", beyond: warn")], &hook));
    let beyond = ask(&proxy).await;
    assert_eq!(beyond.head.status, 200);
    assert_eq!(beyond.head.field("x-ratelimit-remaining-tokens"), None, "nothing holds it back");
    assert_eq!(beyond.head.field("x-arriero-quota-warning"), Some("daily; used=100%"));
    // What is counted by something else, or in another time, begins anew; and by another name too.
    let other = format!("name: daily, key: route, limit: {each}, every: month");
    reload(&proxy, &yaml(&host, &[&other], &hook));
    assert_eq!(ask(&proxy).await.head.status, 200);
    eventually("charged", || async { row(&proxy, "daily").await["key"] == "route=all" }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_quota_that_only_warns_is_not_the_strictest() {
    let list =
        ["name: soft, key: all, limit: 1, every: month, beyond: warn", "name: hard, key: all, limit: 1M, every: month"];
    let (_host, proxy) = limited(&list, "").await;
    let first = told(&ask(&proxy).await);
    assert_eq!(used(&proxy, "quota=hard").await, first);
    let second = ask(&proxy).await;
    assert_eq!(second.head.status, 200);
    assert_eq!(number(&second, "x-ratelimit-limit-tokens"), 1_000_000);
    assert_eq!(number(&second, "x-ratelimit-remaining-tokens"), 1_000_000 - first);
    assert!(second.head.field("x-arriero-quota-warning").is_some_and(|text| text.starts_with("soft; used=")));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_begins_a_window_anew() {
    let keys = KeysFile::new(&[("0000000a", ""), ("0000000b", "")]);
    let list = ["name: daily, limit: 1, every: month", "name: hourly, key: all, limit: 1G, every: hour"];
    let (_host, proxy) = limited(&list, &keys.yaml()).await;
    let as_key = async |id: &str| {
        let answer = send_with(proxy.address(), "POST", "/api/generate", &bearer(id), generate("llava")).await;
        answer.head.status
    };
    for id in ["0000000a", "0000000b"] {
        assert_eq!(as_key(id).await, 200);
        used(&proxy, &format!("quota=daily&key={id}")).await;
        assert_eq!(as_key(id).await, 429);
    }
    let all = show(&proxy, "/quotas").await;
    assert_eq!((&all["count"], &all["total"], &all["durable"]), (&json!(3), &json!(3), &json!(false)));
    assert_eq!((&all["configured"], &all["quotas"][0]["beyond"]), (&json!(["daily", "hourly"]), &json!("refuse")));
    assert_eq!(show(&proxy, "/quotas?state=exceeded&limit=1").await["total"], 2);
    assert_eq!(show(&proxy, "/quotas?key=test").await["count"], 2, "by the name of the keys");
    let reset =
        order(&proxy, "/quotas/reset", r#"{"quota":"daily","key":"0000000a","reason":"paid","who":"ana"}"#).await;
    assert_eq!((&reset["reset"], &reset["quotas"][0]["key"]), (&json!(1), &json!("api_key=0000000a")));
    assert_eq!((as_key("0000000a").await, as_key("0000000b").await), (200, 429));
    used(&proxy, "quota=daily&key=0000000a").await;
    let reset = order(&proxy, "/quotas/reset", r#"{"quota":"daily","all":true}"#).await;
    assert_eq!(reset["reset"], 2);
    assert_eq!((as_key("0000000a").await, as_key("0000000b").await), (200, 200));

    let refused = async |body: &str| problem(&call(&proxy, "POST", "/quotas/reset", body).await);
    assert_eq!(refused(r#"{"quota":"weekly","all":true}"#).await, (404, "there is no quota `weekly`".to_owned()));
    assert_eq!(refused(r#"{"quota":"daily","key":"x"}"#).await.0, 404);
    for bad in ["{}", r#"{"quota":"daily"}"#, r#"{"quota":"daily","key":"a","all":true}"#, r#"{"quotas":"daily"}"#] {
        assert_eq!(refused(bad).await.0, 400, "{bad}");
    }
    assert_eq!(problem(&call(&proxy, "GET", "/quotas?state=full", "").await).0, 400);
    assert_eq!(problem(&call(&proxy, "GET", "/quotas?quota=weekly", "").await).0, 404);
    eventually("it is audited", || async {
        let audit = show(&proxy, "/audit").await;
        let lines = audit["audit"].as_array().expect("a list").clone();
        lines
            .iter()
            .any(|line| line["detail"] == "quota daily of 0000000a: 1 windows begun anew" && line["status"] == 200)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_have_amounts_of_their_own_and_an_edit_of_their_file_is_enough() {
    let keys = KeysFile::new(&[("0000000a", "quotas: { daily: 1 }"), ("0000000b", "")]);
    // Without a limit of its own it holds for keys with amounts alone.
    let (_host, proxy) = limited(&["name: daily, every: month"], &keys.yaml()).await;
    let as_key =
        async |id: &str| send_with(proxy.address(), "POST", "/api/generate", &bearer(id), generate("llava")).await;
    for _ in 0..3 {
        let answer = as_key("0000000b").await;
        assert_eq!((answer.head.status, answer.head.field("x-ratelimit-limit-tokens")), (200, None));
    }
    assert_eq!(number(&as_key("0000000a").await, "x-ratelimit-limit-tokens"), 1);
    used(&proxy, "key=0000000a").await;
    assert_eq!(as_key("0000000a").await.head.status, 429);
    assert_eq!(show(&proxy, "/quotas").await["count"], 1, "nobody else is counted");
    keys.write(&[("0000000a", "quotas: { daily: 1M }"), ("0000000b", "")]);
    eventually("the new amount is in force", || async { as_key("0000000a").await.head.status == 200 }).await;
    assert_eq!(row(&proxy, "daily").await["limit"], 1_000_000);
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_models_and_routes_that_are_named_are_counted() {
    let fleet = fleet(1, &["llava", "mistral"]).await;
    let routes =
        "routes:\n  - { name: v1, match: { path: /v1/ }, upstream: fleet }\n  - { name: rest, upstream: fleet }\n";
    let list = [
        "name: vision, key: [model], limit: 1, every: month, models: [\"LLaVA*\"]",
        "name: v1, key: route, limit: 1, every: month, routes: [v1]",
    ];
    let text = format!("version: 1\n{H2C}{routes}{}{}", upstream(&fleet.hosts[0].url(), "ollama"), quotas(&list));
    let proxy = proxy(text).await;
    let native = async |model: &str| send(proxy.address(), "POST", "/api/generate", generate(model)).await.head.status;
    let v1 = async |model: &str| {
        let body = json!({ "model": model, "prompt": "x", "max_tokens": 1 }).to_string();
        send(proxy.address(), "POST", "/v1/completions", body).await
    };
    assert_eq!(native("library/LLaVA").await, 200);
    used(&proxy, "quota=vision").await;
    assert_eq!((native("llava").await, native("llava:latest").await, native("mistral").await), (429, 429, 200));
    assert_eq!(row(&proxy, "vision").await["key"], "model=llava:latest");
    assert_eq!(v1("mistral").await.head.status, 200);
    used(&proxy, "quota=v1").await;
    assert_eq!((v1("mistral").await.head.status, native("mistral").await), (429, 200));
    // Of two that are used up the one is told that lasts longest; both end with the month here.
    assert!(v1("llava").await.text().contains("quota `vision`"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_a_quota_refuses_counts_at_no_rate_limit() {
    let config = HostConfig::new("gpu").small_model("llava").tokens(1);
    let host = Host::start(config).await.expect("a host");
    let text = |limit: &str| {
        format!(
            "version: 1\n{H2C}routes: [{{ name: all, upstream: fleet, rate_limits: [{{ rate: 1/h, burst: 1 }}] }}]\n{}{}",
            upstream(&host.url(), "ollama"),
            quotas(&[&format!("name: all, key: all, limit: {limit}, every: month")])
        )
    };
    let proxy = proxy(text("1")).await;
    assert_eq!(ask(&proxy).await.head.status, 200);
    used(&proxy, "quota=all").await;
    for _ in 0..3 {
        assert_eq!(ask(&proxy).await.reason(), Some("quota_exceeded"));
    }
    reload(&proxy, &text("1M"));
    assert_eq!(ask(&proxy).await.head.status, 200, "the rate limit still has one");
    assert_eq!(ask(&proxy).await.reason(), Some("rate_limited"));
}

/// Requests are let in while less than the limit is used, so it is exceeded by what those use that run then.
#[tokio::test(flavor = "multi_thread")]
async fn many_clients_at_a_time_exceed_a_limit_by_what_runs_at_most() {
    const CLIENTS: u64 = 8;
    let (_host, probe) = limited(&["name: all, key: all, limit: 1G, every: month"], "").await;
    let each = told(&ask(&probe).await);
    let limit = 40 * each;
    let (host, proxy) = limited(&[&format!("name: all, key: all, limit: {limit}, every: month")], "").await;
    let address = proxy.address();
    let clients = (0..CLIENTS).map(|_| {
        tokio::spawn(async move {
            let mut client = H1::connect(address).await;
            loop {
                let answer = client.ask(request("POST", "/api/generate", "", generate("llava"))).await;
                match answer.head.status {
                    200 => {}
                    status => return status,
                }
            }
        })
    });
    for client in clients.collect::<Vec<_>>() {
        assert_eq!(client.await.expect("it ends"), 429);
    }
    let used = used(&proxy, "quota=all").await;
    assert_eq!(used, inference(&host) as u64 * each, "each is charged once");
    assert!((limit..limit + CLIENTS * each).contains(&used), "{used} of {limit}, {each} each");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_used_outlives_a_kill_and_the_command_line_shows_it() {
    let fleet = fleet(1, &["llava"]).await;
    let folder = tempfile::tempdir().expect("a folder");
    let keys = KeysFile::new(&[("0000000a", "quotas: { monthly: 2 }")]);
    let text = format!(
        "version: 1\nroutes: [{{ name: all, upstream: fleet }}]\nserver: {{ data_dir: data }}\n{}{}{}",
        upstream(&fleet.hosts[0].url(), "ollama"),
        quotas(&["name: monthly, limit: 1, every: month"]),
        keys.yaml()
    );
    let file = folder.path().join("arriero.yaml");
    std::fs::write(&file, complete(&text)).expect("written");
    let ask = async |program: &Program| {
        send_with(program.address(), "POST", "/api/generate", &bearer("0000000a"), generate("llava")).await
    };
    let mut program = Program::run(&file).await;
    let used = told(&ask(&program).await);
    let stored = || {
        let file = rusqlite::Connection::open(folder.path().join("data/arriero.db")).expect("a file");
        file.query_row("SELECT subject, prompt + output FROM quotas WHERE quota = 'monthly'", [], |row| {
            Ok((row.get::<_, String>(0)?, row.get::<_, i64>(1)?))
        })
    };
    let wanted = ("api_key=0000000a".to_owned(), i64::try_from(used).expect("small"));
    eventually("it is in the file", || async { stored().is_ok_and(|stored| stored == wanted) }).await;
    program.signal(Signal::KILL);
    program.ended().await;

    let program = Program::run(&file).await;
    let refused = ask(&program).await;
    assert_eq!((refused.head.status, refused.reason()), (429, Some("quota_exceeded")), "{}", refused.text());
    let admin = program.admin().to_string();
    let run =
        async |arguments: &[&str]| finish(arriero(&[arguments, &["--admin", &admin]].concat(), folder.path())).await;
    let shown = run(&["quota"]).await;
    assert_eq!(shown.code, Some(0), "{shown:?}");
    let line = shown.out.lines().nth(1).expect("a line");
    let cells: Vec<&str> = line.split_whitespace().take(6).collect();
    assert_eq!(cells, ["monthly", "api_key=0000000a", "test", &used.to_string(), "2", "0"], "{}", shown.out);
    let listed: Value = serde_json::from_str(&run(&["quota", "--key", "0000000a", "--json"]).await.out).expect("JSON");
    assert_eq!((&listed["durable"], &listed["quotas"][0]["used"]), (&json!(true), &json!(used)));
    let none = run(&["quota", "reset", "monthly"]).await;
    assert_eq!(none.code, Some(2), "whose? {none:?}");
    let reset = run(&["quota", "reset", "monthly", "0000000a", "--reason", "paid"]).await;
    assert_eq!(reset.code, Some(0), "{reset:?}");
    assert!(reset.out.ends_with("1 window begun anew\n"), "{}", reset.out);
    assert_eq!(ask(&program).await.head.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn embeddings_that_are_kept_cost_nothing() {
    let host = Host::start(HostConfig::new("gpu").small_model("m")).await.expect("a host");
    let route = "routes: [{ name: all, upstream: fleet, embeddings_cache: { scope: shared } }]\n";
    let quota = quotas(&["name: daily, key: all, limit: 1K, every: day"]);
    let proxy = proxy(format!("version: 1\n{H2C}{route}{}{quota}", upstream(&host.url(), "ollama"))).await;
    let embed = async |input: Value| {
        let body = json!({ "model": "m", "input": input }).to_string();
        let answer = send_with(proxy.address(), "POST", "/api/embed", "Accept-Encoding: gzip\r\n", body).await;
        assert_eq!(answer.head.status, 200, "{}", answer.text());
        (answer.head.field("cache-status").expect("told").to_owned(), parsed(&answer))
    };
    let charged = async || used(&proxy, "quota=daily").await;
    let (_, first) = embed(json!(["one text", "another"])).await;
    let cost = first["prompt_eval_count"].as_u64().expect("a count");
    assert_eq!((cost > 0, charged().await), (true, cost));
    let (status, _) = embed(json!(["another", "one text"])).await;
    assert!(status.contains("hit"), "{status}");
    assert_eq!(charged().await, cost, "nobody worked for it");
    let (_, part) = embed(json!(["another", "a third one", "one text"])).await;
    let more = part["prompt_eval_count"].as_u64().expect("a count");
    assert!(more > 0 && more <= cost, "one text of three");
    eventually("the one that was new is charged", || async { charged().await == cost + more }).await;
}
