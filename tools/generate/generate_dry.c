/* kinora generate --dry-run: what the whole job is, and what it takes. */
#include "tools/generate/generate.h"

#include <stdio.h>
#include <string.h>

enum { LABEL = 16 };

static void row(const char *label, const char *text) {
    printf("%-*s%s\n", LABEL, label, text);
}

static void print_parts(const kin_generate *g) {
    row("system", kin_system_name(g->pipeline.system.kind));
    for (int i = 0; i < KIN_PART_KINDS; i++) {
        const kin_part *part = &g->pipeline.system.parts[i];
        if (!part->path) continue;
        printf("%-*s%s%s%s\n", LABEL, kin_part_name((kin_part_kind)i), part->path,
               part->entry ? ", entry " : "", part->entry ? part->entry : "");
    }
}

static void print_shape(const kin_generate *g) {
    const kin_sampling *s = &g->shape.sampling;
    const kin_passes *p = &g->passes;
    static const char *const noises[] = {"kinora's", "PyTorch's of a CPU", "PyTorch's of a card"};
    printf("%-*s%lld frames of %lldx%lld (height x width)", LABEL, "clip", (long long)g->out_frames,
           (long long)g->out_height, (long long)g->out_width);
    if (g->file_height != g->out_height || g->file_width != g->out_width)
        printf(", scaled to %lldx%lld", (long long)g->file_height, (long long)g->file_width);
    if (g->out_frames > 1) printf(" at %g frames a second", g->fps);
    printf("\n");
    if (p->count > 1)
        printf("%-*s%d of %lld frames, %lld of them from the one before%s%s\n", LABEL, "passes",
               p->count, (long long)p->frames, (long long)p->overlap,
               p->backward ? ", backward in time" : "", p->closed ? ", closed to a loop" : "");
    printf("%-*s%s, %lld steps, guidance %g", LABEL, "sampler", g->sampler, (long long)s->steps,
           s->cfg_scale);
    if (s->cfg_channels > 0) printf(" on %lld channels", (long long)s->cfg_channels);
    if (s->eta > 0) printf(", eta %g", s->eta);
    printf(", noise %s\n", noises[s->noise]);
    row("computed in", kin_dtype_name(g->pipeline.precision.compute));
}

/* One stage's peak; a stage that does not fit is told and does not end the list. */
static kin_status print_peak(const kin_generate *g, const char *label, kin_status status,
                             uint64_t bytes, const char *note) {
    char text[32];
    if (status == KIN_OK)
        printf("%-*s%s%s\n", LABEL, label, kin_bytes_text(bytes, text, sizeof text), note);
    else if (status == KIN_OUT_OF_MEMORY)
        printf("%-*sdoes not fit: %s\n", LABEL, label, kin_context_error(g->context));
    return status == KIN_OUT_OF_MEMORY ? KIN_OK : status;
}

/* What some clip of the job needs. */
typedef struct needs {
    bool negative, masked, encode;
    int64_t encode_frames; /* the longest video that is encoded at once */
} needs;

static void add_needs(const kin_generate *g, const kin_clip_work *w, needs *n) {
    const kin_conditions *c = &w->conditions;
    int64_t most = g->passes.count > 1 ? g->passes.overlap : 0;
    n->negative = n->negative || w->negative;
    n->masked = n->masked || kin_clip_masked(g, w);
    for (size_t i = 0; i < c->references.count; i++)
        if (c->references.list[i].frames > most) most = c->references.list[i].frames;
    if (most > 0) n->encode = true;
    if (most > n->encode_frames) n->encode_frames = most;
}

static kin_status print_peaks(kin_generate *g, const needs *n) {
    static const float none = 1;
    kin_generation shape = g->shape;
    uint64_t bytes = 0;
    int64_t group = 1, runs = 1;
    char note[64] = "";
    if (n->masked) shape.given = shape.ratios = &none;
    printf("peak memory\n");
    kin_status status = kin_pipeline_text_memory(&g->pipeline, &bytes);
    status = print_peak(g, "  text", status, bytes, "");
    if (status == KIN_OK && n->encode) {
        status = kin_pipeline_video_memory(&g->pipeline, true, n->encode_frames, g->out_height,
                                           g->out_width, &bytes, &runs);
        status = print_peak(g, "  references", status, bytes, "");
    }
    if (status == KIN_OK) {
        status = kin_pipeline_sample_memory(&g->pipeline, &shape, n->negative, &bytes, &group);
        if (g->shape.count > 1)
            snprintf(note, sizeof note, ", %lld of %lld clips at a time", (long long)group,
                     (long long)g->shape.count);
        status = print_peak(g, "  sampling", status, bytes, note);
    }
    if (status == KIN_OK) {
        status = kin_pipeline_video_memory(&g->pipeline, false, g->passes.frames, g->out_height,
                                           g->out_width, &bytes, &runs);
        snprintf(note, sizeof note, ", in %lld runs", (long long)runs);
        status = print_peak(g, "  frames", status, bytes, note);
    }
    return status;
}

kin_status kin_generate_dry_run(kin_generate *g) {
    static const char *const states[] = {"", ", finished", ", made otherwise: is replaced", ""};
    needs n = {.negative = false};
    size_t to_do = 0;
    kin_status status = KIN_OK;
    print_parts(g);
    print_shape(g);
    printf("%-*s%zu of %zu prompts, %d at a time\n", LABEL, "clips", g->job.count, g->prompts.count,
           (int)g->shape.count);
    for (size_t i = 0; status == KIN_OK && i < g->job.count; i++) {
        kin_clip_work w;
        status = kin_clip_open(g, i, &w);
        if (status != KIN_OK) break;
        printf("  %s  seed %llu%s\n", w.clip->output, (unsigned long long)w.clip->seed,
               states[w.state]);
        if (w.conditions.count > 0 && w.reference_path)
            printf("    references %s, strategy %s\n", w.reference_path, w.mask_strategy);
        if (w.joined > 0) printf("    joined with %lld frames of it\n", (long long)w.joined);
        add_needs(g, &w, &n);
        to_do += w.state != KIN_JOB_FINISHED;
        kin_clip_close(g, &w);
    }
    if (status == KIN_OK && to_do > 0) status = print_peaks(g, &n);
    return status;
}
