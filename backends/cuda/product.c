/* Products: cuBLASLt where it has the types and the strides, else a plain kernel. */
#include "backends/cuda/product.h"

#include "backends/cuda/blaslt.h"
#include "ops/product_attrs.h"

#include <string.h>

/* A batch of more axes than one becomes this many calls at most. */
enum { MOST_CALLS = 64 };

static int64_t batch_of(const kin_cuda_product *p) {
    int64_t batch = 1;
    for (int a = 0; a < p->rank; a++) batch *= p->dims[a];
    return batch;
}

/* What is large enough to be split gets room for its parts. */
size_t kin_cuda_product_scratch(const kin_device *device, const kin_cuda_product *p) {
    const kin_cuda_device *state = kin_cuda_of(device);
    const double operations = (double)p->rows * (double)p->columns * (double)p->depth;
    if (state->blaslt == NULL || operations < 1 << 16) return 0;
    if (operations < 1 << 26) return (size_t)1 << 20;
    return (size_t)(state->properties.capability >= 90 ? 32 : 8) << 20;
}

/* The stored form of a matrix: `across` if rows lie side by side. False if neither axis is dense. A
 * step along an axis of one element says nothing. */
static bool stored(const kin_cuda_matrix *m, int64_t rows, int64_t columns, bool *out_across,
                   int64_t *out_lead) {
    const bool row_free = rows == 1, column_free = columns == 1;
    if ((m->column_step == 1 || column_free) && (row_free || m->row_step >= columns)) {
        *out_across = false;
        *out_lead = row_free ? columns : m->row_step;
        return true;
    }
    if ((m->row_step == 1 || row_free) && (column_free || m->column_step >= rows)) {
        *out_across = true;
        *out_lead = column_free ? rows : m->column_step;
        return true;
    }
    return false;
}

/* The library adds c, which lies as d does, before its activation, and knows one: GELU in the form
 * with tanh. It has no gate. */
static bool describe_epilogue(const kin_cuda_product *p, kin_cuda_blaslt_shape *s) {
    const kin_cuda_rows *r = &p->residual;
    s->adds = p->has_residual;
    s->gelu = p->activation == KIN_ACTIVATION_GELU_TANH;
    if (p->has_gate || (p->activation != KIN_ACTIVATION_NONE && !s->gelu)) return false;
    if (!p->has_residual) return true;
    const bool rows_follow = r->rank == 0 || (r->rank == 1 && r->steps[0] == p->columns);
    return !s->gelu && r->dtype == p->c_dtype && rows_follow &&
           (r->column_step == 1 || p->columns == 1);
}

/* Row-major c = a b is column-major c' = b' a': the library's a is b here, and the other way round.
 * A row-major matrix is a column-major one across, so b without a turn is the library's a without.
 */
static bool describe(const kin_cuda_product *p, kin_cuda_blaslt_shape *s) {
    bool a_across, b_across;
    memset(s, 0, sizeof *s);
    if (p->a.dtype != p->b.dtype || !kin_cuda_is_real(p->a.dtype)) return false;
    if (p->c_dtype != p->a.dtype && p->c_dtype != KIN_F32) return false;
    if (p->depth < 1 || p->rank > KIN_CUDA_BATCH_AXES) return false;
    if (p->has_bias && p->bias_dtype != p->c_dtype) return false;
    if (!describe_epilogue(p, s)) return false;
    if (!stored(&p->a, p->rows, p->depth, &a_across, &s->b_lead)) return false;
    if (!stored(&p->b, p->depth, p->columns, &b_across, &s->a_lead)) return false;
    s->operands = p->a.dtype;
    s->result = p->c_dtype;
    s->a_across = b_across;
    s->b_across = a_across;
    s->bias = p->has_bias;
    s->m = p->columns;
    s->n = p->rows;
    s->k = p->depth;
    s->d_lead = p->columns;
    s->batch = p->rank > 0 ? p->dims[0] : 1;
    s->a_step = p->rank > 0 ? p->b.steps[0] : 0;
    s->b_step = p->rank > 0 ? p->a.steps[0] : 0;
    s->d_step = p->rank > 0 ? p->rows * p->columns : 0;
    return batch_of(p) <= MOST_CALLS * s->batch;
}

/* Where a product's operands lie; while planning, addresses that are aligned as they will be. */
typedef struct places {
    const char *a, *b, *bias, *residual;
    char *c;
} places;

/* One call for each place on the outer axes of the batch. Without `commands` the library is asked
 * only. */
static kin_status add_calls(kin_device *device, kin_commands *commands, const kin_cuda_product *p,
                            const kin_cuda_blaslt_shape *s, const places *at, void *scratch,
                            bool *out_taken) {
    const int64_t calls = batch_of(p) / s->batch;
    const int64_t size = (int64_t)kin_dtype_size(p->a.dtype);
    for (int64_t call = 0; call < calls; call++) {
        int64_t rest = call, a_at = 0, b_at = 0;
        for (int axis = 1; axis < p->rank; axis++) {
            a_at += rest % p->dims[axis] * p->a.steps[axis];
            b_at += rest % p->dims[axis] * p->b.steps[axis];
            rest /= p->dims[axis];
        }
        const int64_t c_at =
            call * s->batch * p->rows * p->columns * (int64_t)kin_dtype_size(p->c_dtype);
        const kin_cuda_blaslt_data data = {.a = at->b + b_at * size,
                                           .b = at->a + a_at * size,
                                           .c = s->adds ? at->residual + c_at : NULL,
                                           .d = at->c + c_at,
                                           .bias = s->bias ? at->bias : NULL,
                                           .workspace = scratch};
        kin_status status = kin_cuda_blaslt_add(device, commands, s, &data, out_taken);
        /* Alignments differ from call to call, so all are asked for before the first is made. */
        if (status != KIN_OK || !*out_taken) return status;
    }
    return KIN_OK;
}

kin_status kin_cuda_product_add(kin_device *device, kin_commands *commands,
                                const kin_cuda_product *p, void *scratch) {
    kin_cuda_blaslt_shape shape;
    bool taken = false;
    if (p->rows == 0 || p->columns == 0 || batch_of(p) == 0) return KIN_OK;
    if (kin_cuda_of(device)->blaslt != NULL && describe(p, &shape)) {
        shape.workspace = scratch != NULL ? kin_cuda_product_scratch(device, p) : 0;
        const places at = {.a = p->a.data,
                           .b = p->b.data,
                           .bias = p->bias,
                           .residual = p->residual.data,
                           .c = p->c};
        kin_status status = add_calls(device, NULL, p, &shape, &at, scratch, &taken);
        if (status == KIN_OK && taken)
            status = add_calls(device, commands, p, &shape, &at, scratch, &taken);
        if (status != KIN_OK || taken) return status;
    }
    return kin_cuda_tiles(device, commands, p);
}

bool kin_cuda_product_pays(const kin_device *device, const kin_cuda_product *p,
                           const size_t offsets[4]) {
    kin_cuda_blaslt_shape shape;
    kin_cuda_product plain = *p;
    bool taken = false;
    plain.activation = KIN_ACTIVATION_NONE;
    plain.has_residual = plain.has_gate = false;
    plain.c_dtype = p->a.dtype;
    if (kin_cuda_of(device)->blaslt == NULL || p->rows == 0 || p->columns == 0 ||
        batch_of(p) == 0 || !describe(&plain, &shape))
        return true; /* tiles.cu takes it either way */
    if (!describe(p, &shape)) return false;
    shape.workspace = kin_cuda_product_scratch(device, p);
    /* All memory starts at multiples of 256; nothing is read. */
    char *start = (char *)(uintptr_t)4096;
    const places at = {.a = start + offsets[0],
                       .b = start + offsets[1],
                       .bias = start + offsets[2],
                       .residual = start + offsets[3],
                       .c = start};
    kin_status status =
        add_calls((kin_device *)(uintptr_t)device, NULL, p, &shape, &at, NULL, &taken);
    return status == KIN_OK && taken;
}
