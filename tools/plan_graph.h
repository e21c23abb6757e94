/* A model and a size from the command line, made into a graph: for verbs that plan or run one step
 * of it without a configuration of a training. */
#ifndef KIN_TOOLS_PLAN_GRAPH_H
#define KIN_TOOLS_PLAN_GRAPH_H

#include "tools/model_choice.h"
#include "tools/tool.h"

typedef struct kin_plan_request {
    /* from the flags */
    const char *size, *compute, *weights, *part;
    int64_t batch, text_length;
    bool train;
    /* made by kin_plan_request_check and by kin_model_choose */
    int64_t frames, height, width;
    kin_precision precision;
    kin_model_choice choice;
} kin_plan_request;

/* One clip of 16x256x256, f32. */
kin_plan_request kin_plan_request_default(void);

#define KIN_PLAN_FLAGS(request)                                                                    \
    {.name = "size",                                                                               \
     .argument = "TxHxW",                                                                          \
     .text = &(request)->size,                                                                     \
     .help = "frames, rows and columns of the video; default 16x256x256"},                         \
        {.name = "batch",                                                                          \
         .letter = 'b',                                                                            \
         .argument = "N",                                                                          \
         .integer = &(request)->batch,                                                             \
         .help = "clips"},                                                                         \
        {.name = "train",                                                                          \
         .on = &(request)->train,                                                                  \
         .help = "a whole training step, AdamW and EMA included"},                                 \
        {.name = "compute",                                                                        \
         .argument = "DTYPE",                                                                      \
         .text = &(request)->compute,                                                              \
         .help = "f32 (default), bf16 or f16, between the layers"},                                \
        {.name = "weights",                                                                        \
         .argument = "DTYPE",                                                                      \
         .text = &(request)->weights,                                                              \
         .help = "f32 (default), bf16, f16 or, without --train, q8_0, of the weights"},            \
        {.name = "text-length",                                                                    \
         .argument = "N",                                                                          \
         .integer = &(request)->text_length,                                                       \
         .help = "tokens of a caption; default: the model's"},                                     \
    {                                                                                              \
        .name = "part", .argument = "NAME", .text = &(request)->part,                              \
        .help = "of a VAE without --train: encoder or decoder (default)"                           \
    }

/* Reads what the flags gave. -1 to go on, or the exit status of a usage error. */
int kin_plan_request_check(kin_plan_request *request, const char *verb);
/* Tokens of a caption: what the flag says, else the model's own. */
int64_t kin_plan_text_length(const kin_plan_request *request);
/* Appends the model to an empty graph. Forward passes read "x", "timestep", "y", "y_lengths"
 * (denoisers), "ids", "lengths" (text encoders), "images" or "latents" (VAEs), and end in an
 * output; training steps are those of models/training.h. KIN_OK, or the
 * graph's first error. */
kin_status kin_plan_append(kin_graph *graph, const kin_plan_request *request);

#endif
