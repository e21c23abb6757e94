/* The CUDA backend's plain kernels at sizes that the ops' own small cases do not reach: rows for a
 * warp and for a block, groups and sums in several parts, transpositions of several tiles, packs
 * and odd ends. Each plan is run node by node and held to the host's reference in double
 * (kin_plan_check). The device is the first argument, cuda-emulated0 if there is none; settings are
 * the second. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "ops/elementwise.h"
#include "ops/layout.h"
#include "ops/matmul.h"
#include "ops/norm.h"
#include "ops/optimizer.h"
#include "ops/reduce.h"
#include "ops/softmax.h"
#include "ops/views.h"
#include "runtime/device.h"
#include "runtime/plan.h"

enum { MAX_INPUTS = 8 };

static const char *device_name = "cuda-emulated0";
static char settings[256];

/* A graph being made, with its inputs. */
typedef struct maker {
    kin_context *context;
    kin_graph *graph;
    kin_dtype dtype; /* of what the ops work on; inputs are f32 */
    kin_tensor inputs[MAX_INPUTS];
    int64_t counts[MAX_INPUTS];
    int count;
} maker;

static kin_tensor input(maker *m, int rank, const int64_t *dims) {
    char name[8];
    snprintf(name, sizeof name, "x%d", m->count);
    assert_true(m->count < MAX_INPUTS);
    kin_tensor x = kin_input(m->graph, name, KIN_F32, rank, dims);
    m->counts[m->count] = 1;
    for (int a = 0; a < rank; a++) m->counts[m->count] *= dims[a];
    m->inputs[m->count++] = x;
    return m->dtype == KIN_F32 ? x : kin_cast(m->graph, x, m->dtype);
}

/* The output y, and the gradients of sum(y * y) for all inputs. */
static void finish(maker *m, kin_tensor y) {
    kin_output(m->graph, "y", y);
    for (int i = 0; i < m->count; i++) kin_want_gradient(m->graph, m->inputs[i]);
    kin_tensor wide = kin_cast(m->graph, y, KIN_F32);
    kin_backward(m->graph, kin_sum_all(m->graph, kin_mul(m->graph, wide, wide)));
    for (int i = 0; i < m->count; i++) {
        char name[8];
        snprintf(name, sizeof name, "d%d", i);
        kin_output(m->graph, name, kin_gradient(m->graph, m->inputs[i]));
    }
}

static void write_inputs(maker *m, kin_plan *plan) {
    for (int i = 0; i < m->count; i++) {
        char name[8];
        float *data = malloc((size_t)m->counts[i] * sizeof *data);
        assert_non_null(data);
        for (int64_t e = 0; e < m->counts[i]; e++)
            data[e] = (float)((e * 7919 + i * 31) % 1999) / 1000.0f - 1.0f + 0.25f * (float)i;
        snprintf(name, sizeof name, "x%d", i);
        assert_int_equal(kin_plan_write(plan, name, KIN_F32, data), KIN_OK);
        free(data);
    }
}

static void make_group_norm(maker *m, int64_t positions);

/* Makes the plan and holds every node to its reference. Of one that cannot be exact the same is
 * asked without tolerance, which must be refused: the check looks. */
static void expect(void (*make)(maker *m, int64_t size), int64_t size, kin_dtype dtype) {
    maker m = {.dtype = dtype};
    kin_backends *backends = NULL;
    kin_device *device = NULL;
    kin_plan *plan = NULL;
    kin_divergence off;
    const kin_context_options options = {.struct_size = sizeof options, .settings = settings};
    assert_int_equal(kin_context_create(&options, &m.context), KIN_OK);
    assert_int_equal(kin_backends_load(m.context, getenv("KINORA_BACKEND_PATH"), &backends),
                     KIN_OK);
    kin_status status = kin_device_open(backends, device_name, &device);
    if (status == KIN_OK) status = kin_graph_create(m.context, &m.graph);
    if (status == KIN_OK) {
        make(&m, size);
        status = kin_plan_build(m.graph, device, NULL, &plan);
    }
    if (status == KIN_OK) status = kin_plan_prepare(plan, NULL, NULL);
    if (status != KIN_OK) fail_msg("size %lld: %s", (long long)size, kin_context_error(m.context));
    write_inputs(&m, plan);
    for (int i = 0; i < kin_plan_node_count(plan); i++)
        if (strncmp(kin_plan_node_at(plan, i).kernel, "cuda_", 5) != 0)
            fail_msg("%s runs by %s", kin_plan_node_at(plan, i).op,
                     kin_plan_node_at(plan, i).kernel);
    status = kin_plan_check(plan, 1, &off);
    if (status != KIN_OK)
        fail_msg("size %lld, %s: %s", (long long)size, kin_dtype_name(dtype),
                 kin_context_error(m.context));
    if (make == make_group_norm && dtype == KIN_F32)
        assert_int_equal(kin_plan_check(plan, 1e-9, &off), KIN_NUMERIC);
    kin_plan_free(plan);
    kin_graph_destroy(m.graph);
    kin_device_close(device);
    kin_backends_free(backends);
    kin_context_destroy(m.context);
}

static void expect_sizes(void (*make)(maker *m, int64_t size), const int64_t *sizes) {
    for (; *sizes > 0; sizes++) {
        expect(make, *sizes, KIN_F32);
        expect(make, *sizes, KIN_BF16);
    }
}

/* ---- rows: for a warp up to 4096 (1024 if they are few), longer ones for a block ---- */

static void make_softmax(maker *m, int64_t width) {
    finish(m, kin_softmax(m->graph, input(m, 2, (int64_t[]){5, width})));
}

static void make_layer_norm(maker *m, int64_t width) {
    kin_tensor x = input(m, 2, (int64_t[]){5, width});
    kin_tensor w = input(m, 1, &width), b = input(m, 1, &width);
    finish(m, kin_layer_norm(m->graph, x, w, b, 1e-5));
}

static void make_rms_norm(maker *m, int64_t width) {
    kin_tensor x = input(m, 2, (int64_t[]){5, width});
    finish(m, kin_rms_norm(m->graph, x, input(m, 1, &width), 1e-6));
}

/* More rows than a chunk of the vectors' gradients has. */
static void make_modulate(maker *m, int64_t width) {
    kin_tensor x = input(m, 3, (int64_t[]){2, 70, width});
    kin_tensor shift = input(m, 3, (int64_t[]){2, 1, width});
    kin_tensor scale = input(m, 3, (int64_t[]){2, 1, width});
    finish(m, kin_layer_norm_modulate(m->graph, x, shift, scale, 1e-6));
}

static void test_rows(void **state) {
    (void)state;
    const int64_t widths[] = {72, 1152, 1157, 0}, few[] = {40, 1101, 0};
    expect_sizes(make_softmax, widths);
    expect_sizes(make_layer_norm, widths);
    expect_sizes(make_rms_norm, widths);
    expect_sizes(make_modulate, few);
}

/* ---- groups in several parts, planes in several cuts ---- */

static void make_group_norm(maker *m, int64_t positions) {
    const int64_t channels = 4;
    kin_tensor x = input(m, 3, (int64_t[]){2, channels, positions});
    kin_tensor w = input(m, 1, &channels), b = input(m, 1, &channels);
    finish(m, kin_group_norm(m->graph, x, w, b, 2, 1e-6, true));
}

static void test_groups(void **state) {
    (void)state;
    const int64_t sizes[] = {16400, 8301, 0};
    expect_sizes(make_group_norm, sizes);
}

/* ---- sums in parts: dense rows, strided columns, several axes ---- */

static void make_sums(maker *m, int64_t n) {
    kin_tensor x = input(m, 3, (int64_t[]){3, n, 7});
    kin_graph *g = m->graph;
    kin_output(g, "rows", kin_sum(g, x, 1u << 1 | 1u << 2, false));
    kin_output(g, "columns", kin_sum(g, x, 1u << 0 | 1u << 1, false));
    kin_output(g, "middle", kin_mean(g, x, 1u << 1, true));
    kin_output(g, "most", kin_max(g, x, 1u << 0 | 1u << 1, false));
    finish(m, kin_mean(g, kin_transpose(g, x, 1, 2), 1u << 2, false));
}

static void test_sums(void **state) {
    (void)state;
    const int64_t sizes[] = {33, 2100, 0};
    expect_sizes(make_sums, sizes);
}

/* ---- moving: tiles of a transposition, packs, odd ends ---- */

static void make_moves(maker *m, int64_t n) {
    kin_tensor x = input(m, 3, (int64_t[]){2, n, 40});
    kin_graph *g = m->graph;
    kin_tensor turned = kin_copy(g, kin_transpose(g, x, 1, 2));
    kin_tensor swapped = kin_copy(g, kin_transpose(g, x, 0, 1));
    kin_output(g, "turned", turned);
    kin_tensor parts[2] = {kin_slice(g, x, 1, 3, n - 5), kin_transpose(g, swapped, 0, 1)};
    kin_tensor joined = kin_concat(g, parts, 2, 1);
    finish(m, kin_add(g, kin_gelu(g, joined), kin_slice(g, joined, 1, 0, 1)));
}

static void test_moves(void **state) {
    (void)state;
    const int64_t sizes[] = {37, 96, 0};
    expect_sizes(make_moves, sizes);
}

/* ---- products: several tiles, batches that do not join, strides of one element ---- */

static void make_products(maker *m, int64_t n) {
    kin_graph *g = m->graph;
    kin_tensor a = input(m, 4, (int64_t[]){2, 3, n, 40}), b = input(m, 4, (int64_t[]){2, 1, n, 40});
    kin_tensor product = kin_matmul(g, a, kin_transpose(g, b, 2, 3));
    kin_tensor back = kin_matmul(g, product, b);
    finish(m, kin_linear(g, back, input(m, 2, (int64_t[]){n, 40}), input(m, 1, &n)));
}

static void test_products(void **state) {
    (void)state;
    const int64_t sizes[] = {1, 24, 70, 0};
    expect_sizes(make_products, sizes);
}

/* ---- the norm of gradients: values whose squares do not fit into f32, several parts ---- */

static void make_norm(maker *m, int64_t n) {
    kin_tensor list[2];
    for (int i = 0; i < 2; i++)
        list[i] =
            kin_scale(m->graph, kin_input(m->graph, i ? "x1" : "x0", KIN_F32, 1, &n), 1e25, 0);
    m->counts[0] = m->counts[1] = n;
    m->count = 2;
    kin_output(m->graph, "norm", kin_global_norm(m->graph, list, 2));
}

static void test_norm(void **state) {
    (void)state;
    expect(make_norm, 40000, KIN_F32);
}

int main(int argc, char **argv) {
    if (argc > 1) device_name = argv[1];
    if (argc > 2) snprintf(settings, sizeof settings, "%s", argv[2]);
    for (char *c = settings; *c != 0; c++)
        if (*c == ',') *c = '\n';
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_rows),  cmocka_unit_test(test_groups),   cmocka_unit_test(test_sums),
        cmocka_unit_test(test_moves), cmocka_unit_test(test_products), cmocka_unit_test(test_norm),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
