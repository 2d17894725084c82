/* A bar, and blocks of 16 trades added to it in one pass over the columns: they stream from memory together and
   only registers are written. A block must count as a whole (all flags 7) and, where times are looked at, lie
   before `end` and not decrease; the first that does not is left to the caller, whose loop says which trade.
   Lanes are whole vectors here, but sums, maxima and minima are those of `reference.py` to the bit. */
#ifndef TAPELINE_FOLD_H
#define TAPELINE_FOLD_H
#include <stdint.h>
#include <string.h>
#if defined(__AVX2__)
#include <immintrin.h>
#define TL_W 4
#elif defined(__x86_64__)
#include <emmintrin.h>
#define TL_W 2
#else
#define TL_W 2
#endif
typedef double tl_f __attribute__((vector_size(8 * TL_W)));
typedef int64_t tl_l __attribute__((vector_size(8 * TL_W)));
typedef int32_t tl_i __attribute__((vector_size(16)));
/* A maximum that keeps `b` unless `a` is greater: what the machine's instruction does. */
#if defined(__AVX2__)
#define TL_MAX(a, b) ((tl_f)_mm256_max_pd((__m256d)(a), (__m256d)(b)))
#define TL_MIN(a, b) ((tl_f)_mm256_min_pd((__m256d)(a), (__m256d)(b)))
#elif defined(__x86_64__)
#define TL_MAX(a, b) ((tl_f)_mm_max_pd((__m128d)(a), (__m128d)(b)))
#define TL_MIN(a, b) ((tl_f)_mm_min_pd((__m128d)(a), (__m128d)(b)))
#else
static inline tl_f TL_PICK(tl_l m, tl_f a, tl_f b) { return (tl_f)((m & (tl_l)a) | (~m & (tl_l)b)); }
#define TL_MAX(a, b) TL_PICK((a) > (b), a, b)
#define TL_MIN(a, b) TL_PICK((a) < (b), a, b)
#endif
#define TL_STEPS (16 / TL_W)
#define TL_AHEAD 2048

typedef struct {
    double open;
    double high; /* of HILO trades; infinities mean none yet */
    double low;
    double close;
    int64_t last;  /* trades that set open and close */
    int64_t n;     /* trades that count */
    int64_t total; /* sum of whole volumes */
    int64_t bits;  /* all whole volumes ORed: bounds their sum */
    int64_t top;   /* greatest whole volume */
    double lane[8]; /* sums of float volumes by ordinal mod 8 */
    double peak;    /* greatest float volume */
} tl_bar;

/* Asks for what will be read some blocks later. */
static inline void tl_ahead(const void *column) { __builtin_prefetch((const char *)column + TL_AHEAD); }

/* Whether 16 flags are all 7. */
static inline int tl_plain(const uint8_t *flags)
{
    uint64_t a, b;
    memcpy(&a, flags, 8);
    memcpy(&b, flags + 8, 8);
    return ((a ^ 0x0707070707070707ULL) | (b ^ 0x0707070707070707ULL)) == 0;
}

#define TL_HEAD(VOLUME)                                                                                             \
    if (first + 16 > n || (timed && ts[first + 15] >= end)) return first;                                           \
    int64_t i = first, before = timed ? *seen : 0;                                                                  \
    tl_f hi[4], lo[4];                                                                                              \
    /* Less 0.0 spreads a number over a vector and keeps the sign of a zero. */                                     \
    for (int k = 0; k < 4; k++) { hi[k] = s->high - (tl_f){0}; lo[k] = s->low - (tl_f){0}; }                        \
    while (i + 16 <= n && (!timed || ts[i + 15] < end) && (flags == NULL || tl_plain(flags + i))) {                 \
        __builtin_prefetch((const char *)(price + i) + TL_AHEAD);                                                   \
        __builtin_prefetch((const char *)(price + i) + TL_AHEAD + 64);                                              \
        __builtin_prefetch((const char *)(VOLUME + i) + TL_AHEAD);                                                  \
        if (timed) { /* the first difference is that to the block before, the others lie within the block */        \
        __builtin_prefetch((const char *)(ts + i) + TL_AHEAD);                                                      \
        __builtin_prefetch((const char *)(ts + i) + TL_AHEAD + 64);                                                 \
        int64_t steps = ts[i] - before;                                                                             \
        tl_l back = {0};                                                                                            \
        for (int k = 0; k < TL_STEPS - 1; k++) {                                                                    \
            tl_l a, b;                                                                                              \
            memcpy(&a, ts + i + k * TL_W, sizeof a);                                                                \
            memcpy(&b, ts + i + k * TL_W + 1, sizeof b);                                                            \
            back |= b - a;                                                                                          \
        }                                                                                                           \
        {                                                                                                           \
            tl_l a, b;                                                                                              \
            memcpy(&a, ts + i + 15 - TL_W, sizeof a);                                                               \
            memcpy(&b, ts + i + 16 - TL_W, sizeof b);                                                               \
            back |= b - a;                                                                                          \
        }                                                                                                           \
        for (int c = 0; c < TL_W; c++) steps |= back[c];                                                            \
        if (steps < 0) break;                                                                                       \
        before = ts[i + 15];                                                                                        \
        }                                                                                                           \
        for (int k = 0; k < TL_STEPS; k++) {                                                                        \
            tl_f x;                                                                                                 \
            memcpy(&x, price + i + k * TL_W, sizeof x);                                                             \
            hi[k & 3] = TL_MAX(x, hi[k & 3]);                                                                       \
            lo[k & 3] = TL_MIN(x, lo[k & 3]);                                                                       \
        }

#define TL_TAIL                                                                                                     \
        i += 16;                                                                                                    \
    }                                                                                                               \
    hi[0] = TL_MAX(TL_MAX(hi[0], hi[1]), TL_MAX(hi[2], hi[3]));                                                     \
    lo[0] = TL_MIN(TL_MIN(lo[0], lo[1]), TL_MIN(lo[2], lo[3]));                                                     \
    for (int c = 0; c < TL_W; c++) {                                                                                \
        if (hi[0][c] > s->high) s->high = hi[0][c];                                                                 \
        if (lo[0][c] < s->low) s->low = lo[0][c];                                                                   \
    }                                                                                                               \
    if (timed) *seen = before;                                                                                      \
    if (i > first) {                                                                                                \
        if (s->last == 0) s->open = price[first];                                                                   \
        s->close = price[i - 1];                                                                                    \
        s->last += i - first;                                                                                       \
        s->n += i - first;                                                                                          \
    }

static inline __attribute__((always_inline)) int64_t
tl_blocks_i32(const int64_t *ts, const double *price, const int32_t *volume, const uint8_t *flags, int64_t first, int64_t n,
              int64_t end, int64_t *seen, tl_bar *s, const int timed)
{
    tl_l total = {0}, other = {0};
    tl_i bits = {0}, top = {0};
    TL_HEAD(volume)
    for (int k = 0; k < 4; k++) {
        tl_i w, sign, greater;
        memcpy(&w, volume + i + 4 * k, sizeof w);
        bits |= w;
        greater = w > top;
        top = (w & greater) | (top & ~greater);
#if TL_W == 4
        total += __builtin_convertvector(w, tl_l);
        (void)sign;
#else
        sign = w >> 31;
        total += (tl_l)__builtin_shuffle(w, sign, (tl_i){0, 4, 1, 5});
        other += (tl_l)__builtin_shuffle(w, sign, (tl_i){2, 6, 3, 7});
#endif
    }
    TL_TAIL
    total += other;
    for (int c = 0; c < TL_W; c++) s->total = (int64_t)((uint64_t)s->total + (uint64_t)total[c]);
    for (int c = 0; c < 4; c++) { s->bits |= bits[c]; if (top[c] > s->top) s->top = top[c]; }
    return i;
}

static inline __attribute__((always_inline)) int64_t
tl_blocks_i64(const int64_t *ts, const double *price, const int64_t *volume, const uint8_t *flags, int64_t first, int64_t n,
              int64_t end, int64_t *seen, tl_bar *s, const int timed)
{
    tl_l total = {0}, bits = {0}, top = {0};
    TL_HEAD(volume)
    for (int k = 0; k < TL_STEPS; k++) {
        tl_l w, greater;
        memcpy(&w, volume + i + TL_W * k, sizeof w);
        bits |= w;
        total += w;
        greater = w > top;
        top = (w & greater) | (top & ~greater);
    }
    TL_TAIL
    for (int c = 0; c < TL_W; c++) {
        s->total = (int64_t)((uint64_t)s->total + (uint64_t)total[c]);
        s->bits |= bits[c];
        if (top[c] > s->top) s->top = top[c];
    }
    return i;
}

static inline __attribute__((always_inline)) int64_t
tl_blocks_f64(const int64_t *ts, const double *price, const double *volume, const uint8_t *flags, int64_t first, int64_t n,
              int64_t end, int64_t *seen, tl_bar *s, const int timed)
{
    tl_f lane[8 / TL_W], peak[2];
    double turned[8];
    const int turn = (int)(s->n & 7);
    for (int k = 0; k < 8; k++) turned[k] = s->lane[(k + turn) & 7];
    memcpy(lane, turned, sizeof lane);
    for (int k = 0; k < 2; k++) peak[k] = s->peak - (tl_f){0};
    TL_HEAD(volume)
    for (int k = 0; k < TL_STEPS; k++) {
        tl_f w;
        memcpy(&w, volume + i + TL_W * k, sizeof w);
        lane[k % (8 / TL_W)] += w;
        peak[k & 1] = TL_MAX(w, peak[k & 1]);
    }
    TL_TAIL
    memcpy(turned, lane, sizeof lane);
    for (int k = 0; k < 8; k++) s->lane[(k + turn) & 7] = turned[k];
    for (int k = 0; k < 2; k++)
        for (int c = 0; c < TL_W; c++) if (peak[k][c] > s->peak) s->peak = peak[k][c];
    return i;
}

static int64_t tl_timed_i32(const int64_t *ts, const double *price, const int32_t *volume, const uint8_t *flags,
                            int64_t first, int64_t n, int64_t end, int64_t *seen, tl_bar *s)
{
    return tl_blocks_i32(ts, price, volume, flags, first, n, end, seen, s, 1);
}

static int64_t tl_any_i32(const double *price, const int32_t *volume, const uint8_t *flags, int64_t first, int64_t n,
                          tl_bar *s)
{
    return tl_blocks_i32(NULL, price, volume, flags, first, n, 0, NULL, s, 0);
}

static int64_t tl_timed_i64(const int64_t *ts, const double *price, const int64_t *volume, const uint8_t *flags,
                            int64_t first, int64_t n, int64_t end, int64_t *seen, tl_bar *s)
{
    return tl_blocks_i64(ts, price, volume, flags, first, n, end, seen, s, 1);
}

static int64_t tl_any_i64(const double *price, const int64_t *volume, const uint8_t *flags, int64_t first, int64_t n,
                          tl_bar *s)
{
    return tl_blocks_i64(NULL, price, volume, flags, first, n, 0, NULL, s, 0);
}

static int64_t tl_timed_f64(const int64_t *ts, const double *price, const double *volume, const uint8_t *flags,
                            int64_t first, int64_t n, int64_t end, int64_t *seen, tl_bar *s)
{
    return tl_blocks_f64(ts, price, volume, flags, first, n, end, seen, s, 1);
}

static int64_t tl_any_f64(const double *price, const double *volume, const uint8_t *flags, int64_t first, int64_t n,
                          tl_bar *s)
{
    return tl_blocks_f64(NULL, price, volume, flags, first, n, 0, NULL, s, 0);
}

#endif
