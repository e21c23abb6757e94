/* Philox draws on the CPU: one table of functions per instruction set. */
#ifndef KIN_BACKENDS_CPU_RANDOM_TABLE_H
#define KIN_BACKENDS_CPU_RANDOM_TABLE_H

#include <stddef.h>
#include <stdint.h>

/* Elements first .. first + count - 1 of the draw of (seed, stream, step); first is a multiple of
 * CPU_RANDOM_STEP. What an element is, is defined in runtime/philox.h. */
typedef void cpu_random_fill(uint64_t seed, uint32_t stream, uint64_t step, uint64_t first,
                             int64_t count, float *out);

enum { CPU_RANDOM_STEP = 4096 };

typedef struct cpu_random_table {
    cpu_random_fill *normal, *uniform;
} cpu_random_table;

extern const cpu_random_table cpu_random_generic;
extern const cpu_random_table cpu_random_avx2;
extern const cpu_random_table cpu_random_avx512;

#endif
