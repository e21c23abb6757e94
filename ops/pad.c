/* pad and its gradient. */
#include "ops/pad.h"

#include "ops/elementwise.h"
#include "ops/layout.h"
#include "ops/reduce.h"
#include "ops/views.h"
#include "runtime/op.h"

static kin_status infer(kin_infer *infer) {
    const kin_pad_attrs *attrs = infer->attrs;
    int sign = infer->op == &kin_op_pad ? 1 : -1;
    kin_status status = kin_infer_inputs(infer, 1, 1);
    if (status == KIN_OK) status = kin_infer_rank(infer, 0, 1, KIN_MAX_RANK);
    if (status == KIN_OK) status = kin_infer_float(infer, 0);
    if (status != KIN_OK) return status;
    const kin_desc *x = infer->in[0];
    int64_t dims[KIN_MAX_RANK];
    for (int a = 0; a < x->rank; a++) {
        if (attrs->before[a] < 0 || attrs->after[a] < 0)
            return kin_infer_fail(infer, "padding of axis %d is negative; use a slice", a);
        dims[a] = x->dims[a] + sign * (attrs->before[a] + attrs->after[a]);
        if (dims[a] < 1) return kin_infer_fail(infer, "axis %d is shorter than its padding", a);
    }
    infer->out[0] = kin_desc_dense(x->dtype, x->rank, dims);
    return KIN_OK;
}

/* The element of the small tensor behind element `index` of the padded one; -1: a zero. */
static int64_t source_of(const kin_pad_attrs *attrs, const kin_desc *small, const kin_desc *padded,
                         int64_t index) {
    int64_t place = 0, step = 1;
    for (int a = small->rank - 1; a >= 0; a--) {
        int64_t i = index % padded->dims[a] - attrs->before[a], last = small->dims[a] - 1;
        index /= padded->dims[a];
        if (i < 0 || i > last) {
            if (!attrs->replicate) return -1;
            i = i < 0 ? 0 : last;
        }
        place += i * step;
        step *= small->dims[a];
    }
    return place;
}

static void reference(const kin_reference *call) {
    int64_t count = kin_desc_count(&call->out_desc[0]);
    for (int64_t i = 0; i < count; i++) {
        int64_t source = source_of(call->attrs, &call->in_desc[0], &call->out_desc[0], i);
        call->out[0][i] = source < 0 ? 0 : call->in[0][source];
    }
}

static void grad_reference(const kin_reference *call) {
    for (int64_t i = 0; i < kin_desc_count(&call->out_desc[0]); i++) call->out[0][i] = 0;
    for (int64_t i = 0; i < kin_desc_count(&call->in_desc[0]); i++) {
        int64_t source = source_of(call->attrs, &call->out_desc[0], &call->in_desc[0], i);
        if (source >= 0) call->out[0][source] += call->in[0][i];
    }
}

static void gradient(kin_gradient_call *call) {
    const kin_op *other = call->op == &kin_op_pad ? &kin_op_pad_grad : &kin_op_pad;
    call->in_grad[0] = kin_append1(call->graph, other, call->attrs, &call->out_grad[0], 1);
}

/* `count` copies of the slice of x at `at`. */
static kin_tensor repeated(kin_graph *g, kin_tensor x, int axis, int64_t at, int64_t count) {
    kin_tensor slice = kin_slice(g, x, axis, at, 1);
    kin_desc desc = *kin_tensor_desc(g, slice);
    desc.dims[axis] = count;
    return kin_expand(g, slice, desc.rank, desc.dims);
}

static void lower(kin_lower_call *call) {
    kin_graph *g = call->graph;
    const kin_pad_attrs *attrs = call->attrs;
    kin_tensor x = call->in[0];
    int rank = kin_rank(g, x);
    for (int a = 0; a < rank; a++) {
        int64_t before = attrs->before[a], after = attrs->after[a], size = kin_dim(g, x, a);
        if (before + after == 0) continue;
        if (!attrs->replicate) {
            x = kin_slice_grad(g, x, a, before, before + size + after);
            continue;
        }
        kin_tensor parts[3];
        int count = 0;
        if (before > 0) parts[count++] = repeated(g, x, a, 0, before);
        parts[count++] = x;
        if (after > 0) parts[count++] = repeated(g, x, a, size - 1, after);
        x = kin_concat(g, parts, count, a);
    }
    call->out[0] = x.id == call->in[0].id ? kin_copy(g, x) : x;
}

/* x + the sum of `count` slices of y from `from` on, at place `at` of one axis. */
static kin_tensor fold_in(kin_graph *g, kin_tensor x, kin_tensor y, int axis, int64_t from,
                          int64_t count, int64_t at) {
    kin_tensor sum = kin_sum(g, kin_slice(g, y, axis, from, count), 1u << axis, true);
    return kin_add(g, x, kin_slice_grad(g, sum, axis, at, kin_dim(g, x, axis)));
}

static void grad_lower(kin_lower_call *call) {
    kin_graph *g = call->graph;
    const kin_pad_attrs *attrs = call->attrs;
    kin_tensor y = call->in[0];
    int rank = kin_rank(g, y);
    for (int a = 0; a < rank; a++) {
        int64_t before = attrs->before[a], after = attrs->after[a];
        int64_t size = kin_dim(g, y, a) - before - after;
        if (before + after == 0) continue;
        kin_tensor x = kin_slice(g, y, a, before, size);
        if (attrs->replicate && before > 0) x = fold_in(g, x, y, a, 0, before, 0);
        if (attrs->replicate && after > 0) x = fold_in(g, x, y, a, before + size, after, size - 1);
        y = x;
    }
    call->out[0] = kin_copy(g, y);
}

static void cost(const kin_cost_call *call, kin_cost *cost) {
    const kin_pad_attrs *attrs = call->attrs;
    for (int a = 0; a < call->in[0].rank && attrs->replicate; a++)
        cost->reduction *= (double)(1 + attrs->before[a] + attrs->after[a]);
}

#define CASE(title, attributes, the_rank, ...)                                                     \
    {                                                                                              \
        .name = title, .attrs = &(attributes), .input_count = 1, .inputs = {                       \
            {.dtype = KIN_F32, .rank = the_rank, .dims = {__VA_ARGS__}}                            \
        }                                                                                          \
    }

static const kin_pad_attrs corner = {{0}, {0, 0, 1, 1}, 0};
static const kin_pad_attrs around = {{0, 0, 1, 2, 3}, {0, 0, 0, 1, 2}, 0};
static const kin_pad_attrs front = {{0, 0, 2}, {0}, 1};
static const kin_pad_attrs edges = {{1, 2}, {3, 1}, 1};
static const kin_pad_attrs nothing = {{0}, {0}, 0};
static const kin_pad_attrs line = {{3}, {5}, 0};

static const kin_case cases[] = {
    CASE("zeros at right and bottom", corner, 4, 2, 3, 5, 7),
    CASE("zeros around a video", around, 5, 1, 2, 3, 4, 5),
    CASE("first frame repeated", front, 5, 2, 3, 1, 3, 4),
    CASE("edges repeated", edges, 2, 3, 5),
    CASE("nothing", nothing, 3, 2, 3, 4),
    CASE("a line", line, 1, 9),
};

static const kin_case grad_cases[] = {
    CASE("zeros at right and bottom", corner, 4, 2, 3, 6, 8),
    CASE("zeros around a video", around, 5, 1, 2, 4, 7, 10),
    CASE("first frame repeated", front, 5, 2, 3, 3, 3, 4),
    CASE("edges repeated", edges, 2, 7, 8),
    CASE("one row repeated", edges, 2, 5, 4),
};

const kin_op kin_op_pad = {
    .name = "pad",
    .summary = "x with zeros, or its outermost elements, around it: PyTorch's pad, modes constant "
               "and replicate",
    .flags = KIN_OP_COMPOSITE,
    .attrs_size = sizeof(kin_pad_attrs),
    .outputs = 1,
    .infer = infer,
    .reference = reference,
    .gradient = gradient,
    .lower = lower,
    .cases = cases,
    .case_count = sizeof cases / sizeof *cases,
};

const kin_op kin_op_pad_grad = {
    .name = "pad_grad",
    .summary = "the transpose of pad",
    .flags = KIN_OP_COMPOSITE,
    .attrs_size = sizeof(kin_pad_attrs),
    .outputs = 1,
    .infer = infer,
    .reference = grad_reference,
    .gradient = gradient,
    .lower = grad_lower,
    .cost = cost,
    .cases = grad_cases,
    .case_count = sizeof grad_cases / sizeof *grad_cases,
};

static kin_tensor pad(kin_graph *graph, kin_tensor x, const int64_t *before, const int64_t *after,
                      bool replicate) {
    kin_pad_attrs attrs = {.replicate = replicate};
    for (int a = 0; a < kin_rank(graph, x); a++) {
        attrs.before[a] = before[a];
        attrs.after[a] = after[a];
    }
    return kin_append1(graph, &kin_op_pad, &attrs, &x, 1);
}

kin_tensor kin_pad(kin_graph *graph, kin_tensor x, const int64_t *before, const int64_t *after) {
    return pad(graph, x, before, after, false);
}

kin_tensor kin_pad_replicate(kin_graph *graph, kin_tensor x, const int64_t *before,
                             const int64_t *after) {
    return pad(graph, x, before, after, true);
}
