/* Groups of ranks on the CPU, by way of the host: sums, broadcasts, what ranks agree on, ranks that
 * fail, and memory that does not suffice. Sums are of whole numbers and exact; means are within one
 * rounding. The helper has the negative control. */
#define _XOPEN_SOURCE 700
#include "tests/collective_helper.h"

#include "tests/counted_memory.h"
#include "tools/tool.h"

/* ---- several ranks ---- */

static bool sums(member *m) {
    return check_collective_plan(m, 2) && check_broadcast(m);
}

static void sums_over_ranks(void **state) {
    (void)state;
    for (int count = 1; count <= 4; count += count) /* one rank is a process alone: see below */
        if (count > 1) assert_int_equal(run_members(count, "cpu", NULL, true, sums), 0);
    assert_int_equal(run_members(3, "cpu", NULL, true, sums), 0);
}

/* Step mode and plans without a group: nodes run as they come. */
static bool steps(member *m) {
    int64_t size = COLLECTIVE_SMALL;
    float values[COLLECTIVE_SMALL];
    kin_graph *g;
    if (!member_ok(m, kin_graph_create_step(m->device, &g), "step mode")) return false;
    for (int i = 0; i < COLLECTIVE_SMALL; i++) values[i] = collective_value(m->ranks->rank, i);
    kin_tensor x = kin_input(g, "x", KIN_F32, 1, &size);
    bool good = member_ok(m, kin_graph_write(g, x, values), "input");
    kin_tensor y = kin_all_reduce(g, x, KIN_REDUCTION_SUM);
    good = good && member_ok(m, kin_graph_read(g, y, KIN_F32, values), "result");
    for (int i = 0; good && i < COLLECTIVE_SMALL; i++)
        if ((double)values[i] != collective_sum(m->ranks->count, i))
            good = member_report(m, "a wrong sum");
    kin_graph_destroy(g);
    return good;
}

static void step_mode(void **state) {
    (void)state;
    assert_int_equal(run_members(2, "cpu", NULL, true, steps), 0);
}

/* The gradient of a mean over ranks is the mean of the gradients. */
static bool gradients(member *m) {
    const float factor = (float)(1 + m->ranks->rank);
    int64_t one = 1;
    float got[1] = {0};
    kin_graph *g;
    kin_plan *plan = NULL;
    if (!member_ok(m, kin_graph_create(m->context, &g), "graph")) return false;
    kin_tensor x = kin_input(g, "x", KIN_F32, 1, &one);
    kin_want_gradient(g, x);
    kin_tensor loss =
        kin_reshape(g, kin_scale(g, kin_all_reduce(g, x, KIN_REDUCTION_MEAN), factor, 0), 0, &one);
    kin_backward(g, loss);
    kin_output(g, "slope", kin_gradient(g, x));
    bool good = member_ok(m, kin_plan_build(g, m->device, NULL, &plan), "plan") &&
                member_ok(m, kin_plan_prepare(plan, NULL, NULL), "memory") &&
                member_ok(m, kin_plan_run(plan), "run") &&
                member_ok(m, kin_plan_read(plan, "slope", KIN_F32, got), "slope");
    if (good && got[0] != 2.0f) good = member_report(m, "not (1 + 2 + 3) / 3"); /* 3 ranks */
    kin_plan_free(plan);
    kin_graph_destroy(g);
    return good;
}

static void gradient_over_ranks(void **state) {
    (void)state;
    assert_int_equal(run_members(3, "cpu", NULL, true, gradients), 0);
}

/* ---- what ranks agree on ---- */

static bool agreements(member *m) {
    kin_ranks *r = m->ranks;
    double values[2] = {r->rank, 10.0 * r->rank};
    bool same = false, stop = true, good = true;
    char text[8] = "";
    if (r->rank == 0) snprintf(text, sizeof text, "first");
    good = good && member_ok(m, kin_ranks_mean(r, values, 2), "means") && values[0] == 1 &&
           values[1] == 10;
    good = good && kin_ranks_same(r, 77, &same) == KIN_OK && same;
    good = good && kin_ranks_same(r, r->rank == 2, &same) == KIN_OK && !same;
    good = good && kin_ranks_broadcast(r, text, sizeof text) == KIN_OK && !strcmp(text, "first");
    good = good && kin_ranks_agree_stop(r, KIN_OK, &stop) == KIN_OK && !stop && !r->agreed;
    kin_status status = KIN_OK;
    if (r->rank == 1) status = kin_fail(m->context, KIN_FORMAT, "a clip is broken");
    status = kin_ranks_agree(r, status);
    const char *wanted = r->rank == 1 ? "a clip is broken" : "rank 1: a clip is broken";
    good = good && status == KIN_FORMAT && strcmp(kin_context_error(m->context), wanted) == 0;
    return good && r->agreed ? true : member_report(m, "they do not agree");
}

static void ranks_agree(void **state) {
    (void)state;
    assert_int_equal(run_members(3, "cpu", NULL, false, agreements), 0);
}

/* Rank 1 leaves without a word; the others, who wait for it, are told. */
static bool leaving(member *m) {
    if (m->ranks->rank == 1) return false;
    int64_t number = 1;
    kin_status status = kin_ranks_broadcast(m->ranks, &number, sizeof number);
    if (status == KIN_IO && strstr(kin_context_error(m->context), "rank 1 has ended")) return true;
    return member_report(m, "it was not told");
}

static void a_rank_that_leaves(void **state) {
    (void)state;
    assert_int_equal(run_members(3, "cpu", NULL, false, leaving), 1);
}

static bool without_device(member *m) {
    if (m->ranks->rank == 1) { /* as if it had no memory for the device */
        kin_device_close(m->device);
        m->device = NULL;
        return false;
    }
    kin_status status = kin_group_join(m->device, &m->ranks->transport, &m->group);
    return status == KIN_IO && !m->group && !m->device->group ? true : member_report(m, "joined");
}

static void a_rank_that_does_not_join(void **state) {
    (void)state;
    assert_int_equal(run_members(2, "cpu", NULL, false, without_device), 1);
}

/* ---- one rank, in this process ---- */

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

typedef struct limited {
    counter memory;
    long fail_at; /* the request of this number gets nothing; 0: none */
} limited;

static void *limited_resize(void *user, void *ptr, size_t size) {
    limited *l = user;
    if (size > 0 && l->fail_at != 0 && l->memory.calls + 1 == l->fail_at) {
        l->memory.calls++;
        return NULL;
    }
    return counted_resize(&l->memory, ptr, size);
}

/* A group of one, a plan and a run of it. */
static kin_status whole(limited *l, bool check) {
    kin_context *context = NULL;
    kin_backends *backends = NULL;
    kin_device *device = NULL;
    kin_group *group = NULL, *second = NULL;
    kin_plan *plan = NULL;
    kin_store *store = NULL;
    float *values = malloc(COLLECTIVE_LARGE * sizeof *values);
    const char *where = "";
    kin_divergence divergence;
    kin_context_options options = {
        .struct_size = sizeof options, .allocator = {limited_resize, l}, .threads = 1};
    assert_non_null(values);
    kin_status status = kin_context_create(&options, &context);
    if (status == KIN_OK) status = kin_backends_load(context, NULL, &backends);
    if (status == KIN_OK) status = kin_device_open(backends, "cpu", &device);
    if (status == KIN_OK) status = kin_group_join(device, &alone, &group);
    if (status == KIN_OK && check) {
        assert_int_equal(kin_group_count(group), 1);
        assert_int_equal(kin_group_rank(group), 0);
        assert_false(kin_group_is_on_device(group));
        assert_int_equal(kin_group_join(device, &alone, &second), KIN_INVALID);
        assert_null(second);
    }
    if (status == KIN_OK) status = build_collective_plan(device, &plan, &store);
    if (status == KIN_OK) status = write_collective_inputs(plan, store, values, 0);
    if (status == KIN_OK) status = kin_plan_run(plan);
    if (status == KIN_OK && check) {
        const kin_plan_summary *s = kin_plan_summarize(plan);
        assert_int_equal(count_wrong(plan, "large", values, 0, 1), 0);
        assert_int_equal(s->communication, kin_group_bytes(group));
        assert_int_equal(s->peak, s->weights + s->states + s->inputs + s->constants + s->arena +
                                      s->communication);
        assert_int_equal(kin_plan_check(plan, 1, &divergence), KIN_UNSUPPORTED);
        assert_int_equal(kin_plan_find_nonfinite(plan, &where), KIN_OK);
        assert_null(where);
        assert_int_equal(kin_plan_profile(plan), KIN_OK);
    }
    kin_plan_free(plan);
    kin_store_free(store);
    kin_group_leave(group);
    kin_device_close(device);
    kin_backends_free(backends);
    kin_context_destroy(context);
    free(values);
    assert_int_equal(l->memory.blocks, 0);
    return status;
}

static void one_rank(void **state) {
    (void)state;
    limited l = {.fail_at = 0};
    assert_int_equal(whole(&l, true), KIN_OK);
}

/* Every request of memory fails once, in steps that get to all parts within a few seconds. */
static void little_memory(void **state) {
    (void)state;
    limited l = {.fail_at = 0};
    assert_int_equal(whole(&l, false), KIN_OK);
    long calls = l.memory.calls;
    for (long at = 1; at <= calls; at += calls / 60 + 1) {
        l = (limited){.fail_at = at};
        kin_status status = whole(&l, false);
        assert_true(status == KIN_OK || status == KIN_OUT_OF_MEMORY);
    }
}

static void wrong_groups(void **state) {
    (void)state;
    const kin_transport wrong[] = {
        {.count = 0}, {.count = 2, .rank = 2}, {.count = 1, .rank = -1}, {.count = 1 << 20}};
    kin_context *context;
    kin_backends *backends;
    kin_device *device;
    kin_group *group;
    kin_context_options options = {.struct_size = sizeof options, .threads = 1};
    assert_int_equal(kin_context_create(&options, &context), KIN_OK);
    assert_int_equal(kin_backends_load(context, NULL, &backends), KIN_OK);
    assert_int_equal(kin_device_open(backends, "cpu", &device), KIN_OK);
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        assert_int_equal(kin_group_join(device, &wrong[i], &group), KIN_INVALID);
        assert_null(device->group);
    }
    kin_device_close(device);
    kin_backends_free(backends);
    kin_context_destroy(context);
}

/* ---- the devices of ranks ---- */

static void devices_of_ranks(void **state) {
    (void)state;
    kin_context *context;
    kin_backends *backends;
    char name[64];
    const char *got;
    kin_context_options options = {.struct_size = sizeof options};
    assert_int_equal(kin_context_create(&options, &context), KIN_OK);
    assert_int_equal(kin_backends_load(context, NULL, &backends), KIN_OK);
    const struct {
        const char *device, *wanted;
        int rank, count;
    } rows[] = {{"cpu", "cpu", 0, 1},           {"cpu", "cpu", 1, 2},
                {"cuda3", "cuda3", 1, 2},       {"cuda0,cuda2", "cuda0", 0, 2},
                {"cuda0,cuda2", "cuda2", 1, 2}, {"nosuch", "nosuch", 1, 2},
                {"a,b,c", "c", 2, 3},           {"", "", 1, 2}};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        assert_int_equal(kin_ranks_device(context, backends, rows[i].device, rows[i].rank,
                                          rows[i].count, name, sizeof name, &got),
                         KIN_OK);
        assert_string_equal(got, rows[i].wanted);
    }
    const int counts[] = {1, 3};
    for (int i = 0; i < 2; i++) {
        assert_int_equal(
            kin_ranks_device(context, backends, "a,b", 0, counts[i], name, sizeof name, &got),
            KIN_INVALID);
        assert_non_null(strstr(kin_context_error(context), "names 2 devices"));
    }
    kin_backends_free(backends);
    kin_context_destroy(context);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sums_over_ranks),
        cmocka_unit_test(step_mode),
        cmocka_unit_test(gradient_over_ranks),
        cmocka_unit_test(ranks_agree),
        cmocka_unit_test(a_rank_that_leaves),
        cmocka_unit_test(a_rank_that_does_not_join),
        cmocka_unit_test(one_rank),
        cmocka_unit_test(little_memory),
        cmocka_unit_test(wrong_groups),
        cmocka_unit_test(devices_of_ranks),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
