/* Rotary position embedding on the CPU; see ops/rope.h for what it computes. */
#ifndef KIN_BACKENDS_CPU_ROPE_H
#define KIN_BACKENDS_CPU_ROPE_H

#include "ops/rope_attrs.h"

typedef struct cpu_rope_args {
    const kin_rope_attrs *attrs;
    int64_t b0, b1, tokens, heads, head_size;
    /* Element (i0, i1, n, h, d) is x[i0 x_b0 + i1 x_b1 + n x_n + h x_h + d]; y likewise. They may
     * be the same memory with the same strides. */
    const float *x;
    int64_t x_b0, x_b1, x_n, x_h;
    float *y;
    int64_t y_b0, y_b1, y_n, y_h;
    const float *positions; /* [tokens] or [3, tokens], dense */
    int threads;
    float *scratch;
} cpu_rope_args;

typedef struct cpu_rope_functions {
    size_t (*scratch_bytes)(const cpu_rope_args *args); /* pointers but attrs are not looked at */
    void (*run)(const cpu_rope_args *args);
} cpu_rope_functions;

extern const cpu_rope_functions cpu_rope_functions_avx512;
extern const cpu_rope_functions cpu_rope_functions_avx2;
extern const cpu_rope_functions cpu_rope_functions_generic;

#endif
