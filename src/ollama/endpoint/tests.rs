use super::*;

fn get(path: &str) -> Endpoint<'_> {
    classify(&Method::GET, path)
}

fn post(path: &str) -> Endpoint<'_> {
    classify(&Method::POST, path)
}

#[test]
fn every_inference_path_is_known_by_its_own_name() {
    for inference in [
        Inference::Generate,
        Inference::Chat,
        Inference::Embed,
        Inference::Embeddings,
        Inference::OpenaiChat,
        Inference::OpenaiCompletions,
        Inference::OpenaiEmbeddings,
        Inference::OpenaiResponses,
        Inference::OpenaiImageGenerations,
        Inference::OpenaiImageEdits,
        Inference::OpenaiTranscriptions,
        Inference::AnthropicMessages,
    ] {
        assert_eq!(post(inference.path()), Endpoint::Inference(inference));
        assert_eq!(get(inference.path()), Endpoint::WrongMethod("POST"));
        assert_eq!(post(inference.path()).label(), inference.path());
    }
}

#[test]
fn reads_take_the_methods_that_ollama_registers() {
    assert_eq!(classify(&Method::HEAD, "/"), Endpoint::Root);
    assert_eq!(classify(&Method::HEAD, "/api/tags"), Endpoint::Tags);
    assert_eq!(classify(&Method::HEAD, "/api/ps"), Endpoint::WrongMethod("GET"));
    assert_eq!(get("/api/version"), Endpoint::Version);
    assert_eq!(get("/v1/models"), Endpoint::OpenaiModels);
    assert_eq!(post("/api/tags"), Endpoint::WrongMethod("GET, HEAD"));
    assert_eq!(classify(&Method::OPTIONS, "/api/chat"), Endpoint::WrongMethod("POST"));
}

#[test]
fn what_changes_a_server_is_management() {
    for (method, path, verb) in [
        ("POST", "/api/pull", Management::Pull),
        ("DELETE", "/api/delete", Management::Delete),
        ("HEAD", "/api/blobs/sha256:00", Management::Blob),
        ("POST", "/api/blobs/sha256:00", Management::Blob),
        ("DELETE", "/api/user/keys/abc", Management::Signout),
        ("POST", "/api/experimental/web_fetch", Management::Experimental),
        ("GET", "/api/experimental/model-recommendations", Management::Experimental),
        ("GET", "/debug/pprof/heap", Management::Debug),
    ] {
        let method = Method::from_bytes(method.as_bytes()).expect("a method");
        assert_eq!(classify(&method, path), Endpoint::Management(verb), "{path}");
    }
    assert_eq!(
        classify(&Method::from_bytes(b"delete").expect("a method"), "/api/delete"),
        Endpoint::WrongMethod("DELETE")
    );
}

#[test]
fn a_path_that_only_looks_like_one_is_unknown() {
    for path in [
        "/API/chat",
        "/api/chat/",
        "/api//chat",
        "",
        "/api",
        "/v1/messages/count_tokens",
        "/api/blobs/",
        "/api/blobs/a/b",
        "/v1/models/",
        "/v1/models/%zz",
        "/v1/models/%ff",
        "/v1/models/a%2",
    ] {
        assert_eq!(get(path), Endpoint::Unknown, "{path:?}");
    }
}

#[test]
fn a_model_in_the_path_is_decoded() {
    assert_eq!(get("/v1/models/llama3:8b"), Endpoint::OpenaiModel(Cow::Borrowed("llama3:8b")));
    assert_eq!(get("/v1/models/Qwen/Qwen2.5"), Endpoint::OpenaiModel(Cow::Borrowed("Qwen/Qwen2.5")));
    assert_eq!(get("/v1/models/ns%2Fm%3A7b"), Endpoint::OpenaiModel(Cow::Owned("ns/m:7b".into())));
}

#[test]
fn defaults_follow_the_api() {
    assert!(post("/api/chat").default_stream());
    assert!(post("/api/pull").default_stream());
    assert!(!post("/api/embed").default_stream());
    assert!(!post("/v1/chat/completions").default_stream());
    assert_eq!(post("/v1/messages").dialect(), Dialect::Anthropic);
    assert_eq!(post("/v1/audio/transcriptions").want_model(), ModelSource::Multipart);
    assert_eq!(post("/api/chat").want_model().want(), Some(Want::ModelOnly));
    assert_eq!(post("/api/show").want_model().want(), Some(Want::Model));
    assert_eq!(post("/api/copy").want_model().want(), Some(Want::Source));
    assert_eq!(get("/api/tags").want_model(), ModelSource::None);
    assert_eq!(get("/v1/models/m").want_model(), ModelSource::Path);
}

/// `reliability.md`, section 1f: everything that is not allowed is denied, whatever it is called.
#[test]
fn nothing_is_allowed_but_what_is_listed() {
    const METHODS: [&str; 9] = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "post", "PROPFIND"];
    // What goes through or is answered here, with its methods.
    let allowed = [
        ("/", "GET, HEAD"),
        ("/api/generate", "POST"),
        ("/api/chat", "POST"),
        ("/api/embed", "POST"),
        ("/api/embeddings", "POST"),
        ("/api/show", "POST"),
        ("/api/tags", "GET, HEAD"),
        ("/api/ps", "GET"),
        ("/api/version", "GET, HEAD"),
        ("/api/status", "GET"),
        ("/v1/chat/completions", "POST"),
        ("/v1/completions", "POST"),
        ("/v1/embeddings", "POST"),
        ("/v1/responses", "POST"),
        ("/v1/messages", "POST"),
        ("/v1/images/generations", "POST"),
        ("/v1/images/edits", "POST"),
        ("/v1/audio/transcriptions", "POST"),
        ("/v1/models", "GET"),
        ("/v1/models/a:7b", "GET"),
    ];
    for (path, methods) in allowed {
        for method in METHODS {
            let endpoint = Method::from_bytes(method.as_bytes()).map(|method| classify(&method, path).label());
            let denied = matches!(endpoint, Ok("wrong_method" | "unknown"));
            assert_eq!(!denied, methods.split(", ").any(|allowed| allowed == method), "{method} {path}");
        }
    }
    for path in [
        "/api/pull",
        "/api/push",
        "/api/create",
        "/api/copy",
        "/api/delete",
        "/api/blobs/sha256:00",
        "/api/blobs/",
        "/api/me",
        "/api/signout",
        "/api/user/keys/a",
        "/api/user/keys",
        "/api/user",
        "/api/experimental",
        "/api/experimental/web_search",
        "/api/experimental/web_fetch",
        "/api/experimental/x/y",
        "/debug",
        "/debug/",
        "/debug/pprof/heap",
        "/api",
        "/api/",
        "/v1",
        "/v1/",
        "/api/chat/",
        "/api/chat/x",
        "/api/chat.",
        "/API/pull",
        "/Api/Pull",
        "/api/pull/",
        "/api/pull.",
        "/v1/chat",
        "/v1/fine_tuning/jobs",
        "/v1/files",
        "/v2/models",
        "/metrics",
        "/health",
        "/favicon.ico",
        "/api/web_search",
        "/v1/messages/count_tokens",
        "/v1/models/",
    ] {
        for method in METHODS {
            let method = Method::from_bytes(method.as_bytes()).expect("a method");
            let endpoint = classify(&method, path);
            let denied = matches!(endpoint, Endpoint::Management(_) | Endpoint::WrongMethod(_) | Endpoint::Unknown);
            assert!(denied, "{method} {path}: {endpoint:?}");
        }
    }
}
