/* Convolutions for software drivers. Per chunk of samples, or of rows of a sample: copies of the
 * source in scratch memory, one for each tap of a row, in which every read is a whole texel; then a
 * product as in matmul_texels.comp that walks over them. A chunk's copies take at most CHUNK_BYTES,
 * unless one row of the result needs more. */
#include "backends/vulkan/conv.h"
#include "backends/vulkan/heavy.h"

enum { LANES = 8, WIDTH = 8, TEXEL = 16, CHUNK_BYTES = 32 << 20 };

/* A convolution as the shaders see it: `result` is made (or, for the weights, summed over),
 * `source` is copied. */
typedef struct job {
    kin_vulkan_conv conv;
    bool backward;       /* dx from dy */
    int64_t channels, m; /* of the source; rows of the result */
    int64_t result[3], source[3];
    int64_t frames;              /* of the copies: with sums of the first, conv_pack.comp */
    int64_t fours;               /* texels of a row of the copies */
    int64_t band, rows, samples; /* of a chunk: rows of the result, of the copies; samples */
    size_t weights_at, copies_at, dy_at, sums_at, size; /* scratch memory */
} job;

static int64_t ceiling(int64_t a, int64_t b) {
    return a <= 0 ? 0 : (a + b - 1) / b;
}

static int64_t smaller(int64_t a, int64_t b) {
    return a < b ? a : b;
}

/* The rows of the source that rows [begin, begin + band) of the result read. */
static void rows_of(const job *j, int64_t begin, int64_t band, int64_t *out_first,
                    int64_t *out_rows) {
    const int64_t stride = j->conv.attrs->stride[1], before = j->conv.attrs->before[1];
    const int64_t last_tap = j->conv.kernel[1] - 1, end = begin + band - 1;
    int64_t first, last;
    if (j->backward) {
        first = ceiling(begin + before - last_tap, stride);
        last = (end + before) / stride;
    } else {
        first = begin * stride - before;
        last = end * stride + last_tap - before;
    }
    if (first < 0) first = 0;
    if (first > j->source[1] - 1) first = j->source[1] - 1;
    if (last > j->source[1] - 1) last = j->source[1] - 1;
    *out_first = first;
    *out_rows = last < first ? 1 : last - first + 1;
}

static int64_t most_rows(const job *j, int64_t band) {
    const int64_t stride = j->conv.attrs->stride[1], kernel = j->conv.kernel[1];
    return smaller(j->source[1],
                   j->backward ? (band + kernel - 2) / stride + 2 : (band - 1) * stride + kernel);
}

/* Texels from one four of columns to the next: for a convolution the channels lie between. */
static int64_t four_step(const job *j) {
    return j->conv.kind == KIN_VULKAN_CONV_WEIGHT ? 1 : j->channels;
}

/* Texels of one copy. */
static int64_t volume_of(const job *j, int64_t rows) {
    return j->channels * j->frames * rows * j->fours;
}

/* Bytes of the copies of one sample, for a band of the result. */
static double copies_bytes(const job *j, int64_t band) {
    double texels = (double)j->conv.kernel[2] * (double)volume_of(j, most_rows(j, band));
    if (j->conv.kind == KIN_VULKAN_CONV_WEIGHT)
        texels += (double)(j->m * j->result[0]) * (double)(band * j->fours);
    return texels * TEXEL;
}

static size_t take(size_t *size, double bytes) {
    const size_t at = *size;
    *size += ((size_t)bytes + 255) / 256 * 256;
    return at;
}

static job job_of(const kin_device *device, const kin_call *call, kin_vulkan_conv_kind kind) {
    job j = {.conv = kin_vulkan_conv_of(call, kind), .backward = kind == KIN_VULKAN_CONV_INPUT};
    const kin_vulkan_conv *conv = &j.conv;
    const uint64_t range = kin_vulkan_features_of(device)->max_range / 4;
    const double most = range < CHUNK_BYTES ? (double)range : CHUNK_BYTES;
    for (int a = 0; a < 3; a++) {
        j.result[a] = j.backward ? conv->in[a] : conv->out[a];
        j.source[a] = j.backward ? conv->out[a] : conv->in[a];
    }
    j.channels = j.backward ? conv->cout : conv->cin;
    j.m = j.backward ? conv->cin : conv->cout;
    j.frames = j.source[0];
    if (j.backward && conv->attrs->causal)
        j.frames += smaller(conv->attrs->before[0] / conv->attrs->stride[0] + 1, j.source[0]);
    j.fours = ceiling(j.result[2], 4);
    j.band = j.result[1];
    while (j.band > 1 && copies_bytes(&j, j.band) > most) j.band = (j.band + 1) / 2;
    const double each = copies_bytes(&j, j.band);
    j.samples = j.band < j.result[1] || each <= 0 ? 1 : (int64_t)(most / each);
    if (j.samples > conv->batch) j.samples = conv->batch;
    if (j.samples < 1) j.samples = 1;
    j.rows = most_rows(&j, j.band);
    const double taps = (double)(conv->kernel[0] * conv->kernel[1] * conv->kernel[2]);
    const double all =
        (double)(j.samples * conv->kernel[2] * j.channels) * (double)(j.frames * j.rows * j.fours);
    /* Filled up to whole tiles of 16 rows at most. */
    if (kind != KIN_VULKAN_CONV_WEIGHT)
        j.weights_at =
            take(&j.size, (double)j.channels * taps * (double)ceiling(j.m, 16) * 4 * TEXEL);
    j.copies_at = take(&j.size, (all + 1) * TEXEL);
    if (kind != KIN_VULKAN_CONV_WEIGHT) return j;
    j.dy_at =
        take(&j.size,
             ((double)(j.samples * j.m * j.result[0]) * (double)(j.band * j.fours) + 1) * TEXEL);
    j.sums_at = j.size;
    if (call->out[0].desc.dtype != KIN_F32)
        take(&j.size, (double)kin_desc_count(&call->out[0].desc) * 4);
    return j;
}

static bool can(const kin_device *device, const kin_call *call, kin_vulkan_conv_kind kind) {
    const kin_vulkan_features *features = kin_vulkan_features_of(device);
    if (!features->is_cpu || !kin_vulkan_fits_real(device, call)) return false;
    for (int i = 0; i < call->in_count; i++)
        if (!kin_vulkan_is_absent(&call->in[i]) && kin_desc_count(&call->in[i].desc) == 0)
            return false;
    if (kin_desc_count(&call->out[0].desc) == 0) return false;
    const job j = job_of(device, call, kind);
    if (kind != KIN_VULKAN_CONV_WEIGHT && kin_vulkan_is_odd(call->out[0].desc.dtype, j.result[2]))
        return false;
    return j.size < features->max_range && j.size / TEXEL < features->max_texels;
}

/* ---- copies ---- */

typedef struct pack_push {
    uint32_t samples, copies, channels, frames, rows, fours, x, y;
    uint32_t in_frames, in_rows, in_columns, first_row, columns, stride, before, sample_step;
    uint32_t channel_step, row_step, four_step, volume;
} pack_push;

/* Copies of `samples` samples of an operand from sample `first` on; push has the sizes. */
static kin_status pack(kin_device *device, kin_commands *commands, const kin_call *call,
                       const kin_operand *from, size_t at, int64_t first, bool backward,
                       pack_push *push) {
    const kin_desc *desc = &from->desc;
    const uint64_t lines =
        (uint64_t)push->samples * push->copies * push->channels * push->frames * push->rows;
    kin_vulkan_work work = kin_vulkan_work_of("conv_pack", WIDTH);
    kin_vulkan_spec(&work, kin_vulkan_dtype_spec(from));
    kin_vulkan_spec(&work, backward);
    push->sample_step = (uint32_t)(kin_desc_count(desc) / desc->dims[0]);
    push->x = kin_vulkan_read(device, &work, from) + (uint32_t)first * push->sample_step;
    push->y =
        kin_vulkan_bytes(device, &work, call->scratch, call->scratch_offset + at,
                         ((size_t)push->samples * push->copies * push->volume + 1) * TEXEL, true);
    kin_vulkan_push(&work, push, sizeof *push);
    work.groups[0] = kin_vulkan_groups((int64_t)lines + 1, WIDTH);
    return kin_vulkan_launch(device, commands, &work);
}

/* A chunk: samples [first, first + samples), rows [begin, begin + band) of the result. */
typedef struct chunk {
    int64_t first, samples, begin, band;
    int64_t first_row, rows; /* of the source */
} chunk;

static kin_status pack_source(kin_device *device, kin_commands *commands, const kin_call *call,
                              const job *j, const chunk *c) {
    pack_push push = {.samples = (uint32_t)c->samples,
                      .copies = (uint32_t)j->conv.kernel[2],
                      .channels = (uint32_t)j->channels,
                      .frames = (uint32_t)j->frames,
                      .rows = (uint32_t)c->rows,
                      .fours = (uint32_t)j->fours,
                      .in_frames = (uint32_t)j->source[0],
                      .in_rows = (uint32_t)j->source[1],
                      .in_columns = (uint32_t)j->source[2],
                      .first_row = (uint32_t)c->first_row,
                      .columns = (uint32_t)j->result[2],
                      .stride = (uint32_t)j->conv.attrs->stride[2],
                      .before = (uint32_t)j->conv.attrs->before[2]};
    const bool weight = j->conv.kind == KIN_VULKAN_CONV_WEIGHT;
    push.channel_step = weight ? push.frames * push.rows * push.fours : 1;
    push.four_step = (uint32_t)four_step(j);
    push.row_step = push.fours * push.four_step;
    push.volume = (uint32_t)volume_of(j, c->rows);
    return pack(device, commands, call, &call->in[0], j->copies_at, c->first, j->backward, &push);
}

static size_t copies_size(const job *j, const chunk *c) {
    return (size_t)(c->samples * j->conv.kernel[2] * volume_of(j, c->rows) + 1) * TEXEL;
}

/* What is done with the copies of a chunk. */
typedef kin_status (*chunk_fn)(kin_device *device, kin_commands *commands, const kin_call *call,
                               const job *j, const chunk *c, bool is_first);

static kin_status for_chunks(kin_device *device, kin_commands *commands, const kin_call *call,
                             const job *j, chunk_fn function) {
    kin_status status = KIN_OK;
    for (int64_t first = 0; first < j->conv.batch; first += j->samples)
        for (int64_t begin = 0; begin < j->result[1] && status == KIN_OK; begin += j->band) {
            chunk c = {first, smaller(j->samples, j->conv.batch - first),
                       begin, smaller(j->band, j->result[1] - begin),
                       0,     0};
            rows_of(j, c.begin, c.band, &c.first_row, &c.rows);
            status = pack_source(device, commands, call, j, &c);
            if (status == KIN_OK)
                status = function(device, commands, call, j, &c, first == 0 && begin == 0);
        }
    return status;
}

/* ---- forward, and the gradient of the input ---- */

typedef struct conv_push {
    uint32_t samples, first_sample, m, channels, out_t, out_y, out_x, begin_y, band;
    uint32_t in_t, in_y, first_row, rows, frames, fours, four_step, tiles_m, tiles_n;
    uint32_t x, w, c, bias;
    uint32_t kernel[3], stride[2], before[2];
} conv_push;

/* Sums of an invocation, and invocations side by side: the tile with the least work, as in
 * matmul.c. */
typedef struct tile {
    uint32_t rows, groups, lanes_x;
} tile;

static tile tile_for(int64_t m, int64_t quads) {
    static const tile tiles[] = {{16, 4, 2}, {16, 4, 4}, {8, 4, 8}, {4, 4, 8}, {4, 1, 8}};
    tile best = tiles[0];
    double least = 0;
    for (size_t i = 0; i < sizeof tiles / sizeof *tiles; i++) {
        const tile *t = &tiles[i];
        double count = (double)kin_vulkan_groups(m, t->rows * (LANES / t->lanes_x)) *
                       (double)kin_vulkan_groups(quads, t->groups * t->lanes_x);
        double cost = count * (18.0 * (t->rows / 4 + t->groups) + 2.0 * t->rows * t->groups + 10);
        if (i == 0 || cost < least) {
            least = cost;
            best = *t;
        }
    }
    return best;
}

/* That of a whole chunk, for all. */
static tile tile_of(const job *j) {
    return tile_for(j->m, j->samples * j->result[0] * j->band * j->fours);
}

static size_t weights_size(const job *j) {
    const tile t = tile_of(j);
    const int64_t taps = j->conv.kernel[0] * j->conv.kernel[1] * j->conv.kernel[2];
    return (size_t)(j->channels * taps * ceiling(j->m, t.rows) * (t.rows / 4)) * TEXEL;
}

static const kin_operand absent = {.desc = {.rank = -1}};

static kin_status convolve(kin_device *device, kin_commands *commands, const kin_call *call,
                           const job *j, const chunk *c, bool is_first) {
    const kin_operand *bias = !j->backward && call->in_count == 3 ? &call->in[2] : &absent;
    const kin_conv_attrs *attrs = j->conv.attrs;
    const int64_t quads = j->result[0] * c->band * j->fours;
    const tile t = tile_of(j);
    kin_vulkan_work work = kin_vulkan_work_of("conv_texels", LANES);
    const int64_t taps_each = j->conv.kernel[2] <= 4 ? j->conv.kernel[2] : 1;
    int64_t channels_each = taps_each == 1 ? 4 : taps_each == 2 ? 2 : 1;
    while (j->channels % channels_each != 0) channels_each /= 2;
    const uint32_t specs[] = {t.rows,
                              t.groups,
                              t.lanes_x,
                              j->backward,
                              (uint32_t)call->out[0].desc.dtype,
                              kin_vulkan_dtype_spec(bias),
                              attrs->causal != 0,
                              (uint32_t)channels_each,
                              (uint32_t)taps_each};
    conv_push push = {.samples = (uint32_t)c->samples,
                      .first_sample = (uint32_t)c->first,
                      .m = (uint32_t)j->m,
                      .channels = (uint32_t)j->channels,
                      .out_t = (uint32_t)j->result[0],
                      .out_y = (uint32_t)j->result[1],
                      .out_x = (uint32_t)j->result[2],
                      .begin_y = (uint32_t)c->begin,
                      .band = (uint32_t)c->band,
                      .in_t = (uint32_t)j->source[0],
                      .in_y = (uint32_t)j->source[1],
                      .first_row = (uint32_t)c->first_row,
                      .rows = (uint32_t)c->rows,
                      .frames = (uint32_t)j->frames,
                      .fours = (uint32_t)j->fours,
                      .four_step = (uint32_t)four_step(j)};
    (void)is_first;
    for (size_t i = 0; i < sizeof specs / sizeof *specs; i++) kin_vulkan_spec(&work, specs[i]);
    for (int a = 0; a < 3; a++) push.kernel[a] = (uint32_t)j->conv.kernel[a];
    for (int a = 0; a < 2; a++) {
        push.stride[a] = (uint32_t)attrs->stride[a];
        push.before[a] = (uint32_t)attrs->before[a];
    }
    push.tiles_m = (uint32_t)kin_vulkan_groups(j->m, t.rows * (LANES / t.lanes_x));
    push.tiles_n = (uint32_t)kin_vulkan_groups(quads, t.groups * t.lanes_x);
    push.w = kin_vulkan_texel_bytes(device, &work, call->scratch,
                                    call->scratch_offset + j->weights_at, weights_size(j));
    push.x = kin_vulkan_texel_bytes(device, &work, call->scratch,
                                    call->scratch_offset + j->copies_at, copies_size(j, c));
    push.bias = kin_vulkan_read(device, &work, bias);
    push.c = kin_vulkan_write(device, &work, &call->out[0]);
    kin_vulkan_push(&work, &push, sizeof push);
    work.groups[0] = (uint64_t)push.tiles_m * push.tiles_n * push.samples;
    return kin_vulkan_launch(device, commands, &work);
}

static kin_status pack_weights(kin_device *device, kin_commands *commands, const kin_call *call,
                               const job *j) {
    const tile t = tile_of(j);
    struct {
        uint32_t outer, inner, taps, fours, block, x, y;
    } push = {.outer = (uint32_t)j->conv.cout,
              .inner = (uint32_t)j->conv.cin,
              .taps = (uint32_t)(j->conv.kernel[0] * j->conv.kernel[1] * j->conv.kernel[2]),
              .fours = (uint32_t)ceiling(j->m, t.rows) * (t.rows / 4),
              .block = t.rows / 4};
    kin_vulkan_work work = kin_vulkan_work_of("conv_pack_weight", WIDTH);
    kin_vulkan_spec(&work, kin_vulkan_dtype_spec(&call->in[1]));
    kin_vulkan_spec(&work, j->backward);
    push.x = kin_vulkan_read(device, &work, &call->in[1]);
    push.y = kin_vulkan_bytes(device, &work, call->scratch, call->scratch_offset + j->weights_at,
                              weights_size(j), true);
    kin_vulkan_push(&work, &push, sizeof push);
    work.groups[0] = kin_vulkan_groups((int64_t)(weights_size(j) / TEXEL), WIDTH);
    return kin_vulkan_launch(device, commands, &work);
}

static kin_status launch(kin_device *device, kin_commands *commands, const kin_call *call,
                         kin_vulkan_conv_kind kind) {
    const job j = job_of(device, call, kind);
    kin_status status = pack_weights(device, commands, call, &j);
    if (status != KIN_OK) return status;
    return for_chunks(device, commands, call, &j, convolve);
}

/* ---- the gradient of the weights ---- */

typedef struct weight_push {
    uint32_t samples, m, channels, in_t, in_y, out_t, begin_y, band, first_row, rows, fours;
    uint32_t tiles_m, tiles_n, dy, x, c;
    uint32_t kernel[3], stride[2], before[2];
} weight_push;

static kin_status pack_dy(kin_device *device, kin_commands *commands, const kin_call *call,
                          const job *j, const chunk *c) {
    pack_push push = {.samples = (uint32_t)c->samples,
                      .copies = 1,
                      .channels = (uint32_t)j->m,
                      .frames = (uint32_t)j->result[0],
                      .rows = (uint32_t)c->band,
                      .fours = (uint32_t)j->fours,
                      .in_frames = (uint32_t)j->result[0],
                      .in_rows = (uint32_t)j->result[1],
                      .in_columns = (uint32_t)j->result[2],
                      .first_row = (uint32_t)c->begin,
                      .columns = (uint32_t)j->result[2],
                      .stride = 1,
                      .channel_step = (uint32_t)(j->result[0] * c->band * j->fours),
                      .row_step = (uint32_t)j->fours,
                      .four_step = 1};
    push.volume = push.channels * push.channel_step;
    return pack(device, commands, call, &call->in[1], j->dy_at, c->first, false, &push);
}

static kin_status sum_weights(kin_device *device, kin_commands *commands, const kin_call *call,
                              const job *j, const chunk *c, bool is_first) {
    enum { ROWS = 16, COLUMNS = 16, LANES_X = 4, SMALL = 4 };
    const kin_operand *out = &call->out[0];
    const kin_conv_attrs *attrs = j->conv.attrs;
    const int64_t n = j->channels * j->conv.kernel[0] * j->conv.kernel[1] * j->conv.kernel[2];
    const bool small = j->m <= 16 || n <= 32;
    const uint32_t rows = small ? SMALL : ROWS, columns = small ? SMALL : COLUMNS;
    kin_vulkan_work work = kin_vulkan_work_of("conv_texels_weight", LANES);
    const uint32_t specs[] = {rows, columns, LANES_X, !is_first, attrs->causal != 0};
    weight_push push = {.samples = (uint32_t)c->samples,
                        .m = (uint32_t)j->m,
                        .channels = (uint32_t)j->channels,
                        .in_t = (uint32_t)j->source[0],
                        .in_y = (uint32_t)j->source[1],
                        .out_t = (uint32_t)j->result[0],
                        .begin_y = (uint32_t)c->begin,
                        .band = (uint32_t)c->band,
                        .first_row = (uint32_t)c->first_row,
                        .rows = (uint32_t)c->rows,
                        .fours = (uint32_t)j->fours};
    kin_status status = pack_dy(device, commands, call, j, c);
    if (status != KIN_OK) return status;
    for (size_t i = 0; i < sizeof specs / sizeof *specs; i++) kin_vulkan_spec(&work, specs[i]);
    for (int a = 0; a < 3; a++) push.kernel[a] = (uint32_t)j->conv.kernel[a];
    for (int a = 0; a < 2; a++) {
        push.stride[a] = (uint32_t)attrs->stride[a];
        push.before[a] = (uint32_t)attrs->before[a];
    }
    push.tiles_m = (uint32_t)kin_vulkan_groups(j->m, rows * (LANES / LANES_X));
    push.tiles_n = (uint32_t)kin_vulkan_groups(n, columns * LANES_X);
    push.dy = kin_vulkan_texel_bytes(
        device, &work, call->scratch, call->scratch_offset + j->dy_at,
        (size_t)(c->samples * j->m * j->result[0] * c->band * j->fours + 1) * TEXEL);
    push.x = kin_vulkan_texel_bytes(device, &work, call->scratch,
                                    call->scratch_offset + j->copies_at, copies_size(j, c));
    push.c = out->desc.dtype == KIN_F32
                 ? kin_vulkan_write(device, &work, out)
                 : kin_vulkan_bytes(device, &work, call->scratch, call->scratch_offset + j->sums_at,
                                    j->size - j->sums_at, true);
    kin_vulkan_push(&work, &push, sizeof push);
    work.groups[0] = (uint64_t)push.tiles_m * push.tiles_n;
    return kin_vulkan_launch(device, commands, &work);
}

static kin_status launch_weight(kin_device *device, kin_commands *commands, const kin_call *call) {
    const job j = job_of(device, call, KIN_VULKAN_CONV_WEIGHT);
    kin_status status = for_chunks(device, commands, call, &j, sum_weights);
    if (status != KIN_OK || call->out[0].desc.dtype == KIN_F32) return status;
    return kin_vulkan_narrow(device, commands, call, j.sums_at, &call->out[0]);
}

/* ---- rows of the kernel list ---- */

static bool can_forward(const kin_device *device, const kin_call *call) {
    return can(device, call, KIN_VULKAN_CONV_FORWARD);
}

static bool can_input(const kin_device *device, const kin_call *call) {
    return can(device, call, KIN_VULKAN_CONV_INPUT);
}

static bool can_weight(const kin_device *device, const kin_call *call) {
    return can(device, call, KIN_VULKAN_CONV_WEIGHT);
}

static size_t forward_scratch(const kin_device *device, const kin_call *call) {
    return job_of(device, call, KIN_VULKAN_CONV_FORWARD).size;
}

static size_t input_scratch(const kin_device *device, const kin_call *call) {
    return job_of(device, call, KIN_VULKAN_CONV_INPUT).size;
}

static size_t weight_scratch(const kin_device *device, const kin_call *call) {
    return job_of(device, call, KIN_VULKAN_CONV_WEIGHT).size;
}

static kin_status launch_forward(kin_device *device, kin_commands *commands, const kin_call *call) {
    return launch(device, commands, call, KIN_VULKAN_CONV_FORWARD);
}

static kin_status launch_input(kin_device *device, kin_commands *commands, const kin_call *call) {
    return launch(device, commands, call, KIN_VULKAN_CONV_INPUT);
}

const kin_kernel kin_vulkan_conv_texels_kernels[] = {
    {"conv", "vulkan_conv_texels", 0, 0, can_forward, forward_scratch, launch_forward},
    {"conv_grad_input", "vulkan_conv_grad_input_texels", 0, 0, can_input, input_scratch,
     launch_input},
    {"conv_grad_weight", "vulkan_conv_grad_weight_texels", 0, 0, can_weight, weight_scratch,
     launch_weight},
    {0},
};
