/* Cases of STDiT2. */
#include "tools/check/case_run.h"

#include "models/stdit2.h"

static const kin_precision precision = {KIN_F32, KIN_F32};

/* The first element of an input. */
static double first(const kin_case_run *run, const char *name) {
    const kin_named_tensor *tensor = kin_case_input_tensor(run, name);
    return tensor && kin_desc_count(&tensor->desc) > 0
               ? kin_element_get(tensor->data, tensor->desc.dtype, 0)
               : 0;
}

void kin_case_stdit2_video(kin_case_graph *graph, kin_stdit2_inputs *inputs) {
    inputs->height = kin_case_feed_input(graph, "height", KIN_F32);
    inputs->width = kin_case_feed_input(graph, "width", KIN_F32);
    inputs->ar = kin_case_feed_input(graph, "ar", KIN_F32);
    inputs->num_frames = kin_case_feed_input(graph, "num_frames", KIN_F32);
    inputs->fps = kin_case_feed_input(graph, "fps", KIN_F32);
    inputs->pixels[0] = first(graph->run, "height");
    inputs->pixels[1] = first(graph->run, "width");
}

void kin_case_stdit2(kin_case_run *run) {
    kin_stdit2_config config;
    if (!kin_case_ok(run, "config.json",
                     kin_stdit2_config_parse(run->context, run->config, "config.json",
                                             KIN_UNKNOWN_KEYS_FAIL, &config)))
        return;
    kin_case_graph graph;
    if (!kin_case_begin(run, &graph)) return;
    kin_stdit2_inputs in = {.x = kin_case_feed_input(&graph, "x", KIN_F32),
                            .timestep = kin_case_feed_input(&graph, "timestep", KIN_F32),
                            .y = kin_case_caption(&graph),
                            .name_hidden = true};
    bool packed = kin_case_input_tensor(run, "mask") != NULL;
    if (packed) in.y_lengths = kin_case_lengths(&graph, "mask");
    if (kin_case_input_tensor(run, "x_mask"))
        in.frame_mask = kin_case_feed_input(&graph, "x_mask", KIN_F32);
    /* The run that recorded embed.t and embed.t_mlp handed the first results of those two modules
     * to its later calls, too: in it given frames have the timestep of the others. The sampler's
     * cases record no such thing and show the published timestep 0. */
    if (in.frame_mask.id && kin_case_output_tensor(run, "embed.t")) in.given_timestep = in.timestep;
    kin_case_stdit2_video(&graph, &in);
    kin_tensor out = kin_stdit2(graph.graph, &config, &precision, &in);
    kin_case_watch(&graph, "embed.t");
    kin_case_watch(&graph, "embed.t_mlp");
    kin_case_watch(&graph, "embed.tokens");
    if (!packed) kin_case_watch(&graph, "embed.y");
    kin_case_watch_all(&graph, "hidden", config.common.depth);
    kin_case_output(&graph, "out", out);
    if (kin_case_wants_gradients(run))
        kin_case_gradients(&graph, kin_case_dot(&graph, out, "cotangent"));
    if (kin_case_prepare(&graph, kin_stdit2_rename, &config) && kin_case_run_and_compare(&graph) &&
        packed)
        kin_case_compare_packed(&graph, "embed.y", "mask");
    kin_case_end(&graph);
}
