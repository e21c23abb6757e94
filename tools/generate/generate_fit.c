/* Clips of a size that the model does not know: made in the nearest one, then scaled and cropped.
 */
#include "tools/generate/generate.h"

/* Where a place along a new axis lies between two of the old one. */
typedef struct between {
    int64_t first, second;
    float weight; /* of the second */
} between;

static between between_of(int64_t index, int64_t old, int64_t all) {
    double place = ((double)index + 0.5) * (double)old / (double)all - 0.5;
    if (place < 0) place = 0;
    int64_t first = (int64_t)place < old - 1 ? (int64_t)place : old - 1;
    return (between){first, first + 1 < old ? first + 1 : first, (float)(place - (double)first)};
}

/* One plane of height x width into `out`: the window of out_height x out_width at (top, left) of
 * what it is at scaled[0] x scaled[1]. */
static void fit_plane(const float *plane, int64_t height, int64_t width, const int64_t scaled[2],
                      int64_t out_height, int64_t out_width, float *out) {
    int64_t top = (scaled[0] - out_height) / 2, left = (scaled[1] - out_width) / 2;
    for (int64_t y = 0; y < out_height; y++) {
        between row = between_of(y + top, height, scaled[0]);
        const float *up = plane + row.first * width, *down = plane + row.second * width;
        for (int64_t x = 0; x < out_width; x++) {
            between column = between_of(x + left, width, scaled[1]);
            float a = up[column.first] + (up[column.second] - up[column.first]) * column.weight;
            float b =
                down[column.first] + (down[column.second] - down[column.first]) * column.weight;
            *out++ = a + (b - a) * row.weight;
        }
    }
}

kin_status kin_generate_fit(kin_context *context, const kin_host_tensor *video, int64_t height,
                            int64_t width, kin_host_tensor *out_video) {
    const int64_t *d = video->desc.dims;
    int64_t dims[4] = {d[0], d[1], height, width};
    double down = (double)height / (double)d[2], across = (double)width / (double)d[3];
    double ratio = down > across ? down : across;
    int64_t scaled[2] = {(int64_t)((double)d[2] * ratio), (int64_t)((double)d[3] * ratio)};
    for (int i = 0; i < 2; i++)
        if (scaled[i] < dims[2 + i]) scaled[i] = dims[2 + i];
    kin_status status = kin_host_tensor_create(context, KIN_F32, 4, dims, out_video);
    if (status != KIN_OK) return status;
    for (int64_t i = 0; i < d[0] * d[1]; i++)
        fit_plane((const float *)video->data + i * d[2] * d[3], d[2], d[3], scaled, height, width,
                  (float *)out_video->data + i * height * width);
    return KIN_OK;
}
