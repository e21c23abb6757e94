/* The end of a training step on the CPU: one table of functions per instruction set. */
#ifndef KIN_BACKENDS_CPU_OPTIMIZER_TABLE_H
#define KIN_BACKENDS_CPU_OPTIMIZER_TABLE_H

#include <stdint.h>

/* Constants of one step of AdamW, formed in double. */
typedef struct cpu_adamw_step {
    float gradient_scale;
    float decay;        /* 1 - lr * weight_decay */
    float keep1, take1; /* beta1, 1 - beta1 */
    float keep2, take2;
    float rate;       /* lr / (1 - beta1^step) */
    float root_scale; /* 1 / sqrt(1 - beta2^step) */
    float eps;
} cpu_adamw_step;

/* Outputs may lie on the inputs of the same name. */
typedef struct cpu_adamw_data {
    const float *p, *gradient, *m, *v;
    float *p_out, *m_out, *v_out;
    const float *average; /* NULL: none */
    float *average_out;
    float average_weight; /* 1 - decay */
} cpu_adamw_data;

/* Elements first .. last - 1 of dense tensors. */
typedef struct cpu_optimizer_table {
    void (*adamw)(const cpu_adamw_step *step, const cpu_adamw_data *data, int64_t first,
                  int64_t last);
    /* out = a + weight * (b - a) */
    void (*blend)(const float *a, const float *b, float weight, float *out, int64_t first,
                  int64_t last);
    void (*add)(const float *a, const float *b, float *out, int64_t first, int64_t last);
    double (*squares)(const float *x, int64_t count);
} cpu_optimizer_table;

extern const cpu_optimizer_table cpu_optimizer_generic;
extern const cpu_optimizer_table cpu_optimizer_avx2;
extern const cpu_optimizer_table cpu_optimizer_avx512;

#endif
