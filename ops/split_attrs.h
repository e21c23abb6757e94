/* Attributes of split. */
#ifndef KIN_OPS_SPLIT_ATTRS_H
#define KIN_OPS_SPLIT_ATTRS_H

typedef struct kin_split_attrs {
    int axis; /* 0 .. rank-1 */
    int count;
} kin_split_attrs;

#endif
