/* What the parts of the pickle reader share: pickle.c (files, storages, walks), pickle_machine.c
 * (opcodes), pickle_build.c (what the named functions would do), pickle_zip.c (records). */
#ifndef KIN_RUNTIME_PICKLE_INTERNAL_H
#define KIN_RUNTIME_PICKLE_INTERNAL_H

#include "runtime/pickle.h"

enum { KIN_PICKLE_DEPTH = 128 };

/* Memory that is freed all at once, so that freeing never walks values. */
typedef struct pickle_block pickle_block;

/* Contents of a storage in the file. */
typedef struct pickle_storage pickle_storage;
struct pickle_storage {
    pickle_storage *next;
    const char *key;
    size_t key_size;
    int type;      /* index into kin_pickle_types */
    int64_t count; /* elements */
    const unsigned char *data;
    const pickle_storage *base; /* legacy views: the storage this is a part of */
    int64_t offset;             /* in the base */
};

typedef struct pickle_type {
    const char *name; /* class torch.<name> */
    size_t size;
    kin_dtype dtype; /* as it is given out; wider than size if converted */
    const char *torch_dtype;
} pickle_type;

extern const pickle_type kin_pickle_types[];
extern const int kin_pickle_type_count;

typedef struct pickle_node pickle_node;
struct pickle_node {
    kin_pickle_value value; /* first: a node is used as a value */
    size_t capacity;        /* of the list */
    int action;             /* of a class or function, see pickle_build.c; 0: none */
    int parameter;
    uint32_t tree_size; /* set by the check of the finished tree; 0: not seen yet */
    uint16_t height;
    bool is_open;
    const pickle_storage *storage; /* of a persistent id */
};

/* A tensor whose storage is known and whose data is not, yet. */
typedef struct pickle_tensor pickle_tensor;
struct pickle_tensor {
    kin_host_tensor tensor;
    pickle_tensor *next;
    const pickle_storage *storage;
    int type;
    int64_t offset;
};

typedef struct pickle_record {
    const char *name;          /* without the archive's root folder */
    const unsigned char *data; /* NULL: compressed */
    size_t size;
} pickle_record;

struct kin_pickle {
    kin_context *context;
    char *path;
    kin_mapping mapping;
    pickle_block *blocks;
    size_t block_bytes; /* given out of the blocks so far */
    pickle_storage *storages;
    size_t storage_count;
    pickle_tensor *tensors;
    pickle_record *records; /* of the zip form, by name; in the blocks */
    size_t record_count;
    const kin_pickle_value *root;
};

/* Memory from the file's blocks, zeroed; NULL with the message set. Bounded by a multiple of the
 * file's size, so that no small file takes all memory. */
void *kin_pickle_alloc(kin_pickle *file, size_t size);
/* A NUL-terminated copy. */
char *kin_pickle_text(kin_pickle *file, const void *data, size_t size);
/* Cuts a name for a message and replaces what a terminal should not see. Returns `target`. */
const char *kin_pickle_printable(const char *text, size_t size, char *target, size_t target_size);

/* Runs one pickle; *at moves behind its STOP. Storages and tensors are added to the file's lists if
 * may_have_tensors, else persistent ids are refused. */
kin_status kin_pickle_run(kin_pickle *file, const unsigned char **at, const unsigned char *end,
                          bool may_have_tensors, pickle_node **out_node);

pickle_node *kin_pickle_node(kin_pickle *file, kin_pickle_kind kind);
/* Appends to a list, tuple or dict. */
kin_status kin_pickle_append(kin_pickle *file, pickle_node *list, pickle_node *item);

/* Makes the node of the class or function, or refuses it by name. */
kin_status kin_pickle_global(kin_pickle *file, const char *module, size_t module_size,
                             const char *name, size_t name_size, pickle_node **out_node);
/* What the call of `function` with the tuple `arguments` would give. */
kin_status kin_pickle_reduce(kin_pickle *file, pickle_node *function, pickle_node *arguments,
                             pickle_node **out_node);
/* The storage that a persistent id names. */
kin_status kin_pickle_persistent(kin_pickle *file, const pickle_node *id, pickle_node **out_node);

/* Fills file->records and finds data.pkl. */
kin_status kin_pickle_read_zip(kin_pickle *file, const pickle_record **out_pickle);
/* NULL if the archive has none of that name. */
const pickle_record *kin_pickle_find_record(const kin_pickle *file, const char *name);
/* The same, and an error if there is none or it is compressed. */
kin_status kin_pickle_get_record(const kin_pickle *file, const char *name,
                                 const pickle_record **out_record);

#endif
