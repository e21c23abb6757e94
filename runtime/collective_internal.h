/* How plans run their collective nodes. */
#ifndef KIN_RUNTIME_COLLECTIVE_INTERNAL_H
#define KIN_RUNTIME_COLLECTIVE_INTERNAL_H

#include "runtime/collective.h"

/* The row that stands for a call of a collective op on a device that is in a group; NULL for other
 * calls. It has no launch: see below. */
const kin_kernel *kin_collective_kernel(const kin_device *device, const kin_call *call);
bool kin_kernel_is_collective(const kin_kernel *kernel);

/* Groups on the device: appends calls to a list. */
kin_status kin_collective_record(kin_device *device, kin_commands *commands, const kin_call *calls,
                                 size_t count);
/* Groups by way of the host: joins calls to larger pieces, and does what is left at the end.
 * Nothing is allocated. */
kin_status kin_collective_add(kin_device *device, const kin_call *call);
kin_status kin_collective_finish(kin_device *device);

#endif
