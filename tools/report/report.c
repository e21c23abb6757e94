/* kinora report: one HTML file with the curves, the numbers and the clips of a model. */
#define _POSIX_C_SOURCE 200809L
#include "tools/report/report.h"

#include "runtime/file.h"
#include "tools/build_info.h"
#include "tools/tool.h"
#include "tools/verbs.h"

#include <string.h>
#include <sys/utsname.h>
#include <time.h>

static const char verb[] = "report";

static const char style[] =
    "<style>\n"
    ":root{color-scheme:light dark;--ink:#1d2330;--soft:#5b6475;--paper:#fff;--card:#f3f5f8;"
    "--line:#d5dae2;--wrong:#b3261e}\n"
    "@media(prefers-color-scheme:dark){:root{--ink:#e6e9ef;--soft:#9aa4b5;--paper:#12151b;"
    "--card:#1c212a;--line:#333b48;--wrong:#ff8a80}}\n"
    "body{margin:0 auto;padding:1rem;max-width:70rem;background:var(--paper);color:var(--ink);"
    "font:16px/1.5 system-ui,sans-serif}\n"
    "h1{font-size:1.6rem;margin:.5rem 0}h2{font-size:1.25rem;margin:2rem 0 .5rem;"
    "border-bottom:1px solid var(--line)}h3{font-size:1rem;margin:1.2rem 0 .4rem}\n"
    "table{border-collapse:collapse}th,td{padding:.3rem .7rem;text-align:left;vertical-align:top;"
    "border-bottom:1px solid var(--line)}\n"
    ".numbers td,.numbers th+th{text-align:right}.facts th{font-weight:400;color:var(--soft);"
    "white-space:nowrap}\n"
    "small{color:var(--soft);margin-left:.5em}.wrong{color:var(--wrong);font-weight:600}\n"
    ".wide{overflow-x:auto}pre{overflow-x:auto;padding:.7rem;background:var(--card);font-size:13px}"
    "\n.cards,.row{display:flex;flex-wrap:wrap;gap:1rem}.card{background:var(--card);"
    "padding:.7rem 1rem;border-radius:8px}.card b{display:block;font-size:1.7rem}\n"
    "figure{margin:0;min-width:0}figcaption{color:var(--soft);font-size:.9rem;"
    "overflow-wrap:anywhere}\n"
    "img{max-width:100%;height:auto;background:#fff}.pixels img,video{image-rendering:pixelated}\n"
    ".videos figure{width:10rem}video{width:100%;aspect-ratio:1;background:#000;display:block}\n"
    ".pixels figure{flex:1 1 18rem}summary{cursor:pointer;color:var(--soft)}\n"
    "</style>\n";

/* What is read before the page is written. */
typedef struct material {
    kin_report_run runs[KIN_REPORT_LIST];
    kin_report_eval evals[KIN_REPORT_LIST];
    char *plot;
} material;

static kin_status read_material(kin_context *context, const kin_report_options *o, material *m) {
    kin_status status = KIN_OK;
    for (int i = 0; status == KIN_OK && i < o->runs.count; i++)
        status = kin_report_run_read(context, o->runs.items[i], &m->runs[i]);
    for (int i = 0; status == KIN_OK && i < o->evals.count; i++)
        status = kin_report_eval_read(context, o->evals.items[i], &m->evals[i]);
    if (status != KIN_OK || o->runs.count == 0) return status;
    char *folder = kin_path_folder(context, o->output);
    m->plot = folder ? kin_path_join(context, folder, "loss.png") : NULL;
    kin_free(context, folder);
    return m->plot ? kin_report_plot(context, m->plot, m->runs, (size_t)o->runs.count)
                   : KIN_OUT_OF_MEMORY;
}

static void free_material(kin_context *context, material *m) {
    for (int i = 0; i < KIN_REPORT_LIST; i++) {
        kin_report_run_free(context, &m->runs[i]);
        kin_report_eval_free(context, &m->evals[i]);
    }
    kin_free(context, m->plot);
    kin_free(context, m);
}

static void show_head(kin_html *page, const kin_report_options *o) {
    char date[64] = "";
    time_t now = time(NULL);
    struct tm parts;
    if (localtime_r(&now, &parts)) strftime(date, sizeof date, "%Y-%m-%d %H:%M", &parts);
    kin_html_raw(page, "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\n"
                       "<meta name=\"viewport\" content=\"width=device-width,initial-scale=1\">\n"
                       "<link rel=\"icon\" href=\"data:,\">\n<title>");
    kin_html_text(page, o->title);
    kin_html_raw(page, "</title>\n");
    kin_html_raw(page, style);
    kin_html_raw(page, "</head><body>\n<h1>");
    kin_html_text(page, o->title);
    kin_html_raw(page, "</h1>\n<p><small>");
    kin_html_format(page, "%s, Kinora %s", date, kin_version());
    kin_html_raw(page, "</small></p>\n");
    for (int i = 0; i < o->notes.count; i++) {
        kin_html_raw(page, "<p>");
        kin_html_text(page, o->notes.items[i]);
        kin_html_raw(page, "</p>\n");
    }
}

static void show_evals(kin_html *page, const kin_report_options *o, const material *m) {
    if (o->evals.count == 0) return;
    kin_html_raw(page, "<h2>Does it do what the prompt says?</h2>\n<div class=\"cards\">");
    for (int i = 0; i < o->evals.count; i++) {
        const kin_report_eval *e = &m->evals[i];
        kin_html_raw(page, "<div class=\"card\"><b>");
        kin_html_format(page, "%.1f %%", 100.0 * (double)e->all.both / (double)e->all.clips);
        kin_html_raw(page, "</b>");
        kin_html_format(page, "colour and direction right, %lld clips, ", (long long)e->all.clips);
        kin_html_text(page, e->name);
        kin_html_raw(page, "</div>\n");
    }
    kin_html_raw(page, "</div>\n");
    for (int i = 0; i < o->evals.count; i++) kin_report_eval_show(page, &m->evals[i]);
    kin_html_raw(page, "<h3>How it was measured</h3>\n");
    kin_report_eval_explain(page);
}

/* "folder/real-seen.png" -> "real-seen" */
static void show_sheet(kin_html *page, const char *path) {
    char label[128];
    const char *slash = strrchr(path, '/'), *name = slash ? slash + 1 : path;
    size_t length = kin_path_ends_with(name, ".png") ? strlen(name) - 4 : strlen(name);
    snprintf(label, sizeof label, "%.*s", (int)(length < 120 ? length : 120), name);
    kin_html_image(page, path, label);
}

static void show_pictures(kin_html *page, const kin_report_options *o) {
    if (o->videos.count) {
        kin_html_raw(page, "<h2>Generated clips</h2>\n<div class=\"row videos\">\n");
        for (int i = 0; i < o->videos.count; i++) kin_html_video(page, o->videos.items[i]);
        kin_html_raw(page, "</div>\n");
    }
    if (o->sheets.count) {
        kin_html_raw(page, "<h2>Generated against real</h2>\n<p>One clip a row, its frames from "
                           "left to right.</p>\n<div class=\"row pixels\">\n");
        for (int i = 0; i < o->sheets.count; i++) show_sheet(page, o->sheets.items[i]);
        kin_html_raw(page, "</div>\n");
    }
}

static void show_training(kin_html *page, const kin_report_options *o, const material *m) {
    if (o->runs.count == 0) return;
    kin_html_raw(page, "<h2>Training</h2>\n");
    kin_html_image(page, m->plot,
                   "Loss by step, on a log scale; the dark line is the mean of "
                   "neighbouring values");
    for (int i = 0; i < o->runs.count; i++) kin_report_run_show(page, &m->runs[i]);
}

static void show_machine(kin_html *page, const char *lines) {
    kin_html_raw(page, "<h2>Machine and version</h2>\n<div class=\"wide\"><table class=\"facts\">"
                       "\n");
    char *text = kin_strdup(page->context, lines);
    if (!text) page->status = KIN_OUT_OF_MEMORY;
    for (char *line = text ? strtok(text, "\n") : NULL; line; line = strtok(NULL, "\n")) {
        char *value = strchr(line, '\t');
        if (value) *value++ = 0;
        kin_html_raw(page, "<tr><th>");
        kin_html_text(page, line);
        kin_html_raw(page, "</th><td>");
        kin_html_text(page, value ? value : "");
        kin_html_raw(page, "</td></tr>\n");
    }
    kin_html_raw(page, "</table></div>\n");
    kin_free(page->context, text);
}

kin_status kin_report_write(kin_context *context, const kin_report_options *options) {
    kin_html page = {.context = context, .status = KIN_OK};
    material *m = kin_calloc(context, 1, sizeof *m);
    if (!m) return KIN_OUT_OF_MEMORY;
    kin_status status = read_material(context, options, m);
    if (status == KIN_OK) {
        show_head(&page, options);
        show_evals(&page, options, m);
        show_pictures(&page, options);
        show_training(&page, options, m);
        if (options->machine) show_machine(&page, options->machine);
        kin_html_raw(&page, "</body></html>\n");
        status = page.status;
    }
    if (status == KIN_OK)
        status = kin_file_write_atomic(context, options->output, page.data, page.used);
    for (int i = 0; status == KIN_OK && i < options->evals.count; i++) {
        const kin_report_tally *t = &m->evals[i].all;
        kin_log(context, KIN_LOG_INFO,
                "%s: %lld clips, colour %.1f %%, direction %.1f %%, both %.1f %%", m->evals[i].name,
                (long long)t->clips, 100.0 * (double)t->colour / (double)t->clips,
                100.0 * (double)t->direction / (double)t->clips,
                100.0 * (double)t->both / (double)t->clips);
    }
    kin_html_free(&page);
    free_material(context, m);
    return status;
}

/* ---- the verb ---- */

/* Lines for kin_report_options.machine. */
static void describe_machine(kin_common *common, char *text, size_t size) {
    struct utsname system;
    kin_device *cpu = NULL;
    char memory[32], processor[256] = "unknown";
    if (uname(&system) != 0) memset(&system, 0, sizeof system);
    if (kin_device_open(common->backends, "cpu", &cpu) == KIN_OK) {
        snprintf(processor, sizeof processor, "%.120s, %d threads; %s of memory",
                 cpu->info.description, cpu->info.threads,
                 kin_bytes_text(cpu->info.memory_total, memory, sizeof memory));
        kin_device_close(cpu);
    }
    snprintf(text, size,
             "kinora\t%s\nbuild\t%s, compiler %s\nleft out\t%s\nsystem\t%s %s %s\nprocessor\t%s\n",
             kin_version(), KINORA_BUILD_TYPE, KINORA_COMPILER,
             KINORA_LEFT_OUT[0] ? KINORA_LEFT_OUT : "nothing", system.sysname, system.release,
             system.machine, processor);
}

/* A flag that may be given several times. */
static kin_flag list_flag(const char *name, const char *argument, kin_report_list *list,
                          const char *help) {
    return (kin_flag){.name = name,
                      .argument = argument,
                      .list = list->items,
                      .list_capacity = KIN_REPORT_LIST,
                      .list_count = &list->count,
                      .help = help};
}

int kin_verb_report(int count, char **arguments) {
    kin_common common = {0};
    kin_report_options o = {.title = "Kinora report", .output = "report.html"};
    int left = 0;
    const kin_flag flags[] = {
        {.name = "title", .argument = "TEXT", .text = &o.title, .help = "heading of the page"},
        list_flag("note", "TEXT", &o.notes, "a paragraph under the title; several times"),
        list_flag("run", "DIR", &o.runs, "output folder of kinora train; several times"),
        list_flag("eval", "FILE", &o.evals, "results of kinora eval prompts; several times"),
        list_flag("sheet", "FILE", &o.sheets, "a contact sheet (PNG); several times"),
        list_flag("video", "FILE", &o.videos, "a generated clip (MP4); several times"),
        {.name = "output",
         .letter = 'o',
         .argument = "FILE",
         .text = &o.output,
         .help = "the page; loss.png is written beside it; default report.html"},
        {.name = "threads",
         .letter = 't',
         .argument = "N",
         .integer = &common.threads,
         .help = "threads that the page tells of; default: all processors"},
        {.name = "quiet", .letter = 'q', .on = &common.quiet, .help = "errors only"},
        {.name = "verbose", .letter = 'v', .on = &common.verbose, .help = "more of what happens"},
    };
    int code =
        kin_parse_flags(verb, flags, sizeof flags / sizeof *flags, count, arguments, 0, 0, &left);
    if (code >= 0) return code;
    if (o.runs.count + o.evals.count + o.sheets.count + o.videos.count == 0)
        return kin_usage_error(verb, "there is nothing to report: give --run, --eval, --sheet or "
                                     "--video");
    code = kin_common_open(&common, false);
    if (code >= 0) return code;
    char machine[1024];
    describe_machine(&common, machine, sizeof machine);
    o.machine = machine;
    kin_status status = kin_report_write(common.context, &o);
    code = status == KIN_OK ? KIN_EXIT_OK : kin_report(common.context, verb, status);
    if (status == KIN_OK) printf("%s\n", o.output);
    kin_common_close(&common);
    return code;
}
