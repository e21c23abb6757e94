#include "tools/generate/references.h"

#include "runtime/video.h"
#include "tools/generate/picture_resize.h"

#include <math.h>
#include <string.h>

enum { MAX_REFERENCES = 1024, CHANNELS = 3 };

static kin_status probe(kin_context *context, const char *path, size_t length, int64_t interval,
                        kin_reference *out) {
    kin_video_info info;
    while (length > 0 && path[0] == ' ') path++, length--;
    while (length > 0 && path[length - 1] == ' ') length--;
    if (length == 0)
        return kin_fail(context, KIN_INVALID,
                        "reference paths are separated by ';', with a path on each side");
    out->path = kin_strndup(context, path, length);
    if (!out->path) return KIN_OUT_OF_MEMORY;
    kin_status status = kin_video_probe(context, out->path, &info);
    if (status != KIN_OK) return status;
    out->picture = info.frames == 1 && info.duration <= 0;
    out->interval = out->picture ? 1 : interval;
    out->frames = (info.frames + out->interval - 1) / out->interval;
    out->fps = info.fps;
    return KIN_OK;
}

kin_status kin_references_probe(kin_context *context, const char *paths, int64_t interval,
                                kin_references *out_references) {
    *out_references = (kin_references){NULL, 0};
    if (!paths) return KIN_OK;
    size_t count = 1;
    for (const char *c = paths; *c; c++) count += *c == ';';
    if (count > MAX_REFERENCES)
        return kin_fail(context, KIN_INVALID, "%zu references are too many for one clip: %d", count,
                        MAX_REFERENCES);
    out_references->list = kin_calloc(context, count, sizeof *out_references->list);
    if (!out_references->list) return KIN_OUT_OF_MEMORY;
    out_references->count = count;
    kin_status status = KIN_OK;
    for (size_t i = 0; status == KIN_OK && i < count; i++) {
        size_t length = strcspn(paths, ";");
        status = probe(context, paths, length, interval, &out_references->list[i]);
        paths += length + (paths[length] == ';');
    }
    if (status != KIN_OK) kin_references_free(context, out_references);
    return status;
}

void kin_references_free(kin_context *context, kin_references *references) {
    for (size_t i = 0; i < references->count; i++) kin_free(context, references->list[i].path);
    kin_free(context, references->list);
    *references = (kin_references){NULL, 0};
}

/* ---- pictures ------------------------------------------------------------------------------- */

/* The size at which a picture covers height x width, and where the middle begins; all rounding is
 * to even, as Python's. */
typedef struct cover {
    int height, width, top, left;
} cover;

static cover cover_of(const int64_t source[2], int height, int width) {
    double down = (double)height / (double)source[0], across = (double)width / (double)source[1];
    cover c = {height, width, 0, 0};
    if (down > across) c.width = (int)rint((double)source[1] * down);
    else c.height = (int)rint((double)source[0] * across);
    c.top = (int)rint((c.height - height) / 2.0);
    c.left = (int)rint((c.width - width) / 2.0);
    return c;
}

/* [3, 1, Y, X] in -1..1 to interleaved bytes. */
static void to_bytes(const kin_host_tensor *picture, uint8_t *out) {
    const float *data = picture->data;
    size_t area = (size_t)(picture->desc.dims[2] * picture->desc.dims[3]);
    for (size_t i = 0; i < area; i++)
        for (size_t c = 0; c < CHANNELS; c++)
            out[i * CHANNELS + c] = (uint8_t)lrintf((data[c * area + i] * 0.5f + 0.5f) * 255);
}

static void from_bytes(const uint8_t *bytes, const cover *c, int height, int width, float *out) {
    size_t area = (size_t)height * (size_t)width;
    for (int y = 0; y < height; y++)
        for (int x = 0; x < width; x++)
            for (size_t k = 0; k < CHANNELS; k++) {
                size_t at = ((size_t)(y + c->top) * (size_t)c->width + (size_t)(x + c->left));
                out[k * area + (size_t)y * (size_t)width + (size_t)x] =
                    (bytes[at * CHANNELS + k] / 255.0f - 0.5f) / 0.5f;
            }
}

static kin_status read_picture(kin_context *context, const char *path, int height, int width,
                               float *out) {
    kin_host_tensor picture;
    kin_status status = kin_video_read(context, path, NULL, &picture);
    if (status != KIN_OK) return status;
    const int64_t *size = picture.desc.dims + 2;
    cover c = cover_of(size, height, width);
    uint8_t *bytes = kin_alloc(context, (size_t)(size[0] * size[1]) * CHANNELS);
    uint8_t *scaled = kin_alloc(context, (size_t)c.height * (size_t)c.width * CHANNELS);
    status = bytes && scaled ? KIN_OK : KIN_OUT_OF_MEMORY;
    if (status == KIN_OK) {
        to_bytes(&picture, bytes);
        status = kin_picture_resize(context, bytes, (int)size[0], (int)size[1], c.height, c.width,
                                    scaled);
    }
    if (status == KIN_OK) from_bytes(scaled, &c, height, width, out);
    kin_free(context, scaled);
    kin_free(context, bytes);
    kin_host_tensor_free(context, &picture);
    return status;
}

/* ---- videos ---------------------------------------------------------------------------------- */

static kin_status read_video(kin_context *context, const kin_reference *reference,
                             const int64_t *wanted, int64_t count, int64_t height, int64_t width,
                             float *out) {
    int64_t *frames = kin_alloc(context, (size_t)count * sizeof *frames);
    if (!frames) return KIN_OUT_OF_MEMORY;
    for (int64_t i = 0; i < count; i++) frames[i] = (wanted ? wanted[i] : i) * reference->interval;
    kin_video_read_options options = {.count = count,
                                      .frames = frames,
                                      .height = (int)height,
                                      .width = (int)width,
                                      .resize = KIN_VIDEO_RESIZE_CROP};
    kin_host_tensor clip;
    kin_status status = kin_video_read(context, reference->path, &options, &clip);
    if (status == KIN_OK) {
        memcpy(out, clip.data, kin_desc_bytes(&clip.desc));
        kin_host_tensor_free(context, &clip);
    }
    kin_free(context, frames);
    return status;
}

kin_status kin_reference_read(kin_context *context, const kin_reference *reference,
                              const int64_t *wanted, int64_t count, int64_t height, int64_t width,
                              kin_host_tensor *out_clip) {
    if (!wanted) count = reference->frames;
    int64_t dims[5] = {1, CHANNELS, count, height, width};
    kin_status status = kin_host_tensor_create(context, KIN_F32, 5, dims, out_clip);
    if (status == KIN_OK && reference->picture)
        status = read_picture(context, reference->path, (int)height, (int)width, out_clip->data);
    else if (status == KIN_OK)
        status = read_video(context, reference, wanted, count, height, width, out_clip->data);
    if (status != KIN_OK) kin_host_tensor_free(context, out_clip);
    return status;
}
