//! Hot reload through a real file: every way of changing it, every way of breaking it, and what lives on.

#[path = "reload/broken.rs"]
mod broken;
#[path = "reload/lasting.rs"]
mod lasting;
mod support;

use std::fs;
use std::io::Write;
use std::net::SocketAddr;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use arriero::demo::{RawUpstream, Script};
use rustix::process::Signal;
use serde_json::Value;
use support::fleet::{Small, send};
use support::process::{Program, arriero, complete, finish};
use support::wire::{Answer, H1, ask, get, proxy};
use support::{PATIENCE, Proxy, eventually, http_yaml, ollama_yaml, replace};
use tokio::task::JoinSet;

/// A whole file that sends every request to this server.
pub fn to(server: &Small) -> String {
    complete(&http_yaml(&[server.url()], "", ""))
}

/// Which server answers; any failure fails the test.
pub async fn who(address: SocketAddr) -> String {
    name_in(&ask(address, get("/")).await)
}

fn name_in(answer: &Answer) -> String {
    assert!(answer.head.status == 200 && answer.whole, "{}\n{}", answer.head.text, answer.text());
    answer.text().split(' ').next().unwrap_or_default().to_owned()
}

pub async fn goes_to(address: SocketAddr, name: &str) {
    eventually(&format!("requests go to {name}"), || async { who(address).await == name }).await;
}

/// The block `config` of `/health`.
pub async fn config_health(admin: SocketAddr) -> Value {
    let health: Value = serde_json::from_slice(&send(admin, "GET", "/health", "").await.body).expect("JSON");
    health["config"].clone()
}

pub fn admin_of(proxy: &Proxy) -> SocketAddr {
    let arriero::admin::AdminAddress::Tcp(address) = proxy.running().admin.clone() else { panic!("admin on TCP") };
    address
}

pub async fn reloads(proxy: &Proxy, result: &str) -> f64 {
    proxy.metric(&format!("arriero_config_reloads_total{{result=\"{result}\"}}")).await
}

/// Clients that ask without a pause until they are stopped: some on one connection, some on many.
pub struct Load {
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicUsize>,
    clients: JoinSet<()>,
}

impl Load {
    /// Every answer must be a whole 200 from one of these servers.
    pub fn start(address: SocketAddr, clients: usize, servers: &'static [&'static str]) -> Self {
        let mut load = Self { stop: Arc::default(), answered: Arc::default(), clients: JoinSet::new() };
        for number in 0..clients {
            let (stop, answered) = (Arc::clone(&load.stop), Arc::clone(&load.answered));
            load.clients.spawn(async move {
                let mut client = H1::connect(address).await;
                while !stop.load(Ordering::Relaxed) {
                    let answer = client.ask(get("/load")).await;
                    let name = name_in(&answer);
                    assert!(servers.contains(&name.as_str()), "answered by {name}");
                    answered.fetch_add(1, Ordering::Relaxed);
                    if number % 2 == 0 || answer.head.field("connection") == Some("close") {
                        client = H1::connect(address).await;
                    }
                }
            });
        }
        load
    }

    /// Waits until so many more requests were answered.
    pub async fn more(&self, count: usize) {
        let until = self.answered.load(Ordering::Relaxed) + count;
        eventually("requests are answered", || async { self.answered.load(Ordering::Relaxed) >= until }).await;
    }

    /// Ends it; fails when any request failed.
    pub async fn stop(mut self) {
        self.stop.store(true, Ordering::Relaxed);
        while let Some(client) = self.clients.join_next().await {
            client.expect("no request failed");
        }
    }
}

/// The number of a text of [`is_found_by`].
fn version_of(text: &str) -> usize {
    let number = text.lines().next().and_then(|line| line.strip_prefix("# version "));
    number.and_then(|number| number.parse().ok()).expect("a version")
}

/// A text whose program logs what it applies.
fn logged(text: &str) -> String {
    text.replace("log_level: warn", "log_level: info")
}

/// What made it apply a file, each time that it did.
fn triggers(program: &Program) -> Vec<String> {
    let text = program.err.text();
    let lines = text.lines().filter_map(|line| line.split_once("configuration applied trigger=\""));
    lines.filter_map(|(_, rest)| rest.split('"').next()).map(str::to_owned).collect()
}

/// Changes the file four times in the same way. Each change must come into force, and all of them but one by
/// this trigger: the slow poll may chance to be first.
async fn is_found_by(
    trigger: &str,
    lay_out: impl Fn(&Path, &str) -> PathBuf,
    change: impl Fn(&Path, &str, &str),
    then: impl Fn(&Program),
) {
    let servers = [Small::named("a").await, Small::named("b").await];
    let text = |number: usize| format!("# version {number}\n{}", logged(&to(&servers[number % 2])));
    let folder = tempfile::tempdir().expect("a folder");
    let file = lay_out(folder.path(), &text(0));
    let program = Program::run(&file).await;
    assert_eq!(who(program.address()).await, "a");
    for number in 1..=4 {
        change(&file, &text(number - 1), &text(number));
        then(&program);
        goes_to(program.address(), ["a", "b"][number % 2]).await;
        eventually("the log says so", || async { triggers(&program).len() == number }).await;
    }
    let found = triggers(&program);
    assert!(found.iter().filter(|word| *word == trigger).count() >= 3, "{found:?}");
}

async fn the_watcher_finds(change: impl Fn(&Path, &str, &str)) {
    is_found_by("file changed", plainly, change, |_| ()).await;
}

fn plainly(folder: &Path, text: &str) -> PathBuf {
    let file = folder.join("arriero.yaml");
    fs::write(&file, text).expect("written");
    file
}

fn shell(script: &str, file: &Path, text: &str) {
    let other = file.with_extension("other");
    fs::write(&other, text).expect("written");
    let done = Command::new("sh").args(["-ec", script, "sh"]).arg(file).arg(&other).status();
    assert!(done.expect("a shell").success(), "{script}");
}

#[tokio::test]
async fn a_file_that_is_written_in_place_is_in_force_soon() {
    the_watcher_finds(|file, _, text| fs::write(file, text).expect("written")).await;
}

#[tokio::test]
async fn a_file_that_is_renamed_over_the_old_one_is_in_force_soon() {
    the_watcher_finds(|file, _, text| replace(file, text)).await;
}

#[tokio::test]
async fn a_file_that_vim_saves_with_a_backup_is_in_force_soon() {
    the_watcher_finds(|file, _, text| {
        let backup = file.with_extension("yaml~");
        fs::rename(file, &backup).expect("renamed");
        fs::write(file, text).expect("written");
        fs::remove_file(backup).expect("removed");
    })
    .await;
}

#[tokio::test]
async fn an_edit_by_sed_in_place_is_in_force_soon() {
    the_watcher_finds(|file, old, text| {
        // Only what differs between the two: the version and the address of the server.
        let lines = old.lines().zip(text.lines()).filter(|(before, after)| before != after);
        let edits: Vec<String> = lines.map(|(before, after)| format!("s|^{before}$|{after}|")).collect();
        let done = Command::new("sed").args(["-i", &edits.join(";")]).arg(file).status();
        assert!(done.expect("sed").success());
        assert_eq!(fs::read_to_string(file).expect("a text"), text);
    })
    .await;
}

#[tokio::test]
async fn a_file_that_is_copied_over_the_old_one_is_in_force_soon() {
    the_watcher_finds(|file, _, text| shell("cp \"$2\" \"$1\"", file, text)).await;
}

#[tokio::test]
async fn a_file_that_is_moved_over_the_old_one_by_mv_is_in_force_soon() {
    the_watcher_finds(|file, _, text| shell("mv \"$2\" \"$1\"", file, text)).await;
}

#[tokio::test]
async fn a_file_that_is_deleted_and_made_anew_as_git_does_is_in_force_soon() {
    the_watcher_finds(|file, _, text| {
        fs::remove_file(file).expect("removed");
        fs::File::create_new(file).expect("created").write_all(text.as_bytes()).expect("written");
    })
    .await;
}

#[tokio::test]
async fn a_configmap_whose_data_link_is_swapped_is_in_force_soon() {
    let generation = |folder: &Path, text: &str| {
        let name = format!("..2024_{}", version_of(text));
        fs::create_dir(folder.join(&name)).expect("made");
        fs::write(folder.join(&name).join("arriero.yaml"), text).expect("written");
        name
    };
    is_found_by(
        "file changed",
        |folder, text| {
            symlink(generation(folder, text), folder.join("..data")).expect("linked");
            symlink("..data/arriero.yaml", folder.join("arriero.yaml")).expect("linked");
            folder.join("arriero.yaml")
        },
        |file, _, text| {
            let folder = file.parent().expect("a folder");
            let old = fs::read_link(folder.join("..data")).expect("a link");
            symlink(generation(folder, text), folder.join("..data_tmp")).expect("linked");
            fs::rename(folder.join("..data_tmp"), folder.join("..data")).expect("swapped");
            fs::remove_dir_all(folder.join(old)).expect("removed");
        },
        |_| (),
    )
    .await;
}

#[tokio::test]
async fn an_edit_behind_a_link_that_was_turned_to_another_folder_is_in_force_soon() {
    let target = |folder: &Path, text: &str| {
        let home = folder.join(format!("v{}", version_of(text)));
        fs::create_dir(&home).expect("made");
        fs::write(home.join("real.yaml"), text).expect("written");
        symlink(home.join("real.yaml"), folder.join("next")).expect("linked");
        fs::rename(folder.join("next"), folder.join("arriero.yaml")).expect("turned");
        folder.join("arriero.yaml")
    };
    let change = |file: &Path, _: &str, text: &str| match version_of(text) % 2 {
        0 => fs::write(file, text).expect("written"),
        _ => drop(target(file.parent().expect("a folder"), text)),
    };
    is_found_by("file changed", target, change, |_| ()).await;
}

#[tokio::test]
async fn a_hangup_signal_puts_the_file_in_force_at_once() {
    let edit = |file: &Path, _: &str, text: &str| fs::write(file, text).expect("written");
    is_found_by("SIGHUP", plainly, edit, |program| program.signal(Signal::HUP)).await;
}

#[tokio::test]
async fn a_change_that_no_event_tells_of_is_found_by_the_slow_poll() {
    let servers = [Small::named("a").await, Small::named("b").await];
    let (folder, middle, far) =
        (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    fs::write(far.path().join("a.yaml"), to(&servers[0])).expect("written");
    symlink(far.path().join("a.yaml"), middle.path().join("link")).expect("linked");
    symlink(middle.path().join("link"), folder.path().join("arriero.yaml")).expect("linked");
    let program = Program::run(&folder.path().join("arriero.yaml")).await;
    assert_eq!(who(program.address()).await, "a");
    // The link in the middle changes; nothing does where the file stands or stood.
    let elsewhere = tempfile::tempdir().expect("a folder");
    fs::write(elsewhere.path().join("b.yaml"), to(&servers[1])).expect("written");
    symlink(elsewhere.path().join("b.yaml"), middle.path().join("next")).expect("linked");
    fs::rename(middle.path().join("next"), middle.path().join("link")).expect("renamed");
    goes_to(program.address(), "b").await;
}

#[tokio::test]
async fn an_edit_while_the_program_starts_is_in_force_without_waiting_for_the_slow_poll() {
    let (silent, b) = (RawUpstream::start(Script::default()).await.expect("a server"), Small::named("b").await);
    let folder = tempfile::tempdir().expect("a folder");
    let file = plainly(folder.path(), &logged(&complete(&ollama_yaml(&[silent.url()], ""))));
    let program = Program::spawn(arriero(&["run"], folder.path()));
    // The file has been read: its server is being asked for its models.
    silent.wait_until(PATIENCE, |connections| !connections.is_empty()).await.expect("a connection");
    fs::write(&file, logged(&to(&b))).expect("written");
    eventually("it serves", || async { program.err.has("admin at ") && program.err.text().ends_with('\n') }).await;
    eventually("the edit is applied", || async { triggers(&program).len() == 1 }).await;
    assert_eq!(who(program.address()).await, "b");
    assert_ne!(triggers(&program), ["poll"]);
}

/// Writes a file in three pieces. What is there after the first is a valid file that sends all to `half`.
async fn half_a_file_is_never_in_force(pause: Duration) {
    let (a, b, half) = (Small::named("a").await, Small::named("b").await, Small::named("half").await);
    let proxy = proxy(http_yaml(&[a.url()], "", "")).await;
    let upstream = |server: &Small| format!("{{ kind: http, servers: [{{ url: \"{}\" }}] }}", server.url());
    let head = complete(&format!("upstreams:\n  half: {}\n  b: {}\nroutes: []\n", upstream(&half), upstream(&b)))
        .replace("routes: []\n", "");
    let pieces = [
        format!("{head}\nroutes:\n  - name: first\n    upstream: half\n"),
        "    match: { path: /nev".to_owned(),
        "er }\n  - name: rest\n    upstream: b\n".to_owned(),
    ];
    assert!(arriero::config::parse("half", &pieces[0], &|_| None).is_ok(), "half of the file is valid by itself");
    // The watcher sees the first piece only if it watches already.
    proxy.rewrite(&format!("# again\n{}", http_yaml(&[a.url()], "", "")));
    eventually("the file is watched", || async { reloads(&proxy, "applied").await == 1.0 }).await;
    let load = Load::start(proxy.address(), 2, &["a", "b"]);
    let mut file = fs::File::create(&proxy.file).expect("emptied");
    for piece in &pieces {
        file.write_all(piece.as_bytes()).expect("written");
        // The slow writer itself; nothing is asserted about when.
        tokio::time::sleep(pause).await;
    }
    drop(file);
    goes_to(proxy.address(), "b").await;
    assert!(half.got().is_empty(), "half of the file was in force");
    load.more(20).await;
    load.stop().await;
    assert_eq!(config_health(admin_of(&proxy)).await["in_force"], true);
}

#[tokio::test]
async fn half_a_file_is_not_in_force_while_it_is_written_in_three_slow_pieces() {
    half_a_file_is_never_in_force(Duration::from_millis(400)).await;
}

#[tokio::test]
async fn half_a_file_is_not_in_force_while_it_is_written_in_three_very_slow_pieces() {
    half_a_file_is_never_in_force(Duration::from_secs(2)).await;
}

#[tokio::test]
async fn the_admin_listener_answers_a_reload_when_the_file_is_in_force() {
    let servers = [Small::named("a").await, Small::named("b").await];
    let proxy = proxy(http_yaml(&[servers[0].url()], "", "")).await;
    let reload = || send(admin_of(&proxy), "POST", "/api/orchestrator/config/reload", "");
    for number in 1..=4 {
        fs::write(&proxy.file, to(&servers[number % 2])).expect("written");
        let answer = reload().await;
        assert_eq!(answer.head.status, 200, "{}", answer.text());
        assert_eq!(who(proxy.address()).await, ["a", "b"][number % 2]);
        let told: Value = serde_json::from_slice(&answer.body).expect("JSON");
        // The watcher may have been first.
        assert!(told["result"] == "applied" || told["result"] == "unchanged", "{told}");
        assert_eq!(told["hash"], config_health(admin_of(&proxy)).await["hash"]);
    }
    fs::write(&proxy.file, format!("{}\nroutez: []\n", to(&servers[1]))).expect("written");
    let refused = reload().await;
    assert!(refused.head.status >= 400 && refused.text().contains("routez"), "{}", refused.text());
    let by_get = send(admin_of(&proxy), "GET", "/api/orchestrator/config/reload", "").await;
    assert_eq!(by_get.head.status, 405, "a change is a POST");
}

#[tokio::test]
async fn the_reload_command_says_by_its_exit_code_what_became_of_the_file() {
    let servers = [Small::named("a").await, Small::named("b").await];
    let folder = tempfile::tempdir().expect("a folder");
    let socket = format!("unix:{}", folder.path().join("admin.sock").display());
    let file = folder.path().join("arriero.yaml");
    let text = |server| {
        format!(
            "{}\nadmin: {{ address: \"{socket}\" }}\n",
            to(server).replace("admin: { address: \"127.0.0.1:0\" }", "")
        )
    };
    fs::write(&file, text(&servers[0])).expect("written");
    let program = Program::run(&file).await;
    let reload = |more: &[&str]| finish(arriero(&[&["reload", "-c", "arriero.yaml"], more].concat(), folder.path()));
    assert_eq!(reload(&[]).await.code, Some(0), "a file that is in force already is no error");
    fs::write(&file, text(&servers[1])).expect("written");
    let applied = reload(&[]).await;
    assert_eq!((applied.code, who(program.address()).await.as_str()), (Some(0), "b"), "{applied:?}");
    fs::write(&file, format!("{}server: {{ threads: 7 }}\n", text(&servers[0]))).expect("written");
    let refused = reload(&[]).await;
    assert_eq!(refused.code, Some(1), "{refused:?}");
    assert!(refused.err.contains("server.threads") && refused.err.contains("restart"), "{refused:?}");
    fs::write(&file, text(&servers[0]).replace("kind: http", "kind: htp")).expect("written");
    for more in [&[][..], &["--admin", &socket]] {
        let refused = reload(more).await;
        assert_eq!(refused.code, Some(1), "{refused:?}");
        assert!(refused.err.contains("htp") && broken::position(&refused.err).is_some(), "{refused:?}");
    }
    assert_eq!(who(program.address()).await, "b");
    fs::write(&file, text(&servers[0])).expect("written");
    drop(program);
    let nobody = reload(&[]).await;
    assert!(nobody.code == Some(4) && nobody.err.contains("admin.sock"), "{nobody:?}");
}
