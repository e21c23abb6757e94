/* kinora train: one configuration file, overrides, resuming. */
#include "tools/train/train.h"

#include "tools/tool.h"
#include "tools/verbs.h"

enum { MAX_SETS = 64 };

int kin_verb_train(int count, char **arguments) {
    static const char verb[] = "train";
    kin_common common = {0};
    const char *sets[MAX_SETS];
    int set_count = 0, left = 0;
    int64_t stage = 0;
    bool resume = false;
    const kin_flag flags[] = {
        {.name = "set",
         .argument = "KEY=VALUE",
         .list = sets,
         .list_capacity = MAX_SETS,
         .list_count = &set_count,
         .help = "overrides a key of the configuration, dotted: data.csv=clips.csv"},
        {.name = "stage",
         .argument = "N",
         .integer = &stage,
         .help = "of a configuration with stages, run this one alone, from 1"},
        {.name = "resume", .on = &resume, .help = "go on from the newest checkpoint of the output"},
        KIN_COMMON_FLAGS(&common),
    };
    int code =
        kin_parse_flags(verb, flags, sizeof flags / sizeof *flags, count, arguments, 1, 1, &left);
    if (code >= 0) return code;
    if (stage < 0 || stage > KIN_TRAIN_MAX_STAGES)
        return kin_usage_error(verb, "--stage must lie within 1 and %d", KIN_TRAIN_MAX_STAGES);
    code = kin_common_open(&common, true);
    if (code >= 0) return code;
    kin_catch_interrupts();
    kin_train_config config;
    kin_status status =
        kin_train_config_load(common.context, arguments[0], sets, set_count, &config);
    if (status == KIN_OK && stage > 0 && config.stage_count == 0)
        status = kin_fail(common.context, KIN_INVALID, "%s has no stages: leave out --stage",
                          arguments[0]);
    config.only_stage = (int)stage;
    if (status == KIN_OK)
        status = kin_train(common.context, common.handle, &config, resume, common.quiet);
    kin_train_config_free(&config);
    code = status == KIN_OK ? KIN_EXIT_OK : kin_report(common.context, verb, status);
    kin_common_close(&common);
    return code;
}
