/* Programs: put together from the texts in the library, compiled once for each set of options, and
 * kept on disk.
 *
 * A file of the cache holds the whole key (device, driver, options and source) and a checksum of
 * the compiled program, and is used only if both agree; whatever else it holds, the program is
 * compiled again and the file replaced. */
#include "backends/opencl/opencl.h"
#include "runtime/file.h"

#include <stdio.h>
#include <string.h>

enum { MAX_PARTS = 8, MAX_BINARY = 256 << 20 };

struct kin_opencl_program {
    kin_opencl_program *next;
    cl_program program;
    char key[]; /* parts, '\n', defines */
};

/* The key of a compiled program: everything that it follows from. */
typedef struct recipe {
    char *options;
    const char *texts[MAX_PARTS];
    size_t sizes[MAX_PARTS];
    cl_uint count;
    char *path; /* in the cache; NULL: no cache */
    char *key;
    size_t key_size;
} recipe;

static const char magic[16] = "kinora opencl 1";

/* ---- the recipe ---- */

static const kin_opencl_source *find_source(const char *name, size_t length) {
    for (size_t i = 0; i < kin_opencl_source_count; i++)
        if (strlen(kin_opencl_sources[i].name) == length &&
            memcmp(kin_opencl_sources[i].name, name, length) == 0)
            return &kin_opencl_sources[i];
    return NULL;
}

static kin_status add_part(kin_device *device, recipe *r, const char *name, size_t length) {
    const kin_opencl_source *source = find_source(name, length);
    if (source == NULL || r->count == MAX_PARTS)
        return kin_fail(device->context, KIN_UNSUPPORTED, "opencl: there is no program \"%.*s\"",
                        (int)length, name);
    r->texts[r->count] = source->text;
    r->sizes[r->count++] = source->size;
    return KIN_OK;
}

/* FNV-1a, 64 bits. */
static uint64_t hash_of(uint64_t hash, const void *data, size_t size) {
    const unsigned char *bytes = data;
    for (size_t i = 0; i < size; i++) hash = (hash ^ bytes[i]) * 1099511628211u;
    return hash;
}

enum { NAME_SEEDS = 2 };
static const uint64_t seeds[NAME_SEEDS] = {14695981039346656037u, 0x9E3779B97F4A7C15u};

/* identity '\n' options '\n' texts */
static kin_status make_key(kin_device *device, recipe *r) {
    const kin_opencl_device *state = kin_opencl_of(device);
    size_t identity = strlen(state->identity), options = strlen(r->options);
    r->key_size = identity + options + 2;
    for (cl_uint i = 0; i < r->count; i++) r->key_size += r->sizes[i];
    r->key = kin_alloc(device->context, r->key_size);
    if (r->key == NULL) return KIN_OUT_OF_MEMORY;
    char *at = r->key;
    memcpy(at, state->identity, identity);
    at += identity;
    *at++ = '\n';
    memcpy(at, r->options, options);
    at += options;
    *at++ = '\n';
    for (cl_uint i = 0; i < r->count; at += r->sizes[i++]) memcpy(at, r->texts[i], r->sizes[i]);
    r->path = kin_format(device->context, "%s/%016llx%016llx.clbin", state->cache,
                         (unsigned long long)hash_of(seeds[0], r->key, r->key_size),
                         (unsigned long long)hash_of(seeds[1], r->key, r->key_size));
    return r->path != NULL ? KIN_OK : KIN_OUT_OF_MEMORY;
}

static kin_status make_recipe(kin_device *device, const char *parts, const char *defines,
                              recipe *r) {
    const kin_opencl_device *state = kin_opencl_of(device);
    kin_status status = add_part(device, r, "common", 6);
    while (status == KIN_OK && *parts != '\0') {
        size_t length = strcspn(parts, " ");
        if (length > 0) status = add_part(device, r, parts, length);
        parts += length + (parts[length] == ' ');
    }
    if (status != KIN_OK) return status;
    r->options =
        kin_format(device->context, "-cl-std=CL1.2 -cl-single-precision-constant -DV=%d %s",
                   state->vector, defines);
    if (r->options == NULL) return KIN_OUT_OF_MEMORY;
    return state->cache != NULL ? make_key(device, r) : KIN_OK;
}

static void free_recipe(kin_device *device, recipe *r) {
    kin_free(device->context, r->options);
    kin_free(device->context, r->path);
    kin_free(device->context, r->key);
}

/* ---- the cache ---- */

static void put_u64(unsigned char *at, uint64_t value) {
    for (int i = 0; i < 8; i++) at[i] = (unsigned char)(value >> 8 * i);
}

static uint64_t get_u64(const unsigned char *at) {
    uint64_t value = 0;
    for (int i = 0; i < 8; i++) value |= (uint64_t)at[i] << 8 * i;
    return value;
}

/* magic, size of the key, size of the binary, checksum of the binary; then both. */
enum { HEADER = 16 + 3 * 8 };

static bool is_whole(const recipe *r, const unsigned char *file, size_t size) {
    if (size < HEADER || memcmp(file, magic, sizeof magic) != 0) return false;
    uint64_t key = get_u64(file + 16), binary = get_u64(file + 24), sum = get_u64(file + 32);
    return key == r->key_size && size > HEADER + r->key_size && binary == size - HEADER - key &&
           memcmp(file + HEADER, r->key, r->key_size) == 0 &&
           hash_of(seeds[0], file + HEADER + key, (size_t)binary) == sum;
}

/* The program of the cache's file, built; NULL if there is none that can be used. */
static cl_program load(kin_device *device, const recipe *r) {
    const kin_opencl_device *state = kin_opencl_of(device);
    char *data = NULL;
    size_t size = 0;
    if (!kin_file_exists(r->path) ||
        kin_file_read_all(device->context, r->path, MAX_BINARY, &data, &size) != KIN_OK)
        return NULL;
    const unsigned char *file = (const unsigned char *)data;
    cl_program program = NULL;
    if (is_whole(r, file, size)) {
        const unsigned char *binary = file + HEADER + r->key_size;
        size_t binary_size = size - HEADER - r->key_size;
        cl_int loaded = CL_SUCCESS, code = CL_SUCCESS;
        program = clCreateProgramWithBinary(state->context, 1, &state->id, &binary_size, &binary,
                                            &loaded, &code);
        if (code == CL_SUCCESS && loaded == CL_SUCCESS)
            code = clBuildProgram(program, 1, &state->id, r->options, NULL, NULL);
        if (program != NULL && (code != CL_SUCCESS || loaded != CL_SUCCESS)) {
            clReleaseProgram(program);
            program = NULL;
        }
    }
    kin_free(device->context, data);
    if (program == NULL)
        kin_log(device->context, KIN_LOG_INFO, "opencl: %s is out of date or broken: made anew",
                r->path);
    return program;
}

static kin_status write_file(kin_device *device, const recipe *r, unsigned char *file,
                             size_t binary) {
    memcpy(file, magic, sizeof magic);
    put_u64(file + 16, r->key_size);
    put_u64(file + 24, binary);
    put_u64(file + 32, hash_of(seeds[0], file + HEADER + r->key_size, binary));
    memcpy(file + HEADER, r->key, r->key_size);
    return kin_file_write_atomic(device->context, r->path, file, HEADER + r->key_size + binary);
}

/* A cache that cannot be written costs time and nothing else. */
static void keep(kin_device *device, const recipe *r, cl_program program) {
    const kin_opencl_device *state = kin_opencl_of(device);
    size_t binary = 0;
    cl_int code = clGetProgramInfo(program, CL_PROGRAM_BINARY_SIZES, sizeof binary, &binary, NULL);
    if (code != CL_SUCCESS || binary == 0 || binary > MAX_BINARY / 2) return;
    unsigned char *file = kin_alloc(device->context, HEADER + r->key_size + binary);
    if (file == NULL) return;
    unsigned char *place = file + HEADER + r->key_size;
    code = clGetProgramInfo(program, CL_PROGRAM_BINARIES, sizeof place, &place, NULL);
    kin_status status =
        code == CL_SUCCESS ? kin_make_folders(device->context, state->cache) : KIN_DEVICE;
    if (status == KIN_OK) status = write_file(device, r, file, binary);
    if (status != KIN_OK)
        kin_log(device->context, KIN_LOG_WARN, "opencl: %s was not written: %s", r->path,
                code == CL_SUCCESS ? kin_context_error(device->context)
                                   : kin_opencl_error_name(code));
    kin_free(device->context, file);
}

/* ---- compiling ---- */

/* The end of a build log is where it stops; the beginning is where the first error is. */
static kin_status build_error(kin_device *device, cl_program program, cl_int code) {
    char log[768] = "";
    size_t size = 0;
    const kin_opencl_device *state = kin_opencl_of(device);
    clGetProgramBuildInfo(program, state->id, CL_PROGRAM_BUILD_LOG, 0, NULL, &size);
    char *whole = size > 0 ? kin_calloc(device->context, size + 1, 1) : NULL;
    if (whole != NULL && clGetProgramBuildInfo(program, state->id, CL_PROGRAM_BUILD_LOG, size,
                                               whole, NULL) == CL_SUCCESS)
        snprintf(log, sizeof log, "%s", whole);
    kin_free(device->context, whole);
    return kin_fail(device->context, KIN_DEVICE, "opencl: a program was not compiled: %s: %s",
                    kin_opencl_error_name(code), log);
}

static kin_status compile(kin_device *device, const recipe *r, cl_program *out_program) {
    const kin_opencl_device *state = kin_opencl_of(device);
    cl_int code = CL_SUCCESS;
    cl_program program = clCreateProgramWithSource(
        state->context, r->count, (const char **)(uintptr_t)r->texts, r->sizes, &code);
    if (code != CL_SUCCESS) return kin_opencl_fail(device, code, "a program");
    code = clBuildProgram(program, 1, &state->id, r->options, NULL, NULL);
    if (code != CL_SUCCESS) {
        kin_status status = build_error(device, program, code);
        clReleaseProgram(program);
        return status;
    }
    *out_program = program;
    return KIN_OK;
}

static kin_status build(kin_device *device, const char *parts, const char *defines,
                        cl_program *out_program) {
    recipe r = {.count = 0};
    cl_program program = NULL;
    kin_status status = make_recipe(device, parts, defines, &r);
    if (status == KIN_OK && r.path != NULL) program = load(device, &r);
    if (status == KIN_OK && program == NULL) {
        status = compile(device, &r, &program);
        if (status == KIN_OK && r.path != NULL) keep(device, &r, program);
    }
    free_recipe(device, &r);
    *out_program = program;
    return status;
}

static kin_opencl_program *find_program(kin_opencl_device *state, const char *parts,
                                        const char *defines) {
    size_t length = strlen(parts);
    for (kin_opencl_program *p = state->programs; p != NULL; p = p->next)
        if (strncmp(p->key, parts, length) == 0 && p->key[length] == '\n' &&
            strcmp(p->key + length + 1, defines) == 0)
            return p;
    return NULL;
}

static kin_status add_program(kin_device *device, const char *parts, const char *defines,
                              kin_opencl_program **out_program) {
    kin_opencl_device *state = kin_opencl_of(device);
    size_t size = strlen(parts) + strlen(defines) + 2;
    kin_opencl_program *made = kin_alloc(device->context, sizeof *made + size);
    if (made == NULL) return KIN_OUT_OF_MEMORY;
    snprintf(made->key, size, "%s\n%s", parts, defines);
    kin_status status = build(device, parts, defines, &made->program);
    if (status != KIN_OK) {
        kin_free(device->context, made);
        return status;
    }
    made->next = state->programs;
    state->programs = made;
    *out_program = made;
    return KIN_OK;
}

kin_status kin_opencl_kernel(kin_device *device, const char *parts, const char *defines,
                             const char *name, cl_kernel *out_kernel) {
    kin_opencl_program *program = find_program(kin_opencl_of(device), parts, defines);
    cl_int code = CL_SUCCESS;
    *out_kernel = NULL;
    if (program == NULL) {
        kin_status status = add_program(device, parts, defines, &program);
        if (status != KIN_OK) return kin_fail_in(device->context, status, "%s %s", parts, defines);
    }
    *out_kernel = clCreateKernel(program->program, name, &code);
    return code == CL_SUCCESS ? KIN_OK : kin_opencl_fail(device, code, name);
}

void kin_opencl_programs_free(kin_device *device) {
    kin_opencl_device *state = kin_opencl_of(device);
    while (state->programs != NULL) {
        kin_opencl_program *next = state->programs->next;
        clReleaseProgram(state->programs->program);
        kin_free(device->context, state->programs);
        state->programs = next;
    }
}
