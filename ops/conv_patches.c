/* conv_patches and its gradient: what a convolution is lowered to, beside a product. */
#include "ops/conv.h"
#include "ops/conv_shape.h"

static kin_status patches_infer(kin_infer *infer) {
    const kin_conv_size_attrs *attrs = infer->attrs;
    int64_t in[3], out[3];
    kin_status status = kin_infer_inputs(infer, 1, 1);
    if (status == KIN_OK) status = kin_infer_rank(infer, 0, 4, 5);
    if (status == KIN_OK) status = kin_infer_float(infer, 0);
    if (status != KIN_OK) return status;
    const kin_desc *x = infer->in[0];
    conv_axes(x, in);
    status = conv_out_size(infer, &attrs->conv, x->rank, in, attrs->size, out);
    if (status != KIN_OK) return status;
    int64_t dims[3] = {x->dims[0], x->dims[1] * conv_count(attrs->size), conv_count(out)};
    infer->out[0] = kin_desc_dense(x->dtype, 3, dims);
    return KIN_OK;
}

static void patches_reference(const kin_reference *call) {
    const kin_conv_size_attrs *attrs = call->attrs;
    int64_t in[3], size[3], at[3], tap[3];
    conv_axes(&call->in_desc[0], in);
    conv_size(&attrs->conv, in, attrs->size, size);
    int64_t planes = call->in_desc[0].dims[0] * call->in_desc[0].dims[1], plane = conv_count(in);
    int64_t taps = conv_count(attrs->size), positions = conv_count(size);
    for (int64_t c = 0; c < planes; c++)
        for (int64_t k = 0; k < taps; k++)
            for (int64_t p = 0; p < positions; p++) {
                conv_split(k, attrs->size, tap);
                conv_split(p, size, at);
                int64_t source = conv_source(&attrs->conv, in, at, tap);
                call->out[0][(c * taps + k) * positions + p] =
                    source < 0 ? 0 : call->in[0][c * plane + source];
            }
}

static void patches_gradient(kin_gradient_call *call) {
    kin_graph *g = call->graph;
    const kin_conv_size_attrs *attrs = call->attrs;
    int64_t in[3];
    conv_axes(kin_tensor_desc(g, call->in[0]), in);
    call->in_grad[0] = kin_conv_patches_grad(g, call->out_grad[0], &attrs->conv, attrs->size, in,
                                             kin_rank(g, call->in[0]));
}

/* The attributes do not say the rank: a result without a time axis has size[0] = 0. */
static void grad_size(const kin_conv_patches_grad_attrs *attrs, int64_t out_size[3]) {
    out_size[0] = attrs->size[0] == 0 ? 1 : attrs->size[0];
    out_size[1] = attrs->size[1];
    out_size[2] = attrs->size[2];
}

static kin_status grad_infer(kin_infer *infer) {
    const kin_conv_patches_grad_attrs *attrs = infer->attrs;
    int rank = attrs->size[0] == 0 ? 4 : 5;
    int64_t size[3], out[3];
    kin_status status = kin_infer_inputs(infer, 1, 1);
    if (status == KIN_OK) status = kin_infer_rank(infer, 0, 3, 3);
    if (status == KIN_OK) status = kin_infer_float(infer, 0);
    if (status != KIN_OK) return status;
    const kin_desc *patches = infer->in[0];
    grad_size(attrs, size);
    status = conv_out_size(infer, &attrs->conv, rank, size, attrs->kernel, out);
    if (status != KIN_OK) return status;
    int64_t taps = conv_count(attrs->kernel);
    if (patches->dims[1] % taps != 0 || patches->dims[2] != conv_count(out))
        return kin_infer_fail(infer, "the patches must be [B, C * %lld, %lld]", (long long)taps,
                              (long long)conv_count(out));
    infer->out[0] =
        conv_desc(patches->dtype, rank, patches->dims[0], patches->dims[1] / taps, size);
    return KIN_OK;
}

static void grad_reference(const kin_reference *call) {
    const kin_conv_patches_grad_attrs *attrs = call->attrs;
    int64_t in[3], size[3], at[3], tap[3];
    grad_size(attrs, in);
    conv_size(&attrs->conv, in, attrs->kernel, size);
    int64_t planes = call->out_desc[0].dims[0] * call->out_desc[0].dims[1], plane = conv_count(in);
    int64_t taps = conv_count(attrs->kernel), positions = conv_count(size);
    for (int64_t i = 0; i < planes * plane; i++) call->out[0][i] = 0;
    for (int64_t c = 0; c < planes; c++)
        for (int64_t k = 0; k < taps; k++)
            for (int64_t p = 0; p < positions; p++) {
                conv_split(k, attrs->kernel, tap);
                conv_split(p, size, at);
                int64_t source = conv_source(&attrs->conv, in, at, tap);
                if (source >= 0)
                    call->out[0][c * plane + source] += call->in[0][(c * taps + k) * positions + p];
            }
}

static void grad_gradient(kin_gradient_call *call) {
    const kin_conv_patches_grad_attrs *attrs = call->attrs;
    call->in_grad[0] =
        kin_conv_patches(call->graph, call->out_grad[0], &attrs->conv, attrs->kernel);
}

static void grad_cost(const kin_cost_call *call, kin_cost *cost) {
    const kin_conv_patches_grad_attrs *attrs = call->attrs;
    cost->reduction = (double)conv_count(attrs->kernel);
    cost->flops = (double)kin_desc_count(&call->in[0]);
}

#define INPUT3(a, b, c)                                                                            \
    {                                                                                              \
        .dtype = KIN_F32, .rank = 3, .dims = { a, b, c }                                           \
    }
#define CASE(title, attributes, ...)                                                               \
    {                                                                                              \
        .name = title, .attrs = &(attributes), .input_count = 1, .inputs = { __VA_ARGS__ }         \
    }
#define SAME3                                                                                      \
    { {1, 1, 1}, {0, 1, 1}, {0, 1, 1}, 0 }
#define CORNER                                                                                     \
    { {1, 2, 2}, {0, 0, 0}, {0, 1, 1}, 0 }
#define CAUSAL_HALF                                                                                \
    { {2, 2, 2}, {2, 0, 0}, {0, 1, 1}, 1 }

static const kin_conv_size_attrs same3 = {SAME3, {1, 3, 3}}, corner = {CORNER, {1, 3, 3}};
static const kin_conv_size_attrs half = {CAUSAL_HALF, {3, 3, 3}};
static const kin_conv_patches_grad_attrs same3_grad = {SAME3, {1, 3, 3}, {0, 5, 7}};
static const kin_conv_patches_grad_attrs corner_grad = {CORNER, {1, 3, 3}, {0, 9, 12}};
static const kin_conv_patches_grad_attrs half_grad = {CAUSAL_HALF, {3, 3, 3}, {5, 7, 8}};

static const kin_case patches_cases[] = {
    CASE("3x3", same3, KIN_CONV_INPUT4(2, 3, 5, 7)),
    CASE("stride 2, padded at right and bottom", corner, KIN_CONV_INPUT4(1, 4, 9, 12)),
    CASE("causal video", half, KIN_CONV_INPUT5(2, 2, 5, 7, 8)),
};

static const kin_case grad_cases[] = {
    CASE("3x3", same3_grad, INPUT3(2, 27, 35)),
    CASE("stride 2, padded at right and bottom", corner_grad, INPUT3(1, 36, 24)),
    CASE("causal video", half_grad, INPUT3(2, 54, 36)),
};

const kin_op kin_op_conv_patches = {
    .name = "conv_patches",
    .summary = "out[c * K + k, p] = x[c, p * stride + k - before], K taps: PyTorch's unfold",
    .attrs_size = sizeof(kin_conv_size_attrs),
    .outputs = 1,
    .infer = patches_infer,
    .reference = patches_reference,
    .gradient = patches_gradient,
    .cases = patches_cases,
    .case_count = sizeof patches_cases / sizeof *patches_cases,
};

const kin_op kin_op_conv_patches_grad = {
    .name = "conv_patches_grad",
    .summary = "the transpose of conv_patches: PyTorch's fold",
    .attrs_size = sizeof(kin_conv_patches_grad_attrs),
    .outputs = 1,
    .infer = grad_infer,
    .reference = grad_reference,
    .gradient = grad_gradient,
    .cost = grad_cost,
    .cases = grad_cases,
    .case_count = sizeof grad_cases / sizeof *grad_cases,
};

kin_tensor kin_conv_patches(kin_graph *graph, kin_tensor x, const kin_conv_attrs *attrs,
                            const int64_t size[3]) {
    kin_conv_size_attrs all = {.conv = *attrs, .size = {size[0], size[1], size[2]}};
    return kin_append1(graph, &kin_op_conv_patches, &all, &x, 1);
}

kin_tensor kin_conv_patches_grad(kin_graph *graph, kin_tensor patches, const kin_conv_attrs *attrs,
                                 const int64_t kernel[3], const int64_t size[3], int rank) {
    kin_conv_patches_grad_attrs all = {.conv = *attrs,
                                       .kernel = {kernel[0], kernel[1], kernel[2]},
                                       .size = {rank == 4 ? 0 : size[0], size[1], size[2]}};
    return kin_append1(graph, &kin_op_conv_patches_grad, &all, &patches, 1);
}
