/* Sixteen trades, or the first of them, added to a bar, for volumes of any kind; `kind` is a constant where these are
   called, so each call becomes code for one kind. */
#ifndef TAPELINE_BLOCK_H
#define TAPELINE_BLOCK_H
#include "fold.h"

enum { TL_I32, TL_I64, TL_F64 };

#define TL_INLINE static inline __attribute__((always_inline))

/* Whether any of four or two numbers has its sign bit set. */
TL_INLINE int tl_signs(tl_l x)
{
#if defined(__AVX2__)
    return _mm256_movemask_pd((__m256d)x);
#elif defined(__x86_64__)
    return _mm_movemask_pd((__m128d)x);
#else
    int64_t any = 0;
    for (int c = 0; c < TL_W; c++) any |= x[c];
    return any < 0;
#endif
}

TL_INLINE double tl_across(tl_f x)
{
#if defined(__AVX2__)
    const __m128d y = _mm_add_pd(_mm256_castpd256_pd128((__m256d)x), _mm256_extractf128_pd((__m256d)x, 1));
    return _mm_cvtsd_f64(_mm_add_sd(y, _mm_unpackhi_pd(y, y)));
#else
    return x[0] + x[1];
#endif
}

TL_INLINE double tl_highest(tl_f x)
{
#if defined(__AVX2__)
    const __m128d y = _mm_max_pd(_mm256_castpd256_pd128((__m256d)x), _mm256_extractf128_pd((__m256d)x, 1));
    return _mm_cvtsd_f64(_mm_max_sd(y, _mm_unpackhi_pd(y, y)));
#else
    return x[0] > x[1] ? x[0] : x[1];
#endif
}

TL_INLINE double tl_lowest(tl_f x)
{
#if defined(__AVX2__)
    const __m128d y = _mm_min_pd(_mm256_castpd256_pd128((__m256d)x), _mm256_extractf128_pd((__m256d)x, 1));
    return _mm_cvtsd_f64(_mm_min_sd(y, _mm_unpackhi_pd(y, y)));
#else
    return x[0] < x[1] ? x[0] : x[1];
#endif
}

TL_INLINE int64_t tl_across_l(tl_l x)
{
#if defined(__AVX2__)
    const __m128i y = _mm_add_epi64(_mm256_castsi256_si128((__m256i)x), _mm256_extracti128_si256((__m256i)x, 1));
    return _mm_cvtsi128_si64(_mm_add_epi64(y, _mm_unpackhi_epi64(y, y)));
#else
    return x[0] + x[1];
#endif
}

/* TL_W volumes from `volume[i]` on, as whole numbers of 64 bits or as floats. */
TL_INLINE tl_l tl_whole(const void *volume, int64_t i, const int kind)
{
    tl_l w;
    if (kind == TL_I64) {
        memcpy(&w, (const int64_t *)volume + i, sizeof w);
        return w;
    }
#if defined(__AVX2__)
    return (tl_l)_mm256_cvtepi32_epi64(_mm_loadu_si128((const __m128i *)((const int32_t *)volume + i)));
#elif defined(__x86_64__)
    __m128i x = _mm_loadl_epi64((const __m128i *)((const int32_t *)volume + i));
    return (tl_l)_mm_unpacklo_epi32(x, _mm_srai_epi32(x, 31));
#else
    for (int c = 0; c < TL_W; c++) w[c] = ((const int32_t *)volume)[i + c];
    return w;
#endif
}

TL_INLINE tl_f tl_float(const void *volume, int64_t i, const int kind)
{
    tl_f x;
    if (kind == TL_F64) {
        memcpy(&x, (const double *)volume + i, sizeof x);
        return x;
    }
    if (kind == TL_I64) { /* exact from 0 to 2**52: the number becomes the mantissa of 2**52 */
        const tl_l w = tl_whole(volume, i, kind);
        return (tl_f)(w | 0x4330000000000000LL) - 4503599627370496.0;
    }
#if defined(__AVX2__)
    return (tl_f)_mm256_cvtepi32_pd(_mm_loadu_si128((const __m128i *)((const int32_t *)volume + i)));
#elif defined(__x86_64__)
    return (tl_f)_mm_cvtepi32_pd(_mm_loadl_epi64((const __m128i *)((const int32_t *)volume + i)));
#else
    for (int c = 0; c < TL_W; c++) x[c] = (double)((const int32_t *)volume)[i + c];
    return x;
#endif
}

TL_INLINE double tl_number(const void *volume, int64_t i, const int kind)
{
    return kind == TL_I32   ? (double)((const int32_t *)volume)[i]
           : kind == TL_I64 ? (double)((const int64_t *)volume)[i]
                            : ((const double *)volume)[i];
}

TL_INLINE tl_l tl_pick_l(tl_l m, tl_l a, tl_l b) { return (m & a) | (~m & b); }
TL_INLINE tl_f tl_pick_f(tl_l m, tl_f a, tl_f b) { return (tl_f)tl_pick_l(m, (tl_l)a, (tl_l)b); }

/* Volumes of 32 bits, and the greater ones of two such vectors. */
typedef int32_t tl_n __attribute__((vector_size(8 * TL_W)));
#define TL_N (2 * TL_W)

TL_INLINE int32_t tl_highest_n(tl_n x)
{
#if defined(__AVX2__)
    __m128i y = _mm_max_epi32(_mm256_castsi256_si128((__m256i)x), _mm256_extracti128_si256((__m256i)x, 1));
    y = _mm_max_epi32(y, _mm_shuffle_epi32(y, 0x4e));
    return _mm_cvtsi128_si32(_mm_max_epi32(y, _mm_shuffle_epi32(y, 0xb1)));
#else
    int32_t most = x[0];
    for (int c = 1; c < TL_N; c++) most = x[c] > most ? x[c] : most;
    return most;
#endif
}

/* All bits of whole volumes together, widened. */
TL_INLINE int64_t tl_bits_n(tl_n x)
{
    tl_l y;
    int64_t all = 0;
    memcpy(&y, &x, sizeof y);
    for (int c = 0; c < TL_W; c++) all |= y[c];
    return (int64_t)((int32_t)all | (int32_t)(all >> 32));
}

TL_INLINE tl_n tl_most_n(tl_n a, tl_n b)
{
#if defined(__AVX2__)
    return (tl_n)_mm256_max_epi32((__m256i)a, (__m256i)b);
#else
    const tl_n m = a > b;
    return (a & m) | (b & ~m);
#endif
}

/* A bar's state in vectors. */
typedef struct {
    tl_f hi[2], lo[2], lane[8 / TL_W], peak[2];
    tl_f sum[2];
    tl_l bits, top;
    tl_n bits_n, top_n;
} tl_state;

/* Adds the first `count` of 16 trades, but for whole volumes' sum; all of them where `count` is the constant 16. */
TL_INLINE void tl_add16(const double *price, const void *volume, int64_t i, int64_t count, tl_state *v, const int kind)
{
    tl_l at;
    for (int c = 0; c < TL_W; c++) at[c] = c;
    for (int k = 0; k < TL_STEPS; k++) {
        tl_f x;
        const tl_l mine = at + (int64_t)(k * TL_W) < (tl_l){0} + count;
        memcpy(&x, price + i + k * TL_W, sizeof x);
        if (count == 16) {
            v->hi[k & 1] = TL_MAX(x, v->hi[k & 1]);
            v->lo[k & 1] = TL_MIN(x, v->lo[k & 1]);
        } else {
            v->hi[k & 1] = tl_pick_f(mine, TL_MAX(x, v->hi[k & 1]), v->hi[k & 1]);
            v->lo[k & 1] = tl_pick_f(mine, TL_MIN(x, v->lo[k & 1]), v->lo[k & 1]);
        }
        if (kind == TL_F64) {
            tl_f w = tl_float(volume, i + k * TL_W, kind);
            if (count != 16) w = (tl_f)((tl_l)w & mine);
            v->lane[k % (8 / TL_W)] += w;
            v->peak[k & 1] = TL_MAX(w, v->peak[k & 1]);
        }
        if (kind == TL_I64) {
            tl_l w = tl_whole(volume, i + k * TL_W, kind);
            if (count != 16) w &= mine;
            v->bits |= w;
            v->top = tl_pick_l(w > v->top, w, v->top);
        }
    }
    if (kind == TL_I32) {
        tl_n from;
        for (int c = 0; c < TL_N; c++) from[c] = c;
        for (int k = 0; k < 16 / TL_N; k++) {
            tl_n w;
            memcpy(&w, (const int32_t *)volume + i + TL_N * k, sizeof w);
            if (count != 16) w &= from + TL_N * k < (tl_n){0} + (int32_t)count;
            v->bits_n |= w;
            v->top_n = tl_most_n(w, v->top_n);
        }
    }
}

TL_INLINE int64_t tl_integer(const void *volume, int64_t i, const int kind)
{
    return kind == TL_I32 ? ((const int32_t *)volume)[i] : ((const int64_t *)volume)[i];
}

/* Adds one trade that carries `mark`, as `fold_marked` does. */
TL_INLINE void tl_add1(const double *price, const void *volume, uint8_t mark, int64_t i, tl_bar *s, const int kind)
{
    const double p = price[i];
    if (mark & 1) {
        if (p > s->high) s->high = p;
        if (p < s->low) s->low = p;
    }
    if (mark & 2) {
        if (s->last == 0) s->open = p;
        s->close = p;
        s->last += 1;
    }
    if (mark & 4) {
        if (kind == TL_F64) {
            const double w = ((const double *)volume)[i];
            s->lane[s->n & 7] += w;
            if (w > s->peak) s->peak = w;
        } else {
            const int64_t w = tl_integer(volume, i, kind);
            s->total = (int64_t)((uint64_t)s->total + (uint64_t)w);
            s->bits |= w;
            if (w > s->top) s->top = w;
        }
    }
    s->n += 1;
}

#endif
