/* docs/ops.md is what kin_op_list says. `test_ops_doc --write` makes it anew. The file beside this
 * one is found through __FILE__, which CMake gives in full. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "runtime/op.h"

typedef struct text {
    char *data;
    size_t size, capacity;
} text;

static void add(text *out, const char *format, ...) KIN_PRINTF(2, 3);

static void add(text *out, const char *format, ...) {
    va_list args;
    if (out->capacity - out->size < 4096) {
        out->capacity += 1 << 16;
        out->data = realloc(out->data, out->capacity);
        if (!out->data) abort();
    }
    va_start(args, format);
    out->size += (size_t)vsnprintf(out->data + out->size, 4096, format, args);
    va_end(args);
}

/* How many inputs the cases of an op have, and which of them may be absent. */
static void add_inputs(text *out, const kin_op *op) {
    int least = KIN_MAX_CASE_INPUTS, most = 0;
    for (size_t i = 0; i < op->case_count; i++) {
        if (op->cases[i].input_count < least) least = op->cases[i].input_count;
        if (op->cases[i].input_count > most) most = op->cases[i].input_count;
    }
    if (op->case_count == 0) add(out, "-");
    else if (least == most) add(out, "%d", most);
    else add(out, "%d to %d", least, most);
    const char *before = "; may be absent: ";
    for (int i = 0; i < most; i++) {
        if (!(op->optional >> i & 1)) continue;
        add(out, "%s%d", before, i);
        before = ", ";
    }
}

/* A summary as a table cell: a bar would end it. */
static void add_summary(text *out, const char *summary) {
    for (const char *c = summary; *c; c++) add(out, *c == '|' ? "\\|" : "%c", *c);
}

static text make_page(void) {
    text out = {0};
    add(&out,
        "# Ops\n\n"
        "Made from `kin_op_list` by `build/test/test_ops_doc --write`; a test holds this page to "
        "it.\n\n"
        "Kind: *view* costs nothing at run time, *update* writes a persistent tensor, *composite* "
        "has a\nlowering to simpler ops, *primitive* has none, so that a device needs a kernel for "
        "it. Inputs are\nnumbered from 0, as in the op's cases. The builders and their shapes are "
        "in the headers of `ops/`.\n\n"
        "| op | computes | kind | inputs | outputs | gradient | cases |\n"
        "|---|---|---|---|---|---|---|\n");
    size_t count = 0;
    for (; kin_op_list[count]; count++) {
        const kin_op *op = kin_op_list[count];
        const char *kind = op->flags & KIN_OP_VIEW     ? "view"
                           : op->flags & KIN_OP_UPDATE ? "update"
                           : op->lower                 ? "composite"
                                                       : "primitive";
        add(&out, "| `%s` | ", op->name);
        add_summary(&out, op->summary);
        add(&out, " | %s | ", kind);
        add_inputs(&out, op);
        add(&out, " | %d | %s | %zu |\n", op->outputs, op->gradient ? "yes" : "no", op->case_count);
    }
    add(&out, "\n%zu ops.\n", count);
    return out;
}

static void page_path(char *path, size_t size) {
    const char *file = __FILE__, *end = strstr(file, "tests/test_ops_doc.c");
    snprintf(path, size, "%.*sdocs/ops.md", end ? (int)(end - file) : 0, file);
}

static void page_is_up_to_date(void **state) {
    (void)state;
    char path[4096];
    page_path(path, sizeof path);
    text want = make_page();
    FILE *file = fopen(path, "rb");
    assert_non_null(file);
    char *got = calloc(1, want.size + 2);
    assert_non_null(got);
    size_t size = fread(got, 1, want.size + 1, file);
    fclose(file);
    if (size != want.size || memcmp(got, want.data, size) != 0)
        fail_msg("%s is not what kin_op_list says: run test_ops_doc --write", path);
    free(got);
    free(want.data);
}

static void every_op_is_described(void **state) {
    (void)state;
    for (size_t i = 0; kin_op_list[i]; i++) {
        const kin_op *op = kin_op_list[i];
        if (!op->summary || !op->summary[0] || strchr(op->summary, '\n'))
            fail_msg("%s has no summary of one line", op->name);
        if (op->case_count == 0) fail_msg("%s has no cases", op->name);
        for (size_t j = 0; j < i; j++) assert_string_not_equal(op->name, kin_op_list[j]->name);
    }
}

static int write_page(void) {
    char path[4096];
    page_path(path, sizeof path);
    text page = make_page();
    FILE *file = fopen(path, "wb");
    bool good = file && fwrite(page.data, 1, page.size, file) == page.size;
    if (file && fclose(file) != 0) good = false;
    free(page.data);
    if (!good) perror(path);
    return good ? 0 : 1;
}

int main(int count, char **arguments) {
    if (count > 1 && strcmp(arguments[1], "--write") == 0) return write_page();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(page_is_up_to_date),
        cmocka_unit_test(every_op_is_described),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
