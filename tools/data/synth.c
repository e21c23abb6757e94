#include "tools/data/synth.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "runtime/file.h"
#include "runtime/philox.h"
#include "runtime/video.h"

/* Everything that can be tuned. Lengths are in pixels of a clip of 32 x 32 and scale with the size.
 */
static const struct {
    float base_size;                           /* what the lengths are for */
    float radius_low, radius_high;             /* of the circle */
    float path_low, path_high;                 /* first to last frame */
    float start_low, start_high;               /* of the path, seen along it, from the middle */
    float margin, triangle_margin;             /* distance from the edge, in radii */
    float square_half;                         /* half side, in radii */
    float triangle_half_base, triangle_height; /* in radii */
    float back_low, back_high;                 /* grey of the background, 0..255 */
    float back_tint, colour_shade;             /* plus or minus, per channel */
    float article_a;                           /* share of "a" against "the" */
    int supersample;                           /* samples per pixel and axis */
    int crf;                                   /* of H.264 */
} recipe = {32.0f, 4.0f, 5.5f,  9.0f,  14.0f, -5.0f, 2.0f, 1.05f, 1.4f, 0.89f,
            1.2f,  2.1f, 20.0f, 60.0f, 4.0f,  12.0f, 0.7f, 8,     12};

static const struct {
    const char *name;
    uint8_t rgb[3];
} colours[KIN_SYNTH_COLOURS] = {{"red", {230, 40, 40}},      {"green", {40, 200, 60}},
                                {"blue", {50, 70, 240}},     {"yellow", {240, 220, 40}},
                                {"magenta", {215, 50, 215}}, {"cyan", {40, 215, 225}}};

enum { CIRCLE, SQUARE, TRIANGLE };
static const char *const shapes[KIN_SYNTH_SHAPES] = {"circle", "square", "triangle"};

static const struct {
    const char *name, *phrases[2];
    int x, y; /* x to the right, y down */
} directions[KIN_SYNTH_DIRECTIONS] = {{"left", {"to the left", "left"}, -1, 0},
                                      {"right", {"to the right", "right"}, 1, 0},
                                      {"up", {"up", "upwards"}, 0, -1},
                                      {"down", {"down", "downwards"}, 0, 1}};

enum { VERBS = 3 };
static const char *const verbs[VERBS] = {"moving", "sliding", "gliding"};

/* Streams of the generator, so that a caption does not depend on how a clip is drawn. */
enum { STREAM_CLIP = 1, STREAM_CAPTION = 2 };

const char *kin_synth_colour_name(int colour) {
    return colours[colour].name;
}

const char *kin_synth_direction_name(int direction) {
    return directions[direction].name;
}

const uint8_t *kin_synth_colour_rgb(int colour) {
    return colours[colour].rgb;
}

/* ---- combinations ---- */

/* The place of a combination in the order of held-out ones. First come the pairs (colour, shape)
 * with shape != colour % 3, one direction each: places 0..11. Then the other six pairs, then a
 * second direction for all. The rest is never held out. */
static int held_out_place(kin_synth_combination k) {
    const int first = (k.colour + k.shape) % KIN_SYNTH_DIRECTIONS;
    const int turn = (k.shape - k.colour % KIN_SYNTH_SHAPES + KIN_SYNTH_SHAPES) % KIN_SYNTH_SHAPES;
    const int place = (turn == 0 ? 2 : turn - 1) * KIN_SYNTH_COLOURS + k.colour;
    if (k.direction == first) return place;
    if (k.direction == (first + 2) % KIN_SYNTH_DIRECTIONS)
        return KIN_SYNTH_COLOURS * KIN_SYNTH_SHAPES + place;
    return KIN_SYNTH_COMBINATIONS;
}

bool kin_synth_is_held_out(kin_synth_combination combination, int held_out) {
    return held_out_place(combination) < held_out;
}

static kin_synth_combination combination_at(int index) {
    kin_synth_combination k;
    k.direction = index % KIN_SYNTH_DIRECTIONS;
    k.shape = index / KIN_SYNTH_DIRECTIONS % KIN_SYNTH_SHAPES;
    k.colour = index / (KIN_SYNTH_DIRECTIONS * KIN_SYNTH_SHAPES);
    return k;
}

/* Lists the combinations that are held out, or those that are not; returns how many. */
static int list_combinations(int held_out, bool want_held_out,
                             kin_synth_combination list[KIN_SYNTH_COMBINATIONS]) {
    int count = 0;
    for (int i = 0; i < KIN_SYNTH_COMBINATIONS; ++i) {
        kin_synth_combination k = combination_at(i);
        if (kin_synth_is_held_out(k, held_out) == want_held_out) list[count++] = k;
    }
    return count;
}

/* ---- captions ---- */

static bool is_word(const char *word, size_t length, const char *name) {
    return strlen(name) == length && memcmp(word, name, length) == 0;
}

static void match_word(const char *word, size_t length, kin_synth_combination *found) {
    for (int i = 0; i < KIN_SYNTH_COLOURS; ++i)
        if (is_word(word, length, colours[i].name)) found->colour = i;
    for (int i = 0; i < KIN_SYNTH_SHAPES; ++i)
        if (is_word(word, length, shapes[i])) found->shape = i;
    for (int i = 0; i < KIN_SYNTH_DIRECTIONS; ++i)
        if (is_word(word, length, directions[i].name) ||
            is_word(word, length, directions[i].phrases[1]))
            found->direction = i;
}

bool kin_synth_parse_caption(const char *caption, kin_synth_combination *out_combination) {
    static const char separators[] = " \t\r\n,.;";
    kin_synth_combination found = {-1, -1, -1};
    for (const char *at = caption; *at;) {
        at += strspn(at, separators);
        size_t length = strcspn(at, separators);
        match_word(at, length, &found);
        at += length;
    }
    *out_combination = found;
    return found.colour >= 0 && found.shape >= 0 && found.direction >= 0;
}

void kin_synth_plain_caption(kin_synth_combination k, char out_caption[KIN_SYNTH_MAX_CAPTION]) {
    snprintf(out_caption, KIN_SYNTH_MAX_CAPTION, "a %s %s %s %s", colours[k.colour].name,
             shapes[k.shape], verbs[0], directions[k.direction].phrases[0]);
}

void kin_synth_caption(kin_synth_combination k, uint64_t seed, uint32_t index,
                       char out_caption[KIN_SYNTH_MAX_CAPTION]) {
    float draw[3];
    kin_philox_fill_uniform(seed, STREAM_CAPTION, index, 0, 3, draw);
    snprintf(out_caption, KIN_SYNTH_MAX_CAPTION, "%s %s %s %s %s",
             draw[0] < recipe.article_a ? "a" : "the", colours[k.colour].name, shapes[k.shape],
             verbs[(int)(draw[1] * VERBS)], directions[k.direction].phrases[(int)(draw[2] * 2)]);
}

/* ---- rendering ---- */

/* What one clip looks like. Places are in pixels, 0 at the left or upper edge. */
typedef struct scene {
    int shape, size;
    float radius;
    float start_x, start_y, step_x, step_y; /* centre in frame 0 and its way per frame */
    float back[3], colour[3];               /* 0..255 */
} scene;

static float between(float low, float high, float share) {
    return low + (high - low) * share;
}

static scene make_scene(kin_synth_combination k, uint64_t seed, uint32_t index, int frames,
                        int size) {
    float draw[12];
    kin_philox_fill_uniform(seed, STREAM_CLIP, index, 0, 12, draw);
    const float unit = (float)size / recipe.base_size;
    scene s = {.shape = k.shape, .size = size};
    s.radius = between(recipe.radius_low, recipe.radius_high, draw[0]) * unit;
    const float margin = s.radius * (k.shape == TRIANGLE ? recipe.triangle_margin : recipe.margin);
    const float room = (float)size - 2 * margin;
    const float longest = fminf(recipe.path_high * unit, room);
    const float path = between(fminf(recipe.path_low * unit, longest), longest, draw[1]);
    /* Clips begin near the middle, so that even one frame says something of the direction: a model
     * learns that first, and what changes from frame to frame after it. Of paths from edge to edge
     * it learned the axis and never the sign. */
    const float last = fminf(room / 2 + recipe.start_high * unit, room - path);
    const float first = fminf(fmaxf(room / 2 + recipe.start_low * unit, 0), last);
    const float start = between(first, last, draw[2]);
    const float across = margin + room * draw[3];
    const int sign = directions[k.direction].x + directions[k.direction].y;
    const float along = margin + (sign > 0 ? start : room - start);
    const float step = frames > 1 ? (float)sign * path / (float)(frames - 1) : 0;
    const bool is_horizontal = directions[k.direction].x != 0;
    s.start_x = is_horizontal ? along : across;
    s.start_y = is_horizontal ? across : along;
    s.step_x = is_horizontal ? step : 0;
    s.step_y = is_horizontal ? 0 : step;
    const float grey = between(recipe.back_low, recipe.back_high, draw[4]);
    for (int c = 0; c < 3; ++c) {
        s.back[c] = grey + between(-recipe.back_tint, recipe.back_tint, draw[5 + c]);
        float shade = between(-recipe.colour_shade, recipe.colour_shade, draw[8 + c]);
        s.colour[c] = fminf(fmaxf((float)colours[k.colour].rgb[c] + shade, 0), 255);
    }
    return s;
}

/* x and y from the centre. The triangle points up and has its centroid at the centre. */
static bool is_inside(const scene *s, float x, float y) {
    const float r = s->radius;
    if (s->shape == CIRCLE) return x * x + y * y <= r * r;
    if (s->shape == SQUARE)
        return fabsf(x) <= recipe.square_half * r && fabsf(y) <= recipe.square_half * r;
    const float height = recipe.triangle_height * r, top = -2.0f / 3.0f * height;
    const float below = (y - top) / height; /* 0 at the tip, 1 at the base */
    return below >= 0 && below <= 1 && fabsf(x) <= recipe.triangle_half_base * r * below;
}

/* The share of pixel (x, y) that the shape covers. */
static float coverage(const scene *s, float centre_x, float centre_y, int x, int y) {
    const int samples = recipe.supersample;
    int hits = 0;
    for (int j = 0; j < samples; ++j)
        for (int i = 0; i < samples; ++i) {
            float at_x = (float)x + ((float)i + 0.5f) / (float)samples - centre_x;
            float at_y = (float)y + ((float)j + 0.5f) / (float)samples - centre_y;
            hits += is_inside(s, at_x, at_y);
        }
    return (float)hits / (float)(samples * samples);
}

static void render_frame(const scene *s, int t, int frames, float *data) {
    const float x_now = s->start_x + s->step_x * (float)t,
                y_now = s->start_y + s->step_y * (float)t;
    const float reach = 1.5f * s->radius + 1; /* no shape reaches further */
    const size_t plane = (size_t)s->size * (size_t)s->size;
    for (int y = 0; y < s->size; ++y)
        for (int x = 0; x < s->size; ++x) {
            bool is_near =
                fabsf((float)x + 0.5f - x_now) < reach && fabsf((float)y + 0.5f - y_now) < reach;
            float share = is_near ? coverage(s, x_now, y_now, x, y) : 0;
            size_t at = (size_t)t * plane + (size_t)y * (size_t)s->size + (size_t)x;
            for (size_t c = 0; c < 3; ++c)
                data[c * (size_t)frames * plane + at] =
                    between(s->back[c], s->colour[c], share) / 127.5f - 1.0f;
        }
}

kin_status kin_synth_render(kin_context *context, kin_synth_combination combination, uint64_t seed,
                            uint32_t index, int frames, int size, kin_host_tensor *out_clip) {
    const int64_t dims[4] = {3, frames, size, size};
    kin_status status = kin_host_tensor_create(context, KIN_F32, 4, dims, out_clip);
    if (status != KIN_OK) return status;
    const scene s = make_scene(combination, seed, index, frames, size);
    for (int t = 0; t < frames; ++t) render_frame(&s, t, frames, out_clip->data);
    return KIN_OK;
}

/* ---- the data set ---- */

kin_synth_options kin_synth_defaults(void) {
    return (kin_synth_options){.folder = "data",
                               .count = 2400,
                               .held_out_clips = 48,
                               .frames = 8,
                               .size = 32,
                               .fps = 8,
                               .seed = 1,
                               .held_out = 12};
}

/* Text that grows; `failed` once there was no memory. */
typedef struct text_buffer {
    kin_context *context;
    char *data;
    size_t used, room;
    bool failed;
} text_buffer;

static void add_text(text_buffer *buffer, const char *text) {
    const size_t length = strlen(text);
    if (buffer->failed) return;
    if (!buffer->data || buffer->used + length > buffer->room) {
        size_t room = 2 * (buffer->used + length) + 1024;
        char *data = kin_realloc(buffer->context, buffer->data, room);
        if (!data) {
            buffer->failed = true;
            return;
        }
        buffer->data = data;
        buffer->room = room;
    }
    memcpy(buffer->data + buffer->used, text, length);
    buffer->used += length;
}

static kin_status save_text(text_buffer *buffer, const char *folder, const char *name) {
    kin_status status = KIN_OUT_OF_MEMORY;
    char *path = buffer->failed ? NULL : kin_path_join(buffer->context, folder, name);
    if (path) status = kin_file_write_atomic(buffer->context, path, buffer->data, buffer->used);
    kin_free(buffer->context, path);
    kin_free(buffer->context, buffer->data);
    return status;
}

static kin_status write_prompts(kin_context *context, const char *folder, const char *name,
                                const kin_synth_combination *list, int count) {
    text_buffer text = {.context = context};
    add_text(&text, "");
    for (int i = 0; i < count; ++i) {
        char caption[KIN_SYNTH_MAX_CAPTION];
        kin_synth_plain_caption(list[i], caption);
        add_text(&text, caption);
        add_text(&text, "\n");
    }
    return save_text(&text, folder, name);
}

/* One part of the data set: `count` clips of the listed combinations in turn. `first` is the index
 * of its first clip in the random numbers. */
typedef struct synth_part {
    const char *clips, *csv;
    const kin_synth_combination *list;
    int list_count, count;
    uint32_t first;
    int done_before, total; /* for the progress */
} synth_part;

static kin_status write_clip(kin_context *context, const kin_synth_options *options,
                             const synth_part *part, int i, text_buffer *csv) {
    const kin_synth_combination k = part->list[i % part->list_count];
    const uint32_t index = part->first + (uint32_t)i;
    char caption[KIN_SYNTH_MAX_CAPTION], name[64], row[KIN_SYNTH_MAX_CAPTION + 160];
    kin_synth_caption(k, options->seed, index, caption);
    snprintf(name, sizeof name, "%s/%06d.mp4", part->clips, i);
    snprintf(row, sizeof row, "%s,%s,%d,%d,%d,%g,%g\n", name, caption, options->frames,
             options->size, options->size, 1.0, options->fps);
    add_text(csv, row);
    char *path = kin_path_join(context, options->folder, name);
    if (!path) return KIN_OUT_OF_MEMORY;
    kin_host_tensor clip;
    kin_status status =
        kin_synth_render(context, k, options->seed, index, options->frames, options->size, &clip);
    if (status == KIN_OK) {
        const kin_video_write_options write = {
            .fps = options->fps, .crf = recipe.crf, .comment = caption};
        status = kin_video_write(context, path, &clip, &write);
        kin_host_tensor_free(context, &clip);
    }
    kin_free(context, path);
    return status;
}

static kin_status write_part(kin_context *context, const kin_synth_options *options,
                             const synth_part *part) {
    text_buffer csv = {.context = context};
    add_text(&csv, "path,text,num_frames,height,width,aspect_ratio,fps\n");
    char *clips = kin_path_join(context, options->folder, part->clips);
    kin_status status = clips ? kin_make_folders(context, clips) : KIN_OUT_OF_MEMORY;
    kin_free(context, clips);
    for (int i = 0; status == KIN_OK && part->list_count > 0 && i < part->count; ++i) {
        status = write_clip(context, options, part, i, &csv);
        if (status == KIN_OK && options->progress &&
            !options->progress(options->progress_user, part->done_before + i + 1, part->total))
            status = kin_fail(context, KIN_CANCELLED, "%s: stopped after %d clips", options->folder,
                              part->done_before + i + 1);
    }
    if (status == KIN_OK) return save_text(&csv, options->folder, part->csv);
    kin_free(context, csv.data);
    return status;
}

kin_status kin_synth_write(kin_context *context, const kin_synth_options *options) {
    if (!options->folder || options->count < 1 || options->held_out_clips < 0 ||
        options->frames < 1 || options->frames > 1024 || options->size < 16 ||
        options->size > 1024 || options->size % 2 || options->held_out < 0 ||
        options->held_out > KIN_SYNTH_MAX_HELD_OUT)
        return kin_fail(context, KIN_INVALID,
                        "synth: %d clips of %d frames (1 to 1024) of size %d (16 to 1024, even) "
                        "with %d combinations held out (0 to %d)",
                        options->count, options->frames, options->size, options->held_out,
                        KIN_SYNTH_MAX_HELD_OUT);
    kin_synth_combination seen[KIN_SYNTH_COMBINATIONS], held[KIN_SYNTH_COMBINATIONS];
    const int seen_count = list_combinations(options->held_out, false, seen);
    const int held_count = list_combinations(options->held_out, true, held);
    const int extra = held_count > 0 ? options->held_out_clips : 0;
    const synth_part train = {"clips",        "train.csv", seen, seen_count,
                              options->count, 0,           0,    options->count + extra};
    /* Far from the training clips' indices, so that more of those do not change these. */
    const synth_part apart = {"heldout", "heldout.csv",     held,           held_count,
                              extra,     UINT32_C(1) << 31, options->count, options->count + extra};
    kin_status status = write_part(context, options, &train);
    if (status == KIN_OK) status = write_part(context, options, &apart);
    if (status == KIN_OK)
        status = write_prompts(context, options->folder, "prompts_seen.txt", seen, seen_count);
    if (status == KIN_OK)
        status = write_prompts(context, options->folder, "prompts_heldout.txt", held, held_count);
    return status;
}
