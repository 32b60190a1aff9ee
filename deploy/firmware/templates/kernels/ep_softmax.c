/* SPDX-License-Identifier: Apache-2.0 */
/* Softmax in fixed point, after gemmlowp: exponentials from a table, their reciprocal sum by Newton's method. */
#include "ep_arithmetic.h"

#define EP_SUM_INTEGER_BITS 12

static int32_t times_4_saturated(int32_t x) {
  return x > (INT32_MAX >> 2) ? INT32_MAX : x < -(1 << 29) ? INT32_MIN : x * 4;
}

/* 1 / (1 + x) for x in [0, 1), 31 fractional bits each. */
static int32_t reciprocal_of_one_plus(int32_t x) {
  const int32_t half = (int32_t)(((int64_t)x + INT32_MAX + 1) / 2); /* (1 + x) / 2 */
  /* 48/17 - 32/17 d, and two Newton steps more than it needs; from here on 29 fractional bits. */
  int32_t y = 1515870810 + ep_multiply_high(half, -1010580540);
  for (int step = 0; step < 3; ++step) {
    const int32_t error = (1 << 29) - ep_multiply_high(half, y);
    y += times_4_saturated(ep_multiply_high(y, error));
  }
  return y > (INT32_MAX >> 1) ? INT32_MAX : y * 2;
}

void ep_softmax(const ep_softmax_plan *p, const int8_t *in, int8_t *out) {
  for (int32_t row = 0; row < p->rows; ++row, in += p->depth, out += p->depth) {
    int32_t largest = -128, sum = 0, bits_over_one = EP_SUM_INTEGER_BITS;
    for (int32_t i = 0; i < p->depth; ++i)
      if (in[i] > largest) largest = in[i];
    for (int32_t i = 0; i < p->depth; ++i) {
      const int32_t below = largest - in[i];
      if (below < p->exponentials_count) sum += ep_divide_by_power(p->exponentials[below], EP_SUM_INTEGER_BITS);
    }
    uint32_t shifted = (uint32_t)sum; /* at least exp(0), so that there is a leading one */
    for (; shifted >> 31 == 0; shifted <<= 1) --bits_over_one;
    const int32_t scale = reciprocal_of_one_plus((int32_t)(shifted & 0x7fffffffu));
    for (int32_t i = 0; i < p->depth; ++i) {
      const int32_t below = largest - in[i];
      const int32_t value = below < p->exponentials_count ? ep_multiply_high(scale, p->exponentials[below]) : 0;
      out[i] = (int8_t)ep_clamp(ep_divide_by_power(value, bits_over_one + 31 - 8) - 128, -128, 127);
    }
  }
}
