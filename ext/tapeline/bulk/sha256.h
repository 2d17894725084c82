/* SHA-256 (FIPS 180-4) of eight texts at once, and of one text after another.
 *
 * The digests of commits do not depend on each other, so eight of them fill the lanes of a vector; the roots do, so
 * they are taken one by one. The vector type is the compiler's own: where the machine has no such registers it makes
 * two or eight plain ones of it, and the result is the same.
 */
#ifndef TAPELINE_SHA256_H
#define TAPELINE_SHA256_H

#include <stdint.h>
#include <string.h>

#define LANES 8

typedef uint32_t lanes_t __attribute__((vector_size(4 * LANES)));

/* One source for machines with and without AVX2; the loader takes the better one. */
#if defined(__x86_64__) && defined(__linux__) && defined(__GNUC__) && !defined(__clang__) && !defined(__SANITIZE_ADDRESS__) \
    && !defined(__SANITIZE_THREAD__)
#define BEST_OF __attribute__((target_clones("avx2", "default")))
#else
#define BEST_OF
#endif

static const uint32_t SHA256_K[64] = {
    0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5, 0xd807aa98, 0x12835b01,
    0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174, 0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc,
    0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da, 0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147,
    0x06ca6351, 0x14292967, 0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
    0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070, 0x19a4c116, 0x1e376c08,
    0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3, 0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208,
    0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2};

static const uint32_t SHA256_H[8] = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a, 0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};

#define ROTR(x, n) (((x) >> (n)) | ((x) << (32 - (n))))
#define BIG0(x) (ROTR(x, 2) ^ ROTR(x, 13) ^ ROTR(x, 22))
#define BIG1(x) (ROTR(x, 6) ^ ROTR(x, 11) ^ ROTR(x, 25))
#define SMALL0(x) (ROTR(x, 7) ^ ROTR(x, 18) ^ ((x) >> 3))
#define SMALL1(x) (ROTR(x, 17) ^ ROTR(x, 19) ^ ((x) >> 10))
#define CHOOSE(x, y, z) ((z) ^ ((x) & ((y) ^ (z))))
#define MAJORITY(x, y, z) (((x) & (y)) | ((z) & ((x) | (y))))

/* The 64 rounds over a message schedule `w` of 16 words that is extended in place; T is the type of a word. */
#define SHA256_ROUNDS(T, state, w)                                                                          \
    do {                                                                                                    \
        T a = (state)[0], b = (state)[1], c = (state)[2], d = (state)[3];                                   \
        T e = (state)[4], f = (state)[5], g = (state)[6], h = (state)[7];                                   \
        for (int i = 0; i < 64; i++) {                                                                      \
            if (i >= 16)                                                                                    \
                (w)[i & 15] += SMALL1((w)[(i + 14) & 15]) + (w)[(i + 9) & 15] + SMALL0((w)[(i + 1) & 15]);  \
            T one = h + BIG1(e) + CHOOSE(e, f, g) + SHA256_K[i] + (w)[i & 15];                              \
            T two = BIG0(a) + MAJORITY(a, b, c);                                                            \
            h = g, g = f, f = e, e = d + one, d = c, c = b, b = a, a = one + two;                           \
        }                                                                                                   \
        (state)[0] += a, (state)[1] += b, (state)[2] += c, (state)[3] += d;                                 \
        (state)[4] += e, (state)[5] += f, (state)[6] += g, (state)[7] += h;                                 \
    } while (0)

static inline uint32_t big_endian(const unsigned char *at) {
    uint32_t word;
    memcpy(&word, at, 4);
    return __builtin_bswap32(word);
}

static inline void put_big_endian(unsigned char *at, uint32_t word) {
    word = __builtin_bswap32(word);
    memcpy(at, &word, 4);
}

/* The blocks of 64 bytes that a text of `size` bytes fills once it is padded. */
static inline long long sha256_blocks(long long size) { return (size + 9 + 63) / 64; }

/* Pad a text in place: one bit, zeros, and its length; there is room for `sha256_blocks(size)` blocks. */
static inline void sha256_pad(unsigned char *text, long long size) {
    long long end = 64 * sha256_blocks(size);
    memset(text + size, 0, (size_t)(end - size));
    text[size] = 0x80;
    put_big_endian(text + end - 8, (uint32_t)((uint64_t)size >> 29));
    put_big_endian(text + end - 4, (uint32_t)((uint64_t)size << 3));
}

/* Digests of eight padded texts of `blocks[k]` blocks each; lane k stops at its own last block. */
BEST_OF
static void sha256_lanes(unsigned char *const texts[LANES], const long long blocks[LANES], unsigned char *const out[LANES]) {
    lanes_t state[8], w[16];
    long long most = 0;
    for (int k = 0; k < LANES; k++)
        if (blocks[k] > most) most = blocks[k];
    for (int i = 0; i < 8; i++)
        for (int k = 0; k < LANES; k++) state[i][k] = SHA256_H[i];
    for (long long block = 0; block < most; block++) {
        for (int k = 0; k < LANES; k++) {
            /* A lane that is done repeats its last block; what comes of it is not looked at. */
            const unsigned char *at = texts[k] + 64 * (block < blocks[k] ? block : blocks[k] - 1);
            for (int i = 0; i < 16; i++) w[i][k] = big_endian(at + 4 * i);
        }
        SHA256_ROUNDS(lanes_t, state, w);
        for (int k = 0; k < LANES; k++)
            if (block + 1 == blocks[k])
                for (int i = 0; i < 8; i++) put_big_endian(out[k] + 4 * i, state[i][k]);
    }
}

/* The digest of 64 bytes: what a root is of the root before and a digest. */
static inline void sha256_of_64(const unsigned char text[64], unsigned char out[32]) {
    uint32_t state[8], w[16];
    unsigned char rest[64];
    memcpy(state, SHA256_H, sizeof state);
    for (int i = 0; i < 16; i++) w[i] = big_endian(text + 4 * i);
    SHA256_ROUNDS(uint32_t, state, w);
    memset(rest, 0, 64);
    rest[0] = 0x80;
    put_big_endian(rest + 60, 512);
    for (int i = 0; i < 16; i++) w[i] = big_endian(rest + 4 * i);
    SHA256_ROUNDS(uint32_t, state, w);
    for (int i = 0; i < 8; i++) put_big_endian(out + 4 * i, state[i]);
}

#endif
