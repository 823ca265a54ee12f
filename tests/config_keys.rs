//! Every key of the schema is read: each has a row here whose proof fails when the key is ignored, and a key
//! without a row, or a row without a key, fails too.

#[path = "config_keys/gpu.rs"]
mod gpu;
#[path = "config_keys/looks.rs"]
mod looks;
#[path = "config_keys/process.rs"]
mod process;
#[path = "config_keys/fleet.rs"]
mod scheduled;
mod support;
#[path = "config_keys/tls.rs"]
mod tls;

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use arriero::fleet::compile::{Surroundings, compile};
use arriero::fleet::snapshot::Snapshot;
use arriero::telemetry::metrics::Metrics;
use arriero::{clock, config};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use looks::{
    answer, attribute, changed, checked, done, exposed, files, fleet, hooked, joined, plan, preflight, rate, reached,
    rewritten, sticky, taken, text, traced,
};
use process::PROCESS;
use serde_json::{Value, json};
use tls::TLS;

/// What is seen of a compiled configuration, as text.
type Look = fn(&Snapshot) -> String;

/// A key, a value for it in JSON, and what is then seen. Without it something else is.
type Row = (&'static str, &'static str, &'static str, Look);

/// Panics when a key is ignored.
type Proof = fn() -> BoxFuture<'static, ()>;

const BOTH: &str = "(Some(\"first\"), Some(\"second\"))";

const COMPILED: &[Row] = &[
    ("listeners[].h2c", "true", "true", |s| text(s.listeners[0].h2c)),
    ("listeners[].proxy_protocol", "\"accept\"", "true", |s| text(s.listeners[0].proxy_protocol)),
    ("listeners[].trusted_proxies", "[\"10.0.0.0/8\"]", "true", |s| {
        text(s.listeners[0].trusted_proxies.contains([10, 0, 0, 1].into()))
    }),
    ("listeners[].hosts", "[\"a.test\"]", "(true, false)", |s| {
        let allows = |host| s.listeners[0].hosts.allows(&arriero::routing::host::parse(host, 80).expect("a host"));
        text((allows("a.test"), allows("b.test")))
    }),
    ("listeners[].timeouts.request_header", "\"7s\"", "7s", |s| text(s.listeners[0].header_timeout)),
    ("listeners[].timeouts.tls", "\"7s\"", "7s", |s| text(s.listeners[0].tls_timeout)),
    ("listeners[].timeouts.request_body", "\"7s\"", "7s", |s| text(s.listeners[0].body_timeout)),
    ("listeners[].timeouts.keepalive", "\"7s\"", "7s", |s| text(s.listeners[0].keepalive)),
    ("listeners[].timeouts.write", "\"7s\"", "7s", |s| text(s.listeners[0].write_timeout)),
    ("listeners[].limits.header_bytes", "\"16KiB\"", "16384", |s| text(s.listeners[0].header_bytes)),
    ("listeners[].limits.header_fields", "42", "42", |s| text(s.listeners[0].header_fields)),
    ("listeners[].limits.connections", "7", "7", |s| text(s.listeners[0].connection_limits.connections)),
    ("listeners[].limits.connections_per_ip", "7", "7", |s| text(s.listeners[0].connection_limits.connections_per_ip)),
    ("listeners[].limits.requests", "7", "7", |s| text(s.listeners[0].connection_limits.requests)),
    ("listeners[].limits.body_rate", "\"7KiB\"", "7168", |s| text(s.listeners[0].body_rate.bytes_per_second)),
    ("listeners[].limits.target_bytes", "\"4KiB\"", "4096", |s| text(s.listeners[0].target_bytes)),
    ("routes[].name", "\"renamed\"", "\"renamed\"", |s| text(&s.routes[0].name)),
    ("routes[].match.scheme", "\"http\"", BOTH, taken),
    ("routes[].match.host", "[\"a.test\"]", BOTH, taken),
    ("routes[].match.path", "\"/in/\"", BOTH, taken),
    ("routes[].match.method", "\"GET\"", BOTH, taken),
    ("routes[].match.model", "[\"llava\"]", BOTH, taken),
    ("routes[].match.header.*", "\"r*d\"", BOTH, taken),
    ("routes[].upstream", "\"other\"", "Some(\"other\")", |s| text(s.routes[0].upstream().map(|u| &u.name))),
    ("routes[].rewrite.strip_prefix", "\"/a\"", "Some(\"/b\")", rewritten),
    ("routes[].rewrite.add_prefix", "\"/z\"", "Some(\"/z/a/b\")", rewritten),
    ("routes[].headers.request.set.*", "\"{path}\"", "{\"x-team\": \"/a/b\"}", |s| {
        changed(&s.routes[0].content.request)
    }),
    ("routes[].headers.request.add.*", "\"{model}!\"", "{\"x-team\": \"red\", \"x-team\": \"m!\"}", |s| {
        changed(&s.routes[0].content.request)
    }),
    ("routes[].headers.request.remove", "[\"x-team\"]", "{}", |s| changed(&s.routes[0].content.request)),
    ("routes[].headers.response.set.*", "\"{path}\"", "{\"x-team\": \"/a/b\"}", |s| {
        changed(&s.routes[0].content.response)
    }),
    ("routes[].headers.response.add.*", "\"blue\"", "{\"x-team\": \"red\", \"x-team\": \"blue\"}", |s| {
        changed(&s.routes[0].content.response)
    }),
    ("routes[].headers.response.remove", "\"x-team\"", "{}", |s| changed(&s.routes[0].content.response)),
    ("routes[].compress", "[\"br\", \"gzip\"]", "[Br, Gzip]", |s| text(&s.routes[0].content.compress)),
    ("routes[].request_encoding", "\"decode\"", "Some(Decode)", |s| text(s.routes[0].content.request_encoding)),
    ("routes[].error_pages.*", "\"conf/arriero.yaml\"", "Some(true)", |s| {
        let page = s.routes[0].content.error_pages.page(404, false);
        text(page.map(|page| page.body.starts_with(b"# yaml-language-server")))
    }),
    ("upstreams.*.balance.sticky_cookie.name", "\"a\"", "(Cookie(\"a\"), \"a\")", |s| {
        text((&fleet(s).balance.hash_on, fleet(s).balance.sticky.as_ref().map_or("", |cookie| &cookie.name)))
    }),
    ("upstreams.*.balance.sticky_cookie.ttl", "\"7s\"", "Some(7s)", |s| text(sticky(s).map(|cookie| cookie.ttl))),
    ("upstreams.*.balance.sticky_cookie.secure", "true", "Some(true)", |s| text(sticky(s).map(|cookie| cookie.secure))),
    ("upstreams.*.balance.sticky_cookie.path", "\"/a\"", "Some(\"/a\")", |s| {
        text(sticky(s).map(|cookie| &cookie.path))
    }),
    ("routes[].timeouts.connect", "\"7s\"", "7s", |s| text(s.routes[0].timeouts.connect)),
    ("routes[].timeouts.tls", "\"7s\"", "7s", |s| text(s.routes[0].timeouts.tls)),
    ("routes[].timeouts.first_byte", "\"7s\"", "7s", |s| text(s.routes[0].timeouts.first_byte)),
    ("routes[].timeouts.read", "\"7s\"", "7s", |s| text(s.routes[0].timeouts.read)),
    ("routes[].timeouts.write", "\"7s\"", "7s", |s| text(s.routes[0].timeouts.write)),
    ("routes[].timeouts.upgrade", "\"7s\"", "7s", |s| text(s.routes[0].timeouts.upgrade)),
    ("routes[].timeouts.request", "\"7s\"", "Some(7s)", |s| text(s.routes[0].timeouts.request)),
    ("routes[].limits.request_body", "\"7KiB\"", "7168", |s| text(s.routes[0].body_limit)),
    ("routes[].rate_limits[].key", "[\"api_key\", \"header:x-user\"]", "LimitKey([ApiKey, Header(\"x-user\")])", |s| {
        text(&s.routes[0].limits.rates[0].key)
    }),
    ("routes[].rate_limits[].rate", "\"7/h\"", "(7, 3600s, 5, 0)", |s| rate(s)),
    ("routes[].rate_limits[].burst", "7", "(9, 1s, 7, 0)", |s| rate(s)),
    ("routes[].rate_limits[].delay", "\"all\"", "(9, 1s, 5, 5)", |s| rate(s)),
    ("routes[].rate_limits[].preset", "\"general\"", "(100, 60s, 20, 0)", |s| rate(s)),
    ("routes[].concurrency[].key", "\"model\"", "LimitKey([Model])", |s| text(&s.routes[0].limits.at_a_time[0].key)),
    ("routes[].concurrency[].max", "7", "7", |s| text(s.routes[0].limits.at_a_time[0].most)),
    ("routes[].retry.attempts", "2", "2", |s| text(s.routes[0].retry.attempts)),
    ("routes[].retry.on", "[\"reset\", \"503\"]", "([Reset, Status(503)], true)", |s| {
        text((&s.routes[0].retry.on, s.routes[0].holds))
    }),
    ("routes[].retry.replay_post", "true", "true", |s| text(s.routes[0].retry.replay_post)),
    ("routes[].access.allow", "[\"10.0.0.0/8\"]", "(true, false)", reached),
    ("routes[].access.deny", "[\"127.0.0.1\"]", "(true, false)", reached),
    ("routes[].cors.origins", "[\"https://b.test\"]", "false", |s| text(preflight(s).contains("https://a.test"))),
    ("routes[].cors.methods", "[\"PUT\"]", "true", |s| text(preflight(s).contains("PUT"))),
    ("routes[].cors.headers", "[\"x-hue\"]", "true", |s| text(preflight(s).contains("x-hue"))),
    ("routes[].cors.expose", "[\"x-b\"]", "true", |s| text(exposed(s).contains("x-b"))),
    ("routes[].cors.max_age", "\"77s\"", "true", |s| text(preflight(s).contains("77"))),
    ("routes[].cors.credentials", "true", "true", |s| text(preflight(s).contains("allow-credentials"))),
    ("routes[].management", "\"allow\"", "true", |s| text(s.routes[0].management)),
    ("routes[].cloud_models", "\"allow\"", "true", |s| text(s.routes[0].cloud)),
    ("routes[].caps.keep_alive", "\"1h\"", "Some(3600s)", |s| text(s.routes[0].caps.keep_alive)),
    ("routes[].caps.num_ctx", "7", "Some(7)", |s| text(s.routes[0].caps.num_ctx)),
    ("routes[].caps.num_predict", "7", "Some(7)", |s| text(s.routes[0].caps.num_predict)),
    ("routes[].caps.num_gpu", "7", "Some(7)", |s| text(s.routes[0].caps.num_gpu)),
    ("routes[].embeddings_cache.max_size", "\"7MiB\"", "Some(7340032)", |s| text(kept(s).map(|kept| kept.max_size))),
    ("routes[].embeddings_cache.ttl", "\"7s\"", "Some(7s)", |s| text(kept(s).map(|kept| kept.ttl))),
    ("routes[].embeddings_cache.scope", "\"shared\"", "Some(true)", |s| text(kept(s).map(|kept| kept.shared))),
    ("routes[].embeddings_cache.max_body", "\"7KiB\"", "Some(7168)", |s| text(kept(s).map(|kept| kept.max_body))),
    ("routes[].cache.max_size", "\"7MiB\"", "Some(7340032)", |s| text(answers(s).map(|kept| kept.max_size))),
    ("routes[].cache.max_object", "\"7KiB\"", "Some(7168)", |s| text(answers(s).map(|kept| kept.max_object))),
    ("routes[].cache.default_ttl", "\"7s\"", "Some(7s)", |s| text(answers(s).map(|kept| kept.rules.default_ttl))),
    ("routes[].cache.stale_while_revalidate", "\"7s\"", "Some(7s)", |s| {
        text(answers(s).map(|kept| kept.rules.while_revalidate))
    }),
    ("routes[].cache.stale_if_error", "\"7s\"", "Some(7s)", |s| text(answers(s).map(|kept| kept.rules.if_error))),
    ("routes[].cache.scope", "\"shared\"", "Some(true)", |s| text(answers(s).map(|kept| kept.shared))),
    ("routes[].cache.authorized", "true", "Some(true)", |s| text(answers(s).map(|kept| kept.authorized))),
    ("routes[].cache.cookies", "[\"a\"]", "Some(Named([\"a\"]))", |s| text(answers(s).map(|kept| &kept.cookies))),
    ("routes[].cache.key.query", "\"none\"", "Some(None)", |s| text(answers(s).map(|kept| &kept.query))),
    ("routes[].cache.key.headers", "[\"x-a\"]", "Some([\"x-a\"])", |s| text(answers(s).map(|kept| &kept.headers))),
    ("routes[].cache.tag_header", "\"surrogate-key\"", "Some(\"surrogate-key\")", |s| {
        text(answers(s).map(|kept| &kept.tag_header))
    }),
    ("routes[].cache.cluster", "false", "Some(true)", |s| {
        // In a cluster, and not shared.
        text(answers(s).map(|kept| s.cluster.is_some() && kept.share.is_none()))
    }),
    ("routes[].cache.respect_client", "false", "Some(false)", |s| text(answers(s).map(|kept| kept.respect_client))),
    ("upstreams.*.kind", "\"openai\"", "(Openai, Some(\"/v1/models\"))", |s| {
        text((fleet(s).kind, fleet(s).check.as_ref().map(|check| &check.path)))
    }),
    ("upstreams.*.servers[].url", "\"https://a.test\"", "(\"a.test\", 443, true, \"a.test\")", |s| {
        let at = &fleet(s).servers[0].state.location;
        text((&at.host, at.port, at.tls, &at.authority))
    }),
    ("upstreams.*.servers[].name", "\"a100\"", "\"a100\"", |s| text(fleet(s).servers[0].state.name())),
    ("upstreams.*.servers[].weight", "5", "5", |s| text(fleet(s).servers[0].weight)),
    ("upstreams.*.servers[].max_in_flight", "3", "3", |s| text(fleet(s).servers[0].max_in_flight)),
    ("upstreams.*.http2", "true", "true", |s| text(fleet(s).http2)),
    ("upstreams.*.balance.policy", "\"round_robin\"", "RoundRobin", |s| text(fleet(s).balance.policy)),
    ("upstreams.*.balance.hash_on", "\"header:x-user\"", "Header(\"x-user\")", |s| text(&fleet(s).balance.hash_on)),
    ("upstreams.*.balance.model_affinity", "\"require_loaded\"", "RequireLoaded", |s| text(fleet(s).balance.affinity)),
    ("upstreams.*.circuit.consecutive_failures", "7", "7", |s| text(fleet(s).circuit.consecutive_failures)),
    ("upstreams.*.circuit.open_for", "\"7s\"", "7s", |s| text(fleet(s).circuit.open_for)),
    ("upstreams.*.circuit.max_open_for", "\"700s\"", "700s", |s| text(fleet(s).circuit.max_open_for)),
    ("upstreams.*.circuit.connect_failures", "7", "7", |s| text(fleet(s).circuit.connect_failures)),
    ("upstreams.*.circuit.failure_rate", "\"7%\"", "7", |s| text(fleet(s).circuit.failure_rate)),
    ("upstreams.*.circuit.window", "\"7s\"", "7s", |s| text(fleet(s).circuit.window)),
    ("upstreams.*.circuit.min_requests", "7", "7", |s| text(fleet(s).circuit.min_requests)),
    ("upstreams.*.circuit.slow_start", "\"7s\"", "7s", |s| text(fleet(s).circuit.slow_start)),
    ("upstreams.*.circuit.max_ejected", "\"7%\"", "7", |s| text(fleet(s).max_ejected)),
    ("upstreams.*.bans.after", "7", "Some(BanRule { after: 7, lasts: 3600s })", |s| text(fleet(s).ban_rule)),
    ("upstreams.*.bans.for", "\"7s\"", "Some(BanRule { after: 10, lasts: 7s })", |s| text(fleet(s).ban_rule)),
    ("upstreams.*.quarantine", "\"7s\"", "7s", |s| text(fleet(s).quarantine)),
    ("upstreams.*.health.active", "\"off\"", "None", |s| text(&fleet(s).check)),
    ("upstreams.*.health.active.path", "\"/up\"", "\"/up\"", |s| text(&checked(s).path)),
    ("upstreams.*.health.active.interval", "\"7s\"", "7s", |s| text(checked(s).interval)),
    ("upstreams.*.health.active.timeout", "\"1s\"", "1s", |s| text(checked(s).timeout)),
    ("upstreams.*.health.active.healthy", "7", "7", |s| text(fleet(s).health.healthy)),
    ("upstreams.*.health.active.unhealthy", "7", "7", |s| text(fleet(s).health.unhealthy)),
    ("upstreams.*.health.active.start_period", "\"7s\"", "7s", |s| text(fleet(s).health.start_period)),
    ("upstreams.*.keepalive.max_idle", "7", "7", |s| text(fleet(s).max_idle)),
    ("upstreams.*.keepalive.idle_timeout", "\"7s\"", "7s", |s| text(fleet(s).idle_timeout)),
    ("upstreams.*.inventory.interval", "\"7s\"", "7s", |s| text(fleet(s).inventory_interval)),
    ("upstreams.*.recovery.interval", "\"7s\"", "7s", |s| text(fleet(s).recovery.interval)),
    ("upstreams.*.recovery.max_interval", "\"77s\"", "77s", |s| text(fleet(s).recovery.max_interval)),
    ("upstreams.*.recovery.probe", "\"off\"", "false", |s| text(fleet(s).recovery.probe)),
    ("upstreams.*.recovery.quiet", "\"7s\"", "7s", |s| text(fleet(s).recovery.quiet)),
    ("upstreams.*.recovery.timeout", "\"7s\"", "7s", |s| text(fleet(s).recovery.timeout)),
    ("quotas[].name", "\"renamed\"", "\"renamed\"", |s| text(&s.quotas[0].name)),
    ("quotas[].key", "[\"api_key\", \"model\"]", "[ApiKey, Model]", |s| text(&s.quotas[0].key)),
    ("quotas[].tokens", "\"output\"", "Output", |s| text(s.quotas[0].counted)),
    ("quotas[].limit", "\"7K\"", "Some(7000)", |s| text(s.quotas[0].limit)),
    ("quotas[].every", "\"month\"", "Month", |s| text(s.quotas[0].window)),
    ("quotas[].warn_at", "\"70%\"", "70", |s| text(s.quotas[0].warn_at)),
    ("quotas[].beyond", "\"warn\"", "true", |s| text(s.quotas[0].only_warns)),
    ("quotas[].models", "[\"llava*\"]", "(true, false)", |s| {
        text((s.quotas[0].is_about("llava:13b"), s.quotas[0].is_about("mistral:latest")))
    }),
    ("quotas[].routes", "[\"third\"]", "(0, 1)", |s| text((s.routes[0].quotas.len(), s.routes[2].quotas.len()))),
    ("notifications[].url", "\"https://a.test/x\"", "(\"https://a.test:443/…\", \"/x\")", |s| {
        text((s.hooks[0].url.shown(), &s.hooks[0].url.target))
    }),
    ("notifications[].secret_file", "\"conf/arriero.yaml\"", "Some(\"conf/arriero.yaml\")", |s| {
        text(&s.hooks[0].secret_file)
    }),
    ("notifications[].events", "[\"queue_full\"]", "[QueueFull]", |s| text(&s.hooks[0].events)),
    ("notifications[].window", "\"7s\"", "7s", |s| text(s.hooks[0].window)),
    ("notifications[].timeout", "\"7s\"", "7s", |s| text(s.hooks[0].timeout)),
    ("notifications[].attempts", "7", "7", |s| text(s.hooks[0].attempts)),
    ("telemetry.tracing.url", "\"http://a.test:7\"", "Some(\"http://a.test:7\")", |s| {
        text(traced(s).map(|tracing| tracing.collector.url.shown()))
    }),
    ("telemetry.tracing.protocol", "\"http\"", "Some(\"/v1/traces\")", |s| {
        text(traced(s).map(|tracing| &tracing.collector.url.target))
    }),
    ("telemetry.tracing.sample", "\"0%\"", "Some(false)", |s| text(traced(s).map(|tracing| tracing.sampler.tells(1)))),
    ("telemetry.tracing.parent", "\"ignore\"", "Some(false)", |s| {
        let parent = b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        text(traced(s).map(|tracing| tracing.sampler.followed(Some(parent)).is_some()))
    }),
    ("telemetry.tracing.service_name", "\"edge\"", "Some(\"edge\")", |s| text(attribute(s, "service.name"))),
    ("telemetry.tracing.attributes.*", "\"red\"", "Some(\"red\")", |s| text(attribute(s, "x-team"))),
    ("telemetry.tracing.headers.*", "\"red\"", "Some([(\"x-team\", \"red\")])", |s| {
        text(traced(s).map(|tracing| &tracing.collector.headers))
    }),
    ("telemetry.tracing.token_file", "\"conf/arriero.yaml\"", "Some(Some(\"conf/arriero.yaml\"))", |s| {
        text(traced(s).map(|tracing| &tracing.collector.token_file))
    }),
    ("telemetry.tracing.interval", "\"7s\"", "Some(7s)", |s| text(traced(s).map(|tracing| tracing.collector.interval))),
    ("telemetry.tracing.timeout", "\"7s\"", "Some(7s)", |s| text(traced(s).map(|tracing| tracing.collector.timeout))),
    ("cluster.redis", "[\"redis://a.test:7\"]", "Some([\"a.test:7\"])", |s| {
        text(joined(s).map(|cluster| cluster.addresses.iter().map(ToString::to_string).collect::<Vec<_>>()))
    }),
    ("cluster.mode", "\"cluster\"", "Some(Cluster)", |s| text(joined(s).map(|cluster| cluster.typed.mode))),
    ("cluster.master", "\"main\"", "Some(Some(\"main\"))", |s| {
        text(joined(s).map(|cluster| cluster.typed.master.as_ref()))
    }),
    ("cluster.username", "\"ana\"", "Some(Some(\"ana\"))", |s| {
        text(joined(s).map(|cluster| cluster.typed.username.as_ref()))
    }),
    ("cluster.password_file", "\"conf/arriero.yaml\"", "Some(Some(\"conf/arriero.yaml\"))", |s| {
        text(joined(s).map(|cluster| cluster.typed.password_file.as_ref()))
    }),
    ("cluster.name", "\"front\"", "Some(\"front\")", |s| text(joined(s).map(|cluster| &cluster.typed.name))),
    ("cluster.instance", "\"one\"", "Some(\"one\")", |s| text(joined(s).map(|cluster| &cluster.instance))),
    ("cluster.timeout", "\"7ms\"", "Some(7ms)", |s| text(joined(s).map(|cluster| cluster.timeout))),
    ("upstreams.*.servers[].recovery.exec", "[\"a\", \"b\"]", "Some(Exec([\"a\", \"b\"]))", done),
    ("upstreams.*.servers[].recovery.webhook", "\"http://a.test/x\"", "(\"http://a.test:80/…\", None)", hooked),
    (
        "upstreams.*.servers[].recovery.secret_file",
        "\"conf/arriero.yaml\"",
        "(\"http://a.test:80\", Some(\"conf/arriero.yaml\"))",
        hooked,
    ),
    (
        "upstreams.*.servers[].recovery.docker_restart",
        "\"a\"",
        "Some(DockerRestart { container: \"a\", socket: \"/var/run/docker.sock\" })",
        done,
    ),
    (
        "upstreams.*.servers[].recovery.docker_socket",
        "\"/s\"",
        "Some(DockerRestart { container: \"c\", socket: \"/s\" })",
        done,
    ),
    ("upstreams.*.servers[].recovery.after", "7", "Some(7)", |s| text(plan(s).map(|plan| plan.policy.after))),
    ("upstreams.*.servers[].recovery.max_attempts", "7", "Some(7)", |s| {
        text(plan(s).map(|plan| plan.policy.max_attempts))
    }),
    ("upstreams.*.servers[].recovery.backoff", "\"7s\"", "Some(7s)", |s| text(plan(s).map(|plan| plan.policy.backoff))),
    ("upstreams.*.servers[].recovery.max_backoff", "\"77s\"", "Some(77s)", |s| {
        text(plan(s).map(|plan| plan.policy.max_backoff))
    }),
    ("upstreams.*.servers[].recovery.timeout", "\"7s\"", "Some(7s)", |s| text(plan(s).map(|plan| plan.timeout))),
    ("upstreams.*.servers[].recovery.verify", "\"7s\"", "Some(7s)", |s| text(plan(s).map(|plan| plan.policy.verify))),
    ("upstreams.*.servers[].recovery.retry_after", "\"7s\"", "Some(7s)", |s| {
        text(plan(s).map(|plan| plan.policy.retry_after))
    }),
    ("defaults.timeouts.connect", "\"7s\"", "7s", |s| text(s.routes[0].timeouts.connect)),
    ("defaults.timeouts.tls", "\"7s\"", "7s", |s| text(s.routes[0].timeouts.tls)),
    ("defaults.timeouts.first_byte", "\"7s\"", "7s", |s| text(s.routes[0].timeouts.first_byte)),
    ("defaults.timeouts.read", "\"7s\"", "7s", |s| text(s.routes[0].timeouts.read)),
    ("defaults.timeouts.write", "\"7s\"", "7s", |s| text(s.routes[0].timeouts.write)),
    ("defaults.timeouts.upgrade", "\"7s\"", "7s", |s| text(s.routes[0].timeouts.upgrade)),
    ("defaults.timeouts.request", "\"7s\"", "Some(7s)", |s| text(s.routes[0].timeouts.request)),
    ("defaults.limits.request_body", "\"7KiB\"", "7168", |s| text(s.routes[0].body_limit)),
    ("server.drain", "\"7s\"", "7s", |s| text(s.drain)),
    ("server.drain_delay", "\"7s\"", "7s", |s| text(s.drain_delay)),
    ("server.reserved_files", "7", "7", |s| text(s.reserved_files)),
    ("server.thresholds.memory", "\"7%\"", "7", |s| text(s.thresholds.memory)),
    ("server.thresholds.disk", "\"7%\"", "7", |s| text(s.thresholds.disk)),
    ("server.thresholds.cpu", "\"7%\"", "7", |s| text(s.thresholds.cpu)),
    ("server.thresholds.files", "\"7%\"", "7", |s| text(s.thresholds.files)),
    ("server.body_memory", "\"7KiB\"", "7168", |s| text(s.body_memory)),
];

/// Keys of targets without a server: the key, the target that it is set in, and what is then seen of the second route.
const TARGETS: &[(&str, &str, &str, Look)] = &[
    ("routes[].respond.status", r#"{ "status": 418 }"#, "418", |s| text(answer(s).status)),
    ("routes[].respond.body", r#"{ "body": "hi" }"#, "b\"hi\"", |s| text(answer(s).body)),
    ("routes[].respond.content_type", r#"{ "body": "hi", "content_type": "text/x" }"#, "Some(\"text/x\")", |s| {
        text(answer(s).headers.get("content-type"))
    }),
    ("routes[].respond.headers.*", r#"{ "headers": { "x-a": "{path}" } }"#, "Some(\"/a/b\")", |s| {
        text(answer(s).headers.get("x-a"))
    }),
    ("routes[].redirect.to", r#"{ "to": "/n{uri}" }"#, "Some(\"/n/a/b\")", |s| text(answer(s).headers.get("location"))),
    ("routes[].redirect.status", r#"{ "to": "/", "status": 303 }"#, "303", |s| text(answer(s).status)),
    ("routes[].files.root", r#"{ "root": "/www" }"#, "\"/www\"", |s| text(&files(s).root)),
    ("routes[].files.index", r#"{ "root": "/", "index": "a.html" }"#, "\"a.html\"", |s| text(&files(s).index)),
    ("routes[].files.fallback", r#"{ "root": "/", "fallback": "/a" }"#, "Some(\"/a\")", |s| text(&files(s).fallback)),
    ("routes[].files.cache_control", r#"{ "root": "/", "cache_control": "no-cache" }"#, "Some(\"no-cache\")", |s| {
        text(&files(s).cache_control)
    }),
    ("routes[].files.immutable", r#"{ "root": "/", "immutable": "*.js" }"#, "[true]", |s| {
        text(files(s).immutable.iter().map(|glob| glob.matches(b"/a.js")).collect::<Vec<_>>())
    }),
];

#[test]
fn each_key_of_a_target_without_a_server_changes_what_runs() {
    for (key, value, wanted, look) in TARGETS {
        let name = key.split('.').nth(1).expect("a target");
        let mut config = base("http://127.0.0.1:9");
        config["upstreams"].as_object_mut().expect("a mapping").remove("other");
        config["routes"][1] = json!({ "name": "second", "match": { "path": "/x" } });
        config["routes"][1][name] = serde_json::from_str(value).expect("JSON");
        config["routes"].as_array_mut().expect("a list").swap(0, 1);
        config["routes"][1]["name"] = json!("last");
        let mut snapshot = compiled(&config);
        snapshot.routes.swap(0, 1);
        assert_eq!(look(&snapshot), *wanted, "{key}: {value}");
    }
}

/// A configuration with as little as can be; JSON is YAML.
fn base(url: &str) -> Value {
    json!({
        "version": 1,
        // Without trusted proxies `proxy_protocol` would have no meaning.
        "listeners": [{ "address": "127.0.0.1:0", "trusted_proxies": ["192.0.2.1"] }],
        "routes": [
            // Keys of limits can be set only where there is one.
            {
                "name": "first", "upstream": "fleet", "cors": { "origins": ["https://a.test"] },
                "rate_limits": [{ "rate": "9/s", "burst": 5 }], "concurrency": [{ "max": 9 }],
            },
            { "name": "second", "upstream": "other" },
            { "name": "third", "upstream": "fleet" },
        ],
        "quotas": [{ "name": "tokens", "limit": "1M", "every": "day" }],
        "upstreams": {
            "fleet": {
                "kind": "ollama", "servers": [{ "url": url }],
                // Without it `hash_on` would have no meaning.
                "balance": { "policy": "consistent_hash" },
            },
            "other": { "kind": "http", "servers": [{ "url": "http://127.0.0.1:9" }] },
        },
        "admin": { "address": "127.0.0.1:0" },
        "notifications": [{ "url": "http://127.0.0.1:9" }],
    })
}

fn kept(snapshot: &Snapshot) -> Option<&arriero::fleet::snapshot::Embeddings> {
    snapshot.routes[0].embeddings.as_ref()
}

fn answers(snapshot: &Snapshot) -> Option<&arriero::fleet::snapshot::Cache> {
    snapshot.routes[0].cache.as_ref()
}

/// The first thing that a key of the schema stands for in [`base`], set to a value.
fn set(config: &mut Value, key: &str, value: Value) {
    if key == "routes[].rate_limits[].preset" {
        // It stands in the place of these.
        let limit = config["routes"][0]["rate_limits"][0].as_object_mut().expect("a limit");
        limit.retain(|key, _| key != "rate" && key != "burst");
    }
    if key == "upstreams.*.bans.for" {
        // It has no meaning without this.
        config["upstreams"]["fleet"]["bans"]["after"] = json!(10);
    }
    if let Some(key) = key.strip_prefix("upstreams.*.servers[].recovery.") {
        // The others have no meaning without one of these.
        config["upstreams"]["fleet"]["servers"][0]["recovery"] = match key {
            "exec" | "webhook" | "docker_restart" => json!({}),
            "secret_file" => json!({ "webhook": "http://a.test" }),
            "docker_socket" => json!({ "docker_restart": "c" }),
            _ => json!({ "exec": ["a"] }),
        };
    }
    if let Some(key) = key.strip_prefix("upstreams.*.servers[].gpu.") {
        // The others have no meaning without one of these.
        config["upstreams"]["fleet"]["servers"][0]["gpu"] = match key {
            "memory" | "margin" | "nvml" | "agent" | "exporter" => json!({}),
            "token_file" => json!({ "agent": "http://a.test" }),
            "uuid" | "index" | "interval" => json!({ "nvml": "on" }),
            _ => {
                let fields = json!({ "memory_used": { "metric": "m", "factor": 7 } });
                json!({ "exporter": "http://a.test/metrics", "metrics": { "card_label": "gpu", "fields": fields } })
            }
        };
    }
    if key == "routes[].cache.authorized" {
        config["routes"][0]["cache"] = json!({ "scope": "shared" });
    }
    if key == "routes[].cache.cluster" {
        config["cluster"] = json!({ "redis": "redis://127.0.0.1:9" });
    }
    if key.starts_with("telemetry.tracing.") {
        // The others have no meaning without it.
        let url = if key.contains(".tls") { "https://127.0.0.1:9" } else { "http://127.0.0.1:9" };
        config["telemetry"]["tracing"] = json!({ "url": url });
    }
    if let Some(key) = key.strip_prefix("cluster.") {
        // The others have no meaning without it, and some not without each other.
        let redis = if key.starts_with("tls") { "rediss://127.0.0.1:9" } else { "redis://127.0.0.1:9" };
        config["cluster"] = match key {
            "master" => json!({ "redis": redis, "mode": "sentinel" }),
            "username" => json!({ "redis": redis, "password_file": "conf/arriero.yaml" }),
            _ => json!({ "redis": redis }),
        };
    }
    let key = key.replace("fields.*", "fields.memory_used");
    let key = key.replace("upstreams.*", "upstreams.fleet").replace("error_pages.*", "error_pages.404");
    let key = key.replace(".*", ".x-team").replace("[]", ".0");
    let slot = key.split('.').fold(config, |at, step| match step.parse::<usize>() {
        Ok(index) if at.is_array() => &mut at[index],
        Ok(_) => &mut at[step],
        Err(_) => &mut at[step],
    });
    *slot = value;
}

/// Each key of `rows`, set in a configuration made by `of`, is seen where it should be.
fn each_changes_what_runs(rows: &[Row], of: fn() -> Value) {
    let before = compiled(&of());
    for (key, value, wanted, look) in rows {
        let mut config = of();
        set(&mut config, key, serde_json::from_str(value).expect("JSON"));
        let (without, with) = (look(&before), look(&compiled(&config)));
        assert!(without != *wanted && with == *wanted, "{key}: without it {without}, with it {with}, wanted {wanted}");
    }
}

fn compiled(config: &Value) -> Snapshot {
    let loaded = config::parse("keys", &config.to_string(), &|_| None);
    let loaded = loaded.unwrap_or_else(|found| panic!("{}", found.render(false)));
    let metrics = Arc::new(Metrics::default());
    let around = Surroundings { servers: HashMap::new(), metrics: &metrics, now: clock::now(), unix_time: 0.0 };
    compile(&loaded.config, loaded.hash, &around).expect("it compiles")
}

fn folder() -> tempfile::TempDir {
    tempfile::tempdir().expect("a folder")
}

/// Every key below this part of the schema that has a value of its own.
fn leaves(schema: &Value, part: &Value, path: &str, found: &mut BTreeSet<String>) {
    if let Some(target) = part["$ref"].as_str() {
        return leaves(schema, schema.pointer(target.trim_start_matches('#')).expect("a definition"), path, found);
    }
    let choices = ["anyOf", "oneOf", "allOf"].into_iter().filter_map(|word| part[word].as_array()).flatten();
    let choices: Vec<&Value> = choices.filter(|choice| choice["type"] != "null").collect();
    if !choices.is_empty() {
        return choices.into_iter().for_each(|choice| leaves(schema, choice, path, found));
    }
    let below = |name: &str| if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") };
    if let Some(properties) = part["properties"].as_object() {
        properties.iter().for_each(|(name, property)| leaves(schema, property, &below(name), found));
    } else if part["additionalProperties"].is_object() {
        leaves(schema, &part["additionalProperties"], &below("*"), found);
    } else if part["items"].is_object() {
        let (mut items, path) = (BTreeSet::new(), format!("{path}[]"));
        leaves(schema, &part["items"], &path, &mut items);
        // A list of plain values is one value.
        found.extend(items.into_iter().map(|item| item.strip_suffix("[]").map_or(item.clone(), str::to_owned)));
    } else {
        found.insert(path.to_owned());
    }
}

#[test]
fn every_key_of_the_schema_has_a_proof_and_every_proof_its_key() {
    let (schema, mut found) = (config::schema(), BTreeSet::new());
    leaves(&schema, &schema, "", &mut found);
    let proofs = PROCESS.iter().chain(TLS).map(|row| row.0);
    let rows = COMPILED.iter().chain(scheduled::SCHEDULED).chain(gpu::GPU).map(|row| row.0).chain(proofs);
    let rows: Vec<&str> = rows.chain(TARGETS.iter().map(|row| row.0)).collect();
    let known: BTreeSet<&str> = rows.iter().copied().collect();
    assert_eq!(known.len(), rows.len(), "a key has two rows");
    let without: Vec<_> = found.iter().filter(|key| !known.contains(key.as_str())).collect();
    let gone: Vec<_> = known.iter().filter(|key| !found.contains(**key)).collect();
    assert!(without.is_empty() && gone.is_empty(), "keys without a proof: {without:?}; proofs without a key: {gone:?}");
}

#[test]
fn each_key_that_is_compiled_changes_what_runs() {
    let before = compiled(&base("http://127.0.0.1:9"));
    let mut wrong = Vec::new();
    for (key, value, wanted, look) in COMPILED {
        let mut config = base("http://127.0.0.1:9");
        set(&mut config, key, serde_json::from_str(value).expect("JSON"));
        let (without, with) = (look(&before), look(&compiled(&config)));
        if without == *wanted || with != *wanted {
            wrong.push(format!("{key}: {value}: without it {without}, with it {with}, wanted {wanted}"));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[tokio::test]
async fn each_key_of_the_process_changes_what_it_does() {
    for (key, proof) in PROCESS.iter().chain(TLS) {
        let shown = std::panic::AssertUnwindSafe(proof()).catch_unwind().await;
        assert!(shown.is_ok(), "the proof of `{key}` failed: see above");
    }
}
