//! The scan against a second reader: whatever a body looks like and however it is cut, if the scan lets it pass to
//! its end, then Go reads the same model, the same `stream` and no larger option out of it. `PROPTEST_CASES` makes
//! the number of bodies larger; `fuzz/` does the same with a fuzzer's cunning.

#[path = "support/go_json.rs"]
mod go_json;
#[path = "support/scan_check.rs"]
mod scan_check;

use std::cell::Cell;

use arriero::ollama::scan::Want;
use go_json::Request;
use proptest::prelude::*;
use proptest::sample::select;
use proptest::test_runner::TestRunner;

/// Keys that mean something, and keys that only look so.
const KEYS: &[&str] = &[
    "model",
    "model",
    "model",
    "Model",
    "MODEL",
    r"mod\u0065l",
    r"\u006dodel",
    "m\u{f6}del",
    "model ",
    "models",
    "",
    "name",
    "NAME",
    "source",
    "\u{17f}ource",
    r"\u017fource",
    "stream",
    "\u{17f}tream",
    "keep_alive",
    "\u{212a}eep_alive",
    r"\u212aeep_alive",
    "options",
    "Option\u{17f}",
    "messages",
    "prompt",
    "a",
    r"\\model",
    r"a\",
    "b",
    r"x\u12",
    "\u{fffd}",
];

/// Values, as they are written.
const VALUES: &[&str] = &[
    r#""a""#,
    r#""a""#,
    r#""b:7b""#,
    r#""""#,
    r#"" a ""#,
    r#""\u0061""#,
    r#""a\n""#,
    r#""\ud83e\udd99""#,
    r#""\ud83e""#,
    r#""\ud83ex\udd99""#,
    "null",
    "true",
    "false",
    "0",
    "-1",
    "1.5e3",
    "01",
    "1e400",
    "0e400",
    "[]",
    "{}",
    r#"["model","b"]"#,
    r#"{"model":"c"}"#,
    r#"[{"model":"c","x":["}","{\"model\":"]}]"#,
    r#""\"model\":\"c\"""#,
    r#""10m""#,
    r#"{"num_ctx":4096}"#,
    r#"{"num_ctx":1,"stop":["a"],"num_ctx":2}"#,
    r#"{"Num_ctx":1,"num_predict":-1,"num_gpu":0}"#,
    r#"{"num_ctx":null}"#,
    "[1,2,3]",
    "[1,]",
    "{,}",
    "nul",
    "'a'",
    "\"\u{e9}\u{1f999}\"",
];

/// What is done to a body that was fine.
#[derive(Clone, Debug)]
enum Damage {
    Remove(usize, usize),
    Insert(usize, Vec<u8>),
    Repeat(usize, usize),
}

fn damage() -> impl Strategy<Value = Damage> {
    const PIECES: &[&[u8]] = &[
        b"\"",
        b"\\",
        b"{",
        b"}",
        b"[",
        b"]",
        b",",
        b":",
        b" ",
        b"\n",
        b"\0",
        b"\xff",
        b"\xc3",
        b"\xe2\x84\xaa",
        b"\xc5\xbf",
        b"\xef\xbb\xbf",
        b"\"model\":\"z\",",
        b",\"model\":\"z\"",
        b"\"MODEL\":\"z\",",
        b"//",
        b"/*",
        b"null",
        b"1",
        b"-",
        b"e",
        b"\\u",
        b"\\ud800",
        b"{\"model\":\"z\"}",
    ];
    prop_oneof![
        (any::<usize>(), 1usize..6).prop_map(|(at, length)| Damage::Remove(at, length)),
        (any::<usize>(), select(PIECES)).prop_map(|(at, piece)| Damage::Insert(at, piece.to_vec())),
        (any::<usize>(), any::<u8>()).prop_map(|(at, byte)| Damage::Insert(at, vec![byte])),
        (any::<usize>(), 1usize..30).prop_map(|(at, length)| Damage::Repeat(at, length)),
    ]
}

impl Damage {
    fn apply(&self, body: &mut Vec<u8>) {
        match self {
            Damage::Remove(at, length) => {
                let at = at % (body.len() + 1);
                body.drain(at..(at + length).min(body.len()));
            }
            Damage::Insert(at, bytes) => {
                let at = at % (body.len() + 1);
                body.splice(at..at, bytes.iter().copied());
            }
            Damage::Repeat(at, length) => {
                let at = at % (body.len() + 1);
                let again = body[at..(at + length).min(body.len())].to_vec();
                body.splice(at..at, again);
            }
        }
    }
}

fn body() -> impl Strategy<Value = Vec<u8>> {
    const FINE: &[(&str, &[&str])] = &[
        ("model", &["\"a\"", "\"B:7b\"", "\"\"", r#""\u0061""#]),
        ("Model", &["\"c\""]),
        ("name", &["\"n\"", "\"\"", "null"]),
        ("source", &["\"s\""]),
        ("stream", &["true", "false", "null"]),
        ("keep_alive", &["\"10m\"", "-1", "0", "null"]),
        ("options", &[r#"{"num_ctx":4096,"stop":["a",{}],"num_gpu":0}"#, "{\"num_predict\":-1}", "{}", "null"]),
        ("messages", &[r#"[{"role":"user","model":"x","images":["AAAA"]}]"#, "\"\u{1f999}\"", "1.5e-7"]),
    ];
    let fine = select(FINE).prop_flat_map(|(key, values)| (Just(key), select(values)));
    let any = (select(KEYS), select(VALUES));
    let field = (prop_oneof![4 => fine, 1 => any], select(&["", "", " ", "\r\n\t"][..]));
    let harm = prop_oneof![
        3 => Just(Vec::new()),
        2 => prop::collection::vec(damage(), 1..3),
    ];
    (prop::collection::vec(field, 0..5), harm).prop_map(|(fields, harm)| {
        let fields: Vec<_> = fields
            .iter()
            .map(|((key, value), space)| format!("{space}\"{key}\"{space}:{space}{value}{space}"))
            .collect();
        let mut body = format!("{{{}}}", fields.join(",")).into_bytes();
        harm.iter().for_each(|damage| damage.apply(&mut body));
        body
    })
}

#[test]
fn no_body_passes_with_another_model_than_go_reads() {
    let cases = std::env::var("PROPTEST_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(100_000);
    let mut runner = TestRunner::new(ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() });
    let (passed, refused, named) = (Cell::new(0_u32), Cell::new(0_u32), Cell::new(0_u32));
    let want = prop_oneof![
        1 => Just(Want::Model),
        2 => Just(Want::ModelOnly),
        1 => Just(Want::Source),
        1 => Just(Want::Create)
    ];
    let result = runner.run(&(want, body(), any::<u32>()), |(want, body, seed)| {
        let fine = scan_check::check(want, &body, seed).map_err(TestCaseError::fail)?;
        let counter = if fine { &passed } else { &refused };
        counter.set(counter.get() + 1);
        named.set(named.get() + u32::from(fine && scan_check::scanned(want, &body, seed).0.model().is_some()));
        Ok(())
    });
    if let Err(error) = result {
        panic!("{error}");
    }
    println!("passed {}, refused {}, with a model {}", passed.get(), refused.get(), named.get());
    // Else the test would say nothing.
    let (passed, refused, named) = (passed.get(), refused.get(), named.get());
    assert!(passed > cases / 10 && refused > cases / 10 && named > cases / 20, "{passed} {refused} {named}");
}

#[test]
fn the_second_reader_reads_as_go_was_measured_to_read() {
    let model = |body: &str| Request::read(body.as_bytes()).map(|request| request.model);
    assert_eq!(model(r#"{"model":"a","model":"b"}"#).as_deref(), Some("b"));
    assert_eq!(model(r#"{"model":"a","MODEL":"b"}"#).as_deref(), Some("b"));
    assert_eq!(model(r#"{"mod\u0065l":"a"}"#).as_deref(), Some("a"));
    assert_eq!(model(r#"{"model":"a","model":null}"#).as_deref(), Some("a"));
    assert_eq!(model(r#"{"model":"a"} and so on"#).as_deref(), Some("a"));
    assert_eq!(model(r#"{"model":"\ud800x"}"#).as_deref(), Some("\u{fffd}x"));
    assert_eq!(Request::read(b"{\"model\":\"\xff\"}").map(|request| request.model).as_deref(), Some("\u{fffd}"));
    assert_eq!(model("\u{feff}{}"), None);
    assert_eq!(model(r#"{"model":1}"#), None);
    assert_eq!(model(r#"{'model':'a'}"#), None);
    assert_eq!(Request::read("{\"\u{17f}tream\":true}".as_bytes()).and_then(|request| request.stream), Some(true));
}
