/* SHA-256 of many messages: as many at once as the processor's vectors have room for. */
#ifndef TAPELINE_LANES_H
#define TAPELINE_LANES_H
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define TL_MOST_LANES 16

static const uint32_t tl_rounds[64] = {
    0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
    0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
    0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
    0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
    0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
    0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
    0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
    0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2};

static const uint32_t tl_initial[8] = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a,
                                       0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};

#define LANES 4
#define TARGET
#define NAME(x) tl_4_##x
#include "rounds.h"
#undef LANES
#undef TARGET
#undef NAME

#if defined(__x86_64__)
#define LANES 8
#define TARGET __attribute__((target("avx2")))
#define NAME(x) tl_8_##x
#include "rounds.h"
#undef LANES
#undef TARGET
#undef NAME
#define LANES 8
#define TARGET __attribute__((target("avx512f,avx512vl")))
#define NAME(x) tl_8r_##x /* vectors of the same width, with rotation as one instruction */
#include "rounds.h"
#undef LANES
#undef TARGET
#undef NAME
#define LANES 16
#define TARGET __attribute__((target("avx512f")))
#define NAME(x) tl_16_##x
#include "rounds.h"
#undef LANES
#undef TARGET
#undef NAME
#endif

/* How many lanes this processor has room for. */
static int tl_lanes(void)
{
#if defined(__x86_64__)
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx512f")) return 16;
    if (__builtin_cpu_supports("avx2")) return 8;
#endif
    return 4;
}

#if defined(__x86_64__)
static int tl_rotates(void)
{
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl");
}
#endif

static void tl_some_blocks(int lanes, uint32_t *state, const uint8_t **data, size_t blocks)
{
#if defined(__x86_64__)
    if (lanes == 16) { tl_16_blocks(state, data, blocks); return; }
    if (lanes == 8 && tl_rotates()) { tl_8r_blocks(state, data, blocks); return; }
    if (lanes == 8) { tl_8_blocks(state, data, blocks); return; }
#endif
    tl_4_blocks(state, data, blocks);
}

/* One lane of a job: the whole blocks of a message, then its end, padded. */
typedef struct {
    int64_t job;             /* -1: the lane is empty */
    size_t left;             /* blocks from `at` on */
    const uint8_t *at;
    int is_end;
    uint8_t end[128];
} tl_lane;

static void tl_begin(tl_lane *lane, uint32_t *state, int lanes, int k, int64_t job, const uint8_t *data, uint64_t size)
{
    const uint64_t rest = size & 63, bits = size << 3;
    const size_t ends = rest < 56 ? 1 : 2;
    for (int i = 0; i < 8; i++) state[i * lanes + k] = tl_initial[i];
    memset(lane->end, 0, sizeof lane->end);
    if (rest) memcpy(lane->end, data + (size - rest), rest);
    lane->end[rest] = 0x80;
    for (int i = 0; i < 8; i++) lane->end[64 * ends - 1 - i] = (uint8_t)(bits >> (8 * i));
    lane->job = job;
    lane->is_end = size < 64;
    lane->at = lane->is_end ? lane->end : data;
    lane->left = lane->is_end ? ends : (size_t)(size >> 6);
}

/* The digests of n messages, 32 bytes each into `out`, begun in the order given by `order`. */
static void tl_sha256(int lanes, int64_t n, const uint8_t *const *data, const uint64_t *sizes, const int64_t *order,
                      uint8_t *out)
{
    uint32_t state[8 * TL_MOST_LANES] __attribute__((aligned(64)));
    const uint8_t *from[TL_MOST_LANES];
    tl_lane lane[TL_MOST_LANES];
    int64_t next = 0;
    memset(state, 0, sizeof state);
    for (int k = 0; k < lanes; k++) lane[k].job = -1;
    for (;;) {
        size_t least = 0;
        const uint8_t *some = NULL;
        for (int k = 0; k < lanes; k++) {
            if (lane[k].job < 0 && next < n) {
                const int64_t job = order[next++];
                tl_begin(&lane[k], state, lanes, k, job, data[job], sizes[job]);
            }
            if (lane[k].job >= 0 && (some == NULL || lane[k].left < least)) {
                least = lane[k].left;
                some = lane[k].at;
            }
        }
        if (some == NULL) return;
        /* A lane without a job reads what another reads; its state is of no use. */
        for (int k = 0; k < lanes; k++) from[k] = lane[k].job < 0 ? some : lane[k].at;
        tl_some_blocks(lanes, state, from, least);
        for (int k = 0; k < lanes; k++) {
            if (lane[k].job < 0) continue;
            lane[k].at = from[k];
            lane[k].left -= least;
            if (lane[k].left) continue;
            if (!lane[k].is_end) {
                const uint64_t rest = sizes[lane[k].job] & 63;
                lane[k].is_end = 1;
                lane[k].at = lane[k].end;
                lane[k].left = rest < 56 ? 1 : 2;
                continue;
            }
            for (int i = 0; i < 8; i++) {
                const uint32_t word = __builtin_bswap32(state[i * lanes + k]);
                memcpy(out + 32 * lane[k].job + 4 * i, &word, 4);
            }
            lane[k].job = -1;
        }
    }
}
#endif
