/* What the tests of collectives share: ranks as processes of the test, and a plan whose sums over
 * the ranks are known exactly. The test itself opens no device before, so that its children start
 * without threads. */
#ifndef KIN_TESTS_COLLECTIVE_HELPER_H
#define KIN_TESTS_COLLECTIVE_HELPER_H

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "ops/collective.h"
#include "ops/elementwise.h"
#include "ops/layout.h"
#include "ops/views.h"
#include "runtime/plan.h"
#include "runtime/store.h"
#include "tools/ranks.h"

/* More than the 8 MiB that go by way of the host at once; and odd sizes. */
enum {
    COLLECTIVE_LARGE = 2500003,
    COLLECTIVE_SMALL = 1031,
    COLLECTIVE_ROWS = 7,
    COLLECTIVE_WIDTH = 5
};

typedef struct member {
    kin_ranks *ranks;
    kin_context *context;
    kin_backends *backends;
    kin_device *device;
    kin_group *group;
} member;

/* What a rank does; true if all is well. */
typedef bool (*member_work)(member *m);

static inline bool member_report(const member *m, const char *what) {
    fprintf(stderr, "rank %d: %s: %s\n", m->ranks->rank, what, kin_context_error(m->context));
    return false;
}

static inline bool member_ok(const member *m, kin_status status, const char *what) {
    return status == KIN_OK || member_report(m, what);
}

static inline int member_main(kin_ranks *ranks, const char *device, const char *settings,
                              bool joins, member_work work) {
    member m = {.ranks = ranks};
    kin_context_options options = {
        .struct_size = sizeof options, .threads = 1, .settings = settings};
    char name[64];
    bool good = kin_context_create(&options, &m.context) == KIN_OK;
    if (good) {
        ranks->context = m.context;
        good =
            member_ok(&m, kin_backends_load(m.context, getenv("KINORA_BACKEND_PATH"), &m.backends),
                      "backends") &&
            member_ok(&m,
                      kin_ranks_device(m.context, m.backends, device, ranks->local_rank,
                                       ranks->local_count, name, sizeof name, &device),
                      "the device's name") &&
            member_ok(&m, kin_device_open(m.backends, device, &m.device), "device");
    }
    if (good && joins)
        good = member_ok(&m, kin_group_join(m.device, &ranks->transport, &m.group), "group");
    if (good) good = work(&m);
    if (m.context) {
        kin_group_leave(m.group);
        kin_device_close(m.device);
        kin_backends_free(m.backends);
        kin_context_destroy(m.context);
    }
    kin_ranks_end(ranks, !good);
    return good ? 0 : 1;
}

/* Runs the work in so many processes; returns what the one that watches over them returns: 0 if all
 * is well. */
static inline int run_members(int count, const char *device, const char *settings, bool joins,
                              member_work work) {
    char how[16];
    kin_ranks *ranks = NULL;
    snprintf(how, sizeof how, "%d", count);
    int code = kin_ranks_start("test", how, &ranks);
    if (code >= 0) return code;
    _exit(member_main(ranks, device, settings, joins, work));
}

/* ---- the plan ---- */

/* Whole numbers small enough for their sums to be exact in every dtype. */
static inline float collective_value(int rank, int64_t i) {
    return (float)((i * 7 + rank * 5) % 17 - 8);
}

static inline double collective_sum(int count, int64_t i) {
    double sum = 0;
    for (int r = 0; r < count; r++) sum += (double)collective_value(r, i);
    return sum;
}

/* Outputs: "large" = mean of a; "kept" = a + sum of a, which must not lie on a; "small" = sum of b,
 * bf16; "across" = sum of c transposed, f16; "state" = mean of the variable, which stays there. */
static inline kin_status build_collective_plan(kin_device *device, kin_plan **out_plan,
                                               kin_store **out_store) {
    kin_graph *g;
    *out_plan = NULL;
    *out_store = NULL;
    kin_status status = kin_graph_create(device->context, &g);
    if (status != KIN_OK) return status;
    int64_t large = COLLECTIVE_LARGE, small = COLLECTIVE_SMALL;
    int64_t across[2] = {COLLECTIVE_ROWS, COLLECTIVE_WIDTH};
    kin_tensor a = kin_scale(g, kin_input(g, "a", KIN_F32, 1, &large), 1, 0);
    kin_tensor b = kin_input(g, "b", KIN_BF16, 1, &small);
    kin_tensor c = kin_input(g, "c", KIN_F16, 2, across);
    kin_tensor v =
        kin_variable(g, "v", KIN_VARIABLE_STATE, KIN_F32, 1, &small, (kin_init){KIN_INIT_ZERO, 0});
    kin_tensor a_again = kin_slice(g, a, 0, 0, COLLECTIVE_SMALL);
    kin_tensor kept = kin_all_reduce(g, a_again, KIN_REDUCTION_SUM);
    kin_output(g, "kept", kin_add(g, a_again, kept));
    kin_output(g, "large", kin_all_reduce(g, a, KIN_REDUCTION_MEAN));
    kin_output(g, "small", kin_all_reduce(g, b, KIN_REDUCTION_SUM));
    kin_output(g, "across", kin_all_reduce(g, kin_transpose(g, c, 0, 1), KIN_REDUCTION_SUM));
    kin_output(g, "state", kin_scale(g, kin_all_reduce_variable(g, v, KIN_REDUCTION_MEAN), 1, 0));
    status = kin_plan_build(g, device, NULL, out_plan);
    if (status == KIN_OK) status = kin_store_create(device, out_store);
    if (status == KIN_OK) status = kin_store_add_graph(*out_store, g, 1);
    if (status == KIN_OK) status = kin_plan_prepare(*out_plan, *out_store, NULL);
    kin_graph_destroy(g);
    return status;
}

/* Writes the inputs of rank `rank`. */
static inline kin_status write_collective_inputs(kin_plan *plan, kin_store *store, float *values,
                                                 int rank) {
    for (int64_t i = 0; i < COLLECTIVE_LARGE; i++) values[i] = collective_value(rank, i);
    kin_status status = kin_plan_write(plan, "a", KIN_F32, values);
    if (status == KIN_OK) status = kin_plan_write(plan, "b", KIN_F32, values);
    if (status == KIN_OK) status = kin_plan_write(plan, "c", KIN_F32, values);
    return status == KIN_OK ? kin_store_write(store, "v", KIN_F32, values) : status;
}

/* Number of wrong elements of an output. */
static inline int64_t count_wrong(kin_plan *plan, const char *output, float *values, int rank,
                                  int count) {
    int64_t wrong = 0, elements = kin_desc_count(kin_plan_output_desc(plan, output));
    if (kin_plan_read(plan, output, KIN_F32, values) != KIN_OK) return elements;
    for (int64_t i = 0; i < elements; i++) {
        int64_t from = i; /* the element of the input */
        if (strcmp(output, "across") == 0)
            from = i % COLLECTIVE_ROWS * COLLECTIVE_WIDTH + i / COLLECTIVE_ROWS;
        double want = collective_sum(count, from);
        if (strcmp(output, "kept") == 0) want += (double)collective_value(rank, from);
        if (strcmp(output, "large") == 0 || strcmp(output, "state") == 0) want /= count;
        /* sums of whole numbers are exact; a mean is rounded once, or twice if it is made by a
         * factor */
        if (!(fabs((double)values[i] - want) <= 1.5e-7 * fabs(want))) wrong++;
    }
    return wrong;
}

/* Runs the plan `times` times and looks at all that it gives. */
static inline bool check_collective_plan(member *m, int times) {
    static const char *const outputs[] = {"large", "kept", "small", "across", "state"};
    kin_plan *plan = NULL;
    kin_store *store = NULL;
    float *values = malloc(COLLECTIVE_LARGE * sizeof *values);
    bool good = values != NULL;
    if (good)
        good = member_ok(m, build_collective_plan(m->device, &plan, &store), "building the plan");
    if (good && kin_plan_summarize(plan)->communication != kin_group_bytes(m->group))
        good = member_report(m, "the plan does not count what communication takes");
    for (int t = 0; good && t < times; t++) {
        good =
            member_ok(m, write_collective_inputs(plan, store, values, m->ranks->rank), "inputs") &&
            member_ok(m, kin_plan_run(plan), "running");
        for (size_t i = 0; good && i < sizeof outputs / sizeof *outputs; i++) {
            int64_t wrong = count_wrong(plan, outputs[i], values, m->ranks->rank, m->ranks->count);
            if (wrong) {
                fprintf(stderr, "run %d, %s: %lld wrong elements\n", t, outputs[i],
                        (long long)wrong);
                good = false;
            }
        }
    }
    /* the comparison tells another number of ranks apart */
    if (good && count_wrong(plan, "small", values, m->ranks->rank, m->ranks->count + 1) == 0)
        good = member_report(m, "a wrong sum passes");
    kin_plan_free(plan);
    kin_store_free(store);
    free(values);
    return good;
}

static inline bool check_broadcast(member *m) {
    float values[COLLECTIVE_SMALL], wanted = collective_value(0, 9);
    kin_buffer *buffer = NULL;
    const kin_backend *backend = m->device->backend;
    for (int i = 0; i < COLLECTIVE_SMALL; i++) values[i] = collective_value(m->ranks->rank, i);
    bool good = member_ok(m, kin_device_allocate(m->device, sizeof values, &buffer), "a buffer");
    if (good)
        good =
            member_ok(m, backend->upload(m->device, values, buffer, 0, sizeof values), "up") &&
            member_ok(m, kin_group_broadcast(m->group, buffer, 8, sizeof values - 8), "sending") &&
            member_ok(m, backend->download(m->device, buffer, 0, values, sizeof values), "down");
    if (good && (values[9] != wanted || values[1] != collective_value(m->ranks->rank, 1)))
        good = member_report(m, "not what rank 0 has, or more than that");
    if (buffer) backend->release(m->device, buffer);
    return good;
}

#endif
