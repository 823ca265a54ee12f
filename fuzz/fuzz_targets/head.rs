//! The rules for a request head: no bytes make them panic, and a head that passes has one meaning.

#![no_main]

use arriero::proxy::head::{HeadLimits, check, check_partial, find_end};
use libfuzzer_sys::fuzz_target;

const LIMITS: HeadLimits = HeadLimits { bytes: 32 << 10, fields: 100, target: 8 << 10 };

fuzz_target!(|data: &[u8]| {
    let Some((&cut, data)) = data.split_first() else { return };
    let end = find_end(data, 0);
    // Where the head ends does not depend on how it arrives.
    let cut = usize::from(cut).min(data.len());
    assert_eq!(find_end(&data[..cut], 0).or_else(|| find_end(data, cut)), end);
    let _ = check_partial(data);
    let Some(end) = end else { return };
    let head = &data[..end];
    if check(head, LIMITS).is_ok() {
        assert!(head.len() <= LIMITS.bytes && check_partial(head).is_ok());
        let lower: Vec<u8> = head.to_ascii_lowercase();
        let count = |name: &[u8]| lower.windows(name.len()).filter(|window| *window == name).count();
        assert!(count(b"\ncontent-length:") + count(b"\ntransfer-encoding:") <= 1);
        assert!(count(b"\nhost:") <= 1);
    }
});
