//! The serial console with guests of a few instructions, on `/dev/kvm`: nothing
//! typed is lost, nothing printed is lost to a reader that reads, and a console
//! that nobody reads holds nobody up.

#![expect(
    clippy::unwrap_used,
    reason = "a test that cannot go on says so by panicking"
)]

mod common;

use std::io::Write;
use std::thread;

use common::{Code, Guest};

/// Ends the guest's input.
const END: u8 = 4;

/// Sends back what it gets until [`END`], by interrupts. As drivers do, its handler
/// asks IIR for a cause, and reads no more than 24 bytes for each.
fn echo_by_interrupts() -> Code {
    let handler_and_end = Code::default()
        // again: mov dx, 0x3fa; in al, dx; test al, 1; jnz done; mov ecx, 24
        .raw(&[0x66, 0xba, 0xfa, 0x03, 0xec, 0xa8, 0x01, 0x75, 0x1e])
        .raw(&[0xb9, 24, 0, 0, 0])
        // next: mov dx, 0x3fd; in al, dx; test al, 1; jz again
        .raw(&[0x66, 0xba, 0xfd, 0x03, 0xec, 0xa8, 0x01, 0x74, 0xe9])
        // mov dx, 0x3f8; in al, dx; cmp al, 4; je end; out dx, al
        .raw(&[0x66, 0xba, 0xf8, 0x03, 0xec, 0x3c, END, 0x74, 0x0d, 0xee])
        // dec ecx; jnz next; jmp again
        .raw(&[0xff, 0xc9, 0x75, 0xe9, 0xeb, 0xd9])
        // done: mov al, 0x20; out 0x20, al; iretq; end:
        .raw(&[0xb0, 0x20, 0xe6, 0x20, 0x48, 0xcf])
        .power_off();
    pic_and_received_interrupt()
        // lea rax, handler; mov edi, 0x300000 (the IDT)
        .raw(&[0x48, 0x8d, 0x05, 0x57, 0, 0, 0, 0xbf, 0, 0, 0x30, 0])
        // The gate of vector 0x24: mov [rdi + 0x240], ax; mov dx, cs
        .raw(&[0x66, 0x89, 0x87, 0x40, 2, 0, 0, 0x66, 0x8c, 0xca])
        // mov [rdi + 0x242], dx; mov word [rdi + 0x244], 0x8e00
        .raw(&[0x66, 0x89, 0x97, 0x42, 2, 0, 0])
        .raw(&[0x66, 0xc7, 0x87, 0x44, 2, 0, 0, 0, 0x8e])
        // shr rax, 16; mov [rdi + 0x246], ax; shr rax, 16; mov [rdi + 0x248], rax
        .raw(&[0x48, 0xc1, 0xe8, 0x10, 0x66, 0x89, 0x87, 0x46, 2, 0, 0])
        .raw(&[0x48, 0xc1, 0xe8, 0x10, 0x48, 0x89, 0x87, 0x48, 2, 0, 0])
        // mov word [rdi + 0x1000], 0xfff; mov [rdi + 0x1002], rdi; lidt [rdi + 0x1000]
        .raw(&[0x66, 0xc7, 0x87, 0, 0x10, 0, 0, 0xff, 0x0f])
        .raw(&[
            0x48, 0x89, 0xbf, 2, 0x10, 0, 0, 0x0f, 0x01, 0x9f, 0, 0x10, 0, 0,
        ])
        // lea rsp, [rdi + 0x3000]; sti; idle: hlt; jmp idle
        .raw(&[0x48, 0x8d, 0xa7, 0, 0x30, 0, 0, 0xfb, 0xf4, 0xeb, 0xfd])
        .append(&handler_and_end)
}

/// IRQ 4 as vector 0x24 by the 8259, and nothing else; IER: received bytes.
fn pic_and_received_interrupt() -> Code {
    Code::default()
        .out(0x20, 0x11)
        .out(0x21, 0x20)
        .out(0x21, 0x04)
        .out(0x21, 0x01)
        .out(0x21, 0xef)
        .out(0xa1, 0xff)
        .out(0x3fa, 0x01)
        .out(0x3f9, 0x01)
}

/// Text without [`END`].
fn typed(len: usize) -> Vec<u8> {
    (b'a'..=b'z').chain(b'0'..=b'9').cycle().take(len).collect()
}

#[test]
fn a_paste_of_any_length_arrives() {
    let Some(guest) = Guest::new("paste", &echo_by_interrupts()) else {
        return;
    };
    for len in [1, 63, 64, 65, 1_500, 1 << 16] {
        let text = typed(len);
        let mut child = guest.start(&[]);
        let mut input = child.stdin.take().unwrap();
        let mut paste = text.clone();
        paste.push(END);
        let feeder = thread::spawn(move || input.write_all(&paste).unwrap());
        let output = child.wait_with_output().unwrap();
        feeder.join().unwrap();
        assert_eq!(output.status.code(), Some(0), "{len}");
        assert!(output.stdout == text, "{len}: {} came", output.stdout.len());
    }
}
