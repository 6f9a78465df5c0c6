//! Registers of uncore PMUs, vCPUs that come and go, a host that refuses and
//! loses events: all as in the naive model. `cargo +nightly fuzz run uncore` in `vpmu`.
#![no_main]

#[path = "../../tests/uncore_pair/mod.rs"]
mod uncore_pair;

use libfuzzer_sys::fuzz_target;
use uncore_pair::{Pair, Shape};

fuzz_target!(|data: &[u8]| {
    let Some((shape, ops)) = data.split_first() else { return };
    let mut pair = Pair::new(Shape::of(*shape));
    for op in ops.as_chunks::<8>().0 {
        if let Err(e) = pair.step(*op) {
            panic!("{e}");
        }
    }
    if let Err(e) = pair.compare() {
        panic!("{e}");
    }
});
