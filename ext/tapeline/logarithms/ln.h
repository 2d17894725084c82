/* Natural logarithms that come out the same on every machine: additions, multiplications and divisions of IEEE 754
 * doubles in one order, and nothing of the C library, whose logarithms differ in the last bit from one processor to
 * the next.
 *
 * The method and its constants are those of fdlibm (e_log.c, s_log1p.c), of which the notice is kept:
 *
 * Copyright (C) 1993 by Sun Microsystems, Inc. All rights reserved.
 * Developed at SunSoft, a Sun Microsystems, Inc. business.
 * Permission to use, copy, modify, and distribute this software is freely granted, provided that this notice is
 * preserved.
 */
#ifndef TAPELINE_LN_H
#define TAPELINE_LN_H

#include <math.h>
#include <stdint.h>
#include <string.h>

static const double LN2_HIGH = 6.93147180369123816490e-01, LN2_LOW = 1.90821492927058770002e-10;

/* The high word of sqrt(2) / 2: mantissas lie from there to sqrt(2). */
#define LN_HALF 0x3fe6a09eULL
#define LN_ONE 0x3ff00000ULL
/* The least normal number. */
#define LN_LEAST 2.2250738585072014e-308

static inline uint64_t ln_bits(double x) {
    uint64_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}

/* x as 2^k (1 + f), f from sqrt(2)/2 - 1 to sqrt(2) - 1; x is finite, normal and above 0. */
static inline double ln_reduced(double x, double *k) {
    uint64_t bits = ln_bits(x), high = (bits >> 32) + (LN_ONE - LN_HALF);
    double m;
    /* 2^52 with an integer in its low bits: how many lanes convert at once, where the processor cannot. */
    uint64_t exponent = 0x4330000000000000ULL | (high >> 20);
    memcpy(k, &exponent, sizeof exponent);
    *k -= 4503599627370496.0 + 1023.0;
    bits = (((high & 0xfffffULL) + LN_HALF) << 32) | (bits & 0xffffffffULL);
    memcpy(&m, &bits, sizeof m);
    return m - 1.0;
}

/* ln(2^k (1 + f)) + c. */
static inline double ln_of(double f, double k, double c) {
    double half = 0.5 * f * f, s = f / (2.0 + f), z = s * s, w = z * z;
    double even = w * (3.999999999940941908e-01 + w * (2.222219843214978396e-01 + w * 1.531383769920937332e-01));
    double odd = z * (6.666666666666735130e-01
                      + w * (2.857142874366239149e-01
                             + w * (1.818357216161805012e-01 + w * 1.479819860511658591e-01)));
    return s * (half + (odd + even)) + (k * LN2_LOW + c) - half + f + k * LN2_HIGH;
}

static inline double ln_one(double x) {
    double k, f, more = 0.0;
    if (!(x > 0.0)) return x == 0.0 ? -INFINITY : NAN;
    if (x == INFINITY) return x;
    if (x < LN_LEAST) {
        x *= 18014398509481984.0; /* 2^54 */
        more = -54.0;
    }
    f = ln_reduced(x, &k);
    return ln_of(f, k + more, 0.0);
}

static inline double ln1p_one(double x) {
    double u, k, f, c;
    if (!(x > -1.0)) return x == -1.0 ? -INFINITY : NAN;
    if (x == INFINITY) return x;
    if (fabs(x) < 1.1102230246251565e-16) return x; /* 2^-53 */
    if (x > -0.29289 && x < 0.41421) return ln_of(x, 0.0, 0.0);
    u = 1.0 + x;
    f = ln_reduced(u, &k);
    /* What 1 + x has lost of x. */
    c = k < 54.0 ? (k >= 2.0 ? 1.0 - (u - x) : x - (u - 1.0)) / u : 0.0;
    return ln_of(f, k, c);
}

/* The logarithm of each value; OUT out. Prices take the first loop alone: it has no branch. */
static void ln_all(int64_t n, const double *restrict values, double *restrict out) {
    int64_t i, odd = 0;
    for (i = 0; i < n; i++) {
        double k, f = ln_reduced(values[i], &k);
        out[i] = ln_of(f, k, 0.0);
    }
    for (i = 0; i < n; i++) odd |= !(values[i] >= LN_LEAST) | !(values[i] < INFINITY);
    if (odd)
        for (i = 0; i < n; i++) out[i] = ln_one(values[i]);
}

#endif
