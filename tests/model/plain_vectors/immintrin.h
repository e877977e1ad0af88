/* AVX512 in plain C, as far as csrc/ uses it, so that its kernels run on any processor and under sanitizers.
 *
 * A masked load or store touches the lanes of its mask alone, as the instructions do; all others touch every lane.
 */
#pragma once

#include <math.h>
#include <omp.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

typedef float __m512 __attribute__((vector_size(64)));
typedef int __m512i __attribute__((vector_size(64)));
typedef int __m256i __attribute__((vector_size(32)));
typedef int __m128i __attribute__((vector_size(16)));
typedef uint16_t __mmask16;
typedef long long halves __attribute__((vector_size(64)));
typedef uint16_t words16 __attribute__((vector_size(32)));
typedef uint8_t bytes16 __attribute__((vector_size(16)));

#define _MM_FROUND_TO_NEAREST_INT 0
#define _MM_FROUND_NO_EXC 8

#define EACH for (int i = 0; i < 16; i++)
#define IN(mask) (((mask) >> i) & 1)
#define OF_ONE(name, type, from, value) static inline type name(from x) { type y; EACH y[i] = (value); return y; }
#define OF_TWO(name, type, value) static inline type name(type x, type y) { type z; EACH z[i] = (value); return z; }
#define OF_THREE(name, value) static inline __m512 name(__m512 x, __m512 y, __m512 z) { EACH z[i] = (value); return z; }

OF_ONE(_mm512_set1_ps, __m512, float, x)
OF_ONE(_mm512_set1_epi32, __m512i, int, x)
OF_ONE(_mm512_abs_ps, __m512, __m512, fabsf(x[i]))
OF_ONE(_mm512_cvtepi32_ps, __m512, __m512i, (float)x[i])
OF_ONE(_mm512_cvtps_epi32, __m512i, __m512, (int)nearbyintf(x[i]))
OF_ONE(_mm512_cvtepu16_epi32, __m512i, __m256i, ((words16)x)[i])
OF_TWO(_mm512_add_ps, __m512, x[i] + y[i])
OF_TWO(_mm512_sub_ps, __m512, x[i] - y[i])
OF_TWO(_mm512_mul_ps, __m512, x[i] * y[i])
OF_TWO(_mm512_div_ps, __m512, x[i] / y[i])
OF_TWO(_mm512_max_ps, __m512, x[i] > y[i] ? x[i] : y[i])
OF_TWO(_mm512_scalef_ps, __m512, ldexpf(x[i], (int)fmaxf(fminf(floorf(y[i]), 1000), -1000)))
OF_TWO(_mm512_add_epi32, __m512i, (int)((unsigned)x[i] + (unsigned)y[i]))
OF_TWO(_mm512_mullo_epi32, __m512i, (int)((unsigned)x[i] * (unsigned)y[i]))
OF_TWO(_mm512_or_si512, __m512i, x[i] | y[i])
OF_THREE(_mm512_fmadd_ps, fmaf(x[i], y[i], z[i]))
OF_THREE(_mm512_fmsub_ps, fmaf(x[i], y[i], -z[i]))
OF_THREE(_mm512_fnmadd_ps, fmaf(-x[i], y[i], z[i]))

static inline __m512 _mm512_setzero_ps(void) { return (__m512){0}; }
#define _mm512_setr_epi32(...) ((__m512i){__VA_ARGS__})
static inline __m512i _mm512_castps_si512(__m512 x) { return (__m512i)x; }
static inline __m512 _mm512_castsi512_ps(__m512i x) { return (__m512)x; }
static inline __m512 _mm512_roundscale_ps(__m512 x, int how) {
    (void)how;
    EACH x[i] = nearbyintf(x[i]);
    return x;
}
static inline __m512i _mm512_slli_epi32(__m512i x, int by) {
    EACH x[i] = (int)((unsigned)x[i] << by);
    return x;
}
static inline __m512 _mm512_maskz_mov_ps(__mmask16 m, __m512 x) {
    EACH x[i] = IN(m) ? x[i] : 0;
    return x;
}
static inline __m512 _mm512_mask_max_ps(__m512 old, __mmask16 m, __m512 x, __m512 y) {
    EACH old[i] = IN(m) ? (x[i] > y[i] ? x[i] : y[i]) : old[i];
    return old;
}
static inline float _mm512_reduce_add_ps(__m512 x) {
    float sum = 0;
    EACH sum += x[i];
    return sum;
}
static inline float _mm512_reduce_max_ps(__m512 x) {
    float most = x[0];
    EACH most = x[i] > most ? x[i] : most;
    return most;
}

/* To bfloat16, to the nearest, of two as near to the even one. */
static inline __m256i _mm512_cvtneps_pbh(__m512 x) {
    words16 y;
    EACH {
        const unsigned bits = (unsigned)((__m512i)x)[i];
        y[i] = (uint16_t)(x[i] != x[i] ? (bits >> 16) | 64 : (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16);
    }
    return (__m256i)y;
}
static inline __m128i _mm512_cvtepi32_epi8(__m512i x) {
    bytes16 y;
    EACH y[i] = (uint8_t)x[i];
    return (__m128i)y;
}

/* Memory. Whole vectors are copied as such, so that a sanitizer sees every byte. */
static inline __m512 _mm512_loadu_ps(const void *p) {
    __m512 x;
    memcpy(&x, p, sizeof x);
    return x;
}
static inline __m512 _mm512_load_ps(const void *p) { return _mm512_loadu_ps(p); }
static inline __m512i _mm512_loadu_si512(const void *p) { return (__m512i)_mm512_loadu_ps(p); }
static inline __m256i _mm256_loadu_si256(const void *p) {
    __m256i x;
    memcpy(&x, p, sizeof x);
    return x;
}
static inline void _mm512_storeu_ps(void *p, __m512 x) { memcpy(p, &x, sizeof x); }
static inline void _mm512_storeu_si512(void *p, __m512i x) { memcpy(p, &x, sizeof x); }
static inline __m512 _mm512_maskz_loadu_ps(__mmask16 m, const void *p) {
    __m512 x = {0};
    EACH if (IN(m)) memcpy((char *)&x + 4 * i, (const char *)p + 4 * i, 4);
    return x;
}
static inline __m512i _mm512_maskz_loadu_epi32(__mmask16 m, const void *p) {
    return (__m512i)_mm512_maskz_loadu_ps(m, p);
}
static inline __m256i _mm256_maskz_loadu_epi16(__mmask16 m, const void *p) {
    __m256i x = {0};
    EACH if (IN(m)) memcpy((char *)&x + 2 * i, (const char *)p + 2 * i, 2);
    return x;
}
static inline void _mm512_mask_storeu_ps(void *p, __mmask16 m, __m512 x) {
    EACH if (IN(m)) memcpy((char *)p + 4 * i, (char *)&x + 4 * i, 4);
}
static inline void _mm256_mask_storeu_epi16(void *p, __mmask16 m, __m256i x) {
    EACH if (IN(m)) memcpy((char *)p + 2 * i, (char *)&x + 2 * i, 2);
}
static inline void _mm_mask_storeu_epi8(void *p, __mmask16 m, __m128i x) {
    EACH if (IN(m)) memcpy((char *)p + i, (char *)&x + i, 1);
}
static inline __m512 _mm512_mask_i32gather_ps(__m512 old, __mmask16 m, __m512i at, const void *p, int scale) {
    EACH if (IN(m)) memcpy((char *)&old + 4 * i, (const char *)p + (int64_t)at[i] * scale, 4);
    return old;
}

/* Places within a vector; most stay within its quarters. */
static inline __m512 _mm512_permute_ps(__m512 x, int how) {
    __m512 y;
    EACH y[i] = x[i / 4 * 4 + ((how >> i % 4 * 2) & 3)];
    return y;
}
static inline __m512i unpacked(__m512i x, __m512i y, int from) {
    __m512i z;
    EACH z[i] = (i % 2 ? y : x)[i / 4 * 4 + from + i % 4 / 2];
    return z;
}
static inline __m512i _mm512_unpacklo_epi32(__m512i x, __m512i y) { return unpacked(x, y, 0); }
static inline __m512i _mm512_unpackhi_epi32(__m512i x, __m512i y) { return unpacked(x, y, 2); }
static inline __m512i unpacked_halves(halves x, halves y, int from) {
    halves z;
    for (int i = 0; i < 8; i++) z[i] = (i % 2 ? y : x)[i / 2 * 2 + from];
    return (__m512i)z;
}
static inline __m512i _mm512_unpacklo_epi64(__m512i x, __m512i y) { return unpacked_halves((halves)x, (halves)y, 0); }
static inline __m512i _mm512_unpackhi_epi64(__m512i x, __m512i y) { return unpacked_halves((halves)x, (halves)y, 1); }
static inline __m512i _mm512_shuffle_i32x4(__m512i x, __m512i y, int how) {
    __m512i z;
    EACH z[i] = (i < 8 ? x : y)[((how >> i / 4 * 2) & 3) * 4 + i % 4];
    return z;
}

/* The two products that csrc/products.h writes in assembly; there `sum`, `a` and `b` are what they take. */
static inline __m512 dot_product(const char *instruction, __m512 sum, __m512i a, __m512i b) {
    const int of_bytes = strstr(instruction, "vpdpbusd") != NULL;
    EACH if (of_bytes) {
        int total = ((__m512i)sum)[i];
        for (int k = 0; k < 4; k++) total += (uint8_t)((unsigned)a[i] >> 8 * k) * (int8_t)((unsigned)b[i] >> 8 * k);
        memcpy((char *)&sum + 4 * i, &total, 4);
    } else {
        const unsigned parts[4] = {(unsigned)a[i] & 0xFFFF0000u, (unsigned)b[i] & 0xFFFF0000u, (unsigned)a[i] << 16,
                                   (unsigned)b[i] << 16};
        float of[4];
        memcpy(of, parts, sizeof of);
        sum[i] = (sum[i] + of[0] * of[1]) + of[2] * of[3];
    }
    return sum;
}
#define __asm__(...) sum = dot_product(#__VA_ARGS__, sum, a, b)
