/* A recorded call: its primitive, made once, the reorders around it, and its memory. */
#include "backends/onednn/onednn.h"

static size_t rounded(size_t bytes) {
    return (bytes + ODN_ALIGNMENT - 1) / ODN_ALIGNMENT * ODN_ALIGNMENT;
}

/* Weights that are read have memory of their own, which lasts as long as the list. */
static bool owns_memory(const odn_mapping *map, int operand) {
    return operand == ODN_WEIGHTS && map->result != ODN_WEIGHTS;
}

/* The layout that the primitive wants, where it is not the one that is there. */
static bool is_blocked(dnnl_primitive_desc_t described, const odn_mapping *map, int operand,
                       odn_layout *out_layout) {
    *out_layout = (odn_layout){.set = false};
    if (map->operands[operand] < 0 ||
        !odn_wanted(described, map->request.kind, operand, out_layout))
        return false;
    if (!odn_same(out_layout, &map->plain[operand])) return true;
    odn_layout_free(out_layout);
    return false;
}

static size_t scratch_of(odn_state *state, const kin_call *call, bool as_they_lie) {
    odn_mapping map;
    dnnl_primitive_desc_t described;
    size_t bytes = 0;
    if (!odn_map(state, call, as_they_lie, &map)) return 0;
    if (odn_describe(state->engine, &map.request, &described)) {
        bytes = rounded(odn_scratchpad(described));
        for (int i = 0; i < ODN_OPERANDS; i++) {
            odn_layout layout;
            if (owns_memory(&map, i) || !is_blocked(described, &map, i, &layout)) continue;
            bytes += rounded(odn_bytes(&layout));
            odn_layout_free(&layout);
        }
        dnnl_primitive_desc_destroy(described);
    }
    odn_mapping_free(&map);
    return bytes;
}

size_t odn_scratch_size(odn_state *state, const kin_call *call) {
    size_t blocked = scratch_of(state, call, false), plain = scratch_of(state, call, true);
    return blocked > plain ? blocked : plain;
}

static unsigned char *address(odn_state *state, kin_buffer *buffer, size_t offset) {
    return (unsigned char *)state->cpu.backend->address(&state->cpu, buffer) + offset;
}

static const kin_operand *operand_of(const odn_step *step, int which) {
    int operand = step->mapping.operands[which];
    return operand >= ODN_OUT ? &step->call.out[operand - ODN_OUT] : &step->call.in[operand];
}

/* The tensor of one operand, and, if the primitive wants another layout, a second one and the way
 * there or back. */
static bool add_operand(odn_step *step, dnnl_primitive_desc_t described, int which,
                        unsigned char **scratch) {
    odn_state *state = step->state;
    const odn_mapping *map = &step->mapping;
    const kin_operand *operand = operand_of(step, which);
    odn_layout layout;
    if (!odn_memory(state->engine, &map->plain[which],
                    address(state, operand->buffer, operand->offset), &step->tensors[which]))
        return false;
    if (!is_blocked(described, map, which, &layout)) return true;
    unsigned char *data = *scratch;
    if (owns_memory(map, which)) {
        step->weights = kin_alloc(state->cpu.context, odn_bytes(&layout) + ODN_ALIGNMENT);
        data = step->weights;
        if (data) data += rounded((size_t)(uintptr_t)data) - (size_t)(uintptr_t)data;
    } else {
        *scratch += rounded(odn_bytes(&layout));
    }
    const odn_layout *from = which == map->result ? &layout : &map->plain[which];
    const odn_layout *to = which == map->result ? &map->plain[which] : &layout;
    bool good = data && odn_memory(state->engine, &layout, data, &step->blocked[which]) &&
                odn_reorder(state->engine, from, to, &step->reorders[which]);
    odn_layout_free(&layout);
    return good;
}

static bool fill_step(odn_step *step) {
    odn_state *state = step->state;
    dnnl_primitive_desc_t described;
    if (!odn_describe(state->engine, &step->mapping.request, &described)) return false;
    unsigned char *scratch = NULL;
    if (step->call.scratch) scratch = address(state, step->call.scratch, step->call.scratch_offset);
    bool good = dnnl_primitive_create(&step->primitive, described) == dnnl_success;
    if (good && odn_scratchpad(described) > 0) {
        good = scratch && odn_scratch_memory(state->engine, described, scratch, &step->scratchpad);
        if (scratch) scratch += rounded(odn_scratchpad(described));
    }
    for (int i = 0; good && i < ODN_OPERANDS; i++)
        if (step->mapping.operands[i] >= 0) good = add_operand(step, described, i, &scratch);
    dnnl_primitive_desc_destroy(described);
    return good;
}

static kin_status make(odn_state *state, const kin_call *call, bool as_they_lie,
                       odn_step **out_step) {
    kin_context *context = state->cpu.context;
    odn_step *step = kin_calloc(context, 1, sizeof *step);
    *out_step = NULL;
    if (!step) return KIN_OUT_OF_MEMORY;
    step->call = *call;
    step->state = state;
    step->next = state->steps;
    if (step->next) step->next->previous = step;
    state->steps = step;
    if (!odn_map(state, call, as_they_lie, &step->mapping) || !fill_step(step)) {
        odn_step_free(step);
        return kin_fail(context, KIN_DEVICE, "onednn: no primitive for %s", call->op);
    }
    *out_step = step;
    return KIN_OK;
}

kin_status odn_step_make(odn_state *state, const kin_call *call, bool weights_written_before,
                         odn_step **out_step) {
    kin_status status = make(state, call, weights_written_before, out_step);
    if (status != KIN_OK) return status;
    odn_step *step = *out_step;
    step->keeps = !weights_written_before;
    if (step->weights && step->mapping.request.kind == ODN_PRODUCT)
        status = make(state, call, true, &step->spare);
    if (status != KIN_OK) odn_step_free(step);
    return status;
}

void odn_step_free(odn_step *step) {
    odn_state *state = step->state;
    if (step->spare) odn_step_free(step->spare);
    for (int i = 0; i < ODN_OPERANDS; i++) {
        if (step->reorders[i]) dnnl_primitive_destroy(step->reorders[i]);
        if (step->blocked[i]) dnnl_memory_destroy(step->blocked[i]);
        if (step->tensors[i]) dnnl_memory_destroy(step->tensors[i]);
    }
    if (step->scratchpad) dnnl_memory_destroy(step->scratchpad);
    if (step->primitive) dnnl_primitive_destroy(step->primitive);
    odn_mapping_free(&step->mapping);
    if (step->previous) step->previous->next = step->next;
    else state->steps = step->next;
    if (step->next) step->next->previous = step->previous;
    kin_free(state->cpu.context, step->weights);
    kin_free(state->cpu.context, step);
}

static bool run_reorder(odn_step *step, int which, dnnl_memory_t from, dnnl_memory_t to) {
    const dnnl_exec_arg_t arguments[2] = {{DNNL_ARG_FROM, from}, {DNNL_ARG_TO, to}};
    return dnnl_primitive_execute(step->reorders[which], step->state->stream, 2, arguments) ==
           dnnl_success;
}

kin_status odn_step_run(odn_step *step) {
    const odn_mapping *map = &step->mapping;
    dnnl_exec_arg_t arguments[ODN_OPERANDS + 1];
    int count = 0;
    bool good = true;
    if (step->spare && !step->fresh && step->reorders_run++ > 0) return odn_step_run(step->spare);
    for (int i = 0; good && i < ODN_OPERANDS; i++) {
        if (map->operands[i] < 0) continue;
        bool blocked = step->reorders[i] != NULL;
        bool stays = owns_memory(map, i) && step->keeps && step->fresh;
        if (blocked && i != map->result && !stays)
            good = run_reorder(step, i, step->tensors[i], step->blocked[i]);
        arguments[count++] = (dnnl_exec_arg_t){odn_argument(&map->request, i),
                                               blocked ? step->blocked[i] : step->tensors[i]};
    }
    step->fresh = good;
    if (step->scratchpad)
        arguments[count++] = (dnnl_exec_arg_t){DNNL_ARG_SCRATCHPAD, step->scratchpad};
    good = good && dnnl_primitive_execute(step->primitive, step->state->stream, count, arguments) ==
                       dnnl_success;
    if (good && step->reorders[map->result])
        good =
            run_reorder(step, map->result, step->blocked[map->result], step->tensors[map->result]);
    good = good && dnnl_stream_wait(step->state->stream) == dnnl_success;
    if (good) return KIN_OK;
    return kin_fail(step->state->cpu.context, KIN_DEVICE, "onednn: %s failed", step->call.op);
}

void odn_forget(odn_state *state, const kin_buffer *buffer) {
    for (odn_step *step = state->steps; step; step = step->next)
        if (step->weights && operand_of(step, ODN_WEIGHTS)->buffer == buffer) step->fresh = false;
}
