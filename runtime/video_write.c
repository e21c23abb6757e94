#define _POSIX_C_SOURCE 200809L
#include "runtime/file.h"
#include "runtime/image.h"
#include "runtime/video.h"

#ifdef KIN_HAVE_FFMPEG

#include <errno.h>
#include <libavcodec/avcodec.h>
#include <libavformat/avformat.h>
#include <libavutil/opt.h>
#include <libswscale/swscale.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

enum { MAX_FRAMES = 1 << 24, MAX_SIDE = 16384 };

typedef struct video_sink {
    kin_context *context;
    const char *path;
    AVFormatContext *format;
    AVCodecContext *codec;
    AVStream *stream;
    AVPacket *packet;
    AVFrame *frame;
    struct SwsContext *scaler;
    uint8_t *rgb; /* one frame as interleaved bytes */
    int height, width;
    int64_t frames;
} video_sink;

static kin_status fail_with(const video_sink *sink, int error, const char *what) {
    char text[AV_ERROR_MAX_STRING_SIZE] = "";
    av_strerror(error, text, sizeof text);
    return kin_fail(sink->context, error == AVERROR(ENOMEM) ? KIN_OUT_OF_MEMORY : KIN_IO,
                    "%s: %s: %s", sink->path, what, text);
}

/* Frame t of the clip as bytes. */
static kin_status frame_bytes(kin_context *context, const char *path, const kin_host_tensor *clip,
                              int64_t t, uint8_t *rgb) {
    const int64_t *dims = clip->desc.dims, *strides = clip->desc.strides;
    const float *data = clip->data;
    for (int64_t y = 0; y < dims[2]; ++y)
        for (int64_t x = 0; x < dims[3]; ++x)
            for (int64_t c = 0; c < 3; ++c) {
                float value =
                    data[c * strides[0] + t * strides[1] + y * strides[2] + x * strides[3]];
                if (isnan(value))
                    return kin_fail(context, KIN_NUMERIC, "%s: frame %lld holds a NaN", path,
                                    (long long)t);
                value = value < -1.0f ? -1.0f : value > 1.0f ? 1.0f : value;
                *rgb++ = (uint8_t)lrintf(value * 127.5f + 127.5f);
            }
    return KIN_OK;
}

static const char *extension_of(const char *path) {
    const char *dot = strrchr(path, '.'), *slash = strrchr(path, '/');
    return dot && (!slash || dot > slash) ? dot : "";
}

static kin_status check_clip(kin_context *context, const char *path, const kin_host_tensor *clip) {
    char shape[96];
    const kin_desc *desc = &clip->desc;
    bool fits = desc->rank == 4 && desc->dtype == KIN_F32 && desc->dims[0] == 3;
    for (int i = 1; fits && i < 4; ++i)
        fits = desc->dims[i] >= 1 && desc->dims[i] <= (i == 1 ? MAX_FRAMES : MAX_SIDE);
    if (fits) return KIN_OK;
    return kin_fail(context, KIN_INVALID, "%s: a clip is f32 (3, T, Y, X), not %s %s", path,
                    kin_dtype_name(desc->dtype), kin_desc_shape_text(desc, shape, sizeof shape));
}

/* ---- PNG sequences ---- */

/* The parts of "before%05dafter"; false if there is not exactly one number in it. A path is never
 * given to printf. */
static bool split_pattern(const char *path, int *out_before, int *out_digits,
                          const char **out_after) {
    const char *sign = strchr(path, '%');
    if (!sign) return false;
    const char *at = sign + 1;
    int digits = 0;
    bool zero = *at == '0';
    for (; *at >= '0' && *at <= '9'; ++at) {
        digits = digits * 10 + (*at - '0');
        if (digits > 20) return false;
    }
    if (*at != 'd' || strchr(at, '%') || (digits > 0 && !zero)) return false;
    *out_before = (int)(sign - path);
    *out_digits = digits;
    *out_after = at + 1;
    return true;
}

static kin_status write_pngs(kin_context *context, const char *path, const kin_host_tensor *clip,
                             const char *comment) {
    const int64_t frames = clip->desc.dims[1];
    const int height = (int)clip->desc.dims[2], width = (int)clip->desc.dims[3];
    int before = 0, digits = 0;
    const char *after = NULL;
    bool pattern = split_pattern(path, &before, &digits, &after);
    uint8_t *rgb = kin_alloc(context, (size_t)height * (size_t)width * 3);
    kin_status status = rgb ? KIN_OK : KIN_OUT_OF_MEMORY;
    const kin_image_text text = {"parameters", comment};
    for (int64_t t = 0; status == KIN_OK && t < frames; ++t) {
        char *name = pattern ? kin_format(context, "%.*s%0*lld%s", before, path,
                                          digits ? digits : 1, (long long)t, after)
                             : kin_strdup(context, path);
        status = name ? frame_bytes(context, path, clip, t, rgb) : KIN_OUT_OF_MEMORY;
        if (status == KIN_OK)
            status = kin_image_write_png(context, name, rgb, height, width, &text, comment ? 1 : 0);
        kin_free(context, name);
    }
    kin_free(context, rgb);
    return status;
}

/* ---- MP4 and Matroska ---- */

static void sink_close(video_sink *sink) {
    sws_freeContext(sink->scaler);
    kin_free(sink->context, sink->rgb);
    av_frame_free(&sink->frame);
    av_packet_free(&sink->packet);
    avcodec_free_context(&sink->codec);
    if (sink->format && sink->format->pb) avio_closep(&sink->format->pb);
    avformat_free_context(sink->format);
    sink->format = NULL;
}

/* The AVX-512 code of libx264 0.164 gives other bytes when its buffers lie elsewhere in memory;
 * that of AVX2 always gives the same. */
static const char *x264_parameters(void) {
#if defined __x86_64__ && defined __GNUC__
    if (__builtin_cpu_supports("avx512f"))
        return "threads=1:lookahead-threads=1:sliced-threads=0:asm=avx2";
#endif
    return "threads=1:lookahead-threads=1:sliced-threads=0";
}

static kin_status open_encoder(video_sink *sink, const kin_video_write_options *options,
                               bool is_mp4) {
    const AVCodec *codec =
        is_mp4 ? avcodec_find_encoder_by_name("libx264") : avcodec_find_encoder(AV_CODEC_ID_FFV1);
    if (!codec)
        return kin_fail(sink->context, KIN_UNSUPPORTED, "%s: this FFmpeg has no %s encoder",
                        sink->path, is_mp4 ? "libx264" : "FFV1");
    sink->codec = avcodec_alloc_context3(codec);
    if (!sink->codec) return fail_with(sink, AVERROR(ENOMEM), "encoder");
    AVCodecContext *c = sink->codec;
    c->height = sink->height;
    c->width = sink->width;
    c->framerate = av_d2q(options->fps, 100000);
    c->time_base = av_inv_q(c->framerate);
    c->sample_aspect_ratio = (AVRational){1, 1};
    c->thread_count = 1;
    c->flags |= AV_CODEC_FLAG_BITEXACT;
    if (sink->format->oformat->flags & AVFMT_GLOBALHEADER) c->flags |= AV_CODEC_FLAG_GLOBAL_HEADER;
    c->pix_fmt = AV_PIX_FMT_BGR0;
    if (is_mp4) {
        /* BT.601 is what readers assume that do not look at the mark. */
        c->pix_fmt = AV_PIX_FMT_YUV420P;
        c->colorspace = AVCOL_SPC_SMPTE170M;
        c->color_range = AVCOL_RANGE_MPEG;
        char crf[16];
        snprintf(crf, sizeof crf, "%d", options->lossless ? 0 : options->crf);
        av_opt_set(c->priv_data, "crf", crf, 0);
        av_opt_set(c->priv_data, "preset", "medium", 0);
        av_opt_set(c->priv_data, "x264-params", x264_parameters(), 0);
    }
    int error = avcodec_open2(c, codec, NULL);
    return error < 0 ? fail_with(sink, error, "the encoder refuses this size or rate") : KIN_OK;
}

static kin_status open_file(video_sink *sink, const char *temporary,
                            const kin_video_write_options *options) {
    sink->stream = avformat_new_stream(sink->format, NULL);
    if (!sink->stream) return fail_with(sink, AVERROR(ENOMEM), "stream");
    sink->stream->time_base = sink->codec->time_base;
    sink->stream->avg_frame_rate = sink->codec->framerate;
    sink->stream->sample_aspect_ratio = sink->codec->sample_aspect_ratio;
    int error = avcodec_parameters_from_context(sink->stream->codecpar, sink->codec);
    if (error < 0) return fail_with(sink, error, "stream");
    sink->format->flags |= AVFMT_FLAG_BITEXACT;
    if (options->comment &&
        av_dict_set(&sink->format->metadata, "comment", options->comment, 0) < 0)
        return fail_with(sink, AVERROR(ENOMEM), "comment");
    char *url = kin_format(sink->context, "file:%s", temporary);
    if (!url) return KIN_OUT_OF_MEMORY;
    error = avio_open(&sink->format->pb, url, AVIO_FLAG_WRITE);
    kin_free(sink->context, url);
    if (error < 0) return fail_with(sink, error, "cannot be written");
    error = avformat_write_header(sink->format, NULL);
    return error < 0 ? fail_with(sink, error, "cannot be written") : KIN_OK;
}

static kin_status open_buffers(video_sink *sink) {
    AVCodecContext *c = sink->codec;
    sink->packet = av_packet_alloc();
    sink->frame = av_frame_alloc();
    sink->rgb = kin_alloc(sink->context, (size_t)c->height * (size_t)c->width * 3 + 64);
    if (!sink->packet || !sink->frame || !sink->rgb)
        return fail_with(sink, AVERROR(ENOMEM), "frame");
    sink->frame->format = c->pix_fmt;
    sink->frame->height = c->height;
    sink->frame->width = c->width;
    int error = av_frame_get_buffer(sink->frame, 0);
    if (error < 0) return fail_with(sink, error, "frame");
    sink->scaler =
        sws_getContext(c->width, c->height, AV_PIX_FMT_RGB24, c->width, c->height, c->pix_fmt,
                       SWS_BILINEAR | SWS_ACCURATE_RND | SWS_BITEXACT, NULL, NULL, NULL);
    if (!sink->scaler) return fail_with(sink, AVERROR(ENOMEM), "scaler");
    const int *matrix = sws_getCoefficients(SWS_CS_ITU601);
    sws_setColorspaceDetails(sink->scaler, matrix, 1, matrix, 0, 0, 1 << 16, 1 << 16);
    return KIN_OK;
}

/* Sends a frame (NULL: the end) and stores the packets that come out. */
static kin_status encode(video_sink *sink, const AVFrame *frame) {
    int error = avcodec_send_frame(sink->codec, frame);
    while (error >= 0) {
        error = avcodec_receive_packet(sink->codec, sink->packet);
        if (error == AVERROR(EAGAIN) || error == AVERROR_EOF) return KIN_OK;
        if (error < 0) break;
        sink->packet->duration = 1;
        av_packet_rescale_ts(sink->packet, sink->codec->time_base, sink->stream->time_base);
        sink->packet->stream_index = sink->stream->index;
        error = av_interleaved_write_frame(sink->format, sink->packet);
    }
    return fail_with(sink, error, "cannot be written");
}

static kin_status write_frame(video_sink *sink, const kin_host_tensor *clip, int64_t t) {
    kin_status status = frame_bytes(sink->context, sink->path, clip, t, sink->rgb);
    if (status != KIN_OK) return status;
    int error = av_frame_make_writable(sink->frame);
    if (error < 0) return fail_with(sink, error, "frame");
    const uint8_t *planes[4] = {sink->rgb, NULL, NULL, NULL};
    const int strides[4] = {sink->width * 3, 0, 0, 0};
    sws_scale(sink->scaler, planes, strides, 0, sink->height, sink->frame->data,
              sink->frame->linesize);
    sink->frame->pts = t;
    return encode(sink, sink->frame);
}

static kin_status write_file(video_sink *sink, const char *temporary, const kin_host_tensor *clip,
                             const kin_video_write_options *options, bool is_mp4) {
    int error =
        avformat_alloc_output_context2(&sink->format, NULL, is_mp4 ? "mp4" : "matroska", NULL);
    if (error < 0) return fail_with(sink, error, "container");
    kin_status status = open_encoder(sink, options, is_mp4);
    if (status == KIN_OK) status = open_file(sink, temporary, options);
    if (status == KIN_OK) status = open_buffers(sink);
    for (int64_t t = 0; status == KIN_OK && t < clip->desc.dims[1]; ++t)
        status = write_frame(sink, clip, t);
    if (status == KIN_OK) status = encode(sink, NULL);
    if (status != KIN_OK) return status;
    error = av_write_trailer(sink->format);
    if (error >= 0) error = sink->format->pb->error;
    int closed = avio_closep(&sink->format->pb);
    if (error >= 0) error = closed;
    return error < 0 ? fail_with(sink, error, "cannot be written") : KIN_OK;
}

static kin_status write_video(kin_context *context, const char *path, const kin_host_tensor *clip,
                              const kin_video_write_options *options, bool is_mp4) {
    video_sink sink = {.context = context,
                       .path = path,
                       .height = (int)clip->desc.dims[2],
                       .width = (int)clip->desc.dims[3]};
    if (av_log_get_level() != AV_LOG_QUIET) av_log_set_level(AV_LOG_QUIET);
    kin_file_writer writer;
    kin_status status = kin_file_writer_open(context, path, &writer);
    if (status != KIN_OK) return status;
    /* FFmpeg writes the temporary file under its name; the writer flushes and renames it. */
    status = write_file(&sink, writer.temporary, clip, options, is_mp4);
    sink_close(&sink);
    if (status == KIN_OK) status = kin_file_writer_commit(&writer);
    else kin_file_writer_abandon(&writer);
    return status;
}

static kin_video_write_options complete(const kin_video_write_options *options) {
    kin_video_write_options chosen = {0};
    if (options) chosen = *options;
    if (chosen.fps == 0) chosen.fps = 24;
    if (chosen.crf == 0) chosen.crf = 18;
    return chosen;
}

kin_status kin_video_check_write(kin_context *context, const char *path, int64_t frames,
                                 int64_t height, int64_t width,
                                 const kin_video_write_options *options) {
    const kin_video_write_options chosen = complete(options);
    const char *extension = extension_of(path), *after = NULL;
    int before = 0, digits = 0;
    if (frames < 1 || frames > MAX_FRAMES || height < 1 || height > MAX_SIDE || width < 1 ||
        width > MAX_SIDE)
        return kin_fail(context, KIN_INVALID, "%s: %lld frames of %lld x %lld pixels", path,
                        (long long)frames, (long long)height, (long long)width);
    if (!(chosen.fps >= 0.01 && chosen.fps <= 1000) || chosen.crf < 1 || chosen.crf > 51)
        return kin_fail(context, KIN_INVALID,
                        "%s: %g frames a second (0.01 to 1000), crf %d (1 to 51)", path, chosen.fps,
                        chosen.crf);
    if (strcmp(extension, ".png") == 0) {
        if (split_pattern(path, &before, &digits, &after) || (frames == 1 && !strchr(path, '%')))
            return KIN_OK;
        return kin_fail(context, KIN_INVALID,
                        "%s: for %lld frames put one %%05d in the name, for the frame's number",
                        path, (long long)frames);
    }
    if (strcmp(extension, ".mp4") != 0 && strcmp(extension, ".mkv") != 0)
        return kin_fail(context, KIN_INVALID,
                        "%s: a clip is written as .mp4, .mkv or .png, not '%s'", path, extension);
    if (extension[3] == '4' && (height % 2 || width % 2))
        return kin_fail(
            context, KIN_INVALID,
            "%s: H.264 needs an even height and width, not %lld x %lld; use .mkv or .png", path,
            (long long)height, (long long)width);
    return KIN_OK;
}

kin_status kin_video_write(kin_context *context, const char *path, const kin_host_tensor *clip,
                           const kin_video_write_options *options) {
    const kin_video_write_options chosen = complete(options);
    const int64_t *dims = clip->desc.dims;
    kin_status status = check_clip(context, path, clip);
    if (status == KIN_OK)
        status = kin_video_check_write(context, path, dims[1], dims[2], dims[3], options);
    if (status != KIN_OK) return status;
    const char *extension = extension_of(path);
    if (strcmp(extension, ".png") == 0) return write_pngs(context, path, clip, chosen.comment);
    return write_video(context, path, clip, &chosen, extension[3] == '4');
}

#else

typedef int kin_video_write_needs_ffmpeg;

#endif
