/* a[0..V) as the rows of a square, in place to its columns: log2(V) perfect shuffles. */
void transpose(FV a[V]) {
    FV b[V];
#pragma unroll
    for (int size = 1; size < V; size *= 2) {
#pragma unroll
        for (int i = 0; i < V / 2; i++) {
            b[2 * i].even = a[i].lo;
            b[2 * i].odd = a[i + V / 2].lo;
            b[2 * i + 1].even = a[i].hi;
            b[2 * i + 1].odd = a[i + V / 2].hi;
        }
#pragma unroll
        for (int i = 0; i < V; i++) a[i] = b[i];
    }
}
