/* Items that ranks make side by side. */
#include "tools/train/train_share.h"

#include "tools/tool.h"

#include <string.h>

static size_t ranks_of(const kin_share *s) {
    return s->ranks ? (size_t)s->ranks->count : 1;
}

static kin_status prepare(kin_share *s) {
    if (s->round) return KIN_OK;
    s->own = kin_alloc(s->context, s->size);
    s->round = kin_alloc(s->context, s->size * ranks_of(s));
    return s->own && s->round ? KIN_OK : KIN_OUT_OF_MEMORY;
}

/* Each rank makes one of the next items, and all get all of them. */
static kin_status make_round(kin_share *s) {
    const int64_t mine = s->begun + (s->ranks ? s->ranks->rank : 0);
    kin_status status = prepare(s);
    if (status == KIN_OK && kin_interrupted())
        status = kin_fail(s->context, KIN_CANCELLED, "interrupted while encoding %s", s->what);
    if (status == KIN_OK && mine < s->count) status = s->make(s->user, mine, s->own);
    else if (status == KIN_OK) memset(s->own, 0, s->size);
    status = kin_ranks_agree(s->ranks, status);
    s->ended = status != KIN_OK;
    if (s->ended) return status;
    s->begun += (int64_t)ranks_of(s);
    if (s->ranks)
        return s->ranks->transport.gather(s->ranks->transport.user, s->own, s->round, s->size);
    memcpy(s->round, s->own, s->size);
    return KIN_OK;
}

kin_status kin_share_take(kin_share *share, void *bytes) {
    kin_status status = KIN_OK;
    if (share->taken == share->begun) status = make_round(share);
    if (status != KIN_OK) return status;
    size_t place = (size_t)share->taken++ % ranks_of(share);
    memcpy(bytes, share->round + place * share->size, share->size);
    return KIN_OK;
}

kin_status kin_share_serve(kin_share *share) {
    kin_status status = KIN_OK;
    while (status == KIN_OK && share->begun < share->count) status = make_round(share);
    return status;
}

kin_status kin_share_end(kin_share *share, kin_status status) {
    kin_share *s = share;
    /* rank 0 could not write: the others stand in the next round */
    if (status != KIN_OK && !s->ended && s->begun < s->count)
        status = kin_ranks_agree(s->ranks, status);
    kin_free(s->context, s->own);
    kin_free(s->context, s->round);
    s->own = s->round = NULL;
    return kin_ranks_agree(s->ranks, status);
}
