use super::*;
use proptest::prelude::*;

fn read(kind: UsageKind, answer: &[u8]) -> Usage {
    let mut scan = UsageScan::new(kind);
    scan.push(answer);
    scan.finish()
}

/// Reads the answer whole, in every two pieces and byte by byte: always the same.
fn read_at_every_split(kind: UsageKind, answer: &str) -> Usage {
    let answer = answer.as_bytes();
    let whole = read(kind, answer);
    for split in 0..=answer.len() {
        let mut scan = UsageScan::new(kind);
        scan.push(&answer[..split]);
        scan.push(&answer[split..]);
        assert_eq!(scan.finish(), whole, "cut at {split}");
    }
    let mut scan = UsageScan::new(kind);
    for byte in answer {
        scan.push(std::slice::from_ref(byte));
    }
    assert_eq!(scan.finish(), whole);
    whole
}

const FINAL: &str = r#"{"model":"m:1","created_at":"2026-11-22T01:14:19Z","message":{"role":"assistant","content":""},"done":true,"done_reason":"stop","total_duration":174560334,"load_duration":101397084,"prompt_eval_count":11,"prompt_eval_duration":13074791,"eval_count":18,"eval_duration":52479709}"#;

fn final_usage() -> Usage {
    Usage {
        ends_early: false,
        finished: true,
        done_reason: Some("stop".into()),
        prompt_eval_count: Some(11),
        eval_count: Some(18),
        total_duration: Some(Duration::from_nanos(174_560_334)),
        load_duration: Some(Duration::from_nanos(101_397_084)),
        prompt_eval_duration: Some(Duration::from_nanos(13_074_791)),
        eval_duration: Some(Duration::from_nanos(52_479_709)),
        error: None,
        pieces: 0,
    }
}

#[test]
fn the_final_object_of_a_stream_is_read() {
    let token = r#"{"model":"m:1","message":{"role":"assistant","content":" {\"error\":\"no\"}"},"done":false}"#;
    let stream = format!("{token}\n{token}\n{FINAL}\n");
    assert_eq!(read_at_every_split(UsageKind::Ndjson, &stream), final_usage());
    assert_eq!(read_at_every_split(UsageKind::Ndjson, &format!("{token}\r\n{FINAL}")), final_usage());
}

#[test]
fn a_stream_that_only_stops_is_not_finished() {
    let stream = "{\"message\":{\"content\":\"a\"},\"done\":false}\n{\"message\":{\"con";
    let usage = read_at_every_split(UsageKind::Ndjson, stream);
    assert_eq!(usage, Usage::default());
    assert_eq!(read(UsageKind::Ndjson, b""), Usage::default());
}

#[test]
fn an_error_behind_a_200_is_seen() {
    let stream = "{\"message\":{\"content\":\"a\"},\"done\":false}\n{\"error\":\"an error was encountered while running the model: unexpected EOF\"}\n";
    let usage = read_at_every_split(UsageKind::Ndjson, stream);
    assert!(!usage.finished);
    assert_eq!(usage.error.as_deref(), Some("an error was encountered while running the model: unexpected EOF"));

    let mut scan = UsageScan::new(UsageKind::Ndjson);
    scan.push(stream.as_bytes());
    assert!(scan.error_seen());
    assert!(read_at_every_split(UsageKind::Ndjson, "{ \"error\" : \"x\" }").error.is_some());
    assert!(read_at_every_split(UsageKind::Ndjson, "{\"errors\":\"x\"}\n").error.is_none());
}

#[test]
fn an_answer_that_does_not_stream_is_read() {
    assert_eq!(read_at_every_split(UsageKind::Json, FINAL), final_usage());
    let openai = "{\"id\":\"chatcmpl-1\",\"choices\":[{\"message\":{\"content\":\"\\\"usage\\\":{\\\"prompt_tokens\\\":9}\"}}],\n\"usage\":{\"prompt_tokens\":7,\"completion_tokens\":5,\"total_tokens\":12}}\n";
    let usage = read_at_every_split(UsageKind::Json, openai);
    assert_eq!((usage.prompt_eval_count, usage.eval_count, usage.finished), (Some(7), Some(5), true));
    let embed = r#"{"model":"m","embeddings":[[0.1,0.2]],"total_duration":5,"load_duration":1,"prompt_eval_count":3}"#;
    let usage = read_at_every_split(UsageKind::Json, embed);
    assert_eq!((usage.prompt_eval_count, usage.total_duration), (Some(3), Some(Duration::from_nanos(5))));
    let error = read_at_every_split(UsageKind::Json, r#"{"error":"model 'x' not found"}"#);
    assert_eq!((error.error.as_deref(), error.finished), (Some("model 'x' not found"), false));
}

#[test]
fn openais_stream_is_read() {
    let stream = "data: {\"choices\":[{\"delta\":{\"content\":\"\\\"usage\\\":{}\"}}],\"usage\":null}\n\n: ping\n\ndata: {\"choices\":[],\"usage\":{\"prompt_tokens\":7,\"completion_tokens\":5,\"total_tokens\":12,\"prompt_tokens_details\":null}}\n\ndata: [DONE]\n\n";
    let usage = read_at_every_split(UsageKind::Sse, stream);
    assert_eq!((usage.prompt_eval_count, usage.eval_count, usage.finished), (Some(7), Some(5), true));
    assert_eq!(usage.error, None);
}

#[test]
fn anthropics_stream_is_read_and_its_estimate_corrected() {
    let stream = "event: message_start\ndata: {\"type\":\"message_start\",\"message\":{\"content\":[],\"usage\":{\"input_tokens\":20,\"output_tokens\":0}}}\n\nevent: message_delta\ndata: {\"type\":\"message_delta\",\"delta\":{\"stop_reason\":\"end_turn\"},\"usage\":{\"output_tokens\":5}}\n\nevent: message_stop\ndata: {\"type\":\"message_stop\"}\n\n";
    let usage = read_at_every_split(UsageKind::Sse, stream);
    assert_eq!((usage.prompt_eval_count, usage.eval_count, usage.finished), (Some(20), Some(5), true));
}

#[test]
fn the_responses_stream_is_read() {
    let stream = "event: response.completed\ndata: {\"type\":\"response.completed\",\"response\":{\"usage\":{\"input_tokens\":3,\"output_tokens\":4},\"tools\":[{\"usage\":{\"type\":\"string\"}}]}}\n\n";
    let usage = read_at_every_split(UsageKind::Sse, stream);
    assert_eq!((usage.prompt_eval_count, usage.eval_count, usage.finished), (Some(3), Some(4), true));
}

#[test]
fn what_a_client_wrote_is_not_taken_for_usage() {
    let huge = r#"{"usage":{"input_tokens":9223372036854775807,"output_tokens":1},"eval_count":9}"#;
    let created = |filler: usize| {
        let filler = "x".repeat(filler);
        format!(
            "{{\"type\":\"response.created\",\"response\":{{\"instructions\":\"{filler} \\\"usage\\\":{{\",\"tools\":[{{\"parameters\":{huge}}}],\"metadata\":{huge},\"text\":\"{filler}\",\"usage\":null}}}}"
        )
    };
    let stream = format!("event: response.created\ndata: {}\n\n", created(0));
    assert_eq!(read_at_every_split(UsageKind::Sse, &stream), Usage::default());
    for filler in [500, 1000, 20_000, 40_000, 200_000] {
        let created = created(filler);
        let stream = format!("data: {created}\n\n");
        // Also where it breaks off behind what the client wrote.
        for end in [stream.len(), stream.rfind("\"text\"").unwrap(), stream.find(",\"metadata\"").unwrap()] {
            assert_eq!(read(UsageKind::Sse, &stream.as_bytes()[..end]), Usage::default(), "{filler}");
        }
        let done =
            created.replace(".created", ".completed").replace("null", "{\"input_tokens\":3,\"output_tokens\":4}");
        let usage = read(UsageKind::Sse, format!("data: {done}\n\n").as_bytes());
        assert_eq!((usage.prompt_eval_count, usage.eval_count, usage.finished), (Some(3), Some(4), true), "{filler}");
        // An answer that is not streamed is that object itself.
        let whole = created.strip_prefix("{\"type\":\"response.created\",\"response\":").unwrap();
        let whole = whole.strip_suffix("}").unwrap();
        for end in [whole.len(), whole.rfind(",\"text\"").unwrap(), whole.find(",\"metadata\"").unwrap()] {
            let usage = read(UsageKind::Json, &whole.as_bytes()[..end]);
            assert_eq!((usage.prompt_eval_count, usage.eval_count), (None, None), "{filler}");
        }
        let whole = whole.replace("null", "{\"input_tokens\":3,\"output_tokens\":4}");
        let usage = read(UsageKind::Json, whole.as_bytes());
        assert_eq!((usage.prompt_eval_count, usage.eval_count), (Some(3), Some(4)), "{filler}");
    }
}

#[test]
fn both_spellings_may_stand_in_one_usage_and_nonsense_is_bounded() {
    let both = r#"{"choices":[],"usage":{"prompt_tokens":7,"input_tokens":7,"completion_tokens":5,"output_tokens":5}}"#;
    let usage = read_at_every_split(UsageKind::Json, both);
    assert_eq!((usage.prompt_eval_count, usage.eval_count), (Some(7), Some(5)));
    for answer in [
        r#"{"usage":{"prompt_tokens":9223372036854775807,"completion_tokens":18446744073709551615}}"#,
        r#"{"done":true,"prompt_eval_count":9223372036854775807,"eval_count":18446744073709551615}"#,
    ] {
        let usage = read(UsageKind::Json, answer.as_bytes());
        assert_eq!((usage.prompt_eval_count, usage.eval_count), (Some(MOST_TOKENS), Some(MOST_TOKENS)));
    }
}

#[test]
fn errors_in_event_streams_are_seen_in_every_form() {
    for (stream, message) in [
        ("data: {\"error\":{\"message\":\"busy\",\"type\":\"api_error\"}}\n\n", "busy"),
        (
            "event: error\ndata: {\"type\":\"error\",\"error\":{\"type\":\"api_error\",\"message\":\"busy\"}}\n\n",
            "busy",
        ),
        ("event: error\ndata: {\"type\":\"error\",\"error\":{\"type\":\"api_error\",\"message\":\"busy\"}}", "busy"),
        ("data: {\"type\":\"response.failed\",\"response\":{\"error\":{\"message\":\"busy\"}}}\n\n", "busy"),
        ("data: {}\n\n{\"error\":{\"message\":\"busy\",\"type\":\"api_error\"}}\n", "busy"),
        ("error: {\"code\":500,\"message\":\"busy\"}\n\n", ""),
    ] {
        let usage = read_at_every_split(UsageKind::Sse, stream);
        assert_eq!(usage.error.as_deref(), Some(message), "{stream}");
        assert!(!usage.finished);
    }
}

#[test]
fn an_error_that_ollama_lost_in_openais_stream_is_seen() {
    let chunk = |model: &str, text: &str| {
        format!(
            "data: {{\"id\":\"chatcmpl-877\",\"object\":\"chat.completion.chunk\",\"created\":1795819876,\"model\":\"{model}\",\"system_fingerprint\":\"fp_ollama\",\"choices\":[{{\"index\":0,\"delta\":{{\"role\":\"assistant\",\"content\":\"{text}\"}},\"finish_reason\":null}}]}}\n\n"
        )
    };
    let lost = chunk("m:1", " Islam") + &chunk("", "");
    let usage = read_at_every_split(UsageKind::Sse, &lost);
    assert_eq!((usage.error.as_deref(), usage.finished), (Some(""), false));
    let mut scan = UsageScan::new(UsageKind::Sse);
    scan.push(lost.as_bytes());
    assert!(scan.error_seen() && scan.error_is_lost());

    let quoted = r#"\"model\":\"\",\"system_fingerprint\":\"fp_ollama\""#;
    let good = chunk("m:1", "") + &chunk("m:1", quoted) + "data: [DONE]\n\n";
    let mut scan = UsageScan::new(UsageKind::Sse);
    scan.push(good.as_bytes());
    assert!(!scan.error_seen() && !scan.error_is_lost());
    assert!(scan.finish().finished);
    // Other servers begin with a chunk of no model.
    let azure = "data: {\"choices\":[],\"id\":\"\",\"model\":\"\",\"object\":\"\"}\n\n";
    assert_eq!(read_at_every_split(UsageKind::Sse, azure).error, None);
}

#[test]
fn a_final_object_with_a_huge_context_is_still_read() {
    let context = "12345,".repeat(100_000);
    let done = r#"{"model":"m:1","response":"","done":true,"done_reason":"stop","context":[CONTEXT1],"total_duration":9,"load_duration":2,"prompt_eval_count":11,"eval_count":18}"#;
    let stream = format!("{{\"response\":\"a\",\"done\":false}}\n{}\n", done.replace("CONTEXT", &context));
    for piece in [stream.len(), 70_000, 4_096, 997] {
        let mut scan = UsageScan::new(UsageKind::Ndjson);
        for part in stream.as_bytes().chunks(piece) {
            scan.push(part);
            assert!(scan.line.len() <= MAX_LINE_BYTES);
        }
        let usage = scan.finish();
        assert_eq!((usage.prompt_eval_count, usage.eval_count, usage.finished), (Some(11), Some(18), true));
        assert_eq!(usage.done_reason.as_deref(), Some("stop"));
        assert_eq!(usage.load_duration, Some(Duration::from_nanos(2)));
    }
    let embeddings = format!(
        r#"{{"object":"list","data":[{}1],"model":"m","usage":{{"prompt_tokens":4,"total_tokens":4}}}}"#,
        context
    );
    assert_eq!(read(UsageKind::Json, embeddings.as_bytes()).prompt_eval_count, Some(4));
}

/// Reads an answer whose pieces are counted; what is charged, and whether the server told it.
fn charged(kind: UsageKind, answer: &str) -> ((u64, u64), bool) {
    let mut scan = UsageScan::new(kind).counting(true);
    for part in answer.as_bytes().chunks(7) {
        scan.push(part);
    }
    let usage = scan.finish();
    (usage.tokens(), usage.tells_tokens())
}

#[test]
fn what_a_server_does_not_tell_is_counted_by_its_pieces() {
    let native = "{\"response\":\"a\",\"done\":false}\n{\"response\":\"b\",\"done\":false}\n";
    assert_eq!(charged(UsageKind::Ndjson, native), ((0, 2), false), "it broke off");
    let whole = format!("{native}{{\"done\":true,\"prompt_eval_count\":5,\"eval_count\":9}}\n");
    assert_eq!(charged(UsageKind::Ndjson, &whole), ((5, 9), true));
    assert_eq!(charged(UsageKind::Ndjson, &format!("{native}{{\"error\":\"x\"}}\n")), ((0, 2), false));
    let load = "{\"model\":\"m\",\"response\":\"\",\"done\":true,\"done_reason\":\"load\"}";
    assert_eq!(charged(UsageKind::Json, load), ((0, 0), true));

    let chunk = |text: &str, reason: &str| {
        let choice = format!("{{\"index\":0,\"delta\":{{\"content\":\"{text}\"}},\"finish_reason\":{reason}}}");
        format!("data: {{\"id\":\"c\",\"model\":\"m\",\"choices\":[{choice}]}}\n\n")
    };
    let openai = chunk("a", "null") + &chunk(r#"\"finish_reason\":\"stop\""#, "null") + &chunk("", "\"stop\"");
    assert_eq!(charged(UsageKind::Sse, &openai), ((0, 2), false));
    assert_eq!(
        charged(UsageKind::Sse, &format!("{openai}data: [DONE]\n\n")),
        ((0, 2), false),
        "nobody asked for usage"
    );
    let usage = "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":4,\"completion_tokens\":3}}\n\ndata: [DONE]\n\n";
    assert_eq!(charged(UsageKind::Sse, &format!("{openai}{usage}")), ((4, 3), true));

    // Anthropic tells the prompt at the beginning.
    let start = "event: message_start\ndata: {\"type\":\"message_start\",\"message\":{\"usage\":{\"input_tokens\":6,\"output_tokens\":0}}}\n\n";
    let piece = "event: content_block_delta\ndata: {\"type\":\"content_block_delta\",\"delta\":{\"type\":\"text_delta\",\"text\":\"a\"}}\n\n";
    let end = "event: message_delta\ndata: {\"type\":\"message_delta\",\"delta\":{\"stop_reason\":\"end_turn\"},\"usage\":{\"output_tokens\":3}}\n\nevent: message_stop\ndata: {\"type\":\"message_stop\"}\n\n";
    assert_eq!(charged(UsageKind::Sse, &format!("{start}{piece}{piece}")), ((6, 2), true));
    assert_eq!(charged(UsageKind::Sse, &format!("{start}{piece}{piece}{end}")), ((6, 3), true));
    let responses = "data: {\"type\":\"response.output_text.delta\",\"delta\":\"a\"}\n\n";
    assert_eq!(charged(UsageKind::Sse, responses), ((0, 1), false));

    let mut scan = UsageScan::new(UsageKind::Ndjson);
    scan.push(native.as_bytes());
    assert_eq!(scan.finish().pieces, 0, "nobody wants to know");
}

#[test]
fn the_kind_follows_the_content_type() {
    assert_eq!(UsageKind::of_content_type("application/x-ndjson"), Some(UsageKind::Ndjson));
    assert_eq!(UsageKind::of_content_type("Application/JSON; charset=utf-8"), Some(UsageKind::Json));
    assert_eq!(UsageKind::of_content_type("text/event-stream;charset=utf-8"), Some(UsageKind::Sse));
    assert_eq!(UsageKind::of_content_type("text/html"), None);
}

proptest! {
    #[test]
    fn no_bytes_make_it_panic(lines in prop::collection::vec("(data: ?|event: ?error|\\{\"error\":|\"usage\":\\{?|\\}|\\\\|[a-z\u{e9}]|\r|\n){0,12}", 0..6)) {
        let answer = lines.join("\n");
        for kind in [UsageKind::Ndjson, UsageKind::Json, UsageKind::Sse] {
            read_at_every_split(kind, &answer);
        }
    }
}
