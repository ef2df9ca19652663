/* Items that a list may not hold: sorted, or a bitmap. */
#include <stdint.h>

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
