//! Tests of the decision and of the encoders.

use std::io::Read;

use super::*;

const ALL: &[Coding] = &[Coding::Zstd, Coding::Br, Coding::Gzip];

fn headers(fields: &[(&'static str, &'static str)]) -> HeaderMap {
    fields
        .iter()
        .map(|(name, value)| (header::HeaderName::from_static(name), HeaderValue::from_static(value)))
        .collect()
}

fn chosen(accept: &'static str) -> Option<Coding> {
    negotiate(ALL, &headers(&[("accept-encoding", accept)]))
}

fn verdict(status: u16, response: &[(&'static str, &'static str)], length: Option<u64>) -> Verdict {
    let request = headers(&[("accept-encoding", "gzip, br, zstd")]);
    decide(ALL, &Method::GET, &request, status, &headers(response), length)
}

#[test]
fn the_client_says_what_it_likes_and_the_route_decides_between_equals() {
    assert_eq!(chosen("gzip, deflate, br, zstd"), Some(Coding::Zstd));
    assert_eq!(chosen("gzip, br"), Some(Coding::Br));
    assert_eq!(chosen("gzip;q=1.0, br;q=0.9"), Some(Coding::Gzip));
    assert_eq!(chosen("GZIP;Q=0.001"), Some(Coding::Gzip));
    assert_eq!(chosen("x-gzip"), Some(Coding::Gzip));
    assert_eq!(chosen("*"), Some(Coding::Zstd));
    assert_eq!(chosen("*, zstd;q=0"), Some(Coding::Br));
    assert_eq!(chosen("identity, gzip;q=0.5"), None);
    assert_eq!(chosen("identity;q=0.5, gzip;q=0.5"), Some(Coding::Gzip));
    for none in ["", "deflate", "gzip;q=0", "gzip;q=0.000", "gzip;q=x", "gzip;q=2", "identity"] {
        assert_eq!(chosen(none), None, "{none}");
    }
    assert_eq!(negotiate(ALL, &HeaderMap::new()), None);
    assert_eq!(negotiate(&[], &headers(&[("accept-encoding", "gzip")])), None);
}

#[test]
fn only_text_of_one_piece_is_compressed() {
    for kind in
        ["text/html; charset=utf-8", "application/json", "image/svg+xml", "application/problem+json", "TEXT/CSS"]
    {
        assert_eq!(verdict(200, &[("content-type", kind)], None).coding, Some(Coding::Zstd), "{kind}");
    }
    for kind in [
        "application/x-ndjson",
        "text/event-stream",
        "application/stream+json",
        "application/jsonl",
        "application/json-seq",
        "image/png",
        "application/octet-stream",
        "multipart/mixed",
        "",
    ] {
        assert_eq!(verdict(200, &[("content-type", kind)], None), Verdict { coding: None, vary: false }, "{kind}");
    }
    assert_eq!(verdict(200, &[], None).coding, None);
}

#[test]
fn what_must_stay_as_it_is_stays() {
    const TEXT: (&str, &str) = ("content-type", "text/plain");
    for status in [101, 204, 206, 304] {
        assert_eq!(verdict(status, &[TEXT], None).coding, None, "{status}");
    }
    assert_eq!(verdict(404, &[TEXT], None).coding, Some(Coding::Zstd));
    assert_eq!(verdict(200, &[TEXT], Some(1023)).coding, None);
    assert_eq!(verdict(200, &[TEXT], Some(1024)).coding, Some(Coding::Zstd));
    for field in
        [("content-encoding", "gzip"), ("content-range", "bytes 0-1/2"), ("cache-control", "public, No-Transform")]
    {
        assert_eq!(verdict(200, &[TEXT, field], None).coding, None, "{field:?}");
    }
    let request = headers(&[("accept-encoding", "gzip")]);
    let head = decide(ALL, &Method::HEAD, &request, 200, &headers(&[TEXT]), None);
    assert_eq!(head, Verdict { coding: None, vary: true });
    assert_eq!(decide(&[], &Method::GET, &request, 200, &headers(&[TEXT]), None).coding, None);
}

#[test]
fn the_head_says_what_was_done() {
    let mut response =
        headers(&[("content-length", "9"), ("etag", "\"a\""), ("vary", "origin"), ("accept-ranges", "bytes")]);
    announce(&mut response, Verdict { coding: Some(Coding::Br), vary: true });
    let text = |name: &str| response.get_all(name).iter().map(|v| v.to_str().unwrap()).collect::<Vec<_>>();
    assert_eq!(text("content-encoding"), ["br"]);
    assert_eq!(text("etag"), ["W/\"a\""]);
    assert_eq!(text("vary"), ["origin", "Accept-Encoding"]);
    assert!(text("content-length").is_empty() && text("accept-ranges").is_empty());
    let before = response.clone();
    announce(&mut response, Verdict { coding: None, vary: true });
    assert_eq!(response, before);
}

fn decoded(coding: Coding, bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    match coding {
        Coding::Gzip => flate2::read::GzDecoder::new(bytes).read_to_end(&mut out).map(|_| ()).unwrap_or_default(),
        // What is not complete yet ends in an error after all that can be decoded.
        Coding::Br => drop(brotli::Decompressor::new(bytes, 4096).read_to_end(&mut out)),
        Coding::Zstd => drop(zstd::stream::read::Decoder::new(bytes).unwrap().read_to_end(&mut out)),
    }
    out
}

#[test]
fn a_body_in_pieces_is_read_back_and_a_flush_gives_all_so_far() {
    let text: Vec<u8> = (0..40_000_u32).flat_map(|number| format!("line {}\n", number % 97).into_bytes()).collect();
    for coding in ALL {
        let mut encoder = Encoder::new(*coding).unwrap();
        let mut out = Vec::new();
        let (first, rest) = text.split_at(1000);
        out.extend_from_slice(&encoder.push(first).unwrap());
        out.extend_from_slice(&encoder.flush().unwrap());
        assert_eq!(decoded(*coding, &out), first, "{coding:?} after a flush");
        for piece in rest.chunks(7777) {
            out.extend_from_slice(&encoder.push(piece).unwrap());
        }
        out.extend_from_slice(&encoder.finish().unwrap());
        assert_eq!(decoded(*coding, &out), text, "{coding:?}");
        assert!(out.len() < text.len() / 5, "{coding:?}: {}", out.len());
    }
}
