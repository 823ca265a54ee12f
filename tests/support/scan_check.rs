//! What must hold of every body: used with bodies from proptest in `tests/json_differential.rs`, and with a fuzzer's
//! in `fuzz/`.

use arriero::ollama::scan::{Key, ModelScan, Progress, Setting, Want};

use crate::go_json::{Json, Request};

/// Pushes the body in pieces that depend on `seed`: the scan, and whether it was fine to its end.
pub fn scanned(want: Want, body: &[u8], mut seed: u32) -> (ModelScan, bool) {
    let mut scan = ModelScan::new(want);
    let mut rest = body;
    while !rest.is_empty() {
        seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let (now, later) = rest.split_at(((seed as usize >> 16) % 9 + 1).min(rest.len()));
        scan.push(now);
        rest = later;
    }
    let fine = scan.at_end().is_ok();
    (scan, fine)
}

/// Whether the body passes, or in what the scan and Go differ although it passes.
pub fn check(want: Want, body: &[u8], seed: u32) -> Result<bool, String> {
    let must = |holds: bool, what: &str| {
        if holds { Ok(()) } else { Err(format!("{what}: {want:?} {}", String::from_utf8_lossy(body))) }
    };
    let (scan, fine) = scanned(want, body, seed);
    must(fine == scan.violation().is_none(), "at_end and violation differ")?;
    if !fine {
        return Ok(false);
    }
    must(scan.is_closed() && scan.progress() != Progress::NeedMore, "passed and not closed")?;
    let Some(go) = Request::read(body) else {
        // Go refuses it, and no model runs. Only a value of the wrong kind may be the cause, never the grammar.
        must(Json::read(body).is_some(), "passed and not JSON")?;
        return Ok(true);
    };
    let wanted = match want {
        Want::Model | Want::Create if go.model.is_empty() => &go.name,
        Want::Model | Want::Create | Want::ModelOnly => &go.model,
        Want::Source => &go.source,
    };
    must(scan.model().unwrap_or_default() == wanted, "another model")?;
    must(scan.stream() == go.stream, "another stream")?;
    let setting = |key| scan.settings().find(|(found, _)| *found == key).map(|(_, setting)| setting);
    must(same(setting(Key::KeepAlive), go.keep_alive.as_ref()), "another keep_alive")?;
    for key in [Key::NumCtx, Key::NumPredict, Key::NumGpu] {
        must(same(setting(key), go.option(key.as_str())), key.as_str())?;
    }
    Ok(true)
}

fn same(found: Option<&Setting>, wanted: Option<&Json>) -> bool {
    match (found, wanted) {
        // A key in another letter case, which Ollama does not read in `options`: we may be the stricter one.
        (_, None) | (Some(Setting::Other), Some(_)) => true,
        (Some(Setting::Number(one)), Some(Json::Number(other))) => one == other,
        (Some(Setting::Text(one)), Some(Json::Text(other))) => **one == **other,
        _ => false,
    }
}
