#include "tools/generate/resolution.h"

#include "tools/train/buckets.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_NAMES = 32 };

/* "9:16" is 0.5625, "0.56" is itself; 0 for what is neither. */
static double parse_ratio(const char *text) {
    char *end;
    double ratio = strtod(text, &end);
    if (end == text) return 0;
    if (*end == ':') {
        const char *second = end + 1;
        double width = strtod(second, &end);
        if (end == second || !(width > 0)) return 0;
        ratio /= width;
    }
    return *end == 0 && ratio > 0.01 && ratio < 100 ? ratio : 0;
}

static int64_t rounded(int side, int64_t multiple) {
    int64_t value = llrint((double)side / (double)multiple) * multiple;
    return value < multiple ? multiple : value;
}

kin_status kin_resolution_size(kin_context *context, const char *resolution, const char *ratio,
                               int64_t multiple, int64_t *out_height, int64_t *out_width) {
    const kin_bucket_resolution *found = NULL;
    const char *names[MAX_NAMES];
    int count = kin_bucket_resolution_count < MAX_NAMES ? kin_bucket_resolution_count : MAX_NAMES;
    for (int i = 0; i < count; i++) {
        names[i] = kin_bucket_resolutions[i].name;
        if (strcmp(names[i], resolution) == 0) found = &kin_bucket_resolutions[i];
    }
    if (!found) {
        const char *nearest = kin_nearest_name(resolution, names, (size_t)count);
        return kin_fail(context, KIN_INVALID,
                        "resolution \"%s\" is not known%s%s%s; there are 144p, 240p, 360p, 480p, "
                        "720p, 1080p, 4k, 256, 512 and 1024",
                        resolution, nearest ? "; did you mean \"" : "", nearest ? nearest : "",
                        nearest ? "\"" : "");
    }
    size_t length = strlen(resolution);
    bool square = resolution[length - 1] != 'p' && resolution[length - 1] != 'k';
    double want = ratio ? parse_ratio(ratio) : square ? 1 : 9 / 16.0;
    if (!(want > 0))
        return kin_fail(
            context, KIN_INVALID,
            "aspect ratio \"%s\": write HEIGHT:WIDTH, such as 9:16 for a wide picture, or "
            "a number",
            ratio);
    const kin_bucket_size *best = &found->sizes[0];
    for (size_t i = 1; i < found->size_count; i++)
        if (fabs(found->sizes[i].ratio - want) < fabs(best->ratio - want)) best = &found->sizes[i];
    *out_height = rounded(best->height, multiple);
    *out_width = rounded(best->width, multiple);
    return KIN_OK;
}
