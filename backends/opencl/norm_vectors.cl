/* The end of the gradients of norms: vectors from the sums of chunks of rows (norm.cl). */

/* Adds up the chunks of one sample and column; BOTH: sums of dy are wanted, too. */
__kernel void norm_vectors(__global const float *partial_data, ulong partial_at,
                           __global TYPE(W) *dw_data, ulong dw_at,
#if BOTH
                           __global TYPE(B) *db_data, ulong db_at,
#endif
                           int width, int chunks, int count) {
    int i = get_global_id(0);
    if (i >= count) return;
    int sample = i / width, column = i % width;
    __global const float *partial =
        partial_data + partial_at + (ulong)sample * chunks * 2 * width + column;
    float dot = 0, sum = 0;
    for (int chunk = 0; chunk < chunks; chunk++) {
        dot += partial[(ulong)chunk * 2 * width];
        sum += partial[(ulong)chunk * 2 * width + width];
    }
    STORE(W, dw_data + dw_at, i, dot);
#if BOTH
    STORE(B, db_data + db_at, i, sum);
#endif
}
