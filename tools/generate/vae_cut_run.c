/* Running a video through in pieces. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "tools/generate/vae_cut.h"

/* Copies a region of a stored node to dense memory [C, t, y, X], or back. mixed: as attention of
 * that kind reads it. */
static void move_region(const kin_vae_cutter *cutter, int node, const cut_region *region,
                        bool mixed, char *dense, bool back) {
    const cut_node *n = &cutter->nodes.at[node];
    const kin_vae_place *place = node == 0 ? cutter->input : cutter->result;
    bool callers = node == 0 || node == cutter->nodes.count - 1;
    size_t element = kin_dtype_size(kin_cut_dtype(&cutter->nodes, node));
    int64_t plane = n->rows * n->columns, frame = plane, channel = n->frames * plane;
    char *data = callers ? (char *)place->data : cutter->host + cutter->contents[node].offset;
    if (callers) channel = place->channel_stride;
    if (mixed) {
        channel = plane;
        frame = n->channels * plane;
    }
    const cut_span *t = &region->axis[0], *y = &region->axis[1];
    size_t bytes = (size_t)((y->to - y->from) * n->columns) * element;
    for (int64_t c = 0; c < n->channels; c++)
        for (int64_t f = t->from; f < t->to; f++, dense += bytes) {
            char *at = data + (size_t)(c * channel + f * frame + y->from * n->columns) * element;
            if (back) memcpy(at, dense, bytes);
            else memcpy(dense, at, bytes);
        }
}

/* Two sets of numbers as one: Chan, Golub and LeVeque 1979, "Updating formulae and a pairwise
 * algorithm for computing sample variances". */
static void join(cut_statistics *s, double count, double mean, double spread) {
    double all = s->count + count, gap = mean - s->mean;
    s->spread += spread + gap * gap * s->count * count / all;
    s->mean += gap * count / all;
    s->count = all;
}

/* Mean and 1 / deviation for each channel and frame (or all frames) of a norm's step. */
static kin_status write_statistics(const kin_vae_cutter *cutter, kin_plan *plan,
                                   const cut_step *step, int index) {
    const cut_node *n = &cutter->nodes.at[step->node];
    const cut_node *x = &cutter->nodes.at[n->in[0]];
    const cut_statistics *all = cutter->contents[n->in[0]].statistics;
    const cut_span *t = &step->region.axis[0];
    int64_t frames = n->over_time ? 1 : t->to - t->from, each = n->channels / n->groups;
    char name[2][24];
    float *values = kin_alloc(cutter->context, (size_t)(2 * n->channels * frames) * sizeof *values);
    if (!values) return KIN_OUT_OF_MEMORY;
    float *means = values, *rates = values + n->channels * frames;
    for (int64_t f = 0; f < frames; f++)
        for (int64_t g = 0; g < n->groups; g++) {
            cut_statistics s = {0};
            int64_t from = n->over_time ? 0 : t->from + f, to = n->over_time ? x->frames : from + 1;
            for (int64_t i = from; i < to; i++) {
                const cut_statistics *one = &all[i * n->groups + g];
                join(&s, one->count, one->mean, one->spread);
            }
            double rate = 1 / sqrt(s.spread / s.count + n->eps);
            for (int64_t c = g * each; c < (g + 1) * each; c++) {
                means[c * frames + f] = (float)s.mean;
                rates[c * frames + f] = (float)rate;
            }
        }
    snprintf(name[0], sizeof name[0], "mean%d", index);
    snprintf(name[1], sizeof name[1], "rate%d", index);
    kin_status status = kin_plan_write(plan, name[0], KIN_F32, means);
    if (status == KIN_OK) status = kin_plan_write(plan, name[1], KIN_F32, rates);
    kin_free(cutter->context, values);
    return status;
}

/* Adds a piece's statistics to its node's. */
static kin_status read_statistics(kin_vae_cutter *cutter, kin_plan *plan, const cut_step *end) {
    const cut_node *n = &cutter->nodes.at[end->node];
    const cut_span *t = &end->region.axis[0], *y = &end->region.axis[1];
    int64_t frames = t->to - t->from, size = n->groups * frames;
    double count = (double)(n->channels / n->groups * (y->to - y->from) * n->columns);
    float *values = kin_alloc(cutter->context, (size_t)(2 * size) * sizeof *values);
    if (!values) return KIN_OUT_OF_MEMORY;
    kin_status status = kin_plan_read(plan, "mean", KIN_F32, values);
    if (status == KIN_OK) status = kin_plan_read(plan, "spread", KIN_F32, values + size);
    for (int64_t i = 0; status == KIN_OK && i < size; i++) {
        cut_statistics *all = cutter->contents[end->node].statistics;
        int64_t group = i / frames, frame = t->from + i % frames;
        join(&all[frame * n->groups + group], count, values[i], count * (double)values[size + i]);
    }
    kin_free(cutter->context, values);
    return status;
}

static kin_status run_piece(kin_vae_cutter *cutter, kin_plan *plan, const cut_piece *piece) {
    const cut_step *end = &piece->steps[piece->step_count - 1];
    const cut_node *n = &cutter->nodes.at[end->node];
    bool mixed = n->kind == CUT_ATTEND && n->mixed;
    kin_status status = KIN_OK;
    char name[24];
    for (int i = 0; status == KIN_OK && i < piece->source_count; i++) {
        const cut_source *s = &piece->sources[i];
        snprintf(name, sizeof name, "s%d", i);
        move_region(cutter, s->node, &s->region, mixed, cutter->staging, false);
        status =
            kin_plan_write(plan, name, kin_cut_dtype(&cutter->nodes, s->node), cutter->staging);
    }
    for (int i = 0; status == KIN_OK && i < piece->step_count; i++) {
        const cut_step *step = &piece->steps[i];
        if (step->source < 0 && cutter->nodes.at[step->node].kind == CUT_NORM)
            status = write_statistics(cutter, plan, step, i);
    }
    if (status == KIN_OK) status = kin_plan_run(plan);
    if (status == KIN_OK && n->stored) {
        status =
            kin_plan_read(plan, "y", kin_cut_dtype(&cutter->nodes, end->node), cutter->staging);
        if (status == KIN_OK)
            move_region(cutter, end->node, &end->region, mixed, cutter->staging, true);
    }
    if (status == KIN_OK && n->counted) status = read_statistics(cutter, plan, end);
    return status;
}

/* All pieces that one plan serves. */
static kin_status run_kind(kin_vae_cutter *cutter, kin_store *store, const cut_pass *pass,
                           const cut_piece *kind, bool (*done)(void *user), void *user) {
    kin_plan *plan = NULL;
    cut_piece piece;
    kin_status status = kin_cut_plan_piece(cutter, kind, &plan);
    if (status == KIN_OK) status = kin_plan_prepare(plan, store, cutter->workspace);
    for (int64_t i = 0; status == KIN_OK && i < pass->pieces[0] * pass->pieces[1]; i++) {
        int64_t index[2] = {i / pass->pieces[1], i % pass->pieces[1]};
        status = kin_cut_make_piece(cutter, pass->node, pass->pieces, index, &piece);
        if (status != KIN_OK || !kin_cut_piece_same(kind, &piece)) continue;
        status = run_piece(cutter, plan, &piece);
        if (status == KIN_OK && !done(user))
            status = kin_fail(cutter->context, KIN_CANCELLED, "interrupted while coding a video");
    }
    kin_plan_free(plan);
    return status;
}

static kin_status run_pass(kin_vae_cutter *cutter, kin_store *store, const cut_pass *pass,
                           bool (*done)(void *user), void *user) {
    const cut_node *n = &cutter->nodes.at[pass->node];
    cut_piece *kinds = NULL;
    int count = 0;
    kin_status status = kin_cut_list_kinds(cutter, pass->node, pass->pieces, &kinds, &count);
    if (status == KIN_OK && n->counted) {
        cut_statistics **s = &cutter->contents[pass->node].statistics;
        *s = kin_calloc(cutter->context, (size_t)(n->frames * n->groups), sizeof **s);
        if (!*s) status = KIN_OUT_OF_MEMORY;
    }
    for (int k = 0; status == KIN_OK && k < count; k++)
        status = run_kind(cutter, store, pass, &kinds[k], done, user);
    kin_free(cutter->context, kinds);
    return status;
}

/* The arena, which grows as it must, and the place where parts are gathered. */
static kin_status allocate(kin_vae_cutter *cutter, const cut_pass *pass) {
    uint64_t bytes = cutter->tight ? pass->staging : cutter->needs.staging;
    if (!cutter->staging) cutter->staging = kin_alloc(cutter->context, (size_t)bytes);
    if (!cutter->staging) return KIN_OUT_OF_MEMORY;
    if (cutter->workspace) return KIN_OK;
    return kin_workspace_create(cutter->device, &cutter->workspace);
}

static void release(kin_vae_cutter *cutter) {
    kin_workspace_free(cutter->workspace);
    kin_free(cutter->context, cutter->staging);
    cutter->workspace = NULL;
    cutter->staging = NULL;
}

static void forget_statistics(kin_vae_cutter *cutter) {
    for (int i = 0; cutter->contents && i < cutter->nodes.count; i++) {
        kin_free(cutter->context, cutter->contents[i].statistics);
        cutter->contents[i].statistics = NULL;
    }
}

kin_status kin_vae_cutter_run(kin_vae_cutter *cutter, kin_store *store, const kin_vae_place *input,
                              const kin_vae_place *result, bool (*done)(void *user), void *user) {
    kin_status status = KIN_OK;
    cutter->input = input;
    cutter->result = result;
    if (!cutter->host) cutter->host = kin_alloc(cutter->context, (size_t)cutter->kept);
    if (!cutter->host) status = KIN_OUT_OF_MEMORY;
    for (int p = 0; status == KIN_OK && p < cutter->pass_count; p++) {
        status = allocate(cutter, &cutter->passes[p]);
        if (status == KIN_OK) status = run_pass(cutter, store, &cutter->passes[p], done, user);
        if (cutter->tight) release(cutter);
    }
    forget_statistics(cutter);
    return status;
}

void kin_vae_cutter_rest(kin_vae_cutter *cutter) {
    forget_statistics(cutter);
    release(cutter);
    kin_free(cutter->context, cutter->host);
    cutter->host = NULL;
}
