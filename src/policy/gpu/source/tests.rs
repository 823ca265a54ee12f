//! Answers of exporters as a whole: fixtures, noise, length.

use proptest::prelude::*;

use super::super::reading::{Card, CardFault, Process, RecoveryAction, Throttle, Xid};
use super::*;

const DCGM: &str = include_str!("../../../../tests/fixtures/gpu/dcgm.prom");
const NVIDIA_SMI: &str = include_str!("../../../../tests/fixtures/gpu/nvidia_smi.prom");
const AMD: &str = include_str!("../../../../tests/fixtures/gpu/amd.prom");
const OWN: &str = include_str!("../../../../tests/fixtures/gpu/own.prom");
const MIB: u64 = 1 << 20;

fn read(text: impl AsRef<[u8]>) -> Result<Reading, Why> {
    read_mapped(None, text)
}

fn read_mapped(mapping: Option<Mapping>, text: impl AsRef<[u8]>) -> Result<Reading, Why> {
    let mut reader = Reader::new(mapping);
    reader.feed(text.as_ref());
    reader.finish()
}

/// The only card of an answer.
fn card(text: &str) -> Card {
    let cards = read(text).expect("a reading").cards;
    assert_eq!(cards.len(), 1, "{cards:?}");
    cards.into_iter().next().unwrap_or_default()
}

fn silent(text: impl AsRef<[u8]>) -> String {
    let why = read(text).expect_err("no reading");
    assert_eq!(why.unread, Unread::Silent);
    why.detail
}

#[test]
fn dcgm_is_read() {
    let reading = read(DCGM).expect("a reading");
    assert_eq!(reading.driver.as_deref(), Some("550.54.15"));
    let well = Card {
        uuid: Some("604ac76c-d9cf-fef3-62e9-d92044ab6e52".into()),
        index: Some(0),
        name: Some("NVIDIA H100 80GB HBM3".into()),
        memory_total: Some((60_440 + 20_480 + 639) * MIB),
        memory_used: Some(20_480 * MIB),
        memory_free: Some(60_440 * MIB),
        utilisation: Some(73.0),
        temperature: Some(61.0),
        power: Some(412.031),
        throttle: Some(Throttle(Throttle::POWER_CAP)),
        ecc_uncorrected: Some(0),
        last_xid: Some(0),
        pcie_replays: Some(17),
        nvlink_crc: Some(14),
        nvlink_errors: Some(1),
        ..Card::default()
    };
    let ill = Card {
        uuid: Some("11111111-2222-3333-4444-555555555555".into()),
        index: Some(1),
        name: Some("NVIDIA H100 80GB HBM3".into()),
        temperature: Some(88.0),
        margin: Some(-1.0),
        memory_temperature: Some(91.0),
        memory_margin: Some(4.0),
        throttle: Some(Throttle(Throttle::HW_SLOWDOWN | Throttle::HW_THERMAL)),
        ecc_uncorrected: Some(3),
        remapped_rows: Some(1),
        remap_pending: Some(true),
        remap_failed: Some(false),
        retired_pages: Some(7),
        last_xid: Some(79),
        ..Card::default()
    };
    let name = Some("NVIDIA A100-SXM4-80GB".to_owned());
    let uuid = "aaaaaaaa-0000-0000-0000-000000000002";
    let parted = Card { uuid: Some(uuid.into()), index: Some(2), name, temperature: Some(41.0), ..Card::default() };
    let part = |number: &str, free: u64, used: u64| Card {
        uuid: Some(format!("{uuid}/{number}")),
        index: Some(2),
        memory_total: Some((free + used) * MIB),
        memory_used: Some(used * MIB),
        memory_free: Some(free * MIB),
        partition: true,
        ..Card::default()
    };
    assert_eq!(reading.cards, [well, ill, parted, part("1", 40_000, 192), part("2", 30_000, 10_192)]);
}

#[test]
fn nvidia_smi_is_read() {
    let reading = read(NVIDIA_SMI).expect("a reading");
    assert_eq!(reading.driver.as_deref(), Some("550.54.15"));
    let one = Card {
        uuid: Some("df6e7a7c-7314-46f8-abc4-b88b36dcf3aa".into()),
        index: Some(1),
        name: Some("NVIDIA GeForce RTX 2080 SUPER".into()),
        memory_total: Some(8192 * MIB),
        memory_used: Some(674 * MIB),
        memory_free: Some(7518 * MIB),
        utilisation: Some(25.0),
        temperature: Some(34.0),
        power: Some(28.07),
        throttle: Some(Throttle(Throttle::HW_SLOWDOWN | Throttle::HW_THERMAL)),
        processes: vec![Process { pid: 4242, name: Some("/usr/bin/ollama".into()), memory: Some(600 * MIB) }],
        ..Card::default()
    };
    let uuid = "00000000-1111-2222-3333-444444444444";
    let other = Card {
        uuid: Some(uuid.into()),
        index: Some(0),
        name: Some("NVIDIA \"H100\" 80GB".into()),
        margin: Some(24.0),
        throttle: Some(Throttle(Throttle::IDLE)),
        ecc_uncorrected: Some(0),
        remap_failed: Some(true),
        recovery_action: Some(RecoveryAction::DrainP2p),
        xids: vec![Xid { code: 63, at: 1_751_475_457_500 }],
        ..Card::default()
    };
    let part = Card {
        uuid: Some(format!("{uuid}/9")),
        memory_total: Some(10_240 * MIB),
        memory_used: Some(MIB),
        partition: true,
        ..Card::default()
    };
    assert_eq!(reading.cards, [one, other, part]);
}

#[test]
fn nvidia_smi_says_when_it_could_not_ask() {
    let with = |line: &str| read(format!("{NVIDIA_SMI}{line}\n")).map(|_| ());
    assert_eq!(with("nvidia_smi_command_exit_code 9").expect_err("down").unread, Unread::DriverDown);
    assert_eq!(read("nvidia_smi_nvml_return_code 9\n").expect_err("down").unread, Unread::DriverDown);
    let both = with("nvidia_smi_last_collect_success 0\nnvidia_smi_nvml_return_code 9");
    assert_eq!(both.expect_err("down").unread, Unread::DriverDown);
    let unknown = with("nvidia_smi_last_collect_success 0").expect_err("silent");
    assert_eq!((unknown.unread, unknown.detail.contains("could not ask")), (Unread::Silent, true));
}

#[test]
fn amd_is_read() {
    let reading = read(AMD).expect("a reading");
    assert_eq!(reading.driver.as_deref(), Some("6.12.12"));
    let one = Card {
        uuid: Some("17ff74b5-0000-1000-805c-37b0fbe69430".into()),
        index: Some(0),
        name: Some("Aqua Vanjaram [Instinct MI300X VF]".into()),
        memory_total: Some(196_592 * MIB),
        memory_used: Some(292 * MIB),
        memory_free: Some(196_300 * MIB),
        utilisation: Some(12.0),
        temperature: Some(44.0),
        power: Some(141.0),
        ecc_uncorrected: Some(0),
        ..Card::default()
    };
    let other = Card {
        index: Some(1),
        name: Some("AMD Instinct MI210".into()),
        memory_total: Some(65_520 * MIB),
        temperature: Some(51.0),
        ecc_uncorrected: Some(2),
        ..Card::default()
    };
    assert_eq!(reading.cards, [one, other]);
}

#[test]
fn our_own_metrics_are_read() {
    let reading = read(OWN).expect("a reading");
    assert_eq!(reading.driver.as_deref(), Some("570.86.10"));
    let one = Card {
        uuid: Some("ab".into()),
        index: Some(0),
        name: Some("NVIDIA L4".into()),
        memory_used: Some(MIB),
        utilisation: Some(50.0),
        throttle: Some(Throttle(Throttle::IDLE | Throttle::HW_THERMAL)),
        ecc_uncorrected: Some(6),
        recovery_action: Some(RecoveryAction::DrainAndReset),
        ..Card::default()
    };
    let lost = Card { uuid: Some("cd".into()), index: Some(1), fault: Some(CardFault::Lost), ..Card::default() };
    assert_eq!(reading.cards, [one, lost]);
    assert_eq!(read(OWN.trim_end()).expect("whole").cards.len(), 2);
    let down = read("arriero_gpu_readable{reason=\"hangs\"} 0.0\n# EOF\n").expect_err("no reading");
    assert_eq!(down.unread, Unread::Hangs);
}

#[test]
fn any_exporter_is_read_by_a_mapping() {
    let fields = vec![
        (Field::MemoryUsed, "my_used".to_owned(), 1024.0),
        (Field::Utilisation, "my_busy".to_owned(), 100.0),
        (Field::Throttle, "my_hot".to_owned(), 64.0),
        (Field::Throttle, "my_slow".to_owned(), 8.0),
    ];
    let text = "my_used{card=\"0\"} 2\nmy_busy{card=\"0\"} 0.5\nmy_hot{card=\"0\"} 1\nmy_slow{card=\"0\"} 1\n\
                my_used{card=\"GPU-X\"} 3\nmy_used 4\nDCGM_FI_DEV_FB_USED{gpu=\"7\"} 1\n";
    let labelled = Mapping { card_label: "card".to_owned(), fields: fields.clone() };
    let cards = read_mapped(Some(labelled.clone()), text).expect("a reading").cards;
    let seen: Vec<_> = cards.iter().map(|card| (card.index, card.uuid.as_deref(), card.memory_used)).collect();
    assert_eq!(seen, [(Some(0), None, Some(2048)), (None, Some("x"), Some(3072))]);
    assert_eq!((cards[0].utilisation, cards[0].throttle), (Some(50.0), Some(Throttle(72))));
    let alone = read_mapped(Some(Mapping { card_label: String::new(), fields }), "my_used 4\n").expect("a reading");
    assert_eq!((alone.cards[0].index, alone.cards[0].memory_used), (Some(0), Some(4096)));
    let none = read_mapped(Some(labelled), "other 1\n").expect_err("no reading");
    assert!(none.detail.contains("`metrics`"), "{}", none.detail);
}

#[test]
fn noise_makes_nothing_known_and_nothing_up() {
    let row = "DCGM_FI_DEV_GPU_TEMP{gpu=\"0\"}";
    for value in ["NaN", "+Inf", "-Inf", "-300", "1e300", "2147483632", "9223372036854775792", "140737488355329"] {
        assert_eq!(card(&format!("{row} {value}\n")).temperature, None, "{value}");
    }
    let doubled = card(&format!("{row} 50\n{row} 60\n{row} NaN\n{row} 55\n"));
    assert_eq!(doubled.temperature, Some(60.0));
    let unnamed = format!("{row} 50\nDCGM_FI_DEV_GPU_TEMP 99\nDCGM_FI_DEV_GPU_TEMP{{gpu=\"x\"}} 99\n");
    assert_eq!(card(&unnamed).temperature, Some(50.0));
    let odd = [b"DCGM_FI_DEV_GPU_TEMP{gpu=\"0\",modelName=\"\xff\"} 50\n\xff\xfe\n".as_slice(), b"\0 1\n"].concat();
    assert_eq!(read(odd).expect("a reading").cards[0].temperature, Some(50.0));
}

#[test]
fn what_is_no_answer_of_an_exporter_is_no_reading() {
    assert!(silent("").contains("no metrics"));
    assert!(silent("<html>\n<body>hello</body>\n</html>\n").contains("no metrics"));
    assert!(silent("node_load1 0.5\n").contains("no metrics"));
    assert!(silent("gpu_package_power 12\n").contains("nothing about any card"));
    let cut = DCGM.strip_suffix("75794\n").expect("the last number");
    assert!(silent(cut).contains("middle of a line"));
    let crowd: String = (0..300).map(|card| format!("DCGM_FI_DEV_GPU_TEMP{{gpu=\"{card}\"}} 50\n")).collect();
    assert!(silent(crowd).contains("more cards"));
}

#[test]
fn a_million_lines_are_read() {
    let foreign: String =
        (0..1000).map(|line| format!("DCGM_FI_PROF_{line}{{gpu=\"0\",pod=\"p\"}} {line}\n")).collect();
    let row =
        |line| format!("DCGM_FI_DEV_GPU_UTIL{{gpu=\"{}\",UUID=\"GPU-{}\",pod=\"p-{line}\"}} 5\n", line % 8, line % 8);
    let wanted: String = (0..1000).map(row).collect();
    let mut reader = Reader::new(None);
    for round in 0..1000 {
        reader.feed(if round % 20 == 0 { wanted.as_bytes() } else { foreign.as_bytes() });
    }
    assert_eq!(reader.finish().expect("a reading").cards.len(), 8);
}

proptest! {
    #[test]
    fn a_reading_is_the_same_however_it_is_cut(which in 0_usize..4, cuts in prop::collection::vec(1_usize..700, 1..20)) {
        let text = [DCGM, NVIDIA_SMI, AMD, OWN][which].as_bytes();
        let (mut reader, mut rest) = (Reader::new(None), text);
        for cut in cuts.iter().cycle() {
            let (piece, behind) = rest.split_at(rest.len().min(*cut));
            reader.feed(piece);
            rest = behind;
            if rest.is_empty() {
                break;
            }
        }
        prop_assert_eq!(reader.finish(), read(text));
    }

    #[test]
    fn broken_answers_never_panic_and_never_invent(at in 0_usize..6000, byte: u8, length in 0_usize..40) {
        let mut text = DCGM.as_bytes().to_vec();
        let at = at.min(text.len());
        let end = (at + length).min(text.len());
        text.splice(at..end, [byte]);
        if let Ok(reading) = read(&text) {
            for card in reading.cards {
                prop_assert!(card.utilisation.is_none_or(|share| (0.0..=100.0).contains(&share)));
                prop_assert!(card.memory_total.is_none_or(|bytes| bytes <= 3 << 50));
            }
        }
    }
}
