/* The build without FFmpeg; the one with it is in video_read.c and video_write.c. */
#include "runtime/video.h"

#ifndef KIN_HAVE_FFMPEG

static kin_status missing(kin_context *context, const char *path) {
    return kin_fail(context, KIN_UNSUPPORTED,
                    "%s: this build has no video; install libavformat-dev, libavcodec-dev, "
                    "libswscale-dev and libavutil-dev and build again",
                    path);
}

kin_status kin_video_probe(kin_context *context, const char *path, kin_video_info *out_info) {
    (void)out_info;
    return missing(context, path);
}

kin_status kin_video_read(kin_context *context, const char *path,
                          const kin_video_read_options *options, kin_host_tensor *out_clip) {
    (void)options, (void)out_clip;
    return missing(context, path);
}

kin_status kin_video_write(kin_context *context, const char *path, const kin_host_tensor *clip,
                           const kin_video_write_options *options) {
    (void)clip, (void)options;
    return missing(context, path);
}

kin_status kin_video_check_write(kin_context *context, const char *path, int64_t frames,
                                 int64_t height, int64_t width,
                                 const kin_video_write_options *options) {
    (void)frames, (void)height, (void)width, (void)options;
    return missing(context, path);
}

kin_status kin_video_comment(kin_context *context, const char *path, char **out_comment) {
    *out_comment = NULL;
    return missing(context, path);
}

#else

/* A translation unit holds at least one declaration. */
typedef int kin_video_is_elsewhere;

#endif
