/* Every op of Kinora: an op is one file's constant and one name here. Element-wise functions come from
 * the list of their expressions. */
#include "ops/elementwise_expr.h"
#include "runtime/op.h"

/* clang-format off */
#define KIN_OPS(X)                                                                                 \
    X(reshape) X(permute) X(slice) X(slice_grad) X(expand) X(split) X(detach)                      \
    X(copy) X(cast) X(fill) X(one) X(concat)                                                       \
    X(modulate) X(gated_add) X(where) X(gated_gelu_grad)                                           \
    X(matmul) X(linear) X(matmul_fused) X(linear_fused)                                                                            \
    X(sum) X(sum_cast) X(mean) X(max) X(softmax) X(softmax_grad)                                               \
    X(layer_norm) X(layer_norm_grad) X(layer_norm_modulate) X(layer_norm_modulate_grad)            \
    X(rms_norm) X(rms_norm_grad) X(group_norm) X(group_norm_grad)                                  \
    X(attention) X(attention_grad) X(self_attention) X(self_attention_grad) X(rope)                 \
    X(conv) X(conv_grad_input) X(conv_grad_weight) X(conv_patches) X(conv_patches_grad)            \
    X(upsample) X(upsample_grad) X(pad) X(pad_grad)                                                \
    X(embedding) X(embedding_grad) X(timestep_embedding)                                           \
    X(random_normal) X(random_uniform)                                                             \
    X(global_norm) X(clip_scale) X(adamw) X(adamw_ema) X(ema) X(accumulate) X(assign)                  \
    X(all_reduce) X(all_reduce_variable)
/* clang-format on */

#define DECLARE(name) extern const kin_op kin_op_##name;
#define DECLARE_UNARY(name, value, slope) DECLARE(name) DECLARE(name##_grad)
#define DECLARE_PLAIN(name, value) DECLARE(name)
KIN_OPS(DECLARE)
KX_UNARY(DECLARE_UNARY)
KX_AFFINE(DECLARE_PLAIN)
KX_BINARY(DECLARE_PLAIN)

#define ENTRY(name) &kin_op_##name,
#define ENTRY_UNARY(name, value, slope) ENTRY(name) ENTRY(name##_grad)
#define ENTRY_PLAIN(name, value) ENTRY(name)
const kin_op *const kin_op_list[] = {KIN_OPS(ENTRY) KX_UNARY(ENTRY_UNARY) KX_AFFINE(ENTRY_PLAIN)
                                         KX_BINARY(ENTRY_PLAIN) NULL};
