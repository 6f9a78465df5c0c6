//! `filters N COMMAND…`: attaches N packet filters to sockets, sends a packet through each,
//! runs the command, and sends a packet through each again.
//!
//! A kernel compiles such a filter, and puts its constants into the code: `xor eax, imm32`,
//! again and again. Decoded from within, the last two hold a kernel's reader of counters.
//! Each filter lets a packet through only if it has computed what it was given to compute,
//! so that a changed bit of a constant is seen. Prints how many packets came through, and
//! whether one did through a filter with RDMSR in the place of an RDPMC.
#![expect(unsafe_code, reason = "a socket option")]

use std::ffi::{c_int, c_void};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixDatagram;
use std::process::{Command, ExitCode};

unsafe extern "C" {
    fn setsockopt(fd: c_int, level: c_int, name: c_int, value: *const c_void, len: u32) -> c_int;
}

const SOL_SOCKET: c_int = 1;
const SO_ATTACH_FILTER: c_int = 26;

/// `struct sock_filter`.
#[repr(C)]
#[derive(Clone, Copy)]
struct Instruction {
    code: u16,
    if_true: u8,
    if_false: u8,
    k: u32,
}

/// `struct sock_fprog`.
#[repr(C)]
struct Program {
    len: u16,
    filter: *const Instruction,
}

/// BPF's codes: A = k, A ^= k, a jump if A == k, the end.
const LOAD: u16 = 0x00;
const XOR: u16 = 0xa4;
const JUMP_IF_EQUAL: u16 = 0x15;
const RETURN: u16 = 0x06;
/// `nop; nop; nop; test al, imm8`: whichever byte decoding begins at, it goes on with this.
const SLIDE: u32 = 0xa890_9090;
/// `nop; rdpmc; jmp` over the next opcode, to `shl rdx, 32`.
const READER: [u32; 2] = [0xeb33_0f90, 0x20e2_c148];
/// What the VMM makes of a kernel's reader.
const CHANGED: u32 = 0xeb32_0f90;
/// Constants before a reader, readers in a filter: together less than the memory that a
/// socket has for its filter.
const SLIDES: usize = 64;
const READERS: usize = 24;
/// What the first instruction loads.
const BEGIN: u32 = 0x1234_5678;

const fn instruction(code: u16, k: u32) -> Instruction {
    Instruction {
        code,
        if_true: 0,
        if_false: 0,
        k,
    }
}

/// A filter; with `changed` as one of its constants it is to let nothing through.
fn filter(changed: Option<u32>) -> Vec<Instruction> {
    let slides = std::iter::repeat_n(SLIDE, SLIDES);
    let constants: Vec<u32> = slides.chain(READER).collect();
    let constants = constants.repeat(READERS);
    let result = constants.iter().fold(BEGIN, |a, k| a ^ k);
    let mut all = vec![instruction(LOAD, BEGIN)];
    all.extend(constants.into_iter().map(|k| instruction(XOR, k)));
    if let (Some(k), Some(reader)) = (changed, all.get_mut(SLIDES + 1)) {
        reader.k = k;
    }
    all.push(Instruction {
        if_false: 1,
        ..instruction(JUMP_IF_EQUAL, result)
    });
    all.extend([u32::MAX, 0].map(|length| instruction(RETURN, length)));
    all
}

/// A socket, and another one whose packets come through a filter.
fn pair(filter: &[Instruction]) -> io::Result<[UnixDatagram; 2]> {
    let (from, to) = UnixDatagram::pair()?;
    to.set_nonblocking(true)?;
    let program = Program {
        len: u16::try_from(filter.len()).map_err(io::Error::other)?,
        filter: filter.as_ptr(),
    };
    let len = u32::try_from(size_of::<Program>()).map_err(io::Error::other)?;
    // SAFETY: the kernel reads `len` bytes at the program, and as many instructions behind
    // its pointer as it says; both live.
    let status = unsafe {
        setsockopt(
            to.as_raw_fd(),
            SOL_SOCKET,
            SO_ATTACH_FILTER,
            (&raw const program).cast(),
            len,
        )
    };
    if status != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok([from, to])
}

/// Whether a packet comes through.
fn passes([from, to]: &[UnixDatagram; 2]) -> bool {
    // A filter that drops a packet does not tell its sender.
    let _sent = from.send(b"packet");
    to.recv(&mut [0; 8]).is_ok_and(|len| len == 6)
}

fn run(mut arguments: impl Iterator<Item = String>) -> io::Result<()> {
    let usage = || io::Error::other("filters N COMMAND…");
    let number = arguments.next().and_then(|n| n.parse().ok());
    let number: usize = number.ok_or_else(usage)?;
    let command = arguments.next().ok_or_else(usage)?;
    let (whole, changed) = (filter(None), filter(Some(CHANGED)));
    let pairs = (0..number).map(|_| pair(&whole));
    let pairs = pairs.collect::<io::Result<Vec<_>>>()?;
    let passed = || pairs.iter().filter(|pair| passes(pair)).count();
    println!("changed={}", u32::from(passes(&pair(&changed)?)));
    println!("before={}", passed());
    let status = Command::new(command).args(arguments).status()?;
    println!("command={}", status.code().unwrap_or(-1));
    println!("after={}", passed());
    Ok(())
}

fn main() -> ExitCode {
    match run(std::env::args().skip(1)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("filters: {error}");
            ExitCode::FAILURE
        }
    }
}
