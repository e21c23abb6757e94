/* The peak of the processor: multiply-adds that stay in registers, and a copy of memory. */
#include "bench/peak.h"

#include "tools/tool.h"

#include <string.h>

#if defined(__GNUC__) && (defined(__x86_64__) || defined(__i386__))
#define KIN_PEAK_X86 1
#endif

enum { CHAINS = 12, GENERIC_LANES = 4, COPY_BYTES = 128 << 20 };

/* 12 chains of x = x * factor + term, which differ, so that none can be left out: two pipes with a
 * latency of four cycles need eight. They stay near 1. */
#define DEFINE_FMA_LOOP(name, attribute, lanes)                                                    \
    typedef float name##_vector __attribute__((vector_size(4 * (lanes))));                         \
    attribute static float name(int64_t rounds, float factor, float term) {                        \
        name##_vector f = factor - (name##_vector){0}, t = term - (name##_vector){0};              \
        name##_vector a = t, b = t + 1, c = t + 2, d = t + 3, e = t + 4, g = t + 5;                \
        name##_vector h = t + 6, i = t + 7, j = t + 8, k = t + 9, l = t + 10, m = t + 11;          \
        for (int64_t n = 0; n < rounds; n++) {                                                     \
            a = a * f + t, b = b * f + t, c = c * f + t, d = d * f + t;                            \
            e = e * f + t, g = g * f + t, h = h * f + t, i = i * f + t;                            \
            j = j * f + t, k = k * f + t, l = l * f + t, m = m * f + t;                            \
        }                                                                                          \
        a += b + c + d + e + g + h + i + j + k + l + m;                                            \
        return a[0] + a[(lanes)-1];                                                                \
    }

DEFINE_FMA_LOOP(loop_generic, , GENERIC_LANES)
#if defined(KIN_PEAK_X86)
DEFINE_FMA_LOOP(loop_avx2, __attribute__((target("avx2,fma"))), 8)
DEFINE_FMA_LOOP(loop_avx512, __attribute__((target("avx512f,fma"))), 16)
#endif

typedef struct fma_loop {
    const char *isa;
    int lanes;
    float (*run)(int64_t rounds, float factor, float term);
} fma_loop;

/* The same choice as that of the CPU backend's kernels. */
static fma_loop widest_loop(void) {
#if defined(KIN_PEAK_X86)
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) {
        if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
            __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq"))
            return (fma_loop){"avx512", 16, loop_avx512};
        return (fma_loop){"avx2", 8, loop_avx2};
    }
#endif
    return (fma_loop){"generic", GENERIC_LANES, loop_generic};
}

/* One slice on all threads; seconds, and how many threads there were. */
static double multiply_slice(const fma_loop *loop, int threads, int64_t rounds, int *out_team) {
    int team = 0;
    float sum = 0;
    double start = kin_seconds();
#pragma omp parallel num_threads(threads) reduction(+ : team, sum) if (threads > 1)
    {
        team += 1;
        sum += loop->run(rounds, 0.9999999f, 1e-7f);
    }
    double seconds = kin_seconds() - start;
    *out_team = sum == sum ? team : 0; /* never NaN: the sum is used, so it is computed */
    return seconds;
}

static void measure_multiply(int threads, double seconds, kin_bench_peak *peak) {
    fma_loop loop = widest_loop();
    int64_t rounds = 20000;
    double end = kin_seconds() + seconds, per_round = 2.0 * CHAINS * loop.lanes;
    peak->isa = loop.isa;
    do {
        int team = 0;
        double spent = multiply_slice(&loop, threads, rounds, &team);
        double rate = per_round * (double)rounds * team / spent;
        if (rate > peak->flops) peak->flops = rate;
        peak->threads = team;
        if (spent < 2e-3) rounds *= 2;
    } while (kin_seconds() < end);
}

static double copy_slice(unsigned char *target, const unsigned char *source, int threads) {
    const int64_t part = COPY_BYTES / threads / 64 * 64;
    double start = kin_seconds();
#pragma omp parallel for num_threads(threads) schedule(static) if (threads > 1)
    for (int t = 0; t < threads; t++) memcpy(target + t * part, source + t * part, (size_t)part);
    return 2.0 * (double)(part * threads) / (kin_seconds() - start);
}

kin_status kin_bench_peak_measure(kin_context *context, int threads, double seconds,
                                  kin_bench_peak *out_peak) {
    *out_peak = (kin_bench_peak){.threads = threads};
    if (threads < 1)
        return kin_fail(context, KIN_INVALID, "the peak wants at least one thread, not %d",
                        threads);
    measure_multiply(threads, seconds, out_peak);
    unsigned char *memory = kin_alloc(context, 2 * (size_t)COPY_BYTES);
    if (!memory) return KIN_OUT_OF_MEMORY;
    memset(memory, 1, 2 * (size_t)COPY_BYTES);
    double end = kin_seconds() + seconds;
    do {
        double rate = copy_slice(memory + COPY_BYTES, memory, threads);
        if (rate > out_peak->bytes) out_peak->bytes = rate;
    } while (kin_seconds() < end);
    kin_free(context, memory);
    return KIN_OK;
}
