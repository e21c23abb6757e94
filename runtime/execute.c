/* Running plans: memory, recording, inputs and outputs, replay, profile, check. */
#include "runtime/plan_internal.h"

#include "runtime/check.h"
#include "runtime/collective_internal.h"

#include <math.h>
#include <string.h>

kin_status kin_workspace_create(kin_device *device, kin_workspace **out_workspace) {
    *out_workspace = kin_calloc(device->context, 1, sizeof **out_workspace);
    if (!*out_workspace) return KIN_OUT_OF_MEMORY;
    (*out_workspace)->device = device;
    return KIN_OK;
}

static void release_chunks(kin_workspace *workspace) {
    kin_device *device = workspace->device;
    for (int32_t i = 0; i < workspace->chunk_count; i++)
        if (workspace->chunks[i]) device->backend->release(device, workspace->chunks[i]);
    kin_free(device->context, workspace->chunks);
    workspace->chunks = NULL;
    workspace->chunk_count = 0;
    workspace->size = 0;
    workspace->generation++;
}

void kin_workspace_free(kin_workspace *workspace) {
    if (!workspace) return;
    release_chunks(workspace);
    kin_free(workspace->device->context, workspace);
}

static kin_status grow_workspace(kin_workspace *workspace, uint64_t size) {
    kin_device *device = workspace->device;
    if (size <= workspace->size) return KIN_OK;
    release_chunks(workspace);
    uint64_t alignment = device->info.alignment ? device->info.alignment : 64;
    uint64_t limit = device->info.max_allocation - device->info.max_allocation % alignment;
    uint64_t chunk = limit && limit < size ? limit : size;
    int32_t count = (int32_t)((size + chunk - 1) / chunk);
    workspace->chunks = kin_calloc(device->context, (size_t)count, sizeof *workspace->chunks);
    if (!workspace->chunks) return KIN_OUT_OF_MEMORY;
    workspace->chunk_count = count;
    workspace->chunk_size = chunk;
    for (int32_t i = 0; i < count; i++) {
        uint64_t bytes = i + 1 < count ? chunk : size - chunk * (uint64_t)i;
        kin_status status = kin_device_allocate(device, bytes, &workspace->chunks[i]);
        if (status != KIN_OK) {
            release_chunks(workspace);
            return kin_fail_in(device->context, status, "the arena of %llu bytes",
                               (unsigned long long)size);
        }
    }
    workspace->size = size;
    return KIN_OK;
}

void kin_plan_unprepare(kin_plan *plan) {
    kin_device *device = plan->device;
    kin_plan_discard_ranges(plan);
    for (int32_t i = 0; plan->inputs && i < plan->graph->input_count; i++)
        if (plan->inputs[i]) device->backend->release(device, plan->inputs[i]);
    kin_free(plan->context, plan->inputs);
    plan->inputs = NULL;
    if (plan->constants) device->backend->release(device, plan->constants);
    plan->constants = NULL;
    if (plan->owns_workspace) kin_workspace_free(plan->workspace);
    plan->workspace = NULL;
    plan->owns_workspace = plan->prepared = false;
}

static kin_status upload_constants(kin_plan *plan) {
    kin_device *device = plan->device;
    if (!plan->summary.constants) return KIN_OK;
    kin_status status = kin_device_allocate(device, plan->summary.constants, &plan->constants);
    for (int32_t i = 1; status == KIN_OK && i < plan->graph->value_count; i++) {
        const kin_value *value = &plan->graph->values[i];
        if (value->base != i || plan->locations[i].place != KIN_PLACE_CONSTANT) continue;
        status = device->backend->upload(device, value->data, plan->constants,
                                         (size_t)plan->locations[i].offset,
                                         kin_desc_bytes(&value->desc));
    }
    return status;
}

kin_status kin_plan_prepare(kin_plan *plan, kin_store *store, kin_workspace *workspace) {
    kin_device *device = plan->device;
    kin_plan_unprepare(plan);
    plan->store = store;
    kin_status status = KIN_OK;
    if (workspace) {
        plan->workspace = workspace;
    } else {
        status = kin_workspace_create(device, &plan->workspace);
        plan->owns_workspace = status == KIN_OK;
    }
    if (status == KIN_OK)
        status = grow_workspace(plan->workspace, plan->summary.arena ? plan->summary.arena : 64);
    if (status == KIN_OK) {
        plan->inputs =
            kin_calloc(plan->context, (size_t)plan->graph->input_count + 1, sizeof(kin_buffer *));
        if (!plan->inputs) status = KIN_OUT_OF_MEMORY;
    }
    for (int32_t i = 0; status == KIN_OK && i < plan->graph->input_count; i++) {
        const kin_value *value = &plan->graph->values[plan->graph->inputs[i].value];
        size_t bytes = kin_desc_bytes(&value->desc);
        status = kin_device_allocate(device, bytes, &plan->inputs[i]);
        if (status == KIN_OK) status = device->backend->fill(device, plan->inputs[i], 0, bytes, 0);
    }
    if (status == KIN_OK) status = upload_constants(plan);
    if (status == KIN_OK) status = kin_plan_record(plan);
    plan->prepared = status == KIN_OK;
    if (status != KIN_OK) kin_plan_unprepare(plan);
    return status;
}

static kin_status need_prepared(kin_plan *plan) {
    if (plan->prepared) return KIN_OK;
    return kin_fail(plan->context, KIN_INVALID, "the plan is not prepared: kin_plan_prepare first");
}

static int32_t find_named(const kin_named *list, int32_t count, const char *name) {
    for (int32_t i = 0; i < count; i++)
        if (strcmp(list[i].name, name) == 0) return i;
    return -1;
}

kin_status kin_plan_write(kin_plan *plan, const char *input, kin_dtype dtype, const void *data) {
    kin_status status = need_prepared(plan);
    if (status != KIN_OK) return status;
    int32_t i = find_named(plan->graph->inputs, plan->graph->input_count, input);
    if (i < 0) return kin_fail(plan->context, KIN_NOT_FOUND, "the plan has no input \"%s\"", input);
    const kin_desc *desc = &plan->graph->values[plan->graph->inputs[i].value].desc;
    size_t bytes = kin_desc_bytes(desc);
    if (dtype == desc->dtype)
        return plan->device->backend->upload(plan->device, data, plan->inputs[i], 0, bytes);
    void *converted = kin_alloc(plan->context, bytes);
    if (!converted) return KIN_OUT_OF_MEMORY;
    kin_convert(data, dtype, converted, desc->dtype, kin_desc_count(desc));
    status = plan->device->backend->upload(plan->device, converted, plan->inputs[i], 0, bytes);
    kin_free(plan->context, converted);
    return status;
}

kin_status kin_plan_read(kin_plan *plan, const char *output, kin_dtype dtype, void *data) {
    kin_status status = need_prepared(plan);
    if (status != KIN_OK) return status;
    int32_t i = find_named(plan->graph->outputs, plan->graph->output_count, output);
    if (i < 0)
        return kin_fail(plan->context, KIN_NOT_FOUND, "the plan has no output \"%s\"", output);
    int32_t value = plan->graph->outputs[i].value;
    const kin_desc *desc = &plan->graph->values[value].desc;
    size_t bytes = kin_desc_bytes(desc), offset;
    kin_buffer *buffer;
    status = kin_plan_resolve(plan, value, &buffer, &offset);
    if (status != KIN_OK) return status;
    if (dtype == desc->dtype)
        return plan->device->backend->download(plan->device, buffer, offset, data, bytes);
    void *raw = kin_alloc(plan->context, bytes);
    if (!raw) return KIN_OUT_OF_MEMORY;
    status = plan->device->backend->download(plan->device, buffer, offset, raw, bytes);
    if (status == KIN_OK) kin_convert(raw, desc->dtype, data, dtype, kin_desc_count(desc));
    kin_free(plan->context, raw);
    return status;
}

/* Host copies of a step's operands, gathered to dense. */
typedef struct host_step {
    kin_host_tensor *in, *out;
    int in_count, out_count;
} host_step;

static kin_status download_dense(kin_plan *plan, const kin_operand *operand,
                                 kin_host_tensor *out_tensor) {
    kin_device *device = plan->device;
    const kin_desc *desc = &operand->desc;
    kin_status status =
        kin_host_tensor_create(plan->context, desc->dtype, desc->rank, desc->dims, out_tensor);
    if (status != KIN_OK) return status;
    size_t size = kin_dtype_size(desc->dtype);
    if (kin_desc_is_dense(desc))
        return device->backend->download(device, operand->buffer, operand->offset, out_tensor->data,
                                         kin_desc_bytes(desc));
    int64_t span = 1;
    for (int a = 0; a < desc->rank; a++) span += (desc->dims[a] - 1) * desc->strides[a];
    char *raw = kin_alloc(plan->context, (size_t)span * size);
    if (!raw) return KIN_OUT_OF_MEMORY;
    status = device->backend->download(device, operand->buffer, operand->offset, raw,
                                       (size_t)span * size);
    int64_t count = kin_desc_count(desc);
    for (int64_t i = 0; status == KIN_OK && i < count; i++) {
        int64_t rest = i, at = 0;
        for (int a = desc->rank - 1; a >= 0; a--) {
            at += rest % desc->dims[a] * desc->strides[a];
            rest /= desc->dims[a];
        }
        memcpy((char *)out_tensor->data + (size_t)i * size, raw + (size_t)at * size, size);
    }
    kin_free(plan->context, raw);
    return status;
}

static void free_host_step(kin_plan *plan, host_step *host) {
    for (int i = 0; host->in && i < host->in_count; i++)
        kin_host_tensor_free(plan->context, &host->in[i]);
    for (int j = 0; host->out && j < host->out_count; j++)
        kin_host_tensor_free(plan->context, &host->out[j]);
    kin_free(plan->context, host->in);
    kin_free(plan->context, host->out);
}

/* Downloads the inputs and runs the reference; outputs stay on the host. */
static kin_status run_reference(kin_plan *plan, const kin_plan_step *step, host_step *host) {
    const kin_node *node = &plan->graph->nodes[step->node];
    host->in_count = node->in_count;
    host->out_count = node->out_count;
    host->in = kin_calloc(plan->context, (size_t)node->in_count + 1, sizeof *host->in);
    host->out = kin_calloc(plan->context, (size_t)node->out_count, sizeof *host->out);
    if (!host->in || !host->out) return KIN_OUT_OF_MEMORY;
    kin_status status = KIN_OK;
    for (int i = 0; status == KIN_OK && i < node->in_count; i++) {
        if (!node->in[i]) host->in[i].desc.rank = -1;
        else status = download_dense(plan, &step->call.in[i], &host->in[i]);
    }
    for (int j = 0; status == KIN_OK && j < node->out_count; j++) {
        const kin_desc *desc = &step->call.out[j].desc;
        status = kin_host_tensor_create(plan->context, desc->dtype, desc->rank, desc->dims,
                                        &host->out[j]);
    }
    if (status == KIN_OK)
        status = kin_reference_run(plan->context, node->op, node->attrs, node->in_count, host->in,
                                   node->out_count, host->out);
    return status;
}

static kin_status run_on_host(kin_plan *plan, const kin_plan_step *step) {
    host_step host = {0};
    kin_device *device = plan->device;
    kin_status status = device->backend->wait(device);
    if (status == KIN_OK) status = run_reference(plan, step, &host);
    for (int j = 0; status == KIN_OK && j < host.out_count; j++)
        status =
            device->backend->upload(device, host.out[j].data, step->call.out[j].buffer,
                                    step->call.out[j].offset, kin_desc_bytes(&host.out[j].desc));
    free_host_step(plan, &host);
    return status;
}

/* Records anew if a shared workspace has moved. */
static kin_status ready(kin_plan *plan) {
    kin_status status = need_prepared(plan);
    if (status == KIN_OK && plan->generation != plan->workspace->generation)
        status = kin_plan_record(plan);
    return status;
}

/* Sums between the ranks by way of the host. */
static kin_status run_collectives(kin_plan *plan, int32_t first, int32_t count) {
    kin_status status = KIN_OK;
    for (int32_t i = 0; status == KIN_OK && i < count; i++)
        status = kin_collective_add(plan->device, &plan->steps[first + i].call);
    return status == KIN_OK ? kin_collective_finish(plan->device) : status;
}

kin_status kin_plan_run(kin_plan *plan) {
    kin_device *device = plan->device;
    kin_status status = ready(plan);
    for (int32_t i = 0; status == KIN_OK && i < plan->range_count; i++) {
        kin_plan_range *range = &plan->ranges[i];
        if (range->host) status = run_on_host(plan, &plan->steps[range->first]);
        else if (range->collective) status = run_collectives(plan, range->first, range->count);
        else status = device->backend->submit(device, range->commands);
    }
    return status == KIN_OK ? device->backend->wait(device) : status;
}

/* Times, and counters where there are any, of the range's steps. */
static kin_status read_profile(kin_plan *plan, const kin_plan_range *range) {
    kin_device *device = plan->device;
    size_t count = (size_t)range->count;
    double *seconds = kin_calloc(plan->context, count, sizeof *seconds);
    kin_call_counters *counters = kin_calloc(plan->context, count, sizeof *counters);
    kin_status status = seconds && counters ? KIN_OK : KIN_OUT_OF_MEMORY;
    if (status == KIN_OK)
        status = device->backend->timestamps(device, range->commands, seconds, count);
    if (status == KIN_OK && device->backend->counters)
        status = device->backend->counters(device, range->commands, counters, count);
    for (size_t s = 0; status == KIN_OK && s < count; s++) {
        plan->steps[(size_t)range->first + s].seconds = seconds[s];
        plan->steps[(size_t)range->first + s].counters = counters[s];
    }
    kin_free(plan->context, seconds);
    kin_free(plan->context, counters);
    return status;
}

static kin_status set_timed(kin_plan *plan, bool timed) {
    kin_device *device = plan->device;
    kin_status status = KIN_OK;
    for (int32_t i = 0; device->backend->set_timed && status == KIN_OK && i < plan->range_count;
         i++)
        if (plan->ranges[i].commands)
            status = device->backend->set_timed(device, plan->ranges[i].commands, timed);
    return status;
}

kin_status kin_plan_profile(kin_plan *plan) {
    kin_device *device = plan->device;
    if (!device->backend->timestamps)
        return kin_fail(plan->context, KIN_UNSUPPORTED, "device %s has no timer",
                        device->info.name);
    kin_status status = ready(plan);
    if (status == KIN_OK) status = set_timed(plan, true);
    if (status == KIN_OK) status = kin_plan_run(plan);
    for (int32_t i = 0; status == KIN_OK && i < plan->range_count; i++)
        if (plan->ranges[i].commands) status = read_profile(plan, &plan->ranges[i]);
    return status == KIN_OK ? set_timed(plan, false) : status;
}

static kin_status run_one(kin_plan *plan, int32_t index) {
    kin_commands *commands = NULL;
    kin_device *device = plan->device;
    if (!plan->steps[index].kernel) return run_on_host(plan, &plan->steps[index]);
    kin_status status = kin_plan_record_list(plan, index, 1, &commands);
    if (status != KIN_OK) return status;
    status = device->backend->submit(device, commands);
    if (status == KIN_OK) status = device->backend->wait(device);
    device->backend->discard(device, commands);
    return status;
}

/* Compares the device's outputs of a step with the reference's; KIN_NUMERIC at the first that is
 * off. NaN on either side is a difference unless both have it. */
static kin_status compare_step(kin_plan *plan, int32_t index, const host_step *host, double scale,
                               kin_divergence *out) {
    const kin_plan_step *step = &plan->steps[index];
    kin_status status = KIN_OK;
    for (int j = 0; status == KIN_OK && j < host->out_count; j++) {
        kin_host_tensor got = {0};
        status = download_dense(plan, &step->call.out[j], &got);
        const kin_host_tensor *want = &host->out[j];
        int64_t count = kin_desc_count(&want->desc), worst = -1;
        double largest = 0, error = -1;
        for (int64_t i = 0; status == KIN_OK && i < count; i++) {
            double w = kin_element_get(want->data, want->desc.dtype, i);
            double g = kin_element_get(got.data, got.desc.dtype, i);
            double e = isnan(w) && isnan(g) ? 0 : fabs(g - w);
            if (w == g) e = 0;
            if (isnan(e)) e = INFINITY;
            if (fabs(w) > largest && isfinite(w)) largest = fabs(w);
            if (e > error) {
                error = e;
                worst = i;
            }
        }
        double allowed =
            scale * largest *
            kin_device_tolerance(&plan->device->info, plan->graph->nodes[step->node].op,
                                 step->call.in_count > 0 ? step->call.in[0].desc.dtype : KIN_F32,
                                 want->desc.dtype, step->reduction);
        if (status == KIN_OK && error > allowed) {
            *out = (kin_divergence){.node = index,
                                    .output = j,
                                    .error = error,
                                    .tolerance = allowed,
                                    .element = worst,
                                    .got = kin_element_get(got.data, got.desc.dtype, worst),
                                    .want = kin_element_get(want->data, want->desc.dtype, worst)};
            const kin_node *node = &plan->graph->nodes[step->node];
            status = kin_fail(plan->context, KIN_NUMERIC,
                              "node %d, %s%s%s (kernel %s), output %d, element %lld: got %.9g, "
                              "want %.9g, allowed %.3g",
                              (int)index, node->path, node->path[0] ? " " : "", node->op->name,
                              step->kernel ? step->kernel->name : "reference", j, (long long)worst,
                              out->got, out->want, allowed);
        }
        kin_host_tensor_free(plan->context, &got);
    }
    return status;
}

kin_status kin_plan_check(kin_plan *plan, double tolerance_scale, kin_divergence *out_divergence) {
    memset(out_divergence, 0, sizeof *out_divergence);
    kin_status status = ready(plan);
    for (int32_t s = 0; status == KIN_OK && s < plan->step_count; s++)
        if (kin_plan_is_collective(plan, s))
            status = kin_fail(plan->context, KIN_UNSUPPORTED,
                              "a plan that sums over the ranks of a group is not checked node by "
                              "node: build it on a device without one");
    for (int32_t s = 0; status == KIN_OK && s < plan->step_count; s++) {
        host_step host = {0};
        status = run_reference(plan, &plan->steps[s], &host);
        if (status == KIN_OK) status = run_one(plan, s);
        if (status == KIN_OK)
            status = compare_step(plan, s, &host, tolerance_scale, out_divergence);
        free_host_step(plan, &host);
    }
    return status;
}

static kin_status has_nonfinite(kin_plan *plan, const kin_operand *operand, bool *out_has) {
    kin_host_tensor tensor = {0};
    *out_has = false;
    if (!kin_dtype_is_float(operand->desc.dtype)) return KIN_OK;
    kin_status status = download_dense(plan, operand, &tensor);
    int64_t count = kin_desc_count(&operand->desc);
    for (int64_t i = 0; status == KIN_OK && i < count && !*out_has; i++)
        *out_has = !isfinite(kin_element_get(tensor.data, tensor.desc.dtype, i));
    kin_host_tensor_free(plan->context, &tensor);
    return status;
}

kin_status kin_plan_find_nonfinite(kin_plan *plan, const char **out_where) {
    *out_where = NULL;
    kin_status status = ready(plan);
    for (int32_t s = 0; status == KIN_OK && s < plan->step_count && !*out_where; s++) {
        const kin_plan_step *step = &plan->steps[s];
        if (kin_plan_is_collective(plan, s)) break; /* the other ranks may have stopped already */
        status = run_one(plan, s);
        for (int j = 0; status == KIN_OK && j < step->call.out_count && !*out_where; j++) {
            bool has;
            status = has_nonfinite(plan, &step->call.out[j], &has);
            if (status == KIN_OK && has) *out_where = kin_plan_node_name(plan, s);
        }
    }
    return status;
}
