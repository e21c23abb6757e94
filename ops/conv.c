/* conv: cross-correlation of images and videos, and the builders of all convolutions. */
#include "ops/conv.h"

#include "ops/conv_shape.h"
#include "ops/elementwise.h"
#include "ops/layout.h"
#include "ops/matmul.h"
#include "ops/reduce.h"
#include "ops/views.h"

static kin_status infer(kin_infer *infer) {
    const kin_conv_attrs *attrs = infer->attrs;
    int64_t in[3], kernel[3], out[3];
    kin_status status = kin_infer_inputs(infer, 2, 3);
    for (int i = 0; i < 2 && status == KIN_OK; i++) status = kin_infer_rank(infer, i, 4, 5);
    for (int i = 0; i < infer->in_count && status == KIN_OK; i++)
        if (infer->in[i] != NULL) status = kin_infer_float(infer, i);
    if (status != KIN_OK) return status;
    const kin_desc *x = infer->in[0], *w = infer->in[1];
    if (x->rank != w->rank) return kin_infer_fail(infer, "x and w must have the same rank");
    if (x->dims[1] != w->dims[1])
        return kin_infer_fail(infer, "x has %lld channels, w expects %lld", (long long)x->dims[1],
                              (long long)w->dims[1]);
    if (infer->in_count == 3 && infer->in[2] != NULL &&
        (infer->in[2]->rank != 1 || infer->in[2]->dims[0] != w->dims[0]))
        return kin_infer_fail(infer, "the bias must be [%lld]", (long long)w->dims[0]);
    conv_axes(x, in);
    conv_axes(w, kernel);
    status = conv_out_size(infer, attrs, x->rank, in, kernel, out);
    if (status != KIN_OK) return status;
    infer->out[0] = conv_desc(x->dtype, x->rank, x->dims[0], w->dims[0], out);
    return KIN_OK;
}

static void reference(const kin_reference *call) {
    const kin_conv_attrs *attrs = call->attrs;
    const double *x = call->in[0], *w = call->in[1];
    const double *bias = call->in_count == 3 ? call->in[2] : NULL;
    int64_t batch = call->in_desc[0].dims[0], cin = call->in_desc[0].dims[1];
    int64_t cout = call->in_desc[1].dims[0], in[3], kernel[3], size[3], at[3], tap[3];
    conv_axes(&call->in_desc[0], in);
    conv_axes(&call->in_desc[1], kernel);
    conv_axes(&call->out_desc[0], size);
    int64_t plane = conv_count(in), taps = conv_count(kernel), positions = conv_count(size);
    for (int64_t n = 0; n < batch; n++)
        for (int64_t o = 0; o < cout; o++)
            for (int64_t p = 0; p < positions; p++) {
                double sum = bias != NULL ? bias[o] : 0;
                conv_split(p, size, at);
                for (int64_t k = 0; k < taps; k++) {
                    conv_split(k, kernel, tap);
                    int64_t source = conv_source(attrs, in, at, tap);
                    for (int64_t c = 0; c < cin && source >= 0; c++)
                        sum += x[(n * cin + c) * plane + source] * w[(o * cin + c) * taps + k];
                }
                call->out[0][(n * cout + o) * positions + p] = sum;
            }
}

static void gradient(kin_gradient_call *call) {
    kin_graph *g = call->graph;
    kin_tensor x = call->in[0], w = call->in[1], dy = call->out_grad[0];
    int64_t size[3];
    if (call->wanted[0]) {
        conv_axes(kin_tensor_desc(g, x), size);
        call->in_grad[0] = kin_conv_grad_input(g, dy, w, call->attrs, size);
    }
    if (call->wanted[1]) {
        conv_axes(kin_tensor_desc(g, w), size);
        kin_tensor dw = kin_conv_grad_weight(g, x, dy, call->attrs, size);
        call->in_grad[1] = kin_cast(g, dw, kin_dtype_of(g, w));
    }
    if (call->in_count == 3 && call->wanted[2]) {
        uint32_t axes = ((1u << kin_rank(g, dy)) - 1u) & ~2u;
        kin_tensor sum = kin_sum(g, dy, axes, false);
        call->in_grad[2] = kin_cast(g, sum, kin_dtype_of(g, call->in[2]));
    }
}

/* A tensor of rank 3, [B, C, positions], seen as [B, C, size]. */
static kin_tensor with_axes(kin_graph *g, kin_tensor x, int rank, const int64_t size[3]) {
    kin_desc d = conv_desc(KIN_F32, rank, kin_dim(g, x, 0), kin_dim(g, x, 1), size);
    return kin_reshape(g, x, rank, d.dims);
}

/* y + bias [C] along axis 1. */
static kin_tensor add_bias(kin_graph *g, kin_tensor y, kin_tensor bias) {
    if (bias.id == 0) return y;
    int64_t dims[5] = {1, kin_dim(g, bias, 0), 1, 1, 1};
    kin_tensor b = kin_reshape(g, bias, kin_rank(g, y), dims);
    return kin_add(g, y, kin_cast(g, b, kin_dtype_of(g, y)));
}

/* w [1, Cout, K] times the patches [B, K, positions]. */
static void lower(kin_lower_call *call) {
    kin_graph *g = call->graph;
    kin_tensor x = call->in[0], w = call->in[1];
    int64_t in[3], kernel[3], size[3];
    int rank = kin_rank(g, x);
    conv_axes(kin_tensor_desc(g, x), in);
    conv_axes(kin_tensor_desc(g, w), kernel);
    conv_size(call->attrs, in, kernel, size);
    int64_t dims[3] = {1, kin_dim(g, w, 0), kin_dim(g, w, 1) * conv_count(kernel)};
    kin_tensor rows = kin_cast(g, kin_reshape(g, w, 3, dims), kin_dtype_of(g, x));
    kin_tensor y = kin_matmul(g, rows, kin_conv_patches(g, x, call->attrs, kernel));
    y = with_axes(g, y, rank, size);
    call->out[0] = add_bias(g, y, call->in_count == 3 ? call->in[2] : KIN_NONE);
}

static void cost(const kin_cost_call *call, kin_cost *cost) {
    int64_t kernel[3];
    conv_axes(&call->in[1], kernel);
    cost->reduction = (double)(call->in[1].dims[1] * conv_count(kernel));
    cost->flops = 2 * cost->reduction * (double)kin_desc_count(&call->out[0]);
}

/* ---- builders ------------------------------------------------------------------------------ */

kin_tensor kin_conv(kin_graph *graph, kin_tensor x, kin_tensor w, kin_tensor bias,
                    const kin_conv_attrs *attrs) {
    kin_tensor inputs[3] = {x, w, bias};
    return kin_append1(graph, &kin_op_conv, attrs, inputs, bias.id != 0 ? 3 : 2);
}

kin_tensor kin_conv2d(kin_graph *graph, kin_tensor x, kin_tensor w, kin_tensor bias, int64_t stride,
                      int64_t pad) {
    kin_conv_attrs attrs = {{1, stride, stride}, {0, pad, pad}, {0, pad, pad}, 0};
    return kin_conv(graph, x, w, bias, &attrs);
}

kin_tensor kin_conv3d(kin_graph *graph, kin_tensor x, kin_tensor w, kin_tensor bias,
                      const int64_t stride[3], const int64_t pad[3]) {
    kin_conv_attrs attrs = {
        {stride[0], stride[1], stride[2]}, {pad[0], pad[1], pad[2]}, {pad[0], pad[1], pad[2]}, 0};
    return kin_conv(graph, x, w, bias, &attrs);
}

kin_tensor kin_conv3d_causal(kin_graph *graph, kin_tensor x, kin_tensor w, kin_tensor bias,
                             const int64_t stride[3], int64_t pad) {
    int64_t front = kin_rank(graph, w) == 5 ? kin_dim(graph, w, 2) - 1 : 0;
    kin_conv_attrs attrs = {{stride[0], stride[1], stride[2]}, {front, pad, pad}, {0, pad, pad}, 1};
    return kin_conv(graph, x, w, bias, &attrs);
}

kin_tensor kin_conv_transpose2d(kin_graph *graph, kin_tensor x, kin_tensor w, kin_tensor bias,
                                int64_t stride, int64_t pad, int64_t output_pad) {
    int64_t size[3] = {1, 1, 1};
    kin_conv_attrs attrs = {{1, stride, stride}, {0, pad, pad}, {0, pad, pad}, 0};
    if (kin_rank(graph, x) != 4 || kin_rank(graph, w) != 4)
        return kin_graph_fail(graph, KIN_INVALID, "conv_transpose2d: x and w must be of rank 4");
    for (int a = 1; a < 3; a++)
        size[a] = (kin_dim(graph, x, a + 1) - 1) * stride - 2 * pad + kin_dim(graph, w, a + 1) +
                  output_pad;
    kin_tensor y = kin_conv_grad_input(graph, x, w, &attrs, size);
    return add_bias(graph, y, bias);
}

/* A convolution of one channel, [B * C, 1, T, Y * X], with equal weights. */
kin_tensor kin_avg_pool_time(kin_graph *graph, kin_tensor x, int64_t kernel, int64_t stride) {
    enum { MOST = 64 };
    float weights[MOST];
    if (kin_rank(graph, x) != 5 || kernel < 1 || kernel > MOST || stride < 1)
        return kin_graph_fail(graph, KIN_INVALID,
                              "avg_pool_time: x must be of rank 5, the kernel 1 to %d, the stride "
                              "at least 1",
                              MOST);
    int64_t dims[5];
    for (int a = 0; a < 5; a++) dims[a] = kin_dim(graph, x, a);
    for (int64_t i = 0; i < kernel; i++) weights[i] = 1.0f / (float)kernel;
    kin_tensor w = kin_constant(graph, KIN_F32, 4, (int64_t[]){1, 1, kernel, 1}, weights);
    kin_tensor flat =
        kin_reshape(graph, x, 4, (int64_t[]){dims[0] * dims[1], 1, dims[2], dims[3] * dims[4]});
    kin_conv_attrs attrs = {{1, stride, 1}, {0, 0, 0}, {0, 0, 0}, 0};
    kin_tensor y = kin_conv(graph, flat, w, KIN_NONE, &attrs);
    dims[2] = kin_dim(graph, y, 2);
    return kin_reshape(graph, y, 5, dims);
}

/* ---- cases --------------------------------------------------------------------------------- */

#define X4 KIN_CONV_INPUT4
#define X5 KIN_CONV_INPUT5
#define BIAS(c)                                                                                    \
    {                                                                                              \
        .dtype = KIN_F32, .rank = 1, .dims = { c }                                                 \
    }
#define CASE(title, attributes, ...)                                                               \
    {                                                                                              \
        .name = title, .attrs = &(attributes), .input_count = 3, .inputs = { __VA_ARGS__ }         \
    }

static const kin_conv_attrs same3 = {{1, 1, 1}, {0, 1, 1}, {0, 1, 1}, 0};
static const kin_conv_attrs point = {{1, 1, 1}, {0, 0, 0}, {0, 0, 0}, 0};
static const kin_conv_attrs corner = {{1, 2, 2}, {0, 0, 0}, {0, 1, 1}, 0};
static const kin_conv_attrs wide = {{1, 1, 1}, {0, 3, 3}, {0, 3, 2}, 0};
static const kin_conv_attrs uneven = {{1, 3, 2}, {0, 2, 0}, {0, 0, 3}, 0};
static const kin_conv_attrs patch2 = {{1, 2, 2}, {0, 0, 0}, {0, 0, 0}, 0};
static const kin_conv_attrs same333 = {{1, 1, 1}, {1, 1, 1}, {1, 1, 1}, 0};
static const kin_conv_attrs causal = {{1, 1, 1}, {2, 1, 1}, {0, 1, 1}, 1};
static const kin_conv_attrs causal_half = {{2, 2, 2}, {2, 0, 0}, {0, 1, 1}, 1};
static const kin_conv_attrs time_only = {{1, 1, 1}, {1, 0, 0}, {1, 0, 0}, 0};

static const kin_case cases[] = {
    CASE("one pixel", same3, X4(1, 1, 1, 1), X4(1, 1, 3, 3), BIAS(1)),
    CASE("odd sizes", same3, X4(2, 3, 7, 13), X4(5, 3, 3, 3), BIAS(5)),
    CASE("1x1", point, X4(2, 19, 5, 9), X4(17, 19, 1, 1), BIAS(17)),
    CASE("kernel larger than the image", wide, X4(1, 2, 2, 3), X4(3, 2, 7, 8), BIAS(3)),
    CASE("stride 2, padded at right and bottom", corner, X4(2, 8, 9, 12), X4(12, 8, 3, 3),
         BIAS(12)),
    CASE("uneven strides and padding", uneven, X4(1, 4, 11, 10), X4(6, 4, 4, 2), BIAS(6)),
    CASE("patches of 2", patch2, X4(2, 4, 8, 16), X4(24, 4, 2, 2), BIAS(24)),
    CASE("images of 8x8", same3, X4(5, 16, 8, 8), X4(35, 16, 3, 3), BIAS(35)),
    CASE("video", same333, X5(1, 3, 4, 6, 17), X5(9, 3, 3, 3, 3), BIAS(9)),
    CASE("causal", causal, X5(2, 5, 3, 5, 6), X5(7, 5, 3, 3, 3), BIAS(7)),
    CASE("causal, one frame", causal, X5(1, 4, 1, 6, 5), X5(4, 4, 3, 3, 3), BIAS(4)),
    CASE("causal, stride 2", causal_half, X5(1, 4, 5, 7, 8), X5(6, 4, 3, 3, 3), BIAS(6)),
    CASE("time only", time_only, X5(1, 3, 5, 4, 4), X5(3, 3, 3, 1, 1), BIAS(3)),
    {.name = "without bias",
     .attrs = &same3,
     .input_count = 2,
     .inputs = {X4(2, 32, 16, 16), X4(40, 32, 3, 3)}},
    {.name = "3 channels of 32x32 to 64, batch 64",
     .attrs = &same3,
     .input_count = 3,
     .inputs = {X4(64, 3, 32, 32), X4(64, 3, 3, 3), BIAS(64)},
     .bench = true},
    {.name = "64 channels of 32x32, batch 16",
     .attrs = &same3,
     .input_count = 3,
     .inputs = {X4(16, 64, 32, 32), X4(64, 64, 3, 3), BIAS(64)},
     .bench = true},
    {.name = "128 channels of 8x8, batch 64",
     .attrs = &same3,
     .input_count = 3,
     .inputs = {X4(64, 128, 8, 8), X4(128, 128, 3, 3), BIAS(128)},
     .bench = true},
    {.name = "128 channels of 256x256",
     .attrs = &same3,
     .input_count = 3,
     .inputs = {X4(1, 128, 256, 256), X4(128, 128, 3, 3), BIAS(128)},
     .bench = true},
    {.name = "512 channels of 64x64",
     .attrs = &same3,
     .input_count = 3,
     .inputs = {X4(1, 512, 64, 64), X4(512, 512, 3, 3), BIAS(512)},
     .bench = true},
    {.name = "128 channels of 9x64x64, causal",
     .attrs = &causal,
     .input_count = 3,
     .inputs = {X5(1, 128, 9, 64, 64), X5(128, 128, 3, 3, 3), BIAS(128)},
     .bench = true},
};

const kin_op kin_op_conv = {
    .name = "conv",
    .summary = "y[o, p] = bias[o] + sum over c, k of w[o, c, k] x[c, p * stride + k - before]: "
               "PyTorch's conv2d and conv3d, with padding per side",
    .flags = KIN_OP_COMPOSITE | KIN_OP_PRODUCT,
    .attrs_size = sizeof(kin_conv_attrs),
    .outputs = 1,
    .optional = 1u << 2,
    .infer = infer,
    .reference = reference,
    .gradient = gradient,
    .lower = lower,
    .cost = cost,
    .cases = cases,
    .case_count = sizeof cases / sizeof *cases,
};
