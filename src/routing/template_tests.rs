//! Tests of templates: what is written, what comes out, and what never does.

use proptest::prelude::*;

use super::*;

fn facts(headers: &HeaderMap) -> Facts<'_> {
    Facts {
        host: "a.example",
        path: "/api/chat",
        query: Some("x=1"),
        method: "POST",
        scheme: "https",
        client_ip: Some(IpAddr::from([192, 0, 2, 7])),
        request_id: "id-1",
        route: "vision",
        upstream: "fleet",
        server: "a100",
        model: "llava:latest",
        status: Some(200),
        headers,
    }
}

fn render(text: &str, facts: &Facts<'_>) -> Option<String> {
    let template = Template::parse(text).unwrap_or_else(|error| panic!("{text}: {error}"));
    template.render(facts).map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned())
}

#[test]
fn every_variable_has_its_value() {
    let mut headers = HeaderMap::new();
    headers.append("x-team", HeaderValue::from_static("red"));
    headers.append("x-team", HeaderValue::from_static("blue"));
    let facts = facts(&headers);
    let values = [
        ("{host}", "a.example"),
        ("{uri}", "/api/chat?x=1"),
        ("{path}", "/api/chat"),
        ("{query}", "x=1"),
        ("{method}", "POST"),
        ("{scheme}", "https"),
        ("{client_ip}", "192.0.2.7"),
        ("{request_id}", "id-1"),
        ("{route}", "vision"),
        ("{upstream}", "fleet"),
        ("{server}", "a100"),
        ("{model}", "llava:latest"),
        ("{status}", "200"),
        ("{header:X-Team}", "red, blue"),
        ("{scheme}://{host}{uri}", "https://a.example/api/chat?x=1"),
        ("{{host}} {path}}", "{host}} /api/chat}"),
        ("plain", "plain"),
    ];
    for (text, expected) in values {
        assert_eq!(render(text, &facts).as_deref(), Some(expected), "{text}");
    }
    // Each variable that hints name is one of those above.
    for name in VARIABLES {
        let name = name.replace("NAME", "x");
        assert!(Template::parse(&format!("{{{name}}}")).is_ok(), "{name}");
    }
}

#[test]
fn what_a_request_does_not_have_is_empty_and_an_empty_value_is_none() {
    let headers = HeaderMap::new();
    let facts = Facts { query: None, client_ip: None, status: None, model: "", ..facts(&headers) };
    for text in ["{query}", "{client_ip}", "{status}", "{model}", "{header:x}", "", " {model} "] {
        assert_eq!(render(text, &facts), None, "{text}");
    }
    assert_eq!(render("{uri}", &facts).as_deref(), Some("/api/chat"));
    assert_eq!(render("[{model}]", &facts).as_deref(), Some("[]"));
}

#[test]
fn what_is_wrong_is_said() {
    let cases = [
        ("{host", TemplateError::Unclosed),
        ("a{", TemplateError::Unclosed),
        ("{hots}", TemplateError::Unknown("hots".to_owned())),
        ("{}", TemplateError::Unknown(String::new())),
        ("{header:a b}", TemplateError::Field("a b".to_owned())),
        ("{header:}", TemplateError::Field(String::new())),
        ("a\r\nb", TemplateError::Control),
        ("a\0", TemplateError::Control),
    ];
    for (text, expected) in cases {
        assert_eq!(Template::parse(text), Err(expected), "{text:?}");
    }
}

#[test]
fn a_value_with_a_line_break_is_left_out() {
    let headers = HeaderMap::new();
    for bad in ["a\r\nset-cookie: x", "a\nb", "a\rb", "a\0b", "a\x7fb"] {
        let facts = Facts { model: bad, ..facts(&headers) };
        assert_eq!(render("x {model}", &facts), None, "{bad:?}");
    }
}

#[test]
fn a_location_is_a_uri_and_stays_on_its_host() {
    let headers = HeaderMap::new();
    let at = |text: &str, path: &str| {
        let facts = Facts { path, query: None, ..facts(&headers) };
        let value = Template::parse(text).unwrap().render_uri(&facts);
        value.map(|value| value.to_str().unwrap().to_owned()).unwrap_or_default()
    };
    assert_eq!(at("{uri}", "//evil.example/x"), "/evil.example/x");
    assert_eq!(at("{path}", "///evil.example"), "/evil.example");
    assert_eq!(at("{path}", "/\\evil.example"), "/evil.example");
    assert_eq!(at("https://{host}{uri}", "/a b\"é\r\nx"), "https://a.example/a%20b%22%C3%A9%0D%0Ax");
    assert_eq!(at("/new{path}", "/x%20y"), "/new/x%20y");
}

proptest! {
    #[test]
    fn nothing_that_is_rendered_can_break_a_line(text in ".{0,20}", value in "[\\x00-\\x7f]{0,12}", path in ".{0,12}") {
        let headers = HeaderMap::new();
        let facts = Facts { model: &value, path: &path, query: Some(&value), ..facts(&headers) };
        for text in [text.as_str(), "{model}", "{uri}", "a{query}b"] {
            let Ok(template) = Template::parse(text) else { continue };
            for rendered in [template.render(&facts), template.render_uri(&facts)].into_iter().flatten() {
                let bad = |byte: &u8| *byte == 0x7f || (*byte < 0x20 && *byte != b'\t');
                prop_assert!(!rendered.as_bytes().iter().any(bad), "{rendered:?}");
            }
        }
    }

    #[test]
    fn a_redirect_to_the_path_never_leaves_the_host(path in "[/\\\\a. ]{0,8}") {
        let headers = HeaderMap::new();
        let facts = Facts { path: &path, query: None, ..facts(&headers) };
        for text in ["{uri}", "{path}"] {
            let value = Template::parse(text).unwrap().render_uri(&facts).unwrap();
            prop_assert!(value.as_bytes().starts_with(b"/") && !value.as_bytes().starts_with(b"//"), "{value:?}");
        }
    }
}
