/* The clips of a job. Weights are loaded once for as many clips as take a moment; a clip that takes
 * long is written before the next is begun. */
#include "tools/generate/generate.h"

#include "runtime/file.h"
#include "runtime/video.h"

#include <stdio.h>

/* Clips whose texts are encoded at once; what one loading of the weights is used for: about so many
 * seconds of work, so many bytes of frames. */
enum { GROUP = 64, SECONDS = 120, FRAME_BYTES = 1 << 30 };

typedef struct job_progress {
    size_t done, to_do; /* passes of the clips that this run makes */
    double started;
    double seconds; /* that a set took which was sampled together; 0: not known */
} job_progress;

/* "1:02:03" or "2:03" */
static const char *time_text(double seconds, char *text, size_t size) {
    long whole = (long)(seconds + 0.5);
    if (whole >= 3600)
        snprintf(text, size, "%ld:%02ld:%02ld", whole / 3600, whole / 60 % 60, whole % 60);
    else snprintf(text, size, "%ld:%02ld", whole / 60, whole % 60);
    return text;
}

/* A pass of the clips is done: how long the whole job takes. */
static void tell_progress(const kin_clip_batch *b, job_progress *p) {
    char spent_text[32], left_text[32];
    for (size_t i = 0; i < b->count; i++) p->done += b->work[i]->state != KIN_JOB_FINISHED;
    double spent = kin_seconds() - p->started;
    double left = spent / (double)p->done * (double)(p->to_do - p->done);
    if (p->done == p->to_do) return;
    kin_log(b->g->context, KIN_LOG_INFO, "%zu of %zu %s in %s, about %s left", p->done, p->to_do,
            b->g->passes.count > 1 ? "passes" : "clips",
            time_text(spent, spent_text, sizeof spent_text),
            time_text(left, left_text, sizeof left_text));
}

/* ---- clips ----------------------------------------------------------------------------------- */

static kin_status write_clip(kin_generate *g, const kin_clip_work *w) {
    kin_video_write_options options = {.fps = g->fps, .comment = w->parameters};
    kin_host_tensor other = {.data = NULL};
    kin_status status = KIN_OK;
    if (w->joined > 0) status = kin_clip_join(g, w, &other);
    else if (g->file_height != g->out_height || g->file_width != g->out_width)
        status = kin_generate_fit(g->context, &w->video, g->file_height, g->file_width, &other);
    if (status == KIN_OK)
        status =
            kin_video_write(g->context, w->clip->output, other.data ? &other : &w->video, &options);
    kin_host_tensor_free(g->context, &other);
    if (status != KIN_OK) return status;
    printf("%s\n", w->clip->output);
    fflush(stdout);
    return KIN_OK;
}

static kin_status run_batch(const kin_clip_batch *b, job_progress *progress) {
    kin_generate *g = b->g;
    int64_t dims[4] = {3, g->out_frames, g->out_height, g->out_width};
    kin_status status = KIN_OK;
    for (size_t i = 0; status == KIN_OK && i < b->count; i++)
        status = kin_host_tensor_create(g->context, KIN_F32, 4, dims, &b->work[i]->video);
    for (int pass = 0; status == KIN_OK && pass < g->passes.count; pass++) {
        status = kin_batch_make_pass(b, pass);
        if (status == KIN_OK) tell_progress(b, progress);
    }
    for (size_t i = 0; status == KIN_OK && i < b->count; i++)
        if (b->work[i]->state != KIN_JOB_FINISHED) status = write_clip(g, b->work[i]);
    for (size_t i = 0; status == KIN_OK && i < b->count; i++) {
        if (!g->request->keep_stages) kin_stages_remove(g->context, b->work[i]->clip->stages);
        kin_host_tensor_free(g->context, &b->work[i]->video);
    }
    if (status != KIN_OK && kin_file_is_folder(b->work[0]->clip->stages))
        kin_log(g->context, KIN_LOG_INFO,
                "finished stages are kept in %s: the same command goes on from there",
                b->work[0]->clip->stages);
    return status;
}

/* ---- which clips go together ----------------------------------------------------------------- */

/* The sampler's graph of both is one. */
static bool alike(const kin_generate *g, const kin_clip_work *a, const kin_clip_work *b) {
    return kin_clip_masked(g, a) == kin_clip_masked(g, b) &&
           (a->negative == NULL) == (b->negative == NULL);
}

/* How many clips from work[0] on are sampled together. */
static size_t count_together(const kin_generate *g, const kin_clip_work *work, size_t left) {
    size_t count = 1, most = (size_t)g->request->batch_size;
    while (count < most && count < left && alike(g, work, &work[count])) count++;
    return count;
}

static bool any_to_do(const kin_clip_work *work, size_t count) {
    for (size_t i = 0; i < count; i++)
        if (work[i].state != KIN_JOB_FINISHED) return true;
    return false;
}

/* Clips for one loading of the weights: the next that are to do, in whole sets of clips that are
 * sampled together. Returns where the next ones begin. seconds: what a set took so far; 0: not
 * known, so one set is made alone. */
static size_t next_batch(kin_generate *g, kin_clip_work *work, size_t first, size_t count,
                         double seconds, kin_clip_batch *out) {
    double bytes = 12.0 * (double)(g->out_frames * g->out_height * g->out_width);
    double most = seconds > 0 ? SECONDS / seconds : 1;
    out->count = out->together = 0;
    while (first < count) {
        size_t set = count_together(g, &work[first], count - first);
        if (any_to_do(&work[first], set)) {
            double sets = out->together ? (double)(out->count / out->together) : 0;
            double held = bytes * (double)(out->count + set);
            if (out->count && (set != out->together || sets + 1 > most || held > FRAME_BYTES ||
                               !alike(g, out->work[0], &work[first])))
                break;
            out->together = set;
            for (size_t i = 0; i < set; i++) out->work[out->count++] = &work[first + i];
        }
        first += set;
    }
    return first;
}

/* ---- the job --------------------------------------------------------------------------------- */

static void tell_clips(const kin_generate *g, const kin_clip_batch *b) {
    for (size_t i = 0; i < b->count && g->job.count > 1; i++) {
        const kin_job_clip *clip = b->work[i]->clip;
        if (b->work[i]->state == KIN_JOB_FINISHED) continue;
        kin_log(g->context, KIN_LOG_INFO, "clip %zu of %zu: %s, seed %llu",
                (size_t)(clip - g->job.clips) + 1, g->job.count, clip->output,
                (unsigned long long)clip->seed);
    }
}

/* Sets of what was made in earlier runs tell nothing of the time that others take. */
static void take_time(job_progress *progress, const kin_clip_batch *b, double seconds) {
    size_t sets = 0;
    for (size_t i = 0; i < b->count; i += b->together) sets += b->work[i]->needs_text;
    if (sets > 0) progress->seconds = seconds / (double)sets;
}

/* Texts are needed where a clip, or one that is sampled with it, has no latents. */
static void find_needs(kin_generate *g, kin_clip_work *work, size_t count) {
    for (size_t first = 0; first < count;) {
        size_t set = count_together(g, &work[first], count - first);
        bool needed = false;
        for (size_t i = 0; any_to_do(&work[first], set) && i < set; i++) {
            kin_clip_work *one = &work[first + i];
            needed = needed || kin_batch_to_sample(&(kin_clip_batch){g, &one, 1, 1}, 0);
        }
        for (size_t i = 0; i < set; i++) work[first + i].needs_text = needed;
        first += set;
    }
}

static kin_status run_group(kin_generate *g, kin_clip_work *work, size_t count,
                            job_progress *progress) {
    kin_clip_work *list[GROUP];
    find_needs(g, work, count);
    kin_status status = kin_generate_texts(g, work, count);
    for (size_t first = 0; status == KIN_OK && first < count;) {
        kin_clip_batch b = {.g = g, .work = list};
        double started = kin_seconds();
        first = next_batch(g, work, first, count, progress->seconds, &b);
        if (b.count == 0) break;
        tell_clips(g, &b);
        status = run_batch(&b, progress);
        take_time(progress, &b, kin_seconds() - started);
    }
    return status;
}

/* Looks at every clip before the first one is made. */
static kin_status look_at_all(kin_generate *g, size_t *out_to_do) {
    *out_to_do = 0;
    for (size_t i = 0; i < g->job.count; i++) {
        kin_clip_work w;
        kin_status status = kin_clip_open(g, i, &w);
        if (status != KIN_OK) return status;
        if (w.state == KIN_JOB_FINISHED) {
            kin_log(g->context, KIN_LOG_INFO, "%s is finished: --overwrite makes it anew",
                    w.clip->output);
            printf("%s\n", w.clip->output);
        } else ++*out_to_do;
        if (w.state == KIN_JOB_OTHER)
            kin_log(g->context, KIN_LOG_INFO, "%s was made otherwise and is replaced",
                    w.clip->output);
        kin_clip_close(g, &w);
    }
    fflush(stdout);
    return KIN_OK;
}

static kin_status make_all(kin_generate *g, job_progress *progress) {
    size_t together = (size_t)g->request->batch_size, group = GROUP / together * together;
    kin_clip_work *work = kin_calloc(g->context, group, sizeof *work);
    kin_status status = work ? KIN_OK : KIN_OUT_OF_MEMORY;
    for (size_t first = 0; status == KIN_OK && first < g->job.count; first += group) {
        size_t count = g->job.count - first < group ? g->job.count - first : group, opened = 0;
        while (status == KIN_OK && opened < count) {
            status = kin_clip_open(g, first + opened, &work[opened]);
            if (status == KIN_OK) opened++;
        }
        if (status == KIN_OK) status = run_group(g, work, count, progress);
        for (size_t i = 0; i < opened; i++) kin_clip_close(g, &work[i]);
    }
    kin_free(g->context, work);
    return status;
}

kin_status kin_generate_run(kin_generate *g) {
    job_progress progress = {.started = kin_seconds()};
    kin_status status = look_at_all(g, &progress.to_do);
    progress.to_do *= (size_t)g->passes.count;
    if (status == KIN_OK && progress.to_do > 0) status = make_all(g, &progress);
    /* a run that ended between the last file and this left them */
    for (size_t i = 0; status == KIN_OK && !g->request->keep_stages && i < g->job.count; i++)
        if (kin_file_is_folder(g->job.clips[i].stages))
            kin_stages_remove(g->context, g->job.clips[i].stages);
    return status;
}
