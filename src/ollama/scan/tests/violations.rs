//! The list of `reliability.md`, section 1e: what is refused, as soon as it is certain, and what is not.

use super::*;

/// The violation, and after how many bytes it was certain; `None` for a body that is fine to its end.
fn certain(want: Want, body: &[u8]) -> Option<(Violation, usize)> {
    let mut scan = ModelScan::new(want);
    for (at, byte) in body.iter().enumerate() {
        scan.push(std::slice::from_ref(byte));
        if let Some(violation) = scan.violation() {
            assert_eq!(scan.at_end(), Err(violation));
            return Some((violation, at + 1));
        }
    }
    scan.at_end().err().map(|violation| (violation, body.len()))
}

fn violation(body: impl AsRef<[u8]>) -> Option<Violation> {
    assert_same_at_every_split(Want::ModelOnly, body.as_ref());
    certain(Want::ModelOnly, body.as_ref()).map(|(violation, _)| violation)
}

/// Refused at the byte behind `known`, whatever follows.
fn refused_at(body: &str, known: &str, violation: Violation) {
    assert!(body.starts_with(known), "{body}");
    assert_eq!(certain(Want::ModelOnly, body.as_bytes()), Some((violation, known.len())), "{body}");
    assert_same_at_every_split(Want::ModelOnly, body.as_bytes());
}

#[test]
fn a_second_model_is_refused_when_its_key_ends() {
    let twice = Violation::Repeated(Key::Model);
    refused_at(r#"{"model":"a","model":"b"}"#, r#"{"model":"a","model""#, twice);
    refused_at(r#"{"model":"a","model":"a"}"#, r#"{"model":"a","model""#, twice);
    refused_at(r#"{"model":"a","MODEL":"b"}"#, r#"{"model":"a","MODEL""#, twice);
    refused_at(r#"{"Model":"a","model":"b"}"#, r#"{"Model":"a","model""#, twice);
    refused_at(r#"{"model":"a","mod\u0065l":"b"}"#, r#"{"model":"a","mod\u0065l""#, twice);
    refused_at(r#"{"model":"","model":"a"}"#, r#"{"model":"","model""#, twice);
    let image = "A".repeat(10_000);
    let first = format!(r#"{{"model":"a","messages":[{{"images":["{image}"],"model":"c"}}],"model""#);
    refused_at(&format!(r#"{first}:"b"}}"#), &first, twice);
}

#[test]
fn a_model_in_another_letter_case_alone_is_the_model() {
    for key in ["Model", "MODEL", r"mod\u0065l", r"\u004dODEL"] {
        let body = format!(r#"{{"{key}":"a"}}"#);
        assert_eq!(violation(&body), None, "{key}");
        assert_eq!(scan(Want::ModelOnly, body.as_bytes()).1.as_deref(), Some("a"), "{key}");
    }
    // Where Ollama looks at `name`, it is held to the same rule; where it does not, a chat may have ten of them.
    assert_eq!(certain(Want::ModelOnly, br#"{"name":"a","name":"b","model":"c"}"#), None);
    for body in [r#"{"name":"a","NAME":"b"}"#, r#"{"model":"c","name":"a","name":"b"}"#] {
        let found = certain(Want::Model, body.as_bytes()).map(|(violation, _)| violation);
        assert_eq!(found, Some(Violation::Repeated(Key::Name)), "{body}");
    }
    let found = certain(Want::Source, br#"{"source":"a","\u017fource":"b"}"#).map(|(violation, _)| violation);
    assert_eq!(found, Some(Violation::Repeated(Key::Source)));
    assert_eq!(certain(Want::Source, br#"{"model":"a","model":"b","source":"c"}"#), None);
}

#[test]
fn what_caps_and_answers_are_decided_from_stands_once() {
    for (one, other, key) in [
        (r#""stream":true"#, "\"\u{17f}tream\":false", Key::Stream),
        (r#""stream":null"#, r#""STREAM":false"#, Key::Stream),
        (r#""keep_alive":1"#, "\"\u{212a}eep_alive\":-1", Key::KeepAlive),
        (r#""keep_alive":1"#, r#""Keep_Alive":-1"#, Key::KeepAlive),
        (r#""options":{}"#, "\"option\u{17f}\":{\"num_ctx\":1}", Key::Options),
        (r#""options":null"#, r#""options":{"num_ctx":1}"#, Key::Options),
        (r#""max_tokens":1"#, "\"max_to\u{212a}en\u{17f}\":2", Key::MaxTokens),
    ] {
        let body = format!(r#"{{"model":"a",{one},{other}}}"#);
        assert_eq!(violation(&body), Some(Violation::Repeated(key)), "{body}");
    }
    for key in [Key::NumCtx, Key::NumPredict, Key::NumGpu] {
        let body = format!(r#"{{"options":{{"{key}":1,"stop":["{key}",{{}}],"{}":2}}}}"#, key.as_str().to_uppercase());
        assert_eq!(violation(&body), Some(Violation::Repeated(key)), "{body}");
    }
    // The same keys elsewhere are somebody else's.
    assert_eq!(violation(r#"{"a":{"num_ctx":1,"num_ctx":2,"model":"b","model":"c"},"num_ctx":1,"num_ctx":2}"#), None);
}

#[test]
fn a_name_is_a_string() {
    for value in ["null", "7", "-1", "true", "[\"a\"]", "{\"model\":\"a\"}"] {
        let body = format!(r#"{{"model":{value}}}"#);
        refused_at(&body, &body[..=r#"{"model":"#.len()], Violation::NotText(Key::Model));
    }
    assert_eq!(violation(r#"{"model":""}"#), None);
    assert_eq!(violation(r#"{"model":" a "}"#), None);
    assert_eq!(certain(Want::Model, br#"{"name":null,"model":"m"}"#), None);
    let found = certain(Want::Model, br#"{"name":["m"],"model":"m"}"#).map(|(violation, _)| violation);
    assert_eq!(found, Some(Violation::NotText(Key::Name)));
    let found = certain(Want::Source, br#"{"source":null}"#).map(|(violation, _)| violation);
    assert_eq!(found, Some(Violation::NotText(Key::Source)));
}

#[test]
fn a_name_has_no_character_that_no_model_has() {
    let unprintable = Violation::Unprintable(Key::Model);
    for written in [
        r"a\u0000",
        r"a\r\nX-Evil: 1",
        r"a\n",
        r"\ta",
        r"a\u007f",
        r"a\u0085",
        r"\ud800",
        r"a\udfff",
        r"\ud800\u0041",
        "\u{fffd}",
        r"\ufffd",
    ] {
        let known = format!(r#"{{"model":"{written}""#);
        refused_at(&format!("{known}}}"), &known, unprintable);
    }
    let long = "a".repeat(10 << 10);
    let known = format!(r#"{{"model":"{}"#, &long[..MAX_VALUE_BYTES + 1]);
    refused_at(&format!(r#"{{"model":"{long}"}}"#), &known, Violation::TooLong(Key::Model));
}

#[test]
fn bytes_that_are_not_utf8_are_refused_at_any_depth() {
    for bad in [
        &b"{\"model\":\"a\xff\"}"[..],
        b"{\"mod\xffel\":\"a\"}",
        b"{\"model\":\"a\",\"prompt\":\"\xff\"}",
        b"{\"model\":\"a\",\"m\":[{\"k\xc0\xaf\":1}]}",
        b"{\"m\":[{\"k\":[\"\xed\xa0\x80\"]}]}",
        b"{\"m\":\"\xe2\x82\"}",
        b"{\"m\":\"\xe2\x82\\n\"}",
        b"{\"m\":\"\xf4\x90\x80\x80\"}",
    ] {
        assert_eq!(violation(bad), Some(Violation::NotUtf8), "{}", String::from_utf8_lossy(bad));
    }
    assert_eq!(violation("{\"m\u{e4}\u{20ac}\":[\"\u{1f999}\u{fffd}\",\"\\ud800\"],\"model\":\"\u{e4}\"}"), None);
    // Outside a string it is not even JSON.
    assert_eq!(violation(b"{\"a\":\xc3\xa4}"), Some(Violation::Malformed));
}

#[test]
fn only_white_space_stands_around_the_object() {
    for mark in [&b"\xef\xbb\xbf{\"model\":\"a\"}"[..], b"\xff\xfe{\0", b"\xfe\xff\0{"] {
        assert_eq!(violation(mark), Some(Violation::ByteOrderMark));
    }
    assert_eq!(violation(" \t\r\n{\"model\":\"a\"} \t\r\n"), None);
    refused_at(r#"{"model":"a"}{"model":"b"}"#, r#"{"model":"a"}{"#, Violation::Trailing);
    refused_at("{\"model\":\"a\"}\n x", "{\"model\":\"a\"}\n x", Violation::Trailing);
    assert_eq!(violation("{}\0"), Some(Violation::Trailing));
    assert_eq!(violation("{},"), Some(Violation::Trailing));
    for body in ["[{\"model\":\"m\"}]", "\"model\"", "null", "42", "model=m", "--b\r\n", "'", "// c\n{}"] {
        assert_eq!(violation(body), Some(Violation::NotAnObject), "{body}");
    }
    for body in ["", " \r\n"] {
        assert_eq!(violation(body), Some(Violation::Empty), "{body:?}");
    }
}

#[test]
fn a_body_that_breaks_off_is_refused_at_its_end() {
    let body = r#"{"model":"a","n":[1,{"x":"\u00e4"}],"t":true}"#;
    for cut in 1..body.len() {
        assert_eq!(violation(&body[..cut]), Some(Violation::Truncated), "{}", &body[..cut]);
    }
    assert_eq!(violation(body), None);
}

#[test]
fn what_is_not_json_is_refused_at_any_depth() {
    for inner in [
        "{'model':'m'}",
        "{model:\"m\"}",
        "{\"a\":1,}",
        "[1,]",
        "[,1]",
        "[1 2]",
        "{,}",
        "{\"a\" \"b\"}",
        "{\"a\":}",
        "{\"a\"}",
        "{\"a\":1 \"b\":2}",
        "{1:2}",
        "[1}",
        "{\"a\":1]",
        "]",
        "}",
        "NaN",
        "Infinity",
        "-Infinity",
        "-",
        "01",
        "-01",
        "1.",
        ".5",
        "+1",
        "1e",
        "1e+",
        "0x10",
        "1_000",
        "tru",
        "truee",
        "True",
        "nul",
        "undefined",
        "/* c */ 1",
        "1 // c\n",
        "1 /* c */",
        "# c\n1",
        "'a'",
        "`a`",
        "\u{2028}1",
        "\u{a0}1",
        "\u{b}1",
        "(1)",
    ] {
        for body in [format!("{{\"a\":{inner}}}"), format!("{{\"a\":[[{inner}]],\"model\":\"m\"}}")] {
            let found = violation(&body);
            // An unpaired bracket may close ours, and what follows is then behind the object.
            let known = matches!(found, Some(Violation::Malformed | Violation::Trailing | Violation::Truncated));
            assert!(known, "{found:?}: {body}");
        }
    }
    for (inner, wanted) in [
        ("\"a\nb\"", Violation::ControlCharacter),
        ("\"a\0b\"", Violation::ControlCharacter),
        ("\"a\u{1f}b\"", Violation::ControlCharacter),
        (r#""\x41""#, Violation::BadEscape),
        (r#""\'""#, Violation::BadEscape),
        (r#""\u12G4""#, Violation::BadEscape),
        (r#""\u+123""#, Violation::BadEscape),
        (r#""\U0041""#, Violation::BadEscape),
        (
            r#""\
""#,
            Violation::BadEscape,
        ),
        ("1e400", Violation::HugeNumber),
        ("-1e400", Violation::HugeNumber),
    ] {
        for body in [
            format!("{{\"a\":{inner}}}"),
            format!("{{\"a\":[{{\"b\":{inner}}}]}}"),
            format!("{{\"model\":\"a\",\"options\":{{\"num_ctx\":{inner}}}}}"),
        ] {
            assert_eq!(violation(&body), Some(wanted), "{body}");
        }
    }
    for key in ["\"a\nb\"", r#""\x""#] {
        assert!(violation(format!("{{{key}:1}}")).is_some() && violation(format!("{{\"a\":{{{key}:1}}}}")).is_some());
    }
    let all = r#"{"a":[0,-0,-1.5e-7,1E+9,true,false,null,[],{},"",[[]],{"":{"b":[]}}], "model" : "m" }"#;
    assert_eq!(violation(all), None);
}

#[test]
fn nesting_ends_at_sixty_four() {
    let nested = |levels: usize, open: &str, close: &str| {
        format!(r#"{{"a":{}0{},"model":"m"}}"#, open.repeat(levels), close.repeat(levels))
    };
    for (open, close) in [("[", "]"), ("{\"b\":", "}")] {
        assert_eq!(violation(nested(63, open, close)), None);
        for levels in [64, 65, 128, 129] {
            assert_eq!(violation(nested(levels, open, close)), Some(Violation::TooDeep), "{levels}");
        }
        let deep = nested(10_001, open, close);
        assert_eq!(scan(Want::Model, deep.as_bytes()).0, Progress::TooDeep);
        assert_eq!(
            certain(Want::Model, deep.as_bytes()),
            Some((Violation::TooDeep, "{\"a\":".len() + 63 * open.len() + 1))
        );
    }
}

#[test]
fn bulk_is_only_bytes() {
    let escapes = format!(r#"{{"prompt":"{}","model":"m"}}"#, r"\\\u0041".repeat(200_000));
    let keys = format!(r#"{{{}"model":"m"}}"#, "\"k\":0,".repeat(300_000));
    let items = format!(r#"{{"context":[{}0],"model":"m"}}"#, "12345,".repeat(300_000));
    for body in [escapes, keys, items] {
        let mut scan = ModelScan::new(Want::ModelOnly);
        assert_eq!(scan.push(body.as_bytes()), Progress::Found);
        assert_eq!(scan.at_end(), Ok(()));
        assert_eq!(scan.model(), Some("m"));
    }
}

#[test]
fn a_violation_behind_the_model_is_told_though_the_model_is_found() {
    let mut scan = ModelScan::new(Want::ModelOnly);
    assert_eq!(scan.push(br#"{"model":"a","#), Progress::Found);
    assert_eq!(scan.violation(), None);
    assert_eq!(scan.push(br#""messages":[],"Model""#), Progress::Found);
    assert_eq!(scan.violation(), Some(Violation::Repeated(Key::Model)));
    assert_eq!(scan.push(br#":"b"}"#), Progress::Found);
    assert_eq!(scan.model(), Some("a"));
}

#[test]
fn each_violation_is_a_sentence_for_the_client() {
    for (violation, sentence) in [
        (Violation::Repeated(Key::Model), "the request body has the key `model` twice"),
        (Violation::NotText(Key::Source), "`source` in the request body is not a string"),
        (Violation::TooDeep, "the request body is nested deeper than 64 levels"),
    ] {
        assert_eq!(violation.to_string(), sentence);
    }
}
