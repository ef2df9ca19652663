/* The sums of lists in whole numbers of 16 bits, exact sums for what may be among the k best; lists.py says why. */
#include <immintrin.h>
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "sets.h"

enum { BLOCK = 1 << 16, SPARE = 1024, RUN = 512, SPARSE = 1024 };

typedef struct { /* a row of nine 64-bit words in Python */
    const uint16_t *places;
    const float *scores;
    const uint16_t *blocks, *counts;
    const int64_t *ranges, *offsets;
    const uint8_t *dead;
    int64_t n_dead, n_blocks;
} lists;

typedef struct { /* the postings that one of the user's codes has in one block */
    int64_t begin;
    int32_t n, column;
} range;

typedef struct {
    const int32_t *seen, *listed;
    int64_t n_seen, n_listed;
    const uint8_t *bits;
    int64_t n_bits;
} unwanted;

typedef struct { /* keys: whole sum, then segment and item */
    uint64_t *keys;
    int64_t n, k;
    uint64_t slack, floor;
} best;

typedef struct {
    float score;
    int32_t item;
} answer;

static _Thread_local _Alignas(64) uint16_t of_thread[BLOCK]; /* zero between calls */

int32_t tesserec_supported(void) { return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw"); }

static uint64_t select_largest(uint64_t *keys, int64_t n, int64_t k) {
    /* The k-th largest; the larger ones come to the front. */
    int64_t low = 0, high = n - 1;
    while (low < high) {
        uint64_t a = keys[low], b = keys[(low + high) / 2], c = keys[high];
        uint64_t pivot = a < b ? (b < c ? b : a < c ? c : a) : (a < c ? a : b < c ? c : b);
        int64_t i = low, j = high;
        while (i <= j) {
            while (keys[i] > pivot) i++;
            while (keys[j] < pivot) j--;
            if (i <= j) {
                uint64_t other = keys[i];
                keys[i++] = keys[j];
                keys[j--] = other;
            }
        }
        if (k - 1 <= j) high = j; else if (k - 1 >= i) low = i; else break;
    }
    return keys[k - 1];
}

static int settle(best *best, int64_t room) {
    /* Raise the floor and drop what is below; 0 where too many are nearly equal. */
    if (best->n > best->k) {
        uint64_t least = select_largest(best->keys, best->n, best->k) >> 48;
        if (least > best->slack + best->floor) best->floor = least - best->slack;
        int64_t left = best->k;
        for (int64_t i = left; i < best->n; i++)
            if (best->keys[i] >> 48 >= best->floor) best->keys[left++] = best->keys[i];
        best->n = left;
    }
    return best->n + RUN <= room;
}

static void note(best *best, const unwanted *without, const lists *own, uint64_t segment, int32_t item, uint64_t sum) {
    if (sum < best->floor || bit(own->dead, own->n_dead, item) || bit(without->bits, without->n_bits, item) ||
        holds(without->listed, without->n_listed, item) || holds(without->seen, without->n_seen, item))
        return;
    best->keys[best->n++] = sum << 48 | segment << 32 | (uint32_t)item;
}

__attribute__((target("avx512f,avx512bw")))
static void whole(const float *scores, int64_t n, float factor, uint32_t *out) {
    /* ceil(score * factor), at least 1, of up to 16 postings. */
    __m512 given = _mm512_maskz_loadu_ps((__mmask16)((1u << n) - 1), scores);
    __m512i sums = _mm512_cvt_roundps_epi32(_mm512_mul_ps(given, _mm512_set1_ps(factor)),
                                            _MM_FROUND_TO_POS_INF | _MM_FROUND_NO_EXC);
    _mm512_storeu_si512(out, _mm512_max_epi32(sums, _mm512_set1_epi32(1)));
}

__attribute__((target("avx512f,avx512bw")))
static void add(const uint16_t *restrict places, const float *restrict scores, int64_t n, float factor,
                uint16_t *restrict totals) {
    uint32_t sums[16];
    int64_t i = 0;
    for (; i + 16 <= n; i += 16) {
        whole(scores + i, 16, factor, sums);
        for (int j = 0; j < 16; j++) totals[places[i + j]] += (uint16_t)sums[j];
    }
    whole(scores + i, n - i, factor, sums);
    for (int64_t j = 0; i + j < n; j++) totals[places[i + j]] += (uint16_t)sums[j];
}

static void fetch(const lists *own, const range *next) {
    for (int64_t line = 0; line < 4; line++) {
        __builtin_prefetch(own->places + next->begin + 32 * line);
        __builtin_prefetch(own->scores + next->begin + 16 * line);
    }
}

__attribute__((target("avx512f,avx512bw")))
static int64_t find(const uint16_t *places, int64_t n, uint16_t place) {
    __m512i wanted = _mm512_set1_epi16((short)place);
    int64_t i = 0;
    for (; i + 128 <= n; i += 128) {
        __mmask32 any = 0, found[4];
        for (int j = 0; j < 4; j++)
            any |= found[j] = _mm512_cmpeq_epi16_mask(_mm512_loadu_si512(places + i + 32 * j), wanted);
        for (int j = 0; any && j < 4; j++)
            if (found[j]) return i + 32 * j + __builtin_ctz(found[j]);
    }
    for (; i < n; i += 32) {
        __mmask32 within = n - i < 32 ? (1u << (n - i)) - 1 : ~0u;
        __mmask32 found = _mm512_mask_cmpeq_epi16_mask(within, _mm512_maskz_loadu_epi16(within, places + i), wanted);
        if (found) return i + __builtin_ctz(found);
    }
    return -1;
}

static int read_head(const lists *own, const range *one, float factor, int32_t first, uint64_t segment,
                     const unwanted *without, best *best, int64_t room) {
    /* A block that one list alone names: its best come first. */
    uint32_t sums[16];
    for (int64_t i = 0; i < one->n; i += 16) {
        int64_t n = one->n - i < 16 ? one->n - i : 16;
        if (best->n + RUN > room && !settle(best, room)) return 0;
        whole(own->scores + one->begin + i, n, factor, sums);
        for (int64_t j = 0; j < n; j++) {
            if (sums[j] < best->floor) return 1;
            note(best, without, own, segment, first + own->places[one->begin + i + j], sums[j]);
        }
    }
    return 1;
}

static int gather_places(uint16_t *totals, const lists *own, const range *ranges, int64_t n, int32_t first,
                         uint64_t segment, const unwanted *without, best *best, int64_t room) {
    int fits = 1;
    for (int64_t r = 0; r < n; r++)
        for (int64_t i = 0; i < ranges[r].n; i++) {
            uint16_t place = own->places[ranges[r].begin + i], sum = totals[place];
            totals[place] = 0;
            if (!sum || sum < best->floor || !fits) continue;
            if (best->n + RUN > room) fits = settle(best, room);
            if (fits) note(best, without, own, segment, first + place, sum);
        }
    return fits;
}

__attribute__((target("avx512f,avx512bw")))
static int gather_all(uint16_t *totals, const lists *own, int32_t first, uint64_t segment, const unwanted *without,
                      best *best, int64_t room) {
    /* The same where most lines of the sums are touched; there is room for a run before each is noted. */
    int fits = best->n + RUN <= room || settle(best, room);
    for (int32_t start = 0; start < BLOCK; start += RUN) {
        __m512i *run = (__m512i *)(totals + start), floor = _mm512_set1_epi16((short)best->floor);
        __m512i most = run[0];
        for (int i = 1; i < RUN / 32; i++) most = _mm512_max_epu16(most, run[i]);
        if (fits && _mm512_cmpge_epu16_mask(most, floor)) {
            for (int32_t i = 0; i < RUN / 32; i++)
                for (__mmask32 above = _mm512_cmpge_epu16_mask(run[i], floor); above; above &= above - 1) {
                    int32_t place = start + 32 * i + __builtin_ctz(above);
                    note(best, without, own, segment, first + place, totals[place]);
                }
            if (best->n + RUN > room) fits = settle(best, room);
        }
        for (int i = 0; i < RUN / 32; i++) run[i] = _mm512_setzero_si512();
    }
    return fits;
}

static int better(const void *a, const void *b) {
    const answer *one = a, *other = b;
    if (one->score != other->score) return one->score < other->score ? 1 : -1;
    return (one->item > other->item) - (one->item < other->item);
}

static int64_t count_ranges(const lists *own, const int32_t *codes, int64_t width) {
    int64_t n = 0;
    for (int64_t c = 0; c < width; c++)
        if (codes[c] >= 0) n += own->ranges[codes[c] + 1] - own->ranges[codes[c]];
    return n;
}

static int collect(const lists *own, const int32_t *codes, const float *weights, int64_t width, range *ranges,
                   int64_t *starts, double *bounds) {
    /* The ranges of the user's codes by block, and a bound on the sums of each; 0 where something is negative, or a
       damaged file names a block that is not there. */
    memset(starts, 0, (own->n_blocks + 2) * sizeof *starts);
    memset(bounds, 0, own->n_blocks * sizeof *bounds);
    for (int64_t c = 0; c < width; c++)
        for (int64_t r = codes[c] < 0 ? 0 : own->ranges[codes[c]], end = codes[c] < 0 ? 0 : own->ranges[codes[c] + 1];
             r < end; r++) {
            if (own->blocks[r] >= own->n_blocks) return 0;
            starts[own->blocks[r] + 2]++;
        }
    for (int64_t b = 0; b < own->n_blocks; b++) starts[b + 2] += starts[b + 1];
    for (int64_t c = 0; c < width; c++) {
        if (codes[c] < 0) continue;
        if (!(weights[c] >= 0)) return 0;
        int64_t begin = own->offsets[codes[c]];
        for (int64_t r = own->ranges[codes[c]]; r < own->ranges[codes[c] + 1]; r++) {
            int32_t n = own->counts[r] + 1;
            if (own->scores[begin + n - 1] < 0) return 0;
            ranges[starts[own->blocks[r] + 1]++] = (range){begin, n, (int32_t)c};
            bounds[own->blocks[r]] += (double)weights[c] * own->scores[begin];
            begin += n;
        }
    }
    return 1;
}

static double exact(const lists *own, const range *ranges, int64_t n, const float *weights, uint16_t place) {
    double total = 0;
    for (int64_t r = 0; r < n; r++) {
        int64_t at = find(own->places + ranges[r].begin, ranges[r].n, place);
        if (at >= 0) total += (double)weights[ranges[r].column] * own->scores[ranges[r].begin + at];
    }
    return total;
}

static int visit(const lists *own, uint64_t segment, const range *ranges, const int64_t *starts, const double *bounds,
                 double step, const float *factors, const unwanted *without, best *best, int64_t room) {
    uint16_t *totals = of_thread;
    for (int64_t b = 0; b < own->n_blocks; b++) {
        const range *these = ranges + starts[b];
        int64_t n = starts[b + 1] - starts[b], postings = 0;
        if (!n || bounds[b] / step + best->slack < best->floor) continue;
        int32_t first = (int32_t)(b * BLOCK);
        if (n == 1) {
            if (!read_head(own, these, factors[these->column], first, segment, without, best, room)) return 0;
            continue;
        }
        for (int64_t r = 0; r < n; r++) {
            if (r + 1 < n) fetch(own, these + r + 1);
            add(own->places + these[r].begin, own->scores + these[r].begin, these[r].n, factors[these[r].column], totals);
            postings += these[r].n;
        }
        int fits = postings < SPARSE ? gather_places(totals, own, these, n, first, segment, without, best, room)
                                     : gather_all(totals, own, first, segment, without, best, room);
        if (!fits) return 0;
    }
    return 1;
}

int64_t tesserec_sum_lists(const lists *segments, int64_t n_segments, const int32_t *codes, const float *weights,
                           int64_t width, const int32_t *seen, int64_t n_seen, const int32_t *listed, int64_t n_listed,
                           const uint8_t *bits, int64_t n_bits, int64_t k, int32_t *items, float *scores) {
    unwanted without = {seen, listed, n_seen, n_listed, bits, n_bits};
    int64_t room = k + SPARE + k / 4 + RUN, n_ranges[2], n_blocks = 0, found = -1, held = 0;
    for (int64_t s = 0; s < n_segments; s++) {
        held += n_ranges[s] = count_ranges(segments + s, codes, width);
        n_blocks += segments[s].n_blocks;
    }
    range *ranges = malloc((held + 1) * sizeof *ranges);
    int64_t *starts = malloc((n_blocks + 4) * sizeof *starts);
    double *bounds = malloc((n_blocks + 1) * sizeof *bounds), most = 0;
    float *factors = malloc((width + 1) * sizeof *factors);
    answer *answers = malloc(room * sizeof *answers);
    best best = {malloc(room * sizeof(uint64_t)), 0, k, width + width / 64 + 3, 1};
    if (!ranges || !starts || !bounds || !factors || !answers || !best.keys || width > 4096) goto end;
    const range *own_ranges[2];
    const int64_t *own_starts[2];
    const double *own_bounds[2];
    for (int64_t s = 0, r = 0, b = 0; s < n_segments; s++) {
        own_ranges[s] = ranges + r, own_starts[s] = starts + b + 2 * s, own_bounds[s] = bounds + b;
        if (!collect(segments + s, codes, weights, width, ranges + r, starts + b + 2 * s, bounds + b)) goto end;
        r += n_ranges[s], b += segments[s].n_blocks;
    }
    for (int64_t b = 0; b < n_blocks; b++) most = fmax(most, bounds[b]);
    double step = most > 0 ? most / (65534 - 2 * width) : 1;
    for (int64_t c = 0; c < width; c++)
        if (codes[c] >= 0 && !((factors[c] = (float)(weights[c] / step)) < 1e30f)) goto end;
    for (int64_t s = 0; s < n_segments; s++)
        if (!visit(segments + s, s, own_ranges[s], own_starts[s], own_bounds[s], step, factors, &without, &best,
                   room)) goto end;
    settle(&best, room);
    for (int64_t i = 0; i < best.n; i++) {
        int64_t s = best.keys[i] >> 32 & 1, b;
        int32_t item = (int32_t)best.keys[i];
        const int64_t *of = own_starts[s] + (b = item / BLOCK);
        double total = exact(segments + s, own_ranges[s] + of[0], of[1] - of[0], weights, item % BLOCK);
        answers[i] = (answer){(float)total + 0.0f, item};
    }
    qsort(answers, best.n, sizeof *answers, better);
    found = best.n < k ? best.n : k;
    for (int64_t i = 0; i < found; i++) items[i] = answers[i].item, scores[i] = answers[i].score;
end:
    free(ranges), free(starts), free(bounds), free(factors), free(answers), free(best.keys);
    return found;
}
