//! Exceptions, NMIs and interrupts of a payload.
//!
//! Each kind runs on its own interrupt stack. A #GP whose RIP is in the exception
//! table goes on at the entry's second address with CF set; every other exception
//! ends the payload with a report.
#![expect(unsafe_code, reason = "the IDT, and state shared with trap handlers")]

use core::arch::asm;
use core::ptr::addr_of_mut;
use core::sync::atomic::{AtomicPtr, AtomicU32, AtomicU64, Ordering};

#[cfg(feature = "payloads")]
use crate::user;
use crate::{println, start};

/// Vectors with a gate: the exceptions, and interrupts up to here.
const VECTORS: usize = 96;
/// The vector that payloads may program into the local APIC.
pub const PMI_VECTOR: u8 = 0x40;
/// The vector of the local APIC's timer, which only wakes.
pub const TIMER_VECTOR: u8 = 0x41;
/// The spurious-interrupt vector of the local APIC.
pub const SPURIOUS_VECTOR: u8 = 0x5f;

const NMI: u64 = 2;
const GENERAL_PROTECTION: u64 = 13;
const GENERAL_PROTECTION_GATE: usize = 13;
const CARRY: u64 = 1;

/// What the stubs push, lowest address first.
#[repr(C)]
#[derive(Debug)]
pub(crate) struct Frame {
    registers: [u64; 15],
    vector: u64,
    error: u64,
    pub(crate) rip: u64,
    pub(crate) cs: u64,
    rflags: u64,
    pub(crate) rsp: u64,
    pub(crate) ss: u64,
}

/// A long-mode gate: offset 15:0, selector, IST and type, the rest of the offset.
#[repr(C, align(16))]
#[derive(Clone, Copy)]
struct Gate(u64, u64);

/// The operand of LIDT.
#[repr(C, packed)]
struct TablePointer {
    limit: u16,
    base: u64,
}

/// One entry of the exception table: where it may fault, where it goes on.
#[repr(C)]
struct Fixup {
    fault: u64,
    resume: u64,
}

static mut IDT: [Gate; VECTORS] = [Gate(0, 0); VECTORS];
static NMIS: AtomicU32 = AtomicU32::new(0);
static NMI_AT: AtomicU64 = AtomicU64::new(0);
static INTERRUPTS: AtomicU32 = AtomicU32::new(0);
static NMI_HOOK: AtomicPtr<()> = AtomicPtr::new(core::ptr::null_mut());
static INTERRUPT_HOOK: AtomicPtr<()> = AtomicPtr::new(core::ptr::null_mut());

#[cfg(feature = "payloads")]
unsafe extern "C" {
    static trap_stubs: u8;
    static __extable_start: Fixup;
    static __extable_end: Fixup;
}

/// The address of the stub of vector 0.
#[cfg(feature = "payloads")]
fn stubs() -> u64 {
    (&raw const trap_stubs).addr() as u64
}

/// The exception table.
#[cfg(feature = "payloads")]
fn fixups() -> &'static [Fixup] {
    let (first, end) = (&raw const __extable_start, &raw const __extable_end);
    let len = (end.addr() - first.addr()) / size_of::<Fixup>();
    // SAFETY: the linker script puts whole entries between the two symbols.
    unsafe { core::slice::from_raw_parts(first, len) }
}

// Without the entry code there is no table: only lints see these.
#[cfg(not(feature = "payloads"))]
fn stubs() -> u64 {
    0
}

#[cfg(not(feature = "payloads"))]
fn fixups() -> &'static [Fixup] {
    &[]
}

fn gate(vector: u64) -> Gate {
    let offset = stubs() + vector * 16;
    let ist = match vector {
        NMI => 2,
        32.. => 3,
        _ => 1,
    };
    let low = (offset & 0xffff)
        | (8 << 16)
        | (ist << 32)
        | (0x8e << 40)
        | ((offset >> 16 & 0xffff) << 48);
    Gate(low, offset >> 32)
}

/// Fills and loads the IDT.
pub(crate) fn install() {
    let ours = [PMI_VECTOR, TIMER_VECTOR, SPURIOUS_VECTOR];
    let used = (0..32).chain(ours.map(u64::from));
    let idt = addr_of_mut!(IDT).cast::<Gate>();
    for vector in used {
        let Ok(index) = usize::try_from(vector) else {
            continue;
        };
        // SAFETY: every vector above is below VECTORS.
        let slot = unsafe { idt.add(index) };
        // SAFETY: one vCPU, traps not yet in use: nobody else touches the table.
        unsafe { slot.write(gate(vector)) };
    }
    load_idt(idt.addr() as u64, 16 * 96 - 1);
}

/// Has #GP enter at `handler`, on the stack that it interrupts: what faults must
/// use no red zone.
pub fn set_general_protection(handler: u64) {
    let low = (handler & 0xffff) | (8 << 16) | (0x8e << 40) | ((handler >> 16 & 0xffff) << 48);
    let slot = addr_of_mut!(IDT)
        .cast::<Gate>()
        .wrapping_add(GENERAL_PROTECTION_GATE);
    // SAFETY: the slot is in the table; one vCPU, which raises no #GP meanwhile.
    unsafe { slot.write(Gate(low, handler >> 32)) };
}

fn load_idt(base: u64, limit: u16) {
    let pointer = TablePointer { limit, base };
    // SAFETY: the operand is a valid descriptor-table pointer; what it points at
    // is our filled table, or nothing, in `lose_idt`.
    unsafe {
        asm!("lidt [{}]", in(reg) &raw const pointer, options(readonly, nostack, preserves_flags))
    };
}

/// Takes the IDT away and raises an exception: a triple fault.
pub fn triple_fault() -> ! {
    load_idt(0, 0);
    // SAFETY: ends the machine, which is what the caller wants.
    unsafe { asm!("ud2", options(noreturn)) };
}

/// NMIs taken so far.
#[must_use]
pub fn nmis() -> u32 {
    NMIS.load(Ordering::Relaxed)
}

/// Where the last NMI came.
#[must_use]
pub fn nmi_at() -> u64 {
    NMI_AT.load(Ordering::Relaxed)
}

/// Interrupts taken so far at [`PMI_VECTOR`].
#[must_use]
pub fn interrupts() -> u32 {
    INTERRUPTS.load(Ordering::Relaxed)
}

/// Has `hook` called in each NMI, after it was counted.
pub fn set_nmi_hook(hook: fn()) {
    NMI_HOOK.store(hook as *mut (), Ordering::Relaxed);
}

/// Has `hook` called in each interrupt at [`PMI_VECTOR`], after it was counted.
pub fn set_interrupt_hook(hook: fn()) {
    INTERRUPT_HOOK.store(hook as *mut (), Ordering::Relaxed);
}

fn call(hook: &AtomicPtr<()>) {
    let hook = hook.load(Ordering::Relaxed);
    if !hook.is_null() {
        // SAFETY: only the setters above store here, and they store `fn()`.
        let hook = unsafe { core::mem::transmute::<*mut (), fn()>(hook) };
        hook();
    }
}

/// Called by the trap stubs with the interrupted state, which it may change.
#[unsafe(no_mangle)]
extern "C" fn trap_entry(frame: &mut Frame) {
    match frame.vector {
        NMI => {
            NMIS.fetch_add(1, Ordering::Relaxed);
            NMI_AT.store(frame.rip, Ordering::Relaxed);
            call(&NMI_HOOK);
        }
        #[cfg(feature = "payloads")]
        GENERAL_PROTECTION if user::is_exit(frame) => user::leave(frame),
        GENERAL_PROTECTION => match fixups().iter().find(|fixup| fixup.fault == frame.rip) {
            Some(fixup) => {
                frame.rip = fixup.resume;
                frame.rflags |= CARRY;
            }
            None => unexpected(frame),
        },
        vector if vector == u64::from(PMI_VECTOR) => {
            INTERRUPTS.fetch_add(1, Ordering::Relaxed);
            call(&INTERRUPT_HOOK);
            crate::apic::end_of_interrupt();
        }
        vector if vector == u64::from(TIMER_VECTOR) => crate::apic::end_of_interrupt(),
        vector if vector == u64::from(SPURIOUS_VECTOR) => {}
        _ => unexpected(frame),
    }
}

fn unexpected(frame: &Frame) -> ! {
    println!(
        "FAIL exception: vector {:#x} error {:#x} rip {:#x} rsp {:#x} rflags {:#x}",
        frame.vector, frame.error, frame.rip, frame.rsp, frame.rflags
    );
    start::exit(1)
}
