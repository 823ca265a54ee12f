use super::*;
use proptest::prelude::*;

fn scan(body: &[u8]) -> (Progress, Option<String>) {
    let mut scan = MultipartScan::new("XX");
    let progress = scan.push(body);
    (progress, scan.finish())
}

/// The form whole, in every two pieces and byte by byte: always the same.
fn scan_at_every_split(body: &[u8]) -> (Progress, Option<String>) {
    let whole = scan(body);
    for split in 0..=body.len() {
        let mut scan = MultipartScan::new("XX");
        scan.push(&body[..split]);
        let progress = scan.push(&body[split..]);
        assert_eq!((progress, scan.finish()), whole, "cut at {split}");
    }
    let mut scan = MultipartScan::new("XX");
    for byte in body {
        scan.push(std::slice::from_ref(byte));
    }
    assert_eq!((scan.progress(), scan.finish()), whole);
    whole
}

fn part(headers: &str, content: &str) -> String {
    format!("--XX\r\n{headers}\r\n\r\n{content}\r\n")
}

fn field(name: &str, content: &str) -> String {
    part(&format!("Content-Disposition: form-data; name=\"{name}\""), content)
}

fn found(model: &str) -> (Progress, Option<String>) {
    (Progress::Found, Some(model.to_owned()))
}

#[test]
fn the_model_is_found_behind_the_file() {
    let file = part(
        "Content-Disposition: form-data; name=\"file\"; filename=\"a.wav\"\r\nContent-Type: audio/wav",
        "RIFF\r\n\r\r\n--X\r\n--\n--XX not at a line's start --XX\r\n--XXX\r\n",
    );
    let body = format!("{file}{}{}--XX--\r\n", field("language", "es"), field("model", "whisper:large"));
    assert_eq!(scan_at_every_split(body.as_bytes()), found("whisper:large"));
}

#[test]
fn the_model_is_known_before_the_file_arrives() {
    let mut scan = MultipartScan::new("XX");
    let first = field("model", "whisper");
    assert_eq!(scan.push(first.as_bytes()), Progress::NeedMore);
    assert_eq!(scan.push(b"--XX\r\nContent-Dis"), Progress::Found);
    assert_eq!(scan.model(), Some("whisper"));
    assert_eq!(scan.push(b"position: whatever"), Progress::Found);
}

#[test]
fn a_preamble_padding_and_bare_newlines_are_read_as_go_reads_them() {
    let body = format!("preamble\r\n--XXno\r\n{}", field("model", "m").replacen("--XX\r\n", "--XX \t\r\n", 1));
    assert_eq!(scan_at_every_split(format!("{body}--XX--").as_bytes()), found("m"));
    let bare = format!("{}--XX \n--XX--\n", field("model", "m").replace("\r\n", "\n"));
    assert_eq!(scan_at_every_split(bare.as_bytes()), found("m"));
    assert_eq!(scan_at_every_split(b"--XX\r\n\r\n\r\n--XX\r\n\r\n--XX--"), (Progress::End, None));
}

#[test]
fn a_value_may_hold_what_looks_like_a_boundary() {
    for value in ["a\r\nb", "\r\n", "--X", "\r\n--XXY", "a\r\r\n--", "\r\n\r\n--XXY\r\n", "-"] {
        let body = format!("{}--XX--", field("model", value));
        assert_eq!(scan_at_every_split(body.as_bytes()), found(value), "{value:?}");
    }
}

#[test]
fn the_first_model_counts_even_if_it_is_empty() {
    let body = format!("{}{}--XX--", field("model", "a"), field("model", "b"));
    assert_eq!(scan_at_every_split(body.as_bytes()), found("a"));
    let body = format!("{}{}--XX--", field("model", ""), field("model", "b"));
    assert_eq!(scan_at_every_split(body.as_bytes()), (Progress::End, None));
    let body =
        format!("--XX\r\nContent-Disposition: form-data; name=model\r\n\r\n--XX\r\n{}--XX--", field("model", "b"));
    assert_eq!(scan_at_every_split(body.as_bytes()), (Progress::End, None));
}

#[test]
fn a_file_called_model_is_not_the_model() {
    let file = part("Content-Disposition: form-data; name=\"model\"; filename=\"m.txt\"", "decoy");
    let other = part("Content-Disposition: attachment; name=\"model\"", "decoy");
    let none = part("Content-Type: text/plain", "decoy");
    let body = format!("{file}{other}{none}{}--XX--", field("model", "real"));
    assert_eq!(scan_at_every_split(body.as_bytes()), found("real"));
    let unnamed = part("Content-Disposition: form-data; name=\"model\"; filename=\"\"", "m");
    assert_eq!(scan_at_every_split(format!("{unnamed}--XX--").as_bytes()), found("m"));
}

#[test]
fn headers_are_read_in_every_legal_form() {
    for headers in [
        "content-disposition:form-data;name=model",
        "Content-Type: text/plain\r\nCONTENT-DISPOSITION: Form-Data; NAME=\"model\"",
        "Content-Disposition: form-data;\r\n name=\"model\"",
        "Content-Disposition: form-data; x=\"a;name=decoy\\\"\"; name=\"model\";",
        "Content-Disposition: form-data; name=\"model\"\r\nContent-Transfer-Encoding: binary",
    ] {
        let body = format!("{}--XX--", part(headers, "m"));
        assert_eq!(scan_at_every_split(body.as_bytes()), found("m"), "{headers}");
    }
}

#[test]
fn what_go_and_we_might_read_differently_is_refused() {
    for headers in [
        "Content-Disposition: form-data; name*=UTF-8''model",
        "Content-Disposition: form-data; name*0=mo; name*1=del",
        "Content-Disposition: form-data; name=\"a\"; name=\"model\"",
        "Content-Disposition: form-data; name=\"a\"\r\nContent-Disposition: form-data; name=\"model\"",
        "Content-Disposition : form-data; name=\"model\"",
        "Content-Disposition: form-data; name=\"model",
        "Content-Disposition: form-data; name=\"model\"\r\nContent-Transfer-Encoding: quoted-printable",
    ] {
        let body = format!("{}--XX--", part(headers, "m"));
        assert_eq!(scan_at_every_split(body.as_bytes()), (Progress::NotJson, None), "{headers}");
    }
}

#[test]
fn a_form_without_a_model_and_a_body_that_is_no_form_say_so() {
    assert_eq!(scan_at_every_split(format!("{}--XX--\r\n", field("a", "b")).as_bytes()), (Progress::End, None));
    assert_eq!(scan_at_every_split(b"--XX--"), (Progress::NeedMore, None));
    assert_eq!(scan_at_every_split(b"--XX--\r\n"), (Progress::End, None));
    assert_eq!(scan_at_every_split(b"{\"model\":\"m\"}"), (Progress::NeedMore, None));
    assert_eq!(scan_at_every_split(field("model", "m").as_bytes()), (Progress::NeedMore, None));
    assert_eq!(scan_at_every_split(format!("{}--XX-x", field("a", "b")).as_bytes()), (Progress::NotJson, None));
}

#[test]
fn memory_is_bounded() {
    let body = format!("{}--XX--", field("model", &"m".repeat(MAX_VALUE_BYTES + 1)));
    assert_eq!(scan(body.as_bytes()), (Progress::TooLong, None));
    let body = format!("{}--XX--", field("model", &"m".repeat(MAX_VALUE_BYTES)));
    assert_eq!(scan(body.as_bytes()).0, Progress::Found);
    let body = part(&format!("X-Long: {}", "a".repeat(MAX_HEADER_BYTES)), "");
    assert_eq!(scan(body.as_bytes()), (Progress::TooLong, None));
    let mut scan = MultipartScan::new("XX");
    for _ in 0..100 {
        scan.push(&[b'a'; 100_000]);
    }
    assert!(scan.buffer.len() < 4_096);
    assert_eq!(scan.push(format!("\r\n{}--XX\r\n", field("model", "m")).as_bytes()), Progress::Found);
}

#[test]
fn the_boundary_is_read_from_the_content_type() {
    for (value, expected) in [
        ("multipart/form-data; boundary=XX", Some("XX")),
        ("Multipart/Form-Data;charset=utf-8; Boundary=\"X X;=\"", Some("X X;=")),
        ("multipart/form-data; boundary=----WebKitFormBoundary7MA4YWxk", Some("----WebKitFormBoundary7MA4YWxk")),
        ("multipart/form-data", None),
        ("multipart/form-data; boundary=", None),
        ("multipart/form-data; boundary=a; boundary=b", None),
        ("multipart/mixed; boundary=a", None),
        ("application/json", None),
        ("multipart/form-data; boundary=\"a\r\nb\"", None),
    ] {
        assert_eq!(boundary(value).as_deref(), expected, "{value}");
    }
    assert_eq!(boundary(&format!("multipart/form-data; boundary={}", "x".repeat(71))), None);
    assert!(MultipartScan::of_content_type("multipart/form-data; boundary=a").is_some());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn any_form_gives_its_first_model(
        fields in prop::collection::vec((prop_oneof![Just("model"), Just("file"), Just("prompt")], "(\r|\n|-|XX|--XX|a|b| ){0,12}"), 0..5),
    ) {
        // A value that holds a whole boundary line is no value.
        let fields: Vec<_> = fields.into_iter().filter(|(_, value)| !format!("\r\n{value}\r").contains("\r\n--XX")).collect();
        let body: String = fields.iter().map(|(name, value)| field(name, value)).collect::<String>() + "--XX--\r\n";
        let model = fields.iter().find(|(name, _)| *name == "model").map(|(_, value)| value.clone());
        let model = model.filter(|value| !value.is_empty());
        let progress = match (&model, fields.is_empty()) {
            (Some(_), _) => Progress::Found,
            _ => Progress::End,
        };
        prop_assert_eq!(scan_at_every_split(body.as_bytes()), (progress, model));
    }

    #[test]
    fn no_bytes_make_it_panic(body in "(\r|\n|--XX|--|content-disposition: form-data; ?|name=\"?model\"?|=|;|:|\\\\|a|\u{e9}){0,30}") {
        scan_at_every_split(body.as_bytes());
        scan_at_every_split(format!("--XX\r\n{body}").as_bytes());
    }
}
