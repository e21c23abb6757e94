#include "tools/data/dataset_annotations.h"

#include <stdio.h>
#include <string.h>

#include "runtime/file.h"
#include "runtime/json.h"

enum { COLUMNS = 6, NUMBER = 32, MAX_LIST = 1 << 24 };

/* The table's text, as it grows. */
typedef struct table {
    kin_context *context;
    char *text;
    size_t size, room;
} table;

static kin_status add_row(table *t, const char *const cells[COLUMNS]) {
    char *row = kin_csv_format_row(t->context, cells, COLUMNS);
    if (!row) return KIN_OUT_OF_MEMORY;
    size_t length = strlen(row);
    kin_status status = KIN_OK;
    if (t->size + length + 1 > t->room) {
        size_t room = 2 * (t->size + length) + 1024;
        char *larger = kin_realloc(t->context, t->text, room);
        if (!larger) status = KIN_OUT_OF_MEMORY;
        else t->text = larger, t->room = room;
    }
    if (status == KIN_OK) {
        memcpy(t->text + t->size, row, length + 1);
        t->size += length;
    }
    kin_free(t->context, row);
    return status;
}

static kin_status add_entry(table *t, const char *where, size_t index, const char *folder,
                            const json_t *entry) {
    const json_t *cap = json_object_get(entry, "cap");
    const json_t *size = json_object_get(entry, "resolution");
    if (json_is_array(cap)) cap = json_array_get(cap, 0);
    const char *path = json_string_value(json_object_get(entry, "path"));
    const char *text = json_string_value(cap);
    if (!path || !text)
        return kin_fail(t->context, KIN_FORMAT, "%s: entry %zu has no \"path\" or no \"cap\"",
                        where, index + 1);
    double fps = json_number_value(json_object_get(entry, "fps"));
    double duration = json_number_value(json_object_get(entry, "duration"));
    double frames = fps > 0 && duration > 0 ? fps * duration : 1; /* an image */
    if (!(frames >= 0 && frames < 1e9)) frames = 0;
    char numbers[4][NUMBER], *whole = path[0] == '/' ? kin_strdup(t->context, path)
                                                     : kin_path_join(t->context, folder, path);
    if (!whole) return KIN_OUT_OF_MEMORY;
    snprintf(numbers[0], NUMBER, "%lld", (long long)frames);
    snprintf(numbers[1], NUMBER, "%lld",
             (long long)json_integer_value(json_object_get(size, "height")));
    snprintf(numbers[2], NUMBER, "%lld",
             (long long)json_integer_value(json_object_get(size, "width")));
    snprintf(numbers[3], NUMBER, "%.6g", fps);
    kin_status status = add_row(t, (const char *const[COLUMNS]){whole, text, numbers[0], numbers[1],
                                                                numbers[2], numbers[3]});
    kin_free(t->context, whole);
    return status;
}

static kin_status add_annotation(table *t, const char *path, const char *folder) {
    json_t *list = NULL;
    size_t index;
    json_t *entry;
    char *own = folder ? kin_strdup(t->context, folder) : kin_path_folder(t->context, path);
    kin_status status = own ? kin_json_load(t->context, path, &list) : KIN_OUT_OF_MEMORY;
    if (status == KIN_OK && !json_is_array(list))
        status = kin_fail(t->context, KIN_FORMAT, "%s: an annotation is a list", path);
    json_array_foreach(list, index, entry) {
        if (status == KIN_OK) status = add_entry(t, path, index, own, entry);
    }
    json_decref(list);
    kin_free(t->context, own);
    return status;
}

/* Lines "FOLDER,ANNOTATION.json"; relative paths begin where the list lies. */
static kin_status add_list(table *t, const char *path) {
    char *text = NULL, *base = kin_path_folder(t->context, path);
    kin_status status =
        base ? kin_file_read_all(t->context, path, MAX_LIST, &text, NULL) : KIN_OUT_OF_MEMORY;
    for (char *line = text, *next; status == KIN_OK && line && *line; line = next) {
        next = line + strcspn(line, "\r\n");
        if (*next) *next++ = 0;
        if (!*line) continue;
        char *comma = strchr(line, ',');
        if (!comma) {
            status = kin_fail(t->context, KIN_FORMAT,
                              "%s: \"%s\" is no line \"FOLDER,ANNOTATION.json\"", path, line);
            break;
        }
        *comma = 0;
        const char *parts[2] = {line, comma + 1};
        char *whole[2];
        for (int i = 0; i < 2; i++)
            whole[i] = parts[i][0] == '/' ? kin_strdup(t->context, parts[i])
                                          : kin_path_join(t->context, base, parts[i]);
        status = whole[0] && whole[1] ? add_annotation(t, whole[1], whole[0]) : KIN_OUT_OF_MEMORY;
        kin_free(t->context, whole[0]);
        kin_free(t->context, whole[1]);
    }
    kin_free(t->context, text);
    kin_free(t->context, base);
    return status;
}

kin_status kin_annotations_open(kin_context *context, const char *path, const char *folder,
                                kin_csv **out_csv) {
    static const char *const header[COLUMNS] = {"path",   "text",  "num_frames",
                                                "height", "width", "fps"};
    table t = {.context = context};
    *out_csv = NULL;
    kin_status status = add_row(&t, header);
    if (status == KIN_OK)
        status = kin_path_ends_with(path, ".txt") ? add_list(&t, path)
                                                  : add_annotation(&t, path, folder);
    if (status == KIN_OK) status = kin_csv_parse(context, path, t.text, t.size, out_csv);
    kin_free(context, t.text);
    return status;
}
