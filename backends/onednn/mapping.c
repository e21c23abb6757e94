/* Which calls become primitives, and how their tensors are told to oneDNN. */
#include "backends/onednn/onednn.h"

#include "ops/conv_attrs.h"
#include "ops/product_attrs.h"

#include <string.h>

enum { LEAST_ROWS = 4, SMALL = 64 * 64 * 64 };

static bool is_plain_f32(const kin_operand *operand) {
    return operand->desc.dtype == KIN_F32 && operand->desc.rank >= 0;
}

/* Leading axes that can be counted through with one stride: the rows of x. */
static bool rows_of(const kin_desc *x, int64_t *out_rows, int64_t *out_stride) {
    *out_rows = 1;
    *out_stride = x->dims[x->rank - 1];
    for (int axis = x->rank - 2; axis >= 0; axis--) {
        if (x->dims[axis] == 1) continue;
        if (*out_rows == 1) *out_stride = x->strides[axis];
        else if (x->strides[axis] != *out_rows * *out_stride) return false;
        *out_rows *= x->dims[axis];
    }
    return true;
}

/* A matrix as it lies: 1 in one direction and no overlap in the other, or false. */
static bool set_matrix(odn_mapping *map, int which, int operand, int64_t rows, int64_t columns,
                       int64_t row_stride, int64_t column_stride) {
    const int64_t dims[2] = {rows, columns}, strides[2] = {row_stride, column_stride};
    bool lies =
        (column_stride == 1 && row_stride >= columns) || (row_stride == 1 && column_stride >= rows);
    map->operands[which] = operand;
    return lies && rows > 0 && columns > 0 && odn_plain(2, dims, strides, &map->plain[which]);
}

/* The primitive reads or writes the operand as it lies. */
static bool keep(odn_mapping *map, int which) {
    odn_layout *to = &map->request.operands[which];
#if DNNL_VERSION_MAJOR >= 3
    to->set = dnnl_memory_desc_clone(&to->desc, map->plain[which].desc) == dnnl_success;
#else
    *to = map->plain[which];
#endif
    return to->set;
}

static bool map_linear(const kin_call *call, bool as_they_lie, odn_mapping *map) {
    const kin_desc *x = &call->in[0].desc, *w = &call->in[1].desc;
    int64_t rows, stride, k = w->dims[1], n = w->dims[0];
    if (!is_plain_f32(&call->in[0]) || !is_plain_f32(&call->in[1]) || !rows_of(x, &rows, &stride))
        return false;
    map->rows = rows;
    map->is_small = (double)rows * (double)k * (double)n < SMALL;
    if (x->strides[x->rank - 1] != 1 || stride < k) return false;
    map->request.kind = ODN_PRODUCT;
    map->result = ODN_DST;
    const int64_t weights[2] = {k, n};
    bool good = set_matrix(map, ODN_SRC, 0, rows, k, stride, 1) && keep(map, ODN_SRC) &&
                set_matrix(map, ODN_WEIGHTS, 1, k, n, w->strides[1], w->strides[0]) &&
                (as_they_lie ? keep(map, ODN_WEIGHTS)
                             : odn_any(2, weights, &map->request.operands[ODN_WEIGHTS])) &&
                set_matrix(map, ODN_DST, ODN_OUT, rows, n, n, 1) && keep(map, ODN_DST);
    if (!good || call->in_count < 3 || call->in[2].desc.rank < 0) return good;
    if (call->in[2].desc.dtype != KIN_F32 || call->in[2].desc.strides[0] != 1) return false;
    return set_matrix(map, ODN_BIAS, 2, 1, n, n, 1) && keep(map, ODN_BIAS);
}

/* One matrix b, and rows of a that lie evenly. */
static bool map_matmul(const kin_call *call, bool as_they_lie, odn_mapping *map) {
    (void)as_they_lie;
    const kin_desc *a = &call->in[0].desc, *b = &call->in[1].desc;
    if (!is_plain_f32(&call->in[0]) || !is_plain_f32(&call->in[1]) || b->rank != 2) return false;
    int64_t rows = a->dims[0], stride = a->strides[0];
    int64_t k = a->dims[a->rank - 1], n = b->dims[1], step = a->strides[a->rank - 1];
    if (a->rank > 2 && (step != 1 || !rows_of(a, &rows, &stride))) return false;
    map->rows = rows;
    map->is_small = (double)rows * (double)k * (double)n < SMALL;
    map->request.kind = ODN_PRODUCT;
    map->result = ODN_DST;
    return set_matrix(map, ODN_SRC, 0, rows, k, stride, step) && keep(map, ODN_SRC) &&
           set_matrix(map, ODN_WEIGHTS, 1, k, n, b->strides[0], b->strides[1]) &&
           keep(map, ODN_WEIGHTS) && set_matrix(map, ODN_DST, ODN_OUT, rows, n, n, 1) &&
           keep(map, ODN_DST);
}

/* What follows a product of rows of `columns`: an activation, and a residual that lies as the
 * result does. Gates are left to the CPU. `first`: input of the residual. */
static bool map_epilogue(const kin_call *call, int first, int64_t columns, odn_mapping *map) {
    static const dnnl_alg_kind_t activations[KIN_ACTIVATION_COUNT] = {
        [KIN_ACTIVATION_NONE] = dnnl_alg_kind_undef,
        [KIN_ACTIVATION_GELU_TANH] = dnnl_eltwise_gelu_tanh,
        [KIN_ACTIVATION_GELU] = dnnl_eltwise_gelu_erf,
        [KIN_ACTIVATION_SILU] = dnnl_eltwise_swish,
    };
    const kin_product_attrs *attrs = call->attrs;
    if (attrs->activation < 0 || attrs->activation >= KIN_ACTIVATION_COUNT ||
        call->in[first + 1].desc.rank >= 0 || !is_plain_f32(&call->out[0]))
        return false;
    map->request.activation = activations[attrs->activation];
    if (call->in[first].desc.rank < 0) return true;
    return is_plain_f32(&call->in[first]) && kin_desc_is_dense(&call->in[first].desc) &&
           set_matrix(map, ODN_RESIDUAL, first, map->rows, columns, columns, 1) &&
           keep(map, ODN_RESIDUAL);
}

static bool map_linear_fused(const kin_call *call, bool as_they_lie, odn_mapping *map) {
    kin_call product = *call;
    product.in_count = 3;
    return map_linear(&product, as_they_lie, map) &&
           map_epilogue(call, 3, call->in[1].desc.dims[0], map);
}

static bool map_matmul_fused(const kin_call *call, bool as_they_lie, odn_mapping *map) {
    kin_call product = *call;
    product.in_count = 2;
    return map_matmul(&product, as_they_lie, map) &&
           map_epilogue(call, 2, call->in[1].desc.dims[1], map);
}

/* ---- convolutions ---- */

static bool set_dense(odn_mapping *map, int which, int operand, const kin_operand *tensor) {
    const kin_desc *desc = &tensor->desc;
    map->operands[which] = operand;
    return is_plain_f32(tensor) && kin_desc_is_dense(desc) && kin_desc_count(desc) > 0 &&
           odn_plain(desc->rank, desc->dims,
                     kin_desc_dense(KIN_F32, desc->rank, desc->dims).strides, &map->plain[which]) &&
           odn_any(desc->rank, desc->dims, &map->request.operands[which]);
}

/* A first frame that is repeated in front is none of oneDNN's paddings. */
static bool set_conv(odn_mapping *map, const kin_conv_attrs *attrs, int rank) {
    int skipped = 5 - rank;
    if (attrs->causal && attrs->before[0] > 0) return false;
    for (int axis = skipped; axis < 3; axis++) {
        map->request.strides[axis - skipped] = attrs->stride[axis];
        map->request.before[axis - skipped] = attrs->before[axis];
        map->request.after[axis - skipped] = attrs->after[axis];
    }
    return true;
}

static bool map_conv(const kin_call *call, bool as_they_lie, odn_mapping *map) {
    (void)as_they_lie;
    const kin_desc *x = &call->in[0].desc;
    map->request.kind = ODN_CONV;
    map->result = ODN_DST;
    bool good = set_conv(map, call->attrs, x->rank) && set_dense(map, ODN_SRC, 0, &call->in[0]) &&
                set_dense(map, ODN_WEIGHTS, 1, &call->in[1]) &&
                set_dense(map, ODN_DST, ODN_OUT, &call->out[0]);
    if (!good || call->in_count < 3 || call->in[2].desc.rank < 0) return good;
    const int64_t one[1] = {1};
    map->operands[ODN_BIAS] = 2;
    return is_plain_f32(&call->in[2]) && kin_desc_is_dense(&call->in[2].desc) &&
           odn_plain(1, call->in[2].desc.dims, one, &map->plain[ODN_BIAS]) && keep(map, ODN_BIAS);
}

static bool map_conv_input(const kin_call *call, bool as_they_lie, odn_mapping *map) {
    (void)as_they_lie;
    const kin_conv_size_attrs *attrs = call->attrs;
    map->request.kind = ODN_CONV_INPUT;
    map->result = ODN_SRC;
    return set_conv(map, &attrs->conv, call->in[0].desc.rank) &&
           set_dense(map, ODN_DST, 0, &call->in[0]) &&
           set_dense(map, ODN_WEIGHTS, 1, &call->in[1]) &&
           set_dense(map, ODN_SRC, ODN_OUT, &call->out[0]);
}

static bool map_conv_weight(const kin_call *call, bool as_they_lie, odn_mapping *map) {
    (void)as_they_lie;
    const kin_conv_size_attrs *attrs = call->attrs;
    map->request.kind = ODN_CONV_WEIGHT;
    map->result = ODN_WEIGHTS;
    return set_conv(map, &attrs->conv, call->in[0].desc.rank) &&
           set_dense(map, ODN_SRC, 0, &call->in[0]) && set_dense(map, ODN_DST, 1, &call->in[1]) &&
           set_dense(map, ODN_WEIGHTS, ODN_OUT, &call->out[0]);
}

/* True where the primitive was at least as fast as the CPU's own kernel: docs/benchmarks.md. All
 * products were but those of a few rows with weights that change; of the convolutions, whose
 * tensors must be brought into blocked layouts and back, only the gradients of inputs with strides.
 */
static bool is_faster(const odn_mapping *map) {
    if (map->request.kind == ODN_PRODUCT) return map->rows >= LEAST_ROWS;
    return map->request.kind == ODN_CONV_INPUT &&
           (map->request.strides[0] > 1 || map->request.strides[1] > 1);
}

bool odn_map(const odn_state *state, const kin_call *call, bool as_they_lie,
             odn_mapping *out_mapping) {
    static const struct {
        const char *op;
        bool (*map)(const kin_call *, bool, odn_mapping *);
    } maps[] = {{"linear", map_linear},
                {"matmul", map_matmul},
                {"linear_fused", map_linear_fused},
                {"matmul_fused", map_matmul_fused},
                {"conv", map_conv},
                {"conv_grad_input", map_conv_input},
                {"conv_grad_weight", map_conv_weight}};
    *out_mapping = (odn_mapping){.operands = {-1, -1, -1, -1, -1}};
    for (size_t i = 0; i < sizeof maps / sizeof *maps; i++) {
        if (strcmp(maps[i].op, call->op) != 0) continue;
        if (maps[i].map(call, as_they_lie, out_mapping) && (state->all || is_faster(out_mapping)))
            return true;
        odn_mapping_free(out_mapping);
        return false;
    }
    return false;
}

void odn_mapping_free(odn_mapping *mapping) {
    for (int i = 0; i < ODN_OPERANDS; i++) {
        odn_layout_free(&mapping->plain[i]);
        odn_layout_free(&mapping->request.operands[i]);
    }
}
