/* The distance of two networks' features. */
#include "values.h"

static inline float square_sum(i64 C, const bf16 *a) {
    __m512 sum = _mm512_setzero_ps();
    for (i64 j = 0; j < C; j += LANES) {
        const __m512 x = load(a + j, lanes(C - j));
        sum = _mm512_fmadd_ps(x, x, sum);
    }
    return _mm512_reduce_add_ps(sum);
}

/* out = |u - v|^2, u = a / sqrt(a.a + eps), v = b / sqrt(b.b + eps), row by row; a, b (rows, C), out (rows).
 * inverse (rows, 2) gets one over either root. */
int unit_distance_forward(i64 rows, i64 C, float eps, const bf16 *a, const bf16 *b, float *out, float *inverse) {
#pragma omp parallel for schedule(static)
    for (i64 row = 0; row < rows; row++) {
        const bf16 *p = a + row * C, *q = b + row * C;
        const float r = 1.0f / sqrtf(square_sum(C, p) + eps), s = 1.0f / sqrtf(square_sum(C, q) + eps);
        __m512 sum = _mm512_setzero_ps();
        for (i64 j = 0; j < C; j += LANES) {
            const __mmask16 m = lanes(C - j);
            const __m512 v = _mm512_mul_ps(load(q + j, m), _mm512_set1_ps(s));
            const __m512 d = _mm512_fmsub_ps(load(p + j, m), _mm512_set1_ps(r), v);
            sum = _mm512_fmadd_ps(d, d, sum);
        }
        out[row] = _mm512_reduce_add_ps(sum);
        inverse[2 * row] = r;
        inverse[2 * row + 1] = s;
    }
    return 0;
}

/* Gradient da (rows, C) from dout (rows): 2 dout r (w - u (u.w)), w = u - v, r = inverse of a's root. */
int unit_distance_backward(i64 rows, i64 C, const bf16 *a, const bf16 *b, const float *inverse, const float *dout,
                           bf16 *da) {
#pragma omp parallel for schedule(static)
    for (i64 row = 0; row < rows; row++) {
        const bf16 *p = a + row * C, *q = b + row * C;
        const __m512 r = _mm512_set1_ps(inverse[2 * row]), s = _mm512_set1_ps(inverse[2 * row + 1]);
        __m512 sum = _mm512_setzero_ps();
        for (i64 j = 0; j < C; j += LANES) {
            const __mmask16 m = lanes(C - j);
            const __m512 u = _mm512_mul_ps(load(p + j, m), r);
            sum = _mm512_fmadd_ps(u, _mm512_fnmadd_ps(load(q + j, m), s, u), sum);
        }
        const __m512 along = _mm512_set1_ps(_mm512_reduce_add_ps(sum));
        const __m512 g = _mm512_set1_ps(2.0f * dout[row] * inverse[2 * row]);
        for (i64 j = 0; j < C; j += LANES) {
            const __mmask16 m = lanes(C - j);
            const __m512 u = _mm512_mul_ps(load(p + j, m), r);
            const __m512 w = _mm512_fnmadd_ps(load(q + j, m), s, u);
            store(da + row * C + j, m, _mm512_mul_ps(g, _mm512_fnmadd_ps(u, along, w)));
        }
    }
    return 0;
}
