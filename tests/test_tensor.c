/* Dtypes, shapes and conversions. f16 and bf16 are compared bit for bit with values computed here
 * in double precision by another way (search for the nearest); q8_0 to half a step of its block. */
#define _POSIX_C_SOURCE 200809L

#include "tests/runtime_support.h"

#include <math.h>

#include "runtime/tensor.h"

/* The value of a 16-bit float with the given exponent and fraction bits, by the definition. */
static double decode(uint16_t bits, int exponent_bits) {
    int fraction_bits = 15 - exponent_bits;
    int bias = (1 << (exponent_bits - 1)) - 1;
    int exponent = (bits >> fraction_bits) & ((1 << exponent_bits) - 1);
    int fraction = bits & ((1 << fraction_bits) - 1);
    double sign = (bits & 0x8000) != 0 ? -1.0 : 1.0;
    if (exponent == (1 << exponent_bits) - 1) return fraction != 0 ? NAN : sign * INFINITY;
    if (exponent == 0) return sign * ldexp(fraction, 1 - bias - fraction_bits);
    return sign * ldexp(fraction + (1 << fraction_bits), exponent - bias - fraction_bits);
}

static float bits_to_float(uint32_t bits) {
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

static void test_every_half(void **state) {
    (void)state;
    for (uint32_t bits = 0; bits < 65536; bits++) {
        double half = decode((uint16_t)bits, 5);
        double brain = decode((uint16_t)bits, 8);
        if (isnan(half)) {
            assert_true(isnan(kin_f16_to_f32((uint16_t)bits)));
            assert_true(isnan(kin_f16_to_f32(kin_f32_to_f16(kin_f16_to_f32((uint16_t)bits)))));
        } else {
            assert_true((double)kin_f16_to_f32((uint16_t)bits) == half);
            assert_int_equal(kin_f32_to_f16((float)half), bits);
        }
        if (isnan(brain)) {
            assert_true(isnan(kin_bf16_to_f32(kin_f32_to_bf16(kin_bf16_to_f32((uint16_t)bits)))));
        } else {
            assert_true((double)kin_bf16_to_f32((uint16_t)bits) == brain);
            assert_int_equal(kin_f32_to_bf16((float)brain), bits);
        }
    }
}

/* Nearest even among the value below and the one above, both non-negative and finite neighbours.
 * Beyond the largest one, "infinity" stands at the next power of two. */
static uint16_t nearest(double value, int exponent_bits) {
    uint16_t infinity = (uint16_t)(((1 << exponent_bits) - 1) << (15 - exponent_bits));
    uint16_t low = 0;
    uint16_t high = infinity;
    double top = ldexp(1.0, 1 << (exponent_bits - 1));
    if (value >= top) return infinity;
    while (high - low > 1) {
        uint16_t middle = (uint16_t)((low + high) / 2);
        if (decode(middle, exponent_bits) <= value) low = middle;
        else high = middle;
    }
    double above = high == infinity ? top : decode(high, exponent_bits);
    double to_low = value - decode(low, exponent_bits);
    double to_high = above - value;
    if (to_low != to_high) return to_low < to_high ? low : high;
    return (low & 1) == 0 ? low : high;
}

static void test_rounding(void **state) {
    (void)state;
    uint32_t random = 1;
    int ties = 0;
    for (int i = 0; i < 300000; i++) {
        random = random * 1664525u + 1013904223u;
        uint32_t bits = random & 0x7FFFFFFFu;
        /* A third lie exactly between two f16 or two bf16. */
        if (i % 3 == 0) bits = (bits & ~0x1FFFu) | 0x1000u;
        if (i % 3 == 1) bits = (bits & ~0xFFFFu) | 0x8000u;
        float value = bits_to_float(bits);
        if (isnan(value) || isinf(value)) continue;
        uint16_t half = nearest(value, 5);
        uint16_t brain = nearest(value, 8);
        ties += i % 3 == 0;
        assert_int_equal(kin_f32_to_f16(value), half);
        assert_int_equal(kin_f32_to_f16(-value), half | 0x8000);
        assert_int_equal(kin_f32_to_bf16(value), brain);
        assert_int_equal(kin_f32_to_bf16(-value), brain | 0x8000);
    }
    assert_true(ties > 90000);
    /* From f64, where rounding twice would go wrong: just above a tie. */
    uint16_t bits;
    kin_element_set(&bits, KIN_BF16, 0, 1.0 + ldexp(1.0, -8) + ldexp(1.0, -40));
    assert_int_equal(bits, 0x3F81);
    kin_element_set(&bits, KIN_BF16, 0, 1.0 + ldexp(1.0, -8) - ldexp(1.0, -40));
    assert_int_equal(bits, 0x3F80);
    kin_element_set(&bits, KIN_F16, 0, -(1.0 + ldexp(1.0, -11) + ldexp(1.0, -40)));
    assert_int_equal(bits, 0xBC01);
    /* Negative control: cutting instead of rounding gives another result. */
    assert_int_not_equal(kin_f32_to_bf16(bits_to_float(0x3F80C000u)), 0x3F80C000u >> 16);
}

static void test_all_pairs(void **state) {
    (void)state;
    static const double values[] = {0, 1, 2, 3, 100, 255};
    enum { COUNT = 6 };
    for (int from = 0; from < KIN_DTYPE_COUNT; from++) {
        for (int to = 0; to < KIN_DTYPE_COUNT; to++) {
            if (from == KIN_Q8_0 || to == KIN_Q8_0) continue;
            unsigned char source[COUNT * 8 + 1];
            unsigned char target[COUNT * 8 + 1];
            /* One byte off: neither needs to be aligned. */
            for (int i = 0; i < COUNT; i++)
                kin_element_set(source + 1, (kin_dtype)from, i, values[i]);
            kin_convert(source + 1, (kin_dtype)from, target + 1, (kin_dtype)to, COUNT);
            for (int i = 0; i < COUNT; i++) {
                bool is_bool = from == KIN_BOOL || to == KIN_BOOL;
                double want = is_bool ? values[i] != 0 : values[i];
                assert_true(kin_element_get(target + 1, (kin_dtype)to, i) == want);
            }
        }
    }
}

static void test_saturation(void **state) {
    (void)state;
    float values[6] = {-1.9f, 300.0f, 1e30f, -1e30f, NAN, INFINITY};
    int32_t integers[6];
    int64_t longs[6];
    uint8_t bytes[6];
    kin_convert(values, KIN_F32, integers, KIN_I32, 6);
    kin_convert(values, KIN_F32, longs, KIN_I64, 6);
    kin_convert(values, KIN_F32, bytes, KIN_U8, 6);
    static const int32_t want[6] = {-1, 300, INT32_MAX, INT32_MIN, 0, INT32_MAX};
    static const uint8_t want_bytes[6] = {0, 255, 255, 0, 0, 255};
    assert_memory_equal(integers, want, sizeof want);
    assert_memory_equal(bytes, want_bytes, sizeof want_bytes);
    assert_true(longs[2] == INT64_MAX && longs[3] == INT64_MIN && longs[4] == 0);
    int64_t big[2] = {9007199254740993, -9007199254740993};
    int64_t same[2];
    kin_convert(big, KIN_I64, same, KIN_I64, 2);
    assert_memory_equal(big, same, sizeof big);
    kin_convert(big, KIN_I64, integers, KIN_I32, 2);
    assert_true(integers[0] == INT32_MAX && integers[1] == INT32_MIN);
}

static void test_q8_0(void **state) {
    (void)state;
    enum { COUNT = 2080 }; /* more than one chunk */
    static float values[COUNT];
    static float back[COUNT];
    static unsigned char blocks[COUNT / 32 * 34];
    uint32_t random = 7;
    for (int i = 0; i < COUNT; i++) {
        random = random * 1664525u + 1013904223u;
        values[i] = ldexpf((float)(int32_t)random, -31 + (i / 32) % 20 - 10);
    }
    memset(values + 64, 0, 32 * sizeof *values);
    kin_convert(values, KIN_F32, blocks, KIN_Q8_0, COUNT);
    kin_convert(blocks, KIN_Q8_0, back, KIN_F32, COUNT);
    for (int i = 0; i < COUNT; i++) {
        uint16_t half;
        memcpy(&half, blocks + i / 32 * 34, 2);
        double step = kin_f16_to_f32(half);
        /* Half a step, and what the f16 scale cuts off at the block's largest value. */
        double allowed = step * (0.5 + 127.0 * ldexp(1.0, -11));
        assert_true(fabs((double)back[i] - values[i]) <= allowed);
        assert_true(kin_element_get(blocks, KIN_Q8_0, i) == (double)back[i]);
    }
    /* Negative control: a tenth of a step is not met by all. */
    double worst = 0;
    for (int i = 0; i < 32; i++) {
        double error = fabs((double)back[i] - values[i]) /
                       fabs((double)kin_f16_to_f32((uint16_t)(blocks[0] | blocks[1] << 8)));
        worst = error > worst ? error : worst;
    }
    assert_true(worst > 0.1);
    values[5] = NAN;
    values[40] = INFINITY;
    kin_convert(values, KIN_F32, blocks, KIN_Q8_0, 64);
    assert_true(isnan(kin_element_get(blocks, KIN_Q8_0, 0)));
    assert_true(isnan(kin_element_get(blocks, KIN_Q8_0, 40)));
    /* bf16 to q8_0 and to f64. */
    uint16_t brains[32];
    double wide[32];
    for (int i = 0; i < 32; i++) brains[i] = kin_f32_to_bf16((float)(i - 16));
    kin_convert(brains, KIN_BF16, blocks, KIN_Q8_0, 32);
    kin_convert(blocks, KIN_Q8_0, wide, KIN_F64, 32);
    for (int i = 0; i < 32; i++) assert_true(fabs(wide[i] - (i - 16)) < 0.07);
    kin_element_set(blocks, KIN_Q8_0, 3, 1e9);
    assert_true(kin_element_get(blocks, KIN_Q8_0, 3) ==
                127.0 * kin_f16_to_f32((uint16_t)(blocks[0] | blocks[1] << 8)));
}

static void test_descriptions(void **state) {
    (void)state;
    char text[64];
    kin_desc desc = kin_desc_dense(KIN_F32, 3, (const int64_t[]){2, 1, 40});
    assert_int_equal(kin_desc_count(&desc), 80);
    assert_int_equal(kin_desc_bytes(&desc), 320);
    assert_int_equal(desc.strides[0], 40);
    assert_true(kin_desc_is_dense(&desc));
    desc.strides[1] = 999; /* of an axis of size 1 */
    assert_true(kin_desc_is_dense(&desc));
    desc.strides[0] = 0;
    assert_false(kin_desc_is_dense(&desc));
    assert_string_equal(kin_desc_shape_text(&desc, text, sizeof text), "[2, 1, 40]");
    assert_string_equal(kin_desc_shape_text(&desc, text, 5), "[2, ");
    desc.dtype = KIN_Q8_0;
    assert_int_equal(kin_desc_bytes(&desc), 2 * 2 * 34);
    desc = kin_desc_dense(KIN_F64, 0, NULL);
    assert_int_equal(kin_desc_count(&desc), 1);
    assert_int_equal(kin_desc_bytes(&desc), 8);
    assert_string_equal(kin_desc_shape_text(&desc, text, sizeof text), "[]");
    kin_desc empty = kin_desc_dense(KIN_F32, 2, (const int64_t[]){0, INT64_MAX});
    assert_int_equal(kin_desc_count(&empty), 0);
    assert_false(kin_desc_same_shape(&desc, &empty));
    kin_desc huge = kin_desc_dense(KIN_F32, 2, (const int64_t[]){INT64_MAX, 3});
    assert_true(kin_desc_bytes(&huge) == SIZE_MAX);
    for (int i = 0; i < KIN_DTYPE_COUNT; i++) {
        kin_dtype dtype;
        assert_true(kin_dtype_from_name(kin_dtype_name((kin_dtype)i), &dtype));
        assert_int_equal(dtype, i);
    }
    kin_dtype dtype;
    assert_false(kin_dtype_from_name("f8", &dtype));
    assert_true(kin_dtype_is_float(KIN_Q8_0) && !kin_dtype_is_float(KIN_BOOL));
}

static void test_host_tensors(void **state) {
    (void)state;
    failing failing_state = {0};
    kin_context *context = failing_context(&failing_state);
    kin_host_tensor tensor;
    assert_int_equal(kin_host_tensor_create(context, KIN_F32, 2, (const int64_t[]){2, 3}, &tensor),
                     KIN_OK);
    memset(tensor.data, 0, 24);
    kin_host_tensor_free(context, &tensor);
    assert_null(tensor.data);
    assert_int_equal(kin_host_tensor_create(context, KIN_F32, 1, (const int64_t[]){-1}, &tensor),
                     KIN_INVALID);
    assert_int_equal(kin_host_tensor_create(context, KIN_F32, 9, NULL, &tensor), KIN_INVALID);
    assert_int_equal(
        kin_host_tensor_create(context, KIN_F32, 2, (const int64_t[]){INT64_MAX, 9}, &tensor),
        KIN_OUT_OF_MEMORY);
    failing_state.fail_at = 1;
    assert_int_equal(kin_host_tensor_create(context, KIN_F32, 1, (const int64_t[]){5}, &tensor),
                     KIN_OUT_OF_MEMORY);
    assert_message(context, "20 bytes");
    assert_int_equal(failing_state.live, 1);
    kin_context_destroy(context);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_half),   cmocka_unit_test(test_rounding),
        cmocka_unit_test(test_all_pairs),    cmocka_unit_test(test_saturation),
        cmocka_unit_test(test_q8_0),         cmocka_unit_test(test_descriptions),
        cmocka_unit_test(test_host_tensors),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
