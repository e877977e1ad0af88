/* Small products. Their operands are 32-bit words that hold two bfloat16 neighbours along the summed axis, as the
 * instruction takes them. */
#pragma once

#include "tiles.h"

#define ROWS 8 /* whose sums a product on vectors keeps in registers */

/* What is done with the sums of a product. */
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

/* C (m, n) = A B over `pairs` words, or C += A B with `accumulate`; A's word of row i, pair p is at i ai + p ap; B's of
 * pair p, column j at p bp + j. m is a multiple of ROWS, n of LANES; on tiles m is one of TALL, n of PANEL, `pairs` of
 * TILE, and ap 1. */
static inline void product(int on_tiles, i64 m, i64 n, i64 pairs, const uint32_t *a, i64 ai, i64 ap, const uint32_t *b,
                           i64 bp, const int accumulate, float *c, i64 ldc) {
    if (on_tiles) {
        for (i64 i = 0; i < m; i += TALL)
            for (i64 j = 0; j < n; j += PANEL)
                tiles_product(0, pairs, a + i * ai, ai, b + j, bp, NULL, accumulate, c + i * ldc + j, ldc);
        return;
    }
    for (i64 i = 0; i < m; i += ROWS) {
        const uint32_t *rows = a + i * ai;
        i64 j = 0;
        for (; j + 2 * LANES <= n; j += 2 * LANES) {
            __m512 acc[ROWS][2];
            for (int r = 0; r < ROWS; r++) {
                const float *src = c + (i + r) * ldc + j;
                acc[r][0] = accumulate ? _mm512_loadu_ps(src) : _mm512_setzero_ps();
                acc[r][1] = accumulate ? _mm512_loadu_ps(src + LANES) : _mm512_setzero_ps();
            }
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
            for (int r = 0; r < ROWS; r++)
                acc[r] = accumulate ? _mm512_loadu_ps(c + (i + r) * ldc + j) : _mm512_setzero_ps();
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

/* dst (columns, 16) = src (16, columns) transposed, of words, rows `ld` and `ldt` words apart; at most 16 columns. */
static inline void transpose_block(i64 columns, const uint32_t *src, i64 ld, uint32_t *dst, i64 ldt) {
    __m512i a[16], b[16];
    for (int i = 0; i < 16; i++) a[i] = _mm512_maskz_loadu_epi32(lanes(columns), src + i * ld);
    for (int i = 0; i < 16; i += 2) { /* pairs of rows, then fours of them, in each quarter of a vector */
        b[i] = _mm512_unpacklo_epi32(a[i], a[i + 1]);
        b[i + 1] = _mm512_unpackhi_epi32(a[i], a[i + 1]);
    }
    for (int i = 0; i < 16; i += 4)
        for (int k = 0; k < 2; k++) {
            a[i + 2 * k] = _mm512_unpacklo_epi64(b[i + k], b[i + 2 + k]);
            a[i + 2 * k + 1] = _mm512_unpackhi_epi64(b[i + k], b[i + 2 + k]);
        }
    for (int k = 0; k < 4; k++) { /* column 4 q + k is in the quarters q of rows k, 4 + k, 8 + k and 12 + k */
        const __m512i even0 = _mm512_shuffle_i32x4(a[k], a[4 + k], 0x88);
        const __m512i even1 = _mm512_shuffle_i32x4(a[8 + k], a[12 + k], 0x88);
        const __m512i odd0 = _mm512_shuffle_i32x4(a[k], a[4 + k], 0xDD);
        const __m512i odd1 = _mm512_shuffle_i32x4(a[8 + k], a[12 + k], 0xDD);
        b[k] = _mm512_shuffle_i32x4(even0, even1, 0x88);
        b[4 + k] = _mm512_shuffle_i32x4(odd0, odd1, 0x88);
        b[8 + k] = _mm512_shuffle_i32x4(even0, even1, 0xDD);
        b[12 + k] = _mm512_shuffle_i32x4(odd0, odd1, 0xDD);
    }
    for (int j = 0; j < 16; j++)
        if (j < columns) _mm512_storeu_si512(dst + j * ldt, b[j]);
}

/* dst (columns, rows) = src (rows, ld) transposed, of words; rows is a multiple of LANES. */
static inline void transpose(i64 rows, i64 columns, i64 ld, const uint32_t *src, uint32_t *dst) {
    for (i64 i = 0; i < rows; i += LANES)
        for (i64 j = 0; j < columns; j += LANES)
            transpose_block(columns - j < LANES ? columns - j : LANES, src + i * ld + j, ld, dst + j * rows + i, rows);
}

/* C (m, n) = A^T B, or C += A^T B with `accumulate`, of A's words (pairs, lda) and B's (pairs, n); `transposed` has
 * room for A. */
static inline void product_of_columns(int on_tiles, i64 m, i64 n, i64 pairs, const uint32_t *a, i64 lda,
                                      uint32_t *transposed, const uint32_t *b, const int accumulate, float *c) {
    if (on_tiles) transpose(pairs, m, lda, a, transposed);
    product(on_tiles, m, n, pairs, on_tiles ? transposed : a, on_tiles ? pairs : 1, on_tiles ? 1 : lda, b, n,
            accumulate, c, n);
}
