/* Written files of torch.save, read back here and, where there is a Python with PyTorch, by
 * torch.load. Values are compared bit for bit: no tolerance. */
#define _GNU_SOURCE

#include "tests/folder_fixture.h"

#include "runtime/pickle.h"
#include "runtime/pickle_write.h"

#include <unistd.h>

enum { LONG = 3 * KIN_PIECE / 4 + 5 }; /* of f32: more than two pieces */

static const float floats[6] = {1, -2, 3.5f, 1e-30f, 0, -0.0f};
static const uint16_t halves[4] = {0x3C00, 0x7BFF, 0x8001, 0xC000};
static const int64_t integers[3] = {-1, INT64_MAX, 70000};
static const unsigned char flags[2] = {1, 0};

static kin_named_tensor tensor(const char *name, kin_dtype dtype, int rank, const int64_t *dims,
                               const void *data) {
    return (kin_named_tensor){name, kin_desc_dense(dtype, rank, dims), data};
}

/* 8 tensors, of which the last is asked for in pieces. */
static size_t make_list(kin_named_tensor list[8]) {
    list[0] = tensor("a.weight", KIN_F32, 2, (int64_t[]){2, 3}, floats);
    list[1] = tensor("half", KIN_F16, 1, (int64_t[]){4}, halves);
    list[2] = tensor("bf", KIN_BF16, 4, (int64_t[]){2, 1, 1, 2}, halves);
    list[3] = tensor("integers", KIN_I64, 1, (int64_t[]){3}, integers);
    list[4] = tensor("flags", KIN_BOOL, 1, (int64_t[]){2}, flags);
    list[5] = tensor("scalar", KIN_F32, 0, NULL, floats + 2);
    list[6] = tensor("empty", KIN_F32, 2, (int64_t[]){0, 3}, floats);
    list[7] = tensor("long", KIN_F32, 1, (int64_t[]){LONG}, NULL);
    return 8;
}

/* Element i of "long" is i % 1000. */
static kin_status fill(void *user, size_t index, size_t offset, void *bytes, size_t size) {
    size_t *calls = user;
    assert_int_equal(index, 7);
    assert_true(size <= KIN_PIECE && size % sizeof(float) == 0);
    ++*calls;
    float *values = bytes;
    for (size_t i = 0; i < size / sizeof *values; i++)
        values[i] = (float)((offset / sizeof *values + i) % 1000);
    return KIN_OK;
}

static kin_status refuse(void *user, size_t index, size_t offset, void *bytes, size_t size) {
    (void)user, (void)index, (void)offset, (void)bytes, (void)size;
    return kin_fail(context, KIN_CANCELLED, "stopped");
}

static const kin_named_tensor *find(const kin_named_tensor *list, size_t count, const char *name) {
    for (size_t i = 0; i < count; i++)
        if (strcmp(list[i].name, name) == 0) return &list[i];
    fail_msg("no tensor %s", name);
    return NULL;
}

static void expect_list(kin_pickle *file, const char *entry, const char *prefix) {
    kin_named_tensor wanted[8];
    size_t wanted_count = make_list(wanted), count = 0;
    const kin_named_tensor *found = NULL;
    const char *key = NULL;
    if (kin_pickle_state_dict(file, entry, &found, &count, &key) != KIN_OK)
        fail_msg("%s", kin_context_error(context));
    for (size_t i = 0; i < wanted_count; i++) {
        char name[64];
        snprintf(name, sizeof name, "%s%s", prefix, wanted[i].name);
        const kin_named_tensor *have = find(found, count, name);
        assert_int_equal(have->desc.dtype, wanted[i].desc.dtype);
        assert_true(kin_desc_same_shape(&have->desc, &wanted[i].desc));
        assert_true(kin_desc_is_dense(&have->desc));
        assert_int_equal((uintptr_t)have->data % 16, 0);
        if (wanted[i].data)
            assert_memory_equal(have->data, wanted[i].data, kin_desc_bytes(&have->desc));
        else
            for (int64_t k = 0; k < LONG; k++)
                if (((const float *)have->data)[k] != (float)(k % 1000))
                    fail_msg("element %lld", (long long)k);
    }
}

static kin_pickle *open_written(const char *path) {
    kin_pickle *file = NULL;
    if (kin_pickle_open(context, path, &file) != KIN_OK) fail_msg("%s", kin_context_error(context));
    return file;
}

static void write_list(const char *path, const kin_pickle_layout *layout) {
    kin_named_tensor list[8];
    size_t calls = 0, count = make_list(list);
    if (kin_pickle_write(context, path, list, count, layout, fill, &calls) != KIN_OK)
        fail_msg("%s", kin_context_error(context));
    assert_int_equal(calls, 4);
}

static void test_plain(void **state) {
    (void)state;
    const char *path = path_in(folder, "plain.pth");
    write_list(path, NULL);
    kin_pickle *file = open_written(path);
    expect_list(file, NULL, "");
    kin_pickle_close(file);
}

static const kin_pickle_place nested[] = {{"state_dict/gen_model", NULL},
                                          {"ema_state_dict", "module."}};
static const kin_pickle_number numbers[] = {{"epoch", 3}, {"big", 1LL << 40}, {"below", -7}};
static const kin_pickle_alias aliases[] = {{"second.name", 0}};
static const kin_pickle_layout nested_layout = {nested, 2, aliases, 1, numbers, 3};

static void test_nested(void **state) {
    (void)state;
    const char *path = path_in(folder, "nested.ckpt");
    write_list(path, &nested_layout);
    kin_pickle *file = open_written(path);
    expect_list(file, NULL, "module.");
    expect_list(file, "state_dict", "gen_model.");
    const kin_pickle_value *root = kin_pickle_root(file);
    assert_int_equal(kin_pickle_lookup(root, "epoch")->as.integer, 3);
    assert_int_equal(kin_pickle_lookup(root, "big")->as.integer, 1LL << 40);
    assert_int_equal(kin_pickle_lookup(root, "below")->as.integer, -7);
    const kin_pickle_value *ema = kin_pickle_lookup(root, "ema_state_dict");
    const kin_pickle_value *second = kin_pickle_lookup(ema, "module.second.name");
    const kin_pickle_value *first = kin_pickle_lookup(ema, "module.a.weight");
    assert_non_null(second);
    assert_ptr_equal(second->as.tensor->data, first->as.tensor->data);
    kin_pickle_close(file);
}

/* A Python, the one with PyTorch if there are several; NULL if there is none. */
static const char *python(void) {
    static const char *const names[] = {"python3", "/usr/bin/python3"};
    const char *any = NULL;
    for (int i = 0; i < 2; i++) {
        char command[128];
        snprintf(command, sizeof command, "%s -c 'import torch' 2>/dev/null", names[i]);
        if (system(command) == 0) return names[i];
        snprintf(command, sizeof command, "%s -c 'import zipfile' 2>/dev/null", names[i]);
        if (!any && system(command) == 0) any = names[i];
    }
    if (any) print_message("no PyTorch: only the archive is checked\n");
    return any;
}

/* Python's own zip reader also holds the checksums against the data. */
static void test_torch(void **state) {
    (void)state;
    static const char script[] =
        "import sys, zipfile\n"
        "try:\n    import torch\nexcept ImportError:\n    torch = None\n"
        "bad = zipfile.ZipFile(sys.argv[1]).testzip()\n"
        "assert bad is None, bad\n"
        "if torch:\n"
        "    root = torch.load(sys.argv[1], map_location='cpu')\n"
        "    assert root['epoch'] == 3 and root['big'] == 1 << 40 and root['below'] == -7\n"
        "    for d, p in ((root['state_dict']['gen_model'], ''), (root['ema_state_dict'], "
        "'module.')):\n"
        "        assert len(d) == 9, len(d)\n"
        "        assert d[p + 'a.weight'].tolist() == [[1, -2, 3.5], [torch.tensor(1e-30).item(), "
        "0, 0]]\n"
        "        assert d[p + 'half'].dtype == torch.float16 and d[p + 'half'][1] == 65504\n"
        "        assert d[p + 'bf'].dtype == torch.bfloat16 and d[p + 'bf'].shape == (2, 1, 1, 2)\n"
        "        assert d[p + 'integers'].tolist() == [-1, 2**63 - 1, 70000]\n"
        "        assert d[p + 'flags'].tolist() == [True, False]\n"
        "        assert d[p + 'scalar'].shape == () and d[p + 'scalar'] == 3.5\n"
        "        assert d[p + 'empty'].shape == (0, 3)\n"
        "        n = d[p + 'long'].numel()\n"
        "        assert torch.equal(d[p + 'long'], torch.arange(n).remainder(1000).float())\n"
        "        assert d[p + 'second.name'].data_ptr() == d[p + 'a.weight'].data_ptr()\n";
    const char *path = path_in(folder, "nested.ckpt");
    write_list(path, &nested_layout);
    char command[1200], script_path[600];
    snprintf(script_path, sizeof script_path, "%s", path_in(folder, "check.py"));
    write_bytes(script_path, script, sizeof script - 1);
    const char *interpreter = python();
    if (!interpreter) skip();
    snprintf(command, sizeof command, "%s '%s' '%s'", interpreter, script_path,
             path_in(folder, "nested.ckpt"));
    assert_int_equal(system(command), 0);
}

static void test_refusals(void **state) {
    (void)state;
    kin_named_tensor list[8];
    size_t count = make_list(list);
    const char *path = path_in(folder, "refused.pth");
    assert_int_equal(kin_pickle_write(context, path, list, count, NULL, refuse, NULL),
                     KIN_CANCELLED);
    assert_false(kin_file_exists(path));
    assert_int_equal(kin_pickle_write(context, path, list, count, NULL, NULL, NULL), KIN_INVALID);
    list[1].name = "half";
    list[2].name = "half";
    assert_int_equal(kin_pickle_write(context, path, list, 7, NULL, NULL, NULL), KIN_INVALID);
    assert_non_null(strstr(kin_context_error(context), "half"));
    list[2] = tensor("q", KIN_Q8_0, 1, (int64_t[]){32}, floats);
    assert_int_equal(kin_pickle_write(context, path, list, 3, NULL, NULL, NULL), KIN_INVALID);
    assert_non_null(strstr(kin_context_error(context), "q8_0"));
    static const kin_pickle_place within[] = {{"model", NULL}, {"model/inner", NULL}};
    kin_pickle_layout layout = {.places = within, .place_count = 2};
    assert_int_equal(kin_pickle_write(context, path, list, 1, &layout, NULL, NULL), KIN_INVALID);
    layout = (kin_pickle_layout){.numbers = numbers, .number_count = 1};
    assert_int_equal(kin_pickle_write(context, path, list, 1, &layout, NULL, NULL), KIN_INVALID);
    kin_pickle_alias nowhere = {"x", 9};
    layout = (kin_pickle_layout){.aliases = &nowhere, .alias_count = 1};
    assert_int_equal(kin_pickle_write(context, path, list, 1, &layout, NULL, NULL), KIN_INVALID);
    assert_false(kin_file_exists(path));
}

/* ---- 64-bit fields ---- */

static void put(unsigned char **at, uint64_t value, int size) {
    for (int i = 0; i < size; i++) *(*at)++ = (unsigned char)(value >> (8 * i));
}

static uint64_t get(const unsigned char *at, int size) {
    uint64_t value = 0;
    for (int i = 0; i < size; i++) value |= (uint64_t)at[i] << (8 * i);
    return value;
}

/* Rewrites the directory of a small archive so that all numbers stand in 64-bit fields, as those of
 * records behind the first 4 GiB do. Returns the new size; `out` has room for it. */
static size_t widen_archive(const unsigned char *file, size_t size, unsigned char *out) {
    const unsigned char *end = file + size - 22;
    uint64_t count = get(end + 10, 2), begin = get(end + 16, 4);
    memcpy(out, file, begin);
    unsigned char *at = out + begin;
    const unsigned char *entry = file + begin;
    for (uint64_t i = 0; i < count; i++) {
        size_t name = (size_t)get(entry + 28, 2);
        memcpy(at, entry, 46 + name);
        memset(at + 20, 0xFF, 8);
        memset(at + 42, 0xFF, 4);
        memcpy(at + 30, "\x1c\0", 2);
        at += 46 + name;
        put(&at, 1, 2);
        put(&at, 24, 2);
        put(&at, get(entry + 24, 4), 8);
        put(&at, get(entry + 20, 4), 8);
        put(&at, get(entry + 42, 4), 8);
        entry += 46 + name;
    }
    uint64_t wide = (uint64_t)(at - out);
    put(&at, 0x06064b50, 4);
    put(&at, 44, 8);
    put(&at, 45 | 45 << 16, 4);
    put(&at, 0, 8);
    put(&at, count, 8);
    put(&at, count, 8);
    put(&at, wide - begin, 8);
    put(&at, begin, 8);
    put(&at, 0x07064b50, 4);
    put(&at, 0, 4);
    put(&at, wide, 8);
    put(&at, 1, 4);
    memcpy(at, end, 8);
    memset(at + 8, 0xFF, 12);
    memset(at + 20, 0, 2);
    return (size_t)(at + 22 - out);
}

static void test_wide_fields(void **state) {
    (void)state;
    kin_named_tensor list[8];
    size_t count = make_list(list) - 1, size = 0;
    char *bytes = NULL;
    const char *path = path_in(folder, "narrow.pth");
    assert_int_equal(kin_pickle_write(context, path, list, count, NULL, NULL, NULL), KIN_OK);
    assert_int_equal(kin_file_read_all(context, path, 1 << 20, &bytes, &size), KIN_OK);
    unsigned char *wide = malloc(size + 2000);
    size_t wide_size = widen_archive((const unsigned char *)bytes, size, wide);
    path = path_in(folder, "wide.pth");
    write_bytes(path, wide, wide_size);
    kin_pickle *file = open_written(path);
    const kin_named_tensor *found = NULL;
    size_t found_count = 0;
    assert_int_equal(kin_pickle_state_dict(file, NULL, &found, &found_count, NULL), KIN_OK);
    assert_int_equal(found_count, count);
    for (size_t i = 0; i < count; i++)
        assert_memory_equal(find(found, found_count, list[i].name)->data, list[i].data,
                            kin_desc_bytes(&list[i].desc));
    kin_pickle_close(file);
    /* The locator leads nowhere; the last record's offset does. */
    wide[wide_size - 22 - 20 + 8] ^= 1;
    write_bytes(path, wide, wide_size);
    assert_int_equal(kin_pickle_open(context, path, &file), KIN_FORMAT);
    wide[wide_size - 22 - 20 + 8] ^= 1;
    wide[wide_size - 22 - 20 - 56 - 1] = 1;
    write_bytes(path, wide, wide_size);
    assert_int_equal(kin_pickle_open(context, path, &file), KIN_FORMAT);
    kin_free(context, bytes);
    free(wide);
}

/* Beyond 4 GiB the archive needs its 64-bit fields in truth. The file is large, so this runs only
 * on request. */
static kin_status zeros(void *user, size_t index, size_t offset, void *bytes, size_t size) {
    (void)user, (void)index;
    memset(bytes, 0, size);
    if (offset == 0) memcpy(bytes, floats, sizeof floats);
    return KIN_OK;
}

static void test_large(void **state) {
    (void)state;
    if (getenv("KINORA_TEST_LARGE") == NULL) skip();
    const char *path = path_in(folder, "large.pth");
    kin_named_tensor list[2] = {
        tensor("first", KIN_F32, 2, (int64_t[]){1100, 1000000}, NULL),
        tensor("second", KIN_F32, 1, (int64_t[]){6}, NULL),
    };
    if (kin_pickle_write(context, path, list, 2, NULL, zeros, NULL) != KIN_OK)
        fail_msg("%s", kin_context_error(context));
    kin_pickle *file = open_written(path);
    const kin_named_tensor *found = NULL;
    size_t count = 0;
    assert_int_equal(kin_pickle_state_dict(file, NULL, &found, &count, NULL), KIN_OK);
    assert_memory_equal(find(found, count, "first")->data, floats, sizeof floats);
    assert_memory_equal(find(found, count, "second")->data, floats, sizeof floats);
    kin_pickle_close(file);
    char command[900];
    const char *interpreter = python();
    if (!interpreter) return;
    snprintf(command, sizeof command,
             "%s -c \"import zipfile; z = zipfile.ZipFile('%s'); assert z.testzip() is None\n"
             "try: import torch\nexcept ImportError: raise SystemExit\n"
             "d = torch.load('%s'); assert d['second'].tolist()[:3] == [1, -2, 3.5]\"",
             interpreter, path, path);
    assert_int_equal(system(command), 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_plain),       cmocka_unit_test(test_nested),
        cmocka_unit_test(test_torch),       cmocka_unit_test(test_refusals),
        cmocka_unit_test(test_wide_fields), cmocka_unit_test(test_large),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
