/* Captioned clips from a CSV. */
#include "tools/dataset.h"

#include "runtime/csv.h"
#include "runtime/file.h"
#include "runtime/philox.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_BAD = 10, MAX_FPS = 1000, STREAM_ORDER = 0x4F524452, STREAM_WINDOW = 0x57494E44 };

typedef struct item {
    char *path, *text;
    int64_t frames; /* in the file; 0: not known yet */
    uint8_t *bytes; /* decoded clip, or NULL */
    bool bad;
} item;

struct kin_dataset {
    kin_context *context;
    kin_dataset_options options;
    item *items;
    int64_t count;
    double fps; /* of the files, by the CSV; 0: it does not say */
    uint64_t cached;
    int64_t *order; /* of `epoch` */
    int64_t epoch;
    uint64_t order_seed;
};

void kin_dataset_close(kin_dataset *dataset) {
    if (!dataset) return;
    for (int64_t i = 0; i < dataset->count; i++) {
        kin_free(dataset->context, dataset->items[i].path);
        kin_free(dataset->context, dataset->items[i].text);
        kin_free(dataset->context, dataset->items[i].bytes);
    }
    kin_free(dataset->context, dataset->items);
    kin_free(dataset->context, dataset->order);
    kin_free(dataset->context, dataset);
}

int64_t kin_dataset_count(const kin_dataset *dataset) {
    return dataset->count;
}

const char *kin_dataset_text(const kin_dataset *dataset, int64_t index) {
    return dataset->items[index].text;
}

const char *kin_dataset_path(const kin_dataset *dataset, int64_t index) {
    return dataset->items[index].path;
}

double kin_dataset_fps(kin_dataset *dataset) {
    for (int64_t i = 0; i < dataset->count && i < MAX_BAD && !(dataset->fps > 0); i++) {
        kin_video_info info;
        if (kin_video_probe(dataset->context, dataset->items[i].path, &info) == KIN_OK)
            dataset->fps = info.fps;
    }
    return dataset->fps > 0 ? dataset->fps / (double)dataset->options.interval : 0;
}

static int64_t span(const kin_dataset_options *options) {
    return (options->frames - 1) * options->interval + 1;
}

static kin_status add_row(kin_dataset *dataset, const char *folder, const char *path,
                          const char *text, const char *frames) {
    kin_context *context = dataset->context;
    item row = {0};
    row.path = path[0] == '/' ? kin_strdup(context, path) : kin_path_join(context, folder, path);
    row.text = kin_strdup(context, text);
    row.frames = frames ? strtoll(frames, NULL, 10) : 0;
    if (!row.path || !row.text) {
        kin_free(context, row.path);
        kin_free(context, row.text);
        return KIN_OUT_OF_MEMORY;
    }
    dataset->items[dataset->count++] = row;
    return KIN_OK;
}

static kin_status read_rows(kin_dataset *dataset, const kin_csv *csv) {
    const kin_dataset_options *options = &dataset->options;
    kin_context *context = dataset->context;
    size_t path, text, frames, fps, rows = kin_csv_row_count(csv), short_rows = 0;
    kin_status status = kin_csv_find_column(csv, "path", &path);
    if (status == KIN_OK) status = kin_csv_find_column(csv, "text", &text);
    if (status != KIN_OK) return status;
    if (kin_csv_find_column(csv, "num_frames", &frames) != KIN_OK) frames = SIZE_MAX;
    if (kin_csv_find_column(csv, "fps", &fps) != KIN_OK) fps = SIZE_MAX;
    dataset->items = kin_calloc(context, rows + 1, sizeof *dataset->items);
    char *folder = kin_path_folder(context, options->csv);
    if (!dataset->items || !folder) status = KIN_OUT_OF_MEMORY;
    for (size_t r = 0; status == KIN_OK && r < rows; r++) {
        const char *length = kin_csv_cell(csv, r, frames);
        int64_t known = length ? strtoll(length, NULL, 10) : 0;
        if (known > 0 && known < span(options)) {
            short_rows++;
            continue;
        }
        const char *rate = kin_csv_cell(csv, r, fps);
        if (rate && dataset->fps <= 0) dataset->fps = strtod(rate, NULL);
        if (!(dataset->fps > 0 && dataset->fps <= MAX_FPS)) dataset->fps = 0;
        status = add_row(dataset, folder, kin_csv_cell(csv, r, path), kin_csv_cell(csv, r, text),
                         length);
    }
    kin_free(context, folder);
    if (status == KIN_OK && short_rows)
        kin_log(context, KIN_LOG_WARN, "%s: %zu of %zu clips have fewer than %lld frames: left out",
                options->csv, short_rows, rows, (long long)span(options));
    if (status == KIN_OK && dataset->count == 0)
        status =
            kin_fail(context, KIN_FORMAT, "%s: no usable clip in %zu rows", options->csv, rows);
    return status;
}

kin_status kin_dataset_open(kin_context *context, const kin_dataset_options *options,
                            kin_dataset **out_dataset) {
    *out_dataset = NULL;
    if (options->frames < 1 || options->interval < 1 || options->height < 1 || options->width < 1)
        return kin_fail(context, KIN_INVALID,
                        "data: frames, frame interval, height and width must be at least 1");
    kin_dataset *dataset = kin_calloc(context, 1, sizeof *dataset);
    if (!dataset) return KIN_OUT_OF_MEMORY;
    dataset->context = context;
    dataset->options = *options;
    dataset->epoch = -1;
    kin_csv *csv = NULL;
    kin_status status = kin_csv_open(context, options->csv, &csv);
    if (status == KIN_OK) status = read_rows(dataset, csv);
    kin_csv_close(csv);
    if (status == KIN_OK) *out_dataset = dataset;
    else kin_dataset_close(dataset);
    return status;
}

static size_t clip_values(const kin_dataset *dataset) {
    const kin_dataset_options *o = &dataset->options;
    return (size_t)(3 * o->frames) * (size_t)o->height * (size_t)o->width;
}

/* Decodes an item's window into floats. */
static kin_status decode(kin_dataset *dataset, int64_t index, uint64_t seed, float *out_values) {
    const kin_dataset_options *o = &dataset->options;
    item *row = &dataset->items[index];
    kin_status status = KIN_OK;
    if (row->frames <= 0) {
        kin_video_info info;
        status = kin_video_probe(dataset->context, row->path, &info);
        if (status != KIN_OK) return status;
        row->frames = info.frames > 0 ? info.frames : 1;
    }
    int64_t room = row->frames - span(o);
    if (room < 0)
        return kin_fail(dataset->context, KIN_FORMAT, "%s: %lld frames, but %lld are needed",
                        row->path, (long long)row->frames, (long long)span(o));
    double place = (double)kin_philox_element_uniform(seed, STREAM_WINDOW, 0, (uint64_t)index);
    kin_video_read_options options = {.start = (int64_t)(place * (double)(room + 1)),
                                      .count = o->frames,
                                      .interval = o->interval,
                                      .height = o->height,
                                      .width = o->width,
                                      .resize = o->resize};
    kin_host_tensor clip = {0};
    status = kin_video_read(dataset->context, row->path, &options, &clip);
    if (status != KIN_OK) return status;
    memcpy(out_values, clip.data, clip_values(dataset) * sizeof *out_values);
    kin_host_tensor_free(dataset->context, &clip);
    return KIN_OK;
}

static void from_bytes(const uint8_t *bytes, size_t count, float *out_values) {
    for (size_t i = 0; i < count; i++) out_values[i] = ((float)bytes[i] / 255 - 0.5f) / 0.5f;
}

/* Rounds a decoded clip to bytes, and keeps them if the budget allows. Values are bytes already
 * except where resizing made some in between; they are rounded whether or not the clip is kept, so
 * that a resumed run sees the same. */
static kin_status to_bytes(kin_dataset *dataset, item *row, float *values) {
    size_t count = clip_values(dataset);
    uint8_t *bytes = kin_alloc(dataset->context, count);
    if (!bytes) return KIN_OUT_OF_MEMORY;
    for (size_t i = 0; i < count; i++) {
        float byte = (values[i] + 1) * 127.5f;
        bytes[i] = (uint8_t)(byte < 0 ? 0 : byte > 255 ? 255 : lrintf(byte));
    }
    from_bytes(bytes, count, values);
    if (dataset->cached + count <= dataset->options.memory) {
        row->bytes = bytes;
        dataset->cached += count;
    } else {
        kin_free(dataset->context, bytes);
    }
    return KIN_OK;
}

kin_status kin_dataset_clip(kin_dataset *dataset, int64_t index, uint64_t seed, float *out_values,
                            int64_t *out_index) {
    kin_status status = KIN_OK;
    for (int tries = 0; tries < MAX_BAD; tries++) {
        int64_t place = (index + tries) % dataset->count;
        item *row = &dataset->items[place];
        if (row->bad) continue;
        if (out_index) *out_index = place;
        if (row->bytes) {
            from_bytes(row->bytes, clip_values(dataset), out_values);
            status = KIN_OK; /* whatever became of the clips before it */
        } else {
            status = decode(dataset, place, seed, out_values);
            if (status == KIN_OUT_OF_MEMORY) return status;
            if (status != KIN_OK) {
                row->bad = true;
                kin_log(dataset->context, KIN_LOG_WARN, "%s; the next clip takes its place",
                        kin_context_error(dataset->context));
                continue;
            }
            status = to_bytes(dataset, row, out_values);
        }
        return status;
    }
    return kin_fail(dataset->context, KIN_FORMAT,
                    "%s: %d clips in a row cannot be read, from row %lld on", dataset->options.csv,
                    MAX_BAD, (long long)index + 1);
}

/* Fisher-Yates with Philox words of (seed, epoch). */
static kin_status shuffle(kin_dataset *dataset, uint64_t seed, int64_t epoch) {
    if (!dataset->order)
        dataset->order =
            kin_alloc(dataset->context, (size_t)dataset->count * sizeof *dataset->order);
    if (!dataset->order) return KIN_OUT_OF_MEMORY;
    for (int64_t i = 0; i < dataset->count; i++) dataset->order[i] = i;
    for (int64_t i = dataset->count - 1; i > 0; i--) {
        uint32_t word = kin_philox_element(seed, STREAM_ORDER, (uint64_t)epoch, (uint64_t)i);
        int64_t j = (int64_t)((uint64_t)word * (uint64_t)(i + 1) >> 32);
        int64_t swap = dataset->order[i];
        dataset->order[i] = dataset->order[j];
        dataset->order[j] = swap;
    }
    dataset->epoch = epoch;
    dataset->order_seed = seed;
    return KIN_OK;
}

kin_status kin_dataset_batch(kin_dataset *dataset, uint64_t seed, int64_t step, int64_t batch,
                             int64_t *out_indices) {
    for (int64_t j = 0; j < batch; j++) {
        int64_t place = step * batch + j;
        int64_t epoch = place / dataset->count;
        if (epoch != dataset->epoch || seed != dataset->order_seed) {
            kin_status status = shuffle(dataset, seed, epoch);
            if (status != KIN_OK) return status;
        }
        out_indices[j] = dataset->order[place % dataset->count];
    }
    return KIN_OK;
}
