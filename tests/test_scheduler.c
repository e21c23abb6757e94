/* Schedulers beyond the reference cases: every class, order and spacing against what must hold for
 * all, reading of files, and the loop on a device.
 *
 * If all data is one point x0, the model's right answer is known at every level, and every solver
 * must end at x0: the tables are run on numbers in double, tolerance 1e-6 (PNDM, whose formula is
 * not exact, 2e-2). Negative control: a table with one changed coefficient must miss it. On the
 * device the same numbers must come out within 1e-5.
 */
#define _POSIX_C_SOURCE 200809L
#include "tests/runtime_support.h"

#include <math.h>

#include "models/scheduler_internal.h"
#include "ops/elementwise.h"
#include "ops/layout.h"
#include "ops/views.h"
#include "runtime/json.h"
#include "runtime/philox.h"

static const double point = 0.37;

static kin_context *open_context(void) {
    kin_context *context = NULL;
    assert_int_equal(kin_context_create(NULL, &context), KIN_OK);
    return context;
}

static kin_status parse(kin_context *context, const char *text, kin_scheduler_config *out) {
    json_t *root = NULL;
    assert_int_equal(kin_json_parse(context, "test", text, strlen(text), &root), KIN_OK);
    kin_status status = kin_scheduler_config_parse(context, root, "scheduler_config.json", out);
    json_decref(root);
    return status;
}

static kin_scheduler *make(kin_context *context, const char *text, int steps) {
    kin_scheduler_config config;
    kin_scheduler *s = NULL;
    kin_scheduler_options options = {.steps = steps, .eta = 0.3, .mu = 0.8};
    if (parse(context, text, &config) != KIN_OK ||
        kin_scheduler_create(context, &config, &options, &s) != KIN_OK)
        fail_msg("%s: %s", text, kin_context_error(context));
    return s;
}

/* Signal and noise in the sample before a call, by the sigmas or by the timestep. */
static void level_of(const kin_scheduler *s, int call, double *a, double *b) {
    kin_scheduler_kind kind = s->config.kind;
    if (s->sigmas && kind != KIN_SCHEDULER_FLOW_EULER) {
        double sigma = s->sigmas[call];
        bool scaled = kind == KIN_SCHEDULER_EULER || kind == KIN_SCHEDULER_EULER_ANCESTRAL;
        *a = scaled ? 1 : 1 / sqrt(1 + sigma * sigma);
        *b = scaled ? sigma : sigma / sqrt(1 + sigma * sigma);
    } else if (s->alphas_cumprod) {
        double level = s->alphas_cumprod[(int)s->timesteps[call]];
        *a = sqrt(level);
        *b = sqrt(1 - level);
    } else {
        double u = s->timesteps[call] / s->config.train_steps;
        *a = 1 - u;
        *b = u;
    }
}

/* What a model that knows x0 says of x at a level. */
static double right_answer(const kin_scheduler *s, int call, double x) {
    double a, b;
    level_of(s, call, &a, &b);
    if (s->config.kind == KIN_SCHEDULER_FLOW_EULER) return (x - point) / b;
    if (s->config.kind == KIN_SCHEDULER_RECTIFIED_FLOW) return (point - x) / b;
    if (s->config.prediction == KIN_PREDICT_SAMPLE) return point;
    double noise = (x - a * point) / b;
    if (s->config.prediction == KIN_PREDICT_EPSILON) return noise;
    double length = sqrt(a * a + b * b); /* Euler's samples are not scaled to variance 1 */
    return (a * noise - b * point) / length;
}

/* Runs the table on one number; noise is `draw`, the same in every call. */
static double simulate(const kin_scheduler *s, double start, double draw) {
    double slots[KIN_SCHEDULER_MAX_SLOTS] = {start * s->init_noise_sigma};
    for (int call = 0; call < s->calls; call++) {
        const double *c = kin_scheduler_row(s, call, 0);
        double m = right_answer(s, call, slots[0]), next[KIN_SCHEDULER_MAX_SLOTS];
        double u = c[KIN_COEF_ESTIMATE_X] * slots[0] + c[KIN_COEF_ESTIMATE_M] * m;
        u = fmin(fmax(u, -s->clip), s->clip);
        for (int to = 0; to < s->slots; to++) {
            next[to] = c[kin_scheduler_column(s, to, KIN_FROM_OUTPUT)] * m +
                       c[kin_scheduler_column(s, to, KIN_FROM_ESTIMATE)] * u +
                       c[kin_scheduler_column(s, to, KIN_FROM_NOISE)] * draw;
            for (int k = 0; k < s->slots; k++)
                next[to] += c[kin_scheduler_column(s, to, k)] * slots[k];
        }
        memcpy(slots, next, sizeof slots);
    }
    return slots[0];
}

static const char *const exact[] = {
    "{\"_class_name\": \"DDIMScheduler\"}",
    "{\"_class_name\": \"DDIMScheduler\", \"clip_sample\": false, \"timestep_spacing\": "
    "\"trailing\"}",
    "{\"_class_name\": \"DDIMScheduler\", \"prediction_type\": \"sample\", \"clip_sample\": false}",
    "{\"_class_name\": \"DDIMScheduler\", \"prediction_type\": \"v_prediction\","
    " \"rescale_betas_zero_snr\": true, \"timestep_spacing\": \"trailing\"}",
    "{\"_class_name\": \"DDPMScheduler\", \"beta_schedule\": \"squaredcos_cap_v2\"}",
    "{\"_class_name\": \"DDPMScheduler\", \"variance_type\": \"fixed_large\","
    " \"timestep_spacing\": \"linspace\", \"clip_sample\": false, \"prediction_type\": "
    "\"v_prediction\"}",
    "{\"_class_name\": \"EulerDiscreteScheduler\"}",
    "{\"_class_name\": \"EulerDiscreteScheduler\", \"timestep_spacing\": \"leading\","
    " \"prediction_type\": \"v_prediction\"}",
    "{\"_class_name\": \"EulerDiscreteScheduler\", \"use_karras_sigmas\": true,"
    " \"prediction_type\": \"sample\"}",
    "{\"_class_name\": \"EulerAncestralDiscreteScheduler\", \"timestep_spacing\": \"trailing\"}",
    "{\"_class_name\": \"DPMSolverMultistepScheduler\", \"solver_order\": 1}",
    "{\"_class_name\": \"DPMSolverMultistepScheduler\"}",
    "{\"_class_name\": \"DPMSolverMultistepScheduler\", \"solver_order\": 3}",
    "{\"_class_name\": \"DPMSolverMultistepScheduler\", \"solver_type\": \"heun\"}",
    "{\"_class_name\": \"DPMSolverMultistepScheduler\", \"use_lu_lambdas\": true}",
    "{\"_class_name\": \"DPMSolverMultistepScheduler\", \"timestep_spacing\": \"leading\","
    " \"steps_offset\": 1, \"prediction_type\": \"v_prediction\"}",
    "{\"_class_name\": \"DPMSolverMultistepScheduler\", \"timestep_spacing\": \"trailing\","
    " \"algorithm_type\": \"sde-dpmsolver++\"}",
    "{\"_class_name\": \"UniPCMultistepScheduler\"}",
    "{\"_class_name\": \"UniPCMultistepScheduler\", \"solver_order\": 3}",
    "{\"_class_name\": \"UniPCMultistepScheduler\", \"solver_order\": 3, \"solver_type\": \"bh1\"}",
    "{\"_class_name\": \"UniPCMultistepScheduler\", \"disable_corrector\": [0, 1, 2]}",
    "{\"_class_name\": \"UniPCMultistepScheduler\", \"use_karras_sigmas\": true}",
    "{\"_class_name\": \"FlowMatchEulerDiscreteScheduler\", \"shift\": 3}",
    "{\"_class_name\": \"FlowMatchEulerDiscreteScheduler\", \"use_dynamic_shifting\": true}",
    "{\"type\": \"rflow\"}",
};

static void every_solver_ends_at_the_point(void **state) {
    (void)state;
    kin_context *context = open_context();
    for (size_t i = 0; i < sizeof exact / sizeof *exact; i++)
        for (int steps = 5; steps <= 20; steps += 15) {
            kin_scheduler *s = make(context, exact[i], steps);
            /* DDPM and DDIM end at the level of timestep 0's own predecessor; DDIM with eta still
             * adds what it must, which vanishes there. */
            double end = simulate(s, 0.9, 0.8);
            if (!(fabs(end - point) < 1e-6)) fail_msg("%s ends at %.9g", exact[i], end);
            kin_scheduler_free(s);
        }
    kin_context_destroy(context);
}

static void pndm_comes_near(void **state) {
    (void)state;
    static const char *const texts[] = {
        "{\"_class_name\": \"PNDMScheduler\", \"set_alpha_to_one\": true}",
        "{\"_class_name\": \"PNDMScheduler\", \"skip_prk_steps\": true, \"set_alpha_to_one\": "
        "true}",
        "{\"_class_name\": \"PNDMScheduler\", \"skip_prk_steps\": true, \"set_alpha_to_one\": true,"
        " \"prediction_type\": \"v_prediction\", \"timestep_spacing\": \"trailing\"}"};
    kin_context *context = open_context();
    for (int i = 0; i < 3; i++) {
        kin_scheduler *s = make(context, texts[i], 50);
        double end = simulate(s, 0.9, 0);
        if (!(fabs(end - point) < 2e-2)) fail_msg("%s ends at %.9g", texts[i], end);
        kin_scheduler_free(s);
    }
    kin_scheduler *one = make(context, texts[1], 1);
    assert_int_equal(one->calls, 1);
    kin_scheduler_free(one);
    kin_context_destroy(context);
}

/* sigma_min is where these stop; the noise that is left there is known. */
static void solvers_may_stop_early(void **state) {
    (void)state;
    static const char *const algorithms[] = {"dpmsolver", "dpmsolver++"};
    kin_context *context = open_context();
    for (int i = 0; i < 2; i++)
        for (int order = 1; order <= 3; order++) {
            char text[256];
            snprintf(
                text, sizeof text,
                "{\"_class_name\": \"DPMSolverMultistepScheduler\", \"algorithm_type\": \"%s\","
                " \"final_sigmas_type\": \"sigma_min\", \"solver_order\": %d}",
                algorithms[i], order);
            kin_scheduler *s = make(context, text, 20);
            double first = s->sigmas[0], last = s->sigmas[20];
            /* Along the exact path the noise stays what it was. */
            double noise =
                (0.9 - point / sqrt(1 + first * first)) / (first / sqrt(1 + first * first));
            double want = (point + last * noise) / sqrt(1 + last * last);
            assert_true(fabs(simulate(s, 0.9, 0) - want) < 1e-6);
            kin_scheduler_free(s);
        }
    kin_context_destroy(context);
}

static void a_wrong_coefficient_shows(void **state) {
    (void)state;
    kin_context *context = open_context();
    kin_scheduler *s = make(context, "{\"_class_name\": \"UniPCMultistepScheduler\"}", 10);
    kin_scheduler_row(s, 9, 0)[kin_scheduler_column(s, 0, KIN_FROM_ESTIMATE)] *= 1.001;
    assert_true(fabs(simulate(s, 0.9, 0) - point) > 1e-6);
    kin_scheduler_free(s);
    kin_context_destroy(context);
}

/* What training adds as noise is what sampling finds at the same timestep. */
static void noise_of_training(void **state) {
    (void)state;
    kin_context *context = open_context();
    for (size_t i = 0; i < sizeof exact / sizeof *exact; i++) {
        kin_scheduler *s = make(context, exact[i], 12);
        for (int call = 0; call < s->calls; call++) {
            double a, b, of_x0, of_noise;
            level_of(s, call, &a, &b);
            if (s->config.kind == KIN_SCHEDULER_FLOW_EULER) b = s->sigmas[call], a = 1 - b;
            assert_int_equal(kin_scheduler_noise_factors(s, s->timesteps[call], &of_x0, &of_noise),
                             KIN_OK);
            assert_true(fabs(of_x0 - a) < 1e-12 && fabs(of_noise - b) < 1e-9);
        }
        double of_x0, of_noise;
        if (s->config.kind != KIN_SCHEDULER_RECTIFIED_FLOW)
            assert_int_equal(kin_scheduler_noise_factors(s, 1e6, &of_x0, &of_noise), KIN_INVALID);
        kin_scheduler_free(s);
    }
    kin_context_destroy(context);
}

static kin_status make_one(kin_context *context, void *user) {
    kin_scheduler *s = NULL;
    kin_scheduler_options options = {.steps = 8};
    kin_status status = kin_scheduler_create(context, user, &options, &s);
    kin_scheduler_free(s);
    return status;
}

static void memory_may_run_out(void **state) {
    (void)state;
    kin_context *context = open_context();
    for (size_t i = 0; i < sizeof exact / sizeof *exact; i += 4) {
        kin_scheduler_config config;
        assert_int_equal(parse(context, exact[i], &config), KIN_OK);
        sweep_allocations(make_one, &config);
    }
    kin_context_destroy(context);
}

/* From a file, or from the folder of a pipeline's part. */
static void files_and_folders(void **state) {
    (void)state;
    kin_context *context = open_context();
    kin_scheduler_config config;
    char *folder = make_folder(), path[128];
    snprintf(path, sizeof path, "%s/scheduler_config.json", folder);
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    fputs("{\"_class_name\": \"PNDMScheduler\", \"skip_prk_steps\": true, \"steps_offset\": 1}",
          file);
    assert_int_equal(fclose(file), 0);
    assert_int_equal(kin_scheduler_config_load(context, path, &config), KIN_OK);
    assert_true(config.kind == KIN_SCHEDULER_PNDM && config.skip_prk_steps);
    config.steps_offset = 0;
    assert_int_equal(kin_scheduler_config_load(context, folder, &config), KIN_OK);
    assert_int_equal(config.steps_offset, 1);
    unlink(path);
    assert_int_not_equal(kin_scheduler_config_load(context, folder, &config), KIN_OK);
    rmdir(folder);
    free(folder);
    kin_context_destroy(context);
}

/* Each row is one file, what its message must hold, and the steps asked for. */
static void bad_files_are_refused(void **state) {
    (void)state;
    static const struct {
        const char *text, *message;
        int steps;
        kin_status status;
    } files[] = {
        {"{}", "_class_name is missing", 10, KIN_INVALID},
        {"{\"_class_name\": \"DDIMSheduler\"}", "DDIMScheduler", 10, KIN_INVALID},
        {"{\"_class_name\": \"DDIMScheduler\", \"beta_strat\": 1}", "beta_start", 10, KIN_INVALID},
        {"{\"_class_name\": \"DDIMScheduler\", \"beta_schedule\": \"liner\"}", "linear", 10,
         KIN_INVALID},
        {"{\"_class_name\": \"DDIMScheduler\", \"beta_start\": 2}", "beta_start", 10, KIN_INVALID},
        {"{\"_class_name\": \"DDIMScheduler\", \"thresholding\": true}", "thresholding", 10,
         KIN_UNSUPPORTED},
        {"{\"_class_name\": \"DDPMScheduler\", \"variance_type\": \"learned\"}", "variance_type",
         10, KIN_UNSUPPORTED},
        {"{\"_class_name\": \"DDIMScheduler\", \"num_train_timesteps\": 0}", "num_train_timesteps",
         10, KIN_INVALID},
        {"{\"_class_name\": \"DPMSolverMultistepScheduler\", \"algorithm_type\": \"dpmsolver\"}",
         "sigma_min", 10, KIN_INVALID},
        {"{\"_class_name\": \"DDIMScheduler\"}", "steps of sampling", 1001, KIN_INVALID},
        {"{\"_class_name\": \"DDIMScheduler\", \"steps_offset\": 900}", "steps_offset", 10,
         KIN_INVALID},
        {"{\"_class_name\": \"PNDMScheduler\"}", "at least 4", 3, KIN_INVALID},
        {"{\"_class_name\": \"DDIMScheduler\", \"rescale_betas_zero_snr\": true,"
         " \"timestep_spacing\": \"trailing\"}",
         "v_prediction", 10, KIN_INVALID},
        {"{\"type\": \"rflow\", \"use_timestep_transform\": true}", "sizes", 10, KIN_INVALID},
    };
    kin_context *context = open_context();
    for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
        kin_scheduler_config config;
        kin_scheduler *s = NULL;
        kin_status status = parse(context, files[i].text, &config);
        if (status == KIN_OK)
            status = kin_scheduler_create(context, &config,
                                          &(kin_scheduler_options){.steps = files[i].steps}, &s);
        if (status != files[i].status || !strstr(kin_context_error(context), files[i].message))
            fail_msg("%s: status %d, %s", files[i].text, (int)status, kin_context_error(context));
        assert_null(s);
    }
    kin_context_destroy(context);
}

/* Files with changed digits and letters are read or refused, never worse. */
static void files_of_any_bytes(void **state) {
    (void)state;
    static const char *const files[] = {
        "{\"_class_name\": \"DPMSolverMultistepScheduler\", \"num_train_timesteps\": 1000,"
        " \"beta_start\": 0.00085, \"beta_end\": 0.012, \"solver_order\": 2, \"steps_offset\": 11,"
        " \"lambda_min_clipped\": -5.1, \"timestep_spacing\": \"leading\"}",
        "{\"_class_name\": \"EulerDiscreteScheduler\", \"num_train_timesteps\": 1000,"
        " \"sigma_min\": 0.0021, \"sigma_max\": 700.15, \"use_karras_sigmas\": true}",
        "{\"_class_name\": \"PNDMScheduler\", \"num_train_timesteps\": 1000, \"beta_end\": 0.0213,"
        " \"steps_offset\": 10, \"skip_prk_steps\": true, \"clip_sample_range\": 1.555}",
        "{\"_class_name\": \"UniPCMultistepScheduler\", \"num_train_timesteps\": 1000,"
        " \"solver_order\": 3, \"disable_corrector\": [0, 1, 22], \"shift\": 3.0}"};
    kin_context *context = open_context();
    int made = 0, refused = 0;
    for (uint64_t i = 0; i < 3000; i++) {
        char text[512];
        snprintf(text, sizeof text, "%s", files[i % 4]);
        size_t size = strlen(text);
        for (uint64_t k = 0; k < 8; k++) {
            uint32_t word = kin_philox_element(4, 0, i, k);
            char *at = &text[word % size];
            bool digit = *at >= '0' && *at <= '9';
            if (digit || word >> 27 == 0) *at = "0123456789-.e"[(word >> 16) % (digit ? 10 : 13)];
        }
        json_t *root = json_loads(text, 0, NULL);
        kin_scheduler_config config;
        kin_scheduler *s = NULL;
        kin_scheduler_options options = {.steps = 1 + (int)(i % 40), .mu = 1};
        if (root && kin_scheduler_config_parse(context, root, "file", &config) == KIN_OK &&
            kin_scheduler_create(context, &config, &options, &s) == KIN_OK)
            made++;
        else refused++;
        kin_scheduler_free(s);
        json_decref(root);
    }
    assert_true(made > 100 && refused > 100);
    kin_context_destroy(context);
}

/* ---- on a device -------------------------------------------------------------------------- */

enum { COUNT = 24 };

static kin_tensor half(void *user, kin_graph *g, kin_tensor x, kin_tensor timestep) {
    (void)user, (void)timestep;
    return kin_scale(g, x, 0.5, 0.1);
}

/* [first half; second half] of the batch answer differently. */
static kin_tensor two_halves(void *user, kin_graph *g, kin_tensor x, kin_tensor timestep) {
    (void)user, (void)timestep;
    int64_t rows = kin_dim(g, x, 0) / 2;
    kin_tensor a = kin_scale(g, kin_slice(g, x, 0, 0, rows), 0.5, 0.1);
    kin_tensor b = kin_scale(g, kin_slice(g, x, 0, rows, rows), 0.2, -0.3);
    return kin_concat(g, (kin_tensor[]){a, b}, 2, 0);
}

/* Runs a scheduler on the CPU from fixed numbers. */
static void run_device(const char *text, int steps, const kin_guidance *guidance, bool device_noise,
                       kin_denoiser_fn model, float out[COUNT]) {
    kin_context *context = open_context();
    kin_backends *backends = NULL;
    kin_device *device = NULL;
    kin_graph *graph = NULL;
    kin_plan *plan = NULL;
    kin_store *store = NULL;
    kin_scheduler *s = make(context, text, steps);
    int64_t dims[] = {2, 3, 2, 2};
    kin_scheduler_graph_options options = {
        .rank = 4, .dims = dims, .guidance = *guidance, .device_noise = device_noise, .stream = 3};
    assert_int_equal(kin_backends_load(context, NULL, &backends), KIN_OK);
    assert_int_equal(kin_device_open(backends, "cpu", &device), KIN_OK);
    assert_int_equal(kin_graph_create(context, &graph), KIN_OK);
    kin_scheduler_graph(graph, s, &options, model, NULL);
    if (kin_plan_build(graph, device, NULL, &plan) != KIN_OK)
        fail_msg("%s", kin_context_error(context));
    assert_int_equal(kin_store_create(device, &store), KIN_OK);
    assert_int_equal(kin_store_add_graph(store, graph, 1), KIN_OK);
    assert_int_equal(kin_plan_prepare(plan, store, NULL), KIN_OK);
    kin_sampler_loop loop = {.seed = 11, .stream = 3};
    kin_philox_fill_normal(5, 0, 0, 0, COUNT, out);
    if (kin_scheduler_run(plan, store, s, &loop, out, COUNT) != KIN_OK)
        fail_msg("%s", kin_context_error(context));
    kin_plan_free(plan);
    kin_store_free(store);
    kin_graph_destroy(graph);
    kin_device_close(device);
    kin_backends_free(backends);
    kin_scheduler_free(s);
    kin_context_destroy(context);
}

static double difference(const float *a, const float *b) {
    double most = 0, largest = 0;
    for (int i = 0; i < COUNT; i++) {
        most = fmax(most, fabs((double)a[i] - (double)b[i]));
        largest = fmax(largest, fabs((double)a[i]));
    }
    return most / largest;
}

static void noise_of_the_device_is_that_of_the_host(void **state) {
    (void)state;
    const char *text = "{\"_class_name\": \"EulerAncestralDiscreteScheduler\"}";
    float host[COUNT], device[COUNT];
    kin_guidance none = {.scale = 1};
    run_device(text, 6, &none, false, half, host);
    run_device(text, 6, &none, true, half, device);
    assert_true(difference(host, device) < 1e-5);
    float fewer[COUNT];
    run_device(text, 7, &none, true, half, fewer);
    assert_true(difference(host, fewer) > 1e-3); /* negative control */
}

static void guidance_follows_the_order_of_the_batch(void **state) {
    (void)state;
    const char *text = "{\"_class_name\": \"DDIMScheduler\", \"clip_sample\": false}";
    float conditional_first[COUNT], null_first[COUNT], plain[COUNT], zero[COUNT];
    run_device(text, 4, &(kin_guidance){.scale = 3}, false, two_halves, conditional_first);
    run_device(text, 4, &(kin_guidance){.scale = 3, .null_first = true}, false, two_halves,
               null_first);
    assert_true(difference(conditional_first, null_first) > 1e-2);
    /* Scale 0 is the null answer alone, which is the first half where it comes first. */
    run_device(text, 4, &(kin_guidance){.scale = 0, .null_first = true}, false, two_halves, zero);
    run_device(text, 4, &(kin_guidance){.scale = 1}, false, half, plain);
    assert_true(difference(plain, zero) < 1e-5);
}

static bool same_config(const kin_scheduler_config *a, const kin_scheduler_config *b) {
    bool same = a->kind == b->kind && a->train_steps == b->train_steps &&
                a->beta_schedule == b->beta_schedule && a->beta_start == b->beta_start &&
                a->beta_end == b->beta_end && a->zero_snr == b->zero_snr &&
                a->prediction == b->prediction && a->spacing == b->spacing &&
                a->steps_offset == b->steps_offset && a->clip_sample == b->clip_sample &&
                a->clip_sample_range == b->clip_sample_range && a->variance == b->variance &&
                a->set_alpha_to_one == b->set_alpha_to_one &&
                a->skip_prk_steps == b->skip_prk_steps && a->karras_sigmas == b->karras_sigmas &&
                a->lu_lambdas == b->lu_lambdas && a->sigma_min == b->sigma_min &&
                a->sigma_max == b->sigma_max && a->continuous_timesteps == b->continuous_timesteps;
    same = same && a->final_sigma_min == b->final_sigma_min && a->solver_order == b->solver_order &&
           a->algorithm == b->algorithm && a->second_order_heun == b->second_order_heun &&
           a->b1 == b->b1 && a->predict_x0 == b->predict_x0 &&
           a->lower_order_final == b->lower_order_final && a->euler_at_final == b->euler_at_final &&
           a->lambda_min_clipped == b->lambda_min_clipped &&
           a->disabled_correctors == b->disabled_correctors && a->shift == b->shift &&
           a->dynamic_shifting == b->dynamic_shifting && a->base_shift == b->base_shift &&
           a->max_shift == b->max_shift && a->base_image_seq_len == b->base_image_seq_len &&
           a->max_image_seq_len == b->max_image_seq_len &&
           a->discrete_timesteps == b->discrete_timesteps &&
           a->timestep_transform == b->timestep_transform &&
           a->sampling_steps == b->sampling_steps && a->cfg_scale == b->cfg_scale;
    for (int i = 0; same && i < a->disabled_correctors; i++)
        same = a->disable_corrector[i] == b->disable_corrector[i];
    return same;
}

/* What is written reads back as it was, for every class and what differs from its defaults. */
static void what_is_written_reads_back(void **state) {
    (void)state;
    kin_context *context = NULL;
    assert_int_equal(kin_context_create(NULL, &context), KIN_OK);
    for (int kind = 0; kind <= KIN_SCHEDULER_RECTIFIED_FLOW; kind++)
        for (int other = 0; other < 2; other++) {
            kin_scheduler_config c = kin_scheduler_config_default((kin_scheduler_kind)kind), back;
            bool flow = kind >= KIN_SCHEDULER_FLOW_EULER;
            if (other && !flow) {
                c.beta_start = 0.00085;
                c.beta_end = 0.012;
                c.beta_schedule = KIN_BETAS_SCALED_LINEAR;
                c.prediction = KIN_PREDICT_V;
                c.spacing = KIN_SPACING_TRAILING;
                c.steps_offset = 1;
                c.zero_snr = true;
            }
            if (other) c.train_steps = 500;
            if (other && kind <= KIN_SCHEDULER_DDIM) {
                c.clip_sample = false;
                c.clip_sample_range = 2;
            }
            if (other && kind == KIN_SCHEDULER_DDPM) c.variance = KIN_VARIANCE_LEARNED_RANGE;
            if (other && (kind == KIN_SCHEDULER_DDIM || kind == KIN_SCHEDULER_PNDM))
                c.set_alpha_to_one = !c.set_alpha_to_one;
            if (other && kind == KIN_SCHEDULER_PNDM) c.skip_prk_steps = true;
            if (other && (kind == KIN_SCHEDULER_EULER || kind == KIN_SCHEDULER_DPM_MULTISTEP ||
                          kind == KIN_SCHEDULER_UNIPC))
                c.karras_sigmas = c.final_sigma_min = true;
            if (other && kind == KIN_SCHEDULER_EULER) {
                c.sigma_min = 0.02;
                c.sigma_max = 80;
                c.continuous_timesteps = true;
            }
            if (other && kind == KIN_SCHEDULER_DPM_MULTISTEP) {
                c.algorithm = KIN_DPM_SDE_PLUS_PLUS;
                c.second_order_heun = c.euler_at_final = true;
                c.solver_order = 3;
                c.lambda_min_clipped = -5.1;
            }
            if (other && kind == KIN_SCHEDULER_UNIPC) {
                c.b1 = true;
                c.predict_x0 = c.lower_order_final = false;
                c.disabled_correctors = 2;
                c.disable_corrector[1] = 3;
            }
            if (other && kind == KIN_SCHEDULER_FLOW_EULER) {
                c.shift = 3;
                c.dynamic_shifting = true;
                c.max_image_seq_len = 8192;
            }
            if (other && kind == KIN_SCHEDULER_RECTIFIED_FLOW) {
                c.sampling_steps = 30;
                c.cfg_scale = 7;
                c.timestep_transform = true;
            }
            json_t *json = NULL;
            assert_int_equal(kin_scheduler_config_json(context, &c, &json), KIN_OK);
            if (kin_scheduler_config_parse(context, json, "written", &back) != KIN_OK)
                fail_msg("%s", kin_context_error(context));
            assert_true(same_config(&c, &back));
            json_decref(json);
        }
    kin_context_destroy(context);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_solver_ends_at_the_point),
        cmocka_unit_test(pndm_comes_near),
        cmocka_unit_test(solvers_may_stop_early),
        cmocka_unit_test(a_wrong_coefficient_shows),
        cmocka_unit_test(noise_of_training),
        cmocka_unit_test(memory_may_run_out),
        cmocka_unit_test(files_and_folders),
        cmocka_unit_test(what_is_written_reads_back),
        cmocka_unit_test(bad_files_are_refused),
        cmocka_unit_test(files_of_any_bytes),
        cmocka_unit_test(noise_of_the_device_is_that_of_the_host),
        cmocka_unit_test(guidance_follows_the_order_of_the_batch),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
