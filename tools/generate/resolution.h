/* Sizes by their names in Open-Sora 1.1: a resolution and an aspect ratio. */
#ifndef KIN_TOOLS_RESOLUTION_H
#define KIN_TOOLS_RESOLUTION_H

#include "runtime/context.h"

/* The size in Open-Sora 1.1's table ("144p" .. "4k", and the squares "256", "512", "1024") that is
 * nearest to the ratio "HEIGHT:WIDTH" or "HEIGHT/WIDTH as a number"; so "9:16" is a wide picture.
 * ratio NULL: 9:16, and 1:1 for the squares. Sides are rounded to multiples of `multiple`, for
 * models that take no others; 1: as in the table. KIN_INVALID, with the nearest name, for what it
 * is not. */
kin_status kin_resolution_size(kin_context *context, const char *resolution, const char *ratio,
                               int64_t multiple, int64_t *out_height, int64_t *out_width);

#endif
