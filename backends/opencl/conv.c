/* Kernels of the convolutions.
 *
 * conv, conv_grad_input and conv_grad_weight are products whose first operand is read where it lies
 * in a padded copy of the image, through tables of offsets: one for the rows, one along the sum. So
 * no patches are written, and strides cost nothing. One work-item computes a tile of the result in
 * registers (panels.cl), or a group does in local memory (tiles.cl), as the device's tuning says.
 */
#include "backends/opencl/panels.h"
#include "ops/conv_attrs.h"

#include <stdio.h>
#include <string.h>

enum {
    PAD_PART = 4 << 20, /* floats of padded copies at a time, or one sample */
    DEPTH_PART = 4096   /* steps of a sum at a time where it is long */
};

/* ---- shapes ---- */

static void axes_of(const kin_desc *desc, int out_size[3]) {
    for (int a = 0; a < 3; a++) {
        int axis = desc->rank - 3 + a;
        out_size[a] = axis < 2 ? 1 : (int)desc->dims[axis];
    }
}

static int count_of(const int size[3]) {
    return size[0] * size[1] * size[2];
}

/* Everything that the three ops have in common: x [n, cin, in], w [cout, cin, taps], y [n, cout,
 * out]. */
typedef struct conv_shape {
    const kin_conv_attrs *attrs;
    int samples, cin, cout, in[3], taps[3], out[3];
} conv_shape;

static conv_shape shape_of(const kin_conv_attrs *attrs, const kin_desc *x, const kin_desc *w,
                           const kin_desc *y) {
    conv_shape s = {.attrs = attrs,
                    .samples = (int)x->dims[0],
                    .cin = (int)x->dims[1],
                    .cout = (int)w->dims[0]};
    axes_of(x, s.in);
    axes_of(w, s.taps);
    axes_of(y, s.out);
    return s;
}

/* As in conv.cl. */
typedef struct pad_shape {
    cl_int planes, in[3], size[3], front[3];
    cl_int causal, extra, stride, reach;
} pad_shape;

typedef struct table_grid {
    cl_int count, n[3];
    cl_int base[2], outer[2], step[2][3];
} table_grid;

typedef struct table_shape {
    table_grid rows, depth;
} table_shape;

/* Offsets from row to row of the padded copy along the three axes. */
static void pitches(const pad_shape *pad, int out_pitch[3]) {
    out_pitch[2] = 1;
    out_pitch[1] = pad->size[2];
    out_pitch[0] = pad->size[2] * pad->size[1];
}

static int64_t plane_floats(const pad_shape *pad) {
    return (int64_t)(pad->size[0] + pad->extra) * pad->size[1] * pad->size[2];
}

/* A product over tables. */
typedef struct conv_pass {
    table_shape tables;
    int columns;
    const kin_operand
        *v; /* element (l, j) at table or l / inner * outer + l % inner, + j * column */
    int v_column, v_inner, v_outer;
    bool v_table;
    int c_column;
} conv_pass;

/* What a call needs: the padded copy of `part` samples, and the sizes of scratch memory. */
typedef struct conv_plan {
    conv_shape shape;
    pad_shape pad; /* of one sample */
    int part;
    size_t pad_bytes, v_bytes, table_bytes, sum_bytes;
} conv_plan;

static size_t aligned(const kin_device *device, int64_t words) {
    size_t unit = device->info.alignment;
    return ((size_t)words * sizeof(float) + unit - 1) / unit * unit;
}

static bool by_panels(const kin_device *device) {
    return kin_opencl_tuning_of(device).product == KIN_OPENCL_PANELS;
}

static void set_part(const kin_device *device, conv_plan *plan) {
    const int64_t sample = plan->pad.planes * plane_floats(&plan->pad);
    int64_t part = sample > 0 ? PAD_PART / sample : plan->shape.samples;
    if (part < 1) part = 1;
    if (part > plan->shape.samples) part = plan->shape.samples;
    plan->part = (int)part;
    plan->pad_bytes = aligned(device, part * sample);
}

static void set_sizes(const kin_device *device, conv_plan *plan, int64_t rows, int64_t depth,
                      int64_t columns) {
    const int64_t width = kin_opencl_panel_width(device);
    if (by_panels(device))
        plan->v_bytes = aligned(device, (columns + width - 1) / width * width * depth);
    plan->table_bytes = aligned(device, 2 * (rows + depth));
}

static size_t total_bytes(const conv_plan *plan) {
    return plan->pad_bytes + plan->v_bytes + plan->table_bytes + plan->sum_bytes;
}

/* Offsets in the padded copies and tables are 32-bit. */
static bool can_conv(const kin_device *device, const kin_call *call, const conv_plan *plan) {
    return kin_opencl_can_real(device, call) &&
           plan->pad.planes * plane_floats(&plan->pad) * plan->part < INT32_MAX / 2;
}

/* ---- recording ---- */

typedef struct recording {
    kin_device *device;
    kin_commands *commands;
    const kin_call *call;
    const conv_plan *plan;
} recording;

static kin_opencl_place pad_place(const recording *r) {
    return kin_opencl_scratch_place(r->call, 0, KIN_F32);
}

static kin_opencl_place v_place(const recording *r) {
    return kin_opencl_scratch_place(r->call, r->plan->pad_bytes, KIN_F32);
}

static kin_opencl_place table_place(const recording *r, int64_t skip) {
    return kin_opencl_scratch_place(
        r->call, r->plan->pad_bytes + r->plan->v_bytes + (size_t)skip * sizeof(cl_int), KIN_I32);
}

static kin_opencl_place sum_place(const recording *r) {
    const conv_plan *plan = r->plan;
    return kin_opencl_scratch_place(r->call, plan->pad_bytes + plan->v_bytes + plan->table_bytes,
                                    KIN_F32);
}

/* Copies `samples` samples from `first` into the padded place. */
static kin_status pad_samples(const recording *r, const kin_operand *x, int first, int samples) {
    pad_shape shape = r->plan->pad;
    const bool rowwise = kin_opencl_of(r->device)->is_cpu;
    const int64_t skip = (int64_t)first * shape.planes * count_of(shape.in);
    const kin_opencl_place from = kin_opencl_place_of(x, skip), to = pad_place(r);
    char defines[64];
    snprintf(defines, sizeof defines, "-DTX=%s -DROWWISE=%d", kin_opencl_type(x), rowwise);
    shape.planes *= samples;
    kin_opencl_launch launch =
        kin_opencl_start(r->device, r->commands, "conv", defines, "conv_pad");
    kin_opencl_set_place(&launch, &from);
    kin_opencl_set_place(&launch, &to);
    kin_opencl_set_bytes(&launch, &shape, sizeof shape);
    const int64_t rows = (int64_t)shape.planes * (shape.size[0] + shape.extra) * shape.size[1];
    if (!rowwise) return kin_opencl_finish_items(&launch, rows * shape.size[2]);
    const size_t global = (size_t)rows, local = 1;
    return kin_opencl_finish(&launch, 1, &global, &local);
}

static kin_status make_tables(const recording *r, const table_shape *tables) {
    const kin_opencl_place table = table_place(r, 0);
    kin_opencl_launch launch =
        kin_opencl_start(r->device, r->commands, "conv", "-DTX=f32 -DROWWISE=0", "conv_tables");
    kin_opencl_set_place(&launch, &table);
    kin_opencl_set_bytes(&launch, tables, sizeof *tables);
    return kin_opencl_finish_items(&launch, (int64_t)tables->rows.count + tables->depth.count);
}

/* The result's place, and how several products follow one another. */
typedef struct conv_target {
    kin_opencl_place c;
    const kin_operand *bias;
    int samples, s_step, c_step;
    bool accumulate;
} conv_target;

static kin_status multiply_tiles(const recording *r, const conv_pass *pass,
                                 const kin_opencl_place *v, const conv_target *target) {
    const kin_opencl_place table = table_place(r, 0);
    const kin_opencl_tiles_shape shape = {.rows = pass->tables.rows.count,
                                          .columns = pass->columns,
                                          .depth = pass->tables.depth.count,
                                          .a_row = 1,
                                          .b_depth = 1,
                                          .b_column = pass->v_column,
                                          .c_column = pass->c_column,
                                          .bias = target->bias != NULL ? 2 : 0,
                                          .accumulate = target->accumulate,
                                          .rank = 1,
                                          .dims = {target->samples},
                                          .a_steps = {target->s_step},
                                          .c_step = target->c_step};
    return kin_opencl_tiles(r->device, r->commands, pad_place(r), *v, target->c, target->bias,
                            &table, target->samples, &shape);
}

static kin_status multiply_panels(const recording *r, const conv_pass *pass,
                                  const kin_opencl_place *v, const conv_target *target) {
    const int width = kin_opencl_panel_width(r->device), depth = pass->tables.depth.count;
    const int rows = pass->tables.rows.count;
    const kin_opencl_place table = table_place(r, 0);
    const kin_opencl_place v_table = table_place(r, 2 * (int64_t)rows + depth);
    const kin_opencl_pack_shape pack = {.columns = pass->columns,
                                        .depth = depth,
                                        .column_step = pass->v_column,
                                        .depth_step = 1,
                                        .inner = pass->v_inner,
                                        .outer_step = pass->v_outer};
    kin_status status = kin_opencl_pack(r->device, r->commands, *v, v_place(r),
                                        pass->v_table ? &v_table : NULL, width, 1, &pack);
    /* Sums are cut only where they go to floats, which the caller sees to. */
    const int part = target->accumulate || target->c.dtype == KIN_F32 ? DEPTH_PART : depth;
    for (int first = 0; status == KIN_OK && (first == 0 || first < depth); first += part) {
        const kin_opencl_panels_shape shape = {.rows = rows,
                                               .columns = pass->columns,
                                               .depth = depth - first < part ? depth - first : part,
                                               .first = first,
                                               .c_column = pass->c_column,
                                               .bias = target->bias != NULL && first == 0 ? 2 : 0,
                                               .accumulate = target->accumulate || first > 0,
                                               .rank = 1,
                                               .dims = {target->samples},
                                               .s_steps = {target->s_step},
                                               .v_tile = width * depth,
                                               .c_step = target->c_step};
        status = kin_opencl_multiply(r->device, r->commands, pad_place(r), v_place(r), target->c,
                                     target->bias, &table, target->samples, &shape);
        if (part == 0) break;
    }
    return status;
}

static kin_status run_pass(const recording *r, const conv_pass *pass, int64_t v_skip,
                           const conv_target *target) {
    const kin_opencl_place v = kin_opencl_place_of(pass->v, v_skip);
    if (pass->tables.rows.count == 0) return KIN_OK;
    kin_status status = make_tables(r, &pass->tables);
    if (status != KIN_OK) return status;
    return by_panels(r->device) ? multiply_panels(r, pass, &v, target)
                                : multiply_tiles(r, pass, &v, target);
}

/* ---- conv ---- */

static pad_shape forward_pad(const conv_shape *s) {
    pad_shape pad = {.planes = s->cin, .causal = (int)s->attrs->causal, .stride = 1};
    for (int a = 0; a < 3; a++) {
        pad.in[a] = s->in[a];
        pad.front[a] = (int)s->attrs->before[a];
        pad.size[a] = (s->out[a] - 1) * (int)s->attrs->stride[a] + s->taps[a];
    }
    return pad;
}

static conv_plan forward_plan(const kin_device *device, const kin_call *call) {
    conv_plan plan = {
        .shape = shape_of(call->attrs, &call->in[0].desc, &call->in[1].desc, &call->out[0].desc)};
    const conv_shape *s = &plan.shape;
    plan.pad = forward_pad(s);
    set_part(device, &plan);
    set_sizes(device, &plan, count_of(s->out), (int64_t)s->cin * count_of(s->taps), s->cout);
    return plan;
}

static bool can_forward(const kin_device *device, const kin_call *call) {
    const conv_plan plan = forward_plan(device, call);
    return can_conv(device, call, &plan);
}

static size_t forward_scratch(const kin_device *device, const kin_call *call) {
    const conv_plan plan = forward_plan(device, call);
    return total_bytes(&plan);
}

/* Rows are positions, the sum goes over channels and taps, columns are output channels. */
static conv_pass forward_pass(const conv_plan *plan, const kin_operand *w) {
    const conv_shape *s = &plan->shape;
    const int positions = count_of(s->out), taps = count_of(s->taps);
    int pitch[3];
    conv_pass pass = {.columns = s->cout,
                      .v = w,
                      .v_column = s->cin * taps,
                      .v_inner = s->cin * taps,
                      .c_column = positions};
    table_grid *rows = &pass.tables.rows, *depth = &pass.tables.depth;
    pitches(&plan->pad, pitch);
    rows->count = positions;
    depth->count = s->cin * taps;
    depth->outer[0] = (int)plane_floats(&plan->pad);
    depth->outer[1] = taps;
    for (int a = 2, row = 1, tap = 1; a >= 0; row *= s->out[a], tap *= s->taps[a], a--) {
        rows->n[a] = s->out[a];
        rows->step[0][a] = (int)s->attrs->stride[a] * pitch[a];
        rows->step[1][a] = row;
        depth->n[a] = s->taps[a];
        depth->step[0][a] = pitch[a];
        depth->step[1][a] = tap;
    }
    return pass;
}

static kin_status launch_forward(kin_device *device, kin_commands *commands, const kin_call *call) {
    const conv_plan plan = forward_plan(device, call);
    const recording r = {device, commands, call, &plan};
    const conv_shape *s = &plan.shape;
    const conv_pass pass = forward_pass(&plan, &call->in[1]);
    conv_target target = {.bias = kin_opencl_has(call, 2) ? &call->in[2] : NULL,
                          .s_step = (int)(plan.pad.planes * plane_floats(&plan.pad)),
                          .c_step = s->cout * count_of(s->out)};
    kin_status status = KIN_OK;
    for (int first = 0; first < s->samples && status == KIN_OK; first += plan.part) {
        target.samples = s->samples - first < plan.part ? s->samples - first : plan.part;
        target.c = kin_opencl_place_of(&call->out[0], (int64_t)first * target.c_step);
        status = pad_samples(&r, &call->in[0], first, target.samples);
        if (status == KIN_OK) status = run_pass(&r, &pass, 0, &target);
    }
    return status;
}

/* ---- conv_grad_input ---- */

/* Along one axis, the input's elements q = start + u * step, u < count, see the same taps,
 * first_tap + j * step for j < taps, and element u sees with tap j element base + u - j of dy. */
typedef struct phase {
    int start, count, step, first_tap, taps, base;
} phase;

static phase phase_of(const conv_shape *s, int axis, int start) {
    const int step = (int)s->attrs->stride[axis], before = (int)s->attrs->before[axis];
    phase p = {.start = start, .step = step, .first_tap = (start + before) % step};
    p.count = start < s->in[axis] ? (s->in[axis] - start - 1) / step + 1 : 0;
    p.taps = p.first_tap < s->taps[axis] ? (s->taps[axis] - p.first_tap - 1) / step + 1 : 0;
    p.base = (start + before - p.first_tap) / step;
    return p;
}

/* dy with as many zeros around it as any phase reads; for causal ones the sums for frame 0. */
static pad_shape input_pad(const conv_shape *s) {
    pad_shape pad = {.planes = s->cout, .stride = (int)s->attrs->stride[0]};
    for (int a = 0; a < 3; a++) {
        int front = 0, end = s->out[a];
        for (int start = 0; start < (int)s->attrs->stride[a]; start++) {
            const phase p = phase_of(s, a, start);
            if (p.count == 0 || p.taps == 0) continue;
            if (p.taps - 1 - p.base > front) front = p.taps - 1 - p.base;
            if (p.base + p.count > end) end = p.base + p.count;
        }
        pad.in[a] = s->out[a];
        pad.front[a] = front;
        pad.size[a] = front + end;
    }
    if (s->attrs->causal) {
        pad.extra = s->taps[0];
        pad.reach = (int)s->attrs->before[0];
    }
    return pad;
}

static conv_plan input_plan(const kin_device *device, const kin_call *call) {
    const kin_conv_size_attrs *attrs = call->attrs;
    conv_plan plan = {
        .shape = shape_of(&attrs->conv, &call->out[0].desc, &call->in[1].desc, &call->in[0].desc)};
    const conv_shape *s = &plan.shape;
    plan.pad = input_pad(s);
    set_part(device, &plan);
    set_sizes(device, &plan, count_of(s->in), (int64_t)s->cout * count_of(s->taps), s->cin);
    return plan;
}

static bool can_input(const kin_device *device, const kin_call *call) {
    const conv_plan plan = input_plan(device, call);
    return can_conv(device, call, &plan);
}

static size_t input_scratch(const kin_device *device, const kin_call *call) {
    const conv_plan plan = input_plan(device, call);
    return total_bytes(&plan);
}

/* Adds one axis to the tables. `plane` and `tap` are the steps of the input's elements and of the
 * taps; first_frame: the axis is time, and its one element is frame 0, which sees the sums. */
static void add_axis(conv_pass *pass, const pad_shape *pad, int a, const phase *p, int pitch,
                     int plane, int tap, int taps, bool first_frame) {
    table_grid *rows = &pass->tables.rows, *depth = &pass->tables.depth;
    rows->n[a] = first_frame ? 1 : p->count;
    rows->base[0] += (first_frame ? pad->size[0] : pad->front[a] + p->base) * pitch;
    rows->step[0][a] = pitch;
    rows->base[1] += (first_frame ? 0 : p->start) * plane;
    rows->step[1][a] = p->step * plane;
    depth->n[a] = first_frame ? taps : p->taps;
    depth->step[0][a] = first_frame ? pitch : -pitch;
    depth->base[1] += (first_frame ? 0 : p->first_tap) * tap;
    depth->step[1][a] = (first_frame ? 1 : p->step) * tap;
}

/* Rows are elements of the input, the sum goes over dy's channels and the taps of the phase. */
static conv_pass input_pass(const conv_plan *plan, const kin_operand *w, const phase phases[3],
                            bool first_frame) {
    const conv_shape *s = &plan->shape;
    const int taps = count_of(s->taps);
    int pitch[3];
    conv_pass pass = {
        .columns = s->cin, .v = w, .v_column = taps, .v_table = true, .c_column = count_of(s->in)};
    table_grid *rows = &pass.tables.rows, *depth = &pass.tables.depth;
    pitches(&plan->pad, pitch);
    for (int a = 2, plane = 1, tap = 1; a >= 0; plane *= s->in[a], tap *= s->taps[a], a--)
        add_axis(&pass, &plan->pad, a, &phases[a], pitch[a], plane, tap, s->taps[a],
                 first_frame && a == 0);
    rows->count = count_of(rows->n);
    depth->count = s->cout * count_of(depth->n);
    depth->outer[0] = (int)plane_floats(&plan->pad);
    depth->outer[1] = s->cin * taps;
    return pass;
}

/* All phases of rows and columns, for one of time. */
static kin_status run_phases(const recording *r, phase time, bool first_frame,
                             const conv_target *target) {
    const conv_shape *s = &r->plan->shape;
    kin_status status = KIN_OK;
    if (time.count <= 0) return KIN_OK;
    for (int y = 0; y < (int)s->attrs->stride[1]; y++)
        for (int x = 0; x < (int)s->attrs->stride[2] && status == KIN_OK; x++) {
            const phase phases[3] = {time, phase_of(s, 1, y), phase_of(s, 2, x)};
            const conv_pass pass = input_pass(r->plan, &r->call->in[1], phases, first_frame);
            status = run_pass(r, &pass, 0, target);
        }
    return status;
}

static kin_status run_input(const recording *r, const conv_target *target) {
    const conv_shape *s = &r->plan->shape;
    kin_status status = KIN_OK;
    for (int t = 0; t < (int)s->attrs->stride[0] && status == KIN_OK; t++) {
        phase time = phase_of(s, 0, t);
        if (t == 0 && s->attrs->causal) {
            status = run_phases(r, (phase){.count = 1}, true, target);
            time.start += time.step;
            time.count--;
            time.base++;
        }
        if (status == KIN_OK) status = run_phases(r, time, false, target);
    }
    return status;
}

static kin_status launch_input(kin_device *device, kin_commands *commands, const kin_call *call) {
    const conv_plan plan = input_plan(device, call);
    const recording r = {device, commands, call, &plan};
    const conv_shape *s = &plan.shape;
    conv_target target = {.s_step = (int)(plan.pad.planes * plane_floats(&plan.pad)),
                          .c_step = s->cin * count_of(s->in)};
    kin_status status = KIN_OK;
    for (int first = 0; first < s->samples && status == KIN_OK; first += plan.part) {
        target.samples = s->samples - first < plan.part ? s->samples - first : plan.part;
        target.c = kin_opencl_place_of(&call->out[0], (int64_t)first * target.c_step);
        status = pad_samples(&r, &call->in[0], first, target.samples);
        if (status == KIN_OK) status = run_input(&r, &target);
    }
    return status;
}

/* ---- conv_grad_weight ---- */

static conv_plan weight_plan(const kin_device *device, const kin_call *call) {
    const kin_conv_size_attrs *attrs = call->attrs;
    conv_plan plan = {
        .shape = shape_of(&attrs->conv, &call->in[0].desc, &call->out[0].desc, &call->in[1].desc)};
    const conv_shape *s = &plan.shape;
    const int64_t weights = (int64_t)s->cin * count_of(s->taps);
    plan.pad = forward_pad(s);
    set_part(device, &plan);
    set_sizes(device, &plan, weights, (int64_t)plan.part * count_of(s->out), s->cout);
    if (call->out[0].desc.dtype != KIN_F32) plan.sum_bytes = aligned(device, weights * s->cout);
    return plan;
}

static bool can_weight(const kin_device *device, const kin_call *call) {
    const conv_plan plan = weight_plan(device, call);
    return can_conv(device, call, &plan);
}

static size_t weight_scratch(const kin_device *device, const kin_call *call) {
    const conv_plan plan = weight_plan(device, call);
    return total_bytes(&plan);
}

/* Rows are channels and taps, the sum goes over samples and positions, columns are dy's channels.
 */
static conv_pass weight_pass(const conv_plan *plan, const kin_operand *dy, int samples) {
    const conv_shape *s = &plan->shape;
    const int positions = count_of(s->out), taps = count_of(s->taps);
    int pitch[3];
    conv_pass pass = {.columns = s->cout,
                      .v = dy,
                      .v_column = positions,
                      .v_inner = positions,
                      .v_outer = s->cout * positions,
                      .c_column = s->cin * taps};
    table_grid *rows = &pass.tables.rows, *depth = &pass.tables.depth;
    pitches(&plan->pad, pitch);
    rows->count = s->cin * taps;
    rows->outer[0] = (int)plane_floats(&plan->pad);
    rows->outer[1] = taps;
    depth->count = samples * positions;
    depth->outer[0] = s->cin * rows->outer[0];
    depth->outer[1] = pass.v_outer;
    for (int a = 2, tap = 1, position = 1; a >= 0; tap *= s->taps[a], position *= s->out[a], a--) {
        rows->n[a] = s->taps[a];
        rows->step[0][a] = pitch[a];
        rows->step[1][a] = tap;
        depth->n[a] = s->out[a];
        depth->step[0][a] = (int)s->attrs->stride[a] * pitch[a];
        depth->step[1][a] = position;
    }
    return pass;
}

static kin_status store_sums(const recording *r) {
    const kin_operand *out = &r->call->out[0];
    const int64_t count = kin_desc_count(&out->desc);
    const kin_opencl_place sums = sum_place(r);
    char defines[64];
    snprintf(defines, sizeof defines, "-DTX=%s -DROWWISE=0", kin_opencl_type(out));
    kin_opencl_launch launch =
        kin_opencl_start(r->device, r->commands, "conv", defines, "conv_store");
    kin_opencl_set_place(&launch, &sums);
    kin_opencl_set_operand(&launch, out);
    kin_opencl_set_int(&launch, count);
    return kin_opencl_finish_items(&launch, count);
}

static kin_status launch_weight(kin_device *device, kin_commands *commands, const kin_call *call) {
    const conv_plan plan = weight_plan(device, call);
    const recording r = {device, commands, call, &plan};
    const conv_shape *s = &plan.shape;
    conv_target target = {.samples = 1};
    kin_status status = KIN_OK;
    target.c = plan.sum_bytes > 0 ? sum_place(&r) : kin_opencl_place_of(&call->out[0], 0);
    for (int first = 0; first < s->samples && status == KIN_OK; first += plan.part) {
        const int samples = s->samples - first < plan.part ? s->samples - first : plan.part;
        const conv_pass pass = weight_pass(&plan, &call->in[1], samples);
        target.accumulate = first > 0;
        status = pad_samples(&r, &call->in[0], first, samples);
        if (status == KIN_OK) status = run_pass(&r, &pass, (int64_t)first * pass.v_outer, &target);
    }
    return status == KIN_OK && plan.sum_bytes > 0 ? store_sums(&r) : status;
}

const kin_kernel kin_opencl_conv_kernels[] = {
    {"conv", "opencl_conv", 0, 0, can_forward, forward_scratch, launch_forward},
    {"conv_grad_input", "opencl_conv_grad_input", 0, 0, can_input, input_scratch, launch_input},
    {"conv_grad_weight", "opencl_conv_grad_weight", 0, 0, can_weight, weight_scratch,
     launch_weight},
    {0},
};
