/* Counting words, and writing them as pieces of a SentencePiece model. */
#include "runtime/tokenizer_words.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_WORD = 64, MARK_SIZE = 3 };
static const char mark[] = "\xE2\x96\x81"; /* U+2581, which stands for the space before a word */

typedef struct word {
    const char *text; /* in a sentence */
    size_t size, count;
} word;

static int compare_texts(const void *a, const void *b) {
    const word *x = a, *y = b;
    size_t shorter = x->size < y->size ? x->size : y->size;
    int order = memcmp(x->text, y->text, shorter);
    if (order) return order;
    return x->size < y->size ? -1 : x->size > y->size;
}

/* Most frequent first; ties by text, so that the same sentences give the same file. */
static int compare_counts(const void *a, const void *b) {
    const word *x = a, *y = b;
    if (x->count != y->count) return x->count > y->count ? -1 : 1;
    return compare_texts(a, b);
}

static bool is_space(char c) {
    return c == ' ' || c == '\t' || c == '\n' || c == '\r';
}

/* All words in order of appearance; returns their number. `words` NULL only counts. */
static size_t split(const char *const *sentences, size_t count, word *words) {
    size_t total = 0;
    for (size_t i = 0; i < count; i++)
        for (const char *at = sentences[i]; *at;) {
            const char *end = at;
            while (*end && !is_space(*end)) end++;
            if (end > at) {
                if (words) words[total] = (word){at, (size_t)(end - at), 1};
                total++;
            }
            at = *end ? end + 1 : end;
        }
    return total;
}

/* Joins equal neighbours of a sorted list. */
static size_t join(word *words, size_t count) {
    size_t used = 0;
    for (size_t i = 0; i < count; i++) {
        if (used && compare_texts(&words[used - 1], &words[i]) == 0) words[used - 1].count++;
        else words[used++] = words[i];
    }
    return used;
}

/* ModelProto.pieces (field 1): { piece = 1: text, score = 2: float }. Returns the bytes written. */
static size_t write_piece(unsigned char *out, const char *text, size_t size, float score) {
    uint32_t bits;
    memcpy(&bits, &score, sizeof bits);
    out[0] = 1 << 3 | 2;
    out[1] = (unsigned char)(2 + size + 5);
    out[2] = 1 << 3 | 2;
    out[3] = (unsigned char)size;
    memcpy(out + 4, text, size);
    unsigned char *after = out + 4 + size;
    after[0] = 2 << 3 | 5;
    for (int k = 0; k < 4; k++) after[1 + k] = (unsigned char)(bits >> (8 * k));
    return 4 + size + 5;
}

kin_status kin_tokenizer_word_pieces(kin_context *context, const char *const *sentences,
                                     size_t count, size_t room,
                                     bool (*has_piece)(void *user, const char *piece), void *user,
                                     unsigned char **out_bytes, size_t *out_size) {
    size_t total = split(sentences, count, NULL), added = 0;
    word *words = kin_alloc(context, (total + 1) * sizeof *words);
    *out_size = 0;
    *out_bytes = kin_alloc(context, (total < room ? total : room) * (MAX_WORD + 16) + 1);
    if (!words || !*out_bytes) {
        kin_free(context, words);
        kin_free(context, *out_bytes);
        *out_bytes = NULL;
        return KIN_OUT_OF_MEMORY;
    }
    split(sentences, count, words);
    qsort(words, total, sizeof *words, compare_texts);
    size_t distinct = join(words, total);
    qsort(words, distinct, sizeof *words, compare_counts);
    for (size_t i = 0; i < distinct && added < room && words[i].count > 1; i++) {
        char piece[MARK_SIZE + MAX_WORD + 1];
        if (words[i].size > MAX_WORD) continue;
        memcpy(piece, mark, MARK_SIZE);
        memcpy(piece + MARK_SIZE, words[i].text, words[i].size);
        piece[MARK_SIZE + words[i].size] = 0;
        if (has_piece(user, piece)) continue;
        float score = (float)log((double)words[i].count / (double)total);
        *out_size += write_piece(*out_bytes + *out_size, piece, MARK_SIZE + words[i].size, score);
        added++;
    }
    kin_free(context, words);
    return KIN_OK;
}
