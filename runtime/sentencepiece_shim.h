/* C functions over libsentencepiece, and the check of its model files. Not installed.
 *
 * No C++ exception leaves them. They return 0, or 1 with a message in `error`, or 2 when there was
 * no memory. */
#ifndef KIN_RUNTIME_SENTENCEPIECE_SHIM_H
#define KIN_RUNTIME_SENTENCEPIECE_SHIM_H

#include "runtime/context.h"

#ifdef __cplusplus
extern "C" {
#endif

enum { KIN_SHIM_ERROR = 256 }; /* room for a message */

int kin_shim_load(const void *data, size_t size, void **out_processor, char *error);
void kin_shim_free(void *processor);
/* Calls emit once with all ids; they live during that call. */
typedef void (*kin_shim_emit)(void *user, const int *ids, size_t count);
int kin_shim_encode(const void *processor, const char *text, size_t size, kin_shim_emit emit,
                    void *user, char *error);
/* Whether a piece stands for one byte of a character outside the vocabulary. */
int kin_shim_is_byte(const void *processor, int id);
/* Calls emit once with the bytes of the trained model. */
typedef void (*kin_shim_bytes)(void *user, const void *data, size_t size);
int kin_shim_train(const char *const *sentences, size_t count, int vocab_size, kin_shim_bytes emit,
                   void *user, char *error);

/* What a model file says of itself. */
typedef struct kin_spiece_info {
    int pieces, unk, eos, pad;
} kin_spiece_info;

/* Checks a model file: the messages' framing, the pieces, and that no step in the trie of the
 * normalization rules can leave it (the library itself follows it unchecked). */
kin_status kin_spiece_check(kin_context *context, const char *name, const void *data, size_t size,
                            kin_spiece_info *out_info);

#ifdef __cplusplus
}
#endif
#endif
