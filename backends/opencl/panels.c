/* Products in registers (panels.cl): which operand is packed, and in which parts. */
#include "backends/opencl/panels.h"

#include <stdio.h>
#include <string.h>

enum {
    VECTOR_PART = 4 << 20, /* floats of packed panels at a time */
    SCALAR_PART = 2 << 20
};

/* ---- the kernels ---- */

int kin_opencl_panel_width(const kin_device *device) {
    return 2 * kin_opencl_of(device)->vector;
}

static int64_t tiles_of(int64_t count, int64_t size) {
    return (count + size - 1) / size;
}

kin_status kin_opencl_pack(kin_device *device, kin_commands *commands, kin_opencl_place from,
                           kin_opencl_place to, const kin_opencl_place *table, int width, int count,
                           const kin_opencl_pack_shape *shape) {
    enum { DEPTH_BLOCK = 64, COLUMN_BLOCK = 128 }; /* panels_pack.cl */
    const int panels = COLUMN_BLOCK / width;
    char defines[96];
    snprintf(defines, sizeof defines, "-DTX=%s -DWIDTH=%d -DTABLES=%d", kin_dtype_name(from.dtype),
             width, table != NULL);
    kin_opencl_launch launch =
        kin_opencl_start(device, commands, "panels_pack", defines, "panels_pack");
    kin_opencl_set_place(&launch, &from);
    kin_opencl_set_place(&launch, &to);
    if (table != NULL) kin_opencl_set_place(&launch, table);
    kin_opencl_set_bytes(&launch, shape, sizeof *shape);
    const size_t global[3] = {(size_t)tiles_of(shape->depth, DEPTH_BLOCK),
                              (size_t)tiles_of(shape->columns, (int64_t)panels * width),
                              (size_t)count};
    const size_t local[3] = {1, 1, 1};
    return kin_opencl_finish(&launch, 3, global, local);
}

kin_status kin_opencl_multiply(kin_device *device, kin_commands *commands, kin_opencl_place s,
                               kin_opencl_place v, kin_opencl_place c, const kin_operand *bias,
                               const kin_opencl_place *table, int count,
                               const kin_opencl_panels_shape *wanted) {
    kin_opencl_panels_shape shape = *wanted;
    char defines[96];
    const int rows = kin_opencl_panel_rows(device);
    shape.row_tiles = (cl_int)tiles_of(shape.rows, rows);
    shape.column_tiles = (cl_int)tiles_of(shape.columns, kin_opencl_panel_width(device));
    snprintf(defines, sizeof defines, "-DTC=%s -DTBIAS=%s -DROWS=%d -DTABLES=%d",
             kin_dtype_name(c.dtype), bias != NULL ? kin_opencl_type(bias) : "f32", rows,
             table != NULL);
    kin_opencl_launch launch =
        kin_opencl_start(device, commands, "panels", defines, "panels_multiply");
    kin_opencl_set_place(&launch, &s);
    kin_opencl_set_place(&launch, &v);
    kin_opencl_set_place(&launch, &c);
    if (bias != NULL) kin_opencl_set_operand(&launch, bias);
    else kin_opencl_set_memory(&launch, NULL, 0, sizeof(float));
    if (table != NULL) kin_opencl_set_place(&launch, table);
    kin_opencl_set_bytes(&launch, &shape, sizeof shape);
    const size_t global[2] = {(size_t)shape.row_tiles * (size_t)shape.column_tiles, (size_t)count};
    const size_t local[2] = {1, 1};
    return kin_opencl_finish(&launch, 2, global, local);
}

/* ---- the roles ---- */

/* One of the operands as the kernels see it: s [rows, depth] or v [depth, columns]. */
typedef struct role {
    const kin_opencl_matrix *matrix;
    int count, step, depth_step; /* rows or columns */
    bool distinct;               /* differs from product to product */
    bool packed;                 /* v always is */
} role;

/* How a product is cut: parts of v, for each of them parts of s. */
typedef struct partition {
    role s, v;
    bool swapped;              /* s holds b's columns: the result is written transposed */
    int batch;                 /* products of the whole batch */
    int products;              /* at a time */
    int d_part;                /* steps of the sum at a time */
    int s_part, v_part;        /* rows and columns at a time */
    size_t s_floats, v_floats; /* of scratch */
} partition;

static bool steps_differ(const kin_opencl_product *product, const kin_opencl_matrix *matrix) {
    for (int a = 0; a < product->rank; a++)
        if (matrix->steps[a] != 0) return true;
    return false;
}

static role role_of(const kin_opencl_product *product, bool of_b, bool as_v) {
    const kin_opencl_matrix *matrix = of_b ? &product->b : &product->a;
    role r = {.matrix = matrix,
              .count = of_b ? product->columns : product->rows,
              .step = of_b ? matrix->column_step : matrix->row_step,
              .depth_step = of_b ? matrix->row_step : matrix->column_step,
              .distinct = steps_differ(product, matrix)};
    /* Long strides along the sum would touch a page at every step. */
    r.packed = as_v || matrix->operand->desc.dtype != KIN_F32 ||
               (r.depth_step > 64 && product->depth > 64);
    return r;
}

static int64_t round_up(int64_t value, int64_t unit) {
    return tiles_of(value, unit) * unit;
}

/* Time of the product, counted in elements that are packed. */
static double cost_of(const kin_device *device, const kin_opencl_product *product, int64_t batch,
                      const role *s, const role *v) {
    const double per_element = 120; /* multiplications in the time of packing one element */
    const double rows = (double)round_up(s->count, kin_opencl_panel_rows(device));
    const double columns = (double)round_up(v->count, kin_opencl_panel_width(device));
    const double depth = product->depth;
    double cost = (double)batch * rows * columns * depth / per_element;
    cost += columns * depth * (v->distinct ? (double)batch : 1);
    if (s->packed) cost += rows * depth * (s->distinct ? (double)batch : 1);
    return cost;
}

static int64_t batch_of(const kin_opencl_product *product) {
    int64_t batch = 1;
    for (int a = 0; a < product->rank; a++) batch *= product->dims[a];
    return batch;
}

/* As many whole tiles as go into `floats`, at least one, at most what there is. */
static int part_of(int64_t count, int64_t tile, int64_t depth, int64_t floats) {
    int64_t tiles = depth > 0 ? floats / (tile * depth) : tiles_of(count, tile);
    if (tiles < 1) tiles = 1;
    return (int)(tiles * tile < count ? tiles * tile : count);
}

static partition partition_of(const kin_device *device, const kin_opencl_product *product) {
    const int rows = kin_opencl_panel_rows(device), width = kin_opencl_panel_width(device);
    const role plain_s = role_of(product, false, false), plain_v = role_of(product, true, true);
    const role other_s = role_of(product, true, false), other_v = role_of(product, false, true);
    const int64_t batch = batch_of(product);
    /* Long sums of few columns: a panel would be larger than a part. */
    const bool cut = product->c->desc.dtype == KIN_F32 && product->depth > VECTOR_PART / width;
    const int depth = cut ? VECTOR_PART / width : product->depth;
    partition p = {.s = plain_s, .v = plain_v, .batch = (int)batch, .products = 1};
    if (cost_of(device, product, batch, &other_s, &other_v) <
        cost_of(device, product, batch, &plain_s, &plain_v))
        p = (partition){
            .s = other_s, .v = other_v, .swapped = true, .batch = (int)batch, .products = 1};
    p.d_part = depth;
    /* Parts of q8_0 begin with a block. */
    const int unit = product->b.operand->desc.dtype == KIN_Q8_0 ? 32 : 1;
    p.v_part = part_of(p.v.count, (int64_t)width * unit, depth, VECTOR_PART);
    p.s_part =
        p.s.packed ? part_of(p.s.count, (int64_t)rows * unit, depth, SCALAR_PART) : p.s.count;
    const int64_t v_one = round_up(p.v_part, width) * depth;
    const int64_t s_one = p.s.packed ? round_up(p.s_part, rows) * depth : 0;
    /* Whole products side by side, where they are small. */
    if (p.v_part == p.v.count && p.s_part == p.s.count) {
        int64_t v_fit = p.v.distinct && v_one > 0 ? VECTOR_PART / v_one : batch;
        int64_t s_fit = p.s.packed && p.s.distinct && s_one > 0 ? SCALAR_PART / s_one : batch;
        int64_t fit = v_fit < s_fit ? v_fit : s_fit;
        p.products = (int)(fit < 1 ? 1 : fit < batch ? fit : batch);
    }
    p.v_floats = (size_t)(v_one * (p.v.distinct ? p.products : 1));
    p.s_floats = (size_t)(s_one * (p.s.distinct ? p.products : 1));
    return p;
}

static size_t aligned(const kin_device *device, size_t floats) {
    size_t unit = device->info.alignment, bytes = floats * sizeof(float);
    return (bytes + unit - 1) / unit * unit;
}

size_t kin_opencl_panels_scratch(const kin_device *device, const kin_opencl_product *product) {
    const partition p = partition_of(device, product);
    return aligned(device, p.v_floats) + aligned(device, p.s_floats);
}

/* ---- recording ---- */

typedef struct recording {
    kin_device *device;
    kin_commands *commands;
    const kin_call *call;
    const kin_opencl_product *product;
    partition p;
    int first, depth; /* the steps of the sum that are being recorded */
} recording;

/* Packs `count` rows or columns from `first` of the products from `batch`. */
static kin_status pack_role(const recording *r, const role *x, size_t skip, int width, int batch,
                            int products, int first, int count) {
    kin_opencl_pack_shape shape = {.columns = count,
                                   .depth = r->depth,
                                   .column_step = x->step,
                                   .depth_step = x->depth_step,
                                   .inner = r->depth,
                                   .batch = x->distinct ? batch : 0,
                                   .rank = r->product->rank};
    for (int a = 0; a < shape.rank; a++) {
        shape.dims[a] = r->product->dims[a];
        shape.steps[a] = x->matrix->steps[a];
    }
    shape.to_step = (cl_int)(round_up(count, width) * shape.depth);
    return kin_opencl_pack(
        r->device, r->commands,
        kin_opencl_place_of(x->matrix->operand,
                            (int64_t)first * x->step + (int64_t)r->first * x->depth_step),
        kin_opencl_scratch_place(r->call, skip, KIN_F32), NULL, width, x->distinct ? products : 1,
        &shape);
}

/* Rows s0.. of s times columns v0.. of v. */
static kin_status multiply_part(const recording *r, int batch, int products, int s0, int rows,
                                int v0, int columns) {
    const kin_opencl_product *product = r->product;
    const partition *p = &r->p;
    const int tile = kin_opencl_panel_rows(r->device);
    const int width = kin_opencl_panel_width(r->device);
    const size_t s_skip = aligned(r->device, p->v_floats);
    kin_opencl_panels_shape shape = {.rows = rows,
                                     .columns = columns,
                                     .depth = r->depth,
                                     .c_row = p->swapped ? 1 : product->columns,
                                     .c_column = p->swapped ? product->columns : 1,
                                     .batch = batch,
                                     .rank = product->rank,
                                     .v_tile = width * r->depth,
                                     .c_step = product->rows * product->columns};
    kin_opencl_place s = kin_opencl_place_of(
        p->s.matrix->operand, (int64_t)s0 * p->s.step + (int64_t)r->first * p->s.depth_step);
    shape.s_row = p->s.step;
    shape.s_tile = tile * p->s.step;
    shape.s_depth = p->s.depth_step;
    for (int a = 0; a < shape.rank; a++) {
        shape.dims[a] = product->dims[a];
        shape.s_steps[a] = p->s.matrix->steps[a];
    }
    shape.v_step = p->v.distinct ? (cl_int)(round_up(columns, width) * r->depth) : 0;
    int64_t c_skip = (int64_t)s0 * shape.c_row + (int64_t)v0 * shape.c_column;
    if (p->s.packed) {
        s = kin_opencl_scratch_place(r->call, s_skip, KIN_F32);
        shape.s_row = 1;
        shape.s_tile = tile * r->depth;
        shape.s_depth = tile;
        c_skip += (int64_t)batch * shape.c_step;
        shape.batch = 0;
        shape.rank = 1;
        shape.dims[0] = products;
        shape.s_steps[0] = p->s.distinct ? (cl_int)(round_up(rows, tile) * r->depth) : 0;
    }
    kin_operand bias;
    shape.accumulate = r->first > 0;
    if (product->bias != NULL && r->first == 0) {
        bias = *product->bias;
        bias.offset += (size_t)(p->swapped ? s0 : v0) * kin_dtype_size(bias.desc.dtype);
        shape.bias = p->swapped ? 1 : 2;
    }
    return kin_opencl_multiply(r->device, r->commands, s,
                               kin_opencl_scratch_place(r->call, 0, KIN_F32),
                               kin_opencl_place_of(product->c, c_skip),
                               shape.bias != 0 ? &bias : NULL, NULL, products, &shape);
}

/* All of s times columns v0.. of v. */
static kin_status multiply_panels(const recording *r, int batch, int products, int v0,
                                  int columns) {
    const partition *p = &r->p;
    const int tile = kin_opencl_panel_rows(r->device);
    const size_t s_skip = aligned(r->device, p->v_floats);
    kin_status status = KIN_OK;
    for (int s0 = 0; s0 < p->s.count && status == KIN_OK; s0 += p->s_part) {
        int rows = p->s.count - s0 < p->s_part ? p->s.count - s0 : p->s_part;
        if (p->s.packed) status = pack_role(r, &p->s, s_skip, tile, batch, products, s0, rows);
        if (status == KIN_OK) status = multiply_part(r, batch, products, s0, rows, v0, columns);
    }
    return status;
}

/* The steps of the sum from r->first. */
static kin_status record_depth(const recording *r) {
    const partition *p = &r->p;
    const int width = kin_opencl_panel_width(r->device);
    kin_status status = KIN_OK;
    for (int batch = 0; batch < p->batch && status == KIN_OK; batch += p->products) {
        int products = p->batch - batch < p->products ? p->batch - batch : p->products;
        for (int v0 = 0; v0 < p->v.count && status == KIN_OK; v0 += p->v_part) {
            int columns = p->v.count - v0 < p->v_part ? p->v.count - v0 : p->v_part;
            status = pack_role(r, &p->v, 0, width, batch, products, v0, columns);
            if (status == KIN_OK) status = multiply_panels(r, batch, products, v0, columns);
        }
    }
    return status;
}

kin_status kin_opencl_panels_launch(kin_device *device, kin_commands *commands,
                                    const kin_call *call, const kin_opencl_product *product) {
    recording r = {.device = device,
                   .commands = commands,
                   .call = call,
                   .product = product,
                   .p = partition_of(device, product)};
    kin_status status = KIN_OK;
    do {
        r.depth = product->depth - r.first < r.p.d_part ? product->depth - r.first : r.p.d_part;
        status = record_depth(&r);
        r.first += r.depth;
    } while (status == KIN_OK && r.first < product->depth);
    return status;
}
