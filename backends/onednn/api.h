/* What this backend wants of oneDNN, in one form for the C API of 2.x (Debian 12 has 2.6) and
 * of 3.x: they differ in what a memory descriptor is and in how a primitive is described. api.c is
 * the only other file that knows. The 3.x half is written by its documentation and has not been
 * compiled here.
 */
#ifndef KIN_BACKENDS_ONEDNN_API_H
#define KIN_BACKENDS_ONEDNN_API_H

#include <oneapi/dnnl/dnnl.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* How a tensor of f32 lies in memory; zeroed: none. */
typedef struct odn_layout {
    bool set;
    dnnl_memory_desc_t desc;
} odn_layout;

/* All functions return false, and nothing in their last argument, where oneDNN refuses. */
bool odn_plain(int rank, const int64_t *dims, const int64_t *strides, odn_layout *out_layout);
/* The primitive chooses. */
bool odn_any(int rank, const int64_t *dims, odn_layout *out_layout);
void odn_layout_free(odn_layout *layout);
bool odn_same(const odn_layout *a, const odn_layout *b);
size_t odn_bytes(const odn_layout *layout);

typedef enum odn_kind {
    ODN_PRODUCT,    /* src [m, k], weights [k, n], bias [1, n], dst and residual [m, n] */
    ODN_CONV,       /* src, weights, bias, dst */
    ODN_CONV_INPUT, /* diff_src, weights, diff_dst in the places of src, weights, dst */
    ODN_CONV_WEIGHT /* src, diff_weights, diff_dst */
} odn_kind;

enum { ODN_SRC, ODN_WEIGHTS, ODN_BIAS, ODN_DST, ODN_RESIDUAL, ODN_OPERANDS };

typedef struct odn_request {
    odn_kind kind;
    odn_layout operands[ODN_OPERANDS];
    dnnl_dims_t strides, before, after; /* of convolutions, as many as there are axes */
    dnnl_alg_kind_t activation; /* of a product, before the residual is added; undef: none */
} odn_request;

/* A primitive whose scratch memory the caller gives. */
bool odn_describe(dnnl_engine_t engine, const odn_request *request,
                  dnnl_primitive_desc_t *out_described);
/* The layout that the primitive wants for an operand. */
bool odn_wanted(dnnl_primitive_desc_t described, odn_kind kind, int operand,
                odn_layout *out_layout);
size_t odn_scratchpad(dnnl_primitive_desc_t described);
/* DNNL_ARG_... of an operand. */
int odn_argument(const odn_request *request, int operand);
bool odn_memory(dnnl_engine_t engine, const odn_layout *layout, void *data,
                dnnl_memory_t *out_memory);
bool odn_scratch_memory(dnnl_engine_t engine, dnnl_primitive_desc_t described, void *data,
                        dnnl_memory_t *out_memory);
bool odn_reorder(dnnl_engine_t engine, const odn_layout *from, const odn_layout *to,
                 dnnl_primitive_t *out_primitive);

#endif
