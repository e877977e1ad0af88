/* Values and vectors of them, for AVX512-BF16 processors: the basis of every kernel in this folder.
 *
 * The kernels are the parts of the networks' blocks: products, and one pass over memory for what lies between two
 * products. Sampling and training run on them. Values are bfloat16 in memory where they enter a product, else float32;
 * all sums and functions are float32.
 *
 * Every row (or head, or image) is computed on its own and in one order, so results depend neither on the batch nor on
 * the number of threads. kernels.py compiles the folder; fast.py, fused.py and training/perceptual.py call it.
 *
 * Letters: B images, N tokens, D width, H heads, K head width, h hidden width of SwiGLU, C channels of features.
 */
#pragma once

#include <immintrin.h>
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

typedef uint16_t bf16;
typedef int64_t i64;

#define LANES 16
#define PANEL (2 * LANES) /* columns of a panel of a packed weight */

static inline i64 up(i64 n, i64 multiple) { return (n + multiple - 1) / multiple * multiple; }
static inline __mmask16 lanes(i64 left) { return left >= LANES ? 0xFFFF : (__mmask16)((1u << left) - 1); }

static inline __m512 widen(__m256i x) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(x), 16));
}
static inline __m256i narrow(__m512 x) { return (__m256i)_mm512_cvtneps_pbh(x); }
static inline __m512 load(const bf16 *p, __mmask16 m) { return widen(_mm256_maskz_loadu_epi16(m, p)); }
static inline void store(bf16 *p, __mmask16 m, __m512 x) { _mm256_mask_storeu_epi16(p, m, narrow(x)); }
static inline __m512 loadf(const float *p, __mmask16 m) { return _mm512_maskz_loadu_ps(m, p); }
static inline void add_to(float *p, __mmask16 m, __m512 x) {
    _mm512_mask_storeu_ps(p, m, _mm512_add_ps(loadf(p, m), x));
}

/* exp(x) = 2^n 2^f, n integer, |f| <= 1/2; the polynomial is Taylor's of 2^f up to f^6, relative error under 2e-7. */
static inline __m512 exponential(__m512 x) {
    const __m512 t = _mm512_mul_ps(x, _mm512_set1_ps(1.44269504089f));
    const __m512 n = _mm512_roundscale_ps(t, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    const __m512 f = _mm512_sub_ps(t, n);
    __m512 y = _mm512_set1_ps(1.54035304e-4f);
    y = _mm512_fmadd_ps(y, f, _mm512_set1_ps(1.33335581e-3f));
    y = _mm512_fmadd_ps(y, f, _mm512_set1_ps(9.61812911e-3f));
    y = _mm512_fmadd_ps(y, f, _mm512_set1_ps(5.55041087e-2f));
    y = _mm512_fmadd_ps(y, f, _mm512_set1_ps(2.40226507e-1f));
    y = _mm512_fmadd_ps(y, f, _mm512_set1_ps(6.93147181e-1f));
    y = _mm512_fmadd_ps(y, f, _mm512_set1_ps(1.0f));
    return _mm512_scalef_ps(y, n);
}

static inline __m512 sigmoid(__m512 x) {
    const __m512 one = _mm512_set1_ps(1.0f);
    return _mm512_div_ps(one, _mm512_add_ps(one, exponential(_mm512_sub_ps(_mm512_setzero_ps(), x))));
}
