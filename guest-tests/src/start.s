# Entry, descriptor tables and trap stubs of a payload. See start.rs and trap.rs.

    .section .text.start,"ax"
    .globl _start
_start:
    movq %rsi, boot_params(%rip)
    cli
    cld
    leaq boot_stack_top(%rip), %rsp
    movq %cr0, %rax
    andl $~0xc, %eax            # EM, TS off
    orl $0x2, %eax              # MP on
    movq %rax, %cr0
    movq %cr4, %rax
    orl $0x600, %eax            # OSFXSR, OSXMMEXCPT
    movq %rax, %cr4

    # The base of the TSS, spread over its descriptor.
    leaq tss(%rip), %rax
    leaq gdt_tss(%rip), %rdi
    movw %ax, 2(%rdi)
    shrq $16, %rax
    movb %al, 4(%rdi)
    movb %ah, 7(%rdi)
    shrq $16, %rax
    movl %eax, 8(%rdi)

    lgdt gdt_pointer(%rip)
    pushq $0x08
    leaq 1f(%rip), %rax
    pushq %rax
    lretq
1:  movl $0x10, %eax
    movl %eax, %ds
    movl %eax, %es
    movl %eax, %ss
    xorl %eax, %eax
    movl %eax, %fs
    movl %eax, %gs
    movl $0x18, %eax
    ltr %ax
    xorl %ebp, %ebp
    call payload_main
1:  hlt
    jmp 1b

# One stub per vector, 16 bytes apart: [error code], vector, then the common part.
    .section .text.traps,"ax"
    .globl trap_stubs
    .balign 16
trap_stubs:
    .set vector, 0
    .rept 96
    .balign 16
    .if vector == 8 || (vector >= 10 && vector <= 14) || vector == 17 || vector == 21 || vector == 29 || vector == 30
    .else
    pushq $0
    .endif
    pushq $vector
    jmp trap_common
    .set vector, vector + 1
    .endr

    .balign 16
trap_common:
    pushq %rax
    pushq %rcx
    pushq %rdx
    pushq %rbx
    pushq %rbp
    pushq %rsi
    pushq %rdi
    pushq %r8
    pushq %r9
    pushq %r10
    pushq %r11
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, %rbx
    movq %rsp, %rdi
    subq $512, %rsp
    andq $-16, %rsp
    fxsaveq (%rsp)
    cld
    call trap_entry
    fxrstorq (%rsp)
    movq %rbx, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %r11
    popq %r10
    popq %r9
    popq %r8
    popq %rdi
    popq %rsi
    popq %rbp
    popq %rbx
    popq %rdx
    popq %rcx
    popq %rax
    addq $16, %rsp
    iretq

    .section .data.descriptors,"aw"
    .balign 16
gdt:
    .quad 0
    .quad 0x00af9b000000ffff    # 0x08: 64-bit code
    .quad 0x00cf93000000ffff    # 0x10: data
gdt_tss:
    .quad 0x0000890000000067    # 0x18: the TSS; base filled in by _start
    .quad 0
    .quad 0x00cff3000000ffff    # 0x28: data of ring 3
    .quad 0x00affb000000ffff    # 0x30: 64-bit code of ring 3
    .quad 0x00cf9b000000ffff    # 0x38: 32-bit code
    .quad 0x00cffb000000ffff    # 0x40: 32-bit code of ring 3
gdt_end:
gdt_pointer:
    .word gdt_end - gdt - 1
    .quad gdt
    .balign 16
tss:
    .long 0
    .quad kernel_stack_top      # RSP0: traps of ring 3 without an IST
    .quad 0, 0
    .quad 0
    .quad fault_stack_top       # IST1: exceptions
    .quad nmi_stack_top         # IST2: NMI
    .quad interrupt_stack_top   # IST3: maskable interrupts
    .quad 0, 0, 0, 0
    .quad 0
    .word 0, 0x68

    # What RSI was at entry: the Linux boot parameters.
    .globl boot_params
    .balign 8
boot_params:
    .quad 0

    .section .bss.stacks,"aw",@nobits
    .balign 16
    .skip 32768
boot_stack_top:
    .skip 16384
fault_stack_top:
    .skip 16384
nmi_stack_top:
    .skip 16384
interrupt_stack_top:
    .skip 16384
kernel_stack_top:
