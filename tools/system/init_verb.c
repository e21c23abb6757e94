/* kinora init: the command line. */
#include "tools/system/init.h"
#include "tools/tool.h"
#include "tools/verbs.h"

#include <string.h>

static const char verb[] = "init";

enum { MAX_SETS = 64 };

static bool parse_size(const char *text, kin_init_size *out_size) {
    static const char *const names[] = {"published", "small", "tiny"};
    for (int i = 0; i < 3; i++)
        if (strcmp(text, names[i]) == 0) {
            *out_size = (kin_init_size)i;
            return true;
        }
    return false;
}

static kin_status run(kin_context *context, const char *system, const char *folder, bool dry,
                      kin_init_options *options) {
    uint64_t bytes = 0;
    char text[32];
    kin_status status = kin_system_named(context, system, &options->system);
    if (status == KIN_OK) status = kin_init_bytes(context, options, &bytes);
    if (status != KIN_OK) return status;
    printf("weights\t%s\n", kin_bytes_text(bytes, text, sizeof text));
    if (dry) return KIN_OK;
    fflush(stdout);
    status = kin_init_folder(context, options, folder);
    if (status == KIN_OK) printf("written\t%s\n", folder);
    return status;
}

int kin_verb_init(int count, char **arguments) {
    kin_common common = {0};
    const char *size = "published", *sets[MAX_SETS], *parts[KIN_INIT_MAX_PARTS];
    int64_t seed = 0;
    bool dry = false;
    int left = 0;
    kin_init_options options = {.sets = sets, .parts = parts};
    const kin_flag flags[] = {
        {.name = "size",
         .argument = "SIZE",
         .text = &size,
         .help = "published (default), small or tiny"},
        {.name = "set",
         .argument = "KEY=VALUE",
         .list = sets,
         .list_capacity = MAX_SETS,
         .list_count = &options.set_count,
         .help = "a key of a part's configuration: transformer.num_layers=4; several times"},
        {.name = "part",
         .argument = "NAME",
         .list = parts,
         .list_capacity = KIN_INIT_MAX_PARTS,
         .list_count = &options.part_count,
         .help = "only this part: transformer, vae, vae_temporal_decoder, text_encoder, tokenizer, "
                 "scheduler; several times"},
        {.name = "dtype",
         .argument = "DTYPE",
         .text = &options.dtype,
         .help = "f32, f16, bf16 or q8_0 for all weights; default: as published"},
        {.name = "seed", .argument = "N", .integer = &seed, .help = "of the weights; default 0"},
        {.name = "dry-run",
         .letter = 'n',
         .on = &dry,
         .help = "only tell how much would be written"},
        {.name = "threads",
         .letter = 't',
         .argument = "N",
         .integer = &common.threads,
         .help = "default: all processors"},
        {.name = "quiet", .letter = 'q', .on = &common.quiet, .help = "errors only"},
        {.name = "verbose", .letter = 'v', .on = &common.verbose, .help = "more of what happens"},
    };
    int code =
        kin_parse_flags(verb, flags, sizeof flags / sizeof *flags, count, arguments, 1, 2, &left);
    if (code < 0 && left < 2 && !dry)
        code = kin_usage_error(verb, "wants a system and the folder to make: init SYSTEM OUT");
    if (code < 0 && !parse_size(size, &options.size))
        code = kin_usage_error(verb, "--size is published, small or tiny, not \"%s\"", size);
    if (code < 0) code = kin_common_open(&common, false);
    if (code >= 0) return code;
    options.seed = (uint64_t)seed;
    options.quiet = common.quiet;
    kin_catch_interrupts();
    kin_status status =
        run(common.context, arguments[0], left > 1 ? arguments[1] : "", dry, &options);
    code = status == KIN_OK ? KIN_EXIT_OK : kin_report(common.context, verb, status);
    kin_common_close(&common);
    return code;
}
