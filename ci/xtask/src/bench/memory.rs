//! What a VM takes of the host's memory besides the guest's, and the size of the program.

use super::Run;
use super::boot::{guest, named};
use super::figure::{Figure, Most};
use crate::guest::KERNEL_WORDS;
use crate::guest_tests::{GuestTest, Runs};

const KIB: &str = "KiB";

/// vCPUs, and the most that is wanted.
const VCPUS: [(u32, f64); 3] = [(1, 3072.0), (16, 3584.0), (64, 4608.0)];

/// The most that is wanted of the program's file, in KiB.
const PROGRAM: f64 = 4e6 / 1024.0;

/// A run for each number of vCPUs.
pub(super) fn all() -> Vec<Run> {
    let mut all: Vec<Run> = VCPUS.map(|(vcpus, most)| share(vcpus, most)).into();
    all.push(program());
    all
}

fn row(name: &str, line: String, figure: Figure) -> Run {
    let test = GuestTest {
        runs: Runs::OnHost,
        limit: 300,
        ..GuestTest::new(format!("bench/{name}"), line, |_, _| Ok(()))
    };
    Run::printed(test, vec![figure])
}

/// The proportional share of the VMM's memory when the guest's /init is there, without the
/// guest's own memory. All vCPUs are there, and the guest's kernel starts the first alone: to
/// start 64 takes an emulated host many minutes.
fn share(vcpus: u32, most: f64) -> Run {
    let name = format!("pss_{vcpus}_vcpus");
    let line = format!(
        "{} --cpus boot={vcpus} {}",
        guest("{kernel-6.12}", &format!("{KERNEL_WORDS} maxcpus=1")),
        named("pss", &name)
    );
    let figure = Figure::new(name, KIB, Some(Most::Value(most)));
    row(&format!("memory/{vcpus}"), line, figure)
}

/// Static, as it runs in the nested host.
fn program() -> Run {
    let line = "echo bench program_size $(($(stat -c %s $(which perfvisor)) / 1024))";
    let figure = Figure::new("program_size", KIB, Some(Most::Value(PROGRAM)));
    row("memory/program", line.into(), figure)
}
