# The boot sector of the Intel host's disk: brings the disk's contents to memory and
# starts the Linux kernel in them, by the PVH entry (Xen's "x86/HVM direct boot ABI").
# So the emulated CPU unpacks no kernel, and no boot loader is needed.
#
# ci/xtask/src/nested/boot_disk.rs assembles it with these symbols:
#   first_sector   where the contents begin on the disk
#   sectors        how many there are
#   memory         where they go in memory
#   start_info     where PVH's start info is in memory
#   entry          where the kernel begins
#
# The disk is the first one of the first ATA channel of a PIIX3, which is what Bochs has.
# The CPU waits for its bus master; word by word the CPU itself would take minutes.

    .set COUNT, 0x1f2           # then three bytes of the address, drive, command
    .set STATUS, 0x1f7
    .set PER_COMMAND, 256       # which the drive calls 0: two regions of 64 KiB
    .set PCI_ADDRESS, 0xcf8
    .set PCI_DATA, 0xcfc
    .set IDE, 0x80000900        # bus 0, device 1, function 1
    .set REGIONS, 0x5000        # the bus master's table

    .code16
    .globl _start
_start:
    cli
    cld
    xorw %ax, %ax
    movw %ax, %ds
    inb $0x92, %al              # A20 on
    orb $0x2, %al
    outb %al, $0x92
    lgdtl gdt_pointer
    movl %cr0, %eax
    orl $0x1, %eax
    movl %eax, %cr0
    ljmp $0x8, $protected

    .code32
protected:
    movl $0x10, %eax
    movl %eax, %ds
    movl %eax, %es
    movl %eax, %ss
    movl $0x7000, %esp

    # The bus master may run; its ports begin at ESI.
    movw $PCI_ADDRESS, %dx
    movl $IDE + 0x4, %eax
    outl %eax, %dx
    movw $PCI_DATA, %dx
    inl %dx, %eax
    orl $0x5, %eax
    outl %eax, %dx
    movw $PCI_ADDRESS, %dx
    movl $IDE + 0x20, %eax
    outl %eax, %dx
    movw $PCI_DATA, %dx
    inl %dx, %eax
    andl $0xfff0, %eax
    movl %eax, %esi

    movl $memory, %edi
    movl $first_sector, %ebx
    movl $sectors, %ebp
command:
    movl %edi, REGIONS
    movl $0, REGIONS + 4        # 64 KiB
    addl $0x10000, %edi
    movl %edi, REGIONS + 8
    movl $0x80000000, REGIONS + 12  # and the last one
    addl $0x10000, %edi
    leal 4(%esi), %edx
    movl $REGIONS, %eax
    outl %eax, %dx
    leal 2(%esi), %edx
    movb $0x6, %al              # no error, no interrupt yet
    outb %al, %dx
    movl %esi, %edx
    movb $0x8, %al              # to memory
    outb %al, %dx

    movl $COUNT, %edx
    xorl %eax, %eax
    outb %al, %dx
    incl %edx
    movl %ebx, %eax
    outb %al, %dx
    incl %edx
    shrl $8, %eax
    outb %al, %dx
    incl %edx
    shrl $8, %eax
    outb %al, %dx
    incl %edx
    shrl $8, %eax
    orb $0xe0, %al              # LBA, drive 0
    outb %al, %dx
    incl %edx
    movb $0xc8, %al             # read by DMA
    outb %al, %dx

    movl %esi, %edx
    movb $0x9, %al              # go
    outb %al, %dx
    leal 2(%esi), %edx
1:  inb %dx, %al
    testb $0x1, %al             # still at it
    jnz 1b
    movl %esi, %edx
    xorl %eax, %eax
    outb %al, %dx
    movl $STATUS, %edx          # which ends the interrupt
    inb %dx, %al
    addl $PER_COMMAND, %ebx
    subl $PER_COMMAND, %ebp
    ja command

    movl $start_info, %ebx
    movl $entry, %eax
    jmp *%eax

    .balign 8
gdt:
    .quad 0
    .quad 0x00cf9b000000ffff    # code, flat, 32 bits
    .quad 0x00cf93000000ffff    # data, flat
gdt_pointer:
    .word gdt_pointer - gdt - 1
    .long gdt

    .org 510
    .word 0xaa55
