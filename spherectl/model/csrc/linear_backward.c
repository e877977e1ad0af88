/* Gradients of a linear's weight and bias; the gradient of its input is a product of linear.c. */
#include "products.h"

#define DEPTH 256 /* rows that are summed before the gradient goes back to memory */
#define SHARE 64  /* outputs that a thread takes at a time */

/* Pairs of rows of x (rows, stride), `count` columns from first_column, as words (pairs, ld), ld of LANES; zeros
 * beyond. */
static void pair_up(i64 rows, i64 pairs, i64 stride, i64 first_column, i64 count, i64 ld, const bf16 *x,
                    uint32_t *words) {
    for (i64 p = 0; p < pairs; p++)
        for (i64 j = 0; j < ld; j += LANES) {
            const __mmask16 m = count > j && 2 * p < rows ? lanes(count - j) : 0, second = 2 * p + 1 < rows ? m : 0;
            const bf16 *src = x + 2 * p * stride + first_column + j;
            const __m512i low = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(m, src));
            const __m512i high = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(second, src + stride));
            _mm512_storeu_si512(words + p * ld + j, _mm512_or_si512(low, _mm512_slli_epi32(high, 16)));
        }
}

/* Gradients of a linear's weight (outputs, inputs) and bias (outputs), float32: dy^T x and the sums of dy, over rows.
 * x (rows, stride) bfloat16, of which `inputs` count; dy (rows, outputs) bfloat16. Nonzero: no memory. */
int linear_backward(i64 rows, i64 inputs, i64 stride, i64 outputs, const bf16 *x, const bf16 *dy, float *dweight,
                    float *dbias) {
    const int on_tiles = tiles;
    const i64 k = up(inputs, PANEL);
    const __m512i ones = _mm512_set1_epi32(0x3F803F80); /* a pair of 1.0 */
    int failed = 0;
#pragma omp parallel
    {
        uint32_t *a = buffer(DEPTH / 2 * SHARE * 4), *transposed = buffer(DEPTH / 2 * SHARE * 4);
        uint32_t *b = buffer(DEPTH / 2 * k * 4);
        float *sums = buffer(SHARE * k * 4);
        const int ready = a && transposed && b && sums;
        if (!ready) failed = 1;
        if (on_tiles) tiles_begin();
#pragma omp for schedule(static)
        for (i64 first = 0; first < outputs; first += SHARE) {
            if (!ready) continue;
            const i64 mine = outputs - first < SHARE ? outputs - first : SHARE;
            __m512 bias[SHARE / LANES];
            for (int c = 0; c < SHARE / LANES; c++) bias[c] = _mm512_setzero_ps();
            memset(sums, 0, SHARE * k * sizeof(float));
            for (i64 row = 0; row < rows; row += DEPTH) {
                const i64 some = rows - row < DEPTH ? rows - row : DEPTH, pairs = up((some + 1) / 2, TILE);
                pair_up(some, pairs, outputs, first, mine, SHARE, dy + row * outputs, a);
                pair_up(some, pairs, stride, 0, inputs, k, x + row * stride, b);
                for (i64 p = 0; p < pairs; p++)
                    for (int c = 0; c < SHARE / LANES; c++)
                        bias[c] = dot(bias[c], _mm512_loadu_si512(a + p * SHARE + c * LANES), ones);
                product_of_columns(on_tiles, up(mine, on_tiles ? TALL : ROWS), k, pairs, a, SHARE, transposed, b, 1,
                                   sums);
            }
            for (i64 i = 0; i < mine; i++)
                memcpy(dweight + (first + i) * inputs, sums + i * k, inputs * sizeof(float));
            for (int c = 0; dbias && c < SHARE / LANES; c++)
                if (mine > c * LANES)
                    _mm512_mask_storeu_ps(dbias + first + c * LANES, lanes(mine - c * LANES), bias[c]);
        }
        if (on_tiles) tiles_end();
        free(a), free(transposed), free(b), free(sums);
    }
    return failed;
}
