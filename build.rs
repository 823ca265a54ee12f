//! Tells the program from which commit it was built: `ARRIERO_REVISION`, empty when that is not known, and
//! `ARRIERO_VERSION`, such as `0.1.0 (1a2b3c4d5 2026-11-28)`.
//!
//! The variable `ARRIERO_REVISION` of the build (`HASH` or `HASH DATE`) says it where there is no repository, as in a
//! container. Else git is asked, for release profiles only: while one develops, each commit would build everything
//! anew. The commit's own date is told and no time of the build, so that two builds of a commit are the same.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Digits of the hash. Fixed: git's own choice depends on how much of the history is there.
const DIGITS: &str = "--abbrev=9";

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-env-changed=ARRIERO_REVISION");
    let given = env::var("ARRIERO_REVISION").unwrap_or_default();
    let is_release = env::var("PROFILE").is_ok_and(|profile| profile == "release");
    let told = match given.trim() {
        "" | "unknown" if is_release => of_git().unwrap_or_default(),
        "" | "unknown" => String::new(),
        given => given.to_owned(),
    };
    let plain = |word: &&str| word.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-+._".contains(&byte));
    let known: Vec<&str> = told.split_whitespace().take(2).take_while(plain).collect();
    let version = env::var("CARGO_PKG_VERSION").unwrap_or_default();
    let full = if known.is_empty() { version } else { format!("{version} ({})", known.join(" ")) };
    println!("cargo::rustc-env=ARRIERO_REVISION={}", known.first().unwrap_or(&""));
    println!("cargo::rustc-env=ARRIERO_VERSION={full}");
}

/// Hash and day of the commit that is checked out here.
fn of_git() -> Option<String> {
    let here = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR")?);
    // A copy of the sources inside somebody else's repository is no commit of that.
    let top = git(&here, &["rev-parse", "--show-toplevel"])?;
    if Path::new(&top).canonicalize().ok()? != here.canonicalize().ok()? {
        return None;
    }
    // HEAD changes when another branch is checked out; its log, and what it names, with each commit.
    let mut watched = vec!["HEAD".to_owned(), "logs/HEAD".to_owned(), "packed-refs".to_owned()];
    watched.extend(git(&here, &["symbolic-ref", "--quiet", "HEAD"]));
    for name in watched {
        // Cargo takes a file that is not there for one that has changed.
        let file = git(&here, &["rev-parse", "--git-path", &name]).map(|path| here.join(path));
        if let Some(file) = file.filter(|file| file.is_file()) {
            println!("cargo::rerun-if-changed={}", file.display());
        }
    }
    git(&here, &["log", "-1", DIGITS, "--format=%h %cs"])
}

fn git(folder: &Path, arguments: &[&str]) -> Option<String> {
    let said = Command::new("git").arg("-C").arg(folder).args(arguments).output().ok()?;
    let text = String::from_utf8(said.stdout).ok()?;
    said.status.success().then(|| text.trim().to_owned()).filter(|text| !text.is_empty())
}
