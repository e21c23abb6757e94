/* Captioned clips from a CSV. */
#include "tools/data/dataset.h"

#include "runtime/csv.h"
#include "runtime/file.h"
#include "runtime/philox.h"
#include "tools/data/dataset_annotations.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_BAD = 10, MAX_FPS = 1000, STREAM_ORDER = 0x4F524452, STREAM_WINDOW = 0x57494E44 };

typedef struct item {
    char *path, *text;
    int64_t frames; /* in the file; 0: not known yet */
    int height, width;
    double fps;     /* 0: not known */
    bool looked;    /* at the file, for what the CSV does not say */
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

/* Frames of a file that a clip needs. */
static int64_t span(const kin_dataset_options *options, int64_t frames) {
    return options->choice == KIN_FRAMES_INTERVAL ? (frames - 1) * options->interval + 1 : frames;
}

/* Columns of a table by their names, or the usual ones; SIZE_MAX: not there. */
typedef struct columns {
    size_t path, text, frames, height, width, fps;
} columns;

static size_t column(const kin_csv *csv, const char *name) {
    size_t found;
    return kin_csv_find_column(csv, name, &found) == KIN_OK ? found : SIZE_MAX;
}

/* The header of Open-Sora 1.0's tables is a row like any other. */
static bool has_header(const kin_csv *csv) {
    static const char *const names[] = {"path", "text", "video_file_name", "prompt", "num_frames"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (column(csv, names[i]) != SIZE_MAX) return true;
    const char *first = kin_csv_column_name(csv, 0);
    size_t cells = kin_csv_column_count(csv);
    return cells < 2 || cells > 3 || !first || !strpbrk(first, "./");
}

static kin_status find_columns(const kin_csv *csv, bool header, columns *out) {
    *out = (columns){0, 1, SIZE_MAX, SIZE_MAX, SIZE_MAX, SIZE_MAX};
    if (!header) {
        if (kin_csv_column_count(csv) > 2) out->frames = 2;
        return KIN_OK;
    }
    out->frames = column(csv, "num_frames");
    out->height = column(csv, "height");
    out->width = column(csv, "width");
    out->fps = column(csv, "fps");
    out->path = column(csv, "video_file_name");
    out->text = column(csv, "prompt");
    kin_status status = out->path == SIZE_MAX || column(csv, "path") != SIZE_MAX
                            ? kin_csv_find_column(csv, "path", &out->path)
                            : KIN_OK;
    if (status == KIN_OK && (out->text == SIZE_MAX || column(csv, "text") != SIZE_MAX))
        status = kin_csv_find_column(csv, "text", &out->text);
    return status;
}

static int64_t whole_number(const char *cell, int64_t most) {
    int64_t value = cell ? strtoll(cell, NULL, 10) : 0;
    return value > 0 && value <= most ? value : 0;
}

static kin_status add_row(kin_dataset *dataset, const char *folder, const char *path,
                          const char *text, const item *known) {
    kin_context *context = dataset->context;
    item row = *known;
    row.path = path[0] == '/' ? kin_strdup(context, path) : kin_path_join(context, folder, path);
    row.text = kin_strdup(context, text);
    if (!row.path || !row.text) {
        kin_free(context, row.path);
        kin_free(context, row.text);
        return KIN_OUT_OF_MEMORY;
    }
    dataset->items[dataset->count++] = row;
    return KIN_OK;
}

/* A cell; of the header for row -1. */
static const char *cell_at(const kin_csv *csv, int64_t row, size_t column) {
    return row < 0 ? kin_csv_column_name(csv, column) : kin_csv_cell(csv, (size_t)row, column);
}

static kin_status read_rows(kin_dataset *dataset, const kin_csv *csv) {
    enum { MOST_FRAMES = 1 << 30, MOST_PIXELS = 1 << 16 };
    const kin_dataset_options *options = &dataset->options;
    kin_context *context = dataset->context;
    size_t rows = kin_csv_row_count(csv), short_rows = 0;
    int64_t needed = options->any_length ? 1 : span(options, options->frames);
    bool header = has_header(csv);
    columns at;
    kin_status status = find_columns(csv, header, &at);
    if (status != KIN_OK) return status;
    dataset->items = kin_calloc(context, rows + 1, sizeof *dataset->items);
    char *folder = options->folder ? kin_strdup(context, options->folder)
                                   : kin_path_folder(context, options->csv);
    if (!dataset->items || !folder) status = KIN_OUT_OF_MEMORY;
    for (int64_t r = header ? 0 : -1; status == KIN_OK && r < (int64_t)rows; r++) {
        item known = {.frames = whole_number(cell_at(csv, r, at.frames), MOST_FRAMES),
                      .height = (int)whole_number(cell_at(csv, r, at.height), MOST_PIXELS),
                      .width = (int)whole_number(cell_at(csv, r, at.width), MOST_PIXELS)};
        if (known.frames > 0 && known.frames < needed) {
            short_rows++;
            continue;
        }
        const char *rate = cell_at(csv, r, at.fps);
        known.fps = rate ? strtod(rate, NULL) : 0;
        if (!(known.fps > 0 && known.fps <= MAX_FPS)) known.fps = 0;
        if (dataset->fps <= 0) dataset->fps = known.fps;
        status =
            add_row(dataset, folder, cell_at(csv, r, at.path), cell_at(csv, r, at.text), &known);
    }
    kin_free(context, folder);
    if (status == KIN_OK && short_rows)
        kin_log(context, KIN_LOG_WARN, "%s: %zu of %zu clips have fewer than %lld frames: left out",
                options->csv, short_rows, rows, (long long)needed);
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
    bool annotations =
        kin_path_ends_with(options->csv, ".json") || kin_path_ends_with(options->csv, ".txt");
    kin_status status = annotations
                            ? kin_annotations_open(context, options->csv, options->folder, &csv)
                            : kin_csv_open(context, options->csv, &csv);
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

/* What the CSV does not say. */
static kin_status look(kin_dataset *dataset, item *row) {
    kin_video_info info;
    if (row->looked) return KIN_OK;
    kin_status status = kin_video_probe(dataset->context, row->path, &info);
    if (status != KIN_OK) return status;
    row->looked = true;
    if (row->frames <= 0) row->frames = info.frames > 0 ? info.frames : 1;
    if (row->height <= 0 || row->width <= 0) row->height = info.height, row->width = info.width;
    if (row->fps <= 0) row->fps = info.fps;
    return KIN_OK;
}

kin_status kin_dataset_measure(kin_dataset *dataset, int64_t index, kin_dataset_row *out_row) {
    item *row = &dataset->items[index];
    bool rate = dataset->options.choice == KIN_FRAMES_RATE;
    if (row->frames <= 0 || row->height <= 0 || row->width <= 0 ||
        (rate && row->fps <= 0 && row->frames > 1)) {
        if (row->bad)
            return kin_fail(dataset->context, KIN_FORMAT, "%s could not be read before", row->path);
        kin_status status = look(dataset, row);
        row->bad = status != KIN_OK && status != KIN_OUT_OF_MEMORY;
        if (status != KIN_OK) return status;
    }
    *out_row = (kin_dataset_row){row->frames, row->height, row->width, row->fps};
    return KIN_OK;
}

int64_t kin_dataset_clip_frames(const kin_dataset *dataset, const kin_dataset_row *row) {
    const kin_dataset_options *o = &dataset->options;
    if (o->choice != KIN_FRAMES_RATE) return (row->frames - 1) / o->interval + 1;
    double step = row->fps > 0 ? row->fps / o->rate : 1;
    return (int64_t)ceil((double)row->frames / step);
}

/* Frame numbers of a clip of `count` frames that begins at `place` of what there is room for. */
static kin_status choose_frames(kin_dataset *dataset, const item *row, int64_t count, double place,
                                int64_t *out_frames) {
    const kin_dataset_options *o = &dataset->options;
    kin_dataset_row known = {row->frames, row->height, row->width, row->fps};
    bool rate = o->choice == KIN_FRAMES_RATE;
    int64_t have = rate ? kin_dataset_clip_frames(dataset, &known) : row->frames;
    int64_t needed = rate ? count : span(o, count), size = count * o->interval;
    if (have < needed)
        return kin_fail(dataset->context, KIN_FORMAT, "%s: %lld frames, but %lld are needed",
                        row->path, (long long)have, (long long)needed);
    if (o->choice == KIN_FRAMES_LINSPACE) {
        int64_t room = row->frames - size - 1;
        int64_t start = room > 0 ? (int64_t)(place * (double)(room + 1)) : 0;
        int64_t last = (start + size < row->frames ? start + size : row->frames) - 1;
        for (int64_t i = 0; i < count; i++)
            out_frames[i] =
                start +
                (count > 1 ? (int64_t)((double)((last - start) * i) / (double)(count - 1)) : 0);
        return KIN_OK;
    }
    int64_t start = (int64_t)(place * (double)(have - needed + 1));
    double step = !rate ? (double)o->interval : row->fps > 0 ? row->fps / o->rate : 1;
    for (int64_t i = 0; i < count; i++)
        out_frames[i] = rate ? (int64_t)((double)(start + i) * step) : start + i * o->interval;
    return KIN_OK;
}

/* Decodes an item's window into floats (3, count, Y, X). */
static kin_status decode(kin_dataset *dataset, int64_t index, uint64_t seed,
                         const kin_clip_shape *shape, int64_t count, kin_host_tensor *out_clip) {
    item *row = &dataset->items[index];
    kin_status status =
        row->frames <= 0 || (dataset->options.choice == KIN_FRAMES_RATE && row->fps <= 0)
            ? look(dataset, row)
            : KIN_OK;
    if (status != KIN_OK) return status;
    int64_t *frames = kin_alloc(dataset->context, (size_t)count * sizeof *frames);
    if (!frames) return KIN_OUT_OF_MEMORY;
    double place = (double)kin_philox_element_uniform(seed, STREAM_WINDOW, 0, (uint64_t)index);
    status = choose_frames(dataset, row, count, place, frames);
    kin_video_read_options options = {.count = count,
                                      .frames = frames,
                                      .height = shape->height,
                                      .width = shape->width,
                                      .resize = dataset->options.resize};
    if (status == KIN_OK) status = kin_video_read(dataset->context, row->path, &options, out_clip);
    kin_free(dataset->context, frames);
    return status;
}

static void from_bytes(const uint8_t *bytes, size_t count, float *out_values) {
    for (size_t i = 0; i < count; i++) out_values[i] = ((float)bytes[i] / 255 - 0.5f) / 0.5f;
}

/* Values are bytes already except where resizing made some in between; they are rounded whether or
 * not the clip is kept, so that a resumed run sees the same. */
static void round_to_bytes(const float *values, size_t count, uint8_t *out_bytes) {
    for (size_t i = 0; i < count; i++) {
        float byte = (values[i] + 1) * 127.5f;
        out_bytes[i] = (uint8_t)(byte < 0 ? 0 : byte > 255 ? 255 : lrintf(byte));
    }
}

/* Keeps a decoded clip if the budget allows. */
static kin_status to_bytes(kin_dataset *dataset, item *row, float *values) {
    size_t count = clip_values(dataset);
    uint8_t *bytes = kin_alloc(dataset->context, count);
    if (!bytes) return KIN_OUT_OF_MEMORY;
    round_to_bytes(values, count, bytes);
    from_bytes(bytes, count, values);
    if (dataset->cached + count <= dataset->options.memory) {
        row->bytes = bytes;
        dataset->cached += count;
    } else {
        kin_free(dataset->context, bytes);
    }
    return KIN_OK;
}

kin_status kin_dataset_read(kin_dataset *dataset, int64_t index, uint64_t seed,
                            const kin_clip_shape *shape, int64_t real_frames, float *out_values) {
    size_t plane = (size_t)shape->height * (size_t)shape->width;
    size_t whole = (size_t)shape->frames * plane;
    kin_host_tensor clip = {0};
    kin_status status = decode(dataset, index, seed, shape, real_frames, &clip);
    if (status != KIN_OK) return status;
    size_t part = (size_t)real_frames * plane;
    for (size_t c = 0; c < 3; c++) {
        const float *from = (const float *)clip.data + c * part;
        float *to = out_values + c * whole;
        uint8_t byte;
        for (size_t i = 0; i < part; i++) {
            round_to_bytes(from + i, 1, &byte);
            from_bytes(&byte, 1, to + i);
        }
        memset(to + part, 0, (whole - part) * sizeof *to);
    }
    kin_host_tensor_free(dataset->context, &clip);
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
            const kin_dataset_options *o = &dataset->options;
            kin_clip_shape shape = {o->frames, o->height, o->width};
            kin_host_tensor clip = {0};
            status = decode(dataset, place, seed, &shape, o->frames, &clip);
            if (status == KIN_OK)
                memcpy(out_values, clip.data, clip_values(dataset) * sizeof *out_values);
            kin_host_tensor_free(dataset->context, &clip);
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
void kin_dataset_shuffle(uint64_t seed, int64_t epoch, int64_t *items, int64_t count) {
    for (int64_t i = count - 1; i > 0; i--) {
        uint32_t word = kin_philox_element(seed, STREAM_ORDER, (uint64_t)epoch, (uint64_t)i);
        int64_t j = (int64_t)((uint64_t)word * (uint64_t)(i + 1) >> 32);
        int64_t swap = items[i];
        items[i] = items[j];
        items[j] = swap;
    }
}

static kin_status shuffle(kin_dataset *dataset, uint64_t seed, int64_t epoch) {
    if (!dataset->order)
        dataset->order =
            kin_alloc(dataset->context, (size_t)dataset->count * sizeof *dataset->order);
    if (!dataset->order) return KIN_OUT_OF_MEMORY;
    for (int64_t i = 0; i < dataset->count; i++) dataset->order[i] = i;
    kin_dataset_shuffle(seed, epoch, dataset->order, dataset->count);
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
