/* Attributes of scale and clamp (and of their gradients). */
#ifndef KIN_OPS_ELEMENTWISE_ATTRS_H
#define KIN_OPS_ELEMENTWISE_ATTRS_H

/* scale: p * x + q. clamp: x within [p, q]. The names are those of the expression list. */
typedef struct kin_elementwise_attrs {
    double p;
    double q;
} kin_elementwise_attrs;

#endif
