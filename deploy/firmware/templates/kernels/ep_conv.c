/* SPDX-License-Identifier: Apache-2.0 */
/* Convolutions, plain C. A position outside of the image holds the input's zero point, whose product with the weights
 * is in the bias already. */
#include "ep_arithmetic.h"

static inline int8_t finish(const ep_conv *p, int32_t channel, int32_t sum) {
  const ep_factor factor = ep_factor_of(p, channel);
  const int32_t value = ep_rescale(sum, factor.multiplier, factor.shift) + p->out_zero;
  return (int8_t)ep_clamp(value, p->out_min, p->out_max);
}

/* Where the weights of an output channel start, and where its product `i` lies from there. */
typedef struct {
  const int8_t *start;
  int packed;
} channel_weights;

static inline channel_weights weights_of(const ep_conv *p, int32_t c) {
  const int32_t products = p->kernel_h * p->kernel_w * p->group_c, rounds = (products + 3) / 4;
  const int32_t group_out = p->out_c / (p->in_c / p->group_c), group = c / group_out, in_group = c % group_out;
  const channel_weights plain = {p->weights + c * products, 0};
  const channel_weights packed = {
      p->weights + (group * ((group_out + 1) / 2) + in_group / 2) * 8 * rounds + in_group % 2 * 4, 1};
  return p->packed ? packed : plain;
}

static inline int32_t weight_at(channel_weights w, int32_t i) { return w.start[w.packed ? i / 4 * 8 + i % 4 : i]; }

static void one_image(const ep_conv *p, const int8_t *in, int8_t *out) {
  const int32_t group_out = p->out_c / (p->in_c / p->group_c);
  for (int32_t y = 0; y < p->out_h; ++y) {
    for (int32_t x = 0; x < p->out_w; ++x) {
      for (int32_t c = 0; c < p->out_c; ++c) {
        const channel_weights weights = weights_of(p, c);
        const int32_t first = c / group_out * p->group_c;
        int32_t sum = p->bias[c], product = 0;
        for (int32_t ky = 0; ky < p->kernel_h; ++ky) {
          const int32_t row = y * p->stride_h - p->pad_top + ky * p->dilation_h;
          for (int32_t kx = 0; kx < p->kernel_w; ++kx) {
            const int32_t column = x * p->stride_w - p->pad_left + kx * p->dilation_w;
            const int inside = row >= 0 && row < p->in_h && column >= 0 && column < p->in_w;
            const int8_t *value = inside ? in + (row * p->in_w + column) * p->in_c + first : 0;
            for (int32_t i = 0; i < p->group_c; ++i, ++product)
              sum += weight_at(weights, product) * (value ? value[i] : p->in_zero);
          }
        }
        *out++ = finish(p, c, sum);
      }
    }
  }
}

static void one_image_depthwise(const ep_conv *p, const int8_t *in, int8_t *out) {
  const int32_t repeat = p->out_c / p->in_c; /* depth multiplier */
  const int32_t kernel_row = p->packed ? (p->kernel_w + 3) / 4 * 4 : p->kernel_w;
  for (int32_t y = 0; y < p->out_h; ++y) {
    for (int32_t x = 0; x < p->out_w; ++x) {
      for (int32_t c = 0; c < p->out_c; ++c) {
        const int8_t *weight = p->weights + c * p->kernel_h * kernel_row;
        int32_t sum = p->bias[c];
        for (int32_t ky = 0; ky < p->kernel_h; ++ky, weight += kernel_row) {
          const int32_t row = y * p->stride_h - p->pad_top + ky * p->dilation_h;
          for (int32_t kx = 0; kx < p->kernel_w; ++kx) {
            const int32_t column = x * p->stride_w - p->pad_left + kx * p->dilation_w;
            const int inside = row >= 0 && row < p->in_h && column >= 0 && column < p->in_w;
            sum += weight[kx] * (inside ? in[(row * p->in_w + column) * p->in_c + c / repeat] : p->in_zero);
          }
        }
        *out++ = finish(p, c, sum);
      }
    }
  }
}

void ep_conv_2d(const ep_conv *p, const int8_t *in, int8_t *out) {
  for (int32_t batch = 0; batch < p->batches; ++batch, in += p->in_h * p->in_w * p->in_c) {
    one_image(p, in, out);
    out += p->out_h * p->out_w * p->out_c;
  }
}

void ep_depthwise_conv_2d(const ep_conv *p, const int8_t *in, int8_t *out) {
  for (int32_t batch = 0; batch < p->batches; ++batch, in += p->in_h * p->in_w * p->in_c) {
    one_image_depthwise(p, in, out);
    out += p->out_h * p->out_w * p->out_c;
  }
}
