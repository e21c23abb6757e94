/* Rows of q and k, and of their gradients, in memory: what self_attention.cu does to them where no
 * kernel of attention does it on the way (self_rows.cu). */
#ifndef KIN_BACKENDS_CUDA_SELF_ATTENTION_CUH
#define KIN_BACKENDS_CUDA_SELF_ATTENTION_CUH

#include "backends/cuda/attention_prepare.cuh"
#include "ops/self_attention_attrs.h"

/* Rows [B, b1, N, H] of q and of k, and where they go. */
struct self_task {
    attention_rows from[2], to[2];
    int b1, heads, tokens, size;
    int part, interleaved; /* of the turns: elements of one axis, and how pairs lie there */
    int64_t rows;          /* of q, and of k */
    attention_prepare prepare;
};

/* Rows whose share of the gains' gradients one block writes, and such shares that one block adds.
 */
enum { SELF_BACK_ROWS = 256, SELF_SUM_ROWS = 256 };

/* The table of turns, [tokens][size]: cosine and sine of each pair. */
kin_status self_make_turns(kin_device *device, kin_commands *commands, const void *positions,
                           const kin_rope_attrs *rope, int tokens, int size, float *table);
/* Prepares rows; or, back, turns the gradients of prepared rows in `to` into those of the rows
 * `from`, in place, with parts [blocks][2][size] of the gains' gradients. packs: rows of at most
 * 128 elements at multiples of 16 bytes, turned by neighbours. */
kin_status self_run_rows(kin_device *device, kin_commands *commands, kin_dtype dtype,
                         const self_task *task, bool packs, bool back);
/* out = the sum of `rows` rows of `parts`; `more` has room for rows / SELF_SUM_ROWS, rounded up. */
kin_status self_sum_gains(kin_device *device, kin_commands *commands, float *parts, float *more,
                          int64_t rows, int columns, kin_ref out);

#endif
