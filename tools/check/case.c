/* Reads a case, hands it to the code of its kind, compares, and reports. */
#define _POSIX_C_SOURCE 200809L

#include "tools/check/case_run.h"

#include <dirent.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/json.h"

typedef struct case_kind {
    const char *system, *part; /* "" for any */
    const char *prefix;        /* of the folder's name; "" for any */
    void (*run)(kin_case_run *run);
} case_kind;

static const case_kind kinds[] = {
    {"open-sora-1.0", "denoiser", "", kin_case_stdit},
    {"open-sora-1.0", "op", "", kin_case_stdit_attention},
    {"open-sora-1.0", "scheduler", "", kin_case_iddpm_loss},
    {"open-sora-1.0", "sampler", "", kin_case_iddpm_sample},
    {"open-sora-1.1", "denoiser", "", kin_case_stdit2},
    {"open-sora-1.1", "scheduler", "", kin_case_masked_loss},
    {"open-sora-1.1", "sampler", "", kin_case_masked_sample},
    {"latte", "denoiser", "", kin_case_latte},
    {"latte", "vae-decoder", "", kin_case_vae_temporal},
    {"latte", "sampler", "", kin_case_latte_sample},
    {"train_your_own_sora", "sampler", "", kin_case_latte_sample},
    {"train_your_own_sora", "loss", "", kin_case_latte_loss},
    {"pixart-alpha", "denoiser", "", kin_case_pixart},
    {"t5", "text-encoder", "", kin_case_t5},
    {"t5", "tokenizer", "", kin_case_tokenizer},
    {"mt5", "text-encoder", "", kin_case_t5},
    {"mt5", "tokenizer", "", kin_case_tokenizer},
    {"sd-vae", "vae-encoder", "", kin_case_vae_encode},
    {"sd-vae", "vae-decoder", "", kin_case_vae_decode},
    {"sd-vae", "loss", "", kin_case_vae_loss},
    {"open-sora-1.0", "text-preprocessing", "", kin_case_captions},
    {"open-sora-1.1", "op", "open-sora-1.1-buckets", kin_case_buckets},
    {"open-sora-1.1", "op", "open-sora-1.1-mask-strategy", kin_case_mask_strategy},
    {"open-sora-plan-1.2", "sampler", "open-sora-plan-1.2-megabatch", kin_case_megabatch},
    {"open-sora-plan-1.2", "op", "open-sora-plan-1.2-vae", kin_case_causal_blocks},
    {"open-sora-plan-1.2", "op", "open-sora-plan-1.2-rope3d", kin_case_plan_rope},
    {"open-sora-plan-1.2", "op", "open-sora-plan-1.2-train-loss", kin_case_plan_loss},
    {"open-sora-plan-1.2", "sampler", "open-sora-plan-1.2-sample", kin_case_plan_sample},
    {"open-sora-plan-1.2", "denoiser", "", kin_case_plan_denoiser},
    {"open-sora-plan-1.2", "vae-encoder", "", kin_case_causal_encode},
    {"open-sora-plan-1.2", "vae-decoder", "", kin_case_causal_decode},
    {"diffusers", "scheduler", "", kin_case_scheduler},
    {"open-sora-1.2", "sampler", "scheduler-rflow", kin_case_rectified_flow},
    {"pytorch", "op", "ops-", kin_case_ops},
    {"kinora", "op", "", kin_case_one_op},
    {"pytorch", "rng", "", kin_case_random},
    {"pytorch", "checkpoint", "torch-pickle", kin_case_pickle},
    {"pytorch", "checkpoint", "safetensors-files", kin_case_files},
    {"huggingface", "checkpoint", "sharded-checkpoint", kin_case_shards},
};

/* Counts one comparison; `ratio` is its error as a fraction of the tolerance. */
static void count(kin_case_run *run, const char *name, bool good, double ratio) {
    kin_case_report *report = run->report;
    report->compared++;
    if (report->compared == 1 || !(ratio <= report->worst)) {
        report->worst = ratio;
        snprintf(report->worst_name, sizeof report->worst_name, "%s", name);
    }
    if (good) return;
    if (report->off++ == 0) snprintf(report->first_off, sizeof report->first_off, "%s", name);
}

void kin_case_expect(kin_case_run *run, const char *name, bool good, const char *text) {
    if (!good || !run->options->brief)
        fprintf(run->out, "  %-44s %s%s%s\n", name, text, *text ? "  " : "", good ? "ok" : "OFF");
    count(run, name, good, good ? 0 : INFINITY);
}

bool kin_case_ok(kin_case_run *run, const char *what, kin_status status) {
    if (status == KIN_OK) return true;
    const char *message = kin_context_error(run->context);
    kin_case_expect(run, what, false, *message ? message : kin_status_text(status));
    return false;
}

static const kin_named_tensor *find(const kin_safetensors *file, const char *name) {
    return file ? kin_safetensors_find(file, name) : NULL;
}

const kin_named_tensor *kin_case_input_tensor(const kin_case_run *run, const char *name) {
    return find(run->inputs, name);
}

const kin_named_tensor *kin_case_output_tensor(const kin_case_run *run, const char *name) {
    return find(run->outputs, name);
}

void *kin_case_values(kin_case_run *run, const kin_named_tensor *tensor, kin_dtype dtype) {
    kin_desc desc = kin_desc_dense(dtype, tensor->desc.rank, tensor->desc.dims);
    void *values = kin_alloc(run->context, kin_desc_bytes(&desc));
    if (!values) {
        kin_case_ok(run, tensor->name, KIN_OUT_OF_MEMORY);
        return NULL;
    }
    kin_convert(tensor->data, tensor->desc.dtype, values, dtype, kin_desc_count(&desc));
    return values;
}

double kin_case_number(const json_t *object, const char *key, double fallback) {
    const json_t *value = json_object_get(object, key);
    return json_is_number(value) ? json_number_value(value) : fallback;
}

void kin_case_compare(kin_case_run *run, const char *name, kin_dtype dtype, const void *values,
                      int64_t element_count) {
    const kin_named_tensor *want = kin_case_output_tensor(run, name);
    if (!want || kin_desc_count(&want->desc) != element_count) {
        kin_case_expect(run, name, false, want ? "has another number of elements" : "is missing");
        return;
    }
    for (size_t i = 0; i < kin_safetensors_count(run->outputs); i++)
        if (kin_safetensors_at(run->outputs, i) == want) run->seen[i] = true;
    bool exact = !kin_dtype_is_float(want->desc.dtype);
    double error = 0, largest = 0;
    for (int64_t i = 0; i < element_count; i++) {
        double a = kin_element_get(values, dtype, i);
        double b = kin_element_get(want->data, want->desc.dtype, i);
        if (isfinite(b) && fabs(b) > largest) largest = fabs(b);
        if (a == b || (isnan(a) && isnan(b))) continue;
        double gap = fabs(a - b);
        if (!(gap <= error)) error = isfinite(gap) ? gap : INFINITY;
    }
    double tolerance = exact ? 0 : run->tolerance;
    double relative = error == 0 ? 0 : error / largest; /* all wanted 0: nothing but 0 is right */
    bool good = relative <= tolerance;
    if (!good || !run->options->brief)
        fprintf(run->out, "  %-44s error %9.3g  tolerance %8.2g  %s\n", name, relative, tolerance,
                good ? "ok" : "OFF");
    count(run, name, good, relative == 0 ? 0 : relative / tolerance);
}

static kin_status open_optional(kin_context *context, const char *folder, const char *name,
                                kin_safetensors **out_file) {
    char *path = kin_path_join(context, folder, name);
    if (!path) return KIN_OUT_OF_MEMORY;
    kin_status status = KIN_OK;
    if (kin_file_exists(path)) status = kin_safetensors_open(context, path, out_file);
    kin_free(context, path);
    return status;
}

static kin_status load_json(kin_context *context, const char *folder, const char *name,
                            json_t **out_root) {
    char *path = kin_path_join(context, folder, name);
    if (!path) return KIN_OUT_OF_MEMORY;
    kin_status status = kin_json_load(context, path, out_root);
    kin_free(context, path);
    return status;
}

static kin_status open_run(kin_case_run *run, bool with_config) {
    kin_context *context = run->context;
    kin_status status = KIN_OK;
    if (with_config) status = load_json(context, run->folder, "config.json", &run->config);
    if (status == KIN_OK)
        status = open_optional(context, run->folder, "weights.safetensors", &run->weights);
    if (status == KIN_OK)
        status = open_optional(context, run->folder, "inputs.safetensors", &run->inputs);
    if (status == KIN_OK)
        status = open_optional(context, run->folder, "outputs.safetensors", &run->outputs);
    if (status != KIN_OK || !run->outputs) return status;
    run->seen = kin_calloc(context, kin_safetensors_count(run->outputs) + 1, sizeof *run->seen);
    return run->seen ? KIN_OK : KIN_OUT_OF_MEMORY;
}

static void close_run(kin_case_run *run) {
    kin_safetensors_close(run->weights);
    kin_safetensors_close(run->inputs);
    kin_safetensors_close(run->outputs);
    json_decref(run->config);
    json_decref(run->info);
    kin_free(run->context, run->seen);
}

static const case_kind *find_kind(const json_t *info, const char *name) {
    const char *system = json_string_value(json_object_get(info, "system"));
    const char *part = json_string_value(json_object_get(info, "part"));
    for (size_t i = 0; system && part && i < sizeof kinds / sizeof *kinds; i++)
        if (strcmp(system, kinds[i].system) == 0 && strcmp(part, kinds[i].part) == 0 &&
            strncmp(name, kinds[i].prefix, strlen(kinds[i].prefix)) == 0)
            return &kinds[i];
    return NULL;
}

static void conclude(kin_case_run *run) {
    kin_case_report *report = run->report;
    for (size_t i = 0; run->outputs && i < kin_safetensors_count(run->outputs); i++)
        if (!run->seen[i])
            kin_case_expect(run, kin_safetensors_at(run->outputs, i)->name, false,
                            "was not computed");
    if (report->compared == 0) kin_case_expect(run, report->name, false, "nothing was compared");
    report->verdict = report->off ? KIN_CASE_FAILED : KIN_CASE_PASSED;
    fprintf(run->out, "%s: %s, %d compared", report->off ? "failed" : "passed", report->name,
            report->compared);
    if (report->off)
        fprintf(run->out, ", %d off, the first is %s\n", report->off, report->first_off);
    else
        fprintf(run->out, ", worst %.2g of its tolerance (%s)\n", report->worst,
                report->worst_name);
}

static void set_name(const char *folder, char *out, size_t size) {
    size_t end = strlen(folder);
    while (end > 1 && folder[end - 1] == '/') end--;
    size_t start = end;
    while (start > 0 && folder[start - 1] != '/') start--;
    snprintf(out, size, "%.*s", (int)(end - start), folder + start);
}

kin_status kin_tool_check_case(kin_context *context, kin_device *device, const char *folder,
                               const kin_case_options *options, FILE *out,
                               kin_case_report *out_report) {
    static const kin_case_options plain = {0};
    *out_report = (kin_case_report){.verdict = KIN_CASE_FAILED};
    set_name(folder, out_report->name, sizeof out_report->name);
    kin_case_run run = {.context = context,
                        .device = device,
                        .options = options ? options : &plain,
                        .out = out,
                        .folder = folder,
                        .report = out_report};
    kin_status status = load_json(context, folder, "case.json", &run.info);
    if (status != KIN_OK) return status;
    const case_kind *kind = find_kind(run.info, out_report->name);
    if (!kind) {
        out_report->verdict = KIN_CASE_NOT_YET;
        fprintf(out, "not yet: %s\n", out_report->name);
        json_decref(run.info);
        return KIN_OK;
    }
    const json_t *tolerance = json_object_get(json_object_get(run.info, "tolerance"), "rel");
    if (!json_is_number(tolerance)) {
        json_decref(run.info);
        return kin_fail(context, KIN_FORMAT, "%s/case.json: tolerance.rel is missing", folder);
    }
    run.tolerance = json_number_value(tolerance);
    status = open_run(&run, kind->run != kin_case_pickle);
    if (status == KIN_OK) {
        if (!run.options->brief) fprintf(out, "%s\n", out_report->name);
        kind->run(&run);
        conclude(&run);
    }
    close_run(&run);
    return status;
}

static int by_name(const void *a, const void *b) {
    return strcmp(*(char *const *)a, *(char *const *)b);
}

/* Names of the folders below `folder` that hold a case.json, sorted. */
static kin_status list_cases(kin_context *context, const char *folder, char ***out_names,
                             size_t *out_count) {
    *out_names = NULL;
    *out_count = 0;
    DIR *stream = opendir(folder);
    if (!stream) return kin_fail(context, KIN_NOT_FOUND, "%s: cannot be opened", folder);
    kin_status status = KIN_OK;
    struct dirent *entry;
    while (status == KIN_OK && (entry = readdir(stream)) != NULL) {
        if (entry->d_name[0] == '.') continue;
        char *path = kin_format(context, "%s/%s/case.json", folder, entry->d_name);
        char **larger = kin_realloc(context, *out_names, (*out_count + 1) * sizeof **out_names);
        if (larger) *out_names = larger;
        if (!path || !larger) status = KIN_OUT_OF_MEMORY;
        else if (kin_file_exists(path)) {
            char *name = kin_strdup(context, entry->d_name);
            if (name) (*out_names)[(*out_count)++] = name;
            else status = KIN_OUT_OF_MEMORY;
        }
        kin_free(context, path);
    }
    closedir(stream);
    if (*out_count) qsort(*out_names, *out_count, sizeof **out_names, by_name);
    return status;
}

static bool wanted(const char *name, const char *const *prefixes, size_t prefix_count) {
    for (size_t i = 0; i < prefix_count; i++)
        if (strncmp(name, prefixes[i], strlen(prefixes[i])) == 0) return true;
    return prefix_count == 0;
}

static kin_status run_one(kin_context *context, kin_device *device, const char *folder,
                          const kin_case_options *options, FILE *out, kin_case_summary *summary) {
    kin_case_report report;
    kin_status status = kin_tool_check_case(context, device, folder, options, out, &report);
    if (status != KIN_OK) return status;
    if (report.verdict == KIN_CASE_PASSED) summary->passed++;
    else if (report.verdict == KIN_CASE_FAILED) summary->failed++;
    else summary->not_yet++;
    return KIN_OK;
}

kin_status kin_tool_check_cases(kin_context *context, kin_device *device, const char *folder,
                                const char *const *prefixes, size_t prefix_count,
                                const kin_case_options *options, FILE *out,
                                kin_case_summary *out_summary) {
    *out_summary = (kin_case_summary){0};
    char *info = kin_path_join(context, folder, "case.json");
    if (!info) return KIN_OUT_OF_MEMORY;
    bool single = kin_file_exists(info);
    kin_free(context, info);
    if (single) return run_one(context, device, folder, options, out, out_summary);
    char **names;
    size_t name_count;
    kin_status status = list_cases(context, folder, &names, &name_count);
    if (status == KIN_OK && name_count == 0)
        status =
            kin_fail(context, KIN_NOT_FOUND, "%s: neither a case nor a folder of cases", folder);
    for (size_t i = 0; i < name_count; i++) {
        if (status == KIN_OK && wanted(names[i], prefixes, prefix_count)) {
            char *path = kin_path_join(context, folder, names[i]);
            status = path ? run_one(context, device, path, options, out, out_summary)
                          : KIN_OUT_OF_MEMORY;
            kin_free(context, path);
        }
        kin_free(context, names[i]);
    }
    kin_free(context, names);
    if (status == KIN_OK)
        fprintf(out, "%d passed, %d failed, %d not yet\n", out_summary->passed, out_summary->failed,
                out_summary->not_yet);
    return status;
}
