/* One HTML page. */
#include "tools/report/html.h"

#include "runtime/file.h"
#include "runtime/video.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

enum { FILE_LIMIT = 64 << 20 }; /* bytes of a picture or a clip in the page */

void kin_html_free(kin_html *page) {
    kin_free(page->context, page->data);
    page->data = NULL;
}

/* Room for `more` bytes and a NUL; NULL after a failure. */
static char *reserve(kin_html *page, size_t more) {
    if (page->status != KIN_OK) return NULL;
    if (page->used + more + 1 > page->room) {
        size_t room = 2 * (page->used + more) + 4096;
        char *data = kin_realloc(page->context, page->data, room);
        if (!data) {
            page->status = KIN_OUT_OF_MEMORY;
            return NULL;
        }
        page->data = data;
        page->room = room;
    }
    return page->data + page->used;
}

static void append(kin_html *page, const char *data, size_t size) {
    char *at = reserve(page, size);
    if (!at) return;
    memcpy(at, data, size);
    at[size] = 0;
    page->used += size;
}

void kin_html_raw(kin_html *page, const char *markup) {
    append(page, markup, strlen(markup));
}

void kin_html_text(kin_html *page, const char *text) {
    bool valid = kin_utf8_is_valid(text, strlen(text));
    for (; *text; text++) {
        unsigned char c = (unsigned char)*text;
        switch (c) {
        case '&':
            kin_html_raw(page, "&amp;");
            break;
        case '<':
            kin_html_raw(page, "&lt;");
            break;
        case '>':
            kin_html_raw(page, "&gt;");
            break;
        case '"':
            kin_html_raw(page, "&quot;");
            break;
        case '\'':
            kin_html_raw(page, "&#39;");
            break;
        default:
            if ((c < 32 && c != '\t' && c != '\n') || c == 127 || (c > 127 && !valid))
                kin_html_raw(page, "?");
            else append(page, text, 1);
        }
    }
}

void kin_html_format(kin_html *page, const char *format, ...) {
    char text[1024];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    kin_html_text(page, text);
}

void kin_html_data_uri(kin_html *page, const char *type, const void *data, size_t size) {
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    const unsigned char *in = data;
    kin_html_raw(page, "data:");
    kin_html_raw(page, type);
    kin_html_raw(page, ";base64,");
    size_t length = (size + 2) / 3 * 4;
    char *out = reserve(page, length);
    if (!out) return;
    for (size_t i = 0; i < size; i += 3) {
        uint32_t three = (uint32_t)in[i] << 16;
        if (i + 1 < size) three |= (uint32_t)in[i + 1] << 8;
        if (i + 2 < size) three |= in[i + 2];
        *out++ = digits[three >> 18];
        *out++ = digits[three >> 12 & 63];
        *out++ = i + 1 < size ? digits[three >> 6 & 63] : '=';
        *out++ = i + 2 < size ? digits[three & 63] : '=';
    }
    *out = 0;
    page->used += length;
}

/* Reads a file that must begin with `mark` at `offset`; NULL, with the page's status, if not. */
static char *read_marked(kin_html *page, const char *path, size_t offset, const char *mark,
                         const char *kind, size_t *out_size) {
    char *data = NULL;
    if (page->status == KIN_OK)
        page->status = kin_file_read_all(page->context, path, FILE_LIMIT, &data, out_size);
    size_t length = strlen(mark);
    if (page->status == KIN_OK &&
        (*out_size < offset + length || memcmp(data + offset, mark, length) != 0))
        page->status = kin_fail(page->context, KIN_FORMAT, "%s is no %s file", path, kind);
    if (page->status == KIN_OK) return data;
    kin_free(page->context, data);
    return NULL;
}

static uint32_t big_endian(const char *bytes) {
    const unsigned char *b = (const unsigned char *)bytes;
    return (uint32_t)b[0] << 24 | (uint32_t)b[1] << 16 | (uint32_t)b[2] << 8 | b[3];
}

/* The lines of the text chunk "captions" as a list. Captions beyond ASCII are in another kind of
 * chunk and are left out. */
static void list_captions(kin_html *page, const char *data, size_t size) {
    static const char key[] = "captions";
    for (size_t at = 8; at + 12 <= size;) {
        size_t length = big_endian(data + at);
        const char *body = data + at + 8;
        if (length > size - at - 12) return;
        if (memcmp(data + at + 4, "tEXt", 4) != 0 || length < sizeof key ||
            memcmp(body, key, sizeof key) != 0) {
            at += length + 12;
            continue;
        }
        char *text = kin_strndup(page->context, body + sizeof key, length - sizeof key);
        if (!text) {
            page->status = KIN_OUT_OF_MEMORY;
            return;
        }
        kin_html_raw(page, "<details><summary>captions, row by row</summary><ol>");
        for (char *line = strtok(text, "\n"); line; line = strtok(NULL, "\n")) {
            kin_html_raw(page, "<li>");
            kin_html_text(page, line);
            kin_html_raw(page, "</li>");
        }
        kin_html_raw(page, "</ol></details>");
        kin_free(page->context, text);
        return;
    }
}

void kin_html_image(kin_html *page, const char *path, const char *label) {
    size_t size = 0;
    char *data = read_marked(page, path, 0, "\x89PNG\r\n\x1a\n", "PNG", &size);
    if (!data) return;
    if (size < 33) {
        page->status = kin_fail(page->context, KIN_FORMAT, "%s is cut off", path);
        kin_free(page->context, data);
        return;
    }
    char numbers[64];
    snprintf(numbers, sizeof numbers, "\" width=\"%u\" height=\"%u\">", big_endian(data + 16),
             big_endian(data + 20));
    kin_html_raw(page, "<figure><figcaption>");
    kin_html_text(page, label);
    kin_html_raw(page, "</figcaption><img alt=\"");
    kin_html_text(page, label);
    kin_html_raw(page, "\" src=\"");
    kin_html_data_uri(page, "image/png", data, size);
    kin_html_raw(page, numbers);
    list_captions(page, data, size);
    kin_html_raw(page, "</figure>\n");
    kin_free(page->context, data);
}

/* What follows "prompt: " on its line of the comment that kinora generate writes; in fresh memory,
 * NULL if there is none. */
static char *prompt_of(kin_context *context, const char *path) {
    static const char key[] = "prompt: ";
    char *comment = NULL, *prompt = NULL;
    if (kin_video_comment(context, path, &comment) != KIN_OK) return NULL;
    if (strncmp(comment, key, sizeof key - 1) == 0) {
        const char *text = comment + sizeof key - 1;
        prompt = kin_strndup(context, text, strcspn(text, "\n"));
    }
    kin_free(context, comment);
    return prompt;
}

void kin_html_video(kin_html *page, const char *path) {
    size_t size = 0;
    char *data = read_marked(page, path, 4, "ftyp", "MP4", &size);
    if (!data) return;
    const char *slash = strrchr(path, '/');
    char *prompt = prompt_of(page->context, path);
    kin_html_raw(page, "<figure><video controls loop muted autoplay playsinline src=\"");
    kin_html_data_uri(page, "video/mp4", data, size);
    kin_html_raw(page, "\"></video><figcaption>");
    kin_html_text(page, prompt ? prompt : slash ? slash + 1 : path);
    kin_html_raw(page, "</figcaption></figure>\n");
    kin_free(page->context, prompt);
    kin_free(page->context, data);
}
