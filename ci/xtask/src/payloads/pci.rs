//! `pci_random`, random accesses to all of PCI: its arguments, and a minute of it.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::{Outcome, command, finishes};
use crate::paths;
use crate::report::Report;
use crate::say;

/// The payload's name.
pub(super) const PAYLOAD: &str = "pci_random";
/// The seed of the daily run, and the first one of the minute.
pub(super) const SEED: u64 = 20_261_130;

const MINUTE: Duration = Duration::from_secs(60);
const NAME: &str = "payload/pci_random/minute";
/// The word of [`NAME`] that asks for it.
const WORD: &str = "minute";

/// Further arguments of `perfvisor run`: one device of each kind, and 64 MiB for queues
/// that may be anywhere.
pub(super) fn arguments(seed: u64) -> Result<[String; 11]> {
    Ok([
        "--debug-exit".into(),
        "--cmdline".into(),
        format!("ops=5000 seed={seed}"),
        "--memory".into(),
        "size=64M".into(),
        "--rng".into(),
        "on".into(),
        "--console".into(),
        "null".into(),
        "--disk".into(),
        format!("path={}", scratch_disk()?.display()),
    ])
}

/// A disk that may be overwritten.
fn scratch_disk() -> Result<PathBuf> {
    const MIB: u64 = 1 << 20;
    let path = paths::cache("run")?.join("pci_random.raw");
    let file = std::fs::File::create(&path);
    file.and_then(|file| file.set_len(MIB))
        .with_context(|| format!("cannot make {}", path.display()))?;
    Ok(path)
}

/// The minute, if it was asked for.
pub(super) fn wanted(report: &mut Report) -> Option<String> {
    if !report.wants(NAME) {
        return None;
    }
    if report.filter().is_some_and(|filter| filter.contains(WORD)) {
        return Some(NAME.into());
    }
    report.skip(NAME, "long: `cargo xtask test minute` runs it");
    None
}

/// Runs the minute, if it was asked for.
pub(super) fn run(report: &mut Report, perfvisor: &Path, payloads: &[(String, PathBuf)]) {
    if report.filter().is_some_and(|filter| filter.contains(WORD)) {
        report.step(NAME, || minute(perfvisor, payloads));
    }
}

/// One guest after the other, each with a seed of its own, until a minute has passed.
fn minute(perfvisor: &Path, payloads: &[(String, PathBuf)]) -> Result<()> {
    let (_, payload) = payloads
        .iter()
        .find(|(name, _)| name == PAYLOAD)
        .with_context(|| format!("no payload {PAYLOAD}"))?;
    let began = Instant::now();
    let mut guests = 0;
    while began.elapsed() < MINUTE {
        let seed = SEED + guests;
        let mut of = command(perfvisor, payload, None);
        of.args(arguments(seed)?);
        let outcome = finishes(payload, &of).with_context(|| format!("seed={seed}"))?;
        if let Outcome::Skipped(reason) = outcome {
            bail!("seed={seed}: {reason}");
        }
        guests += 1;
    }
    say!("{NAME}: {guests} guests");
    Ok(())
}
