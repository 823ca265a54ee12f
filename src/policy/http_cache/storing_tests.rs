use super::*;

const NOW: u64 = 784_111_777_000;

fn head(fields: &[(&'static str, &str)]) -> HeaderMap {
    fields.iter().map(|(name, value)| (HeaderName::from_static(name), HeaderValue::try_from(*value).unwrap())).collect()
}

fn judge_with(
    rules: Rules,
    credentials: Credentials,
    status: u16,
    fields: &[(&'static str, &str)],
) -> Result<Life, Unfit> {
    rules.judge(&Answer {
        credentials,
        no_store: false,
        status: StatusCode::from_u16(status).unwrap(),
        headers: &head(fields),
        received: NOW,
        waited: 0,
    })
}

fn judge(status: u16, fields: &[(&'static str, &str)]) -> Result<Life, Unfit> {
    judge_with(Rules::default(), Credentials::default(), status, fields)
}

/// Seconds for which an answer is fresh, or why it is not kept.
fn fresh(fields: &[(&'static str, &str)]) -> Result<u64, Unfit> {
    judge(200, fields).map(|life| life.fresh / 1000)
}

#[test]
fn what_may_be_kept() {
    let cc = |text| fresh(&[("cache-control", text)]);
    assert_eq!(cc("max-age=60"), Ok(60));
    assert_eq!(cc("Max-Age=60"), Ok(60));
    assert_eq!(cc("max-age=60, s-maxage=90"), Ok(90));
    assert_eq!(cc("max-age=60, max-age=5"), Ok(5));
    assert_eq!(cc("max-age=60, proxy-revalidate"), Ok(60));
    assert_eq!(cc("max-age=60, x=\"no-store, private\""), Ok(60));
    for (text, why) in [
        ("max-age=60, no-store", Unfit::NoStore),
        ("max-age=60, No-Store", Unfit::NoStore),
        ("max-age=60, Private", Unfit::Private),
        ("private=\"x-user\", max-age=60", Unfit::Private),
        ("max-age=0", Unfit::Lifetime),
        ("max-age=soon", Unfit::Lifetime),
        ("no-cache", Unfit::Lifetime),
        ("public", Unfit::Lifetime),
        ("immutable", Unfit::Lifetime),
    ] {
        assert_eq!(cc(text), Err(why), "{text}");
    }
    assert_eq!(fresh(&[]), Err(Unfit::Lifetime));
    assert_eq!(
        fresh(&[("last-modified", "Sun, 06 Nov 1984 08:49:37 GMT")]),
        Err(Unfit::Lifetime),
        "nothing is guessed"
    );
    assert_eq!(fresh(&[("cache-control", "max-age=60"), ("set-cookie", "a=b")]), Err(Unfit::SetCookie));
    assert_eq!(fresh(&[("cache-control", "public, max-age=60"), ("set-cookie", "a=b")]), Err(Unfit::SetCookie));
    assert_eq!(fresh(&[("cache-control", "max-age=60"), ("vary", "*")]), Err(Unfit::Vary));
    assert_eq!(fresh(&[("cache-control", "max-age=60"), ("vary", "accept, a b")]), Err(Unfit::Vary));
    assert_eq!(
        fresh(&[("cache-control", "max-age=60"), ("content-type", "text/event-stream; x=y")]),
        Err(Unfit::Endless)
    );
    // With something by which its server can confirm it, it is kept, and asked for each time.
    for text in ["max-age=0", "no-cache", "no-cache=\"a\"", "max-age=0, must-revalidate"] {
        assert_eq!(fresh(&[("cache-control", text), ("etag", "\"a\"")]), Ok(0), "{text}");
    }
    assert_eq!(fresh(&[("pragma", "no-cache"), ("etag", "\"a\"")]), Ok(0));
    assert_eq!(fresh(&[("etag", "\"a\"")]), Err(Unfit::Lifetime));
}

#[test]
fn statuses_that_may_be_kept() {
    let cc = [("cache-control", "max-age=60")];
    for status in [200, 203, 204, 300, 301, 302, 303, 307, 308, 404, 405, 410, 414, 501] {
        assert!(judge(status, &cc).is_ok(), "{status}");
    }
    for status in [201, 202, 206, 304, 400, 401, 403, 416, 429, 500, 502, 503, 504] {
        assert_eq!(judge(status, &cc), Err(Unfit::Status), "{status}");
    }
    // Those that say nothing.
    let rules = Rules { default_ttl: Duration::from_secs(7), ..Rules::default() };
    let silent = |status| judge_with(rules, Credentials::default(), status, &[]).map(|life| life.fresh);
    for status in BY_DEFAULT {
        assert_eq!(silent(status), Ok(7000), "{status}");
    }
    for status in [302, 303, 307, 405, 414, 501, 206, 500, 503, 403] {
        assert!(silent(status).is_err(), "{status}");
    }
    let said = |text| judge_with(rules, Credentials::default(), 200, &[("cache-control", text)]).map(|life| life.fresh);
    assert_eq!(said("public, must-revalidate"), Ok(7000));
    assert_eq!(
        (said("max-age=1"), said("no-store"), said("max-age=0")),
        (Ok(1000), Err(Unfit::NoStore), Err(Unfit::Lifetime))
    );
}

#[test]
fn dates_are_read_in_each_form() {
    // NOW is the second of these dates.
    for date in ["Sun, 06 Nov 1994 08:49:37 GMT", "Sunday, 06-Nov-94 08:49:37 GMT", "Sun Nov  6 08:49:37 1994"] {
        let expires = ("expires", "Sun, 06 Nov 1994 08:50:37 GMT");
        assert_eq!(fresh(&[("date", date), expires]), Ok(60), "{date}");
    }
    assert_eq!(fresh(&[("date", "Sun, 06 Nov 1994 08:49:37 GMT"), ("expires", "0"), ("etag", "\"a\"")]), Ok(0));
    assert_eq!(
        fresh(&[("expires", "Sun, 06 Nov 1994 08:50:37 GMT")]),
        Ok(60),
        "without a date it is that of the arrival"
    );
    assert_eq!(fresh(&[("cache-control", "max-age=5"), ("expires", "Sun, 06 Nov 1994 08:50:37 GMT")]), Ok(5));
}

#[test]
fn time_on_the_way_counts() {
    let cc = ("cache-control", "max-age=60");
    assert_eq!(fresh(&[cc, ("age", "20")]), Ok(40));
    assert_eq!(fresh(&[cc, ("age", "20, 50")]), Ok(40));
    assert_eq!(fresh(&[cc, ("age", "old")]), Ok(60));
    assert_eq!(fresh(&[cc, ("age", "60"), ("etag", "\"a\"")]), Ok(0));
    assert_eq!(fresh(&[cc, ("date", "Sun, 06 Nov 1994 08:49:36 GMT")]), Ok(60));
    assert_eq!(fresh(&[cc, ("date", "Sun, 06 Nov 1994 08:49:26 GMT")]), Ok(50));
    assert_eq!(fresh(&[cc, ("date", "Sun, 06 Nov 1994 09:49:26 GMT")]), Ok(60), "a clock ahead");
    let slow = Rules::default().judge(&Answer {
        credentials: Credentials::default(),
        no_store: false,
        status: StatusCode::OK,
        headers: &head(&[cc, ("age", "20")]),
        received: NOW,
        waited: 5_000,
    });
    assert_eq!(slow.map(|life| (life.fresh, life.age)), Ok((35_000, 25_000)));
}

#[test]
fn credentials_keep_answers_from_others() {
    let of = |authorized, cookies, text| {
        let credentials = Credentials { authorized, cookies };
        judge_with(Rules::default(), credentials, 200, &[("cache-control", text)]).map(|life| life.fresh / 1000)
    };
    for text in ["max-age=60, public", "s-maxage=60", "max-age=60, must-revalidate"] {
        assert_eq!(of(true, false, text), Ok(60), "{text}");
    }
    assert_eq!(of(true, false, "max-age=60"), Err(Unfit::Credentials));
    assert_eq!(of(true, false, "max-age=60, proxy-revalidate"), Err(Unfit::Credentials));
    for text in ["max-age=60, public", "s-maxage=60"] {
        assert_eq!(of(false, true, text), Ok(60), "{text}");
    }
    assert_eq!(of(false, true, "max-age=60, must-revalidate"), Err(Unfit::Credentials));
    assert_eq!(of(false, true, "max-age=60"), Err(Unfit::Credentials));
}

#[test]
fn what_is_stale_is_given_as_its_server_says_or_the_file() {
    let rules =
        Rules { while_revalidate: Duration::from_secs(10), if_error: Duration::from_secs(20), ..Rules::default() };
    let of = |text| {
        let life = judge_with(rules, Credentials::default(), 200, &[("cache-control", text)]).unwrap();
        (life.while_revalidate / 1000, life.if_error / 1000)
    };
    assert_eq!(of("max-age=60"), (10, 20));
    assert_eq!(of("max-age=60, stale-while-revalidate=1, stale-if-error=2"), (1, 2));
    assert_eq!(of("max-age=60, stale-if-error=0"), (10, 0));
    assert_eq!(of("s-maxage=60"), (0, 0));
    assert_eq!(of("s-maxage=60, stale-while-revalidate=5"), (5, 0));
    assert_eq!(of("max-age=60, must-revalidate, stale-if-error=5"), (0, 0));
    assert_eq!(of("max-age=60, stale-while-revalidate=x"), (10, 20));
}

#[test]
fn fields_by_which_an_answer_varies_are_read_in_one_order() {
    let of = |values: &[&str], knows| {
        vary(&values.iter().map(|value| (header::VARY, HeaderValue::try_from(*value).unwrap())).collect(), knows)
    };
    let names = |names: &[&str]| -> Result<Vec<HeaderName>, Unfit> {
        Ok(names.iter().map(|name| name.parse().unwrap()).collect())
    };
    assert_eq!(
        of(&["Accept-Language, accept-encoding", "Cookie, ACCEPT-ENCODING,"], false),
        names(&["accept-encoding", "accept-language", "cookie"])
    );
    assert_eq!(of(&["Cookie, Accept"], true), names(&["accept"]));
    assert_eq!(of(&["accept", "*"], false), Err(Unfit::Vary));
    let many: Vec<String> = (0..17).map(|number| format!("x-{number}")).collect();
    assert_eq!(of(&[&many.join(",")], false), Err(Unfit::Vary));
}

#[test]
fn what_concerns_a_connection_is_not_kept() {
    let kept = fields(
        &head(&[
            ("content-type", "a"),
            ("age", "5"),
            ("content-length", "7"),
            ("set-cookie", "a"),
            ("trailer", "x"),
            ("link", "a"),
            ("link", "b"),
        ]),
        NOW,
    );
    let names: Vec<&str> = kept.keys().map(HeaderName::as_str).collect();
    assert_eq!((names.len(), kept.get_all("link").iter().count()), (3, 2), "{names:?}");
    assert_eq!(kept[header::DATE], "Sun, 06 Nov 1994 08:49:37 GMT");
}
