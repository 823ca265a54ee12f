//! The lists of `reliability.md`, section 1d, against the rules together: a request for a management verb in
//! whatever disguise gets the decision of the plain one, or a refusal, and never a server.

use arriero::ollama::endpoint::{Endpoint, Management, classify};
use arriero::routing::path;
use http::Method;

/// What becomes of a request to a route whose servers are Ollama's.
#[derive(Debug, PartialEq, Eq)]
enum Decision {
    /// 400: the path is not plain.
    Refused,
    /// 403, unless the route allows management.
    Denied(Management),
    /// 404 or 405.
    NoSuch,
    /// It is passed on, or answered here.
    Passed,
}

fn decide(method: &str, target: &str) -> Decision {
    // As the head has it: the path ends at the query.
    let raw = target.split('?').next().unwrap_or_default();
    let Ok(canonical) = path::strict(raw) else { return Decision::Refused };
    let method = Method::from_bytes(method.as_bytes()).expect("a method");
    match classify(&method, &canonical) {
        Endpoint::Management(verb) => Decision::Denied(verb),
        Endpoint::Unknown | Endpoint::WrongMethod(_) => Decision::NoSuch,
        _ => Decision::Passed,
    }
}

#[test]
fn a_pull_in_disguise_is_a_pull_or_refused() {
    use Decision::{Denied, NoSuch, Refused};
    let pull = || Denied(Management::Pull);
    assert_eq!(decide("POST", "/api/chat"), Decision::Passed);
    for (target, wanted) in [
        ("/api/pull", pull()),
        ("/api/pull/", NoSuch),
        ("/api/pull?", pull()),
        ("/api/pull?x=/api/chat", pull()),
        ("/api/pull#", Refused),
        ("//api/pull", Refused),
        ("/api//pull", Refused),
        ("/./api/pull", Refused),
        ("/api/./pull", Refused),
        ("/api/chat/../pull", Refused),
        ("/api/%2e%2e/api/pull", Refused),
        ("/api/chat/..%2fpull", Refused),
        ("/api%2Fpull", Refused),
        ("/api%2fpull", Refused),
        ("/%61pi/pull", pull()),
        ("/%2561pi/pull", Refused),
        ("/api%5Cpull", Refused),
        ("/api\\pull", Refused),
        ("/api/pull%00", Refused),
        ("/api/pull%20", Refused),
        ("/api/pull%0a", Refused),
        ("/api/pull;a=b", Refused),
        ("/api;x/pull", Refused),
        ("/API/pull", NoSuch),
        ("/Api/Pull", NoSuch),
        ("/api/pull.", NoSuch),
        ("/api/pull%ef%bc%8f", Refused),
        ("/api/%c0%afpull", Refused),
        ("/ａpi/pull", Refused),
        ("http://a.test/api/pull", Refused),
        ("http://evil/api/pull", Refused),
        ("*", Refused),
    ] {
        assert_eq!(decide("POST", target), wanted, "{target}");
    }
}

#[test]
fn other_verbs_in_disguise_fare_no_better() {
    use Decision::{Denied, NoSuch, Refused};
    for (method, target, wanted) in [
        ("GET", "/debug/pprof/heap", Denied(Management::Debug)),
        ("HEAD", "/api/blobs/sha256:..%2f..%2fetc", Refused),
        ("POST", "/api/blobs/sha256:00", Denied(Management::Blob)),
        ("DELETE", "/api/delete", Denied(Management::Delete)),
        ("delete", "/api/delete", NoSuch),
        ("Delete", "/api/delete", NoSuch),
        // A field may ask for another method; nobody here listens to it.
        ("POST", "/api/delete", NoSuch),
        ("HEAD", "/api/ps", NoSuch),
        ("GET", "/api/chat", NoSuch),
        ("GET", "/api/pull", NoSuch),
        ("OPTIONS", "/api/pull", NoSuch),
        ("DELETE", "/api/user/keys/abc", Denied(Management::Signout)),
        ("DELETE", "/api/user/keys/a%2Fb", Refused),
        ("POST", "/api/%6de", Denied(Management::Account)),
        ("POST", "/api/experimental/web%5Ffetch", Denied(Management::Experimental)),
        ("GET", "/v1/models/..%2F..%2Fapi%2Fpull", Refused),
        ("GET", "/v1/models/a/../../../api/pull", Refused),
    ] {
        assert_eq!(decide(method, target), wanted, "{method} {target}");
    }
}

#[test]
fn a_path_that_is_matched_loosely_is_matched_as_the_server_will_read_it() {
    // A rule of ours about `/admin/` is not passed by with a path that a web server reads as being below it.
    for raw in ["/admin/x", "//admin/x", "/admin//x", "/%61dmin/x", "/admi%6E/x"] {
        assert_eq!(path::safe(raw).as_deref(), Ok("/admin/x"), "{raw}");
    }
    for raw in [
        "/x/../admin/x",
        "/x/%2e%2e/admin/x",
        "/x%2f..%2fadmin/x",
        "/x/..;/admin/x",
        "/x\\..\\admin",
        "/admin%2Fx",
        "/./admin/x",
    ] {
        assert!(path::safe(raw).is_err(), "{raw}");
    }
}
