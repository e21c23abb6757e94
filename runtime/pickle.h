/* Files of torch.save (.pth, .pt, .ckpt, .bin): the zip form since PyTorch 1.6 and the one before.
 *
 * A pickle is a program that may call anything. The reader here calls nothing: it builds plain
 * values and tensors, keeps a short list of harmless classes as opaque values, and refuses a file
 * that names anything else. */
#ifndef KIN_RUNTIME_PICKLE_H
#define KIN_RUNTIME_PICKLE_H

#include "runtime/file.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef enum kin_pickle_kind {
    KIN_PICKLE_NONE,
    KIN_PICKLE_BOOL,
    KIN_PICKLE_INT,
    KIN_PICKLE_BIG_INT, /* beyond 64 bits: text holds it little-endian, two's complement */
    KIN_PICKLE_FLOAT,
    KIN_PICKLE_STRING, /* text is UTF-8 and may hold NULs */
    KIN_PICKLE_BYTES,
    KIN_PICKLE_LIST,
    KIN_PICKLE_TUPLE,
    KIN_PICKLE_DICT, /* list holds key, value, key, value, ...; a later key wins */
    KIN_PICKLE_TENSOR,
    KIN_PICKLE_OPAQUE /* a class or an object of one that is not built; text is its name */
} kin_pickle_kind;

typedef struct kin_pickle_value kin_pickle_value;

struct kin_pickle_value {
    kin_pickle_kind kind;
    union {
        bool boolean;
        int64_t integer;
        double number;
        struct {
            const char *data; /* a NUL follows */
            size_t size;
        } text;
        struct {
            kin_pickle_value **items;
            size_t count;
        } list;
        const kin_host_tensor *tensor; /* its strides are >= 0 and within its storage */
    } as;
};

typedef struct kin_pickle kin_pickle;

/* Opens a file. Tensors stay where they lie in the file, except those that are not aligned to
 * their elements and 8- and 16-bit signed integers, which become KIN_I32. KIN_FORMAT for whatever
 * is malformed or names something that is not on the list; KIN_UNSUPPORTED for compressed or
 * big-endian files. A walk of the values ends:
 * they are nested at most 128 deep, have no cycles and, as a tree, at most 2^24 nodes. */
KIN_API kin_status kin_pickle_open(kin_context *context, const char *path, kin_pickle **out_file);
KIN_API void kin_pickle_close(kin_pickle *file);
/* kin_mapping_forget for bytes of a tensor. */
KIN_API void kin_pickle_forget(const kin_pickle *file, const void *data, size_t size);
/* The value that was saved; it and all below belong to the file. */
KIN_API const kin_pickle_value *kin_pickle_root(const kin_pickle *file);
/* The value under a string key of a dict; NULL if it is not there or `dict` is no dict. */
KIN_API const kin_pickle_value *kin_pickle_lookup(const kin_pickle_value *dict, const char *key);

/* Lists the tensors below a value, in its order. The names are keys and indices joined with the
 * separator; a tensor that is itself the value has the name "". List and names belong to the file.
 * KIN_FORMAT if two tensors get one name or one lies under a key that is neither string nor
 * integer. */
KIN_API kin_status kin_pickle_flatten(kin_pickle *file, const kin_pickle_value *value,
                                      char separator, const kin_named_tensor **out_tensors,
                                      size_t *out_count);
/* The tensors of "the state dict": of the dict under `entry`, or with entry NULL under the first of
 * ema, ema_state_dict, state_dict, model, module that holds any, else of the root; joined with '.'.
 * out_entry (may be NULL) tells the key, "" for the root. KIN_NOT_FOUND if there is no such entry
 * or no tensor in it. */
KIN_API kin_status kin_pickle_state_dict(kin_pickle *file, const char *entry,
                                         const kin_named_tensor **out_tensors, size_t *out_count,
                                         const char **out_entry);

#ifdef __cplusplus
}
#endif
#endif
