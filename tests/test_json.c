/* The configuration reader. */
#define _POSIX_C_SOURCE 200809L

#include "tests/runtime_support.h"

static kin_context *context;

static int set_up(void **state) {
    (void)state;
    return kin_context_create(NULL, &context);
}

static int tear_down(void **state) {
    (void)state;
    kin_context_destroy(context);
    return 0;
}

static json_t *parse(const char *text) {
    json_t *root = NULL;
    if (kin_json_parse(context, "c.json", text, strlen(text), &root) != KIN_OK)
        fail_msg("%s", kin_context_error(context));
    return root;
}

static void test_syntax_errors(void **state) {
    (void)state;
    static const struct {
        const char *text;
        const char *message;
    } bad[] = {
        {"{\"a\": 1,\n \"b\": }", "c.json:2:"},
        {"{\"a\":1,\"a\":2}", "duplicate"},
        {"", "c.json:1:"},
        {"{} x", "c.json:1:"},
        {"{\"a\": NaN}", "c.json:1:"},
        {"{\"a\": 'x'}", "c.json:1:"},
        {"{\"a\": 1,}", "c.json:1:"},
        {"3", "c.json:1:"},
        {"{\"a\":99999999999999999999}", "too big"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        json_t *root = NULL;
        assert_int_equal(kin_json_parse(context, "c.json", bad[i].text, strlen(bad[i].text), &root),
                         KIN_FORMAT);
        assert_null(root);
        assert_message(context, bad[i].message);
    }
    char deep[10000];
    memset(deep, '[', sizeof deep);
    json_t *root = NULL;
    assert_int_equal(kin_json_parse(context, "c.json", deep, sizeof deep, &root), KIN_FORMAT);
    assert_int_equal(kin_json_load(context, "/no/such.json", &root), KIN_NOT_FOUND);
    assert_message(context, "/no/such.json");
}

static void test_getters(void **state) {
    (void)state;
    json_t *root = parse("{\"i\": -7, \"d\": 2.5, \"t\": true, \"s\": \"x\", \"n\": null,"
                         " \"l\": [1, 2, 3], \"o\": {\"k\": 1}}");
    int64_t integer = 0;
    double number = 0;
    bool flag = false;
    const char *text = NULL;
    int64_t list[3] = {9, 9, 9};
    size_t count = 1;
    json_t *child = NULL;
    assert_int_equal(kin_json_get_int(context, root, "c", "i", 3, &integer), KIN_OK);
    assert_int_equal(integer, -7);
    assert_int_equal(kin_json_get_int(context, root, "c", "none", 3, &integer), KIN_OK);
    assert_int_equal(integer, 3);
    assert_int_equal(kin_json_get_int(context, root, "c", "n", 4, &integer), KIN_OK);
    assert_int_equal(integer, 4);
    assert_int_equal(kin_json_get_int(context, root, "c", "d", 4, &integer), KIN_INVALID);
    assert_message(context, "c: 'd' must be an integer");
    assert_int_equal(kin_json_get_int_between(context, root, "c", "i", -7, 0, 0, &integer), KIN_OK);
    assert_int_equal(kin_json_get_int_between(context, root, "c", "i", -6, 0, 0, &integer),
                     KIN_INVALID);
    assert_message(context, "-6 to 0");
    assert_int_equal(kin_json_get_double(context, root, "c", "i", 0, &number), KIN_OK);
    assert_true(number == -7.0);
    assert_int_equal(kin_json_get_double(context, root, "c", "d", 0, &number), KIN_OK);
    assert_true(number == 2.5);
    assert_int_equal(kin_json_get_double(context, root, "c", "s", 0, &number), KIN_INVALID);
    assert_int_equal(kin_json_get_bool(context, root, "c", "t", false, &flag), KIN_OK);
    assert_true(flag);
    assert_int_equal(kin_json_get_bool(context, root, "c", "i", false, &flag), KIN_INVALID);
    assert_int_equal(kin_json_get_string(context, root, "c", "s", "d", &text), KIN_OK);
    assert_string_equal(text, "x");
    assert_int_equal(kin_json_get_string(context, root, "c", "none", "d", &text), KIN_OK);
    assert_string_equal(text, "d");
    assert_int_equal(kin_json_get_string(context, root, "c", "t", "d", &text), KIN_INVALID);
    assert_int_equal(kin_json_get_ints(context, root, "c", "none", list, 3, &count), KIN_OK);
    assert_true(count == 1 && list[0] == 9);
    assert_int_equal(kin_json_get_ints(context, root, "c", "l", list, 3, &count), KIN_OK);
    assert_true(count == 3 && list[0] == 1 && list[2] == 3);
    assert_int_equal(kin_json_get_ints(context, root, "c", "l", list, 2, &count), KIN_INVALID);
    assert_int_equal(kin_json_get_ints(context, root, "c", "s", list, 3, &count), KIN_INVALID);
    int small[3] = {7, 0, 0};
    count = 1;
    assert_int_equal(kin_json_get_int_list(context, root, "c", "none", 1, 9, small, 3, &count),
                     KIN_OK);
    assert_true(count == 1 && small[0] == 7);
    assert_int_equal(kin_json_get_int_list(context, root, "c", "l", 1, 3, small, 3, &count),
                     KIN_OK);
    assert_true(count == 3 && small[0] == 1 && small[2] == 3);
    assert_int_equal(kin_json_get_int_list(context, root, "c", "l", 1, 2, small, 3, &count),
                     KIN_INVALID);
    assert_int_equal(kin_json_get_int_list(context, root, "c", "l", 1, 3, small, 2, &count),
                     KIN_INVALID);
    assert_int_equal(kin_json_get_int_list(context, root, "c", "s", 1, 3, small, 3, &count),
                     KIN_INVALID);
    assert_int_equal(kin_json_get_child(context, root, "c", "o", JSON_OBJECT, &child), KIN_OK);
    assert_non_null(child);
    assert_int_equal(kin_json_get_child(context, root, "c", "l", JSON_OBJECT, &child), KIN_INVALID);
    assert_int_equal(kin_json_require(context, root, "c", "i"), KIN_OK);
    assert_int_equal(kin_json_require(context, root, "c", "n"), KIN_NOT_FOUND);
    assert_int_equal(kin_json_get_int(context, json_object_get(root, "l"), "c", "i", 0, &integer),
                     KIN_INVALID);
    assert_int_equal(kin_json_get_int(context, NULL, "c", "i", 0, &integer), KIN_INVALID);
    json_decref(root);
}

static void test_unknown_keys(void **state) {
    (void)state;
    static const char *const known[] = {"learning_rate", "seed"};
    json_t *root = parse("{\"seed\": 1, \"lerning_rate\": 2}");
    assert_int_equal(kin_json_check_keys(context, root, "c: train", known, 2), KIN_INVALID);
    assert_message(context, "c: train: unknown key 'lerning_rate'; did you mean 'learning_rate'?");
    json_object_del(root, "lerning_rate");
    assert_int_equal(kin_json_check_keys(context, root, "c", known, 2), KIN_OK);
    json_object_set_new(root, "frames", json_null());
    assert_int_equal(kin_json_check_keys(context, root, "c", known, 2), KIN_INVALID);
    assert_message(context, "unknown key 'frames'");
    json_decref(root);
}

static void expect_set(json_t *root, const char *assignment, const char *wanted) {
    if (kin_json_set(context, root, assignment) != KIN_OK)
        fail_msg("%s", kin_context_error(context));
    char *text = json_dumps(root, JSON_COMPACT | JSON_SORT_KEYS);
    assert_string_equal(text, wanted);
    free(text);
}

static void test_set(void **state) {
    (void)state;
    json_t *root = parse("{\"a\": [1, {\"b\": 2}]}");
    expect_set(root, "m.depth=28", "{\"a\":[1,{\"b\":2}],\"m\":{\"depth\":28}}");
    expect_set(root, "a.1.b=true", "{\"a\":[1,{\"b\":true}],\"m\":{\"depth\":28}}");
    expect_set(root, "a.0=1e3", "{\"a\":[1000.0,{\"b\":true}],\"m\":{\"depth\":28}}");
    expect_set(root, "a=a=b", "{\"a\":\"a=b\",\"m\":{\"depth\":28}}");
    expect_set(root, "m=[1, 2]", "{\"a\":\"a=b\",\"m\":[1,2]}");
    expect_set(root, "m=", "{\"a\":\"a=b\",\"m\":\"\"}");
    expect_set(root, "m=null", "{\"a\":\"a=b\",\"m\":null}");
    static const char *const bad[] = {"x", "=1", ".x=1", "x.=1", "a.b=1", "x..y=1", "z=\xff"};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
        assert_int_equal(kin_json_set(context, root, bad[i]), KIN_INVALID);
    json_object_set_new(root, "a", json_array());
    assert_int_equal(kin_json_set(context, root, "a.0=1"), KIN_INVALID);
    assert_int_equal(kin_json_set(context, root, "a.9999999999999999999=1"), KIN_INVALID);
    json_decref(root);
}

static kin_status load_and_set(kin_context *with, void *path) {
    json_t *root = NULL;
    kin_status status = kin_json_load(with, path, &root);
    if (status == KIN_OK) status = kin_json_set(with, root, "a.b=1");
    json_decref(root);
    return status;
}

static void test_failing_allocations(void **state) {
    (void)state;
    char *folder = make_folder();
    char *path = strdup(path_in(folder, "c.json"));
    write_bytes(path, "{}", 2);
    sweep_allocations(load_and_set, path);
    assert_int_equal(unlink(path), 0);
    assert_int_equal(rmdir(folder), 0);
    free(path);
    free(folder);
}

int main(void) {
#define TEST(function) cmocka_unit_test_setup_teardown(function, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        TEST(test_syntax_errors),       TEST(test_getters), TEST(test_unknown_keys), TEST(test_set),
        TEST(test_failing_allocations),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
