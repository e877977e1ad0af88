/* The linear pixel head. */
#include "values.h"

/* tanh(conv(x)): tokens (B, G^2, 3 p^2) in the order channel, row, column to images (B, 3, G p, G p) float32, by a 3x3
 * convolution of 3 to 3 channels with reflected borders; weight (3, 3, 3, 3), bias (3) float32. Nonzero: no memory. */
int pixels_forward(i64 images, i64 G, i64 p, const bf16 *tokens, const float *weight, const float *bias, float *out) {
    const i64 side = G * p, wide = side + 2;
    int failed = 0;
#pragma omp parallel
    {
        float *plane = malloc((3 * wide * wide + LANES) * sizeof(float)); /* the last row is read beyond its end */
        if (!plane) failed = 1;
        else memset(plane, 0, (3 * wide * wide + LANES) * sizeof(float));
#pragma omp for schedule(static)
        for (i64 image = 0; image < images; image++) {
            if (!plane) continue;
            for (i64 c = 0; c < 3; c++) {
                float *dst = plane + c * wide * wide;
                for (i64 y = 0; y < side; y++)
                    for (i64 g = 0; g < G; g++) {
                        const bf16 *src = tokens + ((image * G * G + y / p * G + g) * 3 + c) * p * p + y % p * p;
                        for (i64 x = 0; x < p; x++) {
                            const uint32_t bits = (uint32_t)src[x] << 16;
                            memcpy(dst + (y + 1) * wide + 1 + g * p + x, &bits, sizeof bits);
                        }
                    }
                for (i64 y = 1; y <= side; y++) {
                    dst[y * wide] = dst[y * wide + 2];
                    dst[y * wide + side + 1] = dst[y * wide + side - 1];
                }
                memcpy(dst, dst + 2 * wide, wide * sizeof(float));
                memcpy(dst + (side + 1) * wide, dst + (side - 1) * wide, wide * sizeof(float));
            }
            for (i64 c = 0; c < 3; c++)
                for (i64 y = 0; y < side; y++)
                    for (i64 x = 0; x < side; x += LANES) {
                        __m512 sum = _mm512_set1_ps(bias[c]);
                        for (i64 i = 0; i < 27; i++)
                            sum = _mm512_fmadd_ps(
                                _mm512_set1_ps(weight[c * 27 + i]),
                                _mm512_loadu_ps(plane + (i / 9 * wide + y + i / 3 % 3) * wide + x + i % 3), sum);
                        /* tanh(s) = 2 sigmoid(2 s) - 1 */
                        const __m512 two = _mm512_set1_ps(2.0f);
                        const __m512 t = _mm512_fmsub_ps(two, sigmoid(_mm512_mul_ps(two, sum)), _mm512_set1_ps(1.0f));
                        _mm512_mask_storeu_ps(out + ((image * 3 + c) * side + y) * side + x, lanes(side - x), t);
                    }
        }
        free(plane);
    }
    return failed;
}
