//! Wall-clock benches of the scheduler: `cargo bench -p vpmu --bench sched`.
//! Instruction counts, which do not depend on the machine's mood, are
//! `cargo run --release -p vpmu --example sched_cost`.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    reason = "a bench that cannot go on fails"
)]

mod ops;

use std::time::Duration;

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use ops::{Bench, OPS};

fn all(c: &mut Criterion) {
    for op in OPS {
        let mut group = c.benchmark_group(op);
        group
            .warm_up_time(Duration::from_millis(200))
            .measurement_time(Duration::from_millis(600))
            .sample_size(20);
        let sizes: &[usize] = if op == "open_all" {
            &[10, 100, 1000]
        } else {
            &[10, 100, 1000, 10_000]
        };
        for n in sizes {
            let mut bench = Bench::new(op, *n, 1);
            group.bench_function(BenchmarkId::new("events", n), |b| {
                b.iter(|| bench.run(op, *n))
            });
        }
        for pmus in [4, 16, 64] {
            let mut bench = Bench::new(op, 1000, pmus);
            group.bench_function(BenchmarkId::new("pmus_of_1000", pmus), |b| {
                b.iter(|| bench.run(op, 1000))
            });
        }
        group.finish();
    }
}

criterion_group!(benches, all);
criterion_main!(benches);
