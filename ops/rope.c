/* rope: rotary position embedding over one axis or three. */
#include "ops/rope.h"

#include <math.h>

#include "ops/elementwise.h"
#include "ops/layout.h"
#include "ops/rope_turn.h"
#include "ops/views.h"
#include "runtime/op.h"

static kin_status infer(kin_infer *infer) {
    const kin_rope_attrs *attrs = infer->attrs;
    kin_status status = kin_infer_inputs(infer, 2, 2);
    if (status == KIN_OK) status = kin_infer_rank(infer, 0, 4, 5);
    if (status == KIN_OK) status = kin_infer_float(infer, 0);
    if (status == KIN_OK) status = kin_infer_dtype(infer, 1, KIN_F32);
    if (status != KIN_OK) return status;
    const kin_desc *x = infer->in[0], *positions = infer->in[1];
    const int64_t tokens = x->dims[x->rank - 3], size = x->dims[x->rank - 1];
    if (attrs->axes != 1 && attrs->axes != KIN_ROPE_AXES)
        return kin_infer_fail(infer, "axes must be 1 or 3");
    if (!(attrs->theta > 0)) return kin_infer_fail(infer, "theta must be positive");
    for (int a = 0; a < attrs->axes; a++)
        if (!(attrs->scales[a] != 0)) return kin_infer_fail(infer, "scales must not be 0");
    if (size % (2 * attrs->axes) != 0)
        return kin_infer_fail(infer, "the head size must be a multiple of %lld",
                              (long long)(2 * attrs->axes));
    if (positions->rank != (attrs->axes == 1 ? 1 : 2) ||
        positions->dims[positions->rank - 1] != tokens ||
        (attrs->axes > 1 && positions->dims[0] != attrs->axes))
        return kin_infer_fail(infer, "positions must be [%s%lld]", attrs->axes == 1 ? "" : "3, ",
                              (long long)tokens);
    kin_infer_like(infer, 0, 0, x->dtype);
    return KIN_OK;
}

static void reference(const kin_reference *call) {
    const kin_desc *desc = &call->in_desc[0];
    const int64_t *tail = desc->dims + desc->rank - 3;
    const int64_t tokens = tail[0], heads = tail[1], size = tail[2];
    const int64_t rows = kin_desc_count(desc) / size;
    for (int64_t row = 0; row < rows; row++) {
        const double *x = call->in[0] + row * size;
        double *y = call->out[0] + row * size;
        for (int64_t i = 0; i < size / 2; i++) {
            const rope_turn turn =
                rope_turn_of(call->attrs, call->in[1], tokens, row / heads % tokens, size, i);
            const double a = x[turn.at[0]], b = x[turn.at[1]];
            y[turn.at[0]] = a * turn.c - b * turn.s;
            y[turn.at[1]] = b * turn.c + a * turn.s;
        }
    }
}

/* The gradient turns back. */
static void gradient(kin_gradient_call *call) {
    kin_rope_attrs attrs = *(const kin_rope_attrs *)call->attrs;
    if (!call->wanted[0]) return;
    attrs.inverse = !attrs.inverse;
    call->in_grad[0] = kin_rope(call->graph, call->out_grad[0], call->in[1], &attrs);
}

/* theta^(-2i/P) / scale for each axis and i, cut in two: positions that are whole numbers below
 * 4096 times the first piece are exact in f32, and the second is small. */
static bool frequencies(kin_graph *graph, const kin_rope_attrs *attrs, int64_t part, int rank,
                        const int64_t *dims, kin_tensor out[2]) {
    kin_context *context = kin_graph_context(graph);
    const int64_t half = part / 2, count = attrs->axes * half;
    float *values = kin_alloc(context, (size_t)(2 * count) * sizeof *values);
    if (values == NULL) {
        kin_graph_fail(graph, KIN_OUT_OF_MEMORY, "%s", kin_context_error(context));
        return false;
    }
    for (int64_t j = 0; j < count; j++) {
        const double exact =
            pow(attrs->theta, -2.0 * (double)(j % half) / (double)part) / attrs->scales[j / half];
        int exponent;
        const double mantissa = frexp(exact, &exponent);
        values[j] = (float)ldexp(nearbyint(mantissa * 4096), exponent - 12);
        values[count + j] = (float)(exact - values[j]);
    }
    for (int k = 0; k < 2; k++)
        out[k] = kin_constant(graph, KIN_F32, rank, dims, values + k * count);
    kin_free(context, values);
    return true;
}

static kin_tensor rounded(kin_graph *graph, const kin_rope_attrs *attrs, kin_tensor x) {
    if (!attrs->bf16_table) return x;
    return kin_cast(graph, kin_cast(graph, x, KIN_BF16), KIN_F32);
}

/* Cosines and sines of the angles of positions times frequencies. */
static void table(kin_graph *g, const kin_rope_attrs *attrs, kin_tensor positions,
                  const kin_tensor frequency[2], kin_tensor *out_cos, kin_tensor *out_sin) {
    kin_tensor a = kin_mul(g, positions, frequency[0]), b = kin_mul(g, positions, frequency[1]);
    if (attrs->bf16_table) {
        kin_tensor angle = rounded(g, attrs, kin_add(g, a, b));
        *out_cos = rounded(g, attrs, kin_cos(g, angle));
        *out_sin = rounded(g, attrs, kin_sin(g, angle));
    } else {
        kin_tensor ca = kin_cos(g, a), sa = kin_sin(g, a), cb = kin_cos(g, b), sb = kin_sin(g, b);
        *out_cos = kin_sub(g, kin_mul(g, ca, cb), kin_mul(g, sa, sb));
        *out_sin = kin_add(g, kin_mul(g, sa, cb), kin_mul(g, ca, sb));
    }
    if (attrs->inverse) *out_sin = kin_neg(g, *out_sin);
}

/* x as [.., N, H, axes, 2, P/2] or [.., N, H, axes, P/2, 2]. */
static void lower(kin_lower_call *call) {
    kin_graph *g = call->graph;
    const kin_rope_attrs *attrs = call->attrs;
    const kin_desc desc = *kin_tensor_desc(g, call->in[0]);
    const int rank = desc.rank, pair = attrs->interleaved ? -1 : -2;
    const int64_t part = desc.dims[rank - 1] / attrs->axes, tokens = desc.dims[rank - 3];
    int64_t dims[KIN_MAX_RANK];
    for (int i = 0; i < rank - 1; i++) dims[i] = desc.dims[i];
    dims[rank - 1] = attrs->axes;
    dims[rank] = attrs->interleaved ? part / 2 : 2;
    dims[rank + 1] = attrs->interleaved ? 2 : part / 2;
    const int64_t of_positions[5] = {tokens, 1, attrs->axes, 1, 1};
    const int64_t of_table[3] = {attrs->axes, attrs->interleaved ? part / 2 : 1,
                                 attrs->interleaved ? 1 : part / 2};
    kin_tensor frequency[2], c, s;
    if (!frequencies(g, attrs, part, 3, of_table, frequency)) return;
    kin_tensor positions = call->in[1];
    if (attrs->axes > 1) positions = kin_transpose(g, positions, 0, 1);
    table(g, attrs, kin_reshape(g, positions, 5, of_positions), frequency, &c, &s);
    kin_tensor x = kin_reshape(g, kin_cast(g, call->in[0], KIN_F32), rank + 2, dims);
    kin_tensor a = kin_slice(g, x, pair, 0, 1), b = kin_slice(g, x, pair, 1, 1);
    const kin_tensor y[2] = {kin_sub(g, kin_mul(g, a, c), kin_mul(g, b, s)),
                             kin_add(g, kin_mul(g, b, c), kin_mul(g, a, s))};
    kin_tensor joined = kin_reshape(g, kin_concat(g, y, 2, pair), rank, desc.dims);
    call->out[0] = kin_cast(g, joined, desc.dtype);
}

static void cost(const kin_cost_call *call, kin_cost *cost) {
    cost->flops = 3.0 * (double)kin_desc_count(&call->in[0]);
    cost->reduction = 2;
}

static const kin_rope_attrs halves = {.theta = 10000, .scales = {1, 1, 1}, .axes = 1};
static const kin_rope_attrs pairs = {
    .theta = 10000, .scales = {1, 1, 1}, .axes = 1, .interleaved = 1};
static const kin_rope_attrs pairs_back = {
    .theta = 500, .scales = {2, 1, 1}, .axes = 1, .interleaved = 1, .inverse = 1};
static const kin_rope_attrs video = {.theta = 10000, .scales = {1, 1.5, 2}, .axes = 3};
static const kin_rope_attrs video_pairs = {
    .theta = 10000, .scales = {2, 0.5, 1.25}, .axes = 3, .interleaved = 1};
static const kin_rope_attrs video_bf16 = {
    .theta = 10000, .scales = {1, 1.5, 2}, .axes = 3, .inverse = 1, .bf16_table = 1};

/* clang-format off */
#define X_OF(...) {.dtype = KIN_F32, .rank = 5, .dims = {__VA_ARGS__}}
#define VIEW_OF(kind, ...) {.dtype = KIN_F32, .rank = 5, .dims = {__VA_ARGS__}, .layout = (kind)}
#define POSITIONS(rank_, fill_, ...) \
    {.dtype = KIN_F32, .rank = (rank_), .dims = {__VA_ARGS__}, .fill = (fill_), .limit = 80, .scale = 3, \
     .fixed = true, .constant = true}

static const kin_case cases[] = {
    {"one pair", &halves, 2, {X_OF(1, 1, 3, 1, 2), POSITIONS(1, KIN_FILL_COUNT, 3)}, false},
    {"halves", &halves, 2, {X_OF(2, 1, 5, 3, 10), POSITIONS(1, KIN_FILL_COUNT, 5)}, false},
    {"no axis B1", &halves, 2,
     {{.dtype = KIN_F32, .rank = 4, .dims = {2, 5, 3, 8}}, POSITIONS(1, KIN_FILL_COUNT, 5)}, false},
    {"pairs", &pairs, 2, {X_OF(2, 1, 5, 3, 10), POSITIONS(1, KIN_FILL_COUNT, 5)}, false},
    {"pairs, back, fractions", &pairs_back, 2,
     {X_OF(1, 2, 4, 2, 36), POSITIONS(1, KIN_FILL_POSITIVE, 4)}, false},
    {"head of 72", &pairs, 2, {X_OF(1, 1, 33, 2, 72), POSITIONS(1, KIN_FILL_COUNT, 33)}, false},
    {"three axes", &video, 2, {X_OF(2, 1, 7, 2, 24), POSITIONS(2, KIN_FILL_INDEX, 3, 7)}, false},
    {"three axes, head of 96", &video, 2,
     {X_OF(1, 1, 9, 2, 96), POSITIONS(2, KIN_FILL_INDEX, 3, 9)}, false},
    {"three axes, pairs", &video_pairs, 2,
     {X_OF(2, 1, 7, 2, 42), POSITIONS(2, KIN_FILL_INDEX, 3, 7)}, false},
    {"three axes, table in bf16", &video_bf16, 2,
     {X_OF(2, 1, 7, 2, 24), POSITIONS(2, KIN_FILL_INDEX, 3, 7)}, false},
    {"transposed", &halves, 2,
     {VIEW_OF(KIN_LAYOUT_TRANSPOSED, 2, 3, 5, 2, 8), POSITIONS(1, KIN_FILL_COUNT, 5)}, false},
    {"a slice", &pairs, 2,
     {VIEW_OF(KIN_LAYOUT_PADDED, 2, 3, 5, 2, 8), POSITIONS(1, KIN_FILL_COUNT, 5)}, false},
    {"bench: 3d, 9600 tokens", &video, 2,
     {X_OF(1, 1, 9600, 24, 96), POSITIONS(2, KIN_FILL_INDEX, 3, 9600)}, true},
};
/* clang-format on */

kin_rope_attrs kin_rope_defaults(void) {
    return halves;
}

kin_tensor kin_rope(kin_graph *graph, kin_tensor x, kin_tensor positions,
                    const kin_rope_attrs *attrs) {
    const kin_tensor inputs[2] = {x, kin_cast(graph, positions, KIN_F32)};
    return kin_append1(graph, &kin_op_rope, attrs, inputs, 2);
}

const kin_op kin_op_rope = {
    .name = "rope",
    .summary = "pairs of each head turned by position / scale * theta^(-2i/P), over 1 or 3 axes "
               "(Su et al. 2021, arXiv:2104.09864)",
    .flags = KIN_OP_COMPOSITE,
    .attrs_size = sizeof(kin_rope_attrs),
    .outputs = 1,
    .infer = infer,
    .reference = reference,
    .gradient = gradient,
    .lower = lower,
    .cost = cost,
    .cases = cases,
    .case_count = sizeof cases / sizeof *cases,
};
