/* The samplers of published pipelines, from their scheduler_config.json.
 *
 * Every sampler here is linear between two calls of the model: what it remembers (the sample, and
 * earlier samples and outputs where it is a multistep method) becomes a linear combination of
 * itself, the model's output, the estimate made of that output, and noise. So a schedule is a table
 * of coefficients, computed on the host in double, and one step's graph serves all samplers on
 * every device: the coefficients of the call are an input, the memory is state on the device.
 *
 * Sources of the formulas:
 *     DDPM      Ho, Jain and Abbeel 2020, arXiv:2006.11239, eq. 7; learned range: Nichol and
 * Dhariwal 2021, arXiv:2102.09672, eq. 15 DDIM      Song, Meng and Ermon 2020, arXiv:2010.02502,
 * eq. 12 and 16 PNDM      Liu, Ren, Lin and Zhao 2022, arXiv:2202.09778, eq. 9 to 13 Euler Karras,
 * Aittala, Aila and Laine 2022, arXiv:2206.00364, algorithm 1 without its last correction, eq. 5
 * for the sigmas; ancestral: the split of sigma of k-diffusion DPM++     Lu et al. 2022,
 * arXiv:2211.01095, algorithm 2 and appendix; the other kinds: arXiv:2206.00927 UniPC     Zhao et
 * al. 2023, arXiv:2302.04867, eq. 3, 9 and 10 (B1: bh1, B2: bh2) flow      Esser et al. 2024,
 * arXiv:2403.03206, section 2 and eq. 23; rectified flow: Liu, Gong and Liu 2022, arXiv:2209.03003
 *     terminal SNR of zero: Lin et al. 2023, arXiv:2305.08891, algorithm 1
 * Names, defaults, the choice of timesteps and the treatment of first and last steps are those of
 * diffusers 0.30 (rectified flow: Open-Sora 1.2), so that a published file means what it meant
 * there. */
#ifndef KIN_MODELS_SCHEDULER_H
#define KIN_MODELS_SCHEDULER_H

#include "models/diffusion.h"
#include "models/layers.h"
#include "runtime/store.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef enum kin_scheduler_kind {
    KIN_SCHEDULER_DDPM,
    KIN_SCHEDULER_DDIM,
    KIN_SCHEDULER_PNDM,
    KIN_SCHEDULER_EULER,
    KIN_SCHEDULER_EULER_ANCESTRAL,
    KIN_SCHEDULER_DPM_MULTISTEP,
    KIN_SCHEDULER_UNIPC,
    KIN_SCHEDULER_FLOW_EULER,
    KIN_SCHEDULER_RECTIFIED_FLOW
} kin_scheduler_kind;

typedef enum kin_beta_schedule {
    KIN_BETAS_LINEAR,
    KIN_BETAS_SCALED_LINEAR, /* the square roots are linear */
    KIN_BETAS_COSINE,        /* squaredcos_cap_v2 */
    KIN_BETAS_SIGMOID
} kin_beta_schedule;

typedef enum kin_prediction {
    KIN_PREDICT_EPSILON, /* the noise */
    KIN_PREDICT_SAMPLE,  /* x0 */
    KIN_PREDICT_V        /* sqrt(A) noise - sqrt(1 - A) x0 */
} kin_prediction;

typedef enum kin_spacing {
    KIN_SPACING_LINSPACE,
    KIN_SPACING_LEADING,
    KIN_SPACING_TRAILING
} kin_spacing;

typedef enum kin_variance {
    KIN_VARIANCE_FIXED_SMALL,
    KIN_VARIANCE_FIXED_LARGE,
    KIN_VARIANCE_LEARNED_RANGE /* the model's second half of channels */
} kin_variance;

typedef enum kin_dpm_algorithm {
    KIN_DPM_PLUS_PLUS,     /* dpmsolver++ */
    KIN_DPM_SDE_PLUS_PLUS, /* sde-dpmsolver++ */
    KIN_DPM_PLAIN,         /* dpmsolver */
    KIN_DPM_SDE            /* sde-dpmsolver */
} kin_dpm_algorithm;

enum { KIN_SCHEDULER_MAX_ORDER = 3, KIN_SCHEDULER_MAX_DISABLED = 64 };

/* scheduler_config.json; keys have the names of the file's unless said. */
typedef struct kin_scheduler_config {
    kin_scheduler_kind kind; /* _class_name, or type of Open-Sora's configs */
    int train_steps;         /* num_train_timesteps; num_timesteps */
    kin_beta_schedule beta_schedule;
    double beta_start, beta_end;
    bool zero_snr; /* rescale_betas_zero_snr */
    kin_prediction prediction;
    kin_spacing spacing;
    int steps_offset;
    bool clip_sample;
    double clip_sample_range;
    kin_variance variance; /* DDPM; the others take the first half of a learned output */
    bool set_alpha_to_one, skip_prk_steps;
    bool karras_sigmas, lu_lambdas; /* use_ ... */
    double sigma_min, sigma_max;    /* of Karras' sigmas; 0: the schedule's own */
    bool continuous_timesteps;      /* timestep_type */
    bool final_sigma_min;           /* final_sigmas_type is sigma_min, not zero */
    int solver_order;               /* 1 to KIN_SCHEDULER_MAX_ORDER */
    kin_dpm_algorithm algorithm;    /* algorithm_type */
    bool second_order_heun;         /* DPM: solver_type is heun, not midpoint */
    bool b1;                        /* UniPC: solver_type is bh1, not bh2 */
    bool predict_x0;
    bool lower_order_final, euler_at_final;
    double lambda_min_clipped; /* -HUGE_VAL: not clipped */
    int disabled_correctors;   /* entries of disable_corrector */
    int disable_corrector[KIN_SCHEDULER_MAX_DISABLED];
    double shift;
    bool dynamic_shifting;
    double base_shift, max_shift, base_image_seq_len, max_image_seq_len;
    bool discrete_timesteps, timestep_transform; /* rectified flow: use_ ... */
    int sampling_steps;                          /* rectified flow: num_sampling_steps; else 0 */
    double cfg_scale;                            /* rectified flow; else 0 */
} kin_scheduler_config;

/* What a class's own defaults are. */
KIN_API kin_scheduler_config kin_scheduler_config_default(kin_scheduler_kind kind);
/* Reads a parsed file. KIN_INVALID for a class or a key that is unknown, with the nearest name, and
 * for values out of range; KIN_UNSUPPORTED for what is known and not done here (thresholding,
 * trained_betas, exponential or beta sigmas). Keys that belong to another class are read over, as
 * diffusers does: pipelines share their files between classes. */
KIN_API kin_status kin_scheduler_config_parse(kin_context *context, const struct json_t *json,
                                              const char *where, kin_scheduler_config *out_config);
/* The reverse, with the keys of the class. The caller frees it with json_decref. */
KIN_API kin_status kin_scheduler_config_json(kin_context *context,
                                             const kin_scheduler_config *config,
                                             struct json_t **out_json);
/* Reads the file at `path`, or scheduler_config.json in that folder. */
KIN_API kin_status kin_scheduler_config_load(kin_context *context, const char *path,
                                             kin_scheduler_config *out_config);
/* "DDIMScheduler", ... */
KIN_API const char *kin_scheduler_name(kin_scheduler_kind kind);

/* What a run has beside the configuration. */
typedef struct kin_scheduler_options {
    int steps;  /* num_inference_steps; rectified flow: 0 takes the configuration's */
    double eta; /* DDIM */
    double mu;  /* flow with dynamic shifting: see kin_scheduler_mu */
    /* Rectified flow with use_timestep_transform: the sizes in pixels and frames of each of `rows`
     * samples. The others take rows 0 or 1. */
    int rows;
    const double *heights, *widths, *frames;
} kin_scheduler_options;

/* Columns of a row of coefficients. From KIN_COEF_NEXT on, slots + 3 for each slot of the memory:
 * what its next value takes of every slot, of the model's output, the estimate and the noise. */
enum {
    KIN_COEF_INPUT,      /* of the sample, as the model sees it */
    KIN_COEF_TIMESTEP,   /* what the model is told */
    KIN_COEF_ESTIMATE_X, /* the estimate is this times the sample */
    KIN_COEF_ESTIMATE_M, /* + this times the output, clamped to +-clip */
    KIN_COEF_LOG_A,      /* learned range: the noise is multiplied by exp(this */
    KIN_COEF_LOG_B,      /* + this times the output's second half) */
    KIN_COEF_NEXT
};

enum { KIN_SCHEDULER_MAX_SLOTS = 8 };

/* The table of one run. */
typedef struct kin_scheduler {
    kin_context *context;
    kin_scheduler_config config;
    int steps, calls;     /* asked for; calls of the model */
    int rows;             /* 1, or a row of coefficients for each sample */
    int slots;            /* tensors that are remembered; slot 0 is the sample */
    int columns;          /* KIN_COEF_NEXT + slots * (slots + 3) */
    double *timesteps;    /* [calls, rows] */
    bool whole_timesteps; /* all are integers */
    double *sigmas;       /* [sigma_count]; NULL where the sampler has none */
    int sigma_count;
    double *alphas_cumprod;  /* [config.train_steps]; NULL for flows */
    double init_noise_sigma; /* the first sample is this times N(0, 1) */
    double clip;             /* of the estimate; HUGE_VAL: none */
    double *coefficients;    /* [calls, rows, columns] */
    bool *draws;             /* [calls]: the original draws noise in this call, used or not */
} kin_scheduler;

/* KIN_INVALID if the class cannot make so many steps or a coefficient is not finite (epsilon
 * prediction with a terminal SNR of zero, for one). */
KIN_API kin_status kin_scheduler_create(kin_context *context, const kin_scheduler_config *config,
                                        const kin_scheduler_options *options,
                                        kin_scheduler **out_scheduler);
KIN_API void kin_scheduler_free(kin_scheduler *scheduler);
/* mu of a sequence of `tokens` image tokens: the line through (base_image_seq_len, base_shift) and
 * (max_image_seq_len, max_shift). */
KIN_API double kin_scheduler_mu(const kin_scheduler_config *config, double tokens);
/* Some call takes noise. */
KIN_API bool kin_scheduler_needs_noise(const kin_scheduler *scheduler);
/* x_t = *of_x0 * x0 + *of_noise * noise at a timestep of training; KIN_INVALID if the schedule does
 * not have it (Euler and flows: it must be one of the run's). */
KIN_API kin_status kin_scheduler_noise_factors(const kin_scheduler *scheduler, double timestep,
                                               double *of_x0, double *of_noise);

/* The tensors of one call within a graph. `coefficients` is f32 [rows, columns]; samples are f32
 * of any rank with the batch first; where rows is above 1 it is the batch. */
KIN_API kin_tensor kin_scheduler_input(kin_graph *graph, const kin_scheduler *scheduler,
                                       kin_tensor coefficients, kin_tensor x);
/* f32 [rows] */
KIN_API kin_tensor kin_scheduler_timestep(kin_graph *graph, const kin_scheduler *scheduler,
                                          kin_tensor coefficients);
/* The memory after the call. model_out [B, C or 2C, ...]; noise as the sample, KIN_NONE if
 * kin_scheduler_needs_noise is false. */
KIN_API void kin_scheduler_step(kin_graph *graph, const kin_scheduler *scheduler,
                                kin_tensor coefficients, const kin_tensor *slots,
                                kin_tensor model_out, kin_tensor noise, kin_tensor *out_slots);

/* Classifier-free guidance (Ho and Salimans 2022, arXiv:2207.12598): null + scale (cond - null). */
typedef struct kin_guidance {
    double scale;    /* 1: none, one pass of the model */
    int channels;    /* guide the first so many channels, the others stay conditional; 0: all */
    bool null_first; /* the model's batch is [null; cond], as in diffusers, not [cond; null] */
} kin_guidance;

/* A call as a graph whose memory stays on the device: state "sampler.N" as dims, inputs
 * "coefficients" and, if needed, "noise" (or, with device_noise, "seed" i64 [2]: {seed, draw},
 * drawn by Philox as `stream`); outputs "latents" and "model_output", as guided. The model gets
 * twice the batch where there is guidance.
 */
typedef struct kin_scheduler_graph_options {
    int rank;
    const int64_t *dims;
    kin_guidance guidance;
    bool device_noise;
    uint32_t stream;
} kin_scheduler_graph_options;

KIN_API void kin_scheduler_graph(kin_graph *graph, const kin_scheduler *scheduler,
                                 const kin_scheduler_graph_options *options,
                                 kin_denoiser_fn denoiser, void *user);
/* Runs a prepared plan of kin_scheduler_graph for all calls. latents (dense f32, `count` elements)
 * holds N(0, 1) and receives the result; loop as for kin_sampler_run, where draws of noise are
 * counted as the original draws them. Latents come to the host only for `progress` and at the end.
 */
KIN_API kin_status kin_scheduler_run(kin_plan *plan, kin_store *store,
                                     const kin_scheduler *scheduler, const kin_sampler_loop *loop,
                                     float *latents, size_t count);

#ifdef __cplusplus
}
#endif
#endif
