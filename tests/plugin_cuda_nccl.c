/* Groups of emulated GPUs through the stand-in for NCCL (backends/cuda/emulator_nccl.c): the same
 * plan as on the host, as steps and as CUDA graphs, what is asked of the library, and every call
 * failing once. Runs with KINORA_BACKEND_PATH naming the folder of cuda-emulated. With real GPUs,
 * and the folder of the plug-in cuda:
 *     plugin_cuda_nccl cuda0       a group of one
 *     plugin_cuda_nccl cuda 4      a group of four, cuda0 to cuda3 */
#define _XOPEN_SOURCE 700
#include "tests/collective_helper.h"

#include <dlfcn.h>

#include "backends/cuda/emulator.h"
#include "tests/counted_memory.h"

static const char device_name[] = "cuda-emulated0";

/* The emulator's control, of the plug-in that these backends loaded. */
static kin_emulator_control *control_of(const kin_backends *backends) {
    kin_emulator_control *(*get)(void) = NULL;
    for (size_t i = 0; i < kin_backends_file_count(backends); i++) {
        const kin_backend_file *file = kin_backends_file_at(backends, i);
        if (strstr(file->path, "cuda-emulated") == NULL || !file->loaded) continue;
        void *library = dlopen(file->path, RTLD_NOW);
        if (library != NULL) *(void **)&get = dlsym(library, "kin_emulator_control_get");
    }
    return get != NULL ? get() : NULL;
}

static bool without_misuse(member *m) {
    const kin_emulator_control *control = control_of(m->backends);
    if (control != NULL && control->counts.misuses == 0) return true;
    return member_report(m, "something was asked that the library would refuse");
}

static bool sums_on_device(member *m) {
    if (!kin_group_is_on_device(m->group)) return member_report(m, "sums go by the host");
    bool good = check_collective_plan(m, 3) && check_broadcast(m) && without_misuse(m);
    if (good && control_of(m->backends)->counts.graph_launches == 0)
        good = member_report(m, "no graph was made");
    return good;
}

static void sums_by_nccl(void **state) {
    (void)state;
    assert_int_equal(run_members(2, device_name, NULL, true, sums_on_device), 0);
    assert_int_equal(run_members(3, device_name, NULL, true, sums_on_device), 0);
}

static bool sums_by_host(member *m) {
    if (kin_group_is_on_device(m->group)) return member_report(m, "where is the library from?");
    return check_collective_plan(m, 2) && check_broadcast(m) && without_misuse(m);
}

/* Without the library the same by way of the host. */
static void no_library(void **state) {
    (void)state;
    assert_int_equal(
        run_members(2, device_name, "cuda.nccl=/nowhere/libnccl.so.2", true, sums_by_host), 0);
}

/* Times of a list with sums in it: as many as there are calls. */
static bool profiled(member *m) {
    kin_plan *plan;
    kin_store *store;
    float *values = malloc(COLLECTIVE_LARGE * sizeof *values);
    bool good = values != NULL &&
                member_ok(m, build_collective_plan(m->device, &plan, &store), "building") &&
                member_ok(m, write_collective_inputs(plan, store, values, m->ranks->rank), "in") &&
                member_ok(m, kin_plan_profile(plan), "profiling");
    double seconds = 0;
    for (int i = 0; good && i < kin_plan_node_count(plan); i++) {
        kin_plan_node node = kin_plan_node_at(plan, i);
        if (strncmp(node.op, "all_reduce", 10) == 0) seconds += node.seconds;
    }
    if (good && !(seconds > 0)) good = member_report(m, "sums that take no time");
    if (good && count_wrong(plan, "large", values, m->ranks->rank, m->ranks->count) != 0)
        good = member_report(m, "wrong sums");
    if (good) kin_plan_free(plan);
    if (good) kin_store_free(store);
    free(values);
    return good && without_misuse(m);
}

static void profiling(void **state) {
    (void)state;
    assert_int_equal(run_members(2, device_name, NULL, true, profiled), 0);
}

/* Ranks that record different sums would hang; the stand-in notices. */
static bool different(member *m) {
    int64_t size = 100 + m->ranks->rank;
    kin_graph *g;
    kin_plan *plan = NULL;
    bool good = member_ok(m, kin_graph_create(m->context, &g), "graph");
    if (!good) return false;
    kin_output(g, "y", kin_all_reduce(g, kin_input(g, "x", KIN_F32, 1, &size), KIN_REDUCTION_SUM));
    good = member_ok(m, kin_plan_build(g, m->device, NULL, &plan), "plan") &&
           member_ok(m, kin_plan_prepare(plan, NULL, NULL), "memory");
    kin_graph_destroy(g);
    if (good && kin_plan_run(plan) == KIN_OK) good = member_report(m, "it was not noticed");
    kin_plan_free(plan);
    return good && !without_misuse(m);
}

static void different_sums_are_noticed(void **state) {
    (void)state;
    assert_int_equal(run_members(2, device_name, NULL, true, different), 0);
}

/* ---- a group of one, every call of which fails once ---- */

static kin_status copy_all(void *user, const void *send, void *receive, size_t bytes) {
    (void)user;
    memcpy(receive, send, bytes);
    return KIN_OK;
}

static kin_status keep(void *user, void *data, size_t bytes) {
    (void)user, (void)data, (void)bytes;
    return KIN_OK;
}

static const kin_transport alone = {
    .count = 1, .exchange = copy_all, .gather = copy_all, .broadcast = keep};

static kin_status small_plan(kin_device *device, kin_plan **out_plan) {
    int64_t size = COLLECTIVE_SMALL;
    kin_graph *g;
    kin_status status = kin_graph_create(device->context, &g);
    if (status != KIN_OK) return status;
    kin_tensor x = kin_scale(g, kin_input(g, "x", KIN_F32, 1, &size), 2, 0);
    kin_output(g, "y", kin_all_reduce(g, x, KIN_REDUCTION_MEAN));
    status = kin_plan_build(g, device, NULL, out_plan);
    kin_graph_destroy(g);
    return status == KIN_OK ? kin_plan_prepare(*out_plan, NULL, NULL) : status;
}

/* Joins, sums three times, leaves. calls: made of the emulated driver and library. */
static kin_status whole(uint64_t fail_at, uint64_t *out_calls) {
    counter memory = {0};
    kin_context *context = NULL;
    kin_backends *backends = NULL;
    kin_device *device = NULL;
    kin_group *group = NULL;
    kin_plan *plan = NULL;
    float values[COLLECTIVE_SMALL];
    kin_context_options options = {.struct_size = sizeof options,
                                   .allocator = {counted_resize, &memory}};
    assert_int_equal(kin_context_create(&options, &context), KIN_OK);
    assert_int_equal(kin_backends_load(context, getenv("KINORA_BACKEND_PATH"), &backends), KIN_OK);
    kin_emulator_control *control = control_of(backends);
    assert_non_null(control);
    const uint64_t before = control->calls;
    control->fail_at = fail_at ? before + fail_at : 0;
    for (int i = 0; i < COLLECTIVE_SMALL; i++) values[i] = collective_value(0, i);
    kin_status status = kin_device_open(backends, device_name, &device);
    if (status == KIN_OK) status = kin_group_join(device, &alone, &group);
    if (status == KIN_OK) assert_true(kin_group_is_on_device(group));
    if (status == KIN_OK) status = small_plan(device, &plan);
    if (status == KIN_OK) status = kin_plan_write(plan, "x", KIN_F32, values);
    for (int i = 0; status == KIN_OK && i < 3; i++) status = kin_plan_run(plan);
    if (status == KIN_OK) status = kin_plan_read(plan, "y", KIN_F32, values);
    for (int i = 0; status == KIN_OK && i < COLLECTIVE_SMALL; i++)
        assert_true(values[i] == 2 * collective_value(0, i));
    control->fail_at = 0;
    kin_plan_free(plan);
    kin_group_leave(group);
    kin_device_close(device);
    *out_calls = control->calls - before;
    const kin_emulator_counts c = control->counts;
    assert_int_equal(c.bytes, 0);
    assert_int_equal(c.streams, 0);
    assert_int_equal(c.events, 0);
    assert_int_equal(c.graphs, 0);
    assert_int_equal(c.pinned, 0);
    assert_int_equal(c.misuses, 0);
    kin_backends_free(backends);
    kin_context_destroy(context);
    assert_int_equal(memory.blocks, 0);
    return status;
}

static void every_call_fails_once(void **state) {
    (void)state;
    uint64_t calls, again, failed = 0;
    assert_int_equal(whole(0, &calls), KIN_OK);
    assert_true(calls > 20);
    for (uint64_t at = 1; at <= calls; at++) failed += whole(at, &again) != KIN_OK;
    assert_true(failed > calls / 2);
}

/* ---- real GPUs ---- */

static bool sums_on_gpu(member *m) {
    if (m->device->backend->all_reduce == NULL) {
        printf("skipped: %s is no GPU of this plug-in\n", m->device->info.name);
        fflush(stdout);
        return true;
    }
    if (!kin_group_is_on_device(m->group)) return member_report(m, "sums go by the host");
    bool good = check_collective_plan(m, 4) && check_broadcast(m);
    if (good && m->ranks->rank == 0)
        printf("%s: sums of %d ranks are right; NCCL took %.1f MiB\n", m->device->info.description,
               m->ranks->count, (double)kin_group_bytes(m->group) / 1048576);
    fflush(stdout);
    return good;
}

static void stay(kin_ranks *ranks, bool failed) {
    (void)ranks, (void)failed;
}

static int on_gpus(const char *device, int count) {
    if (count > 1) return run_members(count, device, NULL, true, sums_on_gpu);
    kin_ranks *ranks = malloc(sizeof *ranks); /* kin_ranks_end frees it */
    if (ranks == NULL) return 1;
    *ranks = (kin_ranks){.count = 1, .local_count = 1, .transport = alone, .end = stay};
    return member_main(ranks, device, NULL, true, sums_on_gpu);
}

int main(int argc, char **argv) {
    if (argc > 1) return on_gpus(argv[1], argc > 2 ? atoi(argv[2]) : 1);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sums_by_nccl),
        cmocka_unit_test(no_library),
        cmocka_unit_test(profiling),
        cmocka_unit_test(different_sums_are_noticed),
        cmocka_unit_test(every_call_fails_once),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
