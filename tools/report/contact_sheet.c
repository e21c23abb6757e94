/* Contact sheets. */
#include "tools/report/contact_sheet.h"

#include "runtime/image.h"

#include <math.h>
#include <string.h>

enum { ZOOM = 2, GAP = 1 };

struct kin_contact_sheet {
    kin_context *context;
    int64_t frames, height, width, rows;
    uint8_t *pixels; /* rows of (height, frames * (width + GAP), 3), before doubling */
    char *captions;
};

kin_status kin_contact_sheet_create(kin_context *context, kin_contact_sheet **out_sheet) {
    *out_sheet = kin_calloc(context, 1, sizeof **out_sheet);
    if (!*out_sheet) return KIN_OUT_OF_MEMORY;
    (*out_sheet)->context = context;
    return KIN_OK;
}

void kin_contact_sheet_free(kin_contact_sheet *sheet) {
    if (!sheet) return;
    kin_free(sheet->context, sheet->pixels);
    kin_free(sheet->context, sheet->captions);
    kin_free(sheet->context, sheet);
}

static int64_t row_width(const kin_contact_sheet *sheet) {
    return sheet->frames * (sheet->width + GAP);
}

kin_status kin_contact_sheet_add(kin_contact_sheet *sheet, const kin_host_tensor *clip,
                                 const char *caption) {
    const int64_t *d = clip->desc.dims;
    if (sheet->rows == 0) {
        sheet->frames = d[1];
        sheet->height = d[2];
        sheet->width = d[3];
    }
    if (clip->desc.rank != 4 || d[0] != 3 || d[1] != sheet->frames || d[2] != sheet->height ||
        d[3] != sheet->width)
        return kin_fail(sheet->context, KIN_INVALID, "clips of a contact sheet must have one size");
    size_t row = (size_t)(row_width(sheet) * (sheet->height + GAP) * 3);
    uint8_t *pixels =
        kin_realloc(sheet->context, sheet->pixels, row * (size_t)(sheet->rows + 1));
    if (!pixels) return KIN_OUT_OF_MEMORY;
    sheet->pixels = pixels;
    pixels += row * (size_t)sheet->rows;
    memset(pixels, 255, row);
    const float *data = clip->data;
    for (int64_t c = 0; c < 3; c++)
        for (int64_t t = 0; t < d[1]; t++)
            for (int64_t y = 0; y < d[2]; y++)
                for (int64_t x = 0; x < d[3]; x++) {
                    float v = data[((c * d[1] + t) * d[2] + y) * d[3] + x];
                    v = v < -1 ? -1 : v > 1 ? 1 : v;
                    int64_t at = y * row_width(sheet) + t * (d[3] + GAP) + x;
                    pixels[at * 3 + c] = (uint8_t)lrintf((v + 1) * 127.5f);
                }
    char *captions = kin_format(sheet->context, "%s%s\n", sheet->captions ? sheet->captions : "",
                                caption);
    if (!captions) return KIN_OUT_OF_MEMORY;
    kin_free(sheet->context, sheet->captions);
    sheet->captions = captions;
    sheet->rows++;
    return KIN_OK;
}

kin_status kin_contact_sheet_write(const kin_contact_sheet *sheet, const char *path) {
    if (!sheet->rows) return kin_fail(sheet->context, KIN_INVALID, "%s: no clips", path);
    int64_t width = row_width(sheet), height = sheet->rows * (sheet->height + GAP);
    uint8_t *large = kin_alloc(sheet->context, (size_t)(width * height * 3 * ZOOM * ZOOM));
    if (!large) return KIN_OUT_OF_MEMORY;
    for (int64_t y = 0; y < height * ZOOM; y++)
        for (int64_t x = 0; x < width * ZOOM; x++)
            memcpy(large + (y * width * ZOOM + x) * 3,
                   sheet->pixels + (y / ZOOM * width + x / ZOOM) * 3, 3);
    kin_image_text text = {"captions", sheet->captions};
    kin_status status = kin_image_write_png(sheet->context, path, large, (int)(height * ZOOM),
                                            (int)(width * ZOOM), &text, 1);
    kin_free(sheet->context, large);
    return status;
}
