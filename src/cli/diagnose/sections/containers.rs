//! Docker containers: those of Arriero and its servers. How they are, and how Arriero's is declared.

use super::super::codes;
use super::super::docker::{Container, Engine};
use super::super::facts::Facts;
use super::super::finding::Finding;
use super::{Lines, bytes, count};
use crate::config::types::Config;
use crate::config::{AdminAddress, HostPort};

/// Hundredths of its limit above which a container is said to have used up its memory.
const MEMORY: u64 = 90;
/// Exit code of a process that was ended by SIGKILL.
const KILLED: i64 = 137;
/// Seconds of a day.
const DAY: i64 = 86_400;

/// Judges them.
pub fn judge(facts: &Facts, own: Option<&str>) -> (Lines, Vec<Finding>) {
    let mut lines = Vec::new();
    let mut found = Vec::new();
    match &facts.engine {
        Engine::Absent => lines.push("Docker: no socket here, so nothing is known of containers".to_owned()),
        Engine::Failed(error) => found.push(Finding::new(
            codes::ENGINE_UNREACHABLE,
            format!("Docker's engine cannot be asked: {error}"),
            "start Docker, run this as a user who may use its socket, or name another one: `--docker-socket PATH`",
        )),
        Engine::There(_) => {
            for container in concerned(facts, own) {
                lines.push(line(container));
                state(container, facts.now, &mut found);
            }
            if let Some(container) = facts.engine.own(own) {
                found.extend(
                    declared(container, facts.config.good().map(|good| &good.config))
                        .into_iter()
                        .flat_map(|check| check.1),
                );
            }
            if lines.is_empty() {
                lines.push("Docker: none of its containers is Arriero's or one of a server".to_owned());
            }
        }
    }
    (lines, found)
}

/// The containers of Arriero, of its servers, and of its Compose project.
pub fn concerned<'a>(facts: &'a Facts, own: Option<&str>) -> Vec<&'a Container> {
    let mine = facts.engine.own(own);
    let project = mine.and_then(|mine| mine.project.as_deref());
    let behind: Vec<&str> = facts
        .servers
        .iter()
        .filter_map(|server| facts.engine.behind(&server.host, server.port))
        .map(|container| container.id.as_str())
        .collect();
    let concerns = |one: &&Container| {
        mine.is_some_and(|mine| mine.id == one.id)
            || behind.contains(&one.id.as_str())
            || project.is_some() && one.project.as_deref() == project
    };
    facts.engine.containers().iter().filter(concerns).collect()
}

fn line(container: &Container) -> String {
    let health = container.health.as_deref().map(|health| format!(", {health}")).unwrap_or_default();
    let memory = match (container.memory_used, container.memory_limit) {
        (Some(used), Some(limit)) => format!(", memory {} of {}", bytes(used), bytes(limit)),
        (Some(used), None) => format!(", memory {}", bytes(used)),
        (None, _) => String::new(),
    };
    let restarts = count(container.restarts, "restart");
    format!("{}: {}{health}, {restarts}{memory}", container.name, container.state)
}

/// What is wrong with how it is.
pub fn state_of(container: &Container, now: i64) -> Vec<Finding> {
    let mut found = Vec::new();
    state(container, now, &mut found);
    found
}

fn state(container: &Container, now: i64, found: &mut Vec<Finding>) {
    let name = &container.name;
    let logs = format!("`docker logs --tail 50 {name}` says why");
    if container.oom_killed {
        let limit =
            container.memory_limit.map(|limit| format!(" at its limit of {}", bytes(limit))).unwrap_or_default();
        found.push(Finding::new(
            codes::CONTAINER_OOM_KILLED,
            format!("the container `{name}` was ended by the kernel for want of memory{limit}"),
            "give it more memory (`mem_limit` in Compose), or have it use less: smaller models, `server.body_budget`",
        ));
    }
    let code = container.exit_code;
    let killed = if code == KILLED { " (it was killed)" } else { "" };
    match container.state.as_str() {
        "running" if container.restarts > 0 => {
            let finding = Finding::new(
                codes::CONTAINER_RESTARTED,
                format!(
                    "the container `{name}` was started again {} after it had ended",
                    count(container.restarts, "time")
                ),
                logs.clone(),
            );
            // Docker counts for ever; one that has run for a day is no alarm any more.
            let is_long_ago = container.started.is_some_and(|started| now - started > DAY);
            found.push(if is_long_ago { finding.noted() } else { finding });
        }
        "running" => {}
        "restarting" => found.push(Finding::new(
            codes::CONTAINER_RESTARTING,
            format!(
                "the container `{name}` ends again and again, with exit code {code}{killed}; {} so far",
                count(container.restarts, "restart")
            ),
            logs.clone(),
        )),
        "paused" => found.push(Finding::new(
            codes::CONTAINER_NOT_RUNNING,
            format!("the container `{name}` is paused"),
            format!("`docker unpause {name}`"),
        )),
        other => found.push(Finding::new(
            codes::CONTAINER_NOT_RUNNING,
            format!("the container `{name}` does not run: {other}, exit code {code}{killed}"),
            format!("`docker start {name}`; {logs}"),
        )),
    }
    if container.health.as_deref() == Some("unhealthy") {
        let said = if container.health_output.is_empty() { "nothing" } else { &container.health_output };
        found.push(Finding::new(
            codes::CONTAINER_UNHEALTHY,
            format!("the health check of the container `{name}` fails; it says: {said}"),
            format!("{logs}; Docker does not start unhealthy containers again by itself: `docker restart {name}`"),
        ));
    }
    if let (Some(used), Some(limit)) = (container.memory_used, container.memory_limit)
        && used.saturating_mul(100) > limit.saturating_mul(MEMORY)
    {
        found.push(Finding::new(
            codes::CONTAINER_MEMORY_HIGH,
            format!("the container `{name}` uses {} of its {} of memory", bytes(used), bytes(limit)),
            "give it more memory (`mem_limit` in Compose) before the kernel ends it",
        ));
    }
}

/// How Arriero's container is declared: each question with what is wrong.
pub fn declared(container: &Container, config: Option<&Config>) -> Vec<(&'static str, Vec<Finding>)> {
    let mut checks = vec![
        ("restart policy", restart(container)),
        ("health check", health_check(container)),
        ("memory limit", memory(container)),
        ("log rotation", log(container)),
    ];
    if let Some(config) = config {
        checks.extend([
            ("admin port closed", admin_port(container, config)),
            ("ports published", ports(container, config)),
            ("time to stop", stop(container, config)),
            ("data on a volume", data(container, config)),
        ]);
    }
    checks.push(("configuration mounted as a folder", mount(container)));
    checks
}

fn restart(container: &Container) -> Vec<Finding> {
    let policy = container.restart_policy.as_str();
    if matches!(policy, "always" | "unless-stopped") {
        return Vec::new();
    }
    let shown = if policy.is_empty() { "no" } else { policy };
    vec![Finding::new(
        codes::RESTART_POLICY,
        format!("the container `{}` has the restart policy `{shown}`, so it may stay down", container.name),
        format!("`restart: always` in Compose, or now: `docker update --restart always {}`", container.name),
    )]
}

fn health_check(container: &Container) -> Vec<Finding> {
    if container.has_health_check {
        return Vec::new();
    }
    vec![Finding::new(
        codes::HEALTHCHECK_MISSING,
        format!("the container `{}` has no health check", container.name),
        "in Compose: `healthcheck: { test: [\"CMD\", \"arriero\", \"health\"], interval: 10s, start_period: 120s }`",
    )]
}

fn memory(container: &Container) -> Vec<Finding> {
    if container.memory_limit.is_some() {
        return Vec::new();
    }
    vec![Finding::new(
        codes::MEMORY_UNLIMITED,
        format!("the container `{}` has no limit of memory", container.name),
        "`mem_limit: 1g` in Compose, and more than `server.body_budget`, keeps the machine safe from it",
    )]
}

fn log(container: &Container) -> Vec<Finding> {
    if container.log_driver != "json-file" || container.log_limit.is_some() {
        return Vec::new();
    }
    vec![Finding::new(
        codes::LOGS_UNBOUNDED,
        format!("the log of the container `{}` grows until the disk is full", container.name),
        "in Compose: `logging: { driver: json-file, options: { max-size: 50m, max-file: \"5\" } }`",
    )]
}

fn admin_port(container: &Container, config: &Config) -> Vec<Finding> {
    let Ok(AdminAddress::Tcp(admin)) = AdminAddress::parse(&config.admin.address) else { return Vec::new() };
    let open = container.ports.iter().filter(|port| port.private == admin.port && port.public.is_some());
    let open = open.filter(|port| !is_loopback(&port.address));
    open.map(|port| {
        let address = if port.address.is_empty() { "0.0.0.0" } else { &port.address };
        let public = port.public.unwrap_or_default();
        Finding::new(
            codes::ADMIN_PUBLISHED,
            format!("Docker publishes the admin port {} on {address}:{public}", admin.port),
            format!("publish it on loopback alone, `127.0.0.1:{public}:{}`, or not at all", admin.port),
        )
    })
    .collect()
}

fn is_loopback(address: &str) -> bool {
    address.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

fn ports(container: &Container, config: &Config) -> Vec<Finding> {
    let listeners: Vec<u16> =
        config.listeners.iter().filter_map(|listener| Some(HostPort::parse(&listener.address).ok()?.port)).collect();
    let is_published = container.ports.iter().any(|port| port.public.is_some() && listeners.contains(&port.private));
    // On the network of the host nothing need be published.
    if is_published || container.ports.is_empty() {
        return Vec::new();
    }
    let wanted: Vec<String> = listeners.iter().map(|port| format!("`\"{port}:{port}\"`")).collect();
    vec![Finding::new(
        codes::PORT_NOT_PUBLISHED,
        format!("none of the listeners' ports is published by the container `{}`", container.name),
        format!("under `ports:` in Compose: {}", wanted.join(", ")),
    )]
}

fn stop(container: &Container, config: &Config) -> Vec<Finding> {
    let wanted = (config.server.drain.0 + config.server.drain_delay.0).as_secs();
    if container.stop_timeout > wanted {
        return Vec::new();
    }
    vec![Finding::new(
        codes::STOP_GRACE_SHORT,
        format!(
            "Docker kills the container `{}` {} s after it asked it to stop, but `server.drain` and `server.drain_delay` \
             take up to {wanted} s: running answers are cut off",
            container.name, container.stop_timeout
        ),
        format!("`stop_grace_period: {}s` in Compose, or a shorter `server.drain`", wanted + 10),
    )]
}

fn data(container: &Container, config: &Config) -> Vec<Finding> {
    let Some(folder) = config.server.data_dir.as_deref() else { return Vec::new() };
    let is_kept = container.mounts.iter().any(|mount| mount.kind != "tmpfs" && is_below(folder, &mount.destination));
    if is_kept {
        return Vec::new();
    }
    vec![Finding::new(
        codes::DATA_NOT_KEPT,
        format!(
            "`server.data_dir` `{folder}` is lost with the container `{}`: no volume is mounted there",
            container.name
        ),
        format!("in Compose: `volumes: [\"arriero-data:{folder}\"]`"),
    )]
}

fn is_below(path: &str, folder: &str) -> bool {
    !folder.is_empty() && std::path::Path::new(path).starts_with(folder)
}

fn mount(container: &Container) -> Vec<Finding> {
    let is_file = |destination: &str| {
        std::path::Path::new(destination).extension().is_some_and(|end| end == "yaml" || end == "yml")
    };
    let files = container.mounts.iter().filter(|mount| mount.kind == "bind" && is_file(&mount.destination));
    files
        .map(|mount| {
            let folder = std::path::Path::new(&mount.destination).parent().unwrap_or(std::path::Path::new("/"));
            Finding::new(
                codes::CONFIG_MOUNTED_AS_FILE,
                format!("`{}` is mounted as a file: an editor replaces the file outside, and the container keeps the old one", mount.destination),
                format!("mount its folder: `./arriero:{}:ro`", folder.display()),
            )
        })
        .collect()
}
