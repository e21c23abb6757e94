/* Lists of steps, recorded once with all arguments and submitted often. The first submit queues
 * step by step; the second makes a CUDA graph of them, which all later ones launch. A list that is
 * timed is queued step by step, with an event behind each call. Launches of neighbouring calls that
 * may be one (joined.cuh) are one, but for lists that are timed. */
#include "backends/cuda/internal.h"

#include <stddef.h>
#include <string.h>

/* What drivers before 12.1, and kernels built as these are, take. */
enum { PARAMETER_BYTES = 4096 };

typedef enum cuda_step_kind { STEP_LAUNCH, STEP_COPY, STEP_FILL, STEP_RUN } cuda_step_kind;

typedef struct cuda_step {
    cuda_step_kind kind;
    kin_cuda_launch_record launch; /* STEP_LAUNCH; `memory` holds its arguments */
    void *memory;
    kin_cuda_joined_kernel twin; /* .kernel NULL: stands alone */
    size_t item_size;            /* of its one argument */
    bool joins;                  /* the step before it */
    void *target;                /* STEP_COPY, STEP_FILL */
    const void *source;
    size_t size;
    int byte;
    kin_cuda_step_fn run; /* STEP_RUN; `memory` is its data */
    kin_cuda_step_end_fn end;
} cuda_step;

/* Steps first .. first + count - 1 as one launch. */
typedef struct cuda_join {
    size_t first, count;
    kin_cuda_launch_record launch;
    const void *items, *firsts;
    int item_count;
    void *arguments[3]; /* of the launch: where the three before lie */
} cuda_join;

/* Memory that a call of the run reads or writes. */
typedef struct cuda_range {
    const char *start, *end;
    bool written;
} cuda_range;

struct kin_commands {
    const char *name; /* of the row that is being recorded */
    cuda_step *steps;
    size_t step_count, step_capacity;
    size_t *call_ends; /* call i is made of the steps up to call_ends[i] */
    size_t call_count, call_capacity;
    cuda_range *ranges; /* of the run of steps that join */
    size_t range_count, range_capacity;
    cuda_join *joins;
    size_t join_count;
    void **tables; /* kin_cuda_table */
    size_t table_count, table_capacity;
    void *graph;
    bool no_graph, was_submitted, is_timed;
    void **events; /* call_count + 1, if the list is timed */
    size_t event_count;
};

/* ---- steps ---- */

static void *grown(kin_context *context, void *list, size_t count, size_t *capacity, size_t size) {
    if (count < *capacity) return list;
    size_t wanted = *capacity > 0 ? 2 * *capacity : 64;
    void *larger = kin_realloc(context, list, wanted * size);
    if (larger != NULL) *capacity = wanted;
    return larger;
}

static kin_status append(kin_device *device, kin_commands *commands, const cuda_step *step) {
    cuda_step *list = grown(device->context, commands->steps, commands->step_count,
                            &commands->step_capacity, sizeof *list);
    if (list == NULL) return KIN_OUT_OF_MEMORY;
    commands->steps = list;
    list[commands->step_count++] = *step;
    return KIN_OK;
}

/* Nothing but blocks that the device has. */
static kin_status check_launch(kin_device *device, const kin_cuda_launch_record *record) {
    const unsigned *grid = record->grid, *block = record->block;
    size_t limit = kin_cuda_of(device)->properties.shared_limit;
    const char *fault = NULL;
    uint64_t threads = (uint64_t)block[0] * block[1] * block[2];
    if (threads == 0 || threads > 1024 || block[2] > 64) fault = "so many threads in a block";
    else if (grid[0] > INT32_MAX || grid[1] > 65535 || grid[2] > 65535) fault = "so many blocks";
    else if (record->shared > limit) fault = "so much shared memory";
    if (fault == NULL) return KIN_OK;
    return kin_fail(device->context, KIN_UNSUPPORTED,
                    "%s takes not %s: grid %u x %u x %u, block %u x %u x %u, %zu bytes of shared "
                    "memory of %zu",
                    device->info.name, fault, grid[0], grid[1], grid[2], block[0], block[1],
                    block[2], record->shared, limit);
}

static size_t aligned(size_t offset, size_t alignment) {
    return (offset + alignment - 1) / alignment * alignment;
}

/* The arguments in one piece of memory: the pointers, then the values as the kernel's parameters
 * lie. */
static kin_status copy_arguments(kin_device *device, const kin_cuda_launch_record *record,
                                 const size_t *sizes, const size_t *alignments, cuda_step *step) {
    const unsigned count = record->argument_count;
    size_t bytes = 0, most = 16;
    for (unsigned i = 0; i < count; i++) {
        if (alignments[i] > most) most = alignments[i];
        bytes = aligned(bytes, alignments[i]) + sizes[i];
    }
    if (bytes > PARAMETER_BYTES)
        return kin_fail(device->context, KIN_UNSUPPORTED,
                        "a kernel takes not %zu bytes of "
                        "parameters, but %d",
                        bytes, PARAMETER_BYTES);
    const size_t first = aligned(count * sizeof(void *), most);
    step->memory = kin_alloc(device->context, first + bytes + most);
    if (step->memory == NULL) return KIN_OUT_OF_MEMORY;
    uintptr_t start = aligned((uintptr_t)step->memory, most);
    char *place = (char *)step->memory + (start - (uintptr_t)step->memory);
    step->launch.arguments = (void **)(void *)place;
    step->launch.values = place + first;
    step->launch.value_bytes = bytes;
    for (size_t i = 0, at = 0; i < count; at += sizes[i++]) {
        at = aligned(at, alignments[i]);
        memcpy(place + first + at, record->arguments[i], sizes[i]);
        step->launch.arguments[i] = place + first + at;
    }
    return KIN_OK;
}

static kin_status load(kin_device *device, const void *kernel,
                       const kin_cuda_launch_record *record) {
    const unsigned *block = record->block;
    return cuda_checked(
        device,
        kin_cuda_of(device)->api->prepare(kernel, record->shared, block[0] * block[1] * block[2]),
        "loading a kernel");
}

kin_status kin_cuda_add_launch(kin_device *device, kin_commands *commands,
                               const kin_cuda_launch_record *record, const size_t *sizes,
                               const size_t *alignments) {
    cuda_step step = {.kind = STEP_LAUNCH, .launch = *record};
    if (record->grid[0] == 0 || record->grid[1] == 0 || record->grid[2] == 0) return KIN_OK;
    kin_status status = check_launch(device, record);
    if (status == KIN_OK) status = load(device, record->kernel, record);
    if (status != KIN_OK) return status;
    step.launch.name = commands->name;
    step.item_size = record->argument_count == 1 ? sizes[0] : 0;
    status = copy_arguments(device, record, sizes, alignments, &step);
    if (status == KIN_OK) status = append(device, commands, &step);
    if (status != KIN_OK) kin_free(device->context, step.memory);
    return status;
}

kin_status kin_cuda_may_join(kin_device *device, kin_commands *commands,
                             const kin_cuda_joined_kernel *twin) {
    cuda_step *step = &commands->steps[commands->step_count - 1];
    kin_status status = load(device, twin->kernel, &step->launch);
    if (status == KIN_OK) step->twin = *twin;
    return status;
}

kin_status kin_cuda_add_copy(kin_device *device, kin_commands *commands, void *target,
                             const void *source, size_t size) {
    cuda_step step = {.kind = STEP_COPY, .target = target, .source = source, .size = size};
    return size > 0 ? append(device, commands, &step) : KIN_OK;
}

kin_status kin_cuda_add_fill(kin_device *device, kin_commands *commands, void *target, int byte,
                             size_t size) {
    cuda_step step = {.kind = STEP_FILL, .target = target, .byte = byte, .size = size};
    return size > 0 ? append(device, commands, &step) : KIN_OK;
}

static void end_step(kin_device *device, cuda_step *step) {
    if (step->end != NULL) step->end(device, step->memory);
    else kin_free(device->context, step->memory);
}

kin_status kin_cuda_add_step(kin_device *device, kin_commands *commands, kin_cuda_step_fn run,
                             kin_cuda_step_end_fn end, void *data) {
    cuda_step step = {.kind = STEP_RUN, .run = run, .end = end, .memory = data};
    kin_status status = append(device, commands, &step);
    if (status != KIN_OK) end_step(device, &step);
    return status;
}

kin_status kin_cuda_table(kin_device *device, kin_commands *commands, const void *data, size_t size,
                          void **out_address) {
    kin_cuda_device *state = kin_cuda_of(device);
    void **tables = grown(device->context, commands->tables, commands->table_count,
                          &commands->table_capacity, sizeof *tables);
    kin_buffer buffer = {.size = size};
    void *address = NULL;
    if (tables == NULL) return KIN_OUT_OF_MEMORY;
    commands->tables = tables;
    int code = state->api->allocate(&address, size > 0 ? size : 1);
    if (code != 0) return kin_cuda_fail(device, code, "memory for a table");
    tables[commands->table_count++] = address;
    buffer.address = address;
    *out_address = address;
    return cuda_upload(device, data, &buffer, 0, size);
}

/* ---- joining ---- */

static cuda_range range_of(const kin_operand *operand, bool written) {
    const kin_desc *desc = &operand->desc;
    const char *start = kin_cuda_address(operand);
    if (start == NULL || kin_desc_count(desc) == 0) return (cuda_range){NULL, NULL, written};
    if (kin_desc_is_dense(desc)) return (cuda_range){start, start + kin_desc_bytes(desc), written};
    const int64_t size = (int64_t)kin_dtype_size(desc->dtype);
    int64_t low = 0, high = 0;
    for (int a = 0; a < desc->rank; a++) {
        const int64_t reach = (desc->dims[a] - 1) * desc->strides[a];
        *(reach < 0 ? &low : &high) += reach;
    }
    return (cuda_range){start + low * size, start + (high + 1) * size, written};
}

/* True if one of them writes what the other one touches. */
static bool collide(const cuda_range *a, const cuda_range *b) {
    return (a->written || b->written) && a->start < b->end && b->start < a->end;
}

/* Adds what the call touches to the run's ranges, unless it collides with them. */
static kin_status add_ranges(kin_device *device, kin_commands *commands, const kin_call *call,
                             bool *out_collides) {
    const size_t before = commands->range_count;
    *out_collides = false;
    for (int k = 0; k < call->in_count + call->out_count; k++) {
        const bool written = k >= call->in_count;
        const cuda_range mine =
            range_of(written ? &call->out[k - call->in_count] : &call->in[k], written);
        if (mine.start == NULL) continue;
        for (size_t i = 0; i < before; i++)
            if (collide(&mine, &commands->ranges[i])) {
                *out_collides = true;
                commands->range_count = before;
                return KIN_OK;
            }
        cuda_range *list = grown(device->context, commands->ranges, commands->range_count,
                                 &commands->range_capacity, sizeof *list);
        if (list == NULL) return KIN_OUT_OF_MEMORY;
        commands->ranges = list;
        list[commands->range_count++] = mine;
    }
    return KIN_OK;
}

/* True if step `index` may stand in one launch with the one before it, whatever memory they use. */
static bool goes_with_last(const kin_commands *commands, size_t index) {
    const cuda_step *step = &commands->steps[index];
    if (index == 0) return false;
    const cuda_step *before = step - 1;
    return before->twin.kernel == step->twin.kernel && before->item_size == step->item_size &&
           before->launch.block[0] == step->launch.block[0];
}

/* Whether the call's one step, at `index`, joins the one before it. */
static kin_status look_for_join(kin_device *device, kin_commands *commands, const kin_call *call,
                                size_t index) {
    bool collides = true;
    kin_status status = KIN_OK;
    if (commands->step_count != index + 1 || commands->steps[index].twin.kernel == NULL ||
        call->scratch_size > 0) {
        commands->range_count = 0; /* the run ends */
        for (size_t i = index; i < commands->step_count; i++) commands->steps[i].twin.kernel = NULL;
        return KIN_OK;
    }
    if (goes_with_last(commands, index)) status = add_ranges(device, commands, call, &collides);
    commands->steps[index].joins = status == KIN_OK && !collides;
    if (status != KIN_OK || !collides) return status;
    commands->range_count = 0; /* a new run */
    return add_ranges(device, commands, call, &collides);
}

/* The steps from `first` that are one launch: 1 or more. */
static size_t run_length(const kin_commands *commands, size_t first) {
    uint64_t blocks = commands->steps[first].launch.grid[0];
    size_t count = 1;
    for (; first + count < commands->step_count; count++) {
        const cuda_step *step = &commands->steps[first + count];
        blocks += step->launch.grid[0];
        if (!step->joins || blocks > INT32_MAX) break;
    }
    return count;
}

/* The table of a run's items, and the launch. */
static kin_status make_join(kin_device *device, kin_commands *commands, size_t first, size_t count,
                            cuda_join *join) {
    const cuda_step *steps = commands->steps + first;
    const size_t size = steps->item_size, items = (count * size + 15) / 16 * 16;
    const size_t bytes = items + (count + 1) * sizeof(unsigned);
    char *table = kin_calloc(device->context, 1, bytes);
    void *address = NULL;
    if (table == NULL) return KIN_OUT_OF_MEMORY;
    unsigned *firsts = (unsigned *)(void *)(table + items);
    for (size_t i = 0; i < count; i++) {
        memcpy(table + i * size, steps[i].launch.arguments[0], size);
        firsts[i + 1] = firsts[i] + steps[i].launch.grid[0];
    }
    *join = (cuda_join){.first = first, .count = count, .launch = steps->launch};
    join->launch.kernel = steps->twin.kernel;
    join->launch.emulated = steps->twin.emulated;
    join->launch.grid[0] = firsts[count];
    kin_status status = kin_cuda_table(device, commands, table, bytes, &address);
    kin_free(device->context, table);
    join->items = address;
    join->firsts = (const char *)address + items;
    join->item_count = (int)count;
    join->arguments[0] = &join->items, join->arguments[1] = &join->firsts;
    join->arguments[2] = &join->item_count;
    join->launch.arguments = join->arguments;
    join->launch.values = &join->items;
    join->launch.value_bytes = offsetof(cuda_join, arguments) - offsetof(cuda_join, items);
    join->launch.argument_count = 3;
    return status;
}

static kin_status make_joins(kin_device *device, kin_commands *commands) {
    size_t count = 0, length = 1;
    kin_status status = KIN_OK;
    for (size_t i = 0; i < commands->step_count; i += length)
        count += (length = run_length(commands, i)) > 1;
    if (count == 0) return KIN_OK;
    commands->joins = kin_calloc(device->context, count, sizeof *commands->joins);
    if (commands->joins == NULL) return KIN_OUT_OF_MEMORY;
    for (size_t i = 0; i < commands->step_count && status == KIN_OK; i += length) {
        length = run_length(commands, i);
        if (length > 1)
            status =
                make_join(device, commands, i, length, &commands->joins[commands->join_count++]);
    }
    return status;
}

/* ---- lists ---- */

kin_status cuda_begin(kin_device *device, kin_commands **out_commands) {
    *out_commands = kin_calloc(device->context, 1, sizeof **out_commands);
    return *out_commands != NULL ? cuda_enter(device) : KIN_OUT_OF_MEMORY;
}

kin_status cuda_record(kin_device *device, kin_commands *commands, const kin_kernel *kernel,
                       const kin_call *call) {
    size_t *ends = grown(device->context, commands->call_ends, commands->call_count,
                         &commands->call_capacity, sizeof *ends);
    if (ends == NULL) return KIN_OUT_OF_MEMORY;
    commands->call_ends = ends;
    commands->name = kernel->name;
    const size_t first = commands->step_count;
    kin_status status = cuda_enter(device);
    if (status == KIN_OK) status = kernel->launch(device, commands, call);
    if (status == KIN_OK) status = look_for_join(device, commands, call, first);
    if (status != KIN_OK) return kin_fail_in(device->context, status, "%s", kernel->name);
    ends[commands->call_count++] = commands->step_count;
    return KIN_OK;
}

kin_status cuda_add_calls(kin_device *device, kin_commands *commands, size_t count) {
    for (size_t i = 0; i < count; i++) {
        size_t *ends = grown(device->context, commands->call_ends, commands->call_count,
                             &commands->call_capacity, sizeof *ends);
        if (ends == NULL) return KIN_OUT_OF_MEMORY;
        commands->call_ends = ends;
        ends[commands->call_count++] = commands->step_count;
    }
    return KIN_OK;
}

kin_status cuda_end(kin_device *device, kin_commands *commands) {
    commands->no_graph = !kin_cuda_of(device)->graphs;
    kin_status status = cuda_enter(device);
    return status == KIN_OK ? make_joins(device, commands) : status;
}

static kin_status queue(kin_device *device, const cuda_step *step) {
    kin_cuda_device *state = kin_cuda_of(device);
    switch (step->kind) {
    case STEP_LAUNCH: {
        int code = state->api->launch(&step->launch, state->stream);
        return code == 0 ? KIN_OK : kin_cuda_fail(device, code, step->launch.name);
    }
    case STEP_COPY:
        return cuda_checked(device,
                            state->api->copy(step->target, step->source, step->size, state->stream),
                            "a copy");
    case STEP_FILL:
        return cuda_checked(device,
                            state->api->fill(step->target, step->byte, step->size, state->stream),
                            "a fill");
    case STEP_RUN:
        return step->run(device, step->memory, state->stream);
    }
    return KIN_OK;
}

static kin_status queue_all(kin_device *device, const kin_commands *commands) {
    kin_cuda_device *state = kin_cuda_of(device);
    const cuda_join *join = commands->joins, *last = join + commands->join_count;
    kin_status status = KIN_OK;
    for (size_t i = 0; i < commands->step_count && status == KIN_OK;) {
        if (join != last && join->first == i) {
            const int code = state->api->launch(&join->launch, state->stream);
            status = code == 0 ? KIN_OK : kin_cuda_fail(device, code, join->launch.name);
            i += join++->count;
        } else {
            status = queue(device, &commands->steps[i++]);
        }
    }
    return status;
}

static kin_status queue_timed(kin_device *device, const kin_commands *commands) {
    kin_cuda_device *state = kin_cuda_of(device);
    kin_status status = cuda_checked(
        device, state->api->event_record(commands->events[0], state->stream), "an event");
    for (size_t call = 0, i = 0; call < commands->call_count && status == KIN_OK; call++) {
        for (; i < commands->call_ends[call] && status == KIN_OK; i++)
            status = queue(device, &commands->steps[i]);
        if (status == KIN_OK)
            status = cuda_checked(
                device, state->api->event_record(commands->events[call + 1], state->stream),
                "an event");
    }
    return status;
}

/* Makes the list's graph. A list that cannot be captured is queued step by step from then on. */
static void make_graph(kin_device *device, kin_commands *commands) {
    kin_cuda_device *state = kin_cuda_of(device);
    int code = state->api->capture_begin(state->stream);
    commands->no_graph = true;
    if (code == 0) {
        kin_status status = queue_all(device, commands);
        code = state->api->capture_end(state->stream, &commands->graph);
        if (code == 0 && status == KIN_OK && commands->graph != NULL) {
            commands->no_graph = false;
            return;
        }
        if (commands->graph != NULL) (void)state->api->graph_destroy(commands->graph);
        commands->graph = NULL;
    }
    kin_log(device->context, KIN_LOG_WARN, "%s: a list of %zu calls is no CUDA graph: %s",
            device->info.name, commands->call_count,
            code != 0 ? state->api->error_name(code) : kin_context_error(device->context));
}

kin_status cuda_submit(kin_device *device, kin_commands *commands) {
    kin_cuda_device *state = kin_cuda_of(device);
    kin_status status = cuda_enter(device);
    if (status != KIN_OK) return status;
    if (commands->is_timed) return queue_timed(device, commands);
    if (commands->step_count == 0) return KIN_OK;
    if (commands->was_submitted && !commands->no_graph && commands->graph == NULL)
        make_graph(device, commands);
    commands->was_submitted = true;
    if (commands->graph == NULL) return queue_all(device, commands);
    return cuda_checked(device, state->api->graph_launch(commands->graph, state->stream),
                        "launching a graph");
}

kin_status cuda_wait(kin_device *device) {
    kin_status status = cuda_enter(device);
    if (status != KIN_OK) return status;
    kin_cuda_device *state = kin_cuda_of(device);
    return cuda_checked(device, state->api->stream_wait(state->stream), "the work");
}

static void free_events(kin_device *device, kin_commands *commands) {
    for (size_t i = 0; i < commands->event_count; i++)
        (void)kin_cuda_of(device)->api->event_destroy(commands->events[i]);
    kin_free(device->context, commands->events);
    commands->events = NULL;
    commands->event_count = 0;
}

void cuda_discard(kin_device *device, kin_commands *commands) {
    if (commands == NULL) return;
    kin_cuda_device *state = kin_cuda_of(device);
    /* What it points to may still be in use. */
    if (state->api->choose(state->ordinal) == 0) (void)state->api->stream_wait(state->stream);
    if (commands->graph != NULL) (void)state->api->graph_destroy(commands->graph);
    for (size_t i = 0; i < commands->step_count; i++) end_step(device, &commands->steps[i]);
    for (size_t i = 0; i < commands->table_count; i++)
        (void)state->api->release(commands->tables[i]);
    free_events(device, commands);
    kin_free(device->context, commands->tables);
    kin_free(device->context, commands->ranges);
    kin_free(device->context, commands->joins);
    kin_free(device->context, commands->steps);
    kin_free(device->context, commands->call_ends);
    kin_free(device->context, commands);
}

/* ---- times ---- */

kin_status cuda_set_timed(kin_device *device, kin_commands *commands, bool timed) {
    kin_cuda_device *state = kin_cuda_of(device);
    kin_status status = cuda_wait(device);
    commands->is_timed = false;
    if (status != KIN_OK || !timed || commands->events != NULL) {
        commands->is_timed = status == KIN_OK && timed;
        return status;
    }
    commands->events = kin_calloc(device->context, commands->call_count + 1, sizeof(void *));
    if (commands->events == NULL) return KIN_OUT_OF_MEMORY;
    for (size_t i = 0; i <= commands->call_count && status == KIN_OK; i++) {
        status =
            cuda_checked(device, state->api->event_create(&commands->events[i], true), "an event");
        if (status == KIN_OK) commands->event_count++;
    }
    if (status != KIN_OK) free_events(device, commands);
    commands->is_timed = status == KIN_OK;
    return status;
}

kin_status cuda_timestamps(kin_device *device, kin_commands *commands, double *out_seconds,
                           size_t count) {
    kin_cuda_device *state = kin_cuda_of(device);
    if (count != commands->call_count || commands->events == NULL)
        return kin_fail(device->context, KIN_INVALID, "%s: %zu times asked for, %zu there",
                        device->info.name, count,
                        commands->events != NULL ? commands->call_count : (size_t)0);
    kin_status status = cuda_wait(device);
    for (size_t call = 0; call < count && status == KIN_OK; call++) {
        float milliseconds = 0;
        status = cuda_checked(device,
                              state->api->event_milliseconds(&milliseconds, commands->events[call],
                                                             commands->events[call + 1]),
                              "a time");
        out_seconds[call] = 1e-3 * (double)milliseconds;
    }
    return status;
}
