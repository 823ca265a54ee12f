//! Sockets that somebody opened before the program ran, as systemd does for a socket unit.

use std::net::TcpListener;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::net::UnixListener;
use std::process::Command;

use rustix::io::{FdFlags, fcntl_setfd};
use rustix::process::Signal;

use crate::support::process::{Program, arriero};
use crate::support::wire::{H1, get};
use crate::support::{eventually, replace};
use crate::{Scene, refuses};

/// The program with these sockets as its descriptors from 3 on, meant for the process that `owner` names.
fn given(scene: &Scene, sockets: &[&dyn AsFd], owner: &str) -> Command {
    let mut script = String::new();
    for (number, socket) in (3..).zip(sockets) {
        fcntl_setfd(socket, FdFlags::empty()).expect("set");
        let open = socket.as_fd().as_raw_fd();
        assert!(open >= 3 + i32::try_from(sockets.len()).expect("few"), "the test has some open itself");
        script += &format!("exec {number}<&{open} {open}<&-; ");
    }
    script += &format!("export LISTEN_PID={owner} LISTEN_FDS={}; exec \"$0\" \"$@\"", sockets.len());
    let like = arriero(&["run", "--config", "arriero.yaml"], scene.folder.path());
    // Other shells take numbers of one digit only.
    let mut command = Command::new("bash");
    command.arg("-c").arg(script).arg(like.get_program()).args(like.get_args()).current_dir(scene.folder.path());
    command.env_remove("OLLAMA_HOST").env_remove("OLLAMA_HOSTS");
    command
}

#[tokio::test]
async fn sockets_of_the_service_manager_are_taken_by_their_addresses() {
    // Low numbers that a shell can speak of are not to be those of the sockets.
    let _low: Vec<_> = (0..4).map(|_| std::fs::File::open("/dev/null").expect("opened")).collect();
    let (first, second) = (TcpListener::bind("127.0.0.1:0"), TcpListener::bind("127.0.0.1:0"));
    let (first, second) = (first.expect("a socket"), second.expect("a socket"));
    let (one, two) = (first.local_addr().expect("bound"), second.local_addr().expect("bound"));
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("admin");
    let admin = UnixListener::bind(&path).expect("a socket");
    let admin_yaml = format!("admin: {{ address: \"unix:{}\" }}", path.display());
    let listeners = format!("listeners: [{{ address: \"localhost:{}\" }}, {{ address: \"{two}\" }}]", one.port());
    let scene = Scene::new(&format!("{listeners}\n{admin_yaml}")).await;
    // Nobody runs yet, and a client has asked already.
    let mut early = H1::connect(one).await;
    early.send(get("/")).await;
    let mut program = Program::serving(given(&scene, &[&second, &first, &admin], "$$")).await;
    drop((first, second, admin));
    assert_eq!(early.reader.answer().await.head.status, 200);
    assert_eq!(H1::connect(two).await.ask(get("/")).await.head.status, 200);
    // A listener that goes closes its socket: nothing else holds it.
    replace(&scene.file, &scene.text(&format!("listeners: [{{ address: \"{two}\" }}]\n{admin_yaml}")));
    let reloaded = scene.tell(&["reload", "--admin", &format!("unix:{}", path.display())]).await;
    assert_eq!(reloaded.code, Some(0), "{reloaded:?}");
    eventually("the first is closed", || refuses(one)).await;
    assert!(!refuses(two).await);
    program.signal(Signal::TERM);
    assert_eq!(program.ended().await.code, Some(0));
}

#[tokio::test]
async fn sockets_that_are_not_ours_are_left_alone_and_those_that_are_not_wanted_are_told() {
    let _low: Vec<_> = (0..4).map(|_| std::fs::File::open("/dev/null").expect("opened")).collect();
    let socket = TcpListener::bind("127.0.0.1:0").expect("a socket");
    let address = socket.local_addr().expect("bound");
    let taken = Scene::new(&format!("listeners: [{{ address: \"{address}\" }}]")).await;
    let ended = Program::spawn(given(&taken, &[&socket], "1")).ended().await;
    assert!(ended.code == Some(1) && ended.err.contains("in use"), "{ended:?}");
    let log = "telemetry: { access_log: off, log_level: warn }";
    let scene = Scene::new(log).await;
    let program = Program::serving(given(&scene, &[&socket], "$$")).await;
    let told = format!("a socket was handed over that no listener has in its `address` address={address}");
    assert!(program.err.has(&told), "{}", program.err.text());
    let file = std::fs::File::open("/dev/null").expect("opened");
    let ended = Program::spawn(given(&scene, &[&file], "$$")).ended().await;
    assert!(ended.code == Some(1) && ended.err.contains("sockets of the service manager"), "{ended:?}");
}
