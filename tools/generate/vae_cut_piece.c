/* One piece of a node: what it needs, and its graph. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "tools/generate/vae_cut.h"
#include "ops/attention.h"
#include "ops/conv.h"
#include "ops/elementwise.h"
#include "ops/layout.h"
#include "ops/modulate.h"
#include "ops/pad.h"
#include "ops/reduce.h"
#include "ops/upsample.h"
#include "ops/views.h"

enum { TIME = 2, ROWS = 3, COLUMNS = 4 };

kin_dtype kin_cut_dtype(const cut_nodes *nodes, int node) {
    return node == 0 || node == nodes->count - 1 ? KIN_F32 : nodes->precision.compute;
}

/* ---- regions -------------------------------------------------------------------------------- */

static int64_t size_of(const cut_node *n, int axis) {
    return axis == 0 ? n->frames : n->rows;
}

static int64_t length(cut_span span) {
    return span.to - span.from;
}

/* What windows of `kernel`, every `stride`, from `before` in front on, see of 0..size for results
 * `out`; and how much they stick out. */
static cut_span window(cut_span out, int64_t kernel, int64_t stride, int64_t before, int64_t size,
                       int64_t *out_before, int64_t *out_after) {
    cut_span in = {out.from * stride - before, (out.to - 1) * stride - before + kernel};
    *out_before = in.from < 0 ? -in.from : 0;
    *out_after = in.to > size ? in.to - size : 0;
    in.from += *out_before;
    in.to -= *out_after;
    return in;
}

/* What doubling by interpolation reads for results `out`: an end that is no end of the whole has
 * one more, for results there would lack a neighbour. */
static cut_span halved(cut_span out, int64_t size, bool linear) {
    int64_t more = linear ? 1 : 0;
    cut_span in = {(out.from - more) / 2, (out.to + more + 1) / 2};
    if (out.from == 0) in.from = 0;
    if (in.to > size) in.to = size;
    return in;
}

/* Of the enlarged frames the first is the first one's copy, the others come from the frames behind
 * it. */
static cut_span enlarged_time(cut_span out, int64_t frames, int64_t *out_skip) {
    *out_skip = 0;
    if (out.to == 1) return (cut_span){0, 1};
    cut_span rest = {out.from > 1 ? out.from - 1 : 0, out.to - 1};
    cut_span in = halved(rest, frames - 1, true);
    if (out.from == 0) return (cut_span){0, 1 + in.to};
    *out_skip = rest.from - 2 * in.from;
    return (cut_span){1 + in.from, 1 + in.to};
}

static cut_span window_of(const cut_node *n, const cut_node *x, int axis, cut_step *step) {
    int64_t kernel = n->kernel[axis], before = axis == 0 ? kernel / 2 : n->before;
    if (axis == 0 && n->time == CUT_TIME_COPIES) before = kernel - 1;
    return window(step->region.axis[axis], kernel, n->stride[axis], before, size_of(x, axis),
                  &step->before[axis], &step->after[axis]);
}

/* What the step reads of its inputs, and its padding. */
static cut_region needed(const cut_nodes *nodes, cut_step *step, int k) {
    const cut_node *n = &nodes->at[step->node], *x = &nodes->at[n->in[k]];
    cut_region need = step->region;
    switch (n->kind) {
    case CUT_CONV:
        for (int a = 0; a < 2; a++) need.axis[a] = window_of(n, x, a, step);
        break;
    case CUT_MEAN_TIME:
        need.axis[0] =
            window(step->region.axis[0], 3, 2, 2, x->frames, &step->before[0], &step->after[0]);
        break;
    case CUT_NEAREST:
        need.axis[1] = halved(step->region.axis[1], x->rows, false);
        step->skip[1] = step->region.axis[1].from - 2 * need.axis[1].from;
        break;
    case CUT_ENLARGE:
        need.axis[0] = enlarged_time(step->region.axis[0], x->frames, &step->skip[0]);
        if (n->space == 1) break;
        need.axis[1] = halved(step->region.axis[1], x->rows, true);
        step->skip[1] = step->region.axis[1].from - 2 * need.axis[1].from;
        break;
    case CUT_ATTEND:
        if (k > 0) need.axis[1] = (cut_span){0, x->rows};
        break;
    default:
        break;
    }
    return need;
}

/* Adds a reader of a stored node; -1 if there are too many. */
static int add_source(cut_piece *piece, int node, const cut_region *region) {
    int i = 0;
    while (i < piece->source_count && piece->sources[i].node != node) i++;
    if (i == CUT_SOURCES) return -1;
    cut_source *s = &piece->sources[i];
    if (i == piece->source_count) {
        piece->source_count++;
        *s = (cut_source){node, *region, 1};
        return i;
    }
    s->readers++;
    for (int a = 0; a < 2; a++) {
        if (region->axis[a].from < s->region.axis[a].from)
            s->region.axis[a].from = region->axis[a].from;
        if (region->axis[a].to > s->region.axis[a].to) s->region.axis[a].to = region->axis[a].to;
    }
    return i;
}

/* Appends the steps for a node over a region, inputs first; the number of the last, or -1. */
static int add_steps(const cut_nodes *nodes, int node, cut_region region, bool wanted,
                     cut_piece *piece) {
    const cut_node *n = &nodes->at[node];
    cut_step step = {.node = node, .source = -1, .region = region};
    if (n->stored && !wanted) {
        step.source = add_source(piece, node, &region);
        if (step.source < 0) return -1;
    } else {
        for (int k = 0; k < n->in_count; k++) {
            cut_region need = needed(nodes, &step, k);
            step.in[k] = add_steps(nodes, n->in[k], need, false, piece);
            if (step.in[k] < 0) return -1;
        }
    }
    if (piece->step_count == CUT_STEPS) return -1;
    piece->steps[piece->step_count] = step;
    return piece->step_count++;
}

bool kin_cut_piece_make(const cut_nodes *nodes, int node, cut_region region, cut_piece *out_piece) {
    memset(out_piece, 0, sizeof *out_piece);
    return add_steps(nodes, node, region, true, out_piece) >= 0;
}

static bool same_step(const cut_piece *p, const cut_step *a, const cut_piece *q,
                      const cut_step *b) {
    if (a->node != b->node || a->source != b->source) return false;
    for (int i = 0; i < 2; i++) {
        if (length(a->region.axis[i]) != length(b->region.axis[i]) ||
            a->before[i] != b->before[i] || a->after[i] != b->after[i] || a->skip[i] != b->skip[i])
            return false;
        if (a->source < 0) continue;
        int64_t from = a->region.axis[i].from - p->sources[a->source].region.axis[i].from;
        if (from != b->region.axis[i].from - q->sources[b->source].region.axis[i].from)
            return false;
    }
    return true;
}

bool kin_cut_piece_same(const cut_piece *a, const cut_piece *b) {
    if (a->step_count != b->step_count || a->source_count != b->source_count) return false;
    for (int i = 0; i < a->source_count; i++)
        for (int axis = 0; axis < 2; axis++)
            if (length(a->sources[i].region.axis[axis]) != length(b->sources[i].region.axis[axis]))
                return false;
    for (int i = 0; i < a->step_count; i++) {
        /* CUT_ENLARGE treats the first frame differently. */
        bool first = a->steps[i].region.axis[0].from == 0;
        if (first != (b->steps[i].region.axis[0].from == 0)) return false;
        if (!same_step(a, &a->steps[i], b, &b->steps[i])) return false;
    }
    return true;
}

/* ---- graphs --------------------------------------------------------------------------------- */

typedef struct piece_graph {
    kin_graph *graph;
    const cut_nodes *nodes;
    const cut_piece *piece;
    kin_tensor sources[CUT_SOURCES], values[CUT_STEPS];
} piece_graph;

static const kin_init any_start = {KIN_INIT_ZERO, 0}; /* weights come from the store */

static kin_tensor weight(const piece_graph *p, const cut_node *n, const char *name, int rank,
                         const int64_t *dims) {
    kin_scope_push(p->graph, "%s", n->name);
    kin_tensor w = kin_layer_weight(p->graph, &p->nodes->precision, name, rank, dims, any_start);
    kin_scope_pop(p->graph);
    return w;
}

static kin_tensor convolution(const piece_graph *p, const cut_step *step, const cut_node *n,
                              kin_tensor x) {
    kin_graph *g = p->graph;
    int64_t in = kin_dim(g, x, 1),
            dims[5] = {n->channels, in, n->kernel[0], n->kernel[1], n->kernel[1]};
    int64_t image[4] = {n->channels, in, n->kernel[1], n->kernel[1]};
    kin_tensor w = weight(p, n, "weight", n->weight_rank, n->weight_rank == 5 ? dims : image);
    if (n->weight_rank != 5) w = kin_reshape(g, w, 5, dims);
    kin_conv_attrs attrs = {.stride = {n->stride[0], n->stride[1], n->stride[1]},
                            .before = {step->before[0], step->before[1], n->before},
                            .after = {step->after[0], step->after[1], n->after},
                            .causal = n->time == CUT_TIME_COPIES};
    x = kin_cast(g, x, p->nodes->precision.compute);
    return kin_conv(g, x, w, weight(p, n, "bias", 1, &n->channels), &attrs);
}

/* (x - mean) / deviation * weight + bias with the mean and 1 / deviation of the whole, in f32. */
static kin_tensor normalise(const piece_graph *p, int index, const cut_node *n, kin_tensor x) {
    kin_graph *g = p->graph;
    int64_t channels = n->channels, per_channel[5] = {1, channels, 1, 1, 1}, whole[5];
    int64_t dims[5] = {1, channels, n->over_time ? 1 : kin_dim(g, x, TIME), 1, 1};
    char name[2][24];
    snprintf(name[0], sizeof name[0], "mean%d", index);
    snprintf(name[1], sizeof name[1], "rate%d", index);
    kin_tensor mean = kin_input(g, name[0], KIN_F32, 5, dims);
    kin_tensor rate = kin_input(g, name[1], KIN_F32, 5, dims);
    kin_tensor w = kin_cast(g, weight(p, n, "weight", 1, &channels), KIN_F32);
    kin_tensor bias = kin_cast(g, weight(p, n, "bias", 1, &channels), KIN_F32);
    for (int i = 0; i < 5; i++) whole[i] = kin_dim(g, x, i);
    rate = kin_mul(g, rate, kin_reshape(g, w, 5, per_channel));
    bias = kin_expand(g, kin_reshape(g, bias, 5, per_channel), 5, whole);
    x = kin_sub(g, kin_cast(g, x, KIN_F32), mean);
    x = kin_gated_add(g, bias, rate, x);
    if (n->silu) x = kin_silu(g, x);
    return kin_cast(g, x, p->nodes->precision.compute);
}

static kin_tensor cut_axis(kin_graph *g, kin_tensor x, int axis, int64_t start, int64_t count) {
    return kin_dim(g, x, axis) == count ? x : kin_slice(g, x, axis, start, count);
}

static kin_tensor enlarged(const piece_graph *p, const cut_step *step, const cut_node *n,
                           kin_tensor x) {
    kin_graph *g = p->graph;
    int64_t frames = length(step->region.axis[0]), rows = length(step->region.axis[1]);
    int64_t given = kin_dim(g, x, TIME), s = n->space;
    bool first = step->region.axis[0].from == 0;
    kin_tensor part[2] = {KIN_NONE, KIN_NONE};
    if (first) {
        part[0] = cut_axis(g, x, TIME, 0, 1);
        if (s > 1) part[0] = kin_upsample_linear(g, part[0], 1, s, s);
        part[0] = cut_axis(g, part[0], ROWS, step->skip[1], rows);
        if (frames == 1) return part[0];
    }
    part[1] = cut_axis(g, x, TIME, first, given - first);
    part[1] = kin_upsample_linear(g, part[1], 2, s, s);
    part[1] = cut_axis(g, part[1], TIME, step->skip[0], frames - first);
    part[1] = cut_axis(g, part[1], ROWS, step->skip[1], rows);
    return first ? kin_concat(g, part, 2, TIME) : part[1];
}

/* [1, C, t, y, X] -> [t, y X, 1, C] */
static kin_tensor to_places(kin_graph *g, kin_tensor x) {
    int64_t c = kin_dim(g, x, 1), frames = kin_dim(g, x, TIME);
    int64_t places = kin_dim(g, x, ROWS) * kin_dim(g, x, COLUMNS);
    x = kin_reshape(g, x, 3, (int64_t[]){c, frames, places});
    x = kin_permute(g, x, (int[]){1, 2, 0});
    return kin_reshape(g, x, 4, (int64_t[]){frames, places, 1, c});
}

static kin_tensor attention(const piece_graph *p, const kin_tensor parts[3]) {
    kin_graph *g = p->graph;
    int64_t dims[5];
    for (int i = 0; i < 5; i++) dims[i] = kin_dim(g, parts[0], i);
    kin_tensor h =
        kin_attention(g, to_places(g, parts[0]), to_places(g, parts[1]), to_places(g, parts[2]),
                      KIN_NONE, KIN_NONE, 1 / sqrt((double)dims[1]));
    h = kin_reshape(g, h, 3, (int64_t[]){dims[TIME], dims[ROWS] * dims[COLUMNS], dims[1]});
    return kin_reshape(g, kin_permute(g, h, (int[]){2, 0, 1}), 5, dims);
}

/* The sigmoid of the weight NAME. */
static kin_tensor mix_factor(const piece_graph *p, const cut_node *n) {
    int64_t one = 1;
    return kin_sigmoid(
        p->graph, kin_layer_weight(p->graph, &p->nodes->precision, n->name, 1, &one, any_start));
}

static kin_tensor step_value(const piece_graph *p, int index) {
    kin_graph *g = p->graph;
    const cut_step *step = &p->piece->steps[index];
    const cut_node *n = &p->nodes->at[step->node];
    kin_tensor in[CUT_INPUTS] = {KIN_NONE, KIN_NONE, KIN_NONE};
    if (step->source >= 0) {
        const cut_region *has = &p->piece->sources[step->source].region;
        kin_tensor x = p->sources[step->source];
        for (int a = 0; a < 2; a++)
            x = cut_axis(g, x, TIME + a, step->region.axis[a].from - has->axis[a].from,
                         length(step->region.axis[a]));
        return x;
    }
    for (int k = 0; k < n->in_count; k++) in[k] = p->values[step->in[k]];
    switch (n->kind) {
    case CUT_SCALE:
        return kin_scale(g, in[0], n->scale, 0);
    case CUT_CONV:
        return convolution(p, step, n, in[0]);
    case CUT_NORM:
        return normalise(p, index, n, in[0]);
    case CUT_NEAREST:
        return cut_axis(g, kin_upsample_nearest(g, in[0], 1, 2, 2), ROWS, step->skip[1],
                        length(step->region.axis[1]));
    case CUT_ENLARGE:
        return enlarged(p, step, n, in[0]);
    case CUT_MEAN_TIME: {
        int64_t before[5] = {0, 0, step->before[0], 0, 0}, after[5] = {0};
        if (step->before[0]) in[0] = kin_pad_replicate(g, in[0], before, after);
        return kin_avg_pool_time(g, in[0], 3, 2);
    }
    case CUT_ADD:
        return kin_add(g, in[0], in[1]);
    case CUT_ADD_MIXED:
        return kin_add(g, in[0], kin_mul(g, mix_factor(p, n), in[1]));
    case CUT_MIX:
        return kin_add(g, in[1], kin_mul(g, mix_factor(p, n), kin_sub(g, in[0], in[1])));
    case CUT_ATTEND:
        return attention(p, in);
    default:
        return KIN_NONE;
    }
}

/* Mean and mean square distance from it, of each group of channels in each frame. */
static void statistics(kin_graph *g, kin_tensor x, int groups) {
    int64_t c = kin_dim(g, x, 1), frames = kin_dim(g, x, TIME);
    int64_t places = kin_dim(g, x, ROWS) * kin_dim(g, x, COLUMNS);
    uint32_t axes = 1u << 1 | 1u << 3;
    x = kin_reshape(g, kin_cast(g, x, KIN_F32), 4, (int64_t[]){groups, c / groups, frames, places});
    kin_tensor mean = kin_mean(g, x, axes, true);
    kin_tensor spread = kin_mean(g, kin_square(g, kin_sub(g, x, mean)), axes, false);
    kin_output(g, "mean", kin_reshape(g, mean, 2, (int64_t[]){groups, frames}));
    kin_output(g, "spread", spread);
}

void kin_cut_piece_graph(kin_graph *graph, const cut_nodes *nodes, const cut_piece *piece) {
    piece_graph p = {.graph = graph, .nodes = nodes, .piece = piece};
    for (int i = 0; i < piece->source_count; i++) {
        const cut_source *s = &piece->sources[i];
        const cut_node *n = &nodes->at[s->node];
        int64_t dims[5] = {1, n->channels, length(s->region.axis[0]), length(s->region.axis[1]),
                           n->columns};
        char name[24];
        snprintf(name, sizeof name, "s%d", i);
        p.sources[i] = kin_input(graph, name, kin_cut_dtype(nodes, s->node), 5, dims);
    }
    for (int i = 0; i < piece->step_count; i++) p.values[i] = step_value(&p, i);
    int end = piece->steps[piece->step_count - 1].node;
    const cut_node *n = &nodes->at[end];
    kin_tensor y = kin_cast(graph, p.values[piece->step_count - 1], kin_cut_dtype(nodes, end));
    if (n->stored) kin_output(graph, "y", y);
    if (n->counted) statistics(graph, y, n->groups);
}
