/* Context: allocator, log callback and the last error's message. */
#define _DEFAULT_SOURCE /* MAP_ANONYMOUS */

#include "runtime/context.h"

#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#if defined(__SANITIZE_ADDRESS__)
#define WATCHED_BY_SANITIZER 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define WATCHED_BY_SANITIZER 1
#endif
#endif

enum {
    /* A message lives in the context, so that reporting "out of memory" needs no memory. */
    MESSAGE_SIZE = 2048,
    LOG_LINE_SIZE = 2048,
    NAME_LENGTH_LIMIT = 128, /* longer names are compared by their beginning */
    THREAD_LIMIT = 4096,
    MAPPED_SIZE = 1 << 20 /* blocks of this size and more have a mapping of their own */
};

struct kin_context {
    kin_allocator allocator;
    kin_log_fn log;
    void *log_user;
    int threads;
    char message[MESSAGE_SIZE];
    size_t settings_size;
    char settings[]; /* lines, each ended by NUL */
};

/* In front of each block of the default allocator. */
typedef struct block_head {
    _Alignas(max_align_t) size_t size; /* with the head */
    bool mapped;
} block_head;

/* Large blocks are mapped, so that what is freed goes back to the system at once. A C library that
 * has seen large blocks freed takes the next ones from its heap, where one small block on top keeps
 * gigabytes resident: weights of one stage beside those of the next. AddressSanitizer watches
 * malloc only, so it gets all. */
static bool is_large(size_t size) {
#ifdef WATCHED_BY_SANITIZER
    (void)size;
    return false;
#else
    return size >= MAPPED_SIZE;
#endif
}

static void *make_block(size_t size) {
    block_head *head;
    bool mapped = is_large(size);
    if (size > SIZE_MAX - sizeof *head) return NULL;
    size += sizeof *head;
    if (mapped) {
        head = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (head == MAP_FAILED) return NULL;
    } else {
        head = malloc(size);
        if (head == NULL) return NULL;
    }
    head->size = size;
    head->mapped = mapped;
    return head + 1;
}

static void free_block(block_head *head) {
    if (head->mapped) munmap(head, head->size);
    else free(head);
}

static void *resize_block(void *user, void *ptr, size_t size) {
    (void)user;
    block_head *head = ptr != NULL ? (block_head *)ptr - 1 : NULL;
    if (size == 0) {
        if (head != NULL) free_block(head);
        return NULL;
    }
    if (head == NULL) return make_block(size);
    if (!head->mapped && !is_large(size)) {
        if (size > SIZE_MAX - sizeof *head) return NULL;
        head = realloc(head, sizeof *head + size);
        if (head == NULL) return NULL;
        head->size = sizeof *head + size;
        return head + 1;
    }
    void *made = make_block(size);
    size_t old = head->size - sizeof *head;
    if (made == NULL) return NULL;
    memcpy(made, ptr, old < size ? old : size);
    free_block(head);
    return made;
}

static int count_processors(void) {
    long count = sysconf(_SC_NPROCESSORS_ONLN);
    if (count < 1) return 1;
    return count > THREAD_LIMIT ? THREAD_LIMIT : (int)count;
}

kin_status kin_context_create(const kin_context_options *options, kin_context **out_context) {
    if (out_context == NULL) return KIN_INVALID;
    *out_context = NULL;
    kin_context_options given = {0};
    if (options != NULL) {
        /* A caller built against an older header passes a shorter struct: the rest stays 0. A
         * longer one may ask for things that are unknown here, so it is refused. */
        if (options->struct_size < sizeof options->struct_size ||
            options->struct_size > sizeof given)
            return KIN_INVALID;
        memcpy(&given, options, options->struct_size);
    }
    if (given.threads < 0 || given.threads > THREAD_LIMIT) return KIN_INVALID;
    if (given.allocator.resize == NULL) {
        given.allocator.resize = resize_block;
        given.allocator.user = NULL;
    }
    size_t settings = given.settings != NULL ? strlen(given.settings) + 1 : 0;
    kin_context *context =
        given.allocator.resize(given.allocator.user, NULL, sizeof *context + settings);
    if (context == NULL) return KIN_OUT_OF_MEMORY;
    context->settings_size = settings;
    for (size_t i = 0; i < settings; i++)
        context->settings[i] = given.settings[i] != '\n' ? given.settings[i] : '\0';
    context->allocator = given.allocator;
    context->log = given.log;
    context->log_user = given.log_user;
    context->threads = given.threads > 0 ? given.threads : count_processors();
    context->message[0] = '\0';
    *out_context = context;
    return KIN_OK;
}

void kin_context_destroy(kin_context *context) {
    if (context == NULL) return;
    kin_allocator allocator = context->allocator;
    allocator.resize(allocator.user, context, 0);
}

const char *kin_context_error(const kin_context *context) {
    return context == NULL ? "" : context->message;
}

int kin_context_threads(const kin_context *context) {
    return context == NULL ? 1 : context->threads;
}

const char *kin_context_setting(const kin_context *context, const char *name) {
    size_t length = strlen(name);
    if (context == NULL) return NULL;
    for (size_t at = 0; at < context->settings_size;) {
        const char *line = context->settings + at;
        if (strncmp(line, name, length) == 0 && line[length] == '=') return line + length + 1;
        at += strlen(line) + 1;
    }
    return NULL;
}

const char *kin_status_text(kin_status status) {
    switch (status) {
    case KIN_OK:
        return "ok";
    case KIN_INVALID:
        return "invalid argument";
    case KIN_OUT_OF_MEMORY:
        return "out of memory";
    case KIN_IO:
        return "input/output error";
    case KIN_FORMAT:
        return "bad format";
    case KIN_NOT_FOUND:
        return "not found";
    case KIN_UNSUPPORTED:
        return "not supported";
    case KIN_DEVICE:
        return "device error";
    case KIN_NUMERIC:
        return "numeric error";
    case KIN_CANCELLED:
        return "cancelled";
    }
    return "unknown status";
}

const char *kin_version(void) {
    return "0.1.0";
}

/* A message that was cut ends in "..."; no half of a UTF-8 character is left before it. */
static void mark_cut(char *text, size_t size) {
    size_t end = size - 4;
    while (end > 0 && ((unsigned char)text[end] & 0xC0u) == 0x80u) end--;
    memcpy(text + end, "...", 4);
}

static void format_text(char *text, size_t size, const char *format, va_list arguments) {
    int length = vsnprintf(text, size, format, arguments);
    if (length < 0) snprintf(text, size, "(the message could not be formatted)");
    else if ((size_t)length >= size) mark_cut(text, size);
}

kin_status kin_fail(kin_context *context, kin_status status, const char *format, ...) {
    if (context == NULL) return status;
    /* The arguments may point into the old message, hence the second buffer. */
    char text[MESSAGE_SIZE];
    va_list arguments;
    va_start(arguments, format);
    format_text(text, sizeof text, format, arguments);
    va_end(arguments);
    memcpy(context->message, text, strlen(text) + 1);
    return status;
}

kin_status kin_fail_in(kin_context *context, kin_status status, const char *format, ...) {
    if (context == NULL) return status;
    char text[MESSAGE_SIZE];
    va_list arguments;
    va_start(arguments, format);
    format_text(text, sizeof text, format, arguments);
    va_end(arguments);
    size_t length = strlen(text);
    int rest = snprintf(text + length, sizeof text - length, ": %s", context->message);
    if (rest < 0 || (size_t)rest >= sizeof text - length) mark_cut(text, sizeof text);
    memcpy(context->message, text, strlen(text) + 1);
    return status;
}

void kin_log(kin_context *context, kin_log_level level, const char *format, ...) {
    if (context == NULL || context->log == NULL) return;
    char text[LOG_LINE_SIZE];
    va_list arguments;
    va_start(arguments, format);
    format_text(text, sizeof text, format, arguments);
    va_end(arguments);
    context->log(context->log_user, level, text);
}

static void *resize_or_fail(kin_context *context, void *ptr, size_t size) {
    void *result = context->allocator.resize(context->allocator.user, ptr, size);
    if (result == NULL)
        (void)kin_fail(context, KIN_OUT_OF_MEMORY, "out of memory: %zu bytes were asked for", size);
    return result;
}

void *kin_alloc(kin_context *context, size_t size) {
    return context == NULL ? NULL : resize_or_fail(context, NULL, size > 0 ? size : 1);
}

void *kin_calloc(kin_context *context, size_t count, size_t size) {
    if (size > 0 && count > SIZE_MAX / size) {
        (void)kin_fail(context, KIN_OUT_OF_MEMORY,
                       "out of memory: %zu elements of %zu bytes were asked for", count, size);
        return NULL;
    }
    void *result = kin_alloc(context, count * size);
    if (result != NULL) memset(result, 0, count * size);
    return result;
}

void *kin_realloc(kin_context *context, void *ptr, size_t size) {
    return context == NULL ? NULL : resize_or_fail(context, ptr, size > 0 ? size : 1);
}

void kin_free(kin_context *context, void *ptr) {
    if (context == NULL || ptr == NULL) return;
    context->allocator.resize(context->allocator.user, ptr, 0);
}

char *kin_strndup(kin_context *context, const char *text, size_t length) {
    size_t used = strnlen(text, length);
    char *copy = kin_alloc(context, used + 1);
    if (copy == NULL) return NULL;
    memcpy(copy, text, used);
    copy[used] = '\0';
    return copy;
}

char *kin_strdup(kin_context *context, const char *text) {
    return kin_strndup(context, text, strlen(text));
}

char *kin_format(kin_context *context, const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    int length = vsnprintf(NULL, 0, format, arguments);
    va_end(arguments);
    if (length < 0) {
        (void)kin_fail(context, KIN_INVALID, "a text could not be formatted");
        return NULL;
    }
    char *text = kin_alloc(context, (size_t)length + 1);
    if (text == NULL) return NULL;
    va_start(arguments, format);
    vsnprintf(text, (size_t)length + 1, format, arguments);
    va_end(arguments);
    return text;
}

/* Case, and '-' against '_', do not count as differences. */
static int fold(char letter) {
    if (letter == '-') return '_';
    if (letter >= 'A' && letter <= 'Z') return letter - 'A' + 'a';
    return (unsigned char)letter;
}

/* Levenshtein distance of the first NAME_LENGTH_LIMIT bytes, by one row of the table. */
static size_t edit_distance(const char *a, size_t a_length, const char *b, size_t b_length) {
    size_t row[NAME_LENGTH_LIMIT + 1];
    for (size_t j = 0; j <= b_length; j++) row[j] = j;
    for (size_t i = 0; i < a_length; i++) {
        size_t diagonal = row[0];
        row[0] = i + 1;
        for (size_t j = 0; j < b_length; j++) {
            size_t replaced = diagonal + (fold(a[i]) != fold(b[j]) ? 1 : 0);
            size_t shorter = (row[j] < row[j + 1] ? row[j] : row[j + 1]) + 1;
            diagonal = row[j + 1];
            row[j + 1] = replaced < shorter ? replaced : shorter;
        }
    }
    return row[b_length];
}

const char *kin_nearest_name(const char *name, const char *const *names, size_t count) {
    if (name == NULL || names == NULL) return NULL;
    size_t length = strnlen(name, NAME_LENGTH_LIMIT);
    /* A third of the letters may differ, two always may unless the name is tiny. */
    size_t limit = length / 3 > 2 ? length / 3 : 2;
    if (limit >= length) limit = length > 0 ? length - 1 : 0;
    const char *nearest = NULL;
    size_t least = limit + 1;
    for (size_t i = 0; i < count; i++) {
        if (names[i] == NULL) continue;
        size_t distance =
            edit_distance(name, length, names[i], strnlen(names[i], NAME_LENGTH_LIMIT));
        if (distance < least) {
            least = distance;
            nearest = names[i];
        }
    }
    return nearest;
}
