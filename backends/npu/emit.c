/* Emitting instructions: tiles of the scratchpad, the time line of the units, and the checks that
 * every address lies where it should. */
#include "npu.h"

#include <string.h>

kin_status npu_refuse(npu_compiler *compiler, kin_status status, const char *text) {
    if (compiler->status == KIN_OK)
        compiler->status = kin_fail(compiler->device->context, status, "npu: %s", text);
    return compiler->status;
}

/* ---- tiles ---- */

static uint64_t scratchpad_in_use(const npu_compiler *compiler) {
    uint64_t bytes = 0;
    for (int i = 0; i < NPU_SLOTS; i++) bytes += compiler->slots[i].size;
    return bytes;
}

/* The lowest place with `size` free bytes: behind a tile, or at 0. */
static bool find_room(const npu_compiler *compiler, uint32_t size, uint32_t *out_at) {
    bool found = false;
    for (int i = -1; i < NPU_SLOTS; i++) {
        if (i >= 0 && !compiler->slots[i].size) continue;
        uint32_t at = i < 0 ? 0 : compiler->slots[i].at + compiler->slots[i].size;
        bool fits = at + size <= NPU_SCRATCHPAD;
        for (int j = 0; fits && j < NPU_SLOTS; j++) {
            const npu_slot *other = &compiler->slots[j];
            fits = !other->size || at + size <= other->at || other->at + other->size <= at;
        }
        if (!fits || (found && at >= *out_at)) continue;
        *out_at = at;
        found = true;
    }
    return found;
}

int npu_take(npu_compiler *compiler, uint64_t bytes) {
    uint32_t at = 0, size;
    int slot = 0;
    if (compiler->status != KIN_OK) return -1;
    while (slot < NPU_SLOTS && compiler->slots[slot].size) slot++;
    size = bytes > NPU_SCRATCHPAD
               ? NPU_SCRATCHPAD + 1
               : (uint32_t)((bytes + NPU_ALIGNMENT - 1) / NPU_ALIGNMENT * NPU_ALIGNMENT);
    if (!size) size = NPU_ALIGNMENT;
    if (slot == NPU_SLOTS || size > NPU_SCRATCHPAD || !find_room(compiler, size, &at)) {
        npu_refuse(compiler, KIN_OUT_OF_MEMORY,
                   "the scratchpad has no room for the tiles of an op");
        return -1;
    }
    double now = compiler->free_at[NPU_UNIT_DMA];
    for (int unit = 0; unit < NPU_UNITS; unit++)
        if (compiler->free_at[unit] > now) now = compiler->free_at[unit];
    /* what lay there may still be in use: the tile is ready when all that was issued is done */
    compiler->slots[slot] = (npu_slot){.at = at, .size = size, .written = now, .read = now};
    uint64_t used = scratchpad_in_use(compiler);
    if (used > compiler->report->scratchpad) compiler->report->scratchpad = used;
    return slot;
}

void npu_give(npu_compiler *compiler, int slot) {
    if (slot >= 0) compiler->slots[slot].size = 0;
}

void npu_end_call(npu_compiler *compiler) {
    double end = 0;
    for (int unit = 0; unit < NPU_UNITS; unit++)
        if (compiler->free_at[unit] > end) end = compiler->free_at[unit];
    for (int unit = 0; unit < NPU_UNITS; unit++) compiler->free_at[unit] = 0;
    compiler->report->cycles = end;
    memset(compiler->slots, 0, sizeof compiler->slots);
}

/* ---- instructions ---- */

static npu_instruction *append(npu_compiler *compiler, npu_opcode opcode) {
    kin_commands *commands = compiler->commands;
    if (compiler->status != KIN_OK) return NULL;
    if (commands->count == commands->capacity) {
        size_t capacity = commands->capacity ? 2 * commands->capacity : 64;
        npu_instruction *list =
            kin_realloc(compiler->device->context, commands->list, capacity * sizeof *list);
        if (!list) {
            compiler->status = KIN_OUT_OF_MEMORY;
            return NULL;
        }
        commands->list = list;
        commands->capacity = capacity;
    }
    npu_instruction *made = &commands->list[commands->count++];
    memset(made, 0, sizeof *made);
    made->opcode = opcode;
    return made;
}

static double later(double a, double b) {
    return a > b ? a : b;
}

/* When a unit may start: it is free, what it reads was written, what it writes is read no more. */
static double start_of(const npu_compiler *compiler, npu_unit unit, const int *reads,
                       int read_count, const int *writes, int write_count) {
    double start = compiler->free_at[unit];
    for (int i = 0; i < read_count; i++)
        if (reads[i] >= 0) start = later(start, compiler->slots[reads[i]].written);
    for (int i = 0; i < write_count; i++)
        if (writes[i] >= 0)
            start = later(
                start, later(compiler->slots[writes[i]].written, compiler->slots[writes[i]].read));
    return start;
}

static void take_time(npu_compiler *compiler, npu_unit unit, double cycles, const int *reads,
                      int read_count, const int *writes, int write_count) {
    double end = start_of(compiler, unit, reads, read_count, writes, write_count) + cycles;
    compiler->free_at[unit] = end;
    for (int i = 0; i < read_count; i++)
        if (reads[i] >= 0)
            compiler->slots[reads[i]].read = later(compiler->slots[reads[i]].read, end);
    for (int i = 0; i < write_count; i++)
        if (writes[i] >= 0) compiler->slots[writes[i]].written = end;
}

/* ---- transfers ---- */

static int64_t bursts(int64_t bytes) {
    return (bytes + NPU_BURST - 1) / NPU_BURST;
}

/* Runs and loops of a box: axes that both sides walk as one are joined. False: too many loops. */
static bool plan_transfer(const npu_tensor *tensor, const npu_box *box, const int64_t *tile_steps,
                          npu_dma *dma) {
    const int64_t size = (int64_t)kin_dtype_size(tensor->dtype);
    int64_t run = size, dense = 1, offset = 0;
    int level = NPU_LEVELS;
    for (int i = 0; i < NPU_LEVELS; i++) dma->level[i] = (npu_level){.count = 1};
    for (int axis = box->rank - 1; axis >= 0; axis--) {
        int64_t memory = tensor->steps[axis] * size;
        int64_t tile = (tile_steps ? tile_steps[axis] : dense) * size;
        offset += box->start[axis] * memory;
        dense *= box->size[axis];
        if (box->size[axis] == 1) continue;
        npu_level *inner = level < NPU_LEVELS ? &dma->level[level] : NULL;
        if (!inner && memory == run && tile == run) {
            run *= box->size[axis];
        } else if (inner && memory == inner->memory * inner->count &&
                   tile == inner->scratch * inner->count) {
            inner->count *= box->size[axis];
        } else {
            if (level == 0) return false;
            dma->level[--level] = (npu_level){box->size[axis], memory, tile};
        }
    }
    dma->buffer = tensor->buffer;
    dma->offset = tensor->offset + (uint64_t)offset;
    dma->run = (uint32_t)run;
    return true;
}

static void transfer(npu_compiler *compiler, npu_opcode opcode, const npu_tensor *tensor,
                     const npu_box *box, int slot, uint32_t slot_offset,
                     const int64_t *tile_steps) {
    npu_dma dma = {.run = 0};
    if (compiler->status != KIN_OK || npu_box_count(box) == 0) return;
    if (!plan_transfer(tensor, box, tile_steps, &dma)) {
        npu_refuse(compiler, KIN_INVALID, "a transfer with too many loops");
        return;
    }
    uint64_t memory_end = dma.run, tile_end = slot_offset + dma.run;
    int64_t runs = 1;
    for (int i = 0; i < NPU_LEVELS; i++) {
        memory_end += (uint64_t)((dma.level[i].count - 1) * dma.level[i].memory);
        tile_end += (uint64_t)((dma.level[i].count - 1) * dma.level[i].scratch);
        runs *= dma.level[i].count;
    }
    if (!npu_holds(dma.buffer, dma.offset, memory_end) || tile_end > compiler->slots[slot].size) {
        npu_refuse(compiler, KIN_INVALID, "a transfer that leaves its buffer or its tile");
        return;
    }
    dma.scratch = compiler->slots[slot].at + slot_offset;
    npu_instruction *made = append(compiler, opcode);
    if (!made) return;
    made->dma = dma;
    compiler->report->bytes_moved += (uint64_t)runs * dma.run;
    double cycles = NPU_DMA_START + (double)(runs * bursts(dma.run));
    if (opcode == NPU_LOAD) take_time(compiler, NPU_UNIT_DMA, cycles, NULL, 0, &slot, 1);
    else take_time(compiler, NPU_UNIT_DMA, cycles, &slot, 1, NULL, 0);
}

void npu_load(npu_compiler *compiler, const npu_tensor *from, const npu_box *box, int slot,
              uint32_t slot_offset, const int64_t *tile_steps) {
    transfer(compiler, NPU_LOAD, from, box, slot, slot_offset, tile_steps);
}

void npu_store(npu_compiler *compiler, const npu_tensor *to, const npu_box *box, int slot,
               uint32_t slot_offset, const int64_t *tile_steps) {
    transfer(compiler, NPU_STORE, to, box, slot, slot_offset, tile_steps);
}

void npu_emit_gather(npu_compiler *compiler, const npu_tensor *table, int64_t rows, int64_t column,
                     int64_t width, npu_ref ids, int64_t count, int target) {
    int64_t size = (int64_t)kin_dtype_size(table->dtype);
    uint64_t last = (uint64_t)((rows - 1) * table->steps[0] + column + width) * (uint64_t)size;
    if (compiler->status != KIN_OK) return;
    if (!npu_holds(table->buffer, table->offset, last) ||
        (uint64_t)(count * width * size) > compiler->slots[target].size) {
        npu_refuse(compiler, KIN_INVALID, "a gather that leaves its table or its tile");
        return;
    }
    npu_instruction *made = append(compiler, NPU_GATHER);
    if (!made) return;
    made->gather = (npu_gather){
        .buffer = table->buffer,
        .offset = table->offset + (uint64_t)(column * size),
        .rows = rows,
        .row_step = table->steps[0] * size,
        .scratch = compiler->slots[target].at,
        .run = (uint32_t)(width * size),
        .ids = compiler->slots[ids.slot].at + ids.offset,
        .count = (int32_t)count,
        .id_dtype = ids.dtype,
        .dtype = table->dtype,
    };
    compiler->report->bytes_moved += (uint64_t)(count * width * size);
    take_time(compiler, NPU_UNIT_DMA, NPU_DMA_START + (double)(count * bursts(width * size)),
              &ids.slot, 1, &target, 1);
}

/* ---- arithmetic ---- */

void npu_emit_matrix(npu_compiler *compiler, const npu_matrix *matrix, int a, int b, int c) {
    npu_instruction *made = append(compiler, NPU_MATRIX);
    if (!made) return;
    int reads[] = {a, b};
    made->matrix = *matrix;
    made->matrix.a = compiler->slots[a].at;
    made->matrix.b = compiler->slots[b].at;
    made->matrix.c = compiler->slots[c].at;
    double tiles = (double)matrix->m * matrix->n * matrix->k / (NPU_TILE * NPU_TILE * NPU_TILE);
    take_time(compiler, NPU_UNIT_MATRIX, NPU_TILE + NPU_TILE * tiles, reads, 2, &c, 1);
}

/* True for functions that the lanes have an adder and a multiplier for, and no more. */
static bool is_simple(npu_function function) {
    switch (function) {
    case NPU_FN_square:
    case NPU_FN_square_grad:
    case NPU_FN_abs:
    case NPU_FN_abs_grad:
    case NPU_FN_relu:
    case NPU_FN_relu_grad:
    case NPU_FN_clamp:
    case NPU_FN_clamp_grad:
    case NPU_FN_neg:
    case NPU_FN_scale:
    case NPU_FN_add:
    case NPU_FN_sub:
    case NPU_FN_mul:
    case NPU_FN_maximum:
    case NPU_FN_minimum:
    case NPU_FN_less:
    case NPU_FN_greater:
    case NPU_FN_where:
    case NPU_FN_convert:
    case NPU_FN_fill:
    case NPU_FN_sum:
    case NPU_FN_max:
    case NPU_FN_scatter:
    case NPU_FN_ema:
        return true;
    default:
        return false;
    }
}

static npu_port port_of(const npu_compiler *compiler, const npu_ref *ref) {
    if (ref->slot < 0) return (npu_port){.used = false};
    return (npu_port){compiler->slots[ref->slot].at + ref->offset, ref->dtype, true, ref->repeat};
}

void npu_emit_vector(npu_compiler *compiler, npu_vector vector, const npu_ref *in, int in_count,
                     const npu_ref *out, int out_count) {
    int reads[NPU_IN], writes[NPU_OUT];
    npu_instruction *made = append(compiler, NPU_VECTOR);
    if (!made) return;
    for (int i = 0; i < in_count; i++) {
        vector.in[i] = port_of(compiler, &in[i]);
        reads[i] = in[i].slot;
    }
    for (int j = 0; j < out_count; j++) {
        vector.out[j] = port_of(compiler, &out[j]);
        writes[j] = out[j].slot;
    }
    made->vector = vector;
    double steps = (double)((vector.count + NPU_LANES - 1) / NPU_LANES);
    double cycles = NPU_VECTOR_START + steps * (is_simple(vector.function) ? 1 : NPU_SPECIAL);
    take_time(compiler, NPU_UNIT_VECTOR, cycles, reads, in_count, writes, out_count);
}

void npu_emit_fill(npu_compiler *compiler, npu_ref tile, int64_t count, double value) {
    npu_vector vector = {.function = NPU_FN_fill, .count = count, .p = value};
    npu_emit_vector(compiler, vector, NULL, 0, &tile, 1);
}

void npu_emit_convert(npu_compiler *compiler, npu_ref from, npu_ref to, int64_t count) {
    npu_vector vector = {.function = NPU_FN_convert, .count = count};
    npu_emit_vector(compiler, vector, &from, 1, &to, 1);
}
