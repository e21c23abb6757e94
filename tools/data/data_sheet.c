/* kinora data sheet: a picture of the first clips of a data set. */
#include "tools/data/dataset.h"
#include "tools/report/contact_sheet.h"
#include "tools/tool.h"
#include "tools/verbs.h"

#include "runtime/csv.h"
#include "runtime/file.h"
#include "runtime/image.h"

#include <math.h>
#include <string.h>

static const char verb[] = "data sheet";

typedef struct request {
    const char *csv, *output, *beside;
    int64_t clips, frames, height, width;
} request;

/* Sizes that were not given are those of the first clip. */
static kin_status complete(kin_context *context, request *r) {
    kin_csv *csv = NULL;
    size_t column;
    kin_video_info info = {0};
    if (r->frames && r->height && r->width) return KIN_OK;
    kin_status status = kin_csv_open(context, r->csv, &csv);
    if (status == KIN_OK) status = kin_csv_find_column(csv, "path", &column);
    if (status == KIN_OK && kin_csv_row_count(csv) == 0)
        status = kin_fail(context, KIN_FORMAT, "%s has no clips", r->csv);
    if (status == KIN_OK) {
        const char *name = kin_csv_cell(csv, 0, column);
        char *folder = kin_path_folder(context, r->csv);
        char *path = folder && name[0] != '/' ? kin_path_join(context, folder, name)
                                              : kin_strdup(context, name);
        status = path ? kin_video_probe(context, path, &info) : KIN_OUT_OF_MEMORY;
        kin_free(context, path);
        kin_free(context, folder);
    }
    if (csv) kin_csv_close(csv);
    if (!r->frames) r->frames = info.frames;
    if (!r->height) r->height = info.height;
    if (!r->width) r->width = info.width;
    return status;
}

static kin_status add_clips(kin_context *context, kin_dataset *data, const request *r,
                            kin_contact_sheet *sheet) {
    const int64_t dims[4] = {3, r->frames, r->height, r->width};
    kin_host_tensor clip = {.data = NULL};
    int64_t count = kin_dataset_count(data) < r->clips ? kin_dataset_count(data) : r->clips;
    kin_status status = kin_host_tensor_create(context, KIN_F32, 4, dims, &clip);
    for (int64_t i = 0; status == KIN_OK && i < count; i++) {
        int64_t row; /* not i, if that one cannot be read */
        status = kin_dataset_clip(data, i, 0, clip.data, &row);
        if (status == KIN_OK)
            status = kin_contact_sheet_add(sheet, &clip, kin_dataset_text(data, row));
    }
    kin_host_tensor_free(context, &clip);
    return status;
}

/* Puts the picture (3, 1, Y, X) into `pixels` with its upper left corner at column `left`. */
static void paste(const kin_host_tensor *picture, uint8_t *pixels, int64_t width, int64_t left) {
    const int64_t *d = picture->desc.dims;
    const float *data = picture->data;
    for (int64_t c = 0; c < 3; c++)
        for (int64_t y = 0; y < d[2]; y++)
            for (int64_t x = 0; x < d[3]; x++)
                pixels[(y * width + left + x) * 3 + c] =
                    (uint8_t)lrintf((data[(c * d[2] + y) * d[3] + x] + 1) * 127.5f);
}

/* The picture that was just written, with another one to its left, in its place. */
static kin_status put_beside(kin_context *context, const request *r) {
    enum { GAP = 24 };
    kin_host_tensor left = {.data = NULL}, right = {.data = NULL};
    uint8_t *pixels = NULL;
    kin_status status = kin_video_read(context, r->beside, NULL, &left);
    if (status == KIN_OK) status = kin_video_read(context, r->output, NULL, &right);
    const int64_t *a = left.desc.dims, *b = right.desc.dims;
    int64_t height = a[2] > b[2] ? a[2] : b[2], width = a[3] + GAP + b[3];
    if (status == KIN_OK && (a[1] != 1 || height > 20000 || width > 20000))
        status = kin_fail(context, KIN_INVALID, "%s is no picture, or too large", r->beside);
    if (status == KIN_OK) {
        size_t size = (size_t)(height * width * 3);
        pixels = kin_alloc(context, size);
        if (pixels) memset(pixels, 255, size);
        else status = KIN_OUT_OF_MEMORY;
    }
    if (status == KIN_OK) {
        paste(&left, pixels, width, 0);
        paste(&right, pixels, width, a[3] + GAP);
        status = kin_image_write_png(context, r->output, pixels, (int)height, (int)width, NULL, 0);
    }
    kin_free(context, pixels);
    kin_host_tensor_free(context, &left);
    kin_host_tensor_free(context, &right);
    return status;
}

static kin_status make_sheet(kin_context *context, request *r) {
    kin_dataset *data = NULL;
    kin_contact_sheet *sheet = NULL;
    kin_status status = complete(context, r);
    if (status != KIN_OK) return status;
    kin_dataset_options options = {.csv = r->csv,
                                   .frames = r->frames,
                                   .interval = 1,
                                   .height = (int)r->height,
                                   .width = (int)r->width,
                                   .resize = KIN_VIDEO_CENTER};
    status = kin_dataset_open(context, &options, &data);
    if (status == KIN_OK) status = kin_contact_sheet_create(context, &sheet);
    if (status == KIN_OK) status = add_clips(context, data, r, sheet);
    if (status == KIN_OK) status = kin_contact_sheet_write(sheet, r->output);
    if (status == KIN_OK && r->beside) status = put_beside(context, r);
    kin_contact_sheet_free(sheet);
    kin_dataset_close(data);
    return status;
}

int kin_verb_data_sheet(int count, char **arguments) {
    kin_common common = {0};
    request r = {.clips = 24};
    int left = 0;
    const kin_flag flags[] = {
        {.name = "csv",
         .argument = "FILE",
         .text = &r.csv,
         .help = "the data set: path,text,... as kinora train takes it"},
        {.name = "output", .letter = 'o', .argument = "FILE", .text = &r.output, .help = "a PNG"},
        {.name = "beside",
         .argument = "FILE",
         .text = &r.beside,
         .help = "another picture (PNG), such as generated clips, to the left of the clips"},
        {.name = "clips", .argument = "N", .integer = &r.clips, .help = "rows; default 24"},
        {.name = "video-frames",
         .argument = "N",
         .integer = &r.frames,
         .help = "frames of a clip; this and the sizes: default those of the first clip"},
        {.name = "width", .letter = 'W', .argument = "N", .integer = &r.width, .help = "pixels"},
        {.name = "height", .letter = 'H', .argument = "N", .integer = &r.height, .help = "pixels"},
        {.name = "quiet", .letter = 'q', .on = &common.quiet, .help = "errors only"},
        {.name = "verbose", .letter = 'v', .on = &common.verbose, .help = "more of what happens"},
    };
    int code =
        kin_parse_flags(verb, flags, sizeof flags / sizeof *flags, count, arguments, 0, 0, &left);
    if (code >= 0) return code;
    if (!r.csv || !r.output) return kin_usage_error(verb, "--csv and --output must be given");
    if (r.clips < 1 || r.clips > 1000 || r.frames < 0 || r.frames > 1000 || r.height < 0 ||
        r.height > 1024 || r.width < 0 || r.width > 1024)
        return kin_usage_error(verb, "clips, frames, height or width is out of range");
    code = kin_common_open(&common, false);
    if (code >= 0) return code;
    kin_status status = make_sheet(common.context, &r);
    code = status == KIN_OK ? KIN_EXIT_OK : kin_report(common.context, verb, status);
    if (status == KIN_OK) printf("%s\n", r.output);
    kin_common_close(&common);
    return code;
}
