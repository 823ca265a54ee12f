//! `arriero top`: the running Arriero live, on a terminal.
//!
//! # Shape
//! [`app`] is what is looked at: the last overview, which pane, how it is sorted; keys and news change it, without I/O.
//! [`panes`] makes a table of an overview, [`draw`] puts it all on a screen of any size. [`live`] has the terminal: one thread asks
//! the admin listener, one reads keys, one waits for signals, and the main one draws what they send.
//!
//! # Invariants
//! - However it ends, by a key, a signal, an error or a panic, the terminal is as it was before.
//! - `--snapshot` draws the same screen as text without a terminal, so that scripts and tests see what people see.

mod app;
mod draw;
mod live;
mod panes;

use std::io::{self, IsTerminal};
use std::process::ExitCode;
use std::time::Duration as StdDuration;

use super::admin_client::{Listener, Problem, Question};
use super::asking::Asking;
use super::output::{self, Page};
use super::overview::Overview;
use crate::units::Duration;
use app::App;
use panes::Pane;

/// The admin listener makes a new overview once a second; less between two questions only costs.
const SHORTEST: StdDuration = StdDuration::from_millis(100);

/// How to watch.
#[derive(clap::Args)]
pub struct Arguments {
    #[command(flatten)]
    asking: Asking,
    /// Time between two looks.
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = interval)]
    interval: Duration,
    /// What to begin with.
    #[arg(long, value_enum, default_value_t = Pane::Servers)]
    pane: Pane,
    /// Print one screen as text and end; needs no terminal.
    #[arg(long)]
    snapshot: bool,
    /// Columns of that screen.
    #[arg(long, value_name = "COLUMNS", default_value_t = 100, requires = "snapshot", value_parser = side())]
    width: u16,
    /// Lines of that screen.
    #[arg(long, value_name = "LINES", default_value_t = 30, requires = "snapshot", value_parser = side())]
    height: u16,
}

fn interval(text: &str) -> Result<Duration, String> {
    let time: Duration = text.parse().map_err(|error: crate::units::UnitError| error.to_string())?;
    if time.0 < SHORTEST { Err(format!("not below {SHORTEST:?}")) } else { Ok(time) }
}

/// A screen that can be drawn, and not one that takes all memory.
fn side() -> clap::builder::RangedI64ValueParser<u16> {
    clap::value_parser!(u16).range(1..=1000)
}

/// Watches until `q`, Ctrl-C or a signal.
pub fn run(arguments: &Arguments) -> ExitCode {
    let question = || Question::get("overview");
    if arguments.snapshot || arguments.asking.json {
        return arguments.asking.tell(question(), |overview: &Overview, _| {
            let mut app = App::new(arguments.pane);
            app.take(Ok(overview.clone()));
            Page::of(draw::as_text(&app, arguments.width, arguments.height))
        });
    }
    if !io::stdout().is_terminal() || !io::stdin().is_terminal() {
        let error = "this is no terminal\nhint: `arriero top --snapshot` prints one screen as text";
        return Problem::Here(error.to_owned()).report();
    }
    match watch(arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => problem.report(),
    }
}

fn watch(arguments: &Arguments) -> Result<(), Problem> {
    let listener = Listener::find(&arguments.asking.admin)?;
    // Whoever cannot be asked now is told so on a terminal that was not touched yet.
    let first = look(&listener)?;
    let mut app = App::new(arguments.pane);
    app.take(Ok(first));
    live::watch(app, listener, arguments.interval.0, output::has_colours())
}

/// Asks for an overview.
fn look(listener: &Listener) -> Result<Overview, Problem> {
    let answer = listener.ask(Question::get("overview"))?;
    if !answer.is_good() {
        return Err(Problem::refused(&answer));
    }
    serde_json::from_slice(&answer.body).map_err(|error| Problem::Unreadable(error.to_string()))
}
