//! What NVIDIA's driver says, as readings: through the real binding, with a library in place of NVIDIA's.

mod support;

use std::path::Path;
use std::time::Duration;

use arriero::clock;
use arriero::nvml::{Absent, Look, Nvml, Settings, Watcher};
use arriero::policy::gpu::reading::{Card, CardFault, Process, Reading, RecoveryAction, Throttle, Unread};
use support::nvml::{FakeNvml, Without, card, host, uuid};
use support::{PATIENCE, eventually};

fn read(fake: &FakeNvml) -> Reading {
    Nvml::open_at(&fake.library()).unwrap_or_else(|absent| panic!("{absent}")).read().expect("a reading")
}

fn watch(fake: &FakeNvml) -> Watcher {
    let settings = Settings { interval: Duration::from_millis(50), library: Some(fake.library()) };
    Watcher::start(settings).expect("a thread")
}

/// Waits until what is known is as wanted.
async fn until(watcher: &Watcher, what: &str, mut wanted: impl FnMut(&Look) -> bool) -> Look {
    let mut last = None;
    eventually(what, || {
        let look = watcher.look(clock::now());
        let is_wanted = wanted(&look);
        last = Some(look);
        async move { is_wanted }
    })
    .await;
    last.expect("it was looked")
}

fn first(look: &Look) -> Option<&Card> {
    look.reading.as_ref().ok()?.cards.first()
}

#[test]
fn a_card_that_is_well_tells_all_about_itself() {
    let pid = std::process::id();
    let fake = FakeNvml::new(&host(1).replace(" mig=0", &format!(" mig=0 processes={pid}:1024,999999999:!")));
    let reading = read(&fake);
    assert_eq!(reading.driver.as_deref(), Some("580.95.05"));
    let boot_id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").expect("Linux");
    assert_eq!(reading.boot_id.as_deref(), Some(boot_id.trim()));
    let name = std::fs::read_to_string("/proc/self/comm").expect("Linux");
    let expected = Card {
        uuid: Some(uuid(0)),
        index: Some(0),
        name: Some("NVIDIA A100-SXM4-80GB".into()),
        memory_total: Some(80 << 30),
        memory_used: Some(10 << 30),
        memory_free: Some(70 << 30),
        utilisation: Some(37.0),
        temperature: Some(61.0),
        margin: Some(31.0),
        memory_temperature: Some(70.0),
        memory_margin: Some(25.0),
        power: Some(250.5),
        power_limit: Some(400.0),
        throttle: Some(Throttle(Throttle::POWER_CAP)),
        ecc_uncorrected: Some(0),
        remapped_rows: Some(1),
        remap_pending: Some(false),
        remap_failed: Some(false),
        recovery_action: Some(RecoveryAction::None),
        pcie_replays: Some(2),
        pcie_generation: Some(4),
        pcie_width: Some(16),
        nvlink_crc: Some(11),
        nvlink_errors: Some(7),
        processes: vec![
            Process { pid, name: Some(name.trim_end().to_owned()), memory: Some(1024) },
            Process { pid: 999_999_999, name: None, memory: Some(0) },
        ],
        ..Card::default()
    };
    assert_eq!(reading.cards, [expected]);
}

#[test]
fn eight_cards_keep_their_order_and_their_own_values() {
    let mut state = host(8);
    for (number, temp) in (0..8).zip(40..) {
        state = state.replacen(" temp=61", &format!(" temp={}", temp + number), 1);
    }
    let cards = read(&FakeNvml::new(&state)).cards;
    let seen: Vec<_> = cards.iter().map(|card| (card.index, card.uuid.clone(), card.temperature)).collect();
    let wanted: Vec<_> =
        (0..8u8).map(|n| (Some(n.into()), Some(uuid(n.into())), Some(f64::from(40 + 2 * n)))).collect();
    assert_eq!(seen, wanted);
}

#[test]
fn what_a_card_does_not_know_is_not_known() {
    let fake = FakeNvml::new("host\ncard uuid=GPU-A\n");
    let card = Card { uuid: Some("a".into()), index: Some(0), ..Card::default() };
    assert_eq!(read(&fake), Reading { cards: vec![card], driver: None, ..read(&fake) });
}

#[test]
fn sentinels_are_not_taken_for_values() {
    let fake = FakeNvml::new(
        "host\ncard uuid=GPU-A total=18446744073709551615 used=9223372036854775794 load=4294967295 temp=4294967295 \
         slowdown=90 power=4294967295 ecc=18446744073709551615 replays=4294967295 width=4294967295 field82=nan \
         field143=9223372036854775794 field144=nan field230=18446744073709551615 field38=9223372036854775794 field45=7 \
         processes=1:18446744073709551615 field29=0 field30=2\n",
    );
    let reading = read(&fake);
    let [card] = &reading.cards[..] else { panic!("{reading:?}") };
    assert_eq!((card.memory_total, card.memory_used, card.memory_free), (None, None, None));
    assert_eq!((card.utilisation, card.temperature, card.margin, card.power), (None, None, None, None));
    assert_eq!((card.ecc_uncorrected, card.pcie_replays, card.pcie_width), (None, None, None));
    assert_eq!((card.memory_temperature, card.remapped_rows, card.remap_pending), (None, None, None));
    assert_eq!((card.recovery_action, card.processes[0].memory), (None, None));
    // What is known counts, beside what is not.
    assert_eq!((card.nvlink_crc, card.retired_pages), (Some(7), Some(2)));
}

#[test]
fn what_must_be_done_with_a_card_is_told_also_when_it_needs_a_reset() {
    for (number, action) in [
        (1, RecoveryAction::GpuReset),
        (2, RecoveryAction::NodeReboot),
        (3, RecoveryAction::DrainP2p),
        (4, RecoveryAction::DrainAndReset),
        (77, RecoveryAction::Other),
    ] {
        let state = format!("host\ncard uuid=GPU-A total=!16 used=1 power=!16 field230={number}u field145=1u\n");
        let reading = read(&FakeNvml::new(&state));
        let card = &reading.cards[0];
        assert_eq!((card.recovery_action, card.fault), (Some(action), Some(CardFault::Error)));
        assert_eq!((card.remap_failed, card.memory_total), (Some(true), None));
    }
}

#[test]
fn counters_are_told_as_they_are_also_when_they_go_back() {
    let fake = FakeNvml::new(&host(1).replace(" replays=2", " replays=500").replace(" ecc=0", " ecc=9"));
    let mut nvml = Nvml::open_at(&fake.library()).expect("open");
    let mut counts = || {
        let reading = nvml.read().expect("a reading");
        (reading.cards[0].pcie_replays, reading.cards[0].ecc_uncorrected)
    };
    assert_eq!(counts(), (Some(500), Some(9)));
    fake.set(&host(1));
    assert_eq!(counts(), (Some(2), Some(0)));
}

#[test]
fn a_card_that_is_gone_keeps_its_name_and_the_others_their_values() {
    let fake = FakeNvml::new(&host(3));
    let mut nvml = Nvml::open_at(&fake.library()).expect("open");
    let well = nvml.read().expect("a reading").cards;
    // Gone at every call, at the last one of a round, and already when it is looked up.
    for (old, new) in [(" temp=61", " all=!15"), (" mig=0", " mig=!15"), (" mig=0", " handle=!15")] {
        let broken = card(1).replace(old, new);
        fake.set(&host(3).replace(&card(1), &broken));
        let now = nvml.read().expect("a reading").cards;
        assert_eq!((&now[0], &now[2]), (&well[0], &well[2]));
        let lost = Card {
            uuid: Some(uuid(1)),
            index: Some(1),
            name: well[1].name.clone(),
            fault: Some(CardFault::Lost),
            ..Card::default()
        };
        assert_eq!(now[1], lost);
    }
    fake.set(&host(3));
    assert_eq!(nvml.read().expect("a reading").cards, well);
}

#[test]
fn a_card_that_was_never_seen_well_is_still_one() {
    let fake = FakeNvml::new(&host(2).replace(&card(0), "card all=!15\n"));
    let reading = read(&fake);
    assert_eq!((reading.cards[0].fault, &reading.cards[0].uuid), (Some(CardFault::Lost), &None));
    assert_eq!((reading.cards[1].fault, &reading.cards[1].uuid), (None, &Some(uuid(1))));
}

#[test]
fn a_card_in_parts_has_their_memory_in_the_parts_and_its_health_itself() {
    let mut state = host(2).replacen(" mig=0", " mig=1", 1);
    state += "part of=0 uuid=MIG-6F0E name=NVIDIA_A100_MIG_3g.40gb total=42949672960 used=1073741824 processes=1:5\n";
    state += "part of=0 uuid=MIG-7A1B total=!15\n";
    let cards = read(&FakeNvml::new(&state)).cards;
    assert_eq!(cards.len(), 4, "{cards:?}");
    let whole = &cards[0];
    assert_eq!((whole.partition, whole.memory_total, whole.utilisation), (false, None, None));
    assert_eq!((whole.temperature, whole.ecc_uncorrected), (Some(61.0), Some(0)));
    let part = &cards[1];
    assert_eq!((part.partition, part.index, part.uuid.as_deref()), (true, Some(0), Some("mig-6f0e")));
    assert_eq!((part.memory_total, part.memory_free), (Some(40 << 30), Some(39 << 30)));
    assert_eq!((part.temperature, part.processes.len(), part.fault), (None, 1, None));
    assert_eq!((cards[2].uuid.as_deref(), cards[2].fault), (Some("mig-7a1b"), Some(CardFault::Lost)));
    assert_eq!((cards[3].partition, cards[3].index, cards[3].memory_total), (false, Some(1), Some(80 << 30)));
}

#[test]
fn what_is_missing_in_the_library_costs_only_what_it_would_say() {
    let fake = FakeNvml::without(Without::Memory, &host(1));
    let reading = read(&fake);
    let card = &reading.cards[0];
    assert_eq!((card.memory_total, card.fault, card.temperature), (None, None, Some(61.0)));
}

#[test]
fn a_driver_that_cannot_be_asked_says_why_and_how_to_mend_it() {
    let refusal = |fake: &FakeNvml| Nvml::open_at(&fake.library()).err().expect("absent");
    for (code, absent, unread, word) in [
        (9, Absent::DriverNotLoaded, Unread::DriverDown, "modprobe"),
        (18, Absent::OtherVersion, Unread::DriverDown, "boot the host"),
        (4, Absent::NoPermission, Unread::Silent, "/dev/nvidiactl"),
    ] {
        let found = refusal(&FakeNvml::new(&format!("host init=!{code}\n")));
        assert_eq!((&found, found.unread()), (&absent, unread));
        assert!(found.to_string().contains(word), "{found}");
    }
    let found = refusal(&FakeNvml::without(Without::Init, "host\n"));
    assert!(matches!(&found, Absent::Symbol(text) if text.contains("nvmlInit_v2")), "{found:?}");
    assert_eq!(found.unread(), Unread::Silent);
    let fake = FakeNvml::new("host\n");
    std::fs::write(fake.library(), "no library").expect("written");
    let found = refusal(&fake);
    assert!(matches!(&found, Absent::NoLibrary { error } if error.contains("libnvidia-ml.so.1")), "{found:?}");
    let found = Nvml::open_at(Path::new("/nowhere/libnvidia-ml.so.1")).err().expect("absent");
    assert!(matches!(found, Absent::NoLibrary { .. }), "{found:?}");
}

#[tokio::test]
async fn the_driver_may_go_and_come_back() {
    let fake = FakeNvml::new("host init=!9\n");
    let watcher = watch(&fake);
    let look = until(&watcher, "the driver is down", |look| matches!(look.reading, Err(Unread::DriverDown))).await;
    assert!(look.detail.expect("why").contains("modprobe"));
    fake.set(&host(1));
    until(&watcher, "it is loaded", |look| first(look).is_some()).await;
    // Somebody unloads it: calls fail, and so does opening it again.
    fake.set("host count=!1 init=!9\n");
    until(&watcher, "it was unloaded", |look| matches!(look.reading, Err(Unread::DriverDown))).await;
    fake.set(&host(2));
    until(&watcher, "it is back", |look| look.reading.as_ref().is_ok_and(|reading| reading.cards.len() == 2)).await;
}

#[tokio::test]
async fn a_call_that_hangs_is_seen_within_six_seconds_and_holds_nobody_up() {
    let fake = FakeNvml::new(&host(2));
    let watcher = watch(&fake);
    until(&watcher, "a reading", |look| first(look).is_some()).await;
    let begun = clock::now();
    fake.set(&host(2).replace("host ", "host hang=nvmlDeviceGetTemperature:10000 "));
    let mut slowest = Duration::ZERO;
    let look = until(&watcher, "it hangs", |look| {
        slowest = slowest.max({
            let begun = clock::now();
            drop(watcher.look(clock::now()));
            begun.elapsed()
        });
        matches!(look.reading, Err(Unread::Hangs))
    })
    .await;
    let seen = begun.elapsed();
    assert!((5.0..7.5).contains(&seen.as_secs_f64()), "seen after {seen:?}");
    assert!(slowest < Duration::from_secs(1), "a look took {slowest:?}");
    assert!(look.age >= Duration::from_secs(5), "{:?}", look.age);
    assert!(look.detail.expect("why").contains("has not answered for"));
    fake.set(&host(2));
    // For a moment the last reading is still the one from before.
    until(&watcher, "it goes on", |look| first(look).is_some() && look.age < Duration::from_secs(1)).await;
    let begun = clock::now();
    fake.set(&host(2).replace("host ", "host hang=nvmlDeviceGetMemoryInfo_v2:10000 "));
    until(&watcher, "it hangs again", |look| matches!(look.reading, Err(Unread::Hangs))).await;
    // An end does not wait for a thread that is stuck.
    drop(watcher);
    assert!(begun.elapsed() < PATIENCE / 2);
}

#[tokio::test]
async fn errors_of_the_driver_come_with_their_card_and_their_time() {
    let fake = FakeNvml::new(&host(2));
    let watcher = watch(&fake);
    until(&watcher, "a reading", |look| first(look).is_some()).await;
    let before = clock::unix_time().as_millis();
    fake.set(&(host(2) + "xid card=1 code=31\nxid card=0 code=13\nxid card=1 code=999\n"));
    let codes = |look: &Look, card: usize| -> Vec<u32> {
        let cards = look.reading.as_ref().map(|reading| &reading.cards[card]);
        cards.map(|card| card.xids.iter().map(|xid| xid.code).collect()).unwrap_or_default()
    };
    let look = until(&watcher, "all three", |look| codes(look, 0).len() + codes(look, 1).len() == 3).await;
    assert_eq!((codes(&look, 0), codes(&look, 1)), (vec![13], vec![31, 999]));
    let after = clock::unix_time().as_millis();
    for xid in look.reading.expect("a reading").cards.iter().flat_map(|card| &card.xids) {
        assert!((before..=after).contains(&xid.at.into()), "{xid:?}");
    }
    // A card that falls off the bus cannot say any more that the error was its own.
    fake.set(
        &(host(2).replace(&card(0), &card(0).replace(" temp=61", " all=!15"))
            + "xid card=1 code=31\nxid card=0 code=13\nxid card=1 code=999\nxid card=0 code=79\n"),
    );
    let look = until(&watcher, "the last one", |look| codes(look, 0).contains(&79)).await;
    assert_eq!((codes(&look, 0), codes(&look, 1)), (vec![13, 79], vec![31, 999]));
    assert_eq!(first(&look).expect("it").fault, Some(CardFault::Lost));
}

#[tokio::test]
async fn a_card_without_events_does_not_cost_the_others_theirs() {
    let fake = FakeNvml::new(&host(2).replacen(" mig=0", " mig=0 register=!2", 1));
    let watcher = watch(&fake);
    until(&watcher, "a reading", |look| first(look).is_some()).await;
    fake.set(&(host(2) + "xid card=0 code=13\nxid card=1 code=48\n"));
    let look = until(&watcher, "the error of the other one", |look| {
        look.reading.as_ref().is_ok_and(|reading| reading.cards[1].xids.len() == 1)
    })
    .await;
    assert_eq!(first(&look).expect("it").xids, []);
}

#[tokio::test]
async fn events_that_fail_at_once_are_not_asked_for_all_the_time() {
    let fake = FakeNvml::new(&host(1).replace("host ", "host wait=!15 "));
    let settings = Settings { interval: Duration::from_secs(1), library: Some(fake.library()) };
    let watcher = Watcher::start(settings).expect("a thread");
    until(&watcher, "a reading", |look| first(look).is_some()).await;
    let (begun, used) = (clock::now(), clock::process_time());
    let mut times = std::collections::BTreeSet::new();
    until(&watcher, "three more readings", |look| {
        times.insert(look.at);
        times.len() == 4
    })
    .await;
    let used = (clock::process_time() - used).as_secs_f64() / begun.elapsed().as_secs_f64();
    assert!((2.0..4.5).contains(&begun.elapsed().as_secs_f64()), "{:?}", begun.elapsed());
    // Other tests of this process run too where they are not each in one of their own.
    assert!(used < 0.5, "{used} of a processor");
}
