/* kinora generate, in parts: the request as the command line has it (generate.c), what it comes to
 * with the model's defaults (generate_setup.c), its clips made batch by batch (generate_run.c
 * with generate_clip.c, generate_pass.c, generate_text.c and generate_conditions.c), and what it
 * would do (generate_dry.c). */
#ifndef KIN_TOOLS_GENERATE_H
#define KIN_TOOLS_GENERATE_H

#include "tools/generate/conditions.h"
#include "tools/generate/generate_job.h"
#include "tools/generate/generate_stages.h"
#include "tools/generate/pipeline.h"
#include "tools/tool.h"

enum { KIN_GENERATE_LIST = 256 };

/* The flags. Numbers that were not given are 0, or -1 where 0 means something. */
typedef struct kin_generate_request {
    const char *model, *output, *memory, *dtype, *cut, *noise, *sampler, *prompt_file, *negative;
    const char *resolution, *aspect_ratio;
    const char *prompts[KIN_GENERATE_LIST], *reference_paths[KIN_GENERATE_LIST],
        *mask_strategies[KIN_GENERATE_LIST];
    int prompt_count, reference_count, strategy_count;
    kin_system_overrides overrides;
    kin_condition_task task;
    int64_t width, height, frames, steps, seed, cfg_channels, samples, batch_size, passes, overlap,
        interval;
    double fps, model_fps, cfg_scale, eta;
    bool karras, sde, join, keep_stages, keep_given, overwrite, dry_run, no_clean;
} kin_generate_request;

/* A command at work. */
typedef struct kin_generate {
    const kin_generate_request *request;
    kin_context *context;
    kin_pipeline pipeline;
    kin_generation shape; /* frames, height, width, fps and sampling of every clip's pass */
    kin_passes passes;
    kin_vae_shape vae;
    int64_t latent_frames;                     /* of a pass */
    int64_t out_height, out_width, out_frames; /* of the whole video, as decoded */
    double fps;                                /* of the file */
    char *sampler;                             /* in words */
    const char *negative; /* of prompts that have none of their own; NULL: the null caption */
    char *task_path, *task_strategy;               /* of the shorthand */
    char *text_files, *latent_files, *frame_files; /* fingerprints */
    kin_prompts prompts;
    kin_job job;
    int64_t file_height, file_width; /* as decoded, or scaled to */
    uint64_t seed;
    bool quiet;
} kin_generate;

/* Opens the model, reads the prompts and makes the list of clips. */
kin_status kin_generate_open(kin_common *common, const kin_generate_request *request,
                             kin_generate *out_generate);
void kin_generate_close(kin_generate *g);
/* There is guidance, so a null caption or a negative prompt. */
bool kin_generate_guided(const kin_generate *g);

/* One clip with what it is made from. */
typedef struct kin_clip_work {
    const kin_job_clip *clip;
    const char *reference_path, *mask_strategy, *negative;
    kin_conditions conditions;
    char *parameters; /* what is kept as the video's comment */
    char *text_key, *latent_key, *frame_key;
    int64_t joined; /* frames of the extended video that the file has besides; 0: none */
    kin_job_state state;
    bool needs_text; /* some pass is still to be sampled */
    /* while it is made */
    kin_text text, negative_text; /* a row for each pass; of one text for all passes: one row */
    kin_host_tensor *references;  /* latents [1, C, T', Y', X'] of files, then of passes */
    kin_host_tensor video;        /* [3, T, Y, X] of the whole clip */
} kin_clip_work;

/* Finds a clip's conditions, texts of keys, and what is there of it. KIN_INVALID if it cannot be
 * made. */
kin_status kin_clip_open(kin_generate *g, size_t index, kin_clip_work *out_work);
void kin_clip_close(kin_generate *g, kin_clip_work *work);
/* Frames are given in some pass, or passes are joined: the sampler has masks. */
bool kin_clip_masked(const kin_generate *g, const kin_clip_work *work);

/* The stage of the texts, and how its tensors must be like. */
kin_stage kin_text_stage(const kin_clip_work *work);
void kin_text_wants(const kin_generate *g, const kin_clip_work *work, kin_desc out_want[4]);
/* Encodes the texts of clips that need them and are not encoded yet, all with one loading of the
 * text encoder. */
kin_status kin_generate_texts(kin_generate *g, kin_clip_work *work, size_t count);
/* Reads a clip's texts from its stage. */
kin_status kin_clip_load_text(kin_generate *g, kin_clip_work *work);
/* The texts of a pass of some clips, for kin_text_free. */
kin_status kin_generate_gather(kin_generate *g, kin_clip_work *const *work, size_t count, int pass,
                               bool negative, kin_text *out_text);

/* The clip's video with work->joined frames of the one that it extends before or behind it: a new
 * tensor [3, T, Y, X]. */
kin_status kin_clip_join(kin_generate *g, const kin_clip_work *work, kin_host_tensor *out_video);
/* Latents of the clip's files. */
kin_status kin_clip_encode_files(kin_generate *g, kin_clip_work *work);
/* Latents of the frames that later passes take from `pass`, whose frames are [1, 3, T, Y, X]. */
kin_status kin_clip_encode_pass(kin_generate *g, kin_clip_work *work, int pass,
                                const kin_host_tensor *frames);

/* Clips that are made one pass after the other with one loading of the weights, `together` of them
 * in each step. Which clips are together depends on the job alone, and all of them are sampled when
 * one is missing, so that a run that was stopped gives the same bits. */
typedef struct kin_clip_batch {
    kin_generate *g;
    kin_clip_work **work;
    size_t count, together; /* count: a multiple of together */
} kin_clip_batch;

/* Some clip has neither frames nor latents of pass `first` or of one after it. */
bool kin_batch_to_sample(const kin_clip_batch *batch, int first);
/* Makes a pass's latents and frames where they are not there, and puts the frames into the clips'
 * videos. */
kin_status kin_batch_make_pass(const kin_clip_batch *batch, int pass);

/* Scales a video [3, T, Y, X] bilinearly by the smallest factor that covers the size and cuts out
 * the middle, as diffusers does after PixArt: a new tensor. */
kin_status kin_generate_fit(kin_context *context, const kin_host_tensor *video, int64_t height,
                            int64_t width, kin_host_tensor *out_video);

/* Makes all that is not there. */
kin_status kin_generate_run(kin_generate *g);
/* Prints what would be made, and what it takes. */
kin_status kin_generate_dry_run(kin_generate *g);

#endif
