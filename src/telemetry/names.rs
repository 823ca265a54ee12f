//! Every metric: its name, type, labels and help, in one place. Base units; counters get `_total` from the encoder.
//!
//! What is registered, the help in `/metrics` and `docs/reference/metrics.md` are all made from this table; tests hold what a
//! running instance tells against it. Labels are told by the configuration or come from closed lists, so that no client can
//! make series.

/// What a metric is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Only grows, until the process ends.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Counts in buckets, and a sum.
    Histogram,
}

impl Kind {
    /// The word that Prometheus has for it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        }
    }
}

/// A metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Metric {
    /// Its name, that of a counter without `_total`.
    pub name: &'static str,
    /// What it is.
    pub kind: Kind,
    /// The names of its labels.
    pub labels: &'static [&'static str],
    /// What must be so, or have happened once, before it has a series; `None` when it always has.
    pub only: Option<&'static str>,
    /// What it says.
    pub help: &'static str,
}

/// Metrics that belong together, under a title.
pub type Group = (&'static str, &'static [Metric]);

macro_rules! metrics {
    (@only) => { None };
    (@only $only:literal) => { Some($only) };
    (
        $(#[$doc:meta])*
        $groups:ident
        $($title:literal {
            $($id:ident = $kind:ident $name:literal [$($label:literal),*] $(only $only:literal)?: $help:literal;)*
        })*
    ) => {
        $($(
            #[doc = $help]
            pub const $id: Metric = Metric {
                name: $name,
                kind: Kind::$kind,
                labels: &[$($label),*],
                only: metrics!(@only $($only)?),
                help: $help,
            };
        )*)*
        $(#[$doc])*
        pub const $groups: &[Group] = &[$(($title, &[$($id),*])),*];
    };
}

metrics! {
    /// All metrics of `arriero run`.
    GROUPS
    "Requests" {
        REQUESTS = Counter "arriero_requests" ["route", "upstream", "code"] only "after a request ended":
            "Requests that ended, by route, upstream and status code";
        ENDED = Counter "arriero_requests_ended" ["reason"]:
            "Requests by the reason why they ended as they did: the words of X-Arriero-Reason and of the log";
        DURATION = Histogram "arriero_request_duration_seconds" ["route"]:
            "From the request head to the last byte of the answer";
        IN_FLIGHT = Gauge "arriero_requests_in_flight" ["route"]: "Requests being served, by route";
        REQUEST_BYTES = Counter "arriero_request_bytes" ["route"]: "Bytes of request bodies received";
        RESPONSE_BYTES = Counter "arriero_response_bytes" ["route"]: "Bytes of response bodies sent";
        REFUSED = Counter "arriero_heads_refused" ["reason"]: "Request heads refused before routing, by reason";
        RATE_LIMITED = Counter "arriero_rate_limited" ["route"]:
            "Requests refused by a rate or concurrency limit of their route, by route";
        LIMITER_KEYS = Gauge "arriero_rate_limiter_keys" []: "Keys that rate limits know, of 100000 at most";
        QUOTA_REFUSED = Counter "arriero_quota_refused" ["route", "quota"] only "with `quotas`":
            "Requests refused because a token quota was used up, by route and quota";
        QUOTA_UNTOLD = Counter "arriero_quota_untold" ["route"] only "with `quotas`":
            "Requests under a token quota whose server did not tell how many tokens they used, by route";
        QUOTA_TOKENS = Counter "arriero_quota_tokens" ["quota"] only "with `quotas`":
            "Tokens charged to a quota, of the kind that it counts";
        QUOTA_KEYS = Gauge "arriero_quota_keys" ["quota", "state"] only "with `quotas`":
            "Keys that used tokens of a quota in its window, by quota and state (within, warned, exceeded)";
        HELD = Gauge "arriero_held_body_bytes" []: "Bytes of request bodies held in memory and on disk";
    }
    "Answers of models" {
        FIRST_TOKEN = Histogram "arriero_time_to_first_token_seconds" ["route", "upstream"]
            only "after a stream brought a token":
            "From the request head to the first token of a stream, as its client sees it: queue, load and retries included";
        TOKEN_GAP = Histogram "arriero_inter_token_gap_seconds" ["upstream", "server"]
            only "after a stream brought two":
            "Time between a piece of a stream that brought a token and the next one that did";
        DECODE_SPEED = Histogram "arriero_decode_tokens_per_second" ["upstream", "server"]
            only "after an answer told it":
            "Tokens a second of whole answers of more than 8 tokens, by Ollama's own count and clock";
        TOKENS = Counter "arriero_tokens" ["upstream", "kind"]:
            "Tokens that servers reported, by upstream and kind (prompt or output)";
    }
    "Kept embeddings" {
        EMBEDDINGS_CACHE_INPUTS = Counter "arriero_embeddings_cache_inputs" ["route", "result"]
            only "on routes with `embeddings_cache`":
            "Inputs of requests for embeddings, by result: hit, miss, or collapsed into another request that asked for the same";
        EMBEDDINGS_CACHE_BYPASSED = Counter "arriero_embeddings_cache_bypassed" ["route", "why"]
            only "on routes with `embeddings_cache`":
            "Requests for embeddings that went past the cache, by why (client, digest, too_long or unfit)";
        EMBEDDINGS_CACHE_EVICTIONS = Counter "arriero_embeddings_cache_evictions" ["route"]
            only "on routes with `embeddings_cache`": "Embeddings that were thrown out to make room";
        EMBEDDINGS_CACHE_BYTES = Gauge "arriero_embeddings_cache_bytes" ["route"]
            only "on routes with `embeddings_cache`": "Bytes that the embeddings take that a route keeps";
        EMBEDDINGS_CACHE_MAX_BYTES = Gauge "arriero_embeddings_cache_max_bytes" ["route"]
            only "on routes with `embeddings_cache`": "Bytes that the embeddings may take that a route keeps";
        EMBEDDINGS_CACHE_ENTRIES = Gauge "arriero_embeddings_cache_entries" ["route"]
            only "on routes with `embeddings_cache`": "Embeddings that a route keeps";
    }
    "Kept answers" {
        CACHE_REQUESTS = Counter "arriero_cache_requests" ["route", "result"] only "on routes with `cache`":
            "Requests for what may be kept, by result: hit, stale, revalidated, miss, or collapsed into another request for the same";
        CACHE_BYPASSED = Counter "arriero_cache_bypassed" ["route", "why"] only "on routes with `cache`":
            "GET and HEAD requests that went past the cache, by why (client or unfit)";
        CACHE_EVICTIONS = Counter "arriero_cache_evictions" ["route"] only "on routes with `cache`":
            "Answers that were thrown out to make room";
        CACHE_DAMAGED = Counter "arriero_cache_damaged" ["route"] only "on routes with `cache`":
            "Answers that were thrown away because their checksum was wrong when they were to be given";
        CACHE_BYTES = Gauge "arriero_cache_bytes" ["route"] only "on routes with `cache`":
            "Bytes that the answers take that a route keeps";
        CACHE_MAX_BYTES = Gauge "arriero_cache_max_bytes" ["route"] only "on routes with `cache`":
            "Bytes that the answers may take that a route keeps";
        CACHE_ENTRIES = Gauge "arriero_cache_entries" ["route"] only "on routes with `cache`":
            "Answers that a route keeps";
    }
    "Cluster" {
        CLUSTER_LINKED = Gauge "arriero_cluster_linked" ["cluster"] only "with `cluster`":
            "1 while Redis can be used by this instance";
        CLUSTER_INSTANCES = Gauge "arriero_cluster_instances" ["cluster"] only "with `cluster`":
            "Instances that are alive, as far as this one knows; this one is among them";
        CLUSTER_CONFIGURATIONS = Gauge "arriero_cluster_configurations" ["cluster"] only "with `cluster`":
            "Different configurations among the instances that are alive: 1 unless one was left behind";
        CLUSTER_LEADS = Gauge "arriero_cluster_leads" ["cluster"] only "with `cluster`":
            "1 while this instance does what one alone should do";
        CLUSTER_CALLS = Counter "arriero_cluster_calls" ["result"] only "after a call":
            "Calls of Redis, by result: ok, refused (this call alone), timeout, unusable (another connection is needed) or down (not tried)";
        CLUSTER_SETTLED = Counter "arriero_cluster_settled" ["of"] only "after a settlement":
            "Keys of which this instance told the others what they used: of rate_limits or of quotas";
        CLUSTER_UNSETTLED = Gauge "arriero_cluster_unsettled_seconds" ["of"] only "with `cluster`":
            "For how long something waits that could not be told the others; 0 while nothing does";
    }
    "Attempts at servers" {
        ATTEMPTS = Counter "arriero_attempts" ["upstream", "server", "outcome"] only "after an attempt ended":
            "Attempts at a server, by outcome";
        FIRST_BYTE = Histogram "arriero_time_to_first_byte_seconds" ["upstream", "server"]:
            "From the start of an attempt to the first byte of its answer";
        RETRIES = Counter "arriero_retries" ["upstream", "reason"] only "after a request was tried again":
            "Attempts after the first, by the reason of the one before";
        RETRIES_REFUSED = Counter "arriero_retries_refused" ["upstream"] only "after the budget refused a retry":
            "Attempts that were not made again because of the retry budget, by upstream";
        CONNECT = Histogram "arriero_server_connect_duration_seconds" ["upstream", "server"]:
            "Time that opening a connection to the server took, the TLS handshake included; those that failed are not in it";
        CONNECTIONS_USED = Counter "arriero_server_connections_used" ["upstream", "server", "how"]:
            "Connections that attempts at the server got, by how: reused, or new";
    }
    "Queues" {
        QUEUED = Gauge "arriero_queue_requests" ["upstream"]: "Requests that wait for a slot, by upstream";
        QUEUE_WAIT = Histogram "arriero_queue_wait_seconds" ["upstream"]:
            "Time that requests waited for a slot, by upstream; those that did not wait are in it";
        QUEUE_LONGEST = Gauge "arriero_queue_longest_requests" ["upstream"]:
            "Requests that wait for the one model for which most do";
        QUEUE_LIMIT = Gauge "arriero_queue_limit_requests" ["upstream"]:
            "Requests that may wait for one model (queue.max_pending)";
        QUEUE_LOADING = Gauge "arriero_queue_loading_requests" ["upstream"]:
            "Those of the requests that wait whose model is on its way into memory";
    }
    "Servers" {
        SERVER_UP = Gauge "arriero_server_up" ["upstream", "server"]:
            "1 when the server is healthy or not yet known, 0 when its probes fail";
        SERVER_OPERATION = Gauge "arriero_server_operation" ["upstream", "server", "state"]:
            "1 for what an operator decided about the server (active, draining or maintenance), 0 for the others";
        SERVER_IN_FLIGHT = Gauge "arriero_server_in_flight" ["upstream", "server"]: "Requests running on the server";
        SERVER_SLOTS = Gauge "arriero_server_slots" ["upstream", "server"]
            only "where `max_in_flight` is set, or the slots of all models in memory are known":
            "Requests that may run on the server: max_in_flight, else what the models in memory take together";
        SERVER_CONNECTIONS = Gauge "arriero_server_connections" ["upstream", "server"]: "Open connections to the server";
        SERVER_FLAPPING = Gauge "arriero_server_flapping" ["upstream", "server"]:
            "1 while the server falls ill and gets well again and again, else 0";
        PROBES = Counter "arriero_probes" ["kind", "result"] only "after a check":
            "Background checks of servers, by kind and result";
        RECOVERY_TESTS = Counter "arriero_recovery_tests" ["upstream", "server", "result"] only "after a test":
            "Tests of servers that were down or had an open circuit, by server and result";
        RECOVERY_ACTIONS = Counter "arriero_recovery_actions" ["upstream", "server", "action", "result"]
            only "after an attempt":
            "Attempts of recovery actions, by server, action and result (recovered, failed, not_verified); gave_up counts the rounds that were given up";
    }
    "Circuits and bans" {
        SERVER_CIRCUIT = Gauge "arriero_server_circuit_state" ["upstream", "server", "state"]:
            "1 for the state that the server's circuit is in (closed, open or half_open), 0 for the others";
        MODEL_CIRCUITS = Gauge "arriero_server_model_circuits" ["upstream", "server", "state"]:
            "Models of the server that failed there, by the state of their circuits; others have none";
        CIRCUIT_BREAKERS = Gauge "arriero_circuit_breakers" ["upstream", "of", "state"]:
            "Circuits in each state, by upstream and by whose they are (server or model)";
        CIRCUIT_TRANSITIONS = Counter "arriero_circuit_transitions" ["upstream", "server", "of", "to"]
            only "after a change":
            "Changes of circuits, by whose circuit it is (server or model) and by the new state";
        BANS = Gauge "arriero_bans" ["upstream"]: "Bans of servers and models that hold, by upstream";
        QUARANTINED = Gauge "arriero_quarantined" ["upstream"]:
            "Requests that made a runner crash and are tried at no server, by upstream";
    }
    "Models" {
        SERVER_MODELS = Gauge "arriero_server_models" ["upstream", "server", "in"] only "once the server told its models":
            "Models of the server, by where they are (disk or memory)";
        MODELS_LOADING = Gauge "arriero_server_models_loading" ["upstream", "server"]:
            "Models on their way into the server's memory: by a load of ours, or by a request that began there";
        MODEL_CHANGES = Counter "arriero_model_changes" ["upstream", "kind", "result"] only "after a change":
            "Loads, unloads, pulls, copies and deletes of models that Arriero had done, by upstream, kind and result";
        MODEL_LOAD = Histogram "arriero_model_load_duration_seconds" ["upstream", "server"] only "after a load":
            "Time that loads took that Arriero had done and that went well";
        EVICTIONS = Counter "arriero_model_evictions" ["upstream", "server", "why"] only "after one left":
            "Models that left the server's memory, by why: room (for another one that Arriero loads), idle (`idle_unload`), operator (an order), server (by itself: keep_alive, its own choice, or a client's request)";
    }
    "Cards" {
        GPU_STATE = Gauge "arriero_gpu_state" ["upstream", "server", "state"]
            only "for servers of models, and those with `gpu`":
            "1 for the state that the server's GPU is in (healthy, degraded, draining or failed), 0 for the others";
        GPU_SIGNALS = Gauge "arriero_gpu_signals" ["upstream", "server", "signal"]
            only "for servers of models, and those with `gpu`":
            "What speaks against the server's GPU now, by signal";
        GPU_SOURCE_UP = Gauge "arriero_gpu_source_up" ["upstream", "server"] only "for servers with a source":
            "1 when whoever tells how the server's GPU is answers, 0 when not";
        GPU_CHANGES = Counter "arriero_gpu_state_changes" ["upstream", "server", "to"] only "after a change":
            "Changes of the state of the server's GPU";
        GPU_MEMORY_TOTAL = Gauge "arriero_gpu_memory_total_bytes" ["upstream", "server", "uuid", "index", "name"]
            only "where the source tells it": "Memory of the card";
        GPU_MEMORY_USED = Gauge "arriero_gpu_memory_used_bytes" ["upstream", "server", "uuid", "index", "name"]
            only "where the source tells it": "Memory in use, by whomever";
        GPU_UTILISATION = Gauge "arriero_gpu_utilisation_ratio" ["upstream", "server", "uuid", "index", "name"]
            only "where the source tells it": "Share of the time that something ran on the card, from 0 to 1";
        GPU_TEMPERATURE = Gauge "arriero_gpu_temperature_celsius" ["upstream", "server", "uuid", "index", "name"]
            only "where the source tells it": "Temperature of the card";
        GPU_POWER = Gauge "arriero_gpu_power_watts" ["upstream", "server", "uuid", "index", "name"]
            only "where the source tells it": "Power that the card takes";
    }
    "Client connections" {
        CONNECTIONS = Gauge "arriero_connections" []: "Open client connections";
        ACCEPTED = Counter "arriero_connections_accepted" []: "Client connections accepted";
        CONNECTIONS_REFUSED = Counter "arriero_connections_refused" ["limit"] only "after one was refused":
            "Client connections closed because there were too many, by the limit";
    }
    "Configuration" {
        RELOADS = Counter "arriero_config_reloads" ["result"] only "after a reload":
            "Configuration reloads, by result (applied, unchanged, refused)";
        RELOAD_OK = Gauge "arriero_config_last_reload_successful" []:
            "1 when the file on disk is in force, 0 when it was refused";
        RELOAD_TIME = Gauge "arriero_config_last_reload_success_timestamp_seconds" []:
            "When the configuration in force was loaded, in seconds since 1970";
        CONFIG_HASH = Gauge "arriero_config_hash_info" ["hash"]: "Hash of the configuration in force";
        CERTIFICATE_EXPIRY = Gauge "arriero_certificate_expiry_seconds" ["name"] only "where a listener has certificates":
            "When the certificate stops being valid, in seconds since 1970, by its first name";
        CERTIFICATE_RELOADS = Counter "arriero_certificate_reloads" ["result"] only "after a file changed":
            "Certificate files that changed, by result (applied, refused)";
        KEYS_OK = Gauge "arriero_keys_last_reload_successful" []:
            "1 when the keys file on disk is in force or there is none, 0 when it was refused";
    }
    "The process" {
        BUILD = Gauge "arriero_build_info" ["version", "revision"]:
            "Version of this program, and the commit that it was built from (empty where that is not known)";
        HEALTH_SCORE = Gauge "arriero_health_score" []: "How well all of it is, from 0 to 100";
        RESOURCE_MEMORY = Gauge "arriero_memory_bytes" ["of"] only "where the system tells it":
            "Memory in use and its limit (of used, limit): of the container where it has a limit, else of the machine";
        RESOURCE_CPU = Gauge "arriero_process_cpu_ratio" []:
            "Processor time of this process as a share of all that it may use, from 0 to 1";
        RESOURCE_FILES = Gauge "arriero_process_files" ["of"] only "where the system tells it":
            "File descriptors of this process and their limit (of open, limit)";
        DISK = Gauge "arriero_disk_bytes" ["folder", "of"] only "where the system tells it":
            "Bytes of the disks of data_dir and temp_dir, by folder (of used, free)";
        EXCEEDED = Gauge "arriero_threshold_exceeded" ["resource"]:
            "1 while more of a resource is used than server.thresholds says, by resource (memory, disk, cpu, files)";
        PROCESS_MEMORY = Gauge "process_resident_memory_bytes" []: "Resident memory of the process, in bytes";
        PROCESS_CPU = Counter "process_cpu_seconds" []: "Time of processors that the process has used";
        PROCESS_START = Gauge "process_start_time_seconds" []: "When the process started, in seconds since 1970";
    }
    "Records and messages" {
        NOTIFICATIONS = Counter "arriero_notifications" ["event", "result"] only "after a message":
            "Messages to webhooks, by event and result (delivered, failed, dropped, deduplicated)";
        EVENTS_LOST = Counter "arriero_events_lost" []:
            "Events that nobody was told because too many came at a time";
        HISTORY_DROPPED = Counter "arriero_history_dropped" ["why"]:
            "Rows that the history lacks, by why: busy (the queue was full), left_out (too many at a time, in the sums only), failed (the file could not be written)";
        HISTORY_DAMAGED = Counter "arriero_history_damaged" []:
            "Files of the history that were damaged, moved aside and begun anew";
        TRACE_SPANS = Counter "arriero_trace_spans" ["result"]:
            "Spans of requests, by what became of them: delivered, refused by the collector, failed or dropped";
        LOG_DROPPED = Counter "arriero_access_log_dropped" []:
            "Access log lines dropped because the writer could not keep up";
    }
}

/// Metrics of `arriero gpu-agent`.
pub mod gpu {
    use super::{Group, Kind, Metric};

    metrics! {
        /// All metrics of `arriero gpu-agent` beside `arriero_build_info`.
        GROUPS
        "The driver" {
            READABLE = Gauge "arriero_gpu_readable" ["reason"]:
                "1 when the driver answers, 0 with the reason (silent, driver_down, hangs) when not";
            AGE = Gauge "arriero_gpu_age_seconds" []: "How old the values of all cards are";
            DRIVER = Gauge "arriero_gpu_driver_info" ["version"] only "where the driver tells it":
                "Version of the driver";
        }
        "Memory" {
            MEMORY_TOTAL = Gauge "arriero_gpu_memory_total_bytes" ["uuid", "index", "name"]
                only "where the driver tells it": "Memory of the card";
            MEMORY_USED = Gauge "arriero_gpu_memory_used_bytes" ["uuid", "index", "name"]
                only "where the driver tells it": "Memory in use, by whomever";
            MEMORY_FREE = Gauge "arriero_gpu_memory_free_bytes" ["uuid", "index", "name"]
                only "where the driver tells it": "Memory that is free";
            ECC = Counter "arriero_gpu_ecc_uncorrected_errors" ["uuid", "index", "name"]
                only "where the driver tells it":
                "Errors of the memory since the last reset that could not be corrected";
            REMAPPED_ROWS = Gauge "arriero_gpu_remapped_rows" ["uuid", "index", "name"]
                only "where the driver tells it":
                "Rows of the memory that were replaced because of errors that could not be corrected";
            REMAP_PENDING = Gauge "arriero_gpu_remap_pending" ["uuid", "index", "name"]
                only "where the driver tells it": "1 when rows will be replaced at the next reset";
            REMAP_FAILED = Gauge "arriero_gpu_remap_failed" ["uuid", "index", "name"] only "where the driver tells it":
                "1 when a row could not be replaced";
            RETIRED_PAGES = Gauge "arriero_gpu_retired_pages" ["uuid", "index", "name"]
                only "where the driver tells it": "Pages of the memory that were taken out of use";
        }
        "Work, heat and power" {
            UTILISATION = Gauge "arriero_gpu_utilisation_ratio" ["uuid", "index", "name"]
                only "where the driver tells it": "Share of the time that something ran on the card, from 0 to 1";
            PROCESSES = Gauge "arriero_gpu_processes" ["uuid", "index", "name"] only "where the driver tells it":
                "Processes that compute on the card";
            TEMPERATURE = Gauge "arriero_gpu_temperature_celsius" ["uuid", "index", "name"]
                only "where the driver tells it": "Temperature of the card";
            MARGIN = Gauge "arriero_gpu_temperature_margin_celsius" ["uuid", "index", "name"]
                only "where the driver tells it": "Degrees left until the hardware slows the card down";
            MEMORY_TEMPERATURE = Gauge "arriero_gpu_memory_temperature_celsius" ["uuid", "index", "name"]
                only "where the driver tells it": "Temperature of the memory";
            MEMORY_MARGIN = Gauge "arriero_gpu_memory_temperature_margin_celsius" ["uuid", "index", "name"]
                only "where the driver tells it": "Degrees left until the memory is hotter than it may be";
            POWER = Gauge "arriero_gpu_power_watts" ["uuid", "index", "name"] only "where the driver tells it":
                "Power that the card takes";
            POWER_LIMIT = Gauge "arriero_gpu_power_limit_watts" ["uuid", "index", "name"]
                only "where the driver tells it": "Power that the card may take";
            THROTTLE = Gauge "arriero_gpu_clocks_limited" ["uuid", "index", "name", "reason"]
                only "where the driver tells it":
                "1 for each reason why the clocks are lower than they could be, 0 for the others (idle, power_cap, hw_slowdown, sw_thermal, hw_thermal, power_brake)";
        }
        "Errors" {
            FAULT = Gauge "arriero_gpu_fault" ["uuid", "index", "name", "fault"] only "where the driver tells it":
                "1 with why hardly anything is known about the card (lost, hangs, error), 0 with none when it answers";
            RECOVERY_ACTION = Gauge "arriero_gpu_recovery_action" ["uuid", "index", "name", "action"]
                only "where the driver tells it":
                "1 for what the driver says must be done with the card, such as gpu_reset";
            XIDS = Gauge "arriero_gpu_xid_errors" ["uuid", "index", "name", "xid"] only "where the driver tells it":
                "Errors of the driver in the last 24 hours, the last 64, by their number";
            XID_TIME = Gauge "arriero_gpu_xid_last_timestamp_seconds" ["uuid", "index", "name"]
                only "where the driver tells it":
                "When the driver last told an error of the card, in seconds since 1970";
        }
        "Links" {
            PCIE_REPLAYS = Counter "arriero_gpu_pcie_replays" ["uuid", "index", "name"]
                only "where the driver tells it": "Transfers over PCIe that were repeated";
            PCIE_GENERATION = Gauge "arriero_gpu_pcie_generation" ["uuid", "index", "name"]
                only "where the driver tells it": "Generation of the PCIe link now";
            PCIE_WIDTH = Gauge "arriero_gpu_pcie_width_lanes" ["uuid", "index", "name"]
                only "where the driver tells it": "Lanes of the PCIe link now";
            NVLINK_CRC = Counter "arriero_gpu_nvlink_crc_errors" ["uuid", "index", "name"]
                only "where the driver tells it": "Checksum errors of NVLink";
            NVLINK_ERRORS = Counter "arriero_gpu_nvlink_errors" ["uuid", "index", "name"]
                only "where the driver tells it": "All other errors of NVLink";
        }
    }
}
