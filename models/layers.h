/* The small layers that every model is made of: a weight by its published name, cast to the dtype
 * of computation, and used. */
#ifndef KIN_MODELS_LAYERS_H
#define KIN_MODELS_LAYERS_H

#include "runtime/graph.h"

struct json_t;

#ifdef __cplusplus
extern "C" {
#endif

/* How a model's numbers are held: `weights` is the dtype of the variables in the store, `compute`
 * that of the tokens or images between the layers. All zero is f32 for both. f32 weights with bf16
 * computation is how training runs in half precision: the weights are cast where they are used, and
 * their gradients arrive in f32. With q8_0, for inference, the weights of linear layers whose rows
 * are whole blocks of 32 are that, and products read them as they lie; other variables are what
 * kin_layer_dtype says. */
typedef struct kin_precision {
    kin_dtype weights;
    kin_dtype compute;
} kin_precision;

/* How a layer starts when no file provides its weights. */
typedef enum kin_layer_start {
    KIN_START_TORCH,     /* weight and bias uniform in +-1/sqrt(fan in): PyTorch's default */
    KIN_START_XAVIER,    /* weight uniform in +-sqrt(6 / (in + out)), bias 0 */
    KIN_START_NORMAL_02, /* weight 0.02 N(0, 1), bias 0 */
    KIN_START_ZERO       /* weight and bias 0 */
} kin_layer_start;

/* A key of a configuration that no list knows: a typing mistake in a file of ours, or something new
 * in a published file. */
typedef enum kin_unknown_keys {
    KIN_UNKNOWN_KEYS_WARN, /* published files: one line to the log */
    KIN_UNKNOWN_KEYS_FAIL  /* our own files: KIN_INVALID with the nearest name */
} kin_unknown_keys;

/* The dtype of a variable that is no weight of a linear layer: precision->weights, but with q8_0
 * f16 for tables and convolutions of 65,536 elements or more and f32 for everything smaller. */
KIN_API kin_dtype kin_layer_dtype(const kin_precision *precision, int rank, const int64_t *dims);
/* A trainable variable of that dtype, cast to precision->compute. */
KIN_API kin_tensor kin_layer_weight(kin_graph *graph, const kin_precision *precision,
                                    const char *name, int rank, const int64_t *dims, kin_init init);
/* x [..., K] -> [..., out], with NAME.weight [out, K] and NAME.bias [out]. */
KIN_API kin_tensor kin_layer_linear(kin_graph *graph, const kin_precision *precision,
                                    const char *name, kin_tensor x, int64_t out,
                                    kin_layer_start start);
/* x [..., K] -> [..., out] with NAME.weight [out, K] = std * N(0, 1) and no bias. */
KIN_API kin_tensor kin_layer_linear_plain(kin_graph *graph, const kin_precision *precision,
                                          const char *name, kin_tensor x, int64_t out, double std);
/* x [B, C, Y, X] -> [B, out, Y', X'], with NAME.weight [out, C, size, size] and NAME.bias [out];
 * pad_before and pad_after rows and columns of zeros. Starts as PyTorch's convolutions do. */
KIN_API kin_tensor kin_layer_conv2d(kin_graph *graph, const kin_precision *precision,
                                    const char *name, kin_tensor x, int64_t out, int size,
                                    int stride, int pad_before, int pad_after);
/* x [B, C, ...], with NAME.weight and NAME.bias [C]; silu: followed by SiLU. */
KIN_API kin_tensor kin_layer_group_norm(kin_graph *graph, const kin_precision *precision,
                                        const char *name, kin_tensor x, int groups, double eps,
                                        bool silu);
/* A position table or the like, computed in f32, as a constant of dtype precision->compute. */
KIN_API kin_tensor kin_layer_table(kin_graph *graph, const kin_precision *precision, int rank,
                                   const int64_t *dims, const float *values);
/* Holds the keys of `object` against a list, as `unknown` says; `where` names the object. */
KIN_API kin_status kin_config_check_keys(kin_context *context, const struct json_t *object,
                                         const char *where, const char *const *known, size_t count,
                                         kin_unknown_keys unknown);
/* Reads a whole number within low..high into an int; the default is what is there. */
KIN_API kin_status kin_config_get_int(kin_context *context, const struct json_t *object,
                                      const char *where, const char *key, int low, int high,
                                      int *value);
/* Names `tensor` as an output "NAME" or "NAME.N" (index < 0: no number), in f32, if `wanted`. */
KIN_API void kin_layer_tap(kin_graph *graph, bool wanted, const char *name, int index,
                           kin_tensor tensor);

#ifdef __cplusplus
}
#endif
#endif
