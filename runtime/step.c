/* Step mode: each node runs as it is appended, in a buffer of its own for every value. */
#include "runtime/collective_internal.h"
#include "runtime/device.h"
#include "runtime/graph_internal.h"

#include <string.h>

struct kin_step {
    kin_device *device;
    kin_buffer **buffers; /* per value; bases own theirs, the others are NULL */
    int32_t capacity;
};

kin_status kin_graph_create_step(kin_device *device, kin_graph **out_graph) {
    kin_status status = kin_graph_create(device->context, out_graph);
    if (status != KIN_OK) return status;
    kin_step *step = kin_calloc(device->context, 1, sizeof *step);
    if (!step) {
        kin_graph_destroy(*out_graph);
        *out_graph = NULL;
        return KIN_OUT_OF_MEMORY;
    }
    step->device = device;
    (*out_graph)->step = step;
    return KIN_OK;
}

void kin_step_free(kin_graph *graph) {
    kin_step *step = graph->step;
    if (!step) return;
    for (int32_t i = 0; i < step->capacity; i++)
        if (step->buffers[i]) step->device->backend->release(step->device, step->buffers[i]);
    kin_free(graph->context, step->buffers);
    kin_free(graph->context, step);
    graph->step = NULL;
}

/* A buffer for a base value. */
static kin_status give_buffer(kin_graph *graph, int32_t value) {
    kin_step *step = graph->step;
    if (value >= step->capacity) {
        int32_t wanted = value + 1 > 2 * step->capacity ? value + 64 : 2 * step->capacity;
        kin_buffer **larger =
            kin_realloc(graph->context, step->buffers, (size_t)wanted * sizeof *larger);
        if (!larger) return KIN_OUT_OF_MEMORY;
        memset(larger + step->capacity, 0, (size_t)(wanted - step->capacity) * sizeof *larger);
        step->buffers = larger;
        step->capacity = wanted;
    }
    return kin_device_allocate(step->device, kin_desc_bytes(&graph->values[value].desc),
                               &step->buffers[value]);
}

kin_status kin_step_add_source(kin_graph *graph, int32_t id) {
    kin_step *step = graph->step;
    kin_status status = give_buffer(graph, id);
    if (status != KIN_OK) return status;
    const kin_value *value = &graph->values[id];
    size_t bytes = kin_desc_bytes(&value->desc);
    if (value->source == KIN_SOURCE_CONSTANT)
        return step->device->backend->upload(step->device, value->data, step->buffers[id], 0,
                                             bytes);
    return step->device->backend->fill(step->device, step->buffers[id], 0, bytes, 0);
}

static void locate(kin_graph *graph, int32_t id, kin_operand *out_operand) {
    kin_graph_operand(graph, id, out_operand);
    if (id) out_operand->buffer = graph->step->buffers[graph->values[id].base];
}

/* Lowers instead of appending: the simpler ops run as they come. */
static bool append_lowered(kin_graph *graph, const kin_infer *infer, const kin_tensor *inputs,
                           kin_tensor *out_tensors) {
    if (!infer->op->lower) {
        kin_graph_fail(graph, KIN_UNSUPPORTED,
                       "device %s has no kernel for \"%s\", and it cannot be lowered",
                       graph->step->device->info.name, infer->op->name);
        return false;
    }
    kin_lower_call call = {graph,  infer->op,        infer->attrs, infer->in_count,
                           inputs, infer->out_count, out_tensors};
    infer->op->lower(&call);
    return graph->status == KIN_OK;
}

static kin_status run_list(kin_device *device, const kin_kernel *kernel, const kin_call *call) {
    const kin_backend *backend = device->backend;
    kin_commands *commands = NULL;
    kin_status status = backend->begin(device, &commands);
    if (status != KIN_OK) return status; /* commands: whatever the backend left there */
    if (kin_kernel_is_collective(kernel)) status = kin_collective_record(device, commands, call, 1);
    else
        status = backend->compile ? backend->compile(device, commands, &kernel, call, 1)
                                  : backend->record(device, commands, kernel, call);
    if (status == KIN_OK) status = backend->end(device, commands);
    if (status == KIN_OK) status = backend->submit(device, commands);
    if (status == KIN_OK) status = backend->wait(device);
    backend->discard(device, commands);
    return status;
}

static kin_status execute(kin_device *device, const kin_kernel *kernel, kin_call *call) {
    kin_status status = KIN_OK;
    if (kin_kernel_is_collective(kernel) && !kin_group_is_on_device(device->group)) {
        status = kin_collective_add(device, call);
        return status == KIN_OK ? kin_collective_finish(device) : status;
    }
    call->scratch_size = kernel->scratch ? kernel->scratch(device, call) : 0;
    if (call->scratch_size)
        status = kin_device_allocate(device, call->scratch_size, &call->scratch);
    if (status == KIN_OK) status = run_list(device, kernel, call);
    if (call->scratch) device->backend->release(device, call->scratch);
    call->scratch = NULL;
    return status;
}

/* Operands of a node: inputs where they lie, outputs without memory yet. */
static void describe(kin_graph *graph, const kin_infer *infer, const kin_tensor *in,
                     kin_operand *operands, kin_call *out_call) {
    kin_operand *out = operands + infer->in_count;
    for (int i = 0; i < infer->in_count; i++) locate(graph, in[i].id, &operands[i]);
    for (int j = 0; j < infer->out_count; j++) {
        memset(&out[j], 0, sizeof out[j]);
        out[j].desc = infer->out[j];
    }
    *out_call = (kin_call){.op = infer->op->name,
                           .attrs = infer->attrs,
                           .in_count = infer->in_count,
                           .out_count = infer->out_count,
                           .in = operands,
                           .out = out};
}

/* Chooses the kernel; in[] is replaced by dense copies where it wants them. */
static const kin_kernel *choose(kin_graph *graph, const kin_infer *infer, kin_tensor *in,
                                kin_operand *operands, kin_call *call) {
    kin_device *device = graph->step->device;
    describe(graph, infer, in, operands, call);
    const kin_kernel *kernel = kin_device_kernel(device, call);
    bool accepts = kernel != NULL;
    if (!kernel) {
        for (int i = 0; i < infer->in_count; i++)
            if (operands[i].desc.rank >= 0)
                operands[i].desc = kin_desc_dense(operands[i].desc.dtype, operands[i].desc.rank,
                                                  operands[i].desc.dims);
        kernel = kin_device_kernel(device, call);
    }
    if (!kernel) return NULL;
    for (int i = 0; i < infer->in_count; i++) {
        bool strided = accepts && i < 64 && (kernel->strided >> i & 1);
        if (!in[i].id || strided || kin_desc_is_dense(kin_tensor_desc(graph, in[i]))) continue;
        in[i] = kin_append1(graph, kin_op_with_role(KIN_OP_ROLE_COPY), NULL, &in[i], 1);
    }
    describe(graph, infer, in, operands, call);
    return kernel;
}

/* Adds the node, gives its outputs memory and runs it. */
static bool run_node(kin_graph *graph, const kin_infer *infer, const kin_tensor *in,
                     const kin_kernel *kernel, kin_operand *operands, kin_call *call, int32_t *ids,
                     kin_tensor *out_tensors) {
    kin_device *device = graph->step->device;
    for (int i = 0; i < infer->in_count; i++) ids[i] = in[i].id;
    if (!kin_graph_add_node(graph, infer, ids, out_tensors)) return false;
    kin_status status = KIN_OK;
    for (int j = 0; status == KIN_OK && j < infer->out_count; j++) {
        int32_t id = out_tensors[j].id;
        if (graph->values[id].base == id) status = give_buffer(graph, id);
        if (status == KIN_OK) locate(graph, id, &operands[infer->in_count + j]);
    }
    if (status == KIN_OK) status = execute(device, kernel, call);
    if (status != KIN_OK)
        kin_graph_fail(graph, status, "%s: %s", infer->op->name, kin_context_error(graph->context));
    return status == KIN_OK;
}

bool kin_step_append(kin_graph *graph, const kin_infer *infer, const kin_tensor *inputs,
                     kin_tensor *out_tensors) {
    size_t count = (size_t)infer->in_count + 1;
    kin_tensor *in = kin_alloc(graph->context, count * sizeof *in);
    int32_t *ids = kin_alloc(graph->context, count * sizeof *ids);
    kin_operand *operands = kin_calloc(graph->context, count + KIN_MAX_OUTPUTS, sizeof *operands);
    bool done = false;
    if (!in || !ids || !operands) {
        kin_graph_fail(graph, KIN_OUT_OF_MEMORY, "no host memory for the graph");
    } else {
        for (int i = 0; i < infer->in_count; i++) in[i] = inputs[i];
        kin_call call;
        const kin_kernel *kernel = choose(graph, infer, in, operands, &call);
        if (graph->status != KIN_OK) done = false;
        else if (kernel)
            done = run_node(graph, infer, in, kernel, operands, &call, ids, out_tensors);
        else done = append_lowered(graph, infer, inputs, out_tensors);
    }
    kin_free(graph->context, in);
    kin_free(graph->context, ids);
    kin_free(graph->context, operands);
    return done;
}

kin_status kin_graph_write(kin_graph *graph, kin_tensor input, const void *data) {
    kin_status status = kin_graph_status(graph);
    if (status != KIN_OK) return status;
    const kin_value *value =
        input.id > 0 && input.id < graph->value_count ? &graph->values[input.id] : NULL;
    if (!graph->step || !value || value->node >= 0)
        return kin_fail(graph->context, KIN_INVALID,
                        "kin_graph_write wants an input or a variable of a graph in step mode");
    kin_device *device = graph->step->device;
    return device->backend->upload(device, data, graph->step->buffers[input.id], 0,
                                   kin_desc_bytes(&value->desc));
}

kin_status kin_graph_read(kin_graph *graph, kin_tensor tensor, kin_dtype dtype, void *data) {
    kin_status status = kin_graph_status(graph);
    if (status != KIN_OK) return status;
    if (!graph->step || tensor.id <= 0 || tensor.id >= graph->value_count)
        return kin_fail(graph->context, KIN_INVALID,
                        "kin_graph_read wants a tensor of a graph in step mode");
    kin_device *device = graph->step->device;
    kin_operand operand;
    if (!kin_desc_is_dense(kin_tensor_desc(graph, tensor)))
        tensor = kin_append1(graph, kin_op_with_role(KIN_OP_ROLE_COPY), NULL, &tensor, 1);
    status = kin_graph_status(graph);
    if (status != KIN_OK) return status;
    locate(graph, tensor.id, &operand);
    size_t bytes = kin_desc_bytes(&operand.desc);
    void *raw = kin_alloc(graph->context, bytes);
    if (!raw) return KIN_OUT_OF_MEMORY;
    status = device->backend->download(device, operand.buffer, operand.offset, raw, bytes);
    if (status == KIN_OK)
        kin_convert(raw, operand.desc.dtype, data, dtype, kin_desc_count(&operand.desc));
    kin_free(graph->context, raw);
    return status;
}
