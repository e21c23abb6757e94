/* Devices: finding backends, opening devices. */
#ifndef KIN_RUNTIME_DEVICE_H
#define KIN_RUNTIME_DEVICE_H

#include "runtime/backend.h"

#ifdef __cplusplus
extern "C" {
#endif

/* The backends that a context can use: the built-in ones and those in shared libraries. */
typedef struct kin_backends kin_backends;

/* What became of one file that the loader looked at. */
typedef struct kin_backend_file {
    char *path;
    char *verdict; /* "loaded: cuda" or why it was refused */
    bool loaded;
} kin_backend_file;

/* Loads every `libkinora-*.so` of the folders in `path` (separated by ':', may be NULL). A file
 * that cannot serve is refused with a reason and does no harm. The caller owns *out_backends, and
 * closes all devices before freeing it. */
KIN_API kin_status kin_backends_load(kin_context *context, const char *path,
                                     kin_backends **out_backends);
KIN_API void kin_backends_free(kin_backends *backends);
KIN_API size_t kin_backends_count(const kin_backends *backends);
KIN_API const kin_backend *kin_backends_at(const kin_backends *backends, size_t index);
/* The files that were looked at, in order. */
KIN_API size_t kin_backends_file_count(const kin_backends *backends);
KIN_API const kin_backend_file *kin_backends_file_at(const kin_backends *backends, size_t index);

/* Opens "cpu", "null", "cuda0", "opencl1" (case does not matter; no number means 0). An unknown
 * name is KIN_NOT_FOUND and names what there is. */
KIN_API kin_status kin_device_open(kin_backends *backends, const char *name,
                                   kin_device **out_device);
/* Waits for the device and closes it. */
KIN_API void kin_device_close(kin_device *device);

/* backend->allocate, held to its word: *out_buffer is NULL after a failure, and a success without a
 * buffer is one (KIN_DEVICE). */
KIN_API kin_status kin_device_allocate(kin_device *device, size_t size, kin_buffer **out_buffer);

/* The kernel that would run this call on the device, or NULL. */
KIN_API const kin_kernel *kin_device_kernel(const kin_device *device, const kin_call *call);

/* The built-in backends (defined in backends/cpu and backends/null). That of the CPU is there for
 * plug-ins that hand on to it what they have no kernel for. */
KIN_API extern const kin_backend kin_backend_cpu;
extern const kin_backend kin_backend_null;

#ifdef __cplusplus
}
#endif
#endif
