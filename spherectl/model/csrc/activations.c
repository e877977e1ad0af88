/* SwiGLU and SiLU. */
#include "values.h"

/* out = silu(a) b of rows [a | b]; in (rows, 2 h), out (rows, wide), zero beyond h. */
int swiglu_forward(i64 rows, i64 h, i64 wide, const bf16 *in, bf16 *out) {
#pragma omp parallel for schedule(static)
    for (i64 row = 0; row < rows; row++)
        for (i64 j = 0; j < wide; j += LANES) {
            const __mmask16 m = h > j ? lanes(h - j) : 0;
            const __m512 a = load(in + row * 2 * h + j, m), b = load(in + row * 2 * h + h + j, m);
            store(out + row * wide + j, lanes(wide - j), _mm512_mul_ps(_mm512_mul_ps(a, sigmoid(a)), b));
        }
    return 0;
}

/* Gradient din (rows, 2 h) from dout (rows, wide). */
int swiglu_backward(i64 rows, i64 h, i64 wide, const bf16 *in, const bf16 *dout, bf16 *din) {
    const __m512 one = _mm512_set1_ps(1.0f);
#pragma omp parallel for schedule(static)
    for (i64 row = 0; row < rows; row++)
        for (i64 j = 0; j < h; j += LANES) {
            const __mmask16 m = lanes(h - j);
            const i64 offset = row * 2 * h + j;
            const __m512 a = load(in + offset, m), b = load(in + offset + h, m), g = load(dout + row * wide + j, m);
            const __m512 s = sigmoid(a);
            /* d silu = s (1 + a (1 - s)) */
            const __m512 slope = _mm512_mul_ps(s, _mm512_fmadd_ps(a, _mm512_sub_ps(one, s), one));
            store(din + offset, m, _mm512_mul_ps(g, _mm512_mul_ps(b, slope)));
            store(din + offset + h, m, _mm512_mul_ps(g, _mm512_mul_ps(a, s)));
        }
    return 0;
}

/* out = silu(in), `count` values. */
int silu_forward(i64 count, const bf16 *in, bf16 *out) {
#pragma omp parallel for schedule(static)
    for (i64 j = 0; j < count; j += LANES) {
        const __m512 a = load(in + j, lanes(count - j));
        store(out + j, lanes(count - j), _mm512_mul_ps(a, sigmoid(a)));
    }
    return 0;
}

/* din = dout silu'(in), silu' = s (1 + a (1 - s)). */
int silu_backward(i64 count, const bf16 *in, const bf16 *dout, bf16 *din) {
    const __m512 one = _mm512_set1_ps(1.0f);
#pragma omp parallel for schedule(static)
    for (i64 j = 0; j < count; j += LANES) {
        const __mmask16 m = lanes(count - j);
        const __m512 a = load(in + j, m), s = sigmoid(a);
        const __m512 slope = _mm512_mul_ps(s, _mm512_fmadd_ps(a, _mm512_sub_ps(one, s), one));
        store(din + j, m, _mm512_mul_ps(load(dout + j, m), slope));
    }
    return 0;
}
