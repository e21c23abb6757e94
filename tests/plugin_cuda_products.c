/* What the CUDA backend takes as one product, with cuBLASLt's stand-in and with its own kernel, on
 * cuda-emulated0: which nodes become one, that no kernel of ours runs where the library has the
 * epilogue, that the stand-in was asked for nothing that cuBLASLt refuses, and that every node
 * passes kin_plan_check (tolerances: runtime/check.h). Runs with KINORA_BACKEND_PATH naming the
 * folder. */
#define _POSIX_C_SOURCE 200809L
#include <dlfcn.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "backends/cuda/emulator.h"
#include "ops/elementwise.h"
#include "ops/layout.h"
#include "ops/matmul.h"
#include "ops/modulate.h"
#include "ops/reduce.h"
#include "ops/views.h"
#include "runtime/device.h"
#include "runtime/plan.h"

enum { B = 2, N = 24, K = 40, M = 32 };

typedef struct parts {
    kin_graph *graph;
    kin_dtype dtype;
    kin_tensor x, w, b, r, g, f; /* f: a residual of f32 */
} parts;

static kin_tensor product(const parts *p) {
    return kin_linear(p->graph, p->x, p->w, p->b);
}

static kin_tensor bias_and_gelu(const parts *p) {
    return kin_gelu_tanh(p->graph, product(p));
}

static kin_tensor gelu_without_bias(const parts *p) {
    return kin_gelu_tanh(p->graph, kin_linear(p->graph, p->x, p->w, KIN_NONE));
}

static kin_tensor bias_and_sum(const parts *p) {
    return kin_add(p->graph, p->r, product(p));
}

static kin_tensor rows_of_another_shape(const parts *p) {
    kin_tensor y = kin_reshape(p->graph, product(p), 4, (int64_t[]){B, 4, N / 4, M});
    kin_tensor r = kin_reshape(p->graph, p->r, 4, (int64_t[]){B, 4, N / 4, M});
    return kin_add(p->graph, y, r);
}

static kin_tensor gradient_of_a_weight(const parts *p) {
    kin_tensor x = kin_reshape(p->graph, p->x, 2, (int64_t[]){B * N, K});
    kin_tensor dy = kin_reshape(p->graph, p->r, 2, (int64_t[]){B * N, M});
    return kin_cast(p->graph, kin_matmul(p->graph, kin_transpose(p->graph, dy, 0, 1), x), KIN_F32);
}

static kin_tensor batch_to_f32_and_sum(const parts *p) {
    kin_tensor w = kin_transpose(p->graph, p->w, 0, 1);
    return kin_add(p->graph, p->f, kin_cast(p->graph, kin_matmul(p->graph, p->x, w), KIN_F32));
}

static kin_tensor gelu_by_erf(const parts *p) {
    return kin_gelu(p->graph, product(p));
}

static kin_tensor silu(const parts *p) {
    return kin_silu(p->graph, product(p));
}

static kin_tensor gate(const parts *p) {
    return kin_gated_add(p->graph, p->r, p->g, product(p));
}

static kin_tensor gelu_and_sum(const parts *p) {
    return kin_add(p->graph, p->r, bias_and_gelu(p));
}

/* The library wants a bias of the result's dtype. */
static kin_tensor bias_of_another_dtype(const parts *p) {
    return kin_cast(p->graph, product(p), KIN_F32);
}

static kin_tensor residual_that_is_a_view(const parts *p) {
    kin_tensor r =
        kin_slice(p->graph, kin_concat(p->graph, (kin_tensor[]){p->r, p->r}, 2, 2), 2, M / 2, M);
    return kin_add(p->graph, r, product(p));
}

typedef struct example {
    const char *name;
    kin_tensor (*build)(const parts *p);
    const char *library, *own; /* the nodes with cuBLASLt, and with our kernel alone */
    int launches;              /* of our kernels, with cuBLASLt, in bf16 */
} example;

#define EXAMPLE(name, ...)                                                                         \
    { #name, name, __VA_ARGS__ }
static const example examples[] = {
    EXAMPLE(bias_and_gelu, "linear_fused", "linear_fused", 0),
    EXAMPLE(gelu_without_bias, "linear_fused", "linear_fused", 0),
    EXAMPLE(bias_and_sum, "linear_fused", "linear_fused", 0),
    EXAMPLE(rows_of_another_shape, "linear_fused", "linear_fused", 0),
    EXAMPLE(gradient_of_a_weight, "matmul_fused", "matmul_fused", 0),
    EXAMPLE(batch_to_f32_and_sum, "matmul_fused", "matmul_fused", 0),
    EXAMPLE(gelu_by_erf, "linear gelu", "linear_fused", 1),
    EXAMPLE(silu, "linear silu", "linear_fused", 1),
    EXAMPLE(gate, "linear gated_add", "linear_fused", 1),
    EXAMPLE(gelu_and_sum, "linear_fused add", "linear_fused", 1),
    EXAMPLE(bias_of_another_dtype, "linear cast", "linear_fused", 1),
    EXAMPLE(residual_that_is_a_view, "concat linear add", "concat linear_fused", 3),
};

typedef struct bench {
    kin_context *context;
    kin_backends *backends;
    kin_device *device;
    void *library;
    kin_emulator_control *control;
} bench;

static void open_bench(bench *b, const char *settings) {
    kin_context_options options = {.struct_size = sizeof options, .settings = settings};
    kin_emulator_control *(*get)(void) = NULL;
    *b = (bench){.context = NULL};
    assert_int_equal(kin_context_create(&options, &b->context), KIN_OK);
    assert_int_equal(kin_backends_load(b->context, getenv("KINORA_BACKEND_PATH"), &b->backends),
                     KIN_OK);
    for (size_t i = 0; i < kin_backends_file_count(b->backends); i++) {
        const kin_backend_file *file = kin_backends_file_at(b->backends, i);
        if (strstr(file->path, "cuda-emulated") != NULL && file->loaded)
            b->library = dlopen(file->path, RTLD_NOW);
    }
    if (b->library == NULL) fail_msg("cuda-emulated was not loaded");
    *(void **)&get = dlsym(b->library, "kin_emulator_control_get");
    assert_non_null(get);
    b->control = get();
    if (kin_device_open(b->backends, "cuda-emulated0", &b->device) != KIN_OK)
        fail_msg("%s", kin_context_error(b->context));
}

static void close_bench(bench *b) {
    kin_device_close(b->device);
    kin_backends_free(b->backends);
    kin_context_destroy(b->context);
    dlclose(b->library);
}

static kin_tensor input(kin_graph *graph, const char *name, kin_dtype dtype, int rank,
                        const int64_t *dims) {
    return kin_input(graph, name, dtype, rank, dims);
}

static kin_plan *plan_of(bench *b, const example *e, kin_dtype dtype) {
    kin_graph *graph;
    kin_plan *plan = NULL;
    assert_int_equal(kin_graph_create(b->context, &graph), KIN_OK);
    const parts p = {.graph = graph,
                     .dtype = dtype,
                     .x = input(graph, "x", dtype, 3, (int64_t[]){B, N, K}),
                     .w = input(graph, "w", dtype, 2, (int64_t[]){M, K}),
                     .b = input(graph, "b", dtype, 1, (int64_t[]){M}),
                     .r = input(graph, "r", dtype, 3, (int64_t[]){B, N, M}),
                     .g = input(graph, "g", dtype, 3, (int64_t[]){B, 1, M}),
                     .f = input(graph, "f", KIN_F32, 3, (int64_t[]){B, N, M})};
    kin_output(graph, "y", e->build(&p));
    kin_status status = kin_plan_build(graph, b->device, NULL, &plan);
    kin_graph_destroy(graph);
    if (status == KIN_OK) status = kin_plan_prepare(plan, NULL, NULL);
    if (status != KIN_OK) fail_msg("%s: %s", e->name, kin_context_error(b->context));
    return plan;
}

static void write_inputs(kin_plan *plan) {
    static const char *const names[] = {"x", "w", "b", "r", "g", "f"};
    float values[B * N * K];
    for (int i = 0; i < 6; i++) {
        const kin_desc *desc = kin_plan_input_desc(plan, names[i]);
        for (int64_t k = 0; desc && k < kin_desc_count(desc); k++)
            values[k] = (float)((k * 37 + 11 * i) % 101 - 50) / 40;
        if (desc) assert_int_equal(kin_plan_write(plan, names[i], KIN_F32, values), KIN_OK);
    }
}

static void expect_nodes(const kin_plan *plan, const example *e, const char *want) {
    char text[200] = "";
    size_t used = 0;
    for (int i = 0; i < kin_plan_node_count(plan); i++)
        used += (size_t)snprintf(text + used, sizeof text - used, "%s%s", i ? " " : "",
                                 kin_plan_node_at(plan, i).op);
    if (strcmp(text, want) != 0) fail_msg("%s: \"%s\" instead of \"%s\"", e->name, text, want);
}

static void run_all(const char *settings, bool library) {
    static const kin_dtype dtypes[] = {KIN_BF16, KIN_F16, KIN_F32};
    bench b;
    open_bench(&b, settings);
    for (size_t i = 0; i < sizeof examples / sizeof *examples; i++)
        for (int d = 0; d < 3; d++) {
            const example *e = &examples[i];
            kin_divergence off;
            const bool casts = dtypes[d] != KIN_F32; /* in f32 a cast to f32 is nothing */
            kin_plan *plan = plan_of(&b, e, dtypes[d]);
            if (casts) expect_nodes(plan, e, library ? e->library : e->own);
            write_inputs(plan);
            const uint64_t before = b.control->counts.launches;
            assert_int_equal(kin_plan_run(plan), KIN_OK);
            if (casts && library)
                assert_int_equal(b.control->counts.launches - before, e->launches);
            if (kin_plan_check(plan, 1, &off) != KIN_OK)
                fail_msg("%s, %s: %s", e->name, kin_dtype_name(dtypes[d]),
                         kin_context_error(b.context));
            kin_plan_free(plan);
        }
    assert_int_equal(b.control->counts.misuses, 0);
    close_bench(&b);
}

static void test_library(void **state) {
    (void)state;
    run_all("cuda.graphs=off", true);
}

static void test_own_kernel(void **state) {
    (void)state;
    run_all("cuda.graphs=off\ncuda.products=own", false);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_library),
        cmocka_unit_test(test_own_kernel),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
