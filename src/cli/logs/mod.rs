//! `arriero logs`: requests that ended, or messages of the process; those of late, and with `-f` those to come.

mod events;
mod line;
mod wanted;

use std::collections::HashMap;
use std::io;
use std::process::ExitCode;
use std::time::Duration as StdDuration;

use clap::ValueEnum;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use serde_json::Value;
use serde_json::value::RawValue;
use tokio::signal::unix::{SignalKind, signal};

use super::admin_client::{Listener, Problem, Question, runtime};
use super::asking::Asking;
use super::output::{self, Look, Page, Reader};
use super::words::count;
use events::{Event, Events};

/// How often it is looked whether somebody still reads what we write.
const LOOK: StdDuration = StdDuration::from_secs(1);
/// The event that tells how many others there were no time for.
const MISSED: &str = "missed";

/// Which logs.
#[derive(clap::Args)]
pub struct Arguments {
    #[command(flatten)]
    asking: Asking,
    /// Go on with what comes, until Ctrl-C.
    #[arg(short, long)]
    follow: bool,
    /// Requests that ended, or messages of the process itself.
    #[arg(long, value_enum, default_value_t = Kind::Requests)]
    kind: Kind,
    /// At most so many of late.
    #[arg(long, value_name = "NUMBER", default_value_t = 20)]
    limit: usize,
    /// Only messages of this level and above.
    #[arg(long, value_enum)]
    level: Option<Level>,
    /// Only requests for this model.
    #[arg(long, value_name = "MODEL")]
    model: Option<String>,
    /// Only requests that this server had; `UPSTREAM/NAME` where several upstreams have one of that name.
    #[arg(long, value_name = "NAME")]
    server: Option<String>,
    /// Only requests with the API key of this id.
    #[arg(long, value_name = "ID")]
    key: Option<String>,
    /// Only requests with this status.
    #[arg(long, value_name = "STATUS")]
    status: Option<u16>,
    /// Only requests that ended for this reason, such as `queue_full`.
    #[arg(long, value_name = "REASON")]
    reason: Option<String>,
    /// Of those of late, only requests since then: `2026-02-03T04:05:06Z`, or `15m` for the last 15 minutes.
    #[arg(long, value_name = "MOMENT")]
    since: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Kind {
    /// Requests that ended.
    Requests,
    /// Messages of the process.
    Messages,
}

/// How much a message matters; the most first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
enum Level {
    Error,
    Warn,
    Info,
    Debug,
}

/// Shows them.
pub fn run(arguments: &Arguments) -> ExitCode {
    if !arguments.follow {
        return arguments.asking.tell(arguments.question(), |answer: &Value, look| arguments.page(answer, look));
    }
    match follow(arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => problem.report(),
    }
}

impl Kind {
    /// Its path, which is also the key of its list, and what one is called as an event.
    fn words(self) -> (&'static str, &'static str) {
        match self {
            Self::Requests => ("requests", "request"),
            Self::Messages => ("logs", "message"),
        }
    }

    fn line(self, one: &Value, look: &Look) -> String {
        match self {
            Self::Requests => line::of_request(one, look),
            Self::Messages => line::of_message(one, look),
        }
    }
}

impl Arguments {
    /// Those of late.
    fn question(&self) -> Question {
        let level = self.level.and_then(|level| level.to_possible_value()).map(|value| value.get_name().to_owned());
        let limit = Some(self.limit.to_string());
        let (path, _) = self.kind.words();
        match self.kind {
            Kind::Messages => Question::get(path).asking(&[("limit", limit), ("level", level)]),
            Kind::Requests => Question::get(path).asking(&[
                ("limit", limit),
                ("model", self.model.clone()),
                ("server", self.server.clone()),
                ("key", self.key.clone()),
                ("status", self.status.map(|status| status.to_string())),
                ("reason", self.reason.clone()),
                ("since", self.since.clone()),
            ]),
        }
    }

    /// An answer has the last one first; people read on at the end.
    fn page(&self, answer: &Value, look: &Look) -> Page {
        let list = answer[self.kind.words().0].as_array().map(Vec::as_slice).unwrap_or_default();
        if list.is_empty() {
            return Page::of(match self.kind {
                Kind::Requests => "no requests\n",
                Kind::Messages => "no messages\n",
            });
        }
        Page::of(list.iter().rev().map(|one| self.kind.line(one, look)).collect::<String>())
    }

    /// One of them as it is written.
    fn shown(&self, text: &str, one: &Value) -> String {
        if self.asking.json { output::one_line(text.as_bytes()) } else { self.kind.line(one, &Look::of_stdout()) }
    }
}

fn follow(arguments: &Arguments) -> Result<(), Problem> {
    let listener = Listener::find(&arguments.asking.admin)?;
    runtime()?.block_on(async {
        let stop = async {
            let signals = [SignalKind::interrupt(), SignalKind::terminate()].map(signal);
            let [Ok(mut interrupt), Ok(mut terminate)] = signals else { return std::future::pending().await };
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
        };
        tokio::select! {
            () = stop => Ok(()),
            () = nobody_reads() => Ok(()),
            done = stream(arguments, &listener) => done,
        }
    })
}

/// Returns when the reader of our output has left, which a writer only learns by itself when it writes.
async fn nobody_reads() {
    let out = io::stdout();
    let mut tick = tokio::time::interval(LOOK);
    loop {
        tick.tick().await;
        let mut waiting = [PollFd::new(&out, PollFlags::empty())];
        let seen = poll(&mut waiting, Some(&Timespec { tv_sec: 0, tv_nsec: 0 }));
        if seen.is_ok() && waiting[0].revents().contains(PollFlags::ERR) {
            return;
        }
    }
}

/// Shows those of late, then each as it comes.
async fn stream(arguments: &Arguments, listener: &Listener) -> Result<(), Problem> {
    let (list, event) = arguments.kind.words();
    let kind = arguments.kind.to_possible_value().map(|value| value.get_name().to_owned());
    // Opened first, so that nothing falls between the two.
    let question = Question::get("logs/stream").asking(&[("kind", kind)]);
    let opened = listener.open(question).await.map_err(|error| listener.unreachable(error))?;
    if !(200..300).contains(&opened.status) {
        let answer = opened.whole().await.map_err(|error| listener.unreachable(error))?;
        return Err(Problem::refused(&answer));
    }
    let answer = listener.answer(arguments.question()).await?;
    if !answer.is_good() {
        return Err(Problem::refused(&answer));
    }
    let unreadable = |error: serde_json::Error| Problem::Unreadable(error.to_string());
    let lists: HashMap<String, Box<RawValue>> = serde_json::from_slice(&answer.body).map_err(unreadable)?;
    let earlier: Vec<Box<RawValue>> =
        lists.get(list).map_or_else(|| Ok(Vec::new()), |list| serde_json::from_str(list.get())).map_err(unreadable)?;
    let mut last = None;
    for text in earlier.iter().rev() {
        let one: Value = serde_json::from_str(text.get()).map_err(unreadable)?;
        last = last.max(one["seq"].as_i64());
        if output::print(&arguments.shown(text.get(), &one)).map_err(Problem::Here)? == Reader::Gone {
            return Ok(());
        }
    }
    let mut events = Events::new(opened);
    loop {
        let Event { name, data } = events.next().await.map_err(|error| listener.unreachable(error))?;
        let one: Value = serde_json::from_str(&data).map_err(unreadable)?;
        if name == MISSED {
            eprintln!(
                "note: {} were missed, there were too many at a time",
                count(one["missed"].as_u64().unwrap_or(0), "line", "lines")
            );
        }
        if name != event {
            continue;
        }
        let is_new = one["seq"].as_i64().is_none_or(|seq| last.is_none_or(|last| seq > last));
        if is_new
            && arguments.wants(&one)
            && output::print(&arguments.shown(&data, &one)).map_err(Problem::Here)? == Reader::Gone
        {
            return Ok(());
        }
    }
}
