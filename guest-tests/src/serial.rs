//! The serial line COM1, write only.

use core::fmt;

use crate::cpu;

/// The data port of COM1.
const COM1: u16 = 0x3f8;

/// A writer on COM1. It does not wait for the transmitter: an emulated UART is
/// always ready, and each look at its status would cost one more exit.
#[derive(Debug, Clone, Copy)]
pub struct Serial;

impl fmt::Write for Serial {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for byte in text.bytes() {
            cpu::outb(COM1, byte);
        }
        Ok(())
    }
}

/// Prints formatted text and a line end on COM1.
pub fn line(text: fmt::Arguments<'_>) {
    // The writer cannot fail; a formatter that does loses only its own text.
    _ = fmt::Write::write_fmt(&mut Serial, text);
    cpu::outb(COM1, b'\n');
}

/// Prints one line on COM1, formatted as by `std::println!`.
#[macro_export]
macro_rules! println {
    ($($text:tt)*) => { $crate::serial::line(format_args!($($text)*)) };
}

/// A number in decimal. `core` prints 1000 and more with SSE instructions that not
/// every host emulates (DESIGN.md); this does not.
#[derive(Debug, Clone, Copy)]
pub struct Decimal(pub u32);

impl fmt::Display for Decimal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digit = self.0 % 10;
        if self.0 >= 10 {
            write!(f, "{}", Self(self.0 / 10))?;
        }
        f.write_str(&"0123456789"[digit as usize..=digit as usize])
    }
}
