//! RDPMC that faults in the kernel, at a site that the scan does not know.
//! guest-contract §5.6; rules G-506 (CPL 0) and G-507. Needs a host whose RDPMC
//! faults without a vPMU.
//!
//! The #GP entry begins as Linux's does on a CPU without SMAP. The site joins
//! EDX and EAX in a way of its own; one of the known shape is there as well, or
//! the guest would be told that it has no PMU. In the end one and the other, and
//! then all are as they were, as after a kexec, and a driver tests its counter again
//! (G-505).
#![no_std]
#![no_main]
#![expect(unsafe_code, reason = "an entry and sites at known bytes")]

use guest_tests::check::Report;
use guest_tests::counters::Counters;
use guest_tests::cpu::{self, Gp, wrmsr};
use guest_tests::{check, doorbell, payload};

payload!(main);

core::arch::global_asm!(
    "odd_rdpmc:",
    "mov ecx, edi",
    "odd_site:",
    "3: rdpmc",
    "mov r8d, eax",
    "mov rax, rdx",
    "shl rax, 32",
    "or rax, r8",
    "ret",
    "4: mov rax, -1",
    "ret",
    "odd_read:",
    "mov ecx, edi",
    "5: rdmsr",
    "xor eax, eax",
    "ret",
    "6: mov rax, -1",
    "ret",
    ".pushsection .extable,\"a\"",
    ".quad 3b, 4b",
    ".quad 5b, 6b",
    ".popsection",
);

unsafe extern "C" {
    static odd_site: u8;
    safe fn odd_rdpmc(index: u32) -> u64;
    safe fn odd_read(msr: u32) -> u64;
}

/// The bytes of the instruction at the odd site.
fn site() -> [u8; 2] {
    let place = (&raw const odd_site).cast::<[u8; 2]>();
    // SAFETY: code is mapped readable; volatile, because the VMM may change it.
    unsafe { place.read_volatile() }
}

/// What the counter holds.
const VALUE: u64 = 0x1234_5678;

fn main(report: &mut Report) {
    let Some(counters) = Counters::find() else {
        check!(report, "s0", false, true, "a PMU");
        return;
    };
    check!(
        report,
        "self",
        doorbell::bytes(),
        doorbell::FRESH,
        "the entry"
    );
    doorbell::install();
    check!(
        report,
        "self",
        odd_read(0x7fff_ffff),
        u64::MAX,
        "a fault before"
    );
    counters.stop();
    wrmsr(counters.counter(0), VALUE);
    check!(
        report,
        "G-506",
        doorbell::bytes(),
        doorbell::RUNG,
        "the doorbell"
    );
    check!(
        report,
        "G-503",
        cpu::rdpmc_checked(0),
        Ok(VALUE),
        "a known site"
    );
    check!(
        report,
        "self",
        site(),
        [0x0f, 0x33],
        "the scan leaves the odd one"
    );
    forwarded_and_served(report);
    replaced_in_part(report, counters);
    replaced(report, counters);
}

/// What is none of ours goes to the handler; the odd site is served.
fn forwarded_and_served(report: &mut Report) {
    check!(
        report,
        "G-506",
        odd_rdpmc(15),
        u64::MAX,
        "a counter that is not there"
    );
    check!(
        report,
        "G-507",
        odd_read(0x7fff_ffff),
        u64::MAX,
        "another fault"
    );
    check!(
        report,
        "self",
        site(),
        [0x0f, 0x33],
        "nothing was served yet"
    );
    check!(report, "G-506", odd_rdpmc(0), VALUE, "the odd site");
    check!(
        report,
        "G-506",
        site(),
        [0x0f, 0x32],
        "it is RDMSR from now on"
    );
    check!(
        report,
        "G-503",
        odd_rdpmc(0),
        VALUE,
        "the odd site, rewritten"
    );
    check!(
        report,
        "G-503",
        odd_rdpmc(15),
        u64::MAX,
        "not there, rewritten"
    );
    check!(
        report,
        "G-507",
        odd_read(0x7fff_ffff),
        u64::MAX,
        "another fault"
    );
    check!(
        report,
        "G-503",
        cpu::rdpmc_checked(15),
        Err(Gp),
        "a known site"
    );
}

/// What was not replaced is known as before.
fn replaced_in_part(report: &mut Report, counters: Counters) {
    let counter = counters.counter(0);
    doorbell::replace();
    wrmsr(counter, VALUE ^ 0xffff);
    wrmsr(counter, VALUE);
    let entry = doorbell::bytes();
    check!(
        report,
        "G-505",
        entry,
        doorbell::RUNG,
        "a fresh entry rings"
    );
    check!(report, "G-505", odd_rdpmc(0), VALUE, "the site stayed");
    put((&raw const odd_site).addr(), [0x0f, 0x33]);
    wrmsr(counter, VALUE ^ 0xffff);
    wrmsr(counter, VALUE);
    check!(report, "G-505", odd_rdpmc(0), VALUE, "the doorbell stayed");
    check!(report, "G-505", site(), [0x0f, 0x32], "a fresh site");
}

/// Fresh text at the same addresses.
fn replaced(report: &mut Report, counters: Counters) {
    let counter = counters.counter(0);
    doorbell::replace();
    put((&raw const odd_site).addr(), [0x0f, 0x33]);
    cpu::undo_rewriting();
    wrmsr(counter, VALUE ^ 0xff);
    let untouched = doorbell::bytes();
    check!(
        report,
        "self",
        untouched,
        doorbell::FRESH,
        "a write that is no test"
    );
    wrmsr(counter, VALUE ^ 0xff ^ 0xffff);
    check!(
        report,
        "G-505",
        doorbell::bytes(),
        doorbell::RUNG,
        "the doorbell again"
    );
    wrmsr(counter, VALUE);
    check!(report, "G-505", odd_rdpmc(0), VALUE, "the odd site again");
    check!(report, "G-505", site(), [0x0f, 0x32], "and rewritten");
    check!(
        report,
        "G-505",
        cpu::rdpmc_checked(0),
        Ok(VALUE),
        "a known site"
    );
}

/// Changes two bytes of code.
fn put(address: usize, bytes: [u8; 2]) {
    let place = core::ptr::with_exposed_provenance_mut::<[u8; 2]>(address);
    // SAFETY: the VMM maps all memory writable, and only this payload executes
    // these bytes.
    unsafe { place.write_volatile(bytes) };
}
