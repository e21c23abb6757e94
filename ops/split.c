/* split: equal parts of a tensor as views; detach: a view that stops gradients. */
#include "ops/split.h"

#include "ops/layout.h"
#include "ops/split_attrs.h"
#include "runtime/op.h"

#include <string.h>

static kin_status split_infer(kin_infer *infer) {
    const kin_split_attrs *attrs = infer->attrs;
    kin_status status = kin_infer_inputs(infer, 1, 1);
    if (status != KIN_OK) return status;
    const kin_desc *x = infer->in[0];
    if (attrs->axis < 0 || attrs->axis >= x->rank)
        return kin_infer_fail(infer, "axis %d is not one of the tensor's", attrs->axis);
    if (attrs->count < 2 || attrs->count > KIN_MAX_OUTPUTS || x->dims[attrs->axis] % attrs->count)
        return kin_infer_fail(infer, "axis %d does not fall into %d equal parts (2 to %d can be)",
                              attrs->axis, attrs->count, KIN_MAX_OUTPUTS);
    infer->out_count = attrs->count;
    for (int j = 0; j < attrs->count; j++) {
        infer->out[j] = *x;
        infer->out[j].dims[attrs->axis] /= attrs->count;
        infer->view_offset[j] = j * infer->out[j].dims[attrs->axis] * x->strides[attrs->axis];
    }
    return KIN_OK;
}

static void split_reference(const kin_reference *call) {
    const kin_split_attrs *attrs = call->attrs;
    const kin_desc *x = call->in_desc;
    int64_t outer = 1, inner = 1, part = x->dims[attrs->axis] / attrs->count;
    for (int a = 0; a < attrs->axis; a++) outer *= x->dims[a];
    for (int a = attrs->axis + 1; a < x->rank; a++) inner *= x->dims[a];
    for (int j = 0; j < attrs->count; j++)
        for (int64_t o = 0; o < outer; o++)
            for (int64_t i = 0; i < part * inner; i++)
                call->out[j][o * part * inner + i] =
                    call->in[0][(o * attrs->count + j) * part * inner + i];
}

static void split_gradient(kin_gradient_call *call) {
    const kin_split_attrs *attrs = call->attrs;
    kin_tensor parts[KIN_MAX_OUTPUTS];
    for (int j = 0; j < call->out_count; j++) {
        parts[j] = call->out_grad[j];
        if (parts[j].id) continue;
        const kin_desc *desc = kin_tensor_desc(call->graph, call->out[j]);
        kin_desc copy = *desc;
        parts[j] = kin_fill(call->graph, copy.dtype, copy.rank, copy.dims, 0);
    }
    call->in_grad[0] = kin_concat(call->graph, parts, call->out_count, attrs->axis);
}

static void view_cost(const kin_cost_call *call, kin_cost *cost) {
    (void)call;
    cost->bytes = 0;
}

static const kin_split_attrs thirds = {1, 3}, halves_last = {2, 2};
static const kin_case split_cases[] = {
    {"qkv", &thirds, 1, {{.rank = 3, .dims = {2, 6, 5}}}, false},
    {"last axis", &halves_last, 1, {{.rank = 3, .dims = {3, 2, 4}}}, false},
    {"transposed",
     &thirds,
     1,
     {{.rank = 3, .dims = {2, 9, 5}, .layout = KIN_LAYOUT_TRANSPOSED}},
     false},
};

const kin_op kin_op_split = {
    .name = "split",
    .summary = "equal parts of x along one axis, as views",
    .flags = KIN_OP_VIEW,
    .attrs_size = sizeof(kin_split_attrs),
    .outputs = KIN_MAX_OUTPUTS,
    .infer = split_infer,
    .reference = split_reference,
    .gradient = split_gradient,
    .cost = view_cost,
    .cases = split_cases,
    .case_count = sizeof split_cases / sizeof *split_cases,
};

void kin_split(kin_graph *graph, kin_tensor x, int axis, int count, kin_tensor *out_tensors) {
    kin_split_attrs attrs = {axis < 0 ? axis + kin_rank(graph, x) : axis, count};
    kin_tensor out[KIN_MAX_OUTPUTS] = {{0}};
    kin_append(graph, &kin_op_split, &attrs, &x, 1, out);
    for (int j = 0; j < count && j < KIN_MAX_OUTPUTS; j++) out_tensors[j] = out[j];
}

static kin_status detach_infer(kin_infer *infer) {
    kin_status status = kin_infer_inputs(infer, 1, 1);
    if (status == KIN_OK) infer->out[0] = *infer->in[0];
    return status;
}

static void detach_reference(const kin_reference *call) {
    int64_t count = kin_desc_count(call->in_desc);
    memcpy(call->out[0], call->in[0], (size_t)count * sizeof(double));
}

static void detach_gradient(kin_gradient_call *call) {
    call->in_grad[0] = KIN_NONE;
}

static const kin_case detach_cases[] = {
    {"any", NULL, 1, {{.rank = 2, .dims = {3, 4}, .constant = true}}, false},
};

const kin_op kin_op_detach = {
    .name = "detach",
    .summary = "x as a view through which no gradient flows",
    .flags = KIN_OP_VIEW,
    .outputs = 1,
    .infer = detach_infer,
    .reference = detach_reference,
    .gradient = detach_gradient,
    .cost = view_cost,
    .cases = detach_cases,
    .case_count = sizeof detach_cases / sizeof *detach_cases,
};

kin_tensor kin_detach(kin_graph *graph, kin_tensor x) {
    return kin_append1(graph, &kin_op_detach, NULL, &x, 1);
}
