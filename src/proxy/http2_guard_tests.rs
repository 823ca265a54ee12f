//! Floods, counted frame by frame.

use super::*;

fn frame(kind: u8, length: usize) -> Vec<u8> {
    let length = u32::try_from(length).unwrap().to_be_bytes();
    let mut bytes = vec![length[1], length[2], length[3], kind, 0, 0, 0, 0, 0];
    bytes.resize(HEAD + u32::from_be_bytes(length) as usize, 6);
    bytes
}

fn begun(now: Instant) -> FrameCount {
    let mut count = FrameCount::new();
    count.pass(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", now).unwrap();
    count
}

#[test]
fn each_kind_has_its_limit_however_the_bytes_are_cut() {
    let cases =
        [(6, Flood::Ping), (4, Flood::Settings), (8, Flood::WindowUpdate), (2, Flood::Other), (77, Flood::Other)];
    for (kind, flood) in cases {
        for size in [1, 7, 9, 10, 1 << 20] {
            let now = clock::now();
            let limit = usize::try_from(flood.limit()).unwrap();
            // Payloads look like heads of PING frames.
            let within: Vec<u8> =
                (0..limit).flat_map(|number| [frame(kind, 8), frame(0, number * 3)].concat()).collect();
            let mut count = begun(now);
            assert!(within.chunks(size).all(|piece| count.pass(piece, now).is_ok()), "{flood:?} in {size}");
            assert_eq!(count.pass(&frame(kind, 8), now), Err(flood));
            let mut count = begun(now);
            count.pass(&within, now).unwrap();
            assert_eq!(count.pass(&within, now + WINDOW * 2), Ok(()), "{flood:?} in the next second");
        }
    }
}

#[test]
fn requests_and_bodies_are_not_counted() {
    let mut count = begun(clock::now());
    for kind in [0, 1, 9] {
        assert!((0..100_000).all(|_| count.pass(&frame(kind, 1), clock::now()).is_ok()), "{kind}");
    }
}

#[test]
fn a_long_answer_may_be_taken_in_small_pieces() {
    let now = clock::now();
    let mut count = begun(now);
    for _ in 0..100_000 {
        count.wrote(10);
        assert_eq!(count.pass(&frame(8, 4), now), Ok(()));
    }
}

#[test]
fn giving_up_is_weighed_against_waiting_for_answers() {
    let patient = Alarm::default();
    for _ in 0..1000 {
        patient.ended(false);
        patient.ended(true);
    }
    assert!(!patient.has_rung());
    (0..GIVEN_UP).for_each(|_| patient.ended(false));
    assert!(!patient.has_rung());
    patient.ended(false);
    assert_eq!(patient.flood.get(), Some(&Flood::GivenUp));
}
