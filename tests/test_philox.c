/* Philox: the published known answers, the way a tensor is drawn, and PyTorch's CUDA streams.
 * Tolerances: integers and uniforms are exact; normals 1e-5 of the largest, as torch-rng states. */
#define _POSIX_C_SOURCE 200809L
#include "tests/media_helper.h"

#include <math.h>

#include "runtime/philox.h"

static void known_answers(void **state) {
    (void)state;
    /* kat_vectors of the authors' Random123 library, philox4x32 with 10 rounds. */
    static const uint32_t cases[3][10] = {
        {0, 0, 0, 0, 0, 0, 0x6627E8D5u, 0xE169C58Du, 0xBC57AC4Cu, 0x9B00DBD8u},
        {0xFFFFFFFFu, 0xFFFFFFFFu, 0xFFFFFFFFu, 0xFFFFFFFFu, 0xFFFFFFFFu, 0xFFFFFFFFu, 0x408F276Du,
         0x41C83B0Eu, 0xA20BC7C6u, 0x6D5451FDu},
        {0x243F6A88u, 0x85A308D3u, 0x13198A2Eu, 0x03707344u, 0xA4093822u, 0x299F31D0u, 0xD16CFE09u,
         0x94FDCCEBu, 0x5001E420u, 0x24126EA1u}};
    for (int i = 0; i < 3; ++i) {
        uint32_t out[4];
        kin_philox(cases[i], cases[i] + 4, out);
        assert_memory_equal(out, cases[i] + 6, sizeof out);
    }
    uint32_t out[4];
    const uint32_t other[4] = {1, 0, 0, 0};
    kin_philox(other, cases[0] + 4, out);
    assert_memory_not_equal(out, cases[0] + 6, sizeof out); /* negative control */
}

static void elements_stand_alone(void **state) {
    (void)state;
    float all[40], part[9];
    kin_philox_fill_normal(7, 3, 11, 0, 40, all);
    for (uint64_t i = 0; i < 40; ++i) assert_true(all[i] == kin_philox_element_normal(7, 3, 11, i));
    for (uint64_t first = 0; first < 8; ++first) {
        kin_philox_fill_normal(7, 3, 11, first, 9, part);
        assert_memory_equal(part, all + first, sizeof part);
        kin_philox_fill_uniform(7, 3, 11, first, 9, part);
        for (uint64_t i = 0; i < 9; ++i)
            assert_true(part[i] == kin_philox_element_uniform(7, 3, 11, first + i));
    }
    /* Every part of the address matters, also above 32 bits. */
    const uint32_t base = kin_philox_element(7, 3, 11, 5);
    assert_int_not_equal(base, kin_philox_element(7 + (UINT64_C(1) << 32), 3, 11, 5));
    assert_int_not_equal(base, kin_philox_element(7, 4, 11, 5));
    assert_int_not_equal(base, kin_philox_element(7, 3, 12, 5));
    assert_int_not_equal(base, kin_philox_element(7, 3, 11 + (UINT64_C(1) << 32), 5));
    assert_int_not_equal(base, kin_philox_element(7, 3, 11, 5 + (UINT64_C(1) << 34)));
}

static void moments(void **state) {
    (void)state;
    enum { COUNT = 1 << 16 };
    float *values = malloc(COUNT * sizeof *values);
    assert_non_null(values);
    kin_philox_fill_normal(42, 0, 0, 0, COUNT, values);
    double sum = 0, square = 0, fourth = 0;
    for (int i = 0; i < COUNT; ++i) {
        double v = values[i];
        assert_true(isfinite(v));
        sum += v;
        square += v * v;
        fourth += v * v * v * v;
    }
    /* Four standard errors: 1/256, sqrt(2)/256, sqrt(96)/256. */
    assert_true(fabs(sum / COUNT) < 4.0 / 256);
    assert_true(fabs(square / COUNT - 1) < 4 * 1.4143 / 256);
    assert_true(fabs(fourth / COUNT - 3) < 4 * 9.798 / 256);
    kin_philox_fill_uniform(42, 0, 1, 0, COUNT, values);
    sum = 0;
    for (int i = 0; i < COUNT; ++i) {
        assert_true(values[i] >= 0 && values[i] < 1);
        sum += values[i];
    }
    assert_true(fabs(sum / COUNT - 0.5) < 4 * 0.2887 / 256);
    free(values);
    /* The ends of the range. */
    float pair[2];
    assert_true(kin_philox_uniform(0xFFFFFFFFu) == 0);
    assert_true(kin_philox_uniform(0) == 0x1p-33f);
    kin_philox_normal_pair(0, 0, pair);
    assert_true(isfinite(pair[0]) && isfinite(pair[1]));
    kin_philox_normal_pair(0xFFFFFFFFu, 0xFFFFFFFFu, pair);
    assert_true(isfinite(pair[0]) && isfinite(pair[1]));
}

typedef struct cuda_stream {
    uint64_t seed, offset, max_threads;
} cuda_stream;

enum { RANDN, RAND, RANDINT };

/* The draw of `n` elements as PyTorch lays it out over a card's threads; element `index` of it. */
static double cuda_element(const cuda_stream *stream, uint64_t n, int kind, uint64_t index) {
    uint64_t blocks = (n + 255) / 256, limit = stream->max_threads / 256;
    uint64_t threads = 256 * (blocks < limit ? blocks : limit);
    uint64_t round = index / (4 * threads), within = index % (4 * threads);
    uint64_t thread = within % threads, word = within / threads;
    uint64_t offset = stream->offset / 4 + round;
    const uint32_t counter[4] = {(uint32_t)offset, (uint32_t)(offset >> 32), (uint32_t)thread,
                                 (uint32_t)(thread >> 32)};
    const uint32_t key[2] = {(uint32_t)stream->seed, (uint32_t)(stream->seed >> 32)};
    uint32_t words[4];
    float values[4];
    kin_philox(counter, key, words);
    if (kind == RAND) return kin_philox_uniform(words[word]);
    if (kind == RANDINT) return words[word] % 1000;
    kin_philox_normal_pair(words[0], words[1], values);
    kin_philox_normal_pair(words[2], words[3], values + 2);
    return values[word];
}

static void check_draw(const char *folder, cuda_stream *stream, uint64_t n, int kind,
                       const char *name, const uint64_t *take) {
    size_t size = 0;
    void *want = media_tensor(folder, "outputs", name, &size);
    size_t width = kind == RANDINT ? 8 : 4, count = size / width;
    double largest = 0, error = 0, shifted = 0;
    for (size_t i = 0; i < count; ++i) {
        double value = kind == RANDINT ? (double)((int64_t *)want)[i] : ((float *)want)[i];
        uint64_t index = take ? take[i] : i;
        double off = fabs(value - cuda_element(stream, n, kind, index));
        double wrong = fabs(value - cuda_element(stream, n, kind, (index + 1) % n));
        if (fabs(value) > largest) largest = fabs(value);
        if (off > error) error = off;
        if (wrong > shifted) shifted = wrong;
    }
    assert_true(count > 0);
    assert_true(error <= (kind == RANDN ? 1e-5 * largest : 0));
    assert_true(shifted > 0.05 * largest); /* negative control: one element further is wrong */
    uint64_t blocks = (n + 255) / 256, limit = stream->max_threads / 256;
    uint64_t threads = 256 * (blocks < limit ? blocks : limit);
    stream->offset += 4 * ((n - 1) / (4 * threads) + 1);
    free(want);
}

static void torch_cuda_streams(void **state) {
    (void)state;
    static const uint64_t take[] = {0, 1, 255, 256, 270335, 270336, 270337, 299999};
    char folder[MEDIA_PATH];
    if (!media_reference("torch-rng", folder)) return;
    cuda_stream stream = {0, 0, 132 * 2048};
    check_draw(folder, &stream, 12, RANDN, "cuda.seq0.0", NULL);
    check_draw(folder, &stream, 12, RANDN, "cuda.seq0.1", NULL);
    check_draw(folder, &stream, 8, RAND, "cuda.seq0.2", NULL);
    check_draw(folder, &stream, 9, RANDINT, "cuda.seq0.3", NULL);
    check_draw(folder, &stream, 1000, RANDN, "cuda.seq0.4", NULL);
    stream = (cuda_stream){UINT64_C(8589934597), 0, 132 * 2048};
    check_draw(folder, &stream, 333, RANDN, "cuda.seq1.0", NULL);
    stream = (cuda_stream){42, 0, 1536};
    check_draw(folder, &stream, 5000, RANDN, "cuda.seq2.0", NULL);
    check_draw(folder, &stream, 10000, RANDN, "cuda.seq2.1", NULL);
    check_draw(folder, &stream, 6, RANDN, "cuda.seq2.2", NULL);
    stream = (cuda_stream){42, 0, 132 * 2048};
    check_draw(folder, &stream, 300000, RANDN, "cuda.seq3.0", take);
    check_draw(folder, &stream, 5, RANDN, "cuda.seq3.1", NULL);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(known_answers), cmocka_unit_test(elements_stand_alone),
        cmocka_unit_test(moments), cmocka_unit_test(torch_cuda_streams)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
