/* Safetensors: reader, shards, writer. Values are compared bit for bit: no tolerance. */
#define _GNU_SOURCE

#include "tests/folder_fixture.h"

#include <errno.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>

#include "runtime/checkpoint.h"
#include "runtime/safetensors.h"

/* Writes a file from a header's text and data. */
static const char *make_file(const char *name, const char *header, const void *data, size_t size) {
    const char *path = path_in(folder, name);
    size_t length = strlen(header);
    unsigned char *bytes = malloc(8 + length + size);
    for (int i = 0; i < 8; i++) bytes[i] = (unsigned char)((uint64_t)length >> (8 * i));
    memcpy(bytes + 8, header, length);
    if (size > 0) memcpy(bytes + 8 + length, data, size);
    write_bytes(path, bytes, 8 + length + size);
    free(bytes);
    return path;
}

static void expect_refused(const char *header, size_t data_size, const char *message) {
    static const unsigned char data[64];
    const char *path = make_file("bad.safetensors", header, data, data_size);
    kin_safetensors *file = NULL;
    assert_int_equal(kin_safetensors_open(context, path, &file), KIN_FORMAT);
    assert_null(file);
    assert_message(context, path);
    assert_message(context, message);
}

#define F32_ENTRY(name, shape, begin, end)                                                         \
    "\"" name "\":{\"dtype\":\"F32\",\"shape\":[" shape "],\"data_offsets\":[" begin "," end "]}"

static void test_refusals(void **state) {
    (void)state;
    expect_refused("{" F32_ENTRY("a", "2", "0", "8") "}", 7, "'a'");
    expect_refused("{" F32_ENTRY("a", "2", "0", "8") "}", 9, "belong to no tensor");
    expect_refused("{" F32_ENTRY("a", "3", "0", "8") "}", 8, "12");
    expect_refused("{" F32_ENTRY("a", "-2", "0", "8") "}", 8, "'a'");
    expect_refused("{" F32_ENTRY("a", "2.0", "0", "8") "}", 8, "'a'");
    expect_refused("{" F32_ENTRY("a", "4611686018427387906", "0", "8") "}", 8, "'a'");
    expect_refused("{" F32_ENTRY("a", "1", "0", "4") "," F32_ENTRY("b", "1", "8", "12") "}", 12,
                   "'b'");
    expect_refused("{" F32_ENTRY("a", "2", "0", "8") "," F32_ENTRY("b", "2", "4", "12") "}", 12,
                   "overlaps");
    expect_refused("{" F32_ENTRY("a", "1", "0", "4") "," F32_ENTRY("a", "1", "4", "8") "}", 8,
                   "duplicate");
    expect_refused("{\"a\":{\"dtype\":\"F31\",\"shape\":[1],\"data_offsets\":[0,4]}}", 4, "F31");
    expect_refused("{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4],\"x\":1}}", 4,
                   "'x'");
    expect_refused("{\"__metadata__\":{\"a\":1}}", 0, "__metadata__");
    expect_refused(" {}", 0, "'{'");
    expect_refused("{}x", 0, "JSON");
    const char *path = path_in(folder, "short.safetensors");
    kin_safetensors *file = NULL;
    write_bytes(path, "1234567", 7);
    assert_int_equal(kin_safetensors_open(context, path, &file), KIN_FORMAT);
    write_bytes(path, "\xff\xff\xff\xff\xff\xff\xff\xff{}", 10);
    assert_int_equal(kin_safetensors_open(context, path, &file), KIN_FORMAT);
    assert_int_equal(kin_safetensors_open(context, path_in(folder, "none"), &file), KIN_NOT_FOUND);
    assert_int_equal(kin_safetensors_open(context, folder, &file), KIN_NOT_FOUND);
    assert_message(context, folder);
}

static void test_reads_unaligned_and_narrow(void **state) {
    (void)state;
    kin_safetensors *empty = NULL;
    const char *only_empty = make_file(
        "e.safetensors", "{\"e\":{\"dtype\":\"I8\",\"shape\":[0],\"data_offsets\":[0,0]}}", "", 0);
    assert_int_equal(kin_safetensors_open(context, only_empty, &empty), KIN_OK);
    assert_non_null(kin_safetensors_find(empty, "e")->data);
    kin_safetensors_close(empty);
    /* Headers of all lengths modulo 8, so that the data lies at every offset. */
    for (int padding = 0; padding < 8; padding++) {
        char header[256];
        snprintf(header, sizeof header,
                 "{" F32_ENTRY(
                     "f", "2", "0",
                     "8") ",\"i\":{\"dtype\":\"I8\",\"shape\":[3],\"data_offsets\":[8,11]},"
                          "\"s\":{\"dtype\":\"I16\",\"shape\":[],\"data_offsets\":[11,13]},"
                          "\"u\":{\"dtype\":\"U32\",\"shape\":[1],\"data_offsets\":[13,17]}}%*s",
                 padding, "");
        unsigned char data[17] = {0, 0, 128, 63, 0, 0, 0, 192, 255, 128, 127, 0xFE, 0xFF};
        memset(data + 13, 255, 4);
        const char *path = make_file("x.safetensors", header, data, sizeof data);
        kin_safetensors *file = NULL;
        assert_int_equal(kin_safetensors_open(context, path, &file), KIN_OK);
        const kin_named_tensor *tensor = kin_safetensors_find(file, "f");
        assert_int_equal((uintptr_t)tensor->data % 4, 0);
        assert_true(((const float *)tensor->data)[0] == 1.0f);
        assert_true(((const float *)tensor->data)[1] == -2.0f);
        tensor = kin_safetensors_find(file, "i");
        assert_int_equal(tensor->desc.dtype, KIN_I32);
        assert_int_equal(((const int32_t *)tensor->data)[0], -1);
        assert_int_equal(((const int32_t *)tensor->data)[1], -128);
        assert_int_equal(((const int32_t *)tensor->data)[2], 127);
        tensor = kin_safetensors_find(file, "s");
        assert_int_equal(tensor->desc.rank, 0);
        assert_int_equal(((const int32_t *)tensor->data)[0], -2);
        tensor = kin_safetensors_find(file, "u");
        assert_int_equal(tensor->desc.dtype, KIN_I64);
        assert_true(((const int64_t *)tensor->data)[0] == 4294967295);
        assert_int_equal(kin_safetensors_get(file, "ff", &tensor), KIN_NOT_FOUND);
        assert_message(context, "'ff'");
        kin_safetensors_close(file);
    }
}

/* ---- writing ---- */

static float wide[6] = {1, 2, 3, 4, 5, 6};
static uint16_t narrow[3] = {0x3F80, 0x4000, 0x4040};
static unsigned char blocks[68];

static kin_status fill_bytes(void *user, size_t index, void *bytes, size_t size) {
    int *calls = user;
    memset(bytes, (int)index, size);
    (*calls)++;
    return KIN_OK;
}

static kin_status write_example(kin_context *with, const char *path, int *calls) {
    int64_t six[2] = {2, 3};
    int64_t three = 3;
    int64_t forty = 40;
    int64_t zero[2] = {0, 4};
    kin_named_tensor tensors[] = {
        {"narrow", kin_desc_dense(KIN_BF16, 1, &three), narrow},
        {"wide \"q\" \xE7\x8C\xAB", kin_desc_dense(KIN_F32, 2, six), wide},
        {"filled", kin_desc_dense(KIN_U8, 1, &three), NULL},
        {"blocks", kin_desc_dense(KIN_Q8_0, 1, &forty), blocks},
        {"empty", kin_desc_dense(KIN_I64, 2, zero), NULL},
        {"scalar", kin_desc_dense(KIN_F64, 0, NULL), NULL},
    };
    kin_metadata metadata[] = {{"format", "pt"}, {"a", "\xC3\xA9"}};
    return kin_safetensors_write(with, path, tensors, 6, metadata, 2, fill_bytes, calls);
}

static void test_round_trip(void **state) {
    (void)state;
    const char *path = path_in(folder, "out.safetensors");
    int calls = 0;
    for (size_t i = 0; i < sizeof blocks; i++) blocks[i] = (unsigned char)(i * 7);
    assert_int_equal(write_example(context, path, &calls), KIN_OK);
    assert_int_equal(calls, 2);
    kin_safetensors *file = NULL;
    assert_int_equal(kin_safetensors_open(context, path, &file), KIN_OK);
    assert_int_equal(kin_safetensors_count(file), 6);
    assert_string_equal(kin_safetensors_metadata(file, "format"), "pt");
    assert_string_equal(kin_safetensors_metadata(file, "a"), "\xC3\xA9");
    assert_null(kin_safetensors_metadata(file, "b"));
    const kin_named_tensor *tensor = kin_safetensors_find(file, "wide \"q\" \xE7\x8C\xAB");
    assert_int_equal(tensor->desc.rank, 2);
    assert_memory_equal(tensor->data, wide, sizeof wide);
    tensor = kin_safetensors_find(file, "narrow");
    assert_memory_equal(tensor->data, narrow, sizeof narrow);
    tensor = kin_safetensors_find(file, "filled");
    assert_memory_equal(tensor->data, "\2\2\2", 3);
    tensor = kin_safetensors_find(file, "blocks");
    assert_int_equal(tensor->desc.dtype, KIN_Q8_0);
    assert_int_equal(tensor->desc.dims[0], 40);
    assert_memory_equal(tensor->data, blocks, sizeof blocks);
    tensor = kin_safetensors_find(file, "empty");
    assert_int_equal(kin_desc_count(&tensor->desc), 0);
    assert_int_equal(kin_safetensors_find(file, "scalar")->desc.rank, 0);
    kin_safetensors_close(file);
    struct stat status;
    assert_int_equal(stat(path, &status), 0);
}

static void test_writer_refusals(void **state) {
    (void)state;
    const char *path = path_in(folder, "out.safetensors");
    int64_t dims[2] = {2, 3};
    kin_named_tensor tensors[2] = {{"a", kin_desc_dense(KIN_F32, 2, dims), wide},
                                   {"a", kin_desc_dense(KIN_F32, 2, dims), wide}};
    assert_int_equal(kin_safetensors_write(context, path, tensors, 2, NULL, 0, NULL, NULL),
                     KIN_INVALID);
    assert_message(context, "twice");
    tensors[0].name = "bad \xff";
    assert_int_equal(kin_safetensors_write(context, path, tensors, 1, NULL, 0, NULL, NULL),
                     KIN_INVALID);
    tensors[0].name = "__metadata__";
    assert_int_equal(kin_safetensors_write(context, path, tensors, 1, NULL, 0, NULL, NULL),
                     KIN_INVALID);
    tensors[0].name = "b";
    tensors[0].desc.strides[1] = 2;
    assert_int_equal(kin_safetensors_write(context, path, tensors, 1, NULL, 0, NULL, NULL),
                     KIN_INVALID);
    assert_message(context, "dense");
    tensors[1].data = NULL;
    assert_int_equal(kin_safetensors_write(context, path, tensors + 1, 1, NULL, 0, NULL, NULL),
                     KIN_INVALID);
    assert_false(kin_file_exists(path));
    assert_int_equal(kin_safetensors_write(context, "/dev/full", tensors, 0, NULL, 0, NULL, NULL),
                     KIN_IO);
    assert_true(kin_file_exists("/dev/full"));
    tensors[1].data = wide;
    path = path_in(folder, "no/such/folder.safetensors");
    assert_int_equal(kin_safetensors_write(context, path, tensors + 1, 1, NULL, 0, NULL, NULL),
                     KIN_NOT_FOUND);
}

static int count_files(void) {
    char command[600];
    snprintf(command, sizeof command, "ls -A '%s' | wc -l", folder);
    FILE *pipe = popen(command, "r");
    int count = -1;
    assert_int_equal(fscanf(pipe, "%d", &count), 1);
    pclose(pipe);
    return count;
}

static void test_full_disk_keeps_old_file(void **state) {
    (void)state;
    const char *path = path_in(folder, "out.safetensors");
    int64_t count = 4096;
    float *values = calloc(4096, sizeof *values);
    kin_named_tensor tensor = {"a", kin_desc_dense(KIN_F32, 1, &count), values};
    write_bytes(path, "old", 3);
    struct rlimit old;
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &old), 0);
    struct rlimit small = {.rlim_cur = 1000, .rlim_max = old.rlim_max};
    void (*old_handler)(int) = signal(SIGXFSZ, SIG_IGN);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &small), 0);
    kin_status status = kin_safetensors_write(context, path, &tensor, 1, NULL, 0, NULL, NULL);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &old), 0);
    signal(SIGXFSZ, old_handler);
    assert_int_equal(status, KIN_IO);
    assert_message(context, "cannot be written");
    char *text = NULL;
    assert_int_equal(kin_file_read_all(context, path, 100, &text, NULL), KIN_OK);
    assert_string_equal(text, "old");
    kin_free(context, text);
    assert_int_equal(count_files(), 1);
    /* With room again the same call succeeds: the limit was what failed. */
    assert_int_equal(kin_safetensors_write(context, path, &tensor, 1, NULL, 0, NULL, NULL), KIN_OK);
    assert_int_equal(count_files(), 1);
    free(values);
}

static void test_link_is_kept(void **state) {
    (void)state;
    const char *target = path_in(folder, "target.safetensors");
    const char *link_path = path_in(folder, "link.safetensors");
    write_bytes(target, "old", 3);
    assert_int_equal(symlink("target.safetensors", link_path), 0);
    assert_int_equal(kin_file_write_atomic(context, link_path, "new", 3), KIN_OK);
    struct stat status;
    assert_int_equal(lstat(link_path, &status), 0);
    assert_true(S_ISLNK(status.st_mode));
    char *text = NULL;
    assert_int_equal(kin_file_read_all(context, target, 100, &text, NULL), KIN_OK);
    assert_string_equal(text, "new");
    kin_free(context, text);
}

/* ---- shards ---- */

static void write_shards(void) {
    make_file("s1.safetensors", "{" F32_ENTRY("a", "1", "0", "4") "}", &wide[0], 4);
    make_file("s2.safetensors",
              "{" F32_ENTRY("b", "1", "0", "4") "," F32_ENTRY("c", "1", "4", "8") "}", &wide[1], 8);
}

static kin_status open_index_text(const char *text, kin_safetensors **out_file) {
    write_bytes(path_in(folder, "model.safetensors.index.json"), text, strlen(text));
    return kin_safetensors_open(context, folder, out_file);
}

static void test_shards(void **state) {
    (void)state;
    kin_safetensors *file = NULL;
    write_shards();
    assert_int_equal(open_index_text("{\"weight_map\":{\"c\":\"s2.safetensors\","
                                     "\"a\":\"s1.safetensors\",\"b\":\"s2.safetensors\"}}",
                                     &file),
                     KIN_OK);
    assert_int_equal(kin_safetensors_count(file), 3);
    assert_true(*(const float *)kin_safetensors_find(file, "a")->data == 1.0f);
    assert_true(*(const float *)kin_safetensors_find(file, "b")->data == 2.0f);
    assert_true(*(const float *)kin_safetensors_find(file, "c")->data == 3.0f);
    kin_safetensors_close(file);
    assert_int_equal(open_index_text("{\"weight_map\":{\"c\":\"s1.safetensors\"}}", &file),
                     KIN_FORMAT);
    assert_message(context, "'c'");
    assert_int_equal(open_index_text("{\"weight_map\":{\"c\":\"s3.safetensors\"}}", &file),
                     KIN_NOT_FOUND);
    assert_message(context, "s3.safetensors");
    assert_int_equal(open_index_text("{\"weight_map\":{\"c\":\"../s1.safetensors\"}}", &file),
                     KIN_FORMAT);
    assert_int_equal(open_index_text("{\"weight_map\":{\"c\":1}}", &file), KIN_FORMAT);
    assert_int_equal(open_index_text("{}", &file), KIN_FORMAT);
    assert_int_equal(open_index_text("{\"weight_map\":{}}", &file), KIN_OK);
    kin_safetensors_close(file);
}

/* ---- failing allocations ---- */

static kin_status open_and_close(kin_context *with, void *path) {
    kin_safetensors *file = NULL;
    kin_status status = kin_safetensors_open(with, path, &file);
    kin_safetensors_close(file);
    return status;
}

static kin_status open_checkpoint(kin_context *with, void *path) {
    kin_checkpoint *checkpoint = NULL;
    kin_status status = kin_checkpoint_open(with, path, NULL, &checkpoint);
    if (status == KIN_OK) assert_non_null(kin_checkpoint_find(checkpoint, "a"));
    kin_checkpoint_close(checkpoint);
    return status;
}

static kin_status write_once(kin_context *with, void *path) {
    int calls = 0;
    return write_example(with, path, &calls);
}

static void test_failing_allocations(void **state) {
    (void)state;
    write_shards();
    static const char index[] =
        "{\"weight_map\":{\"c\":\"s2.safetensors\",\"a\":\"s1.safetensors\"}}";
    write_bytes(path_in(folder, "model.safetensors.index.json"), index, sizeof index - 1);
    sweep_allocations(open_and_close, folder);
    sweep_allocations(open_checkpoint, folder);
    char *path = strdup(path_in(folder, "w.safetensors"));
    sweep_allocations(write_once, path);
    sweep_allocations(open_and_close, path);
    free(path);
}

/* ---- reference files ---- */

static void check_values(kin_safetensors *file, const char *name, const json_t *values) {
    const char *key;
    json_t *list;
    size_t count = json_object_size(values);
    if (kin_safetensors_count(file) != count) fail_msg("%s: not %zu tensors", name, count);
    json_object_foreach((json_t *)(uintptr_t)values, key, list) {
        const kin_named_tensor *tensor = kin_safetensors_find(file, key);
        if (tensor == NULL) fail_msg("%s: no tensor %s", name, key);
        assert_int_equal(kin_desc_count(&tensor->desc), json_array_size(list));
        for (size_t i = 0; i < json_array_size(list); i++) {
            double got = kin_element_get(tensor->data, tensor->desc.dtype, (int64_t)i);
            if (got != json_number_value(json_array_get(list, i)))
                fail_msg("%s: %s[%zu] is %g", name, key, i, got);
        }
    }
}

static void test_reference_files(void **state) {
    (void)state;
    const char *reference = reference_folder("safetensors-files");
    if (reference == NULL) return;
    json_t *config = NULL;
    assert_int_equal(kin_json_load(context, path_in(reference, "config.json"), &config), KIN_OK);
    size_t i;
    json_t *entry;
    json_array_foreach(json_object_get(config, "files"), i, entry) {
        const char *name = json_string_value(json_object_get(entry, "file"));
        const char *expect = json_string_value(json_object_get(entry, "expect"));
        kin_safetensors *file = NULL;
        kin_status status = kin_safetensors_open(context, path_in(reference, name), &file);
        if (strcmp(expect, "load") == 0) {
            if (status != KIN_OK) fail_msg("%s", kin_context_error(context));
            check_values(file, name, json_object_get(entry, "values"));
        } else if (status == KIN_OK) {
            if (strcmp(expect, "refuse") == 0) fail_msg("%s was loaded", name);
        } else {
            assert_message(context, name);
        }
        kin_safetensors_close(file);
    }
    assert_true(i > 50);
    json_decref(config);
}

static void check_checkpoint(kin_checkpoint *got, const char *wanted_path) {
    kin_safetensors *wanted = NULL;
    assert_int_equal(kin_safetensors_open(context, wanted_path, &wanted), KIN_OK);
    assert_int_equal(kin_checkpoint_count(got), kin_safetensors_count(wanted));
    for (size_t i = 0; i < kin_safetensors_count(wanted); i++) {
        const kin_named_tensor *want = kin_safetensors_at(wanted, i);
        const kin_named_tensor *have = kin_checkpoint_find(got, want->name);
        assert_non_null(have);
        assert_true(kin_desc_same_shape(&have->desc, &want->desc));
        assert_true(kin_desc_is_dense(&have->desc));
        assert_memory_equal(have->data, want->data, kin_desc_bytes(&want->desc));
    }
    kin_safetensors_close(wanted);
}

static void test_reference_shards(void **state) {
    (void)state;
    const char *reference = reference_folder("sharded-checkpoint");
    if (reference == NULL) return;
    json_t *config = NULL;
    assert_int_equal(kin_json_load(context, path_in(reference, "config.json"), &config), KIN_OK);
    size_t i;
    json_t *entry;
    json_array_foreach(json_object_get(config, "folders"), i, entry) {
        const char *name = json_string_value(json_object_get(entry, "folder"));
        const char *expect = json_string_value(json_object_get(entry, "expect"));
        kin_checkpoint *got = NULL;
        kin_status status = kin_checkpoint_open(context, path_in(reference, name), NULL, &got);
        if (strcmp(expect, "load") == 0) {
            if (status != KIN_OK) fail_msg("%s", kin_context_error(context));
            check_checkpoint(got, path_in(reference, "outputs.safetensors"));
        } else {
            assert_int_not_equal(status, KIN_OK);
            assert_message(context, name);
        }
        kin_checkpoint_close(got);
    }
    assert_int_equal(i, 6);
    json_decref(config);
}

int main(void) {
#define TEST(function) cmocka_unit_test_setup_teardown(function, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        TEST(test_refusals),
        TEST(test_reads_unaligned_and_narrow),
        TEST(test_round_trip),
        TEST(test_writer_refusals),
        TEST(test_full_disk_keeps_old_file),
        TEST(test_link_is_kept),
        TEST(test_shards),
        TEST(test_failing_allocations),
        TEST(test_reference_files),
        TEST(test_reference_shards),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
