/* The context: messages, allocator, log, nearest names; and the helpers on files and paths. */
#define _POSIX_C_SOURCE 200809L

#include "tests/runtime_support.h"

#include <sys/stat.h>

static void test_create(void **state) {
    (void)state;
    kin_context *context = NULL;
    assert_int_equal(kin_context_create(NULL, &context), KIN_OK);
    assert_string_equal(kin_context_error(context), "");
    assert_true(kin_context_threads(context) >= 1);
    kin_context_destroy(context);
    kin_context_destroy(NULL);
    kin_context_options options = {.struct_size = sizeof options, .threads = 3};
    assert_int_equal(kin_context_create(&options, &context), KIN_OK);
    assert_int_equal(kin_context_threads(context), 3);
    kin_context_destroy(context);
    options.threads = -1;
    assert_int_equal(kin_context_create(&options, &context), KIN_INVALID);
    assert_null(context);
    options.threads = 0;
    options.struct_size = 0;
    assert_int_equal(kin_context_create(&options, &context), KIN_INVALID);
    options.struct_size = sizeof options + 8;
    assert_int_equal(kin_context_create(&options, &context), KIN_INVALID);
    /* An older caller's shorter struct. */
    options.struct_size = offsetof(kin_context_options, log);
    assert_int_equal(kin_context_create(&options, &context), KIN_OK);
    kin_context_destroy(context);
    failing failing_state = {.fail_at = 1};
    options = (kin_context_options){.struct_size = sizeof options,
                                    .allocator = {failing_resize, &failing_state}};
    assert_int_equal(kin_context_create(&options, &context), KIN_OUT_OF_MEMORY);
}

/* Lines "name=value"; the first of a name counts, and only whole names fit. */
static void test_settings(void **state) {
    (void)state;
    kin_context *context = NULL;
    char text[] = "cache=/tmp/a b\n\nopencl.work_group=4\nempty=\ncache=/other\nno value\nx=y=z";
    kin_context_options options = {.struct_size = sizeof options, .settings = text};
    assert_int_equal(kin_context_create(&options, &context), KIN_OK);
    memset(text, 'x', sizeof text - 1); /* it was copied */
    assert_string_equal(kin_context_setting(context, "cache"), "/tmp/a b");
    assert_string_equal(kin_context_setting(context, "opencl.work_group"), "4");
    assert_string_equal(kin_context_setting(context, "empty"), "");
    assert_string_equal(kin_context_setting(context, "x"), "y=z");
    const char *const absent[] = {"cach", "cache=", "work_group", "no value", "tmp", "opencl", ""};
    for (size_t i = 0; i < sizeof absent / sizeof *absent; i++)
        assert_null(kin_context_setting(context, absent[i]));
    kin_context_destroy(context);
    assert_int_equal(kin_context_create(NULL, &context), KIN_OK);
    assert_null(kin_context_setting(context, "cache"));
    assert_null(kin_context_setting(NULL, "cache"));
    kin_context_destroy(context);
}

static void test_messages(void **state) {
    (void)state;
    kin_context *context = NULL;
    assert_int_equal(kin_context_create(NULL, &context), KIN_OK);
    assert_int_equal(kin_fail(context, KIN_FORMAT, "%s: %d", "file", 7), KIN_FORMAT);
    assert_string_equal(kin_context_error(context), "file: 7");
    assert_int_equal(kin_fail_in(context, KIN_IO, "shard %d", 2), KIN_IO);
    assert_string_equal(kin_context_error(context), "shard 2: file: 7");
    /* The old message as an argument of the new one. */
    kin_fail(context, KIN_IO, "again %s", kin_context_error(context));
    assert_string_equal(kin_context_error(context), "again shard 2: file: 7");
    /* A message that is far too long is cut, not between the bytes of a letter. */
    char text[6001];
    for (int shift = 0; shift < 3; shift++) {
        memset(text, 'x', sizeof text);
        for (size_t i = (size_t)shift; i + 3 < sizeof text; i += 3)
            memcpy(text + i, "\xE7\x8C\xAB", 3);
        text[6000] = '\0';
        kin_fail(context, KIN_IO, "%s", text);
        size_t length = strlen(kin_context_error(context));
        assert_true(length > 1000 && length < 6000);
        assert_true(kin_utf8_is_valid(kin_context_error(context), length));
        assert_string_equal(kin_context_error(context) + length - 3, "...");
        kin_fail_in(context, KIN_IO, "%s", "prefix");
        length = strlen(kin_context_error(context));
        assert_true(kin_utf8_is_valid(kin_context_error(context), length));
    }
    for (int status = KIN_OK; status <= KIN_CANCELLED; status++)
        assert_string_not_equal(kin_status_text((kin_status)status), "unknown status");
    assert_string_equal(kin_status_text((kin_status)99), "unknown status");
    kin_context_destroy(context);
}

static void test_memory(void **state) {
    (void)state;
    failing failing_state = {0};
    kin_context *context = failing_context(&failing_state);
    void *nothing = kin_alloc(context, 0);
    assert_non_null(nothing);
    int *zeros = kin_calloc(context, 100, sizeof *zeros);
    for (int i = 0; i < 100; i++) assert_int_equal(zeros[i], 0);
    assert_null(kin_calloc(context, SIZE_MAX / 2, 4));
    assert_message(context, "out of memory");
    char *text = kin_strndup(context, "abcdef", 3);
    assert_string_equal(text, "abc");
    char *formatted = kin_format(context, "%s-%d", text, 5);
    assert_string_equal(formatted, "abc-5");
    failing_state.fail_at = 1;
    assert_null(kin_realloc(context, text, 100));
    assert_string_equal(text, "abc");
    assert_null(kin_strdup(context, "x"));
    assert_null(kin_format(context, "%d", 1));
    assert_message(context, "2 bytes");
    kin_free(context, nothing);
    kin_free(context, zeros);
    kin_free(context, text);
    kin_free(context, formatted);
    kin_free(context, NULL);
    assert_int_equal(failing_state.live, 1);
    kin_context_destroy(context);
}

static void keep_line(void *user, kin_log_level level, const char *text) {
    snprintf(user, 64, "%d %s", (int)level, text);
}

/* Resident bytes of the process. */
static uint64_t resident(void) {
    unsigned long long pages = 0;
    FILE *file = fopen("/proc/self/statm", "r");
    if (!file || fscanf(file, "%*u %llu", &pages) != 1) pages = 0;
    if (file) fclose(file);
    return (uint64_t)pages * (uint64_t)sysconf(_SC_PAGESIZE);
}

/* What is freed goes back to the system: a second stage of large blocks, with small ones between
 * them that stay, leaves nothing behind. (malloc alone keeps nearly all of it: the blocks of the
 * first stage have taught it to take such sizes from the heap.) */
static void test_memory_goes_back(void **state) {
    (void)state;
    enum { BLOCKS = 32, LARGE = 4 << 20, SMALLER = LARGE - (64 << 10) };
    kin_context *context;
    void *large[BLOCKS], *small[BLOCKS];
    assert_int_equal(kin_context_create(NULL, &context), KIN_OK);
    for (int i = 0; i < BLOCKS; i++) {
        assert_non_null(large[i] = kin_alloc(context, LARGE));
        memset(large[i], 1, LARGE);
    }
    for (int i = 0; i < BLOCKS; i++) kin_free(context, large[i]);
    uint64_t before = resident();
    for (int i = 0; i < BLOCKS; i++) {
        assert_non_null(large[i] = kin_alloc(context, SMALLER));
        assert_non_null(small[i] = kin_alloc(context, 1000));
        memset(large[i], 1, SMALLER);
    }
    uint64_t most = resident();
    for (int i = 0; i < BLOCKS; i++) kin_free(context, large[i]);
    uint64_t after = resident();
    for (int i = 0; i < BLOCKS; i++) kin_free(context, small[i]);
    kin_context_destroy(context);
#if defined(__SANITIZE_ADDRESS__)
    const bool compares = false; /* AddressSanitizer keeps what is freed */
#else
    const bool compares = true;
#endif
    assert_true(!compares || (before > 0 && most >= before + (uint64_t)BLOCKS * SMALLER));
    assert_true(!compares || after < before + 4 * (uint64_t)LARGE);
}

/* Blocks keep their content, and their alignment, as they grow and shrink through the size from
 * which on they are mapped. */
static void test_memory_resizes(void **state) {
    (void)state;
    kin_context *context;
    assert_int_equal(kin_context_create(NULL, &context), KIN_OK);
    static const size_t sizes[] = {100,     (1 << 20) - 1, 1 << 20, (1 << 20) + 1, 5 << 20,
                                   3 << 20, 2 << 20,       4000,    1 << 21,       50};
    unsigned char *block = NULL;
    size_t kept = 0;
    for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++) {
        unsigned char *made = kin_realloc(context, block, sizes[s]);
        assert_non_null(made);
        block = made;
        assert_int_equal((uintptr_t)block % _Alignof(max_align_t), 0);
        for (size_t i = 0; i < kept && i < sizes[s]; i += 37)
            assert_int_equal(block[i], (i * 31 + 7) & 255);
        for (size_t i = 0; i < sizes[s]; i++) block[i] = (unsigned char)(i * 31 + 7);
        kept = sizes[s];
    }
    assert_null(kin_realloc(context, block, SIZE_MAX - 8));
#if !defined(__SANITIZE_ADDRESS__) /* which ends the process */
    assert_null(kin_realloc(context, block, SIZE_MAX / 2));
#endif
    assert_int_equal(block[0], 7); /* untouched */
    assert_null(kin_alloc(context, SIZE_MAX - 4));
    kin_free(context, block);
    kin_context_destroy(context);
}

static void test_log(void **state) {
    (void)state;
    char line[64] = "";
    kin_context *context = NULL;
    kin_context_options options = {
        .struct_size = sizeof options, .log = keep_line, .log_user = line};
    assert_int_equal(kin_context_create(&options, &context), KIN_OK);
    kin_log(context, KIN_LOG_WARN, "%d left", 3);
    assert_string_equal(line, "1 3 left");
    kin_context_destroy(context);
    assert_int_equal(kin_context_create(NULL, &context), KIN_OK);
    kin_log(context, KIN_LOG_ERROR, "nobody listens");
    kin_context_destroy(context);
}

static void test_nearest_name(void **state) {
    (void)state;
    static const char *const names[] = {"learning_rate", "batch_size", NULL, "seed", "steps"};
    assert_string_equal(kin_nearest_name("lerning_rate", names, 5), "learning_rate");
    assert_string_equal(kin_nearest_name("LEARNING-RATE", names, 5), "learning_rate");
    assert_string_equal(kin_nearest_name("sed", names, 5), "seed");
    assert_string_equal(kin_nearest_name("step", names, 5), "steps");
    assert_null(kin_nearest_name("frames", names, 5));
    assert_null(kin_nearest_name("x", names, 5));
    assert_null(kin_nearest_name("", names, 5));
    assert_null(kin_nearest_name("seed", names, 0));
}

static void test_utf8(void **state) {
    (void)state;
    assert_true(kin_utf8_is_valid("a\xC3\xA9\xE7\x8C\xAB\xF0\x9F\x98\x80", 10));
    static const char *const bad[] = {"\xC3",         "\xC0\x80",         "\xE0\x80\x80",
                                      "\xED\xA0\x80", "\xF4\x90\x80\x80", "\xFF",
                                      "\x80",         "\xF0\x80\x80\x80", "\xC3("};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
        assert_false(kin_utf8_is_valid(bad[i], strlen(bad[i])));
}

static void test_files(void **state) {
    (void)state;
    kin_context *context = NULL;
    assert_int_equal(kin_context_create(NULL, &context), KIN_OK);
    char *folder = make_folder();
    const char *deep = path_in(folder, "a/b//c/");
    assert_int_equal(kin_make_folders(context, deep), KIN_OK);
    assert_int_equal(kin_make_folders(context, deep), KIN_OK);
    assert_true(kin_file_is_folder(deep));
    const char *path = path_in(folder, "a/b/c/x");
    assert_int_equal(kin_file_write_atomic(context, path, "hello", 5), KIN_OK);
    assert_int_equal(kin_make_folders(context, path_in(folder, "a/b/c/x/y")), KIN_IO);
    char *text = NULL;
    size_t size = 0;
    assert_int_equal(kin_file_read_all(context, path, 5, &text, &size), KIN_OK);
    assert_int_equal(size, 5);
    assert_string_equal(text, "hello");
    kin_free(context, text);
    assert_int_equal(kin_file_read_all(context, path, 4, &text, &size), KIN_FORMAT);
    assert_message(context, path);
    assert_int_equal(kin_file_read_all(context, folder, 4, &text, &size), KIN_IO);
    const char *pipe = path_in(folder, "pipe");
    assert_int_equal(mkfifo(pipe, 0600), 0);
    kin_mapping mapping;
    assert_int_equal(kin_file_map(context, pipe, &mapping), KIN_IO); /* and does not wait */
    assert_int_equal(kin_file_write_atomic(context, path, "", 0), KIN_OK);
    assert_int_equal(kin_file_map(context, path, &mapping), KIN_OK);
    assert_int_equal(mapping.size, 0);
    assert_non_null(mapping.data);
    kin_file_unmap(&mapping);
    char *joined = kin_path_join(context, "a/", "b");
    assert_string_equal(joined, "a/b");
    kin_free(context, joined);
    char *above = kin_path_folder(context, "/x");
    assert_string_equal(above, "/");
    kin_free(context, above);
    above = kin_path_folder(context, "x");
    assert_string_equal(above, ".");
    kin_free(context, above);
    char command[600];
    snprintf(command, sizeof command, "rm -rf '%s'", folder);
    assert_int_equal(system(command), 0);
    free(folder);
    kin_context_destroy(context);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_create),
        cmocka_unit_test(test_settings),
        cmocka_unit_test(test_messages),
        cmocka_unit_test(test_memory),
        cmocka_unit_test(test_memory_goes_back),
        cmocka_unit_test(test_memory_resizes),
        cmocka_unit_test(test_log),
        cmocka_unit_test(test_nearest_name),
        cmocka_unit_test(test_utf8),
        cmocka_unit_test(test_files),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
