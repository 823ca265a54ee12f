use proptest::prelude::*;

use super::*;

fn fields(list: &[(&'static str, &str)]) -> HeaderMap {
    let mut fields = HeaderMap::new();
    for (name, value) in list {
        fields.append(*name, HeaderValue::from_bytes(value.as_bytes()).unwrap());
    }
    fields
}

fn listing(origins: &[&str], headers: &[&str], credentials: bool) -> Cors {
    Cors::new(origins, &["GET", "POST"], headers, &["x-request-id"], Duration::from_secs(600), credentials).unwrap()
}

fn cors() -> Cors {
    listing(&["https://app.example", "tauri://localhost"], &[], false)
}

fn verdict(cors: Option<&Cors>, guarded: bool, method: Method, list: &[(&'static str, &str)]) -> Verdict {
    judge(cors, guarded, &Asked { method: &method, host: Some("ai.example:8080"), fields: &fields(list) })
}

/// Origins that are neither ours nor listed.
const FOREIGN: [&str; 12] = [
    "null",
    "http://evil",
    "http://localhost.evil",
    "file://",
    "",
    "http://ai.example",
    "http://ai.example:8081",
    "https://ai.example.evil:8080",
    "https://app.example.evil",
    "https://app.example/",
    "HTTPS://APP.EXAMPLE",
    "https://app.example, https://app.example",
];

#[test]
fn a_foreign_origin_changes_nothing_and_asks_in_vain() {
    for origin in FOREIGN {
        for (cors, guarded) in [(None, true), (Some(&cors()), true), (Some(&cors()), false)] {
            for method in [Method::POST, Method::DELETE, Method::PUT, Method::PATCH] {
                let simple = [("origin", origin), ("content-type", "text/plain")];
                assert_eq!(verdict(cors, guarded, method.clone(), &simple), Verdict::Denied, "{method} {origin}");
                let json = [("origin", origin), ("content-type", "application/json")];
                assert_eq!(verdict(cors, guarded, method, &json), Verdict::Denied, "{origin}");
            }
            let preflight = [("origin", origin), ("access-control-request-method", "POST")];
            assert_eq!(verdict(cors, guarded, Method::OPTIONS, &preflight), Verdict::Denied, "{origin}");
            let socket = [("origin", origin), ("upgrade", "websocket")];
            assert_eq!(verdict(cors, guarded, Method::GET, &socket), Verdict::Denied, "{origin}");
            assert_eq!(verdict(cors, guarded, Method::GET, &[("origin", origin)]), Verdict::Pass, "{origin}");
        }
        assert_eq!(cors().fields(&fields(&[("origin", origin)])), [(VARY, HeaderValue::from_static("Origin"))]);
    }
}

#[test]
fn without_an_origin_or_with_our_own_everything_passes() {
    for cors in [None, Some(&cors())] {
        assert_eq!(verdict(cors, true, Method::POST, &[]), Verdict::Pass);
        for own in ["http://ai.example:8080", "https://ai.example:8080", "http://AI.example:8080"] {
            assert_eq!(verdict(cors, true, Method::POST, &[("origin", own)]), Verdict::Pass, "{own}");
        }
    }
    for (host, own, wanted) in [
        (Some("a.test"), "https://a.test", true),
        (Some("A.test:443"), "https://a.test", true),
        (Some("a.test"), "http://a.test:80", true),
        (Some("a.test:443"), "http://a.test", false),
        (Some("[::1]:8080"), "http://[::1]:8080", true),
        (Some(""), "http://", false),
        (None, "http://", false),
        (Some("a.test"), "a.test", false),
    ] {
        assert_eq!(is_own(own.as_bytes(), host), wanted, "{host:?} {own}");
    }
}

#[test]
fn a_plain_web_application_keeps_its_own_rules() {
    for list in [&[("origin", "http://evil")][..], &[("origin", "null"), ("access-control-request-method", "PUT")]] {
        assert_eq!(verdict(None, false, Method::POST, list), Verdict::Pass);
        assert_eq!(verdict(None, false, Method::OPTIONS, list), Verdict::Pass);
    }
}

#[test]
fn two_origins_are_a_foreign_one() {
    let two = [("origin", "https://app.example"), ("origin", "https://app.example")];
    assert_eq!(verdict(Some(&cors()), false, Method::POST, &two), Verdict::Denied);
    assert_eq!(verdict(Some(&listing(&["*"], &[], false)), false, Method::POST, &two), Verdict::Denied);
}

fn shown(fields: &Fields) -> String {
    fields.iter().map(|(name, value)| format!("{name}: {}\n", value.to_str().unwrap())).collect()
}

#[test]
fn a_preflight_from_a_listed_origin_is_answered() {
    let asked = [
        ("origin", "https://app.example"),
        ("access-control-request-method", "DELETE"),
        ("access-control-request-headers", "authorization, x-stainless-os"),
    ];
    let Verdict::Preflight(found) = verdict(Some(&cors()), true, Method::OPTIONS, &asked) else {
        panic!("a preflight")
    };
    let wanted = "vary: Origin, Access-Control-Request-Method, Access-Control-Request-Headers\n\
        access-control-allow-origin: https://app.example\naccess-control-allow-methods: GET, POST\n\
        access-control-allow-headers: authorization, x-stainless-os\naccess-control-max-age: 600\n";
    assert_eq!(shown(&found), wanted);
    assert_eq!(preflight_method(&Method::OPTIONS, &fields(&asked)), Some(Method::DELETE));
    assert_eq!(preflight_method(&Method::OPTIONS, &fields(&asked[..1])), None);
    assert_eq!(preflight_method(&Method::GET, &fields(&asked)), None);
    let Verdict::Preflight(found) =
        verdict(Some(&listing(&["https://app.example"], &["content-type"], true)), true, Method::OPTIONS, &asked)
    else {
        panic!("a preflight")
    };
    let found = shown(&found);
    assert!(found.contains("allow-headers: content-type\n") && found.contains("allow-credentials: true\n"), "{found}");
    let long = "x".repeat(LONGEST_ASKED + 1);
    for odd in ["a\u{e9}", "a: b", long.as_str()] {
        let asked = [asked[0], asked[1], ("access-control-request-headers", odd)];
        let Verdict::Preflight(found) = verdict(Some(&cors()), true, Method::OPTIONS, &asked) else { panic!("{odd}") };
        assert!(!shown(&found).contains("allow-headers"), "{odd}");
    }
    let plain = [("origin", "https://app.example")];
    assert_eq!(verdict(Some(&cors()), true, Method::OPTIONS, &plain), Verdict::Pass);
}

#[test]
fn our_fields_replace_those_of_the_server() {
    let mut answer = fields(&[
        ("access-control-allow-origin", "*"),
        ("access-control-allow-credentials", "true"),
        ("access-control-allow-headers", "x"),
        ("vary", "Accept-Encoding"),
        ("content-type", "text/plain"),
    ]);
    cors().apply(&fields(&[("origin", "https://app.example")]), &mut answer);
    let origins: Vec<_> = answer.get_all(ACCESS_CONTROL_ALLOW_ORIGIN).iter().collect();
    assert_eq!(origins, ["https://app.example"]);
    assert!(
        !answer.contains_key(ACCESS_CONTROL_ALLOW_CREDENTIALS) && !answer.contains_key(ACCESS_CONTROL_ALLOW_HEADERS)
    );
    assert_eq!(answer[ACCESS_CONTROL_EXPOSE_HEADERS], "x-request-id");
    let vary: Vec<_> = answer.get_all(VARY).iter().collect();
    assert_eq!(vary, ["Accept-Encoding", "Origin"]);
    let mut answer = fields(&[("access-control-allow-origin", "*")]);
    cors().apply(&fields(&[("origin", "http://evil")]), &mut answer);
    assert!(!answer.contains_key(ACCESS_CONTROL_ALLOW_ORIGIN));
}

#[test]
fn an_asterisk_lists_every_origin() {
    let all = listing(&["*"], &[], false);
    for origin in ["http://evil", "null"] {
        assert_eq!(verdict(Some(&all), true, Method::POST, &[("origin", origin)]), Verdict::Pass);
        assert!(shown(&all.fields(&fields(&[("origin", origin)]))).contains("access-control-allow-origin: *\n"));
    }
    assert_eq!(all.fields(&HeaderMap::new()), [(VARY, HeaderValue::from_static("Origin"))]);
}

#[test]
fn origins_are_checked_as_browsers_write_them() {
    for good in [
        "*",
        "https://app.example",
        "http://localhost:3000",
        "http://[::1]:8081",
        "app://obsidian.md",
        "chrome-extension://abc",
    ] {
        assert_eq!(check_origin(good), Ok(()), "{good}");
    }
    for (wrong, hint) in [
        ("null", "sandboxed"),
        ("app.example", "has a scheme"),
        ("https://App.example", "`https://app.example`"),
        ("https://app.example/", "`https://app.example`"),
        ("https://app.example/x", "`https://app.example`"),
        ("https://app.example:443", "`https://app.example`"),
        ("http://app.example:80", "`http://app.example`"),
        ("https://*.example", "only `*` alone"),
        ("file://", "a host"),
        ("https://a b", "a host"),
        ("https://u@a", "a host"),
        ("://a", "small letters"),
    ] {
        let error = check_origin(wrong).err().unwrap_or_default();
        assert!(error.contains(hint), "{wrong}: {error}");
    }
}

proptest! {
    #[test]
    fn no_origin_that_is_not_listed_posts(origin in "[ -~]{0,40}") {
        prop_assume!(!["https://app.example", "tauri://localhost"].contains(&&*origin));
        prop_assume!(!origin.to_ascii_lowercase().contains("ai.example"));
        prop_assert_eq!(verdict(Some(&cors()), true, Method::POST, &[("origin", &origin)]), Verdict::Denied);
    }
}
