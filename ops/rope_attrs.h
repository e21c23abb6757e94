/* Attributes of rope. */
#ifndef KIN_OPS_ROPE_ATTRS_H
#define KIN_OPS_ROPE_ATTRS_H

#include "runtime/tensor.h"

enum { KIN_ROPE_AXES = 3 };

typedef struct kin_rope_attrs {
    double theta;                 /* 10000 as a rule */
    double scales[KIN_ROPE_AXES]; /* positions of axis a are divided by scales[a], never 0 */
    int64_t axes;                 /* 1, or 3: the head is cut in three equal parts */
    int64_t interleaved;          /* 1: pairs (2i, 2i+1); 0: (i, i + P/2) of a part of size P */
    int64_t inverse;              /* 1: turns back */
    int64_t bf16_table;           /* 1: the angle, its cosine and its sine are rounded to bf16 */
} kin_rope_attrs;

#endif
