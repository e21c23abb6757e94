/* The oneDNN backend: products and convolutions of f32 as oneDNN's primitives, everything else by
 * the CPU backend, whose memory and command lists it uses as they are.
 */
#ifndef KIN_BACKENDS_ONEDNN_ONEDNN_H
#define KIN_BACKENDS_ONEDNN_ONEDNN_H

#include "backends/onednn/api.h"
#include "runtime/backend.h"

enum { ODN_ALIGNMENT = 64, ODN_OUT = 64 /* operand indices of results start here */ };

typedef struct odn_step odn_step;

/* One per device. */
typedef struct odn_state {
    kin_device cpu; /* the CPU backend's device, which owns memory and lists */
    dnnl_engine_t engine;
    dnnl_stream_t stream;
    bool all;        /* take every call that has a primitive, not only where that is faster */
    odn_step *steps; /* of all lists, to find those whose weights are written */
} odn_state;

/* How a call becomes a primitive: the request, and which operand of the call stands for which of
 * the primitive (-1: none). operands: 0.. inputs, ODN_OUT.. results. */
typedef struct odn_mapping {
    odn_request request;
    odn_layout plain[ODN_OPERANDS]; /* as the tensors lie */
    int operands[ODN_OPERANDS];
    int result;    /* which operand the primitive writes */
    int64_t rows;  /* of a product */
    bool is_small; /* one thread is enough */
} odn_mapping;

/* One recorded call. `call` is first: the launch of our rows gets its address. */
struct odn_step {
    kin_call call;
    odn_state *state;
    odn_step *previous, *next; /* in state->steps */
    dnnl_primitive_t primitive;
    odn_mapping mapping;
    dnnl_memory_t tensors[ODN_OPERANDS]; /* where the call's operands lie */
    dnnl_memory_t blocked[ODN_OPERANDS]; /* in the layout that the primitive wants, if another */
    dnnl_primitive_t reorders[ODN_OPERANDS];
    dnnl_memory_t scratchpad;
    odn_step *spare;  /* of linear: the same with weights as they lie, for weights that change */
    void *weights;    /* memory of blocked[ODN_WEIGHTS], if weights are an input */
    bool keeps;       /* blocked weights stay while nobody writes the buffer */
    bool fresh;       /* they are those of the buffer */
    int reorders_run; /* of the weights; more than one: they change from run to run */
};

/* mapping.c. False: the call is left to the CPU. The mapping must be freed after true. as_they_lie:
 * weights of linear are not brought into a blocked layout. */
bool odn_map(const odn_state *state, const kin_call *call, bool as_they_lie,
             odn_mapping *out_mapping);
void odn_mapping_free(odn_mapping *mapping);

/* step.c. Bytes of scratch memory that a call needs. */
size_t odn_scratch_size(odn_state *state, const kin_call *call);
/* weights_written_before: by an earlier call of the list, so that they are new in every run. */
kin_status odn_step_make(odn_state *state, const kin_call *call, bool weights_written_before,
                         odn_step **out_step);
void odn_step_free(odn_step *step);
kin_status odn_step_run(odn_step *step);
/* The buffer was written: blocked weights made of it are stale. */
void odn_forget(odn_state *state, const kin_buffer *buffer);

#endif
