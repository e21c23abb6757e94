/* Fuzzing the CSV reader: what it accepts is written out and read again, and must be the same. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/csv.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const char *cell_at(const kin_csv *csv, size_t row, size_t column) {
    return row == 0 ? kin_csv_column_name(csv, column) : kin_csv_cell(csv, row - 1, column);
}

/* The whole table as text, from malloc. */
static char *write_table(kin_context *context, const kin_csv *csv) {
    size_t columns = kin_csv_column_count(csv);
    const char **cells = malloc(columns * sizeof *cells);
    char *text = calloc(1, 1);
    size_t length = 0;
    for (size_t row = 0; row <= kin_csv_row_count(csv); row++) {
        for (size_t i = 0; i < columns; i++) cells[i] = cell_at(csv, row, i);
        char *line = kin_csv_format_row(context, cells, columns);
        size_t added = strlen(line);
        text = realloc(text, length + added + 1);
        memcpy(text + length, line, added + 1);
        length += added;
        kin_free(context, line);
    }
    free(cells);
    return text;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    kin_context *context = NULL;
    kin_csv *csv = NULL;
    kin_csv *again = NULL;
    if (kin_context_create(NULL, &context) != KIN_OK) abort();
    if (kin_csv_parse(context, "fuzz", (const char *)data, size, &csv) == KIN_OK) {
        char *text = write_table(context, csv);
        if (kin_csv_parse(context, "again", text, strlen(text), &again) != KIN_OK) abort();
        if (kin_csv_row_count(again) != kin_csv_row_count(csv)) abort();
        for (size_t row = 0; row <= kin_csv_row_count(csv); row++)
            for (size_t i = 0; i < kin_csv_column_count(csv); i++)
                if (strcmp(cell_at(csv, row, i), cell_at(again, row, i)) != 0) abort();
        free(text);
    } else if (kin_context_error(context)[0] == '\0') {
        abort();
    }
    kin_csv_close(again);
    kin_csv_close(csv);
    kin_context_destroy(context);
    return 0;
}
