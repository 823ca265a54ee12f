//! Canonical paths and hosts: what is canonical stays as it is, and the two levels agree.

#![no_main]

use arriero::routing::{host, path};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    for level in [path::safe, path::strict] {
        if let Ok(once) = level(text) {
            assert_eq!(level(&once).as_deref(), Ok(once.as_ref()));
            assert!(once.starts_with('/') && !once.contains("//") && !once.contains("/../") && !once.ends_with("/.."));
            assert!(once.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'\\'));
        }
    }
    if let Ok(strict) = path::strict(text) {
        assert_eq!(path::safe(text).as_deref(), Ok(strict.as_ref()));
    }
    if let Ok(once) = host::parse(text, 80) {
        let again = host::parse(&once.name, 80).map(|again| again.name.into_owned());
        assert_eq!(again.as_deref(), Ok(once.name.as_ref()));
    }
});
