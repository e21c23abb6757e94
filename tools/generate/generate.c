/* kinora generate: the flags. */
#include "tools/generate/generate.h"

#include "tools/verbs.h"

#include <string.h>

static const char verb[] = "generate";

#define TEXT(flag, value, what, target)                                                            \
    { .name = flag, .argument = value, .text = target, .help = what }
#define WHOLE(flag, what, target)                                                                  \
    { .name = flag, .argument = "N", .integer = target, .help = what }
#define NUMBER(flag, what, target)                                                                 \
    { .name = flag, .argument = "X", .number = target, .help = what }
#define SWITCH(flag, what, target)                                                                 \
    { .name = flag, .on = target, .help = what }
#define LIST(flag, value, what, target, counter)                                                   \
    {                                                                                              \
        .name = flag, .argument = value, .list = target, .list_capacity = KIN_GENERATE_LIST,       \
        .list_count = counter, .help = what                                                        \
    }

static int usage(const kin_generate_request *r) {
    if (!r->model || (r->prompt_count == 0 && !r->prompt_file))
        return kin_usage_error(verb, "--model and --prompt (or --prompt-file) must be given");
    if (r->width < 0 || r->height < 0 || r->frames < 0 || r->steps < 0 || r->fps < 0 ||
        r->model_fps < 0)
        return kin_usage_error(verb, "sizes, frames, steps and fps cannot be negative");
    if (r->eta < 0 || r->eta > 1) return kin_usage_error(verb, "--eta must lie within 0 and 1");
    if (r->interval < 1 || r->interval > 1024)
        return kin_usage_error(verb, "--reference-interval must be 1 to 1024");
    if (r->passes < 1 || r->passes > 4096)
        return kin_usage_error(verb, "--loop must be 1 to 4096 passes");
    if (r->overlap < 0) return kin_usage_error(verb, "--condition-frame-length cannot be negative");
    return -1;
}

static kin_status generate(kin_common *common, const kin_generate_request *request) {
    kin_generate g;
    kin_status status = kin_generate_open(common, request, &g);
    if (status != KIN_OK) return status;
    status = request->dry_run ? kin_generate_dry_run(&g) : kin_generate_run(&g);
    kin_generate_close(&g);
    return status;
}

int kin_verb_generate(int count, char **arguments) {
    kin_common common = {0};
    kin_generate_request r = {.seed = 42,
                              .cfg_scale = -1,
                              .cfg_channels = -1,
                              .samples = 1,
                              .batch_size = 1,
                              .passes = 1,
                              .interval = 1,
                              .task = {.edit = -1}};
    int left = 0;
    const kin_flag flags[] = {
        {.name = "model",
         .letter = 'm',
         .argument = "PATH",
         .text = &r.model,
         .help = "folder or file of a system (see kinora info)"},
        {.name = "prompt",
         .letter = 'p',
         .argument = "TEXT",
         .list = r.prompts,
         .list_capacity = KIN_GENERATE_LIST,
         .list_count = &r.prompt_count,
         .help = "what to show; several times for several clips"},
        TEXT("prompt-file", "FILE", "a prompt a line; or .json or .csv", &r.prompt_file),
        {.name = "negative-prompt",
         .letter = 'n',
         .argument = "TEXT",
         .text = &r.negative,
         .help = "what to steer away from; default: the system's, or the null "
                 "caption"},
        {.name = "output",
         .letter = 'o',
         .argument = "FILE",
         .text = &r.output,
         .help = ".mp4, .mkv (lossless), .png (one frame), frame_%03d.png, or a "
                 "folder"},
        SWITCH("overwrite", "make finished clips anew, and replace any file", &r.overwrite),
        SWITCH("dry-run", "tell what would be made and the memory it takes; make nothing",
               &r.dry_run),
        WHOLE("samples", "clips of each prompt, of seeds one after the other", &r.samples),
        WHOLE("num-sample", "the same", &r.samples),
        WHOLE("batch-size", "clips sampled together; default 1", &r.batch_size),
        {.name = "seed",
         .letter = 's',
         .argument = "N",
         .integer = &r.seed,
         .help = "the same seed gives the same file; default 42; -1: a random "
                 "one, told"},
        {.name = "width", .letter = 'W', .argument = "N", .integer = &r.width, .help = "pixels"},
        {.name = "height", .letter = 'H', .argument = "N", .integer = &r.height, .help = "pixels"},
        TEXT("resolution", "NAME", "144p to 4k, 256, 512 or 1024, as Open-Sora's table has them",
             &r.resolution),
        TEXT("aspect-ratio", "H:W", "height to width of --resolution; default 9:16, a wide picture",
             &r.aspect_ratio),
        WHOLE("video-frames", "frames; 1 makes a picture", &r.frames),
        WHOLE("num-frames", "the same", &r.frames),
        NUMBER("fps", "frames a second of the file", &r.fps),
        NUMBER("model-fps",
               "frames a second that Open-Sora 1.1 is told; default 24, of a "
               "picture 120",
               &r.model_fps),
        WHOLE("steps", "sampling steps", &r.steps),
        NUMBER("cfg-scale", "classifier-free guidance; 1: none", &r.cfg_scale),
        WHOLE("cfg-channels", "guide the first N latent channels only; 0: all", &r.cfg_channels),
        TEXT("sampler", "NAME", "iddpm, ddim, pndm, euler, euler-a, dpm++, unipc, ...", &r.sampler),
        TEXT("sampling-method", "NAME", "the same", &r.sampler),
        SWITCH("karras", "Karras' noise levels, for euler, dpm++ and unipc", &r.karras),
        SWITCH("sde", "the stochastic form of dpm++", &r.sde),
        NUMBER("eta", "noise of ddim, 0 to 1", &r.eta),
        TEXT("noise", "NAME", "kinora (default), or torch-cpu, torch-cuda: PyTorch's for the seed",
             &r.noise),
        SWITCH("no-clean", "leave the prompts as they are", &r.no_clean),
        TEXT("image", "FILE", "animate this image", &r.task.image),
        TEXT("video", "FILE", "a video to edit or to extend", &r.task.video),
        NUMBER("edit", "make --video anew to this degree: 0 keeps it, 1 forgets it", &r.task.edit),
        TEXT("extend", "HOW", "continue --video forward, or lead up to it backward",
             &r.task.extend),
        SWITCH("join", "with --extend: the file has the video itself too", &r.join),
        TEXT("interpolate", "A,B", "go from image to image", &r.task.interpolate),
        SWITCH("loop-video", "end as it begins", &r.task.loop_video),
        LIST("reference-path", "PATHS", "images and videos to take frames from, with ';' between",
             r.reference_paths, &r.reference_count),
        LIST("mask-strategy", "TUPLES", "where their frames go: Open-Sora 1.1's strategy",
             r.mask_strategies, &r.strategy_count),
        WHOLE("reference-interval", "take every Nth frame of reference videos; default 1",
              &r.interval),
        WHOLE("loop", "passes of a long video, each beginning with the end of the last", &r.passes),
        WHOLE("condition-frame-length", "frames that a pass takes over; default: a quarter",
              &r.overlap),
        SWITCH("keep-given", "given frames come out as they were coded; else a little changed",
               &r.keep_given),
        TEXT("denoiser", "PATH", "take this part from elsewhere", &r.overrides.denoiser),
        TEXT("vae", "PATH", "the same", &r.overrides.vae),
        TEXT("text-encoder", "PATH", "the same", &r.overrides.text_encoder),
        TEXT("tokenizer", "PATH", "the same", &r.overrides.tokenizer),
        TEXT("scheduler", "PATH", "the same: a scheduler_config.json", &r.overrides.scheduler),
        TEXT("entry", "NAME", "entry of a pickled denoiser, such as ema", &r.overrides.entry),
        TEXT("system", "NAME", "what the denoiser belongs to, where it cannot be told",
             &r.overrides.system),
        TEXT("dtype", "NAME", "f32 (default), bf16 or f16, of weights and between the layers",
             &r.dtype),
        {.name = "memory",
         .argument = "SIZE",
         .text = &r.memory,
         .help = "device memory that a stage may take, such as 8G"},
        TEXT("vae-cut", "HOW",
             "to keep to --memory, the video is cut: as-needed (without loss), "
             "never, or published "
             "(the original's tiles)",
             &r.cut),
        SWITCH("keep-stages", "keep text features, latents and frames beside the file",
               &r.keep_stages),
        KIN_COMMON_FLAGS(&common),
    };
    int code =
        kin_parse_flags(verb, flags, sizeof flags / sizeof *flags, count, arguments, 0, 0, &left);
    if (code < 0) code = usage(&r);
    if (code < 0) code = kin_common_open(&common, true);
    if (code >= 0) return code;
    kin_catch_interrupts();
    kin_status status = generate(&common, &r);
    code = status == KIN_OK ? KIN_EXIT_OK : kin_report(common.context, verb, status);
    kin_common_close(&common);
    return code;
}
