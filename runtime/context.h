/* Context: the caller's allocator and log callback, and the message of the last error.
 *
 * Every object of Kinora belongs to a context. A context is used by one thread at a time; several
 * contexts may live side by side. The library never prints, exits, aborts or reads the environment.
 */
#ifndef KIN_RUNTIME_CONTEXT_H
#define KIN_RUNTIME_CONTEXT_H

#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#if defined(__GNUC__)
#define KIN_API __attribute__((visibility("default")))
#define KIN_PRINTF(format_index, first_index)                                                      \
    __attribute__((format(printf, format_index, first_index)))
#else
#define KIN_API
#define KIN_PRINTF(format_index, first_index)
#endif

#ifdef __cplusplus
extern "C" {
#endif

typedef enum kin_status {
    KIN_OK = 0,
    KIN_INVALID,       /* an argument, a shape, a flag or a configuration key is wrong */
    KIN_OUT_OF_MEMORY, /* the host's or the device's memory does not suffice */
    KIN_IO,            /* the operating system refused: open, read, write, rename, disk full */
    KIN_FORMAT,        /* a file is truncated, malformed or refused */
    KIN_NOT_FOUND,     /* no such tensor, key, file, device or op */
    KIN_UNSUPPORTED,   /* valid, but this build or this device cannot do it */
    KIN_DEVICE,        /* a device or its driver failed */
    KIN_NUMERIC,       /* NaN or infinity where there must be none, or a check out of tolerance */
    KIN_CANCELLED      /* the caller asked to stop */
} kin_status;

typedef enum kin_log_level {
    KIN_LOG_ERROR,
    KIN_LOG_WARN,
    KIN_LOG_INFO,
    KIN_LOG_DEBUG
} kin_log_level;

/* All host memory goes through `resize`, which is realloc: ptr NULL allocates, size 0 frees and
 * returns NULL. NULL for size > 0 means out of memory; ptr is then untouched. Alignment is that of
 * malloc. Calls may come from several threads at once. */
typedef struct kin_allocator {
    void *(*resize)(void *user, void *ptr, size_t size);
    void *user;
} kin_allocator;

typedef void (*kin_log_fn)(void *user, kin_log_level level, const char *text);

typedef struct kin_context_options {
    size_t struct_size;      /* sizeof(kin_context_options) */
    kin_allocator allocator; /* resize NULL: malloc, and mappings for large blocks */
    kin_log_fn log;          /* NULL: silence */
    void *log_user;
    int threads; /* for CPU work; 0: as many as the machine has processors */
    /* What backends want to know: lines "name=value", the first of a name counts. "cache=FOLDER" is
     * where compiled programs are kept; "opencl.local_memory=4096" and the like are documented with
     * the backend. NULL: none. The text is copied. */
    const char *settings;
} kin_context_options;

typedef struct kin_context kin_context;

/* Makes a context. options may be NULL. On success the caller owns *out_context. */
KIN_API kin_status kin_context_create(const kin_context_options *options,
                                      kin_context **out_context);
/* Frees the context; every object made with it must be gone. NULL is fine. */
KIN_API void kin_context_destroy(kin_context *context);

/* The message of the last failure; "" if none. Valid until the next failure or the end. */
KIN_API const char *kin_context_error(const kin_context *context);
/* The number of threads for CPU work, at least 1. */
KIN_API int kin_context_threads(const kin_context *context);
/* The value of a setting (kin_context_options.settings), or NULL. Valid until the end. */
KIN_API const char *kin_context_setting(const kin_context *context, const char *name);
/* "out of memory", "bad format", ... for a status. */
KIN_API const char *kin_status_text(kin_status status);
/* The library's version, "0.1.0". */
KIN_API const char *kin_version(void);

/* Sets the context's message and returns `status`, so that `return kin_fail(...)` reads well. Say
 * which file, tensor, shape or flag is at fault and what to do. */
KIN_API kin_status kin_fail(kin_context *context, kin_status status, const char *format, ...)
    KIN_PRINTF(3, 4);
/* Puts "prefix: " before the message that is there and returns status. */
KIN_API kin_status kin_fail_in(kin_context *context, kin_status status, const char *format, ...)
    KIN_PRINTF(3, 4);
/* Sends one line, without a newline, to the log callback. */
KIN_API void kin_log(kin_context *context, kin_log_level level, const char *format, ...)
    KIN_PRINTF(3, 4);

/* Memory from the context's allocator. NULL, with the message set, when there is none; a size of 0
 * gives a valid pointer to nothing. kin_free(NULL) is fine. */
KIN_API void *kin_alloc(kin_context *context, size_t size);
KIN_API void *kin_calloc(kin_context *context, size_t count, size_t size); /* zeroed */
KIN_API void *kin_realloc(kin_context *context, void *ptr, size_t size);   /* ptr kept on failure */
KIN_API void kin_free(kin_context *context, void *ptr);
KIN_API char *kin_strdup(kin_context *context, const char *text);
KIN_API char *kin_strndup(kin_context *context, const char *text, size_t length);
/* A formatted string in fresh memory. */
KIN_API char *kin_format(kin_context *context, const char *format, ...) KIN_PRINTF(2, 3);

/* Among `count` names the one most like `name` (edit distance), or NULL if none is near: for
 * "unknown key 'lerning_rate'; did you mean 'learning_rate'?". */
KIN_API const char *kin_nearest_name(const char *name, const char *const *names, size_t count);

#ifdef __cplusplus
}
#endif
#endif
