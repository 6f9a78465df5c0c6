//! A snapshot or a migration of any bytes: the file of the state, and what each part of a
//! machine makes of its section. The fuzz target `snapshot` calls [`snapshot`], as does a
//! test, with each seed.
//!
//! There is no KVM: of a vCPU's own part is checked what is looked at before KVM gets it.
//! What was taken is saved again, and a second machine takes that and is the same.

#[cfg(test)]
mod golden;
mod machine;

use std::collections::BTreeMap;

use clap::Parser;

use self::machine::FuzzedMachine;
use super::super::restored::{RestoredError, RestoredVm};
use crate::cli::{self, Cli, Command};
use crate::config::VmConfig;
use crate::error_text::one_line;
use crate::fuzz_input::FuzzInput;
use crate::pmu;
use crate::snapshot::fuzz::{is_one_line, sections_of_body, sections_of_file};
use crate::snapshot::stream::{MOST_PAGES, StreamError, StreamRecord, read_hello, read_record};
use crate::snapshot::{FLAGS, Sections, SnapshotIdentity};
use crate::sys::guest_ram::PAGE;

/// Reads a state or a stream, as the first byte says, and restores what is in it.
///
/// # Panics
/// If something is taken that cannot be used, or a refusal is not one line.
#[expect(clippy::unwrap_used, reason = "a check")]
pub fn snapshot(data: &[u8]) {
    let mut input = FuzzInput::new(data);
    let kind = input.byte();
    let bytes = input.take(data.len());
    let config = config().unwrap();
    let mut machine = FuzzedMachine::new(&config).unwrap();
    let sections = match kind % 4 {
        0 => sections_of_file(bytes),
        1 => match of_stream(&machine, bytes) {
            Ok(sections) => Some(sections),
            Err(error) => {
                is_one_line(&one_line(&error));
                None
            }
        },
        _ => sections_of_body(bytes),
    };
    if let Some(sections) = sections
        && let Err(error) = restore(sections, &config, &mut machine)
    {
        is_one_line(&one_line(&error));
    }
}

/// A VM with each device of which a snapshot has a part.
fn config() -> Option<VmConfig> {
    const FLAGS: &str =
        "--memory size=16M --cpus boot=1,max=2 --console null --debug-exit --rng on";
    let words = ["perfvisor", "run", "--kernel", "k"].into_iter();
    let words = words.chain(FLAGS.split(' '));
    match Cli::try_parse_from(words).ok()?.command {
        Command::Run(args) => args.vm_config().ok(),
        _ => None,
    }
}

/// Takes a stream as the destination does.
fn of_stream(machine: &FuzzedMachine, bytes: &[u8]) -> Result<Sections, RestoredError> {
    let (mut from, memory) = (bytes, &machine.memory);
    let hello = read_hello(&mut from)?;
    assert!(hello.flags.len() <= bytes.len());
    check_flags(&hello.flags);
    RestoredVm::take_records(memory, |pages, buffer| {
        let record = read_record(&mut from, pages, buffer)?;
        check_record(&record, pages, buffer);
        Ok::<_, StreamError>(record)
    })
}

fn check_record(record: &StreamRecord, pages: u64, buffer: &[u8]) {
    match record {
        StreamRecord::Pages(range) => {
            let count = range.end - range.start;
            assert!(count > 0 && count <= MOST_PAGES && range.end <= pages);
            assert_eq!(buffer.len() as u64, count * PAGE as u64);
        }
        StreamRecord::Zeros(range) => assert!(range.start < range.end && range.end <= pages),
        StreamRecord::State(..) => {}
    }
}

/// Flags are the words of a command line, or none of this version.
fn check_flags(flags: &str) {
    match cli::words_of(flags) {
        Ok(words) => drop(Cli::try_parse_from(words)),
        Err(error) => is_one_line(&one_line(&error)),
    }
}

/// Each part of the machine takes its section.
fn restore(
    mut sections: Sections,
    config: &VmConfig,
    machine: &mut FuzzedMachine,
) -> Result<(), RestoredError> {
    if let Ok(flags) = sections.take::<String>(FLAGS) {
        check_flags(&flags);
    }
    if let Ok(identity) = sections.take::<SnapshotIdentity>(SnapshotIdentity::SECTION) {
        check_identity(&identity, config.memory.size / PAGE as u64);
    }
    let vm = RestoredVm::of_stream_sections(sections, config)?;
    for id in vm.present() {
        assert!(id.0 < config.cpus.max, "{id}");
        let _tsc = vm.vcpus.tsc.now();
        if let Err(error) = vm.vcpus.cpuid(id, &[]) {
            is_one_line(&one_line(&error));
        }
        let section = vm.vcpus.take(id);
        assert!(section.is_some() && vm.vcpus.take(id).is_none(), "{id}");
        pmu::fuzz_port(&section.map(|section| section.port).unwrap_or_default());
    }
    vm.restore_devices(&machine.devices)?;
    check_again(config, machine);
    machine.use_it();
    Ok(())
}

/// The pages of a base are pages of the memory, in their order.
fn check_identity(identity: &SnapshotIdentity, most: u64) {
    let Some(base) = &identity.base else {
        return;
    };
    let mut next = 0;
    for range in base.pages(most).unwrap_or_default() {
        assert!(range.start >= next && range.start < range.end && range.end <= most);
        next = range.end;
    }
}

/// What was restored is saved, restored into another machine and saved there: the same.
#[expect(clippy::unwrap_used, reason = "a check")]
fn check_again(config: &VmConfig, machine: &FuzzedMachine) {
    let saved = machine.saved();
    let other = FuzzedMachine::new(config).unwrap();
    other.take_memory_of(machine);
    other.devices.restore(&mut machine.saved()).unwrap();
    // The disk has another file in each machine, and the console tells its driver of its size
    // in each life.
    let without = ["disk0", "console"];
    assert_eq!(bytes(&other.saved(), &without), bytes(&saved, &without));
}

/// All sections but some.
fn bytes(sections: &Sections, without: &[&str]) -> BTreeMap<String, Vec<u8>> {
    let sections = sections.iter();
    sections
        .filter(|(name, _)| !without.contains(name))
        .map(|(name, bytes)| (name.to_owned(), bytes.to_vec()))
        .collect()
}

#[cfg(test)]
mod tests {
    #[test]
    fn seeds() {
        crate::fuzz_input::each_seed("snapshot", super::snapshot);
    }
}
