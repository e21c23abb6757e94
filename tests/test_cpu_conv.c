/* The CPU's convolution kernels, each instruction set this machine has, against plain loops in
 * double: random shapes, strides, paddings and causal time; all three gradients; one to three
 * threads, which must give the same bits.
 *
 * Tolerance: 1e-5 of the largest element of each result (f32 sums of at most 2,000 terms, of which
 * the Winograd path makes about twice the rounding error of a direct sum). Outputs and scratch
 * start as NaN and are surrounded by marks.
 */
#include "backends/cpu/conv.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "backends/cpu/cpu_isa.h"

static const double tolerance = 1e-5;

enum { GUARD = 64, RESULTS = 4 };
static const float mark = 1234.5f;

static uint64_t random_state = 1;

static int64_t pick(int64_t low, int64_t high) {
    random_state = random_state * 6364136223846793005u + 1442695040888963407u;
    return low + (int64_t)((random_state >> 33) % (uint64_t)(high - low + 1));
}

/* Memory between marks; `fill` gives numbers in [-1, 1], otherwise NaN. */
static float *guarded(int64_t count, bool fill) {
    float *p = malloc(sizeof *p * (size_t)(count + 2 * GUARD));
    assert_non_null(p);
    for (int64_t i = 0; i < count + 2 * GUARD; i++) {
        bool inside = i >= GUARD && i < count + GUARD;
        p[i] = !inside ? mark : fill ? (float)pick(-1000, 1000) / 1000.0f : NAN;
    }
    return p + GUARD;
}

static void guarded_free(float *p) {
    free(p - GUARD);
}

static bool guards_intact(const float *p, int64_t count) {
    for (int i = 0; i < GUARD; i++)
        if (p[-1 - i] != mark || p[count + i] != mark) return false;
    return true;
}

static int64_t volume(const int64_t size[3]) {
    return size[0] * size[1] * size[2];
}

/* Results in the order out, dx, dw, dbias. */
static void counts_of(const cpu_conv_shape *s, int64_t out_counts[RESULTS]) {
    out_counts[0] = s->batch * s->cout * volume(s->out);
    out_counts[1] = s->batch * s->cin * volume(s->in);
    out_counts[2] = s->cout * s->cin * volume(s->kernel);
    out_counts[3] = s->cout;
}

/* The element of an input plane that output position p reads at tap k; -1: none. */
static int64_t source_of(const cpu_conv_shape *s, int64_t p, int64_t k) {
    int64_t at[3] = {p / s->out[2] / s->out[1], p / s->out[2] % s->out[1], p % s->out[2]};
    int64_t tap[3] = {k / s->kernel[2] / s->kernel[1], k / s->kernel[2] % s->kernel[1],
                      k % s->kernel[2]};
    int64_t place = 0;
    for (int a = 0; a < 3; a++) {
        int64_t i = at[a] * s->stride[a] + tap[a] - s->pad[a];
        if (a == 0 && i < 0 && s->causal) i = 0;
        if (i < 0 || i >= s->in[a]) return -1;
        place = place * s->in[a] + i;
    }
    return place;
}

static void plain_loops(const cpu_conv_shape *s, const float *x, const float *w, const float *bias,
                        const float *dy, double *const want[RESULTS]) {
    int64_t positions = volume(s->out), taps = volume(s->kernel), plane = volume(s->in);
    for (int64_t n = 0; n < s->batch; n++)
        for (int64_t o = 0; o < s->cout; o++)
            for (int64_t p = 0; p < positions; p++) {
                int64_t at = (n * s->cout + o) * positions + p;
                want[0][at] = bias != NULL ? bias[o] : 0;
                want[3][o] += dy[at];
                for (int64_t k = 0; k < taps; k++) {
                    int64_t source = source_of(s, p, k);
                    for (int64_t c = 0; c < s->cin && source >= 0; c++) {
                        int64_t i = (n * s->cin + c) * plane + source;
                        int64_t j = (o * s->cin + c) * taps + k;
                        want[0][at] += (double)x[i] * w[j];
                        want[1][i] += (double)dy[at] * w[j];
                        want[2][j] += (double)dy[at] * x[i];
                    }
                }
            }
}

/* Largest difference over the largest element; infinity where a result is not a number. */
static double error_of(const float *got, const double *want, int64_t count) {
    double difference = 0, largest = 0;
    for (int64_t i = 0; i < count; i++) {
        if (!isfinite(got[i])) return INFINITY;
        difference = fmax(difference, fabs(got[i] - want[i]));
        largest = fmax(largest, fabs(want[i]));
    }
    return largest > 0 ? difference / largest : difference;
}

static void *scratch_make(size_t size) {
    unsigned char *p = aligned_alloc(64, (size + 64 + 63) / 64 * 64);
    assert_non_null(p);
    memset(p, 0xff, size);
    memset(p + size, 0x5a, 64);
    return p;
}

static void scratch_check(unsigned char *p, size_t size) {
    for (int i = 0; i < 64; i++) assert_int_equal(p[size + (size_t)i], 0x5a);
    free(p);
}

static void run_all(const cpu_conv_functions *f, const cpu_conv_shape *s, const float *x,
                    const float *w, const float *bias, const float *dy, int threads,
                    float *const got[RESULTS]) {
    size_t size = f->forward_scratch(s, threads);
    void *scratch = scratch_make(size);
    f->forward(s, x, w, bias, got[0], scratch, threads);
    scratch_check(scratch, size);
    size = f->backward_input_scratch(s, threads);
    scratch = scratch_make(size);
    f->backward_input(s, dy, w, got[1], scratch, threads);
    scratch_check(scratch, size);
    size = f->backward_weight_scratch(s, threads);
    scratch = scratch_make(size);
    f->backward_weight(s, x, dy, got[2], scratch, threads);
    scratch_check(scratch, size);
    f->backward_bias(s, dy, got[3], threads);
}

static void compare(const cpu_conv_functions *f, const cpu_conv_shape *s, const float *x,
                    const float *w, const float *bias, const float *dy,
                    double *const want[RESULTS]) {
    int64_t counts[RESULTS];
    float *first[RESULTS], *got[RESULTS];
    counts_of(s, counts);
    for (int threads = 1; threads <= 3; threads++) {
        for (int i = 0; i < RESULTS; i++) got[i] = guarded(counts[i], false);
        run_all(f, s, x, w, bias, dy, threads, got);
        for (int i = 0; i < RESULTS; i++) {
            double error = error_of(got[i], want[i], counts[i]);
            if (!(error <= tolerance)) print_error("%s, result %d: error %g\n", f->isa, i, error);
            assert_true(error <= tolerance);
            assert_true(guards_intact(got[i], counts[i]));
            if (threads == 1) {
                first[i] = got[i];
                continue;
            }
            assert_memory_equal(first[i], got[i], sizeof(float) * (size_t)counts[i]);
            guarded_free(got[i]);
        }
    }
    for (int i = 0; i < RESULTS; i++) guarded_free(first[i]);
}

static void check_shape(const cpu_conv_shape *s, bool with_bias) {
    int64_t counts[RESULTS];
    double *want[RESULTS];
    counts_of(s, counts);
    for (int i = 0; i < RESULTS; i++) {
        want[i] = calloc((size_t)counts[i], sizeof(double));
        assert_non_null(want[i]);
    }
    float *x = guarded(counts[1], true), *w = guarded(counts[2], true);
    float *bias = guarded(counts[3], true), *dy = guarded(counts[0], true);
    const float *used = with_bias ? bias : NULL;
    plain_loops(s, x, w, used, dy, want);
    compare(&cpu_conv_functions_generic, s, x, w, used, dy, want);
#if defined(__x86_64__) || defined(__i386__)
    if (cpu_isa() >= CPU_ISA_AVX2) compare(&cpu_conv_functions_avx2, s, x, w, used, dy, want);
    if (cpu_isa() >= CPU_ISA_AVX512) compare(&cpu_conv_functions_avx512, s, x, w, used, dy, want);
#endif
    want[1][counts[1] / 2] += 1; /* negative control: one wrong element must show */
    float *got = guarded(counts[1], false);
    for (int64_t i = 0; i < counts[1]; i++) got[i] = (float)want[1][i];
    want[1][counts[1] / 2] -= 1;
    assert_true(error_of(got, want[1], counts[1]) > tolerance);
    guarded_free(got);
    guarded_free(x);
    guarded_free(w);
    guarded_free(bias);
    guarded_free(dy);
    for (int i = 0; i < RESULTS; i++) free(want[i]);
}

static void axis_random(cpu_conv_shape *s, int a) {
    s->in[a] = pick(0, 5) != 0 ? pick(1, 9) : pick(10, 36);
    s->kernel[a] = pick(1, 4);
    s->stride[a] = pick(0, 2) != 0 ? 1 : pick(1, 4);
    s->pad[a] = pick(0, 3);
    int64_t room = s->in[a] + s->pad[a] + pick(0, 3) - s->kernel[a];
    s->out[a] = (room > 0 ? room : 0) / s->stride[a] + 1;
}

static cpu_conv_shape shape_random(bool video) {
    cpu_conv_shape s = {.batch = pick(1, 3), .causal = video && pick(0, 1) == 0};
    s.cin = pick(0, 4) != 0 ? pick(1, 12) : pick(13, 70);
    s.cout = pick(0, 4) != 0 ? pick(1, 12) : pick(13, 80);
    for (int a = 0; a < 3; a++) axis_random(&s, a);
    if (!video || s.in[0] > 4) {
        s.in[0] = s.kernel[0] = s.stride[0] = s.out[0] = 1;
        s.pad[0] = 0;
    }
    return s;
}

static void test_random_images(void **state) {
    (void)state;
    for (int i = 0; i < 30; i++) {
        cpu_conv_shape s = shape_random(false);
        check_shape(&s, i % 3 != 0);
    }
}

static void test_random_videos(void **state) {
    (void)state;
    for (int i = 0; i < 20; i++) {
        cpu_conv_shape s = shape_random(true);
        check_shape(&s, i % 3 != 0);
    }
}

/* 3 x 3 kernels with many channels take the Winograd path. */
static void test_random_winograd(void **state) {
    (void)state;
    for (int i = 0; i < 12; i++) {
        cpu_conv_shape s = shape_random(i % 3 == 0);
        s.cin = pick(32, 50);
        s.cout = pick(32, 50);
        for (int a = 1; a < 3; a++) {
            s.kernel[a] = 3;
            s.stride[a] = 1;
            s.in[a] = pick(4, 15);
            s.pad[a] = pick(0, 3);
            s.out[a] = s.in[a] + s.pad[a] + pick(0, 2) - 2;
        }
        check_shape(&s, i % 2 != 0);
    }
}

static void test_chosen(void **state) {
    (void)state;
    static const cpu_conv_shape shapes[] = {
        /* whole vectors; several chunks of the inner dimension; an odd last tile */
        {2, 40, 37, {1, 16, 32}, {1, 3, 3}, {1, 16, 32}, {1, 1, 1}, {0, 1, 1}, false},
        /* SD VAE's downsampling: padded at right and bottom only */
        {1, 33, 20, {1, 12, 14}, {1, 3, 3}, {1, 6, 7}, {1, 2, 2}, {0, 0, 0}, false},
        /* one pixel; no room but padding */
        {1, 1, 1, {1, 1, 1}, {1, 3, 3}, {1, 1, 1}, {1, 1, 1}, {0, 1, 1}, false},
        /* causal, stride 2 in time */
        {1, 5, 6, {5, 6, 7}, {3, 3, 3}, {3, 3, 4}, {2, 2, 2}, {2, 0, 0}, true},
        /* causal with more frames repeated than there are */
        {1, 34, 33, {2, 8, 8}, {4, 3, 3}, {2, 8, 8}, {1, 1, 1}, {3, 1, 1}, true},
        /* patches of 2 into many channels */
        {2, 4, 100, {1, 8, 8}, {1, 2, 2}, {1, 4, 4}, {1, 2, 2}, {0, 0, 0}, false},
    };
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) check_shape(&shapes[i], true);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_chosen),
        cmocka_unit_test(test_random_images),
        cmocka_unit_test(test_random_videos),
        cmocka_unit_test(test_random_winograd),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
