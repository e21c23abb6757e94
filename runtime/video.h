/* Video and image files in and out, through FFmpeg's libraries.
 *
 * Tensors of clips are (3, T, Y, X) f32: red, green, blue; -1 is byte 0 and 1 is byte 255. Reading
 * is (byte / 255 - 0.5) / 0.5, writing is round(clamp(x, -1, 1) * 127.5 + 127.5). Decoders run in
 * one thread and from the first frame on, so frame numbers are exact and results repeatable.
 * Rotation marks are not applied. In a build without FFmpeg every function returns KIN_UNSUPPORTED.
 * FFmpeg has one message level per process; these functions set it to "quiet". */
#ifndef KIN_RUNTIME_VIDEO_H
#define KIN_RUNTIME_VIDEO_H

#include "runtime/context.h"
#include "runtime/tensor.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct kin_video_info {
    int64_t frames; /* packets of the video stream; 1 for an image */
    int height, width;
    double fps;      /* 0 where the file does not say */
    double duration; /* seconds: frames / fps; 0 for an image */
} kin_video_info;

/* Reads a file's properties without decoding it all. KIN_NOT_FOUND, KIN_IO, KIN_FORMAT. */
KIN_API kin_status kin_video_probe(kin_context *context, const char *path,
                                   kin_video_info *out_info);

typedef enum kin_video_resize {
    KIN_VIDEO_CENTER,     /* the short side is scaled to min(height, width); centre crop */
    KIN_VIDEO_RESIZE_CROP /* scaled by the smallest factor that covers (height, width), sides
                             rounded to whole pixels and each scaled to fit; centre crop, half
                             pixels cut off: Open-Sora 1.1's */
} kin_video_resize;

typedef struct kin_video_read_options {
    int64_t start;         /* first frame, from 0 */
    int64_t count;         /* frames wanted; 0: all from start to the end */
    int64_t interval;      /* every interval-th frame; 0 is 1 */
    const int64_t *frames; /* NULL, or `count` frame numbers, not descending, in place of start and
                              interval; a number may repeat */
    int height, width;     /* of the result; both 0: as in the file */
    kin_video_resize resize;
} kin_video_read_options;

/* Decodes frames into a new tensor (3, T, Y, X) that the caller frees with kin_host_tensor_free.
 * Scaling is bilinear without antialiasing, pixel centres at half positions (align_corners false in
 * PyTorch). options may be NULL: all frames as they are. A truncated or malformed file, or one with
 * too few frames, gives KIN_FORMAT with the file and the frame number. */
KIN_API kin_status kin_video_read(kin_context *context, const char *path,
                                  const kin_video_read_options *options, kin_host_tensor *out_clip);

typedef struct kin_video_write_options {
    double fps;          /* 0 is 24 */
    int crf;             /* of H.264: 1 (best) to 51; 0 is 18 */
    bool lossless;       /* H.264 codes its YUV pixels without loss (colours are still halved) */
    const char *comment; /* kept as the file's comment; NULL: none */
} kin_video_write_options;

/* Writes a dense or strided (3, T, Y, X) f32 tensor. The extension decides:
 *   .mp4  H.264, yuv420p, BT.601: height and width must be even;
 *   .mkv  FFV1, RGB, lossless;
 *   .png  one file per frame: "%d" or "%05d" in the path is the frame number from 0, and is needed
 *         if there is more than one frame (needs libpng; the comment is the text "parameters").
 * The same input gives the same bytes. A file appears whole or not at all. KIN_INVALID, KIN_IO,
 * KIN_NUMERIC for a NaN. options may be NULL. */
KIN_API kin_status kin_video_write(kin_context *context, const char *path,
                                   const kin_host_tensor *clip,
                                   const kin_video_write_options *options);

/* What kin_video_write would say of a clip of this size, before there is one: KIN_INVALID for an
 * extension, a size, a name or an option that it refuses. It does not look at the folder. */
KIN_API kin_status kin_video_check_write(kin_context *context, const char *path, int64_t frames,
                                         int64_t height, int64_t width,
                                         const kin_video_write_options *options);

/* The comment of a video, or the text "parameters" or "comment" of a PNG, in fresh memory (free
 * with kin_free). KIN_NOT_FOUND if there is none. */
KIN_API kin_status kin_video_comment(kin_context *context, const char *path, char **out_comment);

#ifdef __cplusplus
}
#endif
#endif
