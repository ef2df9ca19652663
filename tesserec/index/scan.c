/* Cells searched for all interests of a user at once: the 8-bit scan, then exact products of the rows that it keeps.
   The Numba kernels of scan.py give the same answers. */
#include <immintrin.h>
#include <math.h>
#include <stdint.h>

enum { ROWS = 16, WIDE = 4, AHEAD = 4 }; /* rows of a tile, interests at a time, tiles and rows fetched ahead */

/* What scan.py hands over: eight bytes each, in this order. */
struct call {
    const uint8_t *tiles;
    const float *scales;
    const int64_t *tile_offsets, *offsets;
    const float *vectors;
    const int32_t *items;
    const uint8_t *dead;
    int64_t n_dead, groups, dim;
    const int64_t *cells;
    int64_t n_cells;
    const float *queries;
    const double *added;
    const int8_t *bytes;
    const int32_t *corrections;
    const float *slopes, *slacks, *highs, *lows;
    int64_t n_queries;
    const int32_t *unwanted;
    int64_t n_unwanted;
    const uint8_t *bits;
    int64_t n_bits;
    float *heap;
    int64_t *filled;
    int32_t *kept;
    float *uppers;
    int64_t room;
    double *exact;
    int32_t *best_items;
    double *best_values;
    int32_t *best_columns;
    int64_t k;
};

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

static int64_t drop(const struct call *c, int64_t n, float threshold) {
    int64_t left = 0;
    for (int64_t i = 0; i < n; i++)
        if (c->uppers[i] >= threshold) {
            c->kept[left] = c->kept[i];
            c->uppers[left++] = c->uppers[i];
        }
    return left;
}

static float threshold_of(const struct call *c) { return *c->filled == c->k ? c->heap[0] : -INFINITY; }

/* A place in the sequence of tiles that are visited. */
struct walk { int64_t visit, tile, end; };

static void fetch_next(const struct call *c, struct walk *walk) {
    while (walk->tile == walk->end) {
        if (walk->visit == c->n_cells) return;
        int64_t cell = c->cells[walk->visit++];
        walk->tile = c->tile_offsets[cell];
        walk->end = c->tile_offsets[cell + 1];
    }
    const uint8_t *block = c->tiles + walk->tile * c->groups * 64;
    for (int64_t g = 0; g < c->groups; g++) __builtin_prefetch(block + 64 * g);
    __builtin_prefetch(c->scales + ROWS * walk->tile);
    walk->tile++;
}

__attribute__((target("avx512f,avx512bw,avx512vnni")))
static void bounds(const struct call *c, int64_t tile, __m512 *high, __m512 *low) {
    const uint8_t *block = c->tiles + tile * c->groups * 64;
    __m512 scale = _mm512_loadu_ps(c->scales + ROWS * tile), upper = _mm512_set1_ps(-INFINITY), lower = upper;
    for (int64_t q = 0; q < c->n_queries; q += WIDE) {
        __m512i sums[WIDE];
        const int32_t *parts[WIDE];
        int64_t wide = c->n_queries - q < WIDE ? c->n_queries - q : WIDE;
        for (int64_t j = 0; j < WIDE; j++) {
            int64_t own = q + (j < wide ? j : 0);
            sums[j] = _mm512_set1_epi32(-c->corrections[own]);
            parts[j] = (const int32_t *)(c->bytes + own * c->groups * 4);
        }
        for (int64_t g = 0; g < c->groups; g++) {
            __m512i v = _mm512_loadu_si512(block + 64 * g);
            for (int64_t j = 0; j < WIDE; j++)
                sums[j] = _mm512_dpbusd_epi32(sums[j], v, _mm512_set1_epi32(parts[j][g]));
        }
        for (int64_t j = 0; j < wide; j++) {
            __m512 middle = _mm512_mul_ps(_mm512_cvtepi32_ps(sums[j]), _mm512_set1_ps(c->slopes[q + j]));
            __m512 slack = _mm512_set1_ps(c->slacks[q + j]);
            upper = _mm512_max_ps(upper, _mm512_add_ps(_mm512_mul_ps(scale, _mm512_add_ps(middle, slack)),
                                                       _mm512_set1_ps(c->highs[q + j])));
            lower = _mm512_max_ps(lower, _mm512_add_ps(_mm512_mul_ps(scale, _mm512_sub_ps(middle, slack)),
                                                       _mm512_set1_ps(c->lows[q + j])));
        }
    }
    *high = upper;
    *low = lower;
}

/* Rows whose upper bound reaches the k-th best lower bound; -1 where there are more than room for them. */
__attribute__((target("avx512f,avx512bw,avx512vnni")))
static int64_t scan(const struct call *c) {
    const __m512i lanes = _mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
    struct walk ahead = {0, 0, 0};
    int64_t n = 0;
    for (int64_t i = 0; i < AHEAD; i++) fetch_next(c, &ahead);
    for (int64_t visit = 0; visit < c->n_cells; visit++) {
        int64_t cell = c->cells[visit], first = c->offsets[cell], rows = c->offsets[cell + 1] - first;
        for (int64_t done = 0; done < rows; done += ROWS) {
            __m512 upper, lower;
            fetch_next(c, &ahead);
            bounds(c, c->tile_offsets[cell] + done / ROWS, &upper, &lower);
            float threshold = threshold_of(c);
            __mmask16 pass = _mm512_cmp_ps_mask(upper, _mm512_set1_ps(threshold), _CMP_GE_OQ);
            if (rows - done < ROWS) pass &= _mm512_cmplt_epi32_mask(lanes, _mm512_set1_epi32((int32_t)(rows - done)));
            if (!pass) continue;
            if (n + ROWS > c->room && (n = drop(c, n, threshold)) + ROWS > c->room) return -1;
            float high[ROWS], low[ROWS];
            _mm512_storeu_ps(high, upper);
            _mm512_storeu_ps(low, lower);
            for (; pass; pass &= pass - 1) {
                int lane = __builtin_ctz(pass);
                int32_t item = c->items[first + done + lane];
                if (high[lane] < threshold_of(c)) continue;
                if (bit(c->dead, c->n_dead, item) || bit(c->bits, c->n_bits, item)) continue;
                if (holds(c->unwanted, c->n_unwanted, item)) continue;
                c->kept[n] = (int32_t)(first + done + lane);
                c->uppers[n++] = high[lane];
                keep_bound(c->heap, c->k, c->filled, low[lane]);
            }
        }
    }
    return n;
}

typedef double four __attribute__((vector_size(32), aligned(8)));

/* The dot product of kernels.exact_dot: sums of every fourth product, in float64, rounded once. */
__attribute__((target("avx512f,avx512bw,avx512vnni")))
static double exact_dot(const double *query, const double *vector, int64_t dim) {
    four sums = {0, 0, 0, 0};
    int64_t whole = dim / 4 * 4;
    for (int64_t i = 0; i < whole; i += 4) sums += *(const four *)(query + i) * *(const four *)(vector + i);
    for (int64_t i = whole; i < dim; i++) sums[0] += query[i] * vector[i];
    return (float)((sums[0] + sums[1]) + (sums[2] + sums[3]));
}

struct candidate { double value; int32_t item, column; };

static int worse(const struct candidate *a, const struct candidate *b) {
    return a->value < b->value || (a->value == b->value && a->item > b->item);
}

static void sink(struct candidate *heap, int64_t n, struct candidate new) {
    /* Put a candidate in the place of the worst, which is the first. */
    int64_t at = 0;
    for (int64_t child; (child = 2 * at + 1) < n; at = child) {
        if (child + 1 < n && worse(heap + child + 1, heap + child)) child++;
        if (!worse(heap + child, &new)) break;
        heap[at] = heap[child];
    }
    heap[at] = new;
}

/* The k best of the kept rows, by falling value, then rising item. */
__attribute__((target("avx512f,avx512bw,avx512vnni")))
static int64_t rank(const struct call *c, int64_t n) {
    int64_t found = 0, dim = c->dim, lines = (dim + 15) / 16;
    double *queries = c->exact, *vector = queries + c->n_queries * dim;
    struct candidate *heap = (struct candidate *)(vector + dim);
    for (int64_t i = 0; i < c->n_queries * dim; i++) queries[i] = c->queries[i];
    n = drop(c, n, threshold_of(c));
    for (int64_t at = 0; at < n; at++) {
        if (at + AHEAD < n)
            for (int64_t line = 0; line < lines; line++)
                __builtin_prefetch(c->vectors + c->kept[at + AHEAD] * dim + 16 * line);
        if (found == c->k && c->uppers[at] < heap[0].value) continue;
        const float *row = c->vectors + c->kept[at] * dim;
        struct candidate new = {-INFINITY, c->items[c->kept[at]], 0};
        for (int64_t i = 0; i < dim; i++) vector[i] = row[i];
        for (int64_t j = 0; j < c->n_queries; j++) {
            double value = exact_dot(queries + j * dim, vector, dim) + c->added[j];
            if (value > new.value) new.value = value, new.column = (int32_t)j;
        }
        if (found < c->k) {
            int64_t place = found++;
            for (; place > 0 && worse(&new, heap + (place - 1) / 2); place = (place - 1) / 2)
                heap[place] = heap[(place - 1) / 2];
            heap[place] = new;
        } else if (worse(heap, &new)) {
            sink(heap, found, new);
        }
    }
    for (int64_t left = found; left > 0;) {
        struct candidate worst = heap[0];
        left--;
        if (left > 0) sink(heap, left, heap[left]);
        c->best_items[left] = worst.item;
        c->best_values[left] = worst.value;
        c->best_columns[left] = worst.column;
    }
    return found;
}

int64_t tesserec_best(const struct call *call) {
    int64_t n = scan(call);
    return n < 0 ? n : rank(call, n);
}
