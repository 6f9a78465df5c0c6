//! Prints a line and powers off: the entry contract, the serial line, the exit.
//! It also takes one #GP and one exception-table fix-up (unknown MSR).
#![no_std]
#![no_main]

use guest_tests::check::Report;
use guest_tests::cpu::{self, Gp};
use guest_tests::{check, payload, println};

payload!(main);

/// An MSR that no CPU has.
const NO_MSR: u32 = 0x1234_5678;

fn main(report: &mut Report) {
    println!("hello from a payload of Perfvisor");
    check!(
        report,
        "entry",
        cpu::rdmsr_checked(NO_MSR),
        Err(Gp),
        "read of an unknown MSR"
    );
    check!(
        report,
        "entry",
        cpu::wrmsr_checked(NO_MSR, 1),
        Err(Gp),
        "write of an unknown MSR"
    );
}
