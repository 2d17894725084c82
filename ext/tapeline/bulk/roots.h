/* The SHA-256 of 64 bytes: what a root is of the root before and a digest. One follows from the other, so that nothing
   can share a vector; digests of commits can, and are made by `tapeline.digests`, of which this includes the loops. */
#ifndef TAPELINE_ROOTS_H
#define TAPELINE_ROOTS_H

#include "../digests/lanes.h"

#define ROTATED(x, n) (((x) >> (n)) | ((x) << (32 - (n))))

static void tl_block(uint32_t s[8], const uint8_t *data)
{
    uint32_t w[16], a = s[0], b = s[1], c = s[2], d = s[3], e = s[4], f = s[5], g = s[6], h = s[7];
    for (int t = 0; t < 16; t++) {
        memcpy(&w[t], data + 4 * t, 4);
        w[t] = __builtin_bswap32(w[t]);
    }
    for (int t = 0; t < 64; t++) {
        if (t >= 16) {
            const uint32_t early = w[(t + 1) & 15], late = w[(t + 14) & 15];
            w[t & 15] += (ROTATED(early, 7) ^ ROTATED(early, 18) ^ (early >> 3)) + w[(t + 9) & 15] +
                         (ROTATED(late, 17) ^ ROTATED(late, 19) ^ (late >> 10));
        }
        const uint32_t one = h + (ROTATED(e, 6) ^ ROTATED(e, 11) ^ ROTATED(e, 25)) + (g ^ (e & (f ^ g))) +
                             tl_rounds[t] + w[t & 15];
        const uint32_t two = (ROTATED(a, 2) ^ ROTATED(a, 13) ^ ROTATED(a, 22)) + ((a & b) | (c & (a | b)));
        h = g; g = f; f = e; e = d + one; d = c; c = b; b = a; a = one + two;
    }
    s[0] += a; s[1] += b; s[2] += c; s[3] += d; s[4] += e; s[5] += f; s[6] += g; s[7] += h;
}

#undef ROTATED

static void tl_root(const uint8_t text[64], uint8_t out[32])
{
    static const uint8_t end[64] = {0x80, [62] = 512 >> 8}; /* the padding of 512 bits */
    uint32_t state[8];
    memcpy(state, tl_initial, sizeof state);
    tl_block(state, text);
    tl_block(state, end);
    for (int i = 0; i < 8; i++) {
        const uint32_t word = __builtin_bswap32(state[i]);
        memcpy(out + 4 * i, &word, 4);
    }
}

#endif
