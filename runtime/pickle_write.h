/* Writing files of torch.save: the zip form since PyTorch 1.6, which PyTorch 1.13 and later and
 * kin_pickle_open read. */
#ifndef KIN_RUNTIME_PICKLE_WRITE_H
#define KIN_RUNTIME_PICKLE_WRITE_H

#include "runtime/file.h"

#ifdef __cplusplus
extern "C" {
#endif

/* A place of the saved dict where the tensors appear. Several places share the tensors' bytes, as
 * weights and averages of a fresh run may. */
typedef struct kin_pickle_place {
    const char *keys;   /* "ema", or several joined by '/': "state_dict/gen_model"; "": the root */
    const char *prefix; /* put before each name, such as "module."; NULL: nothing */
} kin_pickle_place;

/* A second name for a tensor of the list, in all places: T5's table of tokens has two. */
typedef struct kin_pickle_alias {
    const char *name;
    size_t tensor;
} kin_pickle_alias;

/* A whole number at the root, such as "epoch". */
typedef struct kin_pickle_number {
    const char *key;
    int64_t value;
} kin_pickle_number;

/* All zero is a plain state dict: {name: tensor}. */
typedef struct kin_pickle_layout {
    const kin_pickle_place *places; /* none: one at the root */
    size_t place_count;
    const kin_pickle_alias *aliases;
    size_t alias_count;
    const kin_pickle_number *numbers;
    size_t number_count;
} kin_pickle_layout;

/* Writes a file atomically: on any failure an older file stays as it was. desc must be dense and
 * not Q8_0, names unique UTF-8. Tensors whose data is NULL are asked from `fill` in pieces, in the
 * order of the list. layout may be NULL. KIN_INVALID for a bad list or for places of which one lies
 * within another, KIN_IO for a full disk, or what `fill` returns. */
KIN_API kin_status kin_pickle_write(kin_context *context, const char *path,
                                    const kin_named_tensor *tensors, size_t count,
                                    const kin_pickle_layout *layout, kin_fill_piece fill,
                                    void *fill_user);

#ifdef __cplusplus
}
#endif
#endif
