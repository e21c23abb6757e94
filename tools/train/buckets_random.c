/* The first number of numpy's default generator, which decides whether a bucket keeps a sample. */
#include "tools/train/buckets.h"

__extension__ typedef unsigned __int128 wide;

/* numpy's SeedSequence: a pool of four words that every word of the seed has stirred. */
typedef struct seed_pool {
    uint32_t words[4];
    uint32_t constant;
} seed_pool;

static uint32_t stir(seed_pool *pool, uint32_t value, uint32_t step) {
    value ^= pool->constant;
    pool->constant *= step;
    value *= pool->constant;
    return value ^ value >> 16;
}

static uint32_t blend(uint32_t a, uint32_t b) {
    uint32_t value = 0xCA01F9DDu * a - 0x4973F715u * b;
    return value ^ value >> 16;
}

static void fill_pool(seed_pool *pool, uint64_t seed) {
    const uint32_t step = 0x931E8875u;
    uint32_t entropy[4] = {(uint32_t)seed, (uint32_t)(seed >> 32), 0, 0};
    pool->constant = 0x43B0D7E5u;
    for (int i = 0; i < 4; i++) pool->words[i] = stir(pool, entropy[i], step);
    for (int from = 0; from < 4; from++)
        for (int to = 0; to < 4; to++)
            if (from != to)
                pool->words[to] = blend(pool->words[to], stir(pool, pool->words[from], step));
}

double kin_numpy_first_uniform(uint64_t seed) {
    const wide multiplier = (wide)0x2360ED051FC65DA4u << 64 | 0x4385DF649FCCF645u;
    seed_pool pool;
    uint64_t words[4] = {0};
    fill_pool(&pool, seed);
    pool.constant = 0x8B51F9DDu;
    for (int i = 0; i < 8; i++)
        words[i / 2] |= (uint64_t)stir(&pool, pool.words[i % 4], 0x58F38DEDu) << 32 * (i % 2);
    wide start = (wide)words[0] << 64 | words[1];
    wide increment = ((wide)words[2] << 64 | words[3]) << 1 | 1;
    /* Seeding steps once from 0, adds the start and steps again; drawing steps first. */
    wide state = (increment + start) * multiplier + increment;
    state = state * multiplier + increment;
    uint64_t folded = (uint64_t)(state >> 64) ^ (uint64_t)state;
    unsigned turn = (unsigned)(state >> 122);
    uint64_t word = folded >> turn | folded << (64 - turn) % 64;
    return (double)(word >> 11) * 0x1p-53;
}

double kin_bucket_draw_numpy(void *user, size_t entry) {
    const kin_bucket_draws *d = user;
    return kin_numpy_first_uniform(d->seed + d->epoch + d->sample * d->buckets + entry);
}
