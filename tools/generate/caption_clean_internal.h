/* Shared by the files of caption cleaning: text as code points, patterns, HTML. */
#ifndef KIN_TOOLS_CAPTION_CLEAN_INTERNAL_H
#define KIN_TOOLS_CAPTION_CLEAN_INTERNAL_H

#include "runtime/context.h"

/* Code points. A failed allocation sets the status, and all calls do nothing from then on. */
typedef struct kin_points {
    kin_context *context;
    uint32_t *at;
    size_t count, room;
    kin_status status;
} kin_points;

void kin_points_add(kin_points *text, uint32_t point);
void kin_points_add_range(kin_points *text, const uint32_t *points, size_t count);
/* Decodes UTF-8; each bad byte becomes U+FFFD. */
void kin_points_decode(kin_points *text, const char *bytes, size_t size);
/* Makes `text` hold what `other` holds, and leaves `other` empty. */
void kin_points_take(kin_points *text, kin_points *other);
void kin_points_free(kin_points *text);

/* Unicode's classes, as Python's regular expressions have them. */
bool kin_point_is_word(uint32_t point);  /* letters, digits, numbers, _ */
bool kin_point_is_digit(uint32_t point); /* decimal */
bool kin_point_is_space(uint32_t point);
uint32_t kin_point_lower(uint32_t point);
bool kin_point_is_cased(uint32_t point);
bool kin_point_is_ignorable(uint32_t point); /* in looking for a letter with a case */

/* Replaces every match of a pattern, left to right. Patterns are UTF-8: literals; \w \d \s \D \S \b
 * and escaped signs; [sets] with ranges, ^ and classes; . as itself; * + ? {m} {m,} {m,n} behind
 * one character or set, all greedy; (a|b) with an optional ? behind, of which the first in a
 * pattern is \1 of the replacement; (?!c) with one character; ^ and $. An upper limit on the work
 * of one call makes hopeless texts fail with KIN_INVALID. */
void kin_points_replace(kin_points *text, const char *pattern, const char *replacement);
/* Matches of a pattern. */
size_t kin_points_matches(kin_points *text, const char *pattern);

/* The text of HTML: tags, comments, scripts and styles dropped, characters decoded. */
void kin_points_html_text(kin_points *text);
/* Decodes HTML's named and numbered characters. */
void kin_points_unescape(kin_points *text);

/* Tables of caption_clean_unicode.c and caption_clean_entities.c. */
extern const uint32_t kin_caption_words[][2];
extern const size_t kin_caption_word_count;
extern const uint32_t kin_caption_digits[][2];
extern const size_t kin_caption_digit_count;
extern const int32_t kin_caption_lower_runs[][4];
extern const size_t kin_caption_lower_count;
extern const uint32_t kin_caption_cased[][2];
extern const size_t kin_caption_cased_count;
extern const uint32_t kin_caption_ignorable[][2];
extern const size_t kin_caption_ignorable_count;
extern const char *const kin_caption_entities[];
extern const size_t kin_caption_entity_lines;

#endif
