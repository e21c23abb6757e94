/* The functions of the table that record and run lists of launches. */
#ifndef KIN_BACKENDS_OPENCL_COMMANDS_H
#define KIN_BACKENDS_OPENCL_COMMANDS_H

#include "backends/opencl/opencl.h"

/* A prepared launch, or a function that queues work by itself. */
typedef struct opencl_step {
    cl_kernel kernel; /* with its arguments; NULL if `run` is set */
    cl_uint dims;
    size_t global[3], local[3];
    kin_opencl_step_fn run;
    void *data;
    cl_event event; /* of the last submit */
} opencl_step;

struct kin_commands {
    kin_context *context;
    opencl_step *steps;
    size_t step_count, step_capacity;
    size_t *call_ends; /* call i is made of the steps up to call_ends[i] */
    size_t call_count, call_capacity;
    kin_buffer **tables; /* kin_opencl_table */
    size_t table_count, table_capacity;
    bool is_submitted; /* and not waited for */
    kin_commands *next;
};

kin_status opencl_begin(kin_device *device, kin_commands **out_commands);
kin_status opencl_record(kin_device *device, kin_commands *commands, const kin_kernel *kernel,
                         const kin_call *call);
kin_status opencl_end(kin_device *device, kin_commands *commands);
kin_status opencl_submit(kin_device *device, kin_commands *commands);
kin_status opencl_wait(kin_device *device);
void opencl_discard(kin_device *device, kin_commands *commands);
kin_status opencl_timestamps(kin_device *device, kin_commands *commands, double *out_seconds,
                             size_t count);

#endif
