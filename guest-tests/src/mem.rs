//! The memory functions that compiled code calls and no C library provides here.
//! String instructions: few guest instructions, whatever the length.
#![expect(unsafe_code, reason = "C ABI symbols over raw memory")]

use core::arch::asm;

/// C `memcpy`.
///
/// # Safety
///
/// As for C: both areas are valid for `len` bytes and do not overlap.
#[unsafe(no_mangle)]
unsafe extern "C" fn memcpy(to: *mut u8, from: *const u8, len: usize) -> *mut u8 {
    // SAFETY: the caller vouches for both areas; the direction flag is clear by the ABI.
    unsafe {
        asm!("rep movsb", inout("rcx") len => _, inout("rdi") to => _, inout("rsi") from => _,
             options(nostack, preserves_flags));
    }
    to
}

/// C `memmove`.
///
/// # Safety
///
/// As for C: both areas are valid for `len` bytes.
#[unsafe(no_mangle)]
unsafe extern "C" fn memmove(to: *mut u8, from: *const u8, len: usize) -> *mut u8 {
    if to.addr().wrapping_sub(from.addr()) >= len {
        // SAFETY: ascending order reads each byte before it can be overwritten.
        return unsafe { memcpy(to, from, len) };
    }
    let last = len.wrapping_sub(1);
    let (to_last, from_last) = (to.wrapping_add(last), from.wrapping_add(last));
    // SAFETY: the caller vouches for both areas; descending order, flag restored.
    unsafe {
        asm!("std", "rep movsb", "cld", inout("rcx") len => _, inout("rdi") to_last => _,
             inout("rsi") from_last => _, options(nostack));
    }
    to
}

/// C `memset`.
///
/// # Safety
///
/// As for C: the area is valid for `len` bytes.
#[unsafe(no_mangle)]
unsafe extern "C" fn memset(to: *mut u8, value: i32, len: usize) -> *mut u8 {
    // SAFETY: the caller vouches for the area; the direction flag is clear by the ABI.
    unsafe {
        asm!("rep stosb", inout("rcx") len => _, inout("rdi") to => _, in("eax") value,
             options(nostack, preserves_flags));
    }
    to
}

/// C `memcmp`.
///
/// # Safety
///
/// As for C: both areas are valid for `len` bytes.
#[unsafe(no_mangle)]
unsafe extern "C" fn memcmp(left: *const u8, right: *const u8, len: usize) -> i32 {
    for at in 0..len {
        // SAFETY: `at` is below `len`, for which the caller vouches. Volatile, or the
        // compiler might make this loop a call of memcmp.
        let l = unsafe { left.wrapping_add(at).read_volatile() };
        // SAFETY: as above.
        let r = unsafe { right.wrapping_add(at).read_volatile() };
        if l != r {
            return i32::from(l) - i32::from(r);
        }
    }
    0
}

/// C `bcmp`.
///
/// # Safety
///
/// As for C: both areas are valid for `len` bytes.
#[unsafe(no_mangle)]
unsafe extern "C" fn bcmp(left: *const u8, right: *const u8, len: usize) -> i32 {
    // SAFETY: the same contract.
    unsafe { memcmp(left, right, len) }
}
