/* What the parts of the case runner share: the files of a case, comparing, and graphs whose inputs,
 * weights and outputs are those of the case. */
#ifndef KIN_TOOLS_CASE_RUN_H
#define KIN_TOOLS_CASE_RUN_H

#include <jansson.h>

#include "models/schedule.h"
#include "models/stdit2.h"
#include "runtime/plan.h"
#include "runtime/safetensors.h"
#include "runtime/weights.h"
#include "tools/check/case.h"

typedef struct kin_case_run {
    kin_context *context;
    kin_device *device;
    const kin_case_options *options;
    FILE *out;
    const char *folder;
    json_t *info;   /* case.json */
    json_t *config; /* config.json; NULL for torch-pickle, which reads its own */
    kin_safetensors *weights, *inputs, *outputs; /* NULL where the case has none */
    bool *seen;                                  /* outputs that were compared */
    double tolerance;                            /* relative to the largest |wanted| */
    kin_case_report *report;
} kin_case_run;

/* Compares `count` values with the output `name`, prints a line and counts it. */
void kin_case_compare(kin_case_run *run, const char *name, kin_dtype dtype, const void *values,
                      int64_t count);
/* Counts something that is no tensor of outputs.safetensors. */
void kin_case_expect(kin_case_run *run, const char *name, bool good, const char *text);
/* Prints the context's message and counts a failure, unless status is KIN_OK. Returns true if OK.
 */
bool kin_case_ok(kin_case_run *run, const char *what, kin_status status);
/* A tensor of inputs or outputs; NULL, without a message, if there is none. */
const kin_named_tensor *kin_case_input_tensor(const kin_case_run *run, const char *name);
const kin_named_tensor *kin_case_output_tensor(const kin_case_run *run, const char *name);
/* A tensor's values in another dtype; kin_free. NULL, with a message, if there is no memory. */
void *kin_case_values(kin_case_run *run, const kin_named_tensor *tensor, kin_dtype dtype);
/* Number at the key of an object, or the fallback. */
double kin_case_number(const json_t *object, const char *key, double fallback);

enum { KIN_CASE_FEEDS = 16, KIN_CASE_NAME = 160 };

typedef struct kin_case_feed {
    char name[KIN_CASE_NAME];
    kin_dtype dtype;
    void *data;
    kin_tensor tensor;
} kin_case_feed;

/* One graph on its way from building to comparing. */
typedef struct kin_case_graph {
    kin_case_run *run;
    kin_graph *graph;
    kin_store *store;
    kin_plan *plan;
    kin_case_feed feeds[KIN_CASE_FEEDS];
    int feed_count;
    char (*watched)[KIN_CASE_NAME]; /* graph outputs to compare, in this order */
    size_t watch_count, watch_room;
    double noise; /* kin_case_product_noise, the quadratic mean over all watched outputs */
} kin_case_graph;

bool kin_case_begin(kin_case_run *run, kin_case_graph *graph);
/* An input of the graph with the values of the case's input `name` (floats as f32, integers as
 * `integers`); fed by kin_case_finish. KIN_NONE if there is none. */
kin_tensor kin_case_feed_input(kin_case_graph *graph, const char *name, kin_dtype integers);
/* An input with values of one's own, which are copied. */
kin_tensor kin_case_feed_values(kin_case_graph *graph, const char *name, kin_dtype dtype, int rank,
                                const int64_t *dims, const void *values);
/* i32 [B]: the number of ones in each row of a mask [B, L], which must stand in front. */
kin_tensor kin_case_lengths(kin_case_graph *graph, const char *name);
/* A variable of kind STATE or WEIGHT that starts with the case's input `name`. */
kin_tensor kin_case_state(kin_case_graph *graph, const char *name, kin_variable_kind kind);

/* Compares the graph's output `name` (made by kin_output) with the output of that name. */
void kin_case_watch(kin_case_graph *graph, const char *name);
/* kin_output and kin_case_watch. A scalar may be compared with a tensor [1]. */
void kin_case_output(kin_case_graph *graph, const char *name, kin_tensor tensor);
/* Watches every output whose name starts with `prefix` in the case and which the graph has. */
void kin_case_watch_all(kin_case_graph *graph, const char *prefix, int count);
/* Appends the gradients of `loss` (a scalar) and watches all outputs "PREFIXparam.KEY" and
 * "PREFIXinput.NAME" of the case. */
void kin_case_gradients(kin_case_graph *graph, kin_tensor loss);
/* True if the case holds gradients. */
bool kin_case_wants_gradients(const kin_case_run *run);
/* The input "y" [B, 1, L, C] as [B, L, C]: captions of Open-Sora. */
kin_tensor kin_case_caption(kin_case_graph *graph);
/* Compares the graph's output `name` [B, L, C] with one where the original packed the real tokens
 * of all captions in one row: those where the input `mask_name` [B, L] is not 0. */
void kin_case_compare_packed(kin_case_graph *graph, const char *name, const char *mask_name);
/* The inputs about the video: height, width, ar, num_frames, fps. */
void kin_case_stdit2_video(kin_case_graph *graph, kin_stdit2_inputs *inputs);
/* IDDPM's schedule by the keys diffusion_steps and timestep_respacing or num_sampling_steps. */
kin_status kin_case_schedule(kin_case_run *run, const json_t *config, kin_schedule **out_schedule);
/* Compares every table that the case holds as "table.NAME". */
void kin_case_schedule_tables(kin_case_run *run, const kin_schedule *schedule);
/* sum(out * cotangent) with the case's input `cotangent`. */
kin_tensor kin_case_dot(kin_case_graph *graph, kin_tensor out, const char *cotangent);

/* What rounding the operands of products may do to each watched output on this device, relative to
 * its largest element, and graph->noise: zeros where the device does not round. Before the run, whose updates change
 * the variables. *out_noise: kin_free, also after an error. */
kin_status kin_case_product_noise(kin_case_graph *graph, double **out_noise);
/* Widens the case's tolerance to that of a loop of several runs, on a device that rounds so. */
void kin_case_widen_loop(kin_case_run *run);

/* Plans, makes the store, loads the weights (rename may be NULL), and writes the inputs. */
bool kin_case_prepare(kin_case_graph *graph, kin_weights_rename rename, const void *config);
/* Runs and compares everything watched. */
bool kin_case_run_and_compare(kin_case_graph *graph);
/* Reads an output of the graph as f32; kin_free. */
float *kin_case_read(kin_case_graph *graph, const char *name);
void kin_case_end(kin_case_graph *graph);

/* The kinds of case; each counts what it compares in run->report. */
void kin_case_stdit(kin_case_run *run);
void kin_case_stdit_attention(kin_case_run *run);
void kin_case_stdit2(kin_case_run *run);
void kin_case_masked_loss(kin_case_run *run);
void kin_case_masked_sample(kin_case_run *run);
void kin_case_latte(kin_case_run *run);
void kin_case_latte_loss(kin_case_run *run);
void kin_case_latte_sample(kin_case_run *run);
void kin_case_pixart(kin_case_run *run);
void kin_case_vae_temporal(kin_case_run *run);
void kin_case_iddpm_loss(kin_case_run *run);
void kin_case_iddpm_sample(kin_case_run *run);
void kin_case_t5(kin_case_run *run);
void kin_case_tokenizer(kin_case_run *run);
void kin_case_vae_encode(kin_case_run *run);
void kin_case_vae_decode(kin_case_run *run);
void kin_case_vae_loss(kin_case_run *run);
void kin_case_scheduler(kin_case_run *run);
void kin_case_rectified_flow(kin_case_run *run);
void kin_case_ops(kin_case_run *run);
void kin_case_one_op(kin_case_run *run);
void kin_case_random(kin_case_run *run);
void kin_case_pickle(kin_case_run *run);
void kin_case_files(kin_case_run *run);
void kin_case_plan_rope(kin_case_run *run);
void kin_case_plan_loss(kin_case_run *run);
void kin_case_plan_sample(kin_case_run *run);
void kin_case_plan_denoiser(kin_case_run *run);
void kin_case_causal_blocks(kin_case_run *run);
void kin_case_causal_encode(kin_case_run *run);
void kin_case_causal_decode(kin_case_run *run);
void kin_case_captions(kin_case_run *run);
void kin_case_buckets(kin_case_run *run);
void kin_case_mask_strategy(kin_case_run *run);
void kin_case_megabatch(kin_case_run *run);
void kin_case_shards(kin_case_run *run);

#endif
