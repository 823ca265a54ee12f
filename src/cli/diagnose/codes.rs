//! All kinds of findings. Each is explained in `docs/diagnose.md`, which a test reads.

use super::finding::Code;
use super::finding::Section::{Clock, Configuration, Containers, Deployment, Limits, Logs, Resources, Servers, Tls};
use super::finding::Severity::{Error, Note, Warning};

macro_rules! codes {
    ($($name:ident $word:literal $section:ident $severity:ident $about:literal;)*) => {
        $(#[doc = $about] pub const $name: Code = Code { word: $word, section: $section, severity: $severity };)*

        /// Every kind.
        #[cfg(test)]
        pub const ALL: &[Code] = &[$($name),*];
    };
}

codes! {
    NOT_RUNNING "not_running" Deployment Error "Nobody answers on the admin listener.";
    NOT_READY "not_ready" Deployment Error "The running process takes no requests.";
    CONFIG_REFUSED "config_refused" Deployment Error "The running process refused the file on disk.";
    CONFIG_NOT_IN_FORCE "config_not_in_force" Deployment Warning "The running process has another file in force.";
    VERSION_DIFFERS "version_differs" Deployment Note "The running process is another version than this program.";
    LISTENER_UNREACHABLE "listener_unreachable" Deployment Error "A listener takes no connections.";
    ADMIN_OPEN "admin_open" Deployment Error "Others can change things on the admin listener without a token.";
    ADMIN_EXPOSED "admin_exposed" Deployment Note "The admin listener can be reached from outside; it has a token.";

    ENGINE_UNREACHABLE "engine_unreachable" Containers Warning "Docker's socket is there and does not answer.";
    CONTAINER_NOT_RUNNING "container_not_running" Containers Error "A container has ended or was never started.";
    CONTAINER_RESTARTING "container_restarting" Containers Error "A container ends and is started again and again.";
    CONTAINER_RESTARTED "container_restarted" Containers Warning "A container was started again after it had failed.";
    CONTAINER_UNHEALTHY "container_unhealthy" Containers Error "The health check of a container fails.";
    CONTAINER_OOM_KILLED "container_oom_killed" Containers Error "The kernel ended a container because its memory was used up.";
    CONTAINER_MEMORY_HIGH "container_memory_high" Containers Warning "A container has almost used up its memory.";
    RESTART_POLICY "restart_policy" Containers Warning "Arriero's container is not started again when it ends.";
    HEALTHCHECK_MISSING "healthcheck_missing" Containers Warning "Arriero's container has no health check.";
    ADMIN_PUBLISHED "admin_published" Containers Error "Docker publishes the port of the admin listener to everybody.";
    PORT_NOT_PUBLISHED "port_not_published" Containers Warning "No listener of Arriero's container is published.";
    STOP_GRACE_SHORT "stop_grace_short" Containers Warning "Docker kills Arriero before `server.drain` is over.";
    MEMORY_UNLIMITED "memory_unlimited" Containers Note "Arriero's container has no limit of memory.";
    LOGS_UNBOUNDED "logs_unbounded" Containers Warning "The log of Arriero's container grows without end.";
    CONFIG_MOUNTED_AS_FILE "config_mounted_as_file" Containers Warning "The configuration is mounted as a file, so edits are not seen.";
    DATA_NOT_KEPT "data_not_kept" Containers Warning "`server.data_dir` is not on a volume.";

    MEMORY_HIGH "memory_high" Resources Warning "More memory is used than `server.thresholds.memory`.";
    MEMORY_PRESSURE "memory_pressure" Resources Warning "The machine waits for memory.";
    CPU_HIGH "cpu_high" Resources Warning "Arriero uses more processor time than `server.thresholds.cpu`.";
    CPU_PRESSURE "cpu_pressure" Resources Note "Processes of this machine wait for processors.";
    DISK_FULL "disk_full" Resources Error "More of a disk is used than `server.thresholds.disk`.";
    DISK_PRESSURE "disk_pressure" Resources Note "Processes of this machine wait for disks.";
    TEMP_DIR_SMALL "temp_dir_small" Resources Warning "Held bodies may need more room than `server.temp_dir` has.";
    FOLDER_MISSING "folder_missing" Resources Error "A folder of the configuration is not there or may not be written.";
    FILES_HIGH "files_high" Resources Warning "More file descriptors are used than `server.thresholds.files`.";
    FILE_LIMIT_LOW "file_limit_low" Resources Warning "There are fewer file descriptors than the listeners' connections need.";

    DNS_UNRESOLVED "dns_unresolved" Servers Error "The host name of a server is not known.";
    DNS_SLOW "dns_slow" Servers Warning "The host name of a server takes long to look up.";
    SERVER_UNREACHABLE "server_unreachable" Servers Error "A server takes no connections.";
    SERVER_SILENT "server_silent" Servers Error "A server takes connections and does not answer.";
    SERVER_ERROR "server_error" Servers Error "A server answers with an error.";
    SERVER_SLOW "server_slow" Servers Warning "A server takes long to answer.";
    SERVER_DOWN "server_down" Servers Error "Arriero's checks say that a server is down, and it answers here.";
    SERVER_DRAINING "server_draining" Servers Warning "A server is drained or in maintenance without an end, and nothing runs there.";
    SERVER_FLAPPING "server_flapping" Servers Warning "A server falls ill and gets well again and again.";
    GPU_OUT "gpu_out" Servers Error "The GPU of a server is too ill for requests.";
    GPU_DEGRADED "gpu_degraded" Servers Warning "The GPU of a server works worse than it should.";
    GPU_SOURCE_SILENT "gpu_source_silent" Servers Warning "Nobody tells how the GPU of a server is.";
    NO_SERVER "no_server" Servers Error "An upstream has no server that takes requests.";
    MODEL_MISSING "model_missing" Servers Error "A route or rule names a model that no server has.";
    NO_MODELS "no_models" Servers Warning "A server has no models.";
    VERSIONS_DIFFER "versions_differ" Servers Note "Servers of an upstream have different versions of Ollama.";
    CIRCUIT_OPEN "circuit_open" Servers Error "A circuit keeps requests from a server or from a model on it.";
    BANNED "banned" Servers Note "A server or model is banned.";
    QUEUE_PAUSED "queue_paused" Servers Error "A queue is paused: requests wait and none begins.";
    QUEUE_FULL "queue_full" Servers Error "A queue is full or almost full.";

    CERTIFICATE_EXPIRED "certificate_expired" Tls Error "A certificate of ours has ended.";
    CERTIFICATE_EXPIRING "certificate_expiring" Tls Warning "A certificate of ours ends within 14 days.";
    SERVER_CERTIFICATE_EXPIRED "server_certificate_expired" Tls Error "The certificate of a server has ended.";
    SERVER_CERTIFICATE_EXPIRING "server_certificate_expiring" Tls Warning "The certificate of a server ends within 14 days.";
    SERVER_CERTIFICATE_UNTRUSTED "server_certificate_untrusted" Tls Error "The certificate of a server is not trusted, or for another name.";
    CERTIFICATES_UNCHECKED "certificates_unchecked" Tls Warning "An upstream does not check the certificates of its servers.";

    CLOCK_SKEW "clock_skew" Clock Warning "The clock of a server differs from this one.";
    CLOCK_WRONG "clock_wrong" Clock Error "The clock of this machine is wrong.";

    REQUESTS_FAILED "requests_failed" Logs Warning "Requests of the last minutes failed.";
    REQUESTS_REFUSED "requests_refused" Logs Note "Requests of the last minutes were refused.";
    MESSAGES_LOGGED "messages_logged" Logs Note "Arriero logged warnings or errors.";
    CONTAINER_ERRORS "container_errors" Logs Note "A container logged errors within the last hour.";

    CONFIG_MISSING "config_missing" Configuration Error "There is no configuration file.";
    CONFIG_INVALID "config_invalid" Configuration Error "The configuration file is not valid.";
    CONFIG_WARNING "config_warning" Configuration Note "The configuration probably does not do what was meant.";
    MANAGEMENT_OPEN "management_open" Configuration Warning "Everybody may pull and delete models.";

    FIRST_BYTE_SHORT "first_byte_short" Limits Warning "A route gives up before Ollama has loaded the model.";
    REQUEST_TIMEOUT_SHORT "request_timeout_short" Limits Warning "A route's limit for the whole request is below another one of its limits.";
    QUEUE_TIMEOUT_LONG "queue_timeout_long" Limits Warning "Requests wait in the queue for longer than clients do.";
    PARALLEL_BELOW_IN_FLIGHT "parallel_below_in_flight" Limits Warning "A server gets more requests at a time than it runs.";
    OLLAMA_QUEUE_SMALL "ollama_queue_small" Limits Warning "A server gets more requests at a time than Ollama lets wait.";
    MAX_LOADED_DIFFERS "max_loaded_differs" Limits Warning "Arriero plans with more models in memory than Ollama keeps.";
    BODY_LIMIT_SMALL "body_limit_small" Limits Warning "A route for vision models takes only small images.";
    BODY_BUDGET_SMALL "body_budget_small" Limits Warning "One request may be larger than all that may be held.";
    MEMORY_LIMIT_SMALL "memory_limit_small" Limits Warning "The limit of memory is below `server.body_budget`.";
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::ALL;

    #[test]
    fn every_code_is_there_once_and_documented_with_its_severity() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/diagnose.md");
        let text = std::fs::read_to_string(path).expect("the documentation");
        let (tables, _) =
            text.split_once("## Is it as it was declared?").expect("the other half is about other things");
        let words: BTreeSet<&str> = ALL.iter().map(|code| code.word).collect();
        assert_eq!(words.len(), ALL.len());
        for code in ALL {
            let row = format!("| `{}` | {} |", code.word, code.severity);
            assert!(tables.contains(&row), "docs/diagnose.md has no row `{row}`");
        }
        let rows = tables.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next());
        let unknown: Vec<&str> = rows.filter(|word| !words.contains(word) && !word.starts_with("--")).collect();
        assert!(unknown.is_empty(), "docs/diagnose.md explains what is not there: {unknown:?}");
    }
}
