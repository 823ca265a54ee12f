//! A stand-in for NVIDIA's library (`nvml/fake_nvml.c`), compiled when it is first needed; each test has a copy and a state
//! of its own.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::replace;

/// A library that lacks something.
#[derive(Clone, Copy)]
pub enum Without {
    Nothing,
    /// `nvmlInit_v2`.
    Init,
    /// `nvmlDeviceGetMemoryInfo_v2`, as drivers before 510.
    Memory,
}

/// The stand-in, in a folder of its own.
pub struct FakeNvml {
    folder: tempfile::TempDir,
}

impl FakeNvml {
    /// A library that says what `state` says.
    pub fn new(state: &str) -> Self {
        Self::without(Without::Nothing, state)
    }

    pub fn without(what: Without, state: &str) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let fake = Self { folder };
        fake.set(state);
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/support/nvml/fake_nvml.c");
        let mut compiler = Command::new("cc");
        compiler.args(["-O1", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", "-Wl,-soname,libnvidia-ml.so.1"]);
        match what {
            Without::Nothing => {}
            Without::Init => drop(compiler.arg("-DWITHOUT_INIT")),
            Without::Memory => drop(compiler.arg("-DWITHOUT_MEMORY")),
        }
        let done = compiler.arg("-o").arg(fake.library()).arg(source).output().expect("a C compiler");
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        fake
    }

    /// Where the library is.
    pub fn library(&self) -> PathBuf {
        self.folder.path().join("libnvidia-ml.so.1")
    }

    /// The folder that holds nothing else.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Changes what it says from now on.
    pub fn set(&self, state: &str) {
        replace(&self.folder.path().join("state"), state);
    }
}

/// The line of a card that is well and knows all about itself.
pub fn card(number: usize) -> String {
    let uuid = uuid(number).to_uppercase();
    format!(
        "card uuid=GPU-{uuid} name=NVIDIA_A100-SXM4-80GB total=85899345920 used=10737418240 load=37 temp=61 slowdown=92 \
         memory_max=95 power=250500 power_limit=400000 reasons=4 ecc=0 replays=2 generation=4 width=16 field82=70u \
         field143=1u field144=0u field145=0u field230=0u field38=5 field45=6 field52=1 field59=2 field160=4 mig=0\n"
    )
}

/// The identity of that card, as readings have it.
pub fn uuid(number: usize) -> String {
    format!("df6e7a7c-7314-46f8-abc4-{number:012x}")
}

/// A driver and some cards that are well.
pub fn host(cards: usize) -> String {
    std::iter::once("host driver=580.95.05\n".to_owned()).chain((0..cards).map(card)).collect()
}
