/* A report of training runs and evaluations as one HTML file. */
#ifndef KIN_TOOLS_REPORT_H
#define KIN_TOOLS_REPORT_H

#include "tools/report/html.h"
#include "tools/report/plot.h"

#include <jansson.h>

enum { KIN_REPORT_LIST = 64 };

typedef struct kin_report_list {
    const char *items[KIN_REPORT_LIST];
    int count;
} kin_report_list;

typedef struct kin_report_options {
    const char *title, *output;
    const char *machine;   /* lines "name\tvalue" of this machine and build */
    kin_report_list notes; /* paragraphs under the title */
    kin_report_list runs;  /* folders of kinora train */
    kin_report_list evals; /* files of kinora eval prompts */
    kin_report_list sheets, videos;
} kin_report_options;

/* Writes the page, and loss.png beside it if there are runs. Missing and malformed files are errors
 * that name the file. */
kin_status kin_report_write(kin_context *context, const kin_report_options *options);

/* ---- one run (tools/report/report_run.c) ---- */

typedef struct kin_report_run {
    const char *folder;
    json_t *config;      /* config.json */
    char *plan;          /* the trainer's line about memory, from train.log; NULL: no such file */
    double *steps;       /* of metrics.jsonl, with the values below; NAN where one is missing */
    double *loss, *part; /* part: reconstruction or mse */
    const char *part_name;
    size_t count;
    double seconds; /* of all steps together */
} kin_report_run;

/* Freed by kin_report_run_free, after a failure too. */
kin_status kin_report_run_read(kin_context *context, const char *folder, kin_report_run *out_run);
void kin_report_run_free(kin_context *context, kin_report_run *run);
/* A table, and the whole configuration. */
void kin_report_run_show(kin_html *page, const kin_report_run *run);
/* One chart a run. */
kin_status kin_report_plot(kin_context *context, const char *path, const kin_report_run *runs,
                           size_t count);

/* ---- one evaluation (tools/report/report_eval.c) ---- */

/* Counted from the list of clips in the file, not taken from its totals. */
typedef struct kin_report_tally {
    int64_t clips, colour, direction, both;
} kin_report_tally;

typedef struct kin_report_eval {
    char *name; /* the file's, without folder and extension */
    json_t *root;
    kin_report_tally all;
} kin_report_eval;

kin_status kin_report_eval_read(kin_context *context, const char *path, kin_report_eval *out_eval);
void kin_report_eval_free(kin_context *context, kin_report_eval *eval);
/* Table by seed; how it was sampled; list of failures. */
void kin_report_eval_show(kin_html *page, const kin_report_eval *eval);
/* How colour and direction are decided. */
void kin_report_eval_explain(kin_html *page);

#endif
