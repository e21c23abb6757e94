/* Reading scheduler_config.json. */
#include <math.h>
#include <string.h>

#include "models/scheduler.h"
#include "runtime/file.h"
#include "runtime/json.h"

enum { MAX_TRAIN_STEPS = 1 << 16 };

static const char *const class_names[] = {"DDPMScheduler",
                                          "DDIMScheduler",
                                          "PNDMScheduler",
                                          "EulerDiscreteScheduler",
                                          "EulerAncestralDiscreteScheduler",
                                          "DPMSolverMultistepScheduler",
                                          "UniPCMultistepScheduler",
                                          "FlowMatchEulerDiscreteScheduler",
                                          "rflow"};
enum { CLASS_COUNT = sizeof class_names / sizeof *class_names };

const char *kin_scheduler_name(kin_scheduler_kind kind) {
    return class_names[kind];
}

/* Of all classes: a file may serve several. */
static const char *const known_keys[] = {"_class_name",
                                         "_diffusers_version",
                                         "_name_or_path",
                                         "type",
                                         "num_train_timesteps",
                                         "num_timesteps",
                                         "beta_start",
                                         "beta_end",
                                         "beta_schedule",
                                         "trained_betas",
                                         "rescale_betas_zero_snr",
                                         "prediction_type",
                                         "timestep_spacing",
                                         "timestep_type",
                                         "steps_offset",
                                         "clip_sample",
                                         "clip_sample_range",
                                         "thresholding",
                                         "dynamic_thresholding_ratio",
                                         "sample_max_value",
                                         "variance_type",
                                         "set_alpha_to_one",
                                         "skip_prk_steps",
                                         "interpolation_type",
                                         "use_karras_sigmas",
                                         "use_exponential_sigmas",
                                         "use_beta_sigmas",
                                         "use_flow_sigmas",
                                         "flow_shift",
                                         "use_lu_lambdas",
                                         "sigma_min",
                                         "sigma_max",
                                         "final_sigmas_type",
                                         "solver_order",
                                         "algorithm_type",
                                         "solver_type",
                                         "solver_p",
                                         "predict_x0",
                                         "lower_order_final",
                                         "euler_at_final",
                                         "lambda_min_clipped",
                                         "disable_corrector",
                                         "shift",
                                         "use_dynamic_shifting",
                                         "base_shift",
                                         "max_shift",
                                         "base_image_seq_len",
                                         "max_image_seq_len",
                                         "invert_sigmas",
                                         "shift_terminal",
                                         "time_shift_type",
                                         "stochastic_sampling",
                                         "num_sampling_steps",
                                         "cfg_scale",
                                         "use_discrete_timesteps",
                                         "use_timestep_transform"};

kin_scheduler_config kin_scheduler_config_default(kin_scheduler_kind kind) {
    bool leading =
        kind == KIN_SCHEDULER_DDPM || kind == KIN_SCHEDULER_DDIM || kind == KIN_SCHEDULER_PNDM;
    bool ours = kind == KIN_SCHEDULER_RECTIFIED_FLOW;
    return (kin_scheduler_config){.kind = kind,
                                  .train_steps = 1000,
                                  .beta_start = 1e-4,
                                  .beta_end = 0.02,
                                  .spacing = leading ? KIN_SPACING_LEADING : KIN_SPACING_LINSPACE,
                                  .clip_sample =
                                      kind == KIN_SCHEDULER_DDPM || kind == KIN_SCHEDULER_DDIM,
                                  .clip_sample_range = 1,
                                  .set_alpha_to_one = kind == KIN_SCHEDULER_DDIM,
                                  .solver_order = 2,
                                  .predict_x0 = true,
                                  .lower_order_final = true,
                                  .lambda_min_clipped = -HUGE_VAL,
                                  .shift = 1,
                                  .base_shift = 0.5,
                                  .max_shift = 1.15,
                                  .base_image_seq_len = 256,
                                  .max_image_seq_len = 4096,
                                  .sampling_steps = ours ? 10 : 0,
                                  .cfg_scale = ours ? 4 : 0};
}

/* One reading; the first error stays. */
typedef struct reader {
    kin_context *context;
    const json_t *json;
    const char *where;
    kin_status status;
} reader;

static void get_bool(reader *r, const char *key, bool *value) {
    if (r->status == KIN_OK)
        r->status = kin_json_get_bool(r->context, r->json, r->where, key, *value, value);
}

static void get_double(reader *r, const char *key, double *value) {
    if (r->status == KIN_OK)
        r->status = kin_json_get_double(r->context, r->json, r->where, key, *value, value);
}

static void get_int(reader *r, const char *key, int low, int high, int *value) {
    int64_t wide = *value;
    if (r->status == KIN_OK)
        r->status =
            kin_json_get_int_between(r->context, r->json, r->where, key, low, high, wide, &wide);
    *value = (int)wide;
}

/* Index of the value among the names, or the fallback. */
static int get_choice(reader *r, const char *key, const char *const *names, int count,
                      int fallback) {
    const char *text = NULL;
    if (r->status == KIN_OK)
        r->status = kin_json_get_string(r->context, r->json, r->where, key, NULL, &text);
    if (r->status != KIN_OK || !text) return fallback;
    for (int i = 0; i < count; i++)
        if (strcmp(text, names[i]) == 0) return i;
    const char *nearest = kin_nearest_name(text, names, (size_t)count);
    r->status =
        kin_fail(r->context, KIN_INVALID, "%s: %s '%s' is not known; %s '%s'", r->where, key, text,
                 nearest ? "did you mean" : "known is, for one,", nearest ? nearest : names[0]);
    return fallback;
}

/* A key that must be missing, null or false. */
static void refuse(reader *r, const char *key) {
    const json_t *value = json_object_get(r->json, key);
    if (r->status == KIN_OK && value && !json_is_null(value) && !json_is_false(value))
        r->status = kin_fail(r->context, KIN_UNSUPPORTED,
                             "%s: %s is not supported; set it to null or false if the model can do "
                             "without",
                             r->where, key);
}

static void read_class(reader *r, kin_scheduler_config *config) {
    const char *key = json_object_get(r->json, "_class_name") ? "_class_name" : "type";
    int kind = get_choice(r, key, class_names, CLASS_COUNT, -1);
    if (r->status == KIN_OK && kind < 0)
        r->status = kin_fail(r->context, KIN_INVALID,
                             "%s: _class_name is missing: which scheduler is it?", r->where);
    if (r->status == KIN_OK) *config = kin_scheduler_config_default((kin_scheduler_kind)kind);
}

static void read_levels(reader *r, kin_scheduler_config *c) {
    static const char *const betas[] = {"linear", "scaled_linear", "squaredcos_cap_v2", "sigmoid"};
    static const char *const predictions[] = {"epsilon", "sample", "v_prediction",
                                              "original_sample"};
    static const char *const spacings[] = {"linspace", "leading", "trailing"};
    static const char *const variances[] = {"fixed_small",     "fixed_large", "learned_range",
                                            "fixed_small_log", "learned",     "fixed_large_log"};
    bool ours = c->kind == KIN_SCHEDULER_RECTIFIED_FLOW;
    get_int(r, ours ? "num_timesteps" : "num_train_timesteps", 1, MAX_TRAIN_STEPS, &c->train_steps);
    get_double(r, "beta_start", &c->beta_start);
    get_double(r, "beta_end", &c->beta_end);
    c->beta_schedule =
        (kin_beta_schedule)get_choice(r, "beta_schedule", betas, 4, (int)c->beta_schedule);
    get_bool(r, "rescale_betas_zero_snr", &c->zero_snr);
    int prediction = get_choice(r, "prediction_type", predictions, 4, (int)c->prediction);
    c->prediction = prediction == 3 ? KIN_PREDICT_SAMPLE : (kin_prediction)prediction;
    c->spacing = (kin_spacing)get_choice(r, "timestep_spacing", spacings, 3, (int)c->spacing);
    get_int(r, "steps_offset", 0, MAX_TRAIN_STEPS, &c->steps_offset);
    get_bool(r, "clip_sample", &c->clip_sample);
    get_double(r, "clip_sample_range", &c->clip_sample_range);
    int variance = get_choice(r, "variance_type", variances, 6, (int)c->variance);
    if (r->status == KIN_OK && variance > 3 && c->kind == KIN_SCHEDULER_DDPM)
        r->status = kin_fail(r->context, KIN_UNSUPPORTED, "%s: variance_type %s is not supported",
                             r->where, variances[variance]);
    c->variance = variance > 2 ? KIN_VARIANCE_FIXED_SMALL : (kin_variance)variance;
    get_bool(r, "set_alpha_to_one", &c->set_alpha_to_one);
    get_bool(r, "skip_prk_steps", &c->skip_prk_steps);
}

static void read_sigmas(reader *r, kin_scheduler_config *c) {
    static const char *const timesteps[] = {"discrete", "continuous"};
    static const char *const ends[] = {"zero", "sigma_min"};
    static const char *const interpolations[] = {"linear"};
    static const char *const shifts[] = {"exponential"};
    get_bool(r, "use_karras_sigmas", &c->karras_sigmas);
    get_bool(r, "use_lu_lambdas", &c->lu_lambdas);
    get_double(r, "sigma_min", &c->sigma_min);
    get_double(r, "sigma_max", &c->sigma_max);
    c->continuous_timesteps = get_choice(r, "timestep_type", timesteps, 2, 0) == 1;
    c->final_sigma_min = get_choice(r, "final_sigmas_type", ends, 2, 0) == 1;
    get_choice(r, "interpolation_type", interpolations, 1, 0);
    get_double(r, "shift", &c->shift);
    get_bool(r, "use_dynamic_shifting", &c->dynamic_shifting);
    get_double(r, "base_shift", &c->base_shift);
    get_double(r, "max_shift", &c->max_shift);
    get_double(r, "base_image_seq_len", &c->base_image_seq_len);
    get_double(r, "max_image_seq_len", &c->max_image_seq_len);
    get_choice(r, "time_shift_type", shifts, 1, 0);
    get_bool(r, "use_discrete_timesteps", &c->discrete_timesteps);
    get_bool(r, "use_timestep_transform", &c->timestep_transform);
    if (c->kind == KIN_SCHEDULER_RECTIFIED_FLOW) {
        get_int(r, "num_sampling_steps", 1, MAX_TRAIN_STEPS, &c->sampling_steps);
        get_double(r, "cfg_scale", &c->cfg_scale);
    }
}

static void read_disabled(reader *r, kin_scheduler_config *c) {
    int64_t calls[KIN_SCHEDULER_MAX_DISABLED];
    size_t count = 0;
    if (r->status == KIN_OK)
        r->status = kin_json_get_ints(r->context, r->json, r->where, "disable_corrector", calls,
                                      KIN_SCHEDULER_MAX_DISABLED, &count);
    if (r->status != KIN_OK) return;
    c->disabled_correctors = (int)count;
    for (size_t i = 0; i < count; i++)
        c->disable_corrector[i] = calls[i] >= 0 && calls[i] < MAX_TRAIN_STEPS ? (int)calls[i] : -1;
}

static void read_solver(reader *r, kin_scheduler_config *c) {
    /* Each solver takes the other's types for its own default. */
    static const char *const algorithms[] = {"dpmsolver++", "sde-dpmsolver++", "dpmsolver",
                                             "sde-dpmsolver", "deis"};
    static const char *const types[] = {"midpoint", "heun", "bh1", "bh2", "logrho"};
    get_int(r, "solver_order", 1, KIN_SCHEDULER_MAX_ORDER, &c->solver_order);
    int algorithm = get_choice(r, "algorithm_type", algorithms, 5, (int)c->algorithm);
    c->algorithm = algorithm == 4 ? KIN_DPM_PLUS_PLUS : (kin_dpm_algorithm)algorithm;
    int type = get_choice(r, "solver_type", types, 5, 0);
    c->second_order_heun = type == 1;
    c->b1 = type == 2;
    get_bool(r, "predict_x0", &c->predict_x0);
    get_bool(r, "lower_order_final", &c->lower_order_final);
    get_bool(r, "euler_at_final", &c->euler_at_final);
    get_double(r, "lambda_min_clipped", &c->lambda_min_clipped);
    read_disabled(r, c);
}

static kin_status check(kin_context *context, const char *where, const kin_scheduler_config *c) {
    if (!(c->beta_start > 0) || !(c->beta_end >= c->beta_start) || !(c->beta_end < 1))
        return kin_fail(context, KIN_INVALID,
                        "%s: beta_start %g and beta_end %g must rise within 0 to 1", where,
                        c->beta_start, c->beta_end);
    if (c->clip_sample && !(c->clip_sample_range > 0))
        return kin_fail(context, KIN_INVALID, "%s: clip_sample_range must be above 0", where);
    if (!(c->shift > 0)) return kin_fail(context, KIN_INVALID, "%s: shift must be above 0", where);
    if (c->sigma_min < 0 || c->sigma_max < 0 || (c->sigma_max > 0 && c->sigma_min > c->sigma_max))
        return kin_fail(context, KIN_INVALID, "%s: sigma_min must be between 0 and sigma_max",
                        where);
    if (c->kind == KIN_SCHEDULER_DPM_MULTISTEP && !c->final_sigma_min &&
        (c->algorithm == KIN_DPM_PLAIN || c->algorithm == KIN_DPM_SDE))
        return kin_fail(context, KIN_INVALID,
                        "%s: algorithm_type %s cannot end at sigma 0; set final_sigmas_type to "
                        "\"sigma_min\"",
                        where, c->algorithm == KIN_DPM_PLAIN ? "dpmsolver" : "sde-dpmsolver");
    if (c->karras_sigmas && c->lu_lambdas)
        return kin_fail(context, KIN_INVALID,
                        "%s: use_karras_sigmas and use_lu_lambdas exclude each other", where);
    return KIN_OK;
}

kin_status kin_scheduler_config_parse(kin_context *context, const json_t *json, const char *where,
                                      kin_scheduler_config *out_config) {
    static const char *const not_here[] = {
        "trained_betas",   "use_exponential_sigmas", "use_beta_sigmas",
        "use_flow_sigmas", "invert_sigmas",          "shift_terminal",
        "solver_p",        "thresholding",           "stochastic_sampling"};
    kin_scheduler_config config = {0};
    reader r = {.context = context, .json = json, .where = where};
    r.status = kin_json_check_keys(context, json, where, known_keys,
                                   sizeof known_keys / sizeof *known_keys);
    if (r.status == KIN_OK) read_class(&r, &config);
    for (size_t i = 0; i < sizeof not_here / sizeof *not_here; i++) refuse(&r, not_here[i]);
    if (r.status == KIN_OK) {
        read_levels(&r, &config);
        read_sigmas(&r, &config);
        read_solver(&r, &config);
    }
    if (r.status == KIN_OK) r.status = check(context, where, &config);
    if (r.status == KIN_OK) *out_config = config;
    return r.status;
}

kin_status kin_scheduler_config_load(kin_context *context, const char *path,
                                     kin_scheduler_config *out_config) {
    char *inside = kin_path_join(context, path, "scheduler_config.json");
    if (!inside) return KIN_OUT_OF_MEMORY;
    const char *file = kin_file_exists(inside) ? inside : path;
    json_t *root = NULL;
    kin_status status = kin_json_load(context, file, &root);
    if (status == KIN_OK) status = kin_scheduler_config_parse(context, root, file, out_config);
    json_decref(root);
    kin_free(context, inside);
    return status;
}
