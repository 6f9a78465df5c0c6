//! Operations of every kind: nothing panics, and the scheduler's own checks
//! hold after each. `cargo +nightly fuzz run sched_wild` in `vpmu`.
#![no_main]

#[expect(dead_code, reason = "this target needs the operations of the model alone")]
#[path = "../../tests/model/mod.rs"]
mod model;

use libfuzzer_sys::fuzz_target;
use model::wild::Wild;

fuzz_target!(|data: &[u8]| {
    let Some((seed, ops)) = data.split_first() else { return };
    let mut wild = Wild::new(*seed);
    for op in ops.as_chunks::<8>().0 {
        wild.step(*op);
    }
    wild.finish();
});
