/* Cells searched for all interests of a user at once: the 8-bit scan, then exact products of the rows that it keeps.
   The Numba kernels of scan.py give the same answers. */
#include <immintrin.h>
#include <math.h>
#include <stdint.h>

#include "sets.h"

/* Rows of a tile, tiles and interests at a time, tiles and rows fetched ahead. */
enum { ROWS = 16, PAIR = 2, WIDE = 4, AHEAD = 12 };

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
    const float *slopes, *rests, *lengths, *highs, *lows;
    int64_t n_queries;
    const int32_t *unwanted;
    int64_t n_unwanted;
    const uint8_t *bits;
    int64_t n_bits;
    float *bar; /* the k-th best lower bound so far, in and out */
    int32_t *kept;
    float *uppers, *lowers;
    int64_t room;
    const float *limits; /* largest, longest, error */
    double *exact;
    int32_t *best_items;
    double *best_values;
    int32_t *best_columns;
    int64_t k;
    const float *stops;
    int64_t n_stops;
    int64_t *visited;
};

int32_t tesserec_supported(void) {
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512vnni");
}

/* The k-th largest of n values, which are left in another order. */
static float largest(float *values, int64_t n, int64_t k) {
    int64_t low = 0, high = n - 1;
    while (low < high) {
        float a = values[low], b = values[(low + high) / 2], c = values[high];
        float least = a < b ? a : b, most = a < b ? b : a, pivot = c < least ? least : c > most ? most : c;
        int64_t i = low, j = high;
        while (i <= j) {
            while (values[i] > pivot) i++;
            while (values[j] < pivot) j--;
            if (i <= j) {
                float value = values[i];
                values[i++] = values[j];
                values[j--] = value;
            }
        }
        if (k - 1 <= j) high = j;
        else if (k - 1 >= i) low = i;
        else break;
    }
    return values[k - 1];
}

/* Raise the bar to the k-th best lower bound, and drop the rows whose upper bound does not reach it. */
__attribute__((target("avx512f,avx512bw,avx512vnni")))
static int64_t raise_bar(const struct call *c, int64_t n) {
    if (n >= c->k) {
        float *copy = c->lowers + c->room;
        for (int64_t i = 0; i < n; i++) copy[i] = c->lowers[i];
        float bar = largest(copy, n, c->k);
        if (bar > *c->bar) *c->bar = bar;
    }
    int64_t left = 0;
    const __m512 bar = _mm512_set1_ps(*c->bar);
    for (int64_t i = 0; i < n; i += ROWS) {
        __mmask16 here = n - i < ROWS ? (__mmask16)((1 << (n - i)) - 1) : 0xffff;
        __m512 upper = _mm512_maskz_loadu_ps(here, c->uppers + i), lower = _mm512_maskz_loadu_ps(here, c->lowers + i);
        __m512i row = _mm512_maskz_loadu_epi32(here, c->kept + i);
        __mmask16 stays = _mm512_mask_cmp_ps_mask(here, upper, bar, _CMP_GE_OQ);
        _mm512_mask_compressstoreu_ps(c->uppers + left, stays, upper);
        _mm512_mask_compressstoreu_ps(c->lowers + left, stays, lower);
        _mm512_mask_compressstoreu_epi32(c->kept + left, stays, row);
        left += __builtin_popcount(stays);
    }
    return left;
}

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
    for (int64_t g = 0; g < c->groups; g++) __builtin_prefetch(block + 64 * g, 0, 2); /* into the second cache */
    __builtin_prefetch(c->scales + ROWS * walk->tile);
    walk->tile++;
}

/* Bounds of the rows of a tile and the next, which share what is loaded of the queries. */
__attribute__((target("avx512f,avx512bw,avx512vnni")))
static void bounds(const struct call *c, int64_t tile, int64_t next, __m512 *high, __m512 *low) {
    const uint8_t *blocks[PAIR] = {c->tiles + tile * c->groups * 64, c->tiles + next * c->groups * 64};
    const int64_t tiles[PAIR] = {tile, next};
    __m512 scale[PAIR], reach[PAIR];
    for (int64_t p = 0; p < PAIR; p++) {
        scale[p] = _mm512_loadu_ps(c->scales + ROWS * tiles[p]);
        reach[p] = _mm512_min_ps(_mm512_mul_ps(scale[p], _mm512_set1_ps(c->limits[0])),
                                 _mm512_add_ps(_mm512_set1_ps(c->limits[1]),
                                               _mm512_mul_ps(scale[p], _mm512_set1_ps(c->limits[2]))));
        high[p] = low[p] = _mm512_set1_ps(-INFINITY);
    }
    for (int64_t q = 0; q < c->n_queries; q += WIDE) {
        __m512i sums[PAIR][WIDE];
        const int32_t *parts[WIDE];
        int64_t wide = c->n_queries - q < WIDE ? c->n_queries - q : WIDE;
        for (int64_t j = 0; j < WIDE; j++) {
            int64_t own = q + (j < wide ? j : 0);
            sums[0][j] = sums[1][j] = _mm512_set1_epi32(-c->corrections[own]);
            parts[j] = (const int32_t *)(c->bytes + own * c->groups * 4);
        }
        for (int64_t g = 0; g < c->groups; g++) {
            __m512i first = _mm512_loadu_si512(blocks[0] + 64 * g), second = _mm512_loadu_si512(blocks[1] + 64 * g);
            for (int64_t j = 0; j < WIDE; j++) {
                __m512i part = _mm512_set1_epi32(parts[j][g]);
                sums[0][j] = _mm512_dpbusd_epi32(sums[0][j], first, part);
                sums[1][j] = _mm512_dpbusd_epi32(sums[1][j], second, part);
            }
        }
        for (int64_t p = 0; p < PAIR; p++)
            for (int64_t j = 0; j < wide; j++) {
                __m512 middle = _mm512_mul_ps(_mm512_cvtepi32_ps(sums[p][j]), _mm512_set1_ps(c->slopes[q + j]));
                __m512 slack = _mm512_add_ps(_mm512_mul_ps(reach[p], _mm512_set1_ps(c->rests[q + j])),
                                             _mm512_mul_ps(scale[p], _mm512_set1_ps(c->lengths[q + j])));
                middle = _mm512_mul_ps(scale[p], middle);
                high[p] = _mm512_max_ps(
                    high[p], _mm512_add_ps(_mm512_add_ps(middle, slack), _mm512_set1_ps(c->highs[q + j])));
                low[p] = _mm512_max_ps(
                    low[p], _mm512_add_ps(_mm512_sub_ps(middle, slack), _mm512_set1_ps(c->lows[q + j])));
            }
    }
}

/* Upper bounds of all rows of the first cell. */
__attribute__((target("avx512f,avx512bw,avx512vnni")))
int64_t tesserec_highest(const struct call *c) {
    for (int64_t tile = 0, tiles = c->tile_offsets[1]; tile < tiles; tile += PAIR) {
        __m512 high[PAIR], low[PAIR];
        bounds(c, tile, tile + 1 < tiles ? tile + 1 : tile, high, low);
        for (int64_t p = 0; p < PAIR && tile + p < tiles; p++) _mm512_storeu_ps(c->uppers + ROWS * (tile + p), high[p]);
    }
    return 0;
}

static int refused(const struct call *c, int32_t item) {
    return bit(c->dead, c->n_dead, item) || bit(c->bits, c->n_bits, item) || holds(c->unwanted, c->n_unwanted, item);
}

/* Rows whose upper bound reaches the k-th best lower bound; -1 where there are more than room for them. */
__attribute__((target("avx512f,avx512bw,avx512vnni")))
static int64_t scan(const struct call *c) {
    const __m512i lanes = _mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
    const int all_welcome = !c->n_dead && !c->n_bits && !c->n_unwanted;
    struct walk ahead = {0, 0, 0};
    int64_t n = 0, full = 2 * c->k < c->room ? 2 * c->k : c->room;
    for (int64_t i = 0; i < AHEAD; i++) fetch_next(c, &ahead);
    *c->visited = 0;
    for (int64_t visit = 0; visit < c->n_cells; visit++) {
        if (c->n_stops && c->stops[visit] < *c->bar) break;
        ++*c->visited;
        int64_t cell = c->cells[visit], first = c->offsets[cell], rows = c->offsets[cell + 1] - first;
        __m512 high[PAIR], low[PAIR];
        for (int64_t done = 0; done < rows; done += ROWS) {
            int64_t tile = c->tile_offsets[cell] + done / ROWS, half = done / ROWS % PAIR;
            fetch_next(c, &ahead);
            if (!half) bounds(c, tile, done + ROWS < rows ? tile + 1 : tile, high, low);
            __m512 upper = high[half], lower = low[half];
            __mmask16 pass = _mm512_cmp_ps_mask(upper, _mm512_set1_ps(*c->bar), _CMP_GE_OQ);
            if (rows - done < ROWS) pass &= _mm512_cmplt_epi32_mask(lanes, _mm512_set1_epi32((int32_t)(rows - done)));
            if (!pass) continue;
            if (!all_welcome)
                for (__mmask16 rest = pass; rest; rest &= rest - 1) {
                    int lane = __builtin_ctz(rest);
                    if (refused(c, c->items[first + done + lane])) pass &= ~(1 << lane);
                }
            if (n + ROWS > full) {
                n = raise_bar(c, n);
                if (n + ROWS > c->room) return -1;
                full = 3 * n / 2 + c->k < c->room ? 3 * n / 2 + c->k : c->room;
            }
            _mm512_mask_compressstoreu_ps(c->uppers + n, pass, upper);
            _mm512_mask_compressstoreu_ps(c->lowers + n, pass, lower);
            _mm512_mask_compressstoreu_epi32(
                c->kept + n, pass, _mm512_add_epi32(lanes, _mm512_set1_epi32((int32_t)(first + done))));
            n += __builtin_popcount(pass);
        }
    }
    return raise_bar(c, n);
}

/* Exact products take steps of four coordinates; those beyond the last whole four come one at a time, as the first of a
   step, because kernels.exact_dot adds them to its first sum. */
static int64_t steps_of(int64_t dim) { return dim / 4 + dim % 4; }

static int64_t place_of(int64_t dim, int64_t i) { return i < dim / 4 * 4 ? i : 4 * i - dim / 4 * 12; }

/* Dot products of a row with all queries as kernels.exact_dot has them: sums of every fourth product, in float64, where
   products are exact, rounded once. Queries lie in pairs, a step of each in turn. */
__attribute__((target("avx512f,avx512bw,avx512vnni")))
static void exact_dots(const struct call *c, const double *pairs, const double *vector, double *dots) {
    int64_t steps = steps_of(c->dim);
    for (int64_t j = 0; j < c->n_queries; j += 2) {
        __m512d sums = _mm512_setzero_pd();
        const double *pair = pairs + j * 4 * steps;
        double parts[8];
        for (int64_t i = 0; i < steps; i++)
            sums = _mm512_fmadd_pd(_mm512_loadu_pd(pair + 8 * i),
                                   _mm512_broadcast_f64x4(_mm256_loadu_pd(vector + 4 * i)), sums);
        _mm512_storeu_pd(parts, sums);
        for (int64_t half = 0; half < 2 && j + half < c->n_queries; half++) {
            const double *s = parts + 4 * half;
            dots[j + half] = (float)((s[0] + s[1]) + (s[2] + s[3]));
        }
    }
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

/* The k best of the kept rows, by falling value, then rising item. Those of the best lower bounds come first: they set
   a bar in exact values, which most of the others do not reach. */
__attribute__((target("avx512f,avx512bw,avx512vnni")))
static int64_t rank(const struct call *c, int64_t n) {
    int64_t found = 0, dim = c->dim, steps = steps_of(dim), lines = (dim + 15) / 16, turn = 0;
    double *dots = c->exact, *vector = dots + c->n_queries, *pairs = vector + 4 * steps;
    struct candidate *heap = (struct candidate *)(pairs + (c->n_queries + 1) * 4 * steps);
    int32_t *order = (int32_t *)(heap + c->k);
    for (int64_t i = 0; i < (c->n_queries + 2) * 4 * steps; i++) vector[i] = 0; /* and the pairs behind it */
    for (int64_t j = 0; j < c->n_queries; j++)
        for (int64_t i = 0; i < dim; i++) {
            int64_t place = place_of(dim, i);
            pairs[(j / 2 * steps + place / 4) * 8 + j % 2 * 4 + place % 4] = c->queries[j * dim + i];
        }
    for (int64_t at = 0; at < n; at++) if (c->lowers[at] >= *c->bar) order[turn++] = (int32_t)at;
    for (int64_t at = 0; at < n; at++) if (!(c->lowers[at] >= *c->bar)) order[turn++] = (int32_t)at;
    for (turn = 0; turn < n; turn++) {
        int64_t at = order[turn];
        if (turn + AHEAD < n && !(found == c->k && c->uppers[order[turn + AHEAD]] < heap[0].value))
            for (int64_t line = 0; line < lines; line++)
                __builtin_prefetch(c->vectors + c->kept[order[turn + AHEAD]] * dim + 16 * line);
        if (found == c->k && c->uppers[at] < heap[0].value) continue;
        const float *row = c->vectors + c->kept[at] * dim;
        struct candidate new = {-INFINITY, c->items[c->kept[at]], 0};
        for (int64_t i = 0; i < dim; i++) vector[place_of(dim, i)] = row[i];
        exact_dots(c, pairs, vector, dots);
        for (int64_t j = 0; j < c->n_queries; j++) {
            double value = dots[j] + c->added[j];
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
