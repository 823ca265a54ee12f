//! Running a program, within a time, with nothing that it should not have.
//!
//! It is started as it is written, without a shell, as the leader of a process group of its own. When its time is over the
//! whole group is ended, first asked and then killed. When it has ended by itself, what it left running in the background
//! is left alone: starting a server that goes on is what it may be for.

use std::process::Stdio;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::{Child, Command};

/// Variables of our own environment that are handed on: none of them is a secret.
const PASSED: [&str; 4] = ["PATH", "HOME", "USER", "LANG"];
/// Bytes of output that are kept.
const KEPT: usize = 2048;
/// How long a group that is asked to end may take before it is killed.
const GRACE: Duration = Duration::from_secs(2);
/// How long output is still read after the program has ended: something in the background may hold it open for ever.
const LAST_WORDS: Duration = Duration::from_millis(200);

/// The process group of a running program; killed when dropped before it has ended.
struct Group(Option<Pid>);

impl Group {
    fn signal(&self, signal: Signal) {
        if let Some(group) = self.0 {
            // It may have ended meanwhile.
            let _ = kill_process_group(group, signal);
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.signal(Signal::KILL);
    }
}

/// Runs a program with these variables beside the few that are handed on; its output, cut.
///
/// # Errors
/// Why it did not end well, with its output.
pub async fn run(arguments: &[String], variables: &[(&str, String)], limit: Duration) -> Result<String, String> {
    let Some((program, arguments)) = arguments.split_first() else { return Err("no program is named".to_owned()) };
    let mut command = Command::new(program);
    command.args(arguments).env_clear().stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.envs(PASSED.iter().filter_map(|name| Some((*name, std::env::var_os(name)?))));
    command.envs(variables.iter().map(|(name, value)| (*name, value)));
    command.process_group(0).kill_on_drop(true);
    let mut child = command.spawn().map_err(|error| format!("`{program}` cannot be started: {error}"))?;
    let pid = child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
    let mut group = Group(pid);
    let mut output = Output::default();
    let ended = tokio::time::timeout(limit, until_end(&mut child, &mut output)).await;
    let said = output.text();
    match ended {
        Ok(Ok(status)) => {
            group.0 = None;
            if status.success() { Ok(said) } else { Err(with_output(&format!("it ended with {status}"), &said)) }
        }
        Ok(Err(error)) => Err(format!("it cannot be waited for: {error}")),
        Err(_) => {
            group.signal(Signal::TERM);
            drop(tokio::time::timeout(GRACE, child.wait()).await);
            // Those that did not end with their leader are killed as the guard is dropped.
            Err(with_output(&format!("it did not end within {limit:?} and was ended"), &said))
        }
    }
}

fn with_output(what: &str, said: &str) -> String {
    if said.is_empty() { what.to_owned() } else { format!("{what}: {said}") }
}

/// The beginning of what a program wrote.
#[derive(Default)]
struct Output {
    bytes: Vec<u8>,
    is_cut: bool,
}

impl Output {
    fn take(&mut self, bytes: &[u8]) {
        let kept = bytes.len().min(KEPT - self.bytes.len());
        self.bytes.extend_from_slice(&bytes[..kept]);
        self.is_cut |= kept < bytes.len();
    }

    /// One line that can stand in a log.
    fn text(&self) -> String {
        let text = String::from_utf8_lossy(&self.bytes);
        let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
        let mut line: String = lines.join(" | ").chars().filter(|c| !c.is_control()).collect();
        if self.is_cut {
            line.push('…');
        }
        line
    }
}

/// Reads what it says until it has ended.
async fn until_end(child: &mut Child, output: &mut Output) -> std::io::Result<std::process::ExitStatus> {
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    let mut reading = Box::pin(read_both(stdout, stderr, output));
    let status = tokio::select! {
        () = &mut reading => return child.wait().await,
        status = child.wait() => status,
    };
    drop(tokio::time::timeout(LAST_WORDS, reading).await);
    status
}

async fn read_both(
    mut stdout: Option<impl AsyncRead + Unpin>,
    mut stderr: Option<impl AsyncRead + Unpin>,
    output: &mut Output,
) {
    let (mut one, mut other) = ([0; 1024], [0; 1024]);
    while stdout.is_some() || stderr.is_some() {
        tokio::select! {
            count = read(&mut stdout, &mut one), if stdout.is_some() => match count {
                0 => stdout = None,
                count => output.take(&one[..count]),
            },
            count = read(&mut stderr, &mut other), if stderr.is_some() => match count {
                0 => stderr = None,
                count => output.take(&other[..count]),
            },
        }
    }
}

/// How many bytes came; 0 at the end, or when it broke.
async fn read(pipe: &mut Option<impl AsyncRead + Unpin>, buffer: &mut [u8]) -> usize {
    match pipe {
        Some(pipe) => pipe.read(buffer).await.unwrap_or(0),
        None => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &[&str]) -> Vec<String> {
        text.iter().map(|word| (*word).to_owned()).collect()
    }

    const LONG: Duration = Duration::from_secs(20);

    #[tokio::test]
    async fn a_program_gets_its_arguments_as_they_are_and_a_bare_environment() {
        let arguments = words(&["/usr/bin/env", "printf", "%s\n", "a b; exit 1 $HOME"]);
        assert_eq!(run(&arguments, &[], LONG).await, Ok("a b; exit 1 $HOME".to_owned()));
        let said = run(&words(&["/usr/bin/env"]), &[("ARRIERO_SERVER", "a".to_owned())], LONG).await.unwrap();
        let names: Vec<&str> = said.split(" | ").filter_map(|line| line.split('=').next()).collect();
        assert!(names.contains(&"ARRIERO_SERVER") && names.contains(&"PATH"), "{said}");
        assert!(names.iter().all(|name| PASSED.contains(name) || *name == "ARRIERO_SERVER"), "{said}");
    }

    #[tokio::test]
    async fn a_bad_end_is_told_with_what_the_program_said() {
        let said = run(&words(&["/bin/sh", "-c", "echo no such unit >&2; exit 5"]), &[], LONG).await.unwrap_err();
        assert_eq!(said, "it ended with exit status: 5: no such unit");
        let said = run(&words(&["/no/such/program"]), &[], LONG).await.unwrap_err();
        assert!(said.contains("cannot be started"), "{said}");
        let said = run(&words(&["/bin/sh", "-c", "yes | head -c 1000000"]), &[], LONG).await.unwrap();
        assert!(said.ends_with('…') && said.len() < 3 * KEPT, "{}", said.len());
    }

    #[tokio::test]
    async fn a_program_that_hangs_is_ended_with_all_its_children() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("pid");
        // The child ignores the request to end; only being killed ends it.
        let script = format!("(trap '' TERM; sh -c 'echo $PPID' > {}; sleep 600) & wait", file.display());
        let said = run(&words(&["/bin/sh", "-c", &script]), &[], Duration::from_secs(2)).await.unwrap_err();
        assert!(said.starts_with("it did not end within 2s"), "{said}");
        let pid = std::fs::read_to_string(&file).unwrap().trim().to_owned();
        let is_gone = || {
            let state = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            state.is_empty() || state.contains(") Z ")
        };
        let wait = async {
            while !is_gone() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        assert!(tokio::time::timeout(LONG, wait).await.is_ok(), "{pid} still runs");
    }

    #[tokio::test]
    async fn what_goes_on_in_the_background_neither_holds_it_up_nor_is_ended() {
        let began = crate::clock::now();
        let said = run(&words(&["/bin/sh", "-c", "sleep 600 & echo $!"]), &[], LONG).await.unwrap();
        assert!(crate::clock::now() - began < LONG);
        let pid = said.parse().ok().and_then(Pid::from_raw).unwrap();
        assert!(rustix::process::test_kill_process(pid).is_ok(), "{pid:?} was ended");
        rustix::process::kill_process(pid, Signal::KILL).unwrap();
    }
}
