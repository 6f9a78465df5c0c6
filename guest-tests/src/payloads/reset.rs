//! Resets the machine by port 0x600. A VMM that honours it prints nothing more
//! of this run: an exit line means that the reset did nothing.
#![no_std]
#![no_main]

use guest_tests::check::Report;
use guest_tests::{check, payload, println, start};

payload!(main);

fn main(report: &mut Report) {
    println!("asking for a reset");
    start::reset();
    check!(
        report,
        "entry",
        false,
        true,
        "port 0x600 <- 1 ends this run"
    );
}
