//! Directives that become no key: what is always so here, and why.

use super::report::{Outcome, Report};
use super::tree::{Directive, MISSING};

const STREAMS: &str = "requests and answers always stream; nothing is buffered on disk for a slow reader";
const SYSTEM: &str = "the system's best way is always used";
const NO_CACHE: &str = "answers are kept where a route has `cache`: add it, as far as it is wanted";
const TLS: &str = "TLS is rustls with its own safe choice of suites, sessions and tickets";
const WEBSOCKET: &str = "WebSockets and other upgrades need no variables";

/// Names, and why they become nothing.
const IGNORED: &[(&[&str], &str)] = &[
    (
        &["user", "pid", "daemon", "master_process", "worker_priority", "worker_cpu_affinity"],
        "left to the service manager or the container",
    ),
    (&["worker_rlimit_nofile"], "the limit of open files is raised as far as the system allows"),
    (&["worker_connections"], "connections are limited at the listener: `limits.connections`, 10000 by default"),
    (
        &[
            "use",
            "multi_accept",
            "accept_mutex",
            "aio",
            "directio",
            "sendfile",
            "sendfile_max_chunk",
            "tcp_nopush",
            "tcp_nodelay",
            "output_buffers",
            "postpone_output",
        ],
        SYSTEM,
    ),
    (
        &[
            "types_hash_max_size",
            "types_hash_bucket_size",
            "server_names_hash_bucket_size",
            "server_names_hash_max_size",
            "variables_hash_max_size",
            "map_hash_bucket_size",
            "open_file_cache",
            "open_file_cache_valid",
            "open_file_cache_min_uses",
            "open_file_cache_errors",
        ],
        "there is no such table",
    ),
    (
        &["server_tokens", "server_name_in_redirect", "port_in_redirect", "absolute_redirect"],
        "no version is ever told, and redirects are relative",
    ),
    (
        &["default_type", "types", "charset", "charset_types", "override_charset"],
        "the Content-Type comes from the ending of the file's name",
    ),
    (&["etag", "if_modified_since", "max_ranges"], "ETag, conditional requests and single ranges are always answered"),
    (
        &[
            "client_body_buffer_size",
            "client_header_buffer_size",
            "client_body_in_single_buffer",
            "client_body_temp_path",
            "client_body_in_file_only",
            "connection_pool_size",
            "request_pool_size",
        ],
        "bodies stream, and the few that are held have `server.body_memory` and `server.body_budget`",
    ),
    (
        &[
            "proxy_buffering",
            "proxy_request_buffering",
            "proxy_buffer_size",
            "proxy_buffers",
            "proxy_busy_buffers_size",
            "proxy_temp_file_write_size",
            "proxy_max_temp_file_size",
            "proxy_temp_path",
            "proxy_limit_rate",
            "proxy_ignore_headers",
        ],
        STREAMS,
    ),
    (
        &[
            "proxy_cache",
            "proxy_cache_bypass",
            "proxy_no_cache",
            "proxy_cache_valid",
            "proxy_cache_path",
            "proxy_cache_key",
            "proxy_cache_use_stale",
            "proxy_cache_lock",
            "proxy_cache_methods",
            "proxy_cache_min_uses",
            "proxy_store",
        ],
        NO_CACHE,
    ),
    (
        &[
            "proxy_http_version",
            "proxy_socket_keepalive",
            "proxy_headers_hash_max_size",
            "proxy_headers_hash_bucket_size",
        ],
        "servers are always spoken to in HTTP/1.1 with kept connections, or in HTTP/2 with `http2: true`",
    ),
    (
        &[
            "proxy_redirect",
            "proxy_cookie_path",
            "proxy_cookie_domain",
            "proxy_pass_header",
            "proxy_pass_request_headers",
            "proxy_pass_request_body",
            "proxy_ignore_client_abort",
        ],
        "answers pass as the server wrote them; a client that leaves ends the request at the server",
    ),
    (
        &[
            "gzip_vary",
            "gzip_proxied",
            "gzip_comp_level",
            "gzip_min_length",
            "gzip_types",
            "gzip_disable",
            "gzip_buffers",
            "gzip_http_version",
            "gzip_static",
            "brotli",
            "brotli_types",
            "brotli_comp_level",
        ],
        "text-like types of 1 KiB and more are compressed, with `Vary`; never NDJSON, event streams and ranges",
    ),
    (&["limit_req_status", "limit_conn_status"], "the answer is always 429 with Retry-After"),
    (
        &["limit_req_log_level", "limit_conn_log_level", "log_not_found", "log_subrequest", "rewrite_log"],
        "refusals are in the access log, with their reason",
    ),
    (
        &[
            "ssl_ciphers",
            "ssl_prefer_server_ciphers",
            "ssl_session_cache",
            "ssl_session_timeout",
            "ssl_session_tickets",
            "ssl_ecdh_curve",
            "ssl_dhparam",
            "ssl_buffer_size",
            "ssl_early_data",
            "ssl_verify_depth",
            "ssl_conf_command",
        ],
        TLS,
    ),
    (&["resolver", "resolver_timeout"], "names of servers are resolved again in the background, by the system"),
    (
        &[
            "keepalive_requests",
            "keepalive_disable",
            "keepalive_time",
            "reset_timedout_connection",
            "lingering_close",
            "lingering_time",
            "lingering_timeout",
        ],
        "kept connections end by `timeouts.keepalive`",
    ),
    (&["keepalive_min_timeout", "zone", "queue", "state", "random_seed"], "there is no such table"),
    (&["real_ip_recursive"], "the chain of addresses is always walked up to the first that is not trusted"),
    (
        &[
            "http2_max_concurrent_streams",
            "http2_recv_timeout",
            "http2_idle_timeout",
            "http2_body_preread_size",
            "http2_chunk_size",
        ],
        "HTTP/2 has limits of its own",
    ),
    (&["proxy_next_upstream_timeout"], "the time for all attempts is `timeouts.request`"),
    (&["merge_slashes"], "paths are brought to their one canonical form, or refused"),
    (
        &["load_module", "env", "thread_pool", "pcre_jit", "timer_resolution", "lock_file", "working_directory"],
        "there are no modules",
    ),
];

/// Notes every directive that nothing else noted.
pub(super) fn note(directives: &[Directive], report: &mut Report) {
    for directive in directives {
        if !report.knows(directive) {
            let (outcome, reason) = judge(directive);
            report.note(directive, outcome, reason);
        }
        if directive.name == "if" {
            let inner = "it stands in an `if`";
            directive.children().iter().for_each(|child| report.note(child, Outcome::Ignored, inner));
        }
        // What is inside a `map` or `types` are values, not directives.
        if !matches!(directive.name.as_str(), "map" | "types" | "geo" | "split_clients") {
            note(directive.children(), report);
        }
    }
}

fn judge(directive: &Directive) -> (Outcome, &'static str) {
    let name = directive.name.as_str();
    if let Some((_, reason)) = IGNORED.iter().find(|(names, _)| names.contains(&name)) {
        return (Outcome::Ignored, reason);
    }
    match name {
        "events" | "http" | "server" | "location" | "upstream" => (Outcome::Converted, "see what is in it"),
        "include" if directive.arg(1) == MISSING => (Outcome::Unsupported, "the file is not there"),
        "include" if directive.arg(0).ends_with("mime.types") => (Outcome::Ignored, "types are built in"),
        "include" => (Outcome::Converted, "the file was read"),
        "map" if directive.arg(0) == "$http_upgrade" => (Outcome::Ignored, WEBSOCKET),
        "log_format" => {
            (Outcome::Approximated, "the access log has formats of its own: `json` holds all these facts but the query")
        }
        "access_log" if directive.arg(0) == "off" => {
            (Outcome::Ignored, "the access log is one for the process: leave lines out by their `route`")
        }
        "map" | "geo" | "split_clients" => (Outcome::Unsupported, "there are no variables of one's own"),
        "set" | "if" => (Outcome::Unsupported, "there are no conditions and variables: write a route with a `match`"),
        "auth_basic" | "auth_basic_user_file" | "auth_request" | "satisfy" | "auth_jwt" => (
            Outcome::Unsupported,
            "clients are known by keys: `auth.keys_file` and `arriero key new`; Basic is read too",
        ),
        "fastcgi_pass" | "uwsgi_pass" | "scgi_pass" | "grpc_pass" | "memcached_pass" => {
            (Outcome::Unsupported, "servers are spoken to in HTTP")
        }
        "limit_rate" | "limit_rate_after" => (Outcome::Unsupported, "answers are not slowed down"),
        "sub_filter" | "sub_filter_once" | "sub_filter_types" | "mirror" | "autoindex" | "random_index" => {
            (Outcome::Unsupported, "there is no such function")
        }
        "stream" | "mail" => (Outcome::Unsupported, "only HTTP is proxied"),
        _ => (Outcome::Unsupported, "the import does not know this directive here"),
    }
}
