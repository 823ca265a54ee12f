//! One round of questions to one card, and to the parts that it is divided into (MIG).

use std::fs;

use nvml_wrapper::Device;
use nvml_wrapper::bitmasks::device::ThrottleReasons;
use nvml_wrapper::enum_wrappers::device::{EccCounter, MemoryError, TemperatureSensor, TemperatureThreshold};
use nvml_wrapper::error::NvmlError;
use nvml_wrapper::struct_wrappers::device::ProcessInfo;
use nvml_wrapper::structs::device::FieldId;
use nvml_wrapper::sys_exports::field_id as id;

use super::values;
use crate::policy::gpu::reading::{Card, CardFault, Process, RecoveryAction, Throttle, uuid};

/// What of a card does not change.
#[derive(Clone, Debug, Default)]
pub struct Identity {
    uuid: Option<String>,
    name: Option<String>,
    /// °C at which the hardware slows it down.
    slowdown: Option<f64>,
    /// °C that its memory may have.
    memory_max: Option<f64>,
}

/// Fields that are asked for in one call; [`Fields`] takes them apart in this order.
const FIELDS: [u32; 12] = [
    id::NVML_FI_DEV_MEMORY_TEMP,
    id::NVML_FI_DEV_REMAPPED_UNC,
    id::NVML_FI_DEV_REMAPPED_PENDING,
    id::NVML_FI_DEV_REMAPPED_FAILURE,
    id::NVML_FI_DEV_RETIRED_SBE,
    id::NVML_FI_DEV_RETIRED_DBE,
    id::NVML_FI_DEV_GET_GPU_RECOVERY_ACTION,
    id::NVML_FI_DEV_NVLINK_CRC_FLIT_ERROR_COUNT_TOTAL,
    id::NVML_FI_DEV_NVLINK_CRC_DATA_ERROR_COUNT_TOTAL,
    id::NVML_FI_DEV_NVLINK_REPLAY_ERROR_COUNT_TOTAL,
    id::NVML_FI_DEV_NVLINK_RECOVERY_ERROR_COUNT_TOTAL,
    id::NVML_FI_DEV_NVLINK_ECC_DATA_ERROR_COUNT_TOTAL,
];

/// What an error says about the card itself, and not about the question.
pub const fn fault(error: &NvmlError) -> CardFault {
    match error {
        NvmlError::GpuLost => CardFault::Lost,
        _ => CardFault::Error,
    }
}

/// A card that cannot be asked.
pub fn silent(index: u32, known: Option<&Identity>, fault: CardFault) -> Card {
    let known = known.cloned().unwrap_or_default();
    Card { uuid: known.uuid, name: known.name, index: Some(index), fault: Some(fault), ..Card::default() }
}

/// A card under questions. Once it is gone, nothing more is asked of it.
struct Asked<'a> {
    device: &'a Device<'a>,
    fault: Option<CardFault>,
}

impl<'a> Asked<'a> {
    /// Asks what a card need not be able to answer.
    fn ask<T>(&mut self, question: impl FnOnce(&'a Device<'a>) -> Result<T, NvmlError>) -> Option<T> {
        let answer = self.put(question)?;
        match answer {
            Ok(value) => Some(value),
            Err(NvmlError::ResetRequired) => {
                self.fault = Some(CardFault::Error);
                None
            }
            Err(_) => None,
        }
    }

    /// Asks what every card answers that is well.
    fn ask_vital<T>(&mut self, question: impl FnOnce(&'a Device<'a>) -> Result<T, NvmlError>) -> Option<T> {
        let answer = self.put(question)?;
        if let Err(
            NvmlError::Unknown
            | NvmlError::IrqIssue
            | NvmlError::OperatingSystem
            | NvmlError::Timeout
            | NvmlError::ResetRequired,
        ) = answer
        {
            self.fault = Some(CardFault::Error);
        }
        answer.ok()
    }

    fn put<T>(
        &mut self,
        question: impl FnOnce(&'a Device<'a>) -> Result<T, NvmlError>,
    ) -> Option<Result<T, NvmlError>> {
        if self.fault == Some(CardFault::Lost) {
            return None;
        }
        let answer = question(self.device);
        if matches!(answer, Err(NvmlError::GpuLost)) {
            self.fault = Some(CardFault::Lost);
        }
        Some(answer)
    }

    fn identify(&mut self) -> Identity {
        let mut threshold = |which| {
            self.ask(|device| device.temperature_threshold(which)).and_then(values::measure).filter(|c| *c > 0.0)
        };
        Identity {
            slowdown: threshold(TemperatureThreshold::Slowdown),
            memory_max: threshold(TemperatureThreshold::MemoryMax),
            uuid: self.ask_vital(Device::uuid).map(|text| uuid(&text)),
            name: self.ask(Device::name),
        }
    }
}

/// Asks a card and adds it to the others, with its parts behind it.
pub fn read(device: &Device<'_>, index: u32, known: &mut Option<Identity>, cards: &mut Vec<Card>) {
    let mut asked = Asked { device, fault: None };
    // What answered once need not be asked again.
    if known.as_ref().is_none_or(|known| known.uuid.is_none()) {
        let identity = asked.identify();
        if identity.uuid.is_some() {
            *known = Some(identity);
        }
    }
    let mut card = Card { index: Some(index), ..Card::default() };
    let limits = known.clone().unwrap_or_default();
    measure(&mut asked, &limits, &mut card);
    let is_divided = asked.ask(Device::mig_mode).is_some_and(|mode| mode.current == 1);
    if !is_divided {
        (card.memory_total, card.memory_used, card.memory_free) = memory(&mut asked);
        card.utilisation = asked.ask(Device::utilization_rates).and_then(|rates| values::percent(rates.gpu));
        card.processes = processes(&mut asked);
    }
    if asked.fault == Some(CardFault::Lost) {
        cards.push(silent(index, known.as_ref(), CardFault::Lost));
        return;
    }
    (card.uuid, card.name, card.fault) = (limits.uuid, limits.name, asked.fault);
    cards.push(card);
    if is_divided {
        cards.extend(parts(device, index));
    }
}

/// What says how well the card is.
fn measure(asked: &mut Asked<'_>, limits: &Identity, card: &mut Card) {
    card.temperature = asked.ask(|device| device.temperature(TemperatureSensor::Gpu)).and_then(values::measure);
    card.margin = limits.slowdown.zip(card.temperature).map(|(limit, now)| limit - now);
    card.power = asked.ask(Device::power_usage).and_then(values::thousandth);
    card.power_limit = asked.ask(Device::enforced_power_limit).and_then(values::thousandth);
    card.throttle =
        asked.ask(Device::current_throttle_reasons).map(|reasons: ThrottleReasons| Throttle(reasons.bits()));
    card.ecc_uncorrected = asked
        .ask(|device| device.total_ecc_errors(MemoryError::Uncorrected, EccCounter::Volatile))
        .and_then(values::count);
    card.pcie_replays = asked.ask(Device::pcie_replay_counter).and_then(values::small).map(u64::from);
    card.pcie_generation = asked.ask(Device::current_pcie_link_gen).and_then(values::small);
    card.pcie_width = asked.ask(Device::current_pcie_link_width).and_then(values::small);
    let [
        memory_temperature,
        remapped,
        pending,
        failed,
        retired_single,
        retired_double,
        action,
        crc_flit,
        crc_data,
        replay,
        recovery,
        ecc_data,
    ] = fields(asked);
    // Cards without a sensor there say 0.
    card.memory_temperature = memory_temperature
        .filter(|celsius| *celsius > 0)
        .and_then(|celsius| u32::try_from(celsius).ok())
        .and_then(values::measure);
    card.memory_margin = limits.memory_max.zip(card.memory_temperature).map(|(limit, now)| limit - now);
    card.remapped_rows = remapped;
    card.remap_pending = pending.map(|rows| rows != 0);
    card.remap_failed = failed.map(|rows| rows != 0);
    card.retired_pages = sum([retired_single, retired_double]);
    card.recovery_action = action.map(RecoveryAction::of);
    card.nvlink_crc = sum([crc_flit, crc_data]);
    card.nvlink_errors = sum([replay, recovery, ecc_data]);
}

fn fields(asked: &mut Asked<'_>) -> [Option<u64>; FIELDS.len()] {
    let mut found = [None; FIELDS.len()];
    let answers = asked.ask(|device| device.field_values_for(&FIELDS.map(FieldId))).unwrap_or_default();
    for (place, answer) in found.iter_mut().zip(answers) {
        *place = answer.ok().and_then(|sample| sample.value.ok()).as_ref().and_then(values::field);
    }
    found
}

/// The sum of what is known.
fn sum<const N: usize>(parts: [Option<u64>; N]) -> Option<u64> {
    parts.into_iter().flatten().reduce(u64::saturating_add)
}

/// Total, used and free.
fn memory(asked: &mut Asked<'_>) -> (Option<u64>, Option<u64>, Option<u64>) {
    let Some(memory) = asked.ask_vital(Device::memory_info) else { return (None, None, None) };
    // Cards that share the host's memory have none of their own.
    let total = values::count(memory.total).filter(|total| *total > 0);
    (total, total.and(values::count(memory.used)), total.and(values::count(memory.free)))
}

fn processes(asked: &mut Asked<'_>) -> Vec<Process> {
    let all = asked.ask(Device::running_compute_processes).unwrap_or_default();
    all.iter().map(process).collect()
}

fn process(info: &ProcessInfo) -> Process {
    let name = fs::read_to_string(format!("/proc/{}/comm", info.pid)).ok();
    Process {
        pid: info.pid,
        name: name.map(|name| name.trim_end().to_owned()).filter(|name| !name.is_empty()),
        memory: values::memory(&info.used_gpu_memory),
    }
}

/// The parts of a card that is divided: they have the memory and the processes.
fn parts(device: &Device<'_>, index: u32) -> Vec<Card> {
    let places = device.mig_device_count().unwrap_or_default();
    let part = |place| {
        let part = device.mig_device_by_index(place).ok()?;
        let mut asked = Asked { device: &part, fault: None };
        let identity = asked.ask(Device::uuid).map(|text| uuid(&text))?;
        let name = asked.ask(Device::name);
        let (memory_total, memory_used, memory_free) = memory(&mut asked);
        let processes = processes(&mut asked);
        Some(Card {
            uuid: Some(identity),
            index: Some(index),
            name,
            memory_total,
            memory_used,
            memory_free,
            processes,
            partition: true,
            fault: asked.fault,
            ..Card::default()
        })
    };
    (0..places).filter_map(part).collect()
}
