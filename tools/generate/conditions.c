#include "tools/generate/conditions.h"

#include <math.h>
#include <string.h>

enum { MAX_PASSES = 4096 };

int64_t kin_passes_frames(const kin_passes *p) {
    if (p->count == 1) return p->frames;
    return p->count * (p->frames - p->overlap) + (p->closed ? 0 : p->overlap);
}

int64_t kin_passes_place(const kin_passes *p, int pass, int64_t *out_first, int64_t *out_count) {
    int64_t step = p->frames - p->overlap;
    *out_first = 0;
    *out_count = p->frames;
    if (p->count == 1) return 0;
    if (p->backward) { /* the last pass comes first; all but pass 0 lose their end */
        if (pass > 0) *out_count = step;
        return (p->count - 1 - pass) * step;
    }
    if (pass > 0) {
        *out_first = p->overlap;
        *out_count = step;
    }
    if (p->closed && pass == p->count - 1) *out_count -= p->overlap;
    return pass * step;
}

/* ---- tasks ----------------------------------------------------------------------------------- */

static kin_status check_task(kin_context *context, const kin_condition_task *t,
                             const kin_passes *p) {
    int sources = (t->image != NULL) + (t->video != NULL) + (t->interpolate != NULL);
    bool edit = t->edit >= 0;
    if (sources > 1)
        return kin_fail(context, KIN_INVALID,
                        "--image, --video and --interpolate are three tasks: give one of them");
    if (t->video && edit == (t->extend != NULL))
        return kin_fail(context, KIN_INVALID,
                        "--video wants either --edit RATIO or --extend forward|backward");
    if (!t->video && (edit || t->extend))
        return kin_fail(context, KIN_INVALID, "--edit and --extend want --video FILE");
    if (edit && !(t->edit <= 1))
        return kin_fail(context, KIN_INVALID,
                        "--edit must lie within 0 (kept as it is) and 1 (made anew), not %g",
                        t->edit);
    if (t->extend && strcmp(t->extend, "forward") != 0 && strcmp(t->extend, "backward") != 0)
        return kin_fail(context, KIN_INVALID, "--extend must be forward or backward, not \"%s\"",
                        t->extend);
    if (t->loop_video && (t->video || t->interpolate))
        return kin_fail(context, KIN_INVALID,
                        "--loop-video goes with --image or alone, not with --video or "
                        "--interpolate");
    if (p->count < 1 || p->count > MAX_PASSES)
        return kin_fail(context, KIN_INVALID, "--loop must be 1 to %d passes, not %d", MAX_PASSES,
                        p->count);
    return KIN_OK;
}

/* Frames of the only reference. */
static kin_status frames_of(kin_context *context, const char *path, int64_t interval,
                            int64_t *out_frames) {
    kin_references r;
    if (strchr(path, ';'))
        return kin_fail(context, KIN_INVALID, "%s: this flag takes one file", path);
    kin_status status = kin_references_probe(context, path, interval, &r);
    if (status != KIN_OK) return status;
    *out_frames = r.list[0].frames;
    kin_references_free(context, &r);
    return KIN_OK;
}

/* Puts `more` behind *text, which it frees. */
static bool put(kin_context *context, char **text, const char *more) {
    char *joined = *text && more ? kin_format(context, "%s%s", *text, more) : NULL;
    kin_free(context, *text);
    *text = joined;
    return joined != NULL;
}

/* Each pass edits the stretch that it is about; what it takes over from the last one comes later.
 */
static kin_status edit_strategy(kin_context *context, double ratio, int64_t frames,
                                const kin_passes *p, char **out) {
    *out = kin_strdup(context, "");
    for (int pass = 0; *out && pass < p->count; pass++) {
        int64_t start = pass * (p->frames - p->overlap), length = frames - start;
        char tuple[128];
        if (length <= 0) break;
        if (length > p->frames) length = p->frames;
        snprintf(tuple, sizeof tuple, "%s%d,0,%lld,0,%lld,%g", pass ? ";" : "", pass,
                 (long long)start, (long long)length, ratio);
        put(context, out, tuple);
    }
    return *out ? KIN_OK : KIN_OUT_OF_MEMORY;
}

static kin_status video_strategy(kin_context *context, const kin_condition_task *t,
                                 int64_t interval, const kin_passes *p, char **out) {
    int64_t frames = 0;
    kin_status status = frames_of(context, t->video, interval, &frames);
    if (status != KIN_OK) return status;
    if (!t->extend) return edit_strategy(context, t->edit, frames, p, out);
    long long length = p->overlap < frames ? p->overlap : frames;
    *out = strcmp(t->extend, "forward") == 0
               ? kin_format(context, "0,0,-%lld,0,%lld", length, length)
               : kin_format(context, "0,0,0,-%lld,%lld", length, length);
    return *out ? KIN_OK : KIN_OUT_OF_MEMORY;
}

static kin_status interpolation(kin_context *context, const kin_condition_task *t,
                                const kin_passes *p, char **out_paths, char **out_strategy) {
    int64_t images = 1;
    for (const char *c = t->interpolate; *c; c++) images += *c == ',';
    if (images < 2 || images > p->frames || strchr(t->interpolate, ';'))
        return kin_fail(context, KIN_INVALID,
                        "--interpolate wants 2 to %lld images with commas between, one for a frame "
                        "at most, not \"%s\"",
                        (long long)p->frames, t->interpolate);
    *out_paths = kin_strdup(context, t->interpolate);
    *out_strategy = kin_strdup(context, "0");
    for (char *c = *out_paths; c && *c; c++)
        if (*c == ',') *c = ';';
    for (int64_t i = 1; *out_strategy && i < images; i++) {
        int64_t place = llrint((double)(i * (p->frames - 1)) / (double)(images - 1));
        char tuple[64];
        snprintf(tuple, sizeof tuple, ";0,%lld,0,%lld,1", (long long)i,
                 i == images - 1 ? -1LL : (long long)place);
        put(context, out_strategy, tuple);
    }
    return *out_paths && *out_strategy ? KIN_OK : KIN_OUT_OF_MEMORY;
}

kin_status kin_condition_task_resolve(kin_context *context, const kin_condition_task *task,
                                      int64_t interval, kin_passes *passes,
                                      char **out_reference_path, char **out_mask_strategy) {
    *out_reference_path = *out_mask_strategy = NULL;
    kin_status status = check_task(context, task, passes);
    if (status != KIN_OK) return status;
    passes->backward = task->extend && strcmp(task->extend, "backward") == 0;
    passes->closed = task->loop_video && !task->image;
    if (passes->closed && passes->count == 1) passes->count = 2;
    if (passes->overlap == 0) passes->overlap = passes->frames / 4 > 1 ? passes->frames / 4 : 1;
    int64_t least = passes->overlap * (passes->closed ? 2 : 1) + 1;
    if (passes->overlap < 1 || ((passes->count > 1 || task->extend) && passes->frames < least))
        return kin_fail(
            context, KIN_INVALID,
            "%lld condition frames leave nothing to make in a pass of %lld frames: give "
            "fewer with --condition-frame-length",
            (long long)passes->overlap, (long long)passes->frames);
    if (task->interpolate)
        status = interpolation(context, task, passes, out_reference_path, out_mask_strategy);
    else if (task->video)
        status = video_strategy(context, task, interval, passes, out_mask_strategy);
    else if (task->image) {
        *out_mask_strategy = kin_strdup(context, task->loop_video ? "0;0,0,0,-1,1" : "0");
        if (!*out_mask_strategy) status = KIN_OUT_OF_MEMORY;
    }
    const char *path = task->video ? task->video : task->image;
    if (status == KIN_OK && path) {
        *out_reference_path = kin_strdup(context, path);
        if (!*out_reference_path) status = KIN_OUT_OF_MEMORY;
    }
    if (status == KIN_OK) return KIN_OK;
    kin_free(context, *out_reference_path);
    kin_free(context, *out_mask_strategy);
    *out_reference_path = *out_mask_strategy = NULL;
    return status;
}

/* ---- of a clip ------------------------------------------------------------------------------- */

/* The tuples of a strategy, and those that join the passes. */
static kin_status make_tuples(kin_context *context, const char *strategy, const kin_passes *p,
                              int files, int64_t overlap, kin_conditions *out) {
    kin_mask_tuple *own = NULL;
    size_t count = 0, more = p->count > 1 ? (size_t)p->count - 1 + (size_t)p->closed : 0;
    kin_status status = kin_mask_strategy_parse(context, strategy, &own, &count);
    if (status != KIN_OK) return status;
    out->tuples = kin_calloc(context, count + more + 1, sizeof *out->tuples);
    if (!out->tuples) status = KIN_OUT_OF_MEMORY;
    if (status == KIN_OK && count) memcpy(out->tuples, own, count * sizeof *own);
    kin_free(context, own);
    if (status != KIN_OK) return status;
    int k = (int)overlap;
    for (int pass = 1; pass < p->count; pass++) {
        kin_mask_tuple join = {pass, files + pass - 1, -k, 0, k, 0};
        if (p->backward) join = (kin_mask_tuple){pass, files + pass - 1, 0, -k, k, 0};
        out->tuples[count++] = join;
    }
    if (more && p->closed)
        out->tuples[count++] = (kin_mask_tuple){p->count - 1, files, 0, -k, k, 0};
    out->count = count;
    return KIN_OK;
}

/* Applies every pass to nothing: what cannot be applied is told before there are weights. */
static kin_status try_passes(kin_context *context, const kin_conditions *c,
                             const kin_passes *passes, int64_t latent_frames,
                             int64_t (*latents_of)(void *user, int64_t frames), void *user) {
    size_t files = c->references.count, most = files + (size_t)passes->count;
    kin_mask_reference *references = kin_calloc(context, most, sizeof *references);
    float *mask = kin_alloc(context, (size_t)latent_frames * sizeof *mask);
    kin_status status = references && mask ? KIN_OK : KIN_OUT_OF_MEMORY;
    for (size_t i = 0; status == KIN_OK && i < most; i++)
        references[i].frames =
            i < files ? latents_of(user, c->references.list[i].frames) : latent_frames;
    for (int pass = 0; status == KIN_OK && pass < passes->count; pass++) {
        kin_mask_sample sample = {.mask = mask,
                                  .frames = latent_frames,
                                  .references = references,
                                  .reference_count = files + (size_t)pass};
        status = kin_mask_strategy_apply(context, c->tuples, c->count, pass, &sample);
    }
    kin_free(context, mask);
    kin_free(context, references);
    return status;
}

kin_status kin_conditions_make(kin_context *context, const char *reference_path,
                               const char *mask_strategy, int64_t interval,
                               const kin_passes *passes, int64_t latent_frames,
                               int64_t (*latents_of)(void *user, int64_t frames), void *user,
                               kin_conditions *out_conditions) {
    kin_conditions *c = out_conditions;
    *c = (kin_conditions){{NULL, 0}, NULL, 0};
    if (reference_path && !mask_strategy)
        return kin_fail(
            context, KIN_INVALID,
            "a reference_path without a mask_strategy is used nowhere: \"0\" begins with "
            "its first frame");
    if (mask_strategy && !reference_path && passes->count == 1)
        return kin_fail(context, KIN_INVALID,
                        "a mask_strategy without a reference_path has nothing to place");
    kin_status status = kin_references_probe(context, reference_path, interval, &c->references);
    if (status == KIN_OK)
        status = make_tuples(context, mask_strategy, passes, (int)c->references.count,
                             latents_of(user, passes->overlap), c);
    if (status == KIN_OK) status = try_passes(context, c, passes, latent_frames, latents_of, user);
    if (status != KIN_OK) kin_conditions_free(context, c);
    return status;
}

void kin_conditions_free(kin_context *context, kin_conditions *conditions) {
    kin_references_free(context, &conditions->references);
    kin_free(context, conditions->tuples);
    *conditions = (kin_conditions){{NULL, 0}, NULL, 0};
}

bool kin_conditions_act(const kin_conditions *conditions, int pass) {
    for (size_t i = 0; i < conditions->count; i++)
        if (conditions->tuples[i].loop == pass) return true;
    return false;
}
