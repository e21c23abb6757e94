/* Flags, progress, logging, devices, interruption. */
#define _POSIX_C_SOURCE 200809L
#include "tools/tool.h"

#include "tools/ranks.h"

#include <errno.h>
#include <math.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

/* ---- flags ---- */

static bool same_name(const char *name, const char *typed, size_t length) {
    for (size_t i = 0; i < length; i++)
        if (name[i] != (typed[i] == '_' ? '-' : typed[i])) return false;
    return name[length] == 0;
}

static void print_help(const char *verb, const kin_flag *flags, size_t count) {
    const kin_verb *row = kin_verbs;
    while (row->name && strcmp(row->name, verb) != 0) row++;
    printf("usage: kinora %s%s%s [flags]\n", verb, row->name && row->operands[0] ? " " : "",
           row->name ? row->operands : "");
    if (row->name) printf("%s\n", row->summary);
    printf("\n");
    for (size_t i = 0; i < count; i++) {
        char left[64];
        snprintf(left, sizeof left, "%s%c%s--%s%s%s", flags[i].letter ? "-" : " ",
                 flags[i].letter ? flags[i].letter : ' ', flags[i].letter ? ", " : "  ",
                 flags[i].name, flags[i].argument ? " " : "",
                 flags[i].argument ? flags[i].argument : "");
        printf("  %-32s %s\n", left, flags[i].help);
    }
    printf("  %-32s %s\n", "-h, --help", "this text");
}

static int unknown_flag(const char *verb, const kin_flag *flags, size_t count, const char *typed) {
    const char *names[64];
    size_t known = 0;
    for (; known < count && known < 64; known++) names[known] = flags[known].name;
    size_t length = strcspn(typed, "=");
    char plain[128];
    snprintf(plain, sizeof plain, "%.*s", (int)(length < 100 ? length : 100), typed);
    for (char *c = plain; *c; c++)
        if (*c == '_') *c = '-';
    const char *near = kin_nearest_name(plain, names, known);
    if (near) return kin_usage_error(verb, "unknown flag --%s; did you mean --%s?", plain, near);
    return kin_usage_error(verb, "unknown flag --%s; see kinora %s --help", plain, verb);
}

/* Stores a flag's argument; -1 if it is good. */
static int store(const char *verb, const kin_flag *flag, const char *value) {
    char *end = NULL;
    errno = 0;
    if (flag->text) {
        *flag->text = value;
    } else if (flag->integer) {
        *flag->integer = strtoll(value, &end, 10);
        if (errno || end == value || *end)
            return kin_usage_error(verb, "--%s wants a whole number, not \"%s\"", flag->name,
                                   value);
    } else if (flag->number) {
        *flag->number = strtod(value, &end);
        if (errno || end == value || *end || !isfinite(*flag->number))
            return kin_usage_error(verb, "--%s wants a number, not \"%s\"", flag->name, value);
    } else if (flag->list) {
        if (*flag->list_count >= flag->list_capacity)
            return kin_usage_error(verb, "--%s is given too often", flag->name);
        flag->list[(*flag->list_count)++] = value;
    }
    return -1;
}

int kin_parse_flags(const char *verb, const kin_flag *flags, size_t flag_count, int count,
                    char **arguments, int min_left, int max_left, int *out_left) {
    int left = 0;
    bool only_operands = false;
    for (int i = 0; i < count; i++) {
        char *typed = arguments[i];
        if (only_operands || typed[0] != '-' || !typed[1]) {
            arguments[left++] = typed;
            continue;
        }
        if (strcmp(typed, "--") == 0) {
            only_operands = true;
            continue;
        }
        if (strcmp(typed, "--help") == 0 || strcmp(typed, "-h") == 0) {
            print_help(verb, flags, flag_count);
            return KIN_EXIT_OK;
        }
        const kin_flag *flag = NULL;
        const char *value = NULL;
        if (typed[1] == '-') {
            size_t length = strcspn(typed + 2, "=");
            for (size_t f = 0; f < flag_count && !flag; f++)
                if (same_name(flags[f].name, typed + 2, length)) flag = &flags[f];
            if (typed[2 + length] == '=') value = typed + 3 + length;
        } else {
            for (size_t f = 0; f < flag_count && !flag; f++)
                if (flags[f].letter == typed[1]) flag = &flags[f];
            if (typed[2]) value = typed + 2;
        }
        if (!flag) return unknown_flag(verb, flags, flag_count, typed + (typed[1] == '-' ? 2 : 1));
        if (!flag->argument) {
            if (value) return kin_usage_error(verb, "--%s takes no argument", flag->name);
            *flag->on = true;
            continue;
        }
        if (!value && i + 1 < count) value = arguments[++i];
        if (!value) return kin_usage_error(verb, "--%s wants %s", flag->name, flag->argument);
        int status = store(verb, flag, value);
        if (status >= 0) return status;
    }
    *out_left = left;
    if (left < min_left)
        return kin_usage_error(verb, "something is missing; see kinora %s --help", verb);
    if (left > max_left)
        return kin_usage_error(verb, "\"%s\" is one operand too many", arguments[max_left]);
    return -1;
}

int kin_usage_error(const char *verb, const char *format, ...) {
    va_list args;
    fprintf(stderr, "kinora %s: ", verb);
    va_start(args, format);
    vfprintf(stderr, format, args);
    va_end(args);
    fputc('\n', stderr);
    return KIN_EXIT_USAGE;
}

int kin_report(kin_context *context, const char *verb, kin_status status) {
    const char *message = kin_context_error(context);
    fprintf(stderr, "kinora %s: %s\n", verb, message[0] ? message : kin_status_text(status));
    return status == KIN_INVALID ? KIN_EXIT_USAGE : KIN_EXIT_FAILED;
}

/* ---- context and device ---- */

static void write_log(void *user, kin_log_level level, const char *text) {
    const kin_common *common = user;
    if (level > common->level) return;
    if (isatty(STDERR_FILENO)) fputs("\r\033[K", stderr);
    fprintf(stderr, "%s%s\n", level == KIN_LOG_WARN ? "warning: " : "", text);
}

/* Settings for backends: those of KINORA_SETTINGS ("name=value", separated by commas), then the
 * folder for compiled programs: KINORA_CACHE, or a folder "kinora" where caches belong. Returns
 * text, which is empty if there is nothing to say. */
static const char *settings_text(char *text, size_t size) {
    const char *own = getenv("KINORA_SETTINGS"), *folder = getenv("KINORA_CACHE");
    const char *caches = getenv("XDG_CACHE_HOME"), *home = getenv("HOME");
    int used = snprintf(text, size, "%s\n", own ? own : "");
    if (used < 0 || (size_t)used >= size) return "";
    for (char *c = text; *c; c++)
        if (*c == ',') *c = '\n';
    char *rest = text + used;
    size_t room = size - (size_t)used;
    int wanted = 0;
    if (folder) wanted = snprintf(rest, room, "cache=%s", folder);
    else if (caches && caches[0] == '/') wanted = snprintf(rest, room, "cache=%s/kinora", caches);
    else if (home && home[0] == '/') wanted = snprintf(rest, room, "cache=%s/.cache/kinora", home);
    if (wanted < 0 || (size_t)wanted >= room) *rest = '\0';
    return text;
}

/* What was asked for; several processes on one machine share its processors. 0: all. */
static int threads_of(const kin_common *common) {
    if (common->threads > 0 || common->local_count <= 1) return (int)common->threads;
    long processors = sysconf(_SC_NPROCESSORS_ONLN);
    return processors > common->local_count ? (int)(processors / common->local_count) : 1;
}

int kin_common_open(kin_common *common, bool open_device) {
    common->level = common->quiet ? KIN_LOG_ERROR : common->verbose ? KIN_LOG_DEBUG : KIN_LOG_INFO;
    if (common->threads < 0 || common->threads > 4096)
        return kin_usage_error("flags", "--threads must lie within 0 and 4096");
    char settings[8192];
    kin_context_options options = {.struct_size = sizeof options,
                                   .allocator = common->allocator,
                                   .log = write_log,
                                   .log_user = common,
                                   .threads = threads_of(common),
                                   .settings = settings_text(settings, sizeof settings)};
    kin_status status = kin_context_create(&options, &common->context);
    if (status != KIN_OK) {
        fprintf(stderr, "kinora: %s\n", kin_status_text(status));
        return KIN_EXIT_FAILED;
    }
    const char *extra = getenv("KINORA_BACKEND_PATH");
    char path[4096];
    snprintf(path, sizeof path, "%s%s%s", KINORA_INSTALLED_BACKENDS, extra ? ":" : "",
             extra ? extra : "");
    status = kin_backends_load(common->context, path, &common->backends);
    for (size_t i = 0; status == KIN_OK && i < kin_backends_file_count(common->backends); i++) {
        const kin_backend_file *file = kin_backends_file_at(common->backends, i);
        kin_log(common->context, file->loaded ? KIN_LOG_DEBUG : KIN_LOG_WARN, "%s: %s", file->path,
                file->verdict);
    }
    if (status == KIN_OK && open_device) {
        const char *device = common->device ? common->device : "cpu";
        char name[64];
        status = kin_ranks_device(common->context, common->backends, device, common->local_rank,
                                  common->local_count, name, sizeof name, &device);
        if (status == KIN_OK) status = kin_device_open(common->backends, device, &common->handle);
    }
    if (status == KIN_OK) return -1;
    int code = kin_report(common->context, "device", status);
    kin_common_close(common);
    return code;
}

void kin_common_close(kin_common *common) {
    kin_device_close(common->handle);
    kin_backends_free(common->backends);
    kin_context_destroy(common->context);
    common->handle = NULL;
    common->backends = NULL;
    common->context = NULL;
}

/* ---- interruption and clocks ---- */

static volatile sig_atomic_t interrupted;

static void on_signal(int number) {
    if (interrupted) _exit(128 + number);
    interrupted = 1;
}

void kin_catch_interrupts(void) {
    struct sigaction action;
    memset(&action, 0, sizeof action);
    action.sa_handler = on_signal;
    sigemptyset(&action.sa_mask);
    sigaction(SIGINT, &action, NULL);
    sigaction(SIGTERM, &action, NULL);
    signal(SIGXFSZ, SIG_IGN); /* a file size limit is then an error of write, like a full disk */
}

bool kin_interrupted(void) {
    return interrupted != 0;
}

static double clock_seconds(clockid_t id) {
    struct timespec now;
    clock_gettime(id, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

double kin_seconds(void) {
    return clock_seconds(CLOCK_MONOTONIC);
}

double kin_wall_time(void) {
    return clock_seconds(CLOCK_REALTIME);
}

/* ---- progress ---- */

kin_progress kin_progress_begin(const char *label, int64_t first, int64_t total, bool quiet) {
    return (kin_progress){.label = label,
                          .total = total,
                          .first = first,
                          .started = kin_seconds(),
                          .shown = -1e9,
                          .quiet = quiet};
}

static const char *time_text(double seconds, char *text, size_t size) {
    int64_t whole = seconds < 0 || seconds > 1e9 ? 0 : (int64_t)(seconds + 0.5);
    if (whole >= 3600)
        snprintf(text, size, "%lld:%02lld:%02lld", (long long)(whole / 3600),
                 (long long)(whole / 60 % 60), (long long)(whole % 60));
    else snprintf(text, size, "%lld:%02lld", (long long)(whole / 60), (long long)(whole % 60));
    return text;
}

void kin_progress_show(kin_progress *progress, int64_t done, const char *note) {
    if (progress->quiet) return;
    double now = kin_seconds();
    bool terminal = isatty(STDERR_FILENO) != 0;
    if (now - progress->shown < (terminal ? 0.2 : 10) && done < progress->total) return;
    progress->shown = now;
    int64_t worked = done - progress->first;
    double each = worked > 0 ? (now - progress->started) / (double)worked : 0;
    char spent[32], left[32], speed[32];
    if (each > 1) snprintf(speed, sizeof speed, "%.2f s/it", each);
    else snprintf(speed, sizeof speed, "%.1f it/s", each > 0 ? 1 / each : 0);
    fprintf(stderr, "%s%s %lld/%lld %s, %s, %s left%s%s%s", terminal ? "\r\033[K" : "",
            progress->label, (long long)done, (long long)progress->total,
            time_text(now - progress->started, spent, sizeof spent), speed,
            time_text(each * (double)(progress->total - done), left, sizeof left), note ? "  " : "",
            note ? note : "", terminal ? "" : "\n");
    fflush(stderr);
}

void kin_progress_end(kin_progress *progress) {
    if (!progress->quiet && isatty(STDERR_FILENO)) fputc('\n', stderr);
}

/* ---- sizes ---- */

bool kin_parse_bytes(const char *text, uint64_t *out_bytes) {
    char *end = NULL;
    double value = strtod(text, &end);
    if (end == text || !(value >= 0) || value > 1e18) return false;
    double unit = 1;
    switch (*end) {
    case 'k':
    case 'K':
        unit = 1024;
        break;
    case 'm':
    case 'M':
        unit = 1024.0 * 1024;
        break;
    case 'g':
    case 'G':
        unit = 1024.0 * 1024 * 1024;
        break;
    case 't':
    case 'T':
        unit = 1024.0 * 1024 * 1024 * 1024;
        break;
    default:
        break;
    }
    if (unit > 1) end++;
    if (strcmp(end, "") != 0 && strcmp(end, "B") != 0 && strcmp(end, "iB") != 0) return false;
    *out_bytes = (uint64_t)(value * unit);
    return true;
}

const char *kin_bytes_text(uint64_t bytes, char *text, size_t size) {
    static const char *const units[] = {"B", "KiB", "MiB", "GiB", "TiB"};
    double value = (double)bytes;
    int unit = 0;
    while (value >= 1024 && unit < 4) {
        value /= 1024;
        unit++;
    }
    snprintf(text, size, unit ? "%.1f %s" : "%.0f %s", value, units[unit]);
    return text;
}
