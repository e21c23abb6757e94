/* A device around another one, for checks: every buffer starts as 0xFF bytes (NaN in all float
 * dtypes) and lies between guard bytes, and the kernels of one op can be hidden so that it must be
 * lowered. */
#ifndef KIN_TOOLS_GUARD_DEVICE_H
#define KIN_TOOLS_GUARD_DEVICE_H

#include "runtime/device.h"

typedef struct kin_guard kin_guard;

/* inner stays the caller's and is closed after the guard. */
kin_status kin_guard_open(kin_device *inner, kin_guard **out_guard);
/* Everything made on the guard's device must be gone. */
void kin_guard_close(kin_guard *guard);
/* The device to plan and run on; not for kin_device_close. */
kin_device *kin_guard_device(kin_guard *guard);
/* Hides all kernels of an op (a name that outlives the guard) and of its gradient NAME_grad; NULL:
 * none. */
void kin_guard_hide(kin_guard *guard, const char *op);
/* From now on changes the middle element of every result of a list's last call after the list ran,
 * by far more than any tolerance: a negative control of the checks that run on the device. */
void kin_guard_spoil(kin_guard *guard, bool on);
/* Buffers that were asked for since the guard was opened. */
size_t kin_guard_allocations(const kin_guard *guard);
/* KIN_NUMERIC, saying where, if a byte before or behind a buffer was written since it was made:
 * buffers that are still there, and those released since the last call. */
kin_status kin_guard_check(kin_guard *guard);

#endif
