/* The zip form of torch.save: the archive's records, checked and found in the mapped file. The
 * layout is that of PKWARE's APPNOTE.TXT, sections 4.3 and 4.5. minizip, which writes these files
 * here, is not asked: as Debian 12 has it, it reads the directory's 64-bit fields only where an
 * unsigned long has 32 bits, and files above 4 GiB have them. */
#define _POSIX_C_SOURCE 200809L

#include "runtime/pickle_internal.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    NAME_LIMIT = 512,
    RECORD_LIMIT = 10000000,
    LOCAL_HEADER = 0x04034b50,
    CENTRAL_HEADER = 0x02014b50,
    END = 0x06054b50,
    END_64 = 0x06064b50,
    LOCATOR_64 = 0x07064b50,
    LOCAL_SIZE = 30,
    CENTRAL_SIZE = 46,
    END_SIZE = 22,
    END_64_SIZE = 56,
    LOCATOR_SIZE = 20,
    COMMENT_LIMIT = 65535,
    EXTRA_64 = 1,
    ENCRYPTED = 1,
    SIZES_FOLLOW = 8 /* flags: the local header does not know them */
};

static const uint64_t limit_32 = 0xFFFFFFFFu; /* the number is in a 64-bit field */

/* The list of records: from `begin` to `end` in the file. */
typedef struct directory {
    uint64_t begin, end, count;
} directory;

/* One entry of the list. */
typedef struct zip_entry {
    const unsigned char *name;
    size_t name_size;
    unsigned flags, method;
    uint64_t packed_size, size, offset; /* offset: of its header in the file */
} zip_entry;

static uint64_t number(const unsigned char *at, int size) {
    uint64_t value = 0;
    for (int i = 0; i < size; i++) value |= (uint64_t)at[i] << (8 * i);
    return value;
}

static kin_status fail_zip(const kin_pickle *file, const char *what) {
    return kin_fail(file->context, KIN_FORMAT,
                    "%s: %s; is the file damaged or not downloaded in full?", file->path, what);
}

static kin_status fail_record(const kin_pickle *file, kin_status status, const char *name,
                              const char *what) {
    char shown[80];
    return kin_fail(file->context, status, "%s: record '%s': %s", file->path,
                    kin_pickle_printable(name, strlen(name), shown, sizeof shown), what);
}

/* ---- the directory ---- */

/* The record that closes the archive: 22 bytes and a comment, up to the end of the file. The last
 * one counts. NULL if there is none. */
static const unsigned char *find_end(const kin_mapping *mapping) {
    if (mapping->size < END_SIZE) return NULL;
    size_t last = mapping->size - END_SIZE;
    size_t first = last > COMMENT_LIMIT ? last - COMMENT_LIMIT : 0;
    for (size_t i = last + 1; i-- > first;) {
        const unsigned char *at = mapping->data + i;
        if (number(at, 4) == END) return number(at + 20, 2) == last - i ? at : NULL;
    }
    return NULL;
}

/* The 64-bit form of the closing record, which a locator before the short one leads to; NULL if
 * there is none. */
static const unsigned char *find_end_64(const kin_mapping *mapping, const unsigned char *end) {
    size_t at = (size_t)(end - mapping->data);
    if (at < LOCATOR_SIZE + END_64_SIZE || number(end - LOCATOR_SIZE, 4) != LOCATOR_64) return NULL;
    uint64_t place = number(end - LOCATOR_SIZE + 8, 8);
    if (place > at - LOCATOR_SIZE - END_64_SIZE) return NULL;
    return number(mapping->data + place, 4) == END_64 ? mapping->data + place : NULL;
}

static bool read_end(const kin_mapping *mapping, directory *out) {
    const unsigned char *end = find_end(mapping);
    if (end == NULL) return false;
    uint64_t size = number(end + 12, 4);
    *out = (directory){.count = number(end + 10, 2), .begin = number(end + 16, 4)};
    if (out->count == 0xFFFF || size == limit_32 || out->begin == limit_32) {
        end = find_end_64(mapping, end);
        if (end == NULL) return false;
        out->count = number(end + 32, 8);
        size = number(end + 40, 8);
        out->begin = number(end + 48, 8);
    }
    uint64_t limit = (uint64_t)(end - mapping->data);
    if (out->begin > limit || size > limit - out->begin) return false;
    out->end = out->begin + size;
    return true;
}

/* Replaces what did not fit into 32 bits by the entry's 64-bit field, which has these numbers in
 * this order and no others. */
static bool read_wide(const unsigned char *extra, size_t size, zip_entry *entry) {
    uint64_t *const numbers[] = {&entry->size, &entry->packed_size, &entry->offset};
    bool wide = false;
    for (int i = 0; i < 3; i++) wide = wide || *numbers[i] == limit_32;
    while (wide && size >= 4) {
        size_t field = (size_t)number(extra + 2, 2);
        if (field > size - 4) return false;
        if (number(extra, 2) == EXTRA_64) {
            const unsigned char *at = extra + 4, *field_end = at + field;
            for (int i = 0; i < 3; i++) {
                if (*numbers[i] != limit_32) continue;
                if (field_end - at < 8) return false;
                *numbers[i] = number(at, 8);
                at += 8;
            }
            return true;
        }
        extra += 4 + field;
        size -= 4 + field;
    }
    return !wide;
}

/* Reads the entry at *at and moves on to the next; false if it is damaged. */
static bool read_entry(const kin_mapping *mapping, uint64_t end, uint64_t *at, zip_entry *out) {
    const unsigned char *head = mapping->data + *at;
    uint64_t left = end - *at;
    if (left < CENTRAL_SIZE || number(head, 4) != CENTRAL_HEADER) return false;
    size_t name = (size_t)number(head + 28, 2), extra = (size_t)number(head + 30, 2);
    uint64_t all = CENTRAL_SIZE + name + extra + number(head + 32, 2);
    if (all > left) return false;
    *out = (zip_entry){.name = head + CENTRAL_SIZE,
                       .name_size = name,
                       .flags = (unsigned)number(head + 8, 2),
                       .method = (unsigned)number(head + 10, 2),
                       .packed_size = number(head + 20, 4),
                       .size = number(head + 24, 4),
                       .offset = number(head + 42, 4)};
    *at += all;
    return read_wide(head + CENTRAL_SIZE + name, extra, out);
}

/* ---- records ---- */

/* Where the record's bytes begin: behind its own header, which must agree with the directory; 0 if
 * it does not. */
static uint64_t find_data(const kin_mapping *mapping, const zip_entry *entry) {
    if (entry->offset > mapping->size || mapping->size - entry->offset < LOCAL_SIZE) return 0;
    const unsigned char *head = mapping->data + entry->offset;
    uint64_t left = mapping->size - entry->offset - LOCAL_SIZE;
    size_t name = (size_t)number(head + 26, 2), extra = (size_t)number(head + 28, 2);
    if (number(head, 4) != LOCAL_HEADER || number(head + 8, 2) != entry->method ||
        name != entry->name_size || name + extra > left ||
        memcmp(head + LOCAL_SIZE, entry->name, name) != 0)
        return 0;
    if ((number(head + 6, 2) & SIZES_FOLLOW) == 0) {
        uint64_t packed = number(head + 18, 4), size = number(head + 22, 4);
        if ((packed != limit_32 && packed != entry->packed_size) ||
            (size != limit_32 && size != entry->size))
            return 0;
    }
    return entry->offset + LOCAL_SIZE + name + extra;
}

static kin_status read_record(kin_pickle *file, const zip_entry *entry, pickle_record *out_record) {
    char name[NAME_LIMIT];
    if (entry->name_size >= sizeof name)
        return fail_zip(file, "the zip directory has a name that is too long");
    if (memchr(entry->name, 0, entry->name_size) != NULL)
        return fail_zip(file, "the zip directory has a name with a NUL");
    memcpy(name, entry->name, entry->name_size);
    name[entry->name_size] = '\0';
    if (entry->flags & ENCRYPTED)
        return fail_record(file, KIN_UNSUPPORTED, name, "it is encrypted");
    out_record->name = kin_pickle_text(file, name, entry->name_size);
    if (out_record->name == NULL) return KIN_OUT_OF_MEMORY;
    /* An error only if it is needed: TorchScript compresses its program. */
    if (entry->method != 0) return KIN_OK;
    if (entry->packed_size != entry->size)
        return fail_record(file, KIN_FORMAT, name, "its two sizes differ");
    uint64_t offset = find_data(&file->mapping, entry);
    if (offset == 0) return fail_record(file, KIN_FORMAT, name, "its header is damaged");
    if (entry->size > file->mapping.size - offset)
        return fail_record(file, KIN_FORMAT, name, "it lies beyond the end of the file");
    out_record->data = file->mapping.data + offset;
    out_record->size = (size_t)entry->size;
    return KIN_OK;
}

static int compare_places(const void *a, const void *b) {
    const pickle_record *x = a;
    const pickle_record *y = b;
    if (x->data != y->data) return x->data < y->data ? -1 : 1;
    return x->size < y->size ? -1 : x->size > y->size;
}

static int compare_names(const void *a, const void *b) {
    const pickle_record *x = a;
    const pickle_record *y = b;
    return strcmp(x->name, y->name);
}

static kin_status read_directory(kin_pickle *file, const directory *list) {
    /* An entry takes at least its header. */
    if (list->count > (list->end - list->begin) / CENTRAL_SIZE || list->count > RECORD_LIMIT)
        return fail_zip(file, "the zip directory promises more entries than fit");
    size_t count = (size_t)list->count;
    uint64_t at = list->begin;
    if (count == 0) return fail_zip(file, "the zip archive is empty");
    file->records = kin_pickle_alloc(file, count * sizeof *file->records);
    if (file->records == NULL) return KIN_OUT_OF_MEMORY;
    for (size_t i = 0; i < count; i++) {
        zip_entry entry;
        if (!read_entry(&file->mapping, list->end, &at, &entry))
            return fail_zip(file, "the zip directory is damaged");
        kin_status status = read_record(file, &entry, &file->records[i]);
        if (status != KIN_OK) return status;
    }
    file->record_count = count;
    /* Overlapping records could make a small file unfold into a huge one. */
    qsort(file->records, count, sizeof *file->records, compare_places);
    for (size_t i = 1; i < count; i++)
        if (file->records[i - 1].data != NULL &&
            file->records[i - 1].data + file->records[i - 1].size > file->records[i].data)
            return fail_record(file, KIN_FORMAT, file->records[i].name, "it overlaps another");
    return KIN_OK;
}

/* Finds the folder that holds data.pkl; its length counts the slash. */
static kin_status find_root(kin_pickle *file, size_t *out_length) {
    const char *root = NULL;
    for (size_t i = 0; i < file->record_count; i++) {
        const char *name = file->records[i].name;
        const char *slash = strchr(name, '/');
        if (slash == NULL || strcmp(slash + 1, "data.pkl") != 0) continue;
        if (root != NULL)
            return kin_fail(file->context, KIN_FORMAT, "%s: the archive holds two data.pkl",
                            file->path);
        root = name;
        *out_length = (size_t)(slash - name) + 1;
    }
    if (root == NULL)
        return kin_fail(file->context, KIN_FORMAT,
                        "%s: a zip archive, but none of torch.save: it holds no data.pkl",
                        file->path);
    size_t kept = 0;
    for (size_t i = 0; i < file->record_count; i++) {
        if (strncmp(file->records[i].name, root, *out_length) != 0) continue;
        pickle_record record = file->records[i];
        record.name += *out_length;
        file->records[kept++] = record;
    }
    file->record_count = kept;
    return KIN_OK;
}

static kin_status check_format(kin_pickle *file) {
    const pickle_record *order = kin_pickle_find_record(file, "byteorder");
    if (order != NULL &&
        (order->data == NULL || order->size != 6 || memcmp(order->data, "little", 6) != 0))
        return kin_fail(file->context, KIN_UNSUPPORTED,
                        "%s: saved on a big-endian machine; save it again on another", file->path);
    for (size_t i = 0; i < file->record_count; i++)
        if (strcmp(file->records[i].name, "constants.pkl") == 0 ||
            strncmp(file->records[i].name, "code/", 5) == 0)
            return kin_fail(file->context, KIN_FORMAT,
                            "%s: a TorchScript program (torch.jit.save), not a checkpoint; save "
                            "the state dict with torch.save",
                            file->path);
    return KIN_OK;
}

kin_status kin_pickle_get_record(const kin_pickle *file, const char *name,
                                 const pickle_record **out_record) {
    *out_record = kin_pickle_find_record(file, name);
    if (*out_record == NULL)
        return kin_fail(file->context, KIN_FORMAT, "%s: the archive has no record '%s'", file->path,
                        name);
    if ((*out_record)->data == NULL)
        return fail_record(file, KIN_UNSUPPORTED, name,
                           "it is compressed, which torch.save never does; unpack the archive and "
                           "zip it again without compression (zip -0)");
    return KIN_OK;
}

static kin_status read_archive(kin_pickle *file, const directory *list,
                               const pickle_record **out_pickle) {
    size_t root_length = 0;
    kin_status status = read_directory(file, list);
    if (status == KIN_OK) status = find_root(file, &root_length);
    if (status != KIN_OK) return status;
    qsort(file->records, file->record_count, sizeof *file->records, compare_names);
    for (size_t i = 1; i < file->record_count; i++)
        if (strcmp(file->records[i - 1].name, file->records[i].name) == 0)
            return fail_record(file, KIN_FORMAT, file->records[i].name,
                               "the archive holds it twice");
    status = check_format(file);
    return status == KIN_OK ? kin_pickle_get_record(file, "data.pkl", out_pickle) : status;
}

kin_status kin_pickle_read_zip(kin_pickle *file, const pickle_record **out_pickle) {
    directory list;
    *out_pickle = NULL;
    if (!read_end(&file->mapping, &list))
        return fail_zip(file, "the zip directory at its end cannot be read");
    return read_archive(file, &list, out_pickle);
}

const pickle_record *kin_pickle_find_record(const kin_pickle *file, const char *name) {
    pickle_record wanted = {.name = name};
    if (file->record_count == 0) return NULL;
    return bsearch(&wanted, file->records, file->record_count, sizeof wanted, compare_names);
}
