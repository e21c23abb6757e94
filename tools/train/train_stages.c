/* Runs of several stages. */
#include "tools/train/train.h"

#include "runtime/file.h"
#include "tools/tool.h"

#include <string.h>

/* The newest checkpoint's step; -1: none. */
static int64_t reached(kin_context *context, const kin_train_config *stage) {
    char *path = NULL;
    int64_t step = -1;
    if (kin_train_checkpoint_find(context, stage->output, &path, &step) != KIN_OK) step = -1;
    kin_free(context, path);
    return step;
}

/* All steps are done, and what the next stage needs is there. */
static bool finished(kin_context *context, const kin_train_config *stage) {
    const char *left =
        stage->task == KIN_TRAIN_VIDEO ? "model/model_index.json" : "vae/config.json";
    char *path = kin_path_join(context, stage->output, left);
    bool there = path && kin_file_exists(path);
    kin_free(context, path);
    return there && reached(context, stage) >= stage->steps;
}

static kin_status run_stage(kin_context *context, kin_device *device,
                            const kin_train_config *config, int index, bool resume, bool quiet) {
    kin_train_config *stage = &config->stages[index];
    stage->ranks = config->ranks;
    int done = resume && finished(context, stage); /* as rank 0 sees it */
    kin_status status = kin_ranks_broadcast(config->ranks, &done, sizeof done);
    if (status != KIN_OK) return status;
    if (done) {
        kin_log(context, KIN_LOG_INFO, "stage %d of %d is done: %s", index + 1, config->stage_count,
                stage->output);
        return KIN_OK;
    }
    const kin_train_config *before = index > 0 ? &config->stages[index - 1] : NULL;
    if (before && strcmp(stage->init_path, before->output) == 0 && !finished(context, before))
        return kin_fail(context, KIN_NOT_FOUND,
                        "stage %d begins with what stage %d leaves in %s, which is not finished: "
                        "run the stage before first",
                        index + 1, index, before->output);
    kin_log(context, KIN_LOG_INFO, "stage %d of %d: %s", index + 1, config->stage_count,
            stage->output);
    stage->stop_at = config->stop_stage == index + 1 ? config->stop_at : 0;
    status = kin_train(context, device, stage, resume, quiet);
    if (status != KIN_OK && status != KIN_CANCELLED)
        return kin_fail_in(context, status, "stage %d", index + 1);
    return status;
}

kin_status kin_train_stages(kin_context *context, kin_device *device,
                            const kin_train_config *config, bool resume, bool quiet) {
    int first = config->only_stage > 0 ? config->only_stage - 1 : 0;
    int end = config->only_stage > 0 ? config->only_stage : config->stage_count;
    if (end > config->stage_count)
        return kin_fail(context, KIN_INVALID, "there is no stage %d, but %d", end,
                        config->stage_count);
    for (int i = first; i < end && !resume; i++) {
        int64_t step = reached(context, &config->stages[i]);
        if (step >= 0)
            return kin_fail(context, KIN_INVALID,
                            "%s already holds a run, up to step %lld: add --resume to go on, or "
                            "choose another output",
                            config->stages[i].output, (long long)step);
    }
    kin_status status = KIN_OK;
    for (int i = first; status == KIN_OK && i < end; i++)
        status = run_stage(context, device, config, i, resume, quiet);
    return status;
}
