/* linear_fused and matmul_fused: a product, and what is done to its result while it is at hand. */
#include "ops/matmul_fused.h"

#include "ops/elementwise.h"
#include "ops/elementwise_expr.h"
#include "ops/layout.h"
#include "ops/layout_attrs.h"
#include "ops/matmul.h"
#include "ops/modulate.h"
#include "ops/reduce.h"
#include "ops/views.h"
#include "ops/walk.h"

#include <math.h>

#define COUNT(array) (sizeof(array) / sizeof *(array))
#define DIMS(r, ...) .rank = (r), .dims = {__VA_ARGS__}

/* An op's inputs: those of the plain product, then residual and gate. */
typedef struct form {
    const kin_op *plain;
    int residual, gate;
} form;

static const form linear_form = {&kin_op_linear, 3, 4}, matmul_form = {&kin_op_matmul, 2, 3};

static form form_of(const kin_op *op) {
    return op == &kin_op_linear || op == &kin_op_linear_fused ? linear_form : matmul_form;
}

static kin_dtype result_dtype(const kin_product_attrs *attrs, kin_dtype first) {
    return attrs->result == 0 ? first : (kin_dtype)(attrs->result - 1);
}

/* ---- shape rule and reference ---- */

/* The residual gives the result its shape. */
static kin_status take_residual(kin_infer *infer, int input, kin_desc *shape) {
    kin_status status = kin_infer_float(infer, input);
    if (status != KIN_OK) return status;
    const kin_desc *residual = infer->in[input];
    int64_t columns = shape->dims[shape->rank - 1];
    if (residual->rank < 1 || residual->dims[residual->rank - 1] != columns ||
        kin_desc_count(residual) != kin_desc_count(shape))
        return kin_infer_fail(infer,
                              "the residual has not the elements of the product in rows of %lld",
                              (long long)columns);
    *shape = kin_desc_dense(shape->dtype, residual->rank, residual->dims);
    return KIN_OK;
}

static kin_status check_gate(kin_infer *infer, int input, bool has_residual,
                             const kin_desc *shape) {
    kin_status status = kin_infer_float(infer, input);
    if (status != KIN_OK) return status;
    const kin_desc *gate = infer->in[input];
    int rank = shape->rank;
    int64_t dims[KIN_MAX_RANK];
    memcpy(dims, shape->dims, sizeof dims);
    if (!has_residual) return kin_infer_fail(infer, "a gate without a residual");
    if (!kin_broadcast_shape(&rank, dims, gate->rank, gate->dims) || rank != shape->rank ||
        memcmp(dims, shape->dims, (size_t)rank * sizeof *dims) != 0)
        return kin_infer_fail(infer, "the gate cannot be broadcast to the residual");
    return KIN_OK;
}

static kin_status infer(kin_infer *infer) {
    const form f = form_of(infer->op);
    const kin_product_attrs *attrs = infer->attrs;
    kin_status status = kin_infer_inputs(infer, f.gate + 1, f.gate + 1);
    if (status != KIN_OK) return status;
    if (attrs->activation < 0 || attrs->activation >= KIN_ACTIVATION_COUNT)
        return kin_infer_fail(infer, "there is no activation %d", (int)attrs->activation);
    kin_infer product = *infer;
    product.in_count = f.residual;
    status = f.plain->infer(&product);
    if (status != KIN_OK) return status;
    kin_desc shape = product.out[0];
    shape.dtype = result_dtype(attrs, shape.dtype);
    if (shape.dtype != KIN_F32 && shape.dtype != KIN_F16 && shape.dtype != KIN_BF16)
        return kin_infer_fail(infer, "the result must be f32, f16 or bf16");
    const bool has_residual = infer->in[f.residual] != NULL;
    if (has_residual) status = take_residual(infer, f.residual, &shape);
    if (status == KIN_OK && infer->in[f.gate] != NULL)
        status = check_gate(infer, f.gate, has_residual, &shape);
    infer->out[0] = shape;
    return status;
}

static double activate(int activation, double x) {
#define KX_C(c) (c)
#define KX_EXP(v) exp(v)
#define KX_TANH(v) tanh(v)
#define KX_ERF(v) erf(v)
    switch (activation) {
    case KIN_ACTIVATION_GELU_TANH:
        return KX_GELU_TANH(x);
    case KIN_ACTIVATION_GELU:
        return x * KX_NORMAL_CDF(x);
    case KIN_ACTIVATION_SILU:
        return x * KX_SIGMOID(x);
    default:
        return x;
    }
}

/* The shape that the plain product has. */
static kin_desc plain_shape(const form *f, const kin_desc *a, const kin_desc *b) {
    int64_t dims[KIN_MAX_RANK] = {0};
    int rank = 0;
    if (f->plain == &kin_op_linear) {
        memcpy(dims, a->dims, sizeof dims);
        dims[a->rank - 1] = b->dims[0];
        return kin_desc_dense(a->dtype, a->rank, dims);
    }
    (void)kin_broadcast_shape(&rank, dims, a->rank - 2, a->dims);
    (void)kin_broadcast_shape(&rank, dims, b->rank - 2, b->dims);
    dims[rank] = a->dims[a->rank - 2];
    dims[rank + 1] = b->dims[b->rank - 1];
    return kin_desc_dense(a->dtype, rank + 2, dims);
}

static void reference(const kin_reference *call) {
    const form f = form_of(call->op);
    const kin_product_attrs *attrs = call->attrs;
    const kin_desc natural = plain_shape(&f, &call->in_desc[0], &call->in_desc[1]);
    const kin_desc *out = &call->out_desc[0];
    kin_reference product = *call;
    product.op = f.plain;
    product.attrs = NULL;
    product.in_count = f.residual;
    product.out_desc = &natural;
    f.plain->reference(&product);
    const double *residual = call->in[f.residual], *gate = call->in[f.gate];
    kin_walk walk = {0};
    if (gate != NULL) walk = kin_walk_start(&call->in_desc[f.gate], out->rank, out->dims);
    for (int64_t i = 0; i < kin_desc_count(out); i++) {
        double value = activate(attrs->activation, call->out[0][i]);
        if (gate != NULL) {
            value *= gate[walk.offset];
            kin_walk_next(&walk);
        }
        call->out[0][i] = residual != NULL ? residual[i] + value : value;
    }
}

/* ---- lowering and gradient: the ops that it stands for ---- */

static const kin_op *activation_op(int activation, bool gradient) {
    static const kin_op *const ops[KIN_ACTIVATION_COUNT][2] = {
        [KIN_ACTIVATION_GELU_TANH] = {&kin_op_gelu_tanh, &kin_op_gelu_tanh_grad},
        [KIN_ACTIVATION_GELU] = {&kin_op_gelu, &kin_op_gelu_grad},
        [KIN_ACTIVATION_SILU] = {&kin_op_silu, &kin_op_silu_grad},
    };
    return ops[activation][gradient];
}

static kin_tensor shaped(kin_graph *graph, kin_tensor x, const kin_desc *shape) {
    return kin_reshape(graph, x, shape->rank, shape->dims);
}

static kin_tensor activated(kin_graph *graph, int activation, kin_tensor x) {
    if (activation == KIN_ACTIVATION_NONE) return x;
    return kin_append1(graph, activation_op(activation, false), NULL, &x, 1);
}

static void lower(kin_lower_call *call) {
    const form f = form_of(call->op);
    const kin_product_attrs *attrs = call->attrs;
    kin_graph *graph = call->graph;
    const kin_tensor residual = call->in[f.residual], gate = call->in[f.gate];
    const kin_dtype dtype = result_dtype(attrs, kin_dtype_of(graph, call->in[0]));
    kin_tensor y = kin_append1(graph, f.plain, NULL, call->in, f.residual);
    y = kin_cast(graph, activated(graph, attrs->activation, y), dtype);
    if (residual.id != 0) {
        const kin_desc shape = *kin_tensor_desc(graph, residual);
        y = shaped(graph, y, &shape);
        kin_tensor first = kin_cast(graph, residual, dtype);
        if (gate.id != 0) y = kin_gated_add(graph, first, kin_cast(graph, gate, dtype), y);
        else y = kin_add(graph, first, y);
    }
    call->out[0] = y;
}

/* The product is computed once more: what the activation and the gate were given is not kept. */
static void gradient(kin_gradient_call *call) {
    const form f = form_of(call->op);
    const kin_product_attrs *attrs = call->attrs;
    kin_graph *graph = call->graph;
    const kin_tensor residual = call->in[f.residual], gate = call->in[f.gate];
    kin_tensor dy = call->out_grad[0];
    const kin_desc shape = *kin_tensor_desc(graph, dy);
    const kin_dtype first = kin_dtype_of(graph, call->in[0]);
    kin_tensor z = kin_append1(graph, f.plain, NULL, call->in, f.residual);
    const kin_desc natural = *kin_tensor_desc(graph, z);
    if (residual.id != 0 && call->wanted[f.residual])
        call->in_grad[f.residual] = kin_cast(graph, dy, kin_dtype_of(graph, residual));
    if (gate.id != 0 && call->wanted[f.gate]) {
        const kin_desc to = *kin_tensor_desc(graph, gate);
        kin_tensor a = kin_cast(graph, activated(graph, attrs->activation, z), shape.dtype);
        kin_tensor sum = kin_mul(graph, dy, shaped(graph, a, &shape));
        call->in_grad[f.gate] = kin_cast(graph, kin_sum_to(graph, sum, to.rank, to.dims), to.dtype);
    }
    if (gate.id != 0) dy = kin_mul(graph, dy, kin_cast(graph, gate, shape.dtype));
    kin_tensor dz = shaped(graph, kin_cast(graph, dy, first), &natural);
    if (attrs->activation != KIN_ACTIVATION_NONE) {
        const kin_tensor in[2] = {z, dz};
        dz = kin_append1(graph, activation_op(attrs->activation, true), NULL, in, 2);
    }
    kin_gradient_call product = *call;
    product.op = f.plain;
    product.attrs = NULL;
    product.in_count = f.residual;
    product.out = &z;
    product.out_grad = &dz;
    f.plain->gradient(&product);
}

static void cost(const kin_cost_call *call, kin_cost *out_cost, const kin_op *plain, int inputs) {
    const kin_product_attrs *attrs = call->attrs;
    const double elements = (double)kin_desc_count(&call->out[0]);
    plain->cost(call, out_cost);
    if (attrs->activation != KIN_ACTIVATION_NONE) out_cost->flops += elements;
    for (int i = 0; i < 2; i++)
        if (call->in[inputs + i].rank >= 0) out_cost->flops += elements;
}

static void linear_cost(const kin_cost_call *call, kin_cost *out_cost) {
    cost(call, out_cost, &kin_op_linear, linear_form.residual);
}

static void matmul_cost(const kin_cost_call *call, kin_cost *out_cost) {
    cost(call, out_cost, &kin_op_matmul, matmul_form.residual);
}

/* ---- what becomes one node ---- */

static int activation_of(const kin_op *op) {
    for (int i = KIN_ACTIVATION_NONE + 1; i < KIN_ACTIVATION_COUNT; i++)
        if (op == activation_op(i, false)) return i;
    return KIN_ACTIVATION_NONE;
}

/* The other summand of add, or the first operand of gated_add, if it has the shape of the sum. */
static int residual_of(const kin_absorb_call *call) {
    int residual = -1;
    if (call->reader == &kin_op_add) residual = 1 - call->reader_operand;
    else if (call->reader == &kin_op_gated_add && call->reader_operand == 2) residual = 0;
    if (residual < 0) return -1;
    const kin_desc *mine = &call->reader_in[call->reader_operand];
    const kin_desc *product = &call->out;
    const bool same = mine->rank > 0 && kin_desc_same_shape(mine, &call->reader_out) &&
                      kin_desc_same_shape(&call->reader_in[residual], &call->reader_out);
    /* rows stay rows */
    return same && mine->dims[mine->rank - 1] == product->dims[product->rank - 1] ? residual : -1;
}

bool kin_product_absorb(kin_absorb_call *call) {
    const form f = form_of(call->op);
    const bool fused = call->op != f.plain;
    const int activation = activation_of(call->reader);
    kin_product_attrs attrs = {KIN_ACTIVATION_NONE, 1 + (int32_t)call->out.dtype};
    if (fused) attrs.activation = ((const kin_product_attrs *)call->attrs)->activation;
    call->out_op = f.plain == &kin_op_linear ? &kin_op_linear_fused : &kin_op_matmul_fused;
    call->out_in_count = f.gate + 1;
    for (int i = 0; i <= f.gate; i++) call->out_in[i] = i < call->in_count ? i : -1;
    const bool has_residual = fused && call->in[f.residual].rank >= 0;
    const int residual = residual_of(call);
    if (activation != KIN_ACTIVATION_NONE) {
        if (attrs.activation != KIN_ACTIVATION_NONE || has_residual) return false;
        attrs.activation = activation;
    } else if (call->reader == &kin_op_cast) {
        const kin_dtype to = call->reader_out.dtype;
        if (to != KIN_F32 && to != KIN_F16 && to != KIN_BF16) return false;
        attrs.result = 1 + (int32_t)to;
    } else if (residual >= 0 && !has_residual) {
        call->out_in[f.residual] = call->in_count + residual;
        call->out_result = call->reader_out;
        if (call->reader == &kin_op_gated_add) call->out_in[f.gate] = call->in_count + 1;
    } else {
        return false;
    }
    memcpy(call->out_attrs, &attrs, sizeof attrs);
    return true;
}

/* ---- cases ---- */

#define NONE                                                                                       \
    { .rank = -1 }
#define IN(how, r, ...)                                                                            \
    { .dtype = KIN_F32, .layout = KIN_LAYOUT_##how, DIMS(r, __VA_ARGS__) }
#define ATTRS(activation, result)                                                                  \
    (&(const kin_product_attrs){KIN_ACTIVATION_##activation, (result)})
enum { AS_FIRST = 0, TO_F32 = 1 + KIN_F32 };

static const kin_case linear_cases[] = {
    {"nothing_more",
     ATTRS(NONE, AS_FIRST),
     5,
     {IN(DENSE, 2, 3, 5), IN(DENSE, 2, 4, 5), NONE, NONE, NONE},
     false},
    {"gelu_tanh",
     ATTRS(GELU_TANH, AS_FIRST),
     5,
     {IN(DENSE, 3, 2, 7, 13), IN(DENSE, 2, 19, 13), IN(DENSE, 1, 19), NONE, NONE},
     false},
    {"gelu_of_views",
     ATTRS(GELU, AS_FIRST),
     5,
     {IN(TRANSPOSED, 3, 3, 5, 17), IN(TRANSPOSED, 2, 33, 17), NONE, NONE, NONE},
     false},
    {"silu_to_f32",
     ATTRS(SILU, TO_F32),
     5,
     {IN(PADDED, 2, 9, 40), IN(PADDED, 2, 6, 40), IN(DENSE, 1, 6), NONE, NONE},
     false},
    {"vector_to_f32",
     ATTRS(NONE, TO_F32),
     5,
     {IN(DENSE, 1, 5), IN(DENSE, 2, 3, 5), NONE, IN(DENSE, 1, 3), NONE},
     false},
    {"residual",
     ATTRS(NONE, AS_FIRST),
     5,
     {IN(DENSE, 2, 37, 300), IN(DENSE, 2, 70, 300), IN(DENSE, 1, 70), IN(DENSE, 2, 37, 70), NONE},
     false},
    {"residual_of_another_shape",
     ATTRS(NONE, AS_FIRST),
     5,
     {IN(DENSE, 4, 2, 3, 5, 13), IN(DENSE, 2, 19, 13), IN(DENSE, 1, 19), IN(DENSE, 3, 2, 15, 19),
      NONE},
     false},
    {"residual_f32",
     ATTRS(GELU_TANH, TO_F32),
     5,
     {IN(DENSE, 2, 20, 32),
      IN(DENSE, 2, 24, 32),
      IN(DENSE, 1, 24),
      {.dtype = KIN_F32, DIMS(2, 20, 24), .fixed = true},
      NONE},
     false},
    {"gated",
     ATTRS(NONE, AS_FIRST),
     5,
     {IN(DENSE, 3, 2, 21, 40), IN(DENSE, 2, 48, 40), IN(DENSE, 1, 48), IN(DENSE, 3, 2, 21, 48),
      IN(PADDED, 3, 2, 1, 48)},
     false},
    {"gated_views",
     ATTRS(SILU, AS_FIRST),
     5,
     {IN(DENSE, 4, 3, 2, 5, 13), IN(DENSE, 2, 19, 13), NONE, IN(TRANSPOSED, 4, 3, 2, 5, 19),
      IN(TRANSPOSED, 4, 3, 2, 1, 19)},
     false},
    {"gated_by_tokens",
     ATTRS(GELU, TO_F32),
     5,
     {IN(DENSE, 3, 2, 300, 9), IN(DENSE, 2, 70, 9), IN(DENSE, 1, 70), IN(PADDED, 3, 2, 300, 70),
      IN(DENSE, 2, 300, 1)},
     false},
    {"few_rows",
     ATTRS(GELU_TANH, AS_FIRST),
     5,
     {IN(DENSE, 2, 3, 40), IN(DENSE, 2, 90, 40), IN(DENSE, 1, 90), IN(DENSE, 2, 3, 90),
      IN(DENSE, 1, 90)},
     false},
    {"bf16_weights",
     ATTRS(SILU, AS_FIRST),
     5,
     {IN(DENSE, 2, 4, 50),
      {.dtype = KIN_BF16, DIMS(2, 21, 50), .fixed = true},
      {.dtype = KIN_BF16, DIMS(1, 21), .fixed = true},
      IN(DENSE, 2, 4, 21),
      NONE},
     false},
    {"q8_0_weights",
     ATTRS(GELU_TANH, AS_FIRST),
     5,
     {IN(DENSE, 2, 6, 64),
      {.dtype = KIN_Q8_0, DIMS(2, 18, 64), .fixed = true, .constant = true},
      IN(DENSE, 1, 18),
      NONE,
      NONE},
     false},
    {"bench_stdit_mlp",
     ATTRS(GELU_TANH, AS_FIRST),
     5,
     {IN(DENSE, 2, 1024, 1152), IN(DENSE, 2, 4608, 1152), IN(DENSE, 1, 4608), NONE, NONE},
     true},
    {"bench_stdit_out",
     ATTRS(NONE, AS_FIRST),
     5,
     {IN(DENSE, 3, 1, 1024, 4608), IN(DENSE, 2, 1152, 4608), IN(DENSE, 1, 1152),
      IN(DENSE, 3, 1, 1024, 1152), IN(DENSE, 3, 1, 1, 1152)},
     true},
};

static const kin_case matmul_cases[] = {
    {"to_f32",
     ATTRS(NONE, TO_F32),
     4,
     {IN(TRANSPOSED, 2, 19, 33), IN(DENSE, 2, 33, 35), NONE, NONE},
     false},
    {"residual",
     ATTRS(NONE, AS_FIRST),
     4,
     {IN(DENSE, 2, 40, 13), IN(DENSE, 2, 13, 24), IN(DENSE, 2, 40, 24), NONE},
     false},
    {"residual_f32",
     ATTRS(NONE, TO_F32),
     4,
     {IN(TRANSPOSED, 2, 24, 40),
      IN(DENSE, 2, 40, 32),
      {.dtype = KIN_F32, DIMS(2, 24, 32), .fixed = true},
      NONE},
     false},
    {"batch",
     ATTRS(GELU_TANH, AS_FIRST),
     4,
     {IN(DENSE, 4, 2, 1, 3, 5), IN(DENSE, 3, 4, 5, 2), IN(DENSE, 4, 2, 4, 3, 2),
      IN(DENSE, 3, 4, 1, 2)},
     false},
    {"one_matrix_for_a_batch",
     ATTRS(NONE, AS_FIRST),
     4,
     {IN(DENSE, 3, 3, 4, 9), IN(DENSE, 2, 9, 6), IN(DENSE, 2, 12, 6), NONE},
     false},
    {"bench_weight_gradient",
     ATTRS(NONE, TO_F32),
     4,
     {IN(TRANSPOSED, 2, 1152, 4096), IN(DENSE, 2, 4096, 1152), NONE, NONE},
     true},
};

const kin_op kin_op_linear_fused = {
    .name = "linear_fused",
    .summary =
        "out = residual + gate act(x w^T + bias), act: none, gelu_tanh, gelu or silu; made by "
        "planning from linear and its readers",
    .flags = KIN_OP_COMPOSITE | KIN_OP_PRODUCT,
    .attrs_size = sizeof(kin_product_attrs),
    .outputs = 1,
    .optional = 7u << 2,
    .infer = infer,
    .reference = reference,
    .gradient = gradient,
    .lower = lower,
    .cost = linear_cost,
    .cases = linear_cases,
    .case_count = COUNT(linear_cases),
    .absorb = kin_product_absorb,
};

const kin_op kin_op_matmul_fused = {
    .name = "matmul_fused",
    .summary =
        "out = residual + gate act(a b), act: none, gelu_tanh, gelu or silu; made by planning "
        "from matmul and its readers",
    .flags = KIN_OP_COMPOSITE | KIN_OP_PRODUCT,
    .attrs_size = sizeof(kin_product_attrs),
    .outputs = 1,
    .optional = 3u << 2,
    .infer = infer,
    .reference = reference,
    .gradient = gradient,
    .lower = lower,
    .cost = matmul_cost,
    .cases = matmul_cases,
    .case_count = COUNT(matmul_cases),
    .absorb = kin_product_absorb,
};

kin_tensor kin_linear_fused(kin_graph *graph, kin_tensor x, kin_tensor w, kin_tensor bias,
                            kin_tensor residual, kin_tensor gate, const kin_product_attrs *attrs) {
    const kin_tensor in[5] = {x, w, bias, residual, gate};
    return kin_append1(graph, &kin_op_linear_fused, attrs, in, 5);
}

kin_tensor kin_matmul_fused(kin_graph *graph, kin_tensor a, kin_tensor b, kin_tensor residual,
                            kin_tensor gate, const kin_product_attrs *attrs) {
    const kin_tensor in[4] = {a, b, residual, gate};
    return kin_append1(graph, &kin_op_matmul_fused, attrs, in, 4);
}
