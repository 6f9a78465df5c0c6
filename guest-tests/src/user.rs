//! Ring 3, for one call at a time.
//!
//! ```text
//!  call ─ iretq ─▶ function ─ ret ─▶ hlt, which is #GP ─▶ leave: back in ring 0
//!                      └─ #GP ─▶ exception table, as in ring 0
//! ```
//! [`crate::paging::open_to_ring_3`] goes first.
#![expect(unsafe_code, reason = "a change of privilege level")]

use core::sync::atomic::{AtomicU64, Ordering};

use crate::trap::Frame;

const KERNEL_CODE: u64 = 0x08;
const KERNEL_DATA: u64 = 0x10;

/// RSP of the call that is in ring 3.
static KERNEL_RSP: AtomicU64 = AtomicU64::new(0);

core::arch::global_asm!(
    ".globl user_enter, user_exit, user_left",
    // u64 enter(u64 argument, u64 function, u64 *rsp)
    "user_enter:",
    "push rbx",
    "push rbp",
    "push r12",
    "push r13",
    "push r14",
    "push r15",
    "mov [rdx], rsp",
    // A stack for ring 3, with the way back on it.
    "lea rcx, [rip + user_stack_top - 8]",
    "lea rax, [rip + user_exit]",
    "mov [rcx], rax",
    "push 0x2b",
    "push rcx",
    "pushfq",
    "push 0x33",
    "push rsi",
    "iretq",
    "user_exit:",
    "hlt",
    "user_left:",
    "pop r15",
    "pop r14",
    "pop r13",
    "pop r12",
    "pop rbp",
    "pop rbx",
    "ret",
    ".pushsection .bss.user,\"aw\",@nobits",
    ".balign 16",
    ".skip 4096",
    "user_stack_top:",
    ".popsection",
);

unsafe extern "C" {
    static user_exit: u8;
    static user_left: u8;
    fn user_enter(argument: u64, function: u64, rsp: *mut u64) -> u64;
}

/// Calls `function` in ring 3, where any privileged instruction is #GP.
pub fn call(function: extern "C" fn(u64) -> u64, argument: u64) -> u64 {
    // SAFETY: the stacks are statics that nothing else uses, traps of ring 3 go to
    // stacks of their own, and `leave` comes back with the registers that C keeps.
    unsafe { user_enter(argument, function as usize as u64, KERNEL_RSP.as_ptr()) }
}

fn exits() -> (u64, u64) {
    let (exit, left) = (&raw const user_exit, &raw const user_left);
    (exit.addr() as u64, left.addr() as u64)
}

/// Whether ring 3 came to its end there.
pub(crate) fn is_exit(frame: &Frame) -> bool {
    frame.cs & 3 == 3 && frame.rip == exits().0
}

/// Has the trap return to the caller of [`call`].
pub(crate) fn leave(frame: &mut Frame) {
    (frame.rip, frame.cs, frame.ss) = (exits().1, KERNEL_CODE, KERNEL_DATA);
    frame.rsp = KERNEL_RSP.load(Ordering::Relaxed);
}
