/* SPDX-License-Identifier: Apache-2.0 */
/* Reductions: extremes and where they lie, means and sums of int16. */
#include "ep_arithmetic.h"
#include "ep_operators.h"

/* Offset of the value that has the number `n` in a walk over sizes, the last dimension first. */
static int32_t offset_of(const int32_t *size, const int32_t *stride, int32_t n) {
  int32_t offset = 0;
  for (int32_t d = EP_DIMS - 1; d >= 0; n /= size[d], --d) offset += n % size[d] * stride[d];
  return offset;
}

static int32_t product_of(const int32_t *size) {
  int32_t product = 1;
  for (int32_t d = 0; d < EP_DIMS; ++d) product *= size[d];
  return product;
}

static void extreme_over(const ep_mean *p, const int8_t *in, int32_t sign, int8_t *out) {
  const int32_t outputs = product_of(p->size), count = product_of(p->over);
  for (int32_t i = 0; i < outputs; ++i) {
    const int8_t *first = in + offset_of(p->size, p->stride, i);
    int32_t extreme = -128;
    for (int32_t j = 0; j < count; ++j) {
      const int32_t value = sign > 0 ? first[offset_of(p->over, p->over_stride, j)]
                                     : ~first[offset_of(p->over, p->over_stride, j)];
      if (value > extreme) extreme = value;
    }
    out[i] = (int8_t)(sign > 0 ? extreme : ~extreme);
  }
}

void ep_reduce_max(const ep_mean *p, const int8_t *in, int8_t *out) { extreme_over(p, in, 1, out); }

void ep_reduce_min(const ep_mean *p, const int8_t *in, int8_t *out) { extreme_over(p, in, -1, out); }

void ep_mean_over_16(const ep_mean *p, const int16_t *in, int16_t *out) {
  const int32_t outputs = product_of(p->size), count = product_of(p->over);
  for (int32_t i = 0; i < outputs; ++i) {
    const int16_t *first = in + offset_of(p->size, p->stride, i);
    int32_t sum = 0;
    for (int32_t j = 0; j < count; ++j) sum += first[offset_of(p->over, p->over_stride, j)];
    out[i] = (int16_t)ep_clamp(ep_rescale(sum, p->multiplier, p->shift), -32768, 32767);
  }
}

void ep_arg_extreme(const ep_arg *p, const int8_t *in, int32_t *out) {
  for (int32_t outer = 0; outer < p->outer; ++outer, in += p->count * p->inner)
    for (int32_t inner = 0; inner < p->inner; ++inner) {
      int32_t best = 0;
      for (int32_t i = 1; i < p->count; ++i)
        if (p->sign * in[i * p->inner + inner] > p->sign * in[best * p->inner + inner]) best = i;
      *out++ = best;
    }
}
