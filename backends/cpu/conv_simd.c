/* Convolution forward and its gradient to the input: an implicit matrix product.
 *
 * Columns are pixels of the output grid, rows are output channels, the inner dimension runs over
 * (channel, tap). A task takes a few panels of 3 vectors of pixels; for each chunk of the inner
 * dimension it gathers the patches of its panels (conv_pack.h), then walks over the packed weights
 * with a register tile of 8 x 3 vectors (4 x 3 where there are 16 registers). Partial sums wait in
 * the output itself. The gradient to the input is the same product: with a stride of s the input's
 * pixels fall into s classes per axis that see different taps, and each class is a convolution of
 * stride 1 over dy. A causal front pad gives frame 0 further contributions, one pass per repeated
 * frame, in a fixed order.
 *
 * Ladder. AMD Zen 5, one thread; % is of the FMA loop measured in the same run (275 GFLOP/s),
 * minima of at least 5 runs; 3 x 3 kernels, "64@32" is 64 channels to 64 of 32 x 32, batch 16.
 *  1. Tile 8 x 3. Predicted: 11 loads hide behind 24 FMA, gathering costs 2 cycles a vector against
 *     Cout / 2, so 97 % with 128 channels. Measured, forward: 3 to 64 53, 32@32 69, 64@32 75,
 *     128@64 80, 256@128 85, 128@9x64x64 81, 1x1 512@32 84; gradient to the input the same or
 *     5 more. 64 to 3: 22. Gathering takes about 6 cycles: planes lie far apart, so each short run
 *     comes from L2 at best.
 *  2. Prefetch of the channel three ahead. Predicted: half of that latency. Measured: 128 to 3 @256
 *     32 -> 22 ms, 64 to 3 1.02 -> 0.93 ms, 1x1 64@32 1.09 -> 0.93 ms, the others unchanged. Kept.
 *  3. Gradient to the weights (conv_weight_simd.c), tile 12 x 2 on the gathered rows as they are.
 *     Predicted: as forward. Measured: 64@32 56, 128@64 64: the partial sums of 32 slices were
 *     added along columns. Added by vectors, transposed at the end, and fewer slices: 66 and 76.
 *  4. Winograd F(4 x 4, 3 x 3) from 32 channels on (conv_winograd_simd.c). Predicted: 4 times fewer
 *     FMA, a quarter more for the transforms: 3 times. Measured, forward, in % of what direct FMA
 *     could do: 32@32 134, 64@32 179, 128@64 214, 128@256 239, 256@128 176, 512@64 162,
 *     128@9x64x64 242; gradient to the weights 128@64 190, 128@256 174. Kept. The large ones wait
 *     for L3: with neighbours on the machine 128@256 falls from 30 to 63 ms (direct: 94, quiet).
 *  5. 96 tiles a task instead of 48. Predicted: half the traffic of transformed kernels, more of
 *     tiles. Measured on a busy machine: 512@64 82 -> 60 ms, 64@32 and 128@9x64x64 not faster; used
 *     where the transformed kernels exceed 4 MB.
 *  6. Points of the transform. 0, +-1, +-2: errors up to 1.7 of the tolerance of ops; 0, +-1/2,
 *     +-3/2: 0.8; 0, +-3/4, +-3/2: 0.29; 0, +-1/sqrt 2, +-sqrt 2: 0.25; direct sums: 0.18. Speed is
 *     the same. The last pair is used.
 *  Other instruction sets, 64@16, batch 32, direct -> Winograd: AVX2 9.9 -> 1.9 ms, SSE 33 -> 5.1
 * ms.
 */
#include "backends/cpu/conv_pack.h"
#include "backends/cpu/conv_winograd.h"

#if defined(KIN_SIMD_AVX512)
#define TILE_ROWS 8
#else
#define TILE_ROWS 4
#endif

enum { TILE_VECTORS = 3, PANEL = TILE_VECTORS * VF_WIDTH, CHUNK = 256, MAX_PANELS = 4 };

/* Where the results of a grid go: out[(sample * rows + row) * plane + position]. */
typedef struct conv_target {
    int64_t rows;
    int64_t size[3], step[3], base[3];
    bool accumulate; /* add to what is there */
} conv_target;

/* One product: packed weights [row tile][inner][rows of the tile]. */
typedef struct conv_product {
    conv_grid grid;
    conv_target target;
    const float *source, *weights, *bias;
    float *out;
    int64_t inner, pixels;
    int64_t chunks, panels, group, groups; /* panels of a task; row tiles of a group; groups */
} conv_product;

/* tile[rows][PANEL] = (accumulate ? tile : bias) + a b. */
typedef void (*conv_micro_fn)(int64_t inner, const float *a, const float *b, float *tile,
                              int64_t pitch, const float *bias, bool accumulate);

KIN_INLINE void micro_kernel(int64_t inner, const float *a, const float *b, float *tile,
                             int64_t pitch, const float *bias, bool accumulate, int rows,
                             int vectors) {
    vf sum[TILE_ROWS][TILE_VECTORS];
#pragma GCC unroll 8
    for (int r = 0; r < rows; r++)
#pragma GCC unroll 3
        for (int v = 0; v < vectors; v++)
            sum[r][v] = accumulate ? vf_load(tile + r * pitch + v * VF_WIDTH)
                                   : vf_set1(bias ? bias[r] : 0.0f);
    for (int64_t k = 0; k < inner; k++, a += rows, b += PANEL) {
        vf column[TILE_VECTORS];
#pragma GCC unroll 3
        for (int v = 0; v < vectors; v++) column[v] = vf_load(b + v * VF_WIDTH);
#pragma GCC unroll 8
        for (int r = 0; r < rows; r++) {
            vf weight = vf_set1(a[r]);
#pragma GCC unroll 3
            for (int v = 0; v < vectors; v++) sum[r][v] = vf_fma(weight, column[v], sum[r][v]);
        }
    }
#pragma GCC unroll 8
    for (int r = 0; r < rows; r++)
#pragma GCC unroll 3
        for (int v = 0; v < vectors; v++) vf_store(tile + r * pitch + v * VF_WIDTH, sum[r][v]);
}

#define MICRO(rows, vectors)                                                                       \
    static void micro_##rows##x##vectors(int64_t inner, const float *a, const float *b,            \
                                         float *tile, int64_t pitch, const float *bias,            \
                                         bool accumulate) {                                        \
        micro_kernel(inner, a, b, tile, pitch, bias, accumulate, rows, vectors);                   \
    }
#define MICRO_ROW(rows) MICRO(rows, 1) MICRO(rows, 2) MICRO(rows, 3)
#define MICRO_NAMES(rows)                                                                          \
    { micro_##rows##x1, micro_##rows##x2, micro_##rows##x3 }

MICRO_ROW(1)
MICRO_ROW(2)
MICRO_ROW(3)
MICRO_ROW(4)
#if TILE_ROWS == 8
MICRO_ROW(5)
MICRO_ROW(6)
MICRO_ROW(7)
MICRO_ROW(8)
#endif

static const conv_micro_fn micro_table[TILE_ROWS][TILE_VECTORS] = {
    MICRO_NAMES(1), MICRO_NAMES(2), MICRO_NAMES(3), MICRO_NAMES(4),
#if TILE_ROWS == 8
    MICRO_NAMES(5), MICRO_NAMES(6), MICRO_NAMES(7), MICRO_NAMES(8),
#endif
};

/* Rows [0, rows) of one panel of pixels through one row tile. If the pixels do not lie in one run
 * of the output, the tile passes through a small copy and `place` says where each pixel goes. */
static void tile_run(const conv_product *p, int64_t row, int64_t begin, int64_t inner,
                     const float *panel, int64_t width, bool direct, const int64_t *place) {
    int rows = (int)conv_min(TILE_ROWS, p->target.rows - row);
    int vectors = (int)conv_ceil_div(width, VF_WIDTH);
    int64_t plane = conv_volume(p->target.size);
    const float *a = p->weights + row * p->inner + begin * rows;
    const float *bias = p->bias ? p->bias + row : NULL;
    bool accumulate = begin > 0 || p->target.accumulate;
    conv_micro_fn micro = micro_table[rows - 1][vectors - 1];
    float *out = p->out + row * plane;
    if (direct) {
        micro(inner, a, panel, out + place[0], plane, bias, accumulate);
        return;
    }
    float tile[TILE_ROWS * PANEL];
    if (accumulate)
        for (int r = 0; r < rows; r++) {
            for (int64_t i = 0; i < width; i++) tile[r * PANEL + i] = out[r * plane + place[i]];
            for (int64_t i = width; i < PANEL; i++) tile[r * PANEL + i] = 0.0f;
        }
    micro(inner, a, panel, tile, PANEL, bias, accumulate);
    for (int r = 0; r < rows; r++)
        for (int64_t i = 0; i < width; i++) out[r * plane + place[i]] = tile[r * PANEL + i];
}

/* The places of pixels [first, first + width) in the output, for row 0; true if the panel is full
 * to its last vector and lies in one run. */
static bool places_fill(const conv_product *p, int64_t first, int64_t width, int64_t *place) {
    const conv_target *to = &p->target;
    int64_t volume = conv_volume(p->grid.grid), plane = conv_volume(to->size);
    bool run = width % VF_WIDTH == 0;
    for (int64_t i = 0; i < width; i++) {
        int64_t inside = (first + i) % volume, line = inside / p->grid.grid[2];
        int64_t t = line / p->grid.grid[1] * to->step[0] + to->base[0];
        int64_t y = line % p->grid.grid[1] * to->step[1] + to->base[1];
        int64_t x = inside % p->grid.grid[2] * to->step[2] + to->base[2];
        place[i] =
            (first + i) / volume * to->rows * plane + (t * to->size[1] + y) * to->size[2] + x;
        run = run && place[i] == place[0] + i;
    }
    return run;
}

/* Scratch of one thread: spans and patches of the panels of a task. */
static size_t thread_scratch(const conv_grid *grid) {
    return MAX_PANELS *
           (conv_spans_bytes(grid, TILE_VECTORS) + conv_align(sizeof(float) * CHUNK * PANEL));
}

static void task_run(const conv_product *p, int64_t task, char *scratch) {
    int64_t first = task / p->groups * p->panels * PANEL, group = task % p->groups * p->group;
    int64_t rows_end = conv_min(p->target.rows, (group + p->group) * TILE_ROWS);
    size_t spans_bytes = conv_spans_bytes(&p->grid, TILE_VECTORS);
    float *patches = (float *)(scratch + MAX_PANELS * spans_bytes);
    int64_t place[MAX_PANELS][PANEL], width[MAX_PANELS], panels = 0;
    bool direct[MAX_PANELS];
    for (; panels < p->panels && first + panels * PANEL < p->pixels; panels++) {
        int64_t at = first + panels * PANEL;
        width[panels] = conv_min(PANEL, p->pixels - at);
        direct[panels] = places_fill(p, at, width[panels], place[panels]);
        conv_spans_fill(&p->grid, at, p->pixels, TILE_VECTORS,
                        (conv_span *)(scratch + panels * spans_bytes));
    }
    for (int64_t chunk = 0; chunk < p->chunks; chunk++) {
        int64_t begin = p->inner * chunk / p->chunks, end = p->inner * (chunk + 1) / p->chunks;
        for (int64_t i = 0; i < panels; i++) {
            float *panel = patches + i * CHUNK * PANEL;
            conv_pack(&p->grid, p->source, (conv_span *)(scratch + i * spans_bytes), TILE_VECTORS,
                      begin, end, panel, PANEL);
            for (int64_t row = group * TILE_ROWS; row < rows_end; row += TILE_ROWS)
                tile_run(p, row, begin, end - begin, panel, width[i], direct[i], place[i]);
        }
    }
}

/* Splits the product into tasks and runs them. The split does not change any sum. */
static void product_run(conv_product *p, char *scratch, int threads) {
    int64_t tiles = conv_ceil_div(p->target.rows, TILE_ROWS);
    int64_t all = conv_ceil_div(p->pixels, PANEL), wanted = threads > 1 ? 6 * (int64_t)threads : 1;
    p->chunks = conv_max(1, conv_ceil_div(p->inner, CHUNK));
    p->panels = p->target.rows > 256 ? MAX_PANELS / 2 : MAX_PANELS;
    p->panels = conv_max(1, conv_min(p->panels, all / wanted));
    int64_t blocks = conv_ceil_div(all, p->panels);
    p->groups = blocks >= wanted ? 1 : conv_min(conv_ceil_div(tiles, 4), wanted / blocks);
    p->groups = conv_max(1, p->groups);
    p->group = conv_ceil_div(tiles, p->groups);
    p->groups = conv_ceil_div(tiles, p->group);
    int64_t tasks = blocks * p->groups;
    size_t each = thread_scratch(&p->grid);
    const conv_product *shared = p;
#pragma omp parallel num_threads(threads)
    {
        char *mine = scratch + (size_t)conv_thread() * each;
#pragma omp for schedule(dynamic, 1)
        for (int64_t task = 0; task < tasks; task++) task_run(shared, task, mine);
    }
}

/* ---- forward ------------------------------------------------------------------------------- */

static conv_grid forward_grid(const cpu_conv_shape *s) {
    conv_grid g = {.batch = s->batch, .channels = s->cin, .clamp_front = s->causal};
    for (int a = 0; a < 3; a++) {
        g.grid[a] = s->out[a];
        g.source[a] = s->in[a];
        g.step[a] = s->stride[a];
        g.base[a] = -s->pad[a];
        g.increment[a] = 1;
        g.taps[a] = s->kernel[a];
    }
    return g;
}

static size_t weights_bytes(const cpu_conv_shape *s) {
    return conv_align(sizeof(float) * (size_t)(s->cout * s->cin * conv_volume(s->kernel)));
}

static size_t forward_scratch(const cpu_conv_shape *s, int threads) {
    if (KIN_ISA_NAME(cpu_winograd_forward_fits)(s))
        return KIN_ISA_NAME(cpu_winograd_forward_scratch)(s, threads);
    conv_grid g = forward_grid(s);
    return weights_bytes(s) + (size_t)threads * thread_scratch(&g);
}

static void pack_forward(const float *w, int64_t rows, int64_t inner, float *packed, int threads) {
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t row = 0; row < rows; row += TILE_ROWS) {
        int64_t count = conv_min(TILE_ROWS, rows - row);
        float *to = packed + row * inner;
        for (int64_t r = 0; r < count; r++)
            for (int64_t k = 0; k < inner; k++) to[k * count + r] = w[(row + r) * inner + k];
    }
}

static void forward(const cpu_conv_shape *s, const float *x, const float *w, const float *bias,
                    float *out, void *scratch, int threads) {
    if (KIN_ISA_NAME(cpu_winograd_forward_fits)(s)) {
        KIN_ISA_NAME(cpu_winograd_forward)(s, x, w, bias, out, scratch, threads);
        return;
    }
    conv_product p = {.grid = forward_grid(s), .source = x, .bias = bias, .out = out};
    p.target = (conv_target){.rows = s->cout, .step = {1, 1, 1}};
    for (int a = 0; a < 3; a++) p.target.size[a] = s->out[a];
    p.inner = s->cin * conv_volume(s->kernel);
    p.pixels = s->batch * conv_volume(s->out);
    p.weights = scratch;
    pack_forward(w, s->cout, p.inner, scratch, threads);
    product_run(&p, (char *)scratch + weights_bytes(s), threads);
}

/* ---- gradient to the input ----------------------------------------------------------------- */

/* The taps that one class of input pixels sees: first + j * stride, j < count, per axis. */
typedef struct conv_class {
    int64_t first[3], count[3];
} conv_class;

/* Grid pixel g of the class is input pixel g * stride + phase, which meets tap k at the output
 * (g * stride + phase + pad - k) / stride. */
static void class_axis(const cpu_conv_shape *s, int a, int64_t phase, int64_t padded, conv_grid *g,
                       conv_class *c) {
    int64_t stride = s->stride[a], first = padded % stride;
    c->first[a] = first;
    c->count[a] = first < s->kernel[a] ? conv_ceil_div(s->kernel[a] - first, stride) : 0;
    g->taps[a] = c->count[a];
    g->base[a] = (padded - first) / stride;
    g->increment[a] = -1;
    g->step[a] = 1;
    g->source[a] = s->out[a];
    g->grid[a] = conv_ceil_div(s->in[a] - phase, stride);
}

/* w [Cout, Cin, kernel] -> [Cin tile][(Cout, taps of the class)][Cin in the tile]. */
static void pack_backward(const cpu_conv_shape *s, const conv_class *c, const float *w,
                          float *packed, int threads) {
    int64_t volume = conv_volume(s->kernel), inner = s->cout * conv_volume(c->count);
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t row = 0; row < s->cin; row += TILE_ROWS) {
        int64_t count = conv_min(TILE_ROWS, s->cin - row);
        float *to = packed + row * inner;
        for (int64_t o = 0; o < s->cout; o++)
            for (int64_t i = 0; i < c->count[0]; i++)
                for (int64_t j = 0; j < c->count[1]; j++)
                    for (int64_t k = 0; k < c->count[2]; k++, to += count) {
                        int64_t t = c->first[0] + i * s->stride[0];
                        int64_t y = c->first[1] + j * s->stride[1];
                        int64_t x = c->first[2] + k * s->stride[2];
                        const float *from = w + (o * s->cin + row) * volume +
                                            (t * s->kernel[1] + y) * s->kernel[2] + x;
                        for (int64_t r = 0; r < count; r++) to[r] = from[r * volume];
                    }
    }
}

/* The pixels of one class. frame < 0: as a rule; otherwise only the contributions that frame 0 gets
 * as the repeated frame `frame` of the front pad, added to what is there. */
static void class_run(const cpu_conv_shape *s, const int64_t phase[3], int64_t frame,
                      const float *dy, const float *w, float *dx, char *scratch, int threads) {
    conv_product p = {.source = dy, .out = dx, .weights = (const float *)scratch};
    conv_class c;
    p.grid.batch = s->batch;
    p.grid.channels = s->cout;
    p.target.rows = s->cin;
    for (int a = 0; a < 3; a++) {
        class_axis(s, a, phase[a], phase[a] + s->pad[a], &p.grid, &c);
        p.target.size[a] = s->in[a];
        p.target.step[a] = s->stride[a];
        p.target.base[a] = phase[a];
    }
    if (frame >= 0) {
        class_axis(s, 0, 0, frame, &p.grid, &c);
        p.grid.grid[0] = 1;
        p.target.base[0] = 0;
        p.target.accumulate = true;
    }
    p.inner = s->cout * conv_volume(c.count);
    p.pixels = s->batch * conv_volume(p.grid.grid);
    if (p.pixels <= 0 || (frame >= 0 && p.inner == 0)) return;
    pack_backward(s, &c, w, (float *)scratch, threads);
    product_run(&p, scratch + weights_bytes(s), threads);
}

static size_t backward_input_scratch(const cpu_conv_shape *s, int threads) {
    conv_grid g = {.batch = s->batch, .channels = s->cout};
    for (int a = 0; a < 3; a++) {
        g.grid[a] = 1; /* narrow grids need the most spans */
        g.taps[a] = s->kernel[a];
    }
    size_t direct = weights_bytes(s) + (size_t)threads * thread_scratch(&g), winograd = 0;
    if (KIN_ISA_NAME(cpu_winograd_input_fits)(s))
        winograd = KIN_ISA_NAME(cpu_winograd_input_scratch)(s, threads);
    return direct > winograd ? direct : winograd;
}

static void backward_input(const cpu_conv_shape *s, const float *dy, const float *w, float *dx,
                           void *scratch, int threads) {
    int64_t phase[3];
    bool winograd = KIN_ISA_NAME(cpu_winograd_input_fits)(s);
    if (winograd) KIN_ISA_NAME(cpu_winograd_input)(s, dy, w, dx, scratch, threads);
    for (phase[0] = 0; phase[0] < s->stride[0] && !winograd; phase[0]++)
        for (phase[1] = 0; phase[1] < s->stride[1]; phase[1]++)
            for (phase[2] = 0; phase[2] < s->stride[2]; phase[2]++)
                class_run(s, phase, -1, dy, w, dx, scratch, threads);
    if (!s->causal) return;
    phase[0] = 0;
    for (int64_t frame = 0; frame < s->pad[0]; frame++)
        for (phase[1] = 0; phase[1] < s->stride[1]; phase[1]++)
            for (phase[2] = 0; phase[2] < s->stride[2]; phase[2]++)
                class_run(s, phase, frame, dy, w, dx, scratch, threads);
}

#define ISA_TEXT2(x) #x
#define ISA_TEXT(x) ISA_TEXT2(x)

const cpu_conv_functions KIN_ISA_NAME(cpu_conv_functions) = {
    .isa = ISA_TEXT(KIN_ISA),
    .forward_scratch = forward_scratch,
    .backward_input_scratch = backward_input_scratch,
    .backward_weight_scratch = KIN_ISA_NAME(cpu_conv_weight_scratch),
    .forward = forward,
    .backward_input = backward_input,
    .backward_weight = KIN_ISA_NAME(cpu_conv_weight),
    .backward_bias = KIN_ISA_NAME(cpu_conv_bias),
};
