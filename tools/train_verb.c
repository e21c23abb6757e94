/* kinora train: one configuration file, overrides, resuming. */
#include "tools/train.h"

#include "tools/tool.h"
#include "tools/verbs.h"

enum { MAX_SETS = 64 };

int kin_verb_train(int count, char **arguments) {
    static const char verb[] = "train";
    kin_common common = {0};
    const char *sets[MAX_SETS];
    int set_count = 0, left = 0;
    bool resume = false;
    const kin_flag flags[] = {
        {.name = "set",
         .argument = "KEY=VALUE",
         .list = sets,
         .list_capacity = MAX_SETS,
         .list_count = &set_count,
         .help = "overrides a key of the configuration, dotted: data.csv=clips.csv"},
        {.name = "resume", .on = &resume, .help = "go on from the newest checkpoint of the output"},
        KIN_COMMON_FLAGS(&common),
    };
    int code =
        kin_parse_flags(verb, flags, sizeof flags / sizeof *flags, count, arguments, 1, 1, &left);
    if (code >= 0) return code;
    code = kin_common_open(&common, true);
    if (code >= 0) return code;
    kin_catch_interrupts();
    kin_train_config config;
    kin_status status =
        kin_train_config_load(common.context, arguments[0], sets, set_count, &config);
    if (status == KIN_OK) {
        status = kin_train(common.context, common.handle, &config, resume, common.quiet);
        kin_train_config_free(&config);
    }
    code = status == KIN_OK ? KIN_EXIT_OK : kin_report(common.context, verb, status);
    kin_common_close(&common);
    return code;
}
