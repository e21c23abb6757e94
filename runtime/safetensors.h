/* Safetensors files: a memory-mapped reader, of shards too, and an atomic writer.
 *
 * The format: 8 bytes with the length n of the header (little-endian), n bytes of JSON, the data.
 * Kinora stores KIN_Q8_0, which the format does not know, as U8 with the blocks' bytes on the last
 * axis, and the true length of that axis in the metadata under "kinora.q8_0.<tensor>".
 * I8, I16 and U16 are given as KIN_I32, U32 as KIN_I64. */
#ifndef KIN_RUNTIME_SAFETENSORS_H
#define KIN_RUNTIME_SAFETENSORS_H

#include "runtime/file.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct kin_safetensors kin_safetensors;

/* Opens a file, a `*.index.json` with its shards beside it, or a folder that holds one of
 * model.safetensors, diffusion_pytorch_model.safetensors, or an index of one of those names (looked
 * for in this order). Everything is checked; KIN_FORMAT names the file and the tensor. Data stays
 * where it lies in the file, except tensors that are not aligned to their elements and those whose
 * type is widened: these are copied. Closed by kin_safetensors_close. */
KIN_API kin_status kin_safetensors_open(kin_context *context, const char *path,
                                        kin_safetensors **out_file);
KIN_API void kin_safetensors_close(kin_safetensors *file);

/* kin_mapping_forget for bytes of a tensor. */
KIN_API void kin_safetensors_forget(const kin_safetensors *file, const void *data, size_t size);

/* Tensors in the order of their data, shard after shard. */
KIN_API size_t kin_safetensors_count(const kin_safetensors *file);
KIN_API const kin_named_tensor *kin_safetensors_at(const kin_safetensors *file, size_t index);
/* NULL if there is none of that name. */
KIN_API const kin_named_tensor *kin_safetensors_find(const kin_safetensors *file, const char *name);
/* KIN_NOT_FOUND, with the nearest name in the message, if there is none. */
KIN_API kin_status kin_safetensors_get(const kin_safetensors *file, const char *name,
                                       const kin_named_tensor **out_tensor);
/* The `__metadata__` of the file, or of the first shard, sorted by key. NULL if the key is not
 * there. */
KIN_API const char *kin_safetensors_metadata(const kin_safetensors *file, const char *key);
KIN_API size_t kin_safetensors_metadata_count(const kin_safetensors *file);
KIN_API const kin_metadata *kin_safetensors_metadata_at(const kin_safetensors *file, size_t index);

/* Fills the dense bytes of tensor `index` (an index into the list given to the writer). Calls come
 * one at a time, in the order of the data in the file, which sorts by element size. */
typedef kin_status (*kin_safetensors_fill)(void *user, size_t index, void *bytes, size_t size);

/* Writes a file atomically: on any failure an older file stays as it was. desc must be dense and
 * names unique UTF-8. Tensors whose data is NULL are asked from `fill`, which may be NULL if there
 * are none; memory for the largest of them is taken. The header is padded so that all data is
 * aligned. KIN_INVALID for a bad list, KIN_IO for a full disk, or what `fill` returns. */
KIN_API kin_status kin_safetensors_write(kin_context *context, const char *path,
                                         const kin_named_tensor *tensors, size_t count,
                                         const kin_metadata *metadata, size_t metadata_count,
                                         kin_safetensors_fill fill, void *fill_user);
/* The same for tensors that need not fit into memory: those without data are asked from `fill` in
 * pieces. */
KIN_API kin_status kin_safetensors_write_pieces(kin_context *context, const char *path,
                                                const kin_named_tensor *tensors, size_t count,
                                                const kin_metadata *metadata, size_t metadata_count,
                                                kin_fill_piece fill, void *fill_user);

#ifdef __cplusplus
}
#endif
#endif
