/* How far a bar reaches that closes on volume or on money, 16 trades at a time.

   What closes a bar is the float64 sum of `reference.py`, one trade after another: a chain of additions that no
   vector shortens. So blocks are added up in any order and compared with a margin that is wider than all rounding
   of either order; the block that reaches the limit is looked into, and only where the sum comes so near to the
   limit that the order could decide, or falls (negative numbers, NaN), is the answer UNSURE and the caller's chain
   asked. Sums of whole volumes have no rounding and no margin. */
#ifndef TAPELINE_REACH_H
#define TAPELINE_REACH_H
#include <math.h>
#include "block.h"

enum { TL_ENDED, TL_REACHED, TL_UNSURE };
#define TL_MOST_WHOLE ((int64_t)1 << 47) /* whole volumes below it: 16 of them add up to less than 2**52 */

/* Which of 16 numbers takes a sum to `goal`, given that they do; `*sum` becomes the sum with it. Without a branch:
   none could be foreseen. */
TL_INLINE int64_t tl_which(const tl_f *d, double goal, double *sum)
{
#if defined(__AVX2__)
    const __m256d nought = _mm256_setzero_pd(), end = _mm256_set1_pd(goal);
    __m256d base = _mm256_set1_pd(*sum);
    double all[16];
    int less = 0;
    for (int k = 0; k < 4; k++) { /* sums within a vector, then those before it */
        __m256d x = (__m256d)d[k];
        x = _mm256_add_pd(x, _mm256_blend_pd(_mm256_permute4x64_pd(x, 0x90), nought, 1));
        x = _mm256_add_pd(x, _mm256_permute2f128_pd(x, x, 0x08));
        const __m256d here = _mm256_add_pd(base, x);
        _mm256_storeu_pd(all + 4 * k, here);
        less |= _mm256_movemask_pd(_mm256_cmp_pd(here, end, _CMP_LT_OQ)) << 4 * k;
        base = _mm256_add_pd(base, _mm256_permute4x64_pd(x, 0xff));
    }
    const int64_t at = __builtin_ctz(~less | 0x8000);
    *sum = all[at];
    return at;
#else
    double one[16], base[4], next[4];
    int64_t q = 0, k = 0;
    memcpy(one, d, sizeof one);
    base[0] = *sum;
    for (int c = 0; c < 3; c++) {
        base[c + 1] = base[c] + ((one[4 * c] + one[4 * c + 1]) + (one[4 * c + 2] + one[4 * c + 3]));
        q += base[c + 1] < goal;
    }
    next[0] = base[q] + one[4 * q];
    for (int c = 0; c < 3; c++) {
        next[c + 1] = next[c] + one[4 * q + c + 1];
        k += next[c] < goal;
    }
    *sum = next[k];
    return 4 * q + k;
#endif
}

/* From `first` on, trades are added to a bar until volume, or price times volume, reaches `limit`. */
TL_INLINE int64_t tl_reach(const double *price, const void *volume, const uint8_t *flags, int64_t first, int64_t n,
                           double limit, tl_bar *s, int *state, const int kind, const int dollar)
{
    const int exact = !dollar && kind != TL_F64;
    const double below = limit * (1.0 - 0x1p-20); /* more than the margin of 2**30 trades */
    const int64_t most = n - first > (1 << 30) ? first + (1 << 30) : n;
    int64_t i = first, whole = 0, goal = 0;
    double sum = 0.0;
    if (!(limit >= 1e-290 && limit <= (exact ? 0x1p52 : 1e300))) { /* sums may be subnormal, infinite, or inexact */
        *state = TL_UNSURE;
        return first;
    }
    if (exact) goal = (int64_t)ceil(limit);
    *state = TL_ENDED;
    while (i < n) {
        if (i + 16 <= most && (flags == NULL || tl_plain(flags + i))) {
            const int64_t began = i;
            const int turn = (int)(s->n & 7);
            double turned[8];
            const int64_t whole_before = whole;
            int64_t counted = 0;
            tl_l below_0 = {0};
            tl_state v;
            v.bits = v.top = (tl_l){0};
            v.bits_n = v.top_n = (tl_n){0};
            for (int k = 0; k < 2; k++) {
                v.hi[k] = s->high - (tl_f){0};
                v.lo[k] = s->low - (tl_f){0};
                v.peak[k] = v.sum[k] = (tl_f){0};
            }
            if (kind == TL_F64) {
                for (int k = 0; k < 8; k++) turned[k] = s->lane[(k + turn) & 7];
                memcpy(v.lane, turned, sizeof v.lane);
            }
            do {
                __builtin_prefetch((const char *)(price + i) + TL_AHEAD);
                __builtin_prefetch((const char *)(price + i) + TL_AHEAD + 64);
                __builtin_prefetch((const char *)volume + (kind == TL_I32 ? 4 : 8) * i + TL_AHEAD);
                if (kind == TL_I64) {
                    tl_l any = {0};
                    for (int k = 0; k < TL_STEPS; k++) {
                        const tl_l w = tl_whole(volume, i + k * TL_W, kind);
                        any |= w | (TL_MOST_WHOLE - 1 - w);
                    }
                    if (tl_signs(any)) break;
                }
                if (exact) {
                    tl_l more = {0};
                    int64_t added;
                    if (kind == TL_I32) {
                        tl_n sign = {0};
                        for (int k = 0; k < 16 / TL_N; k++) {
                            tl_n w;
                            memcpy(&w, (const int32_t *)volume + i + TL_N * k, sizeof w);
                            sign |= w;
                        }
                        if (tl_signs((tl_l)(sign | (tl_n)((tl_l)sign << 32)))) break;
                    }
                    for (int k = 0; k < TL_STEPS; k++) more += tl_whole(volume, i + k * TL_W, kind);
                    added = tl_across_l(more);
                    if (whole + added >= goal) {
                        int64_t count = 1;
                        for (int c = 0; c < 16; c++) {
                            const int64_t w = tl_integer(volume, i + c, kind), add = whole < goal ? w : 0;
                            count += whole + add < goal;
                            whole += add;
                        }
                        tl_add16(price, volume, i, count, &v, kind);
                        i += count;
                        *state = TL_REACHED;
                        break;
                    }
                    whole += added;
                } else {
                    tl_f w[TL_STEPS], d[TL_STEPS], more = {0};
                    double then;
                    for (int k = 0; k < TL_STEPS; k++) {
                        w[k] = d[k] = tl_float(volume, i + k * TL_W, kind);
                        if (dollar) {
                            tl_f x;
                            memcpy(&x, price + i + k * TL_W, sizeof x);
                            d[k] = x * w[k];
                        }
                    }
                    for (int k = 0; k < TL_STEPS; k += 2) more += d[k] + d[k + 1];
                    then = sum + tl_across(more);
                    if (!(then < below)) { /* also for NaN */
                        const double margin = (double)(i - first + 32) * 0x1p-51;
                        if (!(then < limit * (1.0 - margin))) {
                            int64_t count;
                            tl_l sign = {0};
                            for (int k = 0; k < TL_STEPS; k++) sign |= (tl_l)d[k];
                            count = 1 + tl_which(d, limit * (1.0 - margin), &sum);
                            if (tl_signs(sign) || !(sum * (1.0 - margin) >= limit)) {
                                *state = TL_UNSURE;
                                return i;
                            }
                            tl_add16(price, volume, i, count, &v, kind);
                            for (int k = 0; k < TL_STEPS; k++) {
                                tl_l at;
                                for (int c = 0; c < TL_W; c++) at[c] = k * TL_W + c;
                                w[k] = (tl_f)((tl_l)w[k] & (at < (tl_l){0} + count));
                                if (kind == TL_F64) below_0 |= (tl_l)w[k];
                                else v.sum[k & 1] += w[k];
                            }
                            i += count;
                            *state = TL_REACHED;
                            break;
                        }
                    }
                    sum = then;
                    for (int k = 0; k < TL_STEPS; k++) {
                        if (kind == TL_F64) below_0 |= (tl_l)w[k];
                        else v.sum[k & 1] += w[k]; /* exact below 2**53, and a bar above it is refused */
                    }
                }
                tl_add16(price, volume, i, 16, &v, kind);
                i += 16;
            } while (i + 16 <= most && (flags == NULL || tl_plain(flags + i)));
            if (i > began) {
                const double high = tl_highest(TL_MAX(v.hi[0], v.hi[1])), low = tl_lowest(TL_MIN(v.lo[0], v.lo[1]));
                s->high = high > s->high ? high : s->high;
                s->low = low < s->low ? low : s->low;
                if (kind == TL_F64) {
                    memcpy(turned, v.lane, sizeof v.lane);
                    for (int k = 0; k < 8; k++) s->lane[(k + turn) & 7] = turned[k];
                    const double peak = tl_highest(TL_MAX(v.peak[0], v.peak[1]));
                    s->peak = peak > s->peak ? peak : s->peak;
                } else {
                    const double added = tl_across(v.sum[0] + v.sum[1]);
                    counted += whole - whole_before + (added < 0x1p62 ? (int64_t)added : (int64_t)1 << 62);
                    s->total = (int64_t)((uint64_t)s->total + (uint64_t)counted);
                    if (kind == TL_I32) {
                        const int32_t top = tl_highest_n(v.top_n);
                        s->bits |= tl_bits_n(v.bits_n);
                        s->top = top > s->top ? top : s->top;
                    } else {
                        for (int c = 0; c < TL_W; c++) {
                            s->bits |= v.bits[c];
                            s->top = v.top[c] > s->top ? v.top[c] : s->top;
                        }
                    }
                }
                if (!exact && (tl_signs(below_0) || s->bits < 0 || (dollar && s->low < 0.0))) {
                    *state = TL_UNSURE; /* the sum fell on the way */
                    return i;
                }
                if (s->last == 0) s->open = price[began];
                s->close = price[i - 1];
                s->last += i - began;
                s->n += i - began;
            }
            if (*state == TL_REACHED) return i;
        }
        /* One after another: what is left, what does not count as a whole, and what a block refused. */
        const int64_t stop = n - i < 16 ? n : i + 16;
        if (exact) sum = (double)whole;
        for (; i < stop; i++) {
            const uint8_t mark = flags == NULL ? 7 : flags[i] & 7;
            if (mark == 0) continue;
            tl_add1(price, volume, mark, i, s, kind);
            if (mark & 4) {
                double d = tl_number(volume, i, kind);
                if (dollar) d = price[i] * d;
                sum += d;
                if (!(d >= 0.0)) {
                    *state = TL_UNSURE;
                    return i;
                }
                const double margin = exact ? 0.0 : (double)(i - first + 32) * 0x1p-51;
                if (sum >= limit * (1.0 - margin)) {
                    *state = sum * (1.0 - margin) >= limit ? TL_REACHED : TL_UNSURE;
                    return i + 1;
                }
            }
        }
        if (exact) whole = (int64_t)sum;
    }
    return n;
}

#define TL_REACH(NAME, TYPE, KIND, DOLLAR)                                                                          \
    static int64_t NAME(const double *price, const TYPE *volume, const uint8_t *flags, int64_t first, int64_t n,    \
                        double limit, tl_bar *s, int *state)                                                        \
    {                                                                                                               \
        return tl_reach(price, volume, flags, first, n, limit, s, state, KIND, DOLLAR);                             \
    }
TL_REACH(tl_volume_i32, int32_t, TL_I32, 0)
TL_REACH(tl_volume_i64, int64_t, TL_I64, 0)
TL_REACH(tl_volume_f64, double, TL_F64, 0)
TL_REACH(tl_dollar_i32, int32_t, TL_I32, 1)
TL_REACH(tl_dollar_i64, int64_t, TL_I64, 1)
TL_REACH(tl_dollar_f64, double, TL_F64, 1)

#endif
