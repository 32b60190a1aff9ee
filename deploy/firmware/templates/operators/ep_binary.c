/* SPDX-License-Identifier: Apache-2.0 */
/* Operators of two operands with broadcasting: extremes, slopes, quotients, and everything on int16. */
#include "ep_arithmetic.h"
#include "ep_operators.h"

/* The operands of ADD and SUB on int16 get 15 more bits. */
#define EP_LEFT_SHIFT_16 15

/* A kernel for one row: `expression` makes an int32_t of the operands x and y. */
#define EP_ROW(name, type_a, type_b, type, expression)                                 \
  static void name(const ep_binary *p, const void *a, const void *b, void *out) {      \
    const type_a *first = a;                                                           \
    const type_b *second = b;                                                          \
    type *to = out;                                                                    \
    const int32_t a_step = p->a_stride[EP_DIMS - 1], b_step = p->b_stride[EP_DIMS - 1]; \
    for (int32_t n = p->size[EP_DIMS - 1]; n > 0; --n, first += a_step, second += b_step) { \
      const int32_t x = *first, y = *second;                                           \
      *to++ = (type)(expression);                                                      \
    }                                                                                  \
  }

static int32_t clamped(const ep_binary *p, int32_t x) { return ep_clamp(x, p->out_min, p->out_max); }

static int32_t sloped(const ep_binary *p, int32_t x, int32_t slope) {
  const int32_t value = x >= 0 ? ep_rescale(x, p->a_multiplier, p->a_shift)
                               : ep_rescale(x * slope, p->out_multiplier, p->out_shift);
  return clamped(p, value + p->out_zero);
}

static int32_t leading_zeros(uint32_t x) { /* x is not 0 */
  int32_t n = 0;
  for (; x >> 31 == 0; x <<= 1) ++n;
  return n;
}

/* x / y by the reciprocal of y, which is normalized to [1, 2), and of x as far left as it goes. Where y is 0 there is no
 * right answer: the largest of x's sign. */
static int32_t quotient(const ep_binary *p, int32_t x, int32_t y) {
  if (y < 0) x = -x, y = -y;
  if (y == 0) return x < 0 ? p->out_min : p->out_max;
  const int32_t zeros = leading_zeros((uint32_t)y);
  const int32_t inverse = ep_reciprocal_of_one_plus((int32_t)(((uint32_t)y << zeros) & 0x7fffffffu));
  const int32_t headroom = x > 0 ? leading_zeros((uint32_t)x) - 1 : x < 0 ? leading_zeros((uint32_t)(-2 * x - 1)) : 31;
  const int32_t product = ep_multiply_high((int32_t)((uint32_t)x << headroom), inverse);
  return clamped(p, p->out_zero + ep_rescale(product, p->out_multiplier, p->out_shift - (31 - zeros) - headroom));
}

static int32_t square_of_difference(const ep_binary *p, int32_t x, int32_t y) {
  const int32_t first = ep_rescale((x - p->a_zero) * (1 << 7), p->a_multiplier, p->a_shift);
  const int32_t second = ep_rescale((y - p->b_zero) * (1 << 7), p->b_multiplier, p->b_shift);
  const int32_t difference = first - second;
  return clamped(p, ep_rescale(difference * difference, p->out_multiplier, p->out_shift) + p->out_zero);
}

static int32_t sum_16(const ep_binary *p, int32_t x, int32_t y, int32_t sign) {
  const int32_t first = ep_rescale(x * (1 << EP_LEFT_SHIFT_16), p->a_multiplier, p->a_shift);
  const int32_t second = ep_rescale(y * (1 << EP_LEFT_SHIFT_16), p->b_multiplier, p->b_shift);
  return clamped(p, ep_rescale(first + sign * second, p->out_multiplier, p->out_shift));
}

/* Where the scale of the output is finer than that of the product, large products leave 32 bits in TFLite Micro, too. */
static int32_t product_16(const ep_binary *p, int32_t x) {
  if (p->out_shift <= 0) return ep_rescale(x, p->out_multiplier, p->out_shift);
  return ep_multiply_high((int32_t)((uint32_t)x << p->out_shift), p->out_multiplier);
}

EP_ROW(maximum_row, int8_t, int8_t, int8_t, x > y ? x : y)
EP_ROW(minimum_row, int8_t, int8_t, int8_t, x < y ? x : y)
EP_ROW(prelu_row, int8_t, int8_t, int8_t, sloped(p, x - p->a_zero, y - p->b_zero))
EP_ROW(div_row, int8_t, int8_t, int8_t, quotient(p, x - p->a_zero, y - p->b_zero))
EP_ROW(squared_row, int8_t, int8_t, int8_t, square_of_difference(p, x, y))
EP_ROW(add_row_16, int16_t, int16_t, int16_t, sum_16(p, x, y, 1))
EP_ROW(sub_row_16, int16_t, int16_t, int16_t, sum_16(p, x, y, -1))
EP_ROW(mul_row_16, int16_t, int16_t, int16_t, clamped(p, product_16(p, x * y)))
EP_ROW(maximum_row_16, int16_t, int16_t, int16_t, x > y ? x : y)
EP_ROW(add_row_32, int32_t, int32_t, int32_t, (uint32_t)x + (uint32_t)y)
EP_ROW(prelu_row_16, int16_t, int8_t, int16_t, sloped(p, x, y - p->b_zero))
EP_ROW(minimum_row_16, int16_t, int16_t, int16_t, x < y ? x : y)

void ep_maximum(const ep_binary *p, const int8_t *a, const int8_t *b, int8_t *out) {
  ep_for_each_row(p, a, 1, b, 1, maximum_row, out);
}

void ep_minimum(const ep_binary *p, const int8_t *a, const int8_t *b, int8_t *out) {
  ep_for_each_row(p, a, 1, b, 1, minimum_row, out);
}

void ep_prelu(const ep_binary *p, const int8_t *in, const int8_t *slopes, int8_t *out) {
  ep_for_each_row(p, in, 1, slopes, 1, prelu_row, out);
}

void ep_div(const ep_binary *p, const int8_t *a, const int8_t *b, int8_t *out) { ep_for_each_row(p, a, 1, b, 1, div_row, out); }

void ep_squared_difference(const ep_binary *p, const int8_t *a, const int8_t *b, int8_t *out) {
  ep_for_each_row(p, a, 1, b, 1, squared_row, out);
}

void ep_add_16(const ep_binary *p, const int16_t *a, const int16_t *b, int16_t *out) {
  ep_for_each_row(p, a, 2, b, 2, add_row_16, out);
}

void ep_sub_16(const ep_binary *p, const int16_t *a, const int16_t *b, int16_t *out) {
  ep_for_each_row(p, a, 2, b, 2, sub_row_16, out);
}

void ep_mul_16(const ep_binary *p, const int16_t *a, const int16_t *b, int16_t *out) {
  ep_for_each_row(p, a, 2, b, 2, mul_row_16, out);
}

void ep_prelu_16(const ep_binary *p, const int16_t *in, const int8_t *slopes, int16_t *out) {
  ep_for_each_row(p, in, 2, slopes, 1, prelu_row_16, out);
}

void ep_maximum_16(const ep_binary *p, const int16_t *a, const int16_t *b, int16_t *out) {
  ep_for_each_row(p, a, 2, b, 2, maximum_row_16, out);
}

void ep_minimum_16(const ep_binary *p, const int16_t *a, const int16_t *b, int16_t *out) {
  ep_for_each_row(p, a, 2, b, 2, minimum_row_16, out);
}

void ep_add_32(const ep_binary *p, const int32_t *a, const int32_t *b, int32_t *out) {
  ep_for_each_row(p, a, 4, b, 4, add_row_32, out);
}
