/* kinora data synth: the demo data set. */
#include "tools/data/synth.h"
#include "tools/tool.h"
#include "tools/verbs.h"

static bool show(void *user, int done, int total) {
    kin_progress *progress = user;
    (void)total;
    kin_progress_show(progress, done, NULL);
    return !kin_interrupted();
}

int kin_verb_data_synth(int count, char **arguments) {
    static const char verb[] = "data synth";
    kin_common common = {0};
    kin_synth_options options = kin_synth_defaults();
    int64_t clips = options.count, compare = options.held_out_clips, frames = options.frames;
    int64_t size = options.size, seed = (int64_t)options.seed, held_out = options.held_out;
    int left = 0;
    const kin_flag flags[] = {
        {.name = "clips", .argument = "N", .integer = &clips, .help = "training clips"},
        {.name = "heldout-clips",
         .argument = "N",
         .integer = &compare,
         .help = "clips of the held-out combinations, for comparison"},
        {.name = "held-out",
         .argument = "N",
         .integer = &held_out,
         .help = "(colour, shape, direction) combinations kept out of the training clips"},
        {.name = "video-frames", .argument = "N", .integer = &frames, .help = "frames of a clip"},
        {.name = "size", .argument = "N", .integer = &size, .help = "height and width in pixels"},
        {.name = "fps", .argument = "X", .number = &options.fps, .help = "frames a second"},
        {.name = "seed",
         .letter = 's',
         .argument = "N",
         .integer = &seed,
         .help = "the same seed gives the same files"},
        KIN_COMMON_FLAGS(&common),
    };
    int code =
        kin_parse_flags(verb, flags, sizeof flags / sizeof *flags, count, arguments, 1, 1, &left);
    if (code >= 0) return code;
    if (clips < 1 || clips > 1000000 || compare < 0 || compare > 1000000 || frames < 2 ||
        frames > 1000 || size < 16 || size > 1024 || held_out < 0 ||
        held_out > KIN_SYNTH_MAX_HELD_OUT || seed < 0)
        return kin_usage_error(verb, "clips, frames, size, held-out or seed is out of range");
    code = kin_common_open(&common, false);
    if (code >= 0) return code;
    kin_catch_interrupts();
    kin_progress progress = kin_progress_begin("rendering clips", 0, clips + compare, common.quiet);
    options.folder = arguments[0];
    options.count = (int)clips;
    options.held_out_clips = (int)compare;
    options.frames = (int)frames;
    options.size = (int)size;
    options.seed = (uint64_t)seed;
    options.held_out = (int)held_out;
    options.progress = show;
    options.progress_user = &progress;
    kin_status status = kin_synth_write(common.context, &options);
    kin_progress_end(&progress);
    code = status == KIN_OK ? KIN_EXIT_OK : kin_report(common.context, verb, status);
    kin_common_close(&common);
    return code;
}
