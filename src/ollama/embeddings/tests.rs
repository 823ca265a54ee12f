//! What is taken apart is put together again, to the byte.

use proptest::prelude::*;

use super::*;

const CALLS: [Call; 3] = [Call::Embed, Call::Legacy, Call::Openai];

fn request(call: Call, body: &str) -> Result<(usize, String), Unfit> {
    Request::read(call, body.as_bytes()).map(|request| (request.len(), request.settings().to_owned()))
}

/// An embedding as a server writes it.
fn written(call: Call, numbers: &[f32], packed: bool) -> String {
    let mut text = String::new();
    if packed {
        let bytes: Vec<u8> = numbers.iter().flat_map(|number| number.to_le_bytes()).collect();
        return format!("\"{}\"", base64::Engine::encode(&base64::engine::general_purpose::STANDARD, bytes));
    }
    for number in numbers {
        text.push(if text.is_empty() { '[' } else { ',' });
        if call == Call::Legacy { push_double(&mut text, f64::from(*number)) } else { push_single(&mut text, *number) }
    }
    text + if numbers.is_empty() { "[]" } else { "]" }
}

/// A whole answer as a server writes it.
fn answer(call: Call, vectors: &[String]) -> String {
    match call {
        Call::Embed => format!(
            r#"{{"model":"M","embeddings":[{}],"total_duration":14143917,"load_duration":1019500,"prompt_eval_count":8}}"#,
            vectors.join(",")
        ),
        Call::Legacy => format!(r#"{{"embedding":{}}}"#, vectors[0]),
        Call::Openai => {
            let item = |(index, vector)| format!(r#"{{"object":"embedding","embedding":{vector},"index":{index}}}"#);
            let items: Vec<String> = vectors.iter().enumerate().map(item).collect();
            let usage = r#"{"prompt_tokens":8,"total_tokens":8}"#;
            format!(r#"{{"object":"list","data":[{}],"model":"M","usage":{usage}}}"#, items.join(",")) + "\n"
        }
    }
}

fn together(call: Call, frame: &Frame, vectors: &[Vector]) -> String {
    let mut text = frame.head.clone();
    for (place, vector) in vectors.iter().enumerate() {
        write_item(call, place, vector, &mut text);
    }
    text + &frame.tail
}

fn floats() -> impl Strategy<Value = Vec<f32>> {
    // All bit patterns of numbers that JSON has, the tiny and the huge ones too.
    let number = any::<u32>().prop_map(f32::from_bits).prop_filter("a number", |number| number.is_finite());
    prop::collection::vec(number, 0..20)
}

proptest! {
    #[test]
    fn vectors_are_kept_exactly_and_small(numbers in floats(), packed: bool) {
        for call in CALLS {
            let json = written(call, &numbers, packed && call == Call::Openai);
            let vector = Vector::read(&json);
            let mut text = String::new();
            vector.write(&mut text);
            prop_assert_eq!(&text, &json);
            prop_assert_eq!(vector.size(), numbers.len() * 4);
        }
    }

    #[test]
    fn any_text_is_given_back(text in "[\\[\\]\",.0-9eE+a-zA-Z= -]{0,40}") {
        for json in [text.clone(), format!("[{text}]"), format!("\"{text}\"")] {
            let mut again = String::new();
            Vector::read(&json).write(&mut again);
            prop_assert_eq!(again, json);
        }
    }

    /// Whatever is known beforehand: what is asked for and what is known make the answer to the whole.
    #[test]
    fn a_part_and_the_rest_make_the_whole(
        all in prop::collection::vec((floats(), any::<bool>()), 1..12),
        packed: bool,
    ) {
        for call in [Call::Embed, Call::Openai] {
            let vectors: Vec<String> =
                all.iter().map(|(numbers, _)| written(call, numbers, packed && call == Call::Openai)).collect();
            let inputs: Vec<String> = (0..all.len()).map(|number| format!("\"text \\u00e4{number}\"")).collect();
            let body = format!(r#"{{"model":"M","input":[{}],"user":"u"}}"#, inputs.join(","));
            let asked = Request::read(call, body.as_bytes()).unwrap();
            let unknown: Vec<usize> = (0..all.len()).filter(|place| !all[*place].1).collect();
            let part = asked.body_for(&unknown);
            let part = Request::read(call, &part).unwrap_or_else(|unfit| {
                // Nothing is asked for where all is known.
                assert!(unknown.is_empty() && unfit == Unfit::Empty);
                Request::read(call, body.as_bytes()).unwrap()
            });
            let texts: Vec<_> = unknown.iter().map(|place| asked.text(*place)).collect();
            if !unknown.is_empty() {
                prop_assert_eq!((0..part.len()).map(|place| part.text(place)).collect::<Vec<_>>(), texts);
                prop_assert_eq!(part.settings(), asked.settings());
            }
            let of_server: Vec<String> = unknown.iter().map(|place| vectors[*place].clone()).collect();
            let said = Answer::read(call, answer(call, &of_server).as_bytes()).unwrap();
            let mut computed = said.vectors.into_iter();
            let merged: Vec<Vector> = (0..all.len())
                .map(|place| if all[place].1 { Vector::read(&vectors[place]) } else { computed.next().unwrap() })
                .collect();
            prop_assert_eq!(together(call, &said.frame, &merged), answer(call, &vectors));
        }
    }
}

#[test]
fn answers_are_read_as_ollama_writes_them_and_in_no_other_way() {
    for call in CALLS {
        let vectors = [written(call, &[0.5, -1e-7], false), written(call, &[], false)];
        let vectors = if call == Call::Legacy { &vectors[..1] } else { &vectors[..] };
        let body = answer(call, vectors);
        let said = Answer::read(call, body.as_bytes()).unwrap();
        assert_eq!(together(call, &said.frame, &said.vectors), body);
        assert_eq!(Answer::read(call, format!("{body} ").as_bytes()), None);
        assert_eq!(Answer::read(call, body.replacen('{', "{ ", 1).as_bytes()), None);
        assert_eq!(Answer::read(call, body.replacen('{', "{\"more\":1,", 1).as_bytes()), None);
        assert_eq!(Answer::read(call, &body.as_bytes()[..body.len() - 2]), None);
        assert_eq!(Answer::read(call, br#"{"error":"no"}"#), None);
    }
    let swapped = answer(Call::Openai, &["[1]".to_owned(), "[2]".to_owned()]).replace("\"index\":1", "\"index\":7");
    assert_eq!(Answer::read(Call::Openai, swapped.as_bytes()), None);
    // What is zero is left out.
    let short = r#"{"model":"M","embeddings":[[1]],"total_duration":5}"#;
    let said = Answer::read(Call::Embed, short.as_bytes()).unwrap();
    assert_eq!(together(Call::Embed, &said.frame, &said.vectors), short);
}

#[test]
fn an_answer_without_a_server_looks_like_one_of_ollamas() {
    let vectors = [Vector::read("[1,0.5]")];
    let of = |call| together(call, &Frame::of_nothing(call, "a\"<b", 7), &vectors);
    assert_eq!(of(Call::Embed), r#"{"model":"a\"\u003cb","embeddings":[[1,0.5]],"total_duration":7}"#);
    assert_eq!(of(Call::Legacy), r#"{"embedding":[1,0.5]}"#);
    assert_eq!(
        of(Call::Openai),
        r#"{"object":"list","data":[{"object":"embedding","embedding":[1,0.5],"index":0}],"model":"a\"\u003cb","usage":{"prompt_tokens":0,"total_tokens":0}}"#
            .to_owned()
            + "\n"
    );
}

#[test]
fn tokens_of_two_parts_are_added() {
    let frame = |call, tail: &str| {
        let vector = "[1]".to_owned();
        let body = answer(call, std::slice::from_ref(&vector));
        let at = body.rfind("[1]").unwrap() + 3;
        let body = match call {
            Call::Openai => body,
            _ => format!("{}{tail}", &body[..at]),
        };
        Answer::read(call, body.as_bytes()).unwrap().frame
    };
    let added = |call, one: &str, other: &str| {
        let mut sum = frame(call, one);
        sum.add_tokens_of(&frame(call, other));
        sum.tail
    };
    let (counted, zero) = (r#"],"total_duration":5,"prompt_eval_count":8}"#, r#"],"total_duration":7}"#);
    assert_eq!(added(Call::Embed, counted, counted), r#"],"total_duration":5,"prompt_eval_count":16}"#);
    assert_eq!(added(Call::Embed, counted, zero), counted);
    assert_eq!(added(Call::Embed, zero, counted), r#"],"total_duration":7,"prompt_eval_count":8}"#);
    assert_eq!(added(Call::Embed, "]}", counted), r#"],"prompt_eval_count":8}"#);
    // What is no whole number is left alone.
    let odd = r#"],"prompt_eval_count":8.5}"#;
    assert_eq!(
        (added(Call::Embed, odd, counted), added(Call::Embed, counted, odd)),
        (odd.to_owned(), counted.to_owned())
    );
    assert_eq!(
        added(Call::Openai, "", ""),
        r#"],"model":"M","usage":{"prompt_tokens":16,"total_tokens":16}}"#.to_owned() + "\n"
    );
    assert_eq!(added(Call::Legacy, "}", "}"), "}");
}

#[test]
fn what_means_the_same_has_the_same_settings() {
    for (call, one, other) in [
        (Call::Embed, r#"{"input":"a"}"#, r#"{"input":["a","b"],"model":"m"}"#),
        (
            Call::Embed,
            r#"{"input":"a"}"#,
            r#"{"input":"a","truncate":true,"dimensions":0,"options":{},"keep_alive":"5m"}"#,
        ),
        (
            Call::Embed,
            r#"{"input":"a"}"#,
            r#"{"input":"a","truncate":null,"dimensions":null,"options":null,"keep_alive":-1}"#,
        ),
        (
            Call::Embed,
            r#"{"input":"a","options":{"num_ctx":5,"stop":["a"]}}"#,
            r#"{"options":{ "stop":["a"], "num_ctx":5},"input":"a"}"#,
        ),
        (Call::Legacy, r#"{"prompt":"a"}"#, r#"{"options":{},"prompt":"a","keep_alive":"1h30m"}"#),
        (Call::Openai, r#"{"input":"a"}"#, r#"{"input":"a","encoding_format":"FLOAT","user":"u"}"#),
        (Call::Openai, r#"{"input":"a","encoding_format":"base64"}"#, r#"{"encoding_format":"Base64","input":["a"]}"#),
    ] {
        let (one, other) = (request(call, one).unwrap(), request(call, other).unwrap());
        assert_eq!(one.1, other.1);
    }
    let plain = request(Call::Embed, r#"{"input":"a"}"#).unwrap().1;
    assert_eq!(request(Call::Openai, r#"{"input":"a"}"#).unwrap().1, plain, "the vectors are the same");
    assert_ne!(request(Call::Legacy, r#"{"prompt":"a"}"#).unwrap().1, plain, "they are not of length one");
    for other in [
        r#"{"input":"a","truncate":false}"#,
        r#"{"input":"a","dimensions":8}"#,
        r#"{"input":"a","options":{"num_ctx":6}}"#,
        r#"{"input":"a","tomorrow":1}"#,
        r#"{"input":"a","tomorrow":{"b":1,"a":2}}"#,
        r#"{"input":"a","encoding_format":"base64"}"#,
    ] {
        assert_ne!(request(Call::Embed, other).unwrap().1, plain, "{other}");
    }
    // What one call knows and the other does not is not the same in both.
    for body in [
        r#"{"input":"a","options":{"num_ctx":6}}"#,
        r#"{"input":"a","truncate":false}"#,
        r#"{"input":"a","encoding_format":"base64"}"#,
    ] {
        assert_ne!(request(Call::Embed, body).unwrap().1, request(Call::Openai, body).unwrap().1, "{body}");
    }
    assert_eq!(
        request(Call::Embed, r#"{"input":"a","tomorrow":1}"#).unwrap().1,
        request(Call::Openai, r#"{"input":"a","tomorrow":1}"#).unwrap().1,
        "neither knows it"
    );
    assert_ne!(
        request(Call::Openai, r#"{"input":"a","encoding_format":"base64"}"#).unwrap().1,
        request(Call::Openai, r#"{"input":"a"}"#).unwrap().1
    );
}

#[test]
fn what_is_not_clear_is_left_alone() {
    for body in [
        r#"{"model":"m"}"#,
        r#"{"model":"m","input":""}"#,
        r#"{"model":"m","input":null}"#,
        r#"{"model":"m","input":[]}"#,
    ] {
        assert_eq!(request(Call::Embed, body), Err(Unfit::Empty), "{body}");
        assert_eq!(request(Call::Openai, body), Err(Unfit::Empty), "{body}");
    }
    assert_eq!(request(Call::Legacy, r#"{"model":"m","input":"a"}"#), Err(Unfit::Empty));
    for body in [
        "",
        "[]",
        r#"{"input":"a"} x"#,
        r#"{"input":"a","input":"b"}"#,
        r#"{"input":"a","Input":"b"}"#,
        r#"{"INPUT":"a"}"#,
        r#"{"input":["a",1]}"#,
        r#"{"input":[[1,2]]}"#,
        r#"{"input":[1,2]}"#,
        r#"{"input":7}"#,
        r#"{"input":{"a":"b"}}"#,
        r#"{"input":"a","truncate":"no"}"#,
        r#"{"input":"a","dimensions":1.5}"#,
        r#"{"input":"a","options":[]}"#,
        r#"{"input":"a","keep_alive":"soon"}"#,
        r#"{"input":"a","keep_alive":"5"}"#,
        r#"{"input":"a","keep_alive":true}"#,
    ] {
        assert_eq!(request(Call::Embed, body), Err(Unfit::Unclear), "{body}");
    }
    assert_eq!(request(Call::Openai, r#"{"input":"a","encoding_format":"hex"}"#), Err(Unfit::Unclear));
    assert_eq!(request(Call::Legacy, r#"{"prompt":["a"]}"#), Err(Unfit::Unclear));
    let many = |count| format!(r#"{{"input":[{}]}}"#, vec!["\"a\""; count].join(","));
    assert_eq!(request(Call::Embed, &many(MOST_INPUTS)).map(|(count, _)| count), Ok(MOST_INPUTS));
    assert_eq!(request(Call::Embed, &many(MOST_INPUTS + 1)), Err(Unfit::TooMany));
    assert_eq!(request(Call::Embed, &many(1_000_000)), Err(Unfit::TooMany));
    let keys = (0..100_000).map(|number| format!(r#""k{number}":0,"#)).collect::<String>();
    assert_eq!(request(Call::Embed, &format!(r#"{{{keys}"input":"a"}}"#)), Err(Unfit::Unclear));
    // Half of a pair of surrogates is no text; Go replaces it.
    let odd = br#"{"input":["a","\ud800"]}"#;
    let read = Request::read(Call::Embed, odd).unwrap();
    assert_eq!((read.text(0), read.text(1), read.text(2)), (Some("a".to_owned()), None, None));
}
