/* Recording plans: where operands lie, and lists of calls for the device. */
#include "runtime/plan_internal.h"

#include "runtime/collective_internal.h"

void kin_plan_discard_ranges(kin_plan *plan) {
    for (int32_t i = 0; i < plan->range_count; i++)
        if (plan->ranges[i].commands)
            plan->device->backend->discard(plan->device, plan->ranges[i].commands);
    kin_free(plan->context, plan->ranges);
    plan->ranges = NULL;
    plan->range_count = 0;
}

kin_status kin_plan_resolve(kin_plan *plan, int32_t value, kin_buffer **out_buffer,
                            size_t *out_offset) {
    const kin_value *v = &plan->graph->values[value];
    const kin_location *at = &plan->locations[v->base];
    size_t inner = (size_t)v->offset * kin_dtype_size(v->desc.dtype);
    *out_offset = inner;
    switch (at->place) {
    case KIN_PLACE_ARENA: {
        uint64_t offset = plan->storages[at->storage].offset;
        uint64_t chunk = plan->workspace->chunk_size;
        *out_buffer = plan->workspace->chunks[offset / chunk];
        *out_offset = inner + (size_t)(offset % chunk);
        return KIN_OK;
    }
    case KIN_PLACE_INPUT:
        *out_buffer = plan->inputs[at->index];
        return KIN_OK;
    case KIN_PLACE_CONSTANT:
        *out_buffer = plan->constants;
        *out_offset = inner + (size_t)at->offset;
        return KIN_OK;
    case KIN_PLACE_VARIABLE: {
        const char *name = plan->graph->values[v->base].name;
        kin_store_entry *entry = plan->store ? kin_store_find(plan->store, name) : NULL;
        if (!entry)
            return kin_fail(plan->context, KIN_NOT_FOUND, "the store has no tensor \"%s\"", name);
        if (entry->desc.dtype != plan->graph->values[v->base].desc.dtype ||
            !kin_desc_same_shape(&entry->desc, &plan->graph->values[v->base].desc)) {
            char have[128], want[128];
            return kin_fail(
                plan->context, KIN_INVALID, "\"%s\" is %s in the store, but the model wants %s",
                name, kin_desc_shape_text(&entry->desc, have, sizeof have),
                kin_desc_shape_text(&plan->graph->values[v->base].desc, want, sizeof want));
        }
        *out_buffer = entry->buffer;
        *out_offset = inner + entry->offset;
        return KIN_OK;
    }
    case KIN_PLACE_NONE:
        break;
    }
    return kin_fail(plan->context, KIN_INVALID, "a value without a place");
}

static kin_status bind_steps(kin_plan *plan) {
    for (int32_t s = 0; s < plan->step_count; s++) {
        kin_plan_step *step = &plan->steps[s];
        const kin_node *node = &plan->graph->nodes[step->node];
        for (int k = 0; k < node->in_count + node->out_count; k++) {
            int32_t value = k < node->in_count ? node->in[k] : node->out[k - node->in_count];
            if (!value) continue;
            kin_status status =
                kin_plan_resolve(plan, value, &step->operands[k].buffer, &step->operands[k].offset);
            if (status != KIN_OK) return status;
        }
        if (step->scratch_storage >= 0) {
            uint64_t offset = plan->storages[step->scratch_storage].offset;
            uint64_t chunk = plan->workspace->chunk_size;
            step->call.scratch = plan->workspace->chunks[offset / chunk];
            step->call.scratch_offset = (size_t)(offset % chunk);
        }
    }
    plan->generation = plan->workspace->generation;
    return KIN_OK;
}

bool kin_plan_is_collective(const kin_plan *plan, int32_t step) {
    return kin_kernel_is_collective(plan->steps[step].kernel);
}

/* Steps first .. first+count-1, collective ones, in one call, so that the device's library can join
 * them to large pieces. */
static kin_status record_collectives(kin_plan *plan, int32_t first, int32_t count,
                                     kin_commands *commands) {
    kin_call *calls = kin_calloc(plan->context, (size_t)count, sizeof *calls);
    if (!calls) return KIN_OUT_OF_MEMORY;
    for (int32_t i = 0; i < count; i++) calls[i] = plan->steps[first + i].call;
    kin_status status = kin_collective_record(plan->device, commands, calls, (size_t)count);
    kin_free(plan->context, calls);
    return status;
}

static kin_status record_each(kin_plan *plan, int32_t first, int32_t count,
                              kin_commands *commands) {
    kin_device *device = plan->device;
    kin_status status = KIN_OK;
    for (int32_t i = 0; status == KIN_OK && i < count;) {
        int32_t same = 0;
        while (i + same < count && kin_plan_is_collective(plan, first + i + same)) same++;
        if (same > 0) {
            status = record_collectives(plan, first + i, same, commands);
            i += same;
            continue;
        }
        status = device->backend->record(device, commands, plan->steps[first + i].kernel,
                                         &plan->steps[first + i].call);
        i++;
    }
    return status;
}

static kin_status compile(kin_plan *plan, int32_t first, int32_t count, kin_commands *commands) {
    const kin_kernel **kernels =
        kin_calloc(plan->context, (size_t)count, sizeof(const kin_kernel *));
    kin_call *calls = kin_calloc(plan->context, (size_t)count, sizeof *calls);
    kin_status status = kernels && calls ? KIN_OK : KIN_OUT_OF_MEMORY;
    for (int32_t i = 0; status == KIN_OK && i < count; i++) {
        kernels[i] = plan->steps[first + i].kernel;
        calls[i] = plan->steps[first + i].call;
    }
    if (status == KIN_OK)
        status =
            plan->device->backend->compile(plan->device, commands, kernels, calls, (size_t)count);
    kin_free(plan->context, kernels);
    kin_free(plan->context, calls);
    return status;
}

kin_status kin_plan_record_list(kin_plan *plan, int32_t first, int32_t count, kin_commands **out) {
    kin_device *device = plan->device;
    const kin_backend *backend = device->backend;
    kin_status status = backend->begin(device, out);
    if (status != KIN_OK) {
        *out = NULL; /* whatever the backend left there */
        return status;
    }
    if (backend->compile && !kin_plan_is_collective(plan, first))
        status = compile(plan, first, count, *out);
    else status = record_each(plan, first, count, *out);
    if (status == KIN_OK) status = backend->end(device, *out);
    if (status != KIN_OK) {
        backend->discard(device, *out);
        *out = NULL;
    }
    return status;
}

/* What a step's range is: -1 for one of the host, else steps with the same number go into one. */
static int range_kind(const kin_plan *plan, int32_t step) {
    if (!plan->steps[step].kernel) return -1;
    if (!kin_plan_is_collective(plan, step)) return 0;
    if (!kin_group_is_on_device(plan->device->group)) return 1;
    return plan->device->backend->compile ? 2 : 0;
}

kin_status kin_plan_record(kin_plan *plan) {
    kin_plan_discard_ranges(plan);
    kin_status status = bind_steps(plan);
    if (status != KIN_OK) return status;
    plan->ranges = kin_calloc(plan->context, (size_t)plan->step_count + 1, sizeof *plan->ranges);
    if (!plan->ranges) return KIN_OUT_OF_MEMORY;
    for (int32_t s = 0; status == KIN_OK && s < plan->step_count;) {
        kin_plan_range *range = &plan->ranges[plan->range_count++];
        int kind = range_kind(plan, s);
        range->first = s;
        range->host = kind < 0;
        range->collective = kind == 1;
        do s++;
        while (kind >= 0 && s < plan->step_count && range_kind(plan, s) == kind);
        range->count = s - range->first;
        if (!range->host && !range->collective)
            status = kin_plan_record_list(plan, range->first, range->count, &range->commands);
    }
    return status;
}
