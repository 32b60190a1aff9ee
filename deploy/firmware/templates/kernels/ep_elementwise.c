/* SPDX-License-Identifier: Apache-2.0 */
/* Sums, differences, products, tables, and the way between float and int8. */
#include <math.h>

#include "ep_arithmetic.h"

/* The operands of ADD and SUB get 20 more bits, so that rescaling them loses nothing that counts. */
#define EP_LEFT_SHIFT 20

#if EP_MVE
#include <arm_mve.h>
/* An operand with 20 more bits on the common scale; a shift of 0 does not round. */
static inline int32x4_t rescaled(int32x4_t value, int32_t multiplier, int32_t shift) {
  value = vqrdmulhq_n_s32(value, multiplier);
  if (shift == 0) return value;
  return vrshlq_n_s32(vaddq_s32(value, vshrq_n_s32(value, 31)), shift);
}

static inline void sum_of_vectors(const ep_binary *p, const int8_t *a, const int8_t *b, int32_t sign, int8_t *out) {
  for (int32_t n = p->size[EP_DIMS - 1]; n > 0; n -= 4, a += 4, b += 4, out += 4) {
    const mve_pred16_t some = vctp32q((uint32_t)n);
    const int32x4_t first = vshlq_n_s32(vsubq_n_s32(vldrbq_z_s32(a, some), p->a_zero), EP_LEFT_SHIFT);
    const int32x4_t second = vshlq_n_s32(vsubq_n_s32(vldrbq_z_s32(b, some), p->b_zero), EP_LEFT_SHIFT);
    const int32x4_t x = rescaled(first, p->a_multiplier, p->a_shift), z = rescaled(second, p->b_multiplier, p->b_shift);
    const int32x4_t sum = rescaled(sign > 0 ? vaddq_s32(x, z) : vsubq_s32(x, z), p->out_multiplier, p->out_shift);
    const int32x4_t value = vmaxq_s32(vaddq_n_s32(sum, p->out_zero), vdupq_n_s32(p->out_min));
    vstrbq_p_s32(out, vminq_s32(value, vdupq_n_s32(p->out_max)), some);
  }
}
#endif

#if EP_MVE
/* As sum_of_exact below, of neighbours: halving an operand with 20 more bits is a multiplication by 2^19. */
static inline void sum_of_exact_vectors(const ep_binary *p, const int8_t *a, int32_t a_zero, const int8_t *b, int32_t b_zero,
                                        int32_t multiplier, int32_t shift, int8_t *out) {
  const int32_t a_zeros = -a_zero * (1 << (EP_LEFT_SHIFT - 1)), b_zeros = -b_zero * (1 << EP_LEFT_SHIFT);
  const int32_t out_multiplier = p->out_multiplier, out_shift = p->out_shift, zero = p->out_zero;
  const int32x4_t a_unit = vdupq_n_s32(1 << (EP_LEFT_SHIFT - 1)), b_unit = vdupq_n_s32(1 << EP_LEFT_SHIFT);
  const int32x4_t low = vdupq_n_s32(p->out_min), high = vdupq_n_s32(p->out_max);
  int32_t left = p->size[EP_DIMS - 1];
#define EP_SUM_OF_FOUR(first, second, store)                                                                   \
  const int32x4_t x = vmlasq_n_s32(first, a_unit, a_zeros);                                                    \
  const int32x4_t z = vqrdmulhq_n_s32(vmlasq_n_s32(second, b_unit, b_zeros), multiplier);                      \
  const int32x4_t sum = vaddq_s32(x, vrshlq_n_s32(vaddq_s32(z, vshrq_n_s32(z, 31)), shift));                   \
  const int32x4_t scaled = vqrdmulhq_n_s32(sum, out_multiplier);                                               \
  const int32x4_t value = vaddq_n_s32(vrshlq_n_s32(vaddq_s32(scaled, vshrq_n_s32(scaled, 31)), out_shift), zero); \
  store(vminq_s32(vmaxq_s32(value, low), high))
#define EP_STORE(four) vstrbq_s32(out, four)
#define EP_STORE_SOME(four) vstrbq_p_s32(out, four, some)
  for (; left >= 4; left -= 4, a += 4, b += 4, out += 4) {
    EP_SUM_OF_FOUR(vldrbq_s32(a), vldrbq_s32(b), EP_STORE);
  }
  if (left > 0) {
    const mve_pred16_t some = vctp32q((uint32_t)left);
    EP_SUM_OF_FOUR(vldrbq_z_s32(a, some), vldrbq_z_s32(b, some), EP_STORE_SOME);
  }
}
#endif

#if EP_FAST
/* a / 2 and a rescaled b with 20 more bits, rescaled again. Everything is doubled for SMMULR. */
static inline void sum_of_exact(const ep_binary *p, const int8_t *a, int32_t a_step, int32_t a_zero, const int8_t *b,
                                int32_t b_step, int32_t b_zero, int32_t multiplier, int32_t right, int8_t *out) {
  const int32_t half = 1 << (right - 1), b_zeros = b_zero * (1 << (EP_LEFT_SHIFT + 1)), a_zeros = a_zero * (1 << EP_LEFT_SHIFT);
  const int32_t out_multiplier = p->out_multiplier, out_right = -p->out_shift, low = p->out_min, high = p->out_max;
  const int32_t out_half = (1 << (out_right - 1)) + p->out_zero * (1 << out_right);
  const int8_t *end = out + p->size[EP_DIMS - 1];
#define EP_SUM(stepped_a, stepped_b, clamped)                                                     \
  while (out != end) {                                                                            \
    const int32_t second = ep_smmulr(*b * (1 << (EP_LEFT_SHIFT + 1)) - b_zeros, multiplier);      \
    const int32_t rounded = (second + (second >> 31) + half) >> right;                            \
    const int32_t sum = ep_smmulr(*a * (1 << EP_LEFT_SHIFT) - a_zeros + 2 * rounded, out_multiplier); \
    const int32_t value = (sum + (sum >> 31) + out_half) >> out_right;                            \
    *out++ = (int8_t)clamped;                                                                     \
    stepped_a, stepped_b;                                                                         \
  }
  if (high - low == 255 && a_step == 1 && b_step == 1) {
    EP_SUM(++a, ++b, ep_saturate(value))
  } else {
    EP_SUM(a += a_step, b += b_step, ep_clamp(value, low, high))
  }
}
#endif

/* `sign` is 1 for sums and -1 for differences. */
static inline void sum_row(const ep_binary *p, const int8_t *a, const int8_t *b, int32_t sign, int8_t *out) {
  const int32_t a_step = p->a_stride[EP_DIMS - 1], b_step = p->b_stride[EP_DIMS - 1];
  int32_t n = p->size[EP_DIMS - 1];
#if EP_FAST
  /* The operand with the larger scale is halved, exactly: it needs no multiplication. */
  const int32_t half_of_one = 1 << 30;
  const int exact_a = p->a_shift == 0 && p->a_multiplier == half_of_one, exact_b = p->b_shift == 0 && p->b_multiplier == half_of_one;
  const int b_rounds = p->b_shift < 0, a_rounds = p->a_shift < 0, out_fits = p->out_shift < 0 && p->out_shift >= -22;
#if EP_MVE
  if (a_step == 1 && b_step == 1) {
    if (sign > 0 && p->out_shift < 0 && exact_a && b_rounds)
      sum_of_exact_vectors(p, a, p->a_zero, b, p->b_zero, p->b_multiplier, p->b_shift, out);
    else if (sign > 0 && p->out_shift < 0 && exact_b && a_rounds)
      sum_of_exact_vectors(p, b, p->b_zero, a, p->a_zero, p->a_multiplier, p->a_shift, out);
    else
      sum_of_vectors(p, a, b, sign, out);
    return;
  }
#endif
  if (sign > 0 && out_fits && exact_a && b_rounds) {
    sum_of_exact(p, a, a_step, p->a_zero, b, b_step, p->b_zero, p->b_multiplier, -p->b_shift, out);
    return;
  }
  if (sign > 0 && out_fits && exact_b && a_rounds) {
    sum_of_exact(p, b, b_step, p->b_zero, a, a_step, p->a_zero, p->a_multiplier, -p->a_shift, out);
    return;
  }
  /* As ep_rescale_right, with a second form for shifts of 0, which do not round. */
  const int32_t right_a = -p->a_shift, half_a = right_a ? 1 << (right_a - 1) : 0, down_a = right_a ? -1 : 0;
  const int32_t right_b = -p->b_shift, half_b = right_b ? 1 << (right_b - 1) : 0, down_b = right_b ? -1 : 0;
  const int32_t right = -p->out_shift, half = right ? 1 << (right - 1) : 0, down = right ? -1 : 0;
  const int32_t a_zero = p->a_zero, b_zero = p->b_zero, a_multiplier = p->a_multiplier;
  const int32_t b_multiplier = p->b_multiplier, multiplier = p->out_multiplier;
  for (; n > 0; --n, a += a_step, b += b_step) {
    int32_t first = ep_smmulr((*a - a_zero) * (1 << (EP_LEFT_SHIFT + 1)), a_multiplier);
    int32_t second = ep_smmulr((*b - b_zero) * (1 << (EP_LEFT_SHIFT + 1)), b_multiplier);
    first = (first + (first >> 31 & down_a) + half_a) >> right_a;
    second = (second + (second >> 31 & down_b) + half_b) >> right_b;
    const int32_t sum = ep_smmulr((first + sign * second) * 2, multiplier);
    *out++ = (int8_t)ep_clamp(((sum + (sum >> 31 & down) + half) >> right) + p->out_zero, p->out_min, p->out_max);
  }
#else
  for (; n > 0; --n, a += a_step, b += b_step) {
    const int32_t first = ep_rescale((*a - p->a_zero) * (1 << EP_LEFT_SHIFT), p->a_multiplier, p->a_shift);
    const int32_t second = ep_rescale((*b - p->b_zero) * (1 << EP_LEFT_SHIFT), p->b_multiplier, p->b_shift);
    const int32_t sum = ep_rescale(first + sign * second, p->out_multiplier, p->out_shift) + p->out_zero;
    *out++ = (int8_t)ep_clamp(sum, p->out_min, p->out_max);
  }
#endif
}

static void add_row(const ep_binary *p, const void *a, const void *b, void *out) { sum_row(p, a, b, 1, out); }

static void sub_row(const ep_binary *p, const void *a, const void *b, void *out) { sum_row(p, a, b, -1, out); }

#if EP_MVE
static inline void product_of_vectors(const ep_binary *p, const int8_t *a, const int8_t *b, int8_t *out) {
  const int32_t a_zero = p->a_zero, b_zero = p->b_zero, multiplier = p->out_multiplier, shift = p->out_shift, zero = p->out_zero;
  const int32x4_t low = vdupq_n_s32(p->out_min), high = vdupq_n_s32(p->out_max);
  for (int32_t n = p->size[EP_DIMS - 1]; n > 0; n -= 4, a += 4, b += 4, out += 4) {
    const mve_pred16_t some = vctp32q((uint32_t)n);
    const int32x4_t x = vsubq_n_s32(vldrbq_z_s32(a, some), a_zero), z = vsubq_n_s32(vldrbq_z_s32(b, some), b_zero);
    const int32x4_t scaled = vqrdmulhq_n_s32(vmulq_s32(x, z), multiplier);
    const int32x4_t value = vaddq_n_s32(vrshlq_n_s32(vaddq_s32(scaled, vshrq_n_s32(scaled, 31)), shift), zero);
    vstrbq_p_s32(out, vminq_s32(vmaxq_s32(value, low), high), some);
  }
}
#endif

static void mul_row(const ep_binary *p, const void *first, const void *second, void *to) {
  const int8_t *a = first, *b = second;
  int8_t *out = to;
  const int32_t a_step = p->a_stride[EP_DIMS - 1], b_step = p->b_stride[EP_DIMS - 1];
  int32_t n = p->size[EP_DIMS - 1];
#if EP_MVE
  if (a_step == 1 && b_step == 1 && p->out_shift < 0) {
    product_of_vectors(p, a, b, out);
    return;
  }
#endif
#if EP_FAST
  if (p->out_shift < 0 && p->out_shift >= -22) {
    const int32_t right = -p->out_shift, half = (1 << (right - 1)) + p->out_zero * (1 << right);
    const int32_t a_zero = p->a_zero, b_zero = p->b_zero, multiplier = p->out_multiplier, low = p->out_min, high = p->out_max;
#define EP_PRODUCTS(clamped)                                                                                \
  for (; n > 0; --n, a += a_step, b += b_step) {                                                           \
    const int32_t value = ep_rescale_right((*a - a_zero) * (*b - b_zero), multiplier, right, half);        \
    *out++ = (int8_t)clamped;                                                                              \
  }
    if (high - low == 255) {
      EP_PRODUCTS(ep_saturate(value))
    } else {
      EP_PRODUCTS(ep_clamp(value, low, high))
    }
    return;
  }
#endif
  for (; n > 0; --n, a += a_step, b += b_step) {
    const int32_t product = (*a - p->a_zero) * (*b - p->b_zero);
    const int32_t value = ep_rescale(product, p->out_multiplier, p->out_shift) + p->out_zero;
    *out++ = (int8_t)ep_clamp(value, p->out_min, p->out_max);
  }
}

/* The four outer dimensions are counted up like an odometer. */
void ep_for_each_row(const ep_binary *p, const void *a, int32_t a_bytes, const void *b, int32_t b_bytes, ep_row *row, void *out) {
  int32_t at[EP_DIMS - 1] = {0};
  const int8_t *first = a, *second = b;
  int8_t *to = out;
  for (;;) {
    row(p, first, second, to);
    to += p->size[EP_DIMS - 1] * a_bytes;
    int32_t d = EP_DIMS - 2;
    for (;; --d) {
      if (d < 0) return;
      first += p->a_stride[d] * a_bytes, second += p->b_stride[d] * b_bytes;
      if (++at[d] < p->size[d]) break;
      first -= p->a_stride[d] * a_bytes * at[d], second -= p->b_stride[d] * b_bytes * at[d];
      at[d] = 0;
    }
  }
}

void ep_add(const ep_binary *p, const int8_t *a, const int8_t *b, int8_t *out) {
  ep_for_each_row(p, a, 1, b, 1, add_row, out);
}

void ep_sub(const ep_binary *p, const int8_t *a, const int8_t *b, int8_t *out) {
  ep_for_each_row(p, a, 1, b, 1, sub_row, out);
}

void ep_mul(const ep_binary *p, const int8_t *a, const int8_t *b, int8_t *out) {
  ep_for_each_row(p, a, 1, b, 1, mul_row, out);
}

void ep_lookup(const int8_t table[256], int32_t count, const int8_t *in, int8_t *out) {
  for (int32_t i = 0; i < count; ++i) out[i] = table[in[i] + 128];
}

void ep_quantize(float scale, int32_t zero, int32_t count, const float *in, int8_t *out) {
  for (int32_t i = 0; i < count; ++i) {
    const float steps = roundf(in[i] / scale); /* compared as float: the conversion of large ones is not defined */
    const int32_t whole = steps >= 1e6f ? 1000000 : steps > -1e6f ? (int32_t)steps : -1000000;
    out[i] = (int8_t)ep_clamp(whole + zero, -128, 127);
  }
}

void ep_dequantize(float scale, int32_t zero, int32_t count, const int8_t *in, float *out) {
  for (int32_t i = 0; i < count; ++i) out[i] = scale * (float)(in[i] - zero);
}
