use proptest::prelude::*;

use super::*;

fn trusted() -> Networks {
    ["10.0.0.0/8", "2001:db8::/32"].iter().map(|text| text.parse().unwrap()).collect()
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn fields(list: &[(&'static str, &str)]) -> HeaderMap {
    let mut fields = HeaderMap::new();
    for (name, value) in list {
        fields.append(*name, HeaderValue::from_bytes(value.as_bytes()).unwrap());
    }
    fields
}

/// Who sent a request with these fields from this peer.
fn client(peer: &str, list: &[(&'static str, &str)]) -> Client {
    resolve(ip(peer), false, &trusted(), &fields(list)).unwrap()
}

#[track_caller]
fn seen(list: &[(&'static str, &str)], wanted: &str) {
    assert_eq!(client("10.0.0.1", list).ip, ip(wanted), "{list:?}");
}

#[test]
fn a_peer_that_is_not_trusted_is_the_client_whatever_it_says() {
    let lies = [
        ("x-forwarded-for", "1.1.1.1"),
        ("forwarded", "for=1.1.1.1;proto=https"),
        ("x-real-ip", "1.1.1.1"),
        ("true-client-ip", "1.1.1.1"),
        ("via", "1.1 1.1.1.1"),
        ("x-forwarded-proto", "https"),
    ];
    let direct = Client::direct(ip("192.0.2.1"), false);
    for lie in lies {
        assert_eq!(client("192.0.2.1", &[lie]), direct, "{lie:?}");
    }
    assert_eq!(client("::ffff:192.0.2.1", &lies), direct);
    assert_eq!(resolve(ip("10.0.0.1"), false, &Networks::default(), &fields(&lies)).unwrap().ip, ip("10.0.0.1"));
    assert_eq!(client("192.0.2.1", &[("forwarded", "for=\"")]), direct, "nothing of it is read");
    assert!(resolve(ip("192.0.2.1"), true, &trusted(), &fields(&[("x-forwarded-proto", "http")])).unwrap().tls);
}

#[test]
fn the_rightmost_address_that_is_no_trusted_proxy_is_the_client() {
    seen(&[("x-forwarded-for", "192.0.2.7")], "192.0.2.7");
    seen(&[("x-forwarded-for", "6.6.6.6, 192.0.2.7")], "192.0.2.7");
    seen(&[("x-forwarded-for", "6.6.6.6, 192.0.2.7, 10.0.0.2")], "192.0.2.7");
    seen(&[("x-forwarded-for", "10.6.6.6, 192.0.2.7, 10.0.0.2, 2001:db8::3")], "192.0.2.7");
    seen(&[("x-forwarded-for", "6.6.6.6"), ("x-forwarded-for", "192.0.2.7, 10.0.0.2")], "192.0.2.7");
    seen(&[("x-forwarded-for", " , 192.0.2.7 ,, 10.0.0.2 , ")], "192.0.2.7");
    seen(&[("x-forwarded-for", "10.0.0.9, 10.0.0.2")], "10.0.0.9");
    seen(&[], "10.0.0.1");
}

#[test]
fn the_way_is_kept_without_what_may_be_invented() {
    let found = client("10.0.0.1", &[("x-forwarded-for", "6.6.6.6, 192.0.2.7, 10.0.0.2")]);
    assert_eq!(found.proxies, [ip("10.0.0.2"), ip("10.0.0.1")]);
    assert_eq!(found.forwarded_for(), "192.0.2.7, 10.0.0.2, 10.0.0.1");
    assert_eq!(client("192.0.2.1", &[("x-forwarded-for", "6.6.6.6")]).forwarded_for(), "192.0.2.1");
    assert_eq!(client("10.0.0.1", &[]).forwarded_for(), "10.0.0.1");
}

#[test]
fn every_spelling_of_an_address_is_read() {
    for (written, wanted) in [
        ("192.0.2.7:8080", "192.0.2.7"),
        ("2a00::7", "2a00::7"),
        ("[2a00::7]", "2a00::7"),
        ("[2a00::7]:443", "2a00::7"),
        ("\"[2A00::7]:443\"", "2a00::7"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("[::ffff:192.0.2.7]:1", "192.0.2.7"),
    ] {
        seen(&[("x-forwarded-for", written)], wanted);
        seen(&[("x-real-ip", written)], wanted);
    }
}

#[test]
fn where_an_entry_is_no_address_the_last_known_proxy_is_the_client() {
    let words = [
        "unknown",
        "_hidden",
        "localhost",
        "192.0.2.7:99999",
        "[2a00::7",
        "fe80::1%eth0",
        "[fe80::1%2]:1",
        "\u{ff11}",
        "1.2.3",
    ];
    for word in words {
        seen(&[("x-forwarded-for", &format!("6.6.6.6, {word}"))], "10.0.0.1");
        seen(&[("x-forwarded-for", &format!("6.6.6.6, {word}, 10.0.0.2"))], "10.0.0.2");
        seen(&[("x-forwarded-for", &format!("{word}, 192.0.2.7"))], "192.0.2.7");
        seen(&[("x-real-ip", word)], "10.0.0.1");
    }
}

#[test]
fn no_more_than_twenty_entries_are_read() {
    let long = format!("192.0.2.7{}", ", 10.0.0.2".repeat(10_000));
    let found = client("10.0.0.1", &[("x-forwarded-for", &long)]);
    assert_eq!((found.ip, found.proxies.len()), (ip("10.0.0.2"), MAX_ENTRIES));
    let long = format!("{}192.0.2.7", "6.6.6.6, ".repeat(10_000));
    seen(&[("x-forwarded-for", &long)], "192.0.2.7");
    for (proxies, wanted) in [(19, "192.0.2.7"), (20, "10.0.0.2")] {
        seen(&[("x-forwarded-for", &format!("192.0.2.7{}", ", 10.0.0.2".repeat(proxies)))], wanted);
        seen(&[("forwarded", &format!("for=192.0.2.7{}", ", for=10.0.0.2".repeat(proxies)))], wanted);
    }
}

#[test]
fn forwarded_is_read_where_there_is_no_list() {
    seen(&[("forwarded", "for=6.6.6.6, for=192.0.2.7;proto=https;by=10.0.0.1")], "192.0.2.7");
    seen(&[("forwarded", "For=\"[2a00::7]:4711\"; host=\"a,b;c\"")], "2a00::7");
    seen(&[("forwarded", "for=192.0.2.7"), ("forwarded", "for=10.0.0.2")], "192.0.2.7");
    seen(&[("forwarded", "for=\"6.6.6.6"), ("x-forwarded-for", "192.0.2.7")], "192.0.2.7");
    seen(&[("forwarded", "for=6.6.6.6, for=unknown")], "10.0.0.1");
    seen(&[("forwarded", "for=6.6.6.6, proto=https")], "10.0.0.1");
    seen(&[("forwarded", "for=192.0.2.7;ext=\"\\\", for=6.6.6.6\"")], "192.0.2.7");
    seen(&[("forwarded", "for=192.0.2.7"), ("x-real-ip", "6.6.6.6")], "192.0.2.7");
    let broken = fields(&[("forwarded", "for=6.6.6.6;x=\", for=192.0.2.7")]);
    assert_eq!(resolve(ip("10.0.0.1"), false, &trusted(), &broken), Err(Ambiguous));
}

#[test]
fn a_trusted_proxy_tells_how_its_client_spoke() {
    let tls = |list: &[(&'static str, &str)]| client("10.0.0.1", list).tls;
    assert!(tls(&[("x-forwarded-proto", "https")]) && tls(&[("x-forwarded-proto", "http, HTTPS")]));
    assert!(!tls(&[("x-forwarded-proto", "http")]) && !tls(&[("x-forwarded-proto", "ftp")]) && !tls(&[]));
    assert!(tls(&[("forwarded", "for=192.0.2.7;proto=\"https\", for=10.0.0.2;proto=http")]));
    assert!(!tls(&[("forwarded", "for=192.0.2.7;proto=http"), ("x-forwarded-proto", "https")]));
    assert!(tls(&[("forwarded", "for=192.0.2.7"), ("x-forwarded-proto", "https")]));
}

proptest! {
    #[test]
    fn no_text_makes_it_fail_and_only_an_open_quote_is_ambiguous(text in "[ -~]{0,80}") {
        for name in ["x-forwarded-for", "x-real-ip", "x-forwarded-proto"] {
            prop_assert!(resolve(ip("10.0.0.1"), false, &trusted(), &fields(&[(name, &text)])).is_ok());
        }
        let found = resolve(ip("10.0.0.1"), false, &trusted(), &fields(&[("forwarded", &text)]));
        prop_assert!(found.is_ok() || text.contains('"'));
    }

    #[test]
    fn what_a_client_writes_in_front_never_changes_who_it_is(spoofed in "[0-9a-f.:, \\[\\]\"_=;]{0,60}") {
        let list = format!("{spoofed}, 192.0.2.7");
        prop_assert_eq!(client("10.0.0.1", &[("x-forwarded-for", &list)]).ip, ip("192.0.2.7"));
        let list = format!("{spoofed}, for=192.0.2.7");
        if let Ok(found) = resolve(ip("10.0.0.1"), false, &trusted(), &fields(&[("forwarded", &list)])) {
            prop_assert_eq!(found.ip, ip("192.0.2.7"));
        }
    }
}
