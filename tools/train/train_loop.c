/* The training loop: steps, metrics, checkpoints, resuming. */
#include "tools/train/train.h"

#include "runtime/file.h"
#include "runtime/json.h"
#include "runtime/safetensors.h"
#include "runtime/weights.h"
#include "tools/tool.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_SKIPPED = 3, MAX_METRICS = 16 };

/* In a checkpoint: by how many ranks it was made, and their samples of one forward pass. */
#define RANKS_KEY "kinora.ranks"
#define BATCH_KEY "kinora.batch"

struct kin_trainer {
    kin_context *context;
    kin_device *device;
    const kin_train_config *config;
    const kin_train_task_ops *ops;
    void *task;
    kin_store *store;
    kin_train_plans *plans; /* forward and backward, with the update unless steps accumulate */
    kin_metrics *metrics;
    int64_t done; /* optimizer steps */
    int skipped;  /* in a row */
    bool resume, quiet;
};

/* Rank 0 alone writes: checkpoints, metrics, samples, the model. */
static bool is_first(const kin_trainer *t) {
    return kin_train_rank(t->config) == 0;
}

static kin_status save(kin_trainer *t) {
    char *path = kin_train_checkpoint_path(t->context, t->config->output, t->done);
    if (!path) return KIN_OUT_OF_MEMORY;
    char step[32], seed[32], ranks[32], batch[32];
    int count = kin_train_ranks(t->config);
    snprintf(step, sizeof step, "%lld", (long long)t->done);
    snprintf(seed, sizeof seed, "%lld", (long long)t->config->seed);
    snprintf(ranks, sizeof ranks, "%d", count);
    snprintf(batch, sizeof batch, "%lld", (long long)(t->config->batch_size * count));
    kin_metadata metadata[] = {
        {"kinora.step", step}, {"kinora.seed", seed}, {RANKS_KEY, ranks}, {BATCH_KEY, batch}};
    kin_status status = kin_store_save(t->store, path, metadata, 4);
    kin_free(t->context, path);
    if (status == KIN_OK)
        kin_train_checkpoint_prune(t->context, t->config->output, t->config->keep_checkpoints);
    return status;
}

/* The order of the clips and all random numbers are those of the whole batch, so another number of
 * ranks must share out a batch of the same size. Older checkpoints do not say. */
static kin_status check_ranks(kin_trainer *t, const char *path) {
    kin_safetensors *file;
    int ranks = kin_train_ranks(t->config);
    long long batch = (long long)t->config->batch_size * ranks;
    kin_status status = kin_safetensors_open(t->context, path, &file);
    if (status != KIN_OK) return status;
    const char *had_ranks = kin_safetensors_metadata(file, RANKS_KEY);
    const char *had_batch = kin_safetensors_metadata(file, BATCH_KEY);
    if (had_ranks && had_batch && atoi(had_ranks) != ranks) {
        long long had = atoll(had_batch), each = atoll(had_ranks) > 0 ? had / atoll(had_ranks) : 0;
        if (had != batch)
            status = kin_fail(
                t->context, KIN_INVALID,
                "%s is of %s ranks with %lld samples each, %lld in all; here %d ranks "
                "with %lld each are %lld: the same number of ranks, or a batch_size "
                "that gives %lld, goes on with the same clips",
                path, had_ranks, each, had, ranks, (long long)t->config->batch_size, batch, had);
        else
            kin_log(
                t->context, KIN_LOG_WARN,
                "the run was made by %s ranks and goes on with %d: the clips are the same%s, the "
                "bits are not",
                had_ranks, ranks,
                t->config->order.buckets ? " if the buckets' batches of all ranks are" : "");
    }
    kin_safetensors_close(file);
    return status;
}

static kin_status resume_from(kin_trainer *t) {
    char *path;
    kin_status status = kin_train_checkpoint_find(t->context, t->config->output, &path, &t->done);
    if (status == KIN_NOT_FOUND) {
        kin_log(t->context, KIN_LOG_INFO, "nothing to resume in %s: starting anew",
                t->config->output);
        return KIN_OK;
    }
    if (status == KIN_OK) status = check_ranks(t, path);
    if (status == KIN_OK) status = kin_store_load(t->store, path);
    if (status == KIN_OK) kin_log(t->context, KIN_LOG_INFO, "resuming from %s", path);
    kin_free(t->context, path);
    return status;
}

/* Refuses to write over another run, unless resuming; keeps the configuration beside the results.
 */
static kin_status prepare_folder(void *user) {
    kin_trainer *t = user;
    const char *output = t->config->output;
    char *old = NULL;
    int64_t step;
    kin_status status = kin_make_folders(t->context, output);
    if (status == KIN_OK && !t->resume &&
        kin_train_checkpoint_find(t->context, output, &old, &step) == KIN_OK)
        status = kin_fail(t->context, KIN_INVALID,
                          "%s already holds a run (%s): add --resume to go on, or choose another "
                          "output",
                          output, old);
    kin_free(t->context, old);
    if (status != KIN_OK) return status;
    char *path = kin_path_join(t->context, output, "config.json");
    char *text = json_dumps(t->config->root, JSON_INDENT(2));
    status = path && text ? kin_file_write_atomic(t->context, path, text, strlen(text))
                          : KIN_OUT_OF_MEMORY;
    kin_free(t->context, path);
    free(text);
    return status;
}

static double learning_rate(const kin_train_config *config, int64_t step) {
    double rate = config->learning_rate, low = config->min_learning_rate;
    if (config->warmup_steps > 0 && step < config->warmup_steps)
        return rate * (double)(step + 1) / (double)config->warmup_steps;
    if (!config->cosine) return rate;
    double span = (double)(config->steps - config->warmup_steps);
    double part = span > 0 ? (double)(step - config->warmup_steps) / span : 1;
    return low + (rate - low) * 0.5 * (1 + cos(acos(-1.0) * (part < 1 ? part : 1)));
}

static kin_status read_scalar(kin_plan *plan, const char *name, double *out_value) {
    float value = 0;
    kin_status status = kin_plan_read(plan, name, KIN_F32, &value);
    *out_value = value;
    return status;
}

/* Adds the loss and the metrics of a micro step, which are shares of the step's. */
static kin_status add_scalars(kin_trainer *t, kin_plan *plan, double *values, size_t count) {
    kin_status status = KIN_OK;
    for (size_t i = 0; status == KIN_OK && i < count; i++) {
        double value;
        status = read_scalar(plan, i ? t->ops->metrics[i - 1] : "loss", &value);
        values[i] += value / (double)t->config->accumulate_steps;
    }
    return status;
}

/* The plan of micro step `index`, with its inputs written. */
static kin_status ready_plan(kin_trainer *t, int64_t index, kin_plan **out_plan) {
    int shape = 0;
    kin_status status = t->ops->shapes > 1 ? t->ops->shape_of(t->task, index, &shape) : KIN_OK;
    if (status == KIN_OK) status = kin_train_plans_get(t->plans, shape, out_plan);
    return status == KIN_OK ? t->ops->write(t->task, *out_plan, index) : status;
}

static kin_status write_update(kin_plan *update, float rate, int64_t step) {
    kin_status status = kin_plan_write(update, "lr", KIN_F32, &rate);
    return status == KIN_OK ? kin_plan_write(update, "step", KIN_I64, &step) : status;
}

/* Forward and backward of the micro steps; with one of them, up to the plan with its inputs. The
 * means of loss and metrics are added to values. */
static kin_status run_micro_steps(kin_trainer *t, double *values, size_t count, bool run,
                                  kin_plan **out_plan) {
    int64_t micro = t->config->accumulate_steps;
    kin_status status = KIN_OK;
    for (int64_t k = 0; status == KIN_OK && k < micro; k++) {
        status = ready_plan(t, t->done * micro + k, out_plan);
        if (status == KIN_OK && run) status = kin_plan_run(*out_plan);
        if (status == KIN_OK && run) status = add_scalars(t, *out_plan, values, count);
    }
    return status;
}

/* One optimizer step. values[0] is the mean loss, then the task's metrics, then grad_norm. What may
 * fail on one rank alone comes before they agree, since all must come to the sums between them. */
static kin_status run_step(kin_trainer *t, double *values, size_t *out_count) {
    const kin_train_config *config = t->config;
    bool sums = config->accumulate_steps > 1;
    float rate = (float)learning_rate(config, t->done);
    kin_plan *plan = NULL, *update = NULL;
    size_t count = 1;
    while (t->ops->metrics[count - 1] && count < MAX_METRICS - 2) count++;
    memset(values, 0, sizeof *values * MAX_METRICS);
    kin_status status = run_micro_steps(t, values, count, sums, &plan);
    if (status == KIN_OK) {
        update = sums ? kin_train_plans_apply(t->plans) : plan;
        status = write_update(update, rate, t->done + 1);
    }
    status = kin_ranks_agree(config->ranks, status);
    if (status == KIN_OK) status = kin_plan_run(update);
    if (status == KIN_OK && !sums) status = add_scalars(t, plan, values, count);
    if (status == KIN_OK) status = read_scalar(update, "grad_norm", &values[count]);
    if (status == KIN_OK) status = kin_ranks_mean(config->ranks, values, count + 1);
    *out_count = count + 1;
    return status;
}

/* Sums of gradients are zero between steps; a step that was cut off left something in them. */
static kin_status clear_gradients(kin_trainer *t) {
    const size_t prefix = strlen(KIN_GRADIENT_PREFIX);
    const kin_backend *backend = t->device->backend;
    kin_status status = KIN_OK;
    for (size_t i = 0; status == KIN_OK && i < kin_store_count(t->store); i++) {
        const kin_store_entry *entry = kin_store_at(t->store, i);
        if (strncmp(entry->name, KIN_GRADIENT_PREFIX, prefix) == 0)
            status = backend->fill(t->device, entry->buffer, entry->offset,
                                   kin_desc_bytes(&entry->desc), 0);
    }
    return status;
}

/* Repeats the micro steps of the step that failed until a node writes what is not finite. The
 * update, if it is part of the plan, changes nothing after such a node. */
static kin_status find_nonfinite(kin_trainer *t, const char **out_where) {
    int64_t micro = t->config->accumulate_steps;
    kin_plan *plan;
    kin_status status = KIN_OK;
    *out_where = NULL;
    for (int64_t k = 0; status == KIN_OK && k < micro && !*out_where; k++) {
        status = ready_plan(t, t->done * micro + k, &plan);
        if (status == KIN_OK) status = kin_plan_find_nonfinite(plan, out_where);
    }
    kin_status cleared = clear_gradients(t);
    return status == KIN_OK ? cleared : status;
}

static kin_status fail_nonfinite(kin_trainer *t, const char *where) {
    return kin_fail(t->context, KIN_NUMERIC,
                    "%d steps in a row are not finite; the first such value comes from %s. Lower "
                    "the learning rate, or look at the data of step %lld",
                    MAX_SKIPPED, where, (long long)t->done + 1);
}

/* A step whose gradients are not finite has changed nothing; three in a row end the run. */
static kin_status judge_step(kin_trainer *t, double loss, double norm) {
    if (isfinite(loss) && isfinite(norm)) {
        t->skipped = 0;
        return KIN_OK;
    }
    t->skipped++;
    kin_log(t->context, KIN_LOG_WARN, "step %lld: loss %g, gradient norm %g: %s (%d in a row)",
            (long long)t->done + 1, loss, norm,
            isfinite(norm) ? "the loss is not finite" : "the step is skipped", t->skipped);
    if (t->skipped < MAX_SKIPPED) return KIN_OK;
    const char *where = NULL;
    kin_status status = kin_ranks_agree(t->config->ranks, find_nonfinite(t, &where));
    if (status != KIN_OK) return status;
    if (where) status = fail_nonfinite(t, where); /* on this rank */
    status = kin_ranks_agree(t->config->ranks, status);
    if (status == KIN_OK) status = fail_nonfinite(t, "the update");
    return kin_ranks_agree(t->config->ranks, status);
}

static kin_status log_step(kin_trainer *t, const double *values, size_t count, double seconds) {
    const char *names[MAX_METRICS + 2] = {"loss"};
    double all[MAX_METRICS + 2];
    for (size_t i = 0; i < count; i++) {
        if (i > 0) names[i] = i + 1 < count ? t->ops->metrics[i - 1] : "grad_norm";
        all[i] = values[i];
    }
    names[count] = "learning_rate";
    all[count] = learning_rate(t->config, t->done - 1);
    names[count + 1] = "seconds_per_step";
    all[count + 1] = seconds;
    return kin_metrics_write(t->metrics, t->done, names, all, count + 2);
}

/* Saving may fail (a full disk): the last good checkpoint is still there, so the run goes on and
 * tries again. */
static bool try_save(kin_trainer *t) {
    kin_status status = is_first(t) ? save(t) : KIN_OK;
    if (status == KIN_OK) return true;
    kin_log(t->context, KIN_LOG_WARN,
            "step %lld is not saved: %s; the last good checkpoint is kept, training goes on",
            (long long)t->done, kin_context_error(t->context));
    return false;
}

/* Ranks that drift apart train models of their own, and nothing else would show it. */
static kin_status compare_ranks(kin_trainer *t) {
    bool same;
    kin_status status = kin_train_compare(t->config, t->store, &same);
    if (status != KIN_OK || same) return status;
    return kin_fail(t->context, KIN_DEVICE,
                    "step %lld: the ranks' weights are no longer the same; go on from the "
                    "checkpoint before with --resume",
                    (long long)t->done);
}

static kin_status validate(void *user) {
    kin_trainer *t = user;
    if (t->config->memory > 0) kin_train_plans_release(t->plans); /* samples need room, too */
    return t->ops->validate(t->task, t->store, t->done);
}

/* What is due after a step: checkpoints and samples. */
static kin_status after_step(kin_trainer *t, bool *saved) {
    const kin_train_config *config = t->config;
    kin_status status = KIN_OK;
    if (t->done % config->checkpoint_every == 0) {
        status = compare_ranks(t);
        int done = status == KIN_OK && try_save(t); /* by rank 0, as all must know */
        if (status == KIN_OK) status = kin_ranks_broadcast(config->ranks, &done, sizeof done);
        *saved = done != 0;
    }
    if (t->ops->validate && config->validation.every > 0 &&
        (t->done % config->validation.every == 0 || t->done == config->steps))
        status = kin_train_on_first(config, status, validate, t);
    return status;
}

/* Leaves the state on disk when the run ends, by itself or not. */
static kin_status end_training(kin_trainer *t, kin_status status, bool saved) {
    if (!saved && status == KIN_NUMERIC) {
        char *message = kin_strdup(t->context, kin_context_error(t->context));
        try_save(t);
        kin_fail(t->context, status, "%s", message ? message : "values are not finite");
        kin_free(t->context, message);
    } else if (!saved) {
        status = compare_ranks(t);
        if (status == KIN_OK && is_first(t)) status = save(t);
    }
    status = kin_ranks_agree(t->config->ranks, status);
    if (status == KIN_OK && t->done < t->config->steps) {
        kin_log(t->context, KIN_LOG_INFO, "interrupted at step %lld; go on with --resume",
                (long long)t->done);
        return kin_fail(t->context, KIN_CANCELLED, "interrupted at step %lld", (long long)t->done);
    }
    return status;
}

static kin_status train(kin_trainer *t) {
    const kin_train_config *config = t->config;
    kin_progress progress = kin_progress_begin(config->task == KIN_TRAIN_VAE ? "vae" : "video",
                                               t->done, config->steps, t->quiet);
    kin_status status = KIN_OK;
    double logged = kin_seconds();
    int64_t logged_step = t->done;
    bool saved = true, stop = false;
    int64_t end =
        config->stop_at > 0 && config->stop_at < config->steps ? config->stop_at : config->steps;
    while (status == KIN_OK && t->done < end) {
        double values[MAX_METRICS];
        size_t count;
        status = kin_ranks_agree_stop(config->ranks, KIN_OK, &stop);
        if (status != KIN_OK || stop) break;
        status = run_step(t, values, &count);
        if (status == KIN_OK) status = judge_step(t, values[0], values[count - 1]);
        if (status != KIN_OK) break;
        t->done++;
        saved = false;
        char note[64];
        snprintf(note, sizeof note, "loss %.4g", values[0]);
        kin_progress_show(&progress, t->done, note);
        if (is_first(t) && (t->done % config->log_every == 0 || t->done == config->steps)) {
            double now = kin_seconds();
            kin_status logging =
                log_step(t, values, count, (now - logged) / (double)(t->done - logged_step));
            if (logging != KIN_OK)
                kin_log(t->context, KIN_LOG_WARN, "metrics: %s", kin_context_error(t->context));
            logged = now;
            logged_step = t->done;
        }
        status = after_step(t, &saved);
    }
    kin_progress_end(&progress);
    if (status != KIN_OK && status != KIN_NUMERIC) return status;
    return end_training(t, status, saved);
}

/* What the run begins with, on rank 0: files, or the checkpoint. */
static kin_status load(void *user) {
    kin_trainer *t = user;
    kin_status status = t->ops->load ? t->ops->load(t->task, t->store) : KIN_OK;
    if (status == KIN_OK && t->resume) status = resume_from(t);
    if (status == KIN_OK && t->done == 0) status = kin_training_start_averages(t->store);
    if (status == KIN_OK)
        status = kin_metrics_open(t->context, t->config->output, t->done, &t->metrics);
    return status;
}

static kin_status write_model(void *user) {
    kin_trainer *t = user;
    return t->ops->export(t->task, t->store);
}

kin_status kin_train_run(kin_context *context, kin_device *device, const kin_train_config *config,
                         const kin_train_task_ops *ops, void *task, bool resume, bool quiet) {
    kin_trainer t = {.context = context,
                     .device = device,
                     .config = config,
                     .ops = ops,
                     .task = task,
                     .resume = resume,
                     .quiet = quiet};
    kin_status status = kin_train_on_first(config, KIN_OK, prepare_folder, &t);
    if (status == KIN_OK) {
        status = kin_store_create(device, &t.store);
        if (status == KIN_OK)
            status = kin_train_plans_open(context, device, config, ops, task, t.store, &t.plans);
        status = kin_ranks_agree(config->ranks, status);
    }
    if (status == KIN_OK) status = kin_train_on_first(config, status, load, &t);
    if (status == KIN_OK) status = kin_ranks_broadcast(config->ranks, &t.done, sizeof t.done);
    if (status == KIN_OK) status = kin_train_share(config, t.store);
    if (status == KIN_OK) kin_train_plans_tell(t.plans);
    if (status == KIN_OK) status = train(&t);
    if (status == KIN_OK) status = kin_train_on_first(config, status, write_model, &t);
    kin_metrics_close(t.metrics);
    kin_train_plans_close(t.plans);
    kin_store_free(t.store);
    return status;
}

typedef struct folder_lock {
    kin_context *context;
    const char *output;
    int lock;
} folder_lock;

static kin_status lock_folder(void *user) {
    folder_lock *l = user;
    return kin_train_folder_lock(l->context, l->output, &l->lock);
}

kin_status kin_train(kin_context *context, kin_device *device, const kin_train_config *config,
                     bool resume, bool quiet) {
    folder_lock lock = {context, config->output, -1};
    if (config->stage_count > 0) return kin_train_stages(context, device, config, resume, quiet);
    kin_status status = kin_train_on_first(config, KIN_OK, lock_folder, &lock);
    if (status == KIN_OK)
        status = config->task == KIN_TRAIN_VAE
                     ? kin_train_vae(context, device, config, resume, quiet)
                     : kin_train_video(context, device, config, resume, quiet);
    kin_train_folder_unlock(lock.lock);
    return status;
}
