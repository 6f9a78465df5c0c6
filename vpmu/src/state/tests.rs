//! Bytes that are no state: each is a typed error.

use alloc::string::ToString;
use alloc::vec::Vec;

use super::{BODY_AT, CHECKSUM_AT, RestoreError, crc};
use crate::guest::{Model, ModelConfig, ModelKind};
use crate::host::software::{Khz, SoftwarePmu};
use crate::ids::MsrIndex;
use crate::units::Nanos;
use crate::{Policy, VcpuPmu};

type Pmu = VcpuPmu<Model, SoftwarePmu>;

fn model(name: &str) -> Model {
    let kind = ModelKind::from_name(name).unwrap();
    Model::new(ModelConfig::new(kind, kind.shape(), SoftwarePmu::SUPPORTED).unwrap())
}

fn restore(name: &str, bytes: &[u8]) -> Result<Pmu, RestoreError> {
    let host = SoftwarePmu::new(Khz(1_000_000));
    Pmu::restore(model(name), host, Policy::Flexible, bytes)
}

fn saved(name: &str) -> Vec<u8> {
    let host = SoftwarePmu::new(Khz(1_000_000));
    let mut pmu = Pmu::new(model(name), host, Policy::Flexible);
    for (sel, code) in [(0x186, 0x53_003c), (0xc001_0000, 0x53_0076)] {
        let _ = pmu.wrmsr(MsrIndex(sel), code);
    }
    pmu.guest_ran(Nanos(1_000));
    pmu.save()
}

/// The checksum that belongs to the bytes.
fn seal(bytes: &mut [u8]) {
    let checksum = crc::of(&[&bytes[..CHECKSUM_AT], &bytes[BODY_AT..]]);
    bytes[CHECKSUM_AT..BODY_AT].copy_from_slice(&checksum.to_le_bytes());
}

/// Where this register's value is.
fn value_of(bytes: &[u8], msr: u32) -> usize {
    let index = msr.to_le_bytes();
    let at = bytes.windows(4).position(|w| w == index).unwrap();
    at + 4
}

#[test]
fn every_shorter_and_every_longer_state_is_refused() {
    let bytes = saved("intel-v4");
    assert!(restore("intel-v4", &bytes).is_ok());
    for len in 0..bytes.len() {
        let error = restore("intel-v4", &bytes[..len]).unwrap_err();
        assert!(
            matches!(error, RestoreError::Truncated { have, .. } if have == len),
            "{len}: {error}"
        );
    }
    let mut longer = bytes;
    longer.push(0);
    let error = restore("intel-v4", &longer).unwrap_err();
    assert_eq!(error, RestoreError::Tail { extra: 1 });
    let error = restore("intel-v4", b"QEVM snapshot").unwrap_err();
    assert_eq!(error, RestoreError::Foreign);
}

#[test]
fn every_flipped_bit_is_found() {
    let bytes = saved("amd-v2");
    for at in 0..bytes.len() * 8 {
        let mut damaged = bytes.clone();
        damaged[at / 8] ^= 1 << (at % 8);
        let error = restore("amd-v2", &damaged).unwrap_err();
        let expected = match at / 8 {
            0..8 => matches!(error, RestoreError::Foreign),
            8..12 => matches!(error, RestoreError::Version { .. }),
            12..16 => matches!(
                error,
                RestoreError::Truncated { .. } | RestoreError::Tail { .. }
            ),
            _ => error == RestoreError::Corrupted,
        };
        assert!(expected, "bit {at}: {error}");
        assert!(error.to_string().contains("accepted: "), "{error}");
    }
}

/// With a checksum that fits: still no register that holds what it cannot.
#[test]
fn registers_hold_only_what_a_guest_could_have_put_there() {
    for (name, msr, byte, bit) in [
        ("intel-v2", 0x186, 2, 5),     // AnyThread, before version 3
        ("intel-v5", 0x187, 4, 0),     // the upper half of an event select
        ("intel-v2", 0xc1, 6, 0),      // beyond the width
        ("intel-v1", 0xc2, 5, 0),      // beyond 40 bits
        ("intel-v2", 0x38e, 7, 3),     // frozen, before version 4
        ("intel-v4", 0x38e, 7, 7),     // condition changed is never set
        ("intel-v2", 0x38f, 1, 0),     // a counter that is not there
        ("intel-v4", 0x38d, 1, 4),     // a fixed counter that is not there
        ("intel-v2", 0x1d9, 0, 6),     // branch tracing
        ("amd-v2", 0xc001_0000, 2, 3), // dropped by a write
        ("amd-v2", 0xc001_020b, 6, 0), // beyond the width
        ("amd-v2", 0xc000_0300, 0, 7), // a counter that is not there
    ] {
        let mut bytes = saved(name);
        let at = value_of(&bytes, msr);
        bytes[at + byte] |= 1 << bit;
        seal(&mut bytes);
        let error = restore(name, &bytes).unwrap_err();
        let found = matches!(error, RestoreError::Register { msr: m, .. } if m == MsrIndex(msr));
        assert!(found, "{name} {msr:#x}: {error}");
    }
}

#[test]
fn a_list_of_other_registers_is_refused() {
    let mut bytes = saved("intel-v2");
    let at = value_of(&bytes, 0x186) - 4;
    bytes[at] = 0x87;
    seal(&mut bytes);
    let error = restore("intel-v2", &bytes).unwrap_err();
    assert_eq!(error, RestoreError::Impossible("the list of its registers"));
}

/// What no sample comes to: a share above one, a sample that is never due, numbers
/// of a host that has none.
#[test]
fn impossible_samples_of_levels_are_refused() {
    let host = SoftwarePmu::new(Khz(1_000_000));
    let good = Pmu::new(model("intel-v2"), host, Policy::Flexible).save();
    // No events: the samples are the last before the count of them.
    let at = good.len() - 18;
    assert_eq!(good[at], 1, "there are some");
    for (offset, byte) in [(0, 0), (0, 2), (3, 2), (4, 1), (12, 1), (16, 1)] {
        let mut bytes = good.clone();
        bytes[at + offset] = byte;
        seal(&mut bytes);
        let error = restore("intel-v2", &bytes).unwrap_err();
        let expected = RestoreError::Impossible("its samples of levels");
        assert_eq!(error, expected, "{offset}");
    }
    let mut most = good;
    most[at + 3] = 1;
    seal(&mut most);
    assert!(restore("intel-v2", &most).is_ok(), "all of it in user mode");
}

/// Whatever a byte holds, with a checksum that fits: an error, or a PMU that
/// says the same when it is saved again.
#[test]
fn no_byte_can_cause_a_panic() {
    for name in ["intel-v1", "intel-v5", "amd-k7", "amd-v2"] {
        let bytes = saved(name);
        for at in 0..bytes.len() {
            for value in [0, 1, 2, 0x7f, 0x80, 0xff] {
                let mut other = bytes.clone();
                other[at] = value;
                if !(CHECKSUM_AT..BODY_AT).contains(&at) {
                    seal(&mut other);
                }
                let Ok(mut pmu) = restore(name, &other) else {
                    continue;
                };
                pmu.guest_ran(Nanos(1_000_000));
                pmu.poll();
                let again = pmu.save();
                let mut second = restore(name, &again).unwrap();
                assert_eq!(second.save(), again, "{name}, byte {at} = {value:#x}");
            }
        }
    }
}
