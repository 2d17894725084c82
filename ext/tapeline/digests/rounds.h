/* SHA-256 (FIPS 180-4) of LANES messages at once, one in each element of a vector. Included once for each width, with
   LANES, TARGET and NAME(x) defined. Plain vectors of the compiler: which instructions they become is TARGET's. */

typedef uint32_t NAME(vec) __attribute__((vector_size(4 * LANES)));

#define ROTATED(x, n) (((x) >> (n)) | ((x) << (32 - (n))))

/* `state` is word by word, the lanes of a word side by side; lane k reads `blocks` blocks of 64 bytes from data[k] on. */
TARGET static void NAME(blocks)(uint32_t *state, const uint8_t **data, size_t blocks)
{
    typedef NAME(vec) V;
    V s[8], w[16];
    uint32_t words[16 * LANES] __attribute__((aligned(64)));
    memcpy(s, state, sizeof s);
    for (size_t block = 0; block < blocks; block++) {
        for (int lane = 0; lane < LANES; lane++) {
            const uint8_t *from = data[lane];
            for (int t = 0; t < 16; t++) {
                uint32_t word;
                memcpy(&word, from + 4 * t, 4);
                words[t * LANES + lane] = __builtin_bswap32(word);
            }
            data[lane] = from + 64;
        }
        memcpy(w, words, sizeof w);
        V a = s[0], b = s[1], c = s[2], d = s[3], e = s[4], f = s[5], g = s[6], h = s[7];
#pragma GCC unroll 64
        for (int t = 0; t < 64; t++) {
            if (t >= 16) {
                const V early = w[(t + 1) & 15], late = w[(t + 14) & 15];
                w[t & 15] += (ROTATED(early, 7) ^ ROTATED(early, 18) ^ (early >> 3)) + w[(t + 9) & 15] +
                             (ROTATED(late, 17) ^ ROTATED(late, 19) ^ (late >> 10));
            }
            const V one = h + (ROTATED(e, 6) ^ ROTATED(e, 11) ^ ROTATED(e, 25)) + (g ^ (e & (f ^ g))) +
                          (tl_rounds[t] + w[t & 15]);
            const V two = (ROTATED(a, 2) ^ ROTATED(a, 13) ^ ROTATED(a, 22)) + ((a & b) | (c & (a | b)));
            h = g; g = f; f = e; e = d + one; d = c; c = b; b = a; a = one + two;
        }
        s[0] += a; s[1] += b; s[2] += c; s[3] += d; s[4] += e; s[5] += f; s[6] += g; s[7] += h;
    }
    memcpy(state, s, sizeof s);
}

#undef ROTATED
