/* Training: the configuration, the loop, and the two tasks (autoencoder, text to video). */
#ifndef KIN_TOOLS_TRAIN_H
#define KIN_TOOLS_TRAIN_H

#include "models/training.h"
#include "runtime/events.h"
#include "runtime/plan.h"
#include "runtime/tokenizer.h"
#include "tools/dataset.h"

#include <jansson.h>
#include <stdio.h>

typedef enum kin_train_task { KIN_TRAIN_VAE, KIN_TRAIN_VIDEO } kin_train_task;

enum { KIN_TRAIN_MAX_PROMPTS = 16 };

/* One configuration file; docs/training.md lists the keys. Strings belong to `root`. */
typedef struct kin_train_config {
    json_t *root; /* with all --set applied */
    kin_train_task task;
    const char *output;
    kin_dataset_options data;
    /* optimisation */
    int64_t steps, batch_size, accumulate_steps, warmup_steps, seed;
    double learning_rate, min_learning_rate; /* the latter: where a cosine ends */
    bool cosine;
    kin_optimizer_options optimizer;
    kin_precision precision;
    uint64_t memory; /* 0: no limit */
    bool recompute;  /* every segment, whatever the memory */
    int64_t log_every, checkpoint_every, keep_checkpoints;
    int64_t stop_at; /* no key: stops there as Ctrl-C does, if not 0 (for kinora check resume) */
    /* vae */
    kin_sd_vae_config vae;
    kin_sd_vae_loss_options loss;
    int64_t frames_per_clip; /* images that one clip gives to a batch */
    /* text to video */
    const char *vae_path, *init_path;
    kin_stdit_config denoiser;
    kin_t5_config text_encoder;
    bool posterior_mean; /* latents are the means of the vae's posterior, not samples */
    bool from_scratch;   /* models/stdit_start.h, in place of the published start */
    bool train_text_encoder;
    const char *text_encoder_path;
    const char *tokenizer_path;
    int64_t tokenizer_vocabulary;
    double caption_dropout;
    kin_timestep_options timesteps;
    int64_t validate_every, validation_steps;
    double validation_cfg_scale;
    kin_sampler_method validation_method;
    const char *validation_prompts[KIN_TRAIN_MAX_PROMPTS];
    size_t validation_prompt_count;
} kin_train_config;

/* Reads and checks a file, with `sets` ("key=value") applied. Unknown keys are errors that name the
 * nearest one. */
kin_status kin_train_config_load(kin_context *context, const char *path, const char *const *sets,
                                 int set_count, kin_train_config *out_config);
void kin_train_config_free(kin_train_config *config);

typedef struct kin_trainer kin_trainer;

/* What a task gives to the loop. */
typedef struct kin_train_task_ops {
    /* Appends the loss to a fresh graph. */
    kin_tensor (*loss)(void *task, kin_graph *graph);
    /* Weights that files provide, once the store has all variables. May be NULL. */
    kin_status (*load)(void *task, kin_store *store);
    /* Writes the inputs of micro step `index` (counted over the whole run, from 0) to the plan. */
    kin_status (*write)(void *task, kin_plan *plan, int64_t index);
    /* After each validate_every steps and at the end. May be NULL. */
    kin_status (*validate)(void *task, kin_store *store, int64_t step);
    /* Writes the model's folder from the store. */
    kin_status (*export)(void *task, kin_store *store);
    /* Names of scalar outputs to log beside the loss, NULL at the end. */
    const char *const *metrics;
} kin_train_task_ops;

/* Result of a run: KIN_CANCELLED after Ctrl-C with the state saved. */
kin_status kin_train_run(kin_context *context, kin_device *device, const kin_train_config *config,
                         const kin_train_task_ops *ops, void *task, bool resume, bool quiet);

/* The tasks. */
kin_status kin_train_vae(kin_context *context, kin_device *device, const kin_train_config *config,
                         bool resume, bool quiet);
kin_status kin_train_video(kin_context *context, kin_device *device, const kin_train_config *config,
                           bool resume, bool quiet);
/* Either, as the configuration says. */
kin_status kin_train(kin_context *context, kin_device *device, const kin_train_config *config,
                     bool resume, bool quiet);

/* Makes the folder if needed, locks it against a second trainer (KIN_IO if there is one), and
 * removes the unfinished files of a trainer that was killed. */
kin_status kin_train_folder_lock(kin_context *context, const char *output, int *out_lock);
void kin_train_folder_unlock(int lock);

/* The newest whole checkpoint of a run: its path in fresh memory and its step; KIN_NOT_FOUND. */
kin_status kin_train_checkpoint_find(kin_context *context, const char *output, char **out_path,
                                     int64_t *out_step);
/* OUTPUT/checkpoint-00001234.safetensors in fresh memory. */
char *kin_train_checkpoint_path(kin_context *context, const char *output, int64_t step);
/* Removes all but the newest `keep`. */
void kin_train_checkpoint_prune(kin_context *context, const char *output, int64_t keep);

/* Metrics of a run: OUTPUT/metrics.jsonl and OUTPUT/events.out.tfevents.*. */
typedef struct kin_metrics kin_metrics;
/* Drops what an earlier run logged after `step`, from both. */
kin_status kin_metrics_open(kin_context *context, const char *output, int64_t step,
                            kin_metrics **out_metrics);
kin_status kin_metrics_write(kin_metrics *metrics, int64_t step, const char *const *names,
                             const double *values, size_t count);
kin_status kin_metrics_close(kin_metrics *metrics);

#endif
