/* Linears. packed_weight: panels (ceil(columns / 32), inner / 2, 32) of words, zeros beyond the last column. */
#include <omp.h>

#include "products.h"

#define BLOCK 64 /* rows a thread takes at a time */
#define MAX_BLOCK 256 /* rows with tiles, which are so fast that the weights must be read less often */

/* PLAIN     out (rows, columns) bfloat16 = x W^T + bias
 * SILU      silu of it
 * SWIGLU    out (rows, columns / 2) bfloat16 = silu(a) b; each panel holds 16 columns of a, then the same of b
 * RESIDUAL  out (rows, columns) float32 += gate (x W^T + bias); gate one row an image, `gate_stride` apart, or null
 * x (rows, words) of 32 bits, at least ROWS rows: two bfloat16 each or, with `scales`, four bytes; bias (columns)
 * float32. A byte stands for (byte - 128) row_scales[row], a weight for weight scales[column]. Sums start at
 * zero_points[column], -128 times the sum of the column's weights, which removes what the 128 add. */
typedef struct {
    i64 rows, words, columns, kind;
    const uint32_t *x;
    const float *row_scales;
    const uint32_t *packed_weight;
    const float *scales;
    const int32_t *zero_points;
    const float *bias, *gate;
    i64 gate_stride, rows_per_image;
    void *out;
} Linear;

/* A panel: its first column, masks of the columns that exist, and their bias. */
typedef struct {
    i64 column;
    __mmask16 m0, m1;
    __m512 bias0, bias1;
} Panel;

static inline Panel panel_of(const Linear *l, i64 column) {
    const i64 left = l->columns - column;
    const __mmask16 m0 = lanes(left), m1 = left > LANES ? lanes(left - LANES) : 0;
    return (Panel){column, m0, m1, loadf(l->bias + column, m0), loadf(l->bias + column + LANES, m1)};
}

/* Write one row of a panel from its two vectors of sums. Always inlined, as are the functions below, so
 * that each kind of word has a loop of its own. */
static inline __attribute__((always_inline)) void
finish(const int bytes, const Linear *l, const Panel *p, i64 row, __m512 first, __m512 second) {
    const i64 j = p->column;
    if (bytes) {
        const __m512 row_scale = _mm512_set1_ps(l->row_scales[row]);
        const __m512 f0 = _mm512_mul_ps(row_scale, _mm512_loadu_ps(l->scales + j));
        const __m512 f1 = _mm512_mul_ps(row_scale, _mm512_loadu_ps(l->scales + j + LANES));
        first = _mm512_mul_ps(_mm512_cvtepi32_ps(_mm512_castps_si512(first)), f0);
        second = _mm512_mul_ps(_mm512_cvtepi32_ps(_mm512_castps_si512(second)), f1);
    }
    first = _mm512_add_ps(first, p->bias0), second = _mm512_add_ps(second, p->bias1);
    if (l->kind == SWIGLU) {
        first = _mm512_mul_ps(first, sigmoid(first));
        store((bf16 *)l->out + row * (l->columns / 2) + j / 2, 0xFFFF, _mm512_mul_ps(first, second));
    } else if (l->kind == RESIDUAL) {
        float *dst = (float *)l->out + row * l->columns + j;
        if (l->gate) {
            const float *gate = l->gate + row / l->rows_per_image * l->gate_stride + j;
            first = _mm512_mul_ps(first, loadf(gate, p->m0));
            second = _mm512_mul_ps(second, loadf(gate + LANES, p->m1));
        }
        add_to(dst, p->m0, first), add_to(dst + LANES, p->m1, second);
    } else {
        bf16 *dst = (bf16 *)l->out + row * l->columns + j;
        if (l->kind == SILU) {
            first = _mm512_mul_ps(first, sigmoid(first));
            second = _mm512_mul_ps(second, sigmoid(second));
        }
        store(dst, p->m0, first), store(dst + LANES, p->m1, second);
    }
}

static inline __attribute__((always_inline)) int linear_on_vectors(const int bytes, const Linear *args) {
    const i64 rows = args->rows, words = args->words;
    const i64 block = rows < 2 * BLOCK ? BLOCK / 2 : BLOCK, blocks = (rows + block - 1) / block;
#pragma omp parallel for schedule(static)
    for (i64 part = 0; part < blocks; part++) {
        const Linear l = *args;
        const i64 last = (part + 1) * block < rows ? (part + 1) * block : rows;
        for (i64 j = 0; j < l.columns; j += PANEL) {
            const uint32_t *panel = l.packed_weight + j * words;
            const Panel here = panel_of(&l, j);
            for (i64 i = part * block; i < last; i += ROWS) {
                const i64 top = i + ROWS <= rows ? i : rows - ROWS; /* the last tile goes over some rows again */
                const uint32_t *a = l.x + top * words;
                __m512 acc[ROWS][2];
                for (int r = 0; r < ROWS; r++) {
                    acc[r][0] = acc[r][1] = _mm512_setzero_ps();
                    if (!bytes) continue;
                    acc[r][0] = _mm512_castsi512_ps(_mm512_loadu_si512(l.zero_points + j));
                    acc[r][1] = _mm512_castsi512_ps(_mm512_loadu_si512(l.zero_points + j + LANES));
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
                for (int r = 0; r < ROWS; r++)
                    if (top + r >= i) finish(bytes, &l, &here, top + r, acc[r][0], acc[r][1]); /* else already there */
            }
        }
    }
    return 0;
}

static inline __attribute__((always_inline)) int linear_on_tiles(const int bytes, const Linear *args) {
    const i64 rows = args->rows, words = args->words, whole = words / TILE * TILE, padded = up(words, TILE);
    const i64 share = up((rows + omp_get_max_threads() - 1) / omp_get_max_threads(), TALL);
    const i64 block = share < MAX_BLOCK ? share : MAX_BLOCK, blocks = (rows + block - 1) / block;
    const int copied = whole < words || rows < TALL; /* where tiles would reach beyond x */
    int failed = 0;
#pragma omp parallel
    {
        const Linear l = *args;
        uint32_t *copy = copied ? buffer(block * padded * 4) : NULL;
        __attribute__((aligned(64))) uint32_t rest[TILE * PANEL] = {0};
        __attribute__((aligned(64))) float sums[TALL * PANEL];
        if (copied && !copy) failed = 1;
        tiles_begin();
#pragma omp for schedule(static)
        for (i64 part = 0; part < blocks; part++) {
            const i64 begin = part * block, last = begin + block < rows ? begin + block : rows;
            if (copied && !copy) continue;
            for (i64 i = begin; copied && i < last; i++)
                memcpy(copy + (i - begin) * padded, l.x + i * words, words * 4);
            for (i64 j = 0; j < l.columns; j += PANEL) {
                const uint32_t *panel = l.packed_weight + j * words;
                const Panel here = panel_of(&l, j);
                memcpy(rest, panel + whole * PANEL, (words - whole) * PANEL * 4);
                for (i64 i = begin; i < last; i += TALL) {
                    const i64 top = copied || i + TALL <= rows ? i : rows - TALL;
                    const uint32_t *src = copied ? copy + (i - begin) * padded : l.x + top * words;
                    tiles_product(bytes, words, src, copied ? padded : words, panel, PANEL, rest, 0, sums, PANEL);
                    for (i64 row = i; row < last && row < top + TALL; row++) {
                        __m512 acc[2];
                        for (int c = 0; c < 2; c++) {
                            acc[c] = _mm512_load_ps(sums + (row - top) * PANEL + c * LANES);
                            if (bytes)
                                acc[c] = _mm512_castsi512_ps(_mm512_add_epi32(
                                    _mm512_castps_si512(acc[c]), _mm512_loadu_si512(l.zero_points + j + c * LANES)));
                        }
                        finish(bytes, &l, &here, row, acc[0], acc[1]);
                    }
                }
            }
        }
        tiles_end();
        free(copy);
    }
    return failed;
}

static inline __attribute__((always_inline)) int linear(const int bytes, const Linear *l) {
    return tiles ? linear_on_tiles(bytes, l) : linear_on_vectors(bytes, l);
}

int linear_forward(i64 rows, i64 inner, i64 columns, i64 kind, const uint32_t *x, const uint32_t *packed_weight,
                   const float *bias, const float *gate, i64 gate_stride, i64 rows_per_image, void *out) {
    const Linear l = {.rows = rows, .words = inner / 2, .columns = columns, .kind = kind, .x = x,
                      .packed_weight = packed_weight, .bias = bias, .gate = gate, .gate_stride = gate_stride,
                      .rows_per_image = rows_per_image, .out = out};
    return linear(0, &l);
}

int linear_forward_bytes(i64 rows, i64 inner, i64 columns, i64 kind, const uint32_t *x, const float *row_scales,
                         const uint32_t *packed_weight, const float *scales, const int32_t *zero_points,
                         const float *bias, const float *gate, i64 gate_stride, i64 rows_per_image, void *out) {
    const Linear l = {.rows = rows, .words = inner / 4, .columns = columns, .kind = kind, .x = x,
                      .row_scales = row_scales, .packed_weight = packed_weight, .scales = scales,
                      .zero_points = zero_points, .bias = bias, .gate = gate, .gate_stride = gate_stride,
                      .rows_per_image = rows_per_image, .out = out};
    return linear(1, &l);
}

/* x (rows, columns) bfloat16 to bytes round(x / scale) + 128, scale = max |x| / 127 of each row. */
int bytes_forward(i64 rows, i64 columns, const bf16 *x, uint8_t *out, float *scales) {
#pragma omp parallel for schedule(static)
    for (i64 row = 0; row < rows; row++) {
        const bf16 *src = x + row * columns;
        __m512 top = _mm512_setzero_ps();
        for (i64 j = 0; j < columns; j += LANES)
            top = _mm512_max_ps(top, _mm512_abs_ps(load(src + j, lanes(columns - j))));
        const float max = fmaxf(_mm512_reduce_max_ps(top), 1e-30f);
        const __m512 inverse_scale = _mm512_set1_ps(127.0f / max);
        for (i64 j = 0; j < columns; j += LANES) {
            const __mmask16 m = lanes(columns - j);
            const __m512i q = _mm512_cvtps_epi32(_mm512_mul_ps(load(src + j, m), inverse_scale));
            _mm_mask_storeu_epi8(out + row * columns + j, m,
                                 _mm512_cvtepi32_epi8(_mm512_add_epi32(q, _mm512_set1_epi32(128))));
        }
        scales[row] = max / 127.0f;
    }
    return 0;
}

/* Pack a weight (outputs, inputs) float32 for x W^T or, `transposed`, for dy W, where the columns are the inputs.
 * Zeros beyond; `inner`, even, is the length of the rows that the product will read. */
int pack_forward(i64 outputs, i64 inputs, i64 inner, i64 transposed, const float *weight, uint32_t *packed_weight) {
    const i64 columns = transposed ? inputs : outputs, depth = transposed ? outputs : inputs;
    const __m512i lane = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    const __m512i column_offsets = _mm512_mullo_epi32(lane, _mm512_set1_epi32((int)inputs));
#pragma omp parallel for schedule(static)
    for (i64 j = 0; j < up(columns, PANEL); j += LANES) {
        const __mmask16 m = columns > j ? lanes(columns - j) : 0;
        uint32_t *dst = packed_weight + j / PANEL * PANEL * (inner / 2) + j % PANEL;
        for (i64 p = 0; p < inner / 2; p++) {
            __m512 pair[2];
            for (i64 k = 0; k < 2; k++) {
                const __mmask16 here = 2 * p + k < depth ? m : 0;
                pair[k] = transposed ? loadf(weight + (2 * p + k) * inputs + j, here)
                                     : _mm512_mask_i32gather_ps(_mm512_setzero_ps(), here, column_offsets,
                                                                weight + j * inputs + 2 * p + k, sizeof(float));
            }
            const __m512i low = _mm512_cvtepu16_epi32(narrow(pair[0])), high = _mm512_cvtepu16_epi32(narrow(pair[1]));
            _mm512_storeu_si512(dst + p * PANEL, _mm512_or_si512(low, _mm512_slli_epi32(high, 16)));
        }
    }
    return 0;
}
