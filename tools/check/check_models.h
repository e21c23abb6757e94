/* The tiny models that `kinora check model` runs on a device. A model joins with one row in
 * tools/check/check_model_list.c. */
#ifndef KIN_TOOLS_CHECK_MODELS_H
#define KIN_TOOLS_CHECK_MODELS_H

#include "models/layers.h"

/* What a model does in a text-to-video system, which needs one of each. */
typedef enum kin_check_role {
    KIN_CHECK_TEXT_ENCODER,
    KIN_CHECK_DENOISER, /* is sampled from, too */
    KIN_CHECK_DECODER,  /* of latents */
    KIN_CHECK_ENCODER,  /* of images: for training */
    KIN_CHECK_ROLES
} kin_check_role;

enum { KIN_CHECK_VOCABULARY = 24, KIN_CHECK_TEXT_LENGTH = 6, KIN_CHECK_BLOCKS = 2 };

typedef struct kin_check_model {
    const char *name;
    kin_check_role role;
    kin_dtype dtype; /* of x: KIN_F32, or KIN_I32 for ids below KIN_CHECK_VOCABULARY */
    int rank;
    int64_t dims[5]; /* of x; of a denoiser [B, C, T, Y, X] */
    /* Appends the model with so many blocks (1, or KIN_CHECK_BLOCKS) and returns its result in f32.
     * x is the input above; timestep f32 [B] is KIN_NONE unless the model is a denoiser. Further
     * inputs are its own, named as tools/check/check_values.h says, captions KIN_CHECK_TEXT_LENGTH tokens
     * long at most. B may be more than dims[0]: the sampler doubles it for guidance. */
    kin_tensor (*append)(kin_graph *graph, const kin_precision *precision, int blocks, kin_tensor x,
                         kin_tensor timestep);
    /* Appends the published training loss with inputs of its own. NULL: the mean square of the
     * result's difference from an input. */
    kin_tensor (*append_loss)(kin_graph *graph, const kin_precision *precision);
} kin_check_model;

/* Ended by an empty row. */
extern const kin_check_model kin_check_models[];
/* The row of a name, or NULL. */
const kin_check_model *kin_check_model_find(const char *name);

/* What is done with a model (check_model_build.c). Each returns KIN_OK or the graph's first error.
 *
 * One pass: input "x" or "ids", output "out"; with gradients also those of sum(out * cotangent) as
 * outputs "gradient.NAME" of everything trained and "gradient.x". */
kin_status kin_check_append_forward(kin_graph *graph, const kin_check_model *model,
                                    const kin_precision *precision, int blocks, bool gradients);
/* A training step with AdamW, clipping and averages; output "loss" and others. */
kin_status kin_check_append_training(kin_graph *graph, const kin_check_model *model,
                                     const kin_precision *precision);
/* One of `steps` sampling steps, as Open-Sora samples: ancestral, three channels guided. Inputs
 * "latents", "step" and "noise"; output "next". */
kin_status kin_check_append_sampling(kin_graph *graph, const kin_check_model *model,
                                     const kin_precision *precision, int steps);

#endif
