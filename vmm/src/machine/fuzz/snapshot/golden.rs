//! States against files of each version: what a release has written is read for ever, and
//! a layout that has changed is noticed.
//!
//! `state` is of a guest on KVM (`tests/saved_state.rs`), `devices` of devices whose
//! registers have been written. Without such a file of the present version,
//! `UPDATE_STATES=1` writes it.

use std::fs;
use std::path::PathBuf;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::super::super::saving::{CHIPS, MACHINE, MachineSection};
use super::machine::FuzzedMachine;
use super::{bytes, config, restore, snapshot};
use crate::kvm::SavedChips;
use crate::snapshot::fuzz::{file_of, sections_of_file};
use crate::snapshot::{Sections, VERSION, decode};
use crate::vcpu::VcpuSection;

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn path(version: u32, name: &str) -> PathBuf {
    root().join(format!("tests/data/snapshot/v{version}/{name}"))
}

fn golden(version: u32, name: &str) -> Sections {
    let file = fs::read(path(version, name)).unwrap();
    assert_eq!(file[8..12], version.to_le_bytes());
    sections_of_file(&file).unwrap()
}

/// The disk's section: its file has another number each time.
const NO_DISK: [&str; 1] = ["disk0"];

/// A machine of devices that a driver has set up.
fn busy() -> FuzzedMachine {
    let machine = FuzzedMachine::new(&config().unwrap()).unwrap();
    machine.set_up();
    machine
}

fn restored(mut devices: Sections) -> FuzzedMachine {
    let machine = FuzzedMachine::new(&config().unwrap()).unwrap();
    machine.devices.restore(&mut devices).unwrap();
    assert_eq!(devices.are_all_taken(), Ok(()));
    machine
}

/// The section is of this type, and is written as it was read.
fn is_a<T: DeserializeOwned + Serialize>(sections: &Sections, name: &str) -> T {
    let all = bytes(sections, &NO_DISK);
    let value = decode::<T>(&all[name]).unwrap();
    assert_eq!(postcard::to_allocvec(&value).unwrap(), all[name], "{name}");
    value
}

/// DESIGN.md, "Snapshots": each version is read for ever.
#[test]
fn each_section_of_each_version_is_read() {
    let config = config().unwrap();
    for version in 1..=VERSION {
        let machine = is_a::<MachineSection>(&golden(version, "state"), MACHINE);
        assert_eq!((machine.vcpus, machine.memory), (vec![0], 16 << 20));
        is_a::<SavedChips>(&golden(version, "state"), CHIPS);
        let vcpu = is_a::<VcpuSection>(&golden(version, "state"), "vcpu0");
        assert_eq!(vcpu.vcpu, 0);
        assert!(!vcpu.kvm.cpuid().is_empty() && vcpu.port.len() > 100);
        let tsc = vcpu.kvm.tsc();
        assert!(tsc.tsc() > 0 && tsc.now() > tsc.tsc(), "{tsc:?}");
        let mut machine = FuzzedMachine::new(&config).unwrap();
        restore(golden(version, "state"), &config, &mut machine).unwrap();
        let then = restored(golden(version, "devices"));
        let today = restored(busy().saved());
        assert_eq!(
            bytes(&then.saved(), &NO_DISK),
            bytes(&today.saved(), &NO_DISK)
        );
    }
}

#[test]
fn what_devices_write_today_is_what_they_wrote_then() {
    let today = busy().saved();
    let path = path(VERSION, "devices");
    if std::env::var_os("UPDATE_STATES").is_some() && !path.exists() {
        fs::write(path, file_of(&today)).unwrap();
    }
    assert!(
        bytes(&today, &NO_DISK) == bytes(&golden(VERSION, "devices"), &NO_DISK),
        "the form has changed; it needs a new version"
    );
}

/// A fuzzer begins with states that are taken: of a guest on KVM, and with devices that
/// work.
#[test]
fn a_state_with_busy_devices_is_taken() {
    let mut all = golden(VERSION, "state");
    for (name, section) in golden(VERSION, "devices").iter() {
        all.put_bytes(name, section.to_vec());
    }
    let file = file_of(&all);
    let body = [&[2], &file[24..]].concat();
    snapshot(&body);
    let mut machine = FuzzedMachine::new(&config().unwrap()).unwrap();
    restore(all, &config().unwrap(), &mut machine).unwrap();
    if std::env::var_os("UPDATE_STATES").is_some() {
        let seed = |name: &str, bytes: &[u8]| {
            fs::write(root().join("fuzz/seeds/snapshot").join(name), bytes).unwrap();
        };
        seed("body-busy-devices", &body);
        seed(
            "file-version-1",
            &[&[0], &fs::read(path(1, "state")).unwrap()[..]].concat(),
        );
        let mut stream = vec![1];
        crate::snapshot::stream::write_hello(&mut stream, 16 << 20, "pmu = \"off\"").unwrap();
        crate::snapshot::stream::write_zeros(&mut stream, 0..4096).unwrap();
        crate::snapshot::stream::write_pages(&mut stream, 1, &[7; 4096]).unwrap();
        crate::snapshot::stream::write_state(&mut stream, &golden(1, "state"), true).unwrap();
        seed("stream", &stream);
    }
}
