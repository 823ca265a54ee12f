use super::*;

#[test]
fn codes_are_sorted_so_that_they_can_be_searched() {
    assert!(CODES.is_sorted());
}

#[test]
fn counting_shows_in_the_text() {
    let metrics = Arc::new(Metrics::default());
    let route = metrics.route("chat", "fleet");
    route.status(200);
    route.status(418);
    metrics.ended(Reason::ALL[0]);
    let text = metrics.encode();
    assert!(text.contains("arriero_requests_total{route=\"chat\",upstream=\"fleet\",code=\"200\"} 1"), "{text}");
    assert!(text.contains("code=\"400\"} 1"), "{text}");
    assert!(text.ends_with("# EOF\n"));
}
