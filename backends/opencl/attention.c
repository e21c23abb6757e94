/* Kernels of attention and attention_grad: which variant, and the launches.
 *
 * attention_lanes.cl reads the rows of one side element by element in floats; rows of other storage
 * are first copied to scratch memory. attention_tiles.cl reads all operands as they lie. */
#include "backends/opencl/product.h"
#include "ops/attention_attrs.h"

#include <stdio.h>
#include <string.h>

enum { LANES_MOST = 1024, TILES_MOST = 512 }; /* sizes of a head */

/* Inputs of the two ops. */
enum { Q, K, V, LENGTHS, BIAS };
enum { O = 3, LSE, D_O, D_LSE, GRAD_LENGTHS, GRAD_BIAS };

/* As in attention_shape.cl. */
typedef struct attention_shape {
    cl_int b1, heads, queries, keys;
    cl_int q[4], k[4], v[4], o[4], d_o[4], bias[5];
    cl_float scale;
    cl_int has_lengths, has_bias;
} attention_shape;

/* A call taken apart; operands that are not there are NULL. */
typedef struct attention_call {
    attention_shape shape;
    int b0, size;
    const kin_operand *lengths, *bias;
    bool tiles;
} attention_call;

/* Steps of batch, batch, token and head. */
static void steps_of(const kin_desc *desc, cl_int out_steps[4]) {
    const int64_t *tail = desc->strides + desc->rank - 3;
    out_steps[0] = (cl_int)desc->strides[0];
    out_steps[1] = desc->rank == 5 ? (cl_int)desc->strides[1] : 0;
    out_steps[2] = (cl_int)tail[0];
    out_steps[3] = (cl_int)tail[1];
}

/* Steps of batch, batch, head, query and key; 0 where the bias repeats. */
static void bias_steps(const kin_desc *desc, cl_int out_steps[5], cl_int out_dims[5]) {
    for (int a = 0; a < 5; a++) {
        const int own = desc->rank == 5 || a == 0 ? a : a - 1;
        const bool absent = desc->rank == 4 && a == 1;
        out_dims[a] = absent ? 1 : (cl_int)desc->dims[own];
        out_steps[a] = out_dims[a] == 1 ? 0 : (cl_int)desc->strides[own];
    }
}

static bool by_tiles(const kin_device *device) {
    return kin_opencl_tuning_of(device).product != KIN_OPENCL_PANELS;
}

static attention_call take_apart(const kin_device *device, const kin_call *call, int lengths,
                                 int bias) {
    const kin_attention_attrs *attrs = call->attrs;
    const kin_desc *q = &call->in[Q].desc, *k = &call->in[K].desc;
    attention_call c = {.b0 = (int)q->dims[0],
                        .size = (int)q->dims[q->rank - 1],
                        .lengths = kin_opencl_has(call, lengths) ? &call->in[lengths] : NULL,
                        .bias = kin_opencl_has(call, bias) ? &call->in[bias] : NULL,
                        .tiles = by_tiles(device)};
    attention_shape *s = &c.shape;
    cl_int dims[5];
    s->b1 = q->rank == 5 ? (cl_int)q->dims[1] : 1;
    s->heads = (cl_int)q->dims[q->rank - 2];
    s->queries = (cl_int)q->dims[q->rank - 3];
    s->keys = (cl_int)k->dims[k->rank - 3];
    s->scale = (cl_float)attrs->scale;
    s->has_lengths = c.lengths != NULL;
    s->has_bias = c.bias != NULL;
    steps_of(q, s->q);
    steps_of(k, s->k);
    steps_of(&call->in[V].desc, s->v);
    steps_of(&call->out[0].desc, s->o);
    if (c.bias != NULL) bias_steps(&c.bias->desc, s->bias, dims);
    return c;
}

static int64_t heads_of(const attention_call *c) {
    return (int64_t)c->b0 * c->shape.b1 * c->shape.heads;
}

/* Work-items along one side of a group of tiles: fewer where local memory is short, 0 if even one
 * is too many. */
static int side_of(const kin_device *device) {
    enum { CHUNK = 16 };
    size_t side = (size_t)kin_opencl_tuning_of(device).side;
    for (; side > 0; side /= 2) {
        const size_t tile = 2 * side;
        if (sizeof(float) * ((2 * CHUNK + 2 * tile) * (tile + 1) + 3 * tile) <=
            kin_opencl_of(device)->local_memory)
            break;
    }
    return (int)side;
}

/* Heads lie densely, operands have one storage, and all is small enough. */
static bool can_take(const kin_device *device, const kin_call *call, const int *operands,
                     int operand_count, int lengths, int bias) {
    const kin_dtype dtype = call->in[Q].desc.dtype;
    const kin_desc *q = &call->in[Q].desc;
    if (!kin_opencl_is_real(dtype) || !kin_opencl_fits(call)) return false;
    for (int i = 0; i < operand_count; i++) {
        const kin_desc *desc = &call->in[operands[i]].desc;
        if (desc->dtype != dtype || desc->strides[desc->rank - 1] != 1) return false;
    }
    if (kin_opencl_has(call, bias) && !kin_opencl_is_real(call->in[bias].desc.dtype)) return false;
    if (kin_opencl_has(call, lengths) && call->in[lengths].desc.strides[0] != 1) return false;
    if (!by_tiles(device)) return q->dims[q->rank - 1] <= LANES_MOST;
    return q->dims[q->rank - 1] <= TILES_MOST && side_of(device) > 0;
}

/* ---- copies of rows in floats ---- */

typedef struct rows_shape {
    cl_int b1, tokens, heads, steps[4], count;
} rows_shape;

static int64_t rows_in(const kin_desc *desc) {
    return kin_desc_count(desc) / desc->dims[desc->rank - 1];
}

static size_t aligned(const kin_device *device, int64_t floats) {
    const size_t unit = device->info.alignment;
    return ((size_t)floats * sizeof(float) + unit - 1) / unit * unit;
}

/* Bytes of a copy of the operand, 0 if none is needed. */
static size_t copy_bytes(const kin_device *device, const kin_operand *x) {
    if (by_tiles(device) || x->desc.dtype == KIN_F32) return 0;
    return aligned(device, kin_desc_count(&x->desc));
}

/* Where the operand is to be read: as it lies, or, after a copy, `*skip` bytes into scratch memory,
 * which then grows by the copy; steps are changed to those of the copy. */
static kin_status as_rows(kin_device *device, kin_commands *commands, const kin_call *call,
                          const kin_operand *x, size_t *skip, cl_int steps[4],
                          kin_opencl_place *out_place) {
    const kin_desc *desc = &x->desc;
    const int64_t *tail = desc->dims + desc->rank - 3;
    const size_t bytes = copy_bytes(device, x);
    char defines[64];
    *out_place = kin_opencl_place_of(x, 0);
    if (bytes == 0) return KIN_OK;
    rows_shape s = {.b1 = desc->rank == 5 ? (cl_int)desc->dims[1] : 1,
                    .tokens = (cl_int)tail[0],
                    .heads = (cl_int)tail[1],
                    .count = (cl_int)rows_in(desc)};
    memcpy(s.steps, steps, sizeof s.steps);
    *out_place = kin_opencl_scratch_place(call, *skip, KIN_F32);
    *skip += bytes;
    steps[3] = (cl_int)tail[2];
    steps[2] = steps[3] * s.heads;
    steps[1] = steps[2] * s.tokens;
    steps[0] = steps[1] * s.b1;
    snprintf(defines, sizeof defines, "-DD=%d -DTQ=%s -DTBIAS=f32", (int)tail[2],
             kin_opencl_type(x));
    kin_opencl_launch launch =
        kin_opencl_start(device, commands, "attention_parts", defines, "attention_rows");
    kin_opencl_set_operand(&launch, x);
    kin_opencl_set_place(&launch, out_place);
    kin_opencl_set_bytes(&launch, &s, sizeof s);
    return kin_opencl_finish_items(&launch, s.count);
}

/* ---- the main kernels ---- */

/* Vectors of lanes: one if that is enough for all rows. */
static int lanes_of(const kin_device *device, int rows) {
    return rows > kin_opencl_of(device)->vector ? 2 : 1;
}

static kin_opencl_launch start(kin_device *device, kin_commands *commands, const attention_call *c,
                               kin_dtype dtype, int rows, const char *kernel) {
    char defines[128];
    snprintf(defines, sizeof defines, "-DD=%d -D%s=%d -DTQ=%s -DTBIAS=%s", c->size,
             c->tiles ? "SIDE" : "LANES", c->tiles ? side_of(device) : lanes_of(device, rows),
             kin_dtype_name(dtype), c->bias != NULL ? kin_opencl_type(c->bias) : "f32");
    return kin_opencl_start(device, commands,
                            c->tiles ? "attention_shape attention_tiles"
                                     : "attention_shape transpose attention_lanes",
                            defines, kernel);
}

static void set_optional(kin_opencl_launch *launch, const kin_operand *operand) {
    if (operand != NULL) kin_opencl_set_operand(launch, operand);
    else kin_opencl_set_memory(launch, NULL, 0, 1);
}

/* One group for each tile of rows of each head. */
static kin_status finish(kin_device *device, kin_opencl_launch *launch, const attention_call *c,
                         int rows) {
    const int side = c->tiles ? side_of(device) : 1;
    const int tile = c->tiles ? 2 * side : lanes_of(device, rows) * kin_opencl_of(device)->vector;
    const size_t groups = ((size_t)rows + (size_t)tile - 1) / (size_t)tile;
    const size_t global[2] = {groups * (size_t)side, (size_t)heads_of(c) * (size_t)side};
    const size_t local[2] = {(size_t)side, (size_t)side};
    kin_opencl_set_bytes(launch, &c->shape, sizeof c->shape);
    return kin_opencl_finish(launch, 2, global, local);
}

/* ---- attention ---- */

static bool can_forward(const kin_device *device, const kin_call *call) {
    static const int operands[] = {Q, K, V};
    return can_take(device, call, operands, 3, LENGTHS, BIAS);
}

static size_t forward_scratch(const kin_device *device, const kin_call *call) {
    return copy_bytes(device, &call->in[K]) + copy_bytes(device, &call->in[V]);
}

static kin_status launch_forward(kin_device *device, kin_commands *commands, const kin_call *call) {
    attention_call c = take_apart(device, call, LENGTHS, BIAS);
    kin_opencl_place k, v;
    size_t skip = 0;
    kin_status status = as_rows(device, commands, call, &call->in[K], &skip, c.shape.k, &k);
    if (status == KIN_OK)
        status = as_rows(device, commands, call, &call->in[V], &skip, c.shape.v, &v);
    if (status != KIN_OK) return status;
    kin_opencl_launch launch =
        start(device, commands, &c, call->in[Q].desc.dtype, c.shape.queries, "attention_forward");
    kin_opencl_set_operand(&launch, &call->in[Q]);
    kin_opencl_set_place(&launch, &k);
    kin_opencl_set_place(&launch, &v);
    set_optional(&launch, c.lengths);
    set_optional(&launch, c.bias);
    kin_opencl_set_operand(&launch, &call->out[0]);
    kin_opencl_set_operand(&launch, &call->out[1]);
    return finish(device, &launch, &c, c.shape.queries);
}

/* ---- attention_grad ---- */

static bool can_grad(const kin_device *device, const kin_call *call) {
    static const int operands[] = {Q, K, V, O, D_O};
    if (!kin_desc_is_dense(&call->in[LSE].desc)) return false;
    if (kin_opencl_has(call, D_LSE) && !kin_desc_is_dense(&call->in[D_LSE].desc)) return false;
    return can_take(device, call, operands, 5, GRAD_LENGTHS, GRAD_BIAS);
}

static size_t delta_bytes(const kin_device *device, const kin_call *call) {
    return aligned(device, kin_desc_count(&call->in[LSE].desc));
}

static size_t grad_scratch(const kin_device *device, const kin_call *call) {
    return delta_bytes(device, call) + copy_bytes(device, &call->in[Q]) +
           copy_bytes(device, &call->in[K]) + copy_bytes(device, &call->in[V]) +
           copy_bytes(device, &call->in[D_O]);
}

/* A gradient being recorded; the places are those of q, k, v and d_o in floats (lanes) or as they
 * lie (tiles), and the steps of all of them are those there. */
typedef struct gradient {
    kin_device *device;
    kin_commands *commands;
    const kin_call *call;
    attention_call c; /* with the steps of the call's operands */
    kin_opencl_place q, k, v, d_o, delta;
    attention_shape rows; /* with the steps of the places */
} gradient;

typedef struct delta_shape {
    cl_int b1, queries, heads, o[4], d_o[4], count, has_d_lse;
} delta_shape;

static kin_opencl_launch start_parts(const gradient *g, const char *kernel) {
    char defines[128];
    snprintf(defines, sizeof defines, "-DD=%d -DTQ=%s -DTBIAS=%s", g->c.size,
             kin_opencl_type(&g->call->in[Q]),
             g->c.bias != NULL ? kin_opencl_type(g->c.bias) : "f32");
    return kin_opencl_start(g->device, g->commands, "attention_parts", defines, kernel);
}

static kin_status make_delta(const gradient *g) {
    const kin_call *call = g->call;
    const attention_shape *s = &g->c.shape;
    delta_shape d = {.b1 = s->b1,
                     .queries = s->queries,
                     .heads = s->heads,
                     .count = (cl_int)kin_desc_count(&call->in[LSE].desc),
                     .has_d_lse = kin_opencl_has(call, D_LSE)};
    steps_of(&call->in[O].desc, d.o);
    memcpy(d.d_o, s->d_o, sizeof d.d_o);
    kin_opencl_launch launch = start_parts(g, "attention_delta");
    kin_opencl_set_operand(&launch, &call->in[O]);
    kin_opencl_set_operand(&launch, &call->in[D_O]);
    set_optional(&launch, d.has_d_lse ? &call->in[D_LSE] : NULL);
    kin_opencl_set_place(&launch, &g->delta);
    kin_opencl_set_bytes(&launch, &d, sizeof d);
    return kin_opencl_finish_items(&launch, d.count);
}

static void set_common(const gradient *g, kin_opencl_launch *launch) {
    set_optional(launch, g->c.lengths);
    set_optional(launch, g->c.bias);
}

static kin_status run_query(const gradient *g) {
    const kin_call *call = g->call;
    attention_call c = g->c;
    memcpy(c.shape.k, g->rows.k, sizeof c.shape.k);
    memcpy(c.shape.v, g->rows.v, sizeof c.shape.v);
    steps_of(&call->out[0].desc, c.shape.o);
    kin_opencl_launch launch = start(g->device, g->commands, &c, call->in[Q].desc.dtype,
                                     c.shape.queries, "attention_grad_query");
    kin_opencl_set_operand(&launch, &call->in[Q]);
    kin_opencl_set_place(&launch, &g->k);
    kin_opencl_set_place(&launch, &g->v);
    set_common(g, &launch);
    kin_opencl_set_operand(&launch, &call->in[D_O]);
    kin_opencl_set_operand(&launch, &call->in[LSE]);
    kin_opencl_set_place(&launch, &g->delta);
    kin_opencl_set_operand(&launch, &call->out[0]);
    return finish(g->device, &launch, &c, c.shape.queries);
}

static kin_status run_key(const gradient *g) {
    const kin_call *call = g->call;
    attention_call c = g->c;
    memcpy(c.shape.q, g->rows.q, sizeof c.shape.q);
    memcpy(c.shape.d_o, g->rows.d_o, sizeof c.shape.d_o);
    steps_of(&call->out[1].desc, c.shape.o);
    kin_opencl_launch launch = start(g->device, g->commands, &c, call->in[Q].desc.dtype,
                                     c.shape.keys, "attention_grad_key");
    kin_opencl_set_place(&launch, &g->q);
    kin_opencl_set_operand(&launch, &call->in[K]);
    kin_opencl_set_operand(&launch, &call->in[V]);
    set_common(g, &launch);
    kin_opencl_set_place(&launch, &g->d_o);
    kin_opencl_set_operand(&launch, &call->in[LSE]);
    kin_opencl_set_place(&launch, &g->delta);
    kin_opencl_set_operand(&launch, &call->out[1]);
    kin_opencl_set_operand(&launch, &call->out[2]);
    return finish(g->device, &launch, &c, c.shape.keys);
}

typedef struct bias_shape {
    cl_int b0, b1, heads, queries, keys;
    cl_int q[4], k[4], v[4], d_o[4], bias[5], dims[5];
    cl_int count;
    cl_float scale;
    cl_int has_lengths;
} bias_shape;

static kin_status run_bias(const gradient *g) {
    const kin_call *call = g->call;
    const attention_shape *s = &g->c.shape;
    bias_shape b = {.b0 = g->c.b0,
                    .b1 = s->b1,
                    .heads = s->heads,
                    .queries = s->queries,
                    .keys = s->keys,
                    .count = (cl_int)kin_desc_count(&g->c.bias->desc),
                    .scale = s->scale,
                    .has_lengths = s->has_lengths};
    memcpy(b.q, s->q, sizeof b.q);
    memcpy(b.k, s->k, sizeof b.k);
    memcpy(b.v, s->v, sizeof b.v);
    memcpy(b.d_o, s->d_o, sizeof b.d_o);
    bias_steps(&g->c.bias->desc, b.bias, b.dims);
    kin_opencl_launch launch = start_parts(g, "attention_grad_bias");
    for (int i = Q; i <= V; i++) kin_opencl_set_operand(&launch, &call->in[i]);
    set_common(g, &launch);
    kin_opencl_set_operand(&launch, &call->in[D_O]);
    kin_opencl_set_operand(&launch, &call->in[LSE]);
    kin_opencl_set_place(&launch, &g->delta);
    kin_opencl_set_operand(&launch, &call->out[3]);
    kin_opencl_set_bytes(&launch, &b, sizeof b);
    return kin_opencl_finish_items(&launch, b.count);
}

static kin_status launch_grad(kin_device *device, kin_commands *commands, const kin_call *call) {
    gradient g = {device, commands, call, take_apart(device, call, GRAD_LENGTHS, GRAD_BIAS),
                  .delta = kin_opencl_scratch_place(call, 0, KIN_F32)};
    size_t skip = delta_bytes(device, call);
    steps_of(&call->in[D_O].desc, g.c.shape.d_o);
    g.rows = g.c.shape;
    kin_status status = make_delta(&g);
    if (status == KIN_OK)
        status = as_rows(device, commands, call, &call->in[Q], &skip, g.rows.q, &g.q);
    if (status == KIN_OK)
        status = as_rows(device, commands, call, &call->in[K], &skip, g.rows.k, &g.k);
    if (status == KIN_OK)
        status = as_rows(device, commands, call, &call->in[V], &skip, g.rows.v, &g.v);
    if (status == KIN_OK)
        status = as_rows(device, commands, call, &call->in[D_O], &skip, g.rows.d_o, &g.d_o);
    if (status == KIN_OK) status = run_query(&g);
    if (status == KIN_OK) status = run_key(&g);
    return status == KIN_OK && call->out_count == 4 ? run_bias(&g) : status;
}

const kin_kernel kin_opencl_attention_kernels[] = {
    {"attention", "opencl_attention", 1u << Q | 1u << K | 1u << V | 1u << BIAS, 0, can_forward,
     forward_scratch, launch_forward},
    {"attention_grad", "opencl_attention_grad",
     1u << Q | 1u << K | 1u << V | 1u << O | 1u << D_O | 1u << GRAD_BIAS, 0, can_grad, grad_scratch,
     launch_grad},
    {0},
};
