//! What a scan costs in memory.

use super::*;

#[test]
fn a_scan_of_any_body_is_as_small_as_before_it() {
    let image = "A".repeat(1 << 20);
    for body in [
        format!(r#"{{"model":"m","images":["{image}"]}}"#),
        format!(r#"{{"{image}":1,"options":{{"{image}":2}},"model":"m"}}"#),
        format!(r#"{{"keep_alive":"{image}","model":"m"}}"#),
        format!(r#"{{"options":{{"num_ctx":1.{}}},"model":"m"}}"#, "0".repeat(1 << 20)),
    ] {
        let mut scan = ModelScan::new(Want::ModelOnly);
        scan.push(body.as_bytes());
        assert_eq!(scan.at_end(), Ok(()));
        assert_eq!(scan.model(), Some("m"));
        assert!(scan.string.capacity() <= 2 * MAX_VALUE_BYTES, "{}", scan.string.capacity());
    }
    assert!(size_of::<ModelScan>() <= 320, "{}", size_of::<ModelScan>());
}
