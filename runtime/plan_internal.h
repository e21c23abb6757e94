/* The inside of a plan, for plan.c and execute.c. */
#ifndef KIN_RUNTIME_PLAN_INTERNAL_H
#define KIN_RUNTIME_PLAN_INTERNAL_H

#include "runtime/graph_internal.h"
#include "runtime/plan.h"

/* Where a base value lies. */
typedef enum kin_place {
    KIN_PLACE_NONE,
    KIN_PLACE_ARENA,
    KIN_PLACE_INPUT,    /* index: input */
    KIN_PLACE_VARIABLE, /* index: variable */
    KIN_PLACE_CONSTANT  /* offset in the buffer of constants */
} kin_place;

typedef struct kin_location {
    kin_place place;
    int32_t index; /* input or variable */
    int32_t storage;
    uint64_t offset;
} kin_location;

/* One node that does work (views do none). */
typedef struct kin_plan_step {
    int32_t node; /* of the plan's graph */
    const kin_kernel *kernel; /* NULL: the host's reference */
    kin_call call;
    kin_operand *operands; /* inputs, then outputs */
    int32_t scratch_storage; /* -1: none */
    double flops, bytes, reduction, seconds;
    kin_call_counters counters;
} kin_plan_step;

/* A stretch of steps that is recorded as one list, or one step of the host, or collective steps that
 * go by way of the host. */
typedef struct kin_plan_range {
    int32_t first, count;
    bool host, collective;
    kin_commands *commands; /* of a list */
} kin_plan_range;

struct kin_workspace {
    kin_device *device;
    kin_buffer **chunks;
    int32_t chunk_count;
    uint64_t chunk_size, size;
    uint64_t generation; /* counts changes, so that plans notice */
};

struct kin_plan {
    kin_context *context;
    kin_device *device;
    kin_graph *graph; /* rewritten; owned */
    kin_plan_summary summary;
    int products; /* inside segments that are recomputed */
    kin_location *locations; /* per value, meaningful for bases */
    kin_plan_step *steps;
    int32_t step_count;
    kin_storage *storages;
    int32_t storage_count;
    /* after prepare */
    kin_store *store;
    kin_workspace *workspace;
    bool owns_workspace, prepared;
    uint64_t generation;
    kin_buffer **inputs;
    kin_buffer *constants;
    kin_plan_range *ranges;
    int32_t range_count;
};

/* "PATH op" of a step, in the plan's memory. */
const char *kin_plan_node_name(kin_plan *plan, int32_t step);
/* record.c: the lists of a prepared plan, made anew, and given back. */
kin_status kin_plan_record(kin_plan *plan);
void kin_plan_discard_ranges(kin_plan *plan);
/* Records steps first .. first + count - 1, which are bound to memory, as one list. */
kin_status kin_plan_record_list(kin_plan *plan, int32_t first, int32_t count,
                                kin_commands **out_commands);
/* Buffer and byte offset of a value's first element. */
kin_status kin_plan_resolve(kin_plan *plan, int32_t value, kin_buffer **out_buffer,
                            size_t *out_offset);
/* True for a step that sums over the ranks of a group. */
bool kin_plan_is_collective(const kin_plan *plan, int32_t step);
/* execute.c, used by plan.c: frees what prepare made. */
void kin_plan_unprepare(kin_plan *plan);

#endif
