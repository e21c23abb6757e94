/* Files: reading, mapping, and writing so that a reader never sees half a file. */
#ifndef KIN_RUNTIME_FILE_H
#define KIN_RUNTIME_FILE_H

#include "runtime/tensor.h"

#ifdef __cplusplus
extern "C" {
#endif

/* A file mapped for reading. data is never NULL while it is open, not even for an empty file.
 * Another process that shortens the file meanwhile takes the memory away (SIGBUS). */
typedef struct kin_mapping {
    const unsigned char *data;
    size_t size;
    bool is_mapped; /* false: an empty file, nothing to unmap */
} kin_mapping;

/* A tensor of a file. Name and data belong to the reader it came from and live as long. Every
 * element is aligned to its size. Views of pickled files may have any strides >= 0. */
typedef struct kin_named_tensor {
    const char *name;
    kin_desc desc;
    const void *data;
} kin_named_tensor;

/* Fills `size` bytes of the dense form of tensor `index` of a list, from byte `offset` on. Writers
 * ask for a tensor from its beginning to its end in pieces of at most KIN_PIECE bytes, which hold
 * whole elements (and whole blocks of q8_0). An error ends the writing. */
enum { KIN_PIECE = 34 << 18 };
typedef kin_status (*kin_fill_piece)(void *user, size_t index, size_t offset, void *bytes,
                                     size_t size);

/* Key and value of a file's metadata, UTF-8. */
typedef struct kin_metadata {
    const char *key;
    const char *value;
} kin_metadata;

/* Reads a whole regular file into fresh memory (kin_free) with a NUL after its end, which out_size
 * (may be NULL) does not count. KIN_FORMAT if it has more than `limit` bytes. */
KIN_API kin_status kin_file_read_all(kin_context *context, const char *path, size_t limit,
                                     char **out_data, size_t *out_size);
/* Maps a regular file for reading; undone by kin_file_unmap. */
KIN_API kin_status kin_file_map(kin_context *context, const char *path, kin_mapping *out_mapping);
KIN_API void kin_file_unmap(kin_mapping *mapping);
/* Gives back the memory behind these bytes of the mapping, so that going through a large file does
 * not fill it; whoever looks at them again gets them from the file. Bytes outside of the mapping
 * stay as they are. */
KIN_API void kin_mapping_forget(const kin_mapping *mapping, const void *data, size_t size);

KIN_API bool kin_file_exists(const char *path);    /* something is there, of whatever kind */
KIN_API bool kin_file_is_folder(const char *path); /* a folder, or a link to one */
/* Makes the folder and those above it; fine if it is there. */
KIN_API kin_status kin_make_folders(kin_context *context, const char *path);
/* "folder/name" in fresh memory, or just the name for an empty folder. */
KIN_API char *kin_path_join(kin_context *context, const char *folder, const char *name);
/* The folder of a path in fresh memory; "." if it names none. */
KIN_API char *kin_path_folder(kin_context *context, const char *path);
/* True if the path ends in `ending`. */
KIN_API bool kin_path_ends_with(const char *path, const char *ending);
/* True if the bytes are UTF-8 without surrogates or overlong forms. */
KIN_API bool kin_utf8_is_valid(const char *text, size_t size);

/* Copies a strided tensor into dense memory of kin_desc_bytes of its dense form. Not for Q8_0,
 * which must be dense already. The caller has checked that so many bytes are affordable: a view
 * with strides of 0 can be far larger than its file. */
KIN_API void kin_copy_dense(const kin_desc *desc, const void *data, void *target);

/* Writes under a temporary name in the same folder; only the commit puts the file in place of an
 * older one. Whatever fails before (a full disk, a crash) leaves the older one as it was. */
typedef struct kin_file_writer {
    kin_context *context;
    int file;        /* -1: not open */
    char *path;      /* the final one, links resolved */
    char *temporary; /* the one that is written */
} kin_file_writer;

/* The target must be a regular file or absent. */
KIN_API kin_status kin_file_writer_open(kin_context *context, const char *path,
                                        kin_file_writer *out_writer);
KIN_API kin_status kin_file_writer_write(kin_file_writer *writer, const void *data, size_t size);
/* Flushes file and folder to the disk and renames. The writer is closed, whatever it returns. */
KIN_API kin_status kin_file_writer_commit(kin_file_writer *writer);
/* Removes the temporary file; fine after a commit too. */
KIN_API void kin_file_writer_abandon(kin_file_writer *writer);

/* The four of them in one call. */
KIN_API kin_status kin_file_write_atomic(kin_context *context, const char *path, const void *data,
                                         size_t size);

#ifdef __cplusplus
}
#endif
#endif
