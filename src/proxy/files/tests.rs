//! Tests of static files, on a real folder.

use std::fs;
use std::os::unix::fs::symlink;

use proptest::prelude::*;

use super::*;
use crate::routing::glob::Glob;

/// A folder `www` with files, and a secret beside it.
struct Site {
    folder: tempfile::TempDir,
}

impl Site {
    fn new() -> Self {
        let site = Self { folder: tempfile::tempdir().unwrap() };
        for (path, text) in [
            ("www/index.html", "<h1>home</h1>"),
            ("www/app.js", "let a = 1;"),
            ("www/docs/index.html", "docs"),
            ("www/a b.txt", "0123456789"),
            ("www/.git/config", "hidden"),
            ("www/.well-known/x.txt", "known"),
            ("www/empty", ""),
            ("secret.txt", "secret"),
        ] {
            let path = site.folder.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        site
    }

    fn files(&self) -> Files {
        Files {
            root: self.folder.path().join("www"),
            index: "index.html".to_owned(),
            fallback: None,
            cache_control: Some(HeaderValue::from_static("public, max-age=60")),
            immutable: vec![Glob::new("*.js")],
        }
    }

    fn write(&self, path: &str, text: &str) {
        fs::write(self.folder.path().join("www").join(path), text).unwrap();
    }

    fn link(&self, target: &str, path: &str) {
        symlink(target, self.folder.path().join("www").join(path)).unwrap();
    }
}

fn ask(files: &Files, path: &str, fields: &[(&'static str, &str)]) -> FileAnswer {
    ask_with(files, &Method::GET, path, fields)
}

fn ask_with(files: &Files, method: &Method, path: &str, fields: &[(&'static str, &str)]) -> FileAnswer {
    let headers = fields
        .iter()
        .map(|(name, value)| (header::HeaderName::from_static(name), HeaderValue::from_str(value).unwrap()))
        .collect();
    answer(files, &FileRequest { method, path, shown_path: path, query: None, headers: &headers })
}

fn body(answer: FileAnswer) -> String {
    let mut text = Vec::new();
    let Some(mut body) = answer.body else { return String::new() };
    while let Some(piece) = body.read().unwrap() {
        text.extend_from_slice(&piece);
    }
    String::from_utf8(text).unwrap()
}

fn field(answer: &FileAnswer, name: &str) -> String {
    answer.headers.get(name).map(|value| value.to_str().unwrap().to_owned()).unwrap_or_default()
}

#[test]
fn files_and_folders_are_served() {
    let site = Site::new();
    let files = site.files();
    let home = ask(&files, "/", &[]);
    assert_eq!((home.status, field(&home, "content-type").as_str()), (200, "text/html; charset=utf-8"));
    assert_eq!((field(&home, "content-length").as_str(), field(&home, "accept-ranges").as_str()), ("13", "bytes"));
    assert_eq!(field(&home, "cache-control"), "public, max-age=60");
    assert_eq!(body(home), "<h1>home</h1>");
    let script = ask(&files, "/app.js", &[]);
    assert_eq!(field(&script, "cache-control"), "public, max-age=31536000, immutable");
    assert!(field(&script, "content-type").starts_with("text/javascript"));
    assert_eq!(body(ask(&files, "/docs/", &[])), "docs");
    assert_eq!(body(ask(&files, "/a%20b.txt", &[])), "0123456789");
    assert_eq!(body(ask(&files, "/.well-known/x.txt", &[])), "known");
    let empty = ask(&files, "/empty", &[]);
    assert!(empty.status == 200 && empty.body.is_none() && field(&empty, "content-length") == "0");
}

#[test]
fn a_folder_without_a_slash_is_a_redirect_on_this_host() {
    let site = Site::new();
    let headers = HeaderMap::new();
    let ask = |shown_path| {
        let request =
            FileRequest { method: &Method::GET, path: "/docs", shown_path, query: Some("a=1"), headers: &headers };
        let answer = answer(&site.files(), &request);
        (answer.status, field(&answer, "location"))
    };
    assert_eq!(ask("/app/docs"), (301, "/app/docs/?a=1".to_owned()));
    assert_eq!(ask("//evil.example/docs"), (301, "/evil.example/docs/?a=1".to_owned()));
}

#[test]
fn only_get_and_head_are_answered() {
    let site = Site::new();
    let head = ask_with(&site.files(), &Method::HEAD, "/app.js", &[("range", "bytes=0-1")]);
    assert!(head.status == 200 && head.body.is_none() && field(&head, "content-length") == "10");
    for method in [Method::POST, Method::PUT, Method::DELETE, Method::OPTIONS] {
        let refused = ask_with(&site.files(), &method, "/app.js", &[]);
        assert_eq!((refused.status, refused.reason), (405, Reason::MethodNotAllowed));
        assert_eq!(field(&refused, "allow"), "GET, HEAD");
    }
}

#[test]
fn nothing_outside_of_the_root_and_nothing_hidden_is_served() {
    let site = Site::new();
    site.link("../secret.txt", "out.txt");
    site.link("/etc/passwd", "passwd");
    site.link("..", "up");
    site.link("app.js", "alias.js");
    site.link("loop", "loop");
    let fifo = site.folder.path().join("www/fifo");
    assert!(std::process::Command::new("mkfifo").arg(&fifo).status().unwrap().success());
    let files = site.files();
    for path in [
        "/../secret.txt",
        "/%2e%2e/secret.txt",
        "/..%2fsecret.txt",
        "/docs/..%2f..%2fsecret.txt",
        "/docs/%2e%2e/app.js",
        "/out.txt",
        "/passwd",
        "/up/secret.txt",
        "/up",
        "/loop",
        "/fifo",
        "/.git/config",
        "/docs/.well-known/x",
        "/app.js%00",
        "/app.js/",
        "/app.js/x",
        "//app.js",
        "/docs//index.html",
        "/%ff",
        "/no",
        "app.js",
        "",
    ] {
        let refused = ask(&files, path, &[]);
        assert_eq!((refused.status, refused.reason), (404, Reason::FileNotFound), "{path}");
        assert!(refused.body.is_none() && refused.headers.is_empty(), "{path}");
    }
    assert_eq!(body(ask(&files, "/alias.js", &[])), "let a = 1;");
    let gone = Files { root: site.folder.path().join("gone"), ..site.files() };
    assert_eq!(ask(&gone, "/", &[]).status, 404);
}

#[test]
fn the_fallback_answers_for_what_is_not_there_and_never_as_immutable() {
    let site = Site::new();
    let files = Files { fallback: Some("/index.html".to_owned()), ..site.files() };
    for path in ["/users/7", "/no.js", "/..%2fx", "/.git/config"] {
        let found = ask(&files, path, &[]);
        assert_eq!((found.status, field(&found, "cache-control").as_str()), (200, "public, max-age=60"), "{path}");
        assert_eq!(body(found), "<h1>home</h1>");
    }
    assert_eq!(body(ask(&files, "/app.js", &[])), "let a = 1;");
}

#[test]
fn conditions_spare_the_body() {
    let site = Site::new();
    let files = site.files();
    let first = ask(&files, "/app.js", &[]);
    let (tag, date) = (field(&first, "etag"), field(&first, "last-modified"));
    let weak = format!("\"x\", W/{tag}");
    for condition in [
        ("if-none-match", tag.as_str()),
        ("if-none-match", "*"),
        ("if-none-match", &weak),
        ("if-modified-since", &date),
    ] {
        let unchanged = ask(&files, "/app.js", &[condition]);
        assert_eq!((unchanged.status, field(&unchanged, "etag")), (304, tag.clone()), "{condition:?}");
        assert!(unchanged.body.is_none() && field(&unchanged, "content-length").is_empty());
        assert!(!field(&unchanged, "cache-control").is_empty());
    }
    let other = ask(&files, "/app.js", &[("if-none-match", "\"x\""), ("if-modified-since", &date)]);
    assert_eq!(other.status, 200);
    assert_eq!(ask(&files, "/app.js", &[("if-modified-since", "Thu, 01 Jan 1970 00:00:00 GMT")]).status, 200);
    site.write("app.js", "let a = 2; // longer");
    assert_ne!(field(&ask(&files, "/app.js", &[]), "etag"), tag);
}

#[test]
fn one_range_is_a_part_of_the_file() {
    let site = Site::new();
    let files = site.files();
    let ask = |fields: &[(&'static str, &str)]| ask(&files, "/a%20b.txt", fields);
    let part = ask(&[("range", "bytes=2-4")]);
    assert_eq!((part.status, field(&part, "content-range").as_str()), (206, "bytes 2-4/10"));
    assert_eq!((field(&part, "content-length").as_str(), body(part).as_str()), ("3", "234"));
    assert_eq!(body(ask(&[("range", "bytes=-2")])), "89");
    let outside = ask(&[("range", "bytes=10-")]);
    assert_eq!((outside.status, field(&outside, "content-range").as_str()), (416, "bytes */10"));
    assert!(outside.body.is_none());
    let tag = field(&ask(&[]), "etag");
    let date = field(&ask(&[]), "last-modified");
    assert_eq!(ask(&[("range", "bytes=2-4"), ("if-range", &tag)]).status, 206);
    assert_eq!(ask(&[("range", "bytes=2-4"), ("if-range", &date)]).status, 206);
    for other in ["\"x\"", &format!("W/{tag}"), "Thu, 01 Jan 1970 00:00:00 GMT", "x"] {
        assert_eq!(ask(&[("range", "bytes=2-4"), ("if-range", other)]).status, 200, "{other}");
    }
    assert_eq!(ask(&[("range", "bytes=0-1,3-4")]).status, 200);
}

#[test]
fn a_file_beside_it_in_a_coding_that_the_client_takes_is_sent() {
    let site = Site::new();
    site.write("app.js.br", "brotli");
    site.write("app.js.gz", "gzip");
    let files = site.files();
    let ask = |fields: &[(&'static str, &str)]| ask(&files, "/app.js", fields);
    let coded = ask(&[("accept-encoding", "gzip, br, zstd")]);
    assert_eq!((field(&coded, "content-encoding").as_str(), field(&coded, "vary").as_str()), ("br", "Accept-Encoding"));
    assert!(field(&coded, "content-type").starts_with("text/javascript"));
    let tag = field(&coded, "etag");
    assert_eq!(body(coded), "brotli");
    assert_eq!(body(ask(&[("accept-encoding", "gzip")])), "gzip");
    let plain = ask(&[]);
    assert_eq!((field(&plain, "content-encoding").as_str(), field(&plain, "vary").as_str()), ("", "Accept-Encoding"));
    assert_ne!(field(&plain, "etag"), tag);
    assert_eq!(body(plain), "let a = 1;");
    assert_eq!(ask(&[("accept-encoding", "br"), ("if-none-match", &tag)]).status, 304);
    assert_eq!(body(ask(&[("accept-encoding", "br"), ("range", "bytes=0-2")])), "let");
}

#[test]
fn a_body_comes_in_pieces_and_a_file_that_shrinks_is_an_error() {
    let site = Site::new();
    let text = "x".repeat(150_000);
    site.write("large", &text);
    let files = site.files();
    let mut large = ask(&files, "/large", &[]).body.unwrap();
    assert_eq!(large.left(), 150_000);
    assert_eq!(large.read().unwrap().unwrap().len(), PIECE);
    site.write("large", "short");
    assert_eq!(large.read().unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    site.write("large", &text);
    assert_eq!(body(ask(&files, "/large", &[])), text);
}

proptest! {
    #[test]
    fn no_path_reaches_the_secret(path in "(/|\\.\\.?|%2e|%2f|%5c|%00|www|docs|up|secret.txt|out){0,8}") {
        let site = Site::new();
        site.link("../secret.txt", "out");
        site.link("..", "up");
        for path in [path.clone(), format!("/{path}")] {
            let found = ask(&site.files(), &path, &[]);
            prop_assert_ne!(body(found), "secret");
        }
    }
}
