//! Raises an exception without an IDT: the VMM must stop or reset the machine,
//! not spin. No exit line follows.
#![no_std]
#![no_main]

use guest_tests::check::Report;
use guest_tests::{payload, println, trap};

payload!(main);

fn main(_: &mut Report) {
    println!("about to triple fault");
    trap::triple_fault()
}
