mod memory;
mod settings;

mod violations;

use super::string::is_key;
use super::*;
use proptest::prelude::*;
use serde_json::{Map, Value, json};

/// The whole body at once.
fn scan(want: Want, body: &[u8]) -> (Progress, Option<String>, Option<bool>) {
    let mut scan = ModelScan::new(want);
    let progress = scan.push(body);
    let scanned = scan.finish();
    (progress, scanned.model, scanned.stream)
}

fn found(body: &str) -> Option<String> {
    let (progress, model, _) = scan(Want::Model, body.as_bytes());
    assert!(matches!(progress, Progress::Found | Progress::End), "{progress:?} for {body}");
    model
}

/// All that a scan says of a body in these pieces.
fn verdict(want: Want, pieces: &[&[u8]]) -> (Progress, Option<Violation>, Result<(), Violation>, String, Scanned) {
    let mut scan = ModelScan::new(want);
    for piece in pieces {
        scan.push(piece);
    }
    let (progress, violation, end) = (scan.progress(), scan.violation(), scan.at_end());
    let settings = format!("{:?}", scan.settings().collect::<Vec<_>>());
    (progress, violation, end, settings, scan.finish())
}

/// The body in every two pieces, and byte by byte, must come to the same.
fn assert_same_at_every_split(want: Want, body: &[u8]) {
    let expected = verdict(want, &[body]);
    for split in 0..=body.len() {
        assert_eq!(verdict(want, &[&body[..split], &body[split..]]), expected, "cut at {split}");
    }
    let bytes: Vec<&[u8]> = body.chunks(1).collect();
    assert_eq!(verdict(want, &bytes), expected);
}

#[test]
fn the_model_is_known_before_the_body_has_ended() {
    let mut scan = ModelScan::new(Want::Model);
    assert_eq!(scan.push(br#"{"model":"llava:13b""#), Progress::Found);
    assert_eq!(scan.model(), Some("llava:13b"));
    assert_eq!(scan.push(br#","stream":false,"messages":["#), Progress::Found);
    assert_eq!(scan.stream(), Some(false));
    assert!(!scan.is_closed());
}

#[test]
fn the_model_is_found_behind_a_large_image() {
    let image = "iVBORw0KGgo".repeat(40_000);
    let body = format!(r#"{{"messages":[{{"role":"user","images":["{image}"]}}],"model":"llava","stream":true}}"#);
    assert_eq!(scan(Want::Model, body.as_bytes()), (Progress::Found, Some("llava".into()), Some(true)));
}

#[test]
fn an_empty_model_leaves_it_to_the_name() {
    // The `ollama` CLI's own /api/show.
    assert_eq!(found(r#"{"model":"","system":"","name":"m:1"}"#).as_deref(), Some("m:1"));
    assert_eq!(found(r#"{"name":"m:1"}"#).as_deref(), Some("m:1"));
    assert_eq!(found(r#"{"name":null,"model":"m:1"}"#).as_deref(), Some("m:1"));
    assert_eq!(found(r#"{"name":"other","model":"m:1"}"#).as_deref(), Some("m:1"));
    assert_eq!(found(r#"{"name":"","model":""}"#), None);
    assert_eq!(scan(Want::ModelOnly, br#"{"name":"m:1"}"#), (Progress::End, None, None));
}

#[test]
fn a_name_counts_only_when_the_object_is_closed() {
    let mut scan = ModelScan::new(Want::Model);
    assert_eq!(scan.push(br#"{"name":"m:1""#), Progress::NeedMore);
    assert_eq!(scan.model(), None);
    let cut = scan.clone().finish();
    assert_eq!(cut.model, None);
    assert_eq!(scan.push(b"}"), Progress::End);
    assert_eq!(scan.model(), Some("m:1"));
}

#[test]
fn a_copy_is_for_its_source() {
    let body = br#"{"model":"no","name":"no","source":"a:1","destination":"b:1"}"#;
    assert_eq!(scan(Want::Source, body).1.as_deref(), Some("a:1"));
    assert_same_at_every_split(Want::Source, body);
}

#[test]
fn other_models_are_kept_where_the_call_is_about_several() {
    let others = |want, body: &str| {
        let mut scan = ModelScan::new(want);
        scan.push(body.as_bytes());
        scan.at_end().map(|()| (scan.others().map(str::to_owned).collect::<Vec<_>>(), scan.has_modelfile()))
    };
    let found = |names: &[&str], modelfile| Ok((names.iter().map(|name| (*name).to_owned()).collect(), modelfile));
    assert_eq!(others(Want::Source, r#"{"source":"a","Destination":"b"}"#), found(&["b"], false));
    assert_eq!(others(Want::Create, r#"{"model":"a","\u0066rom":"b","modelfile":null}"#), found(&["b"], false));
    assert_eq!(others(Want::Create, r#"{"model":"a","from":null,"modelfile":"FROM c"}"#), found(&[], true));
    for want in [Want::Model, Want::ModelOnly] {
        let body = r#"{"model":"a","from":1,"from":2,"destination":3,"modelfile":"x"}"#;
        assert_eq!(others(want, body), found(&[], false), "no key of ours");
    }
    assert_eq!(others(Want::Create, r#"{"model":"a","from":"b","FROM":"c"}"#), Err(Violation::Repeated(Key::From)));
    assert_eq!(others(Want::Source, r#"{"source":"a","destination":1}"#), Err(Violation::NotText(Key::Destination)));
}

#[test]
fn keys_match_as_they_do_in_go() {
    for key in ["model", "Model", "MODEL", r"mod\u0065l", r"\u006D\u006f\u0064\u0065\u006c"] {
        assert_eq!(found(&format!(r#"{{"{key}":"m"}}"#)).as_deref(), Some("m"), "{key}");
    }
    for key in ["\u{17f}tream", r"\u017Ftream", "STREAM"] {
        let body = format!(r#"{{"{key}":true,"model":"m"}}"#);
        assert_eq!(scan(Want::Model, body.as_bytes()).2, Some(true), "{key}");
        assert_same_at_every_split(Want::Model, body.as_bytes());
    }
    assert!(is_key("\u{212a}eep_alive".as_bytes(), "keep_alive"));
    assert!(is_key(r"Keep_Alive".as_bytes(), "keep_alive"));
    assert!(!is_key("models".as_bytes(), "model"));
    assert!(!is_key(b"mode\xff", "model"));
    assert!(!is_key(&[b'm'; 400], "model"));
}

#[test]
fn escapes_are_decoded_in_values() {
    for (written, decoded) in [
        (r"a\/b\\c\u003a7b", "a/b\\c:7b"),
        (r"\ud83e\udd99:1", "\u{1f999}:1"),
        (r"\ud83e\udd99\ud83e\udd99", "\u{1f999}\u{1f999}"),
        (r"\u0041\u00e9", "A\u{e9}"),
        (r#"a\"b"#, "a\"b"),
        ("\u{1f999}", "\u{1f999}"),
    ] {
        let body = format!(r#"{{"x":1,"model":"{written}"}}"#);
        assert_eq!(found(&body).as_deref(), Some(decoded), "{written}");
        assert_same_at_every_split(Want::Model, body.as_bytes());
    }
}

#[test]
fn decoys_are_not_taken() {
    for body in [
        r#"{"messages":[{"model":"decoy"}],"model":"real"}"#,
        r#"{"options":{"model":"decoy","a":{"model":"decoy"}},"model":"real"}"#,
        r#"{"prompt":"\"model\":\"decoy\"","model":"real"}"#,
        r#"{"prompt":"}{\"model\":\"decoy\"","model":"real"}"#,
        r#"{"tools":["\\\"","]","}","\\"],"model":"real"}"#,
        r#"{"a":"model","b":["model","decoy"],"model":"real"}"#,
        r#"{"model ":"decoy","models":"decoy","":"decoy","model":"real"}"#,
        r#"{"a":["model","decoy",{"model":"decoy"}],"b":{"model":7},"model":"real"}"#,
    ] {
        assert_eq!(found(body).as_deref(), Some("real"), "{body}");
        assert_same_at_every_split(Want::Model, body.as_bytes());
    }
}

#[test]
fn unusual_white_space_is_white_space() {
    let body = b"\r\n\t {\n\t\"stream\"\r:\t false\n,\"model\" \n:\r\n \"m\"\t}\n\n";
    assert_eq!(scan(Want::Model, body), (Progress::Found, Some("m".into()), Some(false)));
    assert_same_at_every_split(Want::Model, body);
}

#[test]
fn what_is_not_a_json_object_is_refused() {
    for body in [
        "[{\"model\":\"m\"}]",
        "model=m&prompt=hi",
        "--boundary\r\nContent-Disposition: form-data",
        "\u{feff}{\"model\":\"m\"}",
        "\"model\"",
        "null",
        "42",
        "{'model':'m'}",
        "{model:\"m\"}",
        "{\"a\":1,}",
        "{,}",
        "{\"a\" \"b\"}",
        "{\"a\":}",
        "{\"a\":NaN}",
        "{\"a\":1 /* no */}",
        "{\"model\":\"a\nb\"}",
        "{\"model\":\"a\\xb\"}",
        "{\"model\":\"\\u00zz\"}",
    ] {
        assert_eq!(scan(Want::Model, body.as_bytes()).0, Progress::NotJson, "{body:?}");
        assert_same_at_every_split(Want::Model, body.as_bytes());
    }
    for body in ["", "   ", "{", "{\"a\":[1,2"] {
        assert_eq!(scan(Want::Model, body.as_bytes()), (Progress::NeedMore, None, None), "{body:?}");
    }
}

#[test]
fn a_long_name_is_refused_and_a_long_key_is_another_key() {
    let longest = "m".repeat(MAX_VALUE_BYTES);
    assert_eq!(found(&format!(r#"{{"model":"{longest}"}}"#)), Some(longest.clone()));
    let body = format!(r#"{{"model":"{longest}m"}}"#);
    assert_eq!(scan(Want::Model, body.as_bytes()), (Progress::TooLong, None, None));
    assert_eq!(scan(Want::Model, &body.as_bytes()[..body.len() - 2]).0, Progress::TooLong);
    let key = "k".repeat(100_000);
    assert_eq!(found(&format!(r#"{{"{key}":1,"model":"m"}}"#)).as_deref(), Some("m"));
}

#[test]
fn a_million_escapes_are_only_bytes() {
    let body = format!(r#"{{"prompt":"{}","model":"m"}}"#, r"\n".repeat(1_000_000));
    assert_eq!(found(&body).as_deref(), Some("m"));
    let quotes = format!(r#"{{"prompt":["{}"],"model":"m"}}"#, r#"\""#.repeat(1_000_000));
    assert_eq!(found(&quotes).as_deref(), Some("m"));
}

/// A JSON writer that varies what a client may vary: white space, and which characters are escaped.
fn write_odd(value: &Value, choice: &mut impl FnMut() -> u32, out: &mut String) {
    let space = |choice: &mut dyn FnMut() -> u32, out: &mut String| {
        out.push_str(["", "", " ", "\r\n", "\t", "  \n"][choice() as usize % 6]);
    };
    space(choice, out);
    match value {
        Value::String(text) => write_odd_string(text, choice, out),
        Value::Array(items) => {
            out.push('[');
            for (index, item) in items.iter().enumerate() {
                out.push_str(if index > 0 { "," } else { "" });
                write_odd(item, choice, out);
            }
            out.push(']');
        }
        Value::Object(fields) => {
            out.push('{');
            for (index, (key, item)) in fields.iter().enumerate() {
                out.push_str(if index > 0 { "," } else { "" });
                space(choice, out);
                write_odd_string(key, choice, out);
                space(choice, out);
                out.push(':');
                write_odd(item, choice, out);
            }
            out.push('}');
        }
        other => out.push_str(&other.to_string()),
    }
    space(choice, out);
}

fn write_odd_string(text: &str, choice: &mut impl FnMut() -> u32, out: &mut String) {
    out.push('"');
    for letter in text.chars() {
        if choice().is_multiple_of(4) {
            for unit in letter.encode_utf16(&mut [0; 2]) {
                out.push_str(&format!("\\u{unit:04x}"));
            }
        } else {
            let escaped = json!(letter.to_string()).to_string();
            out.push_str(&escaped[1..escaped.len() - 1]);
        }
    }
    out.push('"');
}

fn any_text() -> impl Strategy<Value = String> {
    prop_oneof![
        Just(String::new()),
        Just("model".to_owned()),
        Just("llama3:8b".to_owned()),
        Just("\\\"}],{".to_owned()),
        "[a-z\"\\\\{}\\[\\]:,\n\u{e9}\u{1f999}]{0,12}",
    ]
}

fn any_value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i32>().prop_map(Value::from),
        Just(json!(1.5e-7)),
        any_text().prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 12, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::vec((any_key(), inner), 0..4)
                .prop_map(|fields| Value::Object(fields.into_iter().collect::<Map<_, _>>())),
        ]
    })
}

fn any_key() -> impl Strategy<Value = String> {
    prop_oneof![
        2 => Just("model".to_owned()),
        1 => Just("name".to_owned()),
        1 => Just("stream".to_owned()),
        1 => Just("source".to_owned()),
        2 => Just("messages".to_owned()),
        2 => "[a-z\"\\\\\u{e9}]{0,8}".prop_filter("a key of ours", |key| {
            !["model", "name", "stream", "source", "from"].iter().any(|field| is_key(key.as_bytes(), field))
        }),
    ]
}

/// What a reader of the whole object would say (`serde_json::Map` has no duplicates).
fn expected(object: &Map<String, Value>, want: Want) -> (Progress, Option<String>, Option<bool>) {
    let text = |key: &str| object.get(key).and_then(Value::as_str).filter(|text| !text.is_empty()).map(str::to_owned);
    let stream = object.get("stream").and_then(Value::as_bool);
    let wanted = text(if want == Want::Source { "source" } else { "model" });
    if wanted.is_some() {
        return (Progress::Found, wanted, stream);
    }
    let falls_back = matches!(want, Want::Model | Want::Create);
    (Progress::End, if falls_back { text("name") } else { None }, stream)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn it_agrees_with_serde_json_at_every_cut(
        fields in prop::collection::vec((any_key(), any_value()), 0..7),
        want in prop_oneof![Just(Want::Model), Just(Want::ModelOnly), Just(Want::Source), Just(Want::Create)],
        mut seed in 1u32..,
        pieces in prop::collection::vec(1usize..9, 1..40),
    ) {
        let mut object: Map<String, Value> = fields.into_iter().collect();
        for key in ["model", "name", "source"] {
            // What else may stand there is a violation, and has tests of its own.
            let name = object.get_mut(key).filter(|value| value.as_str().is_none_or(|text| text.contains('\n')));
            name.into_iter().for_each(|value| *value = Value::from(""));
        }
        let mut choice = || {
            seed ^= seed << 13;
            seed ^= seed >> 17;
            seed ^= seed << 5;
            seed
        };
        let mut body = String::new();
        write_odd(&Value::Object(object.clone()), &mut choice, &mut body);
        let parsed: Value = serde_json::from_str(&body).expect("the writer writes JSON");
        prop_assert_eq!(parsed, Value::Object(object.clone()));

        let body = body.as_bytes();
        prop_assert_eq!(scan(want, body), expected(&object, want));
        prop_assert_eq!(verdict(want, &[body]).2, Ok(()));
        assert_same_at_every_split(want, body);

        let mut scan = ModelScan::new(want);
        let mut rest = body;
        for piece in pieces.iter().cycle() {
            let (now, later) = rest.split_at((*piece).min(rest.len()));
            scan.push(now);
            rest = later;
            if rest.is_empty() {
                break;
            }
        }
        let (progress, model, stream) = expected(&object, want);
        prop_assert_eq!(scan.progress(), progress);
        prop_assert_eq!(scan.finish(), Scanned { model, stream });
    }

    #[test]
    fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), open in any::<bool>()) {
        let mut body = if open { br#"{"a":"#.to_vec() } else { Vec::new() };
        body.extend(bytes);
        assert_same_at_every_split(Want::Model, &body);
    }

    #[test]
    fn no_json_like_text_makes_it_panic(body in "[{}\\[\\]\":,\\\\utrfalsn0-9 model]{0,60}") {
        assert_same_at_every_split(Want::Model, format!("{{\"a\":{body}").as_bytes());
    }
}
