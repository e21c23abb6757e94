/* Whole words for a freshly trained SentencePiece model. */
#ifndef KIN_RUNTIME_TOKENIZER_WORDS_H
#define KIN_RUNTIME_TOKENIZER_WORDS_H

#include "runtime/context.h"

/* SentencePiece's unigram trainer finds its candidates among the distinct words, so a word of a small
 * corpus, however frequent, becomes a piece only if another word contains it: captions fall apart into
 * letters. This gives the bytes that, appended to the model (a protobuf; repeated fields append), add
 * the most frequent words of the sentences as pieces, scored by the logarithm of their share.
 * `has_piece` tells pieces that are there already. At most `room` words are added, each seen twice or
 * more. The bytes are in fresh memory (kin_free). */
kin_status kin_tokenizer_word_pieces(kin_context *context, const char *const *sentences,
                                     size_t count, size_t room,
                                     bool (*has_piece)(void *user, const char *piece), void *user,
                                     unsigned char **out_bytes, size_t *out_size);

#endif
