/* kinora convert: values bit for bit where the dtype stays, within the dtype's rounding where it
 * changes; names, shards, entries, what is told, and that nothing half is left behind. */
#define _GNU_SOURCE

#include "tests/folder_fixture.h"

#include "runtime/checkpoint.h"
#include "runtime/pickle_write.h"
#include "runtime/safetensors.h"
#include "tools/system/convert.h"
#include "tools/system/weight_files.h"
#include "tools/tool.h"

#include <dirent.h>
#include <math.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>

static char told[8192]; /* lines of the log */

static void keep_line(void *user, kin_log_level level, const char *text) {
    (void)user;
    size_t used = strlen(told);
    if (level <= KIN_LOG_WARN) snprintf(told + used, sizeof told - used, "%s\n", text);
}

static int set_up_with_log(void **state) {
    (void)state;
    kin_context_options options = {.struct_size = sizeof options, .log = keep_line, .threads = 2};
    return open_fixture(&options);
}

#define CHECK(status)                                                                              \
    do {                                                                                           \
        if ((status) != KIN_OK) fail_msg("%s", kin_context_error(context));                        \
    } while (0)

/* ---- a small model ---- */

enum { ROWS = 96, COLUMNS = 64, LIST = 7 };

static float weights[ROWS * COLUMNS], table[1100 * COLUMNS], large[4] = {1, -1e6f, 3, 4};
static float broken[32 * 4], bias[3] = {0.1f, 0.2f, 0.3f};
static const int64_t steps[1] = {1LL << 40};

static void make_values(void) {
    for (int i = 0; i < ROWS * COLUMNS; i++) weights[i] = sinf((float)i) * (float)(1 + i / 640);
    for (int i = 0; i < 1100 * COLUMNS; i++) table[i] = cosf((float)i);
    for (int i = 0; i < 128; i++) broken[i] = (float)i;
    broken[5] = NAN;
}

static kin_named_tensor tensor(const char *name, kin_dtype dtype, int rank, const int64_t *dims,
                               const void *data) {
    return (kin_named_tensor){name, kin_desc_dense(dtype, rank, dims), data};
}

static void make_list(kin_named_tensor list[LIST]) {
    make_values();
    list[0] = tensor("layer.weight", KIN_F32, 2, (int64_t[]){ROWS, COLUMNS}, weights);
    list[1] = tensor("shared.weight", KIN_F32, 2, (int64_t[]){1100, COLUMNS}, table);
    list[2] = tensor("layer.bias", KIN_F32, 1, (int64_t[]){3}, bias);
    list[3] = tensor("large", KIN_F32, 1, (int64_t[]){4}, large);
    list[4] = tensor("broken.weight", KIN_F32, 2, (int64_t[]){4, 32}, broken);
    list[5] = tensor("steps", KIN_I64, 0, NULL, steps);
    list[6] = tensor("conv.weight", KIN_F32, 4, (int64_t[]){ROWS, COLUMNS, 1, 1}, weights);
}

static void write_source(const char *name, const kin_pickle_layout *layout) {
    kin_named_tensor list[LIST];
    make_list(list);
    CHECK(kin_pickle_write(context, path_in(folder, name), list, LIST, layout, NULL, NULL));
}

static kin_status convert(const char *source, const char *target, kin_convert_options options) {
    char from[2048], to[2048];
    options.quiet = true;
    options.verify = true;
    snprintf(from, sizeof from, "%s", path_in(folder, source));
    snprintf(to, sizeof to, "%s", path_in(folder, target));
    told[0] = 0;
    return kin_convert_weights(context, from, to, &options);
}

static kin_checkpoint *open_target(const char *name, const char *entry) {
    kin_checkpoint *file = NULL;
    CHECK(kin_checkpoint_open(context, path_in(folder, name), entry, &file));
    return file;
}

static const kin_named_tensor *get(const kin_checkpoint *file, const char *name) {
    const kin_named_tensor *found = NULL;
    CHECK(kin_checkpoint_get(file, name, &found));
    return found;
}

/* Largest distance from f32 values, per unit of `unit(i)`. */
static double distance(const kin_named_tensor *have, const float *wanted, double (*unit)(int64_t)) {
    double most = 0;
    for (int64_t i = 0; i < kin_desc_count(&have->desc); i++) {
        double value = kin_element_get(have->data, have->desc.dtype, i);
        double off = fabs(value - (double)wanted[i]) / unit(i);
        if (off > most) most = off;
    }
    return most;
}

/* Half a step of the block that element i lies in, and what rounding the scale to f16 adds. */
static double half_step(int64_t i) {
    double most = 0;
    for (int64_t k = i / 32 * 32; k < i / 32 * 32 + 32; k++)
        most = fmax(most, fabs((double)weights[k]));
    return most / 127 * (0.5 + 127 * 0x1p-11);
}

static double f16_rounding(int64_t i) {
    return fabs((double)weights[i]) * 0x1p-11 + 0x1p-25;
}

static double bf16_rounding(int64_t i) {
    return fabs((double)weights[i]) * 0x1p-8 + 1e-30;
}

/* ---- dtypes ---- */

static void test_unchanged(void **state) {
    (void)state;
    write_source("plain.pth", NULL);
    CHECK(convert("plain.pth", "plain.safetensors", (kin_convert_options){0}));
    kin_named_tensor list[LIST];
    make_list(list);
    kin_checkpoint *file = open_target("plain.safetensors", NULL);
    assert_int_equal(kin_checkpoint_count(file), LIST);
    for (int i = 0; i < LIST; i++) {
        const kin_named_tensor *have = get(file, list[i].name);
        assert_int_equal(have->desc.dtype, list[i].desc.dtype);
        assert_memory_equal(have->data, list[i].data, kin_desc_bytes(&list[i].desc));
    }
    assert_non_null(strstr(told, "broken.weight"));
    assert_null(strstr(told, "large"));
    assert_string_equal(kin_checkpoint_metadata(file, "format"), "pt");
    kin_checkpoint_close(file);
}

static void test_half(void **state) {
    (void)state;
    CHECK(convert("plain.pth", "f16.safetensors", (kin_convert_options){.dtype = "f16"}));
    kin_checkpoint *file = open_target("f16.safetensors", NULL);
    const kin_named_tensor *have = get(file, "layer.weight");
    assert_int_equal(have->desc.dtype, KIN_F16);
    assert_true(distance(have, weights, f16_rounding) <= 1);
    assert_false(distance(have, weights, f16_rounding) <= 0.25); /* the tolerance is not loose */
    assert_int_equal(get(file, "large")->desc.dtype, KIN_F32);
    assert_memory_equal(get(file, "large")->data, large, sizeof large);
    assert_int_equal(get(file, "steps")->desc.dtype, KIN_I64);
    assert_non_null(strstr(told, "\"large\" has values up to 1e+06"));
    assert_non_null(strstr(told, "\"broken.weight\" holds values that are not finite"));
    kin_checkpoint_close(file);
    CHECK(convert("plain.pth", "bf16.safetensors", (kin_convert_options){.dtype = "bf16"}));
    file = open_target("bf16.safetensors", NULL);
    have = get(file, "layer.weight");
    assert_int_equal(have->desc.dtype, KIN_BF16);
    assert_true(distance(have, weights, bf16_rounding) <= 1);
    assert_int_equal(get(file, "large")->desc.dtype, KIN_BF16);
    kin_checkpoint_close(file);
}

static void test_q8_0(void **state) {
    (void)state;
    CHECK(convert("plain.pth", "q8.safetensors", (kin_convert_options){.dtype = "q8_0"}));
    kin_checkpoint *file = open_target("q8.safetensors", NULL);
    const kin_named_tensor *have = get(file, "layer.weight");
    assert_int_equal(have->desc.dtype, KIN_Q8_0);
    assert_true(distance(have, weights, half_step) <= 1);
    assert_false(distance(have, weights, half_step) <= 0.5);
    assert_int_equal(get(file, "shared.weight")->desc.dtype, KIN_F16); /* a table */
    assert_int_equal(get(file, "conv.weight")->desc.dtype, KIN_F32);   /* a small convolution */
    assert_int_equal(get(file, "layer.bias")->desc.dtype, KIN_F32);
    assert_int_equal(get(file, "broken.weight")->desc.dtype, KIN_F16); /* no block is lost */
    kin_checkpoint_close(file);
    /* And back: what a block of q8_0 stands for is exact in f32. */
    CHECK(convert("q8.safetensors", "back.pt", (kin_convert_options){.dtype = "f32"}));
    file = open_target("back.pt", NULL);
    kin_checkpoint *packed = open_target("q8.safetensors", NULL);
    const kin_named_tensor *wide = get(file, "layer.weight"), *blocks = get(packed, "layer.weight");
    for (int64_t i = 0; i < ROWS * COLUMNS; i++)
        assert_true(kin_element_get(blocks->data, KIN_Q8_0, i) ==
                    kin_element_get(wide->data, KIN_F32, i));
    kin_checkpoint_close(packed);
    kin_checkpoint_close(file);
}

/* ---- names and forms ---- */

static void test_entries(void **state) {
    (void)state;
    static const kin_pickle_place places[] = {{"state_dict", NULL}, {"ema", "module."}};
    static const kin_pickle_alias alias = {"encoder.embed_tokens.weight", 1};
    kin_pickle_layout layout = {
        .places = places, .place_count = 2, .aliases = &alias, .alias_count = 1};
    write_source("both.pth", &layout);
    CHECK(convert("both.pth", "ema.safetensors", (kin_convert_options){.entry = "ema"}));
    kin_checkpoint *file = open_target("ema.safetensors", NULL);
    assert_int_equal(kin_checkpoint_count(file), LIST); /* without "module.", one name each */
    get(file, "layer.weight");
    get(file, "shared.weight");
    kin_checkpoint_close(file);
    CHECK(convert("both.pth", "again.ckpt",
                  (kin_convert_options){.entry = "state_dict", .into = "model"}));
    file = open_target("again.ckpt", "model");
    assert_int_equal(kin_checkpoint_count(file), LIST + 1);
    assert_ptr_equal(get(file, "shared.weight")->data,
                     get(file, "encoder.embed_tokens.weight")->data);
    kin_checkpoint_close(file);
    assert_int_equal(
        convert("both.pth", "x.safetensors", (kin_convert_options){.entry = "nothing"}),
        KIN_NOT_FOUND);
    assert_int_equal(convert("both.pth", "x.safetensors", (kin_convert_options){.into = "model"}),
                     KIN_INVALID);
    assert_false(kin_file_exists(path_in(folder, "x.safetensors")));
}

static void test_shards(void **state) {
    (void)state;
    CHECK(convert("plain.pth", "sharded", (kin_convert_options){.shard_bytes = 40000}));
    assert_true(kin_file_exists(path_in(folder, "sharded/plain-00004-of-00004.safetensors")));
    kin_checkpoint *file = open_target("sharded/plain.safetensors.index.json", NULL);
    assert_int_equal(kin_checkpoint_count(file), LIST);
    kin_checkpoint_close(file);
    CHECK(convert("sharded/plain.safetensors.index.json", "whole.safetensors",
                  (kin_convert_options){0}));
    file = open_target("whole.safetensors", NULL);
    assert_memory_equal(get(file, "layer.weight")->data, weights, sizeof weights);
    kin_checkpoint_close(file);
    assert_int_equal(convert("plain.pth", "y.safetensors", (kin_convert_options){.shard_bytes = 4}),
                     KIN_INVALID);
}

static void test_folders(void **state) {
    (void)state;
    static const char config[] = "{\"torch_dtype\": \"float32\", \"d_model\": 3}";
    assert_int_equal(mkdir(path_in(folder, "system"), 0777), 0);
    assert_int_equal(mkdir(path_in(folder, "system/text_encoder"), 0777), 0);
    write_source("system/text_encoder/pytorch_model.bin", NULL);
    write_source("system/text_encoder/optimizer.pt", NULL);
    write_bytes(path_in(folder, "system/text_encoder/config.json"), config, sizeof config - 1);
    write_bytes(path_in(folder, "system/notes.txt"), "abc", 3);
    CHECK(convert("system", "halved", (kin_convert_options){.dtype = "bf16"}));
    kin_checkpoint *file = open_target("halved/text_encoder", NULL);
    assert_int_equal(get(file, "layer.weight")->desc.dtype, KIN_BF16);
    kin_checkpoint_close(file);
    assert_true(kin_file_exists(path_in(folder, "halved/notes.txt")));
    assert_false(kin_file_exists(path_in(folder, "halved/text_encoder/optimizer.pt")));
    assert_non_null(strstr(told, "optimizer.pt: left out"));
    char *text = NULL;
    CHECK(kin_file_read_all(context, path_in(folder, "halved/text_encoder/config.json"), 1000,
                            &text, NULL));
    assert_non_null(strstr(text, "bfloat16"));
    kin_free(context, text);
    assert_int_equal(convert("system", "halved", (kin_convert_options){0}), KIN_INVALID);
    assert_message(context, "is there already");
}

/* ---- failures ---- */

/* Nothing but what was there: no temporary file, no half one. */
static int count_names(void) {
    DIR *handle = opendir(folder);
    int count = 0;
    assert_non_null(handle);
    while (readdir(handle)) count++;
    closedir(handle);
    return count;
}

static void test_full_disk(void **state) {
    (void)state;
    struct rlimit before, small = {20000, 20000};
    int names = count_names();
    kin_catch_interrupts(); /* so that the limit is an error of write */
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &before), 0);
    small.rlim_max = before.rlim_max;
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &small), 0);
    kin_status file = convert("plain.pth", "full.safetensors", (kin_convert_options){0});
    kin_status torch = convert("plain.pth", "full.pth", (kin_convert_options){0});
    kin_status shards = convert("plain.pth", "full", (kin_convert_options){.shard_bytes = 30000});
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &before), 0);
    assert_int_equal(file, KIN_IO);
    assert_int_equal(torch, KIN_IO);
    assert_int_equal(shards, KIN_IO);
    assert_int_equal(count_names(), names);
}

static kin_status convert_small(kin_context *other, void *user) {
    (void)user;
    kin_convert_options options = {.dtype = "q8_0", .quiet = true, .verify = true};
    char from[2048], to[2048];
    snprintf(from, sizeof from, "%s", path_in(folder, "sharded"));
    snprintf(to, sizeof to, "%s", path_in(folder, "sweep.safetensors"));
    return kin_convert_weights(other, from, to, &options);
}

static void test_failing_allocations(void **state) {
    (void)state;
    int names = count_names();
    sweep_allocations(convert_small, NULL);
    assert_int_equal(count_names(), names + 1);
}

/* The last one: the mark of an interruption stays. */
static void test_interrupt(void **state) {
    (void)state;
    int names = count_names();
    kin_catch_interrupts();
    raise(SIGINT);
    assert_int_equal(convert("plain.pth", "stop.safetensors", (kin_convert_options){0}),
                     KIN_CANCELLED);
    assert_int_equal(convert("system", "stop", (kin_convert_options){.dtype = "f16"}),
                     KIN_CANCELLED);
    assert_int_equal(count_names(), names);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_unchanged), cmocka_unit_test(test_half),
        cmocka_unit_test(test_q8_0),      cmocka_unit_test(test_entries),
        cmocka_unit_test(test_shards),    cmocka_unit_test(test_folders),
        cmocka_unit_test(test_full_disk), cmocka_unit_test(test_failing_allocations),
        cmocka_unit_test(test_interrupt)};
    return cmocka_run_group_tests(tests, set_up_with_log, tear_down);
}
