//! Random programming, reads, plugging and unplugging of vCPUs against uncore
//! PMUs: no count is lost or doubled, and the designated vCPU is the kernel's
//! (G-602, R-242… ).
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::cast_possible_truncation,
    reason = "a test that cannot go on fails"
)]

mod uncore_pair;

use proptest::prelude::*;
use uncore_pair::{Pair, Shape};

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn uncore_counters_follow_their_scope(
        shape in any::<u8>(),
        ops in prop::collection::vec(any::<[u8; 8]>(), 1..200),
    ) {
        let mut pair = Pair::new(Shape::of(shape));
        for (i, op) in ops.iter().enumerate() {
            pair.step(*op).map_err(|e| TestCaseError::fail(format!("operation {i}: {e}")))?;
        }
        pair.compare().map_err(TestCaseError::fail)?;
    }
}

/// The storm of issue 6: a thousand times a vCPU comes or goes, with everything
/// counting.
#[test]
fn a_thousand_vcpus_come_and_go_and_no_count_is_lost() {
    for seed in 0..32 {
        let mut pair = Pair::new(Shape::of(seed));
        let mut random = u64::from(seed) + 1;
        let mut next = || {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            random
        };
        for i in 0..3_000u32 {
            let [mut code, rest @ ..] = next().to_le_bytes();
            let [vcpu, which, a, b, c, d, e] = rest;
            if i % 3 == 0 {
                code %= 2;
            }
            let step = pair.step([code, vcpu, which, a, b, c, d, e]);
            assert_eq!(step, Ok(()), "seed {seed}, operation {i}");
        }
        assert_eq!(pair.compare(), Ok(()), "seed {seed}");
    }
}
