/* The list of ops, and the rules that most infer functions share. */
#include "runtime/graph_internal.h"

#include <stdio.h>
#include <string.h>

const kin_op *kin_op_find(const char *name) {
    for (const kin_op *const *op = kin_op_list; *op; op++)
        if (strcmp((*op)->name, name) == 0) return *op;
    return NULL;
}

const kin_op *kin_op_with_role(unsigned role) {
    for (const kin_op *const *op = kin_op_list; *op; op++)
        if ((*op)->flags & role) return *op;
    return NULL;
}

kin_status kin_infer_fail(kin_infer *infer, const char *format, ...) {
    char reason[512], shapes[320] = "";
    va_list args;
    va_start(args, format);
    vsnprintf(reason, sizeof reason, format, args);
    va_end(args);
    size_t used = 0;
    for (int i = 0; i < infer->in_count && i < 8; i++) {
        char shape[128] = "none";
        const char *dtype = "";
        if (infer->in[i]) {
            kin_desc_shape_text(infer->in[i], shape, sizeof shape);
            dtype = kin_dtype_name(infer->in[i]->dtype);
        }
        int length = snprintf(shapes + used, sizeof shapes - used, "%s%s%s", used ? ", " : "",
                              dtype, shape);
        if (length < 0 || (used += (size_t)length) >= sizeof shapes) break;
    }
    kin_graph_fail(infer->graph, KIN_INVALID, "%s(%s): %s", infer->op->name, shapes, reason);
    return KIN_INVALID;
}

kin_status kin_infer_inputs(kin_infer *infer, int min_count, int max_count) {
    if (infer->in_count >= min_count && infer->in_count <= max_count) return KIN_OK;
    return kin_infer_fail(infer, "takes %d to %d inputs, not %d", min_count, max_count,
                          infer->in_count);
}

kin_status kin_infer_rank(kin_infer *infer, int input, int min_rank, int max_rank) {
    int rank = infer->in[input]->rank;
    if (rank >= min_rank && rank <= max_rank) return KIN_OK;
    return kin_infer_fail(infer, "input %d must have %d to %d dimensions, not %d", input, min_rank,
                          max_rank, rank);
}

kin_status kin_infer_same_shape(kin_infer *infer, int a, int b) {
    if (kin_desc_same_shape(infer->in[a], infer->in[b])) return KIN_OK;
    return kin_infer_fail(infer, "inputs %d and %d must have the same shape", a, b);
}

kin_status kin_infer_float(kin_infer *infer, int input) {
    kin_dtype dtype = infer->in[input]->dtype;
    if (dtype == KIN_F32 || dtype == KIN_F16 || dtype == KIN_BF16) return KIN_OK;
    return kin_infer_fail(infer, "input %d must be f32, f16 or bf16, not %s", input,
                          kin_dtype_name(dtype));
}

kin_status kin_infer_dtype(kin_infer *infer, int input, kin_dtype dtype) {
    if (infer->in[input]->dtype == dtype) return KIN_OK;
    return kin_infer_fail(infer, "input %d must be %s, not %s", input, kin_dtype_name(dtype),
                          kin_dtype_name(infer->in[input]->dtype));
}

void kin_infer_like(kin_infer *infer, int index, int input, kin_dtype dtype) {
    infer->out[index] = kin_desc_dense(dtype, infer->in[input]->rank, infer->in[input]->dims);
}
