/* kinora convert: the command line. */
#include "tools/system/convert.h"
#include "tools/tool.h"
#include "tools/verbs.h"

static const char verb[] = "convert";

static void print_line(void *user, const char *line) {
    (void)user;
    printf("%s\n", line);
}

int kin_verb_convert(int count, char **arguments) {
    kin_common common = {0};
    kin_convert_options options = {.told = print_line};
    const char *shard_size = NULL;
    int left = 0;
    const kin_flag flags[] = {
        {.name = "dtype",
         .argument = "DTYPE",
         .text = &options.dtype,
         .help = "f32, f16, bf16, or q8_0 for the weights of linear layers; default: as it is"},
        {.name = "entry",
         .argument = "KEY",
         .text = &options.entry,
         .help = "of a .pth file: the key of the state dict, such as ema"},
        {.name = "into",
         .argument = "KEY",
         .text = &options.into,
         .help = "of a .pth target: the key to put the state dict under"},
        {.name = "shard-size",
         .argument = "SIZE",
         .text = &shard_size,
         .help = "largest file, such as 5G; default: one file"},
        {.name = "verify", .on = &options.verify, .help = "read everything back and compare it"},
        {.name = "threads",
         .letter = 't',
         .argument = "N",
         .integer = &common.threads,
         .help = "default: all processors"},
        {.name = "quiet", .letter = 'q', .on = &common.quiet, .help = "errors only"},
        {.name = "verbose", .letter = 'v', .on = &common.verbose, .help = "more of what happens"},
    };
    int code =
        kin_parse_flags(verb, flags, sizeof flags / sizeof *flags, count, arguments, 2, 2, &left);
    if (code < 0 && shard_size &&
        (!kin_parse_bytes(shard_size, &options.shard_bytes) || options.shard_bytes == 0))
        code =
            kin_usage_error(verb, "--shard-size wants bytes, such as 5G, not \"%s\"", shard_size);
    if (code < 0) code = kin_common_open(&common, false);
    if (code >= 0) return code;
    options.quiet = common.quiet;
    kin_catch_interrupts();
    kin_status status = kin_convert_weights(common.context, arguments[0], arguments[1], &options);
    code = status == KIN_OK ? KIN_EXIT_OK : kin_report(common.context, verb, status);
    kin_common_close(&common);
    return code;
}
