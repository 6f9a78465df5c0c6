//! `spin N`: executes a user-mode loop of N instructions, prints nothing.
#![expect(
    unsafe_code,
    reason = "the loop is assembly so that its length is known"
)]

use std::process::ExitCode;

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
    let count = std::env::args().nth(1).and_then(|text| text.parse().ok());
    let Some(count) = count else {
        eprintln!("usage: spin INSTRUCTIONS");
        return ExitCode::from(2);
    };
    spin(count);
    ExitCode::SUCCESS
}
