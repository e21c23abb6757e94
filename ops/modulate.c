/* Modulation and gate of adaptive layer norm. */
#include "ops/modulate.h"

#include "ops/elementwise.h"
#include "ops/reduce.h"
#include "ops/walk.h"
#include "runtime/op.h"

#define COUNT(array) (sizeof(array) / sizeof *(array))
#define DIMS(r, ...) .rank = (r), .dims = {__VA_ARGS__}

/* Three operands of one float dtype; the result has the shape of input 0, to which the others can
 * be broadcast. */
static kin_status like_first_infer(kin_infer *infer) {
    kin_status status = kin_infer_inputs(infer, 3, 3);
    if (status == KIN_OK) status = kin_infer_float(infer, 0);
    if (status != KIN_OK) return status;
    const kin_desc *x = infer->in[0];
    int rank = x->rank;
    int64_t dims[KIN_MAX_RANK];
    memcpy(dims, x->dims, sizeof dims);
    for (int i = 1; i < 3; i++) {
        const kin_desc *in = infer->in[i];
        if (in->dtype != x->dtype)
            return kin_infer_fail(infer, "operands of different dtypes; cast one of them");
        if (!kin_broadcast_shape(&rank, dims, in->rank, in->dims) || rank != x->rank ||
            memcmp(dims, x->dims, (size_t)rank * sizeof *dims) != 0)
            return kin_infer_fail(infer, "input %d cannot be broadcast to input 0", i);
    }
    kin_infer_like(infer, 0, 0, x->dtype);
    return KIN_OK;
}

static kin_status gated_add_infer(kin_infer *infer) {
    kin_status status = like_first_infer(infer);
    return status == KIN_OK ? kin_infer_same_shape(infer, 0, 2) : status;
}

static void three_reference(const kin_reference *call, double (*value)(double, double, double)) {
    const kin_desc *out = &call->out_desc[0];
    int64_t count = kin_desc_count(out);
    kin_walk walks[3];
    for (int j = 0; j < 3; j++) walks[j] = kin_walk_start(&call->in_desc[j], out->rank, out->dims);
    for (int64_t i = 0; i < count; i++) {
        call->out[0][i] = value(call->in[0][walks[0].offset], call->in[1][walks[1].offset],
                                call->in[2][walks[2].offset]);
        for (int j = 0; j < 3; j++) kin_walk_next(&walks[j]);
    }
}

static kin_tensor sum_like(kin_gradient_call *call, kin_tensor gradient, int input) {
    const kin_desc desc = *kin_tensor_desc(call->graph, call->in[input]);
    return kin_sum_to(call->graph, gradient, desc.rank, desc.dims);
}

static void two_flops_cost(const kin_cost_call *call, kin_cost *cost) {
    cost->flops = 2.0 * (double)kin_desc_count(&call->out[0]);
}

/* ---- modulate ---- */

static double modulate_value(double x, double shift, double scale) {
    return x * (1 + scale) + shift;
}

static void modulate_reference(const kin_reference *call) {
    three_reference(call, modulate_value);
}

static void modulate_gradient(kin_gradient_call *call) {
    kin_graph *graph = call->graph;
    kin_tensor dy = call->out_grad[0];
    if (call->wanted[0]) call->in_grad[0] = kin_mul(graph, dy, kin_scale(graph, call->in[2], 1, 1));
    if (call->wanted[1]) call->in_grad[1] = sum_like(call, dy, 1);
    if (call->wanted[2]) call->in_grad[2] = sum_like(call, kin_mul(graph, dy, call->in[0]), 2);
}

static void modulate_lower(kin_lower_call *call) {
    kin_graph *graph = call->graph;
    kin_tensor factor = kin_scale(graph, call->in[2], 1, 1);
    call->out[0] = kin_add(graph, kin_mul(graph, call->in[0], factor), call->in[1]);
}

static const kin_case modulate_cases[] = {
    {"vectors",
     NULL,
     3,
     {{.dtype = KIN_F32, DIMS(1, 7)},
      {.dtype = KIN_F32, DIMS(1, 7)},
      {.dtype = KIN_F32, DIMS(0, 0)}},
     false},
    {"one_for_all",
     NULL,
     3,
     {{.dtype = KIN_F32, DIMS(3, 2, 5, 37)},
      {.dtype = KIN_F32, DIMS(3, 1, 1, 37)},
      {.dtype = KIN_F32, DIMS(3, 1, 1, 37)}},
     false},
    {"per_sample_views",
     NULL,
     3,
     {{.dtype = KIN_F32, DIMS(3, 3, 5, 19), .layout = KIN_LAYOUT_TRANSPOSED},
      {.dtype = KIN_F32, DIMS(3, 3, 1, 19), .layout = KIN_LAYOUT_PADDED},
      {.dtype = KIN_F32, DIMS(3, 3, 1, 19), .layout = KIN_LAYOUT_TRANSPOSED}},
     false},
    {"per_frame",
     NULL,
     3,
     {{.dtype = KIN_F32, DIMS(4, 2, 3, 5, 9)},
      {.dtype = KIN_F32, DIMS(4, 2, 3, 1, 9)},
      {.dtype = KIN_F32, DIMS(4, 1, 3, 1, 9)}},
     false},
    {"bench",
     NULL,
     3,
     {{.dtype = KIN_F32, DIMS(3, 2, 4096, 1152)},
      {.dtype = KIN_F32, DIMS(3, 2, 1, 1152)},
      {.dtype = KIN_F32, DIMS(3, 2, 1, 1152)}},
     true},
};

const kin_op kin_op_modulate = {
    .name = "modulate",
    .summary = "y = x (1 + scale) + shift (arXiv:2212.09748, section 3.2)",
    .flags = KIN_OP_COMPOSITE,
    .outputs = 1,
    .infer = like_first_infer,
    .reference = modulate_reference,
    .gradient = modulate_gradient,
    .lower = modulate_lower,
    .cost = two_flops_cost,
    .cases = modulate_cases,
    .case_count = COUNT(modulate_cases),
};

kin_tensor kin_modulate(kin_graph *graph, kin_tensor x, kin_tensor shift, kin_tensor scale) {
    const kin_tensor in[3] = {x, shift, scale};
    return kin_append1(graph, &kin_op_modulate, NULL, in, 3);
}

/* ---- gated_add ---- */

static double gated_add_value(double x, double gate, double y) {
    return x + gate * y;
}

static void gated_add_reference(const kin_reference *call) {
    three_reference(call, gated_add_value);
}

static void gated_add_gradient(kin_gradient_call *call) {
    kin_graph *graph = call->graph;
    kin_tensor dy = call->out_grad[0];
    if (call->wanted[0]) call->in_grad[0] = dy;
    if (call->wanted[1]) call->in_grad[1] = sum_like(call, kin_mul(graph, dy, call->in[2]), 1);
    if (call->wanted[2]) call->in_grad[2] = kin_mul(graph, dy, call->in[1]);
}

static void gated_add_lower(kin_lower_call *call) {
    kin_graph *graph = call->graph;
    call->out[0] = kin_add(graph, call->in[0], kin_mul(graph, call->in[1], call->in[2]));
}

static const kin_case gated_add_cases[] = {
    {"scalars",
     NULL,
     3,
     {{.dtype = KIN_F32, DIMS(0, 0)},
      {.dtype = KIN_F32, DIMS(0, 0)},
      {.dtype = KIN_F32, DIMS(0, 0)}},
     false},
    {"one_for_all",
     NULL,
     3,
     {{.dtype = KIN_F32, DIMS(3, 2, 5, 37)},
      {.dtype = KIN_F32, DIMS(3, 1, 1, 37)},
      {.dtype = KIN_F32, DIMS(3, 2, 5, 37)}},
     false},
    {"per_sample_views",
     NULL,
     3,
     {{.dtype = KIN_F32, DIMS(3, 3, 5, 19), .layout = KIN_LAYOUT_PADDED},
      {.dtype = KIN_F32, DIMS(3, 3, 1, 19), .layout = KIN_LAYOUT_PADDED},
      {.dtype = KIN_F32, DIMS(3, 3, 5, 19), .layout = KIN_LAYOUT_TRANSPOSED}},
     false},
    {"bench",
     NULL,
     3,
     {{.dtype = KIN_F32, DIMS(3, 2, 4096, 1152)},
      {.dtype = KIN_F32, DIMS(3, 2, 1, 1152)},
      {.dtype = KIN_F32, DIMS(3, 2, 4096, 1152)}},
     true},
};

const kin_op kin_op_gated_add = {
    .name = "gated_add",
    .summary = "out = x + gate y (arXiv:2212.09748, section 3.2)",
    .flags = KIN_OP_COMPOSITE,
    .outputs = 1,
    .infer = gated_add_infer,
    .reference = gated_add_reference,
    .gradient = gated_add_gradient,
    .lower = gated_add_lower,
    .cost = two_flops_cost,
    .cases = gated_add_cases,
    .case_count = COUNT(gated_add_cases),
};

kin_tensor kin_gated_add(kin_graph *graph, kin_tensor x, kin_tensor gate, kin_tensor y) {
    const kin_tensor in[3] = {x, gate, y};
    return kin_append1(graph, &kin_op_gated_add, NULL, in, 3);
}
