/* The instruction set that the machine has, among those that *_simd.c files are compiled for. */
#ifndef KIN_BACKENDS_CPU_CPU_ISA_H
#define KIN_BACKENDS_CPU_CPU_ISA_H

typedef enum cpu_isa_kind { CPU_ISA_GENERIC, CPU_ISA_AVX2, CPU_ISA_AVX512 } cpu_isa_kind;

/* The best that the processor and the operating system allow. Cheap: no more than a few loads. */
cpu_isa_kind cpu_isa(void);
/* "generic", "avx2", "avx512" */
const char *cpu_isa_name(cpu_isa_kind isa);

/* The variant of a function or table that was exported with KIN_ISA_NAME(base). Works for both:
 * CPU_PICK(cpu_softmax_rows)(x, y, n), and CPU_PICK(cpu_conv_table).forward(...). */
#if defined(__x86_64__) || defined(__i386__)
#define CPU_PICK(base)                                                                             \
    (*(cpu_isa() == CPU_ISA_AVX512 ? &base##_avx512                                                \
       : cpu_isa() == CPU_ISA_AVX2 ? &base##_avx2                                                  \
                                   : &base##_generic))
#else
#define CPU_PICK(base) (*&base##_generic)
#endif

#endif
