//! Asks Docker's engine over its unix socket.

use std::path::{Path, PathBuf};
use std::time::Duration;

use http::Version;
use serde_json::Value;
use tokio::net::UnixStream;
use tokio::task::JoinSet;

use super::exchange;
use crate::cli::diagnose::docker::{Container, Engine, output};
use crate::clock;

/// Where the socket is when nothing is said.
const SOCKET: &str = "/var/run/docker.sock";
/// Most containers that are looked at.
const MOST: usize = 200;
/// Lines of a container's output that are read.
const LINES: usize = 200;
/// How far back they may be, in seconds.
const HOUR: i64 = 3600;

/// Where Docker's socket is: as told, as `DOCKER_HOST` says, or where it is by default. The flag says that somebody
/// named it.
pub fn socket(told: Option<&Path>, docker_host: Option<&str>) -> (PathBuf, bool) {
    let named = docker_host.and_then(|host| host.strip_prefix("unix://")).map(PathBuf::from);
    match told.map(Path::to_path_buf).or(named) {
        Some(path) => (path, true),
        None => (PathBuf::from(SOCKET), false),
    }
}

/// Looks at all containers.
pub async fn look(path: &Path, is_named: bool, limit: Duration) -> Engine {
    if !is_named && !path.exists() {
        return Engine::Absent;
    }
    match containers(path, limit).await {
        Ok(containers) => Engine::There(containers),
        Err(error) => Engine::Failed(format!("{}: {error}", path.display())),
    }
}

async fn containers(path: &Path, limit: Duration) -> Result<Vec<Container>, String> {
    let all = ask(path, "/containers/json?all=1", limit).await?;
    let ids: Vec<String> =
        all.as_array().into_iter().flatten().filter_map(|one| one["Id"].as_str().map(str::to_owned)).collect();
    let mut looks = JoinSet::new();
    for (place, id) in ids.into_iter().take(MOST).enumerate() {
        let path = path.to_path_buf();
        looks.spawn(async move { (place, container(&path, &id, limit).await) });
    }
    let mut found = looks.join_all().await;
    found.sort_by_key(|(place, _)| *place);
    // One that is removed at this moment is not there.
    Ok(found.into_iter().filter_map(|(_, container)| container).collect())
}

async fn container(path: &Path, id: &str, limit: Duration) -> Option<Container> {
    let mut container = Container::parse(&ask(path, &format!("/containers/{id}/json"), limit).await.ok()?)?;
    if container.state == "running" {
        let stats = ask(path, &format!("/containers/{id}/stats?stream=false&one-shot=true"), limit).await;
        stats.iter().for_each(|stats| container.measured(stats));
    }
    let since = clock::unix_seconds() - HOUR;
    let logs = format!("/containers/{id}/logs?stdout=1&stderr=1&tail={LINES}&since={since}");
    if let Ok(answer) = get(path, &logs, limit).await {
        let text = output(&answer.body, container.terminal);
        container.errors = text.lines().filter(|line| tells_of_an_error(line)).map(str::to_owned).collect();
    }
    Some(container)
}

/// Whether a line of any program's output is about something that went wrong.
fn tells_of_an_error(line: &str) -> bool {
    let line = line.to_ascii_lowercase();
    ["error", "failed", "exception", "panic", "fatal"].iter().any(|word| line.contains(word))
}

async fn get(path: &Path, question: &str, limit: Duration) -> Result<exchange::Answer, String> {
    let stream = UnixStream::connect(path).await.map_err(|error| error.to_string())?;
    let answer = exchange::get(stream, Version::HTTP_11, "docker", question, limit).await?;
    if answer.status == 200 { Ok(answer) } else { Err(format!("status {} for {question}", answer.status)) }
}

async fn ask(path: &Path, question: &str, limit: Duration) -> Result<Value, String> {
    let answer = get(path, question, limit).await?;
    serde_json::from_slice(&answer.body).map_err(|error| format!("{question}: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_socket_is_the_one_that_somebody_named() {
        let is = |told: Option<&str>, host| {
            let (path, named) = socket(told.map(Path::new), host);
            (path.display().to_string(), named)
        };
        assert_eq!(is(None, None), (SOCKET.to_owned(), false));
        assert_eq!(is(None, Some("unix:///run/user/1/docker.sock")), ("/run/user/1/docker.sock".to_owned(), true));
        assert_eq!(is(None, Some("tcp://10.0.0.1:2375")), (SOCKET.to_owned(), false));
        assert_eq!(is(Some("/a"), Some("unix:///b")), ("/a".to_owned(), true));
    }
}
