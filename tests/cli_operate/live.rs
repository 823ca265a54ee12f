//! `arriero top` in a terminal: it shows, obeys keys, and leaves the terminal as it was.

use std::fs::File;
use std::io::{Read, Write};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use rustix::process::{Pid, Signal, kill_process};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{LocalModes, Termios, Winsize, tcgetattr, tcsetwinsize};

use super::Setup;
use crate::support::process::arriero;
use crate::support::{PATIENCE, eventually};

/// What switches to the other screen of a terminal, back again, and shows the cursor.
const OTHER: &str = "\u{1b}[?1049h";
const BACK: &str = "\u{1b}[?1049l";
const CURSOR: &str = "\u{1b}[?25h";

/// A program on a terminal of its own.
struct Terminal {
    keys: File,
    /// The program's end, which tells its modes.
    inside: File,
    said: Arc<Mutex<Vec<u8>>>,
    child: Child,
}

impl Terminal {
    fn open(command: Command) -> Self {
        Self::of_size(command, 120, 30)
    }

    fn of_size(mut command: Command, ws_col: u16, ws_row: u16) -> Self {
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).expect("a terminal");
        grantpt(&master).expect("ours");
        unlockpt(&master).expect("open");
        let path = ptsname(&master, Vec::new()).expect("a name").into_string().expect("text");
        let inside = File::options().read(true).write(true).open(path).expect("its other end");
        tcsetwinsize(&inside, Winsize { ws_row, ws_col, ws_xpixel: 0, ws_ypixel: 0 }).expect("a size");
        let end = || Stdio::from(inside.try_clone().expect("a descriptor"));
        command.stdin(end()).stdout(end()).stderr(end()).env("TERM", "xterm-256color");
        let child = command.spawn().expect("the program starts");
        let keys = File::from(master);
        let said = Arc::new(Mutex::new(Vec::new()));
        let (mut output, heard) = (keys.try_clone().expect("a descriptor"), Arc::clone(&said));
        std::thread::spawn(move || {
            let mut piece = [0; 4096];
            while let Ok(count @ 1..) = output.read(&mut piece) {
                heard.lock().extend_from_slice(&piece[..count]);
            }
        });
        Self { keys, inside, said, child }
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.said.lock()).into_owned()
    }

    fn press(&mut self, keys: &str) {
        self.keys.write_all(keys.as_bytes()).expect("typed");
    }

    /// Waits until a text was shown.
    async fn shows(&self, text: &str) {
        let waited = tokio::time::timeout(PATIENCE, async {
            while !self.text().contains(text) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        });
        assert!(waited.await.is_ok(), "it never shows `{text}`:\n{:?}", self.text());
    }

    fn modes(&self) -> Termios {
        tcgetattr(&self.inside).expect("modes")
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).expect("sent");
    }

    /// Waits for its end; the exit code.
    async fn ended(&mut self) -> Option<i32> {
        let child = Mutex::new(&mut self.child);
        eventually("it ends", || async { child.lock().try_wait().expect("a child of ours").is_some() }).await;
        self.child.wait().expect("it has ended").code()
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // It may have ended by itself.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// What of the modes a program changes that reads single keys.
fn told(modes: &Termios) -> [u64; 3] {
    [modes.input_modes.bits().into(), modes.output_modes.bits().into(), modes.local_modes.bits().into()]
}

async fn watched(setup: &Setup) -> (Terminal, [u64; 3]) {
    let terminal = Terminal::open({
        let mut command = arriero(&["top", "--interval", "100ms", "--admin", &setup.admin], setup.folder.path());
        command.env_remove("NO_COLOR");
        command
    });
    // The modes of a fresh terminal, which nobody has changed before the first screen.
    let fresh = Terminal::open(Command::new("true"));
    let before = told(&fresh.modes());
    terminal.shows("[1 servers]").await;
    let now = terminal.modes();
    assert!(
        !now.local_modes.contains(LocalModes::ICANON) && !now.local_modes.contains(LocalModes::ECHO),
        "keys are read"
    );
    (terminal, before)
}

async fn is_restored(terminal: &Terminal, before: [u64; 3]) {
    // It has ended; what it wrote may still be on its way to us.
    terminal.shows(BACK).await;
    terminal.shows(CURSOR).await;
    let text = terminal.text();
    let (other, back) = (text.rfind(OTHER).expect("the other screen"), text.rfind(BACK).expect("back again"));
    assert!(other < back, "{text:?}");
    assert!(
        text.rfind(CURSOR).is_some_and(|shown| text.rfind("\u{1b}[?25l").is_none_or(|hidden| hidden < shown)),
        "{text:?}"
    );
    assert_eq!(told(&terminal.modes()), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn top_shows_obeys_keys_and_gives_the_terminal_back() {
    let setup = Setup::start(false).await;
    let (mut terminal, before) = watched(&setup).await;
    terminal.shows("s1").await;
    terminal.press("\t");
    terminal.shows("[2 models]").await;
    terminal.press("?");
    terminal.shows("any other key").await;
    terminal.press("x7");
    terminal.shows("[7 decisions]").await;
    // What happens is seen without a key.
    terminal.press("6");
    terminal.shows("[6 bans]").await;
    setup.told(&["ban", "add", "--model", "n", "--reason", "nobody-wants-it"]).await;
    terminal.shows("nobody-wants-it").await;
    // A filter takes letters; `q` is one of them.
    const NOTHING: &str = "nothing that the filter";
    terminal.press("/qq\r");
    terminal.shows(NOTHING).await;
    tcsetwinsize(&terminal.inside, Winsize { ws_row: 12, ws_col: 50, ws_xpixel: 0, ws_ypixel: 0 }).expect("a size");
    let before_that = terminal.text().matches(NOTHING).count();
    terminal.signal(Signal::WINCH);
    // A key that comes together with the signal would wait for the next one.
    eventually("all is drawn anew", || async { terminal.text().matches(NOTHING).count() > before_that }).await;
    terminal.press("4");
    terminal.shows("[4 queues]").await;
    terminal.press("q");
    assert_eq!(terminal.ended().await, Some(0));
    is_restored(&terminal, before).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signal_gives_the_terminal_back_too() {
    let setup = Setup::start(false).await;
    for signal in [Signal::TERM, Signal::HUP, Signal::INT] {
        let (mut terminal, before) = watched(&setup).await;
        terminal.signal(signal);
        assert_eq!(terminal.ended().await, Some(0));
        is_restored(&terminal, before).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn top_goes_on_when_arriero_is_gone_and_says_so() {
    let mut setup = Setup::start(false).await;
    let (mut terminal, before) = watched(&setup).await;
    setup.program.signal(Signal::KILL);
    setup.program.ended().await;
    terminal.shows("cannot be reached").await;
    // Control and C together.
    terminal.press("\u{3}");
    assert_eq!(terminal.ended().await, Some(0));
    is_restored(&terminal, before).await;
    // Whoever begins now is told so before the terminal is touched.
    let mut late = Terminal::open(arriero(&["top", "--admin", &setup.admin], setup.folder.path()));
    assert_eq!(late.ended().await, Some(4));
    assert!(!late.text().contains(OTHER), "{:?}", late.text());
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_terminal_top_names_the_snapshot() {
    let setup = Setup::start(false).await;
    let ended = setup.run(&["top"]).await;
    assert!(ended.code == Some(1) && ended.err.contains("--snapshot"), "{ended:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn on_a_terminal_tables_have_colours_and_no_line_is_wider() {
    let setup = Setup::start(false).await;
    let shown = |no_color: Option<&'static str>, columns, words: &[&str]| {
        let mut command = arriero(&[words, &["--admin", &setup.admin]].concat(), setup.folder.path());
        command.env_remove("NO_COLOR");
        command.envs(no_color.map(|value| ("NO_COLOR", value)));
        Terminal::of_size(command, columns, 30)
    };
    let mut colours = shown(None, 120, &["servers"]);
    assert_eq!(colours.ended().await, Some(0));
    colours.shows("\u{1b}[32mup\u{1b}[0m").await;
    let mut plain = shown(Some("1"), 40, &["servers"]);
    assert_eq!(plain.ended().await, Some(0));
    plain.shows("s1").await;
    eventually("both rows are there", || async { plain.text().ends_with('\n') }).await;
    let text = plain.text();
    assert!(!text.contains('\u{1b}'), "{text:?}");
    assert!(text.lines().count() == 3 && text.lines().all(|line| line.trim_end().chars().count() <= 40), "{text}");
    let mut json = shown(None, 120, &["servers", "--json"]);
    assert_eq!(json.ended().await, Some(0));
    json.shows("  \"success\": true,").await;
}
