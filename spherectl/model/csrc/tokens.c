#include "products.h"

/* Linears over the tokens of each image, for the mixers: out (B, N, columns) = W x + bias, kinds SILU and RESIDUAL,
 * gate one number. x (B, N, columns) bfloat16; weight (n, n) bfloat16 and bias (n) float32 with zeros beyond N,
 * n = N rounded up to 16. Nonzero: no memory. */
int tokens_forward(i64 images, i64 N, i64 columns, i64 kind, const bf16 *x, const bf16 *weight, const float *bias,
                   float gate, void *out) {
    const i64 n = up(N, LANES), c = up(columns, LANES);
    int failed = 0;
#pragma omp parallel
    {
        bf16 *rows = buffer(n * c * 2);
        uint32_t *pairs = buffer(n / 2 * c * 4);
        float *sums = buffer(ROWS * c * 4);
        const int ready = rows && pairs && sums;
        if (!ready) failed = 1;
#pragma omp for schedule(static)
        for (i64 image = 0; image < images; image++) {
            if (!ready) continue;
            for (i64 i = 0; i < N; i++) memcpy(rows + i * c, x + (image * N + i) * columns, columns * sizeof(bf16));
            interleave(n / 2, c, rows, pairs);
            for (i64 i = 0; i < N; i += ROWS) {
                product(0, ROWS, c, n / 2, (const uint32_t *)(weight + i * n), n / 2, 1, pairs, c, 0, sums, c);
                for (i64 r = 0; r < ROWS && i + r < N; r++)
                    for (i64 j = 0; j < columns; j += LANES) {
                        const __mmask16 m = lanes(columns - j);
                        const i64 offset = (image * N + i + r) * columns + j;
                        const __m512 s = _mm512_add_ps(_mm512_loadu_ps(sums + r * c + j), _mm512_set1_ps(bias[i + r]));
                        if (kind == RESIDUAL) add_to((float *)out + offset, m, _mm512_mul_ps(s, _mm512_set1_ps(gate)));
                        else store((bf16 *)out + offset, m, _mm512_mul_ps(s, sigmoid(s)));
                    }
            }
        }
        free(rows), free(pairs), free(sums);
    }
    return failed;
}
