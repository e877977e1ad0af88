/* Rotary embedding and attention. */
#include "products.h"

static inline __m512 swapped(__m512 x) { return _mm512_permute_ps(x, 0xB1); } /* (x1, x0), (x3, x2), ... */

/* Copy `tokens` rows of K values, `stride` apart, into rows of `ld`; rotated where there is a table (2, N, K) of
 * cosines and of sines signed -, +. */
static void gather(i64 tokens, i64 K, i64 ld, const bf16 *x, i64 stride, const float *table, bf16 *dst) {
    const float *sine = table + tokens * K;
    for (i64 i = 0; i < tokens; i++)
        for (i64 j = 0; j < K; j += LANES) {
            const __mmask16 m = lanes(K - j);
            __m512 y = load(x + i * stride + j, m);
            if (table)
                y = _mm512_fmadd_ps(swapped(y), loadf(sine + i * K + j, m),
                                    _mm512_mul_ps(y, loadf(table + i * K + j, m)));
            store(dst + i * ld + j, m, y);
        }
}

/* The way back, for gradients: float32 rows of `ld` to bfloat16 rows `stride` apart, rotated back. */
static void scatter(i64 first, i64 rows, i64 tokens, i64 K, i64 ld, const float *x, const float *table, bf16 *dst,
                    i64 stride) {
    const float *sine = table + tokens * K;
    for (i64 i = 0; i < rows; i++)
        for (i64 j = 0; j < K; j += LANES) {
            const __mmask16 m = lanes(K - j);
            const i64 offset = (first + i) * K + j;
            __m512 y = loadf(x + i * ld + j, m);
            if (table)
                y = _mm512_fnmadd_ps(swapped(y), loadf(sine + offset, m),
                                     _mm512_mul_ps(y, loadf(table + offset, m)));
            store(dst + (first + i) * stride + j, m, y);
        }
}

/* How one head is computed: rows at a time, and tokens and head width rounded up to what the products take. */
typedef struct {
    int on_tiles;
    i64 step, n, k, pairs; /* pairs of a row of q, k and v that the products sum over */
} Sizes;

static Sizes sizes(i64 N, i64 K) {
    if (tiles) return (Sizes){1, TALL, up(N, PANEL), up(K, PANEL), up(K, PANEL) / 2};
    return (Sizes){0, ROWS, up(N, LANES), up(K, LANES), K / 2};
}

/* softmax(q k^T scale) v with q and k rotated. qkv (B, N, 3, H, K) bfloat16, out (B, N, H, K) bfloat16;
 * norms (B, H, N), or null, takes the logarithm of each row's sum for the backward pass. Nonzero: no memory. */
int attention_forward(i64 images, i64 N, i64 H, i64 K, float scale, const bf16 *qkv, const float *table, bf16 *out,
                      float *norms) {
    const Sizes size = sizes(N, K);
    const int on_tiles = size.on_tiles;
    const i64 step = size.step, n = size.n, k = size.k, pairs = size.pairs, stride = 3 * H * K;
    int failed = 0;
#pragma omp parallel
    {
        bf16 *q = buffer(n * k * 2), *rows = buffer(n * k * 2), *weights = buffer(step * n * 2);
        uint32_t *keys = buffer(k / 2 * n * 4), *values = buffer(n / 2 * k * 4);
        float *scores = buffer(step * n * 4), *sums = buffer(step * k * 4);
        const int ready = q && rows && weights && keys && values && scores && sums;
        if (!ready) failed = 1;
        if (on_tiles) tiles_begin();
#pragma omp for schedule(static)
        for (i64 item = 0; item < images * H; item++) {
            if (!ready) continue;
            const i64 image = item / H, head = item % H;
            const bf16 *src = qkv + image * N * stride + head * K;
            gather(N, K, k, src, stride, table, q);
            gather(N, K, k, src + H * K, stride, table, rows);
            transpose(n, pairs, k / 2, (const uint32_t *)rows, keys);
            gather(N, K, k, src + 2 * H * K, stride, NULL, rows);
            interleave(n / 2, k, rows, values);
            for (i64 i = 0; i < N; i += step) {
                product(on_tiles, step, n, pairs, (const uint32_t *)(q + i * k), k / 2, 1, keys, n, 0, scores, n);
                float total[TALL];
                for (int r = 0; r < step; r++) {
                    const float *s = scores + r * n;
                    __m512 top = _mm512_set1_ps(-INFINITY), sum = _mm512_setzero_ps();
                    for (i64 j = 0; j < N; j += LANES)
                        top = _mm512_mask_max_ps(top, lanes(N - j), top, _mm512_loadu_ps(s + j));
                    const float max = _mm512_reduce_max_ps(top);
                    for (i64 j = 0; j < N; j += LANES) {
                        const __m512 t = _mm512_sub_ps(_mm512_loadu_ps(s + j), _mm512_set1_ps(max));
                        const __m512 raised = exponential(_mm512_mul_ps(t, _mm512_set1_ps(scale)));
                        const __m512 e = _mm512_maskz_mov_ps(lanes(N - j), raised);
                        store(weights + r * n + j, 0xFFFF, e);
                        sum = _mm512_add_ps(sum, e);
                    }
                    total[r] = _mm512_reduce_add_ps(sum);
                    if (norms && i + r < N) norms[item * N + i + r] = max * scale + logf(total[r]);
                }
                product(on_tiles, step, k, n / 2, (const uint32_t *)weights, n / 2, 1, values, k, 0, sums, k);
                for (int r = 0; r < step && i + r < N; r++) {
                    const __m512 share = _mm512_set1_ps(1.0f / total[r]);
                    for (i64 j = 0; j < K; j += LANES)
                        store(out + ((image * N + i + r) * H + head) * K + j, lanes(K - j),
                              _mm512_mul_ps(_mm512_loadu_ps(sums + r * k + j), share));
                }
            }
        }
        if (on_tiles) tiles_end();
        free(q), free(rows), free(weights), free(keys), free(values), free(scores), free(sums);
    }
    return failed;
}

/* Gradient dqkv (B, N, 3, H, K) from dout (B, N, H, K); the weights are computed again from qkv and norms.
 * With P the weights and o the output: dV = P^T do; dS = P (do V^T - rowsum(do o)); dQ = dS K; dK = dS^T Q. */
int attention_backward(i64 images, i64 N, i64 H, i64 K, float scale, const bf16 *qkv, const float *table,
                       const bf16 *out, const float *norms, const bf16 *dout, bf16 *dqkv) {
    const Sizes size = sizes(N, K);
    const int on_tiles = size.on_tiles;
    const i64 step = size.step, n = size.n, k = size.k, pairs = size.pairs, stride = 3 * H * K;
    int failed = 0;
#pragma omp parallel
    {
        bf16 *q = buffer(n * k * 2), *rows = buffer(n * k * 2), *grad = buffer(n * k * 2);
        bf16 *p = buffer(step * n * 2), *ds = buffer(step * n * 2);
        uint32_t *keys = buffer(k / 2 * n * 4), *values = buffer(k / 2 * n * 4), *key_pairs = buffer(n / 2 * k * 4);
        uint32_t *query_pairs = buffer(n / 2 * k * 4), *grad_pairs = buffer(n / 2 * k * 4);
        uint32_t *all_p = buffer(n / 2 * n * 4), *all_ds = buffer(n / 2 * n * 4);
        uint32_t *transposed = buffer(n / 2 * n * 4);
        float *scores = buffer(step * n * 4), *slopes = buffer(step * n * 4), *sums = buffer(n * k * 4);
        const int ready = q && rows && grad && p && ds && keys && values && key_pairs && query_pairs && grad_pairs &&
                          all_p && all_ds && transposed && scores && slopes && sums;
        if (!ready) failed = 1;
        if (on_tiles) tiles_begin();
#pragma omp for schedule(static)
        for (i64 item = 0; item < images * H; item++) {
            if (!ready) continue;
            const i64 image = item / H, head = item % H;
            const bf16 *src = qkv + image * N * stride + head * K;
            bf16 *dst = dqkv + image * N * stride + head * K;
            gather(N, K, k, src, stride, table, q);
            interleave(n / 2, k, q, query_pairs);
            gather(N, K, k, src + H * K, stride, table, rows);
            transpose(n, pairs, k / 2, (const uint32_t *)rows, keys);
            interleave(n / 2, k, rows, key_pairs);
            gather(N, K, k, src + 2 * H * K, stride, NULL, rows);
            transpose(n, pairs, k / 2, (const uint32_t *)rows, values);
            gather(N, K, k, dout + (image * N * H + head) * K, H * K, NULL, grad);
            interleave(n / 2, k, grad, grad_pairs);
            for (i64 i = 0; i < n; i += step) {
                product(on_tiles, step, n, pairs, (const uint32_t *)(q + i * k), k / 2, 1, keys, n, 0, scores, n);
                product(on_tiles, step, n, pairs, (const uint32_t *)(grad + i * k), k / 2, 1, values, n, 0, slopes, n);
                for (int r = 0; r < step; r++) {
                    if (i + r >= N) { /* beyond the tokens */
                        memset(p + r * n, 0, n * 2), memset(ds + r * n, 0, n * 2);
                        continue;
                    }
                    __m512 along = _mm512_setzero_ps();
                    for (i64 j = 0; j < K; j += LANES)
                        along = _mm512_fmadd_ps(load(grad + (i + r) * k + j, lanes(K - j)),
                                                load(out + ((image * N + i + r) * H + head) * K + j, lanes(K - j)),
                                                along);
                    const __m512 row_sum = _mm512_set1_ps(_mm512_reduce_add_ps(along));
                    const __m512 norm = _mm512_set1_ps(norms[item * N + i + r]), factor = _mm512_set1_ps(scale);
                    for (i64 j = 0; j < n; j += LANES) {
                        const __m512 t = _mm512_fmsub_ps(_mm512_loadu_ps(scores + r * n + j), factor, norm);
                        const __m512 e = _mm512_maskz_mov_ps(lanes(N > j ? N - j : 0), exponential(t));
                        const __m512 g = _mm512_sub_ps(_mm512_loadu_ps(slopes + r * n + j), row_sum);
                        store(p + r * n + j, 0xFFFF, e);
                        store(ds + r * n + j, 0xFFFF, _mm512_mul_ps(_mm512_mul_ps(e, g), factor));
                    }
                }
                interleave(step / 2, n, p, all_p + i / 2 * n);
                interleave(step / 2, n, ds, all_ds + i / 2 * n);
                product(on_tiles, step, k, n / 2, (const uint32_t *)ds, n / 2, 1, key_pairs, k, 0, sums, k);
                scatter(i, N - i < step ? N - i : step, N, K, k, sums, table, dst, stride);
            }
            product_of_columns(on_tiles, n, k, n / 2, all_ds, n, transposed, query_pairs, 0, sums);
            scatter(0, N, N, K, k, sums, table, dst + H * K, stride);
            product_of_columns(on_tiles, n, k, n / 2, all_p, n, transposed, grad_pairs, 0, sums);
            scatter(0, N, N, K, k, sums, NULL, dst + 2 * H * K, stride);
        }
        if (on_tiles) tiles_end();
        free(q), free(rows), free(grad), free(p), free(ds), free(keys), free(values), free(key_pairs);
        free(query_pairs), free(grad_pairs), free(all_p), free(all_ds), free(transposed), free(scores), free(slopes);
        free(sums);
    }
    return failed;
}
