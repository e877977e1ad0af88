/* Small products. Their operands are 32-bit words that hold two bfloat16 neighbours along the summed axis, as the
 * instruction takes them. */
#pragma once

#include "values.h"

#define ROWS 8            /* rows of a product's tile */
#define PANEL (2 * LANES) /* columns of a packed weight's panel */

/* What becomes of a product's sums. */
enum { PLAIN, SILU, SWIGLU, RESIDUAL };

/* A thread's buffers, all zero at first: what lies beyond the tokens and beyond the columns stays zero. */
static inline void *buffer(size_t bytes) {
    void *p = aligned_alloc(64, up((i64)bytes, 64));
    if (p) memset(p, 0, bytes);
    return p;
}

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
static inline void product(i64 m, i64 n, i64 pairs, const uint32_t *a, i64 ai, i64 ap, const uint32_t *b, i64 bp,
                           float *c, i64 ldc) {
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
static inline void interleave(i64 pairs, i64 ld, const bf16 *x, uint32_t *words) {
    for (i64 p = 0; p < pairs; p++)
        for (i64 j = 0; j < ld; j += LANES) {
            const __m512i low = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)(x + 2 * p * ld + j)));
            const __m512i high = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)(x + (2 * p + 1) * ld + j)));
            _mm512_storeu_si512(words + p * ld + j, _mm512_or_si512(low, _mm512_slli_epi32(high, 16)));
        }
}

/* words (pairs, n) of x (n, ld) bfloat16: word i of pair p = columns 2 p, 2 p + 1 of row i. */
static inline void transpose(i64 n, i64 ld, i64 pairs, const bf16 *x, uint32_t *words) {
    const uint32_t *from = (const uint32_t *)x;
    for (i64 i = 0; i < n; i += LANES)
        for (i64 p = 0; p < pairs; p++)
            for (i64 k = i; k < i + LANES; k++) words[p * n + k] = from[k * (ld / 2) + p];
}
