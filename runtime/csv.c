/* Comma-separated values. Cells are unquoted in place, in a copy of the text. */
#define _POSIX_C_SOURCE 200809L

#include "runtime/csv.h"

#include <stdlib.h>
#include <string.h>

#include "runtime/file.h"

enum { FILE_LIMIT = 1 << 30, COLUMN_LIMIT = 10000 };

struct kin_csv {
    kin_context *context;
    char *name;
    char *text;
    const char **cells; /* all rows, the header first */
    size_t cell_count;
    size_t cell_capacity;
    size_t *lines; /* of each row */
    size_t row_count;
    size_t row_capacity;
    size_t column_count; /* known after the header */
};

/* Where the parser stands: it reads at `at` and writes unquoted cells at or before it. */
typedef struct cursor {
    char *at;
    char *end;
    size_t line;
} cursor;

static kin_status fail_line(const kin_csv *csv, size_t line, const char *what) {
    return kin_fail(csv->context, KIN_FORMAT, "%s:%zu: %s", csv->name, line, what);
}

static kin_status add_cell(kin_csv *csv, const char *cell) {
    if (csv->cell_count == csv->cell_capacity) {
        size_t capacity = csv->cell_capacity < 64 ? 64 : csv->cell_capacity * 2;
        const char **cells = kin_realloc(csv->context, csv->cells, capacity * sizeof *cells);
        if (cells == NULL) return kin_fail_in(csv->context, KIN_OUT_OF_MEMORY, "%s", csv->name);
        csv->cells = cells;
        csv->cell_capacity = capacity;
    }
    csv->cells[csv->cell_count++] = cell;
    return KIN_OK;
}

static kin_status add_row(kin_csv *csv, size_t line) {
    if (csv->row_count == csv->row_capacity) {
        size_t capacity = csv->row_capacity < 64 ? 64 : csv->row_capacity * 2;
        size_t *lines = kin_realloc(csv->context, csv->lines, capacity * sizeof *lines);
        if (lines == NULL) return kin_fail_in(csv->context, KIN_OUT_OF_MEMORY, "%s", csv->name);
        csv->lines = lines;
        csv->row_capacity = capacity;
    }
    csv->lines[csv->row_count++] = line;
    return KIN_OK;
}

/* Unquotes a cell; at stands behind its opening quote and ends behind the closing one. */
static kin_status read_quoted(const kin_csv *csv, cursor *c, char **out_end) {
    size_t first_line = c->line;
    char *write = c->at;
    for (;;) {
        if (c->at == c->end) return fail_line(csv, first_line, "the quote is not closed");
        char letter = *c->at++;
        if (letter == '\n') c->line++;
        if (letter == '"') {
            if (c->at == c->end || *c->at != '"') break;
            c->at++;
        }
        *write++ = letter;
    }
    if (c->at < c->end && *c->at != ',' && *c->at != '\n' && *c->at != '\r')
        return fail_line(csv, c->line, "text behind a closing quote; double a quote within quotes");
    *out_end = write;
    return KIN_OK;
}

static kin_status read_plain(const kin_csv *csv, cursor *c, char **out_end) {
    while (c->at < c->end && *c->at != ',' && *c->at != '\n' && *c->at != '\r') {
        if (*c->at == '"')
            return fail_line(csv, c->line, "a quote within a cell that does not begin with one");
        c->at++;
    }
    *out_end = c->at;
    return KIN_OK;
}

/* One cell and what ends it; *out_last tells whether it was the last of its row. */
static kin_status read_cell(kin_csv *csv, cursor *c, bool *out_last) {
    char *end = NULL;
    bool is_quoted = c->at < c->end && *c->at == '"';
    if (is_quoted) c->at++;
    char *begin = c->at;
    kin_status status = is_quoted ? read_quoted(csv, c, &end) : read_plain(csv, c, &end);
    if (status != KIN_OK) return status;
    *out_last = true;
    if (c->at < c->end && *c->at == ',') {
        *out_last = false;
        c->at++;
    } else if (c->at < c->end) {
        if (*c->at == '\r') c->at++;
        if (c->at == c->end || *c->at != '\n')
            return fail_line(csv, c->line, "a carriage return without a line feed");
        c->at++;
        c->line++;
    }
    /* Only now: the end may be the very letter that was looked at. */
    *end = '\0';
    return add_cell(csv, begin);
}

static bool skip_empty_line(cursor *c) {
    size_t length = c->at[0] == '\n' ? 1 : 0;
    if (c->end - c->at >= 2 && c->at[0] == '\r' && c->at[1] == '\n') length = 2;
    c->at += length;
    c->line += length > 0 ? 1 : 0;
    return length > 0;
}

static kin_status read_row(kin_csv *csv, cursor *c) {
    size_t line = c->line;
    size_t first = csv->cell_count;
    bool is_last = false;
    while (!is_last) {
        kin_status status = read_cell(csv, c, &is_last);
        if (status != KIN_OK) return status;
        if (csv->cell_count - first > COLUMN_LIMIT) return fail_line(csv, line, "too many columns");
    }
    size_t count = csv->cell_count - first;
    if (csv->row_count == 0) csv->column_count = count;
    if (count != csv->column_count)
        return kin_fail(csv->context, KIN_FORMAT,
                        "%s:%zu: the row has %zu cells, the header %zu; is a comma not in quotes?",
                        csv->name, line, count, csv->column_count);
    return add_row(csv, line);
}

static int compare_names(const void *a, const void *b) {
    const char *const *x = a;
    const char *const *y = b;
    return strcmp(*x, *y);
}

static kin_status check_header(const kin_csv *csv) {
    const char **names = kin_alloc(csv->context, csv->column_count * sizeof *names);
    if (names == NULL) return kin_fail_in(csv->context, KIN_OUT_OF_MEMORY, "%s", csv->name);
    memcpy(names, csv->cells, csv->column_count * sizeof *names);
    qsort(names, csv->column_count, sizeof *names, compare_names);
    kin_status status = KIN_OK;
    for (size_t i = 1; i < csv->column_count && status == KIN_OK; i++)
        if (strcmp(names[i - 1], names[i]) == 0)
            status = kin_fail(csv->context, KIN_FORMAT, "%s:%zu: the column '%s' comes twice",
                              csv->name, csv->lines[0], names[i]);
    kin_free(csv->context, names);
    return status;
}

static kin_status read_rows(kin_csv *csv, size_t size) {
    cursor c = {.at = csv->text, .end = csv->text + size, .line = 1};
    if (!kin_utf8_is_valid(csv->text, size))
        return kin_fail(csv->context, KIN_FORMAT, "%s: is not UTF-8; convert it", csv->name);
    const char *nul = size > 0 ? memchr(csv->text, '\0', size) : NULL;
    if (nul != NULL) return kin_fail(csv->context, KIN_FORMAT, "%s: has a NUL byte", csv->name);
    if (size >= 3 && memcmp(c.at, "\xEF\xBB\xBF", 3) == 0) c.at += 3;
    while (c.at < c.end) {
        if (skip_empty_line(&c)) continue;
        kin_status status = read_row(csv, &c);
        if (status != KIN_OK) return status;
    }
    if (csv->row_count == 0)
        return kin_fail(csv->context, KIN_FORMAT,
                        "%s: is empty; the first row must name the columns", csv->name);
    return check_header(csv);
}

/* Takes over `text`, which has `size` bytes and room for one more. */
static kin_status parse(kin_context *context, const char *name, char *text, size_t size,
                        kin_csv **out_csv) {
    kin_csv *csv = kin_calloc(context, 1, sizeof *csv);
    if (csv == NULL) {
        kin_free(context, text);
        return KIN_OUT_OF_MEMORY;
    }
    csv->context = context;
    csv->text = text;
    csv->name = kin_strdup(context, name);
    kin_status status = csv->name == NULL ? KIN_OUT_OF_MEMORY : read_rows(csv, size);
    if (status != KIN_OK) {
        kin_csv_close(csv);
        return status;
    }
    *out_csv = csv;
    return KIN_OK;
}

kin_status kin_csv_open(kin_context *context, const char *path, kin_csv **out_csv) {
    char *text = NULL;
    size_t size = 0;
    *out_csv = NULL;
    kin_status status = kin_file_read_all(context, path, FILE_LIMIT, &text, &size);
    return status == KIN_OK ? parse(context, path, text, size, out_csv) : status;
}

kin_status kin_csv_parse(kin_context *context, const char *name, const char *text, size_t size,
                         kin_csv **out_csv) {
    *out_csv = NULL;
    if (size > FILE_LIMIT)
        return kin_fail(context, KIN_FORMAT, "%s: is too large for a table", name);
    char *copy = kin_alloc(context, size + 1);
    if (copy == NULL) return kin_fail_in(context, KIN_OUT_OF_MEMORY, "%s", name);
    if (size > 0) memcpy(copy, text, size);
    copy[size] = '\0';
    return parse(context, name, copy, size, out_csv);
}

void kin_csv_close(kin_csv *csv) {
    if (csv == NULL) return;
    kin_context *context = csv->context;
    kin_free(context, csv->name);
    kin_free(context, csv->text);
    kin_free(context, csv->cells);
    kin_free(context, csv->lines);
    kin_free(context, csv);
}

size_t kin_csv_row_count(const kin_csv *csv) {
    return csv->row_count - 1;
}

size_t kin_csv_column_count(const kin_csv *csv) {
    return csv->column_count;
}

const char *kin_csv_column_name(const kin_csv *csv, size_t column) {
    return column < csv->column_count ? csv->cells[column] : NULL;
}

kin_status kin_csv_find_column(const kin_csv *csv, const char *name, size_t *out_column) {
    for (size_t i = 0; i < csv->column_count; i++) {
        if (strcmp(csv->cells[i], name) != 0) continue;
        *out_column = i;
        return KIN_OK;
    }
    const char *nearest = kin_nearest_name(name, csv->cells, csv->column_count);
    if (nearest != NULL)
        return kin_fail(csv->context, KIN_NOT_FOUND,
                        "%s: there is no column '%s'; did you mean '%s'?", csv->name, name,
                        nearest);
    return kin_fail(csv->context, KIN_NOT_FOUND, "%s: there is no column '%s'", csv->name, name);
}

const char *kin_csv_cell(const kin_csv *csv, size_t row, size_t column) {
    if (row >= kin_csv_row_count(csv) || column >= csv->column_count) return NULL;
    return csv->cells[(row + 1) * csv->column_count + column];
}

size_t kin_csv_line(const kin_csv *csv, size_t row) {
    return row < kin_csv_row_count(csv) ? csv->lines[row + 1] : 0;
}

/* A cell's length as it is written; `target` may be NULL to measure. */
static size_t write_cell(const char *cell, bool is_alone, char *target) {
    /* A byte order mark at the very beginning would be taken away by a reader. */
    bool is_quoted = strpbrk(cell, ",\"\r\n") != NULL || (is_alone && cell[0] == '\0') ||
                     strncmp(cell, "\xEF\xBB\xBF", 3) == 0;
    size_t length = 0;
    if (is_quoted) {
        if (target != NULL) target[length] = '"';
        length++;
    }
    for (const char *letter = cell; *letter != '\0'; letter++) {
        if (*letter == '"') {
            if (target != NULL) target[length] = '"';
            length++;
        }
        if (target != NULL) target[length] = *letter;
        length++;
    }
    if (is_quoted) {
        if (target != NULL) target[length] = '"';
        length++;
    }
    return length;
}

char *kin_csv_format_row(kin_context *context, const char *const *cells, size_t count) {
    size_t size = count + 2;
    /* A row of one empty cell is quoted: an empty line would be skipped. */
    for (size_t i = 0; i < count; i++) size += write_cell(cells[i], count == 1, NULL);
    char *row = kin_alloc(context, size);
    if (row == NULL) return NULL;
    size_t at = 0;
    for (size_t i = 0; i < count; i++) {
        if (i > 0) row[at++] = ',';
        at += write_cell(cells[i], count == 1, row + at);
    }
    row[at++] = '\n';
    row[at] = '\0';
    return row;
}
