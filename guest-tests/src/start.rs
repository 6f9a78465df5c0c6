//! The entry of a payload and its ways out.
//!
//! The VMM enters `_start` in 64-bit mode with paging on, the first 4 GiB mapped
//! one to one, flat segments, interrupts off and RSI = boot_params. SSE may be
//! off. `_start` switches it on, takes a stack, its own GDT and a TSS with
//! interrupt stacks (compiled code uses the red zone, so no handler may run on
//! the interrupted stack), then calls Rust.

use core::panic::PanicInfo;

use crate::{check::Report, cpu, println, serial::Decimal, trap};

/// The port that ends the machine (the ACPI sleep and reset registers).
const POWER_PORT: u16 = 0x600;
/// The port of `--debug-exit`.
const DEBUG_PORT: u16 = 0xf4;
/// Power off: SLP_EN with the sleep type of S5.
const POWER_OFF: u8 = 0x34;
/// Reset.
const RESET: u8 = 0x01;

#[cfg(feature = "payloads")]
#[expect(unsafe_code, reason = "the entry point is assembly")]
mod entry {
    core::arch::global_asm!(include_str!("start.s"), options(att_syntax));
}

/// Runs a payload and powers off. Called by the code that [`payload!`](crate::payload) makes.
pub fn run(name: &str, main: fn(&mut Report)) -> ! {
    trap::install();
    println!("payload {name}");
    let mut report = Report::new();
    main(&mut report);
    exit(report.finish())
}

/// Prints the exit status and powers off.
pub fn exit(status: u32) -> ! {
    println!("perfvisor.exit={}", Decimal(status));
    cpu::outb(POWER_PORT, POWER_OFF);
    cpu::halt()
}

/// Prints the exit status and ends by the debug exit: `value` if the status is 0,
/// else 1. Powers off where `--debug-exit` was not given.
pub fn debug_exit(report: &Report, value: u8) -> ! {
    let status = report.finish();
    cpu::outb(DEBUG_PORT, if status == 0 { value } else { 1 });
    exit(status)
}

/// Asks the VMM for a reset; comes back only if that did nothing.
pub fn reset() {
    cpu::outb(POWER_PORT, RESET);
}

/// What the panic handler of a payload does.
pub fn panicked(info: &PanicInfo<'_>) -> ! {
    println!("FAIL panic: {info}");
    exit(1)
}

/// Makes the binary a payload with the given `fn(&mut Report)` as its main.
#[macro_export]
macro_rules! payload {
    ($main:path) => {
        #[panic_handler]
        fn panic_handler(info: &core::panic::PanicInfo<'_>) -> ! {
            $crate::start::panicked(info)
        }

        #[expect(unsafe_code, reason = "the symbol that the entry code calls")]
        #[unsafe(no_mangle)]
        extern "C" fn payload_main() -> ! {
            $crate::start::run(env!("CARGO_BIN_NAME"), $main)
        }
    };
}
