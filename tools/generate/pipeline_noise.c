/* Random streams of generation: kinora's own and PyTorch's. */
#include "tools/generate/pipeline_noise.h"

#include <math.h>

#include "runtime/philox.h"
#include "runtime/torch_random.h"

enum {
    STREAM_START = 100,
    STREAM_STEPS = 101,
    STREAM_POSTERIOR = 102,
    H100_MULTIPROCESSORS = 132,
    THREADS_PER_MULTIPROCESSOR = 2048
};

/* A clip's generators of PyTorch, of which one is used. */
typedef struct generator {
    kin_torch_cpu cpu;
    kin_torch_cuda cuda;
} generator;

struct kin_clip_noise {
    kin_context *context;
    kin_clip_noise_options options;
    kin_noise_source source;
    generator *generators; /* count; NULL with Philox */
    void *drawn;           /* one draw, in its dtype */
};

kin_status kin_clip_noise_open(kin_context *context, const kin_clip_noise_options *options,
                               kin_clip_noise **out_noise) {
    const kin_sampling *sampling = options->sampling;
    kin_clip_noise *n = kin_calloc(context, 1, sizeof *n);
    *out_noise = n;
    if (!n) return KIN_OUT_OF_MEMORY;
    *n = (kin_clip_noise){.context = context, .options = *options, .source = sampling->noise};
    if (n->source == KIN_NOISE_PHILOX) return KIN_OK;
    size_t values = options->each * (size_t)options->repeats;
    n->generators = kin_calloc(context, (size_t)options->count, sizeof *n->generators);
    n->drawn = kin_alloc(context, values * sizeof(float));
    if (!n->generators || !n->drawn) {
        kin_clip_noise_close(n);
        *out_noise = NULL;
        return KIN_OUT_OF_MEMORY;
    }
    uint32_t processors = sampling->card_multiprocessors, threads = sampling->card_threads;
    for (int64_t i = 0; i < options->count; i++) {
        kin_torch_cpu_seed(&n->generators[i].cpu, options->seeds[i]);
        n->generators[i].cuda = (kin_torch_cuda){
            .seed = options->seeds[i],
            .multiprocessors = processors ? processors : H100_MULTIPROCESSORS,
            .threads_per_multiprocessor = threads ? threads : THREADS_PER_MULTIPROCESSOR};
    }
    return KIN_OK;
}

void kin_clip_noise_close(kin_clip_noise *n) {
    if (!n) return;
    kin_context *context = n->context;
    kin_free(context, n->generators);
    kin_free(context, n->drawn);
    kin_free(context, n);
}

/* The next `total` numbers of a clip's generator, of which the first `each` are kept. */
static void draw(kin_clip_noise *n, int64_t clip, kin_dtype dtype, size_t total, float *out) {
    generator *g = &n->generators[clip];
    if (n->source == KIN_NOISE_TORCH_CPU) kin_torch_cpu_normal(&g->cpu, dtype, total, n->drawn);
    else kin_torch_cuda_normal(&g->cuda, dtype, total, n->drawn);
    kin_convert(n->drawn, dtype, out, KIN_F32, (int64_t)n->options.each);
}

void kin_clip_noise_start(kin_clip_noise *n, float *out_values) {
    const kin_clip_noise_options *o = &n->options;
    for (int64_t i = 0; i < o->count; i++) {
        float *out = out_values + (size_t)i * o->each;
        if (n->source == KIN_NOISE_PHILOX)
            kin_philox_fill_normal(o->seeds[i], STREAM_START, 0, 0, o->each, out);
        else draw(n, i, o->first, o->each, out);
    }
}

bool kin_clip_noise_step(void *user, int number, float *out_values, size_t count) {
    kin_clip_noise *n = user;
    const kin_clip_noise_options *o = &n->options;
    if (count != o->each * (size_t)o->count) return false;
    for (int64_t i = 0; i < o->count; i++) {
        float *out = out_values + (size_t)i * o->each;
        if (n->source == KIN_NOISE_PHILOX)
            kin_philox_fill_normal(o->seeds[i], STREAM_STEPS, (uint64_t)number, 0, o->each, out);
        else draw(n, i, number ? o->later : o->first, o->each * (size_t)o->repeats, out);
    }
    return true;
}

void kin_posterior_draw(const float *moments, size_t values, const uint64_t *seed, double scale,
                        float *out_latents) {
    const float *log_variance = moments + values;
    if (seed) kin_philox_fill_normal(*seed, STREAM_POSTERIOR, 0, 0, values, out_latents);
    for (size_t i = 0; i < values; i++) {
        float deviation = expf(0.5f * fminf(fmaxf(log_variance[i], -30), 20));
        float noise = seed ? deviation * out_latents[i] : 0;
        out_latents[i] = (float)((moments[i] + noise) * scale);
    }
}
