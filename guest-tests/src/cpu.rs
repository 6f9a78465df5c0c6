//! Instructions that Rust has no name for, and the #GP-safe forms of some.
#![expect(unsafe_code, reason = "each function is one privileged instruction")]

use core::arch::{asm, x86_64};
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// The instruction raised #GP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gp;

/// Emits an entry of the exception table: a #GP at label 2 goes on at label 3
/// with the carry flag set (see `trap`).
macro_rules! may_fault {
    ($instruction:literal) => {
        concat!(
            "clc\n2: ",
            $instruction,
            "\n3: setc {fault}\n",
            ".pushsection .extable,\"a\"\n.quad 2b, 3b\n.popsection"
        )
    };
}

fn join(low: u32, high: u32) -> u64 {
    u64::from(high) << 32 | u64::from(low)
}

/// Splits a value into EDX:EAX order: low half, high half.
#[expect(clippy::cast_possible_truncation, reason = "the two halves are meant")]
fn split(value: u64) -> (u32, u32) {
    (value as u32, (value >> 32) as u32)
}

fn outcome(fault: u8, value: u64) -> Result<u64, Gp> {
    if fault == 0 { Ok(value) } else { Err(Gp) }
}

/// RDMSR.
///
/// # Errors
///
/// [`Gp`] if the instruction raised #GP.
pub fn rdmsr_checked(msr: u32) -> Result<u64, Gp> {
    let (low, high): (u32, u32);
    let fault: u8;
    // SAFETY: reading an MSR changes no memory; a #GP resumes behind the instruction.
    unsafe {
        asm!(may_fault!("rdmsr"), in("ecx") msr, inout("eax") 0 => low, inout("edx") 0 => high,
             fault = out(reg_byte) fault, options(nostack));
    }
    outcome(fault, join(low, high))
}

/// WRMSR.
///
/// # Errors
///
/// [`Gp`] if the instruction raised #GP.
pub fn wrmsr_checked(msr: u32, value: u64) -> Result<(), Gp> {
    let (low, high) = split(value);
    let fault: u8;
    // SAFETY: the MSRs that payloads write (PMU, APIC, EFER.NXE) break no Rust
    // invariant; a #GP resumes behind the instruction.
    unsafe {
        asm!(may_fault!("wrmsr"), in("ecx") msr, in("eax") low, in("edx") high,
             fault = out(reg_byte) fault, options(nostack));
    }
    outcome(fault, 0).map(|_| ())
}

/// Where the two RDPMC sites were last executed.
static RDPMC_SITES: [AtomicU64; 2] = [const { AtomicU64::new(0) }; 2];

/// A site of RDPMC: the instruction, the given bytes, SHL RDX, 32.
macro_rules! rdpmc_site {
    ($index:expr, $site:literal, $between:literal) => {{
        let (low, high, site): (u64, u64, u64);
        let fault: u8;
        // SAFETY: reading a counter changes no memory; a #GP resumes at label 3.
        unsafe {
            asm!(
                "lea {site}, [rip + 2f]",
                "2: rdpmc",
                $between,
                "shl rdx, 32",
                "jmp 4f",
                "3: mov {fault}, 1",
                "4:",
                ".pushsection .extable,\"a\"",
                ".quad 2b, 3b",
                ".popsection",
                in("ecx") $index,
                inout("rax") 0_u64 => low,
                inout("rdx") 0_u64 => high,
                site = out(reg) site,
                fault = inout(reg_byte) 0_u8 => fault,
                options(nostack)
            );
        }
        RDPMC_SITES[$site].store(site, Ordering::Relaxed);
        outcome(fault, high | low)
    }};
}

/// RDPMC in the shape that Linux inlines: `0F 33`, `48 C1 E2 20`.
///
/// # Errors
///
/// [`Gp`] if the instruction raised #GP.
#[inline(never)]
pub fn rdpmc_checked(index: u32) -> Result<u64, Gp> {
    rdpmc_site!(index, 0, "")
}

/// RDPMC in the shape of `native_read_pmc`, with a two-byte NOP before the shift.
///
/// # Errors
///
/// [`Gp`] if the instruction raised #GP.
#[inline(never)]
pub fn rdpmc_nop_checked(index: u32) -> Result<u64, Gp> {
    rdpmc_site!(index, 1, ".byte 0x66, 0x90")
}

/// The second opcode byte of both RDPMC sites: 33, or 32 once rewritten to RDMSR.
/// Each site must have been executed before.
#[must_use]
pub fn rdpmc_opcodes() -> [u8; 2] {
    [0, 1].map(|i: usize| opcode_at(RDPMC_SITES[i].load(Ordering::Relaxed)))
}

/// Makes RDPMC of the sites again that have been executed.
#[expect(
    clippy::cast_possible_truncation,
    reason = "the target has 64-bit addresses"
)]
pub fn undo_rewriting() {
    const SECOND_BYTE_OF_RDPMC: u8 = 0x33;
    for site in &RDPMC_SITES {
        let address = site.load(Ordering::Relaxed) as usize;
        if address != 0 {
            let byte = core::ptr::without_provenance_mut::<u8>(address + 1);
            // SAFETY: the VMM maps code writable, and the byte is an opcode's that
            // is executed by this payload only.
            unsafe { byte.write_volatile(SECOND_BYTE_OF_RDPMC) };
        }
    }
}

/// The second byte of the instruction at `address`.
#[expect(
    clippy::cast_possible_truncation,
    reason = "the target has 64-bit addresses"
)]
fn opcode_at(address: u64) -> u8 {
    let byte = core::ptr::without_provenance::<u8>(address as usize + 1);
    // SAFETY: code is mapped readable; volatile, because the VMM may change it.
    unsafe { byte.read_volatile() }
}

/// RDMSR that counts a #GP as zero: for registers that an earlier check proved.
#[must_use]
pub fn rdmsr(msr: u32) -> u64 {
    rdmsr_checked(msr).unwrap_or(0)
}

/// WRMSR that ignores a #GP: for registers that an earlier check proved.
pub fn wrmsr(msr: u32, value: u64) {
    _ = wrmsr_checked(msr, value);
}

/// The CPUID leaf `leaf`, subleaf `subleaf`.
#[must_use]
pub fn cpuid(leaf: u32, subleaf: u32) -> x86_64::CpuidResult {
    x86_64::__cpuid_count(leaf, subleaf)
}

/// The time stamp counter.
#[must_use]
pub fn rdtsc() -> u64 {
    // SAFETY: RDTSC has no operands; CR4.TSD does not concern CPL 0, and Linux leaves
    // it clear for a program that did not ask.
    unsafe { x86_64::_rdtsc() }
}

/// Executes a loop of exactly `2 * rounds` instructions (DEC and JNZ).
#[inline]
pub fn spin(rounds: u64) {
    if rounds == 0 {
        return;
    }
    // SAFETY: the loop touches one register and ends when it is zero.
    unsafe {
        asm!("2: dec {n}", "jnz 2b", n = inout(reg) rounds => _, options(nomem, nostack));
    }
}

/// OUT of one byte.
pub fn outb(port: u16, value: u8) {
    // SAFETY: the ports of this machine touch no guest memory.
    unsafe {
        asm!("out dx, al", in("dx") port, in("al") value,
             options(nomem, nostack, preserves_flags));
    }
}

/// IN of one byte.
#[must_use]
pub fn inb(port: u16) -> u8 {
    let value: u8;
    // SAFETY: the ports of this machine touch no guest memory.
    unsafe {
        asm!("in al, dx", in("dx") port, out("al") value,
             options(nomem, nostack, preserves_flags));
    }
    value
}

/// Lets maskable interrupts in for `rounds` of [`spin`], then shuts them out.
pub fn interrupts_for(rounds: u64) {
    // SAFETY: every vector that a payload arms has a gate, on its own stack.
    unsafe { asm!("sti", "nop", options(nostack)) };
    spin(rounds);
    // SAFETY: interrupts off is the state in which payloads run.
    unsafe { asm!("cli", options(nostack)) };
}

/// HLT with interrupts on. Gives where the CPU goes on: what wakes it came there.
#[must_use]
pub fn halt_once() -> u64 {
    let behind: u64;
    // SAFETY: every vector that a payload arms has a gate, on its own stack;
    // interrupts are off again afterwards.
    unsafe {
        asm!("lea {behind}, [rip + 2f]", "sti", "hlt", "2: cli", behind = out(reg) behind,
             options(nostack));
    }
    behind
}

/// Spins until `go` is not 0, then [`halt_once`], with as little in between as can be.
#[must_use]
pub fn halt_when(go: &AtomicU32) -> u64 {
    let behind: u64;
    // SAFETY: as in `halt_once`; `go` is read as a whole.
    unsafe {
        asm!("lea {behind}, [rip + 3f]", "2: cmp dword ptr [{go}], 0", "je 2b", "sti", "hlt",
             "3: cli", behind = out(reg) behind, go = in(reg) go.as_ptr(), options(nostack));
    }
    behind
}

/// CR4 as this payload wrote it last, without PCE.
static CR4: AtomicU64 = AtomicU64::new(0);

/// Writes CR4.PCE: whether RDPMC is permitted in ring 3. As Linux, from a copy of
/// CR4 that is read once.
pub fn permit_rdpmc(permitted: bool) {
    const PCE: u64 = 1 << 8;
    let mut rest = CR4.load(Ordering::Relaxed);
    if rest == 0 {
        // SAFETY: reading CR4 changes nothing.
        unsafe { asm!("mov {}, cr4", out(reg) rest, options(nomem, nostack)) };
        rest &= !PCE;
        CR4.store(rest, Ordering::Relaxed);
    }
    let cr4 = rest | (u64::from(permitted) * PCE);
    // SAFETY: this bit changes what RDPMC does in ring 3, and no more.
    unsafe { asm!("mov cr4, {}", in(reg) cr4, options(nostack)) };
}

/// Stops this vCPU for good (an NMI only wakes it to stop again).
pub fn halt() -> ! {
    loop {
        // SAFETY: nothing runs after it but this loop.
        unsafe { asm!("cli", "hlt", options(nomem, nostack)) };
    }
}
