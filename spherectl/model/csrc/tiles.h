/* Products on AMX, where the processor has it: tiles of 16 rows of 64 bytes. */
#pragma once

#include "products.h"

#define TILE 16         /* rows of a tile, and words of its rows */
#define TALL (2 * TILE) /* rows of two tiles */

#if defined(__AMX_BF16__) && defined(__AMX_INT8__)
#define HAS_TILES 1

/* A thread's tiles: 0 to 3 sums, 4 and 5 rows, 6 and 7 columns. */
static inline void tiles_begin(void) {
    struct { uint8_t palette, first_row, reserved[14]; uint16_t bytes[16]; uint8_t rows[16]; } shape = {.palette = 1};
    for (int t = 0; t < 8; t++) shape.bytes[t] = 4 * TILE, shape.rows[t] = TILE;
    _tile_loadconfig(&shape);
}
static inline void tiles_end(void) { _tile_release(); }

/* sums (TALL, PANEL), float32 or, of bytes, int32, of TALL rows of x, `stride` words apart, and a panel. The last words,
 * if they fill no tile, come from `rest` (TILE, PANEL), with zeros below, instead of the panel; and x has zeros there. */
static inline __attribute__((always_inline)) void
tiles_product(const int bytes, i64 words, const uint32_t *x, i64 stride, const uint32_t *panel, const uint32_t *rest,
              float *sums) {
    __asm__ volatile("" ::: "memory"); /* the loads below read memory behind the compiler's back */
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    for (i64 p = 0; p < words; p += TILE) {
        const uint32_t *from = p + TILE <= words ? panel + p * PANEL : rest;
        _tile_loadd(6, from, 4 * PANEL);
        _tile_loadd(7, from + LANES, 4 * PANEL);
        _tile_loadd(4, x + p, 4 * stride);
        _tile_loadd(5, x + p + TILE * stride, 4 * stride);
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
    _tile_stored(0, sums, 4 * PANEL);
    _tile_stored(1, sums + LANES, 4 * PANEL);
    _tile_stored(2, sums + TILE * PANEL, 4 * PANEL);
    _tile_stored(3, sums + TILE * PANEL + LANES, 4 * PANEL);
}
#endif
