//! What systemd is told, by real datagrams.

use std::path::Path;

use rustix::process::Signal;
use tokio::net::UnixDatagram;

use crate::Scene;
use crate::support::PATIENCE;
use crate::support::process::{Program, arriero};

/// The socket of a service manager.
struct Manager(UnixDatagram);

impl Manager {
    fn new(path: &Path) -> Self {
        Self(UnixDatagram::bind(path).expect("a socket"))
    }

    /// The next message that is not of the watchdog.
    async fn next(&self) -> String {
        loop {
            let message = self.any().await;
            if message != "WATCHDOG=1" {
                return message;
            }
        }
    }

    async fn any(&self) -> String {
        let mut buffer = [0; 256];
        let received = tokio::time::timeout(PATIENCE, self.0.recv(&mut buffer)).await.expect("a message");
        String::from_utf8_lossy(&buffer[..received.expect("received")]).into_owned()
    }
}

#[tokio::test]
async fn systemd_is_told_of_start_reload_and_stop() {
    let scene = Scene::new("").await;
    let socket = scene.folder.path().join("notify");
    let manager = Manager::new(&socket);
    let mut command = arriero(&["run", "--config", "arriero.yaml"], scene.folder.path());
    command.env("NOTIFY_SOCKET", &socket).env("WATCHDOG_USEC", "40000");
    let mut program = Program::serving(command).await;
    assert_eq!(manager.next().await, "READY=1");
    assert_eq!(manager.any().await, "WATCHDOG=1");
    assert_eq!(manager.any().await, "WATCHDOG=1", "again and again");
    scene.write("# another one");
    let reloaded = scene.reload(&program).await;
    assert_eq!(reloaded.code, Some(0), "{reloaded:?}");
    assert!(manager.next().await.starts_with("RELOADING=1\nMONOTONIC_USEC="));
    assert_eq!(manager.next().await, "READY=1");
    program.signal(Signal::HUP);
    assert!(manager.next().await.starts_with("RELOADING=1\n"), "although nothing has changed");
    assert_eq!(manager.next().await, "READY=1");
    program.signal(Signal::TERM);
    assert_eq!(manager.next().await, "STOPPING=1");
    assert_eq!(program.ended().await.code, Some(0));
}

#[tokio::test]
async fn systemd_is_told_which_process_has_taken_over() {
    let scene = Scene::new("").await;
    let socket = scene.folder.path().join("notify");
    let manager = Manager::new(&socket);
    let mut command = arriero(&["run", "--config", "arriero.yaml"], scene.folder.path());
    command.env("NOTIFY_SOCKET", &socket);
    let program = Program::serving(command).await;
    assert_eq!(manager.next().await, "READY=1");
    let upgraded = scene.tell(&["upgrade", "--admin", &program.admin().to_string()]).await;
    assert_eq!(upgraded.code, Some(0), "{upgraded:?}");
    let successor = crate::upgrade::Successor::of(&upgraded);
    assert_eq!(manager.next().await, "READY=1", "the new one");
    assert_eq!(manager.next().await, format!("MAINPID={}\nREADY=1", successor.0.as_raw_nonzero()));
    successor.ends_on(Signal::TERM).await;
    assert_eq!(manager.next().await, "STOPPING=1", "the new one");
}
