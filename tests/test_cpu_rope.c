/* The CPU's RoPE kernels, each instruction set this machine has, against plain loops in double.
 *
 * Tolerance: 4e-7 of the largest element (an element is the sum of two products). Outputs and all
 * memory between and around the operands start as NaN.
 */
#include "backends/cpu/rope.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static const double tolerance = 4e-7;

static uint64_t random_state = 1;

static int64_t random_below(int64_t n) {
    random_state = random_state * 6364136223846793005u + 1442695040888963407u;
    return (int64_t)((random_state >> 33) % (uint64_t)n);
}

typedef struct instruction_set {
    const char *name;
    const cpu_rope_functions *functions;
} instruction_set;

static int instruction_sets(instruction_set out[3]) {
    int n = 0;
    out[n++] = (instruction_set){"generic", &cpu_rope_functions_generic};
#if defined(__x86_64__) || defined(__i386__)
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
        out[n++] = (instruction_set){"avx2", &cpu_rope_functions_avx2};
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq"))
        out[n++] = (instruction_set){"avx512", &cpu_rope_functions_avx512};
#endif
    return n;
}

static double as_bf16(double x, int64_t wanted) {
    return wanted ? kin_bf16_to_f32(kin_f32_to_bf16((float)x)) : x;
}

/* Element d of the turned head at `x`, from its token's positions, which lie `tokens` apart. */
static double expected(const kin_rope_attrs *attrs, int64_t size, const float *x,
                       const float *positions, int64_t tokens, int64_t d) {
    const int64_t part = size / attrs->axes, axis = d / part, e = d % part;
    const int64_t i = attrs->interleaved ? e / 2 : e % (part / 2);
    const int64_t first = axis * part + (attrs->interleaved ? 2 * i : i);
    const int64_t second = first + (attrs->interleaved ? 1 : part / 2);
    const double angle = as_bf16(positions[axis * tokens] / attrs->scales[axis] *
                                     pow(attrs->theta, -2.0 * (double)i / (double)part),
                                 attrs->bf16_table);
    const double c = as_bf16(cos(angle), attrs->bf16_table);
    const double s = as_bf16(sin(angle), attrs->bf16_table) * (attrs->inverse ? -1 : 1);
    return d == first ? x[first] * c - x[second] * s : x[second] * c + x[first] * s;
}

typedef struct problem {
    kin_rope_attrs attrs;
    cpu_rope_args args;
    float *x, *y, *positions;
    size_t x_size, y_size;
} problem;

static float *filled_with_nan(size_t size) {
    float *memory = malloc(size * sizeof *memory);
    assert_non_null(memory);
    for (size_t i = 0; i < size; i++) memory[i] = NAN;
    return memory;
}

/* Strides with the axes in a random order and gaps; returns the size. */
static int64_t random_strides(const int64_t dims[4], int64_t size, int64_t out[4]) {
    int order[4] = {0, 1, 2, 3};
    int64_t stride = size + random_below(3);
    for (int i = 3; i > 0; i--) {
        const int j = (int)random_below(i + 1), swap = order[i];
        order[i] = order[j];
        order[j] = swap;
    }
    for (int i = 3; i >= 0; i--) {
        out[order[i]] = stride;
        stride = stride * dims[order[i]] + random_below(5);
    }
    return stride + 3;
}

static problem problem_make(void) {
    static const int64_t sizes[] = {72, 2, 10, 16, 24, 30, 64, 96, 6, 36, 128, 12};
    problem p = {0};
    p.attrs = (kin_rope_attrs){.theta = random_below(2) ? 10000 : 500,
                               .scales = {1, 1, 1},
                               .axes = random_below(2) ? 1 : 3,
                               .interleaved = random_below(2),
                               .inverse = random_below(2),
                               .bf16_table = random_below(4) == 0};
    for (int a = 0; a < 3; a++)
        if (random_below(2)) p.attrs.scales[a] = 0.5 + 0.25 * (double)random_below(8);
    int64_t size = sizes[random_below(12)];
    if (size % (2 * p.attrs.axes) != 0) size = 6 * (1 + random_below(9));
    const int64_t dims[4] = {1 + random_below(3), 1 + random_below(3), 1 + random_below(20),
                             1 + random_below(4)};
    int64_t xs[4], ys[4];
    p.x_size = (size_t)random_strides(dims, size, xs);
    p.y_size = (size_t)random_strides(dims, size, ys);
    p.x = filled_with_nan(p.x_size);
    p.y = filled_with_nan(p.y_size);
    p.positions = filled_with_nan((size_t)(dims[2] * p.attrs.axes));
    for (int64_t i = 0; i < dims[2] * p.attrs.axes; i++)
        p.positions[i] = random_below(3) ? (float)random_below(100)
                                         : (float)random_below(1000000) * 0.37f - 1000.0f;
    p.args = (cpu_rope_args){.b0 = dims[0],
                             .b1 = dims[1],
                             .tokens = dims[2],
                             .heads = dims[3],
                             .head_size = size,
                             .x = p.x + 1,
                             .x_b0 = xs[0],
                             .x_b1 = xs[1],
                             .x_n = xs[2],
                             .x_h = xs[3],
                             .y = p.y + 2,
                             .y_b0 = ys[0],
                             .y_b1 = ys[1],
                             .y_n = ys[2],
                             .y_h = ys[3],
                             .positions = p.positions,
                             .threads = 1 + (int)random_below(3)};
    return p;
}

static void problem_free(problem *p) {
    free(p->x);
    free(p->y);
    free(p->positions);
}

static void problem_run(const cpu_rope_functions *f, problem *p) {
    p->args.attrs = &p->attrs;
    const size_t size = f->scratch_bytes(&p->args);
    p->args.scratch = malloc(size);
    assert_non_null(p->args.scratch);
    memset(p->args.scratch, 0xff, size);
    f->run(&p->args);
    free(p->args.scratch);
}

/* Offsets of element e (over b0, b1, n, h, d) in x and y; returns the token. */
static int64_t locate(const cpu_rope_args *a, int64_t e, int64_t *out_x, int64_t *out_y) {
    const int64_t d = e % a->head_size, h = e / a->head_size % a->heads;
    const int64_t n = e / a->head_size / a->heads % a->tokens;
    const int64_t b = e / a->head_size / a->heads / a->tokens, i1 = b % a->b1, i0 = b / a->b1;
    *out_x = i0 * a->x_b0 + i1 * a->x_b1 + n * a->x_n + h * a->x_h + d;
    *out_y = i0 * a->y_b0 + i1 * a->y_b1 + n * a->y_n + h * a->y_h + d;
    return n;
}

static int64_t element_count(const cpu_rope_args *a) {
    return a->b0 * a->b1 * a->tokens * a->heads * a->head_size;
}

static void fill(problem *p) {
    for (int64_t e = 0; e < element_count(&p->args); e++) {
        int64_t x, y;
        locate(&p->args, e, &x, &y);
        p->x[1 + x] = (float)(random_below(2001) - 1000) * 1e-3f;
    }
}

/* Largest difference; infinity where memory around was touched. `y` holds the results. */
static double error_of(const problem *p) {
    double error = 0;
    size_t touched = 0;
    for (int64_t e = 0; e < element_count(&p->args); e++) {
        int64_t x, y;
        const int64_t n = locate(&p->args, e, &x, &y), d = e % p->args.head_size;
        const double want = expected(&p->attrs, p->args.head_size, p->args.x + x - d,
                                     p->positions + n, p->args.tokens, d);
        const double difference = fabs(p->args.y[y] - want);
        if (!(difference <= error)) error = isnan(difference) ? INFINITY : difference;
    }
    for (size_t i = 0; i < p->y_size; i++) touched += !isnan(p->y[i]);
    return touched == (size_t)element_count(&p->args) ? error : INFINITY;
}

static void random_shapes(void **state) {
    (void)state;
    instruction_set sets[3];
    const int count = instruction_sets(sets);
    for (int s = 0; s < count; s++)
        for (int round = 0; round < 200; round++) {
            random_state = (uint64_t)round * 977 + 5;
            problem p = problem_make();
            fill(&p);
            problem_run(sets[s].functions, &p);
            /* a rounding to bf16 may fall on the other side */
            const double allowed = p.attrs.bf16_table ? 8e-3 : tolerance, error = error_of(&p);
            if (!(error <= allowed))
                fail_msg("%s, round %d, D %d, %d axes: off by %g", sets[s].name, round,
                         (int)p.args.head_size, (int)p.attrs.axes, error);
            problem_free(&p);
        }
}

/* In place, and back with the inverse: the same numbers again. */
static void there_and_back_in_place(void **state) {
    (void)state;
    instruction_set sets[3];
    const int count = instruction_sets(sets);
    for (int s = 0; s < count; s++)
        for (int round = 0; round < 20; round++) {
            random_state = (uint64_t)round * 31 + 7;
            problem p = problem_make();
            fill(&p);
            p.attrs.bf16_table = 0;
            float *before = malloc(p.x_size * sizeof *before);
            assert_non_null(before);
            memcpy(before, p.x, p.x_size * sizeof *before);
            p.args.y = p.x + 1;
            p.args.y_b0 = p.args.x_b0;
            p.args.y_b1 = p.args.x_b1;
            p.args.y_n = p.args.x_n;
            p.args.y_h = p.args.x_h;
            problem_run(sets[s].functions, &p);
            p.attrs.inverse = !p.attrs.inverse;
            problem_run(sets[s].functions, &p);
            for (size_t i = 0; i < p.x_size; i++)
                if (isnan(before[i])) assert_true(isnan(p.x[i]));
                else assert_true(fabs(before[i] - p.x[i]) <= 2 * tolerance);
            free(before);
            problem_free(&p);
        }
}

/* The comparison can fail: the other layout of pairs is seen. */
static void wrong_layout_is_seen(void **state) {
    (void)state;
    random_state = 11;
    problem p = problem_make();
    while (p.args.head_size / p.attrs.axes < 4) {
        problem_free(&p);
        p = problem_make();
    }
    fill(&p);
    p.attrs.interleaved = !p.attrs.interleaved;
    problem_run(&cpu_rope_functions_generic, &p);
    p.attrs.interleaved = !p.attrs.interleaved;
    assert_true(error_of(&p) > 1e-3);
    problem_free(&p);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(random_shapes),
        cmocka_unit_test(there_and_back_in_place),
        cmocka_unit_test(wrong_layout_is_seen),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
