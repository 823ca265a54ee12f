//! The program itself as a child process: what it says, its signals, its end.

use std::io::Read;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use parking_lot::Mutex;
use rustix::process::{Pid, Signal, kill_process};

use super::PATIENCE;

/// What it wrote to one of its outputs so far.
#[derive(Clone, Default)]
pub struct Said(Arc<Mutex<Vec<u8>>>);

impl Said {
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.0.lock()).into_owned()
    }

    pub fn has(&self, text: &str) -> bool {
        self.text().contains(text)
    }

    fn listen(&self, mut pipe: impl Read + Send + 'static) -> JoinHandle<()> {
        let said = self.clone();
        std::thread::spawn(move || {
            let mut piece = [0; 4096];
            while let Ok(count @ 1..) = pipe.read(&mut piece) {
                said.0.lock().extend_from_slice(&piece[..count]);
            }
        })
    }
}

/// How a run of the program ended.
#[derive(Debug)]
pub struct Ended {
    /// Exit code; None when a signal ended it.
    pub code: Option<i32>,
    /// All of its standard output.
    pub out: String,
    /// All of its standard error.
    pub err: String,
}

/// A configuration with all that every test configuration needs, for files that tests write themselves.
pub fn complete(yaml: &str) -> String {
    super::complete(yaml)
}

/// A command that runs the program in a folder, with nothing in its environment that it reads.
pub fn arriero(arguments: &[&str], folder: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_arriero"));
    command.args(arguments).current_dir(folder);
    for name in ["OLLAMA_HOST", "OLLAMA_HOSTS", "OLLAMA_LOAD_BALANCER", "PORT"] {
        command.env_remove(name);
    }
    command.env("NO_COLOR", "1");
    command
}

/// Runs the program to its end.
pub async fn finish(command: Command) -> Ended {
    Program::spawn(command).ended().await
}

/// The program while it runs; killed when dropped.
pub struct Program {
    child: Child,
    listeners: Vec<JoinHandle<()>>,
    /// Its standard output.
    pub out: Said,
    /// Its standard error.
    pub err: Said,
}

impl Program {
    /// Starts a command.
    pub fn spawn(mut command: Command) -> Self {
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("the program starts");
        let (out, err) = (Said::default(), Said::default());
        let pipes = (child.stdout.take().expect("piped"), child.stderr.take().expect("piped"));
        let listeners = vec![out.listen(pipes.0), err.listen(pipes.1)];
        Self { child, listeners, out, err }
    }

    /// Starts a command that serves, and waits until it does.
    pub async fn serving(command: Command) -> Self {
        let mut program = Self::spawn(command);
        let err = program.err.clone();
        let ready = async {
            while !(err.text().lines().any(|line| line.starts_with("admin at ")) && err.text().ends_with('\n')) {
                let ended = program.child.try_wait().expect("a child of ours");
                assert!(ended.is_none(), "it ended with {ended:?}:\n{}", err.text());
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        assert!(tokio::time::timeout(PATIENCE, ready).await.is_ok(), "it does not serve:\n{}", err.text());
        program
    }

    /// `arriero run` with a configuration file.
    pub async fn run(file: &Path) -> Self {
        let folder = file.parent().expect("a folder");
        Self::serving(arriero(&["run", "--config", file.to_str().expect("text")], folder)).await
    }

    fn told(&self, before: &[&str]) -> SocketAddr {
        let text = self.err.text();
        let address = |line: &str| before.iter().find_map(|before| line.strip_prefix(before)?.parse().ok());
        text.lines().find_map(address).unwrap_or_else(|| panic!("no line `{}…`:\n{text}", before[0]))
    }

    /// Address of its first listener.
    pub fn address(&self) -> SocketAddr {
        self.told(&["listening on http://", "listening on https://"])
    }

    /// Address of its admin listener.
    pub fn admin(&self) -> SocketAddr {
        self.told(&["admin at http://"])
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).expect("sent");
    }

    /// Whether it has not ended.
    pub fn runs(&mut self) -> bool {
        self.child.try_wait().expect("a child of ours").is_none()
    }

    /// Waits for its end.
    pub async fn ended(&mut self) -> Ended {
        let waited = async {
            while self.runs() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let in_time = tokio::time::timeout(PATIENCE, waited).await.is_ok();
        assert!(in_time, "it still runs:\n{}\n{}", self.out.text(), self.err.text());
        for listener in self.listeners.drain(..) {
            listener.join().expect("all was read");
        }
        let code = self.child.wait().expect("a child of ours").code();
        Ended { code, out: self.out.text(), err: self.err.text() }
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // It may have ended by itself.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}
