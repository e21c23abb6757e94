/* kinora-opencl-measure BACKENDS ROUNDS [CASE]...: rates of the OpenCL backend's own kernels, and
 * of CLBlast in their place, in one process, the candidates in turn.
 *
 * Each candidate is a context of its own with another setting opencl.product. A run's time is the
 * processor time of the whole process (PoCL computes in it), so that other work on the machine
 * disturbs it little, and the wall time. The first run is given apart: it contains the compiling,
 * unless KINORA_CACHE names a folder with compiled programs or the driver keeps its own
 * (POCL_CACHE_DIR: give it an empty folder). */
#define _POSIX_C_SOURCE 200809L

#include "ops/attention.h"
#include "ops/conv.h"
#include "ops/matmul.h"
#include "ops/views.h"
#include "runtime/device.h"
#include "runtime/plan.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { MAX_ROUNDS = 64, CANDIDATES = 3, INPUTS = 3 };

static const char *const products[CANDIDATES] = {"panels", "tiles", "clblast"};

typedef enum case_kind { MATMUL, LINEAR, ATTENTION, ATTENTION_GRAD, CONV, CONV_GRAD } case_kind;

typedef struct measured_case {
    const char *name;
    case_kind kind;
    kin_dtype dtype;
    int64_t sizes[4]; /* rows, columns, sum; or tokens, heads, head size; or channels, rows */
    unsigned candidates;
} measured_case;

static const measured_case cases[] = {
    {"matmul-512", MATMUL, KIN_F32, {512, 512, 512}, 7},
    {"matmul-1024", MATMUL, KIN_F32, {1024, 1024, 1024}, 7},
    {"matmul-transposed", MATMUL, KIN_F32, {4608, 1152, 4096}, 1},
    {"linear-proj", LINEAR, KIN_F32, {4096, 1152, 1152}, 5},
    {"linear-fc1", LINEAR, KIN_F32, {4096, 4608, 1152}, 1},
    {"linear-fc2", LINEAR, KIN_F32, {4096, 1152, 4608}, 1},
    {"linear-text", LINEAR, KIN_F32, {120, 4096, 1152}, 5},
    {"linear-row", LINEAR, KIN_F32, {1, 6912, 1152}, 5},
    {"linear-proj-bf16", LINEAR, KIN_BF16, {4096, 1152, 1152}, 1},
    {"linear-proj-f16", LINEAR, KIN_F16, {4096, 1152, 1152}, 1},
    {"attention-1024", ATTENTION, KIN_F32, {1, 1024, 16, 72}, 3},
    {"attention-256", ATTENTION, KIN_F32, {16, 256, 16, 72}, 1},
    {"attention-temporal", ATTENTION, KIN_F32, {256, 16, 16, 72}, 1},
    {"attention-grad-1024", ATTENTION_GRAD, KIN_F32, {1, 1024, 16, 72}, 1},
    {"conv-128-64", CONV, KIN_F32, {1, 128, 64, 64}, 3},
    {"conv-64-32", CONV, KIN_F32, {16, 64, 32, 32}, 1},
    {"conv-grad-128-64", CONV_GRAD, KIN_F32, {1, 128, 64, 64}, 1},
};

enum { CASES = sizeof cases / sizeof *cases };

typedef struct candidate {
    kin_context *context;
    kin_backends *backends;
    kin_device *device;
    kin_graph *graph;
    kin_plan *plan;
    double first, cpu[MAX_ROUNDS], wall[MAX_ROUNDS];
} candidate;

static double seconds(clockid_t clock) {
    struct timespec now;
    clock_gettime(clock, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

static kin_tensor input(kin_graph *g, const char *name, kin_dtype dtype, int rank,
                        const int64_t *dims) {
    return kin_input(g, name, dtype, rank, dims);
}

static void append(kin_graph *g, const measured_case *c) {
    static const int64_t kernel[3] = {1, 3, 3};
    const kin_conv_attrs same = {{1, 1, 1}, {0, 1, 1}, {0, 1, 1}, 0};
    const int64_t *n = c->sizes;
    kin_tensor y = KIN_NONE;
    if (c->kind == MATMUL && strstr(c->name, "transposed") != NULL) {
        kin_tensor a = input(g, "a", c->dtype, 2, (int64_t[]){n[2], n[0]});
        kin_tensor b = input(g, "b", c->dtype, 2, (int64_t[]){n[2], n[1]});
        y = kin_matmul(g, kin_transpose(g, a, 0, 1), b);
    } else if (c->kind == MATMUL) {
        kin_tensor a = input(g, "a", c->dtype, 2, (int64_t[]){n[0], n[2]});
        y = kin_matmul(g, a, input(g, "b", c->dtype, 2, (int64_t[]){n[2], n[1]}));
    } else if (c->kind == LINEAR) {
        kin_tensor a = input(g, "a", c->dtype, 2, (int64_t[]){n[0], n[2]});
        kin_tensor b = input(g, "b", c->dtype, 2, (int64_t[]){n[1], n[2]});
        y = kin_linear(g, a, b, input(g, "c", c->dtype, 1, &n[1]));
    } else if (c->kind == CONV || c->kind == CONV_GRAD) {
        kin_tensor a = input(g, "a", c->dtype, 4, n);
        kin_tensor b = input(g, "b", c->dtype, 4, (int64_t[]){n[1], n[1], 3, 3});
        if (c->kind == CONV) {
            y = kin_conv(g, a, b, KIN_NONE, &same);
        } else {
            y = kin_conv_grad_input(g, a, b, &same, (int64_t[]){1, n[2], n[3]});
            kin_output(g, "z", kin_conv_grad_weight(g, a, a, &same, kernel));
        }
    } else {
        const int64_t dims[5] = {1, n[0], n[1], n[2], n[3]};
        kin_tensor q = input(g, "a", c->dtype, 5, dims), k = input(g, "b", c->dtype, 5, dims);
        kin_tensor v = input(g, "c", c->dtype, 5, dims);
        for (int i = 0; c->kind == ATTENTION_GRAD && i < 3; i++)
            kin_want_gradient(g, i == 0 ? q : i == 1 ? k : v);
        y = kin_attention(g, q, k, v, KIN_NONE, KIN_NONE, 0.11785);
        if (c->kind == ATTENTION_GRAD) {
            const int64_t count = kin_desc_count(kin_tensor_desc(g, y));
            kin_tensor flat = kin_reshape(g, y, 2, (int64_t[]){1, count});
            kin_backward(
                g, kin_reshape(g, kin_matmul(g, flat, kin_transpose(g, flat, 0, 1)), 0, NULL));
            kin_output(g, "dq", kin_gradient(g, q));
            kin_output(g, "dk", kin_gradient(g, k));
            kin_output(g, "dv", kin_gradient(g, v));
        }
    }
    kin_output(g, "y", y);
}

/* Numbers in -1 .. 1 for each input. */
static kin_status fill_inputs(kin_plan *plan) {
    static const char *const names[INPUTS] = {"a", "b", "c"};
    kin_status status = KIN_OK;
    for (int i = 0; i < INPUTS && status == KIN_OK; i++) {
        const kin_desc *desc = kin_plan_input_desc(plan, names[i]);
        if (desc == NULL) continue;
        const int64_t count = kin_desc_count(desc);
        float *values = malloc((size_t)count * sizeof *values);
        uint32_t random = 12345u + (uint32_t)i;
        if (values == NULL) return KIN_OUT_OF_MEMORY;
        for (int64_t j = 0; j < count; j++) {
            random = random * 1664525u + 1013904223u;
            values[j] = (float)(int32_t)random / 2147483648.0f;
        }
        status = kin_plan_write(plan, names[i], KIN_F32, values);
        free(values);
    }
    return status;
}

static kin_status open_candidate(candidate *c, const char *folders, const char *product,
                                 const measured_case *what) {
    char settings[64];
    snprintf(settings, sizeof settings, "opencl.product=%s", product);
    const kin_context_options options = {.struct_size = sizeof options, .settings = settings};
    kin_status status = kin_context_create(&options, &c->context);
    if (status == KIN_OK) status = kin_backends_load(c->context, folders, &c->backends);
    if (status == KIN_OK) status = kin_device_open(c->backends, "opencl0", &c->device);
    if (status == KIN_OK) status = kin_graph_create(c->context, &c->graph);
    if (status == KIN_OK) append(c->graph, what);
    if (status == KIN_OK) status = kin_plan_build(c->graph, c->device, NULL, &c->plan);
    const double before = seconds(CLOCK_PROCESS_CPUTIME_ID);
    if (status == KIN_OK) status = kin_plan_prepare(c->plan, NULL, NULL);
    if (status == KIN_OK) status = fill_inputs(c->plan);
    if (status == KIN_OK) status = kin_plan_run(c->plan);
    c->first = seconds(CLOCK_PROCESS_CPUTIME_ID) - before;
    if (status != KIN_OK)
        fprintf(stderr, "%s, %s: %s\n", what->name, product, kin_context_error(c->context));
    return status;
}

static void close_candidate(candidate *c) {
    kin_plan_free(c->plan);
    kin_graph_destroy(c->graph);
    if (c->device != NULL) kin_device_close(c->device);
    kin_backends_free(c->backends);
    kin_context_destroy(c->context);
}

static int by_size(const void *a, const void *b) {
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double median(const double *values, int count) {
    double sorted[MAX_ROUNDS];
    memcpy(sorted, values, (size_t)count * sizeof *values);
    qsort(sorted, (size_t)count, sizeof *sorted, by_size);
    return count % 2 ? sorted[count / 2] : (sorted[count / 2 - 1] + sorted[count / 2]) / 2;
}

static kin_status run_rounds(candidate *list, unsigned wanted, int rounds) {
    for (int r = 0; r < rounds; r++)
        for (int i = 0; i < CANDIDATES; i++) {
            if (!(wanted >> i & 1)) continue;
            const double cpu = seconds(CLOCK_PROCESS_CPUTIME_ID), wall = seconds(CLOCK_MONOTONIC);
            int runs = 0;
            do {
                kin_status status = kin_plan_run(list[i].plan);
                if (status != KIN_OK) return status;
                runs++;
            } while (seconds(CLOCK_PROCESS_CPUTIME_ID) - cpu < 0.02);
            list[i].cpu[r] = (seconds(CLOCK_PROCESS_CPUTIME_ID) - cpu) / runs;
            list[i].wall[r] = (seconds(CLOCK_MONOTONIC) - wall) / runs;
        }
    return KIN_OK;
}

static int measure(const measured_case *c, const char *folders, int rounds) {
    candidate list[CANDIDATES];
    double ratios[MAX_ROUNDS];
    memset(list, 0, sizeof list);
    kin_status status = KIN_OK;
    for (int i = 0; i < CANDIDATES && status == KIN_OK; i++)
        if (c->candidates >> i & 1) status = open_candidate(&list[i], folders, products[i], c);
    if (status == KIN_OK) status = run_rounds(list, c->candidates, rounds);
    for (int i = 0; i < CANDIDATES && status == KIN_OK; i++) {
        if (!(c->candidates >> i & 1)) continue;
        const double work = 1e-9 * kin_plan_summarize(list[i].plan)->flops;
        for (int r = 0; r < rounds; r++) ratios[r] = list[i].cpu[r] / list[0].cpu[r];
        printf("%-20s %-8s first %7.2f s  %8.2f GFLOP per CPU s  %8.2f ms of CPU  wall %8.2f ms  "
               "time / panels %6.2f\n",
               c->name, products[i], list[i].first, work / median(list[i].cpu, rounds),
               1e3 * median(list[i].cpu, rounds), 1e3 * median(list[i].wall, rounds),
               median(ratios, rounds));
        fflush(stdout);
    }
    for (int i = 0; i < CANDIDATES; i++) close_candidate(&list[i]);
    return status == KIN_OK ? 0 : 1;
}

int main(int count, char **arguments) {
    const int rounds = count > 2 ? atoi(arguments[2]) : 0;
    int failed = 0;
    if (rounds < 1 || rounds > MAX_ROUNDS) {
        fprintf(stderr, "usage: %s FOLDER_OF_BACKENDS ROUNDS [CASE]...\n", arguments[0]);
        return 2;
    }
    for (int i = 0; i < CASES; i++) {
        bool wanted = count == 3;
        for (int j = 3; j < count; j++) wanted = wanted || strcmp(arguments[j], cases[i].name) == 0;
        if (wanted) failed += measure(&cases[i], arguments[1], rounds);
    }
    return failed > 0;
}
