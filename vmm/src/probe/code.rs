//! The machine code of the probes: 16-bit real mode, all segments based at 0.
//!
//! The guest reads input by IN and answers by OUT. No program halts: with KVM's
//! in-kernel interrupt controller, HLT would never cause an exit.

/// Where a program starts.
pub(super) const ENTRY: u16 = 0x1000;
/// Where the handler of #GP lies.
pub(super) const ON_GP: u16 = 0x1100;
/// Where the handler of every other exception lies.
pub(super) const ON_OTHER: u16 = 0x1180;
/// The stack grows down from here.
pub(super) const STACK: u16 = 0x3000;
/// The vector of #GP.
pub(super) const GP_VECTOR: usize = 13;
/// Vectors in the interrupt table.
pub(super) const VECTORS: usize = 256;

/// IN: a number from the host.
pub(super) const ASK: u8 = 0xe0;
/// OUT: a result, or its lower half.
pub(super) const ANSWER: u8 = 0xe1;
/// OUT: the upper half.
pub(super) const UPPER: u8 = 0xe2;
/// OUT: #GP was raised.
pub(super) const GP: u8 = 0xe3;
/// OUT: another exception was raised.
pub(super) const OTHER: u8 = 0xe4;

/// Exits, and nothing else.
pub(super) const EXITS: [u8; 4] = [
    0xe6, ANSWER, // out ANSWER, al
    0xeb, 0xfc, // jmp ENTRY
];

/// Spins as often as the host says.
pub(super) const SPIN: [u8; 14] = [
    0x66, 0xe5, ASK, // in eax, ASK
    0x66, 0x89, 0xc1, // mov ecx, eax
    0x66, 0x49, // dec ecx
    0x75, 0xfc, // jnz to the dec
    0xe6, ANSWER, // out ANSWER, al
    0xeb, 0xf2, // jmp ENTRY
];

/// RDPMC of the counter that the host says.
pub(super) const RDPMC: [u8; 19] = [
    0x66, 0xe5, ASK, // in eax, ASK
    0x66, 0x89, 0xc1, // mov ecx, eax
    0x0f, 0x33, // rdpmc
    0x66, 0xe7, ANSWER, // out ANSWER, eax
    0x66, 0x89, 0xd0, // mov eax, edx
    0x66, 0xe7, UPPER, // out UPPER, eax
    0xeb, 0xed, // jmp ENTRY
];

/// The handler of #GP: says so, forgets the interrupted code and starts anew.
pub(super) const HANDLE_GP: [u8; 8] = [
    0xe6, GP, // out GP, al
    0xbc, 0x00, 0x30, // mov sp, STACK
    0xe9, 0xf8, 0xfe, // jmp ENTRY
];

/// The handler of everything else: says so, again and again.
pub(super) const HANDLE_OTHER: [u8; 4] = [
    0xe6, OTHER, // out OTHER, al
    0xeb, 0xfc, // jmp ON_OTHER
];

#[cfg(test)]
mod tests {
    use super::*;
    use iced_x86::{Decoder, DecoderOptions, Instruction, OpKind};

    fn decode(code: &[u8], ip: u16) -> Vec<Instruction> {
        Decoder::with_ip(16, code, ip.into(), DecoderOptions::NONE)
            .into_iter()
            .collect()
    }

    /// Every branch goes to the start of an instruction of its own program.
    #[test]
    fn the_bytes_are_what_the_comments_say() {
        for (code, ip, len) in [
            (&EXITS[..], ENTRY, 2),
            (&SPIN[..], ENTRY, 6),
            (&RDPMC[..], ENTRY, 7),
            (&HANDLE_GP[..], ON_GP, 3),
            (&HANDLE_OTHER[..], ON_OTHER, 2),
        ] {
            let program = decode(code, ip);
            assert_eq!(program.len(), len, "{program:?}");
            assert!(program.iter().all(|instruction| !instruction.is_invalid()));
            let starts: Vec<u16> = program.iter().map(Instruction::ip16).collect();
            for branch in &program {
                if branch.op0_kind() == OpKind::NearBranch16 {
                    let to = branch.near_branch16();
                    assert!(to == ENTRY || starts.contains(&to), "{branch:?}");
                }
            }
            let last = program.last().unwrap().near_branch16();
            let start = if ip == ON_OTHER { ON_OTHER } else { ENTRY };
            assert_eq!(last, start, "the end goes back");
        }
    }

    #[test]
    fn the_handler_resets_the_stack() {
        let program = decode(&HANDLE_GP, ON_GP);
        assert_eq!(program[1].immediate16(), STACK);
    }
}
