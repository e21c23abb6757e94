/* Planning: rewrite, choose kernels, lifetimes, in-place reuse, arena offsets, the summary. */
#include "runtime/plan_internal.h"

#include "runtime/check.h"
#include "runtime/collective_internal.h"

#include <string.h>

static bool is_work(const kin_node *node) {
    return !(node->op->flags & KIN_OP_VIEW);
}

/* Fills plan->steps with calls whose operands have offsets from their bases. */
static kin_status make_steps(kin_plan *plan) {
    kin_graph *graph = plan->graph;
    plan->steps = kin_calloc(plan->context, (size_t)graph->node_count + 1, sizeof *plan->steps);
    if (!plan->steps) return KIN_OUT_OF_MEMORY;
    for (int32_t n = 0; n < graph->node_count; n++) {
        const kin_node *node = &graph->nodes[n];
        if (!is_work(node)) continue;
        kin_plan_step *step = &plan->steps[plan->step_count];
        size_t operands = (size_t)(node->in_count + node->out_count);
        step->operands = kin_calloc(plan->context, operands, sizeof *step->operands);
        if (!step->operands) return KIN_OUT_OF_MEMORY;
        plan->step_count++;
        step->node = n;
        step->scratch_storage = -1;
        kin_operand *out = step->operands + node->in_count;
        for (int i = 0; i < node->in_count; i++)
            kin_graph_operand(graph, node->in[i], &step->operands[i]);
        for (int j = 0; j < node->out_count; j++) kin_graph_operand(graph, node->out[j], &out[j]);
        step->call = (kin_call){.op = node->op->name,
                                .attrs = node->attrs,
                                .in_count = node->in_count,
                                .out_count = node->out_count,
                                .in = step->operands,
                                .out = out};
        step->kernel = kin_device_kernel(plan->device, &step->call);
        kin_desc *descs = kin_calloc(plan->context, operands, sizeof *descs);
        if (!descs) return KIN_OUT_OF_MEMORY;
        for (size_t i = 0; i < operands; i++) descs[i] = step->operands[i].desc;
        kin_cost cost = kin_op_cost(node->op, node->attrs, node->in_count, descs, node->out_count,
                                    descs + node->in_count);
        kin_free(plan->context, descs);
        step->flops = cost.flops;
        step->bytes = cost.bytes;
        step->reduction = cost.reduction;
        plan->summary.flops += cost.flops;
        plan->summary.bytes += cost.bytes;
        if (!node->again) continue;
        plan->summary.recomputed++;
        plan->summary.recomputed_flops += cost.flops;
        plan->summary.recomputed_bytes += cost.bytes;
    }
    return KIN_OK;
}

/* Says where each base lies; arena bases get a storage of their own for now. */
static kin_status locate(kin_plan *plan) {
    kin_graph *graph = plan->graph;
    size_t count = (size_t)graph->value_count;
    plan->locations = kin_calloc(plan->context, count, sizeof *plan->locations);
    plan->storages =
        kin_calloc(plan->context, count + (size_t)plan->step_count, sizeof *plan->storages);
    if (!plan->locations || !plan->storages) return KIN_OUT_OF_MEMORY;
    uint64_t alignment = plan->device->info.alignment ? plan->device->info.alignment : 64;
    for (int32_t i = 1; i < graph->value_count; i++) {
        const kin_value *value = &graph->values[i];
        kin_location *at = &plan->locations[i];
        if (value->base != i) continue;
        uint64_t bytes = kin_desc_bytes(&value->desc);
        if (value->node >= 0) {
            at->place = KIN_PLACE_ARENA;
            at->storage = plan->storage_count;
            plan->storages[plan->storage_count++] = (kin_storage){bytes, INT32_MAX, -1, 0};
        } else if (value->source == KIN_SOURCE_CONSTANT) {
            at->place = KIN_PLACE_CONSTANT;
            at->offset = plan->summary.constants;
            plan->summary.constants += (bytes + alignment - 1) / alignment * alignment;
        } else if (value->source == KIN_SOURCE_VARIABLE) {
            at->place = KIN_PLACE_VARIABLE;
            if (value->kind == KIN_VARIABLE_STATE) plan->summary.states += bytes;
            else plan->summary.weights += bytes;
        } else {
            at->place = KIN_PLACE_INPUT;
            plan->summary.inputs += bytes;
        }
    }
    for (int32_t i = 0; i < graph->input_count; i++)
        plan->locations[graph->inputs[i].value].index = i;
    for (int32_t i = 0; i < graph->variable_count; i++)
        plan->locations[graph->variables[i].value].index = i;
    return KIN_OK;
}

static kin_storage *storage_of(kin_plan *plan, int32_t value) {
    kin_location *at = &plan->locations[plan->graph->values[value].base];
    return at->place == KIN_PLACE_ARENA ? &plan->storages[at->storage] : NULL;
}

/* Lifetimes in steps; outputs live to the end. */
static void find_lifetimes(kin_plan *plan) {
    kin_graph *graph = plan->graph;
    for (int32_t s = 0; s < plan->step_count; s++) {
        const kin_node *node = &graph->nodes[plan->steps[s].node];
        for (int k = 0; k < node->in_count + node->out_count; k++) {
            int32_t value = k < node->in_count ? node->in[k] : node->out[k - node->in_count];
            kin_storage *storage = value ? storage_of(plan, value) : NULL;
            if (!storage) continue;
            if (s < storage->first) storage->first = s;
            if (s > storage->last) storage->last = s;
        }
    }
    for (int32_t i = 0; i < graph->output_count; i++) {
        kin_storage *storage = storage_of(plan, graph->outputs[i].value);
        if (storage) storage->last = plan->step_count;
    }
}

/* True if no other input of the node sees the storage of input k in another way, or must not be
 * overwritten. */
static bool only_reader(kin_plan *plan, const kin_node *node, uint64_t in_place, int k) {
    const kin_value *values = plan->graph->values, *mine = &values[node->in[k]];
    for (int i = 0; i < node->in_count; i++) {
        if (i == k || !node->in[i]) continue;
        const kin_value *other = &values[node->in[i]];
        kin_storage *a = storage_of(plan, node->in[k]), *b = storage_of(plan, node->in[i]);
        if (a != b) continue;
        if (i >= 64 || !(in_place >> i & 1) || other->base != mine->base ||
            !kin_desc_is_dense(&other->desc) || other->offset ||
            !kin_desc_same_shape(&other->desc, &mine->desc))
            return false;
    }
    return true;
}

/* Lets output 0 of a step take over the memory of an input that ends there. */
static void reuse_in_place(kin_plan *plan) {
    kin_graph *graph = plan->graph;
    for (int32_t s = 0; s < plan->step_count; s++) {
        const kin_plan_step *step = &plan->steps[s];
        const kin_node *node = &graph->nodes[step->node];
        if (!step->kernel || !step->kernel->in_place) continue;
        kin_location *out = &plan->locations[node->out[0]];
        if (graph->values[node->out[0]].base != node->out[0] || out->place != KIN_PLACE_ARENA)
            continue;
        kin_storage *target = &plan->storages[out->storage];
        for (int k = 0; k < node->in_count && k < 64; k++) {
            if (!(step->kernel->in_place >> k & 1) || !node->in[k]) continue;
            const kin_value *value = &graph->values[node->in[k]];
            kin_storage *source = storage_of(plan, node->in[k]);
            if (!source || source == target || source->last != s || source->size != target->size ||
                value->offset != 0 || !kin_desc_is_dense(&value->desc) ||
                kin_desc_bytes(&value->desc) != target->size ||
                !only_reader(plan, node, step->kernel->in_place, k))
                continue;
            int32_t taken = plan->locations[value->base].storage;
            plan->storages[taken].last = target->last;
            target->size = 0;
            target->first = target->last = s;
            out->storage = taken;
            break;
        }
    }
}

static kin_status add_scratch(kin_plan *plan) {
    const uint64_t most = UINT64_C(1) << 48; /* more is a mistake, and its sums might overflow */
    for (int32_t s = 0; s < plan->step_count; s++) {
        kin_plan_step *step = &plan->steps[s];
        size_t size = 0;
        if (step->kernel && step->kernel->scratch)
            size = step->kernel->scratch(plan->device, &step->call);
        if (!size) continue;
        if (size > most)
            return kin_fail(plan->context, KIN_DEVICE,
                            "kernel %s asks for %zu bytes of scratch memory", step->kernel->name,
                            size);
        step->call.scratch_size = size;
        step->scratch_storage = plan->storage_count;
        plan->storages[plan->storage_count++] = (kin_storage){size, s, s, 0};
    }
    return KIN_OK;
}

/* Keeps the list of the largest, in descending order. */
static void note_large(kin_plan_summary *summary, kin_plan_large large) {
    int at = summary->largest_count;
    while (at > 0 && summary->largest[at - 1].bytes < large.bytes) at--;
    if (at >= KIN_PLAN_LARGEST) return;
    int end = summary->largest_count < KIN_PLAN_LARGEST ? summary->largest_count : at;
    if (summary->largest_count < KIN_PLAN_LARGEST) summary->largest_count++;
    else end = KIN_PLAN_LARGEST - 1;
    for (int i = end; i > at; i--) summary->largest[i] = summary->largest[i - 1];
    summary->largest[at] = large;
}

/* "PATH op" of a node, in the graph's memory. */
static const char *node_name(kin_graph *graph, const kin_node *node) {
    char text[600];
    size_t used = 0;
    for (const char *c = node->path; *c && used + 1 < sizeof text; c++) text[used++] = *c;
    for (const char *c = used ? " " : ""; *c && used + 1 < sizeof text; c++) text[used++] = *c;
    for (const char *c = node->op->name; *c && used + 1 < sizeof text; c++) text[used++] = *c;
    text[used] = 0;
    const char *pooled = kin_graph_pool_string(graph, text);
    return pooled ? pooled : node->op->name;
}

const char *kin_plan_node_name(kin_plan *plan, int32_t step) {
    return node_name(plan->graph, &plan->graph->nodes[plan->steps[step].node]);
}

static const char *large_name(kin_graph *graph, const kin_value *value) {
    if (value->node >= 0) return node_name(graph, &graph->nodes[value->node]);
    return value->name ? value->name : "constant";
}

/* Gradients, activations and the largest tensors at the arena's fullest step. */
static kin_status describe_peak(kin_plan *plan, int32_t peak_step) {
    kin_graph *graph = plan->graph;
    kin_plan_summary *summary = &plan->summary;
    bool *counted = kin_calloc(plan->context, (size_t)plan->storage_count + 1, sizeof *counted);
    if (!counted) return KIN_OUT_OF_MEMORY;
    for (int32_t i = 1; i < graph->value_count; i++) {
        const kin_value *value = &graph->values[i];
        const kin_location *at = &plan->locations[i];
        if (value->base != i || at->place == KIN_PLACE_NONE) continue;
        uint64_t bytes = kin_desc_bytes(&value->desc);
        if (at->place == KIN_PLACE_ARENA) {
            const kin_storage *storage = &plan->storages[at->storage];
            if (storage->first > peak_step || storage->last < peak_step || counted[at->storage])
                continue;
            counted[at->storage] = true;
            if (value->is_gradient) summary->gradients += storage->size;
        }
        bool better = summary->largest_count < KIN_PLAN_LARGEST ||
                      bytes > summary->largest[KIN_PLAN_LARGEST - 1].bytes;
        if (better)
            note_large(summary, (kin_plan_large){large_name(graph, value), value->desc, bytes});
    }
    kin_free(plan->context, counted);
    summary->activations =
        summary->lower_bound > summary->gradients ? summary->lower_bound - summary->gradients : 0;
    return KIN_OK;
}

/* What sums over the ranks of a group take. */
static uint64_t communication_of(const kin_plan *plan) {
    for (int32_t s = 0; s < plan->step_count; s++)
        if (kin_kernel_is_collective(plan->steps[s].kernel))
            return kin_group_bytes(plan->device->group);
    return 0;
}

static kin_status build_once(kin_graph *graph, kin_device *device,
                             const kin_rewrite_options *rewrite, kin_plan **out_plan) {
    *out_plan = NULL;
    kin_context *context = kin_graph_context(graph);
    kin_plan *plan = kin_calloc(context, 1, sizeof *plan);
    if (!plan) return KIN_OUT_OF_MEMORY;
    plan->context = context;
    plan->device = device;
    kin_rewrite_counts counts;
    kin_status status = kin_graph_rewrite(graph, device, rewrite, &plan->graph, &counts);
    if (status == KIN_OK) status = make_steps(plan);
    if (status == KIN_OK) status = locate(plan);
    if (status == KIN_OK) {
        kin_plan_summary *summary = &plan->summary;
        int32_t peak_step;
        find_lifetimes(plan);
        reuse_in_place(plan);
        status = add_scratch(plan);
        for (int32_t i = 0; i < plan->storage_count; i++) /* unused outputs still need a place */
            if (plan->storages[i].last < plan->storages[i].first)
                plan->storages[i].first = plan->storages[i].last = 0;
        if (status == KIN_OK)
            status = kin_arena_place(context, plan->storages, plan->storage_count, plan->step_count,
                                     device->info.alignment ? device->info.alignment : 64,
                                     device->info.max_allocation, &summary->arena,
                                     &summary->lower_bound, &peak_step);
        summary->nodes = plan->step_count;
        summary->kernels_missing = counts.lowered;
        summary->copies = counts.copies;
        summary->fused = counts.fused;
        summary->segments = graph->segment_count;
        summary->segments_recomputed = counts.segments;
        plan->products = counts.products;
        summary->communication = communication_of(plan);
        summary->peak = summary->weights + summary->states + summary->inputs + summary->constants +
                        summary->arena + summary->communication;
        if (status == KIN_OK) status = describe_peak(plan, peak_step);
    }
    if (status == KIN_OK) *out_plan = plan;
    else kin_plan_free(plan);
    return status;
}

static kin_status refuse(kin_context *context, const kin_plan *plan, uint64_t budget) {
    const kin_plan_summary *s = &plan->summary;
    char list[700];
    size_t used = 0;
    list[0] = 0;
    for (int i = 0; i < s->largest_count && used < sizeof list - 160; i++) {
        char shape[128];
        kin_desc_shape_text(&s->largest[i].desc, shape, sizeof shape);
        for (const char *c = i ? "; " : ""; *c; c++) list[used++] = *c;
        for (const char *c = s->largest[i].name; *c && used < sizeof list - 150; c++)
            list[used++] = *c;
        list[used++] = ' ';
        for (const char *c = shape; *c && used < sizeof list - 2; c++) list[used++] = *c;
        list[used] = 0;
    }
    return kin_fail(context, KIN_OUT_OF_MEMORY,
                    "needs %.1f MiB at the least (weights %.1f, states %.1f, arena %.1f, all "
                    "segments recomputed), but %.1f MiB are allowed; the largest tensors are %s: "
                    "use a smaller batch, fewer frames, a smaller size, or more memory",
                    (double)s->peak / 1048576.0, (double)s->weights / 1048576.0,
                    (double)s->states / 1048576.0, (double)s->arena / 1048576.0,
                    (double)budget / 1048576.0, list);
}

/* Segments are computed again, but for as many of their products as the budget allows to keep, by
 * bisection: the peak grows with them. */
static kin_status keep_budget(kin_graph *graph, kin_device *device, kin_rewrite_options *rewrite,
                              uint64_t budget, kin_plan **out_plan) {
    kin_plan *best = NULL, *plan = NULL;
    rewrite->segments = rewrite->cheap = true;
    rewrite->products = 0;
    kin_status status = build_once(graph, device, rewrite, &best);
    if (status == KIN_OK && best->summary.peak > budget)
        status = refuse(graph->context, best, budget);
    int low = 0, high = status == KIN_OK ? best->products + 1 : 0;
    while (status == KIN_OK && high - low > 1) {
        rewrite->products = low + (high - low) / 2;
        status = build_once(graph, device, rewrite, &plan);
        if (status != KIN_OK) break;
        if (plan->summary.peak <= budget) {
            kin_plan_free(best);
            best = plan;
            low = rewrite->products;
        } else {
            kin_plan_free(plan);
            high = rewrite->products;
        }
    }
    if (status == KIN_OK) *out_plan = best;
    else kin_plan_free(best);
    return status;
}

/* Plans with what is cheap computed again. Takes `kept`, the plan that keeps it (may be NULL), and
 * gives it back if that saves less than a hundredth. */
static kin_status build_cheap(kin_graph *graph, kin_device *device,
                              const kin_rewrite_options *rewrite, kin_plan *kept,
                              kin_plan **out_plan) {
    kin_plan *plan = NULL;
    kin_status status = build_once(graph, device, rewrite, &plan);
    if (status == KIN_OK && kept && plan->summary.peak > kept->summary.peak / 100 * 99) {
        kin_plan_free(plan);
        plan = kept;
    } else {
        kin_plan_free(kept);
    }
    *out_plan = plan;
    return status;
}

kin_status kin_plan_build(kin_graph *graph, kin_device *device, const kin_plan_options *options,
                          kin_plan **out_plan) {
    kin_plan_options none = {.struct_size = sizeof none};
    if (!options) options = &none;
    *out_plan = NULL;
    kin_status status = kin_graph_status(graph);
    if (status != KIN_OK) return status;
    uint64_t budget = options->memory_budget ? options->memory_budget : UINT64_MAX;
    kin_recompute least = graph->has_backward ? options->recompute : KIN_RECOMPUTE_NOTHING;
    bool all = least == KIN_RECOMPUTE_SEGMENTS;
    kin_rewrite_options rewrite = {.segments = all,
                                   .cheap = all || least == KIN_RECOMPUTE_CHEAP,
                                   .allow_reference = options->allow_reference};
    kin_plan *plan = NULL;
    status = build_once(graph, device, &rewrite, &plan);
    bool enough = status != KIN_OK || plan->summary.peak <= budget;
    if (status == KIN_OK && graph->has_backward && !rewrite.cheap &&
        (!enough || (least == KIN_RECOMPUTE_AUTO && !options->memory_budget))) {
        rewrite.cheap = true;
        status = build_cheap(graph, device, &rewrite, plan, &plan);
        enough = status != KIN_OK || plan->summary.peak <= budget;
    }
    if (enough || all || !graph->has_backward) {
        if (!enough) status = refuse(graph->context, plan, budget);
        if (status == KIN_OK) *out_plan = plan;
        else kin_plan_free(plan);
        return status;
    }
    kin_plan_free(plan);
    return keep_budget(graph, device, &rewrite, budget, out_plan);
}

void kin_plan_free(kin_plan *plan) {
    if (!plan) return;
    kin_plan_unprepare(plan);
    for (int32_t s = 0; s < plan->step_count; s++) kin_free(plan->context, plan->steps[s].operands);
    kin_free(plan->context, plan->steps);
    kin_free(plan->context, plan->locations);
    kin_free(plan->context, plan->storages);
    kin_graph_destroy(plan->graph);
    kin_free(plan->context, plan);
}

const kin_plan_summary *kin_plan_summarize(const kin_plan *plan) {
    return &plan->summary;
}

kin_device *kin_plan_device(const kin_plan *plan) {
    return plan->device;
}

static const kin_desc *named_desc(const kin_graph *graph, const kin_named *list, int32_t count,
                                  const char *name) {
    for (int32_t i = 0; i < count; i++)
        if (strcmp(list[i].name, name) == 0) return &graph->values[list[i].value].desc;
    return NULL;
}

const kin_desc *kin_plan_input_desc(const kin_plan *plan, const char *input) {
    return named_desc(plan->graph, plan->graph->inputs, plan->graph->input_count, input);
}

const kin_desc *kin_plan_output_desc(const kin_plan *plan, const char *output) {
    return named_desc(plan->graph, plan->graph->outputs, plan->graph->output_count, output);
}

int kin_plan_node_count(const kin_plan *plan) {
    return plan->step_count;
}

kin_plan_node kin_plan_node_at(const kin_plan *plan, int index) {
    const kin_plan_step *step = &plan->steps[index];
    const kin_node *node = &plan->graph->nodes[step->node];
    return (kin_plan_node){.op = node->op->name,
                           .kernel = step->kernel ? step->kernel->name : "reference",
                           .path = node->path,
                           .origin = node->origin,
                           .why = node->why,
                           .fused = node->fused,
                           .is_copy = node->is_copy,
                           .backward = node->backward,
                           .again = node->again,
                           .flops = step->flops,
                           .bytes = step->bytes,
                           .seconds = step->seconds,
                           .counters = step->counters};
}
