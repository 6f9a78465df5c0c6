//! Operations on the scheduler and the naive model: they must agree.
//! `cargo +nightly fuzz run sched_model` in `vpmu`.
#![no_main]

#[expect(dead_code, reason = "this target needs no wild operations")]
#[path = "../../tests/model/mod.rs"]
mod model;

use libfuzzer_sys::fuzz_target;
use model::ops::{Pair, Shape};

fuzz_target!(|data: &[u8]| {
    let Some((shape, ops)) = data.split_first() else { return };
    let mut pair = Pair::new(Shape::of(*shape), true);
    for op in ops.as_chunks::<6>().0 {
        if let Err(e) = pair.step(*op) {
            panic!("{e}");
        }
    }
});
