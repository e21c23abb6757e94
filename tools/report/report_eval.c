/* What kinora eval prompts measured, for the report. */
#include "tools/report/report.h"

#include "runtime/file.h"
#include "runtime/json.h"
#include "tools/data/synth.h"

#include <math.h>
#include <string.h>

enum { ALL_SEEDS = -1, MAX_SEEDS = 64 };

/* One clip: what the prompt asked for and what the pixels say. */
typedef struct verdict {
    const char *prompt, *colour, *direction;
    int64_t seed;
    double confidence;
    kin_synth_combination want;
    bool colour_right, direction_right;
} verdict;

/* False if the entry lacks something. */
static bool read_verdict(const json_t *entry, verdict *out) {
    const json_t *seed = json_object_get(entry, "seed");
    out->prompt = json_string_value(json_object_get(entry, "prompt"));
    out->colour = json_string_value(json_object_get(entry, "colour"));
    out->direction = json_string_value(json_object_get(entry, "direction"));
    out->confidence = json_number_value(json_object_get(entry, "confidence"));
    if (!out->prompt || !out->colour || !out->direction || !json_is_integer(seed) ||
        !kin_synth_parse_caption(out->prompt, &out->want))
        return false;
    out->seed = json_integer_value(seed);
    out->colour_right = strcmp(out->colour, kin_synth_colour_name(out->want.colour)) == 0;
    out->direction_right =
        strcmp(out->direction, kin_synth_direction_name(out->want.direction)) == 0;
    return true;
}

/* Entries are known to be good here. */
static kin_report_tally tally(const json_t *each, int64_t seed) {
    kin_report_tally sum = {0, 0, 0, 0};
    for (size_t i = 0; i < json_array_size(each); i++) {
        verdict v;
        if (!read_verdict(json_array_get(each, i), &v)) continue;
        if (seed != ALL_SEEDS && v.seed != seed) continue;
        sum.clips++;
        sum.colour += v.colour_right;
        sum.direction += v.direction_right;
        sum.both += v.colour_right && v.direction_right;
    }
    return sum;
}

kin_status kin_report_eval_read(kin_context *context, const char *path, kin_report_eval *out_eval) {
    memset(out_eval, 0, sizeof *out_eval);
    kin_status status = kin_json_load(context, path, &out_eval->root);
    if (status != KIN_OK) return status;
    const json_t *each = json_object_get(out_eval->root, "each");
    if (json_array_size(each) == 0)
        return kin_fail(context, KIN_FORMAT,
                        "%s has no list \"each\" of clips: it is no file of kinora eval prompts",
                        path);
    for (size_t i = 0; i < json_array_size(each); i++) {
        verdict v;
        if (!read_verdict(json_array_get(each, i), &v))
            return kin_fail(context, KIN_FORMAT,
                            "%s: clip %zu lacks prompt, seed, colour or direction, or its prompt "
                            "names none of the demo's",
                            path, i);
    }
    const char *slash = strrchr(path, '/'), *name = slash ? slash + 1 : path;
    size_t length = strlen(name);
    if (kin_path_ends_with(name, ".json")) length -= strlen(".json");
    out_eval->name = kin_strndup(context, name, length);
    out_eval->all = tally(each, ALL_SEEDS);
    return out_eval->name ? KIN_OK : KIN_OUT_OF_MEMORY;
}

void kin_report_eval_free(kin_context *context, kin_report_eval *eval) {
    json_decref(eval->root);
    kin_free(context, eval->name);
    memset(eval, 0, sizeof *eval);
}

/* Seeds in the order in which they come; at most MAX_SEEDS. */
static size_t list_seeds(const json_t *each, int64_t seeds[MAX_SEEDS]) {
    size_t count = 0;
    for (size_t i = 0; i < json_array_size(each); i++) {
        int64_t seed = json_integer_value(json_object_get(json_array_get(each, i), "seed"));
        size_t k = 0;
        while (k < count && seeds[k] != seed) k++;
        if (k == count && count < MAX_SEEDS) seeds[count++] = seed;
    }
    return count;
}

static void share(kin_html *page, int64_t part, int64_t all) {
    kin_html_raw(page, "<td>");
    kin_html_format(page, "%.1f %%", 100.0 * (double)part / (double)all);
    kin_html_raw(page, "<small>");
    kin_html_format(page, "%lld", (long long)part);
    kin_html_raw(page, "</small></td>");
}

static void tally_row(kin_html *page, const char *name, const kin_report_tally *t) {
    kin_html_raw(page, "<tr><th>");
    kin_html_text(page, name);
    kin_html_raw(page, "</th><td>");
    kin_html_format(page, "%lld", (long long)t->clips);
    kin_html_raw(page, "</td>");
    share(page, t->colour, t->clips);
    share(page, t->direction, t->clips);
    share(page, t->both, t->clips);
    kin_html_raw(page, "</tr>\n");
}

/* Wilson's interval for a share, at 95 % (z = 1.96): where the true share may lie. */
static void interval(double part, double all, double *low, double *high) {
    const double z = 1.959964, p = part / all, scale = 1 + z * z / all;
    double centre = (p + z * z / (2 * all)) / scale;
    double half = z * sqrt(p * (1 - p) / all + z * z / (4 * all * all)) / scale;
    *low = centre - half;
    *high = centre + half;
}

static void how_sampled(kin_html *page, const kin_report_eval *eval) {
    const json_t *sampling = json_object_get(eval->root, "sampling");
    const char *prompts = json_string_value(json_object_get(eval->root, "prompts"));
    const char *model = json_string_value(json_object_get(eval->root, "model"));
    const char *method = json_string_value(json_object_get(sampling, "method"));
    double low, high;
    interval((double)eval->all.both, (double)eval->all.clips, &low, &high);
    kin_html_raw(page, "<p>");
    kin_html_format(page,
                    "Were there many more clips, the share of \"both\" could be from %.0f to "
                    "%.0f %% (95 %% interval).",
                    100 * low, 100 * high);
    if (prompts && model) {
        kin_html_text(page, " Prompts in turn from ");
        kin_html_text(page, prompts);
        kin_html_text(page, ", seeds in turn, model ");
        kin_html_text(page, model);
        kin_html_text(page, ".");
    }
    if (method)
        kin_html_format(page, " Sampler: %.16s, %lld steps, guidance %g.", method,
                        (long long)json_integer_value(json_object_get(sampling, "steps")),
                        json_number_value(json_object_get(sampling, "cfg_scale")));
    kin_html_raw(page, "</p>\n");
}

static void failure_row(kin_html *page, const verdict *v) {
    const char *const cells[] = {v->prompt, v->colour, v->direction};
    const bool right[] = {true, v->colour_right, v->direction_right};
    kin_html_raw(page, "<tr>");
    for (int i = 0; i < 3; i++) {
        kin_html_raw(page, right[i] ? "<td>" : "<td class=\"wrong\">");
        kin_html_text(page, cells[i]);
        kin_html_raw(page, "</td>");
    }
    kin_html_raw(page, "<td>");
    kin_html_format(page, "%lld", (long long)v->seed);
    kin_html_raw(page, "</td><td>");
    kin_html_format(page, "%.2f", v->confidence);
    kin_html_raw(page, "</td></tr>\n");
}

static void failures(kin_html *page, const kin_report_eval *eval) {
    const json_t *each = json_object_get(eval->root, "each");
    long long wrong = (long long)(eval->all.clips - eval->all.both);
    if (wrong == 0) {
        kin_html_raw(page, "<p>Every clip has both right.</p>\n");
        return;
    }
    kin_html_raw(page, "<details><summary>");
    kin_html_format(page, "%lld of %lld clips went wrong: which and how", wrong,
                    (long long)eval->all.clips);
    kin_html_raw(page, "</summary><div class=\"wide\"><table>\n<tr><th>prompt</th><th>colour "
                       "seen</th><th>direction seen</th><th>seed</th><th>confidence</th></tr>\n");
    for (size_t i = 0; i < json_array_size(each); i++) {
        verdict v;
        if (read_verdict(json_array_get(each, i), &v) && !(v.colour_right && v.direction_right))
            failure_row(page, &v);
    }
    kin_html_raw(page, "</table></div></details>\n");
}

void kin_report_eval_show(kin_html *page, const kin_report_eval *eval) {
    const json_t *each = json_object_get(eval->root, "each");
    int64_t seeds[MAX_SEEDS];
    size_t count = list_seeds(each, seeds);
    kin_html_raw(page, "<h3>");
    kin_html_text(page, eval->name);
    kin_html_raw(page, "</h3>\n<div class=\"wide\"><table class=\"numbers\">\n<tr><th></th>"
                       "<th>clips</th><th>colour</th><th>direction</th><th>both</th></tr>\n");
    for (size_t k = 0; k < count; k++) {
        char name[32];
        kin_report_tally part = tally(each, seeds[k]);
        snprintf(name, sizeof name, "seed %lld", (long long)seeds[k]);
        tally_row(page, name, &part);
    }
    tally_row(page, "all", &eval->all);
    kin_html_raw(page, "</table></div>\n");
    how_sampled(page, eval);
    failures(page, eval);
}

/* tools/report/eval_pixels.h has the rule. */
void kin_report_eval_explain(kin_html *page) {
    kin_html_raw(
        page,
        "<p>Each clip is made from a prompt and a seed by the same model with the same settings. "
        "The noise it starts from is drawn from its seed and its number. "
        "Every clip that was made is counted: none was made again, none was chosen. The pixels "
        "decide, not a person:</p>\n<ul>\n"
        "<li>In each frame the largest connected region counts whose pixels are colourful and far "
        "from the background, which is the frame's median colour. Three quarters of the frames "
        "must have one.</li>\n"
        "<li><b>Colour</b>: the region's median colour votes in each frame for the nearest of the "
        "six colours of the data set; three quarters of the votes decide. It is right if it is the "
        "colour in the prompt.</li>\n"
        "<li><b>Direction</b>: a straight line is fitted through the region's centres by least "
        "squares. It must go at least an eighth of the picture along one axis, and 1.5 times as "
        "far as along the other. It is right if that is the direction in the prompt.</li>\n"
        "<li><b>Both</b>: colour and direction of the same clip are right. \"none\" means that no "
        "colour or direction was clear; it counts as wrong. The shape is not measured.</li>\n"
        "</ul>\n<p>Small figures are numbers of clips.</p>\n");
}
