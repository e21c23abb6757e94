/* kinora check case: reference cases of the original implementations. */
#include "tools/check/case.h"
#include "tools/tool.h"
#include "tools/verbs.h"

static const char verb[] = "check case";

int kin_verb_check_case(int count, char **arguments) {
    kin_common common = {0};
    kin_case_options options = {0};
    kin_case_summary total = {0};
    int left = 0;
    const kin_flag flags[] = {
        {.name = "recompute",
         .on = &options.recompute,
         .help = "recompute all segments in the backward pass"},
        {.name = "allow-reference",
         .on = &options.allow_reference,
         .help = "ops that the device lacks run on the host (slow)"},
        {.name = "nodes",
         .on = &options.check_nodes,
         .help = "hold every node against its reference, too (slow)"},
        {.name = "brief", .on = &options.brief, .help = "what is off, and the verdicts"},
        KIN_COMMON_FLAGS(&common),
    };
    int code = kin_parse_flags(verb, flags, sizeof flags / sizeof *flags, count, arguments, 1, 4096,
                               &left);
    if (code < 0) code = kin_common_open(&common, true);
    if (code >= 0) return code;
    code = KIN_EXIT_OK;
    for (int i = 0; i < left; i++) {
        kin_case_summary summary = {0};
        kin_status status = kin_tool_check_cases(common.context, common.handle, arguments[i], NULL,
                                                 0, &options, stdout, &summary);
        if (status != KIN_OK) code = kin_report(common.context, verb, status);
        total.passed += summary.passed;
        total.failed += summary.failed;
        total.not_yet += summary.not_yet;
    }
    if (left > 1)
        printf("total: %d passed, %d failed, %d not yet\n", total.passed, total.failed,
               total.not_yet);
    if (total.failed || total.not_yet || !total.passed) code = code ? code : KIN_EXIT_FAILED;
    kin_common_close(&common);
    return code;
}
