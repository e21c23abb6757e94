/* What plans say that they need, against what the device's allocator shows: one plan, several plans
 * over one arena, a budget, the trainer and the generator as a whole. On cuda-emulated0, whose
 * driver counts bytes as they are asked of cudaMalloc. Runs with KINORA_BACKEND_PATH naming the
 * folder of cuda-emulated.
 *
 * Tolerances: none but TABLES and TOOL_TABLES, the lists of jobs and taps that kernels bring
 * with their calls; the tools tell their peaks in KiB with one decimal.
 */
#define _XOPEN_SOURCE 700
#include "tests/train_helper.h"

#include <dlfcn.h>

#include "backends/cuda/emulator.h"
#include "models/training.h"
#include "runtime/device.h"
#include "runtime/plan.h"
#include "runtime/store.h"

enum { TABLES = 64 << 10, TOOL_TABLES = 256 << 10, FRAMES = 2, LATENT = 16 };

typedef struct bench {
    kin_context *context;
    kin_backends *backends;
    kin_device *device;
    void *library;
    kin_emulator_counts *counts;
    uint64_t start; /* bytes of the open device */
} bench;

/* The counts of the plug-in, which stays loaded. */
static kin_emulator_counts *find_counts(kin_backends *backends) {
    kin_emulator_control *(*get)(void) = NULL;
    for (size_t i = 0; i < kin_backends_file_count(backends); i++) {
        const kin_backend_file *file = kin_backends_file_at(backends, i);
        if (strstr(file->path, "cuda-emulated") == NULL || !file->loaded) continue;
        void *library = dlopen(file->path, RTLD_NOW);
        if (library != NULL) *(void **)&get = dlsym(library, "kin_emulator_control_get");
    }
    return get != NULL ? &get()->counts : NULL;
}

static int setup(void **state) {
    static bench b;
    kin_context_options options = {.struct_size = sizeof options, .threads = 1};
    b = (bench){.context = NULL};
    if (kin_context_create(&options, &b.context) != KIN_OK ||
        kin_backends_load(b.context, getenv("KINORA_BACKEND_PATH"), &b.backends) != KIN_OK)
        return -1;
    b.counts = find_counts(b.backends);
    if (b.counts == NULL || kin_device_open(b.backends, "cuda-emulated0", &b.device) != KIN_OK)
        return -1;
    b.start = b.counts->bytes;
    *state = &b;
    return 0;
}

static int teardown(void **state) {
    bench *b = *state;
    const bool clean = b->counts->bytes == b->start;
    kin_device_close(b->device);
    kin_backends_free(b->backends);
    kin_context_destroy(b->context);
    return clean ? 0 : -1;
}

static void must(const bench *b, kin_status status) {
    if (status != KIN_OK) fail_msg("%s", kin_context_error(b->context));
}

static kin_graph *make_step(const bench *b, int64_t batch) {
    kin_graph *graph = NULL;
    kin_schedule *schedule = NULL;
    kin_stdit_config config = kin_stdit_config_default();
    config.hidden_size = 64;
    config.depth = 2;
    config.num_heads = 2;
    config.caption_channels = 32;
    config.model_max_length = 6;
    must(b, kin_graph_create(b->context, &graph));
    must(b, kin_schedule_create(b->context, 1000, NULL, &schedule));
    kin_video_training training = {.denoiser = &config,
                                   .schedule = schedule,
                                   .scaling_factor = 0.18215,
                                   .precision = {.compute = KIN_BF16},
                                   .batch = batch,
                                   .frames = FRAMES,
                                   .latent_height = LATENT,
                                   .latent_width = LATENT,
                                   .text_length = config.model_max_length};
    kin_optimizer_options optimizer = {
        .beta1 = 0.9, .beta2 = 0.999, .epsilon = 1e-8, .max_grad_norm = 1, .ema_decay = 0.99};
    kin_training_update(graph, kin_video_training_loss(graph, &training), &optimizer);
    kin_schedule_free(schedule);
    must(b, kin_graph_status(graph));
    return graph;
}

static void run(const bench *b, kin_plan *plan) {
    const float lr = 1e-3f;
    const int64_t step = 1, seed[2] = {1, 1};
    must(b, kin_plan_write(plan, "lr", KIN_F32, &lr));
    must(b, kin_plan_write(plan, "step", KIN_I64, &step));
    must(b, kin_plan_write(plan, "seed", KIN_I64, seed));
    must(b, kin_plan_run(plan));
}

static kin_plan *make_plan(const bench *b, kin_graph *graph, kin_recompute recompute,
                           uint64_t budget) {
    kin_plan *plan = NULL;
    kin_plan_options options = {
        .struct_size = sizeof options, .memory_budget = budget, .recompute = recompute};
    must(b, kin_plan_build(graph, b->device, &options, &plan));
    return plan;
}

/* Inputs and constants: what a plan has of its own. */
static uint64_t own(const kin_plan *plan) {
    const kin_plan_summary *s = kin_plan_summarize(plan);
    return s->inputs + s->constants;
}

/* One plan: the store, the arena, inputs and constants, and tables; a run asks for nothing. */
static void test_one_plan(void **state) {
    const bench *b = *state;
    kin_graph *graph = make_step(b, 1);
    kin_plan *plan = make_plan(b, graph, KIN_RECOMPUTE_AUTO, 0);
    const kin_plan_summary s = *kin_plan_summarize(plan);
    kin_store *store = NULL;
    assert_int_equal(b->counts->bytes, b->start); /* planning asks for nothing */
    must(b, kin_store_create(b->device, &store));
    must(b, kin_store_add_graph(store, graph, 1));
    const uint64_t stored = b->counts->bytes - b->start, calls = b->counts->allocations;
    assert_int_equal(stored, kin_store_allocated(store));
    /* in few buffers, which the device rounds up, and within the alignment of each tensor */
    assert_true(stored >= s.weights + s.states);
    assert_true(stored < s.weights + s.states + 256 * kin_store_count(store));
    assert_true(calls > 0 && kin_store_count(store) > 100);
    must(b, kin_plan_prepare(plan, store, NULL));
    const uint64_t prepared = b->counts->bytes, most = b->counts->most_bytes;
    const uint64_t said = s.arena + own(plan), tables = prepared - b->start - stored - said;
    print_message("stated %llu bytes; asked %llu, %llu of them for the alignment of the store's "
                  "tensors and %llu for tables\n",
                  (unsigned long long)s.peak, (unsigned long long)(prepared - b->start),
                  (unsigned long long)(stored - s.weights - s.states), (unsigned long long)tables);
    assert_true(prepared - b->start >= stored + said);
    assert_true(tables < TABLES);
    assert_int_equal(s.peak, s.weights + s.states + said);
    run(b, plan);
    run(b, plan);
    assert_int_equal(b->counts->bytes, prepared);
    assert_int_equal(b->counts->most_bytes, most);
    kin_plan_free(plan);
    kin_store_free(store);
    kin_graph_destroy(graph);
}

/* Two shapes over one arena and one store: the larger arena, what each has of its own, and never
 * two arenas at a time. */
static void test_shared_arena(void **state) {
    const bench *b = *state;
    kin_workspace *workspace = NULL;
    kin_store *store = NULL;
    kin_graph *graphs[2];
    kin_plan *plans[2];
    uint64_t arena = 0, owned = 0;
    must(b, kin_store_create(b->device, &store));
    must(b, kin_workspace_create(b->device, &workspace));
    for (int i = 0; i < 2; i++) {
        graphs[i] = make_step(b, 1 + i); /* the second one needs more */
        plans[i] = make_plan(b, graphs[i], KIN_RECOMPUTE_AUTO, 0);
        must(b, kin_store_add_graph(store, graphs[i], 1));
        must(b, kin_plan_prepare(plans[i], store, workspace));
        const uint64_t a = kin_plan_summarize(plans[i])->arena;
        assert_true(a > arena);
        arena = a;
        owned += own(plans[i]);
        run(b, plans[i]);
    }
    run(b, plans[0]); /* is recorded anew in the arena that has grown */
    const uint64_t said = kin_store_allocated(store) + arena + owned;
    const uint64_t now = b->counts->bytes - b->start;
    assert_true(now >= said && now < said + 2 * TABLES);
    assert_true(b->counts->most_bytes - b->start < said + 2 * TABLES);
    for (int i = 0; i < 2; i++) kin_plan_free(plans[i]);
    for (int i = 0; i < 2; i++) kin_graph_destroy(graphs[i]);
    kin_workspace_free(workspace);
    kin_store_free(store);
}

/* A budget holds for what is asked of the device, the exceptions above aside. */
static void test_budget(void **state) {
    const bench *b = *state;
    kin_graph *graph = make_step(b, 2);
    kin_plan *plan = make_plan(b, graph, KIN_RECOMPUTE_CHEAP, 0);
    const uint64_t cheap = kin_plan_summarize(plan)->peak;
    kin_store *store = NULL;
    kin_plan_free(plan);
    plan = make_plan(b, graph, KIN_RECOMPUTE_SEGMENTS, 0);
    const uint64_t budget = (kin_plan_summarize(plan)->peak + cheap) / 2;
    kin_plan_free(plan);
    plan = make_plan(b, graph, KIN_RECOMPUTE_AUTO, budget);
    assert_true(kin_plan_summarize(plan)->segments_recomputed > 0);
    must(b, kin_store_create(b->device, &store));
    must(b, kin_store_add_graph(store, graph, 1));
    must(b, kin_plan_prepare(plan, store, NULL));
    run(b, plan);
    assert_true(b->counts->bytes - b->start <= budget + TABLES + 256 * kin_store_count(store));
    assert_true(b->counts->bytes - b->start > budget / 2);
    kin_plan_free(plan);
    kin_store_free(store);
    kin_graph_destroy(graph);
}

#if defined KIN_HAVE_FFMPEG && defined KIN_HAVE_SENTENCEPIECE

/* A verb, and at its end what the allocator's peak was. */
static int run_and_count(train_verb verb, int count, char **arguments) {
    kin_context *context = NULL;
    kin_backends *backends = NULL;
    if (kin_context_create(NULL, &context) != KIN_OK ||
        kin_backends_load(context, getenv("KINORA_BACKEND_PATH"), &backends) != KIN_OK)
        return 77;
    kin_emulator_counts *counts = find_counts(backends);
    if (counts != NULL) counts->most_bytes = counts->bytes; /* what the tests before had */
    kin_backends_free(backends);
    kin_context_destroy(context);
    const int code = verb(count, arguments);
    if (counts != NULL)
        fprintf(stderr, "allocator: %llu bytes at the most\n",
                (unsigned long long)counts->most_bytes);
    return code;
}

static int train_and_count(int count, char **arguments) {
    return run_and_count(kin_verb_train, count, arguments);
}

static int generate_and_count(int count, char **arguments) {
    return run_and_count(kin_verb_generate, count, arguments);
}

/* The number behind `label`, with its unit. */
static double told_bytes(const char *label) {
    const char *at = strstr(train_told, label);
    double value = 0;
    char unit[8] = "";
    if (at == NULL || sscanf(at + strlen(label), "%lf %7[A-Za-z]", &value, unit) != 2)
        fail_msg("\"%s\" is not in:\n%s", label, train_told);
    if (strncmp(unit, "KiB", 3) == 0) value *= 1024;
    else if (strncmp(unit, "MiB", 3) == 0) value *= 1 << 20;
    else if (strncmp(unit, "GiB", 3) == 0) value *= 1 << 30;
    return value;
}

static void test_trainer(void **state) {
    const media *m = *state;
    assert_exit(0, train_run(m, train_and_count,
                             ARGUMENTS(media_path(m, "vae.json"), "--verbose", "-d",
                                       "cuda-emulated0", "--set", "steps=2", "--set",
                                       train_set_path(m, "output", "counted"))));
    const double said = told_bytes("peak memory "), most = told_bytes("allocator: ");
    print_message("the trainer says %.0f bytes, the allocator %.0f\n", said, most);
    assert_true(most >= said - 64);
    assert_true(most < said + TOOL_TABLES);
}

/* The largest stage of a generation. */
static void test_generator(void **state) {
    const media *m = *state;
    char model[2 * MEDIA_PATH], out[2 * MEDIA_PATH];
    snprintf(model, sizeof model, "%s", media_path(m, "video/model"));
    snprintf(out, sizeof out, "%s", media_path(m, "out.mp4"));
    const char *list[] = {"--dry-run",
                          "-m",
                          model,
                          "-p",
                          "a red circle",
                          "-o",
                          out,
                          "-d",
                          "cuda-emulated0",
                          "-s",
                          "1",
                          "--steps",
                          "2",
                          NULL};
    assert_exit(0, train_run(m, kin_verb_generate, list));
    static const char *const stages[] = {"\n  text ", "\n  sampling ", "\n  frames "};
    double said = 0;
    for (int i = 0; i < 3; i++) {
        const double stage = told_bytes(stages[i]);
        if (stage > said) said = stage;
    }
    list[0] = "-v";
    assert_exit(0, train_run(m, generate_and_count, list));
    const double most = told_bytes("allocator: ");
    print_message("the generator says %.0f bytes, the allocator %.0f\n", said, most);
    assert_true(most >= said - 64);
    assert_true(most < said + TOOL_TABLES);
}

#endif

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_one_plan, setup, teardown),
        cmocka_unit_test_setup_teardown(test_shared_arena, setup, teardown),
        cmocka_unit_test_setup_teardown(test_budget, setup, teardown),
    };
    int failed = cmocka_run_group_tests_name("plans", tests, NULL, NULL);
#if defined KIN_HAVE_FFMPEG && defined KIN_HAVE_SENTENCEPIECE
    const struct CMUnitTest tools[] = {
        cmocka_unit_test(test_trainer),
        cmocka_unit_test(test_generator),
    };
    failed += cmocka_run_group_tests_name("tools", tools, train_setup, media_teardown);
#endif
    return failed;
}
