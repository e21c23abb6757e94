/* Rows of a table by their numbers, and the sinusoidal features of timesteps. */
#include "ops/embedding.h"

#include <math.h>

#include "ops/views.h"

static kin_status check_ids(kin_infer *infer, int input) {
    kin_dtype dtype = infer->in[input]->dtype;
    if (dtype == KIN_I32 || dtype == KIN_I64) return KIN_OK;
    return kin_infer_fail(infer, "ids must be i32 or i64, not %s", kin_dtype_name(dtype));
}

/* ---- embedding ----------------------------------------------------------------------------- */

static kin_status infer_embedding(kin_infer *infer) {
    kin_status status = kin_infer_inputs(infer, 2, 2);
    if (status == KIN_OK) status = kin_infer_rank(infer, 0, 2, 2);
    if (status == KIN_OK) status = kin_infer_rank(infer, 1, 0, KIN_MAX_RANK - 1);
    if (status == KIN_OK) status = check_ids(infer, 1);
    if (status != KIN_OK) return status;
    const kin_desc *table = infer->in[0], *ids = infer->in[1];
    bool quantised = table->dtype == KIN_Q8_0;
    if (!quantised) status = kin_infer_float(infer, 0);
    if (status != KIN_OK) return status;
    int64_t dims[KIN_MAX_RANK];
    for (int axis = 0; axis < ids->rank; axis++) dims[axis] = ids->dims[axis];
    dims[ids->rank] = table->dims[1];
    infer->out[0] = kin_desc_dense(quantised ? KIN_F32 : table->dtype, ids->rank + 1, dims);
    return KIN_OK;
}

/* Ids may come from anywhere, so they are looked at in double. */
static bool is_row(double id, int64_t rows) {
    return id >= 0 && id < (double)rows;
}

static void reference_embedding(const kin_reference *call) {
    int64_t rows = call->in_desc[0].dims[0], width = call->in_desc[0].dims[1];
    int64_t count = kin_desc_count(&call->in_desc[1]);
    for (int64_t i = 0; i < count; i++) {
        double id = call->in[1][i];
        const double *row = call->in[0] + (is_row(id, rows) ? (int64_t)id * width : 0);
        for (int64_t c = 0; c < width; c++)
            call->out[0][i * width + c] = is_row(id, rows) ? row[c] : NAN;
    }
}

static void gradient_embedding(kin_gradient_call *call) {
    kin_embedding_grad_attrs attrs = {kin_dim(call->graph, call->in[0], 0)};
    kin_tensor inputs[] = {call->out_grad[0], call->in[1]};
    if (call->wanted[0])
        call->in_grad[0] = kin_append1(call->graph, &kin_op_embedding_grad, &attrs, inputs, 2);
}

/* Only the rows that are asked for are read. */
static void cost_embedding(const kin_cost_call *call, kin_cost *cost) {
    cost->bytes = (double)kin_desc_bytes(&call->in[1]) + 2 * (double)kin_desc_bytes(&call->out[0]);
}

#define TABLE(v, c)                                                                                \
    {                                                                                              \
        .dtype = KIN_F32, .rank = 2, .dims = { v, c }                                              \
    }
#define IDS(type, v, r, ...)                                                                       \
    {                                                                                              \
        .dtype = type, .rank = (r), .dims = {__VA_ARGS__}, .fill = KIN_FILL_INDEX, .limit = (v),   \
        .fixed = true, .constant = true                                                            \
    }
#define ROWS(r, ...)                                                                               \
    {                                                                                              \
        .dtype = KIN_F32, .rank = (r), .dims = { __VA_ARGS__ }                                     \
    }

static const kin_case embedding_cases[] = {
    {.name = "one row", .input_count = 2, .inputs = {TABLE(1, 1), IDS(KIN_I32, 1, 1, 3)}},
    {.name = "a scalar id", .input_count = 2, .inputs = {TABLE(5, 7), IDS(KIN_I32, 5, 0, 0)}},
    {.name = "odd width", .input_count = 2, .inputs = {TABLE(7, 5), IDS(KIN_I64, 7, 2, 2, 4)}},
    {.name = "many repeats", .input_count = 2, .inputs = {TABLE(3, 33), IDS(KIN_I32, 3, 1, 200)}},
    {.name = "T5's table",
     .input_count = 2,
     .inputs = {TABLE(32128, 4096), IDS(KIN_I32, 32128, 2, 2, 300)},
     .bench = true},
};

const kin_op kin_op_embedding = {
    .name = "embedding",
    .summary = "table [V, C], ids -> table[ids]; NaN for an id outside of the table",
    .outputs = 1,
    .infer = infer_embedding,
    .reference = reference_embedding,
    .gradient = gradient_embedding,
    .cost = cost_embedding,
    .cases = embedding_cases,
    .case_count = sizeof embedding_cases / sizeof *embedding_cases,
};

/* ---- embedding_grad ------------------------------------------------------------------------ */

static kin_status infer_embedding_grad(kin_infer *infer) {
    const kin_embedding_grad_attrs *attrs = infer->attrs;
    kin_status status = kin_infer_inputs(infer, 2, 2);
    if (status == KIN_OK) status = kin_infer_float(infer, 0);
    if (status == KIN_OK) status = check_ids(infer, 1);
    if (status != KIN_OK) return status;
    const kin_desc *dy = infer->in[0], *ids = infer->in[1];
    bool agree = dy->rank == ids->rank + 1;
    for (int axis = 0; agree && axis < ids->rank; axis++) agree = dy->dims[axis] == ids->dims[axis];
    if (!agree) return kin_infer_fail(infer, "dy must have the shape of ids and one axis more");
    if (attrs->rows < 1) return kin_infer_fail(infer, "the table must have rows");
    infer->out[0] = kin_desc_dense(dy->dtype, 2, (int64_t[]){attrs->rows, dy->dims[ids->rank]});
    return KIN_OK;
}

static void reference_embedding_grad(const kin_reference *call) {
    int64_t rows = call->out_desc[0].dims[0], width = call->out_desc[0].dims[1];
    int64_t count = kin_desc_count(&call->in_desc[1]);
    for (int64_t i = 0; i < rows * width; i++) call->out[0][i] = 0;
    for (int64_t i = 0; i < count; i++) {
        double id = call->in[1][i];
        for (int64_t c = 0; is_row(id, rows) && c < width; c++)
            call->out[0][(int64_t)id * width + c] += call->in[0][i * width + c];
    }
}

/* Each row may be the sum of all. */
static void cost_embedding_grad(const kin_cost_call *call, kin_cost *cost) {
    cost->flops = (double)kin_desc_count(&call->in[0]);
    cost->reduction = (double)kin_desc_count(&call->in[1]);
}

static const kin_embedding_grad_attrs rows1 = {1}, rows3 = {3}, rows5 = {5}, rows103 = {103};

static const kin_case embedding_grad_cases[] = {
    {.name = "one row",
     .attrs = &rows1,
     .input_count = 2,
     .inputs = {ROWS(2, 3, 1), IDS(KIN_I32, 1, 1, 3)}},
    {.name = "a scalar id",
     .attrs = &rows5,
     .input_count = 2,
     .inputs = {ROWS(1, 7), IDS(KIN_I32, 5, 0, 0)}},
    {.name = "rows that do not occur",
     .attrs = &rows103,
     .input_count = 2,
     .inputs = {ROWS(3, 2, 9, 33), IDS(KIN_I64, 103, 2, 2, 9)}},
    {.name = "many repeats",
     .attrs = &rows3,
     .input_count = 2,
     .inputs = {ROWS(2, 200, 130), IDS(KIN_I32, 3, 1, 200)}},
};

const kin_op kin_op_embedding_grad = {
    .name = "embedding_grad",
    .summary = "dy, ids -> the table's gradient: rows of dy added up at their ids, in order",
    .attrs_size = sizeof(kin_embedding_grad_attrs),
    .outputs = 1,
    .infer = infer_embedding_grad,
    .reference = reference_embedding_grad,
    .cost = cost_embedding_grad,
    .cases = embedding_grad_cases,
    .case_count = sizeof embedding_grad_cases / sizeof *embedding_grad_cases,
};

/* ---- timestep_embedding -------------------------------------------------------------------- */

static kin_status infer_timestep(kin_infer *infer) {
    const kin_timestep_embedding_attrs *attrs = infer->attrs;
    kin_status status = kin_infer_inputs(infer, 1, 1);
    if (status == KIN_OK) status = kin_infer_rank(infer, 0, 1, 1);
    if (status != KIN_OK) return status;
    kin_dtype dtype = infer->in[0]->dtype;
    if (dtype != KIN_F32 && dtype != KIN_I32 && dtype != KIN_I64)
        return kin_infer_fail(infer, "t must be f32, i32 or i64, not %s", kin_dtype_name(dtype));
    if (attrs->dim < 2 || !(attrs->max_period > 0) || !isfinite(attrs->max_period))
        return kin_infer_fail(infer, "needs a dim of at least 2, not %lld, and a positive period",
                              (long long)attrs->dim);
    infer->out[0] = kin_desc_dense(KIN_F32, 2, (int64_t[]){infer->in[0]->dims[0], attrs->dim});
    return KIN_OK;
}

static void reference_timestep(const kin_reference *call) {
    const kin_timestep_embedding_attrs *attrs = call->attrs;
    int64_t half = attrs->dim / 2;
    for (int64_t i = 0; i < call->in_desc[0].dims[0]; i++) {
        double *out = call->out[0] + i * attrs->dim;
        for (int64_t k = 0; k < half; k++) {
            double angle = call->in[0][i] * pow(attrs->max_period, -(double)k / (double)half);
            out[k] = cos(angle);
            out[half + k] = sin(angle);
        }
        if (attrs->dim % 2 != 0) out[attrs->dim - 1] = 0;
    }
}

static void cost_timestep(const kin_cost_call *call, kin_cost *cost) {
    cost->flops = 40 * (double)kin_desc_count(&call->out[0]);
}

static const kin_timestep_embedding_attrs pair = {2, 10000}, odd = {7, 10000}, dit = {256, 10000};

static const kin_case timestep_cases[] = {
    {.name = "one pair", .attrs = &pair, .input_count = 1, .inputs = {IDS(KIN_F32, 1000, 1, 3)}},
    {.name = "odd width", .attrs = &odd, .input_count = 1, .inputs = {IDS(KIN_F32, 1000, 1, 2)}},
    {.name = "whole numbers",
     .attrs = &dit,
     .input_count = 1,
     .inputs = {IDS(KIN_I64, 1000, 1, 2)}},
    {.name = "large angles", .attrs = &dit, .input_count = 1, .inputs = {IDS(KIN_F32, 1000, 1, 5)}},
};

const kin_op kin_op_timestep_embedding = {
    .name = "timestep_embedding",
    .summary = "t [B] -> [cos(t f_i) | sin(t f_i)], f_i = max_period^(-i / (dim / 2)), in double",
    .attrs_size = sizeof(kin_timestep_embedding_attrs),
    .outputs = 1,
    .infer = infer_timestep,
    .reference = reference_timestep,
    .cost = cost_timestep,
    .cases = timestep_cases,
    .case_count = sizeof timestep_cases / sizeof *timestep_cases,
};

/* ---- builders ------------------------------------------------------------------------------ */

kin_tensor kin_embedding(kin_graph *graph, kin_tensor table, kin_tensor ids) {
    kin_tensor inputs[] = {table, ids};
    return kin_append1(graph, &kin_op_embedding, NULL, inputs, 2);
}

kin_tensor kin_gather_rows(kin_graph *graph, kin_tensor table, kin_tensor ids) {
    if (kin_rank(graph, table) != 1) return kin_embedding(graph, table, ids);
    kin_desc desc = *kin_tensor_desc(graph, ids);
    kin_tensor column = kin_reshape(graph, table, 2, (int64_t[]){-1, 1});
    return kin_reshape(graph, kin_embedding(graph, column, ids), desc.rank, desc.dims);
}

kin_tensor kin_timestep_embedding(kin_graph *graph, kin_tensor t, int dim, double max_period) {
    kin_timestep_embedding_attrs attrs = {dim, max_period};
    return kin_append1(graph, &kin_op_timestep_embedding, &attrs, &t, 1);
}
