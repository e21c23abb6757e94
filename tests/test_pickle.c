/* Files of torch.save. Values are compared bit for bit: no tolerance. */
#define _GNU_SOURCE

#include "tests/folder_fixture.h"

#include "runtime/pickle.h"
#include "runtime/safetensors.h"

/* ---- hand-made legacy files: they need no zip ---- */

#define START                                                                                      \
    "\x80\2\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19."                                      \
    "\x80\2M\xe9\3."                                                                               \
    "\x80\2}(X\x0d\0\0\0little_endian\x88u."
#define STORAGE(count) "(X\7\0\0\0storagectorch\nFloatStorage\nX\1\0\0\0kX\3\0\0\0cpuK" count "NtQ"
#define REBUILD "ctorch._utils\n_rebuild_tensor_v2\n("
#define HOOKS                                                                                      \
    "\x89"                                                                                         \
    "ccollections\nOrderedDict\n)RtR"
#define KEYS "\x80\2](X\1\0\0\0ke."
#define DATA4 "\4\0\0\0\0\0\0\0\0\0\x80\x3f\0\0\0\x40\0\0\x40\x40\0\0\x80\x40"

static kin_status open_bytes(const void *bytes, size_t size, kin_pickle **out_file) {
    const char *path = path_in(folder, "x.pth");
    write_bytes(path, bytes, size);
    return kin_pickle_open(context, path, out_file);
}
#define OPEN(literal, out_file) open_bytes(literal, sizeof(literal) - 1, out_file)

static const char example[] = START "\x80\2}(X\5\0\0\0modelq\1}(X\1\0\0\0w" REBUILD STORAGE(
    "\4") "K\1K\2K\1\x86K\1K\1\x86" HOOKS
          "X\1\0\0\0v]" REBUILD STORAGE(
              "\4") "K\0K\2K\2\x86K\1K\2\x86" HOOKS
                    "auX\5\0\0\0epochK\3X\2\0\0\0lrG\x3f\xe0\0\0\0\0\0\0u." KEYS DATA4;

static void test_legacy_by_hand(void **state) {
    (void)state;
    kin_pickle *file = NULL;
    if (open_bytes(example, sizeof example - 1, &file) != KIN_OK)
        fail_msg("%s", kin_context_error(context));
    const kin_pickle_value *root = kin_pickle_root(file);
    assert_int_equal(kin_pickle_lookup(root, "epoch")->as.integer, 3);
    assert_true(kin_pickle_lookup(root, "lr")->as.number == 0.5);
    assert_null(kin_pickle_lookup(root, "none"));
    const kin_named_tensor *tensors = NULL;
    size_t count = 0;
    const char *entry = NULL;
    assert_int_equal(kin_pickle_state_dict(file, NULL, &tensors, &count, &entry), KIN_OK);
    assert_string_equal(entry, "model");
    assert_int_equal(count, 2);
    assert_string_equal(tensors[0].name, "w");
    assert_true(((const float *)tensors[0].data)[0] == 2.0f);
    assert_string_equal(tensors[1].name, "v.0");
    float dense[4];
    kin_copy_dense(&tensors[1].desc, tensors[1].data, dense);
    assert_true(dense[0] == 1 && dense[1] == 3 && dense[2] == 2 && dense[3] == 4);
    assert_int_equal(kin_pickle_flatten(file, root, '/', &tensors, &count), KIN_OK);
    assert_string_equal(tensors[1].name, "model/v/0");
    assert_int_equal(kin_pickle_state_dict(file, "ema", &tensors, &count, NULL), KIN_NOT_FOUND);
    assert_message(context, "'ema'");
    assert_int_equal(kin_pickle_state_dict(file, "epoch", &tensors, &count, NULL), KIN_NOT_FOUND);
    kin_pickle_close(file);
}

static void test_truncation_everywhere(void **state) {
    (void)state;
    kin_pickle *file = NULL;
    for (size_t size = 0; size < sizeof example - 1; size++) {
        kin_status status = open_bytes(example, size, &file);
        if (status != KIN_FORMAT) fail_msg("cut to %zu bytes: status %d", size, (int)status);
    }
    assert_int_equal(open_bytes(example, sizeof example - 1, &file), KIN_OK);
    kin_pickle_close(file);
}

static void test_refusals(void **state) {
    (void)state;
    kin_pickle *file = NULL;
    assert_int_equal(OPEN(START "\x80\2cposix\nsystem\nX\2\0\0\0ls\x85R." KEYS, &file), KIN_FORMAT);
    assert_message(context, "posix.system");
    /* Escape sequences of a hostile name must not reach a terminal. */
    assert_int_equal(OPEN(START "\x80\2cos\n\x1b[2Jx\n." KEYS, &file), KIN_FORMAT);
    assert_message(context, "os.?[2Jx");
    assert_int_equal(OPEN(START "\x80\2ctorch\nload\n." KEYS, &file), KIN_FORMAT);
    assert_message(context, "torch.load");
    /* The tensor of 5 elements in a storage of 4, and sums that overflow. */
    assert_int_equal(
        OPEN(START "\x80\2" REBUILD STORAGE("\4") "K\0K\5\x85K\1\x85" HOOKS "." KEYS DATA4, &file),
        KIN_FORMAT);
    assert_message(context, "outside its storage");
    assert_int_equal(OPEN(START "\x80\2" REBUILD STORAGE(
                              "\4") "K\0K\3\x85\x8a\x08\xff\xff\xff\xff\xff\xff\xff\x7f\x85" HOOKS
                                    "." KEYS DATA4,
                          &file),
                     KIN_FORMAT);
    assert_message(context, "outside its storage");
    /* A list that holds itself, and one that is nested 200 deep. */
    assert_int_equal(OPEN(START "\x80\2]q\1h\1a."
                                "\x80\2].",
                          &file),
                     KIN_FORMAT);
    assert_message(context, "holds itself");
    char deep[2048];
    size_t size = sizeof START - 1;
    memcpy(deep, START "\x80\2", size + 2);
    size += 2;
    memset(deep + size, ']', 200);
    memset(deep + size + 200, 'a', 199);
    memcpy(deep + size + 399, ".\x80\2].", 5);
    assert_int_equal(open_bytes(deep, size + 404, &file), KIN_FORMAT);
    assert_message(context, "too deep");
    /* little_endian is False */
    static const char start[] = START;
    char big[sizeof start];
    memcpy(big, start, sizeof start);
    big[sizeof start - 4] = (char)0x89;
    assert_int_equal(open_bytes(big, sizeof big - 1, &file), KIN_UNSUPPORTED);
    assert_message(context, "big-endian");
    assert_int_equal(OPEN("<html>", &file), KIN_FORMAT);
    assert_message(context, "HTML");
    assert_int_equal(kin_pickle_open(context, path_in(folder, "none"), &file), KIN_NOT_FOUND);
}

/* Lightning's checkpoints, Stable Diffusion's for one, have a class as the key of a callback's
 * state: it stays opaque, and no other class of that module is taken. */
static void test_class_as_a_key(void **state) {
    (void)state;
    kin_pickle *file = NULL;
    if (OPEN(START "\x80\2}(X\5\0\0\0epochK\3"
                   "cpytorch_lightning.callbacks.model_checkpoint\nModelCheckpoint\n}u."
                   "\x80\2].",
             &file) != KIN_OK)
        fail_msg("%s", kin_context_error(context));
    assert_int_equal(kin_pickle_lookup(kin_pickle_root(file), "epoch")->as.integer, 3);
    kin_pickle_close(file);
    assert_int_equal(OPEN(START "\x80\2cpytorch_lightning.callbacks.model_checkpoint\nos\n."
                                "\x80\2].",
                          &file),
                     KIN_FORMAT);
    assert_message(context, "pytorch_lightning.callbacks.model_checkpoint.os");
}

/* Repeating one copying call must not make memory grow with the square of the file. */
static void test_copies_are_bounded(void **state) {
    (void)state;
    kin_pickle *file = NULL;
    size_t size = 0;
    char *bytes = malloc(3000000);
    memcpy(bytes, START "\x80\2(X\0\0\x10\0", sizeof START - 1 + 8);
    size = sizeof START - 1 + 8;
    memset(bytes + size, 'x', 1 << 20);
    size += 1 << 20;
    static const char names[] = "q\1c_codecs\nencode\nq\2X\6\0\0\0latin1q\3";
    memcpy(bytes + size, names, sizeof names - 1);
    size += sizeof names - 1;
    for (int i = 0; i < 100000; i++) {
        memcpy(bytes + size, "h\2h\1h\3\x86R", 8);
        size += 8;
    }
    memcpy(bytes + size, "t.", 2);
    size += 2;
    assert_int_equal(open_bytes(bytes, size, &file), KIN_OUT_OF_MEMORY);
    assert_message(context, "more memory than its size");
    free(bytes);
}

static kin_status open_and_flatten(kin_context *with, void *path) {
    kin_pickle *file = NULL;
    const kin_named_tensor *tensors = NULL;
    size_t count = 0;
    kin_status status = kin_pickle_open(with, path, &file);
    if (status == KIN_OK) status = kin_pickle_state_dict(file, NULL, &tensors, &count, NULL);
    kin_pickle_close(file);
    return status;
}

static void test_failing_allocations(void **state) {
    (void)state;
    char *path = strdup(path_in(folder, "x.pth"));
    write_bytes(path, example, sizeof example - 1);
    sweep_allocations(open_and_flatten, path);
    free(path);
}

/* ---- reference files ---- */

static bool same_tensor(const kin_named_tensor *got, const kin_named_tensor *want) {
    if (got->desc.dtype != want->desc.dtype || !kin_desc_same_shape(&got->desc, &want->desc))
        return false;
    size_t bytes = kin_desc_bytes(&want->desc);
    void *dense = malloc(bytes + 1);
    kin_copy_dense(&got->desc, got->data, dense);
    bool same = memcmp(dense, want->data, bytes) == 0;
    free(dense);
    return same;
}

static void check_tensors(kin_pickle *file, const char *name, const char *wanted_path) {
    kin_safetensors *wanted = NULL;
    const kin_named_tensor *tensors = NULL;
    size_t count = 0;
    assert_int_equal(kin_safetensors_open(context, wanted_path, &wanted), KIN_OK);
    if (kin_pickle_flatten(file, kin_pickle_root(file), '/', &tensors, &count) != KIN_OK)
        fail_msg("%s", kin_context_error(context));
    if (count != kin_safetensors_count(wanted)) fail_msg("%s: %zu tensors", name, count);
    for (size_t i = 0; i < count; i++) {
        const kin_named_tensor *want = kin_safetensors_find(wanted, tensors[i].name);
        if (want == NULL) fail_msg("%s: tensor %s is not expected", name, tensors[i].name);
        if (!same_tensor(&tensors[i], want)) fail_msg("%s: %s differs", name, tensors[i].name);
    }
    kin_safetensors_close(wanted);
}

/* The value at a path of keys and indices. */
static const kin_pickle_value *walk_path(const kin_pickle_value *value, const char *path) {
    char text[512];
    snprintf(text, sizeof text, "%s", path);
    char *rest = NULL;
    for (char *key = strtok_r(text, "/", &rest); key != NULL; key = strtok_r(NULL, "/", &rest)) {
        if (value == NULL) return NULL;
        if (value->kind == KIN_PICKLE_LIST || value->kind == KIN_PICKLE_TUPLE) {
            size_t index = (size_t)atoi(key);
            value = index < value->as.list.count ? value->as.list.items[index] : NULL;
        } else {
            value = kin_pickle_lookup(value, key);
        }
    }
    return value;
}

static bool same_scalar(const kin_pickle_value *got, const json_t *want) {
    switch (got->kind) {
    case KIN_PICKLE_NONE:
        return json_is_null(want);
    case KIN_PICKLE_BOOL:
        return json_is_boolean(want) && got->as.boolean == json_is_true(want);
    case KIN_PICKLE_INT:
        return json_is_integer(want) && got->as.integer == json_integer_value(want);
    case KIN_PICKLE_FLOAT:
        return got->as.number == json_number_value(want);
    case KIN_PICKLE_STRING:
        return strcmp(got->as.text.data, json_string_value(want)) == 0;
    case KIN_PICKLE_BIG_INT: { /* 2^70 = 1180591620717411303424 */
        static const unsigned char power[9] = {0, 0, 0, 0, 0, 0, 0, 0, 0x40};
        return got->as.text.size == 9 && memcmp(got->as.text.data, power, 9) == 0 &&
               json_number_value(want) == 1180591620717411303424.0;
    }
    default:
        return false;
    }
}

static void check_scalars(const kin_pickle *file, const char *name, const json_t *scalars) {
    const char *path;
    json_t *want;
    json_object_foreach((json_t *)(uintptr_t)scalars, path, want) {
        const kin_pickle_value *got = walk_path(kin_pickle_root(file), path);
        if (got == NULL) fail_msg("%s: nothing at %s", name, path);
        if (!same_scalar(got, want)) fail_msg("%s: %s differs", name, path);
    }
}

static void check_entry(const char *reference, const json_t *entry) {
    const char *name = json_string_value(json_object_get(entry, "file"));
    const char *expect = json_string_value(json_object_get(entry, "expect"));
    const char *tensors = json_string_value(json_object_get(entry, "tensors"));
    kin_pickle *file = NULL;
    kin_status status = kin_pickle_open(context, path_in(reference, name), &file);
    if (status != KIN_OK) {
        assert_message(context, name);
        if (strcmp(expect, "load") == 0) fail_msg("%s", kin_context_error(context));
    } else {
        if (strcmp(expect, "refuse") == 0) fail_msg("%s was loaded", name);
        if (tensors != NULL) check_tensors(file, name, path_in(reference, tensors));
        check_scalars(file, name, json_object_get(entry, "scalars"));
    }
    kin_pickle_close(file);
}

static void test_reference_files(void **state) {
    (void)state;
    const char *reference = reference_folder("torch-pickle");
    if (reference == NULL) return;
    char *text = NULL;
    assert_int_equal(
        kin_file_read_all(context, path_in(reference, "config.json"), 1 << 20, &text, NULL),
        KIN_OK);
    /* jansson's integers have 64 bits: the one beyond is turned into a real number. */
    char *big = strstr(text, "1180591620717411303424");
    assert_non_null(big);
    memcpy(big, "1.1805916207174113e+21", 22);
    json_t *config = NULL;
    assert_int_equal(kin_json_parse(context, "config.json", text, strlen(text), &config), KIN_OK);
    size_t i;
    json_t *entry;
    json_array_foreach(json_object_get(config, "files"), i, entry) {
        check_entry(reference, entry);
    }
    assert_true(i > 100);
    json_decref(config);
    kin_free(context, text);
    assert_false(kin_file_exists("/tmp/torch-pickle-was-executed"));
}

int main(void) {
#define TEST(function) cmocka_unit_test_setup_teardown(function, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        TEST(test_legacy_by_hand),     TEST(test_truncation_everywhere),
        TEST(test_refusals),           TEST(test_class_as_a_key),
        TEST(test_copies_are_bounded), TEST(test_failing_allocations),
        TEST(test_reference_files),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
