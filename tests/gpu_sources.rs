//! Exporters and agents are asked over real connections: what they answer becomes a reading, everything else a reason.

mod support;

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use arriero::clock;
use arriero::config::{ServerUrl, WebhookUrl};
use arriero::policy::gpu::reading::{Reading, Unread};
use arriero::policy::gpu::source::{Field, Mapping};
use arriero::probe::gpu::{Source, Why, read_once, read_within};
use http::Response;
use http_body_util::Full;
use support::authority::Authority;
use support::fleet::{Small, reply};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

const DCGM: &str = include_str!("fixtures/gpu/dcgm.prom");
const REPORT: &str = r#"{"at":1,"version":"0.1.0","hostname":"gpu-a","cards":[{"uuid":"ab","memoryUsed":5}]}"#;
const PATIENT: Duration = Duration::from_secs(20);

fn exporter(url: &str) -> Source {
    Source::Exporter { url: WebhookUrl::parse(&format!("{url}/metrics?all=1")).expect("a URL"), mapping: None }
}

fn agent(url: &str, token: Option<&str>) -> Source {
    Source::Agent { url: ServerUrl::parse(url).expect("a URL"), token: token.map(ToOwned::to_owned) }
}

async fn answering(status: u16, body: &'static str) -> Small {
    Small::start(move |_| reply(status, "text/plain; version=0.0.4", body)).await
}

/// A server that reads a request and writes these bytes, then closes or, without an end, waits.
async fn raw(pieces: Vec<Vec<u8>>, ends: bool) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a socket");
    let address = listener.local_addr().expect("an address");
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let pieces = pieces.clone();
            tokio::spawn(async move {
                let mut seen = [0; 4096];
                let _ = stream.read(&mut seen).await?;
                for piece in pieces {
                    stream.write_all(&piece).await?;
                }
                if !ends {
                    std::future::pending::<()>().await;
                }
                stream.shutdown().await
            });
        }
    });
    address
}

fn head(more: &str) -> Vec<u8> {
    format!("HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\n{more}\r\n").into_bytes()
}

fn silent(outcome: Result<Reading, Why>) -> String {
    let why = outcome.expect_err("no reading");
    assert_eq!(why.unread, Unread::Silent, "{why:?}");
    why.detail
}

async fn asked(source: &Source) -> Result<Reading, Why> {
    read_within(source, PATIENT).await
}

#[tokio::test]
async fn an_exporter_is_asked_for_plain_text_and_read() {
    let server = answering(200, DCGM).await;
    let reading = read_once(&exporter(&server.url())).await.expect("a reading");
    assert_eq!((reading.cards.len(), reading.driver.as_deref()), (5, Some("550.54.15")));
    let got = server.got();
    let [question] = got.as_slice() else { panic!("asked {} times", got.len()) };
    assert_eq!((question.method.as_str(), question.path.as_str()), ("GET", "/metrics?all=1"));
    assert_eq!(question.fields["host"], server.address.to_string());
    assert!(question.fields["accept"].to_str().is_ok_and(|accept| accept.starts_with("text/plain")));
    assert!(!question.fields.contains_key("accept-encoding") && !question.fields.contains_key("authorization"));
}

#[tokio::test]
async fn a_mapping_makes_any_exporter_a_source() {
    let server = answering(200, "vram{slot=\"3\"} 2\n").await;
    let fields = vec![(Field::MemoryUsed, "vram".to_owned(), 1024.0)];
    let mapping = Some(Mapping { card_label: "slot".to_owned(), fields });
    let url = WebhookUrl::parse(&server.url()).expect("a URL");
    let reading = asked(&Source::Exporter { url, mapping }).await.expect("a reading");
    assert_eq!((reading.cards[0].index, reading.cards[0].memory_used), (Some(3), Some(2048)));
}

#[tokio::test]
async fn what_is_no_good_answer_is_a_reason() {
    let cases = [
        (500, DCGM, "status 500"),
        (404, "", "status 404"),
        (204, "", "status 204"),
        (401, "", "a token is needed"),
        (200, "", "no metrics"),
        (200, "<html></html>\n", "no metrics"),
        (200, "DCGM_FI_DEV_FB_FREE{gpu=\"0\"} 604", "middle of a line"),
    ];
    for (status, body, expected) in cases {
        let server = answering(status, body).await;
        let detail = silent(asked(&exporter(&server.url())).await);
        assert!(detail.contains(expected), "{status} {body}: {detail}");
    }
}

#[tokio::test]
async fn a_redirect_is_not_followed() {
    let other = answering(200, DCGM).await;
    let target = other.url();
    let server = Small::start(move |_| {
        let answer = Response::builder().status(302).header("location", target.as_str());
        answer.body(Full::default()).expect("an answer")
    })
    .await;
    let detail = silent(asked(&exporter(&server.url())).await);
    assert!(detail.contains("redirects are not followed"), "{detail}");
    assert!(other.got().is_empty());
}

#[tokio::test]
async fn a_compressed_answer_is_refused() {
    let server = Small::start(|_| {
        let answer = Response::builder().header("content-encoding", "gzip");
        answer.body(Full::from(vec![0x1f, 0x8b])).expect("an answer")
    })
    .await;
    assert!(silent(asked(&exporter(&server.url())).await).contains("compressed"));
}

#[tokio::test]
async fn an_answer_that_breaks_off_is_no_reading() {
    let half = DCGM.as_bytes()[..DCGM.len() / 2].to_vec();
    let announced = raw(vec![head(&format!("content-length: {}\r\n", DCGM.len())), half.clone()], true).await;
    assert_eq!(silent(asked(&exporter(&format!("http://{announced}"))).await), "the answer broke off");
    let chunk = [format!("{:x}\r\n", half.len()).into_bytes(), half.clone(), b"\r\n".to_vec()].concat();
    let chunked = raw(vec![head("transfer-encoding: chunked\r\n"), chunk], true).await;
    assert_eq!(silent(asked(&exporter(&format!("http://{chunked}"))).await), "the answer broke off");
    // Without a length nothing but the last line shows it.
    let endless = raw(vec![head(""), half], true).await;
    assert!(silent(asked(&exporter(&format!("http://{endless}"))).await).contains("middle of a line"));
    let nothing = raw(Vec::new(), true).await;
    silent(asked(&exporter(&format!("http://{nothing}"))).await);
}

#[tokio::test]
async fn the_deadline_holds_wherever_the_source_stops() {
    let limit = Duration::from_millis(300);
    let head_alone = vec![head(&format!("content-length: {}\r\n", DCGM.len()))];
    for pieces in [Vec::new(), head_alone.clone(), [head_alone, vec![DCGM.as_bytes()[..100].to_vec()]].concat()] {
        let began = clock::now();
        let address = raw(pieces, false).await;
        let detail = silent(read_within(&exporter(&format!("http://{address}")), limit).await);
        assert!(detail.contains("no answer within 300ms"), "{detail}");
        assert!(elapsed(began) < PATIENT);
        let detail = silent(read_within(&agent(&format!("http://{address}"), None), limit).await);
        assert!(detail.contains("no answer within 300ms"), "{detail}");
    }
}

fn elapsed(began: Instant) -> Duration {
    clock::now() - began
}

#[tokio::test]
async fn nobody_there_is_a_reason() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a socket");
    let address = listener.local_addr().expect("an address");
    drop(listener);
    assert!(silent(asked(&exporter(&format!("http://{address}"))).await).contains("refused"));
}

#[tokio::test]
async fn an_answer_without_end_is_given_up() {
    let line = b"node_load1{a=\"0123456789012345678901234567890123456789\"} 1\n".repeat(16_000);
    let mebibyte = [format!("{:x}\r\n", line.len()).into_bytes(), line, b"\r\n".to_vec()].concat();
    let mut pieces = vec![head("transfer-encoding: chunked\r\n")];
    pieces.extend(std::iter::repeat_n(mebibyte, 80));
    let address = raw(pieces, true).await;
    let detail = silent(read_within(&exporter(&format!("http://{address}")), Duration::from_mins(2)).await);
    assert!(detail.contains("longer than 64 MiB"), "{detail}");
    let long = raw(vec![head(""), vec![b' '; 5 << 20]], true).await;
    assert!(silent(asked(&agent(&format!("http://{long}"), None)).await).contains("longer than 4 MiB"));
}

#[tokio::test]
async fn an_agent_is_asked_with_its_token() {
    let server = Small::start(|got| {
        let good =
            got.path == "/v1/gpus" && got.fields.get("authorization").is_some_and(|field| field == "Bearer open");
        if good { reply(200, "application/json", REPORT) } else { reply(401, "application/problem+json", "{}") }
    })
    .await;
    let reading = asked(&agent(&server.url(), Some("open"))).await.expect("a reading");
    assert_eq!((reading.cards[0].uuid.as_deref(), reading.cards[0].memory_used), (Some("ab"), Some(5)));
    assert!(silent(asked(&agent(&server.url(), None)).await).contains("a token is needed"));
    assert!(silent(asked(&agent(&server.url(), Some("wrong"))).await).contains("not the right one"));
    let odd = silent(asked(&agent(&server.url(), Some("hu\nsh"))).await);
    assert!(odd.contains("characters") && !odd.contains("hu"), "{odd}");
}

#[tokio::test]
async fn an_agent_says_that_the_driver_is_down() {
    let body = r#"{"at":1,"unread":"driver_down","detail":"the driver is not loaded","cards":[]}"#;
    let server = Small::start(move |_| reply(200, "application/json", body)).await;
    let why = asked(&agent(&server.url(), None)).await.expect_err("no reading");
    assert_eq!((why.unread, why.detail.as_str()), (Unread::DriverDown, "the driver is not loaded"));
    let other = answering(200, DCGM).await;
    assert!(silent(asked(&agent(&other.url(), None)).await).contains("not an agent's"));
}

#[tokio::test]
async fn tls_is_checked() {
    let authority = Authority::new("strangers");
    let issued = authority.issue(&["localhost"]);
    let folder = tempfile::tempdir().expect("a folder");
    issued.write(folder.path(), "exporter");
    let file = |name: &str| folder.path().join(name).display().to_string();
    let settings = arriero::config::types::ListenerTls {
        certificates: vec![arriero::config::types::CertificateFiles {
            cert: file("exporter.pem"),
            key: file("exporter.key"),
            ocsp: None,
        }],
        min_version: arriero::config::types::MinVersion::Tls12,
        client_ca: None,
        client_auth: None,
    };
    let tls = arriero::fleet::listener_tls::ListenerTls::load(&settings, clock::unix_seconds()).expect("good files");
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a socket");
    let port = listener.local_addr().expect("an address").port();
    tokio::spawn(async move {
        while let Ok((tcp, _)) = listener.accept().await {
            let acceptor = tokio_rustls::TlsAcceptor::from(tls.server_config());
            // The other side leaves in the middle of the handshake.
            tokio::spawn(async move { drop(acceptor.accept(tcp).await) });
        }
    });
    let detail = silent(asked(&exporter(&format!("https://localhost:{port}"))).await);
    assert!(detail.contains("certificate"), "{detail}");
}
