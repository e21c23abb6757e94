/* Attributes of upsample and of its gradient. */
#ifndef KIN_OPS_UPSAMPLE_ATTRS_H
#define KIN_OPS_UPSAMPLE_ATTRS_H

#include <stdint.h>

enum {
    KIN_UPSAMPLE_NEAREST,       /* source floor(i * in / out) */
    KIN_UPSAMPLE_LINEAR,        /* source (i + 0.5) * in / out - 0.5, at least 0 */
    KIN_UPSAMPLE_LINEAR_CORNERS /* source i * (in - 1) / (out - 1): align_corners */
};

/* upsample: size is that of the result (time, rows, columns; time is 1 on images).
 * upsample_grad: size is that of the input of upsample. */
typedef struct kin_upsample_attrs {
    int64_t mode;
    int64_t size[3];
} kin_upsample_attrs;

/* What output i of an axis reads: (1 - weight) * in[low] + weight * in[high]. */
typedef struct kin_upsample_tap {
    int64_t low, high;
    double weight;
} kin_upsample_tap;

/* The formula of all modes; for the reference, the lowering and the CPU alike. */
static inline kin_upsample_tap kin_upsample_tap_at(int64_t mode, int64_t in, int64_t out,
                                                   int64_t i) {
    kin_upsample_tap tap;
    double source;
    if (mode == KIN_UPSAMPLE_NEAREST) {
        tap.low = tap.high = i * in / out;
        tap.weight = 0;
        return tap;
    }
    if (mode == KIN_UPSAMPLE_LINEAR) {
        source = ((double)i + 0.5) * (double)in / (double)out - 0.5;
        if (source < 0) source = 0;
    } else {
        source = out > 1 ? (double)i * (double)(in - 1) / (double)(out - 1) : 0;
    }
    tap.low = (int64_t)source;
    if (tap.low > in - 1) tap.low = in - 1;
    tap.high = tap.low < in - 1 ? tap.low + 1 : tap.low;
    tap.weight = source - (double)tap.low;
    return tap;
}

#endif
