//! Which `0F 33` byte pairs of a kernel's text are RDPMC instructions whose
//! result the kernel reads.
//!
//! A kernel contains a dozen such pairs that are not RDPMC: they are inside another
//! instruction, or data between functions. Two independent tests must agree before a
//! byte of guest text is changed. First, the instructions after the pair must join
//! EDX and EAX into one number, as every reader does (guest-contract §5.2). Second,
//! the bytes before the pair must decode to instructions that end at the pair, from near
//! and from afar: constants that somebody has chosen can make every way to decode their
//! own bytes look right, but not that of the code before them.

use iced_x86::{
    Code, Decoder, DecoderError, DecoderOptions, Instruction, Mnemonic, OpKind, Register,
};
use memchr::memmem;

/// RDPMC.
pub(super) const RDPMC: [u8; 2] = [0x0f, 0x33];
/// Makes RDPMC an RDMSR: same operands, one byte (rule G-006).
pub(super) const SECOND_BYTE_OF_RDMSR: u8 = 0x32;
/// What it is then.
pub(super) const RDMSR: [u8; 2] = [0x0f, SECOND_BYTE_OF_RDMSR];

/// How far before and behind a candidate the tests look.
pub(super) const CONTEXT: usize = 64;

/// How far before a reader the run-ups of the last test begin.
pub(super) const RUN_UP: usize = 2048;

/// What the run-ups to one reader cost, in pairs.
const COST_OF_RUN_UPS: usize = 15;

/// What a scan of some text found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct PatternMatches {
    /// Offsets of RDPMC instructions that read a counter.
    pub(super) readers: Vec<usize>,
    /// Byte pairs that look like RDPMC and pass only one of the tests.
    pub(super) doubtful: usize,
    /// The offset of the first of them.
    pub(super) first_doubtful: Option<usize>,
    /// Those of them whose result would be read: no kernel seen has any.
    pub(super) look_alikes: usize,
    /// Byte pairs that the scan has examined; one that may be a reader counts for more.
    pub(super) pairs: usize,
}

/// Looks for readers that begin in `text[range]`, until it has examined `most` byte pairs;
/// the bytes around the range are context.
pub(super) fn find(text: &[u8], range: std::ops::Range<usize>, most: usize) -> PatternMatches {
    let mut found = PatternMatches::default();
    let pairs = memmem::find_iter(text, &RDPMC).filter(|at| range.contains(at));
    for at in pairs {
        if found.pairs >= most {
            break;
        }
        found.pairs += 1;
        let (Some(before), Some(behind)) = (text.get(..at), text.get(at + RDPMC.len()..)) else {
            continue;
        };
        let is_read = joins_edx_and_eax(behind);
        let mut is_boundary = is_instruction_boundary(before);
        if is_boundary && is_read {
            found.pairs += COST_OF_RUN_UPS;
            is_boundary = is_boundary_from_afar(before);
        }
        match (is_read, is_boundary) {
            (true, true) => found.readers.push(at),
            (false, false) => {}
            (false, true) | (true, false) => {
                found.doubtful += 1;
                found.look_alikes += usize::from(is_read);
                found.first_doubtful.get_or_insert(at);
            }
        }
    }
    found
}

/// Whether the code shifts the upper half of the result, in RDX or moved on from
/// there, up by 32 before anything else happens to it.
///
/// In between may stand a patch site (a NOP, or a jump while the tracepoint
/// behind it is on) and moves between other registers.
fn joins_edx_and_eax(code: &[u8]) -> bool {
    /// More than any compiler has put in between.
    const MOST_IN_BETWEEN: usize = 4;
    let mut decoder = Decoder::new(64, code, DecoderOptions::NONE);
    let mut upper_half = Register::RDX;
    for position in 0..=MOST_IN_BETWEEN {
        let instruction = decoder.decode();
        match instruction.mnemonic() {
            Mnemonic::Shl => return shifts_by_32(&instruction, upper_half),
            Mnemonic::Nop => {}
            Mnemonic::Jmp if position == 0 => {}
            Mnemonic::Mov if moves(&instruction, upper_half) => {
                upper_half = instruction.op0_register();
            }
            Mnemonic::Mov if spares(&instruction, upper_half) => {}
            _ => return false,
        }
    }
    false
}

fn shifts_by_32(shift: &Instruction, register: Register) -> bool {
    shift.code() == Code::Shl_rm64_imm8
        && shift.op0_kind() == OpKind::Register
        && shift.op0_register() == register
        && shift.immediate8() == 32
}

fn is_between_registers(mov: &Instruction) -> bool {
    mov.op0_kind() == OpKind::Register && mov.op1_kind() == OpKind::Register
}

/// A full copy of the upper half to another register than that of the lower.
fn moves(mov: &Instruction, upper_half: Register) -> bool {
    let to = mov.op0_register();
    is_between_registers(mov)
        && mov.op1_register() == upper_half
        && to.is_gpr64()
        && to != Register::RAX
}

/// A copy that changes neither half. `mov eax, eax`, which clears the upper half
/// of RAX, is one.
fn spares(mov: &Instruction, upper_half: Register) -> bool {
    let (to, from) = (mov.op0_register(), mov.op1_register());
    let result = [Register::RAX, upper_half];
    is_between_registers(mov)
        && (!result.contains(&to.full_register()) || (to == Register::EAX && from == to))
}

/// Whether decoding the bytes before a place ends exactly at it.
///
/// x86 code decoded from a wrong offset falls into step after a few
/// instructions, so the starts vote.
fn is_instruction_boundary(before: &[u8]) -> bool {
    const STARTS: usize = CONTEXT / 2;
    let window = before
        .get(before.len().saturating_sub(CONTEXT)..)
        .unwrap_or_default();
    let starts = STARTS.min(window.len());
    let ayes = (0..starts)
        .filter(|start| window.get(*start..).is_some_and(decodes_to_the_end))
        .count();
    starts == 0 || ayes * 2 > starts
}

/// The same, of starts that lie so far apart that a guest has written most of them
/// without this place in mind.
fn is_boundary_from_afar(before: &[u8]) -> bool {
    const STRIDE: usize = 64;
    let window = before
        .get(before.len().saturating_sub(RUN_UP)..)
        .unwrap_or_default();
    let starts = (0..window.len().saturating_sub(CONTEXT)).step_by(STRIDE);
    let votes = starts.map(|start| window.get(start..).is_some_and(decodes_to_the_end));
    let (ayes, noes): (Vec<bool>, Vec<bool>) = votes.partition(|vote| *vote);
    noes.is_empty() || ayes.len() > noes.len()
}

fn decodes_to_the_end(code: &[u8]) -> bool {
    let mut decoder = Decoder::new(64, code, DecoderOptions::NONE);
    while decoder.can_decode() {
        let at = decoder.position();
        if !decoder.decode().is_invalid() {
            continue;
        }
        // An instruction that goes on behind the end has no boundary there.
        // Anything else invalid is data: step over one byte of it.
        let goes_on = decoder.last_error() == DecoderError::NoMoreBytes;
        if goes_on || decoder.set_position(at + 1).is_err() {
            return false;
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What precedes the instruction in a real function: `push rbx; mov
    /// ecx,edi`, with the padding and prologue before.
    const PROLOGUE: &[u8] = &[
        0x66, 0x66, 0x2e, 0x0f, 0x1f, 0x84, 0x00, 0x00, 0x00, 0x00, 0x00, 0x0f, 0x1f, 0x00, 0xf3,
        0x0f, 0x1e, 0xfa, 0x0f, 0x1f, 0x44, 0x00, 0x00, 0x53, 0x89, 0xf9,
    ];
    const SHL_RDX_32: &[u8] = &[0x48, 0xc1, 0xe2, 0x20];
    const REST: &[u8] = &[0x48, 0x89, 0xd3, 0x48, 0x09, 0xc3, 0xc3, 0x90, 0x90, 0x90];

    fn text(parts: &[&[u8]]) -> (Vec<u8>, usize) {
        let mut text = PROLOGUE.repeat(2);
        let at = text.len();
        for part in parts {
            text.extend_from_slice(part);
        }
        text.extend_from_slice(REST);
        (text, at)
    }

    fn readers(parts: &[&[u8]]) -> (Vec<usize>, usize) {
        let (text, at) = text(parts);
        (find(&text, 0..text.len(), 10).readers, at)
    }

    /// Guest-contract §5.2: the shapes of the one site of a PARAVIRT_XXL kernel
    /// and of the inlined ones.
    #[test]
    fn every_shape_of_a_reader_is_found() {
        let gaps: [&[u8]; 8] = [
            &[],                             // no tracepoint
            &[0x66, 0x90],                   // two-byte NOP
            &[0x0f, 0x1f, 0x44, 0x00, 0x00], // five-byte NOP
            &[0xeb, 0x10],                   // the tracepoint is on, short jump
            &[0xe9, 0x00, 0x01, 0x00, 0x00], // the tracepoint is on
            &[0x89, 0xcf],                   // mov edi, ecx
            &[0x49, 0x89, 0xf0],             // mov r8, rsi
            &[0x89, 0xc0],                   // mov eax, eax
        ];
        for gap in gaps {
            let (found, at) = readers(&[&RDPMC, gap, SHL_RDX_32]);
            assert_eq!(found, [at], "{gap:x?}");
        }
    }

    /// Inlined into the top-down update of a kernel without PARAVIRT_XXL: `mov
    /// r12, rdx; shl r12, 32`.
    #[test]
    fn a_reader_that_moves_the_upper_half_first_is_found() {
        let (found, at) = readers(&[&RDPMC, &[0x49, 0x89, 0xd4, 0x49, 0xc1, 0xe4, 0x20]]);
        assert_eq!(found, [at]);
        // `mov r12, rdx; shl rdx, 32` uses another register than the copy.
        let (found, _) = readers(&[&RDPMC, &[0x49, 0x89, 0xd4], SHL_RDX_32]);
        assert!(found.is_empty());
    }

    #[test]
    fn the_same_bytes_elsewhere_are_left_alone() {
        for parts in [
            // The upper half of an immediate, before a real `shl rdx, 32`.
            [&[0xb8, 0x11, 0x22][..], &RDPMC, SHL_RDX_32],
            // RDPMC that discards the upper half: no reader's shape.
            [&[][..], &RDPMC, &[0x89, 0xc3, 0xc3]],
            // Another shift, another register.
            [&[][..], &RDPMC, &[0x48, 0xc1, 0xe2, 0x10]],
            [&[][..], &RDPMC, &[0x48, 0xc1, 0xe1, 0x20]],
            // RDX is overwritten before it is read.
            [&[][..], &RDPMC, &[0x89, 0xca, 0x48, 0xc1, 0xe2, 0x20]],
        ] {
            let (found, _) = readers(&parts);
            assert!(found.is_empty(), "{parts:x?}");
        }
    }

    /// In the kernels seen, data makes some dozen pairs doubtful, and none of them
    /// looks as if its result were read.
    #[test]
    fn what_looks_like_a_reader_is_told_from_data() {
        let inside = &[0xb8, 0x11, 0x22][..];
        for (parts, expected) in [
            ([inside, &RDPMC, SHL_RDX_32], (1, 1)),
            ([&[], &RDPMC, &[0x89, 0xc3, 0xc3]], (1, 0)),
            ([&[], &RDPMC, SHL_RDX_32], (0, 0)),
        ] {
            let (text, _) = text(&parts);
            let found = find(&text, 0..text.len(), 10);
            assert_eq!((found.doubtful, found.look_alikes), expected, "{parts:x?}");
        }
    }

    /// `xor eax, imm32` again and again: decoded one byte further, it is self-consistent.
    #[test]
    fn constants_that_look_like_a_reader_are_told_by_the_code_before_them() {
        let filler = [0x35, 0x90, 0x90, 0x90, 0xa8].repeat(40);
        let last = [
            0x35, 0x90, 0x0f, 0x33, 0xeb, 0x35, 0x48, 0xc1, 0xe2, 0x20, 0xc3,
        ];
        let spray = [&filler[..], &last, REST].concat();
        assert_eq!(find(&spray, 0..spray.len(), 10).readers.len(), 1, "alone");
        let text = [&PROLOGUE.repeat(70)[..], &spray].concat();
        let found = find(&text, 0..text.len(), 10);
        assert!(
            found.readers.is_empty() && found.look_alikes == 1,
            "{found:?}"
        );
        // A reader behind as much code is one.
        let code = [&PROLOGUE.repeat(90)[..], &RDPMC, SHL_RDX_32, REST].concat();
        assert_eq!(find(&code, 0..code.len(), 10).readers.len(), 1);
    }

    #[test]
    fn a_reader_outside_the_range_is_context_only() {
        let (text, at) = text(&[&RDPMC, SHL_RDX_32]);
        assert_eq!(find(&text, at..at + 1, 10).readers, [at]);
        assert!(find(&text, at + 1..text.len(), 10).readers.is_empty());
    }

    #[test]
    fn no_more_pairs_are_looked_at_than_may_be() {
        let odd = [&RDPMC[..], &[0x90; 64]].concat().repeat(8);
        for (most, pairs) in [(0, 0), (3, 3), (8, 8), (9, 8)] {
            assert_eq!(find(&odd, 0..odd.len(), most).pairs, pairs);
        }
        let readers = [&RDPMC[..], SHL_RDX_32, &[0x90; 64]].concat().repeat(8);
        for (most, number) in [(0, 0), (1, 1), (16, 1), (17, 2), (1000, 8)] {
            let found = find(&readers, 0..readers.len(), most);
            assert_eq!((found.pairs, found.readers.len()), (16 * number, number));
        }
    }

    #[test]
    fn text_that_ends_early_is_no_reader() {
        let (text, at) = text(&[&RDPMC, SHL_RDX_32]);
        for end in at..at + RDPMC.len() + SHL_RDX_32.len() {
            assert!(find(&text[..end], 0..end, 10).readers.is_empty());
        }
    }
}
