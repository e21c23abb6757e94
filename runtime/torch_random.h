/* PyTorch's random streams, so that a seed gives here the noise that it gave there.
 *
 * The generator of the CPU is mt19937 (Matsumoto and Nishimura 1998, "Mersenne Twister"), of whose
 * seed only the low 32 bits count. Few normals (below 16) are drawn in double, in pairs by Box and
 * Muller's method, of which the second one is kept for the next such call; from 16 on uniforms fill
 * the tensor and are transformed in blocks of 16, in the tensor's own type. PyTorch's builds with
 * AVX2 take logarithm, sine and cosine from polynomials there, so single normals of this library
 * may differ from theirs in the last bit or two. f16 and bf16 are as PyTorch 1.13 draws them.
 *
 * The generator of CUDA devices is Philox4x32-10 (runtime/philox.h): each thread of a launch has a
 * stream of its own, so the values of a large tensor depend on how many threads the card runs. */
#ifndef KIN_RUNTIME_TORCH_RANDOM_H
#define KIN_RUNTIME_TORCH_RANDOM_H

#include "runtime/tensor.h"

#ifdef __cplusplus
extern "C" {
#endif

enum { KIN_TORCH_CPU_WORDS = 624 };

/* torch.Generator("cpu"). To be set by kin_torch_cpu_seed. */
typedef struct kin_torch_cpu {
    uint32_t words[KIN_TORCH_CPU_WORDS];
    int used;  /* words given since they were last mixed */
    bool kept; /* a normal is kept */
    double kept_normal;
} kin_torch_cpu;

/* manual_seed */
KIN_API void kin_torch_cpu_seed(kin_torch_cpu *generator, uint64_t seed);
/* The next 32 bits; and 64, of which the first draw is the high half. */
KIN_API uint32_t kin_torch_cpu_word(kin_torch_cpu *generator);
KIN_API uint64_t kin_torch_cpu_word64(kin_torch_cpu *generator);
/* rand and randn of `count` values of dtype f32, f64, f16 or bf16, dense. Only the count matters,
 * not the shape. false, and nothing drawn, for another dtype. */
KIN_API bool kin_torch_cpu_uniform(kin_torch_cpu *generator, kin_dtype dtype, size_t count,
                                   void *out_values);
KIN_API bool kin_torch_cpu_normal(kin_torch_cpu *generator, kin_dtype dtype, size_t count,
                                  void *out_values);
/* randint: low <= value < high; low < high. */
KIN_API void kin_torch_cpu_integers(kin_torch_cpu *generator, int64_t low, int64_t high,
                                    size_t count, int64_t *out_values);
/* randperm: 0 .. count - 1 in random order. */
KIN_API void kin_torch_cpu_permutation(kin_torch_cpu *generator, size_t count, int64_t *out_values);

/* torch.Generator("cuda"). The card's numbers are those of torch.cuda.get_device_properties: 132
 * multiprocessors of 2048 threads in an H100, 108 of 2048 in an A100. */
typedef struct kin_torch_cuda {
    uint64_t seed, offset;
    uint32_t multiprocessors, threads_per_multiprocessor;
} kin_torch_cuda;

/* rand and randn of `count` values of dtype f32, f16 or bf16 (f32, rounded); each call moves the
 * offset on as a launch does. false, and nothing drawn, for another dtype. */
KIN_API bool kin_torch_cuda_uniform(kin_torch_cuda *generator, kin_dtype dtype, size_t count,
                                    void *out_values);
KIN_API bool kin_torch_cuda_normal(kin_torch_cuda *generator, kin_dtype dtype, size_t count,
                                   void *out_values);
/* low <= value < high, with high - low at most 2^32. */
KIN_API void kin_torch_cuda_integers(kin_torch_cuda *generator, int64_t low, int64_t high,
                                     size_t count, int64_t *out_values);

#ifdef __cplusplus
}
#endif
#endif
