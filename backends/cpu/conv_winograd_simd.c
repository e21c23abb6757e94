/* Convolutions with 3 x 3 kernels and stride 1 by Winograd's F(4 x 4, 3 x 3): Lavin and Gray, "Fast
 * Algorithms for Convolutional Neural Networks" (arXiv:1509.09308), with the points 0, +-1/sqrt 2,
 * +-sqrt 2 and infinity, which halves the rounding errors of the usual 0, +-1, +-2.
 *
 * A 4 x 4 tile of the output needs a 6 x 6 tile of the input. Both and the kernel are transformed
 * to 36 points; at each point the convolution is a product over channels: 36 multiplications
 * instead of 144. A kernel of kt frames is kt kernels whose channels stand side by side. The lanes
 * of a vector are channels throughout, so that images of any width fill them. Rounding errors are
 * about twice those of the direct sum, a quarter of the tolerance of ops (runtime/check.h).
 */
#include "backends/cpu/conv_winograd.h"
#include "backends/cpu/simd_transpose.h"

#if defined(KIN_SIMD_AVX512)
#define TILE_ROWS 12
#else
#define TILE_ROWS 6
#endif

enum { POINTS = 36, COLUMNS = 2 * VF_WIDTH, TASK_TILES = 48, MAX_RUN = 16, ROUND_BYTES = 8 << 20 };

/* Tiles are counted over (sample, frame, row, column). Channel c of kernel frame k is k * cpad + c;
 * the pads are multiples of what the register tile takes. */
typedef struct winograd {
    int64_t channels, rows, frames; /* into and out of the product; of the kernel */
    int64_t source[3], out[3];
    int64_t time_step, base[3]; /* source coordinate = output * step + base + tap */
    bool clamp_front;
    int64_t down, across, tiles; /* tiles of a frame, of everything */
    int64_t cpad, inner, pitch;  /* inner: frames * cpad; pitch of a tile's channels */
    int64_t opad;
} winograd;

static winograd winograd_make(int64_t batch, int64_t channels, int64_t rows, int64_t frames,
                              const int64_t source[3], const int64_t out[3]) {
    winograd p = {.channels = channels, .rows = rows, .frames = frames, .time_step = 1};
    for (int a = 0; a < 3; a++) {
        p.source[a] = source[a];
        p.out[a] = out[a];
    }
    p.down = conv_ceil_div(out[1], 4);
    p.across = conv_ceil_div(out[2], 4);
    p.tiles = batch * out[0] * p.down * p.across;
    p.cpad = conv_ceil_div(channels, VF_WIDTH) * VF_WIDTH;
    p.inner = frames * p.cpad;
    p.pitch = p.inner + VF_WIDTH; /* not a power of two, for the cache's sets */
    p.opad = conv_ceil_div(rows, COLUMNS) * COLUMNS;
    return p;
}

/* A stretch of tiles of one row of tiles. */
typedef struct tile_run {
    int64_t sample, frame, row, column, count;
} tile_run;

static tile_run run_at(const winograd *p, int64_t tile, int64_t end) {
    tile_run r;
    r.column = tile % p->across;
    r.row = tile / p->across % p->down;
    r.frame = tile / (p->across * p->down) % p->out[0];
    r.sample = tile / (p->across * p->down * p->out[0]);
    r.count = conv_min(conv_min(p->across - r.column, end - tile), MAX_RUN);
    return r;
}

#define P 0.70710678118654752440 /* 1 / sqrt 2 */
#define Q 1.41421356237309504880 /* sqrt 2 */

/* ---- transforms ---------------------------------------------------------------------------- */

/* The points are 0, +-P, +-Q and infinity. Lines of the transforms, from the definition: at a point
 * z the input's line holds the coefficients of the product of (x - u) over the other points u, the
 * kernel's holds the powers of z over that product at z, the output's the powers of z. */
#define P2 (P * P)
#define Q2 (Q * Q)
#define AT_P (1 / (2 * P2 * (P2 - Q2)))
#define AT_Q (1 / (2 * Q2 * (Q2 - P2)))

KIN_INLINE vf times(double factor, vf x) {
    return vf_set1((float)factor) * x;
}

/* factor * x + y */
KIN_INLINE vf times_plus(double factor, vf x, vf y) {
    return vf_fma(vf_set1((float)factor), x, y);
}

KIN_INLINE void line_input(const vf d[6], vf out[6]) {
    vf even = times_plus(-Q2, d[2], d[4]), odd = times(P, times_plus(-Q2, d[1], d[3]));
    vf even2 = times_plus(-P2, d[2], d[4]), odd2 = times(Q, times_plus(-P2, d[1], d[3]));
    out[0] = times_plus(P2 * Q2, d[0], times_plus(-P2 - Q2, d[2], d[4]));
    out[1] = even + odd;
    out[2] = even - odd;
    out[3] = even2 + odd2;
    out[4] = even2 - odd2;
    out[5] = times_plus(P2 * Q2, d[1], times_plus(-P2 - Q2, d[3], d[5]));
}

KIN_INLINE void line_output(const vf m[6], vf out[4]) {
    vf s1 = m[1] + m[2], d1 = m[1] - m[2], s2 = m[3] + m[4], d2 = m[3] - m[4];
    out[0] = m[0] + s1 + s2;
    out[1] = times_plus(Q, d2, times(P, d1));
    out[2] = times_plus(Q2, s2, times(P2, s1));
    out[3] = times_plus(Q2 * Q, d2, times_plus(P2 * P, d1, m[5]));
}

/* The transpose of line_output. */
KIN_INLINE void line_gradient(const vf y[4], vf out[6]) {
    vf even = times_plus(P2, y[2], y[0]), odd = times_plus(P2 * P, y[3], times(P, y[1]));
    vf even2 = times_plus(Q2, y[2], y[0]), odd2 = times_plus(Q2 * Q, y[3], times(Q, y[1]));
    out[0] = y[0];
    out[1] = even + odd;
    out[2] = even - odd;
    out[3] = even2 + odd2;
    out[4] = even2 - odd2;
    out[5] = y[3];
}

KIN_INLINE void line_kernel(const vf w[3], vf out[6]) {
    vf even = times_plus(AT_P, w[0], times(AT_P * P2, w[2])), odd = times(AT_P * P, w[1]);
    vf even2 = times_plus(AT_Q, w[0], times(AT_Q * Q2, w[2])), odd2 = times(AT_Q * Q, w[1]);
    out[0] = times(1 / (P2 * Q2), w[0]);
    out[1] = even + odd;
    out[2] = even - odd;
    out[3] = even2 + odd2;
    out[4] = even2 - odd2;
    out[5] = w[2];
}

/* The transpose of line_kernel. */
KIN_INLINE void line_kernel_back(const vf u[6], vf out[3]) {
    vf s1 = u[1] + u[2], d1 = u[1] - u[2], s2 = u[3] + u[4], d2 = u[3] - u[4];
    out[0] = times_plus(1 / (P2 * Q2), u[0], times_plus(AT_P, s1, times(AT_Q, s2)));
    out[1] = times_plus(AT_P * P, d1, times(AT_Q * Q, d2));
    out[2] = times_plus(AT_P * P2, s1, times_plus(AT_Q * Q2, s2, u[5]));
}

/* Rows [0, height) and columns [0, width) from (y, x) of VF_WIDTH planes, of which `lanes` exist,
 * as region[row][column][lane], with zeros outside of the plane. A region's row has room for width
 * + 4 columns. */
static void region_fill(const float *planes, const int64_t size[3], int64_t lanes, int64_t y,
                        int64_t x, int64_t height, int64_t width, float *region) {
    int64_t low = conv_min(width, conv_max(0, -x)), high = conv_min(width, size[2] - x);
    for (int64_t r = 0; r < height; r++, region += (width + 4) * VF_WIDTH) {
        bool inside = y + r >= 0 && y + r < size[1] && high > low;
        int64_t first = inside ? low : width, last = inside ? high : width, count = last - first;
        for (int64_t c = 0; c < first; c++) vf_store(region + c * VF_WIDTH, vf_zero());
        for (int64_t c = last; c < width; c++) vf_store(region + c * VF_WIDTH, vf_zero());
        if (!inside) continue;
        int64_t even = (count + 3) / 4 * 4;
        if (x + first + even <= size[2] && first + even <= width + 4) count = even;
        pack_columns(planes + (y + r) * size[2] + x + first, conv_volume(size), (int)lanes, count,
                     1.0f, region + first * VF_WIDTH, VF_WIDTH);
        for (int64_t c = last; c < width; c++) vf_store(region + c * VF_WIDTH, vf_zero());
    }
}

/* Writes a 6 x 6 tile: out[point * stride]. */
KIN_INLINE void tile_store(const vf tile[6][6], float *out, int64_t stride) {
    for (int i = 0; i < 6; i++)
        for (int j = 0; j < 6; j++) vf_store(out + (i * 6 + j) * stride, tile[i][j]);
}

KIN_INLINE void tile_input(const float *region, int64_t row_pitch, float *out, int64_t stride) {
    vf half[6][6], tile[6][6];
#pragma GCC unroll 6
    for (int j = 0; j < 6; j++) {
        vf d[6], t[6];
#pragma GCC unroll 6
        for (int i = 0; i < 6; i++) d[i] = vf_load(region + i * row_pitch + j * VF_WIDTH);
        line_input(d, t);
#pragma GCC unroll 6
        for (int i = 0; i < 6; i++) half[i][j] = t[i];
    }
#pragma GCC unroll 6
    for (int i = 0; i < 6; i++) line_input(half[i], tile[i]);
    tile_store(tile, out, stride);
}

KIN_INLINE void tile_gradient(const float *region, int64_t row_pitch, float *out, int64_t stride) {
    vf half[6][4], tile[6][6];
#pragma GCC unroll 4
    for (int j = 0; j < 4; j++) {
        vf y[4], t[6];
#pragma GCC unroll 4
        for (int i = 0; i < 4; i++) y[i] = vf_load(region + i * row_pitch + j * VF_WIDTH);
        line_gradient(y, t);
#pragma GCC unroll 6
        for (int i = 0; i < 6; i++) half[i][j] = t[i];
    }
#pragma GCC unroll 6
    for (int i = 0; i < 6; i++) line_gradient(half[i], tile[i]);
    tile_store(tile, out, stride);
}

/* One run of tiles of the source: out[point * stride + tile * pitch + channel]. */
static void run_input(const winograd *p, const tile_run *r, const float *source, float *region,
                      float *out, int64_t stride) {
    int64_t plane = conv_volume(p->source), width = 4 * r->count + 2;
    int64_t y = r->row * 4 + p->base[1], x = r->column * 4 + p->base[2];
    for (int64_t k = 0; k < p->frames; k++) {
        int64_t t = r->frame * p->time_step + p->base[0] + k;
        if (t < 0 && p->clamp_front) t = 0;
        bool inside = t >= 0 && t < p->source[0];
        for (int64_t c = 0; c < p->channels; c += VF_WIDTH) {
            const float *from = source + (r->sample * p->channels + c) * plane;
            if (inside) from += t * p->source[1] * p->source[2];
            region_fill(from, p->source, conv_min(VF_WIDTH, p->channels - c), inside ? y : -6, x, 6,
                        width, region);
            for (int64_t i = 0; i < r->count; i++)
                tile_input(region + 4 * i * VF_WIDTH, (width + 4) * VF_WIDTH,
                           out + i * p->pitch + k * p->cpad + c, stride);
        }
    }
}

/* The same of dy, with the pitch opad. */
static void run_gradient(const winograd *p, const tile_run *r, const float *dy, float *region,
                         float *out, int64_t stride) {
    int64_t plane = conv_volume(p->out), width = 4 * r->count;
    for (int64_t c = 0; c < p->rows; c += VF_WIDTH) {
        const float *from = dy + (r->sample * p->rows + c) * plane;
        region_fill(from + r->frame * p->out[1] * p->out[2], p->out,
                    conv_min(VF_WIDTH, p->rows - c), r->row * 4, r->column * 4, 4, width, region);
        for (int64_t i = 0; i < r->count; i++)
            tile_gradient(region + 4 * i * VF_WIDTH, (width + 4) * VF_WIDTH, out + i * p->opad + c,
                          stride);
    }
}

/* One run of tiles of products[point * stride + tile * opad + row] to the output. */
static void run_output(const winograd *p, const tile_run *r, const float *products, int64_t stride,
                       const float *bias, float *region, float *out) {
    int64_t plane = conv_volume(p->out), width = 4 * r->count, x = r->column * 4;
    int64_t columns = conv_min(width, p->out[2] - x);
    for (int64_t o = 0; o < p->rows; o += VF_WIDTH) {
        int lanes = (int)conv_min(VF_WIDTH, p->rows - o);
        vf shift = bias != NULL ? vf_load_n(bias + o, lanes) : vf_zero();
        for (int64_t i = 0; i < r->count; i++) {
            const float *from = products + i * p->opad + o;
            vf half[4][6];
#pragma GCC unroll 6
            for (int j = 0; j < 6; j++) {
                vf m[6], t[4];
#pragma GCC unroll 6
                for (int k = 0; k < 6; k++) m[k] = vf_load(from + (k * 6 + j) * stride);
                line_output(m, t);
#pragma GCC unroll 4
                for (int k = 0; k < 4; k++) half[k][j] = t[k];
            }
#pragma GCC unroll 4
            for (int k = 0; k < 4; k++) {
                vf t[4];
                line_output(half[k], t);
                float *to = region + (k * width + 4 * i) * VF_WIDTH;
                for (int j = 0; j < 4; j++) vf_store(to + j * VF_WIDTH, t[j] + shift);
            }
        }
        float *to = out + (r->sample * p->rows + o) * plane + r->frame * p->out[1] * p->out[2];
        for (int64_t k = 0; k < 4 && r->row * 4 + k < p->out[1]; k++)
            unpack_columns(region + k * width * VF_WIDTH, VF_WIDTH, lanes, columns, vf_set1(1), 0,
                           to + (r->row * 4 + k) * p->out[2] + x, plane);
    }
}

/* ---- products ------------------------------------------------------------------------------ */

/* tile[rows][COLUMNS] (+)= a b: a[r * row_step + k * inner_step], b[k * b_pitch]. */
KIN_INLINE void micro_kernel(int64_t inner, const float *a, int64_t row_step, int64_t inner_step,
                             const float *b, int64_t b_pitch, float *tile, int64_t pitch, bool add,
                             int rows) {
    vf sum[TILE_ROWS][2];
#pragma GCC unroll 12
    for (int r = 0; r < rows; r++) {
        sum[r][0] = add ? vf_load(tile + r * pitch) : vf_zero();
        sum[r][1] = add ? vf_load(tile + r * pitch + VF_WIDTH) : vf_zero();
    }
    for (int64_t k = 0; k < inner; k++, a += inner_step, b += b_pitch) {
        vf b0 = vf_load(b), b1 = vf_load(b + VF_WIDTH);
#pragma GCC unroll 12
        for (int r = 0; r < rows; r++) {
            vf value = vf_set1(a[r * row_step]);
            sum[r][0] = vf_fma(value, b0, sum[r][0]);
            sum[r][1] = vf_fma(value, b1, sum[r][1]);
        }
    }
#pragma GCC unroll 12
    for (int r = 0; r < rows; r++) {
        vf_store(tile + r * pitch, sum[r][0]);
        vf_store(tile + r * pitch + VF_WIDTH, sum[r][1]);
    }
}

/* products[point][tile][opad] = input[point][tile][inner] * kernel[point][opad block][inner]. */
static void point_product(const winograd *p, const float *input, const float *kernel,
                          float *products, int64_t tiles) {
    for (int64_t o = 0; o < p->opad; o += COLUMNS)
        for (int64_t i = 0; i < tiles; i += TILE_ROWS)
            micro_kernel(p->inner, input + i * p->pitch, p->pitch, 1, kernel + o * p->inner,
                         COLUMNS, products + i * p->opad + o, p->opad, false, TILE_ROWS);
}

/* Kernels [rows][channels][frames][3][3], or turned round with the first two axes swapped, as
 * [point][block of COLUMNS rows][frame, channel][row in the block]. */
static void kernel_transform(const winograd *p, const float *w, bool turned, float *out,
                             int threads) {
    int64_t stride = p->opad * p->inner, taps = p->frames * 9;
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t o = 0; o < p->opad; o += VF_WIDTH)
        for (int64_t k = 0; k < p->inner; k++) {
            int64_t frame = k / p->cpad, c = k % p->cpad;
            float taps9[9][VF_WIDTH] = {{0}};
            for (int64_t l = 0; l < VF_WIDTH && o + l < p->rows && c < p->channels; l++)
                for (int i = 0; i < 9; i++)
                    taps9[i][l] =
                        turned
                            ? w[(c * p->rows + o + l) * taps + (p->frames - 1 - frame) * 9 + 8 - i]
                            : w[((o + l) * p->channels + c) * taps + frame * 9 + i];
            vf half[6][3], tile[6][6];
            for (int j = 0; j < 3; j++) {
                vf d[3], t[6];
                for (int i = 0; i < 3; i++) d[i] = vf_load(taps9[i * 3 + j]);
                line_kernel(d, t);
                for (int i = 0; i < 6; i++) half[i][j] = t[i];
            }
            for (int i = 0; i < 6; i++) line_kernel(half[i], tile[i]);
            tile_store(tile, out + (o / COLUMNS * p->inner + k) * COLUMNS + o % COLUMNS, stride);
        }
}

/* ---- forward and gradient to the input ----------------------------------------------------- */

static size_t kernel_bytes(const winograd *p) {
    return conv_align(sizeof(float) * (size_t)(POINTS * p->opad * p->inner));
}

/* Tiles of a task: more where the transformed kernels do not stay in the cache, fewer where there
 * are few tiles. Does not change any sum. */
static int64_t tiles_at_most(const winograd *p) {
    return kernel_bytes(p) > (4u << 20) ? 2 * TASK_TILES : TASK_TILES;
}

static int64_t task_tiles(const winograd *p, int threads) {
    int64_t share = conv_ceil_div(p->tiles, 2 * (int64_t)threads);
    share = conv_ceil_div(conv_max(share, 1), TILE_ROWS) * TILE_ROWS;
    return conv_min(tiles_at_most(p), share);
}

static size_t region_bytes(void) {
    return conv_align(sizeof(float) * 6 * (4 * MAX_RUN + 6) * VF_WIDTH);
}

static size_t task_scratch(const winograd *p) {
    int64_t each = POINTS * tiles_at_most(p);
    return region_bytes() + conv_align(sizeof(float) * (size_t)(each * (p->pitch + p->opad)));
}

static void task_run(const winograd *p, int64_t first, int64_t tiles, const float *source,
                     const float *kernel, const float *bias, float *out, char *scratch) {
    int64_t end = conv_min(first + tiles, p->tiles);
    float *region = (float *)scratch;
    float *input = (float *)(scratch + region_bytes());
    float *products = input + POINTS * tiles * p->pitch;
    for (int64_t tile = first; tile < end;) {
        tile_run r = run_at(p, tile, end);
        run_input(p, &r, source, region, input + (tile - first) * p->pitch, tiles * p->pitch);
        tile += r.count;
    }
    for (int point = 0; point < POINTS && end < first + tiles; point++)
        memset(input + (point * tiles + end - first) * p->pitch, 0,
               sizeof(float) * (size_t)((first + tiles - end) * p->pitch));
    for (int point = 0; point < POINTS; point++)
        point_product(p, input + point * tiles * p->pitch, kernel + point * p->opad * p->inner,
                      products + point * tiles * p->opad, tiles);
    for (int64_t tile = first; tile < end;) {
        tile_run r = run_at(p, tile, end);
        run_output(p, &r, products + (tile - first) * p->opad, tiles * p->opad, bias, region, out);
        tile += r.count;
    }
}

static void product_run(const winograd *p, const float *source, const float *w, bool turned,
                        const float *bias, float *out, char *scratch, int threads) {
    float *kernel = (float *)scratch;
    int64_t tiles = task_tiles(p, threads);
    size_t each = task_scratch(p);
    kernel_transform(p, w, turned, kernel, threads);
#pragma omp parallel num_threads(threads)
    {
        char *mine = scratch + kernel_bytes(p) + (size_t)conv_thread() * each;
#pragma omp for schedule(dynamic, 1)
        for (int64_t first = 0; first < p->tiles; first += tiles)
            task_run(p, first, tiles, source, kernel, bias, out, mine);
    }
}

static winograd forward_make(const cpu_conv_shape *s) {
    winograd p = winograd_make(s->batch, s->cin, s->cout, s->kernel[0], s->in, s->out);
    p.time_step = s->stride[0];
    p.clamp_front = s->causal;
    for (int a = 0; a < 3; a++) p.base[a] = -s->pad[a];
    return p;
}

static winograd backward_make(const cpu_conv_shape *s) {
    winograd p = winograd_make(s->batch, s->cout, s->cin, s->kernel[0], s->out, s->in);
    for (int a = 0; a < 3; a++) p.base[a] = s->pad[a] - s->kernel[a] + 1;
    return p;
}

/* Pays where tiles are filled, and there are channels enough to share their transforms. */
static bool worth(const winograd *p) {
    int64_t used = p->out[1] * p->out[2], covered = 16 * p->down * p->across;
    return p->channels >= CONV_WINOGRAD_CHANNELS && p->rows >= CONV_WINOGRAD_CHANNELS &&
           p->tiles >= TILE_ROWS && 2 * used >= covered;
}

static bool fits(const cpu_conv_shape *s) {
    return s->kernel[1] == 3 && s->kernel[2] == 3 && s->stride[1] == 1 && s->stride[2] == 1;
}

bool KIN_ISA_NAME(cpu_winograd_forward_fits)(const cpu_conv_shape *s) {
    winograd p = forward_make(s);
    return fits(s) && worth(&p);
}

bool KIN_ISA_NAME(cpu_winograd_input_fits)(const cpu_conv_shape *s) {
    winograd p = backward_make(s);
    return fits(s) && s->stride[0] == 1 && worth(&p);
}

size_t KIN_ISA_NAME(cpu_winograd_forward_scratch)(const cpu_conv_shape *s, int threads) {
    winograd p = forward_make(s);
    return kernel_bytes(&p) + (size_t)threads * task_scratch(&p);
}

size_t KIN_ISA_NAME(cpu_winograd_input_scratch)(const cpu_conv_shape *s, int threads) {
    winograd p = backward_make(s);
    return kernel_bytes(&p) + (size_t)threads * task_scratch(&p);
}

void KIN_ISA_NAME(cpu_winograd_forward)(const cpu_conv_shape *s, const float *x, const float *w,
                                        const float *bias, float *out, void *scratch, int threads) {
    winograd p = forward_make(s);
    product_run(&p, x, w, false, bias, out, scratch, threads);
}

void KIN_ISA_NAME(cpu_winograd_input)(const cpu_conv_shape *s, const float *dy, const float *w,
                                      float *dx, void *scratch, int threads) {
    winograd p = backward_make(s);
    product_run(&p, dy, w, true, NULL, dx, scratch, threads);
}

/* ---- gradient to the weights --------------------------------------------------------------- */

/* Tiles are taken in rounds: all threads transform the tiles of a round, then share out the points
 * and blocks of channels of its products, so that every sum has one fixed order. */
static int64_t round_tiles(const winograd *p) {
    int64_t bytes = POINTS * (p->pitch + p->opad) * (int64_t)sizeof(float);
    int64_t tiles = conv_max(ROUND_BYTES / bytes / TASK_TILES, 2) * TASK_TILES;
    return conv_min(tiles, p->tiles);
}

static int64_t inner_padded(const winograd *p) {
    return conv_ceil_div(p->inner, TILE_ROWS) * TILE_ROWS;
}

static size_t sums_bytes(const winograd *p) {
    return conv_align(sizeof(float) * (size_t)(POINTS * inner_padded(p) * p->opad));
}

static size_t round_bytes(const winograd *p) {
    /* a register tile reads up to TILE_ROWS - 1 channels beyond the last tile's */
    return conv_align(sizeof(float) *
                      (size_t)(POINTS * round_tiles(p) * (p->pitch + p->opad) + TILE_ROWS));
}

bool KIN_ISA_NAME(cpu_winograd_weight_fits)(const cpu_conv_shape *s) {
    winograd p = forward_make(s);
    return fits(s) && worth(&p) && p.tiles >= TASK_TILES;
}

size_t KIN_ISA_NAME(cpu_winograd_weight_scratch)(const cpu_conv_shape *s, int threads) {
    winograd p = forward_make(s);
    return sums_bytes(&p) + round_bytes(&p) + (size_t)threads * region_bytes();
}

/* sums[channel][opad] (+)= input' gradient over the tiles, for the channels of one block. */
static void block_sums(const winograd *p, const float *input, const float *gradient, int64_t tiles,
                       int64_t first, int64_t end, bool add, float *sums) {
    for (int64_t o = 0; o < p->opad; o += COLUMNS)
        for (int64_t c = first; c < end;) {
            const float *a = input + c, *b = gradient + o;
            float *to = sums + c * p->opad + o;
            if (end - c > 8 || TILE_ROWS < 8) {
                micro_kernel(tiles, a, 1, p->pitch, b, p->opad, to, p->opad, add, TILE_ROWS);
                c += TILE_ROWS;
            } else if (end - c > 4) {
                micro_kernel(tiles, a, 1, p->pitch, b, p->opad, to, p->opad, add,
                             TILE_ROWS < 8 ? 4 : 8);
                c += 8;
            } else {
                micro_kernel(tiles, a, 1, p->pitch, b, p->opad, to, p->opad, add, 4);
                c += 4;
            }
        }
}

/* G' sums G for VF_WIDTH rows of one channel. */
static void kernel_finish(const winograd *p, const float *sums, int64_t k, int64_t o, float *dw) {
    int64_t stride = inner_padded(p) * p->opad, frame = k / p->cpad, c = k % p->cpad;
    vf half[3][6];
    for (int j = 0; j < 6; j++) {
        vf u[6], t[3];
        for (int i = 0; i < 6; i++) u[i] = vf_load(sums + (i * 6 + j) * stride + k * p->opad + o);
        line_kernel_back(u, t);
        for (int i = 0; i < 3; i++) half[i][j] = t[i];
    }
    for (int i = 0; i < 3; i++) {
        vf t[3];
        line_kernel_back(half[i], t);
        for (int j = 0; j < 3; j++)
            for (int64_t l = 0; l < VF_WIDTH && o + l < p->rows; l++)
                dw[((o + l) * p->channels + c) * p->frames * 9 + frame * 9 + i * 3 + j] = t[j][l];
    }
}

void KIN_ISA_NAME(cpu_winograd_weight)(const cpu_conv_shape *s, const float *x, const float *dy,
                                       float *dw, void *scratch, int threads) {
    enum { BLOCK = 8 * TILE_ROWS };
    winograd plan = forward_make(s);
    const winograd *p = &plan;
    int64_t round = round_tiles(p), blocks = conv_ceil_div(p->inner, BLOCK);
    int64_t stride = inner_padded(p) * p->opad;
    float *sums = scratch;
    float *gradient = (float *)((char *)scratch + sums_bytes(p));
    float *input = gradient + POINTS * round * p->opad;
    char *regions = (char *)gradient + round_bytes(p);
#pragma omp parallel num_threads(threads)
    {
        float *region = (float *)(regions + (size_t)conv_thread() * region_bytes());
        for (int64_t first = 0; first < p->tiles; first += round) {
            int64_t end = conv_min(first + round, p->tiles), count = end - first;
#pragma omp for schedule(dynamic, 1)
            for (int64_t start = first; start < end; start += MAX_RUN)
                for (int64_t tile = start; tile < conv_min(start + MAX_RUN, end);) {
                    tile_run r = run_at(p, tile, conv_min(start + MAX_RUN, end));
                    run_input(p, &r, x, region, input + (tile - first) * p->pitch,
                              round * p->pitch);
                    run_gradient(p, &r, dy, region, gradient + (tile - first) * p->opad,
                                 round * p->opad);
                    tile += r.count;
                }
#pragma omp for schedule(dynamic, 1)
            for (int64_t task = 0; task < POINTS * blocks; task++) {
                int64_t point = task / blocks, channel = task % blocks * BLOCK;
                block_sums(p, input + point * round * p->pitch, gradient + point * round * p->opad,
                           count, channel, conv_min(channel + BLOCK, p->inner), first > 0,
                           sums + point * stride);
            }
        }
#pragma omp for schedule(static)
        for (int64_t k = 0; k < p->inner; k++)
            for (int64_t o = 0; o < p->rows && k % p->cpad < p->channels; o += VF_WIDTH)
                kernel_finish(p, sums, k, o, dw);
    }
}
