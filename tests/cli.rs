//! The command line as a user and a script meet it: what each verb says, and with which code it ends.

mod support;

use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Command;

use arriero::demo::{Host, HostConfig, RawUpstream, Script, Step};
use rustix::process::Signal;
use serde_json::Value;
use support::fleet::{Small, send};
use support::process::{Ended, Program, arriero, complete, finish};
use support::wire::{Chunk, H1, get};
use support::{eventually, http_yaml};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

fn folder() -> tempfile::TempDir {
    tempfile::tempdir().expect("a folder")
}

/// Runs the program in a folder to its end.
async fn run(arguments: &[&str], folder: &Path) -> Ended {
    finish(arriero(arguments, folder)).await
}

/// `arriero check` of a text, in a file `a.yaml`.
async fn check(text: &str, more: &[&str]) -> Ended {
    let folder = folder();
    fs::write(folder.path().join("a.yaml"), text).expect("written");
    run(&[&["check", "-c", "a.yaml"], more].concat(), folder.path()).await
}

fn good() -> String {
    complete(&http_yaml(&["http://127.0.0.1:9".to_owned()], "", ""))
}

#[tokio::test]
async fn the_version_is_that_of_the_package() {
    let ended = run(&["--version"], folder().path()).await;
    assert_eq!(ended.code, Some(0));
    // Behind it stands the commit, in builds that know it.
    assert_eq!(ended.out, format!("arriero {}\n", arriero::version::FULL));
    assert_eq!(ended.out.split_whitespace().nth(1), Some(env!("CARGO_PKG_VERSION")));
}

#[tokio::test]
async fn wrong_usage_ends_with_two_and_help_with_zero() {
    for wrong in [&["chek"][..], &["run", "--nonsense"], &[], &["run", "-c", "a.yaml", "--upstream", "http://a"]] {
        assert_eq!(run(wrong, folder().path()).await.code, Some(2), "{wrong:?}");
    }
    let help = run(&["--help"], folder().path()).await;
    assert_eq!(help.code, Some(0));
    for verb in ["run", "demo", "check", "init", "import", "schema", "reload", "health"] {
        assert!(help.out.contains(verb), "{verb}");
        assert_eq!(run(&[verb, "--help"], folder().path()).await.code, Some(0), "{verb}");
    }
}

#[tokio::test]
async fn a_valid_file_passes_the_check_with_a_summary() {
    let ended = check(&good(), &[]).await;
    assert_eq!((ended.code, ended.err.as_str()), (Some(0), ""), "{ended:?}");
    assert!(ended.out.contains("OK") && ended.out.contains("1 routes"), "{ended:?}");
}

#[tokio::test]
async fn all_errors_of_a_file_are_told_at_once_each_with_its_place() {
    let text = good()
        .replace("    upstream: fleet", "    upstream: fleat\n    timeouts: { read: 30 }")
        .replace("\"http://127.0.0.1:9\"", "ftp://a");
    let text = format!("{text}\nserver: {{ threads: 0 }}\ntelemetri: 1\n");
    let ended = check(&text, &[]).await;
    assert_eq!((ended.code, ended.out.as_str()), (Some(1), ""), "{ended:?}");
    for word in ["fleat", "read: 30", "ftp://a", "threads: 0", "telemetri:"] {
        let number = text.lines().position(|line| line.contains(word)).expect("it stands there") + 1;
        assert!(
            ended.err.contains(&format!("a.yaml:{number}:")),
            "`{word}` in line {number} is not told:\n{}",
            ended.err
        );
    }
    assert!(ended.err.contains("error[E"), "errors have codes: {}", ended.err);
    assert!(ended.err.contains("`fleet`") && ended.err.contains("`telemetry`"), "hints: {}", ended.err);
}

#[tokio::test]
async fn errors_as_json_have_a_code_a_line_and_a_column() {
    let text = good().replace("kind: http", "kind: htp");
    let ended = check(&text, &["--format", "json"]).await;
    assert_eq!(ended.code, Some(1));
    let problems: Vec<Value> = serde_json::from_str(&ended.out).expect("a JSON array");
    let line = text.lines().position(|line| line.contains("htp")).expect("there") + 1;
    let found = problems.iter().find(|problem| problem["line"] == line).unwrap_or_else(|| panic!("{problems:#?}"));
    assert!(found["code"].as_str().is_some_and(|code| code.starts_with('E')), "{found:#}");
    assert_eq!(found["column"], "    kind: ".len() + 1, "{found:#}");
    let none = check(&good(), &["--format", "json"]).await;
    assert_eq!((none.code, none.out.trim()), (Some(0), "[]"));
}

#[tokio::test]
async fn warnings_fail_only_a_strict_check() {
    let text = good()
        .replace("upstreams:\n", "upstreams:\n  spare: { kind: http, servers: [{ url: \"http://127.0.0.1:9\" }] }\n");
    let lax = check(&text, &[]).await;
    assert!(lax.code == Some(0) && lax.err.contains("warning") && lax.err.contains("spare"), "{lax:?}");
    let strict = check(&text, &["--strict"]).await;
    assert!(strict.code == Some(1) && strict.err.contains("spare"), "{strict:?}");
    assert_eq!(check(&good(), &["--strict"]).await.code, Some(0));
}

#[tokio::test]
async fn a_file_that_is_not_there_fails_the_check_by_name() {
    let ended = run(&["check", "-c", "nowhere.yaml"], folder().path()).await;
    assert!(ended.code == Some(1) && ended.err.contains("nowhere.yaml"), "{ended:?}");
}

#[tokio::test]
async fn init_writes_a_valid_file_and_never_over_one_that_is_there() {
    let folder = folder();
    assert_eq!(run(&["init"], folder.path()).await.code, Some(0));
    let written = fs::read(folder.path().join("arriero.yaml")).expect("a file");
    let checked = run(&["check", "--strict"], folder.path()).await;
    assert_eq!(checked.code, Some(0), "{checked:?}");
    let again = run(&["init"], folder.path()).await;
    assert!(again.code == Some(1) && again.err.contains("arriero.yaml"), "{again:?}");
    assert_eq!(fs::read(folder.path().join("arriero.yaml")).expect("a file"), written);
    assert_eq!(run(&["init", "-o", "-"], folder.path()).await.out.as_bytes(), written);
}

#[tokio::test]
async fn the_schema_is_the_one_that_is_checked_in() {
    let ended = run(&["schema"], folder().path()).await;
    assert_eq!(ended.code, Some(0));
    let file = fs::read_to_string(Path::new(ROOT).join("conf/schema.json")).expect("a file");
    assert!(ended.out == file, "conf/schema.json is not what `arriero schema` prints");
}

#[tokio::test]
async fn every_configuration_that_we_ship_passes_the_check() {
    let mut folders = vec![PathBuf::from(ROOT).join("conf"), PathBuf::from(ROOT).join("examples")];
    let mut checked = 0;
    while let Some(folder) = folders.pop() {
        for path in fs::read_dir(&folder).expect("a folder").map(|entry| entry.expect("an entry").path()) {
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "yaml" || extension == "yml")
                && fs::read_to_string(&path).expect("a text").lines().any(|line| line == "upstreams:")
            {
                // Nobody commits a secret: one that reads `secret_file` is checked with another.
                let text = fs::read_to_string(&path).expect("a text");
                let secrets = tempfile::tempdir().expect("a folder");
                let mut checked_path = path.clone();
                if text.contains("secret_file: /run/secrets/") {
                    checked_path = secrets.path().join("arriero.yaml");
                    let secret = secrets.path().join("secret");
                    fs::write(&secret, "a secret of thirty-two characters").expect("written");
                    let lines = text.lines().map(|line| match line.split_once("secret_file: ") {
                        Some((before, _)) => format!("{before}secret_file: {}\n", secret.display()),
                        None => format!("{line}\n"),
                    });
                    fs::write(&checked_path, lines.collect::<String>()).expect("written");
                }
                let mut place = PathBuf::from(ROOT);
                if text.contains("keys_file: ./keys.yaml") {
                    // `arriero key new` writes it, in the folder where it is run.
                    place = secrets.path().to_path_buf();
                    fs::write(place.join("keys.yaml"), "keys: []\n").expect("written");
                }
                let file = checked_path.to_str().expect("text");
                let ended = run(&["check", "--strict", "-c", file], &place).await;
                assert_eq!(ended.code, Some(0), "{}: {}", path.display(), ended.err);
                checked += 1;
            }
        }
    }
    assert!(checked >= 4, "only {checked} found");
}

#[tokio::test]
async fn a_run_with_an_invalid_file_ends_with_the_error() {
    let folder = folder();
    fs::write(folder.path().join("arriero.yaml"), good().replace("kind: http", "kind: htp")).expect("written");
    let ended = run(&["run"], folder.path()).await;
    assert!(ended.code == Some(1) && ended.err.contains("arriero.yaml:7:11"), "{ended:?}");
    let missing = run(&["run", "-c", "nowhere.yaml"], folder.path()).await;
    assert!(missing.code == Some(1) && missing.err.contains("nowhere.yaml"), "{missing:?}");
}

#[tokio::test]
async fn a_run_whose_port_is_taken_ends_with_the_address_and_the_key() {
    let holder = TcpListener::bind("127.0.0.1:0").expect("a socket");
    let taken = holder.local_addr().expect("an address").to_string();
    for (key, block) in [
        ("listeners[0].address", "listeners: [{ address: \"127.0.0.1:0\" }]"),
        ("admin.address", "admin: { address: \"127.0.0.1:0\" }"),
    ] {
        let folder = folder();
        let text = good();
        assert!(text.contains(block), "{text}");
        fs::write(folder.path().join("arriero.yaml"), text.replace(block, &block.replace("127.0.0.1:0", &taken)))
            .expect("written");
        let ended = run(&["run"], folder.path()).await;
        assert_eq!(ended.code, Some(1), "{ended:?}");
        assert!(ended.err.contains(&taken) && ended.err.contains(key), "{ended:?}");
    }
}

#[tokio::test]
async fn a_run_with_nothing_to_serve_says_what_to_do() {
    let ended = run(&["run"], folder().path()).await;
    assert_eq!(ended.code, Some(1), "{ended:?}");
    for word in ["arriero.yaml", "OLLAMA_HOSTS", "arriero init", "--upstream", "arriero demo"] {
        assert!(ended.err.contains(word), "`{word}`: {}", ended.err);
    }
}

async fn models(address: SocketAddr) -> Vec<String> {
    let answer = send(address, "GET", "/api/tags", "").await;
    let tags: Value = serde_json::from_slice(&answer.body).expect("JSON");
    let names =
        tags["models"].as_array().expect("models").iter().map(|model| model["name"].as_str().unwrap_or_default());
    names.map(str::to_owned).collect()
}

#[tokio::test]
async fn servers_named_on_the_command_line_or_in_the_environment_need_no_file() {
    let one = Host::start(HostConfig::new("one").small_model("llava:7b")).await.expect("a host");
    let two = Host::start(HostConfig::new("two").small_model("mistral:7b")).await.expect("a host");
    let (here, urls) = (folder(), [one.url(), two.url()]);
    let free = ["--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"];
    let by_name = [&["run"], &free[..], &["--upstream", &urls[0], "--upstream", &urls[1]]].concat();
    let by_hosts = ("OLLAMA_HOSTS", format!("{},{}", one.address(), urls[1]));
    for (arguments, variable, wanted) in [
        (&by_name[..], None, &["llava:7b", "mistral:7b"][..]),
        (&by_name[..5], Some(by_hosts), &["llava:7b", "mistral:7b"]),
        (&by_name[..5], Some(("OLLAMA_HOST", one.address().to_string())), &["llava:7b"]),
    ] {
        let mut command = arriero(arguments, here.path());
        command.envs(variable);
        let program = Program::serving(command).await;
        let mut found = models(program.address()).await;
        found.sort();
        assert_eq!(found, wanted, "{arguments:?}");
    }
}

#[tokio::test]
async fn the_demo_answers_the_three_lines_that_it_tells_to_try() {
    let mut demo =
        Program::spawn(arriero(&["demo", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"], folder().path()));
    eventually("three lines to try", || async {
        demo.err.text().matches("\n  curl ").count() == 3 && demo.err.text().ends_with('\n')
    })
    .await;
    let text = demo.err.text();
    let wanted = [("/api/tags", "llama3.2:3b"), ("/api/chat", "\"done\":true"), ("/v1/models", "\"object\":\"list\"")];
    for (line, (path, answer)) in text.lines().filter(|line| line.starts_with("  curl ")).zip(wanted) {
        assert!(line.contains(path), "{line}");
        let line = line.replace("curl ", "curl -sS --fail --max-time 30 ");
        let done = Command::new("sh").args(["-c", &line]).output().expect("a shell");
        let told = String::from_utf8_lossy(&done.stdout);
        assert!(
            done.status.success() && told.contains(answer),
            "{line}\n{told}{}",
            String::from_utf8_lossy(&done.stderr)
        );
    }
    demo.signal(Signal::INT);
    assert_eq!(demo.ended().await.code, Some(0));
}

#[tokio::test]
async fn health_tells_by_its_exit_code_ready_not_ready_and_not_there() {
    let (folder, server) = (folder(), Small::named("a").await);
    let file = folder.path().join("arriero.yaml");
    let admin = format!("admin: {{ address: \"unix:{}\" }}", folder.path().join("admin.sock").display());
    let check = "health: { active: { path: /, interval: 50ms, timeout: 10s, unhealthy: 1, healthy: 1 } }";
    let text = complete(&http_yaml(&[server.url()], "", check)).replace("admin: { address: \"127.0.0.1:0\" }", &admin);
    fs::write(&file, text).expect("written");
    let health = || run(&["health"], folder.path());
    let nobody = health().await;
    assert!(nobody.code == Some(4) && nobody.err.contains("admin.sock"), "{nobody:?}");
    let program = Program::run(&file).await;
    let ready = health().await;
    assert_eq!((ready.code, ready.err.as_str()), (Some(0), ""), "{ready:?}");
    drop(server);
    eventually("no server is up", || async { health().await.code == Some(1) }).await;
    drop(program);
    assert_eq!(health().await.code, Some(4));
}

#[tokio::test]
async fn a_file_without_servers_is_enough_and_ready() {
    let folder = folder();
    let file = folder.path().join("arriero.yaml");
    let text = "routes: [{ name: hello, match: { path: / }, respond: { status: 200, body: hello } }]\n";
    fs::write(&file, complete(text)).expect("written");
    let program = Program::run(&file).await;
    assert_eq!(send(program.address(), "GET", "/", "").await.text(), "hello");
    for path in ["/health/ready", "/health"] {
        let answer = send(program.admin(), "GET", path, "").await;
        assert_eq!(answer.head.status, 200, "{path}: {}", answer.text());
    }
}

/// A program with a stream in flight that waits for the server's gate, and the client that reads it.
async fn with_a_stream() -> (Program, RawUpstream, H1, tempfile::TempDir) {
    let head = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\none\r\n";
    let steps =
        vec![Step::ReadRequest, Step::Write(head.into()), Step::Gate, Step::Write("3\r\ntwo\r\n0\r\n\r\n".into())];
    let server = RawUpstream::start(Script::new(steps)).await.expect("a server");
    server.gate().close();
    let folder = folder();
    fs::write(folder.path().join("arriero.yaml"), complete(&http_yaml(&[server.url()], "", ""))).expect("written");
    let program = Program::run(&folder.path().join("arriero.yaml")).await;
    let mut client = H1::connect(program.address()).await;
    client.send(get("/stream")).await;
    assert_eq!(client.reader.head().await.status, 200);
    assert_eq!(client.reader.chunk().await, Chunk::Data(b"one".to_vec()));
    (program, server, client, folder)
}

async fn refuses_connections(address: SocketAddr) {
    eventually("new connections are refused", || async { tokio::net::TcpStream::connect(address).await.is_err() })
        .await;
}

#[tokio::test]
async fn a_term_signal_lets_streams_finish_and_refuses_new_connections() {
    for signal in [Signal::TERM, Signal::INT] {
        let (mut program, server, mut client, _folder) = with_a_stream().await;
        let (address, admin) = (program.address(), program.admin());
        program.signal(signal);
        refuses_connections(address).await;
        let ready = send(admin, "GET", "/health/ready", "").await;
        assert!(ready.head.status == 503 && ready.text().contains("stopping"), "{}", ready.text());
        assert!(program.runs());
        server.gate().open();
        assert_eq!(client.reader.chunk().await, Chunk::Data(b"two".to_vec()));
        assert_eq!(client.reader.chunk().await, Chunk::End);
        let ended = program.ended().await;
        assert_eq!(ended.code, Some(0), "{ended:?}");
    }
}

#[tokio::test]
async fn a_term_signal_ends_an_idle_program_although_clients_keep_their_connections() {
    let (server, folder) = (Small::named("a").await, folder());
    fs::write(folder.path().join("arriero.yaml"), complete(&http_yaml(&[server.url()], "", ""))).expect("written");
    let mut program = Program::run(&folder.path().join("arriero.yaml")).await;
    let mut idle = H1::connect(program.address()).await;
    assert_eq!(idle.ask(get("/")).await.head.status, 200);
    let _silent = H1::connect(program.address()).await;
    program.signal(Signal::TERM);
    assert_eq!(program.ended().await.code, Some(0));
    assert_eq!(idle.reader.rest().await, b"");
}

#[tokio::test]
async fn a_second_term_signal_ends_at_once_with_three() {
    let (mut program, _server, mut client, _folder) = with_a_stream().await;
    let address = program.address();
    program.signal(Signal::TERM);
    refuses_connections(address).await;
    program.signal(Signal::TERM);
    assert_eq!(program.ended().await.code, Some(3));
    assert_eq!(client.reader.chunk().await, Chunk::Cut);
}

#[tokio::test]
async fn a_drain_that_takes_too_long_ends_with_three() {
    let (mut program, _server, mut client, folder) = with_a_stream().await;
    let file = folder.path().join("arriero.yaml");
    let text = fs::read_to_string(&file).expect("a text");
    fs::write(&file, format!("{text}\nserver: {{ drain: 100ms }}\n")).expect("written");
    let reloaded = run(&["reload", "--admin", &program.admin().to_string()], folder.path()).await;
    assert_eq!(reloaded.code, Some(0), "{reloaded:?}");
    program.signal(Signal::TERM);
    assert_eq!(program.ended().await.code, Some(3));
    assert_eq!(client.reader.chunk().await, Chunk::Cut);
}
