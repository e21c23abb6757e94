/* What a training run left on disk, for the report. */
#include "tools/report/report.h"

#include "runtime/checkpoint.h"
#include "runtime/csv.h"
#include "runtime/file.h"
#include "runtime/json.h"
#include "runtime/tensor.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

void kin_report_run_free(kin_context *context, kin_report_run *run) {
    json_decref(run->config);
    kin_free(context, run->plan);
    kin_free(context, run->steps);
    kin_free(context, run->loss);
    kin_free(context, run->part);
    memset(run, 0, sizeof *run);
}

static double number(const json_t *object, const char *key) {
    const json_t *value = json_object_get(object, key);
    return json_is_number(value) ? json_number_value(value) : NAN;
}

static kin_status read_line(kin_context *context, const char *path, size_t index, const char *line,
                            size_t size, kin_report_run *run) {
    json_t *object = NULL;
    kin_status status = kin_json_parse(context, path, line, size, &object);
    if (status != KIN_OK) return kin_fail_in(context, status, "line %zu", index + 1);
    run->steps[run->count] = number(object, "step");
    run->loss[run->count] = number(object, "loss");
    run->part[run->count] = number(object, run->part_name);
    double before = run->count ? run->steps[run->count - 1] : 0;
    double each = number(object, "seconds_per_step");
    if (isfinite(run->steps[run->count]) && isfinite(each))
        run->seconds += each * (run->steps[run->count] - before);
    if (!isfinite(run->steps[run->count]) || run->steps[run->count] < before)
        status = kin_fail(context, KIN_FORMAT, "%s: line %zu has no step, or an earlier one", path,
                          index + 1);
    run->count++;
    json_decref(object);
    return status;
}

static kin_status read_metrics(kin_context *context, const char *path, kin_report_run *run) {
    char *text = NULL;
    size_t size = 0, lines = 1;
    kin_status status = kin_file_read_all(context, path, (size_t)1 << 30, &text, &size);
    if (status != KIN_OK) return status;
    for (size_t i = 0; i < size; i++) lines += text[i] == '\n';
    run->steps = kin_alloc(context, lines * sizeof *run->steps);
    run->loss = kin_alloc(context, lines * sizeof *run->loss);
    run->part = kin_alloc(context, lines * sizeof *run->part);
    if (!run->steps || !run->loss || !run->part) status = KIN_OUT_OF_MEMORY;
    for (char *line = text; status == KIN_OK && line < text + size;) {
        char *end = memchr(line, '\n', (size_t)(text + size - line));
        if (!end) break; /* being written */
        status = read_line(context, path, run->count, line, (size_t)(end - line), run);
        line = end + 1;
    }
    if (status == KIN_OK && run->count == 0)
        status = kin_fail(context, KIN_FORMAT, "%s has no line: nothing was trained", path);
    kin_free(context, text);
    return status;
}

/* The last line of train.log that begins with "plan: ". */
static kin_status read_plan(kin_context *context, const char *path, kin_report_run *run) {
    static const char key[] = "plan: ";
    char *text = NULL;
    if (!kin_file_exists(path)) return KIN_OK;
    kin_status status = kin_file_read_all(context, path, (size_t)1 << 28, &text, NULL);
    if (status != KIN_OK) return status;
    const char *last = NULL;
    for (char *line = strtok(text, "\r\n"); line; line = strtok(NULL, "\r\n"))
        if (strncmp(line, key, sizeof key - 1) == 0) last = line + sizeof key - 1;
    if (last) {
        run->plan = kin_strdup(context, last);
        if (!run->plan) status = KIN_OUT_OF_MEMORY;
    }
    kin_free(context, text);
    return status;
}

kin_status kin_report_run_read(kin_context *context, const char *folder, kin_report_run *out_run) {
    memset(out_run, 0, sizeof *out_run);
    out_run->folder = folder;
    char *config = kin_path_join(context, folder, "config.json");
    char *metrics = kin_path_join(context, folder, "metrics.jsonl");
    char *log = kin_path_join(context, folder, "train.log");
    kin_status status = config && metrics && log ? KIN_OK : KIN_OUT_OF_MEMORY;
    if (status == KIN_OK && !kin_file_is_folder(folder))
        status = kin_fail(context, KIN_NOT_FOUND, "%s is no folder of a training run", folder);
    if (status == KIN_OK) status = kin_json_load(context, config, &out_run->config);
    if (status == KIN_OK) {
        const char *task = json_string_value(json_object_get(out_run->config, "task"));
        out_run->part_name = task && strcmp(task, "vae") == 0 ? "reconstruction" : "mse";
        status = read_metrics(context, metrics, out_run);
    }
    if (status == KIN_OK) status = read_plan(context, log, out_run);
    kin_free(context, config);
    kin_free(context, metrics);
    kin_free(context, log);
    return status;
}

/* ---- the table ---- */

static void open_row(kin_html *page, const char *name) {
    kin_html_raw(page, "<tr><th>");
    kin_html_text(page, name);
    kin_html_raw(page, "</th><td>");
}

static void close_row(kin_html *page) {
    kin_html_raw(page, "</td></tr>\n");
}

static void show_value(kin_html *page, const json_t *object, const char *key) {
    char *text = json_dumps(json_object_get(object, key),
                            JSON_ENCODE_ANY | JSON_REAL_PRECISION(6) | JSON_COMPACT);
    const char *plain = json_string_value(json_object_get(object, key));
    kin_html_text(page, plain ? plain : text ? text : "");
    free(text);
}

/* Parameters of an exported part, if it is there. */
static void show_parameters(kin_html *page, const kin_report_run *run, const char *part,
                            const char *label) {
    kin_context *context = page->context;
    kin_checkpoint *file = NULL;
    int64_t parameters = 0;
    char *path = kin_path_join(context, run->folder, part);
    if (path && kin_file_is_folder(path) &&
        kin_checkpoint_open(context, path, NULL, &file) == KIN_OK) {
        for (size_t i = 0; i < kin_checkpoint_count(file); i++)
            parameters += kin_desc_count(&kin_checkpoint_at(file, i)->desc);
        kin_checkpoint_close(file);
        open_row(page, label);
        kin_html_format(page, "%.3f million parameters", (double)parameters * 1e-6);
        close_row(page);
    }
    kin_free(context, path);
}

static void show_data(kin_html *page, const json_t *data) {
    static const char *const keys[] = {"num_frames", "height", "width"};
    static const char *const after[] = {" frames of ", " x ", " pixels"};
    const char *path = json_string_value(json_object_get(data, "csv"));
    kin_csv *csv = NULL;
    open_row(page, "data");
    if (path && kin_file_exists(path) && kin_csv_open(page->context, path, &csv) == KIN_OK) {
        kin_html_format(page, "%zu clips, ", kin_csv_row_count(csv));
        kin_csv_close(csv);
    }
    for (int i = 0; i < 3; i++)
        if (json_object_get(data, keys[i])) {
            show_value(page, data, keys[i]);
            kin_html_text(page, after[i]);
        }
    if (path) {
        kin_html_text(page, ", ");
        kin_html_text(page, path);
    }
    close_row(page);
}

void kin_report_run_show(kin_html *page, const kin_report_run *run) {
    static const char *const keys[][2] = {{"steps", "steps planned"},
                                          {"batch_size", "batch size"},
                                          {"accumulate_steps", "accumulation"},
                                          {"learning_rate", "learning rate"},
                                          {"lr_schedule", "its schedule"},
                                          {"warmup_steps", "warm-up steps"},
                                          {"ema_decay", "decay of averages"},
                                          {"precision", "precision"},
                                          {"caption_dropout", "caption dropout"}};
    const char *task = json_string_value(json_object_get(run->config, "task"));
    bool vae = task && strcmp(task, "vae") == 0;
    kin_html_raw(page, "<h3>");
    kin_html_text(page, vae ? "Autoencoder (VAE)" : "Text to video (T5 and STDiT)");
    kin_html_raw(page, "</h3>\n<div class=\"wide\"><table class=\"facts\">\n");
    show_data(page, json_object_get(run->config, "data"));
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++) {
        if (!json_object_get(run->config, keys[i][0])) continue;
        open_row(page, keys[i][1]);
        show_value(page, run->config, keys[i][0]);
        close_row(page);
    }
    if (vae) show_parameters(page, run, "vae", "autoencoder");
    if (!vae) show_parameters(page, run, "model/transformer", "STDiT");
    if (!vae) show_parameters(page, run, "model/text_encoder", "text encoder");
    double last = run->steps[run->count - 1], loss = run->loss[run->count - 1];
    open_row(page, "trained");
    kin_html_format(page, "%.0f steps in %d:%02d minutes, %.0f ms a step", last,
                    (int)(run->seconds / 60), (int)run->seconds % 60,
                    last > 0 ? 1e3 * run->seconds / last : 0);
    if (isfinite(loss)) kin_html_format(page, ", last loss %.4g", loss);
    close_row(page);
    if (run->plan) {
        open_row(page, "plan of a step");
        kin_html_text(page, run->plan);
        close_row(page);
    }
    char *text = json_dumps(run->config, JSON_INDENT(2) | JSON_REAL_PRECISION(6));
    kin_html_raw(page, "</table></div>\n<details><summary>the whole configuration</summary><pre>");
    kin_html_text(page, text ? text : "");
    kin_html_raw(page, "</pre></details>\n");
    free(text);
}

/* ---- the curves ---- */

kin_status kin_report_plot(kin_context *context, const char *path, const kin_report_run *runs,
                           size_t count) {
    kin_plot_panel *panels = kin_calloc(context, count, sizeof *panels);
    kin_plot_series *series = kin_calloc(context, count * 3, sizeof *series);
    kin_status status = panels && series ? KIN_OK : KIN_OUT_OF_MEMORY;
    for (size_t i = 0; status == KIN_OK && i < count; i++) {
        const kin_report_run *run = &runs[i];
        kin_plot_series *s = series + 3 * i;
        int smooth = 1 + (int)(run->count / 50);
        s[0] =
            (kin_plot_series){"loss", run->steps, run->loss, run->count, {160, 196, 235}, 1.2, 0};
        s[1] = (kin_plot_series){"smoothed",    run->steps, run->loss, run->count,
                                 {26, 90, 170}, 2.4,        smooth};
        s[2] = (kin_plot_series){run->part_name, run->steps, run->part, run->count,
                                 {214, 120, 30}, 1.8,        smooth};
        bool vae = strcmp(run->part_name, "mse") != 0;
        panels[i] = (kin_plot_panel){.title = vae ? "autoencoder" : "text to video",
                                     .x_label = "step",
                                     .log_y = true,
                                     .series = s,
                                     .count = 3};
    }
    if (status == KIN_OK) status = kin_plot_write(context, path, panels, count);
    kin_free(context, panels);
    kin_free(context, series);
    return status;
}
