//! The metrics of the cards, made anew for each scrape: a card that is gone leaves no old values behind.

use std::sync::atomic::AtomicU64;

use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use crate::nvml::Look;
use crate::policy::gpu::reading::{Card, CardFault, Reading, RecoveryAction, Throttle, Unread};
use crate::telemetry::names::{self, Metric, gpu};
use crate::version;

type Labels = Vec<(&'static str, String)>;

/// Reasons for low clocks and the words for them.
const REASONS: [(u64, &str); 6] = [
    (Throttle::IDLE, "idle"),
    (Throttle::POWER_CAP, "power_cap"),
    (Throttle::HW_SLOWDOWN, "hw_slowdown"),
    (Throttle::SW_THERMAL, "sw_thermal"),
    (Throttle::HW_THERMAL, "hw_thermal"),
    (Throttle::POWER_BRAKE, "power_brake"),
];

/// What is known, for Prometheus.
pub fn of(look: &Look) -> String {
    let mut page = Page::default();
    let word = match &look.reading {
        Ok(_) => "none",
        Err(Unread::Silent) => "silent",
        Err(Unread::DriverDown) => "driver_down",
        Err(Unread::Hangs) => "hangs",
    };
    let readable = if look.reading.is_ok() { 1.0 } else { 0.0 };
    page.gauges(gpu::READABLE, [(vec![("reason", word.to_owned())], readable)]);
    let age = Gauge::<f64, AtomicU64>::default();
    age.set(look.age.as_secs_f64());
    page.registry.register(gpu::AGE.name, gpu::AGE.help, age);
    let revision = version::REVISION.unwrap_or_default().to_owned();
    let build = vec![("version", version::VERSION.to_owned()), ("revision", revision)];
    page.gauges(names::BUILD, [(build, 1.0)]);
    if let Ok(reading) = &look.reading {
        page.reading(reading);
    }
    let mut text = String::new();
    // Writing to a text cannot fail.
    let _ = encode(&mut text, &page.registry);
    text
}

#[derive(Default)]
struct Page {
    registry: Registry,
}

impl Page {
    fn gauges(&mut self, metric: Metric, values: impl IntoIterator<Item = (Labels, f64)>) {
        let family = Family::<Labels, Gauge<f64, AtomicU64>>::default();
        let mut has_any = false;
        for (labels, value) in values {
            family.get_or_create(&labels).set(value);
            has_any = true;
        }
        if has_any {
            self.registry.register(metric.name, metric.help, family);
        }
    }

    fn counters(&mut self, metric: Metric, values: impl IntoIterator<Item = (Labels, u64)>) {
        let family = Family::<Labels, Counter>::default();
        let mut has_any = false;
        for (labels, value) in values {
            family.get_or_create(&labels).inc_by(value);
            has_any = true;
        }
        if has_any {
            self.registry.register(metric.name, metric.help, family);
        }
    }

    /// One gauge a card, where its value is known.
    fn each(&mut self, metric: Metric, reading: &Reading, value: impl Fn(&Card) -> Option<f64>) {
        self.gauges(metric, reading.cards.iter().filter_map(|card| Some((labels(card), value(card)?))));
    }

    /// One counter a card, where its value is known.
    fn each_count(&mut self, metric: Metric, reading: &Reading, value: impl Fn(&Card) -> Option<u64>) {
        self.counters(metric, reading.cards.iter().filter_map(|card| Some((labels(card), value(card)?))));
    }

    /// One gauge for each word of a card.
    fn words<W: Into<String>>(
        &mut self,
        metric: Metric,
        label: &'static str,
        reading: &Reading,
        words: impl Fn(&Card) -> Vec<(W, f64)>,
    ) {
        let all = reading.cards.iter().flat_map(|card| {
            words(card).into_iter().map(|(word, value)| {
                let mut labels = labels(card);
                labels.push((label, word.into()));
                (labels, value)
            })
        });
        self.gauges(metric, all);
    }

    fn reading(&mut self, reading: &Reading) {
        self.gauges(gpu::DRIVER, reading.driver.iter().map(|version| (vec![("version", version.clone())], 1.0)));
        self.each(gpu::MEMORY_TOTAL, reading, |card| card.memory_total.map(float));
        self.each(gpu::MEMORY_USED, reading, |card| card.memory_used.map(float));
        self.each(gpu::MEMORY_FREE, reading, |card| card.memory_free.map(float));
        self.each(gpu::UTILISATION, reading, |card| card.utilisation.map(|percent| percent / 100.0));
        self.each(gpu::TEMPERATURE, reading, |card| card.temperature);
        self.each(gpu::MARGIN, reading, |card| card.margin);
        self.each(gpu::MEMORY_TEMPERATURE, reading, |card| card.memory_temperature);
        self.each(gpu::MEMORY_MARGIN, reading, |card| card.memory_margin);
        self.each(gpu::POWER, reading, |card| card.power);
        self.each(gpu::POWER_LIMIT, reading, |card| card.power_limit);
        self.words(gpu::THROTTLE, "reason", reading, |card| {
            let throttle = card.throttle.map(|throttle| REASONS.map(|(bit, word)| (word, flag(throttle.any(bit)))));
            throttle.into_iter().flatten().collect()
        });
        self.each_count(gpu::ECC, reading, |card| card.ecc_uncorrected);
        self.each(gpu::REMAPPED_ROWS, reading, |card| card.remapped_rows.map(float));
        self.each(gpu::REMAP_PENDING, reading, |card| card.remap_pending.map(flag));
        self.each(gpu::REMAP_FAILED, reading, |card| card.remap_failed.map(flag));
        self.each(gpu::RETIRED_PAGES, reading, |card| card.retired_pages.map(float));
        self.words(gpu::RECOVERY_ACTION, "action", reading, |card| {
            card.recovery_action.map(|action| (action_word(action), 1.0)).into_iter().collect()
        });
        self.words(gpu::XIDS, "xid", reading, |card| {
            let mut counts = std::collections::BTreeMap::<u32, f64>::new();
            card.xids.iter().for_each(|xid| *counts.entry(xid.code).or_default() += 1.0);
            counts.into_iter().map(|(code, count)| (code.to_string(), count)).collect()
        });
        self.each(gpu::XID_TIME, reading, |card| card.xids.iter().map(|xid| float(xid.at) / 1e3).reduce(f64::max));
        self.each_count(gpu::PCIE_REPLAYS, reading, |card| card.pcie_replays);
        self.each(gpu::PCIE_GENERATION, reading, |card| card.pcie_generation.map(f64::from));
        self.each(gpu::PCIE_WIDTH, reading, |card| card.pcie_width.map(f64::from));
        self.each_count(gpu::NVLINK_CRC, reading, |card| card.nvlink_crc);
        self.each_count(gpu::NVLINK_ERRORS, reading, |card| card.nvlink_errors);
        self.each(gpu::PROCESSES, reading, |card| {
            card.fault.is_none().then(|| float(card.processes.len().try_into().unwrap_or(u64::MAX)))
        });
        self.words(gpu::FAULT, "fault", reading, |card| match card.fault {
            None => vec![("none", 0.0)],
            Some(CardFault::Lost) => vec![("lost", 1.0)],
            Some(CardFault::Hangs) => vec![("hangs", 1.0)],
            Some(CardFault::Error) => vec![("error", 1.0)],
        });
    }
}

fn labels(card: &Card) -> Labels {
    vec![
        ("uuid", card.uuid.clone().unwrap_or_default()),
        ("index", card.index.map(|index| index.to_string()).unwrap_or_default()),
        ("name", card.name.clone().unwrap_or_default()),
    ]
}

#[expect(clippy::cast_precision_loss, reason = "a metric is a float")]
const fn float(value: u64) -> f64 {
    value as f64
}

fn flag(value: bool) -> f64 {
    f64::from(u8::from(value))
}

const fn action_word(action: RecoveryAction) -> &'static str {
    match action {
        RecoveryAction::None => "none",
        RecoveryAction::GpuReset => "gpu_reset",
        RecoveryAction::NodeReboot => "node_reboot",
        RecoveryAction::DrainP2p => "drain_p2p",
        RecoveryAction::DrainAndReset => "drain_and_reset",
        RecoveryAction::Other => "other",
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use super::*;
    use crate::policy::gpu::reading::Xid;

    fn page(reading: Result<Reading, Unread>) -> String {
        of(&Look { reading: reading.map(Arc::new), age: Duration::from_secs(2), at: 0, detail: None })
    }

    #[test]
    fn what_is_known_has_a_line_and_what_is_not_has_none() {
        let card = Card {
            uuid: Some("a".into()),
            index: Some(0),
            name: Some("A \"card\"".into()),
            memory_used: Some(5),
            utilisation: Some(50.0),
            throttle: Some(Throttle(Throttle::HW_SLOWDOWN)),
            ecc_uncorrected: Some(3),
            xids: vec![Xid { code: 79, at: 1500 }, Xid { code: 79, at: 2500 }],
            ..Card::default()
        };
        let text = page(Ok(Reading { cards: vec![card], boot_id: None, driver: Some("1.2".into()) }));
        let of = r#"uuid="a",index="0",name="A \"card\"""#;
        for line in [
            "arriero_gpu_readable{reason=\"none\"} 1.0".to_owned(),
            "arriero_gpu_age_seconds 2.0".to_owned(),
            format!("arriero_gpu_memory_used_bytes{{{of}}} 5.0"),
            format!("arriero_gpu_utilisation_ratio{{{of}}} 0.5"),
            format!("arriero_gpu_clocks_limited{{{of},reason=\"hw_slowdown\"}} 1.0"),
            format!("arriero_gpu_clocks_limited{{{of},reason=\"idle\"}} 0.0"),
            format!("arriero_gpu_ecc_uncorrected_errors_total{{{of}}} 3"),
            format!("arriero_gpu_xid_errors{{{of},xid=\"79\"}} 2.0"),
            format!("arriero_gpu_xid_last_timestamp_seconds{{{of}}} 2.5"),
            format!("arriero_gpu_fault{{{of},fault=\"none\"}} 0.0"),
        ] {
            assert!(text.lines().any(|there| there == line), "no `{line}` in\n{text}");
        }
        assert!(!text.contains("arriero_gpu_memory_free_bytes"), "{text}");
    }

    #[test]
    fn without_a_reading_there_are_no_cards() {
        let text = page(Err(Unread::Hangs));
        assert!(text.contains("arriero_gpu_readable{reason=\"hangs\"} 0.0"), "{text}");
        assert!(!text.contains("uuid"), "{text}");
    }
}
