/* Element-wise work on the CPU: one function of the expression list over strided operands. */
#ifndef KIN_BACKENDS_CPU_MAP_H
#define KIN_BACKENDS_CPU_MAP_H

#include "backends/cpu/cpu_isa.h"
#include "ops/elementwise_expr.h"
#include "runtime/tensor.h"

#define CPU_MAP_ENTRY(name, ...) CPU_MAP_##name,
#define CPU_MAP_ENTRY_GRAD(name, ...) CPU_MAP_##name##_grad,
typedef enum cpu_map_function {
    CPU_MAP_identity, /* for conversions */
    KX_UNARY(CPU_MAP_ENTRY) KX_UNARY(CPU_MAP_ENTRY_GRAD) KX_AFFINE(CPU_MAP_ENTRY)
        KX_BINARY(CPU_MAP_ENTRY) KX_TERNARY(CPU_MAP_ENTRY) KX_TERNARY_PAIR(CPU_MAP_ENTRY)
            CPU_MAP_COUNT
} cpu_map_function;
#undef CPU_MAP_ENTRY
#undef CPU_MAP_ENTRY_GRAD

enum { CPU_MAP_INPUTS = 3, CPU_MAP_OUTPUTS = 2 };

typedef struct cpu_map_operand {
    const void *data;
    kin_dtype dtype;
    int64_t strides[KIN_MAX_RANK]; /* per axis of the map; 0: broadcast */
} cpu_map_operand;

/* Outputs are dense in the order of dims, and f32, f16 or bf16. An output may lie on an input that
 * is dense, too. */
typedef struct cpu_map {
    cpu_map_function function;
    float p, q; /* kin_elementwise_attrs */
    int rank;
    int64_t dims[KIN_MAX_RANK];
    int in_count, out_count;
    cpu_map_operand in[CPU_MAP_INPUTS];
    void *out[CPU_MAP_OUTPUTS];
    kin_dtype out_dtype;
} cpu_map;

typedef struct cpu_map_table {
    void (*run)(const cpu_map *map, int threads);
} cpu_map_table;

extern const cpu_map_table cpu_map_generic;
extern const cpu_map_table cpu_map_avx2;
extern const cpu_map_table cpu_map_avx512;

/* Fills rank, dims and strides from the descriptions of the operands, which are broadcast to dims;
 * joins axes that follow one another without a gap in every operand. */
void cpu_map_shape(cpu_map *map, int rank, const int64_t *dims, const kin_desc *const *in);

/* True for the dtypes that a map reads: f32, f16, bf16, i32, u8, bool. */
bool cpu_map_reads(kin_dtype dtype);

/* Reads a strided tensor of such a dtype into dense floats. */
void cpu_map_to_f32(const kin_desc *desc, const void *data, float *out, int threads);

#endif
