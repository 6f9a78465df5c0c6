//! `spin N [NAME]`: executes a user-mode loop of N instructions. With a name it prints
//! `bench NAME TICKS`: ticks of the TSC from the loop's first instruction to its last.
#![expect(
    unsafe_code,
    reason = "the loop is assembly so that its length is known"
)]

use std::process::ExitCode;

use guest_tests::cpu::rdtsc;

/// Executes `n` instructions, ± 6: a loop of DEC and JNZ.
fn spin(n: u64) {
    let rounds = n / 2;
    if rounds == 0 {
        return;
    }
    // SAFETY: the loop touches one register and ends when it is zero.
    unsafe {
        std::arch::asm!("2: dec {n}", "jnz 2b", n = inout(reg) rounds => _, options(nomem, nostack));
    }
}

fn main() -> ExitCode {
    let mut words = std::env::args().skip(1);
    let count = words.next().and_then(|text| text.parse().ok());
    let Some(count) = count else {
        eprintln!("usage: spin INSTRUCTIONS [NAME]");
        return ExitCode::from(2);
    };
    let start = rdtsc();
    spin(count);
    let ticks = rdtsc().wrapping_sub(start);
    if let Some(name) = words.next() {
        println!("bench {name} {ticks}");
    }
    ExitCode::SUCCESS
}
