/* Named persistent tensors on a device. */
#include "runtime/store.h"

#include "runtime/graph_internal.h"
#include "runtime/philox.h"

#include <math.h>
#include <string.h>

/* Where a device rounds sizes up, tensors share buffers of about this size. */
enum { SHARED_BUFFER = 1 << 28 };

struct kin_store {
    kin_device *device;
    kin_buffer **buffers;
    size_t buffer_count, buffer_capacity;
    size_t allocated;
    kin_store_entry *entries;
    size_t count, capacity;
    size_t *table; /* hash -> 1 + index; 0: empty; twice the capacity, a power of two */
    size_t table_size;
};

/* FNV-1a, 64 bits. */
static uint64_t hash_name(const char *name) {
    uint64_t hash = 14695981039346656037u;
    for (; *name; name++) hash = (hash ^ (unsigned char)*name) * 1099511628211u;
    return hash;
}

kin_status kin_store_create(kin_device *device, kin_store **out_store) {
    *out_store = kin_calloc(device->context, 1, sizeof **out_store);
    if (!*out_store) return KIN_OUT_OF_MEMORY;
    (*out_store)->device = device;
    return KIN_OK;
}

void kin_store_free(kin_store *store) {
    if (!store) return;
    kin_context *context = store->device->context;
    for (size_t i = 0; i < store->count; i++) kin_free(context, store->entries[i].name);
    for (size_t i = 0; i < store->buffer_count; i++)
        store->device->backend->release(store->device, store->buffers[i]);
    kin_free(context, store->buffers);
    kin_free(context, store->entries);
    kin_free(context, store->table);
    kin_free(context, store);
}

kin_device *kin_store_device(kin_store *store) {
    return store->device;
}

size_t kin_store_count(const kin_store *store) {
    return store->count;
}

kin_store_entry *kin_store_at(kin_store *store, size_t index) {
    return index < store->count ? &store->entries[index] : NULL;
}

kin_store_entry *kin_store_find(kin_store *store, const char *name) {
    if (!store->table_size) return NULL;
    size_t mask = store->table_size - 1;
    for (size_t slot = hash_name(name) & mask; store->table[slot]; slot = (slot + 1) & mask) {
        kin_store_entry *entry = &store->entries[store->table[slot] - 1];
        if (strcmp(entry->name, name) == 0) return entry;
    }
    return NULL;
}

size_t kin_store_bytes(const kin_store *store) {
    size_t bytes = 0;
    for (size_t i = 0; i < store->count; i++) bytes += kin_desc_bytes(&store->entries[i].desc);
    return bytes;
}

size_t kin_store_allocated(const kin_store *store) {
    return store->allocated;
}

static void enter(kin_store *store, size_t index) {
    size_t mask = store->table_size - 1;
    size_t slot = hash_name(store->entries[index].name) & mask;
    while (store->table[slot]) slot = (slot + 1) & mask;
    store->table[slot] = index + 1;
}

static kin_status reserve(kin_store *store) {
    if (store->count < store->capacity) return KIN_OK;
    kin_context *context = store->device->context;
    size_t capacity = store->capacity ? 2 * store->capacity : 64;
    size_t *table = kin_calloc(context, 2 * capacity, sizeof *table);
    kin_store_entry *entries =
        table ? kin_realloc(context, store->entries, capacity * sizeof *entries) : NULL;
    if (!entries) {
        kin_free(context, table);
        return KIN_OUT_OF_MEMORY;
    }
    kin_free(context, store->table);
    store->entries = entries;
    store->table = table;
    store->capacity = capacity;
    store->table_size = 2 * capacity;
    for (size_t i = 0; i < store->count; i++) enter(store, i);
    return KIN_OK;
}

/* What is free of a buffer for tensors to come. */
typedef struct room {
    kin_buffer *buffer;
    size_t used, size;
} room;

static size_t aligned(const kin_device *device, size_t size) {
    size_t alignment = device->info.alignment ? device->info.alignment : 64;
    return (size + alignment - 1) / alignment * alignment;
}

/* Bytes of a buffer for the variables from `first` on that the store lacks: for one, or as many as
 * a shared buffer takes. */
static size_t buffer_size(kin_store *store, const kin_graph *graph, int32_t first) {
    const kin_device *device = store->device;
    size_t size = kin_desc_bytes(&graph->values[graph->variables[first].value].desc);
    size_t most = SHARED_BUFFER;
    if (!device->info.granularity) return size;
    if (device->info.max_allocation && device->info.max_allocation < most)
        most = (size_t)device->info.max_allocation;
    for (int32_t i = first + 1; i < graph->variable_count; i++) {
        size_t bytes = kin_desc_bytes(&graph->values[graph->variables[i].value].desc);
        if (kin_store_find(store, graph->variables[i].name)) continue;
        if (bytes > most || aligned(device, size) > most - bytes) break;
        size = aligned(device, size) + bytes;
    }
    return size;
}

static kin_status add_buffer(kin_store *store, size_t size, room *out_room) {
    kin_device *device = store->device;
    if (store->buffer_count == store->buffer_capacity) {
        size_t capacity = store->buffer_capacity ? 2 * store->buffer_capacity : 64;
        kin_buffer **buffers =
            kin_realloc(device->context, store->buffers, capacity * sizeof *buffers);
        if (!buffers) return KIN_OUT_OF_MEMORY;
        store->buffers = buffers;
        store->buffer_capacity = capacity;
    }
    *out_room = (room){.size = size};
    kin_status status = kin_device_allocate(device, size, &out_room->buffer);
    if (status != KIN_OK) return status;
    store->buffers[store->buffer_count++] = out_room->buffer;
    store->allocated += size;
    return KIN_OK;
}

/* Adds variable `index` of the graph; `left` is the room that the one before left. */
static kin_status add_entry(kin_store *store, const kin_graph *graph, int32_t index, room *left,
                            kin_store_entry **out_entry) {
    kin_device *device = store->device;
    const kin_value *variable = &graph->values[graph->variables[index].value];
    size_t bytes = kin_desc_bytes(&variable->desc), at = aligned(device, left->used);
    kin_status status = reserve(store);
    if (status != KIN_OK) return status;
    if (!left->buffer || at > left->size || bytes > left->size - at) {
        status = add_buffer(store, buffer_size(store, graph, index), left);
        if (status != KIN_OK) return kin_fail_in(device->context, status, "\"%s\"", variable->name);
        at = 0;
    }
    kin_store_entry entry = {
        .kind = variable->kind, .desc = variable->desc, .buffer = left->buffer, .offset = at};
    entry.name = kin_strdup(device->context, variable->name);
    if (!entry.name) return KIN_OUT_OF_MEMORY;
    left->used = at + bytes;
    store->entries[store->count] = entry;
    enter(store, store->count);
    *out_entry = &store->entries[store->count++];
    return KIN_OK;
}

/* The fans of PyTorch's initialisers: dims [out, in, kernel...]. */
static void fans(const kin_desc *desc, double *out_in, double *out_out) {
    double kernel = 1;
    for (int a = 2; a < desc->rank; a++) kernel *= (double)desc->dims[a];
    *out_out = desc->rank > 0 ? (double)desc->dims[0] * kernel : 1;
    *out_in = desc->rank > 1 ? (double)desc->dims[1] * kernel : 1;
}

void kin_init_values(const char *name, const kin_desc *desc, kin_init init, uint64_t seed,
                     int64_t first, size_t count, float *out_values) {
    uint64_t hash = hash_name(name), key = seed ^ hash;
    uint32_t stream = (uint32_t)(hash >> 32);
    double in, out, bound = init.scale;
    fans(desc, &in, &out);
    switch (init.kind) {
    case KIN_INIT_ZERO:
        memset(out_values, 0, count * sizeof *out_values);
        return;
    case KIN_INIT_ONE:
        for (size_t i = 0; i < count; i++) out_values[i] = 1;
        return;
    case KIN_INIT_NORMAL:
        kin_philox_fill_normal(key, stream, 0, (uint64_t)first, count, out_values);
        for (size_t i = 0; i < count; i++) out_values[i] = (float)(out_values[i] * bound);
        return;
    case KIN_INIT_UNIFORM:
        break;
    case KIN_INIT_XAVIER_UNIFORM:
        bound *= sqrt(6 / (in + out));
        break;
    case KIN_INIT_FAN_IN_UNIFORM:
        bound /= sqrt(in);
        break;
    }
    kin_philox_fill_uniform(key, stream, 0, (uint64_t)first, count, out_values);
    for (size_t i = 0; i < count; i++) out_values[i] = (float)((2.0 * out_values[i] - 1) * bound);
}

static kin_status initialise(kin_store *store, const kin_value *variable, kin_store_entry *entry,
                             uint64_t seed) {
    kin_device *device = store->device;
    size_t bytes = kin_desc_bytes(&entry->desc);
    if (variable->init.kind == KIN_INIT_ZERO)
        return device->backend->fill(device, entry->buffer, entry->offset, bytes, 0);
    int64_t count = kin_desc_count(&entry->desc);
    float *data = kin_alloc(device->context, (size_t)count * sizeof *data);
    if (!data) return KIN_OUT_OF_MEMORY;
    kin_init_values(variable->name, &variable->desc, variable->init, seed, 0, (size_t)count, data);
    kin_status status = kin_store_write(store, entry->name, KIN_F32, data);
    entry->loaded = false;
    kin_free(device->context, data);
    return status;
}

/* seed NULL: only states start with something. */
static kin_status add_variables(kin_store *store, const kin_graph *graph, const uint64_t *seed) {
    kin_context *context = store->device->context;
    room left = {.buffer = NULL};
    for (int32_t i = 0; i < graph->variable_count; i++) {
        const kin_value *variable = &graph->values[graph->variables[i].value];
        kin_store_entry *entry = kin_store_find(store, variable->name);
        if (entry) {
            if (entry->desc.dtype == variable->desc.dtype &&
                kin_desc_same_shape(&entry->desc, &variable->desc))
                continue;
            char have[128], want[128];
            return kin_fail(context, KIN_INVALID,
                            "\"%s\" is %s %s in the store, but the model wants %s %s",
                            variable->name, kin_desc_shape_text(&entry->desc, have, sizeof have),
                            kin_dtype_name(entry->desc.dtype),
                            kin_desc_shape_text(&variable->desc, want, sizeof want),
                            kin_dtype_name(variable->desc.dtype));
        }
        kin_status status = add_entry(store, graph, i, &left, &entry);
        if (status == KIN_OK && (seed || variable->kind == KIN_VARIABLE_STATE))
            status = initialise(store, variable, entry, seed ? *seed : 0);
        if (status != KIN_OK) return status;
    }
    return KIN_OK;
}

kin_status kin_store_add_graph(kin_store *store, const kin_graph *graph, uint64_t seed) {
    return add_variables(store, graph, &seed);
}

kin_status kin_store_reserve_graph(kin_store *store, const kin_graph *graph) {
    return add_variables(store, graph, NULL);
}

static kin_status need(kin_store *store, const char *name, kin_store_entry **out_entry) {
    *out_entry = kin_store_find(store, name);
    if (*out_entry) return KIN_OK;
    return kin_fail(store->device->context, KIN_NOT_FOUND, "the store has no tensor \"%s\"", name);
}

kin_status kin_store_write(kin_store *store, const char *name, kin_dtype dtype, const void *data) {
    kin_store_entry *entry;
    kin_device *device = store->device;
    kin_status status = need(store, name, &entry);
    if (status != KIN_OK) return status;
    size_t bytes = kin_desc_bytes(&entry->desc);
    if (dtype == entry->desc.dtype) {
        status = device->backend->upload(device, data, entry->buffer, entry->offset, bytes);
    } else {
        void *converted = kin_alloc(device->context, bytes);
        if (!converted) return KIN_OUT_OF_MEMORY;
        kin_convert(data, dtype, converted, entry->desc.dtype, kin_desc_count(&entry->desc));
        status = device->backend->upload(device, converted, entry->buffer, entry->offset, bytes);
        kin_free(device->context, converted);
    }
    if (status == KIN_OK) entry->loaded = true;
    return status;
}

kin_status kin_store_read(kin_store *store, const char *name, kin_dtype dtype, void *data) {
    kin_store_entry *entry;
    kin_device *device = store->device;
    kin_status status = need(store, name, &entry);
    if (status != KIN_OK) return status;
    size_t bytes = kin_desc_bytes(&entry->desc);
    if (dtype == entry->desc.dtype)
        return device->backend->download(device, entry->buffer, entry->offset, data, bytes);
    void *raw = kin_alloc(device->context, bytes);
    if (!raw) return KIN_OUT_OF_MEMORY;
    status = device->backend->download(device, entry->buffer, entry->offset, raw, bytes);
    if (status == KIN_OK)
        kin_convert(raw, entry->desc.dtype, data, dtype, kin_desc_count(&entry->desc));
    kin_free(device->context, raw);
    return status;
}

kin_status kin_store_copy(kin_store *store, const char *source, const char *target) {
    kin_store_entry *from, *to;
    kin_status status = need(store, source, &from);
    if (status == KIN_OK) status = need(store, target, &to);
    if (status != KIN_OK) return status;
    if (from->desc.dtype != to->desc.dtype || !kin_desc_same_shape(&from->desc, &to->desc))
        return kin_fail(store->device->context, KIN_INVALID,
                        "\"%s\" and \"%s\" differ in shape or dtype", source, target);
    status = store->device->backend->copy(store->device, from->buffer, from->offset, to->buffer,
                                          to->offset, kin_desc_bytes(&from->desc));
    if (status == KIN_OK) to->loaded = from->loaded;
    return status;
}
