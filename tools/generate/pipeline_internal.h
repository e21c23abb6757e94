/* Shared by the files of the pipeline. */
#ifndef KIN_TOOLS_PIPELINE_INTERNAL_H
#define KIN_TOOLS_PIPELINE_INTERNAL_H

#include "runtime/weights.h"
#include "tools/generate/pipeline.h"

/* A planned graph with its weights. */
typedef struct kin_pipeline_stage {
    kin_store *store;
    kin_plan *plan;
} kin_pipeline_stage;

/* The pipeline's, but weights that the part's file holds in q8_0 stay so. */
kin_status kin_pipeline_part_precision(const kin_pipeline *pipeline, kin_part_kind part,
                                       kin_precision *out_precision);
void kin_pipeline_free_stage(kin_pipeline_stage *stage);
/* Plans the graph within the budget: stage->plan. */
kin_status kin_pipeline_plan_stage(const kin_pipeline *pipeline, kin_graph *graph,
                                   kin_pipeline_stage *stage);
/* Loads the part's weights for the variables under `prefix`, and prepares the plan. */
kin_status kin_pipeline_load_stage(const kin_pipeline *pipeline, const kin_graph *graph,
                                   kin_part_kind part, const char *prefix,
                                   kin_weights_rename rename, const void *config,
                                   kin_pipeline_stage *stage);

#endif
