#define _POSIX_C_SOURCE 200809L
#include "runtime/image.h"
#include "runtime/file.h"

#ifdef KIN_HAVE_PNG

#include <png.h>
#include <setjmp.h>
#include <stdio.h>
#include <string.h>

/* All that survives a longjmp lives here, so that no local variable is clobbered. */
typedef struct png_job {
    kin_context *context;
    const char *path;
    kin_file_writer writer;
    kin_status status; /* of the writer and the allocator */
    png_structp png;
    png_infop info;
    png_text *texts;
    const uint8_t *pixels;
    int height, width;
    size_t text_count;
    char reason[160];
} png_job;

static void on_error(png_structp png, png_const_charp message) {
    png_job *job = png_get_error_ptr(png);
    snprintf(job->reason, sizeof job->reason, "%s", message);
    png_longjmp(png, 1);
}

static void on_warning(png_structp png, png_const_charp message) {
    png_job *job = png_get_error_ptr(png);
    kin_log(job->context, KIN_LOG_WARN, "%s: %s", job->path, message);
}

static png_voidp take_memory(png_structp png, png_alloc_size_t size) {
    png_job *job = png_get_mem_ptr(png);
    void *memory = kin_alloc(job->context, size);
    if (!memory) job->status = KIN_OUT_OF_MEMORY;
    return memory;
}

static void drop_memory(png_structp png, png_voidp memory) {
    png_job *job = png_get_mem_ptr(png);
    kin_free(job->context, memory);
}

static void put_bytes(png_structp png, png_bytep data, png_size_t size) {
    png_job *job = png_get_io_ptr(png);
    job->status = kin_file_writer_write(&job->writer, data, size);
    if (job->status != KIN_OK) png_error(png, "the file");
}

static void flush_bytes(png_structp png) {
    (void)png; /* the commit flushes */
}

static bool is_ascii(const char *text) {
    for (; *text; ++text)
        if ((unsigned char)*text >= 128) return false;
    return true;
}

static kin_status check_arguments(kin_context *context, const char *path, int height, int width,
                                  const kin_image_text *texts, size_t text_count) {
    if (height < 1 || width < 1 || height > 65535 || width > 65535)
        return kin_fail(context, KIN_INVALID, "%s: a PNG of %d x %d pixels (1 to 65535 each)", path,
                        height, width);
    for (size_t i = 0; i < text_count; ++i) {
        size_t length = strlen(texts[i].key);
        if (length < 1 || length > 79 || !is_ascii(texts[i].key))
            return kin_fail(context, KIN_INVALID,
                            "%s: the key '%s' of a PNG text must be 1 to 79 ASCII characters", path,
                            texts[i].key);
    }
    return KIN_OK;
}

static kin_status write_chunks(png_job *job) {
    if (setjmp(png_jmpbuf(job->png))) return KIN_IO;
    png_set_write_fn(job->png, job, put_bytes, flush_bytes);
    png_set_IHDR(job->png, job->info, (png_uint_32)job->width, (png_uint_32)job->height, 8,
                 PNG_COLOR_TYPE_RGB, PNG_INTERLACE_NONE, PNG_COMPRESSION_TYPE_DEFAULT,
                 PNG_FILTER_TYPE_DEFAULT);
    png_set_compression_level(job->png, 6);
    if (job->text_count > 0) png_set_text(job->png, job->info, job->texts, (int)job->text_count);
    png_write_info(job->png, job->info);
    for (int row = 0; row < job->height; ++row)
        png_write_row(job->png, job->pixels + (size_t)row * (size_t)job->width * 3);
    png_write_end(job->png, job->info);
    return KIN_OK;
}

/* The texts in libpng's form; it only reads them, but its type has no const. */
static kin_status make_texts(png_job *job, const kin_image_text *texts) {
    if (job->text_count == 0) return KIN_OK;
    job->texts = kin_calloc(job->context, job->text_count, sizeof *job->texts);
    if (!job->texts) return KIN_OUT_OF_MEMORY;
    for (size_t i = 0; i < job->text_count; ++i) {
        bool ascii = is_ascii(texts[i].value);
        job->texts[i].key = (png_charp)(uintptr_t)texts[i].key;
        job->texts[i].text = (png_charp)(uintptr_t)texts[i].value;
        job->texts[i].compression = ascii ? PNG_TEXT_COMPRESSION_NONE : PNG_ITXT_COMPRESSION_NONE;
    }
    return KIN_OK;
}

static kin_status write_file(png_job *job) {
    job->png = png_create_write_struct_2(PNG_LIBPNG_VER_STRING, job, on_error, on_warning, job,
                                         take_memory, drop_memory);
    job->info = job->png ? png_create_info_struct(job->png) : NULL;
    kin_status status = job->info ? write_chunks(job) : KIN_OUT_OF_MEMORY;
    png_destroy_write_struct(&job->png, &job->info);
    if (status == KIN_OK) return KIN_OK;
    if (job->status != KIN_OK) return job->status; /* its message stands */
    if (status == KIN_OUT_OF_MEMORY)
        return kin_fail(job->context, status, "%s: no memory for libpng", job->path);
    return kin_fail(job->context, status, "%s: cannot be written: %s", job->path, job->reason);
}

kin_status kin_image_write_png(kin_context *context, const char *path, const uint8_t *pixels,
                               int height, int width, const kin_image_text *texts,
                               size_t text_count) {
    kin_status status = check_arguments(context, path, height, width, texts, text_count);
    if (status != KIN_OK) return status;
    png_job job = {.context = context,
                   .path = path,
                   .pixels = pixels,
                   .height = height,
                   .width = width,
                   .text_count = text_count};
    status = make_texts(&job, texts);
    if (status == KIN_OK) status = kin_file_writer_open(context, path, &job.writer);
    if (status == KIN_OK) {
        status = write_file(&job);
        if (status == KIN_OK) status = kin_file_writer_commit(&job.writer);
        else kin_file_writer_abandon(&job.writer);
    }
    kin_free(context, job.texts);
    return status;
}

#else

kin_status kin_image_write_png(kin_context *context, const char *path, const uint8_t *pixels,
                               int height, int width, const kin_image_text *texts,
                               size_t text_count) {
    (void)pixels, (void)height, (void)width, (void)texts, (void)text_count;
    return kin_fail(context, KIN_UNSUPPORTED,
                    "%s: this build cannot write PNG; install libpng-dev and build again", path);
}

#endif
