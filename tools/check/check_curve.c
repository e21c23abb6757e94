/* kinora check curve: the metrics that two training runs logged, held against each other: the same
 * training on two devices. */
#include "runtime/file.h"
#include "tools/tool.h"
#include "tools/verbs.h"

#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

static const char verb[] = "check curve";

enum { LIMIT = 1 << 28 };

typedef struct point {
    json_int_t step;
    double value;
} point;

typedef struct curve {
    const char *path;
    point *points; /* rising steps */
    size_t count;
} curve;

typedef struct request {
    kin_common common;
    const char *key;
    double tolerance;
    int64_t average; /* logged values in a mean */
    bool json;
} request;

/* ---- reading ---- */

/* Adds one line's value. A step that comes again (a run that was resumed) counts from the last. */
static kin_status add_line(kin_context *context, curve *c, const char *key, const char *line,
                           size_t length, size_t number) {
    json_error_t error;
    json_t *root = json_loadb(line, length, 0, &error);
    const json_t *step = json_object_get(root, "step"), *value = json_object_get(root, key);
    if (!root || !json_is_integer(step)) {
        json_decref(root);
        return kin_fail(context, KIN_FORMAT, "%s, line %zu: %s", c->path, number,
                        root ? "it has no \"step\"" : error.text);
    }
    json_int_t at = json_integer_value(step);
    while (c->count && c->points[c->count - 1].step >= at) c->count--;
    /* what is not finite is written as null, or as text */
    if (value)
        c->points[c->count++] = (point){at, json_is_number(value) ? json_number_value(value) : NAN};
    json_decref(root);
    return KIN_OK;
}

static kin_status read_curve(kin_context *context, const char *path, const char *key, curve *c) {
    char *text = NULL;
    char *inside = kin_file_is_folder(path) ? kin_path_join(context, path, "metrics.jsonl")
                                            : kin_strdup(context, path);
    size_t lines = 1, number = 0;
    c->path = path;
    kin_status status =
        inside ? kin_file_read_all(context, inside, LIMIT, &text, NULL) : KIN_OUT_OF_MEMORY;
    for (const char *at = text; at && (at = strchr(at, '\n')); at++) lines++;
    if (status == KIN_OK) {
        c->points = kin_calloc(context, lines, sizeof *c->points);
        if (!c->points) status = KIN_OUT_OF_MEMORY;
    }
    for (const char *at = text; status == KIN_OK && *at;) {
        size_t length = strcspn(at, "\n");
        number++;
        if (length) status = add_line(context, c, key, at, length, number);
        at += length + (at[length] == '\n');
    }
    if (status == KIN_OK && c->count == 0)
        status = kin_fail(context, KIN_FORMAT, "%s: no line has \"%s\"", inside, key);
    kin_free(context, inside);
    kin_free(context, text);
    return status;
}

/* Each value becomes the mean of it and the `count` - 1 before it; the first ones, which have fewer
 * before them, go. */
static kin_status smooth(kin_context *context, curve *c, size_t count) {
    if (c->count < count)
        return kin_fail(context, KIN_INVALID, "%s logs %zu values, --average wants %zu", c->path,
                        c->count, count);
    for (size_t i = 0; i + count <= c->count; i++) {
        double sum = 0;
        for (size_t j = 0; j < count; j++) sum += c->points[i + j].value;
        c->points[i] = (point){c->points[i + count - 1].step, sum / (double)count};
    }
    c->count -= count - 1;
    return KIN_OK;
}

/* ---- comparing ---- */

typedef struct finding {
    size_t compared, off;
    double worst;        /* |b - a| / |a| */
    point first, second; /* where it is worst */
} finding;

static double relative(double a, double b) {
    if (a == b) return 0;
    double gap = fabs(b - a) / fabs(a);
    return isnan(gap) ? INFINITY : gap;
}

/* Every step of each must be in the other. */
static kin_status compare(request *r, const curve *a, const curve *b, finding *out) {
    kin_context *context = r->common.context;
    *out = (finding){.compared = 0};
    for (size_t i = 0; i < a->count && i < b->count; i++) {
        const point *p = &a->points[i], *q = &b->points[i];
        if (p->step != q->step) {
            bool second = p->step < q->step;
            return kin_fail(context, KIN_NUMERIC, "step %lld is logged by %s, but not by %s",
                            (long long)(second ? p->step : q->step), second ? a->path : b->path,
                            second ? b->path : a->path);
        }
        double gap = relative(p->value, q->value);
        out->compared++;
        out->off += !(gap <= r->tolerance);
        if (i > 0 && !(gap > out->worst)) continue;
        out->worst = gap;
        out->first = *p;
        out->second = *q;
    }
    const curve *longer = a->count > b->count ? a : b, *shorter = a->count > b->count ? b : a;
    if (longer->count == shorter->count) return KIN_OK;
    return kin_fail(context, KIN_NUMERIC, "step %lld is logged by %s, but not by %s",
                    (long long)longer->points[shorter->count].step, longer->path, shorter->path);
}

static void print_finding(const request *r, const finding *f) {
    if (r->json) {
        json_t *root =
            json_pack("{s:s, s:s, s:s, s:f, s:I, s:I, s:I}", "version", kin_version(), "verb", verb,
                      "key", r->key, "tolerance", r->tolerance, "compared", (json_int_t)f->compared,
                      "off", (json_int_t)f->off, "worst_step", (json_int_t)f->first.step);
        const double values[] = {f->worst, f->first.value, f->second.value};
        static const char *const keys[] = {"worst", "first", "second"};
        for (int i = 0; i < 3; i++)
            json_object_set_new(root, keys[i],
                                isfinite(values[i]) ? json_real(values[i]) : json_null());
        json_dumpf(root, stdout, JSON_INDENT(1));
        putchar('\n');
        json_decref(root);
        return;
    }
    printf(
        "%s: %zu steps compared, %zu apart by more than %g; the worst is step %lld: %.6g against "
        "%.6g, %.3g apart\n",
        r->key, f->compared, f->off, r->tolerance, (long long)f->first.step, f->first.value,
        f->second.value, f->worst);
}

static int run(request *r, const char *first, const char *second) {
    kin_context *context = r->common.context;
    curve a = {NULL, NULL, 0}, b = {NULL, NULL, 0};
    finding found;
    kin_status status = read_curve(context, first, r->key, &a);
    if (status == KIN_OK) status = read_curve(context, second, r->key, &b);
    if (status == KIN_OK) status = smooth(context, &a, (size_t)r->average);
    if (status == KIN_OK) status = smooth(context, &b, (size_t)r->average);
    if (status == KIN_OK) status = compare(r, &a, &b, &found);
    int code = KIN_EXIT_OK;
    if (status != KIN_OK) {
        code = kin_report(context, verb, status);
    } else {
        print_finding(r, &found);
        if (found.off) code = KIN_EXIT_FAILED;
    }
    kin_free(context, a.points);
    kin_free(context, b.points);
    return code;
}

int kin_verb_check_curve(int count, char **arguments) {
    request r = {.key = "loss", .tolerance = 0.02, .average = 1};
    int left = 0;
    const kin_flag flags[] = {
        {.name = "key",
         .argument = "NAME",
         .text = &r.key,
         .help = "what is compared; default loss"},
        {.name = "tolerance",
         .argument = "SHARE",
         .number = &r.tolerance,
         .help = "how far B may be from A at every step, as a share of A; default 0.02"},
        {.name = "average",
         .argument = "N",
         .integer = &r.average,
         .help = "compare the running means of N logged values; default 1"},
        {.name = "json", .on = &r.json, .help = "one JSON object on standard output"},
        {.name = "quiet", .letter = 'q', .on = &r.common.quiet, .help = "errors only"},
    };
    int status =
        kin_parse_flags(verb, flags, sizeof flags / sizeof *flags, count, arguments, 2, 2, &left);
    if (status >= 0) return status;
    if (!(r.tolerance >= 0))
        return kin_usage_error(verb, "--tolerance wants a share from 0 on, such as 0.02");
    if (r.average < 1) return kin_usage_error(verb, "--average wants a number from 1 on");
    status = kin_common_open(&r.common, false);
    if (status >= 0) return status;
    status = run(&r, arguments[0], arguments[1]);
    kin_common_close(&r.common);
    return status;
}
