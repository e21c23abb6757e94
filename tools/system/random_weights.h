/* Random weights of a model under the names, in the shapes and with the statistics of the published
 * files, made piece by piece while they are written. */
#ifndef KIN_TOOLS_RANDOM_WEIGHTS_H
#define KIN_TOOLS_RANDOM_WEIGHTS_H

#include "runtime/file.h"
#include "runtime/pickle_write.h"
#include "tools/model_choice.h"

typedef struct kin_random_weights {
    kin_context *context;
    kin_graph *graph; /* whose variables they are */
    uint64_t seed;
    kin_named_tensor *tensors; /* data is NULL where kin_random_weights_fill makes it */
    struct kin_random_tensor *sources;
    size_t count;
    float *rotary;          /* content of a buffer that the original stores, or NULL */
    kin_pickle_alias alias; /* the second name of T5's table; name NULL for other models */
} kin_random_weights;

/* Lists the model's tensors in `dtype` (kin_weight_dtype says which of them take q8_0). Weights
 * that the original starts at zero, so that a new branch changes nothing, are 0.02 N(0, 1) instead:
 * published weights are not zero, and every layer should do something. old_names: the autoencoder's
 * attention is named as in the files of sd-vae-ft-ema (query, key, value, proj_attn). */
kin_status kin_random_weights_create(kin_context *context, const kin_model_choice *choice,
                                     kin_dtype dtype, uint64_t seed, bool old_names,
                                     kin_random_weights *out_weights);
void kin_random_weights_free(kin_random_weights *weights);
/* A kin_fill_piece; user: kin_random_weights. The same for every number of threads. */
kin_status kin_random_weights_fill(void *user, size_t index, size_t offset, void *bytes,
                                   size_t size);

#endif
