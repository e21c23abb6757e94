/* A checkpoint of whatever form: safetensors, torch.save, shards of either, or a folder with one.
 */
#ifndef KIN_RUNTIME_CHECKPOINT_H
#define KIN_RUNTIME_CHECKPOINT_H

#include "runtime/file.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct kin_checkpoint kin_checkpoint;

/* Opens a file by its content, a `*.index.json`, or a folder with what kin_safetensors_open looks
 * for or else pytorch_model.bin, diffusion_pytorch_model.bin or an index of one. `entry` picks the
 * state dict of pickled files as in kin_pickle_state_dict; NULL for the usual one. Errors are those
 * of kin_safetensors_open and kin_pickle_open. */
KIN_API kin_status kin_checkpoint_open(kin_context *context, const char *path, const char *entry,
                                       kin_checkpoint **out_checkpoint);
KIN_API void kin_checkpoint_close(kin_checkpoint *checkpoint);

/* kin_mapping_forget for bytes of a tensor: its memory is given back until somebody looks again. */
KIN_API void kin_checkpoint_forget(const kin_checkpoint *checkpoint, const void *data, size_t size);

KIN_API size_t kin_checkpoint_count(const kin_checkpoint *checkpoint);
/* The tensors in the order of their names. Those of pickled files may be strided views. */
KIN_API const kin_named_tensor *kin_checkpoint_at(const kin_checkpoint *checkpoint, size_t index);
/* NULL if there is none of that name. */
KIN_API const kin_named_tensor *kin_checkpoint_find(const kin_checkpoint *checkpoint,
                                                    const char *name);
/* KIN_NOT_FOUND, with the nearest name in the message, if there is none. */
KIN_API kin_status kin_checkpoint_get(const kin_checkpoint *checkpoint, const char *name,
                                      const kin_named_tensor **out_tensor);
/* Where the tensors lie: the file, or the index of the shards. */
KIN_API const char *kin_checkpoint_path(const kin_checkpoint *checkpoint);
/* The key of the state dict in a pickled file (of shards: of the first one), "" if it has none;
 * NULL for safetensors. */
KIN_API const char *kin_checkpoint_entry(const kin_checkpoint *checkpoint);
/* A metadata entry of a safetensors file; NULL if there is none. */
KIN_API const char *kin_checkpoint_metadata(const kin_checkpoint *checkpoint, const char *key);

#ifdef __cplusplus
}
#endif
#endif
