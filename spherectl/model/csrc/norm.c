/* Residual, norm and modulation. */
#include "values.h"

/* s = x + gate delta;  out = s / sqrt(mean(s^2) + eps) weight (1 + scale) + shift, row by row.
 * x, sum (rows, D) float32, sum may be x; delta, out (rows, D) bfloat16; weight (D); gate, and shift with scale, one
 * row an image, `gate_stride` and `stride` floats apart. delta, gate, weight, shift with scale, and inverse (rows) may
 * be null. */
int norm_forward(i64 rows, i64 D, i64 rows_per_image, float eps, const float *x, const bf16 *delta,
                 const float *gate, i64 gate_stride, const float *weight, const float *shift, const float *scale,
                 i64 stride, float *sum, bf16 *out, float *inverse) {
#pragma omp parallel for schedule(static)
    for (i64 row = 0; row < rows; row++) {
        const i64 offset = row * D, image = row / rows_per_image;
        const i64 mod_offset = image * stride, gate_offset = image * gate_stride;
        __m512 power = _mm512_setzero_ps();
        for (i64 j = 0; j < D; j += LANES) {
            const __mmask16 m = lanes(D - j);
            __m512 s = loadf(x + offset + j, m);
            if (delta) {
                const __m512 d = load(delta + offset + j, m);
                s = gate ? _mm512_fmadd_ps(loadf(gate + gate_offset + j, m), d, s) : _mm512_add_ps(s, d);
                _mm512_mask_storeu_ps(sum + offset + j, m, s);
            }
            power = _mm512_fmadd_ps(s, s, power);
        }
        const float r = 1.0f / sqrtf(_mm512_reduce_add_ps(power) / (float)D + eps);
        const __m512 wide = _mm512_set1_ps(r);
        const float *s = delta ? sum : x;
        for (i64 j = 0; j < D; j += LANES) {
            const __mmask16 m = lanes(D - j);
            __m512 n = _mm512_mul_ps(loadf(s + offset + j, m), wide);
            if (weight) n = _mm512_mul_ps(n, loadf(weight + j, m));
            if (scale)
                n = _mm512_add_ps(_mm512_fmadd_ps(n, loadf(scale + mod_offset + j, m), n),
                                  loadf(shift + mod_offset + j, m));
            store(out + offset + j, m, n);
        }
        if (inverse) inverse[row] = r;
    }
    return 0;
}

/* Gradients of norm_forward. dout (rows, D) bfloat16 of `out`; dsum (rows, D) float32 of `sum`, or null.
 * dx (rows, D) float32, ddelta (rows, D) bfloat16 or null; dgate, dweight, dshift, dscale (B, D) float32, sums over the
 * rows of each image, null where the input was. */
int norm_backward(i64 images, i64 D, i64 rows_per_image, const bf16 *dout, const float *dsum, const float *sum,
                  const float *inverse, const bf16 *delta, const float *gate, i64 gate_stride, const float *weight,
                  const float *scale, i64 stride, float *dx, bf16 *ddelta, float *dgate, float *dweight, float *dshift,
                  float *dscale) {
#pragma omp parallel for schedule(static)
    for (i64 image = 0; image < images; image++) {
        const i64 image_offset = image * D, mod_offset = image * stride, gate_offset = image * gate_stride;
        float *const sums[] = {dgate, dweight, dshift, dscale};
        for (int k = 0; k < 4; k++)
            if (sums[k]) memset(sums[k] + image_offset, 0, D * sizeof(float));
        for (i64 row = image * rows_per_image; row < (image + 1) * rows_per_image; row++) {
            const i64 offset = row * D;
            const __m512 r = _mm512_set1_ps(inverse[row]);
            __m512 along = _mm512_setzero_ps();
            for (i64 j = 0; j < D; j += LANES) { /* through the modulation and the weight */
                const __mmask16 m = lanes(D - j);
                const __m512 g = load(dout + offset + j, m), s = loadf(sum + offset + j, m), n = _mm512_mul_ps(s, r);
                __m512 u = g;
                if (scale) {
                    const __m512 w = weight ? _mm512_mul_ps(n, loadf(weight + j, m)) : n;
                    add_to(dshift + image_offset + j, m, g);
                    add_to(dscale + image_offset + j, m, _mm512_mul_ps(g, w));
                    u = _mm512_fmadd_ps(g, loadf(scale + mod_offset + j, m), g);
                }
                if (weight) {
                    add_to(dweight + image_offset + j, m, _mm512_mul_ps(u, n));
                    u = _mm512_mul_ps(u, loadf(weight + j, m));
                }
                along = _mm512_fmadd_ps(u, s, along);
                _mm512_mask_storeu_ps(dx + offset + j, m, u);
            }
            const __m512 mean =
                _mm512_mul_ps(_mm512_set1_ps(_mm512_reduce_add_ps(along) / (float)D), _mm512_mul_ps(r, r));
            for (i64 j = 0; j < D; j += LANES) { /* through the norm, then to x, delta and gate */
                const __mmask16 m = lanes(D - j);
                const __m512 u = loadf(dx + offset + j, m), s = loadf(sum + offset + j, m);
                __m512 g = _mm512_mul_ps(r, _mm512_fnmadd_ps(s, mean, u));
                if (dsum) g = _mm512_add_ps(g, loadf(dsum + offset + j, m));
                _mm512_mask_storeu_ps(dx + offset + j, m, g);
                if (dgate) add_to(dgate + image_offset + j, m, _mm512_mul_ps(g, load(delta + offset + j, m)));
                if (ddelta)
                    store(ddelta + offset + j, m, gate ? _mm512_mul_ps(g, loadf(gate + gate_offset + j, m)) : g);
            }
        }
    }
    return 0;
}
