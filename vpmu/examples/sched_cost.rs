//! Instructions that each scheduler operation costs, counted by valgrind:
//! `cargo run --release -p vpmu --example sched_cost` prints a table.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::cast_possible_truncation,
    reason = "a measurement that cannot go on fails"
)]

mod callgrind;
#[path = "../benches/ops/mod.rs"]
mod ops;

use ops::{Bench, OPS};

fn worker(args: &[String]) {
    let number = |i: usize| args[i].parse::<usize>().unwrap();
    let (op, n, pmus, times) = (args[0].as_str(), number(1), number(2), number(3));
    let mut bench = Bench::new(op, n, pmus);
    for _ in 0..times {
        bench.run(op, n);
    }
}

fn cost(op: &str, n: usize, pmus: usize) -> u64 {
    let times = if matches!(op, "migration" | "open_all") {
        2
    } else {
        64
    };
    callgrind::cost(&[op.to_owned(), n.to_string(), pmus.to_string()], times)
}

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if args.len() == 4 {
        return worker(&args);
    }
    println!("| operation | 10 | 100 | 1,000 | 10,000 | 1,000 on 4 PMUs | on 16 | on 64 |");
    println!("|---|---|---|---|---|---|---|---|");
    for op in OPS
        .iter()
        .filter(|o| args.is_empty() || args.iter().any(|a| a == *o))
    {
        let mut row: Vec<String> = [10, 100, 1000, 10_000]
            .iter()
            .map(|n| cost(op, *n, 1).to_string())
            .collect();
        row.extend([4, 16, 64].iter().map(|p| cost(op, 1000, *p).to_string()));
        println!("| {op} | {} |", row.join(" | "));
    }
}
