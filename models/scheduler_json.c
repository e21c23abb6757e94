/* Writing scheduler_config.json: for each class the keys that it has. */
#include <math.h>

#include "models/scheduler.h"
#include "runtime/json.h"

/* An object that is being made; NULL once there is no memory. */
typedef struct writer {
    json_t *object;
} writer;

static void put(writer *w, const char *key, json_t *value) {
    if (w->object && json_object_set_new(w->object, key, value) == 0) return;
    if (!w->object) json_decref(value);
    json_decref(w->object);
    w->object = NULL;
}

static void put_bool(writer *w, const char *key, bool value) {
    put(w, key, json_boolean(value));
}

static void put_int(writer *w, const char *key, int value) {
    put(w, key, json_integer(value));
}

static void put_real(writer *w, const char *key, double value) {
    put(w, key, json_real(value));
}

static void put_choice(writer *w, const char *key, const char *const *names, int index) {
    put(w, key, json_string(names[index]));
}

static void put_levels(writer *w, const kin_scheduler_config *c) {
    static const char *const betas[] = {"linear", "scaled_linear", "squaredcos_cap_v2", "sigmoid"};
    static const char *const predictions[] = {"epsilon", "sample", "v_prediction"};
    static const char *const spacings[] = {"linspace", "leading", "trailing"};
    put_int(w, "num_train_timesteps", c->train_steps);
    put_real(w, "beta_start", c->beta_start);
    put_real(w, "beta_end", c->beta_end);
    put_choice(w, "beta_schedule", betas, (int)c->beta_schedule);
    put_choice(w, "prediction_type", predictions, (int)c->prediction);
    put_choice(w, "timestep_spacing", spacings, (int)c->spacing);
    put_int(w, "steps_offset", c->steps_offset);
    put_bool(w, "rescale_betas_zero_snr", c->zero_snr);
}

static void put_sigmas(writer *w, const kin_scheduler_config *c) {
    put_bool(w, "use_karras_sigmas", c->karras_sigmas);
    put(w, "final_sigmas_type", json_string(c->final_sigma_min ? "sigma_min" : "zero"));
}

static void put_ancestral(writer *w, const kin_scheduler_config *c) {
    static const char *const variances[] = {"fixed_small", "fixed_large", "learned_range"};
    put_bool(w, "clip_sample", c->clip_sample);
    put_real(w, "clip_sample_range", c->clip_sample_range);
    if (c->kind == KIN_SCHEDULER_DDPM) put_choice(w, "variance_type", variances, (int)c->variance);
    else put_bool(w, "set_alpha_to_one", c->set_alpha_to_one);
}

static void put_euler(writer *w, const kin_scheduler_config *c) {
    put_sigmas(w, c);
    put(w, "timestep_type", json_string(c->continuous_timesteps ? "continuous" : "discrete"));
    put(w, "interpolation_type", json_string("linear"));
    put(w, "sigma_min", c->sigma_min > 0 ? json_real(c->sigma_min) : json_null());
    put(w, "sigma_max", c->sigma_max > 0 ? json_real(c->sigma_max) : json_null());
}

static void put_solver(writer *w, const kin_scheduler_config *c) {
    static const char *const algorithms[] = {"dpmsolver++", "sde-dpmsolver++", "dpmsolver",
                                             "sde-dpmsolver"};
    put_sigmas(w, c);
    put_int(w, "solver_order", c->solver_order);
    put_bool(w, "lower_order_final", c->lower_order_final);
    if (c->kind == KIN_SCHEDULER_UNIPC) {
        json_t *calls = json_array();
        for (int i = 0; i < c->disabled_correctors; i++)
            json_array_append_new(calls, json_integer(c->disable_corrector[i]));
        put(w, "disable_corrector", calls);
        put(w, "solver_type", json_string(c->b1 ? "bh1" : "bh2"));
        put_bool(w, "predict_x0", c->predict_x0);
        return;
    }
    put_choice(w, "algorithm_type", algorithms, (int)c->algorithm);
    put(w, "solver_type", json_string(c->second_order_heun ? "heun" : "midpoint"));
    put_bool(w, "use_lu_lambdas", c->lu_lambdas);
    put_bool(w, "euler_at_final", c->euler_at_final);
    /* JSON has no infinity: without the key nothing is clipped. */
    if (isfinite(c->lambda_min_clipped)) put_real(w, "lambda_min_clipped", c->lambda_min_clipped);
}

static void put_flow(writer *w, const kin_scheduler_config *c) {
    put_int(w, "num_train_timesteps", c->train_steps);
    put_real(w, "shift", c->shift);
    put_bool(w, "use_dynamic_shifting", c->dynamic_shifting);
    put_real(w, "base_shift", c->base_shift);
    put_real(w, "max_shift", c->max_shift);
    put(w, "base_image_seq_len", json_integer((json_int_t)c->base_image_seq_len));
    put(w, "max_image_seq_len", json_integer((json_int_t)c->max_image_seq_len));
}

static void put_rectified_flow(writer *w, const kin_scheduler_config *c) {
    put_int(w, "num_timesteps", c->train_steps);
    put_int(w, "num_sampling_steps", c->sampling_steps);
    put_real(w, "cfg_scale", c->cfg_scale);
    put_bool(w, "use_discrete_timesteps", c->discrete_timesteps);
    put_bool(w, "use_timestep_transform", c->timestep_transform);
}

kin_status kin_scheduler_config_json(kin_context *context, const kin_scheduler_config *config,
                                     json_t **out_json) {
    writer w = {json_object()};
    bool ours = config->kind == KIN_SCHEDULER_RECTIFIED_FLOW;
    bool flow = ours || config->kind == KIN_SCHEDULER_FLOW_EULER;
    put(&w, ours ? "type" : "_class_name", json_string(kin_scheduler_name(config->kind)));
    if (!flow) put_levels(&w, config);
    switch (config->kind) {
    case KIN_SCHEDULER_DDPM:
    case KIN_SCHEDULER_DDIM:
        put_ancestral(&w, config);
        break;
    case KIN_SCHEDULER_PNDM:
        put_bool(&w, "set_alpha_to_one", config->set_alpha_to_one);
        put_bool(&w, "skip_prk_steps", config->skip_prk_steps);
        break;
    case KIN_SCHEDULER_EULER:
        put_euler(&w, config);
        break;
    case KIN_SCHEDULER_EULER_ANCESTRAL:
        break;
    case KIN_SCHEDULER_DPM_MULTISTEP:
    case KIN_SCHEDULER_UNIPC:
        put_solver(&w, config);
        break;
    case KIN_SCHEDULER_FLOW_EULER:
        put_flow(&w, config);
        break;
    case KIN_SCHEDULER_RECTIFIED_FLOW:
        put_rectified_flow(&w, config);
        break;
    }
    *out_json = w.object;
    return w.object ? KIN_OK
                    : kin_fail(context, KIN_OUT_OF_MEMORY, "no memory for a configuration");
}
