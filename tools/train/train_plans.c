/* The plans of a training run. */
#include "tools/train/train.h"

#include "tools/tool.h"

#include <string.h>

enum { MAX_READY = 16, SHAPE_NAME = 96 };

typedef struct shape_plan {
    kin_plan *plan; /* NULL: to be made again */
    bool prepared;
    int64_t used;                /* when; the oldest goes first */
    uint64_t budget;             /* that it was made with */
    uint64_t arena, own, stored; /* of its summary: own = inputs and constants */
    uint64_t sums;               /* between the ranks, which all plans share */
    int segments, recomputed;
} shape_plan;

struct kin_train_plans {
    kin_context *context;
    kin_device *device;
    const kin_train_config *config;
    const kin_train_task_ops *ops;
    void *task;
    kin_store *store;
    kin_workspace *workspace;
    shape_plan *shapes;
    int count;
    kin_plan *apply;
    int apply_shape; /* whose gradients it takes */
    bool apply_prepared;
    uint64_t fixed; /* store, arena, and what the update, the sums between ranks and the task have:
                       whatever the shape */
    uint64_t peak;  /* fixed and the largest plan's own */
    int64_t clock;
};

void kin_train_plans_close(kin_train_plans *plans) {
    if (!plans) return;
    for (int i = 0; i < plans->count; i++) kin_plan_free(plans->shapes[i].plan);
    kin_plan_free(plans->apply);
    kin_workspace_free(plans->workspace);
    kin_free(plans->context, plans->shapes);
    kin_free(plans->context, plans);
}

static void name_of(const kin_train_plans *p, int shape, char name[SHAPE_NAME]) {
    name[0] = 0;
    if (p->ops->shape_name) p->ops->shape_name(p->task, shape, name, SHAPE_NAME);
}

static kin_optimizer_options optimizer_of(const kin_train_config *config) {
    kin_optimizer_options options = config->optimizer;
    options.over_ranks = config->ranks != NULL;
    return options;
}

static kin_status build_graph(kin_train_plans *p, int shape, kin_graph **out_graph) {
    const kin_train_config *config = p->config;
    kin_status status = kin_graph_create(p->context, out_graph);
    if (status != KIN_OK) return status;
    kin_tensor loss = p->ops->loss(p->task, shape, *out_graph);
    kin_optimizer_options optimizer = optimizer_of(config);
    if (config->accumulate_steps > 1)
        kin_training_accumulate(*out_graph, loss, 1.0 / (double)config->accumulate_steps);
    else kin_training_update(*out_graph, loss, &optimizer);
    return KIN_OK;
}

/* Plans a shape within s->budget. out_graph may be NULL; else it is the caller's. */
static kin_status build(kin_train_plans *p, int shape, kin_graph **out_graph) {
    shape_plan *s = &p->shapes[shape];
    kin_plan_options options = {.struct_size = sizeof options,
                                .memory_budget = s->budget,
                                .recompute = p->config->recompute};
    kin_graph *graph = NULL;
    char name[SHAPE_NAME], bytes[32];
    kin_plan_free(s->plan);
    s->plan = NULL;
    s->prepared = false;
    kin_status status = build_graph(p, shape, &graph);
    if (status == KIN_OK) status = kin_plan_build(graph, p->device, &options, &s->plan);
    name_of(p, shape, name);
    if (status == KIN_OUT_OF_MEMORY && s->budget > 0 && s->budget < p->config->memory)
        kin_fail_in(p->context, status,
                    "beside %s for the optimizer, the largest inputs and what else stays",
                    kin_bytes_text(p->config->memory - s->budget, bytes, sizeof bytes));
    if (status != KIN_OK && name[0]) status = kin_fail_in(p->context, status, "%s", name);
    if (status == KIN_OK) {
        const kin_plan_summary *summary = kin_plan_summarize(s->plan);
        s->arena = summary->arena;
        s->own = summary->inputs + summary->constants;
        s->sums = summary->communication;
        s->stored = summary->weights + summary->states;
        s->segments = summary->segments;
        s->recomputed = summary->segments_recomputed;
    }
    if (out_graph) *out_graph = graph;
    else kin_graph_destroy(graph);
    return status;
}

/* Sums gradients: a graph's variables that the update has. */
static int count_gradients(const kin_graph *graph) {
    int count = 0;
    for (int i = 0; i < kin_variable_count(graph); i++)
        count += strncmp(kin_variable_name(graph, kin_variable_at(graph, i)), KIN_GRADIENT_PREFIX,
                         strlen(KIN_GRADIENT_PREFIX)) == 0;
    return count;
}

/* The update for the gradients of a shape's graph. */
static kin_status build_apply(kin_train_plans *p, int shape, const kin_graph *graph) {
    kin_graph *apply = NULL;
    kin_plan_free(p->apply);
    p->apply = NULL;
    p->apply_prepared = false;
    p->apply_shape = shape;
    kin_status status = kin_graph_create(p->context, &apply);
    if (status != KIN_OK) return status;
    kin_optimizer_options optimizer = optimizer_of(p->config);
    kin_training_apply(apply, graph, &optimizer);
    status = kin_plan_build(apply, p->device, NULL, &p->apply);
    if (status == KIN_OK && p->store)
        status = kin_store_add_graph(p->store, apply, (uint64_t)p->config->seed);
    kin_graph_destroy(apply);
    return status;
}

/* The largest of what plans need beside each other. */
typedef struct most {
    uint64_t stored, own; /* weights and states; inputs and constants */
    uint64_t update;      /* the update's inputs and constants */
    uint64_t sums;        /* between the ranks */
} most;

static most measure(kin_train_plans *p) {
    most m = {.sums = p->config->ranks ? kin_group_bytes(p->device->group) : 0};
    uint64_t arena = 0;
    if (p->apply) {
        const kin_plan_summary *s = kin_plan_summarize(p->apply);
        arena = s->arena;
        m.stored = s->weights + s->states;
        m.update = s->inputs + s->constants;
    }
    for (int i = 0; i < p->count; i++) {
        const shape_plan *s = &p->shapes[i];
        if (s->arena > arena) arena = s->arena;
        if (s->stored > m.stored) m.stored = s->stored;
        if (s->own > m.own) m.own = s->own;
    }
    p->fixed = m.stored + arena + m.update + m.sums + p->ops->memory;
    p->peak = p->fixed + m.own;
    return m;
}

/* One store and one arena serve all plans, so a plan must leave room for what the others have of
 * their own: the update's states, the largest inputs. */
static kin_status make_room(kin_train_plans *p) {
    uint64_t budget = p->config->memory;
    most m = measure(p);
    if (budget == 0 || p->peak <= budget) return KIN_OK;
    for (int i = 0; i < p->count; i++) {
        shape_plan *s = &p->shapes[i];
        uint64_t beside =
            m.stored - s->stored + m.own - s->own + m.update + m.sums - s->sums + p->ops->memory;
        if (s->stored + s->arena + s->own + s->sums + beside <= budget) continue;
        s->budget = budget > beside ? budget - beside : 1;
        kin_status status = build(p, i, NULL);
        if (status != KIN_OK) return status;
    }
    measure(p);
    if (p->peak > budget) /* the update alone does not fit */
        return kin_fail(p->context, KIN_OUT_OF_MEMORY,
                        "the update needs %llu bytes with its arena, but \"memory\" allows %llu",
                        (unsigned long long)p->peak, (unsigned long long)budget);
    return KIN_OK;
}

kin_status kin_train_plans_open(kin_context *context, kin_device *device,
                                const kin_train_config *config, const kin_train_task_ops *ops,
                                void *task, kin_store *store, kin_train_plans **out_plans) {
    *out_plans = NULL;
    kin_train_plans *p = kin_calloc(context, 1, sizeof *p);
    if (!p) return KIN_OUT_OF_MEMORY;
    *p = (kin_train_plans){.context = context,
                           .device = device,
                           .config = config,
                           .ops = ops,
                           .task = task,
                           .store = store};
    int count = ops->shapes > 0 ? ops->shapes : 1, gradients = 0;
    uint64_t budget = config->memory;
    kin_status status = KIN_OK;
    if (budget > 0 && ops->memory >= budget)
        status = kin_fail(context, KIN_OUT_OF_MEMORY,
                          "the text encoder alone takes %llu of the %llu bytes that \"memory\" "
                          "allows: leave text_features at \"cached\"",
                          (unsigned long long)ops->memory, (unsigned long long)budget);
    p->shapes = kin_calloc(context, (size_t)count, sizeof *p->shapes);
    if (status == KIN_OK && !p->shapes) status = KIN_OUT_OF_MEMORY;
    for (int i = 0; status == KIN_OK && i < count; i++) {
        kin_graph *graph = NULL;
        p->count = i + 1;
        p->shapes[i].budget = budget > 0 ? budget - ops->memory : 0;
        status = build(p, i, &graph);
        if (status == KIN_OK && store)
            status = kin_store_add_graph(store, graph, (uint64_t)config->seed);
        if (status == KIN_OK && config->accumulate_steps > 1 &&
            count_gradients(graph) > gradients) {
            gradients = count_gradients(graph); /* the update is that of the graph with the most */
            status = build_apply(p, i, graph);
        }
        kin_graph_destroy(graph);
        if (status == KIN_OK && (i >= MAX_READY || !store)) { /* its sizes are known now */
            kin_plan_free(p->shapes[i].plan);
            p->shapes[i].plan = NULL;
        }
    }
    if (status == KIN_OK) status = make_room(p);
    if (status == KIN_OK) *out_plans = p;
    else kin_train_plans_close(p);
    return status;
}

/* Lets the plans go that were not used for the longest time, until one more fits. */
static void evict(kin_train_plans *p, int wanted) {
    uint64_t budget = p->config->memory;
    for (;;) {
        uint64_t bytes = p->fixed + p->shapes[wanted].own;
        int ready = 0, oldest = -1;
        for (int i = 0; i < p->count; i++) {
            const shape_plan *s = &p->shapes[i];
            if (i == wanted || !s->prepared) continue;
            bytes += s->own;
            ready++;
            if (oldest < 0 || s->used < p->shapes[oldest].used) oldest = i;
        }
        if (oldest < 0 || (ready < MAX_READY && (budget == 0 || bytes <= budget))) return;
        kin_plan_free(p->shapes[oldest].plan);
        p->shapes[oldest].plan = NULL;
        p->shapes[oldest].prepared = false;
    }
}

/* The update, made again if it was given back, and prepared. */
static kin_status ready_apply(kin_train_plans *p) {
    kin_graph *graph = NULL;
    kin_status status = KIN_OK;
    if (p->config->accumulate_steps <= 1 || p->apply_prepared) return KIN_OK;
    if (!p->apply) {
        status = build(p, p->apply_shape, &graph);
        if (status == KIN_OK) status = build_apply(p, p->apply_shape, graph);
        kin_graph_destroy(graph);
    }
    if (status == KIN_OK) status = kin_plan_prepare(p->apply, p->store, p->workspace);
    p->apply_prepared = status == KIN_OK;
    return status;
}

kin_status kin_train_plans_get(kin_train_plans *plans, int shape, kin_plan **out_plan) {
    kin_train_plans *p = plans;
    shape_plan *s = &p->shapes[shape];
    kin_status status = KIN_OK;
    if (!p->workspace) status = kin_workspace_create(p->device, &p->workspace);
    if (status == KIN_OK && p->config->accumulate_steps > 1 && !p->apply) status = ready_apply(p);
    if (status == KIN_OK && !s->prepared) {
        evict(p, shape);
        if (!s->plan) status = build(p, shape, NULL);
        if (status == KIN_OK) status = kin_plan_prepare(s->plan, p->store, p->workspace);
        s->prepared = status == KIN_OK;
    }
    if (status == KIN_OK) status = ready_apply(p);
    s->used = ++p->clock;
    *out_plan = s->plan;
    return status;
}

void kin_train_plans_release(kin_train_plans *plans) {
    for (int i = 0; i < plans->count; i++) {
        kin_plan_free(plans->shapes[i].plan);
        plans->shapes[i].plan = NULL;
        plans->shapes[i].prepared = false;
    }
    kin_plan_free(plans->apply);
    plans->apply = NULL;
    plans->apply_prepared = false;
    kin_workspace_free(plans->workspace);
    plans->workspace = NULL;
}

kin_plan *kin_train_plans_apply(kin_train_plans *plans) {
    return plans->apply;
}

void kin_train_plans_tell(const kin_train_plans *plans) {
    const kin_train_plans *p = plans;
    char peak[32], arena[32], weights[32], states[32], name[SHAPE_NAME];
    for (int i = 0; i < p->count && p->count > 1; i++) {
        const shape_plan *s = &p->shapes[i];
        name_of(p, i, name);
        kin_log(p->context, KIN_LOG_INFO, "%s: arena %s, %d of %d segments recomputed", name,
                kin_bytes_text(s->arena, arena, sizeof arena), s->recomputed, s->segments);
    }
    if (p->count > 1) {
        kin_log(p->context, KIN_LOG_INFO, "%d shapes of batches, peak memory %s", p->count,
                kin_bytes_text(p->peak, peak, sizeof peak));
        return;
    }
    const kin_plan_summary *s = kin_plan_summarize(p->shapes[0].plan);
    kin_log(p->context, KIN_LOG_INFO,
            "plan: %d nodes, %.2f GFLOP a step, peak memory %s (weights %s, states %s, arena %s), "
            "%d of %d segments recomputed",
            s->nodes, s->flops * 1e-9, kin_bytes_text(p->peak, peak, sizeof peak),
            kin_bytes_text(s->weights, weights, sizeof weights),
            kin_bytes_text(s->states, states, sizeof states),
            kin_bytes_text(s->arena, arena, sizeof arena), s->segments_recomputed, s->segments);
}
