//! Answers to a part that nothing can be made from: the request goes to a server as it came.

use http::Response;
use http_body_util::Full;

use super::support::wire::H1;
use super::*;

type Reply = Response<Full<bytes::Bytes>>;

/// An answer of Ollama's with so many embeddings of one number.
fn good(inputs: usize) -> String {
    format!(r#"{{"model":"m","embeddings":[{}]}}"#, vec!["[1]"; inputs].join(","))
}

fn json(status: u16, text: impl Into<String>) -> Reply {
    reply(status, "application/json", text.into())
}

/// Bodies of the requests for embeddings that a server got.
fn bodies(server: &Small) -> Vec<Value> {
    let got = server.got();
    let of_embeddings = got.iter().filter(|got| got.path == "/api/embed");
    of_embeddings.map(|got| serde_json::from_slice(&got.body).expect("JSON")).collect()
}

fn odd_yaml(server: &Small) -> String {
    upstream_yaml("ollama", &[server.url()], CACHE, "health: { active: off }")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_part_that_is_not_understood_is_no_failure_of_anybody() {
    let mut compressed = json(200, good(2));
    compressed.headers_mut().insert("content-encoding", "gzip".parse().expect("a value"));
    let of_parts = [
        json(200, r#"{"embeddings":[[1],[2]],"model":"m"}"#),
        json(200, r#"{"model":"m","embeddings":[[1],[2]],"new":1}"#),
        json(200, r#"{"model":"m","embeddings":[[1],[2],[3]]}"#),
        json(200, "{"),
        json(201, good(2)),
        json(206, good(2)),
        reply(200, "text/plain", good(2)),
        compressed,
    ];
    for of_two in of_parts {
        // One input and four are answered well, two are not.
        let server = odd_as(move |inputs| if inputs == 2 { of_two.clone() } else { json(200, good(inputs)) }).await;
        let proxy = proxy(odd_yaml(&server)).await;
        assert_eq!(told(&embed(&proxy, &["a"]).await), "arriero; fwd=miss; stored");
        for _ in 0..10 {
            // Two of these are the same, and one is known.
            for texts in [["x", "y", "x", "y"], ["a", "x", "y", "a"]] {
                let answer = embed(&proxy, &texts).await;
                assert_eq!((answer.head.status, answer.text()), (200, good(4)));
                assert_eq!(told(&answer), "arriero; fwd=bypass; detail=unfit");
            }
        }
        let asked = bodies(&server);
        assert_eq!(asked.last().expect("some")["input"], serde_json::json!(["a", "x", "y", "a"]));
        assert_eq!(asked.len(), 1 + 10 * 2 * 2, "a part, and then the whole");
        assert_eq!(support::fleet::ended(&proxy, "upstream_protocol").await, 0.0);
        let closed =
            support::fleet::of_server(&proxy, "arriero_server_circuit_state", server.address, ",state=\"closed\"");
        assert_eq!(closed.await, 1.0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_part_that_cannot_be_held_is_none_either() {
    let long = |inputs: usize| {
        let vector = format!("[{}0.5]", "0.25,".repeat(20_000));
        json(200, format!(r#"{{"model":"m","embeddings":[{}]}}"#, vec![vector; inputs].join(",")))
    };
    let server = odd_as(long).await;
    let yaml = odd_yaml(&server) + "server: { body_budget: 64KiB, body_memory: 32KiB }\n";
    let proxy = proxy(yaml).await;
    for _ in 0..2 {
        let answer = embed(&proxy, &["x", "x"]).await;
        assert_eq!((answer.head.status, told(&answer)), (200, "arriero; fwd=bypass; detail=too_long"));
        assert_eq!(vectors(&answer).len(), 2);
    }
    assert_eq!(bodies(&server).len(), 4);
    assert_eq!(support::fleet::ended(&proxy, "body_budget").await, 0.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_whole_answer_that_cannot_be_held_is_compressed_from_its_first_byte_on() {
    let text = format!(r#"{{"model":"m","embeddings":[[{}0.5]]}}"#, "0.25,".repeat(40_000));
    let long = text.clone();
    let server = odd_as(move |_| json(200, long.clone())).await;
    // A quota hides from the server what the client takes, and gives it back when the head has come.
    let yaml =
        upstream_yaml("ollama", &[server.url()], &format!("{CACHE}\ncompress: [gzip]"), "health: { active: off }");
    let more = "server: { body_budget: 64KiB, body_memory: 32KiB }\n\
                quotas: [{ name: all, key: all, limit: 1G, every: month }]\n";
    let proxy = proxy(yaml + more).await;
    let fields = "Accept-Encoding: gzip\r\n";
    let answer = send_with(proxy.address(), "POST", "/api/embed", fields, body(&["a"])).await;
    assert_eq!((answer.head.status, answer.head.field("content-encoding")), (200, Some("gzip")));
    let mut plain = String::new();
    std::io::Read::read_to_string(&mut flate2::read::GzDecoder::new(&answer.body[..]), &mut plain).expect("gzip");
    assert!(plain == text, "{} bytes of {}", plain.len(), text.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_huge_list_of_what_nobody_knows_is_not_asked_for_in_part() {
    let fleet = fleet(1, &["m"]).await;
    let host = &fleet.hosts[0];
    let proxy = proxy(yaml(&fleet, CACHE)).await;
    let mut texts: Vec<String> = (0..3000).map(|number| format!("text {number}")).collect();
    texts.push("text 0".to_owned());
    let answer = embed(&proxy, &texts).await;
    assert_eq!((told(&answer), vectors(&answer).len()), ("arriero; fwd=bypass; detail=too_long", 3001));
    assert_eq!((host.ledger().by_path("/api/embed").len(), embedded(host)), (1, 3001));
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_slow_to_take_an_answer_keeps_nobody_waiting() {
    // Nobody knows what the first answer is; it is longer than all buffers on its way.
    let asked = std::sync::atomic::AtomicUsize::new(0);
    let server = odd_as(move |inputs| match asked.fetch_add(1, std::sync::atomic::Ordering::Relaxed) {
        0 => reply(200, "text/plain", vec![b'x'; 32 << 20]),
        _ => json(200, good(inputs)),
    })
    .await;
    let proxy = proxy(odd_yaml(&server)).await;
    let mut slow = H1::narrow(proxy.address()).await;
    slow.send(support::fleet::request("POST", "/api/embed", "", body(&["a"]))).await;
    assert_eq!(slow.reader.head().await.status, 200);
    assert_eq!(told(&embed(&proxy, &["a"]).await), "arriero; fwd=miss; stored");
    assert_eq!(proxy.metric("arriero_requests_in_flight{route=\"all\"}").await, 1.0, "it is still at it");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_may_not_be_held_passes() {
    let fleet = fleet(1, &["m"]).await;
    let host = &fleet.hosts[0];
    let yaml = yaml(&fleet, CACHE) + "server: { body_budget: 64KiB, body_memory: 32KiB }\n";
    let proxy = proxy(yaml).await;
    for size in [70_000, 300_000, 3_000_000] {
        let texts = ["x".repeat(size), "y".to_owned()];
        let answer = embed(&proxy, &texts).await;
        assert_eq!((answer.head.status, told(&answer)), (200, "arriero; fwd=bypass; detail=too_long"), "{size}");
        let got = host.ledger().by_path("/api/embed").last().and_then(|entry| entry.body_sha256.clone());
        assert_eq!(got, Some(support::fleet::sha256(body(&texts).as_bytes())), "{size}");
    }
}

/// A proxy before a host that may get another model `m`, and the keys of who may change it: `00000007` any model, `00000008`
/// only `n`.
struct Changeable {
    fleet: Fleet,
    proxy: Proxy,
    _keys: KeysFile,
}

impl Changeable {
    async fn start() -> Self {
        let mut other = arriero::demo::DemoModel::new("m", 1_000_000_000);
        other.digest = "0".repeat(64);
        let mut config = arriero::demo::HostConfig::new("h").small_model("m").small_model("n");
        config.registry = Some(vec![other]);
        let fleet = Fleet::start(vec![config]).await.expect("a host");
        let keys = KeysFile::new(&[
            ("00000007", "scopes: [inference, management]"),
            ("00000008", "scopes: [inference, management], models: [n]"),
        ]);
        let text = upstream_yaml(
            "ollama",
            &fleet.urls(),
            &format!("{CACHE}\nmanagement: allow\nauth: optional"),
            "health: { active: off }\ninventory: { interval: 1h }",
        );
        let proxy = proxy(text + &keys.yaml()).await;
        Self { fleet, proxy, _keys: keys }
    }

    fn host(&self) -> &Host {
        &self.fleet.hosts[0]
    }

    async fn pull(&self, key: &str) -> u16 {
        let body = r#"{"model":"m"}"#;
        send_with(self.proxy.address(), "POST", "/api/pull", &bearer(key), body).await.head.status
    }

    async fn direct(&self, texts: &[&str]) -> Vec<String> {
        vectors(&send(self.host().address(), "POST", "/api/embed", body(texts)).await)
    }

    async fn are_served(&self, requests: f64) {
        let series = "arriero_requests_in_flight{route=\"all\"}";
        support::eventually("they are served", || async { self.proxy.metric(series).await == requests }).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn embeddings_of_two_models_never_stand_in_one_answer() {
    let all = Changeable::start().await;
    embed(&all.proxy, &["a"]).await;
    let old = all.direct(&["a", "b"]).await;
    let before = all.host().ledger().by_path("/api/embed").len();
    all.host().token_gate().close();
    // One asks for what is new, the others wait for it: with what they know, and without.
    let asks = async {
        let first = embed(&all.proxy, &["a", "b"]);
        let others = async {
            let ledger = all.host().ledger();
            let begun = |ledger: &arriero::demo::Ledger| ledger.by_path("/api/embed").len() > before;
            ledger.wait_until(support::PATIENCE, begun).await.expect("it comes");
            tokio::join!(embed(&all.proxy, &["a", "b"]), embed(&all.proxy, &["b"]))
        };
        tokio::join!(first, others)
    };
    let changed = async {
        all.are_served(3.0).await;
        assert_eq!(all.pull("00000007").await, 200);
        all.host().token_gate().open();
    };
    let ((first, (second, third)), ()) = tokio::join!(asks, changed);
    let new = all.direct(&["a", "b"]).await;
    assert!(old[0] != new[0] && old[1] != new[1]);
    for (answer, expected) in [(first, &new[..]), (second, &new[..]), (third, &new[1..])] {
        assert_eq!(vectors(&answer), expected);
        assert!(told(&answer).starts_with("arriero; fwd="), "{}", told(&answer));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_that_changes_while_a_body_comes_is_the_new_one() {
    let all = Changeable::start().await;
    embed(&all.proxy, &["a"]).await;
    let old = all.direct(&["a"]).await;
    let mut client = H1::connect(all.proxy.address()).await;
    let bytes = support::fleet::request("POST", "/api/embed", "", r#"{"model":"m","truncate":true,"input":["a"]}"#);
    let (start, end) = bytes.split_at(bytes.len() - 8);
    client.send(start).await;
    all.are_served(1.0).await;
    assert_eq!(all.pull("00000007").await, 200);
    client.send(end).await;
    let answer = client.reader.answer().await;
    assert_ne!(vectors(&answer), old);
    assert_eq!(vectors(&answer), all.direct(&["a"]).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_that_is_refused_changes_nothing() {
    let all = Changeable::start().await;
    embed(&all.proxy, &["a"]).await;
    assert_eq!(all.pull("00000008").await, 403);
    assert_eq!(told(&embed(&all.proxy, &["a"]).await), "arriero; hit");
}
