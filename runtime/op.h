/* What an op is. An op is one file in ops/ that ends in one constant of this type; ops/list.c lists
 * them all. The runtime knows no op by name; the few that it needs itself it finds by role.
 */
#ifndef KIN_RUNTIME_OP_H
#define KIN_RUNTIME_OP_H

#include "runtime/graph.h"

#ifdef __cplusplus
extern "C" {
#endif

enum { KIN_MAX_OUTPUTS = 4, KIN_MAX_CASE_INPUTS = 10 };

typedef enum kin_op_flags {
    KIN_OP_VIEW = 1,   /* output 0 is input 0 seen otherwise: infer gives strides and an offset */
    KIN_OP_UPDATE = 2, /* outputs overwrite the persistent inputs named in `aliases` */
    KIN_OP_ROLE_COPY = 4, /* dense copy of input 0, same dtype: the planner's */
    KIN_OP_ROLE_ADD = 8,  /* sum of two tensors of one shape: joins gradients */
    KIN_OP_ROLE_ONE = 16, /* (attrs: kin_desc) a tensor of ones: the gradient of the loss */
    KIN_OP_COMPOSITE = 32, /* every device can do without a kernel: lower gives simpler ops */
    KIN_OP_PRODUCT = 64,   /* sums of products, whose operands some devices round first
                              (kin_device_info.product_dtype) */
    KIN_OP_COLLECTIVE = 128, /* a sum over the ranks of the device's group; attrs: kin_reduction */
    KIN_OP_ROUNDS = 256 /* what it makes on the way may be rounded to the dtype of input 0, as its
                           lowering does: f32 results have the tolerance of that dtype */
} kin_op_flags;

/* infer: fills out[0..out_count), strides dense unless the op is a view. */
typedef struct kin_infer {
    kin_graph *graph;
    const struct kin_op *op;
    const void *attrs;
    int in_count;
    const kin_desc *const *in; /* NULL where the input is KIN_NONE */
    int out_count;             /* preset to op->outputs */
    kin_desc out[KIN_MAX_OUTPUTS];
    int64_t view_offset[KIN_MAX_OUTPUTS]; /* views: elements from input 0's first element to output
                                             j's first element */
} kin_infer;

/* Makes a shape error: the message gets the op, all input shapes and the model path. Returns
 * KIN_INVALID. */
KIN_API kin_status kin_infer_fail(kin_infer *infer, const char *format, ...) KIN_PRINTF(2, 3);
/* The most common rules. Each returns KIN_OK or fails with a message. */
KIN_API kin_status kin_infer_inputs(kin_infer *infer, int min_count, int max_count);
KIN_API kin_status kin_infer_rank(kin_infer *infer, int input, int min_rank, int max_rank);
KIN_API kin_status kin_infer_same_shape(kin_infer *infer, int a, int b);
KIN_API kin_status kin_infer_float(kin_infer *infer, int input); /* f32, f16 or bf16 */
KIN_API kin_status kin_infer_dtype(kin_infer *infer, int input, kin_dtype dtype);
/* out[index] = dense tensor of the shape of an input, with the given dtype. */
KIN_API void kin_infer_like(kin_infer *infer, int index, int input, kin_dtype dtype);

/* reference: dense doubles in, dense doubles out; integers are whole doubles. Plain loops. */
typedef struct kin_reference {
    const struct kin_op *op;
    const void *attrs;
    int in_count;
    const kin_desc *in_desc; /* dense; dtype is the tensor's own */
    const double *const *in; /* NULL where the input is KIN_NONE */
    int out_count;
    const kin_desc *out_desc;
    double *const *out;
} kin_reference;

/* gradient: for each input with wanted[i], appends nodes and sets in_grad[i] (shape and dtype of
 * the input). KIN_NONE there means zero. out_grad[j] is KIN_NONE where the loss does not depend on
 * output j. */
typedef struct kin_gradient_call {
    kin_graph *graph;
    const struct kin_op *op;
    const void *attrs;
    int in_count;
    const kin_tensor *in;
    const bool *wanted;
    int out_count;
    const kin_tensor *out;
    const kin_tensor *out_grad;
    kin_tensor *in_grad;
} kin_gradient_call;

/* lower: appends simpler ops that compute the same, and sets out[]. */
typedef struct kin_lower_call {
    kin_graph *graph;
    const struct kin_op *op;
    const void *attrs;
    int in_count;
    const kin_tensor *in;
    int out_count;
    kin_tensor *out;
} kin_lower_call;

/* absorb: planning found a node of this op (the producer) whose only output has one reader, which
 * reads it as it is or as another shape of the same elements in the same order. If one node computes
 * both, absorb says which (out_op, out_attrs, out_in, out_result) and returns true. That node's result
 * must have the shape of the producer's output or the reader's, the reader's dtype, and be as exact
 * as the two: it may leave out the rounding between them. Descriptions of absent inputs have rank
 * -1. */
enum { KIN_MAX_ABSORBED_INPUTS = 8, KIN_MAX_ABSORBED_WORDS = 8 };

typedef struct kin_absorb_call {
    const struct kin_op *op;
    const void *attrs;
    int in_count;
    const kin_desc *in;
    kin_desc out;
    const struct kin_op *reader;
    const void *reader_attrs;
    int reader_in_count;
    const kin_desc *reader_in; /* as the reader sees them */
    int reader_operand;        /* which of them is the producer's output */
    kin_desc reader_out;
    const struct kin_op *out_op;
    kin_desc out_result; /* preset: the producer's shape, the reader's dtype */
    uint64_t out_attrs[KIN_MAX_ABSORBED_WORDS]; /* out_op->attrs_size bytes of it; preset to zeros */
    int out_in_count;
    /* i: the producer's input i; in_count + k: the reader's input k; -1: absent */
    int out_in[KIN_MAX_ABSORBED_INPUTS];
} kin_absorb_call;

typedef struct kin_cost {
    double flops;
    double bytes;     /* preset: each input read once, each output written once */
    double reduction; /* the longest sum behind one output element; sets the tolerance; preset 1 */
} kin_cost;

typedef struct kin_cost_call {
    const void *attrs;
    int in_count;
    const kin_desc *in;
    int out_count;
    const kin_desc *out;
} kin_cost_call;

/* A case: inputs to try an op on. The op suite, the gradient checks, the conformance run, the
 * benchmarks and docs/ops.md walk them. */
typedef enum kin_case_fill {
    KIN_FILL_NORMAL,   /* N(0, 1) * scale; scale 0 reads as 1 */
    KIN_FILL_POSITIVE, /* uniform in [0.5, 1.5] * scale */
    KIN_FILL_INDEX,    /* whole numbers 0 .. limit-1 */
    KIN_FILL_LENGTH,   /* whole numbers 0 .. limit, both ends certain where there is room */
    KIN_FILL_COUNT,    /* 0, 1, 2, ... */
    KIN_FILL_ZERO
} kin_case_fill;

typedef enum kin_case_layout {
    KIN_LAYOUT_DENSE,
    KIN_LAYOUT_TRANSPOSED, /* the first two axes lie swapped in memory */
    KIN_LAYOUT_PADDED      /* a slice, with an offset, of a tensor wider along the last axis */
} kin_case_layout;

typedef struct kin_case_input {
    kin_dtype dtype; /* KIN_F32 is replaced by the dtype under test, unless `fixed` */
    int rank;        /* -1: the input is KIN_NONE */
    int64_t dims[KIN_MAX_RANK];
    kin_case_fill fill;
    double scale;
    int64_t limit;
    kin_case_layout layout;
    bool fixed;    /* keep the dtype */
    bool constant; /* no gradient check for this input */
} kin_case_input;

typedef struct kin_case {
    const char *name;
    const void *attrs;
    int input_count;
    kin_case_input inputs[KIN_MAX_CASE_INPUTS];
    bool bench; /* too large for the double reference: benchmarks only */
} kin_case;

typedef struct kin_op {
    const char *name;
    const char *summary; /* one line: formula and source */
    unsigned flags;      /* kin_op_flags */
    size_t attrs_size;   /* 0: none */
    int outputs;
    signed char aliases[KIN_MAX_OUTPUTS]; /* KIN_OP_UPDATE: 1 + input that output j overwrites */
    unsigned optional;                    /* bit i: input i may be KIN_NONE */
    kin_status (*infer)(kin_infer *infer);
    void (*reference)(const kin_reference *call);
    void (*gradient)(kin_gradient_call *call);               /* NULL: not differentiable */
    void (*lower)(kin_lower_call *call);                     /* NULL: primitive */
    void (*cost)(const kin_cost_call *call, kin_cost *cost); /* NULL: the preset */
    const kin_case *cases;
    size_t case_count;
    bool (*absorb)(kin_absorb_call *call); /* NULL: never becomes one with its reader */
} kin_op;

/* Every op, NULL at the end; defined in ops/list.c. */
KIN_API extern const kin_op *const kin_op_list[];
/* The op of a name, or NULL. */
KIN_API const kin_op *kin_op_find(const char *name);
/* The op that has a KIN_OP_ROLE_... flag. */
KIN_API const kin_op *kin_op_with_role(unsigned role);

#ifdef __cplusplus
}
#endif
#endif
