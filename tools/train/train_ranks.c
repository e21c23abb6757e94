/* Training in several processes: who does what, and whether all have the same. */
#include "tools/train/train.h"

#include "tools/train/fingerprint.h"

#include <string.h>

enum { PIECE_BYTES = 4 << 20 };

int kin_train_ranks(const kin_train_config *config) {
    return config->ranks ? config->ranks->count : 1;
}

int kin_train_rank(const kin_train_config *config) {
    return config->ranks ? config->ranks->rank : 0;
}

kin_status kin_train_on_first(const kin_train_config *config, kin_status status,
                              kin_status (*work)(void *user), void *user) {
    if (status == KIN_OK && kin_train_rank(config) == 0) status = work(user);
    return kin_ranks_agree(config->ranks, status);
}

kin_status kin_train_in_turn(const kin_train_config *config, kin_status status,
                             kin_status (*work)(void *user), void *user) {
    status = kin_train_on_first(config, status, work, user);
    if (status == KIN_OK && kin_train_rank(config) != 0) status = work(user);
    return kin_ranks_agree(config->ranks, status);
}

/* ---- weights ---- */

/* What the tensors of a store are, but not what is in them. */
static uint64_t names_of(kin_store *store) {
    uint64_t hash = KIN_FINGERPRINT_START;
    for (size_t i = 0; i < kin_store_count(store); i++) {
        const kin_store_entry *entry = kin_store_at(store, i);
        int64_t facts[2 + KIN_MAX_RANK] = {(int64_t)entry->desc.dtype, entry->desc.rank};
        for (int a = 0; a < entry->desc.rank; a++) facts[2 + a] = entry->desc.dims[a];
        hash = kin_fingerprint_bytes(hash, entry->name, strlen(entry->name) + 1);
        hash = kin_fingerprint_bytes(hash, facts, sizeof facts);
    }
    return hash;
}

/* Eight bytes at a time: gigabytes go through here. */
static uint64_t mix(uint64_t hash, const char *data, size_t size) {
    uint64_t word;
    for (; size >= sizeof word; size -= sizeof word, data += sizeof word) {
        memcpy(&word, data, sizeof word);
        hash = (hash ^ word) * UINT64_C(0x9E3779B97F4A7C15);
        hash ^= hash >> 29;
    }
    return kin_fingerprint_bytes(hash, data, size);
}

static kin_status content_of(kin_store *store, uint64_t *out_hash) {
    kin_device *device = kin_store_device(store);
    char *piece = kin_alloc(device->context, PIECE_BYTES);
    kin_status status = piece ? KIN_OK : KIN_OUT_OF_MEMORY;
    *out_hash = names_of(store);
    for (size_t i = 0; status == KIN_OK && i < kin_store_count(store); i++) {
        const kin_store_entry *entry = kin_store_at(store, i);
        size_t size = kin_desc_bytes(&entry->desc);
        for (size_t done = 0; status == KIN_OK && done < size; done += PIECE_BYTES) {
            size_t bytes = size - done < PIECE_BYTES ? size - done : PIECE_BYTES;
            status = device->backend->download(device, entry->buffer, entry->offset + done, piece,
                                               bytes);
            if (status == KIN_OK) *out_hash = mix(*out_hash, piece, bytes);
        }
    }
    kin_free(device->context, piece);
    return status;
}

kin_status kin_train_compare(const kin_train_config *config, kin_store *store, bool *out_same) {
    uint64_t hash = 0;
    *out_same = true;
    if (!config->ranks) return KIN_OK;
    kin_status status = kin_ranks_agree(config->ranks, content_of(store, &hash));
    return status == KIN_OK ? kin_ranks_same(config->ranks, hash, out_same) : status;
}

kin_status kin_train_share(const kin_train_config *config, kin_store *store) {
    kin_device *device = kin_store_device(store);
    bool same;
    if (!config->ranks) return KIN_OK;
    kin_status status = kin_ranks_same(config->ranks, names_of(store), &same);
    if (status == KIN_OK && !same)
        status = kin_fail(device->context, KIN_INVALID,
                          "the ranks have different models: they read different files");
    for (size_t i = 0; status == KIN_OK && i < kin_store_count(store); i++) {
        const kin_store_entry *entry = kin_store_at(store, i);
        status = kin_group_broadcast(device->group, entry->buffer, entry->offset,
                                     kin_desc_bytes(&entry->desc));
    }
    if (status == KIN_OK) status = kin_train_compare(config, store, &same);
    if (status == KIN_OK && !same)
        status = kin_fail(device->context, KIN_DEVICE,
                          "the ranks' weights differ after they were sent to all");
    return status;
}
