/* What the files of the text-to-video task share. */
#ifndef KIN_TOOLS_TRAIN_VIDEO_H
#define KIN_TOOLS_TRAIN_VIDEO_H

#include "tools/system/system.h"
#include "tools/train/latent_cache.h"
#include "tools/train/text_source.h"
#include "tools/train/train.h"

/* The parts of the model: configurations, and where weights come from. */
typedef struct kin_train_parts {
    kin_context *context;
    kin_denoiser_config denoiser;
    kin_vae_config vae;
    kin_t5_config text;
    kin_part start;      /* weights of the denoiser to begin with; path NULL: none */
    bool start_is_run;   /* they are a checkpoint of kinora, which has the text encoder's, too */
    kin_part vae_files;  /* of the autoencoder */
    kin_part text_files; /* of the text encoder; path NULL: it begins anew */
    char *tokenizer;     /* spiece.model; NULL: one is trained on the captions */
    kin_system_defaults defaults; /* for samples of what is trained */
} kin_train_parts;

/* Finds and configures them, and checks that they fit each other and the data. */
kin_status kin_train_parts_open(kin_context *context, const kin_train_config *config,
                                kin_train_parts *out_parts);
void kin_train_parts_close(kin_train_parts *parts);

/* The captions of the data set as tokens, and of the empty caption as one more. */
typedef struct kin_train_captions {
    int32_t *ids, *lengths; /* [count + 1, length], [count + 1] */
    int64_t count, length;
} kin_train_captions;

/* Trains the tokenizer first if there is none: parts->tokenizer then is OUTPUT/spiece.model. */
kin_status kin_train_captions_open(kin_context *context, const kin_train_config *config,
                                   kin_train_parts *parts, kin_dataset *data,
                                   kin_train_captions *out_captions);
void kin_train_captions_close(kin_context *context, kin_train_captions *captions);

typedef struct kin_video_task {
    kin_context *context;
    kin_device *device;
    const kin_train_config *config;
    bool quiet;
    kin_train_parts parts;
    kin_train_captions captions;
    kin_schedule *schedule;
    kin_dataset *data;
    kin_train_order *order;
    kin_latent_cache *latents;
    kin_text_source *text; /* NULL if the text encoder is trained */
    /* what the configuration leaves to the system */
    double null_share; /* of captions */
    bool attend_padding, plan_loss;
    kin_plan_loss_options plan;
    /* one batch, as large as the largest */
    float *moments, *features, *masks, *real, *fps;
    int32_t *ids, *lengths;
    int64_t *texts;
} kin_video_task;

/* Frames a second of what the model makes: that of the clips, or 8 if they do not say. */
double kin_train_clip_rate(const kin_video_task *task);
/* OUTPUT/model: a folder that `kinora generate` takes, with averaged weights. */
kin_status kin_train_export(kin_video_task *task, kin_store *store);
/* Exports what there is and generates the validation prompts: OUTPUT/validation/STEP-N.mp4. */
kin_status kin_train_validate(kin_video_task *task, kin_store *store, int64_t step);

#endif
