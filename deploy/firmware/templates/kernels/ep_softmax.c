/* SPDX-License-Identifier: Apache-2.0 */
/* Softmax in fixed point, after gemmlowp: exponentials from a table, their reciprocal sum by Newton's method. */
#include "ep_arithmetic.h"
#include "ep_operators.h"

#define EP_SUM_INTEGER_BITS 12

static int32_t times_4_saturated(int32_t x) {
  return x > (INT32_MAX >> 2) ? INT32_MAX : x < -(1 << 29) ? INT32_MIN : x * 4;
}

int32_t ep_reciprocal_of_one_plus(int32_t x) {
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
    const int32_t scale = ep_reciprocal_of_one_plus((int32_t)(shifted & 0x7fffffffu));
    for (int32_t i = 0; i < p->depth; ++i) {
      const int32_t below = largest - in[i];
      const int32_t value = below < p->exponentials_count ? ep_multiply_high(scale, p->exponentials[below]) : 0;
      out[i] = (int8_t)ep_clamp(ep_divide_by_power(value, bits_over_one + 31 - 8) - 128, -128, 127);
    }
  }
}

/* x * 2^exponent within 32 bits. */
static int32_t shifted_left(int32_t x, int32_t exponent) {
  const int64_t y = (int64_t)x * ((int64_t)1 << exponent);
  return y > INT32_MAX ? INT32_MAX : y < INT32_MIN ? INT32_MIN : (int32_t)y;
}

static int32_t within_32(int64_t x) { return x > INT32_MAX ? INT32_MAX : x < INT32_MIN ? INT32_MIN : (int32_t)x; }

static int32_t leading_zeros(int32_t x) { /* x is positive */
  int32_t n = 0;
  for (uint32_t bits = (uint32_t)x; bits >> 31 == 0; bits <<= 1) ++n;
  return n;
}

/* log(x) for x >= 1 with 19 fractional bits; the result has 26. The mantissa r lies around 2^(-1/4), of which a rational
 * function is the logarithm; of two ways to scale x, by 2^n and by 2^(n + 1/2), the closer one is taken. */
static int32_t logarithm(int32_t x) {
  const int32_t log_2 = 1488522236, root_half = 1518500250, fourth_root_half = 1805811301, quarter = 1 << 23;
  const int32_t zeros = leading_zeros(x), scaled = ep_multiply_high(x, root_half), half_zeros = leading_zeros(scaled) - 1;
  const int32_t first = shifted_left(ep_multiply_high(shifted_left(x, zeros - 1), root_half), 1);
  const int32_t second = shifted_left(x, half_zeros);
  const int32_t r = first < second ? first : second;
  const int32_t first_power = within_32((int64_t)shifted_left(EP_SUM_INTEGER_BITS - zeros, 25) + quarter);
  const int32_t second_power = within_32((int64_t)shifted_left(EP_SUM_INTEGER_BITS - half_zeros, 25) - quarter);
  const int32_t power = first_power > second_power ? first_power : second_power;
  const int64_t both = (int64_t)r + fourth_root_half;
  const int32_t p = (int32_t)((both + (both >= 0 ? 1 : -1)) / 2), q = 2 * (r - fourth_root_half);
  const int32_t square = ep_multiply_high(q, q);
  const int32_t numerator = ep_multiply_high(q, r) + ep_multiply_high(ep_multiply_high(q, square), 117049297);
  const int32_t denominator =
      ep_multiply_high(p, 1057819769 + q + ep_multiply_high(127690142, square)) + ep_multiply_high(638450708, q);
  const int32_t fraction = ep_multiply_high(ep_divide_by_power(numerator, 6), ep_reciprocal_of_one_plus(denominator));
  return shifted_left(ep_multiply_high(power, log_2) + fraction, 1);
}

void ep_log_softmax(const ep_log_softmax_plan *p, const int8_t *in, int8_t *out) {
  for (int32_t row = 0; row < p->rows; ++row, in += p->depth, out += p->depth) {
    int32_t largest = -128, sum = 0;
    for (int32_t i = 0; i < p->depth; ++i)
      if (in[i] > largest) largest = in[i];
    for (int32_t i = 0; i < p->depth; ++i)
      if (largest - in[i] < p->count) sum += ep_divide_by_power(p->exponentials[largest - in[i]], EP_SUM_INTEGER_BITS);
    const int32_t log_of_sum = logarithm(sum);
    const int32_t lowest = ep_rescale(log_of_sum + INT32_MIN, p->multiplier, p->shift); /* below, the output is -128 */
    for (int32_t i = 0; i < p->depth; ++i) {
      const int32_t below = largest - in[i];
      out[i] = -128;
      if (below >= p->count || -below <= lowest) continue;
      out[i] = (int8_t)ep_clamp(ep_divide_by_power(p->differences[below] - log_of_sum, 22) + 127, -128, 127);
    }
  }
}
