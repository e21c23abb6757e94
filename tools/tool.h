/* What the verbs of the program share: flags, progress, logging, devices, interruption. */
#ifndef KIN_TOOLS_TOOL_H
#define KIN_TOOLS_TOOL_H

#include "runtime/device.h"

#include <stdio.h>

enum { KIN_EXIT_OK = 0, KIN_EXIT_FAILED = 1, KIN_EXIT_USAGE = 2 };

/* One flag of a verb. Exactly one of the target pointers is set. */
typedef struct kin_flag {
    const char *name;     /* "cfg-scale"; '_' is taken for '-' on the command line */
    char letter;          /* 'p' for -p, or 0 */
    const char *argument; /* "TEXT"; NULL for a switch */
    const char *help;
    const char **text;
    int64_t *integer;
    double *number;
    bool *on;
    const char **list; /* may be given several times: up to list_capacity entries */
    int list_capacity;
    int *list_count;
} kin_flag;

typedef struct kin_verb {
    const char *name;     /* "generate", "check case" */
    const char *operands; /* "MODEL", "" */
    const char *summary;
    int (*run)(int count, char **arguments); /* without the verb's own words; an exit status */
} kin_verb;

/* The program's verbs, ended by an empty row (tools/main.c). */
extern const kin_verb kin_verbs[];

/* Parses flags; what is left is moved to the front of `arguments` and counted in *out_left. -h and
 * --help print the verb's help from the same table. Returns -1 to go on, or an exit status. */
int kin_parse_flags(const char *verb, const kin_flag *flags, size_t flag_count, int count,
                    char **arguments, int min_left, int max_left, int *out_left);

/* The flags that every verb takes: add them to a verb's table with KIN_COMMON_FLAGS(&common). */
typedef struct kin_common {
    const char *device;
    int64_t threads;
    bool quiet, verbose;
    kin_allocator allocator; /* of the context; all zero: the C library's */
    int local_rank, local_count; /* of several processes on this machine (ranks.h); 0 and 0: one */
    /* made by kin_common_open */
    kin_context *context;
    kin_backends *backends;
    kin_device *handle;
    kin_log_level level;
} kin_common;

/* clang-format off */
#define KIN_COMMON_FLAGS(common)                                                                   \
    {.name = "device", .letter = 'd', .argument = "NAME", .text = &(common)->device,               \
     .help = "device to run on (see kinora devices); default cpu"},                                \
    {.name = "threads", .letter = 't', .argument = "N", .integer = &(common)->threads,             \
     .help = "threads for CPU work; default: all processors"},                                     \
    {.name = "quiet", .letter = 'q', .on = &(common)->quiet, .help = "errors only"},               \
    {.name = "verbose", .letter = 'v', .on = &(common)->verbose, .help = "more of what happens"}
/* clang-format on */

/* Context with a log to standard error, backends (KINORA_BACKEND_PATH), and the device, unless
 * open_device is false. Prints the error and returns KIN_EXIT_FAILED if it cannot, else -1. */
int kin_common_open(kin_common *common, bool open_device);
void kin_common_close(kin_common *common);
/* Prints "kinora VERB: message" of the context to standard error; returns KIN_EXIT_FAILED, or
 * KIN_EXIT_USAGE for KIN_INVALID. */
int kin_report(kin_context *context, const char *verb, kin_status status);
/* The same with a message of one's own. */
int kin_usage_error(const char *verb, const char *format, ...) KIN_PRINTF(2, 3);

/* Ctrl-C and SIGTERM set a mark; a second one ends the process. */
void kin_catch_interrupts(void);
bool kin_interrupted(void);

/* Seconds of a steady clock; seconds since 1970. */
double kin_seconds(void);
double kin_wall_time(void);

/* A progress line on standard error: "\r" on a terminal, else a line every ten seconds or so. */
typedef struct kin_progress {
    const char *label;
    int64_t total, first;
    double started, shown;
    bool quiet;
} kin_progress;

kin_progress kin_progress_begin(const char *label, int64_t first, int64_t total, bool quiet);
/* note: "loss 0.123", may be NULL. Shows done, total, speed, and the remaining time. */
void kin_progress_show(kin_progress *progress, int64_t done, const char *note);
void kin_progress_end(kin_progress *progress);

/* "8G", "512M", "1.5GiB", "1000000" to bytes; false if it is none of that. */
bool kin_parse_bytes(const char *text, uint64_t *out_bytes);
/* 1536 -> "1.5 KiB"; returns text. */
const char *kin_bytes_text(uint64_t bytes, char *text, size_t size);

#endif
