//! Rules about TLS, with the position of what they find.

use std::fs;

use super::{GOOD, found, load};

struct Files(tempfile::TempDir);

impl Files {
    /// `cert.pem` and `key.pem` for these names, and `other.key`, which does not fit.
    fn new(names: &[&str], end: i32) -> Self {
        let files = Self(tempfile::tempdir().expect("a folder"));
        let key = rcgen::KeyPair::generate().expect("a key");
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = rcgen::CertificateParams::new(names).expect("names");
        params.not_after = rcgen::date_time_ymd(end, 1, 1);
        files.write("cert.pem", params.self_signed(&key).expect("a certificate").pem());
        files.write("key.pem", key.serialize_pem());
        files.write("other.key", rcgen::KeyPair::generate().expect("a key").serialize_pem());
        files
    }

    fn write(&self, name: &str, text: String) {
        fs::write(self.0.path().join(name), text).expect("written");
    }

    /// The good file with a `tls` block at its listener; `@` stands for the folder.
    fn listener(&self, tls: &str) -> String {
        let address = "  - address: 127.0.0.1:0";
        self.fill(&GOOD.replace(address, &format!("{address}\n    tls: {tls}")))
    }

    /// The good file with a `tls` block at its upstream, whose server has TLS.
    fn upstream(&self, tls: &str) -> String {
        let kind = "    kind: ollama";
        let text = GOOD.replace(kind, &format!("{kind}\n    tls: {tls}"));
        self.fill(&text.replace("http://127.0.0.1:11434", "https://127.0.0.1:11434"))
    }

    fn fill(&self, text: &str) -> String {
        text.replace('@', &self.0.path().display().to_string())
    }
}

const PAIR: &str = "certificates: [{ cert: @/cert.pem, key: @/key.pem }]";

#[track_caller]
fn says(text: &str, words: &str) {
    let printed = match load(text) {
        Ok(loaded) => super::Diagnostics(loaded.warnings).render(false),
        Err(found) => found.render(false),
    };
    assert!(printed.contains(words), "{printed}");
}

#[test]
fn good_files_are_good() {
    let files = Files::new(&["a.test"], 2100);
    for more in ["", ", min_version: \"1.3\"", ", min_version: 1.2", ", client_ca: @/cert.pem", ", client_auth: off"] {
        assert_eq!(found(&files.listener(&format!("{{ {PAIR}{more} }}"))), Vec::<String>::new(), "{more}");
    }
    let all = "{ ca: @/cert.pem, server_name: a.test, client_cert: @/cert.pem, client_key: @/key.pem }";
    assert_eq!(found(&files.upstream(all)), Vec::<String>::new());
    assert_eq!(found(&files.upstream("{ server_name: \"10.0.0.1\" }")), Vec::<String>::new());
}

#[test]
fn a_route_for_a_scheme_that_no_listener_has_is_a_warning() {
    let files = Files::new(&["a.test"], 2100);
    let file = files.listener(&format!("{{ {PAIR} }}"));
    let route = |scheme| {
        file.replace("    upstream: fleet", &format!("    upstream: fleet\n    match: {{ scheme: {scheme} }}"))
    };
    assert_eq!(found(&route("https")), Vec::<String>::new());
    assert_eq!(found(&route("http")), ["W001 8:22 routes[0].match.scheme"]);
    says(&route("http"), "all listeners have `tls`");
}

#[test]
fn files_that_cannot_be_used_are_found_where_they_are_named() {
    let files = Files::new(&["a.test"], 2100);
    let entry = |entry: &str| files.listener(&format!("{{ certificates: [{entry}] }}"));
    let at = "listeners[0].tls.certificates[0]";
    let none = entry("{ cert: @/none.pem, key: @/nokey.pem }");
    assert_eq!(found(&none).iter().map(|one| &one[..4]).collect::<Vec<_>>(), ["E050", "E050"]);
    assert!(found(&none)[0].ends_with(&format!("{at}.cert")), "{:?}", found(&none));
    says(&none, "none.pem` does not exist");
    let other = entry("{ cert: @/cert.pem, key: @/other.key }");
    assert!(found(&other)[0].starts_with("E053 ") && found(&other)[0].ends_with(&format!("{at}.key")));
    let swapped = entry("{ cert: @/key.pem, key: @/cert.pem }");
    assert!(found(&swapped)[0].starts_with("E051 ") && found(&swapped)[0].ends_with(&format!("{at}.cert")));
    let staple = entry("{ cert: @/cert.pem, key: @/key.pem, ocsp: @/key.pem }");
    assert!(found(&staple)[0].starts_with("E054 ") && found(&staple)[0].ends_with(&format!("{at}.ocsp")));
    for key in ["ca: @/none", "client_cert: @/none, client_key: @/key.pem"] {
        let found = found(&files.upstream(&format!("{{ {key} }}")));
        assert!(found.len() == 1 && found[0].starts_with("E050 "), "{found:?}");
    }
    let ca = files.listener(&format!("{{ {PAIR}, client_ca: @/key.pem }}"));
    assert!(found(&ca)[0].starts_with("E051 ") && found(&ca)[0].ends_with("listeners[0].tls.client_ca"));
}

#[test]
fn a_path_out_of_a_variable_is_not_shown() {
    let text = GOOD.replace(
        "  - address: 127.0.0.1:0",
        "  - address: 127.0.0.1:0\n    tls: { certificates: [{ cert: \"${SECRET_PLACE}\", key: /none }] }",
    );
    let variable = |name: &str| (name == "SECRET_PLACE").then(|| "/hidden/place".to_owned());
    let printed = crate::config::parse("test.yaml", &text, &variable).expect_err("no such file").render(false);
    assert!(printed.contains("${SECRET_PLACE}") && !printed.contains("hidden"), "{printed}");
}

#[test]
fn settings_that_do_not_fit_together_are_found() {
    let files = Files::new(&["a.test"], 2100);
    let code = |text: &str| found(text).iter().map(|one| one[..4].to_owned()).collect::<Vec<_>>();
    let listener = |more: &str| files.listener(&format!("{{ {PAIR}{more} }}"));
    assert_eq!(code(&files.listener("{ certificates: [] }")), ["E021"]);
    assert_eq!(code(&listener(", client_auth: required")), ["E038"]);
    assert_eq!(code(&listener(", client_auth: off, client_ca: @/cert.pem")), ["E038"]);
    assert_eq!(code(&listener(", min_version: \"1.1\"")), ["E013"]);
    assert_eq!(code(&listener("").replace("    tls:", "    h2c: true\n    tls:")), ["E036"]);
    assert_eq!(code(&listener("").replace("    tls:", "    timeouts: { tls: 0s }\n    tls:")), ["E035"]);
    assert_eq!(code(&files.upstream("{ client_cert: @/cert.pem }")), ["E038"]);
    assert_eq!(code(&files.upstream("{ client_key: @/key.pem }")), ["E038"]);
    assert_eq!(code(&files.upstream("{ server_name: \"a b\" }")), ["E013"]);
    assert_eq!(code(&files.upstream("{}").replace("https:", "http:")), ["E036"]);
}

#[test]
fn what_is_probably_not_meant_is_a_warning() {
    let old = Files::new(&["a.test"], 2000);
    let expired = old.listener(&format!("{{ {PAIR} }}"));
    assert!(load(&expired).is_ok());
    assert!(found(&expired)[0].starts_with("W020 ") && found(&expired)[0].ends_with("certificates[0].cert"));
    says(&expired, "expired on 2000-01-01");
    let files = Files::new(&[], 2100);
    let unchecked = files.upstream("{ verify: false }");
    assert!(load(&unchecked).is_ok());
    assert!(found(&unchecked)[0].starts_with("W021 ") && found(&unchecked)[0].ends_with("fleet.tls.verify"));
    let pair = "{ cert: @/cert.pem, key: @/key.pem }";
    assert_eq!(found(&files.listener(&format!("{{ certificates: [{pair}] }}"))), Vec::<String>::new());
    let second = files.listener(&format!("{{ certificates: [{pair}, {pair}] }}"));
    assert!(found(&second)[0].starts_with("W023 ") && found(&second)[0].ends_with("certificates[1].cert"));
    fs::write(files.0.path().join("staple"), include_bytes!("../credentials/testdata/staple.der")).expect("written");
    let staple = files.listener("{ certificates: [{ cert: @/cert.pem, key: @/key.pem, ocsp: @/staple }] }");
    assert!(found(&staple)[0].starts_with("W022 ") && found(&staple)[0].ends_with("certificates[0].ocsp"));
}
