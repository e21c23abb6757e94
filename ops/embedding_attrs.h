/* Attributes of table look-ups and of the timestep features. */
#ifndef KIN_OPS_EMBEDDING_ATTRS_H
#define KIN_OPS_EMBEDDING_ATTRS_H

#include <stdint.h>

/* embedding_grad. */
typedef struct kin_embedding_grad_attrs {
    int64_t rows; /* of the table */
} kin_embedding_grad_attrs;

/* timestep_embedding. */
typedef struct kin_timestep_embedding_attrs {
    int64_t dim;
    double max_period;
} kin_timestep_embedding_attrs;

#endif
