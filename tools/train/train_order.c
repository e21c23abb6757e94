/* The order of a training run. */
#include "tools/train/train_order.h"

#include <string.h>

#include "runtime/philox.h"
#include "tools/train/buckets.h"
#include "tools/train/megabatch.h"

enum {
    STREAM_PICTURE = 0x50494354,
    STREAM_CHOICE = 0x43484F49,
    STREAM_DROP = 0x44524F50,
    EMPTY_EPOCHS = 1000
};

/* Different sizes, in the order in which they came up. */
typedef struct shape_list {
    kin_train_shape *list;
    int count, room;
} shape_list;

struct kin_train_order {
    kin_context *context;
    kin_dataset *dataset;
    kin_train_order_options options;
    kin_buckets *buckets;
    shape_list candidates; /* buckets that some row is in */
    shape_list shapes;     /* of batches */
    uint8_t **needed;      /* for each form, a byte for each row */
    int needed_room;
    int64_t *lengths; /* [rows]: frames of each clip, 0: left out; NULL: all have clip.frames */
    int64_t *videos, video_count;    /* rows that clips are made of */
    int64_t *stills, still_count;    /* rows that pictures are made of */
    int64_t *grouped, grouped_count; /* one epoch of megabatches */
    /* of the epoch at hand */
    int64_t epoch, first_batch, batch_count;
    int64_t *items;    /* rows, batch after batch */
    int64_t *starts;   /* [batch_count]: where a batch begins in items; shuffled */
    int *batch_shapes; /* [batch_count], in the order before shuffling */
    int64_t *order;    /* [batch_count]: shuffled numbers of batches */
    int64_t *images;   /* of the batch at hand */
};

void kin_train_order_close(kin_train_order *o) {
    if (!o) return;
    for (int i = 0; i < o->needed_room; i++) kin_free(o->context, o->needed[i]);
    kin_free(o->context, o->needed);
    kin_buckets_free(o->buckets);
    kin_free(o->context, o->shapes.list);
    kin_free(o->context, o->candidates.list);
    kin_free(o->context, o->lengths);
    kin_free(o->context, o->videos);
    kin_free(o->context, o->stills);
    kin_free(o->context, o->grouped);
    kin_free(o->context, o->items);
    kin_free(o->context, o->starts);
    kin_free(o->context, o->batch_shapes);
    kin_free(o->context, o->order);
    kin_free(o->context, o->images);
    kin_free(o->context, o);
}

int kin_train_order_shapes(const kin_train_order *order) {
    return order->shapes.count;
}

const kin_train_shape *kin_train_order_shape(const kin_train_order *order, int shape) {
    return &order->shapes.list[shape];
}

int kin_train_order_forms(const kin_train_order *order) {
    return order->shapes.count + (order->options.images > 0);
}

kin_clip_shape kin_train_order_form(const kin_train_order *order, int form) {
    if (form < order->shapes.count) return order->shapes.list[form].clip;
    return (kin_clip_shape){1, order->options.clip.height, order->options.clip.width};
}

bool kin_train_order_needs(const kin_train_order *order, int form, int64_t row) {
    return form < order->needed_room && order->needed[form] && order->needed[form][row] != 0;
}

int64_t kin_train_order_real_frames(const kin_train_order *order, int form, int64_t row) {
    if (form < order->shapes.count && order->shapes.list[form].padded) return order->lengths[row];
    return kin_train_order_form(order, form).frames;
}

bool kin_train_order_is_plain(const kin_train_order *order) {
    const kin_train_order_options *p = &order->options;
    return !p->buckets && !p->lengths && p->images == 0;
}

static int64_t rows_of(const kin_train_order *o) {
    return kin_dataset_count(o->dataset);
}

/* The number of a shape in the list, which is new or not. */
static kin_status find_shape(kin_train_order *o, shape_list *list, kin_train_shape shape,
                             int *out_shape) {
    for (int i = 0; i < list->count; i++) {
        const kin_train_shape *s = &list->list[i];
        if (s->clip.frames == shape.clip.frames && s->clip.height == shape.clip.height &&
            s->clip.width == shape.clip.width && s->batch == shape.batch &&
            s->padded == shape.padded) {
            *out_shape = i;
            return KIN_OK;
        }
    }
    if (list->count == list->room) {
        int room = 2 * list->room + 4;
        kin_train_shape *larger =
            kin_realloc(o->context, list->list, (size_t)room * sizeof *larger);
        if (!larger) return KIN_OUT_OF_MEMORY;
        list->list = larger;
        list->room = room;
    }
    list->list[list->count] = shape;
    *out_shape = list->count++;
    return KIN_OK;
}

/* ---- buckets ---- */

/* The bucket of each row in an epoch: its shape, or -1. */
static kin_status assign_buckets(kin_train_order *o, int64_t epoch, int *shapes) {
    const kin_train_order_options *p = &o->options;
    kin_status status = KIN_OK;
    for (int64_t row = 0; status == KIN_OK && row < rows_of(o); row++) {
        kin_dataset_row facts;
        kin_bucket bucket;
        kin_bucket_draws draws = {.seed = p->seed,
                                  .epoch = (uint64_t)epoch,
                                  .sample = (uint64_t)row,
                                  .buckets = kin_buckets_count(o->buckets)};
        shapes[row] = -1;
        if (kin_dataset_measure(o->dataset, row, &facts) != KIN_OK) {
            if (epoch == 0)
                kin_log(o->context, KIN_LOG_WARN, "%s; it is left out",
                        kin_context_error(o->context));
            continue;
        }
        if (!kin_buckets_find(o->buckets, facts.frames, facts.height, facts.width, (int)p->interval,
                              kin_bucket_draw_numpy, &draws, &bucket))
            continue;
        kin_clip_shape clip = {bucket.frames, bucket.height, bucket.width};
        int64_t ranks = p->ranks > 0 ? p->ranks : 1;
        int64_t batch = bucket.batch_size > 0 ? bucket.batch_size * ranks : p->batch;
        status = find_shape(o, &o->candidates, (kin_train_shape){clip, batch, false}, &shapes[row]);
    }
    return status;
}

/* Shuffles the `count` rows of one bucket that items have from `at` on, and cuts them to whole
 * batches, or fills them up. Returns where they end. */
static int64_t finish_bucket(kin_train_order *o, int64_t epoch, int bucket, int64_t at,
                             int64_t count) {
    const kin_train_shape *s = &o->candidates.list[bucket];
    uint64_t key =
        (uint64_t)s->clip.frames << 40 ^ (uint64_t)s->clip.height << 20 ^ (uint64_t)s->clip.width;
    kin_dataset_shuffle(o->options.seed ^ key, epoch, o->items + at, count);
    int64_t rest = count % s->batch;
    if (rest == 0) return at + count;
    if (!o->options.fill_buckets) return at + count - rest;
    for (int64_t i = 0; i < s->batch - rest; i++)
        o->items[at + count + i] = o->items[at + i % count];
    return at + count + s->batch - rest;
}

/* The rows of every bucket in a row: `sorted` [rows] and where each bucket begins in it. */
static void sort_by_bucket(const kin_train_order *o, const int *buckets, int64_t *sorted,
                           int64_t *begins) {
    int count = o->candidates.count;
    for (int i = 0; i <= count; i++) begins[i] = 0;
    for (int64_t row = 0; row < rows_of(o); row++)
        if (buckets[row] >= 0) begins[buckets[row] + 1]++;
    for (int i = 0; i < count; i++) begins[i + 1] += begins[i];
    for (int64_t row = 0; row < rows_of(o); row++)
        if (buckets[row] >= 0) sorted[begins[buckets[row]]++] = row;
    for (int i = count; i > 0; i--) begins[i] = begins[i - 1]; /* back to where they began */
    begins[0] = 0;
}

static kin_status bucket_epoch(kin_train_order *o, int64_t epoch) {
    int64_t rows = rows_of(o), room = rows, at = 0, count = 0;
    int *shapes = kin_alloc(o->context, (size_t)(rows + 1) * sizeof *shapes);
    kin_status status = shapes ? assign_buckets(o, epoch, shapes) : KIN_OUT_OF_MEMORY;
    int buckets = o->candidates.count;
    int64_t *sorted = kin_alloc(o->context, (size_t)(rows + buckets + 2) * sizeof *sorted);
    int64_t *begins = sorted ? sorted + rows : NULL;
    for (int i = 0; i < o->candidates.count; i++) room += o->candidates.list[i].batch;
    kin_free(o->context, o->items);
    kin_free(o->context, o->starts);
    kin_free(o->context, o->batch_shapes);
    kin_free(o->context, o->order);
    o->items = kin_alloc(o->context, (size_t)(room + 1) * sizeof *o->items);
    o->starts = kin_alloc(o->context, (size_t)(room + 1) * sizeof *o->starts);
    o->batch_shapes = kin_alloc(o->context, (size_t)(room + 1) * sizeof *o->batch_shapes);
    o->order = kin_alloc(o->context, (size_t)(room + 1) * sizeof *o->order);
    if (!o->items || !o->starts || !o->batch_shapes || !o->order || !sorted)
        status = KIN_OUT_OF_MEMORY;
    if (status == KIN_OK) sort_by_bucket(o, shapes, sorted, begins);
    for (int i = 0; status == KIN_OK && i < buckets; i++) {
        int64_t here = begins[i + 1] - begins[i];
        memcpy(o->items + at, sorted + begins[i], (size_t)here * sizeof *sorted);
        int64_t end = finish_bucket(o, epoch, i, at, here);
        for (; at < end; at += o->candidates.list[i].batch) {
            o->starts[count] = at;
            o->batch_shapes[count++] = i;
        }
    }
    for (int64_t i = 0; status == KIN_OK && i < count; i++) o->order[i] = i;
    if (status == KIN_OK) kin_dataset_shuffle(o->options.seed, epoch, o->order, count);
    kin_free(o->context, shapes);
    kin_free(o->context, sorted);
    o->batch_count = count;
    o->epoch = epoch;
    return status;
}

/* Makes the epoch that batch `index` lies in the one at hand. */
static kin_status go_to_bucket_epoch(kin_train_order *o, int64_t index) {
    kin_status status = KIN_OK;
    if (o->epoch < 0 || index < o->first_batch) {
        status = bucket_epoch(o, 0);
        o->first_batch = 0;
    }
    for (int empty = 0; status == KIN_OK && index >= o->first_batch + o->batch_count;) {
        if (o->batch_count == 0 && ++empty >= EMPTY_EPOCHS)
            return kin_fail(o->context, KIN_INVALID,
                            "%s: no bucket gets a whole batch from %lld clips: give smaller batch "
                            "sizes, buckets that more clips fit, or fill_buckets",
                            o->options.where, (long long)rows_of(o));
        o->first_batch += o->batch_count;
        status = bucket_epoch(o, o->epoch + 1);
    }
    return status;
}

/* ---- lengths ---- */

/* The longest allowed clip of at most `frames`. */
static int64_t allowed_length(const kin_train_order_options *p, int64_t frames) {
    int64_t latents = (frames - 1) / p->time_factor + 1;
    latents -= latents % p->frame_multiple;
    return latents > 0 ? (latents - 1) * p->time_factor + 1 : 0;
}

static kin_status measure_lengths(kin_train_order *o) {
    const kin_train_order_options *p = &o->options;
    int64_t rows = rows_of(o);
    o->lengths = kin_calloc(o->context, (size_t)rows, sizeof *o->lengths);
    if (!o->lengths) return KIN_OUT_OF_MEMORY;
    int64_t whole = allowed_length(p, p->clip.frames);
    for (int64_t row = 0; row < rows; row++) {
        kin_dataset_row facts;
        if (kin_dataset_measure(o->dataset, row, &facts) != KIN_OK) {
            kin_log(o->context, KIN_LOG_WARN, "%s; it is left out", kin_context_error(o->context));
            continue;
        }
        int64_t have = kin_dataset_clip_frames(o->dataset, &facts);
        int64_t length = allowed_length(p, have < p->clip.frames ? have : p->clip.frames);
        if (have < p->clip.frames && length < whole && p->drop_short > 0 &&
            (double)kin_philox_element_uniform(p->seed, STREAM_DROP, 0, (uint64_t)row) <
                p->drop_short)
            length = 0;
        if (facts.frames == 1) length = 1; /* an image */
        o->lengths[row] = length;
    }
    return KIN_OK;
}

/* What a Philox draw chooses from. */
typedef struct choice {
    uint64_t seed, drawn;
} choice;

static size_t choose(void *user, size_t count) {
    choice *c = user;
    uint32_t word = kin_philox_element(c->seed, STREAM_CHOICE, 0, c->drawn++);
    return (size_t)((uint64_t)word * count >> 32);
}

static kin_status group_lengths(kin_train_order *o) {
    const kin_train_order_options *p = &o->options;
    kin_megabatch_options options = {p->batch, p->micro_steps, true, p->seed};
    choice draws = {p->seed, 0};
    size_t count = 0;
    int64_t *lengths = kin_alloc(o->context, (size_t)(o->video_count + 1) * sizeof *lengths);
    if (!lengths) return KIN_OUT_OF_MEMORY;
    for (int64_t i = 0; i < o->video_count; i++) lengths[i] = o->lengths[o->videos[i]];
    kin_status status = kin_megabatch_order(o->context, lengths, (size_t)o->video_count, &options,
                                            choose, &draws, &o->grouped, &count);
    kin_free(o->context, lengths);
    o->grouped_count = (int64_t)count;
    for (int64_t i = 0; status == KIN_OK && i < o->grouped_count; i++)
        o->grouped[i] = o->videos[o->grouped[i]];
    return status;
}

/* ---- one shape for all, or one for each length ---- */

/* Rows for clips, and rows for the pictures beside them. */
static kin_status sort_rows(kin_train_order *o) {
    const kin_train_order_options *p = &o->options;
    int64_t rows = rows_of(o);
    o->videos = kin_alloc(o->context, (size_t)rows * sizeof *o->videos);
    o->stills = kin_alloc(o->context, (size_t)rows * sizeof *o->stills);
    if (!o->videos || !o->stills) return KIN_OUT_OF_MEMORY;
    for (int64_t row = 0; row < rows; row++) {
        kin_dataset_row facts = {.frames = p->clip.frames};
        if (p->images > 0 && kin_dataset_measure(o->dataset, row, &facts) != KIN_OK) {
            kin_log(o->context, KIN_LOG_WARN, "%s; it is left out", kin_context_error(o->context));
            continue;
        }
        if (p->images > 0 && facts.frames == 1) o->stills[o->still_count++] = row;
        else if (!o->lengths || o->lengths[row] > 0) o->videos[o->video_count++] = row;
    }
    if (o->video_count == 0)
        return kin_fail(o->context, KIN_INVALID,
                        "no clip is left to train with: %lld rows, none of which has the frames "
                        "that data asks for",
                        (long long)rows);
    if (p->images > 0 && o->still_count == 0) { /* frames of the clips */
        memcpy(o->stills, o->videos, (size_t)o->video_count * sizeof *o->stills);
        o->still_count = o->video_count;
    }
    return KIN_OK;
}

/* Row number `place` of an endless row of shuffled epochs. */
static int64_t row_at(kin_train_order *o, int64_t place) {
    int64_t epoch = place / o->video_count;
    if (epoch != o->epoch) {
        memcpy(o->items, o->videos, (size_t)o->video_count * sizeof *o->items);
        kin_dataset_shuffle(o->options.seed, epoch, o->items, o->video_count);
        o->epoch = epoch;
    }
    return o->items[place % o->video_count];
}

static kin_status take_rows(kin_train_order *o, int64_t index, kin_train_batch *out) {
    const kin_train_order_options *p = &o->options;
    int64_t *rows = o->starts; /* [batch] */
    bool padded = p->lengths && !p->group_frame && p->batch > 1;
    kin_clip_shape clip = p->clip;
    for (int64_t i = 0; i < p->batch; i++)
        rows[i] = o->grouped ? o->grouped[(index * p->batch + i) % o->grouped_count]
                             : row_at(o, index * p->batch + i);
    if (o->lengths && !padded) clip.frames = o->lengths[rows[0]];
    out->rows = rows;
    return find_shape(o, &o->shapes, (kin_train_shape){clip, p->batch, padded}, &out->shape);
}

/* Pictures for a batch: of the image rows, or frames of other clips. */
static void take_images(kin_train_order *o, int64_t index, kin_train_batch *out) {
    const kin_train_order_options *p = &o->options;
    for (int64_t i = 0; i < p->batch * p->images; i++) {
        uint32_t word =
            kin_philox_element(p->seed, STREAM_PICTURE, (uint64_t)index + 1, (uint64_t)i);
        int64_t at = (int64_t)((uint64_t)word * (uint64_t)o->still_count >> 32);
        if (o->stills[at] == out->rows[i / p->images]) at = (at + 1) % o->still_count;
        o->images[i] = o->stills[at];
    }
    out->images = o->images;
}

kin_status kin_train_order_batch(kin_train_order *order, int64_t index,
                                 kin_train_batch *out_batch) {
    kin_train_order *o = order;
    kin_train_batch batch = {0};
    kin_status status;
    if (o->buckets) {
        status = go_to_bucket_epoch(o, index);
        if (status != KIN_OK) return status;
        int64_t number = o->order[index - o->first_batch];
        batch.rows = o->items + o->starts[number];
        status =
            find_shape(o, &o->shapes, o->candidates.list[o->batch_shapes[number]], &batch.shape);
        if (status != KIN_OK) return status;
    } else {
        status = take_rows(o, index, &batch);
        if (status != KIN_OK) return status;
        if (o->options.images > 0) take_images(o, index, &batch);
    }
    *out_batch = batch;
    return KIN_OK;
}

/* ---- planning ---- */

static kin_status mark(kin_train_order *o, int form, int64_t row) {
    int forms = o->shapes.count + 1;
    if (forms > o->needed_room) {
        uint8_t **larger = kin_realloc(o->context, o->needed, (size_t)forms * sizeof *larger);
        if (!larger) return KIN_OUT_OF_MEMORY;
        o->needed = larger;
        for (int i = o->needed_room; i < forms; i++) o->needed[i] = NULL;
        o->needed_room = forms;
    }
    if (!o->needed[form]) o->needed[form] = kin_calloc(o->context, (size_t)rows_of(o), 1);
    if (!o->needed[form]) return KIN_OUT_OF_MEMORY;
    o->needed[form][row] = 1;
    return KIN_OK;
}

/* Walks through all batches: afterwards every shape and need is known. */
static kin_status plan_all(kin_train_order *o, int64_t total) {
    int64_t epoch_end = o->grouped ? o->grouped_count / o->options.batch : INT64_MAX;
    uint8_t *stills = o->options.images > 0 ? kin_calloc(o->context, (size_t)rows_of(o), 1) : NULL;
    kin_status status = o->options.images > 0 && !stills ? KIN_OUT_OF_MEMORY : KIN_OK;
    for (int64_t i = 0; status == KIN_OK && i < total && i < epoch_end; i++) {
        kin_train_batch batch;
        status = kin_train_order_batch(o, i, &batch);
        for (int64_t k = 0; status == KIN_OK && k < o->shapes.list[batch.shape].batch; k++)
            status = mark(o, batch.shape, batch.rows[k]);
        for (int64_t k = 0; status == KIN_OK && stills && k < o->options.batch * o->options.images;
             k++)
            stills[batch.images[k]] = 1;
        if (kin_train_order_is_plain(o)) break; /* all rows, in one form */
    }
    if (status == KIN_OK && stills) {
        status = mark(o, o->shapes.count, 0);
        if (status == KIN_OK) memcpy(o->needed[o->shapes.count], stills, (size_t)rows_of(o));
    }
    if (status == KIN_OK && kin_train_order_is_plain(o))
        memset(o->needed[0], 1, (size_t)rows_of(o));
    kin_free(o->context, stills);
    return status;
}

kin_status kin_train_order_open(kin_context *context, kin_dataset *dataset,
                                const kin_train_order_options *options, int64_t total,
                                kin_train_order **out_order) {
    *out_order = NULL;
    kin_train_order *o = kin_calloc(context, 1, sizeof *o);
    if (!o) return KIN_OUT_OF_MEMORY;
    o->context = context;
    o->dataset = dataset;
    o->options = *options;
    o->epoch = -1;
    kin_status status = KIN_OK;
    if (options->buckets) {
        status = kin_buckets_parse(context, options->buckets, options->where, &o->buckets);
    } else {
        if (options->lengths) status = measure_lengths(o);
        if (status == KIN_OK) status = sort_rows(o);
        if (status == KIN_OK && options->group_frame) status = group_lengths(o);
        o->items = kin_alloc(context, (size_t)rows_of(o) * sizeof *o->items);
        o->starts = kin_alloc(context, (size_t)options->batch * sizeof *o->starts);
        o->images =
            kin_alloc(context, (size_t)(options->batch * options->images + 1) * sizeof *o->images);
        if (status == KIN_OK && (!o->items || !o->starts || !o->images)) status = KIN_OUT_OF_MEMORY;
    }
    if (status == KIN_OK) status = plan_all(o, total > 0 ? total : 1);
    if (status == KIN_OK) *out_order = o;
    else kin_train_order_close(o);
    return status;
}
