// The emulator itself (backends/cuda/emulation.h): what threads of a block give one another, and
// what it must notice: barriers that not all threads reach, and barriers that are missing.
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

extern "C" {
#include <cmocka.h>
}

#include "backends/cuda/device.cuh"
#include "backends/cuda/emulator.h"

namespace {

enum { THREADS = 192, BLOCKS = 3 };

void call_int(const void *kernel, void *const *a) {
    ((void (*)(int *))kernel)(*static_cast<int **>(a[0]));
}

bool launch(void (*kernel)(int *), int *out, unsigned threads, kin_emulator_order order,
            char *error, size_t size) {
    void *arguments[] = {&out};
    kin_cuda_launch_record record = {};
    record.name = "kernel";
    record.kernel = (const void *)kernel;
    record.emulated = call_int;
    record.grid[0] = BLOCKS, record.grid[1] = record.grid[2] = 1;
    record.block[0] = threads, record.block[1] = record.block[2] = 1;
    record.shared = 4 * THREADS;
    record.argument_count = 1;
    record.arguments = arguments;
    return kin_emulator_run(&record, order, error, size);
}

const kin_emulator_order orders[] = {KIN_EMULATOR_FORWARD, KIN_EMULATOR_REVERSE,
                                     KIN_EMULATOR_SHUFFLED};

void expect(void (*kernel)(int *), int (*value)(int block, int thread)) {
    for (kin_emulator_order order : orders) {
        int out[BLOCKS * THREADS];
        char error[200] = "";
        memset(out, 0xFF, sizeof out);
        if (!launch(kernel, out, THREADS, order, error, sizeof error)) fail_msg("%s", error);
        for (int i = 0; i < BLOCKS * THREADS; i++)
            if (out[i] != value(i / THREADS, i % THREADS))
                fail_msg("thread %d of block %d gave %d", i % THREADS, i / THREADS, out[i]);
    }
}

int *mine(int *out) {
    return &out[blockIdx.x * THREADS + threadIdx.x];
}

// Each thread gives its neighbour its number, by way of shared memory.
void pass_on(int *out) {
    __shared__ int shared[THREADS];
    shared[threadIdx.x] = (int)(100 * blockIdx.x + threadIdx.x);
    __syncthreads();
    *mine(out) = shared[(threadIdx.x + 1) % THREADS];
    __syncthreads();
}

// The same without the first barrier: some order must show it.
void pass_on_too_soon(int *out) {
    __shared__ int shared[THREADS];
    shared[threadIdx.x] = (int)(100 * blockIdx.x + threadIdx.x);
    *mine(out) = shared[(threadIdx.x + 1) % THREADS];
    __syncthreads();
}

void dynamic(int *out) {
    KIN_DYNAMIC_SHARED(int, shared);
    if (threadIdx.x == 0 && shared[5] != -1) *mine(out) = 0; // NaN, all bits set
    __syncthreads();
    shared[threadIdx.x] = (int)threadIdx.x;
    __syncthreads();
    *mine(out) = shared[THREADS - 1 - threadIdx.x];
}

void lanes(int *out) {
    const int lane = (int)(threadIdx.x % 32), value = (int)threadIdx.x;
    int sum = 0;
    sum += __shfl_sync(0xffffffffu, value, 3);
    sum += 2 * __shfl_xor_sync(0xffffffffu, value, 16);
    sum += 3 * __shfl_down_sync(0xffffffffu, value, 1);
    sum += 5 * __shfl_up_sync(0xffffffffu, value, 2, 8);
    sum += 7 * (int)__popc(__ballot_sync(0xffffffffu, lane < 5));
    sum += 11 * __any_sync(0xffffffffu, lane == 40) + 13 * __all_sync(0xffffffffu, lane < 32);
    *mine(out) = sum;
}

// Warps that part: each half exchanges by itself, then warps 0 and 1 wait at barrier 1, others
// at 2.
void parts(int *out) {
    const unsigned lane = threadIdx.x % 32, mask = lane < 16 ? 0xffffu : 0xffff0000u;
    int value = (int)threadIdx.x;
    for (int step = 8; step > 0; step /= 2) value = max(value, __shfl_xor_sync(mask, value, step));
    if (threadIdx.x < 64) kin_barrier(1, 64);
    else kin_barrier(2, THREADS - 64);
    *mine(out) = value + __syncthreads_count(threadIdx.x < 10);
}

void diverging(int *out) {
    if (threadIdx.x < 40) __syncthreads();
    *mine(out) = 1;
}

void leaving(int *out) {
    if (threadIdx.x % 32 < 31) *mine(out) = __shfl_xor_sync(0xffffffffu, 1, 1);
}

// Four at once, which lie on a multiple of 16 bytes if `out` does.
void four_at_once(int *out) {
    const float values[4] = {1, 2, 3, 4};
    if (threadIdx.x == 0) kin_store<4>(reinterpret_cast<float *>(out) + 4 * blockIdx.x, values);
}

void four_read_at_once(int *out) {
    float values[4];
    if (threadIdx.x == 0) kin_load<4>(reinterpret_cast<const float *>(out), values);
}

int next_number(int block, int thread) {
    return 100 * block + (thread + 1) % THREADS;
}

int mirrored(int block, int thread) {
    (void)block;
    return THREADS - 1 - thread;
}

int lane_sum(int block, int thread) {
    const int lane = thread % 32, first = thread - lane;
    (void)block;
    return first + 3 + 2 * (thread ^ 16) + 3 * (lane < 31 ? thread + 1 : thread) +
           5 * (lane % 8 >= 2 ? thread - 2 : thread) + 35 + 13;
}

int part_value(int block, int thread) {
    (void)block;
    return thread / 16 * 16 + 15 + 10;
}

void test_shared(void **) {
    expect(pass_on, next_number);
    expect(dynamic, mirrored);
}

void test_warps(void **) {
    expect(lanes, lane_sum);
    expect(parts, part_value);
}

void test_missing_barrier(void **) {
    int wrong = 0;
    for (kin_emulator_order order : orders) {
        int out[BLOCKS * THREADS];
        char error[200] = "";
        assert_true(launch(pass_on_too_soon, out, THREADS, order, error, sizeof error));
        for (int i = 0; i < BLOCKS * THREADS; i++)
            wrong += out[i] != next_number(i / THREADS, i % THREADS);
    }
    assert_true(wrong > 0);
}

void test_hanging(void **) {
    for (kin_emulator_order order : orders) {
        int out[BLOCKS * THREADS];
        char error[200] = "";
        assert_false(launch(diverging, out, THREADS, order, error, sizeof error));
        assert_non_null(strstr(error, "kernel: threads wait at a barrier"));
        assert_false(launch(leaving, out, THREADS, order, error, sizeof error));
        assert_non_null(strstr(error, "kernel: threads wait"));
        // and the emulator goes on
        assert_true(launch(pass_on, out, THREADS, order, error, sizeof error));
        assert_int_equal(out[1], 2);
    }
}

// A GPU stops at an access of 16 bytes that does not lie on a multiple of them.
void test_alignment(void **) {
    alignas(16) int out[4 * BLOCKS + 4] = {};
    void (*const kernels[])(int *) = {four_at_once, four_read_at_once};
    for (void (*kernel)(int *) : kernels)
        for (int shift = 0; shift <= 4; shift++) {
            char error[200] = "";
            const bool fine =
                launch(kernel, out + shift, THREADS, KIN_EMULATOR_FORWARD, error, sizeof error);
            assert_int_equal(fine, shift % 4 == 0);
            assert_true(fine || strstr(error, "not aligned") != nullptr);
        }
    assert_int_equal(__float_as_int(4.0f), out[3]);
}

} // namespace

int main() {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_shared),          cmocka_unit_test(test_warps),
        cmocka_unit_test(test_missing_barrier), cmocka_unit_test(test_hanging),
        cmocka_unit_test(test_alignment),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
