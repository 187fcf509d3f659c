/*
 * What an accelerator must be able to do before a stock kernel is trusted to it, in half a KiB:
 * enter long mode, compute at the speed of a processor there and in ring 3, take timer interrupts and make
 * system calls in ring 3, and come back each time.
 * It ends QEMU through isa-debug-exit (port 0xf4) with status 33. Anything else, or silence, is a no.
 * Build: as -o probe.o probe.S; ld -m elf_x86_64 -Ttext 0x100000 --oformat binary -o probe.bin probe.o
 */
        .set TABLES, 0x110000           /* 3 pages: PML4, PDPT, PD (identity map of 1 GiB, user allowed) */
        .set IDT, 0x114000
        .set TSS, 0x115000
        .set STACK, 0x118000
        .set USER_STACK, 0x11a000
        .set TICKS, 0x11b000

        .code32
        .globl _start
_start: jmp     enter
        .balign 4
header: .long   0x1badb002, 0x00010000, -(0x1badb002 + 0x00010000)
        .long   header, _start, 0, 0, _start

enter:  cli
        cld
        mov     $STACK, %esp
        mov     $TABLES, %edi           /* clear all that is not the image */
        mov     $0x3000, %ecx
        xor     %eax, %eax
        rep stosl
        movl    $TABLES + 0x1007, TABLES
        movl    $TABLES + 0x2007, TABLES + 0x1000
        mov     $TABLES + 0x2000, %edi
        mov     $0x87, %eax             /* present, writable, user, 2 MiB */
1:      mov     %eax, (%edi)
        add     $8, %edi
        add     $0x200000, %eax
        cmp     $0x40000087, %eax
        jne     1b
        mov     $TABLES, %eax
        mov     %eax, %cr3
        mov     %cr4, %eax
        or      $0x20, %eax             /* PAE */
        mov     %eax, %cr4
        mov     $0xc0000080, %ecx       /* EFER: long mode, system calls */
        rdmsr
        or      $0x101, %eax
        wrmsr
        mov     %cr0, %eax
        or      $0x80000001, %eax
        mov     %eax, %cr0
        lgdt    gdtr
        ljmp    $0x08, $long

        .code64
long:   mov     $0x10, %eax
        mov     %eax, %ds
        mov     %eax, %es
        mov     %eax, %ss
        movq    $STACK, TSS + 4         /* stack for interrupts from ring 3 */
        mov     $0x28, %eax
        ltr     %ax
        mov     $tick, %eax             /* gate of vector 0x20 */
        mov     %ax, IDT + 0x200
        movw    $0x08, IDT + 0x202
        movw    $0x8e00, IDT + 0x204
        shr     $16, %eax
        mov     %ax, IDT + 0x206
        lidt    idtr
        mov     $0x11, %al              /* interrupt controllers: vectors from 0x20, only the timer */
        out     %al, $0x20
        mov     $0x20, %al
        out     %al, $0x21
        mov     $0x04, %al
        out     %al, $0x21
        mov     $0x01, %al
        out     %al, $0x21
        mov     $0xfe, %al
        out     %al, $0x21
        mov     $0x34, %al              /* timer: 1 kHz */
        out     %al, $0x43
        mov     $0xa9, %al
        out     %al, $0x40
        mov     $0x04, %al
        out     %al, $0x40
        mov     $0xc0000081, %ecx       /* STAR: kernel 0x08, user from 0x18 (32-bit code slot) */
        xor     %eax, %eax
        mov     $0x00130008, %edx
        wrmsr
        mov     $0xc0000082, %ecx       /* LSTAR */
        mov     $called, %eax
        xor     %edx, %edx
        wrmsr
        mov     $0xc0000084, %ecx       /* interrupts off in system calls */
        mov     $0x200, %eax
        wrmsr
        call    work
        xor     %ebx, %ebx              /* system calls made */
        push    $0x1b                   /* to ring 3 */
        push    $USER_STACK
        push    $0x202
        push    $0x23
        push    $user
        iretq

user:   call    work
2:      syscall
        cmpl    $5, TICKS               /* interrupts taken here */
        jb      2b
        cmp     $1000, %ebx
        jb      2b
        mov     $1, %eax
        syscall

work:   mov     $10000000, %ecx         /* at the speed of a processor, not of an emulator of instructions */
3:      incl    TICKS + 8
        dec     %ecx
        jnz     3b
        ret

called: test    %eax, %eax
        jnz     done
        inc     %ebx
        sysretq
done:   mov     $16, %al
        out     %al, $0xf4
        hlt

tick:   push    %rax
        incl    TICKS
        mov     $0x20, %al
        out     %al, $0x20
        pop     %rax
        iretq

        .balign 8
gdt:    .quad   0
        .quad   0x00209a0000000000      /* 0x08 kernel code */
        .quad   0x0000920000000000      /* 0x10 kernel stack and variables */
        .quad   0x0000f20000000000      /* 0x18 user stack (0x1b) */
        .quad   0x0020fa0000000000      /* 0x20 user code (0x23) */
        .word   0x67, TSS & 0xffff, 0x8900 + (TSS >> 16), 0
        .quad   0
gdtr:   .word   . - gdt - 1
        .long   gdt
idtr:   .word   0x20f
        .quad   IDT
