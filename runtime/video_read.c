#define _POSIX_C_SOURCE 200809L
#include "runtime/video_private.h"

#ifdef KIN_HAVE_FFMPEG

#include <errno.h>
#include <libavcodec/avcodec.h>
#include <libavformat/avformat.h>
#include <libavutil/imgutils.h>
#include <libswscale/swscale.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

enum { MAX_SIDE = 16384, MAX_PIXELS = 1 << 26 }; /* 8K video has half as many */

/* Formats that hold one file's own frames. Playlists and scripts (hls, concat, dash) are left out:
 * they would open other files. */
static const char format_list[] =
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,mpegvideo,flv,ogg,asf,gif,apng,ivf,h264,"
    "hevc,m4v,yuv4mpegpipe,image2,png_pipe,jpeg_pipe,webp_pipe,bmp_pipe,tiff_pipe";

typedef struct video_source {
    kin_context *context;
    const char *path;
    AVFormatContext *format;
    AVCodecContext *codec;
    AVPacket *packet;
    AVFrame *frame;
    struct SwsContext *scaler;
    uint8_t *rgb; /* one frame, interleaved, rgb_stride bytes a row; FFmpeg's memory */
    int rgb_height, rgb_width;
    ptrdiff_t rgb_stride;
    int stream;
    int64_t packets; /* of the video stream so far, with those marked to be discarded */
    int64_t shown;   /* the same without them */
    int64_t decoded; /* frames that came out of the decoder */
    bool ended;
    bool is_cut; /* the file is shorter than its own header says */
} video_source;

static kin_status fail_at(const video_source *source, int error, const char *what) {
    char text[AV_ERROR_MAX_STRING_SIZE] = "";
    if (error == AVERROR(ENOMEM))
        return kin_fail(source->context, KIN_OUT_OF_MEMORY, "%s: no memory to decode frame %lld",
                        source->path, (long long)source->decoded);
    av_strerror(error, text, sizeof text);
    return kin_fail(source->context, KIN_FORMAT, "%s: frame %lld: %s (%s)", source->path,
                    (long long)source->decoded, what, text);
}

static void source_close(video_source *source) {
    sws_freeContext(source->scaler);
    av_freep(&source->rgb);
    av_frame_free(&source->frame);
    av_packet_free(&source->packet);
    avcodec_free_context(&source->codec);
    avformat_close_input(&source->format);
}

static kin_status check_path(kin_context *context, const char *path) {
    struct stat info;
    if (stat(path, &info) != 0)
        return kin_fail(context, errno == ENOENT ? KIN_NOT_FOUND : KIN_IO, "%s: %s", path,
                        strerror(errno));
    if (!S_ISREG(info.st_mode)) return kin_fail(context, KIN_IO, "%s: not a regular file", path);
    if (info.st_size == 0) return kin_fail(context, KIN_FORMAT, "%s: the file is empty", path);
    return KIN_OK;
}

/* A number of EBML: the count of leading zero bits tells its bytes. `keep_mark` for ids. Returns
 * the bytes taken, 0 if it does not fit. *out_unknown: all value bits are ones. */
static size_t ebml_number(const uint8_t *at, size_t left, bool keep_mark, uint64_t *out_value,
                          bool *out_unknown) {
    size_t size = 1;
    while (size <= 8 && left > 0 && !(at[0] & 0x80u >> (size - 1))) ++size;
    if (left == 0 || size > 8 || size > left) return 0;
    uint64_t value = keep_mark ? at[0] : at[0] & (0x7Fu >> (size - 1));
    for (size_t i = 1; i < size; ++i) value = value << 8 | at[i];
    *out_value = value;
    *out_unknown = !keep_mark && value == (UINT64_C(1) << 7 * size) - 1;
    return size;
}

/* True for a Matroska file whose segment, or an AVI file whose list, goes beyond the end of the
 * file: FFmpeg takes that for the end of the video. */
static bool is_shorter_than_promised(const uint8_t *head, size_t size, uint64_t file_size) {
    if (size >= 12 && memcmp(head, "RIFF", 4) == 0 && memcmp(head + 8, "AVI ", 4) == 0) {
        uint64_t riff = (uint64_t)head[4] | (uint64_t)head[5] << 8 | (uint64_t)head[6] << 16 |
                        (uint64_t)head[7] << 24;
        return riff + 8 > file_size;
    }
    size_t at = 0;
    for (int element = 0; element < 2; ++element) {
        uint64_t id = 0, length = 0;
        bool is_unknown = false;
        size_t taken = ebml_number(head + at, size - at, true, &id, &is_unknown);
        if (taken == 0 || id != (element == 0 ? 0x1A45DFA3u : 0x18538067u)) return false;
        at += taken;
        taken = ebml_number(head + at, size - at, false, &length, &is_unknown);
        if (taken == 0 || is_unknown) return false;
        at += taken;
        if (element == 1) return length > file_size - at;
        if (length > size - at) return false;
        at += (size_t)length;
    }
    return false;
}

static void check_length(video_source *source) {
    uint8_t head[256];
    struct stat info;
    FILE *file = fopen(source->path, "rb");
    if (!file) return; /* FFmpeg will say why */
    size_t size = fread(head, 1, sizeof head, file);
    if (fstat(fileno(file), &info) == 0)
        source->is_cut = is_shorter_than_promised(head, size, (uint64_t)info.st_size);
    fclose(file);
}

/* FFmpeg tries decoders here; they are held to the same number of pixels as ours. */
static int find_streams(video_source *source) {
    const unsigned count = source->format->nb_streams;
    AVDictionary **limits = av_calloc(count ? count : 1, sizeof(AVDictionary *));
    if (!limits) return AVERROR(ENOMEM);
    for (unsigned i = 0; i < count; ++i) av_dict_set_int(&limits[i], "max_pixels", MAX_PIXELS, 0);
    int error = avformat_find_stream_info(source->format, limits);
    for (unsigned i = 0; i < count; ++i) av_dict_free(&limits[i]);
    av_free(limits);
    return error;
}

static kin_status open_format(video_source *source) {
    /* The prefix keeps colons and percent signs in names from being read as something else. */
    char *url = kin_format(source->context, "file:%s", source->path);
    if (!url) return KIN_OUT_OF_MEMORY;
    AVDictionary *options = NULL;
    av_dict_set(&options, "protocol_whitelist", "file", 0);
    av_dict_set(&options, "format_whitelist", format_list, 0);
    av_dict_set(&options, "pattern_type", "none", 0);
    int error = avformat_open_input(&source->format, url, NULL, &options);
    av_dict_free(&options);
    kin_free(source->context, url);
    if (error < 0) return fail_at(source, error, "this is no video or image that can be read");
    error = find_streams(source);
    if (error < 0) return fail_at(source, error, "the streams of the file cannot be read");
    error = av_find_best_stream(source->format, AVMEDIA_TYPE_VIDEO, -1, -1, NULL, 0);
    if (error < 0) return fail_at(source, error, "the file has no video stream");
    source->stream = error;
    for (unsigned i = 0; i < source->format->nb_streams; ++i)
        if ((int)i != source->stream) source->format->streams[i]->discard = AVDISCARD_ALL;
    const AVCodecParameters *parameters = source->format->streams[source->stream]->codecpar;
    if (parameters->width < 1 || parameters->height < 1 || parameters->width > MAX_SIDE ||
        parameters->height > MAX_SIDE || parameters->width > MAX_PIXELS / parameters->height)
        return kin_fail(source->context, KIN_FORMAT,
                        "%s: frames of %d x %d pixels (1 to %d each, %d together)", source->path,
                        parameters->height, parameters->width, MAX_SIDE, MAX_PIXELS);
    return KIN_OK;
}

static kin_status open_codec(video_source *source) {
    const AVCodecParameters *parameters = source->format->streams[source->stream]->codecpar;
    const AVCodec *codec = avcodec_find_decoder(parameters->codec_id);
    if (!codec)
        return kin_fail(source->context, KIN_UNSUPPORTED,
                        "%s: this FFmpeg cannot decode '%s'; convert the file to H.264",
                        source->path, avcodec_get_name(parameters->codec_id));
    source->codec = avcodec_alloc_context3(codec);
    source->packet = av_packet_alloc();
    source->frame = av_frame_alloc();
    if (!source->codec || !source->packet || !source->frame)
        return fail_at(source, AVERROR(ENOMEM), "");
    int error = avcodec_parameters_to_context(source->codec, parameters);
    if (error < 0) return fail_at(source, error, "bad codec parameters");
    source->codec->thread_count = 1;
    source->codec->flags |= AV_CODEC_FLAG_BITEXACT;
    /* A broken frame is an error, not something to be painted over. */
    source->codec->err_recognition = AV_EF_EXPLODE | AV_EF_CRCCHECK | AV_EF_BITSTREAM;
    source->codec->max_pixels = MAX_PIXELS;
    error = avcodec_open2(source->codec, codec, NULL);
    return error < 0 ? fail_at(source, error, "the decoder cannot start") : KIN_OK;
}

static kin_status source_open(kin_context *context, const char *path, bool decode,
                              video_source *source) {
    memset(source, 0, sizeof *source);
    source->context = context;
    source->path = path;
    if (av_log_get_level() != AV_LOG_QUIET) av_log_set_level(AV_LOG_QUIET);
    kin_status status = check_path(context, path);
    if (status == KIN_OK) check_length(source);
    if (status == KIN_OK) status = open_format(source);
    if (status == KIN_OK && decode) status = open_codec(source);
    if (status != KIN_OK) source_close(source);
    return status;
}

static bool is_image(const video_source *source) {
    const char *name = source->format->iformat->name;
    return strcmp(name, "image2") == 0 || strstr(name, "_pipe") != NULL;
}

/* True for JPEG data whose last scan has no end mark: the decoder paints the rest grey. */
static bool is_cut_jpeg(const uint8_t *data, int size) {
    bool open = false;
    for (int i = 0; i + 1 < size; ++i) {
        if (data[i] != 0xFF) continue;
        if (data[i + 1] == 0xDA) open = true;
        if (data[i + 1] == 0xD9) open = false;
    }
    return open;
}

/* The next packet of the video stream, or *out_end. */
static kin_status next_packet(video_source *source, AVPacket *packet, bool *out_end) {
    *out_end = false;
    for (;;) {
        av_packet_unref(packet);
        int error = av_read_frame(source->format, packet);
        if (error == AVERROR_EOF) break;
        if (error < 0) return fail_at(source, error, "the file is broken or cut here");
        if (packet->stream_index != source->stream) continue;
        ++source->packets;
        if (!(packet->flags & AV_PKT_FLAG_DISCARD)) ++source->shown;
        const AVCodecParameters *parameters = source->format->streams[source->stream]->codecpar;
        bool is_jpeg = is_image(source) && parameters->codec_id == AV_CODEC_ID_MJPEG;
        if ((packet->flags & AV_PKT_FLAG_CORRUPT) ||
            (is_jpeg && is_cut_jpeg(packet->data, packet->size)))
            return fail_at(source, AVERROR_INVALIDDATA, "the file is cut within this frame");
        return KIN_OK;
    }
    *out_end = true;
    int64_t promised = source->format->streams[source->stream]->nb_frames;
    bool io_failed = source->format->pb && source->format->pb->error < 0;
    if (io_failed && source->format->pb->error != AVERROR_EOF)
        return fail_at(source, source->format->pb->error, "the file cannot be read to its end");
    if (source->is_cut)
        return kin_fail(source->context, KIN_FORMAT,
                        "%s: cut after frame %lld; copy or make the file again", source->path,
                        (long long)source->packets - 1);
    if (!is_image(source) && promised > source->packets)
        return kin_fail(source->context, KIN_FORMAT,
                        "%s: cut after %lld of %lld frames; copy or make the file again",
                        source->path, (long long)source->packets, (long long)promised);
    return KIN_OK;
}

/* The next decoded frame in source->frame, or *out_end. */
static kin_status next_frame(video_source *source, bool *out_end) {
    *out_end = false;
    for (;;) {
        int error = avcodec_receive_frame(source->codec, source->frame);
        if (error == AVERROR_EOF) {
            *out_end = true;
            return KIN_OK;
        }
        if (error == 0) {
            if ((source->frame->flags & AV_FRAME_FLAG_CORRUPT) || source->frame->decode_error_flags)
                return fail_at(source, AVERROR_INVALIDDATA, "the frame is damaged");
            return KIN_OK;
        }
        /* After the end a decoder must not ask for more. */
        if (error != AVERROR(EAGAIN) || source->ended)
            return fail_at(source, error, "cannot be decoded");
        kin_status status = next_packet(source, source->packet, &source->ended);
        if (status != KIN_OK) return status;
        error = avcodec_send_packet(source->codec, source->ended ? NULL : source->packet);
        if (error < 0) return fail_at(source, error, "cannot be decoded");
    }
}

static kin_status make_scaler(video_source *source) {
    const AVFrame *frame = source->frame;
    if (frame->width < 1 || frame->height < 1 || frame->width > MAX_SIDE ||
        frame->height > MAX_SIDE || frame->width > MAX_PIXELS / frame->height)
        return fail_at(source, AVERROR_INVALIDDATA, "bad frame size");
    if (!source->rgb || source->rgb_height != frame->height || source->rgb_width != frame->width) {
        av_freep(&source->rgb);
        source->rgb_height = frame->height;
        source->rgb_width = frame->width;
        /* The scaler writes whole vectors: rows are padded to 64 bytes and one row is spare. */
        source->rgb_stride = ((ptrdiff_t)frame->width * 3 + 63) / 64 * 64 + 64;
        source->rgb = av_mallocz((size_t)source->rgb_stride * (size_t)(frame->height + 1));
        if (!source->rgb) return fail_at(source, AVERROR(ENOMEM), "");
    }
    source->scaler = sws_getCachedContext(
        source->scaler, frame->width, frame->height, frame->format, frame->width, frame->height,
        AV_PIX_FMT_RGB24, SWS_BILINEAR | SWS_ACCURATE_RND | SWS_FULL_CHR_H_INT | SWS_BITEXACT, NULL,
        NULL, NULL);
    if (!source->scaler) return fail_at(source, AVERROR_INVALIDDATA, "unknown pixel format");
    int space = frame->colorspace;
    bool known = space == AVCOL_SPC_BT709 || space == AVCOL_SPC_FCC || space == AVCOL_SPC_BT470BG ||
                 space == AVCOL_SPC_SMPTE170M || space == AVCOL_SPC_SMPTE240M ||
                 space == AVCOL_SPC_BT2020_NCL;
    const int *matrix = sws_getCoefficients(known ? space : SWS_CS_ITU601);
    bool full = frame->color_range == AVCOL_RANGE_JPEG || frame->format == AV_PIX_FMT_YUVJ420P ||
                frame->format == AV_PIX_FMT_YUVJ422P || frame->format == AV_PIX_FMT_YUVJ444P;
    /* For RGB and grey sources this call does nothing that is needed, and may say so. */
    sws_setColorspaceDetails(source->scaler, matrix, full, matrix, 1, 0, 1 << 16, 1 << 16);
    return KIN_OK;
}

/* The frame as RGB bytes in source->rgb. */
static kin_status to_rgb(video_source *source) {
    kin_status status = make_scaler(source);
    if (status != KIN_OK) return status;
    uint8_t *planes[4] = {source->rgb, NULL, NULL, NULL};
    int strides[4] = {(int)source->rgb_stride, 0, 0, 0};
    int rows = sws_scale(source->scaler, (const uint8_t *const *)source->frame->data,
                         source->frame->linesize, 0, source->frame->height, planes, strides);
    return rows == source->frame->height
               ? KIN_OK
               : fail_at(source, AVERROR_INVALIDDATA, "the pixels cannot be converted");
}

kin_status kin_video_probe(kin_context *context, const char *path, kin_video_info *out_info) {
    video_source source;
    memset(out_info, 0, sizeof *out_info);
    kin_status status = source_open(context, path, false, &source);
    if (status != KIN_OK) return status;
    AVStream *stream = source.format->streams[source.stream];
    AVPacket *packet = av_packet_alloc();
    bool ended = false;
    status = packet ? KIN_OK : fail_at(&source, AVERROR(ENOMEM), "");
    while (status == KIN_OK && !ended) {
        status = next_packet(&source, packet, &ended);
        source.decoded = source.shown;
    }
    if (status == KIN_OK && source.shown == 0)
        status = kin_fail(context, KIN_FORMAT, "%s: the video has no frames", path);
    if (status == KIN_OK) {
        AVRational rate = stream->avg_frame_rate;
        if (rate.num <= 0 || rate.den <= 0) rate = av_guess_frame_rate(source.format, stream, NULL);
        bool image = is_image(&source);
        out_info->frames = source.shown;
        out_info->height = stream->codecpar->height;
        out_info->width = stream->codecpar->width;
        if (!image && rate.num > 0 && rate.den > 0) out_info->fps = av_q2d(rate);
        if (out_info->fps > 0) out_info->duration = (double)source.shown / out_info->fps;
    }
    av_packet_free(&packet);
    source_close(&source);
    return status;
}

/* ---- clips ---- */

/* Frames in file order, each (3, Y, X); grows as they come. */
typedef struct frame_list {
    float *data;
    int64_t count, room;
    int height, width;
} frame_list;

static kin_status add_frame(video_source *source, const kin_video_read_options *options,
                            frame_list *list) {
    kin_status status = to_rgb(source);
    if (status != KIN_OK) return status;
    kin_video_window window = kin_video_window_make(
        source->rgb_height, source->rgb_width, options->height, options->width, options->resize);
    if (list->count == 0) {
        list->height = window.height;
        list->width = window.width;
    } else if (list->height != window.height || list->width != window.width) {
        return kin_fail(source->context, KIN_FORMAT,
                        "%s: frame %lld: the size changes from %d x %d to %d x %d; ask for a size",
                        source->path, (long long)source->decoded, list->height, list->width,
                        window.height, window.width);
    }
    size_t frame_size = 3 * (size_t)list->height * (size_t)list->width;
    if (list->count == list->room) {
        int64_t room = list->room ? list->room * 2 : 16;
        if (list->room == 0 && options->count > 0 && options->count < 16) room = options->count;
        float *data = NULL;
        if ((uint64_t)room < SIZE_MAX / sizeof(float) / frame_size)
            data =
                kin_realloc(source->context, list->data, (size_t)room * frame_size * sizeof(float));
        if (!data) return KIN_OUT_OF_MEMORY;
        list->data = data;
        list->room = room;
    }
    kin_video_window_apply(&window, source->rgb, source->rgb_stride,
                           list->data + (size_t)list->count * frame_size);
    ++list->count;
    return KIN_OK;
}

/* The file's frame number of frame `index` of the clip. */
static int64_t wanted(const kin_video_read_options *options, int64_t index) {
    return options->frames ? options->frames[index] : options->start + index * options->interval;
}

static kin_status too_short(video_source *source, const kin_video_read_options *options,
                            const frame_list *list) {
    return kin_fail(source->context, KIN_FORMAT,
                    "%s: has %lld frames, but frame %lld was asked for; take fewer frames or a "
                    "smaller interval",
                    source->path, (long long)source->decoded,
                    (long long)wanted(options, list->count));
}

static kin_status collect(video_source *source, const kin_video_read_options *options,
                          frame_list *list) {
    bool ended = false;
    while (options->count == 0 || list->count < options->count) {
        kin_status status = next_frame(source, &ended);
        if (status != KIN_OK) return status;
        if (ended) break;
        while ((options->count == 0 || list->count < options->count) &&
               wanted(options, list->count) == source->decoded) {
            status = add_frame(source, options, list);
            if (status != KIN_OK) return status;
        }
        ++source->decoded;
        av_frame_unref(source->frame);
        /* An image decoder may offer its frame again and again; there is one. */
        if (is_image(source)) ended = true;
        if (ended) break;
    }
    if (list->count == 0 || list->count < options->count) return too_short(source, options, list);
    return KIN_OK;
}

static kin_status to_tensor(kin_context *context, const frame_list *list,
                            kin_host_tensor *out_clip) {
    const int64_t dims[4] = {3, list->count, list->height, list->width};
    kin_status status = kin_host_tensor_create(context, KIN_F32, 4, dims, out_clip);
    if (status != KIN_OK) return status;
    const size_t plane = (size_t)list->height * (size_t)list->width;
    float *target = out_clip->data;
    for (int64_t c = 0; c < 3; ++c)
        for (int64_t t = 0; t < list->count; ++t)
            memcpy(target + (size_t)(c * list->count + t) * plane,
                   list->data + (size_t)(t * 3 + c) * plane, plane * sizeof(float));
    return KIN_OK;
}

static kin_status check_options(kin_context *context, const char *path,
                                kin_video_read_options *options) {
    if (options->interval == 0) options->interval = 1;
    const int64_t limit = INT64_C(1) << 31;
    bool sizes = (options->height == 0) == (options->width == 0) && options->height >= 0 &&
                 options->width >= 0 && options->height <= MAX_SIDE && options->width <= MAX_SIDE;
    if (options->start < 0 || options->count < 0 || options->interval < 1 ||
        options->start > limit || options->count > limit || options->interval > limit || !sizes ||
        (options->frames && options->count == 0))
        return kin_fail(context, KIN_INVALID,
                        "%s: cannot read %lld frames from %lld by %lld at %d x %d", path,
                        (long long)options->count, (long long)options->start,
                        (long long)options->interval, options->height, options->width);
    for (int64_t i = 0; options->frames && i < options->count; ++i)
        if (options->frames[i] < (i ? options->frames[i - 1] : 0))
            return kin_fail(context, KIN_INVALID, "%s: frame numbers must not descend", path);
    return KIN_OK;
}

kin_status kin_video_read(kin_context *context, const char *path,
                          const kin_video_read_options *options, kin_host_tensor *out_clip) {
    kin_video_read_options chosen = {0};
    if (options) chosen = *options;
    memset(out_clip, 0, sizeof *out_clip);
    kin_status status = check_options(context, path, &chosen);
    if (status != KIN_OK) return status;
    video_source source;
    status = source_open(context, path, true, &source);
    if (status != KIN_OK) return status;
    frame_list list = {0};
    status = collect(&source, &chosen, &list);
    if (status == KIN_OK) status = to_tensor(context, &list, out_clip);
    kin_free(context, list.data);
    source_close(&source);
    return status;
}

static const char *find_comment(const AVDictionary *metadata) {
    static const char *const keys[] = {"comment", "parameters"};
    for (int i = 0; i < 2; ++i) {
        const AVDictionaryEntry *entry = av_dict_get(metadata, keys[i], NULL, 0);
        if (entry) return entry->value;
    }
    return NULL;
}

kin_status kin_video_comment(kin_context *context, const char *path, char **out_comment) {
    video_source source;
    *out_comment = NULL;
    kin_status status = source_open(context, path, true, &source);
    if (status != KIN_OK) return status;
    const char *comment = find_comment(source.format->metadata);
    if (!comment) comment = find_comment(source.format->streams[source.stream]->metadata);
    bool ended = false;
    if (!comment && is_image(&source)) { /* the texts of an image come with its frame */
        status = next_frame(&source, &ended);
        if (status == KIN_OK && !ended) comment = find_comment(source.frame->metadata);
    }
    if (status == KIN_OK && !comment)
        status = kin_fail(context, KIN_NOT_FOUND, "%s: the file has no comment", path);
    if (status == KIN_OK) {
        *out_comment = kin_strdup(context, comment);
        if (!*out_comment) status = KIN_OUT_OF_MEMORY;
    }
    source_close(&source);
    return status;
}

#else

typedef int kin_video_read_needs_ffmpeg;

#endif
