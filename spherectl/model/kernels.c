/* The networks' blocks for AVX512-BF16 processors: products, and what stands between them in one pass over memory each.
 *
 * Sampling and training run on these, but for a training's products where oneDNN has AMX. Values are bfloat16 in memory
 * where they enter a product, else float32; all sums and functions are float32.
 *
 * Every row (or head, or image) is computed on its own and in one order, so results depend neither on the batch nor on
 * the number of threads. kernels.py compiles this file; fast.py and fused.py call it.
 *
 * Letters: B images, N tokens, D width, H heads, K head width, h hidden width of SwiGLU, C channels of features.
 */
#include <immintrin.h>
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

typedef uint16_t bf16;
typedef int64_t i64;

#define LANES 16
#define ROWS 8 /* rows of a product's tile */

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

/* ------------------------------------------------------------------ residual, norm, modulation */

/* s = x + gate delta;  out = s / sqrt(mean(s^2) + eps) weight (1 + scale) + shift, row by row.
 * x, sum (rows, D) float32, sum may be x; delta, out (rows, D) bfloat16; weight (D); gate, and shift with scale, one row an
 * image, `gate_stride` and `stride` floats apart. delta, gate, weight, shift with scale, and inverse (rows) may be null. */
int norm_forward(i64 rows, i64 D, i64 rows_per_image, float eps, const float *x, const bf16 *delta,
                  const float *gate, i64 gate_stride, const float *weight, const float *shift, const float *scale,
                  i64 stride, float *sum, bf16 *out, float *inverse) {
#pragma omp parallel for schedule(static)
    for (i64 row = 0; row < rows; row++) {
        const i64 at = row * D, of = row / rows_per_image * stride, gate_of = row / rows_per_image * gate_stride;
        __m512 power = _mm512_setzero_ps();
        for (i64 j = 0; j < D; j += LANES) {
            const __mmask16 m = lanes(D - j);
            __m512 s = loadf(x + at + j, m);
            if (delta) {
                const __m512 d = load(delta + at + j, m);
                s = gate ? _mm512_fmadd_ps(loadf(gate + gate_of + j, m), d, s) : _mm512_add_ps(s, d);
                _mm512_mask_storeu_ps(sum + at + j, m, s);
            }
            power = _mm512_fmadd_ps(s, s, power);
        }
        const float r = 1.0f / sqrtf(_mm512_reduce_add_ps(power) / (float)D + eps);
        const __m512 wide = _mm512_set1_ps(r);
        const float *s = delta ? sum : x;
        for (i64 j = 0; j < D; j += LANES) {
            const __mmask16 m = lanes(D - j);
            __m512 n = _mm512_mul_ps(loadf(s + at + j, m), wide);
            if (weight) n = _mm512_mul_ps(n, loadf(weight + j, m));
            if (scale)
                n = _mm512_add_ps(_mm512_fmadd_ps(n, loadf(scale + of + j, m), n), loadf(shift + of + j, m));
            store(out + at + j, m, n);
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
                   const float *scale, i64 stride, float *dx, bf16 *ddelta, float *dgate, float *dweight, float *dshift, float *dscale) {
#pragma omp parallel for schedule(static)
    for (i64 image = 0; image < images; image++) {
        const i64 mine = image * D, of = image * stride, gate_of = image * gate_stride;
        float *const sums[] = {dgate, dweight, dshift, dscale};
        for (int k = 0; k < 4; k++)
            if (sums[k]) memset(sums[k] + mine, 0, D * sizeof(float));
        for (i64 row = image * rows_per_image; row < (image + 1) * rows_per_image; row++) {
            const i64 at = row * D;
            const __m512 r = _mm512_set1_ps(inverse[row]);
            __m512 along = _mm512_setzero_ps();
            for (i64 j = 0; j < D; j += LANES) { /* through the modulation and the weight */
                const __mmask16 m = lanes(D - j);
                const __m512 g = load(dout + at + j, m), s = loadf(sum + at + j, m), n = _mm512_mul_ps(s, r);
                __m512 u = g;
                if (scale) {
                    const __m512 w = weight ? _mm512_mul_ps(n, loadf(weight + j, m)) : n;
                    add_to(dshift + mine + j, m, g);
                    add_to(dscale + mine + j, m, _mm512_mul_ps(g, w));
                    u = _mm512_fmadd_ps(g, loadf(scale + of + j, m), g);
                }
                if (weight) {
                    add_to(dweight + mine + j, m, _mm512_mul_ps(u, n));
                    u = _mm512_mul_ps(u, loadf(weight + j, m));
                }
                along = _mm512_fmadd_ps(u, s, along);
                _mm512_mask_storeu_ps(dx + at + j, m, u);
            }
            const __m512 mean = _mm512_mul_ps(_mm512_set1_ps(_mm512_reduce_add_ps(along) / (float)D), _mm512_mul_ps(r, r));
            for (i64 j = 0; j < D; j += LANES) { /* through the norm, then to x, delta and gate */
                const __mmask16 m = lanes(D - j);
                const __m512 u = loadf(dx + at + j, m), s = loadf(sum + at + j, m);
                __m512 g = _mm512_mul_ps(r, _mm512_fnmadd_ps(s, mean, u));
                if (dsum) g = _mm512_add_ps(g, loadf(dsum + at + j, m));
                _mm512_mask_storeu_ps(dx + at + j, m, g);
                if (dgate) add_to(dgate + mine + j, m, _mm512_mul_ps(g, load(delta + at + j, m)));
                if (ddelta) store(ddelta + at + j, m, gate ? _mm512_mul_ps(g, loadf(gate + gate_of + j, m)) : g);
            }
        }
    }
    return 0;
}

/* ------------------------------------------------------------------ SwiGLU */

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
            const i64 at = row * 2 * h + j;
            const __m512 a = load(in + at, m), b = load(in + at + h, m), g = load(dout + row * wide + j, m);
            const __m512 s = sigmoid(a);
            /* d silu = s (1 + a (1 - s)) */
            const __m512 slope = _mm512_mul_ps(s, _mm512_fmadd_ps(a, _mm512_sub_ps(one, s), one));
            store(din + at, m, _mm512_mul_ps(g, _mm512_mul_ps(b, slope)));
            store(din + at + h, m, _mm512_mul_ps(g, _mm512_mul_ps(a, s)));
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

/* ------------------------------------------------------------------ distance of features */

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

/* ------------------------------------------------------------------ linear pixel head */

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
                float *at = plane + c * wide * wide;
                for (i64 y = 0; y < side; y++)
                    for (i64 g = 0; g < G; g++) {
                        const bf16 *from = tokens + ((image * G * G + y / p * G + g) * 3 + c) * p * p + y % p * p;
                        for (i64 x = 0; x < p; x++) {
                            const uint32_t bits = (uint32_t)from[x] << 16;
                            memcpy(at + (y + 1) * wide + 1 + g * p + x, &bits, sizeof bits);
                        }
                    }
                for (i64 y = 1; y <= side; y++) {
                    at[y * wide] = at[y * wide + 2];
                    at[y * wide + side + 1] = at[y * wide + side - 1];
                }
                memcpy(at, at + 2 * wide, wide * sizeof(float));
                memcpy(at + (side + 1) * wide, at + (side - 1) * wide, wide * sizeof(float));
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

/* ------------------------------------------------------------------ small products
 * Operands are 32-bit words that hold two bfloat16 neighbours along the summed axis, as the instruction takes them. */

/* sum + a b over both halves of each word. Not the intrinsic: with its type GCC 12 keeps operands in memory, at half
 * the speed. */
static inline __m512 dot(__m512 sum, __m512i a, __m512i b) {
    __asm__("vdpbf16ps %2, %1, %0" : "+v"(sum) : "v"(a), "v"(b));
    return sum;
}

/* sum + a b over the four bytes of each word, a unsigned, b signed; the sums are integers. */
static inline __m512 dot_bytes(__m512 sum, __m512i a, __m512i b) {
    __asm__("vpdpbusd %2, %1, %0" : "+v"(sum) : "v"(a), "v"(b));
    return sum;
}

/* C (m, n) = A B over `pairs` words; A's word of row i, pair p at i ai + p ap; B's of pair p, column j at p bp + j.
 * m is a multiple of ROWS, n of LANES. */
static void product(i64 m, i64 n, i64 pairs, const uint32_t *a, i64 ai, i64 ap, const uint32_t *b, i64 bp, float *c,
                    i64 ldc) {
    for (i64 i = 0; i < m; i += ROWS) {
        const uint32_t *rows = a + i * ai;
        i64 j = 0;
        for (; j + 2 * LANES <= n; j += 2 * LANES) {
            __m512 acc[ROWS][2];
            for (int r = 0; r < ROWS; r++) acc[r][0] = acc[r][1] = _mm512_setzero_ps();
            for (i64 p = 0; p < pairs; p++) {
                const __m512i b0 = _mm512_loadu_si512(b + p * bp + j);
                const __m512i b1 = _mm512_loadu_si512(b + p * bp + j + LANES);
#pragma GCC unroll 8
                for (int r = 0; r < ROWS; r++) {
                    const __m512i word = _mm512_set1_epi32((int)rows[r * ai + p * ap]);
                    acc[r][0] = dot(acc[r][0], word, b0);
                    acc[r][1] = dot(acc[r][1], word, b1);
                }
            }
            for (int r = 0; r < ROWS; r++) {
                _mm512_storeu_ps(c + (i + r) * ldc + j, acc[r][0]);
                _mm512_storeu_ps(c + (i + r) * ldc + j + LANES, acc[r][1]);
            }
        }
        if (j < n) {
            __m512 acc[ROWS];
            for (int r = 0; r < ROWS; r++) acc[r] = _mm512_setzero_ps();
            for (i64 p = 0; p < pairs; p++) {
                const __m512i b0 = _mm512_loadu_si512(b + p * bp + j);
#pragma GCC unroll 8
                for (int r = 0; r < ROWS; r++)
                    acc[r] = dot(acc[r], _mm512_set1_epi32((int)rows[r * ai + p * ap]), b0);
            }
            for (int r = 0; r < ROWS; r++) _mm512_storeu_ps(c + (i + r) * ldc + j, acc[r]);
        }
    }
}

/* words (pairs, ld): word j of pair p = (row 2 p, row 2 p + 1) at column j. x (2 pairs, ld) bfloat16, ld of LANES. */
static void interleave(i64 pairs, i64 ld, const bf16 *x, uint32_t *words) {
    for (i64 p = 0; p < pairs; p++)
        for (i64 j = 0; j < ld; j += LANES) {
            const __m512i low = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)(x + 2 * p * ld + j)));
            const __m512i high = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)(x + (2 * p + 1) * ld + j)));
            _mm512_storeu_si512(words + p * ld + j, _mm512_or_si512(low, _mm512_slli_epi32(high, 16)));
        }
}

/* words (pairs, n) of x (n, ld) bfloat16: word i of pair p = columns 2 p, 2 p + 1 of row i. */
static void transpose(i64 n, i64 ld, i64 pairs, const bf16 *x, uint32_t *words) {
    const uint32_t *from = (const uint32_t *)x;
    for (i64 i = 0; i < n; i += LANES)
        for (i64 p = 0; p < pairs; p++)
            for (i64 k = i; k < i + LANES; k++) words[p * n + k] = from[k * (ld / 2) + p];
}

/* ------------------------------------------------------------------ linears
 * Weights come packed: panels (ceil(columns / 32), inner / 2, 32) of words, zeros beyond the last column. */

#define PANEL (2 * LANES)
#define BLOCK 64 /* rows a thread takes at a time */

/* What becomes of a product's sums. */
enum { PLAIN, SILU, SWIGLU, RESIDUAL };

/* PLAIN     out (rows, columns) bfloat16 = x W^T + bias
 * SILU      silu of it
 * SWIGLU    out (rows, columns / 2) bfloat16 = silu(a) b; each panel holds 16 columns of a, then the same of b
 * RESIDUAL  out (rows, columns) float32 += gate (x W^T + bias); gate one row an image, `gate_stride` apart, or null
 * x (rows, words) of 32 bits, at least ROWS rows: two bfloat16 each or, with `factors`, four bytes; bias (columns)
 * float32. A byte stands for (byte - 128) row_factors[row], a weight for weight factors[column]; sums begin at
 * `starts`, which takes off what the 128 add. Always inlined, so that each kind of word has a loop of its own. */
static inline __attribute__((always_inline)) void
linear(const int bytes, i64 rows, i64 words, i64 columns, i64 kind, const uint32_t *x, const float *row_factors,
       const uint32_t *panels, const float *factors, const int32_t *starts, const float *bias, const float *gate,
       i64 gate_stride, i64 rows_per_image, void *out) {
    const i64 block = rows < 2 * BLOCK ? BLOCK / 2 : BLOCK, blocks = (rows + block - 1) / block;
    const i64 width = kind == SWIGLU ? columns / 2 : columns;
#pragma omp parallel for schedule(static)
    for (i64 part = 0; part < blocks; part++) {
        const i64 last = (part + 1) * block < rows ? (part + 1) * block : rows;
        for (i64 j = 0; j < columns; j += PANEL) {
            const uint32_t *panel = panels + j * words;
            const __mmask16 m0 = lanes(columns - j), m1 = columns - j > LANES ? lanes(columns - j - LANES) : 0;
            const __m512 bias0 = loadf(bias + j, m0), bias1 = loadf(bias + j + LANES, m1);
            for (i64 i = part * block; i < last; i += ROWS) {
                const i64 top = i + ROWS <= rows ? i : rows - ROWS; /* the last tile goes over some rows again */
                const uint32_t *a = x + top * words;
                __m512 acc[ROWS][2];
                for (int r = 0; r < ROWS; r++) {
                    acc[r][0] = bytes ? _mm512_castsi512_ps(_mm512_loadu_si512(starts + j)) : _mm512_setzero_ps();
                    acc[r][1] = bytes ? _mm512_castsi512_ps(_mm512_loadu_si512(starts + j + LANES)) : acc[r][0];
                }
                for (i64 p = 0; p < words; p++) {
                    const __m512i b0 = _mm512_loadu_si512(panel + p * PANEL);
                    const __m512i b1 = _mm512_loadu_si512(panel + p * PANEL + LANES);
#pragma GCC unroll 8
                    for (int r = 0; r < ROWS; r++) {
                        const __m512i word = _mm512_set1_epi32((int)a[r * words + p]);
                        acc[r][0] = bytes ? dot_bytes(acc[r][0], word, b0) : dot(acc[r][0], word, b0);
                        acc[r][1] = bytes ? dot_bytes(acc[r][1], word, b1) : dot(acc[r][1], word, b1);
                    }
                }
#pragma GCC unroll 8
                for (int r = 0; r < ROWS; r++) {
                    const i64 row = top + r, at = row * width + (kind == SWIGLU ? j / 2 : j);
                    __m512 first = acc[r][0], second = acc[r][1];
                    if (row < i) continue; /* already there */
                    if (bytes) {
                        const __m512 factor = _mm512_set1_ps(row_factors[row]);
                        const __m512 f0 = _mm512_mul_ps(factor, _mm512_loadu_ps(factors + j));
                        const __m512 f1 = _mm512_mul_ps(factor, _mm512_loadu_ps(factors + j + LANES));
                        first = _mm512_mul_ps(_mm512_cvtepi32_ps(_mm512_castps_si512(first)), f0);
                        second = _mm512_mul_ps(_mm512_cvtepi32_ps(_mm512_castps_si512(second)), f1);
                    }
                    first = _mm512_add_ps(first, bias0), second = _mm512_add_ps(second, bias1);
                    if (kind == SWIGLU) {
                        store((bf16 *)out + at, 0xFFFF, _mm512_mul_ps(_mm512_mul_ps(first, sigmoid(first)), second));
                    } else if (kind == RESIDUAL) {
                        float *to = (float *)out + at;
                        if (gate) {
                            const float *by = gate + row / rows_per_image * gate_stride + j;
                            first = _mm512_mul_ps(first, loadf(by, m0));
                            second = _mm512_mul_ps(second, loadf(by + LANES, m1));
                        }
                        add_to(to, m0, first), add_to(to + LANES, m1, second);
                    } else {
                        if (kind == SILU)
                            first = _mm512_mul_ps(first, sigmoid(first)), second = _mm512_mul_ps(second, sigmoid(second));
                        store((bf16 *)out + at, m0, first), store((bf16 *)out + at + LANES, m1, second);
                    }
                }
            }
        }
    }
}

int linear_forward(i64 rows, i64 inner, i64 columns, i64 kind, const uint32_t *x, const uint32_t *panels,
                   const float *bias, const float *gate, i64 gate_stride, i64 rows_per_image, void *out) {
    linear(0, rows, inner / 2, columns, kind, x, NULL, panels, NULL, NULL, bias, gate, gate_stride, rows_per_image, out);
    return 0;
}

int linear_forward_bytes(i64 rows, i64 inner, i64 columns, i64 kind, const uint32_t *x, const float *row_factors,
                         const uint32_t *panels, const float *factors, const int32_t *starts, const float *bias,
                         const float *gate, i64 gate_stride, i64 rows_per_image, void *out) {
    linear(1, rows, inner / 4, columns, kind, x, row_factors, panels, factors, starts, bias, gate, gate_stride,
           rows_per_image, out);
    return 0;
}

/* x (rows, columns) bfloat16 to bytes round(x / factor) + 128, factor = max |x| / 127 of each row. */
int bytes_forward(i64 rows, i64 columns, const bf16 *x, uint8_t *out, float *factors) {
#pragma omp parallel for schedule(static)
    for (i64 row = 0; row < rows; row++) {
        const bf16 *from = x + row * columns;
        __m512 top = _mm512_setzero_ps();
        for (i64 j = 0; j < columns; j += LANES)
            top = _mm512_max_ps(top, _mm512_abs_ps(load(from + j, lanes(columns - j))));
        const float most = fmaxf(_mm512_reduce_max_ps(top), 1e-30f);
        const __m512 by = _mm512_set1_ps(127.0f / most);
        for (i64 j = 0; j < columns; j += LANES) {
            const __mmask16 m = lanes(columns - j);
            const __m512i q = _mm512_cvtps_epi32(_mm512_mul_ps(load(from + j, m), by));
            _mm_mask_storeu_epi8(out + row * columns + j, m,
                                 _mm512_cvtepi32_epi8(_mm512_add_epi32(q, _mm512_set1_epi32(128))));
        }
        factors[row] = most / 127.0f;
    }
    return 0;
}

/* Panels of a weight (outputs, inputs) float32 for x W^T, or, `turned`, for dy W: then its columns are the inputs. Zeros
 * beyond; `inner`, even, is the length of the rows that the product will see. */
int panels_forward(i64 outputs, i64 inputs, i64 inner, i64 turned, const float *weight, uint32_t *panels) {
    const i64 columns = turned ? inputs : outputs, depth = turned ? outputs : inputs;
    const __m512i ladder = _mm512_mullo_epi32(_mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15),
                                              _mm512_set1_epi32((int)inputs));
#pragma omp parallel for schedule(static)
    for (i64 j = 0; j < up(columns, PANEL); j += LANES) {
        const __mmask16 m = columns > j ? lanes(columns - j) : 0;
        uint32_t *to = panels + j / PANEL * PANEL * (inner / 2) + j % PANEL;
        for (i64 p = 0; p < inner / 2; p++) {
            __m512 pair[2];
            for (i64 k = 0; k < 2; k++) {
                const __mmask16 here = 2 * p + k < depth ? m : 0;
                pair[k] = turned ? loadf(weight + (2 * p + k) * inputs + j, here)
                                 : _mm512_mask_i32gather_ps(_mm512_setzero_ps(), here, ladder,
                                                            weight + j * inputs + 2 * p + k, sizeof(float));
            }
            const __m512i low = _mm512_cvtepu16_epi32(narrow(pair[0])), high = _mm512_cvtepu16_epi32(narrow(pair[1]));
            _mm512_storeu_si512(to + p * PANEL, _mm512_or_si512(low, _mm512_slli_epi32(high, 16)));
        }
    }
    return 0;
}

/* A thread's buffers, all zero at first: what lies beyond the tokens and beyond the columns stays zero. */
static void *buffer(size_t bytes) {
    void *p = aligned_alloc(64, up((i64)bytes, 64));
    if (p) memset(p, 0, bytes);
    return p;
}

#define DEPTH 256 /* rows that are summed before a tile of the gradient goes back to memory */

/* Pairs of rows of x (rows, stride), columns `from` to `from` + count, as words (pairs, ld), ld of LANES; zeros beyond. */
static void pair_up(i64 rows, i64 stride, i64 from, i64 count, i64 ld, const bf16 *x, uint32_t *words) {
    for (i64 p = 0; p < (rows + 1) / 2; p++)
        for (i64 j = 0; j < ld; j += LANES) {
            const __mmask16 m = count > j ? lanes(count - j) : 0, second = 2 * p + 1 < rows ? m : 0;
            const bf16 *at = x + 2 * p * stride + from + j;
            const __m512i low = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(m, at));
            const __m512i high = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(second, at + stride));
            _mm512_storeu_si512(words + p * ld + j, _mm512_or_si512(low, _mm512_slli_epi32(high, 16)));
        }
}

/* Gradients of a linear's weight (outputs, inputs) and bias (outputs), float32: dy^T x and the sums of dy, over rows.
 * x (rows, stride) bfloat16, of which `inputs` count; dy (rows, outputs) bfloat16. Nonzero: no memory. */
int linear_backward(i64 rows, i64 inputs, i64 stride, i64 outputs, const bf16 *x, const bf16 *dy, float *dweight,
                    float *dbias) {
    const i64 share = 4 * LANES, k = up(inputs, PANEL);
    const __m512i ones = _mm512_set1_epi32(0x3F803F80); /* a pair of 1.0 */
    int failed = 0;
#pragma omp parallel
    {
        uint32_t *a = buffer(DEPTH / 2 * share * 4), *b = buffer(DEPTH / 2 * k * 4);
        float *sums = buffer(share * k * 4);
        const int ready = a && b && sums;
        if (!ready) failed = 1;
#pragma omp for schedule(static)
        for (i64 first = 0; first < outputs; first += share) {
            if (!ready) continue;
            const i64 mine = outputs - first < share ? outputs - first : share;
            __m512 bias[4];
            for (int c = 0; c < 4; c++) bias[c] = _mm512_setzero_ps();
            memset(sums, 0, share * k * sizeof(float));
            for (i64 row = 0; row < rows; row += DEPTH) {
                const i64 some = rows - row < DEPTH ? rows - row : DEPTH, pairs = (some + 1) / 2;
                pair_up(some, outputs, first, mine, share, dy + row * outputs, a);
                pair_up(some, stride, 0, inputs, k, x + row * stride, b);
                for (i64 p = 0; p < pairs; p++)
                    for (int c = 0; c < 4; c++)
                        bias[c] = dot(bias[c], _mm512_loadu_si512(a + p * share + c * LANES), ones);
                for (i64 i = 0; i < mine; i += ROWS)
                    for (i64 j = 0; j < k; j += PANEL) {
                        __m512 acc[ROWS][2];
                        for (int r = 0; r < ROWS; r++) {
                            acc[r][0] = _mm512_loadu_ps(sums + (i + r) * k + j);
                            acc[r][1] = _mm512_loadu_ps(sums + (i + r) * k + j + LANES);
                        }
                        for (i64 p = 0; p < pairs; p++) {
                            const __m512i b0 = _mm512_loadu_si512(b + p * k + j);
                            const __m512i b1 = _mm512_loadu_si512(b + p * k + j + LANES);
#pragma GCC unroll 8
                            for (int r = 0; r < ROWS; r++) {
                                const __m512i word = _mm512_set1_epi32((int)a[p * share + i + r]);
                                acc[r][0] = dot(acc[r][0], word, b0);
                                acc[r][1] = dot(acc[r][1], word, b1);
                            }
                        }
                        for (int r = 0; r < ROWS; r++) {
                            _mm512_storeu_ps(sums + (i + r) * k + j, acc[r][0]);
                            _mm512_storeu_ps(sums + (i + r) * k + j + LANES, acc[r][1]);
                        }
                    }
            }
            for (i64 i = 0; i < mine; i++)
                memcpy(dweight + (first + i) * inputs, sums + i * k, inputs * sizeof(float));
            for (int c = 0; dbias && c < 4; c++)
                if (mine > c * LANES)
                    _mm512_mask_storeu_ps(dbias + first + c * LANES, lanes(mine - c * LANES), bias[c]);
        }
        free(a), free(b), free(sums);
    }
    return failed;
}

/* The same over the tokens of each image: out (B, N, columns) = W x + bias, kinds SILU and RESIDUAL, gate one number.
 * x (B, N, columns) bfloat16; weight (n, n) bfloat16 and bias (n) float32 with zeros beyond N, n = N rounded up to 16. */
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
                product(ROWS, c, n / 2, (const uint32_t *)(weight + i * n), n / 2, 1, pairs, c, sums, c);
                for (i64 r = 0; r < ROWS && i + r < N; r++)
                    for (i64 j = 0; j < columns; j += LANES) {
                        const __mmask16 m = lanes(columns - j);
                        const i64 at = (image * N + i + r) * columns + j;
                        const __m512 s = _mm512_add_ps(_mm512_loadu_ps(sums + r * c + j), _mm512_set1_ps(bias[i + r]));
                        if (kind == RESIDUAL) add_to((float *)out + at, m, _mm512_mul_ps(s, _mm512_set1_ps(gate)));
                        else store((bf16 *)out + at, m, _mm512_mul_ps(s, sigmoid(s)));
                    }
            }
        }
        free(rows), free(pairs), free(sums);
    }
    return failed;
}

/* ------------------------------------------------------------------ rotary embedding and attention */

static inline __m512 swapped(__m512 x) { return _mm512_permute_ps(x, 0xB1); } /* (x1, x0), (x3, x2), ... */

/* Copy `tokens` rows of K values, `stride` apart, into rows of `ld`; turned where there is a table (2, N, K) of cosines
 * and of sines signed -, +. */
static void gather(i64 tokens, i64 K, i64 ld, const bf16 *x, i64 stride, const float *table, bf16 *to) {
    const float *sine = table + tokens * K;
    for (i64 i = 0; i < tokens; i++)
        for (i64 j = 0; j < K; j += LANES) {
            const __mmask16 m = lanes(K - j);
            __m512 y = load(x + i * stride + j, m);
            if (table)
                y = _mm512_fmadd_ps(swapped(y), loadf(sine + i * K + j, m), _mm512_mul_ps(y, loadf(table + i * K + j, m)));
            store(to + i * ld + j, m, y);
        }
}

/* The way back, for gradients: float32 rows of `ld` to bfloat16 rows `stride` apart, turned back. */
static void scatter(i64 first, i64 rows, i64 tokens, i64 K, i64 ld, const float *x, const float *table, bf16 *to,
                    i64 stride) {
    const float *sine = table + tokens * K;
    for (i64 i = 0; i < rows; i++)
        for (i64 j = 0; j < K; j += LANES) {
            const __mmask16 m = lanes(K - j);
            const i64 at = (first + i) * K + j;
            __m512 y = loadf(x + i * ld + j, m);
            if (table) y = _mm512_fnmadd_ps(swapped(y), loadf(sine + at, m), _mm512_mul_ps(y, loadf(table + at, m)));
            store(to + (first + i) * stride + j, m, y);
        }
}

/* softmax(q k^T scale) v with q and k turned. qkv (B, N, 3, H, K) bfloat16, out (B, N, H, K) bfloat16;
 * norms (B, H, N), or null, takes the logarithm of each row's sum for the backward pass. Nonzero: no memory. */
int attention_forward(i64 images, i64 N, i64 H, i64 K, float scale, const bf16 *qkv, const float *table, bf16 *out,
                      float *norms) {
    const i64 n = up(N, LANES), k = up(K, LANES), stride = 3 * H * K;
    int failed = 0;
#pragma omp parallel
    {
        bf16 *q = buffer(n * k * 2), *rows = buffer(n * k * 2), *weights = buffer(ROWS * n * 2);
        uint32_t *keys = buffer(k / 2 * n * 4), *values = buffer(n / 2 * k * 4);
        float *scores = buffer(ROWS * n * 4), *sums = buffer(ROWS * k * 4);
        const int ready = q && rows && weights && keys && values && scores && sums;
        if (!ready) failed = 1;
#pragma omp for schedule(static)
        for (i64 item = 0; item < images * H; item++) {
            if (!ready) continue;
            const i64 image = item / H, head = item % H;
            const bf16 *from = qkv + image * N * stride + head * K;
            gather(N, K, k, from, stride, table, q);
            gather(N, K, k, from + H * K, stride, table, rows);
            transpose(n, k, K / 2, rows, keys);
            gather(N, K, k, from + 2 * H * K, stride, NULL, rows);
            interleave(n / 2, k, rows, values);
            for (i64 i = 0; i < N; i += ROWS) {
                product(ROWS, n, K / 2, (const uint32_t *)(q + i * k), k / 2, 1, keys, n, scores, n);
                float total[ROWS];
                for (int r = 0; r < ROWS; r++) {
                    const float *s = scores + r * n;
                    __m512 top = _mm512_set1_ps(-INFINITY), sum = _mm512_setzero_ps();
                    for (i64 j = 0; j < N; j += LANES)
                        top = _mm512_mask_max_ps(top, lanes(N - j), top, _mm512_loadu_ps(s + j));
                    const float most = _mm512_reduce_max_ps(top);
                    for (i64 j = 0; j < N; j += LANES) {
                        const __m512 t = _mm512_sub_ps(_mm512_loadu_ps(s + j), _mm512_set1_ps(most));
                        const __m512 e = _mm512_maskz_mov_ps(lanes(N - j), exponential(_mm512_mul_ps(t, _mm512_set1_ps(scale))));
                        store(weights + r * n + j, 0xFFFF, e);
                        sum = _mm512_add_ps(sum, e);
                    }
                    total[r] = _mm512_reduce_add_ps(sum);
                    if (norms && i + r < N) norms[item * N + i + r] = most * scale + logf(total[r]);
                }
                product(ROWS, k, n / 2, (const uint32_t *)weights, n / 2, 1, values, k, sums, k);
                for (int r = 0; r < ROWS && i + r < N; r++) {
                    const __m512 share = _mm512_set1_ps(1.0f / total[r]);
                    for (i64 j = 0; j < K; j += LANES)
                        store(out + ((image * N + i + r) * H + head) * K + j, lanes(K - j),
                              _mm512_mul_ps(_mm512_loadu_ps(sums + r * k + j), share));
                }
            }
        }
        free(q), free(rows), free(weights), free(keys), free(values), free(scores), free(sums);
    }
    return failed;
}

/* Gradient dqkv (B, N, 3, H, K) from dout (B, N, H, K); the weights are computed again from qkv and norms.
 * With P the weights and o the output: dV = P^T do; dS = P (do V^T - rowsum(do o)); dQ = dS K; dK = dS^T Q. */
int attention_backward(i64 images, i64 N, i64 H, i64 K, float scale, const bf16 *qkv, const float *table,
                       const bf16 *out, const float *norms, const bf16 *dout, bf16 *dqkv) {
    const i64 n = up(N, LANES), k = up(K, LANES), stride = 3 * H * K;
    int failed = 0;
#pragma omp parallel
    {
        bf16 *q = buffer(n * k * 2), *rows = buffer(n * k * 2), *grad = buffer(n * k * 2);
        bf16 *p = buffer(ROWS * n * 2), *ds = buffer(ROWS * n * 2);
        uint32_t *keys = buffer(k / 2 * n * 4), *values = buffer(k / 2 * n * 4), *key_pairs = buffer(n / 2 * k * 4);
        uint32_t *query_pairs = buffer(n / 2 * k * 4), *grad_pairs = buffer(n / 2 * k * 4);
        uint32_t *all_p = buffer(n / 2 * n * 4), *all_ds = buffer(n / 2 * n * 4);
        float *scores = buffer(ROWS * n * 4), *slopes = buffer(ROWS * n * 4), *sums = buffer(n * k * 4);
        const int ready = q && rows && grad && p && ds && keys && values && key_pairs && query_pairs && grad_pairs &&
                          all_p && all_ds && scores && slopes && sums;
        if (!ready) failed = 1;
#pragma omp for schedule(static)
        for (i64 item = 0; item < images * H; item++) {
            if (!ready) continue;
            const i64 image = item / H, head = item % H;
            const bf16 *from = qkv + image * N * stride + head * K;
            bf16 *to = dqkv + image * N * stride + head * K;
            gather(N, K, k, from, stride, table, q);
            interleave(n / 2, k, q, query_pairs);
            gather(N, K, k, from + H * K, stride, table, rows);
            transpose(n, k, K / 2, rows, keys);
            interleave(n / 2, k, rows, key_pairs);
            gather(N, K, k, from + 2 * H * K, stride, NULL, rows);
            transpose(n, k, K / 2, rows, values);
            gather(N, K, k, dout + (image * N * H + head) * K, H * K, NULL, grad);
            interleave(n / 2, k, grad, grad_pairs);
            for (i64 i = 0; i < n; i += ROWS) {
                product(ROWS, n, K / 2, (const uint32_t *)(q + i * k), k / 2, 1, keys, n, scores, n);
                product(ROWS, n, K / 2, (const uint32_t *)(grad + i * k), k / 2, 1, values, n, slopes, n);
                for (int r = 0; r < ROWS; r++) {
                    if (i + r >= N) { /* beyond the tokens */
                        memset(p + r * n, 0, n * 2), memset(ds + r * n, 0, n * 2);
                        continue;
                    }
                    __m512 along = _mm512_setzero_ps();
                    for (i64 j = 0; j < K; j += LANES)
                        along = _mm512_fmadd_ps(load(grad + (i + r) * k + j, lanes(K - j)),
                                              load(out + ((image * N + i + r) * H + head) * K + j, lanes(K - j)), along);
                    const __m512 own = _mm512_set1_ps(_mm512_reduce_add_ps(along));
                    const __m512 norm = _mm512_set1_ps(norms[item * N + i + r]), by = _mm512_set1_ps(scale);
                    for (i64 j = 0; j < n; j += LANES) {
                        const __m512 t = _mm512_fmsub_ps(_mm512_loadu_ps(scores + r * n + j), by, norm);
                        const __m512 e = _mm512_maskz_mov_ps(lanes(N > j ? N - j : 0), exponential(t));
                        const __m512 g = _mm512_sub_ps(_mm512_loadu_ps(slopes + r * n + j), own);
                        store(p + r * n + j, 0xFFFF, e);
                        store(ds + r * n + j, 0xFFFF, _mm512_mul_ps(_mm512_mul_ps(e, g), by));
                    }
                }
                interleave(ROWS / 2, n, p, all_p + i / 2 * n);
                interleave(ROWS / 2, n, ds, all_ds + i / 2 * n);
                product(ROWS, k, n / 2, (const uint32_t *)ds, n / 2, 1, key_pairs, k, sums, k);
                scatter(i, N - i < ROWS ? N - i : ROWS, N, K, k, sums, table, to, stride);
            }
            product(n, k, n / 2, all_ds, 1, n, query_pairs, k, sums, k);
            scatter(0, N, N, K, k, sums, table, to + H * K, stride);
            product(n, k, n / 2, all_p, 1, n, grad_pairs, k, sums, k);
            scatter(0, N, N, K, k, sums, NULL, to + 2 * H * K, stride);
        }
        free(q), free(rows), free(grad), free(p), free(ds), free(keys), free(values), free(key_pairs);
        free(query_pairs), free(grad_pairs), free(all_p), free(all_ds), free(scores), free(slopes), free(sums);
    }
    return failed;
}
