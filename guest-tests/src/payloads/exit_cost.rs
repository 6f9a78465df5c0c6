//! What an exit costs, in ticks of the TSC: `ops` reads of a counter's MSR, each
//! timed; prints the least and the median. Checks only that all were answered.
#![no_std]
#![no_main]

use guest_tests::check::Report;
use guest_tests::counters::Counters;
use guest_tests::cpu::{rdmsr_checked, rdtsc};
use guest_tests::{args, check, payload, println};

payload!(main);

/// Reads that a median is made of.
const BATCH: usize = 4_096;

fn main(report: &mut Report) {
    let Some(counters) = Counters::find() else {
        check!(report, "s0", false, true, "a PMU");
        return;
    };
    counters.clear();
    let mut left = args::number("ops", 8_192);
    let mut ticks = [0_u32; BATCH];
    let mut answered = true;
    while left > 0 {
        let mut taken = 0;
        for tick in ticks
            .iter_mut()
            .take(usize::try_from(left).unwrap_or(BATCH))
        {
            let start = rdtsc();
            answered &= rdmsr_checked(counters.counter(0)) == Ok(0);
            let end = rdtsc().wrapping_sub(start);
            *tick = u32::try_from(end).unwrap_or(u32::MAX);
            taken += 1;
        }
        left -= taken as u64;
        let sample = &mut ticks[..taken];
        sample.sort_unstable();
        println!(
            "exit_cost min {:#x} median {:#x}",
            sample[0],
            sample[taken / 2]
        );
    }
    check!(report, "s9.2", answered, true, "each read is answered");
}
