//! The file: restarts, kills, damage, full disks, and a folder that is none.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use arriero::clock;
use parking_lot::Mutex;
use rusqlite::Connection;
use rustix::process::{Pid, Resource, Rlimit, Signal, prlimit};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::admin::PREFIX;
use crate::support::fleet::{Small, request, send};
use crate::support::process::{Program, arriero, complete, finish};
use crate::support::wire::H1;
use crate::support::{PATIENCE, eventually};

/// A program before a plain server, whose data are in a folder beside its configuration.
struct Scene {
    folder: tempfile::TempDir,
    _server: Small,
}

impl Scene {
    async fn new() -> Self {
        let (server, folder) = (Small::named("web").await, tempfile::tempdir().expect("a folder"));
        let text = complete(&format!(
            "listeners: [{{ address: \"127.0.0.77:0\" }}]\nroutes: [{{ name: all, upstream: web }}]\nserver: {{ data_dir: data }}\n\
             upstreams:\n  web: {{ kind: http, servers: [{{ url: \"{}\" }}] }}\n",
            server.url()
        ));
        std::fs::write(folder.path().join("arriero.yaml"), text).expect("written");
        Self { folder, _server: server }
    }

    fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    fn database(&self) -> PathBuf {
        self.data().join("arriero.db")
    }

    async fn run(&self) -> Program {
        Program::run(&self.folder.path().join("arriero.yaml")).await
    }

    /// Files that were set aside.
    fn aside(&self) -> Vec<PathBuf> {
        let files = std::fs::read_dir(self.data()).expect("a folder").map(|entry| entry.expect("an entry").path());
        let name = |path: &PathBuf| path.file_name().and_then(|name| name.to_str()).unwrap_or_default().to_owned();
        files.filter(|path| name(path).starts_with("arriero.db.damaged-")).collect()
    }
}

async fn ask(client: &mut H1, id: &str) -> u16 {
    client.ask(request("GET", "/", &format!("X-Request-Id: {id}\r\n"), "")).await.head.status
}

/// Whether a request on a connection of its own was answered to its end.
async fn answered(address: SocketAddr, id: &str) -> bool {
    let Ok(mut stream) = TcpStream::connect(address).await else { return false };
    let bytes = request("GET", "/", &format!("X-Request-Id: {id}\r\nConnection: close\r\n"), "");
    let mut answer = Vec::new();
    let all = async {
        stream.write_all(&bytes).await?;
        stream.read_to_end(&mut answer).await
    };
    all.await.is_ok() && answer.starts_with(b"HTTP/1.1 200") && answer.windows(4).any(|part| part == b"web ")
}

async fn shown(admin: SocketAddr, path: &str) -> Value {
    let answer = send(admin, "GET", &format!("{PREFIX}{path}"), "").await;
    assert_eq!(answer.head.status, 200, "{path}: {}", answer.text());
    serde_json::from_slice(&answer.body).expect("JSON")
}

async fn metric(admin: SocketAddr, series: &str) -> u64 {
    let text = send(admin, "GET", "/metrics", "").await.text();
    text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' ')?.parse().ok()).unwrap_or(0)
}

fn integrity(path: &Path) -> String {
    let connection = Connection::open(path).expect("opened");
    connection.query_row("PRAGMA integrity_check", [], |row| row.get(0)).expect("checked")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_keeps_what_happened() {
    let scene = Scene::new().await;
    let mut seen = Value::Null;
    for round in 0..3 {
        let mut program = scene.run().await;
        let mut client = H1::connect(program.address()).await;
        for number in 0..5 {
            assert_eq!(ask(&mut client, &format!("{round}-{number}")).await, 200);
        }
        // Those of before are there at once; the last ones are written when it stops.
        let before = shown(program.admin(), "/requests?limit=1000").await;
        assert!(before["count"].as_u64() >= Some(5 * round), "{before}");
        if round == 2 {
            let summed = || async { shown(program.admin(), "/analytics/summary").await["requests"] == 15 };
            eventually("sums too", summed).await;
            seen = shown(program.admin(), "/requests?limit=1000").await;
        }
        program.signal(Signal::TERM);
        assert_eq!(program.ended().await.code, Some(0));
    }
    let ids: Vec<&str> = seen["requests"].as_array().expect("a list").iter().filter_map(|r| r["id"].as_str()).collect();
    // One connection: they end one after the other.
    let wanted: Vec<String> =
        (0..3).rev().flat_map(|round| (0..5).rev().map(move |number| format!("{round}-{number}"))).collect();
    assert_eq!(ids, wanted);
    assert_eq!(integrity(&scene.database()), "ok");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kill_under_load_loses_at_most_the_last_second_and_never_the_file() {
    let scene = Scene::new().await;
    let mut kept_before = 0;
    for round in 0..5_u64 {
        let mut program = scene.run().await;
        let ended: Arc<Mutex<BTreeMap<String, Instant>>> = Arc::default();
        let stop = Arc::new(AtomicBool::new(false));
        let mut clients = tokio::task::JoinSet::new();
        for client in 0..4 {
            let (ended, stop, address) = (Arc::clone(&ended), Arc::clone(&stop), program.address());
            clients.spawn(async move {
                for number in 0.. {
                    let id = format!("{round}-{client}-{number}");
                    // The kill breaks it off.
                    if stop.load(Ordering::Relaxed) || !answered(address, &id).await {
                        return;
                    }
                    ended.lock().insert(id, clock::now());
                    // Some hundred a second: more would be beyond what single rows are kept of.
                    tokio::time::sleep(Duration::from_millis(8)).await;
                }
            });
        }
        // Each round is killed at another moment of the writer's half second.
        let enough = 600 + usize::try_from(round).expect("few") * 37;
        eventually("enough went through", || async { ended.lock().len() > enough }).await;
        program.signal(Signal::KILL);
        let killed = clock::now();
        stop.store(true, Ordering::Relaxed);
        program.ended().await;
        while clients.join_next().await.is_some() {}
        assert_eq!(integrity(&scene.database()), "ok", "round {round}");
        let connection = Connection::open(scene.database()).expect("opened");
        let mut all = connection.prepare("SELECT id FROM requests").expect("a question");
        let kept: std::collections::BTreeSet<String> =
            all.query_map([], |row| row.get(0)).expect("rows").map(|id| id.expect("an id")).collect();
        let must = ended.lock().iter().filter(|(_, at)| **at + Duration::from_secs(1) < killed).count();
        let lost: Vec<String> = ended
            .lock()
            .iter()
            .filter(|(id, at)| **at + Duration::from_secs(1) < killed && !kept.contains(*id))
            .map(|(id, _)| id.clone())
            .collect();
        assert!(must > 100 && lost.is_empty(), "round {round}: lost {lost:?} of {must}");
        assert!(kept.len() > kept_before, "round {round}");
        kept_before = kept.len();
    }
    assert_eq!(scene.aside(), Vec::<PathBuf>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_costs_rows_and_no_request_and_is_written_again_when_there_is_room() {
    let scene = Scene::new().await;
    // No file may grow beyond 160 KiB, and the signal that says so is not for us.
    let like = arriero(&["run", "--config", "arriero.yaml"], scene.folder.path());
    let mut command = Command::new("bash");
    command.arg("-c").arg("trap '' XFSZ; ulimit -S -f 160; exec \"$0\" \"$@\"").arg(like.get_program());
    command.args(like.get_args()).current_dir(scene.folder.path());
    command.env_remove("OLLAMA_HOST").env_remove("OLLAMA_HOSTS");
    let mut program = Program::serving(command).await;
    let admin = program.admin();
    let mut client = H1::connect(program.address()).await;
    let failed = "arriero_history_dropped_total{why=\"failed\"}";
    let deadline = clock::now() + PATIENCE;
    let mut sent = 0;
    while metric(admin, failed).await == 0 {
        assert!(clock::now() < deadline, "the disk is never full after {sent}");
        for _ in 0..50 {
            assert_eq!(ask(&mut client, "full").await, 200);
            sent += 1;
        }
    }
    for _ in 0..200 {
        assert_eq!(ask(&mut client, "full").await, 200, "traffic goes on");
        sent += 1;
    }
    assert!(program.err.has("the history cannot be written"), "{}", program.err.text());
    let room = Rlimit { current: None, maximum: None };
    let process = Pid::from_raw(i32::try_from(program.id()).expect("small"));
    prlimit(process, Resource::Fsize, room).expect("raised");
    eventually("it is written again", || async {
        assert!(answered(program.address(), "room").await);
        let told = send(admin, "GET", &format!("{PREFIX}/requests?limit=1"), "").await;
        told.head.status == 200 && told.text().contains("\"room\"")
    })
    .await;
    let all = shown(admin, "/analytics/summary").await["requests"].as_u64();
    assert!(all >= Some(sent), "sums lack nothing: {all:?} of {sent}");
    drop(client);
    program.signal(Signal::TERM);
    assert_eq!(program.ended().await.code, Some(0));
    assert_eq!(integrity(&scene.database()), "ok");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_file_is_moved_aside_and_traffic_never_knows() {
    let scene = Scene::new().await;
    std::fs::create_dir(scene.data()).expect("made");
    std::fs::write(scene.database(), vec![0x5a; 20_000]).expect("written");
    let program = scene.run().await;
    let mut client = H1::connect(program.address()).await;
    assert_eq!(ask(&mut client, "one").await, 200);
    assert_eq!(scene.aside().len(), 1);
    assert_eq!(std::fs::read(&scene.aside()[0]).expect("read"), vec![0x5a; 20_000]);
    assert!(program.err.has("the history is damaged: it is moved aside"), "{}", program.err.text());
    let admin = program.admin();
    assert_eq!(metric(admin, "arriero_history_damaged_total").await, 1);
    eventually("the new one is written", || async { shown(admin, "/requests").await["count"] == 1 }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_that_cannot_be_used_at_all_fails_the_start_with_its_name() {
    let scene = Scene::new().await;
    std::fs::write(scene.data(), "a file").expect("written");
    let ended = finish(arriero(&["run"], scene.folder.path())).await;
    assert!(ended.code == Some(1) && ended.err.contains("cannot use `server.data_dir` `data`"), "{ended:?}");
}
