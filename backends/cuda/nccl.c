/* Groups of devices by NCCL: sums are steps of a list, queued on the device's stream and captured
 * in its graph like launches. */
#include "backends/cuda/nccl.h"

#include "backends/cuda/internal.h"

#include <string.h>

enum {
    MOST_JOINED = 1024, /* calls between ncclGroupStart and ncclGroupEnd */
    SMALL_SUM = 4 << 10,
#ifdef KIN_CUDA_EMULATED
    LARGE_SUM = 64 << 10
#else
    LARGE_SUM = 64 << 20
#endif
};

_Static_assert((int)KIN_NCCL_ID_BYTES == (int)sizeof(kin_group_id),
               "an id of NCCL is a group's id");

struct kin_device_group {
    kin_nccl_functions nccl;
    void *library, *comm;
};

typedef struct part {
    const void *send;
    void *receive;
    size_t count;
    int type, op;
} part;

/* What a step needs to run: calls that NCCL may join. */
typedef struct sum_step {
    kin_device_group *group;
    size_t count;
    part parts[];
} sum_step;

static kin_status failed(kin_device *device, const kin_nccl_functions *nccl, int code,
                         const char *what) {
    return kin_fail(device->context, KIN_DEVICE,
                    "%s: NCCL: %s failed: %s (%d); NCCL_DEBUG=INFO in the environment tells more",
                    device->info.name, what, nccl->error_string(code), code);
}

/* Loads NCCL, or says in the context's message why it cannot be had. */
static kin_status load(kin_device *device, kin_nccl_functions *out, void **out_library) {
    const char *why = NULL;
    int version = 0;
    *out_library = NULL;
    if (!kin_nccl_load(kin_context_setting(device->context, "cuda.nccl"), out, out_library, &why))
        return kin_fail(device->context, KIN_UNSUPPORTED, "%s: %s", device->info.name, why);
    int code = out->version(&version);
    if (code == 0 && version >= KIN_NCCL_OLDEST) return KIN_OK;
    kin_nccl_unload(*out_library);
    *out_library = NULL;
    return kin_fail(device->context, KIN_UNSUPPORTED, "%s: NCCL %d is older than 2.10",
                    device->info.name, version);
}

kin_status cuda_group_id(kin_device *device, kin_group_id *out_id) {
    kin_nccl_functions nccl;
    kin_nccl_id id;
    void *library;
    kin_status status = cuda_enter(device);
    if (status == KIN_OK) status = load(device, &nccl, &library);
    if (status != KIN_OK) return status;
    if (out_id != NULL) {
        int code = nccl.unique_id(&id);
        if (code != 0) status = failed(device, &nccl, code, "making an id");
        else memcpy(out_id->bytes, id.internal, sizeof id.internal);
    }
    kin_nccl_unload(library);
    return status;
}

/* Free device memory; 0 if it is not known. */
static size_t free_memory(kin_device *device) {
    size_t available = 0, total = 0;
    return kin_cuda_of(device)->api->memory(&available, &total) == 0 ? available : 0;
}

/* Sums of both kinds of size and a broadcast, so that NCCL makes the connections that they need,
 * and takes its memory, now and not within a step. */
static kin_status connect_ranks(kin_device *device, kin_device_group *group, void *memory) {
    const kin_cuda_device *state = kin_cuda_of(device);
    const size_t sizes[] = {SMALL_SUM, LARGE_SUM};
    int code = 0;
    kin_status status = cuda_checked(device, state->api->fill(memory, 0, LARGE_SUM, state->stream),
                                     "clearing memory");
    if (status != KIN_OK) return status;
    for (int i = 0; i < 2 && code == 0; i++)
        code = group->nccl.all_reduce(memory, memory, sizes[i] / sizeof(float), KIN_NCCL_FLOAT32,
                                      KIN_NCCL_AVG, group->comm, state->stream);
    if (code == 0)
        code = group->nccl.broadcast(memory, memory, LARGE_SUM, KIN_NCCL_UINT8, 0, group->comm,
                                     state->stream);
    if (code != 0) return failed(device, &group->nccl, code, "a first sum");
    return cuda_wait(device);
}

kin_status cuda_group_join(kin_device *device, const kin_group_id *id, int rank, int count,
                           kin_device_group **out_group, uint64_t *out_bytes) {
    kin_nccl_id own;
    *out_group = NULL;
    *out_bytes = 0;
    memcpy(own.internal, id->bytes, sizeof own.internal);
    kin_status status = cuda_enter(device);
    if (status != KIN_OK) return status;
    kin_device_group *group = kin_calloc(device->context, 1, sizeof *group);
    if (group == NULL) return KIN_OUT_OF_MEMORY;
    status = load(device, &group->nccl, &group->library);
    const kin_cuda_api *api = kin_cuda_of(device)->api;
    void *memory = NULL;
    size_t before = free_memory(device);
    if (status == KIN_OK)
        status = cuda_checked(device, api->allocate(&memory, LARGE_SUM), "memory for a first sum");
    if (status == KIN_OK) {
        int code = group->nccl.init_rank(&group->comm, count, own, rank);
        if (code != 0) {
            group->comm = NULL;
            status =
                failed(device, &group->nccl, code, "joining (each rank needs a GPU of its own)");
        }
    }
    if (status == KIN_OK) status = connect_ranks(device, group, memory);
    if (memory != NULL) (void)api->release(memory);
    size_t after = free_memory(device);
    if (status == KIN_OK) {
        *out_bytes = before > after ? before - after : 0;
        *out_group = group;
    } else {
        cuda_group_leave(device, group);
    }
    return status;
}

void cuda_group_leave(kin_device *device, kin_device_group *group) {
    if (group == NULL) return;
    const kin_cuda_device *state = kin_cuda_of(device);
    if (group->comm != NULL && state->api->choose(state->ordinal) == 0) {
        (void)state->api->stream_wait(state->stream);
        (void)group->nccl.destroy(group->comm);
    }
    kin_nccl_unload(group->library);
    kin_free(device->context, group);
}

/* ---- sums ---- */

static int type_of(kin_dtype dtype) {
    return dtype == KIN_F16    ? KIN_NCCL_FLOAT16
           : dtype == KIN_BF16 ? KIN_NCCL_BFLOAT16
                               : KIN_NCCL_FLOAT32;
}

static kin_status run_sums(kin_device *device, void *data, void *stream) {
    const sum_step *step = data;
    const kin_nccl_functions *nccl = &step->group->nccl;
    int code = nccl->group_start();
    if (code != 0) return failed(device, nccl, code, "ncclGroupStart");
    for (size_t i = 0; i < step->count && code == 0; i++) {
        const part *p = &step->parts[i];
        code = nccl->all_reduce(p->send, p->receive, p->count, p->type, p->op, step->group->comm,
                                stream);
    }
    int ended = nccl->group_end(); /* also after an error: groups are counted */
    if (code == 0) code = ended;
    return code == 0 ? KIN_OK : failed(device, nccl, code, "a sum between the ranks");
}

static kin_status add_sums(kin_device *device, kin_commands *commands, kin_device_group *group,
                           const kin_call *calls, size_t count) {
    sum_step *step = kin_alloc(device->context, sizeof *step + count * sizeof *step->parts);
    if (step == NULL) return KIN_OUT_OF_MEMORY;
    step->group = group;
    step->count = count;
    for (size_t i = 0; i < count; i++) {
        const kin_reduction *reduction = calls[i].attrs;
        const kin_desc *desc = &calls[i].in[0].desc;
        step->parts[i] =
            (part){.send = kin_cuda_address(&calls[i].in[0]),
                   .receive = kin_cuda_address(&calls[i].out[0]),
                   .count = (size_t)kin_desc_count(desc),
                   .type = type_of(desc->dtype),
                   .op = reduction->kind == KIN_REDUCTION_MEAN ? KIN_NCCL_AVG : KIN_NCCL_SUM};
    }
    return kin_cuda_add_step(device, commands, run_sums, NULL, step);
}

kin_status cuda_all_reduce(kin_device *device, kin_commands *commands, kin_device_group *group,
                           const kin_call *calls, size_t count) {
    kin_status status = KIN_OK;
    for (size_t first = 0; first < count && status == KIN_OK;) {
        size_t some = count - first < MOST_JOINED ? count - first : MOST_JOINED;
        status = add_sums(device, commands, group, calls + first, some);
        if (status == KIN_OK) status = cuda_add_calls(device, commands, some);
        first += some;
    }
    return status;
}

kin_status cuda_group_broadcast(kin_device *device, kin_device_group *group, kin_buffer *buffer,
                                size_t offset, size_t size) {
    char *place = buffer->address + offset;
    kin_status status = cuda_enter(device);
    if (status != KIN_OK) return status;
    int code = group->nccl.broadcast(place, place, size, KIN_NCCL_UINT8, 0, group->comm,
                                     kin_cuda_of(device)->stream);
    if (code != 0) return failed(device, &group->nccl, code, "a broadcast");
    return cuda_wait(device);
}
