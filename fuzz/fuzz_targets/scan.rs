//! The scan of a request body against a reader that reads as Go does. The first byte chooses which key names the
//! model, the next four where the body is cut.

#![no_main]

#[path = "../../tests/support/go_json.rs"]
mod go_json;
#[path = "../../tests/support/scan_check.rs"]
mod scan_check;

use arriero::ollama::scan::Want;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Some(([want, seed @ ..], body)) = data.split_first_chunk::<5>() else { return };
    let want = [Want::Model, Want::ModelOnly, Want::Source, Want::Create][usize::from(want % 4)];
    if let Err(difference) = scan_check::check(want, body, u32::from_le_bytes(*seed)) {
        panic!("{difference}");
    }
});
