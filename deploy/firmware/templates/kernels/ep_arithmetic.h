/* SPDX-License-Identifier: Apache-2.0 */
/* The fixed-point arithmetic that all kernels share. */
#ifndef EP_ARITHMETIC_H_
#define EP_ARITHMETIC_H_

#include "ep_kernels.h"

#include <string.h>

/* round(a * b / 2^31), ties towards plus infinity. The multipliers here are never INT32_MIN, so nothing saturates. */
static inline int32_t ep_multiply_high(int32_t a, int32_t b) {
  return (int32_t)(((int64_t)a * b + (1 << 30)) >> 31);
}

/* round(x / 2^exponent), ties away from zero; exponent from 0 to 31. */
static inline int32_t ep_divide_by_power(int32_t x, int32_t exponent) {
  const int32_t mask = (int32_t)((1ull << exponent) - 1);
  const int32_t threshold = (mask >> 1) + (x < 0 ? 1 : 0);
  return (x >> exponent) + ((x & mask) > threshold ? 1 : 0);
}

/* x * multiplier / 2^31 * 2^shift, rounded twice as TFLite Micro does. */
static inline int32_t ep_rescale(int32_t x, int32_t multiplier, int32_t shift) {
  if (shift > 0) return ep_multiply_high(x * (1 << shift), multiplier);
  return ep_divide_by_power(ep_multiply_high(x, multiplier), -shift);
}

static inline int32_t ep_clamp(int32_t x, int32_t low, int32_t high) {
  return x < low ? low : x > high ? high : x;
}

/* (1 / (1 + x)) for x in [0, 1], 31 fractional bits each. */
int32_t ep_reciprocal_of_one_plus(int32_t x);

/* Work on one row of outputs; how many and how far apart the operands are is the innermost dimension of the structure. */
typedef void ep_row(const ep_binary *p, const void *a, const void *b, void *out);

/* Call a kernel for every row; an element of the first operand and of the output has `a_bytes`, of the second `b_bytes`. */
void ep_for_each_row(const ep_binary *p, const void *a, int32_t a_bytes, const void *b, int32_t b_bytes, ep_row *row,
                     void *out);

/* How the sums of one output channel of a convolution become int8. */
typedef struct {
  int32_t multiplier, shift;
} ep_factor;

static inline ep_factor ep_factor_of(const ep_conv *layer, int32_t channel) {
  const uint32_t word = layer->multipliers[layer->paired ? 2 * channel : channel];
  ep_factor factor = {(int32_t)((word & 0x3fffffffu) | 0x40000000u), layer->largest_shift - (int32_t)(word >> 30)};
  if (layer->paired) factor.shift = -(int32_t)layer->multipliers[2 * channel + 1];
  return factor;
}

#if EP_FAST

#if defined(__GNUC__)
#define EP_OUT_OF_LINE static __attribute__((noinline))
#else
#define EP_OUT_OF_LINE static
#endif

#if EP_DSP && defined(__ARM_FEATURE_DSP)
#define EP_ASM1(name, instruction)                                \
  static inline int32_t name(int32_t x) {                         \
    int32_t y;                                                    \
    __asm__(instruction : "=r"(y) : "r"(x));                      \
    return y;                                                     \
  }
#define EP_ASM2(name, instruction)                                \
  static inline int32_t name(int32_t a, int32_t b) {              \
    int32_t y;                                                    \
    __asm__(instruction " %0, %1, %2" : "=r"(y) : "r"(a), "r"(b)); \
    return y;                                                     \
  }
#define EP_ASM3(name, instruction)                                                       \
  static inline int32_t name(int32_t a, int32_t b, int32_t sum) {                        \
    __asm__(instruction " %0, %1, %2, %0" : "+r"(sum) : "r"(a), "r"(b));                 \
    return sum;                                                                          \
  }
EP_ASM1(ep_even_bytes, "sxtb16 %0, %1")        /* bytes 0 and 2 as two int16 */
EP_ASM1(ep_odd_bytes, "sxtb16 %0, %1, ror #8") /* bytes 1 and 3 */
EP_ASM2(ep_smmulr, "smmulr")                   /* (a * b + 2^31) >> 32 */
static inline int32_t ep_largest4(int32_t a, int32_t b) { /* the larger of each byte */
  int32_t r;
  __asm__("ssub8 %0, %1, %2\n sel %0, %1, %2" : "=&r"(r) : "r"(a), "r"(b) : "cc");
  return r;
}
EP_ASM3(ep_smlad, "smlad")                     /* sum + both products of the int16 */
EP_ASM3(ep_smlabb, "smlabb")                   /* sum + the product of the lower int16 */
EP_ASM3(ep_smlatb, "smlatb")                   /* sum + the upper int16 of a times the lower of b */

static inline int32_t ep_saturate(int32_t x) { /* to [-128, 127] */
  __asm__("ssat %0, #8, %0" : "+r"(x));
  return x;
}
#else /* the same operations in plain C: for cores without these instructions, and for tests on any machine */
static inline int32_t ep_low(int32_t x) { return (int16_t)(x & 0xffff); }
static inline int32_t ep_high(int32_t x) { return x >> 16; }
static inline int32_t ep_halves(int32_t low, int32_t high) {
  return (int32_t)(((uint32_t)high << 16) | ((uint32_t)low & 0xffffu));
}
static inline int32_t ep_even_bytes(int32_t x) { return ep_halves((int8_t)(x & 0xff), (int8_t)((x >> 16) & 0xff)); }
static inline int32_t ep_odd_bytes(int32_t x) { return ep_halves((int8_t)((x >> 8) & 0xff), (int8_t)((x >> 24) & 0xff)); }
static inline int32_t ep_largest4(int32_t a, int32_t b) {
  int32_t r = 0;
  for (int32_t i = 0; i < 32; i += 8) {
    const int32_t x = (int8_t)(a >> i & 0xff), y = (int8_t)(b >> i & 0xff);
    r |= (int32_t)((uint32_t)((x > y ? x : y) & 0xff) << i);
  }
  return r;
}
static inline int32_t ep_smmulr(int32_t a, int32_t b) { return (int32_t)(((int64_t)a * b + (1ll << 31)) >> 32); }
static inline int32_t ep_smlad(int32_t a, int32_t b, int32_t sum) {
  return sum + ep_low(a) * ep_low(b) + ep_high(a) * ep_high(b);
}
static inline int32_t ep_smlabb(int32_t a, int32_t b, int32_t sum) { return sum + ep_low(a) * ep_low(b); }
static inline int32_t ep_smlatb(int32_t a, int32_t b, int32_t sum) { return sum + ep_high(a) * ep_low(b); }
static inline int32_t ep_saturate(int32_t x) { return ep_clamp(x, -128, 127); }
#endif

static inline int32_t ep_load4(const int8_t *p) { /* four bytes, at any address; the order in memory is little-endian */
  int32_t x;
  memcpy(&x, p, 4);
  return x;
}

static inline void ep_store4(int8_t *p, int32_t x) { memcpy(p, &x, 4); }

/* ep_rescale for right shifts and |x| < 2^30, plus what `half` holds beyond 2^(right - 1). Doubling x first makes the 32
 * bits that SMMULR drops the 31 that are wanted. Rounding ties away from zero is adding half, less one for negative
 * numbers, before an arithmetic shift. */
static inline int32_t ep_rescale_right(int32_t x, int32_t multiplier, int32_t right, int32_t half) {
  const int32_t high = ep_smmulr(x * 2, multiplier);
  return (high + (high >> 31) + half) >> right;
}

/* What turns the sums of one channel into int8, for layers whose shifts go to the right. */
typedef struct {
  int32_t multiplier, right, half, low, high;
} ep_stage;

static inline ep_stage ep_stage_of(const ep_conv *p, int32_t channel) {
  const ep_factor factor = ep_factor_of(p, channel);
  const int32_t right = -factor.shift;
  const ep_stage stage = {factor.multiplier, right, (1 << (right - 1)) + p->out_zero * (1 << right), p->out_min, p->out_max};
  return stage;
}

/* `wide` says that nothing is clamped but to the range of int8. */
static inline int8_t ep_staged(const ep_stage *s, int wide, int32_t sum) {
  const int32_t value = ep_rescale_right(sum, s->multiplier, s->right, s->half);
  return (int8_t)(wide ? ep_saturate(value) : ep_clamp(value, s->low, s->high));
}

/* The inputs of one output position, in the order of the weights, some of which may lie outside of the image: their row is
 * `top`, their column `left`. `copy(to, from, n)` and `fill(to, value, n)` give where to go on; n counts units of channels.
 * Without groups and dilation the columns of one row lie side by side. */
#define EP_GATHER(p, in, top, left, to, unit, copy, fill)                                                             \
  const int whole = (p)->group_c == (p)->in_c && (p)->dilation_w == 1 && left >= 0 && left + (p)->kernel_w <= (p)->in_w; \
  const int32_t units = (p)->group_c / (unit);                                                                        \
  for (int32_t ky = 0, row = top; ky < (p)->kernel_h; ++ky, row += (p)->dilation_h) {                                 \
    const int8_t *start = in + row * (p)->in_w * (p)->in_c;                                                           \
    if (row < 0 || row >= (p)->in_h) {                                                                                \
      to = fill(to, (p)->in_zero, (p)->kernel_w * units);                                                             \
    } else if (whole) {                                                                                               \
      to = copy(to, start + left * (p)->in_c, (p)->kernel_w * units);                                                 \
    } else {                                                                                                          \
      for (int32_t kx = 0, column = left; kx < (p)->kernel_w; ++kx, column += (p)->dilation_w) {                      \
        const int inside = column >= 0 && column < (p)->in_w;                                                         \
        to = inside ? copy(to, start + column * (p)->in_c, units) : fill(to, (p)->in_zero, units);                    \
      }                                                                                                               \
    }                                                                                                                 \
  }

/* Where a band of output rows of a depthwise convolution has its image in a plane. */
typedef struct {
  int32_t width, rows;        /* of the plane */
  int32_t first, copied;      /* columns of the plane that hold the image */
  int32_t image_row, top;     /* first row of the image, and where in the plane it lies */
  int32_t image_rows;
} ep_area;

static inline ep_area ep_area_of(const ep_conv *p, int32_t y, int32_t rows) {
  const int32_t padded = (p->kernel_w + 3) / 4 * 4, start = y * p->stride_h - p->pad_top;
  ep_area a = {(p->out_w - 1) * p->stride_w + padded, (rows - 1) * p->stride_h + p->kernel_h, p->pad_left, p->in_w, start, 0, 0};
  if (a.copied > a.width - a.first) a.copied = a.width - a.first;
  if (start < 0) a.top = -start, a.image_row = 0;
  a.image_rows = a.rows - a.top;
  if (a.image_rows > p->in_h - a.image_row) a.image_rows = p->in_h - a.image_row;
  return a;
}

static inline int ep_is_wide(const ep_conv *p) { return p->out_max - p->out_min == 255; }

#endif /* EP_FAST */
#endif
