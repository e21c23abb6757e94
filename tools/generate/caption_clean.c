/* The rules of caption cleaning, in their order. */
#include "tools/generate/caption_clean.h"

#include <string.h>

#include "tools/generate/caption_clean_internal.h"

enum { MAX_TEXT = 1 << 16 };

typedef struct rule {
    const char *pattern, *replacement;
} rule;

static void apply(kin_points *text, const rule *rules, size_t count) {
    for (size_t i = 0; i < count; i++)
        kin_points_replace(text, rules[i].pattern, rules[i].replacement);
}

#define APPLY(text, rules) apply(text, rules, sizeof rules / sizeof *rules)
#define HOST "[a-zA-Z0-9.\\-]+\\.(com|co|ru|net|org|edu|gov|it)[\\w/\\-]*\\b/?(?!@)"
#define ENDINGS "(png|jpg|jpeg|bmp|webp|eps|pdf|apk|mp4)"

static void strip(kin_points *text) {
    size_t start = 0, end = text->count;
    while (start < end && kin_point_is_space(text->at[start])) start++;
    while (end > start && kin_point_is_space(text->at[end - 1])) end--;
    if (text->at) memmove(text->at, text->at + start, (end - start) * sizeof *text->at);
    text->count = end - start;
}

/* Sigma at the end of a word has a small letter of its own. */
static bool ends_word(const kin_points *text, size_t i) {
    size_t before = i, after = i + 1;
    while (before > 0 && kin_point_is_ignorable(text->at[before - 1])) before--;
    while (after < text->count && kin_point_is_ignorable(text->at[after])) after++;
    return before > 0 && kin_point_is_cased(text->at[before - 1]) &&
           !(after < text->count && kin_point_is_cased(text->at[after]));
}

static void lower(kin_points *text) {
    enum { SIGMA = 0x3A3, FINAL_SIGMA = 0x3C2, DOTTED_I = 0x130, DOT = 0x307 };
    kin_points out = {.context = text->context};
    for (size_t i = 0; i < text->count; i++) {
        uint32_t c = text->at[i];
        if (c == DOTTED_I) {
            kin_points_add(&out, 'i');
            kin_points_add(&out, DOT);
        } else {
            kin_points_add(&out,
                           c == SIGMA && ends_word(text, i) ? FINAL_SIGMA : kin_point_lower(c));
        }
    }
    kin_points_take(text, &out);
}

static int hex_digit(uint32_t c) {
    if (c >= '0' && c <= '9') return (int)(c - '0');
    c |= 32;
    return c >= 'a' && c <= 'f' ? (int)(c - 'a') + 10 : -1;
}

/* Undoes the quoting of addresses: + and %XX, of which a run is decoded as UTF-8. */
static void unquote(kin_points *text) {
    kin_points out = {.context = text->context};
    for (size_t i = 0; i < text->count;) {
        char bytes[64];
        size_t count = 0;
        while (count < sizeof bytes && i + 2 < text->count && text->at[i] == '%' &&
               hex_digit(text->at[i + 1]) >= 0 && hex_digit(text->at[i + 2]) >= 0) {
            bytes[count++] = (char)(hex_digit(text->at[i + 1]) * 16 + hex_digit(text->at[i + 2]));
            i += 3;
        }
        kin_points_decode(&out, bytes, count);
        if (count) continue;
        kin_points_add(&out, text->at[i] == '+' ? ' ' : text->at[i]);
        i++;
    }
    kin_points_take(text, &out);
}

/* The part of ftfy's repairs that needs no guess. */
static void fix_text(kin_points *text) {
    static const char *const ligatures[] = {"ff", "fi", "fl", "ffi", "ffl", "st", "st"};
    kin_points out = {.context = text->context};
    for (size_t i = 0; i < text->count; i++) {
        uint32_t c = text->at[i];
        bool control = (c < 32 && c != '\t' && c != '\n' && c != '\f' && c != '\r') || c == 127 ||
                       c == 0xFEFF || (c >= 0x206A && c <= 0x206F) || (c >= 0xFFF9 && c <= 0xFFFB);
        if (control) continue;
        if (c >= 0xFB00 && c <= 0xFB06)
            kin_points_decode(&out, ligatures[c - 0xFB00], strlen(ligatures[c - 0xFB00]));
        else if (c >= 0xFF01 && c <= 0xFF5E) kin_points_add(&out, c - 0xFEE0);
        else if (c == 0x3000) kin_points_add(&out, ' ');
        else if (c == '\r' || c == 0x85 || c == 0x2028 || c == 0x2029) {
            if (!(c == '\r' && i + 1 < text->count && text->at[i + 1] == '\n'))
                kin_points_add(&out, '\n');
        } else {
            kin_points_add(&out, c);
        }
    }
    kin_points_take(text, &out);
}

/* Addresses, tags and characters that the encoders' vocabularies lack. */
static void clean_characters(kin_points *text, bool keep_chinese) {
    static const rule addresses[] = {
        {"<person>", "person"},
        {"\\b(https?:(/{1,3}|[a-zA-Z0-9%])|" HOST ")", ""},
        {"\\b(www:(/{1,3}|[a-zA-Z0-9%])|" HOST ")", ""},
    };
    static const rule characters[] = {
        {"@\\w+\\b", ""},
        {"[\xE3\x87\x80-\xE3\x87\xAF]+", ""}, /* 31C0: strokes */
        {"[\xE3\x87\xB0-\xE3\x87\xBF]+", ""}, /* 31F0: katakana extensions */
        {"[\xE3\x88\x80-\xE3\x8B\xBF]+", ""}, /* 3200: enclosed */
        {"[\xE3\x8C\x80-\xE3\x8F\xBF]+", ""}, /* 3300: compatibility */
        {"[\xE3\x90\x80-\xE4\xB6\xBF]+", ""}, /* 3400: extension A */
        {"[\xE4\xB7\x80-\xE4\xB7\xBF]+", ""}, /* 4DC0: hexagrams */
    };
    static const rule chinese[] = {{"[\xE4\xB8\x80-\xE9\xBF\xBF]+", ""}}; /* 4E00 */
    static const rule signs[] = {
        /* 002D 058A 05BE 1400 1806 2010-2015 2E17 2E1A 2E3A 2E3B 2E40 301C 3030 30A0 FE31 FE32 FE58
         * FE63 FF0D */
        {"[\\-\xD6\x8A\xD6\xBE\xE1\x90\x80\xE1\xA0\x86\xE2\x80\x90-"
         "\xE2\x80\x95\xE2\xB8\x97\xE2\xB8\x9A"
         "\xE2\xB8\xBA\xE2\xB8\xBB\xE2\xB9\x80\xE3\x80\x9C\xE3\x80\xB0\xE3\x82\xA0\xEF\xB8\xB1\xEF"
         "\xB8\xB2"
         "\xEF\xB9\x98\xEF\xB9\xA3\xEF\xBC\x8D]+",
         "-"},
        {"[`\xC2\xB4\xC2\xAB\xC2\xBB\xE2\x80\x9C\xE2\x80\x9D\xC2\xA8]", "\""},
        {"[\xE2\x80\x98\xE2\x80\x99]", "'"},
        {"&quot;?", ""},
        {"&amp", ""},
    };
    unquote(text);
    strip(text);
    lower(text);
    APPLY(text, addresses);
    kin_points_html_text(text);
    APPLY(text, characters);
    if (!keep_chinese) APPLY(text, chinese);
    APPLY(text, signs);
}

/* Numbers, file names and runs of signs. */
static void clean_numbers(kin_points *text) {
    static const rule rules[] = {
        {"\\d{1,3}\\.\\d{1,3}\\.\\d{1,3}\\.\\d{1,3}", " "},
        {"\\d:\\d\\d\\s+$", ""},
        {"\\\\n", " "},
        {"#\\d{1,3}\\b", ""},
        {"#\\d{5,}\\b", ""},
        {"\\b\\d{6,}\\b", ""},
        {"\\S+\\." ENDINGS, ""},
        {"[\"']{2,}", "\""},
        {"\\.{2,}", " "},
        /* # (R) bullet (C) TM & @ middle dot, ordinal, fractions, inverted signs, section ~ and
         * brackets and strokes */
        {"[#\xC2\xAE\xE2\x80\xA2\xC2\xA9\xE2\x84\xA2&@"
         "\xC2\xB7\xC2\xBA\xC2\xBD\xC2\xBE\xC2\xBF\xC2\xA1"
         "\xC2\xA7~)(\\]\\[}{|\\\\/*]+",
         " "},
        {"\\s+\\.\\s+", " "},
    };
    APPLY(text, rules);
    if (kin_points_matches(text, "[\\-_]") > 3) kin_points_replace(text, "[\\-_]", " ");
    fix_text(text);
    kin_points_unescape(text);
    kin_points_unescape(text);
    strip(text);
}

/* Words of shops and stock archives, and what the rules before leave behind. */
static void clean_words(kin_points *text) {
    static const rule rules[] = {
        {"\\b[a-zA-Z]{1,3}\\d{3,15}\\b", ""},
        {"\\b[a-zA-Z]+\\d+[a-zA-Z]+\\b", ""},
        {"\\b\\d+[a-zA-Z]+\\d+\\b", ""},
        {"(worldwide\\s+)?(free\\s+)?shipping", ""},
        {"(free\\s)?download(\\sfree)?", ""},
        {"\\bclick\\b\\s(for|on)\\s\\w+", ""},
        {"\\b" ENDINGS "(\\simages?)?", ""},
        {"\\bpage\\s+\\d+\\b", ""},
        {"\\b\\d*[a-zA-Z]+\\d+[a-zA-Z]+\\d+[a-zA-Z\\d]*\\b", " "},
        {"\\b\\d+\\.?\\d*[x\xD1\x85\xC3\x97]\\d+\\.?\\d*\\b", ""},
        {"\\b\\s+:\\s+", ": "},
        {"(\\D[,./])\\b", "\\1 "},
        {"\\s+", " "},
    };
    static const rule ends[] = {
        {"^[\"']([\\w\\W]+)[\"']$", "\\1"},
        {"^['_,\\-:;]", ""},
        {"['_,\\-:+]$", ""},
        {"^\\.\\S+$", ""},
    };
    APPLY(text, rules);
    strip(text);
    APPLY(text, ends);
    strip(text);
}

static void encode_one(char **out, uint32_t c) {
    unsigned char *p = (unsigned char *)*out;
    if (c < 0x80) *p++ = (unsigned char)c;
    else {
        int length = c < 0x800 ? 2 : c < 0x10000 ? 3 : 4;
        for (int i = length - 1; i > 0; i--) {
            p[i] = (unsigned char)(0x80 | (c & 0x3F));
            c >>= 6;
        }
        p[0] = (unsigned char)((0xF00u >> length) | c);
        p += length;
    }
    *out = (char *)p;
}

/* Code points to UTF-8; NULs end the text and are left out. Frees `text`. */
static kin_status finish(kin_points *text, char **out_text) {
    *out_text = NULL;
    if (text->status == KIN_OK) {
        char *bytes = kin_alloc(text->context, 4 * text->count + 1), *at = bytes;
        for (size_t i = 0; bytes && i < text->count; i++)
            if (text->at[i]) encode_one(&at, text->at[i]);
        if (bytes) *at = 0;
        else text->status = KIN_OUT_OF_MEMORY;
        *out_text = bytes;
    }
    kin_points_free(text);
    return text->status;
}

static kin_status start(kin_points *text, kin_context *context, const char *bytes, size_t size) {
    *text = (kin_points){.context = context};
    if (size > MAX_TEXT)
        return kin_fail(context, KIN_INVALID, "a caption of %zu bytes; at most %d are cleaned",
                        size, MAX_TEXT);
    kin_points_decode(text, bytes, size);
    return text->status;
}

kin_status kin_caption_clean(kin_context *context, const char *text, size_t size, bool keep_chinese,
                             char **out_text) {
    kin_points points;
    *out_text = NULL;
    kin_status status = start(&points, context, text, size);
    for (int pass = 0; status == KIN_OK && pass < 2; pass++) {
        clean_characters(&points, keep_chinese);
        clean_numbers(&points);
        clean_words(&points);
        status = points.status;
    }
    if (status == KIN_OK) return finish(&points, out_text);
    kin_points_free(&points);
    return status;
}

kin_status kin_caption_lower(kin_context *context, const char *text, size_t size, char **out_text) {
    kin_points points;
    *out_text = NULL;
    kin_status status = start(&points, context, text, size);
    if (status == KIN_OK) {
        lower(&points);
        strip(&points);
        return finish(&points, out_text);
    }
    kin_points_free(&points);
    return status;
}
