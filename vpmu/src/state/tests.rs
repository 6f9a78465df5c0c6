//! Bytes that are no state: each is a typed error.

use alloc::string::{String, ToString};
use alloc::vec::Vec;
use alloc::{format, vec};

use super::wire::{Reader, Writer};
use super::{BODY_AT, CHECKSUM_AT, Carried, RestoreError, Saved, SavedEvent, SavedRules, crc};
use crate::guest::{CoreType, Identity, Model, ModelConfig, ModelKind};
use crate::host::software::{Khz, SoftwarePmu};
use crate::host::{EventCode, HostEvent, LevelMemory, Privilege};
use crate::ids::{MsrIndex, Pmc, PmcSet};
use crate::sched::EventState;
use crate::units::Nanos;
use crate::x86::cpuid::Vendor;
use crate::x86::event::{ArchEvent, ArchEventSet, RawEvent};
use crate::{CodesId, Policy, Ran, Times, Totals, VcpuPmu};

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
    pmu.after_run(Ran {
        span: Nanos(1_000),
        ..Ran::default()
    });
    pmu.save()
}

const fn event(pmc: Option<Pmc>, carried: Carried) -> SavedEvent {
    let Some(pmc) = pmc else {
        panic!("there is such a counter");
    };
    SavedEvent { pmc, carried }
}

/// Two events that differ in everything.
fn two_events() -> Vec<SavedEvent> {
    let nanos = |enabled, running| Times {
        enabled: Nanos(enabled),
        running: Nanos(running),
    };
    let architectural = Carried {
        attr: HostEvent {
            code: ArchEvent::BranchMisses.into(),
            privilege: Privilege {
                user: true,
                kernel: false,
            },
        },
        state: EventState::Inactive,
        count: 0x5152_5354_5556_5758,
        times: nanos(0x3162_6364_6566_6768, 0x2172_7374_7576_7778),
        taken: 0x8182_8384_8586_8788,
        starved: true,
    };
    let raw = Carried {
        attr: HostEvent {
            code: EventCode::Raw(RawEvent::of_event_sel(0x9_a984_cdef)),
            privilege: Privilege {
                user: false,
                kernel: true,
            },
        },
        state: EventState::Error,
        count: 0x9192,
        times: nanos(0xb1b2, 0xa1a2),
        taken: 0xc1c2,
        starved: false,
    };
    vec![event(Pmc::gp(5), architectural), event(Pmc::fixed(1), raw)]
}

/// A state no two numbers of which are the same.
fn distinct() -> Saved {
    Saved {
        model: Identity {
            vendor: Vendor::Amd,
            version: 3,
            width: 47,
            metrics: true,
            events: ArchEventSet::ALL,
            counters: PmcSet(0x1112_1314_1516_1718),
            shown: PmcSet(0x2122_2324_2526_2728),
        },
        rules: SavedRules {
            policy: Policy::Pinned,
            codes: Some(CodesId::new(
                Vendor::Intel,
                0xd1d2_d3d4,
                Some(CoreType::Atom),
            )),
            filter: 0xe1e2_e3e4,
        },
        registers: vec![
            (MsrIndex(0x3132_3334), 0x4142_4344_4546_4748),
            (MsrIndex(0x3536_3738), 0x494a_4b4c_4d4e_4f40),
        ],
        told: PmcSet(0xf1f2_f3f4_f5f6_f7f8),
        armed: true,
        pmi: false,
        totals: Totals {
            overflows: 0x0001_0203_0405_0601,
            skid: 0x02,
            longest_skid: 0x03,
            pmis_injected: 0x04,
            pmis_suppressed: 0x05,
            not_counted: 0x0a,
            scaled_reads: 0x07,
            pinned_errors: 0x08,
            starved: 0x09,
            rotations: 0x0b,
            host_revocations: 0x0c,
            estimated: 0x0d,
        },
        turn: Some(Nanos(0x3a3b_3c3d_3e3f_4041)),
        levels: Some(LevelMemory {
            user_share: 0xfedc,
            next: Nanos(0x0f_4243),
            dice: 0xa9a8_a7a6,
        }),
        events: two_events(),
    }
}

/// The body as the module's documentation lays it out.
#[test]
fn every_number_has_its_place() {
    let mut body = Writer::default();
    distinct().write(&mut body);
    let bytes = body.into_bytes();
    let text: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(text, LAYOUT.concat());
    let mut reader = Reader::new(&bytes);
    assert_eq!(Saved::read(&mut reader), Ok(distinct()));
    assert_eq!(reader.end(), Ok(()));
}

const LAYOUT: [&str; 12] = [
    "02032f01ff18171615141312112827262524232221", // model
    "0101d4d3d2d102e4e3e2e1",                     // rules
    "02",                                         // registers
    "343332314847464544434241",
    "38373635404f4e4d4c4b4a49",
    "f8f7f6f5f4f3f2f10100", // told, armed, PMI
    "0106050403020100020000000000000003000000000000000400000000000000\
     05000000000000000a0000000000000007000000000000000800000000000000\
     09000000000000000b000000000000000c000000000000000d00000000000000", // totals
    "0141403f3e3d3c3b3a",   // turn
    "01dcfe0000a6a7a8a943420f0000000000", // levels
    "02",                   // events
    "05010006000000000000000158575655545352516867666564636231\
     7877767574737221888786858483828101",
    "090201efcd84a909000000029291000000000000b2b1000000000000\
     a2a1000000000000c2c100000000000000",
];

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
        let text = error.to_string();
        assert!(
            ["accepted: ", "; use "]
                .iter()
                .any(|word| text.contains(word)),
            "{text}"
        );
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
                pmu.after_run(Ran {
                    span: Nanos(1_000_000),
                    interrupted: true,
                    level: None,
                });
                let again = pmu.save();
                let mut second = restore(name, &again).unwrap();
                assert_eq!(second.save(), again, "{name}, byte {at} = {value:#x}");
            }
        }
    }
}
