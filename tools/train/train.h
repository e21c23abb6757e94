/* Training: the configuration, the loop, and the two tasks (autoencoder, text to video). */
#ifndef KIN_TOOLS_TRAIN_H
#define KIN_TOOLS_TRAIN_H

#include "models/training.h"
#include "runtime/events.h"
#include "runtime/plan.h"
#include "runtime/tokenizer.h"
#include "tools/data/dataset.h"
#include "tools/ranks.h"
#include "tools/train/train_order.h"

#include <jansson.h>
#include <stdio.h>

typedef enum kin_train_task { KIN_TRAIN_VAE, KIN_TRAIN_VIDEO } kin_train_task;

enum { KIN_TRAIN_MAX_PROMPTS = 16, KIN_TRAIN_MAX_STAGES = 64 };

/* Open-Sora 1.1's masks of frames: kinds, in the order in which they are drawn. Those of "quarter"
 * give a run of up to a quarter of the frames, those of "image" one frame. */
typedef enum kin_frame_mask_kind {
    KIN_MASK_NO,
    KIN_MASK_QUARTER_RANDOM,
    KIN_MASK_QUARTER_HEAD,
    KIN_MASK_QUARTER_TAIL,
    KIN_MASK_QUARTER_HEAD_TAIL,
    KIN_MASK_IMAGE_RANDOM,
    KIN_MASK_IMAGE_HEAD,
    KIN_MASK_IMAGE_TAIL,
    KIN_MASK_IMAGE_HEAD_TAIL,
    KIN_MASK_KINDS
} kin_frame_mask_kind;

/* "mask_no", "mask_quarter_random", ... */
extern const char *const kin_frame_mask_names[KIN_MASK_KINDS];
/* Draws one sample's mask: 1 for frames to learn, 0 for given ones. It depends on (seed, index,
 * sample) alone. ratios: probabilities of the kinds, whose sum is 1. */
void kin_frame_mask_draw(const double ratios[KIN_MASK_KINDS], uint64_t seed, int64_t index,
                         int64_t sample, int64_t frames, float *out_mask);

typedef enum kin_train_objective {
    KIN_OBJECTIVE_AUTO, /* what the denoiser was published with */
    KIN_OBJECTIVE_IDDPM,
    KIN_OBJECTIVE_PLAN /* Open-Sora-Plan's */
} kin_train_objective;

/* Samples that are made while training goes on. */
typedef struct kin_validation_options {
    int64_t every, steps; /* steps 0, cfg_scale below 0: as recommended */
    double cfg_scale;
    const char *method;            /* NULL: the system's */
    int64_t frames, height, width; /* 0: the system's */
    double fps;                    /* that the model is told; 0: the system's */
    const char *prompts[KIN_TRAIN_MAX_PROMPTS];
    size_t prompt_count;
} kin_validation_options;

/* One configuration file; docs/training.md lists the keys. Strings belong to `root`. */
typedef struct kin_train_config {
    json_t *root; /* with all --set applied */
    kin_train_task task;
    const char *output;
    kin_dataset_options data;
    kin_train_order_options order; /* seed, batch, clip and so on are taken from the other fields */
    /* optimisation */
    int64_t steps, batch_size, accumulate_steps, warmup_steps, seed;
    double learning_rate, min_learning_rate; /* the latter: where a cosine ends */
    bool cosine;
    kin_optimizer_options optimizer;
    kin_precision precision;
    uint64_t memory;         /* 0: no limit */
    kin_recompute recompute; /* at the least, whatever the memory */
    int64_t log_every, checkpoint_every, keep_checkpoints;
    int64_t stop_at; /* no key: stops there as Ctrl-C does, if not 0 (for kinora check resume) */
    /* vae */
    kin_sd_vae_config vae;
    kin_sd_vae_loss_options loss;
    int64_t frames_per_clip; /* images that one clip gives to a batch */
    /* text to video */
    const char *model_path; /* a system that all parts are taken from unless they are given */
    const char *vae_path, *init_path;
    bool has_denoiser; /* else it is the model's */
    kin_denoiser_config denoiser;
    kin_t5_config text_encoder; /* d_model 0: not given */
    bool posterior_mean;        /* latents are the means of the vae's posterior, not samples */
    bool from_scratch;          /* models/stdit_start.h, in place of the published start */
    bool train_text_encoder;
    const char *text_encoder_path;
    const char *tokenizer_path;
    int64_t tokenizer_vocabulary;
    double caption_dropout; /* below 0: as published */
    bool clean_captions, features_each_batch;
    kin_dtype text_dtype; /* in which a text encoder that is not trained is held */
    int attend_padding;   /* of captions; -1: as published */
    kin_train_objective objective;
    double noise_offset, snr_gamma; /* below 0: as published */
    kin_plan_target target;
    bool frame_masks;
    double mask_ratios[KIN_MASK_KINDS];
    kin_timestep_options timesteps;
    kin_validation_options validation;
    /* stages: runs one after the other, each from the weights of the one before */
    kin_context *context; /* of stages */
    struct kin_train_config *stages;
    int stage_count;
    int only_stage;   /* no key: number, from 1, of the one stage to run; 0: all */
    int stop_stage;   /* no key: the stage, from 1, that stop_at is meant for */
    kin_ranks *ranks; /* no key: the processes that share each batch; NULL: this one alone. They are
                         the group of the device */
} kin_train_config;

/* Processes of the run, and this one's number. */
int kin_train_ranks(const kin_train_config *config);
int kin_train_rank(const kin_train_config *config);
/* Calls `work`, unless `status` is an error: first rank 0 alone, which leaves files, then the
 * others, which find them. All ranks call it, and get one status. */
kin_status kin_train_in_turn(const kin_train_config *config, kin_status status,
                             kin_status (*work)(void *user), void *user);
/* Rank 0 alone. */
kin_status kin_train_on_first(const kin_train_config *config, kin_status status,
                              kin_status (*work)(void *user), void *user);
/* Makes the others' store equal to rank 0's. */
kin_status kin_train_share(const kin_train_config *config, kin_store *store);
/* True if all ranks hold the same weights and states, in names, shapes and bits. */
kin_status kin_train_compare(const kin_train_config *config, kin_store *store, bool *out_same);

/* Reads and checks a file, with `sets` ("key=value") applied. Unknown keys are errors that name the
 * nearest one. */
kin_status kin_train_config_load(kin_context *context, const char *path, const char *const *sets,
                                 int set_count, kin_train_config *out_config);
void kin_train_config_free(kin_train_config *config);

typedef struct kin_trainer kin_trainer;

/* What a task gives to the loop. */
typedef struct kin_train_task_ops {
    /* Batches have one of so many shapes, each of which has a plan. 0 is 1. */
    int shapes;
    /* The shape of micro step `index`; not called for one shape. */
    kin_status (*shape_of)(void *task, int64_t index, int *out_shape);
    /* Appends the loss of a shape's batches to a fresh graph. */
    kin_tensor (*loss)(void *task, int shape, kin_graph *graph);
    /* Names a shape in messages. */
    void (*shape_name)(void *task, int shape, char *name, size_t size);
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
    /* Device memory that the task keeps to itself. */
    uint64_t memory;
} kin_train_task_ops;

/* Result of a run: KIN_CANCELLED after Ctrl-C with the state saved. */
kin_status kin_train_run(kin_context *context, kin_device *device, const kin_train_config *config,
                         const kin_train_task_ops *ops, void *task, bool resume, bool quiet);

/* The tasks. */
kin_status kin_train_vae(kin_context *context, kin_device *device, const kin_train_config *config,
                         bool resume, bool quiet);
kin_status kin_train_video(kin_context *context, kin_device *device, const kin_train_config *config,
                           bool resume, bool quiet);
/* Runs the stages of a configuration, or the one that only_stage says. */
kin_status kin_train_stages(kin_context *context, kin_device *device,
                            const kin_train_config *config, bool resume, bool quiet);
/* Whichever it is. */
kin_status kin_train(kin_context *context, kin_device *device, const kin_train_config *config,
                     bool resume, bool quiet);

/* The plans of a run, one for each shape of batches. All are made once before the first step, so
 * that the peak over all of them is known; then as many are kept ready as the budget allows, and
 * the others are made again when they are needed. */
typedef struct kin_train_plans kin_train_plans;
/* Adds the variables of all graphs to the store; without one it is only found out whether all fits.
 * KIN_OUT_OF_MEMORY names the shape that does not. */
kin_status kin_train_plans_open(kin_context *context, kin_device *device,
                                const kin_train_config *config, const kin_train_task_ops *ops,
                                void *task, kin_store *store, kin_train_plans **out_plans);
void kin_train_plans_close(kin_train_plans *plans);
/* The prepared plan of a shape. */
kin_status kin_train_plans_get(kin_train_plans *plans, int shape, kin_plan **out_plan);
/* With accumulation the update, once a shape's plan was asked for; else NULL. */
kin_plan *kin_train_plans_apply(kin_train_plans *plans);
/* Gives back the memory of all plans, for work between steps; they are made again when they are
 * needed. The store stays. */
void kin_train_plans_release(kin_train_plans *plans);
/* Logs sizes and the peak. */
void kin_train_plans_tell(const kin_train_plans *plans);

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
