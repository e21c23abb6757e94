/* kinora devices, kinora env: what this build can run on, and what a bug report should say. */
#define _POSIX_C_SOURCE 200809L
#include "tools/build_info.h"
#include "tools/tool.h"
#include "tools/verbs.h"

#include <jansson.h>
#include <stdlib.h>
#include <string.h>
#include <sys/utsname.h>
#include <zlib.h>
#ifdef KIN_HAVE_FFMPEG
#include <libavutil/avutil.h>
#endif
#ifdef KIN_HAVE_PNG
#include <png.h>
#endif
#ifdef KIN_HAVE_OPENBLAS
#include <cblas.h>
#endif
#ifdef _OPENMP
#include <omp.h>
#endif

/* One row for each device, NAME<TAB>DESCRIPTION; backends without one say why. */
static void list_devices(kin_common *common, FILE *out) {
    for (size_t b = 0; b < kin_backends_count(common->backends); b++) {
        const kin_backend *backend = kin_backends_at(common->backends, b);
        const char *why = NULL;
        int count = backend->count(common->context, &why);
        if (count <= 0)
            fprintf(out, "%s\tno device%s%s\n", backend->name, why ? ": " : "", why ? why : "");
        for (int i = 0; i < count; i++) {
            char name[64];
            kin_device *device = NULL;
            snprintf(name, sizeof name, i ? "%s%d" : "%s", backend->name, i);
            if (kin_device_open(common->backends, name, &device) == KIN_OK)
                fprintf(out, "%s\t%s\n", name, device->info.description);
            else
                fprintf(out, "%s\tcannot be opened: %s\n", name,
                        kin_context_error(common->context));
            kin_device_close(device);
        }
    }
}

static void list_files(kin_common *common, FILE *out) {
    for (size_t i = 0; i < kin_backends_file_count(common->backends); i++) {
        const kin_backend_file *file = kin_backends_file_at(common->backends, i);
        fprintf(out, "%s\t%s\n", file->path, file->verdict);
    }
}

static int open_quietly(const char *verb, int count, char **arguments, kin_common *common) {
    int left = 0;
    const kin_flag flags[] = {
        {.name = "threads",
         .letter = 't',
         .argument = "N",
         .integer = &common->threads,
         .help = "threads for CPU work; default: all processors"},
        {.name = "verbose", .letter = 'v', .on = &common->verbose, .help = "more of what happens"},
    };
    int status =
        kin_parse_flags(verb, flags, sizeof flags / sizeof *flags, count, arguments, 0, 0, &left);
    if (status >= 0) return status;
    common->quiet = !common->verbose; /* refused files are in the list */
    return kin_common_open(common, false);
}

int kin_verb_devices(int count, char **arguments) {
    kin_common common = {0};
    int status = open_quietly("devices", count, arguments, &common);
    if (status >= 0) return status;
    list_devices(&common, stdout);
    if (kin_backends_file_count(common.backends)) fprintf(stderr, "files looked at:\n");
    list_files(&common, stderr);
    kin_common_close(&common);
    return KIN_EXIT_OK;
}

/* ---- env ---- */

static void system_line(void) {
    char line[256] = "", name[128] = "";
    struct utsname system;
    FILE *file = fopen("/etc/os-release", "r");
    while (file && fgets(line, sizeof line, file))
        if (sscanf(line, "PRETTY_NAME=\"%127[^\"]", name) == 1) break;
    if (file) fclose(file);
    if (uname(&system) == 0)
        printf("system\t%s%s%s %s %s\n", name, name[0] ? ", " : "", system.sysname, system.release,
               system.machine);
}

static void memory_line(kin_common *common) {
    kin_device *device = NULL;
    char total[32], available[32];
    if (kin_device_open(common->backends, "cpu", &device) != KIN_OK) return;
    printf("processor\t%s, %d threads\n", device->info.description, device->info.threads);
    printf("memory\t%s, of which %s free\n",
           kin_bytes_text(device->info.memory_total, total, sizeof total),
           kin_bytes_text(device->info.memory_free, available, sizeof available));
    kin_device_close(device);
}

static void libraries(void) {
    printf("jansson\t%s\n", jansson_version_str());
    printf("zlib\t%s\n", zlibVersion());
#ifdef KIN_HAVE_FFMPEG
    printf("FFmpeg\t%s\n", av_version_info());
#endif
#ifdef KIN_HAVE_PNG
    printf("libpng\t%s\n", png_get_libpng_ver(NULL));
#endif
#ifdef KIN_HAVE_SENTENCEPIECE
    printf("sentencepiece\t%s (when built)\n", KINORA_SENTENCEPIECE_VERSION);
#endif
#ifdef KIN_HAVE_OPENBLAS
    printf("OpenBLAS\t%s\n", openblas_get_config());
#endif
#ifdef _OPENMP
    printf("OpenMP\t%d, %d processors\n", _OPENMP, omp_get_num_procs());
#endif
}

static void environment(void) {
    static const char *const names[] = {"KINORA_BACKEND_PATH", "KINORA_CACHE",
                                        "KINORA_SETTINGS",     "OMP_NUM_THREADS",
                                        "OMP_WAIT_POLICY",     "OPENBLAS_NUM_THREADS",
                                        "OPENBLAS_CORETYPE"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        const char *value = getenv(names[i]);
        if (value) printf("%s\t%s\n", names[i], value);
    }
}

int kin_verb_env(int count, char **arguments) {
    kin_common common = {0};
    int status = open_quietly("env", count, arguments, &common);
    if (status >= 0) return status;
    printf("kinora\t%s\n", kin_version());
    printf("build\t%s, compiler %s\n", KINORA_BUILD_TYPE, KINORA_COMPILER);
    printf("left out\t%s\n", KINORA_LEFT_OUT[0] ? KINORA_LEFT_OUT : "nothing");
    system_line();
    memory_line(&common);
    libraries();
    environment();
    printf("backends\t%s\n", KINORA_INSTALLED_BACKENDS);
    list_devices(&common, stdout);
    list_files(&common, stdout);
    kin_common_close(&common);
    return KIN_EXIT_OK;
}
