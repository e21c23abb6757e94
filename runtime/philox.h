/* Philox4x32-10: random numbers as a function of a key and a counter (Salmon, Moraes, Dror and
 * Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC 2011), and the draws of tensors made from
 * it.
 *
 * Element i of a tensor that is drawn for (seed, stream, step) uses word i % 4 of the block i / 4:
 *     key     = { low half of seed, high half of seed }
 *     counter = { low 32 bits of block, low 32 bits of step, stream,
 *                 bits 32..47 of block | bits 32..47 of step << 16 }
 * so any element can be drawn alone, on any device, in any order. `stream` tells draws of one step
 * apart (one number per random node); block and step are taken modulo 2^48.
 *     uniform(i) = kin_philox_uniform(word[i % 4])
 *     normal(i)  = value i % 2 of the pair made of words 0, 1 (i % 4 < 2) or 2, 3
 * The conversions of words are those of PyTorch's CUDA generator. */
#ifndef KIN_RUNTIME_PHILOX_H
#define KIN_RUNTIME_PHILOX_H

#include "runtime/context.h"

#ifdef __cplusplus
extern "C" {
#endif

/* One block: ten rounds over the counter with the key. */
KIN_API void kin_philox(const uint32_t counter[4], const uint32_t key[2], uint32_t out_words[4]);
/* The block that holds elements 4*block .. 4*block+3 of a draw. */
KIN_API void kin_philox_block(uint64_t seed, uint32_t stream, uint64_t step, uint64_t block,
                              uint32_t out_words[4]);

/* word * 2^-32 + 2^-33 in float32, and 0 where that rounds to 1: in [0, 1). */
KIN_API float kin_philox_uniform(uint32_t word);
/* Box-Muller in float32: u = x 2^-32 + 2^-33, v = 2 pi (y 2^-32 + 2^-33), s = sqrt(-2 ln u);
 * out_values = { s sin v, s cos v }. */
KIN_API void kin_philox_normal_pair(uint32_t x, uint32_t y, float out_values[2]);

/* Element `index` of a draw, alone. */
KIN_API uint32_t kin_philox_element(uint64_t seed, uint32_t stream, uint64_t step, uint64_t index);
KIN_API float kin_philox_element_uniform(uint64_t seed, uint32_t stream, uint64_t step,
                                         uint64_t index);
KIN_API float kin_philox_element_normal(uint64_t seed, uint32_t stream, uint64_t step,
                                        uint64_t index);

/* Elements first .. first+count-1 of a draw. */
KIN_API void kin_philox_fill_uniform(uint64_t seed, uint32_t stream, uint64_t step, uint64_t first,
                                     size_t count, float *out_values);
KIN_API void kin_philox_fill_normal(uint64_t seed, uint32_t stream, uint64_t step, uint64_t first,
                                    size_t count, float *out_values);

#ifdef __cplusplus
}
#endif
#endif
