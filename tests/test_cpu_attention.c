/* The CPU's attention kernels, each instruction set this machine has, against plain loops in
 * double: random shapes, strides and offsets, lengths, biases, and the gradients of all of them.
 *
 * Tolerance: 3e-5 of the largest element of each result (f32 sums of at most 600 terms). Outputs
 * start as NaN, and so does all memory between and around the operands, so that an element that is
 * not written, or one that is read or written where it should not be, shows.
 */
#include "backends/cpu/attention.h"

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

static const double tolerance = 3e-5;
static const double log2_e = 1.4426950408889634;

#ifndef ROUNDS
#define ROUNDS 40
#endif

typedef struct instruction_set {
    const char *name;
    const cpu_attention_functions *functions;
} instruction_set;

static int instruction_sets(instruction_set out[3]) {
    int n = 0;
    out[n++] = (instruction_set){"generic", &cpu_attention_functions_generic};
#if defined(__x86_64__) || defined(__i386__)
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
        out[n++] = (instruction_set){"avx2", &cpu_attention_functions_avx2};
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq"))
        out[n++] = (instruction_set){"avx512", &cpu_attention_functions_avx512};
#endif
    return n;
}

static uint64_t random_state;

static uint32_t random_bits(void) {
    random_state = random_state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(random_state >> 33);
}

static int64_t random_below(int64_t n) {
    return (int64_t)(random_bits() % (uint32_t)n);
}

static double random_normal(void) {
    double sum = 0;
    for (int i = 0; i < 12; i++) sum += random_bits() / 2147483648.0;
    return sum - 6;
}

/* A tensor of up to 5 axes somewhere in a larger piece of memory that is otherwise NaN. */
typedef struct tensor {
    int rank;
    int64_t dims[5], strides[5];
    float *memory, *data;
    size_t size;
    double *values; /* dense */
    double *terms;  /* dense: sums of squared terms, for sums that cancel */
} tensor;

static int64_t tensor_count(const tensor *t) {
    int64_t n = 1;
    for (int i = 0; i < t->rank; i++) n *= t->dims[i];
    return n;
}

static int64_t tensor_at(const tensor *t, int64_t index) {
    int64_t at = 0;
    for (int i = t->rank - 1; i >= 0; i--) {
        at += index % t->dims[i] * t->strides[i];
        index /= t->dims[i];
    }
    return at;
}

/* Order of the axes in memory: any; the last one stays last; or that of tokens in a packed qkv,
 * [B0, N, B1, .., H, D]. */
typedef enum layout { LAYOUT_ANY, LAYOUT_ROWS, LAYOUT_TOKENS } layout;

/* Random order, within the layout, and random gaps. */
static tensor tensor_make(int rank, const int64_t *dims, layout kind) {
    const bool rows = kind != LAYOUT_ANY, tokens = kind == LAYOUT_TOKENS;
    tensor t = {.rank = rank};
    int order[5] = {0, 1, 2, 3, 4};
    for (int i = (rows ? rank - 1 : rank) - 1; i > 0; i--) {
        const int j = (int)random_below(i + 1), swap = order[i];
        order[i] = order[j];
        order[j] = swap;
    }
    if (tokens) memcpy(order, (const int[5]){0, 2, 1, 3, 4}, sizeof order);
    int64_t stride = 1;
    for (int i = rank - 1; i >= 0; i--) {
        t.dims[order[i]] = dims[order[i]];
        t.strides[order[i]] = stride;
        stride *= dims[order[i]];
        if (random_below(2) && !(tokens && i > 3))
            stride += random_below(4) * (i == rank - 1 ? 1 : 3);
    }
    const size_t before = (size_t)random_below(40), after = (size_t)random_below(3);
    t.size = before + (size_t)stride + after;
    t.memory = malloc(t.size * sizeof *t.memory);
    t.values = calloc((size_t)tensor_count(&t), sizeof *t.values);
    t.terms = calloc((size_t)tensor_count(&t), sizeof *t.terms);
    assert_true(t.memory && t.values && t.terms);
    for (size_t i = 0; i < t.size; i++) t.memory[i] = NAN;
    t.data = t.memory + before;
    return t;
}

static void tensor_fill(tensor *t, double scale) {
    for (int64_t i = 0; i < tensor_count(t); i++) {
        const float x = (float)(random_normal() * scale);
        t->data[tensor_at(t, i)] = x;
        t->values[i] = x;
    }
}

static void tensor_free(tensor *t) {
    free(t->memory);
    free(t->values);
    free(t->terms);
}

/* Largest difference from `values` over the largest of those or of the roots of
 * `terms`; infinity if any element is not
 * finite where it should be, or if the memory around was touched. */
static double tensor_error(const tensor *t) {
    double difference = 0, largest = 0.1; /* inputs are of order 1; with one key dq is 0 */
    int64_t numbers = 0, touched = 0;
    for (int64_t i = 0; i < tensor_count(t); i++) {
        const float got = t->data[tensor_at(t, i)];
        if (isinf(t->values[i]) && got == (float)t->values[i]) continue;
        if (!isfinite(got)) return INFINITY;
        difference = fmax(difference, fabs(got - t->values[i]));
        largest = fmax(largest, fmax(fabs(t->values[i]), sqrt(t->terms[i])));
    }
    for (size_t i = 0; i < t->size; i++) touched += !isnan(t->memory[i]);
    numbers = tensor_count(t);
    return touched == numbers ? difference / largest : INFINITY;
}

typedef struct problem {
    int64_t b0, b1, n, m, h, d;
    double scale;
    tensor q, k, v, o, d_o, dq, dk, dv, lse, d_lse, bias, dbias;
    bool has_d_lse;
    int32_t *lengths;
    bool has_bias;
} problem;

static double dot(const double *a, const double *b, int64_t n) {
    double sum = 0;
    for (int64_t i = 0; i < n; i++) sum += a[i] * b[i];
    return sum;
}

/* Index of the bias for (i0, i1, h, q, k) in its dense values. */
static int64_t bias_index(const problem *x, const int64_t at[5]) {
    int64_t index = 0;
    for (int i = 0; i < 5; i++)
        index = index * x->bias.dims[i] + (x->bias.dims[i] == 1 ? 0 : at[i]);
    return index;
}

static void reference_row(problem *x, int64_t i0, int64_t i1, int64_t h, int64_t i, double *p) {
    const int64_t d = x->d, batch = i0 * x->b1 + i1;
    const int64_t keys = x->lengths ? x->lengths[i0] : x->m;
    const int64_t row = ((batch * x->n + i) * x->h + h) * d;
    double top = -INFINITY, sum = 0;
    for (int64_t j = 0; j < keys; j++) {
        const int64_t at[5] = {i0, i1, h, i, j};
        p[j] =
            x->scale * dot(x->q.values + row, x->k.values + ((batch * x->m + j) * x->h + h) * d, d);
        if (x->has_bias) p[j] += x->bias.values[bias_index(x, at)];
        top = fmax(top, p[j]);
    }
    const double base = isfinite(top) ? top : 0;
    for (int64_t j = 0; j < keys; j++) sum += p[j] = exp(p[j] - base);
    x->lse.values[(batch * x->h + h) * x->n + i] = sum > 0 ? (base + log(sum)) * log2_e : -INFINITY;
    for (int64_t c = 0; c < d; c++) x->o.values[row + c] = 0;
    for (int64_t j = 0; j < keys; j++) {
        p[j] = sum > 0 ? p[j] / sum : 0;
        const double *v = x->v.values + ((batch * x->m + j) * x->h + h) * d;
        for (int64_t c = 0; c < d; c++) x->o.values[row + c] += p[j] * v[c];
    }
    const double *d_o = x->d_o.values + row;
    double delta = dot(d_o, x->o.values + row, d);
    if (x->has_d_lse) delta -= x->d_lse.values[(batch * x->h + h) * x->n + i] * log2_e;
    for (int64_t j = 0; j < keys; j++) {
        const int64_t key = ((batch * x->m + j) * x->h + h) * d;
        const double dp = dot(d_o, x->v.values + key, d), ds = p[j] * (dp - delta);
        const double term = pow(p[j] * (fabs(dp) + fabs(delta)), 2);
        const int64_t at[5] = {i0, i1, h, i, j};
        if (x->has_bias) {
            x->dbias.values[bias_index(x, at)] += ds;
            x->dbias.terms[bias_index(x, at)] += term;
        }
        for (int64_t c = 0; c < d; c++) {
            x->dq.values[row + c] += x->scale * ds * x->k.values[key + c];
            x->dk.values[key + c] += x->scale * ds * x->q.values[row + c];
            x->dq.terms[row + c] += term * pow(x->scale * x->k.values[key + c], 2);
            x->dk.terms[key + c] += term * pow(x->scale * x->q.values[row + c], 2);
            x->dv.values[key + c] += p[j] * d_o[c];
        }
    }
}

static problem problem_make(void) {
    static const int64_t sizes[] = {1, 2, 3, 7, 8, 15, 16, 17, 31, 33, 48, 64, 65, 100, 129, 150};
    static const int64_t head_sizes[] = {72, 5, 8, 16, 64, 1, 3, 24, 33, 80, 96, 17, 128, 4};
    problem x = {0};
    x.b0 = 1 + random_below(3);
    x.b1 = 1 + random_below(3);
    x.h = 1 + random_below(3);
    x.n = sizes[random_below(sizeof sizes / sizeof *sizes)];
    x.m = sizes[random_below(sizeof sizes / sizeof *sizes)];
    x.d = head_sizes[random_below(sizeof head_sizes / sizeof *head_sizes)];
    if (random_below(20) == 0) x.n = 300 + random_below(300), x.b0 = x.b1 = 1;
    if (random_below(20) == 0) x.m = 300 + random_below(300), x.b0 = x.b1 = 1;
    x.scale = random_below(8) ? 1 / sqrt((double)x.d) : -0.3;
    x.scale = (float)x.scale;
    layout kind = random_below(3) ? LAYOUT_ROWS : LAYOUT_TOKENS;
    if (random_below(4) == 0) { /* attention over frames */
        kind = LAYOUT_TOKENS;
        x.n = 1 + random_below(random_below(2) ? 8 : 40);
        x.m = random_below(2) ? x.n : 1 + random_below(8);
        x.b1 = 2 + random_below(3);
        x.h = 2 + random_below(3);
    }
    const int64_t nd[5] = {x.b0, x.b1, x.n, x.h, x.d}, md[5] = {x.b0, x.b1, x.m, x.h, x.d};
    const int64_t ld[4] = {x.b0, x.b1, x.h, x.n};
    x.q = tensor_make(5, nd, kind);
    x.o = tensor_make(5, nd, kind);
    x.d_o = tensor_make(5, nd, kind);
    x.dq = tensor_make(5, nd, kind);
    x.k = tensor_make(5, md, kind);
    x.v = tensor_make(5, md, kind);
    x.dk = tensor_make(5, md, kind);
    x.dv = tensor_make(5, md, kind);
    x.lse = tensor_make(4, ld, LAYOUT_ROWS);
    x.d_lse = tensor_make(4, ld, LAYOUT_ROWS);
    for (int i = 3, stride = 1; i >= 0; i--) {
        x.lse.strides[i] = x.d_lse.strides[i] = stride;
        stride *= (int)ld[i];
    }
    tensor_fill(&x.q, 1.5);
    tensor_fill(&x.k, 1.5);
    tensor_fill(&x.v, 1);
    tensor_fill(&x.d_o, 1);
    x.has_d_lse = random_below(4) == 0;
    if (x.has_d_lse) tensor_fill(&x.d_lse, 1);
    if (random_below(3) == 0) {
        x.lengths = malloc((size_t)x.b0 * sizeof *x.lengths);
        assert_non_null(x.lengths);
        for (int64_t i = 0; i < x.b0; i++) {
            x.lengths[i] =
                (int32_t)(random_below(3) ? random_below(x.m + 1) : x.m * random_below(2));
            const int64_t row = x.h * x.d;
            for (int64_t j = 0; j < x.b1 * x.m * row; j++)
                if (j / row % x.m >= x.lengths[i]) {
                    const int64_t at = i * x.b1 * x.m * row + j;
                    x.k.data[tensor_at(&x.k, at)] = NAN;
                    x.v.data[tensor_at(&x.v, at)] = NAN;
                }
        }
    }
    if (random_below(3) == 0) {
        const int64_t all[5] = {x.b0, x.b1, x.h, x.n, x.m};
        int64_t dims[5];
        for (int i = 0; i < 5; i++) dims[i] = random_below(2) ? 1 : all[i];
        x.has_bias = true;
        x.bias = tensor_make(5, dims, random_below(2) ? LAYOUT_ROWS : LAYOUT_ANY);
        x.dbias = tensor_make(5, dims, random_below(2) ? LAYOUT_ROWS : LAYOUT_ANY);
        tensor_fill(&x.bias, 2);
        for (int64_t i = 0; i < tensor_count(&x.bias); i++)
            if (random_below(6) == 0) {
                x.bias.data[tensor_at(&x.bias, i)] = -INFINITY;
                x.bias.values[i] = -INFINITY;
            }
    }
    double *p = malloc((size_t)x.m * sizeof *p);
    assert_non_null(p);
    for (int64_t i = 0; i < x.b0 * x.b1 * x.h * x.n; i++)
        reference_row(&x, i / (x.b1 * x.h * x.n), i / (x.h * x.n) % x.b1, i / x.n % x.h, i % x.n,
                      p);
    free(p);
    return x;
}

static void problem_free(problem *x) {
    tensor *all[] = {&x->q,  &x->k,  &x->v,   &x->o,     &x->d_o,  &x->dq,
                     &x->dk, &x->dv, &x->lse, &x->d_lse, &x->bias, &x->dbias};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) tensor_free(all[i]);
    free(x->lengths);
}

static cpu_attention_input input_of(const tensor *t) {
    return (cpu_attention_input){t->data, t->strides[0], t->strides[1], t->strides[2],
                                 t->strides[3]};
}

static cpu_attention_output output_of(const tensor *t) {
    return (cpu_attention_output){t->data, t->strides[0], t->strides[1], t->strides[2],
                                  t->strides[3]};
}

static cpu_attention_args problem_args(const problem *x, int threads) {
    cpu_attention_args a = {.b0 = x->b0,
                            .b1 = x->b1,
                            .heads = x->h,
                            .queries = x->n,
                            .keys = x->m,
                            .head_size = x->d,
                            .scale = (float)x->scale,
                            .lengths = x->lengths,
                            .q = input_of(&x->q),
                            .k = input_of(&x->k),
                            .v = input_of(&x->v),
                            .o = output_of(&x->o),
                            .lse = x->lse.data,
                            .saved_o = input_of(&x->o),
                            .d_o = input_of(&x->d_o),
                            .d_lse = x->has_d_lse ? x->d_lse.data : NULL,
                            .saved_lse = x->lse.data,
                            .dq = output_of(&x->dq),
                            .dk = output_of(&x->dk),
                            .dv = output_of(&x->dv),
                            .threads = threads};
    if (x->has_bias) {
        int64_t s[5], t[5];
        for (int i = 0; i < 5; i++) {
            s[i] = x->bias.dims[i] == 1 ? 0 : x->bias.strides[i];
            t[i] = x->bias.dims[i] == 1 ? 0 : x->dbias.strides[i];
        }
        a.bias = (cpu_attention_bias){x->bias.data, s[0], s[1], s[2], s[3], s[4]};
        a.dbias = (cpu_attention_bias_gradient){x->dbias.data, t[0], t[1], t[2], t[3], t[4]};
    }
    return a;
}

/* Runs forward and backward with exactly the scratch asked for. */
static void problem_run(const cpu_attention_functions *f, cpu_attention_args *a) {
    for (int pass = 0; pass < 2; pass++) {
        const size_t size = f->scratch_bytes(a, pass);
        unsigned char *memory = malloc(size + 16);
        assert_non_null(memory);
        memset(memory, 0xff, size + 16); /* NaN */
        a->scratch = memory;
        if (pass) f->backward(a);
        else f->forward(a);
        for (int i = 0; i < 16; i++) assert_int_equal(memory[size + (size_t)i], 0xff);
        free(memory);
    }
}

static void random_shapes(void **state) {
    (void)state;
    instruction_set sets[3];
    const int count = instruction_sets(sets);
    for (int s = 0; s < count; s++) {
        for (int round = 0; round < ROUNDS; round++) {
            random_state = (uint64_t)round * 977 + 5;
            problem x = problem_make();
            cpu_attention_args a = problem_args(&x, 1 + round % 2);
            problem_run(sets[s].functions, &a);
            const tensor *results[] = {&x.o, &x.lse, &x.dq, &x.dk, &x.dv, &x.dbias};
            static const char *const names[] = {"o", "lse", "dq", "dk", "dv", "dbias"};
            for (int i = 0; i < (x.has_bias ? 6 : 5); i++) {
                const double error = tensor_error(results[i]);
                if (!(error <= tolerance))
                    fail_msg("%s, round %d, [%d,%d] N %d, %d H %d D %d: %s is off by %g",
                             sets[s].name, round, (int)x.b0, (int)x.b1, (int)x.n, (int)x.m,
                             (int)x.h, (int)x.d, names[i], error);
            }
            problem_free(&x);
        }
    }
}

/* Bits, not only values, are the same for one thread and for three. */
static void same_for_any_threads(void **state) {
    (void)state;
    instruction_set sets[3];
    const int count = instruction_sets(sets);
    for (int s = 0; s < count; s++)
        for (int round = 0; round < 20; round++) {
            float *kept[6];
            for (int threads = 1; threads <= 3; threads += 2) {
                random_state = (uint64_t)round * 31 + 7;
                problem x = problem_make();
                cpu_attention_args a = problem_args(&x, threads);
                problem_run(sets[s].functions, &a);
                const tensor *results[] = {&x.o, &x.lse, &x.dq, &x.dk, &x.dv, &x.dbias};
                for (int i = 0; i < (x.has_bias ? 6 : 5); i++) {
                    const size_t bytes = results[i]->size * sizeof(float);
                    if (threads == 1) {
                        kept[i] = malloc(bytes);
                        assert_non_null(kept[i]);
                        memcpy(kept[i], results[i]->memory, bytes);
                    } else {
                        assert_memory_equal(kept[i], results[i]->memory, bytes);
                        free(kept[i]);
                    }
                }
                problem_free(&x);
            }
        }
}

/* The comparison above can fail: a wrong scale is seen. */
static void wrong_scale_is_seen(void **state) {
    (void)state;
    random_state = 3;
    problem x = problem_make();
    while (x.m < 8 || x.d < 4) {
        problem_free(&x);
        x = problem_make();
    }
    cpu_attention_args a = problem_args(&x, 1);
    a.scale *= 1.001f;
    problem_run(&cpu_attention_functions_generic, &a);
    assert_true(tensor_error(&x.o) > tolerance);
    assert_true(tensor_error(&x.dq) > tolerance);
    problem_free(&x);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(random_shapes),
        cmocka_unit_test(same_for_any_threads),
        cmocka_unit_test(wrong_scale_is_seen),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
