//! Random operations on the scheduler and on the naive model: states and times
//! are equal after every one.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::cast_possible_truncation,
    reason = "a test that cannot go on fails"
)]

mod model;

use model::ops::{Pair, Shape};
use model::wild::Wild;
use proptest::prelude::*;

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn states_and_times_are_those_of_the_naive_model(
        shape in any::<u8>(),
        ops in prop::collection::vec(any::<[u8; 6]>(), 1..150),
    ) {
        let mut pair = Pair::new(Shape::of(shape), true);
        for (i, op) in ops.iter().enumerate() {
            pair.step(*op).map_err(|e| TestCaseError::fail(format!("operation {i}: {e}")))?;
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn nothing_panics_and_the_invariants_hold(
        seed in any::<u8>(),
        ops in prop::collection::vec(any::<[u8; 8]>(), 1..200),
    ) {
        let mut wild = Wild::new(seed);
        for op in ops {
            wild.step(op);
        }
        wild.finish();
    }
}

/// A small generator of its own, so that a run is named by its seed.
struct Rng(u64);

impl Rng {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
}

fn variable(name: &str, default: u64) -> u64 {
    let value = std::env::var(name).ok();
    value.and_then(|v| v.parse().ok()).unwrap_or(default)
}

/// Runs of `each` operations with one seed after the other, from `VPMU_MODEL_SEED` on,
/// until there were `total`.
fn run_seeds(total: u64, each: u64, run: impl Fn(u64, &mut Rng)) {
    let first = variable("VPMU_MODEL_SEED", 1);
    for seed in (first..).take(usize::try_from(total.div_ceil(each)).unwrap()) {
        let mut rng = Rng(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        for _ in 0..8 {
            rng.next();
        }
        run(seed, &mut rng);
    }
}

/// The long run: `VPMU_MODEL_OPS=10000000 VPMU_MODEL_SEED=1 cargo test --release -p vpmu --test property long_run -- --ignored`.
#[test]
#[ignore = "runs for minutes; set VPMU_MODEL_OPS"]
fn long_run() {
    let total = variable("VPMU_MODEL_OPS", 1_000_000);
    run_seeds(total, 1_000, |seed, rng| {
        let shape = rng.next().to_le_bytes()[3];
        let mut pair = Pair::new(Shape::of(shape), false);
        for i in 0..1_000 {
            let b = rng.next().to_le_bytes();
            if let Err(e) = pair.step([b[1], b[2], b[3], b[4], b[5], b[6]]) {
                panic!("seed {seed}, operation {i}: {e}");
            }
        }
    });
    println!("{total} operations, no difference");
}

/// The long run of everything, with all checks: `VPMU_WILD_OPS=1000000 cargo test -p vpmu --test property wild -- --ignored`.
#[test]
#[ignore = "runs for minutes; set VPMU_WILD_OPS"]
fn wild_run() {
    run_seeds(variable("VPMU_WILD_OPS", 100_000), 500, |seed, rng| {
        println!("seed {seed}");
        let mut wild = Wild::new(rng.next().to_le_bytes()[3]);
        for _ in 0..500 {
            let (a, b) = (rng.next().to_le_bytes(), rng.next().to_le_bytes());
            wild.step([a[1], a[2], a[3], a[4], b[1], b[2], b[3], b[4]]);
        }
        wild.finish();
    });
}

/// Prints the operations of a seed: `VPMU_MODEL_SEED=7 … replay -- --ignored --nocapture`.
#[test]
#[ignore = "for a difference that long_run has found"]
fn replay() {
    let seed: u64 = std::env::var("VPMU_MODEL_SEED")
        .ok()
        .and_then(|v| v.parse().ok())
        .unwrap_or(1);
    let mut rng = Rng(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    for _ in 0..8 {
        rng.next();
    }
    let shape = Shape::of(rng.next().to_le_bytes()[3]);
    let mut pair = Pair::new(shape, true);
    println!("{shape:?}");
    for i in 0..1000 {
        let b = rng.next().to_le_bytes();
        let op = [b[1], b[2], b[3], b[4], b[5], b[6]];
        let result = pair.step(op);
        println!("{i}: {op:?} {}", pair.describe());
        result.unwrap();
    }
}
