/* The OpenCL backend: compiled programs on disk, small limits, wrong settings, and replay that
 * allocates nothing. Runs with KINORA_BACKEND_PATH; without a device it is skipped (77). */
#define _POSIX_C_SOURCE 200809L
#include <dirent.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "ops/elementwise.h"
#include "ops/reduce.h"
#include "ops/softmax.h"
#include "runtime/device.h"
#include "runtime/file.h"
#include "runtime/plan.h"
#include "tests/plugin_fixture.h"

enum { ROWS = 5, WIDTH = 300, SKIP = 77 };

static kin_status open_bench(bench *b, const char *settings) {
    return open_device(b, "opencl0", settings);
}

/* ---- a plan with a few programs: softmax(x), the sum of its rows, the exponent of x ---- */

static float input_at(int i) {
    return (float)((i * 7919) % 1000) / 250.0f - 2.0f;
}

static kin_plan *small_plan(bench *b) {
    kin_graph *graph = NULL;
    kin_plan *plan = NULL;
    succeed(b, kin_graph_create(b->context, &graph));
    kin_tensor x = kin_input(graph, "x", KIN_F32, 2, (int64_t[]){ROWS, WIDTH});
    kin_tensor y = kin_softmax(graph, x);
    kin_output(graph, "y", y);
    kin_output(graph, "sum", kin_sum(graph, y, 1u << 1, false));
    kin_output(graph, "e", kin_exp(graph, x));
    succeed(b, kin_plan_build(graph, b->device, NULL, &plan));
    kin_graph_destroy(graph);
    return plan;
}

/* The largest error of the three outputs; that of e relative to its largest value. */
static double run_small(bench *b, kin_plan *plan) {
    static float x[ROWS * WIDTH], y[ROWS * WIDTH], e[ROWS * WIDTH], sums[ROWS];
    double worst = 0;
    for (int i = 0; i < ROWS * WIDTH; i++) x[i] = input_at(i);
    succeed(b, kin_plan_write(plan, "x", KIN_F32, x));
    succeed(b, kin_plan_run(plan));
    succeed(b, kin_plan_read(plan, "y", KIN_F32, y));
    succeed(b, kin_plan_read(plan, "e", KIN_F32, e));
    succeed(b, kin_plan_read(plan, "sum", KIN_F32, sums));
    for (int row = 0; row < ROWS; row++) {
        double total = 0;
        for (int i = row * WIDTH; i < (row + 1) * WIDTH; i++) total += exp((double)x[i]);
        for (int i = row * WIDTH; i < (row + 1) * WIDTH; i++) {
            worst = fmax(worst, fabs(y[i] - exp((double)x[i]) / total));
            worst = fmax(worst, fabs(e[i] - exp((double)x[i])) / 8);
        }
        worst = fmax(worst, fabs(sums[row] - 1.0));
    }
    return worst;
}

/* Opens a device with these settings, runs the plan and holds it to its results. */
static void expect_right(const char *settings) {
    bench b;
    kin_status status = open_bench(&b, settings);
    succeed(&b, status);
    kin_plan *plan = small_plan(&b);
    succeed(&b, kin_plan_prepare(plan, NULL, NULL));
    double error = run_small(&b, plan);
    if (!(error < 2e-6)) fail_msg("with \"%s\" the results are off by %g", settings, error);
    kin_plan_free(plan);
    close_bench(&b);
}

/* ---- the cache ---- */

enum { MAX_FILES = 16 };

typedef struct cached {
    char path[512];
    ino_t inode;
    size_t size;
} cached;

static int compare(const void *a, const void *b) {
    return strcmp(((const cached *)a)->path, ((const cached *)b)->path);
}

static int list_cache(const char *folder, cached *files) {
    char path[400];
    int count = 0;
    snprintf(path, sizeof path, "%s/opencl", folder);
    DIR *directory = opendir(path);
    if (!directory) return 0;
    for (struct dirent *entry; (entry = readdir(directory));) {
        struct stat info;
        if (entry->d_name[0] == '.') continue;
        assert_true(count < MAX_FILES);
        snprintf(files[count].path, sizeof files[count].path, "%s/%.100s", path, entry->d_name);
        assert_int_equal(stat(files[count].path, &info), 0);
        files[count].inode = info.st_ino;
        files[count++].size = (size_t)info.st_size;
    }
    closedir(directory);
    qsort(files, (size_t)count, sizeof *files, compare);
    return count;
}

static void remove_cache(const char *folder) {
    cached files[MAX_FILES];
    char path[400];
    int count = list_cache(folder, files);
    for (int i = 0; i < count; i++) unlink(files[i].path);
    snprintf(path, sizeof path, "%s/opencl", folder);
    rmdir(path);
    rmdir(folder);
}

static unsigned char *contents(const char *path, size_t size) {
    unsigned char *data = malloc(size + 1);
    FILE *file = fopen(path, "rb");
    assert_non_null(data);
    assert_non_null(file);
    assert_int_equal(fread(data, 1, size, file), size);
    fclose(file);
    return data;
}

static void put(const char *path, const unsigned char *data, size_t size) {
    FILE *file = fopen(path, "wb");
    assert_non_null(file);
    assert_int_equal(fwrite(data, 1, size, file), size);
    fclose(file);
}

/* Runs the plan with a spoiled file, which must be noticed and replaced; the others stay. */
static void expect_mended(const char *settings, const char *folder, int victim,
                          const unsigned char *spoiled, size_t size) {
    cached before[MAX_FILES], after[MAX_FILES];
    int count = list_cache(folder, before);
    /* written in place: the file keeps its inode until it is replaced */
    put(before[victim].path, spoiled, size);
    expect_right(settings);
    assert_int_equal(list_cache(folder, after), count);
    for (int i = 0; i < count; i++) {
        if (i == victim) assert_int_not_equal(after[i].inode, before[i].inode);
        else assert_int_equal(after[i].inode, before[i].inode);
    }
}

static void test_cache(void **state) {
    (void)state;
    char folder[] = "/tmp/kinora-cache-XXXXXX", settings[64];
    cached cold[MAX_FILES], warm[MAX_FILES];
    assert_non_null(mkdtemp(folder));
    snprintf(settings, sizeof settings, "cache=%s", folder);
    expect_right(settings);
    int count = list_cache(folder, cold);
    assert_true(count >= 3);
    expect_right(settings); /* warm: nothing is written */
    assert_int_equal(list_cache(folder, warm), count);
    for (int i = 0; i < count; i++) assert_int_equal(warm[i].inode, cold[i].inode);

    unsigned char *whole = contents(cold[0].path, cold[0].size);
    unsigned char *other = contents(cold[1].path, cold[1].size);
    const size_t places[] = {0, 20, 28, 36, 60, cold[0].size / 2, cold[0].size - 1};
    for (size_t p = 0; p < sizeof places / sizeof *places; p++) {
        whole[places[p]] ^= 0x10;
        expect_mended(settings, folder, 0, whole, cold[0].size);
        whole[places[p]] ^= 0x10;
    }
    expect_mended(settings, folder, 0, whole, 0);
    expect_mended(settings, folder, 0, whole, 17);
    expect_mended(settings, folder, 0, whole, cold[0].size - 1);
    expect_mended(settings, folder, 0, other, cold[1].size); /* a good file of another program */
    free(whole);
    free(other);
    remove_cache(folder);
}

/* A folder that cannot be made costs time and nothing else. */
static void test_cache_unwritable(void **state) {
    (void)state;
    expect_right("cache=/dev/null/kinora");
    expect_right("cache=");
    expect_right(NULL);
}

/* ---- limits and settings ---- */

static void test_limits(void **state) {
    (void)state;
    expect_right("opencl.work_group=1");
    expect_right("opencl.work_group=3");
    expect_right("opencl.rows=groups\nopencl.work_group=4");
    expect_right("opencl.rows=groups\nopencl.local_memory=16");
    expect_right("opencl.rows=items");
}

static void test_allocation_limit(void **state) {
    (void)state;
    bench b;
    kin_buffer *buffer = NULL;
    kin_graph *graph = NULL;
    kin_plan *plan = NULL;
    static float x[4096], y[4096];
    succeed(&b, open_bench(&b, "opencl.max_allocation=20000"));
    assert_int_equal(b.device->info.max_allocation, 20000);
    assert_int_equal(b.device->backend->allocate(b.device, 20001, &buffer), KIN_OUT_OF_MEMORY);
    assert_null(buffer);
    /* 8 tensors of 16 KiB live at once, in one chunk of the arena each */
    succeed(&b, kin_graph_create(b.context, &graph));
    kin_tensor in = kin_input(graph, "x", KIN_F32, 1, (int64_t[]){4096}), parts[8];
    for (int i = 0; i < 8; i++) parts[i] = kin_scale(graph, in, i + 1, i);
    kin_tensor total = parts[7];
    for (int i = 6; i >= 0; i--) total = kin_add(graph, total, parts[i]);
    kin_output(graph, "y", total);
    succeed(&b, kin_plan_build(graph, b.device, NULL, &plan));
    assert_true(kin_plan_summarize(plan)->arena > 2 * 20000);
    succeed(&b, kin_plan_prepare(plan, NULL, NULL));
    for (int i = 0; i < 4096; i++) x[i] = (float)i;
    succeed(&b, kin_plan_write(plan, "x", KIN_F32, x));
    succeed(&b, kin_plan_run(plan));
    succeed(&b, kin_plan_read(plan, "y", KIN_F32, y));
    for (int i = 0; i < 4096; i++) assert_float_equal(y[i], 36.0f * x[i] + 28.0f, 0);
    kin_plan_free(plan);
    kin_graph_destroy(graph);
    close_bench(&b);
}

static void refuse_setting(const char *settings, const char *part) {
    bench b;
    assert_int_equal(open_bench(&b, settings), KIN_INVALID);
    if (!strstr(kin_context_error(b.context), part))
        fail_msg("no \"%s\" in \"%s\"", part, kin_context_error(b.context));
    close_bench(&b);
}

static void test_settings(void **state) {
    (void)state;
    refuse_setting("opencl.work_group=0", "opencl.work_group=0");
    refuse_setting("opencl.work_group=-1", "opencl.work_group=-1");
    refuse_setting("opencl.local_memory=4k", "opencl.local_memory=4k");
    refuse_setting("opencl.max_allocation=", "opencl.max_allocation=");
    refuse_setting("opencl.rows=columns", "neither items nor groups");
    expect_right("work_group=0\nopencl.work_group_=0"); /* not settings of the backend */
}

/* ---- copies within a buffer ---- */

static void test_overlapping_copy(void **state) {
    (void)state;
    bench b;
    kin_buffer *buffer = NULL;
    unsigned char bytes[256], got[256];
    succeed(&b, open_bench(&b, NULL));
    const kin_backend *backend = b.device->backend;
    for (int i = 0; i < 256; i++) bytes[i] = (unsigned char)i;
    succeed(&b, backend->allocate(b.device, sizeof bytes, &buffer));
    succeed(&b, backend->upload(b.device, bytes, buffer, 0, sizeof bytes));
    succeed(&b, backend->copy(b.device, buffer, 0, buffer, 56, 200));
    succeed(&b, backend->download(b.device, buffer, 0, got, sizeof got));
    memmove(bytes + 56, bytes, 200);
    assert_memory_equal(got, bytes, sizeof bytes);
    assert_int_equal(backend->fill(b.device, buffer, 250, 7, 1), KIN_INVALID);
    assert_int_equal(backend->upload(b.device, bytes, buffer, 256, 1), KIN_INVALID);
    assert_int_equal(backend->download(b.device, buffer, 257, got, 0), KIN_INVALID);
    succeed(&b, backend->fill(b.device, buffer, 250, 6, 1));
    backend->release(b.device, buffer);
    close_bench(&b);
}

/* ---- replay ---- */

static kin_plan *chain_plan(bench *b, int nodes) {
    kin_graph *graph = NULL;
    kin_plan *plan = NULL;
    succeed(b, kin_graph_create(b->context, &graph));
    kin_tensor x = kin_input(graph, "x", KIN_F32, 1, (int64_t[]){16});
    for (int i = 0; i < nodes; i++) x = kin_scale(graph, x, 1, 1);
    kin_output(graph, "y", x);
    succeed(b, kin_plan_build(graph, b->device, NULL, &plan));
    kin_graph_destroy(graph);
    return plan;
}

/* The counter counts planning, and does not move while plans run. */
static void test_replay_allocates_nothing(void **state) {
    (void)state;
    bench b;
    float x[16] = {0}, y[16];
    succeed(&b, open_bench(&b, NULL));
    kin_plan *plan = chain_plan(&b, 1000), *mixed = small_plan(&b);
    long before = b.memory.calls;
    succeed(&b, kin_plan_prepare(plan, NULL, NULL));
    succeed(&b, kin_plan_prepare(mixed, NULL, NULL));
    assert_true(b.memory.calls > before);
    succeed(&b, kin_plan_write(plan, "x", KIN_F32, x));
    before = b.memory.calls;
    for (int run = 0; run < 3; run++) {
        succeed(&b, kin_plan_run(plan));
        succeed(&b, kin_plan_run(mixed));
    }
    assert_int_equal(b.memory.calls, before);
    succeed(&b, kin_plan_read(plan, "y", KIN_F32, y));
    for (int i = 0; i < 16; i++) assert_float_equal(y[i], 1000.0f, 0);
    kin_plan_free(plan);
    kin_plan_free(mixed);
    close_bench(&b);
}

int main(void) {
    bench b;
    kin_status status = open_bench(&b, NULL);
    if (status != KIN_OK) {
        printf("no OpenCL device: %s\n", kin_context_error(b.context));
        return SKIP;
    }
    close_bench(&b);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_cache),
        cmocka_unit_test(test_cache_unwritable),
        cmocka_unit_test(test_limits),
        cmocka_unit_test(test_allocation_limit),
        cmocka_unit_test(test_settings),
        cmocka_unit_test(test_overlapping_copy),
        cmocka_unit_test(test_replay_allocates_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
