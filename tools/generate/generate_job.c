#define _POSIX_C_SOURCE 200809L
#include "tools/generate/generate_job.h"

#include "runtime/file.h"
#include "runtime/video.h"

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

/* ---- names ----------------------------------------------------------------------------------- */

/* The ending of a path, from its dot on; "" if its last part has none. */
static const char *ending_of(const char *path) {
    const char *slash = strrchr(path, '/'), *dot = strrchr(path, '.');
    return dot && (!slash || dot > slash + 1) && dot != path ? dot : path + strlen(path);
}

/* The number of a name of pictures, such as "%05d.png"; NULL if it has none. */
static const char *pattern_of(const char *file) {
    const char *sign = strchr(file, '%');
    return sign && strchr(sign, 'd') && kin_path_ends_with(file, ".png") ? sign : NULL;
}

/* A folder that is called as a file would be is in that file's way. */
static bool is_folder(const char *path) {
    static const char *const endings[] = {".mp4", ".mkv", ".png"};
    size_t length = strlen(path);
    for (int i = 0; i < 3; i++)
        if (kin_path_ends_with(path, endings[i])) return false;
    return (length > 0 && path[length - 1] == '/') || kin_file_is_folder(path);
}

kin_status kin_job_path(kin_context *context, const kin_job_names *names, size_t prompt,
                        int64_t sample, const char *name, char **out_path) {
    const char *output = names->output ? names->output : "output";
    bool folder = is_folder(output);
    size_t last = strlen(output);
    char index[64] = "", sample_text[32] = "";
    if (!folder) {
        const char *slash = strrchr(output, '/');
        last = slash ? (size_t)(slash - output) + 1 : 0;
    }
    const char *file = folder ? "sample" : output + last;
    const char *slash = folder && last > 0 && output[last - 1] != '/' ? "/" : "";
    const char *ending = ending_of(file);
    const char *pattern = pattern_of(file);
    size_t stem = pattern ? (size_t)(pattern - file) : (size_t)(ending - file);
    while (pattern && stem > 0 && strchr("_-", file[stem - 1])) stem--;
    if (!*ending && !pattern) ending = names->picture ? ".png" : ".mp4";
    if (!name && (names->prompts > 1 || folder)) snprintf(index, sizeof index, "_%zu", prompt);
    if (names->samples > 1) snprintf(sample_text, sizeof sample_text, "-%lld", (long long)sample);
    bool said = name || *index || *sample_text;
    if (pattern && !said) *out_path = kin_strdup(context, output);
    else
        *out_path = kin_format(context, "%.*s%s%.*s%s%s%s%s%s", (int)last, output, slash,
                               name ? (int)strlen(name) : (int)stem, name ? name : file,
                               stem == 0 && !name && *index ? index + 1 : index, sample_text,
                               pattern ? "_" : "", pattern ? pattern : "", pattern ? "" : ending);
    return *out_path ? KIN_OK : KIN_OUT_OF_MEMORY;
}

/* ---- the list -------------------------------------------------------------------------------- */

static int by_output(const void *a, const void *b) {
    return strcmp(*(char *const *)a, *(char *const *)b);
}

static kin_status check_outputs(kin_context *context, const kin_job *job) {
    char **sorted = kin_alloc(context, job->count * sizeof *sorted);
    if (!sorted) return KIN_OUT_OF_MEMORY;
    for (size_t i = 0; i < job->count; i++) sorted[i] = job->clips[i].output;
    qsort(sorted, job->count, sizeof *sorted, by_output);
    kin_status status = KIN_OK;
    for (size_t i = 1; status == KIN_OK && i < job->count; i++)
        if (strcmp(sorted[i - 1], sorted[i]) == 0)
            status = kin_fail(context, KIN_INVALID, "two clips would be %s: give other names",
                              sorted[i]);
    kin_free(context, sorted);
    return status;
}

kin_status kin_job_make(kin_context *context, const kin_prompts *prompts,
                        const kin_job_names *names, uint64_t seed, kin_job *out_job) {
    size_t samples = (size_t)names->samples;
    *out_job = (kin_job){NULL, 0};
    if (prompts->count == 0 || names->samples < 1 || samples > (1u << 24) / prompts->count)
        return kin_fail(context, KIN_INVALID, "%zu prompts with %lld samples are no job: 1 to 16M",
                        prompts->count, (long long)names->samples);
    out_job->clips = kin_calloc(context, prompts->count * samples, sizeof *out_job->clips);
    if (!out_job->clips) return KIN_OUT_OF_MEMORY;
    kin_status status = KIN_OK;
    for (size_t i = 0; status == KIN_OK && i < prompts->count * samples; i++) {
        kin_job_clip *clip = &out_job->clips[out_job->count++];
        size_t prompt = i / samples;
        clip->prompt = &prompts->list[prompt];
        clip->sample = (int64_t)(i % samples);
        clip->seed = (clip->prompt->seed >= 0 ? (uint64_t)clip->prompt->seed : seed) +
                     (uint64_t)clip->sample;
        status =
            kin_job_path(context, names, prompt, clip->sample, clip->prompt->name, &clip->output);
        if (status == KIN_OK) clip->stages = kin_format(context, "%s.stages", clip->output);
        if (status == KIN_OK && !clip->stages) status = KIN_OUT_OF_MEMORY;
    }
    if (status == KIN_OK) status = check_outputs(context, out_job);
    if (status != KIN_OK) kin_job_free(context, out_job);
    return status;
}

void kin_job_free(kin_context *context, kin_job *job) {
    for (size_t i = 0; i < job->count; i++) {
        kin_free(context, job->clips[i].output);
        kin_free(context, job->clips[i].stages);
    }
    kin_free(context, job->clips);
    *job = (kin_job){NULL, 0};
}

/* ---- what is there --------------------------------------------------------------------------- */

static bool later(const struct timespec *a, const struct timespec *b) {
    return a->tv_sec > b->tv_sec || (a->tv_sec == b->tv_sec && a->tv_nsec > b->tv_nsec);
}

/* Something at the path, or a file in that folder, was written after `when`. */
static bool newer(const char *path, const struct timespec *when) {
    struct stat info;
    if (stat(path, &info) != 0) return true;
    if (!S_ISDIR(info.st_mode)) return later(&info.st_mtim, when);
    DIR *folder = opendir(path);
    bool found = !folder;
    for (struct dirent *entry; !found && (entry = readdir(folder));) {
        char full[4096];
        int length = snprintf(full, sizeof full, "%s/%s", path, entry->d_name);
        if (length < 0 || (size_t)length >= sizeof full || stat(full, &info) != 0) continue;
        found = S_ISREG(info.st_mode) && later(&info.st_mtim, when);
    }
    if (folder) closedir(folder);
    return found;
}

kin_job_state kin_job_look(kin_context *context, const kin_job_clip *clip, const char *parameters,
                           const char *const *sources) {
    char first[4096], *comment = NULL;
    struct stat info;
    const char *path = clip->output;
    const char *at = pattern_of(path);
    if (at) {
        int digits = atoi(at + 1);
        int length = snprintf(first, sizeof first, "%.*s%0*d%s", (int)(at - path), path,
                              digits > 0 && digits < 20 ? digits : 1, 0, strchr(at, 'd') + 1);
        if (length < 0 || (size_t)length >= sizeof first) return KIN_JOB_TO_DO;
        path = first;
    }
    if (stat(path, &info) != 0 || !S_ISREG(info.st_mode)) return KIN_JOB_TO_DO;
    if (kin_video_comment(context, path, &comment) != KIN_OK) return KIN_JOB_FOREIGN;
    kin_job_state state = KIN_JOB_OTHER;
    if (strcmp(comment, parameters) == 0) state = KIN_JOB_FINISHED;
    else if (strncmp(comment, "prompt: ", 8) != 0 || !strstr(comment, "\nkinora: "))
        state = KIN_JOB_FOREIGN;
    for (size_t i = 0; state == KIN_JOB_FINISHED && sources[i]; i++)
        if (newer(sources[i], &info.st_mtim)) state = KIN_JOB_OTHER;
    kin_free(context, comment);
    return state;
}

bool kin_job_same_file(const char *one, const char *other) {
    struct stat a, b;
    return stat(one, &a) == 0 && stat(other, &b) == 0 && a.st_dev == b.st_dev &&
           a.st_ino == b.st_ino;
}
