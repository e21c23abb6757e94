/* The functions of the backend's table, by the file that has them. */
#ifndef KIN_BACKENDS_CUDA_INTERNAL_H
#define KIN_BACKENDS_CUDA_INTERNAL_H

#include "backends/cuda/cuda.h"

enum { CUDA_STAGING_BYTES = 4 << 20 };

/* Makes the device's own the calling thread's, as every call that reaches CUDA must. */
kin_status cuda_enter(kin_device *device);
/* KIN_OK, or a device error for a code that is not 0. */
kin_status cuda_checked(kin_device *device, int code, const char *what);

/* True if code built for these capabilities runs on a device; NULL: any does. */
bool cuda_has_code(const char *built, int capability);

/* memory.c */
kin_status cuda_allocate(kin_device *device, size_t size, kin_buffer **out_buffer);
void cuda_release(kin_device *device, kin_buffer *buffer);
kin_status cuda_upload(kin_device *device, const void *source, kin_buffer *buffer, size_t offset,
                       size_t size);
kin_status cuda_download(kin_device *device, kin_buffer *buffer, size_t offset, void *target,
                         size_t size);
kin_status cuda_copy(kin_device *device, kin_buffer *source, size_t source_offset,
                     kin_buffer *target, size_t target_offset, size_t size);
kin_status cuda_fill(kin_device *device, kin_buffer *buffer, size_t offset, size_t size,
                     uint8_t byte);
/* The pinned memory and events of transfers; closing is fine after a failed opening. */
kin_status cuda_open_staging(kin_device *device);
void cuda_close_staging(kin_device *device);

/* commands.c */
kin_status cuda_begin(kin_device *device, kin_commands **out_commands);
kin_status cuda_record(kin_device *device, kin_commands *commands, const kin_kernel *kernel,
                       const kin_call *call);
/* Counts the steps that were added since the last call as `count` calls, for their times: the first
 * has them all. */
kin_status cuda_add_calls(kin_device *device, kin_commands *commands, size_t count);
kin_status cuda_end(kin_device *device, kin_commands *commands);
kin_status cuda_submit(kin_device *device, kin_commands *commands);
kin_status cuda_wait(kin_device *device);
void cuda_discard(kin_device *device, kin_commands *commands);
kin_status cuda_set_timed(kin_device *device, kin_commands *commands, bool timed);
kin_status cuda_timestamps(kin_device *device, kin_commands *commands, double *out_seconds,
                           size_t count);

/* nccl.c */
kin_status cuda_group_id(kin_device *device, kin_group_id *out_id);
kin_status cuda_group_join(kin_device *device, const kin_group_id *id, int rank, int count,
                           kin_device_group **out_group, uint64_t *out_bytes);
void cuda_group_leave(kin_device *device, kin_device_group *group);
kin_status cuda_all_reduce(kin_device *device, kin_commands *commands, kin_device_group *group,
                           const kin_call *calls, size_t count);
kin_status cuda_group_broadcast(kin_device *device, kin_device_group *group, kin_buffer *buffer,
                                size_t offset, size_t size);

#endif
