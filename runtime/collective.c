/* Groups of devices: joining, and sums by way of the host. */
#include "runtime/collective_internal.h"

#include "runtime/device.h"
#include "runtime/op.h"

#include <string.h>

enum { BUCKET_BYTES = 8 << 20, MOST_SEGMENTS = 1024, MOST_RANKS = 4096 };

/* Where a stretch of the bucket goes back to. */
typedef struct segment {
    kin_buffer *buffer;
    size_t offset, size;
} segment;

struct kin_group {
    kin_device *device;
    kin_transport transport;
    kin_device_group *on_device; /* NULL: by way of the host, and */
    char *bucket, *parts;        /* [capacity] what is summed next, and the ranks' parts of it */
    size_t capacity, used;       /* bytes */
    kin_dtype dtype;
    int64_t kind;
    segment *segments;
    int segment_count;
    uint64_t bytes;
};

/* ---- joining ---- */

/* The status of the first rank that has one but KIN_OK: the same on all ranks. The message is this
 * rank's own, or names that rank. */
static kin_status agree(kin_device *device, const kin_transport *transport, kin_status status) {
    int32_t mine = (int32_t)status;
    int32_t *all = kin_calloc(device->context, (size_t)transport->count, sizeof *all);
    if (!all) return KIN_OUT_OF_MEMORY;
    kin_status sent = transport->gather(transport->user, &mine, all, sizeof mine);
    for (int r = 0; sent == KIN_OK && r < transport->count; r++) {
        if (all[r] == KIN_OK) continue;
        if (status == KIN_OK)
            kin_fail(device->context, (kin_status)all[r], "rank %d of %d cannot join the group: %s",
                     r, transport->count, kin_status_text((kin_status)all[r]));
        sent = (kin_status)all[r];
    }
    kin_free(device->context, all);
    return sent;
}

static bool has_collectives(const kin_device *device) {
    const kin_backend *backend = device->backend;
    return backend->group_id && backend->group_join && backend->group_leave &&
           backend->all_reduce && backend->group_broadcast;
}

/* The device's own collectives, if all ranks have them. */
static kin_status join_on_device(kin_group *group) {
    kin_device *device = group->device;
    const kin_transport *t = &group->transport;
    kin_status status =
        has_collectives(device) ? device->backend->group_id(device, NULL) : KIN_UNSUPPORTED;
    status = agree(device, t, status);
    if (status != KIN_OK) return status;
    kin_group_id id = {{0}};
    if (t->rank == 0) status = device->backend->group_id(device, &id);
    status = agree(device, t, status);
    if (status == KIN_OK) status = t->broadcast(t->user, &id, sizeof id);
    if (status != KIN_OK) return status;
    status = device->backend->group_join(device, &id, t->rank, t->count, &group->on_device,
                                         &group->bytes);
    if (status != KIN_OK) group->on_device = NULL;
    status = agree(device, t, status);
    if (status == KIN_UNSUPPORTED) status = KIN_DEVICE; /* it said that it can */
    return status;
}

/* The buffers of sums on the host. Parts of the bucket, one for each rank, are whole elements. */
static kin_status prepare_host(kin_group *group) {
    size_t unit = 64 * (size_t)group->transport.count;
    group->capacity = (BUCKET_BYTES + unit - 1) / unit * unit;
    group->bytes = 2 * group->capacity;
    group->bucket = kin_alloc(group->device->context, group->capacity);
    group->parts = kin_alloc(group->device->context, group->capacity);
    group->segments = kin_calloc(group->device->context, MOST_SEGMENTS, sizeof *group->segments);
    return group->bucket && group->parts && group->segments ? KIN_OK : KIN_OUT_OF_MEMORY;
}

kin_status kin_group_join(kin_device *device, const kin_transport *transport,
                          kin_group **out_group) {
    kin_context *context = device->context;
    *out_group = NULL;
    if (device->group)
        return kin_fail(context, KIN_INVALID, "%s is in a group already", device->info.name);
    if (transport->count < 1 || transport->count > MOST_RANKS || transport->rank < 0 ||
        transport->rank >= transport->count)
        return kin_fail(context, KIN_INVALID, "rank %d of %d: there may be %d ranks, from 0",
                        transport->rank, transport->count, MOST_RANKS);
    kin_group *group = kin_calloc(context, 1, sizeof *group);
    if (!group) return KIN_OUT_OF_MEMORY;
    group->device = device;
    group->transport = *transport;
    kin_status status = join_on_device(group);
    if (status == KIN_UNSUPPORTED) {
        if (has_collectives(device))
            kin_log(context, KIN_LOG_WARN, "%s; sums between the ranks go by way of the host",
                    kin_context_error(context));
        status = agree(device, transport, prepare_host(group));
    }
    device->group = group;
    if (status == KIN_OK) *out_group = group;
    else kin_group_leave(group);
    return status;
}

void kin_group_leave(kin_group *group) {
    if (!group) return;
    kin_device *device = group->device;
    if (group->on_device) {
        device->backend->wait(device);
        device->backend->group_leave(device, group->on_device);
    }
    device->group = NULL;
    kin_free(device->context, group->bucket);
    kin_free(device->context, group->parts);
    kin_free(device->context, group->segments);
    kin_free(device->context, group);
}

int kin_group_rank(const kin_group *group) {
    return group->transport.rank;
}

int kin_group_count(const kin_group *group) {
    return group->transport.count;
}

bool kin_group_is_on_device(const kin_group *group) {
    return group->on_device != NULL;
}

uint64_t kin_group_bytes(const kin_group *group) {
    return group->bytes;
}

kin_status kin_group_broadcast(kin_group *group, kin_buffer *buffer, size_t offset, size_t size) {
    kin_device *device = group->device;
    const kin_backend *backend = device->backend;
    const kin_transport *t = &group->transport;
    if (group->on_device)
        return backend->group_broadcast(device, group->on_device, buffer, offset, size);
    kin_status status = KIN_OK;
    for (size_t done = 0; status == KIN_OK && done < size;) {
        size_t piece = size - done < group->capacity ? size - done : group->capacity;
        if (t->rank == 0)
            status = backend->download(device, buffer, offset + done, group->bucket, piece);
        if (status == KIN_OK) status = t->broadcast(t->user, group->bucket, piece);
        if (status == KIN_OK && t->rank != 0)
            status = backend->upload(device, group->bucket, buffer, offset + done, piece);
        done += piece;
    }
    return status;
}

/* ---- nodes of plans ---- */

static const kin_kernel collective_kernel = {.op = "", .name = "collective", .in_place = 1};

const kin_kernel *kin_collective_kernel(const kin_device *device, const kin_call *call) {
    if (!device->group) return NULL;
    const kin_op *op = kin_op_find(call->op);
    return op && op->flags & KIN_OP_COLLECTIVE ? &collective_kernel : NULL;
}

bool kin_kernel_is_collective(const kin_kernel *kernel) {
    return kernel == &collective_kernel;
}

kin_status kin_collective_record(kin_device *device, kin_commands *commands, const kin_call *calls,
                                 size_t count) {
    return device->backend->all_reduce(device, commands, device->group->on_device, calls, count);
}

/* ---- by way of the host ---- */

/* The sum, or mean, of the ranks' parts of `count` elements, in place of the first. The order is
 * that of the ranks, and sums are f64. */
static void sum_parts(kin_group *group, size_t count) {
    const size_t ranks = (size_t)group->transport.count;
    const double scale = group->kind == KIN_REDUCTION_MEAN ? 1.0 / (double)ranks : 1;
    if (group->dtype == KIN_F32) {
        float *parts = (float *)(void *)group->parts;
        for (size_t i = 0; i < count; i++) {
            double sum = 0;
            for (size_t r = 0; r < ranks; r++) sum += (double)parts[r * count + i];
            parts[i] = (float)(sum * scale);
        }
        return;
    }
    for (size_t i = 0; i < count; i++) {
        double sum = 0;
        for (size_t r = 0; r < ranks; r++)
            sum += kin_element_get(group->parts, group->dtype, (int64_t)(r * count + i));
        kin_element_set(group->parts, group->dtype, (int64_t)i, sum * scale);
    }
}

/* Sums the bucket: each rank gets one part of it from all, sums that and gives it to all. */
static kin_status flush(kin_group *group) {
    kin_device *device = group->device;
    const kin_transport *t = &group->transport;
    size_t used = group->used, size = kin_dtype_size(group->dtype), ranks = (size_t)t->count;
    int segments = group->segment_count;
    group->used = 0;
    group->segment_count = 0;
    if (used == 0) return KIN_OK;
    size_t count = (used / size + ranks - 1) / ranks; /* elements of a part */
    memset(group->bucket + used, 0, count * ranks * size - used);
    kin_status status = t->exchange(t->user, group->bucket, group->parts, count * size);
    if (status != KIN_OK) return status;
    sum_parts(group, count);
    status = t->gather(t->user, group->parts, group->bucket, count * size);
    for (size_t i = 0, at = 0; status == KIN_OK && i < (size_t)segments; i++) {
        const segment *s = &group->segments[i];
        status = device->backend->upload(device, group->bucket + at, s->buffer, s->offset, s->size);
        at += s->size;
    }
    return status;
}

kin_status kin_collective_add(kin_device *device, const kin_call *call) {
    kin_group *group = device->group;
    const kin_reduction *reduction = call->attrs;
    const kin_operand *in = &call->in[0], *out = &call->out[0];
    size_t size = kin_desc_bytes(&in->desc);
    kin_status status = KIN_OK;
    if (group->used > 0 && (group->dtype != in->desc.dtype || group->kind != reduction->kind))
        status = flush(group);
    group->dtype = in->desc.dtype;
    group->kind = reduction->kind;
    for (size_t done = 0; status == KIN_OK && done < size;) {
        size_t room = group->capacity - group->used;
        size_t piece = size - done < room ? size - done : room;
        status = device->backend->download(device, in->buffer, in->offset + done,
                                           group->bucket + group->used, piece);
        if (status != KIN_OK) break;
        group->segments[group->segment_count++] = (segment){out->buffer, out->offset + done, piece};
        group->used += piece;
        done += piece;
        if (group->used == group->capacity || group->segment_count == MOST_SEGMENTS)
            status = flush(group);
    }
    return status;
}

kin_status kin_collective_finish(kin_device *device) {
    return flush(device->group);
}
