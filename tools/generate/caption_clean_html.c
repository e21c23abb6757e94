/* HTML to text, in the manner of Python's html.parser under BeautifulSoup: a '<' that begins no tag
 * is text, and unknown names stay. */
#include <string.h>

#include "tools/generate/caption_clean_internal.h"

static bool is_letter(uint32_t c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
}

static bool is_hex(uint32_t c) {
    return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f') || (c >= 'A' && c <= 'F');
}

/* The character of a name; NULL if there is none. bare: the name needs no semicolon. */
static const char *find_name(const uint32_t *name, size_t length, size_t *out_size, bool *bare) {
    for (size_t i = 0; i < kin_caption_entity_lines; i++)
        for (const char *p = kin_caption_entities[i]; *p;) {
            const char *end = strchr(p[0] && p[1] == 0 ? p : p + 1, '=');
            *bare = *p == '!';
            if (*bare) p++;
            size_t k = 0;
            while (k < length && p + k < end && name[k] == (unsigned char)p[k]) k++;
            bool same = k == length && p + k == end;
            const char *value = end + 1, *line_end = strchr(value, '\n');
            if (same) {
                /* The only value with a line end is the line end itself. */
                *out_size = line_end == value ? 1 : (size_t)(line_end - value);
                return value;
            }
            p = line_end + (line_end == value && line_end[1] == '\n' ? 2 : 1);
        }
    return NULL;
}

/* Windows-1252's upper half, which numbered characters there mean in practice. */
static uint32_t windows_character(uint32_t c) {
    static const uint16_t table[32] = {
        0x20AC, 0x81,   0x201A, 0x0192, 0x201E, 0x2026, 0x2020, 0x2021, 0x02C6, 0x2030, 0x0160,
        0x2039, 0x0152, 0x8D,   0x017D, 0x8F,   0x90,   0x2018, 0x2019, 0x201C, 0x201D, 0x2022,
        0x2013, 0x2014, 0x02DC, 0x2122, 0x0161, 0x203A, 0x0153, 0x9D,   0x017E, 0x0178};
    return c >= 0x80 && c < 0xA0 ? table[c - 0x80] : c;
}

/* A numbered character at "&#": its length with the semicolon, 0 if there is no number. */
static size_t read_number(const uint32_t *p, size_t count, uint32_t *out_value) {
    size_t i = 2;
    bool hex = i < count && (p[i] == 'x' || p[i] == 'X');
    if (hex) i++;
    size_t first = i;
    uint32_t value = 0;
    while (i < count && (hex ? is_hex(p[i]) : p[i] >= '0' && p[i] <= '9')) {
        uint32_t digit = p[i] <= '9' ? p[i] - '0' : (p[i] | 32) - 'a' + 10;
        if (value <= 0x10FFFF) value = value * (hex ? 16 : 10) + digit;
        i++;
    }
    if (i == first) return 0;
    *out_value = value;
    return i < count && p[i] == ';' ? i + 1 : i;
}

static bool is_no_character(uint32_t c) {
    return c == 0 || c > 0x10FFFF || (c >= 0xD800 && c < 0xE000);
}

/* Code points that HTML drops when they are numbered. */
static bool is_dropped(uint32_t c) {
    return (c >= 1 && c <= 8) || c == 0xB || (c >= 0xE && c <= 0x1F) || c == 0x7F ||
           (c >= 0xFDD0 && c <= 0xFDEF) || (c & 0xFFFE) == 0xFFFE;
}

/* A name behind '&' in plain text: the longest known one. Returns the length taken, 0 if none. */
static size_t unescape_name(kin_points *out, const uint32_t *p, size_t count) {
    enum { LONGEST = 32 };
    size_t length = 1, size;
    bool bare;
    while (length < count && length <= LONGEST &&
           !strchr("\t\n\f <&#;", (int)(p[length] < 0x80 ? p[length] : 'a')))
        length++;
    bool semicolon = length < count && p[length] == ';';
    const char *value = length > 1 ? find_name(p + 1, length - 1, &size, &bare) : NULL;
    if (value && (semicolon || bare)) {
        kin_points_decode(out, value, size);
        return length + semicolon;
    }
    for (; length > 2; length--) {
        value = find_name(p + 1, length - 1, &size, &bare);
        if (!value || !bare) continue;
        kin_points_decode(out, value, size);
        return length;
    }
    return 0;
}

void kin_points_unescape(kin_points *text) {
    kin_points out = {.context = text->context};
    for (size_t i = 0; i < text->count;) {
        const uint32_t *p = text->at + i;
        size_t left = text->count - i, length = 0;
        uint32_t number = 0;
        if (p[0] == '&' && left > 2 && p[1] == '#') {
            length = read_number(p, left, &number);
            if (length && is_no_character(number)) kin_points_add(&out, 0xFFFD);
            else if (length && !is_dropped(number)) kin_points_add(&out, windows_character(number));
        } else if (p[0] == '&' && left > 1) {
            length = unescape_name(&out, p, left);
        }
        if (!length) kin_points_add(&out, p[0]);
        i += length ? length : 1;
    }
    kin_points_take(text, &out);
}

/* ---- tags ----------------------------------------------------------------------------------- */

/* Length of the start tag at '<' with its '>', 0 if it does not end. */
static size_t start_tag(const uint32_t *p, size_t count) {
    size_t i = 1;
    while (i < count && !kin_point_is_space(p[i]) && p[i] != '/' && p[i] != '>') i++;
    while (i < count && p[i] != '>') {
        bool value = p[i] == '=';
        i++;
        while (value && i < count && (kin_point_is_space(p[i]) || p[i] == '=')) i++;
        if (!value || i == count || (p[i] != '"' && p[i] != '\'')) continue;
        uint32_t quote = p[i++];
        while (i < count && p[i] != quote) i++;
        if (i < count) i++;
    }
    return i < count ? i + 1 : 0;
}

/* Length up to and with the end mark, 0 if it is not there. */
static size_t up_to(const uint32_t *p, size_t count, const char *mark) {
    size_t length = strlen(mark);
    for (size_t i = 0; i + length <= count; i++) {
        size_t k = 0;
        while (k < length && p[i + k] == (unsigned char)mark[k]) k++;
        if (k == length) return i + length;
    }
    return 0;
}

static bool starts_with(const uint32_t *p, size_t count, const char *text) {
    size_t i = 0;
    while (text[i] && i < count && kin_point_lower(p[i]) == (unsigned char)text[i]) i++;
    return text[i] == 0;
}

/* Length of what a tag that holds no text encloses, with its end tag; 0 for other tags. */
static size_t hidden_content(const uint32_t *tag, const uint32_t *p, size_t count) {
    static const char *const names[] = {"script", "style", "template"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        size_t length = strlen(names[i]);
        if (!starts_with(tag + 1, length, names[i]) || kin_point_is_word(tag[1 + length])) continue;
        for (size_t k = 0; k + 2 < count; k++)
            if (p[k] == '<' && p[k + 1] == '/' && starts_with(p + k + 2, count - k - 2, names[i])) {
                size_t rest = up_to(p + k, count - k, ">");
                return rest ? k + rest : count;
            }
        return count;
    }
    return 0;
}

/* What begins with '<': its length, 0 if it is text. */
static size_t markup(const uint32_t *p, size_t count) {
    if (count < 2) return 0;
    if (starts_with(p, count, "<!--")) {
        size_t length = up_to(p + 4, count - 4, "-->");
        return length ? length + 4 : 0;
    }
    if (p[1] == '/' && count > 2 && is_letter(p[2])) return up_to(p, count, ">");
    if (p[1] == '/' || p[1] == '!' || p[1] == '?') return up_to(p, count, ">");
    if (!is_letter(p[1])) return 0;
    size_t length = start_tag(p, count);
    return length ? length + hidden_content(p, p + length, count - length) : 0;
}

/* A number at "&#" as html.parser wants it: something that is no hex digit must follow. */
static size_t numbered_reference(kin_points *out, const uint32_t *p, size_t count) {
    uint32_t number = 0;
    size_t length = read_number(p, count, &number);
    bool closed = length > 0 && p[length - 1] == ';';
    if (!length || (!closed && (length == count || is_hex(p[length])))) return 0;
    kin_points_add(out, is_no_character(number) ? 0xFFFD : windows_character(number));
    return length;
}

/* A name at '&', with or without its semicolon; one that is not known stays. Returns its length, 0
 * if it is text. */
static size_t named_reference(kin_points *out, const uint32_t *p, size_t count) {
    size_t length = 1, size;
    bool bare;
    if (count < 2 || !is_letter(p[1])) return 0;
    while (length < count && (is_letter(p[length]) || (p[length] >= '0' && p[length] <= '9') ||
                              p[length] == '-' || p[length] == '.'))
        length++;
    /* At the very end the name may go on, but not beyond a sign. */
    if (length == count) {
        while (length > 2 && p[length - 1] != '-' && p[length - 1] != '.') length--;
        if (--length < 2) return 0;
    }
    const char *value = find_name(p + 1, length - 1, &size, &bare);
    if (value) kin_points_decode(out, value, size);
    else kin_points_add_range(out, p, length);
    return p[length] == ';' ? length + 1 : length;
}

/* What to take as text where a tag does not end: up to the next '>', or in front of the next '<'.
 */
static size_t broken_tag(const uint32_t *p, size_t count) {
    size_t length = count > 1 ? up_to(p + 1, count - 1, ">") : 0;
    if (length) return length + 1;
    length = count > 1 ? up_to(p + 1, count - 1, "<") : 0;
    return length ? length : 1;
}

void kin_points_html_text(kin_points *text) {
    kin_points out = {.context = text->context};
    bool resumed = false; /* html.parser stops at a bad number, and goes on once */
    for (size_t i = 0; i < text->count;) {
        const uint32_t *p = text->at + i;
        size_t left = text->count - i, length = 0;
        if (p[0] == '<') {
            length = markup(p, left);
            bool opens = left > 1 && (is_letter(p[1]) || p[1] == '/' || p[1] == '!' || p[1] == '?');
            if (!length && opens) {
                length = broken_tag(p, left);
                kin_points_add_range(&out, p, length);
                resumed = true;
            }
        } else if (p[0] == '&' && left > 1 && p[1] == '#') {
            length = numbered_reference(&out, p, left);
            if (!length) {
                length = up_to(p, left, ";") && !resumed ? 2 : left;
                kin_points_add_range(&out, p, length);
                resumed = true;
            }
        } else if (p[0] == '&') {
            length = named_reference(&out, p, left);
        }
        if (!length) kin_points_add(&out, p[0]);
        i += length ? length : 1;
    }
    kin_points_take(text, &out);
}
