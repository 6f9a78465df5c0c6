//! A #GP entry that begins as Linux's does on a CPU without SMAP, so that the VMM
//! puts its doorbell in (guest-contract §5.6).
#![expect(unsafe_code, reason = "an entry at known bytes")]

/// The bytes that the doorbell replaces, and the one behind them.
pub const FRESH: [u8; 4] = [0x0f, 0x1f, 0x00, 0xfc];
/// `OUT imm8, AL`; the port; NOP; and the byte behind.
pub const RUNG: [u8; 4] = [0xe6, 0xe6, 0x90, 0xfc];

core::arch::global_asm!(
    ".globl doorbell_entry",
    ".balign 16",
    "doorbell_entry:",
    ".byte 0x0f, 0x1f, 0x00",
    "cld",
    "jmp [rip + 2f]",
    "2: .quad trap_stubs + 13 * 16",
    // Linux has one in these pages.
    "iretq",
);

unsafe extern "C" {
    static doorbell_entry: u8;
}

fn place() -> *mut [u8; 4] {
    (&raw const doorbell_entry).cast_mut().cast()
}

/// Has #GP enter here from now on.
pub fn install() {
    crate::trap::set_general_protection(place().addr() as u64);
}

/// The first bytes of the entry: [`FRESH`] or [`RUNG`].
#[must_use]
pub fn bytes() -> [u8; 4] {
    // SAFETY: code is mapped readable; volatile, because the VMM may change it.
    unsafe { place().read_volatile() }
}

/// Makes the entry fresh again, as a kexec does.
pub fn replace() {
    // SAFETY: the VMM maps all memory writable, and no #GP comes meanwhile.
    unsafe { place().write_volatile(FRESH) };
}
