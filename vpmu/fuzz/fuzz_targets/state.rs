//! Any bytes as a saved state: a typed error or a PMU that works, never a panic.
//! `cargo +nightly fuzz run state -s none` in `vpmu`.
#![no_main]

mod guest;

use guest::{Host, Pmu, Setup, check, check_register, same};
use libfuzzer_sys::fuzz_target;
use vpmu::guest::{GuestPmu, Model};
use vpmu::host::Level;
use vpmu::host::software::{Khz, SoftwarePmu};
use vpmu::ids::MsrIndex;
use vpmu::units::Nanos;
use vpmu::x86::event::ArchEvent;
use vpmu::{BeforeEntry, Ran, VcpuPmu};

/// A run without time for the guest.
const INTERRUPTED: Ran = Ran {
    span: Nanos(0),
    interrupted: true,
    level: None,
};

type Clocked = VcpuPmu<Model, SoftwarePmu>;

fuzz_target!(|data: &[u8]| {
    let Some(([how, model, rest], bytes)) = data.split_first_chunk::<3>() else {
        return;
    };
    if how & 0x80 != 0 {
        on_a_clock([*model, *rest], *how, bytes);
        return;
    }
    let mut setup = Setup::of([*model, *rest]);
    let bytes = match how % 4 {
        0 => bytes.to_vec(),
        1 => with_header(bytes),
        _ => patched(&setup, *how, bytes),
    };
    let identity = vpmu::state::identity(&bytes);
    // On another host, if so.
    setup.host_counters = match how >> 3 & 7 {
        0 => setup.host_counters,
        few => usize::from(few),
    };
    match setup.restore(&bytes) {
        Err(error) => {
            let text = error.to_string();
            assert!(text.contains("accepted: ") || text.contains("; use "), "{text}");
        }
        Ok((pmu, host)) => {
            assert_eq!(identity, Ok(pmu.model().identity()));
            use_it(&setup, pmu, &host);
        }
    }
});

/// A state of a PMU on a clock, with some bytes changed.
fn on_a_clock(setup: [u8; 2], how: u8, patches: &[u8]) {
    let Setup { model, rules, .. } = Setup::with_events(setup, SoftwarePmu::SUPPORTED);
    let host = || SoftwarePmu::new(Khz(2_500_000));
    let restore = |bytes: &[u8]| Clocked::restore(model.clone(), host(), rules.clone(), bytes);
    let mut pmu = Clocked::new(model.clone(), host(), rules.clone());
    for (select, ctrl) in [(0x186, 0x38f), (0xc001_0000, 0xc000_0301)] {
        for (i, levels) in (0..).zip([0x51_0000, 0x52_0000, 0x53_0000]) {
            let code = if select == 0x186 { 0x3c } else { 0x76 };
            let _ = pmu.wrmsr(MsrIndex(select + i), levels | code);
        }
        let _ = pmu.wrmsr(MsrIndex(ctrl), 7);
    }
    run_clocked(&mut pmu, how & 4 != 0);
    let mut body = pmu.save().split_off(20);
    patch(&mut body, patches);
    let Ok(mut pmu) = restore(&with_header(&body)) else {
        return;
    };
    run_clocked(&mut pmu, how & 8 != 0);
    for bytes in [pmu.save(), pmu.save()] {
        match restore(&bytes) {
            Ok(mut again) => same(&bytes, &again.save()),
            Err(error) => panic!("{error}"),
        }
    }
}

/// Samples come when they are asked for.
fn run_clocked(pmu: &mut Clocked, user: bool) {
    for _ in 0..9 {
        let wants = match pmu.before_entry() {
            BeforeEntry::Pmi(pmi) => pmi.postponed(),
            BeforeEntry::Ready(wants) => wants,
        };
        let step = wants
            .deadline
            .map_or(1_000_000, |d| d.0.clamp(1, 1_000_000));
        let level = if user { Level::User } else { Level::Kernel };
        pmu.after_run(Ran {
            span: Nanos(step),
            interrupted: true,
            level: wants.level.then_some(level),
        });
    }
}

/// A body with the header that belongs to it.
fn with_header(body: &[u8]) -> Vec<u8> {
    let mut bytes = b"vpmustat".to_vec();
    bytes.extend(vpmu::state::VERSION.to_le_bytes());
    bytes.extend((body.len() as u32).to_le_bytes());
    let crc = !bytes.iter().chain(body).fold(!0u32, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |c, _| {
            c >> 1 ^ if c & 1 == 1 { 0xedb8_8320 } else { 0 }
        })
    });
    bytes.extend(crc.to_le_bytes());
    bytes.extend(body);
    bytes
}

/// A state that was saved, with some bytes changed: pairs of offset and value.
fn patched(setup: &Setup, how: u8, patches: &[u8]) -> Vec<u8> {
    let (mut pmu, host) = setup.pmu();
    busy(&mut pmu, &host, how & 4 != 0);
    let mut body = pmu.save().split_off(20);
    patch(&mut body, patches);
    with_header(&body)
}

fn patch(body: &mut [u8], patches: &[u8]) {
    for [low, high, value] in patches.as_chunks::<3>().0 {
        let at = usize::from(u16::from_le_bytes([*low, *high])) % body.len();
        body[at] = *value;
    }
}

/// Counters count, one wraps.
fn busy(pmu: &mut Pmu, host: &Host, stopped: bool) {
    for (select, counter, ctrl) in [
        (0x186, 0xc1, 0x38f),
        (0xc001_0000, 0xc001_0004, 0xc000_0301),
    ] {
        for i in 0..4 {
            let code = [0x53_003c, 0x53_00c0, 0x53_0076, 0x53_01d1][i as usize];
            let _ = pmu.wrmsr(MsrIndex(select + i), code);
            let _ = pmu.wrmsr(MsrIndex(counter + i), u64::MAX - 1_000 * u64::from(i));
        }
        let _ = pmu.wrmsr(MsrIndex(0x38d), 0xbb);
        let _ = pmu.wrmsr(MsrIndex(ctrl), 0x3_0000_0003);
        run(pmu, host);
        if stopped {
            let _ = pmu.wrmsr(MsrIndex(ctrl), 0);
        }
    }
}

fn run(pmu: &mut Pmu, host: &Host) {
    host.0.borrow_mut().occur(ArchEvent::Cycles, 5_000_000);
    host.0.borrow_mut().occur(ArchEvent::Instructions, 900);
    pmu.after_run(Ran {
        span: Nanos(5_000_000),
        interrupted: true,
        level: None,
    });
}

fn use_it(setup: &Setup, mut pmu: Pmu, host: &Host) {
    let restore = |bytes: &[u8]| match setup.restore(bytes) {
        Ok((pmu, _)) => pmu,
        Err(error) => panic!("{error}"),
    };
    // A restore gives counters that are free to those that wait: once.
    let bytes = restore(&pmu.save()).save();
    same(&bytes, &restore(&bytes).save());
    for _ in 0..3 {
        check(&mut pmu);
        run(&mut pmu, host);
    }
    let registers: Vec<MsrIndex> = pmu.model().registers().map(|(msr, _)| msr).collect();
    for msr in registers {
        let Ok(value) = pmu.rdmsr(msr) else {
            panic!("{msr} was there")
        };
        check_register(pmu.model(), msr, value);
    }
    busy(&mut pmu, host, true);
    check(&mut pmu);
    for _ in 0..2 {
        pmu.after_run(INTERRUPTED);
    }
    pmu.reset();
}
