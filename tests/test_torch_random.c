/* PyTorch's CPU stream against numbers that PyTorch 1.13 gave, and the layout of CUDA launches.
 * Integers and uniforms are exact; f32 normals 2e-6, as the case torch-rng states; f16 and bf16 one
 * unit in the last place. The reference case holds the long streams. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "runtime/philox.h"
#include "runtime/torch_random.h"

static void close_to(const float *got, const double *want, int count, double tolerance) {
    for (int i = 0; i < count; i++)
        if (!(fabs((double)got[i] - want[i]) <= tolerance * fmax(1, fabs(want[i]))))
            fail_msg("%d: %.9g, not %.9g", i, (double)got[i], want[i]);
}

static void normals_few_and_many(void **state) {
    (void)state;
    kin_torch_cpu g;
    float values[20];
    kin_torch_cpu_seed(&g, 0);
    assert_true(kin_torch_cpu_normal(&g, KIN_F32, 3, values));
    close_to(values, (double[]){1.5409960746765137, -0.293428897857666, -2.1787893772125244}, 3,
             2e-6);
    kin_torch_cpu_seed(&g, 0);
    assert_true(kin_torch_cpu_normal(&g, KIN_F32, 16, values));
    close_to(values, (double[]){-1.1258398294448853, -1.152360200881958, -0.2505785822868347}, 3,
             2e-6);
}

/* An odd number of small draws keeps one, which a large draw between leaves alone. */
static void a_normal_is_kept(void **state) {
    (void)state;
    kin_torch_cpu g;
    float values[20];
    kin_torch_cpu_seed(&g, 5);
    kin_torch_cpu_normal(&g, KIN_F32, 3, values);
    close_to(values, (double[]){-0.4867807626724243, -0.6038215756416321, -0.5580962300300598}, 3,
             2e-6);
    assert_true(g.kept);
    kin_torch_cpu_normal(&g, KIN_F32, 20, values);
    close_to(values, (double[]){0.2582516372203827, -1.8833262920379639}, 2, 2e-6);
    close_to(values + 18, (double[]){0.548134982585907, -1.6391186714172363}, 2, 2e-6);
    kin_torch_cpu_normal(&g, KIN_F32, 2, values);
    close_to(values, (double[]){0.6675242781639099, 0.901448667049408}, 2, 2e-6);
    kin_torch_cpu_seed(&g, 5);
    assert_false(g.kept); /* negative control: a seed forgets it */
}

static void integers(void **state) {
    (void)state;
    static const int64_t order[] = {6, 3, 0, 7, 2, 1, 4, 5}, drawn[] = {0, -3, -4, 1, -2, 2};
    kin_torch_cpu g;
    int64_t values[8];
    float uniforms[3];
    kin_torch_cpu_seed(&g, 42);
    kin_torch_cpu_permutation(&g, 8, values);
    assert_memory_equal(values, order, sizeof order);
    kin_torch_cpu_seed(&g, 7);
    kin_torch_cpu_integers(&g, -5, 5, 6, values);
    assert_memory_equal(values, drawn, sizeof drawn);
    kin_torch_cpu_seed(&g, 7);
    kin_torch_cpu_uniform(&g, KIN_F32, 3, uniforms);
    assert_true(uniforms[0] == 0.5349225401878357f && uniforms[1] == 0.19880318641662598f &&
                uniforms[2] == 0.6592116951942444f);
    /* Only the low half of the seed counts. */
    kin_torch_cpu_seed(&g, 7 + (UINT64_C(5) << 32));
    kin_torch_cpu_integers(&g, -5, 5, 6, values);
    assert_memory_equal(values, drawn, sizeof drawn);
    kin_torch_cpu_seed(&g, 8);
    kin_torch_cpu_integers(&g, -5, 5, 6, values);
    assert_memory_not_equal(values, drawn, sizeof drawn);
}

static void narrow_types(void **state) {
    (void)state;
    static const double bf16[] = {1.0234375,  -1.1953125, 0.68359375,
                                  -1.0390625, -1.2734375, -0.0439453125};
    static const double f16[] = {-2.287109375, -0.81201171875, 0.81005859375, -1.64453125};
    kin_torch_cpu g;
    uint16_t values[20];
    int32_t integers_do_not[4];
    kin_torch_cpu_seed(&g, 3);
    assert_true(kin_torch_cpu_normal(&g, KIN_BF16, 20, values));
    for (int i = 0; i < 6; i++)
        assert_true(fabs(kin_element_get(values, KIN_BF16, i) - bf16[i]) <= fabs(bf16[i]) / 128);
    kin_torch_cpu_seed(&g, 3);
    assert_true(kin_torch_cpu_normal(&g, KIN_F16, 20, values));
    for (int i = 0; i < 4; i++)
        assert_true(fabs(kin_element_get(values, KIN_F16, i) - f16[i]) <= fabs(f16[i]) / 1024);
    assert_false(kin_torch_cpu_normal(&g, KIN_I32, 4, integers_do_not));
    assert_false(kin_torch_cpu_uniform(&g, KIN_I32, 4, integers_do_not));
}

/* One multiprocessor of 256 threads: elements 0, 256, 512 and 768 are one thread's first four. */
static void launches(void **state) {
    (void)state;
    enum { COUNT = 1500 };
    static float values[COUNT];
    kin_torch_cuda g = {.seed = 9, .multiprocessors = 1, .threads_per_multiprocessor = 256};
    const uint32_t key[2] = {9, 0};
    assert_true(kin_torch_cuda_normal(&g, KIN_F32, COUNT, values));
    assert_true(g.offset == 8); /* two rounds of four */
    for (uint32_t thread = 0; thread < 256; thread += 85) {
        uint32_t words[4];
        float pairs[4];
        kin_philox((const uint32_t[]){0, 0, thread, 0}, key, words);
        kin_philox_normal_pair(words[0], words[1], pairs);
        kin_philox_normal_pair(words[2], words[3], pairs + 2);
        for (int i = 0; i < 4; i++) assert_true(values[thread + 256 * (uint32_t)i] == pairs[i]);
        kin_philox((const uint32_t[]){1, 0, thread, 0}, key, words);
        kin_philox_normal_pair(words[0], words[1], pairs);
        assert_true(values[1024 + thread] == pairs[0]);
    }
    /* A card with more threads gives another stream. */
    static float others[COUNT];
    kin_torch_cuda larger = {.seed = 9, .multiprocessors = 8, .threads_per_multiprocessor = 2048};
    kin_torch_cuda_normal(&larger, KIN_F32, COUNT, others);
    assert_true(larger.offset == 4 && others[0] == values[0] && others[256] != values[256]);
    kin_torch_cuda_normal(&larger, KIN_F32, 0, others);
    assert_false(kin_torch_cuda_normal(&larger, KIN_F64, COUNT / 2, others));
    assert_true(larger.offset == 4);
    /* Half precision is the same, rounded; a uniform never rounds to 1. */
    uint16_t halves[COUNT];
    kin_torch_cuda narrow = {.seed = 9, .multiprocessors = 1, .threads_per_multiprocessor = 256};
    assert_true(kin_torch_cuda_normal(&narrow, KIN_F16, COUNT, halves));
    for (int i = 0; i < COUNT; i++)
        assert_true(fabs(kin_element_get(halves, KIN_F16, i) - (double)values[i]) < 2e-3);
    assert_true(kin_torch_cuda_uniform(&narrow, KIN_BF16, COUNT, halves));
    for (int i = 0; i < COUNT; i++) assert_true(kin_element_get(halves, KIN_BF16, i) < 1);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(normals_few_and_many),
        cmocka_unit_test(a_normal_is_kept),
        cmocka_unit_test(integers),
        cmocka_unit_test(narrow_types),
        cmocka_unit_test(launches),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
