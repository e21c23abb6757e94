/* Frames that are given in training, as Open-Sora 1.1 draws them. */
#include "tools/train/train.h"

#include "runtime/philox.h"

enum { STREAM_MASK = 0x4D41534B };

const char *const kin_frame_mask_names[KIN_MASK_KINDS] = {
    "mask_no",           "mask_quarter_random",    "mask_quarter_head",
    "mask_quarter_tail", "mask_quarter_head_tail", "mask_image_random",
    "mask_image_head",   "mask_image_tail",        "mask_image_head_tail",
};

/* A whole number in 0 .. count - 1. */
static int64_t below(uint64_t seed, int64_t index, uint64_t place, int64_t count) {
    uint32_t word = kin_philox_element(seed, STREAM_MASK, (uint64_t)index + 1, place);
    return (int64_t)((uint64_t)word * (uint64_t)count >> 32);
}

void kin_frame_mask_draw(const double ratios[KIN_MASK_KINDS], uint64_t seed, int64_t index,
                         int64_t sample, int64_t frames, float *out_mask) {
    uint64_t place = 3 * (uint64_t)sample;
    double u = (double)kin_philox_element_uniform(seed, STREAM_MASK, (uint64_t)index + 1, place);
    double sum = 0;
    int kind = KIN_MASK_NO;
    for (int i = KIN_MASK_KINDS - 1; i >= 0; i--) /* the last kind that is drawn at all */
        if (ratios[i] > 0) {
            kind = i;
            break;
        }
    for (int i = 0; i < KIN_MASK_KINDS; i++) {
        sum += ratios[i];
        if (u < sum) {
            kind = i;
            break;
        }
    }
    for (int64_t i = 0; i < frames; i++) out_mask[i] = 1;
    if (kind == KIN_MASK_NO || frames <= 1) return;
    bool quarter = kind <= KIN_MASK_QUARTER_HEAD_TAIL;
    int64_t most = quarter && frames / 4 > 1 ? frames / 4 : 1;
    int64_t size = 1 + below(seed, index, place + 1, most);
    bool random = kind == KIN_MASK_QUARTER_RANDOM || kind == KIN_MASK_IMAGE_RANDOM;
    bool both = kind == KIN_MASK_QUARTER_HEAD_TAIL || kind == KIN_MASK_IMAGE_HEAD_TAIL;
    bool head = both || kind == KIN_MASK_QUARTER_HEAD || kind == KIN_MASK_IMAGE_HEAD;
    bool tail = both || kind == KIN_MASK_QUARTER_TAIL || kind == KIN_MASK_IMAGE_TAIL;
    if (both && 2 * size >= frames) tail = false; /* something is left to learn */
    int64_t start = random ? below(seed, index, place + 2, frames - size + 1) : 0;
    for (int64_t i = 0; i < size; i++) {
        if (random) out_mask[start + i] = 0;
        if (head) out_mask[i] = 0;
        if (tail) out_mask[frames - 1 - i] = 0;
    }
}
