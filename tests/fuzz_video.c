/* Fuzz target of the video reader: MP4, Matroska and PNG files of a few small frames. */
#define _POSIX_C_SOURCE 200809L
#include <stdio.h>
#include <unistd.h>

#include "runtime/file.h"
#include "runtime/video.h"
#include "tests/fuzz_patch.h"

enum { SEEDS = 3 };

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void make_seed(kin_context *context, const char *ending, fuzz_seed *seed) {
    static const kin_video_write_options options = {.fps = 8, .comment = "seed"};
    const int frames = ending[1] == 'p' ? 1 : 3;
    const int64_t dims[4] = {3, frames, 16, 16};
    char path[64], *bytes = NULL;
    kin_host_tensor clip;
    snprintf(path, sizeof path, "/tmp/kinora-fuzz-%ld%s", (long)getpid(), ending);
    if (kin_host_tensor_create(context, KIN_F32, 4, dims, &clip) != KIN_OK) abort();
    for (int i = 0; i < 3 * frames * 256; ++i)
        ((float *)clip.data)[i] = (float)(i * 7 % 255) / 128 - 1;
    if (kin_video_write(context, path, &clip, &options) == KIN_OK) {
        if (kin_file_read_all(context, path, 1 << 24, &bytes, &seed->size) != KIN_OK) abort();
        seed->data = (uint8_t *)bytes;
        unlink(path);
    }
    kin_host_tensor_free(context, &clip);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static const char *const endings[SEEDS] = {".mp4", ".mkv", ".png"};
    static fuzz_seed seeds[SEEDS];
    static kin_context *context;
    if (!context) {
        if (kin_context_create(NULL, &context) != KIN_OK) abort();
        for (int i = 0; i < SEEDS; ++i) make_seed(context, endings[i], &seeds[i]);
    }
    char path[64], *comment = NULL;
    size_t length = 0;
    uint8_t *input = fuzz_make(data, size, seeds, SEEDS, &length);
    snprintf(path, sizeof path, "/tmp/kinora-fuzz-%ld", (long)getpid());
    FILE *file = fopen(path, "wb");
    if (!file || fwrite(input, 1, length, file) != length || fclose(file) != 0) abort();
    kin_video_info info;
    kin_host_tensor clip;
    const kin_video_read_options options = {.count = 2, .height = 8, .width = 8};
    kin_video_probe(context, path, &info);
    if (kin_video_read(context, path, &options, &clip) == KIN_OK)
        kin_host_tensor_free(context, &clip);
    if (kin_video_comment(context, path, &comment) == KIN_OK) kin_free(context, comment);
    unlink(path);
    free(input);
    return 0;
}
