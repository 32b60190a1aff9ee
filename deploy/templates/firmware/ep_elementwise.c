/* Sums, differences, products, tables, and the way between float and int8. */
#include <math.h>

#include "ep_arithmetic.h"

/* The operands of ADD and SUB get 20 more bits, so that rescaling them loses nothing that counts. */
#define EP_LEFT_SHIFT 20

static inline int8_t sum_of(const ep_binary *p, int32_t a, int32_t b, int32_t sign) {
  const int32_t first = ep_rescale((a - p->a_zero) * (1 << EP_LEFT_SHIFT), p->a_multiplier, p->a_shift);
  const int32_t second = ep_rescale((b - p->b_zero) * (1 << EP_LEFT_SHIFT), p->b_multiplier, p->b_shift);
  const int32_t sum = ep_rescale(first + sign * second, p->out_multiplier, p->out_shift) + p->out_zero;
  return (int8_t)ep_clamp(sum, p->out_min, p->out_max);
}

static inline int8_t product_of(const ep_binary *p, int32_t a, int32_t b) {
  const int32_t product = (a - p->a_zero) * (b - p->b_zero);
  const int32_t value = ep_rescale(product, p->out_multiplier, p->out_shift) + p->out_zero;
  return (int8_t)ep_clamp(value, p->out_min, p->out_max);
}

/* Walk over all outputs; EXPRESSION is of p, *u and *v. */
#define EP_WALK(EXPRESSION)                                                                        \
  for (int32_t i = 0; i < p->size[0]; ++i)                                                         \
    for (int32_t j = 0; j < p->size[1]; ++j)                                                       \
      for (int32_t k = 0; k < p->size[2]; ++k)                                                     \
        for (int32_t l = 0; l < p->size[3]; ++l) {                                                 \
          const int8_t *u = a + i * p->a_stride[0] + j * p->a_stride[1] + k * p->a_stride[2] + l * p->a_stride[3]; \
          const int8_t *v = b + i * p->b_stride[0] + j * p->b_stride[1] + k * p->b_stride[2] + l * p->b_stride[3]; \
          for (int32_t m = 0; m < p->size[4]; ++m, u += p->a_stride[4], v += p->b_stride[4]) *out++ = EXPRESSION;  \
        }

void ep_add(const ep_binary *p, const int8_t *a, const int8_t *b, int8_t *out) { EP_WALK(sum_of(p, *u, *v, 1)) }

void ep_sub(const ep_binary *p, const int8_t *a, const int8_t *b, int8_t *out) { EP_WALK(sum_of(p, *u, *v, -1)) }

void ep_mul(const ep_binary *p, const int8_t *a, const int8_t *b, int8_t *out) { EP_WALK(product_of(p, *u, *v)) }

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
