/* Comma-separated values as RFC 4180 says: quotes, commas and line breaks within quotes, CRLF or
 * LF, an optional byte order mark. The first row names the columns; empty lines are skipped. */
#ifndef KIN_RUNTIME_CSV_H
#define KIN_RUNTIME_CSV_H

#include "runtime/context.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct kin_csv kin_csv;

/* Reads a file of UTF-8 into memory. KIN_FORMAT, with the line, for a quote in the wrong place, a
 * quote that is not closed, a row of the wrong length, or a column name that comes twice. */
KIN_API kin_status kin_csv_open(kin_context *context, const char *path, kin_csv **out_csv);
/* The same from memory, which is copied; `name` stands for the file in messages. */
KIN_API kin_status kin_csv_parse(kin_context *context, const char *name, const char *text,
                                 size_t size, kin_csv **out_csv);
KIN_API void kin_csv_close(kin_csv *csv);

KIN_API size_t kin_csv_row_count(const kin_csv *csv); /* without the header */
KIN_API size_t kin_csv_column_count(const kin_csv *csv);
/* Name of a column, NULL if there are fewer. */
KIN_API const char *kin_csv_column_name(const kin_csv *csv, size_t column);
/* Index of the column of that name. KIN_NOT_FOUND, with the nearest name, if there is none. */
KIN_API kin_status kin_csv_find_column(const kin_csv *csv, const char *name, size_t *out_column);
/* Text of a cell, NULL outside the table. It belongs to the csv. */
KIN_API const char *kin_csv_cell(const kin_csv *csv, size_t row, size_t column);
/* The line, from 1, on which a row begins: for messages. 0 outside the table. */
KIN_API size_t kin_csv_line(const kin_csv *csv, size_t row);

/* One row with its "\n" in fresh memory (kin_free); cells are quoted where they must be. */
KIN_API char *kin_csv_format_row(kin_context *context, const char *const *cells, size_t count);

#ifdef __cplusplus
}
#endif
#endif
