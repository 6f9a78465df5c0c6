//! The local APIC: by MSR where the CPU has x2APIC, else by its page.
#![expect(unsafe_code, reason = "the xAPIC is a page of device registers")]

use core::sync::atomic::{AtomicBool, Ordering};

use crate::cpu;
use crate::trap::{SPURIOUS_VECTOR, TIMER_VECTOR};

const APIC_BASE: u32 = 0x1b;
const X2APIC_ENABLE: u64 = 1 << 10;
const X2APIC_FEATURE: u32 = 1 << 21;
const XAPIC_PAGE: usize = 0xfee0_0000;
const EOI: u32 = 0xb0;
const SVR: u32 = 0xf0;
const LVTPC: u32 = 0x340;
const SVR_ENABLE: u32 = 1 << 8;
const LVT_TIMER: u32 = 0x320;
const LVT_PERIODIC: u32 = 1 << 17;
const COMMAND: u32 = 0x300;
const TIMER_COUNT: u32 = 0x380;
const TIMER_DIVIDE: u32 = 0x3e0;
/// The timer ticks as fast as its clock.
const DIVIDE_BY_1: u32 = 0b1011;

/// LVTPC: deliver an NMI.
pub const LVT_NMI: u32 = 0x400;
/// LVTPC: deliver nothing. Also the bit that Intel sets when a PMI is delivered.
pub const LVT_MASKED: u32 = 0x1_0000;

static X2APIC: AtomicBool = AtomicBool::new(false);

/// The mask registers of the two 8259 interrupt controllers.
const PIC_MASKS: [u16; 2] = [0x21, 0xa1];

/// LVTPC as an MSR, in x2APIC mode alone.
pub const LVTPC_MSR: u32 = x2apic_msr(LVTPC);

/// Enables the local APIC, in x2APIC mode where there is one, and masks the 8259s.
pub fn enable() {
    enable_x2apic();
    enable_xapic();
}

/// Enables the local APIC in the mode that it is in, and masks the 8259s.
pub fn enable_xapic() {
    for port in PIC_MASKS {
        cpu::outb(port, 0xff);
    }
    write(SVR, SVR_ENABLE | u32::from(SPURIOUS_VECTOR));
}

/// Goes over to x2APIC mode; false where there is none.
pub fn enable_x2apic() -> bool {
    if cpu::cpuid(1, 0).ecx & X2APIC_FEATURE != 0 {
        let base = cpu::rdmsr(APIC_BASE);
        X2APIC.store(
            cpu::wrmsr_checked(APIC_BASE, base | X2APIC_ENABLE).is_ok(),
            Ordering::Relaxed,
        );
    }
    X2APIC.load(Ordering::Relaxed)
}

/// Has an interrupt come at [`TIMER_VECTOR`] each `ticks` of the APIC's clock, from now on. A
/// HLT that one comes right before is ended by the next.
pub fn set_timer(ticks: u32) {
    write(TIMER_DIVIDE, DIVIDE_BY_1);
    write(LVT_TIMER, u32::from(TIMER_VECTOR) | LVT_PERIODIC);
    write(TIMER_COUNT, ticks);
}

/// Writes LVTPC, the entry of performance-monitoring interrupts.
pub fn set_lvtpc(value: u32) {
    write(LVTPC, value);
}

/// Reads LVTPC.
#[must_use]
pub fn lvtpc() -> u32 {
    read(LVTPC)
}

/// Has an interrupt come at `vector`, on this vCPU.
pub fn send_self(vector: u8) {
    const TO_SELF: u32 = 0x4_0000;
    write(COMMAND, TO_SELF | u32::from(vector));
}

/// Ends the maskable interrupt in service.
pub(crate) fn end_of_interrupt() {
    write(EOI, 0);
}

const fn x2apic_msr(offset: u32) -> u32 {
    0x800 + (offset >> 4)
}

fn register(offset: u32) -> *mut u32 {
    core::ptr::without_provenance_mut(XAPIC_PAGE + offset as usize)
}

fn write(offset: u32, value: u32) {
    if X2APIC.load(Ordering::Relaxed) {
        cpu::wrmsr(x2apic_msr(offset), u64::from(value));
    } else {
        // SAFETY: the page is mapped one to one and holds the APIC's registers.
        unsafe { register(offset).write_volatile(value) };
    }
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "these registers have 32 bits"
)]
fn read(offset: u32) -> u32 {
    if X2APIC.load(Ordering::Relaxed) {
        cpu::rdmsr(x2apic_msr(offset)) as u32
    } else {
        // SAFETY: as in `write`.
        unsafe { register(offset).read_volatile() }
    }
}
