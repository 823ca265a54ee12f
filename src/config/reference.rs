//! `conf/reference.yaml`: every key with its text and its default or an example.
//!
//! The texts come from the schema, so from the types; the order and the values stand in [`VALUES`].
//! Tests hold that every key of the schema is here, that values called defaults are the defaults, and
//! that the result loads without a warning.

use std::collections::HashSet;
use std::fmt::Write;

use serde_json::Value;

use super::schema::schema;

/// Keys in order. A `#` in front leaves a key out: it has no default, or would change another one.
const VALUES: &str = r##"version: 1
listeners:
  - address: 0.0.0.0:8080
    h2c: false
    #tls:
      #certificates:
        #- cert: /etc/letsencrypt/live/ollama.example.com/fullchain.pem
          #key: /etc/letsencrypt/live/ollama.example.com/privkey.pem
          #ocsp: /var/lib/arriero/ollama.example.com.ocsp
      #min_version: "1.2"
      #client_ca: /etc/arriero/clients-ca.pem
      #client_auth: required
    proxy_protocol: off
    #trusted_proxies: [10.0.0.0/8, "2001:db8::/32"]
    #hosts: [ollama.example.com, "*.example.com"]
    timeouts:
      request_header: 10s
      tls: 5s
      request_body: 30s
      keepalive: 75s
      write: 60s
    limits:
      header_bytes: 32KiB
      header_fields: 100
      target_bytes: 8KiB
      connections: 20000
      connections_per_ip: 16000
      #requests: 2000
      body_rate: 1KiB
routes:
  - name: vision
    match:
      #scheme: https
      host: [ollama.example.com, "*.example.com"]
      path: [/api/chat, /api/generate]
      method: POST
      model: ["llava*", "*-vl*"]
      header: { x-team: "research*" }
    upstream: fleet
    timeouts:
      connect: 2s
      tls: 5s
      first_byte: 900s
      read: 300s
      write: 60s
      upgrade: 7d
      #request: 1h
    limits:
      request_body: 100MiB
    rate_limits:
      - key: client_ip
        rate: 100/m
        burst: 20
        delay: 0
      - key: [api_key, model]
        preset: general
    concurrency:
      - key: client_ip
        max: 10
    retry:
      attempts: 3
      on: [connect]
      replay_post: false
    priority: normal
    priority_header: deny
    explain: deny
    #auth: required
    access:
      allow: [10.0.0.0/8, "2001:db8::/32"]
      deny: [10.6.6.6]
    cors:
      origins: [https://app.example.com]
      methods: [GET, HEAD, POST]
      headers: [authorization, content-type]
      expose: [x-request-id]
      max_age: 600s
      credentials: false
    rewrite:
      strip_prefix: /ollama
      #add_prefix: /v2
    headers:
      request:
        set: { x-team: "{header:x-user}" }
        add: { x-seen-by: arriero }
        remove: [cookie]
      response:
        set: { x-frame-options: DENY, x-content-type-options: nosniff }
        add: { vary: origin }
        remove: [x-powered-by]
    #error_pages: { "404": /srv/errors/404.html, 5xx: /srv/errors/50x.html }
    intercept_errors: false
    compress: false
    management: deny
    cloud_models: deny
    #caps:
      #keep_alive: 1h
      #num_ctx: 32768
      #num_predict: 4096
      #num_gpu: 99
    request_encoding: deny
  - name: models
    match: { path: [/api/, /v1/] }
    upstream: fleet
  - name: health
    match: { path: /health }
    respond:
      status: 200
      body: "ok\n"
      content_type: text/plain; charset=utf-8
      headers: { cache-control: no-store }
  - name: moved
    match: { path: /old/ }
    redirect:
      to: https://{host}{uri}
      status: 308
  - name: assets
    match: { path: /assets/ }
    files:
      root: ./www
      index: index.html
      #fallback: /index.html
      #cache_control: public, max-age=3600
      immutable: ["/assets/*", "*.woff2"]
  - name: app
    upstream: web
upstreams:
  fleet:
    kind: ollama
    servers:
      - url: http://10.0.0.11:11434
        name: a100-1
        weight: 1
        max_in_flight: 4
        #max_in_flight_per_model: 4
        #max_loaded: 3
        #gpu:
          #memory: 80GiB
          #nvml: off
          #agent: http://10.0.0.11:9845
          #token_file: /run/secrets/arriero_gpu_agent
          #exporter: http://10.0.0.11:9400/metrics
          #metrics:
            #card_label: gpu
            #fields:
              #memory_used:
                #metric: vendor_memory_used_mib
                #factor: 1048576
          #uuid: [GPU-df6e7a7c-7314-46f8-abc4-b88b36dcf3aa]
          #index: [0]
          #interval: 10s
          #margin: 512MiB
        #recovery:
          #exec: [systemctl, restart, ollama]
          #webhook: https://ops.example.com/restart
          #docker_restart: ollama-1
          #secret_file: /run/secrets/arriero_recovery
          #docker_socket: /var/run/docker.sock
          #after: 3
          #max_attempts: 3
          #backoff: 10s
          #max_backoff: 300s
          #timeout: 60s
          #verify: 60s
          #retry_after: 30m
      - url: ${OLLAMA_HOST_2:-http://10.0.0.12:11434}
        name: t4-1
    http2: false
    #tls:
      #ca: /etc/arriero/servers-ca.pem
      #server_name: ollama.internal
      #verify: true
      #client_cert: /etc/arriero/client.pem
      #client_key: /etc/arriero/client.key
    balance:
      policy: expected_wait
      #hash_on: client_ip
      #sticky_cookie:
        #name: arriero
        #ttl: 1h
        #secure: false
        #path: /
      model_affinity: prefer_loaded
      plan: off
    circuit:
      consecutive_failures: 5
      #connect_failures: 3
      failure_rate: 50%
      window: 5m
      min_requests: 10
      open_for: 30s
      max_open_for: 300s
      slow_start: 30s
      max_ejected: 50%
    #bans:
      #after: 10
      #for: 1h
    quarantine: 10m
    health:
      active:
        path: /api/version
        interval: 5s
        timeout: 2s
        healthy: 2
        unhealthy: 3
        start_period: 0s
    recovery:
      interval: 10s
      max_interval: 300s
      probe: on
      quiet: 60s
      timeout: 30s
    keepalive:
      max_idle: 128
      idle_timeout: 30s
    inventory:
      interval: 5s
    queue:
      max_pending: 100
      timeout: 30s
      aging: 10s
      keepalive: off
    models:
      - match: "llava*"
        pin: [a100-1]
        only: [a100-1, t4-1]
        never: []
        min_warm: 1
        max_warm: 2
        #min_residency: 60s
        #idle_unload: 30m
        priority: normal
    warm: [llama3.1:8b@t4-1]
  web:
    kind: http
    servers:
      - url: http://frontend:80
    health:
      active: off
defaults:
  timeouts:
    connect: 2s
    tls: 5s
    first_byte: 600s
    read: 300s
    write: 60s
    upgrade: 7d
    #request: 1h
  limits:
    request_body: 100MiB
#auth:
  #keys_file: ./keys.yaml
#notifications:
  #- url: https://alerts.example.com/arriero
    #secret_file: /run/secrets/arriero_alerts
    #events: [server_down, server_up, recovery_gave_up]
    #window: 300s
    #timeout: 10s
    #attempts: 8
admin:
  address: 127.0.0.1:5100
  #token_file: /run/secrets/arriero_admin
  #tokens:
    #- name: grafana
      #token_file: /run/secrets/arriero_grafana
      #scope: read
  #without_token: read
  #server_networks: [10.0.0.0/8, "fd00::/8"]
server:
  #threads: 4
  body_budget: 512MiB
  body_memory: 1MiB
  #temp_dir: /var/tmp
  #data_dir: /var/lib/arriero
  drain: 300s
  drain_delay: 0s
  reserved_files: 32
  thresholds:
    memory: 90%
    disk: 90%
    cpu: 95%
    files: 90%
history:
  requests: 1d
  max_requests: 100000
  aggregates: 30d
  usage: 400d
telemetry:
  access_log: json
  log_level: info
"##;

const HEAD: &str = "# yaml-language-server: $schema=./schema.json
#
# Every key of Arriero's configuration. Generated from src/config: do not edit.
# A key with `#` in front has no default; its value is an example. In values, `${NAME}` is replaced by
# the variable NAME of the environment, `${NAME:-value}` falls back to a value, `$$` is one dollar sign.
";

/// Longest line of the result, where a text can be broken.
const WIDTH: usize = 100;

/// The text of `conf/reference.yaml`.
#[must_use]
pub fn reference_yaml() -> String {
    let schema = schema();
    let mut out = HEAD.to_owned();
    let mut said = HashSet::new();
    for row in rows() {
        if row.path.len() == 1 {
            out.push('\n');
        }
        if said.insert(row.path.join(".")) {
            let text = describe(&schema, &row.path).unwrap_or_default();
            wrap(&mut out, row.margin, text);
        }
        out.push_str(row.line);
        out.push('\n');
    }
    out
}

/// A line of [`VALUES`] with the way to its key in the schema.
struct Row {
    line: &'static str,
    margin: usize,
    path: Vec<String>,
}

fn rows() -> Vec<Row> {
    let mut open: Vec<(usize, String)> = Vec::new();
    let mut rows = Vec::new();
    for line in VALUES.lines() {
        let text = line.trim_start();
        let margin = line.len() - text.len();
        let (mut indent, mut text) = (margin, text.trim_start_matches('#'));
        if let Some(rest) = text.strip_prefix("- ") {
            open.retain(|(at, _)| *at < indent);
            open.push((indent, "[]".to_owned()));
            (indent, text) = (indent + 2, rest);
        }
        open.retain(|(at, _)| *at < indent);
        let key = text.split(':').next().unwrap_or_default();
        open.push((indent, key.to_owned()));
        rows.push(Row { line, margin, path: open.iter().map(|(_, key)| key.clone()).collect() });
    }
    rows
}

/// The text of the key at `path`, unless it is a name that people choose.
fn describe<'s>(schema: &'s Value, path: &[String]) -> Option<&'s str> {
    let mut node = schema;
    let mut chosen = false;
    for step in path {
        (node, chosen) = child(schema, node, step)?;
    }
    if chosen { None } else { node.get("description").and_then(Value::as_str) }
}

/// The schema below `node` for `step`, and whether `step` is a name that people choose.
fn child<'s>(schema: &'s Value, node: &'s Value, step: &str) -> Option<(&'s Value, bool)> {
    variants(schema, node).into_iter().find_map(|variant| {
        if step == "[]" {
            return variant.get("items").map(|items| (items, true));
        }
        let known = variant.get("properties").and_then(|keys| keys.get(step)).map(|key| (key, false));
        let free = || variant.get("additionalProperties").filter(|free| free.is_object()).map(|free| (free, true));
        known.or_else(free)
    })
}

/// `node` and everything that it refers to or chooses from.
fn variants<'s>(schema: &'s Value, node: &'s Value) -> Vec<&'s Value> {
    let mut found = vec![node];
    let target =
        node.get("$ref").and_then(Value::as_str).and_then(|target| schema.pointer(target.trim_start_matches('#')));
    found.extend(target.into_iter().flat_map(|target| variants(schema, target)));
    for key in ["anyOf", "oneOf"] {
        let choices = node.get(key).and_then(Value::as_array).into_iter().flatten();
        found.extend(choices.flat_map(|choice| variants(schema, choice)));
    }
    found
}

/// Writes `text` as comment lines.
fn wrap(out: &mut String, margin: usize, text: &str) {
    let mut column = 0;
    for word in text.split_whitespace() {
        if column > 0 && column + 1 + word.chars().count() > WIDTH {
            out.push('\n');
            column = 0;
        }
        if column == 0 {
            // Writing to a String cannot fail.
            let _ = write!(out, "{:margin$}#", "");
            column = margin + 1;
        }
        out.push(' ');
        out.push_str(word);
        column += 1 + word.chars().count();
    }
    if column > 0 {
        out.push('\n');
    }
}

#[cfg(test)]
mod tests {
    use super::super::types::{Active, History, Recovery, Retry, Server, Telemetry};
    use super::super::types::{Admin, Caps, Check, Circuit, Inventory, Keepalive, ListenerLimits, ListenerTimeouts};
    use super::*;

    /// Every key of the schema below `node`, with `*` for names that people choose.
    fn keys(schema: &Value, node: &Value, path: &str, found: &mut Vec<String>) {
        for variant in variants(schema, node) {
            if let Some(items) = variant.get("items") {
                keys(schema, items, &format!("{path}.[]"), found);
            }
            if let Some(free) = variant.get("additionalProperties").filter(|free| free.is_object()) {
                keys(schema, free, &format!("{path}.*"), found);
            }
            for (key, inner) in variant.get("properties").and_then(Value::as_object).into_iter().flatten() {
                found.push(format!("{path}.{key}"));
                keys(schema, inner, &format!("{path}.{key}"), found);
            }
        }
    }

    #[test]
    fn every_key_of_the_schema_is_in_the_reference_with_its_text() {
        let schema = schema();
        let mut wanted = Vec::new();
        keys(&schema, &schema, "", &mut wanted);
        assert!(wanted.len() > 70, "{}", wanted.len());
        let rows = rows();
        let here: HashSet<String> = rows
            .iter()
            .map(|row| format!(".{}", row.path.join(".")).replace(".fleet", ".*").replace(".memory_used", ".*"))
            .collect();
        for key in &wanted {
            assert!(here.contains(key), "`{key}` is missing in the reference");
        }
        for row in rows
            .iter()
            .filter(|row| !matches!(row.path.last().map(String::as_str), Some("fleet" | "web" | "memory_used")))
        {
            assert!(describe(&schema, &row.path).is_some(), "`{}` has no text", row.path.join("."));
        }
    }

    #[test]
    fn the_reference_loads_without_warnings_and_shows_the_defaults() {
        let loaded = crate::config::parse("reference.yaml", &reference_yaml(), &|_| None);
        let loaded = loaded.unwrap_or_else(|found| panic!("{}", found.render(false)));
        assert_eq!(loaded.warnings, []);
        let config = loaded.config;
        assert_eq!(config.server, Server::default());
        assert_eq!(config.history, History::default());
        assert_eq!(config.telemetry, Telemetry::default());
        assert_eq!(config.admin, Admin::default());
        assert_eq!(config.listeners[0].timeouts, ListenerTimeouts::default());
        assert_eq!(config.listeners[0].limits, ListenerLimits::default());
        assert_eq!(config.routes[0].retry, Retry::default());
        assert_eq!(config.routes[0].caps, Caps::default());
        let fleet = &config.upstreams["fleet"];
        assert_eq!(fleet.circuit, Circuit::default());
        assert_eq!(fleet.keepalive, Keepalive::default());
        assert_eq!(fleet.inventory, Inventory::default());
        assert_eq!(fleet.recovery, Recovery::default());
        let check = Check { path: Some("/api/version".to_owned()), ..Check::default() };
        assert_eq!(fleet.health.active, Some(Active::Check(check)));
    }
}
