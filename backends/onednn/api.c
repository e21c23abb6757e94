/* The two C APIs of oneDNN. */
#include "backends/onednn/api.h"

#include <string.h>

static const dnnl_query_t operand_queries[2][ODN_OPERANDS] = {
    {dnnl_query_src_md, dnnl_query_weights_md, dnnl_query_weights_md, dnnl_query_dst_md},
    {dnnl_query_diff_src_md, dnnl_query_diff_weights_md, dnnl_query_diff_weights_md,
     dnnl_query_diff_dst_md},
};

/* True for operands that are gradients. */
static bool is_gradient(odn_kind kind, int operand) {
    if (kind == ODN_CONV_INPUT) return operand == ODN_SRC || operand == ODN_DST;
    return kind == ODN_CONV_WEIGHT && (operand == ODN_WEIGHTS || operand == ODN_DST);
}

int odn_argument(const odn_request *r, int operand) {
    static const int arguments[2][ODN_OPERANDS] = {
        {DNNL_ARG_SRC, DNNL_ARG_WEIGHTS, DNNL_ARG_BIAS, DNNL_ARG_DST},
        {DNNL_ARG_DIFF_SRC, DNNL_ARG_DIFF_WEIGHTS, DNNL_ARG_DIFF_BIAS, DNNL_ARG_DIFF_DST},
    };
    if (operand == ODN_RESIDUAL)
        return DNNL_ARG_ATTR_MULTIPLE_POST_OP(r->activation != dnnl_alg_kind_undef ? 1 : 0) |
               DNNL_ARG_SRC_1;
    return arguments[is_gradient(r->kind, operand)][operand];
}

static bool append_activation(dnnl_post_ops_t ops, dnnl_alg_kind_t activation) {
    const float swish_factor = 1;
#if DNNL_VERSION_MAJOR >= 3
    return dnnl_post_ops_append_eltwise(ops, activation, swish_factor, 0) == dnnl_success;
#else
    return dnnl_post_ops_append_eltwise(ops, 1, activation, swish_factor, 0) == dnnl_success;
#endif
}

static bool append_residual(dnnl_post_ops_t ops, const odn_layout *layout) {
#if DNNL_VERSION_MAJOR >= 3
    return dnnl_post_ops_append_binary(ops, dnnl_binary_add, layout->desc) == dnnl_success;
#else
    return dnnl_post_ops_append_binary(ops, dnnl_binary_add, &layout->desc) == dnnl_success;
#endif
}

/* The caller gives scratch memory; what follows the product. */
static dnnl_primitive_attr_t attributes_of(const odn_request *r) {
    dnnl_primitive_attr_t attr = NULL;
    dnnl_post_ops_t ops = NULL;
    const odn_layout *residual = &r->operands[ODN_RESIDUAL];
    if (dnnl_primitive_attr_create(&attr) != dnnl_success) return NULL;
    bool good =
        dnnl_primitive_attr_set_scratchpad_mode(attr, dnnl_scratchpad_mode_user) == dnnl_success &&
        dnnl_post_ops_create(&ops) == dnnl_success;
    if (good && r->activation != dnnl_alg_kind_undef) good = append_activation(ops, r->activation);
    if (good && residual->set) good = append_residual(ops, residual);
    if (good) good = dnnl_primitive_attr_set_post_ops(attr, ops) == dnnl_success;
    if (ops) dnnl_post_ops_destroy(ops);
    if (good) return attr;
    dnnl_primitive_attr_destroy(attr);
    return NULL;
}

#if DNNL_VERSION_MAJOR >= 3

bool odn_plain(int rank, const int64_t *dims, const int64_t *strides, odn_layout *out_layout) {
    dnnl_status_t status =
        dnnl_memory_desc_create_with_strides(&out_layout->desc, rank, dims, dnnl_f32, strides);
    return out_layout->set = status == dnnl_success;
}

bool odn_any(int rank, const int64_t *dims, odn_layout *out_layout) {
    dnnl_status_t status = dnnl_memory_desc_create_with_tag(&out_layout->desc, rank, dims, dnnl_f32,
                                                            dnnl_format_tag_any);
    return out_layout->set = status == dnnl_success;
}

void odn_layout_free(odn_layout *layout) {
    if (layout->set) dnnl_memory_desc_destroy(layout->desc);
    *layout = (odn_layout){.set = false};
}

static const_dnnl_memory_desc_t given(const odn_layout *layout) {
    return layout->set ? layout->desc : NULL;
}

bool odn_describe(dnnl_engine_t engine, const odn_request *r,
                  dnnl_primitive_desc_t *out_described) {
    const dnnl_dims_t none = {0};
    const_dnnl_memory_desc_t src = given(&r->operands[ODN_SRC]), dst = given(&r->operands[ODN_DST]);
    const_dnnl_memory_desc_t w = given(&r->operands[ODN_WEIGHTS]);
    const_dnnl_memory_desc_t bias = given(&r->operands[ODN_BIAS]);
    dnnl_primitive_attr_t attr = attributes_of(r);
    dnnl_primitive_desc_t forward = NULL;
    dnnl_status_t status = dnnl_success;
    *out_described = NULL;
    if (!attr) return false;
    if (r->kind == ODN_PRODUCT)
        status = dnnl_matmul_primitive_desc_create(out_described, engine, src, w, bias, dst, attr);
    else
        status = dnnl_convolution_forward_primitive_desc_create(
            &forward, engine, dnnl_forward_training, dnnl_convolution_direct, src, w, bias, dst,
            r->strides, none, r->before, r->after, attr);
    if (status == dnnl_success && r->kind == ODN_CONV_INPUT)
        status = dnnl_convolution_backward_data_primitive_desc_create(
            out_described, engine, dnnl_convolution_direct, src, w, dst, r->strides, none,
            r->before, r->after, forward, attr);
    if (status == dnnl_success && r->kind == ODN_CONV_WEIGHT)
        status = dnnl_convolution_backward_weights_primitive_desc_create(
            out_described, engine, dnnl_convolution_direct, src, w, NULL, dst, r->strides, none,
            r->before, r->after, forward, attr);
    if (status == dnnl_success && r->kind == ODN_CONV) *out_described = forward;
    else if (forward) dnnl_primitive_desc_destroy(forward);
    dnnl_primitive_attr_destroy(attr);
    return status == dnnl_success;
}

static bool take(const_dnnl_memory_desc_t desc, odn_layout *out_layout) {
    out_layout->set = desc && dnnl_memory_desc_clone(&out_layout->desc, desc) == dnnl_success;
    return out_layout->set;
}

bool odn_same(const odn_layout *a, const odn_layout *b) {
    return dnnl_memory_desc_equal(a->desc, b->desc) != 0;
}

size_t odn_bytes(const odn_layout *layout) {
    return dnnl_memory_desc_get_size(layout->desc);
}

bool odn_memory(dnnl_engine_t engine, const odn_layout *layout, void *data,
                dnnl_memory_t *out_memory) {
    return dnnl_memory_create(out_memory, layout->desc, engine, data) == dnnl_success;
}

static bool reorder_desc(dnnl_engine_t engine, const odn_layout *from, const odn_layout *to,
                         dnnl_primitive_desc_t *out_described) {
    return dnnl_reorder_primitive_desc_create(out_described, from->desc, engine, to->desc, engine,
                                              NULL) == dnnl_success;
}

static bool scratch_layout(dnnl_primitive_desc_t described, odn_layout *out_layout) {
    return take(dnnl_primitive_desc_query_md(described, dnnl_query_scratchpad_md, 0), out_layout);
}

#else /* 2.x: descriptors are values, and an operation is described before its primitive */

bool odn_plain(int rank, const int64_t *dims, const int64_t *strides, odn_layout *out_layout) {
    dnnl_status_t status =
        dnnl_memory_desc_init_by_strides(&out_layout->desc, rank, dims, dnnl_f32, strides);
    return out_layout->set = status == dnnl_success;
}

bool odn_any(int rank, const int64_t *dims, odn_layout *out_layout) {
    dnnl_status_t status =
        dnnl_memory_desc_init_by_tag(&out_layout->desc, rank, dims, dnnl_f32, dnnl_format_tag_any);
    return out_layout->set = status == dnnl_success;
}

void odn_layout_free(odn_layout *layout) {
    layout->set = false;
}

static const dnnl_memory_desc_t *given(const odn_layout *layout) {
    return layout->set ? &layout->desc : NULL;
}

static bool describe_product(dnnl_engine_t engine, const odn_request *r, dnnl_primitive_attr_t attr,
                             dnnl_primitive_desc_t *out_described) {
    dnnl_matmul_desc_t desc;
    return dnnl_matmul_desc_init(&desc, given(&r->operands[ODN_SRC]),
                                 given(&r->operands[ODN_WEIGHTS]), given(&r->operands[ODN_BIAS]),
                                 given(&r->operands[ODN_DST])) == dnnl_success &&
           dnnl_primitive_desc_create(out_described, &desc, attr, engine, NULL) == dnnl_success;
}

static bool describe_forward(dnnl_engine_t engine, const odn_request *r, dnnl_primitive_attr_t attr,
                             dnnl_primitive_desc_t *out_described) {
    dnnl_convolution_desc_t desc;
    return dnnl_convolution_forward_desc_init(
               &desc, dnnl_forward_training, dnnl_convolution_direct, given(&r->operands[ODN_SRC]),
               given(&r->operands[ODN_WEIGHTS]), given(&r->operands[ODN_BIAS]),
               given(&r->operands[ODN_DST]), r->strides, r->before, r->after) == dnnl_success &&
           dnnl_primitive_desc_create(out_described, &desc, attr, engine, NULL) == dnnl_success;
}

/* The backward ones want the forward one as a hint. */
static bool describe_backward(dnnl_engine_t engine, const odn_request *r,
                              dnnl_primitive_attr_t attr, dnnl_primitive_desc_t *out_described) {
    dnnl_convolution_desc_t desc;
    dnnl_primitive_desc_t forward = NULL;
    const dnnl_memory_desc_t *src = given(&r->operands[ODN_SRC]),
                             *dst = given(&r->operands[ODN_DST]);
    const dnnl_memory_desc_t *w = given(&r->operands[ODN_WEIGHTS]);
    dnnl_status_t status =
        r->kind == ODN_CONV_INPUT
            ? dnnl_convolution_backward_data_desc_init(&desc, dnnl_convolution_direct, src, w, dst,
                                                       r->strides, r->before, r->after)
            : dnnl_convolution_backward_weights_desc_init(&desc, dnnl_convolution_direct, src, w,
                                                          NULL, dst, r->strides, r->before,
                                                          r->after);
    if (status != dnnl_success || !describe_forward(engine, r, NULL, &forward)) return false;
    status = dnnl_primitive_desc_create(out_described, &desc, attr, engine, forward);
    dnnl_primitive_desc_destroy(forward);
    return status == dnnl_success;
}

bool odn_describe(dnnl_engine_t engine, const odn_request *r,
                  dnnl_primitive_desc_t *out_described) {
    dnnl_primitive_attr_t attr = attributes_of(r);
    *out_described = NULL;
    if (!attr) return false;
    bool good = r->kind == ODN_PRODUCT ? describe_product(engine, r, attr, out_described)
                : r->kind == ODN_CONV ? describe_forward(engine, r, attr, out_described)
                                      : describe_backward(engine, r, attr, out_described);
    dnnl_primitive_attr_destroy(attr);
    return good;
}

static bool take(const dnnl_memory_desc_t *desc, odn_layout *out_layout) {
    out_layout->set = desc != NULL;
    if (desc) out_layout->desc = *desc;
    return out_layout->set;
}

bool odn_same(const odn_layout *a, const odn_layout *b) {
    return dnnl_memory_desc_equal(&a->desc, &b->desc) != 0;
}

size_t odn_bytes(const odn_layout *layout) {
    return dnnl_memory_desc_get_size(&layout->desc);
}

bool odn_memory(dnnl_engine_t engine, const odn_layout *layout, void *data,
                dnnl_memory_t *out_memory) {
    return dnnl_memory_create(out_memory, &layout->desc, engine, data) == dnnl_success;
}

static bool reorder_desc(dnnl_engine_t engine, const odn_layout *from, const odn_layout *to,
                         dnnl_primitive_desc_t *out_described) {
    return dnnl_reorder_primitive_desc_create(out_described, &from->desc, engine, &to->desc, engine,
                                              NULL) == dnnl_success;
}

static bool scratch_layout(dnnl_primitive_desc_t described, odn_layout *out_layout) {
    return take(dnnl_primitive_desc_query_md(described, dnnl_query_scratchpad_md, 0), out_layout);
}

#endif

/* ---- the same in both ---- */

bool odn_wanted(dnnl_primitive_desc_t described, odn_kind kind, int operand,
                odn_layout *out_layout) {
    if (operand == ODN_RESIDUAL) return false; /* it is read as it was described */
    dnnl_query_t what = operand_queries[is_gradient(kind, operand)][operand];
    return take(dnnl_primitive_desc_query_md(described, what, operand == ODN_BIAS ? 1 : 0),
                out_layout);
}

size_t odn_scratchpad(dnnl_primitive_desc_t described) {
    odn_layout layout = {.set = false};
    size_t bytes = scratch_layout(described, &layout) ? odn_bytes(&layout) : 0;
    odn_layout_free(&layout);
    return bytes;
}

bool odn_scratch_memory(dnnl_engine_t engine, dnnl_primitive_desc_t described, void *data,
                        dnnl_memory_t *out_memory) {
    odn_layout layout = {.set = false};
    bool good = scratch_layout(described, &layout) && odn_memory(engine, &layout, data, out_memory);
    odn_layout_free(&layout);
    return good;
}

bool odn_reorder(dnnl_engine_t engine, const odn_layout *from, const odn_layout *to,
                 dnnl_primitive_t *out_primitive) {
    dnnl_primitive_desc_t described = NULL;
    if (!reorder_desc(engine, from, to, &described)) return false;
    bool good = dnnl_primitive_create(out_primitive, described) == dnnl_success;
    dnnl_primitive_desc_destroy(described);
    return good;
}
