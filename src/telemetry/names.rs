//! Every metric's name and help, in one place. Base units; counters get `_total` from the encoder.

/// Name and help of a metric.
pub type Metric = (&'static str, &'static str);

/// Requests that ended.
pub const REQUESTS: Metric = ("arriero_requests", "Requests that ended, by route, upstream and status code");
/// Requests by the word that says why they ended.
pub const ENDED: Metric = ("arriero_requests_ended", "Requests by the reason why they ended as they did");
/// Duration of requests.
pub const DURATION: Metric =
    ("arriero_request_duration_seconds", "From the request head to the last byte of the answer");
/// Requests being served.
pub const IN_FLIGHT: Metric = ("arriero_requests_in_flight", "Requests being served, by route");
/// Bytes of request bodies.
pub const REQUEST_BYTES: Metric = ("arriero_request_bytes", "Bytes of request bodies received");
/// Bytes of response bodies.
pub const RESPONSE_BYTES: Metric = ("arriero_response_bytes", "Bytes of response bodies sent");
/// Attempts at servers.
pub const ATTEMPTS: Metric = ("arriero_attempts", "Attempts at a server, by outcome");
/// First byte times.
pub const FIRST_BYTE: Metric =
    ("arriero_time_to_first_byte_seconds", "From the start of an attempt to the first byte of its answer");
/// Retries.
pub const RETRIES: Metric = ("arriero_retries", "Attempts after the first, by the reason of the one before");
/// Retries that did not fit the budget.
pub const RETRIES_REFUSED: Metric =
    ("arriero_retries_refused", "Attempts that were not made again because of the retry budget, by upstream");
/// Tokens.
pub const TOKENS: Metric = ("arriero_tokens", "Tokens that servers reported, by upstream and kind (prompt or output)");
/// Server health.
pub const SERVER_UP: Metric =
    ("arriero_server_up", "1 when the server is healthy or not yet known, 0 when its probes fail");
/// Requests on a server.
pub const SERVER_IN_FLIGHT: Metric = ("arriero_server_in_flight", "Requests running on the server");
/// Connections to a server.
pub const SERVER_CONNECTIONS: Metric = ("arriero_server_connections", "Open connections to the server");
/// Circuit of a server.
pub const SERVER_CIRCUIT: Metric =
    ("arriero_server_circuit_state", "1 for the state that the server's circuit is in, 0 for the others");
/// Operation of a server.
pub const SERVER_OPERATION: Metric = (
    "arriero_server_operation",
    "1 for what an operator decided about the server (active, draining or maintenance), 0 for the others",
);
/// Circuits of models on a server.
pub const MODEL_CIRCUITS: Metric = (
    "arriero_server_model_circuits",
    "Models of the server that failed there, by the state of their circuits; others have none",
);
/// Circuits by their states.
pub const CIRCUIT_BREAKERS: Metric =
    ("arriero_circuit_breakers", "Circuits in each state, by upstream and by whose they are (server or model)");
/// State of a server's GPU.
pub const GPU_STATE: Metric = (
    "arriero_gpu_state",
    "1 for the state that the server's GPU is in (healthy, degraded, draining or failed), 0 for the others",
);
/// What speaks against a server's GPU.
pub const GPU_SIGNALS: Metric = ("arriero_gpu_signals", "What speaks against the server's GPU now, by signal");
/// Source of a server's GPU.
pub const GPU_SOURCE_UP: Metric =
    ("arriero_gpu_source_up", "1 when whoever tells how the server's GPU is answers, 0 when not");
/// Changes of a GPU's state.
pub const GPU_CHANGES: Metric = ("arriero_gpu_state_changes", "Changes of the state of the server's GPU");
/// Memory of the process.
pub const PROCESS_MEMORY: Metric = ("process_resident_memory_bytes", "Resident memory of the process, in bytes");
/// Time of processors.
pub const PROCESS_CPU: Metric = ("process_cpu_seconds", "Time of processors that the process has used");
/// Start of the process.
pub const PROCESS_START: Metric = ("process_start_time_seconds", "When the process started, in seconds since 1970");
/// Changes of circuits.
pub const CIRCUIT_TRANSITIONS: Metric = (
    "arriero_circuit_transitions",
    "Changes of circuits, by whose circuit it is (server or model) and by the new state",
);
/// Bans.
pub const BANS: Metric = ("arriero_bans", "Bans of servers and models that hold, by upstream");
/// Requests that are tried at no server.
pub const QUARANTINED: Metric =
    ("arriero_quarantined", "Requests that made a runner crash and are tried at no server, by upstream");
/// Models of a server.
pub const SERVER_MODELS: Metric = ("arriero_server_models", "Models of the server, by where they are (disk or memory)");
/// Probes.
pub const PROBES: Metric = ("arriero_probes", "Background checks of servers, by kind and result");
/// Loads and unloads.
pub const MODEL_CHANGES: Metric =
    ("arriero_model_changes", "Loads, unloads, pulls, copies and deletes of models, by upstream, kind and result");
/// Waiting requests.
pub const QUEUED: Metric = ("arriero_queue_requests", "Requests that wait for a slot, by upstream");
/// Time in the queue.
pub const QUEUE_WAIT: Metric = ("arriero_queue_wait_seconds", "Time that requests waited for a slot, by upstream");
/// Tests of servers that are ill.
pub const RECOVERY_TESTS: Metric =
    ("arriero_recovery_tests", "Tests of servers that were down or had an open circuit, by server and result");
/// Servers that flap.
pub const SERVER_FLAPPING: Metric =
    ("arriero_server_flapping", "1 while the server falls ill and gets well again and again, else 0");
/// Attempts of recovery actions.
pub const RECOVERY_ACTIONS: Metric = (
    "arriero_recovery_actions",
    "Attempts of recovery actions, by server, action and result (recovered, failed, not_verified); gave_up counts the rounds that were given up",
);
/// Messages to webhooks.
pub const NOTIFICATIONS: Metric =
    ("arriero_notifications", "Messages to webhooks, by event and result (delivered, failed, dropped, deduplicated)");
/// Events that were lost.
pub const EVENTS_LOST: Metric = ("arriero_events_lost", "Events that nobody was told because too many came at a time");
/// Client connections.
pub const CONNECTIONS: Metric = ("arriero_connections", "Open client connections");
/// Accepted connections.
pub const ACCEPTED: Metric = ("arriero_connections_accepted", "Client connections accepted");
/// Refused heads.
pub const REFUSED: Metric = ("arriero_heads_refused", "Request heads refused before routing, by reason");
/// Requests over a limit.
pub const RATE_LIMITED: Metric =
    ("arriero_rate_limited", "Requests refused by a rate or concurrency limit of their route, by route");
/// Keys of rate limits.
pub const LIMITER_KEYS: Metric = ("arriero_rate_limiter_keys", "Keys that rate limits know, of 100000 at most");
/// Refused connections.
pub const CONNECTIONS_REFUSED: Metric =
    ("arriero_connections_refused", "Client connections closed because there were too many, by the limit");
/// Held bodies.
pub const HELD: Metric = ("arriero_held_body_bytes", "Bytes of request bodies held in memory and on disk");
/// Reloads.
pub const RELOADS: Metric =
    ("arriero_config_reloads", "Configuration reloads, by result (applied, unchanged, refused)");
/// Last reload.
pub const RELOAD_OK: Metric =
    ("arriero_config_last_reload_successful", "1 when the file on disk is in force, 0 when it was refused");
/// Time of the configuration in force.
pub const RELOAD_TIME: Metric =
    ("arriero_config_last_reload_success_timestamp_seconds", "When the configuration in force was loaded");
/// Hash of the configuration in force.
pub const CONFIG_HASH: Metric = ("arriero_config_hash_info", "Hash of the configuration in force");
/// Ends of certificates.
pub const CERTIFICATE_EXPIRY: Metric = (
    "arriero_certificate_expiry_seconds",
    "When the certificate stops being valid, in seconds since 1970, by its first name",
);
/// Renewals of certificates.
pub const CERTIFICATE_RELOADS: Metric =
    ("arriero_certificate_reloads", "Certificate files that changed, by result (applied, refused)");
/// Last look at the keys file.
pub const KEYS_OK: Metric = (
    "arriero_keys_last_reload_successful",
    "1 when the keys file on disk is in force or there is none, 0 when it was refused",
);
/// Memory.
pub const RESOURCE_MEMORY: Metric = (
    "arriero_memory_bytes",
    "Memory in use and its limit (of used, limit): of the container where it has a limit, else of the machine",
);
/// Processor time.
pub const RESOURCE_CPU: Metric =
    ("arriero_process_cpu_ratio", "Processor time of this process as a share of all that it may use, from 0 to 1");
/// File descriptors.
pub const RESOURCE_FILES: Metric =
    ("arriero_process_files", "File descriptors of this process and their limit (of open, limit)");
/// Disks.
pub const DISK: Metric =
    ("arriero_disk_bytes", "Bytes of the disks of data_dir and temp_dir, by folder (of used, free)");
/// Thresholds.
pub const EXCEEDED: Metric = (
    "arriero_threshold_exceeded",
    "1 while more of a resource is used than server.thresholds says, by resource (memory, disk, cpu, files)",
);
/// Health score.
pub const HEALTH_SCORE: Metric = ("arriero_health_score", "How well all of it is, from 0 to 100");
/// Version.
pub const BUILD: Metric = ("arriero_build_info", "Version of this program");
/// What the history has no row of.
pub const HISTORY_DROPPED: Metric = (
    "arriero_history_dropped",
    "Rows that the history lacks, by why: busy (the queue was full), left_out (too many at a time, in the sums only), \
     failed (the file could not be written)",
);
/// Damaged histories.
pub const HISTORY_DAMAGED: Metric =
    ("arriero_history_damaged", "Files of the history that were damaged, moved aside and begun anew");
/// Lost log lines.
pub const LOG_DROPPED: Metric =
    ("arriero_access_log_dropped", "Access log lines dropped because the writer could not keep up");

/// Metrics of `arriero gpu-agent`. Each is of one card, by its `uuid`, `index` and `name`, unless it says otherwise.
pub mod gpu {
    use super::Metric;

    /// Whether the driver can be asked.
    pub const READABLE: Metric =
        ("arriero_gpu_readable", "1 when the driver answers, 0 with the reason (silent, driver_down, hangs) when not");
    /// Age of the values.
    pub const AGE: Metric = ("arriero_gpu_age_seconds", "How old the values of all cards are");
    /// The driver.
    pub const DRIVER: Metric = ("arriero_gpu_driver_info", "Version of the driver");
    /// Memory.
    pub const MEMORY_TOTAL: Metric = ("arriero_gpu_memory_total_bytes", "Memory of the card");
    /// Memory in use.
    pub const MEMORY_USED: Metric = ("arriero_gpu_memory_used_bytes", "Memory in use, by whomever");
    /// Free memory.
    pub const MEMORY_FREE: Metric = ("arriero_gpu_memory_free_bytes", "Memory that is free");
    /// Utilisation.
    pub const UTILISATION: Metric =
        ("arriero_gpu_utilisation_ratio", "Share of the time that something ran on the card, from 0 to 1");
    /// Temperature.
    pub const TEMPERATURE: Metric = ("arriero_gpu_temperature_celsius", "Temperature of the card");
    /// Margin.
    pub const MARGIN: Metric =
        ("arriero_gpu_temperature_margin_celsius", "Degrees left until the hardware slows the card down");
    /// Temperature of the memory.
    pub const MEMORY_TEMPERATURE: Metric = ("arriero_gpu_memory_temperature_celsius", "Temperature of the memory");
    /// Margin of the memory.
    pub const MEMORY_MARGIN: Metric =
        ("arriero_gpu_memory_temperature_margin_celsius", "Degrees left until the memory is hotter than it may be");
    /// Power.
    pub const POWER: Metric = ("arriero_gpu_power_watts", "Power that the card takes");
    /// Limit of power.
    pub const POWER_LIMIT: Metric = ("arriero_gpu_power_limit_watts", "Power that the card may take");
    /// Why clocks are low.
    pub const THROTTLE: Metric = (
        "arriero_gpu_clocks_limited",
        "1 for each reason why the clocks are lower than they could be, 0 for the others (idle, power_cap, hw_slowdown, sw_thermal, hw_thermal, power_brake)",
    );
    /// ECC.
    pub const ECC: Metric =
        ("arriero_gpu_ecc_uncorrected_errors", "Errors of the memory since the last reset that could not be corrected");
    /// Remapped rows.
    pub const REMAPPED_ROWS: Metric = (
        "arriero_gpu_remapped_rows",
        "Rows of the memory that were replaced because of errors that could not be corrected",
    );
    /// Pending remaps.
    pub const REMAP_PENDING: Metric = ("arriero_gpu_remap_pending", "1 when rows will be replaced at the next reset");
    /// Failed remaps.
    pub const REMAP_FAILED: Metric = ("arriero_gpu_remap_failed", "1 when a row could not be replaced");
    /// Retired pages.
    pub const RETIRED_PAGES: Metric = ("arriero_gpu_retired_pages", "Pages of the memory that were taken out of use");
    /// Recovery action.
    pub const RECOVERY_ACTION: Metric =
        ("arriero_gpu_recovery_action", "1 for what the driver says must be done with the card, such as gpu_reset");
    /// Errors of the driver.
    pub const XIDS: Metric =
        ("arriero_gpu_xid_errors", "Errors of the driver in the last 24 hours, the last 64, by their number");
    /// The last error of the driver.
    pub const XID_TIME: Metric = (
        "arriero_gpu_xid_last_timestamp_seconds",
        "When the driver last told an error of the card, in seconds since 1970",
    );
    /// Replays.
    pub const PCIE_REPLAYS: Metric = ("arriero_gpu_pcie_replays", "Transfers over PCIe that were repeated");
    /// Generation of PCIe.
    pub const PCIE_GENERATION: Metric = ("arriero_gpu_pcie_generation", "Generation of the PCIe link now");
    /// Width of PCIe.
    pub const PCIE_WIDTH: Metric = ("arriero_gpu_pcie_width_lanes", "Lanes of the PCIe link now");
    /// Checksums of NVLink.
    pub const NVLINK_CRC: Metric = ("arriero_gpu_nvlink_crc_errors", "Checksum errors of NVLink");
    /// Other errors of NVLink.
    pub const NVLINK_ERRORS: Metric = ("arriero_gpu_nvlink_errors", "All other errors of NVLink");
    /// Processes.
    pub const PROCESSES: Metric = ("arriero_gpu_processes", "Processes that compute on the card");
    /// Faults.
    pub const FAULT: Metric = (
        "arriero_gpu_fault",
        "1 with why hardly anything is known about the card (lost, hangs, error), 0 with none when it answers",
    );
}
