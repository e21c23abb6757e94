/* Text as code points. */
#include <string.h>

#include "tools/generate/caption_clean_internal.h"

static bool reserve(kin_points *text, size_t more) {
    if (text->status != KIN_OK) return false;
    if (text->count + more <= text->room) return true;
    size_t room = 2 * text->room + more + 64;
    uint32_t *larger = kin_realloc(text->context, text->at, room * sizeof *larger);
    if (!larger) {
        text->status = KIN_OUT_OF_MEMORY;
        return false;
    }
    text->at = larger;
    text->room = room;
    return true;
}

void kin_points_add(kin_points *text, uint32_t point) {
    if (reserve(text, 1)) text->at[text->count++] = point;
}

void kin_points_add_range(kin_points *text, const uint32_t *points, size_t count) {
    if (count == 0 || !reserve(text, count)) return;
    memcpy(text->at + text->count, points, count * sizeof *points);
    text->count += count;
}

void kin_points_take(kin_points *text, kin_points *other) {
    if (text->status == KIN_OK) text->status = other->status;
    kin_free(text->context, text->at);
    text->at = other->at;
    text->count = other->count;
    text->room = other->room;
    other->at = NULL;
    other->count = other->room = 0;
}

void kin_points_free(kin_points *text) {
    kin_free(text->context, text->at);
    text->at = NULL;
    text->count = text->room = 0;
}

/* Length of the well-formed sequence at `p`, 0 if there is none. */
static size_t decode_one(const unsigned char *p, size_t size, uint32_t *out_point) {
    static const uint32_t least[] = {0, 0, 0x80, 0x800, 0x10000};
    size_t length = p[0] < 0x80 ? 1 : p[0] >= 0xF0 ? 4 : p[0] >= 0xE0 ? 3 : 2;
    if (p[0] >= 0x80 && (p[0] < 0xC2 || p[0] > 0xF4)) return 0;
    if (length > size) return 0;
    uint32_t point = length == 1 ? p[0] : p[0] & (0x7Fu >> length);
    for (size_t i = 1; i < length; i++) {
        if ((p[i] & 0xC0) != 0x80) return 0;
        point = point << 6 | (p[i] & 0x3F);
    }
    if (point < least[length] || point > 0x10FFFF || (point >= 0xD800 && point < 0xE000)) return 0;
    *out_point = point;
    return length;
}

void kin_points_decode(kin_points *text, const char *bytes, size_t size) {
    const unsigned char *p = (const unsigned char *)bytes;
    for (size_t i = 0; i < size;) {
        uint32_t point = 0xFFFD;
        size_t length = decode_one(p + i, size - i, &point);
        kin_points_add(text, point);
        i += length ? length : 1;
    }
}

static bool within(const uint32_t (*ranges)[2], size_t count, uint32_t point) {
    size_t low = 0, high = count;
    while (low < high) {
        size_t middle = (low + high) / 2;
        if (point > ranges[middle][1]) low = middle + 1;
        else high = middle;
    }
    return low < count && point >= ranges[low][0];
}

bool kin_point_is_word(uint32_t point) {
    if (point < 0x80)
        return (point >= 'a' && point <= 'z') || (point >= 'A' && point <= 'Z') ||
               (point >= '0' && point <= '9') || point == '_';
    return within(kin_caption_words, kin_caption_word_count, point);
}

bool kin_point_is_digit(uint32_t point) {
    if (point < 0x80) return point >= '0' && point <= '9';
    return within(kin_caption_digits, kin_caption_digit_count, point);
}

bool kin_point_is_space(uint32_t point) {
    if (point < 0x80) return (point >= 9 && point <= 13) || (point >= 28 && point <= 32);
    return point == 0x85 || point == 0xA0 || point == 0x1680 ||
           (point >= 0x2000 && point <= 0x200A) || point == 0x2028 || point == 0x2029 ||
           point == 0x202F || point == 0x205F || point == 0x3000;
}

bool kin_point_is_cased(uint32_t point) {
    return within(kin_caption_cased, kin_caption_cased_count, point);
}

bool kin_point_is_ignorable(uint32_t point) {
    return within(kin_caption_ignorable, kin_caption_ignorable_count, point);
}

uint32_t kin_point_lower(uint32_t point) {
    if (point < 0x80) return point >= 'A' && point <= 'Z' ? point + 32 : point;
    size_t low = 0, high = kin_caption_lower_count;
    while (low < high) {
        size_t middle = (low + high) / 2;
        if ((int32_t)point > kin_caption_lower_runs[middle][1]) low = middle + 1;
        else high = middle;
    }
    if (low == kin_caption_lower_count) return point;
    /* Runs of step 2 may interleave, the second one behind the first. */
    for (size_t i = low; i < kin_caption_lower_count && i < low + 2; i++) {
        const int32_t *run = kin_caption_lower_runs[i];
        if ((int32_t)point >= run[0] && (int32_t)point <= run[1] &&
            ((int32_t)point - run[0]) % run[2] == 0)
            return (uint32_t)((int32_t)point + run[3]);
    }
    return point;
}
