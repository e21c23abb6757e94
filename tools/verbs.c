/* The table of verbs. */
#include "tools/verbs.h"

#include "tools/tool.h"

#include <stddef.h>

const kin_verb kin_verbs[] = {
    {"train", "CONFIG.json", "train an autoencoder and a text-to-video model", kin_verb_train},
    {"generate", "", "make pictures and videos from prompts, images and videos", kin_verb_generate},
    {"data synth", "FOLDER", "render the demo data set", kin_verb_data_synth},
    {"data sheet", "", "make a picture of the clips of a data set", kin_verb_data_sheet},
    {"eval prompts", "", "generate for captions and measure what came of it",
     kin_verb_eval_prompts},
    {"report", "", "write curves, numbers and clips into one HTML file", kin_verb_report},
    {"check case", "FOLDER...", "run reference cases of the original implementations",
     kin_verb_check_case},
    {"check ops", "", "hold every op of a device against the double reference", kin_verb_check_ops},
    {"check gradients", "", "hold every op's gradient against central differences",
     kin_verb_check_gradients},
    {"check model", "", "try whole tiny models on a device: inference, training, sampling",
     kin_verb_check_model},
    {"check compare", "A B", "find the first node of a model that two devices differ in",
     kin_verb_check_compare},
    {"check curve", "A.jsonl B.jsonl", "hold the metrics of two training runs against each other",
     kin_verb_check_curve},
    {"check resume", "CONFIG.json", "train with a stop and without: the same bits?",
     kin_verb_check_resume},
    {"bench ops", "", "time every op's cases against the machine's peak", kin_verb_bench_ops},
    {"bench model", "", "time models and layers, forward or with gradients", kin_verb_bench_model},
    {"bench compare", "A.json B.json", "tell what two records of kinora bench differ in",
     kin_verb_bench_compare},
    {"bench overhead", "", "time 1,000 empty-ish nodes, and count the memory that a run takes",
     kin_verb_bench_overhead},
    {"plan", "MODEL", "tell what a model needs, without its weights", kin_verb_plan},
    {"info", "PATH", "tell what a checkpoint holds", kin_verb_info},
    {"convert", "SOURCE TARGET", "write weights in another form or dtype", kin_verb_convert},
    {"init", "SYSTEM FOLDER", "make a folder of a published system with random weights",
     kin_verb_init},
    {"devices", "", "list the devices and the files that were looked at for them",
     kin_verb_devices},
    {"env", "", "tell about this build and this machine, for a bug report", kin_verb_env},
    {NULL, NULL, NULL, NULL},
};
