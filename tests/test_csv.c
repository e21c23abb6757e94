/* The CSV reader and writer. */
#define _POSIX_C_SOURCE 200809L

#include "tests/runtime_support.h"

#include "runtime/csv.h"

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

static kin_status parse(const char *text, kin_csv **out_csv) {
    return kin_csv_parse(context, "t.csv", text, strlen(text), out_csv);
}

static void test_reads(void **state) {
    (void)state;
    kin_csv *csv = NULL;
    assert_int_equal(parse("\xEF\xBB\xBFpath,text\r\n"
                           "a.mp4,\"a \"\"big\"\" cat,\r\nthen a dog\"\r\n"
                           "\r\n"
                           "b.mp4,\n"
                           "\"\",\"\xE7\x8C\xAB\"",
                           &csv),
                     KIN_OK);
    assert_int_equal(kin_csv_row_count(csv), 3);
    assert_int_equal(kin_csv_column_count(csv), 2);
    assert_string_equal(kin_csv_column_name(csv, 0), "path");
    assert_string_equal(kin_csv_cell(csv, 0, 1), "a \"big\" cat,\r\nthen a dog");
    assert_string_equal(kin_csv_cell(csv, 1, 1), "");
    assert_string_equal(kin_csv_cell(csv, 2, 0), "");
    assert_string_equal(kin_csv_cell(csv, 2, 1), "\xE7\x8C\xAB");
    assert_int_equal(kin_csv_line(csv, 0), 2);
    assert_int_equal(kin_csv_line(csv, 1), 5);
    assert_int_equal(kin_csv_line(csv, 2), 6);
    assert_null(kin_csv_cell(csv, 3, 0));
    assert_null(kin_csv_cell(csv, 0, 2));
    assert_null(kin_csv_column_name(csv, 2));
    assert_int_equal(kin_csv_line(csv, 3), 0);
    size_t column = 9;
    assert_int_equal(kin_csv_find_column(csv, "text", &column), KIN_OK);
    assert_int_equal(column, 1);
    assert_int_equal(kin_csv_find_column(csv, "txt", &column), KIN_NOT_FOUND);
    assert_message(context, "'text'");
    kin_csv_close(csv);
    assert_int_equal(parse("only,header", &csv), KIN_OK);
    assert_int_equal(kin_csv_row_count(csv), 0);
    kin_csv_close(csv);
}

static void test_refusals(void **state) {
    (void)state;
    static const struct {
        const char *text;
        const char *message;
    } bad[] = {
        {"", "is empty"},
        {"\n\r\n", "is empty"},
        {"a,b\n1,2\n3\n", "t.csv:3: the row has 1 cells, the header 2"},
        {"a,b\n1,2,3\n", "t.csv:2:"},
        {"a\n\"x\ny", "t.csv:2: the quote is not closed"},
        {"a\n\"x\"y\n", "t.csv:2: text behind a closing quote"},
        {"a\n\"x\ny\" \n", "t.csv:3: text behind a closing quote"},
        {"a\nx\"y\n", "t.csv:2: a quote within a cell"},
        {"a\nx\ry\n", "t.csv:2: a carriage return"},
        {"a\nx\r", "t.csv:2: a carriage return"},
        {"a,b,a\n", "t.csv:1: the column 'a' comes twice"},
        {"a\n\xff\n", "not UTF-8"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        kin_csv *csv = NULL;
        assert_int_equal(parse(bad[i].text, &csv), KIN_FORMAT);
        assert_null(csv);
        assert_message(context, bad[i].message);
    }
    kin_csv *csv = NULL;
    assert_int_equal(kin_csv_parse(context, "t.csv", "a\0b", 3, &csv), KIN_FORMAT);
    assert_message(context, "NUL");
    assert_int_equal(kin_csv_open(context, "/no/such.csv", &csv), KIN_NOT_FOUND);
}

static void test_writes(void **state) {
    (void)state;
    static const char *const cells[] = {"plain", "a,b", "say \"x\"", "two\nlines", ""};
    char *row = kin_csv_format_row(context, cells, 5);
    assert_string_equal(row, "plain,\"a,b\",\"say \"\"x\"\"\",\"two\nlines\",\n");
    kin_csv *csv = NULL;
    assert_int_equal(parse(row, &csv), KIN_OK);
    for (size_t i = 0; i < 5; i++) assert_string_equal(kin_csv_column_name(csv, i), cells[i]);
    kin_csv_close(csv);
    kin_free(context, row);
    static const char *const mark[] = {"\xEF\xBB\xBF"
                                       "a"};
    row = kin_csv_format_row(context, mark, 1);
    assert_int_equal(parse(row, &csv), KIN_OK);
    assert_string_equal(kin_csv_column_name(csv, 0), mark[0]);
    kin_csv_close(csv);
    kin_free(context, row);
    static const char *const empty[] = {""};
    row = kin_csv_format_row(context, empty, 1);
    assert_string_equal(row, "\"\"\n");
    kin_free(context, row);
}

static kin_status read_and_write(kin_context *with, void *path) {
    kin_csv *csv = NULL;
    kin_status status = kin_csv_open(with, path, &csv);
    if (status != KIN_OK) return status;
    const char *cells[] = {kin_csv_cell(csv, 0, 0), kin_csv_cell(csv, 99, 0)};
    char *row = kin_csv_format_row(with, cells, 2);
    status = row == NULL ? KIN_OUT_OF_MEMORY : KIN_OK;
    kin_free(with, row);
    kin_csv_close(csv);
    return status;
}

static void test_failing_allocations(void **state) {
    (void)state;
    char *folder = make_folder();
    char *path = strdup(path_in(folder, "t.csv"));
    FILE *file = fopen(path, "w");
    for (int i = 0; i <= 100; i++) fprintf(file, "cell %d,\"x\"\n", i);
    fclose(file);
    sweep_allocations(read_and_write, path);
    assert_int_equal(unlink(path), 0);
    assert_int_equal(rmdir(folder), 0);
    free(path);
    free(folder);
}

int main(void) {
#define TEST(function) cmocka_unit_test_setup_teardown(function, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        TEST(test_reads),
        TEST(test_refusals),
        TEST(test_writes),
        TEST(test_failing_allocations),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
