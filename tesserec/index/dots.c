/* For each item of some cells the best approximate score over a user's interests, from one byte a component.
 *
 * Items lie in blocks of 16, each (dim / 4, 16, 4): a 64-byte line holds four components of sixteen items, so that one
 * instruction adds four products to sixteen sums. `scores_of_cells` in compact.py does the same in Numba. */
#include <stdint.h>
#ifdef __AVX512VNNI__
#include <immintrin.h>
#endif

enum { LANES = 16, MOST = 32 };

static void score_block(const int8_t *block, const float *scales, int groups, const int8_t *queries, const int32_t *sums,
                        const float *factors, const float *added, int interests, float *best)
{
#ifdef __AVX512VNNI__
    __m512i total[MOST];
    const __m512i flip = _mm512_set1_epi8((char)0x80);
    for (int q = 0; q < interests; q++)
        total[q] = _mm512_set1_epi32(-128 * sums[q]);
    for (int g = 0; g < groups; g++) {
        __m512i line = _mm512_xor_si512(_mm512_loadu_si512(block + 64 * g), flip); /* to unsigned: 128 is taken off above */
        for (int q = 0; q < interests; q++)
            total[q] = _mm512_dpbusd_epi32(total[q], line, _mm512_set1_epi32(*(const int32_t *)(queries + 4 * (q * groups + g))));
    }
    __m512 scale = _mm512_loadu_ps(scales), most = _mm512_set1_ps(-3e38f);
    for (int q = 0; q < interests; q++) {
        __m512 score = _mm512_mul_ps(_mm512_mul_ps(_mm512_cvtepi32_ps(total[q]), scale), _mm512_set1_ps(factors[q]));
        most = _mm512_max_ps(most, _mm512_add_ps(score, _mm512_set1_ps(added[q])));
    }
    _mm512_storeu_ps(best, most);
#else
    (void)sums;
    for (int j = 0; j < LANES; j++)
        best[j] = -3e38f;
    for (int q = 0; q < interests; q++) {
        int32_t total[LANES] = {0};
        for (int g = 0; g < groups; g++)
            for (int j = 0; j < LANES; j++)
                for (int b = 0; b < 4; b++)
                    total[j] += queries[4 * (q * groups + g) + b] * block[64 * g + 4 * j + b];
        for (int j = 0; j < LANES; j++) {
            float score = (float)total[j] * scales[j] * factors[q] + added[q];
            best[j] = score > best[j] ? score : best[j];
        }
    }
#endif
}

/* Scores of items starts[c] to stops[c] - 1 of each cell, one cell after the other; at most MOST interests. */
void scores_of_cells(const int8_t *blocks, const float *scales, int groups, const int8_t *queries, const float *factors,
                     const float *added, int interests, const int64_t *starts, const int64_t *stops, int cells, float *out)
{
    int32_t sums[MOST] = {0};
    float best[LANES];
    for (int q = 0; q < interests; q++)
        for (int d = 0; d < 4 * groups; d++)
            sums[q] += queries[4 * q * groups + d];
    for (int c = 0; c < cells; c++)
        for (int64_t i = starts[c]; i < stops[c];) {
            int64_t b = i / LANES, end = (b + 1) * LANES < stops[c] ? (b + 1) * LANES : stops[c];
            score_block(blocks + b * 64 * groups, scales + b * LANES, groups, queries, sums, factors, added, interests, best);
            for (; i < end; i++)
                *out++ = best[i % LANES];
        }
}
