/* Activations, gates and residuals on rows of floats: the functions of elementwise_expr.h, so that
 * f32 results have the bits of the ops that are left out. */
#include "backends/cpu/epilogue.h"
#include "backends/cpu/simd.h"
#include "backends/cpu/simd_run.h"
#include "ops/product_attrs.h"

#define KX_C(c) vf_set1((float)(c))
#define KX_EXP(v) vf_exp(v)
#define KX_TANH(v) vf_tanh(v)
#define KX_ERF(v) vf_erf(v)
#include "ops/elementwise_expr.h"

enum { CHUNK = 256 };

KIN_INLINE vf load_lanes(const float *from, int lanes) {
    return lanes == VF_WIDTH ? vf_load(from) : vf_load_n(from, lanes);
}

KIN_INLINE void store_lanes(float *to, vf v, int lanes) {
    if (lanes == VF_WIDTH) vf_store(to, v);
    else vf_store_n(to, v, lanes);
}

#define FOR_VECTORS(n, body)                                                                       \
    for (int64_t at = 0; at < (n); at += VF_WIDTH) {                                               \
        const int lanes = (n)-at < VF_WIDTH ? (int)((n)-at) : VF_WIDTH;                            \
        body                                                                                       \
    }

#define ACTIVATION(name, value)                                                                    \
    static void name##_row(float *values, int64_t n) {                                             \
        FOR_VECTORS(n, {                                                                           \
            const vf x = load_lanes(values + at, lanes);                                           \
            store_lanes(values + at, value, lanes);                                                \
        })                                                                                         \
    }

ACTIVATION(gelu_tanh, KX_GELU_TANH(x))
ACTIVATION(gelu, x *KX_NORMAL_CDF(x))
ACTIVATION(silu, x *KX_SIGMOID(x))

static int64_t row_offset(const cpu_row_operand *operand, int64_t row) {
    int64_t offset = 0;
    for (int i = 0; i < operand->rank; i++) {
        offset += row % operand->dims[i] * operand->strides[i];
        row /= operand->dims[i];
    }
    return offset;
}

/* n elements as floats: where they lie if they are that, else in `room`. */
static const float *read_columns(const cpu_row_operand *operand, int64_t offset, int64_t first,
                                 int64_t n, float *room) {
    const int64_t step = operand->column_stride, from = offset + first * step;
    if (step == 1 && operand->dtype == KIN_F32) return (const float *)operand->data + from;
    if (step == 1) {
        run_to_f32(operand->data, operand->dtype, from, n, room);
        return room;
    }
    for (int64_t i = 0; i < n; i++)
        room[i] = (float)kin_element_get(operand->data, operand->dtype, from + i * step);
    return room;
}

void KIN_ISA_NAME(cpu_finish_row)(const cpu_epilogue *epilogue, int64_t row, int64_t first,
                                  int64_t n, float *values) {
    float residual_room[CHUNK], gate_room[CHUNK];
    if (epilogue->activation == KIN_ACTIVATION_GELU_TANH) gelu_tanh_row(values, n);
    else if (epilogue->activation == KIN_ACTIVATION_GELU) gelu_row(values, n);
    else if (epilogue->activation == KIN_ACTIVATION_SILU) silu_row(values, n);
    if (!epilogue->has_residual) return;
    const int64_t residual_at = row_offset(&epilogue->residual, row);
    const int64_t gate_at = epilogue->has_gate ? row_offset(&epilogue->gate, row) : 0;
    for (int64_t done = 0; done < n; done += CHUNK) {
        const int64_t count = n - done < CHUNK ? n - done : CHUNK;
        float *to = values + done;
        const float *a =
            read_columns(&epilogue->residual, residual_at, first + done, count, residual_room);
        if (!epilogue->has_gate) {
            FOR_VECTORS(count, {
                const vf sum = load_lanes(a + at, lanes) + load_lanes(to + at, lanes);
                store_lanes(to + at, sum, lanes);
            })
            continue;
        }
        const float *b = read_columns(&epilogue->gate, gate_at, first + done, count, gate_room);
        FOR_VECTORS(count, {
            const vf gated = load_lanes(b + at, lanes) * load_lanes(to + at, lanes);
            store_lanes(to + at, load_lanes(a + at, lanes) + gated, lanes);
        })
    }
}
