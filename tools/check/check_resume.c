/* kinora check resume: N + M steps in one go, and N steps, stop, resume, M steps, must give the
 * same bits. Of a configuration with stages each is stopped and resumed. */
#define _XOPEN_SOURCE 700
#include "tools/train/train.h"

#include "runtime/file.h"
#include "runtime/safetensors.h"
#include "tools/tool.h"
#include "tools/verbs.h"

#include <errno.h>
#include <ftw.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { MAX_SETS = 64, OWN_SETS = 4 + KIN_TRAIN_MAX_STAGES, OPEN_FOLDERS = 16, SET_SIZE = 64 };

typedef struct request {
    kin_common common;
    const char *config;
    const char *sets[MAX_SETS];
    int set_count;
    int64_t steps, more;
    int stages; /* 0: the run has none */
    char folder[4096];
} request;

/* The configuration with all --set and these: output FOLDER/name, N + M steps in every stage. */
static kin_status load_config(const request *r, const char *name, kin_train_config *out_config) {
    const char *sets[MAX_SETS + OWN_SETS];
    char steps[1 + KIN_TRAIN_MAX_STAGES][SET_SIZE], output[sizeof r->folder + SET_SIZE];
    int count = r->set_count;
    memcpy(sets, r->sets, sizeof *sets * (size_t)count);
    snprintf(output, sizeof output, "output=%s/%s", r->folder, name);
    sets[count++] = output;
    for (int i = 0; i <= r->stages; i++) {
        if (i == 0) snprintf(steps[0], SET_SIZE, "steps=%lld", (long long)(r->steps + r->more));
        else
            snprintf(steps[i], SET_SIZE, "stages.%d.steps=%lld", i - 1,
                     (long long)(r->steps + r->more));
        sets[count++] = steps[i];
    }
    sets[count++] = "validate_every=0";
    sets[count++] = "checkpoint_every=1000000000"; /* at the stop and at the end */
    return kin_train_config_load(r->common.context, r->config, sets, count, out_config);
}

/* Trains into FOLDER/name: to the end, or with a stop after `steps` steps of a stage (from 1; 1 for
 * a run without stages). */
static kin_status train_part(request *r, const char *name, int stop_stage, bool resume) {
    kin_train_config config;
    kin_status status = load_config(r, name, &config);
    if (status != KIN_OK) return status;
    config.stop_stage = stop_stage;
    config.stop_at = stop_stage > 0 ? r->steps : 0;
    status = kin_train(r->common.context, r->common.handle, &config, resume, r->common.quiet);
    kin_train_config_free(&config);
    if (status == KIN_CANCELLED && stop_stage > 0 && !kin_interrupted()) return KIN_OK;
    return status;
}

/* KIN_NUMERIC, saying where, unless both tensors have the same bytes. */
static kin_status compare_tensor(kin_context *context, const kin_named_tensor *a,
                                 const kin_named_tensor *b) {
    if (a->desc.dtype != b->desc.dtype || !kin_desc_same_shape(&a->desc, &b->desc))
        return kin_fail(context, KIN_NUMERIC, "\"%s\" has another shape or dtype", a->name);
    size_t size = kin_desc_bytes(&a->desc), at = 0;
    const unsigned char *x = a->data, *y = b->data;
    while (at < size && x[at] == y[at]) at++;
    if (at == size) return KIN_OK;
    int64_t element = (int64_t)(at / kin_dtype_size(a->desc.dtype));
    return kin_fail(context, KIN_NUMERIC, "\"%s\" differs from element %lld on: %.9g against %.9g",
                    a->name, (long long)element, kin_element_get(x, a->desc.dtype, element),
                    kin_element_get(y, b->desc.dtype, element));
}

static kin_status compare_files(kin_context *context, const char *one, const char *two,
                                size_t *out_count) {
    kin_safetensors *a = NULL, *b = NULL;
    kin_status status = kin_safetensors_open(context, one, &a);
    if (status == KIN_OK) status = kin_safetensors_open(context, two, &b);
    *out_count = status == KIN_OK ? kin_safetensors_count(a) : 0;
    if (status == KIN_OK && kin_safetensors_count(b) != *out_count)
        status = kin_fail(context, KIN_NUMERIC, "%zu tensors against %zu", *out_count,
                          kin_safetensors_count(b));
    for (size_t i = 0; status == KIN_OK && i < *out_count; i++) {
        const kin_named_tensor *tensor = kin_safetensors_at(a, i), *other;
        status = kin_safetensors_get(b, tensor->name, &other);
        if (status == KIN_OK) status = compare_tensor(context, tensor, other);
    }
    kin_safetensors_close(a);
    if (b) kin_safetensors_close(b);
    return status;
}

/* The last checkpoints of a stage (from 0) of both runs. */
static kin_status compare_stage(request *r, int stage, size_t *out_count) {
    kin_context *context = r->common.context;
    static const char *const names[2] = {"once", "twice"};
    char *paths[2] = {NULL, NULL};
    kin_status status = KIN_OK;
    for (int i = 0; status == KIN_OK && i < 2; i++) {
        kin_train_config config;
        status = load_config(r, names[i], &config);
        if (status != KIN_OK) break;
        const char *output = r->stages ? config.stages[stage].output : config.output;
        paths[i] = kin_train_checkpoint_path(context, output, r->steps + r->more);
        if (!paths[i]) status = KIN_OUT_OF_MEMORY;
        kin_train_config_free(&config);
    }
    if (status == KIN_OK) status = compare_files(context, paths[0], paths[1], out_count);
    if (status == KIN_NUMERIC && r->stages)
        kin_fail_in(context, status,
                    "stage %d: resuming after step %lld of %lld changes the result", stage + 1,
                    (long long)r->steps, (long long)(r->steps + r->more));
    else if (status == KIN_NUMERIC)
        kin_fail_in(context, status, "resuming after step %lld of %lld changes the result",
                    (long long)r->steps, (long long)(r->steps + r->more));
    kin_free(context, paths[0]);
    kin_free(context, paths[1]);
    return status;
}

static kin_status check(request *r) {
    kin_context *context = r->common.context;
    kin_train_config config;
    size_t count = 0, all = 0;
    kin_status status = load_config(r, "once", &config);
    if (status != KIN_OK) return status;
    r->stages = config.stage_count;
    kin_train_config_free(&config);
    int parts = r->stages > 0 ? r->stages : 1;
    kin_log(context, KIN_LOG_INFO, "%lld steps in one go", (long long)(r->steps + r->more));
    status = train_part(r, "once", 0, false);
    for (int i = 1; status == KIN_OK && i <= parts; i++) {
        kin_log(context, KIN_LOG_INFO, "%lld steps, then a stop", (long long)r->steps);
        status = train_part(r, "twice", i, i > 1);
    }
    if (status == KIN_OK) {
        kin_log(context, KIN_LOG_INFO, "%lld steps more", (long long)r->more);
        status = train_part(r, "twice", 0, true);
    }
    for (int i = 0; status == KIN_OK && i < parts; i++) {
        status = compare_stage(r, i, &count);
        all += count;
    }
    if (status == KIN_OK)
        printf("%lld steps, and %lld, stop, %lld steps: the same bits in all %zu tensors\n",
               (long long)(r->steps + r->more), (long long)r->steps, (long long)r->more, all);
    return status;
}

static int remove_one(const char *path, const struct stat *info, int kind, struct FTW *place) {
    (void)info, (void)kind, (void)place;
    remove(path);
    return 0;
}

static kin_status check_in_folder(request *r) {
    const char *base = getenv("TMPDIR");
    int length = snprintf(r->folder, sizeof r->folder, "%s/kinora-resume-XXXXXX",
                          base && base[0] ? base : "/tmp");
    if (length < 0 || (size_t)length >= sizeof r->folder || !mkdtemp(r->folder))
        return kin_fail(r->common.context, KIN_IO, "%s: the folder cannot be made: %s", r->folder,
                        strerror(errno));
    kin_status status = check(r);
    nftw(r->folder, remove_one, OPEN_FOLDERS, FTW_DEPTH | FTW_PHYS);
    return status;
}

int kin_verb_check_resume(int count, char **arguments) {
    static const char verb[] = "check resume";
    request r = {.steps = 3, .more = 3};
    int left = 0;
    const kin_flag flags[] = {
        {.name = "steps",
         .argument = "N",
         .integer = &r.steps,
         .help = "steps before the stop; default 3"},
        {.name = "more", .argument = "M", .integer = &r.more, .help = "steps after it; default 3"},
        {.name = "set",
         .argument = "KEY=VALUE",
         .list = r.sets,
         .list_capacity = MAX_SETS,
         .list_count = &r.set_count,
         .help = "overrides a key of the configuration, dotted: data.csv=clips.csv"},
        KIN_COMMON_FLAGS(&r.common),
    };
    int code =
        kin_parse_flags(verb, flags, sizeof flags / sizeof *flags, count, arguments, 1, 1, &left);
    if (code >= 0) return code;
    if (r.steps < 1 || r.more < 1 || r.steps > 1000000000 || r.more > 1000000000)
        return kin_usage_error(verb, "--steps and --more must lie within 1 and 1000000000");
    r.config = arguments[0];
    code = kin_common_open(&r.common, true);
    if (code >= 0) return code;
    kin_catch_interrupts();
    kin_status status = check_in_folder(&r);
    code = status == KIN_OK ? KIN_EXIT_OK : kin_report(r.common.context, verb, status);
    kin_common_close(&r.common);
    return code;
}
