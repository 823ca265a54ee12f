//! Files that are none, files that are not valid, changes that cannot be made: the last good one keeps serving.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::Command;

use crate::support::fleet::Small;
use crate::support::process::complete;
use crate::support::wire::proxy;
use crate::support::{eventually, http_yaml, replace};
use crate::{admin_of, config_health, goes_to, reloads, to, who};

/// Line and column of the first `arriero.yaml:LINE:COLUMN` of an error.
pub fn position(error: &str) -> Option<(usize, usize)> {
    error.match_indices("arriero.yaml:").find_map(|(at, name)| {
        let mut numbers = error[at + name.len()..].split(|c: char| !c.is_ascii_digit());
        Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
    })
}

/// Line and column, from 1, of the last place where a text stands.
fn place(text: &str, wanted: &str) -> (usize, usize) {
    let before = &text[..text.rfind(wanted).expect("it stands there")];
    (before.matches('\n').count() + 1, before.chars().rev().take_while(|c| *c != '\n').count() + 1)
}

/// What the error must say.
enum Says {
    /// This, wherever it is.
    Word(&'static str),
    /// This, and a line and column.
    Somewhere(&'static str),
    /// This, and the place where this last stands in the file.
    At(&'static str, &'static str),
}

type Breakage = (&'static str, Box<dyn Fn(&Path, &str)>, Says);

/// Breaks the file in each way and puts a good one there again; requests never notice the former.
async fn the_last_good_file_serves_through(ways: Vec<Breakage>) {
    let servers = [Small::named("a").await, Small::named("b").await];
    let proxy = proxy(http_yaml(&[servers[0].url()], "", "")).await;
    let admin = admin_of(&proxy);
    let first = config_health(admin).await;
    assert!(first["in_force"] == true && first["error"].is_null(), "{first}");
    for (number, (name, spoil, says)) in ways.into_iter().enumerate() {
        let (serving, other) = (number % 2, (number + 1) % 2);
        let (hash, refused) = (config_health(admin).await["hash"].clone(), reloads(&proxy, "refused").await);
        spoil(&proxy.file, &to(&servers[other]));
        eventually(&format!("{name}: refused"), || async { config_health(admin).await["in_force"] == false }).await;
        let wanted = match says {
            Says::Word(word) | Says::Somewhere(word) | Says::At(word, _) => word,
        };
        let said = || async { config_health(admin).await["error"].as_str().unwrap_or_default().to_owned() };
        eventually(&format!("{name}: the error has `{wanted}`, not:\n{}", said().await), || async {
            said().await.contains(wanted)
        })
        .await;
        let error = said().await;
        match says {
            Says::Word(_) => {}
            Says::Somewhere(_) => assert!(position(&error).is_some(), "{name}: no line and column:\n{error}"),
            Says::At(_, text) => {
                let file = fs::read_to_string(&proxy.file).expect("a text");
                assert_eq!(position(&error), Some(place(&file, text)), "{name}:\n{error}");
            }
        }
        assert_eq!(who(proxy.address()).await, ["a", "b"][serving], "{name}");
        assert_eq!(config_health(admin).await["hash"], hash, "{name}");
        assert!(reloads(&proxy, "refused").await > refused, "{name}");
        assert_eq!(proxy.metric("arriero_config_last_reload_successful").await, 0.0, "{name}");
        clear(&proxy.file);
        replace(&proxy.file, &to(&servers[other]));
        goes_to(proxy.address(), ["a", "b"][other]).await;
        eventually(&format!("{name}: a good file is in force afterwards"), || async {
            let health = config_health(admin).await;
            health["in_force"] == true && health["error"].is_null()
        })
        .await;
        assert_eq!(proxy.metric("arriero_config_last_reload_successful").await, 1.0, "{name}");
    }
}

/// Takes away whatever stands there.
fn clear(path: &Path) {
    match fs::symlink_metadata(path) {
        Ok(meta) if meta.is_dir() => fs::remove_dir(path).expect("removed"),
        Ok(_) => fs::remove_file(path).expect("removed"),
        Err(_) => {}
    }
}

/// A way that puts something else in place of the file.
fn instead(name: &'static str, make: impl Fn(&Path) + 'static, word: &'static str) -> Breakage {
    let spoil = move |path: &Path, _: &str| {
        clear(path);
        make(path);
    };
    (name, Box::new(spoil), Says::Word(word))
}

/// A way that writes a text made from a good one.
fn text(name: &'static str, make: impl Fn(&str) -> String + 'static, says: Says) -> Breakage {
    (name, Box::new(move |path, good| replace(path, &make(good))), says)
}

/// A way that writes bytes.
fn bytes(name: &'static str, make: impl Fn(&str) -> Vec<u8> + 'static) -> Breakage {
    (name, Box::new(move |path, good| fs::write(path, make(good)).expect("written")), Says::Word("arriero.yaml"))
}

#[tokio::test]
async fn the_last_good_file_serves_while_something_else_stands_in_its_place() {
    let run = |name: &str, path: &Path| assert!(Command::new(name).arg(path).status().expect("a command").success());
    the_last_good_file_serves_through(vec![
        instead("deleted", |_| (), "arriero.yaml"),
        instead("a FIFO", move |path| run("mkfifo", path), "arriero.yaml"),
        instead("a folder", |path| fs::create_dir(path).expect("made"), "arriero.yaml"),
        instead("a socket", |path| drop(UnixListener::bind(path).expect("bound")), "arriero.yaml"),
        instead("a dangling link", |path| symlink("nowhere", path).expect("linked"), "arriero.yaml"),
        instead("a link to itself", |path| symlink(path, path).expect("linked"), "arriero.yaml"),
        instead("a device without end", |path| symlink("/dev/zero", path).expect("linked"), "arriero.yaml"),
        instead(
            "a file whose bytes cannot be read",
            |path| symlink("/proc/self/mem", path).expect("linked"),
            "arriero.yaml",
        ),
    ])
    .await;
}

#[tokio::test]
async fn the_last_good_file_serves_while_the_file_may_not_be_read() {
    if rustix::process::geteuid().is_root() {
        return; // No file is closed to root; `a file whose bytes cannot be read` stands for it.
    }
    let lock = |path: &Path, _: &str| fs::set_permissions(path, fs::Permissions::from_mode(0o000)).expect("set");
    the_last_good_file_serves_through(vec![("closed", Box::new(lock), Says::Word("arriero.yaml"))]).await;
}

#[tokio::test]
async fn the_last_good_file_serves_while_the_file_is_not_text() {
    let noise = |_: &str| {
        let mut state = 0x9E37_79B9_7F4A_7C15_u64;
        let next = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state
        };
        std::iter::repeat_with(next).take(50 << 17).flat_map(u64::to_le_bytes).collect()
    };
    the_last_good_file_serves_through(vec![
        bytes("50 MiB of noise", noise),
        bytes("nothing at all", |_| Vec::new()),
        bytes("50 MiB of one letter", |_| vec![b'a'; 50 << 20]),
        bytes("zeros", |good| [good.as_bytes(), &[0; 4096]].concat()),
        bytes("UTF-16", |good| good.encode_utf16().flat_map(u16::to_le_bytes).collect()),
        bytes("Latin-1", |good| [good.as_bytes(), b"# caf\xe9\n"].concat()),
    ])
    .await;
}

#[tokio::test]
async fn the_last_good_file_serves_while_the_file_is_not_a_configuration() {
    let bomb = |good: &str| {
        let level = |n: u32| format!("x{n}: &x{n} [{}]\n", vec![format!("*x{}", n - 1); 9].join(", "));
        format!("{good}\nx0: &x0 [lol]\n{}", (1..=12).map(level).collect::<String>())
    };
    the_last_good_file_serves_through(vec![
        text("an alias bomb", bomb, Says::Somewhere("alias")),
        text("100,000 lists in each other", |good| format!("{good}\nx: {}", "[".repeat(100_000)), Says::Somewhere("")),
        text(
            "the first half",
            |good| good[..good.find("servers:").expect("servers") + 12].to_owned(),
            Says::Somewhere(""),
        ),
        text("a key twice", |good| format!("{good}\nversion: 1\n"), Says::At("version", "version")),
        text(
            "an unknown key",
            |good| format!("{good}\n  \ntelemetrie: x\n"),
            Says::At("did you mean `telemetry`", "telemetrie"),
        ),
        text("an unknown word", |good| good.replace("kind: http", "kind: htp"), Says::At("htp", "htp")),
        text(
            "an unknown upstream",
            |good| good.replace("upstream: fleet", "upstream: fleat"),
            Says::At("fleat", "fleat"),
        ),
        text("a wrong unit", |good| format!("{good}\nserver: {{ drain: 30 }}\n"), Says::At("30s", "30 }")),
        text("a merge of a word", |good| format!("{good}\n<<: version\n"), Says::Somewhere("<<")),
        text("two documents", |good| format!("{good}\n---\n{good}"), Says::Somewhere("")),
        text("a tab", |good| format!("{good}\nserver:\n\tdrain: 30s\n"), Says::Somewhere("")),
        text("a list instead of a mapping", |_| "- version: 1\n".to_owned(), Says::Somewhere("")),
    ])
    .await;
}

#[tokio::test]
async fn a_change_that_needs_a_restart_is_refused_by_name_and_nothing_of_its_file_is_in_force() {
    let servers = [Small::named("a").await, Small::named("b").await];
    let proxy = proxy(http_yaml(&[servers[0].url()], "", "")).await;
    let admin = admin_of(&proxy);
    let listeners = "listeners: [{ address: \"127.0.0.1:0\" }]";
    let admin_block = "admin: { address: \"127.0.0.1:0\" }";
    let changes = [
        ("admin.address", admin_block, "admin: { address: \"127.0.0.2:0\" }"),
        ("server.threads", listeners, "server: { threads: 7 }\nlisteners: [{ address: \"127.0.0.1:0\" }]"),
        ("server.temp_dir", listeners, "server: { temp_dir: /tmp }\nlisteners: [{ address: \"127.0.0.1:0\" }]"),
    ];
    for (name, before, after) in changes {
        let text = complete(&http_yaml(&[servers[1].url()], "", ""));
        assert!(text.contains(before), "{text}");
        replace(&proxy.file, &text.replace(before, after));
        eventually(&format!("{name} is named"), || async {
            let health = config_health(admin).await;
            health["in_force"] == false && health["error"].as_str().is_some_and(|error| error.contains(name))
        })
        .await;
        let error = config_health(admin).await["error"].to_string();
        assert!(error.contains("restart"), "{error}");
        assert_eq!(who(proxy.address()).await, "a", "{name}");
    }
    assert_eq!(reloads(&proxy, "applied").await, 0.0);
    proxy.rewrite(&http_yaml(&[servers[1].url()], "", ""));
    goes_to(proxy.address(), "b").await;
    eventually("in force", || async { config_health(admin).await["in_force"] == true }).await;
}
