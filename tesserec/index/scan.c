/* The 8-bit scan of cells for all interests of a user at once; the Numba kernel of scan.py keeps the same rows. */
#include <immintrin.h>
#include <math.h>
#include <stdint.h>

int32_t tesserec_supported(void) {
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512vnni");
}

static void keep_bound(float *heap, int64_t k, int64_t *filled, float value) {
    /* A heap of the k largest lower bounds, the smallest first. */
    int64_t at = 0;
    if (*filled < k) {
        at = (*filled)++;
        while (at > 0 && heap[(at - 1) / 2] > value) {
            heap[at] = heap[(at - 1) / 2];
            at = (at - 1) / 2;
        }
        heap[at] = value;
        return;
    }
    if (!(value > heap[0])) return;
    for (;;) {
        int64_t child = 2 * at + 1;
        if (child >= k) break;
        if (child + 1 < k && heap[child + 1] < heap[child]) child++;
        if (!(heap[child] < value)) break;
        heap[at] = heap[child];
        at = child;
    }
    heap[at] = value;
}

static int holds(const int32_t *values, int64_t n, int32_t value) {
    int64_t low = 0, high = n;
    while (low < high) {
        int64_t middle = (low + high) / 2;
        if (values[middle] < value) low = middle + 1; else high = middle;
    }
    return low < n && values[low] == value;
}

static int bit(const uint8_t *bits, int64_t n, int32_t item) {
    return n > 0 && (bits[item >> 3] >> (item & 7)) & 1;
}

__attribute__((target("avx512f,avx512bw,avx512vnni")))
int64_t tesserec_scan(const uint8_t *tiles, const float *scales, const int64_t *tile_offsets, const int64_t *offsets,
                      const int32_t *items, const int64_t *cells, int64_t n_cells, int64_t groups,
                      const int8_t *queries, const int32_t *corrections, const float *slopes, const float *slacks,
                      const float *highs, const float *lows, int64_t n_queries,
                      const int32_t *unwanted, int64_t n_unwanted, const uint8_t *bits, int64_t n_bits,
                      const uint8_t *dead, int64_t n_dead,
                      float *heap, int64_t k, int64_t *filled, int32_t *kept, float *uppers, int64_t room) {
    const __m512i lanes = _mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
    int64_t n = 0;
    for (int64_t visit = 0; visit < n_cells; visit++) {
        int64_t cell = cells[visit], first = offsets[cell], rows = offsets[cell + 1] - first;
        for (int64_t done = 0; done < rows; done += 16) {
            int64_t tile = tile_offsets[cell] + done / 16;
            const uint8_t *block = tiles + tile * groups * 64;
            __m512 scale = _mm512_loadu_ps(scales + 16 * tile);
            __m512 upper = _mm512_set1_ps(-INFINITY), lower = upper;
            for (int64_t q = 0; q < n_queries; q += 4) {
                __m512i sums[4];
                const int32_t *parts[4];
                int64_t wide = n_queries - q < 4 ? n_queries - q : 4;
                for (int64_t j = 0; j < 4; j++) {
                    int64_t own = q + (j < wide ? j : 0);
                    sums[j] = _mm512_set1_epi32(-corrections[own]);
                    parts[j] = (const int32_t *)(queries + own * groups * 4);
                }
                for (int64_t g = 0; g < groups; g++) {
                    __m512i v = _mm512_loadu_si512(block + 64 * g);
                    for (int64_t j = 0; j < 4; j++)
                        sums[j] = _mm512_dpbusd_epi32(sums[j], v, _mm512_set1_epi32(parts[j][g]));
                }
                for (int64_t j = 0; j < wide; j++) {
                    __m512 middle = _mm512_mul_ps(_mm512_cvtepi32_ps(sums[j]), _mm512_set1_ps(slopes[q + j]));
                    __m512 slack = _mm512_set1_ps(slacks[q + j]);
                    upper = _mm512_max_ps(upper, _mm512_add_ps(_mm512_mul_ps(scale, _mm512_add_ps(middle, slack)),
                                                               _mm512_set1_ps(highs[q + j])));
                    lower = _mm512_max_ps(lower, _mm512_add_ps(_mm512_mul_ps(scale, _mm512_sub_ps(middle, slack)),
                                                               _mm512_set1_ps(lows[q + j])));
                }
            }
            float threshold = *filled == k ? heap[0] : -INFINITY;
            __mmask16 pass = _mm512_cmp_ps_mask(upper, _mm512_set1_ps(threshold), _CMP_GE_OQ);
            if (rows - done < 16) pass &= _mm512_cmplt_epi32_mask(lanes, _mm512_set1_epi32((int32_t)(rows - done)));
            if (!pass) continue;
            if (n + 16 > room) {
                int64_t left = 0;
                for (int64_t i = 0; i < n; i++)
                    if (uppers[i] >= threshold) {
                        kept[left] = kept[i];
                        uppers[left++] = uppers[i];
                    }
                n = left;
                if (n + 16 > room) return -1;
            }
            float high[16], low[16];
            _mm512_storeu_ps(high, upper);
            _mm512_storeu_ps(low, lower);
            for (; pass; pass &= pass - 1) {
                int lane = __builtin_ctz(pass);
                int32_t item = items[first + done + lane];
                if (*filled == k && high[lane] < heap[0]) continue;
                if (bit(dead, n_dead, item) || bit(bits, n_bits, item) || holds(unwanted, n_unwanted, item)) continue;
                kept[n] = (int32_t)(first + done + lane);
                uppers[n++] = high[lane];
                keep_bound(heap, k, filled, low[lane]);
            }
        }
    }
    return n;
}
