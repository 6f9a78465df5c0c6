//! Registers of features that the guest does not have give #GP to any access, as
//! on hardware; KVM alone answers some with a silent 0.
//! guest-contract §1.5, §6, §8; rule G-007.
#![no_std]
#![no_main]

use guest_tests::absent::{self, NEVER_AMD, TABLE};
use guest_tests::check::Report;
use guest_tests::serial::Decimal;
use guest_tests::{check, payload, println};

payload!(main);

fn main(report: &mut Report) {
    let absent = absent::check(report, &TABLE) + absent::check(report, &NEVER_AMD);
    println!("{} runs are absent", Decimal(absent));
    // Each vendor has the other's.
    check!(report, "self", absent > 8, true, "{absent} runs are absent");
}
