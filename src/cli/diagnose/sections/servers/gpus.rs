//! The GPUs of the servers, as the running process sees them.

use super::super::super::codes;
use super::super::super::facts::{Running, SeenGpu};
use super::super::super::finding::Finding;

pub(super) fn judge(running: &Running, found: &mut Vec<Finding>) {
    for gpu in &running.gpus {
        found.extend(unwell(gpu));
        found.extend(silent(gpu));
    }
}

fn unwell(gpu: &SeenGpu) -> Option<Finding> {
    let (code, follows) = match gpu.state.as_str() {
        "failed" | "draining" => (codes::GPU_OUT, "gets no new requests"),
        "degraded" => (codes::GPU_DEGRADED, "gets a quarter of its share"),
        _ => return None,
    };
    let (id, state) = (&gpu.server_id, &gpu.state);
    let why = gpu.reasons.first().map(|first| format!(": {}", first.detail)).unwrap_or_default();
    Some(Finding::new(
        code,
        format!("the GPU of the server `{id}` is {state}, so it {follows}{why}"),
        format!("`arriero gpu {id}` has all signals; see `nvidia-smi -q` and `dmesg | grep -i xid` on its host"),
    ))
}

fn silent(gpu: &SeenGpu) -> Option<Finding> {
    (gpu.source_up == Some(false)).then(|| {
        let why = gpu.source_fault.as_ref().map(|why| format!(": {why}")).unwrap_or_default();
        Finding::new(
            codes::GPU_SOURCE_SILENT,
            format!("nobody tells how the GPU of the server `{}` is{why}", gpu.server_id),
            "start the exporter or `arriero gpu-agent` on its host, and compare the URL in `gpu`",
        )
    })
}
