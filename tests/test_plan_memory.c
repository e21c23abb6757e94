/* The memory of plans: a real model's arena, recomputation from a budget, a budget that is too
 * small, and the process's memory against the plan's.
 *
 * Tolerances: recomputation: the same bits; the process's resident memory: 5 % of the plan's peak
 * plus RESIDENT_EXTRA.
 */
#define _POSIX_C_SOURCE 200809L
#include "tests/plan_helper.h"

#include <math.h>
#include <sys/wait.h>

#include "models/training.h"
#include "ops/matmul.h"
#include "ops/elementwise.h"
#include "ops/reduce.h"
#include "runtime/philox.h"
#include "tools/plan_graph.h"
#include "tools/tool.h"

#if defined(__SANITIZE_ADDRESS__)
#define HAS_ADDRESS_SANITIZER 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define HAS_ADDRESS_SANITIZER 1
#endif
#endif

/* Code, the libraries' own memory, threads' stacks and OpenBLAS's buffers. */
enum { RESIDENT_EXTRA = 16 * MIB };
/* ---- the size of a real model ---- */

static void append_training(fixture *f, const kin_stdit_config *config, int64_t batch,
                            int64_t frames, int64_t latent, double ema) {
    kin_schedule *schedule = NULL;
    must(f, kin_schedule_create(f->context, 1000, NULL, &schedule));
    kin_video_training training = {.denoiser = config,
                                   .schedule = schedule,
                                   .scaling_factor = 0.18215,
                                   .caption_dropout = 0.1,
                                   .batch = batch,
                                   .frames = frames,
                                   .latent_height = latent,
                                   .latent_width = latent,
                                   .text_length = config->model_max_length};
    kin_optimizer_options optimizer = {.beta1 = 0.9,
                                       .beta2 = 0.999,
                                       .epsilon = 1e-8,
                                       .weight_decay = 0.01,
                                       .max_grad_norm = 1,
                                       .ema_decay = ema};
    kin_training_update(f->graph, kin_video_training_loss(f->graph, &training), &optimizer);
    kin_schedule_free(schedule);
    must(f, kin_graph_status(f->graph));
}

static void test_arena_of_a_large_model(void **state) {
    fixture *f = *state;
    kin_stdit_config config = kin_stdit_config_default();
    for (int64_t batch = 1; batch <= 2; batch++) {
        fresh_graph(f);
        append_training(f, &config, batch, 16, 32, 0.9999);
        double start = kin_seconds();
        must(f, kin_plan_build(f->graph, f->null_device, NULL, &f->plan));
        double seconds = kin_seconds() - start;
        const kin_plan_summary *s = kin_plan_summarize(f->plan);
        print_message(
            "STDiT-XL/2, training 16x256x256, batch %d: arena %.1f MiB, %.2f %% above the "
            "lower bound, %d nodes, planned in %.3f s\n",
            (int)batch, (double)s->arena / MIB,
            100 * ((double)s->arena / (double)s->lower_bound - 1), s->nodes, seconds);
        assert_true(s->arena >= s->lower_bound);
        assert_true((double)s->arena <= 1.02 * (double)s->lower_bound);
        assert_int_equal(s->peak, s->weights + s->states + s->inputs + s->constants + s->arena);
        /* weights of 759,620,768 parameters and the null caption; three states of each weight */
        assert_int_equal(s->weights, 4 * (UINT64_C(759620768) + 120 * 4096));
        assert_int_equal(s->states, 4 * 3 * UINT64_C(759620768));
        assert_int_equal(s->largest_count, KIN_PLAN_LARGEST);
        assert_true(seconds < 10);
    }
}

/* Convolutions of all sizes beside each other: one pass of best fit leaves a tenth unused. */
static void test_arena_of_a_vae(void **state) {
    fixture *f = *state;
    kin_plan_request request = kin_plan_request_default();
    request.train = true;
    request.frames = 1;
    request.compute = "bf16";
    assert_int_equal(kin_plan_request_check(&request, "plan"), -1);
    must(f, kin_model_choose(f->context, "sd-vae", &request.choice));
    must(f, kin_plan_append(f->graph, &request));
    must(f, kin_plan_build(f->graph, f->null_device, NULL, &f->plan));
    const kin_plan_summary *s = kin_plan_summarize(f->plan);
    print_message("SD VAE, training 256x256: %.2f %% above the lower bound\n",
                  100 * ((double)s->arena / (double)s->lower_bound - 1));
    assert_true(s->arena >= s->lower_bound);
    assert_true((double)s->arena <= 1.02 * (double)s->lower_bound);
}

/* A training step at the published sizes in bf16 within 24 GB, with at most a fifth of it done
 * twice. */
static void test_steps_within_24_gigabytes(void **state) {
    fixture *f = *state;
    static const char *const models[] = {"STDiT-XL/2", "Latte-1"};
    kin_plan_options options = {.struct_size = sizeof options,
                                .memory_budget = UINT64_C(24000000000)};
    for (int i = 0; i < 2; i++) {
        kin_plan_request request = kin_plan_request_default();
        request.train = true;
        request.compute = "bf16";
        request.size = "16x512x512";
        fresh_graph(f);
        assert_int_equal(kin_plan_request_check(&request, "plan"), -1);
        must(f, kin_model_choose(f->context, models[i], &request.choice));
        must(f, kin_plan_append(f->graph, &request));
        must(f, kin_plan_build(f->graph, f->null_device, &options, &f->plan));
        const kin_plan_summary *s = kin_plan_summarize(f->plan);
        print_message("%s, training 16x512x512: %.2f GB, %.1f of %.1f TFLOP are done twice\n",
                      models[i], 1e-9 * (double)s->peak, 1e-12 * s->recomputed_flops,
                      1e-12 * s->flops);
        assert_true(s->peak <= options.memory_budget);
        assert_true(s->recomputed_flops > 0 && s->recomputed_flops < s->flops / 5);
    }
}

/* ---- checkpointing ---- */

static kin_stdit_config tiny_config(void) {
    kin_stdit_config config = kin_stdit_config_default();
    config.hidden_size = 48;
    config.depth = 4;
    config.num_heads = 4;
    config.caption_channels = 32;
    config.model_max_length = 6;
    return config;
}

enum {
    TINY_FRAMES = 4,
    TINY_LATENT = 8,
    TINY_VALUES = 8 * TINY_FRAMES * TINY_LATENT * TINY_LATENT
};

/* Two training steps from fixed weights; returns the bytes of loss, norm and all of the store. */
static unsigned char *train_tiny(fixture *f, const kin_plan_options *options, size_t *out_size,
                                 kin_plan_summary *out_summary) {
    kin_stdit_config config = tiny_config();
    kin_plan *plan = NULL;
    kin_store *store = NULL;
    fresh_graph(f);
    append_training(f, &config, 1, TINY_FRAMES, TINY_LATENT, 0.99);
    must(f, kin_plan_build(f->graph, f->cpu, options, &plan));
    *out_summary = *kin_plan_summarize(plan);
    must(f, kin_store_create(f->cpu, &store));
    must(f, kin_store_add_graph(store, f->graph, 5));
    must(f, kin_plan_prepare(plan, store, NULL));
    static float moments[TINY_VALUES], features[6 * 32];
    const int64_t seed[2] = {3, 1};
    const int32_t lengths[1] = {5};
    const float lr = 1e-3f;
    kin_philox_fill_normal(9, 0, 0, 0, TINY_VALUES, moments);
    kin_philox_fill_normal(9, 1, 0, 0, 6 * 32, features);
    must(f, kin_plan_write(plan, "moments", KIN_F32, moments));
    must(f, kin_plan_write(plan, "features", KIN_F32, features));
    must(f, kin_plan_write(plan, "lengths", KIN_I32, lengths));
    must(f, kin_plan_write(plan, "seed", KIN_I64, seed));
    must(f, kin_plan_write(plan, "lr", KIN_F32, &lr));
    size_t size = 2 * sizeof(float) + kin_store_bytes(store), used = 2 * sizeof(float);
    unsigned char *bytes = calloc(1, size);
    assert_non_null(bytes);
    for (int64_t step = 1; step <= 2; step++) {
        must(f, kin_plan_write(plan, "step", KIN_I64, &step));
        must(f, kin_plan_run(plan));
    }
    must(f, kin_plan_read(plan, "loss", KIN_F32, bytes));
    must(f, kin_plan_read(plan, "grad_norm", KIN_F32, bytes + sizeof(float)));
    for (size_t i = 0; i < kin_store_count(store); i++) {
        kin_store_entry *entry = kin_store_at(store, i);
        must(f, kin_store_read(store, entry->name, entry->desc.dtype, bytes + used));
        used += kin_desc_bytes(&entry->desc);
    }
    assert_int_equal(used, size);
    kin_plan_free(plan);
    kin_store_free(store);
    *out_size = size;
    return bytes;
}

static void test_checkpointing_keeps_the_bits(void **state) {
    fixture *f = *state;
    kin_plan_summary all, none, some;
    size_t size, other;
    unsigned char *want = train_tiny(f, NULL, &size, &none);
    float loss, norm;
    memcpy(&loss, want, sizeof loss);
    memcpy(&norm, want + sizeof loss, sizeof norm);
    assert_true(isfinite(loss) && loss > 0);
    assert_true(isfinite(norm) && norm > 0);

    kin_plan_options options = {.struct_size = sizeof options, .recompute = KIN_RECOMPUTE_SEGMENTS};
    unsigned char *got = train_tiny(f, &options, &other, &all);
    assert_int_equal(size, other);
    assert_memory_equal(got, want, size);
    free(got);
    assert_int_equal(none.segments_recomputed, 0);
    assert_int_equal(all.segments_recomputed, all.segments);
    assert_int_equal(all.segments, 4);
    assert_true(all.arena < none.arena);
    assert_true(all.flops > none.flops);

    options = (kin_plan_options){.struct_size = sizeof options,
                                 .memory_budget = (all.peak + none.peak) / 2};
    got = train_tiny(f, &options, &other, &some);
    assert_memory_equal(got, want, size);
    assert_true(some.peak <= options.memory_budget);
    assert_true(some.segments_recomputed > 0);
    assert_true(some.recomputed_flops > 0 && some.recomputed_flops < all.recomputed_flops);

    /* negative control: another seed of the weights gives other bits */
    assert_true(size > 1000 && memcmp(got, want + 8, 1000) != 0);
    free(got);
    free(want);
}

static void test_budget_too_small(void **state) {
    fixture *f = *state;
    kin_stdit_config config = tiny_config();
    append_training(f, &config, 1, TINY_FRAMES, TINY_LATENT, 0.99);
    kin_plan_options options = {.struct_size = sizeof options, .memory_budget = 100000};
    assert_int_equal(kin_plan_build(f->graph, f->null_device, &options, &f->plan),
                     KIN_OUT_OF_MEMORY);
    assert_null(f->plan);
    assert_message(f->context, "0.1 MiB are allowed");
    assert_message(f->context, "all segments recomputed");
    assert_message(f->context, "the largest tensors are");
    assert_message(f->context, "denoiser.");
    assert_message(f->context, "[");
}

/* ---- resident memory ---- */

/* A field of /proc/self/status in bytes. */
static uint64_t status_bytes(const char *field) {
    char line[256];
    unsigned long long kilobytes = 0;
    FILE *file = fopen("/proc/self/status", "r");
    if (!file) return 0;
    while (fgets(line, sizeof line, file))
        if (strncmp(line, field, strlen(field)) == 0)
            sscanf(line + strlen(field), ": %llu", &kilobytes);
    fclose(file);
    return (uint64_t)kilobytes * 1024;
}

/* In a process of its own, so that its peak is that of one run. Prints what it found, and returns 0
 * if the peak is as the plan says. */
static int measure_resident(void) {
    void *state = NULL;
    if (setup(&state) != 0) return 1;
    fixture *f = state;
    kin_stdit_config config = kin_stdit_config_default();
    config.hidden_size = 192;
    config.depth = 2;
    config.num_heads = 4;
    config.caption_channels = 64;
    config.model_max_length = 8;
    append_training(f, &config, 2, 8, 32, 0.99);
    must(f, kin_plan_build(f->graph, f->cpu, NULL, &f->plan));
    uint64_t before = status_bytes("VmRSS"), peak = kin_plan_summarize(f->plan)->peak;
    must(f, kin_store_create(f->cpu, &f->store));
    must(f, kin_store_add_graph(f->store, f->graph, 1));
    must(f, kin_plan_prepare(f->plan, f->store, NULL));
    const float lr = 1e-3f;
    const int64_t step = 1, seed[2] = {1, 1};
    must(f, kin_plan_write(f->plan, "lr", KIN_F32, &lr));
    must(f, kin_plan_write(f->plan, "step", KIN_I64, &step));
    must(f, kin_plan_write(f->plan, "seed", KIN_I64, seed));
    must(f, kin_plan_run(f->plan));
    uint64_t after = status_bytes("VmHWM");
    double allowed = 0.05 * (double)peak + RESIDENT_EXTRA;
    double error = (double)after - (double)before - (double)peak;
    printf("the plan's peak is %.1f MiB; the process grew from %.1f to %.1f MiB: off by %.1f, "
           "allowed is %.1f\n",
           (double)peak / MIB, (double)before / MIB, (double)after / MIB, error / MIB,
           allowed / MIB);
    fflush(stdout);
    /* the plan must be large enough that the constant does not hide a wrong one */
    bool good = before && fabs(error) <= allowed && (double)peak > 10.0 * RESIDENT_EXTRA;
    teardown(&state);
    return good ? 0 : 1;
}

static void test_resident_memory(void **state) {
    (void)state;
#ifdef HAS_ADDRESS_SANITIZER
    print_message("skipped: AddressSanitizer has memory of its own\n");
    skip();
#else
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        execl("/proc/self/exe", "test_plan_memory", "--resident", (char *)NULL);
        _exit(127);
    }
    int status = 0;
    assert_true(waitpid(child, &status, 0) == child);
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), 0);
#endif
}

int main(int count, char **arguments) {
    if (count > 1 && strcmp(arguments[1], "--resident") == 0) return measure_resident();
    const struct CMUnitTest tests[] = {
        TEST(test_arena_of_a_large_model),    TEST(test_arena_of_a_vae),
        TEST(test_steps_within_24_gigabytes), TEST(test_checkpointing_keeps_the_bits),
        TEST(test_budget_too_small),          cmocka_unit_test(test_resident_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
