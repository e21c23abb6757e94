/* Reference cases: folders with a small model, its inputs, and what the original implementation
 * returned (shared/reference/README.md tells the format). Behind `kinora check case`. */
#ifndef KIN_TOOLS_CASE_H
#define KIN_TOOLS_CASE_H

#include "runtime/device.h"

#include <stdio.h>

struct kin_graph;
struct kin_check_values;

typedef enum kin_case_verdict {
    KIN_CASE_PASSED,
    KIN_CASE_FAILED, /* an output is off, or the case could not be computed */
    KIN_CASE_NOT_YET /* a system that this program does not know */
} kin_case_verdict;

typedef struct kin_case_report {
    kin_case_verdict verdict;
    char name[96];       /* the folder's */
    int compared, off;   /* outputs compared, and those out of tolerance */
    double worst;        /* the largest error as a fraction of its tolerance */
    char worst_name[96]; /* and the output it belongs to */
    char first_off[96];  /* the first output that is off, hidden states first; "" if none */
} kin_case_report;

typedef struct kin_case_options {
    bool recompute;       /* plan with every segment recomputed */
    bool allow_reference; /* ops that the device lacks run by the host reference */
    bool check_nodes;     /* each node also through its reference on the host; names the first that
                             is off (slow) */
    bool brief;           /* print only what is off, and the verdict */
    /* Sees each graph of a model before its plan runs, with what it is given; it may add outputs to
     * the graph. NULL: nobody does. */
    void (*watch)(void *user, struct kin_graph *graph, const struct kin_check_values *values);
    void *watch_user;
} kin_case_options;

typedef struct kin_case_summary {
    int passed, failed, not_yet;
} kin_case_summary;

/* Runs the case in `folder` on the device and prints each output's error beside its tolerance to
 * `out`. options may be NULL. KIN_OK whenever there is a verdict, in *out_report; KIN_NOT_FOUND,
 * KIN_FORMAT or KIN_IO if the folder holds no readable case. */
kin_status kin_tool_check_case(kin_context *context, kin_device *device, const char *folder,
                               const kin_case_options *options, FILE *out,
                               kin_case_report *out_report);

/* `folder` is a case, or a folder of cases: those are run in the order of their names (only names
 * that begin with one of the prefixes, unless prefix_count is 0) and a summary is printed. */
kin_status kin_tool_check_cases(kin_context *context, kin_device *device, const char *folder,
                                const char *const *prefixes, size_t prefix_count,
                                const kin_case_options *options, FILE *out,
                                kin_case_summary *out_summary);

#endif
