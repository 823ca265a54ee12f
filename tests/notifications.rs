//! Webhooks are told what happens: signed, until they take it, once, and what ends a problem too.

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use arriero::clock;
use arriero::config::types::{CertificateFiles, ListenerTls, MinVersion};
use arriero::demo::HostConfig;
use arriero::fleet::listener_tls::ListenerTls as Front;
use bytes::Bytes;
use hmac::{Hmac, Mac};
use http::Response;
use http_body_util::Full;
use serde_json::{Value, json};
use sha2::Sha256;
use support::admin::{call, json as parsed, order, problem, show};
use support::authority::Authority;
use support::fleet::{Got, Small, fleet, generate, reply, request, send};
use support::process::{Program, arriero, complete};
use support::wire::{H1, proxy};
use support::{Proxy, eventually, http_yaml, upstream_yaml};
use tokio_rustls::TlsAcceptor;

const SECRET: &str = "a secret of both sides";
/// Checks in quick succession, the first of which decides.
const CHECKED: &str = "health: { active: { interval: 20ms, timeout: 2s, healthy: 1, unhealthy: 1 } }";

/// A webhook that takes everything.
async fn receiver() -> Small {
    Small::start(|_| reply(200, "text/plain", "")).await
}

/// What it was told, in order.
fn told(receiver: &Small) -> Vec<Value> {
    receiver.got().iter().map(|got| serde_json::from_slice(&got.body).expect("JSON")).collect()
}

/// The events among that, each with its subject.
fn events(receiver: &Small) -> Vec<(String, String)> {
    let text = |value: &Value| value.as_str().expect("a text").to_owned();
    told(receiver).iter().map(|message| (text(&message["event"]), text(&message["subject"]))).collect()
}

/// Waits until it was told of an event; returns the message.
async fn message(receiver: &Small, event: &str) -> Value {
    let find = || told(receiver).into_iter().find(|message| message["event"] == event);
    eventually(&format!("told of {event}"), || async { find().is_some() }).await;
    find().expect("it is there")
}

/// The block of webhooks.
fn hooks(list: &[String]) -> String {
    format!("notifications:\n{}", list.iter().map(|hook| format!("  - {{ {hook} }}\n")).collect::<String>())
}

fn hook(receiver: &Small, more: &str) -> String {
    format!("url: \"{}/hook?key=hidden\"{more}", receiver.url())
}

/// What is known of the last messages.
async fn deliveries(proxy: &Proxy) -> Vec<Value> {
    show(proxy, "/notifications").await["deliveries"].as_array().expect("a list").clone()
}

/// Computed as a receiver does, with nothing of ours.
fn signature(got: &Got, secret: &str) -> String {
    let timestamp = got.fields["x-arriero-timestamp"].to_str().expect("digits");
    let mut mac = Hmac::<Sha256>::new_from_slice(secret.as_bytes()).expect("any key");
    mac.update(&[timestamp.as_bytes(), b".", &got.body].concat());
    let hex: String = mac.finalize().into_bytes().iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256={hex}")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_goes_down_and_comes_back_is_told_signed() {
    let (fleet, receiver, folder) = (fleet(1, &["m"]).await, receiver().await, tempfile::tempdir().expect("a folder"));
    let host = &fleet.hosts[0];
    let secret = folder.path().join("secret");
    std::fs::write(&secret, format!("{SECRET}\n")).expect("written");
    let hook = hook(&receiver, &format!(", secret_file: \"{}\"", secret.display()));
    let proxy = proxy(upstream_yaml("ollama", &fleet.urls(), "", CHECKED) + &hooks(&[hook])).await;
    // Nobody needs to hear that a server is up that was never down.
    host.kill().await;
    let down = message(&receiver, "server_down").await;
    assert_eq!(events(&receiver).len(), 1, "{:?}", events(&receiver));
    let subject = format!("fleet/{}", host.address());
    assert_eq!((&down["subject"], down["id"].as_str().map(str::len)), (&subject.as_str().into(), Some(32)), "{down}");
    let said = down["message"].as_str().expect("a text");
    assert!(said.contains(&host.url()) && said.contains("is down: "), "{said}");
    assert!(down["fix"].as_str().is_some_and(|fix| fix.contains("recovery-failures")), "{down}");
    assert!(down["instance"].as_str().is_some_and(|name| !name.is_empty()), "{down}");
    let at = time::OffsetDateTime::parse(
        down["at"].as_str().expect("a time"),
        &time::format_description::well_known::Rfc3339,
    );
    let age = clock::unix_seconds() - at.expect("RFC 3339").unix_timestamp();
    assert!((0..60).contains(&age), "{age}");

    let got = receiver.got().remove(0);
    assert_eq!((got.method.as_str(), got.path.as_str()), ("POST", "/hook?key=hidden"));
    assert_eq!(got.fields["content-type"], "application/json");
    assert_eq!(got.fields["x-arriero-delivery"], down["id"].as_str().expect("a text"));
    assert_eq!(got.fields["x-arriero-signature"], signature(&got, SECRET).as_str());
    let timestamp: i64 = got.fields["x-arriero-timestamp"].to_str().expect("digits").parse().expect("a number");
    assert!((0..60).contains(&(clock::unix_seconds() - timestamp)));

    // Another secret is in force at once.
    std::fs::write(&secret, "another").expect("written");
    host.restart().await.expect("the port is ours");
    let up = message(&receiver, "server_up").await;
    assert_eq!((&up["subject"], &up["resolves"]), (&down["subject"], &"server_down".into()), "{up}");
    assert!(up.get("fix").is_none() && up["id"] != down["id"], "{up}");
    let got = receiver.got().remove(1);
    assert_eq!(got.fields["x-arriero-signature"], signature(&got, "another").as_str());

    eventually("both delivered", || async { deliveries(&proxy).await.iter().all(|one| one["state"] == "delivered") })
        .await;
    let shown = show(&proxy, "/notifications").await;
    assert_eq!((&shown["count"], &shown["hooks"][0]["signed"]), (&2.into(), &true.into()), "{shown}");
    let delivery = &shown["deliveries"][0];
    assert_eq!((&delivery["event"], &delivery["status"]), (&"server_up".into(), &200.into()), "{delivery}");
    let text = shown.to_string();
    assert!(!text.contains("hidden") && !text.contains("another") && text.contains(&receiver.url()), "{text}");
    assert_eq!(show(&proxy, "/notifications?limit=1").await["count"], 1);
    let delivered = |event: &str| format!("arriero_notifications_total{{event=\"{event}\",result=\"delivered\"}}");
    assert_eq!(proxy.metric(&delivered("server_down")).await, 1.0);
}

/// A server that is down from the beginning, and a webhook that is told.
async fn told_to(receiver_url: &str, more: &str) -> Proxy {
    let nobody = "http://127.0.0.1:9".to_owned();
    let hook = format!("url: \"{receiver_url}\", events: [server_down]{more}");
    proxy(upstream_yaml("ollama", &[nobody], "", CHECKED) + &hooks(&[hook])).await
}

fn unavailable(retry_after: &str) -> Response<Full<Bytes>> {
    let mut answer = reply(503, "text/plain", "not now");
    answer.headers_mut().insert("retry-after", retry_after.parse().expect("a value"));
    answer
}

#[tokio::test(flavor = "multi_thread")]
async fn a_receiver_that_cannot_now_is_asked_again_with_the_same_message() {
    let count = AtomicUsize::new(0);
    let receiver = Small::start(move |_| match count.fetch_add(1, Ordering::Relaxed) {
        0 => unavailable("0"),
        1 => reply(429, "text/plain", ""),
        _ => reply(204, "text/plain", ""),
    })
    .await;
    let proxy = told_to(&receiver.url(), "").await;
    eventually("delivered", || async {
        deliveries(&proxy).await.first().is_some_and(|one| one["state"] == "delivered")
    })
    .await;
    let delivery = deliveries(&proxy).await.remove(0);
    assert_eq!((&delivery["attempts"], &delivery["status"]), (&3.into(), &204.into()), "{delivery}");
    let got = receiver.got();
    assert!(got.len() == 3 && got.iter().all(|one| one.body == got[0].body), "{got:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn retry_after_is_heeded() {
    let receiver = Small::start(|_| unavailable("1800")).await;
    let proxy = told_to(&receiver.url(), "").await;
    eventually("retrying", || async { deliveries(&proxy).await.first().is_some_and(|one| one["state"] == "retrying") })
        .await;
    let delivery = deliveries(&proxy).await.remove(0);
    assert_eq!((&delivery["attempts"], &delivery["error"]), (&1.into(), &"status 503: not now".into()), "{delivery}");
    let next = delivery["nextAttemptAt"].as_str().expect("a time");
    let next = time::OffsetDateTime::parse(next, &time::format_description::well_known::Rfc3339).expect("RFC 3339");
    let wait = next.unix_timestamp() - clock::unix_seconds();
    assert!((1700..=1800).contains(&wait), "{wait}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_refused_for_good_is_sent_once_and_nobody_is_sent_elsewhere() {
    let elsewhere = receiver().await;
    let target = elsewhere.url();
    let moved = Small::start(move |_| {
        let mut answer = reply(307, "text/plain", "");
        answer.headers_mut().insert("location", target.parse().expect("a value"));
        answer
    })
    .await;
    let refusing = Small::start(|_| reply(400, "text/plain", "no such field")).await;
    for (receiver, error) in [(&moved, "redirects are not followed"), (&refusing, "no such field")] {
        let proxy = told_to(&receiver.url(), "").await;
        eventually("failed", || async { deliveries(&proxy).await.first().is_some_and(|one| one["state"] == "failed") })
            .await;
        let delivery = deliveries(&proxy).await.remove(0);
        assert!(delivery["error"].as_str().is_some_and(|text| text.contains(error)), "{delivery}");
        assert_eq!((&delivery["attempts"], receiver.got().len()), (&1.into(), 1), "{delivery}");
    }
    assert!(elsewhere.got().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_receiver_that_is_not_there_is_tried_again_and_given_up() {
    let gone = receiver().await.url();
    let proxy = told_to(&gone, ", attempts: 2").await;
    eventually("failed", || async { deliveries(&proxy).await.first().is_some_and(|one| one["state"] == "failed") })
        .await;
    assert_eq!(deliveries(&proxy).await[0]["attempts"], 2);
    let failed = "arriero_notifications_total{event=\"server_down\",result=\"failed\"}";
    eventually("counted", || async { proxy.metric(failed).await == 1.0 }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_whose_secret_is_gone_is_not_sent_unsigned() {
    let (receiver, folder) = (receiver().await, tempfile::tempdir().expect("a folder"));
    let (secret, fleet) = (folder.path().join("secret"), fleet(1, &["m"]).await);
    std::fs::write(&secret, SECRET).expect("written");
    let hook = hook(&receiver, &format!(", secret_file: \"{}\", attempts: 1", secret.display()));
    let proxy = proxy(upstream_yaml("ollama", &fleet.urls(), "", CHECKED) + &hooks(&[hook])).await;
    std::fs::remove_file(&secret).expect("it was there");
    fleet.hosts[0].kill().await;
    eventually("failed", || async { deliveries(&proxy).await.first().is_some_and(|one| one["state"] == "failed") })
        .await;
    let error = deliveries(&proxy).await[0]["error"].clone();
    assert!(error.as_str().is_some_and(|text| text.starts_with("the secret cannot be read")), "{error}");
    assert!(receiver.got().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_flaps_is_told_once_and_each_webhook_hears_what_it_wants() {
    let (fleet, all, ends) = (fleet(1, &["m"]).await, receiver().await, receiver().await);
    let host = &fleet.hosts[0];
    let list = [hook(&all, ", window: 1h"), hook(&ends, ", events: [server_up], window: 0s")];
    let proxy = proxy(upstream_yaml("ollama", &fleet.urls(), "", CHECKED) + &hooks(&list)).await;
    let up = format!("arriero_server_up{{upstream=\"fleet\",server=\"{}\"}}", host.address());
    for round in 1..=3 {
        host.kill().await;
        eventually("down", || async { proxy.metric(&up).await == 0.0 }).await;
        host.restart().await.expect("the port is ours");
        eventually("up", || async { proxy.metric(&up).await == 1.0 }).await;
        eventually("each end is told", || async { events(&ends).len() == round }).await;
    }
    let server = format!("fleet/{}", host.address());
    let expected = [("server_down".to_owned(), server.clone()), ("server_up".to_owned(), server)];
    eventually("told", || async { events(&all).len() >= 2 }).await;
    assert_eq!(events(&all), expected);
    assert!(events(&ends).iter().all(|(event, _)| event == "server_up"), "{:?}", events(&ends));
    // Of the second and the third round each end cancels the beginning that was held.
    let left_out = "arriero_notifications_total{event=\"server_up\",result=\"deduplicated\"}";
    eventually("counted", || async { proxy.metric(left_out).await == 4.0 }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_receiver_that_hangs_holds_up_nobody_else() {
    let (fleet, receiver) = (fleet(1, &["m"]).await, receiver().await);
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a socket");
    let list = [format!("url: \"http://{}\"", silent.local_addr().expect("an address")), hook(&receiver, "")];
    let _proxy = proxy(upstream_yaml("ollama", &fleet.urls(), "", CHECKED) + &hooks(&list)).await;
    fleet.hosts[0].kill().await;
    message(&receiver, "server_down").await;
    fleet.hosts[0].restart().await.expect("the port is ours");
    message(&receiver, "server_up").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn circuits_are_told_with_whose_they_are() {
    let (fleet, receiver) = (fleet(1, &["m"]).await, receiver().await);
    let host = &fleet.hosts[0];
    let more = "circuit: { consecutive_failures: 1, open_for: 1h, max_open_for: 2h }\nhealth: { active: off }\n";
    let proxy = proxy(upstream_yaml("ollama", &fleet.urls(), "", more) + &hooks(&[hook(&receiver, "")])).await;
    host.kill().await;
    assert_eq!(send(proxy.address(), "POST", "/api/generate", generate("m")).await.head.status, 502);
    let open = message(&receiver, "circuit_open").await;
    let server = format!("fleet/{}", host.address());
    assert_eq!(open["subject"], server.as_str(), "{open}");
    order(&proxy, &format!("/circuit-breakers/{}/close", host.address()), "").await;
    assert_eq!(message(&receiver, "circuit_closed").await["resolves"], "circuit_open");
    order(&proxy, &format!("/circuit-breakers/{}/m/open", host.address()), "").await;
    let of_model = (String::from("circuit_open"), format!("{server} m:latest"));
    eventually("told of the model", || async { events(&receiver).contains(&of_model) }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_queue_is_told_however_requests_are_placed() {
    for (policy, models) in [("expected_wait", "prefer_loaded"), ("least_requests", "off")] {
        let (fleet, receiver) = (fleet(1, &["m"]).await, receiver().await);
        let host = &fleet.hosts[0];
        let more = format!(
            "balance: {{ policy: {policy}, model_affinity: {models} }}\nqueue: {{ max_pending: 1, timeout: 60s }}\n"
        );
        let yaml = upstream_yaml("ollama", &fleet.urls(), "", &more).replace("url: ", "max_in_flight: 1, url: ");
        let proxy = proxy(yaml + &hooks(&[hook(&receiver, "")])).await;
        host.token_gate().close();
        let body = generate("m");
        let mut clients = Vec::new();
        for _ in 0..4 {
            let mut client = H1::connect(proxy.address()).await;
            client.send(request("POST", "/api/generate", "", &body)).await;
            clients.push(client);
        }
        let full = message(&receiver, "queue_full").await;
        assert_eq!(full["subject"], "fleet", "{full}");
        assert!(full["message"].as_str().is_some_and(|text| text.contains("`m:latest`")), "{full}");
        host.token_gate().open();
        assert_eq!(events(&receiver).iter().filter(|(event, _)| event == "queue_full").count(), 1, "{policy}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_is_refused_is_told_and_so_is_the_one_that_mends_it() {
    let (fleet, receiver) = (fleet(1, &["m"]).await, receiver().await);
    let good = upstream_yaml("ollama", &fleet.urls(), "", "") + &hooks(&[hook(&receiver, ", window: 0s")]);
    let proxy = proxy(good.clone()).await;
    // A file that was never refused is in force without a word.
    let other = format!("# the same\n{good}");
    proxy.rewrite(&other);
    let applied = "arriero_config_reloads_total{result=\"applied\"}";
    eventually("applied", || async { proxy.metric(applied).await == 1.0 }).await;
    let bad = good.replace("kind: ollama", "kind: olama");
    proxy.rewrite(&bad);
    let refused = message(&receiver, "config_refused").await;
    assert_eq!(events(&receiver).len(), 1, "{:?}", events(&receiver));
    assert_eq!(refused["subject"], proxy.file.display().to_string().as_str());
    assert!(refused["message"].as_str().is_some_and(|text| text.contains("olama")), "{refused}");
    proxy.rewrite(&good);
    assert_eq!(message(&receiver, "config_applied").await["resolves"], "config_refused");
    // So is the file that is in force, put back.
    proxy.rewrite(&bad);
    eventually("refused again", || async { events(&receiver).len() == 3 }).await;
    proxy.rewrite(&good);
    eventually("and mended", || async { events(&receiver).len() == 4 }).await;
    let words: Vec<_> = events(&receiver).into_iter().map(|(event, _)| event).collect();
    assert_eq!(words, ["config_refused", "config_applied", "config_refused", "config_applied"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_webhook_whose_settings_change_remembers_what_it_was_told() {
    let (fleet, receiver) = (fleet(1, &["m"]).await, receiver().await);
    let yaml = |more: &str| upstream_yaml("ollama", &fleet.urls(), "", CHECKED) + &hooks(&[hook(&receiver, more)]);
    let proxy = proxy(yaml("")).await;
    fleet.hosts[0].kill().await;
    message(&receiver, "server_down").await;
    proxy.rewrite(&yaml(", timeout: 7s"));
    eventually("in force", || async { show(&proxy, "/notifications").await["hooks"][0]["timeoutMs"] == 7000 }).await;
    fleet.hosts[0].restart().await.expect("the port is ours");
    // Without the memory it would be the end of nothing, and not told.
    message(&receiver, "server_up").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_go_over_tls_to_those_whom_the_system_trusts() {
    let (receiver, folder) = (receiver().await, tempfile::tempdir().expect("a folder"));
    let authority = Authority::new("hooks");
    authority.issue(&["localhost"]).write(folder.path(), "hooks");
    std::fs::write(folder.path().join("ca.pem"), authority.pem()).expect("written");
    let file = |name: &str| folder.path().join(name).display().to_string();
    let settings = ListenerTls {
        certificates: vec![CertificateFiles { cert: file("hooks.pem"), key: file("hooks.key"), ocsp: None }],
        min_version: MinVersion::Tls12,
        client_ca: None,
        client_auth: None,
    };
    let tls = Front::load(&settings, clock::unix_seconds()).expect("good files");
    let front = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a socket");
    let port = front.local_addr().expect("an address").port();
    let behind = receiver.address;
    tokio::spawn(async move {
        while let Ok((tcp, _)) = front.accept().await {
            let acceptor = TlsAcceptor::from(tls.server_config());
            tokio::spawn(async move {
                let mut outside = acceptor.accept(tcp).await?;
                let mut inside = tokio::net::TcpStream::connect(behind).await?;
                tokio::io::copy_bidirectional(&mut outside, &mut inside).await
            });
        }
    });
    let nobody = "http://127.0.0.1:9".to_owned();
    let hook = format!("url: \"https://localhost:{port}/x\", attempts: 1");
    let yaml = complete(&(upstream_yaml("ollama", &[nobody], "", CHECKED) + &hooks(&[hook])));
    std::fs::write(folder.path().join("arriero.yaml"), yaml).expect("written");
    let run = || arriero(&["run", "--config", "arriero.yaml"], folder.path());

    let stranger = Program::serving(run()).await;
    let failed = || async {
        let shown = parsed(&send(stranger.admin(), "GET", "/api/orchestrator/notifications", "").await);
        shown["deliveries"][0]["error"].as_str().is_some_and(|error| error.contains("certificate"))
    };
    eventually("not trusted", failed).await;
    assert!(receiver.got().is_empty());

    let mut command = run();
    command.env("SSL_CERT_FILE", file("ca.pem"));
    let _trusting = Program::serving(command).await;
    message(&receiver, "server_down").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_that_ends_soon_is_told() {
    let (receiver, folder) = (receiver().await, tempfile::tempdir().expect("a folder"));
    let key = rcgen::KeyPair::generate().expect("a key");
    let mut params = rcgen::CertificateParams::new(vec!["front.test".to_owned()]).expect("a name");
    let end = clock::unix_seconds() + 5 * 86_400 + 60;
    params.not_after = time::OffsetDateTime::from_unix_timestamp(end).expect("a time");
    let (cert, key_file) = (folder.path().join("cert.pem"), folder.path().join("key.pem"));
    std::fs::write(&cert, params.self_signed(&key).expect("a certificate").pem()).expect("written");
    std::fs::write(&key_file, key.serialize_pem()).expect("written");
    let server = Small::named("a").await;
    let listener = format!(
        "listeners: [{{ address: \"127.0.0.1:0\", tls: {{ certificates: [{{ cert: \"{}\", key: \"{}\" }}] }} }}]\n",
        cert.display(),
        key_file.display()
    );
    let _proxy = proxy(http_yaml(&[server.url()], "", "") + &listener + &hooks(&[hook(&receiver, "")])).await;
    let message = message(&receiver, "certificate_expiring").await;
    assert_eq!(
        (&message["subject"], &message["message"]),
        (&"front.test".into(), &"certificate `front.test` ends in 5 days".into())
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_can_send_a_test_message_and_webhooks_come_with_a_reload() {
    let host = arriero::demo::Host::start(HostConfig::new("a").small_model("m")).await.expect("a host");
    let bare = upstream_yaml("ollama", &[host.url()], "", "");
    let proxy = proxy(bare.clone()).await;
    let (status, detail) = problem(&call(&proxy, "POST", "/notifications/test", "").await);
    assert!(status == 409 && detail.contains("no webhook"), "{detail}");
    assert_eq!(
        show(&proxy, "/notifications").await,
        json!({ "success": true, "count": 0, "hooks": [], "deliveries": [] })
    );

    let good = receiver().await;
    let calls = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&calls);
    let bad = Small::start(move |_| {
        counted.fetch_add(1, Ordering::Relaxed);
        reply(500, "text/plain", "broken")
    })
    .await;
    proxy.rewrite(&(bare + &hooks(&[hook(&good, ""), hook(&bad, "")])));
    eventually("two webhooks", || async {
        show(&proxy, "/notifications").await["hooks"].as_array().map(Vec::len) == Some(2)
    })
    .await;
    let sent = || async { parsed(&call(&proxy, "POST", "/notifications/test", "").await) };
    // The webhooks are shown a moment before they are listened for.
    eventually("two are sent", || async { sent().await["count"] == 2 }).await;
    let (before, outcome) = (calls.load(Ordering::Relaxed), sent().await);
    assert_eq!((&outcome["success"], calls.load(Ordering::Relaxed) - before), (&false.into(), 1), "{outcome}");
    let [one, other] = outcome["results"].as_array().expect("a list").as_slice() else { panic!("{outcome}") };
    assert_eq!((&one["delivered"], &one["status"]), (&true.into(), &200.into()), "{outcome}");
    assert_eq!((&other["delivered"], &other["error"]), (&false.into(), &"status 500: broken".into()), "{outcome}");
    assert!(!outcome.to_string().contains("hidden"), "{outcome}");
    assert_eq!(message(&good, "test").await["subject"], "test");
}
