/* The CUDA backend's convolutions for Hopper (cuda.hopper=on): tiles of both sizes, panels of 64,
 * 32 and 16 columns, tails of every axis, padding, video, gradients, and shapes that they decline.
 * Each case goes through the op suite, which holds it against the double reference. With
 * cuda.hopper=off the kernels by mma have them, whose other cases are in plugin_cuda_kernels.c.
 *
 * The device is the first argument ("cuda0" where there is a Hopper GPU), cuda-emulated0 if there
 * is none; the settings are the second, a part of the cases' names the third. */
#include "ops/conv_attrs.h"
#include "tests/plugin_cuda_suite.h"

/* ---- cases ---- */

typedef struct conv_case {
    bool declined; /* by the kernel for Hopper: the one of conv.cu serves */
    kin_case test;
} conv_case;

/* clang-format off */
#define REAL(rank_, ...) {.dtype = KIN_F32, .rank = (rank_), .dims = {__VA_ARGS__}}
#define SAME {{1, 1, 1}, {0, 1, 1}, {0, 1, 1}, 0}
#define POINT {{1, 1, 1}, {0, 0, 0}, {0, 0, 0}, 0}
#define SAME3D {{1, 1, 1}, {1, 1, 1}, {1, 1, 1}, 0}
#define CAUSAL {{1, 1, 1}, {2, 1, 1}, {0, 1, 1}, 1}
#define CAUSAL_HALF {{2, 1, 1}, {2, 0, 0}, {0, 0, 0}, 1}
#define TALL {{1, 1, 1}, {0, 1, 0}, {0, 1, 0}, 0}
#define TIME {{1, 1, 1}, {1, 0, 0}, {1, 0, 0}, 0}
#define HALF {{1, 2, 2}, {0, 0, 0}, {0, 1, 1}, 0}
#define HALF_5 {{1, 2, 2}, {0, 1, 2}, {0, 1, 1}, 0}
#define WIDE {{1, 1, 1}, {0, 2, 2}, {0, 2, 2}, 0}
#define INNER {{1, 1, 1}, {0, 0, 4}, {0, 0, 4}, 0}
static const kin_conv_attrs same = SAME, point = POINT, same3d = SAME3D, causal = CAUSAL,
    causal_half = CAUSAL_HALF, time_only = TIME, half = HALF, wide = WIDE, inner = INNER,
    tall = TALL, half_5 = HALF_5;

#define HERE(...) {false, {__VA_ARGS__, false}}
#define DECLINED(...) {true, {__VA_ARGS__, false}}

static const conv_case conv_cases[] = {
    HERE("64 columns, 128 positions", &same, 3, {REAL(4, 1, 64, 6, 64), REAL(4, 64, 64, 3, 3), REAL(1, 64)}),
    HERE("64 columns, 256 positions", &tall, 2, {REAL(4, 1, 48, 31, 64), REAL(4, 48, 48, 3, 1)}),
    HERE("a tail of columns", &same, 3, {REAL(4, 1, 72, 5, 104), REAL(4, 56, 72, 3, 3), REAL(1, 56)}),
    HERE("32 columns", &same, 3, {REAL(4, 1, 72, 14, 32), REAL(4, 56, 72, 3, 3), REAL(1, 56)}),
    HERE("16 columns", &tall, 3, {REAL(4, 2, 48, 15, 16), REAL(4, 136, 48, 3, 1), REAL(1, 136)}),
    HERE("points", &point, 3, {REAL(4, 2, 136, 24, 24), REAL(4, 72, 136, 1, 1), REAL(1, 72)}),
    HERE("points of video", &point, 2, {REAL(5, 1, 64, 3, 8, 8), REAL(5, 64, 64, 1, 1, 1)}),
    HERE("5 x 5", &wide, 2, {REAL(4, 1, 56, 8, 24), REAL(4, 48, 56, 5, 5)}),
    HERE("padding that is not half the kernel", &inner, 2, {REAL(4, 1, 48, 10, 32), REAL(4, 48, 48, 3, 1)}),
    HERE("video", &same3d, 3, {REAL(5, 1, 48, 2, 8, 16), REAL(5, 48, 48, 3, 3, 3), REAL(1, 48)}),
    HERE("causal", &causal, 3, {REAL(5, 1, 48, 3, 8, 16), REAL(5, 48, 48, 3, 3, 3), REAL(1, 48)}),
    HERE("causal, every second frame", &causal_half, 2, {REAL(5, 2, 48, 5, 8, 16), REAL(5, 56, 48, 3, 1, 1)}),
    HERE("time alone", &time_only, 3, {REAL(5, 2, 64, 4, 8, 16), REAL(5, 64, 64, 3, 1, 1), REAL(1, 64)}),
    DECLINED("few channels", &same, 2, {REAL(4, 1, 8, 16, 16), REAL(4, 64, 8, 3, 3)}),
    DECLINED("few rows", &same, 2, {REAL(4, 1, 64, 16, 16), REAL(4, 8, 64, 3, 3)}),
    DECLINED("columns that are no multiple of 8", &same, 2, {REAL(4, 1, 48, 16, 20), REAL(4, 48, 48, 3, 3)}),
    DECLINED("every second column", &half, 2, {REAL(4, 1, 48, 16, 32), REAL(4, 48, 48, 3, 3)}),
    DECLINED("every second column, 5 taps", &half_5, 2, {REAL(4, 2, 40, 9, 32), REAL(4, 72, 40, 3, 5)}),
};

typedef kin_conv_size_attrs sized;
static const conv_case conv_grad_input_cases[] = {
    HERE("64 columns", &(const sized){SAME, {1, 6, 64}}, 2, {REAL(4, 1, 64, 6, 64), REAL(4, 64, 72, 3, 3)}),
    HERE("16 columns", &(const sized){TALL, {1, 16, 16}}, 2, {REAL(4, 2, 56, 16, 16), REAL(4, 56, 130, 3, 1)}),
    HERE("padding that is not half the kernel", &(const sized){INNER, {1, 10, 32}}, 2, {REAL(4, 1, 48, 8, 40), REAL(4, 48, 48, 3, 1)}),
    HERE("video", &(const sized){SAME3D, {2, 8, 16}}, 2, {REAL(5, 1, 56, 2, 8, 16), REAL(5, 56, 48, 3, 3, 3)}),
    HERE("causal", &(const sized){CAUSAL, {3, 8, 16}}, 2, {REAL(5, 1, 48, 3, 8, 16), REAL(5, 48, 48, 3, 3, 3)}),
    HERE("causal, every second frame", &(const sized){CAUSAL_HALF, {5, 8, 16}}, 2, {REAL(5, 2, 56, 3, 8, 16), REAL(5, 56, 48, 3, 1, 1)}),
    DECLINED("every second column", &(const sized){HALF, {1, 16, 32}}, 2, {REAL(4, 1, 48, 8, 16), REAL(4, 48, 48, 3, 3)}),
};

static const conv_case conv_grad_weight_cases[] = {
    HERE("64 columns", &(const sized){SAME, {1, 3, 3}}, 2, {REAL(4, 1, 64, 6, 64), REAL(4, 1, 72, 6, 64)}),
    HERE("a tail of columns", &(const sized){SAME, {1, 3, 3}}, 2, {REAL(4, 2, 48, 3, 88), REAL(4, 2, 56, 3, 88)}),
    HERE("32 columns, 5 x 5", &(const sized){WIDE, {1, 5, 5}}, 2, {REAL(4, 2, 51, 7, 32), REAL(4, 2, 48, 7, 32)}),
    HERE("16 columns, 256 channels", &(const sized){TALL, {1, 3, 1}}, 2, {REAL(4, 3, 140, 15, 16), REAL(4, 3, 130, 15, 16)}),
    HERE("points", &(const sized){POINT, {1, 1, 1}}, 2, {REAL(4, 2, 136, 24, 24), REAL(4, 2, 72, 24, 24)}),
    HERE("padding that is not half the kernel", &(const sized){INNER, {1, 3, 1}}, 2, {REAL(4, 1, 48, 10, 32), REAL(4, 1, 48, 8, 40)}),
    HERE("video", &(const sized){SAME3D, {3, 3, 3}}, 2, {REAL(5, 1, 48, 2, 8, 16), REAL(5, 1, 56, 2, 8, 16)}),
    HERE("causal, every second frame", &(const sized){CAUSAL_HALF, {3, 1, 1}}, 2, {REAL(5, 2, 48, 5, 8, 16), REAL(5, 2, 56, 3, 8, 16)}),
    DECLINED("every second column", &(const sized){HALF, {1, 3, 3}}, 2, {REAL(4, 1, 48, 16, 32), REAL(4, 1, 48, 8, 16)}),
    DECLINED("every second column, 5 taps", &(const sized){HALF_5, {1, 3, 5}}, 2, {REAL(4, 2, 40, 9, 32), REAL(4, 2, 72, 5, 16)}),
};
/* clang-format on */

static const struct {
    const char *op;
    const conv_case *cases;
    size_t count;
} groups[] = {
#define GROUP(name)                                                                                \
    { #name, name##_cases, sizeof name##_cases / sizeof *name##_cases }
    GROUP(conv),
    GROUP(conv_grad_input),
    GROUP(conv_grad_weight),
};

/* ---- the walk ---- */

static const char *only;
static fixture shared = {.settings = "cuda.hopper=on\ncuda.capability=90"};

static int setup(void **state) {
    *state = &shared;
    return open_fixture(&shared);
}

static int teardown(void **state) {
    return close_fixture(*state);
}

static bool is_wanted(const conv_case *c) {
    return only == NULL || strstr(c->test.name, only) != NULL;
}

static void every_variant_is_right(void **state) {
    static const kin_dtype dtypes[] = {KIN_BF16, KIN_F16};
    fixture *made = *state;
    int failed = 0, passed = 0;
    for (size_t g = 0; g < sizeof groups / sizeof *groups; g++)
        for (size_t i = 0; i < groups[g].count; i++) {
            const conv_case *c = &groups[g].cases[i];
            if (!is_wanted(c)) continue;
            const bool right = is_right(made, groups[g].op, &c->test, dtypes[i % 2]);
            passed += right;
            failed += !right;
        }
    print_message("%d cases passed, %d failed\n", passed, failed);
    assert_int_equal(failed, 0);
}

static void wrong_results_are_refused(void **state) {
    for (size_t g = 0; g < sizeof groups / sizeof *groups; g++)
        refuse_wrong(*state, groups[g].op, &groups[g].cases[0].test);
}

/* The name of the row that serves a case in bf16. */
static const char *row_of(kin_device *device, const char *op, const kin_case *test) {
    const kin_op *found = kin_op_find(op);
    kin_desc descs[3];
    const kin_desc *pointers[3];
    for (int i = 0; i < test->input_count; i++) {
        descs[i] = kin_desc_dense(KIN_BF16, test->inputs[i].rank, test->inputs[i].dims);
        pointers[i] = &descs[i];
    }
    kin_infer infer = {.op = found,
                       .attrs = test->attrs,
                       .in = pointers,
                       .in_count = test->input_count,
                       .out_count = 1};
    if (found->infer(&infer) != KIN_OK) return "refused";
    kin_operand in[3] = {0}, out = {.desc = infer.out[0]};
    for (int i = 0; i < test->input_count; i++) in[i].desc = descs[i];
    const kin_call call = {.op = op,
                           .attrs = test->attrs,
                           .in_count = test->input_count,
                           .out_count = 1,
                           .in = in,
                           .out = &out};
    return row_for(device, &call);
}

/* Each case is served by the kernel it is meant for; without the setting, none is Hopper's. */
static void rows_are_those_meant(void **state) {
    fixture *made = *state;
    const bool asked = asks_for_hopper(made);
    for (size_t g = 0; g < sizeof groups / sizeof *groups; g++)
        for (size_t i = 0; i < groups[g].count; i++) {
            const conv_case *c = &groups[g].cases[i];
            const char *row = row_of(made->device, groups[g].op, &c->test);
            const bool hopper = strstr(row, "hopper") != NULL;
            if (hopper != (asked && !c->declined))
                fail_msg("%s, %s: served by %s", groups[g].op, c->test.name, row);
        }
}

int main(int argc, char **argv) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(rows_are_those_meant),
                                       cmocka_unit_test(every_variant_is_right),
                                       cmocka_unit_test(wrong_results_are_refused)};
    take_arguments(&shared, argc, argv);
    if (argc > 3) only = argv[3];
    return cmocka_run_group_tests(tests, setup, teardown);
}
