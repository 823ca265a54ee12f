//! Completions, manual pages and `docs/cli.md` are what the program itself says. `ARRIERO_WRITE_GENERATED=1` writes the
//! generated part of `docs/cli.md` anew.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;

use crate::support::process::{Ended, arriero, finish};

async fn run(words: &[&str], folder: &Path) -> Ended {
    let ended = finish(arriero(words, folder)).await;
    assert_eq!((ended.code, ended.err.as_str()), (Some(0), ""), "{words:?}: {ended:?}");
    ended
}

/// The verbs that the help names.
async fn verbs(folder: &Path) -> Vec<String> {
    let help = run(&["--help"], folder).await.out;
    let commands = help.split_once("Commands:\n").and_then(|(_, rest)| rest.split_once("\n\n")).expect("a list").0;
    let name = |line: &str| line.strip_prefix("  ").and_then(|line| line.split_whitespace().next()).map(str::to_owned);
    let indented = |line: &&str| !line.starts_with("   ");
    let verbs: Vec<String> = commands.lines().filter(indented).filter_map(name).filter(|verb| verb != "help").collect();
    assert!(verbs.len() > 25, "{verbs:?}");
    verbs
}

fn has(tool: &str) -> bool {
    Command::new("sh").args(["-c", &format!("command -v {tool}")]).output().is_ok_and(|found| found.status.success())
}

#[tokio::test]
async fn every_shell_gets_a_script_that_names_every_verb() {
    let folder = tempfile::tempdir().expect("a folder");
    let verbs = verbs(folder.path()).await;
    for shell in ["bash", "zsh", "fish", "powershell", "elvish"] {
        let script = run(&["completion", shell], folder.path()).await.out;
        for verb in &verbs {
            assert!(script.contains(verb.as_str()), "{shell} does not complete `{verb}`");
        }
        for option in ["--snapshot", "--follow"] {
            assert!(script.contains(option.trim_start_matches('-')), "{shell} does not complete `{option}`");
        }
        let file = folder.path().join(shell);
        fs::write(&file, &script).expect("written");
        if has(shell) && ["bash", "zsh"].contains(&shell) {
            let read = Command::new(shell).arg("-n").arg(&file).output().expect("a shell");
            assert!(read.status.success(), "{shell}: {}", String::from_utf8_lossy(&read.stderr));
        }
    }
}

#[tokio::test]
async fn bash_completes_verbs_orders_and_options() {
    let folder = tempfile::tempdir().expect("a folder");
    let script = run(&["completion", "bash"], folder.path()).await.out;
    fs::write(folder.path().join("arriero.bash"), script).expect("written");
    for (line, wanted) in [
        ("arriero cir", "circuit"),
        ("arriero circuit ha", "half-open"),
        ("arriero top --sn", "--snapshot"),
        ("arriero top --pane q", "queues"),
    ] {
        let words: Vec<&str> = line.split(' ').collect();
        let (last, before) = (words[words.len() - 1], words[words.len() - 2]);
        let code = format!(
            "source arriero.bash; COMP_WORDS=({line}); COMP_CWORD={}; _arriero arriero {last} {before}; echo \"${{COMPREPLY[@]}}\"",
            words.len() - 1
        );
        let done = Command::new("bash").args(["-c", &code]).current_dir(folder.path()).output().expect("bash");
        let told = String::from_utf8_lossy(&done.stdout);
        assert!(
            told.split_whitespace().any(|word| word == wanted),
            "{line}: {told}{}",
            String::from_utf8_lossy(&done.stderr)
        );
    }
}

#[tokio::test]
async fn every_verb_has_a_manual_page_with_the_exit_codes() {
    let folder = tempfile::tempdir().expect("a folder");
    let pages = folder.path().join("man/man1");
    run(&["man", pages.to_str().expect("text")], folder.path()).await;
    let mut wanted: Vec<String> = verbs(folder.path()).await.iter().map(|verb| format!("arriero-{verb}.1")).collect();
    wanted.push("arriero.1".to_owned());
    wanted.push("arriero-circuit-half-open.1".to_owned());
    for name in &wanted {
        let page = fs::read_to_string(pages.join(name)).unwrap_or_else(|error| panic!("{name}: {error}"));
        for part in [".TH ", ".SH NAME", ".SH SYNOPSIS", ".SH DESCRIPTION", ".SH \"EXIT STATUS\"", "wrong usage"] {
            assert!(page.contains(part), "{name} has no `{part}`:\n{page}");
        }
    }
    let printed = run(&["man"], folder.path()).await.out;
    assert_eq!(printed, fs::read_to_string(pages.join("arriero.1")).expect("a page"));
    if has("man") {
        for name in ["arriero.1", "arriero-top.1"] {
            let shown = Command::new("man").args(["--warnings", "-l"]).arg(pages.join(name)).output().expect("man");
            let text = String::from_utf8_lossy(&shown.stdout);
            assert!(shown.status.success() && text.contains("EXIT STATUS"), "{name}: {shown:?}");
            assert_eq!(String::from_utf8_lossy(&shown.stderr), "", "{name}");
        }
    }
}

#[tokio::test]
async fn the_help_tells_the_exit_codes() {
    let folder = tempfile::tempdir().expect("a folder");
    let help = run(&["--help"], folder.path()).await.out;
    let told = help.split_once("Exit status:\n").expect("it stands there").1;
    let codes: Vec<&str> = told.lines().filter_map(|line| line.strip_prefix("  ")?.split("  ").next()).collect();
    assert_eq!(
        codes.iter().filter(|code| code.len() == 1).copied().collect::<Vec<_>>(),
        ["0", "1", "2", "3", "4"],
        "{told}"
    );
}

/// Before what is generated in `docs/cli.md`.
const MARK: &str = "<!-- generated by `arriero man --format markdown` -->\n";

#[tokio::test]
async fn the_reference_in_the_documentation_is_what_the_program_says() {
    let folder = tempfile::tempdir().expect("a folder");
    let generated = run(&["man", "--format", "markdown"], folder.path()).await.out;
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/cli.md");
    let text = fs::read_to_string(&path).expect("docs/cli.md");
    let (written, old) = text.split_once(MARK).expect("the mark");
    if std::env::var_os("ARRIERO_WRITE_GENERATED").is_some() {
        fs::write(&path, format!("{written}{MARK}{generated}")).expect("written");
    } else {
        assert!(old == generated, "docs/cli.md is old: run the tests once with ARRIERO_WRITE_GENERATED=1");
    }
    // The list is the one that the help gives, and every option that a verb's own help names is told.
    let listed: BTreeSet<String> = verbs(folder.path()).await.into_iter().collect();
    let told: BTreeSet<String> =
        generated.lines().filter_map(|line| line.strip_prefix("## arriero ")).map(str::to_owned).collect();
    assert_eq!(told, listed);
    for verb in &listed {
        let help = run(&[verb, "--help"], folder.path()).await.out;
        let section = generated.split_once(&format!("\n## arriero {verb}\n")).expect("a section").1;
        let section = section.split("\n## ").next().expect("a text");
        let asks = section.contains("--admin") || help.contains("--admin");
        for option in help.split_whitespace().filter_map(|word| word.strip_prefix("--")) {
            let option = option.trim_end_matches(|c: char| !c.is_ascii_alphanumeric());
            let common = ["help", "", "config", "admin", "json"].contains(&option)
                && (asks || option == "help" || option.is_empty());
            assert!(
                common || section.contains(&format!("--{option}")),
                "`{verb}`: `--{option}` is not told:\n{section}"
            );
        }
    }
}
