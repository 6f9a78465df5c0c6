//! The command line of `--cmdline`: words `name=number`, found by the Linux boot
//! parameters.
#![expect(unsafe_code, reason = "the boot parameters lie in memory")]

/// Offset of the command line's address in the boot parameters.
///
/// Linux: "The Linux/x86 Boot Protocol", `cmd_line_ptr`.
const COMMAND_LINE: usize = 0x228;
/// More than any test needs.
const LONGEST: usize = 256;

#[cfg(feature = "payloads")]
unsafe extern "C" {
    static boot_params: u64;
}

#[cfg(feature = "payloads")]
fn boot_params_at() -> u64 {
    // SAFETY: written once, by the first instruction.
    unsafe { boot_params }
}

// Without the entry code there are none: only lints see this.
#[cfg(not(feature = "payloads"))]
fn boot_params_at() -> u64 {
    0
}

/// The number behind `name=`, in decimal; `default` if there is none.
#[must_use]
pub fn number(name: &str, default: u64) -> u64 {
    let mut line = [0; LONGEST];
    read(&mut line);
    let words = line.split(|byte| matches!(byte, b' ' | 0));
    let mut values = words.filter_map(|word| word.strip_prefix(name.as_bytes()));
    let value = values.find_map(|value| value.strip_prefix(b"="));
    value.and_then(decimal).unwrap_or(default)
}

fn decimal(digits: &[u8]) -> Option<u64> {
    let add = |sum: u64, digit: &u8| {
        let digit = digit.is_ascii_digit().then(|| u64::from(digit - b'0'))?;
        sum.checked_mul(10)?.checked_add(digit)
    };
    (!digits.is_empty()).then_some(())?;
    digits.iter().try_fold(0, add)
}

/// Copies the command line up to its NUL.
#[expect(
    clippy::cast_possible_truncation,
    reason = "the target has 64-bit addresses"
)]
fn read(line: &mut [u8]) {
    let params = boot_params_at() as usize;
    if params == 0 {
        return;
    }
    let pointer = core::ptr::without_provenance::<u32>(params + COMMAND_LINE);
    // SAFETY: the VMM's boot parameters are a page below 1 MiB, mapped readable.
    let text = unsafe { pointer.read_volatile() } as usize;
    for (at, byte) in line.iter_mut().enumerate() {
        let from = core::ptr::without_provenance::<u8>(text + at);
        // SAFETY: the text ends in a NUL, and nothing is read beyond.
        *byte = unsafe { from.read_volatile() };
        if *byte == 0 {
            return;
        }
    }
}
