/* kinora train: one configuration file, overrides, resuming. */
#include "tools/train/train.h"

#include "tools/tool.h"
#include "tools/verbs.h"

enum { MAX_SETS = 64 };

typedef struct request {
    kin_common common;
    const char *config;
    const char *sets[MAX_SETS];
    int set_count;
    int64_t stage;
    bool resume;
} request;

/* Trains, in a group if there are several ranks. */
static kin_status run(request *r, kin_ranks *ranks) {
    kin_context *context = r->common.context;
    kin_device *device = r->common.handle;
    kin_train_config config;
    kin_group *group = NULL;
    char bytes[32];
    kin_status status = kin_train_config_load(context, r->config, r->sets, r->set_count, &config);
    if (status == KIN_OK && r->stage > 0 && config.stage_count == 0)
        status = kin_fail(context, KIN_INVALID, "%s has no stages: leave out --stage", r->config);
    config.only_stage = (int)r->stage;
    config.ranks = ranks;
    status = kin_ranks_agree(ranks, status);
    if (status == KIN_OK && ranks) {
        status = kin_group_join(device, &ranks->transport, &group);
        if (status == KIN_OK)
            kin_log(context, KIN_LOG_INFO, "%d ranks, sums between them by %s, in %s", ranks->count,
                    kin_group_is_on_device(group) ? "the devices" : "way of the host",
                    kin_bytes_text(kin_group_bytes(group), bytes, sizeof bytes));
    }
    if (status == KIN_OK) status = kin_train(context, device, &config, r->resume, r->common.quiet);
    kin_group_leave(group);
    kin_train_config_free(&config);
    return status;
}

/* Prints the error, once if all ranks know of it. */
static int tell(request *r, const char *verb, const kin_ranks *ranks, kin_status status) {
    char name[64];
    snprintf(name, sizeof name, "%s", verb);
    if (ranks && ranks->agreed && ranks->rank != 0)
        return status == KIN_INVALID ? KIN_EXIT_USAGE : KIN_EXIT_FAILED;
    if (ranks && !ranks->agreed) snprintf(name, sizeof name, "%s, rank %d", verb, ranks->rank);
    return kin_report(r->common.context, name, status);
}

int kin_verb_train(int count, char **arguments) {
    static const char verb[] = "train";
    request r = {.stage = 0};
    const char *how = NULL;
    int left = 0;
    const kin_flag flags[] = {
        {.name = "set",
         .argument = "KEY=VALUE",
         .list = r.sets,
         .list_capacity = MAX_SETS,
         .list_count = &r.set_count,
         .help = "overrides a key of the configuration, dotted: data.csv=clips.csv"},
        {.name = "stage",
         .argument = "N",
         .integer = &r.stage,
         .help = "of a configuration with stages, run this one alone, from 1"},
        {.name = "resume",
         .on = &r.resume,
         .help = "go on from the newest checkpoint of the output"},
        {.name = "ranks",
         .argument = "N",
         .text = &how,
         .help = "train with N processes of this machine; mpi: those that mpirun started"},
        KIN_COMMON_FLAGS(&r.common),
    };
    int code =
        kin_parse_flags(verb, flags, sizeof flags / sizeof *flags, count, arguments, 1, 1, &left);
    if (code >= 0) return code;
    if (r.stage < 0 || r.stage > KIN_TRAIN_MAX_STAGES)
        return kin_usage_error(verb, "--stage must lie within 1 and %d", KIN_TRAIN_MAX_STAGES);
    r.config = arguments[0];
    kin_ranks *ranks;
    code = kin_ranks_start(verb, how, &ranks);
    if (code >= 0) return code;
    if (ranks) {
        r.common.local_rank = ranks->local_rank;
        r.common.local_count = ranks->local_count;
        if (ranks->rank > 0) r.common.quiet = true; /* rank 0 tells what all of them do */
    }
    code = kin_common_open(&r.common, true);
    if (code >= 0) {
        kin_ranks_end(ranks, true);
        return code;
    }
    if (ranks) ranks->context = r.common.context;
    kin_catch_interrupts();
    kin_status status = run(&r, ranks);
    code = status == KIN_OK ? KIN_EXIT_OK : tell(&r, verb, ranks, status);
    bool alone = status != KIN_OK && ranks && !ranks->agreed;
    kin_common_close(&r.common);
    kin_ranks_end(ranks, alone);
    return code;
}
