//! A new process takes over, or fails to: nobody who asks notices either.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::PathBuf;

use rustix::process::{Pid, Signal, getpriority_process, kill_process, test_kill_process};

use crate::support::eventually;
use crate::support::fleet::send;
use crate::support::process::{Ended, Program, arriero};
use crate::support::wire::{H1, ask, get};
use crate::{Scene, Steady, end_well, streams};

/// The process that has taken over; killed when dropped.
pub struct Successor(pub Pid);

impl Successor {
    pub fn of(upgraded: &Ended) -> Self {
        let id = upgraded.out.trim().rsplit(' ').next().and_then(|id| id.parse().ok());
        Self(id.and_then(Pid::from_raw).unwrap_or_else(|| panic!("no process: {upgraded:?}")))
    }

    pub async fn ends_on(&self, signal: Signal) {
        kill_process(self.0, signal).expect("it runs");
        eventually("it has ended", || async { test_kill_process(self.0).is_err() }).await;
    }
}

impl Drop for Successor {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = kill_process(self.0, Signal::KILL);
    }
}

/// The program behind a link of its folder, which can be made to mean another program.
struct Linked {
    scene: Scene,
    link: PathBuf,
}

impl Linked {
    async fn new(more: &str) -> Self {
        let scene = Scene::new(more).await;
        let link = scene.folder.path().join("arriero");
        symlink(env!("CARGO_BIN_EXE_arriero"), &link).expect("a link");
        Self { scene, link }
    }

    async fn run(&self) -> Program {
        let like = arriero(&["run", "--config", "arriero.yaml"], self.scene.folder.path());
        let mut command = std::process::Command::new(&self.link);
        command.args(like.get_args()).current_dir(self.scene.folder.path());
        like.get_envs().for_each(|(name, value)| match value {
            Some(value) => drop(command.env(name, value)),
            None => drop(command.env_remove(name)),
        });
        Program::serving(command).await
    }

    /// Puts a shell script in the place of the program.
    fn script(&self, lines: &str) -> PathBuf {
        let next = self.scene.folder.path().join("next");
        fs::write(&next, format!("#!/bin/sh\n{lines}\n")).expect("written");
        fs::set_permissions(&next, fs::Permissions::from_mode(0o755)).expect("set");
        fs::rename(&next, &self.link).expect("renamed");
        self.link.clone()
    }

    async fn upgrade(&self, program: &Program, more: &[&str]) -> Ended {
        let admin = program.admin().to_string();
        self.scene.tell(&[&["upgrade", "--admin", &admin], more].concat()).await
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_go_on_and_no_request_fails_while_a_new_process_takes_over() {
    let linked = Linked::new("").await;
    let mut program = linked.run().await;
    let address = program.address();
    let admin = program.admin();
    let open = streams(address, 100).await;
    let load = Steady::start(address, 4);
    load.more(50).await;
    let upgraded = linked.upgrade(&program, &[]).await;
    assert_eq!(upgraded.code, Some(0), "{upgraded:?}\n{}", program.err.text());
    let successor = Successor::of(&upgraded);
    load.more(50).await;
    assert!(program.runs(), "it waits for its streams");
    // The port is the same, and the new process answers there and on the admin listener.
    let mut kept = H1::connect(address).await;
    assert_eq!(kept.ask(get("/")).await.head.field("connection"), None);
    eventually("ready", || async { send(admin, "GET", "/health/ready", "").await.head.status == 200 }).await;
    linked.scene.streaming.gate().open();
    end_well(open).await;
    eventually("the old process has ended", || {
        let ended = !program.runs();
        async move { ended }
    })
    .await;
    load.more(50).await;
    load.stop().await;
    assert_eq!(ask(address, get("/")).await.head.status, 200);
    successor.ends_on(Signal::TERM).await;
    let ended = program.ended().await;
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert!(crate::refuses(address).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn upgrades_follow_each_other_also_by_signal() {
    let linked = Linked::new("telemetry: { access_log: off, log_level: info }").await;
    let mut program = linked.run().await;
    let (address, admin) = (program.address(), program.admin().to_string());
    let load = Steady::start(address, 4);
    load.more(20).await;
    program.signal(Signal::USR2);
    eventually("the first has ended", || {
        let ended = !program.runs();
        async move { ended }
    })
    .await;
    let mut all = Vec::new();
    for _ in 0..3 {
        load.more(20).await;
        let upgraded = linked.scene.tell(&["upgrade", "--admin", &admin]).await;
        assert_eq!(upgraded.code, Some(0), "{upgraded:?}\n{}", program.err.text());
        let successor = Successor::of(&upgraded);
        let niceness = |process| getpriority_process(process).ok();
        assert_eq!(niceness(Some(successor.0)), niceness(None), "it comes behind nobody whom the first did not");
        all.push(successor);
    }
    load.more(20).await;
    load.stop().await;
    for each in &all[..2] {
        eventually("those before have ended", || async { test_kill_process(each.0).is_err() }).await;
    }
    all[2].ends_on(Signal::TERM).await;
    assert_eq!(program.ended().await.code, Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_program_that_fails_changes_nothing() {
    let linked = Linked::new("").await;
    let mut program = linked.run().await;
    let address = program.address();
    let load = Steady::start(address, 2);
    let good = linked.scene.text("");
    for (script, config, more, said) in [
        ("echo broken >&2; exit 7", good.as_str(), &[][..], &["exit status: 7", "broken"][..]),
        ("exec sleep 1000", &good, &["--timeout", "300ms"], &["300ms"]),
        ("kill -9 $$", &good, &[], &["signal: 9"]),
        (&format!("exec {} \"$@\"", env!("CARGO_BIN_EXE_arriero")), "version: 9", &[], &["exit status: 1", "version"]),
    ] {
        linked.script(script);
        crate::support::replace(&linked.scene.file, config);
        let failed = linked.upgrade(&program, more).await;
        assert_eq!(failed.code, Some(1), "{failed:?}");
        said.iter().for_each(|said| assert!(failed.err.contains(said), "{said}: {failed:?}"));
        assert!(program.runs());
        load.more(20).await;
        assert_eq!(send(program.admin(), "GET", "/health/ready", "").await.head.status, 200);
    }
    fs::remove_file(&linked.link).expect("removed");
    let nothing = linked.upgrade(&program, &["--config", "none.yaml"]).await;
    assert!(nothing.code == Some(1) && nothing.err.contains("cannot start"), "{nothing:?}");
    load.stop().await;
    program.signal(Signal::TERM);
    assert_eq!(program.ended().await.code, Some(0));
}

#[tokio::test]
async fn a_unix_socket_is_handed_over_and_another_binary_needs_it_or_a_token() {
    let linked = Linked::new("").await;
    let program = linked.run().await;
    let foreign = linked.upgrade(&program, &["--binary", env!("CARGO_BIN_EXE_arriero")]).await;
    assert!(foreign.code == Some(1) && foreign.err.contains("admin.token_file"), "{foreign:?}");
    drop(program);
    let socket = linked.scene.folder.path().join("admin.sock");
    let admin = format!("\nadmin: {{ address: \"unix:{}\" }}", socket.display());
    linked.scene.write(&admin);
    let mut program = linked.run().await;
    let upgraded = linked.scene.tell(&["upgrade", "--binary", env!("CARGO_BIN_EXE_arriero")]).await;
    assert_eq!(upgraded.code, Some(0), "{upgraded:?}\n{}", program.err.text());
    let successor = Successor::of(&upgraded);
    eventually("the old process has ended", || {
        let ended = !program.runs();
        async move { ended }
    })
    .await;
    let health = linked.scene.tell(&["health"]).await;
    assert_eq!(health.code, Some(0), "{health:?}");
    let again = linked.scene.tell(&["reload"]).await;
    assert_eq!(again.code, Some(0), "{again:?}");
    successor.ends_on(Signal::TERM).await;
}

#[tokio::test]
async fn a_term_signal_ends_an_upgrade_that_is_under_way() {
    let linked = Linked::new("").await;
    let mut program = linked.run().await;
    let begun = linked.scene.folder.path().join("begun");
    linked.script(&format!("echo $$ > {0}.part; mv {0}.part {0}; exec sleep 1000", begun.display()));
    let (failed, ()) = tokio::join!(linked.upgrade(&program, &[]), async {
        eventually("the new process runs", || async { begun.exists() }).await;
        program.signal(Signal::TERM);
    });
    assert!(failed.code == Some(1) && failed.err.contains("stopping"), "{failed:?}");
    assert_eq!(program.ended().await.code, Some(0));
    let id = fs::read_to_string(&begun).expect("an id").trim().parse().ok().and_then(Pid::from_raw).expect("an id");
    assert!(test_kill_process(id).is_err(), "the new process is gone");
}
