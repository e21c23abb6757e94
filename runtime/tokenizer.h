/* SentencePiece unigram tokenizers as T5 and mT5 use them, through libsentencepiece.
 *
 * Text is plain: "</s>" or "<extra_id_0>" written in it are ordinary characters. Models with
 * byte_fallback (mT5) spell characters outside the vocabulary as bytes, as the SentencePiece
 * library and the "slow" Hugging Face tokenizers do. In a build without the library every function
 * that returns a status returns KIN_UNSUPPORTED. The library has one message level per process;
 * these functions set it to "fatal only". */
#ifndef KIN_RUNTIME_TOKENIZER_H
#define KIN_RUNTIME_TOKENIZER_H

#include "runtime/context.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct kin_tokenizer kin_tokenizer;

/* Loads a spiece.model. The whole file is checked before the library sees it: KIN_FORMAT names what
 * is wrong. KIN_UNSUPPORTED for models other than unigram. */
KIN_API kin_status kin_tokenizer_load(kin_context *context, const char *path,
                                      kin_tokenizer **out_tokenizer);
/* The same from memory; `name` stands for the file in messages. */
KIN_API kin_status kin_tokenizer_load_bytes(kin_context *context, const char *name,
                                            const void *data, size_t size,
                                            kin_tokenizer **out_tokenizer);
/* NULL is fine. */
KIN_API void kin_tokenizer_destroy(kin_tokenizer *tokenizer);

/* Number of pieces; and the ids of padding, end and unknown (T5: 0, 1, 2), -1 for none. */
KIN_API int kin_tokenizer_size(const kin_tokenizer *tokenizer);
KIN_API int kin_tokenizer_pad(const kin_tokenizer *tokenizer);
KIN_API int kin_tokenizer_eos(const kin_tokenizer *tokenizer);
KIN_API int kin_tokenizer_unk(const kin_tokenizer *tokenizer);

/* false: a run of characters outside the vocabulary is one unknown piece, as it is for Hugging
 * Face's "fast" tokenizers, which do not know byte_fallback. true, the default: see above. */
KIN_API void kin_tokenizer_set_byte_fallback(kin_tokenizer *tokenizer, bool fallback);

/* The ids of `size` bytes of text, without an end mark. The caller frees *out_ids with kin_free.
 * Bytes that are not UTF-8 count as U+FFFD. */
KIN_API kin_status kin_tokenizer_encode(const kin_tokenizer *tokenizer, const char *text,
                                        size_t size, int32_t **out_ids, size_t *out_count);
/* What a T5 encoder takes: the ids cut to max_length - 1, the end mark, padding up to max_length.
 * out_ids has room for max_length; *out_length counts ids with the end mark, so the attention mask
 * is 1 for the first *out_length places. */
KIN_API kin_status kin_tokenizer_encode_padded(const kin_tokenizer *tokenizer, const char *text,
                                               size_t size, int max_length, int32_t *out_ids,
                                               int *out_length);

/* Trains a unigram model on sentences and writes it to `path`. Ids as in T5: pad 0, end 1, unknown
 * 2, no begin mark; nmt_nfkc. `vocab_size` is an upper limit: few sentences make fewer pieces. The
 * same sentences give the same file. Sentences that are empty or only spaces are skipped;
 * KIN_INVALID if none is left or the vocabulary cannot hold all characters. */
KIN_API kin_status kin_tokenizer_train(kin_context *context, const char *const *sentences,
                                       size_t count, int vocab_size, const char *path);
/* The same with the lines of a text file as sentences. */
KIN_API kin_status kin_tokenizer_train_file(kin_context *context, const char *text_path,
                                            int vocab_size, const char *path);

#ifdef __cplusplus
}
#endif
#endif
