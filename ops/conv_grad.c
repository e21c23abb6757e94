/* The gradients of conv to its input and to its weights. Each is linear in both operands, and their
 * own gradients are again convolutions. */
#include "ops/conv.h"
#include "ops/conv_shape.h"
#include "ops/layout.h"
#include "ops/matmul.h"
#include "ops/reduce.h"
#include "ops/views.h"

static kin_status infer_operands(kin_infer *infer) {
    kin_status status = kin_infer_inputs(infer, 2, 2);
    for (int i = 0; i < 2 && status == KIN_OK; i++) {
        status = kin_infer_rank(infer, i, 4, 5);
        if (status == KIN_OK) status = kin_infer_float(infer, i);
    }
    if (status == KIN_OK && infer->in[0]->rank != infer->in[1]->rank)
        return kin_infer_fail(infer, "the operands must have the same rank");
    if (status == KIN_OK && infer->in[0]->rank == 4 &&
        ((const kin_conv_size_attrs *)infer->attrs)->size[0] != 1)
        return kin_infer_fail(infer, "an image has no time axis");
    return status;
}

/* Fails unless conv of `in` and `kernel` gives dy. */
static kin_status check_dy(kin_infer *infer, const int64_t in[3], const int64_t kernel[3],
                           const kin_desc *dy) {
    const kin_conv_size_attrs *attrs = infer->attrs;
    int64_t want[3], have[3];
    for (int a = 0; a < 3; a++)
        if (in[a] < 1 || kernel[a] < 1) return kin_infer_fail(infer, "sizes must be at least 1");
    kin_status status = conv_out_size(infer, &attrs->conv, dy->rank, in, kernel, want);
    if (status != KIN_OK) return status;
    conv_axes(dy, have);
    for (int a = 0; a < 3; a++)
        if (want[a] != have[a])
            return kin_infer_fail(infer, "dy must be %lld x %lld x %lld (time, rows, columns)",
                                  (long long)want[0], (long long)want[1], (long long)want[2]);
    return KIN_OK;
}

/* ---- conv_grad_input ----------------------------------------------------------------------- */

static kin_status input_infer(kin_infer *infer) {
    const kin_conv_size_attrs *attrs = infer->attrs;
    int64_t kernel[3];
    kin_status status = infer_operands(infer);
    if (status != KIN_OK) return status;
    const kin_desc *dy = infer->in[0], *w = infer->in[1];
    conv_axes(w, kernel);
    if (dy->dims[1] != w->dims[0])
        return kin_infer_fail(infer, "dy has %lld channels, w gives %lld", (long long)dy->dims[1],
                              (long long)w->dims[0]);
    status = check_dy(infer, attrs->size, kernel, dy);
    if (status != KIN_OK) return status;
    infer->out[0] = conv_desc(dy->dtype, dy->rank, dy->dims[0], w->dims[1], attrs->size);
    return KIN_OK;
}

static void input_reference(const kin_reference *call) {
    const kin_conv_size_attrs *attrs = call->attrs;
    const double *dy = call->in[0], *w = call->in[1];
    int64_t batch = call->in_desc[0].dims[0], cout = call->in_desc[1].dims[0];
    int64_t cin = call->in_desc[1].dims[1], kernel[3], size[3], at[3], tap[3];
    conv_axes(&call->in_desc[1], kernel);
    conv_axes(&call->in_desc[0], size);
    int64_t plane = conv_count(attrs->size), taps = conv_count(kernel),
            positions = conv_count(size);
    double *dx = call->out[0];
    for (int64_t i = 0; i < batch * cin * plane; i++) dx[i] = 0;
    for (int64_t n = 0; n < batch; n++)
        for (int64_t p = 0; p < positions; p++)
            for (int64_t k = 0; k < taps; k++) {
                conv_split(p, size, at);
                conv_split(k, kernel, tap);
                int64_t source = conv_source(&attrs->conv, attrs->size, at, tap);
                for (int64_t c = 0; c < cin && source >= 0; c++)
                    for (int64_t o = 0; o < cout; o++)
                        dx[(n * cin + c) * plane + source] +=
                            dy[(n * cout + o) * positions + p] * w[(o * cin + c) * taps + k];
            }
}

static void input_gradient(kin_gradient_call *call) {
    kin_graph *g = call->graph;
    const kin_conv_size_attrs *attrs = call->attrs;
    kin_tensor dy = call->in[0], w = call->in[1], up = call->out_grad[0];
    int64_t kernel[3];
    if (call->wanted[0])
        call->in_grad[0] =
            kin_cast(g, kin_conv(g, up, w, KIN_NONE, &attrs->conv), kin_dtype_of(g, dy));
    if (call->wanted[1]) {
        conv_axes(kin_tensor_desc(g, w), kernel);
        kin_tensor dw = kin_conv_grad_weight(g, up, dy, &attrs->conv, kernel);
        call->in_grad[1] = kin_cast(g, dw, kin_dtype_of(g, w));
    }
}

/* Transposed w [1, K, Cout] times dy [B, Cout, positions] gives the gradients of the patches. */
static void input_lower(kin_lower_call *call) {
    kin_graph *g = call->graph;
    const kin_conv_size_attrs *attrs = call->attrs;
    kin_tensor dy = call->in[0], w = call->in[1];
    int64_t kernel[3], size[3];
    conv_axes(kin_tensor_desc(g, w), kernel);
    conv_axes(kin_tensor_desc(g, dy), size);
    int64_t cout = kin_dim(g, w, 0), inner = kin_dim(g, w, 1) * conv_count(kernel);
    kin_tensor rows = kin_reshape(g, w, 3, (int64_t[]){1, cout, inner});
    rows = kin_cast(g, kin_transpose(g, rows, 1, 2), kin_dtype_of(g, dy));
    int64_t dims[3] = {kin_dim(g, dy, 0), cout, conv_count(size)};
    kin_tensor patches = kin_matmul(g, rows, kin_reshape(g, dy, 3, dims));
    call->out[0] =
        kin_conv_patches_grad(g, patches, &attrs->conv, kernel, attrs->size, kin_rank(g, dy));
}

static void input_cost(const kin_cost_call *call, kin_cost *cost) {
    int64_t kernel[3];
    conv_axes(&call->in[1], kernel);
    double taps = (double)conv_count(kernel);
    cost->reduction = (double)call->in[1].dims[0] * taps;
    cost->flops = 2 * (double)kin_desc_count(&call->in[0]) * (double)call->in[1].dims[1] * taps;
}

/* ---- conv_grad_weight ---------------------------------------------------------------------- */

static kin_status weight_infer(kin_infer *infer) {
    const kin_conv_size_attrs *attrs = infer->attrs;
    int64_t in[3];
    kin_status status = infer_operands(infer);
    if (status != KIN_OK) return status;
    const kin_desc *x = infer->in[0], *dy = infer->in[1];
    if (x->dims[0] != dy->dims[0]) return kin_infer_fail(infer, "x and dy differ in batch");
    conv_axes(x, in);
    status = check_dy(infer, in, attrs->size, dy);
    if (status != KIN_OK) return status;
    infer->out[0] = conv_desc(x->dtype, x->rank, dy->dims[1], x->dims[1], attrs->size);
    return KIN_OK;
}

static void weight_reference(const kin_reference *call) {
    const kin_conv_size_attrs *attrs = call->attrs;
    const double *x = call->in[0], *dy = call->in[1];
    int64_t batch = call->in_desc[0].dims[0], cin = call->in_desc[0].dims[1];
    int64_t cout = call->in_desc[1].dims[1], in[3], size[3], at[3], tap[3];
    conv_axes(&call->in_desc[0], in);
    conv_axes(&call->in_desc[1], size);
    int64_t plane = conv_count(in), taps = conv_count(attrs->size), positions = conv_count(size);
    double *dw = call->out[0];
    for (int64_t i = 0; i < cout * cin * taps; i++) dw[i] = 0;
    for (int64_t n = 0; n < batch; n++)
        for (int64_t p = 0; p < positions; p++)
            for (int64_t k = 0; k < taps; k++) {
                conv_split(p, size, at);
                conv_split(k, attrs->size, tap);
                int64_t source = conv_source(&attrs->conv, in, at, tap);
                for (int64_t c = 0; c < cin && source >= 0; c++)
                    for (int64_t o = 0; o < cout; o++)
                        dw[(o * cin + c) * taps + k] +=
                            dy[(n * cout + o) * positions + p] * x[(n * cin + c) * plane + source];
            }
}

static void weight_gradient(kin_gradient_call *call) {
    kin_graph *g = call->graph;
    const kin_conv_size_attrs *attrs = call->attrs;
    kin_tensor x = call->in[0], dy = call->in[1], up = call->out_grad[0];
    int64_t in[3];
    if (call->wanted[0]) {
        conv_axes(kin_tensor_desc(g, x), in);
        kin_tensor dx = kin_conv_grad_input(g, dy, up, &attrs->conv, in);
        call->in_grad[0] = kin_cast(g, dx, kin_dtype_of(g, x));
    }
    if (call->wanted[1]) {
        kin_tensor y = kin_conv(g, x, up, KIN_NONE, &attrs->conv);
        call->in_grad[1] = kin_cast(g, y, kin_dtype_of(g, dy));
    }
}

/* dy [B, Cout, positions] times the transposed patches, summed over the batch. */
static void weight_lower(kin_lower_call *call) {
    kin_graph *g = call->graph;
    const kin_conv_size_attrs *attrs = call->attrs;
    kin_tensor x = call->in[0], dy = call->in[1];
    int64_t size[3], cout = kin_dim(g, dy, 1), cin = kin_dim(g, x, 1);
    int rank = kin_rank(g, x);
    conv_axes(kin_tensor_desc(g, dy), size);
    kin_tensor patches = kin_conv_patches(g, x, &attrs->conv, attrs->size);
    kin_tensor rows = kin_reshape(g, dy, 3, (int64_t[]){kin_dim(g, dy, 0), cout, conv_count(size)});
    rows = kin_cast(g, rows, kin_dtype_of(g, x));
    kin_tensor each = kin_matmul(g, rows, kin_transpose(g, patches, 1, 2));
    kin_desc out = conv_desc(KIN_F32, rank, cout, cin, attrs->size);
    call->out[0] = kin_reshape(g, kin_sum(g, each, 1u, false), rank, out.dims);
}

static void weight_cost(const kin_cost_call *call, kin_cost *cost) {
    int64_t kernel[3], size[3];
    conv_axes(&call->out[0], kernel);
    conv_axes(&call->in[1], size);
    cost->reduction = (double)(call->in[1].dims[0] * conv_count(size));
    cost->flops = 2 * cost->reduction * (double)kin_desc_count(&call->out[0]);
}

/* ---- cases --------------------------------------------------------------------------------- */

#define X4 KIN_CONV_INPUT4
#define X5 KIN_CONV_INPUT5
#define CASE(title, attributes, ...)                                                               \
    {                                                                                              \
        .name = title, .attrs = &(attributes), .input_count = 2, .inputs = { __VA_ARGS__ }         \
    }
#define BENCH(title, attributes, ...)                                                              \
    {                                                                                              \
        .name = title, .attrs = &(attributes), .input_count = 2, .inputs = {__VA_ARGS__},          \
        .bench = true                                                                              \
    }
#define SAME3                                                                                      \
    { {1, 1, 1}, {0, 1, 1}, {0, 1, 1}, 0 }
#define CORNER                                                                                     \
    { {1, 2, 2}, {0, 0, 0}, {0, 1, 1}, 0 }
#define WIDE                                                                                       \
    { {1, 1, 1}, {0, 3, 3}, {0, 3, 2}, 0 }
#define UNEVEN                                                                                     \
    { {1, 3, 2}, {0, 2, 0}, {0, 0, 3}, 0 }
#define SPARSE                                                                                     \
    { {1, 3, 3}, {0, 0, 0}, {0, 0, 0}, 0 }
#define VIDEO                                                                                      \
    { {1, 1, 1}, {1, 1, 1}, {1, 1, 1}, 0 }
#define CAUSAL                                                                                     \
    { {1, 1, 1}, {2, 1, 1}, {0, 1, 1}, 1 }
#define CAUSAL_HALF                                                                                \
    { {2, 2, 2}, {2, 0, 0}, {0, 1, 1}, 1 }
typedef kin_conv_size_attrs attrs_of;

/* clang-format off */
static const attrs_of in_pixel = {SAME3, {1, 1, 1}}, in_odd = {SAME3, {1, 7, 13}};
static const attrs_of in_wide = {WIDE, {1, 2, 3}}, in_corner = {CORNER, {1, 9, 12}};
static const attrs_of in_uneven = {UNEVEN, {1, 11, 10}}, in_sparse = {SPARSE, {1, 7, 8}};
static const attrs_of in_8 = {SAME3, {1, 8, 8}}, in_video = {VIDEO, {4, 6, 17}};
static const attrs_of in_causal = {CAUSAL, {3, 5, 6}}, in_first = {CAUSAL, {1, 6, 5}};
static const attrs_of in_half = {CAUSAL_HALF, {5, 7, 8}}, in_32 = {SAME3, {1, 32, 32}};
static const attrs_of k3 = {SAME3, {1, 3, 3}}, k_wide = {WIDE, {1, 7, 8}};
static const attrs_of k_corner = {CORNER, {1, 3, 3}}, k_uneven = {UNEVEN, {1, 4, 2}};
static const attrs_of k_sparse = {SPARSE, {1, 2, 2}}, k_video = {VIDEO, {3, 3, 3}};
static const attrs_of k_causal = {CAUSAL, {3, 3, 3}}, k_half = {CAUSAL_HALF, {3, 3, 3}};
/* clang-format on */

static const kin_case input_cases[] = {
    CASE("one pixel", in_pixel, X4(1, 1, 1, 1), X4(1, 1, 3, 3)),
    CASE("odd sizes", in_odd, X4(2, 5, 7, 13), X4(5, 3, 3, 3)),
    CASE("kernel larger than the image", in_wide, X4(1, 3, 2, 1), X4(3, 2, 7, 8)),
    CASE("stride 2, padded at right and bottom", in_corner, X4(2, 12, 4, 6), X4(12, 8, 3, 3)),
    CASE("uneven strides and padding", in_uneven, X4(1, 6, 4, 6), X4(6, 4, 4, 2)),
    CASE("pixels that no tap sees", in_sparse, X4(2, 5, 2, 3), X4(5, 4, 2, 2)),
    CASE("images of 8x8", in_8, X4(5, 35, 8, 8), X4(35, 16, 3, 3)),
    CASE("video", in_video, X5(1, 9, 4, 6, 17), X5(9, 3, 3, 3, 3)),
    CASE("causal", in_causal, X5(2, 7, 3, 5, 6), X5(7, 5, 3, 3, 3)),
    CASE("causal, one frame", in_first, X5(1, 4, 1, 6, 5), X5(4, 4, 3, 3, 3)),
    CASE("causal, stride 2", in_half, X5(1, 6, 3, 3, 4), X5(6, 4, 3, 3, 3)),
    BENCH("64 channels of 32x32, batch 16", in_32, X4(16, 64, 32, 32), X4(64, 64, 3, 3)),
    BENCH("128 channels of 8x8, batch 64", in_8, X4(64, 128, 8, 8), X4(128, 128, 3, 3)),
};

static const kin_case weight_cases[] = {
    CASE("one pixel", k3, X4(1, 1, 1, 1), X4(1, 1, 1, 1)),
    CASE("odd sizes", k3, X4(2, 3, 7, 13), X4(2, 5, 7, 13)),
    CASE("kernel larger than the image", k_wide, X4(1, 2, 2, 3), X4(1, 3, 2, 1)),
    CASE("stride 2, padded at right and bottom", k_corner, X4(2, 8, 9, 12), X4(2, 12, 4, 6)),
    CASE("uneven strides and padding", k_uneven, X4(1, 4, 11, 10), X4(1, 6, 4, 6)),
    CASE("pixels that no tap sees", k_sparse, X4(2, 4, 7, 8), X4(2, 5, 2, 3)),
    CASE("images of 8x8", k3, X4(5, 16, 8, 8), X4(5, 35, 8, 8)),
    CASE("video", k_video, X5(1, 3, 4, 6, 17), X5(1, 9, 4, 6, 17)),
    CASE("causal", k_causal, X5(2, 5, 3, 5, 6), X5(2, 7, 3, 5, 6)),
    CASE("causal, stride 2", k_half, X5(1, 4, 5, 7, 8), X5(1, 6, 3, 3, 4)),
    BENCH("64 channels of 32x32, batch 16", k3, X4(16, 64, 32, 32), X4(16, 64, 32, 32)),
    BENCH("128 channels of 8x8, batch 64", k3, X4(64, 128, 8, 8), X4(64, 128, 8, 8)),
};

const kin_op kin_op_conv_grad_input = {
    .name = "conv_grad_input",
    .summary = "dx[c, q] = sum over o and all p, k with p * stride + k - before = q of "
               "w[o, c, k] dy[o, p]; also PyTorch's conv_transpose2d",
    .flags = KIN_OP_COMPOSITE | KIN_OP_PRODUCT,
    .attrs_size = sizeof(kin_conv_size_attrs),
    .outputs = 1,
    .infer = input_infer,
    .reference = input_reference,
    .gradient = input_gradient,
    .lower = input_lower,
    .cost = input_cost,
    .cases = input_cases,
    .case_count = sizeof input_cases / sizeof *input_cases,
};

const kin_op kin_op_conv_grad_weight = {
    .name = "conv_grad_weight",
    .summary = "dw[o, c, k] = sum over samples and p of dy[o, p] x[c, p * stride + k - before]",
    .flags = KIN_OP_COMPOSITE | KIN_OP_PRODUCT,
    .attrs_size = sizeof(kin_conv_size_attrs),
    .outputs = 1,
    .infer = weight_infer,
    .reference = weight_reference,
    .gradient = weight_gradient,
    .lower = weight_lower,
    .cost = weight_cost,
    .cases = weight_cases,
    .case_count = sizeof weight_cases / sizeof *weight_cases,
};

kin_tensor kin_conv_grad_input(kin_graph *graph, kin_tensor dy, kin_tensor w,
                               const kin_conv_attrs *attrs, const int64_t size[3]) {
    kin_conv_size_attrs all = {.conv = *attrs, .size = {size[0], size[1], size[2]}};
    kin_tensor inputs[2] = {dy, w};
    return kin_append1(graph, &kin_op_conv_grad_input, &all, inputs, 2);
}

kin_tensor kin_conv_grad_weight(kin_graph *graph, kin_tensor x, kin_tensor dy,
                                const kin_conv_attrs *attrs, const int64_t size[3]) {
    kin_conv_size_attrs all = {.conv = *attrs, .size = {size[0], size[1], size[2]}};
    kin_tensor inputs[2] = {x, dy};
    return kin_append1(graph, &kin_op_conv_grad_weight, &all, inputs, 2);
}
