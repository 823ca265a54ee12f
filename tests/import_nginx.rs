//! `arriero import nginx`: what the two configurations of the tier that Arriero replaces become, and what is said about
//! the lines of others. `ARRIERO_WRITE_GENERATED=1` writes the expected results anew.

mod support;

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;
use support::process::{Ended, arriero, finish};

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/nginx").join(name)
}

async fn import(file: &Path, more: &[&str]) -> Ended {
    let file = file.to_string_lossy().into_owned();
    finish(arriero(&[&["import", "nginx", &file], more].concat(), Path::new(env!("CARGO_MANIFEST_DIR")))).await
}

/// Imports a text, and gives the configuration and the report.
async fn import_text(text: &str) -> (String, Vec<Value>, Option<i32>) {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("nginx.conf");
    fs::write(&file, text).expect("written");
    let ended = import(&file, &["--json"]).await;
    let report = serde_json::from_str(&ended.err).unwrap_or_else(|error| panic!("{error}: {ended:?}"));
    (ended.out, report, ended.code)
}

/// Keys that are not (yet) part of this configuration are taken out: what is left must be valid.
fn known_part(text: &str) -> String {
    let mut lines: Vec<String> = Vec::new();
    let schema = arriero::config::schema().to_string();
    for line in text.lines() {
        let key = line.trim_start().split(':').next().unwrap_or_default();
        let unknown = ["rate_limits", "concurrency", "access", "tls", "trusted_proxies", "proxy_protocol"];
        if unknown.contains(&key) && !schema.contains(&format!("\"{key}\":")) {
            continue;
        }
        if !schema.contains("\"upgrade\":") && key == "timeouts" {
            let parts: Vec<&str> = line.split(", ").filter(|part| !part.starts_with("upgrade: ")).collect();
            lines.push(parts.join(", "));
            continue;
        }
        lines.push(line.to_owned());
    }
    lines.join("\n")
}

fn valid(text: &str) -> arriero::config::Config {
    let loaded = arriero::config::parse("imported", &known_part(text), &|_| None);
    let loaded = loaded.unwrap_or_else(|found| panic!("{}\n{text}", found.render(false)));
    assert_eq!(loaded.warnings, [], "{text}");
    loaded.config
}

async fn whole(name: &str) {
    let ended = import(&fixture(&format!("{name}.conf")), &[]).await;
    assert_eq!(ended.code, Some(0), "{}", ended.err);
    assert!(ended.err.trim_end().ends_with(" 0 unsupported"), "{}", ended.err);
    assert!(!ended.err.contains(": unsupported: "), "{}", ended.err);
    valid(&ended.out);
    let golden = fixture(&format!("{name}.yaml"));
    if std::env::var_os("ARRIERO_WRITE_GENERATED").is_some() {
        fs::write(&golden, &ended.out).expect("written");
    }
    let expected = fs::read_to_string(&golden).unwrap_or_default();
    assert_eq!(ended.out, expected, "run the test once with ARRIERO_WRITE_GENERATED=1 and look at the difference");
}

#[tokio::test]
async fn the_single_host_configuration_becomes_one_of_ours() {
    whole("single-host").await;
}

#[tokio::test]
async fn the_multi_host_configuration_becomes_one_of_ours() {
    whole("multi-host").await;
}

#[tokio::test]
async fn every_directive_is_in_the_report_once_with_its_line() {
    let file = fixture("multi-host.conf");
    let ended = import(&file, &["--json"]).await;
    let report: Vec<Value> = serde_json::from_str(&ended.err).expect("JSON");
    for path in [file, fixture("conf.d/groups-app.conf")] {
        let text = fs::read_to_string(&path).expect("a text");
        let directives = text.lines().filter(|line| !line.trim_start().starts_with('#')).map(|line| {
            // Each ends with `;` or opens a block.
            let inline = line.split('"').step_by(2).collect::<String>().replace("{print", "");
            inline.matches([';', '{']).count()
        });
        let here = report.iter().filter(|note| note["file"].as_str().is_some_and(|file| path.ends_with(file)));
        assert_eq!(here.count(), directives.sum::<usize>(), "{}", path.display());
        for note in &report {
            assert!(note["reason"].as_str().is_some_and(|reason| !reason.is_empty()), "{note}");
        }
    }
}

#[tokio::test]
async fn what_is_known_is_converted() {
    let text = "
        http {
            map $http_upgrade $connection_upgrade { default upgrade; '' close; }
            limit_conn_zone $binary_remote_addr zone=c:1m;
            upstream llamas { hash $cookie_id consistent; server 10.0.0.1:3000 weight=2 max_conns=4; server 10.0.0.2:3000 down; }
            server {
                listen 8080 default_server;
                server_name a.example .b.example;
                location /v1/ { proxy_pass http://llamas/api/; proxy_set_header X-Team $http_x_team; proxy_set_header Accept-Encoding ''; }
                location = /old { return 301 https://$host/new; }
                location /priv/ { allow 10.0.0.0/8; deny all; limit_conn c 5; proxy_pass http://llamas; proxy_next_upstream error http_503 non_idempotent; }
                location /static/ { alias /srv/static/; try_files $uri =404; }
                location ~ /\\. { deny all; }
            }
            server {
                listen 8080;
                server_name c.example;
                location / { proxy_pass http://127.0.0.1:11434; proxy_hide_header X-Powered-By; }
            }
        }";
    let (yaml, report, code) = import_text(text).await;
    let wrong: Vec<_> = report.iter().filter(|note| note["outcome"] == "unsupported").collect();
    assert!(wrong.is_empty() && code == Some(0), "{wrong:#?}");
    let config = valid(&yaml);
    let names: Vec<&str> = config.routes.iter().map(|route| route.name.as_str()).collect();
    assert_eq!(names, ["root", "old", "static", "priv", "v1"], "{yaml}");
    assert_eq!(config.routes[0].matches.host.as_slice(), ["c.example"]);
    assert_eq!(config.routes[1].redirect.as_ref().map(|to| to.to.as_str()), Some("https://{host}/new"));
    assert_eq!(config.routes[2].rewrite.strip_prefix.as_deref(), Some("/static"));
    let v1 = &config.routes[4];
    assert_eq!((v1.rewrite.strip_prefix.as_deref(), v1.rewrite.add_prefix.as_deref()), (Some("/v1"), Some("/api")));
    assert_eq!(v1.headers.request.set["x-team"], "{header:x-team}");
    assert_eq!(v1.headers.request.remove.as_slice(), ["accept-encoding"]);
    assert_eq!(config.upstreams["llamas"].servers.len(), 1);
    assert_eq!(config.upstreams["llamas"].balance.hash_on.as_deref(), Some("cookie:id"));
    assert_eq!(config.upstreams["127.0.0.1_11434"].kind, arriero::config::Kind::Ollama);
    assert!(yaml.contains("concurrency: [{ key: client_ip, max: 5 }]"), "{yaml}");
    assert!(yaml.contains("access: { allow: [\"10.0.0.0/8\"] }") || yaml.contains("allow: [10.0.0.0/8]"), "{yaml}");
}

/// The conditions of the routes of a configuration, in order.
fn conditions(yaml: &str) -> Vec<&str> {
    yaml.lines().map(str::trim).filter(|line| line.starts_with("match:")).collect()
}

#[tokio::test]
async fn server_blocks_are_told_apart() {
    let text = "
        server { listen 80; server_name a.example; return 301 https://$host$request_uri; }
        server { listen 443 ssl; server_name a.example; ssl_certificate a; ssl_certificate_key b;
                 location / { proxy_pass http://one:1; auth_basic x; } }
        server { listen 443 ssl; server_name b.example; location / { proxy_pass http://two:1; } }
        server { listen 9000; location / { proxy_pass http://three:1; } }";
    let (yaml, report, code) = import_text(text).await;
    assert_eq!(code, Some(3));
    let unsupported = report.iter().filter(|note| note["outcome"] == "unsupported");
    let unsupported: Vec<_> = unsupported.map(|note| (note["line"].as_u64(), note["directive"].as_str())).collect();
    assert_eq!(unsupported, [(Some(4), Some("auth_basic x"))], "{report:#?}");
    assert!(yaml.contains("0.0.0.0:80\"") && yaml.contains("auth: required"), "{yaml}");
    assert!(yaml.contains("redirect: { to: \"https://{host}{uri}\", status: 301 }"), "{yaml}");
    let expected = [
        r#"match: { header: { host: "*:9000" }, path: / }"#,
        "match: { scheme: https, host: [b.example], path: / }",
        "match: { scheme: http, path: / }",
        "match: { scheme: https, path: / }",
    ];
    assert_eq!(conditions(&yaml), expected, "{yaml}");
}

#[tokio::test]
async fn plain_http_serves_nothing_that_only_tls_served_and_redirects_do_not_turn_in_circles() {
    let redirect = "server { listen 80 default_server; return 301 https://$host$request_uri; }";
    let both = "server { listen 80; listen 443 ssl; server_name b.example; ssl_certificate a; ssl_certificate_key b;
                location / { proxy_pass http://one:1; } }";
    let (yaml, _, code) = import_text(&format!("{redirect}\n{both}")).await;
    assert_eq!(code, Some(0));
    let expected = ["match: { host: [b.example], path: / }", "match: { scheme: http, path: / }"];
    assert_eq!(conditions(&yaml), expected, "{yaml}");
    let (yaml, ..) = import_text(&both.replace(" ssl;", ";").replace("ssl_c", "# ssl_c")).await;
    assert!(!yaml.contains("scheme"), "{yaml}");
}

#[tokio::test]
async fn what_is_not_converted_is_said_with_its_line_and_ends_with_three() {
    let text = "server {\n  location / {\n    if ($a) { return 403; }\n    proxy_pass http://$b;\n  }\n  location ~ ^/[a-z]+$ { return 200; }\n  frobnicate on;\n}\n";
    let (yaml, report, code) = import_text(text).await;
    assert_eq!(code, Some(3));
    let mut lines: Vec<_> = report
        .iter()
        .filter(|note| note["outcome"] == "unsupported")
        .map(|note| (note["line"].as_u64(), note["directive"].as_str().unwrap_or_default().split(' ').next()))
        .collect();
    lines.sort_unstable();
    let expected = [(3, "if"), (4, "proxy_pass"), (6, "location"), (7, "frobnicate")];
    assert_eq!(lines, expected.map(|(line, name)| (Some(line), Some(name))), "{report:#?}");
    assert!(yaml.contains("0.0.0.0:80"), "{yaml}");
}

#[tokio::test]
async fn a_file_that_cannot_be_read_ends_with_one_and_its_line() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("nginx.conf");
    for (text, line) in [("http {\n  server {\n", 1), ("a;\n}\n", 2), ("a\n", 1), ("include nginx.conf;", 0), ("\"", 1)]
    {
        fs::write(&file, text).expect("written");
        let ended = import(&file, &[]).await;
        assert_eq!((ended.code, ended.out.as_str()), (Some(1), ""), "{text:?}: {ended:?}");
        assert!(ended.err.contains(&format!("nginx.conf:{line}: ")), "{text:?}: {ended:?}");
    }
    let missing = import(&folder.path().join("no.conf"), &[]).await;
    assert_eq!(missing.code, Some(1), "{missing:?}");
}
