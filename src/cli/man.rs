//! `arriero man`: manual pages, and the reference that stands in the documentation.

use std::fmt::Write as _;
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Arg, Command, CommandFactory, ValueEnum};
use clap_mangen::Man;
use clap_mangen::roff::{Roff, bold, roman};

use super::admin_client::Problem;
use super::{EXITS, output};

/// Options that every verb has that asks the running Arriero; the reference tells them once.
const COMMON: [&str; 3] = ["config", "admin", "json"];

/// Where to.
#[derive(clap::Args)]
pub struct Arguments {
    /// Folder to write all pages into, one a verb; without it the page of `arriero` itself is printed.
    folder: Option<PathBuf>,
    /// Form of what is printed.
    #[arg(long, value_enum, default_value_t = Format::Roff, conflicts_with = "folder")]
    format: Format,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    /// For `man`.
    Roff,
    /// All verbs and their options in Markdown.
    Markdown,
}

/// Writes them.
pub fn run(arguments: &Arguments) -> ExitCode {
    let mut command = super::Arguments::command().disable_help_subcommand(true);
    command.build();
    let done = match (&arguments.folder, arguments.format) {
        (Some(folder), _) => pages(&command, folder).map_err(|error| format!("`{}`: {error}", folder.display())),
        (None, Format::Roff) => page(command).map_err(|error| error.to_string()).and_then(|page| print(&page)),
        (None, Format::Markdown) => print(markdown(&command).as_bytes()),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => Problem::Here(error).report(),
    }
}

fn print(text: &[u8]) -> Result<(), String> {
    output::print(&String::from_utf8_lossy(text)).map(|_| ())
}

/// The page of a command and those of all below it.
fn pages(command: &Command, folder: &Path) -> io::Result<()> {
    std::fs::create_dir_all(folder)?;
    let name = command.get_display_name().unwrap_or_else(|| command.get_name());
    std::fs::write(folder.join(format!("{name}.1")), page(command.clone())?)?;
    command.get_subcommands().try_for_each(|verb| pages(verb, folder))
}

fn page(command: Command) -> io::Result<Vec<u8>> {
    let has_verbs = command.has_subcommands();
    let man = Man::new(command).source(concat!("arriero ", env!("CARGO_PKG_VERSION"))).manual("Arriero");
    let mut page = Vec::new();
    man.render_title(&mut page)?;
    man.render_name_section(&mut page)?;
    man.render_synopsis_section(&mut page)?;
    man.render_description_section(&mut page)?;
    man.render_options_section(&mut page)?;
    if has_verbs {
        man.render_subcommands_section(&mut page)?;
    }
    let mut exits = Roff::new();
    exits.control("SH", ["EXIT STATUS"]);
    for (code, meaning) in EXITS {
        exits.control("TP", []).text([bold(code.to_string())]).text([roman(meaning)]);
    }
    exits.to_writer(&mut page)?;
    Ok(page)
}

/// All verbs with what they take.
fn markdown(command: &Command) -> String {
    let mut text = String::from("| exit status | |\n|---|---|\n");
    for (code, meaning) in EXITS {
        let _ = writeln!(text, "| {code} | {meaning} |");
    }
    text.push_str("\n| verb | |\n|---|---|\n");
    for verb in command.get_subcommands() {
        let name = verb.get_name();
        let _ = writeln!(text, "| [`{name}`](#arriero-{name}) | {} |", about(verb));
    }
    command.get_subcommands().for_each(|verb| section(verb, "arriero", 2, &mut text));
    text
}

fn about(command: &Command) -> String {
    command.get_about().map(ToString::to_string).unwrap_or_default()
}

fn section(command: &Command, parent: &str, level: usize, text: &mut String) {
    let name = format!("{parent} {}", command.get_name());
    let usage = command.clone().render_usage().to_string();
    let usage = usage.trim_start_matches("Usage: ").lines().map(str::trim).collect::<Vec<_>>().join("\n");
    let heads = "#".repeat(level);
    let _ = writeln!(text, "\n{heads} {name}\n\n{}.\n\n```text\n{usage}\n```", about(command).trim_end_matches('.'));
    let asks = COMMON.iter().all(|id| command.get_arguments().any(|argument| argument.get_id() == *id));
    let own: Vec<&Arg> = command
        .get_arguments()
        .filter(|argument| argument.get_id() != "help" && !(asks && COMMON.iter().any(|id| argument.get_id() == *id)))
        .collect();
    if asks || !own.is_empty() {
        text.push('\n');
    }
    own.into_iter().for_each(|argument| item(argument, text));
    if asks {
        text.push_str("- The [options that many verbs have](#options-that-many-verbs-have).\n");
    }
    for verb in command.get_subcommands() {
        section(verb, &name, level + 1, text);
    }
}

/// An argument or an option in a list.
fn item(argument: &Arg, text: &mut String) {
    let values = argument.get_value_names().map(|names| names.join(" ")).unwrap_or_default();
    let mut names: Vec<String> = argument.get_short().map(|short| format!("-{short}")).into_iter().collect();
    names.extend(argument.get_long().map(|long| format!("--{long}")));
    let takes = argument.get_action().takes_values();
    let shown = match (names.is_empty(), takes) {
        (true, _) => values,
        (false, true) => format!("{} {values}", names.join(", ")),
        (false, false) => names.join(", "),
    };
    let help = argument.get_help().map(ToString::to_string).unwrap_or_default();
    let _ = write!(text, "- `{shown}`: {}.", help.trim_end_matches('.'));
    if takes {
        let choices: Vec<String> =
            argument.get_possible_values().iter().map(|value| format!("`{}`", value.get_name())).collect();
        if !choices.is_empty() {
            let _ = write!(text, " One of {}.", choices.join(", "));
        }
        let preset: Vec<_> = argument.get_default_values().iter().map(|value| value.to_string_lossy()).collect();
        if !preset.is_empty() {
            let _ = write!(text, " `{}` by default.", preset.join(","));
        }
    }
    text.push('\n');
}
