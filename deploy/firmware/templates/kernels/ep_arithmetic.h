/* The fixed-point arithmetic that all kernels share. */
#ifndef EP_ARITHMETIC_H_
#define EP_ARITHMETIC_H_

#include "ep_kernels.h"

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

/* How the sums of one output channel of a convolution become int8. */
typedef struct {
  int32_t multiplier, shift;
} ep_factor;

static inline ep_factor ep_factor_of(const ep_conv *layer, int32_t channel) {
  const uint32_t word = layer->multipliers[channel];
  ep_factor factor = {(int32_t)((word & 0x3fffffffu) | 0x40000000u), layer->largest_shift - (int32_t)(word >> 30)};
  if (layer->shifts) factor.shift = layer->shifts[channel];
  return factor;
}

#if EP_FAST

#if defined(__ARM_FEATURE_DSP)
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
EP_ASM3(ep_smlad, "smlad")                     /* sum + both products of the int16 */
EP_ASM3(ep_smlabb, "smlabb")                   /* sum + the product of the lower int16 */
EP_ASM3(ep_smlatt, "smlatt")                   /* sum + the product of the upper int16 */

static inline int32_t ep_saturate(int32_t x) { /* to [-128, 127] */
  __asm__("ssat %0, #8, %0" : "+r"(x));
  return x;
}
static inline int32_t ep_load4(const int8_t *p) { /* four bytes, at any address */
  int32_t x;
  __builtin_memcpy(&x, p, 4);
  return x;
}
static inline void ep_store4(int8_t *p, int32_t x) { __builtin_memcpy(p, &x, 4); }

#else /* the same operations in plain C, so that the fast kernels can be tested on any little-endian machine */
#include <string.h>
static inline int32_t ep_low(int32_t x) { return (int16_t)(x & 0xffff); }
static inline int32_t ep_high(int32_t x) { return x >> 16; }
static inline int32_t ep_halves(int32_t low, int32_t high) {
  return (int32_t)(((uint32_t)high << 16) | ((uint32_t)low & 0xffffu));
}
static inline int32_t ep_even_bytes(int32_t x) { return ep_halves((int8_t)(x & 0xff), (int8_t)((x >> 16) & 0xff)); }
static inline int32_t ep_odd_bytes(int32_t x) { return ep_halves((int8_t)((x >> 8) & 0xff), (int8_t)((x >> 24) & 0xff)); }
static inline int32_t ep_smmulr(int32_t a, int32_t b) { return (int32_t)(((int64_t)a * b + (1ll << 31)) >> 32); }
static inline int32_t ep_smlad(int32_t a, int32_t b, int32_t sum) {
  return sum + ep_low(a) * ep_low(b) + ep_high(a) * ep_high(b);
}
static inline int32_t ep_smlabb(int32_t a, int32_t b, int32_t sum) { return sum + ep_low(a) * ep_low(b); }
static inline int32_t ep_smlatt(int32_t a, int32_t b, int32_t sum) { return sum + ep_high(a) * ep_high(b); }
static inline int32_t ep_saturate(int32_t x) { return ep_clamp(x, -128, 127); }
static inline int32_t ep_load4(const int8_t *p) {
  int32_t x;
  memcpy(&x, p, 4);
  return x;
}
static inline void ep_store4(int8_t *p, int32_t x) { memcpy(p, &x, 4); }
#endif

/* ep_rescale for right shifts and |x| < 2^30, plus what `half` holds beyond 2^(right - 1). Doubling x first makes the 32
 * bits that SMMULR drops the 31 that are wanted. Rounding ties away from zero is adding half, less one for negative
 * numbers, before an arithmetic shift. */
static inline int32_t ep_rescale_right(int32_t x, int32_t multiplier, int32_t right, int32_t half) {
  const int32_t high = ep_smmulr(x * 2, multiplier);
  return (high + (high >> 31) + half) >> right;
}

#endif /* EP_FAST */
#endif
