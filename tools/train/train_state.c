/* What a run keeps on disk beside the model: checkpoints and metrics. */
#define _POSIX_C_SOURCE 200809L
#include "tools/train/train.h"

#include "runtime/file.h"
#include "runtime/json.h"
#include "runtime/safetensors.h"
#include "tools/tool.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define CHECKPOINT_PREFIX "checkpoint-"
#define CHECKPOINT_SUFFIX ".safetensors"

char *kin_train_checkpoint_path(kin_context *context, const char *output, int64_t step) {
    return kin_format(context, "%s/" CHECKPOINT_PREFIX "%08lld" CHECKPOINT_SUFFIX, output,
                      (long long)step);
}

/* The step of a checkpoint's file name, -1 if it is none. */
static int64_t step_of(const char *name) {
    size_t prefix = strlen(CHECKPOINT_PREFIX);
    if (strncmp(name, CHECKPOINT_PREFIX, prefix) != 0) return -1;
    char *end;
    errno = 0;
    long long step = strtoll(name + prefix, &end, 10);
    if (errno || end == name + prefix || step < 0 || strcmp(end, CHECKPOINT_SUFFIX) != 0) return -1;
    return step;
}

static int compare_steps(const void *a, const void *b) {
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return x < y ? 1 : x > y ? -1 : 0;
}

/* Steps of all checkpoints, newest first, in fresh memory. */
static kin_status list_steps(kin_context *context, const char *output, int64_t **out_steps,
                             size_t *out_count) {
    *out_steps = NULL;
    *out_count = 0;
    DIR *directory = opendir(output);
    if (!directory) return KIN_OK;
    kin_status status = KIN_OK;
    for (struct dirent *entry; status == KIN_OK && (entry = readdir(directory));) {
        int64_t step = step_of(entry->d_name);
        if (step < 0) continue;
        int64_t *larger = kin_realloc(context, *out_steps, (*out_count + 1) * sizeof **out_steps);
        if (!larger) status = KIN_OUT_OF_MEMORY;
        else (*out_steps = larger)[(*out_count)++] = step;
    }
    closedir(directory);
    if (*out_count) qsort(*out_steps, *out_count, sizeof **out_steps, compare_steps);
    return status;
}

kin_status kin_train_checkpoint_find(kin_context *context, const char *output, char **out_path,
                                     int64_t *out_step) {
    int64_t *steps;
    size_t count;
    *out_path = NULL;
    kin_status status = list_steps(context, output, &steps, &count);
    bool found = false;
    for (size_t i = 0; status == KIN_OK && i < count && !found; i++) {
        kin_safetensors *file;
        *out_path = kin_train_checkpoint_path(context, output, steps[i]);
        if (!*out_path) {
            status = KIN_OUT_OF_MEMORY;
        } else if (kin_safetensors_open(context, *out_path, &file) == KIN_OK) {
            kin_safetensors_close(file);
            *out_step = steps[i];
            found = true;
        } else {
            kin_log(context, KIN_LOG_WARN, "%s; trying an older checkpoint",
                    kin_context_error(context));
            kin_free(context, *out_path);
            *out_path = NULL;
        }
    }
    kin_free(context, steps);
    if (status == KIN_OK && !found)
        status = kin_fail(context, KIN_NOT_FOUND, "%s holds no whole checkpoint", output);
    return status;
}

void kin_train_checkpoint_prune(kin_context *context, const char *output, int64_t keep) {
    int64_t *steps;
    size_t count;
    if (list_steps(context, output, &steps, &count) == KIN_OK)
        for (size_t i = (size_t)keep; i < count; i++) {
            char *path = kin_train_checkpoint_path(context, output, steps[i]);
            if (path) unlink(path);
            kin_free(context, path);
        }
    kin_free(context, steps);
}

/* Temporary files of kin_file_writer in the folder: the lock is held, so nobody writes them. */
static void remove_unfinished(kin_context *context, const char *output) {
    DIR *directory = opendir(output);
    if (!directory) return;
    for (struct dirent *entry; (entry = readdir(directory));) {
        if (strncmp(entry->d_name, ".kinora-", 8) != 0 ||
            !kin_path_ends_with(entry->d_name, ".tmp"))
            continue;
        char *path = kin_path_join(context, output, entry->d_name);
        if (path) unlink(path);
        kin_free(context, path);
    }
    closedir(directory);
}

kin_status kin_train_folder_lock(kin_context *context, const char *output, int *out_lock) {
    *out_lock = -1;
    kin_status status = kin_make_folders(context, output);
    if (status != KIN_OK) return status;
    char *path = kin_path_join(context, output, ".lock");
    if (!path) return KIN_OUT_OF_MEMORY;
    struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
    int file = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0666);
    if (file < 0) {
        status = kin_fail(context, KIN_IO, "%s: %s", path, strerror(errno));
    } else if (fcntl(file, F_SETLK, &lock) != 0 && (errno == EACCES || errno == EAGAIN)) {
        status = kin_fail(context, KIN_IO,
                          "%s is in use by another kinora train: wait for it, or choose another "
                          "output",
                          output);
        close(file);
    } else { /* some file systems have no locks: go on without */
        *out_lock = file;
        remove_unfinished(context, output);
    }
    kin_free(context, path);
    return status;
}

void kin_train_folder_unlock(int lock) {
    if (lock >= 0) close(lock);
}

struct kin_metrics {
    kin_context *context;
    int lines; /* file descriptor, appending */
    char *path;
    kin_event_writer *events;
};

/* Rewrites the lines up to `step`; later ones belong to steps that will be done again. */
static kin_status drop_later(kin_context *context, const char *path, int64_t step) {
    char *text = NULL, *kept = NULL;
    size_t size, used = 0;
    kin_status status = kin_file_read_all(context, path, (size_t)1 << 30, &text, &size);
    if (status != KIN_OK) return status;
    kept = kin_alloc(context, size + 1);
    if (!kept) status = KIN_OUT_OF_MEMORY;
    for (char *line = text; status == KIN_OK && line < text + size;) {
        char *end = memchr(line, '\n', (size_t)(text + size - line));
        if (!end) break; /* cut off by a kill */
        json_t *object = json_loadb(line, (size_t)(end - line), 0, NULL);
        json_t *at = json_object_get(object, "step");
        if (json_is_integer(at) && json_integer_value(at) <= step) {
            memcpy(kept + used, line, (size_t)(end - line) + 1);
            used += (size_t)(end - line) + 1;
        }
        json_decref(object);
        line = end + 1;
    }
    if (status == KIN_OK) status = kin_file_write_atomic(context, path, kept, used);
    kin_free(context, text);
    kin_free(context, kept);
    return status;
}

#define EVENTS_PREFIX "events.out.tfevents."

enum { MAX_TAGS = 32, TAG_SIZE = 64 };

/* Copying the scalars of older event files, without those that are done again, or twice there. */
typedef struct event_copy {
    kin_event_writer *writer;
    int64_t last_step;
    char tags[MAX_TAGS][TAG_SIZE];
    int64_t steps[MAX_TAGS]; /* the newest that was copied */
    size_t count;
} event_copy;

static kin_status copy_scalar(void *user, const kin_event_scalar *scalar) {
    event_copy *copy = user;
    size_t i = 0;
    while (i < copy->count && strcmp(copy->tags[i], scalar->tag) != 0) i++;
    if (i == MAX_TAGS || strlen(scalar->tag) >= TAG_SIZE) return KIN_OK;
    if (i == copy->count) {
        strcpy(copy->tags[i], scalar->tag);
        copy->steps[copy->count++] = -1;
    }
    if (scalar->step > copy->last_step || scalar->step <= copy->steps[i]) return KIN_OK;
    copy->steps[i] = scalar->step;
    return kin_event_writer_scalar(copy->writer, scalar->tag, scalar->step, scalar->value,
                                   scalar->wall_time);
}

static int compare_names(const void *a, const void *b) {
    return strcmp(*(char *const *)a, *(char *const *)b);
}

/* Paths of the event files of earlier runs, oldest first, in fresh memory. */
static kin_status list_events(kin_context *context, const char *output, char ***out_paths,
                              size_t *out_count) {
    *out_paths = NULL;
    *out_count = 0;
    DIR *directory = opendir(output);
    if (!directory) return KIN_OK;
    kin_status status = KIN_OK;
    for (struct dirent *entry; status == KIN_OK && (entry = readdir(directory));) {
        if (strncmp(entry->d_name, EVENTS_PREFIX, strlen(EVENTS_PREFIX)) != 0) continue;
        char **larger = kin_realloc(context, *out_paths, (*out_count + 1) * sizeof **out_paths);
        if (larger) *out_paths = larger;
        char *path = larger ? kin_path_join(context, output, entry->d_name) : NULL;
        if (path) larger[(*out_count)++] = path;
        else status = KIN_OUT_OF_MEMORY;
    }
    closedir(directory);
    if (*out_count) qsort(*out_paths, *out_count, sizeof **out_paths, compare_names);
    return status;
}

/* A new event file that takes over what older ones say up to `step`; they are removed, so that no
 * step is there twice. */
static kin_status open_events(kin_metrics *metrics, const char *output, int64_t step) {
    kin_context *context = metrics->context;
    char **old, *path = NULL;
    size_t count;
    double now = kin_wall_time();
    kin_status status = list_events(context, output, &old, &count);
    for (int64_t second = (int64_t)now; status == KIN_OK && !path; second++) {
        path = kin_format(context, "%s/" EVENTS_PREFIX "%010lld.kinora", output, (long long)second);
        if (!path) status = KIN_OUT_OF_MEMORY;
        else if (kin_file_exists(path)) {
            kin_free(context, path);
            path = NULL;
        }
    }
    if (status == KIN_OK) status = kin_event_writer_open(context, path, now, &metrics->events);
    event_copy copy = {.writer = metrics->events, .last_step = step};
    for (size_t i = 0; status == KIN_OK && i < count; i++) {
        kin_status reading = kin_event_read(context, old[i], copy_scalar, &copy);
        /* KIN_FORMAT: cut off by a kill; what was whole is copied */
        if (reading != KIN_OK && reading != KIN_FORMAT) status = reading;
    }
    if (status == KIN_OK) status = kin_event_writer_flush(metrics->events);
    for (size_t i = 0; i < count; i++) {
        if (status == KIN_OK) unlink(old[i]);
        kin_free(context, old[i]);
    }
    kin_free(context, old);
    kin_free(context, path);
    return status;
}

kin_status kin_metrics_open(kin_context *context, const char *output, int64_t step,
                            kin_metrics **out_metrics) {
    *out_metrics = NULL;
    kin_metrics *metrics = kin_calloc(context, 1, sizeof *metrics);
    if (!metrics) return KIN_OUT_OF_MEMORY;
    metrics->context = context;
    metrics->lines = -1;
    metrics->path = kin_path_join(context, output, "metrics.jsonl");
    kin_status status = metrics->path ? KIN_OK : KIN_OUT_OF_MEMORY;
    if (status == KIN_OK && step > 0 && kin_file_exists(metrics->path))
        status = drop_later(context, metrics->path, step);
    if (status == KIN_OK) {
        int flags = O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC | (step > 0 ? 0 : O_TRUNC);
        metrics->lines = open(metrics->path, flags, 0666);
        if (metrics->lines < 0)
            status = kin_fail(context, KIN_IO, "%s: %s", metrics->path, strerror(errno));
    }
    if (status == KIN_OK) status = open_events(metrics, output, step);
    if (status == KIN_OK) *out_metrics = metrics;
    else kin_metrics_close(metrics);
    return status;
}

/* Appends a whole line, or nothing. */
static kin_status append_line(kin_metrics *metrics, const char *line) {
    off_t before = lseek(metrics->lines, 0, SEEK_END);
    size_t size = strlen(line), done = 0;
    while (done < size) {
        ssize_t count = write(metrics->lines, line + done, size - done);
        if (count < 0 && errno == EINTR) continue;
        if (count <= 0) {
            int error = errno;
            if (before >= 0 && ftruncate(metrics->lines, before) != 0) error = errno;
            return kin_fail(metrics->context, KIN_IO, "%s: %s", metrics->path, strerror(error));
        }
        done += (size_t)count;
    }
    return KIN_OK;
}

kin_status kin_metrics_write(kin_metrics *metrics, int64_t step, const char *const *names,
                             const double *values, size_t count) {
    json_t *object = json_object();
    json_object_set_new(object, "step", json_integer(step));
    double now = kin_wall_time();
    kin_status status = KIN_OK;
    for (size_t i = 0; status == KIN_OK && i < count; i++) {
        json_object_set_new(object, names[i],
                            isfinite(values[i]) ? json_real(values[i]) : json_null());
        status = kin_event_writer_scalar(metrics->events, names[i], step, (float)values[i], now);
    }
    char *text = json_dumps(object, JSON_PRESERVE_ORDER | JSON_REAL_PRECISION(9));
    char *line = text ? kin_format(metrics->context, "%s\n", text) : NULL;
    json_decref(object);
    free(text);
    if (!line) return kin_fail(metrics->context, KIN_OUT_OF_MEMORY, "no memory for metrics");
    if (status == KIN_OK) status = append_line(metrics, line);
    kin_free(metrics->context, line);
    return status == KIN_OK ? kin_event_writer_flush(metrics->events) : status;
}

kin_status kin_metrics_close(kin_metrics *metrics) {
    if (!metrics) return KIN_OK;
    kin_status status = kin_event_writer_close(metrics->events);
    if (metrics->lines >= 0 && close(metrics->lines) != 0 && status == KIN_OK)
        status = kin_fail(metrics->context, KIN_IO, "%s: %s", metrics->path, strerror(errno));
    kin_free(metrics->context, metrics->path);
    kin_free(metrics->context, metrics);
    return status;
}
