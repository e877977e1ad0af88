/* Products on AMX, where the processor has it: tiles of 16 rows of 64 bytes. */
#pragma once

#include "values.h"

#define TILE 16         /* rows of a tile, and words of its rows */
#define TALL (2 * TILE) /* rows of two tiles */

extern int tiles; /* whether this process may use them: tiles.c. Where it is 0, nothing else of this file is called. */

#if defined(__AMX_BF16__) && defined(__AMX_INT8__)
#define HAS_TILES 1

/* A thread's tiles: 0 to 3 sums, 4 and 5 rows, 6 and 7 columns. */
static inline void tiles_begin(void) {
    struct { uint8_t palette, first_row, reserved[14]; uint16_t bytes[16]; uint8_t rows[16]; } shape = {.palette = 1};
    for (int t = 0; t < 8; t++) shape.bytes[t] = 4 * TILE, shape.rows[t] = TILE;
    _tile_loadconfig(&shape);
}
static inline void tiles_end(void) { _tile_release(); }

/* C (TALL, PANEL) = A B over `words`, or C += A B with `accumulate`; float32 or, of bytes, int32. Rows are lda, ldb and
 * ldc words apart. The last words, if they fill no tile, come from `rest` (TILE, PANEL), with zeros below, instead of
 * B; A has zeros there. */
static inline __attribute__((always_inline)) void
tiles_product(const int bytes, i64 words, const uint32_t *a, i64 lda, const uint32_t *b, i64 ldb, const uint32_t *rest,
              const int accumulate, float *c, i64 ldc) {
    __asm__ volatile("" ::: "memory"); /* the loads below read memory behind the compiler's back */
    if (accumulate) {
        _tile_loadd(0, c, 4 * ldc);
        _tile_loadd(1, c + LANES, 4 * ldc);
        _tile_loadd(2, c + TILE * ldc, 4 * ldc);
        _tile_loadd(3, c + TILE * ldc + LANES, 4 * ldc);
    } else {
        _tile_zero(0);
        _tile_zero(1);
        _tile_zero(2);
        _tile_zero(3);
    }
    for (i64 p = 0; p < words; p += TILE) {
        const int whole = p + TILE <= words;
        const uint32_t *src = whole ? b + p * ldb : rest;
        const i64 stride = 4 * (whole ? ldb : PANEL);
        _tile_loadd(6, src, stride);
        _tile_loadd(7, src + LANES, stride);
        _tile_loadd(4, a + p, 4 * lda);
        _tile_loadd(5, a + p + TILE * lda, 4 * lda);
        if (bytes) {
            _tile_dpbusd(0, 4, 6);
            _tile_dpbusd(1, 4, 7);
            _tile_dpbusd(2, 5, 6);
            _tile_dpbusd(3, 5, 7);
        } else {
            _tile_dpbf16ps(0, 4, 6);
            _tile_dpbf16ps(1, 4, 7);
            _tile_dpbf16ps(2, 5, 6);
            _tile_dpbf16ps(3, 5, 7);
        }
    }
    _tile_stored(0, c, 4 * ldc);
    _tile_stored(1, c + LANES, 4 * ldc);
    _tile_stored(2, c + TILE * ldc, 4 * ldc);
    _tile_stored(3, c + TILE * ldc + LANES, 4 * ldc);
}
#else
#define HAS_TILES 0
static inline void tiles_begin(void) {}
static inline void tiles_end(void) {}
#define tiles_product(...) ((void)0)
#endif
